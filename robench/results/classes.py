"""What a verdict is class by class: the accuracy of each class, the worst one, and which class the images were taken for.

Split are the clean accuracy, what stands after all attacks of a cascade at each radius, in each norm and under the worst of several
threats, and the mean accuracy under corruptions. Single attacks and levels of probes are not: there are many of them, and it is the
verdicts that models are ranked by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robench.core.cells import cell_number, cell_whole_number, csv_cells
from robench.core.corruption_names import FIFTEEN
from robench.core.errors import InputError
from robench.core.rows import CLEAN, OVERALL_PROBE, WILSON, IntervalKind, Row
from robench.core.saved_results import text_at
from robench.core.statistics import anytime_valid_interval
from robench.results.cascade import Cascade, cascade_of, places_at_radius, run_cascades, verdict_row, worst_row
from robench.results.corruption_errors import has_all_cells, severities_by_corruption
from robench.results.corruptions import cell_of
from robench.runs.blocks import anytime_interval
from robench.runs.execution import FinishedRun
from robench.runs.types import Case

ALPHA = 0.05  # the chance that an interval does not hold the number
BISECTIONS = 60  # halvings of [0, 1]: a float64 has 53 bits


@dataclass(frozen=True, eq=False)
class Verdict:
    """What one subject got right, image by image, and what became of the others.

    Attributes:
        about: the row whose accuracy is split, its value aside.
        right: (N,) float64, the share of the changed versions of an image that are right: 0 or 1 where there is one version.
        seen: (N,) bool, the images that count.
        y: (N,) labels.
        predicted: (N,) the labels in the end, -1 where one is not known; None where an image has several.
        stops_early: whether the run was stopped when an interval was narrow, so that intervals must hold whenever one stops.
    """

    about: Row
    right: Tensor
    seen: Tensor
    y: Tensor
    predicted: Tensor | None = None
    stops_early: bool = False

    @cached_property
    def counts(self) -> dict[int, tuple[float, int]]:
        """How many images of each class are right, and how many there are, by label; classes without an image are left out."""
        right, n = (torch.bincount(self.y[self.seen], weights=weights) for weights in (self.right[self.seen], None))
        return {label: (round(float(right[label]), 9), int(n[label])) for label in n.nonzero().flatten().tolist()}

    @cached_property
    def chosen_counts(self) -> list[int]:
        """How many images of each label were chosen, those among them that a run which stopped early did not see."""
        return torch.bincount(self.y).tolist()


def all_verdicts(run: FinishedRun, cases: Sequence[Case], suite: str, rows: Sequence[Row]) -> Iterator[Verdict]:
    """The verdicts of a run that are split: clean, under corruptions, after all attacks of each cascade, under the worst threat.

    Args:
        run: a run that has come to its end.
        cases: its subjects.
        suite: the name of the suite, "" where recipes were given.
        rows: the rows of the run, among them the mean accuracies under corruptions, one for each subject.
    """
    overall = [row for row in rows if (row.probe, row.metric) == (OVERALL_PROBE, "mean_accuracy") and "severity=" not in row.setting]
    stages, some = run.stages_of_kind("clean"), run_cascades(run)
    for place, case in enumerate(cases):
        base = replace(case.subject.about, seed=case.seed)
        if stages:
            start = cascade_of(case, run.ledger, stages[:1])
            about = replace(base, norm="", eps=0.0, probe=CLEAN, setting=case.settings.get(stages[0].key, ""))
            own = (row for row in rows if (row.probe, row.metric, row.checkpoint) == (CLEAN, "accuracy", about.checkpoint))
            known = next(own, about)  # under corruptions it has the name of their data set
            yield cascade_verdict(run, start, 0, replace(about, n=start.n, data=known.data, split=known.split))
        if overall:
            yield Verdict(overall[place], mean_right(run, case), run.ledger.seen, run.ledger.y)
        mine = [one for one in some if one.case is case and one.radii()]
        for one in mine:
            for eps in one.radii():
                yield cascade_verdict(run, one, places_at_radius(one, eps)[-1], verdict_row(one, eps, base, suite))
        for about, standing in worst_row(mine, base, suite):
            seen = next(one.seen for one in mine if one.stages[0].kind == "clean")
            yield Verdict(about, standing.double(), seen, run.ledger.y, stops_early=run.interval is not WILSON)


def cascade_verdict(run: FinishedRun, cascade: Cascade, place: int, about: Row) -> Verdict:
    """What stands after a stage of a cascade, and the label that each image had in the end.

    Args:
        run: a run that has come to its end.
        cascade: the attacks in one norm.
        place: of the stage in the cascade.
        about: the row that the classes split.
    """
    pred = cascade.record(0).columns.get("pred", torch.full((cascade.ledger.n,), -1))
    fell = (cascade.breakers > 0) & (cascade.breakers <= place)
    predicted = torch.where(fell, cascade.breaker_column("pred", -1), pred)
    return Verdict(about, cascade.standing(place).double(), cascade.seen, cascade.ledger.y, predicted, run.interval is not WILSON)


def mean_right(run: FinishedRun, case: Case) -> Tensor:
    """The share of right answers of each image under corruptions, (N,): a mean over corruptions of means over severities.

    Over the fifteen of the benchmark where all are there, else over all, as the mean accuracy of all images.
    """
    cells = {
        cell_of(stage): run.ledger.right(case.name, stage).double() for stage in run.stages_of_kind("corruption") if stage.source is None
    }
    grades = severities_by_corruption({cell: right.numpy() for cell, right in cells.items()})
    names = FIFTEEN if has_all_cells(grades, FIFTEEN) else list(grades)
    return torch.stack([torch.stack([cells[name, severity] for severity in grades[name]]).mean(0) for name in names]).mean(0)


# rows


def class_rows(verdict: Verdict) -> Iterator[Row]:
    """The accuracy of each class that has an image, and that of the worst class.

    Args:
        verdict: what is split.
    """
    about = verdict.about
    for label, (right, n) in verdict.counts.items():
        kind = anytime_interval(verdict.chosen_counts[label]) if verdict.stops_early else WILSON
        yield kind.row_with(class_row(about, label, n, "class_accuracy"), right, n)
    if verdict.counts:
        yield worst_class_row(verdict)


def class_row(about: Row, label: int, n: int, metric: str) -> Row:
    """The row of one class, still without its value."""
    return replace(about, n=n, setting=f"{about.setting} class={label}".strip(), metric=metric)


def worst_class_row(verdict: Verdict) -> Row:
    """The lowest accuracy of all classes, of ties that of the lowest label, with an interval that holds although it was chosen by looking.

    The class with the lowest accuracy among a few images is often the unluckiest and not the worst, so that its own interval lies too low.
    The interval here is of min p_k, the lowest of the K true accuracies, whichever class that is. Each class gets an interval [l_k, u_k] at
    the level 1 - 0.05 / K, so that with probability 0.95 at least all of them hold at once (Bonferroni), however the classes depend on each
    other. Then min l_k <= min p_k, and min p_k <= p_j <= u_j for every class j, hence min p_k <= min u_k: the interval is
    [min l_k, min u_k].

    The K intervals are exact ones (Clopper & Pearson), as Wilson's are too narrow for few images and a share near 1: of ten classes with
    six images each, all with the true accuracy 0.99, one has lost an image in 45 of 100 runs, and Wilson's upper end for it is 0.983.
    """
    counts = verdict.counts
    worst = min(counts, key=lambda label: (counts[label][0] / counts[label][1], label))
    alpha, kind = ALPHA / len(counts), "anytime" if verdict.stops_early else "exact"
    ends = [
        anytime_valid_interval(int(right), n, verdict.chosen_counts[label], alpha) if verdict.stops_early else exact_bounds(right, n, alpha)
        for label, (right, n) in counts.items()
    ]
    span = min(low for low, _ in ends), min(high for _, high in ends)
    row = class_row(verdict.about, worst, counts[worst][1], "worst_class_accuracy")
    return IntervalKind(f"{kind}, all classes", lambda *_: span).row_with(row, *counts[worst])


@lru_cache(maxsize=4096)
def exact_bounds(successes: float, n: int, alpha: float) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper & Pearson 1934, Biometrika 26:404): the p under which neither tail is below alpha / 2.

    Args:
        successes: from 0 to n; of a mean over several versions of an image, which need not be whole, the whole numbers around it count.
        n: number of images, at least 1.
        alpha: the chance that the interval does not hold p is at most this, in (0, 1).

    Returns:
        (low, high), which hold the proportion.

    Example:
        >>> [round(end, 4) for end in exact_bounds(8, 10, 0.05)]
        [0.4439, 0.9748]
    """
    return lower_end(math.floor(successes), n, alpha / 2), 1 - lower_end(n - math.ceil(successes), n, alpha / 2)


