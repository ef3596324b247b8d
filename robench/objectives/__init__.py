"""Training losses: base objectives and regularisers, one paper per file.

A regulariser is a function (model, batch, *, options...) -> scalar, an objective a function of options -> `Objective`. A new one is a
function in a file and a line in REGULARIZERS or OBJECTIVES; what else is known of it, such as its default weight or that it needs a
teacher, stands above the function as `@Facts(...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from robench.core.errors import InputError
from robench.core.recipes import Recipe, options_of, parse_recipe, resolve
from robench.core.schedules import training_shares
from robench.core.synonyms import OTHER_OPTION_HINTS
from robench.core.threat import Threat, length_option, refuse_too_large_eps
from robench.objectives.adversarial import pgd_at
from robench.objectives.alp import alp
from robench.objectives.arr import arr
from robench.objectives.cross_lipschitz import cross_lipschitz
from robench.objectives.cure import cure
from robench.objectives.double_backprop import double_backprop
from robench.objectives.emr import emr
from robench.objectives.facts import Facts, facts_of_function
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
from robench.objectives.standard import standard
from robench.objectives.terms import Loss, Objective, Penalty, Regularizer, WeightSchedule, penalised_loss, weight_schedule
from robench.objectives.trades import trades
from robench.objectives.tulip import tulip
from robench.objectives.vat import vat
from robench.objectives.weight_norms import l1, l2

__all__ = [
    "OBJECTIVES",
    "REGULARIZERS",
    "Facts",
    "Loss",
    "Objective",
    "Penalty",
    "Regularizer",
    "WeightSchedule",
    "default_options",
    "facts_of",
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

OTHER_OPTION_HINTS["regulariser"] = {name: f"it is an objective: --objective {name}" for name in OBJECTIVES}
OTHER_OPTION_HINTS["objective"] = {name: f"it is a regulariser: --reg {name}" for name in REGULARIZERS}


def facts_of(name: str) -> Facts:
    """What is known of an objective or a regulariser by its name.

    Args:
        name: a key of OBJECTIVES or of REGULARIZERS; another name is that of the user's own function, of which the defaults are known.

    Example:
        >>> facts_of("fgsm-rs").single_step, facts_of("igd").base, facts_of("mine.py:penalty") == Facts()
        (True, 'pgd-at', True)
    """
    return facts_of_function({**OBJECTIVES, **REGULARIZERS}[name]) if is_built_in(name) else Facts()


def default_options(name: str) -> dict[str, Any]:
    """The options of an objective or a regulariser with their defaults.

    Args:
        name: a key of OBJECTIVES or of REGULARIZERS; another name is that of the user's own function, and has none here.

    Example:
        >>> default_options("trades")
        {'beta': 6.0, 'steps': 10, 'step_size': None, 'adversary': 'kl'}
    """
    return options_of({**OBJECTIVES, **REGULARIZERS}[name]) if is_built_in(name) else {}


def is_built_in(name: str) -> bool:
    """Whether a name is a key of OBJECTIVES or of REGULARIZERS."""
    return name in OBJECTIVES or name in REGULARIZERS


def regularizers_of(sentences: Iterable[str]) -> dict[str, Regularizer]:
    """The regularisers that sentences name, each with its weight by progress, ready for `penalised_loss`.

    Args:
        sentences: such as "sagr=0.1,rho=0.3,warmup=0.5" or "mine.py:penalty=2"; the function's file is run.

    Returns:
        (weight, penalty) by label, in the order of the sentences.

    Raises:
        InputError: for a name or an option that is unknown or cannot be, and for a regulariser that is given twice.

    Example:
        >>> weight, _ = regularizers_of(["jacobian=0.01,warmup=0.5"])["jacobian"]
        >>> weight(0.25), weight(0.75)
        (0.005, 0.01)
    """
    regularizers: dict[str, Regularizer] = {}
    for recipe in map(parse_recipe, sentences):
        if recipe.label in regularizers:
            raise InputError(f"regulariser {recipe.name!r} is given twice: one weight and one set of options a name")
        regularizers[recipe.label] = weighted_regularizer(recipe)
    return regularizers


def refuse_unreachable(recipes: Iterable[Recipe], threat: Threat, shape: Sequence[int]) -> None:
    """Refuses a radius, or a length in pixel units among the options of built-in recipes, that exceeds the diameter of the box.

    Args:
        recipes: of the objective and the regularisers.
        threat: what an adversary of training may do.
        shape: (C, H, W) of the images.

    Raises:
        InputError: naming the length.
    """
    refuse_too_large_eps(threat, shape)
    for recipe in recipes:
        for option in ("step_size", *facts_of(recipe.name).lengths) if is_built_in(recipe.name) else ():
            if option in recipe.options:
                norm = threat.norm if option == "step_size" else "l2"
                length_option(f"{recipe.name} with {option}", recipe.options[option], norm, shape)


def takes_input_gradient(recipe: Recipe) -> bool:
    """Whether a built-in objective or regulariser takes the gradient of the model by its images.

    Args:
        recipe: names it, with its options; of the user's own nothing is known, and the answer is False.
    """
    facts = facts_of(recipe.name)
    gradient_free = any(recipe.options.get(option) == value for option, value in facts.gradient_free_options.items())
    return is_built_in(recipe.name) and facts.input_gradient and not gradient_free


def regularizer_notes(sentences: Iterable[str], classes: int) -> list[str]:
    """What a training is to say of its regularisers.

    Args:
        sentences: name the regularisers.
        classes: number of logits of the model.

    Raises:
        InputError: for an option that changes nothing with so many classes.
    """
    regularizers = [(recipe, facts_of(recipe.name).notes) for recipe in map(parse_recipe, sentences)]
    return [note for recipe, notes_of in regularizers if notes_of for note in notes_of(classes, **recipe.options)]


def weighted_regularizer(recipe: Recipe) -> Regularizer:
    """The weight by progress and the penalty that a recipe names.

    `warmup` and `drops` belong to the weight and are understood with every regulariser; the other options are the function's own.

    Args:
        recipe: the name, the weight and the options; what it leaves out comes from the facts of the regulariser.

    Raises:
        InputError: for a name or an option that is unknown or cannot be.
    """
    options, facts = dict(recipe.options), facts_of(recipe.name)
    warmup, drops = options.pop("warmup", facts.warmup), options.pop("drops", None)
    weight = facts.weight if recipe.weight is None else recipe.weight
    return weight_schedule(weight, warmup, () if drops is None else tuple(training_shares(drops))), resolve(
        replace(recipe, options=options), REGULARIZERS, "regulariser"
    )
