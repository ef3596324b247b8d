"""Tables for papers: the lines of a leaderboard with trainings put together, and the best in bold where it is so beyond chance.

Checkpoints of one recipe that differ in the seed of the training alone are one line: mean, standard deviation, 95 % t interval over
trainings. Runs that differ in the seed of the measurement alone are put together apart from that, and called so: their spread says nothing
about trainings.

The best of a column is bold if it differs from each other number of it, and no seed of it was ended by the guard of its training.
Where two lines were measured on the same images, their numbers
are tested image by image (`core.paired`; of several trainings the mean of each image), and where a line has several trainings or seeds,
Student's test over these has to agree (the larger p value counts, as both have to be ruled out: Berger 1982, Technometrics 24:295), with
Holm over the comparisons of a column. Else their 95 % intervals must not overlap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from robench.core.paired import SCORE, SHARE, VERDICT, PairedValues, holm, p_of_margin
from robench.core.statistics import student_interval, student_p
from robench.report.leaderboard import BoardLine, Cell, Leaderboard, interval_ends, intervals_overlap, line_labels
from robench.results.column_values import values_of_row
from robench.results.columns import Column, column_of_row
from robench.results.image_values import ImageValues
from robench.results.saved_runs import SavedRun

BOLD_LEVEL = 0.05
TRAINING_SEEDS, MEASURING_SEEDS = "training", "measuring"  # which seeds a line goes over
Runs = Mapping[Path, SavedRun]


@dataclass(frozen=True)
class PaperCell:
    """One number of a table.

    Attributes:
        value: the number, or the mean over seeds.
        low: lower end of its 95 % interval, nan where there is none: over images; over several trainings Student's; over several seeds of a
            measurement the widest of theirs.
        high: its upper end.
        sd: standard deviation over seeds, with one less than their number; nan for one.
        n: number of images.
        each: the number of each seed.
        bold: whether it is the best of its column, beyond chance.
    """

    value: float
    low: float
    high: float
    sd: float
    n: int
    each: tuple[float, ...]
    bold: bool = False


@dataclass(frozen=True, eq=False)
class PaperLine:
    """One line of a table.

    Attributes:
        label: what stands at its head.
        over: which seeds it goes over, "training", "measuring", or "" for one run of one model.
        seeds: these seeds.
        members: the lines of the leaderboard that it is made of.
        cells: its numbers by column.
    """

    label: str
    over: str
    seeds: tuple[int, ...]
    members: tuple[BoardLine, ...]
    cells: Mapping[Column, PaperCell] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many images were chosen."""
        return self.members[0].n


@dataclass(frozen=True, eq=False)
class PaperTable:
    """The table of one data set.

    Attributes:
        data: the data set.
        columns: in their order.
        titles: what stands over each.
        better: for each 1 where higher is better, -1 where lower is, 0 where neither is by itself.
        lines: the models.
        caption: sentences on n, data, seeds, version, and on what is bold.
    """

    data: str
    columns: tuple[Column, ...]
    titles: tuple[str, ...]
    better: tuple[int, ...]
    lines: tuple[PaperLine, ...]
    caption: tuple[str, ...]


def paper_table(board: Leaderboard, runs: Sequence[SavedRun]) -> PaperTable:
    """The table of a leaderboard.

    Args:
        board: what `report.leaderboard.leaderboards_of` gives.
        runs: the runs that it was made of.

    Raises:
        InputError: where the images of a run are needed for a test, and its tables cannot be used.
    """
    by_folder = {run.folder: run for run in runs}
    lines = [replace(line, cells={column: paper_cell(line, column) for column in filled(line, board.columns)}) for line in groups_of(board)]
    tests: set[str] = set()
    for column, better in zip(board.columns, board.better, strict=True):
        best, how = bold_line(lines, column, better, by_folder)
        tests |= how
        if best is not None:
            place = lines.index(best)
            lines[place] = replace(best, cells={**best.cells, column: replace(best.cells[column], bold=True)})
    return PaperTable(
        board.data, board.columns, board.titles, board.better, tuple(lines), tuple(caption_sentences(board, lines, runs, tests))
    )


