"""Mutated files against every reader: no code may run, no traceback come, no memory go beyond the bound, nothing be written outside.

    python tests/fuzz/fuzz.py --count 10000 --seed 0
    python tests/fuzz/fuzz.py --count 500 --reader npz --show

Each reader has a process of its own, with an audit hook that sees what Python does, a limit on its memory, and files around its folder
that must stay as they are. A file is read or refused with one sentence (`InputError`); anything else is a fault. Exit code 1 where there
is one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BOUND = 1536  # MiB that reading a file may take; docs/security.md says so
LIMIT = 8 * 2**30  # bytes of the process, so that a fault does not fill the machine
SLOWEST = 30  # seconds for one file
LONGEST = 2000  # letters of a sentence
WRITES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
    "shutil.move",
)
CALLS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.spawn",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
    "ctypes.dlopen",
    "pty.spawn",
)
LIBRARY_TEXTS = (  # where code is made of a library's own texts
    "/dataclasses.py",
    "/collections/__init__.py",
    "/functools.py",
    "/typing.py",
    "/inspect.py",
    "/typing_objects.py",
    "/jinja2/environment.py",
)
OUR_CODE = (sys.prefix, sys.base_prefix, str(HERE.parents[1]), "<frozen", "<__array_function__", "<attrs")


class Watch:
    """What Python does while a file is read: code that is run, files that are written elsewhere."""

    def __init__(self) -> None:
        self.allowed, self.seen, self.active = tuple[str, ...](), list[str](), False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The hook."""
        if not self.active:
            return
        if event in CALLS and (event, arguments) != ("ctypes.dlopen", (None,)):  # that is the process itself
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "exec":
            name = getattr(arguments[0], "co_filename", "?")
            if not name.startswith(OUR_CODE) and not is_from_a_library():
                self.seen.append(f"code ran: {name}")
        elif (event == "open" and is_write(arguments)) or event in WRITES:
            for path in [each for each in arguments[: 2 if event != "open" else 1] if isinstance(each, (str, bytes, os.PathLike))]:
                where = os.path.realpath(os.fsdecode(path))
                if event in ("os.remove", "os.rmdir") and isinstance(arguments[-1], int) and arguments[-1] >= 0:  # a name in an open folder
                    where = str(Path(f"/proc/self/fd/{arguments[-1]}").readlink() / os.fsdecode(path))
                if not where.startswith(self.allowed):
                    self.seen.append(f"{event} {where}")

    @contextmanager
    def on(self) -> Iterator[list[str]]:
        """Watches for one file."""
        self.seen, self.active = [], True
        try:
            yield self.seen
        finally:
            self.active = False


@cache
def watch() -> Watch:
    """The only watch of this process: a hook stays until its end."""
    return Watch()


def is_from_a_library() -> bool:
    """Whether code that a library made itself is being run: dataclasses and named tuples write their methods as text, types are texts."""
    frame = sys._getframe(2)
    return frame.f_code.co_filename.endswith(LIBRARY_TEXTS) or "/torch/fx/" in frame.f_code.co_filename


