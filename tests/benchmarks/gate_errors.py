"""How often gates of `robench compare` fall where nothing changed, and how often they find a drop that is there.

    python tests/benchmarks/gate_errors.py measure MODEL OTHER FOLDER --runs 100 --n 500      (resumable: runs that lie there are left)
    python tests/benchmarks/gate_errors.py alarms FOLDER
    python tests/benchmarks/gate_errors.py power

`measure` makes runs of MODEL that differ in the seed alone, and one run of OTHER, a training of the same recipe with another seed; pairs
and groups of eight are drawn from them at random.
`alarms` counts calls of `compare` in which any gate fell: (a) between runs that differ in the seed alone, (b) between two runs made of
MODEL and OTHER by exchanging image by image at random, so that neither is better; each against one base and against seven.
`power` draws verdicts of images with a known drop and a known share of images that change, and needs no runs.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np

from robench.core.paired import holm, tango_z
from robench.core.statistics import mcnemar
from robench.results.compare import RunImages, RunPair, run_images, run_pair
from robench.results.gates import FELL, gate_results, parse_gates

SUITE_RECIPES = ("smoke", "random-noise,t=0.1", "gaussian_noise,severity=3", "fog,severity=3", "saliency")
GATES = ("clean:drop", "smoke:drop", "random-noise:drop", "gaussian_noise:drop", "fog:drop", "gini:rise")
MARGINS = ("clean:drop>0.5%", "smoke:drop>1%", "random-noise:drop>1%", "gaussian_noise:drop>1%", "fog:drop>1%", "gini:rise>0.001")
NIGHTS, ALPHA, PAIRS = 7, 0.05, 200
CHANGED = (0.04, 0.06, 0.07, 0.10, 0.15)
DRAWS = 4000


def measure(options: argparse.Namespace) -> None:
    """Makes the runs, those that are missing."""
    import robench
    from robench.data import load_images
    from robench.report.manifest import new_manifest
    from robench.results.files import save_tables

    images = load_images("shapes", "test", n=options.n)
    wanted = [(options.model, seed, options.folder / f"seed-{seed}") for seed in range(options.runs)]
    for model, seed, folder in [*wanted, (options.other, 0, options.folder / "other")]:
        if (folder / "manifest.json").exists():
            continue
        found = robench.evaluate(robench.load_model(model), images, suite=list(SUITE_RECIPES), seed=seed, batch_size=options.n)
        folder.mkdir(parents=True, exist_ok=True)
        data = {"name": images.name, "split": images.split, "n": len(images), "sha256": images.sha256}
        tables = dict(found.tables)
        manifest = new_manifest("cpu", seed, 0.0, [], data=data)
        save_tables(folder, found.rows, tables.pop("samples"), manifest, **tables)
        print(f"{folder.name} measured", flush=True)


def alarms(options: argparse.Namespace) -> None:
    """Prints the share of calls with a false alarm, and its one-sided 95 % lower bound."""
    seeds = [run_images(path) for path in sorted(options.folder.glob("seed-*"), key=lambda path: int(path.name[5:]))]
    other, rng = run_images(options.folder / "other"), np.random.default_rng(0)
    print(f"{len(seeds)} runs, n = {len(seeds[0].models[0].labels)}, alpha {ALPHA}, {len(GATES)} gates")
    print(f"images that change between two seeds, and between two trainings: {changed_text(seeds)}; {changed_text([seeds[0], other])}")
    pairs = [[seeds[k] for k in rng.choice(len(seeds), 2, replace=False)] for _ in range(PAIRS)]
    windows = [[seeds[k] for k in rng.choice(len(seeds), NIGHTS + 1, replace=False)] for _ in range(PAIRS)]
    mixed = [[exchanged(seeds[0], other, rng) for _ in range(NIGHTS + 1)] for _ in range(PAIRS)]
    for name, groups in (
        ("seeds alone, one base", pairs),
        ("seeds alone, seven bases", windows),
        ("exchanged, one base", [exchanged_pair(seeds[0], other, rng) for _ in range(PAIRS)]),
        ("exchanged, seven bases", mixed),
    ):
        for what, gates in (("any change", GATES), ("with margins", MARGINS)):
            print(alarm_line(f"{name}, {what}", groups, gates), flush=True)


def alarm_line(name: str, groups: Sequence[Sequence[RunImages]], gates: Sequence[str]) -> str:
    """The count of calls in which a gate fell, and the lower bound of its share."""
    count = sum(any_fell(group[:-1], group[-1], gates) for group in groups)
    low = lower_bound(count, len(groups))
    return f"{name}: {count} of {len(groups)} calls, lower bound {low:.4f}: {'at most alpha' if low <= ALPHA else 'MORE THAN ALPHA'}"


def any_fell(bases: Sequence[RunImages], new: RunImages, gates: Sequence[str]) -> bool:
    """Whether a gate of one call fell."""
    pairs: list[RunPair] = [run_pair(base, new, len(bases) > 1) for base in bases]
    return any(result.verdict == FELL for result in gate_results(parse_gates(gates), pairs, ALPHA))


def lower_bound(count: int, n: int, alpha: float = 0.05) -> float:
    """The one-sided lower bound of Clopper and Pearson: the share at which so many or more have probability alpha."""
    low, high = 0.0, count / n
    for _ in range(60):
        middle = (low + high) / 2
        tail = sum(math.comb(n, k) * middle**k * (1 - middle) ** (n - k) for k in range(count, n + 1))
        low, high = (middle, high) if tail < alpha else (low, middle)
    return low


def exchanged_pair(one: RunImages, other: RunImages, rng: np.random.Generator) -> list[RunImages]:
    """Two runs: each image's numbers of both trainings go to the one or the other at random."""
    mask = rng.random(max(one.models[0].labels) + 1) < 0.5
    return [mixed_run(one, other, mask), mixed_run(one, other, ~mask)]


