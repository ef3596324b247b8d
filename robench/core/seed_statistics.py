"""Numbers over the seeds of a training: mean and standard deviation, and Welch's test of two groups of seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robench.core.errors import InputError
from robench.core.statistics import Values, float_array, student_interval

SMALLEST_DIVISOR, FRACTION_ENDS, MOST_TERMS = 1e-300, 1e-15, 10_000  # of a continued fraction


@dataclass(frozen=True)
class SeedMean:
    """A number over seeds.

    Attributes:
        mean: of the seeds; nan without any.
        sd: the standard deviation, with one less than their number; nan for fewer than two.
        low: lower end of Student's 95 % interval of the mean; nan for fewer than two.
        high: its upper end.
        count: how many seeds there are.
    """

    mean: float
    sd: float
    low: float
    high: float
    count: int


def seed_mean(values: Values) -> SeedMean:
    """Mean, standard deviation and Student's interval of a number over seeds.

    Args:
        values: (S,) finite numbers, one a seed.

    Example:
        >>> from robench.core.seed_statistics import seed_mean
        >>> found = seed_mean([0.5, 0.6, 0.7])
        >>> round(found.mean, 3), round(found.sd, 3), found.count
        (0.6, 0.1, 3)
    """
    numbers = float_array(values)
    if len(numbers) < 2:
        return SeedMean(float(numbers[0]) if len(numbers) else math.nan, math.nan, math.nan, math.nan, len(numbers))
    mean, low, high = student_interval(numbers)
    return SeedMean(mean, float(numbers.std(ddof=1)), low, high, len(numbers))


def welch_test(base: Values, new: Values) -> tuple[float, float, float]:
    """Welch's t test that two groups, whose variances may differ, have the same mean (Welch 1947, Biometrika 34:28).

    t is the difference over the root of s1^2/n1 + s2^2/n2, and its degrees of freedom are those of Satterthwaite 1946 (Biometrics
    Bulletin 2:110): (s1^2/n1 + s2^2/n2)^2 / ((s1^2/n1)^2/(n1-1) + (s2^2/n2)^2/(n2-1)).

    Args:
        base: (S,) finite numbers, at least two.
        new: (T,) others, at least two.

    Returns:
        (t, degrees of freedom, two-sided p value); where no group varies t is 0 or infinite, p 1 or 0, and the degrees are S + T - 2.

    Raises:
        InputError: for a group of fewer than two.

    Example:
        >>> from robench.core.seed_statistics import welch_test
        >>> [round(number, 4) for number in welch_test([1, 2, 3], [4, 5, 6])]
        [3.6742, 4.0, 0.0213]
    """
    groups = [float_array(base), float_array(new)]
    if min(map(len, groups)) < 2:
        raise InputError(f"{len(base)} and {len(new)} values are too few for Welch's test: each group needs two")
    gap = float(groups[1].mean() - groups[0].mean())
    first, second = (float(group.var(ddof=1)) / len(group) for group in groups)
    if first + second == 0:
        return (math.copysign(math.inf, gap) if gap else 0.0), float(sum(map(len, groups)) - 2), 0.0 if gap else 1.0
    parts = [variance / (first + second) for variance in (first, second)]
    df = 1 / sum(part**2 / (len(group) - 1) for part, group in zip(parts, groups, strict=True))
    t = gap / math.sqrt(first + second)
    return t, df, fractional_student_tails(t, df)


def fractional_student_tails(t: float, df: float) -> float:
    """The chance that Student's t lies further from 0 than this, for any degrees of freedom above 0.

    It is the regularised incomplete beta function I_x(df / 2, 1 / 2) at x = df / (df + t^2) (Abramowitz & Stegun 1964, 26.7.1).

    Args:
        t: the statistic.
        df: degrees of freedom, which need not be whole.

    Example:
        >>> from robench.core.seed_statistics import fractional_student_tails
        >>> round(fractional_student_tails(12.706205, 1.0), 6)
        0.05
    """
    return incomplete_beta(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t)) if t else 1.0


def incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (Numerical Recipes, section 6.4).

    Args:
        a: above 0.
        b: above 0.
        x: in [0, 1].
        rest: 1 - x, which is given apart so that a small one keeps its digits.
    """
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    log_factor = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_factor) * beta_fraction(a, b, x) / a
    return 1 - math.exp(log_factor) * beta_fraction(b, a, rest) / b


def beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, from its start on (Lentz's method)."""
    above, below = 1.0, 1 / away_from_zero(1 - (a + b) * x / (a + 1))
    total = below
    for m in range(1, MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            below = 1 / away_from_zero(1 + term * below)
            above = away_from_zero(1 + term / above)
            total *= above * below
        if abs(above * below - 1) < FRACTION_ENDS:
            break
    return total


def away_from_zero(number: float) -> float:
    """A number that can be divided by."""
    return number if abs(number) > SMALLEST_DIVISOR else SMALLEST_DIVISOR
