"""How a command ends: exit codes, whose error a traceback is, what a poor terminal can spell."""

import os
import subprocess
import sys

import pytest
from commandline import read
from places import ROOT

from robench.cli import main
from robench.core.interrupts import Terminated

MODEL = ROOT / "checkpoints" / "shapes-cnn-pgd-at.pt"
OWN = """
import torch
from robench.attacks.active import Search
from robench.core.types import Level

def flip(model, x, y, draws):
    changed = x.flip(3)
    with torch.no_grad():
        wrong = model(changed).argmax(1) != y
    one = torch.ones_like(y)
    yield Level("axis=3", 0, changed, wrong, one.double(), one, 0 * one)

def broken(model, x, y, draws):
    yield x.nothing

def attack(model, x, y, threat, draws):
    return x.nothing

def deep(model, x, y, threat, draws):
    return Search(model, None, y, threat).found()

def tensor(model, x, y, threat, draws):
    return x

def leaves(model, x, y, threat, draws):
    raise SystemExit(0)

def penalty(model, batch):
    return batch.nothing

def net():
    return Even()

class Even(torch.nn.Module):
    def forward(self, x):
        if len(x) == 64:
            raise RuntimeError("not 64")
        return x.flatten(1)[:, :10]
"""


@pytest.fixture
def ends(monkeypatch, capfd):
    """Runs `robench WORDS` as a process would, and gives its exit code and its stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["robench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capfd.readouterr().err

    return run


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


@pytest.mark.parametrize(("name", "line"), [("broken", "line 14, in broken"), ("attack", "line 17, in attack")])
def test_an_error_in_the_users_code_exits_3_with_its_traceback_and_names_the_line(ends, own, tmp_path, name, line):
    code, stderr = ends("attack", MODEL, "--attack", f"{own}:{name}", "--n", 20, "--out", tmp_path / "out")
    assert code == 3
    assert "Traceback" in stderr
    assert "AttributeError: 'Tensor' object has no attribute 'nothing'" in stderr
    assert stderr.rstrip().splitlines()[-1] == f"This error was raised in your own code: own.py, {line}."


def test_an_exit_in_the_users_code_is_no_success(ends, own, tmp_path):
    code, stderr = ends("attack", MODEL, "--attack", f"{own}:leaves", "--n", 20, "--out", tmp_path / "out")
    assert (code, stderr.rstrip().splitlines()[-1]) == (3, "This error was raised in your own code: own.py, line 26, in leaves.")
    assert ends("--version")[0] == 0
    assert ends("attack", MODEL, "--attack", "nothing")[0] == 2


def test_a_regulariser_and_a_model_of_the_users_are_named_too(ends, own, tmp_path):
    words = ["--n-train", 300, "--held-out", 50, "--epochs", 1, "--out", tmp_path / "net.pt"]
    code, stderr = ends("train", "--reg", f"{own}:penalty", *words)
    assert (code, stderr.rstrip().splitlines()[-1]) == (3, "This error was raised in your own code: own.py, line 29, in penalty.")
    code, stderr = ends("attack", f"{own}:net", "--data", "shapes", "--attack", "fgsm", "--n", 64, "--out", tmp_path / "out")
    assert (code, stderr.rstrip().splitlines()[-1]) == (3, "This error was raised in your own code: own.py, line 37, in forward.")


def test_where_our_code_was_called_by_theirs_both_places_are_named(ends, own, tmp_path):
    code, stderr = ends("attack", MODEL, "--attack", f"{own}:deep", "--n", 20, "--out", tmp_path / "out")
    last = stderr.rstrip().splitlines()[-1]
    assert code == 3
    assert "raised in robench (active.py, line" in last
    assert "your own code: own.py, line 20, in deep" in last


def test_a_bug_of_ours_exits_3_and_says_so(ends, monkeypatch, tmp_path):
    monkeypatch.setattr("robench.runs.execution.case_of", lambda *_: 1 / 0)
    code, stderr = ends("attack", MODEL, "--n", 20, "--out", tmp_path / "out")
    assert code == 3
    assert "ZeroDivisionError" in stderr
    assert "your own code" in stderr.rstrip().splitlines()[-1]  # here this test is the user: its lambda divides
    monkeypatch.setattr("robench.runs.execution.case_of", None)
    code, stderr = ends("attack", MODEL, "--n", 20, "--out", tmp_path / "out")
    assert code == 3
    assert "robench (execution.py, line" in stderr.rstrip().splitlines()[-1]
    assert "bug" in stderr.rstrip().splitlines()[-1]


def test_what_the_system_refuses_is_no_bug(ends, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device", "x_adv.npy")

    monkeypatch.setattr("robench.runs.store.process_journal", full)
    code, stderr = ends("attack", MODEL, "--n", 20, "--out", tmp_path / "out")
    assert code == 3
    assert "The operating system refused: No space left on device (x_adv.npy)" in stderr.rstrip().splitlines()[-1]


def test_an_attack_that_returns_no_found_is_told_what_to_return(ends, own, tmp_path):
    code, stderr = ends("attack", MODEL, "--attack", f"{own}:tensor", "--n", 20, "--out", tmp_path / "out")
    assert code == 2
    assert "returned Tensor and no robench.core.types.AttackResult" in stderr


def test_a_probe_of_the_users_own_runs_in_place_of_an_attack_and_is_refused_a_radius(ends, own, tmp_path):
    assert ends("attack", MODEL, "--attack", f"{own}:flip", "--n", 20, "--out", tmp_path / "out")[0] == 0
    rows = [row for row in read(tmp_path / "out" / "rows.csv") if row["metric"] == "error_rate"]
    assert [(row["probe"], row["setting"]) for row in rows] == [("own.py:flip", "axis=3")]
    code, stderr = ends("attack", MODEL, "--attack", f"{own}:flip", "--eps", "8/255", "--n", 20)
    assert (code, "own.py:flip is a probe, which has no use for --eps" in stderr) == (2, True)
    words = ["--method", "saliency", "--score", "gini", "--against", f"{own}:flip", "--n", 20, "--out", tmp_path / "audit"]
    assert ends("saliency", MODEL, *words)[0] == 0
    assert any("own.py:flip" in key for key in read(tmp_path / "audit" / "samples.csv")[0])


def test_an_ascii_terminal_gets_the_table_in_its_own_letters(tmp_path):
    words = ["attack", str(MODEL), "--attack", "fgsm", "--eps", "1/255,2/255", "--n", "20", "--out", str(tmp_path / "out")]
    call = [sys.executable, "-m", "robench", *words]
    done = subprocess.run(call, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "fgsm 1/255" in done.stdout.decode("ascii")
    assert "Traceback" not in done.stderr.decode("ascii")


def test_a_reader_that_leaves_early_is_no_failed_gate():
    call = f"'{sys.executable}' -m robench list attacks | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", call], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode in (0, 141)  # 0 where the table fitted into the pipe before it closed
    assert "Traceback" not in done.stderr


def test_the_package_is_found_beside_a_folder_of_its_name(tmp_path):
    (tmp_path / "robench" / "robench").mkdir(parents=True)
    call = [sys.executable, "-c", "import robench; print(robench.__file__)"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip().endswith("__init__.py")


@pytest.mark.parametrize("moment", ["robench.cli.app", "robench.cli.Group.parse_args", "typer.core.TyperGroup.make_context"])
@pytest.mark.parametrize(("stop", "code"), [(Terminated, 143), (KeyboardInterrupt, 130)])
def test_a_signal_before_the_command_begins_ends_it_as_later_on(ends, monkeypatch, moment, stop, code):
    def stopped(*_, **__):
        raise stop

    monkeypatch.setattr(moment, stopped)
    assert ends("list", "attacks") == (code, "Interrupted: nothing was written.\n")
