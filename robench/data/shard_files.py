"""Which tar files a pattern of webdataset's names: local files alone, by braces, wildcards or a folder."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robench.core.errors import InputError
from robench.core.files import is_existing_file, is_existing_path
from robench.data.source_options import chosen_split, split_in_name

PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)  # one letter is a drive
RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")
MOST_SHARDS = 100_000
PACKED_ENDINGS = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class ShardList:
    """The shards of one split: what sentences call the set, its split, the paths in their order, notes."""

    name: str
    split: str
    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def shard_list(pattern: str, split: str, data_dir: Path) -> ShardList:
    """The shards that a pattern names, of one split, sorted by their paths.

    Args:
        pattern: a folder, a file, or a pattern with braces and wildcards, here or in data_dir.
        split: "train", "test" or "val", which names of files say; those of a set that say none are all taken, as "all".
        data_dir: where patterns are looked up, too.

    Raises:
        InputError: for anything but local files, where a file is missing, and where there is no such split.
    """
    refuse_remote(pattern)
    folder = next((place for place in (Path(pattern).expanduser(), data_dir / pattern) if is_existing_path(place) and place.is_dir()), None)
    if folder is not None:
        name = f"wds:{folder.resolve().name}"
        paths = shards_in_folder(folder, name)
        splits = [split_in_name(path.relative_to(folder).as_posix()) for path in paths]
    else:
        name = f"wds:{pattern_name(pattern)}"
        paths = sorted({*shards_of_pattern(pattern, data_dir, name)})
        splits = [split_in_name(path.name) for path in paths]
    taken, stored, notes = chosen_split(splits, split, name)
    return ShardList(name, stored, tuple(path for path, its in zip(paths, splits, strict=True) if its == taken), notes)


def refuse_remote(pattern: str) -> None:
    """InputError for anything but paths of this machine: commands (pipe:), addresses (http:, s3:, gs:), several sources in one."""
    if pattern.startswith("pipe:"):
        raise InputError(f"wds:{pattern[:80]} would run a command, and robench runs none: write its output to a file, and name that")
    if "::" in pattern:
        raise InputError(f"wds:{pattern[:80]} joins sources by ::, which is not read: write them as one pattern, as {{a,b}}.tar")
    if PROTOCOL.match(pattern):
        raise InputError(f"wds:{pattern[:80]} is no path of this machine, and shards are read from local files alone: fetch them first")


def shards_in_folder(folder: Path, name: str) -> list[Path]:
    """The tar files below a folder, sorted; InputError where there are none."""
    files = [path for path in sorted(folder.rglob("*")) if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    paths = [path for path in files if path.suffix == ".tar" and path.is_file()]
    if not paths:
        packed = next((path.name for path in files if path.name.endswith(PACKED_ENDINGS)), None)
        what = f"its tar files are packed, as {packed}: unpack them with gunzip or the like" if packed else "name the folder of the shards"
        raise InputError(f"{name} holds no file *.tar: {what}")
    return paths


def pattern_name(pattern: str) -> str:
    """What a pattern is called in rows: the last name in it up to its first sign of a pattern, without the marks at its end.

    Args:
        pattern: as the user wrote it.

    Example:
        >>> pattern_name("/data/imagenet-val-{000000..000049}.tar")
        'imagenet-val'
    """
    head, mark, _ = re.sub(r"\{[^{}]*$", "", re.split(r"(?=[{*?\[])", pattern, maxsplit=1)[0]), "", ""
    last = Path(head).name if not head.endswith("/") else ""
    return last.removesuffix(".tar").rstrip("-_. ") or Path(head + mark).resolve().name or "shards"


def shards_of_pattern(pattern: str, data_dir: Path, name: str) -> list[Path]:
    """The files that a pattern names, here or else in data_dir; InputError where one of them, or all, are not there."""
    names = [str(Path(each).expanduser()) for each in expanded_braces(pattern, name)]
    for place in (Path(), data_dir):
        found = [files_called(place, each) for each in names]
        if any(found):
            break
    missing = [each for each, files in zip(names, found, strict=True) if not files]
    if missing and len(missing) < len(names):
        raise InputError(
            f"{name}: {len(missing)} of {len(names)} shards are not there, such as {missing[0]}: fetch them, or name the others"
        )
    if missing:
        raise InputError(
            f"wds:{pattern} not found here or in {data_dir}: name a folder, a tar file, or a pattern such as x-{{000..049}}.tar"
        )
    return [file for files in found for file in files]


def files_called(place: Path, name: str) -> list[Path]:
    """The file of a name in a folder, or the files that it matches."""
    path = place / name
    if is_existing_file(path):
        return [path]
    matches = glob.glob(str(path), recursive=True) if glob.has_magic(name) else []  # noqa: PTH207 - patterns may be absolute
    return [Path(each) for each in matches if Path(each).is_file()]


def expanded_braces(pattern: str, name: str) -> Sequence[str]:
    """The names that braces stand for, as webdataset reads them, by the package braceexpand, which comes with it."""
    if "{" not in pattern or is_existing_file(Path(pattern)):
        return [pattern]
    count = 1
    for begin, end in RANGE.findall(pattern):
        count *= 1 + abs(int(end) - int(begin))  # braceexpand makes all of them before it gives one
    if count > MOST_SHARDS or pattern.count(",") > 1000 or pattern.count("{") > 10:
        raise InputError(f"{name}: its braces stand for more than {MOST_SHARDS:,} shards: name the folder, or use * in place of braces")
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise InputError(
            f"braces in wds:{pattern} are read by braceexpand, which is not installed: pip install braceexpand, or use * instead"
        ) from None
    try:
        names = list(braceexpand(pattern))
    except ValueError:
        raise InputError(f"wds:{pattern} has a brace without its other one: write it as x-{{000..049}}.tar") from None
    return list(dict.fromkeys(names))
