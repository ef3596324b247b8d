"""Parts that every network is put together from: activations, normalisation, and checks of what the user asked for."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from robench.core.errors import InputError

Act = Callable[[], nn.Module]
Shape = tuple[int, int, int]
HALF = (torch.float16, torch.bfloat16)


class Normalize(nn.Module):
    """Shifts and scales pixels, (x - mean) / std channel by channel; mean and std are buffers, so they are saved with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised images, (B, C, H, W)."""
        return (x - self.mean) / self.std


class CastNormalize(Normalize):
    """The same for a network in half precision: the pixels are normalised in float32, then cast."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> None:
        super().__init__(mean, std)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """The normalised images, (B, C, H, W), in the network's type."""
        return super().forward(x).to(self.dtype)


def half_precision(model: nn.Module) -> torch.dtype | None:
    """The type of weights in half precision, float16 or bfloat16; None where the model has none.

    Args:
        model: any module.
    """
    return next((parameter.dtype for parameter in model.parameters() if parameter.dtype in HALF), None)


def normalised_network(
    network: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, shape: Shape | None = None
) -> nn.Module:
    """The network behind a Normalize layer; the network itself where neither mean nor std is given."""
    if mean is None and std is None:
        return network
    if mean is None or std is None:
        raise InputError("normalisation needs both numbers: give mean and std, or neither")
    if len(mean) != len(std) or (shape is not None and len(mean) not in (1, shape[0])):
        raise InputError(f"mean and std need one number for each channel, not {len(mean)} and {len(std)}")
    if not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0:
        raise InputError(f"mean and std must be finite numbers and std above 0, not mean {tuple(mean)} and std {tuple(std)}")
    half = half_precision(network)
    return named_sequence(normalize=Normalize(mean, std) if half is None else CastNormalize(mean, std, half), network=network)


def named_sequence(**modules: nn.Module) -> nn.Sequential:
    """The modules one after the other, under the names that appear in the state_dict."""
    return nn.Sequential(OrderedDict(modules))


def activation_layer(act: Act, dropout: float) -> nn.Module:
    """A new activation, with dropout behind it where dropout > 0 (as one module, so that no key of the state_dict moves)."""
    if isinstance(dropout, (bool, str)) or not 0 <= dropout < 1:
        raise InputError(f"dropout must be a number of at least 0 and below 1, not {dropout!r}")
    return nn.Sequential(act(), nn.Dropout(dropout)) if dropout else act()


def refuse_small_images(side: int, shape: Shape, name: str) -> None:
    """InputError where the images are smaller than the network's strides allow."""
    if min(shape[1:]) < side:
        raise InputError(f"{name} needs images of at least {side}x{side} pixels, not {shape[1]}x{shape[2]}: choose another architecture")


def he_init(network: nn.Sequential, mode: str) -> nn.Sequential:
    """The network with normal weights of variance 2 / fan (He et al. 2015, 1502.01852) in convolutions; `mode` is fan_in or fan_out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # nothing to draw there, and torch would import its compiler for it
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")  # type: ignore[arg-type]
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


ACTIVATIONS: dict[str, Act] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    # log(1 + exp(10 t)) / 10, 0.07 above ReLU at 0: sharper than beta = 1, whose offset of 0.69 a layer piles up without batch norm [I]
    "softplus": partial(nn.Softplus, beta=10.0),
}