# --- which runs are one line


def groups_of(board: Leaderboard) -> list[PaperLine]:
    """The lines of a table, in the order of the leaderboard: trainings of one recipe together, then measurements of one model.

    Args:
        board: the leaderboard.
    """
    rest, groups = list(board.lines), dict[BoardLine, PaperLine]()
    for over, key_of, seed_of in ((TRAINING_SEEDS, training_key, training_seed), (MEASURING_SEEDS, measuring_key, measuring_seed)):
        by_key: dict[str, list[BoardLine]] = {}
        for line in rest:
            by_key.setdefault(key_of(line), []).append(line)
        for key, some in by_key.items():
            seeds = [seed_of(line) for line in some]
            if key and len(some) > 1 and None not in seeds and len(set(seeds)) == len(seeds):
                ordered = sorted(some, key=lambda line: seed_of(line) or 0)
                groups[some[0]] = PaperLine("", over, tuple(sorted(seed for seed in seeds if seed is not None)), tuple(ordered))
                rest = [line for line in rest if line not in some]
    single = {line: PaperLine("", "", (), (line,)) for line in rest}
    return with_labels([(groups | single)[line] for line in board.lines if line in groups or line in single], board)


def training_key(line: BoardLine) -> str:
    """What trainings that differ in their seed alone share, measured on the same images with the same seed; "" where it is not known."""
    recipe = line.training.get("recipe")
    if not recipe or line.published:
        return ""
    return json.dumps(
        [recipe, line.training.get("data"), line.split, line.n, line.images, line.seed, line.how], sort_keys=True, default=str
    )


def training_seed(line: BoardLine) -> int | None:
    """The seed of a training; None where it is not known."""
    seed = line.training.get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def measuring_key(line: BoardLine) -> str:
    """What measurements of one model that differ in their seed alone share."""
    return "" if line.published else json.dumps([line.name, line.sha256, line.split, line.n, line.images, line.how])


def measuring_seed(line: BoardLine) -> int | None:
    """The seed of a measurement; None for a published one."""
    return line.seed


def with_labels(lines: Sequence[PaperLine], board: Leaderboard) -> list[PaperLine]:
    """The lines with what stands at their heads; a group is called after what its names share."""
    labels = dict(zip(board.lines, line_labels(board.lines), strict=True))
    wanted = [
        labels[line.members[0]] if not line.over
        else f"{shared_name([one.name for one in line.members])} ({len(line.seeds)} {line.over} seeds)"
        for line in lines
    ]  # fmt: skip
    counts = {label: wanted.count(label) for label in wanted}
    return [
        replace(line, label=label if counts[label] == 1 else f"{label} {wanted[:place].count(label) + 1}")
        for place, (line, label) in enumerate(zip(lines, wanted, strict=True))
    ]


def shared_name(names: Sequence[str]) -> str:
    """What names have in common: the beginning, without a separator or a part of a number at its end; the first where that is nothing."""
    beginning = names[0]
    for name in names[1:]:
        while not name.startswith(beginning):
            beginning = beginning[:-1]
    if beginning in names:
        return beginning
    return beginning.rstrip("0123456789").rstrip("-_. ").removesuffix("seed").rstrip("-_. ") or names[0]


def filled(line: PaperLine, columns: Sequence[Column]) -> list[Column]:
    """The columns in which all members of a line have a number; of some alone there is no mean to show.

    Args:
        line: of a table.
        columns: some columns.
    """
    return [column for column in columns if all(column in member.cells for member in line.members)]


def paper_cell(line: PaperLine, column: Column) -> PaperCell:
    """The number of a line in a column: that of its run, or the mean over its seeds.

    Args:
        line: of a table.
        column: one in which all its members have a number.
    """
    cells = [member.cells[column] for member in line.members]
    each = tuple(cell.value for cell in cells)
    if len(cells) == 1:
        return PaperCell(cells[0].value, cells[0].low, cells[0].high, math.nan, cells[0].n, each)
    value, low, high = student_interval(each)
    if line.over == MEASURING_SEEDS:  # the same network: what its images leave open is not less than for one seed
        low, high = widest_ends(cells)
    return PaperCell(value, low, high, float(np.std(each, ddof=1)), min(cell.n for cell in cells), each)


