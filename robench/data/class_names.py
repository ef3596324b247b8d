"""Class names: which label stands for which class, where images and a model count their classes in different orders.

Accuracy is never used to choose labels. What decides is the names that a checkpoint of ours stores, or an option of the user's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from robench.core.errors import InputError
from robench.core.recipes import lookup

CLASS_ORDERS = ("text", "number")
WAYS = ("by-name", "as-is")
NUMBERED_NAME = re.compile(r"([^0-9]*)([0-9]+)(?:[^0-9].*)?", re.DOTALL)


def ordered_classes(classes: Sequence[str], order: str | None, name: str) -> tuple[str, ...]:
    """The classes of a folder in text order, as torchvision's ImageFolder counts them, or in number order.

    InputError where the two differ and `order` is None.
    """
    text = tuple(sorted(classes))
    number = classes_by_number(text)
    if order is not None:
        lookup(order, dict.fromkeys(CLASS_ORDERS), "order of classes")
        return number if order == "number" else text
    for k, (one, other) in enumerate(zip(text, number, strict=True)):
        if one != other:
            raise InputError(
                f"{name}: class {k} is {one!r} in text order, which torchvision's ImageFolder takes, and {other!r} in number order: "
                "pass --class-order text or --class-order number, whichever the model was trained with"
            )
    return text


def classes_by_number(classes: Sequence[str]) -> tuple[str, ...]:
    """The classes by the numbers in their names (3, class3, 3_cat), where all names are of one such form; else as they are."""
    found = [match for match in map(NUMBERED_NAME.fullmatch, classes) if match]
    numbers = [int(match[2]) for match in found]
    if len(set(numbers)) < len(classes) or len({match[1] for match in found}) > 1:
        return tuple(classes)
    return tuple(name for _, name in sorted(zip(numbers, classes, strict=True)))


def has_telling_names(classes: Sequence[str]) -> bool:
    """Whether the names say more than the labels themselves, which "0", "1", "2", ... do not."""
    return list(classes) != [str(k) for k in range(len(classes))]


def outputs_for(classes: Sequence[str], known: Sequence[str] | None, how: str | None, model: str, data: str) -> tuple[list[int], str]:
    """For each class of the data the output of the model that stands for it, and a note; "" where there is nothing to say.

    known  the model's class names in the order of its outputs; None where it stores none
    how    "by-name", or "as-is" for label k on output k; None: by name where names on both sides tell something

    InputError for a class that the model does not know, for a name that stands twice, and where labels without names meet a model whose
    names are numbers in an order of their own.
    """
    same, names = list(range(len(classes))), list(known or ())
    if how is not None:
        lookup(how, dict.fromkeys(WAYS), "way to find the labels")
    if list(classes) == names:
        return same, ""
    if how == "as-is":
        return same, f"the classes of {data} are not named as those of {model}, and its labels are taken as they are" if names else ""
    if how is None and not matches_by_name(classes, names, model, data):
        return same, ""
    return outputs_by_name(classes, names, model, data)


def matches_by_name(classes: Sequence[str], names: Sequence[str], model: str, data: str) -> bool:
    """Whether the names on both sides tell which output stands for which class; InputError where two readings are possible."""
    numbers = all(name.isdecimal() for name in (*classes, *names))
    if names and has_telling_names(names) and not has_telling_names(classes) and numbers:
        raise InputError(
            f"{data} has labels without names, and the classes of {model} are the numbers {first_class_names(names)}: "
            f"pass --classes by-name if label k means the class named k, --classes as-is if it means output k"
        )
    part = numbers and set(classes) < set(names)  # folders 3 and 7 of ten digits, for a model of which nothing but 0 to 9 is known
    return bool(names) and has_telling_names(classes) and (has_telling_names(names) or part)


def outputs_by_name(classes: Sequence[str], names: Sequence[str], model: str, data: str) -> tuple[list[int], str]:
    """The place of each class among the model's names, and a note; InputError where one is not there, or where a name stands twice."""
    place = {name: output for output, name in enumerate(names)}
    if not names:
        raise InputError(f"{model} stores no class names: leave --classes by-name out")
    unknown = next((name for name in classes if name not in place), None)
    if unknown is not None:
        raise InputError(
            f"{model} knows no class {unknown!r}, which {data} has: its classes are {first_class_names(names)}; "
            f"pass --classes as-is to take the labels of the data as they are"
        )
    if len(place) < len(names) or len(set(classes)) < len(classes):
        raise InputError(f"{model} or {data} has a class name twice, so that labels cannot be found by name: pass --classes as-is")
    found = [place[name] for name in classes]
    if len(classes) == len(names):
        return found, f"{data} has the classes of {model} in another order: its labels were put into the model's order"
    told = f"{data} has {len(classes)} of the {len(names)} classes of {model}: its labels were put on the outputs of those names"
    return found, f"{told}, and all {len(names)} outputs compete"


def first_class_names(names: Sequence[str]) -> str:
    """The first names, as a list in a sentence."""
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:4])}, ... ({len(names)} of them)"
