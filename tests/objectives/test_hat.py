"""HAT: TRADES with a helper image, worked out by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from batches import THREATS, images, made, net, unmade
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.threat import Threat
from robench.core.types import Batch
from robench.objectives.hat import hat
from robench.objectives.trades import trades


def scaling(factor: float, bias: float = 0.0) -> nn.Module:
    """A network whose logits are its three pixels times a factor plus a bias."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3)).double()
    model[1].weight.data.copy_(factor * torch.eye(3))
    model[1].bias.data.fill_(bias)
    return model


def small() -> tuple[nn.Module, Batch]:
    """Two images of three pixels, a network whose logits are the pixels, and a teacher that names the darkest pixel."""
    x = torch.tensor([[0.2, 0.5, 0.9], [0.4, 0.3, 0.6]], dtype=torch.float64)[:, None, None]
    x_adv = torch.tensor([[0.3, 0.4, 1.0], [0.3, 0.4, 0.5]], dtype=torch.float64)[:, None, None]
    model = scaling(1)
    return model, made(model, x, torch.tensor([2, 0]), x_adv, teacher=scaling(-1).eval().requires_grad_(False))


def minus_log_softmax(z: list[float], k: int) -> float:
    return math.log(sum(math.exp(v) for v in z)) - z[k]


def test_the_helper_term_is_the_cross_entropy_at_twice_the_perturbation_with_the_label_of_the_teacher_at_the_adversarial_image():
    model, batch = small()
    # x + 2 (x' - x) is (0.4, 0.3, 1.1) cut to 1, and (0.2, 0.5, 0.4); the darkest pixels of x' are 0 and 0, of x they are 0 and 1
    expected = (minus_log_softmax([0.4, 0.3, 1.0], 0) + minus_log_softmax([0.2, 0.5, 0.4], 0)) / 2
    _, terms = hat().loss(model, batch)
    assert terms.keys() == {"ce", "kl", "helper"}
    assert terms["helper"].item() == pytest.approx(expected, rel=1e-12)
    assert not any(term.requires_grad for term in terms.values())


def test_h_says_how_far_the_helper_lies():
    model, batch = small()
    expected = (minus_log_softmax([0.5, 0.2, 1.0], 0) + minus_log_softmax([0.1, 0.6, 0.3], 0)) / 2
    assert hat(h=3).loss(model, batch)[1]["helper"].item() == pytest.approx(expected, rel=1e-12)
    assert hat(h=1).loss(model, batch)[1]["helper"] == F.cross_entropy(batch.logits, torch.tensor([0, 0])).detach()


def test_the_loss_is_that_of_trades_and_gamma_times_the_helper_term():
    model, batch = small()
    total, terms = hat(beta=1.5, gamma=0.25).loss(model, batch)
    base, parts = trades(beta=1.5).loss(model, batch)
    torch.testing.assert_close(total, base + 0.25 * terms["helper"], rtol=1e-12, atol=0)
    assert (terms["ce"], terms["kl"]) == (parts["ce"], parts["kl"])
    assert hat(beta=1.5, gamma=0).loss(model, batch)[0] == base


def test_the_defaults_are_beta_two_and_a_half_gamma_a_half_and_h_two():
    model, batch = small()
    assert hat().loss(model, batch)[0] == hat(beta=2.5, gamma=0.5, h=2).loss(model, batch)[0]


def test_the_gradient_is_that_of_the_three_terms_written_out():
    model, teacher, (x, y) = net(), net(seed=1).eval(), images()
    x_adv = hat().craft(model, unmade(x, y))
    total, _ = hat().loss(model, made(model, x, y, x_adv, teacher=teacher))
    p, q = model(x).softmax(1), model(x_adv).softmax(1)
    helper = F.cross_entropy(model((2 * x_adv - x).clamp(0, 1)), teacher(x_adv).argmax(1))
    expected = F.cross_entropy(model(x), y) + 2.5 * (p * (p.log() - q.log())).sum(1).mean() + 0.5 * helper
    found, written = (torch.autograd.grad(loss, list(model.parameters())) for loss in (total, expected))
    for grad, other in zip(found, written, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-12)


def test_the_teacher_is_asked_once_without_a_graph_and_left_alone():
    model, teacher, (x, y) = net(), net(nn.BatchNorm2d(4), seed=1).eval(), images()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    graphs: list[bool] = []
    teacher.register_forward_pre_hook(lambda module, args: graphs.append(torch.is_grad_enabled()))
    hat().loss(model, made(model, x, y, x + 0.01, teacher=teacher))[0].backward()
    assert graphs == [False]
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training


