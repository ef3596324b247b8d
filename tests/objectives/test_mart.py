"""MART against small batches worked out by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from batches import ADVERSARIAL, CLEAN, LABELS, THREATS, images, made, net, predicting, unmade
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.objectives.adversarial import pgd_at
from robench.objectives.mart import complement_probabilities, likeliest_wrong_classes, margin_losses, mart


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_the_loss_is_the_boosted_cross_entropy_and_the_weighted_kl_of_a_batch_worked_out_by_hand():
    model, batch = predicting(CLEAN, ADVERSARIAL, LABELS)
    total, terms = mart(beta=4.0).loss(model, batch)
    ce = -(math.log(0.3) + math.log(0.8) + math.log(0.3)) / 3
    margin = -(math.log(1 - 0.6 + 1e-4) + math.log(1 - 0.15 + 1e-4) + math.log(1 - 0.5 + 1e-4)) / 3
    weighted = sum(share * divergence(p, q) for share, p, q in zip((0.3, 0.2, 0.7), CLEAN, ADVERSARIAL, strict=True)) / 3
    assert terms.keys() == {"ce", "margin", "kl"}
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-12)
    assert terms["margin"].item() == pytest.approx(margin, rel=1e-12)
    assert terms["kl"].item() == pytest.approx(weighted, rel=1e-12)
    assert total.item() == pytest.approx(ce + margin + 4 * weighted, rel=1e-12)
    assert not any(term.requires_grad for term in terms.values())


def test_the_default_beta_is_five_and_zero_leaves_the_boosted_cross_entropy():
    model, batch = predicting(CLEAN, ADVERSARIAL, LABELS)
    assert mart().loss(model, batch)[0] == mart(beta=5).loss(model, batch)[0]
    total, terms = mart(beta=0).loss(model, batch)
    assert total == terms["ce"] + terms["margin"]


def test_the_rival_is_the_most_probable_class_other_than_the_label_whether_the_prediction_is_right_or_wrong():
    p = torch.tensor([[0.1, 0.6, 0.3], [0.1, 0.6, 0.3], [0.4, 0.4, 0.2]])
    assert likeliest_wrong_classes(p, torch.tensor([1, 2, 1])).tolist() == [2, 1, 0]


def test_the_gradient_flows_through_every_probability_the_weight_of_the_kl_included():
    model, batch = predicting(CLEAN, ADVERSARIAL, LABELS)
    x, x_adv, y, rows = batch.x.clone().requires_grad_(), batch.x_adv.clone().requires_grad_(), batch.y, torch.arange(3)
    total, _ = mart(beta=2.0).loss(model, replace(batch, x=x, x_adv=x_adv, logits=model(x_adv)))
    p, q = model(x).softmax(1), model(x_adv).softmax(1)
    rest = q.masked_fill(F.one_hot(y, 3).bool(), 0.0).amax(1)
    bce = -q[rows, y].log() - (1 - rest + 1e-4).log()
    terms = (p * (p.log() - q.log())).sum(1)

    def gradient(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, [x, x_adv], retain_graph=True)

    for found, expected in zip(gradient(total), gradient((bce + 2 * terms * (1 - p[rows, y])).mean()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    cut = gradient((bce + 2 * terms * (1 - p[rows, y]).detach()).mean())
    assert (gradient(total)[0] - cut[0]).abs().max() > 0.01


def test_what_is_left_of_a_probability_near_one_keeps_its_digits_in_float32():
    p = torch.tensor([[25.0, 0.0, 0.0]]).softmax(1)
    assert 1 - p[0, 0] == 0
    assert complement_probabilities(p, torch.tensor([0])).item() == pytest.approx(2 * math.exp(-25), rel=1e-5)


def test_the_margin_term_of_a_certain_mistake_stops_at_minus_the_logarithm_of_a_ten_thousandth():
    found = margin_losses(torch.tensor([[-200.0, 200.0, -200.0]]), torch.tensor([0]))
    assert found.item() == pytest.approx(-math.log(1e-4), rel=1e-6)


def test_the_cross_entropy_knows_of_mixed_and_smoothed_labels_and_the_other_terms_do_not():
    model, batch = predicting(CLEAN[:1], ADVERSARIAL[:1], LABELS[:1])
    _, plain = mart().loss(model, batch)
    _, mixed = mart().loss(model, replace(batch, mixed=torch.tensor([[0.75, 0.25, 0.0]])))
    _, smooth = mart().loss(model, replace(batch, smoothing=0.3))
    assert mixed["ce"].item() == pytest.approx(-0.75 * math.log(0.3) - 0.25 * math.log(0.6), rel=1e-12)
    assert smooth["ce"].item() == pytest.approx(-0.8 * math.log(0.3) - 0.1 * math.log(0.6) - 0.1 * math.log(0.1), rel=1e-12)
    for name in ("margin", "kl"):
        assert plain[name] == mixed[name] == smooth[name]


def test_mixed_labels_that_are_one_hot_are_the_labels_themselves():
    model, (x, y) = net(), images()
    mixed = F.one_hot(y, 5).float()
    x_adv = mart().craft(model, unmade(x, y))
    torch.testing.assert_close(mart().craft(model, replace(unmade(x, y), mixed=mixed)), x_adv, rtol=0, atol=1e-14)
    batch = made(model, x, y, x_adv)
    expected, found = (mart().loss(model, replace(batch, mixed=labels, memo={}))[0] for labels in (None, mixed))
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_samples():
    model, batch = predicting(CLEAN, ADVERSARIAL, LABELS)
    alone = [mart().loss(*predicting([p], [q], [y]))[0] for p, q, y in zip(CLEAN, ADVERSARIAL, LABELS, strict=True)]
    torch.testing.assert_close(mart().loss(model, batch)[0], torch.stack(alone).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_the_images_are_those_of_pgd_and_lie_inside_the_threat(threat):
    model, (x, y) = net(), images()
    x_adv = mart(steps=4).craft(model, unmade(x, y, threat))
    assert torch.equal(x_adv, pgd_at(steps=4).craft(model, unmade(x, y, threat)))
    assert threat.contains(x, x_adv).all()


def test_values_and_gradients_are_right_where_predictions_saturate():
    corners = torch.tensor(list(itertools.product([-50.0, 0.0, 50.0], repeat=6)))

    def found(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, x_adv = (half.to(dtype)[:, None, None].requires_grad_() for half in corners.split(3, 1))
        total, _ = mart().loss(nn.Flatten(), made(nn.Flatten(), x, torch.arange(len(corners)) % 3, x_adv))
        return total.detach(), *(len(corners) * grad for grad in torch.autograd.grad(total, [x, x_adv]))

    for value, expected in zip(found(torch.float32), found(torch.float64), strict=True):
        assert value.isfinite().all()
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"steps": 0}, {"step_size": -1}, {"beta": -1}, {"beta": math.nan}])
def test_wrong_options_are_refused(options):
    with pytest.raises(InputError, match=r"of mart must be"):
        mart(**options)
