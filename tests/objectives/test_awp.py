"""Adversarial weight perturbation: how far and where the weights move, and that nothing else does."""

from __future__ import annotations

import copy

import pytest
import torch
from batches import images, net
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.objectives.awp import perturbed_weights


def loss(model: nn.Module) -> Tensor:
    x, y = images(12)
    return F.cross_entropy(model(x), y)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


class Stopped(Exception):  # noqa: N818
    """Anything that may go wrong in a training step."""


@pytest.mark.parametrize("gamma", [0.005, 0.01, 0.5])
def test_each_weight_moves_by_gamma_times_its_own_norm_along_its_own_gradient(gamma):
    model = net(nn.BatchNorm2d(4))
    before = state(model)
    twin = copy.deepcopy(model)
    gradients = dict(zip(dict(twin.named_parameters()), torch.autograd.grad(loss(twin), list(twin.parameters())), strict=True))
    with perturbed_weights(model, lambda: loss(model), gamma):
        moves = {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}
    for name in ("0.weight", "4.weight"):
        assert (moves[name].norm() / before[name].norm()).item() == pytest.approx(gamma, rel=1e-10)
        torch.testing.assert_close(moves[name] / moves[name].norm(), gradients[name] / gradients[name].norm())
    for name in ("0.bias", "1.weight", "1.bias", "4.bias"):
        assert not moves[name].any()


def test_the_move_raises_the_loss_and_more_so_than_one_drawn_at_random():
    model = net()
    start, raised, drawn = loss(model).item(), 0.0, []
    with perturbed_weights(model, lambda: loss(model), 0.01):
        raised = loss(model).item()
    for seed in range(10):
        other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in (other[0].weight, other[3].weight):
                way = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight.add_(0.01 * weight.norm() * way / way.norm())
        drawn.append(loss(other).item())
    assert raised > start + 1e-3
    assert raised > max(drawn)


