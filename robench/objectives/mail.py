"""MAIL (Wang et al. 2021, "Probabilistic margins for instance reweighting in adversarial training", NeurIPS, 2106.07904).

Samples that are nearer to being misclassified count more. With p' = softmax(f(x')) and no gradient through w:

    PM = max_{k != y} p'[k] - p'[y],   w = 3 sigmoid(slope (PM + bias))          1 for all before the share `begin` of training
    mail-at       L = mean_B [w CE(f(x'), y)],                                   x' from PGD on the cross-entropy
    mail-trades   L = CE(f(x), y) + beta mean_B [w KL(p_x || p')],               x' from PGD on the KL

The factor 3 is that of the published code, which puts the weights of a batch on no common scale either: w is a function of its
own sample alone, so a loss is the same however a batch is cut into shares.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from robench.core.checks import number_option
from robench.core.types import Batch
from robench.objectives.adversarial import check_steps, pgd_images
from robench.objectives.terms import Objective, clean_logits, cross_entropies, cross_entropy, kl
from robench.objectives.trades import kl_pgd_images

SCALE = 3.0


def mail_at(*, slope: float = 10.0, bias: float = -0.5, begin: float = 0.75, steps: int = 10, step_size: float | None = None) -> Objective:
    """Cross-entropy at PGD's points, weighted by the probabilistic margin (Wang et al. 2021, 2106.07904).

    PM is taken with the label of the larger part where images are mixed (our choice). PGD starts evenly in the threat, as in pgd-at.

    Args:
        slope: of the sigmoid, at least 0.
        bias: of the sigmoid, in [-2, 2].
        begin: share of training, in [0, 1], before which all weights are 1: 0.75 is ours; its code begins at epoch 75.
        steps: steps of PGD.
        step_size: length of a step in pixel units; 2.5 eps / steps if not given.

    Returns:
        The objective; it logs "ce" (weighted) and "weight", the mean weight.

    Raises:
        InputError: for an option that cannot be.
    """
    check_steps("mail-at", steps, step_size)
    check_margin_weights("mail-at", slope, bias, begin)
    loss = partial(weighted_ce, slope=slope, bias=bias, begin=begin)
    return Objective(partial(pgd_images, steps=steps, step_size=step_size), loss)


def mail_trades(
    *,
    beta: float = 5.0,
    slope: float = 2.0,
    bias: float = 0.0,
    begin: float = 0.75,
    steps: int = 10,
    step_size: float | None = None,
) -> Objective:
    """TRADES with the KL weighted by the probabilistic margin (Wang et al. 2021, 2106.07904).

    Args:
        beta: weight of the KL, at least 0; 5 is the default of the published code (trades itself has 6).
        slope: of the sigmoid, at least 0.
        bias: of the sigmoid, in [-2, 2].
        begin: share of training, in [0, 1], before which all weights are 1: 0.75 is ours; its code begins at epoch 75.
        steps: steps of the ascent on the KL, as in trades.
        step_size: length of a step in pixel units; 2.5 eps / steps if not given.

    Returns:
        The objective; it logs "ce", "kl" (weighted) and "weight", the mean weight.

    Raises:
        InputError: for an option that cannot be.
    """
    check_steps("mail-trades", steps, step_size)
    check_margin_weights("mail-trades", slope, bias, begin)
    loss = partial(ce_and_weighted_kl, beta=number_option("the beta of mail-trades", beta), slope=slope, bias=bias, begin=begin)
    return Objective(partial(kl_pgd_images, steps=steps, step_size=step_size), loss)


def check_margin_weights(name: str, slope: float, bias: float, begin: float) -> None:
    """Refuses options of the weights that cannot be.

    Args:
        name: of the objective, for the message.
        slope: at least 0.
        bias: in [-2, 2].
        begin: in [0, 1].

    Raises:
        InputError: naming the option.
    """
    number_option(f"the slope of {name}", slope)
    number_option(f"the bias of {name}", bias, least=-2, most=2)
    number_option(f"begin, a share of training, of {name}", begin, most=1)


def weighted_ce(model: nn.Module, batch: Batch, *, slope: float, bias: float, begin: float) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG001
    """The loss of mail-at.

    Args:
        model: not read.
        batch: with x_adv and its logits.
        slope: of the sigmoid.
        bias: of the sigmoid.
        begin: share of training before which all weights are 1.

    Returns:
        The scalar loss, and the terms "ce", which is the loss, and "weight", the mean weight, detached.
    """
    w = margin_weights(batch, slope, bias, begin)
    ce = (w * cross_entropies(batch.logits, batch, batch.smoothing)).mean()
    return ce, {"ce": ce.detach(), "weight": w.mean()}


def ce_and_weighted_kl(
    model: nn.Module, batch: Batch, *, beta: float, slope: float, bias: float, begin: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of mail-trades.

    Args:
        model: the network in training.
        batch: with x_adv and its logits.
        beta: weight of the KL.
        slope: of the sigmoid.
        bias: of the sigmoid.
        begin: share of training before which all weights are 1.

    Returns:
        The scalar loss, and the terms "ce", "kl" (weighted) and "weight", the mean weight, detached.
    """
    w, clean = margin_weights(batch, slope, bias, begin), clean_logits(model, batch)
    ce, divergence = cross_entropy(clean, batch), (w * kl(clean, batch.logits)).mean()
    return ce + beta * divergence, {"ce": ce.detach(), "kl": divergence.detach(), "weight": w.mean()}


@torch.no_grad()
def margin_weights(batch: Batch, slope: float, bias: float, begin: float) -> Tensor:
    """w of each sample, (B,), in [0, 3]; 1 at the start of training.

    Args:
        batch: gives labels and the logits at x_adv.
        slope: of the sigmoid.
        bias: of the sigmoid.
        begin: share of training before which all weights are 1.
    """
    p = batch.logits.softmax(1)
    if batch.progress < begin:
        return torch.ones_like(p[:, 0])
    labels = batch.y[:, None]
    margin = p.scatter(1, labels, -1.0).amax(1) - p.gather(1, labels).squeeze(1)
    return SCALE * torch.sigmoid(slope * (margin + bias))
