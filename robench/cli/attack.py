"""`robench attack`: one attack, alone."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as o
from robench.cli.console import refuse


def attack(
    models: o.Models,
    recipe: Annotated[
        str, typer.Option("--attack", help="NAME[,option=value,...], transfer:OTHER.pt or file.py:function: see 'robench list attacks'.")
    ] = "pgd-20",
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
    norm: o.Norm = None,
    eps: o.Radius = None,
    until: o.Until = None,
    engine: o.Engine = "robench",
    precision: o.Precision = "fp32",
    compiled: o.Compile = False,
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
    force: o.Force = False,
    save: o.Save = False,
    save_png: o.SavePng = False,
    strict: o.Strict = False,
    quiet: o.Quiet = False,
) -> None:
    """Attacks a model with one attack, on the images it gets right; or one or several models with a probe such as inductive-noise.

    Example: robench attack MODEL --attack pgd,steps=50,restarts=10,loss=margin --eps 2/255,4/255,8/255
    """
    from robench.cli.measuring import run, single, subject
    from robench.cli.probing import run_probes
    from robench.plans import resolvable
    from robench.recipes import parse
    from robench.suites import of_probes

    chosen = parse(recipe)
    probes = of_probes([chosen])
    if probes:
        refuse(
            chosen.label,
            norm=norm,
            eps=eps,
            until=until,
            engine=engine,
            precision=precision,
            compile=compiled,
            save=save,
            **{"save-png": save_png},
        )
    else:
        resolvable([chosen], engine)
    what = subject(
        models, norm, eps.values if eps else None, data=data, data_dir=data_dir, download=download, split=split, image_size=image_size, n=n,
        shuffle=shuffle, indices=indices, resize=resize, layout=layout, class_order=class_order, classes=classes,
        seed=seed, device=device, threads=threads, quiet=quiet, arch=arch, activation=activation,
        weights=weights, mean=mean and mean.values, std=std and std.values, trust=trust,
    )  # fmt: skip
    if probes:
        run_probes(
            what,
            [chosen],
            chosen.label,
            out,
            quiet=quiet,
            strict=strict,
            seed=seed,
            batch_size=batch_size,
            resume=resume,
            force=force,
            command="attack",
        )
        return
    run(
        single(what, f"attack {chosen.label!r}"), [chosen], chosen.label, out, quiet=quiet, strict=strict, save=save,
        save_png=save_png, seed=seed,
        batch_size=batch_size, engine=engine, precision=precision, compiled=compiled, until=until, resume=resume, force=force,
        command="attack",
    )  # fmt: skip
