"""The norms of the weights by hand, and l2 against the weight decay of SGD."""

from __future__ import annotations

import pytest
import torch
from batches import batch_of
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.types import Batch
from robench.objectives.weight_norms import l1, l2


def small() -> nn.Module:
    """A kernel of 1, -2, 3, -4, norms and biases of 100, and a matrix of 0.5 and -1.5."""
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 2))
    for parameter in model.parameters():
        parameter.data.fill_(100.0)
    model[0].weight.data.copy_(torch.tensor([[[[1.0, -2.0], [3.0, -4.0]]]]))
    model[3].weight.data.copy_(torch.tensor([[0.5], [-1.5]]))
    return model


def batch_for(model: nn.Module, n: int = 3) -> Batch:
    return batch_of(model, torch.rand(n, 1, 2, 2), torch.zeros(n, dtype=torch.int64))


def test_the_sums_are_those_of_kernels_and_matrices_and_of_nothing_else():
    model = small()
    assert l1(model, batch_for(model)).item() == 1 + 2 + 3 + 4 + 0.5 + 1.5
    assert l2(model, batch_for(model)).item() == (1 + 4 + 9 + 16 + 0.25 + 2.25) / 2


def test_the_gradients_are_the_sign_and_the_weight_and_biases_have_none():
    model = small()
    kernel = model[0].weight
    for penalty, expected in ((l1, kernel.sign()), (l2, kernel)):
        grads = torch.autograd.grad(penalty(model, batch_for(model)), [kernel, model[0].bias, model[1].weight], allow_unused=True)
        torch.testing.assert_close(grads[0], expected.detach())
        assert grads[1] is grads[2] is None


@pytest.mark.parametrize("penalty", [l1, l2])
def test_the_batch_plays_no_part(penalty):
    model = small()
    assert penalty(model, batch_for(model, 2)) == penalty(model, batch_for(model, 7))


@pytest.mark.parametrize(("penalty", "rest"), [(l1, 2.0), (l2, 1.25)])
def test_frozen_weights_are_left_out(penalty, rest):
    model = small()
    model[0].weight.requires_grad_(False)
    assert penalty(model, batch_for(model)).item() == rest


@pytest.mark.parametrize("penalty", [l1, l2])
def test_a_network_without_such_weights_has_the_norm_zero(penalty):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten())
    value = penalty(model, batch_for(model))
    assert value.dim() == 0
    assert value.item() == 0


def test_a_weight_that_two_layers_share_counts_once():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    torch.testing.assert_close(l1(model, batch_for(model)).item(), model[1].weight.abs().sum().item())


def test_a_weight_of_zero_has_a_zero_gradient():
    model = small()
    model[0].weight.data.zero_()
    for penalty in (l1, l2):
        (grad,) = torch.autograd.grad(penalty(model, batch_for(model)), model[0].weight)
        assert torch.equal(grad, torch.zeros_like(grad))


def steps(weight_decay: float, weight: float) -> list[Tensor]:
    """Weights after three steps of SGD with momentum on an arbitrary loss, with decay in the optimiser or in the loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.Flatten(), nn.Linear(2, 3, bias=False)).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=weight_decay)
    x, ids = torch.rand(4, 1, 2, 2, dtype=torch.float64), torch.arange(4)
    for _ in range(3):
        logits = model(x)
        loss = logits.square().mean() + weight * l2(model, Batch(x, ids, x, logits, ids, 0.0, Draws(0, ids, "train")))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def test_l2_in_the_loss_is_the_weight_decay_of_sgd():
    for found, expected in zip(steps(0.0, 0.05), steps(0.05, 0.0), strict=True):
        torch.testing.assert_close(found, expected)
