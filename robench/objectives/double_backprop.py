"""Double backpropagation (Drucker & LeCun 1992, "Improving generalization performance using double backpropagation", 10.1109/72.165600).

Used against adversarial images by Ross & Doshi-Velez 2018 (1711.09404). With the cross-entropy l and its gradient g = dl/dx:

    R = mean_B ||g||_2^2

In terms of the logits z, g = J^T (p - onehot(y)), and p = softmax(z) keeps its graph. R equals the loss form of SAGR at rho = 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robench.core.recipes import lookup
from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.gradients import Field, at_least_float32, field_of, vjp
from robench.objectives.sagr import GRADIENT_NORMS
from robench.objectives.terms import cross_entropies


@Facts(weight=0.3)
def double_backprop(model: nn.Module, batch: Batch, *, norm: str = "l2sq", at: str = "base") -> Tensor:
    """The norm of the loss's input gradient (Drucker & LeCun 1992; Ross & Doshi-Velez 2018).

    The cross-entropy is the plain one, without label smoothing; of mixed images, the one with their mixed labels.

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        norm: N: "l2sq", the squared Euclidean norm of the papers; "l2"; "l1", which is dual to a linf threat (these two are ours).
        at: "base" for the images of the base loss, "clean" for the clean images.

    Returns:
        The scalar R = mean_B N(g), at least 0.

    Raises:
        InputError: for an option that cannot be.
    """
    measure = lookup(norm, GRADIENT_NORMS, "norm of double_backprop")
    return measure(loss_gradient(loss_field(model, batch, at))).mean()


def loss_field(model: nn.Module, batch: Batch, at: str) -> Field:
    """The field whose only output, (B, 1), is the plain cross-entropy with the batch's labels, in float32 at least.

    Args:
        model: the network in training.
        batch: the images of one step.
        at: "base" or "clean", see `points_and_logits`.
    """

    def losses(logits: Tensor) -> Tensor:
        return cross_entropies(at_least_float32(logits), batch)[:, None]

    return field_of(model, batch, at, losses)


def loss_gradient(field: Field) -> Tensor:
    """The input gradient of a loss field, (B, D), with its graph.

    Args:
        field: as `loss_field` gives it.
    """
    return vjp(field, torch.ones_like(field.out))
