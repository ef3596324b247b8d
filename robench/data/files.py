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
from robench.data.images import Choice, Images, square
from robench.errors import InputError

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FOLDERS = {"train": ("train",), "test": ("test", "val"), "val": ("val",)}
BROKEN_NPZ = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
BROKEN_IMAGE = (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError)
WHOLE = "all"  # the split of a source that has none


def located(path: Path, data_dir: Path, kind: str) -> Path:
    """The path itself, or the one of that name under data_dir; InputError if neither is there."""
    for candidate in (path, data_dir / path):
        if candidate.exists():
            return candidate
    raise InputError(f"{kind}:{path} not found here or in {data_dir}: check the path, or pass --data-dir")


def npz(path: Path, split: str, choice: Choice, image_size: int | None, class_order: str | None) -> Images:  # noqa: ARG001
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


def folder(path: Path, split: str, choice: Choice, image_size: int | None, class_order: str | None) -> Images:
    """The chosen images of PATH/SPLIT/CLASS/*, or of PATH/CLASS/*; only these are decoded.

    An id is the place in the list sorted by class, as text, and file, whatever the order of the labels. In the order of use the classes
    take turns (first file of each, second file of each, ...), so that the first n are balanced.
    """
    name = f"folder:{path.resolve().name}"
    top, split = branch(path, split, name)
    classes = tuple(sorted({child.name for each in siblings(top, split) for child in subfolders(each)}))
    by_label = ordered(classes, class_order, name)
    by_class = [pictures(top / kind) for kind in classes]
    listed = [(rank, label, file) for label, kind in enumerate(by_class) for rank, file in enumerate(kind)]
    order = sorted(range(len(listed)), key=lambda place: listed[place][:2])
    y = torch.tensor([listed[place][1] for place in order], dtype=torch.int64)
    rows = choice.rows(torch.tensor(order, dtype=torch.int64), f"{name} ({split})", y)
    ids = torch.tensor(order)[rows]
    _, labels, chosen = zip(*(listed[place] for place in ids.tolist()), strict=True)
    y = torch.tensor([by_label.index(kind) for kind in classes])[torch.tensor(labels)]
    return Images(name, split, decoded(chosen, image_size, name), y, ids, by_label)


def branch(path: Path, split: str, name: str) -> tuple[Path, str]:
    """The folder that holds the class folders of a split, and the split's name: "all" where PATH itself holds the classes."""
    if split not in FOLDERS:
        raise InputError(f"{name} has no split {split!r}: choose one of {', '.join(sorted(FOLDERS))}")
    there = [child.name for child in subfolders(path) if child.name in FOLDERS and subfolders(child)]
    for candidate in FOLDERS[split]:
        if candidate in there:
            return path / candidate, split
    if there:
        raise InputError(f"{name} has no folder for the split {split!r}: it has {', '.join(there)}")
    return path, WHOLE


def siblings(top: Path, split: str) -> list[Path]:
    """All split folders: a class that one of them lacks must not shift the labels of the others."""
    return [top] if split == WHOLE else [top.parent / each for each in FOLDERS if (top.parent / each).is_dir()]


def subfolders(path: Path) -> list[Path]:
    """The visible folders in a folder, sorted by name; none if it is a file."""
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")) if path.is_dir() else []


def pictures(path: Path) -> list[Path]:
    """The image files under a class folder, sorted by their path."""
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and not file.name.startswith("."))


def decoded(files: Sequence[Path], image_size: int | None, name: str) -> Tensor:
    """The images (N, 3, H, W) uint8, all of one size."""
    first = picture(files[0], image_size)
    x = torch.empty((len(files), *first.shape), dtype=torch.uint8)
    for row, file in enumerate(files):
        image = picture(file, image_size)
        if image.shape != first.shape:
            sizes = f"{files[0].name} is {first.shape[2]}x{first.shape[1]} and {file.name} is {image.shape[2]}x{image.shape[1]}"
            raise InputError(f"{name}: images differ in size ({sizes}): pass --image-size to bring them to one")
        x[row] = image
    return x


def picture(file: Path, image_size: int | None) -> Tensor:
    """One image file as (3, H, W) uint8 RGB: grey and palette become RGB, transparency is dropped, EXIF orientation is not applied."""
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise InputError(f"{file} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
            opaque = image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")
            pixels = torch.from_numpy(np.array(opaque)).permute(2, 0, 1)
    except InputError:
        raise
    except BROKEN_IMAGE as error:
        raise InputError(f"{file} cannot be read as an image ({error}): repair or remove it") from error
    return pixels if image_size is None else square(pixels[None], image_size)[0]
