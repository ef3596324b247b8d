"""What public functions write from Python: the lock and the rules of the command line."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import robench.core.journal as journals
from robench import corrupt, evaluate
from robench.core.errors import BusyError, InputError, UnfinishedError
from robench.core.files import hold_lock
from robench.core.folders import LOCK, claim_destination
from robench.core.journal import Journal
from robench.data import load_images
from robench.evaluation.corruption_sources import source_from_images

HELD = """
import sys, time
from pathlib import Path
from robench.core.files import hold_lock
with hold_lock(Path(sys.argv[1]), Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def p(problem):
    return problem("linear", n=4)


@pytest.fixture
def held():
    """Another process holds a lock."""
    processes = []

    def hold(path):
        words = [sys.executable, "-c", HELD, str(path), str(path.parent)]
        processes.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert processes[-1].stdout.readline() == b"held\n"

    yield hold
    for process in processes:
        process.communicate()


def finished(folder):
    with claim_destination(folder, {"command": "eval"}) as place, place.staged_results() as staged:
        (staged / "x_adv.npy").write_bytes(b"saved")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_process_cannot_write_a_state_that_is_being_written(p, held, tmp_path):
    evaluate(p.model, p.x, p.y, suite=["fgsm"], folder=tmp_path)
    before = (tmp_path / "state-0.jsonl").read_bytes()
    held(tmp_path / LOCK)
    with pytest.raises(BusyError, match="another run is writing to"):
        evaluate(p.model, p.x, p.y, suite=["fgsm"], folder=tmp_path, resume=True)
    assert (tmp_path / "state-0.jsonl").read_bytes() == before


def test_a_file_of_images_belongs_to_one_run(p, held, tmp_path):
    held(tmp_path / ".x_adv.npy.lock")
    with pytest.raises(BusyError, match=r"another run is writing to .*x_adv\.npy"):
        evaluate(p.model, p.x, p.y, suite=["fgsm"], save=tmp_path / "x_adv.npy")
    assert not (tmp_path / "x_adv.npy").exists()


def test_a_run_holds_its_folder_and_its_file_to_the_end(p, tmp_path):
    refused = []

    class Asking(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = p.model

        def forward(self, x):
            for name, what in ((LOCK, "folder"), (".x.npy.lock", "file")):
                with pytest.raises(BusyError), hold_lock(tmp_path / "run" / name, tmp_path):
                    pass
                refused.append(what)
            return self.model(x)

    model = Asking()
    for resume in (False, True):
        refused.clear()
        evaluate(model, p.x, p.y, suite=["fgsm"], folder=tmp_path / "run", save=tmp_path / "run" / "x.npy", resume=resume)
        assert set(refused) == {"folder", "file"}
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["state-0.jsonl", "x.npy"]


def test_results_of_the_command_are_left_alone(p, tmp_path):
    before = finished(tmp_path / "e1")
    for words in ({"folder": "e1"}, {"folder": "e1", "resume": True}, {"save": "e1/x_adv.npy"}, {"save": "e1/rows.csv"}, {"pngs": "e1"}):
        paths = {key: value if key == "resume" else tmp_path / value for key, value in words.items()}
        with pytest.raises(InputError, match="holds a finished run"):
            evaluate(p.model, p.x, p.y, suite=["fgsm"], **paths)
        assert {path.name: path.read_bytes() for path in (tmp_path / "e1").iterdir()} == before


def test_corruptions_hold_their_folder_as_attacks_do(held, tmp_path):
    images = load_images("shapes", "test", n=4)
    source = source_from_images(images, ["contrast"], [1], scale="auto", photos="", seed=0, device="cpu")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images.x[0].numel(), len(images.classes)))
    corrupt(model, source, folder=tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["state-0.jsonl"]
    before = finished(tmp_path / "e1")
    with pytest.raises(InputError, match="holds a finished run"):
        corrupt(model, source, folder=tmp_path / "e1")
    assert {path.name: path.read_bytes() for path in (tmp_path / "e1").iterdir()} == before
    held(tmp_path / "new" / LOCK)
    with pytest.raises(BusyError):
        corrupt(model, source, folder=tmp_path / "new", resume=True)


def test_folders_that_are_not_there_are_made(p, tmp_path):
    evaluate(p.model, p.x, p.y, suite=["fgsm"], folder=tmp_path / "a" / "new", save=tmp_path / "b" / "no" / "x.npy")
    assert (tmp_path / "a" / "new" / "state-0.jsonl").exists()
    assert np.load(tmp_path / "b" / "no" / "x.npy").shape == tuple(p.x.shape)
    with pytest.raises(InputError, match="did you mean 'pgd'"):
        evaluate(p.model, p.x, p.y, suite=["pgdd"], folder=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_only_a_full_disk_asks_for_room(p, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    for words in ({"folder": tmp_path / "file" / "run"}, {"save": tmp_path / "file" / "x.npy"}):
        with pytest.raises(InputError, match=r"Not a directory|File exists") as refusal:
            evaluate(p.model, p.x, p.y, suite=["fgsm"], **words)
        assert "make room" not in str(refusal.value)
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.EACCES, "Permission denied")), raising=False)
    with pytest.raises(InputError, match=r"Permission denied; choose another place$"):
        evaluate(p.model, p.x, p.y, suite=["fgsm"], save=tmp_path / "x.npy")


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "; make room, and go on"), (errno.EIO, "; what is finished is kept: go on")])
def test_a_state_that_cannot_be_written_says_why(tmp_path, monkeypatch, number, said):
    journal = Journal(tmp_path, {"run": 1})

    def failing(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(journals.os, "fsync", failing)
    with pytest.raises(UnfinishedError) as refusal:
        journal.append({"place": 1})
    assert str(refusal.value).endswith(f"{os.strerror(number)}{said} with the same words and --resume")
