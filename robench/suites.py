"""Suites: a name is a list of attack recipes, run one after the other on the samples that still stand, the cheap ones first."""

from __future__ import annotations

from collections.abc import Sequence

from robench.errors import InputError
from robench.probes import PROBES
from robench.recipes import Recipe, lookup, parse, probes_own, resolve

SUITES: dict[str, tuple[str, ...]] = {
    "smoke": ("fgsm", "pgd-10"),
    "pgd": ("pgd-20", "pgd-margin", "pgd-50-10"),
    "fast": ("apgd,loss=prob-margin,steps=30", "malt,loss=prob-margin,steps=20,rounds=4", "square,queries=2500,rescale=true,hope=8"),
    "autoattack": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "autoattack-plus": ("apgd-ce,restarts=5", "apgd-dlr,restarts=5", "fab,restarts=5", "square", "apgd-t", "fab-t"),
    "autoattack-rand": ("apgd-ce,eot=20", "apgd-dlr,eot=20"),
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
NORMS = {"fast": ("linf",)}  # suites that are not for every norm: docs/benchmarks.md has what `fast` leaves in l2
ABOUT = {
    "smoke": "a quick look: FGSM, then PGD-10; says nothing about robustness",
    "pgd": "PGD with cross-entropy and margin losses and restarts; check what it says with autoattack",
    "fast": "linf only: an upper bound on robust accuracy for a fraction of AutoAttack's work; never to be called AutoAttack",
    "autoattack": "AutoAttack, standard version (Croce & Hein 2020, 2003.01690; l1: 2103.01208)",
    "autoattack-plus": "AutoAttack, plus version: more restarts, untargeted FAB and APGD-DLR as well",
    "inductive": "noise and occlusion led by the saliency map, and at random (Duan et al., ICLR 2023; Chen et al. 2023, 2305.09305)",
    "autoattack-rand": "AutoAttack, rand version for randomised defences: gradients averaged over 20 passes",
}


def recipes(suite: str, norm: str = "linf") -> list[Recipe]:
    """The recipes of a suite for a norm, in the order in which they run; InputError for an unknown name, or a norm it is not made for."""
    everywhere = lookup(suite, SUITES, "suite")
    if norm not in NORMS.get(suite, (norm,)):
        raise InputError(f"the suite {suite!r} is for {' and '.join(NORMS[suite])}: in {norm} it leaves far too much; choose autoattack")
    return [parse(sentence) for sentence in (SUITES_L1.get(suite, everywhere) if norm == "l1" else everywhere)]


def of_probes(chosen: Sequence[Recipe]) -> bool:
    """Whether the recipes are probes, which have no radius and make no cascade, and not attacks; InputError for a probe's wrong option."""
    probes = [recipe for recipe in chosen if is_probe(recipe)]
    for recipe in probes:
        resolve(recipe, PROBES, "probe")
    return bool(probes)


def is_probe(recipe: Recipe) -> bool:
    """Whether a recipe names a probe: ours, or a function of the user's own with the arguments of one."""
    return recipe.name in PROBES or probes_own(recipe)
