"""The step of FAB in kernels that read the images once: what `fab.fab_step` does, for linf and l2, where kernels are compiled.

Newton's method for both projections (see `planes`) runs side by side: one round is one pass over iterate, original and normal, which
writes nothing. Run eagerly, these functions would be slower than `fab.fab_step`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robench.attacks.kernels import kernel
from robench.attacks.plane_projections import LEAST_DISTANCE, LEAST_DIVISOR, MOST_NEWTON_ROUNDS, NEWTON_ROUNDS

Levels = tuple[Tensor, Tensor]  # (R,) each: how far the coordinates move, for the iterate and for the original


def fused_fab_step(norm: str, x: Tensor, x_adv: Tensor, f: Tensor, w: Tensor, alpha_max: float, eta: float, look: bool) -> Tensor:
    """The next iterate, (R, C, H, W); norm linf or l2. The arguments are those of fab.stepped."""
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
    """The projection's delta (R, D), and its norm (R,), at least LEAST."""
    reach = level[:, None] * (torch.ones_like(w) if norm == "linf" else w.abs())
    delta = torch.minimum(room_of(t, w, c), reach) * w.sign() * torch.where(c < 0, 1.0, -1.0)[:, None].to(w.dtype)
    size = delta.abs().amax(1) if norm == "linf" else delta.square().sum(1).sqrt()
    return delta, size.clamp_min(LEAST_DISTANCE)
