"""How near our corruptions come to the published generator's, on the first 500 lossless CIFAR-10 test images.

python tests/benchmarks/corruption_fidelity.py --frost-dir ../shared/data/frost

Prints a table: for each corruption and severity the mean absolute distortion of ours and of the published images, in grey levels; the
difference in percent and in standard deviations of the published one from seed to seed (a dash where no chance is involved); and of the
other statistics (rms distortion, mean and spread of each channel, mean horizontal gradient) the one that is farthest off. Farthest off
is what is farthest outside 3 percent or 3 deviations, whichever allows more; the last column says whether all are inside. Each side is one
seed, so that differences of chance alone are 1.4 deviations on the average; --seeds 5 takes the mean of five of ours.
Needs ROBENCH_DATA with cifar10-lossless.npz, cifar_c_reference_statistics.csv and cifar_c_reference_seed_sd.csv.
"""

from __future__ import annotations

import argparse
import csv
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

from robench.corruptions import CORRUPTIONS
from robench.draws import Draws
from robench.recipes import options_of

N = 500  # images of the reference
PERCENT, DEVIATIONS = 3.0, 3.0
DISTORTION = "mean_abs_diff"
Table = dict[str, dict[int, dict[str, float]]]  # corruption -> severity -> statistic -> value


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
            found.setdefault(row["corruption"], {}).setdefault(int(row["severity"]), {})[row["statistic"]] = float(row[value])
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


def gaps(corrupt: Callable[..., Tensor], grey: Tensor, severity: int, seeds: int, values: Table, spreads: Table) -> list[Gap]:
    """All statistics of a corruption at one severity, that of the distortion first."""
    clean, name = grey.double().numpy(), getattr(corrupt, "func", corrupt).__name__
    runs = [measured(corrupted(corrupt, grey, severity, seed), clean) for seed in range(seeds)]
    published, spread = values[name][severity], spreads.get(name, {}).get(severity, {})
    return [Gap(key, statistics.fmean(run[key] for run in runs), published[key], spread.get(key, 0.0)) for key in runs[0]]


def line(name: str, severity: int, found: list[Gap]) -> str:
    """A line of the table."""
    first, *others = found
    worst = max(others, key=lambda gap: gap.excess)
    inside = "yes" if max(gap.excess for gap in found) <= 1 else "NO"
    cells = [name, str(severity), f"{first.ours:.2f}", f"{first.published:.2f}", f"{first.percent:+.2f}", marked(first.deviations)]
    return f"| {' | '.join([*cells, worst.statistic, f'{worst.percent:+.2f}', marked(worst.deviations), inside])} |"


def marked(deviations: float) -> str:
    """A number of deviations, or a dash for nan."""
    return "-" if deviations != deviations else f"{deviations:+.1f}"


def with_photos(corrupt: Callable[..., Tensor], folder: str | None) -> Callable[..., Tensor]:
    """The corruption with the folder of the frost photos bound to its option for it, if it has one."""
    options = [key for key in options_of(corrupt) if key != "scale" and any(word in key for word in ("frost", "photo", "folder", "dir"))]
    return partial(corrupt, **{options[0]: folder}) if folder and options else corrupt


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
    print("| corruption | severity | ours | published | % | deviations | farthest other | % | deviations | inside |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    names = args.names or list(values)
    for name in [name for name in names if name in CORRUPTIONS]:
        for severity in range(1, 6):
            found = gaps(with_photos(CORRUPTIONS[name], args.frost_dir), grey, severity, args.seeds, values, spreads)
            print(line(name, severity, found), flush=True)
    if absent := [name for name in names if name not in CORRUPTIONS]:
        print(f"\nnot made by robench: {', '.join(absent)}")


if __name__ == "__main__":
    main()
