"""The number of each image behind one number of a run, read from the one table that holds it: for tables of many runs."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from robench.core.errors import InputError
from robench.core.rows import OVERALL_PROBE, Row, setting_dict
from robench.results.image_values import (
    IMAGE_TABLES,
    TABLE_MARKS,
    ImageValues,
    known_images,
    of_checkpoint,
    refuse_contradiction,
    text_frame,
    values_behind,
    with_numbers,
)
from robench.results.saved_runs import SavedRun

LONGEST_HEAD = 1 << 16  # letters of the first line of a table


def values_of_row(run: SavedRun, row: Row) -> ImageValues | None:
    """The numbers of the images behind a row of a run; None where its tables do not hold them.

    Args:
        run: a finished run.
        row: one of its rows.

    Raises:
        InputError: where the table that holds them is cut short, has text where a number belongs, or contradicts the row.
    """
    rows = [other for other in run.rows if other.checkpoint == row.checkpoint]
    try:
        for kind, path in tables_of_row(run, row):
            frame = with_numbers(text_frame(path), run.folder)
            known = known_images(run, row.checkpoint, {kind: of_checkpoint(frame, row.checkpoint)})
            if (values := values_behind(row, known, rows)) is not None:
                refuse_contradiction(values)
                return values
    except (ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the files in {run.folder} cannot be used: {error.args[0] if error.args else error}") from None
    return None


def tables_of_row(run: SavedRun, row: Row) -> Iterator[tuple[str, Path]]:
    """The kinds and paths of the tables that may hold the images of a row, the likeliest first."""
    there = {kind_of_file(path): path for name in IMAGE_TABLES if (path := run.folder / f"{name}.csv").exists()}
    likely = likely_kind(row)
    kinds = [likely] if likely in there else [kind for kind in there if not likely]
    return ((kind, there[kind]) for kind in kinds)


def likely_kind(row: Row) -> str:
    """In which kind of table the images of a row stand; "" where it may be any, as for clean images."""
    if row.norm:
        return "attack"
    words = setting_dict(row.setting)
    if row.probe == OVERALL_PROBE or "severity" in words or "severities" in words:
        return "corruption"
    if "difficulty" in words:
        return "sequence"
    return "method" if "images" in words else ""


def kind_of_file(path: Path) -> str:
    """Which kind of stage a table is of, by its first line alone; InputError where it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            head = next(csv.reader([handle.readline(LONGEST_HEAD)]), [])
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    return next((kind for mark, kind in TABLE_MARKS.items() if mark in head), "corruption")
