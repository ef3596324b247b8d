"""Pure tensor functions that run eagerly or, inside `compiled_kernels`, through torch.compile: fused, so that memory is read once.

Decorate a function of tensors and numbers that returns tensors, has no side effect and asks the host for nothing: `@kernel`.
Its first call with `compiled_kernels` costs seconds (the compiler's cache on the disk makes the next process quick).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])
USES_COMPILED_KERNELS: ContextVar[bool] = ContextVar("USES_COMPILED_KERNELS", default=False)
LEAST_COMPILED_ROWS = 2  # a batch of one row would be compiled for that size alone


@contextmanager
def compiled_kernels(is_wanted: bool = True) -> Iterator[None]:
    """Inside this context kernels run compiled, if wanted.

    Args:
        is_wanted: false: they run as without the context.
    """
    token = USES_COMPILED_KERNELS.set(is_wanted)
    try:
        yield
    finally:
        USES_COMPILED_KERNELS.reset(token)


def kernel(function: F) -> F:
    """The function, which inside `compiled_kernels` runs compiled, once for all sizes of the first dimension of its tensors.

    Args:
        function: a pure function of tensors and numbers, given by position; at least one argument is a tensor.
    """
    fast: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        nonlocal fast
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if not USES_COMPILED_KERNELS.get() or min(len(tensor) for tensor in tensors) < LEAST_COMPILED_ROWS:
            return function(*args)
        fast = fast or torch.compile(function)
        for tensor in tensors:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return fast(*args)

    return cast("F", call)


def compile_failure() -> str:
    """Why kernels cannot be compiled here, in a sentence; empty where they can. Tries one."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of a missing CUDA, which nobody asked for
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(4))
    except Exception as error:  # whatever the compiler's tool chain lacks
        return f"torch.compile does not work here ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
    return ""
