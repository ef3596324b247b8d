"""What a recipe names, an attack, a probe, a corruption or a method, and what is refused in it before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from robench.attacks import ATTACKS, ENGINES
from robench.core.corruption_names import SETS
from robench.core.errors import InputError
from robench.core.recipes import (
    SIGNATURES,
    Recipe,
    did_you_mean,
    function_from_file,
    lookup,
    parameter_names,
    positional_names,
    resolve,
    takes_arguments,
    with_article,
)
from robench.corruptions import CORRUPTIONS
from robench.evaluation.suites import SUITES
from robench.explainers import EXPLAINERS
from robench.probes import PROBES
from robench.runs.stages.attack import TRANSFER
from robench.runs.stages.corruption import recipe_and_severity, refuse_severity
from robench.scores import SCORES

RECIPE_KINDS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "attack": ATTACKS, "probe": PROBES, "corruption": CORRUPTIONS, "method": EXPLAINERS,
}  # fmt: skip
KIND_ARGUMENTS = {"threat": "attack", "severity": "corruption", "target": "method"}  # arguments that only functions of one kind take
LABEL_ARGUMENTS = ("y", "label", "labels")  # arguments by which a probe is told from a method, which takes as many
FLAGS_BY_KIND = {"score": "--score", "regulariser": "--reg of robench train", "objective": "--objective of robench train"}


def refuse_unknown_recipe(recipe: Recipe, engine: str) -> None:
    """Raises InputError where a recipe or an option of it is unknown, or that on whose images it is measured."""
    kind = recipe_kind(recipe)
    plain = replace(recipe, on=None)
    if recipe.name.startswith(TRANSFER):
        if not recipe.name.removeprefix(TRANSFER).strip():
            raise InputError(f"{TRANSFER} names no model whose points are to be tried: write {TRANSFER}OTHER.pt")
    elif kind == "attack":
        resolve(plain, ENGINES[engine], "attack")
    elif kind == "corruption":
        for name in SETS.get(recipe.name, (recipe.name,)):
            plain, severity = recipe_and_severity(replace(recipe, on=None, name=name))
            resolve(plain, CORRUPTIONS, "corruption")
            refuse_severity(recipe, severity)
    else:
        resolve(plain, RECIPE_KINDS[kind], kind)
    if recipe.on is not None:
        refuse_unknown_recipe(recipe.on, "robench")
        refuse_no_images(recipe.on)
        if kind in ("attack", "probe") and recipe_kind(recipe.on) == "attack":
            raise InputError(
                f"{recipe.title}: {with_article(kind)} is tried on what is right, and what stands under {recipe.on.label} keeps the image "
                f"that it had, so that this is {recipe.label} without it: measure a method or a corruption on its images instead"
            )


def refuse_no_images(recipe: Recipe) -> None:
    """Raises InputError where nothing can be measured on the images of a recipe: it makes none, or more than one of each."""
    if recipe_kind(recipe) == "method":
        raise InputError(f"{recipe.label} makes maps and no images: nothing can be measured on them")
    if recipe.name in SETS:
        raise InputError(f"{recipe.name} is several corruptions, and images are those of one: name one, such as {SETS[recipe.name][0]}")


def refuse_unresolvable(chosen: Sequence[Recipe], engine: str) -> None:
    """Refuses recipes that are no attacks, and an unknown engine, before anything is loaded.

    Args:
        chosen: recipes of attacks.
        engine: the name of an engine.

    Raises:
        InputError: where one is not known.
    """
    table = lookup(engine, ENGINES, "engine")
    for recipe in chosen:
        if recipe.name.startswith(TRANSFER):
            refuse_unknown_recipe(recipe, engine)
        else:
            resolve(recipe, table, "attack")


def recipe_kind(recipe: Recipe) -> str:
    """What a recipe names: "attack", "probe", "corruption" or "method".

    Of a function of the user's own it is what its arguments say, unless the recipe says it: `probe:mine.py:flip`.

    Args:
        recipe: any recipe.

    Raises:
        InputError: for an unknown name, and for a kind that is named elsewhere, such as a score.
    """
    if recipe.kind in RECIPE_KINDS:
        return recipe.kind
    if recipe.kind:
        raise InputError(f"{recipe.kind}:{recipe.label} is {with_article(recipe.kind)}, which is named with {FLAGS_BY_KIND[recipe.kind]}")
    if recipe.name.startswith(TRANSFER):
        return "attack"
    if ".py:" in recipe.name:
        return own_recipe_kind(recipe)
    for kind, table in RECIPE_KINDS.items():
        if recipe.name in table:
            return kind
    if recipe.name in SETS:
        return "corruption"
    if recipe.name in SCORES:
        raise InputError(f"{recipe.name} is a score of saliency maps, which is named with --score: name a method here, such as saliency")
    names = [*SUITES, *SETS, *(name for table in RECIPE_KINDS.values() for name in table)]
    raise InputError(f"unknown attack, probe, corruption or method {recipe.name!r}{did_you_mean(recipe.name, names)}")


def own_recipe_kind(recipe: Recipe) -> str:
    """What a function of the user's own is, by its arguments. Raises InputError where they do not tell."""
    function = function_from_file(recipe.name)
    names, signature = positional_names(function), f"{recipe.label}({', '.join(parameter_names(function))})"
    for name, kind in KIND_ARGUMENTS.items():
        if name in names:
            return kind
    fitting = [kind for kind in RECIPE_KINDS if takes_arguments(function, SIGNATURES[kind])]
    if {"model", *LABEL_ARGUMENTS} & {*names}:
        fitting = [kind for kind in fitting if kind != "corruption"]  # which is given neither: a probe that forgot an argument
    if fitting == ["probe", "method"] and any(name in names for name in LABEL_ARGUMENTS):
        return "probe"
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        ways = " or ".join(f"{kind}:{recipe.name}" for kind in fitting)
        raise InputError(f"{signature} may be more than one thing: say which, as in {ways}")
    other = next((kind for kind in FLAGS_BY_KIND if takes_arguments(function, SIGNATURES[kind])), None)
    if other:
        raise InputError(f"{signature} takes what {with_article(other)} takes, which is named with {FLAGS_BY_KIND[other]}")
    ways = ", ".join(f"{with_article(kind)} takes ({', '.join(SIGNATURES[kind])})" for kind in RECIPE_KINDS)
    raise InputError(f"{signature} can be none of what is asked for here: {ways}, and options by name")
