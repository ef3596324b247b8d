"""What the explainers on blocks cost, over the bare passes, and how far Shapley values still are from those of many more samples.

    python tests/benchmarks/masking_cost.py resnet20_standard --n 16

For each method with its defaults: forward passes per image, seconds per image, and seconds divided by those of the same model calls
with nothing around them (best of the rounds). With --errors: the distance from shapley_sampling with 400 other orders (its own error is
in the number), as a share of that map's l2 norm, over the images. Needs ROBENCH_MODELS and ROBENCH_DATA.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.memory import keep_freed_memory
from robench.core.model_calls import freeze_model
from robench.data import load_images
from robench.explainers.masking import feature_ablation, kernel_shap, occlusion, shapley_sampling
from robench.models import load_with_origin

METHODS = (occlusion, feature_ablation, shapley_sampling, kernel_shap)


class Counted(nn.Module):
    """The model; keeps how many rows each call had."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return self.model(x)


@torch.no_grad()
def bare_seconds(model: nn.Module, rows: list[int], x: Tensor) -> float:
    """Seconds of calls with so many rows, one after the other."""
    batches = {count: x[torch.arange(count) % len(x)] for count in set(rows)}
    begin = time.perf_counter()
    for count in rows:
        model(batches[count])
    return time.perf_counter() - begin


def distance(maps: Tensor, exact: Tensor) -> str:
    """The l2 distance as a share of the norm of `exact`: median and largest over the images."""
    shares = ((maps - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).tolist()
    return f"median {statistics.median(shares):.3f}, largest {max(shares):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--errors", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    data, zoo = Path(os.environ["ROBENCH_DATA"]), Path(os.environ["ROBENCH_MODELS"]) / "zoo.py"
    images = load_images(f"npz:{data / 'cifar10-lossless.npz'}", "test", data_dir=data, n=args.n)
    model = Counted(load_with_origin(f"{zoo}:{args.model}", classes=10, shape=images.shape).model)
    x, y, draws = images.x.float() / 255, images.y, Draws(0, torch.arange(args.n), "benchmark")
    print(f"{args.model}, n = {args.n}, {args.threads} threads, best of {args.rounds}")
    with freeze_model(model):
        for method in METHODS:
            method(model, x[:1], y[:1], draws.take(torch.tensor([0])))  # what is imported late
            best = float("inf")
            for _ in range(args.rounds):
                model.rows.clear()
                begin = time.perf_counter()
                method(model, x, y, draws)
                seconds = time.perf_counter() - begin
                best = min(best, seconds / bare_seconds(model.model, model.rows, x))
            each = f"{sum(model.rows) / args.n:7.1f} passes  {seconds / args.n:6.2f} s an image"
            print(f"{method.__name__:17} {each}  {best:5.2f} of the bare passes", flush=True)
        if args.errors:
            exact = shapley_sampling(model, x, y, Draws(1, torch.arange(args.n), "exact"), samples=400)
            for method in (shapley_sampling, kernel_shap):
                print(f"{method.__name__:17} off by {distance(method(model, x, y, draws), exact)}")


if __name__ == "__main__":
    main()
