"""Does the map say what the model does? Completeness and infidelity of its numbers, deletion and insertion by its order of pixels.

All ask the model again, at no more than max(B, 64) images a call. A map that is 0 everywhere or not finite somewhere has no score: NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robench.core.checks import positive_option, switch_option, whole_option
from robench.core.model_calls import call_ranges, padded_logits
from robench.core.recipes import lookup
from robench.core.types import ExplainedImages
from robench.explainers.baselines import baseline_of
from robench.scores.facts import HIGHER, LOWER, ScoreFacts

FLAT = 1e-3  # a rise of the logit below this part of the largest logit is too near to its rounding to divide by [our choice]
TAPS, SIGMA = 11, 5.0  # pixels of the blur, as in the code of Petsiuk et al. for images of 224 px
PIXEL_ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "signed": lambda maps: maps.sum(1, keepdim=True, dtype=torch.float64),
    "absolute": lambda maps: maps.abs().sum(1, keepdim=True, dtype=torch.float64),
}


@ScoreFacts(
    "By how much the sum of a map misses the rise of the logit over the baseline, as a part of that rise.",
    LOWER,
    group="trust",
    complete_only=True,
)
def completeness(explained: ExplainedImages, *, baseline: float | str = 0.0) -> Tensor:
    """By how much the sum of each map misses the rise of the logit, as a part of that rise, (B,) float64 >= 0: 0 is complete.

    |sum of the map - (z(x) - z(baseline))| / |z(x) - z(baseline)| for the logit z that is explained. The sign is left out (our choice), so
    that misses above and below do not cancel in a mean. Integrated gradients and DeepLift promise 0, and gradient SHAP promises it on
    average over its draws; for input x gradient the score says how far the logit is from linear, for other methods nothing. Occlusion,
    ablation and the Shapley methods give every subpixel the value of its whole block: their sum over subpixels means nothing here. The
    quotient is large where the rise is small, so a median says more than a mean. Cost: one forward pass. Source: Sundararajan et al. 2017
    (1703.01365).

    Args:
        explained: maps (B, c, H, W) of images (B, C, H, W), and the model that made them.
        baseline: the image from which the rise is counted, as in `explainers.baselines.baseline_of`; it must be the method's own.

    Returns:
        The misses (B,) float64; NaN where a map is 0 everywhere or not finite somewhere, and where the rise is below a thousandth of the
        largest logit, as the quotient is rounding there (our choice).

    Raises:
        InputError: where the baseline is unknown.
    """
    model, x = explained.model, explained.x
    with torch.no_grad():
        start = padded_logits(model, baseline_of(model, x, baseline)).double()
    end = explained.logits.double()
    rise = target_entries(end - start, explained.target)
    gap = (explained.maps.flatten(1).sum(1, dtype=torch.float64) - rise).abs() / rise.abs()
    largest = torch.maximum(start.abs().amax(1), end.abs().amax(1))
    return gap.where(are_usable(explained.maps) & (rise.abs() > FLAT * largest), torch.nan)


@ScoreFacts(
    "How far a map is from foretelling what noise does to the logit, in squared logits, whose scale differs from model to model.",
    LOWER,
    group="trust",
)
def infidelity(explained: ExplainedImages, *, perturbations: int = 20, stdev: float = 0.01, normalize: bool = True) -> Tensor:
    """How far the map is from foretelling what noise does to the logit, (B,) float64 >= 0, in squared logits: 0 foretells it.

    The mean over I of (<I, a> - (z(x) - z(x - I)))^2 with normal noise I; with `normalize`, a is multiplied by the factor that makes this
    least, mean <I, a> (z(x) - z(x - I)) / mean <I, a>^2, which may be negative. It is Captum's infidelity under the same noise. Captum does
    not scale by default; we do, because only gradients are in logits per pixel: attributions, guided gradients and squares are not, and
    unscaled methods could not be compared (our choice). The factor uses up one draw: the score is too low by about 1 / perturbations. It
    grows with the square of the logits, so models of different logits do not compare. Where the noise reaches beyond what is linear in the
    model, as 0.1 does in undefended networks, no map foretells anything and all maps score alike, random ones too: hence the small default
    (our choice). Noised images are not clipped to [0, 1], as with Captum. A map of one channel counts for each channel. Cost:
    `perturbations` forward passes. Source: Yeh et al. 2019 (1901.09392).

    Args:
        explained: maps (B, c, H, W) of images (B, C, H, W), the model and the draws.
        perturbations: draws of noise for each image, at least 2 with `normalize` (a scale fits one draw exactly), else at least 1.
        stdev: standard deviation of the noise in pixel units, above 0.
        normalize: whether each map is first scaled as fits its image best.

    Returns:
        The infidelities (B,) float64; NaN where a map is 0 everywhere or not finite somewhere.

    Raises:
        InputError: where an option is out of its range.
    """
    count, stdev = (
        whole_option("perturbations", perturbations, 2 if switch_option("normalize", normalize) else 1),
        positive_option("stdev", stdev),
    )
    x, draws, prediction_parts, change_parts = explained.x, explained.draws.child("infidelity"), list[Tensor](), list[Tensor]()
    before = target_entries(explained.logits.double(), explained.target)
    for steps in call_ranges(len(x), count):
        noise = torch.stack([stdev * draws.normal(tuple(x.shape[1:]), step) for step in steps]).to(x)
        prediction_parts.append((noise.double() * explained.maps.double()).flatten(2).sum(2))
        change_parts.append(before - target_entries(grouped_logits(explained.model, x - noise), explained.target))
    predictions, changes = torch.cat(prediction_parts), torch.cat(change_parts)
    scale = (predictions * changes).sum(0) / predictions.square().sum(0) if normalize else 1.0
    return (scale * predictions - changes).square().mean(0).where(are_usable(explained.maps), torch.nan)


@ScoreFacts(
    "The area under the probability of the class while pixels go, those first that the map calls important.",
    LOWER,
    group="trust",
    group_options="block=4",
)
def deletion(
    explained: ExplainedImages, *, steps: int = 32, baseline: float | str = 0.0, block: int | None = None, order: str = "signed"
) -> Tensor:
    """The area under the target's probability while the image's pixels go, (B,) float64 in [0, 1]: low if the first to go mattered.

    By the trapezoid rule over the share of pixels that are gone. The paper puts 0 into normalised images, which is baseline=mean here.
    Where pixels or blocks share a value, the first in reading order goes first. Images with holes are unlike any the model has learned
    from, and single pixels act like adversarial noise: hold values to those of another map of the same model. Cost: `steps` + 1 forward
    passes.
    Source: Petsiuk et al. 2018 (1806.07421).

    Args:
        explained: maps (B, c, H, W) of images (B, C, H, W), and the model that made them.
        steps: number of portions, as equal as can be, in which the pixels go, at least 1; no more than there are pixels or blocks.
        baseline: what takes the place of a pixel: as in `explainers.baselines.baseline_of`, or "blur" (see `insertion`).
        block: side in pixels of square blocks that go as a whole, by the mean of their pixels; single pixels if not given.
        order: "signed", where the largest sum of a pixel's channels goes first, or "absolute", where the largest sum of sizes does.

    Returns:
        The areas (B,) float64; NaN where a map is 0 everywhere or not finite somewhere, and where all its pixels or blocks share one value.

    Raises:
        InputError: where an option is out of its range or unknown.
    """
    return probability_area(explained, explained.x, baseline_images(explained, baseline), steps, block, order)


@ScoreFacts(
    "The area under the probability of the class while pixels come, those first that the map calls important.",
    HIGHER,
    group="trust",
    group_options="block=4",
)
def insertion(
    explained: ExplainedImages, *, steps: int = 32, baseline: float | str = "blur", block: int | None = None, order: str = "signed"
) -> Tensor:
    """The area under the target's probability while the image's pixels come, (B,) float64 in [0, 1]: high if the first to come mattered.

    The reverse of `deletion`, with its remarks and costs. The blur is the setting of the paper's code; on images of 32 px much more is lost
    by it than on the paper's 224 px. Beyond the edges the image goes on as its last pixel (our choice: black there would darken the edges).
    Source: Petsiuk et al. 2018 (1806.07421).

    Args:
        explained: maps (B, c, H, W) of images (B, C, H, W), and the model that made them.
        steps: number of portions, as equal as can be, in which the pixels come; at least 1.
        baseline: what the pixels come into: as in `explainers.baselines.baseline_of`, or "blur", the image itself under a Gaussian of 11
            pixels a side with standard deviation 5.
        block: side in pixels of square blocks that come as a whole, by the mean of their pixels; single pixels if not given.
        order: "signed" or "absolute", as in `deletion`.

    Returns:
        The areas (B,) float64; NaN as in `deletion`.

    Raises:
        InputError: where an option is out of its range or unknown.
    """
    return probability_area(explained, baseline_images(explained, baseline), explained.x, steps, block, order)


def probability_area(explained: ExplainedImages, start: Tensor, end: Tensor, steps: int, block: int | None, order: str) -> Tensor:
    """The area (B,) under the target's probability while pixels of the images `start` become those of `end`, as the map orders them."""
    steps, values = whole_option("steps", steps), ordering_values(explained.maps, block, order)
    ranks = pixel_ranks(descending_ranks(values), explained.x, block)
    count, chances, shares = values[0].numel(), list[Tensor](), list[Tensor]()
    cuts = sorted({count * step // steps for step in range(steps + 1)})
    for part in call_ranges(len(ranks), len(cuts)):
        masks = torch.stack([ranks < cuts[step] for step in part])
        logits = grouped_logits(explained.model, torch.where(masks[:, :, None], end, start))
        chances.append(target_entries(logits.softmax(-1), explained.target))
        shares.append(masks.flatten(2).double().mean(2))
    ordered = are_usable(explained.maps) & (values.flatten(1).amax(1) > values.flatten(1).amin(1))
    return torch.trapezoid(torch.cat(chances), torch.cat(shares), dim=0).where(ordered, torch.nan)


def ordering_values(maps: Tensor, block: int | None, order: str) -> Tensor:
    """What orders the pixels, or the blocks by the mean of their pixels: (B, rows, columns) float64; blocks at the edge may be smaller."""
    values = lookup(order, PIXEL_ORDERS, "order")(maps)
    side = 1 if block is None else whole_option("block", block)
    return (values if side == 1 else F.avg_pool2d(values, side, ceil_mode=True))[:, 0]


def descending_ranks(values: Tensor) -> Tensor:
    """The place of each value in its image, 0 for the largest, (B, rows, columns) int64; equal values in reading order."""
    order = values.flatten(1).argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)).view_as(values)


