"""What `robench saliency` is to measure: methods and scores by their names, earlier results to be joined, and what to know beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from robench.core.errors import InputError
from robench.core.facts import facts_above
from robench.core.recipes import Recipe, lookup, options_of, parse_recipe, resolve
from robench.core.saved_results import ModelResults, load_results, manifest_value
from robench.data import Images
from robench.explainers import EXPLAINERS, MethodFacts, masking_remarks
from robench.runs.types import Subject
from robench.scores import GROUPS, SCORES, score_facts
from robench.scores.inequality import block_side

REGIONAL = "regional-gini"


def chosen_methods(methods: Sequence[str], **common: int | str | None) -> list[Recipe]:
    """The recipes of the methods, with options that are common to them.

    Args:
        methods: sentences such as "integrated-gradients,steps=50".
        **common: options for each method that has them, unless its sentence gives them; None is left out.

    Raises:
        InputError: for a method or an option that is unknown, for one asked for twice, and for a common option that no method has.
    """
    recipes = [parse_recipe(sentence) for sentence in methods]
    used_keys: set[str] = set()
    full_recipes: list[Recipe] = []
    for recipe in recipes:
        options = options_of(resolve(replace(recipe, on=None), EXPLAINERS, "method"))
        fitting = {key: value for key, value in common.items() if value is not None and key in options}
        used_keys |= set(fitting)
        full_recipes.append(replace(recipe, options=fitting | recipe.options))
        resolve(replace(full_recipes[-1], on=None), EXPLAINERS, "method")
    idle = [key for key, value in common.items() if value is not None and key not in used_keys]
    if idle:
        raise InputError(f"none of the methods {', '.join(methods)} has a {idle[0]}: leave --{idle[0]} out")
    twice = [recipe.title for recipe in full_recipes if sum(other.title == recipe.title for other in full_recipes) > 1]
    if twice:
        raise InputError(f"method {twice[0]!r} is asked for twice: rows could not be told apart; run it in a call of its own")
    return full_recipes


def no_blocks_note(size: tuple[int, int]) -> str:
    """Why images of size (H, W) have no regional Gini, as a sentence; "" where they have one."""
    try:
        block_side(*size)
    except InputError as error:
        return f"{REGIONAL} is left out: {error}"
    return ""


def chosen_scores(names: Sequence[str], masks: bool, size: tuple[int, int]) -> tuple[list[Recipe], list[str]]:
    """The recipes of the scores that names of scores and of groups stand for, each once, and notes.

    Of a group, scores that need masks are chosen only where there are some, and the regional Gini only where blocks divide the images,
    with a note otherwise.

    Args:
        names: of scores and groups.
        masks: whether there are masks.
        size: (H, W) of the images.

    Raises:
        InputError: for an unknown name, and for a score that was named itself and cannot be had.
    """
    by_label: dict[str, Recipe] = {}
    singles: dict[str, Recipe] = {}
    note = no_blocks_note(size) if any(REGIONAL in GROUPS.get(name, ()) for name in names) else ""
    missing = {*(() if masks else GROUPS["masks"]), *((REGIONAL,) if note else ())}
    for name in names:
        if name in GROUPS:
            fitting = [parse_recipe(score) for score in GROUPS[name] if score not in missing]
            by_label |= {score.label: score for score in fitting if score.label not in by_label}
            continue
        recipe = score_recipe(name)
        if recipe.name in GROUPS["masks"] and not masks:
            raise InputError(f"score {recipe.name!r} needs the object's mask of each image: of the data here, only shapes has them")
        if singles.setdefault(recipe.label, recipe) != recipe:
            raise InputError(f"score {recipe.label!r} is asked for twice: rows could not be told apart; run it in a call of its own")
        by_label[recipe.label] = recipe
    return list(by_label.values()), [note] if note and REGIONAL not in by_label else []


def score_recipe(name: str) -> Recipe:
    """The recipe of a score, or of a group by its name.

    Args:
        name: a sentence that names a score, or the name of a group.

    Raises:
        InputError: for an unknown one.
    """
    recipe = parse_recipe(name)
    if recipe.name not in (*GROUPS["jacobian"], *GROUPS):
        if ".py:" not in recipe.name:
            lookup(recipe.name, SCORES | dict.fromkeys(GROUPS), "score")
        resolve(recipe, SCORES, "score")
    return recipe


def advance_notes(methods: Sequence[Recipe], scores: Sequence[Recipe], x: Tensor) -> list[str]:
    """Sentences to know before maps are made: what the methods that hide blocks cost, and what they cannot do.

    Args:
        methods: recipes of methods.
        scores: recipes of scores, of which some ask for maps again.
        x: images (N, C, H, W).
    """
    sentences: list[str] = []
    again = [score.label for score in scores if score_facts(score.name).makes_maps]
    for recipe in methods:
        explain = resolve(replace(recipe, on=None), EXPLAINERS, "method")
        notes = masking_remarks(facts_above(explain, MethodFacts), x, options_of(explain))
        if notes and again:
            notes.append(f"{' and '.join(again)} make{'s' if len(again) == 1 else ''} maps anew, which multiplies its passes")
        sentences += [f"{recipe.label}: {note}" for note in notes]
    return sentences


def joined_results(subjects: Sequence[Subject], images: Images, folders: Sequence[Path]) -> list[tuple[str, ModelResults]]:
    """The results of earlier runs in folders, each with the name of its model.

    Args:
        subjects: the models of this run.
        images: the images of this run.
        folders: results folders.

    Raises:
        InputError: for a folder whose model is not among the subjects, or whose data set is another.
    """
    pairs = []
    for folder in folders:
        results = load_results(folder)
        digest = manifest_value(results.manifest, "checkpoint.sha256")
        names = [one.name for one in subjects if one.sha256 == digest and (digest or one.name == results.checkpoint)]
        if not names:
            raise InputError(f"{folder} holds results of {results.checkpoint}, with other weights than any model named here")
        if manifest_value(results.manifest, "data.name") != images.name:
            raise InputError(f"{folder} holds results on {manifest_value(results.manifest, 'data.name')}, not on {images.name}")
        pairs.append((names[0], results))
    return pairs
