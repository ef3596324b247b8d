"""Made images in place of a known data set that is not there: of its shape, with as many images and classes as were published.

They take no memory for their number: a few of noise serve again and again, so a training of any size can be planned where the data
are not. Nothing is measured on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robench.data.images import Images
from robench.data.stored_pixels import StoredPixels

BANK = 16  # different images
PRESET_SETS = {"igd-tinyimagenet": "tinyimagenet", "igd-imagenet100": "imagenet100"}  # by the preset that was published for them


@dataclass(frozen=True)
class PublishedSet:
    """What is known of a data set without its files.

    Attributes:
        shape: (C, H, W) of the images, of ImageNet as it is usually trained on.
        classes: number of classes.
        train: number of training images.
        test: number of test images, or of validation images where the labels of the test are not public.
    """

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int


# imagenet100 is the selection of Tian et al. 2020 (1906.05849)
PUBLISHED_SETS = {
    "mnist": PublishedSet((1, 28, 28), 10, 60_000, 10_000),
    "fashion-mnist": PublishedSet((1, 28, 28), 10, 60_000, 10_000),
    "cifar10": PublishedSet((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": PublishedSet((3, 32, 32), 100, 50_000, 10_000),
    "svhn": PublishedSet((3, 32, 32), 10, 73_257, 26_032),
    "tinyimagenet": PublishedSet((3, 64, 64), 200, 100_000, 10_000),
    "imagenet100": PublishedSet((3, 224, 224), 100, 126_689, 5_000),
    "imagenet": PublishedSet((3, 224, 224), 1000, 1_281_167, 50_000),
}


class MadePixels:
    """A source of pixels, as `data.stored_pixels.PixelSource` says it: BANK images of noise, each at every sixteenth place.

    Args:
        shape: (C, H, W) of an image.
    """

    workers, unit, dtype = 0, BANK, torch.uint8

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape, self.known = shape, dict[int, str]()
        self.bank = torch.randint(0, 256, (BANK, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def expect(self, places: Iterable[int]) -> None:
        """Does nothing: no image is made ahead."""

    def pixels(self, places: Sequence[int]) -> Tensor:
        """The images at some places, (M, C, H, W) uint8.

        Args:
            places: from 0.
        """
        return self.bank[torch.tensor(places, dtype=torch.int64) % BANK]


def name_of_published_set(data: str, preset: str | None) -> str | None:
    """The key of PUBLISHED_SETS that a data set is likely to be; None for none.

    Args:
        data: as `--data` takes it: a name, or "folder:PATH", whose last part says it.
        preset: the preset that it is for, which says it where the path does not.

    Example:
        >>> name_of_published_set("folder:/data/tiny-imagenet-200", None), name_of_published_set("folder:mine", "igd-imagenet100")
        ('tinyimagenet', 'imagenet100')
    """
    if data in PUBLISHED_SETS:
        return data
    kind, _, path = data.partition(":")
    if kind != "folder":
        return None
    words = re.sub(r"[^a-z0-9]", "", path.rstrip("/").rpartition("/")[2].lower())
    named = next((name for name in ("tinyimagenet", "imagenet100", "imagenet") if name in words), None)
    return named or PRESET_SETS.get(preset or "")


def made_images(name: str, data: str, split: str, n: int | None = None, side: int | None = None) -> Images:
    """Images in place of those of a set, with a note.

    Args:
        name: a key of PUBLISHED_SETS.
        data: what the user called it.
        split: "train" or "test".
        n: how many; None for as many as were published.
        side: pixels a side, where others were asked for.
    """
    known = PUBLISHED_SETS[name]
    shape = known.shape if side is None else (known.shape[0], side, side)
    ids = torch.arange(min(n or known.train, known.train) if split == "train" else known.test)
    note = (
        f"{data} is not there: {len(ids):,} made images of {shape[0]}x{shape[1]}x{shape[2]} and {known.classes} classes stand in for the "
        f"{split} images of {name}; what reading and decoding them costs is not known"
    )
    classes = tuple(f"{label:04d}" for label in range(known.classes))
    return Images(data, split, StoredPixels(MadePixels(shape), ids), ids % known.classes, ids, classes, notes=(note,), files_digest="made")
