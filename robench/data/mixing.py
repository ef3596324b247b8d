"""Mixing of images and labels by pairs: mixup and cutmix.

    mixup    x' = lam x + (1 - lam) x2            (Zhang et al. 2018, "mixup: beyond empirical risk minimization", 1710.09412)
    cutmix   x' = x with one box taken from x2    (Yun et al. 2019, "CutMix", 1905.04899)
    label    lam onehot(y) + (1 - lam) onehot(y2)

The share lam ~ Beta(alpha, alpha), the partners and the place of the box belong to a step of the training and to the whole
batch, as in both papers: each is a pure function of (seed, step), drawn from `Draws`, and processes that each hold a part of the
batch agree without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from robench.core.checks import positive_option
from robench.core.draws import Draws


class MixedBatch(NamedTuple):
    """Mixed images x (B, C, H, W), the labels of their larger parts y (B,), and the probabilities of their labels (B, K)."""

    x: Tensor
    y: Tensor
    probabilities: Tensor


def mixing_partners(n: int, seed: int, step: int) -> Tensor:
    """A random permutation of the n places of the whole batch, (n,) int64 on the CPU: whom each sample is mixed with.

    Args:
        n: the samples of the whole batch, over all processes.
        seed: the seed of the training.
        step: the step of the training.
    """
    return Draws(seed, torch.arange(n), "train/mixing/partners").permutation(step)


def mixing_share(alpha: float, seed: int, step: int) -> float:
    """The share lam in [0, 1] that the samples of one step keep of themselves, from Beta(alpha, alpha).

    Args:
        alpha: above 0: near 0 hardly anything is mixed, 1 is even, large numbers mix all by halves. Both papers take 1 for CIFAR-10.
        seed: the seed of the training.
        step: the step of the training.

    Raises:
        InputError: where alpha is not above 0.
    """
    alpha = positive_option("the alpha of mixup and cutmix", alpha)
    return float(Draws(seed, torch.zeros(1, dtype=torch.int64), "train/mixing/share").beta(alpha, alpha, step))


def box_centre(seed: int, step: int) -> tuple[float, float]:
    """Where the centre of the box of one step lies along height and width, two even numbers in [0, 1).

    Args:
        seed: the seed of the training.
        step: the step of the training.
    """
    down, right = Draws(seed, torch.zeros(1, dtype=torch.int64), "train/mixing/place").uniform((2,), step)[0].tolist()
    return down, right


def mixup(
    x: Tensor,
    other: Tensor,
    y: Tensor,
    other_y: Tensor,
    classes: int,
    lam: float,
    centre: tuple[float, float] = (0.5, 0.5),  # noqa: ARG001 - the signature of every mixing
) -> MixedBatch:
    """The images lam x + (1 - lam) other with their labels (Zhang et al. 2018).

    Args:
        x: images (B, C, H, W), float.
        other: their partners, (B, C, H, W).
        y: (B,) labels of x.
        other_y: (B,) labels of the partners.
        classes: K.
        lam: the share of x, in [0, 1]; of two equal halves x counts as the larger part.
        centre: not used.
    """
    return MixedBatch(torch.lerp(other, x, lam), y if lam >= 0.5 else other_y, mixed_probabilities(y, other_y, classes, lam, x))


def cutmix(
    x: Tensor, other: Tensor, y: Tensor, other_y: Tensor, classes: int, lam: float, centre: tuple[float, float] = (0.5, 0.5)
) -> MixedBatch:
    """The images x with one box, the same in all of them, taken from `other`, and their labels (Yun et al. 2019).

    The box has the share 1 - lam of the area and the shape of the image before it is cut at the border; the labels are
    shared as the pixels are afterwards.

    Args:
        x: images (B, C, H, W), float.
        other: their partners, (B, C, H, W).
        y: (B,) labels of x.
        other_y: (B,) labels of the partners.
        classes: K.
        lam: the share of x, in [0, 1]; of two equal halves x counts as the larger part.
        centre: where the box's centre lies along height and width, in [0, 1).
    """
    height, width = x.shape[-2:]
    (top, bottom), (left, right) = (box_span(length, math.sqrt(1 - lam), at) for length, at in zip((height, width), centre, strict=True))
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    own_share = 1 - (bottom - top) * (right - left) / (height * width)
    return MixedBatch(mixed, y if own_share >= 0.5 else other_y, mixed_probabilities(y, other_y, classes, own_share, x))


def box_span(length: int, part: float, at: float) -> tuple[int, int]:
    """Begin and end of the nearest whole number of pixels to part * length, around the pixel at * length and cut at the border."""
    side = round(part * length)  # the paper does not say how to round
    begin = int(at * length) - side // 2
    return max(begin, 0), min(begin + side, length)


def mixed_probabilities(y: Tensor, other_y: Tensor, classes: int, lam: float, like: Tensor) -> Tensor:
    """lam onehot(y) + (1 - lam) onehot(other_y), (B, K), in the type of `like` but in float32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return lam * F.one_hot(y, classes).to(dtype) + (1 - lam) * F.one_hot(other_y, classes).to(dtype)


# name: mix(x, other, y, other_y, classes, lam, centre) -> Mixed
MIXINGS: dict[str, Callable[..., MixedBatch]] = {
    "mixup": mixup,
    "cutmix": cutmix,
}
