"""Where sequences of frames come from, as the stages of a run: each perturbation of a set is shown to every model once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robench.core.perturbation_names import SequenceCell
from robench.data import Images
from robench.data.perturbed_sequences import SequenceSet
from robench.data.stored_pixels import readable_rows
from robench.runs.stages.sequence import sequence_stage
from robench.runs.types import Pool, Stage

NO_PUBLISHED_FLIPS = (
    "robench knows no published flip probabilities to divide by: name AlexNet itself, tv/alexnet,weights=IMAGENET1K_V1, as the reference, "
    "and it is measured along"
)


@dataclass(frozen=True, eq=False)
class SequenceSource:
    """N sequences of frames, asked for by perturbation, difficulty and place.

    Attributes:
        name: as the rows spell it.
        split: of the data set.
        y: labels, (N,) int64, -1 where they are not known: a flip needs none.
        ids: sample ids, (N,) int64.
        classes: names of the classes.
        cells: each perturbation with its difficulty.
        lengths: the number of frames of each.
        setting: words of every row, such as layout=imagenet-p.
        frames: frames(perturbation, difficulty, places (M,)) -> (M, T, C, H, W), uint8 or float in [0, 1].
        about: plain values that identify these sequences, for the journal.
        notes: sentences on them, for the reader.
        skips_damaged: whether sequences that cannot be read are left out, in place of an error.
    """

    name: str
    split: str
    y: Tensor
    ids: Tensor
    classes: tuple[str, ...]
    cells: tuple[SequenceCell, ...]
    lengths: Mapping[SequenceCell, int]
    setting: str
    frames: Callable[[str, int, Tensor], Tensor]
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    skips_damaged: bool = False

    @property
    def longest(self) -> int:
        """The frames of the longest sequence."""
        return max(self.lengths.values())


def source_from_sequences(data: SequenceSet, rows: Tensor) -> SequenceSource:
    """The sequences of a set on the disk.

    Args:
        data: the set.
        rows: which of its sequences, (N,) int64.
    """
    return SequenceSource(
        data.name, data.split, data.y[rows], data.ids[rows], data.classes, data.cells, data.lengths,
        f"layout={data.layout}" if data.layout else "", lambda *cell: data.frames(cell[0], cell[1], rows[cell[2]]),
        {"set": data.name, "images": data.digest(rows)}, data.notes,
    )  # fmt: skip


def pool_of_sequences(source: SequenceSource) -> Pool:
    """The pool of the sequences: what a model is looked at with are first frames; labels are of no use."""
    first = readable_rows(partial(first_frames, source), len(source.ids), 1, source.skips_damaged)[1]
    return Pool(
        None,
        torch.zeros(len(source.ids), dtype=torch.int64),
        source.ids,
        tuple(first.shape[1:]),
        mild=partial(first_frames, source),
        skips_damaged=source.skips_damaged,
    )


def first_frames(source: SequenceSource, places: Tensor) -> Tensor:
    """The first frames of some sequences under the first perturbation, (M, C, H, W).

    Args:
        source: the sequences.
        places: (M,) int64.
    """
    return source.frames(*source.cells[0], places)[:, 0]


def first_frame_images(source: SequenceSource, n: int) -> Images:
    """The first frames of the first sequences, to try models on; none where no labels are known.

    Args:
        source: the sequences.
        n: how many at most.
    """
    x = first_frames(source, torch.arange(min(n, len(source.ids))))
    known = source.y[: len(x)] >= 0
    return Images(source.name, source.split, x[known], source.y[: len(x)][known], source.ids[: len(x)][known], source.classes)


def stages_of_sequences(source: SequenceSource) -> list[Stage]:
    """A stage for each perturbation and difficulty.

    Args:
        source: the sequences.
    """
    words = {"setting": source.setting, "data": source.name, "split": source.split, "labels": source.y}
    return [sequence_stage(name, difficulty, partial(frames_at, source, name, difficulty), words) for name, difficulty in source.cells]


def frames_at(source: SequenceSource, perturbation: str, difficulty: int, places: Tensor, before: object) -> Tensor:  # noqa: ARG001 - nothing is before
    """The frames of some sequences."""
    return source.frames(perturbation, difficulty, places)
