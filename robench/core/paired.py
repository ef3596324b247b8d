"""Tests and intervals for two runs of the same images: verdicts, shares, scores, and the worst class.

Every function speaks of the difference NEW - BASE of two means, and asks whether it may be a given margin. A p value is two-sided, so it
is at most alpha where the interval of level 1 - alpha leaves the margin out. At margin 0 verdicts have the exact test of McNemar
instead, and p values of scores below 0.01 go on beyond the resamples from which the interval is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from robench.core.errors import InputError
from robench.core.statistics import LEAST_VALUES, NORMAL, Floats, mcnemar

Labels = NDArray[np.int64]
ENUMERATED = 14  # changed images up to which all signs are tried: 16,384 sums
T_RESAMPLES = 3999  # of the bootstrap, fewer of many images: a p value below 1 / T_RESAMPLES is extrapolated
RESAMPLED_NUMBERS = 20_000_000  # numbers drawn for them at most
FEWEST_RESAMPLES = 1999
TAIL = 0.995  # the quantile of the resampled t from which smaller p values are extrapolated
WORST_CANDIDATES = 20  # classes of the lowest accuracy that may be shown to be the worst one
MOST_COPIES = 64  # of the images, by which the worst class is tried
POWER = 0.9  # how often a drop that is named as one that would have been found is found
STEPS, CLOSE_ENOUGH = 80, 1e-12  # of a search for a root
VERDICT, SHARE, SCORE, WORST_CLASS = "verdict", "share", "score", "worst class"
TESTS = {VERDICT: "mcnemar, tango", SHARE: "tango, clustered by image", SCORE: "bootstrap", WORST_CLASS: "all classes"}


@dataclass(frozen=True, eq=False)
class PairedValues:
    """The numbers of the same images in two runs.

    Attributes:
        kind: "verdict" (each 0 or 1), "share" (clustered verdicts, such as the mean over five severities), "score" (any numbers), or
            "worst class" (verdicts, of which the least mean over the classes is taken).
        base: (N,) of BASE, without nan.
        new: (N,) of NEW.
        labels: (N,) the classes, which only "worst class" needs.
        unit: for shares, the largest difference that one image can have.
        seed: of the resamples of scores.
    """

    kind: str
    base: Floats
    new: Floats
    labels: Labels
    unit: float = 1.0
    seed: int = 0

    @property
    def n(self) -> int:
        """How many images there are."""
        return len(self.base)

    @cached_property
    def difference(self) -> float:
        """The mean of NEW less that of BASE; of "worst class", the least of the means by class."""
        if self.kind == WORST_CLASS:
            return least_class_mean(self.labels, self.new) - least_class_mean(self.labels, self.base)
        return float((self.new - self.base).mean()) if self.n else math.nan

    @cached_property
    def counts(self) -> tuple[float, float, float]:
        """(lost, won, images) as Tango's score takes them, of shares divided by their design effect."""
        change = (self.new - self.base) / self.unit
        lost, won = float(-change[change < 0].sum()), float(change[change > 0].sum())
        effect = 1.0 if self.kind == VERDICT else (float((change**2).sum()) + 1) / (lost + won + 1)
        return lost / effect, won / effect, self.n / effect

    @cached_property
    def classes(self) -> ClassMeans:
        """The means by class, for "worst class"."""
        return class_means(self.labels, self.base, self.new)

    @cached_property
    def resampled(self) -> Floats:
        """The studentised means of the resamples, ascending, for "score"."""
        return studentised_means(self.new - self.base, self.seed)


# --- whether the difference may be a margin


