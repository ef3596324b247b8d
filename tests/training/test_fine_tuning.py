"""Trainings that begin with weights: of whatever layout, what they must say of their network, and what the tuned checkpoint carries."""

import copy
import json
from pathlib import Path

import pytest
import torch
from commandline import refused
from commandline import robench as robench_command
from places import ROOT
from torch import nn

from robench.core.errors import InputError
from robench.models import build_network, load_model, load_with_origin
from robench.models.heads import head_name, with_new_head
from robench.results.files import read_rows
from robench.training.clean_before import fall_notes
from robench.training.train import train

OURS = ROOT / "checkpoints" / "shapes-cnn-pgd-at.pt"
QUICK = {"n_train": 60, "held_out": 20, "batch_size": 20, "probe_n": 4, "eval_n": 10, "suite": (), "measure": "held-out", "epochs": 1}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NET = """
from torch import nn


def net(num_classes=10):
    return nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, num_classes))


def ten():
    return net()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a network of the user's own and its weights in several layouts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    namespace = {}
    exec(NET, namespace)
    torch.manual_seed(0)
    model = namespace["net"](10)
    state = model.state_dict()
    torch.save(state, "plain.pth")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, "wrapped.pth")
    torch.save({"model": state, "optimizer": {}}, "model.pth")
    torch.save({"model": state, "ema": {key: value + 1 for key, value in state.items()}}, "two.pth")
    torch.save({"normalize.mean": torch.tensor(MEAN).view(-1, 1, 1), "normalize.std": torch.tensor(STD).view(-1, 1, 1),
                **{f"network.{key}": value for key, value in state.items()}}, "normalised.pth")  # fmt: skip
    return model


def clean_accuracies(folder):
    """The models of a results folder with their clean accuracies."""
    rows = [row for row in read_rows(folder) if row.metric == "accuracy"]
    return [(row.checkpoint, row.value) for row in rows]


def still(init, data="shapes", **words):
    """A training in which no weight moves that it begins with (but for batch norm's statistics, which are frozen with their layer)."""
    return train(data, init=init, lr=1e-30, weight_decay=0.0, **{**QUICK, **words})


@pytest.mark.parametrize("file", ["plain.pth", "wrapped.pth", "model.pth"])
def test_weights_of_any_layout_are_those_that_eval_reads(place, file):
    done = still(file, arch="net.py:net,num_classes=10", mean=MEAN, std=STD, freeze="1", out="tuned.pt")
    measured = load_model(file, arch="net.py:net,num_classes=10", classes=10, shape=(3, 32, 32), mean=MEAN, std=STD)
    again = load_model("tuned.pt", arch="net.py:net,num_classes=10")
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(measured(x), done.model(x))
    assert torch.equal(again(x), done.model(x))
    assert done.meta["preset"] == "fine-tune"
    assert done.meta["model"]["mean"] == list(MEAN)
    assert done.meta["recipe"]["init"]["name"] == file
    assert done.meta["before"]["clean"]["accuracy"] == done.meta["metrics"]["clean"]["accuracy"]
    assert json.loads(Path("tuned.json").read_text())["meta"]["before"]["clean"]["n"] == 20


def test_a_normalisation_among_the_weights_is_kept_and_another_one_refused(place):
    done = still("normalised.pth", arch="net.py:net,num_classes=10", freeze="1")
    assert done.meta["model"]["mean"] == pytest.approx(MEAN)
    with pytest.raises(InputError, match="has a normalisation of its own"):
        still("normalised.pth", arch="net.py:net,num_classes=10", mean=STD, std=MEAN)


def test_pixels_that_nobody_normalises_are_told(place):
    notes = still("plain.pth", arch="net.py:net,num_classes=10").meta["notes"]
    assert any("gets pixels in [0, 1] as they are" in note for note in notes)


def test_one_of_several_sets_of_weights_is_chosen_by_its_key(place):
    x = torch.rand(2, 3, 32, 32)
    other = still("two.pth", arch="net.py:net,num_classes=10", weights="ema", freeze="1")
    place.load_state_dict({key: value + 1 for key, value in place.state_dict().items()})
    assert torch.equal(other.model(x), place.eval()(x))
    with pytest.raises(InputError, match="'emu'"):
        still("two.pth", arch="net.py:net", weights="emu")


def test_a_checkpoint_of_ours_brings_network_and_normalisation(tmp_path):
    base = load_with_origin(OURS)
    done = still(OURS, out=tmp_path / "t.pt")
    assert done.meta["model"] == {**base.meta["model"], "shape": done.meta["model"]["shape"]}
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(load_model(tmp_path / "t.pt")(x), base.model(x))
    assert done.meta["recipe"]["arch"] == base.meta["model"]["arch"]


def test_base_and_tuned_stand_side_by_side_in_one_call_without_options(tmp_path):
    still(OURS, out=tmp_path / "t.pt")
    done = robench_command("eval", str(OURS), str(tmp_path / "t.pt"), "--suite", "clean", "--n", "40", "--out", str(tmp_path / "run"))
    assert "knows its own" not in done.output
    (one, accuracy), (two, again) = clean_accuracies(tmp_path / "run")
    assert (one, two) == ("shapes-cnn-pgd-at.pt", "t.pt")
    assert accuracy == again > 0.9


def test_a_file_of_weights_stands_beside_the_checkpoint_that_was_tuned_from_it(place, tmp_path):
    options = ["--arch", "net.py:net,num_classes=10", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.25,0.3"]
    still("plain.pth", arch="net.py:net,num_classes=10", mean=MEAN, std=STD, freeze="1", out="tuned.pt")
    robench_command("eval", "plain.pth", "tuned.pt", *options, "--suite", "clean", "--n", "40", "--out", "run")
    (_, one), (_, two) = clean_accuracies(tmp_path / "run")
    assert one == two
    options[3] = "0.1,0.4,0.3"
    other = refused("eval", "plain.pth", "tuned.pt", *options, "--suite", "clean", "--n", "40", "--out", "other")
    assert "tuned.pt is a checkpoint of robench and knows its own normalisation: leave --mean out" in other


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"arch": "mlp"}, "leave --arch out"),
        ({"activation": "relu"}, "trained with the activation 'gelu', not 'relu': leave --activation out"),
        ({"mean": MEAN, "std": STD}, "knows its own normalisation, mean .*: leave mean and std out"),
        ({"normalize": "none"}, "leave --normalize none out"),
        ({"normalize": "data"}, "leave --normalize data out"),
        ({"weights": "ema"}, "leave --weights out"),
    ],
)
def test_options_that_contradict_a_checkpoint_are_refused(words, says):
    with pytest.raises(InputError, match=says):
        still(OURS, **words)


