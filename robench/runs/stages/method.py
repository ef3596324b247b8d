"""A saliency method with the scores of its maps, on the images as they are or as an earlier stage has left them."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.facts import facts_above
from robench.core.inputs import dtype_name
from robench.core.model_calls import CUT_GRAPH, are_probabilities
from robench.core.recipes import Recipe, lookup, options_of, recipe_text, resolve, setting_text
from robench.core.rows import CLEAN
from robench.core.types import Explain, ExplainedImages
from robench.explainers import EXPLAINERS, MethodFacts, chosen_layer, explainable_model
from robench.runs.images import image_json
from robench.runs.ledger import Ledger
from robench.runs.own_functions import is_own, method_on_copies, restore_weights, score_on_copies, weight_copies
from robench.runs.stages.clean import check_logits
from robench.runs.store import make_array_file, write_array_rows
from robench.runs.types import Case, Chunk, Outcome, ReadyStage, Stage
from robench.scores import GROUPS, SCORES, score_facts
from robench.scores.geometry import jacobian_geometry
from robench.scores.inequality import lorenz_heights, map_sizes

JACOBIAN = "jacobian"  # the rows of scores that belong to the model and to no method
GALLERY_IMAGES = 8  # how many images the gallery shows
LORENZ_POINTS = 101  # of a Lorenz curve
Score = Callable[[ExplainedImages], Tensor]
MapPaths = Callable[[str, str], Path | None]  # (subject, method) -> the file that takes the maps of the clean images


def method_stage(
    recipe: Recipe, scores: Sequence[Recipe], *, clean: Stage, source: Stage | None = None, target: str | int = "true",
    channels: str = "none", changes: Sequence[Stage] = (), save: MapPaths = lambda *_: None,
) -> Stage:  # fmt: skip
    """The maps of one method with their scores.

    Args:
        recipe: the method.
        scores: recipes of the scores.
        clean: the clean pass.
        source: the stage whose images are explained: of an attack those that fell, else those that were right before; None explains all
            images as they are.
        target: which logit is explained: "true", "predicted" (on the images that are explained), or the number of a class.
        channels: "none" counts every subpixel for itself; "sum", "max" or "mean" puts the sizes of a pixel's channels together first.
        changes: the stages that change the images, of which the pictures show the first.
        save: save(subject, method) -> the file that takes the maps of the clean images, or None.

    Raises:
        InputError: for an unknown method or option.
    """
    images = CLEAN if source is None else source.name
    about = {
        "clean": clean, "images": images, "scores": list(scores), "target": target, "channels": channels, "changes": tuple(changes),
        "method": recipe.label, "save": save, "recipe": recipe,
    }  # fmt: skip

    def begin(case: Case) -> ReadyStage:
        model, notes = explainable_model(recipe.name, case.subject.model, case.first_images)
        bound, facts = recipe, facts_above(resolve(recipe, EXPLAINERS, "method"), MethodFacts)
        if facts.layer:
            layer, _ = chosen_layer(model, case.first_images, recipe.options.get("layer", ""))
            bound, notes = replace(recipe, options=recipe.options | {"layer": layer}), [*notes, f"the layer is {layer!r}"]
        explain: Explain = resolve(bound, EXPLAINERS, "method")
        explain = method_on_copies(explain) if is_own(recipe.name) else explain
        complete = facts.complete and options_of(explain).get("baseline") != "uniform"
        scorers = {score.label: scorer(score, explain) for score in scores if applies_to_maps(score.name, complete)}
        words = f"{setting_text(explain)} target={target} channels={channels} images={images}".strip()
        measure = partial(method_outcomes, case, stage, model, explain, scorers)
        return ReadyStage(measure, words, [f"{recipe.label}: {note}" for note in notes])

    name = recipe.label if source is None else f"{recipe.label} on {source.name}"
    stage = Stage(
        "method",
        name,
        begin,
        explained_places(source),
        source,
        about=about,
        words=[setting_text(resolve(recipe, EXPLAINERS, "method")), str(target), channels, *map(recipe_text, scores)],
    )
    return stage


def jacobian_stage(scores: Sequence[Recipe], *, clean: Stage, target: str | int = "true", changes: Sequence[Stage] = ()) -> Stage:
    """The scores that belong to the model and to no method, on the clean images.

    Args:
        scores: their recipes.
        clean: the clean pass.
        target: which logit is explained: "true", "predicted", or the number of a class.
        changes: the stages that change the images.
    """
    about = {"clean": clean, "images": CLEAN, "scores": list(scores), "target": target, "changes": tuple(changes), "method": JACOBIAN}
    names = [score.name for score in scores]

    def begin(case: Case) -> ReadyStage:
        return ReadyStage(partial(jacobian_outcomes, case, names, target))

    return Stage("method", JACOBIAN, begin, explained_places(None), about=about, words=[str(target), *names])


def explained_places(source: Stage | None) -> Callable[[Ledger, str], Tensor]:
    """Which images a method explains, as the `on` of a stage.

    Args:
        source: None explains all images as they are; of an attack those that fell, of any other stage those that were right before it.
    """

    def on(ledger: Ledger, subject: str) -> Tensor:
        if source is None:
            return torch.ones(ledger.n, dtype=torch.bool)
        if source.kind in ("attack", "joined"):
            return ledger.has_fallen(subject, source) & ledger.was_tried(subject, source)
        return ledger.was_tried(subject, source)

    return on


def scorer(recipe: Recipe, explain: Explain) -> Score:
    """The score with its options; one that is for complete methods only gets the method's own baseline where the user gave none."""
    baseline = options_of(explain).get("baseline", inspect.Parameter.empty)
    score = resolve(recipe, SCORES, "score")
    if score_facts(recipe.name).complete_only and "baseline" not in recipe.options and baseline is not inspect.Parameter.empty:
        return partial(score, baseline=baseline)
    return score_on_copies(score) if is_own(recipe.name) else score


