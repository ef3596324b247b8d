"""SAGR against its definition, written out with torch.func, and against closed forms."""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import pytest
import torch
from batches import AllSigns, Constant, Shifted, batch_of, images, linear, net, weight_gradients
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn import functional as F

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.types import Batch
from robench.objectives import gradients, regularizer_notes
from robench.objectives.jacobian import jacobian
from robench.objectives.sagr import FORMS, sagr

K, SHAPE = 5, (1, 6, 6)
ESTIMATORS = [("jacobian", name) for name in FORMS["jacobian"]] + [("loss", name) for name in FORMS["loss"]]


def class_gradients(model: nn.Module, x: Tensor) -> Tensor:
    """J (B, K, D), independently of the code under test."""
    return vmap(jacrev(lambda image: model(image[None])[0]))(x).flatten(2).detach()


def class_weights(y: Tensor, rho: float, classes: int = K) -> Tensor:
    own = F.one_hot(y, classes).double()
    b = classes / (rho + classes - 1)
    return own * rho * b + (1 - own) * b


def value_and_gradients(model: nn.Module, batch: Batch, **options) -> tuple[Tensor, Tensor]:
    value = sagr(model, batch, **options)
    return value.detach(), weight_gradients(model, value)


OUTPUTS = {
    "logits": lambda z: z,
    "centred": lambda z: z - z.mean(1, keepdim=True),
    "logprobs": lambda z: z.log_softmax(1),
    "probs": lambda z: z.softmax(1),
}
NORMS = {"l2sq": lambda g: (g * g).sum(-1), "l2": lambda g: (g * g).sum(-1).sqrt(), "l1": lambda g: g.abs().sum(-1)}


DEFINED = [(output, "all", norm) for output in OUTPUTS for norm in NORMS]
DEFINED += [(output, "positive", norm) for output in ("centred", "logprobs", "probs") for norm in NORMS]


@pytest.mark.parametrize("rho", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize(("output", "sign", "norm"), DEFINED)
def test_exact_is_half_the_weighted_sum_over_the_rows_of_the_jacobian(rho, output, sign, norm):
    model, (x, y) = net(), images()
    J = class_gradients(lambda images: OUTPUTS[output](model(images)), x)
    J = J.clamp_min(0) if sign == "positive" else J
    expected = (class_weights(y, rho) * NORMS[norm](J)).sum(1).mean() / 2
    found = sagr(model, batch_of(model, x, y), rho=rho, output=output, sign=sign, norm=norm, estimator="exact")
    torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=0)


def test_infinite_rho_leaves_the_true_class_alone():
    model, (x, y) = net(), images()
    own = class_gradients(model, x)[torch.arange(len(y)), y]
    for estimator in ("exact", "rademacher", "true-rademacher", "sampled"):
        found = sagr(model, batch_of(model, x, y), rho=math.inf, output="logits", estimator=estimator)
        torch.testing.assert_close(found.detach(), K / 2 * own.square().sum(1).mean(), rtol=1e-10, atol=0)


