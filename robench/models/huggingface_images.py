"""How a repository of the Hugging Face hub prepares images: size, crop and normalisation of its image processor, tried before they count.

transformers has some fifty image processors, each in two ways: Pillow's, and torchvision's on tensors, whose pixels differ by some grey
levels where images are resized. Pillow's is taken here. What the settings say is translated, and a few made pictures go through both the
processor itself and the translation: where one pixel differs, the translation does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from robench.core.decoding import fitted_picture
from robench.core.errors import InputError
from robench.core.preprocessing import INTERPOLATIONS, Preprocessing

LEAST_WARPED = 384  # pixels from which ConvNeXt's processor resizes to a square instead of cutting the middle
LEVIT_SHARE = 224 / 256  # of the shorter side that LeViT's processor keeps
VALUE_TOLERANCE, DIGITS = 2e-5, 7  # of normalised values: float32
LEVEL_TOLERANCE = 0.01  # of a grey level, which is a whole number

PixelValues = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ImageSettings:
    """How images are prepared for a network of transformers.

    Attributes:
        preprocessing: their size; None where the processor does something else than resize and crop.
        mean: a number a channel, in the order of red, green and blue.
        std: the spread that goes with `mean`.
        is_reversed: whether the network wants blue before green and red.
        kind: the name of the processor's class.
    """

    preprocessing: Preprocessing | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_reversed: bool
    kind: str


def settings_of_processor(processor: Any, label: str) -> ImageSettings:
    """What an image processor does, to the pixel.

    Args:
        processor: of transformers, with Pillow's way of resizing.
        label: the model that it belongs to, for sentences.

    Raises:
        InputError: where what it gives is no mean and spread of pixels, channel by channel.
    """
    kind = type(processor).__name__.removesuffix("Pil")
    try:
        mean, std = processor_normalisation(processor)
        found = (one for one in translations(processor, label) if is_as_processed(processor, one, mean, std))
        preprocessing = next(found, None)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise InputError(
            f"{label} has an image processor ({kind}) that makes no pixels of a picture ({type(error).__name__}: {error})"
        ) from error
    order = slice(None, None, -1 if reverses_channels(processor) else 1)
    return ImageSettings(preprocessing, tuple(mean[order].tolist()), tuple(std[order].tolist()), reverses_channels(processor), kind)


def translations(processor: Any, label: str) -> Iterator[Preprocessing]:
    """What the settings of an image processor may mean."""
    size, crop = sides(processor, "size"), None
    if getattr(processor, "do_center_crop", None):
        crop = sides(processor, "crop_size")
    interpolation = Image.Resampling(int(getattr(processor, "resample", None) or 0)).name.lower()
    if interpolation not in INTERPOLATIONS:
        return
    for resize, cut in geometries(size if getattr(processor, "do_resize", None) else None, crop, getattr(processor, "crop_pct", None)):
        try:
            yield Preprocessing(resize, cut, interpolation, label, corner_of(resize, cut))
        except InputError:  # sizes that do not go together; the processor fills up with black what is missing
            continue


def corner_of(resize: Any, cut: Any) -> str:
    """Where the crop begins: at the lower half pixel, as transformers cuts, unless no half can be left over."""
    settled = cut is None or (isinstance(resize, tuple) and all((side - kept) % 2 == 0 for side, kept in zip(resize, cut, strict=True)))
    return "even" if settled else "lower"


def geometries(size: Any, crop: Any, share: float | None) -> Iterator[tuple[Any, Any]]:
    """Pairs of a size to resize to and of a crop, the likeliest first."""
    square = (crop, crop) if isinstance(crop, int) else crop
    yield size, square
    for kept in (share, LEVIT_SHARE):
        if isinstance(size, int) and kept:
            yield (int(size / kept), (size, size)) if size < LEAST_WARPED or not share else ((size, size), None)
    if isinstance(size, tuple) and share:
        yield (int(size[0] / share), int(size[1] / share)), square or size
        yield int(size[0] / share), square or size
        yield int(min(size) / share), square or size


def sides(processor: Any, name: str) -> int | tuple[int, int] | None:
    """A size of an image processor: the shorter side, height and width, or None where it says something else."""
    said = dict(getattr(processor, name, None) or {})
    given = {key: value for key, value in said.items() if value is not None}
    if {*given} == {"shortest_edge"}:
        return int(given["shortest_edge"])
    if {*given} == {"height", "width"}:
        return int(given["height"]), int(given["width"])
    return None


def processor_normalisation(processor: Any) -> tuple[PixelValues, PixelValues]:
    """Mean and spread, a number a channel, with which pixels in [0, 1] become what it gives.

    They are read off a black and a white picture: some processors shift, scale twice, or divide by other numbers than 255. Where that
    agrees with the numbers of the settings, it is those.
    """
    black, white = (middle_values(processor, level) for level in (0, 255))
    spread = white - black
    if not np.isfinite(spread).all() or np.abs(spread).min() < VALUE_TOLERANCE:
        raise ValueError("black and white have the same values, or no finite ones")
    mean, std = -black / spread, 1 / spread
    names = (("image_mean", 0.0), ("image_std", 1.0))
    said = [np.broadcast_to(np.asarray(getattr(processor, name, None) or default, float), 3) for name, default in names]
    agrees = np.allclose(mean, said[0], rtol=0, atol=VALUE_TOLERANCE) and np.allclose(std, said[1], rtol=VALUE_TOLERANCE, atol=0)
    return (said[0], said[1]) if agrees else (mean.round(DIGITS) + 0.0, std.round(DIGITS))


def middle_values(processor: Any, level: int) -> PixelValues:
    """What a processor makes of the middle of a picture of one grey level, a number a channel."""
    seen = processed(processor, Image.new("RGB", (320, 320), (level,) * 3))
    return seen[:, seen.shape[1] // 2, seen.shape[2] // 2].astype(float)


def is_as_processed(processor: Any, preprocessing: Preprocessing, mean: PixelValues, std: PixelValues) -> bool:
    """Whether a processor and a preprocessing make the same pixels of made pictures, higher ones and wider ones."""
    height, width = preprocessing.crop or (0, 0)
    for more in ((301, 407), (419, 310), (333, 335)):
        picture = noise_picture(height + more[0], width + more[1])
        levels = (processed(processor, picture) * std[:, None, None] + mean[:, None, None]) * 255
        own = own_pixels(picture, preprocessing)[:: -1 if reverses_channels(processor) else 1]
        if levels.shape != own.shape or np.abs(levels - own).max() > LEVEL_TOLERANCE:
            return False
    return True


def reverses_channels(processor: Any) -> bool:
    """Whether a processor gives blue before green and red."""
    return bool(getattr(processor, "do_flip_channel_order", False))


def noise_picture(height: int, width: int) -> Image.Image:
    """A picture of random pixels, the same each time."""
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def processed(processor: Any, picture: Image.Image) -> PixelValues:
    """What a processor makes of a picture, (C, H, W)."""
    with np.errstate(all="ignore"):  # of a spread of 0, which is refused
        batch = processor.preprocess(picture, return_tensors="np")["pixel_values"]
    values: PixelValues = np.asarray(batch[0])
    return values


def own_pixels(picture: Image.Image, preprocessing: Preprocessing) -> PixelValues:
    """What a preprocessing makes of a picture, (3, H, W) uint8."""
    return np.asarray(fitted_picture(picture, preprocessing)).transpose(2, 0, 1)
