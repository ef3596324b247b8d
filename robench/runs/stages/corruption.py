"""A corruption at a severity: the label that a model gives each image under it, made here or read from a released set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robench.attacks.losses import margin
from robench.core.corruption_names import SEVERITIES
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.model_calls import padded_logits
from robench.core.recipes import Recipe, resolve, setting_text
from robench.corruptions import CORRUPTIONS, corrupted_images
from robench.corruptions.frost import photos_digest
from robench.runs.own_functions import is_own, own_corrupted_images
from robench.runs.stages.clean import all_images_mask, check_logits
from robench.runs.types import Case, Chunk, MakeImages, Outcome, Pixels, Pool, ReadyStage, Stage

DEFAULT_SEVERITY = 3  # where the user gives none


def corruption_stage(
    recipe: Recipe, pool: Pool, *, seed: int, device: str, clean: Stage | None, source: Stage | None = None,
    words: Mapping[str, Any] = {}, reported: bool = True,
) -> Stage:  # fmt: skip
    """All images under a corruption made here.

    Args:
        recipe: `NAME,severity=3,option=value`; severity 3 where it names none.
        pool: the images.
        seed: of the draws.
        device: where they are made.
        clean: the clean pass, or None where the clean images are not known.
        source: the stage whose images are corrupted; None for the clean ones.
        words: what the rows need to know, as in `cell_stage`.
        reported: False where the corruption only gives its images to later stages.

    Raises:
        InputError: for an unknown corruption or option.
    """
    plain, severity = recipe_and_severity(recipe)
    function = resolve(plain, CORRUPTIONS, "corruption")

    def images(places: Tensor, before: Pixels) -> Tensor:
        x = before(places)
        x = (x if x.is_floating_point() else x.float() / 255).to(device)
        ids = pool.ids[places].to(device)
        if is_own(recipe.name):
            return own_corrupted_images(function, x, severity, Draws(seed, ids, "corrupt"), recipe.label)
        return corrupted_images(x, ids, recipe.name, severity, seed=seed, **plain.options)

    on = "" if source is None else f" on {source.name}"
    stage_words = [setting_text(function), photos_digest(str(plain.options.get("photos", "")))]
    return cell_stage(
        corruption_stage_name(recipe) + on, recipe.label + on, severity, images, clean=clean, source=source, words={**words,
        "recipe": recipe},
        stage_words=stage_words, reported=reported,
    )  # fmt: skip


def cell_stage(
    name: str, corruption: str, severity: int, images: MakeImages, *, clean: Stage | None, source: Stage | None = None,
    words: Mapping[str, Any] = {}, stage_words: Sequence[str] = (), reported: bool = True, expect: Callable[[Tensor], None] | None = None,
) -> Stage:  # fmt: skip
    """A stage that asks for the labels of corrupted images.

    Args:
        name: of the stage.
        corruption: the word of the rows.
        severity: from 1 to 5.
        images: images(places, before) -> the corrupted images; `before` gives those of the source.
        clean: the clean pass, or None where the clean images are not known.
        source: the stage whose images are corrupted; None for the clean ones.
        words: what the rows need to know: setting, and data and split where these are not those of the subject.
        stage_words: what identifies the stage beside its name, for the state of a run.
        reported: False where it only gives its images to later stages.
        expect: says which places will be asked for, where the images are decoded from files.
    """
    about = {"clean": clean, "corruption": corruption, "severity": severity, **words}

    def begin(case: Case) -> ReadyStage:
        return ReadyStage(partial(corruption_outcomes, case, name, reported), str(words.get("setting", "")))

    return Stage(
        "corruption", name, begin, all_images_mask, source, images, is_reported=reported, about=about, words=stage_words, expect=expect
    )


def corruption_outcomes(case: Case, name: str, reported: bool, chunk: Chunk) -> Iterator[Outcome]:
    """Yields the labels that a model gives, and the margins where later stages begin there.

    Raises InputError where the model's logits cannot be used.
    """
    with torch.no_grad():
        logits = padded_logits(case.exact_model, chunk.x).cpu()
    check_logits(logits, chunk.y, f"images under {name}")
    more = {} if reported else {"margin": -margin(logits, chunk.y)}
    yield Outcome({"pred": logits.argmax(1), **more})


def recipe_and_severity(recipe: Recipe) -> tuple[Recipe, int]:
    """The recipe of a corruption without its severity, and the severity, 3 if the user gave none.

    Args:
        recipe: `NAME,severity=3,option=value`.
    """
    options = dict(recipe.options)
    severity = options.pop("severity", DEFAULT_SEVERITY)
    return replace(recipe, options=options), severity


def refuse_severity(recipe: Recipe, severity: object) -> None:
    """Refuses what is no severity of a corruption.

    Args:
        recipe: the corruption, for the error.
        severity: what the user wrote.

    Raises:
        InputError: for anything but a whole number from 1 to 5.
    """
    if severity not in SEVERITIES or isinstance(severity, bool):
        raise InputError(f"{recipe.label}: severity must be a whole number from 1 to 5, not {severity!r}")


def corruption_stage_name(recipe: Recipe) -> str:
    """The name of a corruption at a severity, with the options that change its pixels (scale=imagenet, photos=FOLDER)."""
    plain, severity = recipe_and_severity(recipe)
    words = ["photos" if key == "photos" else str(value) for key, value in sorted(plain.options.items()) if value not in ("", "auto")]
    return "-".join([recipe.label, str(severity), *words])


def corrupted_image_at(stage: Stage, place: int, pool: Pool) -> Tensor:
    """An image of the pool under a corruption that all subjects share, (C, H, W) float on the CPU.

    Args:
        stage: the corruption.
        place: of the image in the pool.
        pool: the images.
    """
    from robench.runs.images import stage_images

    x = stage_images(stage, torch.tensor([place]), pool, None)
    return (x if x.is_floating_point() else x.float() / 255)[0].cpu()
