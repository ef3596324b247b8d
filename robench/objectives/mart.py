"""MART (Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples", ICLR, OpenReview rklOg6EFwS).

With p_x = softmax(f(x)), p' = p_x' and KL per sample:

    L   = BCE(x', y) + beta mean_B [KL(p_x || p') (1 - p_x[y])]
    BCE = mean_B [-log p'[y] - log(1 - max_{k != y} p'[k] + 1e-4)],   x' from PGD on the cross-entropy

1e-4 is not in the paper's formula but in its published code: it keeps the second logarithm above -9.3.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from robench.core.checks import number_option
from robench.core.types import Batch
from robench.objectives.adversarial import check_steps, pgd_images
from robench.objectives.terms import Objective, clean_logits, cross_entropy, kl

LOG_OFFSET = 1e-4


def mart(*, beta: float = 5.0, steps: int = 10, step_size: float | None = None) -> Objective:
    """Boosted cross-entropy at PGD's points plus beta times a KL that counts most where the clean prediction is wrong (Wang et al. 2020).

    Of mixed or smoothed labels only the cross-entropy knows; the margin and 1 - p_x[y] are taken with the label of the larger
    part (our choice). PGD starts evenly in the threat, as in pgd-at (our choice: the published code starts at x plus small noise).

    Args:
        beta: weight of the KL, at least 0; 5 in the published settings.
        steps: steps of PGD.
        step_size: length of a step in pixel units; 2.5 eps / steps if not given.

    Returns:
        The objective; it logs "ce" and "margin", the two parts of BCE, and "kl" (weighted).

    Raises:
        InputError: for an option that cannot be.
    """
    check_steps("mart", steps, step_size)
    loss = partial(bce_and_weighted_kl, beta=number_option("the beta of mart", beta))
    return Objective(partial(pgd_images, steps=steps, step_size=step_size), loss)


def bce_and_weighted_kl(model: nn.Module, batch: Batch, *, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the module's head. Gradients flow through 1 - p_x[y] too, as in the published code.

    Args:
        model: the network in training.
        batch: with x_adv and its logits.
        beta: weight of the KL.

    Returns:
        The scalar loss, and the terms "ce" and "margin" (the two parts of BCE) and "kl" (weighted by 1 - p_x[y]), detached.
    """
    clean = clean_logits(model, batch)
    ce = cross_entropy(batch.logits, batch)
    margin = margin_losses(batch.logits, batch.y).mean()
    weighted_kl = (kl(clean, batch.logits) * complement_probabilities(clean.softmax(1), batch.y)).mean()
    return ce + margin + beta * weighted_kl, {"ce": ce.detach(), "margin": margin.detach(), "kl": weighted_kl.detach()}


def margin_losses(logits: Tensor, y: Tensor) -> Tensor:
    """-log(1 - max_{k != y} p[k] + 1e-4) per sample, (B,).

    Args:
        logits: (B, K).
        y: labels (B,).
    """
    p = logits.softmax(1)
    return -(complement_probabilities(p, likeliest_wrong_classes(p, y)) + LOG_OFFSET).log()


def complement_probabilities(p: Tensor, k: Tensor) -> Tensor:
    """1 - p[k] per sample, (B,), as the sum of the other probabilities: the difference would lose all digits where p[k] is near 1.

    Args:
        p: probabilities (B, K).
        k: (B,) int64, a class of each sample.
    """
    return p.scatter(1, k[:, None], 0.0).sum(1)


def likeliest_wrong_classes(p: Tensor, y: Tensor) -> Tensor:
    """The most probable class other than y, (B,); of equals the first.

    Args:
        p: probabilities (B, K).
        y: labels (B,).
    """
    return p.scatter(1, y[:, None], -1.0).argmax(1)
