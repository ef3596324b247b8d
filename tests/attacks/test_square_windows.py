"""Square's windows: the published schedule, sides and patterns, as tables; places inside the image; tiles that fit."""

import itertools

import pytest
import torch

from robench.attacks.square import (
    FULL_LENGTH,
    QUERY_BLOCK,
    STRETCH,
    bump,
    query_stretches,
    tiled_start,
    tiling,
    window_patterns,
    window_places,
    window_share,
    window_side,
)

SCHEDULES = {  # queries, rescaled: the first query of each level
    (5000, False): [0, 11, 51, 201, 501, 1001, 2001, 4001],
    (1000, False): [0, 11, 51, 201, 501],
    (5000, True): [0, 6, 26, 101, 251, 501, 1001, 2001, 3001, 4001],
    (1000, True): [0, 2, 6, 21, 51, 101, 201, 401, 601, 801],
}
SIDES = {  # height and width, odd: the side of each level
    (32, False): [29, 20, 14, 10, 7, 5, 4, 3, 2, 1],
    (32, True): [29, 21, 15, 11, 7, 5, 5, 3, 3, 3],
    (28, False): [25, 18, 13, 9, 6, 4, 3, 2, 2, 1],
    (28, True): [25, 19, 13, 9, 7, 5, 3, 3, 3, 3],
    (224, False): [200, 142, 100, 71, 50, 35, 25, 18, 13, 9],
    (224, True): [201, 143, 101, 71, 51, 35, 25, 19, 13, 9],
}


@pytest.mark.parametrize(("queries", "rescaled"), SCHEDULES)
def test_the_windows_are_halved_at_the_published_queries(queries, rescaled):
    shares = [window_share(query * FULL_LENGTH // queries if rescaled else query, 0.8) for query in range(queries)]
    firsts = [0, *(i for i in range(1, queries) if shares[i] != shares[i - 1])]
    assert firsts == SCHEDULES[queries, rescaled]
    assert [shares[i] for i in firsts] == [0.8 / 2**level for level in range(len(firsts))]


@pytest.mark.parametrize(("size", "odd"), SIDES)
def test_the_sides_are_the_published_ones(size, odd):
    assert [window_side(0.8 / 2**level, size, size, odd) for level in range(10)] == SIDES[size, odd]


def test_a_side_never_exceeds_the_shorter_axis_and_may_then_be_even():
    assert window_side(0.8, 4, 4, odd=True) == 4
    assert window_side(0.8, 5, 30, odd=False) == 5
    assert window_side(0.8, 30, 2, odd=True) == 2
    assert window_side(1e-6, 5, 5, odd=False) == 1
    assert window_side(1e-6, 5, 5, odd=True) == 3


def test_stretches_cover_every_query_once_with_one_side_in_one_block_of_random_numbers():
    sides = [window_side(window_share(query, 0.8), 32, 32, odd=False) for query in range(2500)]
    found = list(query_stretches(2500, 3, sides.__getitem__))
    assert [first for first, _, _ in found] == [0, *(last for _, last, _ in found[:-1])]
    assert found[-1][1] == 2500
    for first, last, length in found:
        assert set(sides[first:last]) == {length}
        assert first // QUERY_BLOCK == (last - 1) // QUERY_BLOCK
        assert last - first <= STRETCH
    assert all(any(first == start for first, _, _ in found) for start in range(0, 2500, QUERY_BLOCK))


@pytest.mark.parametrize(("shape", "length"), [((3, 32, 32), 5), ((1, 5, 9), 3), ((2, 4, 4), 4), ((3, 6, 4), 4)])
def test_a_window_is_a_square_inside_the_image_and_the_last_place_is_drawn_only_if_it_is_the_only_one(shape, length):
    channels, height, width = shape
    largest = 1 - 2.0**-24
    drawn = torch.tensor([[0, 0], [largest, largest], [0.5, 0.25], [largest, 0]])
    at = window_places(drawn, length, shape)
    assert at.shape == (4, channels, length**2)
    rows, columns = at // width, at % width
    assert (rows.amin((1, 2)) == (drawn[:, 0] * (height - length)).floor()).all()
    assert (columns.amin((1, 2)) == (drawn[:, 1] * (width - length)).floor()).all()
    assert (rows.amax((1, 2)) - rows.amin((1, 2)) == length - 1).all()
    assert (columns.amax((1, 2)) - columns.amin((1, 2)) == length - 1).all()
    assert all(len(set(window.tolist())) == length**2 for image in at for window in image)
    assert int(rows.max()) == height - 1 - (height > length)
    assert int(columns.max()) == width - 1 - (width > length)


def test_the_l2_bump_is_the_published_one():
    published = torch.tensor([[0.0695, 0.2260, 0.2260, 0.2260, 0.0695], [0.0695, 0.2260, 0.8517, 0.2260, 0.0695]])
    assert (bump(2, 5, 2) - published).abs().max() < 5.1e-5


def test_the_l1_bump_follows_its_formula():
    rings = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    values = torch.where(rings == 0, 1 + 2.0**-4, 2.0**-4)
    assert (bump(3, 3, 1) - values / values.sum()).abs().max() < 1e-7


@pytest.mark.parametrize(("norm", "length"), list(itertools.product((1, 2), (1, 2, 3, 4, 7, 29))))
def test_a_pattern_has_norm_one_a_positive_upper_half_and_comes_with_its_transpose(norm, length):
    upright, lying = window_patterns(length, norm, torch.zeros(1, dtype=torch.float64))
    assert torch.linalg.vector_norm(upright, norm).item() == pytest.approx(1, abs=1e-12)
    assert (upright[: length // 2] > 0).all()
    assert (upright[length // 2 :] < 0).all()
    assert torch.equal(lying, upright.T)


@pytest.mark.parametrize(("height", "width"), [(5, 5), (14, 14), (32, 30), (4, 4), (1, 7), (12, 19), (24, 24), (64, 32)])
def test_tiles_fit_are_centred_and_leave_less_than_a_tile_uncovered(height, width):
    length, counts, offsets = tiling(height, width)
    for extent, count, offset in zip((height, width), counts, offsets, strict=True):
        free = extent - count * length
        assert count > 0
        assert 0 <= free < length
        assert offset == free // 2


def test_each_tile_of_a_start_is_a_pattern_with_its_own_sign_per_channel():
    coins, signs = torch.zeros(1, 5, 5, dtype=torch.long), torch.ones(1, 2, 5, 5)
    coins[0, 1, 3], signs[0, 1, 2, 4] = 1, -1
    start = tiled_start(coins, signs, (2, 32, 32), 2)
    upright, lying = window_patterns(6, 2, signs)
    cut = start[0, :, 1:31, 1:31].view(2, 5, 6, 5, 6).transpose(2, 3)
    for channel, row, column in itertools.product(range(2), range(5), range(5)):
        expected = lying if (row, column) == (1, 3) else -upright if (channel, row, column) == (1, 2, 4) else upright
        assert torch.equal(cut[channel, row, column], expected)
    assert torch.count_nonzero(start) == torch.count_nonzero(cut)
