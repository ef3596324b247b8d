"""Training on clean images."""

from __future__ import annotations

from torch import Tensor, nn

from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.terms import Objective, cross_entropy


@Facts(defence=False, input_gradient=False)
def standard() -> Objective:
    """Cross-entropy on the clean images."""
    return Objective(clean_images, ce_at_images)


def clean_images(model: nn.Module, batch: Batch) -> Tensor:  # noqa: ARG001 - the signature of every craft
    """The images themselves."""
    return batch.x


def ce_at_images(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG001 - the signature of every loss
    """The mean cross-entropy of the batch's logits with its label smoothing, and the same as the term "ce"."""
    ce = cross_entropy(batch.logits, batch)
    return ce, {"ce": ce.detach()}
