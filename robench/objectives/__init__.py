"""Training losses: base objectives and regularisers, one paper per file.

A regulariser is a function (model, batch, *, options...) -> scalar; a new one is a file and a line in REGULARIZERS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from robench.core.errors import InputError
from robench.core.recipes import Recipe, parse_recipe, resolve
from robench.core.schedules import training_shares
from robench.core.threat import Threat, length_option, refuse_too_large_eps
from robench.objectives.adversarial import pgd_at
from robench.objectives.alp import alp
from robench.objectives.arr import arr
from robench.objectives.cross_lipschitz import cross_lipschitz
from robench.objectives.cure import cure
from robench.objectives.double_backprop import double_backprop
from robench.objectives.emr import emr
from robench.objectives.fgsm import fgsm_at
from robench.objectives.free import free_at
from robench.objectives.gini import gini_penalty
from robench.objectives.gradalign import gradalign
from robench.objectives.hat import hat
from robench.objectives.igd import igd
from robench.objectives.input_l2 import input_l2
from robench.objectives.jacobian import jacobian
from robench.objectives.mail import mail_at, mail_trades
from robench.objectives.mart import mart
from robench.objectives.sagr import sagr
from robench.objectives.sagr import sagr_notes as sagr_remarks
from robench.objectives.standard import standard
from robench.objectives.terms import Loss, Objective, Penalty, Regularizer, WeightSchedule, penalised_loss, weight_schedule
from robench.objectives.trades import trades
from robench.objectives.tulip import tulip
from robench.objectives.vat import vat
from robench.objectives.weight_norms import l1, l2

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
    "WeightSchedule",
    "penalised_loss",
    "refuse_unreachable",
    "regularizer_notes",
    "regularizers_of",
    "takes_input_gradient",
    "weight_schedule",
    "weighted_regularizer",
]

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "standard": standard,
    "pgd-at": pgd_at,
    "fgsm-at": fgsm_at,
    "fgsm-rs": partial(fgsm_at, start=1.0, step=1.25, clip=True),
    "n-fgsm": partial(fgsm_at, start=2.0, step=1.0, clip=False),
    "free-at": free_at,
    "trades": trades,
    "mart": mart,
    "mail-at": mail_at,
    "mail-trades": mail_trades,
    "alp": alp,
    "hat": hat,
}

REGULARIZERS: dict[str, Callable[..., Tensor]] = {
    "sagr": sagr,
    "igd": igd,
    "emr": emr,
    "arr": arr,
    "jacobian": jacobian,
    "cross-lipschitz": cross_lipschitz,
    "input-l2": input_l2,
    "double-backprop": double_backprop,
    "tulip": tulip,
    "cure": cure,
    "gradalign": gradalign,
    "vat": vat,
    "gini": gini_penalty,
    "l1": l1,
    "l2": l2,
}

# Where a sentence gives none: the weight (1 for others), the share of training over which it grows (0 for others), the objective.
DEFAULT_WEIGHTS = {
    "sagr": 0.1,
    "emr": 3 / 128,
    "arr": 6.0,
    "jacobian": 0.01,
    "cross-lipschitz": 0.03,
    "input-l2": 0.1,
    "double-backprop": 0.3,
    "gradalign": 0.2,
    "gini": 0.1,
    "l1": 1e-5,
    "l2": 5e-4,
}
DEFAULT_WARMUPS = {"sagr": 0.25}
ADVERSARIAL_BASES = {"igd": "pgd-at", "emr": "pgd-at", "gini": "pgd-at", "gradalign": "fgsm-at"}
DEFAULT_BASES = {name: ADVERSARIAL_BASES.get(name, "standard") for name in REGULARIZERS}
LENGTHS = {"vat": ("radius", "xi"), "sagr": ("h",), "tulip": ("h",), "cure": ("h",)}  # options that are Euclidean, in pixel units
NO_INPUT_GRADIENT = ("standard", "l1", "l2")  # what takes no gradient by the images
NEED_TEACHER = ("igd", "hat")  # what learns from a network trained without a defence


def regularizers_of(sentences: Iterable[str]) -> dict[str, Regularizer]:
    """The regularisers that sentences such as `sagr=0.1,rho=0.3,warmup=0.5` or `mine.py:penalty=2` name, ready for `penalised_loss`."""
    regularizers: dict[str, Regularizer] = {}
    for recipe in map(parse_recipe, sentences):
        if recipe.label in regularizers:
            raise InputError(f"regulariser {recipe.name!r} is given twice: one weight and one set of options a name")
        regularizers[recipe.label] = weighted_regularizer(recipe)
    return regularizers


def refuse_unreachable(recipes: Iterable[Recipe], threat: Threat, shape: Sequence[int]) -> None:
    """InputError where the radius, or a length in pixel units among the options of built-in methods, exceeds the diameter of the box."""
    refuse_too_large_eps(threat, shape)
    for recipe in recipes:
        built_in = recipe.name in OBJECTIVES or recipe.name in REGULARIZERS
        for option in ("step_size", *LENGTHS.get(recipe.name, ())) if built_in else ():
            if option in recipe.options:
                norm = threat.norm if option == "step_size" else "l2"
                length_option(f"{recipe.name} with {option}", recipe.options[option], norm, shape)


def takes_input_gradient(recipe: Recipe) -> bool:
    """Whether a built-in objective or regulariser takes the gradient of the model by its images; of the user's own nothing is known."""
    asked = (recipe.name, recipe.options.get("estimator"), recipe.options.get("iterations"))
    if recipe.name in NO_INPUT_GRADIENT or asked[:2] == ("sagr", "fd-input") or asked[::2] == ("vat", 0):
        return False
    return recipe.name in OBJECTIVES or recipe.name in REGULARIZERS


def regularizer_notes(sentences: Iterable[str], classes: int) -> list[str]:
    """What a training on this many classes is to say of its regularisers; InputError for an option that changes nothing there."""
    found: list[str] = []
    for recipe in map(parse_recipe, sentences):
        found += sagr_remarks(classes, **recipe.options) if recipe.name == "sagr" else []
    return found


def weighted_regularizer(recipe: Recipe) -> Regularizer:
    """The weight by progress and the penalty that a recipe names.

    `warmup` and `drops` belong to the weight and are understood with every regulariser; the other options are the function's own.
    """
    options = dict(recipe.options)
    warmup, drops = options.pop("warmup", DEFAULT_WARMUPS.get(recipe.name, 0.0)), options.pop("drops", None)
    weight = DEFAULT_WEIGHTS.get(recipe.name, 1.0) if recipe.weight is None else recipe.weight
    return weight_schedule(weight, warmup, () if drops is None else tuple(training_shares(drops))), resolve(
        replace(recipe, options=options), REGULARIZERS, "regulariser"
    )
