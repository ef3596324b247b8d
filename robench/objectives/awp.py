"""Adversarial weight perturbation (Wu, Xia & Wang 2020, "Adversarial weight perturbation helps robust generalization", 2004.05884).

    min_w max_v L(w + v; x'),  ||v_l|| <= gamma ||w_l|| in every layer l;  one step:  v_l = gamma ||w_l|| g_l / ||g_l||,  g = dL/dw

The images x' stay those that were made for the weights w. The weights are trained by the gradient of L at w + v:

    with perturbed(model, lambda: loss_at(x_adv), gamma):
        gradients = torch.autograd.grad(loss_at(x_adv), weights)
    # here the weights are w again: step along the gradients

Everything that depends on the weights, the logits at x' first of all, must be computed anew inside the block, and the
gradients must be taken before it ends: a graph that outlives it is refused by autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robench.core.checks import number_option


def leave_gradients(gradients: Sequence[Tensor]) -> None:
    """One process has nobody to share its gradients with."""


@contextmanager
def perturbed_weights(
    model: nn.Module,
    loss_of: Callable[[], Tensor] | Sequence[Callable[[], Tensor]],
    gamma: float,
    *,
    reduce: Callable[[Sequence[Tensor]], None] = leave_gradients,
) -> Iterator[None]:
    """The model with its weights moved to where the loss is higher; they come back bit by bit at the end, whatever happens meanwhile.

    Moved are the parameters of two dimensions and more that require grad: kernels and matrices, no biases and no scales.
    The paper adds v, steps and subtracts v; as v is taken away before the step here, weight decay acts on w, not on w + v.

    Args:
        model: the network whose weights are moved in place.
        loss_of: the loss to raise, as a scalar with a graph to the weights; called once, in the model's own mode. Several are those of
            parts of one size of a batch, whose mean is raised.
        gamma: size of the move relative to each weight tensor, at least 0; 0.01 with PGD-AT and 0.005 with TRADES in the paper. At 0
            nothing is computed: that is how a warm-up is written.
        reduce: averages the gradients (a list of tensors, in place) over the processes that share a batch.

    Raises:
        InputError: for a gamma below 0 or not finite.
    """
    if number_option("the gamma of awp", gamma) == 0:
        yield
        return
    weights = perturbable_weights(model)
    gradients = weight_gradients(model, [loss_of] if callable(loss_of) else loss_of, weights)
    reduce(gradients)
    originals = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, grad in zip(weights, gradients, strict=True):
                weight.add_(weight_perturbation(weight, grad, gamma))
        yield
    finally:
        overwrite(weights, originals)


def perturbable_weights(model: nn.Module) -> list[nn.Parameter]:
    """The trained parameters of two dimensions and more, each once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.dim() >= 2]


def weight_gradients(model: nn.Module, losses: Sequence[Callable[[], Tensor]], weights: Sequence[Tensor]) -> list[Tensor]:
    """dL/dw for each of the weights, 0 where L, the mean of the losses, does not depend on one; no .grad and no buffer is changed.

    Args:
        model: its buffers, such as running statistics, are put back.
        losses: each a scalar with a graph; called once, one after the other.
        weights: the parameters by which the gradient is taken.
    """
    originals = [buffer.clone() for buffer in model.buffers()]
    try:
        sums = list(torch.autograd.grad(losses[0](), weights, materialize_grads=True))
        for loss_of in losses[1:]:
            more = torch.autograd.grad(loss_of(), weights, materialize_grads=True)
            sums = [total + grad for total, grad in zip(sums, more, strict=True)]
        return sums if len(losses) == 1 else [total / len(losses) for total in sums]
    finally:
        overwrite(list(model.buffers()), originals)


def weight_perturbation(weight: Tensor, grad: Tensor, gamma: float) -> Tensor:
    """gamma ||w|| g / ||g||, in the shape of the weight; 0 where g is 0.

    Args:
        weight: w, of any shape.
        grad: g, in the same shape.
        gamma: length of the move relative to that of the weight.
    """
    grad = grad / grad.abs().amax().clamp_min(torch.finfo(grad.dtype).tiny)  # no square can vanish now: the norm is 0 or at least 1
    perturbation: Tensor = gamma * torch.linalg.vector_norm(weight) * grad / torch.linalg.vector_norm(grad).clamp_min(1)
    return perturbation


@torch.no_grad()
def overwrite(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copies values into tensors in place.

    Args:
        tensors: what is overwritten.
        values: the values, one tensor each.
    """
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
