"""Scores: score(explained, *, options) -> (B,) float64, one number an image, NaN where it is not defined; the dict SCORES lists them.

The caller has made the maps (`core.types.ExplainedImages`) in eval mode with frozen parameters. Scores that ask the model or the method
again take their random numbers from `explained.draws`, so that no score depends on the batch. What belongs to the model and not to a map,
row norms and effective margins, comes from `scores.geometry.jacobian_geometry` and has its names in GROUPS["jacobian"].

A new score is a function in a file and a line in SCORES. What is known of it besides, its meaning, which direction is better and its
group, stands above the function as `@ScoreFacts(...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from robench.core.facts import facts_above
from robench.core.moved import names_of_before
from robench.scores.facts import NEITHER, ScoreFacts
from robench.scores.faithfulness import completeness, deletion, infidelity, insertion
from robench.scores.geometry import JACOBIAN_SCORES, alignment
from robench.scores.inequality import entropy, gini, gini_positive, regional_gini, regional_gini_positive, top_mass
from robench.scores.localisation import mass_gain, mass_in_mask, pointing_game
from robench.scores.randomisation import randomisation
from robench.scores.stability import max_sensitivity

SCORES: dict[str, Callable[..., Tensor]] = {
    "gini": gini,
    "gini-positive": gini_positive,
    "regional-gini": regional_gini,
    "regional-gini-positive": regional_gini_positive,
    "entropy": entropy,
    "top-mass": top_mass,
    "top-mass-1": ScoreFacts("The part of a map's sum that the largest 1 % of its subpixels carry.", NEITHER, group="maps")(
        partial(top_mass, share=0.01)
    ),
    "top-mass-5": ScoreFacts("The part of a map's sum that the largest 5 % of its subpixels carry.", NEITHER, group="maps")(
        partial(top_mass, share=0.05)
    ),
    "alignment": alignment,
    "pointing-game": pointing_game,
    "mass-in-mask": mass_in_mask,
    "mass-gain": mass_gain,
    "completeness": completeness,
    "infidelity": infidelity,
    "max-sensitivity": max_sensitivity,
    "deletion": deletion,
    "insertion": insertion,
    "randomisation": randomisation,
}
SCORE_FACTS = {name: facts_above(score, ScoreFacts) for name, score in SCORES.items()} | JACOBIAN_SCORES


def score_facts(name: str) -> ScoreFacts:
    """What is known of a score by its name.

    Args:
        name: a key of SCORES or of JACOBIAN_SCORES; another name is that of the user's own function, of which the defaults are known.

    Example:
        >>> score_facts("deletion").better, score_facts("top-mass-1").group, score_facts("mine.py:central").better
        ('lower is better', 'maps', 'its author knows')
    """
    return SCORE_FACTS.get(name, ScoreFacts())


def score_groups(facts: Mapping[str, ScoreFacts]) -> dict[str, tuple[str, ...]]:
    """The scores that the name of each group stands for, as sentences, and all of them together under "all".

    Args:
        facts: what is known of each score, by its name.

    Example:
        >>> score_groups({"a": ScoreFacts(group="maps"), "b": ScoreFacts(group="trust", group_options="block=4"), "mine": ScoreFacts()})
        {'maps': ('a',), 'trust': ('b,block=4',), 'all': ('a', 'b,block=4')}
    """
    groups: dict[str, tuple[str, ...]] = {}
    for name, its in facts.items():
        if its.group:
            groups[its.group] = (*groups.get(its.group, ()), f"{name},{its.group_options}" if its.group_options else name)
    return groups | {"all": tuple(name for names in groups.values() for name in names)}


GROUPS = score_groups(SCORE_FACTS)

__getattr__ = names_of_before(__name__, {"AUDITS": "SCORES"})