def widest_ends(cells: Sequence[Cell]) -> tuple[float, float]:
    """The least and the largest end of some intervals."""
    ends = [interval_ends(cell) for cell in cells]
    return min(low for low, _ in ends), max(high for _, high in ends)


# --- what is bold


def bold_line(lines: Sequence[PaperLine], column: Column, better: int, runs: Runs) -> tuple[PaperLine | None, set[str]]:
    """The line whose number is the best of a column beyond chance, None where there is none, and how that was tested.

    The nearest ones are compared first, and where one of them cannot be told apart no other needs to be read.
    """
    there = [line for line in lines if column in line.cells and not math.isnan(line.cells[column].value)]
    if not better or len(there) < 2:
        return None, set()
    best, *others = sorted(there, key=lambda line: -better * line.cells[column].value)
    if alarmed_seeds(best):
        return None, set()
    p_values: list[float] = []
    how: set[str] = set()
    for other in others:
        p = p_of_lines(best, other, column, runs)
        how.add("intervals" if p is None else "paired")
        if p is None and intervals_overlap(wide_cell(best, column), wide_cell(other, column)):
            return None, how
        if p is not None and p > BOLD_LEVEL:
            return None, how
        p_values += [] if p is None else [p]
    return (best if all(p <= BOLD_LEVEL for p in holm(p_values)) else None), how


def alarmed_seeds(line: PaperLine) -> list[int]:
    """The seeds of a line whose training its guard ended, because it diverged or learnt to fool its own adversary.

    Args:
        line: of a table.
    """
    return [training_seed(member) or 0 for member in line.members if member.training.get("alarm")]


def wide_cell(line: PaperLine, column: Column) -> Cell:
    """A number with the interval over seeds and those over images together, for what is not compared image by image."""
    cell = line.cells[column]
    members = [member.cells[column] for member in line.members]
    low, high = widest_ends([*members, Cell(cell.value, cell.low, cell.high, cell.n)])
    return Cell(cell.value, low, high, cell.n)


def p_of_lines(one: PaperLine, other: PaperLine, column: Column, runs: Runs) -> float | None:
    """The p value of a difference between two lines; None where they were not measured on the same images, or these are not known."""
    values, others = one.cells[column], other.cells[column]
    if values.value == others.value:
        return 1.0
    images = common_images(one, other, column, runs)
    if images is None:
        return None
    over_images = p_of_margin(images, 0.0)
    over_seeds = student_p(values.each, others.each) if len(values.each) + len(others.each) > 2 else 0.0
    return max(over_images, over_seeds)


def common_images(one: PaperLine, other: PaperLine, column: Column, runs: Runs) -> PairedValues | None:
    """The numbers of the same images in two lines, of several seeds their mean; None where these are not the same images."""
    members = [*one.members, *other.members]
    if any(member.published or not member.images for member in members) or len({member.images for member in members}) > 1:
        return None
    found = [series for member in members if (series := images_of_member(member, column, runs)) is not None]
    if len(found) < len(members) or any(not np.array_equal(series.ids, found[0].ids) for series in found):
        return None
    base, new = (np.mean([series.values for series in some], axis=0) for some in (found[len(one.members) :], found[: len(one.members)]))
    kind = found[0].kind if len(found) == 2 else SCORE if found[0].kind == SCORE else SHARE if found[0].kind in (VERDICT, SHARE) else ""
    return PairedValues(kind, base, new, found[0].labels, found[0].unit, members[0].seed or 0) if kind else None


