"""Trainings that are broken off: taken up again they reach the weights of an unbroken one, bit for bit, and nothing is lost."""

import copy
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from commandline import INTERRUPTIBLE, read, refused, robench
from torch import nn

from robench.core.errors import InputError
from robench.data import Images
from robench.models import checkpoint
from robench.objectives import REGULARIZERS, regularizers_of
from robench.objectives.standard import standard
from robench.training import preparation
from robench.training import states as resuming
from robench.training.checkpoint_files import remove_half_written_files
from robench.training.epochs import fit
from robench.training.preparation import refuse_penalty_options
from robench.training.presets import PRESETS
from robench.training.settings import PLAN_SETTINGS, plan_of, resolved_settings
from robench.training.states import epochs_from_state, restore_run, run_state
from robench.training.steps import begin_training
from robench.training.train import train
from robench.training.types import Epoch, Step, TrainingPlan


def images(n=32, split="train"):
    """Two classes told apart by brightness."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(n) % 2
    x = (torch.rand(n, 3, 6, 6, generator=generator) * 150).to(torch.uint8) + 100 * y.view(-1, 1, 1, 1).to(torch.uint8)
    return Images("toy", split, x, y, torch.arange(n), ("dark", "bright"))


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 2))
        return nn.Sequential(*layers)


def plan(**changes):
    settings, _ = resolved_settings("small", {"epochs": 3, "batch_size": 8, "probe_n": 8, "eps": 0.05, "lr": 0.01, **changes})
    return plan_of(settings, 5, network(9).eval().requires_grad_(False))


PLANS = {
    "standard": {"augment": "crop-flip-cutout"},
    "sgd, average": {"optimizer": "sgd", "ema": 0.9, "schedule": "plateau,patience=0", "label_smoothing": 0.1},
    "free-at": {"objective": "free-at,replays=3"},
    "weight perturbation": {"objective": "trades,steps=2", "awp": 0.01, "awp_warmup": 0.2},
    "equal average": {"optimizer": "sgd", "swa": 0.3, "schedule": "constant"},
    "accumulated": {"objective": "free-at,replays=2", "awp": 0.01, "accumulate": 4},
    "mixed, regularised": {"cutmix": 1.0, "reg": ("sagr", "arr", "vat")},
    "distilled": {"objective": "mart,steps=2", "reg": ("igd", "emr"), "mixup": 1.0},
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("broken", [1, 7])
def test_a_run_broken_off_anywhere_reaches_the_weights_of_an_unbroken_one(name, broken):
    chosen, whole = plan(**PLANS[name]), network()
    unbroken = begin_training(whole, chosen)
    records = [event.terms for event in fit(unbroken, chosen, images(), images()) if isinstance(event, Step)]
    first = begin_training(network(), chosen)
    steps = [event for event in itertools.islice(fit(first, chosen, images(), images()), broken) if isinstance(event, Step)]
    state = copy.deepcopy(run_state(first))
    torch.rand(7)  # whatever happens to the generators in between
    second = begin_training(network(4), chosen)
    restore_run(second, state)
    steps += [event for event in fit(second, chosen, images(), images()) if isinstance(event, Step)]
    assert [step.terms for step in steps] == records
    for one, other in ((unbroken.model, second.model), (unbroken.average, second.average)):
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert [r["terms"] for r in second.history] == [r["terms"] for r in unbroken.history]
    assert second.best.epoch == unbroken.best.epoch
    assert all(torch.equal(second.best.weights[key], value) for key, value in unbroken.best.weights.items())


def settings():
    return {"preset": "small", "epochs": 3, "batch_size": 8, "held_out": 8, "eval_n": 8, "arch": "cnn,width=4", "reg": ("sagr",)}


def breaking(after):
    """A watch that breaks a training off after so many steps."""

    def watch(events, epochs):
        done = 0
        for event in events:
            yield event
            done += isinstance(event, Step)
            if done == after:
                raise ConnectionAbortedError

    return watch


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr(preparation, "load_images", lambda name, split, **how: images(40, split))
    monkeypatch.setattr(resuming, "SAVE_SECONDS", 0.0)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_training_that_is_stopped_after_the_last_step_of_an_epoch_still_closes_it(epoch, tmp_path):
    words = {
        "arch": "mlp,width=4",
        "n_train": 60,
        "held_out": 20,
        "epochs": 2,
        "batch_size": 10,
        "eval_n": 4,
        "suite": ["fgsm"],
        "probe_n": 8,
    }

    def stop(events, epochs):
        for event in events:
            yield event
            if isinstance(event, Step) and (event.epoch, event.step) == (epoch, event.steps - 1):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train("shapes", out=tmp_path / "broken.pt", watch=stop, **words)
    resumed = train("shapes", out=tmp_path / "broken.pt", resume=True, **words)
    unbroken = train("shapes", **words)
    histories = [repr([{**record, "seconds": 0} for record in one.meta["history"]]) for one in (resumed, unbroken)]  # nan is nan there
    assert histories[0] == histories[1]
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.state_dict().values(), unbroken.model.state_dict().values(), strict=True))


def test_a_training_goes_on_from_its_state_file_and_removes_it_at_the_end(toys, tmp_path):
    whole = train("toy", out=tmp_path / "whole.pt", **settings())
    with pytest.raises(ConnectionAbortedError):
        train("toy", out=tmp_path / "broken.pt", watch=breaking(6), **settings())
    assert sorted(path.name for path in tmp_path.glob("broken*")) == ["broken.state.pt"]
    done = train("toy", out=tmp_path / "broken.pt", resume=True, **settings())
    assert not (tmp_path / "broken.state.pt").exists()
    assert checkpoint.fingerprint(done.model.state_dict()) == checkpoint.fingerprint(whole.model.state_dict())
    assert (tmp_path / "broken.log.csv").read_text().count("\n") == 4
    assert (tmp_path / "broken.curves.png").read_bytes()[:4] == b"\x89PNG"
    assert any(note.startswith("taken up after ") for note in done.meta["notes"])


def test_other_settings_and_forgotten_words_are_refused_and_leave_the_state(toys, tmp_path):
    out = tmp_path / "net.pt"
    with pytest.raises(ConnectionAbortedError):
        train("toy", out=out, watch=breaking(3), **settings())
    before = (tmp_path / "net.state.pt").read_bytes()
    with pytest.raises(InputError, match=r"recipe\.lr was 0\.004 and is 0\.01"):
        train("toy", out=out, resume=True, lr=0.01, **settings())
    with pytest.raises(InputError, match="holds an unfinished training: pass --resume"):
        train("toy", out=out, **settings())
    assert (tmp_path / "net.state.pt").read_bytes() == before
    for damaged in (before[:1000], before[:-1], before[:5000] + bytes([before[5000] ^ 1]) + before[5001:]):
        (tmp_path / "net.state.pt").write_bytes(damaged)
        with pytest.raises(InputError, match="is cut off or damaged: remove it"):
            train("toy", out=out, resume=True, **settings())
    (tmp_path / "net.state.pt").write_bytes(b"PK" + before[2:])
    with pytest.raises(InputError, match="is not the state of a training"):
        train("toy", out=out, resume=True, **settings())


def test_what_is_finished_is_handed_back_and_other_words_are_refused(toys, tmp_path):
    out = tmp_path / "net.pt"
    first = train("toy", out=out, **settings())
    stamp = out.stat().st_mtime_ns
    again = train("toy", out=out, resume=True, **settings())
    assert out.stat().st_mtime_ns == stamp
    assert again.meta == first.meta or json.dumps(again.meta) == json.dumps(checkpoint.plain_values(first.meta))
    assert all(torch.equal(a, b) for a, b in zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True))
    for words, sentence in (
        ({}, "holds a finished training: pass --resume"),
        ({"resume": True, "epochs": 2}, "recipe.epochs was 3 and is 2"),
    ):
        with pytest.raises(InputError, match=sentence):
            train("toy", out=out, **{**settings(), **words})
    assert out.stat().st_mtime_ns == stamp


def small():
    """Settings of a training that takes no time."""
    return {**settings(), "reg": (), "objective": "standard", "arch": "mlp,width=4", "epochs": 1, "ema": 0.0, "suite": ("fgsm",)}


@pytest.mark.parametrize("end", ["state", "last", "best", "teacher"])
def test_a_training_that_bears_the_name_of_a_file_of_another_is_refused_and_never_replaced(toys, tmp_path, end):
    other = tmp_path / f"net.{end}.pt"
    with pytest.raises(InputError, match=rf"net\.{end}\.pt is the name of a file that the training of net\.pt may write"):
        train("toy", out=other, **small())
    learning = {"reg": ("igd",)} if end == "teacher" else {}
    train("toy", out=tmp_path / "net.pt", **small())
    for path in train("toy", out=tmp_path / "other.pt", **{**small(), "seed": 1}).path, tmp_path / "other.json":
        path.rename(other.with_suffix(path.suffix))
    before = {path: path.read_bytes() for path in tmp_path.glob("net*.pt")}
    for words in ({"force": True}, {"force": True, "resume": True, "seed": 2}, {"resume": True, "force": True, "epochs": 2}):
        with pytest.raises(InputError, match="move it, or choose another --out") as caught:
            train("toy", out=tmp_path / "net.pt", **{**small(), **learning, **words})
        assert f"net.{end}.pt" in str(caught.value)
        assert "remove" not in str(caught.value)
        assert {path: path.read_bytes() for path in tmp_path.glob("net*.pt")} == before


def test_a_json_or_a_log_of_other_weights_is_not_replaced(toys, tmp_path):
    train("toy", out=tmp_path / "a.pt", **small())
    train("toy", out=tmp_path / "b.pt", **small(), seed=1)
    for end in (".json", ".log.csv"):
        own, foreign = ((tmp_path / f"{stem}{end}").read_bytes() for stem in "ba")
        (tmp_path / f"b{end}").write_bytes(foreign)
        with pytest.raises(InputError, match=rf"b\{end} was not written with b\.pt, or was changed since"):
            train("toy", out=tmp_path / "b.pt", force=True, **small())
        assert (tmp_path / f"b{end}").read_bytes() == foreign
        (tmp_path / f"b{end}").write_bytes(own)
    train("toy", out=tmp_path / "b.pt", force=True, **small())


def test_a_finished_checkpoint_with_a_changed_byte_is_never_handed_back_with_other_content(toys, tmp_path):
    first = train("toy", out=tmp_path / "net.pt", **small())
    whole, taken = first.path.read_bytes(), 0
    for place in range(0, len(whole), len(whole) // 100):
        first.path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with suppress(InputError):
            again = train("toy", out=first.path, resume=True, **small())
            assert checkpoint.fingerprint(again.model.state_dict()) == checkpoint.fingerprint(first.model.state_dict())
            assert again.meta == json.loads(json.dumps(checkpoint.plain_values(first.meta)))
            taken += 1
    assert taken < 50
    first.path.write_bytes(whole)
    (tmp_path / "net.json").write_text((tmp_path / "net.json").read_text().replace('"sha256": "', '"sha256": "0', 1))
    with pytest.raises(InputError, match=r"net\.json was not written with net\.pt, or was changed since"):
        train("toy", out=first.path, resume=True, **small())


def test_a_damaged_teacher_that_was_trained_first_teaches_nobody(toys, tmp_path):
    chosen = {**small(), "reg": ("igd",)}
    train("toy", out=tmp_path / "net.pt", **chosen)
    kept, weights = tmp_path / "net.teacher.pt", checkpoint.read_checkpoint(tmp_path / "net.teacher.pt")[0]
    data = bytearray(kept.read_bytes())
    data[data.index(max(weights.values(), key=torch.numel).numpy().tobytes()) + 5] ^= 0x10
    kept.write_bytes(data)
    for path in tmp_path.glob("net*"):
        if "teacher" not in path.name:
            path.unlink()
    with pytest.raises(InputError, match="fails its checksum"):
        train("toy", out=tmp_path / "net.pt", resume=True, **chosen)


def test_a_file_that_force_cannot_replace_is_named(tmp_path):
    for out in (tmp_path / ".pt", "/dev/null", tmp_path / "folder"):
        assert f"Pass its file with --out, FILE.pt, not {out}" in refused("train", "--out", out, "--force")
    assert "has no name before its .pt" in refused("train", "--out", tmp_path / ".pt", "--n-train", "64", "--batch-size", "8")


def words(tmp_path, out):
    return [
        "train", "--data", f"npz:{tmp_path}/toy.npz", "--arch", "cnn,width=4", "--epochs", "4", "--batch-size", "8", "--held-out", "8",
        "--eval-n", "8", "--objective", "pgd-at,steps=2", "--ema", "0.9", "--threads", "1", "--out", tmp_path / out,
    ]  # fmt: skip


def stored(tmp_path):
    """The toy images as a file."""
    some = images(600)
    np.savez(tmp_path / "toy.npz", x_train=some.x[:500], y_train=some.y[:500], x_test=some.x[500:], y_test=some.y[500:])


def started(tmp_path, out, saving="0"):
    """A training in a process of its own that saves its state after every step."""
    code = INTERRUPTIBLE.replace("import runpy", f"import robench.training.states as s\ns.SAVE_SECONDS = {saving}\nimport runpy")
    command = [sys.executable, "-c", code, *map(str, words(tmp_path, out))]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def waited_for(path, seconds=60):
    """Returns once the file is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, "no state was written"
        time.sleep(0.01)


