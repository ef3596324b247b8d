"""How many verdicts of AutoAttack change with the batch size, or when two processes share the images, at one seed.

python tests/benchmarks/invariance.py resnet2b --eps 2/255 --n 200

Runs our engine with batches of 16, 64 and 250, and with every other image left out (what each of two processes sees), and compares every
image's verdict and the attack that broke it with the run at 250. Random numbers belong to the image, so only the last bits of the
logits, which differ between batches of different size, can change anything. Needs ROBENCH_MODELS and ROBENCH_DATA.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from robench import evaluate
from robench.core.memory import keep_freed_memory
from robench.core.recipes import parse_fraction
from robench.core.rows import Sample
from robench.data import load_images
from robench.data.images import Images
from robench.models import load_with_origin


def samples(model: torch.nn.Module, images: Images, args: argparse.Namespace, batch_size: int) -> dict[int, Sample]:
    """What became of each image, by its id."""
    found = evaluate(model, images.x, images.y, ids=images.ids, eps=args.eps, batch_size=batch_size, suite=args.suite)
    return {sample.sample: sample for sample in found.samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--eps", type=parse_fraction, required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--suite", default="autoattack")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    data, zoo = Path(os.environ["ROBENCH_DATA"]), Path(os.environ["ROBENCH_MODELS"]) / "zoo.py"
    name = "mnist" if args.model in ("wong2020_fgsm", "atzmon2019") else f"npz:{data / 'cifar10-lossless.npz'}"
    images = load_images(name, "test", data_dir=data, n=args.n)
    model = load_with_origin(f"{zoo}:{args.model}", classes=10, shape=images.shape).model
    base = samples(model, images, args, 250)
    stand = sum(not s.broken_by for s in base.values())
    print(f"{args.model}, {args.suite}, eps {args.eps:.5g}, n = {args.n}, against batches of 250, of which {stand} stand")
    halves = samples(model, images.take(slice(0, None, 2)), args, 250) | samples(model, images.take(slice(1, None, 2)), args, 250)
    others = {"batch 16": samples(model, images, args, 16), "batch 64": samples(model, images, args, 64), "two halves": halves}
    for title, run in others.items():
        verdicts = [s for s in base if bool(base[s].broken_by) != bool(run[s].broken_by)]
        by_other = sum(base[s].broken_by != run[s].broken_by for s in base) - len(verdicts)
        steps = sum((base[s].broken_by, base[s].step) != (run[s].broken_by, run[s].step) for s in base)
        margins = ", ".join(f"{base[s].adv_margin if base[s].broken_by else run[s].adv_margin:.2g}" for s in verdicts)
        counts = f"verdicts {len(verdicts)}  broken by another attack {by_other}  at another step {steps}"
        print(f"{title:10}  {counts}  margins of the verdicts: {margins or 0}")


if __name__ == "__main__":
    main()
