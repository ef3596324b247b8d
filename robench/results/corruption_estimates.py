"""Numbers over several cells of corruptions, with 95 % intervals that keep the images of all cells paired: means, differences, ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from robench.core.rows import CLEAN, wilson
from robench.core.statistics import DRAWS_AT_ONCE, LEAST_VALUES, Floats, bca_interval

RESAMPLES = 2000
Grades = Mapping[str, tuple[int, ...]]  # corruption -> the severities that were measured
Key = tuple[bool, str, int]  # whether of the reference, corruption, severity
ColumnMean = Callable[[Sequence[Key]], Floats]
Statistic = Callable[[ColumnMean], Floats]
Estimate = tuple[float, float, float, str]  # value, low, high, and how the interval was found


@dataclass(frozen=True)
class ErrorTable:
    """The errors of all images, (N, K), the means over images drawn with replacement, (RESAMPLES, K), and the column of each cell."""

    errors: Floats
    drawn: Floats
    place: Mapping[Key, int]


def error_statistic(grades: Grades) -> Statistic:
    """The mean over corruptions of the mean error over their severities."""
    return lambda mean: average(
        [mean([(False, corruption, severity) for severity in severities]) for corruption, severities in grades.items()]
    )


def accuracy_statistic(grades: Grades) -> Statistic:
    """One less the error."""
    return lambda mean: 1 - error_statistic(grades)(mean)


def clean_error(mean: ColumnMean) -> Floats:
    """The error on the images as they are."""
    return mean([(False, CLEAN, 0)])


def average(values: Sequence[Floats]) -> Floats:
    """The mean of several numbers, each (M,)."""
    return np.asarray(np.mean(values, axis=0), dtype=np.float64)


def quotient(over: Floats, under: Floats) -> Floats:
    """A ratio, nan where what it divides by is not above 0 beyond rounding."""
    defined = under > 1e-12
    return np.where(defined, over / np.where(defined, under, 1.0), math.nan)


def resampled_means(errors: Floats, seed: int) -> Floats:
    """The column means of images drawn with replacement, (RESAMPLES, K); the same in whatever order the images come."""
    ordered_errors, n = errors[np.lexsort(errors.T)], len(errors)
    rng, rows, means = np.random.default_rng(abs(seed)), max(1, DRAWS_AT_ONCE // n), []
    for done in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - done)
        places = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(places.ravel(), minlength=size * n).reshape(size, n)
        means.append(counts.astype(np.float64) @ ordered_errors / n)
    return np.concatenate(means)


def mean_over(matrix: Floats, place: Mapping[Key, int], keys: Sequence[Key]) -> Floats:
    """The mean of some columns."""
    return average([matrix[:, place[key]] for key in keys])


def statistic_with_resamples(table: ErrorTable, statistic: Statistic) -> tuple[float, Floats]:
    """A statistic of all images, and of each resample."""
    observed = table.errors.mean(axis=0, keepdims=True)
    return float(statistic(partial(mean_over, observed, table.place))[0]), statistic(partial(mean_over, table.drawn, table.place))


def difference_estimate(table: ErrorTable, statistic: Statistic) -> Estimate:
    """A mean over images, or a difference of such means, with its BCa interval; none for fewer than LEAST_VALUES images."""
    value, resamples = statistic_with_resamples(table, statistic)
    images = np.sort(statistic(partial(mean_over, table.errors, table.place)))
    return value, *(bca_interval(resamples, value, [images]) if len(images) >= LEAST_VALUES else (math.nan, math.nan)), "bootstrap"


def share_estimate(table: ErrorTable, statistic: Statistic) -> Estimate:
    """A share in [0, 1] with its BCa interval; Wilson's where it is 0 or 1, as no resample differs there, and below LEAST_VALUES images."""
    n = len(table.errors)
    value, low, high, name = difference_estimate(table, statistic)
    if n < LEAST_VALUES or value in (0.0, 1.0):
        (low, high), name = wilson(value * n, n), "wilson"
    return value, max(0.0, low), min(1.0, high), name


def ratio_estimate(table: ErrorTable, statistic: Statistic) -> Estimate:
    """A ratio of means over images with its BCa interval, whose acceleration is the jackknife's (Efron 1987).

    No interval for fewer than LEAST_VALUES images and where a resample leaves the ratio undefined; a point where no image changes it.
    """
    value, resamples = statistic_with_resamples(table, statistic)
    n = len(table.errors)
    if n < LEAST_VALUES or not (math.isfinite(value) and bool(np.isfinite(resamples).all())):
        return value, math.nan, math.nan, ""
    without = (n * table.errors.mean(axis=0, keepdims=True) - table.errors) / (n - 1)  # the means of all images but one
    pull = np.sort(np.round((n - 1) * (value - statistic(partial(mean_over, without, table.place))), 9))
    if not bool(np.isfinite(pull).all()):
        return value, math.nan, math.nan, ""
    low, high = bca_interval(np.round(resamples, 12), round(value, 12), [pull])
    return value, min(low, value), max(high, value), "bootstrap"


def clean_relative_estimate(usual: Callable[[ErrorTable, Statistic], Estimate]) -> Callable[[ErrorTable, Statistic], Estimate]:
    """The interval of what is compared with the clean images; where all of those are right, it is a share and has the interval of one."""

    def chosen(table: ErrorTable, statistic: Statistic) -> Estimate:
        faultless = len(table.errors) >= LEAST_VALUES and not bool(table.errors[:, table.place[False, CLEAN, 0]].any())
        return (share_estimate if faultless else usual)(table, statistic)

    return chosen
