"""Where a run writes: what is finished is never replaced unasked, what is unfinished is kept, and two runs never share a place."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commandline import read, refused, robench
from places import CHECKPOINT

from robench.core import folders as destinations
from robench.core.errors import InputError, UnfinishedError
from robench.core.files import write_whole
from robench.core.folders import REPLACING, STAGED, WHOLE_MARK, claim_destination, make_numbered_folder, word_difference
from robench.core.journal import Journal
from robench.core.recipes import parse_recipe
from robench.evaluation.run_words import recipe_words
from robench.training.settings import checkpoint_stem, resolved_settings

WORDS = {"command": "eval", "data": {"n": 100}, "seed": 0}


def finish(folder, text="old", words=WORDS, **how):
    """A finished run with a table, a picture and a state."""
    with claim_destination(folder, words, **how) as place:
        if not place.finished:
            journal = Journal(place.work, words, resume=place.resume)
            journal.append({"stage": 0, "text": text})
            journal.finish()
            with place.staged_results() as staged:
                (staged / "rows.csv").write_text(text)
                (staged / f"{text}.png").write_text(text)
    return place


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# results folders


def test_a_finished_run_is_refused_shown_or_replaced(tmp_path):
    finish(tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=r"holds a finished run: pass --resume to see it, --force to replace it"):
        finish(tmp_path / "out", "new")
    with pytest.raises(InputError, match=r"with other words \(data.n was 100 and is 200\): pass --force"):
        finish(tmp_path / "out", "new", WORDS | {"data": {"n": 200}}, resume=True)
    assert finish(tmp_path / "out", "new", resume=True).finished
    assert contents(tmp_path / "out") == before
    finish(tmp_path / "out", "new", WORDS | {"seed": 1}, force=True)
    assert names(tmp_path / "out") == ["manifest.json", "new.png", "rows.csv", "state-0.jsonl"]
    assert (tmp_path / "out" / "rows.csv").read_text() == "new"
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["words"] == WORDS | {"seed": 1}
    assert len((tmp_path / "out" / "state-0.jsonl").read_text().splitlines()) == 3


def test_results_of_another_command_are_never_replaced(tmp_path):
    finish(tmp_path)
    before = contents(tmp_path)
    for how in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(InputError, match="holds results of 'robench eval': choose another folder"):
            finish(tmp_path, "new", WORDS | {"command": "corrupt"}, **how)
    assert contents(tmp_path) == before


def test_files_of_others_are_neither_overwritten_nor_removed(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    finish(tmp_path)
    finish(tmp_path, "new", force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "other.png").write_text("mine")
    with pytest.raises(UnfinishedError, match=r"other\.png is in the way and not of this run: move it; all results are whole, in"):
        finish(tmp_path, "other", force=True)
    assert (tmp_path / "other.png").read_text() == "mine"
    assert (tmp_path / "rows.csv").read_text() == "new"
    assert (tmp_path / REPLACING / "rows.csv").read_text() == "other"


@pytest.mark.parametrize("name", ["rows.csv", "report.html", "x_adv.npy"])
def test_a_folder_with_a_file_of_that_name_which_no_run_wrote_is_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    for how in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(InputError, match=rf"holds {name}, which belongs to no finished run"):
            finish(tmp_path, **how)
    (tmp_path / name).rename(tmp_path / "manifest.json")
    with pytest.raises(InputError, match=r"manifest\.json"):
        finish(tmp_path, force=True)
    assert contents(tmp_path) == {"manifest.json": b"mine"}


def broken_off(folder, error=KeyboardInterrupt, **how):
    """A run that is broken off after some work."""

    def run():
        with claim_destination(folder, WORDS, **how) as place:
            Journal(place.work, WORDS, resume=place.resume).append({"stage": 0, "text": "new"})
            raise error

    with pytest.raises(error):
        run()


def test_a_replacement_that_is_broken_off_leaves_the_earlier_run_and_can_go_on(tmp_path):
    finish(tmp_path)
    before = contents(tmp_path)
    broken_off(tmp_path, force=True)
    assert {name: data for name, data in contents(tmp_path).items() if name in before} == before
    assert finish(tmp_path, resume=True).finished
    with claim_destination(tmp_path, WORDS, force=True, resume=True) as place:
        assert Journal(place.work, WORDS, resume=place.resume).entries == [{"stage": 0, "text": "new"}]
    with claim_destination(tmp_path, WORDS, force=True) as place:
        assert Journal(place.work, WORDS, resume=place.resume).entries == []
    finish(tmp_path, "new", force=True)
    assert finish(tmp_path, "newer", force=True, resume=True).finished  # so a job that is queued again and again ends


def test_an_unfinished_run_is_kept_unless_it_is_to_be_replaced(tmp_path):
    broken_off(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="holds the state of a run: pass --resume to go on with it, --force to begin anew"):
        finish(tmp_path)
    broken_off(tmp_path, force=True)
    assert {name: data for name, data in contents(tmp_path).items() if name == "state-0.jsonl"} == before
    finish(tmp_path, "new", force=True)
    assert names(tmp_path) == ["manifest.json", "new.png", "rows.csv", "state-0.jsonl"]


def test_a_run_that_is_refused_removes_its_own_files_only(tmp_path):
    def run(folder):
        with claim_destination(folder, WORDS) as place, place.staged_results() as staged:
            (staged / "rows.csv").write_text("")
            raise InputError("wrong")

    with pytest.raises(InputError, match="wrong"):
        run(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="wrong"):
        run(tmp_path / "there")
    assert names(tmp_path / "there") == ["notes.txt"]


def test_an_exchange_that_is_killed_half_way_is_ended_by_the_next_run(tmp_path, monkeypatch):
    finish(tmp_path)
    moves, replace = [], Path.replace

    def killed(self, target):
        if self.parent.name == REPLACING and not self.name.startswith("."):
            moves.append(self.name)
            if len(moves) == 2:
                raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        finish(tmp_path, "new", WORDS | {"seed": 1}, force=True)
    monkeypatch.undo()
    assert (tmp_path / REPLACING / WHOLE_MARK).exists()
    assert finish(tmp_path, "x", WORDS | {"seed": 1}, resume=True).finished
    assert names(tmp_path) == ["manifest.json", "new.png", "rows.csv", "state-0.jsonl"]


def test_words_that_only_add_go_on(tmp_path):
    def adds(theirs, ours):
        return theirs["data"]["n"] < ours["data"]["n"]

    finish(tmp_path)
    with claim_destination(tmp_path, WORDS | {"data": {"n": 200}}, resume=True, adds=adds) as place:
        assert (place.resume, place.finished, place.work) == (True, False, tmp_path)
        with place.staged_results() as staged:
            (staged / "rows.csv").write_text("more")
    assert names(tmp_path) == ["manifest.json", "rows.csv", "state-0.jsonl"]
    with pytest.raises(InputError, match=r"data\.n was 200 and is 100"):
        finish(tmp_path, resume=True, adds=adds)


def test_results_of_an_earlier_version_are_not_replaced_either(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"command": "robench eval MODEL --out x"}))
    (tmp_path / "rows.csv").write_text("old")
    with pytest.raises(InputError, match="holds a finished run: pass"):
        finish(tmp_path)
    with pytest.raises(InputError, match="does not say its words"):
        finish(tmp_path, resume=True)
    finish(tmp_path, "new", force=True)
    assert names(tmp_path) == ["manifest.json", "new.png", "rows.csv", "state-0.jsonl"]


def test_default_folders_get_the_next_free_number(tmp_path):
    assert [make_numbered_folder(tmp_path / "run").name for _ in range(3)] == ["run", "run-2", "run-3"]


# two runs at once


def held(folder, ready, end):
    with claim_destination(folder, WORDS) as place:
        Journal(place.work, WORDS).append({"stage": 0})
        ready.set()
        end.wait(60)


def test_a_second_run_is_refused_while_the_first_lives_and_takes_nothing_from_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=held, args=(tmp_path, ready, end))
    process.start()
    assert ready.wait(60)
    before = contents(tmp_path)
    for how in ({}, {"resume": True}, {"force": True}):
        with pytest.raises(InputError, match=rf"another run is writing to .* \(process {process.pid}\)"):
            finish(tmp_path, **how)
    assert contents(tmp_path) == before
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert finish(tmp_path, resume=True).resume  # the lock of a killed process is free
    assert ".lock" not in names(tmp_path)


# commands


def evaluated(out, *words, code=0):
    call = ["attack", CHECKPOINT, "--attack", "pgd,steps=3", "--n", 30, "--threads", 1, "--out", out, *words]
    return refused(*call) if code == 2 else robench(*call, code=code)


def test_attack_shows_a_finished_run_again_and_changes_nothing(tmp_path):
    first = evaluated(tmp_path / "out", "--save")
    before = contents(tmp_path / "out")
    assert "holds a finished run: pass --resume" in evaluated(tmp_path / "out", "--save", code=2)
    assert "save was True and is False" in evaluated(tmp_path / "out", "--resume", code=2)
    assert "seed was 0 and is 1" in evaluated(tmp_path / "out", "--save", "--seed", 1, "--resume", code=2)
    again = evaluated(tmp_path / "out", "--save", "--resume")
    assert again.stdout == first.stdout
    assert "This run is finished, and nothing was changed" in again.stderr
    assert contents(tmp_path / "out") == before
    evaluated(tmp_path / "out", "--seed", 1, "--force")
    assert not {"x_adv.npy", REPLACING, STAGED} & {*names(tmp_path / "out")}
    assert {row["seed"] for row in read(tmp_path / "out" / "rows.csv")} == {"1"}


def test_folders_of_one_command_are_refused_by_the_others(tmp_path):
    robench("attack", CHECKPOINT, "--attack", "random-noise", "--n", 10, "--out", tmp_path / "out")
    before = contents(tmp_path / "out")
    assert "'robench attack'" in refused("corrupt", CHECKPOINT, "--corruption", "fog", "--n", 10, "--out", tmp_path / "out", "--force")
    assert "'robench attack'" in refused("saliency", CHECKPOINT, "--n", 10, "--out", tmp_path / "out")
    again = robench("attack", CHECKPOINT, "--attack", "random-noise", "--n", 10, "--out", tmp_path / "out", "--resume")
    assert "nothing was changed" in again.stderr
    assert contents(tmp_path / "out") == before


def test_an_audit_is_shown_again(tmp_path):
    words = ["saliency", CHECKPOINT, "--n", 12, "--score", "gini", "--save", "--out", tmp_path / "out"]
    first = robench(*words)
    before = contents(tmp_path / "out")
    assert robench(*words, "--resume").stdout == first.stdout
    assert "target was 'true' and is 'predicted'" in refused(*words, "--target", "predicted", "--resume")
    said = refused(*words, "--method", "saliency,occlusion,block=4", "--resume")
    assert "methods was --method saliency and is --method saliency --method occlusion,block=4)" in said
    assert contents(tmp_path / "out") == before
    robench(*words[:-3], "--out", tmp_path / "out", "--force")
    assert not list((tmp_path / "out").glob("maps-*"))


def test_an_audit_knows_the_results_that_it_joins(tmp_path):
    attack = ["attack", CHECKPOINT, "--n", 10, "--out", tmp_path / "run", "--attack"]
    robench(*attack, "fgsm")
    words = ["saliency", CHECKPOINT, "--n", 10, "--score", "gini", "--join", tmp_path / "run", "--out", tmp_path / "out"]
    robench(*words)
    assert "nothing was changed" in robench(*words, "--resume").stderr
    robench(*attack, "pgd,steps=2", "--force")
    assert f"what --join {tmp_path / 'run'} names has changed" in refused(*words, "--resume")


def test_lists_that_differ_are_told_as_they_are_written():
    def told(key, one, other):
        return word_difference(
            {key: [recipe_words(parse_recipe(sentence)) for sentence in one]}, {key: [recipe_words(parse_recipe(word)) for word in other]}
        )

    assert told("methods", ["saliency"], ["occlusion,block=2"]) == "methods was --method saliency and is --method occlusion,block=2"
    assert told("against", [], ["pgd,eps=0.5"]) == "against was none and is --against pgd,eps=0.5"
    many = ["saliency", "occlusion,block=2", "integrated-gradients,steps=20", "smoothgrad,samples=50"]
    assert told("methods", many, [*many[:3], "gini"]) == "methods was ... --method smoothgrad,samples=50 and is ... --method gini"
    assert told("suite", ["pgd-20"], ["pgd-20", "fgsm"]) == "suite was pgd-20 and is pgd-20, fgsm"
    assert word_difference({"eps": [8 / 255]}, {"eps": [4 / 255]}) == "eps was 8/255 and is 4/255"
    one, other = ([{"name": "a.pt", "sha256": digest}] for digest in "ab")
    assert word_difference({"checkpoint": one}, {"checkpoint": other}) == "what a.pt names has changed"
    assert word_difference({"x": [[1]]}, {"x": [[2]]}) == "x was [[1]] and is [[2]]"


def test_corruptions_and_a_reference_are_added_to_a_finished_run(tmp_path):
    words = ["corrupt", CHECKPOINT, "--n", 12, "--threads", 1, "--severity", "1,2", "--out", tmp_path / "out"]
    few, more = ["--corruption", "fog"], ["--corruption", "fog", "--corruption", "snow", "--reference", CHECKPOINT]
    robench(*words, *few)
    lines = (tmp_path / "out" / "state-0.jsonl").read_text().splitlines()
    robench(*words, *more, "--resume")
    state = (tmp_path / "out" / "state-0.jsonl").read_text().splitlines()
    assert [json.loads(line).get("corruption") for line in state[1:4]] == [json.loads(line).get("corruption") for line in lines[1:4]]
    robench(*words[:-1], tmp_path / "whole", *more)
    assert read(tmp_path / "out" / "rows.csv") == read(tmp_path / "whole" / "rows.csv")
    assert read(tmp_path / "out" / "samples.csv") == read(tmp_path / "whole" / "samples.csv")
    assert "reference was" in refused(*words, *few, "--resume")
    assert "cells was" in refused(*words, "--corruption", "fog", "--reference", CHECKPOINT, "--resume")
    assert "nothing was changed" in robench(*words, *more, "--resume").stderr


# trainings


def test_the_name_of_a_checkpoint_tells_trainings_apart():
    def name(preset="small", seed=0, data="shapes", **words):
        return checkpoint_stem(resolved_settings(preset, words)[0], preset, "small", data, seed)

    assert name(reg=("sagr",)) == "shapes-cnn-sagr"
    assert name(reg=("sagr=0.1,rho=0.3",), seed=3) == "shapes-cnn-sagr-0.1-rho-0.3-seed-3"
    assert name(objective="pgd-at", eps=2 / 255, epochs=3) == "shapes-cnn-pgd-at-eps-2-255-epochs-3"
    assert name(objective="pgd-at", eps=0.25 / 255, lr=1 / 3) == "shapes-cnn-pgd-at-eps-0.25-255-lr-1-3"
    assert name(objective="pgd-at") == "shapes-cnn-pgd-at"  # in the repository; README's words get the next number
    assert name(objective="pgd-at", reg=("sagr=1",)) == "shapes-cnn-pgd-at-sagr-1"
    assert name("mnist-small", data="npz:a b/mine") == "mine-two-conv-standard-mnist-small"
    assert name(arch="/home/me/nets.py:Net") == "shapes-nets.py-Net-standard"
    long = name(reg=("sagr=0.123456,rho=0.3,norm=l2,sign=all,at=clean,output=probs,projections=3,warmup=0.25,drops=0.5",))
    assert len(long) == 100
    assert long != name(reg=("sagr=0.123456,rho=0.3,norm=l2,sign=all,at=clean,output=probs,projections=3,warmup=0.25,drops=0.6",))


TRAIN = ["train", "--epochs", "1", "--n-train", "1000", "--held-out", "100", "--eval-n", "10", "--arch", "mlp,width=8", "--threads", "1"]


def test_the_same_words_train_twice_and_the_committed_checkpoint_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        robench(*TRAIN)
    stems = {path.name.removesuffix(".pt") for path in (tmp_path / "checkpoints").glob("*.pt")}
    assert len(stems) == 2
    first = min(stems, key=len)
    assert stems == {first, f"{first}-2"}
    assert "which training is --force to replace" in refused(*TRAIN, "--force")
    before = contents(tmp_path / "checkpoints")
    assert f"{first}-2.pt is finished, and nothing was changed" in " ".join(robench(*TRAIN, "--resume").stderr.split())
    assert contents(tmp_path / "checkpoints") == before


def test_a_finished_checkpoint_is_refused_shown_or_replaced(tmp_path):
    out = tmp_path / "net.pt"
    robench(*TRAIN, "--out", out)
    (tmp_path / "net.txt").write_text("mine")
    before = contents(tmp_path)
    assert "holds a finished training: pass --resume to see it, --force" in refused(*TRAIN, "--out", out)
    assert "recipe.seed was 0 and is 1" in refused(*TRAIN, "--out", out, "--seed", 1, "--resume")
    for words in (["--resume"], ["--resume", "--force"]):
        shown = robench(*TRAIN, "--out", out, *words)
        assert "nothing was changed" in shown.stderr
        assert "seconds" not in shown.stdout  # of a training that was not run
    assert contents(tmp_path) == before
    robench(*TRAIN, "--out", out, "--seed", 1, "--force")
    assert json.loads((tmp_path / "net.json").read_text())["meta"]["recipe"]["seed"] == 1
    assert names(tmp_path) == sorted(before)


def test_a_file_that_is_no_checkpoint_of_ours_is_not_replaced(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"mine")
    for words in ([], ["--force"], ["--resume"]):
        refused(*TRAIN, "--out", tmp_path / "net.pt", *words)
    (tmp_path / "net.pt").rename(tmp_path / "net.json")
    assert "net.json is in the way" in refused(*TRAIN, "--out", tmp_path / "net.pt", "--force")
    assert contents(tmp_path) == {"net.json": b"mine"}


def test_resume_without_a_name_takes_up_the_newest_unfinished_training_of_these_words(tmp_path):
    words = [*TRAIN[:1], "--epochs", "200", *TRAIN[3:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = "import runpy, robench.training.states as s\ns.SAVE_SECONDS = 0.0\nrunpy.run_module('robench', run_name='__main__')"
    for seed in (0, 1):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words, "--seed", str(seed)], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 90
        while len(list(tmp_path.glob("checkpoints/*.state.pt"))) <= seed and time.monotonic() < end:
            time.sleep(0.05)
        if seed == 0:  # the first one lives: its place is not taken
            out = str(next(tmp_path.glob("checkpoints/*.state.pt"))).replace(".state", "")
            busy = subprocess.run(
                [sys.executable, "-m", "robench", *words, "--out", out],
                cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert busy.returncode == 2
            assert "another run is writing to" in busy.stderr
        process.kill()
        process.wait()
    states = {path.name for path in (tmp_path / "checkpoints").glob("*.state.pt")}
    assert len(states) == 2
    again = subprocess.Popen(
        [sys.executable, "-u", "-c", code, *words, "--resume"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert "taken up after" in "".join(again.stderr.readline() for _ in range(2))
    again.kill()
    again.communicate()
    assert {path.name for path in (tmp_path / "checkpoints").glob("*.state.pt")} == states


def test_a_sweep_is_shown_again_takes_more_cells_and_is_not_trained_twice(tmp_path):
    sweep = [*TRAIN, "--reg", "l2=1", "--out", tmp_path / "sweep"]
    robench(*sweep, "--sweep", "lambda=0:0.1")
    before = contents(tmp_path / "sweep")
    assert "holds a finished run: pass --resume" in refused(*sweep, "--sweep", "lambda=0:0.1")
    assert "nothing was changed" in robench(*sweep, "--sweep", "lambda=0:0.1", "--resume").stderr
    assert contents(tmp_path / "sweep") == before
    assert "grid.lambda was" in refused(*sweep, "--sweep", "lambda=0", "--resume")
    robench(*sweep, "--sweep", "lambda=0:0.1:1", "--resume")
    after = contents(tmp_path / "sweep")
    assert after["lambda-0.1.pt"] == before["lambda-0.1.pt"]
    assert "lambda-1.pt" in after
    robench(*sweep, "--sweep", "lambda=0", "--force")
    assert {name for name in names(tmp_path / "sweep") if name.endswith(".pt")} == {"lambda-0.pt"}


def test_the_names_of_hidden_folders_are_hidden():
    assert all(name.startswith(".") for name in (destinations.LOCK, STAGED, REPLACING, WHOLE_MARK))


def unwritten(folder, monkeypatch, entries, **how):
    """The refusal of a run whose results meet a full disk."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def run(patched):
        with claim_destination(folder, WORDS, **how) as place, place.staged_results() as staged:
            for entry in entries:
                Journal(place.work, WORDS, resume=place.resume).append(entry)
            patched.setattr("robench.core.files.write_synced", full)
            write_whole({staged / "rows.png": b"picture"})

    with monkeypatch.context() as patched, pytest.raises(InputError) as caught:
        run(patched)
    return caught.value


def test_a_disk_that_is_full_when_results_are_written_keeps_the_state_and_says_so(tmp_path, monkeypatch):
    for how, again in (({}, "--resume"), ({"force": True}, "--force --resume")):
        refusal = unwritten(tmp_path, monkeypatch, [{"stage": 0}], **how)
        assert isinstance(refusal, UnfinishedError)
        sentence = "No space left on device; the state is kept: make room, and go on with the same words and "
        assert str(refusal).endswith(sentence + again)
        with claim_destination(tmp_path, WORDS, resume=True, **how) as place:
            assert Journal(place.work, WORDS, resume=place.resume).entries == [{"stage": 0}]
        finish(tmp_path, resume=True, **how)
    assert str(unwritten(tmp_path / "new", monkeypatch, [])).endswith("; choose another place")  # nothing to go on with
