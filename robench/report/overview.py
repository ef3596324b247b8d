"""The page of several runs: what is new, the leaderboard, the history of nights, curves over the radius, corruptions, and every run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from robench.core.recipes import eps_text
from robench.core.rows import CLEAN, WORST_NORM, Row
from robench.report import page
from robench.report.board_parts import corruption_parts, interval_words, leaderboard_parts, number_words
from robench.report.charts import LINE_KINDS, AxisMarks, ChartLine, ChartPoint, line_chart
from robench.report.leaderboard import BoardLine, leaderboards_of
from robench.report.night_verdicts import night_verdicts
from robench.report.nights import Failures, Nights, history_parts, nights_of
from robench.report.run_list import finished_summary
from robench.results.columns import verdict_rows_of
from robench.results.saved_runs import SavedRun

MOST_FLAGS = 12  # sentences of flags that are shown, those of the newest runs
PublishedLines = Sequence[tuple[str, BoardLine]]


def overview_parts(
    runs: Sequence[SavedRun], columns: Sequence[str], published: PublishedLines, gates: Sequence[str], alpha: float,
    compared: Sequence[page.Part],
) -> Iterator[page.Part]:  # fmt: skip
    """What the page of several runs shows.

    Args:
        runs: finished runs, the newest last.
        columns: of the leaderboard, as `report.leaderboard.leaderboards_of` reads them.
        published: the data set and the line of each published model.
        gates: what may not happen from night to night, as `report.night_verdicts.night_verdicts` reads them.
        alpha: of the gates of each measurement, in (0, 1].
        compared: what is shown of a comparison of the newest run with an earlier one.
    """
    nights = nights_of(runs)
    judged = night_verdicts(nights, gates, alpha)
    failures = judged.failures
    yield overview_verdict(runs, nights, failures)
    flagged = [(run, flag) for run in reversed(runs) for flag in run.flags]
    yield from (page.NoteBox(f"{run.folder.name}: {flag}", flag=True) for run, flag in flagged[:MOST_FLAGS])
    if len(flagged) > MOST_FLAGS:
        yield page.NoteBox(f"{len(flagged) - MOST_FLAGS} flags of older runs are not shown: the last table counts them.", flag=True)
    yield from compared
    yield from leaderboard_parts(leaderboards_of(runs, columns, published))
    yield from history_parts(nights, failures)
    yield from (page.NoteBox(note) for note in judged.notes)
    yield from radius_parts(runs)
    yield from corruption_parts(runs)
    yield page.Heading("All runs")
    yield runs_table(runs)


def overview_verdict(runs: Sequence[SavedRun], nights: Sequence[Nights], failures: Failures) -> page.VerdictBox:
    """How many runs there are, what the newest one found, and whether a gate failed in the last nights."""
    names = {name for run in runs for name in run.checkpoints}
    days = sorted(run.finished[:10] for run in runs if run.finished)
    span = f", from {days[0]} to {days[-1]}" if days and days[0] != days[-1] else f", of {days[0]}" if days else ""
    newest = finished_summary(runs[-1])
    told = "; ".join(f"{name} {verdict}" for name, verdict in zip(newest.models[:3], newest.verdicts, strict=False))
    counted = f"{len(runs)} run{'s' * (len(runs) != 1)} of {len(names)} model{'s' * (len(names) != 1)}"
    newest_told = f"The newest, {runs[-1].folder.name}: {told}."
    last = [(some, failures.get((some.runs[-1].folder, some.checkpoint), ())) for some in nights]
    fallen = [f"{some.checkpoint} in {some.runs[-1].folder.name}: {one.sentence}." for some, gates in last for one in gates]
    if fallen:
        gates_told = "In the last night a gate failed." if len(fallen) == 1 else f"In the last night {len(fallen)} gates failed."
    elif nights and failures:
        latest = max((run.finished, run.folder.name) for some in nights for run in some.runs if (run.folder, some.checkpoint) in failures)
        gates_told = f"No gate failed in the last night; the latest that did was in {latest[1]}, {latest[0][:10]}."
    else:
        gates_told = "No gate failed from one night to the next." if nights else ""
    flags = sum(bool(run.flags) for run in runs)
    flags_told = [f"{flags} run{'s' * (flags != 1)} raised flags."] if flags else []
    state = "bad" if fallen else "unsure" if runs[-1].flags else "plain"
    if not gates_told:
        return page.VerdictBox(f"{counted}{span}.", state, [newest_told, *flags_told])
    return page.VerdictBox(gates_told, state, [*fallen, f"{counted}{span}. {newest_told}", *flags_told])


def runs_table(runs: Sequence[SavedRun]) -> page.DataTable:
    """What each run was and found, the newest first."""
    lines = [run_line(run) for run in reversed(runs)]
    return page.DataTable(("run", "finished", "verdict", "flags", "models", "data", "images", "command", "folder"), lines, name="runs")


def run_line(run: SavedRun) -> tuple[page.CellValue, ...]:
    """The line of one run."""
    told = finished_summary(run)
    verdict = "; ".join(told.verdicts) if len(told.models) < 2 else f"{len(told.models)} models"
    when, models = told.when[:16].replace("T", " "), ", ".join(told.models)
    return run.folder.name, when, verdict, told.flags, models, told.data, told.n, told.command, str(run.folder)


def radius_parts(runs: Sequence[SavedRun]) -> Iterator[page.Part]:
    """The robust accuracy over the radius, a chart for each data set and norm with a line for each model that has several radii.

    Args:
        runs: finished runs, the newest last; of one model the newest counts.
    """
    curves: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for run in runs:
        for name in run.checkpoints:
            rows = [row for row in run.rows if row.checkpoint == name]
            last = [row for row in verdict_rows_of(rows) if row.norm != WORST_NORM]
            for norm in dict.fromkeys(row.norm for row in last):
                mine = [row for row in last if row.norm == norm]
                clean = [row for row in rows if row.probe == CLEAN and row.metric == "accuracy"][:1]
                if len({row.eps for row in mine}) > 1:
                    label = f"{name}, n = {mine[0].n}"
                    curves.setdefault((f"{mine[0].data} {mine[0].split}", norm), {})[label] = sorted(
                        [*clean, *mine], key=lambda row: row.eps
                    )
    if curves:
        yield page.Heading("Accuracy over the radius")
        yield page.Paragraph("What is left after all attacks at each radius, with 95 % intervals; at 0 stand the images as they are.")
    for (images, norm), lines in curves.items():
        yield radius_chart(images, norm, lines)


def radius_chart(images: str, norm: str, lines: dict[str, list[Row]]) -> page.Chart:
    """The curves of one data set and norm; of many models those with the highest accuracy at the largest radius."""
    kept = sorted(lines, key=lambda label: lines[label][-1].value, reverse=True)[:LINE_KINDS]
    drawn = [ChartLine(label, [radius_point(row) for row in lines[label]], place) for place, label in enumerate(kept)]
    radii = sorted({row.eps if row.norm else 0.0 for label in kept for row in lines[label]})
    words = "; ".join(
        f"{label}: " + ", ".join(f"{100 * row.value:.1f} % at {eps_text(row.eps) if row.norm else 0}" for row in lines[label])
        for label in kept
    )
    rest = f"The {LINE_KINDS} best of {len(lines)} models." if len(lines) > LINE_KINDS else ""
    marks = AxisMarks([(radius, eps_text(radius) if radius else "0") for radius in radii], title=f"{norm} radius")
    return line_chart(f"{images}, {norm}", f"Robust accuracy over the radius. {words}.", drawn, marks, unit="%", caption=rest)


def radius_point(row: Row) -> ChartPoint:
    """A point of a curve over the radius."""
    radius = row.eps if row.norm else 0.0
    ends = (100 * row.low, 100 * row.high) if not math.isnan(row.low) else (math.nan, math.nan)
    words = f"{row.checkpoint} at {eps_text(radius) if radius else 0}: {number_words(row.metric, row.value)} % "
    return ChartPoint(radius, 100 * row.value, *ends, f"{words}({interval_words(row.metric, row.low, row.high)})")
