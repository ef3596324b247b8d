"""Writing corrupted images in the layout of CIFAR-10-C: every file appears when it is whole, and a json says whose they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
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

from robench.core.corruption_names import SEVERITIES
from robench.core.errors import InputError
from robench.core.files import allocate_file, json_value, prepare_folder, remove_killed_writes, write_whole
from robench.core.recipes import lookup
from robench.corruptions.severities import valid_severity
from robench.data.corrupted_sets import DESCRIPTION_FILE, LABELS_FILE, SYNTH, array_names
from robench.data.images import Images
from robench.data.released_sets import CORRUPTION_NAMES

StoreImages = Callable[[int, Tensor, Tensor], None]
STAGED_SET = ".replacing"  # the folder inside the exported one in which a set waits until it is whole
# a key of the json: how a set differs in it
SET_DIFFERENCES = {
    "images": "made of other images", "seed": "made with another seed", "scale": "made at another scale", "frost": "made with other frost",
    "photos": "made with other frost photos", "robench": "made by another version of robench", "name": "of another name",
    "split": "of another split", "channels": "with other channels", "classes": "with other classes", "ids": "made of other images",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Export:
    """A folder to which a corrupted set is written in the layout of CIFAR-10-C; `prepare_export` makes it.

    Attributes:
        folder: where the arrays are written.
        n: the number of images.
        shape: channels, height and width of an image.
        replaced_folder: the folder whose set this one replaces once all is written (`replace_earlier_set`); None where there is none.
    """

    folder: Path
    n: int
    shape: tuple[int, int, int]
    replaced_folder: Path | None = None

    def path(self, corruption: str) -> Path:
        """Where the array of a corruption goes; InputError if the layout knows no such corruption."""
        lookup(corruption, dict.fromkeys(CORRUPTION_NAMES), "corruption of the released layout")
        return self.folder / f"{corruption}.npy"

    def has_corruption(self, corruption: str) -> bool:
        """Whether the array of this corruption is there, whole: it can be passed over when a run is taken up again.

        Args:
            corruption: the name of the corruption, as the released sets spell it.
        """
        return self.path(corruption).exists()

    @contextmanager
    def array_writer(self, corruption: str) -> Iterator[StoreImages]:
        """A context that takes the images of one corruption; its file appears at the end, when all are in it.

        It gives put(severity, places (M,), x (M, C, H, W)): places are those among the exported images; x is uint8, or float in
        [0, 1] (rounded to 8 bits). A grey image is stored with three equal channels. Whatever goes wrong, no file of that name is
        left; a killed run leaves a hidden .tmp file, which the next one removes.

        Args:
            corruption: the name of the corruption, as the released sets spell it.

        Raises:
            InputError: where the file is there already or cannot be written, and where not all N images were put at all five severities.
        """
        path = self.path(corruption)
        if path.exists():
            raise InputError(f"{path} is there already: remove it, or choose another folder")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        filled = np.zeros((len(SEVERITIES), self.n), dtype=bool)
        try:
            array = reserved_array(temporary, (len(SEVERITIES) * self.n, *self.shape[1:], 3))
            yield partial(store_images, array, filled)
            if not filled.all():
                missing = f"{int((~filled).sum())} of {filled.size} images, first image {int((~filled).any(0).argmax())}"
                raise InputError(f"{path} was not written, for it lacks {missing}: the layout needs all images at all five severities")
            finish_array(array, temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def replace_earlier_set(self) -> Path:
        """Puts the set in the place of the one that it replaces, if it replaces one; the folder in which it then lies.

        The old json goes first and the new one comes last: what a kill in between leaves is known as nobody's set.
        """
        if self.replaced_folder is None:
            return self.folder
        try:
            (self.replaced_folder / DESCRIPTION_FILE).unlink(missing_ok=True)
            for name in set(array_names(self.replaced_folder)) & {*CORRUPTION_NAMES}:
                (self.replaced_folder / f"{name}.npy").unlink()
            for path in sorted(self.folder.iterdir(), key=lambda path: path.name == DESCRIPTION_FILE):
                path.replace(self.replaced_folder / path.name)
            self.folder.rmdir()
        except OSError as error:
            raise InputError(
                f"cannot write into {self.replaced_folder}: {error.strerror or error}; the new set lies in {self.folder}"
            ) from error
        return self.replaced_folder


def prepare_export(
    folder: Path, images: Images, *, seed: int, scale: str, frost: str | None = "procedural", photos: str = "", force: bool = False
) -> Export:
    """A folder ready to take these images under corruptions made with this seed and scale: with labels.npy and a json that says so.

    labels.npy is as released: the labels five times over, uint8 (int64 above 256 classes). A folder that already holds the same set
    (same images, seed, scale, frost and version) is gone on with.

    Args:
        folder: where the set is written; it is made if need be.
        images: the N clean images, of 1 or 3 channels.
        seed: the seed of the corruptions.
        scale: the scale of their severities, "cifar" or "imagenet".
        frost: "procedural" or "photos"; None where no frost is made: then any that lies there may stay.
        photos: a digest of the photos of frost.
        force: whether a set that was made otherwise is replaced, once the new one is whole (`Export.replace_earlier_set`).

    Raises:
        InputError: where the folder holds another set and `force` is not given, or arrays that are not ours, or cannot be written.
    """
    if images.shape[0] not in (1, 3):
        raise InputError(f"{images.name} has {images.shape[0]} channels: the released layout has three, for colour or grey images")
    prepare_folder(folder)
    remove_killed_writes(folder, "*.npy", DESCRIPTION_FILE)
    about = set_description(images, seed, scale) | {"frost": frost or "procedural", "photos": photos}
    replaced_folder = None
    if (
        not (folder / DESCRIPTION_FILE).exists()
        and (folder / STAGED_SET / DESCRIPTION_FILE).exists()
        and not export_difference(folder / STAGED_SET, about, frost is None)
    ):
        replaced_folder, folder = folder, folder / STAGED_SET  # a replacement that was killed as it moved in: once more
    elif other := export_difference(folder, about, frost is None):
        if not force:
            raise InputError(
                f"{folder} holds a set {other}: choose another folder, or pass --force to replace it once the new one is whole"
            )
        replaced_folder, folder = folder, prepare_folder(folder / STAGED_SET)
        if export_difference(folder, about, frost is None):
            remove_unfinished_set(folder)
    there = json_or_none(folder / DESCRIPTION_FILE)
    if frost is None and isinstance(there, dict):
        about |= {key: there[key] for key in ("frost", "photos") if key in there}
    y = np.tile(images.y.cpu().numpy(), len(SEVERITIES)).astype(np.uint8 if len(images.classes) <= 256 else np.int64)
    # the json first: arrays without it would pass for another's
    write_whole({folder / DESCRIPTION_FILE: json.dumps(about).encode(), folder / LABELS_FILE: npy_bytes(y)})
    return Export(folder, len(images), images.shape, replaced_folder)


def export_difference(folder: Path, about: Mapping[str, Any], any_frost: bool) -> str:
    """In what the set in a folder was made otherwise than `about` says, in words; empty where it is the same, or where there is none.

    InputError for a folder with arrays that robench did not write.
    """
    stale, path = array_names(folder), folder / DESCRIPTION_FILE
    if not path.exists():
        if stale:
            raise InputError(f"{folder} holds {stale[0]}.npy, which robench did not write: choose another folder")
        return ""
    there = json_or_none(path)
    if not isinstance(there, dict):
        return "whose robench.json cannot be read"
    if there.get("frost") == "procedural":
        there = {"photos": ""} | there  # a set of an earlier version
    for key, words in SET_DIFFERENCES.items():
        if there.get(key) != about[key] and not (any_frost and key in ("frost", "photos")):
            return words
    return ""


def remove_unfinished_set(folder: Path) -> None:
    """Removes a set that was to replace another, and was not finished."""
    for path in [folder / DESCRIPTION_FILE, *(folder / f"{name}.npy" for name in array_names(folder))]:
        path.unlink()


def set_description(images: Images, seed: int, scale: str) -> dict[str, Any]:
    """The json of a set: its name, and all that its pixels depend on."""
    return {
        "name": images.name + SYNTH, "split": images.split, "robench": version("robench"), "seed": seed, "scale": scale,
        "images": images.sha256, "channels": images.shape[0], "classes": list(images.classes), "ids": images.ids.tolist(),
    }  # fmt: skip


def json_or_none(path: Path) -> Any:
    """What a json file holds; None where it cannot be read."""
    try:
        return json_value(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def npy_bytes(array: np.ndarray) -> bytes:
    """The bytes of a .npy file with this array."""
    handle = BytesIO()
    np.save(handle, array, allow_pickle=False)
    return handle.getvalue()


def reserved_array(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new .npy file for uint8 of this shape, mapped, with its room on the disk; InputError where there is none."""
    try:
        array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        allocate_file(path, array.offset + array.nbytes)
    except OSError as error:
        raise InputError(f"cannot write into {path.parent}: {error.strerror or error}; choose another place") from error
    return array


def store_images(array: np.memmap[Any, Any], filled: np.ndarray, severity: int, rows: Tensor, x: Tensor) -> None:
    """Writes images x (M, C, H, W) of one severity to their places, and notes which are there; InputError for images of another size."""
    if len(x) != len(rows) or x.shape[2:] != array.shape[1:3]:
        raise InputError(f"cannot store x {tuple(x.shape)} at {len(rows)} places of a set of {array.shape[1]}x{array.shape[2]} pixels")
    pixels = x if x.dtype == torch.uint8 else (x * 255).round().to(torch.uint8)
    where = rows.cpu().numpy()
    array[(valid_severity(severity) - 1) * filled.shape[1] + where] = (
        pixels.permute(0, 2, 3, 1).cpu().numpy()
    )  # one channel spreads over three
    filled[severity - 1, where] = True


def finish_array(array: np.memmap[Any, Any], temporary: Path, path: Path) -> None:
    """Writes the array through to the disk and gives its file the final name."""
    try:
        array.flush()
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
