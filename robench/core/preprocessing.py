"""How image files become pixels of one size: resized, then cut to the middle, as a model or the user says it.

Mean and spread are not part of it: they are a layer of the model, and a threat lives in the pixels in [0, 1] that come before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robench.core.errors import InputError
from robench.core.recipes import lookup

CORNERS = (
    "even",
    "lower",
)  # where half a pixel is left over: to the even one as torchvision does, or to the lower one as transformers does
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "box", "hamming", "nearest")  # those of Pillow
LARGEST_SIDE = 4096  # pixels of a side that images may be resized or cut to
MOST_PIXELS = 2**26  # of what is resized at once

Extent = tuple[int, int]  # height and width, in pixels


class UnofferedPreprocessingError(InputError):
    """A model wants its images prepared in a way that is not offered here; --image-size of the user's own takes its place."""


class ExtremeShapeError(InputError):
    """An image is so long and narrow that it would become larger than MOST_PIXELS."""


@dataclass(frozen=True)
class Preprocessing:
    """The geometry of torchvision's Resize and CenterCrop, which timm and others use as well.

    Attributes:
        resize: pixels of the shorter side, or (height, width) exactly; None leaves images as large as they are.
        crop: (height, width) of the middle that is kept; None keeps all.
        interpolation: how images are resized, one of INTERPOLATIONS.
        origin: who says so, for sentences: a model, "the options"; two that differ in this alone are equal.
        corner: how halves are rounded where the crop begins, one of CORNERS.

    Example:
        >>> Preprocessing(256, (224, 224), "bicubic").words()
        'resize 256 bicubic, crop 224x224'
    """

    resize: int | Extent | None
    crop: Extent | None
    interpolation: str = "bilinear"
    origin: str = field(default="", compare=False)
    corner: str = "even"

    def __post_init__(self) -> None:
        lookup(self.interpolation, dict.fromkeys(INTERPOLATIONS), "interpolation")
        lookup(self.corner, dict.fromkeys(CORNERS), "corner of a crop")
        sides = [*(self.resize if isinstance(self.resize, tuple) else (self.resize,)), *(self.crop or ())]
        numbers = [side for side in sides if side is not None]
        if numbers and min(numbers) < 1:
            raise InputError(f"the image size must be at least 1 pixel, not {min(numbers)}")
        if numbers and max(numbers) > LARGEST_SIDE:
            raise InputError(f"the image size must be at most {LARGEST_SIDE} pixels, not {max(numbers)}")
        if self.resize is not None and self.crop is not None:
            short = min(self.resize) if isinstance(self.resize, tuple) else self.resize
            if short < max(self.crop) and (isinstance(self.resize, int) or not fits_into(self.crop, self.resize)):
                raise InputError(
                    f"images resized to {short} pixels do not fill a crop of {max(self.crop)}: --resize must be at least --image-size"
                )

    def resized_extent(self, height: int, width: int) -> Extent:
        """Height and width after resizing; the longer side is rounded down.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.

        Raises:
            ExtremeShapeError: where the image would become larger than MOST_PIXELS.
        """
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple):
            return self.resize
        longer = int(self.resize * max(height, width) / min(height, width))
        if self.resize * longer > MOST_PIXELS:
            raise ExtremeShapeError(
                f"an image of {height}x{width} becomes {self.resize} by {longer} pixels: lower --resize, or leave it out"
            )
        return (self.resize, longer) if height <= width else (longer, self.resize)

    def cut_extent(self, height: int, width: int) -> Extent:
        """Height and width after resizing and cutting.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.

        Raises:
            InputError: where the image is smaller than the crop; an ExtremeShapeError where it would become too large.
        """
        height, width = self.resized_extent(height, width)
        if self.crop is None:
            return height, width
        if not fits_into(self.crop, (height, width)):
            raise InputError(
                f"an image of {height}x{width} pixels does not fill a crop of {self.crop[0]}x{self.crop[1]}: pass --resize as well"
            )
        return self.crop

    def fixed_extent(self) -> Extent | None:
        """Height and width of what comes out, where these do not depend on the image; else None."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    def crop_corner(self, height: int, width: int) -> Extent:
        """Top and left of the middle of an image that is resized already; halves are rounded as `corner` says.

        Args:
            height: of the resized image, in pixels.
            width: of the resized image, in pixels.
        """
        crop = self.crop or (height, width)
        rest = (height - crop[0], width - crop[1])
        return (rest[0] // 2, rest[1] // 2) if self.corner == "lower" else (round(rest[0] / 2), round(rest[1] / 2))

    def words(self) -> str:
        """What it does, in a few words."""
        resize = "x".join(map(str, self.resize)) if isinstance(self.resize, tuple) else self.resize
        steps = [] if resize is None else [f"resize {resize} {self.interpolation}"]
        steps += (
            [] if self.crop is None else [f"crop {self.crop[0]}x{self.crop[1]}{' from the lower half pixel' * (self.corner == 'lower')}"]
        )
        return ", ".join(steps) or "as they are"

    def plain(self) -> dict[str, Any]:
        """It as plain JSON values, which `preprocessing_from_plain` reads."""
        resize = list(self.resize) if isinstance(self.resize, tuple) else self.resize
        corner = {"corner": self.corner} if self.corner != CORNERS[0] else {}
        return {"resize": resize, "crop": list(self.crop) if self.crop else None, "interpolation": self.interpolation, **corner}


def fits_into(inner: Extent, outer: Extent) -> bool:
    """Whether one rectangle is no higher and no wider than another.

    Args:
        inner: (height, width) of the rectangle that is asked about, pixels
        outer: (height, width) of the other, pixels
    """
    return inner[0] <= outer[0] and inner[1] <= outer[1]


def preprocessing_from_plain(value: object, origin: str) -> Preprocessing:
    """What `Preprocessing.plain` has written.

    Args:
        value: of a checkpoint or a state, which may come from anywhere.
        origin: who says so, for sentences.

    Raises:
        InputError: for anything else.
    """
    if isinstance(value, Mapping) and {*value} - {"corner"} == {"resize", "crop", "interpolation"}:
        resize, crop, interpolation, corner = value["resize"], value["crop"], value["interpolation"], value.get("corner", CORNERS[0])
        if (
            (resize is None or type(resize) is int or is_extent(resize))
            and (crop is None or is_extent(crop))
            and type(interpolation) is str
            and type(corner) is str
        ):
            return Preprocessing(
                resize if resize is None or type(resize) is int else tuple(resize), crop and tuple(crop), interpolation, origin, corner
            )
    raise InputError(f"{origin} says of its preprocessing {str(value)[:80]}, which no version of robench writes")


def is_extent(value: object) -> bool:
    """Whether a value is a height and a width."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(side) is int for side in value)


