"""What identifies a model: a run does not go on with another activation, other options or code, and the manifest says which it was."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commandline import refused, robench
from torch import nn

from robench import evaluate
from robench.core.errors import InputError
from robench.core.recipes import run_user_file
from robench.core.rows import blank_row
from robench.models import build_network, checkpoint, load_with_origin
from robench.models.identity import code_digests, model_identity
from robench.runs.pools import pool_of
from robench.runs.resuming import header_of
from robench.runs.stages.clean import clean_stage
from robench.runs.types import RunOptions, Subject

SHAPE = (3, 32, 32)
OWN = """import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, num_classes, act="relu"):
        super().__init__()
        torch.manual_seed(0)
        self.act = getattr(F, act)
        self.one, self.two = nn.Linear(3072, 8), nn.Linear(8, num_classes)

    def forward(self, x):
        if x.requires_grad and len(x) > LIMIT:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.two(self.act(self.one(x.flatten(1))))
"""


def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(build_network("mlp,width=16", classes=10, shape=SHAPE).state_dict(), tmp_path / "net.pth")
    return tmp_path / "net.pth"


def stopped(things, what, told):
    """Lets the clean pass go by, then behaves as Ctrl-C."""
    for thing in things:
        if what != "clean":
            raise KeyboardInterrupt
        yield thing


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_a_run_does_not_go_on_with_another_activation(tmp_path, activation):
    path = weights(tmp_path)
    x, y = torch.rand(12, *SHAPE), torch.zeros(12).long()

    def run(act, **how):
        loaded = load_with_origin(path, arch="mlp,width=16", activation=act, classes=10, shape=SHAPE)
        y = loaded.model(x).argmax(1)
        return evaluate(loaded.model, x, y, suite="smoke", eps=0.01, folder=tmp_path, architecture=loaded.architecture, **how)

    with pytest.raises(KeyboardInterrupt):
        run("gelu", track=stopped)
    with pytest.raises(InputError, match=rf"state of another run: its architecture is .*gelu.*, here it is .*{activation}"):
        run(activation, resume=True)
    run("gelu", resume=True)
    assert len(y) == 12


def test_two_networks_of_one_set_of_weights_are_told_apart_without_any_words():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    other = nn.Sequential(one[0], nn.ReLU())
    assert model_identity(one)["weights"] == model_identity(other)["weights"]
    assert model_identity(one)["modules"] != model_identity(other)["modules"]
    assert model_identity(one) == model_identity(nn.Sequential(one[0], nn.GELU()))
    assert header(Subject(one, blank_row())) == header(Subject(nn.Sequential(one[0], nn.GELU()), blank_row()))
    assert header(Subject(one, blank_row())) != header(Subject(other, blank_row()))
    assert header(Subject(one, blank_row())) != header(Subject(one, blank_row(), architecture={"arch": "a.py:f"}))


def header(subject):
    pool = pool_of(torch.zeros(2, 1, 2, 2), torch.zeros(2).long())
    return header_of(
        [SimpleNamespace(subject=subject, name="one")], [clean_stage()], pool, RunOptions(), images="", data="shapes", words={}
    )


def test_the_source_of_own_classes_and_factories_counts(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(f"LIMIT = 100\n{OWN}")
    model = run_user_file(file).Net(10)
    first = model_identity(model)
    assert list(first["code"]) == ["mine.py"]
    assert code_digests(f"{file}:Net,num_classes=10") == first["code"]
    file.write_text(f"LIMIT = 101\n{OWN}")
    assert model_identity(model)["code"] != first["code"]
    assert model_identity(nn.Linear(2, 2))["code"] == code_digests("cnn", None, "tv/resnet18") == {}
    monkeypatch.chdir(tmp_path)
    Path("own_module_of_a_test.py").write_text("from torch import nn\ndef net():\n    return nn.Flatten()\n")
    load_with_origin("own_module_of_a_test:net")
    assert list(code_digests("own_module_of_a_test:net")) == ["own_module_of_a_test.py"]
    sys.modules.pop("own_module_of_a_test")


def test_a_run_of_own_code_does_not_go_on_after_its_file_or_its_options_changed(tmp_path):
    file, out = tmp_path / "mine.py", tmp_path / "out"
    file.write_text(f"LIMIT = 24\n{OWN}")
    words = ["--data", "shapes", "--n", 300, "--attack", "pgd-10", "--out", out, "--quiet"]
    assert "--resume goes on with it" in refused("attack", f"{file}:Net,num_classes=10", *words, "--batch-size", 300)
    again = ["--batch-size", 20, "--resume"]
    assert "state of another run" in refused("attack", f"{file}:Net,num_classes=10,act=gelu", *words, *again)
    file.write_text(f"LIMIT = 25\n{OWN}")
    assert "state of another run" in refused("attack", f"{file}:Net,num_classes=10", *words, *again)
    file.write_text(f"LIMIT = 24\n{OWN}")
    robench("attack", f"{file}:Net,num_classes=10", *words, *again)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["checkpoint"]["architecture"] == {"arch": "mine.py:Net,num_classes=10", "code": code_digests(f"{file}:Net")}


@pytest.mark.parametrize(
    "command", ["eval --suite smoke", "saliency", "corrupt --severity 1 --corruption fog", "attack --attack random-noise"]
)
def test_the_manifest_of_every_command_names_the_architecture_with_its_options(tmp_path, command):
    name, *options = command.split()
    words = ["--data", "shapes", "--n", 10, "--arch", "mlp,width=16", "--activation", "silu", "--mean", "0.5", "--std", "0.25"]
    robench(name, weights(tmp_path), *words, *options, "--out", tmp_path / "out")
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())["checkpoint"]["architecture"]
    assert about == {"arch": "mlp,width=16", "activation": "silu", "mean": [0.5], "std": [0.25]}


def test_a_checkpoint_says_when_its_code_is_not_what_it_was_trained_with(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"LIMIT = 1000\n{OWN}")
    words = ["--epochs", 1, "--n-train", 200, "--eval-n", 10, "--suite", "fgsm", "--quiet"]
    robench("train", "--arch", f"{file}:Net,num_classes=10", *words, "--out", tmp_path / "a.pt")
    assert checkpoint.read_checkpoint(tmp_path / "a.pt")[1]["model"]["code"] == code_digests(f"{file}:Net")
    arch = f"{file}:Net,num_classes=10"
    assert load_with_origin(tmp_path / "a.pt", arch=arch).notes == ("mine.py:Net ran code of the user's",)
    file.write_text(f"LIMIT = 1001\n{OWN}")
    assert load_with_origin(tmp_path / "a.pt", arch=arch).notes[1:] == ("a.pt was trained with other code than mine.py holds now",)


# own architectures in training


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        f"LIMIT = 1000\n{OWN}"
        "def few():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))\n"
        "def many():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 12))\n"
        "class InPlace(Net):\n    def forward(self, x):\n        return super().forward(x.sub_(0.5))\n"
    )
    return file


SHORT = ["--epochs", 1, "--n-train", 200, "--eval-n", 10, "--suite", "fgsm"]


def test_an_own_architecture_trains_with_the_default_preset_and_names_the_option_that_it_needs(own, tmp_path):
    assert f"mine.py:Net needs a value for 'num_classes': write {own}:Net,num_classes=10" in refused(
        "train", "--arch", f"{own}:Net", *SHORT
    )
    result = robench("train", "--arch", f"{own}:Net,num_classes=10", *SHORT, "--out", tmp_path / "a.pt")
    assert "activation" not in result.stderr
    assert "leave the activation 'gelu' out" in refused("train", "--arch", f"{own}:Net,num_classes=10", *SHORT, "--activation", "gelu")
    assert f"write {own}:Net,num_classes=10" in refused("eval", f"{own}:Net", "--data", "shapes")


def test_outputs_that_are_not_the_classes_are_told_in_training(own, tmp_path):
    result = robench("train", "--arch", f"{own}:many", *SHORT, "--out", tmp_path / "a.pt")
    assert "mine.py:many has 12 outputs, the data 10 classes: it is trained on all its outputs" in " ".join(result.stderr.split())
    assert "mine.py:few has 3 outputs, the data 10 classes" in refused("train", "--arch", f"{own}:few", *SHORT)
    sentence = refused("train", "--arch", f"{own}:InPlace,num_classes=10", *SHORT, "--normalize", "none")
    assert "InPlace,num_classes=10 cannot be trained as it is: the model changes its images in place; change its forward" in sentence


def test_training_takes_a_mean_and_a_std_in_place_of_those_of_the_data(tmp_path):
    words = ["train", *SHORT, "--mean", "0.5,0.4,0.3", "--std", "1/4,0.25,0.25"]
    result = robench(*words, "--out", tmp_path / "a.pt")
    assert "normalised by the mean and std given, in place of the preset's --normalize data" in " ".join(result.stderr.split())
    about = checkpoint.read_checkpoint(tmp_path / "a.pt")[1]
    assert (about["model"]["mean"], about["model"]["std"]) == ([0.5, 0.4, 0.3], [0.25, 0.25, 0.25])
    model = load_with_origin(tmp_path / "a.pt").model
    assert model.state_dict()["normalize.mean"].flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert "mean and std are the normalisation: leave --normalize data out" in refused(*words, "--normalize", "data")
    assert "give mean and std, or neither" in refused("train", *SHORT, "--mean", "0.5")
    assert "one number for each channel" in refused("train", *SHORT, "--mean", "0.5,0.5", "--std", "0.5,0.5")
    assert "normalize is 'none' or 'data'" in refused("train", *SHORT, "--normalize", "given")
