"""Learning-rate schedules: the share of the top learning rate at a point of the training.

A schedule is a function of t in [0, 1), the share of the training that is done, and of the mean training losses of the
epochs that are finished. It keeps nothing from one call to the next, so that a training taken up again goes on with the
same rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from robench.core.checks import number_option, whole_option
from robench.core.errors import InputError
from robench.core.recipes import parse_fraction


def constant(t: float, losses: Sequence[float] = ()) -> float:  # noqa: ARG001 - the signature of every schedule
    """The top rate all the time.

    Args:
        t: share of the training that is done, in [0, 1).
        losses: mean training losses of the finished epochs, in order.

    Returns:
        1.
    """
    return 1.0


def piecewise(t: float, losses: Sequence[float] = (), *, first: float = 0.5, second: float = 0.75, factor: float = 0.1) -> float:  # noqa: ARG001
    """The top rate, times `factor` from `first` on and once more from `second` on.

    Args:
        t: share of the training that is done, in [0, 1).
        losses: mean training losses of the finished epochs, in order.
        first: share of the training, in [0, 1].
        second: share of the training, in [first, 1].
        factor: in [0, 1].

    Returns:
        The share of the top rate.

    Raises:
        InputError: for an option out of its range.

    Example:
        >>> [round(piecewise(t), 3) for t in (0, 0.5, 0.75)]
        [1.0, 0.1, 0.01]
    """
    factor, first = number_option("the factor of piecewise", factor, most=1), number_option("first of piecewise", first, most=1)
    second = number_option("second of piecewise, not before first,", second, first, 1)
    return factor ** ((t >= first) + (t >= second))


def milestones(t: float, losses: Sequence[float] = (), *, at: str | float = "0.5:0.75", factor: float = 0.1) -> float:  # noqa: ARG001
    """The top rate, times `factor` from each of the shares of the training in `at` on.

    Args:
        t: share of the training that is done, in [0, 1).
        losses: mean training losses of the finished epochs, in order.
        at: one share in [0, 1] or several joined by colons; a fraction such as 75/120 drops at the very start of epoch 75 of 120.
        factor: in [0, 1].

    Returns:
        The share of the top rate.

    Raises:
        InputError: for an option out of its range, and for shares that decrease.
    """
    return number_option("the factor of milestones", factor, most=1) ** sum(t >= share for share in training_shares(at))


def training_shares(at: str | float) -> list[float]:
    """The shares of the training that the option `at` names.

    Args:
        at: one share in [0, 1], or several joined by colons, which must not decrease.

    Raises:
        InputError: for anything else.

    Example:
        >>> training_shares("1/2:0.75")
        [0.5, 0.75]
    """
    try:
        shares = [parse_fraction(part) for part in str(at).split(":")]
    except ValueError as error:
        raise InputError(f"the option at of milestones must be shares of the training joined by colons, not {at!r}: {error}") from None
    shares = [number_option("a share of the training in milestones", share, most=1) for share in shares]
    if shares != sorted(shares):
        raise InputError(f"the shares in the option at of milestones must not decrease, and these do: {at}")
    return shares


def plateau(
    t: float,  # noqa: ARG001 - the signature of every schedule
    losses: Sequence[float] = (),
    *,
    patience: int = 10,
    threshold: float = 1e-2,
    factor: float = 0.1,
) -> float:
    """The top rate, times `factor` each time that more than `patience` epochs in a row have not lowered the training loss.

    The rule of torch's ReduceLROnPlateau in its relative mode, without its cooldown and its least change. The defaults are
    the setting of Chen, Dong & Xie 2023 (2305.09305), with torch's factor.

    Args:
        t: share of the training that is done, in [0, 1).
        losses: mean training losses of the finished epochs, in order.
        patience: number of epochs to wait for a lower loss, at least 0.
        threshold: an epoch counts where its loss is below (1 - threshold) times the lowest that counted; in [0, 1].
        factor: in [0, 1].

    Returns:
        The share of the top rate.

    Raises:
        InputError: for an option out of its range.
    """
    patience, keep = whole_option("the patience of plateau", patience, 0), 1 - number_option("the threshold of plateau", threshold, most=1)
    lowest, stale_epochs, drops = math.inf, 0, 0
    for loss in losses:
        lowest, stale_epochs = (loss, 0) if loss < lowest * keep else (lowest, stale_epochs + 1)
        if stale_epochs > patience:
            drops, stale_epochs = drops + 1, 0
    return number_option("the factor of plateau", factor, most=1) ** drops


def cyclic(t: float, losses: Sequence[float] = (), *, peak: float = 0.5) -> float:  # noqa: ARG001
    """A triangle: from 0 up to the top rate at `peak`, then down to 0 (Wong et al. 2020, 2001.03994).

    Args:
        t: share of the training that is done, in [0, 1).
        losses: mean training losses of the finished epochs, in order.
        peak: share of the training at which the rate is highest, in [0, 1].

    Returns:
        The share of the top rate.

    Raises:
        InputError: for an option out of its range.
    """
    peak = number_option("the peak of cyclic", peak, most=1)
    return t / peak if t < peak else (1 - t) / (1 - peak)


def one_cycle(t: float, losses: Sequence[float] = (), *, peak: float = 0.25, start: float = 0.04) -> float:  # noqa: ARG001
    """From `start` of the top rate up to it at `peak`, then down to 0, along half cosines (Smith & Topin 2017, 1708.07120).

    Args:
        t: share of the training that is done, in [0, 1).
        losses: mean training losses of the finished epochs, in order.
        peak: share of the training at which the rate is highest, in [0, 1].
        start: share of the top rate at the beginning, in [0, 1].

    Returns:
        The share of the top rate.

    Raises:
        InputError: for an option out of its range.
    """
    peak, start = number_option("the peak of one-cycle", peak, most=1), number_option("the start of one-cycle", start, most=1)
    if t < peak:
        return start + (1 - start) * (1 - math.cos(math.pi * t / peak)) / 2
    return (1 + math.cos(math.pi * (t - peak) / (1 - peak))) / 2


def cosine(t: float, losses: Sequence[float] = ()) -> float:  # noqa: ARG001
    """From the top rate down to 0 along half a cosine (Loshchilov & Hutter 2017, 1608.03983).

    Args:
        t: share of the training that is done, in [0, 1).
        losses: mean training losses of the finished epochs, in order.

    Returns:
        The share of the top rate.
    """
    return (1 + math.cos(math.pi * t)) / 2


# name: rate(t, losses=()) -> share of the top rate; losses are the mean training losses of the finished epochs, in order
SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "piecewise": piecewise,
    "milestones": milestones,
    "plateau": plateau,
    "cyclic": cyclic,
    "one-cycle": one_cycle,
    "cosine": cosine,
}
