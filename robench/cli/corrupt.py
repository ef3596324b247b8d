"""`robench corrupt`: accuracy under common corruptions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench.cli import options as o
from robench.cli.common import CommonOptions, with_option_groups


@with_option_groups
def corrupt_command(
    common: CommonOptions,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL...]", help="Checkpoints, weights with --arch, file.py:factory, ...; none to export images alone."),
    ] = None,
    corruption: Annotated[
        list[str] | None,
        typer.Option(
            "--corruption",
            help="NAME[,severity=3], fifteen, nineteen, noise or file.py:function; several by commas or repeated: "
            "see 'robench list corruptions'.",
        ),
    ] = None,
    severity: Annotated[
        o.Severities | None,
        typer.Option("--severity", parser=o.parse_severities, metavar="S[,S...]", help="Severities. Default: 1,2,3,4,5."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="A set on the disk, such as CIFAR-10-C or ImageNet-C, instead of images made here."),
    ] = None,
    scale: o.Scale = "auto",
    frost_dir: o.FrostDir = None,
    save: Annotated[bool, typer.Option("--save", help="Write the corrupted images to x-NAME-SEVERITY.npy, as floats.")] = False,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="MODEL|alexnet", help="The model by whose errors the others' are divided (mCE)."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Write the images made here into DIR in the layout of CIFAR-10-C.")
    ] = None,
) -> None:
    """Measures accuracy under common corruptions, made here or read from a released set; or only writes the images.

    Example: robench corrupt MODEL --corruption nineteen --reference STANDARD.pt
    """
    from robench.cli.corrupting import CorruptOptions, run_corrupt
    from robench.core.recipes import split_recipes
    from robench.evaluation.corruption_sources import corruption_recipes

    chosen = corruption_recipes(split_recipes(corruption or ["fifteen"]))
    wanted = CorruptOptions(
        chosen, severity.values if severity else (1, 2, 3, 4, 5), bool(corruption), bool(severity), source, scale, str(frost_dir or ""),
        reference, export, save,
    )  # fmt: skip
    run_corrupt(models or [], wanted, common)
