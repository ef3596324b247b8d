"""Seconds and memory of short calls: how long something takes for so many images, and the most memory that the process held meanwhile."""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from robench.models.stand_ins import wait_for_device

GROWTH = 4  # each size that is timed is so many times the one before
MOST_TURNS = 7  # calls of one size whose median counts
TURNS_SHARE = 0.5  # of the seconds for one size, after which no further call of it is timed
PROCESS_STATUS, CLEAR = (
    Path("/proc/self/status"),
    Path("/proc/self/clear_refs"),
)  # of Linux: what the process holds, and what resets its peak


@dataclass(frozen=True)
class SizeTimes:
    """How long something takes for so many images.

    Attributes:
        points: (number of images, seconds), in ascending order, one at least.
    """

    points: tuple[tuple[int, float], ...]

    @property
    def largest(self) -> int:
        """The largest number of images that was timed."""
        return self.points[-1][0]

    def seconds(self, images: float) -> float:
        """The seconds for some images: on the straight lines through what was timed, never below nothing.

        Args:
            images: how many, also more or fewer than were timed.
        """
        if len(self.points) == 1:
            size, seconds = self.points[0]
            return seconds * images / size
        after = next((place for place, (size, _) in enumerate(self.points) if size >= images), len(self.points) - 1)
        (size, seconds), (next_size, next_seconds) = self.points[max(after, 1) - 1 : max(after, 1) + 1]
        slope = (next_seconds - seconds) / (next_size - size)
        if images > next_size and slope <= 0:  # noise: as many seconds an image as in the largest
            return next_seconds * images / next_size
        return max(0.0, seconds + slope * (images - size))


def times_by_size(call: Callable[[int], object], most: int, device: str, *, first: int = 1, limit: float = 2.0) -> SizeTimes:
    """How long a call takes for 1, 4, 16, ... images, up to `most` where that stays within the limit; first calls are left out.

    Args:
        call: call(size) does the work for so many images.
        most: the largest size.
        device: where the work is done, and waited for.
        first: the smallest size.
        limit: seconds that one call of the largest size may be expected to take.
    """
    points: list[tuple[int, float]] = []
    size = min(first, most)
    while True:
        points.append((size, median_seconds(lambda size=size: call(size), device, limit)))  # type: ignore[misc]
        following = min(GROWTH * size, most)
        if size == most or points[-1][1] * following / size > limit:
            return SizeTimes(tuple(points))
        size = following


def median_seconds(call: Callable[[], object], device: str, limit: float) -> float:
    """The median seconds of a call after a first one; of one that takes longer than the limit, those of the first."""
    first = elapsed_seconds(call, device)
    if first > limit:
        return first
    turns: list[float] = []
    while not turns or (len(turns) < MOST_TURNS and sum(turns) < TURNS_SHARE * limit):
        turns.append(elapsed_seconds(call, device))
    return statistics.median(turns)


def elapsed_seconds(call: Callable[[], object], device: str) -> float:
    """The seconds of one call, until the device has done it.

    Args:
        call: what is timed.
        device: that it works on.
    """
    wait_for_device(torch.device(device))
    begin = time.perf_counter()
    call()
    wait_for_device(torch.device(device))
    return time.perf_counter() - begin


@dataclass
class PeakMemory:
    """What `watch_memory` has seen: bytes before, and at the most."""

    before: int = 0
    most: int = field(default=0)

    @property
    def grown(self) -> int:
        """By how much it rose."""
        return max(0, self.most - self.before)

    def scaled(self, images: int, most: int) -> int:
        """The most bytes for `most` images, where what rose was seen with `images`."""
        return self.before + self.grown * most // images


@contextmanager
def watch_memory(device: str) -> Iterator[PeakMemory]:
    """The memory that is held inside: on CUDA what torch has allocated there, elsewhere what the process holds (resident).

    On Linux what was freed before goes back to the system first, so that only what is needed inside counts.

    Args:
        device: "cpu", "cuda", "mps".
    """
    peak, on_cuda = PeakMemory(), torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
        peak.before = torch.cuda.memory_allocated(device)
    else:
        peak.before = reset_resident_peak()
    try:
        yield peak
    finally:
        peak.most = torch.cuda.max_memory_allocated(device) if on_cuda else resident_bytes("VmHWM")


def reset_resident_peak() -> int:
    """Lets the resident peak begin anew where the system can; the bytes that are held now."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # a container may forbid it: the peak is then that of the whole process
            CLEAR.write_text("5")
    return resident_bytes("VmRSS")


def resident_bytes(entry: str) -> int:
    """What the process holds now ("VmRSS"), or held at the most ("VmHWM"), in bytes."""
    if PROCESS_STATUS.exists():
        line = next((line for line in PROCESS_STATUS.read_text().splitlines() if line.startswith(entry + ":")), "")
        if line:
            return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
