"""ImageNet, ImageNet-V2 and Tiny-ImageNet as they unpack: folders without class folders, and class folders with numbers for names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from robench.core.errors import InputError
from robench.data.image_trees import (
    ENDINGS,
    SPLIT_WORDS,
    WHOLE_SET,
    TreeLayout,
    folders_with_images,
    image_files_in,
    sorted_image_files,
    subfolders,
)
from robench.data.imagenet import imagenet_classes
from robench.data.label_files import DEVKIT_FILE, KAGGLE_FILE, agreed_labels, label_file_beside, tiny_annotations

VALIDATION_NAME = re.compile(r"ILSVRC2012_val_[0-9]{8}\.(?i:jpe?g|png)")
V2_NAME = re.compile(r"(?i:image[-_]?net[-_]?v2.*)")
KAGGLE_TOPS = ("", "CLS-LOC", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
VALIDATION_FOLDERS = ("", "val", "validation", "valid", "ILSVRC2012_img_val", "test")
MOST_ABOVE = 4  # folders above the images in which labels are looked for: Kaggle's lie so far above ILSVRC/Data/CLS-LOC/val


def imagenet_layout(path: Path, split: str, name: str, asked: bool, *, labels: str = "", numbering: str = "") -> TreeLayout | None:
    """PATH/val/ILSVRC2012_val_*.JPEG without class folders, beside a file with their labels; Kaggle's tree, too.

    Args:
        path: the folder of the images, or one above it.
        split: "test" or "val" for these images, "train" for the class folders in the folder train beside.
        name: what sentences call the tree.
        asked: whether the user has said that it is laid out so.
        labels: the file with the labels, where several or none lie beside the images.
        numbering: what the numbers in it mean: devkit, index or index-from-1; "" where it tells.

    Raises:
        InputError: where no file says the classes, where several contradict each other, and where class folders lie beside the images.
    """
    flat = first_folder(path, VALIDATION_FOLDERS, is_validation_image)
    if flat is None:
        return None
    train = (
        next((kid for kid in subfolders(flat.parent) if SPLIT_WORDS.get(kid.name.casefold()) == "train"), None) if flat != path else None
    )
    training = {} if train is None else {kid.name: sorted_image_files(kid) for kid in folders_with_images(train)}
    if split == "train":
        if not training:
            raise InputError(f"{name} holds ImageNet's validation images, and no folder train with class folders beside them")
        return TreeLayout("train", dict(sorted(training.items())), "ImageNet, PATH/train/WNID")
    if not asked and (kinds := folders_with_images(flat)):
        raise InputError(
            f"{name}: {flat.name} holds validation images as well as class folders ({kinds[0].name}): pass --layout imagenet for the "
            "images that lie in it, or --layout splits or classes for the folders"
        )
    images = sorted(image_files_in(flat))
    files = [Path(labels)] if labels else label_file_beside(flat, min(MOST_ABOVE, len(flat.resolve().parents)))
    if not files:
        raise InputError(
            f"{name}: {flat.name} holds {len(images)} validation images of ImageNet without class folders, and no file beside them says "
            f"their classes: put {DEVKIT_FILE} or {KAGGLE_FILE} there, or name one with --layout imagenet,labels=FILE"
        )
    wnids = agreed_labels(files, [file.stem for file in images], numbering)
    by_class = {wnid: list[Path]() for wnid in sorted({*wnids.values(), *training})}
    for file in images:
        by_class[wnids[file.stem]].append(file)
    others = "".join(f", with which {other.name} agrees" for other in files[1:])
    return TreeLayout(split, by_class, f"ImageNet's validation images, classes from {files[0].name}{others}")


def imagenet_v2_layout(path: Path, split: str, name: str, asked: bool) -> TreeLayout | None:  # noqa: ARG001 - the signature of every layout
    """PATH/0/* to PATH/999/*: ImageNet-V2, whose folders are the indices of ImageNet's classes; their order as text is another.

    Args:
        path: the folder, or the one above the only variant.
        split: any; all images are taken whichever is asked for.
        name: what sentences call the tree.
        asked: whether the user has said that it is laid out so; else the folder has to be called as V2's archives unpack.

    Raises:
        InputError: where several variants lie side by side, and where V2 is asked for and folders have other names than indices.
    """
    variants = [kid for kid in subfolders(path) if V2_NAME.fullmatch(kid.name) and index_folders(kid)]
    if len(variants) > 1:
        raise InputError(f"{name} has {len(variants)} variants of ImageNet-V2: name one, such as folder:PATH/{variants[0].name}")
    top = variants[0] if variants else path
    if not asked and not V2_NAME.fullmatch(top.resolve().name):
        return None
    kinds = index_folders(top)
    if not kinds:
        if asked:
            raise InputError(f"{name} does not have the layout imagenet-v2: its folders would be numbers from 0 to 999")
        return None
    classes = imagenet_classes()
    by_number = sorted(kinds, key=lambda kid: int(kid.name))
    return TreeLayout(
        WHOLE_SET, {kid.name: sorted_image_files(kid) for kid in sorted(kinds)}, "ImageNet-V2, PATH/INDEX, no splits",
        counted=tuple(kid.name for kid in by_number), names={kid.name: classes[int(kid.name)].wnid for kid in kinds},
    )  # fmt: skip


def tiny_imagenet_layout(path: Path, split: str, name: str, asked: bool, *, order: str = "text") -> TreeLayout | None:  # noqa: ARG001
    """Tiny-ImageNet: PATH/train/WNID/images/* and PATH/val/images/* with val_annotations.txt; its test images have no labels.

    Args:
        path: the folder with wnids.txt.
        split: "train", or "test" or "val", for both of which the validation images are taken.
        name: what sentences call the tree.
        asked: whether the user has said that it is laid out so.
        order: how its classes count for a model that stores no class names: "text", as torchvision's ImageFolder counts them, or "wnids",
            as the lines of wnids.txt.

    Raises:
        InputError: where the images of the split are not there, and where an image has no annotation.
    """
    if order not in ("text", "wnids"):
        raise InputError(f"unknown order {order!r} of Tiny-ImageNet's classes: choose text or wnids")
    listing = path / "wnids.txt"
    if not listing.is_file() or not any((path / part).is_dir() for part in ("train", "val")):
        return None
    listed = listing.read_text("utf-8", "replace").split()
    by_class = {wnid: list[Path]() for wnid in sorted(listed)}
    if split == "train":
        by_class |= {kid.name: sorted_image_files(kid) for kid in folders_with_images(path / "train")}
    else:
        by_class |= tiny_validation_files(path / "val", by_class, name)
    by_class = dict(sorted(by_class.items()))
    notes = [f"{name}: the images of test have no labels: val stands in for them"] if split == "test" else []
    if list(by_class) != listed:
        other = "wnids" if order == "text" else "text"
        notes.append(
            f"{name}: for a model without class names its classes count in the order {order!r}; --layout tiny-imagenet,order={other}"
        )
    counted = tuple(listed) if order == "wnids" and set(listed) == set(by_class) else ()
    return TreeLayout(split, by_class, "Tiny-ImageNet", tuple(notes), counted=counted)


def tiny_validation_files(top: Path, classes: Iterable[str], name: str) -> Mapping[str, list[Path]]:
    """The validation images of Tiny-ImageNet by class: as they unpack, or moved into class folders."""
    flat, table = top / "images", top / "val_annotations.txt"
    images = sorted(image_files_in(flat)) if flat.is_dir() else []
    if not images:
        folders = {kid.name: sorted_image_files(kid) for kid in folders_with_images(top)}
        if not folders:
            raise InputError(f"{name} has no validation images: val/images or val/WNID is expected")
        return folders
    wnids = tiny_annotations(table) if table.is_file() else {}
    missing = next((file.name for file in images if file.name not in wnids), None)
    if missing is not None:
        raise InputError(f"{name}: val/val_annotations.txt says no class of {missing}")
    by_class = {wnid: list[Path]() for wnid in classes}
    for file in images:
        by_class.setdefault(wnids[file.name], []).append(file)
    return by_class


def first_folder(path: Path, names: Iterable[str], holds: Callable[[str], bool]) -> Path | None:
    """The first of some folders under a path, also as Kaggle nests them, with a file of such a name directly in it."""
    for folder in dict.fromkeys(path / top / name for top in KAGGLE_TOPS for name in names):
        if folder.is_dir() and any(holds(entry.name) for entry in folder.iterdir()):
            return folder
    return None


def is_validation_image(file: str) -> bool:
    """Whether a file has the name of one of ImageNet's validation images."""
    return VALIDATION_NAME.fullmatch(file) is not None and Path(file).suffix.lower() in ENDINGS


def index_folders(path: Path) -> list[Path]:
    """The class folders of ImageNet-V2, 0 to 999; [] where a folder with images has another name."""
    kinds = subfolders(path)
    fit = all(kid.name.isascii() and kid.name.isdigit() and str(int(kid.name)) == kid.name and int(kid.name) < 1000 for kid in kinds)
    return folders_with_images(path) if kinds and fit else []
