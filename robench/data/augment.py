"""Augmentation of a whole batch at once, on its device; every sample has its own random numbers, from its id and the step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from robench.draws import Draws


def crop_flip(x: Tensor, draws: Draws, step: int = 0, *, padding: int = 4, flip: bool = True) -> Tensor:
    """Images (B, C, H, W) moved by up to `padding` pixels either way along both axes (zeros come in), then mirrored or not, evenly.

    Cutting the old size out of the padded image and mirroring it are both a choice of rows and of columns, so each axis is one gather.
    """
    height, width = x.shape[-2:]
    top, left = draws.child("augment/crop").integers(2 * padding + 1, (2,), step).unbind(1)
    rows = top.view(-1, 1) + torch.arange(height, device=x.device)
    columns = left.view(-1, 1) + torch.arange(width, device=x.device)
    if flip:
        mirrored = draws.child("augment/flip").integers(2, (1,), step) == 1
        columns = torch.where(mirrored, columns.flip(1), columns)
    return gathered(F.pad(x, [padding] * 4), rows, columns)


def gathered(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels of each image at its own rows (B, h) and columns (B, w): (B, C, h, w)."""
    channels, width = x.shape[1], x.shape[3]
    lines = x.gather(2, rows.view(len(x), 1, -1, 1).expand(-1, channels, -1, width))
    return lines.gather(3, columns.view(len(x), 1, 1, -1).expand(-1, channels, rows.shape[1], -1))


def none(x: Tensor, draws: Draws, step: int = 0) -> Tensor:  # noqa: ARG001
    """The images as they are."""
    return x


# name: augment(x, draws, step=0) -> x
AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "none": none,
    "crop-flip": crop_flip,
    "crop": partial(crop_flip, flip=False),  # digits and letters have no mirror image
    "flip": partial(crop_flip, padding=0),
}
