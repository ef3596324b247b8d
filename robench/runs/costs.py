"""What a run will cost: passes, seconds, memory and disk of each stage, the whole of them, and how many images a budget is enough for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robench.core.threat import Threat
from robench.runs.blocks import RAMP, fitting_block
from robench.runs.timings import SizeTimes


@dataclass(frozen=True)
class StageCost:
    """What one stage costs for one model.

    Attributes:
        subject: the model; "" where it is the same work for all of them.
        kind: that of the stage, or "reading" and "preparation".
        name: the name of the stage, of a corruption without its severity.
        threat: the threat of an attack, else None.
        share: how often each image goes through at the most; 1.0 for once.
        likely_share: the same as far as a quick attack tells, counted in whole images: one that falls early is a part of one.
        passes: forward and backward passes of one image that stands to the end; None where they are not counted.
        times: seconds of a chunk by its number of images; None where they are not known.
        memory: the most bytes that are held while it runs, of the process, on CUDA of the device; None where that was not seen.
        disk: bytes that it writes for all images, while the run lasts or for good.
    """

    subject: str
    kind: str
    name: str
    threat: Threat | None = None
    share: float = 1.0
    likely_share: float = 1.0
    passes: tuple[float, float] | None = None
    times: SizeTimes | None = None
    memory: int | None = None
    disk: int = 0

    def seconds(self, images: float, batch_size: int, *, likely: bool = False) -> float:
        """The seconds for so many images of the run, chunk by chunk; 0 where they are not known.

        Args:
            images: images of the run.
            batch_size: images in a chunk.
            likely: for what is likely and not for the most.
        """
        if self.times is None:
            return 0.0
        whole, rest = divmod(images * (self.likely_share if likely else self.share), batch_size)
        return whole * self.times.seconds(batch_size) + (self.times.seconds(rest) if rest else 0.0)


@dataclass(frozen=True)
class RunCosts:
    """What a run costs. Seconds are the most, an upper bound for images that all stand, unless they are called likely.

    Attributes:
        stages: the cost of each stage of each model.
        n: number of images.
        batch_size: images in a chunk.
        device: where the models run.
        processes: processes that share the images.
        filled_up: rows to which every call of a model is filled up (`runs.blocks.filled_up_rows`).
        fixed_seconds: what is done once, whatever the number of images.
        notes: sentences on where the numbers come from and what they leave out.
    """

    stages: Sequence[StageCost]
    n: int
    batch_size: int
    device: str
    processes: int = 1
    filled_up: int = 1
    fixed_seconds: float = 0.0
    notes: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """The most seconds of the whole run, of the stages whose seconds are known."""
        return self.fixed_seconds + self.block_seconds(self.n)

    @property
    def likely_seconds(self) -> float:
        """The seconds that are likely, of the stages whose seconds are known."""
        return self.fixed_seconds + self.block_seconds(self.n, likely=True)

    @property
    def memory(self) -> int:
        """The most bytes that any stage holds."""
        return max((stage.memory or 0 for stage in self.stages), default=0)

    @property
    def disk(self) -> int:
        """The bytes that all stages write."""
        return sum(stage.disk for stage in self.stages)

    @property
    def unknown(self) -> list[str]:
        """The stages whose seconds are not known."""
        return list(dict.fromkeys(stage.name for stage in self.stages if stage.times is None))

    def stage_seconds(self, stage: StageCost, *, likely: bool = False) -> float:
        """The seconds of one stage for all images.

        Args:
            stage: one of `stages`.
            likely: for what is likely and not for the most.
        """
        return stage.seconds(self.n / self.processes, self.batch_size, likely=likely)

    def block_seconds(self, images: int, *, likely: bool = False) -> float:
        """The seconds of all stages for so many images, without what is done once.

        Args:
            images: images of the block, shared by the processes.
            likely: for what is likely and not for the most.
        """
        each = math.ceil(images / self.processes)
        return sum(stage.seconds(each, self.batch_size, likely=likely) for stage in self.stages)

    def images_within(self, budget: float, *, likely: bool = False) -> int:
        """How many images a run with a budget sees, in the blocks that it takes (`runs.blocks.BlockSizes`).

        Args:
            budget: seconds.
            likely: for what is likely and not for the most.
        """
        seen, last, spent = 1, 1, self.fixed_seconds + self.block_seconds(1, likely=likely)
        took = self.block_seconds(1, likely=likely)
        if spent > budget:
            return 0
        while seen < self.n:
            most = min(self.batch_size, RAMP * seen, self.n - seen)
            if not (last := fitting_block(last, took, budget - spent, most=most, least=self.filled_up * self.processes)):
                break
            took = self.block_seconds(last, likely=likely)
            seen, spent = seen + last, spent + took
        return seen
