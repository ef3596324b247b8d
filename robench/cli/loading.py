"""Models and images by the words of the command line: found, read, tried out, under names and labels that fit together."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robench.cli.console import print_message, print_to_stderr
from robench.cli.options import CommonOptions
from robench.core.errors import InputError
from robench.core.preprocessing import Preprocessing, UnofferedPreprocessingError, chosen_preprocessing
from robench.core.recipes import eps_text

if TYPE_CHECKING:
    from torch import Tensor

    from robench.data import Images
    from robench.data.class_names import LabelMapping
    from robench.models import LoadedModel
    from robench.runs.types import Subject as Measured

BATCH_SIZE, LEAST_BATCH = 250, 16  # images in one batch where the user does not say it, and where they are large
LARGEST_BATCH = 64 * 3 * 224 * 224  # numbers of pixels in such a batch: an attack keeps about ten copies of them
LEAST_THREADS = 64  # that any machine may be asked for
SIZE_OPTIONS = ("image_size", "resize", "interpolation")
DEFAULT_IMAGE_LIMIT = 500  # images, where the user does not say how many


@dataclass(frozen=True)
class LoadedSubject:
    """A model with the images on which it is measured, and its threats.

    Attributes:
        loaded: the model, its name and what its checkpoint says.
        images: the images; their labels count the model's outputs.
        norm: norm of the threats: the user's, else the checkpoint's, else linf.
        radii: radii of the threats in ascending order, from the same sources, else 8/255.
        device: the device that torch uses.
        classes: the option --classes, by which labels were found; see `label_mapping_for`.
    """

    loaded: LoadedModel
    images: Images
    norm: str
    radii: tuple[float, ...]
    device: str
    classes: str | None = None

    def run_subject(self, first: Images | None = None) -> Measured:
        """The model as a run knows it.

        Args:
            first: the images of the run, where they may have other pixels than those of this model.
        """
        from robench.core.rows import Row
        from robench.runs.types import Subject as Measured

        one, images = self.loaded, self.images
        about = Row(one.name, one.meta.get("preset", ""), images.name, images.split, 0, 0, "", 0.0, "", "", "", 0.0)
        return Measured(one.model, about, one.sha256, one.architecture, None if first is None or images is first else images)


def load_subjects(models: Sequence[str], norm: str | None, radii: tuple[float, ...] | None, common: CommonOptions) -> list[LoadedSubject]:
    """The models with their images and threats.

    Several models get the same images: the first that names a data set decides where the user did not.

    Args:
        models: the models, as the command line spells them.
        norm: norm of the attacks, None for that of the checkpoint.
        radii: radii of the attacks, None for that of the checkpoint.
        common: options that every measuring command has.

    Raises:
        InputError: where a model, an image or a label cannot be used, and for a radius that no image could need.
    """
    from robench.core.threat import Threat, refuse_too_large_eps
    from robench.data.class_names import class_order_for
    from robench.models import checkpoint_meta

    on = set_up_device(common.device, common.threads)
    metas = [checkpoint_meta(model) for model in models]
    threats = [norm_and_radii(meta.get("recipe", {}), norm, radii, Path(model).name) for meta, model in zip(metas, models, strict=True)]
    for its_norm, its_radii in threats:
        for eps in its_radii:
            refuse_too_large_eps(Threat(its_norm, eps), None)
    choice, data = common.image_options(), common.data or training_data_name(metas)
    asked = asked_labels(common)
    choice["class_order"] = class_order_for(data, models, metas, asked.order, asked.way, asked.label_map)
    each, notes = images_of_models(models, data, choice, common)
    for (its_norm, its_radii), its_images in zip(threats, each, strict=True):
        refuse_too_large_eps(Threat(its_norm, max(its_radii)), its_images.shape)
    loaded, each, _ = labelled_models(models, each, asked, notes, on, common)
    return [LoadedSubject(one, its, *threat, on, asked.way) for one, its, threat in zip(loaded, each, threats, strict=True)]


@dataclass(frozen=True)
class AskedLabels:
    """What the user said of labels and outputs.

    Attributes:
        way: --classes: "by-name" or "as-is"; None where nothing was said, as in what follows.
        order: --class-order.
        label_map: what --label-map holds.
        outputs: --outputs.
    """

    way: str | None
    order: str | None
    label_map: Mapping[str, str] | None
    outputs: str | None


def asked_labels(common: CommonOptions) -> AskedLabels:
    """What the user said of labels and outputs; InputError for a label map that cannot be read."""
    from robench.data.label_maps import read_label_map

    label_map = None if common.label_map is None else read_label_map(common.label_map)
    return AskedLabels(common.classes, common.class_order, label_map, common.outputs)


def labelled_models(
    models: Sequence[str], each: Sequence[Images], asked: AskedLabels, notes: Sequence[str], on: str, common: CommonOptions,
    y: Tensor | None = None,
) -> tuple[list[LoadedModel], list[Images], LabelMapping]:  # fmt: skip
    """The models, each with its images under the labels that its outputs have, and where the labels of the data went.

    Args:
        models: the models, as the command line spells them.
        each: for each model its images, under the labels of the data.
        asked: what the user said of labels and outputs.
        notes: what is told with the notes of the models.
        on: the device for the models.
        common: options that every measuring command has.
        y: labels of all images that will be measured, where `each` holds a few of them.

    Raises:
        InputError: where a model or a label cannot be used.
    """
    from robench.data.class_names import provisional_labels
    from robench.models import checkpoint_meta
    from robench.models.output_choice import labels_of_models, with_chosen_outputs, without_count_notes

    first, way, order = each[0], asked.way, asked.order
    before = provisional_labels(first.classes, first.name, models, [checkpoint_meta(one) for one in models], way, order, asked.label_map)
    loaded = opened_models(models, relabelled_images(each, before), on, common)
    loaded = [without_count_notes(one, len(before.classes)) for one in loaded]
    labels = labels_of_models(first.classes, first.name, models, loaded, way, order, asked.label_map)
    loaded, labels = with_chosen_outputs(loaded, labels, asked.outputs, first.outputs, first.name)
    seen = first.y if y is None else y
    missing = seen if len(labels.classes) == len(first.classes) else None  # of a part of a model's classes nothing is missed
    each = relabelled_images(each, labels)
    return told_models(loaded, each, [*notes, *labels.notes], on, common, missing), each, labels


def relabelled_images(each: Sequence[Images], labels: LabelMapping) -> list[Images]:
    """The images of each model as its outputs count them; those of several models that are the same stay the same."""
    relabelled = {id(one): one.with_labels(labels.outputs, labels.classes) for one in each}
    return [relabelled[id(one)] for one in each]


def images_of_models(models: Sequence[str], data: str, choice: dict[str, Any], common: CommonOptions) -> tuple[list[Images], list[str]]:
    """The images of each model, resized and cut as it says or as the options say, and notes; read once for each way to do that.

    Raises InputError where what a model says cannot be done.
    """
    if not models:
        images = images_by_options(data, seed=common.seed, **choice)
        print_image_notes(images, common.quiet)
        return [images], []
    rest = {name: value for name, value in choice.items() if name not in SIZE_OPTIONS}
    ways, notes = ways_of_models(models, choice, common.download)
    by_way = {how: images_by_options(data, seed=common.seed, preprocessing=how, **rest) for how in dict.fromkeys(ways)}
    first = by_way[ways[0]]
    print_image_notes(first, common.quiet)
    notes += [f"images are resized and cut as {how.origin} says: {how.words()}" for how in by_way if how and how.origin != "the options"]
    if len(by_way) > 1:
        if any(one.ids.tolist() != first.ids.tolist() for one in by_way.values()):
            raise InputError("the models take images of different sizes, and not the same images can be read for all: measure them apart")
        notes.append(
            "the models are shown the same images resized and cut each in its own way: what is compared is matched by the image's id"
        )
    return [by_way[how] for how in ways], list(dict.fromkeys(notes))


def ways_of_models(models: Sequence[str], choice: dict[str, Any], download: bool) -> tuple[list[Preprocessing | None], list[str]]:
    """How the images of each model are resized and cut, by what it says and by the options, which win, and notes; of no model the options.

    Args:
        models: the models, as the command line spells them.
        choice: options that choose images.
        download: whether descriptions that are missing may be fetched.

    Raises:
        InputError: where what a model says cannot be done.
    """
    sizes = {name: choice[name] for name in SIZE_OPTIONS}
    chosen = [way_of_model(model, sizes, download) for model in models] or [chosen_preprocessing(None, **sizes)]
    return [how for how, _ in chosen], list(dict.fromkeys(note for _, note in chosen if note))


def way_of_model(model: str, sizes: dict[str, Any], download: bool) -> tuple[Preprocessing | None, str]:
    """How the images of a model are resized and cut, and a note where the options win; they also take the place of what is not offered."""
    from robench.models.preprocessing import model_preprocessing

    try:
        return chosen_preprocessing(model_preprocessing(model, download=download), **sizes)
    except UnofferedPreprocessingError as error:
        if sizes["image_size"] is None:
            raise
        return chosen_preprocessing(None, **sizes)[0], f"{str(error).rpartition(': ')[0]}; the options win"


def training_data_name(metas: Sequence[dict[str, Any]]) -> str:
    """The data set that a checkpoint among these was trained on; InputError where none says so."""
    name = next((str(meta["data"]["name"]) for meta in metas if meta.get("data", {}).get("name")), None)
    if not name:
        raise InputError("which images? The model does not say what it was trained on: pass --data NAME (see 'robench list data')")
    if ".py:" in name:  # no file may start code by itself
        raise InputError(f"which images? The model was trained on those of {name}, which runs code: name it yourself, with --data {name}")
    return name


def images_by_options(
    name: str, *, split: str, n: int | None, indices: Path | None, **how: Any
) -> Images:  # fmt: skip
    """The images that the user's options name; `how` are further arguments of `load_images`."""
    from robench.data import load_images

    at_most = DEFAULT_IMAGE_LIMIT if n is None and indices is None else None
    return load_images(name, split, n=n or None, at_most=at_most, indices=indices, **how)


