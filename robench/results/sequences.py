"""The rows and samples of sequences: flip probabilities, distances of the five likeliest labels, their means, and both by a reference's.

The words are those of Hendrycks & Dietterich (1903.12261): the flip probability FP of a perturbation, the flip rate FR = FP / FP of a
reference (AlexNet in the paper), mFR the mean of FR over ten perturbations, T5D and mT5D likewise. A sequence is the unit of intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from robench.core.perturbation_names import LISTS_OF_TEN, SequenceCell
from robench.core.rows import OVERALL_SEQUENCES, Row, with_interval
from robench.core.statistics import Floats
from robench.results.corruption_estimates import (
    ErrorTable,
    Key,
    Statistic,
    average,
    difference_estimate,
    quotient,
    ratio_estimate,
    resampled_means,
    share_estimate,
)
from robench.runs.execution import FinishedRun
from robench.runs.types import Case, Stage


class SequenceMetric(NamedTuple):
    """One of the two numbers of a sequence, with the names of the rows that follow from it.

    Attributes:
        column: of the ledger and of the table of samples.
        mean: its mean over sequences.
        overall: the mean over perturbations.
        rate: the mean by that of the reference.
        overall_rate: the mean of those over ten perturbations.
        reference: the mean of the reference itself.
    """

    column: str
    mean: str
    overall: str
    rate: str
    overall_rate: str
    reference: str


FLIPS = SequenceMetric(
    "flips", "flip_probability", "mean_flip_probability", "flip_rate", "mfr", "reference_flip_probability"
)  # fmt: skip
TOP5 = SequenceMetric(
    "top5_distance", "top5_distance", "mean_top5_distance", "relative_top5_distance", "mt5d", "reference_top5_distance"
)  # fmt: skip
SEQUENCE_METRICS = (FLIPS, TOP5)


def cell_of_sequence(stage: Stage) -> SequenceCell:
    """The perturbation and the difficulty of a stage.

    Args:
        stage: a stage of kind "sequence".
    """
    return str(stage.about["perturbation"]), int(stage.about["difficulty"])


def sequence_rows(run: FinishedRun, case: Case, stages: Sequence[Stage], reference: Case | None = None) -> list[Row]:
    """All rows of one subject on sequences.

    Rows of each perturbation and difficulty (probe = its name):

    * flip_probability: the share of comparisons of frames in which the label changes, a mean over sequences.
    * top5_distance: by how many ranks the five likeliest labels move, summed; only of models with at least five outputs.
    * flip_rate, relative_top5_distance: both divided by those of the reference, which is measured along.
    * reference_flip_probability, reference_top5_distance: those of the reference itself.

    Rows over perturbations (probe = sequences), for each list of ten that is complete (`list=snow` as in the paper, `list=spatter` as in
    the authors' script for CIFAR), else over all that there is (`list=all`): mean_flip_probability, mean_top5_distance, and with a
    reference and a complete list mfr and mt5d, the means of the ratios.

    Args:
        run: the run.
        case: the subject.
        stages: those of kind "sequence", one at least.
        reference: the model by whose numbers others are divided; None without one.
    """
    rows: list[Row] = []
    for metric in SEQUENCE_METRICS:
        columns = sequence_columns_of(run, case, stages, metric, False)
        if not columns:
            continue
        more = sequence_columns_of(run, reference, stages, metric, True) if reference is not None else {}
        rows += list(metric_rows(run, case, stages, metric, table_of_columns({**columns, **more}, case.seed), reference if more else None))
    return sorted(rows, key=lambda row: row.probe == OVERALL_SEQUENCES)  # each perturbation first; sorting is stable


def sequence_columns_of(
    run: FinishedRun, case: Case, stages: Sequence[Stage], metric: SequenceMetric, is_reference: bool
) -> dict[Key, Floats]:
    """What is known of each sequence, by perturbation and difficulty; empty where the model has too few outputs for the metric."""
    seen, columns = run.ledger.seen, dict[Key, Floats]()
    for stage in stages:
        if metric.column not in run.ledger.record(case.name, stage).columns:
            return {}
        values = run.ledger.column(case.name, stage, metric.column, float("nan"))[seen]
        columns[is_reference, *cell_of_sequence(stage)] = values.double().numpy()
    return columns


def table_of_columns(columns: Mapping[Key, Floats], seed: int) -> ErrorTable:
    """Numbers of the same sequences under several perturbations, with the means of sequences drawn with replacement."""
    values = np.stack(list(columns.values()), axis=1)
    return ErrorTable(values, resampled_means(values, seed), {key: place for place, key in enumerate(columns)})


def metric_rows(
    run: FinishedRun, case: Case, stages: Sequence[Stage], metric: SequenceMetric, table: ErrorTable, reference: Case | None
) -> Iterator[Row]:
    """The rows of one of the two numbers."""
    estimate = share_estimate if metric is FLIPS else difference_estimate
    by = f"reference={'_'.join(reference.subject.name.split())}" if reference else ""
    by += f" reference_sha256={reference.subject.sha256[:12]}" if reference and reference.subject.sha256 else ""
    for stage in stages:
        cell = cell_of_sequence(stage)
        words = f"difficulty={cell[1]} {stage.about.get('setting', '')}".strip()
        about = replace(base_row(run, case, stage), probe=cell[0])
        yield with_interval(replace(about, metric=metric.mean, setting=words), *estimate(table, mean_statistic([cell])))
        if reference:
            more = f"{words} {by}"
            ratio = ratio_estimate(table, ratio_statistic([cell]))
            yield with_interval(replace(about, metric=metric.rate, setting=more), *ratio)
            own = estimate(table, mean_statistic([cell], is_reference=True))
            yield with_interval(replace(about, metric=metric.reference, setting=more), *own)
    for words, cells in lists_of_cells([cell_of_sequence(stage) for stage in stages]):
        about = replace(base_row(run, case, stages[0]), probe=OVERALL_SEQUENCES)
        setting = f"{words} {stages[0].about.get('setting', '')}".strip()
        yield with_interval(replace(about, metric=metric.overall, setting=setting), *estimate(table, mean_statistic(cells)))
        if reference and "list=all" not in words.split():
            ratios = ratio_estimate(table, ratio_statistic(cells))
            yield with_interval(replace(about, metric=metric.overall_rate, setting=f"{setting} {by}"), *ratios)


def base_row(run: FinishedRun, case: Case, stage: Stage) -> Row:
    """The columns that all rows of a subject on a set share."""
    own = case.subject.about
    data, split = str(stage.about.get("data", own.data)), str(stage.about.get("split", own.split))
    return replace(own, seed=case.seed, norm="", eps=0.0, data=data, split=split, n=int(run.ledger.seen.sum()))


def lists_of_cells(cells: Sequence[SequenceCell]) -> Iterator[tuple[str, list[SequenceCell]]]:
    """The lists over which means go, with the words of their settings: the complete lists of ten, else all, at each difficulty."""
    for difficulty in dict.fromkeys(difficulty for _, difficulty in cells):
        there = [name for name, its in cells if its == difficulty]
        complete = {word: names for word, names in LISTS_OF_TEN.items() if {*names} <= {*there}}
        for word, names in (complete or {"all": tuple(there)}).items():
            yield f"difficulty={difficulty} perturbations={len(names)} list={word}", [(name, difficulty) for name in names]


def mean_statistic(cells: Sequence[SequenceCell], is_reference: bool = False) -> Statistic:
    """The mean over perturbations of the mean over sequences."""
    return lambda mean: average([mean([(is_reference, *cell)]) for cell in cells])


def ratio_statistic(cells: Sequence[SequenceCell]) -> Statistic:
    """The mean over perturbations of the mean over sequences by that of the reference."""
    return lambda mean: average([quotient(mean([(False, *cell)]), mean([(True, *cell)])) for cell in cells])


def steady_reference_note(rows: Sequence[Row]) -> list[str]:
    """A sentence on the perturbations that have no ratio, for the label of the reference never changes there; none where there are none.

    Args:
        rows: of a run.
    """
    rates = [row for row in rows if row.metric == FLIPS.rate and math.isnan(row.value)]
    names = ", ".join(dict.fromkeys(row.probe for row in rates))
    return (
        [f"there is no flip_rate of {names}, and no mfr over it: the label that the reference gives never changes there"] if rates else []
    )


def sequence_samples(run: FinishedRun, cases: Sequence[Case], stages: Sequence[Stage]) -> dict[str, list[Any]]:
    """The per-sequence table as columns: a line for each subject, perturbation and sequence.

    Args:
        run: the run.
        cases: the subjects that are reported.
        stages: those of kind "sequence".
    """
    ledger, seen = run.ledger, run.ledger.seen
    names = ("checkpoint", "probe", "difficulty", "sample", "label", "first_pred", "flips", "top5_distance")
    table: dict[str, list[Any]] = {name: [] for name in names}
    n, ids = int(seen.sum()), run.pool.ids[seen].tolist()
    for case in cases:
        for stage in stages:
            probe, difficulty = cell_of_sequence(stage)
            values = (
                [case.subject.name] * n, [probe] * n, [difficulty] * n, ids, stage.about["labels"][seen].tolist(),
                *(ledger.column(case.name, stage, name, blank)[seen].tolist() for name, blank in (("first_pred", -1), ("flips", 0.0))),
                ledger.column(case.name, stage, "top5_distance", float("nan"))[seen].tolist(),
            )  # fmt: skip
            for name, column in zip(names, values, strict=True):
                table[name] += column
    return table
