"""The costs of trainings that are planned, as the tables and the sentences that people read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from robench.report.cost_tables import HOUR, bytes_text, duration_text, passes_text
from robench.report.tables import TextTable
from robench.training.planned_trainings import SweepCosts
from robench.training.training_costs import TrainingCosts

TRAINING_COLUMNS = ("times", "passes", "each", "in all", "memory", "disk")
CELL_COLUMNS = ("steps", "passes a step", "a step", "an epoch", "in all", "memory")
LARGER = (2, 4)  # so many times the batch size, of which the memory is told


def training_cost_table(costs: TrainingCosts) -> TextTable:
    """A line for the steps, for each measurement, for a teacher, and one for the whole.

    Args:
        costs: of the training.
    """
    lines = list(training_cost_lines(costs))
    if costs.teacher:
        its = costs.teacher
        whole, memory, disk = duration_text(its.seconds), bytes_text(its.memory), bytes_text(its.disk_bytes)
        lines.insert(0, ("teacher", "1", passes_text(*its.step.passes), whole, whole, memory, disk))
    lines.append(("all", "", "", "", duration_text(costs.seconds), bytes_text(costs.memory), bytes_text(costs.disk_bytes)))
    return TextTable(f"Plan of training {costs.title}", ("part", *TRAINING_COLUMNS), lines, 1)


def training_cost_lines(costs: TrainingCosts) -> Iterator[tuple[str, ...]]:
    """Yields the lines of the training itself."""
    steps, n = costs.epochs * costs.steps, costs.epochs
    step, after, end = costs.step_seconds, costs.epoch_measurement, costs.final_measurement
    passes = passes_text(*costs.step.passes)
    yield "step", f"{steps:,}", passes, duration_text(step), duration_text(steps * step), bytes_text(costs.step_memory), ""
    measuring = bytes_text(costs.measurement_memory)
    if costs.held_out:
        yield "after an epoch", f"{n:,}", "", duration_text(after), duration_text(n * after), measuring, ""
    yield "at the end", "1", "", duration_text(end), duration_text(end), measuring, ""
    yield "weights", "", "", "", "", "", bytes_text(costs.disk["checkpoints"])
    yield "state", "", "", "", "", "", bytes_text(costs.disk["state"])


def training_cost_sentences(costs: TrainingCosts) -> list[str]:
    """What the table says of epochs, of an hour, and of larger batches.

    Args:
        costs: of the training.
    """
    steps = f"{costs.steps:,} step{'s' * (costs.steps != 1)}"
    takes = f"takes {duration_text(costs.epoch_seconds)}; {hour_sentence(costs)}"
    sentences = [f"An epoch has {steps} of {costs.batch_size:,} on {costs.images:,} images and {takes}"]
    if costs.unknown:
        sentences.append(f"Without {', '.join(costs.unknown)} in the final measurement, of which the cost is not known.")
    return [*sentences, larger_batch_sentence(costs)]


def hour_sentence(costs: TrainingCosts) -> str:
    """What an hour is enough for."""
    if costs.seconds <= HOUR:
        return f"an hour is enough for the whole training, which takes {duration_text(costs.seconds)}."
    before = costs.final_measurement + (costs.teacher.seconds if costs.teacher else 0.0)
    fit = max(0, int((HOUR - before) / costs.epoch_seconds))
    if not fit:
        return "an hour is not enough for one."
    return f"an hour is enough for {fit:,} of the {costs.epochs:,} epochs (--epochs)."


def larger_batch_sentence(costs: TrainingCosts) -> str:
    """The memory of larger batches, and how large a batch the device holds."""
    needs = {times * costs.batch_size: costs.step.memory_of(times * costs.part_size) for times in LARGER}
    larger = " and ".join(f"one of {images:,} {bytes_text(memory)}" for images, memory in needs.items())
    seen = [size for size, _ in costs.step.memory]
    where = (
        f"as far as steps of {seen[0]} and {seen[-1]} images tell, in a straight line"
        if len(seen) > 1
        else f"seen at {seen[0]} images alone"
    )
    each = " in each process" if costs.processes > 1 else ""
    sentence = f"A batch of {costs.batch_size:,} needs {bytes_text(costs.step_memory)}{each}, {larger}, {where}"
    most = costs.step.images_within(costs.device_memory) if costs.device_memory else None
    if costs.device_memory is None or most is None:
        return f"{sentence}."
    holds = f"{most * costs.processes * costs.parts:,} images" if most else "not even one image"
    return f"{sentence}; the {bytes_text(costs.device_memory)} of {costs.device} would hold a batch of about {holds}."


def training_reading_help(costs: TrainingCosts) -> list[str]:
    """How to read the table.

    Args:
        costs: of the training.
    """
    return [
        "passes are forward + backward, of each image in a step, counted on a real one",
        "after each epoch held-out images are measured, and at the end those of --measure",
        *costs.notes,
        "the state lasts as long as the training; disk is what the training writes at the most; logs and pictures are not counted",
    ]


def sweep_cost_table(costs: SweepCosts, title: str) -> TextTable:
    """A line for each cell, for the teachers, and one for the whole.

    Args:
        costs: of the sweep.
        title: what is planned.
    """
    keys = list(costs.cells[0][0].values)
    blank = [""] * (len(keys) - 1)
    lines: list[tuple[str, ...]] = []
    for cell, its in costs.cells:
        words = [word.partition("=")[2] for word in cell.setting.split(" ")]
        times = [duration_text(seconds) for seconds in (its.step_seconds, its.epoch_seconds, its.own_seconds)]
        lines.append((*words, f"{its.epochs * its.steps:,}", passes_text(*its.step.passes), *times, bytes_text(its.memory)))
    for its in costs.teachers:
        times = [duration_text(seconds) for seconds in (its.step_seconds, its.epoch_seconds, its.seconds)]
        lines.append(("a teacher", *blank, f"{its.epochs * its.steps:,}", passes_text(*its.step.passes), *times, bytes_text(its.memory)))
    lines.append(("all", *blank, "", "", "", "", duration_text(costs.seconds), bytes_text(costs.memory)))
    return TextTable(f"Plan of {title}", (*keys, *CELL_COLUMNS), lines, len(keys))


def sweep_cost_sentences(costs: SweepCosts) -> list[str]:
    """What the table says of the whole.

    Args:
        costs: of the sweep.
    """
    n = len(costs.cells)
    cells = f"{n} training{'s' * (n != 1)}" + (f" and {len(costs.teachers)} of a teacher" if costs.teachers else "")
    timed = "each was timed" if costs.timed == n else f"{costs.timed} of them timed, as the others cost the same"
    return [
        f"{cells} one after the other take {duration_text(costs.seconds)} and write {bytes_text(costs.disk_bytes)} at the most; {timed}."
    ]


def sweep_reading_help(costs: SweepCosts) -> list[str]:
    """How to read the table, with the notes of all cells, each once.

    Args:
        costs: of the sweep.
    """
    notes: Sequence[str] = [note for _, its in costs.cells for note in training_reading_help(its)]
    return list(dict.fromkeys(notes))
