"""The command line: each command loads, calls and reports; errors of the user end here with one sentence and exit code 2."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from robench.cli.attack import attack
from robench.cli.compare import compare
from robench.cli.console import complain
from robench.cli.corrupt import corrupt
from robench.cli.evaluate import evaluate
from robench.cli.lists import list_names
from robench.cli.saliency import saliency
from robench.cli.train import train
from robench.errors import InputError


class Group(TyperGroup):
    """The one place where an InputError becomes exit code 2 and Ctrl-C becomes 130; any other exception keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            complain(f"Error: {error}")
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            complain("Interrupted: nothing was written.")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("attack")(attack)
app.command("saliency")(saliency)
app.command("corrupt")(corrupt)
app.command("compare")(compare)
app.command("list")(list_names)


def show_version(wanted: bool) -> None:
    """Prints the version and ends, without importing torch."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"robench {version('robench')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Trains, attacks, evaluates and explains image classifiers: robustness benchmarks and saliency audits from one command line."""


def main() -> None:
    """Runs the command line."""
    app()
