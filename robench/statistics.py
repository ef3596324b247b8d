"""The statistics behind a comparison: paired tests and intervals, and an interval that may be looked at after every image.

robench.rows.wilson is the interval of a single accuracy; what is here compares two, or watches one grow.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from robench.errors import InputError
from robench.rows import wilson


def mcnemar(only_base: int, only_new: int) -> float:
    """The two-sided p value of the exact McNemar test (McNemar 1947): are images as often lost as won?

    only_base, only_new  images that only one of the two models holds; those that both or neither hold say nothing.
    Under the null hypothesis each falls to either side with probability 1/2, so the p value is twice the binomial tail, at most 1;
    1 where there are none. Whole numbers all the way: nothing overflows or rounds until the last division.
    """
    n, few = only_base + only_new, min(only_base, only_new)
    tail, ways = 0, 1  # ways = n over k
    for k in range(few + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << n))


def least_significant(alpha: float) -> int:
    """The fewest lost images, none won, whose McNemar p value is at most alpha in (0, 1]: 6 for alpha = 0.05."""
    count = 0
    while mcnemar(count, 0) > alpha:
        count += 1
    return count


def paired_difference(both: int, only_base: int, only_new: int, neither: int, z: float = 1.959963984540054) -> tuple[float, float, float]:
    """The difference NEW - BASE of two proportions measured on the same images, with its interval: (difference, low, high).

    Newcombe 1998 (Statistics in Medicine 17:2635), method 10: the Wilson intervals of the two proportions, squared and added, less
    what their correlation phi takes away. A positive phi is corrected for continuity. No images at all give (0, -1, 1).
    """
    n = both + only_base + only_new + neither
    if n == 0:
        return 0.0, -1.0, 1.0
    held_base, held_new = both + only_base, both + only_new
    base, new, difference = held_base / n, held_new / n, (only_new - only_base) / n
    (base_low, base_high), (new_low, new_high) = wilson(held_base, n, z), wilson(held_new, n, z)
    phi = correlation(both, only_base, only_new, neither)
    low = difference - added(new - new_low, base_high - base, phi)
    high = difference + added(new_high - new, base - base_low, phi)
    return difference, max(-1.0, low), min(1.0, high)


def correlation(both: int, only_base: int, only_new: int, neither: int) -> float:
    """The phi coefficient of a 2 x 2 table, a positive one corrected for continuity (method 10); 0 where a margin is empty."""
    n, product = both + only_base + only_new + neither, both * neither - only_base * only_new
    margins = (both + only_base) * (only_new + neither) * (both + only_new) * (only_base + neither)
    return (product if product < 0 else max(0.0, product - n / 2)) / math.sqrt(margins) if margins else 0.0


def added(one: float, other: float, phi: float) -> float:
    """The length of two deviations that are correlated by phi."""
    return math.sqrt(max(0.0, one * one + other * other - 2 * phi * one * other))


def anytime(successes: int, n: int, population: int, alpha: float = 0.05) -> tuple[float, float]:
    """An interval of the share of ones in a population, valid at every n at once: one may look after each image and stop when one likes.

    successes, n  ones among the n images seen so far, drawn without replacement in random order
    population    images that there are; at n = population the share is known, and the interval is that point
    alpha         the chance that the share is ever outside, at any n, is at most this

    The confidence sequence of Waudby-Smith & Ramdas 2020 (2006.04347): with a uniform prior on the number of ones K (beta-binomial,
    a = b = 1), prior over posterior at the true K is a martingale that starts at 1, so by Ville's inequality it ever reaches 1 / alpha
    with probability alpha at most. The interval holds every K whose ratio of posterior to prior exceeds alpha, and the running share.
    InputError for counts that cannot be or alpha outside (0, 1).
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

    low, high = edge(kept, mode, least), edge(kept, mode, most)
    return min(share, low / population), max(share, high / population)


def edge(kept: Callable[[int], bool], inside: int, end: int) -> int:
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
