"""How long the fifteen corruptions of CIFAR-10-C take at five severities, and against imagecorruptions-imaug on the same images.

python tests/benchmarks/corruption_speed.py --threads 2
python tests/benchmarks/corruption_speed.py --threads 1 --workers 2

Threads of torch wait for each other after every operation: on a machine that is busy with other things the second command is the one
that tells something.

First part: n images (lossless CIFAR-10, repeated up to n) in batches through 15 corruptions at 5 severities; target: 10,000 in under two
minutes on two cores. The peak memory is that of the process after one batch of everything, and at the end: the same, whatever n is.
Second part: some images through our corruptions in one batch and through imagecorruptions one by one, in alternation in one process and
on its main thread, every other round in reverse order; printed are median milliseconds an image and severity, and the ratio round by
round. That package has the severities of ImageNet only: ours stands there with the same, and with those of CIFAR; target: at least 5.
Needs ROBENCH_DATA; the second part also `pip install imagecorruptions-imaug`, and is left out with a word where it is not there.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robench.core.draws import Draws
from robench.core.memory import keep_freed_memory
from robench.corruptions import CORRUPTIONS

FIFTEEN = ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"]
FIFTEEN += ["snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"]
NINETEEN = [*FIFTEEN, "speckle_noise", "gaussian_blur", "spatter", "saturate"]
SEVERITIES = range(1, 6)


def given(n: int) -> Tensor:
    """So many images, (n, 3, 32, 32) uint8."""
    with np.load(Path(os.environ["ROBENCH_DATA"]) / "cifar10-lossless.npz") as file:
        some = np.concatenate((file["x_test"], file["x_train"]))
    return torch.from_numpy(some[np.arange(n) % len(some)]).movedim(3, 1).contiguous()


def ours(name: str, images: Tensor, batch: int, scale: str, workers: int = 1) -> None:
    """One of our corruptions at all severities, the batches shared among so many workers."""
    draws = Draws(0, torch.arange(len(images)), "benchmark")

    def one(severity: int, rows: Tensor) -> None:
        CORRUPTIONS[name](images[rows].float() / 255, severity, draws.take(rows), scale=scale)

    parts = torch.arange(len(images)).split(batch)
    tasks = [(severity, rows) for severity in SEVERITIES for rows in parts]
    if workers == 1:
        for task in tasks:
            one(*task)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda task: one(*task), tasks))


def theirs(corrupt: Callable[..., Any], name: str, images: list[Any]) -> None:
    """One corruption of imagecorruptions at all severities, image by image."""
    for severity in SEVERITIES:
        for image in images:
            corrupt(image, severity=severity, corruption_name=name)


def seconds(task: Callable[[], object]) -> float:
    """The seconds that a task takes."""
    begin = time.perf_counter()
    task()
    return time.perf_counter() - begin


def peak() -> float:
    """The peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(names: list[str], images: Tensor, batch: int, workers: int) -> None:
    """The first part."""
    for name in names:
        ours(name, images[: workers * batch], batch, "cifar", workers)
    before, total, busy = peak(), 0.0, time.process_time()
    print("| corruption | s | ms an image and severity |\n|---|---|---|")
    for name in names:
        spent = seconds(partial(ours, name, images, batch, "cifar", workers))
        total += spent
        print(f"| {name} | {spent:.2f} | {1000 * spent / len(images) / len(SEVERITIES):.3f} |", flush=True)
    each = 1000 * total / len(images) / len(SEVERITIES) / len(names)
    print(f"| **all {len(names)} at {len(SEVERITIES)} severities** | **{total:.1f}** | {each:.3f} |")
    busy = time.process_time() - busy
    whole = each * len(names) * len(SEVERITIES)
    print(f"\n{len(images)} images: {total:.1f} s, {whole:.2f} ms for all of an image; {busy:.1f} s of processors")
    print(f"peak memory {before:.0f} MiB after the first batch of everything, {peak():.0f} MiB at the end\n", flush=True)


def compared(names: list[str], images: Tensor, rounds: int) -> None:
    """The second part."""
    try:
        corrupt = import_module("imagecorruptions").corrupt
    except ImportError as error:
        print(f"no comparison: imagecorruptions cannot be imported ({error}); pip install imagecorruptions-imaug")
        return
    singles = list(images.movedim(1, 3).contiguous().numpy())
    print("| corruption | theirs, ms | ours, ms | ratio | ours, CIFAR, ms | ratio |\n|---|---|---|---|---|---|")
    sums: dict[str, list[float]] = {"theirs": [0.0] * rounds, "imagenet": [0.0] * rounds, "cifar": [0.0] * rounds}
    for name in names:
        tasks: dict[str, Callable[[], object]] = {scale: partial(ours, name, images, len(images), scale) for scale in ("imagenet", "cifar")}
        tasks["theirs"] = partial(theirs, corrupt, name, singles)
        theirs(corrupt, name, singles[:1])  # compiled at the first call
        found = alternated(tasks, rounds)
        for key, spent in found.items():
            sums[key] = [one + other for one, other in zip(sums[key], spent, strict=True)]
        print(told(name, found, len(images) * len(SEVERITIES)), flush=True)
    print(told(f"**all {len(names)}**", sums, len(images) * len(SEVERITIES)))


def alternated(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each task in each round, one after the other, every other round from the last to the first."""
    found: dict[str, list[float]] = {key: [] for key in tasks}
    for count in range(rounds):
        for key in sorted(tasks, key=list(tasks).index, reverse=count % 2 == 1):
            found[key].append(seconds(tasks[key]))
    return found


def told(name: str, found: dict[str, list[float]], count: int) -> str:
    """A line of the second table: milliseconds, and the median and the range of the ratios."""
    cells = [name, f"{1000 * statistics.median(found['theirs']) / count:.3f}"]
    for scale in ("imagenet", "cifar"):
        ratios = [above / below for above, below in zip(found["theirs"], found[scale], strict=True)]
        spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} - {max(ratios):.1f})"
        cells += [f"{1000 * statistics.median(found[scale]) / count:.3f}", spread]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="corruptions; the fifteen unless given")
    parser.add_argument("--all", action="store_true", help="the nineteen")
    parser.add_argument("--n", type=int, default=10_000, help="images of the first part; 0 leaves it out")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--against", type=int, default=100, help="images of the second part; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument(
        "--workers", type=int, default=1, help="Python threads of the first part: with 2 of them --threads 1 suits two cores"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    wanted = args.names or (NINETEEN if args.all else FIFTEEN)
    names = [name for name in wanted if name in CORRUPTIONS]
    if absent := [name for name in wanted if name not in CORRUPTIONS]:
        print(f"not made by robench, and left out: {', '.join(absent)}")
    print(f"{args.threads} threads, {args.workers} workers, batches of {args.batch}, severities of CIFAR unless said otherwise\n")
    if args.n:
        alone(names, given(args.n), args.batch, args.workers)
    if args.against:
        compared(names, given(args.against), args.rounds)


if __name__ == "__main__":
    main()
