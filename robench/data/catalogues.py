"""The images of a split as they lie on the disk, and the `Images` of those that are chosen: in memory, or left on the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robench.core.decoding import AS_THEY_ARE, DamagedImageError, Item, edge_bytes, item_extent
from robench.core.errors import InputError
from robench.core.preprocessing import Extent, Preprocessing
from robench.core.recipes import lookup
from robench.data.images import Choice, Images, refuse_too_many
from robench.data.stored_pixels import ONE_SIZE_ADVICE, Decoder, StoredPixels, usual_workers

PIXEL_PLACES = ("auto", "memory", "disk")  # where pixels are kept
MOST_IN_MEMORY = 2**28  # bytes of pixels that are kept in memory where the user does not say where
SAMPLED_FILES = 500  # whose content counts for the digest of many, evenly spaced
EDGE_BYTES = 2**16  # bytes at both ends of a file that count


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All images of one split as they lie on the disk, in the order of use; nothing is decoded.

    Attributes:
        name: as the rows spell the set.
        split: "train" or "test"; "all" where the source has none.
        items: N, where the bytes of each image lie.
        files: N names by which users know the images, such as CLASS/FILE.
        y: (N,) int64, labels in [0, K).
        ids: (N,) int64, the index of each image in the official split.
        classes: the K names.
        notes: sentences on how the source was read.
        outputs: over which outputs of a model the authors of the set evaluate: "all", "data" for those of its classes; "" for no word.
        is_cut_only: whether images are cut to the middle and never resized, as the authors of the set say.
    """

    name: str
    split: str
    items: Sequence[Item]
    files: Sequence[str]
    y: Tensor
    ids: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    outputs: str = ""
    is_cut_only: bool = False

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: Tensor) -> Catalogue:
        """Only these images.

        Args:
            rows: (M,) int64, or a mask (N,).
        """
        places = torch.arange(len(self))[rows].tolist()
        items, files = [self.items[place] for place in places], [self.files[place] for place in places]
        return replace(self, items=items, files=files, y=self.y[rows], ids=self.ids[rows])


@dataclass(frozen=True)
class Keeping:
    """How the pixels of files are kept.

    Attributes:
        place: "memory", "disk" to decode them as they are asked for, or "auto": in memory where they take at most 256 MiB.
        workers: processes that decode what stays on the disk; 0 for none, None for one a core, at most four.
        skips_damaged: whether images that cannot be read are left out.
    """

    place: str = "auto"
    workers: int | None = None
    skips_damaged: bool = False

    def __post_init__(self) -> None:
        lookup(self.place, dict.fromkeys(PIXEL_PLACES), "place of the pixels")
        if self.workers is not None and not 0 <= self.workers <= 256:
            raise InputError(f"the number of processes that decode images must lie between 0 and 256, not {self.workers}")


def images_of_catalogue(catalogue: Catalogue, choice: Choice, preprocessing: Preprocessing | None, keeping: Keeping) -> Images:
    """The chosen images of a catalogue.

    Args:
        catalogue: all images.
        choice: which of them are wanted.
        preprocessing: how they are resized and cut; None leaves them as they are.
        keeping: where their pixels are kept.

    Raises:
        InputError: where there are none, one cannot be read, or they differ in size.
    """
    chosen = catalogue.take(choice.rows(catalogue.ids, f"{catalogue.name} ({catalogue.split})", catalogue.y, catalogue.files))
    how = preprocessing or AS_THEY_ARE
    how = replace(how, resize=None) if catalogue.is_cut_only else how
    extent = common_extent(chosen, how, keeping.skips_damaged)
    workers = usual_workers() if keeping.workers is None else keeping.workers
    decoder = Decoder(chosen.items, how, extent, catalogue.name, workers)
    stored = StoredPixels(decoder, torch.arange(len(chosen)), skips_damaged=keeping.skips_damaged)
    made = Images(
        chosen.name, chosen.split, stored, chosen.y, chosen.ids, chosen.classes, notes=chosen.notes, files=chosen.files,
        files_digest=files_digest(chosen, how), preprocessing=preprocessing and how, outputs=chosen.outputs,
    )  # fmt: skip
    size = len(chosen) * 3 * extent[0] * extent[1]
    return made if keeping.place == "disk" or (keeping.place == "auto" and size > MOST_IN_MEMORY) else in_memory(made, keeping)


def readable_images_of(images: Images) -> Images:
    """The images without those that cannot be read, where these are to be left out, with a note; each is decoded once for that.

    Args:
        images: in memory or on the disk.

    Raises:
        InputError: where none can be read.
    """
    if not isinstance(images.x, StoredPixels) or not images.x.skips_damaged:
        return images
    damaged: dict[int, str] = {}
    images.expect(slice(None))
    for rows in torch.arange(len(images)).split(images.x.decoder.unit):
        try:
            images.x[rows]
        except DamagedImageError as error:
            damaged |= {int(rows[row]): why for row, why in error.reasons.items()}
    images.x.decoder.expect(())
    return without_damaged(images, damaged)


