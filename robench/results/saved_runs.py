"""Results folders read back: the rows and the manifest of a finished run, and which runs lie below a folder.

A folder may come from anywhere, so nothing in it is believed: what does not fit ends with one sentence. No file is run, and none is
written. The per-image tables are read by `results.image_values`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from robench.core.cells import cell_number, cell_whole_number, csv_cells
from robench.core.errors import InputError
from robench.core.files import is_existing_path, refuse_no_file
from robench.core.folders import MANIFEST, MANIFEST_FORMAT, OUR_FILES
from robench.core.journal import state_files
from robench.core.rows import Row
from robench.core.saved_results import json_at, manifest_value, text_at

ROW_FIELDS = {field.name: str(field.type) for field in fields(Row)}
ABSENT_CELLS: dict[str, Any] = {"preset": "", "data": "", "split": "", "seed": 0}  # what a row of an early version does not say
NEEDED_ROW_FIELDS = tuple(name for name in ROW_FIELDS if name not in (*ABSENT_CELLS, "low", "high", "interval"))
DEEPEST = 4  # folders below the one that is searched for runs
FINISHED, UNFINISHED, UNREADABLE = "finished", "unfinished", "unreadable"


@dataclass(frozen=True)
class SavedRun:
    """A finished run, as its folder tells it.

    Attributes:
        folder: the results folder.
        manifest: the content of manifest.json.
        rows: the measurements of rows.csv, in their order.
    """

    folder: Path
    manifest: Mapping[str, Any]
    rows: tuple[Row, ...]

    @cached_property
    def checkpoints(self) -> list[str]:
        """The names of the models, in the order of the rows."""
        return list(dict.fromkeys(row.checkpoint for row in self.rows))

    @property
    def command(self) -> str:
        """The command that measured it, such as eval; "" where the manifest does not say."""
        words = str(self.manifest.get("command", "")).split()
        return str(manifest_value(self.manifest, "words.command") or (words[1] if len(words) > 1 else ""))

    @property
    def finished(self) -> str:
        """When it ended, as 2026-11-28T21:53:35Z; "" where the manifest does not say."""
        return str(self.manifest.get("finished", ""))

    @property
    def flags(self) -> list[str]:
        """The sentences of the flags that were raised."""
        flags = self.manifest.get("flags")
        return [str(flag) for flag in flags] if isinstance(flags, list) else []


@dataclass(frozen=True)
class RunFolder:
    """A folder in which a run lies.

    Attributes:
        folder: its path.
        state: "finished", "unfinished" or "unreadable".
        reason: why it cannot be read, "" for others.
    """

    folder: Path
    state: str
    reason: str = ""


def saved_run(folder: Path) -> SavedRun:
    """The finished run in a results folder.

    Args:
        folder: written by `robench eval`, `attack`, `saliency` or `corrupt`, or by `Result.save`.

    Raises:
        InputError: one sentence, where there is no such folder, its run is not finished or of a newer version of robench, where a file is
            missing or cut short, where columns are missing, and where text stands where a number belongs.
    """
    if not is_existing_path(folder) or not folder.is_dir():
        raise InputError(f"no results folder: {folder}")
    if not (folder / MANIFEST).exists():
        raise InputError(missing_manifest_sentence(folder))
    manifest = manifest_content(folder / MANIFEST)
    refuse_newer(manifest, folder)
    if not (folder / "rows.csv").exists():
        raise InputError(f"{folder} has no rows.csv: it holds no measurement (eval, attack, saliency and corrupt write one)")
    return SavedRun(folder, manifest, tuple(rows_at(folder / "rows.csv")))


def manifest_content(path: Path) -> dict[str, Any]:
    """The content of a manifest; InputError where it is cut short, no JSON, or no dict.

    Args:
        path: the file.
    """
    content = json_at(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is no manifest of robench: copy the folder again, or measure again")
    return content


def missing_manifest_sentence(folder: Path) -> str:
    """Why a folder without a manifest is no finished run, and what to do."""
    if state_files(folder):
        return f"{folder} holds an unfinished run: go on with it by the same command and --resume --out {folder}"
    if (folder / "rows.csv").exists():
        return f"{folder} has no {MANIFEST}, without which its numbers cannot be placed: copy the whole folder, or measure again"
    return f"{folder} holds no finished run: a results folder has a {MANIFEST}"


def refuse_newer(manifest: Mapping[str, Any], folder: Path) -> None:
    """Raises InputError for results that a newer robench wrote.

    Args:
        manifest: the content of manifest.json.
        folder: where it lies.
    """
    version = manifest.get("format", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise InputError(f"{folder / MANIFEST} says format {version!r}, which is no whole number above 0: measure again")
    if version > MANIFEST_FORMAT:
        raise InputError(f"{folder} was written by a newer robench (format {version}, this one reads up to {MANIFEST_FORMAT}): upgrade")


def rows_at(path: Path) -> Iterator[Row]:
    """The rows of a rows.csv, strictly; columns of later versions are left alone.

    Args:
        path: the file.

    Raises:
        InputError: where it is cut short, lacks a column, has a line of another length, or text where a number belongs.
    """
    try:
        head, *lines = csv_cells(text_at(path))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} is not CSV: {error or 'it is empty'}") from None
    if missing := [name for name in NEEDED_ROW_FIELDS if head.count(name) != 1]:
        raise InputError(f"{path} needs one column {missing[0]!r}: it was not written by a measuring command of robench")
    if not lines:
        raise InputError(f"{path} holds nothing but its head")
    places = {name: head.index(name) for name in ROW_FIELDS if name in head}
    readers = [(name, place, CELL_KINDS[ROW_FIELDS[name]]) for name, place in places.items()]
    for number, line in enumerate(lines, 2):
        if len(line) != len(head):
            raise InputError(f"{path} has {len(line)} cells in line {number}, but {len(head)} columns")
        try:
            yield Row(**ABSENT_CELLS | {name: kind(line[place]) for name, place, kind in readers})
        except ValueError:
            raise InputError(wrong_cell_sentence(line, places, path, number)) from None


def float_or_nan(word: str) -> float:
    """A number, nan for an empty cell.

    Args:
        word: the cell.
    """
    return cell_number(word) if word else math.nan


CELL_KINDS: dict[str, Callable[[str], Any]] = {
    "int": cell_whole_number,
    "float": float_or_nan,
    "str": str,
}  # by the kind of a field of `Row`


def wrong_cell_sentence(line: Sequence[str], places: Mapping[str, int], path: Path, number: int) -> str:
    """Which cell of a line is no number, as a sentence."""
    for name, place in places.items():
        try:
            CELL_KINDS[ROW_FIELDS[name]](line[place])
        except ValueError:
            shown = line[place] if len(line[place]) <= 40 else f"{line[place][:40]}..."
            return f"{path} has {shown!r} in line {number} under {name!r}, where a number belongs"
    return f"{path} has no row in line {number}"


def run_folders(folder: Path) -> list[RunFolder]:
    """The runs that lie in a folder and below it, by their paths: `results/` is a plain folder, and may hold others.

    Hidden folders are left out, symbolic links are not followed, and a run is not searched for others.

    Args:
        folder: the folder itself may be a run.

    Raises:
        InputError: where there is no such folder.
    """
    if not is_existing_path(folder) or not folder.is_dir():
        raise InputError(f"no folder: {folder}")
    return list(runs_below(folder, DEEPEST))


def runs_below(folder: Path, depth: int) -> Iterator[RunFolder]:
    """The runs in a folder, which may be one itself, and down to so many folders below it."""
    if (folder / MANIFEST).exists():
        yield finished_folder(folder)
        return
    if state_files(folder):
        yield RunFolder(folder, UNFINISHED, missing_manifest_sentence(folder))
        return
    try:
        inner = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False) and entry.name[0] != ".")
    except OSError as error:
        yield RunFolder(folder, UNREADABLE, f"cannot read {folder}: {error.strerror or error}")
        return
    if depth:
        for name in inner:
            yield from runs_below(folder / name, depth - 1)


def finished_folder(folder: Path) -> RunFolder:
    """A folder with a manifest: finished, or unreadable with the reason."""
    try:
        refuse_newer(manifest_content(folder / MANIFEST), folder)
    except InputError as error:
        return RunFolder(folder, UNREADABLE, str(error))
    return RunFolder(folder, FINISHED)


def run_around(path: Path) -> Path | None:
    """The folder of a run in which a path lies, however deep; None where it lies in none.

    Args:
        path: of a file or folder, which need not exist; a link counts where it lies.
    """
    place = path.parent.resolve()
    return next((folder for folder in (place, *place.parents) if holds_run(folder)), None)


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a run of robench, finished or not: manifests of other programs are none."""
    try:
        if state_files(folder):
            return True
        if not (folder / MANIFEST).exists() or (folder / "rows.csv").exists():
            return (folder / MANIFEST).exists()
        content = manifest_content(folder / MANIFEST)
    except (InputError, OSError):  # a manifest that cannot be read, without rows
        return False
    return isinstance(content.get("words"), dict) or str(content.get("command", "")).split()[:1] == ["robench"]


