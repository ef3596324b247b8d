"""`robench rerun`: a run again, from its manifest, and whether its tables are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from robench.cli import options as o
from robench.cli.repeated_calls import (
    call_in_manifest,
    changed_call,
    options_of_command,
    refuse_download_elsewhere,
    set_values,
    words_of_call,
)


def rerun_command(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Results folder of a finished run; of a training NET.json or NET.pt.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value of an option, such as n=100; 'default' takes it out. Repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the results; FILE.pt of a training. Default: a new folder, results/<time>-rerun-<name>."),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run code that the manifest names: file.py:function, module:factory, stored programs.")
    ] = False,
    download: o.Download = False,
    resume: o.Resume = False,
    force: o.Force = False,
    quiet: o.Quiet = False,
) -> None:
    """Repeats a run from its manifest, into a new folder, and says whether the tables are the same.

    Ends with 1 where they are not, although nothing was set, no file has changed and no clock decides.
    Example: robench rerun results/NIGHT --set seed=1
    """
    from robench.cli.jobs import refuse_several_processes
    from robench.cli.repeated_runs import RunToRepeat, code_permission, manifest_to_repeat, repeat_run
    from robench.core.code_permission import asked_before_code

    refuse_several_processes("rerun")
    commands: dict[str, Any] = context.parent.command.commands if context.parent else {}  # type: ignore[attr-defined]
    place, manifest = manifest_to_repeat(folder)
    call = call_in_manifest(manifest, commands, str(folder))
    command = commands[call["command"]]
    known = options_of_command(command)
    given = set_values(settings or [], known, takes_models=call["command"] != "train")
    new_call = changed_call(call, given, known)
    refuse_download_elsewhere(new_call, given, download)
    switches = {"trust": trust and "trust" in known, "download": download, "resume": resume, "force": force, "quiet": quiet}
    words = [*(f"--{name}" for name, wanted in switches.items() if wanted), *words_of_call(new_call, known, str(folder))]
    ask = code_permission(trust)
    with asked_before_code(ask):
        repeat_run(RunToRepeat(place, manifest, call, new_call, given, command, words), ask, context, out=out, resume=resume, quiet=quiet)
