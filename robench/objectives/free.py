"""Free adversarial training (Shafahi et al. 2019, "Adversarial training for free!", 1904.12843).

Each batch is used m times in a row, and every backward pass serves twice: its gradient by the weights makes a step of the optimiser, its
gradient by the images makes a step of the perturbation, which is kept from one batch to the next.

    L = CE(f(clip(x + delta)), y),    delta <- P(delta + step * eps * sign(dL/dx)),    P the projection to the ball of radius eps

The perturbation thus meets the network in training mode, unlike every other adversary here, because both gradients are of one pass.
A batch makes m steps of the optimiser, so the paper divides the number of epochs by m.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from robench.core.checks import positive_option, whole_option
from robench.core.threat import Threat
from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.standard import ce_at_images
from robench.objectives.terms import Objective

DELTA = "free-at/delta"  # the perturbations in multiples of eps, (B, C, H, W), one for each place in the batch


@Facts(single_step=True)
def free_at(*, replays: int = 8, step: float = 1.0) -> Objective:
    """Cross-entropy at the image with a perturbation that the same backward passes improve (Shafahi et al. 2019, 1904.12843).

    Args:
        replays: how many steps in a row are made on the same images, m in the paper, at least 1.
        step: length of the perturbation's step, in multiples of eps, above 0.

    Returns:
        The objective; it logs "ce".

    Raises:
        InputError: for an option that cannot be.
    """
    positive_option("the step of free-at, in multiples of eps,", step)
    return Objective(
        free_at_images, ce_at_images, partial(update_perturbations, step=step), whole_option("the replays of free-at", replays)
    )


def free_at_images(model: nn.Module, batch: Batch) -> Tensor:  # noqa: ARG001 - the signature of every craft
    """The images with the perturbations of the steps before, inside the threat, (B, C, H, W).

    Args:
        model: not read.
        batch: gives images and threat; its state holds the perturbations.
    """
    return batch.threat.project(batch.x, batch.x + batch.threat.eps * kept_perturbations(batch))


def kept_perturbations(batch: Batch) -> Tensor:
    """The perturbations in multiples of eps, (B, C, H, W): zeros at the start of training and after a batch of another shape.

    Args:
        batch: its state holds them.
    """
    delta = batch.state.get(DELTA)
    return torch.zeros_like(batch.x) if delta is None or delta.shape != batch.x.shape else delta.to(batch.x)


def update_perturbations(batch: Batch, grad: Tensor, *, step: float) -> None:
    """Moves the perturbations up the loss and keeps them in the batch's state for the next step.

    Where [0, 1] cuts a perturbation short the gradient still moves it (our choice: the published code leaves such a pixel as it is).

    Args:
        batch: its state holds the perturbations.
        grad: gradient of the whole loss by x_adv, (B, C, H, W).
        step: length of the move, in multiples of eps.
    """
    perturbations = kept_perturbations(batch) + step * batch.threat.ascend(batch.x_adv.detach(), grad)
    batch.state[DELTA] = unit_ball_projection(perturbations, batch.threat.norm, 1 + step).detach()


def unit_ball_projection(delta: Tensor, norm: str, most: float) -> Tensor:
    """The Euclidean projection to the unit ball of a norm, (B, C, H, W).

    The box [0, 1] plays no part: all of delta is made so small that it fits around mid-grey.

    Args:
        delta: (B, C, H, W).
        norm: "linf", "l2" or "l1".
        most: at least 1, and at least the size of every entry of delta.
    """
    radius, grey = 0.5 / most, torch.full_like(delta, 0.5)
    return (Threat(norm, radius).project(grey, grey + radius * delta) - grey) / radius
