"""What a regulariser costs: the time of a whole training step relative to a plain cross-entropy step, on random images.

    python tests/benchmarks/regularizer_cost.py --arch cnn --activation gelu

All variants of the step are timed in turn, `repeats` times over, in one process, so that a change of clock or load meets all
of them alike; medians are printed. The time is that of the CPU with one thread, wall time otherwise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.recipes import parse_recipe, resolve
from robench.core.threat import Threat
from robench.core.types import Batch
from robench.models.architectures import ARCHITECTURES, build_network
from robench.models.layers import ACTIVATIONS
from robench.objectives import OBJECTIVES, penalised_loss, regularizers_of

VARIANTS: list[tuple[str, list[str]]] = [  # objective, regularisers; the first is what all others are compared with
    ("standard", []),
    ("standard", ["sagr"]),
    ("standard", ["sagr,estimator=true-rademacher"]),
    ("standard", ["sagr,estimator=fd"]),
    ("standard", ["sagr,estimator=fd-input"]),
    ("standard", ["sagr,estimator=sampled"]),
    ("standard", ["sagr,sign=positive"]),
    ("standard", ["sagr,norm=l1"]),
    ("standard", ["sagr,estimator=exact"]),
    ("standard", ["sagr,form=loss"]),
    ("standard", ["sagr,form=loss,estimator=fd"]),
    ("standard", ["jacobian"]),
    ("standard", ["jacobian,estimator=exact"]),
    ("pgd-at", []),
    ("pgd-at", ["sagr"]),
]


def step_of(
    model: nn.Module, x: Tensor, y: Tensor, objective: str, regularizers: list[str], teacher: nn.Module | None = None
) -> Callable[[int], None]:
    """One training step as a function of its number: late in training, when every weight has reached its height."""
    craft, base, absorb, _ = resolve(parse_recipe(objective), OBJECTIVES, "objective")()
    penalties = regularizers_of(regularizers)
    loss_of, threat = penalised_loss(base, penalties), Threat("linf", 8 / 255)
    weights, ids, state = list(model.parameters()), torch.arange(len(x), device=x.device), dict[str, Tensor]()
    optimizer = torch.optim.SGD(weights, 1e-4)

    def step(number: int) -> None:
        draws = Draws(0, ids, "train").child(number)
        batch = Batch(x, y, x, x.new_empty(0), ids, 0.9, draws, teacher=teacher, threat=threat, state=state)
        x_adv = craft(model, batch).detach().requires_grad_(bool(penalties) or absorb is not None)
        batch = replace(batch, x_adv=x_adv, logits=model(x_adv))
        loss, _ = loss_of(model, batch)
        optimizer.zero_grad()
        x_adv.grad = None
        torch.autograd.backward(loss, inputs=[*weights, x_adv] if absorb else weights)
        if absorb and x_adv.grad is not None:
            absorb(batch, x_adv.grad)
        optimizer.step()

    return step


def clock_of(device: torch.device, threads: int) -> Callable[[], float]:
    """A clock in seconds: CPU time where one thread does all the work, wall time after all work is done otherwise."""
    if device.type == "cpu":
        return time.process_time if threads == 1 else time.perf_counter

    def clock() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return clock


def measure(steps: list[Callable[[int], None]], repeats: int, clock: Callable[[], float]) -> list[list[float]]:
    """Seconds of each repeat of each step, after two rounds to warm up."""
    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(repeats + 2):
        for step, taken in zip(steps, seconds, strict=True):
            begin = clock()
            step(number)
            taken.append(clock() - begin)
    return [taken[2:] for taken in seconds]


def arguments(about: str | None) -> argparse.ArgumentParser:
    """The network, the images and the clock, as options."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="cnn", choices=sorted(ARCHITECTURES))
    parser.add_argument("--activation", default="gelu", choices=sorted(ACTIVATIONS))
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", type=torch.device)
    return parser


def network(given: argparse.Namespace) -> nn.Module:
    """A network in training mode, with weights from the generator of torch."""
    shape = (3, given.image_size, given.image_size)
    return build_network(given.arch, classes=given.classes, shape=shape, activation=given.activation).to(given.device).train()


def images(given: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Random images and labels."""
    x = torch.rand(given.batch_size, 3, given.image_size, given.image_size, device=given.device)
    return x, torch.arange(given.batch_size, device=given.device) % given.classes


def headline(given: argparse.Namespace, plain: float) -> str:
    """What was measured, and the seconds of the plain step that all else is compared with."""
    about = f"{given.arch}, {given.activation}, batch {given.batch_size} of {given.image_size}x{given.image_size}, K = {given.classes}"
    where = f"torch {torch.__version__}, {given.device}, threads {given.threads}"
    return f"{about}, {where}; plain step {plain * 1e3:.1f} ms, medians of {given.repeats}"


def main() -> None:
    """Prints one line for each variant."""
    given = arguments(__doc__).parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model, (x, y) = network(given), images(given)
    steps = [step_of(model, x, y, *variant) for variant in VARIANTS]
    seconds = measure(steps, given.repeats, clock_of(given.device, given.threads))
    plain = statistics.median(seconds[0])
    print(headline(given, plain))
    for (objective, regularizers), taken in zip(VARIANTS, seconds, strict=True):
        low, middle, high = statistics.quantiles(taken, n=4)
        print(f"{middle / plain:6.2f}  ({low / plain:.2f}-{high / plain:.2f})  {' + '.join([objective, *regularizers])}")


if __name__ == "__main__":
    main()
