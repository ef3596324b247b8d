"""Class names: which label stands for which class, where images and a model count their classes in different orders.

Accuracy is never used to choose labels. What decides is the names that a checkpoint of ours stores, or an option of the user's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.core.recipes import lookup
from robench.data.label_maps import imagenet_class_names, imagenet_outputs, is_imagenet_model, outputs_by_map, telling_names

CLASS_ORDERS = ("text", "number")
WAYS = ("by-name", "as-is")
NUMBERED_NAME = re.compile(r"([^0-9]*)([0-9]+)(?:[^0-9].*)?", re.DOTALL)


def ordered_classes(classes: Sequence[str], order: str | None, name: str) -> tuple[str, ...]:
    """The classes of a folder in text order, as torchvision's ImageFolder counts them, or in number order.

    Args:
        classes: the names, in any order.
        order: "text" or "number"; None takes text order where both are the same.
        name: what sentences call the folder.

    Raises:
        InputError: where the two orders differ and `order` is None, and for an unknown order.

    Example:
        >>> ordered_classes(["class10", "class2"], "number", "folder:pets")
        ('class2', 'class10')
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
    """The classes by the numbers in their names (3, class3, 3_cat), where all names are of one such form; else as they are.

    Args:
        classes: the names.

    Example:
        >>> classes_by_number(["1_dog", "10_fox", "2_cat"])
        ('1_dog', '2_cat', '10_fox')
    """
    matches = [match for match in map(NUMBERED_NAME.fullmatch, classes) if match]
    numbers = [int(match[2]) for match in matches]
    if len(set(numbers)) < len(classes) or len({match[1] for match in matches}) > 1:
        return tuple(classes)
    return tuple(name for _, name in sorted(zip(numbers, classes, strict=True)))


def has_telling_names(classes: Sequence[str]) -> bool:
    """Whether the names say more than the labels themselves, which "0", "1", "2", ... do not.

    Args:
        classes: the names, in the order of the labels.
    """
    return list(classes) != [str(k) for k in range(len(classes))]


def outputs_for(
    classes: Sequence[str],
    metas: Sequence[str] | None,
    how: str | None,
    model: str,
    data: str,
    *,
    count: int | None = None,
    label_map: Mapping[str, str] | None = None,
) -> tuple[list[int], str]:
    """For each class of the data the output of the model that stands for it, and a note.

    Args:
        classes: the names of the data's classes, in the order of its labels.
        metas: the model's class names in the order of its outputs; None where it stores none.
        how: "by-name", or "as-is" for label k on output k; None goes by name where the names on both sides tell something.
        model: what sentences call the model.
        data: what sentences call the data.
        count: number of the model's outputs, where that is known: of 1,000 without names, classes of ImageNet are found by their wnids.
        label_map: the user's own, which wins over names.

    Returns:
        The output for each class, and one sentence for the user, "" where there is nothing to say.

    Raises:
        InputError: for a class that the model does not know, for a name that stands twice, and where labels without names meet a model
            whose names are numbers in an order of their own.
    """
    same, names = list(range(len(classes))), list(metas or ())
    if how is not None:
        lookup(how, dict.fromkeys(WAYS), "way to find the labels")
    if label_map is not None:
        return outputs_by_map(classes, metas, count, label_map, model, data)
    if list(classes) == names:
        return same, ""
    if how == "as-is":
        other = f"the classes of {data} are not named as those of {model}, and its labels are taken as they are"
        return same, other if names else more_outputs_note(count, len(classes), model, data)
    if has_telling_names(classes) and is_imagenet_model(metas, count):
        found = imagenet_outputs(classes, metas, how, model, data)
        if found is not None:
            return found
    names = list(telling_names(names)) if any(name.startswith("LABEL_") for name in names) else names
    if how is None and not matches_by_name(classes, names, model, data):
        return same, more_outputs_note(count, len(classes), model, data)
    return outputs_by_name(classes, names, model, data)


