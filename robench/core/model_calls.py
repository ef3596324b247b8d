"""How a model is called by whatever measures it: frozen, never with a handful of rows, and with gradients to the input alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from robench.core.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")
LEAST_ROWS = 16  # a smaller batch is padded: logits differ in the last bits between batches of 1, 7 and 50
LEAST_LARGE_ROWS = 4  # where images are large, passes are dear and only batches below 4 differ (ResNets and a ViT at 64 to 224 pixels)
SMALL_PIXELS = 64 * 64  # of a plane, from which on images are large
CUT_GRAPH = "the logits have no gradient with respect to the images: attacks that follow gradients are blind"
ZERO_GRADIENT = "the input gradient of the loss is exactly 0 on every image of a batch: the attack is blind"
NAN_GRADIENT = "the input gradient of the loss is NaN or infinite in places, which count as 0: the attack may be blind there"
FULL_ROWS = 64  # where one image asks for many passes, a call takes so many rows if there are fewer images: several passes of each


@contextmanager
def freeze_model(model: nn.Module, device: str | torch.device | None = None) -> Iterator[None]:
    """Puts the model into eval mode with frozen parameters; each module's mode and each parameter's flag come back at the end.

    Args:
        model: any module.
        device: the device that the model is moved to meanwhile; then its buffers too come back, with the values that they had, where a
            forward pass changed them. None leaves it where it is.

    Raises:
        InputError: where its weights were made inside torch.inference_mode().
    """
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise InputError("the model's weights were made inside torch.inference_mode() and allow no gradients: build or load it outside")
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with nullcontext() if device is None else hold_on_device(model, device):
        try:
            into_eval(model)
            for parameter, _ in flags:  # one by one: a TorchScript program has no requires_grad_ of its own
                parameter.requires_grad_(False)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


def into_eval(model: nn.Module) -> nn.Module:
    """The model in eval mode, also where its own `train` fails, takes no mode or leaves modules in training mode.

    A stored program has no modes: its flag alone changes, as it refuses everything else.

    Args:
        model: any module; it is changed in place.
    """
    with suppress(Exception):  # the user's code may do anything here; what it leaves undone is done below
        model.eval()
    for module in model.modules():
        if module.training:
            module.training = False
    return model


@contextmanager
def hold_on_device(model: nn.Module, device: str | torch.device) -> Iterator[None]:
    """The model on `device`; at the end it lies where it lay, with the buffers that it had. One on several devices stays where it is."""
    homes = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    own = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    buffers = [
        (module, name, value, value.detach().clone()) for module in own for name, value in module._buffers.items() if value is not None
    ]
    if len(homes) <= 1:
        model.to(device)
    try:
        yield
    finally:
        if len(homes) == 1:
            model.to(next(iter(homes)))
        for module, name, buffer, value in buffers:
            if not torch.equal(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)
            module._buffers[name] = buffer


def are_probabilities(logits: Tensor) -> Tensor:
    """Which rows of the outputs are probabilities, (B,) bool: between 0 and 1, with the sum 1, to 1e-5 or to what their dtype resolves.

    This is AutoAttack's rule (Croce & Hein 2020, 2003.01690, its code); one output alone is none.

    Args:
        logits: outputs of a model, (B, K).
    """
    slack = max(1e-5, 4 * torch.finfo(logits.dtype).eps)
    rows = logits.double()
    inside = (rows > -slack).all(1) & (rows < 1 + slack).all(1)
    return inside & ((rows.sum(1) - 1).abs() < slack) & (logits.shape[1] > 1)


def least_rows(x: Tensor) -> int:
    """How many rows a call of a model has at least: LEAST_ROWS, for images of more than SMALL_PIXELS pixels LEAST_LARGE_ROWS.

    Args:
        x: images (R, C, H, W); only their size is looked at.

    Example:
        >>> least_rows(torch.zeros(1, 3, 32, 32)), least_rows(torch.zeros(1, 3, 224, 224))
        (16, 4)
    """
    return LEAST_ROWS if math.prod(x.shape[2:]) <= SMALL_PIXELS else LEAST_LARGE_ROWS


def padded_logits(model: nn.Module, x: Tensor) -> Tensor:
    """The model's logits at x, (R, K) float, from a call with at least `least_rows(x)` rows: copies of the first row fill it up.

    Logits in bf16 or fp16 come back in float32, as in `widened_logits`.

    Args:
        model: maps images to logits.
        x: images (R, C, H, W), R at least 1.
    """
    missing = least_rows(x) - len(x)
    filled = torch.cat((x, x[:1].expand(missing, *x.shape[1:]))) if missing > 0 else x
    logits: Tensor = model(filled)
    return widened_logits(logits[: len(x)])


def widened_logits(logits: Tensor) -> Tensor:
    """The logits in float32 where they come in bf16 or fp16, in which a loss has few digits: the same values, so the same labels."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def leaf_gradient(total: Tensor, leaf: Tensor, again: bool = False, enough: int | None = None, tell: bool = False) -> Tensor:
    """The gradient of `total` at the leaf, (R, C, H, W); entries that are not finite are 0.

    Where the model has cut the graph, all of it is 0, and a RuntimeWarning says so.

    Args:
        total: the sum of the losses, a scalar.
        leaf: the images (R, C, H, W) that gradients are taken to.
        again: keep the graph for another backward pass.
        enough: warn also where the gradients of so many images or more are all exactly 0, though the graph is whole; None never does.
        tell: warn also where an entry is not finite.
    """
    grad = torch.autograd.grad(total, leaf, retain_graph=again, allow_unused=True)[0] if total.requires_grad else None
    if grad is None:
        warnings.warn(CUT_GRAPH, RuntimeWarning, stacklevel=2)
        return torch.zeros_like(leaf)
    if enough is not None and len(grad) >= enough and not bool(grad.any()):
        warnings.warn(ZERO_GRADIENT, RuntimeWarning, stacklevel=2)
    if tell and not bool(grad.isfinite().all()):
        warnings.warn(NAN_GRADIENT, RuntimeWarning, stacklevel=2)
    return grad.nan_to_num(0.0, 0.0, 0.0)


def copies_per_call(images: int) -> int:
    """How many variants of so many images go into one model call: as many as fit FULL_ROWS rows, at least one.

    Args:
        images: number of images, at least 1.
    """
    return max(1, FULL_ROWS // images)


def call_ranges(images: int, count: int) -> Iterator[range]:
    """The numbers 0 .. count - 1 of the variants of each image, in the groups that go into one model call together.

    Args:
        images: number of images, at least 1; a call has at most max(images, FULL_ROWS) rows.
        count: number of variants of each image.
    """
    size = copies_per_call(images)
    return (range(first, min(first + size, count)) for first in range(0, count, size))


def leaf_of(x: Tensor) -> Tensor:
    """The images as a tensor that gradients are taken to; a copy where they were made in inference mode.

    Args:
        x: images (R, C, H, W).
    """
    return autograd_tensor(x).detach().requires_grad_()


def autograd_tensor(x: Tensor) -> Tensor:
    """The tensor itself, or a copy where it was made in inference mode, because autograd refuses such a tensor.

    Args:
        x: any tensor.
    """
    return x.clone() if x.is_inference() else x


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called outside of torch.inference_mode() whatever mode its caller is in: inside there are no gradients.

    Args:
        function: any function that takes gradients.
    """

    @wraps(function)
    def outside(*args: P.args, **options: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **options)
        with torch.inference_mode(False):
            return function(*args, **options)

    return outside