def test_a_linear_model_moves_as_written_out():
    weight = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    model = nn.Linear(2, 1).double()
    model.weight.data.copy_(weight)
    with perturbed_weights(model, lambda: model(torch.tensor([0.0, 7.0], dtype=torch.float64)).sum(), 0.2):
        torch.testing.assert_close(model.weight.detach(), torch.tensor([[3.0, 5.0]], dtype=torch.float64))
    assert torch.equal(model.weight, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_come_back_bit_by_bit(dtype):
    model = net(nn.BatchNorm2d(4)).to(dtype)
    x, y = images(12)
    before = state(model.eval())
    with perturbed_weights(model, lambda: F.cross_entropy(model(x.to(dtype)), y), 0.01):
        assert not same(state(model), before)
    assert same(state(model), before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_weights_come_back_after_an_error_in_the_block_or_in_the_loss():
    model = net(nn.BatchNorm2d(4))
    before = state(model)

    def failing() -> Tensor:
        loss(model)
        raise Stopped

    with pytest.raises(Stopped), perturbed_weights(model, lambda: loss(model), 0.01):
        raise Stopped
    assert same(state(model), before)
    with pytest.raises(Stopped), perturbed_weights(model, failing, 0.01):
        pass
    assert same(state(model), before)


def test_the_first_pass_leaves_buffers_gradients_and_modes_as_they_were():
    model = net(nn.BatchNorm2d(4), nn.Dropout(0.5))
    model[1].weight.grad = torch.full_like(model[1].weight, 3.0)
    before, modes = state(model), [module.training for module in model.modules()]
    with perturbed_weights(model, lambda: loss(model), 0.01):
        assert same(dict(model.named_buffers()), before)
        model(images(12)[0])
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert model[1].num_batches_tracked == 1
    assert (model[1].weight.grad == 3).all()
    assert all(parameter.grad is None for parameter in model.parameters() if parameter is not model[1].weight)
    assert [module.training for module in model.modules()] == modes


def test_a_step_taken_with_it_is_the_published_one_written_out():
    model, gamma, rate = net(nn.BatchNorm2d(4)), 0.01, 0.1
    plain = copy.deepcopy(model)
    weights = list(model.parameters())
    with perturbed_weights(model, lambda: loss(model), gamma):
        gradients = torch.autograd.grad(loss(model), weights)
    with torch.no_grad():
        for weight, grad in zip(weights, gradients, strict=True):
            weight.sub_(rate * grad)
    proxy = copy.deepcopy(plain)
    loss(proxy).backward()
    shifts = [
        gamma * w.norm() * p.grad / p.grad.norm() if w.dim() > 1 else torch.zeros_like(w)
        for w, p in zip(plain.parameters(), proxy.parameters(), strict=True)
    ]
    descent = torch.optim.SGD(plain.parameters(), rate)
    with torch.no_grad():
        for weight, shift in zip(plain.parameters(), shifts, strict=True):
            weight.add_(shift)
    loss(plain).backward()
    descent.step()
    with torch.no_grad():
        for weight, shift in zip(plain.parameters(), shifts, strict=True):
            weight.sub_(shift)
    for found, expected in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=1e-12)


def test_gamma_zero_changes_nothing_and_costs_nothing():
    model = net(nn.BatchNorm2d(4))
    before, calls = state(model), []
    with perturbed_weights(model, lambda: calls.append(1) or loss(model), 0.0):
        assert same(state(model), before)
    assert not calls


def test_a_gradient_of_zero_moves_nothing_and_makes_no_nan():
    model = net()
    before = state(model)
    with perturbed_weights(model, lambda: 0 * loss(model), 0.01):
        assert same(state(model), before)
    with perturbed_weights(
        model, lambda: model[3](torch.ones(1, 64, dtype=torch.float64)).square().sum(), 0.01
    ):  # the convolution has no part in it
        assert torch.equal(model[0].weight, before["0.weight"])
        assert not torch.equal(model[3].weight, before["3.weight"])


def test_a_gradient_too_small_to_be_squared_moves_the_weights_as_far_as_any():
    model = net().float()
    x, y = images(12)
    before = state(model)
    for scale in (1e-30, 1e30):
        with perturbed_weights(model, lambda scale=scale: scale * F.cross_entropy(model(x.float()), y), 0.01):
            assert all(
                ((model.get_parameter(name) - before[name]).norm() / before[name].norm()).item() == pytest.approx(0.01, rel=1e-3)
                for name in ("0.weight", "3.weight")
            )


def test_weights_of_zero_and_frozen_weights_stay():
    model = net()
    model[3].weight.data.zero_()
    model[0].weight.requires_grad_(False)
    before = state(model)
    with perturbed_weights(model, lambda: loss(model), 0.01):
        assert same(state(model), before)


def test_gradients_averaged_over_parts_move_the_weights_as_the_whole_batch_does():
    model = net()
    x, y = images(12)
    parts = [
        torch.autograd.grad(F.cross_entropy(model(x[rows]), y[rows]), [model[0].weight, model[3].weight])
        for rows in (slice(6), slice(6, 12))
    ]

    def averaged(gradients: list[Tensor]) -> None:
        for mine, own, other in zip(gradients, *parts, strict=True):
            torch.testing.assert_close(mine, own)
            mine.copy_((own + other) / 2)

    with perturbed_weights(model, lambda: loss(model), 0.01):
        whole = state(model)
    with perturbed_weights(model, lambda: F.cross_entropy(model(x[:6]), y[:6]), 0.01, reduce=averaged):
        for name, tensor in state(model).items():
            torch.testing.assert_close(tensor, whole[name], rtol=1e-10, atol=1e-14)


def test_a_graph_that_outlives_the_block_is_refused():
    model = net()
    with perturbed_weights(model, lambda: loss(model), 0.01):
        late = loss(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


@pytest.mark.parametrize("gamma", [-0.01, float("nan"), float("inf"), "much", True])
def test_a_wrong_gamma_is_refused(gamma):
    model = net()
    with pytest.raises(InputError, match="the gamma of awp must be"), perturbed_weights(model, lambda: loss(model), gamma):
        pass
