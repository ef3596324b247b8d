"""The pixels of a map-style data set of the user's own, asked for by index as they are needed, in torch's worker processes or here."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from robench.core.decoding import pixel_digest
from robench.core.errors import InputError, UnfinishedError
from robench.data.dataset_items import ItemForm, item_of_dataset
from robench.data.stored_pixels import LOOKAHEAD, UNIT

LOOKS_AGAIN = 24  # at an image that has changed
Look = tuple[int, Tensor | str, int]  # an index, the pixels and the label; or what was raised in place of the pixels


@dataclass(frozen=True)
class WorkerWords:
    """What a DataLoader says of its worker processes.

    Attributes:
        count: how many; 0 for none.
        context: how they are started; None for a fork where there is one.
        begin: what each calls first, with its number, or None.
    """

    count: int = 0
    context: Any = None
    begin: Callable[[int], None] | None = None


class Looks(Dataset[Look]):
    """A data set behind its checks: an error becomes its sentence, so that the main process can look itself and raise it."""

    def __init__(self, dataset: Any, form: ItemForm) -> None:
        self.dataset, self.form = dataset, form

    def __getitem__(self, index: int) -> Look:
        try:
            return index, *item_of_dataset(self.dataset, index, self.form)  # as a tensor: a long message would be cut by a kill
        except Exception as error:
            return index, f"{type(error).__name__}: {error}", -1


class Turns:
    """The batches of indices that workers are to look at, in their order; a new order takes the place of the old."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class DatasetDecoder:
    """Asks a map-style data set for images; keeps nothing but the digest of each, by which it is known again.

    Attributes:
        dataset: of the user's own, with __getitem__.
        form: what its items have in common.
        workers: how many processes look ahead; 0 for none.
        known: index -> the digest of its pixels, of those that were seen, also by an earlier part of the run.
        shape: (C, H, W) of an image.
        dtype: of its pixels.
    """

    def __init__(self, dataset: Any, form: ItemForm, words: WorkerWords) -> None:
        self.dataset, self.form, self.words, self.workers = dataset, form, words, words.count
        self.shape, self.dtype = form.extent, form.dtype
        size = torch.Size(self.shape).numel() * torch.empty(0, dtype=self.dtype).element_size()
        self.unit = max(1, min(UNIT, LOOKAHEAD // (2 * max(1, self.workers) * size)))
        self.most = max(self.unit, LOOKAHEAD // size)
        self.known: dict[int, str] = {}
        self.turns, self.owner = Turns(), os.getpid()
        self.loader: DataLoader[Look] | None = None
        self.forget()

    def forget(self) -> None:
        """Forgets what was expected."""
        self.stream: Iterator[list[Look]] | None = None
        self.due: dict[int, int] = {}  # index -> its place in the order
        self.came, self.ready = 0, dict[int, tuple[Tensor | str, int]]()

    def expect(self, places: Iterable[int]) -> None:
        """Says in which order images will be asked for, so that workers can begin; what was expected before is forgotten.

        Args:
            places: indices of the data set.
        """
        self.forget()
        order = list(places)
        if self.workers and order:
            self.turns.batches = [order[first : first + self.unit] for first in range(0, len(order), self.unit)]
            self.due = {place: number for number, place in enumerate(order)}
            with without_child_signal():
                self.stream = iter(self.loader_of_process())

    def loader_of_process(self) -> DataLoader[Look]:
        """The DataLoader whose workers look ahead; a fork has one of its own."""
        if self.loader is None or self.owner != os.getpid():
            context = self.words.context or ("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
            self.owner = os.getpid()
            self.loader = DataLoader(
                Looks(self.dataset, self.form), batch_sampler=self.turns, num_workers=self.workers, collate_fn=list,
                multiprocessing_context=context, worker_init_fn=self.words.begin, persistent_workers=True,
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
        return self.loader

    def pixels(self, places: Sequence[int]) -> Tensor:
        """The images at some indices, (M, C, H, W); raises what `items` raises.

        Args:
            places: indices of the data set.
        """
        return self.items(places)[0]

    def items(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The images at some indices, (M, C, H, W), and their labels (M,) int64.

        Args:
            places: indices of the data set.

        Raises:
            InputError: for what is no image of such a set, and for one that is another than when it was seen before.
            UnfinishedError: where a worker process died.
        """
        if self.owner != os.getpid():  # a fork, whose workers are others
            self.forget()
        x, y = torch.empty((len(places), *self.shape), dtype=self.dtype), torch.empty(len(places), dtype=torch.int64)
        try:
            for row, place in enumerate(places):
                pixels, y[row] = self.look(place)
                self.check(place, pixels)
                x[row] = pixels
        except BaseException:
            self.end_workers()
            raise
        return x, y

    def end_workers(self) -> None:
        """Ends the worker processes at once, and not when their memory is collected, which may be in the middle of a message to them."""
        iterator = getattr(self.loader, "_iterator", None)
        self.loader = None
        self.forget()
        if iterator is not None and self.owner == os.getpid():
            with suppress(OSError, ValueError, RuntimeError), without_child_signal():
                iterator._shutdown_workers()

    def look(self, place: int) -> tuple[Tensor, int]:
        """The pixels and the label of one image, of a worker where it was expected about now."""
        number = self.due.get(place, -1)
        while place not in self.ready and self.came <= number < self.came + self.most:
            self.take_next_batch()
        found, label = self.ready.pop(place, ("", -1))
        if isinstance(found, Tensor):
            return found, label
        item = item_of_dataset(self.dataset, place, self.form)  # raises what the worker saw, with the lines of the data set's own code
        if found:
            raise UnfinishedError(f"{self.form.name}: image {place} could not be had in a worker process, and can here: {found}")
        return item

    def take_next_batch(self) -> None:
        """Takes what the workers looked at next."""
        assert self.stream is not None
        try:
            with without_child_signal():
                batch = next(self.stream)
        except (RuntimeError, OSError, EOFError) as error:  # what the data set raises has come as a word
            self.end_workers()
            reason = " ".join(str(error).split()) or type(error).__name__
            way = "go on with --resume, or with --workers 0 for none"
            raise UnfinishedError(f"a worker process of {self.form.name} ended before it was done ({reason}): {way}") from error
        self.came += len(batch)
        for place, found, label in batch:
            self.ready[place] = found, label
        while len(self.ready) > self.most:  # what was expected and never asked for
            self.ready.pop(next(iter(self.ready)))

    def check(self, place: int, x: Tensor) -> None:
        """InputError where the pixels are others than before."""
        digest = pixel_digest(x.numpy())
        if self.known.setdefault(place, digest) != digest:
            raise InputError(f"{self.form.name}: {self.reason_of_change(place)}")

    def reason_of_change(self, place: int) -> str:
        """Why an image is another one than before, as more looks show: a coin that is tossed for it hardly falls alike so often."""
        first = pixel_digest(item_of_dataset(self.dataset, place, self.form)[0].numpy())
        for _ in range(LOOKS_AGAIN):
            if pixel_digest(item_of_dataset(self.dataset, place, self.form)[0].numpy()) != first:
                return random_sentence(place)
        return f"image {place} has changed since it was read before: measure again, in another folder"


def random_sentence(index: int) -> str:
    """What is said of a data set that gives another image each time.

    Args:
        index: of the image.
    """
    way = "take random crops, flips and the like out of its transforms"
    return f"image {index} is another one each time it is asked for, as the data set draws random numbers: {way}"


@contextmanager
def without_child_signal() -> Iterator[None]:
    """Puts back what happens as a child process ends: torch would raise an error then, wherever the main process happens to be."""
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = signal.getsignal(signal.SIGCHLD) if main else None
    try:
        yield
    finally:
        if main and before is not None:
            signal.signal(signal.SIGCHLD, before)
