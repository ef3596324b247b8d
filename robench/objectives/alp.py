"""Adversarial logit pairing (Kannan, Kurakin & Goodfellow 2018, "Adversarial logit pairing", 1803.06373).

    L = CE(f(x_adv), y) + CE(f(x), y) + weight * mean_B (1/K) ||f(x_adv) - f(x)||^2,    x_adv the end of PGD-10

The square is averaged over samples and over classes, as in the authors' code; that the weight of 0.5 is meant for this average is our
reading of the paper. The code also averages the two cross-entropies where they are added here, so its weight of 0.5 would be 1 here.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.checks import number_option
from robench.core.types import Batch
from robench.objectives.adversarial import check_steps, pgd_images
from robench.objectives.gradients import at_least_float32
from robench.objectives.terms import Objective, clean_logits, cross_entropy


def alp(*, steps: int = 10, step_size: float | None = None, weight: float = 0.5) -> Objective:
    """Cross-entropy at adversarial and at clean images, and the distance of their logits (Kannan et al. 2018, 1803.06373).

    Args:
        steps: steps of the PGD adversary, from an even random start in the threat.
        step_size: length of a step in pixel units; 2.5 eps / steps if not given.
        weight: of the pairing, the mean square over samples and classes; at least 0.

    Returns:
        The objective; it logs "ce", "ce-clean" and "pairing".

    Raises:
        InputError: for an option that cannot be.
    """
    check_steps("alp", steps, step_size)
    return Objective(
        partial(pgd_images, steps=steps, step_size=step_size), partial(alp_loss, weight=number_option("the weight of alp", weight))
    )


def alp_loss(model: nn.Module, batch: Batch, *, weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The two mean cross-entropies plus weight times the pairing.

    Args:
        model: the network in training.
        batch: with x_adv and its logits.
        weight: of the pairing.

    Returns:
        The scalar loss, and the terms "ce", "ce-clean" and "pairing", detached.
    """
    clean = clean_logits(model, batch)
    terms = {
        "ce": cross_entropy(batch.logits, batch),
        "ce-clean": cross_entropy(clean, batch),
        "pairing": logit_pairing(batch.logits, clean),
    }
    total = terms["ce"] + terms["ce-clean"] + weight * terms["pairing"]
    return total, {name: term.detach() for name, term in terms.items()}


def logit_pairing(logits: Tensor, other: Tensor) -> Tensor:
    """The mean square of the difference of two logits over samples and classes, a scalar in float32 at least.

    Args:
        logits: (B, K).
        other: (B, K).
    """
    return F.mse_loss(at_least_float32(logits), at_least_float32(other))
