"""What all corruptions share: 8-bit levels in and out, the table of severities, and which table an image size asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from inspect import cleandoc
from typing import Any

import torch
from torch import Tensor

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import lookup

LARGEST_CIFAR_SIDE = 64  # up to this side an image gets the severities of CIFAR
LEAST_SIDE = 8  # below this side nothing is left of an image that is pixelated to a quarter
CorruptionChange = Callable[[Tensor, Any, Draws], Tensor]
ARGUMENTS = """Args:
    x: images (B, C, H, W), float in [0, 1], of 1 or 3 channels.
    severity: 1 to 5.
    draws: random numbers of the images.
    scale: the table of severities: auto, cifar or imagenet.

Returns:
    Images (B, C, H, W) float32 in [0, 1], whole multiples of 1/255.

Raises:
    InputError: another severity, shape, type or range of x, or an unknown scale."""


def graded_corruption(*, cifar: Sequence[Any], imagenet: Sequence[Any]) -> Callable[[CorruptionChange], Callable[..., Tensor]]:
    """Makes `corrupt(x, severity, draws, *, scale="auto")` of `change(x, setting, draws)`: see robench/corruptions/__init__.py.

    `change` gets float64 values k / 255 and random numbers of its own name and severity. It may leave [0, 1]: what it returns is clipped
    and then cut off, not rounded, to whole grey levels, as the published generator does. The docstring of `corrupt` is that of `change`
    with the arguments of `corrupt`.

    Args:
        cifar: the settings of severities 1 to 5 for small images (Hendrycks & Dietterich, ICLR 2019, 1903.12261, and their code).
        imagenet: the settings of severities 1 to 5 for large images.
    """
    tables = {"cifar": cifar, "imagenet": imagenet}

    def graded_change(change: CorruptionChange) -> Callable[..., Tensor]:
        def corrupt(x: Tensor, severity: int, draws: Draws, *, scale: str = "auto") -> Tensor:
            clean, row = grey_levels(x), tables[scale_of(x, scale)][valid_severity(severity) - 1]
            values = change(clean / 255, row, draws.child(change.__name__, severity))
            return (values.clamp(0, 1) * 255).floor().to(torch.float32) / 255

        update_wrapper(corrupt, change, assigned=("__module__", "__name__", "__qualname__"), updated=())
        corrupt.__doc__ = cleandoc(change.__doc__ or "").partition("\nArgs:")[0].rstrip() + "\n\n" + ARGUMENTS
        del corrupt.__wrapped__  # type: ignore[attr-defined]  # options are read from the signature, which must be that of `corrupt`
        return corrupt

    return graded_change


def grey_levels(x: Tensor) -> Tensor:
    """The images rounded to grey levels, (B, C, H, W) float64, whole numbers from 0 to 255: the published generator reads 8-bit images.

    Args:
        x: images (B, C, H, W), float in [0, 1].

    Raises:
        InputError: x has not 1 or 3 channels, a side below 8, another type than float, or a value outside [0, 1] or not finite.
    """
    if x.dim() != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < LEAST_SIDE:
        raise InputError(f"corruptions need (B, C, H, W) of 1 or 3 channels, each side at least {LEAST_SIDE}, not {tuple(x.shape)}")
    if not x.is_floating_point():
        raise InputError(f"corruptions need images as floats in [0, 1], not {x.dtype}: divide 8-bit images by 255")
    whole = (x.detach().to(torch.float64) * 255).round()
    if not bool(((whole >= 0) & (whole <= 255)).all()):
        raise InputError("corruptions need images in [0, 1], and some pixels are outside or not finite")
    return whole


def valid_severity(severity: object) -> int:
    """The severity, if it is a whole number from 1 to 5.

    Args:
        severity: what the caller gave.

    Raises:
        InputError: it is anything else.
    """
    if isinstance(severity, bool) or not isinstance(severity, int) or not 1 <= severity <= 5:
        raise InputError(f"severity must be a whole number from 1 to 5, not {severity!r}")
    return severity


def scale_of(x: Tensor, scale: str = "auto") -> str:
    """The table of severities in use, "cifar" or "imagenet": what a result has to be named after.

    Args:
        x: images (B, C, H, W); only their size is looked at.
        scale: cifar or imagenet as they stand; auto is cifar where no side of x is above 64 pixels, else imagenet [our choice].

    Raises:
        InputError: there is no such scale.

    Example:
        >>> scale_of(torch.zeros(1, 3, 224, 224)), scale_of(torch.zeros(1, 1, 28, 28))
        ('imagenet', 'cifar')
    """
    small = max(x.shape[2:]) <= LARGEST_CIFAR_SIDE
    return lookup(scale, {"auto": "cifar" if small else "imagenet", "cifar": "cifar", "imagenet": "imagenet"}, "scale of severities")
