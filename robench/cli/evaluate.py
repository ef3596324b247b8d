"""`robench eval`: a suite, on one or several models."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as o
from robench.cli.common import Attacking, Common, grouped


@grouped
def evaluate(
    models: o.Models,
    common: Common,
    attacking: Attacking,
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", help="A suite, a .txt file of recipes, recipes; repeated or by commas. Default: autoattack."),
    ] = None,
) -> None:
    """Evaluates models with a suite: attacks, each on the images that still stand, probes, corruptions, saliency maps.

    Prints the accuracy that is left after each attack; writes rows.csv, samples.csv, manifest.json, pictures and report.html.
    """
    from robench.cli.measure import Job, asked_suite, run

    chosen, title = asked_suite(suite or ["autoattack"])
    run(models, Job("eval", title, chosen, examine=True), common, attacking)
