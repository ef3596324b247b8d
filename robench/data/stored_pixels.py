"""The pixels of images that are not kept in memory: shaped as a tensor (N, C, H, W), decoded where rows of it are asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from robench.core.decoding import DamagedImageError, Item, Pixels8, decoded_item, item_name, pixel_digest
from robench.core.errors import InputError, UnfinishedError
from robench.core.preprocessing import Preprocessing
from robench.data.decoding_workers import Answer, Order, worker_pool

UNIT = 16  # images in one order to a worker, fewer where they are large
LOOKAHEAD = 2**26  # bytes of pixels that may be decoded before they are asked for
ONE_SIZE_ADVICE = "pass --image-size to bring them to one, with --resize and --interpolation to say how"
Rows = Tensor | slice


def usual_workers() -> int:
    """How many processes decode images where the user does not say it: one a core, at most four."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class PixelSource(Protocol):
    """Where pixels come from: files that are decoded, or a data set of the user's own.

    Attributes:
        workers: how many processes work ahead; 0 for none.
        unit: how many images are had at once.
        known: place -> the digest of its pixels, of those that were seen, also by an earlier part of the run.
        shape: (C, H, W) of an image.
        dtype: of its pixels, uint8 or a float in [0, 1].
    """

    workers: int
    unit: int
    known: dict[int, str]
    shape: tuple[int, int, int]
    dtype: torch.dtype

    def expect(self, places: Iterable[int]) -> None:
        """Says in which order places will be asked for."""

    def pixels(self, places: Sequence[int]) -> Tensor:
        """The images at some places, (M, C, H, W)."""


