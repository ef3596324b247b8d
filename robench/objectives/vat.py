"""VAT, virtual adversarial training (Miyato et al. 2018, "Virtual adversarial training: a regularization method ...", 1704.03976).

    R = mean_B KL(p_x || p_{x+r}),   r = radius * d / ||d||_2

p_x = softmax of the logits at x is a constant: only the branch at x + r is trained. d is the direction in which the divergence grows
fastest from x, the top eigenvector of its Hessian H = J^T (diag(p) - p p^T) J. Power iteration finds it from a random start,

    d <- grad_r KL(p_x || p_{x+r}) at r = xi d, which is about xi H d,

so no label is needed. x + r may leave [0, 1], as in the paper.

The passes that look for d are made in evaluation mode, p_x included: otherwise the divergence would not be least at r = 0. The two
passes of the loss are made in the mode of the model, and the one at x + r leaves the running statistics of batch norm as they are,
as in the authors' code.

The paper's xi is 1e-6. In float32 and pixels in [0, 1] such a probe is lost in rounding: on small networks with 3072 inputs the mean
cosine of d with the exact step of the power method was below 0.1 for xi = 1e-6, 0.99 for 1e-3, above 0.998 from 0.01 to 0.1, and less
again from 0.3 on, where the curvature bends it. With products rounded to TF32 it was 0.4 for 0.01 and 0.9 for 0.1: hence our default of
0.1, which is a move of 0.002 in each of 3072 subpixels. The divergence is taken in float64 meanwhile, or p would be too coarse near 1.

The paper's radius of 8 on CIFAR-10 is for whitened images. On plain pixels it takes 2.5 (3.5 with augmentation) on SVHN, which is 0.045
(0.063) times the square root of the number of subpixels; our default of 0.05 times that root is in between.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robench.core.checks import positive_option, whole_option
from robench.core.model_calls import freeze_model
from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.gradients import at_least_float32, unit_vectors, unrecorded_logits
from robench.objectives.terms import clean_logits, kl


@Facts(second_derivative=False, lengths=("radius", "xi"), gradient_free_options={"iterations": 0})
def vat(model: nn.Module, batch: Batch, *, radius: float | None = None, iterations: int = 1, xi: float = 0.1) -> Tensor:
    """The divergence between the answers at an image and at the worst point of a sphere around it (Miyato et al. 2018).

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        radius: Euclidean length of r in pixel units, above 0; sqrt(D) / 20 if not given: 2.8 for 3x32x32.
        iterations: of the power method; 0 takes the random start itself, which is the paper's random perturbation training.
        xi: Euclidean length of the probe in pixel units, above 0; x + r is not cut to [0, 1].

    Returns:
        The scalar R of the module's head, at least 0.

    Raises:
        InputError: for an option that cannot be.
    """
    length = math.sqrt(batch.x[0].numel()) / 20 if radius is None else positive_option("the radius of vat", radius)
    target = clean_logits(model, batch).detach()
    worst = adversarial_direction(
        model, batch, whole_option("the iterations of vat", iterations, least=0), positive_option("xi of vat", xi)
    )
    return kl(at_least_float32(target), at_least_float32(unrecorded_logits(model, batch.x + length * worst))).mean()


def adversarial_direction(model: nn.Module, batch: Batch, iterations: int, xi: float) -> Tensor:
    """The direction d that the power method has reached, (B, C, H, W) of Euclidean length 1; 0 where the divergence is flat.

    Args:
        model: the network in training; it is in evaluation mode meanwhile.
        batch: gives images and the random numbers of the start.
        iterations: of the power method, at least 0.
        xi: Euclidean length of the probe in pixel units.
    """
    x = batch.x.detach()
    d = unit_vectors(batch.draws.child("vat").normal(x.shape[1:]).to(x))
    if iterations == 0:
        return d
    with freeze_model(model), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        target = model(x).detach().double()
        for _ in range(iterations):
            d = d.requires_grad_()
            (grad,) = torch.autograd.grad(kl(target, model(x + xi * d).double()).sum(), d)
            d = unit_vectors(grad)
    return d
