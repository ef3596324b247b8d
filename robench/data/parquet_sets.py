"""Images in parquet files, as Hugging Face's hub keeps them: a folder, one file, or a data set of the hub by its name.

At the beginning footers, labels and names are read; an image is read when it is decoded. Code of a repository is never run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from robench.core.contained_images import open_parquet, parquet_errors, parquet_fault
from robench.core.decoding import Item
from robench.core.errors import InputError
from robench.core.files import is_existing_path
from robench.data.catalogues import Catalogue
from robench.data.files import MOST_CLASSES
from robench.data.hub_snapshots import CONVERTED, HUB_NAME, cached_snapshot, fetched_snapshot, repository_folder
from robench.data.layouts import SPLIT_WORDS
from robench.data.parquet_features import ParquetColumns, parquet_columns, refuse_other_columns
from robench.data.source_options import chosen_split, refuse_missing_shards, source_and_options, split_in_name

PARQUET_OPTIONS = ("config", "image", "label", "revision")
LONGEST_PATH = 1024  # letters of the name of an image
ROWS_OF_NAMES = 64  # that are read at once


@dataclass(frozen=True)
class ParquetFile:
    """A parquet file of a set: where it lies, its path below the folder of the set, its configuration and its split, each "" for none."""

    path: Path
    relative: str
    config: str
    split: str


class CellItems(Sequence[Item]):
    """The items of all rows of some parquet files, made when they are asked for."""

    def __init__(self, groups: Sequence[tuple[str, int, int]], column: str) -> None:
        """Takes the path, the number and the rows of each row group."""
        self.groups, self.column = groups, column
        self.begins = np.cumsum([0, *(rows for _, _, rows in groups)]).tolist()

    def __len__(self) -> int:
        return int(self.begins[-1])

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        group = bisect_right(self.begins, place) - 1
        path, number, _ = self.groups[group]
        return ("cell", path, self.column, number, place - self.begins[group])


def parquet_catalogue(text: str, split: str, data_dir: Path, download: bool) -> Catalogue:
    """The images of one split of parquet files, in the order of the files.

    Args:
        text: ORG/NAME of a data set of the hub, a folder or a file, here or in data_dir, with options: "ORG/NAME,config=plain_text";
            `image` and `label` name columns, `revision` another version of the repository.
        split: "train", "test" or "val"; val stands in for test. Files whose names say no split are read whole, as "all".
        data_dir: where folders are looked up, too.
        download: whether the hub may be asked for what is not in its cache.

    Raises:
        InputError: one sentence, for whatever is missing, damaged, or can be read in two ways.
    """
    source, options = source_and_options(text, "hf-data", PARQUET_OPTIONS)
    place = next((place for place in (Path(source).expanduser(), data_dir / source) if is_existing_path(place)), None)
    name = f"hf-data:{source if place is None else place.resolve().name}" + (f",config={options['config']}" if "config" in options else "")
    if place is None:
        folder = hub_folder(source, split, options, data_dir, download)
    elif "revision" in options:
        raise InputError(f"{name} lies on this machine, and a revision is one of the hub: leave ,revision= out")
    else:
        folder = place
    files = files_of_config(parquet_files(folder, name), options.get("config"), name)
    taken, stored, notes = chosen_split([file.split for file in files], split, name)
    chosen = [file for file in files if file.split == taken]
    if folder.is_dir():
        advice = "add --download" if place is None else "copy the others as well, or name one file"
        refuse_missing_shards([file.relative for file in chosen], name, advice)
    columns = columns_of_files(chosen, folder, options, name)
    return catalogue_of_files(chosen, files, columns, (name, stored), notes)


def hub_folder(repo: str, split: str, options: Mapping[str, str], data_dir: Path, download: bool) -> Path:
    """The folder of a data set in the hub's cache; what the split needs is fetched where that is allowed and it is not there."""
    if not HUB_NAME.fullmatch(repo):
        raise InputError(f"hf-data:{repo} not found here or in {data_dir}, and it is no ORG/NAME of the hub: name one of them")
    revision, name = options.get("revision", "main"), f"hf-data:{repo}"

    def needed_files(relatives: Sequence[str]) -> list[str]:
        files = files_of_config([parquet_file(Path(), Path(each)) for each in relatives], options.get("config"), name)
        taken, _, _ = chosen_split([file.split for file in files], split, name)
        return [file.relative for file in files if file.split == taken]

    snapshot = cached_snapshot(repo, revision)
    if not download:
        if snapshot is None:
            where = f"{repository_folder(repo)} has no snapshot of the revision {revision}"
            raise InputError(f"hf-data:{repo} not found here or in {data_dir}, and {where}: add --download to fetch it")
        return snapshot
    if snapshot is not None and has_needed_files(snapshot, needed_files, name):
        return snapshot
    return fetched_snapshot(repo, revision, needed_files)


