"""MAIL against weights and losses worked out by hand."""

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
from robench.core.types import Batch
from robench.objectives.adversarial import pgd_at
from robench.objectives.mail import mail_at, mail_trades, margin_weights
from robench.objectives.trades import trades

BOTH = {"mail-at": mail_at, "mail-trades": mail_trades}
MARGINS = [0.6 - 0.3, 0.15 - 0.8, 0.5 - 0.3]


def told(progress: float = 0.9, rows: slice = slice(None)) -> tuple[nn.Module, Batch]:
    """A network and a batch with the probabilities above."""
    return predicting(CLEAN[rows], ADVERSARIAL[rows], LABELS[rows], progress)


def weighed(slope: float, bias: float) -> list[float]:
    return [3 / (1 + math.exp(-slope * (margin + bias))) for margin in MARGINS]


def divergences() -> list[float]:
    return [sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) for p, q in zip(CLEAN, ADVERSARIAL, strict=True)]


def ce(p: list[list[float]]) -> list[float]:
    return [-math.log(row[label]) for row, label in zip(p, LABELS, strict=True)]


def mean_product(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / len(a)


def test_mail_at_is_the_cross_entropy_with_the_weights_of_the_paper():
    model, batch = told()
    w = weighed(10, -0.5)
    total, terms = mail_at().loss(model, batch)
    assert total.item() == pytest.approx(mean_product(w, ce(ADVERSARIAL)), rel=1e-12)
    assert terms.keys() == {"ce", "weight"}
    assert terms["ce"] == total
    assert terms["weight"].item() == pytest.approx(sum(w) / 3, rel=1e-12)
    assert not any(term.requires_grad for term in terms.values())


def test_mail_trades_is_trades_with_the_weights_of_the_paper_on_its_kl():
    model, batch = told()
    w = weighed(2, 0)
    total, terms = mail_trades(beta=4.0).loss(model, batch)
    clean, weighted = sum(ce(CLEAN)) / 3, mean_product(w, divergences())
    assert total.item() == pytest.approx(clean + 4 * weighted, rel=1e-12)
    assert terms.keys() == {"ce", "kl", "weight"}
    assert terms["ce"].item() == pytest.approx(clean, rel=1e-12)
    assert terms["kl"].item() == pytest.approx(weighted, rel=1e-12)
    assert terms["weight"].item() == pytest.approx(sum(w) / 3, rel=1e-12)
    assert not any(term.requires_grad for term in terms.values())
    assert mail_trades().loss(model, batch)[0] == mail_trades(beta=5).loss(model, batch)[0]


def test_slope_and_bias_are_those_of_the_sigmoid():
    _, batch = told()
    found = margin_weights(batch, slope=4.0, bias=0.25, begin=0.0)
    torch.testing.assert_close(found, torch.tensor(weighed(4, 0.25), dtype=torch.float64), rtol=1e-12, atol=0)


def test_a_misclassified_sample_weighs_more_than_a_near_one_and_that_more_than_a_safe_one():
    _, batch = told()
    order = torch.tensor(MARGINS).argsort()
    for slope, bias in ((10, -0.5), (2, 0)):
        assert (margin_weights(batch, slope, bias, 0.0)[order].diff() > 0).all()


@pytest.mark.parametrize(("progress", "one"), [(0.0, True), (0.7499, True), (0.75, False), (0.99, False)])
def test_the_weights_are_one_before_three_quarters_of_training_and_follow_the_margin_after(progress, one):
    model, batch = told(progress)
    at, kl = (objective().loss(model, replace(batch, memo={}))[1] for objective in (mail_at, mail_trades))
    assert at["weight"].item() == pytest.approx(1 if one else sum(weighed(10, -0.5)) / 3, rel=1e-12)
    assert at["ce"].item() == pytest.approx(mean_product([1] * 3 if one else weighed(10, -0.5), ce(ADVERSARIAL)), rel=1e-12)
    assert kl["kl"].item() == pytest.approx(mean_product([1] * 3 if one else weighed(2, 0), divergences()), rel=1e-12)


def test_before_they_begin_mail_at_is_adversarial_training_and_mail_trades_is_trades():
    model, (x, y) = net(), images()
    for mine, base in ((mail_at(), pgd_at()), (mail_trades(), trades(beta=5))):
        x_adv = mine.craft(model, unmade(x, y, progress=0.2))
        assert torch.equal(x_adv, base.craft(model, unmade(x, y, progress=0.2)))
        batch = replace(made(model, x, y, x_adv, progress=0.2), smoothing=0.1)
        torch.testing.assert_close(mine.loss(model, batch)[0], base.loss(model, batch)[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("begin", [0, 0.3])
def test_begin_is_the_share_at_which_the_weights_start(begin):
    model, batch = told(0.3)
    for objective in (mail_at, mail_trades):
        assert objective(begin=begin).loss(model, batch)[1]["weight"] != 1
        assert objective(begin=1).loss(model, batch)[1]["weight"] == 1


@pytest.mark.parametrize("objective", BOTH.values(), ids=BOTH)
def test_a_sample_weighs_the_same_in_any_batch(objective):
    model, batch = told()
    losses = [objective().loss(*told(rows=slice(i, i + 1)))[0] for i in range(3)]
    torch.testing.assert_close(objective().loss(model, batch)[0], torch.stack(losses).mean(), rtol=1e-12, atol=0)


def test_no_gradient_flows_through_the_weights():
    model, batch = told()
    x, x_adv = batch.x.clone().requires_grad_(), batch.x_adv.clone().requires_grad_()
    batch = replace(batch, x=x, x_adv=x_adv, logits=model(x_adv))
    (found,) = torch.autograd.grad(mail_at().loss(model, batch)[0], x_adv)
    w = torch.tensor(weighed(10, -0.5), dtype=torch.float64)[:, None]
    residual = torch.tensor(ADVERSARIAL, dtype=torch.float64) - F.one_hot(batch.y, 3)
    torch.testing.assert_close(found.flatten(1), w * residual / 3, rtol=1e-12, atol=1e-15)
    (found,) = torch.autograd.grad(mail_trades(beta=1).loss(model, batch)[0], x_adv)
    w = torch.tensor(weighed(2, 0), dtype=torch.float64)[:, None]
    shift = torch.tensor(ADVERSARIAL, dtype=torch.float64) - torch.tensor(CLEAN, dtype=torch.float64)
    torch.testing.assert_close(found.flatten(1), w * shift / 3, rtol=1e-12, atol=1e-15)


def test_label_smoothing_and_mixed_labels_act_on_the_cross_entropy_and_not_on_the_weights():
    model, batch = told(rows=slice(0, 1))
    (w, *_), (v, *_) = weighed(10, -0.5), weighed(2, 0)
    mixed, smooth = replace(batch, mixed=torch.tensor([[0.75, 0.25, 0.0]])), replace(batch, smoothing=0.3)
    assert mail_at().loss(model, mixed)[0].item() == pytest.approx(-w * (0.75 * math.log(0.3) + 0.25 * math.log(0.6)), rel=1e-12)
    expected = -w * (0.8 * math.log(0.3) + 0.1 * math.log(0.6) + 0.1 * math.log(0.1))
    assert mail_at().loss(model, smooth)[0].item() == pytest.approx(expected, rel=1e-12)
    _, terms = mail_trades().loss(model, mixed)
    assert terms["ce"].item() == pytest.approx(-0.75 * math.log(0.7) - 0.25 * math.log(0.2), rel=1e-12)
    assert terms["kl"].item() == pytest.approx(v * divergences()[0], rel=1e-12)
    _, terms = mail_trades().loss(model, smooth)
    assert terms["ce"].item() == pytest.approx(-0.8 * math.log(0.7) - 0.1 * math.log(0.2) - 0.1 * math.log(0.1), rel=1e-12)


@pytest.mark.parametrize("objective", BOTH.values(), ids=BOTH)
def test_mixed_labels_that_are_one_hot_are_the_labels_themselves(objective):
    model, (x, y) = net(), images()
    mixed = F.one_hot(y, 5).float()
    x_adv = objective().craft(model, unmade(x, y))
    torch.testing.assert_close(objective().craft(model, replace(unmade(x, y), mixed=mixed)), x_adv, rtol=0, atol=1e-14)
    batch = made(model, x, y, x_adv, progress=0.9)
    expected, found = (objective().loss(model, replace(batch, mixed=labels, memo={}))[0] for labels in (None, mixed))
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("objective", BOTH.values(), ids=BOTH)
@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_the_images_lie_inside_the_threat(objective, threat):
    model, (x, y) = net(), images()
    assert threat.contains(x, objective().craft(model, unmade(x, y, threat))).all()


@pytest.mark.parametrize("objective", BOTH.values(), ids=BOTH)
def test_values_and_gradients_are_right_where_predictions_saturate(objective):
    corners = torch.tensor(list(itertools.product([-50.0, 0.0, 50.0], repeat=6)))

    def found(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, x_adv = (half.to(dtype)[:, None, None].requires_grad_() for half in corners.split(3, 1))
        total, _ = objective().loss(nn.Flatten(), made(nn.Flatten(), x, torch.arange(len(corners)) % 3, x_adv, progress=0.9))
        inputs = [x_adv] if objective is mail_at else [x, x_adv]
        return total.detach(), *(len(corners) * grad for grad in torch.autograd.grad(total, inputs))

    for value, expected in zip(found(torch.float32), found(torch.float64), strict=True):
        assert value.isfinite().all()
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"step_size": 0}, {"slope": -1}, {"bias": 3}, {"bias": math.nan}, {"begin": 1.5}, {"begin": -0.1}],
)
def test_wrong_options_are_refused(name, options):
    with pytest.raises(InputError, match=rf"of {name} must be"):
        BOTH[name](**options)


def test_a_negative_beta_is_refused():
    with pytest.raises(InputError, match=r"the beta of mail-trades must be"):
        mail_trades(beta=-1)
