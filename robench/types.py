"""Words shared by every module: the shape legend, what an attack found, and a training batch.

Shape legend, used in all docstrings:
    B  samples in a batch            N  samples in a data set        K  classes
    C, H, W  channels, height, width of an image                     D = C*H*W
    x       (B, C, H, W) float, pixels in [0, 1]                     y  (B,) int64, labels in [0, K)
    logits  (B, K) float, before softmax                             ids  (B,) int64, index in the official split
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robench.draws import Draws


@dataclass(frozen=True)
class Found:
    """What an attack found for each of B samples.

    x_adv      (B, C, H, W): the worst point found, inside the threat; the clean image where nothing was found
    fooled     (B,) bool: the attack reached its goal (another label than y; for a targeted attack, its target)
    step       (B,) int64: the iteration at which it did, counted over restarts from 0; -1 where it did not
    forwards   (B,) int64: forward passes spent on the sample until it fell
    backwards  (B,) int64: backward passes, likewise
    nonfinite  (B,) bool: a logit was NaN or infinite at some point; such a point never counts as adversarial
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

    x         (B, C, H, W): clean images (augmented)
    y         (B,): labels
    x_adv     (B, C, H, W): the images the base loss is taken at; equal to x for clean training.
              It requires grad, and `logits` is its graph, whenever a regulariser is in use
    logits    (B, K): model(x_adv) in training mode
    ids       (B,): sample ids
    progress  share of the training that is done, in [0, 1)
    draws     random numbers of this step: a pure function of seed, step and sample id
    smoothing label smoothing of the cross-entropy, in [0, 1)
    teacher   a frozen network to learn from, or None
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
