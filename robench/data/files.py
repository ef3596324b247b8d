"""The user's own images: one npz file, or a tree of folders with a folder a class. Neither can carry code: no pickles are read."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robench.data.classes import ordered
from robench.data.images import Choice, Images, Size
from robench.data.layouts import WHOLE, Layout, pictures, understood
from robench.errors import InputError

BROKEN_NPZ = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
BROKEN_IMAGE = (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError)


def located(path: Path, data_dir: Path, kind: str) -> Path:
    """The path itself, or the one of that name under data_dir; InputError if neither is there."""
    for candidate in (path, data_dir / path):
        if candidate.exists():
            return candidate
    raise InputError(f"{kind}:{path} not found here or in {data_dir}: check the path, or pass --data-dir")


def npz(path: Path, split: str, choice: Choice, size: Size | None, class_order: str | None, layout: str | None) -> Images:  # noqa: ARG001
    """The chosen images of an npz file with x_SPLIT, y_SPLIT and perhaps SPLIT_index, or with plain x and y."""
    name = f"npz:{path.stem}"
    arrays = dict(members(path, name, split))
    split = WHOLE if "x" in arrays and f"x_{split}" not in arrays else split
    x_key, y_key, index_key = ("x", "y", "index") if split == WHOLE else (f"x_{split}", f"y_{split}", f"{split}_index")
    if x_key not in arrays or y_key not in arrays:
        raise InputError(f"{name} has no images and labels for {split!r}: it holds {', '.join(arrays)}, and needs {x_key} and {y_key}")
    x, y = channels_first(arrays[x_key], name), whole_numbers(arrays[y_key], f"{name}: {y_key}")
    ids = whole_numbers(arrays[index_key], f"{name}: {index_key}") if index_key in arrays else torch.arange(len(x))
    if not len(x) == len(y) == len(ids):
        raise InputError(f"{name}: {len(x)} images, {len(y)} labels and {len(ids)} indices do not fit together")
    rows = choice.rows(ids, f"{name} ({split})", y)
    return Images(name, split, x[rows].contiguous(), y[rows], ids[rows], class_names(arrays, name))


def members(path: Path, name: str, split: str) -> dict[str, np.ndarray]:
    """The arrays of the file that concern the split, all labels (they tell how many classes there are) and the classes."""
    keys = ("x", "y", "index", "classes", f"x_{split}", f"{split}_index")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an npz file, or was cut short: make it with numpy.savez_compressed, or fetch it again")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if key in keys or key.startswith("y_")}
    except BROKEN_NPZ as error:
        raise InputError(f"{name} cannot be read ({error}): the file is damaged, or holds something other than plain arrays") from error


def whole_numbers(array: np.ndarray, what: str) -> Tensor:
    """An integer array (N,) as an int64 tensor."""
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{what} must be whole numbers of shape (N,), not {array.dtype} of shape {array.shape}")
    return torch.from_numpy(array.astype(np.int64))


def class_names(arrays: dict[str, np.ndarray], name: str) -> tuple[str, ...]:
    """The names in `classes`, or "0", "1", ... up to the largest label of any split."""
    if "classes" in arrays:
        if arrays["classes"].ndim != 1 or arrays["classes"].dtype.kind != "U":
            raise InputError(f"{name}: classes must be an array of strings of shape (K,)")
        return tuple(arrays["classes"].tolist())
    labels = [array for key, array in arrays.items() if (key == "y" or key.startswith("y_")) and array.dtype.kind in "iu"]
    return tuple(str(k) for k in range(1 + max(int(array.max()) for array in labels if array.size)))


def channels_first(x: np.ndarray, name: str) -> Tensor:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W), uint8 or float32; C is the axis of size 1 or 3."""
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise InputError(f"{name}: pixels are {x.dtype}: they must be uint8, or float32 in [0, 1]")
    if x.ndim not in (3, 4):
        raise InputError(f"{name}: images have shape {x.shape}: it must be (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if x.ndim == 3:
        x = x[:, None]
    elif (first := x.shape[1] in (1, 3)) == (x.shape[3] in (1, 3)):
        raise InputError(
            f"{name}: images have shape {x.shape}: {'two axes' if first else 'no axis'} could be 1 or 3 channels: store (N, C, H, W)"
        )
    elif not first:
        x = x.transpose(0, 3, 1, 2)
    return torch.from_numpy(x if x.dtype == np.uint8 else x.astype(np.float32))


def folder(path: Path, split: str, choice: Choice, size: Size | None, class_order: str | None, layout: str | None) -> Images:
    """The chosen images of PATH/SPLIT/CLASS/*, or of PATH/CLASS/*; only these are decoded.

    An id is the place in the list sorted by class, as text, and file, whatever the order of the labels. In the order of use the classes
    take turns (first file of each, second file of each, ...), so that the first n are balanced.
    """
    name = f"folder:{path.resolve().name}"
    tree = understood(path, split, layout, name)
    top, split, classes = tree.top, tree.split, tree.classes
    by_label = ordered(classes, class_order, name)
    by_class = [pictures(top / kind) for kind in classes]
    listed = [(rank, label, file) for label, kind in enumerate(by_class) for rank, file in enumerate(kind)]
    order = sorted(range(len(listed)), key=lambda place: listed[place][:2])
    y = torch.tensor([listed[place][1] for place in order], dtype=torch.int64)
    rows = choice.rows(torch.tensor(order, dtype=torch.int64), f"{name} ({split})", y)
    ids = torch.tensor(order)[rows]
    _, labels, chosen = zip(*(listed[place] for place in ids.tolist()), strict=True)
    y = torch.tensor([by_label.index(kind) for kind in classes])[torch.tensor(labels)]
    notes = (told(tree, [len(files) for files in by_class], name), *tree.notes)
    return Images(name, split, decoded(chosen, size, name), y, ids, by_label, notes=notes)


def told(tree: Layout, counts: Sequence[int], name: str) -> str:
    """What was understood of a tree, in one line."""
    least, most = min(counts), max(counts)
    each = f"{least} to {most}" if least < most else str(least)
    what = "all images" if tree.split == WHOLE else f"split {tree.split!r}"
    few = tree.classes if len(tree.classes) < 3 else (tree.classes[0], "...", tree.classes[-1])
    return f"{name} was read as {tree.shape}; {what}: {len(counts)} classes ({', '.join(few)}), {sum(counts)} images, {each} a class"


def decoded(files: Sequence[Path], size: Size | None, name: str) -> Tensor:
    """The images (N, 3, H, W) uint8, all of one size."""
    first = picture(files[0], size)
    x = torch.empty((len(files), *first.shape), dtype=torch.uint8)
    for row, file in enumerate(files):
        image = picture(file, size)
        if image.shape != first.shape:
            sizes = f"{files[0].name} is {first.shape[2]}x{first.shape[1]} and {file.name} is {image.shape[2]}x{image.shape[1]}"
            raise InputError(f"{name}: images differ in size ({sizes}): pass --image-size to bring them to one")
        x[row] = image
    return x


def picture(file: Path, size: Size | None) -> Tensor:
    """One image file as (3, H, W) uint8 RGB: grey and palette become RGB, transparency is dropped, EXIF orientation is not applied.

    It is resized by Pillow, as torchvision's transforms of image files do, to the same pixels.
    """
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF" or sixteen_bits(image):
                raise InputError(f"{file} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
            opaque = image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")
            return torch.from_numpy(np.array(opaque if size is None else fitted(opaque, size))).permute(2, 0, 1)
    except InputError:
        raise
    except BROKEN_IMAGE as error:
        raise InputError(f"{file} cannot be read as an image ({error}): repair or remove it") from error


def fitted(image: Image.Image, size: Size) -> Image.Image:
    """An image file resized and cut to the middle."""
    height, width = size.target(image.height, image.width)
    whole = image.resize((width, height), Image.Resampling.BILINEAR)
    top, left = size.corner(height, width)
    return whole.crop((left, top, left + size.crop, top + size.crop))


def sixteen_bits(image: Image.Image) -> bool:
    """Whether the file holds 16 bits a channel, which Pillow cuts to 8 unasked where there are several channels."""
    tiles = [(tile[0], tile[3]) for tile in getattr(image, "tile", [])]
    return any(";16" in str(args) or (codec.startswith("ppm") and max(map(whole, args), default=0) > 255) for codec, args in tiles)


def whole(value: object) -> int:
    """A whole number as it is; 0 for anything else."""
    return value if isinstance(value, int) else 0
