"""What a corrupted set on the disk is: its images by corruption, severity and place, the released sets by their corruptions, and its name.

A set is recognised by the names of its corruptions: those of ImageNet-C (fifteen and four), of C-bar's two lists, or of ImageNet-3DCC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robench.core.corruption_names import EVERY_NAME, NINETEEN, ON_DISK
from robench.core.errors import InputError
from robench.core.recipes import lookup
from robench.data.images import Choice, Images

CORRUPTION_NAMES = NINETEEN
SAMPLE_SIZE = 16  # images of each corruption and severity by whose pixels a set is known
PROPER = {
    "cifar10-c": "CIFAR-10-C", "cifar100-c": "CIFAR-100-C", "imagenet-c": "ImageNet-C", "tiny-imagenet-c": "Tiny-ImageNet-C",
    "cifar10-c-bar": "CIFAR-10-C-bar", "imagenet-c-bar": "ImageNet-C-bar", "imagenet-3dcc": "ImageNet-3DCC",
}  # fmt: skip
SET_NAME_ENDINGS = ("-c", "-c-bar", "-3dcc", "_3dcc")  # of folders that bear the name of a corrupted set already


@dataclass(frozen=True, eq=False)
class CorruptedSet:
    """N images under several corruptions and severities; their pixels stay on the disk until `load` asks for some.

    Attributes:
        name: as the rows spell it: cifar10-c and cifar100-c for the released sets alone, NAME-c-synth for our own, else folder:NAME-c.
        kind: "released", "made" (by us) or "other".
        corruptions: the names of the corruptions to use.
        severities: the severities to use, from 1 to 5.
        y: (N,) int64 labels, in the order of use.
        ids: (N,) int64, the index of each image in the official split.
        classes: the K names.
        shape: channels, height and width of an image.
        pixels: pixels(corruption, severity, rows (M,)) -> (M, C, H, W) uint8.
        split: "test", or the split that our own were made of.
        made: how our own were made (seed, scale, version of robench, digest of the images); empty for others.
        notes: sentences on what in the folder is left out.
        layout: the released set whose shape the folder has although it is not known to be that set; else "".
        present: the names of all arrays or corruptions in the folder.
        files: CLASS/FILE of each image, in the order of use; () where they are not files.
        expect: expect(corruption, severity, rows) says what will be asked for, so that it is decoded ahead; None where nothing is decoded.
        known_by: known_by(corruption, severities, rows) -> a digest of some images without decoding them; None for one of their pixels.
        words: of the setting, on what was done to the images beyond what the authors of the set do.
    """

    name: str
    kind: str
    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    y: Tensor
    ids: Tensor
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    pixels: Callable[[str, int, Tensor], Tensor]
    split: str = "test"
    made: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    layout: str = ""
    present: tuple[str, ...] = ()
    files: Sequence[str] = ()
    expect: Callable[[str, int, Tensor], None] | None = None
    known_by: Callable[[str, Sequence[int], Tensor], str] | None = None
    words: str = ""

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, choice: Choice) -> Tensor:
        """The places of the chosen images, the same under every corruption and severity.

        Args:
            choice: which images are wanted.
        """
        return choice.rows(self.ids, self.name, self.y, self.files)

    def load(self, corruption: str, severity: int, rows: Tensor) -> Images:
        """The images at these places under one corruption at one severity; no others are read.

        Args:
            corruption: one of `corruptions`.
            severity: one of `severities`.
            rows: (M,) int64, the places of the images.

        Raises:
            InputError: where the set was opened without that corruption or severity.
        """
        if corruption not in self.corruptions or severity not in self.severities:
            raise InputError(f"{self.name} was opened without {corruption} at severity {severity}")
        rows = rows.cpu()
        return Images(self.name, self.split, self.pixels(corruption, severity, rows), self.y[rows], self.ids[rows], self.classes)

    def digest(self, corruption: str, rows: Tensor) -> str:
        """A short hex digest by which a corruption of the set is known: its size, and the pixels of some of these rows at each severity.

        Args:
            corruption: one of `corruptions`.
            rows: (M,) int64, the places of the images in use, of which at most 16 are read.
        """
        some = rows[torch.linspace(0, len(rows) - 1, min(SAMPLE_SIZE, len(rows))).round().long()].cpu()
        if self.known_by is not None:
            return self.known_by(corruption, self.severities, some)
        digest = hashlib.sha256(f"{len(self)} {self.shape} {some.tolist()}".encode())
        for severity in self.severities:
            digest.update(self.pixels(corruption, severity, some).contiguous().numpy().data)
        return digest.hexdigest()[:16]


def set_of_names(names: Iterable[str]) -> str:
    """The set to which most of these corruptions belong, a key of ON_DISK; "" for that of the nineteen, which goes before the others.

    Args:
        names: names of corruptions; others are passed over.

    Example:
        >>> set_of_names(["fog_3d", "flash"]), set_of_names(["sparkles", "lines"]), set_of_names(["fog", "flash"])
        ('imagenet-3dcc', 'cifar10-c-bar', '')
    """
    some = set(names)
    if some & {*NINETEEN}:
        return ""
    best = max(ON_DISK, key=lambda name: len(some & {*ON_DISK[name]}))
    return best if some & {*ON_DISK[best]} else ""


def names_of_set(name: str) -> tuple[str, ...]:
    """The corruptions of a set.

    Args:
        name: a key of ON_DISK, or "" for the nineteen.
    """
    return ON_DISK.get(name, NINETEEN)


def wanted_corruptions(asked: Sequence[str] | None, there: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The corruptions to use: those asked for, else those of one set that are there. InputError for an unknown or missing one."""
    mine = names_of_set(set_of_names(asked or there))
    for name in asked or ():
        lookup(name, dict.fromkeys(EVERY_NAME), "corruption")
        if name not in there:
            raise InputError(f"{folder} has no {name}: it holds {', '.join(there) or 'none of the 19 corruptions'}")
        if name not in mine:
            raise InputError(f"{name} is of another set of corruptions than {(asked or there)[0]}: measure each set in a call of its own")
    if not there:
        raise InputError(f"{folder} holds none of the 19 corruptions (gaussian_noise, shot_noise, ...), and none of C-bar or 3DCC")
    return tuple(dict.fromkeys(asked or [name for name in mine if name in there]))


def other_name_notes(names: Sequence[str], folder: Path, own: str = "") -> tuple[str, ...]:
    """A note on what is in the folder and is none of the corruptions of the set that is used, if there is anything."""
    what = f"the {len(names_of_set(own))} corruptions" + (f" of {PROPER[own]}" if own else "")
    return (f"left out of {folder.name}, for they are none of {what}: {', '.join(names)}",) if names else ()


def folder_name_note(folder: Path, layout: str, why: str) -> str:
    """A note on a set that has the layout of a released one and does not bear its name."""
    return f"{folder.resolve().name} has the layout of {PROPER[layout]} and is named after its folder: {why}"


def name_after_folder(folder: Path) -> str:
    """The name of a set that is neither a released one nor ours."""
    name = folder.resolve().name
    return f"folder:{name if name.lower().endswith(SET_NAME_ENDINGS) else name + '-c'}"
