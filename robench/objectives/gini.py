"""The Gini index of the input gradient as a penalty, which Chen, Dong & Xie 2023 (2305.09305) compare with their IGD.

For the sizes phi_1 <= ... <= phi_n of the entries of g = d z_y / d x, y the label:

    R = mean_B (n + 1 - 2 sum_i (n + 1 - i) phi_i / sum_i phi_i) / n

The sort is differentiable wherever no two sizes are equal. The value is that of the score `gini` on the map `saliency`.
"""

from __future__ import annotations

from torch import Tensor, nn

from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.igd import points_and_gradients
from robench.scores.inequality import gini_of_sorted, map_sizes


@Facts(weight=0.1, base="pgd-at")
def gini_penalty(model: nn.Module, batch: Batch, *, of: str = "logit", channels: str = "none", at: str = "clean") -> Tensor:
    """The mean Gini index of the input gradient's sizes (Chen et al. 2023, 2305.09305).

    The length of the gradient does not matter. One that is 0 everywhere has no index and counts as 0, without a derivative (our choice).

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        of: "logit" for the logit of the label (of the larger part of a mixed image); "loss" for the cross-entropy, mixed labels included.
        channels: "none", or "sum", "max" or "mean" of the sizes over the channels, as in the score gini.
        at: "clean" for the clean images (our choice), "base" for the images of the base loss.

    Returns:
        A scalar in [0, 1), 0 where all sizes are equal.

    Raises:
        InputError: for an option that cannot be.
    """
    _, slopes = points_and_gradients(model, batch, of, at)
    sizes = map_sizes(slopes, channels).flatten(1)
    empty = sizes.detach().amax(1, keepdim=True) == 0
    return gini_of_sorted(sizes.masked_fill(empty, 1).sort(1).values).mean().to(slopes.dtype)
