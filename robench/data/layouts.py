"""How a tree of image folders is to be read: which folders are splits, which are classes; refused where two readings are possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from robench.core.errors import InputError
from robench.core.recipes import Recipe, parse_recipe, resolve
from robench.data.image_trees import (
    ENDINGS,
    EXPECTED_FOLDERS,
    SPLIT_WORDS,
    STAND_INS,
    WHOLE_SET,
    TreeLayout,
    file_count_words,
    first_folder_names,
    folder_contents,
    folders_with_images,
    image_files_in,
    left_out_notes,
    sorted_image_files,
    subfolders,
)
from robench.data.imagenet import known_set
from robench.data.imagenet_layouts import imagenet_layout, imagenet_v2_layout, tiny_imagenet_layout
from robench.data.own_code import own_result

__all__ = ["ENDINGS", "LAYOUTS", "SPLIT_WORDS", "STAND_INS", "WHOLE_SET", "TreeLayout", "folders_with_images", "image_files_in",
    "sorted_image_files", "subfolders", "tree_layout"]  # fmt: skip


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
    if not path.is_dir():
        raise InputError(f"{name} is a file and no folder: unpack it, and name the folder ({EXPECTED_FOLDERS})")
    known = {**LAYOUTS} if recipe is None else {recipe.name: resolve(recipe, LAYOUTS, "layout")}
    marked = {key: function for key, function in known.items() if key not in ("splits", "classes") or key == layout == "classes"}
    tree = first_layout(marked.values(), path, split, name, recipe)
    if tree is None and (recipe is None or recipe.name in LAYOUTS.keys() - {"classes"}):
        inner, notes = unwrapped_folder(path, name)
        tree = first_layout(known.values(), inner, split, name, recipe)
        tree = replace(tree, notes=(*notes, *tree.notes)) if tree else None
    if tree is None:
        raise InputError(f"{name} does not have the layout {layout}: it has {folder_contents(path, {})}")
    words, outputs = known_set(tree.names.get(key, key) for key in tree.files)
    notes = [f"{name}: its classes are those of {words}"] if words else []
    return replace(tree, notes=(*tree.notes, *notes), outputs=tree.outputs or outputs)


def first_layout(
    readers: Iterable[Callable[..., TreeLayout | None]], path: Path, split: str, name: str, recipe: Recipe | None
) -> TreeLayout | None:
    """What the first of these functions that recognises the tree understood of it; None where none does.

    Args:
        readers: functions of LAYOUTS, or the one that is asked for.
        path: the folder.
        split: "train", "test" or "val".
        name: what sentences call the tree.
        recipe: the layout that the user has named, None where none is.

    Raises:
        InputError: where one of them refuses the tree, and for what a function of the user's own raises or returns.
    """
    for read_layout in readers:
        tree = own_result(recipe.label if recipe else "", read_layout, path, split, name, recipe is not None)
        if isinstance(tree, TreeLayout):
            return tree
        if tree is not None:
            what = recipe.label if recipe else "a layout"
            raise InputError(f"{what} returned {type(tree).__name__}: it must return a robench.data.layouts.TreeLayout, or None")
    return None


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


# name: recognise(path, split, name, asked) -> TreeLayout, or None where the tree is laid out otherwise; tried in this order
LAYOUTS: dict[str, Callable[[Path, str, str, bool], TreeLayout | None]] = {
    "imagenet": imagenet_layout,
    "imagenet-v2": imagenet_v2_layout,
    "tiny-imagenet": tiny_imagenet_layout,
    "splits": split_layout,
    "classes": class_layout,
}
