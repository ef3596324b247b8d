"""The user's own images: one npz file, or a tree of folders with a folder a class. Neither can carry code: no pickles are read."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robench.core.cells import spelt_out
from robench.core.decoding import AS_THEY_ARE, decoded_item
from robench.core.errors import AbsentDataError, InputError
from robench.core.files import is_existing_file, is_existing_path
from robench.core.preprocessing import Preprocessing
from robench.data import npz_arrays as archives
from robench.data.catalogues import Catalogue
from robench.data.image_trees import SPLIT_WORDS, STAND_INS, WHOLE_SET, TreeLayout
from robench.data.images import Choice, Images, refuse_labels
from robench.data.layouts import tree_layout

MOST_NAMED_CLASSES = 6  # classes of a folder that one line names, before it names the first and the last alone


def dataset_path(path: Path, data_dir: Path, kind: str) -> Path:
    """The path itself, or the one of that name under data_dir, for an npz file also without its ending; InputError if none is there.

    Args:
        path: as the user wrote it.
        data_dir: where data sets lie.
        kind: what is looked for, such as npz.
    """
    names = [path, path.with_name(f"{path.name}.npz")] if kind == "npz" and path.name and path.suffix != ".npz" else [path]
    for candidate in (place / name for name in names for place in (Path(), data_dir)):
        if is_existing_file(candidate) or (kind != "npz" and is_existing_path(candidate)):
            return candidate
    raise AbsentDataError(f"{kind}:{path} not found here or in {data_dir}: name it with --data {kind}:PATH, or pass --data-dir")


def read_npz(path: Path, split: str, choice: Choice) -> Images:
    """The chosen images of an npz file, under the usual keys: x_train and y_train, images and labels, test_images and test_labels, ...

    Only headers, labels and the rows that are chosen are read.

    Args:
        path: the file.
        split: "train" or "test"; val stands in for test. A file without splits is read whole, and says "all".
        choice: which images are wanted.

    Raises:
        InputError: where the file is damaged, holds Python objects, or its arrays are not one set of images and labels.
    """
    name = f"npz:{path.stem}"
    there = archives.members(path, name, key_meaning)
    keys = keys_of_split(there, split, name)
    last = is_channels_last(there[keys.x], name)
    lengths = [sum(there[key].shape[:1]) for key in (keys.x, keys.y, keys.index or keys.x)]
    if len(set(lengths)) > 1:
        raise InputError(f"{name}: {lengths[0]} images, {lengths[1]} labels and {lengths[2]} indices do not fit together")
    y, ids = member_labels(there[keys.y], name), torch.arange(lengths[0])
    if keys.index:
        ids = whole_numbers(archives.read_array(there[keys.index], name), f"{name}: {keys.index}")
    classes = npz_class_names(there, name)
    refuse_labels(y, classes, name)
    rows = choice.rows(ids, f"{name} ({keys.split})", y)
    x = as_channels_first(archives.read_member_rows(there[keys.x], rows.numpy(), name), last)
    return Images(name, keys.split, x, y[rows], ids[rows], classes, notes=keys.notes(name, split))


ROLES = {
    "x": ("x", "image", "images", "img", "imgs", "data", "input", "inputs"),
    "y": ("y", "label", "labels", "target", "targets"),
    "index": ("index", "indices", "ids"),
    "classes": ("classes", "class names", "classnames"),
}


@dataclass(frozen=True)
class Keys:
    """The keys of images, labels and, where there are any, ids (else ""), and the split that they are of."""

    x: str
    y: str
    index: str
    split: str
    stored: str

    def notes(self, name: str, asked: str) -> tuple[str, ...]:
        """What is to be said where the keys are not our own, or of another split."""
        mine = (self.x, self.y) in [("x", "y"), (f"x_{self.stored}", f"y_{self.stored}")]
        sentences = [] if mine else [f"{name}: {self.x} was taken for the images, {self.y} for the labels"]
        if self.stored not in (asked, WHOLE_SET):
            sentences.append(f"{name} has no split {asked!r}: {self.stored} stands in for it")
        return tuple(sentences)


def key_meaning(key: str) -> tuple[str, str] | None:
    """What a key stands for, a key of ROLES, and its split ("all" for none); None for a key that says neither."""
    words = re.split(r"[_\-. ]+", key.casefold())
    if len(words) == 1 and words[0][:1] in ("x", "y") and words[0][1:] in SPLIT_WORDS:
        words = [words[0][0], words[0][1:]]
    for role, synonyms in ROLES.items():
        if " ".join(words) in synonyms:
            return role, WHOLE_SET
        for place in (0, -1):
            rest = words[1:] if place == 0 else words[:-1]
            if words[place] in synonyms and len(rest) == 1 and (rest[0] in SPLIT_WORDS or words[place] in ("x", "y", "index")):
                return role, SPLIT_WORDS.get(rest[0], rest[0])
    return None


def keys_of_split(there: Mapping[str, archives.ArchiveMember], split: str, name: str) -> Keys:
    """The keys of a split; InputError, with what is there, where none say so, and where several do."""
    by_meaning: dict[tuple[str, str], list[str]] = {}
    for key in there:
        by_meaning.setdefault(key_meaning(key) or ("", ""), []).append(key)
    for (role, part), several in by_meaning.items():
        if role == "x" and len(several) > 1:  # of `data` and `images` of scikit-learn's digits, the ones that are images
            by_meaning[role, part] = [key for key in several if len(there[key].shape) > 2] or several
    stored_split = next(
        (each for each in (*STAND_INS.get(split, (split,)), WHOLE_SET) if ("x", each) in by_meaning and ("y", each) in by_meaning), None
    )
    contents = ", ".join(member.words for member in there.values()) or "no arrays"
    if stored_split is None:
        raise InputError(
            f"{name} has no images and labels for {split!r}: it holds {contents}, and needs x_{split} and y_{split}, or x and y"
        )
    for role in ("x", "y", "index"):
        if len(keys := by_meaning.get((role, stored_split), [])) > 1:
            raise InputError(f"{name}: {' and '.join(keys)} could each be the {ROLE_WORDS[role]}: leave one out (it holds {contents})")
    index = by_meaning.get(("index", stored_split), [""])[0]
    return Keys(
        by_meaning["x", stored_split][0],
        by_meaning["y", stored_split][0],
        index,
        WHOLE_SET if stored_split == WHOLE_SET else split,
        stored_split,
    )


ROLE_WORDS = {"x": "images", "y": "labels", "index": "ids"}
MOST_CLASSES = 100_000  # a label beyond is no label


def member_labels(member: archives.ArchiveMember, name: str) -> Tensor:
    """The labels (N,) of an array (N,) or (N, 1)."""
    labels = archives.read_array(member, name)
    return whole_numbers(labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels, f"{name}: {member.key}")


def whole_numbers(array: np.ndarray, what: str) -> Tensor:
    """An integer array (N,) as an int64 tensor."""
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{what} must be whole numbers of shape (N,), not {array.dtype} of shape {array.shape}")
    return torch.from_numpy(array.astype(np.int64))


def npz_class_names(there: Mapping[str, archives.ArchiveMember], name: str) -> tuple[str, ...]:
    """The names in `classes`, or "0", "1", ... up to the largest label of any split."""
    name_members = [member for key, member in there.items() if key_meaning(key) == ("classes", WHOLE_SET)]
    if name_members:
        if len(name_members[0].shape) != 1 or name_members[0].dtype.kind != "U":
            raise InputError(f"{name}: {name_members[0].key} must be an array of strings of shape (K,)")
        return tuple(archives.read_array(name_members[0], name).tolist())
    label_members = [member for key, member in there.items() if (key_meaning(key) or ("", ""))[0] == "y" and member.dtype.kind in "iu"]
    most = max((int(array.max()) for array in (archives.read_array(member, name) for member in label_members) if array.size), default=0)
    if most >= MOST_CLASSES:
        raise InputError(f"{name} has labels up to {most}: they count from 0, and {MOST_CLASSES:,} classes are the most")
    return tuple(str(k) for k in range(1 + most))


def is_channels_last(member: archives.ArchiveMember, name: str) -> bool:
    """Whether images have shape (N, H, W, C); InputError unless that, (N, C, H, W) or (N, H, W), uint8 or floats, with C 1 or 3."""
    shape = member.shape
    if member.dtype != np.uint8 and member.dtype.kind != "f":
        raise InputError(f"{name}: pixels are {member.dtype}: they must be uint8, or float32 in [0, 1]")
    if len(shape) not in (3, 4):
        raise InputError(f"{name}: images have shape {shape}: it must be (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if len(shape) == 3:
        return False
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first and last:
        raise InputError(f"{name}: images have shape {shape}: two axes could be 1 or 3 channels; pad the images to 4 pixels a side")
    if not first and not last:
        raise InputError(
            f"{name}: images have shape {shape}, and no axis could be 1 channel (grey) or 3 (RGB): of RGBA keep the first 3, of grey with "
            "transparency the first"
        )
    return last


def as_channels_first(x: np.ndarray, last: bool) -> Tensor:
    """Images as (N, C, H, W), uint8 or float32."""
    x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2) if last else x
    return torch.from_numpy(np.ascontiguousarray(x if x.dtype == np.uint8 else x.astype(np.float32)))


def folder_catalogue(path: Path, split: str, class_order: str | None, layout: str | None) -> Catalogue:
    """The images of PATH/SPLIT/CLASS/*, of PATH/CLASS/*, or of another layout; none is decoded.

    An id is the place in the list sorted by class, as text, and file, whatever the order of the labels. In the order of use the classes
    take turns (first file of each, second file of each, ...), so that the first n are balanced.

    Args:
        path: the folder.
        split: "train" or "test"; val stands in for test. A tree without splits is read whole, and says "all".
        class_order: "text" or "number", where the classes are numbered.
        layout: a key of LAYOUTS or the user's own "file.py:function"; None recognises it.

    Raises:
        InputError: where the tree has two readings or holds no images.
    """
    name = spelt_out(f"folder:{path.resolve().name}")
    tree = tree_layout(path, split, layout, name)
    classes, by_class = tuple(tree.files), list(tree.files.values())
    by_label, names = tree.labels(class_order, name)
    entries = [(rank, label, file) for label, kind in enumerate(by_class) for rank, file in enumerate(kind)]
    order = sorted(range(len(entries)), key=lambda place: entries[place][:2])
    labels = torch.tensor([by_label.index(kind) for kind in classes], dtype=torch.int64)
    y = labels[torch.tensor([entries[place][1] for place in order], dtype=torch.int64)]
    files = [entries[place][2] for place in order]
    names = tuple(map(spelt_out, names))
    known_as = [spelt_out(f"{classes[entries[place][1]]}/{entries[place][2].name}") for place in order]
    notes = tuple(map(spelt_out, (tree_note(tree, [len(kind) for kind in by_class], name), *tree.notes)))
    items = [("file", str(file)) for file in files]
    return Catalogue(name, tree.split, items, known_as, y, torch.tensor(order, dtype=torch.int64), names, notes, tree.outputs)


def tree_note(tree: TreeLayout, counts: Sequence[int], name: str) -> str:
    """What was understood of a tree, in one line."""
    least, most = min(counts), max(counts)
    each = f"{least} to {most}" if least < most else str(least)
    what = "all images" if tree.split == WHOLE_SET else f"split {tree.split!r}"
    classes = tuple(tree.files)
    few = classes if len(classes) <= MOST_NAMED_CLASSES else (classes[0], "...", classes[-1])
    return f"{name} was read as {tree.shape}; {what}: {len(counts)} classes ({', '.join(few)}), {sum(counts)} images, {each} a class"


def read_image(file: Path, preprocessing: Preprocessing | None = None) -> Tensor:
    """One image file as (3, H, W) uint8 RGB, as `decoded_item` reads it.

    Args:
        file: the path.
        preprocessing: how it is resized and cut; None leaves it as it is.

    Raises:
        InputError: where it cannot be read as an image of 8 bits a channel.
    """
    return torch.from_numpy(decoded_item(("file", str(file)), preprocessing or AS_THEY_ARE))


def png_bytes(image: Tensor) -> bytes:
    """An image (1 or 3, H, W) with pixels k / 255 as the bytes of a PNG file.

    Args:
        image: (1, H, W) or (3, H, W), float, on the CPU.
    """
    levels = (255 * image).round().to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray((levels[0] if len(levels) == 1 else levels.permute(1, 2, 0)).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
