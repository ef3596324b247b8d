"""Clean accuracy of a folder of JPEGs against timm's own loader with as many workers: the same pixels, images a second in alternation.

python tests/benchmarks/loader_speed.py [--n 2000] [--rounds 7] [--workers 2] [--threads 2] [--arch resnet18] [--batch-size 64] [--bare]

The JPEGs are made, 500x375, resized to 256 (bilinear) and cut to 224 by both sides; the weights are drawn. Ours is a run
of the clean pass alone on images that stay on the disk; theirs is timm.data.create_loader (no prefetcher, as on a CPU, ToTensor, the
normalisation left to the model) and the same model under torch.inference_mode. Every round times both, in turns first; reported is the
median of each and of the ratio of the rounds. The pixels are compared to the bit before. --bare times the loaders alone, without a model.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from stored_memory import link_tree, make_jpegs
from timm.data import create_dataset, create_loader
from torch import Tensor, nn
from torchvision import models

from robench.core.memory import keep_freed_memory
from robench.core.rows import blank_row
from robench.data import Images, load_images
from robench.runs.execution import execute
from robench.runs.pools import pool_of_images
from robench.runs.stages.clean import clean_stage
from robench.runs.types import RunOptions, Subject


def timm_loader(tree: Path, batch_size: int, workers: int) -> Any:
    """timm's loader of validation images, with pixels in [0, 1]."""
    dataset = create_dataset("folder", str(tree))
    return create_loader(
        dataset, (3, 224, 224), batch_size, is_training=False, use_prefetcher=False, mean=(0, 0, 0), std=(1, 1, 1), num_workers=workers,
        crop_pct=224 / 256, interpolation="bilinear", persistent_workers=False,
    )  # fmt: skip


def their_seconds(tree: Path, model: nn.Module | None, options: argparse.Namespace) -> tuple[float, int]:
    """Seconds of a pass of timm's loader, and the number of right images."""
    begin, right = time.perf_counter(), 0
    with torch.inference_mode():
        for x, y in timm_loader(tree, options.batch_size, options.workers):
            right += 0 if model is None else int((model(x).argmax(1) == y).sum())
    return time.perf_counter() - begin, right


def our_seconds(tree: Path, model: nn.Module | None, options: argparse.Namespace) -> tuple[float, int]:
    """Seconds of ours from the folder's name to the rows, and the number of right images."""
    begin = time.perf_counter()
    images = images_of(tree, options)
    if model is None:
        images.expect(slice(None))
        for rows in torch.arange(len(images)).split(options.batch_size):
            images.pixels(rows)
        return time.perf_counter() - begin, 0
    clean, how = clean_stage(), RunOptions(batch_size=options.batch_size)
    found = execute([Subject(model, blank_row())], pool_of_images(images), [clean], how)
    return time.perf_counter() - begin, int(found.ledger.right(found.cases[0].name, clean).sum())


def images_of(tree: Path, options: argparse.Namespace) -> Images:
    """The folder, on the disk."""
    return load_images(f"folder:{tree}", pixels="disk", workers=options.workers, image_size=224, resize=256)


def refuse_other_pixels(tree: Path, options: argparse.Namespace) -> None:
    """Ends where the two sides decode other pixels."""
    ours, theirs = images_of(tree, options), {}
    dataset = timm_loader(tree, 1, 0).dataset
    for k in range(0, len(dataset), max(1, len(dataset) // 50)):
        name = "/".join(Path(dataset.reader.filename(k, absolute=True)).parts[-2:])
        theirs[name] = (dataset[k][0] * 255).round().byte() if isinstance(dataset[k][0], Tensor) else torch.from_numpy(dataset[k][0])
    rows = [row for row, name in enumerate(ours.files) if "/".join(Path(name).parts[-2:]) in theirs]
    for row in rows:
        if not torch.equal(ours.x[row], theirs["/".join(Path(ours.files[row]).parts[-2:])]):
            raise SystemExit(f"{ours.files[row]}: the pixels differ")
    print(f"{len(rows)} images compared to the bit", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("n", 2000), ("rounds", 7), ("workers", 2), ("threads", 2), ("batch-size", 64), ("files", 500)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--bare", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    model = None if options.bare else getattr(models, options.arch)(num_classes=10).eval()
    with tempfile.TemporaryDirectory() as scratch:
        tree = link_tree(Path(scratch) / "tree", make_jpegs(Path(scratch) / "files", min(options.files, options.n)), options.n)
        refuse_other_pixels(tree, options)
        sides = {"ours": our_seconds, "theirs": their_seconds}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for round_ in range(options.rounds):
            right = {}
            for name in sorted(sides, reverse=bool(round_ % 2)):
                taken, right[name] = sides[name](tree, model, options)
                seconds[name].append(taken)
            ratio = seconds["theirs"][-1] / seconds["ours"][-1]
            print(f"round {round_ + 1}: ours {options.n / seconds['ours'][-1]:.1f}/s  theirs {options.n / seconds['theirs'][-1]:.1f}/s  "
                  f"ratio {ratio:.3f}  right {right['ours']} and {right['theirs']}", flush=True)  # fmt: skip
        ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["theirs"], strict=True)]
        medians = {name: options.n / statistics.median(taken) for name, taken in seconds.items()}
        print(
            f"median: ours {medians['ours']:.1f}/s, theirs {medians['theirs']:.1f}/s, ratio of the rounds {statistics.median(ratios):.3f}"
        )


if __name__ == "__main__":
    main()
