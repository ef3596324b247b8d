"""Projection of a point on hyperplane and box, in three norms: the one subproblem of FAB (Croce & Hein 2019, 1907.02044), without a sort.

For a point t in [0, 1]^D and the plane {u : c + <w, u - t> = 0} the shortest way is to move each coordinate by s_i >= 0 in
the direction -sign(c w_i), at most by its room m_i to the box, so that sum |w_i| s_i = |c|. The optimality conditions leave
one number per point: s = min(v, m) for linf, s = min(v |w|, m) for l2; for l1 the coordinates of largest |w| are filled one
after the other. Where the plane is out of reach, s = m: the corner of the box nearest to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEWTON_ROUNDS = 10  # of Newton's method where the host does not look; on networks 6 were enough
MOST_NEWTON_ROUNDS = 100  # where it does
FEW_COORDINATES = 256  # so many coordinates usually suffice for l1; they are found faster than all are sorted
LEAST_DIVISOR = 1e-30
LEAST_DISTANCE = 1e-8  # of the two distances that share FAB's step between the iterate and the original


def plane_projection(norm: str, t: Tensor, w: Tensor, c: Tensor, look: bool) -> tuple[Tensor, Tensor]:
    """The least delta that takes each point to its plane, or as near as the box allows, (P, R, D), and its norm, (P, R).

    t     (P, R, D): P stacks of points in [0, 1]
    w     (R, D): the normals, one for all stacks; where w is 0, so is delta
    c     (P, R): the offsets, c + <w, u - t> = 0 on the plane
    look  the host looks whether all rows have converged and stops then; else a fixed number of rounds is made
    """
    scale = w.abs().amax(1, keepdim=True).clamp_min(LEAST_DIVISOR)
    a, goal = w.abs().div_(scale), c.abs() / scale.squeeze(1)
    direction = w.sign() * torch.where(c < 0, 1.0, -1.0).to(w.dtype)[..., None]
    room = direction.clamp_min(0).sub_(t).abs_().mul_(a > 0)
    if norm == "l1":
        moved = l1_filling(a, room, goal, look)
        return direction.mul_(moved), moved.sum(-1)
    if norm == "linf":
        moved = torch.minimum(room, goal_level(a, room, goal, look), out=room)
        return direction.mul_(moved), moved.amax(-1)
    rate = room.div_(a.clamp_min(LEAST_DIVISOR))
    moved = torch.minimum(rate, goal_level(a * a, rate, goal, look), out=room).mul_(a)
    return direction.mul_(moved), torch.linalg.vector_norm(moved, dim=-1)


def goal_level(a: Tensor, room: Tensor, goal: Tensor, look: bool) -> Tensor:
    """The v at which sum a min(v, room) reaches the goal, (P, R, 1); a (R, D) and room (P, R, D) not negative, goal (P, R).

    The sum is concave and rises piecewise linearly in v, so Newton's method climbs from the left without overshoot and
    ends after finitely many rounds. A row that has converged is frozen: its v does not depend on the other rows. Where
    the goal is out of reach, v is at least the largest room.
    """
    goal = goal[..., None]
    v = goal / a.sum(-1, keepdim=True).clamp_min(LEAST_DIVISOR)
    precision = 16 * torch.finfo(v.dtype).eps
    held, product = torch.empty_like(room), torch.empty_like(room)  # fresh memory in each round would cost more than the sums
    for _ in range(MOST_NEWTON_ROUNDS if look else NEWTON_ROUNDS):
        torch.minimum(room, v, out=held)
        lack = goal - torch.mul(held, a, out=product).sum(-1, keepdim=True)
        slope = torch.sub(room, held, out=held).sign_().mul_(a).sum(-1, keepdim=True)
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
    moved, reached = partial_filling(a, room, goal, few)
    rest = (~reached.all(0)).nonzero().flatten()
    if len(rest):
        moved[:, rest] = partial_filling(a[rest], room[:, rest], goal[:, rest], a.shape[1])[0]
    return moved


def partial_filling(a: Tensor, room: Tensor, goal: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The filling (P, R, D) that uses the `count` largest a only, and whether it reaches the goal, (P, R). Sums are float64."""
    steepest, order = a.sort(dim=1, descending=True) if count == a.shape[1] else a.topk(count, dim=1)
    order, space = order.expand(len(room), -1, -1), room.gather(2, order.expand(len(room), -1, -1)).double()
    gains = steepest.double() * space
    sums = gains.cumsum(2)
    lack = (goal.double()[..., None] - (sums - gains)).clamp_min(0)
    moved = torch.minimum(lack / steepest.double().clamp_min(LEAST_DIVISOR), space).to(a.dtype)
    return torch.zeros_like(room).scatter(2, order, moved), sums[..., -1] >= goal
