"""Grad-CAM and guided Grad-CAM: by hand, against Captum, and which layer a name means."""

import pytest
import torch
import torchvision
from captum.attr import GuidedGradCam, LayerAttribution, LayerGradCam
from maps import draws, hooks_of
from torch import nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer, VisionTransformer

from robench.core.errors import InputError
from robench.explainers.grad_cam import chosen_layer, grad_cam, guided_grad_cam, layer_module
from robench.explainers.rebuilt_models import explainable_model
from robench.models import build_network


def network(act="relu", name="resnet8"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (
            build_network(name, classes=4, shape=(3, 16, 16), activation=act, mean=[0.5] * 3, std=[0.25] * 3).eval().requires_grad_(False)
        )


def images(n=5, seed=1):
    return torch.rand((n, 3, 16, 16), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("interpolate", ["bilinear", "nearest"])
def test_grad_cam_of_one_convolution_is_what_one_computes_by_hand(interpolate):
    convolution, last = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 2, bias=False)
    convolution.weight.data, last.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1), torch.tensor([[3.0, 1.0], [-1.0, -2.0]])
    model = nn.Sequential(nn.AvgPool2d(2), convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval().requires_grad_(False)
    x = torch.rand((2, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    small = F.avg_pool2d(x, 2)
    # logits[k] = (w[k, 0] - w[k, 1]) * mean(small); each of the four places has a quarter of the weight
    expected = F.interpolate(torch.stack(((3 - 1) / 4 * small[0], (-1 + 2) / 4 * small[1])), (4, 4), mode=interpolate)
    torch.testing.assert_close(grad_cam(model, x, torch.tensor([0, 1]), draws(2), interpolate=interpolate), expected)
    last.weight.data = -last.weight
    assert grad_cam(model, x, torch.tensor([0, 1]), draws(2), interpolate=interpolate).abs().max() == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("n", [1, 5, 20])
def test_maps_are_those_of_captum(n):
    model, x, target = network(), images(n), torch.arange(n) % 4
    layer = model.network.layer2
    small = LayerGradCam(model, layer).attribute(x.clone(), target=target, relu_attributions=True)
    expected = LayerAttribution.interpolate(small, (16, 16), "bilinear")
    own = grad_cam(model, x, target, draws(n), layer="layer2")
    assert own.shape == (n, 1, 16, 16)
    torch.testing.assert_close(own, expected, atol=1e-6, rtol=1e-4)
    expected = GuidedGradCam(model, layer).attribute(x.clone(), target=target, interpolate_mode="bilinear")
    torch.testing.assert_close(guided_grad_cam(model, x, target, draws(n), layer="layer2"), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", [grad_cam, guided_grad_cam])
def test_an_image_has_the_same_map_alone_and_in_any_batch(method):
    model, x, target = network(), images(24), torch.arange(24) % 4
    whole = method(model, x, target, draws(24))
    for part in torch.arange(24).flip(0).split(7):
        torch.testing.assert_close(method(model, x[part], target[part], draws(len(part))), whole[part], atol=1e-6, rtol=1e-4)


class Backwards(nn.Module):
    """Its convolutions run in another order than they are written down in."""

    def __init__(self):
        super().__init__()
        self.late, self.early, self.unused = nn.Conv2d(4, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.relu(self.late(self.early(x))).mean((2, 3)))


def test_the_last_convolution_is_the_last_of_the_forward_pass():
    model = Backwards().eval().requires_grad_(False)
    assert layer_module(model, images(), "") is model.late
    # the layer's own output is looked at, although what follows works in place
    twin = nn.Sequential(model.early, model.late, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head)
    target = torch.arange(5) % 4
    torch.testing.assert_close(grad_cam(model, images(), target, draws(5)), grad_cam(twin, images(), target, draws(5), layer="1"))


def test_a_layer_is_named_in_full_by_its_end_or_by_its_number():
    model = network()
    for name in ("network.layer3", "layer3"):
        assert layer_module(model, images(), name) is model.network.layer3
    assert layer_module(model, images(1), "") is model.network.layer3[0].conv2
    plain = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.Flatten(), nn.Linear(768, 4))
    assert layer_module(plain, images(), 0) is plain[0]
    assert layer_module(plain, images(), 2) is plain[2]
    assert layer_module(plain, images(), 2.0) is plain[2][0]
    assert layer_module(plain, images(), "2.1") is plain[2][1]
    deep = nn.Sequential(nn.Identity(), nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(11))), nn.Flatten(), nn.Linear(768, 4))
    assert layer_module(deep, images(), "1.10") is deep[1][10]
    with pytest.raises(InputError, match="write more of its name"):
        layer_module(deep, images(), 1.1)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ("layr3", "did you mean 'layer3'"),
        ("conv1", "may be 'network.conv1' or 'network.layer1.0.conv1'"),
        ("linear", "is not: name a convolution"),
        ("qqqqqqqqqqqqqqqq", "unknown layer"),
    ],
)
@pytest.mark.parametrize("method", [grad_cam, guided_grad_cam])
def test_a_wrong_layer_gets_a_sentence(method, layer, sentence):
    with pytest.raises(InputError, match=sentence):
        method(network(), images(), torch.zeros(5, dtype=torch.long), draws(5), layer=layer)


