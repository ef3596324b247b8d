"""TRADES (Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", 1901.08573).

With p_x = softmax(f(x)) and KL taken per sample, summed over the classes and averaged over the batch:

    L = CE(f(x), y) + beta mean_B KL(p_x || p_x'),   x' = the point of the threat at which KL(p_x || p_x') is largest

x' comes from `kl_pgd_images`, which HAT and MAIL-TRADES share.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from robench.core.checks import number_option
from robench.core.model_calls import freeze_model
from robench.core.recipes import lookup
from robench.core.types import Batch
from robench.objectives.adversarial import check_steps, pgd_images, projected_ascent
from robench.objectives.terms import Objective, clean_logits, cross_entropy, kl

START = 0.001  # standard deviation of the start, in pixel units: at x itself the KL and its gradient are zero


def trades(*, beta: float = 6.0, steps: int = 10, step_size: float | None = None, adversary: str = "kl") -> Objective:
    """Clean cross-entropy plus beta times the KL from the clean to the adversarial prediction (Zhang et al. 2019, 1901.08573).

    Args:
        beta: weight of the KL, at least 0; 6 in the paper.
        steps: steps of the ascent on the KL; 10 in the paper.
        step_size: length of a step in pixel units; 2.5 eps / steps if not given, which is the usual 2/255 at eps 8/255 and 10 steps.
        adversary: what the ascent climbs, "kl" as in the paper; or "ce", the cross-entropy, from an even start as in pgd-at, as the
            published code of EMR does (Liu & Chan 2022, 2210.05118).

    Returns:
        The objective; it logs "ce" and "kl".

    Raises:
        InputError: for an option that cannot be.
    """
    check_steps("trades", steps, step_size)
    loss = partial(ce_and_kl, beta=number_option("the beta of trades", beta))
    craft = lookup(adversary, {"kl": kl_pgd_images, "ce": pgd_images}, "adversary of trades")
    return Objective(partial(craft, steps=steps, step_size=step_size), loss)


def kl_pgd_images(model: nn.Module, batch: Batch, *, steps: int = 10, step_size: float | None = None) -> Tensor:
    """The last point of an ascent on KL(p_x || p_x'), (B, C, H, W), from x plus normal noise of standard deviation 0.001.

    The clean prediction is computed once, in evaluation mode, and held fixed: steps + 1 forward passes. No label is used.
    The start may lie outside a threat smaller than the noise, as in the paper; every later point is inside.

    Args:
        model: the network that is attacked.
        batch: gives images, threat and the random numbers of the start.
        steps: number of ascents.
        step_size: length of a step in pixel units; 2.5 eps / steps if not given.
    """
    noise = batch.draws.child("kl-pgd").normal(batch.x.shape[1:]).to(batch.x)
    with freeze_model(model), torch.no_grad():
        clean = model(batch.x)
    start = batch.x + START * noise
    return projected_ascent(model, batch.x, start, batch.threat, lambda logits: kl(clean, logits), steps=steps, step_size=step_size)


def ce_and_kl(model: nn.Module, batch: Batch, *, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """CE(f(x), y) + beta mean KL(p_x || p_x') with gradients through both predictions.

    Args:
        model: the network in training.
        batch: with x_adv and its logits.
        beta: weight of the KL.

    Returns:
        The scalar loss, and the terms "ce" and "kl", detached.
    """
    clean = clean_logits(model, batch)
    ce, divergence = cross_entropy(clean, batch), kl(clean, batch.logits).mean()
    return ce + beta * divergence, {"ce": ce.detach(), "kl": divergence.detach()}
