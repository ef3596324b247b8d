"""Training losses: base objectives and regularisers, one paper per file.

A regulariser is a function (model, batch, *, options...) -> scalar; a new one is a file and a line in REGULARIZERS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from torch import Tensor

from robench.errors import InputError
from robench.objectives.adversarial import pgd_at
from robench.objectives.jacobian import jacobian
from robench.objectives.sagr import sagr
from robench.objectives.standard import standard
from robench.objectives.terms import Loss, Objective, Penalty, Regularizer, Schedule, penalised, ramp
from robench.recipes import Recipe, parse, resolve

__all__ = [
    "DEFAULT_BASES",
    "DEFAULT_WARMUPS",
    "DEFAULT_WEIGHTS",
    "NEED_TEACHER",
    "OBJECTIVES",
    "REGULARIZERS",
    "Loss",
    "Objective",
    "Penalty",
    "Regularizer",
    "Schedule",
    "penalised",
    "ramp",
    "regularizers_of",
    "weighted",
]

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "standard": standard,
    "pgd-at": pgd_at,
}

REGULARIZERS: dict[str, Callable[..., Tensor]] = {
    "sagr": sagr,
    "jacobian": jacobian,
}

# Where a sentence gives none: the weight (1 for others), the share of training over which it grows (0 for others), the objective.
DEFAULT_WEIGHTS = {"sagr": 0.1, "jacobian": 0.01}
DEFAULT_WARMUPS = {"sagr": 0.25}
DEFAULT_BASES = {"sagr": "standard", "jacobian": "standard"}
NEED_TEACHER = ("igd", "hat")  # what learns from a network trained without a defence


def regularizers_of(sentences: Iterable[str]) -> dict[str, Regularizer]:
    """The regularisers that sentences such as `sagr=0.1,rho=0.3,warmup=0.5` or `mine.py:penalty=2` name, ready for `penalised`."""
    regularizers: dict[str, Regularizer] = {}
    for recipe in map(parse, sentences):
        if recipe.label in regularizers:
            raise InputError(f"regulariser {recipe.name!r} is given twice: one weight and one set of options a name")
        regularizers[recipe.label] = weighted(recipe)
    return regularizers


def weighted(recipe: Recipe) -> Regularizer:
    """The weight by progress and the penalty that a recipe names.

    `warmup` belongs to the weight and is understood with every regulariser; the other options are the function's own.
    """
    options = dict(recipe.options)
    warmup = options.pop("warmup", DEFAULT_WARMUPS.get(recipe.name, 0.0))
    weight = DEFAULT_WEIGHTS.get(recipe.name, 1.0) if recipe.weight is None else recipe.weight
    return ramp(weight, warmup), resolve(replace(recipe, options=options), REGULARIZERS, "regulariser")
