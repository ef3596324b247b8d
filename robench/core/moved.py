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

NEW_PLACES = {
    "calls": "core.model_calls",
    "draws": "core.draws",
    "errors": "core.errors",
    "recipes": "core.recipes",
    "rows": "core.rows",
    "schedules": "core.schedules",
    "statistics": "core.statistics",
    "threat": "core.threat",
    "types": "core.types",
    "memory": "core.memory",
    "audits": "scores",
    "degradation": "results.corruption_errors",
    "diagnostics": "runs.diagnostics",
    "suites": "evaluation.suites",
    "api": "evaluation.api",
}


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `robench.OLD` of PLACES as the module that it is now."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None, /) -> ModuleSpec | None:
        """The spec of a moved module; None for every other name."""
        package, _, old = name.partition(".")
        return ModuleSpec(name, self) if package == "robench" and old in NEW_PLACES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module at its place of today, with a FutureWarning that names it."""
        place = f"robench.{NEW_PLACES[spec.name.partition('.')[2]]}"
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
        sys.meta_path.append(MovedModules())


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
