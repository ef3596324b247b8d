"""Occlusion: boxes of one colour on the pixels that the model's own saliency names (inductive), or on random ones, the baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robench.core.checks import whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.model_calls import FULL_ROWS
from robench.core.recipes import lookup
from robench.core.types import Level
from robench.probes.noise import attribution, is_fooled, largest_indices

FILL_COLOURS = {"black": 0.0, "grey": 0.5, "white": 1.0}


def inductive_occlusion(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    draws: Draws,
    *,
    count: int = 10,
    radius: float = 20 / 224,
    colour: str = "all",
    saliency: str = "gradient",
    baseline: float | str = 0.0,
) -> Iterator[Level]:
    """Boxes on the pixels that speak most for the true class, ever more of them and larger, until one union fools.

    Duan et al. (ICLR 2023), Chen et al. (2023, 2305.09305): an image falls if any of the N * R unions of boxes fools. They are tried by
    their areas, the smallest first, equal ones by n and then r (our choice: the verdict is the same in any order). So x and share of a
    fallen image are those of the least union that fools, and of one that stands those of the largest; a union that was already tried
    under another (n, r) is left out. Forward passes are counted until the image falls; those of the saliency go to the first level.
    Setting: colour=black radius=3, with the radius in pixels.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        draws: random numbers of the samples; the result is a pure function of them.
        count: N, at least 1 and at most H*W: the top n = 1 .. N pixels by the channel mean of the signed attributions; ties by index.
        radius: R: boxes [i - r, i + r) x [j - r, j + r) with r = 1 .. R, cut at the border. A whole number: R pixels; a fraction: of the
            shorter side, rounded, at least 1. Published for 224 pixels: (N, R) = (5, 10) and (10, 20); at 32, 20/224 is 3, 10/224 is 1.
        colour: black, grey or white; all: each of them, as a level of its own.
        saliency: of the true logit: gradient, or integrated-gradients (50 steps from the baseline).
        baseline: of integrated-gradients: as in `explainers.baselines.baseline_of`; mean in the code of Duan et al.

    Yields:
        A Level for each setting and repeat.

    Raises:
        InputError: an option is out of its range; raised when the first level is asked for.
    """
    fills, reach = fills_of(colour), reach_of(x, count, radius)
    maps, passes = attribution(model, x, y, draws, saliency, baseline)
    trials = trials_of(x, largest_indices(maps.mean(1).flatten(1), count), reach)
    for place, (word, value) in enumerate(fills.items()):
        yield level_of(model, x, y, trials, value, f"colour={word} radius={reach}", 0, 0 if place else passes)


def random_occlusion(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    draws: Draws,
    *,
    count: int = 10,
    radius: float = 20 / 224,
    colour: str = "all",
    repeats: int = 3,
) -> Iterator[Level]:
    """The boxes of inductive occlusion on random pixels, its baseline (Chen et al. 2023, 2305.09305). No gradients.

    Random boxes overlap less than those on the peaks of a map, so they cover more at the same (N, R): read the error rate with the share.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        draws: random numbers of the samples; the result is a pure function of them.
        count: as in `inductive_occlusion`.
        radius: as in `inductive_occlusion`.
        colour: as in `inductive_occlusion`.
        repeats: independent draws of the pixels, which are distinct and the same for all colours; at least 1.

    Yields:
        A Level for each setting and repeat.

    Raises:
        InputError: an option is out of its range; raised when the first level is asked for.
    """
    fills, reach, repeats = fills_of(colour), reach_of(x, count, radius), whole_option("repeats", repeats)
    for repeat in range(repeats):
        places = largest_indices(draws.child("repeat", repeat).uniform((x[0, 0].numel(),)), count)
        trials = trials_of(x, places, reach)
        for word, value in fills.items():
            yield level_of(model, x, y, trials, value, f"colour={word} radius={reach}", repeat, 0)


def fills_of(colour: str) -> dict[str, float]:
    """The pixel values of the colours that a word means."""
    return lookup(colour, {"all": FILL_COLOURS} | {word: {word: value} for word, value in FILL_COLOURS.items()}, "colour")


def reach_of(x: Tensor, count: int, radius: float) -> int:
    """R in pixels of these images; InputError where count or radius cannot be."""
    if whole_option("count", count) > x[0, 0].numel():
        raise InputError(f"count={count} is more than the {x[0, 0].numel()} pixels of an image")
    if isinstance(radius, float) and 0 < radius < 1:
        return max(1, round(radius * min(x.shape[2:])))
    if isinstance(radius, bool) or not isinstance(radius, int) or radius < 1:
        raise InputError(f"radius must be a whole number of pixels, or a fraction of the shorter side such as 20/224, not {radius!r}")
    return radius


@dataclass(frozen=True)
class Trials:
    """The unions to be tried on B images: P = N * R of them, union p of the top n = p // R + 1 pixels with boxes of r = p % R + 1.

    Attributes:
        rows: how far each row lies from each pixel, from .5 on, (B, N, H): a box of r holds those below r.
        columns: how far each column lies from each pixel, likewise, (B, N, W).
        reach: R, the largest radius in pixels.
        order: the unions by area, the smallest first, (B, P); those that only repeat another one at the end.
        number: how many of these are to be tried, (B,).
        areas: pixels covered, by union, (B, P).
    """

    rows: Tensor
    columns: Tensor
    reach: int
    order: Tensor
    number: Tensor
    areas: Tensor


def trials_of(x: Tensor, centres: Tensor, reach: int) -> Trials:
    """The unions around these pixels, (B, N) flat indices, in the order in which they are tried."""
    height, width = x.shape[2:]
    rows, columns = centre_distances(centres // width, height), centre_distances(centres % width, width)
    pairs = torch.arange(centres.shape[1] * reach, device=x.device)
    areas = torch.stack([union_mask(rows, columns, pair.expand(len(x)), reach).sum((1, 2)).long() for pair in pairs], 1)
    grid, new = areas.view(len(x), -1, reach), torch.ones_like(areas, dtype=torch.bool).view(len(x), -1, reach)
    new[:, 1:] &= grid[:, 1:] > grid[:, :-1]  # a union holds those of smaller n or r: with an equal area it is the same one
    new[:, :, 1:] &= grid[:, :, 1:] > grid[:, :, :-1]
    order = torch.where(new.flatten(1), areas, height * width + 1).argsort(dim=1, stable=True)
    return Trials(rows, columns, reach, order, new.flatten(1).sum(1), areas)


def centre_distances(centres: Tensor, length: int) -> Tensor:
    """How far each place of a line lies from each centre, (B, N) -> (B, N, length): i + d and i - 1 - d are d + .5 from i."""
    return (torch.arange(length, device=centres.device) - centres[..., None] + 0.5).abs()


def union_mask(rows: Tensor, columns: Tensor, pair: Tensor, reach: int) -> Tensor:
    """1 on the pixels that the union `pair`, (M,), of each image covers and 0 elsewhere, (M, H, W); the distances are of M images."""
    in_union = torch.arange(rows.shape[1], device=pair.device) <= (pair // reach)[:, None]
    radius = torch.where(in_union, (pair % reach + 1)[:, None], 0).to(rows.dtype)[..., None]
    boxes = (rows < radius).float().transpose(1, 2) @ (columns < radius).float()  # how many of them cover each pixel
    return boxes.clamp_(max=1)


def covered_images(x: Tensor, trials: Trials, rows: Tensor, pair: Tensor, value: float) -> Tensor:
    """The images x[rows], (M, C, H, W), under the union `pair`, (M,), of each, filled with `value`."""
    near = trials.rows.index_select(0, rows), trials.columns.index_select(0, rows)
    hidden = union_mask(*near, pair, trials.reach).to(x.dtype)[:, None]
    return x.index_select(0, rows).lerp_(x.new_tensor(value), hidden)  # exact at 0 and 1, and several times as quick as masked_fill


def level_of(model: nn.Module, x: Tensor, y: Tensor, trials: Trials, value: float, setting: str, repeat: int, passes: int) -> Level:
    """The level of one colour; `passes` of each direction were made before and are counted here."""
    fooled, query_counts = trial_outcomes(model, x, y, trials, value)
    last = trials.order.gather(1, query_counts[:, None] - 1)
    x_level = covered_images(x, trials, torch.arange(len(x), device=x.device), last.flatten(), value)
    share = trials.areas.gather(1, last).flatten().double() / x[0, 0].numel()
    return Level(setting, repeat, x_level, fooled, share, query_counts + passes, torch.full_like(query_counts, passes))


def trial_outcomes(model: nn.Module, x: Tensor, y: Tensor, trials: Trials, value: float) -> tuple[Tensor, Tensor]:
    """Whether each image falls, (B,) bool, and how many unions were tried until it did, (B,); only standing images are asked about.

    Calls keep their size while fewer and fewer images stand: each then gets its next few unions at once.
    """
    query_counts, fooled = torch.zeros_like(trials.number), torch.zeros_like(trials.number, dtype=torch.bool)
    rows = torch.arange(len(x), device=x.device)
    while len(rows):
        each, more = divmod(max(len(x), FULL_ROWS), len(rows))
        ahead = torch.arange(each + (more > 0), device=x.device)
        quota = each + (torch.arange(len(rows), device=x.device) < more)
        open_ = ahead < torch.minimum(quota, (trials.number - query_counts)[rows])[:, None]
        at, step = open_.nonzero(as_tuple=True)
        image = rows[at]
        pair = trials.order[image, query_counts[image] + step]
        falls = torch.zeros_like(open_)
        falls[at, step] = is_fooled(model, covered_images(x, trials, image, pair, value), y[image])
        fallen = falls.any(1)
        fooled[rows] = fallen
        query_counts[rows] += torch.where(fallen, falls.byte().argmax(1) + 1, open_.sum(1))
        rows = rows[~fallen & (query_counts < trials.number)[rows]]
    return fooled, query_counts
