"""Numbers over seeds against closed forms and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from robench.core.errors import InputError
from robench.core.seed_statistics import fractional_student_tails, incomplete_beta, seed_mean, welch_test
from robench.core.statistics import student_tails


def test_mean_and_standard_deviation_of_three_seeds_are_the_closed_form():
    found = seed_mean([0.2, 0.4, 0.9])
    assert found.mean == pytest.approx(0.5)
    assert found.sd == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2))
    half = stats.t.ppf(0.975, 2) * found.sd / math.sqrt(3)
    assert (found.low, found.high, found.count) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half), 3)


def test_one_seed_has_a_mean_and_no_spread_and_none_has_neither():
    assert seed_mean([0.25]).mean == 0.25
    assert math.isnan(seed_mean([0.25]).sd)
    assert math.isnan(seed_mean([]).mean)
    assert seed_mean([]).count == 0


@pytest.mark.parametrize("seed", range(20))
def test_welch_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    base = rng.normal(0.5, 0.01 * 10 ** rng.uniform(0, 2), rng.integers(2, 8))
    new = rng.normal(0.52, 0.01 * 10 ** rng.uniform(0, 2), rng.integers(2, 8))
    theirs = stats.ttest_ind(new, base, equal_var=False)
    assert welch_test(base, new) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue), rel=1e-9)


def test_two_pairs_have_their_closed_form():
    # s^2 = 2 and 8 over n = 2: t = 4 / sqrt(1 + 4), df = 25 / (1 + 16)
    t, df, p = welch_test([0, 2], [3, 7])
    assert (t, df) == (pytest.approx(4 / math.sqrt(5)), pytest.approx(25 / 17))
    assert p == pytest.approx(2 * stats.t.sf(4 / math.sqrt(5), 25 / 17), rel=1e-10)


def test_groups_that_do_not_vary_are_equal_or_not():
    assert welch_test([1, 1], [1, 1, 1]) == (0.0, 3.0, 1.0)
    assert welch_test([1, 1], [2, 2]) == (math.inf, 2.0, 0.0)


def test_one_seed_on_a_side_is_refused():
    with pytest.raises(InputError, match="each group needs two"):
        welch_test([1], [1, 2])


@pytest.mark.parametrize("df", [1, 2, 3, 7, 30, 200])
@pytest.mark.parametrize("t", [0.0, 1e-4, 0.5, 2.0, 12.0, 80.0])
def test_tails_are_those_of_whole_degrees_of_freedom(t, df):
    assert fractional_student_tails(t, df) == pytest.approx(student_tails(t, df), abs=1e-12)


def test_small_tails_keep_their_digits():
    assert fractional_student_tails(60.0, 12.5) == pytest.approx(2 * stats.t.sf(60.0, 12.5), rel=1e-9)
    assert incomplete_beta(2.0, 0.5, 0.0, 1.0) == 0.0
    assert incomplete_beta(2.0, 0.5, 1.0, 0.0) == 1.0
