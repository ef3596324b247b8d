"""Completeness, infidelity, deletion and insertion: closed forms on linear models, curves by hand, Captum under the same noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from maps import asked, gradient, part
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.model_calls import FULL_ROWS
from robench.core.types import ExplainedImages
from robench.models.layers import Normalize
from robench.scores.faithfulness import blurred_images, completeness, deletion, descending_ranks, infidelity, insertion, ordering_values

SCORES = [completeness, infidelity, deletion, insertion]


class Pixels(nn.Module):
    """Two logits, (0, <w, x>), of images with one channel: the chance of class 1 is the sigmoid of <w, x>."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w, self.most = nn.Parameter(w), 0

    def forward(self, x: Tensor) -> Tensor:
        self.most = max(self.most, len(x))
        score = (x * self.w).flatten(1).sum(1)
        return torch.stack((torch.zeros_like(score), score), 1)


def drawn(w: list[list[float]], x: Tensor, maps: Tensor) -> ExplainedImages:
    model = Pixels(torch.tensor(w)[None]).requires_grad_(False)
    one = torch.ones(len(x), dtype=torch.int64)
    return ExplainedImages(model, x, one, one, model(x), maps, maps.abs(), gradient, Draws(0, torch.arange(len(x)), "test"))


def chance(score: float) -> float:
    return float(torch.tensor(score, dtype=torch.float64).sigmoid())


# Completeness


def test_gradient_times_image_is_complete_on_a_linear_model_from_any_baseline(problem):
    lin = problem("linear")
    for value, name in ((0.0, "black"), (0.5, 0.5), (1.0, "white")):
        maps = (lin.x - value) * lin.model.w.detach()[lin.y]
        assert completeness(asked(lin, maps=maps), baseline=name).max() < 1e-5


@pytest.mark.parametrize("factor", [0.0001, 0.5, 1.5, -1.0, 3.0])
def test_a_scaled_complete_map_misses_by_what_was_added_or_taken(problem, factor):
    lin = problem("linear")
    missed = completeness(asked(lin, maps=factor * lin.x * lin.model.w.detach()[lin.y]))
    assert torch.allclose(missed, torch.full_like(missed, abs(factor - 1)), atol=1e-4)


def test_completeness_explains_the_target_not_the_label(problem):
    lin = problem("linear")
    other = (lin.y + 1) % 5
    maps = lin.x * lin.model.w.detach()[other]
    assert completeness(asked(lin, maps=maps, target=other)).nanmedian() < 1e-5
    assert completeness(asked(lin, maps=maps)).nanmedian() > 0.1


def test_integrated_gradients_of_captum_are_complete_and_gradients_are_not(problem):
    from captum.attr import IntegratedGradients

    net = problem("convolutional")
    net.model.requires_grad_(False)
    maps = IntegratedGradients(net.model).attribute(net.x, target=net.y, n_steps=200, internal_batch_size=64).float()
    assert completeness(asked(net, maps=maps)).nanmedian() < 0.01
    assert completeness(asked(net)).nanmedian() > 0.1


def test_a_rise_that_is_lost_in_rounding_has_no_completeness():
    x = torch.tensor([[[[0.0, 0.5]]], [[[1e-5, 0.5]]], [[[0.5, 0.5]]]])
    found = drawn([[1.0, 0.0]], x, torch.ones_like(x))
    shifted = nn.Sequential(found.model, Shift(10.0)).requires_grad_(False)
    values = completeness(replace(found, model=shifted, logits=shifted(x)))
    assert values[:2].isnan().all()
    assert values[2].item() == pytest.approx((2 - 0.5) / 0.5, rel=1e-4)


