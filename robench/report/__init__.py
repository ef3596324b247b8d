"""What a run leaves behind: rows.csv, samples.csv, manifest.json and pictures, each written whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from robench.errors import InputError
from robench.rows import Row, Sample, Tried
from robench.writing import write_whole


def table(entries: Sequence[Any], kind: type[Any]) -> pd.DataFrame:
    """A table with one entry a line and one column a field, in the order of the dataclass `kind`."""
    return pd.DataFrame([asdict(entry) for entry in entries], columns=[field.name for field in fields(kind)])


def of_columns(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """A table from its columns; whole numbers stay whole where some are missing."""
    whole = {name for name, values in columns.items() if {type(value) for value in values} == {int, type(None)}}
    return pd.DataFrame({name: pd.array(list(values), dtype="Int64") if name in whole else values for name, values in columns.items()})


def save(
    out: Path, rows: Sequence[Row], samples: Sequence[Sample] | Sequence[Tried] | Mapping[str, Sequence[Any]], manifest: Mapping[str, Any]
) -> list[Path]:
    """Writes rows.csv, samples.csv and manifest.json into `out`, all or none; returns their paths.

    samples  the per-sample table as entries of one dataclass, or as columns by name
    """
    per_sample = of_columns(samples) if isinstance(samples, Mapping) else table(samples, type(samples[0]) if samples else Sample)
    tables = {"rows.csv": table(rows, Row), "samples.csv": per_sample}
    files = {out / name: frame.to_csv(index=False).encode() for name, frame in tables.items()}
    text = json.dumps(manifest, indent=2, allow_nan=False)
    return write_whole({**files, out / "manifest.json": f"{text}\n".encode()})


def read_rows(folder: Path) -> list[Row]:
    """The rows of rows.csv in a folder; InputError where it cannot be read as such."""
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": lambda word: float(word or "nan"), "str": str}
    try:
        with (folder / "rows.csv").open(newline="", encoding="utf-8") as handle:
            return [
                Row(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(Row) if f.name in line}) for line in csv.DictReader(handle)
            ]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(f"cannot read {folder / 'rows.csv'} ({type(error).__name__}): measure again with --force") from None
