"""Which nonlinearities DeepLift and guided backpropagation treat, as modules and as calls of functions that can become modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Rules:
    """What a method treats.

    Attributes:
        modules: the classes of modules that Captum hooks.
        exactly: whether it hooks these classes alone and not their subclasses.
        makers: the name of a function -> what makes the module that a call of it becomes, or None where that call is no nonlinearity.
    """

    modules: tuple[type[nn.Module], ...]
    exactly: bool
    makers: dict[str, Callable[..., nn.Module | None]]

    def treats(self, module: nn.Module | None) -> bool:
        """Whether Captum hooks this module."""
        return type(module) in self.modules if self.exactly else isinstance(module, self.modules)


class PoolingWindows(nn.Module):
    """Lays the windows of a pooling side by side, so that none overlap: (B, C, H, W) to (B, C, h * kernel, w * kernel)."""

    def __init__(
        self, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], ceil: bool
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding, self.dilation, self.ceil = kernel, stride, padding, dilation, ceil

    def extra_repr(self) -> str:
        """The settings, by which two calls are told apart."""
        return f"{self.kernel}, {self.stride}, {self.padding}, {self.dilation}, {self.ceil}"

    def forward(self, x: Tensor) -> Tensor:
        """The windows; where they reach over the edge they hold the lowest number, which no maximum takes."""
        edges: list[int] = []
        for axis in (1, 0):
            size, span = x.shape[2 + axis] + self.padding[axis], self.dilation[axis] * (self.kernel[axis] - 1) + 1
            free = size + self.padding[axis] - span
            last = free // self.stride[axis] * self.stride[axis]
            if self.ceil and last < free and last + self.stride[axis] < size:  # torch: the last window begins before the right padding
                last += self.stride[axis]
            edges += [self.padding[axis], last + span - size]
        x = F.pad(x, edges, value=torch.finfo(x.dtype).min)
        for axis in (0, 1):
            x = x.unfold(2 + axis, self.dilation[axis] * (self.kernel[axis] - 1) + 1, self.stride[axis])[..., :: self.dilation[axis]]
        rows, columns = x.shape[2] * self.kernel[0], x.shape[3] * self.kernel[1]
        return x.permute(0, 1, 2, 4, 3, 5).reshape(*x.shape[:2], rows, columns)


def rectified_operand(name: str, args: tuple[Any, ...]) -> Tensor | None:
    """The x of maximum(x, 0), in either order and under any of its names; None for any other call."""
    if name not in ("maximum", "max", "fmax") or len(args) != 2 or not all(isinstance(arg, Tensor) for arg in args):
        return None
    for x, other in (args, args[::-1]):
        if is_zero(other) and torch.broadcast_shapes(x.shape, other.shape) == x.shape:
            return x  # type: ignore[no-any-return]
    return None


def is_zero(value: Any) -> bool:
    """Whether a number, or every entry of a tensor, is 0."""
    return bool((value == 0).all()) if isinstance(value, Tensor) else value is not None and value == 0


def has_plain_windows(pool: nn.MaxPool2d) -> bool:
    """Whether the pooling's windows lie side by side, without padding."""
    kernel, stride = row_column_pair(pool.kernel_size), row_column_pair(pool.stride)
    return kernel == stride and row_column_pair(pool.padding) == (0, 0) and row_column_pair(pool.dilation) == (1, 1) and not pool.ceil_mode


def operation_name(func: Any) -> str:
    """The name of a torch function or operation without overload and without the underscore of those that work in place."""
    return str(getattr(func, "__name__", "")).partition(".")[0].removesuffix("_")


def is_in_place(func: Any) -> bool:
    """Whether the function's name says that it works in place."""
    return str(getattr(func, "__name__", "")).partition(".")[0].endswith("_")


def row_column_pair(value: int | Iterable[int]) -> tuple[int, int]:
    """A pooling's setting for rows and columns."""
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    return values[0], values[-1]


# The makers: the module that a call of a function becomes, or None where it is no such nonlinearity; given what follows the input.


def relu_for_clamp(min: Any = None, max: Any = None) -> nn.Module | None:
    """The module that a call of clamp, clip or clamp_min becomes: a ReLU where it cuts at 0 from below alone, else None.

    Args:
        min: the lower bound of the call, a number or a tensor.
        max: the upper bound of the call.
    """
    return nn.ReLU() if max is None and is_zero(min) else None


def relu_for_threshold(threshold: Any, value: Any) -> nn.Module | None:
    """The module that a call of threshold becomes: a ReLU where what is not above 0 becomes 0, else None.

    Args:
        threshold: the threshold of the call.
        value: what takes the place of what is not above it.
    """
    return nn.ReLU() if is_zero(threshold) and is_zero(value) else None


def module_for_max_pool(
    kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, return_indices: bool = False
) -> nn.Module | None:
    """For max_pool2d: the pooling itself, or its windows laid side by side and then pooled."""
    if return_indices:
        return None
    kernel, step, edges, gaps = (
        row_column_pair(kernel_size),
        row_column_pair(stride or kernel_size),
        row_column_pair(padding),
        row_column_pair(dilation),
    )
    pool = nn.MaxPool2d(kernel, step, edges, gaps, ceil_mode=ceil_mode)
    return pool if has_plain_windows(pool) else nn.Sequential(PoolingWindows(kernel, step, edges, gaps, ceil_mode), nn.MaxPool2d(kernel))


RELUS: dict[str, Callable[..., nn.Module | None]] = {
    "relu": nn.ReLU,
    "clamp": relu_for_clamp,
    "clip": relu_for_clamp,
    "clamp_min": relu_for_clamp,
    "threshold": relu_for_threshold,
    "_threshold": relu_for_threshold,
}
RESCALE_MODULES: dict[str, Callable[..., nn.Module | None]] = RELUS | {
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "max_pool2d": module_for_max_pool,
}

GUIDED_RULES = Rules((nn.ReLU,), False, RELUS)
RULES = {
    # those of Captum's table but Softmax, whose rule there takes a mean over the whole batch, and pooling of other than images
    "deeplift": Rules((nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool2d), True, RESCALE_MODULES),
    "guided-backprop": GUIDED_RULES,
    "guided-grad-cam": GUIDED_RULES,
}

FUNCTIONS = {"max_pool2d_with_indices": "max_pool2d"}  # operations that reach the device under another name than the function's
FOREIGN = {
    "gelu": "gelu", "silu": "silu", "mish": "mish", "hardswish": "hardswish", "hardsigmoid": "hardsigmoid", "hardtanh": "hardtanh",
    "_prelu_kernel": "prelu", "celu": "celu", "log_sigmoid_forward": "log_sigmoid", "threshold": "threshold", "glu": "glu",
    "rrelu_with_noise": "rrelu", "_softmax": "softmax", "_log_softmax": "log_softmax", "softshrink": "softshrink",
    "hardshrink": "hardshrink", "adaptive_max_pool2d": "adaptive_max_pool2d",
}  # fmt: skip
COMPARISON = "what a comparison chooses"
KINKS = {
    "maximum": "maximum", "minimum": "minimum", "fmax": "fmax", "fmin": "fmin", "abs": "abs", "heaviside": "heaviside",
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), "clamp"), **dict.fromkeys(("gt", "ge", "lt", "le"), COMPARISON),
}  # fmt: skip
