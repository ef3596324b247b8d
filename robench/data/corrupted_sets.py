"""Corrupted data sets on disk: arrays as CIFAR-10-C has them, trees of image files as ImageNet-C has them, and our own as arrays.

arrays  FOLDER/CORRUPTION.npy, (5 N, H, W, 3) uint8: the N images at severity 1, then at 2, ... 5; labels.npy, (5 N,) or (N,)
tree    those of `data.corrupted_trees`

Layouts, names and numbers of images are those of Hendrycks & Dietterich (ICLR 2019, 1903.12261) and their files (Zenodo 2535967,
3555552, 2235448 and 2536630), and of C-bar (2102.11273), whose generator writes arrays of CIFAR-10 in the same way.
`read_corrupted_set` opens either; nothing but headers, labels and names is read until images are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robench.core.corruption_names import EVERY_NAME, SEVERITIES
from robench.core.errors import InputError
from robench.core.files import expanded_path, json_value
from robench.core.preprocessing import Preprocessing
from robench.corruptions import corrupted_images as under
from robench.corruptions.severities import valid_severity
from robench.data import files, layouts
from robench.data import torchvision_sets as official
from robench.data.class_names import classes_by_number, ordered_classes
from robench.data.corrupted_trees import corruption_folders, read_tree_set
from robench.data.images import Images, rows_of_ids
from robench.data.index_files import rows_of_names
from robench.data.released_sets import (
    PROPER,
    SAMPLE_SIZE,
    CorruptedSet,
    folder_name_note,
    name_after_folder,
    names_of_set,
    other_name_notes,
    set_of_names,
    wanted_corruptions,
)
from robench.data.stored_pixels import usual_workers

LABELS_FILE = "labels.npy"
DESCRIPTION_FILE = "robench.json"  # what our own sets carry besides
SYNTH = "-c-synth"
BROKEN_NPY = (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, TokenError)

CIFAR = {10: "cifar10-c", 100: "cifar100-c"}  # classes: name; each class has 10,000 / classes images of 32 pixels


def read_corrupted_set(
    folder: Path, corruptions: Sequence[str] | None = None, severities: Sequence[int] | None = None, data_dir: Path | None = None,
    preprocessing: Preprocessing | None = None, workers: int | None = None, enlarges: bool = True,
) -> CorruptedSet:  # fmt: skip
    """The corrupted set in a folder, of either layout; all its corruptions and severities unless some are named.

    Args:
        folder: the folder that holds the arrays, or the tree.
        corruptions: the names to use; None takes all that are there.
        severities: the severities to use, from 1 to 5; None takes all.
        data_dir: where CIFAR itself may lie (./data unless given): a set is called released only if its labels are
            those of CIFAR's test split.
        preprocessing: how large the images of a tree shall be: they are cut to its crop, and resized only where they are smaller; None
            cuts them to 224 pixels where they are larger.
        workers: processes that decode the images of a tree; 0 for none, None for one a core, at most four.
        enlarges: whether images of a tree that are smaller than the crop may be resized; else they are refused.

    Raises:
        InputError: for an unknown corruption or severity, and where what was asked for is missing, damaged or does not fit together.
    """
    folder = expanded_path(folder)
    if corrupted_set_layout(folder) == "tree":
        return read_tree_set(folder, corruptions, severities, preprocessing, usual_workers() if workers is None else workers, enlarges)
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


def set_of_clean_files(corrupted: CorruptedSet, clean: Images) -> CorruptedSet:
    """The set with the ids and labels of the clean images, found by the names of the files where both have names; else the set.

    So a tree of 50,000 goes with a folder of some of these images, whatever their places there are. Images of the tree without a clean one
    get ids behind all others and are not used.

    Args:
        corrupted: the corrupted set.
        clean: M clean images.

    Raises:
        InputError: where a file is not in the tree, or stands in folders of two classes.
    """
    if not corrupted.files or not clean.files:
        return corrupted
    rows = rows_of_names(corrupted.files, list(clean.files), corrupted.name)
    ids = torch.arange(len(corrupted)) + int(clean.ids.max()) + 1
    ids[rows] = clean.ids.cpu()
    if corrupted.classes == clean.classes or not {*clean.classes} <= {*corrupted.classes}:
        return replace(corrupted, ids=ids)  # labels are compared as they count
    where = {kind: label for label, kind in enumerate(clean.classes)}
    y = torch.tensor([where.get(kind, -1) for kind in corrupted.classes])[corrupted.y]
    return replace(corrupted, ids=ids, y=y, classes=clean.classes)


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
    names = wanted_corruptions(corruptions, [name for name in EVERY_NAME if name in present_names], folder)
    own = set_of_names(names)
    shape = common_shape(folder, names)
    y = labels_of_arrays(folder, shape[0] // len(SEVERITIES))
    description = provenance(folder, y)
    name, layout, notes = (description["name"], "", ()) if description else name_and_layout(folder, y, shape, data_dir, own)
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
        (*notes, *other_name_notes([one for one in present_names if one not in (*names_of_set(own), Path(LABELS_FILE).stem)], folder, own)),
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


def name_and_layout(
    folder: Path, y: Tensor, shape: tuple[int, int, int, int], data_dir: Path, own: str = ""
) -> tuple[str, str, tuple[str, ...]]:
    """Name, layout and notes of arrays that came without our json.

    Released are 10,000 images of 32 pixels with all labels of CIFAR's test split, in its order; where that is not in `data_dir`, so that
    they cannot be compared, or where they differ, the set is named after its folder.
    """
    for classes, name in CIFAR.items():
        if len(y) == 10_000 and shape[1:3] == (32, 32) and y.bincount().tolist() == [10_000 // classes] * classes:
            clean = name.removesuffix("-c")
            if own:  # of C-bar there are no released arrays, but what its generator makes
                layout = own if own == f"{name}-bar" else ""
                why = "C-bar is not released as arrays, so that there is nothing to compare it with"
                return name_after_folder(folder), layout, ((folder_name_note(folder, layout, why),) if layout else ())
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
