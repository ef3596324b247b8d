"""Which output of a classifier of ImageNet stands for a class, and label maps, files in which the user says it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from robench.core.errors import InputError
from robench.data.imagenet import TORCHVISION_NAMES_APART, imagenet_classes, is_wnid, named_indices, outputs_are_imagenet

LARGEST_MAP = 2**24  # bytes of a label map
COUNTED_NAME = re.compile(
    r"(?:LABEL_)?([0-9]+)"
)  # names that say no more than their place, as transformers and npz files without names have


def telling_names(names: Sequence[str] | None) -> Sequence[str]:
    """The names of a model's outputs; () where they say no more than their places, as "0", "1", ... and "LABEL_0", "LABEL_1", ... do.

    Args:
        names: in the order of the outputs; None where none are known.
    """
    places = [match[1] if (match := COUNTED_NAME.fullmatch(name)) else "" for name in names or ()]
    return () if places == [str(k) for k in range(len(places))] else names or ()


def is_imagenet_model(names: Sequence[str] | None, count: int | None) -> bool:
    """Whether a model is taken for a classifier of ImageNet: by its class names, or by 1,000 outputs without names.

    Args:
        names: class names in the order of its outputs; None where none are known.
        count: number of its outputs; None where that is not known.
    """
    told = telling_names(names)
    return outputs_are_imagenet(told) if told else (count or len(names or ())) == len(imagenet_classes())


def imagenet_outputs(
    classes: Sequence[str], names: Sequence[str] | None, how: str | None, model: str, data: str
) -> tuple[list[int], str] | None:
    """For each class of the data the output of a classifier of ImageNet that stands for it, and a note; None where the names do not say.

    Args:
        classes: wnids, numbers (which are outputs, from 0) or names, in the order of the data's labels.
        names: class names of the model, in the order of its outputs; None where none are known.
        how: "by-name" or None, the user's way to find the labels.
        model: what sentences call the model, of which `is_imagenet_model` holds.
        data: what sentences call the data.

    Raises:
        InputError: for a class that is none of ImageNet's, for a name that two of its classes have, and for numbers with two readings.
    """
    told, count = telling_names(names), len(imagenet_classes())
    numbers = all(name.isascii() and name.isdigit() for name in classes)
    if outputs_are_imagenet(classes):
        return list(range(count)), ""
    if numbers:
        found = numbered_outputs(classes, how, model, data)
    else:
        each = [indices_in_model(name, told, classes) for name in classes]
        if not any(each) and not told and not any(map(is_wnid, classes)):
            return None  # of a model of which no names are known: its 1,000 outputs may be other classes
        refuse_unclear_names(classes, each, model, data)
        found = [indices[0] for indices in each]
    if found is None:
        return None
    if len(set(found)) < len(found):
        one = next(k for k, output in enumerate(found) if output in found[:k])
        raise InputError(
            f"{data}: {classes[found.index(found[one])]!r} and {classes[one]!r} are one class of ImageNet: pass --label-map FILE"
        )
    same = found == list(range(len(found)))
    if same and (numbers or len(found) == count):
        return found, ""
    how_read = "" if told else f", whose {count:,} outputs were read as ImageNet's classes in the order of their wnids"
    kind = "numbers" if numbers else "wnids" if all(map(is_wnid, classes)) else "names"
    some = f"the {len(found)} classes" if len(found) < count else "the classes"
    return found, f"{some} of {data} were put on the outputs of {model} by their {kind}{how_read}"


def indices_in_model(name: str, told: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """The outputs that a class may mean; of a double name the one that is left, where the data has the other under a name of its own."""
    indices = named_indices(name)
    if len(indices) < 2:
        own = [k for k, known in enumerate(told) if known == name]
        return (own[0],) if len(own) == 1 else indices
    return tuple(k for k in indices if TORCHVISION_NAMES_APART.get(k) not in classes)


def numbered_outputs(classes: Sequence[str], how: str | None, model: str, data: str) -> list[int] | None:
    """The numbers themselves, as outputs from 0; None where they are the labels anyway; InputError where two readings are possible."""
    found, count = [int(name) for name in classes], len(imagenet_classes())
    if found == list(range(len(found))):
        return found
    if max(found) >= count:
        raise InputError(
            f"{data} has the class {max(found)}, and the outputs of {model} are counted from 0 to {count - 1}: say what the numbers "
            "mean with --label-map FILE"
        )
    if how == "by-name":
        return found
    raise InputError(
        f"the classes of {data} are numbers, {classes[0]} the first: pass --classes by-name if {classes[0]} is output {found[0]} of "
        f"{model}, or --classes as-is if it is output 0"
    )


def refuse_unclear_names(classes: Sequence[str], found: Sequence[tuple[int, ...]], model: str, data: str) -> None:
    """InputError for a class that is none of ImageNet's, and for a name that two of its classes have."""
    for name, indices in zip(classes, found, strict=True):
        if not indices:
            raise InputError(
                f"no output of {model} stands for the class {name!r} of {data}: it is none of ImageNet's 1,000; leave it out, say "
                "which output is meant with --label-map FILE, or pass --classes as-is if label k means output k"
            )
        if len(indices) > 1:
            wnids = " and ".join(f"{imagenet_classes()[k].wnid} (output {k})" for k in indices)
            raise InputError(
                f"{name!r} in {data} is the name of {wnids}: call the class by its wnid, or say which is meant with --label-map FILE"
            )


