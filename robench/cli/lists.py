"""`robench list`: the names that the other commands understand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer

from robench.cli.console import show
from robench.recipes import lookup, setting

KINDS = ("attacks", "probes", "suites", "methods", "scores", "data", "models", "corruptions", "objectives", "regularizers", "presets")

TABLES = {
    "attacks": ("robench.attacks", "ATTACKS"),
    "probes": ("robench.probes", "PROBES"),
    "methods": ("robench.explainers", "EXPLAINERS"),
    "scores": ("robench.audits", "AUDITS"),
    "models": ("robench.models", "ARCHITECTURES"),
    "corruptions": ("robench.corruptions", "CORRUPTIONS"),
    "objectives": ("robench.objectives", "OBJECTIVES"),
    "regularizers": ("robench.objectives", "REGULARIZERS"),
}


def list_names(
    what: Annotated[str, typer.Argument(metavar="|".join(KINDS), help="What to list.")],
) -> None:
    """Lists what the other commands understand by name, with the options of each."""
    lookup(what, dict.fromkeys(KINDS), "list")
    show(what, ("name", "what it is", "options"), entries(what), left=3)


def entries(what: str) -> list[tuple[str, str, str]]:
    """Names of one kind, each with a line that says what it is, and its options with their defaults."""
    if what == "suites":
        from robench.suites import ABOUT, SUITES, SUITES_L1

        usual = [(name, ABOUT[name], " + ".join(attacks)) for name, attacks in SUITES.items()]
        return usual + [(f"{name} in l1", "what it is where the norm is l1", " + ".join(attacks)) for name, attacks in SUITES_L1.items()]
    if what == "presets":
        from robench.presets import ABOUT as SETTINGS
        from robench.presets import PRESETS

        return [(name, text, PRESETS[name]["arch"]) for name, text in SETTINGS.items()]
    if what == "data":
        from robench.data import ABOUT as SETS

        return [(name, text, "") for name, text in SETS.items()]
    return [(name, first_line(function), setting(function)) for name, function in tables(what).items()]


def tables(what: str) -> Mapping[str, Callable[..., Any]]:
    """The dict of functions of one kind."""
    module, name = TABLES[what]
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def first_line(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring; a partial's own, or that of the function inside."""
    text = vars(function).get("__doc__") if isinstance(function, partial) else None
    inner = function.func if isinstance(function, partial) else function
    return (text or inspect.getdoc(inner) or "").partition("\n")[0]
