"""Several sets of weights in a file, normalisation among weights, and hints where weights do not fit."""

import pytest
import torch
from commandline import refused, robench
from torch import nn

from robench.core.errors import InputError
from robench.models import build_network, load_model, load_with_origin

SHAPE = (3, 8, 8)
FITS = {"arch": "mlp,width=6", "classes": 3, "shape": SHAPE}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def network(seed: int = 0, arch: str = "mlp,width=6") -> nn.Module:
    torch.manual_seed(seed)
    return build_network(arch, classes=3, shape=SHAPE).eval()


def x() -> torch.Tensor:
    return torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))


def saved(path, content):
    torch.save(content, path)
    return path


def state(seed: int = 0, prefix: str = ""):
    return {prefix + key: value for key, value in network(seed).state_dict().items()}


def tensors():
    return {"mu": torch.tensor(MEAN).view(1, 3, 1, 1), "sigma": torch.tensor(STD).view(1, 3, 1, 1)}


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("first", "other"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model_state_dict", "ema_model_state_dict")],
)
def test_averaged_weights_are_named_in_a_note_and_chosen_by_key(tmp_path, first, other):
    path = saved(tmp_path / "net.pth", {"epoch": 3, other: state(1), first: state(0), "optimizer": OPTIMIZER})
    plain, chosen = load_with_origin(path, **FITS), load_with_origin(path, **FITS, weights=other)
    assert torch.equal(plain.model(x()), network(0)(x()))
    assert plain.notes == (
        f"net.pth holds several sets of weights: {first!r} was taken, not {other!r}; --weights KEY (weights=KEY in Python) chooses",
    )
    assert torch.equal(chosen.model(x()), network(1)(x()))
    assert chosen.notes == ()
    assert torch.equal(load_model(path, **FITS, weights=other)(x()), network(1)(x()))


