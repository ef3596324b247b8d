"""Teachers: which files serve as one, and how often one is trained."""

from __future__ import annotations

import json

import pytest
import torch
from commandline import robench as command

import robench
from robench.core.errors import InputError
from robench.models import checkpoint

SHORT = {"n_train": 64, "epochs": 1, "batch_size": 16, "held_out": 16, "eval_n": 4, "suite": ()}
CODE = """
from torch import nn

def net(num_classes=10):
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 16), nn.Softplus(), nn.Linear(16, num_classes))
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    return f"{tmp_path / 'mine.py'}:net,num_classes=10"


def test_a_checkpoint_of_the_users_own_architecture_teaches_where_the_student_is_of_that_code(tmp_path, own):
    teacher = robench.train("shapes", arch=own, activation="relu", out=tmp_path / "plain.pt", **SHORT)
    student = robench.train("shapes", arch=own, activation="relu", reg=("igd",), teacher=teacher.path, out=tmp_path / "igd.pt", **SHORT)
    assert student.meta["recipe"]["teacher"]["sha256"] == checkpoint.fingerprint(teacher.model.state_dict())


def test_a_checkpoint_starts_no_code_that_the_user_has_not_named(tmp_path, own):
    teacher = robench.train("shapes", arch=own, activation="relu", out=tmp_path / "plain.pt", **SHORT)
    (tmp_path / "mine.py").write_text("raise SystemError")
    with pytest.raises(InputError, match="name that code yourself with --arch"):
        robench.train("shapes", arch="mlp", reg=("igd",), teacher=teacher.path, out=tmp_path / "igd.pt", **SHORT)


def test_weights_alone_teach_as_the_students_architecture_with_its_normalisation(tmp_path):
    words = {"arch": "mlp,width=16", "activation": "silu"}
    teacher = robench.train("shapes", **words, out=tmp_path / "plain.pt", **SHORT)
    weights = {name.removeprefix("network."): value for name, value in teacher.model.state_dict().items() if "normalize" not in name}
    torch.save(weights, tmp_path / "weights.pt")
    said = []

    def watch(events, epochs):
        for event in events:
            said.append(getattr(event, "sentence", ""))
            yield event

    student = robench.train(
        "shapes",
        **words,
        reg=("igd",),
        objective="standard",
        teacher=tmp_path / "weights.pt",
        out=tmp_path / "igd.pt",
        watch=watch,
        **SHORT,
    )
    same = robench.train("shapes", **words, reg=("igd",), objective="standard", teacher=teacher.path, out=tmp_path / "same.pt", **SHORT)
    assert all(torch.equal(value, same.model.state_dict()[name]) for name, value in student.model.state_dict().items())
    assert sum("weights.pt holds weights only" in sentence for sentence in said) == 1


@pytest.mark.parametrize(("grid", "teachers"), [("lambda=1:2", 1), ("lambda=1:2,seed=0:1", 2)])
def test_a_sweep_trains_each_teacher_once(tmp_path, grid, teachers):
    short = "--n-train 64 --epochs 1 --batch-size 16 --held-out 16 --eval-n 4 --suite fgsm --arch mlp,width=16 --objective standard"
    done = command(*f"train --reg igd --sweep {grid} {short} --out {tmp_path / 'sweep'}".split())
    assert done.exit_code == 0, done.output
    kept = {path.name: json.loads(path.with_suffix(".json").read_text()) for path in (tmp_path / "sweep").glob("teacher-*.pt")}
    cells = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("lambda*.json")]
    assert len(kept) == teachers
    assert {cell["meta"]["recipe"]["teacher"]["name"] for cell in cells} == set(kept)
    assert {cell["meta"]["recipe"]["teacher"]["sha256"] for cell in cells} == {its["sha256"] for its in kept.values()}
    assert done.output.count("trained first") == teachers
