"""`robench corrupt`: accuracy under common corruptions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench.cli import options as o


def corrupt(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL...]", help="Checkpoints, weights with --arch, file.py:factory, ...; none to export images alone."),
    ] = None,
    corruption: Annotated[
        list[str] | None,
        typer.Option(
            "--corruption", help="A corruption, fifteen, nineteen or noise; several by commas or repeated: see 'robench list corruptions'."
        ),
    ] = None,
    severity: Annotated[
        o.Severities | None,
        typer.Option("--severity", parser=o.severities_of, metavar="S[,S...]", help="Severities. Default: 1,2,3,4,5."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="A set on the disk, such as CIFAR-10-C or ImageNet-C, instead of images made here."),
    ] = None,
    scale: Annotated[str, typer.Option("--scale", help="Severities of cifar or imagenet. Default: by the size of the images.")] = "auto",
    frost_dir: Annotated[
        Path | None, typer.Option("--frost-dir", metavar="DIR", help="Photos of frost. Default: a texture drawn here.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="MODEL|alexnet", help="The model by whose errors the others' are divided (mCE)."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Write the images made here into DIR in the layout of CIFAR-10-C.")
    ] = None,
    data: o.Data = None,
    data_dir: o.DataDir = None,
    download: o.Download = False,
    split: o.Split = "test",
    image_size: o.ImageSize = None,
    resize: o.Resize = None,
    layout: o.Layout = None,
    class_order: o.ClassOrder = None,
    classes: o.Classes = None,
    n: o.N = None,
    shuffle: o.Shuffle = False,
    indices: o.Indices = None,
    seed: o.Seed = 0,
    batch_size: o.BatchSize = None,
    arch: o.Arch = None,
    activation: o.Activation = None,
    weights: o.Weights = None,
    mean: o.Mean = None,
    std: o.Std = None,
    trust: o.Trust = False,
    device: o.Device = "auto",
    threads: o.Threads = None,
    out: o.Out = None,
    resume: o.Resume = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the run in --out, and a set made otherwise in --export, once the new one is whole.")
    ] = False,
    quiet: o.Quiet = False,
) -> None:
    """Measures accuracy under common corruptions, made here or read from a released set; or only writes the images.

    Example: robench corrupt MODEL --corruption nineteen --reference STANDARD.pt
    """
    from robench.cli.corrupting import Wanted, run_corrupt
    from robench.corrupting import named
    from robench.recipes import separate

    chosen = named(separate(corruption or ["fifteen"]))
    wanted = Wanted(
        chosen, severity.values if severity else (1, 2, 3, 4, 5), bool(corruption), bool(severity), source, scale,
        str(frost_dir or ""), reference, export, seed, batch_size, resume, force, quiet,
    )  # fmt: skip
    run_corrupt(
        models or [], wanted, out, data=data, data_dir=data_dir, download=download, split=split, image_size=image_size, n=n,
        shuffle=shuffle, indices=indices, resize=resize, layout=layout, class_order=class_order, classes=classes,
        device=device, threads=threads, arch=arch, activation=activation,
        weights=weights, mean=mean and mean.values, std=std and std.values, trust=trust,
    )  # fmt: skip
