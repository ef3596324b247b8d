"""The same work with two checkouts of robench, in alternation: whether a change costs time or memory.

python tests/benchmarks/two_checkouts.py BASE NEW --jobs attacks,saliency,corrupt,memory --rounds 9

Every run is a process of its own with PYTHONPATH set to its checkout; imports, loading and a warm-up run are not timed. Printed are, over
the rounds, the median of NEW / BASE in seconds of processor (which other work on the machine disturbs little) and in seconds of the
clock, with the 95 % interval of the median by order statistics (from 6 rounds on); of the job memory the ratio of the peaks.

  attacks     `robench eval --suite smoke`, state kept; a network of the zoo, or --model
  saliency    `robench saliency --method saliency,integrated-gradients --score gini`
  corrupt     `robench corrupt` with the fifteen corruptions at severity 3
  memory      the peak of `robench eval` with FGSM and a short APGD on 16,000 random images, adversarial images saved

Needs ROBENCH_MODELS and ROBENCH_DATA.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

WORK = """
import io, json, resource, sys, tempfile, time
from contextlib import redirect_stdout
import torch
torch.set_num_threads(int(sys.argv[1]))
from robench.cli import app
try:
    from robench.core.memory import keep_freed_memory
except ImportError:  # of a checkout before 2026-11-28
    from robench.memory import keep_freed_memory
keep_freed_memory()
def run(words):
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        app([*words, "--quiet", "--out", folder + "/out"], standalone_mode=False)
few, all = json.loads(sys.argv[2])
run(few)
begin, busy = time.perf_counter(), time.process_time()
run(all)
print(json.dumps([time.process_time() - busy, time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def words_of(job: str, args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The command lines of the warm-up and of what is timed."""
    data = Path(os.environ["ROBENCH_DATA"])
    common = [args.model, "--data", f"npz:{data / 'cifar10-lossless.npz'}", "--batch-size", str(args.batch_size)]
    usual = {
        "attacks": ("eval", ["--suite", "smoke", "--eps", args.eps], 4 * args.n),
        "saliency": ("saliency", ["--method", "saliency", "--method", "integrated-gradients", "--score", "gini"], 4 * args.n),
        "corrupt": ("corrupt", ["--severity", "3"], 10 * args.n),
        "memory": ("attack", ["--attack", "apgd-ce,steps=3", "--eps", "1/255", "--save"], 100 * args.n),
    }  # fmt: skip
    command, options, n = usual[job]
    n = min(n, 8000)
    split = ["--split", "train"] if n > 900 else []
    return tuple([command, *common, *options, *split, "--n", str(count)] for count in (16, n))  # type: ignore[return-value]


def once(checkout: Path, job: str, args: argparse.Namespace) -> list[float]:
    """Seconds of processor, seconds of the clock, peak MiB of one run."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(args.threads)}
    words = [sys.executable, "-c", WORK, str(args.threads), json.dumps(words_of(job, args))]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment, cwd=checkout)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def median_interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median by order statistics (binomial with 1/2); the range where there are too few values."""
    ordered, n = sorted(values), len(values)
    low = 0
    while sum(math.comb(n, k) for k in range(low + 1)) / 2**n <= 0.025:
        low += 1
    return ordered[max(0, low - 1)], ordered[min(n - 1, n - max(low, 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--jobs", default="attacks,saliency,corrupt,memory")
    parser.add_argument("--model", default=f"{os.environ.get('ROBENCH_MODELS', '')}/zoo.py:resnet20_standard")
    parser.add_argument("--eps", default="0.5/255")
    parser.add_argument("--n", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for job in args.jobs.split(","):
        ratios: list[list[float]] = []
        for count in range(args.rounds):
            order = (args.base, args.new) if count % 2 == 0 else (args.new, args.base)
            found = {checkout: once(checkout.resolve(), job, args) for checkout in order}
            ratios.append([new / base for new, base in zip(found[args.new], found[args.base], strict=True)])
            print(f"{job} round {count}: " + ", ".join(f"{ratio:.3f}" for ratio in ratios[-1]) + f"  {found}", flush=True)
        for place, what in enumerate(("processor", "clock", "peak memory")):
            values = [line[place] for line in ratios]
            low, high = median_interval(values)
            print(
                f"{job:10} {what:12} {statistics.median(values):.3f} ({low:.3f} - {high:.3f}) of the base, {args.rounds} rounds", flush=True
            )


if __name__ == "__main__":
    main()
