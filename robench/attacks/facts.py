"""What a run must know of an attack besides its function; it stands right above that function."""

from __future__ import annotations

from dataclasses import dataclass

from robench.core.facts import FactsAbove


@dataclass(frozen=True)
class AttackFacts(FactsAbove):
    """What is known of one attack; the defaults are what holds of one of the user's own.

    It is used as a decorator: `@AttackFacts(black_box=True)`.

    Attributes:
        black_box: it takes no gradient of the attacked model. Where it breaks more than the attacks that take one, gradients are masked.
        baseline: it does not search at all, and other attacks are held against it.
    """

    black_box: bool = False
    baseline: bool = False
