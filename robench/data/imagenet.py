"""The classes of ImageNet, by wnid, index, number and name, and the sets that have some of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CLASS_FILE = Path(__file__).with_name("imagenet_classes.txt")
TORCHVISION_NAMES_APART = {134: "crane bird", 639: "maillot tank suit"}  # where torchvision's name is not the first of the list
# word in the file: what it is called, and over which outputs its authors evaluate ("" where they say nothing)
KNOWN_SETS = {
    "a": ("ImageNet-A", "data"),  # eval.py of hendrycks/natural-adv-examples takes the 200 logits out of the 1,000
    "r": ("ImageNet-R", "data"),  # eval.py of hendrycks/imagenet-r does so too
    "100-cmc": ("ImageNet-100 in the list of Tian, Krishnan and Isola (CMC)", ""),
    "100-kaggle": ("ImageNet-100 in the list of ambityga on Kaggle", ""),
    "mini": ("mini-ImageNet", ""),
    "nette": ("Imagenette", ""),
    "woof": ("Imagewoof", ""),
}


@dataclass(frozen=True)
class ImageNetClass:
    """One of the 1,000 classes.

    Attributes:
        index: its place in the order of the wnids, from 0, which is its output in a classifier.
        wnid: its WordNet id, such as "n01440764".
        devkit_number: its number in the development kit, from 1.
        sets: the words of KNOWN_SETS that have it.
        names: its names, the first one first.
    """

    index: int
    wnid: str
    devkit_number: int
    sets: tuple[str, ...]
    names: tuple[str, ...]


@cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """All 1,000, by index.

    Example:
        >>> imagenet_classes()[0].names, imagenet_classes()[65].devkit_number
        (('tench', 'Tinca tinca'), 490)
    """
    lines = [line.split("\t") for line in CLASS_FILE.read_text("utf-8").splitlines() if not line.startswith("#")]
    return tuple(
        ImageNetClass(index, wnid, int(number), tuple(sets.split()), tuple(names.split(", ")))
        for index, (wnid, number, sets, names) in enumerate(lines)
    )


@cache
def index_of_wnids() -> dict[str, int]:
    """The index of each class by its wnid."""
    return {one.wnid: one.index for one in imagenet_classes()}


@cache
def wnid_of_devkit_numbers() -> dict[int, str]:
    """The wnid of each class by its number in the development kit, 1 to 1,000."""
    return {one.devkit_number: one.wnid for one in imagenet_classes()}


@cache
def indices_of_names() -> dict[str, dict[str, tuple[int, ...]]]:
    """The classes that a name may mean, in four tables that are asked one after the other: what is written most fully comes first."""
    whole: dict[str, set[int]] = {}
    first: dict[str, set[int]] = {}
    folded: dict[str, set[int]] = {}
    others: dict[str, set[int]] = {}
    for one in imagenet_classes():
        apart = TORCHVISION_NAMES_APART.get(one.index)
        for name in (*([", ".join(one.names)] if len(one.names) > 1 else []), *([apart] if apart else [])):
            whole.setdefault(name, set()).add(one.index)
        first.setdefault(one.names[0], set()).add(one.index)
        folded.setdefault(one.names[0].casefold(), set()).add(one.index)
        for name in one.names:
            others.setdefault(name.casefold(), set()).add(one.index)
    tables = {"whole": whole, "first": first, "folded": folded, "others": others}
    return {kind: {name: tuple(sorted(found)) for name, found in table.items()} for kind, table in tables.items()}


def named_indices(name: str) -> tuple[int, ...]:
    """The indices of the classes that a wnid or a name may mean; () for none of them, several where the name is double.

    Args:
        name: such as "n01440764", "tench", "great_white_shark" or "tench, Tinca tinca"; the case counts only where two differ in it.

    Example:
        >>> named_indices("Great_White_Shark"), named_indices("crane"), named_indices("crane bird"), named_indices("unicorn")
        ((2,), (134, 517), (134,), ())
    """
    index = index_of_wnids().get(name)
    if index is not None:
        return (index,)
    spaced, tables = name.replace("_", " ").strip(), indices_of_names()
    whole = tables["whole"].get(spaced)
    return whole or tables["first"].get(spaced) or tables["folded"].get(spaced.casefold()) or tables["others"].get(spaced.casefold(), ())


def outputs_are_imagenet(names: Sequence[str]) -> bool:
    """Whether these 1,000 names, by output, are those of ImageNet's classes in the order of their wnids.

    Every name that is known at all has to stand for the class in its place, and half of them have to be known: a list may spell some its
    own way.

    Args:
        names: class names of a model, in the order of its outputs.
    """
    if len(names) != len(imagenet_classes()):
        return False
    found = [named_indices(name) for name in names]
    known = [index in indices for index, indices in enumerate(found) if indices]
    return all(known) and 2 * len(known) >= len(names)


def is_wnid(name: str) -> bool:
    """Whether a name has the form of a WordNet id, an n and eight digits.

    Args:
        name: the name of a folder.
    """
    return len(name) == 9 and name[0] == "n" and name[1:].isascii() and name[1:].isdigit()


def classes_in_words(classes: Sequence[str]) -> list[str]:
    """The names of classes as people read them: of a WordNet id of ImageNet its first name, "tench" for n01440764; others as they are.

    Where two of them have the same first name, the id follows it.

    Args:
        classes: the names in the order of the labels.

    Example:
        >>> classes_in_words(["n01440764", "n02012849", "n03126707", "dog"])
        ['tench', 'crane (n02012849)', 'crane (n03126707)', 'dog']
    """
    index, known = index_of_wnids(), imagenet_classes()
    words = [known[index[name]].names[0] if name in index else name for name in classes]
    return [f"{word} ({name})" if word != name and words.count(word) > 1 else word for word, name in zip(words, classes, strict=True)]


def known_set(classes: Iterable[str]) -> tuple[str, str]:
    """Which set has exactly these classes, in words, and over which outputs its authors evaluate; "" and "" where none is known.

    Args:
        classes: wnids, in any order.
    """
    wnids = set(classes)
    for word, about in KNOWN_SETS.items():
        if wnids == {one.wnid for one in imagenet_classes() if word in one.sets}:
            return about
    of_imagenet = len(wnids) == 100 and wnids <= index_of_wnids().keys()
    return ("100 of ImageNet's classes, in no list of ImageNet-100 that is known here" if of_imagenet else "", "")
