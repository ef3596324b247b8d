"""`robench list`: the names that the other commands understand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import typer

from robench.cli.console import names
from robench.recipes import lookup

KINDS = ("attacks", "suites", "data", "models", "objectives", "regularizers", "presets")


def list_names(
    what: Annotated[str, typer.Argument(metavar="|".join(KINDS), help="What to list.")],
) -> None:
    """Lists attacks, suites, data sets, models, objectives, regularisers or presets, with their options."""
    lookup(what, dict.fromkeys(KINDS), "list")
    names(what, entries(what))


def entries(what: str) -> list[tuple[str, str]]:
    """Names of one kind, each with a line that says what it is."""
    if what == "suites":
        from robench.suites import ABOUT, SUITES

        return [(name, f"{ABOUT[name]}: {', '.join(attacks)}") for name, attacks in SUITES.items()]
    if what == "presets":
        from robench.presets import ABOUT as SETTINGS

        return list(SETTINGS.items())
    if what == "data":
        from robench.data import ABOUT as SETS

        return list(SETS.items())
    return described(tables(what))


def tables(what: str) -> Mapping[str, Callable[..., Any]]:
    """The dict of functions of one kind."""
    if what == "attacks":
        from robench.attacks import ATTACKS

        return ATTACKS
    if what == "models":
        from robench.models import ARCHITECTURES

        return ARCHITECTURES
    from robench.objectives import OBJECTIVES, REGULARIZERS

    return OBJECTIVES if what == "objectives" else REGULARIZERS


def described(table: Mapping[str, Callable[..., Any]]) -> list[tuple[str, str]]:
    """Each name with the first line of its docstring and its options with their defaults."""
    return [(name, f"{first_line(function)} {options(function)}".strip()) for name, function in table.items()]


def first_line(function: Callable[..., Any]) -> str:
    """The first line of the docstring of a function, also behind `partial`."""
    inner = function.func if isinstance(function, partial) else function
    return (inspect.getdoc(inner) or "").partition("\n")[0]


def options(function: Callable[..., Any]) -> str:
    """The keyword options of a function with their defaults."""
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is not p.empty]
    return f"[{', '.join(f'{p.name}={p.default}' for p in keywords)}]" if keywords else ""
