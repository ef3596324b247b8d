"""How a tree of image folders is to be read: which folders are splits, which are classes; refused where two readings are possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robench.core.errors import InputError
from robench.core.recipes import parse_recipe, resolve
from robench.data.own_code import own_result

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLIT_WORDS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val", "validation": "val",
}  # fmt: skip
STAND_INS = {"train": ("train",), "test": ("test", "val"), "val": ("val",)}
JUNK = "__MACOSX"  # what macOS adds to a zip file
WHOLE_SET = "all"  # the split of a source that has none
EXPECTED_FOLDERS = "PATH/CLASS/* or PATH/train/CLASS/* and PATH/test/CLASS/* is expected"


@dataclass(frozen=True)
class TreeLayout:
    """What was understood of a tree of image folders, for one split.

    Attributes:
        split: the name of the split: "train", "test" or "val"; "all" where the tree has none.
        files: the sorted image files of each class in this split. It has the classes of all splits, sorted by their names as text, also
            one without files in this split, which else would shift the labels of the others.
        shape: the layout in words.
        notes: one sentence each on what was left out, entered, or taken in place of something else.
    """

    split: str
    files: Mapping[str, Sequence[Path]]
    shape: str
    notes: tuple[str, ...] = ()


def tree_layout(path: Path, split: str, layout: str | None, name: str) -> TreeLayout:
    """The layout of a tree, for one split: that of the first function of LAYOUTS that recognises it, or of the one that is asked for.

    Args:
        path: the folder.
        split: "train", "test" or "val".
        layout: a key of LAYOUTS or the user's own `file.py:function`, where the names of the folders do not tell; else None.
        name: what sentences call the tree.

    Raises:
        InputError: where nothing of that kind is there, and where two readings are possible.
    """
    if split not in STAND_INS:
        raise InputError(f"{name} has no split {split!r}: choose one of {', '.join(sorted(STAND_INS))}")
    recipe = None if layout is None else parse_recipe(layout)
    readers = list(LAYOUTS.values()) if recipe is None else [resolve(recipe, LAYOUTS, "layout")]
    if not path.is_dir():
        raise InputError(f"{name} is a file and no folder: unpack it, and name the folder ({EXPECTED_FOLDERS})")
    path, notes = unwrapped_folder(path, name) if layout in (None, "splits") else (path, [])
    for read_layout in readers:
        tree = own_result(recipe.label if recipe else "", read_layout, path, split, name, recipe is not None)
        if isinstance(tree, TreeLayout):
            return replace(tree, notes=(*notes, *tree.notes))
        if tree is not None:
            raise InputError(f"{layout} returned {type(tree).__name__}: it must return a robench.data.layouts.TreeLayout, or None")
    raise InputError(f"{name} does not have the layout {layout}: it has {folder_contents(path, {})}")


def split_layout(path: Path, split: str, name: str, asked: bool) -> TreeLayout | None:
    """PATH/SPLIT/CLASS/*; None where the tree has no split folders.

    Args:
        path: the folder, unwrapped.
        split: "train", "test" or "val"; val stands in for test.
        name: what sentences call the tree.
        asked: whether the user has said that it is laid out so.

    Raises:
        InputError: where a folder could be a split as well as a class, and where the split is not there.
    """
    folders = split_folders(path, name, asked)
    if not folders:
        return None
    top = next((folders[one] for one in STAND_INS[split] if one in folders), None)
    if top is None:
        raise InputError(f"{name} has no folder for the split {split!r}: it has {folder_contents(path, folders)}")
    notes = list[str]()
    if SPLIT_WORDS[top.name.casefold()] != split:
        notes.append(f"{name} has no folder for the split {split!r}: {top.name} stands in for it")
    classes = sorted({kid.name for each in folders.values() for kid in folders_with_images(each)})
    beside = [kid.name for kid in folders_with_images(path) if kid not in folders.values()]
    notes += [f"{name}: left out beside its splits: {', '.join(beside)}"] if beside else []
    shape = f"PATH/SPLIT/CLASS, splits {', '.join(each.name for each in folders.values())}"
    files = {kind: sorted_image_files(top / kind) for kind in classes}
    return TreeLayout(split, files, shape, (*notes, *left_out_notes(path, list(folders.values()), classes, name)))


def class_layout(path: Path, split: str, name: str, asked: bool) -> TreeLayout:  # noqa: ARG001 - the signature of every layout
    """PATH/CLASS/*, without splits, which any folder is read as where no other layout is recognised.

    Args:
        path: the folder of the class folders.
        split: any; all images are taken whichever is asked for.
        name: what sentences call the tree.
        asked: whether the user has said that it is laid out so.

    Raises:
        InputError: where no folder in it holds images.
    """
    classes = [kid.name for kid in folders_with_images(path)]
    refuse_empty(path, classes, name)
    files = {kind: sorted_image_files(path / kind) for kind in classes}
    return TreeLayout(WHOLE_SET, files, "PATH/CLASS, no splits", tuple(left_out_notes(path, [path], classes, name)))


def unwrapped_folder(path: Path, name: str) -> tuple[Path, list[str]]:
    """The folder itself, or the one inside that wraps everything, as archives unpack, and a note."""
    notes = list[str]()
    while True:
        kids = folders_with_images(path)
        if len(kids) != 1 or kids[0].name.casefold() in SPLIT_WORDS or not folders_with_images(kids[0]) or image_files_in(kids[0]):
            break
        path = kids[0]
        notes.append(f"{name}: all is in its folder {path.name}, which was entered; --layout classes takes {path.name} for a class")
    return path, notes


def split_folders(path: Path, name: str, asked: bool) -> dict[str, Path]:
    """The folder of each split; {} where the class folders lie in the folder itself. InputError where two readings are possible."""
    kids = folders_with_images(path)
    candidates = [kid for kid in kids if kid.name.casefold() in SPLIT_WORDS]
    deep = [kid for kid in candidates if folders_with_images(kid)]
    others = [kid for kid in kids if kid not in deep]
    if asked and not deep:
        raise InputError(f"{name} has no train, test or val folder with class folders: it has {folder_contents(path, {})}")
    if not asked:
        refuse_ambiguous_folders(kids, candidates, deep, others, name)
    by_split: dict[str, Path] = {}
    for kid in deep:
        split = SPLIT_WORDS[kid.name.casefold()]
        if split in by_split:
            raise InputError(
                f"{name} has two folders for the split {split!r}, {by_split[split].name} and {kid.name}: name the one that is meant, "
                f"as folder:PATH/{kid.name}, or rename the other"
            )
        by_split[split] = kid
    return by_split


def refuse_ambiguous_folders(kids: Sequence[Path], named: Sequence[Path], deep: Sequence[Path], others: Sequence[Path], name: str) -> None:
    """InputError where folders could be splits as well as classes."""
    choose = "pass --layout splits or --layout classes"
    if len(deep) == 1 and any(kid not in named for kid in others):
        raise InputError(f"{name}: {deep[0].name} is a split, or a class beside {first_folder_names(others)}: {choose}")
    if named and not deep and len(named) == len(kids):
        contents = f"{first_folder_names(named)} hold{'' if len(named) > 1 else 's'} images and no class folders"
        raise InputError(f"{name}: {contents} ({EXPECTED_FOLDERS}): pass --layout classes if they are the classes")
    inner = [{sub.name for sub in folders_with_images(kid)} for kid in kids]
    if len(kids) < 2 or not all(inner) or any(image_files_in(kid) for kid in kids) or deep:
        return
    if all(sub.casefold() in SPLIT_WORDS for subs in inner for sub in subs):
        raise InputError(
            f"{name}: the folders {first_folder_names(kids)} hold {first_folder_names(folders_with_images(kids[0]))} each, and "
            f"{EXPECTED_FOLDERS}: move them, or pass --layout classes to take all images of a class, whatever their split"
        )
    overlap = set.intersection(*inner)
    if len(overlap) > 1:
        raise InputError(
            f"{name}: the folders {first_folder_names(kids)} all hold {', '.join(sorted(overlap)[:3])}: if they are splits, name one, as "
            f"folder:PATH/{kids[0].name}; if they are classes, pass --layout classes"
        )


def refuse_empty(path: Path, classes: Sequence[str], name: str) -> None:
    """InputError where there are no class folders with images: says what is there, and what is expected."""
    if not classes:
        count = len(image_files_in(path))
        what = f"{file_count_words(count)} and no class folders" if count else f"no images: it has {folder_contents(path, {})}"
        raise InputError(f"{name} holds {what}; {EXPECTED_FOLDERS}")


def left_out_notes(path: Path, tops: Sequence[Path], classes: Sequence[str], name: str) -> list[str]:
    """Notes on what is not read: folders without images, files outside the class folders."""
    empty = [kid.name for top in tops for kid in subfolders(top) if kid.name not in classes and not kid.name.startswith(".")]
    stray = sum(len(image_files_in(top)) for top in {path, *tops})
    notes = [f"{name}: folders without images are no classes: {', '.join(dict.fromkeys(empty))}"] if empty else []
    return notes + ([f"{name}: {file_count_words(stray)} outside the class folders left out"] if stray else [])


def file_count_words(files: int) -> str:
    """A number of image files, in words."""
    return f"{files} image file{'s' if files > 1 else ''}"


def folder_contents(path: Path, found: dict[str, Path]) -> str:
    """What a folder holds, in a few words."""
    kids = [child for child in sorted(path.iterdir()) if not child.name.startswith(".")]
    words = [
        f"{kid.name} (without class folders)" if kid.name.casefold() in SPLIT_WORDS and kid not in found.values() else kid.name
        for kid in kids
    ]
    return ", ".join([*words[:6], *(["..."] if len(words) > 6 else [])]) or "nothing"


def first_folder_names(folders: Sequence[Path]) -> str:
    """The first names of some folders."""
    few = [folder.name for folder in folders[:4]]
    return ", ".join([*few, *(["..."] if len(folders) > 4 else [])]) if len(folders) != 2 else " and ".join(few)


def subfolders(path: Path) -> list[Path]:
    """The visible folders in a folder, sorted by name, without what macOS adds to archives; none if it is a file."""
    return sorted(child for child in path.iterdir() if child.is_dir() and is_visible(child.name)) if path.is_dir() else []


def folders_with_images(path: Path) -> list[Path]:
    """The visible folders in a folder that hold an image, at any depth."""
    return [child for child in subfolders(path) if next(image_files_under(child), None) is not None]


def image_files_in(path: Path) -> list[Path]:
    """The image files that lie in a folder itself."""
    return [file for file in path.iterdir() if is_visible(file.name) and file.suffix.lower() in ENDINGS and file.is_file()]


def image_files_under(path: Path) -> Iterator[Path]:
    """The image files under a folder; hidden files, and all in hidden folders, are passed over."""
    for file in path.rglob("*"):
        if file.suffix.lower() in ENDINGS and all(map(is_visible, file.relative_to(path).parts)) and not file.is_dir():
            yield file


def sorted_image_files(path: Path) -> list[Path]:
    """The image files under a class folder, sorted by their path."""
    return sorted(image_files_under(path))


def is_visible(name: str) -> bool:
    """Whether a file or folder counts: not what begins with a dot, and not what macOS adds to archives."""
    return not name.startswith(".") and name != JUNK


# name: recognise(path, split, name, asked) -> TreeLayout, or None where the tree is laid out otherwise; tried in this order
LAYOUTS: dict[str, Callable[[Path, str, str, bool], TreeLayout | None]] = {
    "splits": split_layout,
    "classes": class_layout,
}
