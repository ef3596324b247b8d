"""`robench saliency`: the audit of one or several models' saliency maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench.cli import options as o


def saliency(
    models: o.AnyModels,
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
    eps: o.OneRadius = None,
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
    save: Annotated[bool, typer.Option("--save", help="Write the maps of the clean images to maps-MODEL-METHOD.npy.")] = False,
    quiet: o.Quiet = False,
) -> None:
    """Audits saliency maps: how unequal they are, whether they can be trusted, and how that goes with robustness.

    Example: robench saliency STANDARD.pt ROBUST.pt --method saliency --method integrated-gradients --against pgd-20 --eps 2/255
    """
    from robench.altered import known
    from robench.auditing import chosen_methods
    from robench.cli.auditing import Wanted, refuse_idle_radius, run_audit
    from robench.cli.measuring import subject
    from robench.recipes import separate

    attacks = [known(sentence) for sentence in separate(against or [])]
    methods = chosen_methods(separate(method or ["saliency"]), block=block, layer=layer)
    refuse_idle_radius(attacks, norm, eps)
    what = subject(
        models, norm, None if eps is None else (eps,), data=data, data_dir=data_dir, download=download, split=split, image_size=image_size,
        n=n, shuffle=shuffle, indices=indices, resize=resize, layout=layout, class_order=class_order, classes=classes,
        seed=seed, device=device, threads=threads, quiet=quiet, arch=arch, activation=activation,
        weights=weights, mean=mean and mean.values, std=std and std.values, trust=trust,
    )  # fmt: skip
    wanted = Wanted(
        methods,
        separate(score or ["maps", "masks"]),
        target,
        channels,
        attacks,
        o.paths(join),
        inductive,
        seed,
        batch_size,
        save,
        quiet,
        resume,
        force,
    )
    run_audit(what, wanted, out)
