"""One image from where its bytes lie: read, decoded to RGB, resized and cut. Torch is not needed, so that worker processes start quickly.

An item says where the bytes of an image lie: ("file", PATH), ("plain", PATH) of a file that must be RGB or grey, or a part of a larger
file; READERS lists the kinds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robench.core.contained_images import cell_bytes, slice_bytes
from robench.core.errors import InputError
from robench.core.pictures import UnreadablePictureError, opened_picture
from robench.core.preprocessing import ExtremeShapeError, Preprocessing

Item = tuple[Any, ...]  # ("file", path), ("slice", path, offset, length), ...; text and whole numbers alone
Pixels8 = np.ndarray[Any, np.dtype[np.uint8]]
AS_THEY_ARE = Preprocessing(None, None)
DIGEST_LETTERS = 16  # of the sha256 of an image's pixels, by which it is known


class DamagedImageError(InputError):
    """An image cannot be read: its file is damaged, or gone; the run may go on without it.

    Attributes:
        reasons: a sentence for each such image, by its place among those that were asked for; {} where one was asked for.
    """

    def __init__(self, sentence: object = "", reasons: Mapping[int, str] | None = None) -> None:
        super().__init__(sentence)
        self.reasons = dict(reasons or {})


def decoded_item(item: Item, preprocessing: Preprocessing = AS_THEY_ARE) -> Pixels8:
    """The pixels of an item, (3, H, W) RGB: grey and palette become RGB, transparency is dropped, EXIF orientation is not applied.

    It is resized by Pillow, as the transforms of torchvision and timm do with image files, to the same pixels.

    Args:
        item: where its bytes lie.
        preprocessing: how it is resized and cut.

    Raises:
        DamagedImageError: where it cannot be read as an image of 8 bits a channel, and where its shape is so extreme that it would
            become too large.
        InputError: where it is smaller than the crop.
    """
    name, content = READERS[item[0]](item)
    try:
        with opened_picture(name, content) as image:
            if image.mode[0] in "IF" or has_sixteen_bits(image):
                raise DamagedImageError(f"{name} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
            preprocessing.cut_extent(image.height, image.width)  # before anything is decoded
            opaque = image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")
            return np.ascontiguousarray(np.asarray(fitted_picture(opaque, preprocessing)).transpose(2, 0, 1))
    except DamagedImageError:
        raise
    except UnreadablePictureError as error:
        raise DamagedImageError(error) from error
    except ExtremeShapeError as error:
        raise DamagedImageError(f"{name}: {error}") from error
    except InputError as error:  # which is of how images are prepared, not of this file
        raise InputError(f"{name}: {error}") from error


def fitted_picture(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """A picture resized and cut to the middle.

    Args:
        picture: the image as it was opened, RGB
        preprocessing: how it is resized and cut
    """
    height, width = preprocessing.resized_extent(picture.height, picture.width)
    way = Image.Resampling[preprocessing.interpolation.upper()]
    whole = picture if (width, height) == picture.size else picture.resize((width, height), way)
    if preprocessing.crop is None:
        return whole
    (top, left), (crop_height, crop_width) = preprocessing.crop_corner(height, width), preprocessing.crop
    return whole.crop((left, top, left + crop_width, top + crop_height))


def has_sixteen_bits(image: Image.Image) -> bool:
    """Whether the file holds 16 bits a channel, which Pillow cuts to 8 unasked where there are several channels.

    Args:
        image: as it was opened, not decoded yet.
    """
    tiles = [(tile[0], tile[3]) for tile in getattr(image, "tile", [])]
    return any(";16" in str(args) or (codec.startswith("ppm") and max(map(int_or_zero, args), default=0) > 255) for codec, args in tiles)


def int_or_zero(value: object) -> int:
    """A whole number as it is; 0 for anything else."""
    return value if isinstance(value, int) else 0


def pixel_digest(pixels: np.ndarray[Any, Any]) -> str:
    """What an image is known by: 16 letters of the sha256 of its pixels, with their type and shape.

    Args:
        pixels: (C, H, W).
    """
    digest = hashlib.sha256(f"{pixels.dtype} {pixels.shape};".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()[:DIGEST_LETTERS]


def file_content(item: Item) -> tuple[str, None]:
    """The name of a file, which is read as it is decoded.

    Args:
        item: ("file", path)
    """
    return str(item[1]), None


def contained_content(item: Item) -> tuple[str, bytes]:
    """The name and the bytes of an image inside a larger file; DamagedImageError where they cannot be read.

    Args:
        item: ("slice", path, offset, length) or ("cell", path, column, row_group, row)
    """
    try:
        return item_name(item), slice_bytes(*item[1:]) if item[0] == "slice" else cell_bytes(*item[1:])
    except InputError as error:
        raise DamagedImageError(error) from error


def plain_file_content(item: Item) -> tuple[str, None]:
    """The name of a file that must be RGB or grey, of 8 bits a channel: what else it is, it is not what it is taken for.

    Args:
        item: ("plain", path)
    """
    name = str(item[1])
    try:
        with opened_picture(name) as image:
            mode, deep = image.mode, has_sixteen_bits(image)
    except InputError as error:
        raise DamagedImageError(error) from error
    if mode not in ("RGB", "L") or deep:
        what = "16 bits a channel" if deep else f"mode {mode}"
        raise InputError(f"{name} is an image of {what}: it must be RGB or grey, of 8 bits a channel")
    return name, None


def item_name(item: Item) -> str:
    """What sentences call an item.

    Args:
        item: of any kind.
    """
    match item:
        case ("slice", path, offset, length):
            return f"{path} (bytes {offset} to {offset + length})"
        case ("cell", path, _, row_group, row):
            return f"{path} (row {row} of row group {row_group})"
    return str(item[1])


def item_extent(item: Item, preprocessing: Preprocessing = AS_THEY_ARE) -> tuple[int, int]:
    """Height and width of an image as its header says them; nothing is decoded.

    Args:
        item: where its bytes lie.
        preprocessing: how it will be resized.

    Raises:
        DamagedImageError: where it is no image, and where it would become too large.
    """
    name, content = READERS[item[0]](item)
    try:
        with opened_picture(name, content) as image:
            preprocessing.resized_extent(image.height, image.width)
            return image.height, image.width
    except UnreadablePictureError as error:
        raise DamagedImageError(error) from error
    except ExtremeShapeError as error:
        raise DamagedImageError(f"{name}: {error}") from error


def edge_bytes(item: Item, count: int) -> tuple[int, bytes, bytes]:
    """The size of an item, its first and its last bytes, of the whole file that holds it where it is no file or slice.

    Args:
        item: where its bytes lie.
        count: how many bytes at either end.

    Raises:
        DamagedImageError: where it cannot be read.
    """
    path, begin, size = Path(item[1]), 0, None
    if item[0] == "slice":
        begin, size = int(item[2]), int(item[3])
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, 2) if size is None else size
            handle.seek(begin)
            first = handle.read(min(count, size))
            handle.seek(begin + max(0, size - count))
            return size, first, handle.read(min(count, size))
    except OSError as error:
        raise DamagedImageError(f"{item_name(item)} cannot be read ({error.strerror or error}): repair or remove it") from error


# kind of item: reader(item) -> its name in sentences, and its bytes; None where the name is that of a file that is read as it is decoded
READERS: dict[str, Callable[[Item], tuple[str, bytes | None]]] = {
    "file": file_content,
    "plain": plain_file_content,
    "slice": contained_content,
    "cell": contained_content,
}
