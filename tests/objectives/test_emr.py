"""Effective margin regularisation against closed forms and a double backward pass written out."""

from __future__ import annotations

import copy

import pytest
import torch
from batches import batch_of, random_linear, small_images, small_net
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.types import Batch
from robench.objectives.emr import emr


def images() -> Tensor:
    return small_images(6)[0]


def batch_for(model: nn.Module, x: Tensor | None = None, *, moved: float = 0.0) -> Batch:
    x = (images() if x is None else x).to(next(model.parameters()).dtype)
    return batch_of(model, x, torch.arange(len(x)) % 4, x_adv=x + moved)


def written_out(model: nn.Module, x: Tensor, temperature: float, attached: bool = False) -> Tensor:
    """The penalty image by image; `attached` lets p be differentiated too."""
    squares = []
    for image in x.detach().unbind():
        leaf = image[None].clone().requires_grad_()
        logits = model(leaf)[0]
        p = torch.softmax(logits / temperature, 0)
        held = p.detach()
        (grad,) = torch.autograd.grad(sum(held[c] * logits[c] for c in range(4)), leaf, create_graph=True)
        if attached:
            rows = torch.stack([torch.autograd.grad(logits[c], leaf, create_graph=True)[0] for c in range(4)])
            grad = (p[:, None, None, None, None] * rows).sum(0)
        squares.append((grad * grad).sum())
    return torch.stack(squares).mean()


@pytest.mark.parametrize("temperature", [0.1, 1, 40])
def test_of_a_linear_network_it_is_the_squared_length_of_the_rows_weighted_by_p(temperature):
    model = random_linear()
    batch = batch_for(model)
    p = (batch.logits / temperature).softmax(1)
    expected = (p @ model[1].weight).square().sum(1).mean()
    torch.testing.assert_close(emr(model, batch, temperature=temperature), expected, rtol=1e-12, atol=0)


def test_the_defaults_are_those_of_the_paper_with_pgd_training():
    model = small_net()
    batch = batch_for(model, moved=0.3)
    assert emr(model, batch) == emr(model, batch, temperature=40, at="base")
    assert emr(model, batch) != emr(model, batch, temperature=1)
    assert emr(model, batch) != emr(model, batch, at="clean")


@pytest.mark.parametrize(("at", "moved"), [("base", 0.3), ("clean", 0.0)])
@pytest.mark.parametrize("norm_layer", [nn.Identity, nn.BatchNorm2d])
def test_value_and_gradient_are_those_of_a_double_backward_written_out(at, moved, norm_layer):
    model = small_net(norm_layer(3))
    found = emr(model, batch_for(model, moved=0.3), temperature=0.5, at=at)
    grads = torch.autograd.grad(found, list(model.parameters()), allow_unused=True, materialize_grads=True)
    expected = written_out(model.eval(), images() + moved, 0.5)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, list(model.parameters()), allow_unused=True, materialize_grads=True))


def test_p_is_held_fixed_in_the_gradient():
    model = small_net()
    weight = model[-1].weight
    found = torch.autograd.grad(emr(model, batch_for(model), temperature=0.5), weight)[0]
    held, attached = (torch.autograd.grad(written_out(model, images(), 0.5, attached), weight)[0] for attached in (False, True))
    torch.testing.assert_close(found, held)
    assert (attached - held).norm() > 1e-3 * held.norm()


def test_a_hot_temperature_weighs_all_classes_alike_and_a_cold_one_the_predicted_class_alone():
    model = small_net()
    batch = batch_for(model)

    def squared(weights: Tensor) -> float:
        (grad,) = torch.autograd.grad((weights * model(batch.x_adv)).sum(), batch.x_adv)
        return grad.square().sum((1, 2, 3)).mean().item()

    assert emr(model, batch, temperature=1e9).item() == pytest.approx(squared(torch.full((6, 4), 0.25)), rel=1e-6)
    assert emr(model, batch, temperature=1e-9).item() == pytest.approx(squared(F.one_hot(batch.logits.argmax(1), 4)), rel=1e-12)


def test_an_even_p_sees_the_mean_logit_alone_which_no_prediction_depends_on():
    model = small_net()
    shifted = copy.deepcopy(model)
    shifted[-1].weight.data.sub_(model[-1].weight.mean(0))
    torch.testing.assert_close(shifted(images()).softmax(1).argmax(1), model(images()).argmax(1))
    assert emr(shifted, batch_for(shifted), temperature=1e9).item() < 1e-12 * emr(model, batch_for(model), temperature=1e9).item()
    assert emr(shifted, batch_for(shifted), temperature=0.01).item() > 0.1 * emr(model, batch_for(model), temperature=0.01).item()


def test_the_size_of_the_batch_does_not_matter():
    model = small_net()
    whole = emr(model, batch_for(model)).item()
    halves = [emr(model, batch_for(model, half)).item() for half in images().split(3)]
    assert halves[0] != pytest.approx(halves[1], rel=1e-6)
    assert sum(halves) / 2 == pytest.approx(whole, rel=1e-12)
    assert emr(model, batch_for(model, torch.cat((images(), images())))).item() == pytest.approx(whole, rel=1e-12)


def test_lambda_of_the_published_code_is_the_weight_times_the_batch_size():
    model, x = small_net(), images()
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    p = (logits / 40).softmax(1).detach()
    (grad,) = torch.autograd.grad((p * logits).sum(1).mean(), leaf)
    torch.testing.assert_close(3 * grad.square().sum(), 3 / 6 * emr(model, batch_for(model)).detach())


def test_it_grows_with_the_square_of_the_logits_where_p_is_even():
    model = small_net()
    before = emr(model, batch_for(model), temperature=1e9).item()
    model[-1].weight.data.mul_(3)
    assert emr(model, batch_for(model), temperature=1e9).item() == pytest.approx(9 * before, rel=1e-6)


def test_batch_norm_and_dropout_are_in_evaluation_mode_and_left_as_they_were():
    model = small_net(nn.BatchNorm2d(3), nn.Dropout(0.5))
    batch = batch_for(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = emr(model, batch)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(found, written_out(copy.deepcopy(model).eval(), images(), 40))
    assert batch.x_adv.grad is None


def test_a_gradient_of_zero_is_a_penalty_of_zero_without_nan():
    model = small_net()
    model[-1].weight.data.zero_()
    value = emr(model, batch_for(model))
    assert value.item() == 0
    for grad in torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True):
        assert grad.isfinite().all()


def test_a_network_in_bfloat16_gives_a_float32_penalty_near_the_exact_one():
    model = small_net().float()
    expected = emr(model, batch_for(model)).item()
    with torch.autocast("cpu", torch.bfloat16):
        value = emr(model, batch_for(model))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"temperature": 0}, "temperature must be"), ({"temperature": "hot"}, "temperature must be"), ({"at": "start"}, "unknown place")],
)
def test_wrong_options_are_refused(options, says):
    model = small_net()
    with pytest.raises(InputError, match=says):
        emr(model, batch_for(model), **options)
