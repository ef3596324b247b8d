"""Index files: text files that list images by number or by file name, one a line, and where the listed images stand."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from robench.core.errors import InputError
from robench.data.image_trees import ENDINGS

LARGEST_INDEX_FILE = 2**28  # bytes, unpacked
EXPECTED_LINES = "name a text file with one index or file name a line"
NAMED_AFTER_CLASS = re.compile(r"(ILSVRC2012_val_\d{8})_(n\d{8})(\.\w+)")  # how the hub's ILSVRC/imagenet-1k calls validation images


def indices_in(path: Path) -> tuple[int, ...] | tuple[str, ...]:
    """The whole numbers in a text file, one a line, or the names of image files; empty lines are skipped.

    Lines are taken for names where the first one ends as image files do. RobustBench lists its images so: WNID/FILE.

    Args:
        path: the file, in UTF-8 or UTF-16 with its mark, also packed with gzip.

    Raises:
        InputError: where there is no such text, a line is no whole number from 0 to 999,999,999 (no name), or one stands twice.
    """
    lines = index_lines(path)
    if next((line for line in lines if line), "").lower().endswith(ENDINGS):
        return file_names(lines, path)
    for number, line in enumerate(lines, 1):
        excerpt = line if len(line) <= 40 else f"{line[:37]}..."
        if line and not (line.isascii() and line.isdigit()):
            raise InputError(f"line {number} of the index file {path} is {excerpt!r}: each line must be one index, a whole number from 0")
        if len(line.lstrip("0")) > 9:
            raise InputError(f"line {number} of the index file {path} is {excerpt}: indices above 999,999,999 are not supported")
    indices = tuple(int(line) for line in lines if line)
    if not indices or len(set(indices)) < len(indices):
        raise InputError(f"the index file {path} {'names an index twice' if indices else 'is empty'}: list each image once")
    return indices


def file_names(lines: Sequence[str], path: Path) -> tuple[str, ...]:
    """The lines as names of files, with slashes; InputError for a line that is none, and for one that stands twice."""
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.replace("\\", "/")
        if name and not name.lower().endswith(ENDINGS):
            raise InputError(f"line {number} of the index file {path} is {line[:40]!r}, and the first is the name of an image file")
        if name in names:
            raise InputError(f"the index file {path} names {name} in line {names[name]} and in line {number}: list each image once")
        if name:
            names[name] = number
    return tuple(names)


def index_lines(path: Path) -> list[str]:
    """The lines of an index file, without spaces at their ends."""
    try:
        raw = path.read_bytes()
        if raw.startswith(b"\x1f\x8b"):
            raw = unpacked(path)
        marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Windows writes it
        return [line.strip() for line in raw.decode("utf-16" if marked else "utf-8-sig").splitlines()]
    except IsADirectoryError:
        raise InputError(f"the index file {path} is a folder: {EXPECTED_LINES}") from None
    except FileNotFoundError:
        raise InputError(f"there is no index file {path}: {EXPECTED_LINES}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"the index file {path} is a damaged gzip file") from None
    except OSError as error:
        raise InputError(f"the index file {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"the index file {path} is no text: it must have one index or file name a line") from None


def unpacked(path: Path) -> bytes:
    """The content of a gzip file; InputError where it is too much for a list of images."""
    with gzip.open(path) as stream:
        content = stream.read(LARGEST_INDEX_FILE + 1)
    if len(content) > LARGEST_INDEX_FILE:
        raise InputError(f"the index file {path} unpacks to more than {LARGEST_INDEX_FILE:,} bytes, and is no list of images")
    return content


def rows_of_names(files: Sequence[str], wanted: Sequence[str], what: str) -> Tensor:
    """Where the images of these names stand, (M,) int64, in the order of the names.

    A name fits a file where the shorter of their two paths is the end of the longer one: CLASS/FILE, FILE alone, or SPLIT/CLASS/FILE.
    ILSVRC2012_val_00000293_n01440764.JPEG counts as n01440764/ILSVRC2012_val_00000293.JPEG on both sides.

    Args:
        files: the N names of a set, such as CLASS/FILE; () where its images have none.
        wanted: names of some of them.
        what: what sentences call the set.

    Raises:
        InputError: where a name is not there, fits two files, or is that of a file which another name has taken.
    """
    if not files:
        listed_ids(wanted, what)
    places: dict[str, list[int]] = {}
    paths = [class_before_file(file) for file in files]
    for place, path in enumerate(paths):
        places.setdefault(PurePosixPath(path).name, []).append(place)
    taken: dict[int, str] = {}
    for name in wanted:
        path = class_before_file(name)
        fitting = [place for place in places.get(PurePosixPath(path).name, []) if is_path_end(paths[place], path)]
        if len(fitting) != 1:
            there = f"two of that name, {files[fitting[0]]} and {files[fitting[1]]}" if fitting else "no image of that name"
            raise InputError(f"the index file lists {name}, and {what} has {there}")
        if fitting[0] in taken:
            raise InputError(f"the index file lists {taken[fitting[0]]} and {name}, which are one image of {what}: list each image once")
        taken[fitting[0]] = name
    return torch.tensor([*taken], dtype=torch.int64)


def class_before_file(name: str) -> str:
    """A name as CLASS/FILE where the hub wrote the class behind the file's number, else as it is."""
    found = NAMED_AFTER_CLASS.fullmatch(PurePosixPath(name).name)
    return f"{found[2]}/{found[1]}{found[3]}" if found else name


def listed_ids(wanted: Sequence[int] | Sequence[str], what: str) -> Tensor:
    """The ids of a list, (M,) int64; InputError where it holds names, which the images of the set do not have.

    Args:
        wanted: what `indices_in` returns.
        what: what sentences call the set.
    """
    if any(isinstance(one, str) for one in wanted):
        raise InputError(f"the index file lists images by file name, and those of {what} have none: list them by index, a number a line")
    return torch.tensor([int(one) for one in wanted], dtype=torch.int64)


def is_path_end(one: str, other: str) -> bool:
    """Whether the shorter of two paths is the end of the longer one, folder by folder."""
    parts, others = PurePosixPath(one).parts, PurePosixPath(other).parts
    shared = min(len(parts), len(others))
    return parts[-shared:] == others[-shared:]
