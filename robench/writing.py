"""Files that appear whole or not at all: written under a temporary name, through to the disk, then moved into place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from robench.errors import InputError


def prepare(folder: Path) -> Path:
    """The folder, made if need be and known to be writable before hours are spent; InputError if it is not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror or error}") from None


def write_whole(files: Mapping[Path, bytes]) -> list[Path]:
    """Writes each file under a temporary name in its folder, then moves all into place; returns their paths.

    No temporary file is left behind. InputError where the place cannot be written.
    """
    moves = {path.with_name(f".{path.name}.{os.getpid()}.tmp"): path for path in files}
    first = next(iter(files))
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        try:
            for temporary, path in moves.items():
                write_synced(temporary, files[path])
            for temporary, path in moves.items():
                temporary.replace(path)
        finally:
            for temporary in moves:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {first}: {error.strerror or error}; choose another place") from error
    return list(files)


def write_synced(path: Path, data: bytes) -> None:
    """Writes `data` through to the disk, so that a move after it never leads to an empty file."""
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