def test_kill_9_and_ctrl_c_lose_nothing_that_changes_the_weights(tmp_path):
    stored(tmp_path)
    robench(*words(tmp_path, "whole.pt"))
    process = started(tmp_path, "killed.pt")
    waited_for(tmp_path / "killed.state.pt")
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed.pt").exists()
    process = started(tmp_path, "stopped.pt", saving="1e9")
    while "epoch 1/4" not in (line := process.stderr.readline()):
        assert line, "the training ended by itself"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "go on with the same words and --resume" in errors
    sums = set()
    for name in ("killed", "stopped"):
        robench(*words(tmp_path, f"{name}.pt"), "--resume")
        assert not list(tmp_path.glob(f"{name}.state*"))
    for name in ("whole", "killed", "stopped"):
        sums.add(json.loads((tmp_path / f"{name}.json").read_text())["sha256"])
        assert len(read(tmp_path / f"{name}.log.csv")) == 4
    assert len(sums) == 1


def test_sigterm_saves_the_training_and_ends_with_143(tmp_path):
    stored(tmp_path)
    process = started(tmp_path, "net.pt", saving="1e9")
    while "epoch 1/4" not in (line := process.stderr.readline()):
        assert line, "the training ended by itself"
    waited_for(tmp_path / "net.state.pt")  # after an epoch, although the minute is long
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 143, errors
    assert "go on with the same words and --resume" in errors
    robench(*words(tmp_path, "net.pt"), "--resume")
    assert len(read(tmp_path / "net.log.csv")) == 4
    assert not list(tmp_path.glob("net.state*"))


