"""HAT (Rade & Moosavi-Dezfooli 2022, "Reducing excessive margin to achieve a better accuracy vs. robustness trade-off", ICLR,
OpenReview Azh9QBQ4tR7).

TRADES with a helper image further along the adversarial direction, which takes the label that a network trained without a
defence gives to x'. With p_x = softmax(f(x)) and KL per sample:

    L = CE(f(x), y) + beta mean_B KL(p_x || p_x') + gamma CE(f(x_h), argmax f_std(x')),   x_h = x + h (x' - x)

x' comes from the ascent on the KL of TRADES. x_h is clipped to [0, 1], so that the network sees images only (our choice: the
published code does not clip).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.checks import number_option, positive_option
from robench.core.errors import InputError
from robench.core.types import Batch
from robench.objectives.adversarial import check_steps
from robench.objectives.facts import Facts
from robench.objectives.terms import Objective
from robench.objectives.trades import ce_and_kl, kl_pgd_images


@Facts(teacher=True)
def hat(*, beta: float = 2.5, gamma: float = 0.5, h: float = 2.0, steps: int = 10, step_size: float | None = None) -> Objective:
    """TRADES plus gamma times the cross-entropy of a helper image with an undefended teacher's label (Rade & Moosavi-Dezfooli 2022).

    Label smoothing and mixed labels act on the clean cross-entropy only; the teacher's labels are taken as they are (our choice).

    Args:
        beta: weight of the KL, at least 0; 2.5 in the published settings.
        gamma: weight of the helper's cross-entropy, at least 0; 0.5 in the published settings.
        h: how far the helper image lies along x' - x, above 0; 2 in the paper, 3.5 is the default of its code.
        steps: steps of the ascent on the KL.
        step_size: length of a step in pixel units; 2.5 eps / steps if not given.

    Returns:
        The objective; it logs "ce", "kl" and "helper".

    Raises:
        InputError: for an option that cannot be.
    """
    check_steps("hat", steps, step_size)
    beta, gamma = number_option("the beta of hat", beta), number_option("the gamma of hat", gamma)
    loss = partial(hat_loss, beta=beta, gamma=gamma, h=positive_option("the h of hat", h))
    return Objective(partial(kl_pgd_images, steps=steps, step_size=step_size), loss)


def hat_loss(model: nn.Module, batch: Batch, *, beta: float, gamma: float, h: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the module's head.

    Args:
        model: the network in training.
        batch: with x_adv, its logits and a teacher.
        beta: weight of the KL.
        gamma: weight of the helper's cross-entropy.
        h: how far the helper image lies along x' - x.

    Returns:
        The scalar loss, and the terms "ce", "kl" and "helper", detached.

    Raises:
        InputError: where the batch has no teacher.
    """
    if batch.teacher is None:
        raise InputError("hat needs a network trained without a defence as its teacher: pass --teacher FILE")
    x_adv = batch.x_adv.detach()
    with torch.no_grad():
        labels = batch.teacher(x_adv).argmax(1)
    total, terms = ce_and_kl(model, batch, beta=beta)
    helper = F.cross_entropy(model((batch.x + h * (x_adv - batch.x)).clamp(0, 1)), labels)
    return total + gamma * helper, {**terms, "helper": helper.detach()}
