"""Baselines: the image that stands for "nothing there", from which attributions are counted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robench.core.checks import number_option
from robench.core.errors import InputError

NAMED_BASELINES = {"black": 0.0, "grey": 0.5, "white": 1.0}


def baseline_of(model: nn.Module, x: Tensor, baseline: float | str) -> Tensor:
    """The baseline of images, of the same shape, type and device; a tensor of its own.

    Black pixels get no attribution from a black baseline, so the choice moves every Gini and belongs to the number.

    Args:
        model: the classifier; read for "mean" alone.
        x: images (B, C, H, W), float in [0, 1].
        baseline: a pixel value in [0, 1]; "black", "grey" or "white"; or "mean", which is what the model's own normalisation maps to 0, the
            baseline of those who work on normalised inputs.

    Raises:
        InputError: where the baseline is unknown or outside [0, 1], and for "mean" where the model has no normalisation of pixels in [0,
            1].

    Example:
        >>> import torch
        >>> baseline_of(torch.nn.Identity(), torch.zeros(1, 1, 1, 2), "grey").tolist()
        [[[[0.5, 0.5]]]]
    """
    if baseline == "mean":
        return torch.zeros_like(x).add_(normalisation_mean(model, x.shape[1]).to(x))
    value = NAMED_BASELINES.get(baseline, baseline) if isinstance(baseline, str) else baseline
    if isinstance(value, str):
        raise InputError(f"unknown baseline {value!r}: choose black, grey, white, mean or a number between 0 and 1")
    return torch.full_like(x, number_option("baseline", value, most=1))


def normalisation_mean(model: nn.Module, channels: int) -> Tensor:
    """The mean that the model's first normalisation takes off, (C, 1, 1) or (1, 1, 1); InputErrors as in `normalisation_of`."""
    return normalisation_of(model, channels, "baseline=mean", "a number")[0]


def normalisation_of(model: nn.Module, channels: int, what: str, instead: str) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of the model's first normalisation, (C, 1, 1) or (1, 1, 1) each.

    A normalisation is a module with one `mean` and one `std` for each channel, or for all: tensors, as in our Normalize, or numbers, as in
    torchvision's.

    Args:
        model: the classifier whose modules are searched, in the order of `model.modules()`.
        channels: number of channels of the images.
        what: the option that needs the normalisation, for the sentence of an error.
        instead: what to give in its place, for that sentence.

    Raises:
        InputError: where there is none, and where its mean is no pixel in [0, 1]: it then works on another scale.
    """
    for module in model.modules():
        mean, std = as_flat_tensor(getattr(module, "mean", None)), as_flat_tensor(getattr(module, "std", None))
        if mean is None or std is None or mean.numel() != std.numel() or mean.numel() not in (1, channels):
            continue
        if not bool(((mean >= 0) & (mean <= 1)).all()):
            raise InputError(
                f"{what} needs a normalisation of pixels in [0, 1], and this model takes off {mean.tolist()}: give {instead} instead"
            )
        return mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
    raise InputError(f"{what} needs a model that normalises its input itself, and this one does not: give {instead} instead")


def as_flat_tensor(value: object) -> Tensor | None:
    """The numbers that a module's attribute holds, (n,); None for anything else, such as a method called mean."""
    if isinstance(value, Tensor):
        return value.detach().flatten()
    sequence = value if isinstance(value, (list, tuple)) else (value,)
    if not sequence or not all(isinstance(entry, (int, float)) for entry in sequence):
        return None
    return torch.tensor([float(entry) for entry in sequence if isinstance(entry, (int, float))])
