"""Common corruptions: corrupt(x, severity, draws, *, scale="auto") -> x; the dict CORRUPTIONS lists them. Pillow lives here (JPEG).

The contract, for every function of the list:

Args:
    x: images (B, C, H, W), float in [0, 1], 1 or 3 channels, sides of at least 8 (meant for 28 and more); rounded to 8 bits first.
    severity: 1 to 5.
    draws: random numbers of these images, on the device of x.
    scale: the table of severities: cifar, imagenet, or auto: cifar up to 64 pixels a side, else imagenet (`scale_of` says which). The
        numbers of a table are in pixels where they are lengths, and are used as they are at every size.

Returns:
    New images of the same shape, (B, C, H, W) float32 in [0, 1], on x's device, whole multiples of 1/255 like the published 8-bit files.

Raises:
    InputError: another severity, shape, type or range of x, or an unknown scale.

No gradient passes. An image depends on its pixels, the seed, the key and the id of its draws, the corruption and the severity alone;
the same draws may serve all corruptions, for each takes numbers of its own name and severity.

Corruptions and settings are those of Hendrycks & Dietterich (ICLR 2019, 1903.12261) and their generators of CIFAR-10-C and ImageNet-C;
what is made here is our own and not the released files, and ImageNet-C is stored as JPEG of quality 85 besides, which is left out.

A corruption is written as `change(x, setting, draws)` under `corruptions.severities.graded_corruption`, which gives it the signature above.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from robench.core.draws import Draws
from robench.corruptions.blur import defocus_blur, gaussian_blur, motion_blur, zoom_blur
from robench.corruptions.digital import brightness, contrast, jpeg_compression, pixelate, saturate
from robench.corruptions.frost import frost
from robench.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from robench.corruptions.severities import scale_of
from robench.corruptions.spatter import spatter
from robench.corruptions.warp import elastic_transform, glass_blur
from robench.corruptions.weather import fog, snow

__all__ = ["CORRUPTIONS", "corrupted_images", "scale_of"]

CORRUPTIONS: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}


def corrupted_images(x: Tensor, ids: Tensor, corruption: str, severity: int, *, seed: int, **options: object) -> Tensor:
    """Images under a corruption as every command makes them: `corrupt`, `corrupt --export` and `saliency --against` get equal pixels.

    Args:
        x: images (B, C, H, W), float in [0, 1].
        ids: the images' places in the official split, (B,) int64, on the device of x.
        corruption: a name of CORRUPTIONS.
        severity: 1 to 5.
        seed: seed of the random numbers.
        options: those of the corruption, such as scale="cifar" or, of frost, photos="FOLDER".

    Returns:
        Images (B, C, H, W) float32 in [0, 1], whole multiples of 1/255.

    Raises:
        InputError: the images, the severity or an option are not what the corruption takes.

    Example:
        >>> import torch
        >>> x = torch.full((1, 3, 32, 32), 0.5)
        >>> flat = corrupted_images(x, torch.tensor([0]), "contrast", 5, seed=0)
        >>> flat.shape, bool(flat.std() < 1e-6)  # a flat image has no contrast to lose
        (torch.Size([1, 3, 32, 32]), True)
    """
    return CORRUPTIONS[corruption](x, severity, Draws(seed, ids, "corrupt"), **options)
