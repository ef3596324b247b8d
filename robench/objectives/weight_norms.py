"""Norms of the weights: the lasso (Tibshirani 1996, 10.1111/j.2517-6161.1996.tb02080.x) and weight decay (Krogh & Hertz 1991, NeurIPS 4).

    l1 = sum |w|,   l2 = 1/2 sum w^2,   over the trainable weight matrices and kernels

That is every parameter with a gradient and at least two dimensions. Biases and the scales and shifts of normalisation layers are left
out (our choice): they are few, and to shrink them changes what a layer can represent rather than how strongly it reacts.

Both are terms of the loss. The gradient of l2 is w, so a weight of 5e-4 is what --weight-decay 5e-4 does to these parameters under SGD.
Under Adam the gradient is divided by its running size like any other, whereas AdamW (Loshchilov & Hutter 2019, 1711.05101) shrinks
the weights beside the gradient step: there the two differ. Neither knows of the weight decay of the optimiser, which is added to it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from robench.core.types import Batch
from robench.objectives.facts import Facts


@Facts(weight=1e-5, defence=False, input_gradient=False, second_derivative=False)
def l1(model: nn.Module, batch: Batch) -> Tensor:
    """The sum of the sizes of all trainable weights of matrices and kernels (Tibshirani 1996).

    Args:
        model: the network in training.
        batch: tells the type and the device of a sum over nothing; else it plays no part.

    Returns:
        The scalar sum |w|.
    """
    return weight_sum(model, batch, lambda weight: weight.abs().sum())


@Facts(weight=5e-4, defence=False, input_gradient=False, second_derivative=False)
def l2(model: nn.Module, batch: Batch) -> Tensor:
    """Half the sum of squares of all trainable weights of matrices and kernels (Krogh & Hertz 1991).

    Args:
        model: the network in training.
        batch: tells the type and the device of a sum over nothing; else it plays no part.

    Returns:
        The scalar 1/2 sum w^2.
    """
    return weight_sum(model, batch, lambda weight: weight.square().sum() / 2)


def weight_sum(model: nn.Module, batch: Batch, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum of a measure over the trainable parameters with at least two dimensions, each once; 0 if there is none.

    Args:
        model: the network in training.
        batch: tells the type and the device.
        measure: measure(weight) -> a scalar.
    """
    weights = (weight for weight in model.parameters() if weight.requires_grad and weight.dim() >= 2)
    return sum(map(measure, weights), start=batch.x.new_zeros(()))
