"""RandAugment and random resized crops: the operations are torchvision's (transforms.v2.functional), the random numbers ours, by image.

So an image becomes the same pixels whatever the batch, the process and the worker, and in a resumed training. Both work on images as they
were loaded, that is after --resize and --image-size; torchvision's usual pipeline crops the decoded file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from robench.core.checks import number_option, whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError

PICTURE_OPERATIONS: Any = functional  # its names are not marked as exported
STRONGEST = 30  # magnitudes count from 0 to 30, in 31 steps
CROP_ATTEMPTS = 10  # of a random resized crop, before it takes the middle

Operation = Callable[[Tensor, float], Tensor]


def sheared(x: Tensor, across: float, down: float) -> Tensor:
    """Images sheared by these slopes about their corner.

    Args:
        x: images (B, C, H, W).
        across: slope of the columns, pixels a pixel.
        down: slope of the rows.
    """
    shear = [math.degrees(math.atan(across)), math.degrees(math.atan(down))]
    result: Tensor = PICTURE_OPERATIONS.affine(x, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])
    return result


def shifted(x: Tensor, across: float, down: float) -> Tensor:
    """Images moved by whole pixels; zeros come in.

    Args:
        x: images (B, C, H, W).
        across: to the right, in pixels.
        down: downwards, in pixels.
    """
    result: Tensor = PICTURE_OPERATIONS.affine(x, angle=0.0, translate=[int(across), int(down)], scale=1.0, shear=[0.0, 0.0])
    return result


# name: (operation(uint8 images, strength in [0, 1], with a sign where the last is true), signed); the list and the ranges of torchvision
OPERATIONS: dict[str, tuple[Operation, bool]] = {
    "identity": (lambda x, s: x, False),  # noqa: ARG005
    "shear-x": (lambda x, s: sheared(x, 0.3 * s, 0.0), True),
    "shear-y": (lambda x, s: sheared(x, 0.0, 0.3 * s), True),
    "translate-x": (lambda x, s: shifted(x, 150 / 331 * x.shape[-1] * s, 0.0), True),
    "translate-y": (lambda x, s: shifted(x, 0.0, 150 / 331 * x.shape[-2] * s), True),
    "rotate": (lambda x, s: PICTURE_OPERATIONS.rotate(x, angle=30.0 * s), True),
    "brightness": (lambda x, s: PICTURE_OPERATIONS.adjust_brightness(x, 1 + 0.9 * s), True),
    "color": (lambda x, s: PICTURE_OPERATIONS.adjust_saturation(x, 1 + 0.9 * s), True),
    "contrast": (lambda x, s: PICTURE_OPERATIONS.adjust_contrast(x, 1 + 0.9 * s), True),
    "sharpness": (lambda x, s: PICTURE_OPERATIONS.adjust_sharpness(x, 1 + 0.9 * s), True),
    "posterize": (lambda x, s: PICTURE_OPERATIONS.posterize(x, bits=8 - round(4 * s)), False),
    "solarize": (lambda x, s: PICTURE_OPERATIONS.solarize(x, threshold=255 * (1 - s)), False),
    "auto-contrast": (lambda x, s: PICTURE_OPERATIONS.autocontrast(x), False),  # noqa: ARG005
    "equalize": (lambda x, s: PICTURE_OPERATIONS.equalize(x), False),  # noqa: ARG005
}


def rand_augment(x: Tensor, draws: Draws, step: int = 0, *, n: int = 2, m: int = 9) -> Tensor:
    """Images (B, C, H, W) after n operations of one strength, each drawn evenly from fourteen (Cubuk et al. 2019, 1909.13719).

    Floats are rounded to 8 bits first, which is what the operations are defined for.

    Args:
        x: images (B, C, H, W), uint8, or float in [0, 1], of 1 or 3 channels.
        draws: the random numbers of the samples.
        step: the step of the training, which has numbers of its own.
        n: how many operations, at least 1.
        m: their strength, a whole number from 0 to 30.

    Raises:
        InputError: for an n or m that cannot be.
    """
    whole_option("the n of rand-augment", n)
    if whole_option("the m of rand-augment", m, least=0) > STRONGEST:
        raise InputError(f"the m of rand-augment is a whole number from 0 to {STRONGEST}, not {m}")
    images = x if x.dtype == torch.uint8 else (x * 255).round().to(torch.uint8)
    which = draws.child("augment/operation").integers(len(OPERATIONS), (n,), step)
    signs = draws.child("augment/sign").signs((n,), step)
    for place in range(n):
        images = operated(images, which[:, place], signs[:, place], m / STRONGEST)
    return images if x.dtype == torch.uint8 else images.to(x.dtype) / 255


def operated(x: Tensor, which: Tensor, signs: Tensor, strength: float) -> Tensor:
    """Each image after its own operation, those of one kind together.

    Args:
        x: images (B, C, H, W) uint8.
        which: places in OPERATIONS, (B,).
        signs: -1 or 1, (B,), which operations without a sign do not read.
        strength: in [0, 1].
    """
    result = x.clone()
    for place, (operation, is_signed) in enumerate(OPERATIONS.values()):
        for sign in (-1.0, 1.0) if is_signed else (1.0,):
            chosen = (which == place) & (signs == sign) if is_signed else which == place
            if bool(chosen.any()):
                result[chosen] = operation(x[chosen], sign * strength)
    return result


def random_resized_crop(x: Tensor, draws: Draws, step: int = 0, *, least: float = 0.08, ratio: float = 4 / 3, flip: bool = True) -> Tensor:
    """A part of each image, of random area and shape, brought to the size of the image, and mirrored or not, evenly.

    As torchvision's RandomResizedCrop: area from `least` to 1 evenly, width over height from 1 / ratio to ratio evenly in its logarithm,
    ten attempts at one that fits, else the whole image (which torchvision cuts to the ratio where it is longer). Bilinear, antialiased.

    Args:
        x: images (B, C, H, W), uint8, or float in [0, 1].
        draws: the random numbers of the samples.
        step: the step of the training, which has numbers of its own.
        least: the smallest part of the area, in (0, 1].
        ratio: the largest ratio of the sides, at least 1.
        flip: whether half of the images are mirrored.

    Raises:
        InputError: for options that cannot be.
    """
    number_option("the ratio of random-resized-crop", ratio, least=1)
    if not number_option("the least area of random-resized-crop", least, most=1) > 0:
        raise InputError("the least area of random-resized-crop must be above 0")
    size = [x.shape[-2], x.shape[-1]]
    boxes = crop_boxes(draws, step, (size[0], size[1]), least, ratio)
    parts = [PICTURE_OPERATIONS.resized_crop(image, *box, size=size, antialias=True) for image, box in zip(x, boxes, strict=True)]
    cropped = torch.stack(parts) if parts else x
    if not flip:
        return cropped
    mirrored = draws.child("augment/flip").integers(2, (1,), step).view(-1, 1, 1, 1) == 1
    return torch.where(mirrored, cropped.flip(3), cropped)


def crop_boxes(draws: Draws, step: int, size: tuple[int, int], least: float, ratio: float) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of the part of each image.

    Args:
        draws: the random numbers of the samples.
        step: the step of the training.
        size: height and width of the images.
        least: the smallest part of the area.
        ratio: the largest ratio of the sides.
    """
    height, width = size
    numbers = draws.child("augment/resized-crop").uniform((CROP_ATTEMPTS, 4), step).double().cpu().tolist()
    boxes = []
    for attempts in numbers:
        box = (0, 0, height, width)
        for area, shape, top, left in attempts:
            pixels, aspect = height * width * (least + (1 - least) * area), ratio ** (2 * shape - 1)
            w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if 0 < w <= width and 0 < h <= height:
                box = (int(top * (height - h + 1)), int(left * (width - w + 1)), h, w)
                break
        boxes.append(box)
    return boxes
