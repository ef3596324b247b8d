"""The statistics behind a comparison: paired tests and intervals, and an interval that may be looked at after every image.

`core.rows.wilson` is the interval of a single accuracy; what is here compares two, or watches one grow. Scores that are no shares,
such as those of saliency maps, have bootstrap intervals of their means, and rank statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robench.core.checks import whole_option
from robench.core.errors import InputError
from robench.core.moved import names_of_before
from robench.core.rows import wilson

NORMAL, LEVELS = NormalDist(), (0.025, 0.975)
Z = NORMAL.inv_cdf(LEVELS[1])
LEAST_VALUES = 10  # values: of fewer, resamples and ranks say next to nothing, so there is no bootstrap interval and no correlation
DRAWS_AT_ONCE = 1 << 20  # numbers that a bootstrap draws at once: 12 MiB with their places
Floats = NDArray[np.float64]
Values = Sequence[float] | NDArray[Any]


def mcnemar(only_base: int, only_new: int) -> float:
    """The two-sided p value of the exact McNemar test (McNemar 1947): are images as often lost as won?

    Under the null hypothesis each falls to either side with probability 1/2, so the p value is twice the binomial tail, at most 1.
    Whole numbers all the way: nothing overflows or rounds until the last division.

    Args:
        only_base: how many images only the first model holds, at least 0; those that both or neither hold say nothing.
        only_new: how many only the second one holds.

    Returns:
        The p value in (0, 1]; 1 where there are no such images.

    Raises:
        InputError: for a count below 0.

    Example:
        >>> from robench.core.statistics import mcnemar
        >>> mcnemar(6, 0), mcnemar(5, 5)
        (0.03125, 1.0)
    """
    refuse_negative(only_base=only_base, only_new=only_new)
    n, few = only_base + only_new, min(only_base, only_new)
    tail, ways = 0, 1  # ways = n over k
    for k in range(few + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << n))


def least_significant_count(alpha: float) -> int:
    """The fewest lost images, none won, that differ from chance by the McNemar test.

    Args:
        alpha: what the p value may be at most, in (0, 1].

    Returns:
        That count: 6 for alpha = 0.05.

    Raises:
        InputError: for alpha outside (0, 1].

    Example:
        >>> from robench.core.statistics import least_significant_count
        >>> least_significant_count(0.05), least_significant_count(1.0)
        (6, 0)
    """
    if not 0 < alpha <= 1:
        raise InputError(f"alpha must lie in (0, 1], not {alpha}")
    count = 0
    while mcnemar(count, 0) > alpha:
        count += 1
    return count


def paired_difference(both: int, only_base: int, only_new: int, neither: int, z: float = 1.959963984540054) -> tuple[float, float, float]:
    """The difference NEW - BASE of two proportions measured on the same images, with its interval.

    Newcombe 1998 (Statistics in Medicine 17:2635), method 10: the Wilson intervals of the two proportions, squared and added, less
    what their correlation phi takes away. A positive phi is corrected for continuity.

    Args:
        both: how many images both models hold, at least 0.
        only_base: how many only the first one holds.
        only_new: how many only the second one holds.
        neither: how many neither holds.
        z: the normal quantile of the interval, above 0; 1.96 for 95 %.

    Returns:
        (difference, low, high), each in [-1, 1]; (0, -1, 1) without images.

    Raises:
        InputError: for a count below 0.

    Example:
        >>> from robench.core.statistics import paired_difference
        >>> [round(number, 3) for number in paired_difference(80, 9, 3, 8)]
        [-0.06, -0.135, 0.011]
    """
    refuse_negative(both=both, only_base=only_base, only_new=only_new, neither=neither)
    n = both + only_base + only_new + neither
    if n == 0:
        return 0.0, -1.0, 1.0
    held_base, held_new = both + only_base, both + only_new
    base, new, difference = held_base / n, held_new / n, (only_new - only_base) / n
    (base_low, base_high), (new_low, new_high) = wilson(held_base, n, z), wilson(held_new, n, z)
    phi = phi_coefficient(both, only_base, only_new, neither)
    low = difference - combined_deviation(new - new_low, base_high - base, phi)
    high = difference + combined_deviation(new_high - new, base - base_low, phi)
    return difference, max(-1.0, low), min(1.0, high)


def phi_coefficient(both: int, only_base: int, only_new: int, neither: int) -> float:
    """The phi coefficient of a 2 x 2 table, a positive one corrected for continuity (method 10); 0 where a margin is empty."""
    n, product = both + only_base + only_new + neither, both * neither - only_base * only_new
    margins = (both + only_base) * (only_new + neither) * (both + only_new) * (only_base + neither)
    return (product if product < 0 else max(0.0, product - n / 2)) / math.sqrt(margins) if margins else 0.0


def combined_deviation(one: float, other: float, phi: float) -> float:
    """The length of two deviations that are correlated by phi."""
    return math.sqrt(max(0.0, one * one + other * other - 2 * phi * one * other))


def anytime_valid_interval(successes: int, n: int, population: int, alpha: float = 0.05) -> tuple[float, float]:
    """An interval of the share of ones in a population, valid at every n at once: one may look after each image and stop when one likes.

    The confidence sequence of Waudby-Smith & Ramdas 2020 (2006.04347): with a uniform prior on the number of ones K (beta-binomial,
    a = b = 1), prior over posterior at the true K is a martingale that starts at 1, so by Ville's inequality it ever reaches 1 / alpha
    with probability alpha at most. The interval holds every K whose ratio of posterior to prior exceeds alpha, and the running share.

    Args:
        successes: ones among the images seen so far, from 0 to n.
        n: how many were seen, drawn without replacement in random order, from 0 to population.
        population: how many there are, at least 1; at n = population the share is known, and the interval is that point.
        alpha: the chance that the share is ever outside, at any n, is at most this, in (0, 1).

    Returns:
        (low, high), each in [0, 1].

    Raises:
        InputError: for counts that cannot be, and alpha outside (0, 1).

    Example:
        >>> from robench.core.statistics import anytime_valid_interval
        >>> anytime_valid_interval(0, 0, 500), anytime_valid_interval(300, 500, 500)
        ((0.0, 1.0), (0.6, 0.6))
    """
    if not (0 <= successes <= n <= population and population > 0 and 0 < alpha < 1):
        raise InputError(f"no interval for {successes} of {n} from {population} at alpha {alpha}: counts must nest and alpha lie in (0, 1)")
    if n == 0:
        return 0.0, 1.0
    share, least, most = successes / n, successes, population - (n - successes)
    mode = min(most, successes * (population + 1) // n)
    whole, slack = math.log(population + 1) - log_choose(population + 1, n + 1), 1e-9  # rounding may only widen

    def kept(ones: int) -> bool:
        evidence = log_choose(ones, successes) + log_choose(population - ones, n - successes)
        return whole + evidence > math.log(alpha) - slack

    low, high = interval_end(kept, mode, least), interval_end(kept, mode, most)
    return min(share, low / population), max(share, high / population)


def interval_end(kept: Callable[[int], bool], inside: int, end: int) -> int:
    """The last whole number on the way from `inside` to `end` that is kept; `inside` is, and what follows one that is not is not."""
    if kept(end):
        return end
    while abs(end - inside) > 1:
        middle = (inside + end) // 2
        inside, end = (middle, end) if kept(middle) else (inside, middle)
    return inside


def log_choose(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def bootstrap_interval(values: Values, seed: int, resamples: int = 2000) -> tuple[float, float]:
    """A 95 % interval of the mean of the finite values, by the bootstrap.

    BCa, the percentile interval corrected for bias and acceleration (Efron 1987, JASA 82:171; Efron & Tibshirani 1993, chapter 14), because
    scores are skewed. The same for the same seed, in whatever order the values come. As every bootstrap it is a little narrow for few
    values, by a factor of about sqrt((n - 1) / n).

    Args:
        values: (N,) numbers without a known distribution, such as one score an image; what is nan or infinite is left out.
        seed: of the draws, a whole number.
        resamples: how many means of as many values drawn with replacement, at least 100; in chunks, so that the memory stays small.

    Returns:
        (low, high); (nan, nan) for fewer than 10 finite values.

    Raises:
        InputError: for fewer than 100 resamples.

    Example:
        >>> from robench.core.statistics import bootstrap_interval
        >>> low, high = bootstrap_interval(range(20), seed=0)
        >>> low < 9.5 < high
        True
    """
    finite_values = sorted_finite_values(values)
    if len(finite_values) < LEAST_VALUES:
        return math.nan, math.nan
    return bca_interval(
        bootstrap_means(finite_values, np.random.default_rng(abs(seed)), whole_option("resamples", resamples, 100)),
        float(finite_values.mean()),
        [finite_values],
    )


def difference_of_means(a: Values, b: Values, seed: int, resamples: int = 2000) -> tuple[float, float, float]:
    """The difference mean(a) - mean(b) of two independent groups, with its 95 % bootstrap interval.

    Each group is resampled by itself; otherwise as `bootstrap_interval`.

    Args:
        a: (N,) numbers; what is nan or infinite is left out.
        b: (M,) the other numbers; what is nan or infinite is left out.
        seed: of the draws, a whole number.
        resamples: at least 100.

    Returns:
        (difference, low, high): nothing but nan where a group has no finite value, and no interval where one has fewer than 10.

    Raises:
        InputError: for fewer than 100 resamples.

    Example:
        >>> from robench.core.statistics import difference_of_means
        >>> difference, low, high = difference_of_means(range(10, 30), range(20), seed=0)
        >>> difference, 0 < low < 10 < high
        (10.0, True)
    """
    groups = sorted_finite_values(a), sorted_finite_values(b)
    if min(map(len, groups)) == 0:
        return math.nan, math.nan, math.nan
    difference = float(groups[0].mean() - groups[1].mean())
    if min(map(len, groups)) < LEAST_VALUES:
        return difference, math.nan, math.nan
    rng, count = np.random.default_rng(abs(seed)), whole_option("resamples", resamples, 100)
    means = bootstrap_means(groups[0], rng, count) - bootstrap_means(groups[1], rng, count)
    return difference, *bca_interval(means, difference, [groups[0], -groups[1]])


def refuse_negative(**counts: int) -> None:
    """Raises InputError for a count of images below 0."""
    for name, count in counts.items():
        if count < 0:
            raise InputError(f"{name} must be a count of at least 0, not {count}")


def float_array(values: Values) -> Floats:
    """The values as float64, (n,). Raises InputError for what are no numbers."""
    try:
        return np.asarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        raise InputError(f"values of type {type(values).__name__} are no numbers: hand over an array, or a list of them") from None


def sorted_finite_values(values: Values) -> Floats:
    """The finite values in ascending order, (n,) float64: what is made of them cannot depend on the order in which they came.

    Args:
        values: numbers; what is nan or infinite is left out.

    Raises:
        InputError: for what are no numbers.
    """
    flat = float_array(values)
    return np.sort(flat[np.isfinite(flat)])


def bootstrap_means(values: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """The means of `resamples` samples drawn from the values with replacement, each as large as they are."""
    rows, n = max(1, DRAWS_AT_ONCE // len(values)), len(values)
    sizes = [min(rows, resamples - done) for done in range(0, resamples, rows)]
    return np.concatenate([values[rng.integers(n, size=(size, n), dtype=np.int32)].mean(1) for size in sizes])


def bca_interval(means: Floats, estimate: float, groups: Sequence[Floats]) -> tuple[float, float]:
    """The BCa interval of a sum of the means of independent groups, from its resampled values; it holds the estimate (our choice).

    The bias is the normal quantile of the share of resampled values below the estimate, ties half. The acceleration is a sixth of the
    skewness of the estimate, from the third and second moments of the groups: for one group what the jackknife gives.

    Args:
        means: the resampled values of the sum, (resamples,).
        estimate: the sum of the means of the groups as they are.
        groups: the values of each group, (n,), in ascending or descending order.

    Returns:
        (low, high); twice the estimate where no group has two different values.
    """
    deviations = [group - group.mean() for group in groups]
    square, cube = (sum(float((d**power).sum()) / len(d) ** power for d in deviations) for power in (2, 3))
    if all(group[0] == group[-1] for group in groups) or square == 0:
        return estimate, estimate
    below = float((means < estimate).mean() + (means == estimate).mean() / 2)
    bias, acceleration = NORMAL.inv_cdf(min(max(below, 0.5 / len(means)), 1 - 0.5 / len(means))), cube / square**1.5 / 6
    shifted = [bias + NORMAL.inv_cdf(level) for level in LEVELS]
    low, high = np.quantile(means, [NORMAL.cdf(bias + z / (1 - acceleration * z)) for z in shifted])
    return min(float(low), estimate), max(float(high), estimate)


def spearman(a: Values, b: Values) -> tuple[float, float, float]:
    """Spearman's rank correlation of pairs, with its 95 % interval.

    Equal values share their average rank. The interval is Fisher's z with the variance (1 + rho^2 / 2) / (n - 3) of Bonett & Wright 2000
    (Psychometrika 65:23). It would be a point at rho = +-1, so it is taken at most at 1 less half of what one exchanged pair of
    neighbours takes away (our choice).

    Args:
        a: (N,) numbers; a pair with a nan is left out, and infinite values have a rank as others do.
        b: (N,) others.

    Returns:
        (rho, low, high), each in [-1, 1]; nothing but nan where one side is constant, and for fewer than 10 pairs: of two, every
        correlation is 1 or -1.

    Raises:
        InputError: for unequal lengths.

    Example:
        >>> from robench.core.statistics import spearman
        >>> rho, low, high = spearman(range(12), [number**3 for number in range(12)])
        >>> rho, low < 1
        (1.0, True)
    """
    pairs = np.array([float_array(side) for side in same_length_pair(a, b)])
    pairs = pairs[:, ~np.isnan(pairs).any(0)]
    n = pairs.shape[1]
    if n < LEAST_VALUES:
        return math.nan, math.nan, math.nan
    one, other = (average_ranks(side) - (n + 1) / 2 for side in pairs)
    norm_product = math.sqrt(float(one @ one) * float(other @ other))
    if norm_product == 0:
        return math.nan, math.nan, math.nan
    rho = min(1.0, max(-1.0, float(one @ other) / norm_product))
    most = 1 - 6 / (n * (n * n - 1))
    z, half = math.atanh(min(most, max(-most, rho))), Z * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return rho, min(rho, math.tanh(z - half)), max(rho, math.tanh(z + half))


def same_length_pair(a: Values, b: Values) -> tuple[Values, Values]:
    """Both, if they are equally long."""
    if len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} values are no pairs: a correlation needs as many on both sides")
    return a, b


def average_ranks(values: Floats) -> Floats:
    """The ranks of the values from 1, equal ones with their average."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[place], dtype=np.float64)


