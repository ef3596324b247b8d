"""The non-dominated front: by hand, against the definition on random points, and with ties and nan."""

import math
import random

import pytest

from robench.core.fronts import dominates, front_corners, front_membership


def test_points_that_are_nowhere_better_than_another_are_left_out():
    assert front_membership([(0.9, 0.1), (0.8, 0.3), (0.7, 0.2), (0.5, 0.5)]) == [True, True, False, True]


def test_equal_points_are_both_kept_or_both_left_out():
    assert front_membership([(0.8, 0.3), (0.8, 0.3)]) == [True, True]
    assert front_membership([(0.8, 0.3), (0.8, 0.3), (0.9, 0.3)]) == [False, False, True]


def test_a_point_that_is_equal_in_one_and_smaller_in_the_other_is_dominated():
    assert front_membership([(0.8, 0.3), (0.8, 0.4)]) == [False, True]
    assert front_membership([(0.8, 0.3), (0.9, 0.3)]) == [False, True]


@pytest.mark.parametrize("point", [(math.nan, 0.9), (0.9, math.nan), (math.nan, math.nan)])
def test_a_point_with_nan_is_on_no_front_and_takes_no_other_off(point):
    assert front_membership([point, (0.1, 0.1)]) == [False, True]
    assert not dominates(point, (0.1, 0.1))
    assert front_corners([point]) == []


def test_no_points_have_no_front():
    assert front_membership([]) == []
    assert front_corners([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_out_is_dominated_by_a_point_of_the_front_and_none_of_the_front_is(seed):
    draw = random.Random(seed)
    points = [(draw.randrange(12) / 12, draw.randrange(12) / 12) for _ in range(30)]
    kept = front_membership(points)
    best = [point for point, keep in zip(points, kept, strict=True) if keep]
    for (x, y), keep in zip(points, kept, strict=True):
        above = [(a, b) for a, b in best if a >= x and b >= y and (a > x or b > y)]
        assert bool(above) is not keep


def test_the_front_does_not_depend_on_the_order():
    points = [(0.9, 0.1), (0.8, 0.3), (0.7, 0.2), (0.5, 0.5), (0.8, 0.3)]
    assert front_membership(points[::-1]) == front_membership(points)[::-1]


def test_stairs_rise_in_the_first_and_fall_in_the_second():
    assert front_corners([(0.9, 0.1), (0.5, 0.5), (0.7, 0.2), (0.8, 0.3), (0.8, 0.3)]) == [(0.5, 0.5), (0.8, 0.3), (0.9, 0.1)]
