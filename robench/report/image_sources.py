"""Pictures of single images of finished runs: those that a run saved with --save, and those of a data set that robench can read again.

A manifest is not believed: a data set is read only if it is one of robench's own or the user named it, no file that a manifest names is
run or opened, and what was
read counts only if its hash is that of the manifest. It imports torch only where there are images to show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robench.core.errors import InputError
from robench.core.files import file_stem, is_existing_file
from robench.results.columns import base_data
from robench.results.image_values import images_digest, sample_tables
from robench.results.saved_runs import SavedRun

if TYPE_CHECKING:
    from robench.data import Images

LARGEST_PICTURE = 1024  # pixels of a side


@dataclass(frozen=True, eq=False)
class PictureSource:
    """Pixels of some images.

    Attributes:
        pixels: sample -> (C, H, W) in [0, 1].
        classes: the names of the classes, () where they are not known.
        reason: why there are none, a sentence; "" where there are.
    """

    pixels: Mapping[int, NDArray[np.float32]]
    classes: tuple[str, ...] = ()
    reason: str = ""


def original_pictures(run: SavedRun, samples: Sequence[int], data_dir: Path | None, data: str = "") -> PictureSource:
    """Images as they were before any attack.

    Args:
        run: a run that saw them.
        samples: their places in the split.
        data_dir: where torchvision's sets lie; ./data if not given.
        data: the user's own word for the data set, as `load_images` takes it; "" for that of the manifest, if it is one of robench's.

    Raises:
        InputError: for a data set that the user named and that cannot be read.
    """
    from robench.data import DATASETS, load_images

    first = run.rows[0]
    name, digest = data or base_data(first.data), images_digest(run.manifest)
    if not data and name not in DATASETS:
        return PictureSource(
            {},
            reason=f"The images of {first.data} are not shown: it is a data set of your own, which a report opens where --data names it.",
        )
    try:
        order = run_samples(run)
        images = load_images(name, "test" if first.split == "all" else first.split, data_dir=data_dir, n=max(order) + 1)
        mine = chosen_images(images, order)
    except InputError as error:
        if data:
            raise
        return PictureSource({}, reason=f"The images are not shown: {error}.")
    if mine is None or mine.sha256 != digest:
        return PictureSource(
            {}, reason=f"The images are not shown: {name} as it can be read here has not the hash that the manifest tells."
        )
    places = {int(sample): place for place, sample in enumerate(mine.ids.tolist())}
    wanted = [sample for sample in samples if sample in places]
    pixels = mine.pixels(slice(None))
    return PictureSource({sample: pixels[places[sample]].numpy() for sample in wanted}, mine.classes)


def chosen_images(images: Images, order: Sequence[int]) -> Images | None:
    """The images of a split with these ids, in this order; None where one is missing."""
    import torch

    places = {int(sample): place for place, sample in enumerate(images.ids.tolist())}
    if not {*order} <= places.keys():
        return None
    return images.take(torch.tensor([places[sample] for sample in order]))


def run_samples(run: SavedRun) -> list[int]:
    """The ids of the images of a run, in their order."""
    frame = next(iter(sample_tables(run).values()))
    return list(dict.fromkeys(whole_cells(frame, "sample")))


def whole_cells(frame: pd.DataFrame, name: str) -> list[int]:
    """The cells of a column as whole numbers, -1 for what is none.

    Args:
        frame: a table of what became of each image.
        name: one of its columns.
    """
    numbers = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
    return [int(number) if math.isfinite(number) else -1 for number in numbers]


def attacked_pictures(run: SavedRun, checkpoint: str, norm: str, samples: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """Images as the attacks of a run left them, where it was made with --save; none where it was not.

    Args:
        run: the run.
        checkpoint: the model that was attacked.
        norm: of the threat.
        samples: places of the images in the split.
    """
    order = run_samples(run)
    array = saved_attack_array(run, checkpoint, norm, len(order))
    if array is None:
        return {}
    places = {sample: place for place, sample in enumerate(order)}
    return {sample: np.clip(np.nan_to_num(array[places[sample]]), 0, 1) for sample in samples if sample in places}


def saved_attack_array(run: SavedRun, checkpoint: str, norm: str, n: int) -> NDArray[np.float32] | None:
    """The array of adversarial images of a model and norm, mapped; None where there is none of the right shape."""
    words = [f"-{file_stem(checkpoint)}", f"-{file_stem(norm)}"]
    names = ["x_adv.npy", f"x_adv{words[0]}.npy", f"x_adv{words[1]}.npy", f"x_adv{''.join(words)}.npy"]
    path = next((run.folder / name for name in names if is_existing_file(run.folder / name)), None)
    try:
        array = None if path is None else np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if array is None or array.ndim != 4 or len(array) != n or array.dtype != np.float32 or array.shape[1] not in (1, 3):
        return None
    return array if max(array.shape[2:]) <= LARGEST_PICTURE else None


def side_by_side(images: Sequence[NDArray[np.float32]]) -> bytes:
    """Images of one size next to each other, with a white gap, as the bytes of a PNG file.

    Args:
        images: each (1 or 3, H, W) in [0, 1].
    """
    import torch

    from robench.data.files import png_bytes

    gap = np.ones((*images[0].shape[:2], max(1, images[0].shape[2] // 16)), np.float32)
    row: list[Any] = [part for image in images for part in (image, gap)][:-1]
    return png_bytes(torch.from_numpy(np.concatenate(row, axis=2)))
