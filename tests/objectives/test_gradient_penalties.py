"""Regularisers on the gradients of the loss and of logits, against their definitions written out and against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from batches import AllSigns, Constant, Shifted, batch_of, images, linear, net, weight_gradients
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.threat import Threat
from robench.objectives import gradients
from robench.objectives.cross_lipschitz import cross_lipschitz
from robench.objectives.cure import cure, step_share
from robench.objectives.double_backprop import double_backprop
from robench.objectives.input_l2 import input_l2
from robench.objectives.sagr import sagr
from robench.objectives.tulip import tulip

K, SHAPE, D = 5, (1, 6, 6), 36
PENALTIES: dict[str, Callable[..., Tensor]] = {
    "double_backprop": double_backprop,
    "tulip": tulip,
    "cure": cure,
    "input_l2": input_l2,
    "cross_lipschitz": cross_lipschitz,
}
OF_THE_LOSS = ["double_backprop", "tulip", "cure"]
VARIANTS = [
    ("double_backprop", {"norm": "l2sq"}),
    ("double_backprop", {"norm": "l2"}),
    ("double_backprop", {"norm": "l1"}),
    ("tulip", {"norm": "l2"}),
    ("tulip", {"norm": "linf"}),
    ("tulip", {"norm": "l1"}),
    ("cure", {"ramp": False}),
    ("cure", {"ramp": True}),
    ("input_l2", {}),
    ("cross_lipschitz", {"estimator": "rademacher", "projections": 2}),
    ("cross_lipschitz", {"estimator": "exact"}),
]


def rows_of(n: int = 6) -> Tensor:
    return torch.randn(K, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * n**-0.5


def loss_gradients(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """The gradient of the cross-entropy of each sample, (B, D), with its graph to the weights."""
    x = x.detach().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(x), target, reduction="sum"), x, create_graph=True)
    return grad.flatten(1)


def jacobians(model: nn.Module, x: Tensor) -> Tensor:
    """J (B, K, D), with its graph to the weights."""
    return vmap(jacrev(lambda image: model(image[None])[0]))(x).flatten(2)


def check(model: nn.Module, found: Tensor, expected: Tensor, rtol: float = 1e-9) -> None:
    """The two agree in value and in their gradients by the weights."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0)
    torch.testing.assert_close(weight_gradients(model, found), weight_gradients(model, expected), rtol=100 * rtol, atol=1e-12)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


# double backpropagation

NORMS = {"l2sq": lambda g: (g * g).sum(1), "l2": lambda g: (g * g).sum(1).sqrt(), "l1": lambda g: g.abs().sum(1)}


@pytest.mark.parametrize("norm", NORMS)
def test_double_backprop_is_the_mean_norm_of_the_gradient_of_the_loss(norm):
    model, (x, y) = net(), images()
    found = double_backprop(model, batch_of(model, x, y), norm=norm)
    check(model, found, NORMS[norm](loss_gradients(model, x, y)).mean())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("output", ["centred", "logits", "logprobs"])
def test_double_backprop_is_the_loss_form_of_sagr_at_rho_one(norm, output):
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    check(model, double_backprop(model, batch, norm=norm), sagr(model, batch, form="loss", rho=1, norm=norm, output=output))


def test_double_backprop_of_a_linear_model_is_its_weights_mixed_by_the_residual():
    W, (x, y) = rows_of(), images()
    model = linear(W)
    residual = model(x).softmax(1) - F.one_hot(y, K)
    expected = (residual @ model[1].weight).square().sum(1).mean()
    check(model, double_backprop(model, batch_of(model, x, y)), expected)


# a finite difference of the loss

DUALS = {"l2": lambda g: g.square().sum(1), "linf": lambda g: g.abs().sum(1).square() / D, "l1": lambda g: g.abs().amax(1).square()}


