"""What a run leaves behind: rows.csv, samples.csv, manifest.json and pictures, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from robench.rows import Row, Sample
from robench.writing import write_whole


def table(kind: type[Row] | type[Sample], entries: Iterable[Row] | Iterable[Sample]) -> pd.DataFrame:
    """A table with one entry a line and one column a field, in the order of the dataclass."""
    return pd.DataFrame([asdict(entry) for entry in entries], columns=[field.name for field in fields(kind)])


def save(out: Path, rows: Iterable[Row], samples: Iterable[Sample], manifest: Mapping[str, Any]) -> list[Path]:
    """Writes rows.csv, samples.csv and manifest.json into `out`, all or none; returns their paths."""
    tables = {"rows.csv": table(Row, rows), "samples.csv": table(Sample, samples)}
    files = {out / name: frame.to_csv(index=False).encode() for name, frame in tables.items()}
    text = json.dumps(manifest, indent=2, allow_nan=False)
    return write_whole({**files, out / "manifest.json": f"{text}\n".encode()})
