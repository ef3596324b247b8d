"""What is known before the first step: images, refusals of what would end a training later, and notes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robench.attacks.kernels import compile_failure
from robench.core.draws import Draws
from robench.core.errors import AbsentDataError, InputError
from robench.core.inputs import as_seed, as_suite, as_whole_number, as_word
from robench.core.model_calls import CUT_GRAPH, freeze_model, padded_logits
from robench.core.recipes import Recipe, parse_recipe, recipe_text
from robench.core.types import Batch
from robench.data import Images, class_coverage, holdout, load_images, stratified_images
from robench.data.catalogues import readable_images_of
from robench.data.class_names import classes_by_number
from robench.data.class_names import first_class_names as few_of
from robench.data.made_images import made_images, name_of_published_set
from robench.evaluation.planning import IS_PLANNING
from robench.evaluation.plans import fetch_named_surrogates, surrogate_names
from robench.evaluation.recipe_kinds import refuse_unresolvable
from robench.evaluation.suites import suite_recipes
from robench.explainers.hooks import has_no_gradient
from robench.models.identity import code_digests, file_digest
from robench.objectives import REGULARIZERS, facts_of, refuse_unreachable, regularizer_notes, takes_input_gradient
from robench.objectives.gradients import evaluation_mode
from robench.objectives.second_order import attention_by_products, differentiates_twice, has_fused_attention, name_failing_operators
from robench.runs.stages.attack import TRANSFER
from robench.training.beginnings import (
    BEGINNING_OPTIONS,
    Beginning,
    beginning_of,
    beginning_words,
    begun_network,
    normalisation_sentence,
    overrides_from_weights,
    weights_to_begin_with,
)
from robench.training.extra_images import ImagesWithExtra, TrainingImages, training_images
from robench.training.frozen_parameters import enter_training_mode, freeze_parameters
from robench.training.presets import FINE_TUNING, default_preset
from robench.training.settings import held_out_size, loss_recipes, loss_sentences, new_network, plan_of, resolved_settings
from robench.training.steps import batch_with_logits, refuse_batch_size
from robench.training.types import TrainingPlan

HELD_OUT_ENDING = " held out"  # ends the name of held-out images that are measured


@dataclass(frozen=True)
class PreparedTraining:
    """A training that nothing refuses before its first step.

    Attributes:
        settings: the preset's with the user's on top.
        training: the images that are trained on, with extra ones where there are some.
        held_out: the images that are held out of them.
        test: the images that are measured at the end: a test split, or the held-out ones.
        few: those of them that are attacked.
        model: the network with its first weights, on the CPU.
        about: its description, from which a checkpoint rebuilds it.
        plan: the plan, without a teacher.
        notes: sentences on what it does otherwise than its words say, or adds to them.
        begins_with: what a checkpoint says of the weights that are begun with; {} for random ones.
        is_comparable: whether the network can classify before the training, so that its clean accuracy then says something.
    """

    settings: dict[str, Any]
    training: TrainingImages
    held_out: Images
    test: Images
    few: Images
    model: nn.Module
    about: dict[str, Any]
    plan: TrainingPlan
    notes: list[str]
    begins_with: Mapping[str, Any] = field(default_factory=dict)
    is_comparable: bool = False


def prepare_training(
    images: Images, test: Images | None, preset: str, overrides: Mapping[str, Any], *, seed: int, suite: str | Sequence[Recipe],
    eval_n: int, processes: int = 1, download: bool = False, beginning: Beginning | None = None,
    data_options: Mapping[str, Any] | None = None,
) -> PreparedTraining:  # fmt: skip
    """A training as far as that goes before its first step.

    Whatever would end it is refused here, before hours are spent on a teacher.

    Args:
        images: all images of the training; the held-out ones come out of them.
        test: the images of the test split; None where held-out images are measured.
        preset: the name of the preset.
        overrides: settings on top of it.
        seed: of the held-out images, of the first weights and of the training.
        suite: what is run at the end.
        eval_n: how many images are attacked then.
        processes: how many share each batch.
        download: whether weights of models that attacks in the suite name may be fetched.
        beginning: the weights that are begun with; None for random ones.
        data_options: DATA_OPTIONS, with which extra images are read.

    Raises:
        InputError: one sentence, for the first thing that cannot be.
    """
    found = None if beginning is None else weights_to_begin_with(beginning, overrides, preset, images)
    overrides = overrides if found is None else overrides_from_weights(found, overrides)
    settings, notes = resolved_settings(preset, overrides, is_begun=found is not None)
    notes += [] if found or preset != FINE_TUNING else ["the preset fine-tune begins with random weights, as --init names no others"]
    settings["held_out"], more = held_out_size(settings["held_out"], len(images), overrides.get("held_out") is not None)
    notes += [*more, *images.notes, *class_order_notes(images)]
    if settings["compiled"] and (why := compile_failure()):
        settings["compiled"], notes = False, [*notes, f"{why}: the training runs without it"]
    training, held_out = holdout(images, settings["held_out"], seed)
    test = held_out_as_test(held_out) if test is None or test.split == "all" else test
    refuse_other_shape(images, test)
    few = stratified_images(test, eval_n, seed) if test.name.endswith(HELD_OUT_ENDING) else test.take(slice(0, eval_n))
    notes += missing_class_notes(training, few)
    refuse_too_little(training, settings)
    joined, extra_notes = training_images(training, settings, images_of_split, data_options or {})
    notes += extra_notes
    begun = None
    if found is None or beginning is None:
        model, about, more = new_network(settings, training, seed)
    else:
        begun, about = begun_network(found, settings, training, seed, beginning.new_head)
        settings["normalize"] = normalisation_sentence(begun.mean, begun.std)
        model, more = begun.network, [*begun.notes]
    notes += more
    freeze_parameters(model, settings["freeze"])
    plan = plan_of(settings, seed, None)
    recipes = loss_recipes(settings)
    refuse_unreachable(recipes, plan.threat, images.shape)
    refuse_batch_size(model, plan, processes)
    attacks = suite_recipes(suite, plan.threat.norm) if isinstance(suite, str) else suite
    refuse_unresolvable(attacks, "robench")
    fetch_named_surrogates(attacks, download=download)
    notes += [
        *penalty_notes(settings["reg"], model, training),
        *cut_notes(recipes, model, training),
        *attention_notes(model, training, plan),
    ]
    refuse_penalty_options(settings["reg"], model, training, plan)
    begins_with = beginning_words(found, beginning)
    is_comparable = begun is not None and not begun.is_new
    return PreparedTraining(settings, joined, held_out, test, few, model, about, plan, notes, begins_with, is_comparable)


def refuse_untrainable(cells: Mapping[str, Mapping[str, Any]], words: Mapping[str, Any], preset: str | None) -> None:
    """Refuses a sweep in which one of the trainings would be refused before its first step, so that none is begun.

    Args:
        cells: the overrides of each training, by the name that the sentence of refusal gives it.
        words: the other arguments of `train`.
        preset: the name of the preset; None for the one of the images.

    Raises:
        InputError: with the name of the cell that cannot be trained.
    """
    data_options = {key: words[key] for key in DATA_OPTIONS}
    images = images_of_split(words["data"], "train", words["n_train"], words["seed"], **data_options)
    test = None if words["measure"] == "held-out" else images_of_split(words["data"], "test", **data_options)
    beginning = beginning_of(*(words.get(key) for key in BEGINNING_OPTIONS), download=words["download"])
    name, suite = preset or (default_preset(images.shape) if beginning is None else FINE_TUNING), as_suite(words["suite"])
    earlier_overrides: list[dict[str, Any]] = []
    for setting, cell in cells.items():
        overrides = {key: value for key, value in cell.items() if key != "seed"}
        if overrides not in earlier_overrides:
            try:
                prepare_training(
                    images,
                    test,
                    name,
                    overrides,
                    seed=words["seed"],
                    suite=suite,
                    eval_n=words["eval_n"],
                    download=words["download"],
                    beginning=beginning,
                    data_options=data_options,
                )
            except InputError as error:
                raise InputError(f"the cell {setting} cannot be trained: {error}") from error
        earlier_overrides.append(overrides)


def initial_meta(
    prepared: PreparedTraining, images: Images, preset: str, *, suite: str | Sequence[Recipe], **choices: Any
) -> dict[str, Any]:
    """What a checkpoint says of its training, as far as it is known before the teacher is.

    Args:
        prepared: the training.
        images: all its images, those that are held out among them.
        preset: the name of its preset.
        suite: what is run at the end.
        choices: the seed, and the other arguments of `train` by which two trainings differ.
    """
    settings = prepared.settings
    return {
        "model": prepared.about,
        "data": {
            "name": images.name, "n": len(prepared.training), "held_out": len(prepared.held_out), "sha256": images.sha256,
            **meta_of_test_set(prepared.test),
            **({"extra": prepared.training.words()} if isinstance(prepared.training, ImagesWithExtra) else {}),
        },
        "preset": preset,
        "recipe": {
            **settings, "reg": list(settings["reg"]), **choices, **prepared.begins_with,
            "suite": suite if isinstance(suite, str) else list(map(sentence_of, suite)),
            **named_file_digests(loss_sentences(settings), suite),
        },
    }  # fmt: skip


def data_arguments(data: Any, seed: Any, n_train: Any, eval_n: Any) -> tuple[str, int, int | None, int]:
    """The data set, the seed, how many images are trained on, None for all, and how many are attacked; InputError for what is none."""
    image_count = None if n_train is None else as_whole_number(n_train, "n_train", 1)
    return as_word(data, "data"), as_seed(seed), image_count, as_whole_number(eval_n, "eval_n", 1)


def refuse_other_choice(name: str, value: str, choices: tuple[str, str]) -> None:
    """InputError where an option is neither of its two values."""
    if value not in choices:
        raise InputError(f"{name} is {choices[0]!r} or {choices[1]!r}, not {value!r}")


DATA_OPTIONS = (
    "data_dir",
    "download",
    "image_size",
    "resize",
    "interpolation",
    "pixels",
    "workers",
    "skip_damaged",
    "layout",
)  # of `train`


def images_of_split(data: str, split: str, n: int | None = None, seed: int = 0, *, preset: str | None = None, **shown: Any) -> Images:
    """The images of a training: of "train" all, or n with the same share of each class; of "test" all.

    Where a training is only planned and a known data set is not there, made images of its shape stand in.

    Args:
        data: the name of a data set, as `--data` takes it.
        split: "train" or "test".
        n: how many are drawn; None for all.
        seed: of the draw.
        preset: of the training, which tells what a set that is not there would hold, where its name does not.
        shown: DATA_OPTIONS, as `train` takes them.

    Raises:
        InputError: for a data set that is unknown, is not there, or cannot be read.
    """
    order = "text" if data.startswith("folder:") else None  # a checkpoint stores the names of its classes
    try:
        return readable_images_of(load_images(data, split, n=n, seed=seed, by_class=split == "train", class_order=order, **shown))
    except AbsentDataError:
        known = name_of_published_set(data, preset) if IS_PLANNING.get() else None
        if known is None:
            raise
        return made_images(known, data, split, n, shown.get("image_size") or shown.get("resize"))


def held_out_as_test(held_out: Images) -> Images:
    """The held-out images in place of a test split; InputError where none are held out."""
    if len(held_out) == 0:
        raise InputError(
            f"{held_out.name} has no test split to measure on, or is not to be measured on it: hold out images with --held-out N"
        )
    return replace(held_out, name=f"{held_out.name}{HELD_OUT_ENDING}")


def class_order_notes(images: Images) -> list[str]:
    """A note where numbered classes count in an order that a reader may not expect."""
    sentence = f"the numbered classes of {images.name} count in text order, as in torchvision's ImageFolder"
    return (
        [f"{sentence}: {few_of(images.classes)}"]
        if images.name.startswith("folder:") and classes_by_number(images.classes) != images.classes
        else []
    )


def missing_class_notes(training: Images, few: Images) -> list[str]:
    """Notes where some classes have no image among those of the training, or among those that are attacked at the end."""
    lacks = class_coverage(training.y, training.classes), class_coverage(few.y, few.classes)
    phrase = f"the {len(few)} images that are attacked" if len(few) > 1 else "the one image that is attacked"
    return [
        *([f"the {len(training)} training images hold {lacks[0]}"] if lacks[0] else []),
        *([f"{phrase} at the end {'hold' if len(few) > 1 else 'holds'} {lacks[1]}; --eval-n chooses more"] if lacks[1] else []),
    ]


def refuse_too_little(training: Images, settings: Mapping[str, Any]) -> None:
    """InputError where the images do not fill a batch, or are all of one class."""
    if len(training) < settings["batch_size"]:
        raise InputError(
            f"{len(training)} training images are fewer than one batch of {settings['batch_size']}: lower --batch-size or --held-out"
        )
    if len(training.y.unique()) < 2:
        raise InputError(f"all {len(training)} training images are of one class: a classifier needs at least two")


def refuse_other_shape(training: Images, test: Images) -> None:
    """InputError where the images that are measured differ in shape from those of the training."""
    if test.shape == training.shape:
        return
    (channels, *size), (others, *other) = training.shape, test.shape
    sentence = f"training images of {training.name} are {channels}x{size[0]}x{size[1]}, test images {others}x{other[0]}x{other[1]}"
    how = "bring them to one size with --image-size" if channels == others else "give all the same number of channels"
    raise InputError(f"{sentence} (channels x height x width): {how}")


def refuse_penalty_options(reg: Sequence[str], model: nn.Module, images: Images, plan: TrainingPlan) -> None:
    """InputError for an option of our regularisers that only their call refuses: each is called with two images, the student as teacher.

    Those of the user's files are left alone, for they may keep a state or need more images.
    """
    ours = [recipe.label for recipe in map(parse_recipe, reg) if ".py:" not in recipe.name]
    if not ours:
        return
    some = images.take(slice(0, 2))
    student, teacher = copy.deepcopy(model), copy.deepcopy(model).eval().requires_grad_(False)
    enter_training_mode(student, plan.freeze)
    x, draws = some.pixels(slice(None)), Draws(plan.seed, some.ids, "words")
    batch = Batch(x, some.y, x.clone().requires_grad_(), x.new_empty(0), some.ids, 0.0, draws, teacher=teacher, threat=plan.threat)
    with torch.random.fork_rng(devices=[]), attention_by_products(differentiates_twice(plan.regularizers)):
        full_batch = batch_with_logits(student, batch)
        with name_failing_operators(full_batch.logits):
            for label in ours:
                plan.regularizers[label][1](student, full_batch)


def penalty_notes(reg: Sequence[str], model: nn.Module, images: Images) -> list[str]:
    """What is to be said of the regularisers of this model; InputError for an option that changes nothing with its number of logits."""
    if not reg:
        return []
    with freeze_model(model), torch.no_grad():
        return regularizer_notes(reg, padded_logits(model, images.pixels(torch.arange(1))).shape[1])


def cut_notes(recipes: Sequence[Recipe], model: nn.Module, images: Images) -> list[str]:
    """A note where the logits have no gradient by the images; InputError where a recipe of the loss needs it, or the weights have none."""
    x = images.pixels(slice(0, 2))
    with evaluation_mode(model):
        if not has_no_gradient(model, x):
            return []
        with torch.enable_grad():
            trains = model(x).requires_grad
    if not trains:
        raise InputError("the logits have no gradient by the weights: nothing can be trained; change its forward")
    if blind := [recipe.label for recipe in recipes if takes_input_gradient(recipe)]:
        need = "needs" if len(blind) == 1 else "need"
        others = " and ".join(name for name in REGULARIZERS if not facts_of(name).input_gradient)
        raise InputError(
            f"the logits have no gradient by the images, and {' and '.join(blind)} {need} it: change its forward, "
            f"or train with --objective standard and no regulariser but {others}"
        )
    return [CUT_GRAPH]


def attention_notes(model: nn.Module, images: Images, plan: TrainingPlan) -> list[str]:
    """A note where fused attention of the network gives way to one that has a second derivative."""
    if not differentiates_twice(plan.regularizers):
        return []
    with evaluation_mode(model):
        fused = has_fused_attention(model, images.pixels(slice(0, 2)))
    sentence = "its attention runs as matrix products: the regularisers differentiate the network twice, which fused kernels do not allow"
    return [sentence] if fused else []


def meta_of_test_set(test: Images) -> dict[str, str]:
    """What a training says of the test images that it is measured on; nothing of held-out ones, which are training images."""
    return {} if test.name.endswith(HELD_OUT_ENDING) else {"test_sha256": test.sha256}


def sentence_of(recipe: Recipe) -> str:
    """A recipe as it is written, without the folders of a user's file."""
    return recipe_text(replace(recipe, name=recipe.label))


def named_file_digests(loss: Sequence[str], suite: str | Sequence[Recipe]) -> dict[str, dict[str, str]]:
    """The sha256 of the files that the loss and the attacks name.

    Args:
        loss: the objective and the regularisers, as they are written.
        suite: the attacks; a named suite names no file.

    Returns:
        The digests by file, under "code" of the user's own functions, under "surrogates" of models that attacks transfer from; neither
        where there is none.
    """
    attacks = [] if isinstance(suite, str) else suite
    own = [recipe.name for recipe in attacks if not recipe.name.startswith(TRANSFER)]
    digests = {
        "code": code_digests(*loss, *own),
        "surrogates": {Path(model).name: file_digest(Path(model)) for model in surrogate_names(attacks)},
    }
    return {key: files for key, files in digests.items() if files}