def superiority(a: Values, b: Values) -> float:
    """The probability that a value of a exceeds one of b, ties half: 0.5 where neither group tends to be larger.

    The statistic of Mann & Whitney 1947 over the number of pairs, which is the area under the ROC curve; as a measure of effect McGraw &
    Wong 1992.

    Args:
        a: (N,) numbers; a nan is left out, and infinite values are compared as others are.
        b: (M,) the other numbers; a nan is left out, and infinite values are compared as others are.

    Returns:
        The share in [0, 1]; nan where a group is empty.

    Raises:
        InputError: for what are no numbers.

    Example:
        >>> from robench.core.statistics import superiority
        >>> superiority([3, 4], [1, 2]), superiority([1, 2], [1, 2])
        (1.0, 0.5)
    """
    one, other = (np.sort(flat[~np.isnan(flat)]) for flat in map(float_array, (a, b)))
    if not (len(one) and len(other)):
        return math.nan
    beaten = np.searchsorted(other, one, "left") + np.searchsorted(other, one, "right")
    return int(beaten.sum()) / (2 * len(one) * len(other))


def quantiles(values: Values, levels: Sequence[float]) -> list[float]:
    """The quantiles of the finite values, with straight lines between the values.

    Args:
        values: (N,) numbers; what is nan or infinite is left out.
        levels: each in [0, 1].

    Returns:
        One number a level; nan where there are no finite values.

    Raises:
        InputError: for a level outside [0, 1].

    Example:
        >>> from robench.core.statistics import quantiles
        >>> quantiles([1, 2, 3, float("nan")], [0, 0.5, 0.75])
        [1.0, 2.0, 2.5]
    """
    finite_values = sorted_finite_values(values)
    if wrong := [level for level in levels if not 0 <= level <= 1]:
        raise InputError(f"a quantile's level must lie in [0, 1], not {wrong[0]}")
    return [float(quantile) for quantile in np.quantile(finite_values, levels)] if len(finite_values) else [math.nan] * len(levels)


