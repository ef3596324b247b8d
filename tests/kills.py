"""Kills every command at random moments with SIGKILL, takes it up again, and compares all that it wrote with an unbroken run.

    python tests/kills.py --kills 200 --seed 0 [--commands eval,attack] [--state FILE.json] [--folder DIR] [--fresh]

Each trial begins a small job in an empty folder, kills it, takes it up with the same words and --resume, kills it again by chance, and
goes on to its end. Half of the moments are drawn evenly from the seconds of the unbroken run, half fall right before one of the changes
that it makes on the disk (a file opened, moved or removed, a folder made). Then every file must be that of the unbroken run, but for
seconds and dates, and no other file may lie there. `--fresh` starts a new Python for each call, with real pictures, at moments in time
alone; otherwise calls are forks of one process (`tests/forks.py`). What is known is in FILE.json after each trial: the same call goes on.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from commandline import read
from forks import GOLDEN, Server
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robench.core.files import write_whole
from robench.core.journal import complete_lines
from robench.models.checkpoint import read_checkpoint
from robench.report.trackers.event_files import FILE_START

GELU, RELU = "../../checkpoints/shapes-cnn-pgd-at.pt", "twins.py:relu"
IMAGES = ["--data", "shapes", "--n", "12", "--batch-size", "4", "--threads", "1"]
TRAINING = [
    "--data", "shapes", "--arch", "mlp,width=8", "--n-train", "120", "--held-out", "40", "--batch-size", "20", "--threads", "1",
    "--eval-n", "8", "--suite", "fgsm",
]  # fmt: skip
DATES = ("seconds", "finished", "command", "notes", "spent")  # keys and columns that differ between two runs of the same words


@dataclass(frozen=True)
class Kind:
    """A job: its words, in which "T/" stands for the folder of the trial and "W/" for that of what it needs, and how it goes on.

    Attributes:
        command: the command of the line in which it is counted.
        words: its words.
        again: what is added when it is taken up.
        needs: the calls whose results it needs, each with its words; the first word of each names its folder in "W/".
        copied: a folder in "W/" that lies in the folder of the trial from the beginning, under "out".
    """

    command: str
    words: tuple[str, ...]
    again: tuple[str, ...] = ("--resume",)
    needs: tuple[tuple[str, ...], ...] = ()
    copied: str = ""


ATTACK = ("attack", GELU, "--attack", "pgd,steps=2,restarts=2", "--eps", "8/255,16/255", *IMAGES)
NIGHT = ("night", "attack", GELU, "--attack", "pgd,steps=2", "--eps", "8/255", *IMAGES, "--out", "W/night")
OTHER = ("other", "attack", GELU, "--attack", "pgd,steps=2", "--eps", "8/255", "--seed", "1", *IMAGES, "--out", "W/other")
SET = ("set", "corrupt", "--corruption", "fog,contrast", "--export", "W/set", "--data", "shapes", "--n", "12")
NETS = ("nets", "train", *TRAINING, "--epochs", "1", "--objective", "standard", "--seed", "5", "--out", "W/nets/net.pt")
KINDS = {
    "attack": Kind("attack", (*ATTACK, "--save", "--save-png", "--out", "T/out")),
    "attack, replaced": Kind(
        "attack", (*ATTACK, "--save", "--out", "T/out", "--force"), ("--resume",),
        (("old", *ATTACK, "--seed", "3", "--save", "--out", "W/old"),), "old",
    ),
    "probes": Kind("attack", ("attack", GELU, RELU, "--attack", "inductive-noise,t=0.05", *IMAGES, "--out", "T/out")),
    "saliency": Kind("saliency", (
        "saliency", GELU, RELU, "--method", "saliency,input-x-gradient", "--score", "gini", "--against", "pgd,steps=2",
        "--against", "random-noise,t=0.1", "--against", "fog,severity=2", "--eps", "16/255", "--save", *IMAGES, "--out", "T/out",
    )),
    "corrupt": Kind("corrupt", (
        "corrupt", GELU, "--corruption", "fog,contrast", "--severity", "1,3", "--reference", RELU, "--save", *IMAGES, "--out", "T/out",
    )),
    "corrupt from a set": Kind("corrupt", (
        "corrupt", GELU, "--from", "W/set", "--reference", RELU, "--n", "12", "--batch-size", "4", "--threads", "1", "--out", "T/out",
    ), needs=(SET,)),
    "exported": Kind("corrupt", ("corrupt", "--corruption", "fog,contrast", "--export", "T/set", *IMAGES), ()),
    "measured and exported": Kind(
        "corrupt", ("corrupt", GELU, "--corruption", "fog,contrast", "--export", "T/set", *IMAGES, "--out", "T/out")
    ),
    "mixed": Kind("eval", (
        "eval", GELU, RELU, "--suite", "pgd,steps=2", "--suite", "pgd,steps=2 on random-noise,t=0.2", "--suite", "contrast,severity=2",
        "--suite", "random-noise,t=0.1", "--suite", "saliency", "--threat", "linf:12/255", "--threat", "l2:1", "--save", *IMAGES,
        "--out", "T/out",
    )),
    "until": Kind("eval", ("eval", GELU, "--suite", "pgd,steps=2", "--until", "0.2", *IMAGES, "--out", "T/out")),
    "training": Kind("train", ("train", *TRAINING, "--objective", "fgsm-rs", "--epochs", "4", "--out", "T/net.pt")),
    "training, replaced": Kind(
        "train", ("train", *TRAINING, "--epochs", "2", "--objective", "standard", "--out", "T/out/net.pt", "--force"), ("--resume",),
        (NETS,), "nets",
    ),
    "with a teacher": Kind(
        "train", ("train", *TRAINING, "--objective", "standard", "--reg", "igd=0.5", "--epochs", "2", "--out", "T/net.pt")
    ),
    "sweep": Kind("train", (
        "train", *TRAINING, "--objective", "standard", "--reg", "l2", "--sweep", "lambda=0.01:0.1:1", "--epochs", "1", "--out", "T/sweep",
    )),
    "tracked": Kind("eval", ("eval", GELU, "--suite", "pgd,steps=2", "--log", "tensorboard", *IMAGES, "--out", "T/out")),
    "tracked training": Kind("train", (
        "train", *TRAINING, "--objective", "standard", "--epochs", "2", "--log", "tensorboard", "--out", "T/net.pt",
    )),
    "report": Kind("report", ("report", "W/night", "W/other", "--out", "T/page.html"), ("--force",), (NIGHT, OTHER)),
    "report with tables": Kind("report", (
        "report", "W/night", "W/other", "--base", "W/night", "--gate", "pgd:drop>90%", "--latex", "T/table.tex", "--markdown", "T/table.md",
        "--csv", "T/table.csv", "--out", "T/page.html",
    ), ("--force",), (NIGHT, OTHER)),
    "rerun": Kind("rerun", ("rerun", "W/night", "--out", "T/out"), needs=(NIGHT,)),
    "rerun of a training": Kind("rerun", ("rerun", "W/nets/net.pt", "--out", "T/net.pt"), needs=(NETS,)),
    "compare with files": Kind("compare", (
        "compare", "W/night", "W/other", "--fail-on", "pgd:drop>90%", "--markdown", "T/found.md", "--junit", "T/found.xml",
        "--json", "T/found.json", "--latex", "T/found.tex", "--out", "T/out",
    ), needs=(NIGHT, OTHER)),
    "list runs": Kind("list", ("list", "runs", "T/out"), (), (NIGHT,), "night"),
    "compare": Kind("compare", ("compare", "W/night", "W/other", "--fail-on", "pgd:drop>90%", "--out", "T/out"), needs=(NIGHT, OTHER)),
}  # fmt: skip


class Fresh:
    """Calls in a new Python each, with the interface of `forks.Server`."""

    def call(self, words, out, *, before=None, after=None):
        """How a call ended: ([its code], 0, what it said); it is killed with all that it started after so many seconds."""
        script = "import robench.training.states as s; s.SAVE_SECONDS = 0; from robench.cli import main; main()"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(GOLDEN.parents[1])}
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, words)], cwd=GOLDEN, env=environment, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            said = process.communicate(timeout=after)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said = process.communicate()[0]
        return [process.returncode], 0, said

    def close(self):
        """Nothing runs on."""


@dataclass(frozen=True)
class Unbroken:
    """What an unbroken run wrote, how often it changed something on the disk, and how long it took."""

    content: dict
    changes: int
    seconds: float


def content(folder):
    """What lies in a folder: path -> its content without seconds and dates; of pictures, pages and states whether they are there."""
    return {
        str(path.relative_to(folder)): file_content(path) if path.is_file() else folder_content(path)
        for path in sorted(folder.rglob("*")) if not path.name.startswith(FILE_START)
    }  # fmt: skip


def folder_content(folder):
    """The curves that TensorBoard shows of the event files in a folder, of which each start writes one; of other folders nothing."""
    if not any(folder.glob(f"{FILE_START}*")):
        return "a folder"
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if "seconds" not in tag]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def file_content(path):
    """The content of a file, as far as a second run with the same words has to repeat it."""
    if path.suffix == ".csv":
        lines = [line for line in read(path) if line.get("metric") != "seconds"]
        return [{key: value for key, value in line.items() if key not in DATES} for line in lines]
    if path.suffix == ".json":
        return undated(json.loads(path.read_bytes()))
    if path.suffix == ".pt" and not path.stem.endswith(".state"):
        weights, meta = read_checkpoint(path)
        return digest(b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in weights.values())), undated(meta)
    if path.suffix in (".npy", ".md", ".tex", ".xml") or path.name.startswith("x_adv"):
        return digest(path.read_bytes())
    return "a file"


def undated(value):
    """Plain values without what differs between two runs of the same words: seconds, dates, how it was called and taken up."""
    if isinstance(value, dict):
        return {key: undated(its) for key, its in value.items() if key not in DATES}
    return [undated(its) for its in value] if isinstance(value, (list, tuple)) else value


def digest(data):
    """The sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def placed(words, trial, workplace):
    """The words with the folders of a trial and of what it needs."""
    return [word.replace("T/", f"{trial}/") if word.startswith("T/") else word.replace("W/", f"{workplace}/") for word in words]


