"""What a training method costs: the time of a whole step relative to a plain cross-entropy step and to a step of PGD training.

    python tests/benchmarks/training_cost.py --arch cnn --activation gelu
    python tests/benchmarks/training_cost.py --arch resnet8 --variants pgd-at+emr=0.02 trades+emr standard+sagr,rho=0.3

Measured as in regularizer_cost.py, on random images: every variant in turn, `repeats` times over, in one process; CPU time with one
thread. A variant is a sentence for the objective and, after +, one for each regulariser; by default it is every objective, and every
regulariser on the objective that is its default. What cannot be made is named and skipped. Two loops with nothing around them stand
beside: a plain step, and ten gradients by the input of the frozen network in evaluation mode before a plain step.
Columns: relative to `standard` (with quartiles), relative to `pgd-at`, the variant, and its target where it has one.
A step of free-at is one of its replays. The teacher is a second network of the same architecture.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator

import torch
from regularizer_cost import arguments, clock_of, headline, images, measure, network, step_of
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.objectives import OBJECTIVES, REGULARIZERS, facts_of
from robench.objectives.gradients import mixes_samples

BARE, BARE_PGD = "a bare plain step", "ten bare input gradients and a bare plain step"
TARGETS = {  # at most so many times the cost of which variant: without, and with batch norm, which asks for a second forward pass
    "pgd-at": (BARE_PGD, 1.1, 1.1),
    "standard+sagr": ("standard", 3.5, 4.6),
    "standard+double-backprop": ("standard", 3.5, 4.6),
    "pgd-at+emr": ("pgd-at", 1.45, 1.45),
    "pgd-at+igd": ("pgd-at", 1.6, 1.6),
}


def bare_step(model: nn.Module, x: Tensor, y: Tensor, gradients: int = 0) -> Callable[[int], None]:
    """So many gradients by the input, then a step on the cross-entropy, with nothing around them."""
    weights = list(model.parameters())
    optimizer = torch.optim.SGD(weights, 1e-4)

    def step(number: int) -> None:
        model.eval().requires_grad_(False)
        for _ in range(gradients):
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
        model.train().requires_grad_(True)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def known() -> list[str]:
    """Every objective, every regulariser on its default objective, and what has a target."""
    regularised = [f"{facts_of(name).base}+{name}" for name in REGULARIZERS]
    return [*OBJECTIVES, *regularised, *TARGETS]


def made(model: nn.Module, x: Tensor, y: Tensor, sentences: list[str], teacher: nn.Module) -> Iterator[tuple[str, Callable[[int], None]]]:
    """Each variant that can be made with its step, tried once; a line for those that cannot."""
    for sentence in dict.fromkeys(["standard", "pgd-at", *sentences]):
        objective, *regularizers = sentence.split("+")
        try:
            step = step_of(model, x, y, objective, regularizers, teacher)
            step(0)
        except InputError as error:
            print(f"skipped  {sentence}: {error}")
        else:
            yield sentence, step


def verdict(sentence: str, medians: dict[str, float], batch_norm: bool) -> str:
    """The target of a variant, what it came to, and whether it was met."""
    if sentence not in TARGETS:
        return ""
    beside, *targets = TARGETS[sentence]
    ratio, target = medians[sentence] / medians[beside], targets[batch_norm]
    return f"{ratio:.2f} of {beside}, target <= {target}: {'met' if ratio <= target else 'MISSED'}"


def main() -> None:
    """Prints one line for each variant."""
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--variants", nargs="+", metavar="OBJECTIVE[+REGULARISER...]", default=known())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model, teacher, (x, y) = network(given), network(given).eval().requires_grad_(False), images(given)
    steps = {BARE: bare_step(model, x, y), BARE_PGD: bare_step(model, x, y, 10)}
    steps |= dict(made(model, x, y, given.variants, teacher))
    seconds = dict(zip(steps, measure(list(steps.values()), given.repeats, clock_of(given.device, given.threads)), strict=True))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    plain, pgd = medians["standard"], medians["pgd-at"]
    print(headline(given, plain))
    for name, taken in seconds.items():
        low, middle, high = (quartile / plain for quartile in statistics.quantiles(taken, n=4))
        line = (
            f"{middle:6.2f}  ({low:.2f}-{high:.2f})  {middle * plain / pgd:5.2f}  {name:24}  {verdict(name, medians, mixes_samples(model))}"
        )
        print(line.rstrip())


if __name__ == "__main__":
    main()
