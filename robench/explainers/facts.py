"""What a run must know of a method besides its function; it stands right above that function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robench.core.facts import FactsAbove


@dataclass(frozen=True)
class MethodFacts(FactsAbove):
    """What is known of one method; the defaults are what holds of one of the user's own.

    It is used as a decorator: `@MethodFacts(complete=True)`.

    Attributes:
        complete: its maps add up to f(x) - f(baseline), exactly or on average over its draws.
        layer: it looks at one layer of the model, which its option `layer` names.
        passes: of a method that hides blocks: passes(x, options) -> the forward passes of a map of one of the images x, all options given;
            it raises InputError for options that cannot be. None for a method that does not.
        shared_samples: its option `samples` counts coalitions that all blocks share, so that many blocks need many of them.
    """

    complete: bool = False
    layer: bool = False
    passes: Callable[[Tensor, Mapping[str, Any]], int] | None = None
    shared_samples: bool = False
