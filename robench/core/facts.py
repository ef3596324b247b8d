"""Facts that stand right above a function, as a decorator: what all their classes share, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

DescribedFunction = TypeVar("DescribedFunction", bound=Callable[..., Any])
FactsClass = TypeVar("FactsClass", bound="FactsAbove")


@dataclass(frozen=True)
class FactsAbove:
    """The base of facts; each field of a class of facts has the default that holds of a function of the user's own.

    It is used as a decorator, which leaves the function as it is.
    """

    def __call__(self, function: DescribedFunction) -> DescribedFunction:
        """The function itself, or a partial of one, which `facts_above` knows from now on."""
        function.__dict__["facts"] = self
        return function


def facts_above(function: Callable[..., Any], kind: type[FactsClass]) -> FactsClass:
    """The facts that stand above a function, also where options are bound to it; the defaults where there are none.

    Args:
        function: any callable; of a partial its own facts come before those of its function.
        kind: the class of facts.

    Example:
        >>> @FactsAbove()
        ... def score(explained, *, share=0.5): ...
        >>> facts_above(partial(score, share=0.1), FactsAbove) is score.facts
        True
    """
    for candidate in (function, function.func if isinstance(function, partial) else function):
        facts = getattr(candidate, "facts", None)
        if isinstance(facts, kind):
            return facts
    return kind()
