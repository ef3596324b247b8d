"""Time of our attacks over that of the bare passes, on a network of some size: few steps, a radius at which most images stand.

python tests/benchmarks/overhead.py resnet20_standard --eps 0.1/255 --n 200

For each attack: seconds, and seconds divided by those of the same model calls with nothing around them. Needs ROBENCH_MODELS and
ROBENCH_DATA.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from autoattack_vs_reference import CALLS, Recorded, bare_seconds

from robench import evaluate
from robench.core.memory import keep_freed_memory
from robench.core.recipes import parse_fraction, parse_recipe
from robench.data import load_images
from robench.models import load_with_origin

ATTACKS = ("apgd-ce,steps=15", "fab-t,targets=1,steps=10", "square,queries=40")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--eps", type=parse_fraction, required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    data, zoo = Path(os.environ["ROBENCH_DATA"]), Path(os.environ["ROBENCH_MODELS"]) / "zoo.py"
    images = load_images(f"npz:{data / 'cifar10-lossless.npz'}", "test", data_dir=data, n=args.n)
    model = Recorded(load_with_origin(f"{zoo}:{args.model}", classes=10, shape=images.shape).model.requires_grad_(False))
    print(f"{args.model}, eps {args.eps:.5g}, n = {args.n}, {args.threads} threads, best of {args.rounds}")
    for sentence in ATTACKS:
        best, left = float("inf"), 0.0
        for _ in range(args.rounds):
            CALLS.clear()
            begin = time.perf_counter()
            found = evaluate(model, images.x, images.y, suite=[parse_recipe(sentence)], eps=args.eps)
            seconds = time.perf_counter() - begin
            best = min(best, seconds / bare_seconds(model.model, CALLS, images.shape))
            left = next(row.value for row in found.rows if row.metric == "success_rate")
        print(f"{sentence:26} {seconds:6.2f} s  {best:5.2f} of the bare passes  ({100 * left:.0f} % fall)", flush=True)


if __name__ == "__main__":
    main()
