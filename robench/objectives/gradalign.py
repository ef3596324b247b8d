"""GradAlign (Andriushchenko & Flammarion 2020, "Understanding and improving fast adversarial training", 2007.02617).

    R = mean_B (1 - cos(g(x), g(x + U))),   g = gradient of the cross-entropy by the input

U is even in the ball of the threat, cut with the box. Where the two gradients point alike, the loss is close to linear inside the ball
and one step of FGSM is enough: the term keeps single-step training from catastrophic overfitting.

Both gradients keep their graphs, as the formula asks. The authors' code trains through g(x + U) alone to save time, which they found
to make no substantial difference: constant=true. Averaged over U the two agree to leading order in eps, since what g(x) adds is odd in
U; in a single draw it cancels the greater part of the noise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robench.core.checks import switch_option
from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.gradients import at_least_float32, evaluation_logits, points_and_logits, unit_vectors
from robench.objectives.terms import cross_entropies


@Facts(weight=0.2, base="fgsm-at", single_step=True)
def gradalign(model: nn.Module, batch: Batch, *, constant: bool = False) -> Tensor:
    """One minus the cosine between the gradients at an image and near it (Andriushchenko & Flammarion 2020, 2007.02617).

    The cross-entropy is the plain one, without label smoothing, and batch norm is in evaluation mode. A sample where a gradient is 0
    has no angle and counts as 0 (the authors' code leaves it out of the mean, which would make the weight depend on the batch).

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        constant: take g(x) as a target that is not trained; False trains the weights through both gradients.

    Returns:
        The mean over the batch, a scalar in [0, 2].

    Raises:
        InputError: for an option that cannot be.
    """
    here = flat_loss_gradients(*points_and_logits(model, batch, "clean"), batch)
    near = batch.threat.sample(batch.x.detach(), batch.draws.child("gradalign")).requires_grad_()
    there = flat_loss_gradients(near, evaluation_logits(model, near), batch)
    return cosine_distances(here.detach() if switch_option("constant", constant) else here, there).mean()


def flat_loss_gradients(x: Tensor, logits: Tensor, batch: Batch) -> Tensor:
    """The gradient of each sample's cross-entropy by x, (B, D), in at least float32 and with its graph.

    Args:
        x: (B, C, H, W), requires grad.
        logits: (B, K), with a graph to x.
        batch: gives the labels.
    """
    (grad,) = torch.autograd.grad(cross_entropies(logits, batch).sum(), x, create_graph=True, materialize_grads=True)
    return at_least_float32(grad.flatten(1))


def cosine_distances(a: Tensor, b: Tensor) -> Tensor:
    """One minus the cosine of the angle between rows, (B,), of whatever length; 0 where a row is 0.

    Args:
        a: (B, D).
        b: (B, D).
    """
    cosine = (unit_vectors(a) * unit_vectors(b)).sum(1)
    return torch.where((a != 0).any(1) & (b != 0).any(1), 1 - cosine, 0.0)
