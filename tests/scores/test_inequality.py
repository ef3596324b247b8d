"""Gini, regional Gini, entropy, top mass and Lorenz curves against closed forms, other implementations and what must not change them."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.types import ExplainedImages
from robench.scores.inequality import (
    REDUCTIONS,
    block_side,
    entropy,
    gini,
    gini_of_sorted,
    gini_positive,
    lorenz_heights,
    map_sizes,
    regional_gini,
    regional_gini_positive,
    top_mass,
)

SCORES = {
    "gini": gini,
    "regional": regional_gini,
    "positive": regional_gini_positive,
    "subpixels": gini_positive,
    "entropy": entropy,
    "top": top_mass,
}


def explained(maps: Tensor, channels: str = "none") -> ExplainedImages:
    n = len(maps)
    x, y = torch.rand(n, 3, *maps.shape[2:], dtype=maps.dtype), torch.zeros(n, dtype=torch.int64)
    draws = Draws(0, torch.arange(n), "test")
    return ExplainedImages(nn.Identity(), x, y, y, torch.zeros(n, 2), maps, map_sizes(maps, channels), lambda *_: maps, draws)


def one(values: list[float]) -> ExplainedImages:
    """One image of one row of pixels."""
    return explained(torch.tensor(values, dtype=torch.float64)[None, None, None])


def random_maps(n: int = 20, shape: tuple[int, ...] = (3, 8, 8), seed: int = 0) -> Tensor:
    """Signed maps of very different inequality, float64: a normal number to a power, with some zeros."""
    g = torch.Generator().manual_seed(seed)
    normal = torch.randn((n, *shape), generator=g, dtype=torch.float64)
    power = torch.linspace(0.2, 6, n, dtype=torch.float64)[:, None, None, None]
    return normal.sign() * normal.abs() ** power * (torch.rand((n, *shape), generator=g) < 0.9)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0] * 16, 0.0),
        ([0.1] * 3072, 0.0),
        ([0.0] * 15 + [7.0], 0.9375),
        ([1.0, 2.0, 3.0, 4.0], 0.25),
        ([-4.0, 3.0, -2.0, 1.0], 0.25),
        ([float(i) for i in range(1, 11)], 0.3),
        ([2.0**i for i in range(8)], 0.6328431372549019),
        ([5.0], 0.0),
    ],
)
def test_gini_has_its_known_values(values, expected):
    assert gini(one(values)).item() == pytest.approx(expected, abs=1e-12)


def test_gini_is_half_the_relative_mean_difference_of_all_pairs():
    maps = random_maps()
    sizes = maps.abs().flatten(1)
    pairs = (sizes[:, :, None] - sizes[:, None, :]).abs().mean((1, 2)) / (2 * sizes.mean(1))
    torch.testing.assert_close(gini(explained(maps)), pairs, rtol=1e-12, atol=1e-12)


def test_gini_of_float32_maps_is_as_exact_as_that_of_the_same_numbers_in_float64():
    maps = random_maps(6, (3, 64, 64)).float()
    found, exact = gini(explained(maps)), gini(explained(maps.double()))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-14)


def test_an_image_gets_the_same_score_in_any_company():
    maps = random_maps(300).float()
    for score in SCORES.values():
        alone = torch.cat([score(explained(maps[i : i + 1])) for i in range(0, 300, 50)])
        torch.testing.assert_close(score(explained(maps))[::50], alone, rtol=0, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("factor", [1e-25, 1e-6, 3.0, 1e25])
def test_no_score_depends_on_the_scale_of_the_map(name, factor):
    maps = random_maps()
    torch.testing.assert_close(SCORES[name](explained(factor * maps)), SCORES[name](explained(maps)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["gini", "entropy", "top", "regional"])
def test_no_score_of_sizes_depends_on_signs(name):
    maps = random_maps()
    assert torch.equal(SCORES[name](explained(-maps)), SCORES[name](explained(maps)))
    assert torch.equal(SCORES[name](explained(maps.abs())), SCORES[name](explained(maps)))


@pytest.mark.parametrize("name", ["gini", "entropy", "top"])
def test_scores_over_subpixels_do_not_depend_on_their_places(name):
    maps = random_maps()
    mixed = maps.flatten(1)[:, torch.randperm(192, generator=torch.Generator().manual_seed(1))].view_as(maps)
    torch.testing.assert_close(SCORES[name](explained(mixed)), SCORES[name](explained(maps)), rtol=0, atol=1e-14)


def test_regional_scores_depend_on_places_but_not_on_those_inside_a_block():
    maps = random_maps(5, (1, 8, 8))
    turned = maps.view(5, 1, 4, 2, 4, 2).flip(3, 5).view_as(maps)
    for score in (regional_gini, regional_gini_positive):
        torch.testing.assert_close(score(explained(turned), block=2), score(explained(maps), block=2), rtol=0, atol=1e-12)
        moved = score(explained(maps.roll((1, 1), (2, 3))), block=2)
        assert ((moved - score(explained(maps), block=2)).abs() > 1e-3).all()


def test_replicating_a_map_leaves_gini_and_top_mass_and_adds_the_log_to_entropy():
    maps = random_maps(shape=(1, 10, 10))
    tiled = explained(maps.tile(1, 1, 2, 3))
    torch.testing.assert_close(gini(tiled), gini(explained(maps)), rtol=0, atol=1e-12)
    torch.testing.assert_close(top_mass(tiled, share=0.05), top_mass(explained(maps), share=0.05), rtol=0, atol=1e-12)
    torch.testing.assert_close(entropy(tiled), entropy(explained(maps)) + math.log(6), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_a_map_that_is_zero_everywhere_or_not_finite_somewhere_has_no_score_and_harms_no_other(bad):
    maps = random_maps(3).float()
    whole = explained(maps)
    broken = maps.clone()
    broken[1] = 0 if bad == 0 else broken[1]
    broken[1, 2, 7, 3] = bad
    for score in SCORES.values():
        found = score(explained(broken))
        assert found.isnan().tolist() == [False, True, False]
        torch.testing.assert_close(found[::2], score(whole)[::2])
    curves = lorenz_heights(explained(broken).sorted_sizes)
    assert curves[1].isnan().all()
    assert curves[::2].isfinite().all()


def test_a_block_of_minus_infinity_is_not_taken_for_an_empty_one():
    maps = random_maps(2)
    maps[0, 0, 0, 0] = -math.inf
    assert regional_gini_positive(explained(maps)).isnan().tolist() == [True, False]


@pytest.mark.parametrize("channels", REDUCTIONS)
@pytest.mark.parametrize("block", [1, 2, 4, 8])
def test_regional_gini_never_exceeds_gini(channels, block):
    maps = explained(random_maps(60), channels)
    assert (regional_gini(maps, block=block) <= gini(maps) + 1e-12).all()


def test_regional_gini_is_the_gini_of_sums_over_blocks_and_channels():
    maps = random_maps(4, (3, 6, 9))
    sums = torch.stack([maps[:, :, i : i + 3, j : j + 3].abs().sum((1, 2, 3)) for i in (0, 3) for j in (0, 3, 6)], 1)
    torch.testing.assert_close(regional_gini(explained(maps), block=3), gini_of_sorted(sums.sort(1).values), rtol=0, atol=1e-12)
    assert regional_gini(explained(maps[:, :, :6, :6]), block=6).tolist() == [0.0] * 4


def test_the_positive_variant_takes_signed_sums_and_can_exceed_gini():
    maps = torch.tensor([[3.0, -3.0, 1.0, 1.0], [1.0, 0.0, 1.0, -4.0]]).view(1, 1, 2, 4).double()  # blocks: 1 and -1
    assert regional_gini_positive(explained(maps), block=2).item() == 0.5
    assert regional_gini(explained(maps), block=2).item() == 0.0
    assert gini(explained(maps)).item() < 0.5
    assert regional_gini_positive(explained(-maps.abs()), block=2).isnan().all()


def test_the_positive_variant_does_not_depend_on_how_channels_are_put_together():
    maps = random_maps()
    assert torch.equal(regional_gini_positive(explained(maps, "max")), regional_gini_positive(explained(maps)))


@pytest.mark.parametrize(("side", "block"), [(5, 1), (8, 2), (28, 4), (32, 4), (64, 8), (96, 8), (128, 8), (224, 16), (299, 23), (384, 24)])
def test_the_block_scales_with_the_image_and_divides_it(side, block):
    assert block_side(side, side) == block


@pytest.mark.parametrize("block", [0, 3, 64, 2.0, True])
def test_a_block_that_does_not_fill_the_image_is_refused(block):
    with pytest.raises(InputError, match="block"):
        regional_gini(explained(random_maps(1)), block=block)


def test_an_image_without_a_fitting_block_asks_for_one():
    with pytest.raises(InputError, match="1, 97"):
        block_side(97, 97)
    assert block_side(97, 97, 97) == 97
    assert block_side(32, 48) == 4


def test_channels_are_put_together_as_named_and_each_way_has_its_own_gini():
    maps = torch.tensor([[[[-3.0, 1.0]], [[1.0, 0.0]]]])
    expected = {"none": [3.0, 1.0, 1.0, 0.0], "sum": [4.0, 1.0], "max": [3.0, 1.0], "mean": [2.0, 0.5]}
    assert {name: map_sizes(maps, name).flatten().tolist() for name in REDUCTIONS} == expected
    assert all(map_sizes(maps, name).shape == (1, 2 if name == "none" else 1, 1, 2) for name in REDUCTIONS)
    ginis = [round(gini(explained(maps, name)).item(), 6) for name in ("none", "sum", "max")]
    assert ginis == [0.45, 0.3, 0.25]
    with pytest.raises(InputError, match="did you mean 'mean'"):
        map_sizes(maps, "means")


def test_entropy_runs_from_0_to_the_log_of_the_number_of_sizes():
    assert entropy(one([0.0] * 9 + [3.0])).item() == 0.0
    assert entropy(one([0.2] * 3072)).item() == pytest.approx(math.log(3072), abs=1e-12)
    assert entropy(one([1.0, 1.0, 0.0, 0.0])).item() == pytest.approx(math.log(2), abs=1e-15)


def test_entropy_is_that_of_scipy():
    maps = random_maps()
    expected = torch.from_numpy(stats.entropy(maps.abs().flatten(1).numpy(), axis=1))
    torch.testing.assert_close(entropy(explained(maps)), expected, rtol=1e-12, atol=1e-12)


def test_gini_and_entropy_of_an_arithmetic_map_are_those_of_another_library():
    maps = torch.arange(1.0, 193).view(1, 3, 8, 8)  # Quantus 0.6: Sparseness 0.3315972222, Complexity 5.0669155
    assert gini(explained(maps)).item() == pytest.approx(0.3315972222, abs=1e-9)
    assert entropy(explained(maps)).item() == pytest.approx(5.0669155, abs=1e-6)


@pytest.mark.parametrize(("share", "expected"), [(0.1, 4 / 10), (0.2, 7 / 10), (0.11, 7 / 10), (1e-9, 4 / 10), (1.0, 1.0), (0.3, 9 / 10)])
def test_top_mass_is_what_the_largest_carry(share, expected):
    assert top_mass(one([0.0, 3, 0, -4, 0, 2, 0, 1, 0, 0]), share=share).item() == pytest.approx(expected, abs=1e-15)


def test_top_mass_counts_no_entry_too_many_where_the_product_is_rounded_up():
    assert math.ceil(0.07 * 100) == 8
    assert top_mass(one([1.0] * 100), share=0.07).item() == pytest.approx(0.07, abs=1e-12)


@pytest.mark.parametrize("share", [0, -0.1, 1.1, "much", True])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InputError, match="share"):
        top_mass(one([1.0, 2.0]), share=share)


def test_gini_is_one_less_twice_the_area_under_the_exact_lorenz_curve():
    maps = explained(random_maps())
    n = maps.sorted_sizes.shape[1]
    curve = lorenz_heights(maps.sorted_sizes, n + 1)
    torch.testing.assert_close(1 - 2 * torch.trapezoid(curve, dx=1 / n, dim=1), gini(maps), rtol=0, atol=1e-12)


@pytest.mark.parametrize("points", [2, 7, 101, 500])
def test_lorenz_curves_rise_from_0_to_1_below_the_diagonal_and_bend_upwards(points):
    curve = lorenz_heights(explained(random_maps()).sorted_sizes, points)
    shares = torch.linspace(0, 1, points, dtype=torch.float64)
    assert curve.shape == (20, points)
    assert (curve[:, 0] == 0).all()
    assert (curve[:, -1] == 1).all()
    assert (curve <= shares + 1e-12).all()
    assert (curve.diff(n=2) >= -1e-12).all()


def test_lorenz_curves_are_straight_between_their_exact_points():
    ordered = torch.tensor([[1.0, 3.0]])
    assert lorenz_heights(ordered, 5).tolist() == [[0.0, 0.125, 0.25, 0.625, 1.0]]
    torch.testing.assert_close(lorenz_heights(ordered, 4)[0, 1:3], torch.tensor([1 / 6, 0.5], dtype=torch.float64), rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="points"):
        lorenz_heights(ordered, 1)


def test_the_gini_of_positive_parts_counts_each_subpixel_and_takes_negative_ones_for_nothing():
    assert gini_positive(one([3.0, -3.0, 1.0, 1.0])).item() == pytest.approx(0.45)  # that of 0, 1, 1, 3
    assert gini_positive(one([-1.0, 0.0, -2.0])).isnan().all()
    maps = random_maps(6, (3, 32, 32))
    torch.testing.assert_close(gini_positive(explained(maps.abs())), gini(explained(maps)), rtol=0, atol=1e-12)
    assert (gini_positive(explained(maps)) > gini(explained(maps))).all()


def test_a_loop_over_blocks_that_takes_channels_for_the_width_sums_no_block():
    """Why the released script of Duan et al. gives the Gini of positive parts where it says regional."""
    maps = random_maps(3, (3, 224, 224))
    for block in (8, 16):
        assert maps.shape[1] // block == 0
    whole = explained(maps)
    assert (gini_positive(whole) - regional_gini_positive(whole, block=16)).abs().min() > 0.01
