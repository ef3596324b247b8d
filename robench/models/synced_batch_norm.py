"""Batch norm over the batches of several processes together, on any device (torch's own SyncBatchNorm works on GPUs only)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise(model: nn.Module) -> int:
    """Makes every batch norm of the model take its statistics over the samples of all processes; returns how many there are.

    Parameters, buffers and names stay what they are, and in evaluation mode nothing changes.

    Args:
        model: the model of this process, the same in all; it is changed in place.
    """
    batch_norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for module in batch_norms:
        module.forward = partial(global_batch_norm, module)  # type: ignore[method-assign]
    return len(batch_norms)


def global_batch_norm(module: _BatchNorm, x: Tensor) -> Tensor:
    """What the batch norm makes of this process's part x (B, C, ...) of a global batch; gradients flow through the global statistics."""
    if not module.training:
        return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, module.eps)
    places = [0, *range(2, x.dim())]
    n = x.new_tensor(float(x.numel() // x.shape[1]))
    total = global_sum(n)
    mean = global_sum(x.sum(places)) / total
    centred = x - channel_shaped(mean, x)
    variance = global_sum(centred.square().sum(places)) / total
    update_running_statistics(module, mean.detach(), variance.detach() * total / (total - 1))
    scaled = centred * channel_shaped((variance + module.eps).rsqrt(), x)
    return scaled if module.weight is None else scaled * channel_shaped(module.weight, x) + channel_shaped(module.bias, x)


class GlobalSum(torch.autograd.Function):
    """The sum of a tensor over the processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:  # noqa: ARG004 - the signature of every Function
        """The sum over the processes."""
        total = part.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ARG004
        """Every process's part has moved the sums of all."""
        total = grad.clone()
        torch.distributed.all_reduce(total)
        return total


def global_sum(part: Tensor) -> Tensor:
    """The sum over the processes, with a gradient to each part."""
    result: Tensor = GlobalSum.apply(part)
    return result


def channel_shaped(values: Tensor, x: Tensor) -> Tensor:
    """Values (C,) in the shape that multiplies x (B, C, ...)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


@torch.no_grad()
def update_running_statistics(module: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics as torch's batch norm does: by its momentum, or evenly over all batches where that is None."""
    if module.num_batches_tracked is None or module.running_mean is None or module.running_var is None:
        return
    module.num_batches_tracked.add_(1)
    share = 1.0 / float(module.num_batches_tracked) if module.momentum is None else module.momentum
    module.running_mean.lerp_(mean.to(module.running_mean.dtype), share)
    module.running_var.lerp_(variance.to(module.running_var.dtype), share)
