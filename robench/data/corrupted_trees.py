"""Corrupted sets as trees of image files, as ImageNet-C, Tiny-ImageNet-C, ImageNet-C-bar and ImageNet-3DCC have them.

FOLDER/CORRUPTION/SEVERITY/CLASS/FILE, or FOLDER/GROUP/CORRUPTION/SEVERITY/CLASS/FILE as the archives of ImageNet-C are packed. SEVERITY is
1 to 5; the generator of C-bar (facebookresearch/augmentation-corruption, make_imagenet_c_bar.py) calls its folders by the number that makes
the severity, with two decimals, such as 2.35: they are known by that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from robench.core.corruption_names import C_BAR_NUMBERS, EVERY_NAME, SEVERITIES
from robench.core.decoding import has_sixteen_bits
from robench.core.errors import InputError
from robench.core.pictures import opened_picture
from robench.corruptions.severities import valid_severity
from robench.data import files, layouts
from robench.data.released_sets import (
    CorruptedSet,
    folder_name_note,
    name_after_folder,
    names_of_set,
    other_name_notes,
    set_of_names,
    wanted_corruptions,
)

CROP = 224  # the side of ImageNet's images; released larger (299) for some networks
TREES = {(1000, 50_000, 224): "imagenet-c", (200, 10_000, 64): "tiny-imagenet-c"}  # (classes, images, side): name
Tops = Mapping[str, Mapping[int, Path]]  # corruption -> severity -> its folder


def corruption_folders(folder: Path) -> dict[str, Path]:
    """The folder of each corruption of a tree, in the order of EVERY_NAME; InputError if one is there twice.

    Args:
        folder: the folder that holds the tree.
    """
    children = layouts.subfolders(folder)
    nested = [grandchild for child in children if child.name not in EVERY_NAME for grandchild in layouts.subfolders(child)]
    folders = [path for path in (*children, *nested) if path.name in EVERY_NAME]
    twice = [name for name, count in Counter(path.name for path in folders).items() if count > 1]
    if twice:
        raise InputError(f"{folder} holds {twice[0]} twice, as {' and '.join(str(path) for path in folders if path.name == twice[0])}")
    return {path.name: path for path in sorted(folders, key=lambda path: EVERY_NAME.index(path.name))}


def severity_folders(top: Path, own: str) -> dict[int, Path]:
    """The folders of the severities of one corruption that are there, called 1 to 5 or, of C-bar, by their numbers.

    Args:
        top: the folder of the corruption.
        own: the set that it is of, a key of ON_DISK or "".
    """
    plain = {severity: top / str(severity) for severity in SEVERITIES}
    numbers = C_BAR_NUMBERS.get(own, {}).get(top.name, ())
    by_number = {severity: top / f"{number:.2f}" for severity, number in zip(SEVERITIES, numbers, strict=False)}
    return {severity: path for severity, path in {**by_number, **{s: p for s, p in plain.items() if p.is_dir()}}.items() if path.is_dir()}


def read_tree_set(folder: Path, corruptions: Sequence[str] | None = None, severities: Sequence[int] | None = None) -> CorruptedSet:
    """The corrupted set in a tree of image files: labels count the sorted class folders, ids the files sorted by class and path.

    In the order of use the classes take turns, as for `folder:PATH`, so that the first n are balanced. Images are cut to their centre
    of 224 pixels where they are larger, and never resized. All class folders are compared here, all file names once a corruption and
    severity is loaded: InputError where they differ, and for images that are not 8-bit RGB or grey, or of several sizes.
    """
    found = corruption_folders(folder)
    names = wanted_corruptions(corruptions, tuple(found), folder)
    own = set_of_names(names)
    tops = {name: severity_folders(path, own) for name, path in found.items()}
    levels = wanted_severities(found, tops, names, severities)
    first = tops[names[0]][levels[0]]
    kinds = common_classes(tops, names, levels)
    file_names = class_file_names(first)
    if not file_names:
        raise InputError(f"{first} is empty: it has no images to use")
    ranks, y = ranks_and_labels(file_names, kinds)
    order = sorted(range(len(file_names)), key=lambda place: (ranks[place], y[place]))
    shape = read_corrupted_image(first / file_names[order[0]]).shape
    layout = layout_of_tree(len(kinds), len(file_names), shape, own)
    ids = torch.tensor(order)
    same = cache(partial(refuse_other_files, first, file_names))
    return CorruptedSet(
        name_after_folder(folder), "other", names, levels, torch.tensor(y)[ids], ids, kinds, (shape[0], shape[1], shape[2]),
        partial(pixels_from_tree, tops, file_names, ids, same, shape), notes=tree_notes(folder, found, layout, own), layout=layout,
        present=tuple(found),
    )  # fmt: skip


def layout_of_tree(classes: int, images: int, shape: Sequence[int], own: str) -> str:
    """The released set whose classes, images and sides a tree has, "" for none."""
    layout = TREES.get((classes, images, shape[1]), "") if shape[1] == shape[2] else ""
    return layout if not own else own if layout == "imagenet-c" else ""


def tree_notes(folder: Path, found: Mapping[str, Path], layout: str, own: str) -> tuple[str, ...]:
    """Notes on the name of a tree, and on folders that are left out."""
    named = (folder_name_note(folder, layout, "images stored as JPEG cannot be compared with ours to the pixel"),) if layout else ()
    strangers = [one.name for one in layouts.subfolders(folder) if one.name not in EVERY_NAME and not corruption_folders(one)]
    others = [name for name in found if name not in names_of_set(own)]
    return (*named, *other_name_notes([*others, *strangers], folder, own))


def wanted_severities(found: Mapping[str, Path], tops: Tops, names: Sequence[str], severities: Sequence[int] | None) -> tuple[int, ...]:
    """The severities to use: those asked for, else those of the first corruption; InputError where a corruption lacks one."""
    levels = tuple(dict.fromkeys(valid_severity(severity) for severity in severities or sorted(tops[names[0]])))
    lacking = [found[name] / str(severity) for name in names for severity in levels if severity not in tops[name]]
    if lacking or not levels:
        raise InputError(f"{lacking[0] if lacking else found[names[0]] / '1'} is not there: leave it out, or unpack it")
    return levels


def common_classes(tops: Tops, names: Sequence[str], levels: Sequence[int]) -> tuple[str, ...]:
    """The names of the class folders, sorted; InputError if they are not the same everywhere.

    (Tiny-ImageNet-C's frost was released with the 1,000 classes of ImageNet in one archive: labels would shift.)
    """
    first, *rest = (tops[name][severity] for name in names for severity in levels)
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
    tops: Tops,
    listed: Sequence[str],
    ids: Tensor,
    same: Callable[[Path], None],
    shape: torch.Size,
    corruption: str,
    severity: int,
    rows: Tensor,
) -> Tensor:
    """The pixels (M, 3, H, W) uint8 at rows (M,); only these files are decoded. InputError where they differ in size."""
    top = tops[corruption][severity]
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
        mode, deep = image.mode, has_sixteen_bits(image)
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
