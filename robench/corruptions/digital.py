"""What cameras and files do: contrast, brightness, saturation, pixels and JPEG (Hendrycks & Dietterich, ICLR 2019, and their code)."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robench.core.draws import Draws
from robench.corruptions.severities import graded_corruption

GREEN_BLUE_SHARE = 0.587 + 0.114  # what green and blue give to the grey of a colour (ITU-R BT.601)


@graded_corruption(cifar=(0.75, 0.5, 0.4, 0.3, 0.15), imagenet=(0.4, 0.3, 0.2, 0.1, 0.05))
def contrast(x: Tensor, share: float, _draws: Draws) -> Tensor:
    """Images with each subpixel's distance from the mean of its channel cut down to the severity's share.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        share: share of the distance that is left, in [0, 1].
        _draws: not used.
    """
    total = (x * 255).round().sum((2, 3), keepdim=True)  # whole numbers: the sum is exact in any order
    mean = total / 255 / (x.shape[2] * x.shape[3])
    return (x - mean) * share + mean


@graded_corruption(cifar=(0.05, 0.1, 0.15, 0.2, 0.3), imagenet=(0.1, 0.2, 0.3, 0.4, 0.5))
def brightness(x: Tensor, more: float, _draws: Draws) -> Tensor:
    """Images with the severity's number added to the value of hue, saturation and value; grey images get it added to the pixels.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        more: what is added, pixel units.
        _draws: not used.
    """
    if x.shape[1] == 1:
        return x + more
    hue, saturation, value = to_hsv(x)
    return to_rgb(hue, saturation, (value + more).clamp(0, 1))


@graded_corruption(cifar=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)), imagenet=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)))
def saturate(x: Tensor, change: tuple[float, float], _draws: Draws) -> Tensor:
    """Images with another saturation: pale at severities 1 and 2, gaudy from 3 on.

    The saturation s of hue, saturation and value becomes c0 s + c1. The published generator gives a grey pixel (s = 0) the hue red, so that
    c1 > 0 darkens its green and blue. Images of one channel get the grey of that colour [our choice]: unchanged at severities 1 to 3,
    darker by 7 and 14 percent at 4 and 5.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        change: the pair (c0, c1).
        _draws: not used.
    """
    scale, shift = change
    if x.shape[1] == 1:
        return x * (1 - GREEN_BLUE_SHARE * shift)
    hue, saturation, value = to_hsv(x)
    return to_rgb(hue, (saturation * scale + shift).clamp(0, 1), value)


@graded_corruption(cifar=(0.95, 0.9, 0.85, 0.75, 0.65), imagenet=(0.6, 0.5, 0.4, 0.3, 0.25))
def pixelate(x: Tensor, share: float, _draws: Draws) -> Tensor:
    """Images made smaller to the severity's share of each side, and as large again, both by boxes.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        share: share of each side, in (0, 1].
        _draws: not used.
    """
    height, width = x.shape[2:]
    small = box_resized_images((x * 255).round(), int(height * share), int(width * share))
    return box_resized_images(small, height, width) / 255


@graded_corruption(cifar=(80, 65, 58, 50, 40), imagenet=(25, 18, 15, 10, 7))
def jpeg_compression(x: Tensor, quality: int, _draws: Draws) -> Tensor:
    """Images written and read as JPEG of the severity's quality by Pillow: colours at half the resolution (4:2:0), grey as grey.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        quality: Pillow's quality, 1 to 95.
        _draws: not used.
    """
    images = (x * 255).round().to(torch.uint8).movedim(1, 3).cpu().numpy()
    read = [jpeg_round_trip(image if image.shape[2] == 3 else image[:, :, 0], quality) for image in images]
    back = torch.from_numpy(np.stack(read).reshape(images.shape)) if read else torch.empty(images.shape)
    return back.movedim(3, 1).to(x) / 255


def jpeg_round_trip(image: np.ndarray, quality: int) -> np.ndarray:
    """One 8-bit image, (H, W, 3) or (H, W), after a JPEG file in memory."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file))


def box_resized_images(grey: Tensor, height: int, width: int) -> Tensor:
    """Whole grey levels (B, C, H, W) float64 at another size by Pillow's box filter: across, rounded, then down, rounded.

    Weights are whole multiples of 2^-22, as in Pillow, so that the sums are exact and the same on every device.
    """
    across = (grey @ box_weights(grey.shape[3], width).to(grey.device).T + 2**21).div(2**22).floor()
    return (box_weights(grey.shape[2], height).to(grey.device) @ across + 2**21).div(2**22).floor()


def box_weights(size: int, new: int) -> Tensor:
    """The weights times 2^22, (new, size) float64, of old pixels in new ones: equal for all whose centre is inside, whole numbers."""
    scale = size / new
    centre = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * scale
    offset = (torch.arange(size, dtype=torch.float64) - centre + 0.5) * (1 / max(scale, 1.0))
    inside = ((offset > -0.5) & (offset <= 0.5)).to(torch.float64)
    return (inside / inside.sum(1, keepdim=True) * 2**22 + 0.5).floor()


def to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, saturation and value of colours (B, 3, H, W), each (B, H, W) in [0, 1] (Smith, SIGGRAPH 1978); the hue of grey is 0, red."""
    red, green, blue = x.unbind(1)
    value, chroma = x.amax(1), x.amax(1) - x.amin(1)
    whole = torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(red == value, (green - blue) / whole, torch.zeros_like(value))
    hue = torch.where(green == value, 2 + (blue - red) / whole, hue)
    hue = torch.where(blue == value, 4 + (red - green) / whole, hue)
    hue = torch.where(chroma > 0, (hue / 6).remainder(1.0), torch.zeros_like(hue))
    return hue, torch.where(chroma > 0, chroma / torch.where(value > 0, value, 1.0), torch.zeros_like(value)), value


def to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The colours (B, 3, H, W) of hue, saturation and value, each (B, H, W) in [0, 1] (Smith, SIGGRAPH 1978)."""
    sector = (hue * 6).floor()
    part = hue * 6 - sector
    low, falling = value * (1 - saturation), value * (1 - part * saturation)
    rising = value * (1 - (1 - part) * saturation)
    choices = torch.stack((value, falling, low, low, rising, value), 1)  # red in the sectors 0 to 5; green lags by 2, blue by 4
    turn = torch.stack([(sector.long() + shift) % 6 for shift in (0, 4, 2)], 1)
    return choices.gather(1, turn)
