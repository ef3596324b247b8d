"""Trainings in trackers: curves without a gap or a double step however often the run was killed, and runs that no tracker can harm."""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commandline import robench
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import robench as package
from robench.core.errors import InputError
from robench.models import checkpoint_meta, load_model
from robench.report.trackers import TRACKERS
from robench.training import states, tracked
from robench.training.tracked import training_log
from robench.training.types import Epoch, Step

SMALL = {"arch": "mlp,width=4", "n_train": 60, "held_out": 20, "epochs": 3, "batch_size": 10, "eval_n": 4, "suite": ["fgsm"], "probe_n": 8}
KILLED = """
import os, signal, sys
import robench
from robench.training import states
from robench.training.types import Step
states.SAVE_SECONDS = float(sys.argv[2])

def watch(events, epochs):
    for count, event in enumerate(events):
        yield event
        if count == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

robench.train("shapes", out="net.pt", log="tensorboard", resume=True, watch=watch, **{small})
"""


def curves(folder):
    """Every scalar in the event files of a folder: tag -> [(step, value)]."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def without_clock(some):
    return {tag: points for tag, points in some.items() if "seconds" not in tag}


def weights(path):
    return load_model(path).state_dict()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    package.train("shapes", out=folder / "net.pt", log="tensorboard", **SMALL)
    return folder


def test_every_step_and_every_epoch_is_in_the_curves(unbroken):
    found, meta = curves(unbroken / "net.tensorboard"), checkpoint_meta(unbroken / "net.pt")
    assert [step for step, _ in found["train/loss"]] == list(range(1, 13))
    history = meta["history"]
    assert [step for step, _ in found["epoch mean/loss"]] == [4, 8, 12]
    assert [value for _, value in found["epoch mean/loss"]] == pytest.approx([one["terms"]["loss"] for one in history])
    assert [value for _, value in found["held-out/PGD-10 accuracy"]] == pytest.approx([one["held_out_robust"] for one in history])
    mean = sum(value for step, value in found["train/loss"] if step <= 4) / 4
    assert mean == pytest.approx(history[0]["terms"]["loss"], rel=1e-5)
    assert found["final/fgsm accuracy"] == [(12, pytest.approx(meta["metrics"]["fgsm"]["accuracy"]))]


def test_a_training_that_is_interrupted_and_resumed_has_the_curves_of_an_unbroken_one(unbroken, tmp_path):
    def stop(events, epochs):
        for event in events:
            yield event
            if isinstance(event, Step) and (event.epoch, event.step) == (1, 1):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        package.train("shapes", out=tmp_path / "net.pt", log="tensorboard", watch=stop, **SMALL)
    assert [step for step, _ in curves(tmp_path / "net.tensorboard")["train/loss"]] == [1, 2, 3, 4, 5, 6]
    package.train("shapes", out=tmp_path / "net.pt", log="tensorboard", resume=True, **SMALL)
    assert without_clock(curves(tmp_path / "net.tensorboard")) == without_clock(curves(unbroken / "net.tensorboard"))


def test_kill_9_at_several_moments_leaves_neither_gap_nor_double_step(unbroken, tmp_path):
    code = KILLED.replace("{small}", repr(SMALL))
    for moment, save_seconds in ((6, 0), (3, 1000), (2, 0)):
        done = subprocess.run([sys.executable, "-c", code, str(moment), str(save_seconds)], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    package.train("shapes", out=tmp_path / "net.pt", log="tensorboard", resume=True, **SMALL)
    assert without_clock(curves(tmp_path / "net.tensorboard")) == without_clock(curves(unbroken / "net.tensorboard"))
    for name, value in weights(tmp_path / "net.pt").items():
        assert torch.equal(value, weights(unbroken / "net.pt")[name])


def test_records_are_given_to_trackers_before_each_state_is_written(tmp_path, monkeypatch):
    seen, steps = [], []
    monkeypatch.setitem(TRACKERS, "list", lambda run: lambda records: steps.extend(record.step for record in records))
    monkeypatch.setattr(states, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(states, "time", SimpleNamespace(monotonic=lambda: 0.0))  # saving takes no time, so that it is always due
    monkeypatch.setattr(tracked, "LOG_SECONDS", 1000.0)
    write = states.write_whole
    monkeypatch.setattr(states, "write_whole", lambda files: (seen.append(max(steps)), write(files)))
    watched = []

    def watch(events, epochs):
        for event in events:
            watched.append(event)
            yield event

    package.train("shapes", out=tmp_path / "net.pt", log="list", watch=watch, **SMALL)
    assert all(a <= b for a, b in pairwise(seen))
    assert seen[-1] == 12
    assert len(seen) > 2


def test_a_tracker_that_fails_in_the_middle_changes_nothing_of_the_training(unbroken, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "def broken(run):\n    seen = []\n    def log(records):\n        seen.extend(records)\n"
        "        if len(seen) > 6:\n            raise OSError(28, 'No space left on device')\n    return log\n"
    )
    words = [word for key, value in SMALL.items() if key != "probe_n" for word in (f"--{key.replace('_', '-')}", value)]
    words[words.index("--suite") + 1] = "fgsm"
    done = robench("train", *words, "--out", "net.pt", "--log", "mine.py:broken", "--quiet")
    assert done.stderr.count("tracker mine.py:broken failed (OSError: [Errno 28] No space left on device)") == 1
    for name, value in weights("net.pt").items():
        assert torch.equal(value, weights(unbroken / "net.pt")[name])
    assert checkpoint_meta("net.pt")["notes"] == checkpoint_meta(unbroken / "net.pt")["notes"]


def test_a_training_that_is_logged_has_the_words_of_one_that_is_not(unbroken):
    again = package.train("shapes", out=unbroken / "net.pt", resume=True, **SMALL)
    assert again.evaluation == []


def test_a_training_without_a_file_cannot_be_logged():
    with pytest.raises(InputError, match="pass out as well"):
        package.train("shapes", log="tensorboard", **SMALL)


def test_of_several_processes_the_first_alone_has_trackers(tmp_path):
    started = []
    for rank in (0, 1):
        with training_log({"own": lambda run: started.append(run) or print}, rank) as log:
            list(log.events(iter(()), SimpleNamespace(steps_done=0, lost_epochs=[]), tmp_path / "net.pt", {}))
    assert len(started) == 1


def test_steps_that_a_roll_back_repeats_have_tags_of_their_own(tmp_path):
    class Run:
        steps_done, lost_epochs = 0, []

    def events():
        yield Step(0, 0, 2, 4, {"loss": 1.0})
        yield Step(0, 1, 2, 4, {"loss": 9.0})
        Run.lost_epochs = [{}]  # as `fit` has it when it hands out the epoch that was lost
        yield Epoch(0, 1.0, 0.1, {"loss": 5.0}, 0.5, 0.5, {}, alarm="lost")
        yield Step(0, 0, 2, 4, {"loss": 2.0})
        yield Step(0, 1, 2, 4, {"loss": 3.0})
        yield Epoch(0, 1.0, 0.1, {"loss": 2.5}, 0.5, 0.25, {})

    taken = []
    with training_log({"own": lambda run: taken.extend}, 0) as log:
        list(log.events(events(), Run, tmp_path / "net.pt", {}))
    values = [(record.step, tag, value) for record in taken for tag, value in record.values.items() if tag.endswith("loss")]
    assert values == [
        (1, "train/loss", 1.0),
        (2, "train/loss", 9.0),
        (2, "epoch mean/loss", 5.0),
        (1, "train after roll-back 1/loss", 2.0),
        (2, "train after roll-back 1/loss", 3.0),
        (2, "epoch mean after roll-back 1/loss", 2.5),
    ]


def test_every_training_of_a_sweep_has_curves_of_its_own(tmp_path):
    words = ["--arch", "mlp,width=4", "--n-train", 60, "--batch-size", 10, "--epochs", 1, "--eval-n", 4, "--suite", "fgsm", "--quiet"]
    robench("train", *words, "--sweep", "lr=0.01:0.02", "--out", tmp_path / "s", "--log", "tensorboard")
    folders = sorted(path.name for path in (tmp_path / "s").glob("*.tensorboard"))
    assert folders == sorted(f"{path.stem}.tensorboard" for path in (tmp_path / "s").glob("*.pt"))
    assert all(curves(tmp_path / "s" / name)["train/loss"] for name in folders)
    robench("train", *words, "--sweep", "lr=0.01:0.02", "--out", tmp_path / "s", "--resume")  # finished: the log is no word of it


def test_under_torchrun_the_first_process_alone_logs_a_measurement(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os\n\ndef ranks(run):\n"
        "    return lambda records: open('ranks', 'a').write(f\"{run.command} {os.environ['RANK']}\\n\") and None\n"
    )
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "robench")
    words = (
        "train",
        "--arch",
        "mlp,width=4",
        "--n-train",
        "60",
        "--batch-size",
        "10",
        "--epochs",
        "1",
        "--eval-n",
        "4",
        "--suite",
        "fgsm",
        "--out",
        "n.pt",
    )
    more = ("eval", "n.pt", "--suite", "fgsm", "--n", "8", "--out", "r")
    for line in (words, more):
        subprocess.run(
            [*launcher, *line, "--log", "mine.py:ranks"],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
        )
    lines = (tmp_path / "ranks").read_text().splitlines()
    assert {*lines} == {"train 0", "eval 0"}
    assert lines.count("eval 0") == 1
