"""Adversarial training with one signed step: closed forms on affine networks, and where each recipe may leave its images."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from batches import THREATS, images, net, unmade
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.threat import Threat
from robench.core.types import Batch
from robench.objectives.fgsm import fgsm_at
from robench.objectives.standard import ce_at_images

FGSM_RS = partial(fgsm_at, start=1.0, step=1.25)
N_FGSM = partial(fgsm_at, start=2.0, step=1.0, clip=False)


def affine(classes: int = 2) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes)).double()


def uphill(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each sample's cross-entropy."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]


def test_fgsm_reaches_the_linf_optimum_of_an_affine_model_in_its_one_step():
    model, (x, y), eps = affine(), images(), 0.1
    y = y % 2
    weight = model[1].weight.detach()
    best = (x + eps * (weight[1 - y] - weight[y]).sign().view_as(x)).clamp(0, 1)
    x_adv = fgsm_at().craft(model, unmade(x, y, Threat("linf", eps)))
    torch.testing.assert_close(x_adv, best, rtol=0, atol=1e-15)


def test_fgsm_reaches_the_l2_optimum_of_an_affine_model_away_from_the_box():
    model, y, eps = affine(), torch.arange(6) % 2, 0.3
    x, weight = torch.full((6, 1, 6, 6), 0.5, dtype=torch.float64), model[1].weight.detach()
    slope = weight[1 - y] - weight[y]
    best = x + eps * (slope / slope.norm(dim=1, keepdim=True)).view_as(x)
    torch.testing.assert_close(fgsm_at().craft(model, unmade(x, y, Threat("l2", eps))), best, rtol=0, atol=1e-12)


def test_a_step_in_l1_spends_all_of_eps_on_the_few_steepest_subpixels():
    model, y, eps = affine(), torch.arange(6) % 2, 1.2
    x, weight = torch.full((6, 1, 6, 6), 0.5, dtype=torch.float64), model[1].weight.detach()
    step = 0.8  # 0.96 on two subpixels, which have room for 0.5 each
    moved = (fgsm_at(step=step).craft(model, unmade(x, y, Threat("l1", eps))) - x).flatten(1)
    slope = weight[1 - y] - weight[y]
    expected = torch.zeros_like(moved).scatter(1, slope.abs().topk(2).indices, eps * step / 2) * slope.sign()
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)


def test_fgsm_is_that_of_torchattacks():
    torchattacks = pytest.importorskip("torchattacks")
    model, (x, y) = net().float(), images()
    x = x.float()
    theirs = torchattacks.FGSM(model.eval(), eps=0.1)(x, y)
    torch.testing.assert_close(fgsm_at().craft(model, unmade(x, y, Threat("linf", 0.1))), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
@pytest.mark.parametrize("recipe", [fgsm_at, FGSM_RS, partial(fgsm_at, start=2.0)])
def test_a_clipped_step_ends_inside_the_threat_with_a_higher_loss(recipe, threat):
    model, (x, y) = net(), images(32)
    x_adv = recipe().craft(model, unmade(x, y, threat))
    assert threat.contains(x, x_adv).all()
    assert not x_adv.requires_grad
    losses = [F.cross_entropy(model(points), y, reduction="none") for points in (x, x_adv)]
    assert (losses[1] > losses[0]).all()


def test_fgsm_rs_is_a_step_of_five_quarters_eps_from_an_even_start_clipped_to_the_threat():
    model, y, eps = affine(), torch.zeros(200, dtype=torch.int64), 0.08
    x = torch.full((200, 1, 6, 6), 0.5, dtype=torch.float64)
    direction = uphill(model, x, y).sign()
    along = (FGSM_RS().craft(model, unmade(x, y, Threat("linf", eps))) - x) * direction / eps
    # u even in [-1, 1] ends at min(u + 1.25, 1): at 1 for u >= -0.25, which is 62.5 % of the draws, and never below 0.25
    assert along.min() == pytest.approx(0.25, abs=0.005)
    assert along.max() == pytest.approx(1)
    assert (along > 1 - 1e-9).double().mean().item() == pytest.approx(0.625, abs=0.02)
    assert along.mean().item() == pytest.approx(0.625 + 0.375 * 0.625, abs=0.01)


def test_the_step_starts_uphill_from_the_drawn_point_and_not_from_the_image():
    model, (x, y), threat = net(), images(), THREATS[0]
    batch = unmade(x, y, threat)
    start = threat.sample(x, batch.draws.child("fgsm"))
    expected = (start + 0.125 * uphill(model, start, y).sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    torch.testing.assert_close(FGSM_RS().craft(model, batch), expected, rtol=0, atol=1e-15)
    assert (uphill(model, start, y).sign() != uphill(model, x, y).sign()).any()


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_n_fgsm_leaves_the_threat_by_at_most_twice_eps_and_never_the_box(threat):
    model, (x, y) = net(), images(64)
    x_adv = N_FGSM().craft(model, unmade(x, y, threat))
    distance = threat.distance(x, x_adv)
    assert (distance <= 3 * threat.eps * (1 + 1e-6)).all()
    assert (distance > threat.eps).double().mean() > 0.9
    assert x_adv.amin() >= 0
    assert x_adv.amax() <= 1
    assert not x_adv.requires_grad


def test_n_fgsm_comes_as_far_as_three_eps():
    model, x = affine(), torch.full((50, 1, 6, 6), 0.5, dtype=torch.float64)
    x_adv = N_FGSM().craft(model, unmade(x, torch.zeros(50, dtype=torch.int64), Threat("linf", 0.1)))
    assert (x_adv - x).abs().amax().item() == pytest.approx(0.3, abs=0.001)


@pytest.mark.parametrize("recipe", [fgsm_at, FGSM_RS, N_FGSM])
@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_a_sample_gets_the_same_point_in_any_batch(recipe, threat):
    model, (x, y), rows = net(nn.BatchNorm2d(4)), images(), torch.tensor([4, 1])
    few = recipe().craft(model, unmade(x[rows], y[rows], threat, ids=rows))
    torch.testing.assert_close(few, recipe().craft(model, unmade(x, y, threat))[rows])


def test_the_network_is_attacked_in_evaluation_mode_and_left_as_it_was():
    model, (x, y) = net(nn.BatchNorm2d(4), nn.Dropout(0.5)), images()
    model[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fgsm_at().craft(model, unmade(x, y, THREATS[0]))
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [True, False, *[True] * 4]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    expected = (x + 0.1 * uphill(model.eval(), x, y).sign()).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_mixed_images_are_attacked_by_their_mixed_labels():
    model, (x, y), threat = net(), images(), THREATS[0]
    other = (y + 1) % 5
    as_other = fgsm_at().craft(model, unmade(x, y, threat, mixed=F.one_hot(other, 5).double()))
    assert torch.equal(as_other, fgsm_at().craft(model, unmade(x, other, threat)))
    assert not torch.equal(as_other, fgsm_at().craft(model, unmade(x, y, threat)))


def test_a_flat_loss_moves_nothing():
    model, (x, y) = net(), images()
    model[-1].weight.data.zero_()
    for threat in THREATS:
        assert torch.equal(fgsm_at().craft(model, unmade(x, y, threat)), x)


def test_the_loss_is_the_cross_entropy_at_the_crafted_images_with_label_smoothing():
    model, (x, y) = net(), images()
    objective = fgsm_at()
    x_adv = objective.craft(model, unmade(x, y, THREATS[0]))
    batch = Batch(x, y, x_adv, model(x_adv), torch.arange(6), 0.5, Draws(0, torch.arange(6)), 0.2)
    value, terms = objective.loss(model, batch)
    torch.testing.assert_close(value, F.cross_entropy(model(x_adv), y, label_smoothing=0.2))
    assert terms.keys() == {"ce"}
    assert objective.loss is ce_at_images
    assert (objective.absorb, objective.replays) == (None, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start": -1}, "the start of fgsm-at"),
        ({"start": float("nan")}, "the start of fgsm-at"),
        ({"step": 0}, "the step of fgsm-at"),
        ({"step": "long"}, "the step of fgsm-at"),
        ({"clip": 1}, "clip of fgsm-at must be true or false"),
    ],
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        fgsm_at(**options)
