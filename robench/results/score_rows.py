"""From the scores of maps to rows and the per-sample table: spread, correlation with the margin, and who falls on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robench.core.rows import CLEAN, WILSON, Row, setting_dict, with_interval
from robench.core.statistics import bootstrap_interval, difference_of_means, spearman, superiority
from robench.results.scores import ImageChange, MethodScores, SubjectScores
from robench.runs.stages.method import JACOBIAN

ScoreValues = NDArray[np.float64]
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}


def layers_of(subjects: Sequence[SubjectScores]) -> dict[str, dict[str, str]]:
    """The layer that each method looked at, by model and method; only those that look at one.

    Args:
        subjects: what `all_subject_scores` gives.
    """
    layers: dict[str, dict[str, str]] = {}
    for subject in subjects:
        for some in subject.methods:
            layer = setting_dict(some.setting).get("layer")
            if layer:
                layers.setdefault(subject.about.checkpoint, {})[some.method] = layer
    return layers


def score_columns(subjects: Sequence[SubjectScores]) -> dict[str, list[Any]]:
    """The per-sample table of several subjects as columns: a line for each model, method, kind of images and image; "" where undefined."""
    scores = list(dict.fromkeys(name for subject in subjects for some in subject.methods for name in some.values))
    changes = list(dict.fromkeys(change.name for subject in subjects for change in subject.changes))
    names = ["checkpoint", "method", "images", "sample", "label", "clean_pred", "target", "clean_margin", "zero_map"]
    table: dict[str, list[Any]] = {name: [] for name in [*names, *scores, *(f"fallen_{name}" for name in changes)]}
    for subject in subjects:
        for some in subject.methods:
            add_score_lines(table, subject, some, scores, changes)
    return table


def add_score_lines(
    table: dict[str, list[Any]], subject: SubjectScores, some: MethodScores, scores: Sequence[str], changes: Sequence[str]
) -> None:
    """Adds the lines of one method on one kind of images to the table."""
    places, n = some.places, len(some.places)
    table["checkpoint"] += [subject.about.checkpoint] * n
    table["method"] += [some.method] * n
    table["images"] += [some.images] * n
    for name, values in (("sample", subject.ids), ("label", subject.y), ("clean_pred", subject.pred), ("clean_margin", subject.margin)):
        table[name] += values[places].tolist()
    table["target"] += some.target.tolist()
    table["zero_map"] += some.zero.long().tolist()
    for name in scores:
        table[name] += some.values[name].tolist() if name in some.values else [None] * n
    fallen = {change.name: change for change in subject.changes}
    for name in changes:
        table[f"fallen_{name}"] += fallen[name].words(places) if name in fallen else [None] * n


def subject_score_rows(subject: SubjectScores) -> list[Row]:
    """The rows of one subject: the clean accuracy, each method's scores on each kind of images, then what joins them with attacks."""
    right = ((subject.pred == subject.y) & subject.seen).numpy()
    rows = [WILSON.row_with(replace(subject.about, probe=CLEAN, setting="", metric="accuracy"), int(right.sum()), subject.about.n)]
    for some in subject.methods:
        rows += method_score_rows(subject, some, right)
    for some in subject.methods:
        rows += association_rows(subject, some, right)
    return rows


def method_score_rows(subject: SubjectScores, some: MethodScores, right: NDArray[np.bool_]) -> Iterator[Row]:
    """Mean, spread and quantiles of each score, the mean over the images that are classified right, and how many maps were left out."""
    about = method_base_row(subject, some)
    for name, tensor in some.values.items():
        values, words = tensor.numpy(), some.options.get(name, "")
        own = replace(about, setting=f"{some.setting} score:{words}") if words else about
        yield from score_rows(own, name, values)
        yield mean_row(own, f"{name}/right", values[right[some.places.numpy()]])
    counts = () if some.method == JACOBIAN else (("zero_maps", int(some.zero.sum())), ("nonfinite_maps", int(some.bad.sum())))
    for metric, value in (*counts, ("seconds", some.seconds)):
        yield replace(about, n=len(some.places), metric=metric, value=float(value))