def has_needed_files(snapshot: Path, needed_files: Callable[[Sequence[str]], Sequence[str]], name: str) -> bool:
    """Whether the files of the split lie in a snapshot, all of them as far as their names say how many there are."""
    try:
        refuse_missing_shards(needed_files([file.relative for file in parquet_files(snapshot, name)]), name, "")
    except InputError:
        return False
    return True


def catalogue_of_files(
    chosen: Sequence[ParquetFile], files: Sequence[ParquetFile], columns: ParquetColumns, words: tuple[str, str], notes: Sequence[str]
) -> Catalogue:
    """The catalogue of the chosen files, whose labels, where they are text or have no names, count those of all files."""
    name, split = words
    groups = [group for file in chosen for group in row_groups(file)]
    labels, classes, more = numbered_labels(chosen, files, columns, name)
    items = CellItems(groups, columns.image)
    if len(items) != len(labels):
        raise InputError(f"{name}: its files declare {len(items)} rows and hold {len(labels)} labels: they are damaged")
    y = torch.from_numpy(labels)
    understood = (
        f"{name} was read from {len(chosen)} parquet file{'s' * (len(chosen) > 1)}: images in {columns.image}, labels in {columns.label}"
    )
    notes = (f"{understood}; {len(items)} images, {len(classes)} classes", *notes, *more)
    return Catalogue(name, split, items, image_names(chosen, columns), y, torch.arange(len(y)), classes, notes)


def parquet_files(folder: Path, name: str) -> list[ParquetFile]:
    """The parquet files below a folder, sorted by their paths, or the one file; InputError where there are none."""
    if folder.is_file():
        return [ParquetFile(folder, folder.name, "", split_in_name(folder.name))]
    relatives = [path.relative_to(folder) for path in sorted(folder.rglob("*.parquet")) if path.is_file()]
    found = [parquet_file(folder, each) for each in relatives if not any(part.startswith(".") for part in each.parts)]
    if not found:
        others = sorted({path.suffix for path in folder.rglob("*") if path.suffix and path.is_file()})
        what = f"it has files of {', '.join(others[:6])}" if others else "it is empty"
        raise InputError(
            f"{name} holds no parquet file ({what}); of a data set of the hub, try ,revision={CONVERTED}: scripts are never run"
        )
    return found


def parquet_file(folder: Path, relative: Path) -> ParquetFile:
    """What the path of a file below the folder of its set says."""
    return ParquetFile(folder / relative, relative.as_posix(), config_in_name(relative), split_in_name(relative.as_posix()))


def config_in_name(relative: Path) -> str:
    """The configuration that folders say: all but `data` and those that are called as a split."""
    return "/".join(part for part in relative.parent.parts if part != "data" and part.casefold() not in SPLIT_WORDS)


def files_of_config(files: Sequence[ParquetFile], config: str | None, name: str) -> list[ParquetFile]:
    """The files of a configuration; InputError where there are several and none is named, and where the named one is not there."""
    configs = sorted({file.config or "default" for file in files})
    if config is None and len(configs) > 1:
        raise InputError(f"{name} has the configurations {', '.join(configs[:12])}: name one, as {name},config={configs[0]}")
    if config is not None and config not in configs:
        raise InputError(f"{name}: there is no configuration {config!r}: it has {', '.join(configs[:12])}")
    return [file for file in files if (file.config or "default") == (config or configs[0])]


def columns_of_files(files: Sequence[ParquetFile], folder: Path, options: dict[str, str], name: str) -> ParquetColumns:
    """The columns that are used, the same in every file."""
    readme = (folder if folder.is_dir() else folder.parent) / "README.md"
    schemas = [(file.relative, schema_of(file)) for file in files]
    columns = parquet_columns(schemas[0][1], readme, options.get("config") or files[0].config or "default", options, name)
    refuse_other_columns(schemas, columns, name)
    return columns


def schema_of(file: ParquetFile) -> Any:
    """The schema of a file."""
    try:
        return open_parquet(str(file.path)).schema_arrow
    except InputError:
        raise
    except parquet_errors() as error:
        raise parquet_fault(file.path, error) from error


def row_groups(file: ParquetFile) -> Iterator[tuple[str, int, int]]:
    """Path, number and rows of each row group; InputError where the file declares more rows than it can hold.

    Nothing else in the footer is looked at: pyarrow ends the process for some damages of what stands there on a column.
    """
    metadata = open_parquet(str(file.path)).metadata
    size = file.path.stat().st_size
    if not 0 <= metadata.num_rows <= size:
        raise InputError(f"{file.path} declares {metadata.num_rows:,} images, which its {size:,} bytes cannot hold: it is damaged")
    try:
        for number in range(metadata.num_row_groups):
            yield str(file.path), number, metadata.row_group(number).num_rows
    except parquet_errors() as error:
        raise parquet_fault(file.path, error) from error


