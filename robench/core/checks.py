"""Checks of the options that a user writes in a recipe; what is wrong is an InputError with one sentence."""

from __future__ import annotations

import math

from robench.core.errors import InputError


def whole_option(name: str, value: object, least: int = 1) -> int:
    """The value, if it is a whole number of at least `least`.

    Args:
        name: the name of the option, for the error.
        value: what the user wrote.
        least: the smallest value that is allowed.

    Raises:
        InputError: for anything else, also for true and false.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return value


def positive_option(name: str, value: object) -> float:
    """The value as a float, if it is a finite number above 0.

    Args:
        name: the name of the option, for the error.
        value: what the user wrote.

    Raises:
        InputError: for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InputError(f"{name} must be a finite number above 0, not {value!r}")
    return float(value)


def number_option(name: str, value: object, least: float = 0.0, most: float = math.inf) -> float:
    """The value as a float, if it is a finite number in [least, most].

    Args:
        name: the name of the option, for the error.
        value: what the user wrote.
        least: the smallest value that is allowed.
        most: the largest value that is allowed.

    Raises:
        InputError: for anything else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most and math.isfinite(value):
        return float(value)
    bound = f" and at most {most:g}" if math.isfinite(most) else ""
    raise InputError(f"{name} must be a finite number of at least {least:g}{bound}, not {value!r}")


def switch_option(name: str, value: object) -> bool:
    """The value, if it is true or false.

    Args:
        name: the name of the option, for the error.
        value: what the user wrote.

    Raises:
        InputError: for anything else.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, not {value!r}")
    return value