def test_rho_one_on_raw_logits_is_jacobian_regularisation():
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    value, grads = value_and_gradients(model, batch, rho=1, output="logits", estimator="exact")
    hoffman = jacobian(model, batch, estimator="exact")
    torch.testing.assert_close(value, hoffman.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(grads, weight_gradients(model, hoffman), rtol=1e-9, atol=1e-12)


def test_rho_one_on_centred_logits_is_the_cross_lipschitz_penalty_over_4k():
    model, (x, y) = net(), images()
    J = class_gradients(model, x)
    pairs = (J[:, :, None] - J[:, None]).square().sum((1, 2, 3)).mean()
    found = sagr(model, batch_of(model, x, y), rho=1, estimator="exact")
    torch.testing.assert_close(found.detach(), pairs / (4 * K), rtol=1e-10, atol=0)


@pytest.mark.parametrize("output", ["logits", "centred", "logprobs"])
def test_the_loss_form_at_rho_one_is_double_backpropagation(output):
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    value, grads = value_and_gradients(model, batch, form="loss", rho=1, output=output)
    (grad,) = torch.autograd.grad(F.cross_entropy(batch.logits, y, reduction="sum"), batch.x_adv, create_graph=True)
    double = grad.square().flatten(1).sum(1).mean()
    torch.testing.assert_close(value, double.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(grads, weight_gradients(model, double), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("rho", [0.1, 10.0])
@pytest.mark.parametrize(("sign", "norm"), [("all", "l2sq"), ("all", "l1"), ("positive", "l2sq")])
def test_the_loss_form_reweighs_the_residual(rho, sign, norm):
    model, (x, y) = net(), images()
    residual = class_weights(y, rho) * (model(x).softmax(1) - F.one_hot(y, K))
    J = class_gradients(lambda images: OUTPUTS["centred"](model(images)), x)
    mixed = (residual[:, None] @ J).squeeze(1)
    expected = NORMS[norm](mixed.clamp_min(0) if sign == "positive" else mixed).mean()
    found = sagr(model, batch_of(model, x, y), form="loss", rho=rho, sign=sign, norm=norm)
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("rho", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("estimator", ["rademacher", "true-rademacher"])
def test_the_mean_over_all_sign_vectors_is_exact_in_value_and_gradient(rho, estimator):
    model, (x, y) = net(), images(1)
    one = batch_of(model, x, y)
    copies = batch_of(model, x.expand(2**K, *SHAPE), y.expand(2**K))
    copies = Batch(**{**vars(copies), "draws": AllSigns(torch.arange(2**K))})
    expected = value_and_gradients(model, one, rho=rho, estimator="exact")
    found = value_and_gradients(model, copies, rho=rho, estimator=estimator)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_mean_over_all_input_signs_is_exact_for_a_linear_model():
    W = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model, x = linear(W), torch.rand(1, 1, 2, 2, dtype=torch.float64)
    copies = batch_of(model, x.expand(16, 1, 2, 2), torch.ones(16, dtype=torch.int64))
    copies = Batch(**{**vars(copies), "draws": AllSigns(torch.arange(16))})
    found = sagr(model, copies, estimator="fd-input", output="logits")
    exact = sagr(model, copies, estimator="exact", output="logits")
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=0)


CASES = [("rademacher", rho, "all", "l2sq") for rho in (0.1, 1, 10)] + [
    ("true-rademacher", 0.1, "all", "l2sq"),
    ("sampled", 0.1, "all", "l2sq"),
    ("sampled", 0.1, "positive", "l2sq"),
    ("sampled", 10, "all", "l1"),
    ("fd-input", 0.1, "all", "l2sq"),
]


@pytest.mark.parametrize(("estimator", "rho", "sign", "norm"), CASES)
def test_the_mean_over_many_draws_is_exact_within_four_standard_errors(estimator, rho, sign, norm):
    model, (x, y) = net(), images(1)
    exact = sagr(model, batch_of(model, x, y), rho=rho, sign=sign, norm=norm, estimator="exact").item()
    n, chunks, options = 100, [], {"h": 1e-4} if estimator == "fd-input" else {}
    for chunk in range(50):
        ids = torch.arange(n) + n * chunk
        copies = batch_of(model, x.expand(n, *SHAPE), y.expand(n), ids=ids)
        chunks.append(sagr(model, copies, rho=rho, sign=sign, norm=norm, estimator=estimator, **options).item())
    means = torch.tensor(chunks, dtype=torch.float64)
    error = means.std().item() / math.sqrt(len(chunks))
    assert 0 < error < 0.05 * exact
    assert abs(means.mean().item() - exact) < 4 * error


def test_sampling_every_false_class_is_exact():
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    for options in ({"sign": "positive"}, {"norm": "l1"}, {"norm": "l2", "output": "probs"}):
        sampled = sagr(model, batch, estimator="sampled", projections=K - 1, **options)
        torch.testing.assert_close(sampled, sagr(model, batch, estimator="exact", **options), rtol=1e-10, atol=0)


@pytest.mark.parametrize("estimator", ["rademacher", "true-rademacher", "fd", "fd-input", "sampled"])
def test_four_projections_have_at_most_a_quarter_of_the_variance_of_one(estimator):
    model, (x, y) = net(), images(1)

    def variance(projections: int) -> float:
        batches = [batch_of(model, x, y, ids=torch.tensor([i])) for i in range(200)]
        return torch.stack([sagr(model, batch, estimator=estimator, projections=projections) for batch in batches]).var().item()

    if estimator == "sampled":  # without replacement: four of four false classes leave no chance at all
        assert variance(4) < 1e-20 < variance(1)
    else:
        assert 0.15 < variance(4) / variance(1) < 0.4


@pytest.mark.parametrize("rho", [0.0, 0.1, 1.0, 10.0])
def test_a_linear_model_gives_the_weighted_norms_of_its_rows(rho):
    W, (x, y) = torch.randn(K, 36, generator=torch.Generator().manual_seed(2), dtype=torch.float64), images()
    for output, rows in (("logits", W), ("centred", W - W.mean(0))):
        expected = (class_weights(y, rho) @ rows.square().sum(1)).mean() / 2
        model = linear(W)
        found = sagr(model, batch_of(model, x, y), rho=rho, output=output, estimator="exact")
        torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=0)


def test_one_rademacher_probe_is_exact_where_class_gradients_are_orthogonal():
    model, (x, y) = linear(torch.eye(K, 36, dtype=torch.float64) * torch.arange(1, K + 1)[:, None]), images()
    batch = batch_of(model, x, y)
    exact = sagr(model, batch, output="logits", estimator="exact")
    torch.testing.assert_close(sagr(model, batch, output="logits", estimator="rademacher"), exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("form", "exact"), [("jacobian", "rademacher"), ("loss", "exact")])
def test_finite_differences_go_to_double_backward_as_the_step_shrinks(form, exact):
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    value, grads = value_and_gradients(model, batch, form=form, estimator=exact)
    errors = []
    for h in (1e-2, 1e-3, 1e-4):
        near, near_grads = value_and_gradients(model, batch, form=form, estimator="fd", h=h)
        errors.append(((near - value).abs() / value, (near_grads - grads).norm() / grads.norm()))
    assert errors[0][0] < 0.01
    assert errors[0][1] < 0.02
    for coarse, fine in pairwise(errors):
        for first, second in zip(coarse, fine, strict=True):
            assert 7 < first / second < 13


def test_the_step_of_a_finite_difference_is_one_hundredth_if_not_given():
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    for estimator in ("fd", "fd-input"):
        assert sagr(model, batch, estimator=estimator) == sagr(model, batch, estimator=estimator, h=0.01)


@pytest.mark.parametrize("form", ["jacobian", "loss"])
def test_a_common_shift_of_all_logits_changes_nothing_but_raw_logits(form):
    model, (x, y) = net(), images()
    plain, shifted = batch_of(model, x, y), batch_of(Shifted(model), x, y)
    for output in ("centred", "logprobs") if form == "loss" else ("centred", "logprobs", "probs"):
        value, grads = value_and_gradients(model, plain, form=form, output=output, estimator="exact")
        other, other_grads = value_and_gradients(Shifted(model), shifted, form=form, output=output, estimator="exact")
        torch.testing.assert_close((other, other_grads), (value, grads), rtol=1e-8, atol=1e-12)
    raw = [sagr(m, b, form=form, output="logits", estimator="exact") for m, b in ((model, plain), (Shifted(model), shifted))]
    assert raw[1] > 1.5 * raw[0]


MEASURES = (("all", "l2"), ("all", "l1"), ("positive", "l2sq"), ("positive", "l2"))
UNBIASED = [("jacobian", "exact"), ("jacobian", "sampled"), ("loss", "exact")]
ALLOWED = [(*which, "all", "l2sq") for which in ESTIMATORS]
ALLOWED += [
    (*which, *measure) for which in UNBIASED for measure in (("all", "l2"), ("all", "l1"), ("positive", "l2"), ("positive", "l2sq"))
]


@pytest.mark.parametrize(("form", "estimator", "sign", "norm"), ALLOWED)
def test_zero_gradients_give_zero_and_no_nan(form, estimator, sign, norm):
    x, y = images()
    for model in (linear(torch.zeros(K, 36)), Constant()):
        value = sagr(model, batch_of(model, x, y), form=form, estimator=estimator, sign=sign, norm=norm)
        assert value == 0
        if value.requires_grad:
            assert weight_gradients(model, value).isfinite().all()


@pytest.mark.parametrize(("form", "estimator"), ESTIMATORS)
def test_the_value_depends_on_seed_and_ids_but_not_on_order_or_size_of_the_batch(form, estimator):
    model, (x, y) = net(), images()
    options = {"form": form, "estimator": estimator}
    whole = sagr(model, batch_of(model, x, y), **options)
    assert sagr(model, batch_of(model, x, y), **options) == whole
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    parts = [sagr(model, batch_of(model, x[rows], y[rows], ids=rows), **options) for rows in order.split(2)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-10, atol=0)
    other = sagr(model, batch_of(model, x, y, seed=1), **options)
    assert (other == whole) == (estimator == "exact" or form == "loss")


@pytest.mark.parametrize(("form", "estimator"), ESTIMATORS)
def test_batch_norm_in_training_mode_gives_the_gradient_of_evaluation_mode(form, estimator):
    model, (x, y) = net(nn.BatchNorm2d(4)), images()
    model(x)  # running statistics other than 0 and 1
    batch = batch_of(model, x, y)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    in_training = value_and_gradients(model, batch, form=form, estimator=estimator)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()
    torch.testing.assert_close(value_and_gradients(model, batch_of(model, x, y), form=form, estimator=estimator), in_training)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(("form", "estimator"), ESTIMATORS)
def test_the_shared_forward_pass_equals_a_separate_one(form, estimator, monkeypatch):
    model, (x, y) = net(), images()
    calls = []
    batch = batch_of(model, x, y)
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    shared = value_and_gradients(model, batch, form=form, estimator=estimator)
    spent = len(calls)
    monkeypatch.setattr(gradients, "mixes_samples", lambda model: True)
    torch.testing.assert_close(value_and_gradients(model, batch, form=form, estimator=estimator), shared, rtol=1e-10, atol=1e-14)
    assert spent == (1 if estimator.startswith("fd") else 0)
    assert len(calls) == 2 * spent + 1
    hook.remove()


@pytest.mark.parametrize(
    ("layer", "mixes"),
    [
        (nn.BatchNorm2d(4), True),
        (nn.BatchNorm2d(4).eval(), False),
        (nn.GroupNorm(2, 4), False),
        (nn.Dropout(0.5), True),
        (nn.Dropout2d(0.0), False),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True),
        (nn.MultiheadAttention(4, 2), False),
    ],
)
def test_the_forward_pass_is_shared_only_where_samples_stand_alone(layer, mixes):
    assert gradients.mixes_samples(nn.Sequential(nn.Conv2d(1, 4, 3), layer)) is mixes


def test_the_gradient_is_taken_at_the_place_that_is_asked_for():
    model, (x, y) = net(), images()
    x_adv = (x + 0.1).clamp(0, 1)
    batch = batch_of(model, x, y, x_adv=x_adv)
    for estimator in ("rademacher", "fd"):
        at_adv = sagr(model, batch_of(model, x_adv, y), estimator=estimator)
        at_clean = sagr(model, batch_of(model, x, y), estimator=estimator)
        assert at_adv != at_clean
        torch.testing.assert_close(sagr(model, batch, estimator=estimator), at_adv, rtol=1e-12, atol=0)
        torch.testing.assert_close(sagr(model, batch, estimator=estimator, at="clean"), at_clean, rtol=1e-12, atol=0)


def test_clean_training_shares_the_forward_pass_for_either_place():
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    assert gradients.points_and_logits(model, batch, "clean")[1] is batch.logits
    assert gradients.points_and_logits(model, batch, "base")[1] is batch.logits


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({"sign": "positive"}, "sampled"),
        ({"norm": "l2"}, "sampled"),
        ({"norm": "l1"}, "sampled"),
        ({}, "rademacher"),
        ({"rho": 10}, "rademacher"),
    ],
)
def test_auto_stands_for_an_estimator_without_bias(options, meant):
    model, (x, y) = net(), images()
    batch = batch_of(model, x, y)
    assert sagr(model, batch, **options) == sagr(model, batch, estimator=meant, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sign": "positive", "output": "logits"}, "escaped"),
        ({"form": "loss", "sign": "positive", "output": "logits"}, "escaped"),
        ({"form": "loss", "output": "probs"}, "choose output=centred"),
        ({"form": "loss", "estimator": "rademacher"}, "unknown estimator of sagr with form=loss"),
        ({"form": "loss", "projections": 2}, "draws no projections"),
        ({"estimator": "exact", "projections": 2}, "draws no projections"),
        ({"estimator": "rademacher", "sign": "positive"}, "biased"),
        ({"estimator": "fd", "norm": "l1"}, "biased"),
        ({"form": "loss", "estimator": "fd", "norm": "l1"}, "biased"),
        ({"estimator": "sampled", "projections": K}, "cannot draw 5 of 4"),
        ({"projections": 0}, "whole number"),
        ({"projections": 1.5}, "whole number"),
        ({"h": 0.1}, "takes none"),
        ({"estimator": "fd", "h": 0}, "the step h"),
        ({"rho": -1}, "rho"),
        ({"rho": math.nan}, "rho"),
        ({"rho": "much"}, "rho"),
        ({"form": "jacobean"}, "did you mean 'jacobian'"),
        ({"sign": "negative"}, "unknown sign"),
        ({"norm": "linf"}, "unknown norm"),
        ({"output": "centered"}, "did you mean 'centred'"),
        ({"at": "noisy"}, "choose one of base, clean"),
    ],
)
def test_wrong_options_are_refused_with_the_way_out(options, says):
    model, (x, y) = net(), images()
    with pytest.raises(InputError, match=says):
        sagr(model, batch_of(model, x, y), **options)