ATTACKS = """
from pathlib import Path

from robench.attacks.active import Search

def first(model, x, y, threat, draws):
    with Path(__file__).with_name("calls").open("a") as file:
        file.write("first " * (len(x) > 2))  # each attack is tried on two images before anything is measured
    return looked_at(model, x, y, threat)

def second(model, x, y, threat, draws):
    if len(x) > 2 and Path(__file__).with_name("stop").exists():
        raise KeyboardInterrupt
    return looked_at(model, x, y, threat)

def looked_at(model, x, y, threat):
    search = Search(model, x, y, threat)
    search.test(search.x)
    return search.result()
"""


def measured_at_the_end(tmp_path, name, **changed):
    """A training of the toy images whose final measurement runs two attacks, which say when they run and when they are to break off."""
    (tmp_path / "mine.py").write_text(ATTACKS)
    suite = [f"{tmp_path}/mine.py:first", f"{tmp_path}/mine.py:second"]
    words = {"arch": "mlp,width=4", "epochs": 1, "batch_size": 50, "held_out": 8, "eval_n": 16, "objective": "standard", **changed}
    return train(f"npz:{tmp_path}/toy.npz", suite=suite, out=tmp_path / name, **words)


def calls_of_first(tmp_path):
    return (tmp_path / "calls").read_text().count("first")


