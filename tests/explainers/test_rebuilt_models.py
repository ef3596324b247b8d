"""Which models the hooking methods fit, and copies that are equal to an unrolled twin."""

import warnings

import pytest
import torch
from captum.attr import DeepLift, GuidedBackprop
from maps import draws, hooks_of
from torch import nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.model_calls import freeze_model
from robench.explainers.hooks import deeplift, deeplift_attributions, guided_backprop
from robench.explainers.nonlinearities import PoolingWindows
from robench.explainers.rebuilt_models import RebuiltModel, copy_deviation, explainable_model
from robench.models import build_network, load_with_origin

METHODS = {"deeplift": deeplift, "guided-backprop": guided_backprop}


def images(n=4, shape=(3, 8, 8), seed=1):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """A residual block between two convolutions; `first` and `second` say how the activations are called."""

    def __init__(self, first, second, after):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv1, self.conv2, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(64, 5)
        self.first, self.second, self.after = first, second, after

    def forward(self, x):
        h = self.conv1(x)
        h = self.conv2(self.first(h)) + h  # the input of the first activation is used again
        return self.head(self.after(self.second(h)).flatten(1))


class Apart(nn.Module):
    """Its module sees a tensor of its own on either side: a copy goes in, and a copy comes out."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x.clone()).clone()


def twin():
    return Block(Apart(nn.ReLU()), Apart(nn.ReLU()), Apart(nn.MaxPool2d(2))).eval().requires_grad_(False)


def reused():
    relu = nn.ReLU()
    return Block(relu, relu, nn.MaxPool2d(2))


def mixed(relu):
    return lambda: Block(relu, relu, lambda x: F.max_pool2d(x, 2))


FORMS = {
    "one module": reused,
    "two modules on shared tensors": lambda: Block(nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2)),
    "F.relu": mixed(F.relu),
    "torch.relu": mixed(torch.relu),
    "tensor.relu": mixed(lambda x: x.relu()),
    "clamp": mixed(lambda x: x.clamp(min=0)),
    "clamp_min": mixed(lambda x: torch.clamp_min(x, 0.0)),
    "clip": mixed(lambda x: torch.clip(x, 0)),
    "clamp at a tensor": mixed(lambda x: x.clamp(min=torch.zeros(()))),
    "maximum": mixed(lambda x: torch.maximum(x, torch.zeros_like(x))),
    "maximum of 0": mixed(lambda x: torch.maximum(torch.zeros(1), other=x)),
    "max of two": mixed(lambda x: torch.max(x, torch.tensor(0.0))),
    "tensor.maximum": mixed(lambda x: x.maximum(torch.zeros(4, 1, 1))),
    "fmax": mixed(lambda x: torch.fmax(x, torch.zeros(()))),
    "threshold": mixed(lambda x: F.threshold(x, 0.0, 0.0)),
    "torch.threshold": mixed(lambda x: torch.threshold(x, 0, 0)),
    "nn.Threshold": lambda: Block(nn.Threshold(0, 0), nn.Threshold(0, 0), nn.MaxPool2d(2)),
    "aten": mixed(torch.ops.aten.relu),
    "a copy in place": mixed(lambda x: F.relu(x * 1, inplace=True)),
    "a copy with underscore": mixed(lambda x: (x * 1).relu_()),
    "module on a copy in place": lambda: Block(Apart(nn.ReLU(inplace=True)), Apart(nn.ReLU(inplace=True)), nn.MaxPool2d(2)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", FORMS)
def test_a_rebuilt_model_gets_the_maps_of_its_unrolled_twin(form, method):
    model, x, target = FORMS[form]().eval().requires_grad_(False), images(), torch.arange(4)
    fit, notes = explainable_model(method, model, x)
    same, none = explainable_model(method, twin(), x)
    assert none == []
    assert fit is not model
    assert len(notes) == 1
    assert torch.equal(fit(x), model(x))
    torch.testing.assert_close(METHODS[method](fit, x, target, draws(4)), METHODS[method](same, x, target, draws(4)), atol=1e-6, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["one module", "two modules on shared tensors", "F.relu"])
def test_captum_alone_is_wrong_on_such_models(form):
    model, x, target = FORMS[form]().eval().requires_grad_(False), images(), torch.arange(4)
    right = guided_backprop(twin(), x, target, draws(4))
    assert float((GuidedBackprop(model).attribute(x.clone(), target=target) - right).abs().max()) > 0.05 * float(right.abs().max())
    right = deeplift(twin(), x, target, draws(4))
    try:
        wrong = DeepLift(model).attribute(x.clone(), target=target)
    except RuntimeError as error:
        assert "more than once" in str(error)  # noqa: PT017 - Captum notices some of them
    else:
        assert float((wrong - right).abs().max()) > 0.05 * float(right.abs().max())


def test_what_works_in_place_keeps_its_meaning():
    """The shortcut of this block carries the activated tensor, because the activation overwrote it."""

    class Overwrites(Block):
        def forward(self, x):
            h = self.conv1(x)
            self.first(h)
            return self.head(self.after(self.second(self.conv2(h) + h)).flatten(1))

    x, target = images(), torch.arange(4)
    for relu in (nn.ReLU(inplace=True), F.relu_, lambda x: F.relu(x, inplace=True), lambda x: x.clamp_(min=0)):
        model = Overwrites(relu, nn.ReLU(), nn.AvgPool2d(2)).eval().requires_grad_(False)
        unrolled = nn.Sequential(model.conv1, nn.ReLU()), model.conv2, nn.ReLU(), nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), model.head)

        class Unrolled(nn.Module):
            def __init__(self, parts):
                super().__init__()
                self.parts = nn.ModuleList(parts)

            def forward(self, x):
                h = self.parts[0](x)
                return self.parts[3](self.parts[2](self.parts[1](h) + h))

        for method, explain in METHODS.items():
            fit, _ = explainable_model(method, model, x)
            assert torch.equal(fit(x), model(x))
            expected = explain(Unrolled(unrolled).eval(), x, target, draws(4))
            torch.testing.assert_close(explain(fit, x, target, draws(4)), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "settings", [(3, 2, 1), (3, 2, 0), (2, 2, 1), (3, 1, 1), (2, 3, 0), (3, 2, 1, 2), ((3, 2), (2, 1), (1, 0)), (4, 3, 2)]
)
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("size", [(9, 8), (12, 11), (7, 7)])
def test_windows_laid_side_by_side_pool_to_the_same_maxima(settings, ceil, size):
    kernel, stride, padding, dilation = (*settings, 1)[:4]
    x = torch.randn((2, 3, *size), generator=torch.Generator().manual_seed(0)) - 5
    pairs = [(value, value) if isinstance(value, int) else value for value in (kernel, stride, padding, dilation)]
    expected = F.max_pool2d(x, kernel, stride, padding, dilation, ceil)
    assert torch.equal(F.max_pool2d(PoolingWindows(*pairs, ceil)(x), kernel), expected)


def test_deeplift_is_complete_where_the_windows_of_a_pooling_overlap():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))
    model.eval().requires_grad_(False)
    x, start, target = images(), images(seed=2), torch.arange(4)
    fit, notes = explainable_model("deeplift", model, x)
    assert "overlap" in notes[0]
    for subject, holds in ((fit, True), (model, False)):
        total = deeplift_attributions(subject, x, target, start).flatten(1).sum(1)
        rise = (model(x) - model(start)).gather(1, target[:, None])[:, 0]
        assert (float((total - rise).abs().max()) < 1e-4 * float(rise.abs().max())) == holds


@pytest.mark.parametrize("method", ["deeplift", "guided-backprop", "guided-grad-cam"])
def test_the_users_model_is_left_as_it_is(method):
    model, x = FORMS["one module"]().eval(), images()
    state, names = {key: value.clone() for key, value in model.state_dict().items()}, dict(model.named_modules())
    keys, rng, before = [sorted(module.__dict__) for module in model.modules()], torch.get_rng_state(), x.clone()
    with freeze_model(model), warnings.catch_warnings():
        warnings.simplefilter("error")
        fit, _ = explainable_model(method, model, x)
        assert not any(module.training for module in fit.modules())
        assert {id(p) for p in fit.parameters()} == {id(p) for p in model.parameters()}
    assert dict(model.named_modules()) == names
    assert [sorted(module.__dict__) for module in model.modules()] == keys
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(x, before)
    assert not x.requires_grad
    for module in [*model.modules(), *fit.modules()]:
        assert hooks_of(module) == 0


def test_other_methods_and_cut_models_get_the_model_itself():
    model, x = FORMS["F.relu"]().eval().requires_grad_(False), images()
    for method in ("saliency", "grad-cam", "kernel-shap"):
        assert explainable_model(method, model, x) == (model, [])
    cut = nn.Sequential(model)
    cut.forward = lambda x: model(x.detach())
    assert explainable_model("guided-backprop", cut, x) == (cut, [])


@pytest.mark.parametrize("name", ["cnn", "resnet8", "preact-resnet18", "lenet", "smallcnn", "mlp"])
def test_our_own_networks_are_fit_with_relu_and_refused_with_gelu(name):
    shape = (3, 8, 8) if name == "preact-resnet18" else (3, 16, 16)
    x = images(2, shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, smooth = (
            build_network(name, classes=4, shape=shape, activation=act, mean=[0.5] * 3, std=[0.25] * 3).eval().requires_grad_(False)
            for act in ("relu", "gelu")
        )
    assert explainable_model("guided-backprop", model, x) == (model, [])
    fit, notes = explainable_model("deeplift", model, x)
    assert (fit is model) == (name not in ("lenet", "smallcnn"))  # these two pool directly behind a ReLU
    assert len(notes) == (fit is not model)
    assert torch.equal(fit(x), model(x))
    with pytest.raises(InputError, match="no rule for GELU"):
        explainable_model("deeplift", smooth, x)
    with pytest.raises(InputError, match="calls none"):
        explainable_model("guided-backprop", smooth, x)


def test_torchvisions_resnet_is_rebuilt():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load_with_origin("tv/resnet18", classes=10, shape=(3, 32, 32)).model
    x = images(2, (3, 32, 32))
    with freeze_model(model):
        for method in METHODS:
            fit, notes = explainable_model(method, model, x)
            assert "ReLU is called 2 times" in notes[0]
            assert copy_deviation(model, fit, x) < 1e-6
            assert len(fit.call_modules) == 17 + (method == "deeplift")
    assert isinstance(fit, RebuiltModel)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["resnet20_standard", "resnet2b", "resnet4b", "cnn_a_mix", "wong2020_fgsm", "atzmon2019"])
def test_independent_models_are_fit_or_rebuilt(zoo, name):
    model = getattr(zoo, name)()
    x = images(3, (1, 28, 28) if name in ("wong2020_fgsm", "atzmon2019") else (3, 32, 32))
    with freeze_model(model):
        for method in METHODS:
            fit, _ = explainable_model(method, model, x)
            assert (fit is model) == (name in ("cnn_a_mix", "wong2020_fgsm"))
            assert copy_deviation(model, fit, x) < 1e-6


def small(act):
    return nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Flatten(), nn.Linear(144, 5))


@pytest.mark.parametrize(
    "act",
    [nn.GELU(), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.ReLU6(), nn.PReLU(), nn.CELU(), nn.Softmax(1), nn.Threshold(0.1, 0.0)],
    ids=lambda act: type(act).__name__,
)
def test_a_nonlinearity_without_a_rule_is_refused_by_its_name(act):
    model = small(act).eval().requires_grad_(False)
    with pytest.raises(InputError, match=type(act).__name__):
        explainable_model("deeplift", model, images())
    with pytest.raises(InputError, match="calls none"):
        explainable_model("guided-backprop", model, images())


def test_a_nonlinearity_that_has_no_module_of_its_own_is_refused():
    with pytest.raises(InputError, match="elu is called outside"):
        explainable_model("deeplift", small(nn.SELU()).eval(), images())


class Gated(nn.Module):
    """Activations are multiplied with each other."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.gate, self.head = nn.Conv2d(3, 4, 3), Apart(nn.ReLU()), Apart(nn.Sigmoid()), nn.Linear(4, 5)

    def forward(self, x):
        h = self.conv(x)
        return self.head((self.relu(h) * self.gate(h)).mean((2, 3)))


