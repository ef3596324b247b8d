"""Input gradient regularisation without double backward (Finlay & Oberman 2019, "Scaleable input gradient regularization", 1905.11468).

With the cross-entropy l, its gradient g = dl/dx in D subpixels, and a direction d of Euclidean length 1 that is held fixed:

    R = 1/2 mean_B ((l(x + h d) - l(x)) / h)^2

d is the steepest direction for the threat's norm, so that R is half the squared dual norm of g, up to O(h), in value and in
gradient by the weights (d maximises d . g):

    threat    d                              2 R per sample
    l2        g / ||g||_2                    ||g||_2^2
    linf      sign(g) / sqrt(D)              ||g||_1^2 / D
    l1        sign(g_i) e_i, |g_i| largest   ||g||_inf^2

Every d has Euclidean length 1, as in the authors' code: h is the same distance, and a weight of the same order, for each norm and
image size. ||g||_1^2 itself is D times the linf line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from robench.core.checks import positive_option
from robench.core.recipes import lookup
from robench.core.types import Batch
from robench.objectives.double_backprop import loss_field
from robench.objectives.facts import Facts
from robench.objectives.gradients import unit_vectors


@Facts(second_derivative=False, lengths=("h",))
def tulip(model: nn.Module, batch: Batch, *, norm: str = "threat", h: float = 1e-2, at: str = "base") -> Tensor:
    """Half the squared slope of the loss along its steepest direction (Finlay & Oberman 2019).

    The cross-entropy is the plain one, without label smoothing. R belongs to the paper's weight lambda: it has the 1/2.

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        norm: the adversary's norm, which settles the direction: "threat" (the norm trained against), "linf", "l2" or "l1".
        h: length of the step, the Euclidean norm in pixel units, above 0.
        at: "base" for the images of the base loss, "clean" for the clean images.

    Returns:
        The scalar R of the module's head, at least 0.

    Raises:
        InputError: for an option that cannot be.
    """
    steepest = lookup(norm, {**DIRECTIONS, "threat": DIRECTIONS[batch.threat.norm]}, "norm of tulip")
    step = positive_option("the step h of tulip", h)
    field = loss_field(model, batch, at)
    (grad,) = torch.autograd.grad(field.out, field.x, torch.ones_like(field.out), retain_graph=True, materialize_grads=True)
    end_losses = field.at(field.x.detach() + step * steepest(grad.flatten(1)).view_as(grad))
    return ((end_losses - field.out) / step).square().mean() / 2


def sign_directions(grads: Tensor) -> Tensor:
    """The signs of the gradients, divided by sqrt(D), (B, D).

    Args:
        grads: (B, D).
    """
    return grads.sign() / math.sqrt(grads.shape[1])


def largest_entry_directions(grads: Tensor) -> Tensor:
    """The sign of the largest entry of each gradient in its place, and 0 elsewhere, (B, D).

    Args:
        grads: (B, D).

    Example:
        >>> largest_entry_directions(torch.tensor([[1.0, -3.0, 2.0]])).tolist()
        [[0.0, -1.0, 0.0]]
    """
    place = grads.abs().argmax(1, keepdim=True)
    return torch.zeros_like(grads).scatter(1, place, grads.gather(1, place).sign())


DIRECTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"linf": sign_directions, "l2": unit_vectors, "l1": largest_entry_directions}
