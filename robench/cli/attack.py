"""`robench attack`: one attack, or one probe or corruption, alone."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as o
from robench.cli.options import AttackOptions, CommonOptions, with_option_groups


@with_option_groups
def attack_command(
    models: o.ModelArguments,
    common: CommonOptions,
    attacking: AttackOptions,
    recipe: Annotated[
        str,
        typer.Option(
            "--attack",
            help="[KIND:]NAME[,option=value,...][ on RECIPE], transfer:OTHER.pt or file.py:function: see 'robench list recipes'.",
        ),
    ] = "pgd-20",
) -> None:
    """Attacks models with one attack, on the images they get right; or tries one probe, such as inductive-noise.

    Example: robench attack MODEL --attack pgd,steps=50,restarts=10,loss=margin --eps 2/255,4/255,8/255
    """
    from robench.cli.jobs import Job
    from robench.cli.measure import run_job
    from robench.core.errors import InputError
    from robench.core.recipes import parse_recipe
    from robench.evaluation.recipe_kinds import recipe_kind

    parsed_recipe = parse_recipe(recipe)
    if recipe_kind(parsed_recipe) == "method":
        raise InputError(
            f"{parsed_recipe.title} makes saliency maps and is no attack: name it with robench saliency --method, or eval --suite"
        )
    run_job(models, Job("attack", parsed_recipe.title, [parsed_recipe]), common, attacking)