def prepared(kind, trial, workplace):
    """An empty folder for a trial, with what lies there from the beginning."""
    shutil.rmtree(trial, ignore_errors=True)
    trial.mkdir(parents=True)
    if kind.copied:
        shutil.copytree(workplace / kind.copied, trial / "out")
    return trial


def unbroken_run(server, name, workplace):
    """The unbroken run of a kind, after the calls whose results it needs."""
    kind, folder = KINDS[name], workplace / "unbroken" / name.replace(" ", "-").replace(",", "")
    for place, *words in kind.needs:
        if not (workplace / place).exists():
            codes, _, said = server.call(placed(words, folder, workplace), workplace / place)
            assert codes == [0], said
    words = placed(kind.words, prepared(kind, folder, workplace), workplace)
    begin = time.monotonic()
    codes, changes, said = server.call(words, folder)
    assert codes == [0], said
    return Unbroken(content(folder), changes, time.monotonic() - begin)


def state_lies_in(folder):
    """Whether something is there from which a call goes on: finished work in a journal, the state of a training, a finished array."""
    return (
        any(len(complete_lines(path)) > 1 for path in folder.rglob("state-*.jsonl"))
        or any(folder.rglob("*.state.pt"))
        or any(path.parent.name == "set" for path in folder.rglob("*.npy") if not path.name.startswith((".", "labels")))
    )


