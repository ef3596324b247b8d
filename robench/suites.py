"""Suites: a name is a list of attack recipes, run one after the other on the samples that still stand, the cheap ones first."""

from __future__ import annotations

from robench.recipes import Recipe, lookup, parse

SUITES: dict[str, tuple[str, ...]] = {
    "smoke": ("fgsm", "pgd-10"),
    "pgd": ("pgd-20", "pgd-margin", "pgd-50-10"),
    "autoattack": ("apgd-ce", "apgd-t", "fab-t", "square"),
}
ABOUT = {
    "smoke": "a quick look: FGSM, then PGD-10; says nothing about robustness",
    "pgd": "PGD with cross-entropy and margin losses and restarts; check what it says with autoattack",
    "autoattack": "AutoAttack, standard version (Croce & Hein 2020, 2003.01690), by the authors' engine",
}


def recipes(suite: str) -> list[Recipe]:
    """The recipes of a suite, in the order in which they run; InputError for an unknown name."""
    return [parse(sentence) for sentence in lookup(suite, SUITES, "suite")]
