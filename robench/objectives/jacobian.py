"""Jacobian regularisation (Hoffman, Roberts & Yaida 2019, "Robust learning with Jacobian regularization", 1908.02729)."""

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


@Facts(weight=0.01)
def jacobian(model: nn.Module, batch: Batch, *, estimator: str = "sphere", projections: int = 1, at: str = "base") -> Tensor:
    """The squared norm of the Jacobian of the logits (Hoffman et al. 2019, 1908.02729).

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        estimator: "sphere", K/n times the sum of ||J^T v||^2 over random v of length 1; "exact", class by class.
        projections: number n of the random v of the sphere estimator.
        at: "base" for the images of the base loss, "clean" for the clean images.

    Returns:
        The scalar R = 1/2 mean_B ||J||_F^2, at least 0.

    Raises:
        InputError: for an option that cannot be.
    """
    field = field_of(model, batch, at, lambda logits: logits)
    estimate = lookup(estimator, JACOBIAN_ESTIMATORS, "estimator of jacobian")
    return estimate(field, batch.draws.child("jacobian"), whole_option("projections", projections)).mean() / 2


def jacobian_sphere(field: Field, draws: Draws, n: int) -> Tensor:
    """An unbiased estimate of ||J||_F^2 per sample, (B,): K times the mean of ||J^T v||^2 over even directions v.

    Args:
        field: of the logits.
        draws: random numbers of the samples.
        n: number of directions v.
    """
    K = field.out.shape[1]
    normals = [draws.normal((K,), step).to(field.out) for step in range(n)]
    squares = [squared_vjp_norm(field, v / torch.linalg.vector_norm(v, dim=1, keepdim=True)) for v in normals]
    return K * torch.stack(squares).mean(0)


def jacobian_exact(field: Field, draws: Draws, n: int) -> Tensor:  # noqa: ARG001 - the signature of every estimator
    """||J||_F^2 per sample, (B,), class by class.

    Args:
        field: of the logits.
        draws: not read.
        n: 1.

    Raises:
        InputError: for another n, which this estimator does not read.
    """
    if n != 1:
        raise InputError("the exact estimator of jacobian projects on nothing: leave projections out, or choose estimator=sphere")
    return torch.stack([grad.square().sum(1) for grad in class_gradients(field)]).sum(0)


JACOBIAN_ESTIMATORS = {"sphere": jacobian_sphere, "exact": jacobian_exact}
