"""What a run leaves behind: rows.csv, samples.csv, manifest.json and pictures, each written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from robench.errors import InputError
from robench.rows import Row, Sample


def prepare(out: Path) -> Path:
    """The output folder, made if need be and known to be writable before hours are spent; InputError if it is not."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return out
    except OSError as error:
        raise InputError(f"cannot write into {out}: {error.strerror or error}") from None


def whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Writes `path` through a temporary name in the same folder, so that it is there whole or not at all; returns it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def table(kind: type[Row] | type[Sample], entries: Iterable[Row] | Iterable[Sample]) -> pd.DataFrame:
    """A table with one entry a line and one column a field, in the order of the dataclass."""
    return pd.DataFrame([asdict(entry) for entry in entries], columns=[field.name for field in fields(kind)])


def save(out: Path, rows: Iterable[Row], samples: Iterable[Sample], manifest: Mapping[str, Any]) -> list[Path]:
    """Writes rows.csv, samples.csv and manifest.json into `out`; returns their paths."""
    tables = {"rows.csv": table(Row, rows), "samples.csv": table(Sample, samples)}
    written = [whole(out / name, lambda path, frame=frame: frame.to_csv(path, index=False)) for name, frame in tables.items()]  # type: ignore[misc]
    return [*written, save_json(out / "manifest.json", manifest)]


def save_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes a JSON file, whole or not at all; returns its path."""
    text = json.dumps(content, indent=2, allow_nan=True) + "\n"
    return whole(path, lambda partial: partial.write_text(text))
