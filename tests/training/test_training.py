"""The training loop: against a loop written out by hand, its schedules, averages, selection and guards."""

import copy
import inspect
import math
import re
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.schedules import SCHEDULES
from robench.core.threat import Threat
from robench.data import Images
from robench.models import checkpoint
from robench.objectives import OBJECTIVES, regularizers_of
from robench.training import epochs, preparation, steps
from robench.training.checkpoint_files import checkpoint_replacement, save_weights
from robench.training.epochs import fit as steps_of
from robench.training.epochs import shuffled_batches
from robench.training.presets import PRESET_DESCRIPTIONS, PRESETS, default_preset
from robench.training.settings import PLAN_SETTINGS, held_out_size, images_of_all_classes, plan_of, resolved_settings
from robench.training.states import restore_run, run_state
from robench.training.steps import OPTIMIZERS, begin_training, update_average
from robench.training.train import train
from robench.training.types import Epoch, Step, TrainingPlan

PLAIN = {key: PRESETS["small"][key] for key in PLAN_SETTINGS}
PLAIN |= {"optimizer": "sgd", "lr": 0.05, "schedule": "cosine", "epochs": 2, "batch_size": 8, "guard": "off"}


def fit(model, data, held_out, **settings):
    """The events of a training from its first step to its last."""
    plan = TrainingPlan(**settings)
    return steps_of(begin_training(model, plan), plan, data, held_out)


def images(n=40, seed=0, split="train"):
    """Two classes told apart by brightness; ids start at 100."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = (torch.rand(n, 3, 6, 6, generator=generator) * 150).to(torch.uint8) + 100 * y.view(-1, 1, 1, 1).to(torch.uint8)
    return Images("toy", split, x, y, torch.arange(n) + 100, ("dark", "bright"))


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(64, 2))


def run(model, data=None, held_out=None, seed=0, objective="standard", reg=(), **changes):
    data = data or images()
    settings = {**PLAIN, **changes}
    return list(
        fit(model, data, held_out or data.take(slice(0, 10)), objective=OBJECTIVES[objective](), regularizers=regularizers_of(reg),
            threat=Threat("linf", 0.05), seed=seed, **settings)
    )  # fmt: skip


def test_the_loop_equals_one_written_out_by_hand():
    data, model = images(), network()
    plain = copy.deepcopy(model)
    run(model, data, weight_decay=0.01, momentum=0.8, label_smoothing=0.1)
    descent = torch.optim.SGD(plain.parameters(), 0.05, momentum=0.8, weight_decay=0.01, nesterov=True)
    for epoch in range(2):
        for step, rows in enumerate(shuffled_batches(data.ids, 5, 8, 0, epoch)):
            descent.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * (5 * epoch + step) / 10)) / 2
            loss = F.cross_entropy(plain.train()(data.x[rows].float() / 255), data.y[rows], label_smoothing=0.1)
            descent.zero_grad()
            loss.backward()
            descent.step()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))


@pytest.mark.parametrize("nesterov", [True, False])
def test_two_steps_of_sgd_have_their_closed_form_with_and_without_nesterov(nesterov):
    """On a gradient of 1 the velocity is 1, then 1.5; Nesterov's steps are 1 + 0.5 v."""
    weight = nn.Parameter(torch.zeros(1))
    descent = OPTIMIZERS["sgd"]([weight], 0.1, 0.5, 0.0, nesterov)
    for expected in (-0.15, -0.325) if nesterov else (-0.1, -0.25):
        weight.grad = torch.ones(1)
        descent.step()
        assert weight.item() == pytest.approx(expected)
    assert not OPTIMIZERS["sgd"]([weight], 0.1, 0.0, 0.0, True).defaults["nesterov"]


def test_the_loop_steps_without_nesterov_where_the_plan_says_so():
    models = [network() for _ in range(2)]
    for model, nesterov in zip(models, (True, False), strict=True):
        run(model, epochs=1, nesterov=nesterov)
    assert not torch.equal(*(model.state_dict()["0.weight"] for model in models))


