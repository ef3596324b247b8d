"""What a run leaves behind: rows.csv, samples.csv, manifest.json and pictures, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

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
