"""Times our AutoAttack against the authors' (pyautoattack): same model, images, batch size and threads, in alternation.

python tests/benchmarks/autoattack_vs_reference.py resnet2b --eps 2/255 --n 200 --modes eager,compiled,fast --rounds 2

Every run is a process of its own, as its users get it: ours keeps freed memory (robench.core.memory), as the command line does, and the
reference does not, unless --reference-keeps-memory. Imports, loading and a warm-up on 32 images (which compiles) are not timed.
Prints, for each mode, the median over the rounds of its seconds divided by the reference's of the same round, the accuracy left, the
passes of a sample that survives everything, and the seconds divided by those of the bare passes: the same calls of the model (rows,
with or without gradient) on random images, made right afterwards in the same process. Needs ROBENCH_MODELS and ROBENCH_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench import evaluate
from robench.core.memory import keep_freed_memory
from robench.core.recipes import parse_fraction
from robench.data import load_images
from robench.models import load_with_origin

MNIST = ("wong2020_fgsm", "atzmon2019")
REFERENCE = "reference"
Calls = Counter[tuple[int, bool]]


CALLS = Calls()  # of the model and of its stand-in, which is a copy


class Recorded(nn.Module):
    """The model; counts its calls by rows, and by whether a gradient will be asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits."""
        CALLS[len(x), x.requires_grad] += 1
        logits: Tensor = self.model(x)
        return logits


def bare_seconds(model: nn.Module, calls: Calls, shape: tuple[int, ...]) -> float:
    """Seconds of the same calls without anything around them; at most 200 of a kind are made, and their mean is taken for the others."""
    total = 0.0
    for (rows, with_gradient), count in calls.items():
        x, times = torch.rand(rows, *shape), min(count, 200)
        begin = time.perf_counter()
        for _ in range(times):
            if with_gradient:
                leaf = x.detach().requires_grad_()
                torch.autograd.grad(model(leaf).sum(), leaf)
            else:
                with torch.no_grad():
                    model(x)
        total += (time.perf_counter() - begin) * count / times
    return total


def work(args: argparse.Namespace) -> dict[str, Any]:
    """One timed run of one mode, in this process."""
    torch.set_num_threads(args.threads)
    if args.mode != REFERENCE or args.reference_keeps_memory:
        keep_freed_memory()
    data, zoo = Path(os.environ["ROBENCH_DATA"]), Path(os.environ["ROBENCH_MODELS"]) / "zoo.py"
    images = load_images("mnist" if args.model in MNIST else f"npz:{data / 'cifar10-lossless.npz'}", "test", data_dir=data, n=args.n)
    model = Recorded(load_with_origin(f"{zoo}:{args.model}", classes=10, shape=images.shape).model.requires_grad_(False))
    how = {
        "suite": "fast" if args.mode == "fast" else "autoattack", "norm": args.norm, "eps": args.eps, "batch_size": args.batch_size,
        "engine": "reference" if args.mode == REFERENCE else "robench", "compiled": args.mode == "compiled",
        "prepare": args.mode != REFERENCE,
    }  # fmt: skip
    evaluate(model, images.x[:32], images.y[:32], **how)
    CALLS.clear()
    begin = time.perf_counter()
    found = evaluate(model, images.x, images.y, seed=args.seed, **how)
    seconds = time.perf_counter() - begin
    survivors = [(s.forwards, s.backwards) for s in found.samples if not s.broken_by]
    return {
        "seconds": seconds, "left": found.accuracy(how["suite"]), "bare": bare_seconds(model.model, CALLS, images.shape),
        "passes": [max(parts) for parts in zip(*survivors, strict=True)] if survivors else [0, 0],
        "mean": [statistics.mean(parts) for parts in zip(*survivors, strict=True)] if survivors else [0, 0],
    }  # fmt: skip


def once(mode: str, seed: int) -> dict[str, Any]:
    """One run of a mode in a fresh process."""
    words = [sys.executable, __file__, *sys.argv[1:], "--mode", mode, "--seed", str(seed)]
    run: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    mean = " + ".join(f"{part:,.0f}" for part in run["mean"])
    print(
        f"seed {seed} {mode:9} {run['seconds']:7.2f} s  {100 * run['left']:5.1f} % left  a survivor {mean} passes in the mean", flush=True
    )
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--eps", type=parse_fraction, required=True)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--modes", default="eager,compiled,fast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference-keeps-memory", action="store_true")
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.mode:
        print(json.dumps(work(args)))
        return
    modes = args.modes.split(",")
    runs = {(mode, seed): once(mode, seed) for seed in range(args.rounds) for mode in (REFERENCE, *modes)}
    print(f"{args.model}, {args.norm} eps {args.eps:.5g}, n = {args.n}, batch {args.batch_size}, {args.threads} threads")
    for mode in modes:
        mine, theirs = ([runs[name, seed] for seed in range(args.rounds)] for name in (mode, REFERENCE))
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(mine, theirs, strict=True))
        over = statistics.median(run["seconds"] / run["bare"] for run in mine)
        gap = statistics.mean(a["left"] - b["left"] for a, b in zip(mine, theirs, strict=True))
        print(f"{mode:9} {ratio:5.3f} of the reference's time, {over:5.2f} of the bare passes, {100 * gap:+.2f} points left")


if __name__ == "__main__":
    main()
