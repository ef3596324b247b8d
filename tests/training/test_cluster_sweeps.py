"""Sweeps on Ray: the numbers of a sweep without it, whatever is killed on the way. Each cluster is a local one."""

import signal
import subprocess
import sys
import time

import pytest
from commandline import read
from needed import needed_package

WORDS = [
    "train", "--objective", "standard", "--reg", "mine.py:penalty=0.1", "--arch", "mlp,width=8", "--n-train", "200", "--held-out", "60",
    "--batch-size", "20",
    "--eval-n", "12", "--suite", "fgsm", "--epochs", "3", "--threads", "1", "--sweep", "lr=0.05:0.1:1e9",
]  # fmt: skip
PENALTY = "def penalty(model, batch):\n    return batch.logits.square().mean()\n"
KILLER = """
import os, signal
from pathlib import Path
def penalty(model, batch):
    if batch.progress > 0.5 and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return batch.logits.square().mean()
"""
SLOW = """
import time
def penalty(model, batch):
    time.sleep(0.2)
    return batch.logits.square().mean()
"""


def command(*more):
    return [sys.executable, "-m", "robench", *WORDS, *more]


def called(folder, *more, code=0):
    done = subprocess.run(command(*more), cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stderr
    return done


def numbers(folder):
    return [row for row in read(folder / "rows.csv") if row["metric"] != "seconds"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The numbers of the sweep without Ray."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "mine.py").write_text(PENALTY)
    called(folder, "--out", "plain", "--quiet")
    return numbers(folder / "plain")


def test_a_sweep_on_ray_whose_worker_is_killed_has_the_numbers_of_one_without_ray(tmp_path, expected):
    needed_package("ray")
    (tmp_path / "mine.py").write_text(KILLER)
    told = called(tmp_path, "--out", "ray", "--on", "ray").stderr
    assert (tmp_path / "killed").exists()
    assert "died (WorkerCrashedError): it goes on from its state" in told
    assert "lr=1e9: diverged" in told
    assert numbers(tmp_path / "ray") == expected


def test_a_sweep_whose_driver_is_killed_goes_on_and_trains_no_finished_cell_again(tmp_path, expected):
    needed_package("ray")
    (tmp_path / "mine.py").write_text(SLOW)
    driver = subprocess.Popen(command("--out", "ray", "--on", "ray"), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = tmp_path / "ray" / "rows.csv"
    deadline = time.monotonic() + 100
    while not rows.exists() and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    finished = {row["setting"] for row in numbers(tmp_path / "ray")}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "ray").glob("lr-*.pt") if path.with_suffix(".json").exists()}
    assert finished
    told = called(tmp_path, "--out", "ray", "--on", "ray", "--resume").stderr
    assert [cell for cell in finished if f"{cell}: " in told and ("trained before" in told or "diverged" in told)]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert numbers(tmp_path / "ray") == expected
