"""Explainers by gradients: closed forms, Captum itself under the same random numbers, and nothing left behind."""

import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import GradientShap, InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from recording import Watched
from torch import nn

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.model_calls import FULL_ROWS, freeze_model
from robench.explainers.gradients import (
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    saliency,
    smoothgrad,
    smoothgrad_sq,
    vargrad,
)  # fmt: skip
from robench.models.layers import Normalize

NOISED = {"smoothgrad": smoothgrad, "smoothgrad_sq": smoothgrad_sq, "vargrad": vargrad}
METHODS = {
    "saliency": saliency,
    "input-x-gradient": input_x_gradient,
    "integrated-gradients": partial(integrated_gradients, steps=7),
    "integrated-gradients, number": partial(integrated_gradients, steps=2, baseline=0.4),
    "smoothgrad": partial(smoothgrad, samples=5),
    "smoothgrad-sq": partial(smoothgrad_sq, samples=5),
    "vargrad": partial(vargrad, samples=5),
    "gradient-shap": partial(gradient_shap, samples=5),
    "gradient-shap, noise": partial(gradient_shap, samples=4, stdev=0.1, baseline="uniform"),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


class Squares(nn.Module):
    """Two classes, z_0 = sum w x^2 and z_1 = -z_0: the gradient is 2 w x."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        total = (self.w * x * x).flatten(1).sum(1)
        return torch.stack((total, -total), 1)


class Cut(nn.Module):
    """Logits that carry no gradient to the pixels, cut in one of several ways."""

    def __init__(self, how):
        super().__init__()
        self.how, self.weight = how, nn.Parameter(torch.ones(3))

    def forward(self, x):
        sums = x.flatten(1).sum(1, keepdim=True)
        if self.how == "no_grad":
            with torch.no_grad():
                return sums * self.weight
        return {"detach": sums.detach().expand(-1, 3), "weights only": sums.detach() * self.weight, "round": sums.round().expand(-1, 3)}[
            self.how
        ]


def squares(n=6, shape=(2, 4, 5)):
    g = torch.Generator().manual_seed(3)
    return Squares(torch.randn(shape, generator=g)), torch.rand((n, *shape), generator=g), torch.zeros(n, dtype=torch.long)


def by_image(numbers):
    """(samples, B, ...) as Captum lays its noised copies out: all of the first image, then all of the second."""
    return numbers.transpose(0, 1).flatten(0, 1)


def noise_of(draws, shape, samples):
    return torch.stack([draws.child("noise").normal(shape, i) for i in range(samples)])


def patched_noise(monkeypatch, noise):
    monkeypatch.setattr(torch, "normal", lambda mean, stdev: mean + stdev * by_image(noise).to(stdev))


# Captum itself


@pytest.mark.parametrize("n", [1, 5, 20])
def test_saliency_and_image_times_gradient_are_captums(problem, n):
    p = problem("convolutional", n=n)
    torch.testing.assert_close(
        saliency(p.model, p.x, p.y, p.draws()), Saliency(p.model).attribute(p.x.clone().requires_grad_(), target=p.y, abs=False)
    )
    theirs = InputXGradient(p.model).attribute(p.x.clone().requires_grad_(), target=p.y).detach()
    torch.testing.assert_close(input_x_gradient(p.model, p.x, p.y, p.draws()), theirs)


@pytest.mark.parametrize(("n", "steps"), [(1, 50), (3, 50), (20, 7), (70, 3), (5, 1)])
@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_integrated_gradients_are_captums_in_one_batch(problem, n, steps, baseline):
    p = problem("convolutional", n=n)
    maps = integrated_gradients(p.model, p.x, p.y, p.draws(), steps=steps, baseline=baseline)
    theirs = IntegratedGradients(p.model).attribute(p.x, baselines=baseline, target=p.y, n_steps=steps)
    torch.testing.assert_close(maps, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", NOISED)
@pytest.mark.parametrize(("n", "samples"), [(1, 70), (3, 25), (40, 4)])
def test_smoothed_gradients_are_those_of_captums_noise_tunnel_under_the_same_noise(problem, monkeypatch, kind, n, samples):
    p = problem("convolutional", n=n)
    maps = NOISED[kind](p.model, p.x, p.y, p.draws(), samples=samples, stdev=0.2)
    patched_noise(monkeypatch, noise_of(p.draws(), (3, 8, 8), samples))
    tunnel = NoiseTunnel(Saliency(p.model))
    theirs = tunnel.attribute(p.x, nt_type=kind, nt_samples=samples, stdevs=0.2, target=p.y, abs=False)
    torch.testing.assert_close(maps, theirs, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize(("n", "samples"), [(1, 70), (3, 25), (40, 4)])
@pytest.mark.parametrize("baseline", ["uniform", "grey"])
def test_gradient_shap_is_captums_under_the_same_noise_points_and_baselines(problem, monkeypatch, n, samples, baseline):
    p = problem("convolutional", n=n)
    maps = gradient_shap(p.model, p.x, p.y, p.draws(), samples=samples, stdev=0.1, baseline=baseline)
    patched_noise(monkeypatch, noise_of(p.draws(), (3, 8, 8), samples))
    draw = {name: p.draws().child(name) for name in ("coefficient", "baseline")}
    share = by_image(torch.stack([draw["coefficient"].uniform((1, 1, 1), i) for i in range(samples)])).flatten()
    start = by_image(torch.stack([draw["baseline"].uniform((3, 8, 8), i) for i in range(samples)]))
    start = start if baseline == "uniform" else torch.full_like(start, 0.5)
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: low + (high - low) * share.double().numpy())
    monkeypatch.setattr(np.random, "choice", lambda count, size: np.arange(size))
    theirs = GradientShap(p.model).attribute(p.x, start, n_samples=samples, stdevs=0.1, target=p.y)
    torch.testing.assert_close(maps, theirs.detach(), rtol=1e-3, atol=1e-6)


# Closed forms


def test_on_a_linear_model_every_gradient_is_the_weight(problem):
    p = problem("linear")
    w = p.model.w.detach()[p.y]
    torch.testing.assert_close(saliency(p.model, p.x, p.y, p.draws()), w)
    torch.testing.assert_close(input_x_gradient(p.model, p.x, p.y, p.draws()), p.x * w)
    torch.testing.assert_close(smoothgrad(p.model, p.x, p.y, p.draws()), w)
    torch.testing.assert_close(smoothgrad_sq(p.model, p.x, p.y, p.draws()), w * w)
    assert torch.equal(vargrad(p.model, p.x, p.y, p.draws()), torch.zeros_like(w))


@pytest.mark.parametrize(("baseline", "value"), [(0.0, 0.0), ("grey", 0.5), ("white", 1.0), (0.3, 0.3)])
def test_on_a_linear_model_attributions_are_the_step_from_the_baseline_times_the_weight(problem, baseline, value):
    p = problem("linear")
    expected = (p.x - value) * p.model.w.detach()[p.y]
    for method in (partial(integrated_gradients, steps=3), integrated_gradients, gradient_shap):
        torch.testing.assert_close(method(p.model, p.x, p.y, p.draws(), baseline=baseline), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [integrated_gradients, gradient_shap])
def test_attributions_may_start_at_the_mean_that_the_model_takes_off(problem, method):
    p = problem("linear")
    model = nn.Sequential(Normalize([0.2, 0.4, 0.6], [1.0, 0.5, 0.25]), p.model)
    w = p.model.w.detach()[p.y] / model[0].std
    maps = method(model, p.x, p.y, p.draws(), baseline="mean")
    torch.testing.assert_close(maps, (p.x - model[0].mean) * w, rtol=1e-4, atol=1e-5)


def test_on_a_linear_model_gradient_shap_takes_the_mean_of_its_uniform_baselines_and_noised_images(problem):
    p, samples = problem("linear"), 6
    start = torch.stack([p.draws().child("baseline").uniform((3, 6, 6), i) for i in range(samples)]).mean(0)
    ends = p.x + 0.3 * noise_of(p.draws(), (3, 6, 6), samples).mean(0)
    maps = gradient_shap(p.model, p.x, p.y, p.draws(), samples=samples, stdev=0.3, baseline="uniform")
    torch.testing.assert_close(maps, (ends - start) * p.model.w.detach()[p.y], rtol=1e-4, atol=1e-5)


def test_on_a_quadratic_model_noise_moves_the_mean_and_its_variance_is_that_of_the_gradient():
    model, x, y = squares()
    draws, w = Draws(0, torch.arange(len(x))), model.w.detach()
    grads = 2 * w * (x + 0.25 * noise_of(draws, tuple(x.shape[1:]), 9))
    given = {"samples": 9, "stdev": 0.25}
    torch.testing.assert_close(smoothgrad(model, x, y, draws, **given), grads.mean(0))
    torch.testing.assert_close(smoothgrad_sq(model, x, y, draws, **given), grads.square().mean(0))
    torch.testing.assert_close(vargrad(model, x, y, draws, **given), grads.var(0, correction=0))


def test_on_a_quadratic_model_integrated_gradients_are_the_rise_of_each_term():
    model, x, y = squares()
    maps = integrated_gradients(model, x, y, Draws(0, torch.arange(len(x))), steps=2, baseline=0.5)
    torch.testing.assert_close(maps, model.w.detach() * (x * x - 0.25))


def test_the_other_class_has_the_other_sign():
    model, x, y = squares()
    draws = Draws(0, torch.arange(len(x)))
    for method in (saliency, input_x_gradient, integrated_gradients, smoothgrad, gradient_shap):
        torch.testing.assert_close(method(model, x, 1 - y, draws), -method(model, x, y, draws))


def test_each_image_has_its_own_target_also_where_copies_are_packed(problem):
    p = problem("linear", n=5)
    target = torch.tensor([4, 0, 3, 1, 2])
    torch.testing.assert_close(smoothgrad(p.model, p.x, target, p.draws(), samples=30), p.model.w.detach()[target])
    torch.testing.assert_close(integrated_gradients(p.model, p.x, target, p.draws()), p.x * p.model.w.detach()[target])


@pytest.mark.parametrize("baseline", [0.0, "grey"])
def test_integrated_gradients_add_up_to_the_rise_of_the_logit_and_gradient_shap_does_on_average(problem, baseline):
    p = problem("dense", n=4)
    with torch.no_grad():
        rise = (p.model(p.x) - p.model(torch.full_like(p.x, 0.5 if baseline == "grey" else 0.0))).gather(1, p.y[:, None])[:, 0]
    maps = integrated_gradients(p.model, p.x, p.y, p.draws(), baseline=baseline)
    torch.testing.assert_close(maps.flatten(1).sum(1), rise, rtol=1e-4, atol=1e-5)
    sums = [gradient_shap(p.model, p.x, p.y, p.draws(seed), samples=64, baseline=baseline).flatten(1).sum(1).double() for seed in range(20)]
    error = torch.stack(sums).std(0) / len(sums) ** 0.5
    assert ((torch.stack(sums).mean(0) - rise).abs() < 4 * error).all()


def test_without_noise_smoothgrad_is_the_gradient(problem):
    p = problem("convolutional")
    torch.testing.assert_close(smoothgrad(p.model, p.x, p.y, p.draws(), samples=3, stdev=0), saliency(p.model, p.x, p.y, p.draws()))


def test_a_small_variance_beside_a_large_mean_keeps_its_digits_and_is_never_negative():
    model, x, y = squares()
    draws = Draws(0, torch.arange(len(x)))
    given = {"samples": 25, "stdev": 1e-4}
    exact = vargrad(model.double(), x.double() + 1, y, draws, **given)
    maps = vargrad(model.float(), x + 1, y, draws, **given)
    assert (maps >= 0).all()
    assert float(((maps - exact).abs() / exact).max()) < 0.02


# The same map whatever is around the image


@every_method
@pytest.mark.parametrize("n", [10, 70])
def test_halves_give_the_maps_of_the_whole_to_rounding(problem, method, n):
    p = problem("convolutional", n=n)
    whole, half = method(p.model, p.x, p.y, p.draws()), n // 2
    for part in (slice(None, half), slice(half, None)):
        torch.testing.assert_close(method(p.model, p.x[part], p.y[part], p.draws().take(part)), whole[part], rtol=1e-4, atol=1e-6)


@every_method
def test_the_map_of_an_image_depends_on_its_id_and_not_on_its_place(problem, method):
    p = problem("convolutional", n=6)
    order = torch.tensor([3, 0, 5])
    maps = method(p.model, p.x[order], p.y[order], p.draws().take(order))
    torch.testing.assert_close(maps, method(p.model, p.x, p.y, p.draws())[order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["smoothgrad", "smoothgrad-sq", "vargrad", "gradient-shap"])
def test_random_methods_repeat_themselves_and_change_with_the_seed(problem, name):
    p, method = problem("convolutional"), METHODS[name]
    maps = method(p.model, p.x, p.y, p.draws())
    assert torch.equal(maps, method(p.model, p.x, p.y, p.draws()))
    assert not torch.allclose(maps, method(p.model, p.x, p.y, p.draws(seed=1)), rtol=1e-2)


@every_method
@pytest.mark.parametrize("n", [1, 3, 33, 64, 70])
def test_no_call_has_more_rows_than_the_images_or_64_and_none_is_wasted(problem, method, n):
    p = problem("dense", n=n)
    model = Watched(p.model)
    method(model, p.x, p.y, p.draws())
    asked = {**getattr(method, "keywords", {})}
    passes = asked.get("steps") or asked.get("samples") or 1
    assert max(model.forwards) <= max(n, FULL_ROWS)
    assert len(model.forwards) == -(-passes // max(1, FULL_ROWS // n))
    assert sum(model.forwards) <= n * passes + 16


# Nothing left behind


@every_method
def test_global_random_numbers_the_images_and_the_model_stay_as_they_were(problem, method):
    p = problem("convolutional", n=4)
    x, states = p.x.clone(), (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    before = [dict(module.__dict__) for module in p.model.modules()]
    with freeze_model(p.model):
        method(p.model, p.x, p.y, p.draws())
    assert torch.equal(p.x, x)
    assert not p.x.requires_grad
    assert p.x.grad is None
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert [dict(module.__dict__) for module in p.model.modules()] == before
    assert all(parameter.grad is None for parameter in p.model.parameters())


@every_method
def test_maps_are_detached_and_like_the_images_in_any_gradient_mode(problem, method):
    p = problem("convolutional", n=4)
    maps = method(p.model, p.x, p.y, p.draws())
    with torch.no_grad():
        assert torch.equal(method(p.model, p.x, p.y, p.draws()), maps)
    assert (maps.shape, maps.dtype, maps.requires_grad, maps.grad_fn) == (p.x.shape, p.x.dtype, False, None)
    model, x = p.model.double(), p.x.double()
    double = method(model, x, p.y, p.draws())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), maps, rtol=1e-3, atol=1e-6)


@every_method
def test_the_maps_are_the_callers_own(problem, method):
    p = problem("linear", n=20)
    w, x = p.model.w.detach().clone(), p.x.clone()
    method(p.model, p.x, p.y, p.draws()).fill_(9)
    assert torch.equal(p.model.w, w)
    assert torch.equal(p.x, x)


@every_method
@pytest.mark.parametrize("how", ["detach", "weights only", "no_grad", "round"])
@pytest.mark.parametrize("n", [3, 20])
def test_a_model_that_cuts_the_graph_has_zero_maps(method, how, n):
    x = torch.rand((n, 2, 4, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(method(Cut(how), x, torch.zeros(n, dtype=torch.long), Draws(0, torch.arange(n))), torch.zeros_like(x))


@every_method
def test_a_gradient_that_is_not_finite_shows_in_its_own_map_alone(method):
    class Root(nn.Module):
        def forward(self, x):
            root = (x.flatten(1).sum(1) - 1000 * (x[:, 0, 0, 0] > 50)).sqrt()
            return torch.stack((root, -root), 1)

    x = torch.rand((20, 1, 4, 4), generator=torch.Generator().manual_seed(0)) + 5
    x[7, 0, 0, 0] = 100
    maps = method(Root(), x, torch.zeros(20, dtype=torch.long), Draws(0, torch.arange(20)))
    assert (~maps.isfinite().flatten(1).all(1)).nonzero().flatten().tolist() == [7]


@every_method
def test_no_warning_escapes_and_none_is_silenced(problem, method):
    p = problem("convolutional", n=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        method(p.model, p.x, p.y, p.draws())
        assert warnings.filters == filters


# Wrong options


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        (integrated_gradients, {"steps": 0}, "steps must be a whole number of at least 1"),
        (integrated_gradients, {"steps": 2.5}, "steps must be a whole number"),
        (integrated_gradients, {"baseline": "uniform"}, "unknown baseline 'uniform'"),
        (integrated_gradients, {"baseline": "mean"}, "needs a model that normalises"),
        (smoothgrad, {"samples": 0}, "samples must be a whole number of at least 1"),
        (smoothgrad, {"stdev": -0.1}, "stdev must be a finite number of at least 0"),
        (smoothgrad_sq, {"stdev": "large"}, "stdev must be"),
        (smoothgrad_sq, {"samples": True}, "samples must be"),
        (vargrad, {"samples": 1}, "samples must be a whole number of at least 2"),
        (vargrad, {"stdev": 0}, "stdev must be a finite number above 0"),
        (gradient_shap, {"samples": 0}, "samples must be"),
        (gradient_shap, {"stdev": float("inf")}, "stdev must be"),
        (gradient_shap, {"baseline": "unifrom"}, "choose uniform, black, grey, white, mean or a number"),
        (gradient_shap, {"baseline": 2}, "baseline must be a finite number of at least 0 and at most 1"),
    ],
)
def test_wrong_options_get_a_sentence(problem, method, options, sentence):
    p = problem("dense", n=2)
    with pytest.raises(InputError, match=sentence):
        method(p.model, p.x, p.y, p.draws(), **options)
