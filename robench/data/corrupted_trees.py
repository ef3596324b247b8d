"""Corrupted sets as trees of image files, as ImageNet-C, Tiny-ImageNet-C, ImageNet-C-bar and ImageNet-3DCC have them.

FOLDER/CORRUPTION/SEVERITY/CLASS/FILE, or FOLDER/GROUP/CORRUPTION/SEVERITY/CLASS/FILE as the archives of ImageNet-C are packed. SEVERITY is
1 to 5; the generator of C-bar (facebookresearch/augmentation-corruption, make_imagenet_c_bar.py) calls its folders by the number that makes
the severity, with two decimals, such as 2.35: they are known by that.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from robench.core.corruption_names import C_BAR_NUMBERS, EVERY_NAME, SEVERITIES
from robench.core.decoding import AS_THEY_ARE, DamagedImageError, Item, item_extent
from robench.core.errors import InputError
from robench.core.preprocessing import Extent, Preprocessing, fits_into
from robench.corruptions.severities import valid_severity
from robench.data import layouts
from robench.data.released_sets import (
    CorruptedSet,
    folder_name_note,
    name_after_folder,
    names_of_set,
    other_name_notes,
    set_of_names,
    wanted_corruptions,
)
from robench.data.stored_pixels import Decoder

TRIED_FIRST = 100  # images of which the first readable one tells the size of all
WORTH_A_PROCESS = 2**25  # bytes of pixels of a cell from which on worker processes decode them
MOST_COMPARED = 10_000  # files of a cell up to which all names are compared with those of the first; of more only the chosen are looked for
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


def read_tree_set(
    folder: Path, corruptions: Sequence[str] | None = None, severities: Sequence[int] | None = None, asked: Preprocessing | None = None,
    workers: int = 0, enlarges: bool = True,
) -> CorruptedSet:  # fmt: skip
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
    files = [file_names[place] for place in order]
    seen = first_readable_extent([("plain", str(first / file)) for file in files[:TRIED_FIRST]], asked or AS_THEY_ARE)
    how, words = preprocessing_of_tree(seen, asked)
    if words.startswith("resize=") and not enlarges:
        refuse_images_below_crop(folder, seen, how)
    shape = (3, *how.cut_extent(*seen))
    layout = layout_of_tree(len(kinds), len(files), (3, *preprocessing_of_tree(seen, None)[0].cut_extent(*seen)), own)
    ids = torch.tensor(order)
    pixels = TreePixels({name: tops[name] for name in names}, first, files, how, (shape[1], shape[2]), workers)
    notes = (*tree_notes(folder, found, layout, own), *resizing_note(folder, seen, words))
    return CorruptedSet(
        name_after_folder(folder), "other", names, levels, torch.tensor(y)[ids], ids, kinds, shape, pixels.pixels, notes=notes,
        layout=layout, present=tuple(found), files=files, expect=pixels.expect, known_by=pixels.digest, words=words,
    )  # fmt: skip


def first_readable_extent(items: Sequence[Item], preprocessing: Preprocessing) -> Extent:
    """Height and width of the first of some images that can be read; the error of the first where none can."""
    damaged: DamagedImageError | None = None
    for item in items:
        try:
            return item_extent(item, preprocessing)
        except DamagedImageError as error:  # it is named once it is decoded, if it is among those that are chosen
            damaged = damaged or error
    raise damaged or InputError("there is no image to look at")


def refuse_images_below_crop(folder: Path, seen: Extent, how: Preprocessing) -> None:
    """Raises InputError for images of a tree that are smaller than what a model takes."""
    crop = how.fixed_extent() or seen
    side = max(crop)
    raise InputError(
        f"{how.origin} takes images of {crop[1]}x{crop[0]} pixels, and those of {folder.name} are {seen[1]}x{seen[0]}: "
        f"--image-size {min(seen)} shows it these, --resize {side} --image-size {side} enlarges them"
    )


def resizing_note(folder: Path, seen: Extent, words: str) -> tuple[str, ...]:
    """A note where images are resized, as the user asks for more pixels than they have."""
    if not words.startswith("resize="):
        return ()
    told = words.replace("=", " ").replace(" interpolation", "")
    return (f"the images of {folder.name} are {seen[1]}x{seen[0]}, smaller than the crop, and so resized ({told}): its authors only cut",)


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


class TreeItems(Sequence[Item]):
    """Where the images of one corruption and severity lie, in the order of use; a path is made where it is asked for.

    Attributes:
        top: the folder of the corruption and severity.
        files: CLASS/FILE of each image, in the order of use.
    """

    def __init__(self, top: Path, files: Sequence[str]) -> None:
        self.top, self.files = str(top), files

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        if isinstance(place, slice):
            return TreeItems(Path(self.top), self.files[place])
        return ("plain", f"{self.top}/{self.files[place]}")


class TreePixels:
    """The pixels of a tree, decoded as they are asked for, by worker processes where there are many; nothing is kept of more than one cell.

    Attributes:
        tops: the folder of each corruption and severity.
        first: that of the cell whose files were listed.
        files: CLASS/FILE of each image, in the order of use.
        preprocessing: how images are cut, or resized.
        extent: height and width of what comes out.
        workers: how many processes decode.
    """

    def __init__(
        self, tops: Tops, first: Path, files: Sequence[str], preprocessing: Preprocessing, extent: Extent, workers: int
    ) -> None:  # fmt: skip
        self.tops, self.first, self.files, self.preprocessing, self.extent = tops, first, files, preprocessing, extent
        self.workers, self.cell, self.compared = workers, ("", 0), {first}
        self.decoder = Decoder((), preprocessing, extent, first.name, 0)

    def decoder_of(self, corruption: str, severity: int) -> Decoder:
        """What decodes the images of a cell. InputError where these are not the images of the first cell."""
        if self.cell != (corruption, severity):
            top = self.tops[corruption][severity]
            if len(self.files) <= MOST_COMPARED and top not in self.compared:
                refuse_other_files(self.first, self.files, top)
                self.compared.add(top)
            self.decoder.expect(())
            self.decoder = Decoder(TreeItems(top, self.files), self.preprocessing, self.extent, f"{corruption} {severity}", 0)
            self.cell = (corruption, severity)
        return self.decoder

    def pixels(self, corruption: str, severity: int, rows: Tensor) -> Tensor:
        """The images of some rows (M,), (M, 3, H, W) uint8.

        Args:
            corruption: the name of the corruption.
            severity: from 1 to 5.
            rows: (M,) int64, places of images.

        Raises:
            DamagedImageError: where some cannot be read.
            InputError: where an image is of another size or kind than the others.
        """
        return self.decoder_of(corruption, severity).pixels(rows.tolist())

    def expect(self, corruption: str, severity: int, rows: Tensor) -> None:
        """Says which rows of a cell will be asked for, so that workers decode them ahead; a few are decoded in this process.

        Args:
            corruption: the name of the corruption.
            severity: from 1 to 5.
            rows: (M,) int64, places of images.
        """
        decoder = self.decoder_of(corruption, severity)
        many = 3 * self.extent[0] * self.extent[1] * len(rows) > WORTH_A_PROCESS
        decoder.workers = self.workers if many else 0
        decoder.expect(rows.tolist())

    def digest(self, corruption: str, severities: Sequence[int], rows: Tensor) -> str:
        """What some images of a corruption are known by: their names and the bytes of their files; nothing is decoded.

        Args:
            corruption: the name of the corruption.
            severities: those that are used.
            rows: (M,) int64, places of images.
        """
        digest = hashlib.sha256(f"{len(self.files)} {self.extent}".encode())
        for severity in severities:
            for place in rows.tolist():
                path = Path(self.tops[corruption][severity]) / self.files[place]
                digest.update(f"{self.files[place]}|".encode(errors="surrogateescape"))
                digest.update(path.read_bytes() if path.is_file() else b"")  # one that is missing is named as it is decoded
        return digest.hexdigest()[:16]


def preprocessing_of_tree(extent: Extent, asked: Preprocessing | None) -> tuple[Preprocessing, str]:
    """How the images of a tree are brought to one size, and the words of the setting where that is not how its authors do it.

    They are cut to their middle, of 224 pixels unless the user asks for other sides, and resized only where they are smaller than that.
    """
    sides = None if asked is None else asked.fixed_extent()
    if asked is None or sides is None:
        return (Preprocessing(None, (CROP, CROP)), "") if min(extent) >= CROP else (AS_THEY_ARE, "")
    crop = "x".join(map(str, sides))
    if fits_into(sides, extent):
        return Preprocessing(None, sides), "" if sides == (CROP, CROP) else f"crop={crop}"
    resize = "x".join(map(str, asked.resize)) if isinstance(asked.resize, tuple) else asked.resize
    return asked, f"resize={resize} interpolation={asked.interpolation} crop={crop}"


def centre_crop(image: Tensor) -> Tensor:
    """The centre of 224 pixels of an image (3, H, W) with larger sides, else the image; offsets as torchvision's CenterCrop has them."""
    height, width = image.shape[1:]
    if min(height, width) < CROP:
        return image
    top, left = round((height - CROP) / 2), round((width - CROP) / 2)
    return image[:, top : top + CROP, left : left + CROP]