def method_base_row(subject: SubjectScores, some: MethodScores) -> Row:
    """The columns that the rows of a method on one kind of images share: for adversarial images with the threat of their attack."""
    return replace(subject.about, probe=some.method, setting=some.setting, norm=some.norm, eps=some.eps)


def score_rows(about: Row, name: str, values: ScoreValues) -> Iterator[Row]:
    """The rows of one score: mean with its interval, standard deviation and quantiles over the images for which it is defined."""
    values = values[np.isfinite(values)]
    yield mean_row(about, name, values)
    if len(values):
        yield replace(about, n=len(values), metric=f"{name}/sd", value=float(values.std(ddof=1)) if len(values) > 1 else math.nan)
        for level, value in zip(QUANTILES, np.quantile(values, list(QUANTILES.values())), strict=True):
            yield replace(about, n=len(values), metric=f"{name}/{level}", value=float(value))


def mean_row(about: Row, metric: str, values: ScoreValues) -> Row:
    """The mean of the finite values with its bootstrap interval; nan where there are none."""
    values = values[np.isfinite(values)]
    value = float(values.mean()) if len(values) else math.nan
    return with_interval(replace(about, n=len(values), metric=metric), value, *bootstrap_interval(values, about.seed), "bootstrap")


def association_rows(subject: SubjectScores, some: MethodScores, right: NDArray[np.bool_]) -> Iterator[Row]:
    """How a method's scores on the clean images go with the margin and with who falls, and how they differ on the changed images."""
    about = method_base_row(subject, some)
    if some.images != CLEAN:
        clean = [other for other in subject.methods if other.method == some.method and other.images == CLEAN]
        for name, values in some.values.items() if clean else ():
            yield mean_row(about, f"{name}/shift", values.numpy() - score_values_at(clean[0], name, some.places))
        return
    for name, values in some.values.items():
        mine = right[some.places.numpy()]
        yield margin_correlation_row(about, name, values.numpy()[mine], subject.margin.numpy()[some.places.numpy()][mine])
        for change in subject.changes:
            words = f"{some.setting} against={change.name}".strip()
            yield from fallen_standing_rows(
                replace(about, setting=words, norm=change.norm, eps=change.eps), name, values.numpy(), change, some.places
            )


def margin_correlation_row(about: Row, name: str, values: ScoreValues, margins: ScoreValues) -> Row:
    """Spearman's correlation of a score with the clean margin, over the images that are classified right."""
    n = int(np.isfinite(values).sum())
    return with_interval(replace(about, n=n, metric=f"{name}/margin_correlation"), *spearman(values, margins), "fisher")


def score_values_at(some: MethodScores, name: str, places: Tensor) -> ScoreValues:
    """The values of a score at some places of the pool."""
    everywhere: ScoreValues = np.full(int(max(some.places.max(), places.max())) + 1, math.nan)
    everywhere[some.places.numpy()] = some.values[name].numpy()
    values: ScoreValues = everywhere[places.numpy()]
    return values


def fallen_standing_rows(about: Row, name: str, values: ScoreValues, change: ImageChange, places: Tensor) -> Iterator[Row]:
    """A score of the clean images that fall against that of those that stand, among the images that were tried."""
    fell, tried = change.fallen[places].numpy(), change.tried[places].numpy()
    fallen, standing = values[fell & tried & np.isfinite(values)], values[~fell & tried & np.isfinite(values)]
    yield mean_row(about, f"{name}/fallen", fallen)
    yield mean_row(about, f"{name}/standing", standing)
    if len(fallen) and len(standing):
        both = replace(about, n=len(fallen) + len(standing))
        difference = difference_of_means(fallen, standing, about.seed)
        yield with_interval(replace(both, metric=f"{name}/difference"), *difference, "bootstrap")
        yield replace(both, metric=f"{name}/superiority", value=superiority(fallen, standing))


def matching_row(rows: Sequence[Row], checkpoint: str, probe: str, metric: str, images: str = CLEAN, against: str = "") -> Row | None:
    """The row of one measurement, if it was made."""
    for row in rows:
        words = setting_dict(row.setting)
        same = (row.checkpoint, row.probe, row.metric, words.get("against", "")) == (checkpoint, probe, metric, against)
        if same and words.get("images", CLEAN) == images:
            return row
    return None
