"""The leaderboard: models x columns, each number with its interval, its images and the run that it came from; ties are marked.

Numbers of different data sets, probes, threats and settings stand in different columns (`results.columns`), models that were measured on
other images or with another seed in different lines, and every number carries its n.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.core.recipes import did_you_mean
from robench.core.rows import Row
from robench.core.saved_results import manifest_value
from robench.report.metric_meanings import metric_meaning
from robench.results.columns import (
    Column,
    base_data,
    column_of_row,
    column_requests,
    column_titles,
    default_columns,
    requested_columns,
)
from robench.results.saved_runs import SavedRun
from robench.scores.facts import HIGHER, LOWER

USUAL_HOW = {"engine": "robench", "precision": "fp32", "until": None}  # what a manifest says of a run that was done as usual


@dataclass(frozen=True)
class Cell:
    """One number of one model.

    Attributes:
        value: a fraction, or a score.
        low: lower end of its 95 % interval, nan where there is none.
        high: its upper end.
        n: number of images.
        interval: how it was found, as in `Row`.
        folder: the results folder that it came from; None for a published one.
        tied: whether it is the best of its column, or its interval overlaps with that of the best.
    """

    value: float
    low: float
    high: float
    n: int
    interval: str = ""
    folder: Path | None = None
    tied: bool = False


@dataclass(frozen=True, eq=False)
class BoardLine:
    """One line: a model on the same images, with the same seed.

    Attributes:
        name: of the model.
        sha256: of its weights; "" where it is not known.
        split: of the images.
        n: how many images were chosen.
        images: their digest, "" where it is not known.
        seed: of all draws; None for a published one.
        how: what was done otherwise than usual, such as "engine reference".
        training: what the checkpoint says of its training: "recipe" and "seed" among it; {} where it is not known.
        cells: the numbers by column.
        folders: the results folders they came from, the newest last.
        finished: when the newest ended; "" for a published one.
        published: where its numbers were published, such as "RobustBench"; "" for the user's own.
        remark: what one should know of it, a sentence; "" for nothing.
        flags: sentences of the flags that its runs raised.
    """

    name: str
    sha256: str
    split: str
    n: int
    images: str
    seed: int | None
    how: str
    training: Mapping[str, Any]
    cells: Mapping[Column, Cell]
    folders: tuple[Path, ...] = ()
    finished: str = ""
    published: str = ""
    remark: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """The models of one data set.

    Attributes:
        data: the data set; of corrupted ones that whose images they show.
        columns: in the order of the table.
        titles: what stands over each column.
        better: for each column 1 where higher is better, -1 where lower is, 0 where neither is by itself.
        lines: the best of the last robust accuracy first, else by name.
        notes: what one should know, a sentence each.
    """

    data: str
    columns: tuple[Column, ...]
    titles: tuple[str, ...]
    better: tuple[int, ...]
    lines: tuple[BoardLine, ...]
    notes: tuple[str, ...] = ()


def leaderboards_of(
    runs: Sequence[SavedRun], columns: Sequence[str] = (), published: Sequence[tuple[str, BoardLine]] = ()
) -> list[Leaderboard]:
    """The leaderboards of some runs, one for each data set; the numbers of the newest run count where several measured the same.

    Args:
        runs: finished runs, in any order.
        columns: names of columns, as `results.columns.column_requests` reads them; by default the clean accuracy, what stands at the end
            of each cascade, the error over corruptions, and the Gini.
        published: the data set and the line of each published model.

    Raises:
        InputError: for a column that no run has, and where there are no runs.
    """
    if not runs:
        raise InputError("there is no finished run to show")
    by_data: dict[str, list[BoardLine]] = {}
    chosen = chosen_columns(runs, columns)
    for data, line in [*own_lines(runs, chosen), *published]:
        by_data.setdefault(data, []).append(line)
    boards = [leaderboard_of(data, chosen, lines) for data, lines in by_data.items()]
    return [board for board in boards if any(not line.published for line in board.lines)]


def chosen_columns(runs: Sequence[SavedRun], names: Sequence[str]) -> list[Column]:
    """The columns that a user asked for, or the usual ones; InputError for a name that nothing has."""
    if not names:
        return default_columns([run.rows for run in runs])
    rows = [row for run in runs for row in run.rows]
    found: list[Column] = []
    for request in column_requests(names):
        fitting = requested_columns(request, rows)
        if not fitting:
            known = dict.fromkeys([row.probe for row in rows] + [row.metric for row in rows if "/" not in row.metric])
            if request.name in known:
                raise InputError(f"no run has the column {request.text!r}: {request.name} was measured, but not with these words")
            raise InputError(f"no run has the column {request.text!r}{did_you_mean(request.name, known)}")
        found += fitting
    return list(dict.fromkeys(found))


def own_lines(runs: Sequence[SavedRun], columns: Sequence[Column]) -> list[tuple[str, BoardLine]]:
    """The data set and the line of each model that the user measured; the newest of several runs counts.

    Args:
        runs: finished runs.
        columns: those whose metrics the lines shall have.
    """
    metrics = {column.metric for column in columns}
    lines: dict[tuple[Any, ...], BoardLine] = {}
    for run in sorted(runs, key=lambda run: run.finished):
        abouts = manifest_checkpoints(run)
        for name in run.checkpoints:
            rows = [row for row in run.rows if row.checkpoint == name]
            line = line_of_run(run, name, rows, abouts.get(name, {}), metrics)
            data = base_data(rows[0].data)
            key = (data, line.split, line.name, line.sha256, line.n, line.images, line.seed, line.how)
            lines[key] = merged_line(lines[key], line) if key in lines else line
    return [(key[0], line) for key, line in lines.items()]


def manifest_checkpoints(run: SavedRun) -> dict[str, Mapping[str, Any]]:
    """What the manifest of a run says of each model, by its name."""
    said = run.manifest.get("checkpoint")
    each = said if isinstance(said, list) else [said]
    return {str(one.get("name")): one for one in each if isinstance(one, Mapping)}


def line_of_run(run: SavedRun, name: str, rows: Sequence[Row], about: Mapping[str, Any], metrics: Collection[str]) -> BoardLine:
    """The line of one model of one run, with all of its numbers of some metrics."""
    training, digest = about.get("training"), manifest_value(run.manifest, "data.sha256") or manifest_value(run.manifest, "data.images")
    cells = {
        column_of_row(row): Cell(row.value, row.low, row.high, row.n, row.interval, run.folder) for row in rows if row.metric in metrics
    }
    return BoardLine(
        name, str(about.get("sha256") or ""), rows[0].split, chosen_n(run, rows), str(digest or ""), rows[0].seed, how_text(run),
        training if isinstance(training, Mapping) else {}, cells, (run.folder,), run.finished, flags=tuple(run.flags),
    )  # fmt: skip


def chosen_n(run: SavedRun, rows: Sequence[Row]) -> int:
    """How many images a run was of; the most that a row has where the manifest does not say."""
    n = manifest_value(run.manifest, "data.n")
    return n if isinstance(n, int) and not isinstance(n, bool) else max(row.n for row in rows)


def how_text(run: SavedRun) -> str:
    """What a run did otherwise than usual, as words: the engine, the precision, where it stopped."""
    how = run.manifest.get("how")
    items = how.items() if isinstance(how, Mapping) else ()
    return ", ".join(f"{key} {value}" for key, value in items if USUAL_HOW.get(key, value) != value)


def merged_line(old: BoardLine, new: BoardLine) -> BoardLine:
    """The line of two runs of the same model on the same images: where both have a number, that of the newer one."""
    return replace(
        new,
        cells={**old.cells, **new.cells},
        folders=(*old.folders, *new.folders),
        training=new.training or old.training,
        flags=tuple(dict.fromkeys((*old.flags, *new.flags))),
    )


def leaderboard_of(data: str, columns: Sequence[Column], lines: Sequence[BoardLine]) -> Leaderboard:
    """The leaderboard of one data set, with its ties marked and the best first.

    Args:
        data: the data set.
        columns: of all runs; those that no line has are left out.
        lines: its lines, with all of their numbers.
    """
    mine = [column for column in columns if any(column in line.cells for line in lines)]
    better = [direction_of(column.metric) for column in mine]
    kept = [replace(line, cells={column: line.cells[column] for column in mine if column in line.cells}) for line in lines]
    kept = [line for line in kept if line.cells]
    tied = with_ties(kept, mine, better)
    ranked = ranking_column(mine)
    folders = {folder for line in tied for folder in line.folders}
    used = {cell.folder for line in tied for cell in line.cells.values()}
    notes = [f"{len(folders - used)} older runs are behind newer ones of the same model, images and seed"] if folders - used else []
    return Leaderboard(
        data, tuple(mine), tuple(column_titles(mine)), tuple(better),
        tuple(sorted(tied, key=lambda line: rank_key(line, ranked, dict(zip(mine, better, strict=True))))), tuple(notes),
    )  # fmt: skip


def direction_of(metric: str) -> int:
    """1 where higher is better, -1 where lower is, 0 where neither is by itself.

    Args:
        metric: as in `Row`.
    """
    return {HIGHER: 1, LOWER: -1}.get(metric_meaning(metric)[1], 0)


def ranking_column(columns: Sequence[Column]) -> Column | None:
    """The column by which the lines are sorted: the last robust accuracy, else the first column."""
    robust = [column for column in columns if column.norm and column.metric == "accuracy"]
    return robust[-1] if robust else columns[0] if columns else None


def rank_key(line: BoardLine, column: Column | None, better: Mapping[Column, int]) -> tuple[bool, float, str, str]:
    """What sorts a line: those with a number first, the best of them at the top."""
    cell = line.cells.get(column) if column is not None else None
    if cell is None or column is None or math.isnan(cell.value):
        return True, 0.0, line.name, line.images
    return False, -cell.value * (better[column] or 1), line.name, line.images


def with_ties(lines: Sequence[BoardLine], columns: Sequence[Column], better: Sequence[int]) -> list[BoardLine]:
    """The lines with the best of each column marked, and what ties with it."""
    marked = list(lines)
    for column, direction in zip(columns, better, strict=True):
        some = [line.cells[column] for line in marked if column in line.cells and not math.isnan(line.cells[column].value)]
        if not direction or not some:
            continue
        best = max(some, key=lambda cell: direction * cell.value)
        marked = [
            replace(line, cells={**line.cells, column: replace(line.cells[column], tied=intervals_overlap(line.cells[column], best))})
            if column in line.cells
            else line
            for line in marked
        ]
    return marked


def intervals_overlap(cell: Cell, best: Cell) -> bool:
    """Whether two intervals overlap; a number without one is a point.

    Args:
        cell: a number.
        best: another.
    """
    low, high = interval_ends(cell)
    best_low, best_high = interval_ends(best)
    return low <= best_high and best_low <= high


def interval_ends(cell: Cell) -> tuple[float, float]:
    """The ends of an interval; the number itself where there is none."""
    return (cell.value, cell.value) if math.isnan(cell.low) or math.isnan(cell.high) else (cell.low, cell.high)


def line_labels(lines: Iterable[BoardLine]) -> list[str]:
    """What stands at the head of each line: the model's name, and as much besides as tells lines of one name apart.

    Args:
        lines: the lines of one leaderboard.
    """
    each = list(lines)
    alike = {name: [line for line in each if line.name == name] for name in {line.name for line in each}}

    def label(line: BoardLine) -> str:
        others = alike[line.name]
        parts = [f"sha256 {line.sha256[:8] or 'unknown'}"] if len({other.sha256 for other in others}) > 1 else []
        parts += [f"n = {line.n}"] if len({other.n for other in others}) > 1 else []
        parts += [line.split] if len({other.split for other in others}) > 1 else []
        parts += [f"seed {line.seed}"] if len({other.seed for other in others}) > 1 and line.seed is not None else []
        images = {other.images for other in others if other.n == line.n and other.split == line.split}
        parts += [f"images {line.images[:8] or 'unknown'}"] if len(images) > 1 else []
        parts += [line.how] if line.how else []
        return f"{line.name} ({', '.join(parts)})" if parts else line.name

    return [f"{label(line)}, published by {line.published}" if line.published else label(line) for line in each]
