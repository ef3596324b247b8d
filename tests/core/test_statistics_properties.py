"""Properties of the statistics: symmetries, bounds and order, and the same numbers as scipy's."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from robench.core.rows import wilson
from robench.core.statistics import (
    anytime_valid_interval,
    bootstrap_interval,
    difference_of_means,
    least_significant_count,
    mcnemar,
    paired_difference,
    quantiles,
    spearman,
    superiority,
)

COUNTS = st.integers(0, 400)
NESTED = st.lists(st.integers(0, 3000), min_size=2, max_size=2).map(sorted).filter(lambda pair: pair[1] > 0)  # successes, n
MODERATE = st.floats(-1e6, 1e6)
SCORES = st.lists(MODERATE | st.integers(-3, 3).map(float), min_size=10, max_size=40)
ANY_NUMBERS = st.lists(MODERATE | st.sampled_from([math.nan, math.inf, -math.inf, 0.0]), max_size=30)
LEVELS = st.lists(st.floats(0, 1), min_size=1, max_size=5).map(sorted)
SEEDS = st.integers(-(2**40), 2**40)
SLACK = 1e-12


@given(NESTED)
def test_the_wilson_interval_holds_the_share_and_lies_in_the_unit_interval(pair):
    successes, n = pair
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert low < high


@given(NESTED)
def test_the_wilson_interval_rises_with_the_successes(pair):
    successes, n = pair
    assume(successes > 0)
    (low_before, high_before), (low, high) = wilson(successes - 1, n), wilson(successes, n)
    assert low >= low_before
    assert high >= high_before


@given(NESTED)
def test_the_wilson_interval_of_failures_is_that_of_successes_mirrored(pair):
    successes, n = pair
    low, high = wilson(successes, n)
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=SLACK)


@given(NESTED)
def test_the_wilson_interval_is_scipys(pair):
    successes, n = pair
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(COUNTS, COUNTS)
def test_mcnemar_is_symmetric_and_scipys_binomial_test(only_base, only_new):
    p = mcnemar(only_base, only_new)
    assert p == mcnemar(only_new, only_base)
    assert 0 < p <= 1
    n = only_base + only_new
    assert p == pytest.approx(stats.binomtest(only_base, n).pvalue if n else 1.0, rel=1e-9)


@given(st.floats(1e-6, 1))
def test_the_least_significant_count_is_significant_and_one_less_is_not(alpha):
    count = least_significant_count(alpha)
    assert mcnemar(count, 0) <= alpha
    assert count == 0 or mcnemar(count - 1, 0) > alpha


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_a_paired_difference_changes_its_sign_with_the_order(both, only_base, only_new, neither):
    difference, low, high = paired_difference(both, only_base, only_new, neither)
    mirrored = paired_difference(both, only_new, only_base, neither)
    assert mirrored == pytest.approx((-difference, -high, -low), abs=SLACK)
    assert -1 <= low <= difference <= high <= 1


@given(st.lists(st.integers(0, 600), min_size=3, max_size=3).map(sorted), st.floats(0.001, 0.5))
def test_an_anytime_interval_holds_the_share_and_ends_at_it(counts, alpha):
    successes, n, population = counts
    assume(population > 0)
    low, high = anytime_valid_interval(successes, n, population, alpha)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= successes / n <= high
    if n == population:
        assert low == high
    mirrored = anytime_valid_interval(n - successes, n, population, alpha)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1.5 / population if 0 < n < population else SLACK)


@given(SCORES, SEEDS, st.randoms(use_true_random=False))
def test_a_bootstrap_interval_holds_the_mean_between_the_least_and_the_largest_value(values, seed, random):
    low, high = bootstrap_interval(values, seed, resamples=100)
    mean, slack = float(np.mean(np.sort(values))), SLACK * max(map(abs, values))
    assert min(values) - slack <= low <= mean + slack
    assert mean - slack <= high <= max(values) + slack
    mixed = random.sample(values, len(values))
    assert bootstrap_interval([*mixed, math.nan, math.inf], seed, resamples=100) == (low, high)


@given(SCORES, SCORES, SEEDS)
def test_a_difference_of_means_lies_in_its_interval(a, b, seed):
    difference, low, high = difference_of_means(a, b, seed, resamples=100)
    assert low <= difference <= high
    assert difference == pytest.approx(np.mean(a) - np.mean(b), abs=1e-9)
    assert difference_of_means(b, a, seed, resamples=100)[0] == -difference


@given(ANY_NUMBERS, LEVELS)
def test_quantiles_rise_from_the_least_to_the_largest_finite_value(values, levels):
    found, finite = quantiles(values, levels), [value for value in values if math.isfinite(value)]
    if not finite:
        assert all(map(math.isnan, found))
        return
    slack = SLACK * max(map(abs, finite))
    assert all(one <= other + slack for one, other in pairwise(found))
    assert all(min(finite) - slack <= value <= max(finite) + slack for value in found)
    assert quantiles(values, [0, 1]) == [min(finite), max(finite)]
    assert quantiles(values[::-1], levels) == found


@given(SCORES.flatmap(lambda a: st.tuples(st.just(a), st.lists(MODERATE, min_size=len(a), max_size=len(a)))))
def test_spearmans_correlation_is_symmetric_and_scipys(pair):
    a, b = pair
    rho, low, high = spearman(a, b)
    assert spearman(b, a) == pytest.approx((rho, low, high), nan_ok=True)
    if min(len(set(a)), len(set(b))) == 1:
        assert math.isnan(rho)
        return
    assert -1 <= low <= rho <= high <= 1
    assert rho == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)
    assert spearman([-value for value in a], b)[0] == pytest.approx(-rho, abs=SLACK)


@given(ANY_NUMBERS, ANY_NUMBERS)
def test_superiority_adds_up_to_one_with_that_of_the_other_and_is_scipys(a, b):
    share = superiority(a, b)
    one, other = ([value for value in side if not math.isnan(value)] for side in (a, b))
    if not (one and other):
        assert math.isnan(share)
        return
    assert share + superiority(b, a) == pytest.approx(1)
    assert share == pytest.approx(stats.mannwhitneyu(one, other).statistic / (len(one) * len(other)))