def is_write(arguments: tuple[Any, ...]) -> bool:
    """Whether an "open" is for writing."""
    mode, flags = arguments[1], arguments[2]
    return any(letter in (mode or "") for letter in "wax+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def resident(key: str) -> int:
    """MiB of this process: VmHWM, the most since it was reset, or VmRSS."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) // 1024


def reset_peak() -> None:
    """Lets VmHWM begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def outcome(read: Any, folder: Path) -> tuple[str, str]:
    """What became of a file, ("accepted" | "refused" | "fault", why)."""
    from robench.core.errors import InputError

    signal.alarm(SLOWEST)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(folder)
    except InputError as error:
        text = str(error)
        if not text or len(text) > LONGEST:
            return "fault", f"a sentence of {len(text)} letters: {text[:80]}"
        return "refused", text
    except (Exception, SystemExit, RecursionError, TooSlowError) as error:
        frames = [
            f"{Path(frame.filename).name}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if "/robench/" in frame.filename
        ]
        return "fault", f"{type(error).__name__} in {' '.join(frames[-3:])}: {str(error)[:160]}"
    finally:
        signal.alarm(0)
    return "accepted", ""


class TooSlowError(BaseException):
    """A file took more than SLOWEST; no OSError as TimeoutError is, which a reader may take for one of the disk."""


def too_slow(number: int, frame: Any) -> None:
    """What the alarm does."""
    raise TooSlowError(f"more than {SLOWEST} s")


def lay(folder: Path, files: dict[str, bytes]) -> None:
    """An empty folder with these files."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def surroundings(around: Path) -> dict[str, bytes]:
    """All that lies beside the folder of the file: name -> content."""
    return {
        str(path.relative_to(around)): path.read_bytes()
        for path in sorted(around.rglob("*"))
        if path.is_file() and "case" not in path.parts
    }


def run_reader(name: str, count: int, seed: int, show: bool) -> dict[str, Any]:
    """The counts of one reader, with its faults; in a process of its own."""
    from mutated_files import CANARY, mutated
    from run_readers import READERS

    reader, around = READERS[name], Path.cwd()
    lay(around / "made", {})
    (around / "made").mkdir()
    reader.make(around / "made")
    files = {
        str(path.relative_to(around / "made")): path.read_bytes()
        for path in sorted((around / "made").rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
    shutil.rmtree(around / "made")
    targets = [file for file in files if Path(file).name not in reader.kept]
    (around / "outside").mkdir()
    (around / "outside" / "keep.txt").write_text("keep")
    (around / "evil.py").write_text(f"open({CANARY!r}, 'w').close()\ndef touch(*a, **k):\n    open({CANARY!r}, 'w').close()\n")
    before, watching = surroundings(around), watch()
    watching.allowed = (str((around / "case").resolve()), str((around / "tmp").resolve()), os.devnull, "/proc/self/")
    (around / "tmp").mkdir()
    tempfile.tempdir = str(around / "tmp")
    signal.signal(signal.SIGALRM, too_slow)
    lay(around / "case", files)
    kind, why = outcome(reader.read, around / "case")
    if kind != ("refused" if reader.refuses else "accepted"):
        return {
            "reader": name,
            "files": 0,
            "accepted": 0,
            "refused": 0,
            "faults": [f"the valid file is {kind}: {why}"],
            "peak": 0,
            "seconds": 0,
        }
    counts, faults, peak, begin = {"accepted": 0, "refused": 0}, list[str](), 0, time.monotonic()
    for number in range(count):
        rng = random.Random(f"{seed}/{name}/{number}")
        changed = dict(files)
        for target in rng.sample(targets, 1 if rng.random() < 0.9 else min(2, len(targets))):
            changed[target] = mutated(target, files[target], rng)
        lay(around / "case", changed)
        start = resident("VmRSS")
        reset_peak()
        with watching.on() as seen:
            kind, why = outcome(reader.read, around / "case")
        taken = resident("VmHWM") - start
        peak = max(peak, taken)
        if taken > BOUND:
            kind, why = "fault", f"{taken} MiB were taken ({why})"
        if (around / CANARY).exists() or seen:
            kind, why = "fault", f"code ran or a file was written outside: {seen[:3]} ({why})"
        (around / CANARY).unlink(missing_ok=True) if (around / CANARY).is_file() else shutil.rmtree(around / CANARY, ignore_errors=True)
        after = {file: content for file, content in surroundings(around).items() if not file.startswith("tmp/")}
        if after != before:
            kind, why = "fault", f"files around were changed: {sorted(after.items() ^ before.items())[:3]!r:.200}"
            lay(around / "outside", {"keep.txt": b"keep"})
            before = {file: content for file, content in surroundings(around).items() if not file.startswith("tmp/")}
        if kind == "fault":
            faults.append(f"{number}: {why}")
        else:
            counts[kind] += 1
        if show:
            print(f"{name} {number}: {kind} {why[:300]}", file=sys.stderr)
        lay(around / "tmp", {})
        (around / "tmp").mkdir(exist_ok=True)
    return {"reader": name, "files": count, **counts, "faults": faults, "peak": peak, "seconds": round(time.monotonic() - begin)}


def reader_process(name: str, count: int, seed: int, show: bool = False) -> dict[str, Any]:
    """The counts of one reader, from a process of its own in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--count", str(count), "--seed", str(seed), "--worker", name, *["--show"] * show]
        path = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            words,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            check=False,
            stderr=None if show else subprocess.PIPE,
        )
        with suppress(ValueError, IndexError):
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found
        why = f"the process ended with {done.returncode}: {(done.stderr or b'')[-500:].decode(errors='replace')}"
        return {"reader": name, "files": count, "accepted": 0, "refused": 0, "faults": [why], "peak": 0, "seconds": 0}


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    total = {key: sum(result[key] for result in results) for key in ("files", "accepted", "refused", "seconds")}
    whole = {
        "reader": "all",
        **total,
        "faults": [fault for result in results for fault in result["faults"]],
        "peak": max(result["peak"] for result in results),
    }
    columns = ("reader", "files", "accepted", "refused", "faults", "peak", "seconds")
    cells = [{**one, "faults": len(one["faults"])} for one in [*results, whole]]
    lines = [f"| {' | '.join(f'{one[key]:,}' if key != 'reader' else one[key] for key in columns)} |" for one in cells]
    return "\n".join(["| reader | files | read | refused | faults | peak, MiB | s |", "|---|--:|--:|--:|--:|--:|--:|", *lines])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="of mutated files, over all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", help="only this one; may be repeated")
    parser.add_argument("--show", action="store_true", help="print what became of each file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
        print("\n" + json.dumps(run_reader(asked.worker, asked.count, asked.seed, asked.show)))
        return 0
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
    from run_readers import READERS

    names, results = asked.reader or [*READERS], []
    for place, name in enumerate(names):
        share = asked.count // len(names) + (place < asked.count % len(names))
        results.append(reader_process(name, share, asked.seed, asked.show))
        print(table(results[-1:]).splitlines()[2], flush=True)
        for fault in results[-1]["faults"][:20]:
            print(f"    {fault}", flush=True)
    print(f"\n{table(results)}")
    return int(any(result["faults"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
