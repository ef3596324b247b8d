"""Trees of image folders: what was understood of one, and the names of the files and folders in it; nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robench.data.class_names import ordered_classes

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
        counted: the keys of `files` in the order in which labels count, where the layout knows it; () leaves it to `ordered_classes`.
        names: what the classes are called, where the layout knows it and the keys of `files` do not say it: index to wnid.
        outputs: "data" where the authors of such a set evaluate over its own classes alone, "all" where over all of a model; else "".
    """

    split: str
    files: Mapping[str, Sequence[Path]]
    shape: str
    notes: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    outputs: str = ""

    def labels(self, class_order: str | None, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The keys of `files` in the order in which labels count, and the names of these classes.

        Args:
            class_order: "text" or "number" where the user has said it; it wins over what the layout knows.
            name: what sentences call the tree.

        Raises:
            InputError: where two orders are possible.
        """
        if class_order is None and self.counted:
            return self.counted, tuple(self.names.get(key, key) for key in self.counted)
        keys = ordered_classes(tuple(self.files), class_order, name)
        return keys, keys if class_order else tuple(self.names.get(key, key) for key in keys)


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