def test_a_model_with_one_class_is_refused():
    model, (x, _) = net(classes=1), images()
    with pytest.raises(InputError, match="at least 2 classes"):
        sagr(model, batch_of(model, x, torch.zeros(len(x), dtype=torch.int64)))


def test_a_sure_prediction_is_moved_by_h_and_no_further():
    """Its gradient is so small that its squares are 0 in float32; divided by their root, a step was 1e10 pixels long."""
    seen: list[float] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).float()
    model[1].weight.data = torch.full((3, 36), 1e-3) * torch.tensor([[1.0], [0.0], [-1.0]])
    model[1].bias.data = torch.tensor([65.0, 0.0, 0.0])
    model.register_forward_pre_hook(lambda module, inputs: seen.append(float((inputs[0].detach() - 0.5).abs().max())))
    x = torch.full((2, 1, 6, 6), 0.5, requires_grad=True)
    batch = Batch(x.detach(), torch.zeros(2, dtype=torch.int64), x, model(x), torch.arange(2), 0.5, Draws(0, torch.arange(2), "train"))
    value = sagr(model, batch, form="loss", estimator="fd", h=0.01)
    assert value.isfinite()
    assert 0 < max(seen) <= 0.01


@pytest.mark.parametrize("form", ["jacobian", "loss"])
@pytest.mark.parametrize("output", ["centred", "probs"])
@pytest.mark.parametrize("norm", NORMS)
def test_with_two_classes_a_rho_that_changes_nothing_is_refused(form, output, norm, monkeypatch):
    if (form, output) == ("loss", "probs"):
        with pytest.raises(InputError, match="form=loss weighs the derivative"):
            sagr(net(classes=2), batch_of(net(classes=2), *images(classes=2)), form=form, output=output)
        return
    model, (x, y) = net(classes=2), images(classes=2)
    options = {"form": form, "output": output, "norm": norm, "estimator": "exact"}
    for rho in (0.0, 0.1, 1.0, math.inf):
        with pytest.raises(InputError, match=f"with two classes, (sign=all|form=loss) and output={output} .* leave rho out"):
            sagr(model, batch_of(model, x, y), rho=rho, **options)
    usual = sagr(model, batch_of(model, x, y), **options)
    monkeypatch.setattr(sys.modules[sagr.__module__], "refuse_idle_rho", lambda *_: None)
    for rho in (0.0, 0.3, 5.0, math.inf):  # what the sentence says
        torch.testing.assert_close(sagr(model, batch_of(model, x, y), rho=rho, **options), usual)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sign", ["all", "positive"])
