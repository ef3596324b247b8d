"""Arrays in an npz file, read by their headers: which are there, and of a large one only the rows that are asked for."""

from __future__ import annotations

import io
import lzma
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np

from robench.core.errors import InputError
from robench.core.files import unpacked_limit
from robench.data.images import machine_memory

READ_ERRORS = (
    OSError, ValueError, EOFError, RuntimeError, NotImplementedError, SyntaxError, TypeError, OverflowError, MemoryError, TokenError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
LONGEST_HEADER = 2**14  # bytes; a header says itself how long it is, and numpy reads that before it refuses more than 10,000
PIECE = 2**20  # bytes that are passed over at once
CHECKSUM_BYTES = 2**26  # bytes behind the last row that are read for the checksum at the end of the array; beyond, it stays unverified
DENSEST = 1032  # zlib's deflate packs at most so many bytes into one
HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class ArchiveMember:
    """An array in a file that is not read yet: its key, shape and dtype, whether it lies column by column, and where its numbers begin."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    columns: bool
    begin: int

    @property
    def bytes(self) -> int:
        """The size that the header declares."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def words(self) -> str:
        """The key with shape and dtype, as a list shows it."""
        return f"{self.key} {self.dtype} {self.shape}"


def members(path: Path, name: str, needed: Callable[[str], object]) -> dict[str, ArchiveMember]:
    """The arrays of an npz file, from their headers alone; InputError where the file is no such file, or damaged where it is needed."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an npz file, or was cut short: make it with numpy.savez_compressed, or fetch it again")
    with refuse_damage(name), zipfile.ZipFile(path) as archive:
        arrays = {}
        for file in [info.filename for info in archive.infolist() if info.filename.endswith(".npy")]:
            key = file.removesuffix(".npy")
            with nullcontext() if needed(key) else suppress(*READ_ERRORS):
                arrays[key] = read_header(archive, path, file)
        return arrays


def read_header(archive: zipfile.ZipFile, path: Path, file: str) -> ArchiveMember:
    """The header of one array."""
    with archive.open(file) as handle:
        begin = io.BytesIO(handle.read(LONGEST_HEADER))
    version = np.lib.format.read_magic(begin)
    if version not in HEADER_READERS:
        raise ValueError(f"{file} has the format {version}")
    shape, columns, dtype = HEADER_READERS[version](begin)
    return ArchiveMember(path, file.removesuffix(".npy"), tuple(map(int, shape)), dtype, bool(columns), begin.tell())


@contextmanager
def refuse_damage(name: str) -> Iterator[None]:
    """InputError for whatever a damaged file raises."""
    try:
        yield
    except READ_ERRORS as error:
        raise InputError(f"{name} cannot be read ({error}): the file is damaged, or holds something other than plain arrays") from error


def read_array(member: ArchiveMember, name: str) -> np.ndarray:
    """The whole array."""
    refuse_absurd(member, name, member.bytes)
    with refuse_damage(name), zipfile.ZipFile(member.path) as archive, archive.open(f"{member.key}.npy") as handle:
        array: np.ndarray = np.lib.format.read_array(handle, allow_pickle=False)
        handle.read(1)  # the end, where the checksum is compared
        return array


def read_member_rows(member: ArchiveMember, wanted: np.ndarray, name: str) -> np.ndarray:
    """The rows of an array at these places, (M,), in that order; the file is unpacked as far as the last of them.

    The checksum, which speaks of the whole array, is compared where what follows is not large.
    """
    size = math.prod(member.shape[1:]) * member.dtype.itemsize
    if member.columns or not size:
        rows: np.ndarray = read_array(member, name)[wanted]
        return rows
    refuse_absurd(member, name, len(wanted) * size)
    rows = np.empty((len(wanted), *member.shape[1:]), member.dtype)
    flat = rows.reshape(len(wanted), -1)
    with refuse_damage(name), zipfile.ZipFile(member.path) as archive, archive.open(f"{member.key}.npy") as handle:
        skip_bytes(handle, member.begin)
        at = 0
        for place in np.argsort(wanted, kind="stable").tolist():
            row = int(wanted[place])
            skip_bytes(handle, (row - at) * size)
            flat[place] = np.frombuffer(read_exactly(handle, size), member.dtype)
            at = row + 1
        remaining_bytes = member.bytes - at * size
        if remaining_bytes <= CHECKSUM_BYTES:
            skip_bytes(handle, remaining_bytes)
            handle.read(1)
    return rows


def refuse_absurd(member: ArchiveMember, name: str, wanted: int) -> None:
    """InputError where an array holds objects, where the file cannot hold what its header declares, and where memory cannot."""
    if member.dtype.hasobject:
        raise InputError(f"{name} cannot be read: {member.key} holds Python objects, which may run code; store plain arrays")
    with refuse_damage(name), zipfile.ZipFile(member.path) as archive:
        info = archive.getinfo(f"{member.key}.npy")
    declared = member.begin + member.bytes
    most = info.compress_size * DENSEST + PIECE if info.compress_type == zipfile.ZIP_DEFLATED else info.file_size
    if info.file_size != declared or info.file_size > most:
        raise InputError(
            f"{name} is damaged: {member.key} declares {member.dtype} of shape {member.shape}, {member.bytes:,} bytes; the file can hold "
            f"{max(min(info.file_size, most) - member.begin, 0):,} at most"
        )
    if wanted > unpacked_limit(member.path.stat().st_size):
        raise InputError(
            f"{name}: {member.key} would unpack to {wanted:,} bytes, far more than the {member.path.stat().st_size:,} of the file: "
            "store it unpacked (numpy.savez), or take fewer images with --n"
        )
    if wanted > machine_memory():
        raise InputError(
            f"{name}: {member.key} takes {wanted:,} bytes, and this machine has {machine_memory():,.0f}: take fewer images with --n"
        )


def skip_bytes(handle: IO[bytes], count: int) -> None:
    """Passes over so many bytes."""
    while count > 0:
        count -= len(read_exactly(handle, min(count, PIECE)))


def read_exactly(handle: IO[bytes], count: int) -> bytes:
    """So many bytes; EOFError where the file ends before."""
    data = handle.read(count)
    if len(data) < count:
        raise EOFError("the array is cut short")
    return data
