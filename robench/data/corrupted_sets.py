"""Corrupted data sets on disk: arrays as CIFAR-10-C has them, trees of image files as ImageNet-C has them, and our own as arrays.

arrays  FOLDER/CORRUPTION.npy, (5 N, H, W, 3) uint8: the N images at severity 1, then at 2, ... 5; labels.npy, (5 N,) or (N,)
tree    FOLDER/CORRUPTION/SEVERITY/CLASS/FILE, or FOLDER/GROUP/CORRUPTION/SEVERITY/CLASS/FILE as the released archives are packed

Layouts, names and numbers of images are those of Hendrycks & Dietterich (ICLR 2019, 1903.12261) and their files (Zenodo 2535967,
3555552, 2235448 and 2536630). `read_corrupted_set` opens either; nothing but headers, labels and names is read until images are asked for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robench.core.corruption_names import NINETEEN, SEVERITIES
from robench.core.errors import InputError
from robench.core.files import expanded_path, json_value
from robench.core.pictures import opened_picture
from robench.core.recipes import lookup
from robench.corruptions import corrupted_images as under
from robench.corruptions.severities import valid_severity
from robench.data import files, layouts
from robench.data import torchvision_sets as official
from robench.data.class_names import classes_by_number, ordered_classes
from robench.data.images import Choice, Images, rows_of_ids

CORRUPTION_NAMES = NINETEEN
LABELS_FILE = "labels.npy"
DESCRIPTION_FILE = "robench.json"  # what our own sets carry besides
SYNTH = "-c-synth"
CROP = 224  # the side of ImageNet's images; released larger (299) for some networks
BROKEN_NPY = (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, TokenError)

CIFAR = {10: "cifar10-c", 100: "cifar100-c"}  # classes: name; each class has 10,000 / classes images of 32 pixels
TREES = {(1000, 50_000, 224): "imagenet-c", (200, 10_000, 64): "tiny-imagenet-c"}  # (classes, images, side): name
PROPER = {"cifar10-c": "CIFAR-10-C", "cifar100-c": "CIFAR-100-C", "imagenet-c": "ImageNet-C", "tiny-imagenet-c": "Tiny-ImageNet-C"}
SAMPLE_SIZE = 16  # images of each corruption and severity by whose pixels a set is known


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

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, choice: Choice) -> Tensor:
        """The places of the chosen images, the same under every corruption and severity.

        Args:
            choice: which images are wanted.
        """
        return choice.rows(self.ids, self.name)

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
        digest = hashlib.sha256(f"{len(self)} {self.shape} {some.tolist()}".encode())
        for severity in self.severities:
            digest.update(self.pixels(corruption, severity, some).contiguous().numpy().data)
        return digest.hexdigest()[:16]


def read_corrupted_set(
    folder: Path, corruptions: Sequence[str] | None = None, severities: Sequence[int] | None = None, data_dir: Path | None = None
) -> CorruptedSet:
    """The corrupted set in a folder, of either layout; all its corruptions and severities unless some are named.

    Args:
        folder: the folder that holds the arrays, or the tree.
        corruptions: the names to use; None takes all that are there.
        severities: the severities to use, from 1 to 5; None takes all.
        data_dir: where CIFAR itself may lie (./data unless given): a set is called released only if its labels are
            those of CIFAR's test split.

    Raises:
        InputError: for an unknown corruption or severity, and where what was asked for is missing, damaged or does not fit together.
    """
    folder = expanded_path(folder)
    if corrupted_set_layout(folder) == "tree":
        return read_tree_set(folder, corruptions, severities)
    return read_array_set(folder, corruptions, severities, Path("data") if data_dir is None else data_dir)


def corrupted_set_layout(folder: Path) -> str:
    """The layout of a corrupted set: "arrays" or "tree".

    Args:
        folder: the folder.

    Raises:
        InputError: where the folder is neither, with the folder inside that is one, if there is one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name the one that holds CORRUPTION.npy files or CORRUPTION/SEVERITY/CLASS folders")
    if array_names(folder):
        return "arrays"
    if corruption_folders(folder):
        return "tree"
    inside = [child for child in layouts.subfolders(folder) if array_names(child) or corruption_folders(child)]
    hint = f": did you mean {inside[0]}?" if inside else ""
    raise InputError(f"{folder} is no corrupted set, for it holds neither CORRUPTION.npy nor CORRUPTION/SEVERITY/CLASS/*{hint}")


