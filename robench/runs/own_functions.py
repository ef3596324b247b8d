"""What attacks, probes, methods and scores of the user's own are given, and what of their claims is believed.

They get copies of the images and labels, so that whatever they change in place, the clean images and labels that their results are held
against are ours; weights that they change are put back. What they hand back is refused where its shape or range says nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.model_calls import padded_logits
from robench.core.types import AttackResult, Explain, ExplainedImages, Level
from robench.data.images import pixel_range_fault

PER_SAMPLE = ("fooled", "step", "forwards", "backwards", "nonfinite")  # of an AttackResult
LEVEL_ADVICE = "it must yield a robench.core.types.Level for each setting, see docs/adding-a-probe.md"
WEIGHTS_CHANGED = "it changed the weights of the model, which were put back: no attack, probe, method or score may change them"


def is_own(label: str) -> bool:
    """Whether the label of a recipe names a function of the user's own.

    Args:
        label: the name or label of a recipe.
    """
    return ".py:" in label


def refuse_found(result: AttackResult, n: int, label: str) -> None:
    """Raises InputError where what an attack hands back for n images is not one number for each, or its points are no tensor."""
    for name in ("x_adv", *PER_SAMPLE):
        refuse_non_tensor(getattr(result, name), f"attack {label!r} returned {name}")
    for name in PER_SAMPLE:
        refuse_length(getattr(result, name), n, f"attack {label!r} returned {name}")
    for name, least in (("step", -1), ("forwards", 0), ("backwards", 0)):
        if n and int(getattr(result, name).min()) < least:
            raise InputError(f"attack {label!r} returned {name} below {least}: it counts what was done for an image")


def refuse_non_tensor(value: object, what: str) -> None:
    """Raises InputError for what is no tensor."""
    if not isinstance(value, Tensor):
        raise InputError(f"{what} as {type(value).__name__}, which must be a tensor")


def refuse_length(value: Tensor, n: int, what: str) -> None:
    """Raises InputError for what has not one number for each of n images."""
    if value.shape != (n,):
        raise InputError(f"{what} of shape {tuple(value.shape)} for {n} images: expected ({n},)")


@contextmanager
def keep_weights(label: str, *models: nn.Module) -> Iterator[None]:
    """Puts weights back that a function of the user's own changes meanwhile, with a RuntimeWarning; others are trusted."""
    copies = weight_copies(*models) if is_own(label) else []
    try:
        yield
    finally:
        if restore_weights(copies):
            warnings.warn(WEIGHTS_CHANGED, RuntimeWarning, stacklevel=3)


