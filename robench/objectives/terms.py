"""How a training loss is put together: a base objective and weighted regularisers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from robench.draws import Draws
from robench.errors import InputError
from robench.options import number
from robench.threat import Threat
from robench.types import Batch

Craft: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Threat, Draws], Tensor]
Loss: TypeAlias = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]
Penalty: TypeAlias = Callable[[nn.Module, Batch], Tensor]
Schedule: TypeAlias = Callable[[float], float]
Regularizer: TypeAlias = tuple[float | Schedule, Penalty]  # a penalty with its weight, fixed or by progress


class Objective(NamedTuple):
    """A base objective as two functions: the images to train on, and the loss there with the terms to log.

    craft(model, x, y, threat, draws) -> x_adv, (B, C, H, W)
    loss(model, batch) -> the scalar to minimise, and detached scalars by name
    """

    craft: Craft
    loss: Loss


def ramp(weight: float, warmup: float = 0.0) -> Schedule:
    """The weight by progress in [0, 1): it grows in a straight line from 0 over the first `warmup` share of training, then stays."""
    number("the weight of a regulariser", weight)
    number("warmup, a share of training,", warmup, most=1)
    return lambda progress: weight * min(1.0, progress / warmup) if warmup else weight


def penalised(base: Loss, regularizers: Mapping[str, Regularizer]) -> Loss:
    """The loss base + sum of weight * R; it logs the base's terms and each R, without its weight, under its name."""

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = base(model, batch)
        for name, (weight, penalty) in regularizers.items():
            value = scalar(name, penalty(model, batch))
            total = total + (weight(batch.progress) if callable(weight) else weight) * value
            terms = terms | {name: value.detach()}
        return total, terms

    return loss


def scalar(name: str, value: object) -> Tensor:
    """The value, if it is a tensor of one number; InputError for what else a user's regulariser may return."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise InputError(f"regulariser {name!r} must return a scalar tensor, not {found}: average it over the batch")
