"""Real processes of the command line at the price of a fork, killed with SIGKILL at a chosen moment, alone or several that share a run.

One process imports robench and computes nothing; each call is a fork of it, so that a call costs what it measures and no start.
"""

import base64
import contextlib
import errno
import importlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
GOLDEN = HERE.parent / "golden"
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
CHANGES = ("open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link")


class Server:
    """The process that is forked."""

    def __init__(self, saves=False):
        """`saves`: trainings write their state after every step, and not every minute."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE), *["saves"] * saves],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=GOLDEN,
            env=environment,
        )

    def call(self, words, out, *, before=None, after=None, ranks=1, full=None, ticks=False):
        """How a call ended: (codes of its processes, how often it changed something under `out`, what it said).

        before  it is killed before it changes something there for this time, counted from 0, in its first process
        after   it is killed after so many seconds                                    ranks  how many processes share it
        full    the disk takes no more file from the change of that number on         ticks  every look at the clock takes a second
        """
        with socket.socket() as port:
            port.bind(("127.0.0.1", 0))
            free = port.getsockname()[1]
        job = {"words": [str(word) for word in words], "out": str(out), "before": before, "after": after, "ranks": ranks, "port": free}
        self.process.stdin.write(json.dumps({**job, "full": full, "ticks": ticks}) + "\n")
        self.process.stdin.flush()
        codes, changes, said = json.loads(self.process.stdout.readline())
        return codes, changes, said

    def close(self):
        with self.process:
            self.process.stdin.close()


def serve():
    """Forks for each line of the input, and answers when all its processes have ended."""
    for name in (
        "torch._dynamo",
        "matplotlib.pyplot",
        "tensorboard.backend.event_processing.event_accumulator",
        "robench.evaluation.api",
        "robench.cli.evaluate",
        "robench.report.folder",
        "robench.evaluation.methods",
        "robench.evaluation.corruption_sources",
        "robench.report.comparison",
        "robench.report.page",
        "robench.report.reporting",
        "robench.evaluation.repeated_runs",
        "robench.training.train",
        "robench.training.sweeps",
    ):
        importlib.import_module(name)
    from robench.cli import main
    from robench.training import states

    if "saves" in sys.argv:
        states.SAVE_SECONDS = 0.0
    for line in sys.stdin:
        job = json.loads(line)
        children = {}
        for rank in range(job["ranks"]):
            log = Path(job["out"] + f".log-{rank}")
            pid = os.fork()
            if not pid:
                child(main, job, rank, log)
            children[pid] = log
        print(json.dumps(ended(children, job)), flush=True)


def ended(children, job):
    """Waits for the processes, which are killed once the time is up; where one is killed, the others are."""
    codes, left = {}, set(children)
    signal.signal(signal.SIGALRM, lambda *_: kill(left))  # which raises nothing: the end of a child that wait has just learnt would be lost
    signal.setitimer(signal.ITIMER_REAL, job["after"] or 0)
    while left:
        pid, status = os.wait()
        left.discard(pid)
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid] == -signal.SIGKILL:
            kill(left)
    signal.setitimer(signal.ITIMER_REAL, 0)
    first = children[min(children)]
    count = first.with_suffix(first.suffix + ".count")
    return (
        [codes[pid] for pid in children],
        int(count.read_text()) if count.exists() else 0,
        "".join(log.read_text() for log in children.values()),
    )


def kill(processes):
    """Kills processes, some of which may have ended."""
    for pid in list(processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def child(main, job, rank, log):
    """The call itself."""
    from matplotlib.figure import Figure

    signal.setitimer(signal.ITIMER_REAL, 0)
    target = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(0)
    if job["ranks"] > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["ranks"]), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(job["port"])
        )
    Figure.savefig = lambda figure, file, **how: file.write(PIXEL)  # the drawing is most of the time of so short a call
    if job["ticks"]:
        from robench.runs import execution as measure

        measure.now = map(float, itertools.count()).__next__
    changes = watched(job["out"], *((job["before"], job["full"]) if not rank else (None, None)))
    code = 1
    try:
        sys.argv = ["robench", *job["words"]]
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    log.with_suffix(log.suffix + ".count").write_text(str(len(changes)))
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def watched(out, before, full):
    """What changes under a folder, as it happens; kills before the change of a number, and lets the disk be full from one on."""
    changes = []

    def look(event, arguments):
        if event not in CHANGES or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        path, root = Path(os.fsdecode(arguments[0])), Path(out)
        reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        within = path.is_relative_to(root) if path.is_absolute() else event != "open"  # what is removed with a folder has no path
        if reads or not within:
            return
        if len(changes) == before:
            os.kill(os.getpid(), signal.SIGKILL)
        changes.append((event, path))
        if full is not None and len(changes) > full and event in ("open", "os.mkdir", "os.link"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sys.addaudithook(look)
    return changes


if __name__ == "__main__":
    serve()
