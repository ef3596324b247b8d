"""What identifies recipes, suites, scores and earlier results in the words of a run, by which a results folder knows it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robench.core.recipes import Recipe, parse_recipe
from robench.evaluation.suites import expanded_recipes, is_suite_file
from robench.models.identity import file_digest
from robench.runs.own_functions import is_own


def recipe_words(recipe: Recipe) -> dict[str, Any]:
    """What identifies a recipe: its name, weight and options, the digest of the file that it names, and the recipe it is measured on.

    Args:
        recipe: a recipe of any kind.

    Returns:
        Plain JSON values under "name", "weight", "options", "sha256", and "on" where the recipe has one.
    """
    name = recipe.name.removeprefix("transfer:")
    digest = file_digest(Path(name.rpartition(":")[0] if ".py:" in name else name))
    more = {"on": recipe_words(recipe.on)} if recipe.on else {}
    return {"name": recipe.name, "weight": recipe.weight, "options": dict(recipe.options), "sha256": digest, **more}


def suite_words(chosen: Sequence[str | Recipe]) -> Any:
    """What identifies a suite: its name, and every recipe that the user wrote; those of a file one by one.

    Args:
        chosen: names of suites, files of recipes, recipes.

    Returns:
        Plain JSON values: one where a single name or file was chosen, else a list.
    """
    each: list[Any] = []
    for one in chosen:
        if isinstance(one, Recipe):
            each.append(recipe_words(one))
        else:
            each.append({one: [recipe_words(recipe) for _, recipe in expanded_recipes([one])]} if is_suite_file(one) else one)
    return each[0] if len(each) == 1 and isinstance(chosen[0], str) else each


def score_words(scores: Sequence[str]) -> list[Any]:
    """What identifies scores: their names, and for the user's own the digest of their files too.

    Args:
        scores: recipes of scores, as the user wrote them.
    """
    return [recipe_words(parse_recipe(score)) if is_own(score) else score for score in scores]


def results_words(folder: Path) -> dict[str, str]:
    """What identifies earlier results: their folder, and the digests of the files that are read there.

    Args:
        folder: a finished results folder.
    """
    return {"path": str(folder), **{name: file_digest(folder / name) for name in ("manifest.json", "rows.csv", "samples.csv")}}
