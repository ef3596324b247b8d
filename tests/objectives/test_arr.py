"""ARR against its formula written out, on linear models whose FGSM point is known."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from batches import THREATS, batch_of, linear, small_images, small_net
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.model_calls import freeze_model
from robench.core.threat import Threat
from robench.objectives.arr import arr, arr_images

DISTANCES = [("kl", 2), ("logits", 1), ("logits", 2), ("logits", math.inf), ("probs", 1), ("probs", 2), ("probs", 3.5), ("probs", math.inf)]


def written_out(distance: str, order: float, clean: Tensor, moved: Tensor) -> float:
    """The distance between two rows of logits, term by term."""
    p, q = ([math.exp(z) / sum(map(math.exp, row)) for z in row] for row in (clean.tolist(), moved.tolist()))
    if distance == "kl":
        return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    pairs = zip(*((clean.tolist(), moved.tolist()) if distance == "logits" else (p, q)), strict=True)
    sizes = [abs(a - b) for a, b in pairs]
    return max(sizes) if order == math.inf else sum(size**order for size in sizes) ** (1 / order)


@pytest.mark.parametrize(("distance", "order"), DISTANCES)
def test_it_is_the_mean_distance_to_the_fgsm_point_of_a_linear_model_written_out(distance, order):
    weight, bias = torch.randn(4, 25, generator=torch.Generator().manual_seed(3), dtype=torch.float64), torch.tensor([0.1, -0.2, 0.0, 0.3])
    x, y = small_images()
    model = linear(weight, bias)
    p = (x.flatten(1) @ weight.T + bias).softmax(1)
    slope = (p - F.one_hot(y, 4)) @ weight  # of the cross-entropy
    x_adv = (x.flatten(1) + 0.1 * slope.sign()).clamp(0, 1)
    rows = zip(x.flatten(1) @ weight.T + bias, x_adv @ weight.T + bias, strict=True)
    expected = sum(written_out(distance, order, clean, moved) for clean, moved in rows) / len(x)
    options = {} if distance == "kl" else {"order": order}
    found = arr(model, batch_of(model, x, y), distance=distance, steps=1, **options).item()
    assert expected > 0.01
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("distance", "order"), DISTANCES)
def test_a_class_that_no_image_can_take_changes_nothing(distance, order):
    weight, bias = torch.randn(4, 25, generator=torch.Generator().manual_seed(3), dtype=torch.float64), torch.zeros(4)
    more, lower = torch.cat((weight, torch.zeros(1, 25))), torch.cat((bias, torch.tensor([-1000.0])))
    x, y = small_images()
    few, many = linear(weight, bias), linear(more, lower)
    options = {"distance": distance} | ({} if distance == "kl" else {"order": order})
    torch.testing.assert_close(arr(many, batch_of(many, x, y), **options).item(), arr(few, batch_of(few, x, y), **options).item())


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_one_step_is_fgsm_from_the_image_over_the_whole_eps(threat):
    model, (x, y) = small_net(), small_images()
    at = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(at), y, reduction="sum"), at)
    expected = threat.project(x, x + threat.eps * threat.ascend(x, grad))
    found = arr_images(model, batch_of(model, x, y, threat), 1, None, random_start=False)
    torch.testing.assert_close(found, expected)
    assert threat.contains(x, found).all()
    moved = arr(model, batch_of(model, x, y, threat), distance="logits", order=1, steps=1)
    torch.testing.assert_close(moved.item(), (model(x) - model(expected)).abs().sum(1).mean().item())


def climbed(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, steps: int, alpha: float, eps: float) -> Tensor:
    """Linf PGD written plainly."""
    x_adv = start
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y, reduction="sum"), x_adv)
        x_adv = torch.minimum(torch.maximum(x_adv + alpha * grad.sign(), x - eps), x + eps).clamp(0, 1)
    return x_adv.detach()


@pytest.mark.parametrize(
    ("options", "drawn", "alpha"),
    [
        ({}, True, 0.25 / 3),
        ({"steps": 1}, False, 0.1),
        ({"steps": 1, "start": "random"}, True, 0.125),
        ({"steps": 2}, True, 0.125),
        ({"steps": 3}, True, 0.25 / 3),
        ({"steps": 3, "start": "clean"}, False, 0.25 / 3),
        ({"steps": 2, "step_size": 0.03}, True, 0.03),
    ],
)
def test_start_and_step_size_are_what_the_docstring_says(options, drawn, alpha):
    model, (x, y) = small_net(), small_images()
    batch = batch_of(model, x, y)
    start = batch.threat.sample(x, batch.draws.child("arr")) if drawn else x
    x_adv = climbed(model, x, y, start, options.get("steps", 3), alpha, 0.1)
    expected = sum(written_out("kl", 2, *rows) for rows in zip(model(x), model(x_adv), strict=True)) / len(x)
    assert arr(model, batch, **options).item() == pytest.approx(expected, rel=1e-9)


def test_the_adversary_climbs_the_cross_entropy_of_mixed_labels():
    model, (x, y) = small_net(), small_images()
    mixed = 0.6 * F.one_hot(y, 4) + 0.4 * F.one_hot((y + 1) % 4, 4)
    at = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(-(mixed * model(at).log_softmax(1)).sum(), at)
    batch = batch_of(model, x, y)
    found = arr_images(model, replace(batch, mixed=mixed), 1, None, random_start=False)
    torch.testing.assert_close(found, (x + 0.1 * grad.sign()).clamp(0, 1))
    assert not torch.equal(found, arr_images(model, batch, 1, None, random_start=False))


def test_a_threat_of_nothing_has_no_distance():
    model, (x, y) = small_net(nn.BatchNorm2d(3)), small_images()
    for distance in ("kl", "logits", "probs"):
        for steps in (1, 2):
            value = arr(model, batch_of(model, x, y, Threat("linf", 0.0)), distance=distance, steps=steps)
            assert value.item() == 0
            grads = torch.autograd.grad(value, list(model.parameters()))
            assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize(("distance", "order"), DISTANCES)
def test_the_gradient_flows_through_both_branches(distance, order):
    model, (x, y) = small_net(), small_images()
    weights = list(model.parameters())
    x_adv = arr_images(model, batch_of(model, x, y), 1, None, random_start=False)

    def slope(clean: Tensor, moved: Tensor) -> Tensor:
        if distance == "kl":
            value = (clean.softmax(1) * (clean.log_softmax(1) - moved.log_softmax(1))).sum(1).mean()
        elif distance == "logits":
            value = (clean - moved).norm(order, dim=1).mean()
        else:
            value = (clean.softmax(1) - moved.softmax(1)).norm(order, dim=1).mean()
        return torch.cat([grad.flatten() for grad in torch.autograd.grad(value, weights)])

    through_clean, through_moved = slope(model(x), model(x_adv).detach()), slope(model(x).detach(), model(x_adv))
    options = {"distance": distance} | ({} if distance == "kl" else {"order": order})
    grads = torch.autograd.grad(arr(model, batch_of(model, x, y), steps=1, **options), weights)
    found = torch.cat([grad.flatten() for grad in grads])
    torch.testing.assert_close(found, through_clean + through_moved)
    assert min((found - through_clean).norm(), (found - through_moved).norm()) > 1e-3 * found.norm()


def test_an_adversarial_base_changes_neither_the_point_nor_the_value():
    model, (x, y) = small_net(), small_images()
    adversarial = batch_of(model, x, y, x_adv=x + 0.05)
    torch.testing.assert_close(arr(model, adversarial).item(), arr(model, batch_of(model, x, y)).item())
    assert "clean logits" in adversarial.memo


def test_every_image_has_the_same_point_and_distance_in_any_batch():
    model, (x, y), rows = small_net(nn.BatchNorm2d(3)), small_images(), torch.tensor([4, 1])
    few, many = batch_of(model, x[rows], y[rows], ids=rows), batch_of(model, x, y)
    for steps, drawn in ((1, False), (3, True)):
        torch.testing.assert_close(arr_images(model, few, steps, None, drawn), arr_images(model, many, steps, None, drawn)[rows])
    plain = small_net()
    alone = [arr(plain, batch_of(plain, x[i : i + 1], y[i : i + 1], ids=torch.tensor([i])), steps=2).item() for i in range(len(x))]
    assert arr(plain, batch_of(plain, x, y), steps=2).item() == pytest.approx(sum(alone) / len(x))


def test_the_point_is_made_in_evaluation_mode_and_both_branches_are_taken_in_training_mode():
    model, (x, y) = small_net(nn.BatchNorm2d(3)), small_images()
    batch = batch_of(model, x, y)
    twin = copy.deepcopy(model)
    with freeze_model(twin):
        x_adv = climbed(twin, x, y, x, 1, 0.1, 0.1)
    clean, moved = twin(x), twin(x_adv)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = arr(model, batch, steps=1).item()
    assert found == pytest.approx(sum(written_out("kl", 2, *rows) for rows in zip(clean, moved, strict=True)) / len(x))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_training_on_it_lowers_it():
    model, (x, y) = small_net(), small_images()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    values = []
    for _ in range(5):
        value = arr(model, batch_of(model, x, y))
        values.append(value.item())
        optimizer.zero_grad()
        torch.autograd.backward(value, inputs=list(model.parameters()))
        optimizer.step()
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.99 * values[0]


def test_logits_in_bfloat16_are_compared_in_float32():
    class Coarse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_net().float()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).bfloat16()

    model, (x, y) = Coarse(), small_images()
    for distance in ("kl", "logits", "probs"):
        assert arr(model, batch_of(model, x.float(), y), distance=distance).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"distance": "js"}, "unknown distance of arr"),
        ({"distance": "logits", "order": 0.5}, "the order of arr"),
        ({"distance": "logits", "order": math.nan}, "the order of arr"),
        ({"distance": "logits", "order": "two"}, "the order of arr"),
        ({"order": 1}, "distance=kl has no order"),
        ({"steps": 0}, "the steps of arr"),
        ({"step_size": 0}, "the step_size of arr"),
        ({"start": "corner"}, "unknown start of arr"),
    ],
)
def test_wrong_options_are_refused_with_the_way_out(options, says):
    model, (x, y) = small_net(), small_images(2)
    with pytest.raises(InputError, match=says):
        arr(model, batch_of(model, x, y), **options)
