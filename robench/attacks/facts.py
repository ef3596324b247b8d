"""What a run must know of an attack besides its function; it stands right above that function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from robench.core.facts import FactsAbove


@dataclass(frozen=True)
class AttackFacts(FactsAbove):
    """What is known of one attack; the defaults are what holds of one of the user's own.

    It is used as a decorator: `@AttackFacts(black_box=True)`.

    Attributes:
        black_box: it takes no gradient of the attacked model. Where it breaks more than the attacks that take one, gradients are masked.
        baseline: it does not search at all, and other attacks are held against it.
        most_passes: its forward and backward passes on an image that stands to the end, from its options; None where running it on a
            model that is never fooled tells.
        steady_options: options with which it gives up no image.
        typical_options: options with which its first passes cost what those of a whole run do on average.
    """

    black_box: bool = False
    baseline: bool = False
    most_passes: Callable[[Mapping[str, Any]], tuple[int, int]] | None = None
    steady_options: Mapping[str, Any] = field(default_factory=dict)
    typical_options: Mapping[str, Any] = field(default_factory=dict)
