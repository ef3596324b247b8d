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

from robench.attacks.active import Search
from robench.attacks.kernels import USES_COMPILED_KERNELS, kernel
from robench.core.checks import positive_option, whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.threat import DUAL_NORMS, Threat, delta_norms, per_sample
from robench.core.types import AttackResult

Plane = tuple[Tensor, Tensor]  # f (R,) and w (R, C, H, W): the boundary near x_adv is {u : f + <w, u - x_adv> = 0}
Levels = tuple[Tensor, Tensor]  # (R,) each: how far the coordinates move, for the iterate and for the original
FabStepFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
NEWTON_ROUNDS = 10  # of Newton's method where the host does not look; on networks 6 were enough
MOST_NEWTON_ROUNDS = 100  # where it does
FEW_COORDINATES = 256  # so many coordinates usually suffice for l1; they are found faster than all are sorted
LEAST_DIVISOR = 1e-30
LEAST_DISTANCE = 1e-8  # of the two distances that share FAB's step between the iterate and the original


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

    A sample that survives spends 2 * steps * targets forward passes less targets - 1, and steps * targets backward ones:
    the clean image is linearised for all targets at once.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        steps: iterations per target and restart, at least 1: one linearisation and one test each. The points linearised at are tested
            too, which the authors do not do: their logits are there, and it can only break more.
        targets: how many classes, in the order of the clean logits, at least 1; no more than all but the label.
        restarts: runs per target, at least 1: the first from the clean image, the others from random points at eps / 2.
        alpha_max: largest pull towards the original's own projection, in (0, 1].
        eta: factor by which the projections overshoot, above 0.
        beta: share of its distance from the original that a wrong point keeps, in (0, 1].

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range.
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
        return search.result()
    classes, f, w = clean_planes(search, targets)
    for rank in search.turns(classes.shape[1]):
        towards = partial(plane_towards, search, classes[:, rank])
        for restart in search.turns(restarts):
            first_plane = (f[search.rows, rank], w[search.rows, rank]) if restart == 0 else None
            start = start_points(search, draws.child("target", rank), restart)
            run_fab(search, start, towards, step, steps, keep, first_plane)
    return search.result()


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

    An iteration costs two forward passes and K - 1 backward passes.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        steps: iterations per restart, at least 1.
        restarts: runs, at least 1: the first from the clean image, the others from random points at eps / 2.
        alpha_max: largest pull towards the original's own projection, in (0, 1].
        eta: factor by which the projections overshoot, above 0.
        beta: share of its distance from the original that a wrong point keeps, in (0, 1].

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range.
    """
    step = stepper(threat, alpha_max, eta)
    _, _, keep = whole_option("steps", steps), whole_option("restarts", restarts), positive_share("beta", beta)
    search = Search(model, x, y, threat)
    for restart in search.turns(restarts):
        start = start_points(search, draws, restart)
        run_fab(search, start, partial(plane_nearest, search), step, steps, keep)
    return search.result()


def run_fab(
    search: Search,
    x_adv: Tensor,
    plane: Callable[[Tensor], Plane],
    step: FabStepFunction,
    steps: int,
    keep: float,
    first_plane: Plane | None = None,
) -> None:
    """Up to `steps` iterations from x_adv.

    Args:
        search: the samples that still stand.
        x_adv: one start per working row, (R, C, H, W).
        plane: the linearised boundary at points (R, C, H, W).
        step: the next iterate, as made by `stepper`.
        steps: iterations.
        keep: share of its distance from the original that a wrong point keeps.
        first_plane: the plane at x_adv, if it is known.
    """
    for turn in search.turns(steps):
        f, w = first_plane if first_plane is not None and turn == 0 else plane(x_adv)
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


def start_points(search: Search, draws: Draws, restart: int) -> Tensor:
    """Where a run starts, one point per working row: the clean images first, then random points of norm eps / 2, in the box."""
    x, norm = search.x, search.threat.norm
    if restart == 0:
        return x
    restart_draws = draws.child("restart", restart).take(search.rows)
    away = (2 * restart_draws.uniform(x.shape[1:]) - 1 if norm == "linf" else restart_draws.normal(x.shape[1:])).to(x.dtype)
    return (x + away * per_sample(search.threat.eps / 2 / delta_norms(norm, away), x)).clamp(0, 1)


# The planes: the boundary between the label and another class, linearised at a point.


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
        distance = value.abs() / (delta_norms(DUAL_NORMS[search.threat.norm], slope) + 1e-12)
        nearer = distance < least
        least, f = torch.where(nearer, distance, least), torch.where(nearer, value, f)
        w = torch.where(per_sample(nearer, w), slope, w)
    return f, w


def logit_gaps(logits: Tensor, classes: Tensor, y: Tensor) -> Tensor:
    """The logits of `classes` (R, J) less that of the label, (R, J)."""
    return logits.gather(1, classes) - logits.gather(1, y[:, None])


# The step: projections of the iterate and of the original on the plane and the box.


def stepper(threat: Threat, alpha_max: float, eta: float) -> FabStepFunction:
    """The step (x, x_adv, f, w) -> next x_adv with these settings; InputError for a wrong one."""
    most, beyond = positive_share("alpha_max", alpha_max), positive_option("eta", eta)

    def step(x: Tensor, x_adv: Tensor, f: Tensor, w: Tensor) -> Tensor:
        on_host = x.device.type == "cpu"
        move = fused_fab_step if USES_COMPILED_KERNELS.get() and threat.norm != "l1" else fab_step
        return move(threat.norm, x, x_adv, f.nan_to_num(0.0, 0.0, 0.0), w, most, beyond, on_host)

    return step


def positive_share(name: str, value: object) -> float:
    """The value as a float, if it is above 0 and at most 1."""
    share = positive_option(name, value)
    if share > 1:
        raise InputError(f"{name} must be at most 1, not {share}")
    return share


def fab_step(norm: str, x: Tensor, x_adv: Tensor, f: Tensor, w: Tensor, alpha_max: float, eta: float, look: bool) -> Tensor:
    """The next iterate, (R, C, H, W): a mixture of the projections of x_adv and of x, each overshot by eta, in the box."""
    original, point, normal = x.flatten(1), x_adv.flatten(1), w.flatten(1)
    back = original - point
    offsets = torch.stack((f, f + (normal * back).sum(1)))  # the first is f to the bit: nothing cancels
    deltas, sizes = plane_projection(norm, torch.stack((point, original)), normal, offsets, look)
    near, far = sizes.clamp_min(LEAST_DISTANCE).unbind()
    alpha = (near / (near + far)).clamp_max(alpha_max)[:, None]
    mixture = deltas[0] * (eta * (1 - alpha)) + deltas[1] * (eta * alpha)
    return (mixture + alpha * back).add_(point).clamp_(0, 1).view(x.shape)


# Projection of a point on hyperplane and box, the one subproblem of FAB, without a sort. For a point t in [0, 1]^D and the plane
# {u : c + <w, u - t> = 0} the shortest way is to move each coordinate by s_i >= 0 in the direction -sign(c w_i), at most by its room m_i
# to the box, so that sum |w_i| s_i = |c|. The optimality conditions leave one number per point: s = min(v, m) for linf,
# s = min(v |w|, m) for l2; for l1 the coordinates of largest |w| are filled one after the other. Where the plane is out of reach, s = m:
# the corner of the box nearest to it.


def plane_projection(norm: str, t: Tensor, w: Tensor, c: Tensor, look: bool) -> tuple[Tensor, Tensor]:
    """The least delta that takes each point to its plane, or as near as the box allows, (P, R, D), and its norm, (P, R).

    Args:
        norm: linf, l2 or l1.
        t: P stacks of points in [0, 1], (P, R, D).
        w: the normals, (R, D), one for all stacks; where w is 0, so is delta.
        c: the offsets, (P, R): c + <w, u - t> = 0 on the plane.
        look: true: the host looks whether all rows have converged and stops then; false: a fixed number of rounds is made.
    """
    scale = w.abs().amax(1, keepdim=True).clamp_min(LEAST_DIVISOR)
    a, goal = w.abs().div_(scale), c.abs() / scale.squeeze(1)
    direction = w.sign() * torch.where(c < 0, 1.0, -1.0).to(w.dtype)[..., None]
    room = direction.clamp_min(0).sub_(t).abs_().mul_(a > 0)
    if norm == "l1":
        magnitudes = l1_filling(a, room, goal, look)
        return direction.mul_(magnitudes), magnitudes.sum(-1)
    if norm == "linf":
        magnitudes = torch.minimum(room, goal_level(a, room, goal, look), out=room)
        return direction.mul_(magnitudes), magnitudes.amax(-1)
    rate = room.div_(a.clamp_min(LEAST_DIVISOR))
    magnitudes = torch.minimum(rate, goal_level(a * a, rate, goal, look), out=room).mul_(a)
    return direction.mul_(magnitudes), torch.linalg.vector_norm(magnitudes, dim=-1)


def goal_level(a: Tensor, room: Tensor, goal: Tensor, look: bool) -> Tensor:
    """The v at which sum a min(v, room) reaches the goal, (P, R, 1); a (R, D) and room (P, R, D) not negative, goal (P, R).

    The sum is concave and rises piecewise linearly in v, so Newton's method climbs from the left without overshoot and
    ends after finitely many rounds. A row that has converged is frozen: its v does not depend on the other rows. Where
    the goal is out of reach, v is at least the largest room.
    """
    goal = goal[..., None]
    v = goal / a.sum(-1, keepdim=True).clamp_min(LEAST_DIVISOR)
    precision = 16 * torch.finfo(v.dtype).eps
    filling, product = torch.empty_like(room), torch.empty_like(room)  # fresh memory in each round would cost more than the sums
    for _ in range(MOST_NEWTON_ROUNDS if look else NEWTON_ROUNDS):
        torch.minimum(room, v, out=filling)
        lack = goal - torch.mul(filling, a, out=product).sum(-1, keepdim=True)
        slope = torch.sub(room, filling, out=filling).sign_().mul_(a).sum(-1, keepdim=True)
        further = torch.where((slope > 0) & (lack > precision * goal), lack / slope.clamp_min(LEAST_DIVISOR), 0.0)
        v = v + further
        if look and not bool(further.any()):
            break
    return v


def l1_filling(a: Tensor, room: Tensor, goal: Tensor, look: bool) -> Tensor:
    """The s, 0 <= s <= room, of least sum with sum a s = goal, (P, R, D): the largest a are filled first (a fractional knapsack)."""
    few = min(FEW_COORDINATES, a.shape[1])
    if not look or few == a.shape[1]:
        return partial_filling(a, room, goal, a.shape[1])[0]
    filling, reaches_goal = partial_filling(a, room, goal, few)
    rest = (~reaches_goal.all(0)).nonzero().flatten()
    if len(rest):
        filling[:, rest] = partial_filling(a[rest], room[:, rest], goal[:, rest], a.shape[1])[0]
    return filling


def partial_filling(a: Tensor, room: Tensor, goal: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The filling (P, R, D) that uses the `count` largest a only, and whether it reaches the goal, (P, R). Sums are float64."""
    steepest, order = a.sort(dim=1, descending=True) if count == a.shape[1] else a.topk(count, dim=1)
    order, space = order.expand(len(room), -1, -1), room.gather(2, order.expand(len(room), -1, -1)).double()
    gains = steepest.double() * space
    sums = gains.cumsum(2)
    lack = (goal.double()[..., None] - (sums - gains)).clamp_min(0)
    filling = torch.minimum(lack / steepest.double().clamp_min(LEAST_DIVISOR), space).to(a.dtype)
    return torch.zeros_like(room).scatter(2, order, filling), sums[..., -1] >= goal