def more_outputs_note(count: int | None, classes: int, model: str, data: str) -> str:
    """A sentence where labels are taken as they are and the model has more outputs than the data has classes; else ""."""
    if count is None or count <= classes:
        return ""
    return f"{model} has {count} outputs, {data} {classes} classes: label k is taken for output k, and all {count} outputs compete"


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
    outputs = [place[name] for name in classes]
    if len(classes) == len(names):
        return outputs, f"{data} has the classes of {model} in another order: its labels were put into the model's order"
    note = f"{data} has {len(classes)} of the {len(names)} classes of {model}: its labels were put on the outputs of those names"
    return outputs, f"{note}, and all {len(names)} outputs compete"


def first_class_names(names: Sequence[str]) -> str:
    """The first names, as a list in a sentence.

    Args:
        names: the names of all classes.
    """
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:4])}, ... ({len(names)} of them)"


@dataclass(frozen=True)
class LabelMapping:
    """How the labels of the data are counted as the models count them.

    Attributes:
        outputs: for each label of the data the output that stands for it, the same for all models.
        classes: the class names, by output.
        notes: one sentence each for the user.
    """

    outputs: list[int]
    classes: tuple[str, ...]
    notes: list[str]

    @property
    def changes_labels(self) -> bool:
        """Whether a label changes."""
        return self.outputs != list(range(len(self.outputs)))


def stored_class_names(meta: dict[str, Any]) -> list[str] | None:
    """The class names in a checkpoint's meta, in the order of its outputs; None where it holds none, as all other models.

    Args:
        meta: what a checkpoint says of itself; {} for any other model.
    """
    names = meta.get("classes")
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None


def class_order_for(
    data: str,
    models: Sequence[str],
    metas: Sequence[dict[str, Any]],
    class_order: str | None,
    way: str | None,
    label_map: Mapping[str, str] | None = None,
) -> str | None:
    """The order in which the classes of a folder are to count; None where nothing but their names could tell, as without a model.

    Checkpoints that store their class names are matched by name afterwards, whatever the order; those of ours from before names were
    stored were trained in text order.

    Args:
        data: the data set, as `load_images` takes it.
        models: what the user named, in order.
        metas: what each says of itself; {} for other models than our checkpoints.
        class_order: the order that the user gave, "text" or "number"; else None.
        way: the user's way to find the labels, "by-name" or "as-is"; else None.
        label_map: the user's own, with which the order does not matter; else None.

    Raises:
        InputError: for a given order that names or a label map make idle, and for a label map beside a way.
    """
    if label_map is not None:
        if class_order is not None or way is not None:
            raise InputError(f"--label-map says which label is which output: leave --{'classes' if way is not None else 'class-order'} out")
        return "text" if data.startswith("folder:") else None
    by_names = way != "as-is" and bool(metas) and all(has_telling_names(stored_class_names(meta) or ()) for meta in metas)
    if class_order is not None and by_names:
        raise InputError(
            f"{Path(models[0]).name} stores the names of its classes, by which labels are found: leave --class-order out, or add "
            "--classes as-is"
        )
    telling = [has_telling_names(stored_class_names(meta) or ()) and way != "as-is" for meta in metas]
    has_text_order = bool(metas) and all(
        "model" in meta and ("classes" not in meta or tell) for meta, tell in zip(metas, telling, strict=True)
    )
    return class_order or ("text" if data.startswith("folder:") and has_text_order else None)


