"""`robench list`: the names that the other commands understand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import typer

from robench.cli.console import show
from robench.recipes import lookup, setting

KINDS = ("attacks", "suites", "data", "models", "objectives", "regularizers", "presets")


def list_names(
    what: Annotated[str, typer.Argument(metavar="|".join(KINDS), help="What to list.")],
) -> None:
    """Lists attacks, suites, data sets, models, objectives, regularisers or presets, with their options."""
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
    if what == "attacks":
        from robench.attacks import ATTACKS

        return ATTACKS
    if what == "models":
        from robench.models import ARCHITECTURES

        return ARCHITECTURES
    from robench.objectives import OBJECTIVES, REGULARIZERS

    return OBJECTIVES if what == "objectives" else REGULARIZERS


def first_line(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring; a partial's own, or that of the function inside."""
    text = vars(function).get("__doc__") if isinstance(function, partial) else None
    inner = function.func if isinstance(function, partial) else function
    return (text or inspect.getdoc(inner) or "").partition("\n")[0]
