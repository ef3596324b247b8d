"""Leaderboards on the page: models by columns, with intervals and ties, and corruptions as a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from robench.core.rows import CLEAN, OVERALL_PROBE
from robench.report import page
from robench.report.leaderboard import BoardLine, Cell, Leaderboard, leaderboard_of, line_labels, own_lines
from robench.report.paper_tables import TRAINING_SEEDS, PaperLine, alarmed_seeds, filled, groups_of, paper_cell
from robench.report.run_list import is_percentage
from robench.report.tables import SPACE
from robench.results.columns import Column, column_of_row
from robench.results.saved_runs import SavedRun

SHADES = 10  # of a heat map, in the style of the page
TIE_WORDS = (
    "Below each number stands its 95 % interval. \u201ctie\u201d: it overlaps with that of the best number of the column, so that which of "
    "them is better is not known; \u201cbest\u201d: no other overlaps."
)


def number_words(metric: str, value: float) -> str:
    """A number as one reads it: percent with two digits for a share, else four digits.

    Args:
        metric: as in `core.rows.Row`.
        value: a fraction, or a score.
    """
    if math.isnan(value):
        return page.DASH
    return f"{100 * value:.2f}" if is_percentage(metric) else f"{value:.4g}"


def interval_words(metric: str, low: float, high: float) -> str:
    """An interval as one reads it, "" where there is none.

    Args:
        metric: as in `core.rows.Row`.
        low: a fraction, or a score.
        high: likewise.
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    ends = (f"{100 * low:.1f}", f"{100 * high:.1f}") if is_percentage(metric) else (f"{low:.3g}", f"{high:.3g}")
    return f"{ends[0]}{page.DASH}{ends[1]}"


def leaderboard_parts(boards: Sequence[Leaderboard]) -> Iterator[page.Part]:
    """A table for each data set, which can be sorted and filtered, and what one should know of it.

    Args:
        boards: what `report.leaderboard.leaderboards_of` gives.
    """
    for place, board in enumerate(boards):
        yield page.Heading("Leaderboard" if len(boards) == 1 else f"Leaderboard: {board.data}")
        yield page.Paragraph(TIE_WORDS)
        yield board_table(board, "leaderboard" if not place else f"leaderboard-{place + 1}")
        yield from (page.Paragraph(f"{note}.") for note in board.notes)
        yield from seed_parts(board)


def seed_parts(board: Leaderboard) -> Iterator[page.Part]:
    """The models that differ in the seed of their training alone, put together; nothing where there are none.

    Args:
        board: a leaderboard.
    """
    groups = [line for line in groups_of(board) if line.over == TRAINING_SEEDS]
    if not groups:
        return
    units = [f"{title} %" if is_percentage(column.metric) else title for column, title in zip(board.columns, board.titles, strict=True)]
    rows = [(line.label, *(seed_cell(line, column) for column in board.columns), len(line.seeds), line.n) for line in groups]
    caption = "Mean and standard deviation (n - 1) over trainings that differ in the seed alone, by the words of their checkpoints"
    yield page.DataTable(("trainings", *units, "seeds", "images"), rows, caption, better=(0, *board.better, 0, 0))
    for line in groups:
        if lost := alarmed_seeds(line):
            yield page.NoteBox(f"{line.label}: the training of seed {', '.join(map(str, lost))} was ended by its guard", flag=True)


def seed_cell(line: PaperLine, column: Column) -> page.TableCell | None:
    """The mean of a group of seeds with its standard deviation; None where some of them have no number."""
    if column not in filled(line, [column]):
        return None
    cell = paper_cell(line, column)
    words = f"{number_words(column.metric, cell.value)} \N{PLUS-MINUS SIGN} {number_words(column.metric, cell.sd)}"
    return page.TableCell(words, cell.value)