@pytest.mark.parametrize("norm", DUALS)
def test_tulip_goes_to_half_the_squared_dual_norm_in_value_and_gradient_as_the_step_shrinks(norm):
    model, (x, y) = net(), images()
    batch, expected = batch_of(model, x, y), DUALS[norm](loss_gradients(model, x, y)).mean() / 2
    errors = []
    for h in (1e-1, 1e-2, 1e-3):
        found = tulip(model, batch, norm=norm, h=h)
        slopes = weight_gradients(model, found), weight_gradients(model, expected)
        errors.append((relative(found, expected), relative(*slopes)))
    assert errors[1][0] < 0.01
    assert errors[1][1] < 0.02
    for coarse, fine in pairwise(errors):
        assert all(6 < first / second < 16 for first, second in zip(coarse, fine, strict=True))


def test_tulip_is_half_of_double_backprop_for_an_l2_adversary():
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    check(model, 2 * tulip(model, batch, norm="l2", h=1e-6), double_backprop(model, batch), rtol=1e-5)


@pytest.mark.parametrize("norm", DUALS)
def test_tulip_takes_the_norm_of_the_threat_if_none_is_given(norm):
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y, threat=Threat(norm, 0.1))
    assert tulip(model, batch) == tulip(model, batch, norm=norm)
    others = [tulip(model, batch, norm=other).item() for other in DUALS if other != norm]
    assert tulip(model, batch).item() not in others


@pytest.mark.parametrize("norm", DUALS)
def test_tulip_of_a_linear_model_is_the_difference_of_two_losses(norm):
    W, (x, y), h = rows_of(), images(), 0.3
    model = linear(W)
    g = ((model(x).softmax(1) - F.one_hot(y, K)) @ W).detach()
    if norm == "l1":
        d = torch.stack([g.sign()[i] * F.one_hot(g.abs()[i].argmax(), D) for i in range(len(g))])
    else:
        d = {"l2": g, "linf": g.sign()}[norm]
    d = d / d.norm(dim=1, keepdim=True)
    there, here = (F.cross_entropy(model(points), y, reduction="none") for points in (x + h * d.view_as(x), x))
    check(model, tulip(model, batch_of(model, x, y), norm=norm, h=h), ((there - here) / h).square().mean() / 2)


def test_the_step_of_tulip_is_one_hundredth_if_not_given():
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    assert tulip(model, batch) == tulip(model, batch, h=0.01)
    assert tulip(model, batch) != tulip(model, batch, h=0.02)


