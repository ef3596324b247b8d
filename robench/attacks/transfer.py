"""Transfer: adversarial points crafted on another model, the surrogate, and tried once each on the attacked one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robench.attacks.active import Search
from robench.attacks.facts import AttackFacts
from robench.attacks.losses import loss_of
from robench.core.checks import number_option, whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.memory import is_out_of_memory
from robench.core.model_calls import leaf_of, padded_logits
from robench.core.threat import Threat, length_option, per_sample
from robench.core.types import AttackResult


@AttackFacts(black_box=True, most_passes=lambda options: (options["restarts"], 0))
def transfer(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    draws: Draws,
    *,
    surrogate: nn.Module,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    decay: float = 1.0,
    loss: str = "ce",
) -> AttackResult:
    """Points crafted on a surrogate with the momentum iterative method (Dong et al. 2018, 1710.06081), tried on the model.

    A black-box attack: of the attacked model it needs no gradient and one answer per standing sample and restart, which is what
    `forwards` counts; `backwards` is 0. The passes over the surrogate are the attacker's own and not counted.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        surrogate: the model whose gradients are climbed, frozen by the caller, on the device of x; it knows the labels y.
        steps: steps on the surrogate, at least 1; the climb does not stop when the surrogate is fooled, because deep points transfer best.
        step_size: length of a step in the threat's norm, pixel units; None for 2 eps / steps: the paper's eps / steps is too short to turn
            along the box in l2, and to cross the ball from a random start (our choice).
        restarts: points tried per sample, at least 1: the first climb starts at the clean image, the further ones at random points of the
            threat.
        decay: factor of the push from step to step, at least 0; 0 leaves plain iterative steps.
        loss: ce, margin, dlr or prob-margin; dlr needs at least 3 classes.

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range, or the surrogate has too few classes or gives no gradient.
    """
    objective, keep = loss_of(loss, targeted=False), number_option("decay", decay)
    _ = whole_option("steps", steps)
    length = 2 * threat.eps / steps if step_size is None else length_option("step_size", step_size, threat.norm, x.shape[1:])
    search = Search(model, x, y, threat)
    for restart in search.turns(whole_option("restarts", restarts)):
        start = threat.sample(search.x, draws.child("restart", restart).take(search.rows)) if restart else search.x
        search.test(transfer_points(surrogate, search.x, search.y, start, threat, objective, length, steps, keep))
        search.repack()
    return search.result()


def transfer_points(
    surrogate: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    threat: Threat,
    objective: Callable[..., Tensor],
    length: float,
    steps: int,
    decay: float,
) -> Tensor:
    """The ends, (B, C, H, W), of climbs along the decaying sum of unit gradients (mean |g| = 1).

    Args:
        surrogate: the model whose gradients are climbed.
        x: clean images (B, C, H, W).
        y: labels (B,) int64.
        start: where the climbs start, (B, C, H, W).
        threat: the set that no step leaves.
        objective: the loss to climb.
        length: length of a step in the threat's norm, pixel units.
        steps: number of steps.
        decay: factor of the push from step to step.
    """
    x_adv, push = start, torch.zeros_like(start)
    for _ in range(steps):
        grad = surrogate_gradient(surrogate, x_adv, y, objective)
        push = decay * push + grad / per_sample(grad.flatten(1).abs().mean(1).clamp_min(1e-30), grad)
        x_adv = threat.project(x, x_adv + length * threat.ascend(x_adv, push))
    return x_adv


def surrogate_gradient(surrogate: nn.Module, x_adv: Tensor, y: Tensor, objective: Callable[..., Tensor]) -> Tensor:
    """The gradient of the surrogate's loss, (B, C, H, W), 0 where it is not finite; InputError where the surrogate cannot give one."""
    with torch.enable_grad():
        leaf = leaf_of(x_adv)
        try:
            logits = padded_logits(surrogate, leaf)
        except (RuntimeError, ValueError, AssertionError) as error:  # what networks raise for images of a size that they do not take
            if isinstance(error, InputError) or is_out_of_memory(error):
                raise
            size, reason = "x".join(map(str, x_adv.shape[1:])), " ".join(str(error).split())[:200]
            raise InputError(f"the surrogate cannot take images of {size} pixels ({reason}): choose one for images of this size") from error
        if int(y.max()) >= logits.shape[1]:
            raise InputError(
                f"the surrogate has {logits.shape[1]} classes and knows no label {int(y.max())}: choose one of the same classes"
            )
        if not logits.requires_grad:
            raise InputError("the surrogate gives no gradient with respect to its input: choose a differentiable one")
        (grad,) = torch.autograd.grad(objective(logits, y).sum(), leaf)
    return grad.nan_to_num(0.0, 0.0, 0.0)