def board_table(board: Leaderboard, name: str, *, with_runs: bool = True) -> page.DataTable:
    """A leaderboard as a table.

    Args:
        board: the leaderboard.
        name: of the table in the fragment of the address.
        with_runs: whether it says when each line was measured, and in which folder it lies.
    """
    units = [f"{title} %" if is_percentage(column.metric) else title for column, title in zip(board.columns, board.titles, strict=True)]
    header = ("model", *units, "images", *(("finished", "run") if with_runs else ()))
    alone = [sum(line.cells[column].tied for line in board.lines if column in line.cells) < 2 for column in board.columns]
    shown = [sum(column in line.cells for line in board.lines) > 1 for column in board.columns]
    rows = [
        (
            label,
            *(
                board_cell(line, column, "" if not its_shown else "best" if its_alone else "tie")
                for column, its_alone, its_shown in zip(board.columns, alone, shown, strict=True)
            ),
            line.n,
            *((line.finished[:10] or None, run_names(line)) if with_runs else ()),
        )
        for line, label in zip(board.lines, line_labels(board.lines), strict=True)
    ]  # fmt: skip
    kinds = ["published" if line.published else "" for line in board.lines]
    caption = f"{board.data}: {counted_lines(board.lines)}"
    return page.DataTable(
        header, rows, caption, name=name, better=(0, *board.better, *[0] * (len(header) - 1 - len(board.better))), row_kinds=kinds
    )


def counted_lines(lines: Sequence[BoardLine]) -> str:
    """How many models there are, or of how many models so many lines are: weights, images and seeds of one name differ."""
    names = list(dict.fromkeys((line.name, line.published) for line in lines))
    models = names[0][0] if len(names) == 1 else f"{len(names)} models"
    return f"{len(names)} model{'s' * (len(names) != 1)}" if len(names) == len(lines) else f"{len(lines)} runs of {models}"


def run_names(line: BoardLine) -> str:
    """The newest folder that a line came from, with the remark on a published one."""
    return ", ".join(filter(None, [*(folder.name for folder in line.folders[-1:]), line.remark]))


def board_cell(line: BoardLine, column: Column, tag: str) -> page.TableCell | None:
    """One number with its interval, its images where these are not those of the line, and the mark of a tie."""
    cell = line.cells.get(column)
    if cell is None or math.isnan(cell.value):
        return None
    more = [interval_words(column.metric, cell.low, cell.high), f"n{SPACE}={SPACE}{cell.n}" if cell.n != line.n else ""]
    words = number_words(column.metric, cell.value)
    return page.TableCell(words, cell.value, ", ".join(filter(None, more)), tag if cell.tied else "", span=drawn_span(cell))


def drawn_span(cell: Cell) -> tuple[float, float, float] | None:
    """The interval of a number between 0 and 1 as percent; None for others."""
    ends = cell.low, cell.value, cell.high
    return (100 * cell.low, 100 * cell.value, 100 * cell.high) if all(0 <= end <= 1 for end in ends) else None


def corruption_parts(runs: Sequence[SavedRun]) -> Iterator[page.Part]:
    """The accuracy under each corruption as a heat map of models and corruptions, where runs have such.

    Args:
        runs: finished runs.
    """
    columns = list(dict.fromkeys(
        column_of_row(row) for run in runs for row in run.rows
        if row.metric == "mean_accuracy" and row.probe not in (CLEAN, OVERALL_PROBE)
    ))  # fmt: skip
    if not columns:
        return
    yield page.Heading("Corruptions")
    yield page.Paragraph("Accuracy in percent under each corruption, a mean over its severities: the darker, the more images are right.")
    by_data: dict[str, list[BoardLine]] = {}
    for data, line in own_lines(runs, columns):
        by_data.setdefault(data, []).append(line)
    for data, lines in by_data.items():
        board = leaderboard_of(data, columns, lines)
        if board.lines:
            yield heat_table(board)


def heat_table(board: Leaderboard) -> page.DataTable:
    """A leaderboard with the ground of each cell as dark as its share is high."""

    def cell(line: BoardLine, column: Column) -> page.TableCell | None:
        known = line.cells.get(column)
        if known is None or math.isnan(known.value):
            return None
        return page.TableCell(f"{100 * known.value:.1f}", known.value, kind=f"shade-{round(SHADES * min(1.0, max(0.0, known.value)))}")

    labels = line_labels(board.lines)
    rows = [(label, line.n, *(cell(line, column) for column in board.columns)) for line, label in zip(board.lines, labels, strict=True)]
    titles = [title.removesuffix(" mean_accuracy") for title in board.titles]
    name = f"corruptions-{page.column_key(board.data)}"
    caption = f"{board.data}: accuracy % under corruptions"
    return page.DataTable(("model", "images", *titles), rows, caption, name=name, better=(0, 0, *board.better))