@pytest.mark.parametrize(
    ("preset", "overrides", "sentence"),
    [
        ("small", {"nesterov": False}, "option of sgd"), ("rice2020", {"optimizer": "adamw", "nesterov": True}, "option of sgd"),
        ("rice2020", {"nesterov": 1}, "true or false"),
    ],
)  # fmt: skip
def test_nesterov_that_says_nothing_is_refused(preset, overrides, sentence):
    with pytest.raises(InputError, match=sentence):
        resolved_settings(preset, overrides)
    assert resolved_settings("small", {"nesterov": True})[0]["nesterov"] is True  # as a teacher is given its student's settings


def test_every_image_is_used_once_an_epoch_in_another_order():
    first, second = (torch.cat(shuffled_batches(torch.arange(23), 5, 4, 3, epoch)) for epoch in (0, 1))
    assert len(first.unique()) == 20
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.cat(shuffled_batches(torch.arange(23), 5, 4, 3, 0)))


@pytest.mark.parametrize(
    ("objective", "reg"), [("standard", ()), ("pgd-at", ()), ("standard", ("sagr=0.5",)), ("pgd-at", ("jacobian=0.1",))]
)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(objective, reg):
    def trained(seed):
        model = network()
        run(model, seed=seed, objective=objective, reg=reg, augment="crop-flip")
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(trained(1), trained(1))
    assert not torch.allclose(trained(1), trained(2), atol=1e-4)


def test_events_tell_every_step_with_its_terms_and_every_epoch_with_its_means():
    events = run(network(), reg=("sagr=0.5,warmup=0",))
    steps, epochs = [e for e in events if isinstance(e, Step)], [e for e in events if isinstance(e, Epoch)]
    assert [(e.epoch, e.step) for e in steps] == [(epoch, step) for epoch in (0, 1) for step in range(5)]
    assert all(e.terms["loss"] == pytest.approx(e.terms["ce"] + 0.5 * e.terms["sagr"], rel=1e-5) for e in steps)
    assert epochs[1].terms["ce"] == pytest.approx(sum(e.terms["ce"] for e in steps[5:]) / 5)
    assert 0 <= epochs[1].held_out_robust <= epochs[1].held_out_clean <= 1


def test_training_learns_what_can_be_learned_and_leaves_the_held_out_images_alone():
    held_out = images(20, seed=1, split="held-out")
    untouched = held_out.x.clone()
    events = run(network(), held_out=held_out, epochs=6)
    assert events[-1].held_out_clean == 1
    assert torch.equal(held_out.x, untouched)


def test_averaged_weights_follow_the_warm_up_and_copy_the_statistics():
    slow, fast = network(0), network(1)
    before, after = copy.deepcopy(slow.state_dict()), fast.state_dict()
    fast[1].running_mean.fill_(7.0)
    update_average(slow, fast, 0.75)
    assert torch.allclose(slow[0].weight, 0.75 * before["0.weight"] + 0.25 * after["0.weight"])
    assert float(slow[1].running_mean[0]) == 7


def test_an_average_of_weights_is_measured_and_handed_out_instead_of_the_last_ones():
    model, data = network(), images()
    average = copy.deepcopy(model)
    settings = {**PLAIN, "epochs": 1, "ema": 0.9}
    for event in fit(
        model, data, data, objective=OBJECTIVES["standard"](), regularizers={}, threat=Threat("linf", 0.05), seed=0, **settings
    ):
        if isinstance(event, Step):
            update_average(average, model, min(0.9, (1 + event.step) / (10 + event.step)))
    assert all(torch.equal(tensor, event.weights[name]) for name, tensor in average.state_dict().items())
    assert not torch.equal(event.weights["0.weight"], model.state_dict()["0.weight"])


