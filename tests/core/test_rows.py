"""The Wilson interval against published values and its defining property."""

import pytest
from scipy import stats

from robench.core.rows import wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    # the last two: Newcombe 1998, Statistics in Medicine 17, table I, method 3
    assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 7), (83, 100), (500, 1000)])
def test_wilson_equals_scipy(successes, n):
    other = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((other.low, other.high), abs=1e-12)


def test_nothing_measured_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