def test_every_image_that_the_network_sees_lies_in_the_box():
    model, (x, y) = net(), images()
    threat = Threat("linf", 0.3)
    x_adv = hat().craft(model, unmade(x, y, threat))
    seen: list[Tensor] = []
    batch = made(model, x, y, x_adv, teacher=net(seed=1).eval())
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    hat(h=3.5).loss(model, batch)
    assert len(seen) == 2
    assert (x + 3.5 * (x_adv - x)).amax() > 1
    assert all(points.amin() >= 0 and points.amax() <= 1 for points in seen)


def test_without_a_teacher_the_loss_says_how_to_give_one():
    model, batch = small()
    with pytest.raises(InputError, match=r"hat needs a network trained without a defence as its teacher: pass --teacher FILE"):
        hat().loss(model, replace(batch, teacher=None))


def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_samples():
    model, batch = small()
    alone = [
        hat().loss(model, made(model, batch.x[i : i + 1], batch.y[i : i + 1], batch.x_adv[i : i + 1], teacher=batch.teacher))[0]
        for i in (0, 1)
    ]
    torch.testing.assert_close(hat().loss(model, batch)[0], torch.stack(alone).mean(), rtol=1e-12, atol=0)


def test_label_smoothing_and_mixed_labels_act_on_the_clean_cross_entropy_alone():
    model, batch = small()
    _, plain = hat().loss(model, batch)
    _, smooth = hat().loss(model, replace(batch, smoothing=0.3, memo={}))
    _, mixed = hat().loss(model, replace(batch, mixed=torch.tensor([[0.0, 0.4, 0.6], [0.7, 0.0, 0.3]]), memo={}))
    for name in ("kl", "helper"):
        assert plain[name] == smooth[name] == mixed[name]
    assert smooth["ce"] == F.cross_entropy(model(batch.x), batch.y, label_smoothing=0.3)
    first = 0.4 * minus_log_softmax([0.2, 0.5, 0.9], 1) + 0.6 * minus_log_softmax([0.2, 0.5, 0.9], 2)
    second = 0.7 * minus_log_softmax([0.4, 0.3, 0.6], 0) + 0.3 * minus_log_softmax([0.4, 0.3, 0.6], 2)
    assert mixed["ce"].item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_mixed_labels_that_are_one_hot_are_the_labels_themselves():
    model, teacher, (x, y) = net(), net(seed=1).eval(), images()
    mixed = F.one_hot(y, 5).float()
    x_adv = hat().craft(model, unmade(x, y))
    assert torch.equal(hat().craft(model, replace(unmade(x, y), mixed=mixed)), x_adv)
    batch = made(model, x, y, x_adv, teacher=teacher)
    expected, found = (hat().loss(model, replace(batch, mixed=labels, memo={}))[0] for labels in (None, mixed))
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_the_images_are_those_of_trades_and_lie_inside_the_threat(threat):
    model, (x, y) = net(), images()
    x_adv = hat(steps=4).craft(model, unmade(x, y, threat))
    assert torch.equal(x_adv, trades(steps=4).craft(model, unmade(x, y, threat)))
    assert threat.contains(x, x_adv).all()


def test_values_and_gradients_are_right_where_predictions_saturate():
    corners = torch.tensor(list(itertools.product([0.0, 0.5, 1.0], repeat=6)))  # logits of -50, 0 and 50

    def found(dtype: torch.dtype) -> tuple[Tensor, ...]:
        model, teacher = scaling(100, -50).to(dtype), scaling(-1).to(dtype).eval()
        x, x_adv = (half.to(dtype)[:, None, None] for half in corners.split(3, 1))
        total, _ = hat().loss(model, made(model, x, torch.arange(len(corners)) % 3, x_adv, teacher=teacher))
        return total.detach(), *torch.autograd.grad(total, list(model.parameters()))

    for value, expected in zip(found(torch.float32), found(torch.float64), strict=True):
        assert value.isfinite().all()
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"steps": 0}, {"step_size": 0}, {"beta": -1}, {"gamma": -1}, {"h": 0}, {"h": math.inf}])
def test_wrong_options_are_refused(options):
    with pytest.raises(InputError, match=r"of hat must be"):
        hat(**options)
