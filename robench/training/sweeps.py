"""Sweeps: one training for each cell of a grid, in a folder in which a broken-off sweep goes on where it stopped.

Which setting is best is a choice, so cells are measured on held-out images: chosen on test images, it would look better than it is.
Cells that differ in the seed alone are one setting, whose numbers are means over its seeds; one with a seed that diverged is on no front.
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
from robench.core.seed_statistics import SeedMean, seed_mean
from robench.report.figures.training import FrontPoint
from robench.results.files import csv_bytes, frame_of_entries, read_rows
from robench.training.grids import (
    SEED_KEYS,
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


@dataclass(frozen=True)
class SweepSetting:
    """The cells that differ in the seed alone: one setting of a sweep.

    Attributes:
        values: the keys with their values, but for the seed.
        cells: one, or one a seed.
    """

    values: dict[str, Any]
    cells: list[FinishedCell]

    @property
    def text(self) -> str:
        """The setting as key=value words."""
        return " ".join(f"{key}={value_text(value)}" for key, value in self.values.items())

    @property
    def sound(self) -> list[FinishedCell]:
        """The cells over which its means go: of several seeds those that ran to their end, a single cell as it is."""
        return [one for one in self.cells if one.accuracies and (len(self.cells) == 1 or not one.number("alarm") > 0)]

    @property
    def failed(self) -> list[FinishedCell]:
        """The cells that its means leave out: their loss diverged, or their guard ended them."""
        return [one for one in self.cells if one not in self.sound]

    def mean(self, probe: str) -> SeedMean:
        """An accuracy over the seeds."""
        return seed_mean([one.accuracies[probe].value for one in self.sound if probe in one.accuracies])

    def point(self, probe: str) -> tuple[float, float, float]:
        """An accuracy with its interval as the front takes it: nan where a seed diverged, for such a setting is no choice."""
        if len(self.cells) == 1:
            return accuracy_with_interval(self.cells[0], probe)
        found = self.mean(probe)
        if self.failed or not found.count:
            return math.nan, math.nan, math.nan
        return found.mean, max(0.0, found.low), min(1.0, found.high)


def settings_of_cells(done: Sequence[FinishedCell]) -> list[SweepSetting]:
    """The settings of a sweep in their order, each with its cells.

    Args:
        done: the cells.
    """
    found: dict[str, SweepSetting] = {}
    for one in done:
        values = {key: value for key, value in one.cell.values.items() if key not in SEED_KEYS}
        setting = SweepSetting(values, [])
        found.setdefault(setting.text, setting).cells.append(one)
    return [*found.values()]


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
    """The rows of all cells, then those of the settings with several seeds; each setting has one more, on_front, 1 or 0.

    That row stands under the robust probe: a single cell that diverged has none.

    Args:
        done: the cells.
        suite: what ran at the end.
    """
    robust, settings = robust_probe(done, suite), settings_of_cells(done)
    on_front = front_membership([(point.clean[0], point.robust[0]) for point in front_points(done, suite)])
    singles = {id(setting.cells[0]): best for setting, best in zip(settings, on_front, strict=True) if len(setting.cells) == 1}
    rows: list[Row] = []
    for one in done:
        rows += one.rows
        if id(one) in singles and robust in one.accuracies:
            rows.append(number_row(one.accuracies[robust], one.cell.setting, "on_front", float(singles[id(one)])))
    for setting, best in zip(settings, on_front, strict=True):
        rows += seed_rows(setting, robust, best) if len(setting.cells) > 1 else []
    return rows


def seed_rows(setting: SweepSetting, robust: str, best: bool) -> list[Row]:
    """The rows of a setting with several seeds: mean, deviation and number of seeds of each accuracy, and whether it is on the front.

    Args:
        setting: with its cells.
        robust: the probe that counts as robust accuracy.
        best: whether it is on the front.
    """
    left_out, rows = len(setting.failed), []
    for probe, row in (setting.sound[0].accuracies if setting.sound else {}).items():
        found = setting.mean(probe)
        own = replace(number_row(row, setting.text, "seed_mean", found.mean), low=found.low, high=found.high)
        rows.append(replace(own, interval="" if math.isnan(found.low) else "student"))
        rows += [number_row(row, setting.text, "seed_sd", found.sd), number_row(row, setting.text, "seeds", float(found.count))]
        rows += [number_row(row, setting.text, "on_front", float(best))] if probe == robust else []
    shown = setting.cells[0].rows[0]
    return [*rows, *([number_row(replace(shown, probe=TRAINING), setting.text, "seeds_left_out", float(left_out))] if left_out else [])]


def number_row(row: Row, setting: str, metric: str, value: float) -> Row:
    """A row with another number, of a setting; it has no interval, and of several seeds no checkpoint."""
    checkpoint = row.checkpoint if row.setting == setting else ""
    return replace(row, checkpoint=checkpoint, setting=setting, metric=metric, value=value, low=math.nan, high=math.nan, interval="")


def robust_probe(done: Sequence[FinishedCell], suite: str = "") -> str:
    """The probe that counts as robust accuracy: the suite's verdict where there is one, else the last probe; "" where all diverged.

    Args:
        done: the cells.
        suite: what ran at the end.
    """
    probes = next((list(one.accuracies) for one in done if one.accuracies), [""])
    return suite if suite in probes else probes[-1]


def front_points(done: Sequence[FinishedCell], suite: str = "") -> list[FrontPoint]:
    """The settings as points of the picture of their front, in their order; nan where a training diverged.

    Several seeds are one point, at their means with Student's intervals. The last key but the seed makes the series, the others the label;
    a single key makes labels only.

    Args:
        done: the cells.
        suite: what ran at the end.
    """
    robust = robust_probe(done, suite)
    points = []
    for setting in settings_of_cells(done):
        values = setting.cells[0].cell.values if len(setting.cells) == 1 else setting.values
        points.append(FrontPoint(*captions(values), setting.point("clean"), setting.point(robust)))
    return points


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

    A setting with several seeds has one, too, without a seed: means, with the standard deviation of each probe, and `seeds`.

    Args:
        rows: the rows of all cells.
    """
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row.setting, dict(word.split("=", 1) for word in row.setting.split()))
        if row.metric in ("accuracy", "seed_mean"):
            line |= {row.probe: row.value, f"{row.probe} low": row.low, f"{row.probe} high": row.high, f"{row.probe} n": row.n}
        elif row.metric == "seed_sd":
            line[f"{row.probe} sd"] = row.value
        else:
            line[row.metric] = row.value
    return list(lines.values())


def read_finished_cells(cells: Sequence[SweepCell], folder: Path) -> list[FinishedCell]:
    """The cells of a finished sweep, as they lie on the disk.

    Args:
        cells: from `sweep_cells`.
        folder: with rows.csv.
    """
    rows = [row for row in read_rows(folder) if row.metric != "on_front"]  # rows of several seeds are of no cell
    return [FinishedCell(cell, [row for row in rows if row.setting == cell.setting], fresh=False) for cell in cells]