def lower_end(successes: int, n: int, tail: float) -> float:
    """The p in [0, 1] under which so many successes or more have the probability `tail`; 0 for no success."""
    if successes == 0:
        return 0.0
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(successes, n + 1)
    ways, low, high = logs[n] - logs[k] - logs[n - k], 0.0, 1.0
    for _ in range(BISECTIONS):
        p = (low + high) / 2
        chance = float(np.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p)).sum()) if p < 1 else 1.0
        low, high = (p, high) if chance < tail else (low, p)
    return low


# who was taken for whom


@dataclass(frozen=True)
class Confusion:
    """How many images of one class were given one label: a cell of a confusion matrix that is not 0, a line of confusion.csv.

    Attributes:
        checkpoint: the model, as in `Row`.
        norm: of the threat; "" for the images as they are.
        eps: its radius in pixel units; 0 for the images as they are.
        probe: "clean", the suite, or the last attack, as in `Row`.
        label: the true label.
        predicted: the label that the model gives in the end: that of x_adv where the image fell at this radius or a smaller one, else that
            of the clean image; -1 where it is not known.
        count: of so many images, at least 1.
    """

    checkpoint: str
    norm: str
    eps: float
    probe: str
    label: int
    predicted: int
    count: int


def verdict_confusions(verdict: Verdict) -> list[Confusion]:
    """The cells of the confusion matrix of a verdict that are not 0, by label and predicted label; none where an image has several.

    Args:
        verdict: what is split.
    """
    if verdict.predicted is None:
        return []
    pairs = torch.stack([verdict.y, verdict.predicted], dim=1)[verdict.seen]
    cells, counts = pairs.unique(dim=0, return_counts=True)
    about = verdict.about
    return [
        Confusion(about.checkpoint, about.norm, about.eps, about.probe, label, predicted, count)
        for (label, predicted), count in zip(cells.tolist(), counts.tolist(), strict=True)
    ]


def read_confusions(folder: Path) -> list[Confusion]:
    """The lines of confusion.csv; none where a run has no such file.

    Args:
        folder: the results folder.

    Raises:
        InputError: where it cannot be read as such, or is cut short.
    """
    path = folder / "confusion.csv"
    if not path.exists():
        return []
    text = text_at(path)
    try:
        head, *lines = csv_cells(text)
        return [confusion_of(dict(zip(head, line, strict=True))) for line in lines]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"cannot read {path} ({type(error).__name__}): measure again with --force") from None


def confusion_of(line: Mapping[str, str]) -> Confusion:
    """A line of confusion.csv as what it stands for."""
    whole = (cell_whole_number(line[name]) for name in ("label", "predicted", "count"))
    return Confusion(line["checkpoint"], line["norm"], cell_number(line["eps"]), line["probe"], *whole)
