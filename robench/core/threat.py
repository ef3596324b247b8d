"""The threat model: a norm ball of radius eps around each image, cut with the box [0, 1]. The only place that asks for the norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robench.core.checks import positive_option
from robench.core.draws import Draws
from robench.core.errors import InputError

NORMS = ("linf", "l2", "l1")
DUAL_NORMS = {"linf": "l1", "l2": "l2", "l1": "linf"}  # how far a plane is in a norm: the gap over the dual norm of its normal


@dataclass(frozen=True)
class Threat:
    """All x_adv with ||x_adv - x|| <= eps and pixels in [0, 1].

    Attributes:
        norm: "linf", "l2" or "l1".
        eps: radius in pixel units, a finite number of at least 0.

    Example:
        >>> x = torch.full((1, 3, 2, 2), 0.5)
        >>> round(Threat("linf", 0.1).project(x, x + 0.3).max().item(), 4)
        0.6
    """

    norm: str
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise InputError(f"unknown norm {self.norm!r}: choose one of {', '.join(NORMS)}")
        if not is_radius(self.eps):
            raise InputError(f"eps must be a finite number of at least 0, not {self.eps!r}")

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Norm of x_adv - x for each sample, (B,).

        Args:
            x: clean images (B, C, H, W).
            x_adv: changed images (B, C, H, W).
        """
        return delta_norms(self.norm, x_adv - x)

    def contains(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Whether each x_adv lies in the ball and in the box, (B,) bool; rounding is allowed 1e-6 (linf) or 1e-5 eps + 1e-6.

        Args:
            x: clean images (B, C, H, W).
            x_adv: changed images (B, C, H, W).
        """
        slack = 1e-6 if self.norm == "linf" else 1e-5 * self.eps + 1e-6
        flat = x_adv.flatten(1)
        inside = (flat.amin(1) >= 0) & (flat.amax(1) <= 1)  # false for NaN
        return inside & (self.distance(x, x_adv) <= self.eps + slack)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The point of the threat that is nearest to x_adv in the Euclidean norm, (B, C, H, W).

        Args:
            x: clean images (B, C, H, W), in [0, 1].
            x_adv: any points (B, C, H, W).
        """
        if self.norm == "linf":
            return x_adv.clamp(x - self.eps, x + self.eps).clamp_(0, 1)
        shrink = l2_projection if self.norm == "l2" else l1_projection
        return (x + shrink(x, x_adv - x, self.eps)).clamp(0, 1)

    def project_to_grey_levels(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The point near x_adv on the grey levels k / 255, (B, C, H, W); it lies in the threat if x is on the grey levels itself.

        linf: the nearest level inside the ball, subpixel by subpixel. l2 and l1: the nearest levels where the ball allows them, those
        that cost least first, and elsewhere the next level towards x. Where linf has no level inside the ball, the nearest one.

        Args:
            x: clean images (B, C, H, W), in [0, 1].
            x_adv: points inside the threat (B, C, H, W).
        """
        near, levels, hair = (255 * x_adv).round().clamp(0, 255), 255 * x, 1e-4
        if self.norm == "linf":
            low, high = (levels - 255 * self.eps - hair).ceil().clamp_min(0), (levels + 255 * self.eps + hair).floor().clamp_max(255)
            return torch.where(low <= high, torch.minimum(torch.maximum(near, low), high), near) / 255
        inner = torch.where(x_adv >= x, (255 * x_adv + hair).floor(), (255 * x_adv - hair).ceil()).clamp(0, 255)
        order = 2 if self.norm == "l2" else 1
        spent = ((inner / 255 - x).abs().flatten(1).double() ** order).sum(1, keepdim=True)
        cost = ((near / 255 - x).abs().double() ** order - (inner / 255 - x).abs().double() ** order).flatten(1)
        sums = cost.sort(dim=1, stable=True)
        within_radius = torch.zeros_like(cost, dtype=torch.bool)
        within_radius.scatter_(1, sums.indices, spent + sums.values.cumsum(1) <= self.eps**order)
        return torch.where(within_radius.view_as(x), near, inner) / 255

    def projector(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """`project` for one batch of images, to be used many times: what depends on x alone is computed once.

        Args:
            x: clean images (B, C, H, W), in [0, 1].
        """
        if self.norm == "linf":
            low, high = (x - self.eps).clamp_(0, 1), (x + self.eps).clamp_(0, 1)
            return lambda x_adv: x_adv.clamp(low, high)
        return partial(self.project, x)

    def ascend(self, x_adv: Tensor, grad: Tensor) -> Tensor:
        """The direction of unit norm along which a function with gradient `grad` rises fastest, (B, C, H, W); 0 where grad is 0.

        For l1 the step is shared evenly by the ceil(eps) subpixels of largest |grad| with room to move, after the sparse steps of
        Tramer & Boneh 2019 (1904.13000): all on one subpixel would be steepest and hit the box at once. A subpixel holds at most 1,
        so the best point moves about eps of them; a fixed share of the image, as in the paper, is far too many at small eps (our choice).

        Args:
            x_adv: the points (B, C, H, W), in [0, 1]; only l1 looks at them.
            grad: the gradient there (B, C, H, W).
        """
        if self.norm == "linf":
            return grad.sign()
        if self.norm == "l2":
            scaled = grad / per_sample(grad.flatten(1).abs().amax(1).clamp_min(1e-38), grad)
            return scaled / per_sample(scaled.flatten(1).norm(dim=1).clamp_min(1e-12), grad)
        ranks = (grad.abs() * (room_along(x_adv, grad) > 0.01)).flatten(1)
        top = ranks.topk(min(max(1, math.ceil(self.eps)), ranks.shape[1]), dim=1)
        sparse = torch.zeros_like(ranks).scatter(1, top.indices, (top.values > 0).to(ranks.dtype))
        sparse = sparse / sparse.sum(1, keepdim=True).clamp_min(1)
        return sparse.view_as(grad) * grad.sign()

    def sample(self, x: Tensor, draws: Draws, step: int = 0) -> Tensor:
        """A point drawn evenly from the ball, then clipped to the box, (B, C, H, W).

        Args:
            x: clean images (B, C, H, W), in [0, 1].
            draws: random numbers of these samples.
            step: number of the draw; another step gives another point.
        """
        volume = draws.child("radius").uniform((1, 1, 1), step).to(x.dtype) ** (1 / x[0].numel())
        if self.norm == "linf":
            return (x + self.eps * (2 * draws.uniform(x.shape[1:], step).to(x.dtype) - 1)).clamp(0, 1)
        return (x + self.eps * volume * self._direction(x, draws, step)).clamp(0, 1)

    def surface(self, x: Tensor, draws: Draws, step: int = 0) -> Tensor:
        """A random point of norm eps (before the clip to the box), (B, C, H, W): random signs for linf, an even direction for l2 and l1.

        Args:
            x: clean images (B, C, H, W), in [0, 1].
            draws: random numbers of these samples.
            step: number of the draw; another step gives another point.
        """
        return (x + self.eps * self._direction(x, draws, step)).clamp(0, 1)

    def _direction(self, x: Tensor, draws: Draws, step: int) -> Tensor:
        """A random direction of unit norm; its law is even on the sphere (on the corners for linf)."""
        if self.norm == "linf":
            return draws.signs(x.shape[1:], step).to(x.dtype)
        direction = draws.normal(x.shape[1:], step).to(x.dtype)
        if self.norm == "l1":  # exponential sizes with random signs are even on the l1 sphere
            sizes = -(1 - draws.child("sizes").uniform(x.shape[1:], step)).log()
            direction = sizes.to(x.dtype) * direction.sign()
        return direction / per_sample(delta_norms(self.norm, direction), direction)


def is_radius(value: Any) -> bool:
    """Whether what a caller hands over is a finite number of at least 0; no text, and neither true nor false."""
    try:
        return not isinstance(value, (str, bytes, bool)) and 0 <= float(value) < math.inf
    except (TypeError, ValueError, OverflowError):
        return False


def diameter(norm: str, shape: Sequence[int]) -> float:
    """The largest distance of two images of this shape (C, H, W) with pixels in [0, 1]."""
    return 1.0 if norm == "linf" else float(math.prod(shape)) ** (0.5 if norm == "l2" else 1.0)


def refuse_too_large_eps(threat: Threat, shape: Sequence[int] | None) -> None:
    """Refuses a radius that a user gave and that is larger than any distance of two images.

    A Threat itself may be larger: some methods start in a ball of two or three times the radius.

    Args:
        threat: what the user asked for.
        shape: (C, H, W) of the images; None where it is not known, so that only linf is looked at.

    Raises:
        InputError: for such a radius.
    """
    if shape is None and threat.norm != "linf":
        return
    refuse_too_large_length(f"a radius of {threat.eps:g}", threat.eps, threat.norm, shape or ())


def refuse_too_large_length(what: str, length: float, norm: str, shape: Sequence[int]) -> None:
    """Raises InputError for a length that a user gave, told as `what`, that is larger than any distance of two images of this shape."""
    most = diameter(norm, shape)
    if length > most * (1 + 1e-6):
        meant = f": did you mean {length:g}/255?" if length <= 255 else ""
        of = "" if norm == "linf" else f" of {'x'.join(map(str, shape))}"
        raise InputError(
            f"{what} reaches beyond every image: pixels lie in [0, 1], where two images{of} are at most {most:.4g} apart in {norm}{meant}"
        )


def length_option(name: str, value: object, norm: str, shape: Sequence[int]) -> float:
    """The option as a float, if it is a length in pixel units above 0 and no larger than any distance of two images.

    Args:
        name: the name of the option, for the error.
        value: what the user wrote.
        norm: "linf", "l2" or "l1".
        shape: (C, H, W) of the images.

    Raises:
        InputError: for anything else.
    """
    length = positive_option(name, value)
    refuse_too_large_length(f"{name}={length:g}", length, norm, shape)
    return length


def delta_norms(norm: str, delta: Tensor) -> Tensor:
    """The norm of each sample's delta, (B,), in the dtype of delta; l2 and l1 are summed in float64.

    Args:
        norm: "linf", "l2" or "l1".
        delta: differences of images (B, C, H, W).
    """
    flat = delta.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    length: Tensor = torch.linalg.vector_norm(flat.double(), ord=2 if norm == "l2" else 1, dim=1)
    return length.to(delta.dtype)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) in the shape (B, 1, 1, 1), which multiplies images.

    Args:
        values: one number a sample, (B,).
        like: a tensor (B, ...) with as many dimensions as the result.
    """
    return values.view(-1, *[1] * (like.dim() - 1))


def room_along(x: Tensor, delta: Tensor) -> Tensor:
    """How far each subpixel can move in the direction of delta before it leaves [0, 1]; not negative for x in [0, 1]."""
    return torch.where(delta > 0, 1 - x, x).clamp_min(0)


def l2_projection(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """The Euclidean projection of delta on {||u||_2 <= eps, 0 <= x + u <= 1}.

    By the optimality conditions u = sign(delta) min(s |delta|, room) with one factor s in [0, 1] a sample. With the
    subpixels at the box fixed, s has a closed form; as s grows that set only grows, so the iteration climbs to the root
    from below and every iterate is feasible.
    """
    size_, room = delta.flatten(1).abs().double(), room_along(x, delta).flatten(1).double()
    s = (eps / size_.norm(dim=1).clamp_min(1e-300)).clamp_max(1)
    for _ in range(12):
        stuck = s[:, None] * size_ >= room
        remaining_square = (eps**2 - (room.square() * stuck).sum(1)).clamp_min(0)
        free = (size_.square() * ~stuck).sum(1)
        risen = torch.maximum(s, torch.where(free > 0, (remaining_square / free.clamp_min(1e-300)).sqrt(), 1.0)).clamp_max(1)
        if torch.equal(risen, s):  # a further round would change nothing
            break
        s = risen
    return torch.minimum(s[:, None] * size_, room).view_as(delta).to(delta.dtype) * delta.sign()


def l1_projection(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """The Euclidean projection of delta on {||u||_1 <= eps, 0 <= x + u <= 1}, to 1e-6 eps; it leaves no residue where u is 0.

    u = sign(delta) clip(|delta| - t, 0, room) with the threshold t of each sample at which ||u||_1 = eps: a falling,
    piecewise linear function of t. Its root is found by regula falsi in the Illinois form (Dowell & Jarratt 1971): where
    the same end of the bracket stays twice, the value kept for it is halved. The bracket's feasible end is used if need be.

    Args:
        x: clean images (B, C, H, W), in [0, 1].
        delta: what is to be projected (B, C, H, W).
        eps: radius of the ball, at least 0.
    """
    size_, room = delta.flatten(1).abs(), room_along(x, delta).flatten(1)
    zero, top, radius = delta.new_zeros(()), size_.amax(1), eps * (1 - 1e-6)
    low, over, under = torch.zeros_like(top), torch.clamp(size_, zero, room).sum(1) - radius, torch.full_like(top, -radius)
    high, last_side = torch.where(over > 0, top, low), torch.zeros_like(top)
    slack = (1e-6 if delta.dtype == torch.float32 else 1e-9) * radius
    t, close = low, over.abs() <= slack
    for _ in range(60):
        done = close | (high - low <= 1e-7 * top)  # such a row keeps its t: it must not depend on the others of its batch
        if bool(done.all()):
            break
        t = torch.where(done, t, low + (high - low) * (over / (over - under).clamp_min(1e-30)).clamp(0, 1))
        excess = torch.clamp(size_ - t[:, None], zero, room).sum(1) - radius
        more, close = excess > 0, excess.abs() <= slack
        over, under = (
            torch.where(more, excess, torch.where(last_side < 0, over / 2, over)),
            torch.where(more, torch.where(last_side > 0, under / 2, under), excess),
        )
        low, high = torch.where(more & ~done, t, low), torch.where(more | done, high, t)
        last_side = more.to(t.dtype) * 2 - 1
    return torch.clamp(size_ - torch.where(close, t, high)[:, None], zero, room).view_as(delta) * delta.sign()


def default_eps(norm: str) -> float:
    """The radius where none is given: 8/255, which belongs to linf.

    Args:
        norm: "linf", "l2" or "l1".

    Raises:
        InputError: for l2 and l1, in which 8/255 says nothing.
    """
    if norm in NORMS and norm != "linf":
        raise InputError(f"which radius in {norm}? The default 8/255 is of linf, which says nothing about {norm}: give eps (--eps)")
    return 8 / 255
