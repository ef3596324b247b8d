"""What gradient attacks climb: losses (logits, y) -> (B,) to be maximised, and targeted ones (logits, y, target) -> (B,).

All are per sample; cross-entropy and the logit margin are unbounded, the DLR loss does not change with the scale of the logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from robench.errors import InputError
from robench.recipes import lookup


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, (B,): -log softmax(z)_y. Its float32 gradient is exactly 0 at logit gaps of about 100."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Logit margin, (B,): max_{c != y} z_c - z_y; above 0 where the label is wrong (Carlini & Wagner 2017, 1608.04644)."""
    others = logits.scatter(1, y[:, None], float("-inf"))
    return others.max(1).values - at(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, (B,): (max_{c != y} z_c - z_y) / (z_(1) - z_(3) + 1e-12) (Croce & Hein 2020, 2003.01690); K >= 3."""
    top = largest(logits, 3, "dlr")
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def ce_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:  # noqa: ARG001 (one signature for all)
    """Minus the cross-entropy to the target, (B,)."""
    return -F.cross_entropy(logits, target, reduction="none")


def margin_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Logit of the target minus that of the label, (B,)."""
    return at(logits, target) - at(logits, y)


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR, (B,): (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12) (Croce & Hein 2020, 2003.01690); K >= 4."""
    top = largest(logits, 4, "targeted dlr")
    return margin_targeted(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def at(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit of one class per sample, (B,)."""
    return logits.gather(1, classes[:, None]).squeeze(1)


def largest(logits: Tensor, count: int, name: str) -> Tensor:
    """The largest `count` logits in falling order, (B, count); InputError where the model has fewer classes."""
    if logits.shape[1] < count:
        raise InputError(f"the {name} loss needs at least {count} classes and the model has {logits.shape[1]}: choose ce or margin")
    return logits.topk(count, dim=1).values


def loss_of(name: str, targeted: bool) -> Callable[..., Tensor]:
    """The loss, or targeted loss, of that name; InputError for an unknown one."""
    return lookup(name, TARGETED_LOSSES if targeted else LOSSES, "loss")


LOSSES: dict[str, Callable[..., Tensor]] = {"ce": ce, "margin": margin, "dlr": dlr}
TARGETED_LOSSES: dict[str, Callable[..., Tensor]] = {"ce": ce_targeted, "margin": margin_targeted, "dlr": dlr_targeted}
