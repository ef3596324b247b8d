"""Projected gradient ascent with random restarts, untargeted and targeted, in three norms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robench.attacks.active import Search
from robench.attacks.losses import loss_of
from robench.attacks.targets import chosen_target, is_targeted
from robench.core.checks import switch_option, whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.threat import Threat, length_option
from robench.core.types import AttackResult


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    draws: Draws,
    *,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    loss: str = "ce",
    random_start: bool = True,
    target: str | int = "none",
) -> AttackResult:
    """Projected gradient ascent from random starts in the threat (Madry et al. 2018, 1706.06083).

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        steps: steps per restart, at least 1; each iterate is tested, the start and the last one included.
        step_size: length of a step in the threat's norm, pixel units; None for 2.5 eps / steps.
        restarts: independent random starts, at least 1; each runs on the samples that still stand.
        loss: ce, margin, dlr or prob-margin; dlr needs at least 3 classes, with a target 4.
        random_start: false starts at the clean image, and then allows one restart only.
        target: none; or a class to reach: second or least-likely by the clean logits, random, or its number. A sample whose label is that
            number cannot be attacked: it comes back clean and not fooled. Choosing the target costs one forward pass.

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range.
    """
    _, _, random_start = whole_option("steps", steps), whole_option("restarts", restarts), switch_option("random_start", random_start)
    length = 2.5 * threat.eps / steps if step_size is None else length_option("step_size", step_size, threat.norm, x.shape[1:])
    targeted = is_targeted(target)
    objective = loss_of(loss, targeted)
    if restarts > 1 and not random_start:
        raise InputError(f"restarts={restarts} from the clean image would all be the same: leave random_start=false out, or the restarts")
    search = Search(model, x, y, threat)
    if targeted and search.alive:
        with torch.no_grad():
            search.aim(chosen_target(target, search.logits(x), y, draws))
    for restart in search.turns(restarts):
        start = draws.child("restart", restart).take(search.rows)
        run_pgd(search, threat.sample(search.x, start) if random_start else search.x, objective, length, steps)
    return search.result()


def run_pgd(search: Search, x_adv: Tensor, objective: Callable[..., Tensor], length: float, steps: int) -> Tensor:
    """The last iterate of `steps` projected steps from x_adv; all iterates are tested.

    Args:
        search: the samples that still stand.
        x_adv: one start per working row, (R, C, H, W).
        objective: the loss to climb, called as in `Search.evaluate`.
        length: length of a step in the threat's norm, pixel units.
        steps: number of steps.
    """
    for _ in search.turns(steps):
        _, grad = search.evaluate(x_adv, objective)
        x_adv, grad = search.pack(x_adv, grad)
        x_adv = search.threat.project(search.x, x_adv + length * search.threat.ascend(x_adv, grad))
    search.test(x_adv)
    (x_adv,) = search.pack(x_adv)
    return x_adv
