"""Which files of tables a report writes besides its page, and their texts: LaTeX, Markdown, CSV, a row of RobustBench."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.report.leaderboard import BoardLine, leaderboards_of
from robench.report.paper_formats import csv_document, latex_document, markdown_document
from robench.report.paper_tables import PaperTable, paper_table
from robench.report.robustbench_files import robustbench_text
from robench.results.saved_runs import SavedRun

TABLE_FORMATS: dict[str, Callable[[Sequence[PaperTable]], str]] = {
    "latex": latex_document, "markdown": markdown_document, "csv": csv_document,
}  # fmt: skip


def refuse_same_files(files: Mapping[str, Path]) -> None:
    """InputError where two files of a report have one place.

    Args:
        files: the paths by the options that name them.
    """
    seen: dict[Path, str] = {}
    for option, path in files.items():
        if (place := path.resolve()) in seen:
            raise InputError(f"{seen[place]} and {option} both name {path}: choose two files")
        seen[place] = option


def table_texts(
    runs: Sequence[SavedRun], files: Mapping[str, Path], columns: Sequence[str], published: Sequence[tuple[str, BoardLine]]
) -> dict[Path, bytes]:  # fmt: skip
    """The texts of the tables that a user asked for.

    Args:
        runs: finished runs.
        files: where each format is to lie, by its name in TABLE_FORMATS.
        columns: names of columns; the usual ones where there are none.
        published: the data set and the line of each published model.

    Raises:
        InputError: as `report.leaderboard.leaderboards_of` and `report.paper_tables.paper_table` do.
    """
    if not files:
        return {}
    tables = [paper_table(board, runs) for board in leaderboards_of(runs, columns, published)]
    return {path: TABLE_FORMATS[name](tables).encode() for name, path in files.items()}


def robustbench_bytes(runs: Sequence[SavedRun], file: Path, facts: Mapping[str, Any]) -> bytes:
    """The file of the one run that a user named, as RobustBench has it.

    Args:
        runs: finished runs.
        file: where it will lie.
        facts: what `report.robustbench_files.paper_facts` gives.

    Raises:
        InputError: where there are several runs, and as `report.robustbench_files.robustbench_object` does.
    """
    if len(runs) > 1:
        raise InputError(f"--robustbench writes one run, and there are {len(runs)}: name one results folder")
    return robustbench_text(runs[0], file, facts).encode()
