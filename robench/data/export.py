"""Writing corrupted images in the layout of CIFAR-10-C: every file appears when it is whole, and a json says whose they are."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robench.corruptions.levels import grade
from robench.data.corrupted import ABOUT, LABELS, NAMES, SYNTH, arrays
from robench.data.images import Images
from robench.degradation import SEVERITIES
from robench.errors import InputError
from robench.recipes import lookup
from robench.writing import prepare, write_whole

Put = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True, eq=False)
class Export:
    """A folder to which a corrupted set is written in the layout of CIFAR-10-C; `export` makes it.

    n      how many images                   shape  their channels, height and width
    """

    folder: Path
    n: int
    shape: tuple[int, int, int]

    def path(self, corruption: str) -> Path:
        """Where the array of a corruption goes; InputError if the layout knows no such corruption."""
        lookup(corruption, dict.fromkeys(NAMES), "corruption of the released layout")
        return self.folder / f"{corruption}.npy"

    def has(self, corruption: str) -> bool:
        """Whether the array of this corruption is there, whole: it can be passed over when a run is taken up again."""
        return self.path(corruption).exists()

    @contextmanager
    def writing(self, corruption: str) -> Iterator[Put]:
        """Gives put(severity, places (M,), x (M, C, H, W)) for one corruption; its file appears at the end, when all is in it.

        places are those among the exported images; x is uint8, or float in [0, 1] (rounded to 8 bits). A grey image is stored with
        three equal channels. InputError if the file is there already, if it cannot be written, and if not all N images were put at
        all five severities. Whatever goes wrong, no file of that name is left; a killed run leaves a hidden .tmp file, which the
        next one removes.
        """
        path = self.path(corruption)
        if path.exists():
            raise InputError(f"{path} is there already: remove it, or choose another folder")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        filled = np.zeros((len(SEVERITIES), self.n), dtype=bool)
        try:
            array = reserved(temporary, (len(SEVERITIES) * self.n, *self.shape[1:], 3))
            yield partial(put, array, filled)
            if not filled.all():
                missing = f"{int((~filled).sum())} of {filled.size} images, first image {int((~filled).any(0).argmax())}"
                raise InputError(f"{path} was not written, for it lacks {missing}: the layout needs all images at all five severities")
            finish(array, temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def export(folder: Path, images: Images, *, seed: int, scale: str, frost: str = "procedural") -> Export:
    """A folder ready to take these images under corruptions made with this seed, scale and frost: with labels.npy and a json that says so.

    labels.npy is as released: the labels five times over, uint8 (int64 above 256 classes). A folder that already holds the same set
    (same images, seed, scale, frost and version) is gone on with. InputError if it holds another, or arrays that are not ours.
    """
    if images.shape[0] not in (1, 3):
        raise InputError(f"{images.name} has {images.shape[0]} channels: the released layout has three, for colour or grey images")
    path, stale = prepare(folder) / ABOUT, arrays(folder)
    about = description(images, seed, scale) | {"frost": frost}
    if path.exists() and parsed(path) != about:
        raise InputError(f"{folder} holds a set made of other images, or with another seed, scale, frost or version: choose another folder")
    if not path.exists() and stale:
        raise InputError(f"{folder} holds {stale[0]}.npy, which robench did not write: choose another folder")
    sweep(folder)
    y = np.tile(images.y.cpu().numpy(), len(SEVERITIES)).astype(np.uint8 if len(images.classes) <= 256 else np.int64)
    write_whole({path: json.dumps(about).encode(), folder / LABELS: npy(y)})  # the json first: arrays without it would pass for released
    return Export(folder, len(images), images.shape)


def description(images: Images, seed: int, scale: str) -> dict[str, Any]:
    """The json of a set: its name, and all that its pixels depend on."""
    return {
        "name": images.name + SYNTH, "split": images.split, "robench": version("robench"), "seed": seed, "scale": scale,
        "images": images.sha256, "channels": images.shape[0], "classes": list(images.classes), "ids": images.ids.tolist(),
    }  # fmt: skip


def parsed(path: Path) -> Any:
    """What a json file holds; None where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file with this array."""
    handle = BytesIO()
    np.save(handle, array, allow_pickle=False)
    return handle.getvalue()


def sweep(folder: Path) -> None:
    """Removes what writers that were killed left behind: hidden files that bear the number of a process that is no more."""
    for path in folder.glob(".*.npy.*.tmp"):
        number = path.name.split(".")[-2]
        if number.isdigit() and not running(int(number)):
            path.unlink(missing_ok=True)


def running(process: int) -> bool:
    """Whether there is a process of this number on this machine, or might be."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def reserved(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new .npy file for uint8 of this shape, mapped, with its room on the disk; InputError where there is none."""
    try:
        array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        allocate(path, array.offset + array.nbytes)
    except OSError as error:
        raise InputError(f"cannot write into {path.parent}: {error.strerror or error}; choose another place") from error
    return array


def allocate(path: Path, size: int) -> None:
    """Takes the room for a file where the system can: writing through a map to a full disk kills the process. OSError if it is full."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as handle:
            try:
                os.posix_fallocate(handle.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV):  # a file system that cannot reserve
                    raise


def put(array: np.memmap[Any, Any], filled: np.ndarray, severity: int, rows: Tensor, x: Tensor) -> None:
    """Writes images x (M, C, H, W) of one severity to their places, and notes which are there; InputError for images of another size."""
    if len(x) != len(rows) or x.shape[2:] != array.shape[1:3]:
        raise InputError(f"cannot store x {tuple(x.shape)} at {len(rows)} places of a set of {array.shape[1]}x{array.shape[2]} pixels")
    pixels = x if x.dtype == torch.uint8 else (x * 255).round().to(torch.uint8)
    where = rows.cpu().numpy()
    array[(grade(severity) - 1) * filled.shape[1] + where] = pixels.permute(0, 2, 3, 1).cpu().numpy()  # one channel spreads over three
    filled[severity - 1, where] = True


def finish(array: np.memmap[Any, Any], temporary: Path, path: Path) -> None:
    """Writes the array through to the disk and gives its file the final name."""
    try:
        array.flush()
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