class Decoder:
    """Decodes items, in this process or in workers; keeps nothing but the digest of each image, by which it is known again.

    Attributes:
        items: where the bytes of each image lie.
        preprocessing: how images are resized and cut.
        extent: height and width that all must have.
        name: what sentences call the set.
        workers: how many processes decode; 0 for this one alone.
        known: item -> the digest of its pixels, of those that were decoded, or of an earlier part of the run.
        shape: (3, H, W) of an image.
    """

    dtype = torch.uint8

    def __init__(self, items: Sequence[Item], preprocessing: Preprocessing, extent: tuple[int, int], name: str, workers: int) -> None:
        self.items, self.preprocessing, self.extent, self.name, self.workers = items, preprocessing, extent, name, workers
        self.shape = (3, *extent)
        self.known: dict[int, str] = {}
        self.queue: deque[int] = deque()
        self.passed: set[int] = set()  # of the queue, what was asked for out of turn
        self.orders: dict[int, tuple[Order, int]] = {}  # item -> the order that it is part of, and its place there
        self.owner = os.getpid()
        size = 3 * extent[0] * extent[1]
        self.unit = max(1, min(UNIT, LOOKAHEAD // (4 * size)))
        self.most = max(self.unit, LOOKAHEAD // size)

    def expect(self, places: Iterable[int]) -> None:
        """Says in which order items will be asked for, so that workers can begin; what was expected before is forgotten.

        Args:
            places: places of items.
        """
        if self.workers:
            self.queue, self.orders, self.passed, self.owner = deque(places), {}, set(), os.getpid()
            self.send_ahead()

    def send_ahead(self) -> None:
        """Hands expected items to the workers, as many as may be decoded ahead."""
        while self.queue and len(self.orders) + min(self.unit, len(self.queue)) <= self.most:
            next_ones = [self.queue.popleft() for _ in range(min(self.unit, len(self.queue)))]
            if due := [place for place in next_ones if place not in self.passed]:
                self.send(due)
            self.passed.difference_update(next_ones)

    def send(self, places: Sequence[int]) -> None:
        """Hands items to the workers."""
        order = Order([self.items[place] for place in places], self.preprocessing)
        for row, place in enumerate(places):
            self.orders[place] = order, row
        worker_pool(self.workers).send(order)

    def answers(self, places: Sequence[int]) -> Iterable[Answer]:
        """The answers to some items, in their order."""
        if not self.workers:
            yield from (self.decoded_here(place) for place in places)
            return
        if self.owner != os.getpid():  # a fork, whose workers are others
            self.expect(())
        if missing := [place for place in dict.fromkeys(places) if place not in self.orders]:
            self.passed |= set(missing) if self.queue else set()
            for first in range(0, len(missing), self.unit):
                self.send(missing[first : first + self.unit])
        for place in places:
            order, row = self.orders[place]
            try:
                yield order.wait()[row]
            except UnfinishedError:  # what else the dead worker was to decode is asked for anew
                self.expect(())
                raise
        for place in places:
            self.orders.pop(place, None)
        self.send_ahead()

    def decoded_here(self, place: int) -> Answer:
        """The answer to one item, decoded in this process."""
        try:
            pixels = decoded_item(self.items[place], self.preprocessing)
        except InputError as error:
            return error
        return pixels, pixel_digest(pixels)

    def pixels(self, places: Sequence[int]) -> Tensor:
        """The images at some places, (M, 3, H, W) uint8.

        Raises:
            DamagedImageError: where some cannot be read, with their places among those that were asked for.
            InputError: for an image of another size than the others.
            UnfinishedError: for one that has changed since it was read before, and where a worker died.
        """
        x = torch.empty((len(places), 3, *self.extent), dtype=torch.uint8)
        damaged: dict[int, DamagedImageError] = {}
        for row, (place, answer) in enumerate(zip(places, self.answers(places), strict=True)):
            if isinstance(answer, DamagedImageError):
                damaged[row] = answer
            elif isinstance(answer, Exception):
                raise answer
            else:
                self.check(place, *answer)
                x[row] = torch.from_numpy(answer[0]) if answer[0].flags.writeable else torch.from_numpy(np.array(answer[0]))
        if damaged:
            reasons = {row: str(error) for row, error in damaged.items()}
            sentences = "; ".join(dict.fromkeys(reasons.values()))
            raise DamagedImageError(f"{sentences}; --skip-damaged leaves such images out", reasons)
        return x

    def check(self, place: int, pixels: Pixels8, digest: str) -> None:
        """InputError for an image of another size than the others, UnfinishedError for one that is not as it was."""
        if pixels.shape[1:] != self.extent:
            sizes = (
                f"{item_name(self.items[place])} is {pixels.shape[2]}x{pixels.shape[1]}, and others are {self.extent[1]}x{self.extent[0]}"
            )
            raise InputError(f"{self.name}: images differ in size ({sizes}): {ONE_SIZE_ADVICE}")
        if self.known.setdefault(place, digest) != digest:
            way = "put it back and go on with --resume, or measure again in another folder"
            raise UnfinishedError(f"{item_name(self.items[place])} has changed since it was read before: {way}")


def readable_rows(pixels: Callable[[Tensor], Tensor], n: int, count: int, skips: bool) -> tuple[Tensor, Tensor]:
    """The places of the first images that can be read, at most `count` of n, and their pixels.

    Args:
        pixels: pixels(places (M,)) -> images (M, C, H, W).
        n: how many images there are.
        count: how many are wanted.
        skips: whether images that cannot be read are passed over; else they are an error.

    Raises:
        DamagedImageError: where one cannot be read and none is passed over, or none of the first ones can.
    """
    damaged: set[int] = set()
    while True:
        places = torch.tensor([place for place in range(min(n, count + len(damaged))) if place not in damaged][:count], dtype=torch.int64)
        try:
            return places, pixels(places)
        except DamagedImageError as error:
            worse = {int(places[row]) for row in error.reasons}
            if not skips or not worse or len(damaged | worse) >= n:
                raise
            damaged |= worse


class StoredPixels:
    """Rows of pixels (N, C, H, W) that are decoded as they are asked for: x[rows] is a tensor.

    Attributes:
        decoder: decodes files, or asks a data set of the user's own.
        rows: (N,) int64, which of its places these are.
        device: where x[rows] lies.
        skips_damaged: whether a run leaves images out that cannot be read, in place of an error.
    """

    def __init__(self, decoder: PixelSource, rows: Tensor, device: torch.device | str = "cpu", skips_damaged: bool = False) -> None:
        self.decoder, self.rows, self.device, self.skips_damaged = decoder, rows, torch.device(device), skips_damaged

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return torch.Size((len(self.rows), *self.decoder.shape))

    @property
    def dtype(self) -> torch.dtype:
        """Of the pixels: uint8, or a float in [0, 1]."""
        return self.decoder.dtype

    def dim(self) -> int:
        """4."""
        return 4

    def is_floating_point(self) -> bool:
        """Whether pixels are floats in [0, 1]: those of files are bytes."""
        return self.dtype.is_floating_point

    def element_size(self) -> int:
        """Bytes of a number: 1 of uint8."""
        return self.dtype.itemsize

    def __getitem__(self, rows: Rows | int) -> Tensor:
        chosen = self.rows[rows.cpu() if isinstance(rows, Tensor) else rows]
        x = self.decoder.pixels(chosen.reshape(-1).tolist()).to(self.device)
        return x[0] if chosen.dim() == 0 else x

    def take(self, rows: Rows) -> StoredPixels:
        """Only these rows; nothing is decoded.

        Args:
            rows: a mask, indices or a slice.
        """
        return StoredPixels(self.decoder, self.rows[rows.cpu() if isinstance(rows, Tensor) else rows], self.device, self.skips_damaged)

    def to(self, device: torch.device | str) -> StoredPixels:
        """The same rows, given out on another device."""
        return StoredPixels(self.decoder, self.rows, device, self.skips_damaged)

    def expect(self, rows: Rows) -> None:
        """Says in which order rows will be asked for, so that they can be decoded ahead.

        Args:
            rows: a mask, indices or a slice.
        """
        self.decoder.expect(self.rows[rows.cpu() if isinstance(rows, Tensor) else rows].tolist())

    def digests(self, rows: Rows) -> list[str]:
        """What each of these images is known by; "" for one that was not decoded yet.

        Args:
            rows: a mask, indices or a slice.
        """
        return [self.decoder.known.get(place, "") for place in self.rows[rows.cpu() if isinstance(rows, Tensor) else rows].tolist()]

    def remember(self, digests: Sequence[str]) -> None:
        """Takes up what an earlier part of the run has seen: an image that has changed since is refused.

        Args:
            digests: one a row, "" where it is not known.
        """
        for place, digest in zip(self.rows.tolist(), digests, strict=True):
            if digest:
                self.decoder.known[place] = digest
