"""What the words of a run name is known by its content: a file that changes under the same name is another one."""

import numpy as np
import pytest
from commandline import read, refused, robench

from robench import train
from robench.core.errors import InputError
from robench.models.identity import code_digests
from robench.training import states as resuming
from robench.training.types import TrainingNote

SHORT = {"arch": "mlp,width=8", "epochs": 1, "batch_size": 8, "held_out": 8, "eval_n": 4}
TRAIN = ["train", "--arch", "mlp,width=8", "--epochs", 1, "--batch-size", 8, "--held-out", 8, "--eval-n", 4, "--threads", 1]
PENALTY = "def fn(model, batch):\n    return {} * model(batch.x).square().mean()\n"
ATTACK = """
import torch

from robench.core.types import AttackResult


def attack(model, x, y, threat, draws):
    x_adv = threat.project(x, x + {})
    one = torch.ones_like(y)
    return AttackResult(x_adv, model(x_adv).argmax(1) != y, 0 * one, one, 0 * one, one < 0)
"""


def write_data(path, seed, test_seed=9):
    """A training split of 40 images and a test split of 8."""
    x, x_test = (np.random.default_rng(s).integers(0, 255, (n, 8, 8, 3), dtype=np.uint8) for s, n in ((seed, 40), (test_seed, 8)))
    np.savez(path, x_train=x, y_train=np.arange(40) % 4, x_test=x_test, y_test=np.arange(8) % 4)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def data(tmp_path):
    write_data(tmp_path / "d.npz", 0)
    return f"npz:{tmp_path / 'd.npz'}"


def broken_off(events, epochs):
    """A watch that breaks a training off after its second step."""
    for _, event in zip(range(3), (event for event in events if not isinstance(event, TrainingNote)), strict=False):
        yield event
    raise ConnectionAbortedError


def test_a_sweep_knows_its_images(tmp_path, data):
    sweep = [*TRAIN, "--data", data, "--suite", "fgsm", "--measure", "test", "--out", tmp_path / "sd"]
    robench(*sweep, "--sweep", "lr=0.01:0.1")
    before = contents(tmp_path / "sd")
    for seeds, which in (((1, 9), "training"), ((0, 8), "test")):
        write_data(tmp_path / "d.npz", *seeds)
        for grid in ("lr=0.01:0.1", "lr=0.01:0.1:0.2"):
            assert f"sha256 of the {which} images was" in refused(*sweep, "--sweep", grid, "--resume")
    assert contents(tmp_path / "sd") == before
    write_data(tmp_path / "d.npz", 0)
    assert "nothing was changed" in robench(*sweep, "--sweep", "lr=0.01:0.1", "--resume").stderr


def test_a_training_knows_its_test_images(tmp_path, data):
    train(data, **SHORT, suite=["fgsm"], out=tmp_path / "a.pt")
    write_data(tmp_path / "d.npz", 0, 8)
    with pytest.raises(InputError, match=r"other settings \(data.test_sha256 was"):
        train(data, **SHORT, suite=["fgsm"], out=tmp_path / "a.pt", resume=True)


@pytest.mark.parametrize("option", ["reg", "suite"])
def test_own_code_of_another_content_is_another_training(tmp_path, data, option, monkeypatch):
    monkeypatch.setattr(resuming, "SAVE_SECONDS", 0.0)
    text, function = (PENALTY, "fn") if option == "reg" else (ATTACK, "attack")
    code = tmp_path / "mine.py"
    code.write_text(text.format("0.1"))
    words = {**SHORT, "suite": ["fgsm"], option: [f"{code}:{function}"]}
    train(data, **words, out=tmp_path / "done.pt")
    with pytest.raises(ConnectionAbortedError):
        train(data, **words, out=tmp_path / "begun.pt", watch=broken_off)
    assert (tmp_path / "begun.state.pt").exists()
    assert not train(data, **words, out=tmp_path / "done.pt", resume=True).evaluation
    code.write_text(text.format("0.2"))
    for name in ("done.pt", "begun.pt"):
        with pytest.raises(InputError, match=r"with other settings \(recipe\.code\.mine\.py was [0-9a-f]+\.\.\. and is [0-9a-f]+\.\.\."):
            train(data, **words, out=tmp_path / name, resume=True)


