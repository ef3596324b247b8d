"""The fast gradient sign method, in three norms."""

from __future__ import annotations

from torch import Tensor, nn

from robench.attacks.active import Search
from robench.attacks.losses import ce
from robench.core.draws import Draws
from robench.core.threat import Threat
from robench.core.types import AttackResult


def fgsm(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws) -> AttackResult:  # noqa: ARG001 (one signature for all)
    """One step of size eps from the clean image up the cross-entropy (Goodfellow et al. 2015, 1412.6572).

    The step goes along threat.ascend: the sign of the gradient for linf, the gradient itself for l2; for l1 the ceil(eps) subpixels of
    largest gradient that have room share it evenly [our reading for l2 and l1: the paper treats linf]. There are no options.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: not used.

    Returns:
        The stepped point where it fools, else clean x, with what was spent on it.
    """
    search = Search(model, x, y, threat)
    for _ in search.turns(1):
        _, grad = search.evaluate(x, ce)
        search.test(threat.project(x, x + threat.eps * threat.ascend(x, grad)))
    return search.result()
