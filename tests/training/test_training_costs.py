"""Plans of trainings: passes in closed form, sums, made images in place of a set that is not there, and nothing on the disk."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import robench
from robench.core.errors import InputError
from robench.data.made_images import PUBLISHED_SETS, made_images, name_of_published_set
from robench.evaluation.planning import IS_PLANNING
from robench.runs.timings import SizeTimes
from robench.training import planned_trainings, timed_trainings
from robench.training.grids import sweep_cells
from robench.training.planned_trainings import cost_key, plan_sweep, plan_training, settings_of_cell
from robench.training.presets import PRESETS
from robench.training.timed_trainings import counted_calls, next_size
from robench.training.training_cost_tables import (
    hour_sentence,
    larger_batch_sentence,
    sweep_cost_sentences,
    training_cost_sentences,
    training_cost_table,
)
from robench.training.training_costs import StepCost, TrainingCosts

TINY = {"arch": "mlp,width=8", "n_train": 120, "held_out": 20, "batch_size": 20, "eval_n": 6, "suite": ["fgsm"], "epochs": 2}
STEP = StepCost((11.0, 11.0), SizeTimes(((10, 1.0), (20, 2.0))), ((10, 1000), (20, 1500)), 3)
COSTS = TrainingCosts("a network", 4, 5, 20, 100, 10, STEP, 3.0, 7.0, 1200, {"checkpoints": 10, "state": 30}, "cpu")


@pytest.mark.parametrize(
    ("loss", "passes"),
    [
        ({"objective": "standard"}, (1, 1)),
        ({"objective": "pgd-at,steps=10"}, (11, 11)),
        ({"objective": "pgd-at,steps=3"}, (4, 4)),
        ({"objective": "fgsm-at"}, (2, 2)),
        ({"objective": "free-at,replays=2"}, (1, 1)),
        ({"objective": "standard", "awp": 0.01, "awp_warmup": 0.5}, (2, 2)),
        ({"objective": "standard", "reg": "sagr=0.1"}, (1, 2)),
    ],
)
def test_the_passes_of_a_step_are_counted_on_a_real_one(loss, passes):
    costs = plan_training("shapes", **{**TINY, **loss})
    assert costs.step.passes == passes
    assert (costs.steps, costs.epochs, costs.images, costs.held_out) == (5 * (2 if "replays" in str(loss) else 1), 2, 100, 20)


def test_passes_are_counted_by_images_also_where_a_gradient_is_differentiated():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    x = torch.rand(5, 1, 2, 2, requires_grad=True)
    with counted_calls(network) as calls:
        (slope,) = torch.autograd.grad(network(x).logsumexp(1).sum(), x, create_graph=True)
        slope.square().sum().backward()
        with torch.no_grad():
            network(x[:2])
    assert calls == [7, 10]
    network(x)
    assert calls == [7, 10], "nothing is counted behind the block"


def test_seconds_memory_and_disk_of_the_whole():
    assert (COSTS.step_seconds, COSTS.epoch_seconds, COSTS.seconds) == (2.0, 13.0, 59.0)
    assert (COSTS.step_memory, COSTS.memory, COSTS.disk_bytes) == (1500, 1500, 40)
    assert (STEP.memory_of(40), STEP.images_within(2500)) == (2500, 40)
    learner = replace(COSTS, teacher=replace(COSTS, measurement_memory=1600))
    assert (learner.seconds, learner.memory, learner.disk_bytes) == (118.0, 1600, 80)
    shared, in_parts = replace(COSTS, processes=2), replace(COSTS, parts=2)
    assert (shared.step_seconds, shared.step_memory) == (1.0, 1000)
    assert (in_parts.step_seconds, in_parts.step_memory) == (2.0, 1000)


def test_a_batch_in_parts_is_timed_part_by_part_and_an_average_costs_a_pass_over_the_images():
    costs = plan_training("shapes", **TINY, accumulate=4, objective="pgd-at,steps=2")
    assert (costs.parts, costs.step.times.largest, costs.step.passes) == (4, 5, (3, 3))
    swa = plan_training("shapes", **TINY, swa=0.5)
    assert swa.epoch_measurement > 0


def test_memory_that_does_not_grow_bounds_no_batch():
    assert replace(STEP, memory=((10, 1000),)).images_within(5000) is None
    assert replace(STEP, memory=((10, 1000), (20, 900))).memory_of(80) == 900


def test_an_hour_is_enough_for_epochs_after_the_teacher_and_the_end():
    long = replace(COSTS, epochs=500)
    assert hour_sentence(long) == f"an hour is enough for {int(3593 / 13)} of the 500 epochs (--epochs)."
    assert "for the whole training" in hour_sentence(COSTS)
    assert "not enough for one" in hour_sentence(replace(long, teacher=long))


def test_larger_batches_and_the_largest_are_told():
    sentence = larger_batch_sentence(replace(COSTS, device="cuda", device_memory=3500))
    assert "needs 1.5 KiB, one of 40 2.4 KiB and one of 80 4.4 KiB" in sentence
    assert sentence.endswith("would hold a batch of about 60 images.")


def test_the_next_size_is_four_times_the_last_or_twice_where_that_is_quick_enough():
    assert [next_size(8, 100, seconds, 6.0) for seconds in (1.0, 2.0, 3.5)] == [32, 16, None]
    assert (next_size(64, 100, 1.0, 6.0), next_size(100, 100, 0.1, 6.0)) == (100, None)


def test_slow_steps_are_timed_on_smaller_batches_and_fewer_times(monkeypatch):
    asked = []

    def slow(run, plan, train, size, steps, device):
        asked.append(size)
        return 2.0 + 8.0 * size, 1000 + 10 * size

    monkeypatch.setattr(timed_trainings, "timed_step", slow)
    costs = plan_training("shapes", **TINY)
    assert asked == [1, 1, 1, 1, 2], "one to warm up, one that is counted, two that are timed, and one for the line"
    assert (costs.step_seconds, costs.step_memory) == (pytest.approx(162), 1200)
    assert any("steps of 1 and 2 were timed" in note for note in costs.notes)


def test_a_network_that_takes_no_single_image_is_timed_from_two(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.BatchNorm1d(10))\n")
    costs = plan_training("shapes", **{**TINY, "arch": f"{own}:net"})
    assert costs.step.times.points[0][0] == 2


def test_a_plan_leaves_nothing_on_the_disk_and_no_claim(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {**TINY, "objective": "pgd-at,steps=1", "reg": "igd=1", "out": tmp_path / "net.pt", "teachers": tmp_path / "teachers"}
    costs = plan_training("shapes", **words)
    assert list(tmp_path.rglob("*")) == []
    assert not IS_PLANNING.get()
    assert costs.teacher is not None
    assert costs.teacher.step.passes == (1, 1)


def test_a_teacher_that_is_there_is_not_planned(tmp_path):
    out = tmp_path / "net.pt"
    (tmp_path / "net.teacher.pt").write_bytes(b"kept")
    words = {**TINY, "objective": "pgd-at,steps=1", "reg": "igd=1", "out": out}
    kept = plan_training("shapes", **words)
    assert kept.teacher is None
    assert any("net.teacher.pt serves again" in note for note in kept.notes)
    assert plan_training("shapes", **words, force=True).teacher is not None, "which --force trains anew"


def test_what_the_training_would_refuse_the_plan_refuses():
    with pytest.raises(InputError, match="fewer than one batch"):
        plan_training("shapes", **{**TINY, "batch_size": 500})
    with pytest.raises(InputError, match="leave --download out"):
        plan_training("cifar10", download=True)
    with pytest.raises(InputError, match="not found"):
        plan_training("npz:nowhere.npz", **TINY)


@pytest.mark.parametrize("name", PUBLISHED_SETS)
def test_made_images_have_the_shape_and_the_numbers_of_the_set_and_take_no_memory_for_them(name):
    known = PUBLISHED_SETS[name]
    train, test = (made_images(name, name, split) for split in ("train", "test"))
    assert (len(train), len(test), train.shape, len(train.classes)) == (known.train, known.test, known.shape, known.classes)
    assert train.is_stored
    assert train.y.bincount().max() - train.y.bincount().min() <= 1
    assert train.pixels(torch.tensor([0, 17])).shape == (2, *known.shape)
    assert len(made_images(name, name, "train", 30)) == 30
    assert made_images(name, name, "test", side=16).shape[1:] == (16, 16)


def test_a_set_is_known_by_its_name_its_folder_or_its_preset():
    assert name_of_published_set("cifar100", None) == "cifar100"
    assert name_of_published_set("folder:/data/ImageNet100/", None) == "imagenet100"
    assert name_of_published_set("folder:ILSVRC_imagenet", None) == "imagenet"
    assert name_of_published_set("folder:mine", "igd-tinyimagenet") == "tinyimagenet"
    assert [name_of_published_set(data, "rice2020") for data in ("folder:mine", "npz:cifar10.npz", "mine.py:data")] == [None] * 3


def test_a_set_that_is_not_there_is_made_only_where_a_training_is_planned(tmp_path):
    words = {**TINY, "n_train": None, "held_out": None, "data_dir": tmp_path}
    costs = plan_training("mnist", **words)
    assert (costs.images, costs.held_out, costs.steps) == (59_500, 500, 2975)
    assert any("made images of 1x28x28" in note for note in costs.notes)
    with pytest.raises(InputError, match="mnist not found"):
        robench.train("mnist", **words)
    assert list(tmp_path.iterdir()) == []


def test_cells_that_cost_the_same_are_timed_once_and_the_sum_is_that_of_all():
    cells = sweep_cells("lambda=0.03:0.1,rho=0.1:0.2,epochs=2:3", {**PRESETS["small"], "reg": ("sagr",)})
    timed = []

    def plan_one(cell):
        timed.append(cell)
        return replace(COSTS, epochs=cell.values["epochs"])

    costs = plan_sweep(cells, plan_one, lambda cell: settings_of_cell("small", cell.overrides, 0))
    assert (len(cells), len(timed), costs.timed) == (8, 2, 2)
    assert costs.seconds == 4 * (2 * 13 + 7) + 4 * (3 * 13 + 7)
    assert costs.disk_bytes == 8 * 10 + 30
    assert "2 of them timed" in sweep_cost_sentences(costs)[0]


def test_cells_with_one_teacher_train_it_once():
    learner = replace(COSTS, teacher=COSTS)
    cells = sweep_cells("lambda=1:2,seed=0:1", {**PRESETS["small"], "reg": ("igd",)})
    costs = plan_sweep(cells, lambda _: learner, lambda cell: settings_of_cell("small", cell.overrides, 0))
    assert (len(costs.teachers), costs.timed) == (2, 1), "the seed makes another teacher, the weight does not"
    assert costs.seconds == 4 * 59 + 2 * 59


def test_what_costs_another_number_of_passes_has_another_key():
    def key(**overrides):
        return cost_key(settings_of_cell("small", overrides, 0))

    base = key(objective="pgd-at,steps=10")
    assert base == key(objective="pgd-at,steps=10", lr=0.1, eps=2 / 255)
    others = [key(objective="pgd-at,steps=2"), key(objective="pgd-at,steps=10", awp=0.1), key(objective="pgd-at,steps=10", batch_size=8)]
    assert len({base, *others}) == 4
    assert key(reg=("sagr=0.1",)) == key(reg=("sagr=0.3",)) != key(reg=("sagr=0",))


def test_the_table_has_a_line_for_each_part():
    table = training_cost_table(replace(COSTS, teacher=COSTS))
    assert [line[0] for line in table.lines] == ["teacher", "step", "after an epoch", "at the end", "weights", "state", "all"]
    assert table.lines[-1][4] == "2.0 min"
    assert training_cost_sentences(COSTS)[0].startswith("An epoch has 5 steps of 20 on 100 images and takes 13.0 s;")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_planned_without_data(preset, tmp_path, monkeypatch):
    monkeypatch.setattr(timed_trainings, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(timed_trainings, "TURNS_SECONDS", 0.0)
    monkeypatch.setattr(timed_trainings, "EXPECTED_PASS_SECONDS", 0.0)
    data = (
        "mnist"
        if "mnist" in preset or preset in ("hoffman2019", "emr-mlp")
        else "folder:absent"
        if preset.startswith("igd-")
        else "cifar10"
    )
    data = {"igd-cifar10": "cifar10", "igd-cifar100": "cifar100"}.get(preset, data)
    costs = planned_trainings.plan_training(data, preset=preset, data_dir=tmp_path, suite=["fgsm"], eval_n=2)
    assert costs.epochs == PRESETS[preset]["epochs"]
    assert costs.steps * costs.batch_size > 0.9 * (costs.images - costs.batch_size)
    assert costs.seconds > 0
    assert list(tmp_path.iterdir()) == []
