"""Which output of a model stands for which label of the data, and what is said where that seems to be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robench.core.errors import InputError
from robench.core.recipes import Recipe

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class LabelMapping:
    """For each label of the data the output that stands for it, the same for all models; the class names by output; notes."""

    outputs: list[int]
    classes: tuple[str, ...]
    notes: list[str]

    @property
    def moved(self) -> bool:
        """Whether a label changes."""
        return self.outputs != list(range(len(self.outputs)))


def stored_class_names(meta: dict[str, Any]) -> list[str] | None:
    """The class names in a checkpoint's meta, in the order of its outputs; None where it holds none, as all other models."""
    names = meta.get("classes")
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None


def class_order_for(data: str, models: Sequence[str], known: Sequence[dict[str, Any]], given: str | None, way: str | None) -> str | None:
    """The order in which the classes of a folder are to count; None where nothing but their names could tell, as without a model.

    Checkpoints that store their class names are matched by name afterwards, whatever the order; those of ours from before names were
    stored were trained in text order. InputError for a given order that names make idle.
    """
    from robench.data.class_names import has_telling_names

    by_names = way != "as-is" and bool(known) and all(has_telling_names(stored_class_names(meta) or ()) for meta in known)
    if given is not None and by_names:
        raise InputError(
            f"{Path(models[0]).name} stores the names of its classes, by which labels are found: leave --class-order out, or add "
            "--classes as-is"
        )
    names = [has_telling_names(stored_class_names(meta) or ()) and way != "as-is" for meta in known]
    settled = bool(known) and all("model" in meta and ("classes" not in meta or tell) for meta, tell in zip(known, names, strict=True))
    return given or ("text" if data.startswith("folder:") and settled else None)


def label_mapping_for(
    classes: Sequence[str], data: str, models: Sequence[str], known: Sequence[dict[str, Any]], way: str | None, given_order: str | None
) -> LabelMapping:
    """Where the labels of the data belong for these models. InputError where a model does not know a class, or where models differ."""
    from robench.data.class_names import classes_by_number, has_telling_names, outputs_for

    names = [stored_class_names(meta) for meta in known]
    if way == "by-name" and not any(names):
        raise InputError("--classes by-name needs a checkpoint that stores its class names: leave it out")
    if given_order and not any(has_telling_names(own or ()) for own in names):
        names = [None for _ in names]  # the user has said which label is which
    each = [outputs_for(classes, own, way, Path(model).name, data) for own, model in zip(names, models, strict=True)]
    for (outputs, _), model in zip(each, models, strict=True):
        if outputs != each[0][0]:
            k = next(k for k, output in enumerate(outputs) if output != each[0][0][k])
            raise InputError(
                f"the models do not count the classes of {data} alike: {classes[k]!r} is output {each[0][0][k]} of {Path(models[0]).name} "
                f"and output {outputs[k]} of {Path(model).name}: measure them one at a time"
            )
    notes = list(dict.fromkeys(note for _, note in each if note))
    matched = sorted((own for own, (_, note) in zip(names, each, strict=True) if own and note and way != "as-is"), key=len)
    if not given_order and classes_by_number(classes) != tuple(classes) and any("classes" not in meta for meta in known):
        notes.append(f"the numbered classes of {data} count in text order, as in the training of a checkpoint that stores no class names")
    return LabelMapping(each[0][0] if each else list(range(len(classes))), tuple(matched[0] if matched else classes), notes)


def refuse_other_orders(classes: Sequence[str], others: Sequence[str], way: str | None, what: str) -> None:
    """InputError where a checkpoint among `others`, which gets the same labels, counts these classes (by output) otherwise."""
    from robench.data.class_names import outputs_for
    from robench.models import checkpoint_meta

    for other in others:
        names = stored_class_names(checkpoint_meta(other))
        if outputs_for(classes, names, way, Path(other).name, "the data")[0] != list(range(len(classes))):
            raise InputError(f"the {what} {Path(other).name} does not count the classes as the model does: its labels would be wrong")


def surrogates(recipes: Sequence[Recipe]) -> list[str]:
    """The models whose points are tried on another, in `transfer:MODEL`."""
    from robench.runs.stages.attack import TRANSFER

    return [recipe.name.removeprefix(TRANSFER) for recipe in recipes if recipe.name.startswith(TRANSFER)]
