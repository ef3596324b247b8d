"""The choice of the class that a targeted attack is to reach; a wrong one is an InputError."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import did_you_mean, lookup


def is_targeted(target: object) -> bool:
    """Whether a class is to be reached.

    Args:
        target: none, least-likely, second or random, or the number of a class.

    Raises:
        InputError: a word that names no way to choose a class, or another type.
    """
    if isinstance(target, str) and target not in ("none", *TARGETS):
        raise InputError(f"unknown target {target!r}{did_you_mean(target, ['none', *TARGETS])}, or give the number of a class")
    if isinstance(target, bool) or not isinstance(target, (str, int)):
        raise InputError(f"target must be one of none, {', '.join(TARGETS)}, or the number of a class, not {target!r}")
    return target != "none"


def chosen_target(target: str | int, logits: Tensor, y: Tensor, draws: Draws) -> Tensor:
    """The target class of each sample, (B,) int64.

    Args:
        target: least-likely, second or random, or the number of a class.
        logits: clean logits (B, K).
        y: labels (B,) int64.
        draws: random numbers of the samples.

    Raises:
        InputError: a number that is no class of the model.
    """
    if isinstance(target, str):
        return lookup(target, TARGETS, "target")(logits, y, draws)
    if not 0 <= target < logits.shape[1]:
        raise InputError(f"target={target} is no class of the model: it has {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}")
    return torch.full_like(y, target)


def least_likely(logits: Tensor, y: Tensor, draws: Draws) -> Tensor:  # noqa: ARG001 (one signature for all)
    """The class of the lowest logit that is not y, (B,).

    Args:
        logits: clean logits (B, K).
        y: labels (B,) int64.
        draws: not used.
    """
    return logits.scatter(1, y[:, None], float("inf")).argmin(1)


def second(logits: Tensor, y: Tensor, draws: Draws) -> Tensor:  # noqa: ARG001 (one signature for all)
    """The class of the highest logit that is not y, (B,).

    Args:
        logits: clean logits (B, K).
        y: labels (B,) int64.
        draws: not used.
    """
    return logits.scatter(1, y[:, None], float("-inf")).argmax(1)


def any_other(logits: Tensor, y: Tensor, draws: Draws) -> Tensor:
    """A class drawn evenly from those that are not y, (B,).

    Args:
        logits: clean logits (B, K); only their number is used.
        y: labels (B,) int64.
        draws: random numbers of the samples.
    """
    index = draws.child("target").integers(logits.shape[1] - 1)
    return index + (index >= y)


TARGETS: dict[str, Callable[[Tensor, Tensor, Draws], Tensor]] = {"least-likely": least_likely, "second": second, "random": any_other}
