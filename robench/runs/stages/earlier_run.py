"""What an earlier run found on the same images: its verdicts, and its adversarial images if it kept them. Nothing is measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robench.core.errors import InputError
from robench.core.rows import WORST_NORM
from robench.core.saved_results import ModelResults
from robench.core.threat import Threat
from robench.data.npz_arrays import READ_ERRORS
from robench.runs.ledger import Ledger
from robench.runs.types import Chunk, MakeImages, Outcome, Pixels, Pool, ReadyStage, Stage


def joined_stage(results: ModelResults, pool: Pool, subject: str, clean: Stage) -> Stage:
    """What an earlier run found on these images for one subject: its last probe's verdicts, and its x_adv.npy if there is one.

    Images that the run did not see count as not tried.

    Args:
        results: the earlier run, of `robench eval` or `robench attack`.
        pool: the images of this run.
        subject: the name of the subject that it is of.
        clean: the clean pass.

    Raises:
        InputError: where the run saw none of these images, or had other labels under the same ids.
    """
    where = {sample: place for place, sample in enumerate(pool.ids.tolist())}
    shared_samples = [sample for sample in results.labels if sample in where]
    if not shared_samples:
        raise InputError(f"{results.folder} has none of the images that are explained here: name the same --data, --n and --indices")
    for sample in shared_samples:
        if results.labels[sample] != int(pool.y[where[sample]]):
            raise InputError(f"{results.folder} gives image {sample} another label than the data here: it was a run on other data")
    first, last = results.stages[0], results.stages[-1]
    places = torch.tensor([where[sample] for sample in shared_samples])
    tried, fell = torch.zeros(len(pool), dtype=torch.bool), torch.zeros(len(pool), dtype=torch.bool)
    tried[places] = torch.tensor([sample in first.standing for sample in shared_samples])
    fell[places] = torch.tensor([sample in first.standing and sample not in last.standing for sample in shared_samples])

    def measure(chunk: Chunk) -> Iterator[Outcome]:
        yield Outcome({"tried": tried[chunk.places], "fell": fell[chunk.places]})

    images = saved_images(results, pool, where)
    threat = Threat(last.norm, last.eps) if last.norm not in ("", WORST_NORM) else None
    about = {"clean": clean, "subject": subject, "has images": images is not None, "folder": str(results.folder)}
    none = torch.zeros(len(pool), dtype=torch.bool)

    def on(_: Ledger, name: str) -> Tensor:
        return ~none if name == subject else none

    return Stage("joined", last.probe, lambda _: ReadyStage(measure), on, None, images, threat, needs_trial=False, about=about)


def saved_images(results: ModelResults, pool: Pool, where: dict[int, int]) -> MakeImages | None:
    """What gives the adversarial images that a run kept, clean ones where it did not see an image; None where it kept none."""
    path = results.folder / "x_adv.npy"
    if not path.is_file():
        return None
    array = saved_array(path, len(results.labels), pool.shape)
    rows = torch.full((len(pool),), -1)
    for row, sample in enumerate(results.labels):
        if sample in where:
            rows[where[sample]] = row

    def images(places: Tensor, before: Pixels) -> Tensor:
        x = before(places)
        x = x.float() / 255 if x.dtype == torch.uint8 else x.clone()
        present = rows[places] >= 0
        x[present] = torch.from_numpy(np.ascontiguousarray(array[rows[places][present].numpy()])).to(x)
        return x

    return images


def saved_array(path: Path, n: int, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The array of a run of n images. Raises InputError where it is none of such images."""
    try:
        array = np.lib.format.open_memmap(path, "r")
    except READ_ERRORS as error:
        raise InputError(f"{path} cannot be read as saved images: {error}") from None
    if array.shape != (n, *shape) or array.dtype != np.float32:
        raise InputError(f"{path} holds {array.dtype} {array.shape}, and the run it belongs to has {n} images of other shape")
    return array
