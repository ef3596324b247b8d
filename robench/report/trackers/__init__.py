"""Trackers: where the numbers of a run are shown beside those of others, TensorBoard or MLflow.

A tracker is one function: tracker(run, *, options) -> log(records). A new one is a function in a file of its own and a line in TRACKERS; a
user's own joins as `file.py:function`. A tracker never ends a run: what it cannot log is said in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType

from robench.core.errors import InputError
from robench.core.recipes import parse_recipe, resolve, split_recipes
from robench.report.trackers.event_files import tensorboard_log
from robench.report.trackers.mlflow_runs import mlflow_log
from robench.report.trackers.records import Log, StartLog

TRACKERS: dict[str, Callable[..., Log]] = {
    "tensorboard": tensorboard_log,
    "mlflow": mlflow_log,
}
TRACKER_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}  # what a tracker needs, which the extra of its name installs
TRACKER_REQUIREMENTS = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny sqlalchemy alembic"}  # what pip calls them
NO_TRACKERS: Mapping[str, StartLog] = MappingProxyType({})


def chosen_trackers(words: str | Sequence[str] | None) -> Mapping[str, StartLog]:
    """The trackers that a user names, by their labels, with their options bound. The user's own files are run.

    Args:
        words: names of TRACKERS or the user's `file.py:function`, with options, parted by commas; None for none.

    Raises:
        InputError: for an unknown name or option, a function that cannot be called as a tracker is, one that is named twice, and where
            its package is not installed.

    Example:
        >>> list(chosen_trackers("tensorboard"))
        ['tensorboard']
    """
    chosen: dict[str, StartLog] = {}
    for recipe in map(parse_recipe, split_recipes([words] if isinstance(words, str) else words or [])):
        tracker = resolve(recipe, TRACKERS, "tracker")
        package = TRACKER_PACKAGES.get(recipe.name)
        if package and find_spec(package) is None:
            raise InputError(f"tracker {recipe.name!r} needs the package {package}: pip install {TRACKER_REQUIREMENTS[recipe.name]}")
        if recipe.label in chosen:
            raise InputError(f"tracker {recipe.label!r} is named twice: name it once")
        chosen[recipe.label] = tracker
    return chosen
