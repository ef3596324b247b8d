"""Square: random search with square windows, from the logits alone, in three norms (Andriushchenko et al. 2020, 1912.00049).

Each sample draws its own windows, signs and patterns, as in the authors' first code; the AutoAttack version draws one window for
the whole batch. Otherwise we follow the latter, whose results are published; what is ours is marked [change].
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from robench.attacks.active import Search
from robench.attacks.facts import AttackFacts
from robench.attacks.losses import fitting_loss, margin
from robench.core.checks import positive_option, switch_option, whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.threat import Threat, l1_projection, per_sample
from robench.core.types import AttackResult

UntargetedLoss = Callable[[Tensor, Tensor], Tensor]
QueryPlan = list[tuple[int, int, int]]
ORDER = {"l2": 2.0, "l1": 1.0}
NORM_OFFSET = 1e-12
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # after these queries the windows lose half of their area
FULL_LENGTH = 10_000  # the queries that this schedule was made for
TYPICAL_SHARE = 0.04  # of the image's area: what the windows of 5,000 queries cover on average
QUERY_BLOCK = 128  # queries whose random numbers are drawn at once
STRETCH = 32  # queries prepared at once, at most: the working rows are packed anew only between two stretches
STRETCH_AREA = 2048  # so many values of an image are prepared at once, at most


def most_square_passes(options: Mapping[str, Any]) -> tuple[int, int]:
    """Forward and backward passes on an image that stands: one more than the queries, in each restart.

    Args:
        options: of `square`.
    """
    return options["restarts"] * (options["queries"] + 1), 0


@AttackFacts(
    black_box=True, most_passes=most_square_passes, steady_options={"hope": None}, typical_options={"hope": None, "p_init": TYPICAL_SHARE}
)
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    draws: Draws,
    *,
    queries: int = 5000,
    p_init: float = 0.8,
    rescale: bool = False,
    restarts: int = 1,
    loss: str = "margin",
    hope: float | None = None,
) -> AttackResult:
    """Square, a black-box random search that needs logits only (Andriushchenko et al. 2020, 1912.00049).

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        queries: candidates per restart, at least 1, after one query at the start. In linf a candidate that equals the best point counts and
            costs no pass.
        p_init: share of the image's area that the first windows cover, in (0, 1]; it is halved up to nine times.
        rescale: true fits the schedule of the halvings, made for 10,000 queries, to `queries`; AutoAttack does not.
        restarts: independent runs, at least 1; each runs on the samples that still stand.
        loss: margin, ce, dlr or prob-margin: a candidate is taken if it raises it; a wrong label ends the search. Below 3 classes the
            margin stands in for dlr.
        hope: above 0: at 256 queries and each time they have doubled, an image is given up if its loss would stay below 0 although it rose
            this many times as far again as since they last doubled. None gives up no image, as AutoAttack does (ours, for the suite fast).

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range.
    """
    for name, value in (("queries", queries), ("restarts", restarts)):
        whole_option(name, value)
    if positive_option("p_init", p_init) > 1:
        raise InputError(f"p_init is a share of the image, at most 1, not {p_init}")
    span = queries if switch_option("rescale", rescale) else FULL_LENGTH
    if hope is not None:
        positive_option("hope", hope)
    objective, search = fitting_loss(loss, targeted=False), Search(model, x, y, threat)
    channels, height, width = x.shape[1:]

    def side_at(query: int) -> int:
        return window_side(window_share(query * FULL_LENGTH // span, p_init), height, width, odd=threat.norm != "linf")

    plan = list(query_stretches(queries, channels, side_at))
    run = search_corners if threat.norm == "linf" else search_patterns
    for restart in search.turns(restarts):
        run(search, draws.child("restart", restart), plan, margin if loss == "margin" else objective, hope)
    return search.result()


def window_share(query: int, p_init: float) -> float:
    """The share of the image's area that the window of a query (counted from 0) covers."""
    return float(p_init / 2 ** bisect_left(HALVINGS, query))


def window_side(area: float, height: int, width: int, odd: bool) -> int:
    """The side of a square window that covers a share of the image; at least 3 and, where it fits, odd for the patterns of l2 and l1."""
    length = max(round(math.sqrt(area * height * width)), 3 if odd else 1)
    return min(length + (odd and length % 2 == 0), height, width)


