"""Trackers: what event files and stores hold is read back by TensorBoard and MLflow themselves, and none that fails costs a run."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from commandline import read, refused, robench
from places import CHECKPOINT, GOLDEN
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robench.core.errors import InputError
from robench.report import trackers
from robench.report.trackers import TRACKERS, chosen_trackers, event_files
from robench.report.trackers.event_files import tensorboard_log
from robench.report.trackers.measured import row_values
from robench.report.trackers.mlflow_runs import mlflow_log, mlflow_name
from robench.report.trackers.records import LogRecord, TrackedRun, flat_parameters
from robench.report.trackers.running import TrackedLogs, start_logs
from robench.results.files import read_rows

needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
EVAL = ("eval", CHECKPOINT, "--data", "shapes", "--suite", "fgsm", "--n", 12)
FAILING = """
def at_once(run):
    raise ConnectionError("server away")

def later(run):
    def log(records):
        raise OSError(28, "No space left on device")
    return log

def nothing(run):
    return 5

def leaving(run):
    def log(records):
        raise SystemExit(0)
    return log

def wrong(run, records):
    return print
"""


def scalars(folder):
    """Every scalar in the event files of a folder: tag -> [(step, value)]."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def tracked(folder, steps_done=0, command="train"):
    return TrackedRun(command, "net", folder, {"recipe.lr": 0.5}, "key", steps_done)


def records(*steps):
    """Records whose numbers are halves, which single precision holds."""
    return [LogRecord(step, {"train/loss": step / 2}) for step in steps]


def test_event_files_hold_every_number_at_its_step_and_the_parameters(tmp_path):
    log = tensorboard_log(tracked(tmp_path))
    log(records(1, 2))
    assert scalars(tmp_path / "net.tensorboard") == {"train/loss": [(1, 0.5), (2, 1.0)]}  # before it is closed: safe after each call
    log([*records(3), LogRecord(3, {"final/clean accuracy": 0.75}, (), "finished")])
    assert scalars(tmp_path / "net.tensorboard") == {"train/loss": [(1, 0.5), (2, 1.0), (3, 1.5)], "final/clean accuracy": [(3, 0.75)]}
    (text,) = EventAccumulator(str(tmp_path / "net.tensorboard")).Reload().Tensors("parameters")
    assert "| recipe.lr | `0.5` |" in text.tensor_proto.string_val[0].decode()


def test_a_training_that_goes_on_has_no_step_twice_and_one_that_begins_anew_hides_the_old_curve(tmp_path):
    tensorboard_log(tracked(tmp_path))(records(1, 2, 3))  # and is killed
    tensorboard_log(tracked(tmp_path, 2))([*records(3, 4), LogRecord(4, {}, (), "finished")])
    assert scalars(tmp_path / "net.tensorboard") == {"train/loss": [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]}
    tensorboard_log(tracked(tmp_path))([LogRecord(1, {"train/loss": 8.0}, (), "finished")])
    assert scalars(tmp_path / "net.tensorboard") == {"train/loss": [(1, 8.0)]}


def test_the_event_file_of_a_clock_that_was_set_back_still_comes_last(tmp_path, monkeypatch):
    monkeypatch.setattr(event_files.time, "time", lambda: 2_000_000_000.0)
    tensorboard_log(tracked(tmp_path))([*records(1, 2), LogRecord(2, {}, (), "broken off")])
    monkeypatch.setattr(event_files.time, "time", lambda: 1_000_000_000.0)
    tensorboard_log(tracked(tmp_path, 2))([*records(3), LogRecord(3, {}, (), "finished")])
    assert [step for step, _ in scalars(tmp_path / "net.tensorboard")["train/loss"]] == [1, 2, 3]


def test_a_torn_event_at_the_end_of_a_killed_file_is_logged_again(tmp_path):
    tensorboard_log(tracked(tmp_path))(records(1, 2))
    (file,) = (tmp_path / "net.tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    tensorboard_log(tracked(tmp_path, 1))([*records(2, 3), LogRecord(3, {}, (), "finished")])
    assert scalars(tmp_path / "net.tensorboard")["train/loss"] == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_a_full_disk_is_told_and_ends_no_run(tmp_path, monkeypatch):
    class Full(type(tmp_path)):
        def open(self, mode):
            return Path("/dev/full").open("wb", buffering=0)

    monkeypatch.setattr(event_files, "new_event_file", Full)
    logs, sentences = start_logs({"tensorboard": tensorboard_log}, tracked(tmp_path))
    assert logs == {}
    assert "tensorboard failed (OSError: [Errno 28] No space left on device" in sentences[0]


@pytest.mark.parametrize("table", sorted(GOLDEN.glob("*.rows.csv")), ids=lambda path: path.name)
def test_every_row_of_a_run_has_a_tag_of_its_own(table, tmp_path):
    shutil.copy(table, tmp_path / "rows.csv")
    rows = read_rows(tmp_path)
    assert len(row_values(rows)) == len(rows)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A client of a store of files, which needs no second to be made."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    return MlflowClient(f"file:{tmp_path}/store")


def stored_runs(client, experiment="robench"):
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])


def curve(client, run, name="train/loss"):
    return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]


@needs_mlflow
def test_mlflow_holds_a_training_that_was_killed_and_went_on_as_one_run(store, tmp_path):
    mlflow_log(tracked(tmp_path))(records(1, 2, 3))
    page = tmp_path / "net.curves.png"
    page.write_bytes(b"picture")
    mlflow_log(tracked(tmp_path, 2))([*records(3, 4), LogRecord(4, {"final/clean accuracy": 0.75}, [page], "finished")])
    (run,) = stored_runs(store)
    assert (run.info.run_name, run.info.status, run.data.params) == ("net", "FINISHED", {"recipe.lr": "0.5"})
    assert curve(store, run) == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert [one.path for one in store.list_artifacts(run.info.run_id)] == ["net.curves.png"]


