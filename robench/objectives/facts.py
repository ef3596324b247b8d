"""What a training must know of an objective or a regulariser besides its function; it stands right above that function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from robench.core.facts import FactsAbove, facts_above


@dataclass(frozen=True)
class Facts(FactsAbove):
    """What is known of one objective or regulariser; the defaults are what holds of one of the user's own.

    It is used as a decorator, which leaves the function as it is: `@Facts(weight=0.1, warmup=0.25)`.

    Attributes:
        teacher: it learns from a network that is trained without a defence.
        defence: it is meant to make the network robust; weight decay, for one, is not.
        single_step: it trains against an adversary of one step, which a network can learn to fool, or belongs to such a training.
        input_gradient: it takes the gradient of the network by the images.
        gradient_free_options: values of options with which it takes none after all; one of them suffices.
        lengths: its options that are Euclidean lengths in pixel units, besides `step_size`.
        weight: of a regulariser that is named without a weight.
        warmup: share of training, in [0, 1], over which the weight of a regulariser grows from 0, where nothing is said.
        base: key of OBJECTIVES, the objective of a regulariser where none is named.
        second_derivative: a regulariser takes the derivative of a derivative of the network.
        notes: notes(classes, **options) -> what a training on so many classes says of a regulariser; InputError for an option that
            changes nothing there.
    """

    teacher: bool = False
    defence: bool = True
    single_step: bool = False
    input_gradient: bool = True
    gradient_free_options: Mapping[str, object] = field(default_factory=dict)
    lengths: tuple[str, ...] = ()
    weight: float = 1.0
    warmup: float = 0.0
    base: str = "standard"
    second_derivative: bool = True
    notes: Callable[..., list[str]] | None = None


def facts_of_function(function: Callable[..., Any]) -> Facts:
    """The facts that stand above a function, also where options are bound to it; the defaults where there are none.

    Args:
        function: an entry of OBJECTIVES or of REGULARIZERS, or any other callable.

    Example:
        >>> from functools import partial
        >>> @Facts(weight=0.1)
        ... def penalty(model, batch): ...
        >>> facts_of_function(partial(penalty, at="clean")).weight
        0.1
    """
    return facts_above(function, Facts)
