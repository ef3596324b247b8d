"""Learning-rate schedules: the share of the top learning rate at a point of the training, as functions of t in [0, 1)."""

from __future__ import annotations

import math
from collections.abc import Callable


def constant(t: float) -> float:  # noqa: ARG001
    """The top rate all the time."""
    return 1.0


def piecewise(t: float, *, first: float = 0.5, second: float = 0.75, factor: float = 0.1) -> float:
    """The top rate, times `factor` from `first` on and once more from `second` on (shares of the training)."""
    return float(factor) ** ((t >= first) + (t >= second))


def cyclic(t: float, *, peak: float = 0.5) -> float:
    """A triangle: from 0 up to the top rate at `peak`, then down to 0 (Wong et al. 2020, 2001.03994)."""
    return t / peak if t < peak else (1 - t) / (1 - peak)


def one_cycle(t: float, *, peak: float = 0.25, start: float = 0.04) -> float:
    """From `start` of the top rate up to it at `peak`, then down to 0, along half cosines (Smith & Topin 2017, 1708.07120)."""
    if t < peak:
        return start + (1 - start) * (1 - math.cos(math.pi * t / peak)) / 2
    return (1 + math.cos(math.pi * (t - peak) / (1 - peak))) / 2


def cosine(t: float) -> float:
    """From the top rate down to 0 along half a cosine (Loshchilov & Hutter 2017, 1608.03983)."""
    return (1 + math.cos(math.pi * t)) / 2


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "piecewise": piecewise,
    "cyclic": cyclic,
    "one-cycle": one_cycle,
    "cosine": cosine,
}
