"""Adversarial training: the loss is taken at images that an attack made worse."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robench.calls import frozen
from robench.draws import Draws
from robench.objectives.standard import cross_entropy
from robench.objectives.terms import Objective
from robench.options import number, whole
from robench.threat import Threat


def pgd_at(*, steps: int = 10, step_size: float | None = None) -> Objective:
    """Cross-entropy at the end of a PGD run (Madry et al. 2018, 1706.06083); step_size in pixel units, 2.5 eps / steps if not given."""
    whole("the steps of pgd-at", steps)
    if step_size is not None:
        number("the step_size of pgd-at", step_size, least=1e-9)
    return Objective(partial(pgd, steps=steps, step_size=step_size), cross_entropy)


def pgd(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws, *, steps: int = 10, step_size: float | None = None) -> Tensor:
    """The last point of `steps` ascents on the cross-entropy from an even random start in the threat, (B, C, H, W).

    Every sample runs all steps (an adversary for training does not stop at the first mistake), with the network in
    evaluation mode and its parameters frozen: only input gradients are computed.
    """
    alpha = 2.5 * threat.eps / steps if step_size is None else step_size
    x_adv = threat.sample(x, draws.child("craft"))
    with frozen(model), torch.enable_grad():
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y, reduction="sum"), x_adv)
            x_adv = threat.project(x, x_adv.detach() + alpha * threat.ascend(x_adv.detach(), grad))
    return x_adv.detach()
