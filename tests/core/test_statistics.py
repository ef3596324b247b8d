"""McNemar's test and Newcombe's interval against published examples and enumeration; the anytime interval by exact path probabilities.

Bootstrap intervals and rank statistics against scipy, closed forms and simulation.
"""

import itertools
import math
import time
from functools import cache

import numpy as np
import pytest
from scipy import stats

from robench.core.errors import InputError
from robench.core.rows import wilson
from robench.core.statistics import (
    anytime_valid_interval,
    bca_interval,
    bootstrap_interval,
    difference_of_means,
    least_significant_count,
    mcnemar,
    paired_difference,
    quantiles,
    spearman,
    superiority,
)


@pytest.mark.parametrize(("lost", "won", "p"), [(1, 7, 0.070), (6, 16, 0.0525)])
def test_mcnemar_gives_the_published_p_values(lost, won, p):
    # airway reactivity before and after transplantation; response before and after therapy (Fagerland et al. 2013, 2014)
    assert mcnemar(lost, won) == pytest.approx(p, abs=6e-4)


@pytest.mark.parametrize(("lost", "won"), [(0, 1), (3, 3), (2, 9), (40, 71), (1480, 1520), (900, 1300), (5000, 5400)])
def test_mcnemar_equals_the_exact_binomial_test_of_scipy_in_both_directions(lost, won):
    assert mcnemar(lost, won) == mcnemar(won, lost) == pytest.approx(stats.binomtest(lost, lost + won).pvalue, rel=1e-9)


def test_mcnemar_knows_nothing_of_no_images_and_survives_many():
    assert mcnemar(0, 0) == 1
    assert mcnemar(10_000, 10_000) == 1
    assert mcnemar(0, 5_000) == 0  # below the smallest float


@pytest.mark.parametrize(("alpha", "least"), [(0.05, 6), (0.01, 8), (0.001, 11), (1.0, 0)])
def test_the_fewest_lost_images_that_count(alpha, least):
    assert least_significant_count(alpha) == least


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((59, 6, 16, 80), (0.0621, 0.0046, 0.1186)),  # Cavo et al. 2012, in Fagerland, Lydersen & Laake 2017, chapter 8
        ((1, 1, 7, 12), (0.286, 0.026, 0.507)),  # Bentur et al. 2009, in Fagerland, Lydersen & Laake 2014
    ],
)
def test_the_paired_difference_gives_the_published_intervals(table, expected):
    assert paired_difference(*table) == pytest.approx(expected, abs=6e-4)


def test_the_other_way_round_the_interval_is_mirrored():
    for both, lost, won, neither in itertools.product((0, 1, 14, 90), repeat=4):
        difference, low, high = paired_difference(both, lost, won, neither)
        assert paired_difference(both, won, lost, neither) == pytest.approx((-difference, -high, -low))
        assert paired_difference(neither, won, lost, both) == pytest.approx((-difference, -high, -low))  # failures for successes
        assert -1 <= low <= difference <= high <= 1


def test_independent_verdicts_give_the_unpaired_interval_and_agreement_a_narrower_one():
    (_, high), (low, _) = wilson(50, 100), wilson(50, 100)
    _, below, above = paired_difference(25, 25, 25, 25)
    assert (below, above) == pytest.approx((-math.hypot(0.5 - low, high - 0.5), math.hypot(0.5 - low, high - 0.5)))
    widths = [np.ptp(paired_difference(50 - k, k, k, 50 - k)[1:]) for k in (0, 5, 15, 25, 40)]
    assert widths == sorted(widths)
    assert paired_difference(0, 0, 0, 0) == (0, -1, 1)


@pytest.mark.parametrize(
    ("truth", "most"),
    [((0.6, 0.1, 0.1, 0.2), 0.97), ((0.75, 0.12, 0.03, 0.1), 0.98), ((0.9, 0.02, 0.02, 0.06), 1), ((0.3, 0.25, 0.05, 0.4), 0.96)],
)
def test_the_paired_interval_covers_the_true_difference(truth, most):
    # exact: every table of 40 images, weighed with its multinomial probability; with few discordant ones it is cautious
    covered, n = 0.0, 40
    for both, lost, won in itertools.product(range(n + 1), repeat=3):
        if both + lost + won <= n:
            counts = (both, lost, won, n - both - lost - won)
            ways = math.lgamma(n + 1) - sum(math.lgamma(c + 1) for c in counts)
            _, low, high = paired_difference(*counts)
            inside = low <= truth[2] - truth[1] <= high
            covered += inside * math.exp(ways + sum(c * math.log(p) for c, p in zip(counts, truth, strict=True)))
    assert 0.945 < covered < most