def test_models_without_a_fitting_layer_get_a_sentence():
    dense = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    with pytest.raises(InputError, match="no convolution"):
        grad_cam(dense, images(), torch.zeros(5, dtype=torch.long), draws(5))
    shared = nn.Conv2d(3, 3, 1)
    twice = nn.Sequential(shared, shared, nn.Flatten(), nn.Linear(768, 4))
    with pytest.raises(InputError, match="called 2 times"):
        grad_cam(twice, images(), torch.zeros(5, dtype=torch.long), draws(5))
    with pytest.raises(InputError, match="called 0 times"):
        grad_cam(Backwards(), images(), torch.zeros(5, dtype=torch.long), draws(5), layer="unused")
    with pytest.raises(InputError, match="interpolation"):
        grad_cam(network(), images(), torch.zeros(5, dtype=torch.long), draws(5), interpolate="cubic")


class Cut(nn.Module):
    """Two heads, of which the logits use the one that hangs on no layer, or none of the gradients at all."""

    def __init__(self, detach):
        super().__init__()
        self.conv, self.relu, self.head, self.detach = nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Linear(3, 4), detach

    def forward(self, x):
        h = self.relu(self.conv(x))
        return self.head(h.detach().mean((2, 3)) if self.detach else x.mean((2, 3)) + 0 * h.detach().mean())


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("method", [grad_cam, guided_grad_cam])
def test_a_layer_without_influence_has_zero_maps(method, detach):
    model = Cut(detach).eval().requires_grad_(False)
    assert method(model, images(), torch.zeros(5, dtype=torch.long), draws(5)).abs().max() == 0


@pytest.mark.parametrize("method", [grad_cam, guided_grad_cam])
def test_nothing_is_left_on_the_model_or_the_images(method):
    model, x, target, state = network(), images(), torch.arange(5) % 4, torch.get_rng_state()
    before, keys = x.clone(), [sorted(module.__dict__) for module in model.modules()]
    maps = method(model, x, target, draws(5))
    assert not maps.requires_grad
    assert maps.dtype == x.dtype
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert [sorted(module.__dict__) for module in model.modules()] == keys
    for module in model.modules():
        assert hooks_of(module) == 0
    assert torch.equal(torch.get_rng_state(), state)


class Functional(nn.Module):
    """A stage whose activations are functions."""

    def __init__(self):
        super().__init__()
        self.stage, self.other, self.head = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1)), nn.Conv2d(6, 4, 3), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(F.relu(self.other(F.relu(self.stage(x)))).mean((2, 3)))


def test_a_rebuilt_model_keeps_the_names_of_its_layers():
    model = Functional().eval().requires_grad_(False)
    twin = nn.Sequential(model.stage, nn.ReLU(), model.other, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head)
    x, target = images(), torch.arange(5) % 4
    fit, notes = explainable_model("guided-grad-cam", model, x)
    assert len(notes) == 1
    for layer, same in (("", ""), ("stage", "0"), ("other", "2")):
        torch.testing.assert_close(
            guided_grad_cam(fit, x, target, draws(5), layer=layer), guided_grad_cam(twin, x, target, draws(5), layer=same)
        )
    assert float((guided_grad_cam(model, x, target, draws(5)) - guided_grad_cam(twin, x, target, draws(5))).abs().max()) > 0


class Mixer(nn.Module):
    """Patches, then linear maps over the tokens: no attention."""

    def __init__(self):
        super().__init__()
        self.patches, self.tokens, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(16, 16), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.tokens(self.patches(x).flatten(2)).mean(2))


def transformers():
    """Small networks of tokens, with the name of their last convolution."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = VisionTransformer(image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=4)
        swin = SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], num_classes=4)
        return [(vit, "conv_proj", "layers of tokens"), (swin, "features.0.0", "attention"), (Mixer(), "patches", "layers of tokens")]


@pytest.mark.parametrize("method", [grad_cam, guided_grad_cam])
@pytest.mark.parametrize("place", range(3))
def test_the_patch_embedding_of_a_model_of_tokens_is_not_explained_unasked(method, place):
    model, last, what = transformers()[place]
    model.eval().requires_grad_(False)
    with pytest.raises(InputError, match=f"last convolution, '{last}', and in this model it is followed by {what}"):
        method(model, images(), torch.zeros(5, dtype=torch.long), draws(5))
    assert hooks_of(model.get_submodule(last)) == 0
    assert chosen_layer(model, images(), last)[0] == last  # the user's own choice


def test_an_output_with_its_channels_last_is_no_layer_for_grad_cam():
    swin = transformers()[1][0].eval()
    with pytest.raises(InputError, match="has its channels last"):
        chosen_layer(swin, images(), "features.3")
    assert chosen_layer(swin, images(), "permute")[0] == "permute"  # where the channels come first again


def test_convolutions_with_a_head_of_any_kind_are_still_found():
    for name in ("convnext_tiny", "mobilenet_v3_small", "resnet18"):
        with torch.random.fork_rng(devices=[]):
            model = getattr(torchvision.models, name)(num_classes=4).eval().requires_grad_(False)
        found, module = chosen_layer(model, torch.rand(2, 3, 64, 64), "")
        assert module is [part for part in model.modules() if isinstance(part, nn.Conv2d)][-1]
        assert model.get_submodule(found) is module
