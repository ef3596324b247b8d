"""Scores: score(explained, *, options) -> (B,) float64, one number an image, NaN where it is not defined; the dict SCORES lists them.

The caller has made the maps (`core.types.ExplainedImages`) in eval mode with frozen parameters. Scores that ask the model or the method
again take their random numbers from `explained.draws`, so that no score depends on the batch. What belongs to the model and not to a map,
row norms and effective margins, comes from `scores.geometry.jacobian_geometry` and has its names in GROUPS["jacobian"].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from robench.core.moved import names_of_before
from robench.scores.faithfulness import completeness, deletion, infidelity, insertion
from robench.scores.geometry import alignment
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
    "top-mass-1": partial(top_mass, share=0.01),
    "top-mass-5": partial(top_mass, share=0.05),
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
GROUPS: dict[str, tuple[str, ...]] = {
    "maps": ("gini", "regional-gini", "entropy", "top-mass-1", "top-mass-5", "alignment"),
    "masks": ("pointing-game", "mass-in-mask", "mass-gain"),
    "trust": ("completeness", "infidelity", "max-sensitivity", "deletion,block=4", "insertion,block=4", "randomisation"),
    "jacobian": ("row-norm-true", "row-norm-mean", "margin", "effective-margin", "effective-margin-min", "slope-alignment"),
}
GROUPS["all"] = (*GROUPS["maps"], *GROUPS["masks"], *GROUPS["trust"], *GROUPS["jacobian"])

__getattr__ = names_of_before(__name__, {"AUDITS": "SCORES"})