def p_of_margin(values: PairedValues, margin: float) -> float:
    """The two-sided p value of the hypothesis that the true difference NEW - BASE is a margin.

    Verdicts: the exact test of McNemar 1947 at margin 0, else the score test of Tango 1998 (Statistics in Medicine 17:891). Shares, whose
    parts are clustered by image: at margin 0 the exact test of signs (all signs of the changed images are equally likely; with many
    changed images its normal approximation with a continuity correction), else Tango's score on counts that are divided by the design
    effect, as Rao & Scott 1992 (Biometrics 48:577) do with clustered proportions; the effect is that of the images that changed and of
    one more that changed wholly, so that it tends to 1 where few did (our choice). Scores: the paired bootstrap of the studentised mean
    (Efron & Tibshirani 1993, chapter 12 and 16). Worst class: see `p_of_worst_class`.

    Args:
        values: the numbers of the images.
        margin: the difference of the hypothesis, NEW - BASE.

    Returns:
        The p value in [0, 1]; 1 for fewer than 10 scores.

    Example:
        >>> verdicts = PairedValues("verdict", np.repeat([1.0, 0.0], 6), np.zeros(12), np.zeros(12, dtype=np.int64))
        >>> p_of_margin(verdicts, 0.0)
        0.03125
    """
    return P_VALUES[values.kind](values, margin)


def difference_interval(values: PairedValues, alpha: float = 0.05) -> tuple[float, float]:
    """The interval of the difference NEW - BASE: all margins whose p value is above alpha, by the tests that are not exact.

    Args:
        values: the numbers of the images.
        alpha: 0.05 for a 95 % interval, in (0, 1).

    Returns:
        (low, high), which hold the difference; (nan, nan) for fewer than 10 scores.

    Example:
        >>> base, new = np.array([1.0] * 8 + [0.0] * 13), np.array([1.0] + [0.0] * 7 + [1.0] + [0.0] * 12)
        >>> low, high = difference_interval(PairedValues("verdict", base, new, np.zeros(21, dtype=np.int64)))
        >>> round(low, 3), round(high, 3)
        (-0.517, -0.026)
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie in (0, 1), not {alpha}")
    return INTERVALS[values.kind](values, alpha)


def verdict_p(values: PairedValues, margin: float) -> float:
    """McNemar's p value at margin 0, else Tango's.

    Args:
        values: the numbers of the images.
        margin: the difference of the hypothesis, NEW - BASE.
    """
    lost, won, n = values.counts
    return mcnemar(round(lost), round(won)) if margin == 0 else p_of_z(tango_z(lost, won, n, margin))


def share_p(values: PairedValues, margin: float) -> float:
    """The p value of the signs at margin 0, else Tango's on counts that are divided by the design effect.

    Args:
        values: the numbers of the images.
        margin: the difference of the hypothesis, NEW - BASE.
    """
    if margin == 0:
        return p_of_signs((values.new - values.base) / values.unit)
    return p_of_z(tango_z(*values.counts, margin / values.unit))


def count_interval(values: PairedValues, alpha: float) -> tuple[float, float]:
    """Tango's interval of verdicts or shares.

    Args:
        values: the numbers of the images.
        alpha: 1 minus the level of the interval, in (0, 1).
    """
    low, high = tango_interval(*values.counts, alpha=alpha)
    return min(low * values.unit, values.difference), max(high * values.unit, values.difference)


def normal_quantile(alpha: float) -> float:
    """The normal quantile beyond which a share alpha lies on both sides together; of a tiny alpha too."""
    return -NORMAL.inv_cdf(max(alpha / 2, 1e-300))


def p_of_z(z: float) -> float:
    """The two-sided p value of a normal quantile."""
    return math.erfc(abs(z) / math.sqrt(2))


def tango_z(only_base: float, only_new: float, n: float, margin: float) -> float:
    """The score statistic of Tango 1998 for the difference of two proportions of the same images.

    The probability that only NEW holds an image is put at its maximum-likelihood value under the margin, a root of a quadratic equation.

    Args:
        only_base: how many images BASE alone holds, at least 0; need not be whole.
        only_new: how many NEW alone holds.
        n: how many images there are.
        margin: the difference NEW - BASE of the hypothesis, in (-1, 1).

    Returns:
        A quantile of the normal distribution under the hypothesis, negative where the difference found is below the margin; 0 where
        nothing changed and the margin is 0.

    Example:
        >>> round(tango_z(30, 10, 400, 0.0), 4)  # (10 - 30) / sqrt(10 + 30)
        -3.1623
    """
    d = -margin  # Tango's difference, BASE - NEW
    a, b, c = 2 * n, (2 * n - only_base + only_new) * d - only_base - only_new, -only_new * d * (1 - d)
    least = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a) if n else 0.0
    variance = n * (2 * max(least, 0.0, -d) + d * (1 - d))
    gap = only_new - only_base - n * margin
    if variance <= 0:
        return 0.0 if gap == 0 else math.copysign(math.inf, gap)
    return gap / math.sqrt(variance)


def tango_interval(only_base: float, only_new: float, n: float, *, alpha: float = 0.05) -> tuple[float, float]:
    """The score interval of Tango 1998 for the difference NEW - BASE: the margins at which the statistic is within the normal quantile.

    Args:
        only_base: how many images BASE alone holds, at least 0; need not be whole.
        only_new: how many NEW alone holds.
        n: how many images there are.
        alpha: 0.05 for a 95 % interval.

    Returns:
        (low, high), each in [-1, 1]; (-1, 1) without images.

    Example:
        >>> [round(end, 4) for end in tango_interval(0, 0, 500)]  # the roots of n d / (1 - d) = z^2
        [-0.0076, 0.0076]
    """
    if n <= 0:
        return -1.0, 1.0
    z, difference = normal_quantile(alpha), (only_new - only_base) / n
    low = margin_at(lambda margin: tango_z(only_base, only_new, n, margin) - z, -1.0, difference)
    high = margin_at(lambda margin: tango_z(only_base, only_new, n, margin) + z, difference, 1.0)
    return low, high


def margin_at(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses 0, by regula falsi with halved ends (Illinois) and bisection in turn; an end where it does not."""
    at_low, at_high = limited(falling(low)), limited(falling(high))
    if at_low <= 0 or at_high > 0:
        return low if at_low <= 0 else high
    for step in range(STEPS):
        middle = (low + high) / 2 if step % 3 == 0 else (low * at_high - high * at_low) / (at_high - at_low)
        value = limited(falling(middle))
        if value > 0:
            low, at_low, at_high = middle, value, at_high / 2
        else:
            high, at_high, at_low = middle, value, at_low / 2
        if high - low < CLOSE_ENOUGH or abs(value) < CLOSE_ENOUGH:
            return middle
    return (low + high) / 2