def refuse_output_file(path: Path, own: Path | None = None) -> None:
    """Refuses a place of a file that a command writes beside runs: what is no file, and every place in or below the folder of a run.

    Args:
        path: the file, which need not exist.
        own: the folder of the command's own results, in which files of other names may lie.

    Raises:
        InputError: one sentence, where that is so.
    """
    try:
        refuse_no_file(path)
        place = path.parent.resolve()
        if own is not None and path.resolve() == own.resolve():
            raise InputError(f"{path} is the folder of the results, and no place for a file: name a file")
        if own is not None and place == own.resolve():
            if path.name in OUR_FILES:
                raise InputError(f"{path} belongs to the results in {own}: choose another name")
        elif (run := run_around(path)) is not None:
            raise InputError(f"{path} lies in the results folder of a run, {run}, which stays as it is: choose another place")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def refuse_output_folder(folder: Path) -> None:
    """Refuses a folder for the results of a comparison that lies in the folder of a run, or holds runs below and none itself.

    Args:
        folder: its path, which need not exist.

    Raises:
        InputError: one sentence, where that is so.
    """
    try:
        if (run := run_around(folder.resolve())) is not None:
            raise InputError(f"{folder} lies in the results folder of a run, {run}, which stays as it is: choose another place")
        if folder.is_dir() and (inner := [one.folder for one in run_folders(folder) if one.folder != folder and one.state != UNREADABLE]):
            raise InputError(f"{folder} is a folder of runs, such as {inner[0]}: choose a folder of its own")
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror or error}") from None
