"""Trainings over several seeds: a checkpoint each, means that leave out what diverged, and groups that are gone on with."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from commandline import INTERRUPTIBLE, read, refused, robench

import robench as package
from robench.core.errors import DivergedError, InputError
from robench.training.seed_groups import distinct_seeds, trained_seed_group
from robench.training.types import Trained

QUICK = ["--arch", "mlp,width=8", "--n-train", 200, "--held-out", 50, "--epochs", 1, "--eval-n", 12, "--suite", "fgsm", "--quiet"]


def made(accuracy, alarm=""):
    """What a training hands back, without one."""
    record = {"accuracy": accuracy, "low": 0.0, "high": 1.0, "n": 50, "norm": "", "eps": 0.0, "data": "shapes", "split": "test"}
    return Trained(torch.nn.Identity(), {"metrics": {"clean": record}, "history": [{"alarm": alarm} if alarm else {}]}, [], None)


def group_of(outcomes, tmp_path):
    """A group whose trainings have these outcomes: an accuracy, or an error."""

    def train_seed(seed, path):
        if isinstance(outcomes[seed], Exception):
            raise outcomes[seed]
        return outcomes[seed]

    return trained_seed_group(train_seed, [*outcomes], tmp_path / "s.pt", resume=False, force=False)


def test_mean_and_standard_deviation_are_over_the_seeds_with_one_less_than_their_number(tmp_path):
    group = group_of({0: made(0.5), 1: made(0.6), 5: made(0.7)}, tmp_path)
    found = group.means["clean"]
    assert (found.mean, found.sd, found.count) == (pytest.approx(0.6), pytest.approx(0.1), 3)
    last = read(tmp_path / "s-seeds.csv")[-1]
    assert (last["seed"], float(last["accuracy"]), float(last["sd"]), float(last["seeds"])) == (
        "mean",
        pytest.approx(0.6),
        pytest.approx(0.1),
        3,
    )
    assert json.loads((tmp_path / "s-seeds.json").read_text())["means"]["clean"]["sd"] == pytest.approx(0.1)


def test_seeds_that_a_guard_ended_are_named_and_the_mean_is_over_the_others(tmp_path):
    group = group_of({0: made(0.5), 1: DivergedError("the loss is NaN"), 2: made(0.9, alarm="it fools itself"), 3: made(0.6)}, tmp_path)
    assert (group.means["clean"].mean, group.means["clean"].count) == (pytest.approx(0.55), 2)
    assert group.left_out == {1: "the loss is NaN", 2: "it fools itself"}
    lines = read(tmp_path / "s-seeds.csv")
    assert [line["seed"] for line in lines] == ["0", "1", "2", "3", "mean"]
    assert [line["alarm"] for line in lines] == ["", "the loss is NaN", "it fools itself", "", ""]
    assert json.loads((tmp_path / "s-seeds.json").read_text())["left_out"] == {"1": "the loss is NaN", "2": "it fools itself"}


def test_one_seed_has_a_mean_and_no_deviation_and_none_that_ran_to_its_end_has_neither(tmp_path):
    assert math.isnan(group_of({4: made(0.5)}, tmp_path / "one").means["clean"].sd)
    assert group_of({4: DivergedError("NaN")}, tmp_path / "none").means == {}
    assert json.loads((tmp_path / "one" / "s-seeds.json").read_text())["means"]["clean"]["sd"] is None


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ((0, 1, 0), "the seed 0 is named twice"),
        ((), "name no seed"),
        ("0,1", "several whole numbers"),
        (3, "several whole"),
        ((-1,), "the seed must be"),
        ((True,), "the seed must be"),
        ((2**32,), "the seed must be"),
    ],
)
def test_seeds_that_cannot_be_are_refused(seeds, sentence):
    with pytest.raises(InputError, match=sentence):
        distinct_seeds(seeds)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seeds", "0,1", "--seed", 0, "--out", "s.pt"], "leave --seed out"),
        (["--seeds", "0,1,0", "--out", "s.pt"], "the seed 0 is named twice"),
        (["--seeds", "0,x", "--out", "s.pt"], "'x' is no seed"),
        (["--seeds", "0,,1", "--out", "s.pt"], "'' is no seed"),
        (["--seeds", "4294967296", "--out", "s.pt"], "the seed must be a whole number from 0"),
        (["--seeds", "0,1"], "--seeds need --out FILE.pt"),
        (["--seeds", "0,1", "--out", "folder"], "need --out FILE.pt"),
        (["--seeds", "0,1", "--sweep", "lr=0.1,seed=2:3", "--out", "folder"], "leave --seeds out"),
        (["--seeds", "0,0", "--sweep", "lr=0.1", "--out", "folder"], "the seed 0 is named twice"),
    ],
)
def test_words_that_contradict_are_refused_before_a_training(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused("train", *QUICK, *words)
    assert not list(tmp_path.iterdir())


def test_python_refuses_a_seed_beside_seeds(tmp_path):
    with pytest.raises(InputError, match="leave one of them out"):
        package.train_seeds("shapes", seeds=(0, 1), seed=0, out=tmp_path / "s.pt")


def test_files_that_are_there_are_not_replaced_unasked(tmp_path):
    (tmp_path / "s-seed1.pt").write_text("mine")
    assert "s-seed1.pt is there" in refused("train", *QUICK, "--seeds", "0,1", "--out", tmp_path / "s.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["s-seed1.pt"]
    (tmp_path / "s-seed1.pt").rename(tmp_path / "s-seeds.csv")
    for switch in ("--resume", "--force"):
        assert "s-seeds.csv was not written" in refused("train", *QUICK, "--seeds", "0,1", "--out", tmp_path / "s.pt", switch)
    assert (tmp_path / "s-seeds.csv").read_text() == "mine"


def test_a_group_is_trained_shown_again_and_gets_more_seeds(tmp_path):
    out = tmp_path / "s.pt"
    first = robench("train", *QUICK, "--seeds", "0,1", "--out", out).stdout
    assert "sd (n - 1)" in first
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("s-seed[01].*")}
    assert {"s-seed0.pt", "s-seed1.pt", "s-seed0.json", "s-seed1.log.csv"} <= kept.keys()
    robench("train", *QUICK, "--seeds", "0,1,7", "--out", out, "--resume")
    assert kept == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("s-seed[01].*")}
    lines = read(tmp_path / "s-seeds.csv")
    clean = [float(line["accuracy"]) for line in lines if line["probe"] == "clean"]
    assert clean[3] == pytest.approx(sum(clean[:3]) / 3)
    assert json.loads((tmp_path / "s-seeds.json").read_text())["seeds"] == [0, 1, 7]
    alone = tmp_path / "alone.pt"
    robench("train", *QUICK, "--seed", 7, "--out", alone)
    metas = [json.loads(path.read_text())["meta"] for path in (alone.with_suffix(".json"), tmp_path / "s-seed7.json")]
    assert [meta["metrics"]["clean"]["accuracy"] for meta in metas] == [clean[2], clean[2]]
    assert metas[0]["arguments"] == metas[1]["arguments"]


def test_a_seed_that_diverges_is_named_and_ends_the_command_as_one_training_does(tmp_path):
    words = ["--objective", "standard", "--lr", 1e30, "--optimizer", "sgd", "--schedule", "constant", "--batch-size", 25]
    alone = robench("train", *QUICK, *words, "--seed", 3, "--out", tmp_path / "one.pt", code=1)
    result = robench("train", *QUICK, *words, "--seeds", "3,4", "--out", tmp_path / "s.pt", code=1)
    assert "diverged" in alone.stderr
    assert "Left out of the means: seed 3: the training diverged" in result.stderr
    assert "Left out of the means: seed 4" in result.stderr
    assert json.loads((tmp_path / "s-seeds.json").read_text())["means"] == {}


def test_a_group_killed_in_its_second_seed_goes_on_there_to_the_same_weights(tmp_path):
    words = [*QUICK[:6], "--epochs", 30, *QUICK[8:-1]]
    call = [sys.executable, "-c", INTERRUPTIBLE, "train", *map(str, words), "--seeds", "0,1,2", "--out"]
    process = subprocess.Popen([*call, str(tmp_path / "s.pt")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "s-seed1.state.pt").exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "s-seed0.pt").exists()
    assert not (tmp_path / "s-seed1.pt").exists()
    assert not (tmp_path / "s-seeds.csv").exists()
    before = (tmp_path / "s-seed0.pt").stat().st_mtime_ns
    robench("train", *words, "--quiet", "--seeds", "0,1,2", "--out", tmp_path / "s.pt", "--resume")
    assert (tmp_path / "s-seed0.pt").stat().st_mtime_ns == before
    robench("train", *words, "--quiet", "--seed", 1, "--out", tmp_path / "alone.pt")
    whole, resumed = (torch.load(tmp_path / name, weights_only=True) for name in ("alone.pt", "s-seed1.pt"))
    state = next(
        key for key, value in whole.items() if isinstance(value, dict) and any(isinstance(one, torch.Tensor) for one in value.values())
    )
    assert all(torch.equal(whole[state][name], resumed[state][name]) for name in whole[state])
    assert json.loads((tmp_path / "s-seeds.json").read_text())["seeds"] == [0, 1, 2]
