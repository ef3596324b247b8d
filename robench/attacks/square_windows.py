"""The windows of Square: how large and where they are, and what is written into them (Andriushchenko et al. 2020, 1912.00049)."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import groupby

import torch
from torch import Tensor

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # after these queries the windows lose half of their area
FULL_LENGTH = 10_000  # the queries that this schedule was made for
QUERY_BLOCK = 128  # queries whose random numbers are drawn at once
STRETCH = 32  # queries prepared at once, at most: the working rows are packed anew only between two stretches
STRETCH_AREA = 2048  # so many values of an image are prepared at once, at most


def window_share(query: int, p_init: float) -> float:
    """The share of the image's area that the window of a query (counted from 0) covers."""
    return float(p_init / 2 ** bisect_left(HALVINGS, query))


def window_side(area: float, height: int, width: int, odd: bool) -> int:
    """The side of a square window that covers a share of the image; at least 3 and, where it fits, odd for the patterns of l2 and l1."""
    length = max(round(math.sqrt(area * height * width)), 3 if odd else 1)
    return min(length + (odd and length % 2 == 0), height, width)


def query_stretches(queries: int, channels: int, side_at: Callable[[int], int]) -> Iterator[tuple[int, int, int]]:
    """(first, last, side) for runs of queries that are prepared at once: equal sides, within one block of random numbers."""
    for (_, length), run in groupby(range(queries), key=lambda query: (query // QUERY_BLOCK, side_at(query))):
        members = list(run)
        most = max(1, min(STRETCH, STRETCH_AREA // (channels * length**2)))
        for first in range(members[0], members[-1] + 1, most):
            yield first, min(first + most, members[-1] + 1), length


def window_places(drawn: Tensor, length: int, shape: tuple[int, ...]) -> Tensor:
    """The flat indices of windows in images of shape (C, H, W), expanded to (..., C, length^2), from two uniform numbers each, (..., 2).

    The row is trunc(u (H - length)): as in the authors' code the very last place is never drawn, unless the window fills the axis.
    """
    channels, height, width = shape
    row, column = ((drawn[..., axis] * (extent - length)).long() for axis, extent in ((0, height), (1, width)))
    steps = torch.arange(length, device=drawn.device)
    inside = (steps[:, None] * width + steps).flatten()
    return ((row * width + column)[..., None, None] + inside).expand(*row.shape, channels, -1)


def bump(height: int, width: int, norm: float) -> Tensor:
    """A positive pattern (height, width) that falls off in square rings from its middle; its `norm`, 1 or 2, is 1. In float64.

    At Chebyshev distance q from the middle it is the sum of k^-2 (l2) or k^-4 (l1) over k = q + 1 ... to the largest ring.
    """
    rows, columns = (torch.arange(extent) - extent // 2 for extent in (height, width))
    ring = torch.maximum(rows.abs()[:, None], columns.abs())
    terms: Tensor = torch.arange(1, max(height // 2, width // 2) + 2, dtype=torch.float64) ** (-2.0 if norm == 2 else -4.0)
    values: Tensor = terms.flip(0).cumsum(0).flip(0)[ring]
    length: Tensor = torch.linalg.vector_norm(values, norm)
    return values / length


def window_patterns(length: int, norm: float, like: Tensor) -> Tensor:
    """The window pattern and its transpose, (2, length, length): a bump above a negative one, of norm 1 together."""
    upper = length // 2
    halves = ([bump(upper, length, norm)] if upper else []) + [-bump(length - upper, length, norm)]
    pattern = torch.cat(halves)
    pattern = pattern / torch.linalg.vector_norm(pattern, norm)
    return torch.stack((pattern, pattern.T)).to(like)


def tiling(height: int, width: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """The side of the tiles that a start is laid out with, how many fit on each axis, and the offsets that centre them.

    For square images whose side holds five tiles this is the authors' layout; theirs overruns the image for other sizes, and
    has no tile below 5 pixels [change].
    """
    length = max(min(height, width) // 5, 1)
    counts = (height // length, width // length)
    return length, counts, ((height - counts[0] * length) // 2, (width - counts[1] * length) // 2)


def tiled_start(coins: Tensor, signs: Tensor, shape: tuple[int, ...], norm: float) -> Tensor:
    """A start (R, C, H, W) made of patterns side by side: coins (R, n, m) of 0 or 1 transpose them, signs (R, C, n, m) flip them."""
    length, (down, across), (top, left) = tiling(*shape[1:])
    laid = window_patterns(length, norm, signs)[coins][:, None] * signs[..., None, None]
    start = signs.new_zeros(len(signs), *shape)
    start[:, :, top : top + down * length, left : left + across * length] = laid.transpose(3, 4).reshape(
        *signs.shape[:2], down * length, across * length
    )
    return start
