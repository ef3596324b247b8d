"""The plan of a run against the run itself, where all images stand: planned seconds over real ones, stage by stage.

python tests/benchmarks/plan_accuracy.py --network small --n 100
python tests/benchmarks/plan_accuracy.py --network resnet18 --side 224 --n 32 --suite apgd-ce

`small` is the committed checkpoint on the built-in images, `resnet18` torchvision's network with weights drawn from a seed, on images of
noise; the labels are their own predictions. The radius is so small that no image falls. Work of others on the machine moves both sides,
not by the same.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import robench
from robench.core.memory import keep_freed_memory
from robench.data import load_images

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "shapes-cnn-pgd-at.pt"


def network_and_images(args: argparse.Namespace) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """The model, the images that it gets right, and their labels."""
    if args.network == "small":
        model, x = robench.load_model(CHECKPOINT), load_images("shapes", "test", n=args.n).pixels(slice(None))
    else:
        from torchvision.models import resnet18

        torch.manual_seed(0)
        model, x = resnet18(num_classes=args.classes).eval(), torch.rand(args.n, 3, args.side, args.side)
    with torch.no_grad():
        return model, x, torch.cat([model(part).argmax(1) for part in x.split(16)])


def main() -> None:
    """Plans, runs, and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("small", "resnet18"), default="small")
    parser.add_argument("--suite", default="autoattack")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--eps", type=float, default=1e-7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    model, x, y = network_and_images(args)
    words = {"suite": args.suite, "eps": args.eps, "batch_size": args.batch_size, "prepare": True}
    begin = time.perf_counter()
    costs = robench.plan_costs(robench.evaluate, model, x, y, **words)
    planning = time.perf_counter() - begin
    begin = time.perf_counter()
    found = robench.evaluate(model, x, y, **words)
    real = time.perf_counter() - begin
    seconds = {row.probe: row.value for row in found.rows if row.metric == "seconds"}
    for stage in costs.stages:
        if stage.kind in ("clean", "attack"):
            planned, took = costs.stage_seconds(stage), seconds[stage.name]
            print(f"{stage.name}: planned {planned:.1f} s, real {took:.1f} s, ratio {planned / took:.2f}")
    print(f"all: planned {costs.seconds:.1f} s, real {real:.1f} s, ratio {costs.seconds / real:.2f}; the plan took {planning:.1f} s")
    print(f"accuracy left: {min(row.value for row in found.rows if row.metric == 'accuracy')}")


if __name__ == "__main__":
    main()
