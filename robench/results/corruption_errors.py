"""From what a model gets right under common corruptions to rows: accuracies, corruption errors and their ratios to a reference model's.

The names of Hendrycks & Dietterich, ICLR 2019, 1903.12261: fifteen corruptions in four families make the benchmark, four more are for
validation, each at the severities 1 to 5. An error is a share of images, in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robench.core.corruption_names import EVERY_NAME, FAMILIES, FIFTEEN, NINETEEN, ON_DISK, SEVERITIES, CorruptionCell
from robench.core.errors import InputError
from robench.core.rows import CLEAN, OVERALL_PROBE, WILSON, Row, with_interval
from robench.core.statistics import Floats, Values
from robench.results.corruption_estimates import (
    ColumnMean,
    ErrorTable,
    Estimate,
    Grades,
    Key,
    Statistic,
    accuracy_statistic,
    average,
    clean_error,
    clean_relative_estimate,
    difference_estimate,
    error_statistic,
    quotient,
    ratio_estimate,
    resampled_means,
    share_estimate,
    statistic_with_resamples,
)

FEW_ADDED_ERRORS = (
    0.02  # a relative error is a ratio of differences: below so many errors that a corruption adds, a note says so (our choice)
)

# Errors of torchvision's AlexNet on ImageNet-C, means over the severities, by which the paper divides; hendrycks/robustness lists them.
ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880, "glass_blur": 0.826268,
    "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592,
    "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
ALEXNET_CLEAN = 0.43478  # torchvision's own figure for these weights, 56.522 % of the validation set right; the paper prints 43.5 %

Cells = Mapping[CorruptionCell, Values]


@dataclass(frozen=True)
class Reference:
    """The model by whose errors others are divided.

    Attributes:
        name: as it stands in the rows.
        grades: the severities of each corruption.
        clean: its errors on the images as they are, (N,), or their mean, (1,).
        errors: corruption -> its errors averaged over those severities, (N,) or (1,).
        sha256: hash of its weights; empty for published errors.
    """

    name: str
    grades: Grades
    clean: Floats
    errors: Mapping[str, Floats]
    sha256: str = ""

    @property
    def words(self) -> str:
        """The words by which settings name it."""
        return f"reference={self.name}" + (f" reference_sha256={self.sha256[:12]}" if self.sha256 else "")

    def added_errors(self, corruption: str) -> float:
        """The share of errors that a corruption adds to those on the images as they are: by what its relative_ce is divided."""
        return float(self.errors[corruption].mean() - self.clean.mean())


@dataclass(frozen=True)
class CellMetric:
    """One number over several cells: how its row is called, what it is, and how its interval is found."""

    probe: str
    words: str
    metric: str
    statistic: Statistic
    interval: Callable[[ErrorTable, Statistic], Estimate]


def measured_reference(name: str, clean: Values, cells: Cells, sha256: str = "") -> Reference:
    """The user's own reference model, from what it gets right on the images that the other model is measured on, in the same order.

    Args:
        name: a name without blanks.
        clean: 1 where it is right on the image as it is, else 0, (N,).
        cells: (corruption, severity) -> the same on the corrupted images, (N,).
        sha256: hash of its weights.

    Raises:
        InputError: for cells of unequal lengths or with values outside [0, 1], and where there are no cells or images.
    """
    grades, columns = severities_by_corruption(cells), error_columns(clean, cells)
    errors = {c: np.mean([columns[False, c, severity] for severity in severities], axis=0) for c, severities in grades.items()}
    return Reference(name, grades, columns[False, CLEAN, 0], errors, sha256)


def alexnet_reference(classes: int, scale: str) -> Reference:
    """The published errors of AlexNet, by which the mCE of ImageNet-C is defined; they are taken as exact.

    Args:
        classes: number of classes of the data.
        scale: the scale of the severities, "imagenet" for those of ImageNet-C.

    Raises:
        InputError: unless there are ImageNet-1k's 1000 classes and the severities are those of ImageNet-C: elsewhere AlexNet's errors
            differ, and dividing by these means nothing.
    """
    if classes != 1000 or scale != "imagenet":
        raise InputError(
            f"AlexNet's published errors are of ImageNet-C with 1000 classes, not of {classes} classes at the scale of {scale}: "
            "name a reference model of your own, or use the mean corruption error, which needs none"
        )
    errors = {corruption: np.array([error]) for corruption, error in ALEXNET.items()}
    return Reference("alexnet", dict.fromkeys(ALEXNET, SEVERITIES), np.array([ALEXNET_CLEAN]), errors)


def degradation_rows(about: Row, clean: Values, cells: Cells, reference: Reference | None = None) -> list[Row]:
    """All rows of one model under corruptions.

    Rows of each corruption (probe = its name):

    * accuracy: of one cell, setting severity=3; and of the images as they are under the probe clean. Wilson intervals.
    * mean_accuracy: the mean over the severities that were measured, which the setting lists.
    * relative_error: 1 - mean_accuracy less the clean error.
    * relative_accuracy: mean_accuracy / clean accuracy.
    * ce: the sum of the errors over the severities, over the reference's.
    * relative_ce: the same, with the clean errors taken off both sums first.
    * reference_accuracy: the reference's own, a mean over these severities; and of the images as they are under the probe clean.

    Rows over corruptions (probe = corruptions), all means over corruptions of means over severities:

    * mean_corruption_error, mean_corruption_error_19: unnormalised, as is usual for CIFAR; of the fifteen, and with the four. Of C-bar and
      3DCC mean_corruption_error goes over the corruptions of the set where all of them were measured.
    * mean_accuracy, relative_error, relative_accuracy: of the fifteen; mean_accuracy also with setting severity=3.
    * noise_accuracy, blur_accuracy, weather_accuracy, digital_accuracy: of a family; noise_accuracy is IGD's three noises.
    * mce, relative_mce: means of ce and relative_ce over the fifteen: 1 (100 %) is as bad as the reference.
    * reference_accuracy: the reference's own accuracy, a mean over the same corruptions.

    A number of a named set is given only where all its cells were measured. Where the fifteen are not complete, mean_error stands for
    mean_corruption_error and goes, like the others over corruptions, over all that was measured: the setting counts corruptions and cells.

    A row that needs the reference is given only where that was measured at the same severities; it is nan where the reference makes no
    errors, or none beyond its clean ones. The images are the same in all cells, so the intervals of all means are bootstraps over images:
    BCa for means, their differences and ratios (where all images agree on a share, Wilson's); nan where some resample has no ratio.

    Args:
        about: gives checkpoint, data (cifar10-c: released files, cifar10-c-synth: made here), split, seed, and words that all settings end
            with, such as scale=cifar.
        clean: 1 where the model is right on the image as it is, else 0, (N,).
        cells: (corruption, severity) -> the same on the corrupted images, (N,), image by image in the same order.
        reference: `measured_reference(...)`, or `alexnet_reference(...)` for ImageNet-1k; without it no row is normalised.

    Raises:
        InputError: for tables without cells or images, of unequal lengths, or with values outside [0, 1], and for a reference that was
            measured on another number of images.
    """
    table, grades = error_table(clean, cells, reference, about.seed), severities_by_corruption(cells)
    about = replace(about, n=len(table.errors))
    rows = [cell_row(about, CLEAN, "", clean)]
    if reference is not None:
        rows.append(
            metric_row(
                about,
                table,
                CellMetric(CLEAN, reference.words, "reference_accuracy", reference_clean_accuracy, reference_estimate(reference)),
            )
        )
    for corruption, severities in grades.items():
        rows += [cell_row(about, corruption, f"severity={severity}", cells[corruption, severity]) for severity in severities]
        rows += [
            metric_row(about, table, metric)
            for metric in corruption_metrics(corruption, severities, references_by_corruption(grades, reference))
        ]
    return rows + [metric_row(about, table, metric) for metric in overall_metrics(grades, references_by_corruption(grades, reference))]


def references_by_corruption(grades: Grades, reference: Reference | None) -> dict[str, Reference]:
    """The corruptions in which the reference was measured at the same severities, each with the reference."""
    return {c: reference for c, severities in grades.items() if reference.grades.get(c) == severities} if reference else {}


def reference_warning(reference: Reference, corruptions: Sequence[str]) -> str:
    """A sentence on the corruptions whose relative_ce is divided by next to nothing, or by nothing at all; empty where there are none.

    And one on those under which the reference makes no errors, so that they have no ce.
    """
    small = {name: reference.added_errors(name) for name in corruptions if reference.added_errors(name) < FEW_ADDED_ERRORS}
    added = ", ".join(f"{name} {100 * value:+.2f}{'' if value > 1e-12 else ' (no ratio)'}" for name, value in small.items())
    head = f"relative_mce and relative_ce divide by the errors that a corruption adds to the clean ones of {reference.name}"
    none = ", ".join(name for name in corruptions if reference.errors[name].mean() <= 1e-12)
    sentences = [f"{head}, and these are few, in points: {added}"] if small else []
    sentences += [f"there is no ce of {none}, and no mce: {reference.name} makes no errors there"] if none else []
    return "; ".join(sentences)


def reference_clean_accuracy(mean: ColumnMean) -> Floats:
    """The accuracy of the reference on the images as they are."""
    return 1 - mean([(True, CLEAN, 0)])


def reference_accuracy(corruptions: Iterable[str]) -> Statistic:
    """The accuracy of the reference, a mean over corruptions; rounded, so that equal means of other sums are equal (BCa counts ties)."""
    return lambda mean: np.round(1 - average([mean([(True, corruption, 0)]) for corruption in corruptions]), 12)


def reference_estimate(reference: Reference) -> Callable[[ErrorTable, Statistic], Estimate]:
    """How the interval of the reference's accuracy is found: published errors are taken as exact."""
    return (
        share_estimate
        if len(reference.clean) > 1
        else lambda table, statistic: (statistic_with_resamples(table, statistic)[0], math.nan, math.nan, "")
    )


def cell_row(about: Row, probe: str, words: str, right: Values) -> Row:
    """The accuracy in one cell with its Wilson interval."""
    count = float(np.asarray(right, dtype=np.float64).sum())
    return WILSON.row_with(
        replace(about, probe=probe, setting=full_setting(words, about) if words else "", metric="accuracy"), count, about.n
    )


def metric_row(about: Row, table: ErrorTable, asked: CellMetric) -> Row:
    """The row of one number over several cells."""
    row = replace(about, probe=asked.probe, setting=full_setting(asked.words, about), metric=asked.metric)
    return with_interval(row, *asked.interval(table, asked.statistic))


def full_setting(words: str, about: Row) -> str:
    """A setting that ends with the words that all rows have."""
    return f"{words} {about.setting}".strip()


def corruption_metrics(corruption: str, severities: Sequence[int], references: Mapping[str, Reference]) -> Iterator[CellMetric]:
    """What is asked of one corruption."""
    words = f"severities={','.join(map(str, severities))}"
    yield from clean_relative_metrics(corruption, words, error_statistic({corruption: tuple(severities)}))
    if corruption in references:
        yield from reference_relative_metrics(corruption, words, {corruption: tuple(severities)}, "ce", references[corruption])


def overall_metrics(grades: Grades, references: Mapping[str, Reference]) -> Iterator[CellMetric]:
    """What is asked over several corruptions."""
    whole = has_all_cells(grades, FIFTEEN)
    main = {c: grades[c] for c in FIFTEEN} if whole else grades
    complete = whole or any({*grades} == {*names} and has_all_cells(grades, names) for names in ON_DISK.values())
    yield CellMetric(
        OVERALL_PROBE, count_words(main), "mean_corruption_error" if complete else "mean_error", error_statistic(main), share_estimate
    )
    if has_all_cells(grades, NINETEEN):
        every = {c: grades[c] for c in NINETEEN}
        yield CellMetric(OVERALL_PROBE, count_words(every), "mean_corruption_error_19", error_statistic(every), share_estimate)
    yield from clean_relative_metrics(OVERALL_PROBE, count_words(main), error_statistic(main))
    for severity in sorted({severity for severities in main.values() for severity in severities}):
        level = {c: (severity,) for c, severities in main.items() if severity in severities}
        yield CellMetric(
            OVERALL_PROBE, f"severity={severity} corruptions={len(level)}", "mean_accuracy", accuracy_statistic(level), share_estimate
        )
    for family, names in FAMILIES.items():
        if has_all_cells(grades, names):
            yield CellMetric(
                OVERALL_PROBE,
                count_words(some := {c: grades[c] for c in names}),
                f"{family}_accuracy",
                accuracy_statistic(some),
                share_estimate,
            )
    if whole and all(c in references for c in FIFTEEN):
        yield from reference_relative_metrics(OVERALL_PROBE, count_words(main), main, "mce", references[FIFTEEN[0]])


def clean_relative_metrics(probe: str, words: str, own: Statistic) -> Iterator[CellMetric]:
    """The accuracy that belongs to an error, and both against the images as they are."""
    yield CellMetric(probe, words, "mean_accuracy", lambda mean: 1 - own(mean), share_estimate)
    yield CellMetric(
        probe, words, "relative_error", lambda mean: own(mean) - clean_error(mean), clean_relative_estimate(difference_estimate)
    )
    yield CellMetric(
        probe,
        words,
        "relative_accuracy",
        lambda mean: quotient(1 - own(mean), 1 - clean_error(mean)),
        clean_relative_estimate(ratio_estimate),
    )


def reference_relative_metrics(probe: str, words: str, grades: Grades, metric: str, reference: Reference) -> Iterator[CellMetric]:
    """The means over corruptions of the errors by the reference's, plain and less the clean errors; and the reference's accuracy."""

    def plain(mean: ColumnMean) -> Floats:
        return average([quotient(error_statistic({c: grades[c]})(mean), mean([(True, c, 0)])) for c in grades])

    def relative(mean: ColumnMean) -> Floats:
        base = clean_error(mean), mean([(True, CLEAN, 0)])
        return average([quotient(error_statistic({c: grades[c]})(mean) - base[0], mean([(True, c, 0)]) - base[1]) for c in grades])

    words = f"{words} {reference.words}"
    yield CellMetric(probe, words, metric, plain, ratio_estimate)
    yield CellMetric(probe, words, f"relative_{metric}", relative, ratio_estimate)
    yield CellMetric(probe, words, "reference_accuracy", reference_accuracy(grades), reference_estimate(reference))


def has_all_cells(grades: Grades, names: Sequence[str]) -> bool:
    """Whether all five severities of all these corruptions were measured."""
    return all(grades.get(name) == SEVERITIES for name in names)


def count_words(grades: Grades) -> str:
    """Words for a setting: over how much a mean goes."""
    return f"corruptions={len(grades)} cells={sum(map(len, grades.values()))}"


def severities_by_corruption(cells: Cells) -> dict[str, tuple[int, ...]]:
    """The severities of each corruption in ascending order; corruptions in the benchmark's order, others after them as they come."""
    names = sorted({name: None for name, _ in cells}, key=lambda name: EVERY_NAME.index(name) if name in EVERY_NAME else len(EVERY_NAME))
    return {name: tuple(sorted(severity for other, severity in cells if other == name)) for name in names}


def error_table(clean: Values, cells: Cells, reference: Reference | None, seed: int) -> ErrorTable:
    """All errors in one table with means of resampled images, the reference's in the same resamples: what is compared stays paired."""
    columns = error_columns(clean, cells)
    n = len(columns[False, CLEAN, 0])
    for corruption, values in ({**reference.errors, CLEAN: reference.clean} if reference else {}).items():
        if len(values) not in (1, n):
            raise InputError(f"a reference that was measured on {len(values)} images cannot be compared with a model measured on {n}")
        columns[True, corruption, 0] = np.broadcast_to(values, n)
    errors = np.stack(list(columns.values()), axis=1)
    return ErrorTable(errors, resampled_means(errors, seed), {key: place for place, key in enumerate(columns)})


def error_columns(clean: Values, cells: Cells) -> dict[Key, Floats]:
    """The errors of each cell, (N,) float64."""
    right_by_key = {(False, CLEAN, 0): clean, **{(False, *cell): right for cell, right in cells.items()}}
    columns = {key: 1 - np.asarray(right, dtype=np.float64).ravel() for key, right in right_by_key.items()}
    n = len(columns[False, CLEAN, 0])
    if not cells or n == 0:
        raise InputError("accuracy under corruptions needs at least one image, and one corruption at one severity")
    for (_, corruption, severity), values in columns.items():
        if len(values) != n:
            raise InputError(
                f"{corruption} at severity {severity} has {len(values)} images and the clean ones are {n}: they must be the same"
            )
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise InputError(f"{corruption} at severity {severity}: an image is right (1) or wrong (0), and some value is neither")
    return columns


def manifest_reference(reference: Reference | None, clean: bool) -> dict[str, Any] | str:
    """What the manifest says of the reference: who it is, and what it gets right itself; "" without one.

    Args:
        reference: the model by whose errors others are divided.
        clean: whether its accuracy on the images as they are is among the results.
    """
    if reference is None:
        return ""
    accuracies = {name: 1 - float(errors.mean()) for name, errors in reference.errors.items()}
    at_all = {"clean_accuracy": 1 - float(reference.clean.mean())} if clean else {}
    return {"name": reference.name, "sha256": reference.sha256, **at_all, "accuracy": accuracies}
