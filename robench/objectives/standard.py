"""Training on clean images."""

from __future__ import annotations

from torch import Tensor, nn

from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.terms import Objective, cross_entropy


@Facts(defence=False, input_gradient=False)
def standard() -> Objective:
    """Cross-entropy on the clean images.

    Returns:
        The objective; it logs "ce".
    """
    return Objective(clean_images, ce_at_images)


def clean_images(model: nn.Module, batch: Batch) -> Tensor:  # noqa: ARG001 - the signature of every craft
    """The images themselves, (B, C, H, W).

    Args:
        model: not read.
        batch: gives the images.
    """
    return batch.x


def ce_at_images(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG001 - the signature of every loss
    """The mean cross-entropy of the batch's logits with its label smoothing.

    Args:
        model: not read.
        batch: with x_adv and its logits.

    Returns:
        The scalar, and the same as the term "ce", detached.
    """
    ce = cross_entropy(batch.logits, batch)
    return ce, {"ce": ce.detach()}
