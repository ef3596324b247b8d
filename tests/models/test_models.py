"""The architectures: shapes, published sizes, one activation module a use, normalisation, and what is refused."""

from __future__ import annotations

import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robench.core.errors import InputError
from robench.models import ACTIVATIONS, ARCHITECTURES, build_network
from robench.models.small import cnn

MODULES = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "softplus": nn.Softplus}
RESIDUAL = [name for name in ARCHITECTURES if "res" in name or "wrn" in name]
PLAIN = [name for name in ARCHITECTURES if name not in RESIDUAL]
# exact counts; in brackets what the papers and their code print
SIZES = {
    ("mlp", 1, 28): 784 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10,
    ("mlp-wide", 1, 28): 784 * 1024 + 1024 + 2 * (1024 * 1024 + 1024) + 10240 + 10,
    ("two-conv", 1, 28): 166_406,
    ("lenet", 1, 28): 61_706,
    ("smallcnn", 1, 28): 312_202,
    ("resnet8", 3, 32): 75_290,
    ("resnet20", 3, 32): 269_722,  # 0.27M, He et al. 2016, table 6
    ("resnet18", 3, 32): 11_173_962,  # 11.17M
    ("preact-resnet18", 3, 32): 11_172_170,  # 11.17M
    ("wrn-28-10", 3, 32): 36_479_194,  # 36.5M, Zagoruyko & Komodakis 2016, table 4
    ("wrn-34-10", 3, 32): 46_160_474,  # 46.2M
}


def on_meta(name: str, channels: int = 3, side: int = 32, **options) -> nn.Module:
    """The network without memory for its weights: shapes and counts only."""
    with torch.device("meta"):
        return build_network(name, classes=10, shape=(channels, side, side), **options)


