"""Mixing of pairs: closed forms, labels that tell what the pixels are, and random numbers that belong to seed and step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from robench.core.errors import InputError
from robench.data.mixing import MIXINGS, box_centre, cutmix, mixing_partners, mixing_share, mixup

Y, OTHER_Y = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([4, 1, 0, 2, 3])


def pairs(height=16, width=16):
    """Two batches of five images without a common pixel value, with their labels."""
    generator = torch.Generator().manual_seed(0)
    x, other = torch.rand(2, 5, 3, height, width, generator=generator, dtype=torch.float64) / 2
    return x, other + 0.5, Y, OTHER_Y


def onehot(y):
    return torch.eye(5, dtype=torch.float64)[y]


# the images and their labels


def test_mixup_is_the_weighted_mean_of_images_and_of_labels():
    x, other, y, other_y = pairs()
    mixed, major, found = mixup(x, other, y, other_y, 5, 0.3)
    torch.testing.assert_close(mixed, 0.3 * x + 0.7 * other)
    torch.testing.assert_close(found, 0.3 * onehot(y) + 0.7 * onehot(other_y))
    assert torch.equal(major, other_y)
    assert torch.equal(mixup(x, other, y, other_y, 5, 0.7).y, y)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.5, 0.5), (0.999, 0.2), (0.3, 0.8)])
@pytest.mark.parametrize("lam", [0.05, 0.36, 0.5, 0.91])
def test_cutmix_takes_one_box_from_the_partner_and_its_labels_are_the_exact_shares_of_the_pixels(lam, centre):
    x, other, y, other_y = pairs()
    mixed, major, found = cutmix(x, other, y, other_y, 5, lam, centre)
    taken = (mixed == other).all(1)
    assert torch.equal(mixed, torch.where(taken[:, None], other, x))
    assert torch.equal(taken, taken[:1].expand_as(taken))
    rows, columns = taken[0].any(1), taken[0].any(0)
    assert torch.equal(taken[0], rows[:, None] & columns)
    assert rows.nonzero().diff(dim=0).eq(1).all()
    assert columns.nonzero().diff(dim=0).eq(1).all()
    part = taken[0].double().mean()
    assert torch.equal(found, (1 - part) * onehot(y) + part * onehot(other_y))
    assert torch.equal(major, y if part <= 0.5 else other_y)


def test_an_uncut_box_has_the_area_one_minus_lam_and_the_shape_of_the_image():
    x, other, y, other_y = pairs(200, 100)
    for lam in (0.01, 0.19, 0.5, 0.75, 0.99):
        taken = (cutmix(x, other, y, other_y, 5, lam).x == other).all(1)[0]
        height, width = int(taken.any(1).sum()), int(taken.any(0).sum())
        assert abs(height - 2 * width) <= 2
        assert abs(height * width / taken.numel() - (1 - lam)) < 0.012


def test_the_mean_area_of_a_box_is_that_of_a_square_cut_at_the_border():
    x, other, y, other_y = pairs(32, 32)
    side, areas = 16, []
    for step in range(3000):
        found = cutmix(x[:1], other[:1], y[:1], other_y[:1], 5, 0.75, box_centre(0, step)).probabilities
        areas.append(float(found[0, 4]))
    along = np.mean([min(c - side // 2 + side, 32) - max(c - side // 2, 0) for c in range(32)]) / 32
    error = np.std(areas) / len(areas) ** 0.5
    assert 0 < error < 0.003
    assert abs(np.mean(areas) - along**2) < 4 * error


@pytest.mark.parametrize("name", MIXINGS)
def test_all_of_one_image_is_that_image_with_its_label(name):
    x, other, y, other_y = pairs()
    mixed, major, found = MIXINGS[name](x, other, y, other_y, 5, 1.0, (0.5, 0.5))
    assert torch.equal(mixed, x)
    assert torch.equal(major, y)
    assert torch.equal(found, onehot(y))
    mixed, major, found = MIXINGS[name](x, other, y, other_y, 5, 0.0, (0.5, 0.5))
    assert torch.equal(mixed, other)
    assert torch.equal(major, other_y)
    assert torch.equal(found, onehot(other_y))


@pytest.mark.parametrize("name", MIXINGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_probabilities_sum_to_one_and_the_major_label_has_at_least_half(name, dtype):
    x, other, y, other_y = pairs()
    for step in range(50):
        mixed, major, found = MIXINGS[name](x.to(dtype), other.to(dtype), y, other_y, 5, mixing_share(1.0, 0, step), box_centre(0, step))
        assert mixed.dtype == dtype
        assert found.dtype == torch.promote_types(dtype, torch.float32)
        assert (found >= 0).all()
        torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=found.dtype), rtol=0, atol=2e-7)
        assert (found.gather(1, major[:, None]) >= 0.5 - 1e-7).all()
        assert found[1, 1] == pytest.approx(1)  # both partners have label 1
        assert mixed.min() >= 0
        assert mixed.max() <= 1


@pytest.mark.parametrize("name", MIXINGS)
def test_images_and_labels_that_come_in_stay_as_they_are(name):
    given = pairs()
    before = [tensor.clone() for tensor in given]
    MIXINGS[name](*given, 5, 0.6, (0.1, 0.9))
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("name", MIXINGS)
def test_parts_of_the_batch_mixed_apart_equal_the_whole(name):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(12, 3, 8, 8, generator=generator), torch.arange(12) % 5
    order, lam, centre = mixing_partners(12, 3, 40), mixing_share(0.4, 3, 40), box_centre(3, 40)
    whole = MIXINGS[name](x, x[order], y, y[order], 5, lam, centre)
    for mine in (slice(0, 4), slice(4, 12), slice(1, 12, 3)):
        part = MIXINGS[name](x[mine], x[order[mine]], y[mine], y[order[mine]], 5, lam, centre)
        assert all(torch.equal(a, b[mine]) for a, b in zip(part, whole, strict=True))


# the random numbers


def test_partners_are_a_permutation_and_every_pair_occurs():
    orders = torch.stack([mixing_partners(6, 0, step) for step in range(1200)])
    assert torch.equal(orders.sort(1).values, torch.arange(6).expand(1200, -1))
    assert orders.dtype == torch.int64
    counts = torch.stack([column.bincount(minlength=6) for column in orders.T])
    assert (counts - 200).abs().max() < 5 * (1200 * 5 / 36) ** 0.5


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_have_the_moments_and_the_law_of_beta(alpha):
    drawn = np.array([mixing_share(alpha, 7, step) for step in range(4000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(drawn.mean() - 0.5) < 4 * (variance / 4000) ** 0.5
    assert drawn.var() == pytest.approx(variance, rel=0.1)
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_a_small_alpha_mixes_hardly_anything_and_a_large_one_mixes_by_halves():
    small = np.array([mixing_share(1e-4, 0, step) for step in range(400)])
    assert (np.minimum(small, 1 - small) < 1e-6).mean() > 0.98
    assert 0.4 < small.mean() < 0.6
    assert all(abs(mixing_share(1e6, 0, step) - 0.5) < 0.01 for step in range(100))


def test_boxes_are_centred_evenly_along_both_axes_and_apart_from_each_other():
    places = np.array([box_centre(0, step) for step in range(3000)])
    assert all(stats.kstest(places[:, axis], "uniform").pvalue > 1e-3 for axis in (0, 1))
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.08


def test_random_numbers_are_a_function_of_seed_and_step_alone():
    def all_of(seed, step):
        return mixing_partners(50, seed, step).tolist(), mixing_share(1.0, seed, step), box_centre(seed, step)

    first = all_of(3, 5)
    np.random.default_rng(0).random(10)
    torch.rand(3)
    assert all_of(3, 5) == first
    for others in (all_of(3, 6), all_of(4, 5), all_of(5, 3), all_of(0, 0)):
        assert all(a != b for a, b in zip(first, others, strict=True))


def test_the_share_knows_nothing_of_the_place_or_of_the_next_step():
    shares = np.array([mixing_share(1.0, 0, step) for step in range(3000)])
    places = np.array([box_centre(0, step) for step in range(3000)])
    other = np.array([mixing_share(1.0, 1, step) for step in range(3000)])
    for pair in ((shares, places[:, 0]), (shares, places[:, 1]), (shares[1:], shares[:-1]), (shares, other)):
        assert abs(np.corrcoef(*pair)[0, 1]) < 0.08


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf"), "one"])
def test_a_wrong_alpha_is_refused(alpha):
    with pytest.raises(InputError, match="the alpha of mixup and cutmix must be a finite number above 0"):
        mixing_share(alpha, 0, 0)
