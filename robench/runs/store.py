"""Where a run keeps its state: the journal of its entries, and the images and maps that its stages make, in .npy files beside it."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robench.core.errors import InputError
from robench.core.files import ELSEWHERE_ADVICE, allocate_file, refuse_link, room_advice
from robench.core.folders import (
    HIDDEN_FOLDER,
    Destination,
    hold_file,
    hold_state_folder,
    is_disk_failure,
    kept_state_error,
    remove_half_written,
)
from robench.core.journal import Adds, Journal, state_files
from robench.core.processes import World
from robench.data.npz_arrays import READ_ERRORS


class Store:
    """The state of one process of a run.

    Attributes:
        journal: the finished pieces of work.
        folder: where arrays lie; a temporary folder where the run keeps no state.
        world: the processes that share the images.
    """

    def __init__(self, journal: Journal, folder: Path, world: World) -> None:
        self.journal, self.folder, self.world = journal, folder, world

    @classmethod
    def nowhere(cls, world: World) -> Store:
        """A store that keeps nothing, before there is one."""
        return cls(Journal(None, {}), Path(), world)

    def file(self, name: str) -> Path:
        """The file of an array that belongs to the run alone."""
        return self.folder / f"{name}.npy"

    @property
    def keeps_state(self) -> bool:
        """Whether the state is still there after the run."""
        return self.journal.path is not None

    def check(self, file: Path, begun: bool) -> None:
        """Raises InputError where the array of a run that has begun is gone."""
        if begun and not file.exists():
            raise InputError(f"the run cannot go on: {file} is gone, and with it what was saved; start anew in another folder")


@contextmanager
def open_store(
    world: World, folder: Path | Destination | None, header: Mapping[str, Any], *, resume: bool, adds: Adds | None
) -> Iterator[Store]:
    """Opens the store of a run whose folder is held already (`hold_run_files`); of a run that is refused at once nothing is left behind.

    The arrays of a run without a folder are there as long as its store is.

    Args:
        world: the processes that share the images.
        folder: where the state lies; None keeps none.
        header: what identifies the run, as plain JSON values.
        resume: whether it goes on with the state that is there.
        adds: adds(theirs, ours) -> whether a header only adds to that of an earlier run, which can then go on.

    Raises:
        InputError: where the state belongs to another run, or the folder cannot be written into.
    """
    work = folder.work if isinstance(folder, Destination) else folder
    if work is not None and world.rank == 0:
        remove_half_written(work)
        if not state_files(work):  # arrays without a state say nothing
            shutil.rmtree(work / HIDDEN_FOLDER, ignore_errors=True)
    journal = process_journal(world, work, header, resume, adds)
    with journal.remove_if_refused(), ExitStack() as stack:
        if work is not None:
            stack.enter_context(keep_state_on_full_disk(journal, isinstance(folder, Destination) and folder.replaces))
        arrays = folder_of_arrays(work)
        if work is not None:
            stack.callback(_remove_if_empty, arrays)
        store = Store(journal, arrays, world)
        if work is None:
            weakref.finalize(store, shutil.rmtree, arrays, ignore_errors=True)
        yield store
        world.first_of(0)
        journal.finish()
        if work is not None:
            shutil.rmtree(arrays, ignore_errors=True)


def folder_of_arrays(work: Path | None) -> Path:
    """The folder of the arrays of a run, made: a temporary one where it keeps no state. Raises InputError where it cannot be made."""
    if work is not None:
        refuse_link(work / HIDDEN_FOLDER)
    try:
        if work is None:
            return Path(tempfile.mkdtemp())
        (work / HIDDEN_FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write into {work or tempfile.gettempdir()}: {error.strerror or error}{ELSEWHERE_ADVICE}") from error
    return work / HIDDEN_FOLDER


@contextmanager
def keep_state_on_full_disk(journal: Journal, replaces: bool) -> Iterator[None]:
    """Says how a run goes on that the disk has ended, with UnfinishedError, so that its state is kept, where something is finished."""
    try:
        yield
    except InputError as error:
        if not is_disk_failure(error) or not any("stage" in entry for entry in (*journal.entries, *journal.added)):
            raise
        raise kept_state_error(error, replaces) from error


def _remove_if_empty(folder: Path) -> None:
    """Removes a folder that holds nothing."""
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def hold_run_files(world: World, folder: Path | Destination | None, *files: Path | None) -> Iterator[None]:
    """The folder and the files of a run for it alone; the first of several processes holds them, and all end where it is refused."""
    with ExitStack() as stack:
        refusal = None
        if world.rank == 0:
            try:
                stack.enter_context(hold_state_folder(folder))
                for file in files:
                    stack.enter_context(hold_file(file))
            except InputError as error:
                refusal = error
        if (refusal := world.first_of(refusal)) is not None:
            raise refusal
        yield


def process_journal(world: World, folder: Path | None, header: Mapping[str, Any], resume: bool, adds: Adds | None) -> Journal:
    """The journal of this process; the first process opens its own first, as it may clear away a finished run."""
    journal = Journal(folder, header, resume=resume, adds=adds) if world.rank == 0 else None
    world.first_of(0)
    journal = journal or Journal(folder, header, rank=world.rank, resume=True, adds=adds)
    world.first_of(0)
    return journal


def make_array_file(file: Path, shape: tuple[int, ...]) -> None:
    """Makes the file that `write_array_rows` writes into, all zero, unless another process just has.

    Args:
        file: a .npy file.
        shape: (N, C, H, W) of its float32 numbers.

    Raises:
        InputError: where there is no room.
    """
    refuse_link(file)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with refuse_failed_writes(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
            allocate_file(temporary, rows.offset + rows.nbytes)
            rows.flush()
            publish_file(temporary, file)
        finally:
            with suppress(OSError):
                temporary.unlink()


def publish_file(temporary: Path, file: Path) -> None:
    """Gives a file its name, unless there is one of that name already, into which another process may have written."""
    try:
        os.link(temporary, file)  # refuses to replace a file, in one step
    except FileExistsError:
        return
    except OSError:  # a disk without links
        if not file.exists():
            temporary.replace(file)


@contextmanager
def refuse_failed_writes(file: Path) -> Iterator[None]:
    """Raises InputError where the disk does not take what is written to a file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror or error}{ELSEWHERE_ADVICE}{room_advice(error)}") from error


def write_array_rows(file: Path | None, places: Tensor, images: Tensor) -> None:
    """Writes images (M, C, H, W) at their places in the file, through to the disk; the file is mapped no longer than that."""
    if file is not None and len(places):
        with refuse_failed_writes(file):
            rows = np.lib.format.open_memmap(file, "r+")
            rows[places.numpy()] = images.cpu().numpy()
            rows.flush()


def array_rows_at(file: Path, places: Tensor) -> Tensor:
    """The images (M, C, H, W) at some places of the file. Raises InputError where it does not hold them."""
    try:
        rows = np.lib.format.open_memmap(file, "r")
        return torch.from_numpy(np.ascontiguousarray(rows[places.numpy()]))
    except (*READ_ERRORS, IndexError) as error:
        raise InputError(f"{file} cannot be read as images of this run ({error}): begin anew in another folder") from error


def unwritten_mask(file: Path, places: Tensor) -> Tensor:
    """Which of the places nothing was written at, (M,) bool: all where there is no file."""
    if not file.exists():
        return torch.ones(len(places), dtype=torch.bool)
    return (array_rows_at(file, places) == 0).flatten(1).all(1)
