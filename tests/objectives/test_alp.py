"""Adversarial logit pairing against batches computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from batches import images, made, net, unmade
from torch import nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.threat import Threat
from robench.objectives.adversarial import pgd_at
from robench.objectives.alp import alp, logit_pairing


def test_two_samples_of_two_classes_give_the_loss_computed_by_hand():
    model = nn.Flatten()  # the logits are the pixels
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64).view(2, 1, 1, 2)
    x_adv = torch.tensor([[0.5, 0.5], [1.0, 0.5]], dtype=torch.float64).view(2, 1, 1, 2)
    value, terms = alp().loss(model, made(model, x, torch.tensor([1, 0]), x_adv))
    clean = math.log(1 + math.exp(-1))
    attacked = (math.log(2) + math.log(1 + math.exp(-0.5))) / 2
    squares = (0.5**2 + 0.5**2 + 0 + 0.5**2) / 4  # over 2 samples and 2 classes
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"ce": attacked, "ce-clean": clean, "pairing": squares})
    assert value.item() == pytest.approx(attacked + clean + 0.5 * squares)


def test_the_value_and_its_gradient_are_those_of_the_formula():
    model, (x, y) = net(), images()
    x_adv = (x + 0.05).clamp(0, 1)
    value, terms = alp(weight=2.0).loss(model, made(model, x, y, x_adv, smoothing=0.1))
    z, other = model(x), model(x_adv)
    expected = (
        F.cross_entropy(other, y, label_smoothing=0.1)
        + F.cross_entropy(z, y, label_smoothing=0.1)
        + 2 * (other - z).square().sum() / (6 * 5)
    )
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(*(torch.autograd.grad(loss, list(model.parameters())) for loss in (value, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not any(term.requires_grad for term in terms.values())


def test_mixed_labels_enter_both_cross_entropies():
    model, (x, y) = net(), images()
    mixed = 0.7 * F.one_hot(y, 5).double() + 0.3 * F.one_hot((y + 2) % 5, 5).double()
    x_adv = (x + 0.05).clamp(0, 1)
    _, terms = alp().loss(model, made(model, x, y, x_adv, mixed=mixed))
    for name, points in (("ce", x_adv), ("ce-clean", x)):
        torch.testing.assert_close(terms[name], -(mixed * model(points).log_softmax(1)).sum(1).mean().detach())


def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_samples():
    model, (x, y) = net(), images()
    x_adv = (x + 0.05).clamp(0, 1)
    whole, _ = alp().loss(model, made(model, x, y, x_adv))
    alone = [alp().loss(model, made(model, x[i : i + 1], y[i : i + 1], x_adv[i : i + 1]))[0] for i in range(6)]
    torch.testing.assert_close(whole, torch.stack(alone).mean())


def test_without_an_adversary_nothing_is_paired_and_the_cross_entropy_counts_twice():
    model, (x, y) = net(), images()
    value, terms = alp().loss(model, made(model, x, y, x.clone()))
    assert terms["pairing"] == 0
    torch.testing.assert_close(value, 2 * F.cross_entropy(model(x), y))


def test_the_clean_images_take_one_pass_in_training_mode():
    model, (x, y) = net(nn.BatchNorm2d(4)), images()
    batch = made(model, x, y, (x + 0.05).clamp(0, 1))
    passes = model[1].num_batches_tracked.item()
    _, terms = alp().loss(model, batch)
    assert model[1].num_batches_tracked.item() == passes + 1
    torch.testing.assert_close(terms["ce-clean"], F.cross_entropy(model(x), y).detach())


@pytest.mark.parametrize("options", [{}, {"steps": 3}, {"steps": 2, "step_size": 0.01}])
def test_the_adversary_is_that_of_pgd_training(options):
    model, (x, y), threat = net(), images(), Threat("linf", 0.1)
    batch = unmade(x, y, threat)
    assert torch.equal(alp(**options).craft(model, batch), pgd_at(**options).craft(model, batch))


def test_a_larger_weight_trains_logits_that_are_closer_together():
    def trained(weight: float) -> float:
        model, (x, y) = net(), images()
        x_adv, optimizer = (x + 0.2).clamp(0, 1), torch.optim.SGD(model.parameters(), 0.05)
        for _ in range(20):
            value, terms = alp(weight=weight).loss(model, made(model, x, y, x_adv))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return terms["pairing"].item()

    apart = [trained(weight) for weight in (0.0, 10.0, 100.0)]
    assert apart[2] < 0.9 * apart[1] < 0.9 * apart[0]


def test_short_logits_are_compared_in_float32():
    z = torch.full((2, 3), 100.0, dtype=torch.bfloat16)
    found = logit_pairing(z, (z.float() + 1).bfloat16())
    assert found.dtype == torch.float32
    assert found == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "the steps of alp"),
        ({"step_size": 0}, "the step_size of alp"),
        ({"weight": -0.5}, "the weight of alp"),
        ({"weight": "much"}, "the weight of alp"),
    ],
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        alp(**options)
