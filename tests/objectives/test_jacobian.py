"""Jacobian regularisation against the Frobenius norm written out."""

from __future__ import annotations

import math

import pytest
import torch
from batches import batch_of, small_images, small_net
from torch import Tensor, nn
from torch.func import jacrev, vmap

from robench.core.errors import InputError
from robench.objectives.jacobian import jacobian


def half_frobenius(model: nn.Module, x: Tensor) -> Tensor:
    return vmap(jacrev(lambda image: model(image[None])[0]))(x).square().flatten(1).sum(1).mean().detach() / 2


def test_exact_is_half_the_mean_squared_frobenius_norm():
    model, (x, y) = small_net(), small_images(5)
    found = jacobian(model, batch_of(model, x, y), estimator="exact")
    torch.testing.assert_close(found.detach(), half_frobenius(model, x), rtol=1e-10, atol=0)


@pytest.mark.parametrize("projections", [1, 3])
def test_the_mean_over_many_directions_is_exact_within_four_standard_errors(projections):
    model, (x, y) = small_net(), small_images(1)
    exact, n, means = half_frobenius(model, x).item(), 100, []
    for chunk in range(50):
        copies = batch_of(model, x.expand(n, -1, -1, -1), y.expand(n), ids=torch.arange(n) + n * chunk)
        means.append(jacobian(model, copies, projections=projections).item())
    found = torch.tensor(means, dtype=torch.float64)
    error = found.std().item() / math.sqrt(len(means))
    assert 0 < error < 0.02 * exact
    assert abs(found.mean().item() - exact) < 4 * error


def test_four_projections_have_a_quarter_of_the_variance_of_one():
    model, (x, y) = small_net(), small_images(1)

    def variance(projections: int) -> float:
        batches = [batch_of(model, x, y, ids=torch.tensor([i])) for i in range(200)]
        return torch.stack([jacobian(model, batch, projections=projections) for batch in batches]).var().item()

    assert 0.15 < variance(4) / variance(1) < 0.4


def test_one_direction_is_exact_where_the_rows_are_orthonormal():
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 4)).double()
    model[1].weight.data.copy_(3 * torch.eye(4, 25))
    x, y = small_images(5)
    torch.testing.assert_close(jacobian(model, batch_of(model, x, y)).item(), 4 * 9 / 2)


def test_the_gradient_in_the_weights_is_that_of_the_frobenius_norm():
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 4)).double()
    x, y = small_images(5)
    (grad,) = torch.autograd.grad(jacobian(model, batch_of(model, x, y), estimator="exact"), model[1].weight)
    torch.testing.assert_close(grad, model[1].weight.detach())


def test_batch_norm_is_taken_in_evaluation_mode_and_left_as_it_was():
    model, (x, y) = small_net(nn.BatchNorm2d(3)), small_images(5)
    batch = batch_of(model, x, y)
    before = model[1].running_mean.clone()
    found = jacobian(model, batch, estimator="exact").detach()
    assert model[1].training
    assert torch.equal(model[1].running_mean, before)
    torch.testing.assert_close(found, half_frobenius(model.eval(), x), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"estimator": "sphere", "projections": 0}, "whole number"),
        ({"estimator": "exact", "projections": 2}, "projects on nothing"),
        ({"estimator": "ball"}, "unknown estimator"),
        ({"at": "start"}, "unknown place"),
    ],
)
def test_wrong_options_are_refused_with_the_way_out(options, says):
    model, (x, y) = small_net(), small_images(2)
    with pytest.raises(InputError, match=says):
        jacobian(model, batch_of(model, x, y), **options)
