"""Compares evaluations of several seeds with the verdicts of the authors' AutoAttack driver, stage by stage, pooled and image by image.

DATA=npz:$ROBENCH_DATA/cifar10-lossless.npz
for seed in 0 1 2; do
  robench eval $ROBENCH_MODELS/zoo.py:resnet2b --data $DATA --eps 2/255 --n 500 --seed $seed --threads 1 --out OUT-$seed
done
python tests/benchmarks/verdicts_vs_reference.py resnet2b OUT-0 OUT-1 OUT-2 --verdicts $ROBENCH_MODELS/reference_verdicts.csv

Each image has a share of seeds in which it stands after a stage, with us and with the reference. Printed are the means of both, their
paired difference in points with its standard error over images, what is allowed (0.2 points plus two standard errors of the
reference's own spread over seeds), and how many images stand more or less often with us.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from collections import defaultdict
from pathlib import Path

STAGES = ("clean", "apgd-ce", "apgd-t", "fab-t", "square")
Verdicts = dict[str, dict[int, str]]  # seed -> sample -> the probe that broke it, "" for a survivor


def reference(path: Path, model: str) -> Verdicts:
    """What the authors' driver said."""
    found: Verdicts = defaultdict(dict)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["model"] == model:
                found[row["seed"]][int(row["sample"])] = row["broken_by"]
    return found


def ours(folders: list[Path]) -> Verdicts:
    """What our runs said."""
    found: Verdicts = {}
    for folder in folders:
        with (folder / "samples.csv").open(newline="") as file:
            found[folder.name] = {int(row["sample"]): row["broken_by"] for row in csv.DictReader(file)}
    return found


def standing(verdicts: Verdicts, stage: int) -> dict[int, float]:
    """The share of seeds in which each sample stands after a stage."""
    fallen = STAGES[: stage + 1]
    samples = next(iter(verdicts.values()))
    return {s: statistics.mean(run[s] not in fallen for run in verdicts.values()) for s in samples}


def seed_error(verdicts: Verdicts, stage: int) -> float:
    """The standard error of the mean over seeds of the accuracy after a stage, in points."""
    fallen = STAGES[: stage + 1]
    runs = [100 * statistics.mean(probe not in fallen for probe in run.values()) for run in verdicts.values()]
    return statistics.stdev(runs) / math.sqrt(len(runs)) if len(runs) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--verdicts", type=Path, required=True)
    args = parser.parse_args()
    mine, theirs = ours(args.folders), reference(args.verdicts, args.model)
    if any(set(run) != set(next(iter(theirs.values()))) for run in mine.values()):
        raise SystemExit(f"the runs hold other samples than the reference has of {args.model}")
    n = len(next(iter(theirs.values())))
    print(f"{args.model}, n = {n}, {len(mine)} seeds of ours, {len(theirs)} of the reference")
    print("after      ours %  reference %  difference  (s.e.)  allowed  more often  less often")
    for stage, name in enumerate(STAGES):
        a, b = standing(mine, stage), standing(theirs, stage)
        change = [100 * (a[s] - b[s]) for s in a]
        allowed = 0.2 + 2 * seed_error(theirs, stage)
        print(
            f"{name:10} {100 * statistics.mean(a.values()):6.2f}  {100 * statistics.mean(b.values()):11.2f}"
            f"  {statistics.mean(change):+10.2f}  {statistics.stdev(change) / math.sqrt(n):6.2f}  {allowed:+7.2f}"
            f"  {sum(c > 0 for c in change):10d}  {sum(c < 0 for c in change):10d}"
        )


if __name__ == "__main__":
    main()
