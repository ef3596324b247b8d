"""Trains a network: one loop for every objective and regulariser, selection on a held-out split, best and last weights kept."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench.data import Images, holdout
from robench.data import load as load_images
from robench.data.augment import AUGMENTATIONS
from robench.draws import Draws
from robench.errors import InputError
from robench.evaluation import Evaluation, evaluate
from robench.models import build, checkpoint
from robench.objectives import OBJECTIVES, Objective, Regularizer, penalised, regularizers_of
from robench.presets import PRESETS, default_preset
from robench.recipes import lookup, parse, resolve
from robench.schedules import SCHEDULES
from robench.threat import Threat
from robench.types import Batch
from robench.writing import prepare

State = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One step of the training: where it stands, of how many steps an epoch, its number of images, and the terms of the loss."""

    epoch: int
    step: int
    steps: int
    images: int
    terms: dict[str, float]


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean terms of the loss, accuracy on the held-out split (robust: PGD-10 on its first images), and the weights measured."""

    epoch: int
    seconds: float
    lr: float
    terms: dict[str, float]
    held_out_clean: float
    held_out_robust: float
    weights: State


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda weights, lr, momentum, weight_decay: torch.optim.SGD(
        weights, lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
    ),
    "adamw": lambda weights, lr, momentum, weight_decay: torch.optim.AdamW(weights, lr, (momentum, 0.999), weight_decay=weight_decay),
}


def fit(
    model: nn.Module,
    train: Images,
    held_out: Images,
    *,
    objective: Objective,
    regularizers: Mapping[str, Regularizer],
    threat: Threat,
    epochs: int,
    batch_size: int,
    optimizer: str,
    lr: float,
    momentum: float,
    weight_decay: float,
    schedule: str,
    augment: str,
    ema: float,
    label_smoothing: float,
    seed: int,
    probe_n: int,
) -> Iterator[Step | Epoch]:
    """Trains `model` in place and yields a Step after every step, an Epoch after every epoch.

    The held-out split is only measured. With ema > 0 the averaged weights are those that are measured and handed out.
    Raises InputError where the loss stops being finite. Same seed, same threads: same weights.
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    descent = lookup(optimizer, OPTIMIZERS, "optimizer")(weights, lr, momentum, weight_decay)
    rate = resolve(parse(schedule), SCHEDULES, "schedule")
    augmentation = lookup(augment, AUGMENTATIONS, "augmentation")
    loss_of = penalised(objective.loss, regularizers)
    average = copy.deepcopy(model).eval() if ema else model
    steps = max(1, len(train) // batch_size)
    for epoch in range(epochs):
        begin, sums = time.perf_counter(), dict[str, float]()
        for step, rows in enumerate(shuffled(len(train), steps, batch_size, seed, epoch)):
            done = epoch * steps + step
            progress = done / (epochs * steps)
            for group in descent.param_groups:
                group["lr"] = lr * rate(progress)
            ids = train.ids[rows]
            draws = Draws(seed, ids, "train").child(done)
            x, y = augmentation(train.pixels(rows), draws.child("augment")), train.y[rows]
            model.train()
            batch = Batch(x, y, x, x.new_empty(0), ids, progress, draws, label_smoothing, threat=threat)
            x_adv = objective.craft(model, batch).detach().requires_grad_(bool(regularizers))
            batch = replace(batch, x_adv=x_adv, logits=model(x_adv))
            loss, terms = loss_of(model, batch)
            descend(descent, loss, weights)
            if ema:
                follow(average, model, min(ema, (1 + done) / (10 + done)))
            numbers = {"loss": float(loss.detach()), **{name: float(term) for name, term in terms.items()}}
            guard(numbers, epoch, step)
            sums = {name: sums.get(name, 0.0) + number for name, number in numbers.items()}
            yield Step(epoch, step, steps, len(x), numbers)
        clean, robust = measure(average, held_out, threat, seed, probe_n)
        means = {name: total / steps for name, total in sums.items()}
        yield Epoch(epoch, time.perf_counter() - begin, lr * rate(progress), means, clean, robust, snapshot(average))


def shuffled(n: int, steps: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """The places of each batch of one epoch: a permutation drawn from (seed, epoch), the incomplete last batch left out."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(n, generator=generator)[: steps * batch_size]
    return tuple(torch.split(order, batch_size))


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, weights: Sequence[Tensor]) -> None:
    """One step down the gradient of the loss; gradients are taken to the weights only, not to the images."""
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss, inputs=list(weights))
    optimizer.step()


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves the average's weights a share 1 - decay towards the model's, and copies its buffers (batch norm's statistics)."""
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)


def guard(terms: Mapping[str, float], epoch: int, step: int) -> None:
    """InputError where a term of the loss is no longer a finite number."""
    lost = [name for name, term in terms.items() if not math.isfinite(term)]
    if lost:
        where = f"in epoch {epoch + 1}, step {step + 1}"
        raise InputError(f"the training diverged: {', '.join(lost)} became NaN or infinite {where}; lower --lr or the weights")


def measure(model: nn.Module, held_out: Images, threat: Threat, seed: int, probe_n: int) -> tuple[float, float]:
    """Clean accuracy on the held-out split, and PGD-10 accuracy on its first `probe_n` images; the model's flags stay as they are."""
    if len(held_out) == 0:
        return math.nan, math.nan
    device = str(held_out.x.device)
    clean = evaluate(model, held_out.x, held_out.y, suite=[], device=device).accuracy("clean")
    few = held_out.take(slice(0, probe_n))
    attacked = evaluate(
        model, few.x, few.y, suite=[parse("pgd-10")], norm=threat.norm, eps=threat.eps, ids=few.ids, seed=seed, device=device
    )
    return clean, attacked.accuracy("pgd-10")


def snapshot(model: nn.Module) -> State:
    """A copy of the weights and buffers on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class Trained:
    """What `train` returns: the network with its best weights, what the checkpoint holds beside them, and the checkpoint's path."""

    model: nn.Module
    meta: dict[str, Any]
    evaluation: list[Evaluation]
    path: Path | None


Events = Callable[[Iterator[Step | Epoch], int], Iterator[Step | Epoch]]


def train(
    data: str = "shapes",
    *,
    preset: str | None = None,
    data_dir: Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    n_train: int | None = None,
    eval_n: int = 300,
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
    select: str = "best",
    watch: Events = lambda events, epochs: events,  # noqa: ARG005
    **overrides: Any,
) -> Trained:
    """Trains a network on a named data set and saves it, with its settings and its measured accuracies.

    preset     a name of presets.PRESETS; by default the one for the shape of the images
    overrides  any key of a preset: arch, objective, reg, norm, eps, epochs, batch_size, lr, ...
    out        the checkpoint to write: FILE.pt, with FILE.json beside it, and FILE.last.pt (or FILE.best.pt, with select="last") where the
               last epoch was not the best; a folder gets a file named after data, architecture and method; None: nothing is written
    select     which weights become FILE.pt: "best" on the held-out split (robust accuracy for a defence, else clean accuracy), "last"
    watch      wraps the iterator of Step and Epoch, to show progress
    """
    if select not in ("best", "last"):
        raise InputError(f"select is 'best' or 'last', not {select!r}")
    images = load_images(data, "train", data_dir=data_dir, download=download, image_size=image_size, n=n_train, seed=seed)
    test = load_images(data, "test", data_dir=data_dir, download=download, image_size=image_size)
    preset = preset or default_preset(images.shape)
    settings = settled(preset, overrides)
    out = destination(out, settings, images.name)
    threat = Threat(settings["norm"], settings["eps"])
    objective = resolve(parse(settings["objective"]), OBJECTIVES, "objective")()
    regularizers = regularizers_of(settings["reg"])
    training, held_out = holdout(images, settings["held_out"], seed)
    if test.split == "all":
        test = unsplit(held_out)
    if len(training) < settings["batch_size"]:
        raise InputError(
            f"{len(training)} training images are fewer than one batch of {settings['batch_size']}: lower --batch-size or --held-out"
        )
    model, about = network(settings, training, seed)
    model.to(device)
    events = fit(
        model, training.to(device), held_out.to(device), objective=objective, regularizers=regularizers, threat=threat, seed=seed,
        **{key: settings[key] for key in FIT},
    )  # fmt: skip
    defended = bool(regularizers) or parse(settings["objective"]).name != "standard"
    history, best, last = selected(watch(events, settings["epochs"]), defended)
    chosen = best if select == "best" else last
    model.load_state_dict(chosen.weights)
    found = [
        evaluate(model, test.x, test.y, suite=[], device=device),
        evaluate(
            model, test.x[:eval_n], test.y[:eval_n], ids=test.ids[:eval_n], suite=[parse("pgd-20"), parse("apgd-ce")], norm=threat.norm,
            eps=threat.eps, seed=seed, device=device,
        ),
    ]  # fmt: skip
    meta = {
        "model": about,
        "data": {"name": images.name, "n": len(training), "held_out": len(held_out), "sha256": images.sha256},
        "preset": preset,
        "recipe": {**settings, "reg": list(settings["reg"]), "seed": seed, "select": select, "epoch": chosen.epoch + 1},
        "metrics": metrics(found, test.name),
        "history": history,
    }
    return Trained(model, meta, found, keep(out, model, meta, chosen, {"best": best, "last": last}))


def unsplit(held_out: Images) -> Images:
    """The held-out images in place of a test split that the source does not have; InputError where none are held out."""
    if len(held_out) == 0:
        raise InputError(f"{held_out.name} has no test split: hold out images to measure on with --held-out N")
    return replace(held_out, name=f"{held_out.name} held out")


FIT = (
    "epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "schedule", "augment", "ema", "label_smoothing", "probe_n",
)  # fmt: skip
POSITIVE = ("epochs", "batch_size", "lr", "probe_n")


def settled(preset: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's settings with the user's on top; InputError for unknown keys and for numbers that cannot be."""
    settings = dict(lookup(preset, PRESETS, "preset"))
    for key, value in overrides.items():
        lookup(key, settings, "training option")
        if value is not None:
            settings[key] = value
    wrong = [f"{key} {settings[key]}" for key in POSITIVE if not settings[key] > 0]
    wrong += [f"{key} {settings[key]}" for key in ("ema", "label_smoothing") if not 0 <= settings[key] < 1]
    wrong += [f"{key} {settings[key]}" for key in ("held_out", "weight_decay", "momentum") if not settings[key] >= 0]
    if wrong:
        raise InputError(f"out of range: {', '.join(wrong)}")
    return settings


def destination(out: Path | None, settings: Mapping[str, Any], data: str) -> Path | None:
    """The checkpoint's path, in a folder known to be writable; named after data, architecture and method where `out` is a folder."""
    if out is None:
        return None
    if out.suffix not in (".pt", ".pth"):
        method = "-".join(parse(sentence).label.removesuffix(".py") for sentence in (settings["reg"] or (settings["objective"],)))
        out = out / ("-".join([data, settings["arch"], method]).replace(":", "-").replace("/", "-") + ".pt")
    prepare(out.parent)
    return out


def network(settings: Mapping[str, Any], images: Images, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """A network with weights drawn from the seed, and the description from which a checkpoint rebuilds it."""
    if settings["normalize"] not in ("none", "data"):
        raise InputError(f"normalize is 'none' or 'data' (mean and spread of the training images), not {settings['normalize']!r}")
    some = images.pixels(torch.arange(min(len(images), 5000)))
    scaled = settings["normalize"] == "data"
    about = {
        "arch": settings["arch"],
        "classes": len(images.classes),
        "shape": list(images.shape),
        "activation": settings["activation"],
        "mean": [round(number, 4) for number in some.mean((0, 2, 3)).tolist()] if scaled else None,
        "std": [round(number, 4) for number in some.std((0, 2, 3)).clamp_min(1e-3).tolist()] if scaled else None,
    }
    arguments: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in about.items() if key != "arch"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(settings["arch"], **arguments), about


def selected(events: Iterator[Step | Epoch], defended: bool) -> tuple[list[dict[str, Any]], Epoch, Epoch]:
    """Runs the training; returns its records, the best epoch on the held-out split and the last one. Other weights are not kept.

    Best is the highest robust accuracy for a defence, the highest clean accuracy otherwise; of equals the later one.
    """
    history: list[dict[str, Any]] = []
    best = last = None
    for event in events:
        if isinstance(event, Epoch):
            history.append({key: value for key, value in vars(event).items() if key != "weights"})
            last = event
            best = event if best is None or rank(event, defended) >= rank(best, defended) else best
    if best is None or last is None:
        raise InputError("nothing was trained: the run has no epoch")
    return history, best, last


def rank(epoch: Epoch, defended: bool) -> tuple[float, float]:
    """What epochs are compared by; equal for all where nothing is held out."""
    held = (epoch.held_out_robust, epoch.held_out_clean) if defended else (epoch.held_out_clean, epoch.held_out_robust)
    return (0.0, 0.0) if math.isnan(held[0]) else held


def metrics(found: Sequence[Evaluation], data: str) -> dict[str, Any]:
    """The measured accuracies with interval and n; the larger clean measurement counts."""
    rows = [row for evaluation in reversed(found) for row in evaluation.rows if row.metric == "accuracy"]
    return {
        row.probe: {"accuracy": row.value, "low": row.low, "high": row.high, "n": row.n, "norm": row.norm, "eps": row.eps, "data": data}
        for row in rows
    }


def keep(out: Path | None, model: nn.Module, meta: dict[str, Any], chosen: Epoch, others: Mapping[str, Epoch]) -> Path | None:
    """Writes the chosen weights to `out`, and those of `others` that are not the same to FILE.<name>.pt; returns `out`.

    A file of that name that an earlier run left is removed where this run has none, so that the files of one name belong to one run.
    """
    if out is None:
        return None
    for name, epoch in others.items():
        beside = out.with_name(f"{out.stem}.{name}{out.suffix}")
        if epoch is chosen:
            beside.unlink(missing_ok=True)
            beside.with_suffix(".json").unlink(missing_ok=True)
            continue
        other = copy.deepcopy(model)
        other.load_state_dict(epoch.weights)
        checkpoint.save(beside, other, {**meta, "metrics": {}, "recipe": {**meta["recipe"], "select": name, "epoch": epoch.epoch + 1}})
    checkpoint.save(out, model, meta)
    return out