def trial_outcome(server, name, whole, chance, folder, most, workplace):
    """One job, killed up to `most` times: what became of it, as plain values."""
    kind = KINDS[name]
    words = placed(kind.words, prepared(kind, folder, workplace), workplace)
    kept = content(folder)
    outcome = {"kind": name, "moments": [], "from_state": 0, "anew": 0, "fault": ""}
    more = []
    while len(outcome["moments"]) < most and (not outcome["moments"] or chance.random() < 0.4):
        at_change = whole.changes and chance.random() < 0.5
        moment = {"before": chance.randrange(whole.changes)} if at_change else {"after": chance.uniform(0, whole.seconds)}
        codes, _, said = server.call([*words, *more], folder, **moment)
        if codes == [0]:
            break
        if codes != [-signal.SIGKILL]:
            return {**outcome, "fault": f"ended with {codes} instead of being killed: {said[-2000:]}"}
        outcome["moments"].append(moment)
        outcome["from_state" if state_lies_in(folder) else "anew"] += 1
        if kind.copied and not has_whole_results(folder / "out", kept):
            return {**outcome, "fault": f"the earlier results are not whole after {moment}"}
        more = list(kind.again)
    codes, _, said = server.call([*words, *(kind.again if outcome["moments"] or "--force" not in words else more)], folder)
    if codes != [0]:
        return {**outcome, "fault": f"taken up, it ended with {codes}: {said[-2000:]}"}
    return {**outcome, "fault": difference(content(folder), whole.content)}


def has_whole_results(out, kept):
    """Whether the results that were there from the beginning are still whole, or an exchange is settled, which the next call ends."""
    if any(out.rglob(".whole")):
        return True
    manifest = out / "manifest.json"
    if manifest.exists() and json.loads(manifest.read_bytes())["seed"] != 3:
        return True  # the new ones
    now = content(out)
    return all(now.get(name.removeprefix("out/")) == was for name, was in kept.items() if name.startswith("out/")) or (
        (out / "net.pt").exists() and not any(path.name.startswith(".net.results") for path in out.iterdir())
    )