def test_the_final_measurement_goes_on_where_it_was_broken_off(tmp_path):
    stored(tmp_path)
    whole = measured_at_the_end(tmp_path, "whole.pt")
    each = calls_of_first(tmp_path)
    assert each > 0
    (tmp_path / "stop").write_text("")
    for more in ({}, {"resume": True}):
        with pytest.raises(KeyboardInterrupt):
            measured_at_the_end(tmp_path, "net.pt", **more)
        assert calls_of_first(tmp_path) == 2 * each
        assert (tmp_path / ".net.measurement").is_dir()
    (tmp_path / "stop").unlink()
    resumed = measured_at_the_end(tmp_path, "net.pt", resume=True)
    assert calls_of_first(tmp_path) == 2 * each
    assert resumed.meta["metrics"] == whole.meta["metrics"]
    assert not list(tmp_path.glob(".*"))


def test_a_training_that_begins_anew_is_measured_anew(tmp_path):
    stored(tmp_path)
    (tmp_path / "stop").write_text("")
    with pytest.raises(KeyboardInterrupt):
        measured_at_the_end(tmp_path, "net.pt")
    each = calls_of_first(tmp_path)
    (tmp_path / "stop").unlink()
    with pytest.raises(InputError, match="holds an unfinished training"):
        measured_at_the_end(tmp_path, "net.pt")
    assert (tmp_path / ".net.measurement").is_dir()
    measured_at_the_end(tmp_path, "net.pt", force=True, seed=1)
    assert calls_of_first(tmp_path) == 2 * each
    assert not list(tmp_path.glob(".*"))


