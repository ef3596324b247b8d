"""`robench train`: trains a network and saves it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from robench.cli import options as o
from robench.cli.calls import is_written, repetition_entries
from robench.core.errors import InputError
from robench.core.interrupts import interruption_exit_code

if TYPE_CHECKING:
    from robench.training.types import Trained

# The options that stand for a key of a preset; what is not given is left to the preset.
Text: TypeAlias = str | None
Whole: TypeAlias = int | None
Real: TypeAlias = float | None


def train_command(
    data: Annotated[str, typer.Option("--data", help="Data set: see 'robench list data', or your own file.py:function.")] = "shapes",
    data_dir: o.DataDir = None,
    download: o.Download = False,
    image_size: o.ImageSize = None,
    resize: o.Resize = None,
    interpolation: o.Interpolation = None,
    pixels: o.PixelPlace = "auto",
    workers: o.DecodingWorkers = None,
    skip_damaged: o.SkipDamaged = False,
    layout: o.Layout = None,
    n_train: Annotated[
        Whole, typer.Option("--n-train", min=1, help="Take N images only, the same share of each class; --held-out comes out of them.")
    ] = None,
    preset: Annotated[
        Text, typer.Option("--preset", help="Training setting: see 'robench list presets'. Default: one for small data.")
    ] = None,
    objective: Annotated[Text, typer.Option("--objective", help="NAME[,option=value,...]: see 'robench list objectives'.")] = None,
    reg: Annotated[
        list[str] | None, typer.Option("--reg", help="NAME[=WEIGHT][,option=value,...] or file.py:function; several by commas or repeated.")
    ] = None,
    arch: Annotated[Text, typer.Option("--arch", help="Architecture: see 'robench list models'.")] = None,
    activation: Annotated[Text, typer.Option("--activation", help="relu, silu, gelu or softplus.")] = None,
    normalize: Annotated[Text, typer.Option("--normalize", help="data (mean and spread of the training images) or none.")] = None,
    mean: Annotated[
        o.Channels | None,
        typer.Option("--mean", parser=o.parse_channels, metavar="M,M,M", help="With --std: normalise so, not by --normalize."),
    ] = None,
    std: Annotated[
        o.Channels | None,
        typer.Option("--std", parser=o.parse_channels, metavar="S,S,S", help="With --mean: normalise so, not by --normalize."),
    ] = None,
    norm: Annotated[Text, typer.Option("--norm", help="Norm of the threat: linf, l2 or l1.")] = None,
    eps: Annotated[Real, typer.Option("--eps", parser=o.parse_eps, metavar="EPS", help="Radius of the threat, such as 8/255.")] = None,
    epochs: Annotated[Whole, typer.Option("--epochs", min=1)] = None,
    batch_size: Annotated[Whole, typer.Option("--batch-size", min=1)] = None,
    accumulate: Annotated[
        Whole,
        typer.Option("--accumulate", min=1, help="The images of a step go through the network in N parts: less memory, the same step."),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", help="Checkpoint to learn from, for igd and hat. Default: one is trained first and kept.")
    ] = None,
    optimizer: Annotated[Text, typer.Option("--optimizer", help="sgd or adamw.")] = None,
    lr: Annotated[Real, typer.Option("--lr", help="Top learning rate.")] = None,
    momentum: Annotated[Real, typer.Option("--momentum", help="Momentum of sgd, beta1 of adamw.")] = None,
    nesterov: Annotated[
        bool | None, typer.Option("--nesterov/--no-nesterov", help="Whether the momentum of sgd is Nesterov's. Default: the preset's.")
    ] = None,
    weight_decay: Annotated[Real, typer.Option("--weight-decay")] = None,
    schedule: Annotated[
        Text, typer.Option("--schedule", help="constant, piecewise, milestones, cyclic, one-cycle, cosine or plateau.")
    ] = None,
    augment: Annotated[
        Text,
        typer.Option(
            "--augment", help="none, crop, flip, crop-flip, cutout, crop-flip-cutout, random-resized-crop or rand-augment,n=2,m=9."
        ),
    ] = None,
    mixup: Annotated[Real, typer.Option("--mixup", help="Mixes pairs of images: alpha of the Beta distribution; 0 for none.")] = None,
    cutmix: Annotated[Real, typer.Option("--cutmix", help="Puts a box of one image into another: alpha; 0 for none.")] = None,
    awp: Annotated[Real, typer.Option("--awp", help="Adversarial weight perturbation of this relative size; 0 for none.")] = None,
    awp_warmup: Annotated[Real, typer.Option("--awp-warmup", help="Share of the training before it begins.")] = None,
    ema: Annotated[Real, typer.Option("--ema", help="Decay of the average of the weights; 0 for none.")] = None,
    extra: Annotated[
        Text, typer.Option("--extra", help="Data set whose images take part in every batch, such as npz:FILE,share=0.7.")
    ] = None,
    swa: Annotated[
        Real, typer.Option("--swa", help="Share of the training from which on weights at epoch ends are averaged, all alike; 0 for none.")
    ] = None,
    label_smoothing: Annotated[Real, typer.Option("--label-smoothing")] = None,
    precision: Annotated[Text, typer.Option("--precision", help="fp32, tf32 or bf16 (autocast).")] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="The adversary's passes go through torch.compile; the loss's too where no --reg is given.")
    ] = False,
    guard: Annotated[
        Text, typer.Option("--guard", help="Where the loss diverges or single-step training collapses: stop, roll-back or off.")
    ] = None,
    init: Annotated[
        Text,
        typer.Option(
            "--init", metavar="MODEL", help="Weights to begin with: a checkpoint, a file of weights of --arch, tv/NAME,weights=DEFAULT."
        ),
    ] = None,
    weights: Annotated[
        Text, typer.Option("--weights", metavar="KEY", help="Which set of weights of --init, where its file holds several.")
    ] = None,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Begin with a last layer of random weights, as another number of classes needs it.")
    ] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Unpickle a whole model in --init, which runs code from its file.")] = False,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            "--freeze", metavar="PREFIX", help="Parameters that stay as they are, by the begin of their names; several by commas."
        ),
    ] = None,
    held_out: Annotated[
        Real,
        typer.Option(
            "--held-out",
            parser=o.parse_count_or_share,
            metavar="N|SHARE",
            help="Training images that are held out to choose the epoch by. Default: the preset's number, at most a fifth of them.",
        ),
    ] = None,
    select: Annotated[str, typer.Option("--select", help="best (on the held-out images: docs/training.md) or last.")] = "best",
    suite: Annotated[str, typer.Option("--suite", help="What is run at the end: a suite, or attacks joined by +.")] = "pgd-20+apgd-ce",
    measure: Annotated[
        Text, typer.Option("--measure", help="Images that are measured at the end: test or held-out. Default: test, of a sweep held-out.")
    ] = None,
    sweep: Annotated[
        Text, typer.Option("--sweep", help="Grid of trainings: KEY=VALUE:VALUE,KEY=..., lambda is the weight of --reg. --out is a folder.")
    ] = None,
    on: o.OnCluster = None,
    gpus_each: o.GpusEach = None,
    eval_n: Annotated[int, typer.Option("--eval-n", min=1, help="How many of them are attacked: the first ones.")] = 300,
    seed: o.Seed = 0,
    seeds: Annotated[
        o.SeedList | None,
        typer.Option(
            "--seeds",
            parser=o.parse_seeds,
            metavar="S,S,S",
            help="Train one network for each of these seeds, FILE-seed0.pt, ..., and show mean and standard deviation. In place of --seed.",
        ),
    ] = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The checkpoint, FILE.pt. Default: checkpoints/<data>-<arch>-<loss>.pt, the next that is free."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the unfinished training of --out, or show the finished one. Default: the newest of these words."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the training, or the sweep, in --out, once the new one is whole.")
    ] = False,
    log: o.LogOption = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Only say what it will cost, from a few real steps: passes, time, memory, disk. Needs no data. Writes nothing."
        ),
    ] = False,
    quiet: o.Quiet = False,
) -> None:
    """Trains a network and writes a checkpoint with a JSON, a log as CSV and its curves beside it.

    Example: robench train --reg sagr=0.1,rho=0.3 --epochs 5

    Example: robench train --objective pgd-at --seeds 0,1,2 --out s.pt
    """
    from robench.cli.console import training_progress
    from robench.cli.loading import set_up_device
    from robench.cli.sweeping import print_planned_training, sweep_with_seeds, train_each_seed, train_sweep
    from robench.core.clusters import engine_of_options
    from robench.core.processes import join_world
    from robench.core.recipes import split_recipes

    overrides: dict[str, Any] = {
        "objective": objective, "reg": reg and tuple(split_recipes(reg)), "arch": arch, "activation": activation, "normalize": normalize,
        "norm": norm, "eps": eps, "epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "lr": lr, "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay, "schedule": schedule, "augment": augment, "ema": ema, "label_smoothing": label_smoothing,
        "held_out": held_out, "mixup": mixup, "cutmix": cutmix, "awp": awp, "awp_warmup": awp_warmup, "precision": precision,
        "compiled": compiled or None, "guard": guard, "freeze": freeze or None,
        "accumulate": accumulate, "swa": swa, "extra": extra,
    }  # fmt: skip
    if mean is not None or std is not None:
        from robench.training.settings import overrides_with_normalisation

        overrides = overrides_with_normalisation({**overrides, "mean": mean and mean.values, "std": std and std.values})
    if seeds is not None and is_written("seed"):
        raise InputError("--seeds are the seeds of the trainings: leave --seed out")
    begin = time.perf_counter()
    if force and (out is None or (sweep is None and out.suffix not in (".pt", ".pth"))):
        raise InputError(
            "which training is --force to replace? Pass its file with --out" + ("" if out is None else f", FILE.pt, not {out}")
        )
    engine = engine_of_options(on, gpus_each, threads, device)
    if engine is not None and sweep is None:
        raise InputError("--on runs the cells of a sweep on a cluster: pass --sweep, or start one training with torchrun (docs/cluster.md)")
    with join_world() as world, exit_on_interrupt(force):
        from robench.report.manifest import machine_entries
        from robench.training.train import train as run

        words: dict[str, Any] = {
            "data": data, "preset": preset, "data_dir": data_dir, "download": download, "image_size": image_size,
            "resize": resize, "interpolation": interpolation, "pixels": pixels, "workers": workers, "skip_damaged": skip_damaged,
            "layout": layout,
            "n_train": n_train,
            "eval_n": eval_n, "suite": suite_or_recipes(suite), "measure": measure or ("held-out" if sweep else "test"), "seed": seed,
            "device": set_up_device(device, None if engine else threads),
            "out": out, "select": select, "teacher": teacher, "resume": resume,
            "force": force, "log": log, "init": init, "weights": weights, "new_head": new_head, "trust": trust,
            "watch": training_progress(quiet or world.rank > 0),
        }  # fmt: skip
        if plan:
            if world.rank == 0:
                print_planned_training(sweep, None if seeds is None else seeds.values, words, overrides, quiet)
            return
        if sweep is not None:
            train_sweep(
                sweep_with_seeds(sweep, None if seeds is None else seeds.values),
                run,
                words,
                overrides,
                suite=suite,
                measure=words["measure"],
                quiet=quiet,
                engine=engine,
            )
            return
        origin = {**repetition_entries(with_folder=False), **machine_entries(words["device"])}
        if seeds is not None:
            train_each_seed(seeds.values, run, {**words, "origin": origin}, overrides, quiet=quiet or world.rank > 0, shown=world.rank == 0)
            return
        trained = run(**{**words, "out": out or Path("checkpoints"), "origin": origin}, **overrides)
    if world.rank == 0:
        print_training_result(trained, time.perf_counter() - begin, quiet)
    if trained.meta["history"][-1].get("alarm"):
        raise typer.Exit(1)


def suite_or_recipes(words: str) -> Any:
    """The name of a suite as it is, or the recipes joined by +."""
    from robench.core.recipes import parse_recipe
    from robench.evaluation.suites import SUITES

    return words if words in SUITES else [parse_recipe(word) for word in words.split("+")]


@contextmanager
def exit_on_interrupt(force: bool) -> Iterator[None]:
    """Where a training is interrupted, says how it goes on and ends with exit code 130, or 143."""
    from robench.cli.console import print_to_stderr

    try:
        yield
    except KeyboardInterrupt as stop:
        print_to_stderr(f"Interrupted: go on with the same words and {'--force ' if force else ''}--resume")
        raise typer.Exit(interruption_exit_code(stop)) from None


def images_text(measure: dict[str, Any]) -> str:
    """The images of a measure with their split, where it is not in their name ("shapes held out") or was not kept."""
    return f"{measure['data']} {measure.get('split', '')}".rstrip()


def print_training_result(trained: Trained, seconds: float, quiet: bool) -> None:
    """Prints the accuracies that were measured at the end, and where the checkpoint lies."""
    from robench.cli.console import print_message, print_table, print_to_stderr
    from robench.core.recipes import eps_text
    from robench.report.tables import interval_text, percent

    meta: dict[str, Any] = trained.meta
    recipe, metrics = meta["recipe"], meta["metrics"]
    loss = " + ".join([recipe["objective"], *recipe["reg"]])
    lines = [
        (
            probe,
            f"{m['norm']} {eps_text(m['eps'])}" if m["norm"] else "",
            percent(m["accuracy"]),
            interval_text(m["low"], m["high"]),
            str(m["n"]),
        )
        for probe, m in [*((f"{probe}, before", m) for probe, m in meta.get("before", {}).items()), *metrics.items()]
    ]
    if trained.evaluation:  # else nothing was trained in these seconds
        lines.append(("seconds", "", f"{seconds:.1f}", "", ""))
    title = f"{meta['model']['arch']} on {meta['data']['name']}, {loss}, preset {meta['preset']}"
    title += f", {meta['data']['n']} image{'s' * (meta['data']['n'] != 1)} and {meta['data']['held_out']} held out"
    if quiet:
        title += f", {trained.path}"
    title += f", weights of epoch {recipe['epoch']} of {recipe['epochs']}, measured on {images_text(metrics['clean'])}"
    print_table(title, ("probe", "threat", "accuracy %", "95 % interval", "n"), lines, word_columns=2)
    for flag in meta.get("flags", ()):
        print_to_stderr(f"Flag: {flag}")
    print_message(f"Written: {trained.path}" if trained.evaluation else f"{trained.path} is finished, and nothing was changed", quiet)