def test_the_same_words_again_are_no_contradiction():
    meta = load_with_origin(OURS).meta["model"]
    done = still(OURS, arch=meta["arch"], activation=meta["activation"], mean=meta["mean"], std=meta["std"])
    assert done.meta["model"]["mean"] == meta["mean"]


def test_weights_alone_do_not_say_their_network(place):
    with pytest.raises(InputError, match=r"plain.pth holds weights only: name its network with --arch"):
        still("plain.pth")


def test_weights_of_another_network_are_refused_with_the_first_three_layers(place):
    torch.save(build_network("resnet8", classes=10, shape=(3, 32, 32)).state_dict(), "other.pth")
    with pytest.raises(InputError) as found:
        still("other.pth", arch="net.py:net,num_classes=10")
    sentence = str(found.value)
    assert "other.pth does not fit net.py:net,num_classes=10: it lacks 0.weight, 0.bias, 1.weight and " in sentence
    assert "has the unknown conv1.weight, bn1.weight, bn1.bias and " in sentence
    assert "--arch resnet8" in sentence


@pytest.mark.parametrize("arch", ["net.py:net,num_classes=3", "net.py:ten"])
def test_a_head_that_does_not_fit_is_refused_and_the_option_is_named(place, arch, three_classes):
    with pytest.raises(InputError, match=r"plain.pth has 10 outputs, the data 3 classes: pass --new-head .*last layer \(4\)"):
        still("plain.pth", arch=arch, data=three_classes)


@pytest.mark.parametrize("arch", ["net.py:net,num_classes=3", "net.py:ten"])
def test_a_new_head_has_new_weights_and_all_other_layers_those_of_the_file(place, arch, three_classes):
    done = still("plain.pth", arch=arch, new_head=True, freeze="1", data=three_classes, out="tuned.pt")
    state = done.model.state_dict()
    old = place.state_dict()
    assert all(torch.equal(state[key], old[key]) for key in old if not key.startswith("4."))
    assert state["4.weight"].shape == (3, 196)
    assert any("4, the last layer, is new" in note for note in done.meta["notes"])
    assert "before" not in done.meta
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(load_model("tuned.pt", arch=arch)(x), done.model(x))


