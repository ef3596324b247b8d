"""The built-in data set `shapes`: ten kinds of shape on textured backgrounds, drawn when asked for, each with its object mask.

Image i is a pure function of (seed, split, i), however many are drawn; the arithmetic is float64, so that the rounded pixels
are the same on every machine. A shape has a random size, place, rotation and colour, and is lighter than the background by
0.28 or more in the mean over the channels, nine times 8/255, so what defines the class survives that perturbation.
Texture, grain and distractors are no help to a classifier. No picture is like CIFAR's: a number measured here says nothing
about natural images.

A shape is a signed distance function: (x, y) in units of its radius -> distance to its outline, negative inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.data.images import Choice, Images
from robench.data.index_files import listed_ids

SPLIT_SIZES = {"train": 10_000, "test": 2_000}
IMAGE_SIDE = 32
RADIUS = (8.0, 12.5)  # pixels
SHIFT = 3.0  # of the centre, pixels, either way
CONTRAST = (0.28, 0.42)  # mean over the channels of object - background
CHROMA = 0.12  # deviation of a channel from the grey level, at most
TEXTURE = 0.16  # amplitude of the background's texture; the object's is a third of it
TEXTURE_SCALES = ((4, 0.5), (8, 0.35), (16, 0.25))  # cells a side and weight
GRAIN = 0.03  # amplitude of the noise of single pixels
DISTRACTORS = 7
DISTRACTOR_CONTRAST = 0.35  # at most
CHUNK = 500  # images drawn at once


def rectangle_distance(x: Tensor, y: Tensor, width: float, height: float) -> Tensor:
    """Distance to an upright rectangle with these half sides."""
    dx, dy = x.abs() - width, y.abs() - height
    return torch.hypot(dx.clamp_min(0), dy.clamp_min(0)) + torch.maximum(dx, dy).clamp_max(0)


def disk(x: Tensor, y: Tensor) -> Tensor:
    """A filled circle.

    Args:
        x: how far places lie to the right of the centre, in units of the radius.
        y: how far they lie below it, of the same shape.
    """
    return torch.hypot(x, y) - 0.86


def ring(x: Tensor, y: Tensor) -> Tensor:
    """A circle with a hole.

    Args:
        x: how far places lie to the right of the centre, in units of the radius.
        y: how far they lie below it, of the same shape.
    """
    return (torch.hypot(x, y) - 0.60).abs() - 0.32


def square_shape(x: Tensor, y: Tensor) -> Tensor:
    """A square.

    Args:
        x: how far places lie to the right of the centre, in units of the radius.
        y: how far they lie below it, of the same shape.
    """
    return rectangle_distance(x, y, 0.72, 0.72)


def triangle(x: Tensor, y: Tensor) -> Tensor:
    """A triangle of equal sides.

    Args:
        x: how far places lie to the right of the centre, in units of the radius.
        y: how far they lie below it, of the same shape.
    """
    return torch.maximum(-y, math.sqrt(3) / 2 * x.abs() + y / 2) - 0.53


def star(x: Tensor, y: Tensor) -> Tensor:
    """A star of five points: folded to half a point, it has one straight edge.

    Args:
        x: how far places lie to the right of the centre, in units of the radius.
        y: how far they lie below it, of the same shape.
    """
    sector, tip, notch = 2 * math.pi / 5, 1.08, 0.4
    angle = ((torch.atan2(y, x) + sector / 2) % sector - sector / 2).abs()
    edge_x, edge_y = notch * math.cos(sector / 2) - tip, notch * math.sin(sector / 2)
    length = math.hypot(edge_x, edge_y)
    radius = torch.hypot(x, y)
    return ((radius * angle.cos() - tip) * edge_y - radius * angle.sin() * edge_x) / length


def cross(x: Tensor, y: Tensor) -> Tensor:
    """A plus sign.

    Args:
        x: how far places lie to the right of the centre, in units of the radius.
        y: how far they lie below it, of the same shape.
    """
    return torch.minimum(rectangle_distance(x, y, 0.95, 0.28), rectangle_distance(x, y, 0.28, 0.95))


def crescent(x: Tensor, y: Tensor) -> Tensor:
    """A disk with a smaller disk cut from its side.

    Args:
        x: how far places lie to the right of the centre, in units of the radius.
        y: how far they lie below it, of the same shape.
    """
    return torch.maximum(torch.hypot(x, y) - 0.95, 0.74 - torch.hypot(x - 0.62, y))


def heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its corner with disks over its two upper sides.

    Args:
        x: how far places lie to the right of the centre, in units of the radius.
        y: how far they lie below it, of the same shape.
    """
    u, v = (x + y) * math.sqrt(0.5), (y - x) * math.sqrt(0.5)
    lobes = torch.minimum(torch.hypot(u - 0.62, v - 0.05), torch.hypot(u - 0.05, v - 0.62)) - 0.44
    return torch.minimum(rectangle_distance(u, v, 0.5, 0.5), lobes)


