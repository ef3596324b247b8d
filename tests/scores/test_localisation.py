"""Pointing game and mass in the mask, on maps drawn by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.types import ExplainedImages
from robench.scores.localisation import mass_gain, mass_in_mask, pointing_game

SCORES = [pointing_game, mass_in_mask, mass_gain]


def explained(maps: Tensor, masks: Tensor | None) -> ExplainedImages:
    n = len(maps)
    x, y = torch.rand(n, 3, *maps.shape[2:]), torch.zeros(n, dtype=torch.int64)
    return ExplainedImages(nn.Identity(), x, y, y, torch.zeros(n, 2), maps, maps.abs(), lambda *_: maps, Draws(0, y, "test"), masks)


def drawn(rows: list[str], object_at: list[str]) -> ExplainedImages:
    """One map of digits with one channel, and its mask: # is the object."""
    maps = torch.tensor([[float(digit) for digit in row] for row in rows])[None, None]
    return explained(maps, torch.tensor([[place == "#" for place in row] for row in object_at])[None])


def square(n: int, size: int = 8, low: int = 2, high: int = 6) -> Tensor:
    """Masks with a square object."""
    masks = torch.zeros(n, size, size, dtype=torch.bool)
    masks[:, low:high, low:high] = True
    return masks


@pytest.mark.parametrize(
    ("rows", "hit", "mass"),
    [
        (["0000", "0900", "0010", "1000"], 1.0, 10 / 11),
        (["9000", "0800", "0010", "0000"], 0.0, 9 / 18),
        (["4000", "0400", "0040", "0004"], 0.5, 8 / 16),
        (["5555", "5555", "5555", "5555"], 0.25, 0.25),
        (["4000", "0000", "0000", "0000"], 0.0, 0.0),
    ],
)
def test_the_largest_pixel_and_the_mass_are_read_from_the_map(rows, hit, mass):
    found = drawn(rows, ["....", ".##.", ".##.", "...."])
    assert pointing_game(found).item() == hit
    assert mass_in_mask(found).item() == pytest.approx(mass, abs=1e-15)
    assert mass_gain(found).item() == pytest.approx(4 * mass, abs=1e-15)


@pytest.mark.parametrize(("margin", "hit"), [(0, 0.0), (1, 0.0), (2, 0.0), (3, 1.0)])
def test_a_miss_by_less_than_the_margin_is_a_hit_and_corners_are_further_away(margin, hit):
    corner = drawn(["90000", "00000", "00000", "00000", "00000"], [".....", ".....", "..#..", ".....", "....."])
    assert pointing_game(corner, margin=margin).item() == hit  # 2.83 pixels away


def test_a_margin_reaches_along_the_axes_and_never_loses_a_hit():
    beside = drawn(["00900"], ["#...."])
    assert [pointing_game(beside, margin=margin).item() for margin in (0, 1, 2)] == [0.0, 0.0, 1.0]
    maps = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    hits = torch.stack([pointing_game(explained(maps, square(50)), margin=margin) for margin in (0, 1, 2, 4, 15)])
    assert (hits.diff(dim=0) >= 0).all()
    assert 0 < hits[0].mean() < hits[1].mean() < 1
    assert (hits[-1] == 1).all()


def test_channels_are_summed_before_the_largest_pixel_is_sought():
    maps = torch.zeros(1, 3, 8, 8)
    maps[0, 0, 0, 0] = 3.0  # the largest subpixel, outside
    maps[0, :, 3, 3] = torch.tensor([2.0, -2.0, 2.0])  # the largest pixel, inside; its sign does not matter
    assert pointing_game(explained(maps, square(1))).item() == 1.0
    assert mass_in_mask(explained(maps, square(1))).item() == pytest.approx(6 / 9)


def test_random_maps_hit_as_often_as_the_object_is_large_and_gain_nothing():
    maps = torch.randn(4000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = explained(maps, square(4000))
    assert pointing_game(found).mean().item() == pytest.approx(0.25, abs=0.03)
    assert mass_gain(found).mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("score", SCORES)
def test_scores_do_not_depend_on_scale_or_sign(score):
    maps = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(score(explained(-4e-8 * maps, square(20))), score(explained(maps, square(20))), rtol=1e-6, atol=0)


def test_a_mask_over_the_whole_image_holds_everything():
    found = explained(torch.randn(5, 3, 8, 8), torch.ones(5, 8, 8, dtype=torch.bool))
    for score in SCORES:
        torch.testing.assert_close(score(found), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("score", SCORES)
def test_an_empty_mask_and_a_map_without_values_have_no_score(score):
    maps, masks = torch.rand(5, 3, 8, 8) + 0.1, square(5)
    masks[0], maps[1], maps[2, 0, 0, 0], maps[3, 1, 4, 4] = False, 0, math.nan, math.inf
    assert score(explained(maps, masks)).isnan().tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("score", SCORES)
def test_scores_need_masks_of_the_maps_shape(score):
    with pytest.raises(InputError, match="needs masks"):
        score(explained(torch.rand(2, 3, 8, 8), None))
    with pytest.raises(InputError, match="do not fit"):
        score(explained(torch.rand(2, 3, 8, 8), square(2, 7)))


@pytest.mark.parametrize("margin", [-1, 1.5, True])
def test_a_margin_that_is_not_a_number_of_pixels_is_refused(margin):
    with pytest.raises(InputError, match="margin"):
        pointing_game(explained(torch.rand(2, 3, 8, 8), square(2)), margin=margin)
