"""What a training costs: passes, seconds and memory of a step, and what follows from them for an epoch, the whole, and larger batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robench.runs.timings import SizeTimes


def memory_on_line(points: Sequence[tuple[int, int]], images: int) -> int:
    """The bytes for so many images, on the straight line through the first and the last of (images, bytes)."""
    (few, least), (many, most) = points[0], points[-1]
    slope = max(0.0, (most - least) / (many - few)) if many > few else 0.0
    return round(most + slope * (images - many))


@dataclass(frozen=True)
class StepCost:
    """What steps of some sizes have shown.

    Attributes:
        passes: forward and backward passes of the network for each image of a batch, of all that a step does.
        times: seconds of a step by the images of its batch.
        memory: (images of the batch, the most bytes that were held), in ascending order.
        turns: how many steps of the largest size were timed.
    """

    passes: tuple[float, float]
    times: SizeTimes
    memory: tuple[tuple[int, int], ...]
    turns: int

    def memory_of(self, images: int) -> int:
        """The most bytes that a step of so many images holds, on the straight line through the smallest and the largest that were seen.

        Args:
            images: of the batch, of one process.
        """
        return memory_on_line(self.memory, images)

    def images_within(self, memory: int) -> int | None:
        """How many images a step may have in so many bytes; None where memory does not grow with them as far as was seen.

        Args:
            memory: bytes.
        """
        (few, least), (many, most) = self.memory[0], self.memory[-1]
        return None if many == few or most <= least else max(0, int(many + (memory - most) * (many - few) / (most - least)))


@dataclass(frozen=True)
class TrainingCosts:
    """What a training costs. What is measured in it is reckoned at the most: as if every image stood to the end of every attack.

    Attributes:
        title: the network, the loss and the images, in a few words.
        epochs: passes over the training images.
        steps: steps an epoch.
        batch_size: images a step.
        images: training images without the held-out ones.
        held_out: images that are held out.
        step: what a step has shown.
        epoch_measurement: seconds of what is measured after each epoch.
        final_measurement: seconds of what is measured at the end.
        measurement_memory: the most bytes that these hold.
        disk: bytes by what they hold: "checkpoints", and "state", which lasts as long as the training.
        device: where the network runs.
        device_memory: bytes of the device, of a CPU those of the machine; None where they are not known.
        processes: processes that share each batch.
        parts: how many parts of a batch go through the network one after the other.
        teacher: what the training of a teacher costs that comes first; None without one.
        unknown: attacks of which the cost is not known.
        notes: sentences on where the numbers come from and what they leave out.
    """

    title: str
    epochs: int
    steps: int
    batch_size: int
    images: int
    held_out: int
    step: StepCost
    epoch_measurement: float
    final_measurement: float
    measurement_memory: int
    disk: Mapping[str, int]
    device: str
    device_memory: int | None = None
    processes: int = 1
    parts: int = 1
    teacher: TrainingCosts | None = None
    unknown: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def part_size(self) -> int:
        """Images that go through the network at once, in one process."""
        return self.batch_size // (self.processes * self.parts)

    @property
    def step_seconds(self) -> float:
        """Seconds of one step of a whole batch."""
        return self.parts * self.step.times.seconds(self.part_size)

    @property
    def epoch_seconds(self) -> float:
        """Seconds of one epoch with its measurement."""
        return self.steps * self.step_seconds + self.epoch_measurement

    @property
    def own_seconds(self) -> float:
        """Seconds of all epochs and the final measurement, without a teacher."""
        return self.epochs * self.epoch_seconds + self.final_measurement

    @property
    def seconds(self) -> float:
        """Seconds of the whole training, with that of a teacher which comes first."""
        return self.own_seconds + (self.teacher.seconds if self.teacher else 0.0)

    @property
    def step_memory(self) -> int:
        """The most bytes that a step of a whole batch holds, in each process."""
        return self.step.memory_of(self.part_size)

    @property
    def memory(self) -> int:
        """The most bytes that a process holds."""
        return max(self.step_memory, self.measurement_memory, self.teacher.memory if self.teacher else 0)

    @property
    def disk_bytes(self) -> int:
        """The most bytes that are written, in part only while the training lasts."""
        return sum(self.disk.values()) + (self.teacher.disk_bytes if self.teacher else 0)
