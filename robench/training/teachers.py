"""The teacher that a training learns from: named by the user, or trained first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from robench.core.errors import InputError
from robench.core.recipes import Recipe
from robench.data import Images
from robench.data.class_names import outputs_for
from robench.models import checkpoint, checkpoint_meta, load_with_origin
from robench.models.architectures import is_foreign, runs_code
from robench.models.loading import source_kind
from robench.objectives import facts_of
from robench.training.presets import SMALL_SETTINGS
from robench.training.types import EventWatcher, Trained, show_notes

LATER_SETTINGS = (
    "nesterov",
    "freeze",
    "accumulate",
    "swa",
    "extra",
)  # where at its default, none changes the name that an earlier version gave
TEACHER_SETTINGS: dict[str, Any] = {"objective": "standard", "reg": (), "awp": 0.0}  # how a teacher's settings differ from its student's


def teacher_path(out: Path | None, teachers: Path | None, its: Mapping[str, Any]) -> Path | None:
    """Where a teacher that is trained first is kept.

    Args:
        out: the student's FILE.pt, beside which it is FILE.teacher.pt; None: it is not kept.
        teachers: a folder in place of that, where its name is made of its settings.
        its: its settings and seed.
    """
    if teachers is None:
        return out.with_name(f"{out.stem}.teacher.pt") if out else None
    named = {key: value for key, value in its.items() if key not in LATER_SETTINGS or value != SMALL_SETTINGS.get(key)}
    words = json.dumps(checkpoint.plain_values(named), sort_keys=True)
    return teachers / f"teacher-{hashlib.sha256(words.encode()).hexdigest()[:8]}.pt"


@dataclass(frozen=True)
class Teacher:
    """The network that a training learns from; without arguments, none.

    Attributes:
        model: the network, frozen and in evaluation mode; None where nothing learns from one.
        origin: its name and the sha256 of its weights, by "name" and "sha256"; None where nothing learns from one.
        notes: sentences on how it was loaded.
    """

    model: nn.Module | None = None
    origin: dict[str, str] | None = None
    notes: Sequence[str] = ()

    @property
    def sha256(self) -> str | None:
        """The sha256 of its weights; None where nothing learns from one."""
        return self.origin["sha256"] if self.origin else None


def named_teacher(path: Path, recipes: Sequence[Recipe], student: nn.Module, about: Mapping[str, Any], images: Images) -> Teacher:
    """The teacher in a file that the user has named.

    Args:
        path: the file.
        recipes: the objective and the regularisers.
        student: the network that is trained.
        about: its description.
        images: of the training.

    Raises:
        InputError: where nothing learns from a teacher, for one of another architecture, and for one that stores class names in another
            order than those of the images.
    """
    if not any(facts_of(recipe.name).teacher or ".py:" in recipe.name for recipe in recipes):
        raise InputError(
            f"a teacher is given, but {' and '.join(recipe.label for recipe in recipes)} learns from none: leave --teacher out"
        )
    loaded = load_with_origin(path, **teacher_load_options(path, about))
    return replace(frozen_teacher(loaded.model, loaded.name, student), notes=teacher_notes(path, images, about))


def teacher_notes(teacher: Path, images: Images, about: Mapping[str, Any]) -> list[str]:
    """What is to be said of a teacher that was named; InputError where it stores class names in another order than those of the images."""
    teacher_classes = checkpoint_meta(teacher).get("classes")
    if isinstance(teacher_classes, list) and outputs_for(images.classes, teacher_classes, None, teacher.name, images.name)[0] != list(
        range(len(images.classes))
    ):
        raise InputError(f"the teacher {teacher.name} counts the classes of {images.name} in another order: train one on these images")
    sentence = f"{teacher.name} holds weights only: the teacher is taken as {about['arch']} with the student's normalisation"
    return [sentence] if "mean" in teacher_load_options(teacher, about) else []


def frozen_teacher(model: nn.Module, name: str, student: nn.Module) -> Teacher:
    """A network as a teacher, under its name; InputError where its parameters have other shapes than the student's."""
    if parameter_shapes(model) != parameter_shapes(student):
        raise InputError(
            f"the teacher {name} is not of the student's architecture and number of classes: {parameter_difference(model, student)}"
        )
    origin = {"name": name, "sha256": checkpoint.fingerprint(model.state_dict())}
    return Teacher(model.eval().requires_grad_(False), origin)