def limited(value: float) -> float:
    """A number without its infinities, so that lines can be drawn through it."""
    return max(-1e6, min(1e6, value))


def p_of_signs(change: Floats) -> float:
    """The two-sided p value of the hypothesis that each image changes to either side with probability 1/2 by what it changed.

    For verdicts that is McNemar's exact test. With few changed images all signs are tried; with more, the sum is taken as normal, after
    half a step of the smallest change for continuity.
    """
    moved = change[np.abs(change) > 1e-12]
    total = abs(float(moved.sum()))
    if len(moved) <= ENUMERATED:
        signs = 1 - 2 * ((np.arange(1 << len(moved))[:, None] >> np.arange(len(moved))) & 1)
        return float((np.abs(signs @ moved) >= total - 1e-9).mean())
    return p_of_z(max(0.0, total - float(np.abs(moved).min())) / math.sqrt(float((moved**2).sum())))


# --- scores: the paired bootstrap


def studentised_means(change: Floats, seed: int) -> Floats:
    """The studentised means of resamples of paired differences, ascending; empty where they are too few or all alike."""
    n = len(change)
    if n < LEAST_VALUES or float(np.ptp(change)) == 0.0:
        return np.empty(0)
    deviations = change - change.mean()
    means, squares = resampled_moments(deviations / deviations.std(), seed)
    spread = np.sqrt(np.maximum(squares - means**2, 0.0))
    t: Floats = np.sort(means[spread > 1e-9] / spread[spread > 1e-9])
    return t * math.sqrt(n - 1)