def test_deeplift_is_refused_with_the_number_where_it_is_not_complete():
    model = Gated().eval().requires_grad_(False)
    with pytest.raises(InputError, match=r"misses f\(x\) - f\(baseline\) by \d+\.\d%"):
        explainable_model("deeplift", model, images())
    assert explainable_model("guided-backprop", model, images()) == (model, [])


def test_guided_backprop_says_what_it_leaves_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    fit, notes = explainable_model("guided-backprop", model, images())
    assert fit is model
    assert notes == ["guided-backprop treats the ReLUs alone, and takes the plain gradient of GELU"]


KINKED = {
    "what a comparison chooses": [
        lambda x: torch.where(x > 0, x, 0.0), lambda x: x * (x > 0), lambda x: x * (x >= 0).float(), lambda x: x.masked_fill(x < 0, 0.0)
    ],
    "abs": [lambda x: (x + x.abs()) / 2],
    "maximum": [lambda x: torch.maximum(x, 0.1 * x)],
    "minimum": [lambda x: -torch.minimum(-x, torch.zeros(()))],
    "clamp": [lambda x: x.clamp(0, 6)],
}  # fmt: skip


@pytest.mark.parametrize(("word", "form"), [(word, form) for word, forms in KINKED.items() for form in forms])
def test_a_nonlinearity_written_by_hand_is_no_plain_gradient_without_a_word(word, form):
    block = Block(nn.ReLU(), form, nn.MaxPool2d(2)).eval().requires_grad_(False)
    _, notes = explainable_model("guided-backprop", block, images())
    assert notes[-1] == f"guided-backprop treats the ReLUs alone, and takes the plain gradient of {word}"
    alone = Block(form, form, nn.MaxPool2d(2)).eval().requires_grad_(False)
    with pytest.raises(InputError, match=f"this model calls none that it could treat, but {word}: choose"):
        explainable_model("guided-backprop", alone, images())


