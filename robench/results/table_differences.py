"""In what the tables of two runs of one kind differ, cell by cell."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from robench.core.errors import InputError
from robench.core.saved_results import text_at

TIMES = "seconds"  # the metric, and the column of a sweep, that no two runs share
NUMBERS = ("n", "seed", "value", "low", "high", "interval", "count")  # what a line says; the other columns of rows.csv say of what
TABLES = ("rows.csv", "samples*.csv", "confusion.csv")
LARGEST_TABLE = 2**30  # bytes


@dataclass(frozen=True)
class TableDifference:
    """In what one table differs between two runs.

    Attributes:
        name: of the file.
        cells: how many cells of the lines that both have differ.
        only_before: how many lines the first has alone.
        only_now: how many lines the second has alone.
        examples: the first differing cells, each as words.
    """

    name: str
    cells: int = 0
    only_before: int = 0
    only_now: int = 0
    examples: tuple[str, ...] = ()

    def sentence(self) -> str:
        """The difference in words."""
        counts = ((self.cells, "cell", "not the same"), (self.only_before, "line", "only before"), (self.only_now, "line", "only now"))
        told = [f"{n} {what}{'s' * (n != 1)} {where}" for n, what, where in counts if n]
        return f"{self.name}: " + ", ".join([*told, *self.examples])


def table_differences(before: Path, now: Path, most: int = 3) -> list[TableDifference]:
    """The tables of two results folders that are not the same, times aside.

    Args:
        before: a results folder.
        now: another.
        most: how many differing cells are told of each table.

    Returns:
        One entry for each of rows.csv, confusion.csv and the tables of samples that is not the same, also where one folder lacks it.

    Raises:
        InputError: where a table cannot be read.
    """
    names = sorted({path.name for folder in (before, now) for pattern in TABLES for path in folder.glob(pattern)})
    found = [table_difference(before, now, name, most) for name in names]
    return [one for one in found if one is not None]


def table_difference(before: Path, now: Path, name: str, most: int) -> TableDifference | None:
    """The difference of one table; None where there is none."""
    for folder, when in ((before, "now"), (now, "before")):
        if not (folder / name).is_file():
            return TableDifference(name, examples=(f"there is one only {when}",))
    lines, new_lines = (keyed_lines(folder / name) for folder in (before, now))
    both = [key for key in lines if key in new_lines]
    cells = [text for key in both for text in differing_cells(key[0], lines[key], new_lines[key])]
    gone, added = len(lines) - len(both), len(new_lines) - len(both)
    return (
        TableDifference(name, len(cells), gone, added, tuple(sorted(cells, key=is_of_no_value)[:most])) if cells or gone or added else None
    )


def keyed_lines(path: Path) -> dict[tuple[str, int], dict[str, str]]:
    """The lines of a table but those of times, by what they are of and, where several are of the same, their place among these."""
    counts, keyed = Counter[str](), dict[tuple[str, int], dict[str, str]]()
    for line in csv_lines(path):
        if line.get("metric") == TIMES:
            continue
        name = line_name(line)
        keyed[name, counts[name]] = {column: text for column, text in line.items() if column != TIMES}
        counts[name] += 1
    return keyed


def line_name(line: Mapping[str, str]) -> str:
    """What a line is of: all its words but its numbers in rows.csv, the image and what was done to it in a table of samples."""
    columns = [column for column in line if column not in NUMBERS] if {"metric", "predicted"} & {*line} else sample_columns(line)
    return " ".join(line[column] for column in columns if line[column])


def sample_columns(columns: Sequence[str] | Mapping[str, str]) -> list[str]:
    """The columns that say of what a line of a table of samples is."""
    known = ("checkpoint", "sample", "norm", "images", "method", "probe", "setting", "repeat", "corruption", "severity", "cell")
    return [column for column in known if column in columns]


def differing_cells(name: str, line: Mapping[str, str], new_line: Mapping[str, str]) -> Iterator[str]:
    """The cells in which two lines of one name differ, as words."""
    for column in dict.fromkeys((*line, *new_line)):
        if line.get(column) != new_line.get(column):
            before, now = (repr(shorten(some.get(column, "not there"), 40)) for some in (line, new_line))
            yield f"{column} of {shorten(name, 120)!r} was {before} and is {now}"


def is_of_no_value(sentence: str) -> bool:
    """Whether a differing cell holds none of the numbers that were measured, which are told first."""
    return sentence.partition(" of ")[0] in NUMBERS and not sentence.startswith(("value of ", "count of "))


def csv_lines(path: Path) -> Iterator[dict[str, str]]:
    """The lines of a table; InputError where it cannot be read as one."""
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise InputError(f"{path} is larger than any table of robench")
        head, *lines = csv.reader(io.StringIO(text_at(path), newline=""), strict=True)
        for line in lines:
            if len(line) != len(head):
                raise InputError(f"{path} has a line of {len(line)} cells, but {len(head)} columns")
            yield dict(zip(head, line, strict=True))
    except (OSError, csv.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path} as a table ({type(error).__name__})") from None
