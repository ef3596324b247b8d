"""Several processes that share the samples of one evaluation, as `torchrun` starts them; one process is a world of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Which process this is, of how many."""

    rank: int = 0
    size: int = 1

    def share(self, places: torch.Tensor) -> torch.Tensor:
        """This process's part of the places: every size-th one."""
        return places[self.rank :: self.size]

    def gather(self, mine: T) -> list[T]:
        """What each process has, in the order of their ranks, on all of them."""
        if self.size == 1:
            return [mine]
        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, mine)
        return parts

    def agree(self, mine: T) -> T:
        """What the first process has, on all of them."""
        return self.gather(mine)[0]


def started() -> World:
    """The world of a process group that is initialised already; else one process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return World()


@contextmanager
def launched() -> Iterator[World]:
    """Joins the processes that `torchrun` has started, over gloo (what is exchanged are small tables), and leaves them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    torch.distributed.init_process_group("gloo")
    try:
        yield started()
    finally:
        torch.distributed.destroy_process_group()