def pixel_ranks(ranks: Tensor, x: Tensor, block: int | None) -> Tensor:
    """The ranks of blocks at each of their pixels, (B, H, W)."""
    side = block or 1
    return ranks.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, : x.shape[2], : x.shape[3]]


def baseline_images(explained: ExplainedImages, baseline: float | str) -> Tensor:
    """The images without what the map is about, (B, C, H, W)."""
    return blurred_images(explained.x) if baseline == "blur" else baseline_of(explained.model, explained.x, baseline)


def blurred_images(x: Tensor) -> Tensor:
    """The images (B, C, H, W) under a Gaussian blur, which goes on beyond the edges with the last pixel."""
    reach, channels = TAPS // 2, x.shape[1]
    bell = (torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device).square() / (-2 * SIGMA**2)).exp()
    bell = (bell / bell.sum()).expand(channels, 1, TAPS)
    padded_x = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded_x, bell[..., None], groups=channels), bell[:, :, None], groups=channels)


def grouped_logits(model: nn.Module, images: Tensor) -> Tensor:
    """The logits (G, B, K) float64 of images (G, B, C, H, W), in one call."""
    with torch.no_grad():
        logits: Tensor = padded_logits(model, images.flatten(0, 1)).double().unflatten(0, images.shape[:2])
    return logits


def target_entries(values: Tensor, target: Tensor) -> Tensor:
    """The target's entry of each row of values (..., B, K), (..., B)."""
    return values.gather(-1, target.expand(values.shape[:-1])[..., None])[..., 0]


def are_usable(maps: Tensor) -> Tensor:
    """Which maps are finite and not 0 everywhere, (B,) bool."""
    flat = maps.flatten(1)
    return flat.isfinite().all(1) & (flat != 0).any(1)
