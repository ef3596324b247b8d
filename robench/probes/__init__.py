"""Probes: probe(model, x, y, draws, *, options) -> Iterator[Level]; the dict PROBES lists them.

A probe changes images without a norm ball: noise on few subpixels, boxes on few pixels. The inductive ones take the places from the
saliency of the model that they are run on, the random ones are their baselines.

The contract. The caller has put the model into eval mode with frozen parameters (`core.model_calls.freeze_model`) and hands over only
images that are right when clean, x (B, C, H, W) in [0, 1] and y (B,). The probe yields a Level for each setting and repeat; every image is
in every level, and each level is for itself: levels are no cascade. `Level.setting` names what varies inside the call, and every setting
comes with the same repeats. Randomness is a pure function of `draws`; a logit that is not finite never counts as fooled; no model call
has more than max(B, 64) rows. Options are keyword-only with plain defaults, and a wrong one is an InputError at the first level.

A new probe is a function in a file of its own and a line in PROBES; a user's own joins as `file.py:function` with the same signature.
`--attack` tells the two by their arguments: (model, x, y, draws) makes a probe, (model, x, y, threat, draws) an attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from robench.core.types import Level
from robench.probes.noise import inductive_noise, random_noise
from robench.probes.occlusion import inductive_occlusion, random_occlusion

Probe = Callable[..., Iterator[Level]]


def probe_variant(probe: Probe, **options: Any) -> Probe:
    """The probe with other defaults, and a docstring that says which.

    Args:
        probe: a probe function.
        options: the new defaults, by the names of its options.
    """
    bound = partial(probe, **options)
    words = ", ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in options.items())
    bound.__doc__ = f"{probe.__name__} with {words}. {probe.__doc__}"
    return bound


PROBES: dict[str, Probe] = {
    "inductive-noise": inductive_noise,
    "inductive-noise-2": probe_variant(inductive_noise, kind="replace"),
    "random-noise": random_noise,
    "random-noise-few": probe_variant(random_noise, t="inductive"),
    "random-noise-2": probe_variant(random_noise, kind="replace"),
    "inductive-occlusion": inductive_occlusion,
    "inductive-occlusion-n5r10": probe_variant(inductive_occlusion, count=5, radius=10 / 224),
    "inductive-occlusion-n10r20": probe_variant(inductive_occlusion, count=10, radius=20 / 224),
    "random-occlusion": random_occlusion,
    "random-occlusion-n5r10": probe_variant(random_occlusion, count=5, radius=10 / 224),
    "random-occlusion-n10r20": probe_variant(random_occlusion, count=10, radius=20 / 224),
}