def print_image_notes(images: Images, quiet: bool) -> None:
    """Says how the images were read, before anything can be refused for that."""
    for note in images.notes:
        print_message(f"Note: {note}", quiet)


def opened_models(models: Sequence[str], each: Sequence[Images], device: str, common: CommonOptions | None) -> list[LoadedModel]:
    """The models, tried on such images, under names that tell them apart.

    Args:
        models: the models, as the command line spells them.
        each: for each model images of the shape and classes that will be measured.
        device: the device for the models.
        common: options that say how they are loaded; None for none.

    Raises:
        InputError: where a model cannot be loaded, does not fit the images, or is named twice.
    """
    from robench.data.label_maps import stray_class_text
    from robench.models import load_with_origin

    how = {} if common is None else common.loading_options()
    try:
        loaded = [
            load_with_origin(model, classes=len(its.classes), shape=its.shape, device=device, **how)
            for model, its in zip(models, each, strict=True)
        ]
    except InputError as error:
        if stray := stray_class_text(each[0].classes, each[0].name):
            raise InputError(f"{error}; {stray}") from error
        raise
    return uniquely_named_models(models, loaded)


def told_models(
    loaded: Sequence[LoadedModel], each: Sequence[Images], noticed: Sequence[str], device: str, common: CommonOptions, y: Tensor | None
) -> list[LoadedModel]:
    """The models with all that was noticed about them and their images; prints these notes and flags.

    Args:
        loaded: the models.
        each: for each model its images, as its outputs count them.
        noticed: notes that are told with those of the models.
        device: the device of the models.
        common: options that every measuring command has.
        y: labels of the images that will be measured, where classes without an image are to be told.
    """
    images, notes = each[0], list[str]()
    if images.split != common.split:
        notes.append(f"{images.name} has no {common.split} split: all its images are used, also those a model may have been trained on")
    if y is not None and (sentence := missing_classes_note(y, images.classes)):
        notes.append(sentence)
    models = [
        replace(one, notes=(*one.notes, *notes, *noticed, *normalisation_notes(one, its, device)))
        for one, its in zip(loaded, each, strict=True)
    ]
    for note in dict.fromkeys(note for one in models for note in one.notes):
        print_message(f"Note: {note}", common.quiet)
    for flag in dict.fromkeys(flag for one in models for flag in one.flags):
        print_to_stderr(f"Flag: {flag}")
    return [replace(one, notes=(*one.notes, *images.notes)) for one in models]  # which `print_image_notes` has told


