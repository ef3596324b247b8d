"""A measurement that is only planned: its costs, and nothing of it done."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec

from robench.core.errors import InputError
from robench.runs.costs import RunCosts

MeasureWords = ParamSpec("MeasureWords")
IS_PLANNING: ContextVar[bool] = ContextVar("IS_PLANNING", default=False)


class PlannedCostsError(Exception):
    """Ends a measurement that is only planned, where its first image would be measured; `plan_costs` takes it.

    Attributes:
        costs: what the measurement would cost.
    """

    def __init__(self, costs: RunCosts) -> None:
        super().__init__("this measurement is only planned")
        self.costs = costs


def plan_costs(measure: Callable[MeasureWords, Any], *args: MeasureWords.args, **options: MeasureWords.kwargs) -> RunCosts:
    """What a measurement will cost, before it begins: passes, seconds, memory and disk of each stage, from a few timed batches.

    Seconds are the most that it can take, for images that all stand to the end; `likely_seconds` follow a quick attack on the first
    images. Nothing is measured and nothing is written, also where `folder`, `save` or `made` name a place.

    Args:
        measure: robench.evaluate, attack, probe, corrupt or saliency.
        args: what it is to be called with.
        options: what it is to be called with by keyword.

    Returns:
        The costs; `images_within(seconds)` says how many images a budget is enough for.

    Raises:
        InputError: what the measurement would raise before its first image, and where it is no measurement.

    Example:
        >>> from robench.data import load_images
        >>> images, model = load_images("shapes", "test", n=12), robench.load_model("checkpoints/shapes-cnn-pgd-at.pt")
        >>> costs = robench.plan_costs(robench.attack, model, images, recipe="pgd-20", eps="4/255")
        >>> [stage.passes for stage in costs.stages if stage.kind == "attack"]
        [(22.0, 20.0)]
    """
    token = IS_PLANNING.set(True)
    try:
        measure(*args, **options)
    except PlannedCostsError as planned:
        return planned.costs
    finally:
        IS_PLANNING.reset(token)
    raise InputError("only measurements are planned: robench.evaluate, attack, probe, corrupt and saliency")
