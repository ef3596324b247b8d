"""L2 input gradient regularisation of the correct class, as Chen, Dong & Xie 2023 (2305.09305) compare their distillation with.

With g_y = dz_y/dx, the gradient of the logit of the label:

    R = mean_B ||g_y||_2^2

The logit is the raw one, so R is not blind to a function that is added to all logits and changes no prediction; a network can
lower R that way. The regulariser sagr with rho=inf (K/2 times R) and output=centred closes that way out.
"""

from __future__ import annotations

from torch import Tensor, nn

from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.gradients import class_gradient, field_of


@Facts(weight=0.1)
def input_l2(model: nn.Module, batch: Batch, *, at: str = "base") -> Tensor:
    """The squared norm of the true class's input gradient (after Chen et al. 2023).

    Of a mixed image the true class is the label of its larger part.

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        at: "base" for the images of the base loss, "clean" for the clean images.

    Returns:
        The scalar R = mean_B ||g_y||^2, at least 0.

    Raises:
        InputError: for an option that cannot be.
    """
    field = field_of(model, batch, at, lambda logits: logits)
    return class_gradient(field, batch.y).square().sum(1).mean()
