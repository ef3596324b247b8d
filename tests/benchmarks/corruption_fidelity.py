"""How near our corruptions come to the published generator's, on the first 500 lossless CIFAR-10 test images.

python tests/benchmarks/corruption_fidelity.py --frost-dir $ROBENCH_DATA/frost

Prints a table: for each corruption and severity the mean absolute distortion of ours and of the published images, in grey levels; the
difference in percent and in standard deviations of the published one from seed to seed (a dash where no chance is involved); whether it
is inside the target, 3 percent or 3 deviations; and of the other statistics (rms distortion, mean and spread of each channel, mean
horizontal gradient) the one that is farthest off by the same measure. Either side is one seed, so that chance alone makes a difference of
1.4 deviations; the mean of several of ours, --seeds 5, shows the published seed's own chance.
Needs ROBENCH_DATA with cifar10-lossless.npz, cifar_c_reference_statistics.csv and cifar_c_reference_seed_sd.csv.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robench.core.draws import Draws
from robench.core.recipes import options_of
from robench.corruptions import CORRUPTIONS

N = 500  # images of the reference
PERCENT, DEVIATIONS = 3.0, 3.0
DISTORTION = "mean_abs_diff"
Numbers = dict[str, float]  # statistic -> value
Table = dict[tuple[str, int], Numbers]  # corruption and severity


class Gap(NamedTuple):
    """How far a statistic is from the published one."""

    statistic: str
    ours: float
    published: float
    deviation: float  # of the published one from seed to seed; 0 where no chance is involved

    @property
    def percent(self) -> float:
        """The difference in percent of the published value."""
        return 100 * (self.ours / self.published - 1)

    @property
    def deviations(self) -> float:
        """The difference in standard deviations from seed to seed; nan where there are none."""
        return (self.ours - self.published) / self.deviation if self.deviation else float("nan")

    @property
    def excess(self) -> float:
        """The difference in shares of what is allowed: at most 1 is inside."""
        far = abs(self.percent) / PERCENT
        return min(far, abs(self.deviations) / DEVIATIONS) if self.deviation else far


def read(path: Path, value: str) -> Table:
    """A table of the published generator."""
    found: Table = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            found.setdefault((row["corruption"], int(row["severity"])), {})[row["statistic"]] = float(row[value])
    return found


def measured(made: NDArray[np.float64], clean: NDArray[np.float64]) -> dict[str, float]:
    """The statistics of images (B, C, H, W) in grey levels."""
    gap = made - clean
    found = {DISTORTION: np.abs(gap).mean(), "rms_diff": np.sqrt(np.square(gap).mean())}
    found["mean_abs_hgrad"] = np.abs(np.diff(made, axis=3)).mean()
    for channel, letter in enumerate("rgb"):
        found[f"mean_{letter}"], found[f"std_{letter}"] = made[:, channel].mean(), made[:, channel].std()
    return {name: float(value) for name, value in found.items()}


def corrupted(corrupt: Callable[..., Tensor], grey: Tensor, severity: int, seed: int) -> NDArray[np.float64]:
    """The grey levels of the corrupted images, in batches."""
    draws = Draws(seed, torch.arange(len(grey)), "benchmark")
    parts = [corrupt(grey[rows].float() / 255, severity, draws.take(rows)) for rows in torch.arange(len(grey)).split(100)]
    return np.asarray((torch.cat(parts) * 255).round().double().numpy())


def gaps(corrupt: Callable[..., Tensor], grey: Tensor, severity: int, seeds: int, values: Numbers, spreads: Numbers) -> list[Gap]:
    """All statistics of a corruption at one severity, that of the distortion first."""
    clean = grey.double().numpy()
    runs = [measured(corrupted(corrupt, grey, severity, seed), clean) for seed in range(seeds)]
    return [Gap(key, statistics.fmean(run[key] for run in runs), values[key], spreads.get(key, 0.0)) for key in runs[0]]


def line(name: str, severity: int, found: list[Gap]) -> str:
    """A line of the table."""
    first, *others = found
    worst = max(others, key=lambda gap: gap.excess)
    cells = [name, str(severity), f"{first.ours:.2f}", f"{first.published:.2f}", f"{first.percent:+.2f}", marked(first.deviations)]
    cells += ["yes" if first.excess <= 1 else "NO", worst.statistic, f"{worst.percent:+.2f}", marked(worst.deviations)]
    return f"| {' | '.join(cells)} |"


def marked(deviations: float) -> str:
    """A number of deviations, or a dash for nan."""
    return "-" if math.isnan(deviations) else f"{deviations:+.1f}"


def with_photos(corrupt: Callable[..., Tensor], folder: str | None) -> Callable[..., Tensor]:
    """The corruption with the folder of the frost photos, if it takes one."""
    return partial(corrupt, photos=folder) if folder and "photos" in options_of(corrupt) else corrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="corruptions; all unless given")
    parser.add_argument("--frost-dir", help="folder of the frost photos; without it frost makes its own texture, which is no reproduction")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of ours whose mean is taken")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = Path(os.environ["ROBENCH_DATA"])
    values = read(data / "cifar_c_reference_statistics.csv", "value")
    spreads = read(data / "cifar_c_reference_seed_sd.csv", "seed_sd")
    with np.load(data / "cifar10-lossless.npz") as file:
        grey = torch.from_numpy(file["x_test"][:N]).movedim(3, 1)
    print("| corruption | severity | ours | published | % | deviations | inside | farthest other | % | deviations |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    names = args.names or list(dict.fromkeys(name for name, _ in values))
    for key in [key for key in values if key[0] in names and key[0] in CORRUPTIONS]:
        corrupt = with_photos(CORRUPTIONS[key[0]], args.frost_dir)
        print(line(*key, gaps(corrupt, grey, key[1], args.seeds, values[key], spreads.get(key, {}))), flush=True)
    if absent := [name for name in names if name not in CORRUPTIONS]:
        print(f"\nnot made by robench: {', '.join(absent)}")


if __name__ == "__main__":
    main()