def query_stretches(queries: int, channels: int, side_at: Callable[[int], int]) -> Iterator[tuple[int, int, int]]:
    """(first, last, side) for runs of queries that are prepared at once: equal sides, within one block of random numbers.

    Args:
        queries: number of queries.
        channels: channels C of the images.
        side_at: the side of the window of a query, counted from 0.
    """
    for (_, length), run in groupby(range(queries), key=lambda query: (query // QUERY_BLOCK, side_at(query))):
        members = list(run)
        most = max(1, min(STRETCH, STRETCH_AREA // (channels * length**2)))
        for first in range(members[0], members[-1] + 1, most):
            yield first, min(first + most, members[-1] + 1), length


def try_candidates(search: Search, x_new: Tensor, new: Tensor, best: Tensor, objective: UntargetedLoss) -> tuple[Tensor, Tensor]:
    """Takes the verdict at the points x_new: which of them are taken, (R,) bool, and the best losses now, (R,).

    A wrong label is always taken in the paper; here it ends the search of its sample, unless the claim is refused or refuted. A margin of
    exactly 0 with the right label ends it in the authors' code; here the search goes on [change].

    Args:
        search: the samples that still stand.
        x_new: one candidate per working row, (R, C, H, W).
        new: which candidates differ from the best point, (R,) bool.
        best: the largest losses so far, (R,).
        objective: the loss that a candidate has to raise.
    """
    logits = search.ask(x_new, new)
    if not logits.shape[1]:
        return torch.zeros_like(new), best
    losses = objective(logits, search.y).to(x_new.dtype)
    taken = new & (losses > best)
    return taken, torch.where(taken, losses, best)


def start_losses(search: Search, x_new: Tensor, objective: UntargetedLoss) -> Tensor:
    """The losses at the start, (R,), with its verdict; -inf where it is not a number."""
    nothing = x_new.new_full((len(x_new),), -torch.inf)
    return try_candidates(search, x_new, torch.ones_like(search.standing), nothing, objective)[1]


def dismiss_hopeless(search: Search, query: int, best: Tensor, before: Tensor, hope: float | None) -> Tensor:
    """At 128 queries and each time they have doubled: gives up samples without hope; the losses to compare with the next time, (R,).

    Args:
        search: the samples that still stand.
        query: how many queries were made.
        best: the largest losses so far, (R,).
        before: the losses when the queries last doubled, (R,).
        hope: above 0: a row is given up if its loss would stay below 0 although it rose this many times as far again; None gives up no
            sample.
    """
    if hope is None or query < QUERY_BLOCK or query & (query - 1):
        return before
    if query > QUERY_BLOCK:
        search.dismiss(best + hope * (best - before) < 0)
    return best


def window_places(numbers: Tensor, length: int, shape: tuple[int, ...]) -> Tensor:
    """The flat indices of windows in images of shape (C, H, W), expanded to (..., C, length^2), from two uniform numbers each, (..., 2).

    The row is trunc(u (H - length)): as in the authors' code the very last place is never drawn, unless the window fills the axis.
    """
    channels, height, width = shape
    row, column = ((numbers[..., axis] * (extent - length)).long() for axis, extent in ((0, height), (1, width)))
    steps = torch.arange(length, device=numbers.device)
    inside = (steps[:, None] * width + steps).flatten()
    return ((row * width + column)[..., None, None] + inside).expand(*row.shape, channels, -1)


# Linf: every coordinate is at a corner of ball and box, so a candidate is known before the best point is.


def search_corners(search: Search, draws: Draws, plan: QueryPlan, objective: UntargetedLoss, hope: float | None) -> None:
    """One run in linf: from random vertical stripes, windows that move to a random corner of ball and box, one sign per channel."""
    x, eps = search.x, search.threat.eps
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    stripes = draws.take(search.rows).child("start").signs((x.shape[1], 1, x.shape[3]))
    x_best = torch.where(stripes > 0, high, low).contiguous()
    best = start_losses(search, x_best, objective)
    corners, numbers, before = torch.cat((low.flatten(2), high.flatten(2)), 2), low, best
    for first, last, length in plan:
        if not search.alive:
            return
        if first % QUERY_BLOCK == 0:
            before = dismiss_hopeless(search, first, best, before, hope)
            numbers = draws.take(search.rows).uniform((QUERY_BLOCK, 2 + x.shape[1]), first // QUERY_BLOCK)
        x_best, corners, best, before, numbers = search.pack(x_best, corners, best, before, numbers)
        now = numbers[:, first % QUERY_BLOCK : first % QUERY_BLOCK + last - first].transpose(0, 1)
        best = query_corners(search, x_best, best, corners, now, length, objective)


def query_corners(
    search: Search, x_best: Tensor, best: Tensor, corners: Tensor, numbers: Tensor, length: int, objective: UntargetedLoss
) -> Tensor:
    """The best losses (R,) after the queries whose `numbers` are (T, R, 2 + C); x_best (R, C, H, W) is changed in place.

    A query writes its window into x_best, and what was there before is written back where the candidate is not taken.
    """
    pixels = x_best.flatten(2)
    at = window_places(numbers[..., :2], length, x_best.shape[1:])
    up = (numbers[..., 2:, None] >= 0.5) * pixels.shape[2]
    windows = corners.expand(len(at), -1, -1, -1).gather(3, at + up)
    for place, window in zip(at, windows, strict=True):
        if not search.alive:
            break
        old = pixels.gather(2, place)
        new = (window != old).flatten(1).any(1)
        pixels.scatter_(2, place, window)
        taken, best = try_candidates(search, x_best, new, best, objective)
        pixels.scatter_(2, place, torch.where(taken[:, None, None], window, old))
    return best


# L2 and l1: delta itself is the state. Formed anew as x_best - x it would carry rounding dust where nothing was changed, which
# `candidate_delta` blows up to a pattern of norm 1 [change]


def search_patterns(search: Search, draws: Draws, plan: QueryPlan, objective: UntargetedLoss, hope: float | None) -> None:
    """One run in l2 or l1: from tiles of patterns, candidates that carry the mass of one window into another."""
    x, own = search.x, draws.take(search.rows).child("start")
    down, across = tiling(*x.shape[2:])[1]
    signs = own.signs((x.shape[1], down, across)).to(x.dtype)
    tiles = tiled_start(own.integers(2, (down, across)), signs, x.shape[1:], ORDER[search.threat.norm])
    delta = delta_in_threat(search.threat, x, tiles, (-x, 1 - x))
    best, numbers = start_losses(search, (x + delta).clamp(0, 1), objective), delta
    before = best
    for first, last, length in plan:
        if not search.alive:
            return
        if first % QUERY_BLOCK == 0:
            before = dismiss_hopeless(search, first, best, before, hope)
            numbers = draws.take(search.rows).uniform((QUERY_BLOCK, 5 + x.shape[1]), first // QUERY_BLOCK)
        delta, best, before, numbers = search.pack(delta, best, before, numbers)
        now = numbers[:, first % QUERY_BLOCK : first % QUERY_BLOCK + last - first].transpose(0, 1)
        best = query_patterns(search, delta, best, now, length, objective)


def query_patterns(search: Search, delta: Tensor, best: Tensor, numbers: Tensor, length: int, objective: UntargetedLoss) -> Tensor:
    """The best losses (R,) after the queries whose `numbers` are (T, R, 5 + C); the best delta (R, C, H, W) is changed in place."""
    x, both = search.x, window_patterns(length, ORDER[search.threat.norm], delta).flatten(1)
    into, source = (window_places(numbers[..., columns], length, x.shape[1:]) for columns in (slice(0, 2), slice(2, 4)))
    signs, every = (numbers[..., 5:, None] >= 0.5).to(x.dtype) * 2 - 1, torch.ones_like(search.standing)
    room, points, candidate = (-x, 1 - x), torch.empty_like(delta), torch.empty_like(delta)  # fresh memory each time would cost more
    for place, other, coin, sign in zip(into, source, (numbers[..., 4] >= 0.5).long(), signs, strict=True):
        if not search.alive:
            break
        candidate_delta(search.threat, delta, place, other, both[coin][:, None] * sign, candidate)
        candidate = delta_in_threat(search.threat, x, candidate, room)
        torch.add(x, candidate, out=points).clamp_(0, 1)
        taken, best = try_candidates(search, points, every, best, objective)
        torch.where(per_sample(taken, delta), candidate, delta, out=delta)
    return best


def candidate_delta(threat: Threat, delta: Tensor, into: Tensor, source: Tensor, pattern: Tensor, out: Tensor) -> Tensor:
    """Delta (R, C, H, W) with a pattern mixed into one window at the cost of another, before it is `delta_in_threat`; in `out`.

    The window `into` gets the mass of both windows and what the ball had left unused; `source` becomes 0 outside of it.

    Args:
        threat: its norm, l2 or l1, and radius.
        delta: the best delta, (R, C, H, W).
        into: flat indices of the window that gets the pattern, (R, C, S).
        source: flat indices of the window that gives its mass, (R, C, S).
        pattern: the signed pattern, (R, C, S).
        out: where the candidate is written, (R, C, H, W).
    """
    order, eps, channels = ORDER[threat.norm], threat.eps, delta.shape[1]
    pixels = out.copy_(delta).flatten(2)
    all_, window = last_axis_norm(pixels.flatten(1), order)[..., None], pixels.gather(2, into)
    other = pixels.scatter_(2, into, 0).gather(2, source)
    here, there = last_axis_norm(window, order), last_axis_norm(other, order)
    if order == 1:
        budget = (eps - all_).clamp_min(0) + channels * (here + there)
    else:
        budget = ((eps**2 - all_**2).clamp_min(0) / channels + here**2 + there**2).sqrt()
    mixed = pattern + window / (here + NORM_OFFSET)
    mixed = mixed * (budget / (last_axis_norm(mixed, order) + NORM_OFFSET))
    pixels.scatter_(2, source, 0).scatter_(2, into, mixed)
    return out


def delta_in_threat(threat: Threat, x: Tensor, delta: Tensor, room: tuple[Tensor, Tensor]) -> Tensor:
    """Delta scaled to norm eps and cut to the box (l2; in place), or projected on ball and box (l1); 0 stays exactly 0."""
    if threat.norm == "l1":
        return l1_projection(x, delta, threat.eps)
    length = per_sample(last_axis_norm(delta.flatten(1), 2.0), delta) + NORM_OFFSET
    return delta.mul_(threat.eps / length).clamp_(*room)


def last_axis_norm(values: Tensor, order: float) -> Tensor:
    """The l2 or l1 norm along the last dimension, which is kept with length 1."""
    length: Tensor = torch.linalg.vector_norm(values, order, dim=-1, keepdim=True)
    return length


def tiled_start(coins: Tensor, signs: Tensor, shape: tuple[int, ...], norm: float) -> Tensor:
    """A start (R, C, H, W) made of patterns side by side: coins (R, n, m) of 0 or 1 transpose them, signs (R, C, n, m) flip them."""
    length, (down, across), (top, left) = tiling(*shape[1:])
    tiles = window_patterns(length, norm, signs)[coins][:, None] * signs[..., None, None]
    start = signs.new_zeros(len(signs), *shape)
    start[:, :, top : top + down * length, left : left + across * length] = tiles.transpose(3, 4).reshape(
        *signs.shape[:2], down * length, across * length
    )
    return start


def tiling(height: int, width: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """The side of the tiles that a start is laid out with, how many fit on each axis, and the offsets that centre them.

    For square images whose side holds five tiles this is the authors' layout; theirs overruns the image for other sizes, and
    has no tile below 5 pixels [change].
    """
    length = max(min(height, width) // 5, 1)
    counts = (height // length, width // length)
    return length, counts, ((height - counts[0] * length) // 2, (width - counts[1] * length) // 2)


def window_patterns(length: int, norm: float, like: Tensor) -> Tensor:
    """The window pattern and its transpose, (2, length, length): a bump above a negative one, of norm 1 together."""
    upper = length // 2
    halves = ([bump(upper, length, norm)] if upper else []) + [-bump(length - upper, length, norm)]
    pattern = torch.cat(halves)
    pattern = pattern / torch.linalg.vector_norm(pattern, norm)
    return torch.stack((pattern, pattern.T)).to(like)


def bump(height: int, width: int, norm: float) -> Tensor:
    """A positive pattern (height, width) that falls off in square rings from its middle; its `norm`, 1 or 2, is 1. In float64.

    At Chebyshev distance q from the middle it is the sum of k^-2 (l2) or k^-4 (l1) over k = q + 1 ... to the largest ring.
    """
    rows, columns = (torch.arange(extent) - extent // 2 for extent in (height, width))
    ring = torch.maximum(rows.abs()[:, None], columns.abs())
    terms: Tensor = torch.arange(1, max(height // 2, width // 2) + 2, dtype=torch.float64) ** (-2.0 if norm == 2 else -4.0)
    values: Tensor = terms.flip(0).cumsum(0).flip(0)[ring]
    length: Tensor = torch.linalg.vector_norm(values, norm)
    return values / length