def test_states_of_a_measurement_are_not_written_through_a_link(tmp_path):
    stored(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".net.measurement").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="symbolic link"):
        measured_at_the_end(tmp_path, "net.pt")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_a_kill_left_half_written_is_removed_and_nothing_of_other_trainings(tmp_path):
    ours = [".net.state.pt.12.tmp", ".net.pt.12.tmp", ".net.last.json.12.tmp", ".net.log.csv.3.tmp"]
    others = [".net.v2.state.pt.12.tmp", ".net2.pt.12.tmp", ".net.state.pt.tmp", "net.state.pt.12.tmp", ".net.state.pt.x.tmp"]
    for name in (*ours, *others):
        (tmp_path / name).write_text("half")
    remove_half_written_files(tmp_path / "net.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_one_epoch_under_two_names_is_one_after_a_resume():
    epoch = vars(Epoch(3, 1.5, 0.1, {}, 0.5, 0.25, {}))
    other = {**epoch, "epoch": 2}
    kept = epochs_from_state({"best": dict(epoch), "last": dict(epoch), "steady": other})
    assert kept["best"] is kept["last"]
    assert kept["steady"] is not kept["best"]
    assert epochs_from_state({"best": None, "last": epoch, "steady": None}) == {"best": None, "last": Epoch(**epoch), "steady": None}


def test_wrong_words_of_a_training_are_refused_in_one_sentence(tmp_path):
    stored(tmp_path)
    base = words(tmp_path, "net.pt")
    assert "must be a finite number of at least 0" in refused(*base, "--reg", "sagr=-1")
    assert "learns from none: leave --teacher out" in refused(*base, "--teacher", tmp_path / "toy.npz")
    assert "choose one of them" in refused(*base, "--mixup", "1", "--cutmix", "1")
    assert "unknown guard" in refused(*base, "--guard", "never")
    assert "unknown precision" in refused(*base, "--precision", "fp64")
    assert "choose one with --objective" in refused("train", "--data", f"npz:{tmp_path}/toy.npz", "--reg", "igd", "--reg", "gradalign")
    assert "batches of at least 2" in refused(*base, "--arch", "resnet8", "--batch-size", "1")
    np.savez(tmp_path / "one.npz", x=np.zeros((50, 8, 8, 3), np.uint8), y=np.zeros(50, np.int64))
    assert "one class" in refused("train", "--data", f"npz:{tmp_path}/one.npz", "--held-out", "8", "--batch-size", "8")
    assert not list(tmp_path.glob("net*"))


def test_a_teacher_of_another_architecture_or_class_count_is_refused(toys, tmp_path):
    teacher = train("toy", out=tmp_path / "teacher.pt", **{**settings(), "reg": (), "arch": "cnn,width=8"}).path
    with pytest.raises(InputError, match="not of the student's architecture and number of classes"):
        train("toy", out=tmp_path / "student.pt", teacher=teacher, **{**settings(), "reg": ("igd",)})
    assert not list(tmp_path.glob("student*"))


def test_a_teacher_is_trained_first_kept_and_named_and_serves_again(toys, tmp_path):
    chosen = {**settings(), "reg": ("igd",), "objective": "pgd-at,steps=2"}
    first = train("toy", out=tmp_path / "student.pt", **chosen)
    kept = tmp_path / "student.teacher.pt"
    state, meta = checkpoint.read_checkpoint(kept)
    assert (meta["recipe"]["objective"], meta["recipe"]["reg"]) == ("standard", [])
    assert first.meta["recipe"]["teacher"] == {"name": "student.teacher.pt", "sha256": checkpoint.fingerprint(state)}
    stamp = kept.stat().st_mtime_ns
    second = train("toy", out=tmp_path / "other.pt", teacher=kept, **chosen)
    assert kept.stat().st_mtime_ns == stamp
    assert checkpoint.fingerprint(first.model.state_dict()) == checkpoint.fingerprint(second.model.state_dict())


def test_the_regularisers_choose_the_base_of_their_papers_and_the_run_says_so():
    assert resolved_settings("small", {"reg": ("igd",)})[0]["objective"] == "pgd-at"
    assert resolved_settings("small", {"reg": ("sagr", "emr")})[0]["objective"] == "pgd-at"
    assert resolved_settings("small", {"reg": ("arr",)})[0]["objective"] == "standard"
    assert resolved_settings("small", {"reg": ("igd",), "objective": "trades"}) == (
        resolved_settings("small", {"reg": ("igd",), "objective": "trades"})[0],
        [],
    )
    assert resolved_settings("small", {"reg": ("emr",)})[1] == ["the objective is pgd-at, the base of emr; --objective chooses another"]
    assert resolved_settings("small", {})[0]["objective"] == "standard"
    with pytest.raises(InputError, match="igd and gradalign build on different objectives"):
        resolved_settings("small", {"reg": ("igd", "gradalign")})


def diverging(at):
    """A penalty that is NaN from a share of the training on, in the first attempt alone: its random numbers tell it which it is."""

    def penalty(model, batch):
        return batch.logits.square().mean() * (float("nan") if batch.progress >= at and "again" not in batch.draws.key else 1.0)

    return penalty


def toy_plan(**changes):
    chosen = {key: PRESETS["small"][key] for key in PLAN_SETTINGS} | {
        "epochs": 3,
        "batch_size": 8,
        "probe_n": 8,
        "lr": 0.01,
        "guard": "stop",
    }
    from robench.core.threat import Threat

    return TrainingPlan(**{**chosen, "objective": standard(), "threat": Threat("linf", 0.05), "seed": 0, **changes})


def events_of(chosen):
    run = begin_training(network(), chosen)
    return run, [event for event in fit(run, chosen, images(), images()) if isinstance(event, Epoch)]


def test_a_loss_that_diverges_ends_the_run_with_the_best_epoch_or_goes_back():
    own = {"own": (1.0, diverging(0.4))}
    run, epochs = events_of(toy_plan(regularizers=own))
    assert [bool(epoch.alarm) for epoch in epochs] == [False, True]
    assert "diverged in epoch 2, step 2: loss, own became NaN" in epochs[1].alarm
    assert (run.best.epoch, run.last.epoch) == (0, 0)
    run, epochs = events_of(toy_plan(regularizers=own, guard="roll-back"))
    assert [epoch.epoch for epoch in epochs] == [0, 1, 1, 2]
    assert [record["epoch"] for record in run.history] == [0, 1, 2]
    assert [record["epoch"] for record in run.lost_epochs] == [1]
    assert epochs[2].lr == pytest.approx(epochs[1].lr / 2, rel=0.6)
    assert all(tensor.isfinite().all() for tensor in run.best.weights.values())


def test_a_run_that_diverges_again_and_again_is_given_up_after_three_roll_backs():
    always = {"own": (1.0, lambda model, batch: batch.logits.mean() * (float("inf") if batch.progress > 0.4 else 1.0))}
    run, epochs = events_of(toy_plan(regularizers=always, guard="roll-back"))
    assert len(run.lost_epochs) == 3
    assert len(epochs) == 5
    assert run.best.epoch == 0


def test_a_rolled_back_run_can_be_broken_off_too():
    chosen = toy_plan(regularizers={"own": (1.0, diverging(0.4)), **regularizers_of(["sagr"])}, guard="roll-back")
    whole, _ = events_of(chosen)
    first = begin_training(network(), chosen)
    for _event in itertools.islice(fit(first, chosen, images(), images()), 8):
        pass
    second = begin_training(network(1), chosen)
    restore_run(second, run_state(first))
    for _event in fit(second, chosen, images(), images()):
        pass
    assert len(second.lost_epochs) == len(whole.lost_epochs) == 1
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True))


