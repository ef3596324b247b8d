"""What the tests of training objectives share: small networks in float64, images, batches before and after x_adv is made, stand-ins."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.threat import Threat
from robench.core.types import Batch

THREATS = [Threat("linf", 0.1), Threat("l2", 0.5), Threat("l1", 2.0)]

# networks, and images that fit them


def net(*layers: nn.Module, classes: int = 5, seed: int = 0) -> nn.Sequential:
    """A convolution with four channels, the layers, and logits, for `images`."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), *layers, nn.GELU(), nn.Flatten(), nn.Linear(64, classes)).double()


def images(n: int = 6, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Grey images of 6x6 pixels with their labels."""
    return uniform_images(n, 6), torch.arange(n) % classes


def small_net(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    """A convolution with three channels, the layers, and 4 logits, for `small_images`."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), *layers, nn.GELU(), nn.Flatten(), nn.Linear(27, 4)).double()


def small_images(n: int = 5) -> tuple[Tensor, Tensor]:
    """Grey images of 5x5 pixels with their labels."""
    return uniform_images(n, 5), torch.arange(n) % 4


def uniform_images(n: int, side: int) -> Tensor:
    """Grey images of independent pixels."""
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Sequential:
    """A linear model with this matrix (K, D), and with a random bias where none is given."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], len(weight))).double()
    model[1].weight.data.copy_(weight)
    if bias is not None:
        model[1].bias.data.copy_(bias)
    return model


def random_linear(seed: int = 0) -> nn.Sequential:
    """A linear model for `small_images`, drawn as torch draws it."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(25, 4)).double()


class Shifted(nn.Module):
    """Adds one function of the image to all logits: no prediction and no loss changes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 3 * x.flatten(1).sum(1, keepdim=True).sin()


class Constant(nn.Module):
    """Logits that do not depend on the image at all."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(classes, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), -1)


# batches


def unmade(
    x: Tensor, y: Tensor, threat: Threat = THREATS[0], *, ids: Tensor | None = None, progress: float = 0.5, **fields: object
) -> Batch:
    """A batch whose x_adv is yet to be made."""
    ids = torch.arange(len(x)) if ids is None else ids
    return Batch(x, y, x, x.new_empty(0), ids, progress, Draws(0, ids, "train"), threat=threat, **fields)


def made(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, **fields: object) -> Batch:
    """A batch as the loss of an objective sees it."""
    return replace(unmade(x, y, **fields), x_adv=x_adv, logits=model(x_adv))


def batch_of(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat = THREATS[0], *,
    x_adv: Tensor | None = None, ids: Tensor | None = None, seed: int = 0, progress: float = 0.9, **fields: object,
) -> Batch:  # fmt: skip
    """A batch as a regulariser sees it, late in the training: x_adv requires grad; it is x where none is given."""
    ids = torch.arange(len(x)) if ids is None else ids
    x_adv = (x if x_adv is None else x_adv).detach().requires_grad_()
    return Batch(x, y, x_adv, model(x_adv), ids, progress, Draws(seed, ids, "train"), threat=threat, **fields)


def predicting(clean: list[list[float]], adversarial: list[list[float]], y: list[int], progress: float = 0.5) -> tuple[nn.Module, Batch]:
    """A network without weights and a batch whose clean and adversarial images it gives these probabilities."""
    model = nn.Flatten()
    x, x_adv = (torch.tensor(rows, dtype=torch.float64).log()[:, None, None] for rows in (clean, adversarial))
    return model, made(model, x, torch.tensor(y), x_adv, progress=progress)


@dataclass(frozen=True)
class AllSigns:
    """Stands in for Draws: sample i gets the i-th of the 2^n vectors of n signs, so that a batch of 2^n averages over all."""

    ids: Tensor

    def child(self, *names: object) -> AllSigns:
        return self

    def signs(self, shape: tuple[int, ...], step: int = 0) -> Tensor:
        return (self.ids.view(-1, *[1] * len(shape)) >> torch.arange(math.prod(shape)).view(shape) & 1).double() * 2 - 1


# probabilities of three images, clean and attacked, and their labels
CLEAN = [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2]]
ADVERSARIAL = [[0.3, 0.6, 0.1], [0.15, 0.05, 0.8], [0.2, 0.3, 0.5]]
LABELS = [0, 2, 1]

# gradients


def weight_gradients(model: nn.Module, value: Tensor) -> Tensor:
    """The gradient of a value in all weights, in one row; 0 for those that it does not depend on."""
    grads = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, materialize_grads=True)
    return torch.cat([grad.flatten() for grad in grads])