def arrow(x: Tensor, y: Tensor) -> Tensor:
    """A shaft with a triangular head.

    Args:
        x: how far places lie to the right of the centre, in units of the radius.
        y: how far they lie below it, of the same shape.
    """
    head = torch.maximum(0.05 - x, (x + y.abs() - 1) * math.sqrt(0.5))
    return torch.minimum(rectangle_distance(x + 0.4, y, 0.58, 0.2), head)


def bar(x: Tensor, y: Tensor) -> Tensor:
    """A long rectangle.

    Args:
        x: how far places lie to the right of the centre, in units of the radius.
        y: how far they lie below it, of the same shape.
    """
    return rectangle_distance(x, y, 0.92, 0.44)


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disk": disk,
    "ring": ring,
    "square": square_shape,
    "triangle": triangle,
    "star": star,
    "cross": cross,
    "crescent": crescent,
    "heart": heart,
    "arrow": arrow,
    "bar": bar,
}
SHAPE_CLASSES = tuple(SHAPES)


def load_shapes(split: str, choice: Choice) -> Images:
    """The chosen images of the official set (seed 0); n and indices may go beyond the usual size of the split.

    Args:
        split: "train" or "test".
        choice: which images are wanted.

    Raises:
        InputError: for another split.
    """
    if split not in SPLIT_SIZES:
        raise InputError(f"shapes has no split {split!r}: choose one of {', '.join(sorted(SPLIT_SIZES))}")
    ids = torch.arange(max(SPLIT_SIZES[split], choice.n or 0)) if choice.indices is None else listed_ids(choice.indices, "shapes")
    return shape_images(split, tuple(ids[choice.rows(ids, "shapes", shape_labels(Draws(0, ids, f"shapes/{split}")))].tolist()))


@lru_cache(maxsize=4)
def shape_images(split: str, ids: tuple[int, ...], seed: int = 0) -> Images:
    """The images with these ids, uint8 (N, 3, 32, 32), in their order; kept in memory for the next call."""
    rows = torch.tensor(ids)
    with one_thread():
        x, masks = (
            torch.cat(part)
            for part in zip(*(painted_images(Draws(seed, chunk, f"shapes/{split}")) for chunk in rows.split(CHUNK)), strict=True)
        )
    return Images("shapes", split, x, shape_labels(Draws(seed, rows, f"shapes/{split}")), rows, SHAPE_CLASSES, masks)