def label_mapping_for(
    classes: Sequence[str],
    data: str,
    models: Sequence[str],
    metas: Sequence[dict[str, Any]],
    way: str | None,
    given_order: str | None,
    *,
    names: Sequence[Sequence[str] | None] | None = None,
    counts: Sequence[int | None] | None = None,
    label_map: Mapping[str, str] | None = None,
) -> LabelMapping:
    """Where the labels of the data belong for these models.

    Args:
        classes: the names of the data's classes, in the order of its labels.
        data: what sentences call the data.
        models: what the user named, in order.
        metas: what each says of itself; {} for other models than our checkpoints.
        way: the user's way to find the labels, "by-name" or "as-is"; else None.
        given_order: the order of classes that the user gave; else None.
        names: class names of each model whose library says them, in the order of its outputs; else None. A checkpoint's own win.
        counts: the number of outputs of each, where that is known.
        label_map: the user's own, which wins over all names.

    Raises:
        InputError: where a model does not know a class, or where models count the classes differently.
    """
    stored = [stored_class_names(meta) for meta in metas]
    known = [own or (list(library) if library else None) for own, library in zip(stored, names or [None] * len(stored), strict=True)]
    if way == "by-name" and not any(known) and not any(is_imagenet_model(None, count) for count in counts or ()):
        raise InputError("--classes by-name needs a checkpoint that stores its class names: leave it out")
    if given_order and not any(has_telling_names(own or ()) for own in stored):
        known, way = [None for _ in known], way or "as-is"  # the user has said which label is which
    sizes = list(counts) if counts is not None else [None] * len(known)
    each = [
        outputs_for(classes, own, way, Path(model).name, data, count=count, label_map=label_map)
        for own, count, model in zip(known, sizes, models, strict=True)
    ]
    refuse_different_outputs(classes, data, models, [outputs for outputs, _ in each])
    notes = list(dict.fromkeys(note for _, note in each if note))
    numbered = classes_by_number(classes) != tuple(classes) and not any(note for _, note in each)  # and no name put labels on outputs
    if not given_order and numbered and any("classes" not in meta for meta in metas):
        notes.append(f"the numbered classes of {data} count in text order, as in the training of a checkpoint that stores no class names")
    outputs = each[0][0] if each else list(range(len(classes)))
    matched = sorted((own for own, (_, note) in zip(known, each, strict=True) if own and note and way != "as-is"), key=len)
    named = tuple(matched[0]) if matched else names_by_output(classes, outputs, max((size or 0 for size in sizes), default=0))
    return LabelMapping(outputs, named, notes)


def provisional_labels(
    classes: Sequence[str],
    data: str,
    models: Sequence[str],
    metas: Sequence[dict[str, Any]],
    way: str | None,
    given_order: str | None,
    label_map: Mapping[str, str] | None,
) -> LabelMapping:
    """What checkpoints say of the labels before any model is loaded; the labels as they are where none stores class names.

    Args:
        classes: the names of the data's classes, in the order of its labels.
        data: what sentences call the data.
        models: what the user named, in order.
        metas: what each says of itself; {} for other models than our checkpoints.
        way: the user's way to find the labels, "by-name" or "as-is"; else None.
        given_order: the order of classes that the user gave; else None.
        label_map: the user's own; else None.

    Raises:
        InputError: where a checkpoint does not know a class.
    """
    if label_map is None and any(stored_class_names(meta) for meta in metas):
        return label_mapping_for(classes, data, models, metas, way, given_order)
    return LabelMapping(list(range(len(classes))), tuple(classes), [])


def refuse_different_outputs(classes: Sequence[str], data: str, models: Sequence[str], each: Sequence[Sequence[int]]) -> None:
    """InputError where a class stands for another output of one model than of the first."""
    for outputs, model in zip(each, models, strict=True):
        if outputs != each[0]:
            k = next(k for k, output in enumerate(outputs) if output != each[0][k])
            raise InputError(
                f"the models do not count the classes of {data} alike: {classes[k]!r} is output {each[0][k]} of {Path(models[0]).name} "
                f"and output {outputs[k]} of {Path(model).name}: measure them one at a time"
            )


def names_by_output(classes: Sequence[str], outputs: Sequence[int], count: int) -> tuple[str, ...]:
    """A name for each output up to the last that is used, where no model says them: the data's, ImageNet's of 1,000, else the number."""
    if list(outputs) == list(range(len(classes))):
        return tuple(classes)
    size = max(count, 1 + max(outputs))
    named = list(imagenet_class_names()) if size == len(imagenet_class_names()) else [str(k) for k in range(size)]
    for name, output in zip(classes, outputs, strict=True):
        named[output] = name
    return tuple(named)
