"""TRADES against its formula written out, and the ascent on the KL that other objectives share."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from batches import THREATS, images, made, net, predicting, unmade
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.threat import Threat
from robench.objectives.adversarial import pgd_at
from robench.objectives.terms import kl
from robench.objectives.trades import kl_pgd_images, trades

TINY = [Threat("linf", 0.0002), Threat("l2", 0.001), Threat("l1", 0.002)]  # smaller than the noise of the start


def seen_by(model: nn.Module) -> list[Tensor]:
    """The inputs of every forward pass from now on."""
    inputs: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach().clone()))
    return inputs


def test_the_loss_is_the_clean_cross_entropy_and_beta_times_the_kl_summed_over_classes_and_averaged_over_samples():
    model, batch = predicting([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [[0.3, 0.6, 0.1], [0.4, 0.1, 0.5]], [0, 1])
    ce = (-math.log(0.7) - math.log(0.1)) / 2
    first = 0.7 * math.log(0.7 / 0.3) + 0.2 * math.log(0.2 / 0.6)
    second = 0.1 * math.log(0.1 / 0.4) + 0.8 * math.log(0.8 / 0.5)
    total, terms = trades(beta=3.0).loss(model, batch)
    assert total.item() == pytest.approx(ce + 3 * (first + second) / 2, rel=1e-12)
    assert terms.keys() == {"ce", "kl"}
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-12)
    assert terms["kl"].item() == pytest.approx((first + second) / 2, rel=1e-12)


def test_the_default_beta_is_six():
    model, batch = predicting([[0.7, 0.2, 0.1]], [[0.3, 0.6, 0.1]], [0])
    assert trades().loss(model, batch)[0] == trades(beta=6).loss(model, batch)[0]


def test_the_gradient_flows_through_both_predictions():
    model, (x, y) = net(), images()
    x_adv = kl_pgd_images(model, unmade(x, y))
    total, terms = trades(beta=2.0).loss(model, made(model, x, y, x_adv))

    def gradient(clean: Tensor, adversarial: Tensor) -> tuple[Tensor, ...]:
        p, q = clean.softmax(1), adversarial.softmax(1)
        loss = -model(x).log_softmax(1)[torch.arange(6), y].mean() + 2 * (p * (p.log() - q.log())).sum(1).mean()
        return torch.autograd.grad(loss, list(model.parameters()))

    found = torch.autograd.grad(total, list(model.parameters()))
    for grad, expected in zip(found, gradient(model(x), model(x_adv)), strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)
    for cut in (gradient(model(x).detach(), model(x_adv)), gradient(model(x), model(x_adv).detach())):
        assert (found[0] - cut[0]).abs().max() > 1e-3 * found[0].abs().max()
    assert not any(term.requires_grad for term in terms.values())


def test_beta_zero_is_the_clean_cross_entropy_with_its_gradient():
    model, (x, y) = net(), images()
    total, _ = trades(beta=0).loss(model, made(model, x, y, kl_pgd_images(model, unmade(x, y))))
    expected = F.cross_entropy(model(x), y)
    assert total == expected
    found = (torch.autograd.grad(loss, model[0].weight)[0] for loss in (total, expected))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-15)


def test_the_clean_prediction_of_the_loss_is_made_in_training_mode_and_once_a_batch():
    model, (x, y) = net(nn.BatchNorm2d(4)), images()
    batch = made(model, x, y, x + 0.01)
    tracked = model[1].num_batches_tracked.item()
    _, terms = trades().loss(model, batch)
    again, _ = trades().loss(model, batch)
    assert model[1].num_batches_tracked.item() == tracked + 1
    torch.testing.assert_close(terms["ce"], F.cross_entropy(model(x), y).detach(), rtol=1e-12, atol=0)
    assert (terms["ce"] - F.cross_entropy(model.eval()(x), y)).abs() > 1e-3
    assert again.requires_grad


def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_halves():
    model, (x, y) = net(), images()
    x_adv = kl_pgd_images(model, unmade(x, y))
    halves = [trades().loss(model, made(model, x[rows], y[rows], x_adv[rows]))[0] for rows in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(trades().loss(model, made(model, x, y, x_adv))[0], sum(halves) / 2)


def test_label_smoothing_and_mixed_labels_act_on_the_clean_cross_entropy():
    model, batch = predicting([[0.7, 0.2, 0.1]], [[0.3, 0.6, 0.1]], [0])
    plain = trades().loss(model, batch)[1]
    mixed = trades().loss(model, replace(batch, mixed=torch.tensor([[0.6, 0.0, 0.4]]), memo={}))[1]
    assert mixed["ce"].item() == pytest.approx(-0.6 * math.log(0.7) - 0.4 * math.log(0.1), rel=1e-6)
    smooth = trades().loss(model, replace(batch, smoothing=0.3, memo={}))[1]
    assert smooth["ce"].item() == pytest.approx(-0.8 * math.log(0.7) - 0.1 * math.log(0.2) - 0.1 * math.log(0.1), rel=1e-12)
    assert plain["kl"] == mixed["kl"] == smooth["kl"]


def test_mixed_labels_that_are_one_hot_are_the_labels_themselves():
    model, (x, y) = net(), images()
    one_hot = replace(unmade(x, y), mixed=F.one_hot(y, 5).float())
    x_adv = kl_pgd_images(model, unmade(x, y))
    assert torch.equal(kl_pgd_images(model, one_hot), x_adv)
    batch = made(model, x, y, x_adv)
    expected, found = (trades().loss(model, replace(batch, mixed=labels, memo={}))[0] for labels in (None, one_hot.mixed))
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("step_size", [None, 0.03])
def test_the_ascent_is_the_one_written_out_with_clean_probabilities_kept(step_size):
    model, (x, y) = net(nn.BatchNorm2d(4)), images()
    found = kl_pgd_images(model, unmade(x, y), steps=4, step_size=step_size)
    model.eval()
    noise = unmade(x, y).draws.child("kl-pgd").normal((1, 6, 6)).double()
    p, x_adv, alpha = model(x).softmax(1).detach(), x + 0.001 * noise, 2.5 * 0.1 / 4 if step_size is None else step_size
    for _ in range(4):
        x_adv.requires_grad_()
        gain = (p * (p.log() - model(x_adv).log_softmax(1))).sum()
        (grad,) = torch.autograd.grad(gain, x_adv)
        x_adv = torch.max(torch.min(x_adv.detach() + alpha * grad.sign(), x + 0.1), x - 0.1).clamp(0, 1)
    torch.testing.assert_close(found, x_adv, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_the_ascent_costs_one_forward_pass_a_step_and_one_for_the_clean_prediction(steps):
    model, (x, y) = net(), images()
    inputs = seen_by(model)
    trades(steps=steps).craft(model, unmade(x, y))
    assert len(inputs) == steps + 1
    assert torch.equal(inputs[0], x)


def test_the_ascent_starts_at_the_image_plus_normal_noise_of_a_thousandth():
    model, (x, y) = net(), images(100)
    inputs = seen_by(model)
    kl_pgd_images(model, unmade(x, y), steps=1)
    noise = (inputs[1] - x) / 0.001
    n = noise.numel()
    assert abs(noise.mean().item()) < 4 / math.sqrt(n)
    assert abs(noise.square().mean().item() - 1) < 4 * math.sqrt(2 / n)
    assert abs(noise.pow(4).mean().item() - 3) < 4 * math.sqrt(96 / n)
    assert not torch.equal(noise[0], noise[1])


def test_ten_default_steps_at_eight_pixels_are_steps_of_two_pixels():
    model, (x, y) = net(), images()
    batch = unmade(x, y, Threat("linf", 8 / 255))
    torch.testing.assert_close(trades().craft(model, batch), trades(steps=10, step_size=2 / 255).craft(model, batch), rtol=0, atol=1e-12)


@pytest.mark.parametrize("threat", THREATS + TINY, ids=lambda threat: f"{threat.norm}-{threat.eps}")
def test_the_points_lie_inside_the_threat_and_far_from_the_image(threat):
    model, (x, y) = net(), images()
    x = torch.where(torch.arange(36).view(1, 1, 6, 6) % 3 == 0, x.round(), x)  # with pixels at both ends of the box
    x_adv = trades().craft(model, unmade(x, y, threat))
    assert threat.contains(x, x_adv).all()
    assert (threat.distance(x, x_adv) > 0.5 * threat.eps).all()
    assert not x_adv.requires_grad


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_the_ascent_raises_the_kl_of_every_sample_above_the_best_of_ten_random_points_on_the_surface(threat):
    model, (x, y) = net(), images(30)
    batch = unmade(x, y, threat)
    found = kl(model(x), model(kl_pgd_images(model, batch)))
    random = [kl(model(x), model(threat.surface(x, batch.draws, step))) for step in range(10)]
    assert (found > torch.stack(random).amax(0)).all()


def test_the_ascent_does_not_look_at_the_labels():
    model, (x, y) = net(), images()
    assert torch.equal(kl_pgd_images(model, unmade(x, y)), kl_pgd_images(model, unmade(x, (y + 1) % 5)))


def test_the_ascent_gives_each_sample_the_same_point_in_any_batch_and_again():
    model, (x, y), rows = net(nn.BatchNorm2d(4)), images(), torch.tensor([4, 1])
    x_adv = kl_pgd_images(model, unmade(x, y))
    assert torch.equal(kl_pgd_images(model, unmade(x, y)), x_adv)
    torch.testing.assert_close(kl_pgd_images(model, unmade(x[rows], y[rows], ids=rows)), x_adv[rows], rtol=0, atol=1e-12)


def test_the_ascent_leaves_modes_flags_buffers_gradients_and_images_as_they_were():
    model, (x, y) = net(nn.BatchNorm2d(4), nn.Dropout(0.5)), images()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    before, x_before = {name: value.clone() for name, value in model.state_dict().items()}, x.clone()
    trades().craft(model, unmade(x, y))
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(x, x_before)


def test_values_and_gradients_are_right_where_predictions_saturate():
    corners = torch.tensor(list(itertools.product([-50.0, 0.0, 50.0], repeat=6)))

    def found(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, x_adv = (half.to(dtype)[:, None, None].requires_grad_() for half in corners.split(3, 1))
        total, _ = trades().loss(nn.Flatten(), made(nn.Flatten(), x, torch.arange(len(corners)) % 3, x_adv))
        return total.detach(), *(len(corners) * grad for grad in torch.autograd.grad(total, [x, x_adv]))

    for value, expected in zip(found(torch.float32), found(torch.float64), strict=True):
        assert value.isfinite().all()
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 2.5}, {"step_size": 0}, {"beta": -1}, {"beta": math.inf}, {"beta": "much"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(InputError, match=r"of trades must be"):
        trades(**options)


def test_an_adversary_on_the_cross_entropy_is_that_of_pgd_training_and_leaves_the_loss_alone():
    model, (x, y) = net(), images()
    batch = unmade(x, y)
    x_adv = trades(adversary="ce", steps=3, step_size=0.02).craft(model, batch)
    assert torch.equal(x_adv, pgd_at(steps=3, step_size=0.02).craft(model, batch))
    assert not torch.equal(x_adv, trades(steps=3, step_size=0.02).craft(model, batch))
    losses = [trades(beta=12, adversary=adversary).loss(model, made(model, x, y, x_adv))[0] for adversary in ("ce", "kl")]
    assert torch.equal(*losses)
    with pytest.raises(InputError, match="adversary of trades"):
        trades(adversary="fgsm")
