"""What the tests of training objectives share: a small network in float64, images, and batches before and after x_adv is made."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.threat import Threat
from robench.core.types import Batch

THREATS = [Threat("linf", 0.1), Threat("l2", 0.5), Threat("l1", 2.0)]


def net(*layers: nn.Module, seed: int = 0) -> nn.Module:
    """A convolution, the layers, and 5 logits."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), *layers, nn.GELU(), nn.Flatten(), nn.Linear(64, 5)).double()


def images(n: int = 6) -> tuple[Tensor, Tensor]:
    """Grey images of 6x6 pixels with their labels."""
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.arange(n) % 5


def unmade(x: Tensor, y: Tensor, threat: Threat = THREATS[0], rows: Tensor | None = None, progress: float = 0.5) -> Batch:
    """A batch whose x_adv is yet to be made."""
    ids = torch.arange(len(x)) if rows is None else rows
    return Batch(x, y, x, x.new_empty(0), ids, progress, Draws(0, ids, "train"), threat=threat)


def made(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, progress: float = 0.5, teacher: nn.Module | None = None) -> Batch:
    """A batch as the loss sees it."""
    return replace(unmade(x, y, progress=progress), x_adv=x_adv, logits=model(x_adv), teacher=teacher)


def predicting(clean: list[list[float]], adversarial: list[list[float]], y: list[int], progress: float = 0.5) -> tuple[nn.Module, Batch]:
    """A network without weights and a batch whose clean and adversarial images it gives these probabilities."""
    model = nn.Flatten()
    x, x_adv = (torch.tensor(rows, dtype=torch.float64).log()[:, None, None] for rows in (clean, adversarial))
    return model, made(model, x, torch.tensor(y), x_adv, progress)