def test_a_new_head_that_fits_is_drawn_from_the_seed_where_it_is_asked_for():
    one, two, other = (still(OURS, new_head=True, seed=seed) for seed in (0, 0, 1))
    states = [each.model.state_dict() for each in (one, two, other)]
    base = load_with_origin(OURS).model.state_dict()
    head = [
        key for key in base if not torch.equal(base[key], states[0][key]) and not key.endswith(("running_mean", "running_var", "tracked"))
    ]
    assert {key.rpartition(".")[0] for key in head} == {f"network.{head_name(load_with_origin(OURS).model[1])}"}
    assert all(torch.equal(states[0][key], states[1][key]) for key in base)
    assert not all(torch.equal(states[0][key], states[2][key]) for key in head)


@pytest.mark.parametrize("words", [{"new_head": True}, {"weights": "ema"}, {"trust": True}])
def test_words_on_weights_without_weights_are_refused(words):
    with pytest.raises(InputError, match="name them with --init"):
        train("shapes", arch="mlp,width=4", **words, **QUICK)


def test_a_changed_file_is_refused_by_name_at_resume(place, tmp_path):
    words = {"arch": "net.py:net,num_classes=10", "mean": MEAN, "std": STD}
    still("plain.pth", out="t.pt", **words)
    state = place.state_dict()
    torch.save({**state, "0.bias": state["0.bias"] + 1}, "plain.pth")
    with pytest.raises(InputError, match=r"plain.pth, with whose weights it began, has changed: their sha256 was .* and is "):
        still("plain.pth", out="t.pt", resume=True, **words)
    torch.save(state, "plain.pth")
    assert still("plain.pth", out="t.pt", resume=True, **words).evaluation == []


def test_where_the_accuracy_fell_is_told_in_points_and_classes():
    class Lines:
        def __init__(self, right):
            self.samples = [type("Line", (), {"label": k % 2, "clean_pred": k % 2 if good else 9})() for k, good in enumerate(right)]

    before, after = Lines([True] * 40), Lines([True, False] * 20)
    (note,) = fall_notes(before, after, ["cat", "dog"])
    assert note.startswith("the clean accuracy fell from 100.0 to 50.0 % on 40 images, by 50.0 points (95 % interval ")
    assert note.endswith("most in the classes dog (by 100.0)")
    assert fall_notes(after, before, ["cat", "dog"]) == fall_notes(None, before, []) == []


def test_the_last_layer_is_found_and_replaced():
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 10, bias=False)))
    assert head_name(network) == "1.1"
    other = with_new_head(copy.deepcopy(network), "1.1", 3)
    assert other(torch.rand(2, 4)).shape == (2, 3)
    assert other[1][1].bias is None
    convolution = with_new_head(nn.Sequential(nn.Conv2d(3, 10, 1), nn.Flatten()), "0", 2)
    assert convolution(torch.rand(1, 3, 1, 1)).shape == (1, 2)
    with pytest.raises(InputError, match="no linear layer and no convolution"):
        head_name(nn.Sequential(nn.ReLU()))


def test_a_torchvision_network_begins_with_weights_that_its_name_stands_for(tmp_path, monkeypatch):
    import torchvision

    from robench.models.initial_weights import initial_weights, network_from_weights
    from robench.models.named_models import ModelOptions

    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    entry = torchvision.models.ResNet18_Weights.DEFAULT
    monkeypatch.setattr("robench.models.torchvision_weights.torch_hub_file", lambda *_, **__: tmp_path / "w.pth")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    found = initial_weights("tv/resnet18,weights=DEFAULT", ModelOptions(classes=5, shape=(3, 64, 64)))
    assert (found.arch, found.outputs, found.mean) == ("tv/resnet18", 1000, tuple(entry.transforms().mean))
    words = {"arch": "tv/resnet18", "activation": "relu", "classes": 5, "shape": (3, 64, 64), "mean": found.mean, "std": found.std}
    with pytest.raises(InputError, match=r"has 1000 outputs, the data 5 classes: pass --new-head .*\(fc\)"):
        network_from_weights(found, new_head=False, **words)
    begun = network_from_weights(found, new_head=True, **words)
    assert torch.equal(begun.network.network.layer4[1].conv2.weight, model.layer4[1].conv2.weight)
    assert begun.network(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    with pytest.raises(InputError, match="has random weights: write tv/resnet18,weights=DEFAULT"):
        initial_weights("tv/resnet18", ModelOptions(classes=5, shape=(3, 64, 64)))


@pytest.fixture
def three_classes(tmp_path):
    """Three classes of random images, as a data set in a file."""
    import numpy as np

    rng = np.random.default_rng(0)
    splits = {f"{part}_{split}": value for split in ("train", "test") for part, value in
              (("x", rng.integers(0, 256, (90, 32, 32, 3), dtype=np.uint8)), ("y", np.arange(90) % 3))}  # fmt: skip
    np.savez(tmp_path / "three.npz", **splits)
    return f"npz:{tmp_path / 'three.npz'}"