# The same step in kernels that read the images once, for linf and l2, where kernels are compiled: Newton's method for both projections
# runs side by side, and one round is one pass over iterate, original and normal, which writes nothing. Run eagerly, these functions
# would be slower than `fab_step`.


def fused_fab_step(norm: str, x: Tensor, x_adv: Tensor, f: Tensor, w: Tensor, alpha_max: float, eta: float, look: bool) -> Tensor:
    """The next iterate, (R, C, H, W), as `fab_step` finds it, with the same arguments; norm linf or l2."""
    point, original = x_adv.flatten(1), x.flatten(1)
    normal, f = scaled_plane(w.flatten(1), f)
    near, far, c = newton_start(norm, point, original, normal, f)
    for _ in range(MOST_NEWTON_ROUNDS if look else NEWTON_ROUNDS):
        near, far, more = paired_newton_step(norm, point, original, normal, f, c, near, far)
        if look and not bool(more.any()):
            break
    return projection_mixture(norm, point, original, normal, f, c, near, far, alpha_max, eta).view_as(x)


@kernel
def scaled_plane(w: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """Normal and offset over the largest entry of the normal: squares of tiny gradients would vanish."""
    scale = w.abs().amax(1)
    scale = torch.where(scale > LEAST_DIVISOR, scale, 1.0)
    return w / scale[:, None], f / scale


@kernel
def newton_start(norm: str, point: Tensor, original: Tensor, w: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The levels at which Newton's method starts, and the offset of the plane at the original, (R,) each."""
    scale, c = (w.abs() if norm == "linf" else w * w).sum(1), f + (w * (original - point)).sum(1)
    return f.abs() / scale.clamp_min(LEAST_DIVISOR), c.abs() / scale.clamp_min(LEAST_DIVISOR), c


@kernel
def paired_newton_step(
    norm: str, point: Tensor, original: Tensor, w: Tensor, f: Tensor, c: Tensor, near: Tensor, far: Tensor
) -> tuple[Tensor, ...]:
    """The levels after one round, and whether either moved, (R,) each."""
    one, first = newton_step(norm, point, w, f, near)
    other, second = newton_step(norm, original, w, c, far)
    return one, other, first | second


def newton_step(norm: str, t: Tensor, w: Tensor, c: Tensor, level: Tensor) -> Levels:
    """One round of Newton's method on sum |w| min(reach, room) = |c| for points t (R, D), and whether it moved."""
    a, room = w.abs(), room_of(t, w, c)
    reach = level[:, None] * (torch.ones_like(a) if norm == "linf" else a)
    lack = c.abs() - (a * torch.minimum(room, reach)).sum(1)
    slope = torch.where(room > reach, a if norm == "linf" else a * a, 0.0).sum(1)
    moves = (slope > 0) & (lack > 16 * torch.finfo(t.dtype).eps * c.abs())
    return level + torch.where(moves, lack / slope.clamp_min(LEAST_DIVISOR), 0.0), moves


def room_of(t: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """How far each coordinate of t can go towards the plane before it meets the box, (R, D)."""
    return torch.where((w > 0) == (c < 0)[:, None], 1 - t, t)


@kernel
def projection_mixture(
    norm: str, point: Tensor, original: Tensor, w: Tensor, f: Tensor, c: Tensor, near: Tensor, far: Tensor, alpha_max: float, eta: float
) -> Tensor:
    """The mixture of the two projections, each overshot by eta, in the box, (R, D)."""
    first, size = projection_delta(norm, point, w, f, near)
    second, other_size = projection_delta(norm, original, w, c, far)
    alpha = (size / (size + other_size)).clamp_max(alpha_max)[:, None]
    return ((1 - alpha) * (point + eta * first) + alpha * (original + eta * second)).clamp(0, 1)


def projection_delta(norm: str, t: Tensor, w: Tensor, c: Tensor, level: Tensor) -> Levels:
    """The projection's delta (R, D), and its norm (R,), at least LEAST_DISTANCE."""
    reach = level[:, None] * (torch.ones_like(w) if norm == "linf" else w.abs())
    delta = torch.minimum(room_of(t, w, c), reach) * w.sign() * torch.where(c < 0, 1.0, -1.0)[:, None].to(w.dtype)
    size = delta.abs().amax(1) if norm == "linf" else delta.square().sum(1).sqrt()
    return delta, size.clamp_min(LEAST_DISTANCE)
