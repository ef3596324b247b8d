"""Runs of the same measurement over time: which belong together, and their history as charts and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.core.recipes import eps_text
from robench.core.rows import WORST_NORM, Row
from robench.core.saved_results import manifest_value
from robench.report import page
from robench.report.board_parts import interval_words, number_words
from robench.report.charts import AxisMarks, ChartLine, ChartPoint, line_chart
from robench.report.run_list import is_percentage
from robench.results.columns import Column, column_of_row, column_titles, default_columns
from robench.results.image_values import images_digest
from robench.results.saved_runs import SavedRun

MOST_NAMED = 6  # probes, and threats, in a heading
AT = " at "  # between what was measured and under which threats
SHOWN_VERSIONS = ("robench", "torch", "pyautoattack")
Failures = Mapping[tuple[Path, str], Sequence["FallenGate"]]  # (folder, model) -> what failed there


@dataclass(frozen=True)
class FallenGate:
    """A gate that fell: the number that it is about, None of a flag, and the sentence of the gate."""

    column: Column | None
    sentence: str


@dataclass(frozen=True, eq=False)
class Nights:
    """The same model name, measured in the same way on the same images, again and again.

    Attributes:
        checkpoint: the name of the model.
        what: the suite or the recipes, and the threat.
        images: data set, split and n.
        runs: in order of their end, two at least.
    """

    checkpoint: str
    what: str
    images: str
    runs: tuple[SavedRun, ...]


def nights_of(runs: Sequence[SavedRun]) -> list[Nights]:
    """The runs that belong together: of one model name, data set, images and suite; those that are alone are left out.

    Args:
        runs: finished runs.
    """
    groups: dict[tuple[Any, ...], list[SavedRun]] = {}
    for run in sorted(runs, key=lambda run: (run.finished, str(run.folder))):
        for name in run.checkpoints:
            rows = [row for row in run.rows if row.checkpoint == name]
            images = f"{rows[0].data} {rows[0].split}, n = {manifest_value(run.manifest, 'data.n') or max(row.n for row in rows)}"
            groups.setdefault((name, measurement_words(run, rows), images, images_digest(run.manifest)), []).append(run)
    return [Nights(name, what, images, tuple(some)) for (name, what, images, _), some in groups.items() if len(some) > 1]


def measurement_words(run: SavedRun, rows: Sequence[Row]) -> str:
    """What was measured, by which nights are told from others: the suite or the probes, and the threats."""
    suite = manifest_value(run.manifest, "words.suite")
    probes = dict.fromkeys(row.probe for row in rows if not row.metric.startswith(("flag/", "check/")))
    threats = dict.fromkeys(f"{row.norm} {eps_text(row.eps)}" for row in rows if row.norm not in ("", WORST_NORM))
    measured = suite if isinstance(suite, str) and suite else ", ".join(probes)
    return f"{measured}{AT}{', '.join(threats)}" if threats else measured


def history_parts(nights: Sequence[Nights], failures: Failures) -> Iterator[page.Part]:
    """The history of each measurement that was made more than once.

    Args:
        nights: what `nights_of` gives.
        failures: what failed in which run.
    """
    if not nights:
        return
    yield page.Heading("History")
    yield page.Paragraph(
        "The same model name measured in the same way on the same images, night by night, with 95 % intervals. Upright lines are new "
        "versions."
    )
    for some in nights:
        yield page.Heading(f"{some.checkpoint}: {history_words(some.what)} on {some.images}", 3)
        columns = default_columns([of_model(run, some.checkpoint) for run in some.runs])
        columns = [column for column in columns if sum(row_of(run, some.checkpoint, column) is not None for run in some.runs) > 1]
        for column, title in zip(columns, column_titles(columns), strict=True):
            yield history_chart(some, column, title, failures)
        yield page.Folded(f"The numbers of {len(some.runs)} nights", [history_table(some, columns, failures)])


def history_words(what: str) -> str:
    """What `measurement_words` gives, with the first probes and the first threats, where these are many, and how many more there are."""
    measured, at, threats = what.partition(AT)
    return first_words(measured, "probes") + at + first_words(threats, "threats")


def first_words(names: str, kind: str) -> str:
    """A list with its first ones and the number of the others, where it is long."""
    words = names.split(", ")
    return names if len(words) <= MOST_NAMED else f"{', '.join(words[:3])} and {len(words) - 3} more {kind}"


def of_model(run: SavedRun, checkpoint: str) -> list[Row]:
    """The rows of one model."""
    return [row for row in run.rows if row.checkpoint == checkpoint]


def row_of(run: SavedRun, checkpoint: str, column: Column) -> Row | None:
    """The number of a model in a column; None where the run has none."""
    fitting = (row for row in run.rows if row.checkpoint == checkpoint and row.probe == column.probe and row.metric == column.metric)
    return next((row for row in fitting if column_of_row(row) == column), None)


def history_chart(nights: Nights, column: Column, title: str, failures: Failures) -> page.Chart:
    """One number over the nights."""
    share = is_percentage(column.metric)
    scale = 100 if share else 1
    points = []
    for place, run in enumerate(nights.runs):
        row = row_of(run, nights.checkpoint, column)
        if row is None:
            continue
        fallen = failures.get((run.folder, nights.checkpoint), ())
        told = [one.sentence for one in fallen if one.column in (None, column)]
        interval = interval_words(column.metric, row.low, row.high)
        words = f"{run.finished[:16]} {run.folder.name}: {number_words(column.metric, row.value)}" + (f" ({interval})" if interval else "")
        points.append(ChartPoint(place, scale * row.value, scale * row.low, scale * row.high, ". ".join([words, *told]), failed=bool(told)))
    values = [point.value for point in points if math.isfinite(point.value)]
    unit = " %" if share else ""
    said = f"{len(values)} nights from {nights.runs[0].finished[:10]} to {nights.runs[-1].finished[:10]}"
    if values:
        said += f": {values[0]:.4g}{unit} in the first, {values[-1]:.4g}{unit} in the last, {min(values):.4g} to {max(values):.4g}"
    failed = sum(point.failed for point in points)
    marks = AxisMarks([*enumerate(night_labels(nights.runs))], version_events(nights))
    return line_chart(
        title, f"{said}; a gate failed in {failed} of them.", [ChartLine(title, points)], marks, unit="%" if share else "",
    )  # fmt: skip


def night_labels(runs: Sequence[SavedRun]) -> list[str]:
    """What tells nights from each other under the axis: their day, or day and time where some share a day, or the names of their folders.

    Args:
        runs: the nights, in order of their end.
    """
    days = [run.finished[5:10] for run in runs]
    times = [run.finished[5:16].replace("T", " ") for run in runs]
    kinds = (days, times, [run.folder.name for run in runs])
    told = next((labels for labels in kinds if all(labels) and len({*labels}) == len(labels)), None)
    return told or [f"{day} {place + 1}".strip() for place, day in enumerate(days)]


def version_events(nights: Nights) -> dict[float, str]:
    """Where versions changed from one night to the next, and to which; those of the first night at its place."""
    events: dict[float, str] = {}
    before: Mapping[str, str] = {}
    for place, run in enumerate(nights.runs):
        now = shown_versions(run)
        new = {name: version for name, version in now.items() if before.get(name) != version}
        if new and not before:
            events[float(place)] = next(f"{name} {version}" for name, version in new.items())
        elif new:
            events[float(place)] = ", ".join(f"{name} {version}" for name, version in new.items())
        before = now
    return events


def shown_versions(run: SavedRun) -> dict[str, str]:
    """The versions that numbers may depend on."""
    versions = run.manifest.get("versions")
    known = versions if isinstance(versions, Mapping) else {}
    return {name: str(known[name]) for name in SHOWN_VERSIONS if known.get(name, "absent") != "absent"}


def history_table(nights: Nights, columns: Sequence[Column], failures: Failures) -> page.DataTable:
    """The numbers of each night, the newest first, with versions, weights and what failed."""
    titles = [
        f"{title} %" if is_percentage(column.metric) else title for column, title in zip(columns, column_titles(columns), strict=True)
    ]
    lines = []
    for run in reversed(nights.runs):
        rows = [row_of(run, nights.checkpoint, column) for column in columns]
        cells = [
            None if row is None
            else page.TableCell(number_words(row.metric, row.value), row.value, interval_words(row.metric, row.low, row.high))
            for row in rows
        ]  # fmt: skip
        versions = ", ".join(f"{name} {version}" for name, version in shown_versions(run).items())
        told = " ".join(one.sentence for one in failures.get((run.folder, nights.checkpoint), ()))
        lines.append(
            (
                run.finished[:16].replace("T", " ") or None,
                *cells,
                told or None,
                weights_of(run, nights.checkpoint),
                versions,
                run.folder.name,
            )
        )
    return page.DataTable(("finished", *titles, "gates that failed", "weights", "versions", "run"), lines)


def weights_of(run: SavedRun, checkpoint: str) -> str | None:
    """The beginning of the hash of a model's weights."""
    said = run.manifest.get("checkpoint")
    each = said if isinstance(said, list) else [said]
    digest = next((one.get("sha256") for one in each if isinstance(one, Mapping) and one.get("name") == checkpoint), None)
    return str(digest)[:8] if digest else None
