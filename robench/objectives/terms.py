"""How a training loss is put together: a base objective, weighted regularisers, and the terms that many papers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.checks import number_option
from robench.core.errors import InputError
from robench.core.types import Batch

Craft: TypeAlias = Callable[[nn.Module, Batch], Tensor]
Loss: TypeAlias = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]
Penalty: TypeAlias = Callable[[nn.Module, Batch], Tensor]
WeightSchedule: TypeAlias = Callable[[float], float]
Regularizer: TypeAlias = tuple[float | WeightSchedule, Penalty]  # a penalty with its weight, fixed or by progress


class Objective(NamedTuple):
    """A base objective as two functions: the images to train on, and the loss there with the terms to log.

    Attributes:
        craft: craft(model, batch) -> x_adv, (B, C, H, W); the batch has no x_adv and no logits yet.
        loss: loss(model, batch) -> the scalar to minimise, and detached scalars by name.
        absorb: absorb(batch, grad), where there is one, is given the gradient of the whole loss by x_adv, (B, C, H, W), after each step.
        replays: how many steps in a row are made on the same images.
    """

    craft: Craft
    loss: Loss
    absorb: Callable[[Batch, Tensor], None] | None = None
    replays: int = 1


def cross_entropies(logits: Tensor, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """The cross-entropy of each sample with its label, (B,), or with the mixed labels where images were mixed.

    Args:
        logits: (B, K).
        batch: gives the labels.
        smoothing: label smoothing, in [0, 1); that of the batch is not read.
    """
    target = batch.y if batch.mixed is None else batch.mixed.to(logits.dtype)
    return F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """The mean cross-entropy with the batch's labels, mixed or not, and its label smoothing: a scalar.

    Args:
        logits: (B, K).
        batch: gives the labels and the smoothing.
    """
    target = batch.y if batch.mixed is None else batch.mixed.to(logits.dtype)
    return F.cross_entropy(logits, target, label_smoothing=batch.smoothing)


def kl(logits: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(other)) of each sample, (B,); gradients flow through both.

    Args:
        logits: (B, K).
        other: (B, K).

    Example:
        >>> kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]])).item()
        0.0
    """
    return F.kl_div(other.log_softmax(1), logits.log_softmax(1), reduction="none", log_target=True).sum(1)


def clean_logits(model: nn.Module, batch: Batch) -> Tensor:
    """model(x) in the model's mode, (B, K): the base loss's own logits where it is taken at x, else one more pass, made once a batch.

    Args:
        model: the network in training.
        batch: its memo keeps the logits of the pass.
    """
    if torch.equal(batch.x_adv, batch.x) and len(batch.logits):
        return batch.logits
    if "clean logits" not in batch.memo:
        batch.memo["clean logits"] = model(batch.x)
    return batch.memo["clean logits"]


def weight_schedule(weight: float, warmup: float = 0.0, drops: tuple[float, ...] = ()) -> WeightSchedule:
    """The weight of a regulariser by progress: it grows in a straight line from 0, then stays, or falls in steps.

    Args:
        weight: the full weight, at least 0.
        warmup: share of training, in [0, 1], over which it grows.
        drops: shares of training, in [0, 1], from each of which on it is a tenth of what it was.

    Returns:
        A function of the progress in [0, 1).

    Raises:
        InputError: for a number out of its range.

    Example:
        >>> at = weight_schedule(2.0, warmup=0.5)
        >>> at(0.25), at(0.75)
        (1.0, 2.0)
    """
    number_option("the weight of a regulariser", weight)
    number_option("warmup, a share of training,", warmup, most=1)
    for drop in drops:
        number_option("a share of training in drops", drop, most=1)

    def at(progress: float) -> float:
        growth = min(1.0, progress / warmup) if warmup else 1.0
        return weight * growth * 0.1 ** sum(progress >= drop for drop in drops)

    return at


def loss_and_terms(loss: Loss, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """What the loss of an objective returns.

    Args:
        loss: of the objective.
        model: the network.
        batch: with x_adv and logits.

    Raises:
        InputError: where it is no pair of a scalar tensor with a gradient and a dict.
    """
    pair = loss(model, batch)
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Tensor) and isinstance(pair[1], dict)):
        raise InputError(
            f"the objective's loss returned {type(pair).__name__}: it must return the scalar to minimise, and a dict of detached scalars"
        )
    if pair[0].dim() or not pair[0].requires_grad:
        way = "it was detached" if not pair[0].dim() else "average it over the batch"
        raise InputError(f"the objective's loss returned a tensor of shape {tuple(pair[0].shape)} that cannot be minimised: {way}")
    return pair


def penalised_loss(base: Loss, regularizers: Mapping[str, Regularizer]) -> Loss:
    """The loss base + sum of weight * R.

    Args:
        base: the loss of the objective.
        regularizers: weight, fixed or by progress, and penalty of each, by its name.

    Returns:
        A loss that logs the base's terms and each R, without its weight, under its name.

    Raises:
        InputError: from the loss, where a penalty is no scalar tensor.
    """

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = loss_and_terms(base, model, batch)
        for name, (weight, penalty) in regularizers.items():
            value = scalar_penalty(name, penalty(model, batch))
            if ".py:" in name and not value.requires_grad and bool(value != 0):
                raise InputError(
                    f"regulariser {name!r} returned {float(value):.4g} without a gradient: it was detached, so it trains nothing"
                )
            total = total + (weight(batch.progress) if callable(weight) else weight) * value
            terms = terms | {name: value.detach()}
        return total, terms

    return loss


def scalar_penalty(name: str, value: object) -> Tensor:
    """The value of a penalty, if it is a tensor of one number.

    Args:
        name: of the regulariser, for the message.
        value: what it returned.

    Raises:
        InputError: for what else a user's regulariser may return.
    """
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    description = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise InputError(f"regulariser {name!r} must return a scalar tensor, not {description}: average it over the batch")
