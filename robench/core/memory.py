"""Memory of the process: what is freed is kept for the next tensor instead of being handed back to the system; what to do when it ends."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from robench.core.errors import UnfinishedError

TRIM, TOP_PAD, MMAP = -1, -2, -3  # names of settings of mallopt(3)
TRIM_THRESHOLD, MMAP_THRESHOLD, AHEAD = 2**31 - 1, 2**25, 2**26  # 2^25 is the most that glibc takes for MMAP


def keep_freed_memory() -> bool:
    """Asks glibc to keep what is freed; whether it does. For the rest of the process, whose size then stays at its peak.

    An activation of a megabyte otherwise goes back to the system when it is freed, and the system hands out the next one page by
    page: on the CPU, elementwise operations on image batches then take several times as long (docs/benchmarks.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(mallopt(name, value) for name, value in ((TRIM, TRIM_THRESHOLD), (MMAP, MMAP_THRESHOLD), (TOP_PAD, AHEAD)))


OUT_OF_MEMORY_TEXTS = (
    "DefaultCPUAllocator",
    "out of memory",
    "STATUS_ALLOC_FAILED",
)  # in the plain RuntimeErrors of torch's allocators and libraries


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of the process or of a device was not enough.

    Args:
        error: any exception.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_TEXTS)


@contextmanager
def explain_out_of_memory(batch_size: int, resumable: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Raises an UnfinishedError in place of the errors that say that memory was not enough.

    Its sentence names the batch size, and says how a run with a state goes on.

    Args:
        batch_size: of the work inside.
        resumable: whether finished work is kept, asked when memory ends.

    Raises:
        UnfinishedError: where memory ends inside.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        way = f"pass a --batch-size below {batch_size}" if batch_size > 1 else "use a device with more memory, or smaller images"
        resume_hint = "; what is finished is kept: --resume goes on with it" if resumable() else ""
        raise UnfinishedError(f"the memory does not hold a batch of {batch_size} images: {way}{resume_hint}") from error
