"""Every training method on one small network: the table of the training methods in docs/results.md.

    python tests/benchmarks/method_study.py --out DIR --threads 1
    python tests/benchmarks/method_study.py --out DIR --only trades mart --seeds 0 1 2
    python tests/benchmarks/method_study.py --out DIR --table

All methods share the network, the data, the optimiser, the number of steps and the threat (SHARED), and their adversaries of several steps
make 5 of length eps / 2 in place of the papers' 10, which takes half the time (our choice; the columns hold for these settings alone). The
weights are the papers' where these carry over; those of penalties without an adversary were chosen on the held-out images (the sweeps of
docs/results.md), others are a first guess, as their lines say. None was chosen on the test images. The last epoch is measured: the rate
has fallen to 0 by then, and a choice on 200 held-out images would add noise.

A network is kept as DIR/METHOD-sSEED.pt; when it is measured, its line is added to DIR/rows.csv, whole and through to the disk. A study
that was killed goes on where it stopped: a line that is there is not made again, a training under way is taken up. A method that this
robench does not know yet is skipped with a sentence. AutoAttack
comes at the end, into autoattack.csv, or in a second process, `--autoattack alone`, which attacks what is trained already.

The 54 networks are about 70 minutes of one core, of which AutoAttack, which comes last and may be cut short, is some 12.

The order: seed 0 of the eight methods that matter most (FIRST), seed 0 of the others, seeds 1 and 2 of the eight. Columns of rows.csv:

    train_seconds         of all epochs with their held-out measures; train_cpu: of the processor, empty where a training was taken up
    clean, clean_500      accuracy on all 1,000 test images of the file, and on the first 500, which everything below is measured on
    pgd20, fast           after PGD-20; after the suite `fast`, an upper bound of what AutoAttack leaves that has cost a tenth of it
    autoattack            after the suite `autoattack`, our engine; --autoattack first: of seed 0 of the eight (the default), all, none
    square                under Square alone, as in the suite `fast` (2,500 queries and fewer where there is no hope): a defence whose
                          black-box accuracy lies below its white-box accuracy hides its gradients
    transfer              under points that were crafted on the standard network of the same seed; empty for that network
    gini                  mean Gini index of the gradient of the true logit
    effective_margin      median over the images that are right; row_norm: mean ||g_y||, the length of that gradient
    inductive_noise, random_noise   error among the images that are right, noise of sigma 1 on 30 subpixels (t = 0.01), mean of 3 draws

Needs ROBENCH_DATA.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import time
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from robench import evaluate, probe, saliency
from robench.core.errors import InputError
from robench.core.files import write_whole
from robench.core.memory import keep_freed_memory
from robench.core.recipes import Recipe, parse_recipe
from robench.data import Images, load_images
from robench.evaluation.suites import suite_recipes
from robench.models import load_model
from robench.objectives import facts_of
from robench.results.scores import all_subject_scores
from robench.training.train import train
from robench.training.types import Trained

Method: TypeAlias = tuple[str, tuple[str, ...], dict[str, Any]]
SHARED: dict[str, Any] = {
    "preset": "small", "arch": "two-conv", "activation": "relu", "normalize": "data", "held_out": 500, "epochs": 10, "batch_size": 100,
    "optimizer": "adamw", "lr": 4e-3, "schedule": "one-cycle", "augment": "flip", "norm": "linf", "eps": 2 / 255,
}  # fmt: skip
PGD_AT = "pgd-at,steps=5"
EMR = f"emr={3 / 128},temperature=40"  # lambda 3 at T = 40 with batches of 128, which the published code takes as a sum of squares
FIRST: dict[str, Method] = {  # name: (objective, regularisers, what else differs from SHARED)
    "standard": ("standard", (), {}),
    "pgd-at": (PGD_AT, (), {}),
    "sagr": ("standard", ("sagr=0.03",), {}),  # by AutoAttack on the held-out images, of .01, .03, .1 (docs/results.md)
    "sagr-positive": ("standard", ("sagr=0.03,sign=positive",), {}),  # the same weight; the paper's phrase taken literally
    "jacobian": ("standard", ("jacobian=0.03",), {}),  # likewise
    "igd": (PGD_AT, ("igd=1",), {}),  # the paper's for CIFAR-10
    "emr": (PGD_AT, (EMR,), {}),
    "arr": ("standard", ("arr=6,steps=1",), {}),  # beta of TRADES, whose loss this is with another adversary
}
OTHERS: dict[str, Method] = {
    "trades": ("trades,beta=6,steps=5", (), {}),  # the paper's
    "mart": ("mart,beta=5,steps=5", (), {}),  # the published code's
    "mail-at": ("mail-at,steps=5", (), {}),  # slope 10 and bias -0.5 from 3/4 of the training on, as in the published code
    "mail-trades": ("mail-trades,steps=5", (), {}),  # beta 5, slope 2, bias 0, likewise
    "fgsm-rs": ("fgsm-rs", (), {}),
    "n-fgsm": ("n-fgsm", (), {}),
    "gradalign": ("fgsm-at", ("gradalign=0.2",), {}),  # the paper's at eps 8/255
    "free-at": ("free-at,replays=5", (), {"epochs": 2}),  # 2 epochs of 5 replays are as many steps as 10 epochs
    "alp": ("alp,steps=5", (), {}),  # pairing 0.5, as in the paper
    "hat": ("hat,steps=5", (), {}),  # beta 2.5, gamma 0.5, h 2: the paper's for CIFAR-10
    "trades+emr": ("trades,beta=12,steps=5", (f"emr={1 / 128},temperature=1",), {}),  # the paper's; its weight decay stays ours
    "mart+emr": ("mart,beta=5,steps=5", (EMR,), {}),  # the setting with PGD-AT: no other is known to us
    "mail-at+emr": ("mail-at,steps=5", (f"emr={1 / 128},temperature=0.1",), {}),  # the paper's
    "standard+emr": ("standard", (EMR,), {}),  # the setting with PGD-AT: no other is known to us
    "trades+igd": ("trades,beta=6,steps=5", ("igd=1",), {}),  # the published code's variant, its weight as with PGD-AT
    "pgd-at+gini": (PGD_AT, ("gini=0.1",), {}),  # the smallest of the three that the authors of IGD compare
    "pgd-at+awp": (PGD_AT, (), {"awp": 0.01}),  # the paper's for adversarial training
    "pgd-at+ema": (PGD_AT, (), {"ema": 0.995}),  # as in the preset cifar-small: its memory is a quarter of these 760 steps
    "pgd-at+label-smoothing": (PGD_AT, (), {"label_smoothing": 0.1}),  # the customary value
    "double-backprop": ("standard", ("double-backprop=0.3",), {}),  # by PGD-20 on the held-out images, of .1, .3, 1, 3
    "tulip": ("standard", ("tulip=3",), {}),  # likewise, of .3, 1, 3
    "cure": ("standard", ("cure=4",), {}),  # likewise, of .3, 1, 4
    "input-l2": ("standard", ("input-l2=0.1",), {}),  # likewise, of .01, .03, .1
    "cross-lipschitz": ("standard", ("cross-lipschitz=0.1",), {}),  # likewise, of .01, .03, .1
    "vat": ("standard", ("vat=1",), {}),  # the paper's
    "l1": ("standard", ("l1=1e-5",), {}),  # the default, ours
    "l2": ("standard", ("l2=5e-4",), {}),  # the customary weight decay, here as a term of the loss
    "mixup": ("standard", (), {"mixup": 0.2}),  # the paper's range for ImageNet is .1 to .4; on CIFAR it takes 1
    "cutmix": ("standard", (), {"cutmix": 1.0}),  # the paper's
    "cutout": ("standard", (), {"augment": "crop-flip-cutout"}),  # the paper's augmentation: it moves the images as well
}  # fmt: skip
METHODS = FIRST | OTHERS
SEEDS = (0, 1, 2)
N = 500
COLUMNS = (
    "method", "seed", "objective", "reg", "settings", "epochs", "train_seconds", "train_cpu", "epoch", "clean", "clean_500", "pgd20",
    "fast", "autoattack", "square", "transfer", "gini", "effective_margin", "row_norm", "inductive_noise", "random_noise",
    "measure_seconds",
)  # fmt: skip
SHARES = ("clean", "pgd20", "fast", "autoattack", "square", "transfer", "inductive_noise", "random_noise")  # printed in percent
NUMBERS = ("gini", "effective_margin", "row_norm", "train_cpu", "epoch")
SQUARE = next(recipe for recipe in suite_recipes("fast") if recipe.name == "square")
Rows: TypeAlias = dict[tuple[str, int], dict[str, str]]


def order(only: list[str] | None, seeds: list[int] | None) -> list[tuple[str, int]]:
    """The networks in the order of the study; with seeds given, every method with every one of them."""
    names = [name for name in METHODS if only is None or name in only]
    if seeds is not None:
        return [(name, seed) for seed in seeds for name in names]
    first = [(name, seed) for seed in SEEDS for name in FIRST]
    whole = first[: len(FIRST)] + [(name, SEEDS[0]) for name in OTHERS] + first[len(FIRST) :]
    return [(name, seed) for name, seed in whole if name in names]


def trained(folder: Path, data: str, name: str, seed: int) -> Trained:
    """The network of a method, trained now or before; the standard one of the same seed is trained first where it is the teacher."""
    objective, reg, more = METHODS[name]
    learns = any(facts_of(parse_recipe(sentence).name).teacher for sentence in (objective, *reg))
    teacher = trained(folder, data, "standard", seed).path if learns else None
    return train(
        data, seed=seed, out=folder / f"{name}-s{seed}.pt", teacher=teacher, resume=True, eval_n=1, suite=(), select="last",
        **{**SHARED, "objective": objective, "reg": reg, **more},
    )  # fmt: skip


def left(model: nn.Module, images: Images, attack: str | Recipe) -> float:
    """The accuracy that a suite, or one attack alone, leaves on the images."""
    suite, name = (attack, attack) if isinstance(attack, str) else ([attack], attack.label)
    norm, eps = SHARED["norm"], SHARED["eps"]
    return evaluate(model, images.x, images.y, suite=suite, norm=norm, eps=eps, ids=images.ids, seed=0).accuracy(name)


def measured(model: nn.Module, images: Images, surrogate: Path | None) -> dict[str, Any]:
    """The columns that are measured, but for AutoAttack."""
    few, begin = images.take(slice(0, N)), time.perf_counter()
    plain = evaluate(model, images.x, images.y, suite=[], ids=images.ids)
    found: dict[str, Any] = {"clean": plain.accuracy("clean"), "clean_500": sum(s.clean_pred == s.label for s in plain.samples[:N]) / N}
    found |= {"pgd20": left(model, few, Recipe("pgd-20")), "fast": left(model, few, "fast"), "square": left(model, few, SQUARE)}
    found["transfer"] = "" if surrogate is None else left(model, few, Recipe(f"transfer:{surrogate}"))
    scores = ("gini", "effective-margin", "row-norm-true")
    maps = all_subject_scores(saliency(model, few.x, few.y, scores=scores, ids=few.ids).run)[0]
    values = {name: score for some in maps.methods for name, score in some.values.items()}
    found["gini"], found["row_norm"] = float(values["gini"].nanmean()), float(values["row-norm-true"].nanmean())
    found["effective_margin"] = float(values["effective-margin"][maps.pred == maps.y].nanmedian())
    noises = {"inductive_noise": parse_recipe("inductive-noise,t=0.01"), "random_noise": parse_recipe("random-noise,t=0.01")}
    probed = probe(model, few.x, few.y, list(noises.values()), ids=few.ids)
    errors = {row.probe: row.value for row in probed.rows if row.metric == "error_rate"}
    found |= {column: errors.get(recipe.label, "") for column, recipe in noises.items()}
    return found | {"measure_seconds": time.perf_counter() - begin}


def row_of(folder: Path, data: str, images: Images, name: str, seed: int) -> dict[str, str]:
    """The line of a network, which is trained first where it is not there yet."""
    objective, reg, more = METHODS[name]
    surrogate = None if name == "standard" else trained(folder, data, "standard", seed).path
    fresh, begin = not list(folder.glob(f"{name}-s{seed}.*")), time.process_time()
    done = trained(folder, data, name, seed)
    train_cpu = time.process_time() - begin if fresh else ""
    history, recipe = done.meta["history"], done.meta["recipe"]
    line = {
        "method": name, "seed": seed, "objective": objective, "reg": " ".join(reg),
        "settings": " ".join(f"{key}={value}" for key, value in more.items()), "epochs": len(history), "epoch": recipe["epoch"],
        "train_seconds": sum(epoch["seconds"] for epoch in history), "train_cpu": train_cpu, **measured(done.model, images, surrogate),
    }  # fmt: skip
    return {column: text_of(line.get(column, "")) for column in COLUMNS}


def text_of(value: Any) -> str:
    """The value as the table spells it."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def text(lines: list[dict[str, str]], head: bool) -> str:
    """The lines as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    if head:
        writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def read(table: Path) -> Rows:
    """The lines that are there; a line that was not written to its end is none."""
    content = table.read_text() if table.exists() else ""
    whole = content[: content.rfind("\n") + 1]
    if whole != content:
        write_whole({table: whole.encode()})
    lines = list(csv.DictReader(io.StringIO(whole)))
    if lines and tuple(lines[0]) != COLUMNS:
        raise InputError(f"{table} has other columns than this study: choose another folder")
    rows = {(line["method"], int(line["seed"])): line for line in lines}
    attacks = table.with_name("autoattack.csv")
    for found in attacks.read_text().splitlines() if attacks.exists() else ():
        name, seed, accuracy = found.split(",")
        if (name, int(seed)) in rows:
            rows[name, int(seed)]["autoattack"] = accuracy
    return rows


def add(table: Path, line: dict[str, str]) -> None:
    """Adds a line to the table in one piece, through to the disk."""
    with table.open("a") as handle:
        handle.write(text([line], head=handle.tell() == 0))
        handle.flush()
        os.fsync(handle.fileno())


def attacked(folder: Path, images: Images, chosen: list[tuple[str, int]]) -> None:
    """AutoAttack of every network with a line and without this number, appended to autoattack.csv: beside a process that trains, too."""
    for name, seed in chosen:
        line = read(folder / "rows.csv").get((name, seed))
        if line is not None and not line["autoattack"]:
            begin = time.perf_counter()
            accuracy = left(load_model(folder / f"{name}-s{seed}.pt"), images.take(slice(0, N)), "autoattack")
            with (folder / "autoattack.csv").open("a") as handle:
                handle.write(f"{name},{seed},{text_of(accuracy)}\n")
            print(f"{name}, seed {seed}: autoattack {accuracy:.3f} in {time.perf_counter() - begin:.0f} s", flush=True)


def show(rows: Rows) -> None:
    """Prints the table, a line a method, the seeds one beside the other."""
    print(f"| method | seeds | {' | '.join([*SHARES, *NUMBERS])} |\n|{'---|' * (2 + len(SHARES) + len(NUMBERS))}")
    for name in METHODS:
        seeds = sorted(seed for method, seed in rows if method == name)
        cells = [" / ".join(cell(rows[name, seed][column], percent=column in SHARES) for seed in seeds) for column in (*SHARES, *NUMBERS)]
        if seeds:
            print(f"| {name} | {', '.join(map(str, seeds))} | {' | '.join(cells)} |")


def cell(value: str, *, percent: bool) -> str:
    """A number in few digits, a dash where there is none."""
    return "-" if not value else f"{100 * float(value):.1f}" if percent else f"{float(value):.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(METHODS), metavar="NAME", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--autoattack", choices=("none", "first", "all", "alone"), default="first", help="alone: train nothing")
    parser.add_argument("--table", action="store_true", help="print what is there and make nothing")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    table, chosen = args.out / "rows.csv", order(args.only, args.seeds)
    if args.table:
        show(read(table))
        return
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    data = f"npz:{Path(os.environ['ROBENCH_DATA']) / 'cifar10-lossless.npz'}"
    images = load_images(data, "test")
    for name, seed in chosen:
        if (name, seed) in read(table) or args.autoattack == "alone":
            continue
        begin = time.perf_counter()
        try:
            line = row_of(args.out, data, images, name, seed)
        except InputError as error:
            print(f"{name}, seed {seed}: skipped, {error}", flush=True)
            continue
        add(table, line)
        shown = ", ".join(f"{column} {line[column]}" for column in ("clean", "pgd20", "fast", "gini", "train_cpu", "measure_seconds"))
        print(f"{name}, seed {seed}: {shown}; {time.perf_counter() - begin:.0f} s in all", flush=True)
    wanted = {"none": [], "first": [one for one in chosen if one[0] in FIRST and one[1] == SEEDS[0]]}.get(args.autoattack, chosen)
    attacked(args.out, images, wanted)
    show(read(table))


if __name__ == "__main__":
    main()