def clean_image_rows(corrupted: CorruptedSet, clean: Images) -> Tensor:
    """Where each clean image stands in the corrupted set, (M,) int64, found by id.

    Args:
        corrupted: the corrupted set.
        clean: M clean images, of the split that the set was made of.

    Raises:
        InputError: where an image is not in the set, or where labels or sizes differ. So a released set is known to be in the order of the
            clean images, and its labels to be theirs.
    """
    rows = rows_of_ids(corrupted.ids, tuple(clean.ids.tolist()), corrupted.name)
    if corrupted.shape != clean.shape:
        sizes = f"{'x'.join(map(str, corrupted.shape))} in {corrupted.name} and {'x'.join(map(str, clean.shape))} in {clean.name}"
        raise InputError(f"the images are {sizes}: both must be of one size, as the same model looks at them")
    differs = (corrupted.y[rows] != clean.y.cpu()).nonzero().flatten().tolist()
    if differs:
        pair = f"{int(corrupted.y[rows[differs[0]]])} in {corrupted.name} and {int(clean.y[differs[0]])} in {clean.name}"
        raise InputError(
            f"the labels of {len(differs)} of {len(rows)} images differ, as of image {int(clean.ids[differs[0]])} ({pair}): "
            "one of the two is in another order, or of another set"
        )
    return rows


def pixel_checked_set(corrupted: CorruptedSet, folder: Path, clean: Images, rows: Tensor) -> CorruptedSet:
    """The set in a folder, called released no more where its brightness of severity 1 is not ours on the clean images to one grey level.

    Brightness draws nothing, so that ours has the pixels of the released files.

    Args:
        corrupted: the set.
        folder: the folder that it was read from.
        clean: M clean images.
        rows: (M,) int64, where the clean images stand in the set.

    Raises:
        InputError: where brightness.npy is damaged or is not of the shape of the other arrays.
    """
    if corrupted.kind != "released":
        return corrupted
    if "brightness" not in corrupted.present:
        return replace(corrupted, notes=(*corrupted.notes, "its pixels were not compared with the clean images: it has no brightness"))
    common_shape(
        expanded_path(folder), (corrupted.corruptions[0], "brightness")
    )  # which `read_corrupted_set` looked at only if it was asked for
    some = torch.linspace(0, len(rows) - 1, min(SAMPLE_SIZE, len(rows))).round().long()
    theirs = corrupted.pixels("brightness", 1, rows[some])
    ours = under(clean.pixels(some).cpu(), clean.ids[some].cpu(), "brightness", 1, seed=0, scale="cifar")
    furthest = int((theirs - (ours * 255).round()).abs().max())
    if furthest <= 1:
        return corrupted
    why = f"its brightness of severity 1 is up to {furthest} grey levels from that of {clean.name}, not at most 1"
    notes = (*corrupted.notes, folder_name_note(folder, corrupted.name, why))
    return replace(corrupted, name=name_after_folder(folder), kind="other", layout=corrupted.name, notes=notes)


