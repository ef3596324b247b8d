"""Trainings that are only planned: one by the arguments of `train`, or the cells of a sweep, of which equal ones are timed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robench.core.errors import InputError
from robench.core.recipes import parse_recipe
from robench.evaluation.planning import IS_PLANNING
from robench.models.checkpoint import plain_values
from robench.objectives import default_options
from robench.training.grids import SweepCell
from robench.training.settings import resolved_settings
from robench.training.teachers import TEACHER_SETTINGS
from robench.training.timed_trainings import PlannedTrainingError
from robench.training.train import train
from robench.training.training_costs import TrainingCosts

FREE_SETTINGS = ("lr", "momentum", "weight_decay", "schedule", "label_smoothing", "eps", "normalize", "guard", "awp_warmup", "seed")
SWITCHES = ("ema", "mixup", "cutmix", "awp")  # which cost the same whatever their value is, unless that is 0


def plan_training(*args: Any, **words: Any) -> TrainingCosts:
    """What a training will cost, before it begins: passes, seconds, memory and disk, from a few real steps.

    Where a known data set is not there, made images of its shape stand in. Nothing is kept and nothing is written.

    Args:
        args: the data set, as `robench.train` takes it.
        words: its other arguments.

    Returns:
        The costs: `seconds` in all, `epoch_seconds`, `step_seconds`, `memory`, `disk_bytes`.

    Raises:
        InputError: what the training would raise before its first step, and for `download`, which would write.

    Example:
        >>> costs = robench.plan_training("shapes", arch="mlp,width=8", n_train=200, held_out=50, epochs=3, objective="pgd-at,steps=10")
        >>> costs.step.passes, costs.steps, costs.epochs
        ((11.0, 11.0), 1, 3)
    """
    if words.get("download"):
        raise InputError("a plan fetches nothing: without the data it is made on images that stand in for them; leave --download out")
    token = IS_PLANNING.set(True)
    try:
        train(*args, **words)
    except PlannedTrainingError as planned:
        return planned.costs
    finally:
        IS_PLANNING.reset(token)
    raise AssertionError("a training that is planned ends with its costs")


@dataclass(frozen=True)
class SweepCosts:
    """What the trainings of a sweep cost.

    Attributes:
        cells: each cell with the costs of its training, without a teacher's.
        teachers: the costs of each teacher that is trained: cells whose teachers have the same settings share one.
        timed: how many trainings were timed.
    """

    cells: Sequence[tuple[SweepCell, TrainingCosts]]
    teachers: Sequence[TrainingCosts]
    timed: int

    @property
    def seconds(self) -> float:
        """Seconds of all trainings, one after the other."""
        return sum(costs.own_seconds for _, costs in self.cells) + sum(costs.seconds for costs in self.teachers)

    @property
    def memory(self) -> int:
        """The most bytes that any of them holds."""
        return max(costs.memory for _, costs in self.cells)

    @property
    def disk_bytes(self) -> int:
        """The bytes that they write in the end, and one state meanwhile."""
        every = [*(costs for _, costs in self.cells), *self.teachers]
        return sum(costs.disk["checkpoints"] for costs in every) + max(costs.disk["state"] for costs in every)


def plan_sweep(
    cells: Sequence[SweepCell], plan_one: Callable[[SweepCell], TrainingCosts], settings_of: Callable[[SweepCell], Mapping[str, Any]]
) -> SweepCosts:
    """What the trainings of a sweep cost.

    Args:
        cells: the cells.
        plan_one: plan_one(cell) is what the training of a cell costs.
        settings_of: settings_of(cell) are all settings of its training, with its seed.
    """
    known: dict[str, TrainingCosts] = {}
    teachers: dict[str, TrainingCosts] = {}
    planned = []
    for cell in cells:
        settings = settings_of(cell)
        key = cost_key(settings)
        if key not in known:
            known[key] = plan_one(cell)
        planned.append((cell, known[key]))
        if its := known[key].teacher:
            teachers.setdefault(json.dumps(plain_values({**settings, **TEACHER_SETTINGS}), sort_keys=True), its)
    return SweepCosts(planned, list(teachers.values()), len(known))


def settings_of_cell(preset: str, overrides: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """All settings of a training, with its seed.

    Args:
        preset: its name.
        overrides: what the user and the cell give, a seed among them where it is a key of the sweep.
        seed: where they give none.
    """
    own = {key: value for key, value in overrides.items() if key != "seed"}
    return {**resolved_settings(preset, own)[0], "seed": overrides.get("seed", seed)}


def cost_key(settings: Mapping[str, Any]) -> str:
    """The same words for trainings that cost the same: without rates, weights, radii and other numbers that no pass follows from.

    Args:
        settings: of a training.
    """
    kept = {key: value for key, value in settings.items() if key not in FREE_SETTINGS}
    switches = {key: bool(kept[key]) for key in SWITCHES if key in kept}
    return json.dumps(
        {**kept, **switches, "objective": recipe_cost(kept["objective"]), "reg": [*map(recipe_cost, kept["reg"])]},
        default=str,
        sort_keys=True,
    )


def recipe_cost(sentence: str) -> list[Any]:
    """What the cost of an objective or a regulariser follows from: its name, its options but real numbers, and whether it has a weight."""
    recipe = parse_recipe(sentence)
    usual = default_options(recipe.name)
    real = {key for key, value in recipe.options.items() if isinstance(value, float) or isinstance(usual.get(key), float)}
    options = {key: value for key, value in recipe.options.items() if key not in real | {"warmup", "drops"}}
    return [recipe.name, options, recipe.weight != 0]
