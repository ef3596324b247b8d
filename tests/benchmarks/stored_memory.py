"""The memory of a run on images that stay on the disk, over their number: it should not grow but for what is known of each image.

python tests/benchmarks/stored_memory.py [--n 500,5000,50000] [--files 500] [--suite fgsm] [--folder DIR]

Each line is a process of its own with two workers: a folder of hard links to made JPEGs of 500x375, resized to 256 and cut to 224, a tiny
network, batches of the usual size (64), the state on the disk. Twice a second the PSS of the process and its workers is summed
(/proc/PID/smaps_rollup); the PSS of a process that has only imported robench is taken off. First batch: seconds from the call to the
first entry of the state.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))
"""
CLASSES = 10


def make_jpegs(folder: Path, count: int) -> list[Path]:
    """JPEGs of 500x375, smooth with noise, of some 100 KB each."""
    folder.mkdir(parents=True, exist_ok=True)
    draws, (rows, columns) = np.random.default_rng(0), np.mgrid[:375, :500]
    files = [folder / f"{k:05d}.jpg" for k in range(count)]
    for k, file in enumerate(files):
        if not file.exists():
            waves = [127 + 100 * np.sin(rows / (7 + k % 13 + c) + columns / (11 + k % 7 + 3 * c)) for c in range(3)]
            pixels = np.clip(np.stack(waves, 2) + draws.normal(0, 25, (375, 500, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(file, quality=88)
    return files


def link_tree(top: Path, files: list[Path], n: int) -> Path:
    """A folder of CLASSES classes with n hard links to the files."""
    for k in range(n):
        link = top / str(k % CLASSES) / f"{k:06d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            os.link(files[k % len(files)], link)
    return top


def pss(pid: int) -> float:
    """MiB of a process, each shared page divided by those that share it; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def pss_with_children(pid: int) -> float:
    """MiB of a process and those that it has started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return pss(pid) + sum(pss(int(child)) for child in children)


def pss_of_import() -> float:
    """MiB of a process that has imported robench and the torch that it computes with."""
    code = "import robench, torch, sys; robench.evaluate; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        used = pss(process.pid)
        process.stdin.close()
    return used


def measured_run(folder: Path, tree: Path, n: int, suite: str) -> tuple[float, float, float, float]:
    """Of a run of its own: the peak of PSS in MiB, seconds to the first entry, seconds in all, MiB of its state."""
    out = folder / f"out-{n}"
    words = [
        sys.executable, "-m", "robench", "eval", f"{folder}/net.py:net", "--data", f"folder:{tree}", "--suite", suite, "--n", str(n),
        "--resize", "256", "--image-size", "224", "--pixels", "disk", "--workers", "2", "--threads", "1",
        "--classes", "as-is", "--out", str(out), "--force", "--quiet",
    ]  # fmt: skip
    begin, peak, first, state, size = time.perf_counter(), 0.0, 0.0, out / "state-0.jsonl", 0
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, pss_with_children(process.pid))
            size = state.stat().st_size if state.exists() else size
            first = first or (time.perf_counter() - begin if state.exists() and b'"columns"' in state.read_bytes()[:100_000] else 0.0)
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"the run of n = {n} ended with {process.returncode}")
    return peak, first, time.perf_counter() - begin, size / 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", default="500,5000,50000")
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--suite", default="fgsm")
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        files = make_jpegs(folder / "files", options.files)
        (folder / "net.py").write_text(MODEL)
        base = pss_of_import()
        print(f"a process that has imported robench: {base:.0f} MiB", flush=True)
        for n in map(int, options.n.split(",")):
            tree = link_tree(folder / f"tree-{n}", files, n)
            peak, first, seconds, size = measured_run(folder, tree, n, options.suite)
            print(
                f"n = {n:6d}  peak above that {peak - base:5.0f} MiB  first batch {first:4.1f} s  in all {seconds:6.1f} s  "
                f"state {size:.1f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
