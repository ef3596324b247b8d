"""Random noise of the same norm: the baseline every attack has to beat."""

from __future__ import annotations

from torch import Tensor, nn

from robench.attacks.active import Search
from robench.attacks.facts import AttackFacts
from robench.core.checks import whole_option
from robench.core.draws import Draws
from robench.core.threat import Threat
from robench.core.types import AttackResult


@AttackFacts(black_box=True, baseline=True)
def noise(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws, *, tries: int = 1) -> AttackResult:
    """Random points of norm eps, clipped to the box: the null baseline (asked for by Carlini et al. 2019, 1902.06705).

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        tries: independent points per sample, at least 1; the first one that fools counts. No gradients are taken.

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range.
    """
    search = Search(model, x, y, threat)
    for turn in search.turns(whole_option("tries", tries)):
        search.test(threat.surface(search.x, draws.child("try", turn).take(search.rows)))
        search.repack()
    return search.result()