class Shift(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.by


def test_a_map_of_one_channel_has_its_sum():
    x = torch.full((1, 1, 1, 2), 0.5)
    assert completeness(drawn([[2.0, 4.0]], x, torch.tensor([[[[1.0, 2.0]]]]))).item() == pytest.approx(0, abs=1e-7)


# Infidelity


@pytest.mark.parametrize("normalize", [False, True])
def test_the_gradient_foretells_a_linear_model(problem, normalize):
    lin = problem("linear")
    assert infidelity(asked(lin), normalize=normalize).max() < 1e-9
    assert infidelity(asked(lin, maps=torch.randn_like(lin.x)), normalize=normalize).min() > 1e-3


def test_a_map_that_is_off_by_one_pixel_fails_by_the_variance_of_that_pixel():
    x = torch.full((400, 1, 1, 2), 0.5)
    maps = torch.tensor([1.0, 5.0]).expand_as(x).contiguous()
    found = infidelity(drawn([[1.0, 2.0]], x, maps), perturbations=50, stdev=0.2, normalize=False)
    assert found.mean().item() == pytest.approx(9 * 0.2**2, rel=0.03)  # <I, a> - <I, w> = 3 I_2


@pytest.mark.parametrize("factor", [-3.0, 1e-3, 1e4])
def test_the_scaled_score_does_not_depend_on_the_scale_and_the_plain_one_does(problem, factor):
    net = problem("convolutional")
    one, other = asked(net), asked(net, maps=factor * asked(net).maps)
    assert torch.allclose(infidelity(one), infidelity(other), rtol=1e-4)
    assert not torch.allclose(infidelity(one, normalize=False), infidelity(other, normalize=False), rtol=0.1)


def test_the_best_scale_is_never_worse_than_the_plain_map(problem):
    net = asked(problem("convolutional"))
    assert (infidelity(net) <= infidelity(net, normalize=False) + 1e-12).all()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("n", [5, 16])
def test_it_is_the_infidelity_of_captum_under_the_same_noise(problem, normalize, n):
    from captum.metrics import infidelity as reference

    found = part(asked(problem("convolutional")), slice(0, n))
    noises = iter([0.3 * found.draws.child("infidelity").normal((3, 8, 8), step) for step in range(7)])

    def perturb(inputs):
        noise = next(noises)
        return noise, inputs - noise

    theirs = reference(
        found.model, perturb, found.x, found.maps, target=found.target, n_perturb_samples=7, max_examples_per_batch=n, normalize=normalize
    )
    ours = infidelity(found, perturbations=7, stdev=0.3, normalize=normalize)
    assert ours.dtype == torch.float64
    assert torch.allclose(ours, theirs.double(), rtol=2e-3, atol=1e-8)


def test_a_map_of_one_channel_counts_for_each_channel(problem):
    net = problem("convolutional")
    flat = asked(net).maps.sum(1, keepdim=True)
    for normalize in (False, True):
        assert torch.equal(
            infidelity(asked(net, maps=flat), normalize=normalize), infidelity(asked(net, maps=flat.expand_as(net.x)), normalize=normalize)
        )


# Deletion and insertion


def test_the_area_of_two_steps_is_that_worked_out_by_hand():
    x = torch.ones(1, 1, 2, 2)
    w = [[3.0, 1.0], [-1.0, -2.0]]
    maps = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])  # the upper row goes first
    gone = (chance(1) / 2 + chance(-3) + chance(0) / 2) / 2
    come = (chance(0) / 2 + chance(4) + chance(1) / 2) / 2
    assert deletion(drawn(w, x, maps), steps=2).item() == pytest.approx(gone, abs=1e-7)
    assert insertion(drawn(w, x, maps), steps=2, baseline=0.0).item() == pytest.approx(come, abs=1e-7)


def test_unequal_portions_keep_their_width():
    x, maps = torch.ones(1, 1, 1, 3), torch.tensor([[[[3.0, 2.0, 1.0]]]])
    found = drawn([[1.0, 10.0, 100.0]], x, maps)  # the cuts of 2 steps in 3 pixels: 0, 1, 3
    by_hand = (chance(111) + chance(110)) / 2 / 3 + (chance(110) + chance(0)) / 2 * 2 / 3
    assert deletion(found, steps=2).item() == pytest.approx(by_hand, abs=1e-7)


def test_signed_order_keeps_evidence_against_to_the_end_and_absolute_order_does_not():
    x, maps = torch.ones(1, 1, 1, 2), torch.tensor([[[[-5.0, 1.0]]]])
    found = drawn([[-5.0, 1.0]], x, maps)
    ends = (chance(-4) + chance(0)) / 2
    assert deletion(found, steps=2).item() == pytest.approx((ends + chance(-5)) / 2, abs=1e-7)
    assert deletion(found, steps=2, order="absolute").item() == pytest.approx((ends + chance(1)) / 2, abs=1e-7)


