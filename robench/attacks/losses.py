"""What gradient attacks climb: losses (logits, y) -> (B,) to be maximised, and targeted ones (logits, y, target) -> (B,).

All are per sample; cross-entropy and the logit margin are unbounded, the DLR loss does not change with the scale of the logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robench.core.errors import InputError
from robench.core.recipes import lookup


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, (B,): -log softmax(z)_y. Its float32 gradient is exactly 0 at logit gaps of about 100.

    Args:
        logits: (B, K).
        y: labels (B,) int64.
    """
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Logit margin, (B,): max_{c != y} z_c - z_y; above 0 where the label is wrong (Carlini & Wagner 2017, 1608.04644).

    Args:
        logits: (B, K).
        y: labels (B,) int64.

    Example:
        >>> margin(torch.tensor([[1.0, 3.0, 0.5], [1.0, 3.0, 0.5]]), torch.tensor([1, 0]))
        tensor([-2.,  2.])
    """
    others = logits.scatter(1, y[:, None], float("-inf"))
    return others.max(1).values - class_logits(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, (B,): (max_{c != y} z_c - z_y) / (z_(1) - z_(3) + 1e-12) (Croce & Hein 2020, 2003.01690); K >= 3.

    Args:
        logits: (B, K).
        y: labels (B,) int64.

    Raises:
        InputError: there are fewer than 3 classes.
    """
    top, classes = largest_logits(logits, 3, "dlr")
    other = torch.where(classes[:, 0] == y, top[:, 1], top[:, 0])
    return (other - class_logits(logits, y)) / (top[:, 0] - top[:, 2] + 1e-12)


def prob_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Probability margin, (B,): max_{c != y} p_c - p_y of the softmax p, in [-1, 1] (2411.15210; our reading of the abstract).

    Its gradient is the margin's weighed by p: it dies with the cross-entropy's where the softmax saturates.

    Args:
        logits: (B, K).
        y: labels (B,) int64.
    """
    return margin(logits.softmax(1), y)


def ce_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:  # noqa: ARG001 (one signature for all)
    """Minus the cross-entropy to the target, (B,).

    Args:
        logits: (B, K).
        y: not used.
        target: the classes to reach, (B,) int64.
    """
    return -F.cross_entropy(logits, target, reduction="none")


def margin_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Logit of the target minus that of the label, (B,).

    Args:
        logits: (B, K).
        y: labels (B,) int64.
        target: the classes to reach, (B,) int64.
    """
    return class_logits(logits, target) - class_logits(logits, y)


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR, (B,): (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12) (Croce & Hein 2020, 2003.01690); K >= 4.

    Args:
        logits: (B, K).
        y: labels (B,) int64.
        target: the classes to reach, (B,) int64.

    Raises:
        InputError: there are fewer than 4 classes.
    """
    top, _ = largest_logits(logits, 4, "targeted dlr")
    return margin_targeted(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def prob_margin_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Probability of the target minus that of the label, (B,) (2411.15210; our reading of the abstract).

    Args:
        logits: (B, K).
        y: labels (B,) int64.
        target: the classes to reach, (B,) int64.
    """
    return margin_targeted(logits.softmax(1), y, target)


def class_logits(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit of one class per sample, (B,).

    Args:
        logits: (B, K).
        classes: (B,) int64 in [0, K).
    """
    return logits.gather(1, classes[:, None]).squeeze(1)


def largest_logits(logits: Tensor, count: int, name: str) -> tuple[Tensor, Tensor]:
    """The largest `count` logits in falling order, (B, count), and their classes; InputError where the model has fewer."""
    if logits.shape[1] < count:
        raise InputError(f"the {name} loss needs at least {count} classes and the model has {logits.shape[1]}: choose ce or margin")
    values, classes = logits.topk(count, dim=1)
    return values, classes


def loss_of(name: str, targeted: bool) -> Callable[..., Tensor]:
    """The loss, or targeted loss, of that name.

    Args:
        name: ce, margin, dlr or prob-margin.
        targeted: whether the loss is called with a target: loss(logits, y, target) in place of loss(logits, y).

    Raises:
        InputError: there is no such loss.
    """
    return lookup(name, TARGETED_LOSSES if targeted else LOSSES, "loss")


def fitting_loss_name(name: str, classes: int, targeted: bool) -> str:
    """The loss that a model of so many classes gets: the margin stands in for dlr below 3 classes, below 4 targeted.

    The papers define none there; dlr is the margin over a spread of logits that so few classes do not have.

    Args:
        name: the loss that was asked for.
        classes: number of classes K of the model.
        targeted: whether the loss is the targeted one.

    Example:
        >>> fitting_loss_name("dlr", 2, targeted=False), fitting_loss_name("dlr", 3, targeted=False)
        ('margin', 'dlr')
    """
    return "margin" if name == "dlr" and classes < (4 if targeted else 3) else name


def fitting_loss(name: str, targeted: bool) -> Callable[..., Tensor]:
    """The loss, or targeted loss, of that name, or its stand-in by `fitting_loss_name` for the logits it gets.

    Args:
        name: ce, margin, dlr or prob-margin.
        targeted: whether the loss is called with a target.

    Raises:
        InputError: there is no such loss.
    """
    loss_of(name, targeted)
    return lambda logits, *aim: loss_of(fitting_loss_name(name, logits.shape[1], targeted), targeted)(logits, *aim)


LOSSES: dict[str, Callable[..., Tensor]] = {"ce": ce, "margin": margin, "dlr": dlr, "prob-margin": prob_margin}
TARGETED_LOSSES: dict[str, Callable[..., Tensor]] = {
    "ce": ce_targeted,
    "margin": margin_targeted,
    "dlr": dlr_targeted,
    "prob-margin": prob_margin_targeted,
}
