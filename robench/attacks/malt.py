"""Targeted APGD for little work: towards the classes that are nearest by the slopes, again only where another run may succeed.

The order of the targets is that of MALT (NeurIPS 2024, 2407.02240; we know its abstract), the inner run that of Croce & Hein 2020
(2003.01690). Giving up samples that have no chance is an idea of A3 (Liu et al. 2022, 2203.05154); the rule here is ours.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from robench.attacks.active import Search
from robench.attacks.apgd import LossFunction, checked_schedule, loss_toward, run_from_random_start
from robench.attacks.facts import AttackFacts
from robench.attacks.losses import class_logits, fitting_loss
from robench.core.checks import positive_option, whole_option
from robench.core.draws import Draws
from robench.core.threat import DUAL_NORMS, Threat, delta_norms
from robench.core.types import AttackResult

CANDIDATES = 20  # classes of the largest logits whose slopes are looked at: a backward pass each


@AttackFacts(steady_options={"loss": "ce"})
def malt(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    draws: Draws,
    *,
    targets: int = 3,
    steps: int = 25,
    rounds: int = 6,
    loss: str = "dlr",
    doubt: float = 3.0,
) -> AttackResult:
    """Rounds of targeted APGD towards the nearest classes of each sample; a round is one run from a random start towards each.

    One forward and up to 20 backward passes find the order; a run costs steps + 1 forward and `steps` backward passes.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        targets: how many classes, at least 1: those of the smallest (z_y - z_t) / ||gradient of it||, in the norm dual to the threat's, at
            the clean image.
        steps: iterations of a run, at least 1.
        rounds: at most so many rounds, at least 1: the first two are for all samples, the others for those in doubt.
        loss: dlr, margin, ce or prob-margin, in the targeted form; below 4 classes the margin stands in for dlr.
        doubt: a sample is given up once its best loss would have to rise by more than so many times the range of its rounds' best losses
            to become 0, where the label changes; above 0 [our rule; for ce the change comes at another value, so none is given up].

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range.
    """
    whole_option("targets", targets), whole_option("rounds", rounds), positive_option("doubt", doubt)
    search = Search(model, x, y, threat)
    if not search.alive:
        return search.result()
    order = nearest_classes(search, x, targets)
    objective = fitting_loss(loss, True)
    schedule = checked_schedule(threat, steps=steps, restarts=1, rho=0.75, eot=1, large_eps=False)
    highest, lowest = x.new_full((len(x),), -torch.inf), x.new_full((len(x),), torch.inf)
    for turn in search.turns(rounds):
        reach = x.new_full((len(x),), -torch.inf)
        for place in search.turns(order.shape[1]):
            toward_class = partial(recorded_loss, search, objective, order[:, place], reach)
            run_from_random_start(search, draws.child("round", turn, "target", place), toward_class, schedule, rho=0.75, eot=1)
        highest, lowest = torch.fmax(highest, reach), torch.fmin(lowest, reach)
        if turn and loss != "ce":
            search.dismiss((highest + doubt * (highest - lowest) < 0)[search.rows])
            search.repack()
    return search.result()


def recorded_loss(search: Search, loss: LossFunction, target: Tensor, reach: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """The loss of `attacks.apgd.loss_toward`, (R,); the largest value that each sample has reached is kept in `reach`, (B,), in place."""
    values = loss_toward(search, loss, target, logits, y)
    reach[search.rows] = torch.fmax(reach[search.rows], values.detach().to(reach.dtype))
    return values


def nearest_classes(search: Search, x: Tensor, count: int) -> Tensor:
    """The `count` classes, (B, count), whose linearised boundary is nearest to the clean image, the nearest first; among CANDIDATES."""

    def gaps(logits: Tensor) -> Tensor:
        likely = candidate_classes(logits, search.y)
        return logits.gather(1, likely) - class_logits(logits, search.y)[:, None]

    logits, values, gradients = search.slopes(x, gaps)
    dual = DUAL_NORMS[search.threat.norm]
    slopes = torch.stack([delta_norms(dual, grad) for grad in gradients], 1)
    order = (values / slopes.clamp_min(1e-12)).argsort(dim=1, descending=True, stable=True)  # gaps are below 0: the least far first
    return candidate_classes(logits, search.y).gather(1, order)[:, :count]


def candidate_classes(logits: Tensor, y: Tensor) -> Tensor:
    """The classes other than y of the largest logits, (B, J), at most CANDIDATES."""
    most = min(CANDIDATES, logits.shape[1] - 1)
    return logits.scatter(1, y[:, None], float("-inf")).topk(most, dim=1).indices
