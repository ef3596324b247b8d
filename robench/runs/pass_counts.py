"""How many passes an attack spends on an image that stands to its end: it is run, with its own options, on a model that no point can fool.

The counts that come back are those of the attack itself (`core.types.AttackResult`), so they hold for every image that stands; one that
falls costs fewer. The same model, at the real size of the images, tells how long the attack's own arithmetic takes beside the passes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robench.attacks.facts import AttackFacts
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.facts import facts_above
from robench.core.model_calls import LEAST_ROWS
from robench.core.recipes import options_of
from robench.core.threat import DUAL_NORMS, Threat, delta_norms
from robench.core.types import AttackResult
from robench.models.stand_ins import wait_for_device
from robench.runs.stages.attack import Attack
from robench.runs.timings import GROWTH, SizeTimes

PATTERNS = 4  # patterns of pixels that the logits of the model follow
SAFE = 1.5  # its margins are so many times what the threat can move
COUNTING_SIDE = 32  # passes are counted on images of at most so many pixels a side
COUNTING_IMAGES = 2
COUNTING_SECONDS = 8.0  # of processor, after which passes are counted with fewer steps
COUNTED_STEPS = (10, 20)  # numbers of steps, or queries, from which the count for more follows, as it grows by as much with each of them
LENGTHS = ("steps", "queries")  # options of attacks that say how long they are
SKIPPED_CALLS = 2  # calls at the start of an attack that are not timed: they find ranks and targets
LEAST_CALLS, MOST_CALLS = 6, 48  # calls of an attack whose arithmetic is timed


class EnoughCallsError(Exception):
    """Ends an attack that is only counted or timed."""


class UnfooledModel(nn.Module):
    """Logits that follow a few patterns of the pixels, with margins that no point of the threat around `centre` can close.

    Outside of the threat another label is in reach, so that a search for the nearest boundary has one to search.

    Args:
        centre: the image (C, H, W) around which the label stays.
        classes: number of classes K.
        label: the class of `centre`.
        threat: the threat that must not change it.

    Attributes:
        calls: number of calls.
        rows: images in all of them.
        backward_rows: images in all backward passes.
        inside: seconds spent in its forward and backward passes.
        ends: ends(calls) -> whether the attack is to be ended now, asked at each call.
    """

    def __init__(self, centre: Tensor, classes: int, label: int, threat: Threat) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        patterns = torch.randn((PATTERNS, *centre.shape), generator=generator) / centre.numel() ** 0.5
        weights = torch.randn((classes, PATTERNS), generator=generator)
        reach = threat.eps * delta_norms(DUAL_NORMS[threat.norm], patterns)
        moved = (weights - weights[label]).abs() @ reach
        bias = -SAFE * moved.clamp_min(1e-3) * (1 + torch.arange(classes) / classes)
        bias[label] = 0.0
        self.centre, self.patterns, self.weights, self.bias = centre, patterns.flatten(1).to(centre), weights.to(centre), bias.to(centre)
        self.calls, self.rows, self.backward_rows, self.inside = 0, 0, 0, 0.0
        self.ends: Callable[[UnfooledModel], bool] = lambda _: False
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """The logits, (B, K)."""
        if self.ends(self):
            raise EnoughCallsError
        self.calls += 1
        self.rows += len(x)
        logits: Tensor = PatternLogits.apply(x, self)
        return logits


class PatternLogits(torch.autograd.Function):
    """The logits of an `UnfooledModel`, and their gradient, each with its seconds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: UnfooledModel) -> Tensor:
        """The logits, (B, K)."""
        begin = time.perf_counter()
        ctx.model, ctx.shape = model, x.shape
        features = x.flatten(1) @ model.patterns.T - (model.patterns @ model.centre.flatten())
        logits: Tensor = features @ model.weights.T + model.bias
        model.inside += time.perf_counter() - begin
        return logits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gradient, (B, C, H, W)."""
        begin = time.perf_counter()
        grad = (grads[0] @ ctx.model.weights @ ctx.model.patterns).view(ctx.shape)
        ctx.model.backward_rows += len(grads[0])
        ctx.model.inside += time.perf_counter() - begin
        return grad, None


@dataclass(frozen=True)
class Passes:
    """Passes that an attack spends on one image that stands to its end.

    Attributes:
        forwards: forward passes.
        backwards: backward passes.
    """

    forwards: float
    backwards: float


def counted_passes(attack: Attack, classes: int, shape: tuple[int, ...], threat: Threat, *, seed: int = 0) -> Passes | None:
    """The passes of an attack on an image that stands to its end; None where it cannot be counted.

    Args:
        attack: an attack with its options, as for a model of so many classes.
        classes: number of classes K.
        shape: (C, H, W) of the images.
        threat: the threat.
        seed: of the draws.
    """
    facts = facts_above(attack, AttackFacts)
    if facts.most_passes is not None:
        return Passes(*facts.most_passes(options_of(attack)))
    whole = with_options(attack, facts.steady_options)
    name, steps = next(((name, options_of(attack)[name]) for name in LENGTHS if name in options_of(attack)), ("", 0))
    try:
        counted = passes_on_unfooled(whole, classes, shape, threat, seed)
        if counted is not None or steps <= max(COUNTED_STEPS) or not is_ours(attack):
            return counted
        few, more = (passes_on_unfooled(with_options(whole, {name: count}), classes, shape, threat, seed) for count in COUNTED_STEPS)
    except InputError:
        raise
    except Exception:  # an attack of the user's own may ask more of a model than this one has
        return None
    return None if few is None or more is None else passes_by_steps(few, more, steps)


def passes_by_steps(few: Passes, more: Passes, steps: int) -> Passes:
    """The passes for so many steps, from those for COUNTED_STEPS: each further step costs as much as the last."""
    share = (steps - COUNTED_STEPS[0]) / (COUNTED_STEPS[1] - COUNTED_STEPS[0])
    return Passes(
        few.forwards + share * (more.forwards - few.forwards),
        few.backwards + share * (more.backwards - few.backwards),
    )


def passes_on_unfooled(attack: Attack, classes: int, shape: tuple[int, ...], threat: Threat, seed: int) -> Passes | None:
    """The passes that an attack reports on small made images; None where it takes longer than COUNTING_SECONDS, or does not report them."""
    small = (shape[0], *(min(side, COUNTING_SIDE) for side in shape[1:]))
    small = small if fits(threat, small) else shape
    label = label_for(attack)
    model = UnfooledModel(made_image(small), classes, label, threat)
    begin = time.process_time()
    model.ends = lambda _: time.process_time() - begin > COUNTING_SECONDS
    count = COUNTING_IMAGES if is_ours(attack) else LEAST_ROWS
    x, y = model.centre.expand(count, *small).clone(), torch.full((count,), label)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            result = attack(model, x, y, threat, Draws(seed, torch.arange(count), "counted"))
    except EnoughCallsError:
        return None
    if not isinstance(result, AttackResult) or bool(result.fooled.any()):
        return None
    if not is_ours(attack):  # which may leave out what it does not count
        return Passes(model.rows / count, model.backward_rows / count)
    return Passes(float(result.forwards.double().mean()), float(result.backwards.double().mean()))


RunOnBatch = Callable[[nn.Module, Tensor, Tensor], object]


def arithmetic_times(run: RunOnBatch, model: UnfooledModel, most: int, label: int, limit: float) -> SizeTimes | None:
    """The seconds that an attack spends beside its passes for each forward pass, by number of images; None where it cannot be run so.

    Args:
        run: run(model, x, y) runs the attack on a batch x (B, C, H, W) with labels y (B,).
        model: the model that it is run on.
        most: images in the largest batch.
        label: the label of all images.
        limit: seconds that the largest batch may take.
    """
    points: list[tuple[int, float]] = []
    size = min(GROWTH, most)
    try:
        while True:
            begin = time.perf_counter()
            points.append((size, sampled_arithmetic(run, model, size, label, limit / GROWTH)))
            took, following = time.perf_counter() - begin, min(GROWTH * size, most)
            if size == most or took * following / size > GROWTH * limit:
                return SizeTimes(tuple(points))
            size = following
    except InputError:
        raise
    except Exception:  # an attack of the user's own may ask more of a model than this one has
        return None


def sampled_arithmetic(run: RunOnBatch, model: UnfooledModel, size: int, label: int, limit: float) -> float:
    """The seconds beside the passes for each forward pass of one batch, from the first calls of an attack. Arguments as above."""
    device = model.centre.device
    marks: list[tuple[int, float, float]] = []  # calls, seconds of the clock, seconds inside the model

    def mark(asked: UnfooledModel) -> None:
        wait_for_device(device)
        marks.append((asked.calls, time.perf_counter(), asked.inside))

    def ends(asked: UnfooledModel) -> bool:
        if asked.calls in (0, SKIPPED_CALLS):
            mark(asked)
        timed = asked.calls - SKIPPED_CALLS
        return timed >= MOST_CALLS or (timed >= LEAST_CALLS and time.perf_counter() - marks[-1][1] > limit)

    model.calls, model.inside, model.ends = 0, 0.0, ends
    x = model.centre.expand(size, *model.centre.shape).clone()
    begin = (0, time.perf_counter(), 0.0)
    with suppress(EnoughCallsError):
        run(model, x, torch.full((size,), label))
    mark(model)
    calls, clock, inside = marks[-2] if len(marks) > 2 and marks[-1][0] > SKIPPED_CALLS else begin
    last_calls, last_clock, last_inside = marks[-1]
    return max(0.0, (last_clock - clock) - (last_inside - inside)) / max(1, last_calls - calls)


def with_options(attack: Attack, options: Any) -> Attack:
    """The attack with other values of some of the options that it has."""
    known = options_of(attack)
    mine = {name: value for name, value in options.items() if name in known}
    return partial(attack, **mine) if mine else attack


def label_for(attack: Attack) -> int:
    """A label that is not the class that the attack is to reach."""
    return 1 if options_of(attack).get("target") == 0 else 0


def is_ours(attack: Attack) -> bool:
    """Whether an attack is one of robench's own."""
    function = attack.func if isinstance(attack, partial) else attack
    return str(getattr(function, "__module__", "")).startswith("robench.")


def made_image(shape: tuple[int, ...]) -> Tensor:
    """An image (C, H, W) of random pixels away from black and white."""
    return 0.25 + 0.5 * torch.rand(shape, generator=torch.Generator().manual_seed(1))


def fits(threat: Threat, shape: tuple[int, ...]) -> bool:
    """Whether a radius is less than the distances in images of a shape, so that it means what it means in larger ones."""
    most = {"linf": 1.0, "l2": torch.Size(shape).numel() ** 0.5, "l1": float(torch.Size(shape).numel())}[threat.norm]
    return bool(threat.eps < most / 4)