def student_p(one: Values, other: Values) -> float:
    """The two-sided p value of Student's test that two groups have the same mean, with the same variance in both (Student 1908).

    A group may have one value alone, whose variance is then taken to be that of the other group.

    Args:
        one: (N,) finite numbers.
        other: (M,) others, N + M at least 3.

    Returns:
        The p value in [0, 1]; where no group varies, 1 for equal means and 0 for others.

    Example:
        >>> from robench.core.statistics import student_p
        >>> round(student_p([1, 2, 3], [4, 5, 6]), 4)
        0.0213
    """
    groups = [float_array(one), float_array(other)]
    df = sum(map(len, groups)) - 2
    if df < 1 or min(map(len, groups)) < 1:
        raise InputError(f"{len(one)} and {len(other)} values are too few to compare: one group needs two")
    gap = float(groups[0].mean() - groups[1].mean())
    variance = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / df
    if variance == 0:
        return 1.0 if gap == 0 else 0.0
    return student_tails(gap / math.sqrt(variance * sum(1 / len(group) for group in groups)), df)


def student_tails(t: float, df: int) -> float:
    """The chance that Student's t lies further from 0 than this: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4, for whole degrees of freedom.

    Args:
        t: the statistic.
        df: degrees of freedom, at least 1.

    Example:
        >>> from robench.core.statistics import student_tails
        >>> round(student_tails(1.0, 1), 6), round(student_tails(12.706205, 1), 6)
        (0.5, 0.05)
    """
    angle = math.atan2(abs(t), math.sqrt(df))
    cosine, term, total = math.cos(angle), 1.0, 0.0
    for step in range(1 + df % 2, df, 2):  # 1, 3, ... for even df; 2, 4, ... for odd df
        total += term
        term *= cosine * cosine * step / (step + 1)
    inside = math.sin(angle) * total if df % 2 == 0 else 2 / math.pi * (angle + math.sin(angle) * cosine * total)
    return min(1.0, max(0.0, 1 - inside))


def student_interval(values: Values) -> tuple[float, float, float]:
    """The mean of some values with its 95 % t interval.

    Args:
        values: (N,) finite numbers, at least two.

    Returns:
        (mean, low, high).

    Raises:
        InputError: for fewer than two.

    Example:
        >>> from robench.core.statistics import student_interval
        >>> [round(number, 3) for number in student_interval([1, 2, 3])]
        [2.0, -0.484, 4.484]
    """
    numbers = float_array(values)
    if len(numbers) < 2:
        raise InputError("a spread needs two values")
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tails(middle, len(numbers) - 1) > 1 - LEVELS[1] + LEVELS[0] else (low, middle)
    mean, half = float(numbers.mean()), low * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return mean, mean - half, mean + half


__getattr__ = names_of_before(
    __name__, {"least_significant": "least_significant_count", "anytime": "anytime_valid_interval", "bootstrap_mean": "bootstrap_interval"}
)