@pytest.mark.parametrize("output", ["centred", "logits", "logprobs", "probs"])
def test_with_two_classes_the_rule_on_rho_agrees_with_the_computed_values(form, sign, output, monkeypatch):
    model, (x, y) = net(classes=2), images(classes=2)
    own = sys.modules[sagr.__module__]
    for name in ("refuse_idle_rho", "refuse_escapes"):
        monkeypatch.setattr(own, name, lambda *_: None)
    options = {"form": form, "sign": sign, "output": output, "estimator": "exact"}
    values = [sagr(model, batch_of(model, x, y), rho=rho, **options).item() for rho in (0.0, 0.1, 1.0, 10.0, math.inf)]
    same = max(values) - min(values) <= 1e-9 * max(values)
    assert values[1] > 0
    if (form, output) != ("loss", "probs"):  # refused whatever rho is
        assert own.rho_is_idle(2, form, sign, output) == same
    assert not own.rho_is_idle(3, form, sign, output)


def test_form_loss_on_two_centred_outputs_refuses_rho_and_does_not_advise_a_sign():
    sentence = "sagr,form=loss,sign=positive"
    with pytest.raises(InputError, match=r"form=loss and output=centred .* leave rho out, or choose output=logprobs$"):
        regularizer_notes([f"{sentence},rho=0.3"], 2)
    assert "output=logprobs tells the classes apart" in regularizer_notes([sentence], 2)[1]


