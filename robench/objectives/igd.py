"""IGD, input gradient distillation (Chen, Dong & Xie 2023, 2305.09305): a robust student whose slopes point as a standard teacher's do.

Added to a base loss, in the paper cross-entropy at the points of a PGD run of 10 steps, with S the student and T the teacher:

    R = mean_B (1 - cos(dS_y/dx, dT_y/dx)),   both gradients at the clean x, all C*H*W entries as one vector

T is a network of the same architecture trained in the standard way on the same data. It is taken in evaluation mode and its
gradient is a constant. The paper does not say which scalar S_y is; the logit of the label is our reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.model_calls import freeze_model
from robench.core.recipes import lookup
from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.gradients import at_least_float32, points_and_logits
from robench.objectives.terms import cross_entropies

SCALARS: Mapping[str, Callable[[Tensor, Batch], Tensor]] = {
    "logit": lambda logits, batch: logits.gather(1, batch.y[:, None]).squeeze(1),
    "loss": cross_entropies,
}
LEAST_GRADIENT = 1e-30  # the derivative of a direction is 1 / length, which float32 must hold after more products


@Facts(base="pgd-at", teacher=True)
def igd(model: nn.Module, batch: Batch, *, of: str = "logit", at: str = "clean") -> Tensor:
    """One minus the cosine between the input gradients of the network and of its teacher (Chen et al. 2023, 2305.09305).

    The lengths of the gradients do not matter. A gradient that is 0 everywhere has cosine 0 with any other. Batch norm and dropout
    of the network are in evaluation mode here, as the teacher's are.

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        of: "logit" for the logit of the label (of the larger part of a mixed image); "loss" for the cross-entropy, mixed labels included.
        at: "clean" for both gradients at the clean images, as in the paper; "base" for the images of the base loss.

    Returns:
        The mean over the batch, a scalar in [0, 2].

    Raises:
        InputError: for an option that cannot be, and where the batch has no teacher.
    """
    if batch.teacher is None:
        raise InputError("igd distils from a teacher: pass --teacher FILE")
    x, slopes = points_and_gradients(model, batch, of, at)
    cosines = (unit_gradients(slopes) * unit_gradients(teacher_gradients(batch.teacher, batch, x.detach(), of))).sum(1)
    return (1 - cosines).mean()


def points_and_gradients(model: nn.Module, batch: Batch, of: str, at: str) -> tuple[Tensor, Tensor]:
    """The points at which a gradient is taken, and the gradients there, (B, C, H, W) each, the latter with their graph.

    Args:
        model: the network in training.
        batch: the images of one step.
        of: a key of SCALARS, what is differentiated.
        at: "base" or "clean", see `points_and_logits`.
    """
    x, logits = points_and_logits(model, batch, at)
    (slopes,) = torch.autograd.grad(differentiated_scalars(logits, batch, of).sum(), x, create_graph=True, materialize_grads=True)
    return x, slopes


def teacher_gradients(teacher: nn.Module, batch: Batch, x: Tensor, of: str) -> Tensor:
    """The gradients of the teacher's scalar, (B, C, H, W), without a graph; the teacher is left as it was.

    Args:
        teacher: a network that gives logits (B, K).
        batch: gives the labels.
        x: (B, C, H, W), where the gradients are taken.
        of: a key of SCALARS, what is differentiated.
    """
    x = x.detach().requires_grad_()
    with freeze_model(teacher), torch.enable_grad():
        (slopes,) = torch.autograd.grad(differentiated_scalars(teacher(x), batch, of).sum(), x, materialize_grads=True)
    return slopes


def differentiated_scalars(logits: Tensor, batch: Batch, of: str) -> Tensor:
    """What is differentiated of each sample, (B,).

    Args:
        logits: (B, K).
        batch: gives the labels.
        of: a key of SCALARS.

    Raises:
        InputError: for another word.
    """
    return lookup(of, SCALARS, "scalar to differentiate (option of)")(logits, batch)


def unit_gradients(slopes: Tensor) -> Tensor:
    """The gradients scaled to length 1, (B, D), in float32 at least.

    Each is divided by its largest entry first, so that the squares of very small or large ones neither vanish nor overflow. The length
    is then 1 or more.

    Args:
        slopes: (B, C, H, W); one without an entry of LEAST_GRADIENT counts as 0, with a finite derivative.
    """
    flat = at_least_float32(slopes.flatten(1))
    largest = flat.detach().abs().amax(1, keepdim=True)
    scaled = flat / largest.masked_fill(largest < LEAST_GRADIENT, 1)
    length: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(1)
    return scaled / length
