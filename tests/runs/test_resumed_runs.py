"""Real processes that are killed in mid-run and taken up again, or that share one run: the tables of one unbroken run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from commandline import read

MODEL = """
import torch
from torch import nn


class Linear(nn.Module):
    \"\"\"Ten classes; each logit is summed image by image, so that it does not depend on the batch.\"\"\"

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return torch.stack([(x * w).flatten(1).sum(1) for w in self.w - self.w.mean((1, 2, 3), keepdim=True)], 1)


def net():
    return Linear()
"""
WORDS = ["--attack", "pgd,steps=6,restarts=3,loss=margin", "--eps", "0.002,0.003", "--n", "96", "--batch-size", "8", "--save", "--quiet"]
QUIET_CPU = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A model file, and images that the model labels itself, so that all are right when clean."""
    import numpy as np
    import torch

    from robench.core.recipes import run_user_file

    folder = tmp_path_factory.mktemp("linear")
    (folder / "model.py").write_text(MODEL)
    x = torch.rand(96, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    pixels = (x * 255).byte()
    with torch.no_grad():
        y = run_user_file(folder / "model.py").net()(pixels.float() / 255).argmax(1)
    np.savez(folder / "set.npz", x=pixels.permute(0, 2, 3, 1).numpy(), y=torch.cat((y[:90], (y[90:] + 1) % 10)).numpy())
    return folder


def command(images, out, *words, launcher=(sys.executable, "-m")):
    return [*launcher, "robench", "attack", f"{images}/model.py:net", "--data", f"npz:{images}/set.npz", *WORDS, "--out", str(out), *words]


def table(path, leave_out=()):
    return [{key: value for key, value in line.items() if key not in leave_out} for line in read(path)]


def rows(out):
    return [row for row in table(out / "rows.csv") if row["metric"] != "seconds"]


@pytest.fixture(scope="module")
def unbroken(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "out"
    subprocess.run(command(images, out), check=True, env=QUIET_CPU)
    return out


def kill_after(words, state, lines):
    """Starts the command and kills it with SIGKILL once the state has so many lines; how many it has then."""
    process = subprocess.Popen(words, env=QUIET_CPU)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if state.exists() and state.read_bytes().count(b"\n") >= lines:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return state.read_bytes().count(b"\n")
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"no state of {lines} lines was seen; the run ended with {process.wait()}")


def test_a_run_killed_three_times_ends_with_the_tables_of_an_unbroken_one(images, unbroken, tmp_path):
    out = tmp_path / "out"
    state = out / "state-0.jsonl"
    begun = 0
    for lines in (3, 14, 20):
        words = command(images, out, *(["--resume"] if begun else []))
        begun = kill_after(words, state, max(lines, begun + 2))
    with state.open("ab") as file:
        file.write(b'{"fell":[true,fal')  # a torn line, as a kill in the middle of a write leaves it
    subprocess.run(command(images, out, "--resume"), check=True, env=QUIET_CPU)
    assert table(out / "samples.csv") == table(unbroken / "samples.csv")
    assert rows(out) == rows(unbroken)
    assert (out / "x_adv.npy").read_bytes() == (unbroken / "x_adv.npy").read_bytes()
    broken = [sample["broken_by"] for sample in table(out / "samples.csv")]
    assert {"clean", "pgd", ""} == set(broken)


def test_a_killed_run_is_not_overwritten_and_not_taken_up_by_another(images, tmp_path):
    out = tmp_path / "out"
    kill_after(command(images, out), out / "state-0.jsonl", 4)
    before = (out / "state-0.jsonl").read_bytes()
    unsaved = [word for word in command(images, out, "--resume") if word != "--save"]
    (out / "x_adv.npy").rename(tmp_path / "x_adv.npy")
    for words, sentence in (
        (command(images, out), "pass --resume"),
        (command(images, out, "--resume", "--seed", "1"), "its seed is 0"),
        (unsaved, "its saved is true"),
        (command(images, out, "--resume"), "x_adv.npy is gone"),
    ):
        process = subprocess.run(words, check=False, env=QUIET_CPU, stderr=subprocess.PIPE, text=True)
        assert process.returncode == 2
        assert sentence in process.stderr
        assert "Traceback" not in process.stderr
    assert (out / "state-0.jsonl").read_bytes() == before


def test_two_processes_merge_to_the_rows_and_verdicts_of_one(images, unbroken, tmp_path):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--")  # --: else it reads --n
    out = tmp_path / "out"
    done = subprocess.run(command(images, out, launcher=launcher), check=False, env=QUIET_CPU, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert table(out / "samples.csv") == table(unbroken / "samples.csv")
    assert rows(out) == rows(unbroken)
    assert (out / "x_adv.npy").read_bytes() == (unbroken / "x_adv.npy").read_bytes()
    states = [(out / f"state-{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    shares = [sum(len(json.loads(line).get("places", [])) for line in state) for state in states]
    assert min(shares) > 0
    assert done.stdout.count("pgd of model.py:net") == 1
