"""Extra images in every batch of a training, generated ones or others (Gowal et al. 2021, 2110.09468; Wang et al. 2023, 2302.04638).

As in the public code of Wang et al. (github.com/wzekai99/DM-Improves-AT), a batch of B images has floor(share * B) extra ones, which are
drawn with replacement, an epoch has as many batches as without them, and their labels are whatever the set says, its own or a model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import parse_literal
from robench.data import CATALOGUES, CONTAINERS, Images

USUAL_SHARE = 0.7  # of Wang et al. for CIFAR-10 with a million images
FIRST_EXTRA_ID = 2**40  # no image of a data set has an id as large, so that random numbers of the two never meet


@dataclass(frozen=True, eq=False)
class ImagesWithExtra:
    """Training images, in whose batches extra ones take part; rows from len(own) on are extra ones.

    Attributes:
        own: the images of the data set, in which epochs are counted.
        extra: the extra images, with labels of the same classes.
        share: the part of each batch that is extra, in (0, 1).
    """

    own: Images
    extra: Images
    share: float

    def __len__(self) -> int:
        return len(self.own)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.own.classes

    @cached_property
    def ids(self) -> Tensor:
        """The ids of all images, to which random numbers belong, int64."""
        return torch.cat([self.own.ids, self.extra.ids + FIRST_EXTRA_ID])

    @cached_property
    def y(self) -> Tensor:
        """The labels of all images, int64."""
        return torch.cat([self.own.y, self.extra.y])

    def pixels(self, rows: Tensor) -> Tensor:
        """The images of these rows, float32 in [0, 1].

        Args:
            rows: indices (B,) int64.
        """
        is_own = rows < len(self.own)
        parts = [(self.own, rows[is_own], is_own), (self.extra, rows[~is_own] - len(self.own), ~is_own)]
        shown = [(images.pixels(places), where) for images, places, where in parts if len(places)]
        if len(shown) == 1:
            return shown[0][0]
        x = shown[0][0].new_empty((len(rows), *shown[0][0].shape[1:]))
        for pixels, where in shown:
            x[where.to(x.device)] = pixels
        return x

    def expect(self, rows: Tensor | slice) -> None:
        """Says in which order images will be asked for, so that those on the disk can be decoded ahead.

        Args:
            rows: indices (M,) int64; a slice of none ends it.
        """
        if isinstance(rows, slice):
            self.own.expect(rows)
            self.extra.expect(rows)
            return
        is_own = rows < len(self.own)
        self.own.expect(rows[is_own])
        self.extra.expect(rows[~is_own] - len(self.own))

    def to(self, device: torch.device | str) -> ImagesWithExtra:
        """The same images on another device."""
        return ImagesWithExtra(self.own.to(device), self.extra.to(device), self.share)

    def words(self) -> dict[str, object]:
        """What a checkpoint says of the extra images."""
        return {"name": self.extra.name, "n": len(self.extra), "share": self.share, "sha256": self.extra.sha256}


TrainingImages: TypeAlias = Images | ImagesWithExtra


def training_images(
    own: Images, settings: dict[str, Any], images_of: Callable[..., Images], data_options: Mapping[str, Any]
) -> tuple[TrainingImages, Sequence[str]]:
    """The images of a training, with the extra ones that its settings name, and notes on these.

    Args:
        own: the images of the data set.
        settings: of the training; where they name extra images by a path, they say their name from now on.
        images_of: called with a name, a split and options of data, gives images.
        data_options: with which the data set was read; those of image files are used for image files alone.
    """
    if not settings["extra"]:
        return own, ()
    name, share = extra_source(settings["extra"])
    are_files = ".py:" in name or name.partition(":")[0] in (*CATALOGUES, *CONTAINERS)
    unused = ("layout",) if are_files else ("layout", "pixels", "workers", "skip_damaged")
    extra = images_of(name, "train", **{key: value for key, value in data_options.items() if key not in unused})
    settings["extra"] = f"{extra.name},share={share:g}"
    return joined_images(own, extra, share, settings["batch_size"]), extra.notes


def extra_source(sentence: str) -> tuple[str, float]:
    """The name of the extra data set, with its own options, and the share of a batch.

    Args:
        sentence: a data set's name, with share=SHARE among its options or not.

    Raises:
        InputError: for a share that is none.

    Example:
        >>> extra_source("npz:generated.npz,share=0.3")
        ('npz:generated.npz', 0.3)
    """
    words = sentence.split(",")
    shares = [word.partition("=")[2] for word in words if word.strip().startswith("share=")]
    name = ",".join(word for word in words if not word.strip().startswith("share="))
    share = parse_literal(shares[0].strip()) if shares else USUAL_SHARE
    if len(shares) > 1 or not name or isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise InputError(f"cannot read --extra {sentence}: write a data set and the part of each batch, as in npz:FILE,share=0.7")
    return name, float(share)


def joined_images(own: Images, extra: Images, share: float, batch_size: int) -> ImagesWithExtra:
    """The training images with extra ones.

    Args:
        own: the images of the data set.
        extra: the others; classes that have names are matched by them.
        share: the part of each batch that is extra.
        batch_size: images a batch.

    Raises:
        InputError: for extra images of another shape or other classes, and for a share that leaves one of the two out of a batch.
    """
    if extra.shape != own.shape:
        (channels, *size), (others, *other) = own.shape, extra.shape
        raise InputError(
            f"the extra images of {extra.name} are {others}x{other[0]}x{other[1]}, those of {own.name} {channels}x{size[0]}x{size[1]} "
            "(channels x height x width): bring both to one shape"
        )
    if not 1 <= extra_count(share, batch_size) < batch_size:
        raise InputError(f"a share of {share:g} in batches of {batch_size} leaves out the extra images: raise it, or --batch-size")
    return ImagesWithExtra(own, with_own_labels(own, extra), share)


def with_own_labels(own: Images, extra: Images) -> Images:
    """The extra images with labels of the data set: by the names of classes where both have some, else by number."""
    most = int(extra.y.max()) + 1
    if has_numbers_for_names(own) or has_numbers_for_names(extra):
        if most > len(own.classes):
            raise InputError(f"the extra images of {extra.name} have labels up to {most - 1}, {own.name} has {len(own.classes)} classes")
        return extra
    unknown = [name for name in extra.classes if name not in own.classes]
    if unknown:
        raise InputError(f"the extra images of {extra.name} have classes that {own.name} has not, such as {unknown[0]!r}")
    return extra.with_labels([own.classes.index(name) for name in extra.classes], own.classes)


def has_numbers_for_names(images: Images) -> bool:
    """Whether the classes are called by their labels, as where a file has no names."""
    return list(images.classes) == [str(k) for k in range(len(images.classes))]


def extra_count(share: float, batch_size: int) -> int:
    """How many images of a batch are extra."""
    return int(share * batch_size)


def batches_with_extra(own: Sequence[Tensor], train: ImagesWithExtra, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """The batches of an epoch: some extra images are drawn for each, and all of a batch are put into a random order.

    Args:
        own: the places of the images of the data set in each batch, fewer than batch_size of them.
        train: all images.
        batch_size: images a batch.
        seed: of the training.
        epoch: the number of the epoch, from 0.
    """
    count = extra_count(train.share, batch_size)
    drawn = Draws(seed, torch.arange(len(own) * count), "train/extra").integers(len(train.extra), (), epoch).view(len(own), count)
    order = Draws(seed, torch.arange(batch_size), "train/extra/order").permutation(epoch)
    return tuple(torch.cat([rows, places + len(train.own)])[order] for rows, places in zip(own, drawn, strict=True))
