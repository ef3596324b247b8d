"""Compares the samples.csv of an evaluation with the verdicts of the authors' AutoAttack driver, stage by stage and image by image.

robench eval $ROBENCH_MODELS/zoo.py:resnet2b --data npz:$ROBENCH_DATA/cifar10-lossless.npz --eps 2/255 --n 500 --out OUT
python tests/benchmarks/verdicts_vs_reference.py OUT/samples.csv resnet2b --verdicts $ROBENCH_MODELS/reference_verdicts.csv
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

STAGES = ("clean", "apgd-ce", "apgd-t", "fab-t", "square")


def verdicts(path: Path, **where: str) -> dict[int, str]:
    """The probe that broke each sample, "" for survivors, of the lines that have the given values."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row[key] == value for key, value in where.items())]
    return {int(row["sample"]): row["broken_by"] for row in rows}


def standing(broken_by: dict[int, str], stage: int) -> set[int]:
    """The samples that stand after a stage."""
    return {sample for sample, probe in broken_by.items() if probe not in STAGES[: stage + 1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("model")
    parser.add_argument("--verdicts", type=Path, required=True)
    parser.add_argument("--seed", default="0")
    args = parser.parse_args()
    ours, theirs = verdicts(args.samples), verdicts(args.verdicts, model=args.model, seed=args.seed)
    if set(ours) != set(theirs):
        raise SystemExit(f"{args.samples} holds {len(ours)} samples, the reference has {len(theirs)} of {args.model} at seed {args.seed}")
    print(f"{args.model}, n = {len(ours)}, seed {args.seed}\nafter      ours %  reference %  only ours stand  only theirs stand")
    for stage, name in enumerate(STAGES):
        a, b = standing(ours, stage), standing(theirs, stage)
        print(f"{name:10} {100 * len(a) / len(ours):6.1f}  {100 * len(b) / len(ours):11.1f}  {len(a - b):15d}  {len(b - a):17d}")


if __name__ == "__main__":
    main()
