"""The Gini index as a penalty: closed forms, the audit's value, and its derivative."""

from __future__ import annotations

import copy

import pytest
import torch
from batches import batch_of
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.types import Batch, ExplainedImages
from robench.objectives.gini import gini_penalty
from robench.scores import inequality

SHAPE = (2, 3, 3)


def net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 2), *layers, nn.GELU(), nn.Flatten(), nn.Linear(12, 4)).double()


def rows(values: Tensor) -> nn.Sequential:
    """A linear network whose class c has the slope values[c]."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(values.shape[1], len(values))).to(values.dtype)
    model[1].weight.data.copy_(values)
    return model


def images(n: int = 5) -> tuple[Tensor, Tensor]:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.arange(n) % 4


def batch_for(model: nn.Module, n: int = 5, *, y: Tensor | None = None, moved: float = 0.0, mixed: Tensor | None = None) -> Batch:
    x, labels = images(n)
    x = x.to(next(model.parameters()).dtype)
    return batch_of(model, x, labels if y is None else y, x_adv=x + moved, mixed=mixed)


def audited(model: nn.Module, x: Tensor, y: Tensor, channels: str) -> Tensor:
    """The audit's own Gini of the gradients of the labels' logits, (B,)."""
    leaf, model = x.detach().requires_grad_(), copy.deepcopy(model).eval()
    logits = model(leaf)
    (maps,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), leaf)
    sizes = inequality.map_sizes(maps, channels)
    draws = Draws(0, torch.arange(len(x)), "test")
    return inequality.gini(ExplainedImages(model, x, y, y, logits.detach(), maps, sizes, lambda *_: maps, draws))


def test_closed_forms_of_linear_networks():
    slopes = torch.stack((torch.eye(18)[4], torch.full((18,), -0.3), torch.arange(1, 19) * 1.0, torch.eye(18)[0] - torch.eye(18)[9]))
    model = rows(slopes.double())
    for label, expected in enumerate((17 / 18, 0.0, 17 / 54, 16 / 18)):
        y = torch.full((5,), label)
        assert gini_penalty(model, batch_for(model, y=y)).item() == pytest.approx(expected, abs=1e-12)
    assert gini_penalty(model, batch_for(model, 4)).item() == pytest.approx((17 / 18 + 17 / 54 + 16 / 18) / 4)


@pytest.mark.parametrize("channels", inequality.REDUCTIONS)
@pytest.mark.parametrize(("at", "place"), [("clean", "x"), ("base", "x_adv")])
def test_its_value_is_the_mean_of_the_audit_s(channels, at, place):
    model = net(nn.BatchNorm2d(3))
    batch = batch_for(model, moved=0.3)
    expected = audited(model, getattr(batch, place), batch.y, channels)
    assert expected.std() > 0.01
    torch.testing.assert_close(gini_penalty(model, batch, channels=channels, at=at).detach(), expected.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("channels", ["none", "sum"])
@pytest.mark.parametrize("of", ["logit", "loss"])
def test_its_gradient_in_the_weights_is_a_central_difference(channels, of):
    model = net()
    weights = list(model.parameters())
    value = gini_penalty(model, batch_for(model), channels=channels, of=of)
    grads = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
    directions, h, values = [torch.randn_like(weight) for weight in weights], 1e-6, []
    for sign in (1, -1):
        moved = copy.deepcopy(model)
        for weight, direction in zip(moved.parameters(), directions, strict=True):
            weight.data.add_(direction, alpha=sign * h)
        values.append(gini_penalty(moved, batch_for(moved), channels=channels, of=of).item())
    slope = sum((grad * direction).sum() for grad, direction in zip(grads, directions, strict=True))
    assert abs(slope) > 1e-3
    torch.testing.assert_close(slope.item(), (values[0] - values[1]) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e25])
def test_the_length_of_the_gradient_does_not_matter_even_in_float32(factor):
    model = net().float()
    expected = gini_penalty(model, batch_for(model)).item()
    model[-1].weight.data.mul_(factor)
    value = gini_penalty(model, batch_for(model))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_of_zero_counts_as_even_and_trains_without_nan_beside_others(dtype):
    model, y = net().to(dtype), torch.tensor([0, 1, 2, 3, 1])
    model[-1].weight.data[1].zero_()
    batch = batch_for(model, y=y)
    scores = audited(model, batch.x, y, "none")
    assert scores.isnan().tolist() == [False, True, False, False, True]
    value = gini_penalty(model, batch)
    torch.testing.assert_close(value.detach(), scores.nan_to_num(0).mean(), check_dtype=False)
    grads = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[0].abs().sum() > 0


def test_where_every_gradient_is_zero_the_penalty_is_zero_and_trains_nothing():
    model = net().float()
    model[-1].weight.data.zero_()
    value = gini_penalty(model, batch_for(model))
    assert value.item() == 0
    for grad in torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True):
        assert torch.equal(grad, torch.zeros_like(grad))


def test_a_gradient_that_is_not_finite_is_not_hidden():
    slopes = torch.rand(4, 18, dtype=torch.float64)
    slopes[0, 0] = torch.nan
    model = rows(slopes)
    assert gini_penalty(model, batch_for(model)).isnan()


def test_batch_norm_and_dropout_are_in_evaluation_mode_and_left_as_they_were():
    model = net(nn.BatchNorm2d(3), nn.Dropout(0.5))
    batch = batch_for(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = gini_penalty(model, batch), gini_penalty(model, batch)
    assert first == second
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_it_is_a_mean_over_samples_that_stand_alone():
    model = net()
    x, y = images()
    torch.testing.assert_close(gini_penalty(model, batch_for(model, 3)).detach(), audited(model, x, y, "none")[:3].mean())


def test_of_mixed_images_the_logit_is_that_of_the_larger_part():
    model = net()
    mixed = F.one_hot(images()[1], 4) * 0.7 + F.one_hot(images()[1].flip(0), 4) * 0.3
    assert gini_penalty(model, batch_for(model, mixed=mixed)) == gini_penalty(model, batch_for(model))
    assert gini_penalty(model, batch_for(model, mixed=mixed), of="loss") != gini_penalty(model, batch_for(model), of="loss")


def test_descent_on_it_lowers_it():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = gini_penalty(model, batch_for(model)).item()
    for _ in range(20):
        optimizer.zero_grad()
        torch.autograd.backward(gini_penalty(model, batch_for(model)), inputs=list(model.parameters()))
        optimizer.step()
    assert gini_penalty(model, batch_for(model)).item() < before - 0.05


@pytest.mark.parametrize(
    ("options", "says"),
    [({"of": "loos"}, "unknown scalar.*'loss'"), ({"at": "start"}, "unknown place"), ({"channels": "add"}, "unknown way to put channels")],
)
def test_wrong_options_are_refused(options, says):
    model = net()
    with pytest.raises(InputError, match=says):
        gini_penalty(model, batch_for(model), **options)
