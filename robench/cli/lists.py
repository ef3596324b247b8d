"""`robench list`: the names that the other commands understand, and the runs in a folder."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from robench.cli.console import print_table
from robench.core.errors import InputError
from robench.core.recipes import lookup, setting_text

DEFAULT_FOLDER = "results"  # of runs
LIST_KINDS = (
    "recipes", "attacks", "probes", "suites", "methods", "scores", "data", "models", "corruptions", "objectives", "regularizers", "presets",
    "trackers", "runs",
)  # fmt: skip
OTHER_SPELLINGS = {"regularisers": "regularizers"}
RECIPE_FORMS = (  # how what is asked for is written
    ("NAME", "what has this name: see 'robench list attacks', probes, corruptions, methods, scores, suites", "pgd-20"),
    ("NAME,option=value,...", "with options, whole numbers, numbers, fractions, true or false", "pgd,steps=50,step_size=2/255"),
    ("NAME=WEIGHT", "a regulariser with its weight", "jacobian=0.01,warmup=0.25"),
    ("NAME,severity=S", "a corruption at one severity, 1 to 5; else at all five, and at 3 where its images go on", "fog,severity=3"),
    ("RECIPE on RECIPE", "the first on the images that the second (attack, probe, corruption) makes", "pgd-20 on fog,severity=3"),
    ("file.py:function", "your own: docs/index.md has a page for each kind. The file is run", "mine.py:momentum,steps=8"),
    (
        "KIND:file.py:function", "the same with its kind, attack, probe, corruption, method or score, where its arguments do not tell",
        "probe:mine.py:flip",
    ),
    ("transfer:MODEL", "an attack with points made on another model", "transfer:OTHER.pt"),
    ("SUITE or FILE.txt", "in --suite: several at once; a file has one recipe a line, and what follows # is a comment", "full"),
)  # fmt: skip

SHAPE_AND_RANGE = r",? \(B[^)]*\)( float64)?( >= 0| in \[[^\])]*[\])])?"  # such as ", (B,) float64 in [0, 1]"
FUNCTION_TABLES = {
    "attacks": ("robench.attacks", "ATTACKS"),
    "probes": ("robench.probes", "PROBES"),
    "methods": ("robench.explainers", "EXPLAINERS"),
    "scores": ("robench.scores", "SCORES"),
    "models": ("robench.models", "ARCHITECTURES"),
    "corruptions": ("robench.corruptions", "CORRUPTIONS"),
    "objectives": ("robench.objectives", "OBJECTIVES"),
    "regularizers": ("robench.objectives", "REGULARIZERS"),
    "trackers": ("robench.report.trackers", "TRACKERS"),
}


def list_command(
    what: Annotated[str, typer.Argument(metavar="KIND", help=f"What to list: {', '.join(LIST_KINDS)}.")],
    folder: Annotated[Path | None, typer.Argument(metavar="[FOLDER]", help="Of runs: where they lie. Default: results.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Of runs: as JSON, for scripts.")] = False,
) -> None:
    """Lists what the other commands understand by name, with the options of each; `runs` lists what lies in a folder of results.

    Example: robench list runs results
    """
    what = OTHER_SPELLINGS.get(what, what)
    lookup(what, dict.fromkeys(LIST_KINDS), "list")
    if what == "runs":
        list_runs(Path(DEFAULT_FOLDER) if folder is None else folder, as_json)
        return
    if folder is not None or as_json:
        raise InputError(f"a folder and --json belong to 'robench list runs', not to {what}: leave them out")
    lines = [(name, "\n".join(filter(None, (text, options)))) for name, text, options in list_entries(what)]
    print_table(what, ("name", "what it is, and its options with their defaults"), lines, word_columns=2, whole=True)


def list_runs(folder: Path, as_json: bool) -> None:
    """Prints what lies in a folder of results, the newest last."""
    from robench.report.run_list import run_summaries, summary_lines

    summaries = run_summaries(folder)
    if as_json:
        typer.echo(json.dumps([one.plain() for one in summaries], indent=2))
        return
    if not summaries:
        raise InputError(f"{folder} holds no run, and no folder below it: name the folder that --out of a measuring command was in")
    columns = ("last written (UTC)", "folder", "model", "what", "images", "verdict")
    print_table(f"runs in {folder}", columns, summary_lines(summaries, folder), word_columns=6, whole=True)


def list_entries(what: str) -> list[tuple[str, str, str]]:
    """Names of one kind, each with a line that says what it is, and its options with their defaults."""
    if what == "recipes":
        return [(form, text, f"for example {example}") for form, text, example in RECIPE_FORMS]
    if what == "suites":
        from robench.evaluation.suites import SUITE_SUMMARIES, SUITES, SUITES_L1

        usual = [(name, SUITE_SUMMARIES[name], " + ".join(attacks)) for name, attacks in SUITES.items()]
        return usual + [(f"{name} in l1", "what it is where the norm is l1", " + ".join(attacks)) for name, attacks in SUITES_L1.items()]
    if what == "presets":
        from robench.training.preset_sources import source_of, source_text
        from robench.training.presets import PRESET_DESCRIPTIONS as SETTINGS
        from robench.training.presets import PRESETS

        return [(name, text, f"{PRESETS[name]['arch']}; {source_text(source_of(name))}") for name, text in SETTINGS.items()]
    if what == "data":
        from robench.data import DATASET_SUMMARIES as SETS

        return [(name, text, "") for name, text in SETS.items()]
    table = function_table(what)
    entries = [(name, function_summary(name, table), options_text(setting_text(function))) for name, function in table.items()]
    return entries + (library_entries() if what == "models" else [])


def library_entries() -> list[tuple[str, str, str]]:
    """How models of libraries are written."""
    from robench.models.foreign import LIBRARY_FORMS

    return [(form, text, f"for example {example}") for form, text, example in LIBRARY_FORMS]


def function_table(what: str) -> Mapping[str, Callable[..., Any]]:
    """The dict of functions of one kind."""
    module, name = FUNCTION_TABLES[what]
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def function_summary(name: str, table: Mapping[str, Callable[..., Any]]) -> str:
    """What a function is: a setting of another name of the table, or the first line of its docstring without shapes and ranges."""
    function = table[name]
    inner = function.func if isinstance(function, partial) else function
    general = next((other for other, candidate in table.items() if candidate is inner and other != name), None)
    if general is not None and isinstance(function, partial):
        settings = [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in function.keywords.items()]
        return f"{general} with {', '.join(settings)}."
    return re.sub(SHAPE_AND_RANGE, "", (inspect.getdoc(inner) or "").partition("\n")[0])


def options_text(options: str) -> str:
    """The options with four digits of long numbers."""
    return re.sub(r"\d+\.\d{6,}", lambda found: f"{float(found[0]):.4g}", options)
