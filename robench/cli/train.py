"""`robench train`: trains a network and saves it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from robench.cli import options as o

if TYPE_CHECKING:
    from robench.training import Trained

# The options that stand for a key of a preset; what is not given is left to the preset.
Text: TypeAlias = str | None
Whole: TypeAlias = int | None
Real: TypeAlias = float | None


def train(
    data: Annotated[str, typer.Option("--data", help="Data set: see 'robench list data'.")] = "shapes",
    data_dir: o.DataDir = None,
    download: o.Download = False,
    image_size: o.ImageSize = None,
    n_train: Annotated[Whole, typer.Option("--n-train", min=1, help="Train on the first N images only.")] = None,
    preset: Annotated[
        Text, typer.Option("--preset", help="Training setting: see 'robench list presets'. Default: one for small data.")
    ] = None,
    objective: Annotated[Text, typer.Option("--objective", help="NAME[,option=value,...]: see 'robench list objectives'.")] = None,
    reg: Annotated[
        list[str] | None, typer.Option("--reg", help="NAME[=WEIGHT][,option=value,...] or file.py:function; may be repeated.")
    ] = None,
    arch: Annotated[Text, typer.Option("--arch", help="Architecture: see 'robench list models'.")] = None,
    activation: Annotated[Text, typer.Option("--activation", help="relu, silu, gelu or softplus.")] = None,
    normalize: Annotated[Text, typer.Option("--normalize", help="data (mean and spread of the training images) or none.")] = None,
    norm: Annotated[Text, typer.Option("--norm", help="Norm of the threat: linf, l2 or l1.")] = None,
    eps: Annotated[Real, typer.Option("--eps", parser=o.eps_of, metavar="EPS", help="Radius of the threat, such as 8/255.")] = None,
    epochs: Annotated[Whole, typer.Option("--epochs", min=1)] = None,
    batch_size: Annotated[Whole, typer.Option("--batch-size", min=1)] = None,
    optimizer: Annotated[Text, typer.Option("--optimizer", help="sgd or adamw.")] = None,
    lr: Annotated[Real, typer.Option("--lr", help="Top learning rate.")] = None,
    momentum: Annotated[Real, typer.Option("--momentum", help="Momentum of sgd, beta1 of adamw.")] = None,
    weight_decay: Annotated[Real, typer.Option("--weight-decay")] = None,
    schedule: Annotated[Text, typer.Option("--schedule", help="constant, piecewise, cyclic, one-cycle or cosine, with options.")] = None,
    augment: Annotated[Text, typer.Option("--augment", help="none, crop, flip or crop-flip.")] = None,
    ema: Annotated[Real, typer.Option("--ema", help="Decay of the average of the weights; 0 for none.")] = None,
    label_smoothing: Annotated[Real, typer.Option("--label-smoothing")] = None,
    held_out: Annotated[Whole, typer.Option("--held-out", min=0, help="Training images held out for the selection of the epoch.")] = None,
    select: Annotated[str, typer.Option("--select", help="best (on the held-out images) or last.")] = "best",
    eval_n: Annotated[int, typer.Option("--eval-n", min=1, help="Test images that are attacked at the end.")] = 300,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    threads: o.Threads = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The checkpoint, FILE.pt. Default: checkpoints/<data>-<arch>-<method>.pt.")
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Trains a network and writes a checkpoint with a JSON beside it.

    Example: robench train --reg sagr=0.1,rho=0.3 --epochs 5
    """
    from robench.cli.console import training_progress
    from robench.cli.measuring import device_of

    given = {
        "objective": objective, "reg": None if reg is None else tuple(reg), "arch": arch, "activation": activation, "normalize": normalize,
        "norm": norm, "eps": eps, "epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "lr": lr, "momentum": momentum,
        "weight_decay": weight_decay, "schedule": schedule, "augment": augment, "ema": ema, "label_smoothing": label_smoothing,
        "held_out": held_out,
    }  # fmt: skip
    from robench.training import train as run

    begin = time.perf_counter()
    trained = run(
        data, preset=preset, data_dir=data_dir, download=download, image_size=image_size, n_train=n_train, eval_n=eval_n, seed=seed,
        device=device_of(device, threads), out=out or Path("checkpoints"), select=select, watch=training_progress(quiet), **given,
    )  # fmt: skip
    show_result(trained, time.perf_counter() - begin, quiet)


def show_result(trained: Trained, seconds: float, quiet: bool) -> None:
    """Prints the accuracies that were measured at the end, and where the checkpoint lies."""
    from robench.cli.console import interval, message, percent, show
    from robench.cli.measuring import eps_text

    meta: dict[str, Any] = trained.meta
    recipe, metrics = meta["recipe"], meta["metrics"]
    method = " + ".join([recipe["objective"], *recipe["reg"]])
    lines = [
        (
            probe,
            f"{m['norm']} {eps_text(m['eps'])}" if m["norm"] else "",
            percent(m["accuracy"]),
            interval(m["low"], m["high"]),
            str(m["n"]),
        )
        for probe, m in metrics.items()
    ]
    lines.append(("seconds", "", f"{seconds:.1f}", "", ""))
    title = f"{meta['model']['arch']} on {meta['data']['name']}, {method}, preset {meta['preset']}"
    title += f", weights of epoch {recipe['epoch']} of {recipe['epochs']}, measured on {metrics['clean']['data']}"
    show(title, ("probe", "threat", "accuracy %", "95 % interval", "n"), lines, left=2)
    message(f"Written: {trained.path}", quiet)
