"""Does the map stay when the image hardly changes? Max-sensitivity."""

from __future__ import annotations

import torch
from torch import Tensor

from robench.core.checks import whole_option
from robench.core.threat import length_option
from robench.core.types import ExplainedImages
from robench.scores.facts import LOWER, ScoreFacts


@ScoreFacts(
    "The largest change of a map under small changes of its image, as a part of the map's length.",
    LOWER,
    group="trust",
    makes_maps=True,
)
def max_sensitivity(explained: ExplainedImages, *, radius: float = 0.02, samples: int = 10) -> Tensor:
    """The largest change of each map under small changes of its image, as a part of the map's length, (B,) float64 >= 0: 0 is steady.

    max over x' of ||a(x') - a(x)||_2 / ||a(x)||_2, x' uniform in the l-infinity ball around x, estimated by sampling as in the paper (a
    larger `samples` can only raise it). x' is kept in [0, 1], because a pixel beyond is none (our choice): away from the faces of the box
    it is Captum's sensitivity_max under the same changes, at black and white pixels less. The target stays. The map of x is made anew,
    with the random numbers that the maps of x' get too: only then is the difference due to the image, and a method that draws noise is not
    charged with its noise. Cost: `samples` + 1 maps. Source: Yeh et al. 2019 (1901.09392).

    Args:
        explained: images (B, C, H, W), the model, and the method that maps are made by.
        radius: how far a subpixel may move, in pixel units, at most 1.
        samples: number of random changes that are tried, at least 1.

    Returns:
        The changes (B,) float64; NaN where the map of x is 0 everywhere or a map is not finite.

    Raises:
        InputError: where the radius or the number of samples is out of its range.
    """
    model, x = explained.model, explained.x
    radius = length_option("radius", radius, "linf", x.shape[1:])
    noise, most = explained.draws.child("max-sensitivity"), torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def mapped(images: Tensor) -> Tensor:
        return explained.explain(model, images, explained.target, explained.draws).double().flatten(1)

    before = mapped(x)
    for step in range(whole_option("samples", samples)):
        neighbours = (x + radius * (2 * noise.uniform(tuple(x.shape[1:]), step).to(x) - 1)).clamp(0, 1)
        most = torch.maximum(most, torch.linalg.vector_norm(mapped(neighbours) - before, dim=1))
    length: Tensor = torch.linalg.vector_norm(before, dim=1)
    defined = (length > 0) & length.isfinite() & most.isfinite()
    return torch.where(defined, most / length, torch.nan)
