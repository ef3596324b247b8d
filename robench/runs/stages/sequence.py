"""A sequence of perturbed frames: how often the label that a model gives changes along it, and how far the five likeliest labels move.

Definitions of Hendrycks & Dietterich (1903.12261, section 4.3) as their own scripts compute them (hendrycks/robustness,
ImageNet-P/test.py): frames of a noise are compared with the first frame, all others with the one before; at difficulty d frames that are
d apart are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robench.core.model_calls import padded_logits
from robench.core.perturbation_names import is_noise
from robench.runs.stages.clean import all_images_mask, check_logits
from robench.runs.types import Case, Chunk, MakeImages, Outcome, ReadyStage, Stage

LIKELIEST = 5  # labels whose order the distance looks at


def sequence_stage(perturbation: str, difficulty: int, frames: MakeImages, words: Mapping[str, Any]) -> Stage:
    """All sequences under one perturbation.

    Args:
        perturbation: its name.
        difficulty: from 1 to 3.
        frames: frames(places, before) -> (M, T, C, H, W); nothing is before them.
        words: what the rows need to know: setting, data, split, labels.
    """
    name = f"{perturbation}-{difficulty}"
    about = {"perturbation": perturbation, "difficulty": difficulty, **words}

    def begin(case: Case) -> ReadyStage:
        return ReadyStage(partial(sequence_outcomes, case, perturbation, difficulty), str(words.get("setting", "")))

    return Stage("sequence", name, begin, all_images_mask, images=frames, needs_trial=False, about=about)


def sequence_outcomes(case: Case, perturbation: str, difficulty: int, chunk: Chunk) -> Iterator[Outcome]:
    """Yields the share of comparisons in which the label changes, and the mean distance of the five likeliest labels.

    Raises InputError where the model's logits cannot be used.
    """
    m, t = chunk.x.shape[:2]
    with torch.no_grad():
        parts = chunk.x.flatten(0, 1).split(max(case.batch_size, t))
        logits = torch.cat([padded_logits(case.exact_model, part).cpu() for part in parts])
    check_logits(logits, torch.zeros(1, dtype=torch.int64), f"frames of {perturbation}")
    logits = logits.view(m, t, -1)
    base, other = compared_frames(t, is_noise(perturbation), difficulty)
    labels = logits.argmax(-1)
    columns = {"first_pred": labels[:, 0], "flips": (labels[:, base] != labels[:, other]).double().mean(1)}
    if logits.shape[2] >= LIKELIEST:
        columns["top5_distance"] = top5_distances(logits[:, base], logits[:, other]).double().mean(1)
    yield Outcome(columns)


def compared_frames(frames: int, noise: bool, difficulty: int) -> tuple[Tensor, Tensor]:
    """Which frames are compared, as two lists of the same length.

    Args:
        frames: T, of a sequence.
        noise: whether each frame is compared with the first one, else with the one `difficulty` before it.
        difficulty: from 1 to 3; of a noise it is in the frames.

    Example:
        >>> [pair.tolist() for pair in compared_frames(4, True, 1)], [pair.tolist() for pair in compared_frames(4, False, 2)]
        ([[0, 0, 0], [1, 2, 3]], [[0, 1], [2, 3]])
    """
    if noise:
        return torch.zeros(frames - 1, dtype=torch.int64), torch.arange(1, frames)
    return torch.arange(frames - difficulty), torch.arange(difficulty, frames)


def top5_distances(before: Tensor, after: Tensor) -> Tensor:
    """How far the five likeliest labels of one frame move in another.

    With sigma(i) the rank in the other frame of what has rank i, it is the sum over i = 1..5 of |min(i, 6) - min(sigma(i), 6)|: 0 where the
    five keep their order, 15 where none is among the five any more. Labels of equal logits stand in the order of their numbers.

    Args:
        before: logits (..., K), K at least 5.
        after: logits (..., K).

    Returns:
        (...,) int64 from 0 to 15.
    """
    likeliest = before.argsort(dim=-1, descending=True, stable=True)[..., :LIKELIEST]
    ranks = after.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    distances: Tensor = (ranks.gather(-1, likeliest).clamp(max=LIKELIEST) - torch.arange(LIKELIEST)).abs().sum(-1)
    return distances
