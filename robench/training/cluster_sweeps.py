"""The cells of a sweep as tasks of a Ray cluster: the same trainings, side by side."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.core.clusters import Show, TaskPool, TaskResources, Tell
from robench.core.memory import keep_freed_memory
from robench.core.rows import Row
from robench.training.grids import SweepCell
from robench.training.sweeps import train_cell
from robench.training.train import train
from robench.training.types import Epoch, Event, EventWatcher, Step, TrackerFailure, TrainingNote

SHOWN_STEPS = 20  # the table of cells is told of every 20th step


@dataclass(frozen=True)
class CellTask:
    """The training of one cell, as it is sent to the process that makes it.

    Attributes:
        cell: the cell.
        words: all arguments of `train`.
        path: the checkpoint.
        measure: the images of its numbers, "held-out" or "test".
    """

    cell: SweepCell
    words: dict[str, Any]
    path: Path
    measure: str


@dataclass(frozen=True)
class TrainedCellTask:
    """What the training of a cell gives back.

    Attributes:
        rows: its rows, as `train_cell` makes them.
        notes: what the training had to say.
    """

    rows: list[Row]
    notes: list[str]


def trained_cell_task(task: CellTask, tell: Tell) -> TrainedCellTask:
    """Trains a cell in a process of the cluster; where an earlier process left its state, from there.

    Args:
        task: the training.
        tell: takes a word on how far it is.
    """
    notes: list[str] = []
    keep_freed_memory()

    def train_one(cell: SweepCell, path: Path) -> Mapping[str, Any]:  # noqa: ARG001
        return train(**task.words, out=path, teachers=path.parent, resume=True, watch=telling_watcher(tell, notes)).meta

    return TrainedCellTask(train_cell(task.cell, train_one, task.path, task.measure), notes)


def telling_watcher(tell: Tell, notes: list[str]) -> EventWatcher:
    """A watcher of a training that tells how far it is, and keeps its notes."""

    def follow(events: Iterator[Event], epochs: int) -> Iterator[Event]:
        for event in events:
            if isinstance(event, Step) and event.step % SHOWN_STEPS == 0:
                tell(f"epoch {event.epoch + 1}/{epochs}, step {event.step + 1}/{event.steps}")
            elif isinstance(event, (TrainingNote, TrackerFailure)):
                notes.append(event.sentence)
            elif isinstance(event, Epoch) and event.alarm:
                notes.append(f"epoch {event.epoch + 1}: ALARM: {event.alarm}")
            yield event

    return follow


def cells_on_cluster(
    words_of: Callable[[SweepCell], dict[str, Any]], resources: TaskResources, show: Show | None, say: Callable[[str], None],
    cells: Sequence[SweepCell], folder: Path, measure: str,
) -> Generator[tuple[SweepCell, list[Row]], None, None]:  # fmt: skip
    """Trains cells side by side on the Ray cluster that was joined; each with its rows, as it ends.

    Args:
        words_of: the arguments of `train` for a cell, without those that say where it writes.
        resources: what each cell gets.
        show: is shown how far each cell is; None where nobody looks.
        say: takes sentences: what cells note, and whose process died.
        cells: the cells.
        folder: takes their checkpoints.
        measure: the images of the numbers.

    Raises:
        InputError: with which a training ended; the others are stopped, and go on with --resume.
    """
    by_name = {cell.setting: cell for cell in cells}
    where = folder.absolute()
    tasks = {name: CellTask(cell, words_of(cell), where / f"{cell.name}.pt", measure) for name, cell in by_name.items()}
    for event in TaskPool(trained_cell_task, tasks, resources, show).events():
        if event.sentence:
            say(event.sentence)
            continue
        for note in event.value.notes:
            say(f"{event.name}: {note}")
        yield by_name[event.name], event.value.rows
