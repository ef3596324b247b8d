"""Noise on every subpixel: Gaussian, shot, impulse and speckle (Hendrycks & Dietterich, ICLR 2019, 1903.12261, and their code)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from robench.core.draws import Draws
from robench.corruptions.severities import graded_corruption


@graded_corruption(cifar=(0.04, 0.06, 0.08, 0.09, 0.10), imagenet=(0.08, 0.12, 0.18, 0.26, 0.38))
def gaussian_noise(x: Tensor, deviation: float, draws: Draws) -> Tensor:
    """Images with a normal number of the severity's standard deviation added to each subpixel: as of a sensor in bad light.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        deviation: standard deviation of the noise, pixel units.
        draws: random numbers of the images.
    """
    return x + deviation * draws.normal(x.shape[1:]).to(x)


@graded_corruption(cifar=(500, 250, 100, 75, 50), imagenet=(60, 25, 12, 5, 3))
def shot_noise(x: Tensor, photons: int, draws: Draws) -> Tensor:
    """Images in which each subpixel counts photons, fewer with the severity.

    A value x becomes Poisson(x c) / c, where c is the mean count of a white subpixel.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        photons: the mean count of a white subpixel.
        draws: random numbers of the images.
    """
    rates = torch.arange(256, dtype=torch.float64) / 255 * photons
    return poisson_numbers(rates, (x * 255).round().long(), draws.uniform(x.shape[1:])).to(x) / photons


@graded_corruption(cifar=(0.01, 0.02, 0.03, 0.05, 0.07), imagenet=(0.03, 0.06, 0.09, 0.17, 0.27))
def impulse_noise(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """Images with a share of the subpixels set to white or black with equal chance: salt and pepper, as of bit errors.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        amount: chance that a subpixel is set, in [0, 1].
        draws: random numbers of the images.
    """
    u = draws.uniform(x.shape[1:]).to(x)
    return torch.where(u < amount, (u < amount / 2).to(x), x)


@graded_corruption(cifar=(0.06, 0.1, 0.12, 0.16, 0.2), imagenet=(0.15, 0.2, 0.35, 0.45, 0.6))
def speckle_noise(x: Tensor, deviation: float, draws: Draws) -> Tensor:
    """Images with each subpixel multiplied by 1 + a normal number of the severity's standard deviation: bright places suffer most.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        deviation: standard deviation of the normal number.
        draws: random numbers of the images.
    """
    return x + x * (deviation * draws.normal(x.shape[1:]).to(x))


def poisson_numbers(rates: Tensor, which: Tensor, u: Tensor) -> Tensor:
    """Poisson numbers by inversion, of which's shape, int64: the least n with P(N <= n) > u, N of rate rates[which].

    All distribution functions stand in one row, the r-th raised by r, which makes the row ascend: one binary search serves every
    subpixel. The chance of each count is right to 2^-24, and the draw is the same on every device.

    Args:
        rates: (R,) float64, at least 0.
        which: indices into rates, of any shape.
        u: uniform in [0, 1), multiples of 2^-24, of the same shape; the middle of their step is taken.
    """
    steps = poisson_distributions(tuple(rates.tolist())).to(u.device)
    levels = which.to(u.device) + (u.to(torch.float64) + 2.0**-25)
    place = torch.searchsorted(steps, levels.contiguous(), right=True)
    return place - which.to(u.device) * (len(steps) // len(rates))


@lru_cache(maxsize=16)
def poisson_distributions(rates: tuple[float, ...]) -> Tensor:
    """The Poisson distribution functions of some rates one after the other, the r-th raised by r, float64; kept for the next batch."""
    table, most = torch.tensor(rates, dtype=torch.float64)[:, None], max(rates)
    counts = torch.arange(math.ceil(most + 9 * math.sqrt(most)) + 20, dtype=torch.float64)
    chances = (torch.special.xlogy(counts, table) - table - torch.lgamma(counts + 1)).exp()
    distributions: Tensor = chances.cumsum(1).clamp(max=1) + torch.arange(len(table), dtype=torch.float64)[:, None]
    return distributions.flatten()