def applies_to_maps(score: str, complete: bool) -> bool:
    """Whether a score can be had from the maps of a method.

    Args:
        score: the name of a score.
        complete: whether the method's maps add up to the difference to one baseline, without which some scores are not defined.
    """
    return score not in GROUPS["jacobian"] and (complete or not score_facts(score).complete_only)


def explained_logits(case: Case, stage: Stage, chunk: Chunk) -> Tensor:
    """The logits (M, K) of the images that are explained. Raises InputError where they are probabilities or cannot be used."""
    logits = case.logits_at(chunk, clean=stage.source is None)
    check_logits(logits, chunk.y)
    if case.is_trial and bool(are_probabilities(logits).all()):
        raise InputError("the model returns probabilities, whose gradients vanish where it is sure: leave the softmax out of the model")
    return logits


def jacobian_outcomes(case: Case, names: Sequence[str], target: str | int, chunk: Chunk) -> Iterator[Outcome]:
    """Yields the values of the scores that ask for no map."""
    logits = case.logits_at(chunk, clean=True)
    check_logits(logits, chunk.y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=re.escape(CUT_GRAPH), category=RuntimeWarning)
        values = jacobian_geometry(case.subject.model, chunk.x, chunk.y.to(case.device))
    columns = {f"score {name}": values[name].cpu().double() for name in names}
    yield Outcome({**columns, "pred": logits.argmax(1), "target": target_classes(target, chunk.y, logits)})


def method_outcomes(
    case: Case, stage: Stage, model: Any, explain: Explain, scorers: Mapping[str, Score], chunk: Chunk
) -> Iterator[Outcome]:
    """Yields the scores of the maps of a chunk, and the maps that the pictures show."""
    logits = explained_logits(case, stage, chunk)
    own = [one for one in (stage.about["method"], *scorers) if is_own(one)]
    copies = weight_copies(case.subject.model) if own else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=re.escape(CUT_GRAPH), category=RuntimeWarning)
        some = explained_chunk(case, stage, model, explain, chunk, logits)
        bad = ~some.maps.isfinite().flatten(1).all(1)
        some = some if not bool(bad.any()) else without_bad_maps(some, bad)
        values = {f"score {name}": values_from(score(some), len(some.x), name) for name, score in scorers.items()}
    weights_changed = restore_weights(copies)
    zero = zero_map_mask(some) & ~bad.cpu()
    curves = lorenz_heights(some.sorted_sizes, LORENZ_POINTS).cpu()
    has_curve = ~curves.isnan().any(1)
    save_maps(case, stage, chunk.places, some.maps)
    gallery = gallery_places(case, stage)
    rows_by_place = {place: row for row, place in enumerate(chunk.places.tolist()) if place in gallery}
    extras: dict[str, Any] = {
        "lorenz": [curves[has_curve].sum(0).tolist(), int(has_curve.sum())],
        "options": {name: setting_text(score).replace(" ", ",") for name, score in scorers.items()},
        "maps": {str(place): image_json(some.maps[row].cpu()) for place, row in rows_by_place.items()},
        "x": {str(place): image_json(chunk.x[row].cpu()) for place, row in rows_by_place.items() if stage.source is not None},
    }
    if weights_changed:
        extras["changed"] = " and ".join(own)
    columns = {"pred": logits.argmax(1), "target": target_classes(stage.about["target"], chunk.y, logits), "zero": zero, "bad": bad.cpu()}
    yield Outcome({**values, **columns}, extras=extras)


