"""Adversarial images in 8 bits, as a picture file keeps them: do they still fool the model, and which grey levels beside them do?"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from robench.attacks.losses import margin
from robench.core.draws import Draws
from robench.core.model_calls import leaf_gradient, leaf_of, padded_logits
from robench.core.threat import Threat, per_sample

STEEPEST_SHARES = (1.0, 0.3, 0.1)  # of the subpixels, those with the steepest slopes first, that move by one grey level in one try
GREY_LEVEL_TRIES = 18  # of other grey levels: half of them by chance, half along the slopes


def rounded_labels(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """The labels (B,) that the model gives x_adv in 8 bits inside the threat; y where its logits are not finite.

    Args:
        model: the classifier in eval mode.
        x: clean images (B, C, H, W), float in [0, 1].
        x_adv: adversarial images (B, C, H, W).
        y: labels (B,) int64.
        threat: the ball that the rounded images must not leave.
    """
    return labels_at(model, threat.project_to_grey_levels(x, x_adv), y)


@torch.no_grad()
def labels_at(model: nn.Module, points: Tensor, y: Tensor) -> Tensor:
    """The labels (B,) at the points; y where a logit is not finite."""
    if not len(points):
        return y
    logits = padded_logits(model, points)
    return torch.where(logits.isfinite().all(1), logits.argmax(1), y)


def eight_bit_points(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, threat: Threat, draws: Draws) -> tuple[Tensor, Tensor]:
    """Points on the grey levels k / 255 inside the threat that fool the model, where some can be found near x_adv.

    First x_adv rounded; where that does not fool, up to GREY_LEVEL_TRIES other points: in turn each subpixel up or down by chance, the
    nearer level more likely, and from the last point one level further along the slopes of the margin.

    Args:
        model: the classifier in eval mode with frozen parameters.
        x: clean images (B, C, H, W), float in [0, 1].
        x_adv: adversarial images (B, C, H, W).
        y: labels (B,) int64.
        threat: the set that the points must lie in.
        draws: random numbers of the samples.

    Returns:
        The points (B, C, H, W), and which of them lie in the threat and get another label than y, (B,) bool.
    """
    points = threat.project_to_grey_levels(x, x_adv)
    fooled = (labels_at(model, points, y) != y) & threat.contains(x, points)
    for turn in range(GREY_LEVEL_TRIES):
        rows = (~fooled).nonzero().flatten()
        if not len(rows):
            break
        if turn % 2:
            candidates = points_along_slopes(model, points[rows], y[rows], STEEPEST_SHARES[turn // 2 % len(STEEPEST_SHARES)])
        else:
            levels = 255 * x_adv[rows]
            up = draws.take(rows).child("up", turn).uniform(x.shape[1:]).to(x.dtype) < levels - levels.floor()
            candidates = (levels.floor() + up) / 255
        candidates = threat.project_to_grey_levels(x[rows], threat.project(x[rows], candidates))
        points[rows], fooled[rows] = candidates, (labels_at(model, candidates, y[rows]) != y[rows]) & threat.contains(x[rows], candidates)
    return points, fooled


def points_along_slopes(model: nn.Module, points: Tensor, y: Tensor, share: float) -> Tensor:
    """The points with a share of their subpixels, those of the steepest slopes, moved by one grey level up the margin.

    Args:
        model: the classifier in eval mode with frozen parameters.
        points: images (M, C, H, W) on grey levels.
        y: labels (M,) int64.
        share: share of the subpixels that move, in (0, 1].
    """
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a model without gradients has been told
        leaf = leaf_of(points)
        grad = leaf_gradient(margin(padded_logits(model, leaf), y).sum(), leaf)
    sizes = grad.abs().flatten(1)
    least = sizes.topk(max(1, int(share * sizes.shape[1])), dim=1).values[:, -1]
    return (points + grad.sign() * (grad.abs() >= per_sample(least, grad)) / 255).clamp(0, 1)
