"""Several processes that share the samples of an evaluation or of each training batch, as `torchrun` starts them; one is a world alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Message = TypeVar("Message")


@dataclass(frozen=True)
class World:
    """Which process this is, of how many.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    def share(self, places: torch.Tensor) -> torch.Tensor:
        """This process's part of the places: every size-th one.

        Args:
            places: (M,) int64.
        """
        return places[self.rank :: self.size]

    def gather(self, mine: Message) -> list[Message]:
        """What each process has, in the order of their ranks, on all of them.

        Args:
            mine: what this process has; it must be picklable.
        """
        if self.size == 1:
            return [mine]
        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, mine)
        return parts

    def first_of(self, mine: Message) -> Message:
        """What the first process has, on all of them.

        Args:
            mine: what this process has; only that of the first process is used.
        """
        return self.gather(mine)[0]

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Puts the mean over the processes into each tensor, by one exchange for each dtype.

        Args:
            tensors: of the same number, shapes and dtypes on all processes; they are changed in place.
        """
        if self.size == 1:
            return
        for kind in dict.fromkeys(tensor.dtype for tensor in tensors):  # in the same order on all of them
            alike = [tensor for tensor in tensors if tensor.dtype == kind]
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            torch.distributed.all_reduce(flat)
            parts = (flat / self.size).split([tensor.numel() for tensor in alike])
            for tensor, part in zip(alike, parts, strict=True):
                tensor.copy_(part.view_as(tensor))


def current_world() -> World:
    """The world of a process group that is initialised already; else one process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return World()


@contextmanager
def join_world() -> Iterator[World]:
    """Joins the processes that `torchrun` has started and leaves them at the end: tables and CPU tensors over gloo, CUDA's over nccl."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    on_gpus = torch.cuda.is_available() and torch.distributed.is_nccl_available()
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    try:
        yield current_world()
    finally:
        torch.distributed.destroy_process_group()