@pytest.mark.parametrize("options", [{"sign": "positive"}, {"output": "logprobs"}, {"output": "logits"}])
def test_where_two_classes_differ_rho_is_taken_and_matters(options):
    model, (x, y) = net(classes=2), images(classes=2)
    small, large = (sagr(model, batch_of(model, x, y), rho=rho, estimator="exact", **options).item() for rho in (0.1, 3.0))
    assert abs(small - large) > 1e-3 * large


def test_rho_is_a_tenth_if_not_given():
    model, (x, y) = net(), images()
    assert torch.equal(sagr(model, batch_of(model, x, y)), sagr(model, batch_of(model, x, y), rho=0.1))


def test_rho_zero_still_bounds_the_true_class_through_the_others():
    model, (x, y) = net(), images()
    grads = class_gradients(lambda z: OUTPUTS["centred"](model(z)), x)
    own = F.one_hot(y, K).double()
    sizes = grads.square().sum(2)
    assert ((sizes * own).sum(1) <= (K - 1) * (sizes * (1 - own)).sum(1) + 1e-12).all()


def test_a_training_says_our_reconstruction_and_whether_rho_is_idle():
    (one,) = regularizer_notes(["sagr=0.1,warmup=0", "jacobian"], 10)
    assert "sagr is our reconstruction" in one
    assert "same for every rho" in regularizer_notes(["sagr"], 2)[1]
    assert len(regularizer_notes(["sagr,sign=positive,rho=0.3"], 2)) == 1
    assert regularizer_notes(["jacobian", "cross-lipschitz"], 2) == []
    with pytest.raises(InputError, match="leave rho out"):
        regularizer_notes(["sagr,rho=0.3"], 2)
