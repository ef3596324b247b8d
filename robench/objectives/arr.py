"""ARR, adversarial robustness regularisation: the answers to an image and to its adversarial image are drawn together.

    R = mean_B D(f(x), f(x_adv)),   x_adv from FGSM or a few PGD steps on the cross-entropy at x, inside the threat

    D = KL(softmax f(x) || softmax f(x_adv)), or the Lq norm of f(x) - f(x_adv) or of softmax f(x) - softmax f(x_adv)

With the cross-entropy at x as the base loss and KL this is TRADES (Zhang et al. 2019, 1901.08573) with another adversary: the label's
cross-entropy is climbed, not the divergence, whose gradient at x itself is 0. FGSM is Goodfellow et al. 2015 (1412.6572), PGD Madry
et al. 2018 (1706.06083). D is taken sample by sample and summed, not averaged, over the classes; gradients flow through both branches.

The adversary runs in evaluation mode with frozen parameters. Both branches are taken in the mode of the model. The pass at x_adv leaves
the running statistics of batch norm as they are, so that a regulariser changes nothing but the loss (our choice; the running statistics
of TRADES see both kinds of images).

A single step invites catastrophic overfitting, and a low weight gradients that mislead PGD: judge the result with an AutoAttack. Three
steps are the default (our choice): on MNIST at eps 0.3 one step left nothing robust, and three 78 % (docs/training.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from robench.core.checks import number_option
from robench.core.errors import InputError
from robench.core.recipes import lookup
from robench.core.types import Batch
from robench.objectives.adversarial import check_steps, projected_ascent
from robench.objectives.facts import Facts
from robench.objectives.gradients import at_least_float32, unrecorded_logits
from robench.objectives.terms import clean_logits, cross_entropies, kl


@Facts(weight=6.0, second_derivative=False)
def arr(
    model: nn.Module,
    batch: Batch,
    *,
    distance: str = "kl",
    order: float = 2,
    steps: int = 3,
    step_size: float | None = None,
    start: str = "auto",
) -> Tensor:
    """The mean distance between the answers at an image and at an adversarial point made from it.

    The point is the regulariser's own whatever the base objective is, and its distance is to the clean image.

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        distance: "kl" for the divergence; "logits" or "probs" for a norm of the difference of logits or of probabilities.
        order: q of that Lq norm, in [1, inf].
        steps: ascents of the adversary; 1 from the image itself is FGSM, which networks learn to fool at large radii.
        step_size: in pixel units; if not given eps for FGSM, else 2.5 eps / steps, but at most the 1.25 eps of Wong et al. 2020
            (2001.03994).
        start: "clean" at the image; "random" at an even draw from the threat; "auto" (our choice) clean for one step, random for more.

    Returns:
        The scalar R of the module's head, at least 0.

    Raises:
        InputError: for an option that cannot be.
    """
    measure = lookup(distance, DISTANCES, "distance of arr")
    refuse_norm_order(distance, order)
    check_steps("arr", steps, step_size)
    random_start = lookup(start, STARTS, "start of arr")
    x_adv = arr_images(model, batch, steps, step_size, steps > 1 if random_start is None else random_start)
    return measure(at_least_float32(clean_logits(model, batch)), at_least_float32(unrecorded_logits(model, x_adv)), order).mean()


def refuse_norm_order(distance: str, order: float) -> None:
    """Refuses an order that is no norm's, or that the divergence would not read.

    Args:
        distance: a key of DISTANCES.
        order: q of the Lq norm.

    Raises:
        InputError: for an order below 1, or one that is given with distance=kl.
    """
    if order != math.inf:
        number_option("the order of arr (unless it is inf)", order, least=1)
    if distance == "kl" and order != 2:
        raise InputError("distance=kl has no order: leave it out, or choose distance=logits or probs")


def arr_images(model: nn.Module, batch: Batch, steps: int, step_size: float | None, random_start: bool) -> Tensor:
    """The point where the ascent on the cross-entropy ends, (B, C, H, W), without a graph.

    Args:
        model: the network that is attacked.
        batch: gives images, labels, threat and the random numbers of the start.
        steps: number of ascents.
        step_size: in pixel units, or None for the default of `arr`.
        random_start: start at an even draw from the threat, else at the image.
    """
    x, eps = batch.x.detach(), batch.threat.eps
    begin = batch.threat.sample(x, batch.draws.child("arr")) if random_start else x
    if step_size is None:
        step_size = eps if steps == 1 and not random_start else eps * min(2.5 / steps, 1.25)
    return projected_ascent(model, x, begin, batch.threat, lambda logits: cross_entropies(logits, batch), steps=steps, step_size=step_size)


def divergence(clean: Tensor, moved: Tensor, order: float) -> Tensor:  # noqa: ARG001 - the signature of every distance
    """KL(softmax clean || softmax moved) of each sample, (B,).

    Args:
        clean: logits (B, K).
        moved: logits (B, K) at the adversarial point.
        order: not read.
    """
    return kl(clean, moved)


def norm_of(difference: Tensor, order: float) -> Tensor:
    """The Lq norm of each row, (B,); its derivative at 0 is 0.

    Args:
        difference: (B, K).
        order: q, in [1, inf].
    """
    length: Tensor = torch.linalg.vector_norm(difference, ord=order, dim=1)
    return length


DISTANCES: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "kl": divergence,
    "logits": lambda clean, moved, order: norm_of(clean - moved, order),
    "probs": lambda clean, moved, order: norm_of(clean.softmax(1) - moved.softmax(1), order),
}
STARTS = {"auto": None, "clean": False, "random": True}  # whether the start is drawn; None: where there are several steps