@pytest.mark.parametrize("place", [0, 3, 8])
def test_where_one_pixel_decides_the_area_says_when_its_turn_comes(place):
    x = torch.ones(1, 1, 3, 3)
    w = torch.zeros(9)
    w[place] = 50.0  # the chance is 1 with the pixel and 1/2 without
    maps = torch.arange(9.0, 0, -1).view(1, 1, 3, 3)
    found = drawn(w.view(3, 3).tolist(), x, maps)
    assert deletion(found, steps=9).item() == pytest.approx(0.5 + 0.5 * (place + 0.5) / 9, abs=1e-7)
    assert insertion(found, steps=9, baseline="black").item() == pytest.approx(1 - 0.5 * (place + 0.5) / 9, abs=1e-7)


def test_a_map_that_knows_the_model_beats_its_reverse(problem):
    lin = problem("linear")
    maps = lin.x * lin.model.w.detach()[lin.y]
    for baseline in (0.0, "grey"):
        assert (deletion(asked(lin, maps=maps), baseline=baseline) < deletion(asked(lin, maps=-maps), baseline=baseline)).all()
        assert (insertion(asked(lin, maps=maps), baseline=baseline) > insertion(asked(lin, maps=-maps), baseline=baseline)).all()


def test_deleting_in_one_order_is_inserting_in_the_reverse(problem):
    net = problem("convolutional")
    assert torch.allclose(
        deletion(asked(net), steps=16, baseline=0.3), insertion(asked(net, maps=-asked(net).maps), steps=16, baseline=0.3), atol=1e-6
    )


def test_ties_go_in_reading_order():
    assert descending_ranks(torch.tensor([[[1.0, 3.0], [3.0, 1.0]]]).double()).tolist() == [[[2, 0], [1, 3]]]


def test_more_steps_than_pixels_are_one_step_a_pixel():
    found = drawn([[1.0, 2.0], [3.0, 4.0]], torch.ones(1, 1, 2, 2), torch.tensor([[[[4.0, 1.0], [2.0, 3.0]]]]))
    assert deletion(found, steps=4).item() == deletion(found, steps=1000).item()


def test_blocks_go_as_a_whole_by_the_mean_of_their_pixels_and_the_last_may_be_smaller():
    maps = torch.tensor([[[[9.0, 0.0, 4.0], [0.0, 0.0, 4.0], [5.0, 6.0, 1.0]]]])
    assert ordering_values(maps, 2, "signed").tolist() == [[[2.25, 4.0], [5.5, 1.0]]]
    x = torch.ones(1, 1, 3, 3)
    w = [[1.0, 0.0, 0.3], [0.0, 0.0, 0.3], [-2.0, 0.0, 0.7]]
    scores = [0.3, 2.3, 1.7, 0.7, 0.0]  # gone: nothing, lower left (2 pixels), upper right (2), upper left (4), lower right (1)
    widths = [2, 2, 4, 1]
    by_hand = sum(width * (chance(a) + chance(b)) / 2 for width, a, b in zip(widths, scores, scores[1:], strict=False)) / 9
    assert deletion(drawn(w, x, maps), block=2).item() == pytest.approx(by_hand, abs=1e-6)


def test_block_one_is_no_block_and_one_block_has_no_order(problem):
    net = asked(problem("convolutional"))
    assert torch.equal(deletion(net, block=1), deletion(net))
    assert deletion(net, block=8).isnan().all()
    assert deletion(net, block=20).isnan().all()


def test_the_mean_baseline_is_that_of_the_models_normalisation():
    x = torch.ones(1, 1, 1, 2)
    found = drawn([[2.0, 3.0]], x, torch.tensor([[[[2.0, 1.0]]]]))
    model = nn.Sequential(Normalize((0.25,), (0.5,)), found.model).requires_grad_(False)
    found = replace(found, model=model, logits=model(x))
    by_hand = (chance(7.5) / 2 + chance(4.5) + chance(0) / 2) / 2  # each pixel is (1 - 0.25) / 0.5 = 1.5, then 0
    assert deletion(found, steps=2, baseline="mean").item() == pytest.approx(by_hand, abs=1e-6)


def test_the_blur_is_a_gaussian_of_eleven_pixels_that_keeps_flat_images():
    flat = torch.full((2, 3, 6, 9), 0.7)
    assert torch.allclose(blurred_images(flat), flat, atol=1e-6)
    dot = torch.zeros(1, 1, 25, 25)
    dot[0, 0, 12, 12] = 1
    spot = blurred_images(dot)[0, 0].double()
    bell = torch.exp(-(torch.arange(-5.0, 6.0).double() ** 2) / 50)
    assert torch.allclose(spot[7:18, 7:18], torch.outer(bell, bell) / bell.sum() ** 2, atol=1e-7)
    assert spot[:7].abs().max() == spot[:, 18:].abs().max() == 0


