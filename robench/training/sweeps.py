"""Sweeps: one training for each cell of a grid, in a folder in which a broken-off sweep goes on where it stopped.

Which cell is best is a choice, so cells are measured on held-out images: chosen on test images, it would look better than it is.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from robench.core.errors import DivergedError, InputError
from robench.core.files import json_value, prepare_folder, write_whole
from robench.core.folders import LOCK, Destination, hold_lock_in
from robench.core.fronts import front_membership
from robench.core.inputs import PathLike
from robench.core.journal import Journal, has_finished, header_difference
from robench.core.recipes import (
    value_text,
)
from robench.core.rows import Row
from robench.report.figures.training import FrontPoint
from robench.results.files import csv_bytes, frame_of_entries, read_rows
from robench.training.grids import (
    TRAINING,
    SweepCell,
    axes_of,
)

HEADER_FILE, ROWS_FILE = "sweep.json", "rows.csv"
HELD_OUT_SPLIT = "held-out"


@dataclass(frozen=True)
class FinishedCell:
    """A cell that was trained.

    Attributes:
        cell: the cell.
        rows: its accuracies, seconds, chosen epoch and failures.
        fresh: whether it was trained in this run.
    """

    cell: SweepCell
    rows: list[Row]
    fresh: bool

    @property
    def accuracies(self) -> dict[str, Row]:
        """The accuracies by probe, in the order in which they were measured; none where the training diverged."""
        return {row.probe: row for row in self.rows if row.metric == "accuracy"}

    def number(self, metric: str) -> float:
        """Another number of the training: seconds, epoch, flags, and 1 for an alarm or diverged; nan where there is none."""
        return next((row.value for row in self.rows if row.metric == metric), math.nan)


TrainOne = Callable[[SweepCell, Path], Mapping[str, Any]]
TrainCells = Callable[[Sequence[SweepCell], Path, str], Generator[tuple[SweepCell, list[Row]], None, None]]


def sweep(
    cells: Sequence[SweepCell],
    train_one: TrainOne | None = None,
    *,
    train_cells: TrainCells | None = None,
    folder: PathLike | Destination,
    about: Mapping[str, Any],
    suite: str = "",
    measure: str = HELD_OUT_SPLIT,
    resume: bool = False,
) -> Iterator[FinishedCell]:
    """Trains every cell and yields it when its numbers are on the disk; those of an earlier run come first, untrained.

    A training that diverges is a result: the sweep goes on.

    Args:
        cells: from `sweep_cells`.
        train_one: train_one(cell, FILE.pt) trains with cell.overrides, writes FILE.pt and returns the meta of `Trained`.
        train_cells: in place of it, where cells are trained elsewhere: train_cells(cells, folder, measure) gives each cell with its rows as
            it ends (`train_cell`).
        folder: gets <cell>.pt of each cell, rows.csv (rewritten whole after each), sweep.json and the state; it is locked meanwhile,
            unless the caller holds it already as a Destination.
        about: what else the numbers depend on, as plain JSON values: data, preset, settings, seed.
        suite: what runs at the end; its verdict, else the last probe, is the robust accuracy.
        measure: the images of the numbers, "held-out" or "test", as the rows name them.
        resume: go on with an unfinished sweep.

    Raises:
        InputError: where the folder holds another sweep or other results, or a sweep and `resume` is false.
    """
    if train_cells is None:
        assert train_one is not None
        train_cells = partial(cells_in_turn, train_one)
    if isinstance(folder, Destination):
        yield from sweep_in_folder(cells, train_cells, folder.work, sweep_header(cells, suite, measure, about), measure, resume)
        return
    path = Path(folder)
    with hold_lock_in(path, LOCK, path):
        yield from sweep_in_folder(cells, train_cells, path, sweep_header(cells, suite, measure, about), measure, resume)


def cells_in_turn(
    train_one: TrainOne, cells: Sequence[SweepCell], folder: Path, measure: str
) -> Generator[tuple[SweepCell, list[Row]], None, None]:
    """Trains one cell after the other in this process; each with its rows."""
    for cell in cells:
        yield cell, train_cell(cell, train_one, folder / f"{cell.name}.pt", measure)


def sweep_in_folder(
    cells: Sequence[SweepCell], train_cells: TrainCells, folder: Path, what: Mapping[str, Any], measure: str, resume: bool
) -> Iterator[FinishedCell]:
    """What `sweep` does in a folder that nobody else writes to; `what` says which sweep it is."""
    refuse_other_sweep(prepare_folder(folder), what)
    if not resume and has_finished(folder):
        raise InputError(f"{folder} holds a finished sweep: resume it to have its numbers, or choose another folder")
    journal = Journal(folder, what, resume=resume, adds=adds_cells)
    rows_by_setting = {entry["setting"]: [Row(**row) for row in entry["rows"]] for entry in journal.entries}
    done = [FinishedCell(cell, rows_by_setting[cell.setting], fresh=False) for cell in cells if cell.setting in rows_by_setting]
    if done:
        write_sweep(folder, done, what)
    yield from done
    trained = train_cells([cell for cell in cells if cell.setting not in rows_by_setting], folder, measure)
    with closing(trained):
        while True:
            with nullcontext() if done else journal.remove_if_refused():
                cell, rows = next(trained, (None, []))
            if cell is None:
                break
            journal.append({"setting": cell.setting, "rows": [vars(row) for row in rows]})
            fresh = FinishedCell(cell, rows, fresh=True)
            done = sorted([*done, fresh], key=lambda one: cells.index(one.cell))  # they may end in another order
            write_sweep(folder, done, what)
            yield fresh
    journal.finish()


def sweep_header(cells: Sequence[SweepCell], suite: str, measure: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep is, for its journal and for sweep.json.

    Args:
        cells: its cells.
        suite: what runs at the end.
        measure: "held-out" or "test".
        about: what else the numbers depend on.
    """
    return {"grid": axes_of(cells), "suite": suite, "measure": measure, **about}


