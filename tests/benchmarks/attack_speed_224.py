"""APGD-CE at 224 pixels over the bare passes: labels are the model's own, and eps so small that all images stand to the end.

python tests/benchmarks/attack_speed_224.py [--arch resnet50] [--n 8] [--steps 10] [--rounds 3] [--threads 2]

The images are made and the weights drawn. Each round times the attack through `robench.evaluate`, then the same number of forward and
backward passes of the same images with nothing around them, or in the other order; reported is the median of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torchvision import models

from robench import evaluate
from robench.core.memory import keep_freed_memory
from robench.core.recipes import parse_recipe
from robench.results.measurement import Measurement

PLAIN: list[float] = []  # seconds of the evaluations without an attack


def attack_seconds(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> tuple[float, int, int]:
    """Seconds of an evaluation by APGD-CE less the least of one without it, and the passes of the attack, forward and backward."""
    begin = time.perf_counter()
    evaluate(model, x, y, suite=[])
    middle = time.perf_counter()
    found: Measurement = evaluate(model, x, y, suite=[parse_recipe(f"apgd-ce,steps={steps}")], eps=1e-7)
    end = time.perf_counter()
    assert found.accuracy("apgd-ce") == 1, "an image fell: lower eps"
    value = {row.metric: row.value for row in found.rows if row.probe == "apgd-ce"}
    PLAIN.append(middle - begin)
    return end - middle - min(PLAIN), round(value["forwards"] / len(x)), round(value["backwards"] / len(x))


def bare_seconds(model: nn.Module, x: Tensor, y: Tensor, forwards: int, backwards: int) -> float:
    """Seconds of so many passes over all images."""
    begin = time.perf_counter()
    for _ in range(backwards):
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    with torch.no_grad():
        for _ in range(forwards - backwards):
            model(x)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet50")
    for name, value in (("n", 8), ("steps", 10), ("rounds", 3), ("threads", 2), ("side", 224)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    model = getattr(models, options.arch)(num_classes=1000).eval().requires_grad_(False)
    x = torch.rand(options.n, 3, options.side, options.side)
    with torch.no_grad():
        y = model(x).argmax(1)
    PLAIN.clear()
    _, forwards, backwards = attack_seconds(model, x, y, options.steps)  # which also warms up
    PLAIN.clear()
    ratios = []
    for place in range(options.rounds):
        bare = bare_seconds(model, x, y, forwards, backwards) if place % 2 else 0.0
        ours = attack_seconds(model, x, y, options.steps)[0]
        bare = bare or bare_seconds(model, x, y, forwards, backwards)
        ratios.append(ours / bare)
        print(
            f"round {place + 1}: {forwards} forward and {backwards} backward passes, {ours:.2f} s and {bare:.2f} s bare: {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