def preprocessing_of_options(image_size: int | None, resize: int | None, interpolation: str | None) -> Preprocessing | None:
    """What the user's options say; None where they say nothing.

    Args:
        image_size: the side of the crop, in pixels.
        resize: the shorter side before it; `image_size` unless given.
        interpolation: one of INTERPOLATIONS; bilinear unless given.

    Raises:
        InputError: for options that do not go together.
    """
    if image_size is None:
        if resize is not None:
            raise InputError("--resize sets the shorter side, and --image-size the crop that makes all images one size: give both")
        if interpolation is not None:
            raise InputError("--interpolation says how images are resized, and nothing resizes them: give --image-size as well")
        return None
    return Preprocessing(image_size if resize is None else resize, (image_size, image_size), interpolation or "bilinear", "the options")


def chosen_preprocessing(
    own: Preprocessing | None, image_size: int | None, resize: int | None, interpolation: str | None
) -> tuple[Preprocessing | None, str]:
    """What is done to the images of a model, and a note where options win over what the model says.

    An option that is given takes the place of that part alone: --interpolation bicubic leaves the sizes of the model.

    Args:
        own: what the model says; None where it says nothing.
        image_size: the user's crop, in pixels; None where it is not given.
        resize: the user's shorter side, in pixels.
        interpolation: the user's interpolation.

    Raises:
        InputError: for options that do not go together.

    Example:
        >>> own = Preprocessing(256, (224, 224), "bicubic", "tv/resnet50")
        >>> chosen_preprocessing(own, None, 232, None)
        (Preprocessing(resize=232, crop=(224, 224), interpolation='bicubic', origin='the options', corner='even'), \
'tv/resnet50 says resize 256 bicubic, crop 224x224; the options say resize 232 bicubic, crop 224x224, and win')
    """
    if own is None:
        return preprocessing_of_options(image_size, resize, interpolation), ""
    if (image_size, resize, interpolation) == (None, None, None):
        return own, ""
    crop = own.crop if image_size is None else (image_size, image_size)
    short: int | Extent | None = resize
    if resize is None:
        short = own.resize if image_size is None else image_size
    if crop is None and resize is not None:
        raise InputError("--resize sets the shorter side, and --image-size the crop that makes all images one size: give both")
    chosen = Preprocessing(short, crop, interpolation or own.interpolation, "the options", own.corner)
    note = "" if chosen == own else f"{own.origin} says {own.words()}; the options say {chosen.words()}, and win"
    return chosen, note
