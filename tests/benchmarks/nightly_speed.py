"""How long `compare` of two runs and `report` of a hundred take, after imports.

    python tests/benchmarks/nightly_speed.py RUN [--runs 100]

RUN is a finished results folder, such as that of `robench eval checkpoints/shapes-cnn-pgd-at.pt --suite full --n 500 --out RUN`. It
is copied as often as is asked for, each copy a night later. Prints seconds of the clock and of the processor.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from robench.report.comparison import compare
from robench.report.comparison_files import comparison_markdown
from robench.report.reporting import write_report

GATES = "autoattack:drop>1%,gaussian_noise:drop>2%,mean_corruption_error:rise>1%,gini:rise>0.02,clean:drop>0.5%,worst-class:drop>3%,flag:*"


def copies(run: Path, folder: Path, count: int) -> Path:
    """A folder of so many copies of a run, each finished a day after the one before."""
    for night in range(count):
        place = folder / f"night-{night:03d}"
        place.mkdir(parents=True)
        for path in run.iterdir():
            if path.suffix in (".csv", ".json"):
                shutil.copyfile(path, place / path.name)
        manifest = json.loads((place / "manifest.json").read_text())
        manifest["finished"] = f"2026-{1 + night // 28:02d}-{1 + night % 28:02d}T02:00:00Z"
        (place / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return folder


def timed(name: str, call: Callable[[], object]) -> None:
    """Prints how long a call takes."""
    clock, processor = time.perf_counter(), time.process_time()
    call()
    print(f"{name}: {time.perf_counter() - clock:.2f} s, of which {time.process_time() - processor:.2f} s of processor time", flush=True)


def main() -> None:
    """Makes the copies and times the calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--runs", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        nights = copies(options.run, Path(scratch) / "nights", options.runs)
        last = sorted(nights.iterdir())[-1]
        first = sorted(nights.iterdir())[0]
        timed("compare, two runs", lambda: comparison_markdown(compare(first, last, gates=GATES)))
        timed("compare, the last seven runs", lambda: comparison_markdown(compare(nights, last, gates=GATES)))
        timed(f"report of {options.runs} runs", lambda: write_report(nights, Path(scratch) / "page.html"))
        timed("report of one run", lambda: write_report(options.run, Path(scratch) / "one.html"))


if __name__ == "__main__":
    main()