def images_of_member(member: BoardLine, column: Column, runs: Runs) -> ImageValues | None:
    """The number of each image behind a cell."""
    folder = member.cells[column].folder
    run = None if folder is None else runs.get(folder)
    rows = [] if run is None else [row for row in run.rows if row.checkpoint == member.name and column_of_row(row) == column]
    return values_of_row(run, rows[-1]) if run is not None and rows else None


# --- the caption


def caption_sentences(board: Leaderboard, lines: Sequence[PaperLine], runs: Sequence[SavedRun], tests: set[str]) -> Iterator[str]:
    """What one must know to read a table."""
    own = [line for line in lines if not line.members[0].published]
    yield f"{board.data}, {images_phrase(own)}."
    if any(line.over == TRAINING_SEEDS for line in lines):
        yield "Over training seeds: mean and standard deviation of trainings that differ in the seed alone."
    if any(line.over == MEASURING_SEEDS for line in lines):
        yield "Over measuring seeds: mean and standard deviation of measurements of one checkpoint, which say nothing about trainings."
    single = "Other lines are one checkpoint each." if any(line.over for line in lines) else "Each line is one checkpoint."
    yield from [single] if any(not line.over for line in own) else []
    seeds = sorted({member.seed for line in own for member in line.members if member.seed is not None})
    if seeds:
        yield f"Measured with seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}{versions_phrase(runs)}."
    published = sorted({line.members[0].published for line in lines} - {""})
    if published:
        yield f"Marked lines are published by {', '.join(published)}, and were measured on other images."
    yield bold_sentence(tests, any(line.over for line in lines), any(cell.bold for line in lines for cell in line.cells.values()))


def images_phrase(lines: Sequence[PaperLine]) -> str:
    """On how many images the lines are, in words."""
    counts = sorted({line.n for line in lines})
    split = ", ".join(sorted({line.members[0].split for line in lines}))
    return f"{split} split, n = {counts[0]}" if len(counts) == 1 else f"{split} split, n as given"


def versions_phrase(runs: Sequence[SavedRun]) -> str:
    """By which versions of robench the runs were measured, as far as their manifests say."""
    versions = [its.get("robench") for run in runs if isinstance(its := run.manifest.get("versions"), Mapping)]
    known = sorted({version for version in versions if isinstance(version, str) and len(version) <= 40})
    return f" by robench {', '.join(known)}" if known else ""


def bold_sentence(tests: set[str], with_seeds: bool, has_bold: bool) -> str:
    """What is bold, by how the numbers were tested, and whether any is."""
    if not tests:
        return "Nothing is bold: no column has two numbers of which one could be better."
    over_seeds = " and Student's test over the seeds tell" if with_seeds else " tells"
    paired = f"a paired test over the same images{over_seeds} it from each other one"
    level = f" (two-sided, {BOLD_LEVEL:g}, Holm over the comparisons of a column)"
    intervals = "its 95 % interval overlaps with no other one"
    how = f"{paired}{level}; on other images, where {intervals}"
    how = paired + level if tests == {"paired"} else intervals if tests == {"intervals"} else how
    return f"Bold: the best of a column, where {how}." if has_bold else f"Nothing is bold: the best of a column would be, where {how}."


def plain_table(table: PaperTable) -> list[dict[str, Any]]:
    """A table as tidy lines: one a number.

    Args:
        table: what `paper_table` gives.
    """
    return [
        {
            "data": column.data, "model": line.label, "column": title, "probe": column.probe, "metric": column.metric, "norm": column.norm,
            "eps": column.eps if column.norm else math.nan, "setting": column.setting, "value": cell.value, "low": cell.low,
            "high": cell.high, "sd": cell.sd, "n": cell.n, "seeds_of": line.over, "seeds": " ".join(map(str, line.seeds)),
            "each": " ".join(f"{one:.6g}" for one in cell.each), "bold": int(cell.bold), "published": line.members[0].published,
            "folders": " ".join(dict.fromkeys(str(folder) for one in line.members if (folder := one.cells[column].folder) is not None)),
        }
        for line in table.lines for column, title in zip(table.columns, table.titles, strict=True)
        if (cell := line.cells.get(column)) is not None
    ]  # fmt: skip
