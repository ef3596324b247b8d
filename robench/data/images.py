"""Images with their labels and ids, in memory or on the disk, and the choice of which of a set are wanted."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from robench.core.decoding import pixel_digest
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.preprocessing import MOST_PIXELS, Preprocessing
from robench.data.index_files import listed_ids, rows_of_names
from robench.data.stored_pixels import StoredPixels, readable_rows


@dataclass(frozen=True, eq=False)
class Images:
    """N labelled images of one split, in the order in which they are to be used.

    Attributes:
        name: as the rows spell it: "mnist", "npz:cifar10-lossless"; never a path.
        split: "train" or "test"; "all" where the source has no splits.
        x: (N, C, H, W) uint8, or float32 in [0, 1]; a tensor, or `StoredPixels` of images that stay on the disk.
        y: (N,) int64, labels in [0, K).
        ids: (N,) int64, the index of each image in the official split, to which random numbers belong.
        classes: the K names.
        masks: (N, H, W) bool, where the object is; None where that is not known.
        notes: sentences on how the source was read.
        files: N names by which the user knows the images, CLASS/FILE; () where they are not files.
        files_digest: says of images that are files whether they are the same, without decoding them; "" for others.
        preprocessing: how files became pixels; None where nothing was resized or cut.
        left_out: the names of files that were chosen and left out because they cannot be read.
        outputs: over which outputs of a model the authors of the set evaluate: "all", "data" for those of its classes; "" for no word.

    Example:
        >>> n = torch.arange(4)
        >>> images = Images("toy", "test", torch.zeros(4, 3, 8, 8), n % 2, n, ("cat", "dog"))
        >>> len(images), images.shape, images.class_name(1), images.take(slice(1, 3)).ids.tolist()
        (4, (3, 8, 8), 'dog', [1, 2])
    """

    name: str
    split: str
    x: Tensor | StoredPixels
    y: Tensor
    ids: Tensor
    classes: tuple[str, ...]
    masks: Tensor | None = None
    notes: tuple[str, ...] = ()
    files: Sequence[str] = ()
    files_digest: str = ""
    preprocessing: Preprocessing | None = None
    left_out: tuple[str, ...] = ()
    outputs: str = ""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        c, h, w = self.x.shape[1:]
        return c, h, w

    def pixels(self, rows: Tensor | slice) -> Tensor:
        """The images of these rows, float32 in [0, 1].

        Args:
            rows: a mask, indices or a slice.
        """
        values = self.x[rows]
        return values.to(torch.float32) / 255 if values.dtype == torch.uint8 else values

    def first_readable(self, count: int) -> tuple[Tensor, Tensor]:
        """The rows of the first images, at most so many, and their pixels as in `pixels`; what is to be left out is passed over.

        Args:
            count: how many are wanted.
        """
        skips = isinstance(self.x, StoredPixels) and self.x.skips_damaged
        return readable_rows(self.pixels, len(self), count, skips)

    def class_name(self, label: int) -> str:
        """The name of a class; its number where a model has more outputs than the data has names.

        Args:
            label: a label, from 0.
        """
        return self.classes[label] if label < len(self.classes) else str(label)

    def take(self, rows: Tensor | slice) -> Images:
        """Only these rows (a mask, indices or a slice), in their order; ids stay what they were.

        Args:
            rows: a mask, indices or a slice.
        """
        masks = None if self.masks is None else self.masks[rows]
        x = self.x.take(rows) if isinstance(self.x, StoredPixels) else self.x[rows]
        files = [self.files[place] for place in torch.arange(len(self))[as_cpu_rows(rows)].tolist()] if self.files else ()
        return replace(self, x=x, y=self.y[rows], ids=self.ids[rows], masks=masks, files=files)

    def with_labels(self, outputs: Sequence[int], classes: Sequence[str]) -> Images:
        """The same images with the label outputs[k] in place of k, under these names.

        Args:
            outputs: for each label the one that takes its place.
            classes: the names of the new labels.
        """
        return replace(self, y=torch.tensor(outputs, device=self.y.device)[self.y], classes=tuple(classes))

    def to(self, device: torch.device | str) -> Images:
        """The same images on another device."""
        masks = None if self.masks is None else self.masks.to(device)
        return replace(self, x=self.x.to(device), y=self.y.to(device), ids=self.ids.to(device), masks=masks)

    @property
    def is_stored(self) -> bool:
        """Whether the pixels stay on the disk and are decoded as they are asked for."""
        return isinstance(self.x, StoredPixels)

    def expect(self, rows: Tensor | slice) -> None:
        """Says in which order images will be asked for, so that those on the disk can be decoded ahead; does nothing for others.

        Args:
            rows: a mask, indices or a slice.
        """
        if isinstance(self.x, StoredPixels):
            self.x.expect(rows)

    def pixel_digests(self, rows: Tensor | slice) -> list[str]:
        """What each of these images is known by, a digest of its pixels; "" for one on the disk that was not decoded yet.

        Args:
            rows: a mask, indices or a slice.
        """
        if isinstance(self.x, StoredPixels):
            return self.x.digests(rows)
        return [pixel_digest(image.numpy()) for image in self.x[rows].cpu()]

    @cached_property
    def sha256(self) -> str:
        """Hex digest over the bytes of x, y and ids, with their types and shapes: says whether two runs saw the same images.

        Of images that stay on the disk it is `files_digest`, as their pixels are not known before they are decoded.
        """
        if isinstance(self.x, StoredPixels):
            return self.files_digest
        digest = hashlib.sha256()
        for tensor in (self.x, self.y, self.ids):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def identity(self) -> str:
        """By what a run knows its images again: `files_digest` of image files, in memory or on the disk, and `sha256` of others."""
        return self.files_digest or self.sha256


@dataclass(frozen=True)
class Choice:
    """Which images of a split are wanted.

    Attributes:
        n: exactly so many images, the first; None for all.
        shuffle: whether the first are those of an order that is drawn with the seed.
        indices: the ids that are chosen from, in this order, or the names of their files; None for all.
        seed: of shuffle and by_class.
        at_most: where n is None, no more than so many; None for no limit.
        by_class: whether the n are drawn with the seed, the same share of each class, in their order, in place of the first.
    """

    n: int | None = None
    shuffle: bool = False
    indices: tuple[int, ...] | tuple[str, ...] | None = None
    seed: int = 0
    at_most: int | None = None
    by_class: bool = False

    def rows(self, ids: Tensor, what: str, y: Tensor | None = None, files: Sequence[str] = ()) -> Tensor:
        """The places of the chosen images, in the order of use.

        Args:
            ids: (N,) int64, those of a whole split, in its order.
            what: what sentences call the split.
            y: (N,) int64 labels, which by_class needs.
            files: the N names of the images, which indices by file name need.

        Returns:
            Places in `ids`, (M,) int64.

        Raises:
            InputError: where there are none, fewer than n, or no image of a listed id.
        """
        if len(ids) == 0:
            raise InputError(f"{what} is empty: it has no images to use")
        rows = torch.arange(len(ids)) if self.indices is None else listed_rows(ids, files, self.indices, what)
        if self.shuffle:  # sorting by a number drawn for the id makes the order independent of where the image stood
            rows = rows[Draws(self.seed, ids[rows], "data/shuffle").uniform(()).argsort(stable=True)]
        if self.n is None:
            return rows[: self.at_most]
        if not 1 <= self.n <= len(rows):
            count_text = f"{what} has {len(rows)}" if self.indices is None else f"the index file lists {len(rows)}"
            raise InputError(f"n must be between 1 and the number of images, and {count_text}: n = {self.n} is not possible")
        if self.by_class and y is not None:
            return rows[stratified_mask(y[rows], ids[rows], self.n, self.seed, "data/subset")]
        return rows[: self.n]


def as_cpu_rows(rows: Tensor | slice) -> Tensor | slice:
    """The rows on the CPU."""
    return rows.cpu() if isinstance(rows, Tensor) else rows


def stratified_mask(y: Tensor, ids: Tensor, n: int, seed: int, key: str) -> Tensor:
    """Which n of the images with labels y are drawn, (N,) bool: the same share of each class, rounded by largest remainder.

    Which ones depends on the seed, the key and the ids only, not on their order.
    """
    numbers = Draws(seed, ids, key).uniform(())
    mask = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for label, count in enumerate(quotas(y.bincount(), n)):
        members = (y == label).nonzero().squeeze(1)
        members = members[ids[members].argsort()]  # ties of the drawn numbers fall by id
        mask[members[numbers[members].argsort(stable=True)[:count]]] = True
    return mask


def quotas(sizes: Tensor, n: int) -> list[int]:
    """Whole numbers that sum to n, in proportion to the sizes (K,): shares rounded down, the rest to the largest remainders."""
    exact = sizes.to(torch.float64) * n / sizes.sum()
    floor = exact.floor()
    extra = (exact - floor).argsort(descending=True, stable=True)[: n - int(floor.sum())]
    floor[extra] += 1
    return [int(count) for count in floor]


def stratified_images(images: Images, n: int, seed: int) -> Images:
    """At most n of the images, drawn with the seed, the same share of each class, in their order.

    Args:
        images: the images.
        n: how many are drawn.
        seed: of the draw.
    """
    return images if n >= len(images) else images.take(stratified_mask(images.y, images.ids, n, seed, "data/subset"))


def class_coverage(y: Tensor, classes: Sequence[str]) -> str:
    """How many classes have an image among those with labels y, as in "5 of 10 classes"; "" where each has one.

    Args:
        y: (N,) int64 labels.
        classes: the K names.

    Example:
        >>> class_coverage(torch.tensor([0, 0, 2]), ("cat", "dog", "fox"))
        '2 of 3 classes'
    """
    count = len(y.unique())
    return f"{count} of {len(classes)} classes" if count < len(classes) else ""


def listed_rows(ids: Tensor, files: Sequence[str], wanted: Sequence[int] | Sequence[str], what: str) -> Tensor:
    """Where each image stands that is listed by its id or by the name of its file; InputError if one is not there."""
    names = [one for one in wanted if isinstance(one, str)]
    return rows_of_names(files, names, what) if names else rows_of_ids(ids, listed_ids(wanted, what).tolist(), what)


def rows_of_ids(ids: Tensor, wanted: Sequence[int], what: str) -> Tensor:
    """Where each wanted id stands in `ids`; InputError if one is not there."""
    where = {sample: row for row, sample in enumerate(ids.tolist())}
    missing = [sample for sample in wanted if sample not in where]
    if missing:
        raise InputError(f"{what} has no image with index {missing[0]}: its indices lie between {min(where)} and {max(where)}")
    return torch.tensor([where[sample] for sample in wanted])


def checked_images(images: Images) -> Images:
    """The same images, after a look at their shapes, types, labels and pixels; InputError where something is wrong."""
    x, y, name = images.x, images.y, images.name
    if isinstance(x, StoredPixels):
        refuse_labels(y, images.classes, name)
        return images
    if x.dim() != 4 or y.shape != x.shape[:1] or images.ids.shape != y.shape:
        sizes = f"x {tuple(x.shape)}, y {tuple(y.shape)} and ids {tuple(images.ids.shape)}"
        raise InputError(f"{name}: {sizes} do not fit together: x must be (N, C, H, W), y and ids (N,)")
    if 0 in x.shape[1:]:
        raise InputError(f"{name}: the images have shape {tuple(x.shape[1:])} (C, H, W), and so no pixels")
    if x.dtype not in (torch.uint8, torch.float32):
        raise InputError(f"{name}: pixels are {x.dtype}: they must be uint8, or float32 in [0, 1]")
    if x.is_floating_point() and (fault := pixel_range_fault(x)):
        raise InputError(f"{name}: float pixels must lie in [0, 1], and {fault}")
    if x.dtype == torch.uint8 and len(x) and int(x.max()) == 1:
        raise InputError(f"{name}: pixels are bytes of 0 and 1 alone, which is black: multiply them by 255, or store them as floats")
    refuse_labels(y, images.classes, name)
    if len(images.ids.unique()) < len(images):
        raise InputError(f"{name}: an index stands for more than one image: each needs its own")
    return images


def pixel_range_fault(x: Tensor) -> str:
    """What is wrong with float pixels that must lie in [0, 1], and what to do about it; "" where nothing is.

    Args:
        x: (N, C, H, W), float.

    Example:
        >>> pixel_range_fault(torch.full((1, 1, 2, 2), 255.0))
        'these span 255 to 255: divide by 255'
    """
    if len(x) == 0 or all(bool(((part >= 0) & (part <= 1)).all()) for part in x.split(1000)):
        return ""
    bad = sum(int((~part.isfinite()).sum()) for part in x.split(1000))
    if bad:
        return f"{bad} of these are NaN or infinite: leave such images out"
    low, high = float(x.min()), float(x.max())
    way = "undo the normalisation, it belongs in the model" if low < 0 else "divide by 255" if 1.5 < high <= 255 else "bring them there"
    return f"these span {low:.4g} to {high:.4g}: {way}"


def refuse_labels(y: Tensor, classes: Sequence[str], name: str) -> None:
    """InputError for labels that are none of these classes."""
    if len(y) and int(y.min()) < 0:
        raise InputError(f"{name}: labels are whole numbers from 0, and the smallest of these is {int(y.min())}")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < len(classes):
        raise InputError(f"{name}: labels must lie between 0 and {len(classes) - 1}, and these span {int(y.min())} to {int(y.max())}")


def refuse_too_many(n: int, shape: Sequence[int], width: int, name: str) -> None:
    """InputError where n images (C, H, W) of `width` bytes a number take more than half of the memory: they are copied at least once."""
    demand, memory = n * math.prod(shape) * width, machine_memory()
    if demand > memory / 2:
        sizes = f"{demand / 1e9:.1f} GB, more than half of the memory of this machine ({memory / 1e9:.1f} GB)"
        raise InputError(f"{name}: {n} images of {'x'.join(map(str, shape))} take {sizes}: lower --n or --image-size")


def machine_memory() -> float:
    """Bytes of memory that the machine has; infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def resized_crops(x: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Images (N, C, H, W), resized (anti-aliased) and cut to the middle as torchvision does with tensors.

    Args:
        x: uint8, or float in [0, 1].
        preprocessing: how; tensors are resized bilinear, bicubic or nearest.

    Raises:
        InputError: for another interpolation, and for images smaller than the crop.
    """
    way = preprocessing.interpolation
    if preprocessing.resize is not None and way not in ("bilinear", "bicubic", "nearest"):
        raise InputError(f"arrays of pixels cannot be resized {way}: pass --interpolation bilinear, bicubic or nearest")
    preprocessing.cut_extent(x.shape[-2], x.shape[-1])
    target = preprocessing.resized_extent(x.shape[-2], x.shape[-1])
    if target != tuple(x.shape[-2:]):
        resized = F.interpolate(x.to(torch.float32), size=target, mode=way, antialias=way != "nearest")
        x = resized.round().clamp(0, 255).to(torch.uint8) if x.dtype == torch.uint8 else resized.clamp(0, 1)
    (top, left), (height, width) = preprocessing.crop_corner(*target), preprocessing.crop or target
    return x[..., top : top + height, left : left + width]


def resized_images(images: Images, preprocessing: Preprocessing) -> Images:
    """The same images resized and cut, in chunks, for a float copy of all of them may not fit.

    Args:
        images: in memory.
        preprocessing: how they are resized and cut.

    Raises:
        InputError: where they would take too much memory.
    """
    assert isinstance(images.x, Tensor)
    height, width = preprocessing.cut_extent(*images.shape[1:])
    refuse_too_many(len(images), (images.shape[0], height, width), images.x.element_size(), images.name)
    most = max(preprocessing.resized_extent(*images.shape[1:]))
    chunk = max(1, min(256, MOST_PIXELS // most**2))
    x = torch.cat([resized_crops(part, preprocessing) for part in images.x.split(chunk)])
    changed = replace(images, x=x, preprocessing=preprocessing)
    if images.masks is None:
        return changed
    masks = torch.cat([resized_crops(part[:, None].float(), preprocessing)[:, 0] > 0.5 for part in images.masks.split(chunk)])
    return replace(changed, masks=masks)
