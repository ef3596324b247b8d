"""The command line: each command loads, calls and reports; errors of the user end here with one sentence and exit code 2."""

from __future__ import annotations

import errno
import re
import sys
from traceback import print_exception
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from robench.cli.calls import RecordedCommand
from robench.cli.compare import compare_command
from robench.cli.console import error_origin, exits_by_user, print_to_stderr, reconfigure_streams
from robench.cli.corrupt import corrupt_command
from robench.cli.evaluate import attack_command, evaluate_command, saliency_command
from robench.cli.lists import list_command
from robench.cli.report import report_command
from robench.cli.rerun import rerun_command
from robench.cli.train import train_command
from robench.core.errors import DivergedError, InputError
from robench.core.interrupts import interruption_exit_code, take_sigterm_as_interrupt


class Group(TyperGroup):
    """Makes an InputError exit code 2 (1 for a training that its guard ended), Ctrl-C 130 and SIGTERM 143; `main` does the rest."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuses an empty word: it is what a shell makes of "$DIR" where DIR is not set, and as a path it would be the current folder."""
        for before, word in zip(["", *args], args, strict=False):
            bare = re.fullmatch(r"(--[a-z-]+)=\s*", word)
            if bare or not word.strip():
                option = bare[1] if bare else before if before.startswith("-") else ""
                what = f"{option} has an empty value" if option else "an argument is empty"
                raise typer.BadParameter(f"{what}, as where a variable of the shell is not set: write it out, or leave it out")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            print_to_stderr(f"Error: {error}")
            raise typer.Exit(1 if isinstance(error, DivergedError) else 2) from None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            print_to_stderr(f"Error: a name is longer than the system allows: {str(error.filename)[:80]}...")
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stop:
            raise typer.Exit(told_interruption(stop)) from None

    def make_context(self, *words: Any, **more: Any) -> Any:
        """Reads the words; also before the command begins a signal ends it as later on."""
        try:
            return super().make_context(*words, **more)
        except KeyboardInterrupt as stop:
            raise typer.Exit(told_interruption(stop)) from None


def told_interruption(stop: KeyboardInterrupt) -> int:
    """Says that the command was interrupted; the exit code of that."""
    print_to_stderr("Interrupted: nothing was written.")
    return interruption_exit_code(stop)


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", cls=RecordedCommand)(train_command)
app.command("eval", cls=RecordedCommand)(evaluate_command)
app.command("attack", cls=RecordedCommand)(attack_command)
app.command("saliency", cls=RecordedCommand)(saliency_command)
app.command("corrupt", cls=RecordedCommand)(corrupt_command)
app.command("compare")(compare_command)
app.command("report")(report_command)
app.command("rerun")(rerun_command)
app.command("list")(list_command)


def show_version(wanted: bool) -> None:
    """Prints the version and ends, without importing torch."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"robench {version('robench')}")
        raise typer.Exit


@app.callback()
def root_command(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Trains, attacks, evaluates and explains image classifiers: robustness benchmarks and saliency scores from one command line."""


def main() -> None:
    """Runs the command line and ends the process.

    Exit codes: 0 fine; 1 a gate failed (`compare`, `rerun` whose tables should be the same, a flag with --strict, a training that its
    guard ended); 2 wrong input; 3 anything unexpected, with its traceback and a line that says whose it is; 130 interrupted, and 143 by
    SIGTERM.
    """
    reconfigure_streams(sys.stdout, sys.stderr)
    take_sigterm_as_interrupt()
    try:
        app()
    except KeyboardInterrupt as stop:  # while the commands are put together, before one of them runs
        sys.exit(told_interruption(stop))
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not exits_by_user(error):
            raise
        print_exception(error)
        print_to_stderr(error_origin(error))
        sys.exit(3)
