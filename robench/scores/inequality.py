"""How unequally a saliency map is spread over its image: Gini, regional Gini, entropy, the mass of the top, the Lorenz curve.

A high value says that few pixels carry the map. Whether that is good (Chalasani et al. 2020) or a weak point (Duan et al. 2023) is
for the reader to judge: the scores are numbers without a verdict. All of them depend on the method that made the map, on its baseline
and on how the channels were put together, so these belong to the number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robench.core.checks import number_option, whole_option
from robench.core.errors import InputError
from robench.core.recipes import lookup
from robench.core.types import ExplainedImages
from robench.scores.facts import NEITHER, ScoreFacts

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda sizes: sizes,
    "sum": lambda sizes: sizes.sum(1, keepdim=True),
    "max": lambda sizes: sizes.amax(1, keepdim=True),
    "mean": lambda sizes: sizes.mean(1, keepdim=True),
}
ENTRIES_AT_ONCE = 1 << 18  # sizes that are taken to float64 at once: 2 MiB, which a processor's cache holds
BASE_BLOCK, BASE_SIDE, BLOCK_GROWTH = 4, 32, math.log(4) / math.log(7)  # blocks of 4 pixels at 32 and of 16 at 224, by a power law between
SLACK = 3  # the block that divides the image may be so many times smaller or larger than the rule asks


def map_sizes(maps: Tensor, channels: str = "none") -> Tensor:
    """The sizes |maps| of maps (B, c, H, W) with the channels put together: (B, c, H, W) for "none", else (B, 1, H, W).

    The choice changes every score, so it belongs to the number. The default is our choice: every subpixel counts, as in Chen et al. 2023
    (2305.09305).

    Args:
        maps: maps (B, c, H, W), signed.
        channels: "none", or "sum", "max" or "mean" of |maps| over the channels.

    Raises:
        InputError: where `channels` is another word.

    Example:
        >>> import torch
        >>> map_sizes(torch.tensor([-1.0, 2.0]).reshape(1, 2, 1, 1), "sum").item()
        3.0
    """
    together = lookup(channels, REDUCTIONS, "way to put channels together")
    return together(maps.abs())


@ScoreFacts(
    "The Gini index of the sizes of a map, a mean over images: 0 where all subpixels carry the same, near 1 where few carry all. A "
    "sparse map is no sign of a robust or a weak model by itself, and the index depends on the method and on how channels are put "
    "together.",
    NEITHER,
    group="maps",
)
def gini(explained: ExplainedImages) -> Tensor:
    """The Gini index of the sizes of each map, (B,) float64 in [0, 1): 0 is even, near 1 is one pixel alone.

    For sizes phi_1 <= ... <= phi_n it is (n + 1 - 2 sum_i (n + 1 - i) phi_i / sum_i phi_i) / n, with no offset: the scale of the map does
    not matter, and the index is at most (n - 1) / n. Source: Gini 1912 (Variabilita e mutabilita); as a score of saliency maps Chalasani et
    al. 2020 (1810.06583), and on robust models Duan et al. (ICLR 2023) and Chen et al. 2023 (2305.09305).

    Args:
        explained: maps whose sorted sizes (B, n) are read.

    Returns:
        The indices (B,) float64; NaN for a map that is 0 everywhere or not finite somewhere.
    """
    return gini_of_sorted(explained.sorted_sizes)


def gini_of_sorted(ordered: Tensor) -> Tensor:
    """The Gini index of each row of sizes, (B,) float64, by the formula of `gini`.

    Args:
        ordered: sizes (B, n), at least 0, each row sorted from the smallest to the largest.

    Returns:
        The indices (B,) float64; NaN for a row that is 0 everywhere or not finite somewhere.

    Example:
        >>> import torch
        >>> gini_of_sorted(torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])).tolist()
        [0.75, 0.0]
    """
    n = ordered.shape[1]
    weights = torch.arange(1 - n, n, 2, dtype=torch.float64, device=ordered.device)  # those of the formula, with its n + 1 taken in

    def index(part: Tensor) -> Tensor:
        sizes = part.double()
        return (sizes.mv(weights) / (n * sizes.sum(1))).clamp_min(0)

    return scores_in_parts(index, ordered)


def scores_in_parts(score: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """The scores of rows (B, n), taken over a few rows at a time: a copy of all in float64 would not fit the cache, or the memory."""
    return torch.cat([score(part) for part in values.split(max(1, ENTRIES_AT_ONCE // values.shape[1]))])


@ScoreFacts(
    "The Gini index over the sums in square blocks, so that which subpixel of a block carries the map is the same.",
    NEITHER,
    group="maps",
)
def regional_gini(explained: ExplainedImages, *, block: int | None = None) -> Tensor:
    """The Gini index over the sums of sizes in square blocks, all channels together, (B,) float64 in [0, 1).

    The regional Gini of Duan et al. (ICLR 2023), by its definition on absolute values. Blocks are equal, so it never exceeds `gini` of the
    same sizes (a sum over equal groups is majorised by its parts).

    Args:
        explained: maps whose sizes (B, c, H, W) are read.
        block: side of the blocks in pixels; by default what `block_side` gives: 4 at 32 px, 16 at 224 px.

    Returns:
        The indices (B,) float64; NaN as for `gini`.

    Raises:
        InputError: where the blocks do not fill the image.
    """
    return gini_of_sorted(block_sums(explained.sizes, block).sort(1).values)


@ScoreFacts("The Gini index of the positive parts of a map.", NEITHER)
def gini_positive(explained: ExplainedImages) -> Tensor:
    """The Gini index of the positive parts of the signed map, subpixel by subpixel, (B,) float64 in [0, 1).

    This is what the released script of Duan et al. (ICLR 2023) prints as regional Gini, as we read it: it takes the axes of a map (3, H, W)
    for (width, height, channels), so that its loop over blocks of 16 or 8 finds no block in an axis of 3 and sums nothing; negative entries
    then become 0. So a map without negative entries has its `gini` here, one with many of them mostly more, and the number says nothing of
    regions. Two other things in their script are unlike ours, and are options: the noise of the probe `inductive-noise` is uniform over the
    range of the image after normalisation (`noise=uniform`), and their integrated gradients start from 0 after normalisation
    (`baseline=mean`, of that probe and of the method integrated-gradients).

    Args:
        explained: maps (B, c, H, W), signed.

    Returns:
        The indices (B,) float64; NaN where no entry is positive or an entry is not finite.
    """
    entries = explained.maps.flatten(1)
    return gini_of_sorted(entries.clamp_min(0).where(entries.isfinite(), torch.nan).sort(1).values)


@ScoreFacts("The Gini index over the positive parts of the sums in square blocks.", NEITHER)
def regional_gini_positive(explained: ExplainedImages, *, block: int | None = None) -> Tensor:
    """The Gini index over the positive parts of the signed sums in square blocks, all channels together, (B,) float64 in [0, 1).

    A regional Gini of the evidence for the class alone (our own; what the code of Duan et al. computes is `gini_positive`). It is not
    comparable with `regional_gini`: signs cancel inside a block, blocks with a negative sum count as 0, and it can exceed the Gini over
    pixels. It reads the signed maps, so it does not depend on how the channels of the sizes were put together.

    Args:
        explained: maps (B, c, H, W), signed.
        block: side of the blocks in pixels, as for `regional_gini`.

    Returns:
        The indices (B,) float64; NaN where no block has a positive sum or an entry is not finite.

    Raises:
        InputError: where the blocks do not fill the image.
    """
    sums = block_sums(explained.maps, block)
    return gini_of_sorted(sums.clamp_min(0).where(sums.isfinite(), torch.nan).sort(1).values)


def block_sums(maps: Tensor, block: int | None) -> Tensor:
    """The sums of maps (B, c, H, W) over square blocks and all channels, (B, blocks) float64."""
    high, wide = maps.shape[2:]
    side = block_side(high, wide, block)
    tiles = maps.reshape(len(maps), -1, high // side, side, wide // side, side)
    return tiles.sum((1, 3, 5), dtype=torch.float64).flatten(1)


def block_side(high: int, wide: int, block: int | None = None) -> int:
    """The side of the blocks on an image: `block`, checked to divide both sides, or one that the size of the image suggests.

    The rule is our choice: 4 * (shorter side / 32) ** (log 4 / log 7), which is 4 at 32 px and 16 at 224 px, and of the numbers that
    divide both sides the one nearest to it in ratio (the smaller of two): 4 at 28, 8 at 64, 96 and 128, 24 at 384.

    Args:
        high: height of the image in pixels.
        wide: width of the image in pixels.
        block: side that was asked for, in pixels; None for the rule.

    Raises:
        InputError: where `block` does not divide both sides, and where no divisor is within a factor of 3 of the rule.

    Example:
        >>> block_side(32, 32), block_side(224, 224), block_side(32, 32, block=8)
        (4, 16, 8)
    """
    divisors = [side for side in range(1, min(high, wide) + 1) if high % side == wide % side == 0]
    if block is not None and whole_option("block", block) not in divisors:
        raise InputError(f"block={block} does not divide images of {high} x {wide} pixels: choose one of {', '.join(map(str, divisors))}")
    ideal = BASE_BLOCK * (min(high, wide) / BASE_SIDE) ** BLOCK_GROWTH
    nearest = min(divisors, key=lambda side: abs(math.log(side / ideal)))
    if block is None and not ideal / SLACK <= nearest <= ideal * SLACK:
        options = ", ".join(map(str, divisors))
        raise InputError(f"no block of about {ideal:.0f} pixels divides images of {high} x {wide}: give block as one of {options}")
    return nearest if block is None else block


@ScoreFacts(
    "The Shannon entropy of a map in nats: 0 where one subpixel carries all, the logarithm of their number where all alike.",
    NEITHER,
    group="maps",
)
def entropy(explained: ExplainedImages) -> Tensor:
    """The Shannon entropy, in nats, of the sizes as shares of their sum, (B,) float64 in [0, log n]: log n is even, 0 is one pixel alone.

    The "complexity" of Bhatt et al. 2020 (2005.00631). A share of 0 counts as 0.

    Args:
        explained: maps whose sorted sizes (B, n) are read.

    Returns:
        The entropies (B,) float64; NaN as for `gini`.
    """

    def index(part: Tensor) -> Tensor:
        sizes = part.double()
        terms: Tensor = torch.special.entr(sizes / sizes.sum(1, keepdim=True))
        return terms.sum(1).clamp_min(0)

    return scores_in_parts(index, explained.sorted_sizes)


@ScoreFacts("The part of a map's sum that its largest subpixels carry.", NEITHER)
def top_mass(explained: ExplainedImages, *, share: float = 0.01) -> Tensor:
    """The part of the sum of sizes that the largest ones carry, (B,) float64 in [share, 1].

    Args:
        explained: maps whose sorted sizes (B, n) are read.
        share: how many of the n sizes are the largest, above 0 and at most 1: ceil(share * n), so at least one (our choice).

    Returns:
        The parts (B,) float64; NaN as for `gini`.

    Raises:
        InputError: where the share is not above 0 and at most 1.
    """
    if not number_option("share", share, most=1):
        raise InputError("share must be above 0: the part of the sizes that counts as the top")
    count = max(1, math.ceil(round(share * explained.sorted_sizes.shape[1], 6)))  # 0.07 * 100 is a little more than 7

    def index(part: Tensor) -> Tensor:
        return part[:, -count:].sum(1, dtype=torch.float64) / part.sum(1, dtype=torch.float64)

    return scores_in_parts(index, explained.sorted_sizes)


def lorenz_heights(ordered: Tensor, points: int = 101) -> Tensor:
    """The Lorenz curve of each row of sizes: (B, points) float64, from 0 to 1.

    The heights stand at the population shares j / (points - 1), j = 0 .. points - 1, on straight lines between the n + 1 exact points
    (i / n, sum of the i smallest / sum of all), so points = n + 1 gives these. The Gini index is 1 less twice the area under the exact
    points. Source: Lorenz 1905.

    Args:
        ordered: sizes (B, n), at least 0, each row sorted from the smallest to the largest.
        points: number of heights, at least 2.

    Returns:
        The heights (B, points) float64; NaN throughout for a row without a Gini index.

    Raises:
        InputError: where `points` is no whole number of at least 2.

    Example:
        >>> import torch
        >>> lorenz_heights(torch.tensor([[1.0, 3.0]]), points=3).tolist()
        [[0.0, 0.25, 1.0]]
    """
    n, steps = ordered.shape[1], whole_option("points", points, 2) - 1
    place = torch.arange(points, device=ordered.device) * n
    before, part_way = place // steps, (place % steps).double() / steps

    def curve(part: Tensor) -> Tensor:
        sums = torch.nn.functional.pad(part.cumsum(1, dtype=torch.float64), (1, 0))
        low, total = sums[:, before], sums[:, -1:]
        high = sums[:, (before + 1).clamp_max(n)]
        return (low + part_way * (high - low)) / total.where(total < torch.inf, torch.nan)

    return scores_in_parts(curve, ordered)