def test_the_options_of_an_attack_are_words_of_a_training(tmp_path, data):
    train(data, **SHORT, suite=["pgd,steps=2"], out=tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"recipe\.suite was"):
        train(data, **SHORT, suite=["pgd,steps=3"], out=tmp_path / "a.pt", resume=True)


def test_a_sweep_knows_own_code_and_its_teacher(tmp_path, data):
    code, teacher = tmp_path / "mine.py", tmp_path / "teacher.pt"
    code.write_text(PENALTY.format("0.1"))
    words = {**SHORT, "preset": "small", "suite": ()}
    train(data, **words, out=teacher)
    sweep = [*TRAIN, "--data", data, "--suite", "fgsm", "--reg", f"{code}:fn", "--teacher", teacher, "--out", tmp_path / "sd"]
    robench(*sweep, "--sweep", "lr=0.01")
    code.write_text(PENALTY.format("0.2"))
    assert "code.mine.py was" in refused(*sweep, "--sweep", "lr=0.01:0.1", "--resume")
    code.write_text(PENALTY.format("0.1"))
    train(data, **words, seed=1, out=teacher, force=True)
    assert "sha256 of the teacher was" in refused(*sweep, "--sweep", "lr=0.01:0.1", "--resume")


def test_a_teacher_is_known_by_its_weights(tmp_path, data):
    words = {**SHORT, "suite": (), "preset": "small"}
    named, own = tmp_path / "named.pt", tmp_path / "own.teacher.pt"
    train(data, **words, out=named)
    student = {**words, "reg": ("igd",), "objective": "pgd-at,steps=1"}
    train(data, **student, teacher=named, out=tmp_path / "one.pt")
    train(data, **student, out=tmp_path / "own.pt")
    (tmp_path / "moved.pt").write_bytes(named.read_bytes())
    train(data, **student, teacher=tmp_path / "moved.pt", out=tmp_path / "one.pt", resume=True)
    train(data, **student, out=tmp_path / "own.pt", resume=True)
    for place, how, out in ((named, {"teacher": named}, "one.pt"), (own, {}, "own.pt")):
        train(data, **words, seed=1, out=place, force=True)
        with pytest.raises(InputError, match=r"has learnt from .*\(sha256 [0-9a-f]{12}\.\.\., not [0-9a-f]{12}\.\.\.\): pass --force"):
            train(data, **student, **how, out=tmp_path / out, resume=True)


def test_the_last_line_of_a_sweep_counts_the_checkpoints_that_are_there(tmp_path, data):
    sweep = [*TRAIN, "--data", data, "--suite", "fgsm", "--sweep", "lr=0.01:1e38", "--optimizer", "sgd", "--out", tmp_path / "sd"]
    first = robench(*sweep)
    assert "diverged" in {row["metric"] for row in read(tmp_path / "sd" / "rows.csv")}
    assert len(list((tmp_path / "sd").glob("lr-*.pt"))) == 1
    for said in (first, robench(*sweep, "--resume")):
        assert "front.png and 1 checkpoint in" in " ".join(said.stderr.split())


def test_two_files_of_one_name_are_both_known(tmp_path):
    files = [tmp_path / folder / "mine.py" for folder in "ab"]
    for number, file in enumerate(files):
        file.parent.mkdir()
        file.write_text(PENALTY.format(number))
    before = code_digests(*(f"{file}:fn=0.1" for file in files))
    assert len(before) == 2
    files[0].write_text(PENALTY.format(2))
    assert code_digests(*(f"{file}:fn=0.1" for file in files)) != before
