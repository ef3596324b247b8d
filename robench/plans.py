"""What an evaluation is to run: recipes become attacks, attacks at radii become stages, and all of it becomes the name of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from torch import Tensor, nn

from robench.attacks import ENGINES, fitted, reference
from robench.attacks.transfer import transfer
from robench.calls import into_eval
from robench.errors import InputError
from robench.models import load
from robench.models.identity import code_of, identity
from robench.outcomes import Attack, Stage
from robench.recipes import Recipe, lookup, options_of, resolve, setting
from robench.rows import Row
from robench.suites import recipes
from robench.threat import Threat

TRANSFER = "transfer:"
ENTRIES = 2  # counts the forms that the entries of a state have had: one of another form is not taken up


def resolvable(chosen: Sequence[Recipe], engine: str) -> None:
    """InputError where a recipe or the engine is unknown, before anything is loaded."""
    table = lookup(engine, ENGINES, "engine")
    for recipe in chosen:
        if not recipe.name.startswith(TRANSFER):
            resolve(recipe, table, "attack")
        elif not recipe.name.removeprefix(TRANSFER).strip():
            raise InputError(f"{TRANSFER} names no model whose points are to be tried: write {TRANSFER}OTHER.pt")


def resolved(suite: str | Sequence[Recipe], norm: str, engine: str, device: str) -> list[tuple[Recipe, Attack]]:
    """The recipes of a suite with the functions that they name in an engine."""
    table = lookup(engine, ENGINES, "engine")
    chosen = recipes(suite, norm) if isinstance(suite, str) else suite
    return [
        (recipe, from_surrogate(recipe, device) if recipe.name.startswith(TRANSFER) else resolve(recipe, table, "attack"))
        for recipe in chosen
    ]


def from_surrogate(recipe: Recipe, device: str) -> Attack:
    """The transfer attack from the model that `transfer:MODEL` names."""
    surrogate = load(recipe.name.removeprefix(TRANSFER), device=device)
    into_eval(surrogate.model).requires_grad_(False)
    attack = partial(transfer, surrogate=surrogate.model)
    return resolve(Recipe("transfer", recipe.weight, recipe.options), {"transfer": attack}, "attack")


def plan(chosen: Sequence[tuple[Recipe, Attack]], threats: Sequence[Threat], classes: int, engine: str, precision: str) -> list[Stage]:
    """The stages: the clean pass, then every attack at every radius, the smallest first."""
    how = f"engine={engine}" + (f" precision={precision}" if precision != "fp32" else "")
    stages = [Stage("clean", "", threats[0])]
    for threat in threats:
        for recipe, attack in chosen:
            fit = fitted(attack, classes)
            stages.append(Stage(recipe.label, f"{setting(fit)} {how}".strip(), threat, fit))
    return stages


def changes(chosen: Sequence[tuple[Recipe, Attack]], classes: int, engine: str) -> list[str]:
    """What a model of few classes changes in the attacks."""
    left_out = reference.limits(classes) if engine == "reference" else {}
    found = [f"{recipe.label}: {left_out[recipe.label]}" for recipe, _ in chosen if recipe.label in left_out]
    for recipe, attack in chosen:
        before, after = setting(attack).split(), setting(fitted(attack, classes)).split()
        words = " ".join(word for word in after if word not in before)
        found += [f"{recipe.label}: {words}, as the model has {classes} classes"] if words else []
    return list(dict.fromkeys(found))


def header(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ids: Tensor,
    about: Row,
    stages: Sequence[Stage],
    *,
    architecture: Mapping[str, Any],
    attacks: Sequence[str],
    until: float | None,
    saved: bool | str,
    batch_size: int | None,
) -> dict[str, Any]:
    """What a run is, for its journal: a run with another header cannot go on with its state.

    architecture  what the caller knows of the model beside itself        attacks  the attacks as they were named
    batch_size  None where neither verdicts nor the end of the run depend on it
    """
    options = [value for stage in stages if stage.attack is not None for value in options_of(stage.attack).values()]
    digest = hashlib.sha256()
    for part in (*x.split(1000), y, ids):
        digest.update(part.cpu().contiguous().numpy().tobytes())
    return {
        "robench": version("robench"), "checkpoint": about.checkpoint, "architecture": dict(architecture), **identity(model),
        "surrogates": [identity(value) for value in options if isinstance(value, nn.Module)],
        "attack code": code_of(*attacks),
        "data": about.data, "n": len(ids), "images": digest.hexdigest(),
        "seed": about.seed, "until": until, "norm": about.norm, "entries": ENTRIES,
        "saved": saved, "batch_size": batch_size,
        "suite": [[stage.probe, stage.setting, stage.threat.eps] for stage in stages],
    }  # fmt: skip