def pixels(channels: int = 3, side: int = 32, n: int = 2) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_gives_one_logit_a_class(name):
    with torch.device("meta"):
        model = build_network(name, classes=7, shape=(1, 28, 28))
        assert model(torch.rand(3, 1, 28, 28)).shape == (3, 7)
    assert on_meta(name)(torch.rand(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_networks_take_images_of_any_size_with_the_same_weights(name):
    model = on_meta(name)
    for side in (28, 33, 64, 96, 224):
        assert model(torch.rand(2, 3, side, side, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(("name", "channels", "side"), SIZES)
def test_the_number_of_parameters_is_the_published_one(name, channels, side):
    assert sum(p.numel() for p in on_meta(name, channels, side).parameters()) == SIZES[name, channels, side]


def test_the_small_cnn_is_small():
    assert sum(p.numel() for p in on_meta("cnn").parameters()) < 200_000


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_activation_is_the_one_that_was_asked_for(name, activation):
    kinds = Counter(type(module) for module in on_meta(name, activation=activation).modules())
    assert kinds[MODULES[activation]] == Counter(type(module) for module in on_meta(name).modules())[nn.ReLU] > 1
    assert not any(kinds[other] for other in MODULES.values() if other is not MODULES[activation])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_module_is_used_twice_and_none_is_left_out(name):
    model, calls = on_meta(name, activation="gelu"), Counter()
    leaves = [(path, module) for path, module in model.named_modules() if not list(module.children())]
    for path, module in leaves:
        module.register_forward_hook(lambda *_, path=path: calls.update([path]))
    model(torch.rand(2, 3, 32, 32, device="meta"))
    assert calls == dict.fromkeys((path for path, _ in leaves), 1)


def test_softplus_stays_within_a_hair_of_relu_and_is_smooth():
    t = torch.linspace(-3, 3, 601, dtype=torch.float64)
    gap = ACTIVATIONS["softplus"]()(t) - t.clamp_min(0)
    assert 0 < gap.max() <= torch.log(torch.tensor(2.0)) / 10 + 1e-9
    assert gap.argmax() == 300  # at 0


@pytest.mark.parametrize("name", [*PLAIN, "wrn-28-10"])
def test_dropout_is_added_without_moving_a_name_in_the_state_dict(name):
    plain, dropped = on_meta(name), on_meta(f"{name},dropout=0.3")
    assert list(plain.state_dict()) == list(dropped.state_dict())
    assert not [m for m in plain.modules() if isinstance(m, nn.Dropout)]
    assert {m.p for m in dropped.modules() if isinstance(m, nn.Dropout)} == {0.3}


def test_dropout_acts_in_training_only():
    model, x = build_network("mlp", classes=3, shape=(1, 4, 4), dropout=0.5), pixels(1, 4)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_options_are_read_from_the_name_or_given_as_keywords():
    wide = on_meta("cnn,width=24")
    assert wide.state_dict().keys() == on_meta("cnn", width=24).state_dict().keys()
    assert wide[0].weight.shape == on_meta("cnn", width=24)[0].weight.shape == (24, 3, 3, 3)
    assert sum(isinstance(m, nn.Linear) for m in on_meta("mlp,depth=5,width=7").modules()) == 6


@pytest.mark.parametrize("name", [*PLAIN, "resnet20"])
def test_a_normalised_model_is_the_plain_one_on_normalised_pixels(name):
    torch.manual_seed(0)
    model = build_network(name, classes=10, shape=(3, 32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)).eval()
    x = pixels()
    by_hand = torch.stack([(x[:, 0] - 0.4) / 0.2, (x[:, 1] - 0.5) / 0.3, (x[:, 2] - 0.6) / 0.1], 1)
    torch.testing.assert_close(model(x), model.network(by_hand))
    assert {"normalize.mean", "normalize.std"} < model.state_dict().keys()


def test_one_number_normalises_all_channels():
    torch.manual_seed(0)
    model = build_network("mlp", classes=4, shape=(3, 4, 4), mean=[0.5], std=[0.25])
    torch.testing.assert_close(model(pixels(3, 4)), model.network(pixels(3, 4) * 4 - 2))


@pytest.mark.parametrize("side", [24, 28, 30, 33, 64])
def test_every_pixel_reaches_the_logits_of_the_small_cnn(side):
    torch.manual_seed(0)
    x = pixels(3, side).requires_grad_()
    build_network("cnn", classes=10, shape=(3, side, side), activation="gelu")(x).square().sum().backward()
    assert (x.grad.abs().amax((0, 1)) > 0).all()


@pytest.mark.parametrize("name", [*PLAIN, "resnet8"])
def test_a_penalty_on_the_input_gradient_reaches_the_first_weights(name):
    torch.manual_seed(0)
    model, x = build_network(name, classes=10, shape=(3, 32, 32), activation="silu").eval(), pixels().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    first = next(model.parameters())
    (second,) = torch.autograd.grad(gradient.square().sum(), first)
    assert second.isfinite().all()
    assert second.abs().sum() > 0


def test_he_initialisation_keeps_the_size_of_the_signal():
    torch.manual_seed(0)
    model = build_network("cnn", classes=10, shape=(3, 32, 32), width=64)
    h = torch.randn(64, 3, 32, 32)
    sizes = []
    for conv, act in zip(model[:6:2], model[1:6:2], strict=True):
        h = conv(h)
        sizes.append(h.square().mean().item())
        h = act(h)
    assert all(1.2 < size < 2.8 for size in sizes)  # 2 for standard normal input, short of it by the zeros around the image


def test_the_padded_shortcut_halves_the_image_and_puts_the_new_channels_on_both_sides():
    model = on_meta("resnet20")
    shortcut, x = model.layer2[0].shortcut, pixels(16, 6)
    out = shortcut(x)
    assert out.shape == (2, 32, 3, 3)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("resnet81", {}, "unknown architecture 'resnet81': did you mean"),
        ("cnn", {"activation": "geluu"}, "unknown activation 'geluu': did you mean 'gelu'"),
        ("cnn,breadth=3", {}, "no option 'breadth'"),
        ("resnet20", {"dropout": 0.1}, "no option 'dropout'"),
        ("cnn=3", {}, "an architecture has no weight"),
        ("cnn,width=0", {}, "width must be a whole number of at least 1, not 0"),
        ("cnn,width=true", {}, "width must be a whole number"),
        ("mlp,dropout=1", {}, "dropout must be a number of at least 0 and below 1"),
        ("mlp,dropout=much", {}, "dropout must be a number"),
        ("cnn", {"classes": 0}, "classes must be a whole number"),
        ("cnn", {"shape": (32, 32)}, "channels, height and width"),
        ("cnn", {"shape": (0, 32, 32)}, "channels must be a whole number"),
        ("cnn", {"mean": (0.5, 0.5, 0.5)}, "give mean and std, or neither"),
        ("cnn", {"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "one number for each channel"),
        ("cnn", {"mean": (0.5,) * 3, "std": (0.5, 0.0, 0.5)}, "std above 0"),
        ("cnn", {"mean": (float("nan"),) * 3, "std": (0.5,) * 3}, "finite"),
        ("lenet", {"shape": (1, 8, 28)}, "lenet needs images of at least 12x12 pixels, not 8x28"),
        ("smallcnn", {"shape": (1, 15, 15)}, "at least 16x16"),
        ("two-conv", {"shape": (1, 3, 3)}, "at least 4x4"),
        ("resnet18", {"shape": (3, 4, 4)}, "at least 8x8"),
        ("wrn-28-10", {"shape": (3, 2, 2)}, "at least 4x4"),
        ("tv/resnet18", {"shape": (1, 28, 28)}, "takes images of 3 channels, not 1"),
        ("tv/resnet18", {"activation": "gelu"}, "brings its own activations"),
        ("tv/resnet18,weights=DEFAULT", {}, "random weights or those of a file: leave weights=DEFAULT out"),
        ("timm/resnet18,pretrained=true", {}, "random weights or those of a file: leave pretrained=True out"),
        ("tv/resnet18,colour=red", {}, "tv/resnet18 could not be built"),
        ("tv/fasterrcnn_resnet50_fpn", {}, "unknown torchvision classifier"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(name, options, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        build_network(name, **{"classes": 10, "shape": (3, 32, 32)} | options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mlp", "cnn", "two-conv", "lenet", "smallcnn", "resnet20", "resnet18", "wrn-28-10"])
def test_the_smallest_image_that_is_not_refused_works(name):
    for side in range(1, 17):
        try:
            model = on_meta(name, side=side)
        except InputError:
            continue
        assert model.eval()(torch.rand(2, 3, side, side, device="meta")).shape == (2, 10)
        return
    pytest.fail("16x16 was refused")


def test_torchvision_networks_have_random_weights_and_our_number_of_classes(monkeypatch):
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: pytest.fail("downloads"))
    with torch.device("meta"):
        model = build_network("tv/resnet18", classes=7, shape=(3, 64, 64), mean=[0.5], std=[0.5])
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_timm_is_named_with_its_pip_line_where_it_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="pip install timm"):
        build_network("timm/resnet18", classes=10, shape=(3, 32, 32))


def test_timm_is_never_asked_for_pretrained_weights(monkeypatch):
    asked = []

    def create_model(name, **options):
        asked.append((name, options))
        return nn.Flatten()

    fake = SimpleNamespace(is_model=lambda name: name == "net", list_models=lambda: ["net"], create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", fake)
    build_network("timm/net,img_size=32", classes=10, shape=(1, 32, 32))
    assert asked == [("net", {"pretrained": False, "num_classes": 10, "in_chans": 1, "img_size": 32})]
    for name in ("timm/nett", "timm/hf-hub:owner/net", "timm/net,pretrained=true", "timm/net,checkpoint_path=x"):
        with pytest.raises(InputError):
            build_network(name, classes=10, shape=(1, 32, 32))
    assert len(asked) == 1


def test_a_users_factory_is_given_classes_and_shape_where_it_asks_for_them(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def asks(classes, shape, bias=True):\n    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes, bias))\n"
        "def silent():\n    return nn.Identity()\n"
    )
    model = build_network(f"{tmp_path}/mine.py:asks,bias=false", classes=3, shape=(1, 2, 5))
    assert model[1].weight.shape == (3, 10)
    assert model[1].bias is None
    assert isinstance(build_network(f"{tmp_path}/mine.py:silent", classes=3, shape=(1, 2, 5)), nn.Identity)
    with pytest.raises(InputError, match="brings its own activations"):
        build_network(f"{tmp_path}/mine.py:silent", classes=3, shape=(1, 2, 5), activation="gelu")


def test_a_name_settles_its_sizes_and_leaves_the_other_options_open():
    assert isinstance(ARCHITECTURES["mlp-wide"], partial)
    assert on_meta("mlp,width=16")[1].weight.shape == (16, 3 * 32 * 32)
    assert any(isinstance(module, nn.Dropout) for module in on_meta("mlp-wide,dropout=0.5").modules())
    with pytest.raises(InputError, match="means width=1024"):
        on_meta("mlp-wide,width=16")
    assert ARCHITECTURES["cnn"] is cnn


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "weights", "factory", "channels", "side"),
    [
        ("two-conv", "mnist_wong2020_fgsm.pth", "wong2020_fgsm", 1, 28),
        ("two-conv", "cifar_cnn_a_mix.pth", "cnn_a_mix", 3, 32),
        ("resnet20", "cifar_resnet20_standard.pth", "resnet20_standard", 3, 32),
    ],
)
def test_our_architectures_are_those_of_independently_trained_networks(zoo, name, weights, factory, channels, side):
    theirs = getattr(zoo, factory)()
    state = torch.load(Path(os.environ["ROBENCH_MODELS"]) / weights, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in state.get("state_dict", state).items()}
    normalize = theirs[0] if isinstance(theirs[0], zoo.Normalize) else None
    scale = {} if normalize is None else {"mean": normalize.mean.flatten().tolist(), "std": normalize.std.flatten().tolist()}
    ours = build_network(name, classes=10, shape=(channels, side, side), **scale).eval()
    (ours.network if scale else ours).load_state_dict(state)
    torch.testing.assert_close(ours(pixels(channels, side, 8)), theirs(pixels(channels, side, 8)), atol=1e-5, rtol=0)
