"""Gradient accumulation: the images of one step go through the network in several parts, which are put together again.

All losses here are means over samples, and random numbers belong to samples. So the mean over parts of one size of a loss, and of its
gradient, is that of the whole batch; batch norm alone takes its statistics from each part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from robench.core.types import Batch


class LossGradients(NamedTuple):
    """What the backward pass of a loss gives.

    Attributes:
        weights: the gradient by each weight.
        images: the gradient by x_adv, (B, C, H, W); None where nobody asked for it.
        terms: the loss under "loss", then its terms by name, scalars.
    """

    weights: list[Tensor]
    images: Tensor | None
    terms: dict[str, Tensor]


def batch_parts(batch: Batch, n: int) -> list[Batch]:
    """The batch in n parts of one size, in its order; the batch itself where n is 1.

    What an objective keeps from step to step is not cut: all parts have the one dict.

    Args:
        batch: with a number of images that n divides.
        n: how many parts, at least 1.
    """
    if n == 1:
        return [batch]
    return [part_at(batch, rows) for rows in torch.arange(len(batch.x)).split(len(batch.x) // n)]


def part_at(batch: Batch, rows: Tensor) -> Batch:
    """Some images of a batch, with their own random numbers; nothing is remembered from passes of others."""
    first, end = int(rows[0]), int(rows[-1]) + 1
    images = {
        name: getattr(batch, name)[first:end] for name in ("x", "y", "x_adv", "logits", "ids")
    }  # logits are empty before the pass, and stay so
    images["x_adv"] = images["x_adv"].detach().requires_grad_(batch.x_adv.requires_grad)
    mixed = None if batch.mixed is None else batch.mixed[first:end]
    return replace(batch, **images, mixed=mixed, draws=replace(batch.draws, ids=batch.draws.ids[first:end]), memo={})


def mean_gradients(parts: Iterable[LossGradients], n: int) -> LossGradients:
    """The gradients and terms of the mean loss of n parts of one size, added up part by part.

    Args:
        parts: of each part, as they are computed.
        n: how many there are.
    """
    if n == 1:
        return next(iter(parts))
    weights: list[Tensor] = []
    images: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    for part in parts:
        weights = added(weights, part.weights, n)
        images += [] if part.images is None else [part.images / n]
        terms = {name: terms.get(name, 0) + value.detach().double() / n for name, value in part.terms.items()}
    return LossGradients(weights, torch.cat(images) if images else None, terms)


def added(sums: Sequence[Tensor], values: Sequence[Tensor], n: int) -> list[Tensor]:
    """The sums with an n-th of the values added in place; new tensors where there are no sums yet."""
    if not sums:
        return [value / n for value in values]
    return [total.add_(value, alpha=1 / n) for total, value in zip(sums, values, strict=True)]