def wanted_corruptions(asked: Sequence[str] | None, there: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The corruptions to use: those asked for, else all that are there. InputError for an unknown or missing one."""
    for name in asked or ():
        lookup(name, dict.fromkeys(CORRUPTION_NAMES), "corruption")
        if name not in there:
            raise InputError(f"{folder} has no {name}: it holds {', '.join(there) or 'none of the 19 corruptions'}")
    if not there:
        raise InputError(f"{folder} holds none of the 19 corruptions (gaussian_noise, shot_noise, ...)")
    return tuple(dict.fromkeys(asked or there))


def other_name_notes(names: Sequence[str], folder: Path) -> tuple[str, ...]:
    """A note on what is in the folder and is none of the corruptions, if there is anything."""
    return (f"left out of {folder.name}, for they are none of the 19 corruptions: {', '.join(names)}",) if names else ()


def folder_name_note(folder: Path, layout: str, why: str) -> str:
    """A note on a set that has the layout of a released one and does not bear its name."""
    return f"{folder.resolve().name} has the layout of {PROPER[layout]} and is named after its folder: {why}"


def name_after_folder(folder: Path) -> str:
    """The name of a set that is neither a released one nor ours."""
    name = folder.resolve().name
    return f"folder:{name if name.lower().endswith('-c') else name + '-c'}"


# --- arrays


def array_names(folder: Path) -> list[str]:
    """The names of the .npy files in a folder, sorted, without the ending."""
    return sorted(path.stem for path in folder.glob("*.npy") if not path.name.startswith("."))


def read_array_set(folder: Path, corruptions: Sequence[str] | None, severities: Sequence[int] | None, data_dir: Path) -> CorruptedSet:
    """The corrupted set in a folder of arrays; released by its shape and all its labels, ours by the json that goes with it.

    InputError for labels.npy missing, of another length or not the same at all severities, and for arrays that are cut short, of
    another type or shape, or differ in shape.
    """
    present_names = array_names(folder)
    names = wanted_corruptions(corruptions, [name for name in CORRUPTION_NAMES if name in present_names], folder)
    shape = common_shape(folder, names)
    y = labels_of_arrays(folder, shape[0] // len(SEVERITIES))
    description = provenance(folder, y)
    name, layout, notes = (description["name"], "", ()) if description else name_and_layout(folder, y, shape, data_dir)
    channels = description.get("channels", 3)
    return CorruptedSet(
        name,
        "made" if description else "released" if name in PROPER else "other",
        names,
        tuple(dict.fromkeys(valid_severity(severity) for severity in severities or SEVERITIES)),
        y,
        torch.tensor(description["ids"]) if description else torch.arange(len(y)),
        tuple(description.get("classes", map(str, range(int(y.max()) + 1)))),
        (channels, *shape[1:3]),
        partial(pixels_from_array, folder, len(y), channels),
        description.get("split", "test"),
        {key: value for key, value in description.items() if key not in ("ids", "classes")},
        (*notes, *other_name_notes([name for name in present_names if name not in (*CORRUPTION_NAMES, Path(LABELS_FILE).stem)], folder)),
        layout,
        tuple(present_names),
    )


def mapped_array(path: Path) -> np.memmap[Any, Any]:
    """The array in a .npy file, mapped and not read; InputError where the file is no such array or has not the length that it says."""
    try:
        array = np.lib.format.open_memmap(path, "r")
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no {path.name}: a corrupted set needs it") from None
    except BROKEN_NPY as error:
        raise InputError(f"{path} is not a .npy file of plain numbers, or was cut short ({error}): fetch or make it again") from error
    if path.stat().st_size != array.offset + array.nbytes:
        raise InputError(f"{path} is longer than its array, {array.offset + array.nbytes} bytes: it is damaged; fetch or make it again")
    return array


def common_shape(folder: Path, names: Sequence[str]) -> tuple[int, int, int, int]:
    """The shape (5 N, H, W, 3) that all these arrays have; InputError if one has another type or shape."""
    first: tuple[int, ...] = ()
    for name in names:
        array = mapped_array(folder / f"{name}.npy")
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or len(array) % len(SEVERITIES) or not array.size:
            what = f"{folder / name}.npy holds {array.dtype} of shape {array.shape}"
            raise InputError(f"{what}: it must be uint8, (5 N, H, W, 3), five severities of N images")
        first = first or array.shape
        if array.shape != first:
            raise InputError(f"{folder}: {names[0]}.npy has shape {first} and {name}.npy {array.shape}: all must be the same images")
    return first[0], first[1], first[2], first[3]


def labels_of_arrays(folder: Path, n: int) -> Tensor:
    """The labels (N,) int64 of a folder of arrays; InputError unless they are (N,), or (5 N,) and the same at every severity."""
    labels = files.whole_numbers(mapped_array(folder / LABELS_FILE), f"{folder / LABELS_FILE}")
    if len(labels) not in (n, len(SEVERITIES) * n):
        raise InputError(f"{folder / LABELS_FILE} has {len(labels)} labels for {n} images at five severities: it must have {5 * n}, or {n}")
    by_severity = labels.view(-1, n)
    differs = (by_severity != by_severity[0]).nonzero().tolist()
    if differs:
        severity, image = differs[0]
        pair = f"{int(by_severity[0, image])} at severity 1 and {int(by_severity[severity, image])} at severity {severity + 1}"
        raise InputError(
            f"{folder / LABELS_FILE} is in another order: image {image} has label {pair}, where all severities show the same images"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < files.MOST_CLASSES:
        span = f"{int(labels.min())} to {int(labels.max())}"
        raise InputError(f"{folder / LABELS_FILE} has labels of {span}: they count from 0, and {files.MOST_CLASSES} classes are the most")
    return by_severity[0].clone()


def name_and_layout(folder: Path, y: Tensor, shape: tuple[int, int, int, int], data_dir: Path) -> tuple[str, str, tuple[str, ...]]:
    """Name, layout and notes of arrays that came without our json.

    Released are 10,000 images of 32 pixels with all labels of CIFAR's test split, in its order; where that is not in `data_dir`, so that
    they cannot be compared, or where they differ, the set is named after its folder.
    """
    for classes, name in CIFAR.items():
        if len(y) == 10_000 and shape[1:3] == (32, 32) and y.bincount().tolist() == [10_000 // classes] * classes:
            clean = name.removesuffix("-c")
            official_labels = official.official_test_labels(clean, data_dir)
            if official_labels is not None and torch.equal(official_labels, y):
                return name, "", ()
            why = (
                f"its labels are not those of {clean}"
                if official_labels is not None
                else f"there is no {clean} in {data_dir} to compare its labels"
            )
            return name_after_folder(folder), name, (folder_name_note(folder, name, why),)
    return name_after_folder(folder), "", ()


def provenance(folder: Path, y: Tensor) -> dict[str, Any]:
    """What the json of our own sets says, empty where there is none; InputError where it is damaged or is not of these labels."""
    path = folder / DESCRIPTION_FILE
    if not path.exists():
        return {}
    try:
        description = json_value(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): make the set again") from error
    if not isinstance(description, dict) or not is_set_description(description):
        raise InputError(f"{path} does not describe a set that robench made: make the set again")
    if len(description["ids"]) != len(y) or int(y.max()) >= len(description["classes"]):
        sizes = f"{len(description['ids'])} images of {len(description['classes'])} classes"
        raise InputError(f"{path} speaks of {sizes}, but there are {len(y)}, with labels up to {int(y.max())}: make the set again")
    return description


def is_set_description(description: Mapping[str, Any]) -> bool:
    """Whether all that is read from the json of our own sets is there, of its type."""
    ids, classes = description.get("ids"), description.get("classes")
    return (
        str(description.get("name")).endswith(SYNTH)
        and isinstance(description.get("split"), str)
        and description.get("channels") in (1, 3)
        and isinstance(ids, list)
        and all(type(sample) is int and 0 <= sample < 2**63 for sample in ids)
        and len(set(ids)) == len(ids)
        and isinstance(classes, list)
        and all(isinstance(kind, str) for kind in classes)
    )


def pixels_from_array(folder: Path, n: int, channels: int, corruption: str, severity: int, rows: Tensor) -> Tensor:
    """The pixels (M, C, H, W) uint8 at rows (M,); grey images, which are stored with three equal channels, get their one back."""
    pixels = mapped_array(folder / f"{corruption}.npy")[(severity - 1) * n + rows.numpy()]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)[:, :channels]))


# --- trees


def corruption_folders(folder: Path) -> dict[str, Path]:
    """The folder of each corruption of a tree, in the order of NAMES; InputError if one is there twice."""
    children = layouts.subfolders(folder)
    nested = [grandchild for child in children if child.name not in CORRUPTION_NAMES for grandchild in layouts.subfolders(child)]
    folders = [path for path in (*children, *nested) if path.name in CORRUPTION_NAMES]
    twice = [name for name, count in Counter(path.name for path in folders).items() if count > 1]
    if twice:
        raise InputError(f"{folder} holds {twice[0]} twice, as {' and '.join(str(path) for path in folders if path.name == twice[0])}")
    return {path.name: path for path in sorted(folders, key=lambda path: CORRUPTION_NAMES.index(path.name))}


def read_tree_set(folder: Path, corruptions: Sequence[str] | None = None, severities: Sequence[int] | None = None) -> CorruptedSet:
    """The corrupted set in a tree of image files: labels count the sorted class folders, ids the files sorted by class and path.

    In the order of use the classes take turns, as for `folder:PATH`, so that the first n are balanced. Images are cut to their centre
    of 224 pixels where they are larger, and never resized. All class folders are compared here, all file names once a corruption and
    severity is loaded: InputError where they differ, and for images that are not 8-bit RGB or grey, or of several sizes.
    """
    tops = corruption_folders(folder)
    names = wanted_corruptions(corruptions, tuple(tops), folder)
    levels = wanted_severities(tops, names, severities)
    first = tops[names[0]] / str(levels[0])
    kinds = common_classes(tops, names, levels)
    file_names = class_file_names(first)
    if not file_names:
        raise InputError(f"{first} is empty: it has no images to use")
    ranks, y = ranks_and_labels(file_names, kinds)
    order = sorted(range(len(file_names)), key=lambda place: (ranks[place], y[place]))
    shape = read_corrupted_image(first / file_names[order[0]]).shape
    layout = TREES.get((len(kinds), len(file_names), shape[1]), "") if shape[1] == shape[2] else ""
    ids = torch.tensor(order)
    return CorruptedSet(
        name_after_folder(folder),
        "other",
        names,
        levels,
        torch.tensor(y)[ids],
        ids,
        kinds,
        (shape[0], shape[1], shape[2]),
        partial(pixels_from_tree, tops, file_names, ids, cache(partial(refuse_other_files, first, file_names)), shape),
        notes=(
            *((folder_name_note(folder, layout, "images stored as JPEG cannot be compared with ours to the pixel"),) if layout else ()),
            *other_name_notes(
                [
                    child.name
                    for child in layouts.subfolders(folder)
                    if child.name not in CORRUPTION_NAMES and not corruption_folders(child)
                ],
                folder,
            ),
        ),
        layout=layout,
        present=tuple(tops),
    )


def wanted_severities(tops: Mapping[str, Path], names: Sequence[str], severities: Sequence[int] | None) -> tuple[int, ...]:
    """The severities to use: those asked for, else those of the first corruption; InputError where a corruption lacks one."""
    candidates = severities or [severity for severity in SEVERITIES if (tops[names[0]] / str(severity)).is_dir()]
    levels = tuple(dict.fromkeys(valid_severity(severity) for severity in candidates))
    lacking = [tops[name] / str(severity) for name in names for severity in levels if not (tops[name] / str(severity)).is_dir()]
    if lacking or not levels:
        raise InputError(f"{lacking[0] if lacking else tops[names[0]] / '1'} is not there: leave it out, or unpack it")
    return levels


def common_classes(tops: Mapping[str, Path], names: Sequence[str], levels: Sequence[int]) -> tuple[str, ...]:
    """The names of the class folders, sorted; InputError if they are not the same everywhere.

    (Tiny-ImageNet-C's frost was released with the 1,000 classes of ImageNet in one archive: labels would shift.)
    """
    first, *rest = (tops[name] / str(severity) for name in names for severity in levels)
    kinds = tuple(child.name for child in layouts.subfolders(first))
    for other in rest:
        odd = sorted(set(kinds) ^ {child.name for child in layouts.subfolders(other)})
        if odd:
            has, lacks = (first, other) if odd[0] in kinds else (other, first)
            raise InputError(f"{has} has the class {odd[0]} and {lacks} has not: labels would shift; leave one out, or fetch it again")
    return kinds


def class_file_names(top: Path) -> tuple[str, ...]:
    """The image files of one corruption and severity as CLASS/FILE, sorted by class and path."""
    return tuple(file.relative_to(top).as_posix() for kind in layouts.subfolders(top) for file in layouts.sorted_image_files(kind))


def ranks_and_labels(listed: Sequence[str], kinds: Sequence[str]) -> tuple[list[int], list[int]]:
    """For each listed file its place within its class, and its label."""
    where = {kind: label for label, kind in enumerate(kinds)}
    y = [where[name.partition("/")[0]] for name in listed]
    counts: Counter[int] = Counter()
    ranks = []
    for label in y:
        ranks.append(counts[label])
        counts[label] += 1
    return ranks, y


def refuse_other_files(first: Path, listed: Sequence[str], top: Path) -> None:
    """InputError where the files of `top` are not those of `first`: ids would not mean the same image."""
    odd = sorted(set(listed) ^ set(class_file_names(top)))
    if odd:
        has, lacks = (first, top) if odd[0] in set(listed) else (top, first)
        raise InputError(f"{has} has {odd[0]} and {lacks} has not ({len(odd)} files differ): all severities must show the same images")


def pixels_from_tree(
    tops: Mapping[str, Path],
    listed: Sequence[str],
    ids: Tensor,
    same: Callable[[Path], None],
    shape: torch.Size,
    corruption: str,
    severity: int,
    rows: Tensor,
) -> Tensor:
    """The pixels (M, 3, H, W) uint8 at rows (M,); only these files are decoded. InputError where they differ in size."""
    top = tops[corruption] / str(severity)
    same(top)
    x = torch.empty((len(rows), *shape), dtype=torch.uint8)
    for row, place in enumerate(ids[rows].tolist()):
        image = read_corrupted_image(top / listed[place])
        if image.shape != shape:
            sizes = f"{image.shape[2]}x{image.shape[1]} pixels, and others are {shape[2]}x{shape[1]}"
            raise InputError(f"{top / listed[place]} is of {sizes}: all must be of one size")
        x[row] = image
    return x


def read_corrupted_image(file: Path) -> Tensor:
    """One image file as (3, H, W) uint8, cut to its centre where larger than 224 pixels; InputError unless it is 8-bit RGB or grey.

    Stricter than `folder:PATH`: the released files are all RGB, so that anything else is not what it is taken for.
    """
    with opened_picture(file) as image:
        mode, deep = image.mode, files.has_sixteen_bits(image)
    if mode not in ("RGB", "L") or deep:
        raise InputError(
            f"{file} is an image of {'16 bits a channel' if deep else f'mode {mode}'}: it must be RGB or grey, of 8 bits a channel"
        )
    return centre_crop(files.read_image(file, None))


def centre_crop(image: Tensor) -> Tensor:
    """The centre of 224 pixels of an image (3, H, W) with larger sides, else the image; offsets as torchvision's CenterCrop has them."""
    height, width = image.shape[1:]
    if min(height, width) < CROP:
        return image
    top, left = round((height - CROP) / 2), round((width - CROP) / 2)
    return image[:, top : top + CROP, left : left + CROP]


def mildest_cell(corruptions: Sequence[str], severities: Sequence[int]) -> tuple[str, int]:
    """The cell in which a model that is right at all is most likely right: the lowest severity, of brightness where that is there.

    Args:
        corruptions: the names of the corruptions.
        severities: the severities.
    """
    return min(corruptions, key=lambda name: name != "brightness"), min(severities)


def has_folder_classes(corrupted: CorruptedSet, folder: Path) -> bool:
    """Whether the classes of a set have the names of class folders: those of a tree, and of our own sets that were made of one.

    Args:
        corrupted: the set.
        folder: the folder that it was read from.
    """
    text = tuple(sorted(corrupted.classes))
    ours = corrupted.kind == "made" and corrupted.name.startswith("folder:") and corrupted.classes in (text, classes_by_number(text))
    return ours or corrupted_set_layout(expanded_path(folder)) == "tree"


def with_class_order(corrupted: CorruptedSet, order: str | None) -> CorruptedSet:
    """The set with the labels that the order of its class folders gives.

    Args:
        corrupted: the set.
        order: "text" or "number"; None takes text order where both are the same.

    Raises:
        InputError: where the two orders differ and `order` is None.
    """
    classes = ordered_classes(corrupted.classes, order, corrupted.name)
    y = torch.tensor([classes.index(kind) for kind in corrupted.classes])[corrupted.y]
    return replace(corrupted, y=y, classes=classes)
