"""What the tests of explainers and of scores share: draws, the hooks on a module, images explained by their gradient."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.types import ExplainedImages


def draws(n: int) -> Draws:
    """Draws of the samples 0 to n - 1."""
    return Draws(0, torch.arange(n))


def hooks_of(module: nn.Module) -> int:
    """How many hooks hang on a module itself."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks) + len(module._backward_pre_hooks)


def gradient(model: nn.Module, x: Tensor, target: Tensor, draws: Draws) -> Tensor:
    """A method: the gradient of each image's logit of its target."""
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        total = model(leaf).gather(1, target[:, None]).sum()
    return torch.autograd.grad(total, leaf)[0]


def asked(
    problem, explain=gradient, *, x: Tensor | None = None, maps: Tensor | None = None, target: Tensor | None = None
) -> ExplainedImages:
    """The problem explained by a method, or by the given maps; for its labels, or for other targets; on its images, or on others."""
    model, x = problem.model.eval().requires_grad_(False), problem.x.detach() if x is None else x
    target = problem.y if target is None else target
    maps = explain(model, x, target, problem.draws(key="maps")) if maps is None else maps
    return ExplainedImages(model, x, problem.y, target, model(x), maps, maps.abs(), explain, problem.draws())


def part(explained: ExplainedImages, keep: slice) -> ExplainedImages:
    """Some of the images."""
    rows = ("x", "y", "target", "logits", "maps", "sizes")
    return replace(explained, draws=explained.draws.take(keep), **{name: getattr(explained, name)[keep] for name in rows})
