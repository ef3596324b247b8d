"""The bytes of one image inside a larger file: a member of a tar archive, a cell of a parquet file. Nothing is unpacked to the disk."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from pathlib import Path
from typing import Any

from robench.core.errors import InputError

MOST_IMAGE_BYTES = 2**28  # of one encoded image
KEPT_BYTES = 2**26  # of one row group's images that stay in memory; a row group may be larger
BUFFER = 2**20  # bytes of a column that are read from the disk at once
OPEN_FILES = 4  # parquet files that stay open


def slice_bytes(path: str, offset: int, length: int) -> bytes:
    """A piece of a file, such as a member of an uncompressed tar archive.

    Args:
        path: of the file.
        offset: where the piece begins, in bytes.
        length: how many bytes.

    Raises:
        InputError: where the file cannot be read, or ends before.
    """
    if length > MOST_IMAGE_BYTES:
        raise InputError(f"{path}: an image of {length:,} bytes at byte {offset:,}: {MOST_IMAGE_BYTES:,} are the most")
    try:
        with Path(path).open("rb") as handle:
            handle.seek(offset)
            content = handle.read(length)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    if len(content) < length:
        raise InputError(f"{path} ends at byte {offset + len(content):,}, inside an image that goes on to {offset + length:,}")
    return content


def parquet_module() -> Any:
    """The module pyarrow.parquet; InputError where pyarrow is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError("parquet files are read by pyarrow, which is not installed: pip install pyarrow") from None
    return pyarrow.parquet


def parquet_errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises where a file is damaged."""
    import pyarrow

    return (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError, IndexError, KeyError, NotImplementedError)


def parquet_fault(path: Path | str, error: Exception) -> InputError:
    """The sentence for a parquet file that pyarrow cannot read.

    Args:
        path: of the file.
        error: what pyarrow said.
    """
    words = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path} cannot be read as a parquet file ({words[:200]}): it is damaged or was cut short; fetch it again")


def open_parquet(path: str, as_dictionary: str = "", reader: str = "") -> Any:
    """A parquet file whose footer has been read; its columns are read page by page.

    Args:
        path: of the file.
        as_dictionary: a column of text whose values are given once each, however often they stand there; "" for none.
        reader: who reads it; two that read in turns need an object each, as one keeps the size of what is read at once.

    Raises:
        InputError: where it is none, or damaged.
    """
    try:
        there = Path(path).stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    return opened_parquet(path, as_dictionary, reader, (there.st_mtime_ns, there.st_size))


@lru_cache(maxsize=OPEN_FILES)
def opened_parquet(path: str, as_dictionary: str, reader: str, version: tuple[int, int]) -> Any:  # noqa: ARG001 - they tell objects apart
    """The file at a path, kept open."""
    parquet = parquet_module()
    reading = {"buffer_size": BUFFER, "pre_buffer": False, "memory_map": False, "page_checksum_verification": True}
    try:
        return parquet.ParquetFile(path, read_dictionary=[as_dictionary] if as_dictionary else None, **reading)
    except parquet_errors() as error:
        raise parquet_fault(path, error) from error


class RowGroupImages:
    """The image column of one row group, read row by row as far as it was asked for; at most KEPT_BYTES of it stay in memory."""

    def __init__(self, file: Any, path: str, column: str, row_group: int) -> None:
        self.file, self.path, self.column, self.row_group = file, path, column, row_group
        self.begin()

    def begin(self) -> None:
        """Goes to the first row."""
        import pyarrow

        self.kept: deque[bytes | None] = deque()  # of the rows before next_row, the last ones
        self.next_row = self.kept_bytes = 0
        try:
            field = self.file.schema_arrow.field(self.column)
            leaf = f"{self.column}.bytes" if pyarrow.types.is_struct(field.type) else self.column
            self.batches = self.file.iter_batches(1, row_groups=[self.row_group], columns=[leaf], use_threads=False)
        except parquet_errors() as error:
            raise parquet_fault(self.path, error) from error

    def read_on(self) -> None:
        """Reads the next row; forgets the first of what is kept where that becomes too much."""
        try:
            batch = next(self.batches, None)
            values = [] if batch is None else batch.column(0).to_pylist()
        except parquet_errors() as error:
            raise parquet_fault(self.path, error) from error
        if not values:
            raise InputError(f"{self.path}: row group {self.row_group} ends at row {self.next_row}, and more rows were declared")
        for value in values:
            self.kept.append(value.get("bytes") if isinstance(value, dict) else value)
            self.kept_bytes += len(self.kept[-1] or b"")
            self.next_row += 1
        while len(self.kept) > 1 and self.kept_bytes > KEPT_BYTES:
            self.kept_bytes -= len(self.kept.popleft() or b"")

    def encoded_image(self, row: int) -> bytes | None:
        """The bytes in a row of the group, counted from 0; None where there are none.

        Args:
            row: its place in the row group.

        Raises:
            InputError: where the file is damaged there.
        """
        if row < self.next_row - len(self.kept):
            self.begin()
        while row >= self.next_row:
            self.read_on()
        return self.kept[row - self.next_row]


@lru_cache(maxsize=1)
def row_group_images(file: Any, path: str, column: str, row_group: int) -> RowGroupImages:
    """The row group that was asked for last: a process keeps one."""
    return RowGroupImages(file, path, column, row_group)


def cell_bytes(path: str, column: str, row_group: int, row: int) -> bytes:
    """The encoded image in a cell of a parquet file.

    Args:
        path: of the file.
        column: the column of the images: binary, or a struct with the binary field `bytes`, as Hugging Face writes them.
        row_group: its number, from 0.
        row: the place in the row group, from 0.

    Raises:
        InputError: where the file is damaged, and where the cell holds no bytes; a path in their place is not followed.
    """
    content = row_group_images(open_parquet(path, reader="images"), path, column, row_group).encoded_image(row)
    if not content:
        raise InputError(f"{path}: row {row} of row group {row_group} has no image: its {column} holds no bytes, and no path is followed")
    if len(content) > MOST_IMAGE_BYTES:
        raise InputError(f"{path}: row {row} of row group {row_group} has {len(content):,} bytes: {MOST_IMAGE_BYTES:,} are the most")
    return content