def test_insertion_begins_with_the_blurred_image_unless_told_otherwise():
    x = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    w = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    found = drawn(w.tolist(), x, x * w)
    start = found.model(blurred_images(x)).double().softmax(1)[:, 1]
    end = found.logits.double().softmax(1)[:, 1]
    assert torch.allclose(insertion(found, steps=1), (start + end) / 2, atol=1e-6)
    assert not torch.allclose(insertion(found), insertion(found, baseline=0.0), atol=1e-3)


# All four


@pytest.mark.parametrize("score", SCORES)
def test_maps_of_zeros_and_maps_that_are_not_finite_have_no_score(problem, score):
    net = asked(problem("convolutional"))
    maps = net.maps.clone()
    maps[1], maps[2, 0, 3, 3], maps[4, 1, 2, 2] = 0, torch.nan, -torch.inf
    found, before = score(replace(net, maps=maps)), score(net)
    assert found.isnan().nonzero().flatten().tolist() == [1, 2, 4]
    others = [0, 3, *range(5, 16)]
    assert torch.equal(found[others], before[others])


@pytest.mark.parametrize("score", [deletion, insertion])
def test_a_constant_map_has_no_order(problem, score):
    net = problem("convolutional")
    assert score(asked(net, maps=torch.full_like(net.x, 0.1))).isnan().all()


@pytest.mark.parametrize("score", SCORES)
def test_an_image_with_logits_that_are_not_finite_has_no_score(score):
    x = torch.full((2, 1, 2, 2), 0.5)
    found = drawn([[1.0, 2.0], [3.0, 4.0]], x, torch.rand(2, 1, 2, 2))
    found = replace(found, x=torch.cat((x[:1], torch.full_like(x[:1], torch.nan))))
    found = replace(found, logits=found.model(found.x))
    assert score(found).isnan().tolist() == [False, True]


@pytest.mark.parametrize("score", SCORES)
def test_halves_and_single_images_score_as_the_whole_does(problem, score):
    net = asked(problem("convolutional", n=17))
    whole = score(net)
    halves = torch.cat([score(part(net, slice(0, 8))), score(part(net, slice(8, 17)))])
    assert whole.shape == (17,)
    assert whole.dtype == torch.float64
    assert torch.allclose(whole, halves, rtol=1e-4, atol=1e-7)
    assert torch.allclose(whole[3:4], score(part(net, slice(3, 4))), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("n", [1, 20, 70])
def test_no_call_has_more_images_than_the_batch_or_the_least(score, n):
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = drawn(torch.rand(4, 4).tolist(), x, torch.rand(n, 1, 4, 4))
    found.model.most = 0
    score(found)
    assert 0 < found.model.most <= max(n, FULL_ROWS)


@pytest.mark.parametrize("score", SCORES)
def test_nothing_that_was_given_is_changed(problem, score):
    net = asked(problem("convolutional"))
    before = (net.x.clone(), net.maps.clone(), net.logits.clone())
    state = torch.random.get_rng_state()
    score(net)
    assert all(torch.equal(a, b) for a, b in zip(before, (net.x, net.maps, net.logits), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not net.x.requires_grad


@pytest.mark.parametrize(
    ("score", "options", "word"),
    [
        (completeness, {"baseline": "blue"}, "baseline"),
        (infidelity, {"perturbations": 0}, "perturbations"),
        (infidelity, {"perturbations": 1}, "at least 2"),
        (infidelity, {"stdev": 0.0}, "stdev"),
        (infidelity, {"normalize": "yes"}, "normalize"),
        (deletion, {"steps": 0}, "steps"),
        (deletion, {"block": 0}, "block"),
        (deletion, {"order": "size"}, "order"),
        (insertion, {"baseline": 2.0}, "baseline"),
        (insertion, {"steps": 1.5}, "steps"),
    ],
)
def test_a_wrong_option_is_named(problem, score, options, word):
    with pytest.raises(InputError, match=word):
        score(asked(problem("convolutional")), **options)


def test_one_perturbation_is_enough_for_the_plain_score(problem):
    assert infidelity(asked(problem("linear")), perturbations=1, normalize=False).max() < 1e-9
