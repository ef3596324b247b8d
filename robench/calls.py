"""How a model is called by whatever measures it: frozen, never with a handful of rows, and with gradients to the input alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LEAST_ROWS = 16  # a smaller batch is padded: logits differ in the last bits between batches of 1, 7 and 50
FULL_ROWS = 64  # where one image asks for many passes, a call takes so many rows if there are fewer images: several passes of each


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Puts the model into eval mode with frozen parameters; each module's mode and each parameter's flag come back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def padded(model: nn.Module, x: Tensor) -> Tensor:
    """The model's logits at x, (R, K), from a call with at least LEAST_ROWS rows: the first row fills up."""
    missing = LEAST_ROWS - len(x)
    filled = torch.cat((x, x[:1].expand(missing, *x.shape[1:]))) if missing > 0 else x
    logits: Tensor = model(filled)
    return logits[: len(x)]


def derivative(total: Tensor, leaf: Tensor, again: bool = False) -> Tensor:
    """The gradient of `total` at the leaf, (R, C, H, W), entries that are not finite as 0; all 0 where the model has cut the graph.

    again  keep the graph for another backward pass
    """
    if not total.requires_grad:
        return torch.zeros_like(leaf)
    (grad,) = torch.autograd.grad(total, leaf, retain_graph=again, allow_unused=True)
    return torch.zeros_like(leaf) if grad is None else grad.nan_to_num(0.0, 0.0, 0.0)