def missing_classes_note(y: Tensor, classes: Sequence[str]) -> str:
    """A sentence where classes have no image among those with labels y; "" where each has one."""
    from robench.data import class_coverage

    coverage = class_coverage(y, classes)
    those = "the one image holds" if len(y) == 1 else f"the {len(y)} images hold"
    return f"{those} {coverage}: --n takes more of them, --shuffle any instead of the first" if coverage else ""


def normalisation_notes(one: LoadedModel, images: Images, device: str) -> list[str]:
    """A note where a model that was given without a normalisation is clearly better with a usual one; a checkpoint knows its own."""

    from robench.models.forgotten_normalisation import NORMALISATION_IMAGES, forgotten_normalisation_notes, normalises

    if one.meta or normalises(one.model):
        return []
    few, pixels = images.first_readable(NORMALISATION_IMAGES)
    try:
        return forgotten_normalisation_notes(one.model, one.name, pixels.to(device), images.y[few])
    except (
        MemoryError,
        RuntimeError,
    ):  # a model may refuse other pixels than those in [0, 1]; what else is wrong shows when it is measured
        return []


def norm_and_radii(recipe: dict[str, Any], norm: str | None, radii: tuple[float, ...] | None, model: str) -> tuple[str, tuple[float, ...]]:
    """The norm and the radii: the user's, then those of the checkpoint's training, then linf 8/255.

    InputError for a norm without a radius where the radius that is known belongs to another norm.
    """
    from robench.core.threat import NORMS

    its_norm, eps = recipe.get("norm", "linf"), recipe.get("eps", 8 / 255)
    threat_norm = norm or its_norm
    if not radii and threat_norm in NORMS and threat_norm != (its_norm if "eps" in recipe else "linf"):
        reason = (
            f"{model} was trained with {its_norm} eps {eps_text(eps)}" if "eps" in recipe else f"the default {eps_text(eps)} is of linf"
        )
        raise InputError(f"which radius in {threat_norm}? {reason}, which says nothing about {threat_norm}: pass --eps")
    return threat_norm, tuple(sorted(set(radii or (eps,))))


