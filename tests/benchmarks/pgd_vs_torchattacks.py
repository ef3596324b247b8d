"""Time of our PGD against torchattacks' PGD and against the bare passes, in alternation in one process.

    python tests/benchmarks/pgd_vs_torchattacks.py --model zoo.py:resnet2b --images images.npz --n 200 --eps 2/255

The images are an npz with x_test, (N, H, W, C) uint8, and y_test. All run on the samples that are right when clean, from the
same start (the clean image) with the same steps, in one batch. Ratios carry over between machines, seconds do not. "Standing"
repeats the race on the samples that PGD does not fool: there nothing can be saved by leaving fooled samples out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn

from robench.attacks.pgd import pgd
from robench.core.draws import Draws
from robench.core.memory import keep_freed_memory
from robench.core.model_calls import freeze_model
from robench.core.recipes import function_from_file, parse_fraction
from robench.core.threat import Threat


def images(path: Path, n: int) -> tuple[Tensor, Tensor]:
    """The first n test images (n, C, H, W) in [0, 1] and their labels."""
    with np.load(path) as arrays:
        x, y = arrays["x_test"][:n], arrays["y_test"][:n]
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().float() / 255, torch.from_numpy(y).long()


def bare(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """The forward and backward passes of `steps` steps on the whole batch, and nothing else."""
    for _ in range(steps):
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    with torch.no_grad():
        model(x)


def race(runners: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best seconds of each runner over `rounds` rounds in alternation, after one that is not counted; load only ever adds."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds + 1):
        for name, runner in runners.items():
            begin = time.perf_counter()
            runner()
            seconds[name].append(time.perf_counter() - begin)
    return {name: min(times[1:]) for name, times in seconds.items()}


def compare(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, steps: int, rounds: int) -> tuple[dict[str, float], Tensor, Tensor]:
    """Best seconds of robench, torchattacks and the bare passes; which samples robench and torchattacks fool."""
    step_size, draws = 2.5 * threat.eps / steps, Draws(0, torch.arange(len(x)))
    theirs = torchattacks.PGD(model, eps=threat.eps, alpha=step_size, steps=steps, random_start=False)

    def ours() -> Tensor:
        return pgd(model, x, y, threat, draws, steps=steps, step_size=step_size, random_start=False).fooled

    seconds = race({"robench": ours, "torchattacks": lambda: theirs(x, y), "bare": lambda: bare(model, x, y, steps)}, rounds)
    return seconds, ours(), model(theirs(x, y)).argmax(1) != y


def main() -> None:
    """Reads the arguments, runs both races, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="file.py:function that returns the model")
    parser.add_argument("--images", required=True, type=Path, help="npz with x_test and y_test")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--eps", type=parse_fraction, default=8 / 255)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command line does; torchattacks gains from it, too
    model: nn.Module = function_from_file(options.model)()
    threat = Threat("linf", options.eps)
    with freeze_model(model):
        x, y = images(options.images, options.n)
        right = model(x).argmax(1) == y
        x, y = x[right], y[right]
        print(f"{options.model}, eps {threat.eps:.5f}, {options.steps} steps, {options.rounds} rounds, {options.threads} threads")
        print(f"{'samples':>16} {'n':>4} {'robench':>9} {'torchatt.':>9} {'bare':>9} {'/torchatt.':>10} {'/bare':>6} {'fooled':>9}")
        for name in ("right when clean", "standing"):
            seconds, ours, theirs = compare(model, x, y, threat, options.steps, options.rounds)
            times = " ".join(f"{seconds[key]:8.3f}s" for key in ("robench", "torchattacks", "bare"))
            ratios = f"{seconds['robench'] / seconds['torchattacks']:10.2f} {seconds['robench'] / seconds['bare']:6.2f}"
            print(f"{name:>16} {len(x):4d} {times} {ratios} {int(ours.sum()):4d}/{int(theirs.sum()):4d}")
            x, y = x[~ours], y[~ours]


if __name__ == "__main__":
    main()
