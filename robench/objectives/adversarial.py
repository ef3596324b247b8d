"""Adversarial training: the loss is taken at images that an attack made worse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from robench.core.checks import number_option, whole_option
from robench.core.model_calls import freeze_model
from robench.core.moved import names_of_before
from robench.core.threat import Threat
from robench.core.types import Batch
from robench.objectives.standard import ce_at_images
from robench.objectives.terms import Objective, cross_entropies


def pgd_at(*, steps: int = 10, step_size: float | None = None) -> Objective:
    """Cross-entropy at the end of a PGD run (Madry et al. 2018, 1706.06083).

    PGD starts at an even draw from the threat.

    Args:
        steps: ascents on the cross-entropy, at least 1.
        step_size: length of a step in pixel units; 2.5 eps / steps if not given.

    Returns:
        The objective; it logs "ce".

    Raises:
        InputError: for an option that cannot be.
    """
    check_steps("pgd-at", steps, step_size)
    return Objective(partial(pgd_images, steps=steps, step_size=step_size), ce_at_images)


def check_steps(name: str, steps: int, step_size: float | None) -> None:
    """Refuses options of an iterated adversary that cannot be.

    Args:
        name: of the objective or regulariser, for the message.
        steps: a whole number, at least 1.
        step_size: in pixel units, above 0, or None.

    Raises:
        InputError: naming the option.
    """
    whole_option(f"the steps of {name}", steps)
    if step_size is not None:
        number_option(f"the step_size of {name}", step_size, least=1e-9)


def pgd_images(model: nn.Module, batch: Batch, *, steps: int = 10, step_size: float | None = None) -> Tensor:
    """The last point of an ascent on the cross-entropy from an even random start in the threat, (B, C, H, W).

    Args:
        model: the network that is attacked.
        batch: gives images, labels, threat and the random numbers of the start.
        steps: number of ascents.
        step_size: length of a step in pixel units; 2.5 eps / steps if not given.
    """
    start = batch.threat.sample(batch.x, batch.draws.child("craft", "craft"))
    return projected_ascent(
        model, batch.x, start, batch.threat, lambda logits: cross_entropies(logits, batch), steps=steps, step_size=step_size
    )


def projected_ascent(
    model: nn.Module,
    x: Tensor,
    start: Tensor,
    threat: Threat,
    gain: Callable[[Tensor], Tensor],
    *,
    steps: int,
    step_size: float | None = None,
) -> Tensor:
    """The last point of a projected ascent, (B, C, H, W), inside the threat.

    Every sample runs all steps (an adversary for training does not stop at the first mistake), with the network in
    evaluation mode and its parameters frozen: only input gradients are computed.

    Args:
        model: the network that is attacked.
        x: clean images (B, C, H, W), float in [0, 1].
        start: where the ascent begins, (B, C, H, W).
        threat: the norm, whose steepest direction is taken, and the ball to which each step is projected.
        gain: gain(logits) -> (B,), what is to grow.
        steps: number of ascents, at least 1.
        step_size: length of a step in pixel units; 2.5 eps / steps if None.
    """
    alpha = 2.5 * threat.eps / steps if step_size is None else step_size
    x_adv, project = start.detach(), threat.projector(x)
    with freeze_model(model), torch.enable_grad():
        for _ in range(steps):
            leaf = x_adv.requires_grad_()
            (grad,) = torch.autograd.grad(gain(model(leaf)).sum(), leaf)
            x_adv = leaf.detach()
            x_adv = project(torch.add(x_adv, threat.ascend(x_adv, grad), alpha=alpha))
    return x_adv


__getattr__ = names_of_before(__name__, {"climb": "projected_ascent"})
