"""A probe: every level on all the images that a model gets right, each level for itself; probes have no radius and make no cascade."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from torch import Tensor

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import Recipe, resolve, setting_text
from robench.probes import PROBES, Probe
from robench.runs.ledger import Ledger
from robench.runs.own_functions import probe_levels
from robench.runs.types import Case, Chunk, Outcome, ReadyStage, Stage


def probe_stage(recipe: Recipe, *, clean: Stage, source: Stage | None = None, reported: bool = True) -> Stage:
    """One probe with all its levels.

    Args:
        recipe: the probe.
        clean: the clean pass.
        source: the stage whose images are probed; None for the clean ones.
        reported: False where the probe only gives the images of its one level to later stages.

    Raises:
        InputError: for an unknown probe, and for an option that it does not have.
    """
    function: Probe = resolve(recipe, PROBES, "probe")
    name = recipe.label if source is None else f"{recipe.label} on {source.name}"

    def begin(case: Case) -> ReadyStage:
        return ReadyStage(partial(probe_outcomes, case, stage, recipe.label, function), setting_text(function))

    def on(ledger: Ledger, subject: str) -> Tensor:
        return ledger.was_tried(subject, stage)

    about = {"clean": clean, "recipe": recipe}
    stage = Stage(
        "probe", name, begin, on, source, keeps_images=not reported, is_reported=reported, about=about, words=[setting_text(function)]
    )
    return stage


def probe_outcomes(case: Case, stage: Stage, label: str, function: Probe, chunk: Chunk) -> Iterator[Outcome]:
    """Yields what each level did to images that are right.

    A stage that later ones build on must have one level, of which they get the images of the first draw.
    """
    draws = Draws(case.seed, chunk.ids.to(case.device), label)
    last, settings = None, set[str]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        for level in probe_levels(function, case.exact_model, chunk.x, chunk.y.to(case.device), draws, label):
            settings.add(level.setting)
            if stage.keeps_images and len(settings) > 1:
                raise InputError(f"{label} has several levels ({', '.join(sorted(settings))}): choose one, such as random-noise,t=0.1")
            if last is not None:
                yield last
            columns = {
                "fell": level.fooled.cpu().bool(), "share": level.share.cpu().double(), "forwards": level.forwards.cpu(),
                "backwards": level.backwards.cpu(),
            }  # fmt: skip
            keeps_images = level.repeat == 0 and (stage.keeps_images or case.saves_made_images)
            last = Outcome(columns, level.setting, level.repeat, level.x if keeps_images else None)
    refuse_other_levels(case, stage, label, settings)
    sentences = list(dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, RuntimeWarning)))
    if last is not None:
        yield replace(last, extras={"warnings": sentences} if sentences else {})


def refuse_other_levels(case: Case, stage: Stage, label: str, settings: set[str]) -> None:
    """Raises InputError where a probe yields other levels for one batch than for another: their rates would be of different images."""
    earlier_settings = {level for level, _ in case.ledger.levels(case.name, stage)}
    if earlier_settings and earlier_settings != settings:
        other = ", ".join(sorted(earlier_settings ^ settings))
        raise InputError(f"probe {label!r} yields other levels for one batch than for another ({other}): they may not depend on the images")
