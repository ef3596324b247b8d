"""McNemar's test and Newcombe's interval against published examples and enumeration; the anytime interval by exact path probabilities."""

import itertools
import math
import time
from functools import cache

import numpy as np
import pytest
from scipy import stats

from robench.errors import InputError
from robench.rows import wilson
from robench.statistics import anytime, least_significant, mcnemar, paired_difference


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
    assert least_significant(alpha) == least


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
    return anytime(successes, n, population, alpha)


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
        assert anytime(successes, n, population, alpha) == (kept[0] / population, kept[-1] / population)


def test_the_anytime_interval_holds_the_running_share_shrinks_and_ends_in_a_point():
    assert anytime(0, 0, 1000) == (0, 1)
    assert anytime(731, 1000, 1000) == (0.731, 0.731)
    for population, n in ((7, 5), (1000, 3), (1000, 999)):
        for successes in range(0, n + 1, max(1, n // 7)):
            low, high = anytime(successes, n, population)
            assert 0 <= low <= successes / n <= high <= 1
    widths = [np.ptp(anytime(n * 4 // 5, n, 50_000)) for n in (10, 100, 1_000, 10_000, 40_000, 49_990)]
    assert widths == sorted(widths, reverse=True)
    assert widths[2] == pytest.approx(0.09, abs=0.02)
    assert widths[-1] < 0.001
    assert np.ptp(anytime(800, 1000, 50_000, 0.01)) > widths[2]


def test_the_anytime_interval_of_a_large_population_is_quick():
    begin = time.perf_counter()
    for n in range(1000, 50_001, 1000):
        anytime(n // 2, n, 50_000)
    assert time.perf_counter() - begin < 0.5


@pytest.mark.parametrize(
    "wrong", [(3, 2, 10, 0.05), (0, 11, 10, 0.05), (-1, 2, 10, 0.05), (0, 0, 0, 0.05), (1, 2, 10, 0.0), (1, 2, 10, 1.0)]
)
def test_counts_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match="counts must nest"):
        anytime(*wrong)