def needs_teacher(recipes: Sequence[Recipe]) -> bool:
    """Whether the objective or a regulariser of these learns from a teacher, so that one is trained where none is named."""
    return any(facts_of(recipe.name).teacher for recipe in recipes)


def own_teacher_words(place: Path | None, *, resume: bool, force: bool, watch: EventWatcher) -> dict[str, Any]:
    """The arguments `out`, `resume` and `force` of `train` for a teacher: it is trained, or taken where an earlier training has kept it.

    Args:
        place: where it is kept; None: nowhere.
        resume: whether the student's training goes on.
        force: whether the student's training replaces another.
        watch: sees a note that says which of the two it is.
    """
    there = place is not None and place.exists() and not (force and not resume)
    how = f"{place.name} serves again as the teacher" if place and there else "a network without a defence is trained first, as the teacher"
    show_notes([f"{how}; --teacher FILE names another"], watch)
    return {"out": place, "resume": resume or there, "force": force and not resume}


def trained_teacher(training: Trained, student: nn.Module) -> Teacher:
    """The teacher that a training without a defence has made.

    Args:
        training: the finished training.
        student: the network that is to learn from it.
    """
    return frozen_teacher(training.model, training.path.name if training.path else "trained first", student)


def teacher_load_options(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """What `load_with_origin` must be told of a teacher: nothing where the file says it, else what the student is: the two are of one kind.

    Code that a checkpoint names for its network is run only if the user has named code for the student.
    """
    kind, meta = source_kind(str(path)), checkpoint_meta(path)
    sizes = {"classes": about["classes"], "shape": tuple(about["shape"])}
    if meta:
        return {"arch": about["arch"]} if runs_code(str(meta["model"]["arch"])) and runs_code(about["arch"]) else {}
    if kind not in ("torch", "safetensors"):
        return sizes
    own = {} if is_foreign(about["arch"]) else {"activation": about["activation"]}
    return {"arch": about["arch"], "mean": about["mean"], "std": about["std"], **own, **sizes}


def parameter_shapes(model: nn.Module) -> list[tuple[int, ...]]:
    """The shapes of the parameters, in their order."""
    return [tuple(parameter.shape) for parameter in model.parameters()]


def parameter_difference(one: nn.Module, other: nn.Module) -> str:
    """How the parameters of two networks differ, in a few words."""
    sizes = [
        f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, {parameter_shapes(model)[-1][0]} outputs"
        for model in (one, other)
    ]
    return " against ".join(sizes)


def own_teacher_digest(meta: Mapping[str, Any], place: Path | None) -> str | None:
    """The sha256 of the teacher from which a training that names none learns: the one in `place`, or which lay there and is gone."""
    its = meta["recipe"].get("teacher") or {}
    if place is None or its.get("name") != place.name:
        return None
    return checkpoint.fingerprint(checkpoint.read_checkpoint(place)[0]) if place.exists() else its.get("sha256")


def refuse_other_teacher(meta: Mapping[str, Any], known: str | None) -> None:
    """InputError where a finished training has learnt from a teacher of other weights than those of this sha256 (None: no teacher)."""
    its = meta["recipe"].get("teacher") or {}
    if its.get("sha256") != known:
        whom = f"{its['name']} (sha256 {its['sha256'][:12]}..., not {known[:12] + '...' if known else 'none'})" if its else "no teacher"
        raise InputError(f"the finished training has learnt from {whom}: pass --force to replace it, or choose another --out")