def test_a_training_that_diverged_leaves_no_state_in_the_way_of_the_next(toys, tmp_path):
    with pytest.raises(InputError, match="the training diverged in epoch 1"):
        train("toy", out=tmp_path / "net.pt", **{**settings(), "lr": 1e30, "optimizer": "sgd"})
    assert not list(tmp_path.iterdir())
    train("toy", out=tmp_path / "net.pt", **settings())


def test_whatever_is_misspelt_is_told_before_a_teacher_is_trained(toys, tmp_path):
    for wrong, says in (({"reg": ("igd,off=loss",)}, "did you mean 'of'"), ({"suite": "autoatack"}, "did you mean 'autoattack'")):
        with pytest.raises(InputError, match=says):
            train("toy", out=tmp_path / "net.pt", **{**settings(), "reg": ("igd",), **wrong})
    assert not list(tmp_path.iterdir())


def test_a_wrong_value_of_an_option_is_told_before_a_teacher_is_trained(toys, tmp_path):
    for wrong, says in (
        ({"reg": ("igd,of=foo",)}, "unknown scalar to differentiate"),
        ({"arch": "resnet8", "batch_size": 1}, "batch norm"),
    ):
        with pytest.raises(InputError, match=says):
            train("toy", out=tmp_path / "net.pt", **{**small(), "reg": ("igd",), **wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reg", REGULARIZERS)
def test_trying_a_regularisers_words_changes_no_weight_and_no_random_number(reg):
    model, some = network(), images(8)
    before, dice = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    refuse_penalty_options([reg], model, some, plan_of(resolved_settings("small", {"reg": (reg,), "objective": "standard"})[0], 0, None))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert torch.equal(dice, torch.get_rng_state())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize(("shape", "says"), [((1, 12, 12), "give all the same number of channels"), ((3, 9, 9), "with --image-size")])
def test_test_images_of_another_shape_are_refused_before_the_training(tmp_path, shape, says):
    grid = np.zeros((48, 12, 12, 3), np.uint8)
    np.savez(
        tmp_path / "two.npz", x_train=grid, y_train=np.arange(48) % 2, x_test=np.zeros((8, *shape[1:], shape[0]), np.uint8),
        y_test=np.arange(8) % 2,
    )  # fmt: skip
    with pytest.raises(InputError, match=f"training images of npz:two are 3x12x12, test images {shape[0]}x.*{says}"):
        train(f"npz:{tmp_path}/two.npz", out=tmp_path / "net.pt", **small())
    assert not list(tmp_path.glob("net*"))


def test_passes_through_the_compiler_train_the_same_network(toys):
    chosen = {**settings(), "reg": (), "arch": "mlp,width=8", "epochs": 1, "objective": "pgd-at,steps=1"}
    plain, compiled = (train("toy", compiled=wanted, **chosen) for wanted in (False, True))
    if not compiled.meta["recipe"]["compiled"]:
        assert any("torch.compile does not work here" in note for note in compiled.meta["notes"])
    terms = [done.meta["history"][0]["terms"] for done in (plain, compiled)]
    assert terms[1] == pytest.approx(terms[0], rel=1e-2)
