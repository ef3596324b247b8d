"""The tables that a run leaves behind, and its manifest: rows.csv, samples.csv, manifest.json, written whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from robench.core.cells import csv_cells, safe_cell, spelt_out
from robench.core.errors import InputError
from robench.core.files import write_whole
from robench.core.rows import Row, Sample

Entries = Sequence[Any] | Mapping[str, Sequence[Any]]  # lines of one dataclass, or columns by name


def frame_of_entries(entries: Sequence[Any], kind: type[Any]) -> pd.DataFrame:
    """A table with one entry a line and one column a field.

    Args:
        entries: instances of `kind`.
        kind: the dataclass whose fields, in their order, are the columns.
    """
    records = [{name: storable_value(value) for name, value in asdict(entry).items()} for entry in entries]
    return pd.DataFrame(records, columns=[field.name for field in fields(kind)])


def frame_of_columns(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """A table from its columns; whole numbers stay whole where some are missing.

    Args:
        columns: of the table, by name, all of one length; None where there is nothing.
    """
    whole = {name for name, values in columns.items() if {type(value) for value in values} == {int, type(None)}}
    texts = {name for name, values in columns.items() if any(isinstance(value, str) for value in values)}
    stored = {name: [storable_value(value) for value in values] if name in texts else values for name, values in columns.items()}
    return pd.DataFrame(
        {spelt_out(name): pd.array(list(values), dtype="Int64") if name in whole else values for name, values in stored.items()}
    )


def storable_value(value: Any) -> Any:
    """A value of a table; a text as a file can hold it, for pandas' own texts cannot hold others."""
    return spelt_out(value) if isinstance(value, str) else value


def frame_of(entries: Entries, kind: type[Any] = Sample) -> pd.DataFrame:
    """A per-image table: the entries of one dataclass, or columns by name; `kind` gives the columns where there is no entry."""
    return frame_of_columns(entries) if isinstance(entries, Mapping) else frame_of_entries(entries, type(entries[0]) if entries else kind)


def save_tables(out: Path, rows: Sequence[Row], samples: Entries, manifest: Mapping[str, Any], **more: Entries) -> list[Path]:
    """Writes rows.csv, samples.csv and manifest.json into a folder, all or none; returns their paths.

    Args:
        out: the folder, which exists.
        rows: the measurements.
        samples: the per-image table as entries of one dataclass, or as columns by name.
        manifest: plain values, without nan or infinity.
        more: further per-image tables, as `samples`, by the names of their files without .csv.
    """
    tables = {"rows": frame_of_entries(rows, Row), **{name: frame_of(entries) for name, entries in {"samples": samples, **more}.items()}}
    files = {out / f"{name}.csv": csv_bytes(frame) for name, frame in tables.items()}
    text = json.dumps(manifest, indent=2, allow_nan=False)
    return write_whole({**files, out / "manifest.json": f"{text}\n".encode()})


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A table as the bytes of a CSV file, in which no text is a formula (`core.cells.safe_cell`).

    Args:
        frame: any table.
    """
    texts = frame.select_dtypes(exclude=["number", "bool"])
    safe = frame.assign(**{str(name): texts[name].map(lambda cell: safe_cell(cell) if isinstance(cell, str) else cell) for name in texts})
    safe = safe.rename(columns=lambda name: safe_cell(str(name)))
    ends = any("\r" in str(cell) for name in texts for cell in texts[name])  # which the csv module would not quote
    text = safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC if ends else csv.QUOTE_MINIMAL)
    return text.encode("utf-8", "backslashreplace")


def read_rows(folder: Path) -> list[Row]:
    """The rows of rows.csv.

    Args:
        folder: the results folder.

    Raises:
        InputError: where it cannot be read as such.
    """
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": lambda word: float(word or "nan"), "str": str}
    try:
        head, *lines = csv_cells((folder / "rows.csv").read_bytes().decode())
        cells = [dict(zip(head, line, strict=False)) for line in lines if line]
        return [Row(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(Row) if f.name in line}) for line in cells]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read {folder / 'rows.csv'} ({type(error).__name__}): measure again with --force") from None