@needs_mlflow
def test_a_training_that_begins_anew_closes_the_killed_run_of_mlflow(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "nights")
    mlflow_log(tracked(tmp_path))(records(1))
    mlflow_log(tracked(tmp_path))([*records(1), LogRecord(1, {}, (), "broken off")])
    assert sorted(run.info.status for run in stored_runs(store, "nights")) == ["FAILED", "KILLED"]
    mlflow_log(tracked(tmp_path), experiment="other")([LogRecord(1, {}, (), "finished")])
    assert [run.info.status for run in stored_runs(store, "other")] == ["FINISHED"]


@needs_mlflow
def test_more_numbers_and_parameters_than_mlflow_takes_at_once_are_all_there(store, tmp_path):
    run = TrackedRun("eval", "r", tmp_path, {f"p{k}": k for k in range(150)}, "key")
    mlflow_log(run)([LogRecord(0, {f"m{k}": k for k in range(1500)}, (), "finished")])
    (stored,) = stored_runs(store)
    assert (len(stored.data.params), len(stored.data.metrics)) == (150, 1500)


@needs_mlflow
@pytest.mark.parametrize("tag", ["a b/c=1,2 (3)/x%", "../up", "/root", "a//b", "ünï/€", "x" * 400, "a/./b", "m.py:f/linf-8-255"])
def test_any_tag_becomes_a_name_that_mlflow_takes(tag):
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(mlflow_name(tag))


@needs_mlflow
def test_the_store_that_mlflow_keeps_by_itself_takes_a_run(tmp_path):
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    words = [str(word) for word in (*EVAL, "--out", tmp_path / "r", "--log", "mlflow", "--quiet")]
    done = subprocess.run([sys.executable, "-m", "robench", *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert "failed" not in done.stderr
    code = "import mlflow, json; run = mlflow.search_runs(experiment_names=['robench'], output_format='list')[0]; "
    code += "print(json.dumps([run.info.status, run.data.metrics]))"
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    status, metrics = json.loads(told.stdout)
    rows = {row["metric"]: float(row["value"]) for row in read(tmp_path / "r" / "rows.csv") if row["probe"] == "fgsm"}
    assert status == "FINISHED"
    assert metrics[f"{CHECKPOINT.name}/fgsm/accuracy/linf-8-255"] == pytest.approx(rows["accuracy"])


@needs_mlflow
def test_a_measurement_is_logged_with_its_files_and_not_twice(store, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["robench", *map(str, EVAL)])  # which a command line of its own would have
    robench(*EVAL, "--out", tmp_path / "r", "--log", "mlflow,tensorboard", "--quiet")
    robench(*EVAL, "--out", tmp_path / "r", "--log", "mlflow,tensorboard", "--quiet", "--resume")
    (run,) = stored_runs(store)
    names = {one.path for one in store.list_artifacts(run.info.run_id)}
    assert {"report.html", "rows.csv", "samples.csv", "manifest.json", "accuracy.png"} <= names
    assert run.data.params["command"].startswith("robench eval ")
    rows = [row for row in read(tmp_path / "r" / "rows.csv") if row["value"] not in ("nan", "", "inf")]
    events = EventAccumulator(str(tmp_path / "r" / "tensorboard")).Reload()
    assert len(run.data.metrics) == len(rows) == len(events.Tags()["scalars"])
    assert all(len(events.Scalars(tag)) == 1 for tag in events.Tags()["scalars"])
    assert "accuracy" in events.Tags()["images"]


@pytest.mark.parametrize("name", ["at_once", "later", "nothing", "leaving"])
def test_a_tracker_that_fails_costs_nothing_and_is_told_also_when_quiet(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FAILING)
    done = robench(*EVAL, "--out", "r", "--log", f"mine.py:{name}", "--log", "tensorboard", "--quiet")
    assert done.stderr.count("Note: tracker") == 1
    assert f"Note: tracker mine.py:{name} failed (" in done.stderr
    assert (tmp_path / "r" / "manifest.json").exists()
    assert scalars("r/tensorboard")


def test_what_is_wrong_with_a_tracker_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FAILING)
    for words, says in (
        ("tensorbord", "did you mean 'tensorboard'?"),
        ("tensorboard,experiment=a", "has no option 'experiment'"),
        ("mine.py:wrong", "trackers are called as (run, *, options)"),
        ("mine.py:absent", "has no function 'absent'"),
        ("tensorboard,tensorboard", "named twice"),
        ("tensorboard=2", "has no weight"),
    ):
        for command in (EVAL, ("train", "--epochs", 1)):
            assert says in refused(*command, "--out", "r" if command is EVAL else "r.pt", "--log", words)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.py"}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_missing_is_told_with_the_extra_that_installs_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=rf"pip install {name}"):
        chosen_trackers(name)
    refused(*EVAL, "--out", tmp_path / "r", "--log", name)
    assert not (tmp_path / "r").exists()


def test_a_log_that_failed_is_left_alone_and_the_others_go_on():
    taken = []

    def broken(some):
        raise ValueError("once")

    logs = TrackedLogs(({"broken": broken, "whole": taken.extend}, []))
    for _ in range(2):
        logs.write(records(1))
    assert len(taken) == 2
    assert len(logs.told()) == 1
    assert logs.told() == []


def test_parameters_are_flat_and_without_what_says_nothing():
    words = {"a": {"b": None, "c": [1, 2], "d": True}, "e": "", "f": 0, "g": "x" * 900, "h": []}
    assert flat_parameters(words) == {"a.c": "1, 2", "a.d": True, "f": 0, "g": "x" * 500}
