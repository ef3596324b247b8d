"""The non-dominated front of two quantities that should both be large, such as clean and robust accuracy.

One point dominates another if it is nowhere smaller and somewhere larger (Pareto 1906). What is left is the front: on it, one quantity
only grows at the cost of the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Pair = tuple[float, float]


def front_membership(points: Sequence[Pair]) -> list[bool]:
    """For each (clean, robust) pair whether no other dominates it, in the order given.

    Equal pairs do not dominate each other: all of them are on the front or none. A pair with a nan is on no front and dominates nothing.
    The differences are taken as they are: whether two accuracies differ by more than chance is a question for their intervals.

    Args:
        points: pairs of numbers that should both be large.

    Example:
        >>> front_membership([(0.9, 0.3), (0.8, 0.5), (0.8, 0.4)])
        [True, True, False]
    """
    return [not any(map(math.isnan, point)) and not any(dominates(other, point) for other in points) for point in points]


def dominates(one: Pair, other: Pair) -> bool:
    """Whether `one` is nowhere smaller than `other` and somewhere larger; never where a nan is met."""
    return one[0] >= other[0] and one[1] >= other[1] and one != other


def front_corners(points: Sequence[Pair]) -> list[Pair]:
    """The corners of the front, each once, from the smallest first quantity to the largest; the second falls from each to the next.

    Args:
        points: pairs of numbers that should both be large.

    Example:
        >>> front_corners([(0.9, 0.3), (0.8, 0.5), (0.8, 0.4)])
        [(0.8, 0.5), (0.9, 0.3)]
    """
    return sorted({point for point, is_corner in zip(points, front_membership(points), strict=True) if is_corner})
