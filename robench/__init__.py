"""robench: robustness benchmarks and saliency audits of image classifiers.

The three functions that the command line itself uses are here: `load_model`, `evaluate`, `train`. They are imported when
they are first asked for, so that `import robench` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robench.evaluation import evaluate as evaluate
    from robench.models import load_model as load_model
    from robench.training import train as train

__all__ = ["evaluate", "load_model", "train"]
HOMES = {"evaluate": "robench.evaluation", "load_model": "robench.models", "train": "robench.training"}


def __getattr__(name: str) -> Any:
    """The public function `name`, from its module."""
    if name not in HOMES:
        raise AttributeError(f"module 'robench' has no attribute {name!r}")
    value = getattr(importlib.import_module(HOMES[name]), name)
    globals()[name] = value
    return value
