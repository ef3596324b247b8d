"""`robench eval`: a suite of attacks, in a cascade."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as o
from robench.cli.console import refuse


def evaluate(
    models: o.Models,
    suite: Annotated[str, typer.Option("--suite", help="Suite of attacks: see 'robench list suites'.")] = "autoattack",
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
    """Evaluates a model with a suite of attacks, each on the images that still stand; or one or several with the suite inductive.

    Prints the accuracy that is left after each attack; writes rows.csv, samples.csv, manifest.json and pictures.
    """
    from robench.cli.measuring import run, single, subject
    from robench.cli.probing import run_probes
    from robench.plans import resolvable
    from robench.suites import of_probes, recipes

    chosen = recipes(suite, norm or "linf")
    probes = of_probes(chosen)
    if probes:
        refuse(
            suite,
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
        resolvable(chosen, engine)
    what = subject(
        models, norm, eps.values if eps else None, data=data, data_dir=data_dir, download=download, split=split, image_size=image_size, n=n,
        shuffle=shuffle, indices=indices, resize=resize, layout=layout, class_order=class_order, classes=classes,
        seed=seed, device=device, threads=threads, quiet=quiet, arch=arch, activation=activation,
        weights=weights, mean=mean and mean.values, std=std and std.values, trust=trust,
    )  # fmt: skip
    if probes:
        run_probes(
            what,
            chosen,
            suite,
            out,
            quiet=quiet,
            strict=strict,
            seed=seed,
            batch_size=batch_size,
            resume=resume,
            force=force,
            command="eval",
        )
        return
    run(
        single(what, f"suite {suite!r}"), suite, suite, out, quiet=quiet, strict=strict, save=save,
        save_png=save_png, seed=seed, batch_size=batch_size,
        engine=engine, precision=precision, compiled=compiled, until=until, resume=resume, force=force, command="eval", examine=True,
    )  # fmt: skip