class Moody(nn.Module):
    """Calls a ReLU more for bright batches."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        h = F.relu(self.conv(x))
        return self.head((F.relu(h - 0.1) if x.mean() > 0.8 else h).mean((2, 3)))


def test_a_model_that_calls_other_nonlinearities_for_other_batches_gets_a_sentence():
    model = Moody().eval().requires_grad_(False)
    fit, _ = explainable_model("guided-backprop", model, images())
    with pytest.raises(InputError, match="same nonlinearities"):
        fit(torch.ones(2, 3, 8, 8))


def test_stored_programs_are_refused_or_rebuilt():
    model, x = small(nn.ReLU()).eval().requires_grad_(False), images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(model)
    with pytest.raises(InputError, match="TorchScript"):
        explainable_model("guided-backprop", script, x)
    program = torch.export.export(model, (images(16),), dynamic_shapes=({0: torch.export.Dim("rows", min=2, max=64)},)).module()
    fit, notes = explainable_model("deeplift", program, x)
    assert len(notes) == 1
    torch.testing.assert_close(deeplift(fit, x, torch.arange(4), draws(4)), deeplift(model, x, torch.arange(4), draws(4)))


@pytest.mark.parametrize("bounds", [{"min": 0.1}, {"min": 0.0, "max": 1.0}, {"max": 0.0}])
def test_another_clamp_is_no_relu(bounds):
    model, x = FORMS["clamp"]().eval().requires_grad_(False), images()
    model.first = model.second = lambda h: h.clamp(**bounds)
    with pytest.raises(InputError, match="calls none"):
        explainable_model("guided-backprop", model, x)
