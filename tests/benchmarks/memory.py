"""The peak memory of an evaluation over the number of images: what it needs beyond the images themselves should not grow.

python tests/benchmarks/memory.py

Each line is a process of its own: a small network on n random images of 3x32x32 bytes, FGSM and APGD-CE with 3 steps, batches of
100, state on the disk and adversarial images saved.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from robench import evaluate
from robench.core.recipes import parse_recipe


def peak(n: int) -> float:
    """The peak of this process in MiB after an evaluation of n images."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 10))
    x, y = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8), torch.zeros(n, dtype=torch.int64)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        y = torch.cat([model(part.float() / 255).argmax(1) for part in x.split(100)])
        place, suite = Path(folder), [parse_recipe("fgsm"), parse_recipe("apgd-ce,steps=3")]
        evaluate(model, x, y, suite=suite, eps=1 / 255, batch_size=100, folder=place, save=place / "x_adv.npy")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    if len(sys.argv) > 1:
        print(peak(int(sys.argv[1])))
        return
    for n in (100, 1000, 4000, 16000):
        words = [sys.executable, __file__, str(n)]
        used = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        print(f"n = {n:6d}  peak {used:6.0f} MiB, of which images {n * 3072 / 2**20:5.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