@contextmanager
def one_thread() -> Iterator[None]:
    """One CPU thread for a while: on a busy machine, threads that wait for each other made these short steps 25 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def shape_labels(draws: Draws) -> Tensor:
    """Labels (B,): each run of ten ids, 0-9, 10-19, ..., holds every class once, in an order of its own."""
    runs = Draws(draws.seed, draws.ids // len(SHAPE_CLASSES), draws.key).child("labels")
    orders = runs.uniform((len(SHAPE_CLASSES),)).argsort(dim=1, stable=True)
    return orders.gather(1, (draws.ids % len(SHAPE_CLASSES)).view(-1, 1)).squeeze(1)


def painted_images(draws: Draws) -> tuple[Tensor, Tensor]:
    """Images (B, 3, 32, 32) uint8 and their object masks (B, 32, 32) bool: background, then distractors, the object, grain."""
    ground, face = colours(draws.child("colours"))
    waves = texture(draws.child("texture"))
    image = with_distractors(ground + TEXTURE * waves, ground, draws.child("distractors"))
    distance = outline_distance(shape_labels(draws), draws.child("outline"))
    image = image + inside_share(distance) * (face + TEXTURE / 3 * waves.flip(-1) - image)
    image = image + GRAIN * (2 * draws.child("grain").uniform((1, IMAGE_SIDE, IMAGE_SIDE)).double() - 1)
    return (image * 255).round().clamp(0, 255).to(torch.uint8), distance < 0


def colours(draws: Draws) -> tuple[Tensor, Tensor]:
    """Colours of background and object, each (B, 3, 1, 1); the mean over the channels of object - background lies in CONTRAST."""
    u = draws.uniform((8,)).double()
    half = values_between(u[:, 0], *CONTRAST) / 2
    middle = 0.5 + (u[:, 1] - 0.5) * (0.8 - 2 * half)  # both grey levels stay within 0.1 and 0.9
    tint = CHROMA * (2 * u[:, 2:].reshape(-1, 2, 3) - 1)
    tint = tint - tint.mean(2, keepdim=True)  # grey levels, and so the contrast, stay what they are
    levels = torch.stack((middle - half, middle + half), 1).unsqueeze(2) + tint
    return image_like(levels[:, 0]), image_like(levels[:, 1])


def texture(draws: Draws) -> Tensor:
    """Smooth noise on several scales, mostly grey, (B, 3, 32, 32), in about [-1, 1]."""
    total = torch.zeros(len(draws.ids), 3, IMAGE_SIDE, IMAGE_SIDE, dtype=torch.float64)
    for cells, weight in TEXTURE_SCALES:
        noise = 2 * draws.child(cells).uniform((3, cells, cells)).double() - 1
        noise = 1.1 * noise.mean(1, keepdim=True) + 0.35 * noise
        total += weight * F.interpolate(noise, size=(IMAGE_SIDE, IMAGE_SIDE), mode="bilinear")
    return total


def with_distractors(image: Tensor, ground: Tensor, draws: Draws) -> Tensor:
    """The background with dots and short lines on it, of colours near its own or not so near."""
    u = draws.uniform((DISTRACTORS, 9)).double()
    for k in range(DISTRACTORS):
        tone = DISTRACTOR_CONTRAST * (2 * u[:, k, 0:1] - 1) + 0.1 * (2 * u[:, k, 1:4] - 1)
        image = image + inside_share(distractor_distance(u[:, k, 4:])) * (ground + image_like(tone) - image)
    return image


def distractor_distance(u: Tensor) -> Tensor:
    """Distance (B, 32, 32), in pixels, to a line with round ends anywhere in the image; two in five are dots. u (B, 5) in [0, 1)."""
    half = (10 * (u[:, 2] - 0.4)).clamp_min(0)
    thickness = values_between(u[:, 3], 0.5, 2.2) * torch.where(half > 0, 0.5, 1.0)
    along, across = turned_coordinates(IMAGE_SIDE * (u[:, 0] - 0.5), IMAGE_SIDE * (u[:, 1] - 0.5), math.pi * u[:, 4])
    return torch.hypot((along.abs() - map_like(half)).clamp_min(0), across) - map_like(thickness)


def outline_distance(y: Tensor, draws: Draws) -> Tensor:
    """Distance (B, 32, 32), in pixels, to the outline of each label's shape at a random size, place and rotation."""
    u = draws.uniform((4,)).double()
    radius = map_like(values_between(u[:, 0], *RADIUS))
    along, across = turned_coordinates(SHIFT * (2 * u[:, 1] - 1), SHIFT * (2 * u[:, 2] - 1), 2 * math.pi * u[:, 3])
    distance = torch.empty_like(along)
    along, across = along / radius, across / radius
    for label, shape in enumerate(SHAPES.values()):
        mine = y == label
        distance[mine] = shape(along[mine], across[mine])
    return distance * radius


def turned_coordinates(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of all pixels, two of (B, 32, 32), in a frame at (x, y) pixels from the image's centre, turned by `angle`."""
    axis = torch.arange(IMAGE_SIDE) - (IMAGE_SIDE - 1) / 2
    dx, dy = axis.view(1, 1, -1) - map_like(x), axis.view(1, -1, 1) - map_like(y)
    cos, sin = map_like(angle.cos()), map_like(angle.sin())
    return dx * cos + dy * sin, dy * cos - dx * sin


def inside_share(distance: Tensor) -> Tensor:
    """The share of each pixel that lies inside, (B, 1, 32, 32): exact for a straight upright edge, smooth for all."""
    return (0.5 - distance).clamp(0, 1).unsqueeze(1)


def values_between(u: Tensor, low: float, high: float) -> Tensor:
    """Numbers in [low, high) from u in [0, 1)."""
    return low + (high - low) * u


def map_like(values: Tensor) -> Tensor:
    """Values (B,) in the shape (B, 1, 1)."""
    return values.view(-1, 1, 1)


def image_like(values: Tensor) -> Tensor:
    """Values (B, 3) in the shape (B, 3, 1, 1)."""
    return values.view(-1, 3, 1, 1)