def uniquely_named_models(sources: Sequence[str], loaded: Sequence[LoadedModel]) -> list[LoadedModel]:
    """The models, under names of their own: where two files have one name, with enough folders to tell them apart. InputError for twins."""
    if len(set(sources)) < len(sources):
        raise InputError("a model is named twice: name each one once")
    names = [one.name for one in loaded]
    for depth in range(2, 64):
        if len(set(names)) == len(names):
            break
        clash = [name for name in names if names.count(name) > 1]
        names = ["/".join(Path(s).parts[-depth:]) if n in clash else n for s, n in zip(sources, names, strict=True)]
    return [replace(one, name=name) for one, name in zip(loaded, names, strict=True)]


def set_up_device(device: str, threads: int | None) -> str:
    """The device that torch shall use; "auto" takes the first of cuda, mps, cpu. Settles the process: its CPU threads, and its memory."""
    import torch

    from robench.core.memory import keep_freed_memory

    keep_freed_memory()
    if threads:
        most = max(LEAST_THREADS, 4 * (os.cpu_count() or 1))
        if threads > most:  # torch takes any number, and ends the process where the system has not so many
            raise InputError(f"--threads {threads} is more than is sensible on this machine: at most {most} are taken")
        torch.set_num_threads(threads)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, present in there.items() if present)
        return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device
    kind = device.partition(":")[0]
    if kind not in there:
        raise InputError(f"unknown device {device!r}: choose one of auto, cpu, cuda, mps")
    if not there[kind]:
        raise InputError(f"there is no {kind} device here: leave --device out, or pass --device cpu")
    return device


def quickest_batch_size(model: LoadedModel, images: Images, device: str) -> int:
    """The batch size beyond which a model grows no quicker on such images."""

    from robench.models.stand_ins import fitting_batch_size

    return fitting_batch_size(model.model, images.first_readable(1)[1].to(device), device, most=len(images))


def usual_batch_size(images: Images) -> int:
    """How many images a batch has where the user does not say it: BATCH_SIZE, fewer where they are large, 64 of 224 pixels.

    Args:
        images: those that are measured.
    """
    return min(BATCH_SIZE, max(LEAST_BATCH, LARGEST_BATCH // math.prod(images.shape)))


def loading_notes(what: Sequence[LoadedSubject]) -> list[str]:
    """What was noticed as the models were loaded, each sentence once."""
    return list(dict.fromkeys(note for one in what for note in one.loaded.notes))


def loading_flags(what: Sequence[LoadedSubject]) -> list[str]:
    """What makes the numbers of the models doubtful, as far as it showed when they were loaded, each sentence once."""
    return list(dict.fromkeys(flag for one in what for flag in one.loaded.flags))


def checkpoint_words(found: Sequence[LoadedModel]) -> Any:
    """What the manifest says of one model, or a list of that for several."""
    each = [{"name": o.name, "sha256": o.sha256, "preset": o.meta.get("preset", ""), "architecture": dict(o.architecture)} for o in found]
    return each[0] if len(each) == 1 else each


def with_training(words: Any, found: Sequence[LoadedModel]) -> Any:
    """`checkpoint_words` with what each checkpoint says of its training: for the manifest alone, so that older states go on."""
    from robench.models.checkpoint import training_words

    each = words if isinstance(words, list) else [words]
    more = [{**one, **({"training": told} if (told := training_words(o.meta)) else {})} for one, o in zip(each, found, strict=True)]
    return more[0] if len(more) == 1 else more


def refuse_other_orders(classes: Sequence[str], others: Sequence[str], way: str | None, what: str) -> None:
    """InputError where a checkpoint among `others`, which gets the same labels, counts these classes (by output) otherwise."""
    from robench.data.class_names import outputs_for, stored_class_names
    from robench.models import checkpoint_meta

    for other in others:
        names = stored_class_names(checkpoint_meta(other))
        if outputs_for(classes, names, way, Path(other).name, "the data")[0] != list(range(len(classes))):
            raise InputError(f"the {what} {Path(other).name} does not count the classes as the model does: its labels would be wrong")
