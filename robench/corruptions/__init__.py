"""Common corruptions: corrupt(x, severity, draws, *, scale="auto") -> x; CORRUPTIONS at the foot is the list. Pillow lives here (JPEG).

x         (B, C, H, W) float in [0, 1], 1 or 3 channels, sides of at least 8 (meant for 28 and more); rounded to 8 bits before anything
severity  1 to 5                                                    draws  random numbers of these images, on the device of x
scale     the table of severities: cifar, imagenet, or auto: cifar up to 64 pixels a side, else imagenet (`scale_of` says which). The
          numbers of a table are in pixels where they are lengths, and are used as they are at every size.

Returned are new images of the same shape, (B, C, H, W) float32 in [0, 1], on x's device, whole multiples of 1/255 like the published
8-bit files. No gradient passes. An image depends on its pixels, the seed, the key and the id of its draws, the corruption and the
severity alone; the same draws may serve all corruptions, for each takes numbers of its own name and severity.

Corruptions and settings are those of Hendrycks & Dietterich (ICLR 2019, 1903.12261) and their generators of CIFAR-10-C and ImageNet-C;
what is made here is our own and not the released files, and ImageNet-C is stored as JPEG of quality 85 besides, which is left out.
InputError: another severity, shape, type or range of x, or an unknown scale.
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

    x        (B, C, H, W) float in [0, 1]          ids  (B,) int64, the images' places in the official split, on the device of x
    options  those of the corruption, such as scale="cifar" or, of frost, photos="FOLDER"
    """
    return CORRUPTIONS[corruption](x, severity, Draws(seed, ids, "corrupt"), **options)
