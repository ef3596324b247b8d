"""Whether a normalisation was forgotten: clean accuracy on a few images with and without the usual ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robench.core.model_calls import padded_logits
from robench.core.statistics import mcnemar
from robench.models.layers import Normalize
from robench.models.weights import numbers_as_option

NORMALISATION_IMAGES = 64  # images that are looked at
SURE = 1e-3  # p value of the exact McNemar test, five times in a row
USUAL: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "MNIST's": ((0.1307,), (0.3081,)),
    "pixels from -1 to 1": ((0.5,), (0.5,)),
    "pixels from 0 to 255": ((0.0,), (1 / 255,)),
}


def normalises(model: nn.Module) -> bool:
    """Whether the model starts with a normalisation that robench has put there.

    Args:
        model: the model.
    """
    return any(isinstance(module, Normalize) for module in model.modules())


def forgotten_normalisation_notes(model: nn.Module, name: str, x: Tensor, y: Tensor) -> list[str]:
    """A note where the model is right on clearly more of the images with a usual normalisation than without.

    One pass is made for each normalisation; the random numbers stay as they were.

    Args:
        model: in eval mode, on the device of x.
        name: what the note calls it.
        x: images (N, C, H, W) in [0, 1], of which the first 64 are used.
        y: (N,) labels on the CPU.

    Returns:
        One sentence, or nothing where the difference could be chance (exact McNemar test, p above 0.001).
    """
    x, y = x[:NORMALISATION_IMAGES], y[:NORMALISATION_IMAGES]
    fitting = {what: pair for what, pair in USUAL.items() if len(pair[0]) in (1, x.shape[1])}
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []), torch.no_grad():
        plain = padded_logits(model, x).argmax(1).cpu() == y
        right = {what: padded_logits(model, Normalize(*pair).to(x.device)(x)).argmax(1).cpu() == y for what, pair in fitting.items()}
    best = max(right, key=lambda what: int(right[what].sum()))
    newly_right, newly_wrong = int((right[best] & ~plain).sum()), int((plain & ~right[best]).sum())
    if newly_right <= newly_wrong or mcnemar(newly_wrong, newly_right) > SURE:
        return []
    mean, std = fitting[best]
    numbers = f"--mean {numbers_as_option(mean)} --std {numbers_as_option(std)} ({best})"
    return [
        f"of the first {len(y)} images {name} is right on {int(right[best].sum())} with {numbers}, and on {int(plain.sum())} without: "
        "if it was trained so, pass these"
    ]