def read_labels(file: ParquetFile, column: str) -> Any:
    """The labels of a file: whole numbers (N,) int64, or a list of N texts; InputError for any other, and for none."""
    import pyarrow

    types = pyarrow.types
    try:
        kind = schema_of(file).field(column).type
        is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)
        values = open_parquet(str(file.path), column if is_text else "").read(columns=[column], use_threads=False).column(0)
        if values.null_count:
            raise InputError(f"{file.path}: {column} holds no label (null) in {values.null_count} of {len(values)} rows: leave these out")
        if is_text:
            return [text for chunk in values.chunks for text in texts_of(chunk)]
        if types.is_integer(kind):
            return values.cast(pyarrow.int64()).to_numpy().astype(np.int64)
    except InputError:
        raise
    except parquet_errors() as error:
        raise parquet_fault(file.path, error) from error
    raise InputError(f"{file.path}: labels in {column} are {kind}: they must be whole numbers or text; ,label=COLUMN names another")


def texts_of(chunk: Any) -> list[str]:
    """The texts of a column that is stored as a dictionary."""
    texts = [str(text)[:LONGEST_PATH] for text in chunk.dictionary.to_pylist()]
    return [texts[place] for place in chunk.indices.to_pylist()]


def numbered_labels(
    chosen: Sequence[ParquetFile], files: Sequence[ParquetFile], columns: ParquetColumns, name: str
) -> tuple[np.ndarray[Any, Any], tuple[str, ...], tuple[str, ...]]:
    """The labels of the chosen files as numbers, the names of the classes, and notes."""
    read = {file.relative: read_labels(file, columns.label) for file in (chosen if columns.classes else files)}
    texts = {isinstance(values, list) for values in read.values()}
    if len(texts) != 1:
        raise InputError(f"{name}: labels in {columns.label} are text in some files and numbers in others")
    classes, notes = columns.classes, tuple[str, ...]()
    if texts == {True}:
        classes = classes or tuple(sorted({label for values in read.values() for label in values}))
        place = {label: k for k, label in enumerate(classes)}
        unknown = next((label for values in read.values() for label in values if label not in place), None)
        if unknown is not None:
            raise InputError(f"{name}: the label {unknown!r} in {columns.label} is none of its classes")
        read = {file: np.array([place[label] for label in values], np.int64) for file, values in read.items()}
        notes = (
            () if columns.classes else (f"{name}: labels in {columns.label} are text, and count its {len(classes)} texts in their order",)
        )
    labels = np.concatenate([read[file.relative] for file in chosen])
    refuse_unnumbered(read.values(), columns, name)
    most = max((int(values.max()) for values in read.values() if len(values)), default=-1)
    return labels, classes or tuple(map(str, range(most + 1))), notes


def refuse_unnumbered(arrays: Any, columns: ParquetColumns, name: str) -> None:
    """InputError for labels below 0, which Hugging Face writes where a split has none, and for ones that are no labels."""
    for values in arrays:
        if len(values) and int(values.min()) < 0:
            raise InputError(
                f"{name}: labels in {columns.label} go down to {int(values.min())}, which stands for unknown: take another split"
            )
        if len(values) and int(values.max()) >= (len(columns.classes) or MOST_CLASSES):
            most = f"it names {len(columns.classes)} classes" if columns.classes else f"{MOST_CLASSES:,} classes are the most"
            raise InputError(f"{name}: labels in {columns.label} go up to {int(values.max())}, and {most}")


def image_names(files: Sequence[ParquetFile], columns: ParquetColumns) -> list[str]:
    """A name for each image: the path that stands beside its bytes, else FILE/ROW."""
    names: list[str] = []
    for file in files:
        stored = stored_paths(file, columns.image) if columns.has_paths else iter(())
        rows = open_parquet(str(file.path)).metadata.num_rows
        names += [next(stored, None) or f"{file.relative}/{row}" for row in range(rows)]
    return names


def stored_paths(file: ParquetFile, column: str) -> Iterator[str | None]:
    """What stands in the field `path` of the images, row by row; None where it is no name."""
    try:
        for batch in open_parquet(str(file.path)).iter_batches(ROWS_OF_NAMES, columns=[f"{column}.path"], use_threads=False):
            for value in batch.column(0).to_pylist():
                path = (value or {}).get("path")
                yield path if path and len(path) <= LONGEST_PATH else None
    except parquet_errors() as error:
        raise parquet_fault(file.path, error) from error
