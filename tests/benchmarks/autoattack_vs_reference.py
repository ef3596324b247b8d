"""Times our AutoAttack against the authors' (pyautoattack): same model, images, batch size and threads, in alternation in one process.

python tests/benchmarks/autoattack_vs_reference.py resnet2b --eps 2/255 --n 200 --modes eager,compiled,fast --rounds 2

Prints, for each mode, the median over the rounds of its seconds divided by the reference's of the same round, the accuracy left, the
passes of a sample that survives everything, and the seconds divided by those of the bare passes: the same calls of the model (rows,
with or without gradient) on random images, made right afterwards. Needs ROBENCH_MODELS and ROBENCH_DATA.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from robench.data import load as load_images
from robench.evaluation import evaluate
from robench.memory import keep_freed_memory
from robench.models import load
from robench.recipes import fraction

MNIST = ("wong2020_fgsm", "atzmon2019")


class Recorded(nn.Module):
    """The model; counts its calls by rows, and by whether a gradient will be asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, Counter[tuple[int, bool]]()

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits."""
        self.calls[len(x), x.requires_grad] += 1
        logits: Tensor = self.model(x)
        return logits


def bare_seconds(model: nn.Module, calls: Counter[tuple[int, bool]], shape: tuple[int, ...]) -> float:
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


def once(mode: str, model: nn.Module, x: Tensor, y: Tensor, args: argparse.Namespace, seed: int) -> tuple[float, float, tuple[int, int]]:
    """Seconds, accuracy left, and the passes of a survivor, of one run of a mode."""
    engine = "reference" if mode == "reference" else "robench"
    suite = "fast" if mode == "fast" else "autoattack"
    begin = time.perf_counter()
    found = evaluate(
        model, x, y, suite=suite, norm=args.norm, eps=args.eps, seed=seed, batch_size=args.batch_size, engine=engine,
        compiled=mode == "compiled",
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    survivors = [s for s in found.samples if not s.broken_by]
    passes = (max((s.forwards for s in survivors), default=0), max((s.backwards for s in survivors), default=0))
    return seconds, found.accuracy(suite), passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--eps", type=fraction, required=True)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--modes", default="eager,compiled,fast")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as the command line does; here the reference gains from it, too
    data, zoo = Path(os.environ["ROBENCH_DATA"]), Path(os.environ["ROBENCH_MODELS"]) / "zoo.py"
    images = load_images("mnist" if args.model in MNIST else f"npz:{data / 'cifar10-lossless.npz'}", "test", data_dir=data, n=args.n)
    model = load(f"{zoo}:{args.model}", classes=10, shape=images.shape).model
    modes, known = args.modes.split(","), {}
    for mode in modes:  # compile, warm caches
        evaluate(model, images.x[:32], images.y[:32], suite="fast" if mode == "fast" else "autoattack", eps=args.eps, norm=args.norm,
                 compiled=mode == "compiled", batch_size=args.batch_size)  # fmt: skip
    for seed in range(args.rounds):
        for mode in ["reference", *modes]:
            known[mode, seed] = once(mode, model, images.x, images.y, args, seed)
            seconds, left, passes = known[mode, seed]
            print(f"seed {seed} {mode:9} {seconds:7.2f} s  {100 * left:5.1f} % left  survivor {passes[0]} + {passes[1]} passes", flush=True)
    print(f"{args.model}, {args.norm} eps {args.eps:.5g}, n = {args.n}, batch {args.batch_size}, {args.threads} threads")
    for mode in modes:
        recorded = Recorded(model)
        begin = time.perf_counter()
        evaluate(recorded, images.x, images.y, suite="fast" if mode == "fast" else "autoattack", norm=args.norm, eps=args.eps,
                 batch_size=args.batch_size, compiled=mode == "compiled")  # fmt: skip
        seconds = time.perf_counter() - begin
        over = seconds / bare_seconds(model, recorded.calls, images.shape)
        ratio = statistics.median(known[mode, seed][0] / known["reference", seed][0] for seed in range(args.rounds))
        gap = statistics.mean(known[mode, seed][1] - known["reference", seed][1] for seed in range(args.rounds))
        print(f"{mode:9} {ratio:5.3f} of the reference's time, {over:5.2f} of the bare passes, {100 * gap:+.2f} points left")


if __name__ == "__main__":
    main()