def stray_class_text(classes: Sequence[str], data: str) -> str:
    """A clause on the first class beside ImageNet's 1,000 that is none of them, where all others are; else "".

    Args:
        classes: the names of the data's classes.
        data: what sentences call the data.
    """
    stray = [name for name in classes if not (is_wnid(name) and named_indices(name))]
    if not stray or len(classes) <= len(imagenet_classes()) or len(classes) - len(stray) < len(imagenet_classes()):
        return ""
    return f"{data} has ImageNet's 1,000 classes and {stray[0]!r}, which is none of them: leave it out"


def imagenet_class_names() -> tuple[str, ...]:
    """A name of each of ImageNet's classes that no other has, by output: torchvision's.

    Example:
        >>> imagenet_class_names()[134], len(set(imagenet_class_names()))
        ('crane bird', 1000)
    """
    return tuple(TORCHVISION_NAMES_APART.get(one.index, one.names[0]) for one in imagenet_classes())


def read_label_map(path: Path) -> dict[str, str]:
    """A label map: for class names of the data, what stands for them, as text: the number of an output, a wnid or a name.

    Args:
        path: a json file with one object, or a csv file with two columns, class and output; a first line "class,output" is passed over.

    Raises:
        InputError: where the file cannot be read, is no such map, or names a class twice.
    """
    try:
        if path.stat().st_size > LARGEST_MAP:
            raise InputError(f"the label map {path} has more than {LARGEST_MAP:,} bytes")
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"there is no label map {path}") from None
    except OSError as error:
        raise InputError(f"the label map {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"the label map {path} is no text in UTF-8") from None
    pairs = json_pairs(text, path) if path.suffix.lower() == ".json" else csv_pairs(text, path)
    found: dict[str, str] = {}
    for name, output in pairs:
        if name in found:
            raise InputError(f"the label map {path.name} names the class {name!r} twice")
        found[name] = output
    if not found:
        raise InputError(f"the label map {path.name} is empty")
    return found


def json_pairs(text: str, path: Path) -> list[tuple[str, str]]:
    """The pairs of a json object, also of keys that stand twice."""
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise InputError(f"the label map {path.name} is no json file") from None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise InputError(f'the label map {path.name} must be one object, such as {{"cat": 281, "dog": "n02099601"}}')
    for name, output in pairs:
        if isinstance(output, bool) or not isinstance(output, (int, str)):
            raise InputError(f"the label map {path.name} gives {name!r} no output: a whole number, a wnid or a name is expected")
    return [(name, str(output)) for name, output in pairs]


def csv_pairs(text: str, path: Path) -> list[tuple[str, str]]:
    """The pairs of a csv file with two columns."""
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if rows and [cell.strip().casefold() for cell in rows[0]] == ["class", "output"]:
        rows = rows[1:]
    odd = next((k for k, row in enumerate(rows, 1) if len(row) != 2), None)
    if odd is not None:
        raise InputError(f"the label map {path.name}: entry {odd} has {len(rows[odd - 1])} columns, and two are expected, class and output")
    return [(row[0].strip(), row[1].strip()) for row in rows]


def outputs_by_map(
    classes: Sequence[str], names: Sequence[str] | None, count: int | None, label_map: Mapping[str, str], model: str, data: str
) -> tuple[list[int], str]:
    """For each class of the data the output that a label map gives it, and a note.

    Args:
        classes: the names of the data's classes, in the order of its labels.
        names: class names of the model, in the order of its outputs; None where none are known.
        count: number of its outputs; None where that is not known.
        label_map: what `read_label_map` returns.
        model: what sentences call the model.
        data: what sentences call the data.

    Raises:
        InputError: where a class is missing in the map, where two have one output, and where the model has no such output.
    """
    missing = [name for name in classes if name not in label_map]
    if missing:
        raise InputError(f"the label map has no class {missing[0]!r}, which {data} has{more_words(len(missing) - 1)}")
    found = [mapped_output(label_map[name], name, names, count, model) for name in classes]
    first: dict[int, str] = {}
    for name, output in zip(classes, found, strict=True):
        if output in first:
            raise InputError(f"the label map is not one to one: {first[output]!r} and {name!r} both have output {output} of {model}")
        first[output] = name
    idle = len(label_map) - len(classes)
    extra = f"; {idle} of its classes are not in {data}" if idle else ""
    return found, f"the label map put the {len(classes)} classes of {data} on outputs of {model}{extra}"


def more_words(others: int) -> str:
    """How many more there are, for the end of a sentence; "" for none."""
    return f", nor {others} other{'s' if others > 1 else ''}" if others else ""


def mapped_output(word: str, name: str, names: Sequence[str] | None, count: int | None, model: str) -> int:
    """The output that a word of a label map stands for: a number, a wnid or a name."""
    told, outputs = telling_names(names), count or len(names or ()) or None
    if word.isascii() and word.isdigit() and len(word) < 10:
        if outputs is not None and int(word) >= outputs:
            raise InputError(f"the label map gives {name!r} output {word}, and {model} has outputs 0 to {outputs - 1}")
        return int(word)
    places = [k for k, own in enumerate(told) if own == word]
    if not places and is_imagenet_model(names, count):
        places = [*named_indices(word)]
    if len(places) != 1:
        what = "two outputs" if places else "no output"
        raise InputError(f"the label map gives {name!r} the class {word!r}, and {what} of {model} {'have' if places else 'has'} that name")
    return places[0]
