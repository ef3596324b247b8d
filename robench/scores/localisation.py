"""Does the map lie on the object? Scores of maps against masks (B, H, W) of where the object is, for data that has them.

All read the sizes, so evidence against the class counts like evidence for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robench.core.checks import whole_option
from robench.core.errors import InputError
from robench.core.types import ExplainedImages
from robench.scores.facts import HIGHER, ScoreFacts


@ScoreFacts("The share of images whose map has its largest pixel on the object.", HIGHER, group="masks")
def pointing_game(explained: ExplainedImages, *, margin: int = 0) -> Tensor:
    """Whether the largest pixel of each map lies on the object, (B,) float64: 1 for a hit, 0 for a miss; the mean is the score.

    A pixel's value is the sum of its sizes over channels. Where several pixels share the largest value the score is the part of them that
    hits (our choice). Source: Zhang et al. 2016 (1608.00507).

    Args:
        explained: maps with sizes (B, c, H, W) and masks (B, H, W) of the objects.
        margin: a miss by at most so many pixels, measured between pixel centres, is a hit too; at least 0 (15 is usual at 224 px and more).

    Returns:
        The shares (B,) float64; NaN for a map that is 0 everywhere or not finite somewhere and for an empty mask.

    Raises:
        InputError: where there are no masks, or masks of another shape, and where the margin is no whole number of at least 0.
    """
    mask, heat = widened_masks(masks_of(explained), whole_option("margin", margin, 0)), pixel_sizes(explained)
    top = heat == heat.amax((1, 2), keepdim=True)
    return values_where_defined(explained, share_inside(top.double(), mask))


@ScoreFacts("The part of a map's sum that lies on the object.", HIGHER, group="masks")
def mass_in_mask(explained: ExplainedImages) -> Tensor:
    """The part of the sum of sizes that lies on the object, (B,) float64 in [0, 1].

    An even map gets the object's share of the image, which is what a value has to be held against: see `mass_gain`. Source: the relevance
    mass accuracy of Arras et al. 2020 (2003.07258); Kohlbrenner et al. 2020 (1910.09840) take the positive entries alone.

    Args:
        explained: maps with sizes (B, c, H, W) and masks (B, H, W) of the objects.

    Returns:
        The parts (B,) float64; NaN as for `pointing_game`.

    Raises:
        InputError: where there are no masks, or masks of another shape.
    """
    return values_where_defined(explained, share_inside(pixel_sizes(explained), masks_of(explained)))


@ScoreFacts(
    "The part of a map's sum that lies on the object, divided by the object's share of the pixels: 1 is what an even map gets.",
    HIGHER,
    group="masks",
)
def mass_gain(explained: ExplainedImages) -> Tensor:
    """The score mass-in-mask over the object's share of the pixels, (B,) float64: 1 is what an even map gets, more is on the object.

    It is at most the inverse of the object's share, so images with large objects cannot score high. Source: the weighted localisation of
    Kohlbrenner et al. 2020 (1910.09840), on sizes.

    Args:
        explained: maps with sizes (B, c, H, W) and masks (B, H, W) of the objects.

    Returns:
        The gains (B,) float64; NaN as for `pointing_game`.

    Raises:
        InputError: where there are no masks, or masks of another shape.
    """
    return mass_in_mask(explained) / masks_of(explained).double().mean((1, 2))


def masks_of(explained: ExplainedImages) -> Tensor:
    """The masks (B, H, W) bool, on the device of the sizes; InputError where there are none, or of another shape than the maps."""
    masks, sizes = explained.masks, explained.sizes
    if masks is None:
        raise InputError("this score needs masks that say where the object is, and the data has none: leave the score out or add masks")
    if masks.shape != (len(sizes), *sizes.shape[2:]):
        raise InputError(f"masks of shape {tuple(masks.shape)} do not fit maps of shape {tuple(sizes.shape)}: one (H, W) mask per map")
    return masks.to(sizes.device).bool()


def pixel_sizes(explained: ExplainedImages) -> Tensor:
    """The value of each pixel, (B, H, W) float64: its sizes summed over channels."""
    return explained.sizes.sum(1, dtype=torch.float64)


def widened_masks(masks: Tensor, margin: int) -> Tensor:
    """The masks (B, H, W) with every pixel added that is at most `margin` pixels away from one of theirs."""
    if not margin:
        return masks
    step = torch.arange(-margin, margin + 1, device=masks.device)
    disc = (step.square()[:, None] + step.square() <= margin**2).float()
    return F.conv2d(masks[:, None].float(), disc[None, None], padding=margin)[:, 0] > 0.5


def share_inside(heat: Tensor, masks: Tensor) -> Tensor:
    """The part of the sum of heat (B, H, W) that lies inside the masks, (B,)."""
    return (heat * masks).sum((1, 2)) / heat.sum((1, 2))


def values_where_defined(explained: ExplainedImages, values: Tensor) -> Tensor:
    """The values (B,), NaN where the mask is empty or the map is 0 everywhere or not finite somewhere."""
    total = pixel_sizes(explained).sum((1, 2))
    defined = (total > 0) & total.isfinite() & masks_of(explained).any(2).any(1)
    return values.where(defined, torch.nan)
