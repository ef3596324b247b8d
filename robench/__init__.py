"""robench: robustness benchmarks and saliency scores of image classifiers.

The functions that the command line itself uses are here: `load_model`, `evaluate`, `attack`, `probe`, `corrupt`, `saliency`,
`plan_costs`, `plan_training`, `compare`, `write_report`, `train`, `train_seeds` and `gini`; and the types that their users name: `Result`,
`Comparison`,
`Trained`, `Subject`, `Threat`, `Images`, `InputError`. They are imported when they are first asked for, so that `import robench` stays
quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from robench.core.moved import find_moved_modules

if TYPE_CHECKING:
    from robench.core.errors import InputError as InputError
    from robench.core.threat import Threat as Threat
    from robench.data import Images as Images
    from robench.evaluation.api import attack as attack
    from robench.evaluation.api import corrupt as corrupt
    from robench.evaluation.api import evaluate as evaluate
    from robench.evaluation.api import gini as gini
    from robench.evaluation.api import probe as probe
    from robench.evaluation.api import saliency as saliency
    from robench.evaluation.planning import plan_costs as plan_costs
    from robench.models import load_model as load_model
    from robench.report.comparison import Comparison as Comparison
    from robench.report.comparison import compare as compare
    from robench.report.reporting import write_report as write_report
    from robench.report.result import Result as Result
    from robench.runs.types import Subject as Subject
    from robench.training.planned_trainings import plan_training as plan_training
    from robench.training.seed_groups import train_seeds as train_seeds
    from robench.training.train import train as train
    from robench.training.types import Trained as Trained

HOMES = {
    **dict.fromkeys(("attack", "corrupt", "evaluate", "gini", "probe", "saliency"), "robench.evaluation.api"),
    **dict.fromkeys(("Comparison", "compare"), "robench.report.comparison"),
    "Images": "robench.data",
    "InputError": "robench.core.errors",
    "Result": "robench.report.result",
    "Subject": "robench.runs.types",
    "Threat": "robench.core.threat",
    "Trained": "robench.training.types",
    "load_model": "robench.models",
    "plan_costs": "robench.evaluation.planning",
    "plan_training": "robench.training.planned_trainings",
    "train": "robench.training.train",
    "train_seeds": "robench.training.seed_groups",
    "write_report": "robench.report.reporting",
}
__all__ = [
    "Comparison", "Images", "InputError", "Result", "Subject", "Threat", "Trained", "attack", "compare", "corrupt", "evaluate", "gini",
    "load_model", "plan_costs", "plan_training", "probe", "saliency", "train", "train_seeds", "write_report",
]  # fmt: skip

find_moved_modules()


def __getattr__(name: str) -> Any:
    """The public function or type `name`, from its module."""
    if name not in HOMES:
        raise AttributeError(f"module 'robench' has no attribute {name!r}")
    value = getattr(importlib.import_module(HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What `dir(robench)` shows: the public names also before they are first asked for."""
    return sorted({*globals(), *__all__})
