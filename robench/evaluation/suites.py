"""Suites: a name is a list of attack recipes, run one after the other on the samples that still stand, the cheap ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from robench.attacks import ATTACKS
from robench.core.errors import InputError
from robench.core.recipes import Recipe, lookup, parse_recipe

SUITES: dict[str, tuple[str, ...]] = {
    "clean": (),
    "smoke": ("fgsm", "pgd-10"),
    "pgd": ("pgd-20", "pgd-margin", "pgd-50-10"),
    "fast": ("apgd,loss=prob-margin,steps=30", "malt,loss=prob-margin,steps=20,rounds=4", "square,queries=2500,rescale=true,hope=8"),
    "autoattack": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "autoattack-plus": ("apgd-ce,restarts=5", "apgd-dlr,restarts=5", "fab,restarts=5", "square", "apgd-t", "fab-t"),
    "autoattack-rand": ("apgd-ce,eot=20", "apgd-dlr,eot=20"),
    "full": ("autoattack", "inductive", "fifteen", "saliency", "integrated-gradients"),
    "inductive": (
        "inductive-noise",
        "inductive-noise-2",
        "random-noise",
        "random-noise-few",
        "inductive-occlusion-n5r10",
        "inductive-occlusion-n10r20",
        "random-occlusion-n5r10",
        "random-occlusion-n10r20",
    ),
}
SUITES_L1: dict[str, tuple[str, ...]] = {  # suites that are different in l1
    "autoattack": ("apgd-ce,restarts=5,large_eps=true", "apgd-t,targets=5,large_eps=true", "fab-t", "square"),
}
SUITE_NORMS = {"fast": ("linf",)}  # suites that are not for every norm: docs/benchmarks.md has what `fast` leaves in l2
SUITE_SUMMARIES = {
    "clean": "the accuracy on the images as they are, and nothing else",
    "smoke": "a quick look: FGSM, then PGD-10; says nothing about robustness",
    "pgd": "PGD with cross-entropy and margin losses and restarts; check what it says with autoattack",
    "fast": "linf only: an upper bound on robust accuracy for a fraction of AutoAttack's work; never to be called AutoAttack",
    "autoattack": "AutoAttack, standard version (Croce & Hein 2020, 2003.01690; l1: 2103.01208)",
    "autoattack-plus": "AutoAttack, plus version: more restarts, untargeted FAB and APGD-DLR as well",
    "inductive": "noise and occlusion led by the saliency map, and at random (Duan et al., ICLR 2023; Chen et al. 2023, 2305.09305)",
    "full": "AutoAttack, the suite inductive, the fifteen corruptions, and the Gini of two saliency methods: one table, one report",
    "autoattack-rand": "AutoAttack, rand version for randomised defences: gradients averaged over 20 passes",
}


def suite_recipes(suite: str, norm: str = "linf") -> list[Recipe]:
    """The recipes of a suite for a norm, in the order in which they run.

    Args:
        suite: the name of a suite, or a file of recipes.
        norm: "linf", "l2" or "l1".

    Raises:
        InputError: for an unknown name, or a norm it is not made for.
    """
    if not is_suite_file(suite):
        lookup(suite, SUITES, "suite")
    return [recipe for _, recipe in expanded_recipes([suite], norm)]


def expanded_recipes(chosen: Sequence[str | Recipe], norm: str = "linf", inside: str = "") -> list[tuple[str, Recipe]]:
    """The recipes that names of suites, files of recipes and recipes stand for, each with the suite that it comes from, "" for none.

    Args:
        chosen: names of suites, paths of files, sentences, recipes.
        norm: of the attacks; some suites are others in l1.
        inside: the suite that single recipes come from.

    Raises:
        InputError: for a suite that is not made for the norm, and for a file that cannot be read as recipes.
    """
    recipes: list[tuple[str, Recipe]] = []
    for one in chosen:
        if isinstance(one, Recipe):
            recipes += recipes_with_suite(one, norm, inside)
        elif one in SUITES:
            if norm not in SUITE_NORMS.get(one, (norm,)):
                ours = " and ".join(SUITE_NORMS[one])
                raise InputError(f"the suite {one!r} is for {ours}: in {norm} it leaves far too much; choose autoattack")
            recipes += expanded_recipes(SUITES_L1.get(one, SUITES[one]) if norm == "l1" else SUITES[one], norm, one)
        elif is_suite_file(one):
            recipes += expanded_recipes(recipe_lines(Path(one)), norm, Path(one).stem)
        else:
            recipes += recipes_with_suite(parse_recipe(one), norm, inside)
    return recipes


def recipes_with_suite(recipe: Recipe, norm: str, inside: str) -> list[tuple[str, Recipe]]:
    """A recipe with its suite; of `SUITE on RECIPE` each recipe of the suite on those images."""
    if recipe.on is None or recipe.name in ATTACKS or not (recipe.name in SUITES or is_suite_file(recipe.name)):
        return [(inside, recipe)]
    if recipe.options or recipe.weight is not None:
        raise InputError(f"the suite {recipe.name!r} has no options: name its recipes one by one to give them some")
    return [(name, replace(one, on=recipe.on)) for name, one in expanded_recipes([recipe.name], norm)]


def is_suite_file(name: str) -> bool:
    """Whether a name is that of a text file with recipes, one a line.

    Args:
        name: what the user wrote.
    """
    return name.endswith((".txt", ".suite")) and ":" not in name


def recipe_lines(path: Path) -> list[str]:
    """The recipes in a text file, one a line; what follows a # is a comment. Raises InputError where it holds none or cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the suite {path}: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    sentences = [line.partition("#")[0].strip() for line in lines]
    if not any(sentences):
        raise InputError(f"the suite {path} names nothing: write one recipe a line, such as pgd-20")
    if any(is_suite_file(line) for line in sentences):
        raise InputError(f"the suite {path} names another file: write its recipes out")
    return [line for line in sentences if line]


def verdict_suite(chosen: Sequence[str | Recipe], named: Sequence[str]) -> str:
    """The name of the suite whose verdict the attacks of a run give: the suite that all of them come from, "" where there is none.

    Args:
        chosen: what the user asked for.
        named: the suite of each attack.
    """
    own = set(named)
    if len(own) == 1:
        return own.pop()
    first = chosen[0] if len(chosen) == 1 else ""
    return (Path(first).stem if is_suite_file(first) else first) if isinstance(first, str) and own else ""
