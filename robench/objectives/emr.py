"""EMR, effective margin regularisation (Liu & Chan, BMVC 2022, 2210.05118): slopes of the classes that compete, kept small.

Cross-entropy can be made small by longer rows of the Jacobian (the effective weights of the classes) as well as by a larger
distance to the boundary (the effective margin). The penalty takes the first way away: with logits z and p = softmax(z / T) held fixed,

    R = mean_B ||d/dx sum_c p_c z_c||_2^2 = mean_B ||J^T p||_2^2,   at the images of the base loss

The published code sums the squares of the gradient of a batch mean, so lambda there, at batch size B, is the weight lambda / B here.
With B = 128: 3 at T = 40 with PGD training is 0.0234; 1 at T = 1 with TRADES, and 1 at T = 0.1 with MAIL, is 0.0078. There lambda
falls to a tenth wherever the learning rate does.
"""

from __future__ import annotations

from torch import Tensor, nn

from robench.core.checks import positive_option
from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.gradients import at_least_float32, field_of, squared_vjp_norm


@Facts(weight=3 / 128, base="pgd-at")
def emr(model: nn.Module, batch: Batch, *, temperature: float = 40.0, at: str = "base") -> Tensor:
    """The squared length of the gradient of the expected logit (Liu & Chan 2022, 2210.05118).

    One double backward pass. Batch norm is in evaluation mode, and p comes from the same pass as the gradient.

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        temperature: T of the paper, above 0: a small one leaves the predicted class alone, a large one weighs all classes alike; 40 is the
            paper's with PGD training. Where logits are far below T, little more than the slope of their mean is penalised, and no
            prediction depends on that.
        at: "base" for the images of the base loss, as in the paper; "clean" for the clean images.

    Returns:
        The scalar R = mean_B ||J^T p||^2, at least 0.

    Raises:
        InputError: for an option that cannot be.
    """
    positive_option("temperature", temperature)
    field = field_of(model, batch, at, lambda logits: logits)
    p = (at_least_float32(field.out.detach()) / temperature).softmax(1)
    return squared_vjp_norm(field, p).mean()
