"""Models that return more than logits, and models in half precision: what is measured, with which gradients, and what is said."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import parse_recipe
from robench.evaluation.api import evaluate
from robench.evaluation.plans import transfer_attack
from robench.models import build_network, load_with_origin
from robench.models.answers import AnswerReader, answer_logits_alone, logits_entry
from robench.models.contract import examine_model
from robench.models.identity import model_identity
from robench.models.layers import normalised_network
from robench.training.train import train
from robench.training.types import TrainingNote

Outputs = namedtuple("Outputs", ["logits", "aux"])
Parts = namedtuple("Parts", ["first", "second"])


@dataclass
class Answer:
    """As ModelOutput classes are: a dataclass with logits."""

    loss: Tensor | None
    logits: Tensor


class Returning(nn.Module):
    """A network whose logits are handed through a function."""

    def __init__(self, change, network=None):
        super().__init__()
        self.network = network or nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        self.change = change

    def forward(self, x):
        return self.change(self.network(x))


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.rand(6, 1, 8, 8)


FORMS = {
    "dict": (lambda z: {"logits": z, "features": torch.cat((z, z), 1)}, "dict: its entry 'logits' is taken for the logits, not 'features'"),
    "segmentation": (lambda z: {"out": z}, "dict: its entry 'out' is taken for the logits"),
    "late": (
        lambda z: {"hidden": (z, z), "loss": z.mean(), "scores": z},
        "entry 'scores' is taken for the logits, not 'hidden', 'loss'",
    ),
    "named": (lambda z: Outputs(z, -z), "Outputs: its entry 'logits' is taken for the logits, not 'aux'"),
    "unnamed": (lambda z: Parts(z, -z), "Parts: its entry 'first' is taken for the logits, not 'second'"),
    "tuple": (lambda z: (z, -z), "tuple: its entry 0 is taken for the logits, not 1"),
    "loss first": (lambda z: (z.mean(), z), "tuple: its entry 1 is taken for the logits, not 0"),
    "labels": (lambda z: [z.argmax(1), z, z[:, :1]], "list: its entry 1 is taken for the logits, not 0, 2"),
    "dataclass": (lambda z: Answer(None, z), "Answer: its entry 'logits' is taken for the logits, not 'loss'"),
    "object": (lambda z: SimpleNamespace(logits=z, other=-z), "SimpleNamespace: its entry 'logits' is taken for the logits"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_logits_are_taken_out_and_named_and_the_verdicts_are_those_of_the_plain_network(x, form):
    change, note = FORMS[form]
    model = Returning(change)
    y = model.network(x).argmax(1)
    found, plain = (evaluate(each, x, y, suite="smoke", eps=0.1) for each in (model, model.network))
    accuracies = [[row.value for row in each.rows if "accuracy" in row.metric] for each in (found, plain)]
    assert accuracies[0] == accuracies[1]
    assert len(accuracies[0]) > 2
    assert [one for one in found.notes if one.endswith(note)]
    assert isinstance(model(x), type(change(torch.zeros(2, 3))))  # it is what it was


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda z: (z, torch.cat((z, z), 1)),
            r"tuple with several .* \(0 \(B, 3\), 1 \(B, 6\)\): call one of them 'logits'",
        ),
        (lambda z: {"a": z, "b": -z}, r"dict with several tensors that may be the logits \('a' \(B, 3\), 'b' \(B, 3\)\)"),
        (lambda z: {"a": z[:, 0], "b": 3}, r"returns dict, not one tensor of logits \(B, K\), and none of its entries is \('a', 'b'\)"),
        (lambda z: {"logits": z.argmax(1)}, "into logits|into an output"),
        (lambda z: (), "returns tuple, not one tensor of logits"),
        (lambda z: None, "the model cannot take images|returns NoneType, not one tensor"),
        (lambda z: "logits", "returns str, not one tensor"),
    ],
)
def test_where_it_is_open_or_there_are_none_one_sentence_says_so(x, change, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        examine_model(Returning(change), x.expand(6, -1, -1, -1)[:6])
    assert "\n" not in str(caught.value)


def test_a_model_that_returns_logits_stays_itself_with_its_identity(x):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = model_identity(model)
    assert examine_model(model, x).model is model
    assert model_identity(answer_logits_alone(model)) == before
    assert torch.equal(model(x), model[1](model[0](x)))


def test_a_tuple_of_a_model_that_takes_one_size_of_batches_alone_is_read(x):
    def eight(z):
        assert len(z) == 8, "eight at a time"
        return {"logits": z}

    seen = examine_model(Returning(eight), x)
    assert seen.model(x).shape == (6, 3)
    assert len(seen.notes) == 2


def test_a_users_own_file_returns_what_it_likes_as_model_and_as_surrogate(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, half=False):\n        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n        if half:\n            self.bfloat16()\n\n"
        "    def forward(self, x):\n        return {'logits': self.body(x), 'features': x}\n"
    )
    for options in ("", ",half=true"):
        loaded = load_with_origin(f"{file}:Net{options}", classes=3, shape=(1, 8, 8))
        assert loaded.model(torch.rand(2, 1, 8, 8)).dtype == torch.float32
        assert any("its entry 'logits' is taken" in note for note in loaded.notes)
    attack = transfer_attack(parse_recipe(f"transfer:{file}:Net"), "cpu")
    images = torch.rand(4, 1, 8, 8)
    points = attack(loaded.model, images, loaded.model(images).argmax(1), threat(0.1), Draws(0, torch.arange(4), "t"))
    assert points.x_adv.shape == images.shape


def threat(eps):
    from robench.core.threat import Threat

    return Threat("linf", eps)


# Half precision


def half_network(dtype, *, normalised=False):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).to(dtype)
    return normalised_network(network, (0.5,), (0.25,)) if normalised else network


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_gets_its_images_cast_and_computes_as_it_does(x, dtype, normalised):
    model = half_network(dtype, normalised=normalised)
    seen = examine_model(model, x)
    word = str(dtype).removeprefix("torch.")
    assert [note for note in seen.notes if f"weights in {word}" in note and f"the model's own in {word}" in note]
    scaled = (x - 0.5) / 0.25 if normalised else x
    own = (model.network if normalised else model)(scaled.to(dtype))
    assert own.dtype == dtype
    assert torch.equal(seen.model(x).float(), own.float())
    leaf = x.clone().requires_grad_()
    seen.model(leaf).float().square().sum().backward()
    assert leaf.grad.dtype == torch.float32
    exact = scaled.clone().requires_grad_()
    half_network(dtype).float()(exact).square().sum().backward()
    assert float(torch.cosine_similarity(leaf.grad.flatten(), exact.grad.flatten(), 0)) > 0.98  # ReLU flips near 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_points_of_an_attack_on_such_a_model_lie_inside_the_threat_in_float32(x, dtype, tmp_path):
    model = half_network(dtype)
    y = model(x.to(dtype)).argmax(1)
    found = evaluate(model, x, y, suite="smoke", eps=0.05, save=tmp_path / "x_adv.npy")
    points = torch.from_numpy(np.load(tmp_path / "x_adv.npy"))
    assert points.dtype == torch.float32
    assert 0 < float((points - x).abs().max()) <= 0.05 + 1e-6
    assert {row.value for row in found.rows if row.probe == "clean" and row.metric == "accuracy"} == {1.0}
    assert next(model.parameters()).dtype == dtype
    assert [note for note in found.notes if "weights in" in note]


def test_a_model_that_casts_by_itself_stays_itself_with_the_note(x):
    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = half_network(torch.bfloat16)

        def forward(self, x):
            return self.body(x.bfloat16()).float()

    model = Casting()
    seen = examine_model(model, x)
    assert seen.model is model
    assert [note for note in seen.notes if "weights in bfloat16" in note]


def test_double_precision_is_as_it_was(x):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    seen = examine_model(model, x.double())
    assert seen.model is model
    assert seen.notes == ()


def test_what_a_device_does_not_compute_in_half_precision_is_one_sentence(x):
    class Unsupported(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = half_network(torch.float16)

        def forward(self, x):
            if x.dtype == torch.float16:
                raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")
            return self.body(x)

    with pytest.raises(InputError, match=r"has weights in float16, in which cpu does not compute all of it: RuntimeError: .*'Half'"):
        examine_model(Unsupported(), x)


def test_weights_that_a_file_stores_in_half_precision_are_noted_and_compute_in_float32(tmp_path):
    network = build_network("mlp,width=6", classes=3, shape=(1, 8, 8))
    torch.save({key: value.half() for key, value in network.state_dict().items()}, tmp_path / "net.pth")
    loaded = load_with_origin(tmp_path / "net.pth", arch="mlp,width=6", classes=3, shape=(1, 8, 8))
    assert "stores weights in float16, and the network computes in float32" in loaded.notes[0]
    assert loaded.model(torch.rand(2, 1, 8, 8)).dtype == torch.float32


def test_the_reader_is_traced_by_those_who_fold_batch_norm_into_layers():
    from torch import fx

    traced = fx.symbolic_trace(AnswerReader(Returning(lambda z: {"logits": z}), "logits"))
    images = torch.rand(2, 1, 8, 8)
    assert traced(images).shape == (2, 3)


def test_entries_of_outputs_that_a_test_can_read_off():
    z = torch.zeros(2, 3)
    assert logits_entry([z.long(), z, z])[0] == 1
    assert logits_entry({"x": z, "logits": z[:, :1]})[0] == "logits"


def test_a_network_that_returns_more_in_training_is_trained_on_its_logits(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, half=False):\n        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 10))\n"
        "        if half:\n            self.half()\n\n"
        "    def forward(self, x):\n        z = self.body(x)\n        return (z, z / 2) if self.training else z\n"
    )
    told = []

    def watch(events, _epochs):
        for event in events:
            told.extend([event.sentence] if isinstance(event, TrainingNote) else [])
            yield event

    how = {"n_train": 250, "epochs": 1, "eval_n": 10, "suite": "smoke", "objective": "standard", "reg": (), "watch": watch}
    trained = train("shapes", arch=f"{file}:Net", out=tmp_path / "net.pt", **how)
    assert [note for note in told if note.endswith("its entry 0 is taken for the logits, not 1; it is trained on them alone")]
    again = load_with_origin(tmp_path / "net.pt", arch=f"{file}:Net").model
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), trained.model.eval()(images))
    with pytest.raises(InputError, match="has weights in float16, in which nothing is trained here"):
        train("shapes", arch=f"{file}:Net,half=true", out=tmp_path / "half.pt", **how)
