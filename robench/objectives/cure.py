"""CURE, curvature regularisation (Moosavi-Dezfooli et al. 2019, "Robustness via curvature regularization, and vice versa", 1811.09716).

With the cross-entropy l, its gradient g = dl/dx and the direction z = sign(g) / ||sign(g)||_2, held fixed:

    R = mean_B ||g(x + h z) - g(x)||_2^2

which is about h^2 ||H z||^2 for the Hessian H of l in x. Both gradients keep their graphs, and batch norm is in evaluation mode.

The public implementation has the weight 4 and h = 0.1, 0.4, 0.8, 1.8 and 3, one in each of the first five of ten epochs, on images
divided by their standard deviation, about 0.2, and takes the length in place of its square: the weight does not carry over. In
pixels in [0, 1] its steps are a fifth of that, so h = 0.6 stands for 3 (our reading). The five are kept as shares of the last.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robench.core.checks import positive_option, switch_option
from robench.core.types import Batch
from robench.objectives.double_backprop import loss_field, loss_gradient
from robench.objectives.facts import Facts
from robench.objectives.gradients import Field

STEP_SHARES = tuple(step / 3 for step in (0.1, 0.4, 0.8, 1.8, 3.0))  # shares of h, each for a tenth of the training, the last from there on


@Facts(lengths=("h",))
def cure(model: nn.Module, batch: Batch, *, h: float = 0.6, ramp: bool = True, at: str = "base") -> Tensor:
    """The squared change of the loss's input gradient over a step uphill (Moosavi-Dezfooli et al. 2019).

    The cross-entropy is the plain one, without label smoothing. The moved image may leave [0, 1].

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        h: length of the step, the Euclidean norm in pixel units, above 0; in D subpixels each moves by h / sqrt(D).
        ramp: h grows in five stages over the first four tenths of the training; False takes h from the start.
        at: "base" for the images of the base loss, "clean" for the clean images.

    Returns:
        The scalar R of the module's head, at least 0.

    Raises:
        InputError: for an option that cannot be.
    """
    length = positive_option("the step h of cure", h) * (step_share(batch.progress) if switch_option("ramp", ramp) else 1.0)
    field = loss_field(model, batch, at)
    here = loss_gradient(field)
    end = (field.x.detach() + length * unit_signs(here.detach()).view_as(field.x)).requires_grad_()
    there = loss_gradient(Field(end, field.at(end), field.at))
    return (there - here).square().sum(1).mean()


def step_share(progress: float) -> float:
    """The share of h, in (0, 1], at a point of the training.

    Args:
        progress: share of the training that is done, in [0, 1).

    Example:
        >>> step_share(0.45)
        1.0
    """
    return STEP_SHARES[min(int(10 * progress), len(STEP_SHARES) - 1)]


def unit_signs(grads: Tensor) -> Tensor:
    """The signs of gradients at Euclidean length 1, (B, D); 0 where the whole gradient is 0.

    Args:
        grads: (B, D).
    """
    signs = grads.sign()
    length: Tensor = torch.linalg.vector_norm(signs, dim=1, keepdim=True)
    return signs / length.clamp_min(1)
