"""What a tracker is told: of which run, and what was found at which step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

MOST_TEXT = 500  # letters of a parameter


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker sees it before it logs.

    Attributes:
        command: "train", "eval", "attack", "saliency" or "corrupt".
        name: the stem of the checkpoint, or the name of the results folder.
        folder: where the checkpoint lies; the results folder.
        parameters: what was asked for: numbers, booleans and texts by dotted names, such as "recipe.lr".
        key: the same for a run that is gone on with and for no other: of its words and its place.
        steps_done: steps of a training that earlier processes have done; what they logged after that step comes again, the same numbers.
    """

    command: str
    name: str
    folder: Path
    parameters: Mapping[str, str | int | float | bool]
    key: str
    steps_done: int = 0

    def own_path(self, name: str) -> Path:
        """Where a tracker may keep a file or a folder of its own: FILE.NAME beside FILE.pt, else NAME in the results folder.

        Args:
            name: such as "tensorboard".
        """
        return self.folder / (f"{self.name}.{name}" if self.command == "train" else name)


@dataclass(frozen=True)
class LogRecord:
    """What was found at one step.

    Attributes:
        step: steps of the training that were done; 0 in a measurement.
        values: finite numbers by tag, such as "train/loss" or "held-out/robust accuracy".
        files: pictures, tables and pages that lie on the disk.
        end: "" while the run goes on; "finished" or "broken off" in its last record.
    """

    step: int
    values: Mapping[str, float]
    files: Sequence[Path] = ()
    end: str = ""


Log: TypeAlias = Callable[[Sequence[LogRecord]], None]  # what a tracker returns: keeps records safe before it comes back
StartLog: TypeAlias = Callable[[TrackedRun], Log]  # a tracker with its options bound


def finite_values(values: Mapping[str, float]) -> dict[str, float]:
    """The values without those that are nan or infinite, which trackers draw wrongly or refuse.

    Args:
        values: numbers by tag.
    """
    return {tag: float(value) for tag, value in values.items() if math.isfinite(value)}


def flat_parameters(words: Mapping[str, Any], where: str = "") -> dict[str, str | int | float | bool]:
    """Nested words as plain values by dotted names; a list becomes a text, and what is None or empty is left out.

    Args:
        words: plain JSON values.
        where: what stands before the names, such as "recipe.".

    Example:
        >>> flat_parameters({"recipe": {"lr": 0.1, "reg": ["sagr=0.1"]}, "seed": 0})
        {'recipe.lr': 0.1, 'recipe.reg': 'sagr=0.1', 'seed': 0}
    """
    flat: dict[str, str | int | float | bool] = {}
    for key, value in words.items():
        if isinstance(value, Mapping):
            flat |= flat_parameters(value, f"{where}{key}.")
        elif isinstance(value, (list, tuple)) and value:
            flat[where + key] = ", ".join(map(str, value))[:MOST_TEXT]
        elif value not in (None, "", [], ()):
            flat[where + key] = value if isinstance(value, (bool, int, float)) else str(value)[:MOST_TEXT]
    return flat