def exchanged(one: RunImages, other: RunImages, rng: np.random.Generator) -> RunImages:
    """A run whose images come from the one or the other training at random."""
    return mixed_run(one, other, rng.random(max(one.models[0].labels) + 1) < 0.5)


def mixed_run(one: RunImages, other: RunImages, mask: np.ndarray) -> RunImages:
    """A run with the numbers of `one` where the mask holds, else those of `other`."""
    by_row = {(v.row.probe, v.row.metric, v.row.norm, v.row.setting): v for v in other.models[0].series}
    series = []
    for values in one.models[0].series:
        same = by_row.get((values.row.probe, values.row.metric, values.row.norm, values.row.setting))
        if same is not None and len(same.ids) == len(values.ids):
            series.append(replace(values, values=np.where(mask[values.ids], values.values, same.values)))
    return RunImages(one.run, [replace(one.models[0], series=tuple(series))])


def changed_text(runs: Sequence[RunImages]) -> str:
    """The mean share of images whose verdict changes between one run and the next, for each row of the gates."""
    shares: dict[str, list[float]] = {}
    for one, another in pairwise(runs):
        for row in run_pair(one, another).compared:
            if row.row.metric == "accuracy":
                shares.setdefault(row.row.probe, []).append(float((row.values.base != row.values.new).mean()))
    return ", ".join(f"{name} {100 * np.mean(some):.2f} %" for name, some in shares.items())


# --- power


def power(_: argparse.Namespace) -> None:
    """Prints how often a drop is found, by the share of images that change, and how many images are needed."""
    rng = np.random.default_rng(0)
    print(f"a real drop of 3 points, n = 1,000, alpha {ALPHA}, {DRAWS} draws: found by")
    print("changed   drop>0% alone   drop>0% of six (Holm)   drop>1% alone   drop>1% of six (Holm)")
    for changed in CHANGED:
        cells = [f"{found_share(rng, 1000, changed, 0.03, margin, gates):.3f}" for margin in (0.0, 0.01) for gates in (1, 6)]
        print(f"{100 * changed:.0f} %       " + "             ".join(cells))
    print("images needed to find a drop nine times in ten, one gate, by the drop beyond the margin and the share that changes")
    for drop in (0.005, 0.01, 0.02, 0.03):
        needed = [f"{100 * changed:.0f} %: {needed_images(drop, changed):,}" for changed in CHANGED]
        print(f"{100 * drop:g} points: " + ", ".join(needed))


def found_share(rng: np.random.Generator, n: int, changed: float, drop: float, margin: float, gates: int) -> float:
    """How often a gate falls; the other gates of the call see no change."""
    lost, won = (changed + drop) / 2, (changed - drop) / 2
    counts, how_often = np.unique(rng.multinomial(n, [lost, won, 1 - lost - won], size=DRAWS)[:, :2], axis=0, return_counts=True)
    return float(
        sum(times for (b, c), times in zip(counts.tolist(), how_often.tolist(), strict=True) if falls(b, c, n, margin, gates)) / DRAWS
    )


def falls(lost: int, won: int, n: int, margin: float, gates: int) -> bool:
    """Whether a gate falls on these counts, with others beside it."""
    if lost - won <= margin * n:
        return False
    p = mcnemar(lost, won) if margin == 0 else math.erfc(abs(tango_z(lost, won, n, -margin)) / math.sqrt(2))
    return holm([p, *[1.0] * (gates - 1)])[0] <= ALPHA


def needed_images(drop: float, changed: float) -> str | int:
    """The number of images by the formula of Connor 1987."""
    if changed < drop:
        return 0
    normal = NormalDist()
    z, beta = normal.inv_cdf(1 - ALPHA / 2), normal.inv_cdf(0.9)
    return math.ceil(((z * math.sqrt(changed) + beta * math.sqrt(changed - drop**2)) / drop) ** 2)


def main(words: Sequence[str]) -> None:
    """Runs one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("measure")
    one.add_argument("model"), one.add_argument("other"), one.add_argument("folder", type=Path)
    one.add_argument("--runs", type=int, default=100), one.add_argument("--n", type=int, default=500)
    one.set_defaults(call=measure)
    two = commands.add_parser("alarms")
    two.add_argument("folder", type=Path)
    two.set_defaults(call=alarms)
    commands.add_parser("power").set_defaults(call=power)
    options = parser.parse_args(words)
    options.call(options)


if __name__ == "__main__":
    main(sys.argv[1:])