def resampled_moments(values: Floats, seed: int) -> tuple[Floats, Floats]:
    """The means and the mean squares of resamples of some values."""
    n = len(values)
    resamples = max(FEWEST_RESAMPLES, min(T_RESAMPLES, RESAMPLED_NUMBERS // n))
    both = np.stack([values, values**2], axis=1)
    if resamples * n <= RESAMPLED_NUMBERS // 2:
        moments = resample_weights(n, seed, resamples) @ both / n
    else:
        rng = np.random.default_rng(abs(seed))
        rows = max(1, 1_000_000 // n)
        sizes = [min(rows, resamples - done) for done in range(0, resamples, rows)]
        moments = np.concatenate([both[rng.integers(n, size=(size, n), dtype=np.int32)].mean(1) for size in sizes])
    return moments[:, 0], moments[:, 1]


@lru_cache(maxsize=2)
def resample_weights(n: int, seed: int, resamples: int) -> NDArray[np.float32]:
    """(resamples, n): how often each of n values is drawn in each resample; the same for all rows of a comparison, so it is kept."""
    drawn = np.random.default_rng(abs(seed)).integers(n, size=(resamples, n))
    flat = (drawn + np.arange(resamples)[:, None] * n).ravel()
    return np.bincount(flat, minlength=resamples * n).reshape(resamples, n).astype(np.float32)


def studentised(values: PairedValues, margin: float) -> float:
    """How many standard errors the mean difference lies above a margin; infinite where all differences are alike and not the margin."""
    gap, spread = values.difference - margin, float((values.new - values.base).std(ddof=1)) if values.n > 1 else 0.0
    if len(values.resampled) == 0 or spread == 0:
        return 0.0 if abs(gap) < 1e-15 else math.copysign(math.inf, gap)
    return gap / (spread / math.sqrt(values.n))


def score_p(values: PairedValues, margin: float) -> float:
    """The p value of the bootstrap of the studentised mean; below what so many resamples can tell, by a normal tail that meets it there.

    Args:
        values: the numbers of the images.
        margin: the difference of the hypothesis, NEW - BASE.
    """
    if values.n < LEAST_VALUES:
        return 1.0
    t = studentised(values, margin)
    if math.isinf(t):
        return 2.0 ** (1 - values.n)
    if len(values.resampled) == 0:
        return 1.0
    upper = values.resampled if t > 0 else -values.resampled[::-1]
    end = max(float(np.quantile(upper, TAIL)), 1e-9)
    if abs(t) > end:
        return (
            2 * (1 - TAIL) * math.erfc(abs(t) / end * NORMAL.inv_cdf(TAIL) / math.sqrt(2)) / math.erfc(NORMAL.inv_cdf(TAIL) / math.sqrt(2))
        )
    return min(1.0, 2 * float((upper >= abs(t)).mean()))


def score_interval(values: PairedValues, alpha: float) -> tuple[float, float]:
    """The bootstrap-t interval of a mean difference; (nan, nan) for fewer than 10 images.

    Args:
        values: the numbers of the images.
        alpha: 1 minus the level of the interval, in (0, 1).
    """
    if values.n < LEAST_VALUES:
        return math.nan, math.nan
    if len(values.resampled) == 0:
        return values.difference, values.difference
    error = float((values.new - values.base).std(ddof=1)) / math.sqrt(values.n)
    low, high = np.quantile(values.resampled, [1 - alpha / 2, alpha / 2])
    ends = values.difference - float(low) * error, values.difference - float(high) * error
    return min(ends[0], values.difference), max(ends[1], values.difference)


# --- the worst class, which is chosen by looking


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Means by class in both runs, with one image more on either side of the scale (Agresti & Caffo 2000, American Statistician 54:280).

    Attributes:
        base: (K,) of BASE.
        new: (K,) of NEW.
        base_variance: (K,) of those means.
        new_variance: (K,).
        paired: for each class, its numbers in both runs, as shares.
    """

    base: Floats
    new: Floats
    base_variance: Floats
    new_variance: Floats
    paired: Sequence[PairedValues]


def class_means(labels: Labels, base: Floats, new: Floats) -> ClassMeans:
    """The means by class."""
    masks = [labels == label for label in np.unique(labels)]
    paired = [PairedValues(SHARE, base[mask], new[mask], labels[mask]) for mask in masks]
    more = [[np.concatenate([values, [0.0, 1.0]]) for values in (one.base, one.new)] for one in paired]
    means = np.array([[values.mean() for values in pair] for pair in more])
    variances = np.array([[values.var() / len(values) for values in pair] for pair in more])
    return ClassMeans(means[:, 0], means[:, 1], variances[:, 0], variances[:, 1], paired)


def least_class_mean(labels: Labels, values: Floats) -> float:
    """The least mean over the classes.

    Args:
        labels: (N,) the class of each image.
        values: (N,) verdicts or shares.

    Example:
        >>> least_class_mean(np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 1.0, 0.0]))
        0.5
    """
    return min((float(values[labels == label].mean()) for label in np.unique(labels)), default=math.nan)


def least_class(labels: Labels, values: Floats) -> int:
    """The class with the least mean; of several the first.

    Args:
        labels: (N,) the class of each image.
        values: (N,) verdicts or shares.
    """
    return int(min(np.unique(labels), key=lambda label: float(values[labels == label].mean())))


def p_of_worst_class(values: PairedValues, margin: float) -> float:
    """The two-sided p value of the hypothesis that the accuracy of the worst class changed by a margin.

    The worst class of NEW is below that of BASE by more than the margin exactly where some class of NEW lies below every class of BASE by
    more. So a class c is tested against every class of BASE (the largest p value counts: an intersection of hypotheses needs no
    correction), and as c was chosen by looking, the p value is multiplied by the number of classes (Bonferroni). The same with the
    runs exchanged for the other side. A class against itself is paired (Tango), two classes are independent (Agresti & Caffo 2000). Our
    construction.

    Args:
        values: the numbers of the images, of the kind "worst class".
        margin: the change of the hypothesis, NEW - BASE.
    """
    classes = values.classes
    below = values.difference < margin
    one, other = (classes.new, classes.base) if below else (classes.base, classes.new)
    one_variance, other_variance = (classes.new_variance, classes.base_variance) if below else (classes.base_variance, classes.new_variance)
    gap = -margin if below else margin
    chosen = np.argsort(one, kind="stable")[:WORST_CANDIDATES]
    z = (other[None, :] - one[chosen, None] - gap) / np.sqrt(other_variance[None, :] + one_variance[chosen, None])
    for place, c in enumerate(chosen.tolist()):
        lost, won, n = classes.paired[c].counts
        z[place, c] = tango_z(lost, won, n, margin) * (-1 if below else 1)
    weakest = float(z.min(axis=1).max())  # the class that is most clearly below all of the other run
    return min(1.0, 2 * len(one) * math.erfc(weakest / math.sqrt(2)) / 2)


def worst_class_interval(values: PairedValues, alpha: float) -> tuple[float, float]:
    """The margins at which the p value of the worst class is above alpha.

    Args:
        values: the numbers of the images, of the kind "worst class".
        alpha: 1 minus the level of the interval, in (0, 1).
    """
    found = values.difference
    low = margin_at(lambda margin: alpha - p_of_worst_class(values, margin), -1.0, found)
    high = margin_at(lambda margin: p_of_worst_class(values, margin) - alpha, found, 1.0)
    return low, high


P_VALUES: dict[str, Callable[[PairedValues, float], float]] = {
    VERDICT: verdict_p,
    SHARE: share_p,
    SCORE: score_p,
    WORST_CLASS: p_of_worst_class,
}
INTERVALS: dict[str, Callable[[PairedValues, float], tuple[float, float]]] = {
    VERDICT: count_interval,
    SHARE: count_interval,
    SCORE: score_interval,
    WORST_CLASS: worst_class_interval,
}


# --- several tests at once, and how many images they need


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for being several (Holm 1979, Scandinavian Journal of Statistics 6:65).

    Each is at most alpha exactly where Holm's procedure rejects it, so that the chance of any false rejection is alpha at most, however
    the tests hang together.

    Args:
        p_values: each in [0, 1].

    Returns:
        The adjusted ones, in the same order, at most 1.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def images_needed(values: PairedValues, margin: float, alpha: float) -> float | None:
    """How many images would tell whether the difference is beyond a margin, at the rates that were seen, with a probability of 0.9.

    The interval shrinks with the root of the number of images, until it excludes the margin.

    Args:
        values: the numbers of the images.
        margin: the difference NEW - BASE that is allowed.
        alpha: the level at which a difference counts, in (0, 1).

    Returns:
        A whole number, at least that of the images; None where the difference found is the margin itself, so that no number would do;
        infinity where 64 times as many would not tell of the worst class.

    Example:
        >>> images_needed(PairedValues("verdict", np.ones(100), np.ones(100), np.zeros(100, dtype=np.int64)), -0.01, 0.05)
        1041
    """
    if values.kind == WORST_CLASS:
        return images_needed_by_classes(values, margin, alpha)
    if values.kind in (VERDICT, SHARE):
        lost, won, n = values.counts
        z = abs(tango_z(lost, won, n, margin / values.unit))
    else:
        if values.n < LEAST_VALUES:
            return LEAST_VALUES
        low, high = difference_interval(values, alpha)
        half = values.difference - low if margin < values.difference else high - values.difference
        z = abs(values.difference - margin) / half * normal_quantile(alpha) if half > 0 else math.inf
    if not z >= 1e-3:
        return None
    return max(values.n, math.ceil(values.n * (power_quantile(alpha) / z) ** 2))


def power_quantile(alpha: float) -> float:
    """How many standard errors off a margin a difference must be to be found with a probability of 0.9."""
    return normal_quantile(alpha) + NORMAL.inv_cdf(POWER)


def images_needed_by_classes(values: PairedValues, margin: float, alpha: float) -> float | None:
    """As `images_needed` for the worst class: so many copies of the images as give a p value of alpha, and more for the power."""
    if abs(values.difference - margin) < 1e-9:
        return None
    copies = 1
    while copies <= MOST_COPIES and p_of_margin(copied(values, copies), margin) > alpha:
        copies *= 2
    if copies > MOST_COPIES:
        return math.inf
    low = copies // 2
    while copies - low > max(1, copies // 8):
        middle = (low + copies) // 2
        low, copies = (low, middle) if p_of_margin(copied(values, middle), margin) <= alpha else (middle, copies)
    return math.ceil(values.n * copies * (power_quantile(alpha) / normal_quantile(alpha)) ** 2)


def copied(values: PairedValues, copies: int) -> PairedValues:
    """The same numbers, so many times."""
    return PairedValues(
        values.kind, np.tile(values.base, copies), np.tile(values.new, copies), np.tile(values.labels, copies), values.unit, values.seed
    )


def detectable_difference(values: PairedValues, alpha: float) -> float:
    """The difference that these images would show with a probability of 0.9, at the rate of change that was seen.

    Of verdicts and shares by the formula of Connor 1987 (Biometrics 43:207), in which the share of changed images is at least the
    difference; of scores by their spread; of the worst class by its interval.

    Args:
        values: the numbers of the images.
        alpha: the level at which a difference counts.

    Returns:
        A positive difference in the unit of the values; nan where there are too few images for any.
    """
    z, power = normal_quantile(alpha), NORMAL.inv_cdf(POWER)
    if values.kind == SCORE:
        return (z + power) * float((values.new - values.base).std(ddof=1)) / math.sqrt(values.n) if values.n >= LEAST_VALUES else math.nan
    if values.kind == WORST_CLASS:
        return detectable_in_worst_class(values, alpha)
    lost, won, n = values.counts
    changed = (lost + won) / n

    def shortfall(difference: float) -> float:
        share = max(changed, difference)
        return z * math.sqrt(share) + power * math.sqrt(max(0.0, share - difference**2)) - difference * math.sqrt(n)

    return math.nan if shortfall(1.0) > 0 else values.unit * margin_at(shortfall, 1e-9, 1.0)


def detectable_in_worst_class(values: PairedValues, alpha: float) -> float:
    """A change as large as the half of the interval towards a drop, and more for the power."""
    half = max(worst_class_interval(values, alpha)[1] - values.difference, values.difference - worst_class_interval(values, alpha)[0])
    least = half * power_quantile(alpha) / normal_quantile(alpha)
    return least if least < 1 else math.nan