def without_damaged(images: Images, damaged: Mapping[int, str]) -> Images:
    """The images without some, by their places, with a note that says why each cannot be read."""
    if not damaged:
        return images
    kept = torch.tensor([row not in damaged for row in range(len(images))])
    if not bool(kept.any()):
        raise InputError(f"{images.name}: none of the images that were chosen can be read, as {next(iter(damaged.values()))}")
    sentences = [why for _, why in sorted(damaged.items())]
    names = tuple(images.files[row] for row in sorted(damaged))
    whole = images.take(kept)
    return replace(whole, notes=(*images.notes, damaged_note(sentences, len(images))), left_out=(*images.left_out, *names))


def in_memory(images: Images, keeping: Keeping) -> Images:
    """The same images with their pixels in memory; those that cannot be read are left out where that is wanted, with a note."""
    stored = images.x
    assert isinstance(stored, StoredPixels)
    refuse_too_many(len(images), images.shape, 1, images.name)
    x, damaged = torch.empty(stored.shape, dtype=torch.uint8), dict[int, str]()
    stored.decoder.workers = stored.decoder.workers if stored.shape.numel() > MOST_IN_MEMORY // 8 else 0  # fewer are not worth a process
    images.expect(slice(None))
    for row in range(len(images)):
        try:
            x[row] = stored[row]
        except DamagedImageError as error:
            if not keeping.skips_damaged:
                raise
            damaged[row] = error.reasons[0]
    stored.decoder.expect(())
    return without_damaged(replace(images, x=x), damaged)


def damaged_note(sentences: Sequence[str], n: int) -> str:
    """What is said of images that were left out because they cannot be read.

    Args:
        sentences: why each cannot be.
        n: how many were chosen.
    """
    many = f"{len(sentences)} of the {n} chosen images cannot be read and are left out"
    return f"{many}: {'; '.join(sentences[:3])}{'; ...' if len(sentences) > 3 else ''}"


def first_extent(chosen: Catalogue, preprocessing: Preprocessing, skips: bool) -> Extent:
    """Height and width of the first image, or of the first one that can be read where others are left out."""
    damaged = None
    for item in chosen.items:
        try:
            return item_extent(item, preprocessing)
        except DamagedImageError as error:
            if not skips:
                raise with_way_out(error) from error
            damaged = damaged or error
    raise InputError(f"{chosen.name}: none of the images that were chosen can be read, as {damaged}")


def with_way_out(error: DamagedImageError) -> DamagedImageError:
    """The same with the option that leaves such images out."""
    return DamagedImageError(f"{error}; --skip-damaged leaves such images out", error.reasons)


def common_extent(chosen: Catalogue, preprocessing: Preprocessing, skips: bool) -> Extent:
    """Height and width of all images; InputError where the headers of some say otherwise. Of many, some evenly spaced are looked at."""
    first = first_extent(chosen, preprocessing, skips)
    if preprocessing.crop is not None or isinstance(preprocessing.resize, tuple):
        return preprocessing.cut_extent(*first)
    for place in sampled_places(len(chosen)):
        try:
            other = item_extent(chosen.items[place], preprocessing)
        except DamagedImageError as error:
            if not skips:
                raise with_way_out(error) from error
            continue
        if preprocessing.cut_extent(*other) != preprocessing.cut_extent(*first):
            names = chosen.files[0], chosen.files[place]
            sizes = f"{names[0]} is {first[1]}x{first[0]} and {names[1]} is {other[1]}x{other[0]}"
            raise InputError(f"{chosen.name}: images differ in size ({sizes}): {ONE_SIZE_ADVICE}")
    return preprocessing.cut_extent(*first)


def sampled_places(n: int) -> list[int]:
    """At most SAMPLED_FILES places among n, evenly spaced, the first and the last among them."""
    return sorted({*torch.linspace(0, n - 1, min(n, SAMPLED_FILES), dtype=torch.float64).round().long().tolist()})


def files_digest(chosen: Catalogue, preprocessing: Preprocessing) -> str:
    """Whether two runs look at the same files, without decoding them.

    Args:
        chosen: the images.
        preprocessing: how they are resized and cut.

    Returns:
        Hex digest over the names and sizes of all files, the first and last 64 KiB of at most 500 of them, evenly spaced, and the
        preprocessing.
    """
    digest = hashlib.sha256(f"{preprocessing.plain()};".encode())
    for item, name in zip(chosen.items, chosen.files, strict=True):
        digest.update(f"{name}|{item_size(item)};".encode(errors="surrogateescape"))
    for place in sampled_places(len(chosen)):
        try:
            _, first, last = edge_bytes(chosen.items[place], EDGE_BYTES)
        except DamagedImageError:
            first, last = b"", b""  # it is named once it is decoded
        digest.update(first + b";" + last + b";")
    return digest.hexdigest()


def item_size(item: Item) -> int:
    """The bytes of an item, of the whole file where it is part of a compressed one; -1 where there is no such file."""
    try:
        return int(item[3]) if item[0] == "slice" else os.stat(item[1]).st_size  # noqa: PTH116 - quick, for a million of them
    except OSError:
        return -1