def weight_copies(*models: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The weights and floating-point buffers of models, each with a copy."""
    weights = {id(value): value for model in models for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()}
    return [(value, value.detach().clone()) for value in weights.values()]


def restore_weights(copies: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Gives weights the values of their copies; whether any had others."""
    changes = [(value, before) for value, before in copies if not torch.equal(value, before)]
    with torch.no_grad():
        for value, before in changes:
            value.copy_(before)
    return bool(changes)


def probe_levels(
    function: Callable[..., Iterator[Level]], model: nn.Module, x: Tensor, y: Tensor, draws: object, label: str
) -> Iterator[Level]:
    """The levels of a probe on some images.

    Of the user's own probes each level is checked, and the model is asked again at its images.

    Args:
        function: the probe, with its options bound.
        model: the model that is probed.
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        draws: random numbers of these samples.
        label: the recipe's label.

    Raises:
        InputError: where there is no level, one comes twice, or one is no level of these images.
    """
    if not is_own(label):
        yield from function(model, x, y, draws)
        return
    keys = set[tuple[str, int]]()
    with keep_weights(label, model):
        levels: object = function(model, x.clone(), y.clone(), draws)
        if isinstance(levels, Tensor) or not isinstance(levels, Iterable):
            raise InputError(f"probe {label!r} returned {type(levels).__name__}: {LEVEL_ADVICE}")
        for level in levels:
            if not isinstance(level, Level):
                raise InputError(f"probe {label!r} yielded {type(level).__name__} and no Level: {LEVEL_ADVICE}")
            refuse_level(level, x, label)
            if (level.setting, level.repeat) in keys:
                raise InputError(f"probe {label!r} yielded the level {level.setting!r} with repeat {level.repeat} twice: each must differ")
            keys.add((level.setting, level.repeat))
            yield verified_level(model, y, level, label)
    if not keys:
        raise InputError(f"probe {label!r} yielded no level: it must yield at least one robench.core.types.Level")


def refuse_level(level: Level, x: Tensor, label: str) -> None:
    """Raises InputError where a level's parts do not fit the images x (B, C, H, W), or its share or pixels do not lie in [0, 1]."""
    what = f"probe {label!r} yielded"
    for name in ("x", "fooled", "share", "forwards", "backwards"):
        refuse_non_tensor(getattr(level, name), f"{what} {name}")
        if name != "x":
            refuse_length(getattr(level, name), len(x), f"{what} {name}")
    if level.x.shape != x.shape:
        raise InputError(f"{what} images of shape {tuple(level.x.shape)} for images of shape {tuple(x.shape)}")
    if fault := pixel_range_fault(level.x):
        raise InputError(f"{what} pixels that do not lie in [0, 1]: {fault.partition(':')[0]}")
    if not bool(((level.share >= 0) & (level.share <= 1)).all()):
        raise InputError(f"{what} a share outside [0, 1] or NaN: it is the share of the image that was changed")


def verified_level(model: nn.Module, y: Tensor, level: Level, label: str) -> Level:
    """The level with the model's own word on its images; a RuntimeWarning where the probe claimed something else."""
    with torch.no_grad():
        logits = padded_logits(model, level.x.detach().to(y.device))
    fooled = (logits.argmax(1) != y) & logits.isfinite().all(1)
    if bool((fooled != level.fooled.to(fooled)).any()):
        warnings.warn(
            f"what {label} says of fooled images is not what the model says when it is asked again: the model's word counts",
            RuntimeWarning,
            stacklevel=2,
        )
    return replace(level, fooled=fooled, forwards=level.forwards + 1)


def method_on_copies(explain: Explain) -> Explain:
    """The method on copies of its images and targets."""

    @wraps(explain)
    def copied(model: nn.Module, x: Tensor, target: Tensor, draws: object) -> Tensor:
        return explain(model, x.clone(), target.clone(), draws)  # type: ignore[arg-type]

    return copied


def score_on_copies(score: Callable[[ExplainedImages], Tensor]) -> Callable[[ExplainedImages], Tensor]:
    """The score on copies of what it is given."""

    @wraps(score)
    def copied(explained: ExplainedImages) -> Tensor:
        some: Any = explained
        tensors = {part.name: getattr(some, part.name) for part in fields(some) if isinstance(getattr(some, part.name), Tensor)}
        copies: Any = {name: value.clone() for name, value in tensors.items()}
        return score(replace(explained, **copies))

    return copied


def own_corrupted_images(function: Callable[..., Tensor], x: Tensor, severity: int, draws: object, label: str) -> Tensor:
    """The images under a corruption of the user's own, (B, C, H, W).

    Args:
        function: the corruption, with its options bound.
        x: images (B, C, H, W) in [0, 1].
        severity: from 1 to 5.
        draws: random numbers of these samples.
        label: the recipe's label, for errors.

    Raises:
        InputError: where it returned no such images.
    """
    images: object = function(x.clone(), severity, draws)
    refuse_non_tensor(images, f"corruption {label!r} returned its images")
    assert isinstance(images, Tensor)
    if images.shape != x.shape:
        raise InputError(f"corruption {label!r} returned images of shape {tuple(images.shape)} for images of shape {tuple(x.shape)}")
    images = images.detach().to(x)
    if fault := pixel_range_fault(images):
        raise InputError(f"corruption {label!r} returned pixels that do not lie in [0, 1]: {fault.partition(':')[0]}")
    return images