def test_schedules_have_their_closed_forms():
    grid = [0.0, 0.1, 0.25, 0.5, 0.749, 0.75, 0.99]
    assert [SCHEDULES["constant"](t) for t in grid] == [1.0] * 7
    assert [SCHEDULES["piecewise"](t) for t in grid] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [SCHEDULES["cyclic"](t) for t in (0, 0.25, 0.5, 0.75)] == pytest.approx([0, 0.5, 1, 0.5])
    assert [SCHEDULES["cosine"](t) for t in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [SCHEDULES["one-cycle"](t) for t in (0, 0.25, 0.625, 1)] == pytest.approx([0.04, 1, 0.5, 0])


def test_a_loss_that_is_not_finite_stops_the_run_with_a_sentence():
    def penalty(model, batch):
        return batch.logits.sum() * (float("nan") if batch.progress >= 0.5 else 0.0)

    with pytest.raises(InputError, match="epoch 2, step 1"):
        list(
            fit(network(), images(), images().take(slice(0, 10)), objective=OBJECTIVES["standard"](), threat=Threat("linf", 0.05), seed=0,
                regularizers={"own": (1.0, penalty)}, **PLAIN)
        )  # fmt: skip


def finished(accuracies, n=200, guard="off", classes=10, **changes):
    """A run whose epochs had these (clean, robust[, FGSM]) accuracies on n held-out images, its plan, and the chosen epoch, from 1."""
    keys = ("held_out_clean", "held_out_robust", "held_out_fgsm")
    measured = iter([{**dict(zip(keys, row, strict=False)), "held_out_attacked_clean": row[0]} for row in accuracies])
    settings = {**PLAIN, "guard": guard, "probe_n": n, **changes}
    plan = TrainingPlan(objective=OBJECTIVES["standard"](), regularizers={}, threat=Threat("linf", 0.05), seed=0, **settings)
    going, held_out = begin_training(network(), plan), replace(images(n), classes=tuple(map(str, range(classes))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "held_out_measures", lambda *args: next(measured))
        for number in range(len(accuracies)):
            epochs.close_epoch(going, plan, held_out, Epoch(number, 0.0, 0.0, {}, math.nan, math.nan, {}), "")
    epoch, notes = epochs.selected_epoch(going, plan, held_out)
    return epoch.epoch + 1, next((note for note in notes if "robust overfitting" not in note), ""), going


def test_the_latest_epoch_within_one_standard_error_of_the_most_robust_is_chosen():
    """At 50 % of 200 images the standard error is 3.5 points."""
    assert finished([(0.9, 0.3), (0.8, 0.5), (0.7, 0.47), (0.7, 0.46)])[:2] == (3, "")
    assert finished([(0.9, 0.5), (0.8, 0.3), (0.7, 0.5)])[:2] == (3, "")
    assert finished([(0.9, 0.5), (0.8, 0.48), (0.7, 0.53), (0.7, 0.49)])[:2] == (3, "")


def test_a_defence_that_is_not_robust_ships_its_last_epoch_with_a_note():
    """Epoch 1 of an l2 penalty at 8/255 was at 36 % clean and the most robust of all."""
    epoch, note, run = finished([(0.36, 0.08), (0.5, 0.03), (0.6, 0.01)])
    assert (epoch, run.last.epoch) == (3, 2)
    assert "8.0% at best, on 200 images: not surely above 15.0%, 1.5 times chance" in note
    assert finished([(0.36, 0.2), (0.5, 0.1)], classes=100)[:2] == (1, "")  # .2 is far above 1.5 / 100
    assert finished([(0.36, 0.2), (0.5, 0.1)], n=20, classes=10)[0] == 2  # on 20 images it says nothing


def test_where_pgd_chooses_nothing_an_epoch_before_the_gap_goes_before_a_later_one():
    """Epochs 3 and 4 fool their own adversary: the fourth has the alarm, and the third is as collapsed."""
    rows = [(0.3, 0.09, 0.15), (0.4, 0.08, 0.2), (0.6, 0.01, 0.5), (0.6, 0.0, 0.5)]
    epoch, note, run = finished(rows, is_watched=True, guard="stop")
    assert (epoch, run.last.epoch, run.history[-1]["alarm"] != "") == (2, 2, True)
    assert note.endswith("the last one without a gap of FGSM over PGD-10 was taken")
    again = begin_training(
        network(),
        TrainingPlan(objective=OBJECTIVES["standard"](), regularizers={}, threat=Threat("linf", 0.05), seed=0, **{**PLAIN, "probe_n": 200}),
    )
    restore_run(again, run_state(run))
    assert (again.best.epoch, again.last.epoch, again.steady.epoch) == (run.best.epoch, 2, 1)
    assert finished(rows[2:3], is_watched=True, guard="stop")[0] == 1  # there is no other
    assert finished([*rows[:3], rows[1]], is_watched=True, guard="stop")[0] == 4  # the gap has closed again


def test_a_training_without_a_defence_chooses_by_clean_accuracy():
    assert finished([(0.9, 0.2), (0.8, 0.5), (0.9, 0.3), (0.7, 0.9)], is_defended=False)[:2] == (3, "")


def test_an_epoch_with_an_alarm_is_not_taken_whatever_it_scores():
    accuracies = [(0.9, 0.6), (0.91, 0.58), (0.95, 0.3)]
    for changes in ({"is_defended": True}, {"is_defended": False}):
        epoch, _, run = finished(accuracies, guard="stop", is_watched=True, **changes)
        assert (epoch, run.last.epoch) == (2, 1)
        assert "fell from 60.0% to 30.0%" in run.history[-1]["alarm"]


def test_a_roll_back_goes_to_before_the_gap_and_takes_the_kept_epochs_along():
    """The second epoch has the gap, the third raises the alarm: what the second left is forgotten."""
    numbers = [(0.9, 0.5, 0.3), (0.9, 0.9, 0.29), (0.9, 0.9, 0.2)]
    measured = iter(
        [dict(zip(("held_out_clean", "held_out_attacked_clean", "held_out_fgsm", "held_out_robust"), (c, *r), strict=True))
         for c, r in zip((0.9, 0.9, 0.9), numbers, strict=True)]
    )  # fmt: skip
    settings = {**PLAIN, "guard": "roll-back", "probe_n": 200, "is_watched": True}
    plan = TrainingPlan(objective=OBJECTIVES["standard"](), regularizers={}, threat=Threat("linf", 0.05), seed=0, **settings)
    going = begin_training(network(), plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "held_out_measures", lambda *args: next(measured))
        found = [
            epochs.close_epoch(going, plan, images(200), Epoch(number, 0.0, 0.0, {}, math.nan, math.nan, {}), "") for number in range(3)
        ]
        assert going.best.epoch == going.last.epoch == 1
        again = begin_training(network(1), plan)
        restore_run(again, run_state(going))
    for run in (going, again):
        assert found[2].alarm
        assert epochs.roll_back(run, plan)
        assert (run.best.epoch, run.last.epoch) == (0, 0)
        assert [record["epoch"] for record in run.history] == [0]
        assert [record["epoch"] for record in run.lost_epochs] == [2]


def test_the_line_of_an_epoch_shows_both_attacks_where_both_were_run():
    from robench.cli.console import epoch_line

    n = {"held_out_n": 500, "held_out_attacked_n": 200}
    watched = Epoch(1, 0.0, 0.0, {"ce": 1.0}, 0.9, 0.1, {}, held_out_fgsm=0.8, held_out_attacked_clean=0.85, **n)
    told = "held-out clean 90.00 % of 500, attacked 200: clean 85.00 %, "
    assert f"{told}FGSM 80.00 %, PGD-10 10.00 %" in epoch_line(watched, 3)
    assert f"{told}PGD-10 10.00 %" in epoch_line(replace(watched, held_out_fgsm=math.nan), 3)


def test_without_held_out_images_the_last_epoch_is_taken():
    assert finished([(math.nan, math.nan)] * 3, n=1)[:2] == (3, "")


@pytest.mark.parametrize(
    ("changes", "defended"),
    [
        ({}, False), ({"reg": ("l2=1e-4",)}, False), ({"reg": ("l1", "l2")}, False), ({"reg": ("sagr=0",)}, False),
        ({"reg": ("sagr",)}, True),
        ({"reg": ("l2", "emr")}, True), ({"objective": "pgd-at", "reg": ("l2",)}, True), ({"objective": "fgsm-rs"}, True),
    ],
)  # fmt: skip
def test_weight_penalties_alone_make_no_defence(changes, defended):
    assert plan_of(resolved_settings("small", changes)[0], 0, None).is_defended is defended


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_complete_and_names_what_exists(name):
    from robench.core.recipes import parse_recipe, resolve
    from robench.data.augment import AUGMENTATIONS
    from robench.models import build_network

    settings, _ = resolved_settings(name, {})
    assert set(settings) == set(PRESETS["small"])
    assert name in PRESET_DESCRIPTIONS
    resolve(parse_recipe(settings["objective"]), OBJECTIVES, "objective")()
    resolve(parse_recipe(settings["schedule"]), SCHEDULES, "schedule")(0.5)
    regularizers_of(settings["reg"])
    assert settings["augment"] in AUGMENTATIONS
    assert settings["optimizer"] in OPTIMIZERS
    shape = (1, 28, 28) if name in ("mnist-small", "hoffman2019") else (3, 32, 32)
    with torch.device("meta"):
        build_network(settings["arch"], classes=10, shape=shape, activation=settings["activation"])
    assert default_preset(shape) in PRESETS


def test_the_module_of_train_lists_its_steps_with_the_modules_that_the_comments_in_it_name():
    listed = re.findall(r"^(\d+)\. (.*)[;.]$", inspect.getmodule(train).__doc__, re.M)
    shown = re.findall(r"^ +# (\d+)\. .* \((.*)\)$", inspect.getsource(train), re.M)
    assert [(number, re.findall(r"`([\w.]+)`", sentence)) for number, sentence in listed] == [
        (number, names.split(", ")) for number, names in shown
    ]
    assert len(shown) == 11
    assert all(find_spec(f"robench.{name if '.' in name else f'training.{name}'}") for _, names in shown for name in names.split(", "))


def test_train_writes_best_and_last_and_never_selects_on_the_test_images(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(preparation, "load_images", lambda name, split, **how: asked.append(split) or images(60, split=split))
    path = tmp_path / "toy.pt"
    done = train("toy", preset="small", out=path, epochs=4, batch_size=8, held_out=20, eval_n=10, arch="mlp", eps=0.05, reg=("sagr",))
    robust = [epoch["held_out_robust"] for epoch in done.meta["history"]]
    floor = max(robust) - math.sqrt(max(robust) * (1 - max(robust)) / 20)
    best = max((e for e in done.meta["history"] if e["held_out_robust"] >= floor), key=lambda e: e["epoch"])
    if any("did not choose the epoch" in note for note in done.meta["notes"]):
        best = done.meta["history"][-1]
    assert done.meta["recipe"]["epoch"] == best["epoch"] + 1
    assert asked == ["train", "test"]
    assert path.exists()
    assert (tmp_path / "toy.last.pt").exists() == (best["epoch"] != 3)
    again = train("toy", preset="small", epochs=4, batch_size=8, held_out=20, eval_n=10, arch="mlp", eps=0.05, reg=("sagr",))
    assert again.path is None
    assert all(torch.equal(a, b) for a, b in zip(done.model.state_dict().values(), again.model.state_dict().values(), strict=True))


def test_best_and_last_are_both_kept_and_files_of_an_earlier_run_are_not(tmp_path):
    model, meta = network(), {"model": {}, "recipe": {}}
    weights = [{name: tensor + step for name, tensor in model.state_dict().items()} for step in (0, 1)]
    best, last = (Epoch(number, 0.0, 0.0, {}, 0.5, 0.5, state) for number, state in enumerate(weights))
    out = tmp_path / "net.pt"
    for chosen, other in ((best, last), (last, best)):
        model.load_state_dict(chosen.weights)
        with checkpoint_replacement(out) as file:
            save_weights(file, model, meta, chosen, {"best": best, "last": last})
        beside = tmp_path / f"net.{'last' if other is last else 'best'}.pt"
        assert sorted(path.name for path in tmp_path.glob("*.pt")) == sorted([beside.name, "net.pt"])
        assert torch.equal(checkpoint.read_checkpoint(beside)[0]["0.weight"], other.weights["0.weight"])
        assert checkpoint.read_checkpoint(beside)[1]["recipe"]["epoch"] == other.epoch + 1
    with checkpoint_replacement(out) as file:
        save_weights(file, model, meta, last, {"best": last, "last": last})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.pt"]


def test_a_source_without_splits_is_measured_on_the_held_out_images_only(tmp_path):
    import numpy as np

    everything = images(60)
    np.savez(tmp_path / "mine.npz", x=everything.x.numpy(), y=everything.y.numpy())
    short = {"epochs": 1, "batch_size": 8, "arch": "mlp,width=8", "eval_n": 10}
    done = train(f"npz:{tmp_path}/mine.npz", held_out=20, **short)
    assert (done.meta["metrics"]["clean"]["n"], done.meta["metrics"]["clean"]["data"]) == (20, "npz:mine held out")
    with pytest.raises(InputError, match="no test split"):
        train(f"npz:{tmp_path}/mine.npz", held_out=0, **short)


def sorted_by_class(folder, n=200, classes=10):
    """An npz file whose images, tiny and of random noise, lie class by class in either split."""
    import numpy as np

    arrays = {}
    for split in ("train", "test"):
        arrays[f"x_{split}"] = np.random.default_rng(0).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(n) * classes // n
    np.savez(folder / "sorted.npz", **arrays)
    return f"npz:{folder}/sorted.npz"


def test_training_sees_every_class_of_a_file_that_is_sorted_by_class(tmp_path, monkeypatch):
    from robench.training import train as train_module

    seen = {}
    attacked, begun = epochs.suite_measurement, train_module.fit

    def by_suite(model, images_, suite, threat, **how):
        seen["attacked" if suite else "clean"] = images_.y
        return attacked(model, images_, suite, threat, **how)

    def fit_(run, plan, images_, held_out):
        seen["train"] = images_.y
        return begun(run, plan, images_, held_out)

    monkeypatch.setattr(epochs, "suite_measurement", by_suite)
    monkeypatch.setattr(train_module, "fit", fit_)
    monkeypatch.setitem(PRESETS["small"], "probe_n", 20)
    short = {"n_train": 80, "held_out": 30, "epochs": 1, "batch_size": 8, "arch": "mlp,width=8", "eval_n": 20}
    done = train(sorted_by_class(tmp_path), objective="pgd-at,steps=1", **short)
    assert seen["train"].bincount().tolist() == [5] * 10
    assert seen["attacked"].bincount().tolist() == [2] * 10
    assert "the 20 images that are attacked at the end hold 1 of 10 classes; --eval-n chooses more" in done.meta["notes"]
    assert not any("attacked at the end" in note for note in train(sorted_by_class(tmp_path), measure="held-out", **short).meta["notes"])


def test_mean_and_spread_are_of_all_classes_where_the_first_images_lack_some():
    x = torch.zeros(20, 1, 2, 2)
    x[10:] = 1.0
    some = Images("toy", "train", x, torch.arange(20) // 10, torch.arange(20), ("dark", "bright"))
    assert images_of_all_classes(some, 10, 0).x.mean() == 0.5
    assert images_of_all_classes(some, 15, 0).ids.tolist() == list(range(15))


def test_at_most_a_fifth_is_held_out_unless_asked_for(tmp_path):
    short = {"epochs": 1, "batch_size": 8, "arch": "mlp,width=8", "eval_n": 20}
    data = sorted_by_class(tmp_path)
    few = train(data, **short)
    assert (few.meta["data"]["n"], few.meta["data"]["held_out"], few.meta["recipe"]["held_out"]) == (160, 40, 40)
    assert any(note.startswith("40 of the 200 training images are held out, a fifth") for note in few.meta["notes"])
    for asked, held in ((0.25, 50), (100, 100), (0, 0)):
        given = train(data, held_out=asked, **short)
        assert given.meta["data"]["held_out"] == held
        assert not any("held out, a fifth" in note for note in given.meta["notes"])
    assert held_out_size(500, 512, False)[0] == 102
    assert held_out_size(500, 10_000, False) == (500, [])
    assert held_out_size(500, 512, True) == (500, [])


def test_a_trained_checkpoint_loads_as_the_network_that_was_measured(tmp_path, monkeypatch):
    from robench.models import load_with_origin

    monkeypatch.setattr(preparation, "load_images", lambda name, split, **how: images(60, split=split))
    done = train("toy", out=tmp_path / "toy.pt", epochs=1, batch_size=8, held_out=10, eval_n=10, arch="mlp,width=8", activation="silu")
    loaded = load_with_origin(tmp_path / "toy.pt")
    x = images(5).pixels(slice(None))
    assert torch.equal(loaded.model(x), done.model(x))
    assert loaded.meta["preset"] == "small"


def test_a_gradient_in_another_memory_layout_is_put_into_that_of_its_weight(monkeypatch):
    """Second derivatives of convolutions come so, and fused optimisers of torch 2.15 read their entries in the wrong order."""
    plain, fused = network(), network()
    run(plain, reg=("jacobian=0.5",))
    monkeypatch.setattr(steps, "is_on_gpu", lambda weights: True)
    run(fused, reg=("jacobian=0.5",))
    for a, b in zip(plain.state_dict().values(), fused.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    weight, grad = torch.zeros(2, 3), torch.arange(6.0).view(3, 2).T
    assert steps.gradient_in_layout(grad, weight).stride() == weight.stride()
    assert torch.equal(steps.gradient_in_layout(grad, weight), grad)


def test_bf16_trains_almost_as_fp32_does_and_is_told(monkeypatch):
    monkeypatch.setattr(preparation, "load_images", lambda name, split, **how: images(60, split=split))
    short = {"epochs": 2, "batch_size": 8, "held_out": 10, "eval_n": 10, "arch": "cnn,width=4", "objective": "pgd-at,steps=2", "seed": 3}
    full = train("toy", reg=("emr=1", "sagr=0.1"), **short)
    low = train("toy", reg=("emr=1", "sagr=0.1"), precision="bf16", **short)
    assert low.meta["recipe"]["precision"] == "bf16"
    terms = [done.meta["history"][0]["terms"] for done in (full, low)]
    assert terms[0] != terms[1]
    assert terms[1] == pytest.approx(terms[0], rel=0.1)


def test_memory_that_ends_in_a_training_is_one_sentence_that_names_the_batch_size(tmp_path, monkeypatch):
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("robench.training.steps.step_gradients", full)
    with pytest.raises(InputError, match="does not hold a batch of 64 images: pass a --batch-size below 64"):
        train("shapes", arch="mlp,width=8", n_train=128, batch_size=64, epochs=1, out=tmp_path / "mlp.pt")


OWN_OBJECTIVES = """
from robench.objectives import Objective
from torch.nn import functional as F


def ce(model, batch):
    return F.cross_entropy(batch.logits, batch.y), {}


def of(craft=lambda model, batch: batch.x, loss=ce):
    return Objective(craft, loss)


def too_bright():
    return of(craft=lambda model, batch: batch.x * 255)


def cropped():
    return of(craft=lambda model, batch: batch.x[:, :, :5])


def nothing():
    return of(craft=lambda model, batch: None)


def scalar_alone():
    return of(loss=lambda model, batch: ce(model, batch)[0])


def unreduced():
    return of(loss=lambda model, batch: (F.cross_entropy(batch.logits, batch.y, reduction="none"), {}))


def detached(model, batch):
    return batch.logits.detach().square().mean()
"""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("too_bright", r"craft returned pixels that do not lie in \[0, 1\]"),
        ("cropped", r"craft returned torch.float32 \(\d+, 3, 5, \d+\): it must return images like those"),
        ("nothing", "craft returned NoneType"),
        ("scalar_alone", "loss returned Tensor: it must return the scalar to minimise, and a dict"),
        ("unreduced", "cannot be minimised: average it over the batch"),
    ],
)
def test_an_objective_of_ones_own_that_returns_something_else_is_refused_in_the_first_step(tmp_path, name, sentence):
    (tmp_path / "own.py").write_text(OWN_OBJECTIVES)
    with pytest.raises(InputError, match=sentence):
        train(
            "shapes",
            arch="mlp",
            n_train=60,
            held_out=10,
            batch_size=10,
            epochs=1,
            eval_n=4,
            suite=[],
            objective=f"{tmp_path}/own.py:{name}",
        )


def test_a_regulariser_of_ones_own_that_was_detached_is_refused(tmp_path):
    (tmp_path / "own.py").write_text(OWN_OBJECTIVES)
    with pytest.raises(InputError, match="without a gradient: it was detached, so it trains nothing"):
        train(
            "shapes", arch="mlp", n_train=60, held_out=10, batch_size=10, epochs=1, eval_n=4, suite=[], reg=f"{tmp_path}/own.py:detached=1"
        )
