"""Time of cheaper passes against the model's own, each part alone and together, in alternation in one process.

    python tests/benchmarks/cheaper_passes.py --zoo zoo.py --models resnet2b wong2020_fgsm resnet20_standard

Each number is the median, over the rounds, of a pass's share of the time of the model's own pass in the same round: below 1 it
pays. F is a forward pass, F+B a forward and a backward pass to the input. "folded" is batch norm folded, "ch.last" the memory format,
"both" these two, "bf16" is on top of both, "compiled" is torch.compile of the model as it is, and "c.both" of both. The images
are random. Ratios carry over between machines of one kind, seconds do not. A model without batch norm runs the same code as "folded":
how far that column is from 1 tells how quiet the machine is.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from robench.core.model_calls import freeze_model
from robench.core.recipes import function_from_file
from robench.models.stand_ins import (
    StandIn,
    arithmetic,
    channels_last_stand_in,
    fitting_batch_size,
    folded_model,
    logits_and_input_gradient,
)


def image_shape(model: nn.Module) -> tuple[int, int, int]:
    """The shape of the images of a model: 28x28 where its first convolution takes one channel, 32x32 in colour else."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    return (1, 28, 28) if first.in_channels == 1 else (3, 32, 32)


def candidates(model: nn.Module, x: Tensor, compile: bool) -> dict[str, nn.Module]:
    """The ways of making a pass, the model's own first."""
    network, notes = folded_model(model, x)
    both, more = channels_last_stand_in(StandIn(model, network), x, wanted=True)
    last, _ = channels_last_stand_in(StandIn(model, model), x, wanted=True)
    print("  ", "; ".join([*notes, *more]))
    ways = {"plain": model, "folded": network, "ch.last": last, "both": both}
    ways["bf16"] = StandIn(model, both.network, channels_last=True, bf16=True)
    if compile:
        ways["compiled"] = torch.compile(model, dynamic=True)
        ways["c.both"] = StandIn(model, torch.compile(both.network, dynamic=True), channels_last=True)
        for name in ("compiled", "c.both"):
            begin = time.perf_counter()
            for size in (len(x), len(x) - 1):
                logits_and_input_gradient(ways[name], x[:size])
                forward(ways[name], x[:size])
            print(f"   {name}: {time.perf_counter() - begin:.1f} s to compile")
    return ways


@torch.no_grad()
def forward(model: nn.Module, x: Tensor) -> Tensor:
    """The logits, and no graph."""
    return model(x)


def seconds(run: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def race(
    ways: dict[str, nn.Module], x: Tensor, one_pass: Callable[[nn.Module, Tensor], object], least: float
) -> tuple[float, dict[str, float]]:
    """The median seconds of the plain pass, and each way's median share of it, over at least 5 rounds and `least` seconds."""
    for way in ways.values():
        one_pass(way, x)
    rounds: list[dict[str, float]] = []
    begin = time.perf_counter()
    while len(rounds) < 5 or time.perf_counter() - begin < least:
        order = random.sample(list(ways), len(ways))  # what ran just before leaves its traces in caches and memory
        rounds.append({name: seconds(partial(one_pass, ways[name], x)) for name in order})
    shares = {name: statistics.median(times[name] / times["plain"] for times in rounds) for name in ways if name != "plain"}
    return statistics.median(times["plain"] for times in rounds), shares


def main() -> None:
    """Reads the arguments, runs the races, prints one table per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", required=True, help="Python file with a function for each model")
    parser.add_argument("--models", nargs="+", default=["resnet2b", "wong2020_fgsm", "resnet20_standard"])
    parser.add_argument("--batches", nargs="+", type=int, default=[100, 250])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each race")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {torch.backends.cpu.get_cpu_capability()}")
    for name in options.models:
        model: nn.Module = function_from_file(f"{options.zoo}:{name}")()
        x = torch.rand(max(options.batches), *image_shape(model))
        with freeze_model(model), arithmetic("fp32"):
            print(f"{name}: --batch-size auto takes {fitting_batch_size(model, x, 'cpu', most=1000)}")
            ways = candidates(model, x[:64], not options.no_compile)
            print(f"   {'batch':>5} {'pass':>4} {'plain':>9} " + " ".join(f"{way:>8}" for way in list(ways)[1:]))
            for batch in options.batches:
                for what, one_pass in (("F", forward), ("F+B", logits_and_input_gradient)):
                    plain, shares = race(ways, x[:batch], one_pass, options.seconds)
                    print(
                        f"   {batch:5d} {what:>4} {1000 * plain:6.1f} ms " + " ".join(f"{share:8.2f}" for share in shares.values()),
                        flush=True,
                    )


if __name__ == "__main__":
    main()
