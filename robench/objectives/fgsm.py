"""Adversarial training with one signed step, three papers that differ in where it starts, how long it is and whether it is clipped.

    x_0   = x + u,  u even in the ball of radius start * eps,  clipped to [0, 1]
    x_adv = P(x_0 + step * eps * sign(grad CE(f(x_0), y))),    L = CE(f(x_adv), y)

FGSM-AT (Goodfellow, Shlens & Szegedy 2015, 1412.6572): start 0, step 1. FGSM-RS, "fast" adversarial training (Wong, Rice & Kolter
2020, 2001.03994): start 1, step 1.25, and P projects to the threat. N-FGSM (de Jorge et al. 2022, 2202.01181): start 2, step 1, and P
clips to [0, 1] alone, so x_adv lies outside the threat by design, at most start + step times eps away.
All three fall to catastrophic overfitting in long runs or at large eps, the first one soonest.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from robench.core.checks import number_option, positive_option, switch_option
from robench.core.model_calls import freeze_model
from robench.core.threat import Threat
from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.standard import ce_at_images
from robench.objectives.terms import Objective, cross_entropies


@Facts(single_step=True)
def fgsm_at(*, start: float = 0.0, step: float = 1.0, clip: bool = True) -> Objective:
    """Cross-entropy at the end of one steepest step (Goodfellow et al. 2015, 1412.6572; Wong et al. 2020, 2001.03994).

    Args:
        start: radius of the ball from which the start is drawn evenly, in multiples of eps, at least 0; 0 starts at the image itself.
        step: length of the step, in multiples of eps, above 0.
        clip: project the end to the threat; False keeps its pixels in [0, 1] and nothing else (de Jorge et al. 2022, 2202.01181).

    Returns:
        The objective; it logs "ce".

    Raises:
        InputError: for an option that cannot be.
    """
    number_option("the start of fgsm-at, in multiples of eps,", start)
    positive_option("the step of fgsm-at, in multiples of eps,", step)
    return Objective(partial(fgsm_images, start=start, step=step, clip=switch_option("clip of fgsm-at", clip)), ce_at_images)


def fgsm_images(model: nn.Module, batch: Batch, *, start: float, step: float, clip: bool) -> Tensor:
    """The end of one step up the cross-entropy along the steepest direction of the threat's norm, (B, C, H, W).

    The papers give it for linf, where the direction is the sign of the gradient; that of l2 and l1 is our reading. The network is in
    evaluation mode with frozen parameters, as for every adversary here (our choice: Wong et al. and de Jorge et al. attack it in
    training mode in their code).

    Args:
        model: the network that is attacked.
        batch: gives images, labels, threat and the random numbers of the start.
        start: radius of the ball from which the start is drawn, in multiples of eps.
        step: length of the step, in multiples of eps.
        clip: project the end to the threat, else to [0, 1] alone.
    """
    x, threat = batch.x.detach(), batch.threat
    x_0 = Threat(threat.norm, start * threat.eps).sample(x, batch.draws.child("fgsm")) if start else x
    leaf = x_0.detach().requires_grad_()
    with freeze_model(model), torch.enable_grad():
        (grad,) = torch.autograd.grad(cross_entropies(model(leaf), batch).sum(), leaf)
    end = x_0 + step * threat.eps * threat.ascend(x_0, grad)
    return threat.project(x, end) if clip else end.clamp(0, 1)
