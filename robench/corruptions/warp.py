"""Pixels in other places: behind glass, and on elastic ground (Hendrycks & Dietterich, ICLR 2019, 1903.12261, and their code).

Where a pixel comes from is found in whole numbers and in sums that float64 holds exactly, or in a fixed order: every batch gives the
same image, and every device but for the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robench.core.draws import Draws
from robench.corruptions.blur import gaussian_weights, smoothed_images
from robench.corruptions.severities import graded_corruption

IMAGENET = 244  # the side whose shares are the published settings of elastic_transform, though the images have 224 pixels
ELASTIC = {  # strength, deviation and shift of the corners, as shares of the side
    32: ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    IMAGENET: ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
}
NOISE_GRID, WEIGHT_GRID = (
    2.0**23,
    2.0**28,
)  # grids of random numbers and of weights: with sums under 4, a product of both is exact in float64


@graded_corruption(
    cifar=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    imagenet=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
)
def glass_blur(x: Tensor, glass: tuple[float, int, int], draws: Draws) -> Tensor:
    """Images smoothed, their pixels copied over neighbours in so many rounds, and smoothed again: as through frosted glass.

    Pixels are copied and not swapped, as in the published generator and the data that it made: see `copy_sources`.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        glass: standard deviation of the smoothing and reach of the copies, both in pixels, and number of rounds.
        draws: random numbers of the images.
    """
    deviation, reach, rounds = glass
    grey = (smoothed_images(smoothed_images(x, deviation, 2), deviation, 3) * 255).floor()
    inside = (max(x.shape[2] - 2 * reach, 0), max(x.shape[3] - 2 * reach, 0))
    for step in range(rounds):
        place = copy_sources(draws.integers(4 * reach * reach, inside, step).to(x.device), reach, *x.shape[2:])
        grey = grey.flatten(2).gather(2, place[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return smoothed_images(smoothed_images(grey / 255, deviation, 2), deviation, 3)


@graded_corruption(
    cifar=[[32 * share for share in row] for row in ELASTIC[32]],
    imagenet=[[IMAGENET * share for share in row] for row in ELASTIC[IMAGENET]],
)
def elastic_transform(x: Tensor, stretch: tuple[float, float, float], draws: Draws) -> Tensor:
    """Images under a random affine map, then with each pixel moved a little, neighbours nearly alike; linear in between.

    Severity 1 at the scale of CIFAR is the affine map alone. Each step is rounded to float32 as in the published generator, which
    decides what is cut off to the level below.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        stretch: strength of the moves, deviation of their smoothing, and largest shift of the map's corners, all in pixels.
        draws: random numbers of the images.
    """
    strength, deviation, shift = stretch
    corners = (draws.uniform((3, 2)).to(x) * 2 - 1) * shift
    affine_images = sampled_images(x, *affine_places(corners, *x.shape[2:]), edge=0).to(torch.float32)
    if strength == 0:
        return affine_images
    moves = smoothed_noise(draws.uniform((2, *x.shape[2:]), step=1).to(x) * 2 - 1, deviation) * strength
    down, right = (torch.arange(size, device=x.device) for size in x.shape[2:])
    return sampled_images(affine_images.to(torch.float64), moves[:, 0] + right, moves[:, 1] + down[:, None], edge=1).to(torch.float32)


def copy_sources(neighbour_codes: Tensor, reach: int, height: int, width: int) -> Tensor:
    """Where each pixel comes from, (B, height * width) int64, after one round of copies over neighbours.

    The round goes from the last pixel to the first. A neighbour that comes later in the image has thus been changed itself, and stands
    for what it was changed into; the chains of such neighbours are followed by doubling. At a reach of 1 there are none.

    Args:
        neighbour_codes: (B, height - 2 reach, width - 2 reach) int64: for the pixel in row reach + 1 + i and column reach + 1 + j the
            neighbour that it becomes a copy of, (down + reach) * 2 reach + right + reach, both steps from -reach to reach - 1.
        reach: the longest step to a neighbour, in pixels.
        height: rows of the image.
        width: columns of the image.
    """
    place = torch.arange(height * width, device=neighbour_codes.device).expand(len(neighbour_codes), -1).clone()
    down, right = neighbour_codes // (2 * reach) - reach, neighbour_codes % (2 * reach) - reach
    steps = down * width + right
    place.view(-1, height, width)[:, reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] += steps
    later = place > torch.arange(height * width, device=neighbour_codes.device)
    while bool(later.any()):
        place, later = torch.where(later, place.gather(1, place), place), later & later.gather(1, place)
    return place


def affine_places(corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the pixels of a new image lie in the old one, right and down, each (B, height, width) float64.

    The new image is made by the map's inverse. The centre of images that are not square, which the published generator never makes, is
    theirs in both directions [our choice].

    Args:
        corners: (B, 3, 2), right and down: how far the affine map moves three corners of the square around the centre whose half side is a
            third of the shorter side.
        height: rows of the image.
        width: columns of the image.
    """
    half = min(height, width) // 3
    middle = torch.tensor([width // 2, height // 2], dtype=corners.dtype, device=corners.device)
    (ax, ay), (bx, by), (cx, cy) = (
        (corners[:, place] + middle + half * torch.tensor(side, device=corners.device)).unbind(1)
        for place, side in enumerate(((1, 1), (1, -1), (-1, -1)))
    )
    across, along = (bx - cx, by - cy), (ax - bx, ay - by)  # the square's top and right side on the new image, both of 2 half pixels
    area = across[0] * along[1] - across[1] * along[0]
    scale = torch.where(area != 0, 2 * half / area, 0.0)
    x = torch.arange(width, device=corners.device) - cx[:, None, None]
    y = torch.arange(height, device=corners.device)[:, None] - cy[:, None, None]
    right = x * (along[1] * scale)[:, None, None] - y * (along[0] * scale)[:, None, None]
    down = y * (across[0] * scale)[:, None, None] - x * (across[1] * scale)[:, None, None]
    return right + (middle[0] - half), down + (middle[1] - half)


def smoothed_noise(noise: Tensor, deviation: float) -> Tensor:
    """Numbers (..., H, W) float64 in [-1, 1], multiples of 2^-23, under a Gaussian cut at 3 deviations, mirrored with the border repeated.

    Between the two directions they are rounded to the same grid, and the weights are multiples of 2^-28, so that all sums are exact.
    """
    height, width = noise.shape[-2:]
    across = noise @ smoothing_weights(width, deviation).to(noise.device).T
    return smoothing_weights(height, deviation).to(noise.device) @ ((across * NOISE_GRID).round() / NOISE_GRID)


def smoothing_weights(size: int, deviation: float) -> Tensor:
    """The weights of a Gaussian along an axis, (size, size) float64: of old places in new ones, whole multiples of 2^-28."""
    reach = int(3 * deviation + 0.5)
    taps = torch.tensor(gaussian_weights(range(-reach, reach + 1), deviation), dtype=torch.float64)
    old = folded_places(torch.arange(size)[:, None] + torch.arange(-reach, reach + 1), size, edge=1).long()
    total = torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, old, taps.expand(size, -1))
    return (total * WEIGHT_GRID).round() / WEIGHT_GRID


def sampled_images(x: Tensor, right: Tensor, down: Tensor, *, edge: int) -> Tensor:
    """Images (B, C, H, W) at other places (B, H, W) float64, linear in between; `edge` as in `folded_places`."""
    height, width = x.shape[2:]
    left, top = right.floor(), down.floor()
    beside, below = (right - left)[:, None], (down - top)[:, None]
    columns = [folded_places(left + step, width, edge).long() for step in (0, 1)]
    rows = [folded_places(top + step, height, edge).long() * width for step in (0, 1)]
    flat = x.flatten(2)
    corners = [[flat.gather(2, (row + column).flatten(1)[:, None].expand_as(flat)).view_as(x) for column in columns] for row in rows]
    upper, lower = (first.lerp(second, beside) for first, second in corners)
    return upper.lerp(lower, below)


def folded_places(place: Tensor, size: int, edge: int) -> Tensor:
    """Whole numbers mirrored into 0..size-1, as floats; the outermost pixel is repeated once for edge 1, not for edge 0."""
    period = 2 * (size - 1 + edge)
    rest = place - period * (place / period).floor()  # several times as quick as the remainder
    return torch.minimum(rest, period - edge - rest)
