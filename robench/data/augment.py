"""Augmentation of a whole batch at once, on its device; every sample has its own random numbers, from its id and the step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from robench.core.checks import whole_option
from robench.core.draws import Draws
from robench.data.rand_augment import rand_augment, random_resized_crop


def crop_flip(x: Tensor, draws: Draws, step: int = 0, *, padding: int = 4, flip: bool = True) -> Tensor:
    """Images (B, C, H, W) moved by up to `padding` pixels either way along both axes (zeros come in), then mirrored or not, evenly.

    Cutting the old size out of the padded image and mirroring it are both a choice of rows and of columns, so each axis is one gather.

    Args:
        x: images (B, C, H, W), float.
        draws: the random numbers of the samples.
        step: the step of the training, which has numbers of its own.
        padding: the most pixels of a move along either axis, a whole number of at least 0.
        flip: whether half of the images are mirrored.
    """
    height, width = x.shape[-2:]
    top, left = draws.child("augment/crop").integers(2 * padding + 1, (2,), step).unbind(1)
    rows = top.view(-1, 1) + torch.arange(height, device=x.device)
    columns = left.view(-1, 1) + torch.arange(width, device=x.device)
    if flip:
        mirrored = draws.child("augment/flip").integers(2, (1,), step) == 1
        columns = torch.where(mirrored, columns.flip(1), columns)
    return pixels_at(F.pad(x, [padding] * 4), rows, columns)


def pixels_at(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels of each image at its own rows (B, h) and columns (B, w): (B, C, h, w)."""
    channels, width = x.shape[1], x.shape[3]
    lines = x.gather(2, rows.view(len(x), 1, -1, 1).expand(-1, channels, -1, width))
    return lines.gather(3, columns.view(len(x), 1, 1, -1).expand(-1, channels, rows.shape[1], -1))


def cutout(x: Tensor, draws: Draws, step: int = 0, *, size: int | None = None) -> Tensor:
    """Images (B, C, H, W), each with one square set to 0 (DeVries & Taylor 2017, "Improved regularization with cutout", 1708.04552).

    The centre is an even random pixel and the square is cut at the border, so that it may lie partly outside. The paper fills
    with 0 after normalisation, which is the mean colour; ours are pixels and 0 is black, as where a crop comes in (our choice).

    Args:
        x: images (B, C, H, W), float.
        draws: the random numbers of the samples.
        step: the step of the training, which has numbers of its own.
        size: the side of the square in pixels; None takes half of the shorter side, 16 at 32 pixels, the paper's for CIFAR-10.

    Raises:
        InputError: where size is no whole number of at least 1.
    """
    side = min(x.shape[-2:]) // 2 if size is None else whole_option("the size of cutout", size)
    hidden_rows, hidden_columns = (
        cutout_mask(draws.child("augment/cutout", axis).integers(length, (1,), step), length, side)
        for axis, length in zip(("rows", "columns"), x.shape[-2:], strict=True)
    )
    return x.masked_fill((hidden_rows[:, :, None] & hidden_columns[:, None, :])[:, None], 0)


def cutout_mask(centre: Tensor, length: int, side: int) -> Tensor:
    """Which of `length` places belong to the `side` places around each centre (B, 1): (B, length) bool."""
    places = torch.arange(length, device=centre.device) - (centre - side // 2)
    return (places >= 0) & (places < side)


def crop_flip_cutout(x: Tensor, draws: Draws, step: int = 0) -> Tensor:
    """Images (B, C, H, W) moved and mirrored by `crop_flip`, then with a square cut out by `cutout`.

    Args:
        x: images (B, C, H, W), float.
        draws: the random numbers of the samples.
        step: the step of the training, which has numbers of its own.
    """
    return cutout(crop_flip(x, draws, step), draws, step)


def none(x: Tensor, draws: Draws, step: int = 0) -> Tensor:  # noqa: ARG001
    """The images as they are.

    Args:
        x: images (B, C, H, W).
        draws: not used.
        step: not used.
    """
    return x


# name: augment(x, draws, step=0) -> x
AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "none": none,
    "crop-flip": crop_flip,
    "crop": partial(crop_flip, flip=False),  # digits and letters have no mirror image
    "flip": partial(crop_flip, padding=0),
    "cutout": cutout,
    "crop-flip-cutout": crop_flip_cutout,
    "rand-augment": rand_augment,
    "random-resized-crop": random_resized_crop,
}
