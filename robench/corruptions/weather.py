"""Snow and fog (Hendrycks & Dietterich, ICLR 2019, 1903.12261, and their code); frost and spatter have files of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from robench.core.draws import Draws
from robench.corruptions.blur import smeared_images, zoom_weights
from robench.corruptions.severities import graded_corruption

GREY = (0.299, 0.587, 0.114)  # the grey of a colour (ITU-R BT.601)
WIBBLE = 100.0  # the first kick of a plasma is uniform in +-100 times 100; the heights are scaled to [0, 1] at the end


@graded_corruption(
    cifar=(
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    imagenet=(
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)
def snow(x: Tensor, weather: tuple[float, float, float, float, int, float, float], draws: Draws) -> Tensor:
    """Images made paler and strewn with flakes, which fall along a line that each image draws, and with the same flakes turned around.

    Flakes are normal noise, enlarged, where it is above a limit; smeared at an angle between -135 and -45 degrees.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        weather: mean and deviation of the noise, zoom, limit, radius and deviation of the smear in pixels, and the share of the image
            that is not made paler.
        draws: random numbers of the images.
    """
    mean, deviation, factor, limit, radius, smear, share = weather
    height, width = x.shape[2:]
    noise = mean + deviation * draws.normal((height, width)).to(x)
    large = zoom_weights(height, factor).to(x.device) @ noise @ zoom_weights(width, factor).to(x.device).T
    flakes = (torch.where(large < limit, 0.0, large.clamp(0, 1)) * 255).floor()
    angle = draws.uniform(()).to(x) * 90 - 135
    fine = (smeared_images(flakes[:, None], radius, smear, angle) * 257 + 0.5).floor()
    layer = (fine / 257).floor() / 255
    pale = share * x + (1 - share) * torch.maximum(x, grey_values(x) * 1.5 + 0.5)
    return pale + layer + layer.flip(2, 3)


@graded_corruption(
    cifar=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    imagenet=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)
def fog(x: Tensor, weather: tuple[float, float], draws: Draws) -> Tensor:
    """Images behind a plasma fractal of the severity's thickness and roughness, scaled back to their own brightest subpixel.

    Args:
        x: images (B, C, H, W), float64 in [0, 1].
        weather: thickness, and by what the roughness is divided from one step to the next finer one.
        draws: random numbers of the images.
    """
    thickness, decay = weather
    height, width = x.shape[2:]
    side = 1 << (max(height, width) - 1).bit_length()
    cloud = plasma(draws.uniform((side, side)).to(x), decay)[:, None, :height, :width]
    brightest = x.flatten(1).amax(1)[:, None, None, None]
    return (x + thickness * cloud) * brightest / (brightest + thickness)


def plasma(u: Tensor, decay: float) -> Tensor:
    """Plasma fractals, (B, S, S) in [0, 1], S a power of two, whose edges fit to the opposite ones: the diamond-square algorithm.

    Fournier, Fussell & Carpenter (CACM 1982). As in the published generator the kick of a place is the wibble times a uniform number
    in +-wibble, so that it shrinks by the square of the decay.

    Args:
        u: uniform numbers in [0, 1), (B, S, S): each place takes its own, but for the first corner, which is 0.
        decay: by what the wibble is divided from one step to the next finer one.
    """
    kicks, heights = 2 * u - 1, torch.zeros_like(u)
    step, wibble = u.shape[1], WIBBLE
    while step >= 2:
        half = step // 2
        corner, middle = heights[:, ::step, ::step], heights[:, half::step, half::step]
        right, below = corner + corner.roll(-1, 2), corner + corner.roll(-1, 1)
        middle.copy_((below + below.roll(-1, 2)) / 4 + wibble**2 * kicks[:, half::step, half::step])
        above, left = middle + middle.roll(1, 1), middle + middle.roll(1, 2)
        heights[:, ::step, half::step] = (above + right) / 4 + wibble**2 * kicks[:, ::step, half::step]
        heights[:, half::step, ::step] = (left + below) / 4 + wibble**2 * kicks[:, half::step, ::step]
        step, wibble = half, wibble / decay
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)


def grey_values(x: Tensor) -> Tensor:
    """The grey of colours (..., 3, H, W), or grey images as they are, (..., 1, H, W); added up in one order."""
    if x.shape[-3] == 1:
        return x
    red, green, blue = x.unbind(-3)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).unsqueeze(-3)
