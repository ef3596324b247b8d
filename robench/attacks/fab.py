"""Fast adaptive boundary attack, targeted and untargeted, in three norms (Croce & Hein 2019, 1907.02044).

Each iteration takes the boundary for the plane that a linearisation at the iterate gives, projects both the iterate and the
original on that plane and the box, steps a little beyond, and walks back towards the original from points that are wrong.
It seeks the nearest wrong point; here a sample is done with the first one inside the threat, so its distance is not minimal.

Where the label is right, the next linearisation could use the forward pass that showed it. This is not done: most iterates
are wrong and a right one is rarely followed by another, so it saves at most a few passes in a hundred, at the price of a
third model call per iteration, on part of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from robench.attacks import fab_fused
from robench.attacks.active import Search
from robench.attacks.kernels import COMPILED
from robench.attacks.plane_projections import LEAST_DISTANCE, plane_projection
from robench.core.checks import positive_option, whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.threat import Threat, delta_norms, per_sample
from robench.core.types import AttackResult

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
Plane = tuple[Tensor, Tensor]  # f (R,) and w (R, C, H, W): the boundary near x_adv is {u : f + <w, u - x_adv> = 0}
FabStepFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def fab_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    draws: Draws,
    *,
    steps: int = 100,
    targets: int = 9,
    restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> AttackResult:
    """FAB towards one class after the other, the most likely ones first (Croce & Hein 2019, 1907.02044; so in 2003.01690).

    steps      iterations per target and restart: one linearisation and one test each. The points linearised at are tested
               too, which the authors do not do: their logits are there, and it can only break more
    targets    how many classes, in the order of the clean logits; at most all but the label
    restarts   runs per target: the first from the clean image, the others from random points at eps / 2
    alpha_max  largest pull towards the original's own projection
    eta        overshoot of the projections
    beta       share of its distance from the original that a wrong point keeps

    A sample that survives spends 2 * steps * targets forward passes less targets - 1, and steps * targets backward ones:
    the clean image is linearised for all targets at once.
    """
    step = stepper(threat, alpha_max, eta)
    _, targets, _, keep = (
        whole_option("steps", steps),
        whole_option("targets", targets),
        whole_option("restarts", restarts),
        positive_share("beta", beta),
    )
    search = Search(model, x, y, threat)
    if not search.alive:
        return search.found()
    classes, f, w = clean_planes(search, targets)
    for rank in search.turns(classes.shape[1]):
        towards = partial(plane_towards, search, classes[:, rank])
        for restart in search.turns(restarts):
            known = (f[search.rows, rank], w[search.rows, rank]) if restart == 0 else None
            start = start_points(search, draws.child("target", rank), restart)
            run_fab(search, start, towards, step, steps, keep, known)
    return search.found()


def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    draws: Draws,
    *,
    steps: int = 100,
    restarts: int = 5,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> AttackResult:
    """FAB towards the nearest of the K - 1 linearised boundaries in each iteration (Croce & Hein 2019, 1907.02044).

    The options are those of fab_t. An iteration costs two forward passes and K - 1 backward passes.
    """
    step = stepper(threat, alpha_max, eta)
    _, _, keep = whole_option("steps", steps), whole_option("restarts", restarts), positive_share("beta", beta)
    search = Search(model, x, y, threat)
    for restart in search.turns(restarts):
        start = start_points(search, draws, restart)
        run_fab(search, start, partial(plane_nearest, search), step, steps, keep)
    return search.found()


def run_fab(
    search: Search,
    x_adv: Tensor,
    plane: Callable[[Tensor], Plane],
    step: FabStepFunction,
    steps: int,
    keep: float,
    known: Plane | None = None,
) -> None:
    """Up to `steps` iterations from x_adv, one point per working row; `known` is the plane at x_adv, if it is known."""
    for turn in search.turns(steps):
        f, w = known if known is not None and turn == 0 else plane(x_adv)
        x_adv, f, w = search.pack(x_adv, f, w)
        x_adv = step(search.x, x_adv, f, w)
        logits = search.test(x_adv)
        if search.alive:
            x_adv, logits = search.pack(x_adv, logits)
            x_adv = backward_step(search, x_adv, logits, keep)


def backward_step(search: Search, x_adv: Tensor, logits: Tensor, keep: float) -> Tensor:
    """x + keep (x_adv - x) where the label is wrong, or a logit not finite so that no row stays at such a point; else x_adv."""
    back = (logits.argmax(1) != search.y) | ~logits.isfinite().all(1)
    return torch.lerp(x_adv, search.x, per_sample(back.to(x_adv.dtype) * (1 - keep), x_adv))


def stepper(threat: Threat, alpha_max: float, eta: float) -> FabStepFunction:
    """The step (x, x_adv, f, w) -> next x_adv with these settings; InputError for a wrong one."""
    most, beyond = positive_share("alpha_max", alpha_max), positive_option("eta", eta)

    def step(x: Tensor, x_adv: Tensor, f: Tensor, w: Tensor) -> Tensor:
        on_host = x.device.type == "cpu"
        move = fab_fused.fused_fab_step if COMPILED.get() and threat.norm != "l1" else fab_step
        return move(threat.norm, x, x_adv, f.nan_to_num(0.0, 0.0, 0.0), w, most, beyond, on_host)

    return step


def fab_step(norm: str, x: Tensor, x_adv: Tensor, f: Tensor, w: Tensor, alpha_max: float, eta: float, look: bool) -> Tensor:
    """The next iterate, (R, C, H, W): a mixture of the projections of x_adv and of x, each overshot by eta, in the box."""
    original, point, normal = x.flatten(1), x_adv.flatten(1), w.flatten(1)
    back = original - point
    offsets = torch.stack((f, f + (normal * back).sum(1)))  # the first is f to the bit: nothing cancels
    deltas, sizes = plane_projection(norm, torch.stack((point, original)), normal, offsets, look)
    near, far = sizes.clamp_min(LEAST_DISTANCE).unbind()
    alpha = (near / (near + far)).clamp_max(alpha_max)[:, None]
    moved = deltas[0] * (eta * (1 - alpha)) + deltas[1] * (eta * alpha)
    return (moved + alpha * back).add_(point).clamp_(0, 1).view(x.shape)


def clean_planes(search: Search, targets: int) -> tuple[Tensor, Tensor, Tensor]:
    """The classes to aim at, (B, T), the best by the clean logits first, and the planes towards them at x: (B, T), (B, T, C, H, W)."""

    def ranked(logits: Tensor) -> Tensor:
        others = logits.detach().scatter(1, search.y[:, None], float("-inf"))
        return others.sort(dim=1, descending=True, stable=True).indices[:, : min(targets, logits.shape[1] - 1)]

    logits, f, slopes = search.slopes(search.x, lambda logits: logit_gaps(logits, ranked(logits), search.y))
    return ranked(logits), f, torch.stack(list(slopes), 1)


def plane_towards(search: Search, classes: Tensor, x_adv: Tensor) -> Plane:
    """The plane where the label and the class `classes` (B,) of each sample are equally likely, linearised at x_adv."""
    aim = classes[search.rows, None]
    _, f, slopes = search.slopes(x_adv, lambda logits: logit_gaps(logits, aim, search.y))
    return f[:, 0], next(slopes)


def plane_nearest(search: Search, x_adv: Tensor) -> Plane:
    """The plane nearest to x_adv, without regard to the box, of those between the label and each other class; the first where equal."""
    y = search.y[:, None]

    def others(logits: Tensor) -> Tensor:
        classes = torch.arange(logits.shape[1] - 1, device=y.device)
        return logit_gaps(logits, classes + (classes >= y), search.y)

    _, values, slopes = search.slopes(x_adv, others)
    least, f, w = values.new_full((len(y),), float("inf")), torch.zeros_like(values[:, 0]), torch.zeros_like(x_adv)
    for value, slope in zip(values.unbind(1), slopes, strict=True):
        distance = value.abs() / (delta_norms(DUAL[search.threat.norm], slope) + 1e-12)
        nearer = distance < least
        least, f = torch.where(nearer, distance, least), torch.where(nearer, value, f)
        w = torch.where(per_sample(nearer, w), slope, w)
    return f, w


def logit_gaps(logits: Tensor, classes: Tensor, y: Tensor) -> Tensor:
    """The logits of `classes` (R, J) less that of the label, (R, J)."""
    return logits.gather(1, classes) - logits.gather(1, y[:, None])


def start_points(search: Search, draws: Draws, restart: int) -> Tensor:
    """Where a run starts, one point per working row: the clean images first, then random points of norm eps / 2, in the box."""
    x, norm = search.x, search.threat.norm
    if restart == 0:
        return x
    drawn = draws.child("restart", restart).take(search.rows)
    away = (2 * drawn.uniform(x.shape[1:]) - 1 if norm == "linf" else drawn.normal(x.shape[1:])).to(x.dtype)
    return (x + away * per_sample(search.threat.eps / 2 / delta_norms(norm, away), x)).clamp(0, 1)


def positive_share(name: str, value: object) -> float:
    """The value as a float, if it is above 0 and at most 1."""
    share = positive_option(name, value)
    if share > 1:
        raise InputError(f"{name} must be at most 1, not {share}")
    return share
