"""The plan of a training against the training itself: planned seconds over real ones.

python tests/benchmarks/train_plan_accuracy.py
python tests/benchmarks/train_plan_accuracy.py --objective trades --reg igd=1 --n-train 2000

Measurements are planned at the most, so their ratio is above 1 where images fall. Work of others on the machine moves both sides, not by
the same.
"""

from __future__ import annotations

import argparse
import time

import torch

import robench
from robench.core.memory import keep_freed_memory
from robench.training.types import Epoch


def main() -> None:
    """Plans, trains, and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="cnn")
    parser.add_argument("--objective", default="pgd-at,steps=5")
    parser.add_argument("--reg")
    parser.add_argument("--n-train", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    epochs: list[float] = []

    def watch(events, count):  # type: ignore[no-untyped-def]
        for event in events:
            epochs.extend([event.seconds] if isinstance(event, Epoch) else [])
            yield event

    words = {"arch": args.arch, "objective": args.objective, "reg": args.reg, "n_train": args.n_train, "epochs": args.epochs, "eval_n": 100}
    begin = time.perf_counter()
    costs = robench.plan_training("shapes", **words)
    planning, begin = time.perf_counter() - begin, time.perf_counter()
    robench.train("shapes", watch=watch, **words)
    real, steps = time.perf_counter() - begin, costs.steps * costs.step_seconds
    took = sum(epochs[-args.epochs :]) / args.epochs
    print(f"steps of an epoch: planned {steps:.1f} s, real {took:.1f} s, ratio {steps / took:.2f}")
    print(f"all: planned {costs.seconds:.1f} s, real {real:.1f} s, ratio {costs.seconds / real:.2f}; the plan took {planning:.1f} s")


if __name__ == "__main__":
    main()
