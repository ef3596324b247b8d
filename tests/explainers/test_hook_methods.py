"""DeepLift and guided backpropagation: closed forms, an implementation of our own, Captum itself, and nothing left behind."""

import random
import warnings

import numpy as np
import pytest
import torch
from captum.attr import DeepLift, GuidedBackprop
from maps import draws, hooks_of
from torch import nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.model_calls import freeze_model
from robench.explainers.hooks import deeplift, deeplift_attributions, guided_backprop
from robench.explainers.rebuilt_models import explainable_model

METHODS = [deeplift, guided_backprop]


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval().requires_grad_(False)


def images(n=5, shape=(2, 8, 8), seed=1):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def relu_net():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip


def smooth_net():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Softplus(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Conv2d(4, 4, 1), nn.ELU(),
        nn.Conv2d(4, 4, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(36, 6), nn.Sigmoid(), nn.Linear(6, 3),
    )  # fmt: skip


class Rescale(torch.autograd.Function):
    """The rescale rule of ReLU for images stacked over their baselines, written from the paper's formula."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad):
        image, start = ctx.saved_tensors[0].chunk(2)
        step = image - start
        slope = torch.where(step == 0, (image > 0).to(grad), (image.clamp(min=0) - start.clamp(min=0)) / step)
        return grad * torch.cat((slope, slope))


class Pool(torch.autograd.Function):
    """2x2 pooling: what the maximum rises goes to the image's largest pixel, what it falls to the baseline's."""

    @staticmethod
    def forward(ctx, x):
        windows = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
        ctx.save_for_backward(windows)
        return windows.amax(-1)

    @staticmethod
    def backward(ctx, grad):
        image, start = ctx.saved_tensors[0].chunk(2)
        rise = image.amax(-1) - start.amax(-1)
        spot = torch.where(rise > 0, image.argmax(-1), start.argmax(-1))
        step = (image - start).gather(-1, spot[..., None])[..., 0]
        share = torch.where(step == 0, torch.zeros_like(step), rise / step) * grad.chunk(2)[0]
        slopes = F.one_hot(spot, 4) * share[..., None]
        slopes = slopes.unflatten(-1, (2, 2)).permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
        return torch.cat((slopes, slopes))


def test_deeplift_of_a_linear_model_is_the_step_from_the_baseline_times_the_weights(problem):
    p = problem("linear", n=6, classes=4)
    with freeze_model(p.model):
        maps = deeplift(p.model, p.x, p.y, p.draws(), baseline=0.25)
    torch.testing.assert_close(maps, (p.x - 0.25) * p.model.w.detach()[p.y])


@pytest.mark.parametrize("baseline", [0.0, "grey", 1.0])
@pytest.mark.parametrize("make", [relu_net, smooth_net])
def test_deeplift_sums_up_to_the_rise_of_the_logit(make, baseline):
    model, x, target = seeded(make), images(20), torch.arange(20) % 3
    value = 0.5 if baseline == "grey" else baseline
    maps = deeplift(model, x, target, draws(20), baseline=baseline)
    rise = (model(x) - model(torch.full_like(x, value))).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(maps.flatten(1).sum(1), rise, atol=1e-4 * float(rise.abs().max()), rtol=1e-4)


def test_deeplift_agrees_with_the_rules_written_out():
    c1, c2, last = (seeded(make) for make in (lambda: nn.Conv2d(1, 4, 3, padding=1), lambda: nn.Conv2d(4, 4, 3), lambda: nn.Linear(4, 3)))
    net = nn.Sequential(c1, nn.ReLU(), nn.MaxPool2d(2), c2, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), last)
    x, start, target = images(6, (1, 8, 8)), images(6, (1, 8, 8), seed=2), torch.arange(6) % 3
    leaf = x.clone().requires_grad_()
    logits = last(Pool.apply(Rescale.apply(c2(Pool.apply(Rescale.apply(c1(torch.cat((leaf, start)))))))).flatten(1))
    (grad,) = torch.autograd.grad(logits[:6].gather(1, target[:, None]).sum(), leaf)
    fit, notes = explainable_model("deeplift", net, x)
    assert "follows another nonlinearity directly" in notes[0]
    torch.testing.assert_close(deeplift_attributions(fit, x, target, start), grad * (x - start), atol=1e-6, rtol=1e-4)
    # what would come out of Captum without the care: another map
    assert float((deeplift_attributions(net, x, target, start) - grad * (x - start)).abs().max()) > 0.1 * float(
        (grad * (x - start)).abs().max()
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("n", [1, 5, 20])
@pytest.mark.parametrize("make", [relu_net, smooth_net])
def test_maps_are_those_of_captum(make, n):
    model, x, target = seeded(make), images(n), torch.arange(n) % 3
    own = deeplift(model, x, target, draws(n), baseline=0.5)
    torch.testing.assert_close(own, DeepLift(model).attribute(x.clone(), torch.full_like(x, 0.5), target=target), atol=1e-6, rtol=1e-4)
    own = guided_backprop(model, x, target, draws(n))
    torch.testing.assert_close(own, GuidedBackprop(model).attribute(x.clone(), target=target), atol=1e-6, rtol=1e-4)


def test_guided_backprop_cuts_negative_gradients_and_inactive_units():
    first, last = nn.Linear(2, 3), nn.Linear(3, 2)
    first.weight.data, first.bias.data = torch.tensor([[2.0, -1.0], [1.0, 3.0], [5.0, 5.0]]), torch.tensor([0.0, 0.0, -100.0])
    last.weight.data, last.bias.data = torch.tensor([[4.0, -2.0, 1.0], [-1.0, 0.5, 1.0]]), torch.zeros(2)
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last).eval().requires_grad_(False)
    x = torch.tensor([[0.75, 0.5], [0.75, 0.5]]).view(2, 1, 1, 2)  # units 1, 2 and not 3 are active
    maps = guided_backprop(model, x, torch.tensor([0, 1]), draws(2)).view(2, 2)
    # class 0: only unit 1 passes, 4 * (2, -1); class 1: only unit 2, 0.5 * (1, 3)
    assert maps.tolist() == [[8.0, -4.0], [0.5, 1.5]]


@pytest.mark.parametrize("method", METHODS)
def test_an_image_has_the_same_map_alone_and_in_any_batch(method):
    model, x, target = seeded(relu_net), images(40), torch.arange(40) % 3
    whole = method(model, x, target, draws(40))
    for part in torch.arange(40).flip(0).split(7):
        torch.testing.assert_close(method(model, x[part], target[part], draws(len(part))), whole[part], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_on_the_model_or_the_images(method):
    model, x, target = seeded(relu_net), images(), torch.arange(5) % 3
    before, keys = x.clone(), [sorted(module.__dict__) for module in model.modules()]
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = method(model, x, target, draws(5))
    assert maps.shape == x.shape
    assert maps.dtype == x.dtype
    assert not maps.requires_grad
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert x.grad is None
    assert [sorted(module.__dict__) for module in model.modules()] == keys
    for module in model.modules():
        assert hooks_of(module) == 0
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]


class Shut(nn.Module):
    """A model that gives no gradient to its input, or has a branch that leads nowhere."""

    def __init__(self, all_of_it):
        super().__init__()
        self.net, self.side, self.all_of_it = relu_net(), nn.ReLU(), all_of_it

    def forward(self, x):
        self.side(x)  # no gradient comes back here
        return self.net(x.detach() if self.all_of_it else x)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_gradients_has_zero_maps_and_is_left_clean(method):
    x, target = images(), torch.arange(5) % 3
    shut, aside = seeded(lambda: Shut(True)), seeded(lambda: Shut(False))
    assert method(shut, x, target, draws(5)).abs().max() == 0
    assert method(aside, x, target, draws(5)).abs().max() > 0
    for model in (shut, aside):
        for module in model.modules():
            assert not {"input", "output", "input_ref"} & set(module.__dict__)
            assert hooks_of(module) == 0


def test_another_error_of_the_model_is_not_hidden():
    with pytest.raises(RuntimeError, match="shape"):
        deeplift(seeded(relu_net), images(shape=(2, 9, 5)), torch.zeros(5, dtype=torch.long), draws(5))


def test_a_wrong_baseline_gets_a_sentence():
    with pytest.raises(InputError, match="baseline"):
        deeplift(seeded(relu_net), images(), torch.zeros(5, dtype=torch.long), draws(5), baseline=2.0)
