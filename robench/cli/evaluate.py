"""`robench eval`: a suite, on one or several models."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as o
from robench.cli.options import AttackOptions, CommonOptions, with_option_groups


@with_option_groups
def evaluate_command(
    models: o.ModelArguments,
    common: CommonOptions,
    attacking: AttackOptions,
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", help="A suite, a .txt file of recipes, recipes; repeated or by commas. Default: autoattack."),
    ] = None,
) -> None:
    """Evaluates models with a suite: attacks, each on the images that still stand, probes, corruptions, saliency maps.

    Prints the accuracy that is left after each attack; writes rows.csv, samples.csv, confusion.csv, manifest.json,
    pictures and report.html.
    """
    from robench.cli.jobs import Job, suite_and_title
    from robench.cli.measure import run_job

    entries, title = suite_and_title(suite or ["autoattack"])
    run_job(models, Job("eval", title, entries, examine=True), common, attacking)
