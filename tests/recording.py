"""Models that write down what they are shown: every image, for tests of the pixels that reach a model, or only how many."""

from __future__ import annotations

import torch
from places import CHECKPOINT
from torch import Tensor, nn

from robench import load_model

SEEN: list[Tensor] = []  # of all such models, and of their copies


class Recording(nn.Module):
    """A model behind a module that keeps what goes in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, torch.fx.Proxy):  # as where batch norms are folded: what is searched with then writes nothing down
            SEEN.append(x.detach().cpu().clone())
        return self.model(x)


class Listening(nn.Module):
    """The model; keeps a copy of what it was asked about, call by call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.asked = model, []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return self.model(x)


class Watched(nn.Module):
    """The model; counts the rows of forward and backward passes, call by call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, [], []

    def forward(self, x: Tensor) -> Tensor:
        self.forwards.append(len(x))
        if x.requires_grad:
            x.register_hook(lambda grad: self.backwards.append(len(grad)))
        return self.model(x)


def plain() -> nn.Module:
    """The network of the checkpoint."""
    return Recording(load_model(CHECKPOINT))


def normed() -> nn.Module:
    """The same behind a convolution and a batch norm that change next to nothing, but can be folded, which moves last bits."""
    conv, norm = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[:, :, None, None])
        norm.running_mean.fill_(0.013)
        norm.running_var.fill_(1.1)
        norm.weight.fill_(1.1**0.5)
        norm.bias.fill_(0.013)
    return Recording(nn.Sequential(conv, norm, load_model(CHECKPOINT)).eval())


def seen_by(call, *words) -> set[bytes]:
    """The images, (C, H, W) float each, that models are shown during a call."""
    SEEN.clear()
    call(*words)
    return {image.contiguous().numpy().tobytes() for batch in SEEN for image in batch}
