"""GradAlign against cosines written out, and where they are known: linear models and flat ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from batches import THREATS, batch_of, small_images, small_net, weight_gradients
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.threat import Threat
from robench.core.types import Batch
from robench.objectives.gradalign import cosine_distances, gradalign

smoothed = partial(batch_of, smoothing=0.1)


def written_out(model: nn.Module, batch: Batch, held: tuple[bool, bool] = (False, False)) -> Tensor:
    """1 - cos of the two gradients, image by image; `held` says which of them is a constant."""
    points = (batch.x, batch.threat.sample(batch.x, batch.draws.child("gradalign")))
    terms = []
    for i in range(len(batch.x)):
        grads = []
        for point, constant in zip(points, held, strict=True):
            at = point[i : i + 1].clone().requires_grad_()
            loss = F.cross_entropy(model(at), batch.y[i : i + 1])
            (grad,) = torch.autograd.grad(loss, at, create_graph=True)
            grads.append(grad.detach().flatten() if constant else grad.flatten())
        terms.append(1 - F.cosine_similarity(*grads, dim=0))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_it_is_one_minus_the_cosine_of_two_gradients_written_out(threat, shift):
    model, (x, y) = small_net(), small_images()
    batch = smoothed(model, x, y, threat, x_adv=x + shift)
    expected = written_out(model, batch)
    assert expected > 1e-6
    torch.testing.assert_close(gradalign(model, batch), expected)


def test_both_gradients_are_trained_unless_the_one_at_the_image_is_held_constant():
    model, (x, y) = small_net(), small_images()
    batch = smoothed(model, x, y)
    both, one = weight_gradients(model, written_out(model, batch)), weight_gradients(model, written_out(model, batch, (True, False)))
    assert (both - one).norm() > 0.1 * both.norm()
    torch.testing.assert_close(weight_gradients(model, gradalign(model, batch)), both)
    torch.testing.assert_close(weight_gradients(model, gradalign(model, batch, constant=True)), one)
    torch.testing.assert_close(gradalign(model, batch, constant=True), gradalign(model, batch))


def test_two_classes_of_a_linear_model_are_aligned_however_large_the_ball_is():
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 2)).double()
    x, y = small_images()
    for eps in (0.01, 1.0):
        assert abs(gradalign(model, smoothed(model, x, y % 2, Threat("linf", eps))).item()) < 1e-12


def test_a_curved_loss_is_less_aligned_in_a_larger_ball():
    model, (x, y) = small_net(), small_images()
    small, large = (gradalign(model, smoothed(model, x, y, Threat("linf", eps))).item() for eps in (0.01, 0.1))
    assert 0 < 10 * small < large
    assert abs(gradalign(model, smoothed(model, x, y, Threat("linf", 0.0))).item()) < 1e-12


def test_angles_do_not_depend_on_lengths_and_are_nothing_for_a_row_of_zeros():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [2.0, 1.0]])
    b = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0], [0.0, 5.0], [1.0, 2.0], [0.0, 0.0]])
    expected = torch.tensor([0, 1, 2, 1 - 0.5**0.5, 0, 0])
    for length in (1e-30, 1.0, 1e30):
        torch.testing.assert_close(cosine_distances(length * a, b), expected)
        torch.testing.assert_close(cosine_distances(a, length * b), expected)


def test_an_image_without_a_gradient_counts_as_aligned_and_the_mean_is_over_all_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    model[1].weight.data.abs_()
    model[1].bias.data.fill_(-1.0)
    x, y = small_images(4)
    x[:2] = 0  # no unit is awake within the ball
    some, awake = torch.tensor([2, 3]), smoothed(model, x, y, Threat("linf", 0.05))
    value = gradalign(model, awake)
    alone = gradalign(model, smoothed(model, x[some], y[some], Threat("linf", 0.05), ids=some))
    assert alone > 0
    torch.testing.assert_close(value, alone / 2)
    assert weight_gradients(model, value).isfinite().all()


def test_a_flat_network_gives_nothing_and_no_nan():
    model, (x, y) = small_net(), small_images()
    model[-1].weight.data.zero_()
    value = gradalign(model, smoothed(model, x, y))
    assert value.item() == 0
    assert weight_gradients(model, value).isfinite().all()


def test_a_confident_network_in_float32_has_finite_cosines():
    model, (x, y) = small_net().float(), small_images()
    y = model(x.float()).argmax(1)
    model[-1].weight.data.mul_(1000)
    model[-1].bias.data.mul_(1000)
    batch = smoothed(model, x.float(), y, Threat("linf", 0.001))
    assert F.cross_entropy(model(x.float()), y, reduction="none").min() < 1e-20
    value = gradalign(model, batch)
    assert 0 <= value.item() <= 2
    assert weight_gradients(model, value).isfinite().all()


def test_mixed_labels_are_those_of_the_cross_entropy():
    model, (x, y) = small_net(), small_images()
    batch = smoothed(model, x, y)
    sure = replace(batch, mixed=F.one_hot(y, 4).double())
    torch.testing.assert_close(gradalign(model, sure), gradalign(model, batch))
    assert not torch.isclose(gradalign(model, replace(batch, mixed=F.one_hot((y + 1) % 4, 4).double())), gradalign(model, batch))


def test_batch_norm_is_in_evaluation_mode_so_that_images_stand_alone():
    model, (x, y) = small_net(nn.BatchNorm2d(3)), small_images()
    batch = smoothed(model, x, y)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = gradalign(model, batch)
    alone = [gradalign(model, replace(batch, x=x[i : i + 1], y=y[i : i + 1], draws=batch.draws.take(torch.tensor([i])))) for i in range(5)]
    torch.testing.assert_close(found, torch.stack(alone).mean())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(found, written_out(model.eval(), batch))


def test_the_switch_is_true_or_false():
    model, (x, y) = small_net(), small_images(2)
    with pytest.raises(InputError, match="constant must be true or false"):
        gradalign(model, smoothed(model, x, y), constant="both")
