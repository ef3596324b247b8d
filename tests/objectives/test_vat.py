"""VAT against the Fisher matrix of a linear model, and its settings in float32."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from batches import batch_of, linear, small_images, small_net
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.objectives.gradients import unit_vectors, unrecorded_logits
from robench.objectives.vat import adversarial_direction, vat


def divergence(clean: Tensor, moved: Tensor) -> Tensor:
    return (clean.softmax(1) * (clean.log_softmax(1) - moved.log_softmax(1))).sum(1).mean()


def fisher(weight: Tensor, x: Tensor) -> Tensor:
    """W^T (diag(p) - p p^T) W of each image, (B, D, D): the Hessian in r of KL(p_x || p_{x+r}) at r = 0 for a linear model."""
    p = (x.flatten(1) @ weight.T).softmax(1)
    return weight.T @ (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) @ weight


def test_the_power_method_finds_the_top_eigenvector_of_the_fisher_matrix():
    weight = torch.randn(4, 25, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    model, (x, y) = linear(weight, torch.zeros(4)), small_images()
    values, vectors = torch.linalg.eigh(fisher(weight, x))
    assert (values[:, -2] / values[:, -1] < 0.95).all()
    found = adversarial_direction(model, batch_of(model, x, y), 400, 1e-4).flatten(1)
    cosines = (found * vectors[:, :, -1]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-6)


def test_one_iteration_multiplies_the_random_start_by_the_fisher_matrix():
    weight = torch.randn(4, 25, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    model, (x, y) = linear(weight, torch.zeros(4)), small_images()
    batch = batch_of(model, x, y)
    start = batch.draws.child("vat").normal((1, 5, 5)).double()
    expected = F.normalize((fisher(weight, x) @ start.flatten(1)[:, :, None]).squeeze(2), dim=1)
    torch.testing.assert_close(adversarial_direction(model, batch, 1, 1e-6).flatten(1), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(adversarial_direction(model, batch, 0, 1e-6).flatten(1), F.normalize(start.flatten(1), dim=1))


def test_more_iterations_find_a_worse_direction_than_a_random_one():
    model, (x, y) = small_net(), small_images()
    none, one, ten = (vat(model, batch_of(model, x, y), radius=0.1, iterations=n).item() for n in (0, 1, 10))
    assert 3 * none < one < ten


def cosines_in_float32(xi: float, confidence: float = 1.0) -> Tensor:
    """Cosines of the direction in float32 with that in float64, (16,), on images of 3072 subpixels."""
    torch.manual_seed(0)
    single = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(1800, 10))
    single[-1].weight.data.mul_(confidence)
    double = copy.deepcopy(single).double()
    x, y = torch.rand(16, 3, 32, 32), torch.arange(16) % 10
    exact = adversarial_direction(double, batch_of(double, x.double(), y), 1, 1e-6)
    return (adversarial_direction(single, batch_of(single, x, y), 1, xi).double() * exact).flatten(1).sum(1)


def test_the_default_probe_survives_float32_where_that_of_the_paper_does_not():
    assert cosines_in_float32(0.1).min() > 0.999
    assert cosines_in_float32(1e-6).mean() < 0.5


def test_the_direction_is_sound_where_the_network_is_sure():
    assert cosines_in_float32(0.1, confidence=200).min() > 0.95


def test_the_direction_does_not_depend_on_autocast():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.GELU(), nn.Linear(8, 4))
    x, y = small_images()
    batch = batch_of(model, x.float(), y)
    expected = adversarial_direction(model, batch, 1, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adversarial_direction(model, batch, 1, 0.1), expected)
        assert vat(model, batch).dtype == torch.float32


def test_the_value_is_the_divergence_at_the_given_radius_and_its_target_is_not_trained():
    model, (x, y) = small_net(), small_images()
    d = adversarial_direction(model, batch_of(model, x, y), 1, 0.1)
    torch.testing.assert_close(d.flatten(1).norm(dim=1), torch.ones(5, dtype=torch.float64))
    value = vat(model, batch_of(model, x, y), radius=2.0)
    expected = divergence(model(x).detach(), model(x + 2 * d))
    torch.testing.assert_close(value, expected)
    weights = list(model.parameters())
    grads = torch.autograd.grad(value, weights)
    for grad, right in zip(grads, torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(grad, right)
    both = torch.autograd.grad(divergence(model(x), model(x + 2 * d)), weights)
    assert any((grad - other).norm() > 0.01 * grad.norm() for grad, other in zip(grads, both, strict=True))


def test_the_radius_goes_with_the_root_of_the_number_of_subpixels_if_it_is_not_given():
    model, (x, y) = small_net(), small_images()
    assert vat(model, batch_of(model, x, y)) == vat(model, batch_of(model, x, y), radius=math.sqrt(25) / 20)
    assert vat(model, batch_of(model, x, y)) != vat(model, batch_of(model, x, y), radius=0.3)


def test_no_label_plays_a_part():
    model, (x, y) = small_net(), small_images()
    batch = batch_of(model, x, y)
    value = vat(model, batch)
    assert vat(model, replace(batch, y=(y + 1) % 4)) == value
    assert vat(model, replace(batch, mixed=torch.full((5, 4), 0.25))) == value


def test_it_is_a_mean_over_images_that_stand_alone():
    model, (x, y) = small_net(), small_images()
    alone = [vat(model, batch_of(model, x[i : i + 1], y[i : i + 1], ids=torch.tensor([i]))).item() for i in range(5)]
    assert vat(model, batch_of(model, x, y)).item() == pytest.approx(sum(alone) / 5)


def test_an_adversarial_base_changes_nothing():
    model, (x, y) = small_net(), small_images()
    torch.testing.assert_close(vat(model, batch_of(model, x, y, x_adv=x + 0.05)).item(), vat(model, batch_of(model, x, y)).item())


def test_a_flat_network_has_no_divergence_and_no_nan():
    model, (x, y) = small_net(), small_images()
    model[-1].weight.data.zero_()
    value = vat(model, batch_of(model, x, y), iterations=2)
    assert value.item() == 0
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(value, list(model.parameters())))


def test_the_loss_is_taken_in_training_mode_and_leaves_batch_norm_as_it_was():
    model, (x, y) = small_net(nn.BatchNorm2d(3)), small_images()
    batch = batch_of(model, x, y)
    twin = copy.deepcopy(model)
    d = adversarial_direction(twin.eval(), batch, 1, 0.1)
    twin.train()
    expected = divergence(twin(x), twin(x + 0.25 * d)).item()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert vat(model, batch).item() == pytest.approx(expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_the_direction_is_that_of_the_network_in_evaluation_mode():
    model, (x, y) = small_net(nn.BatchNorm2d(3)), small_images()
    found = adversarial_direction(model, batch_of(model, x, y), 1, 0.01)
    model.eval()
    torch.testing.assert_close(found, adversarial_direction(model, batch_of(model, x, y), 1, 0.01))


def test_a_pass_that_is_not_recorded_gives_the_same_logits_and_gradients():
    model, (x, _) = small_net(nn.BatchNorm2d(3)), small_images()
    twin, weights = copy.deepcopy(model), list(model.parameters())
    found, expected = unrecorded_logits(model, x), twin(x)
    assert torch.equal(found, expected)
    assert not torch.equal(model[1].running_mean, twin[1].running_mean)
    pairs = zip(
        torch.autograd.grad(found.square().sum(), weights), torch.autograd.grad(expected.square().sum(), twin.parameters()), strict=True
    )
    assert all(torch.equal(grad, other) for grad, other in pairs)


def test_unit_vectors_are_made_of_the_smallest_and_the_largest_numbers():
    rows = torch.tensor([[3e-30, 4e-30], [3e30, 4e30], [0.0, 0.0]])
    torch.testing.assert_close(unit_vectors(rows), torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("options", "says"),
    [({"radius": 0}, "the radius of vat"), ({"iterations": -1}, "the iterations of vat"), ({"xi": 0.0}, "xi of vat")],
)
def test_wrong_options_are_refused(options, says):
    model, (x, y) = small_net(), small_images(2)
    with pytest.raises(InputError, match=says):
        vat(model, batch_of(model, x, y), **options)
