"""The saliency audit of models: their maps by every method, the scores of each map, and how they go with what attacks do to the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from robench.audits import AUDITS, GROUPS
from robench.audits.inequality import block_of
from robench.calls import with_gradients
from robench.errors import InputError
from robench.explainers import EXPLAINERS, MASKING
from robench.explainers import remarks as masking_remarks
from robench.inputs import as_seed
from robench.plans import source_of
from robench.recipes import Recipe, lookup, options_of, parse, resolve
from robench.results.scores import Audit, audits_of
from robench.rows import Row
from robench.runs.measure import How, execute
from robench.runs.pools import pool_of
from robench.runs.stages.clean import clean_stage
from robench.runs.stages.method import jacobian_stage, method_stage
from robench.runs.types import Stage, Subject, Track, untracked
from robench.threat import Threat

REGIONAL = "regional-gini"
REMADE = ("max-sensitivity", "randomisation")  # scores that ask the method for maps again


def chosen_methods(methods: Sequence[str], **common: int | str | None) -> list[Recipe]:
    """The recipes of the methods, with the options in `common` where a method has them and the user did not give them there.

    InputError for a method or an option that is unknown, for one asked for twice, and for a common option that no method has.
    """
    recipes = [parse(sentence) for sentence in methods]
    used: set[str] = set()
    found: list[Recipe] = []
    for recipe in recipes:
        known = options_of(resolve(recipe, EXPLAINERS, "method"))
        fitting = {key: value for key, value in common.items() if value is not None and key in known}
        used |= set(fitting)
        found.append(replace(recipe, options=fitting | recipe.options))
        resolve(found[-1], EXPLAINERS, "method")
    idle = [key for key, value in common.items() if value is not None and key not in used]
    if idle:
        raise InputError(f"none of the methods {', '.join(methods)} has a {idle[0]}: leave --{idle[0]} out")
    twice = [recipe.label for recipe in found if sum(other.label == recipe.label for other in found) > 1]
    if twice:
        raise InputError(f"method {twice[0]!r} is asked for twice: rows could not be told apart; run it in a call of its own")
    return found


def without_blocks(size: tuple[int, int]) -> str:
    """Why images of size (H, W) have no regional Gini, as a sentence; "" where they have one."""
    try:
        block_of(*size)
    except InputError as error:
        return f"{REGIONAL} is left out: {error}"
    return ""


def chosen_scores(names: Sequence[str], masks: bool, size: tuple[int, int]) -> tuple[list[Recipe], list[str]]:
    """The recipes of the scores that names of scores and of groups stand for, each once, and notes.

    Of a group, scores that need masks are chosen only where there are some, and the regional Gini only where blocks divide images of
    size (H, W), with a note otherwise.
    InputError for an unknown name, and for a score that was named itself and cannot be had.
    """
    found: dict[str, Recipe] = {}
    note = without_blocks(size) if any(REGIONAL in GROUPS.get(name, ()) for name in names) else ""
    missing = {*(() if masks else GROUPS["masks"]), *((REGIONAL,) if note else ())}
    for name in names:
        if name in GROUPS:
            fitting = [parse(score) for score in GROUPS[name] if score not in missing]
            found |= {score.label: score for score in fitting if score.label not in found}
            continue
        recipe = parse(name)
        if recipe.name not in GROUPS["jacobian"]:
            if ".py:" not in recipe.name:
                lookup(recipe.name, AUDITS | dict.fromkeys(GROUPS), "score")
            resolve(recipe, AUDITS, "score")
        if recipe.name in GROUPS["masks"] and not masks:
            raise InputError(f"score {recipe.name!r} needs the object's mask of each image: of the data here, only shapes has them")
        found[recipe.label] = recipe
    return list(found.values()), [note] if note and REGIONAL not in found else []


def beforehand(methods: Sequence[Recipe], scores: Sequence[Recipe], x: Tensor) -> list[str]:
    """What to know before maps of the images x (N, C, H, W) are made: what the methods that hide blocks cost, and whether they can do."""
    found: list[str] = []
    again = [score.label for score in scores if score.name in REMADE]
    for recipe in methods:
        if recipe.name not in MASKING:
            continue
        notes = masking_remarks(recipe.name, x, options_of(resolve(recipe, EXPLAINERS, "method")))
        if notes and again:
            notes.append(f"{' and '.join(again)} make{'s' if len(again) == 1 else ''} maps anew, which multiplies its passes")
        found += [f"{recipe.label}: {note}" for note in notes]
    return found


def method_stages(
    methods: Sequence[Recipe], scores: Sequence[Recipe], *, clean: Stage, changes: Sequence[Stage] = (), target: str | int = "true",
    channels: str = "none", save: Callable[[str, str], Path | None] = lambda *_: None,
) -> list[Stage]:  # fmt: skip
    """The stages of an audit: the scores of the model itself, then each method on the images as they are and on each change of them."""
    own = [score for score in scores if score.name in GROUPS["jacobian"]]
    stages = [jacobian_stage(own, clean=clean, target=target, changes=changes)] if own else []
    for recipe in methods:
        for source in (None, *(change for change in changes if change.kept or change.images is not None)):
            stages.append(
                method_stage(recipe, scores, clean=clean, source=source, target=target, channels=channels, changes=changes, save=save)
            )
    return stages


@with_gradients
def audit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    methods: Sequence[Recipe],
    scores: Sequence[Recipe],
    target: str | int = "true",
    channels: str = "none",
    ids: Tensor | None = None,
    masks: Tensor | None = None,
    against: Sequence[Recipe] = (),
    threat: Threat | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    about: Row,
    track: Track = untracked,
) -> Audit:
    """The scores of a model's saliency maps, method by method, on the clean images and on what became of them.

    model      gives logits (B, K) for pixels (B, C, H, W) in [0, 1]; it is left as it was
    target     which logit is explained: true, predicted (on the images that are explained), or the number of a class
    channels   none: every subpixel counts for itself; sum, max or mean: the sizes of a pixel's channels are put together first
    masks      (N, H, W) bool, where the object is
    against    attacks, probes and corruptions whose images are explained as well; `threat` is that of the attacks
    Raises InputError for images, labels, logits, methods or targets that do not go together.
    """
    clean, pool = clean_stage(), pool_of(x, y, ids, masks)
    how = How(as_seed(seed), batch_size, device, track=track)
    threats, sources = [threat or Threat("linf", 8 / 255)], dict[str, Stage]()
    changes = [stage for recipe in against if (stage := source_of(recipe, pool, threats, how, clean, sources))]
    stages = method_stages(methods, scores, clean=clean, changes=changes, target=target, channels=channels)
    found = execute([Subject(model, about)], pool, [clean, *sources.values(), *stages], how)
    return audits_of(found)[0]