def difference(now, was):
    """In what two contents differ, in words; "" where in nothing."""
    if extra := sorted({*now} - {*was}):
        return f"left over: {', '.join(extra)}"
    if gone := sorted({*was} - {*now}):
        return f"missing: {', '.join(gone)}"
    return ", ".join(f"{name}: {str(now[name])[:300]} instead of {str(was[name])[:300]}" for name in was if now[name] != was[name])[:2000]


def run_trials(names, kills, seed, *, workplace, state=None, fresh=False, jobs=2, tell=lambda _: None):
    """Kills `kills` times over all the kinds, in turn; the outcomes of all trials, those of an earlier call included."""
    known = json.loads(state.read_bytes()) if state and state.exists() else []
    waiting, lock = iter(range(10**9)), threading.Lock()
    done = {(one["kind"], one["number"]) for one in known}
    planned = sum(len(one["moments"]) for one in known)
    whole = {}

    def next_trial():
        nonlocal planned
        with lock:
            while planned < kills:
                place = next(waiting)
                name, number = names[place % len(names)], place // len(names)
                if (name, number) not in done:
                    planned += 1  # more kills of the same trial are counted when they have happened
                    return name, number, kills - planned + 1
        return None

    def work(which):
        nonlocal planned
        server = Fresh() if fresh else Server(saves=True)
        try:
            while trial := next_trial():
                name, number, most = trial
                folder = workplace / f"worker-{which}" / "trial"
                chance = random.Random(f"{seed} {name} {number}")
                outcome = trial_outcome(server, name, whole[name], chance, folder, min(most, 3), workplace)
                with lock:
                    known.append({**outcome, "number": number, "seed": seed})
                    planned += len(outcome["moments"]) - 1
                    if state:
                        write_whole({state: json.dumps(known, indent=1).encode()})
                    if outcome["fault"]:
                        tell(f"{name} {number}, {outcome['moments']}: {outcome['fault']}")
                        shutil.copytree(folder, workplace / "faults" / f"{name}-{number}".replace(" ", "-"), dirs_exist_ok=True)
        finally:
            server.close()

    first = Fresh() if fresh else Server(saves=True)
    for name in names:
        whole[name] = unbroken_run(first, name, workplace)
    first.close()
    threads = [threading.Thread(target=work, args=(which,)) for which in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return known


def table_lines(outcomes):
    """The table of all outcomes as Markdown, a line a command and a last one for all."""
    counts = {}
    for one in outcomes:
        line = counts.setdefault(KINDS[one["kind"]].command, Counter())
        line.update(trials=1, kills=len(one["moments"]), anew=one["anew"], faults=int(bool(one["fault"])), equal=int(not one["fault"]))
        line.update({"from state": one["from_state"], "at a change": sum("before" in moment for moment in one["moments"])})
    counts["total"] = sum(counts.values(), Counter())
    columns = ("kills", "at a change", "from state", "anew", "trials", "equal", "faults")
    yield f"| command | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    for command, line in counts.items():
        yield f"| {command} | {' | '.join(str(line[column]) for column in columns)} |"


def main():
    """Reads the words of the command line, and prints the table; exit code 1 where there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default="", help="commands or kinds, by commas; all without it")
    parser.add_argument("--state", type=Path, help="what is known of the trials so far, as JSON")
    parser.add_argument("--folder", type=Path, help="where the trials are made; a temporary folder without it")
    parser.add_argument("--fresh", action="store_true", help="a new Python for each call")
    parser.add_argument("--jobs", type=int, default=2, choices=(1, 2))
    words = parser.parse_args()
    asked = [word for word in words.commands.split(",") if word]
    names = [name for name, kind in KINDS.items() if not asked or name in asked or kind.command in asked]
    if not names:
        parser.error(f"no such command: {words.commands}")
    os.nice(5)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        workplace = (words.folder or Path(temporary)).absolute()
        shutil.rmtree(workplace / "unbroken", ignore_errors=True)
        workplace.mkdir(parents=True, exist_ok=True)
        how = {"workplace": workplace, "state": words.state, "fresh": words.fresh, "jobs": words.jobs}
        outcomes = run_trials(names, words.kills, words.seed, **how, tell=lambda line: print(line, file=sys.stderr, flush=True))
    print("\n".join(table_lines(outcomes)))
    sys.exit(any(one["fault"] for one in outcomes))


if __name__ == "__main__":
    main()
