"""`robench rerun`: a run again, from its manifest, and whether its tables are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robench.cli import options as o
from robench.cli.calls import options_of_command
from robench.cli.console import print_message, print_sentence, print_to_stderr

if TYPE_CHECKING:
    from robench.evaluation.repeated_runs import RunToRepeat


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
    from robench.core.code_permission import asked_before_code
    from robench.evaluation.repeated_calls import (
        COMMANDS,
        call_in_manifest,
        changed_call,
        refuse_download_elsewhere,
        set_values,
        words_of_call,
    )
    from robench.evaluation.repeated_runs import RunToRepeat, code_permission, manifest_to_repeat

    refuse_several_processes("rerun")
    commands: dict[str, Any] = context.parent.command.commands if context.parent else {}  # type: ignore[attr-defined]
    place, manifest = manifest_to_repeat(folder)
    call = call_in_manifest(manifest, {name: options_of_command(commands[name]) for name in COMMANDS}, str(folder))
    command = commands[call["command"]]
    known = options_of_command(command)
    given = set_values(settings or [], known, takes_models=call["command"] != "train")
    new_call = changed_call(call, given, known)
    refuse_download_elsewhere(new_call, given, download)
    switches = {"trust": trust and "trust" in known, "download": download, "resume": resume, "force": force, "quiet": quiet}
    words = [*(f"--{name}" for name, wanted in switches.items() if wanted), *words_of_call(new_call, known, str(folder))]
    ask = code_permission(trust, print_to_stderr)
    with asked_before_code(ask):
        repeat_run(RunToRepeat(place, manifest, call, new_call, given, command, words), ask, context, out=out, resume=resume, quiet=quiet)


def repeat_run(
    run: RunToRepeat, ask: Callable[[str], None], context: typer.Context, *, out: Path | None, resume: bool, quiet: bool
) -> None:
    """Makes the run again and prints whether its tables are the same.

    Args:
        run: the run.
        ask: is asked before code runs.
        context: of `robench rerun`.
        out: where it writes; None for a new folder.
        resume: whether a run in `out` is gone on with.
        quiet: whether messages are left out.

    Raises:
        InputError: where the run cannot be made.
        typer.Exit: with code 1 where the tables should be the same, and are not.
    """
    from robench.cli.loading import set_up_device
    from robench.evaluation.named_files import named_files
    from robench.evaluation.repeated_runs import (
        changed_file_notes,
        changed_files,
        clock_reasons,
        ignored_option_notes,
        machine_differences,
        place_of_rerun,
        refuse_code,
        refuse_missing_files,
        refuse_place,
    )

    refuse_place(run, out, resume)
    with command_context(run, [f"--out={out or 'new'}", *run.words], context):
        files = named_files(run.call)
        refuse_code(files, ask)
        refuse_missing_files(files, run)
    options = run.call["options"]
    device = set_up_device(str(options.get("device", "auto")), int(options["threads"]) if "threads" in options else None)
    changed = changed_files(run, files)
    for sentence in [*changed_file_notes(changed), *clock_reasons(run), *machine_differences(run, device), *ignored_option_notes(run)]:
        print_message(f"Note: {sentence}", quiet)
    with place_of_rerun(run, out) as target:
        with command_context(run, [f"--out={target}", *run.words], context) as inner:
            invoke(run, inner)
        report_sameness(run, target, changed)


@contextmanager
def command_context(run: RunToRepeat, words: Sequence[str], context: typer.Context) -> Iterator[Any]:
    """The command with its words, read as the command line reads them; InputError where it refuses them."""
    from robench.evaluation.repeated_calls import refused
    from robench.evaluation.repeated_runs import visible

    name = run.call["command"]
    try:
        inner = run.command.make_context(name, [*words], parent=context)
    except typer.BadParameter as error:
        raise refused(str(run.place), f"robench {name} says: {visible(error.format_message())}") from None
    with inner:
        yield inner


def invoke(run: RunToRepeat, inner: Any) -> None:
    """Runs the command. A training that its guard ended has a result, too."""
    try:
        run.command.invoke(inner)
    except typer.Exit as end:
        if not (run.is_training and end.exit_code == 1):
            raise


def report_sameness(run: RunToRepeat, target: Path, changed: Mapping[str, tuple[str, str]]) -> None:
    """Prints whether the tables, or the weights, are the same, and in what they differ; exit code 1 where they should be."""
    from robench.evaluation.repeated_runs import visible, weight_differences
    from robench.results.table_differences import table_differences

    differences = weight_differences(run, target) if run.is_training else [one.sentence() for one in table_differences(run.place, target)]
    what = "weights" if run.is_training else "tables"
    if not differences:
        print_sentence(f"The {what} are the same as in {run.place}.")
        return
    causes = causes_of_difference(run, target, changed)
    expected = f", as is to be expected of {' and '.join(causes)}. The differences" if causes else ""
    print_sentence(f"The {what} are not the same as in {run.place}{expected}: {'; '.join(map(visible, differences))}.")
    if not causes:
        raise typer.Exit(1)


def causes_of_difference(run: RunToRepeat, target: Path, changed: Mapping[str, tuple[str, str]]) -> list[str]:
    """Why the tables of the two need not be the same, each cause in words that need no note to be read; none where they should be."""
    from robench.evaluation.repeated_runs import changed_file_causes, clock_reasons, word_changes

    set_options = [f"--set {key}" for key in run.given]
    clock = ["--budget, where the clock decides"] if clock_reasons(run) else []
    others = [] if run.given or changed else word_changes(run, target)
    return [*set_options, *changed_file_causes(changed), *clock, *others]
