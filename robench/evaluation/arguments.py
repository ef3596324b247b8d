"""What callers of the public functions hand over as models, images, threats and references, in one form each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from robench.core.errors import InputError
from robench.core.inputs import (
    Array,
    Radius,
    as_list,
    as_masks,
    as_model,
    as_radii,
    as_whole_number,
)
from robench.core.recipes import parse_fraction
from robench.core.rows import Row, blank_row, setting_dict
from robench.core.threat import Threat, default_eps
from robench.data import Images, images_of_dataset
from robench.data.own_loaders import arrays_of_loader, is_own_source, is_read_to_its_end, read_note
from robench.evaluation.corruption_sources import (
    CorruptionSource,
)
from robench.evaluation.sequence_sources import SequenceSource
from robench.results.corruption_errors import Reference, alexnet_reference
from robench.runs.pools import as_ids, images_from_arrays
from robench.runs.types import Subject

Model: TypeAlias = nn.Module | Callable[[Tensor], Tensor]
Models: TypeAlias = Model | Subject | Mapping[str, Model | Subject] | Sequence[Subject]
Pictures: TypeAlias = Array | Images | DataLoader[Any] | Dataset[Any]


def as_reference(reference: Any, images: Images, source: CorruptionSource | SequenceSource) -> Subject | Reference | None:
    """The model by whose errors those of others are divided, or known errors.

    Args:
        reference: a model or `Subject` that is measured along; "alexnet" for its published errors; a `Reference`; or None.
        images: the images of the run.
        source: the corruptions of the run, whose severities choose among the published errors.
    """
    if reference is None or isinstance(reference, (Subject, Reference)):
        return reference
    if isinstance(reference, str) and reference == "alexnet":
        setting = setting_dict(source.setting)
        return alexnet_reference(len(source.classes), "imagenet" if setting.get("layout") == "imagenet-c" else setting.get("scale", ""))
    return as_subjects({"reference": reference}, images)[0]


def as_subjects(
    model: Models, images: Images, about: Row | None = None, architecture: Mapping[str, Any] | None = None, none: bool = False
) -> list[Subject]:
    """The models under measurement, each with the name, data set and split of its rows; "" is the name of one that came without.

    Args:
        model: one model, a mapping of names to models, or a list of `Subject`.
        images: the images of the run.
        about: a row with checkpoint, preset, data set and split, for one model.
        architecture: plain values that identify one model beside its weights.
        none: whether there need not be any model.

    Raises:
        InputError: for what is no model, for two of one name, and for a list of anything but subjects.
    """
    if isinstance(model, Mapping):
        subjects = [as_subject(one, str(name)) for name, one in model.items()]
    elif isinstance(model, (list, tuple)):
        wrong = next((type(one).__name__ for one in model if not isinstance(one, Subject)), None)
        if wrong is not None:
            raise InputError(f"the list of models holds {wrong}: hand over a mapping of names to models, or a list of robench.Subject")
        subjects = list(model)
    else:
        one = as_subject(model)
        subjects = [replace(one, about=about or one.about, architecture=architecture or one.architecture)]
    if (about or architecture) and isinstance(model, (Mapping, list, tuple, Subject)):
        raise InputError("about and architecture are for one model: hand over subjects, robench.Subject(model, about), in place of them")
    if not subjects and not none:
        raise InputError("no model is given: hand over one, a mapping of names to models, or a list of robench.Subject")
    names = [one.name for one in subjects]
    if twins := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two models are called {twins[0]!r}: give each a name of its own, as in {{'a': model, 'b': other}}")
    return [
        replace(one, about=replace(one.about, data=one.about.data or images.name, split=one.about.split or images.split))
        for one in subjects
    ]


def as_subject(model: Any, name: str | None = None) -> Subject:
    """One model under measurement, under the name that a mapping gives it."""
    try:
        one = model if isinstance(model, Subject) else Subject(as_model(model), blank_row())
    except InputError as error:
        if name is None:
            raise
        raise InputError(f"what is of type dict must map names to models, and {name!r} is none: {error}") from None
    return one if name is None else replace(one, about=replace(one.about, checkpoint=name))


def as_labelled_images(x: Pictures, y: Array | None, ids: Array | None, masks: Array | None = None, *, about: Row | None = None) -> Images:
    """Images with labels, from whatever a caller has.

    Args:
        x: images (N, C, H, W), an `Images`, or a DataLoader or map-style data set of (x, y).
        y: labels (N,); None where x brings them.
        ids: sample ids (N,); 0 to N - 1 for None.
        masks: (N, H, W), true where the object is, or None.
        about: a row that names the data set and the split, or None.

    Raises:
        InputError: for images without labels, and where x brings what is handed over beside it.
    """
    if isinstance(x, Images):
        refuse_second(x, y=y, ids=ids, masks=masks)
        return x
    name, split = (about.data, about.split) if about else ("", "")
    if isinstance(x, (DataLoader, Dataset)) or (y is None and is_own_source(x)):
        refuse_second(x, y=y)
        images = images_of_own_source(x, name, split)
        images = images if ids is None else replace(images, ids=as_ids(ids, len(images)))
    elif y is None:
        raise InputError("y is of type NoneType, and x has no labels of its own: hand over y, an Images, or a DataLoader of (x, y)")
    else:
        images = images_from_arrays(x, y, ids, name=name, split=split)
    return images if masks is None else replace(images, masks=as_masks(masks, torch.empty(images.x.shape, device="meta")))


def images_of_own_source(source: Any, name: str, split: str) -> Images:
    """The images of a DataLoader or a data set of (x, y): by index where that is possible, else read to its end."""
    if not is_read_to_its_end(source):
        return images_of_dataset(source, name, split, double=True, counts_classes=False)
    known_as = name or ("the DataLoader" if isinstance(source, DataLoader) else "the data set")
    images = images_from_arrays(*arrays_of_loader(source, known_as), name=name, split=split)
    return replace(images, notes=(read_note(known_as),))


def notes_of_reading(x: object, images: Images) -> list[str]:
    """What was noticed as a DataLoader or a data set of (x, y) was read; nothing of an `Images`, whose notes its maker has told.

    Args:
        x: what the caller handed over.
        images: what it became.
    """
    return [] if x is images else list(images.notes)


def refuse_second(x: Any, **given: Any) -> None:
    """Raises InputError where x has what is handed over beside it as well."""
    for name, value in given.items():
        if value is not None:
            more = ", and name what follows it by its keyword" if name == "y" else ""
            raise InputError(f"x is of type {type(x).__name__}, which brings its own {name}: leave {name} out{more}")


def as_severity(value: Any) -> int:
    """A severity from 1 to 5. Raises InputError for anything else."""
    severity = as_whole_number(value, "a severity", 1)
    if severity > 5:
        raise InputError(f"a severity must be a whole number from 1 to 5, not {severity}")
    return severity


def as_threats(norm: str, eps: Radius | None, threats: str | Threat | Sequence[str | Threat]) -> list[Threat]:
    """The threats of attacks: those that are spelled out (linf:8/255), else a norm with its radii."""
    spelled_out = as_list(threats)
    if not spelled_out:
        return [Threat(norm, one) for one in as_radii(default_eps(norm) if eps is None else eps)]
    if eps is not None or norm != "linf":
        raise InputError("a threat says its norm and radius: leave norm and eps out (--norm, --eps)")
    return [one if isinstance(one, Threat) else as_threat(one) for one in spelled_out]


def as_threat(words: str) -> Threat:
    """The threat that a word spells.

    Args:
        words: `NORM:EPS`, such as linf:8/255.

    Raises:
        InputError: for anything else.

    Example:
        >>> as_threat("l2:0.5")
        Threat(norm='l2', eps=0.5)
    """
    norm, colon, eps = str(words).partition(":")
    try:
        radius = parse_fraction(eps.strip() if colon else "none")
    except ValueError:
        raise InputError(f"cannot read the threat {words!r}: write NORM:EPS, such as linf:8/255 or l2:0.5") from None
    return Threat(norm.strip(), radius)
