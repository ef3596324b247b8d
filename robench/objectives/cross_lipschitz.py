"""Cross-Lipschitz regularisation (Hein & Andriushchenko 2017, "Formal guarantees on the robustness of a classifier", 1705.08475).

With g_c = dz_c/dx, the rows of the (K, D) Jacobian J of the logits:

    R = 1/K^2 mean_B sum_{l,m} ||g_l - g_m||_2^2

The double sum is 2K sum_c ||g_c||^2 - 2 ||sum_c g_c||^2 = 2K ||P J||_F^2, where P = I - 1 1^T / K takes the mean off, so that

    R = 2/K mean_B ||P J||_F^2 = 2/K mean_B E ||J^T P s||^2

for random signs s: one gradient of the centred logits, mixed by s, is an unbiased estimate. R is 4/K times sagr at rho=1 on
centred logits, and does not change when one function is added to all logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robench.core.checks import whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import lookup
from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.gradients import Field, class_gradients, field_of, squared_vjp_norm
from robench.objectives.sagr import centred_logits


@Facts(weight=0.03)
def cross_lipschitz(model: nn.Module, batch: Batch, *, estimator: str = "rademacher", projections: int = 1, at: str = "base") -> Tensor:
    """The squared distances between the gradients of the classes (Hein & Andriushchenko 2017).

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        estimator: "rademacher", unbiased, by random signs on the centred logits (our choice); "exact", class by class.
        projections: number n of random sign vectors of the rademacher estimator.
        at: "base" for the images of the base loss, "clean" for the clean images.

    Returns:
        The scalar R = 1/K^2 mean_B sum_lm ||g_l - g_m||^2, at least 0.

    Raises:
        InputError: for an option that cannot be.
    """
    field = field_of(model, batch, at, centred_logits)
    estimate = lookup(estimator, CROSS_LIPSCHITZ_ESTIMATORS, "estimator of cross_lipschitz")
    size = estimate(field, batch.draws.child("cross_lipschitz"), whole_option("projections", projections))
    return 2 / field.out.shape[1] * size.mean()


def cross_lipschitz_rademacher(field: Field, draws: Draws, n: int) -> Tensor:
    """An unbiased estimate of ||P J||_F^2 per sample, (B,): the mean of ||J^T P s||^2 over vectors s of random signs.

    Args:
        field: of the centred logits.
        draws: random numbers of the samples.
        n: number of vectors s.
    """
    return torch.stack([squared_vjp_norm(field, draws.signs(field.out.shape[1:], step)) for step in range(n)]).mean(0)


def cross_lipschitz_exact(field: Field, draws: Draws, n: int) -> Tensor:  # noqa: ARG001 - the signature of every estimator
    """||P J||_F^2 per sample, (B,), class by class.

    Args:
        field: of the centred logits.
        draws: not read.
        n: 1.

    Raises:
        InputError: for another n, which this estimator does not read.
    """
    if n != 1:
        raise InputError(
            "the exact estimator of cross_lipschitz projects on nothing: leave projections out, or choose estimator=rademacher"
        )
    return torch.stack([grad.square().sum(1) for grad in class_gradients(field)]).sum(0)


CROSS_LIPSCHITZ_ESTIMATORS = {"rademacher": cross_lipschitz_rademacher, "exact": cross_lipschitz_exact}