def miss_probability(ones, population, alpha):
    """The exact probability that the interval excludes the true share at some n, over all random orders."""
    state, missed = {0: 1.0}, 0.0
    for n in range(1, population + 1):
        after = {}
        for seen, weight in state.items():
            chance = (ones - seen) / (population - n + 1)
            for more, p in ((1, chance), (0, 1 - chance)):
                if p > 0:
                    after[seen + more] = after.get(seen + more, 0.0) + weight * p
        out = {s for s in after if not within(s, n, population, alpha, ones)}
        missed += sum(after.pop(s) for s in out)
        state = after
    return missed


@cache
def interval(successes, n, population, alpha):
    return anytime_valid_interval(successes, n, population, alpha)


def within(successes, n, population, alpha, ones):
    low, high = interval(successes, n, population, alpha)
    return low <= ones / population <= high


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_the_anytime_interval_is_missed_at_any_n_with_probability_alpha_at_most(alpha):
    missed = [miss_probability(ones, 60, alpha) for ones in range(61)]
    assert max(missed) <= alpha
    assert max(missed) > alpha / 4  # and it is not merely wide


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_the_anytime_interval_holds_over_whole_paths_of_a_larger_population(share):
    population, rng = 400, np.random.default_rng(1)
    ones = round(share * population)
    images = np.arange(population) < ones
    missed = 0
    for _ in range(300):
        seen = rng.permutation(images).cumsum()
        missed += not all(within(int(seen[n - 1]), n, population, 0.05, ones) for n in range(1, population + 1, 3))
    assert missed / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_wilson_looked_at_after_every_image_would_miss_far_more():
    population, rng, missed = 400, np.random.default_rng(2), 0
    for _ in range(100):
        seen = rng.permutation(np.arange(population) < 200).cumsum()
        bounds = [wilson(int(seen[n - 1]), n) for n in range(1, population // 2, 3)]
        missed += any(not low <= 0.5 <= high for low, high in bounds)
    assert missed > 15


def test_the_anytime_interval_is_the_set_of_totals_that_the_ratio_keeps():
    population, alpha = 50, 0.05
    for n, successes in ((1, 0), (10, 7), (30, 15), (49, 48), (50, 20)):
        prior = 1 / (population + 1)
        weights = [math.comb(k, successes) * math.comb(population - k, n - successes) for k in range(population + 1)]
        kept = [k for k, weight in enumerate(weights) if weight / sum(weights) / prior > alpha]
        assert anytime_valid_interval(successes, n, population, alpha) == (kept[0] / population, kept[-1] / population)


def test_the_anytime_interval_holds_the_running_share_shrinks_and_ends_in_a_point():
    assert anytime_valid_interval(0, 0, 1000) == (0, 1)
    assert anytime_valid_interval(731, 1000, 1000) == (0.731, 0.731)
    for population, n in ((7, 5), (1000, 3), (1000, 999)):
        for successes in range(0, n + 1, max(1, n // 7)):
            low, high = anytime_valid_interval(successes, n, population)
            assert 0 <= low <= successes / n <= high <= 1
    widths = [np.ptp(anytime_valid_interval(n * 4 // 5, n, 50_000)) for n in (10, 100, 1_000, 10_000, 40_000, 49_990)]
    assert widths == sorted(widths, reverse=True)
    assert widths[2] == pytest.approx(0.09, abs=0.02)
    assert widths[-1] < 0.001
    assert np.ptp(anytime_valid_interval(800, 1000, 50_000, 0.01)) > widths[2]


def test_the_anytime_interval_of_a_large_population_is_quick():
    begin = time.perf_counter()
    for n in range(1000, 50_001, 1000):
        anytime_valid_interval(n // 2, n, 50_000)
    assert time.perf_counter() - begin < 0.5


@pytest.mark.parametrize(
    "wrong", [(3, 2, 10, 0.05), (0, 11, 10, 0.05), (-1, 2, 10, 0.05), (0, 0, 0, 0.05), (1, 2, 10, 0.0), (1, 2, 10, 1.0)]
)
def test_counts_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match="counts must nest"):
        anytime_valid_interval(*wrong)


def skewed(n, seed=0):
    return np.random.default_rng(seed).exponential(1.0, n) ** 1.5


def test_the_bootstrap_interval_of_a_mean_is_that_of_scipy_up_to_chance():
    values = skewed(80)
    low, high = bootstrap_interval(values, 0, 20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    wide = theirs.high - theirs.low
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * wide)
    assert high - values.mean() > 1.1 * (values.mean() - low)  # a percentile or normal interval would miss the skew


def test_the_interval_of_many_even_values_is_the_normal_one():
    values = np.random.default_rng(3).uniform(size=10_000)
    half = 1.96 * values.std() / 100
    begin = time.perf_counter()
    low, high = bootstrap_interval(values, 5)
    assert time.perf_counter() - begin < 3
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    hits = 0
    for seed in range(500):
        low, high = bootstrap_interval(np.random.default_rng(seed).beta(2, 6, 50), seed, 400)
        hits += low <= 0.25 <= high
    assert 0.91 < hits / 500 < 0.98


def test_the_bootstrap_depends_on_the_seed_alone_and_neither_on_order_nor_on_what_is_missing():
    values = list(skewed(40))
    found = bootstrap_interval(values, 7)
    assert bootstrap_interval(values[::-1], 7) == found
    assert bootstrap_interval([math.nan, *values, math.inf, -math.inf], 7) == found
    assert bootstrap_interval(values, 8) != found
    assert bootstrap_interval(values, -7) == found  # no seed is refused
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    bootstrap_interval(values, 7)
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize(("estimate", "group"), [(0.6, [-1.0, 0.0, 1.0]), (0.35, [-1.0, -1.0, 2.0])])
def test_the_interval_is_corrected_for_bias_and_acceleration_as_the_formula_says(estimate, group):
    means, values = np.linspace(0, 1, 100_001), np.array(group)  # the quantile of these means at p is p itself
    bias, a = stats.norm.ppf(estimate), (values**3).sum() / (values**2).sum() ** 1.5 / 6
    ends = [stats.norm.cdf(bias + (bias + z) / (1 - a * (bias + z))) for z in stats.norm.ppf([0.025, 0.975])]
    assert bca_interval(means, estimate, [values]) == pytest.approx(ends, abs=1e-4)


def test_scale_and_shift_pass_through_the_bootstrap():
    values = skewed(30)
    low, high = bootstrap_interval(values, 1)
    assert bootstrap_interval(4 * values + 8, 1) == pytest.approx((4 * low + 8, 4 * high + 8))


def test_the_bootstrap_of_next_to_nothing():
    assert np.isnan([bootstrap_interval([], 0), bootstrap_interval([0.3, math.nan], 0)]).all()
    assert bootstrap_interval([0.1] * 10, 0) == pytest.approx((0.1, 0.1), abs=1e-15)
    assert np.isnan(bootstrap_interval([1, 2] * 4 + [1], 0)).all()
    low, high = bootstrap_interval([0] * 99 + [1], 0)
    assert 0 <= low <= 0.01 < high < 0.1
    with pytest.raises(InputError, match="resamples"):
        bootstrap_interval(range(10), 0, 10)


def test_chunks_of_the_bootstrap_are_no_larger_than_they_must_be(monkeypatch):
    values, sizes = skewed(500), []
    plain = np.random.default_rng

    class Watched:
        def __init__(self, seed):
            self.rng = plain(seed)

        def integers(self, high, size, dtype):
            sizes.append(size)
            return self.rng.integers(high, size=size, dtype=dtype)

    monkeypatch.setattr("robench.core.statistics.np.random.default_rng", Watched)
    monkeypatch.setattr("robench.core.statistics.DRAWS_AT_ONCE", 5_000)
    bootstrap_interval(values, 0, 205)
    assert sizes == [(10, 500)] * 20 + [(5, 500)]


def test_the_difference_of_two_means_is_that_of_scipy_up_to_chance():
    a, b = skewed(60, 1), skewed(25, 2)
    theirs = stats.bootstrap(
        (a, b), lambda one, other, axis: one.mean(axis) - other.mean(axis), n_resamples=20_000, method="BCa", rng=1
    ).confidence_interval
    difference, low, high = difference_of_means(a, b, 0, 20_000)
    assert difference == pytest.approx(a.mean() - b.mean())
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * (theirs.high - theirs.low))


def test_the_difference_of_two_means_covers_the_truth_and_turns_round():
    hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        _, low, high = difference_of_means(rng.normal(2, 3, 60), rng.normal(1, 1, 40), seed, 300)
        hits += low <= 1 <= high
    assert 0.91 < hits / 300 < 0.985
    difference, low, high = difference_of_means(skewed(50), skewed(50, 1), 0, 20_000)
    assert difference_of_means(skewed(50, 1), skewed(50), 1, 20_000) == pytest.approx((-difference, -high, -low), abs=0.05)


def test_the_difference_from_an_empty_or_a_single_group():
    assert np.isnan(difference_of_means([], [1, 2], 0)).all()
    assert difference_of_means([3], [1, 2], 0)[0] == 1.5
    assert np.isnan(difference_of_means([3], [1, 2], 0)[1:]).all()
    assert np.isnan(difference_of_means([3] * 9, [1] * 10, 0)[1:]).all()
    assert difference_of_means([3] * 10, [1] * 10, 0) == (2, 2, 2)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_that_of_scipy_with_and_without_ties(ties):
    rng = np.random.default_rng(0)
    for n in (10, 11, 40, 1000):
        a = rng.normal(size=n)
        b = 0.5 * a + rng.normal(size=n)
        a, b = (np.round(2 * a), np.round(b)) if ties else (a, b)
        theirs = stats.spearmanr(a, b).statistic
        assert spearman(a, b)[0] == pytest.approx(theirs, abs=1e-12, nan_ok=True)
        assert spearman(b, -a)[0] == pytest.approx(-theirs, abs=1e-12, nan_ok=True)


def test_spearmans_interval_by_hand_and_by_simulation():
    a, b = range(1, 11), [2, 1, 4, 3, 6, 5, 8, 7, 10, 9]  # sum d^2 = 10, rho = 1 - 6 * 10 / 990
    rho, low, high = spearman(a, b)
    z, half = math.atanh(31 / 33), 1.959963984540054 * math.sqrt((1 + (31 / 33) ** 2 / 2) / 7)
    assert (rho, low, high) == pytest.approx((31 / 33, math.tanh(z - half), math.tanh(z + half)))
    truth, hits = 6 / math.pi * math.asin(0.7 / 2), 0  # of a normal pair with correlation 0.7
    for seed in range(400):
        x, y = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 60).T
        _, low, high = spearman(x, y)
        hits += low <= truth <= high
    assert 0.92 < hits / 400 < 0.98


def test_spearman_leaves_out_missing_pairs_and_ranks_infinite_values():
    more = [6, 7, 8, 9, 10, 11]
    a, b = [1, 2, math.nan, 4, 5, 3, *more], [2, 1, 0, math.inf, 3, math.nan, *more]
    assert spearman(a, b) == spearman([1, 2, 4, 5, *more], [2, 1, 20, 3, *more])
    assert np.isnan(spearman(a[:11], b[:11])).all()  # nine pairs are left
    with pytest.raises(InputError, match="3 and 2 values"):
        spearman([1, 2, 3], [1, 2])


def test_spearman_of_perfect_order_and_of_no_order_at_all():
    rho, low, high = spearman(range(10), np.arange(10) ** 3)
    assert (rho, high) == (1, 1)
    assert 0.9 < low < 0.99
    assert spearman(range(10), -np.arange(10)) == pytest.approx((-1, -1, -low))
    assert np.isnan([spearman([], []), spearman([1, 1, 1, 1], [1, 2, 3, 4])]).all()
    assert np.isnan([spearman([1] * 10, range(10)), spearman(range(9), range(9))]).all()


def test_superiority_is_the_statistic_of_mann_and_whitney_per_pair():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.7):
        a, b = np.round(rng.normal(shift, 1, 90), 1), np.round(rng.normal(0, 1, 140), 1)
        theirs = stats.mannwhitneyu(a, b).statistic / (90 * 140)
        assert superiority(a, b) == pytest.approx(theirs, abs=1e-12)
        assert superiority(b, a) == pytest.approx(1 - theirs, abs=1e-12)


def test_superiority_at_its_ends_and_without_values():
    assert superiority([2, 3], [1, 0]) == 1
    assert superiority([1, 1], [1]) == 0.5
    assert superiority([math.inf, math.nan, 1], [math.inf, 2]) == (0.5 + 1) / 4
    assert math.isnan(superiority([], [1]))
    assert math.isnan(superiority([1], [math.nan]))


def test_quantiles_are_those_of_the_finite_values():
    assert quantiles([3, math.nan, 1, 2, math.inf, 5, 4], [0, 0.125, 0.5, 1]) == [1, 1.5, 3, 5]
    assert np.isnan(quantiles([math.nan], [0.1, 0.9])).all()
    assert quantiles([7], []) == []
