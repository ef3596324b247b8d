"""Time of inductive occlusion over that of the bare forward passes which it needs, in alternation in one process.

python tests/benchmarks/inductive_cost.py resnet20_standard --n 250 --rounds 3

For each probe: its seconds, those seconds divided by the bare ones, how many model rows it asked for over those it needed (an image needs
its unions up to the first that fools), and the share that falls. Bare: the needed rows in batches of as many images as there are, random
images, nothing around the model, and the saliency's pass with its gradient. The target is 1.3. Needs ROBENCH_MODELS and ROBENCH_DATA.
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
from robench.core.types import Level
from robench.data import load_images
from robench.models import load_with_origin
from robench.probes import PROBES

NAMES = ("inductive-occlusion-n5r10", "inductive-occlusion-n10r20", "random-occlusion-n10r20")
MNIST = ("wong2020_fgsm", "atzmon2019")


class Counted(nn.Module):
    """The model; counts the rows that it is asked about without a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits."""
        self.rows += 0 if x.requires_grad else len(x)
        logits: Tensor = self.model(x)
        return logits


def bare_seconds(model: nn.Module, x: Tensor, needed: int, gradients: int) -> float:
    """Seconds of so many rows in full batches, and of so many passes of all images with their gradient."""
    noise = torch.rand_like(x)
    begin = time.perf_counter()
    for _ in range(gradients):
        leaf = noise.detach().requires_grad_()
        torch.autograd.grad(model(leaf).sum(), leaf)
    with torch.no_grad():
        for start in range(0, needed, len(x)):
            model(noise[: needed - start])
    return time.perf_counter() - begin


def round_of(name: str, model: Counted, x: Tensor, y: Tensor) -> tuple[float, float, float, float]:
    """Seconds of a probe, those over the bare ones, rows asked over rows needed, and the mean share that falls."""
    model.rows = 0
    begin = time.perf_counter()
    levels: list[Level] = list(PROBES[name](model, x, y, Draws(0, torch.arange(len(x)), name)))
    seconds = time.perf_counter() - begin
    backwards = sum(int(level.backwards.sum()) for level in levels)
    needed = sum(int(level.forwards.sum()) for level in levels) - backwards
    bare = bare_seconds(model.model, x, needed, backwards // len(x))
    return seconds, seconds / bare, model.rows / needed, float(torch.stack([level.fooled for level in levels]).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    data, zoo = Path(os.environ["ROBENCH_DATA"]), Path(os.environ["ROBENCH_MODELS"]) / "zoo.py"
    images = load_images("mnist" if args.model in MNIST else f"npz:{data / 'cifar10-lossless.npz'}", "test", data_dir=data, n=args.n)
    model = Counted(load_with_origin(f"{zoo}:{args.model}", classes=10, shape=images.shape).model)
    x = images.x.float() / 255 if images.x.dtype == torch.uint8 else images.x
    with freeze_model(model):
        right = model(x).argmax(1) == images.y
        x, y = x[right], images.y[right]
        print(f"{args.model}, {len(x)} images that it gets right, {args.threads} threads, median of {args.rounds}", flush=True)
        for name in NAMES:
            rounds = [round_of(name, model, x, y) for _ in range(args.rounds)]
            seconds, ratio, rows, falls = (statistics.median(kind) for kind in zip(*rounds, strict=True))
            print(f"{name:28} {seconds:6.2f} s  {ratio:5.2f} of the bare passes  rows {rows:5.3f}  ({100 * falls:.0f} % fall)", flush=True)


if __name__ == "__main__":
    main()
