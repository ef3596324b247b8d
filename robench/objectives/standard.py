"""Training on clean images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from robench.draws import Draws
from robench.objectives.terms import Objective
from robench.threat import Threat
from robench.types import Batch


def standard() -> Objective:
    """Cross-entropy on the clean images."""
    return Objective(clean, cross_entropy)


def clean(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws) -> Tensor:  # noqa: ARG001 - the signature of every craft
    """The images themselves."""
    return x


def cross_entropy(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG001 - the signature of every loss
    """The mean cross-entropy of the batch's logits with its label smoothing, and the same as the term "ce"."""
    ce = F.cross_entropy(batch.logits, batch.y, label_smoothing=batch.smoothing)
    return ce, {"ce": ce.detach()}