def test_averaged_weights_of_torchvision_and_torch_load_with_their_counter(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(network(1))
    path = saved(tmp_path / "net.pth", {"model": state(0), "model_ema": averaged.state_dict()})
    assert torch.equal(load_with_origin(path, **FITS, weights="model_ema").model(x()), network(1)(x()))


def test_best_and_last_are_refused_until_one_is_chosen(tmp_path):
    path = saved(tmp_path / "net.pth", {"last": {"net": state(0)}, "best": {"net": state(1)}, "optimizer": OPTIMIZER})
    with pytest.raises(InputError, match=r"several sets of weights .last.net, best.net.: choose one with --weights KEY .weights=KEY in P"):
        load_with_origin(path, **FITS)
    assert torch.equal(load_with_origin(path, **FITS, weights="best.net").model(x()), network(1)(x()))
    with pytest.raises(InputError, match=r"has no set of weights 'best.nat': did you mean 'best.net'"):
        load_with_origin(path, **FITS, weights="best.nat")


def test_the_only_set_of_weights_is_taken_whatever_its_name_and_the_note_says_so(tmp_path):
    loaded = load_with_origin(saved(tmp_path / "net.pth", {"student": state(1), "optimizer": OPTIMIZER, "epoch": 1}), **FITS)
    assert torch.equal(loaded.model(x()), network(1)(x()))
    assert loaded.notes == ("the weights of net.pth are those under 'student'",)


def test_a_key_where_there_is_nothing_to_choose_is_refused(tmp_path):
    path = saved(tmp_path / "net.pth", state())
    with pytest.raises(InputError, match="holds one set of weights, at its top: leave --weights out"):
        load_with_origin(path, **FITS, weights="ema")
    with pytest.raises(InputError, match="leave --weights out"):
        load_with_origin("tv/squeezenet1_1", classes=3, shape=(3, 32, 32), weights="ema")


def test_a_content_that_holds_itself_is_no_endless_search(tmp_path):
    content = {"state_dict": state()}
    content["again"] = content
    notes = load_with_origin(saved(tmp_path / "net.pth", content), **FITS).notes
    assert "'state_dict' was taken" in notes[0]


def test_every_command_takes_the_key(tmp_path):
    torch.manual_seed(0)
    one, other = (build_network("mlp,width=6", classes=10, shape=(3, 32, 32)).state_dict() for _ in range(2))
    path = saved(tmp_path / "net.pth", {"model": one, "model_ema": other})
    words = ["--arch", "mlp,width=6", "--data", "shapes", "--n", 20]
    digests = set()
    for command in ("eval --suite smoke", "attack --attack fgsm", "saliency", "corrupt --severity 1 --corruption fog"):
        name, *options = command.split()
        result = robench(name, path, *options, *words, "--out", tmp_path / name, "--weights", "model_ema")
        assert "several sets" not in result.stderr
        digests.add((tmp_path / name / "manifest.json").read_text().partition('"sha256": "')[2][:64])
    assert len(digests) == 1
    assert "did you mean 'model_ema'" in refused("eval", path, *words, "--weights", "model_emu")


# normalisation among the weights


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_weights_of_a_model_that_load_model_gave_load_as_they_are(tmp_path, prefix):
    path = saved(tmp_path / "net.pth", state())
    model = load_model(path, **FITS, mean=MEAN, std=STD)
    assert set(model.state_dict()) >= {"normalize.mean", "network.1.weight"}
    again = saved(tmp_path / "again.pth", {prefix + key: value for key, value in model.state_dict().items()})
    loaded = load_with_origin(again, **FITS)
    assert torch.equal(loaded.model(x()), model(x()))
    assert loaded.notes == ("again.pth brings its own normalisation: mean 0.4914,0.4822,0.4465, std 0.2471,0.2435,0.2616",)
    assert torch.equal(load_with_origin(again, **FITS, mean=MEAN, std=STD).model(x()), model(x()))
    with pytest.raises(InputError, match=r"which is --mean 0.4914,0.4822,0.4465 --std 0.2471,0.2435,0.2616: leave other numbers out"):
        load_with_origin(again, **FITS, mean=(0.5, 0.5, 0.5), std=STD)


def test_the_weights_of_a_protected_model_load_as_they_are(tmp_path):
    from robench.models.contract import ContractKeeper

    path = saved(tmp_path / "net.pth", ContractKeeper(network()).state_dict())
    assert torch.equal(load_with_origin(path, **FITS).model(x()), network()(x()))


@pytest.mark.parametrize("inside", ["", "model.", "1."])
def test_mu_and_sigma_beside_the_weights_are_hinted_at_and_then_load(tmp_path, inside):
    path = saved(tmp_path / "net.pth", tensors() | state(prefix=inside))
    with pytest.raises(InputError, match=r"its mu and sigma look like a normalisation: pass --mean 0.4914,0.4822,0.4465 --std 0.2471,0.2"):
        load_with_origin(path, **FITS)
    loaded = load_with_origin(path, **FITS, mean=MEAN, std=STD)
    torch.testing.assert_close(
        loaded.model(x()), load_with_origin(saved(tmp_path / "bare.pth", state()), **FITS, mean=MEAN, std=STD).model(x())
    )
    with pytest.raises(InputError, match=r"normalisation of its own .mu, sigma., which is --mean 0.4914"):
        load_with_origin(path, **FITS, mean=(0, 0, 0), std=(1, 1, 1))


def test_names_that_start_with_a_number_are_hinted_at_and_then_load(tmp_path):
    path = saved(tmp_path / "net.pth", {"module.1." + key: value for key, value in network(arch="resnet8").state_dict().items()})
    fits = FITS | {"arch": "resnet8"}
    with pytest.raises(InputError, match=r"its names start with a number, as a network's behind a normalisation do: pass --mean and --std"):
        load_with_origin(path, **fits)
    assert torch.equal(load_with_origin(path, **fits, mean=(0, 0, 0), std=(1, 1, 1)).model(x()), network(arch="resnet8")(x()))


def test_a_network_that_has_these_names_itself_keeps_them(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.register_buffer('mean', torch.zeros(3, 1, 1))\n        self.register_buffer('std', torch.ones(3, 1, 1))\n"
        "        self.last = nn.Linear(192, 3)\n    def forward(self, x):\n        x = (x - self.mean) / self.std\n"
        "        return self.last(x.flatten(1))\n"
    )
    own = {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)}
    own |= {"last.weight": torch.ones(3, 192), "last.bias": torch.zeros(3)}
    model = load_with_origin(saved(tmp_path / "net.pth", own), arch=f"{file}:Net", classes=3, shape=SHAPE).model
    torch.testing.assert_close(model(x())[:, 0], ((x() - 0.5) / 0.25).flatten(1).sum(1), rtol=1e-4, atol=1e-3)


def test_the_architecture_that_fits_is_named(tmp_path):
    path = saved(tmp_path / "net.pth", network(arch="resnet20").state_dict())
    with pytest.raises(InputError, match=r"does not fit resnet18.*; the names and shapes are those of --arch resnet20$"):
        load_with_origin(path, **FITS | {"arch": "resnet18"})


def test_an_activation_that_contradicts_a_checkpoint_is_refused_also_where_it_is_the_default(tmp_path):
    from robench.models import checkpoint

    about = {"arch": "mlp", "classes": 3, "shape": list(SHAPE), "activation": "gelu", "mean": None, "std": None}
    checkpoint.save_checkpoint(tmp_path / "net.pt", build_network("mlp", classes=3, shape=SHAPE, activation="gelu"), {"model": about})
    load_with_origin(tmp_path / "net.pt", activation="gelu")
    with pytest.raises(InputError, match="trained with the activation 'gelu', not 'relu': leave --activation out"):
        load_with_origin(tmp_path / "net.pt", activation="relu")
