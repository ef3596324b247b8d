"""What can go wrong in a training, told from what the steps and epochs say: divergence, catastrophic and robust overfitting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from robench.recipes import Recipe

GUARDS = ("stop", "roll-back", "off")
ONCE_ROBUST = 0.2  # an undefended network shows FGSM .29 against PGD .03 at 2/255: only a network that was robust can lose it
FALL = 0.2  # of the accuracy under PGD, from its best to now, or of PGD's below FGSM's
EXPLOSION = 1000.0  # times the loss of the first step
ROBUST_FALL = 0.05
FEW_STEPS = 3
SINGLE_STEP = ("fgsm-at", "fgsm-rs", "n-fgsm", "free-at", "gradalign")


def in_danger(recipes: Sequence[Recipe]) -> bool:
    """Whether an objective or a regulariser of these trains against an adversary of one to three steps, which a network can learn to fool.

    That is so of the single-step methods by name, of arr with its one step, and of whatever is given an option `steps` of up to three.
    """
    return any(recipe.name in SINGLE_STEP or steps_of(recipe) in range(1, FEW_STEPS + 1) for recipe in recipes)


def steps_of(recipe: Recipe) -> Any:
    """The option `steps` as it was given, which need not be a number; else 1 for arr, whose default that is, and 0 for the others."""
    return recipe.options.get("steps", 1 if recipe.name == "arr" else 0)


def diverged(terms: Mapping[str, float], first: float) -> str:
    """What is wrong with the terms of one step, "" if nothing: a number that is not finite, a loss far above that of the first step."""
    lost = [name for name, term in terms.items() if not math.isfinite(term)]
    if lost:
        return f"{', '.join(lost)} became NaN or infinite"
    if abs(terms["loss"]) > EXPLOSION * max(abs(first), 1.0):
        return f"the loss rose to {terms['loss']:.3g} from {first:.3g} in the first step"
    return ""


def overfitted(history: Sequence[Mapping[str, Any]]) -> str:
    """What tells catastrophic overfitting in the records of the epochs so far, "" if nothing does (Wong et al. 2020, 2001.03994).

    The signature is a network that fools its own weak adversary: PGD accuracy on the held-out images falls by more than 20 points from
    its best, or lies more than 20 points below FGSM accuracy. Both count only once PGD accuracy has exceeded 20 % (our thresholds).
    """
    robust = [float(record["held_out_robust"]) for record in history]
    best = max(robust, default=math.nan)
    if not best > ONCE_ROBUST:
        return ""
    now, fgsm = robust[-1], history[-1].get("held_out_fgsm")
    if best - now > FALL:
        return f"held-out PGD-10 accuracy fell from {best:.1%} to {now:.1%}"
    if fgsm is not None and fgsm - now > FALL:
        return f"held-out accuracy is {fgsm:.1%} under FGSM and {now:.1%} under PGD-10"
    return ""


def robust_overfitting(history: Sequence[Mapping[str, Any]]) -> str:
    """A sentence where the last epoch is over 5 points less robust on held-out images than the best (Rice et al. 2020, 2002.11569)."""
    robust = [float(record["held_out_robust"]) for record in history]
    best = max(robust, default=math.nan)
    if not robust or not best - robust[-1] > ROBUST_FALL:
        return ""
    when = history[robust.index(best)]["epoch"] + 1
    return f"robust overfitting: held-out PGD-10 accuracy was {best:.1%} in epoch {when} and is {robust[-1]:.1%} in the last one"