class Once(torch.autograd.Function):
    """The identity, whose derivative hides that it could be differentiated again."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.detach().clone()


class OnceDifferentiable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x)


@pytest.mark.parametrize("norm", DUALS)
def test_tulip_needs_no_second_derivative(norm):
    (x, y), models = images(), (net(nn.Identity()), net(OnceDifferentiable()))
    plain, once = (weight_gradients(model, tulip(model, batch_of(model, x, y), norm=norm)) for model in models)
    torch.testing.assert_close(once, plain, rtol=1e-9, atol=1e-12)
    plain, once = (weight_gradients(model, double_backprop(model, batch_of(model, x, y))) for model in models)
    assert relative(once, plain) > 0.1


@pytest.mark.parametrize("norm", DUALS)
def test_tulip_takes_a_step_of_the_length_h_however_sure_the_prediction(norm):
    W, (x, y) = torch.zeros(K, D), images()
    W[1] += 1
    model, seen = linear(W).float(), []
    model[1].bias.data[0] = 80
    batch = batch_of(model, x.float(), torch.zeros_like(y))
    (grad,) = torch.autograd.grad(F.cross_entropy(batch.logits, batch.y), batch.x_adv, retain_graph=True)
    assert 0 < grad.abs().max() < 1e-22  # the squares are 0 in float32
    hook = model.register_forward_pre_hook(lambda _, points: seen.append(points[0].detach() - batch.x))
    assert tulip(model, batch, norm=norm, h=0.5).isfinite()
    hook.remove()
    torch.testing.assert_close(seen[0].flatten(1).norm(dim=1), torch.full((6,), 0.5), rtol=1e-4, atol=0)


# curvature


@pytest.mark.parametrize("h", [0.05, 0.6])
def test_cure_is_the_squared_change_of_the_gradient_of_the_loss(h):
    model, (x, y) = net(), images()
    z = loss_gradients(model, x, y).detach().sign() / math.sqrt(D)
    expected = (loss_gradients(model, x + h * z.view_as(x), y) - loss_gradients(model, x, y)).square().sum(1).mean()
    check(model, cure(model, batch_of(model, x, y), h=h, ramp=False), expected)


def test_cure_over_h_squared_goes_to_the_squared_product_of_hessian_and_direction():
    model, (x, y) = net(), images(4)
    total = 0.0
    for image, label in zip(x, y, strict=True):
        loss = lambda point, label=label: F.cross_entropy(model(point.view(1, *SHAPE)), label[None])  # noqa: E731
        point = image.flatten()
        z = torch.autograd.functional.jacobian(loss, point).sign() / math.sqrt(D)
        total += (torch.autograd.functional.hessian(loss, point) @ z).square().sum().item() / 4
    found = cure(model, batch_of(model, x, y), h=1e-5, ramp=False).item() / 1e-10
    assert found == pytest.approx(total, rel=1e-3)


def test_cure_of_a_linear_model_is_the_change_of_the_residual():
    W, (x, y), h = rows_of(), images(), 0.6
    model = linear(W)
    own = F.one_hot(y, K)
    z = ((model(x).softmax(1) - own) @ W).detach().sign() / math.sqrt(D)
    change = (model(x + h * z.view_as(x)).softmax(1) - model(x).softmax(1)) @ model[1].weight
    check(model, cure(model, batch_of(model, x, y)), change.square().sum(1).mean())


@pytest.mark.parametrize(("progress", "h"), [(0.0, 0.02), (0.099, 0.02), (0.1, 0.08), (0.25, 0.16), (0.3, 0.36), (0.4, 0.6), (0.99, 0.6)])
def test_the_step_of_cure_grows_in_five_stages(progress, h):
    model, (x, y) = net(), images()
    assert 0.6 * step_share(progress) == pytest.approx(h)
    grown = cure(model, batch_of(model, x, y, progress=progress))
    torch.testing.assert_close(grown, cure(model, batch_of(model, x, y, progress=progress), h=h, ramp=False), rtol=1e-9, atol=0)


def test_without_the_ramp_the_step_of_cure_does_not_ask_how_far_the_training_is():
    model, (x, y) = net(), images()
    assert cure(model, batch_of(model, x, y, progress=0.0), ramp=False) == cure(model, batch_of(model, x, y, progress=0.9))


# the correct class


def test_input_l2_is_the_mean_squared_gradient_of_the_correct_logit():
    model, (x, y) = net(), images()
    own = jacobians(model, x)[torch.arange(len(y)), y]
    check(model, input_l2(model, batch_of(model, x, y)), own.square().sum(1).mean())


def test_input_l2_of_a_linear_model_is_the_squared_norm_of_the_row_of_the_label():
    W, (x, y) = rows_of(), images()
    model = linear(W)
    torch.testing.assert_close(input_l2(model, batch_of(model, x, y)).detach(), W[y].square().sum(1).mean(), rtol=1e-12, atol=0)


def test_sagr_with_infinite_rho_on_raw_logits_is_input_l2_times_half_the_number_of_classes():
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    check(model, input_l2(model, batch) * K / 2, sagr(model, batch, rho=math.inf, output="logits", estimator="exact"))


# all pairs of classes


def pairs(J: Tensor) -> Tensor:
    """The double sum of the paper over K^2, as a loop."""
    total = torch.zeros((), dtype=J.dtype)
    for own in range(K):
        for other in range(K):
            total = total + (J[:, own] - J[:, other]).square().sum(1).mean()
    return total / K**2


def test_exact_cross_lipschitz_is_the_double_sum_over_the_classes():
    model, (x, y) = net(), images()
    check(model, cross_lipschitz(model, batch_of(model, x, y), estimator="exact"), pairs(jacobians(model, x)))


def test_cross_lipschitz_of_a_linear_model_is_the_double_sum_over_its_rows():
    W, (x, y) = rows_of(), images()
    model = linear(W)
    found = cross_lipschitz(model, batch_of(model, x, y), estimator="exact")
    torch.testing.assert_close(found.detach(), pairs(W[None]), rtol=1e-12, atol=0)


def test_sagr_at_rho_one_on_centred_logits_is_cross_lipschitz_times_a_quarter_of_the_number_of_classes():
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    check(model, cross_lipschitz(model, batch, estimator="exact") * K / 4, sagr(model, batch, rho=1, output="centred", estimator="exact"))


def test_the_mean_of_cross_lipschitz_over_all_signs_is_exact_in_value_and_gradient():
    model, (x, y) = net(), images(1)
    copies = batch_of(model, x.expand(2**K, *SHAPE), y.expand(2**K))
    found = cross_lipschitz(model, replace(copies, draws=AllSigns(torch.arange(2**K))))
    check(model, found, cross_lipschitz(model, batch_of(model, x, y), estimator="exact"))


def test_projections_of_cross_lipschitz_are_averaged():
    model, (x, y) = net(), images(1)

    def values(projections: int) -> Tensor:
        batches = [batch_of(model, x, y, ids=torch.tensor([i])) for i in range(200)]
        return torch.stack([cross_lipschitz(model, batch, projections=projections).detach() for batch in batches])

    one, four = values(1), values(4)
    assert 0.15 < four.var() / one.var() < 0.4
    exact = cross_lipschitz(model, batch_of(model, x, y), estimator="exact").detach()
    assert (four.mean() - exact).abs() < 4 * four.std() / math.sqrt(200)


def test_the_probe_of_cross_lipschitz_depends_on_the_seed():
    model, (x, y) = net(), images()
    one, same, other = (cross_lipschitz(model, batch_of(model, x, y, seed=seed)) for seed in (0, 0, 1))
    assert one == same
    assert one != other


# all of them


@pytest.mark.parametrize("name", PENALTIES)
def test_a_common_shift_of_all_logits_changes_nothing_but_input_l2(name):
    model, (x, y) = net(), images()
    plain, shifted = (PENALTIES[name](m, batch_of(m, x, y)).item() for m in (model, Shifted(model)))
    assert (shifted == pytest.approx(plain, rel=1e-8)) == (name != "input_l2")


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_the_mean_of_two_half_batches_is_the_value_of_the_whole(name, options):
    model, (x, y) = net(), images()
    whole = PENALTIES[name](model, batch_of(model, x, y), **options)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    halves = [PENALTIES[name](model, batch_of(model, x[rows], y[rows], ids=rows), **options) for rows in order.split(3)]
    torch.testing.assert_close(torch.stack(halves).mean(), whole, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_zero_gradients_give_zero_and_no_nan(name, options):
    x, y = images()
    for model in (linear(torch.zeros(K, D)), Constant()):
        value = PENALTIES[name](model, batch_of(model, x, y), **options)
        assert value == 0
        if value.requires_grad:
            assert weight_gradients(model, value).isfinite().all()


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_batch_norm_in_training_mode_is_taken_in_evaluation_mode_and_left_as_it_was(name, options):
    model, (x, y) = net(nn.BatchNorm2d(4)), images()
    model(x)  # running statistics other than 0 and 1
    batch = batch_of(model, x, y)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    value = PENALTIES[name](model, batch, **options)
    slopes = weight_gradients(model, value)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert batch.x_adv.grad is None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    model.eval()
    expected = PENALTIES[name](model, batch_of(model, x, y), **options)
    torch.testing.assert_close((value, slopes), (expected, weight_gradients(model, expected)))


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_the_shared_forward_pass_equals_a_separate_one(name, options, monkeypatch):
    model, (x, y), calls = net(), images(), []
    batch = batch_of(model, x, y)
    model.register_forward_hook(lambda *_: calls.append(1))
    shared = PENALTIES[name](model, batch, **options)
    assert len(calls) == (1 if name in ("tulip", "cure") else 0)
    monkeypatch.setattr(gradients, "mixes_samples", lambda model: True)
    check(model, PENALTIES[name](model, batch, **options), shared, rtol=1e-8)


@pytest.mark.parametrize("name", PENALTIES)
def test_the_gradient_is_taken_at_the_place_that_is_asked_for(name):
    model, (x, y) = net(), images()
    x_adv = (x + 0.1).clamp(0, 1)
    at_adv, at_clean = (PENALTIES[name](model, batch_of(model, points, y)) for points in (x_adv, x))
    assert at_adv != at_clean
    batch = batch_of(model, x, y, x_adv=x_adv)
    torch.testing.assert_close(PENALTIES[name](model, batch), at_adv, rtol=1e-12, atol=0)
    torch.testing.assert_close(PENALTIES[name](model, batch, at="clean"), at_clean, rtol=1e-12, atol=0)


def mixture(n: int = 6) -> Tensor:
    own, other = F.one_hot(torch.arange(n) % K, K).double(), F.one_hot((torch.arange(n) + 2) % K, K).double()
    return 0.7 * own + 0.3 * other


def test_of_mixed_images_the_loss_is_that_of_their_mixed_labels():
    model, (x, y), mixed = net(), images(), mixture()
    batch, g = batch_of(model, x, y, mixed=mixed.float()), loss_gradients(model, x, mixed)
    check(model, double_backprop(model, batch), g.square().sum(1).mean(), rtol=1e-6)
    torch.testing.assert_close(tulip(model, batch, norm="l2", h=1e-6), g.square().sum(1).mean() / 2, rtol=1e-4, atol=0)
    moved = x + 0.6 / math.sqrt(D) * g.detach().sign().view_as(x)
    check(model, cure(model, batch), (loss_gradients(model, moved, mixed) - g).square().sum(1).mean(), rtol=1e-6)


@pytest.mark.parametrize("name", PENALTIES)
def test_mixed_labels_that_are_certain_change_nothing(name):
    model, (x, y) = net(), images()
    plain, mixed = (PENALTIES[name](model, batch_of(model, x, y, mixed=labels)) for labels in (None, F.one_hot(y, K).double()))
    torch.testing.assert_close(mixed, plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_label_smoothing_is_left_out_of_the_loss_that_is_regularised(name):
    model, (x, y) = net(), images()
    assert PENALTIES[name](model, batch_of(model, x, y, smoothing=0.3)) == PENALTIES[name](model, batch_of(model, x, y))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("double_backprop", {"norm": "linf"}, "unknown norm of double_backprop"),
        ("tulip", {"norm": "l2sq"}, "unknown norm of tulip"),
        ("tulip", {"norm": "treat"}, "did you mean 'threat'"),
        ("tulip", {"h": 0}, "the step h of tulip"),
        ("cure", {"h": -1}, "the step h of cure"),
        ("cure", {"h": "long"}, "the step h of cure"),
        ("cure", {"ramp": 0.5}, "ramp must be true or false"),
        ("cross_lipschitz", {"estimator": "exact", "projections": 2}, "projects on nothing"),
        ("cross_lipschitz", {"estimator": "sphere"}, "unknown estimator of cross_lipschitz"),
        ("cross_lipschitz", {"projections": 0}, "whole number"),
        *((name, {"at": "start"}, "unknown place") for name in PENALTIES),
    ],
)
def test_wrong_options_are_refused_with_the_way_out(name, options, says):
    model, (x, y) = net(), images(2)
    with pytest.raises(InputError, match=says):
        PENALTIES[name](model, batch_of(model, x, y), **options)
