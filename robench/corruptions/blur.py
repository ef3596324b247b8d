"""Lenses and motion: defocus, Gaussian, zoom and motion blur (Hendrycks & Dietterich, ICLR 2019, 1903.12261, and their code).

Sums run tap by tap in float64, in one fixed order: an image is the same to the bit in every batch and, but for the last bit of a
few powers and sines, on every device.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from robench.core.draws import Draws
from robench.corruptions.severities import graded_corruption

NEGLIGIBLE = 6.5  # standard deviations beyond which the weights of motion blur, under 1e-9 of the largest, are left out


@graded_corruption(
    cifar=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)), imagenet=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
)
def defocus_blur(x: Tensor, lens: tuple[float, float], _draws: Draws) -> Tensor:
    """Images seen through a round opening of the severity's radius in pixels, its edge smoothed; mirrored at the border.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        lens: radius of the opening and standard deviation of its edge's smoothing, both in pixels.
        _draws: not used.
    """
    kernel = disk_kernel(*lens)
    reach = len(kernel) // 2
    wide = x[:, :, mirrored_places(x.shape[2], reach)][:, :, :, mirrored_places(x.shape[3], reach)]
    total = torch.zeros_like(x)
    for down, right in kernel.nonzero().tolist():
        total += wide[:, :, down : down + x.shape[2], right : right + x.shape[3]] * float(kernel[down, right])
    return total


@graded_corruption(cifar=(0.4, 0.6, 0.7, 0.8, 1), imagenet=(1, 2, 3, 4, 6))
def gaussian_blur(x: Tensor, deviation: float, _draws: Draws) -> Tensor:
    """Images smoothed by a Gaussian of the severity's deviation in pixels, cut at 4 deviations; the border goes on outside.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        deviation: standard deviation of the Gaussian in pixels.
        _draws: not used.
    """
    return smoothed_images(smoothed_images(x, deviation, 2), deviation, 3)


@graded_corruption(
    cifar=[np.arange(1, end, 0.01).tolist() for end in (1.06, 1.11, 1.16, 1.21, 1.26)],
    imagenet=[np.arange(1, end, step).tolist() for end, step in ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))],
)
def zoom_blur(x: Tensor, factors: list[float], _draws: Draws) -> Tensor:
    """The mean of the image and its centre at the severity's zooms, linear in between: as of a camera that moves towards the scene.

    Taken in float32 as the published generator does, which decides what is cut off to the level below.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        factors: the zooms, each at least 1.
        _draws: not used.
    """
    (height, width), start = x.shape[2:], x.to(torch.float32)
    rights = torch.cat([zoom_weights(width, factor).T for factor in factors], 1).to(x.device)  # all zooms along the rows in one product
    wide = (start.to(torch.float64).reshape(-1, width) @ rights).view(-1, height, len(factors), width)
    total = torch.zeros((len(wide), height, width), dtype=torch.float32, device=x.device)
    for place, factor in enumerate(factors):
        total += (zoom_weights(height, factor).to(x.device) @ wide[:, :, place]).to(torch.float32)
    return (start + total.view_as(start)) / (len(factors) + 1)


@graded_corruption(
    cifar=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    imagenet=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
)
def motion_blur(x: Tensor, exposure: tuple[int, float], draws: Draws) -> Tensor:
    """Images smeared to one side along a line, at an angle that each image draws between -45 and 45 degrees.

    ImageMagick, which the published generator asks, rounds to 16 bits first: what is next to a whole grey level is not cut off below it.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        exposure: radius and standard deviation of the one-sided Gaussian, in pixels.
        draws: random numbers of the images.
    """
    radius, deviation = exposure
    angle = draws.uniform(()).to(x) * 90 - 45
    fine = (smeared_images((x * 255).round(), radius, deviation, angle) * 257 + 0.5).floor()
    return (fine / 257).floor() / 255


def smeared_images(x: Tensor, radius: int, deviation: float, angle: Tensor) -> Tensor:
    """Images (B, C, H, W) under ImageMagick's motion blur: one-sided Gaussian weights along a line, the border going on outside.

    Args:
        x: images (B, C, H, W) float64.
        radius: 2 radius + 1 taps are weighed, a pixel apart.
        deviation: standard deviation of the Gaussian, in pixels.
        angle: direction of the line, (B,), degrees.
    """
    weights = gaussian_weights(range(2 * radius + 1), deviation)
    height, width = x.shape[2:]
    turn, flat = torch.deg2rad(angle.to(torch.float64))[:, None], x.flatten(2)
    total, part = torch.zeros_like(flat), torch.empty_like(flat)
    place = torch.empty((len(x), height, width), dtype=torch.int64, device=x.device)  # made once: large buffers are dear to make anew
    for tap in range(min(len(weights), math.ceil(NEGLIGIBLE * deviation))):
        right, down = (tap * turn.cos() - 0.5).ceil().long(), (tap * turn.sin() - 0.5).ceil().long()
        columns = (torch.arange(width, device=x.device) + right).clamp(0, width - 1)
        rows = (torch.arange(height, device=x.device) + down).clamp(0, height - 1)
        torch.add((rows * width)[:, :, None], columns[:, None, :], out=place)
        torch.gather(flat, 2, place.flatten(1)[:, None].expand_as(flat), out=part)
        total += part.mul_(weights[tap])
    return total.view_as(x)


def smoothed_images(x: Tensor, deviation: float, dim: int) -> Tensor:
    """Images under a Gaussian along one axis, cut at 4 deviations; the outermost taps are added first."""
    reach, size = int(4 * deviation + 0.5), x.shape[dim]
    weights = gaussian_weights(range(-reach, reach + 1), deviation)[reach:]
    wide = x.index_select(dim, torch.arange(-reach, size + reach, device=x.device).clamp(0, size - 1))
    total = x * weights[0]
    for tap in range(reach, 0, -1):
        total += (wide.narrow(dim, reach - tap, size) + wide.narrow(dim, reach + tap, size)) * weights[tap]
    return total


def gaussian_weights(places: range, deviation: float) -> list[float]:
    """Gaussian weights at whole places, with sum 1; by numpy, whose last bits decide what is cut off where an image is flat."""
    weights = np.exp(-0.5 / (deviation * deviation) * np.asarray(places) ** 2)
    return [float(weight) for weight in weights / weights.sum()]


def disk_kernel(radius: float, deviation: float) -> Tensor:
    """A disk with a smoothed edge, (L, L) float64 values of float32 accuracy: 17 pixels wide up to radius 8, above that just wide enough.

    The pixels whose centre is at most `radius` from the middle, with sum 1, under a Gaussian of 3 taps (5 above radius 8), mirrored at
    the border. Each step is rounded to float32 as by OpenCV: whether the sum is a little above or below 1 shows in flat parts.
    """
    reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    side = torch.arange(-reach, reach + 1)
    flat = (side[:, None] ** 2 + side**2 <= radius**2).to(torch.float32)
    weights = torch.tensor(gaussian_weights(range(-taps, taps + 1), deviation), dtype=torch.float32)[taps:].tolist()
    return softened_kernel(softened_kernel(flat / flat.sum(), weights).T, weights).T.to(torch.float64)


def softened_kernel(kernel: Tensor, weights: list[float]) -> Tensor:
    """A square kernel (L, L) float32 under the weights of the middle tap and of those beside it, along its rows, mirrored at the border."""
    size, taps = len(kernel), len(weights) - 1
    wide = kernel[:, mirrored_places(size, taps)]
    total = kernel * weights[0]
    for tap in range(1, taps + 1):
        pair = wide[:, taps - tap :][:, :size] + wide[:, taps + tap :][:, :size]
        total = (pair.to(torch.float64) * weights[tap] + total).to(torch.float32)
    return total


def mirrored_places(size: int, reach: int) -> Tensor:
    """The places 0..size-1 with `reach` more on each side, mirrored at the outermost pixels, which are not repeated, (size + 2 reach,)."""
    period = 2 * (size - 1)
    place = torch.arange(-reach, size + reach).abs() % period
    return torch.minimum(place, period - place)


def zoom_weights(size: int, factor: float) -> Tensor:
    """The weights, (size, size) float64, of old pixels in the middle part of an axis that is stretched by `factor`, linear in between.

    ceil(size / factor) pixels from the middle become round(factor times as many), the ends staying ends, and the middle `size` are kept.
    """
    part = math.ceil(size / factor)
    new = round(part * factor)
    place = torch.arange(new, dtype=torch.float64) * ((part - 1) / (new - 1))
    place = place[(new - size) // 2 :][:size].clamp(max=part - 1)
    below = place.floor().clamp(max=part - 2)
    share = place - below
    weights = torch.zeros(size, size, dtype=torch.float64)
    first = (below.long() + (size - part) // 2)[:, None]
    return weights.scatter_(1, first, (1 - share)[:, None]).scatter_(1, first + 1, share[:, None])
