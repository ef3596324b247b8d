"""Parameters that `--freeze` leaves as they are: weights, statistics of batch norm, gradients, and what is refused."""

import copy
import os
import signal

import pytest
import torch
from torch import nn

from robench.core.errors import InputError
from robench.models import checkpoint
from robench.training.frozen_parameters import enter_training_mode, freeze_parameters, is_frozen, prefixes_in
from robench.training.states import setting_difference, with_later_settings
from robench.training.train import train
from robench.training.types import Step

WORDS = {
    "arch": "resnet8",
    "activation": "relu",
    "n_train": 48,
    "held_out": 8,
    "batch_size": 20,
    "probe_n": 4,
    "eval_n": 8,
    "suite": ["fgsm"],
    "lr": 0.01,
}


def norms():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.Flatten())


def test_frozen_parameters_and_their_statistics_stay_bit_for_bit_and_the_others_move():
    kept = ["conv1", "bn1", "layer1"]
    one = train("shapes", epochs=1, freeze=kept, objective="fgsm-rs", ema=0.9, **WORDS)
    two = train("shapes", epochs=2, freeze="conv1,bn1,layer1", objective="fgsm-rs", ema=0.9, **WORDS)
    assert [*one.meta["recipe"]["freeze"]] == [*two.meta["recipe"]["freeze"]] == kept
    states = one.model.state_dict(), two.model.state_dict()
    same = {name for name, value in states[0].items() if torch.equal(value, states[1][name])}
    names = {name for name in states[0] if not name.startswith("normalize.")}
    assert {name for name in names if is_frozen(name, kept)} <= same
    assert not {name for name in names if not is_frozen(name, kept)} & same


def test_frozen_parameters_get_no_gradient_and_no_place_in_the_optimiser():
    model = norms()
    freeze_parameters(model, ["0", "1"])
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["3.weight", "3.bias", "4.weight", "4.bias"]


def test_only_the_statistics_under_a_prefix_stay():
    model = norms()
    before = copy.deepcopy(model.state_dict())
    enter_training_mode(model, ["1"])
    model(torch.rand(4, 3, 6, 6))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"4.running_mean", "4.running_var", "4.num_batches_tracked"}
    assert [module.training for module in model] == [True, False, True, True, True, True]


def test_a_training_with_frozen_parameters_is_resumed_bit_for_bit(tmp_path):
    def broken_off(events, epochs):
        for number, event in enumerate(events):
            yield event
            if isinstance(event, Step) and number >= 1:
                os.kill(os.getpid(), signal.SIGINT)

    words = {**WORDS, "epochs": 2, "freeze": "layer1", "objective": "fgsm-rs"}
    whole = train("shapes", **words)
    with pytest.raises(KeyboardInterrupt):
        train("shapes", out=tmp_path / "n.pt", watch=broken_off, **words)
    with pytest.raises(InputError, match="freeze"):
        train("shapes", out=tmp_path / "n.pt", resume=True, **{**words, "freeze": "layer2"})
    again = train("shapes", out=tmp_path / "n.pt", resume=True, **words)
    assert checkpoint.fingerprint(again.model.state_dict()) == checkpoint.fingerprint(whole.model.state_dict())


@pytest.mark.parametrize(
    ("freeze", "says"),
    [
        ("conf1", "nothing to freeze is called 'conf1': the network has conv1, bn1, layer1.0.conv1"),
        ("layer", "nothing to freeze is called 'layer'"),
        (["conv1", ""], "empty prefix"),
        ([3], "prefixes of parameter names"),
        ("conv1,bn1,layer1,layer2,layer3,linear", "leaves no parameter to train"),
    ],
)
def test_what_cannot_be_frozen_gets_a_sentence(freeze, says):
    with pytest.raises(InputError, match=says):
        train("shapes", epochs=1, freeze=freeze, **WORDS)


def test_freezing_everything_is_refused():
    with pytest.raises(InputError, match="leaves no parameter to train"):
        freeze_parameters(norms(), ["0", "1", "3", "4"])


def test_prefixes_are_whole_parts_of_names_and_come_in_several_ways():
    assert prefixes_in("a, b.c.") == prefixes_in(["a", "b.c,a"]) == ("a", "b.c")
    assert not is_frozen("layer10.weight", ["layer1"])
    assert is_frozen("network.layer1.weight", ["layer1"])
    assert is_frozen("network.layer1.weight", ["network.layer1"])


def test_a_setting_that_an_earlier_version_did_not_have_is_at_its_default():
    recipe = {**checkpoint.plain_values(with_later_settings({"recipe": {"seed": 0}})["recipe"])}
    earlier = {"recipe": {key: value for key, value in recipe.items() if key != "freeze"}}
    assert setting_difference(earlier, {"recipe": recipe}) == ""
    assert "freeze" in setting_difference(earlier, {"recipe": {**recipe, "freeze": ["conv1"]}})
