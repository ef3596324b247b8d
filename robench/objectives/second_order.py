"""Which operators of a network have a second derivative: fused attention has none and is replaced, others are named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.attention import SDPBackend, sdpa_kernel

from robench.core.errors import InputError
from robench.objectives import REGULARIZERS, facts_of

FUSED_ATTENTION = "ScaledDotProduct"  # how the names of its nodes in an autograd graph begin
NO_DERIVATIVE = re.compile(
    r"(?:derivative for (?:aten::)?_?|double backwards on )(\w+?)(?:_backward)? (?:is not implemented|not supported)"
)
ONCE_ONLY = "once_differentiable"
LOST_DERIVATIVE = "Error"  # the node in a graph that once_differentiable leaves in place of a derivative


def differentiates_twice(regularizers: Iterable[str]) -> bool:
    """Whether one of the regularisers takes a derivative of a derivative of the network.

    Args:
        regularizers: their names; those of the user's own functions are taken to do so.

    Example:
        >>> differentiates_twice(["vat", "l2"]), differentiates_twice(["vat", "jacobian"])
        (False, True)
    """
    return any(facts_of(name).second_derivative for name in regularizers)


def attention_by_products(wanted: bool = True) -> AbstractContextManager[None]:
    """Within it scaled_dot_product_attention is made of matrix products and a softmax, which can be differentiated twice.

    The logits are those of the fused kernels up to rounding; memory grows with the square of the number of tokens.

    Args:
        wanted: False gives a context that changes nothing.
    """
    return sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext()


def has_fused_attention(model: nn.Module, x: Tensor) -> bool:
    """Whether one of torch's fused attention kernels runs in the model.

    Args:
        model: gives logits (B, K); its mode, flags and buffers stay as they are where it is in evaluation mode.
        x: (B, C, H, W), float pixels in [0, 1].

    Returns:
        True where a node of such a kernel lies in the autograd graph of the logits.
    """
    with torch.enable_grad():
        logits = model(x.detach().requires_grad_())
    return any(type(node).__name__.startswith(FUSED_ATTENTION) for node in graph_nodes(logits))


def graph_nodes(outputs: Tensor) -> Iterator[object]:
    """Every node of an autograd graph, once.

    Args:
        outputs: what the graph computes.
    """
    todo, visited = [outputs.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in visited:
            visited.add(node)
            todo += [parent for parent, _ in node.next_functions]
            yield node


@contextmanager
def name_failing_operators(outputs: Tensor) -> Iterator[None]:
    """Turns torch's error at an operator without a second derivative into an InputError that names the operator.

    Args:
        outputs: what the network gave, with its graph; it tells the names of functions of the user's own.

    Raises:
        InputError: where a derivative of a derivative is asked for that does not exist.
    """
    try:
        yield
    except RuntimeError as error:
        match = NO_DERIVATIVE.search(str(error))
        if match is None and ONCE_ONLY not in str(error):
            raise
        raise second_derivative_error(match[1] if match else own_function_names(outputs)) from error


def refuse_lost_derivatives(loss: Tensor, outputs: Tensor) -> None:
    """Refuses a loss that a function of the user's own, marked once_differentiable, has cut from the weights.

    torch raises no error there: it leaves the part of the gradient that would pass through that function out.

    Args:
        loss: the scalar to minimise, with its graph.
        outputs: what the network gave, with its graph.

    Raises:
        InputError: naming the functions of the user's own.
    """
    if any(type(node).__name__ == LOST_DERIVATIVE for node in graph_nodes(loss)):
        raise second_derivative_error(own_function_names(outputs))


def own_function_names(outputs: Tensor) -> str:
    """The names of the torch.autograd.Function classes in a graph, with "or" between them.

    Args:
        outputs: what the graph computes.
    """
    names = {type(node).__name__.removesuffix("Backward") for node in graph_nodes(outputs) if isinstance(node, BackwardCFunction)}
    return " or ".join(sorted(names)) or "a function marked once_differentiable"


def second_derivative_error(operator: str) -> InputError:
    """What is said of an operator whose second derivative is needed and does not exist.

    Args:
        operator: its name.
    """
    first_order = [name for name in REGULARIZERS if not facts_of(name).second_derivative]
    return InputError(
        f"the regulariser differentiates the network twice, and {operator} in it has no second derivative: "
        f"replace that operator, or choose a regulariser that needs none ({', '.join(first_order)})"
    )
