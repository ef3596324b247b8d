"""Spatter of water or mud (Hendrycks & Dietterich, ICLR 2019, 1903.12261, and their code), with the OpenCV filters that it asks for.

All filters count in whole numbers, so that they give the same on every device; they are OpenCV's to the grey level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from robench.core.draws import Draws
from robench.corruptions.blur import mirrored_places, smoothed_images
from robench.corruptions.severities import graded_corruption
from robench.corruptions.weather import grey_values

WATER, MUD = (175, 238, 238), (63, 42, 20)  # pale turquoise and brown, in grey levels; grey images get the grey of the colour
EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
TANGENT = 13573  # tan(22.5 degrees) * 2^15
ONE, DIAGONAL, KNIGHT = 1048576, 1468006, 2303617  # steps of the distance: 1, 1.4 and 2.1969 times 2^20 (Borgefors, CVGIP 1986)
FAR, LONGEST_DISTANCE = 1 << 28, 20


@graded_corruption(
    cifar=(
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    imagenet=(
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
)
def spatter(x: Tensor, liquid: tuple[float, float, float, float, float, int], draws: Draws) -> Tensor:
    """Images with splashes of water (severities 1 to 3) or mud (4 and 5): normal noise, smoothed, where it is above a limit.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        liquid: mean and deviation of the noise, smoothing, limit, strength of the water or smoothing of the mud, and 1 for mud.
        draws: random numbers of the images.
    """
    mean, deviation, smooth, limit, strength, mud = liquid
    noise = mean + deviation * draws.normal((1, *x.shape[2:])).to(x)
    layer = smoothed_images(smoothed_images(noise, smooth, 2), smooth, 3)
    if mud:
        cover = smoothed_images(smoothed_images((layer > limit).to(x), strength, 2), strength, 3)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return x * (1 - cover) + cover * liquid_colour(MUD, x)
    return x + strength * water_brightness(torch.where(layer < limit, 0.0, layer)) * liquid_colour(WATER, x)


def water_brightness(layer: Tensor) -> Tensor:
    """How bright the water is, (B, 1, H, W) with maximum 1 in each image (0 where there is none): drops lit from one side.

    Args:
        layer: the drops, (B, 1, H, W), nothing being 0; above 1 their 8 bits run over, as in the published generator.
    """
    drops = ((layer[:, 0] * 255).floor() % 256).to(torch.int32)
    rise = local_means(edge_distances(edges(drops, 50, 150)).to(torch.float64) / ONE).floor().to(torch.int32)
    lit = kernel_sums(equalised_levels(rise), EMBOSS).clamp(0, 255)
    bright = drops * (local_means(lit.to(torch.float64)) + 0.5).floor()
    most = bright.flatten(1).amax(1)[:, None, None]
    return (bright / torch.where(most > 0, most, 1.0))[:, None]


def liquid_colour(levels: tuple[int, int, int], x: Tensor) -> Tensor:
    """A colour as values to be added to x, (3, 1, 1), or its grey, (1, 1, 1), for grey images [our choice]."""
    values = torch.tensor(levels, dtype=x.dtype, device=x.device)[:, None, None] / 255
    return values if x.shape[1] == 3 else grey_values(values)


def edges(levels: Tensor, low: int, high: int) -> Tensor:
    """The edges of 8-bit images, (B, H, W) bool: Canny (TPAMI 1986) with a 3 x 3 Sobel filter and the sum of the slopes as in OpenCV.

    Args:
        levels: grey levels, (B, H, W) int32.
        low: the slope above which an edge goes on.
        high: the slope above which an edge begins.
    """
    wide = pad(levels[:, None].to(torch.float32), (1, 1, 1, 1), mode="replicate")[:, 0].to(torch.int32)
    down = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    across = wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:]
    right, below = down[:, :, 2:] - down[:, :, :-2], across[:, 2:] - across[:, :-2]
    slope = right.abs() + below.abs()
    thin = slope_maxima(slope, right, below) & (slope > low)
    return connected_edges(thin & (slope > high), thin)


def slope_maxima(slope: Tensor, right: Tensor, below: Tensor) -> Tensor:
    """Where the slope (B, H, W) int32 is the steepest along its own direction, bool; on equal slopes OpenCV's side wins."""
    wide = pad(slope, (1, 1, 1, 1))
    height, width = slope.shape[1:]

    def beside(rows: int, columns: int) -> Tensor:
        return wide[:, 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    flat, steep = right.abs().long() * TANGENT, below.abs().long() << 15
    level = (slope > beside(0, -1)) & (slope >= beside(0, 1))
    upright = (slope > beside(-1, 0)) & (slope >= beside(1, 0))
    falling = (slope > beside(-1, -1)) & (slope > beside(1, 1))
    rising = (slope > beside(-1, 1)) & (slope > beside(1, -1))
    slanted = torch.where((right < 0) ^ (below < 0), rising, falling)
    return torch.where(steep < flat, level, torch.where(steep > flat + (right.abs().long() << 16), upright, slanted))


def connected_edges(strong: Tensor, weak: Tensor) -> Tensor:
    """All places of weak (B, H, W) bool that touch, corners included, a strong one over places of weak."""
    while True:
        wide = strong.clone()
        wide[:, 1:] |= strong[:, :-1]
        wide[:, :-1] |= strong[:, 1:]
        grown = wide.clone()
        grown[:, :, 1:] |= wide[:, :, :-1]
        grown[:, :, :-1] |= wide[:, :, 1:]
        grown &= weak
        if torch.equal(grown, strong):
            return strong
        strong = grown


def edge_distances(marked: Tensor) -> Tensor:
    """The distance times 2^20 from each place to the nearest marked one (B, H, W) bool, at most 20 times 2^20, int32.

    A path goes in steps to the 8 neighbours and as a knight's, as in OpenCV (Borgefors, CVGIP 1986): down the rows, then up.
    """
    rows = list(torch.where(marked, 0, FAR).to(torch.int32).unbind(1))
    for line in (range(len(rows)), range(len(rows) - 1, -1, -1)):
        blank = torch.full_like(rows[0], FAR)
        last = before = pad(blank, (2, 2), value=FAR)
        for row in line:
            rows[row] = swept_row(rows[row], last, before, line.step < 0)
            last, before = pad(rows[row], (2, 2), value=FAR), last
    return torch.stack(rows, 1).clamp(max=LONGEST_DISTANCE * ONE)


def swept_row(row: Tensor, last: Tensor, before: Tensor, back: bool) -> Tensor:
    """A row (B, W) of distances, given the two rows swept before, each wider by 2 on both sides; then along the row, or back."""
    width = row.shape[1]
    row = torch.minimum(row, last[:, 2:-2] + ONE)
    row = torch.minimum(row, torch.minimum(last[:, 1:-3], last[:, 3:-1]) + DIAGONAL)
    far = torch.minimum(torch.minimum(last[:, :width], last[:, 4:]), torch.minimum(before[:, 1:-3], before[:, 3:-1]))
    row = torch.minimum(row, far + KNIGHT)
    way = torch.arange(width, dtype=torch.int32, device=row.device) * ONE
    return (row.flip(1) - way).cummin(1).values.add(way).flip(1) if back else (row - way).cummin(1).values + way


def local_means(x: Tensor) -> Tensor:
    """The mean over 3 x 3 places, (B, H, W) float64 of float32 accuracy, mirrored at the border."""
    wide = mirror_padded_images(x)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    return ((rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) * (1 / 9)).to(torch.float32).to(torch.float64)


def equalised_levels(levels: Tensor) -> Tensor:
    """Images whose grey levels, (B, H, W) int32 from 0 to 20, are spread to 0 to 255 by how many pixels are darker; flat ones stay."""
    flat = levels.flatten(1).long()
    counts = torch.zeros(len(flat), LONGEST_DISTANCE + 1, dtype=torch.int64, device=levels.device).scatter_add_(
        1, flat, torch.ones_like(flat)
    )
    darkest = counts.gather(1, flat.amin(1, keepdim=True)) if flat.shape[0] else counts[:, :1]
    scale = 255 / (flat.shape[1] - darkest).to(torch.float32)
    table = ((counts.cumsum(1) - darkest).to(torch.float32) * scale).round()
    new_levels = torch.where(darkest == flat.shape[1], flat.to(torch.float32), table.gather(1, flat))
    return new_levels.to(torch.int32).view_as(levels)


def kernel_sums(x: Tensor, kernel: Sequence[Sequence[int]]) -> Tensor:
    """The sums of 3 x 3 places (B, H, W) under a kernel, mirrored at the border."""
    wide, total = mirror_padded_images(x), torch.zeros_like(x)
    for down, weights in enumerate(kernel):
        for right, weight in enumerate(weights):
            total += wide[:, down : down + x.shape[1], right : right + x.shape[2]] * weight
    return total


def mirror_padded_images(x: Tensor) -> Tensor:
    """Images (B, H, W) with one row and column more on each side, mirrored at the outermost, which are not repeated."""
    return x[:, mirrored_places(x.shape[1], 1)][:, :, mirrored_places(x.shape[2], 1)]
