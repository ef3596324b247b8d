"""Frost (Hendrycks & Dietterich, ICLR 2019, 1903.12261, and their code): from photos that the user has, or from drawn ferns of ice."""

from __future__ import annotations

import hashlib
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.pictures import opened_picture
from robench.corruptions.severities import graded_corruption
from robench.corruptions.weather import grey_values, plasma

SUFFIXES = (".png", ".jpg", ".jpeg")
PHOTO_COUNT = 5  # the published generator has six photos and draws from the first five
SHEET_SIDE = 512  # of a drawn sheet, a power of two
LOOKS = (  # of drawn sheets: mean and deviation of red, green, blue as measured on those five photos; length and spread of the ferns
    ((78, 149, 166), (27, 17, 15), 90.0, 25.0),
    ((201, 205, 215), (21, 22, 23), 110.0, 20.0),
    ((201, 205, 215), (21, 22, 23), 90.0, 25.0),
    ((138, 153, 165), (28, 29, 30), 45.0, 45.0),
    ((112, 123, 135), (44, 43, 42), 60.0, 60.0),
)
FERNS, STEM_STEPS, TWIGS = 700, 20, 32  # how many on a sheet, twigs on each side, and dots in a twig


def frost(x: Tensor, severity: int, draws: Draws, *, scale: str = "auto", photos: str = "") -> Tensor:
    """Images under a sheet of ice: a part of a frost photo, or of a drawn sheet, at a place that each image draws.

    They are c0 x + c1 ice. At the severities of CIFAR every fifth pixel of the ice is taken (fewer are left out where the image would not
    fit), at those of ImageNet all. Drawn sheets go on without end, photos do not. The frost of grey images is the grey of the ice [our
    choice].

    Args:
        x: images (B, C, H, W), float in [0, 1].
        severity: 1 to 5.
        draws: random numbers of the images.
        scale: the table of severities: auto, cifar or imagenet.
        photos: a folder with frost photos (.png, .jpg, .jpeg), of which the first five by name are used, as by the published generator,
            which has its own; empty: five sheets of ferns drawn here [our choice], which have the brightness and colours of the published
            photos but not their details.

    Returns:
        Images (B, C, H, W) float32 in [0, 1], whole multiples of 1/255.

    Raises:
        InputError: as for all corruptions; and a folder without photos, a photo that cannot be read, or one smaller than the images.
    """

    sheets = frost_photos(str(photos)) if photos else drawn_sheets()

    @graded_corruption(
        cifar=((1, 0.2, 5), (1, 0.3, 5), (0.9, 0.4, 5), (0.85, 0.4, 5), (0.75, 0.45, 5)),
        imagenet=((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
    )
    def frosted(x: Tensor, cover: tuple[float, float, int], draws: Draws) -> Tensor:
        image_weight, ice_weight, stride = cover
        ice = cuttings(x, draws, [thinned_sheet(sheet, x, stride, endless=not photos) for sheet in sheets], endless=not photos)
        return (image_weight * (x * 255).round() + ice_weight * (ice if x.shape[1] == 3 else grey_values(ice))) / 255

    return frosted(x, severity, draws, scale=scale)


def cuttings(x: Tensor, draws: Draws, sheets: list[Tensor], *, endless: bool) -> Tensor:
    """A part of a sheet for each image of x, (B, 3, H, W) in grey levels, the sheet and the place being drawn.

    Args:
        x: images (B, C, H, W); only size, type and device are used.
        draws: random numbers of the images.
        sheets: (3, rows, columns) uint8 each.
        endless: whether a sheet goes on with its other end, so that a part may begin anywhere.
    """
    height, width = x.shape[2:]
    ice = torch.empty(len(x), 3, height, width, dtype=torch.uint8)
    for part, (which, down, right) in zip(ice, draws.uniform((3,)).to("cpu", torch.float64).tolist(), strict=True):
        sheet = sheets[int(which * len(sheets))]
        rows, columns = sheet.shape[1:] if endless else (max(sheet.shape[1] - height, 1), max(sheet.shape[2] - width, 1))
        place = sheet[:, int(down * rows) :, int(right * columns) :][:, :height, :width]
        part.copy_(place if place.shape == part.shape else wrapped_part(sheet, int(down * rows), int(right * columns), height, width))
    return ice.to(x)


def thinned_sheet(sheet: Tensor, x: Tensor, stride: int, *, endless: bool) -> Tensor:
    """Every stride-th pixel of a sheet, from the middle of the first step on; if it ends, of fewer so that the images of x fit."""
    height, width = x.shape[2:]
    stride = stride if endless else min(stride, sheet.shape[1] // height, sheet.shape[2] // width)
    if not stride:
        raise InputError(f"a frost photo of {sheet.shape[1]} x {sheet.shape[2]} pixels is smaller than the images, {height} x {width}")
    return sheet[:, stride // 2 :: stride, stride // 2 :: stride]


def wrapped_part(sheet: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """A part (3, height, width) of a sheet that goes on with its other end."""
    rows = torch.arange(top, top + height) % sheet.shape[1]
    columns = torch.arange(left, left + width) % sheet.shape[2]
    return sheet[:, rows][:, :, columns]


@cache
def frost_photos(folder: str) -> list[Tensor]:
    """The first five photos of a folder by name, (3, rows, columns) uint8 each; what is transparent is as if it were not."""
    if not Path(folder).is_dir():
        raise InputError(f"no such folder of frost photos: {folder}")
    files = sorted(file for file in Path(folder).iterdir() if file.suffix.lower() in SUFFIXES)[:PHOTO_COUNT]
    if not files:
        raise InputError(f"no frost photos ({', '.join(SUFFIXES)}) in the folder {folder}")
    return [read_frost_photo(file) for file in files]


def photos_digest(folder: str) -> str:
    """A digest of the frost photos in a folder that are used, "" without a folder.

    Args:
        folder: path of the folder, or "".

    Raises:
        InputError: there is no such folder, no photo in it, or one that cannot be read.
    """
    digest = hashlib.sha256()
    for photo in frost_photos(folder) if folder else ():
        digest.update(photo.numpy().tobytes())
    return digest.hexdigest() if folder else ""


def read_frost_photo(file: Path) -> Tensor:
    """A photo, (3, rows, columns) uint8."""
    try:
        with opened_picture(file) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).movedim(2, 0).contiguous()
    except InputError as error:
        raise InputError(f"cannot read the frost photo {file}: {error}") from error


@cache
def drawn_sheets() -> list[Tensor]:
    """Five sheets of ferns of ice, (3, SHEET_SIDE, SHEET_SIDE) uint8, the same in every run; opposite edges fit together [our choice]."""
    sheets = []
    for which, (mean, deviation, length, spread) in enumerate(LOOKS):
        draws = Draws(0, torch.tensor([which]), "frost")
        mist = plasma(draws.child("mist").uniform((SHEET_SIDE, SHEET_SIDE)).to(torch.float64), 1.6)[0]
        ice = standardised_values(standardised_values(ferns(draws, length, spread)) + 0.6 * standardised_values(mist))
        tone = torch.tensor(mean)[:, None, None] + torch.tensor(deviation)[:, None, None] * ice
        sheets.append(tone.clamp(0, 255).round().to(torch.uint8))
    return sheets


def ferns(draws: Draws, length: float, spread: float) -> Tensor:
    """How bright ferns of ice are, (SHEET_SIDE, SHEET_SIDE) float64 from 0 to 1: bent stems with twigs to both sides, the brightest on top.

    Args:
        draws: random numbers of one sheet.
        length: length of an average stem, in pixels.
        spread: the angle between stem and twigs, in degrees.
    """
    u = draws.uniform((FERNS, 6)).to(torch.float64)[0]
    along = torch.arange(STEM_STEPS, dtype=torch.float64) / STEM_STEPS
    size = length * (0.5 + u[:, 2:3])
    heading = 2 * math.pi * u[:, 3:4] + (u[:, 4:5] - 0.5) * 2 * along  # (FERNS, STEPS)
    stem = torch.stack((heading.sin(), heading.cos())) * (size / STEM_STEPS)
    joints = u[:, :2].T[:, :, None] * SHEET_SIDE + stem.cumsum(2)
    dots = torch.arange(TWIGS, dtype=torch.float64) / TWIGS
    bright = u[:, 5].view(-1, 1, 1).expand(FERNS, STEM_STEPS, TWIGS)
    places, shades = [joints[..., None] + stem[..., None] * dots], [bright]
    for side in (-1, 1):
        twig_heading = heading + side * math.radians(spread)
        reach = 0.45 * size * (1 - along) * torch.stack((twig_heading.sin(), twig_heading.cos()))
        places.append(joints[..., None] + reach[..., None] * dots)
        shades.append(0.85 * bright * (1 - 0.6 * dots))
    rows, columns = torch.cat(places, 3).flatten(1).floor().long() % SHEET_SIDE
    sheet = torch.zeros(SHEET_SIDE * SHEET_SIDE, dtype=torch.float64)
    sheet.scatter_reduce_(0, rows * SHEET_SIDE + columns, torch.cat(shades, 2).flatten(), "amax")
    return sheet.view(SHEET_SIDE, SHEET_SIDE)


def standardised_values(x: Tensor) -> Tensor:
    """Numbers shifted and scaled to mean 0 and deviation 1."""
    return (x - x.mean()) / x.std()
