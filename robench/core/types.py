"""Words shared by every module: the shape legend, what an attack found, a training batch, explained images, a level of a probe.

Shape legend, used in all docstrings:
    B: samples in a batch.
    N: samples in a data set.
    K: classes.
    C, H, W: channels, height and width of an image.
    D: C * H * W.
    x: (B, C, H, W) float, pixels in [0, 1].
    y: (B,) int64, labels in [0, K).
    logits: (B, K) float, before the softmax.
    ids: (B,) int64, index in the official split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.moved import names_of_before
from robench.core.threat import Threat

Explain = Callable[[nn.Module, Tensor, Tensor, Draws], Tensor]  # explain(model, x, target, draws) -> maps, options bound


@dataclass(frozen=True)
class AttackResult:
    """What an attack found for each of B samples.

    Attributes:
        x_adv: (B, C, H, W), the worst point found, inside the threat; the clean image where nothing was found.
        fooled: (B,) bool, whether the attack reached its goal: another label than y; for a targeted attack, its target.
        step: (B,) int64, the iteration at which it did, counted over restarts from 0; -1 where it did not.
        forwards: (B,) int64, forward passes spent on the sample until it fell.
        backwards: (B,) int64, backward passes spent on the sample until it fell.
        nonfinite: (B,) bool, whether a logit was NaN or infinite at some point; such a point never counts as adversarial.
    """

    x_adv: Tensor
    fooled: Tensor
    step: Tensor
    forwards: Tensor
    backwards: Tensor
    nonfinite: Tensor


@dataclass(frozen=True)
class Batch:
    """One training batch, as objectives and regularisers see it.

    Attributes:
        x: (B, C, H, W), clean images, augmented.
        y: (B,), labels; of a mixed image, the label of its larger part.
        x_adv: (B, C, H, W), the images the base loss is taken at; equal to x for clean training, and while they are being made. It requires
            grad, and `logits` is its graph, whenever a regulariser is in use.
        logits: (B, K), model(x_adv) in training mode; empty while x_adv is being made.
        ids: (B,), sample ids.
        progress: share of the training that is done, in [0, 1).
        draws: random numbers of this step: a pure function of seed, step and sample id.
        smoothing: label smoothing of the cross-entropy, in [0, 1).
        teacher: a frozen network in evaluation mode to learn from, or None.
        threat: what an adversary of training may do.
        mixed: (B, K), the probabilities of the labels where images were mixed (mixup, cutmix), or None.
        state: what an objective keeps from one step to the next; it is saved with the training.
        memo: what was computed for this batch already and serves again, such as the clean logits.
    """

    x: Tensor
    y: Tensor
    x_adv: Tensor
    logits: Tensor
    ids: Tensor
    progress: float
    draws: Draws
    smoothing: float = 0.0
    teacher: nn.Module | None = None
    threat: Threat = field(default_factory=lambda: Threat("linf", 8 / 255))
    mixed: Tensor | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    memo: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ExplainedImages:
    """B images with their saliency maps, as the scores see them.

    Attributes:
        model: in eval mode with frozen parameters.
        x: (B, C, H, W).
        y: (B,), labels.
        target: (B,), the class whose logit is explained.
        logits: (B, K), model(x).
        maps: (B, C, H, W), or (B, 1, H, W) for a method without channels: signed attributions, as the method gives them.
        sizes: (B, c, H, W), |maps|, with the channels put together or not, as the user asked.
        explain: the method that made the maps, to be asked again.
        draws: random numbers of these samples.
        masks: (B, H, W) bool, where the object is, or None.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    target: Tensor
    logits: Tensor
    maps: Tensor
    sizes: Tensor
    explain: Explain
    draws: Draws
    masks: Tensor | None = None

    @cached_property
    def sorted_sizes(self) -> Tensor:
        """The sizes of each image from the smallest to the largest, (B, n) float32; sorted on the CPU by numpy, which is quicker there."""
        flat = self.sizes.flatten(1)
        if flat.device.type != "cpu":
            return flat.sort(1).values
        return torch.from_numpy(np.sort(flat.numpy(), axis=1))


@dataclass(frozen=True)
class Level:
    """What one level of a probe, such as t=0.002, did to B samples.

    Attributes:
        setting: the level as key=value words.
        repeat: number of the random draw, from 0.
        x: (B, C, H, W), the changed images; where several were tried, the first that fooled, else the last.
        fooled: (B,) bool, another label than y, with finite logits.
        share: (B,) float, share of the subpixels (noise) or pixels (occlusion) of x that were chosen to be changed.
        forwards: (B,) int64, forward passes spent on the sample.
        backwards: (B,) int64, backward passes spent on the sample.
    """

    setting: str
    repeat: int
    x: Tensor
    fooled: Tensor
    share: Tensor
    forwards: Tensor
    backwards: Tensor


__getattr__ = names_of_before(__name__, {"Found": "AttackResult", "Explained": "ExplainedImages"})
