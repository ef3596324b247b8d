"""`robench eval`, `attack` and `saliency`: a suite, one attack, and the scores of saliency maps, on one or several models."""

from __future__ import annotations

from pathlib import Path
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

    Example: robench eval MODEL --suite autoattack --n 100
    """
    from robench.cli.jobs import Job, suite_and_title
    from robench.cli.measure import run_job

    entries, title = suite_and_title(suite or ["autoattack"])
    run_job(models, Job("eval", title, entries, examine=True), common, attacking)


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


@with_option_groups
def saliency_command(
    models: o.ModelArguments,
    common: CommonOptions,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="NAME[,option=value,...], several by commas or repeated: see 'robench list methods'. Default: saliency."
        ),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            "--score",
            help="A score or a group (maps, masks, trust, jacobian, all); several by commas or repeated: see 'robench list scores'.",
        ),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="The logit that is explained: true, predicted, or the number of a class.")
    ] = "true",
    channels: Annotated[
        str, typer.Option("--channels", help="Sizes of a pixel's channels: none (every subpixel counts), or their sum, max or mean.")
    ] = "none",
    block: Annotated[
        int | None, typer.Option("--block", min=1, help="Side of the blocks that perturbation methods cover, in pixels. Default: 4.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", help="Layer of Grad-CAM. Default: the last convolution, unless layers of tokens follow it.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", help="An attack, probe or corruption (NAME,severity=3) of the same images; several by commas or repeated."
        ),
    ] = None,
    join: Annotated[
        list[Path] | None,
        typer.Option(
            "--join", metavar="DIR", help="Results folder of 'robench eval' on these images, one a model; several by commas or repeated."
        ),
    ] = None,
    inductive: Annotated[bool, typer.Option("--inductive", help="Also run the suite inductive: noise and occlusion.")] = False,
    norm: o.Norm = None,
    eps: o.OneRadius = None,
    save: Annotated[bool, typer.Option("--save", help="Write the maps of the clean images to maps-MODEL-METHOD.npy.")] = False,
) -> None:
    """Scores saliency maps: how unequal they are, whether they can be trusted, and how that goes with robustness.

    Example: robench saliency STANDARD.pt ROBUST.pt --method saliency --method integrated-gradients --against pgd-20 --eps 2/255
    """
    from dataclasses import replace

    from robench.cli.jobs import Job, refuse_unused_radius
    from robench.cli.measure import run_job
    from robench.core.recipes import parse_recipe, split_recipes
    from robench.evaluation.methods import chosen_methods

    others = [parse_recipe(sentence) for sentence in split_recipes(against or [])]
    methods = [replace(one, kind="method") for one in chosen_methods(split_recipes(method or ["saliency"]), block=block, layer=layer)]
    job = Job(
        "saliency", "saliency", [*methods, *(["inductive"] if inductive else [])], against=others, join=o.split_paths(join),
        scores=split_recipes(score or ["maps", "masks"]), target=target, channels=channels, save=save,
    )  # fmt: skip
    refuse_unused_radius(job, norm, eps)
    run_job(models, job, common, AttackOptions(norm=norm, eps=None if eps is None else o.Radii((eps,))))
