"""From the scores of an audit to rows: how they are spread, how they go with the margin, and with what attacks did to the same images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from robench.altered import Altered
from robench.auditing import CLEAN, JACOBIAN, Audit, Scored
from robench.rows import WILSON, Row, with_interval
from robench.statistics import bootstrap_mean, difference_of_means, spearman, superiority

Values = NDArray[np.float64]
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}


def rows_of(audit: Audit) -> list[Row]:
    """Every row of an audit: the clean accuracy, each method's scores on each kind of images, then what joins them with attacks."""
    right = (audit.pred == audit.y).numpy()
    rows = [WILSON.around(replace(audit.about, probe=CLEAN, setting="", metric="accuracy"), int(right.sum()), len(right))]
    for some in audit.scored:
        rows += described(audit, some, right)
    for some in audit.scored:
        rows += joined(audit, some, right)
    return rows


def described(audit: Audit, some: Scored, right: NDArray[np.bool_]) -> Iterator[Row]:
    """Mean, spread and quantiles of each score, the mean over the images that are classified right, and how many maps were left out."""
    about = under(audit, some)
    for name, tensor in some.values.items():
        values, words = tensor.numpy(), some.options.get(name, "")
        own = replace(about, setting=f"{some.setting} score:{words}") if words else about
        yield from summary(own, name, values)
        yield centre(own, f"{name}/right", values[right[some.places.numpy()]])
    counts = () if some.method == JACOBIAN else (("zero_maps", int(some.zero.sum())), ("nonfinite_maps", int(some.bad.sum())))
    for metric, value in (*counts, ("seconds", some.seconds)):
        yield replace(about, n=len(some.places), metric=metric, value=float(value))


def under(audit: Audit, some: Scored) -> Row:
    """The columns that the rows of a method on one kind of images share: for adversarial images with the threat of their attack."""
    change = next((change for change in audit.altered if change.name == some.images), None)
    about = replace(audit.about, probe=some.method, setting=some.setting)
    return about if change is None else replace(about, norm=change.norm, eps=change.eps)


def summary(about: Row, name: str, values: Values) -> Iterator[Row]:
    """The rows of one score: mean with its interval, standard deviation and quantiles over the images for which it is defined."""
    values = values[np.isfinite(values)]
    yield centre(about, name, values)
    if len(values):
        yield replace(about, n=len(values), metric=f"{name}/sd", value=float(values.std(ddof=1)) if len(values) > 1 else math.nan)
        for level, value in zip(QUANTILES, np.quantile(values, list(QUANTILES.values())), strict=True):
            yield replace(about, n=len(values), metric=f"{name}/{level}", value=float(value))


def centre(about: Row, metric: str, values: Values) -> Row:
    """The mean of the finite values with its bootstrap interval; nan where there are none."""
    values = values[np.isfinite(values)]
    value = float(values.mean()) if len(values) else math.nan
    return with_interval(replace(about, n=len(values), metric=metric), value, *bootstrap_mean(values, about.seed), "bootstrap")


def joined(audit: Audit, some: Scored, right: NDArray[np.bool_]) -> Iterator[Row]:
    """How a method's scores on the clean images go with the margin and with who falls, and how they differ on the changed images."""
    about = under(audit, some)
    if some.images != CLEAN:
        clean = next(other for other in audit.scored if other.method == some.method and other.images == CLEAN)
        for name, values in some.values.items():
            shift = values.numpy() - clean.values[name].numpy()[some.places.numpy()]
            yield centre(about, f"{name}/shift", shift)
        return
    for name, values in some.values.items():
        yield with_margin(about, name, values.numpy()[right], audit.margin.numpy()[right])
        for change in audit.altered:
            words = f"{some.setting} against={change.name}".strip()
            yield from by_fate(replace(about, setting=words, norm=change.norm, eps=change.eps), name, values.numpy(), change)


def with_margin(about: Row, name: str, values: Values, margins: Values) -> Row:
    """Spearman's correlation of a score with the clean margin, over the images that are classified right."""
    n = int(np.isfinite(values).sum())
    return with_interval(replace(about, n=n, metric=f"{name}/margin_correlation"), *spearman(values, margins), "fisher")


def by_fate(about: Row, name: str, values: Values, change: Altered) -> Iterator[Row]:
    """A score of the clean images that fall against that of those that stand, among the images that were tried."""
    fell, tried = change.fallen.numpy(), change.tried.numpy()
    fallen, standing = values[fell & tried & np.isfinite(values)], values[~fell & tried & np.isfinite(values)]
    yield centre(about, f"{name}/fallen", fallen)
    yield centre(about, f"{name}/standing", standing)
    if len(fallen) and len(standing):
        both = replace(about, n=len(fallen) + len(standing))
        difference = difference_of_means(fallen, standing, about.seed)
        yield with_interval(replace(both, metric=f"{name}/difference"), *difference, "bootstrap")
        yield replace(both, metric=f"{name}/superiority", value=superiority(fallen, standing))


def found(rows: Sequence[Row], checkpoint: str, probe: str, metric: str, images: str = CLEAN, against: str = "") -> Row | None:
    """The row of one measurement, if it was made."""
    for row in rows:
        words = dict(word.partition("=")[::2] for word in row.setting.split())
        same = (row.checkpoint, row.probe, row.metric, words.get("against", "")) == (checkpoint, probe, metric, against)
        if same and words.get("images", CLEAN) == images:
            return row
    return None