def adds_cells(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a sweep has all cells of another and more values of the same keys, and differs in nothing else.

    Args:
        theirs: the header of the other.
        ours: its own header.
    """
    one, other = theirs.get("grid"), ours["grid"]
    if not isinstance(one, dict) or [*one] != [*other] or {**theirs, "grid": other} != ours:
        return False
    return all(isinstance(values, list) and all(value in other[key] for value in values) for key, values in one.items())


def refuse_other_sweep(folder: Path, header: Mapping[str, Any]) -> None:
    """InputError where the folder holds results of another sweep, or of something that is no sweep."""
    if not (folder / ROWS_FILE).exists():
        return
    try:
        theirs = json_value((folder / HEADER_FILE).read_bytes())
    except (OSError, ValueError):
        raise InputError(f"{folder} holds results that are not those of a sweep: choose another folder") from None
    ours = json.loads(json.dumps(header))
    if theirs != ours and not (isinstance(theirs, dict) and adds_cells(theirs, ours)):
        raise InputError(f"{folder} holds another sweep: {header_difference(theirs, ours)[1]}; choose another folder")


def train_cell(cell: SweepCell, train_one: TrainOne, path: Path, measure: str) -> list[Row]:
    """Trains one cell; its rows."""
    begin = time.perf_counter()
    try:
        return sweep_rows(cell, path, train_one(cell, path), measure)
    except DivergedError:
        seconds = time.perf_counter() - begin
        return [sweep_row(cell, path, {}, metric, value) for metric, value in (("diverged", 1.0), ("seconds", seconds))]


def sweep_row(cell: SweepCell, path: Path, meta: Mapping[str, Any], metric: str, value: float) -> Row:
    """A row about the training of a cell itself; n is the number of training images."""
    data, recipe = meta.get("data", {}), meta.get("recipe", {})
    n, seed = data.get("n", 0), recipe.get("seed", cell.overrides.get("seed", 0))
    return Row(
        path.name, meta.get("preset", ""), data.get("name", ""), "train", n, seed, "", 0.0, TRAINING, cell.setting, metric, float(value)
    )


def sweep_rows(cell: SweepCell, path: Path, meta: Mapping[str, Any], measure: str) -> list[Row]:
    """The accuracies of a cell, with the cell as their setting, then its seconds, the epoch it kept, any alarm, and how many flags."""
    rows, history = [], meta["history"]
    for probe, record in meta["metrics"].items():
        name, mark, _ = str(record["data"]).partition(" held out")  # so a source without a test split is told
        own = sweep_row(cell, path, meta, "accuracy", record["accuracy"])
        own = replace(own, data=name, split=HELD_OUT_SPLIT if mark else measure, n=record["n"], probe=probe)
        rows.append(replace(own, norm=record["norm"], eps=record["eps"], low=record["low"], high=record["high"], interval="wilson"))
    seconds, alarm = sum(epoch["seconds"] for epoch in history), bool(history and history[-1].get("alarm"))
    raised = {"alarm": float(alarm), "flags": float(len(meta.get("flags", ())))}
    numbers = {"seconds": seconds, "epoch": meta["recipe"]["epoch"], **{name: value for name, value in raised.items() if value}}
    return rows + [sweep_row(cell, path, meta, metric, value) for metric, value in numbers.items()]


def write_sweep(folder: Path, done: Sequence[FinishedCell], header: Mapping[str, Any]) -> None:
    """Writes rows.csv of the cells so far, each with whether it is on the front among them, and sweep.json."""
    rows = rows_with_front(done, header["suite"])
    text = json.dumps(header, indent=2)
    write_whole({folder / ROWS_FILE: csv_bytes(frame_of_entries(rows, Row)), folder / HEADER_FILE: f"{text}\n".encode()})


def rows_with_front(done: Sequence[FinishedCell], suite: str = "") -> list[Row]:
    """The rows of all cells; each cell that did not diverge has one more, on_front, under the robust probe, 1 or 0.

    Args:
        done: the cells.
        suite: what ran at the end.
    """
    robust = robust_probe(done, suite)
    on_front = front_membership([(point.clean[0], point.robust[0]) for point in front_points(done, suite)])
    rows: list[Row] = []
    for one, best in zip(done, on_front, strict=True):
        rows += one.rows
        if robust in one.accuracies:
            rows.append(replace(one.accuracies[robust], metric="on_front", value=float(best), low=math.nan, high=math.nan, interval=""))
    return rows


def robust_probe(done: Sequence[FinishedCell], suite: str = "") -> str:
    """The probe that counts as robust accuracy: the suite's verdict where there is one, else the last probe; "" where all diverged.

    Args:
        done: the cells.
        suite: what ran at the end.
    """
    probes = next((list(one.accuracies) for one in done if one.accuracies), [""])
    return suite if suite in probes else probes[-1]


def front_points(done: Sequence[FinishedCell], suite: str = "") -> list[FrontPoint]:
    """The cells as points of the picture of their front, in their order; nan where the training diverged.

    The last key but the seed makes the series, the others the label; a single key makes labels only.

    Args:
        done: the cells.
        suite: what ran at the end.
    """
    robust = robust_probe(done, suite)
    return [
        FrontPoint(*captions(one.cell.values), accuracy_with_interval(one, "clean"), accuracy_with_interval(one, robust)) for one in done
    ]


def captions(values: Mapping[str, Any]) -> tuple[str, str]:
    """The series and the label of a cell."""
    words = {key: f"{key} {value_text(value)}" for key, value in values.items()}
    series = [key for key in words if key != "seed"][-1:] if len(words) > 1 else []
    return " ".join(words[key] for key in series), " ".join(text for key, text in words.items() if key not in series)


def accuracy_with_interval(one: FinishedCell, probe: str) -> tuple[float, float, float]:
    """An accuracy with its interval; nan where there is none."""
    row = one.accuracies.get(probe)
    return (math.nan, math.nan, math.nan) if row is None else (row.value, row.low, row.high)


def sweep_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One dict a cell, for tables: the words of its keys, each probe with its low, high and n, and the other numbers.

    Args:
        rows: the rows of all cells.
    """
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row.setting, dict(word.split("=", 1) for word in row.setting.split(" ")))
        if row.metric == "accuracy":
            line |= {row.probe: row.value, f"{row.probe} low": row.low, f"{row.probe} high": row.high, f"{row.probe} n": row.n}
        else:
            line[row.metric] = row.value
    return list(lines.values())


def read_finished_cells(cells: Sequence[SweepCell], folder: Path) -> list[FinishedCell]:
    """The cells of a finished sweep, as they lie on the disk.

    Args:
        cells: from `sweep_cells`.
        folder: with rows.csv.
    """
    rows = [row for row in read_rows(folder) if row.metric != "on_front"]
    return [FinishedCell(cell, [row for row in rows if row.setting == cell.setting], fresh=False) for cell in cells]
