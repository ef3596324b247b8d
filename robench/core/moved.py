"""Where modules lay and what functions were called before: a user's files go on working for one release, with a warning."""

from __future__ import annotations

import importlib
import importlib.abc
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NEW_PLACES = {  # of modules that were moved whole; those whose functions went to several places are not here
    "api": "evaluation.api",
    "auditing": "evaluation.methods",
    "audits": "scores",
    "calls": "core.model_calls",
    "claims": "runs.own_functions",
    "corrupting": "evaluation.corruption_sources",
    "corruptions.benchmark": "core.corruption_names",
    "degradation": "results.corruption_errors",
    "destinations": "core.folders",
    "diagnostics": "runs.diagnostics",
    "draws": "core.draws",
    "errors": "core.errors",
    "figures": "report.figures",
    "figures.house": "report.figures.style",
    "fronts": "core.fronts",
    "guards": "training.guards",
    "inputs": "core.inputs",
    "journal": "core.journal",
    "measurement": "results.measurement",
    "memory": "core.memory",
    "names": "core.synonyms",
    "options": "core.checks",
    "plans": "evaluation.plans",
    "presets": "training.presets",
    "recipes": "core.recipes",
    "rounding": "attacks.eight_bits",
    "rows": "core.rows",
    "schedules": "core.schedules",
    "settings": "training.settings",
    "shards": "core.processes",
    "statistics": "core.statistics",
    "suites": "evaluation.suites",
    "sweeps": "training.sweeps",
    "threat": "core.threat",
    "types": "core.types",
    "writing": "core.files",
}


def new_place(name: str) -> str | None:
    """Where a module is now, by its name of before, with the modules of moved packages; None for every other name."""
    package, _, old = name.partition(".")
    if package != "robench":
        return None
    if old in NEW_PLACES:
        return f"robench.{NEW_PLACES[old]}"
    parent, _, module = old.partition(".")
    return f"robench.{NEW_PLACES[parent]}.{module}" if module and parent in NEW_PLACES else None


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module of `NEW_PLACES` as the module that it is now."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None, /) -> ModuleSpec | None:
        """The spec of a moved module; None for every other name."""
        return ModuleSpec(name, self) if new_place(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module at its place of today, with a FutureWarning that names it."""
        place = new_place(spec.name) or spec.name
        warnings.warn(f"{spec.name} is now {place}; the old name works for one more release", FutureWarning, stacklevel=2)
        module = importlib.import_module(place)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module, which was run under its own name, its own spec back."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def find_moved_modules() -> None:
    """Lets the old names of modules be imported."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())  # the first: in the folder of a moved package its modules would be found, and run again


def names_of_before(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module, by which old names of its functions and types are found.

    Args:
        module: the dotted name of the module.
        names: old name -> the name of today.
    """

    def value_of(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {names[name]}; the old name works for one more release", FutureWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return value_of
