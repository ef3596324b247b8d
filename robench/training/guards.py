"""What can go wrong in a training, told from what the steps and epochs say: divergence, catastrophic and robust overfitting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from robench.core.recipes import Recipe
from robench.core.rows import wilson
from robench.objectives import default_options, facts_of

GUARDS = ("stop", "roll-back", "off")
ONCE_ROBUST = 0.2  # accuracy under PGD from which a network has robustness to lose
CATASTROPHIC_FALL = 0.2  # of the accuracy under PGD, from its best to now
LEFT_BY_FGSM = 0.6  # share of the clean accuracy that FGSM leaves; an undefended network shows FGSM .29 against PGD .03 at 2/255
FGSM_GAP = 3.0  # how many times the accuracy under PGD is below that under FGSM
EXPLOSION = 1000.0  # times the loss of the first step
ROBUST_FALL = 0.05
FEW_STEPS = 3


def has_weak_adversary(recipes: Sequence[Recipe]) -> bool:
    """Whether an objective or a regulariser of these trains against an adversary of one to three steps, which a network can learn to fool.

    That is so of what says that it belongs to single-step training, and of whatever has or is given an option `steps` of up to three.
    """
    steps = [recipe.options.get("steps", default_options(recipe.name).get("steps", 0)) for recipe in recipes]  # need not be numbers
    return any(facts_of(recipe.name).single_step or its in range(1, FEW_STEPS + 1) for recipe, its in zip(recipes, steps, strict=True))


def divergence_alarm(terms: Mapping[str, float], first: float) -> str:
    """What is wrong with the terms of one step, "" if nothing: a number that is not finite, a loss far above that of the first step.

    Args:
        terms: the loss under "loss", and its terms.
        first: the loss of the first step.
    """
    nonfinite = [name for name, term in terms.items() if not math.isfinite(term)]
    if nonfinite:
        return f"{', '.join(nonfinite)} became NaN or infinite"
    if abs(terms["loss"]) > EXPLOSION * max(abs(first), 1.0):
        return f"the loss rose to {terms['loss']:.3g} from {first:.3g} in the first step"
    return ""


def overfitting_alarm(history: Sequence[Mapping[str, Any]]) -> str:
    """What tells catastrophic overfitting in the records of the epochs so far, "" if nothing does (Wong et al. 2020, 2001.03994).

    The network fools its own weak adversary: in two epochs running FGSM leaves over 60 % of the clean accuracy and PGD less than a third of
    what FGSM leaves; or PGD accuracy, once above 20 %, falls by more than 20 points below its best (our thresholds). All three accuracies
    are those on the attacked held-out images. A smaller lead of FGSM over PGD is none: healthy single-step training shows .95 and .46.
    """
    robust = [float(record["held_out_robust"]) for record in history]
    best = max((value for value in robust if not math.isnan(value)), default=math.nan)
    if best > ONCE_ROBUST and best - robust[-1] > CATASTROPHIC_FALL:
        return f"held-out PGD-10 accuracy fell from {best:.1%} to {robust[-1]:.1%}"
    if len(history) > 1 and all(map(has_fgsm_gap, history[-2:])):
        now = history[-1]
        return (
            f"held-out accuracy is {now['held_out_fgsm']:.1%} under FGSM and {now['held_out_robust']:.1%} under PGD-10, "
            f"and was {history[-2]['held_out_fgsm']:.1%} and {history[-2]['held_out_robust']:.1%} in the epoch before"
        )
    return ""


def has_fgsm_gap(record: Mapping[str, Any]) -> bool:
    """Whether in this epoch FGSM leaves over 60 % of the clean accuracy, and PGD less than a third of what FGSM leaves."""
    clean, fgsm = (float(record.get(name, math.nan)) for name in ("held_out_attacked_clean", "held_out_fgsm"))
    return fgsm > LEFT_BY_FGSM * clean and record["held_out_robust"] < fgsm / FGSM_GAP


# which epoch is kept


def sound_accuracies(history: Sequence[Mapping[str, Any]]) -> list[float]:
    """The accuracies under PGD of the epochs that ended without an alarm."""
    return [float(record["held_out_robust"]) for record in history if not record.get("alarm")]


def is_near_best(robust: float, history: Sequence[Mapping[str, Any]], n: int) -> bool:
    """Whether an accuracy under PGD lies within one standard error of the best of the epochs; so where nothing was measured.

    The latest such epoch is the one to keep. One that is not near the best so far is not near a later, larger best; one that raises the
    best is near it, and later than all before. So the epoch to keep is known after every epoch, and no others need to be kept for later.

    Args:
        robust: the accuracy, in [0, 1].
        history: the records of the epochs.
        n: how many images it was measured on.
    """
    best = max((value for value in sound_accuracies(history) if not math.isnan(value)), default=math.nan)
    return not robust < best - math.sqrt(best * (1 - best) / max(n, 1))


def unproven_choice_note(history: Sequence[Mapping[str, Any]], n: int, classes: int) -> str:
    """A sentence where no epoch's accuracy under PGD is surely above 1.5 times chance, so that it cannot choose the epoch.

    Args:
        history: the records of the epochs.
        n: how many held-out images are attacked.
        classes: how many classes there are; chance is one in that many.
    """
    best, floor = max((value for value in sound_accuracies(history) if not math.isnan(value)), default=math.nan), 1.5 / classes
    if math.isnan(best) or wilson(round(best * n), n)[0] > floor:
        return ""
    which = "a gap of FGSM over PGD-10" if has_late_gap(history) else "an alarm"
    return (
        f"held-out PGD-10 accuracy is {best:.1%} at best, on {n} images: not surely above {floor:.1%}, 1.5 times chance, "
        f"so it did not choose the epoch; the last one without {which} was taken"
    )


def has_late_gap(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last epoch without an alarm shows the gap that the alarm watches for, and an earlier one does not."""
    gaps = [has_fgsm_gap(record) for record in history if not record.get("alarm")]
    return bool(gaps) and gaps[-1] and not all(gaps)


def robust_overfitting_note(history: Sequence[Mapping[str, Any]], n: int) -> str:
    """A sentence where the last epoch is less robust than the best, by over 5 points and more than noise (Rice et al. 2020, 2002.11569).

    The 95 % interval of the difference of the two accuracies must exclude 0. It is Newcombe's (1998, method 10) without the pairing, which
    makes it too wide: the images are the same in both epochs.

    Args:
        history: the records of the epochs.
        n: how many held-out images are attacked with PGD-10.
    """
    robust = sound_accuracies(history)
    best, now = max(robust, default=math.nan), robust[-1] if robust else math.nan
    if not best - now > ROBUST_FALL or history[-1].get("alarm"):
        return ""
    low, high = wilson(round(best * n), n)[0], wilson(round(now * n), n)[1]
    if best - now <= math.hypot(best - low, high - now):
        return ""
    when = next(record["epoch"] for record in history if record["held_out_robust"] == best) + 1
    return f"robust overfitting: held-out PGD-10 accuracy was {best:.1%} in epoch {when} and is {now:.1%} in the last one, on {n} images"