def explained_chunk(case: Case, stage: Stage, model: Any, explain: Explain, chunk: Chunk, logits: Tensor) -> ExplainedImages:
    """The images of a chunk with their maps."""
    method, ids, y = stage.about["method"], chunk.ids.to(case.device), chunk.y.to(case.device)
    draws, target = Draws(case.seed, ids, method), target_classes(stage.about["target"], y, logits.to(case.device))
    maps = maps_from(explain(model, chunk.x, target, draws), chunk.x, method)
    masks = None if case.pool.masks is None else case.pool.masks[chunk.places].to(case.device)
    sizes = map_sizes(maps, stage.about["channels"])
    return ExplainedImages(model, chunk.x, y, target, logits.to(case.device), maps, sizes, explain, draws.child("scores"), masks)


def target_classes(target: str | int, y: Tensor, logits: Tensor) -> Tensor:
    """The class explained for each image, (M,). Raises InputError for a word or number that names none."""
    if isinstance(target, int):
        if not 0 <= target < logits.shape[1]:
            raise InputError(f"--target {target} is no class of the model: it has {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}")
        return torch.full_like(y, target)
    return lookup(target, {"true": y, "predicted": logits.argmax(1)}, "target")


def maps_from(made: object, x: Tensor, method: str) -> Tensor:
    """The maps that a method made of the images x (B, C, H, W). Raises InputError where it made something else."""
    shape = tuple(x.shape)
    if isinstance(made, Tensor) and made.is_floating_point() and tuple(made.shape) in (shape, (shape[0], 1, *shape[2:])):
        return made.detach()
    description = f"a tensor of {dtype_name(made)} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
    raise InputError(f"method {method!r} returned {description}: it must return float maps, of shape {shape} or with one channel")


def values_from(made: object, n: int, score: str) -> Tensor:
    """The values that a score gave n images, (n,) float64 on the CPU. Raises InputError where it gave something else."""
    if isinstance(made, Tensor) and tuple(made.shape) == (n,):
        return made.detach().cpu().double()
    description = f"a tensor of shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
    raise InputError(f"score {score!r} returned {description}: it must return a tensor with one number an image, ({n},)")


def without_bad_maps(some: ExplainedImages, bad: Tensor) -> ExplainedImages:
    """The same with zero maps in place of those that are not finite, so that no score falls over them; they are counted apart."""
    keep = (~bad).view(-1, 1, 1, 1)
    return replace(some, maps=torch.where(keep, some.maps, 0.0), sizes=torch.where(keep, some.sizes, 0.0))


def zero_map_mask(some: ExplainedImages) -> Tensor:
    """Which maps are zero everywhere, (B,) bool."""
    return (some.sizes.flatten(1).amax(1) == 0).cpu()


def gallery_places(case: Case, stage: Stage) -> list[int]:
    """The images of the galleries: the first that the first change has images of, else the first of all that were seen so far."""
    for change in stage.about["changes"]:
        places = explained_places(change)(case.ledger, case.name).nonzero().flatten()
        if len(places):
            return [int(place) for place in places[:GALLERY_IMAGES]]
    return [int(place) for place in case.ledger.is_done(case.name, stage.about["clean"]).nonzero().flatten()[:GALLERY_IMAGES]]


def save_maps(case: Case, stage: Stage, places: Tensor, maps: Tensor) -> None:
    """Writes the maps of the clean images into their file, if there is to be one."""
    file = None if stage.source is not None or case.is_trial else stage.about["save"](case.name, stage.about["method"])
    if file is not None:
        if not file.exists():
            make_array_file(file, (len(case.pool), *maps.shape[1:]))
        write_array_rows(file, places, maps)
