"""Attacks: attack(model, x, y, threat, draws, *, options) -> AttackResult, one paper a file; the dict ATTACKS lists them.

The contract. The caller has put the model into eval mode with frozen parameters (`core.model_calls.freeze_model`), hands over only samples
that are right when clean, x (B, C, H, W) in [0, 1] and y (B,), asserts that x_adv lies inside the threat, and evaluates it
again: an attack proposes, the caller decides. The attack returns the worst point it found, or clean x, for each sample; its
randomness is a pure function of `draws`. A sample that is wrong when clean is fooled at step 0. Options are keyword-only
with plain defaults, and a wrong one is an InputError.

Each file reads top to bottom: the paper, the attack, its loop, its steps, their helpers. Four modules serve several attacks: `active`
(the samples that still stand, passes, verdicts), `losses`, `targets` (the class to reach) and `kernels` (what may be compiled).

A new attack is a function in a file of its own on top of `attacks.active.Search`, and a line in ATTACKS; what a run must know of it
besides, that it takes no gradient, stands above the function as `@AttackFacts(...)`; a user's own joins as
`file.py:function` with the same signature. A name is a complete recipe: `pgd-50-10` is what ran, whatever pgd's defaults are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from robench.attacks import losses, reference
from robench.attacks.apgd import apgd, apgd_t
from robench.attacks.fab import fab, fab_t
from robench.attacks.facts import AttackFacts
from robench.attacks.fgsm import fgsm
from robench.attacks.malt import malt
from robench.attacks.noise import noise
from robench.attacks.pgd import pgd
from robench.attacks.square import square
from robench.attacks.transfer import transfer
from robench.core.facts import facts_above
from robench.core.moved import names_of_before
from robench.core.recipes import options_of
from robench.core.types import AttackResult


def attack_variant(attack: Callable[..., AttackResult], **options: Any) -> Callable[..., AttackResult]:
    """The attack with other defaults, and a docstring that says which.

    Args:
        attack: an attack function.
        options: the new defaults, by the names of its options.
    """
    bound = partial(attack, **options)
    words = ", ".join(f"{key}={value}" for key, value in options.items())
    bound.__doc__ = f"{attack.__name__} with {words}. {attack.__doc__}"
    return bound


def attack_for_classes(attack: Callable[..., AttackResult], classes: int) -> Callable[..., AttackResult]:
    """The attack with the options that so many classes allow: at most classes - 1 targets, and the margin where DLR is undefined.

    Args:
        attack: an attack function, or a partial of one.
        classes: number of classes K of the model.

    Returns:
        A partial with the changed options; the attack itself where nothing has to change.
    """
    options = options_of(attack)
    changes: dict[str, Any] = {}
    if isinstance(options.get("targets"), int) and options["targets"] > classes - 1 > 0:
        changes["targets"] = classes - 1
    if isinstance(options.get("loss"), str):
        targeted = "targets" in options or options.get("target", "none") != "none"
        changes["loss"] = losses.fitting_loss_name(options["loss"], classes, targeted)
    new = {key: value for key, value in changes.items() if value != options[key]}
    return partial(attack, **new) if new else attack


ATTACKS: dict[str, Callable[..., AttackResult]] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "pgd-10": attack_variant(pgd, steps=10),
    "pgd-20": attack_variant(pgd, steps=20),
    "pgd-50": attack_variant(pgd, steps=50),
    "pgd-50-10": attack_variant(pgd, steps=50, restarts=10),
    "pgd-margin": attack_variant(pgd, loss="margin", steps=40, restarts=2),
    "noise": noise,
    "apgd": apgd,
    "apgd-ce": attack_variant(apgd, loss="ce"),
    "apgd-dlr": attack_variant(apgd, loss="dlr"),
    "apgd-t": apgd_t,
    "malt": malt,
    "fab": fab,
    "fab-t": fab_t,
    "square": square,
}
ENGINES: dict[str, dict[str, Callable[..., AttackResult]]] = {"robench": ATTACKS, "reference": ATTACKS | reference.REFERENCE_ATTACKS}


def attack_facts(name: str) -> AttackFacts:
    """What is known of an attack by its name in the tables of a run.

    Args:
        name: a key of ATTACKS or "transfer:MODEL"; another name is that of the user's own function, of which the defaults are known.

    Example:
        >>> attack_facts("square").black_box, attack_facts("transfer:other.pt").black_box, attack_facts("pgd-10").black_box
        (True, True, False)
    """
    attack = {**ATTACKS, "transfer": transfer}.get(name.partition(":")[0])
    return facts_above(attack, AttackFacts) if attack else AttackFacts()


__getattr__ = names_of_before(__name__, {"Found": "AttackResult"})
