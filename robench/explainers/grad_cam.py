"""Grad-CAM and guided Grad-CAM: which places of a layer speak for a class."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import did_you_mean, lookup, parse_literal
from robench.explainers.facts import MethodFacts
from robench.explainers.forward_survey import OperationRecorder, hookable_modules
from robench.explainers.hooks import filled_batch, maps_or_zeros, without_captum_traces
from robench.explainers.rebuilt_models import unwrapped_network

ATTENTION = ("scaled_dot_product", "multi_head_attention", "transformer_encoder_layer")  # parts of the names of operations
MODES = {"bilinear": "bilinear", "nearest": "nearest", "bicubic": "bicubic"}


@dataclass(frozen=True)
class Visit:
    """How a module was called in a forward pass.

    Attributes:
        calls: how often it was called so far.
        shape: the shape of its last output; () if that is no tensor.
    """

    calls: int
    shape: tuple[int, ...]


@MethodFacts(layer=True)
def grad_cam(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    draws: Draws,  # noqa: ARG001
    *,
    layer: str | int | float = "",
    interpolate: str = "bilinear",
) -> Tensor:
    """Grad-CAM: the activations of one layer, weighted by their gradients, at the size of the images, (B, 1, H, W), at least 0.

    The layer's channels, weighted by the mean over all places of the logit's gradient, are summed and cut at 0. An image without evidence
    for the class has an all-zero map. Source: Selvaraju et al. 2017 (1610.02391), by Captum.

    Args:
        model: the classifier, in eval mode with frozen parameters.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: not read.
        layer: a module's name as in model.named_modules(), or its end where that is unambiguous, such as layer3 for network.layer3. Empty
            for the last convolution (nn.Conv2d) in the order of the forward pass, refused where layers of tokens follow it, as in a ViT,
            whose last convolution only cuts the image into patches. The output of the layer must be (B, c, h, w).
        interpolate: "bilinear", as in the paper; "nearest" shows the layer's places as they are, and is Captum's default; or "bicubic",
            which may overshoot below 0.

    Raises:
        InputError: where the layer or the interpolation cannot be used, as in `chosen_layer`.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    mode, module = lookup(interpolate, MODES, "interpolation"), layer_module(model, x, layer)

    def attribute(images: Tensor, classes: Tensor) -> Any:
        method = LayerGradCam(model, module)
        small = method.attribute(images, target=classes, relu_attributions=True, grad_kwargs={"materialize_grads": True})
        return LayerAttribution.interpolate(small, tuple(images.shape[2:]), mode)

    with without_captum_traces(model):
        return maps_or_zeros(attribute, model, x, target, module)[:, :1]


@MethodFacts(layer=True)
def guided_grad_cam(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    draws: Draws,  # noqa: ARG001
    *,
    layer: str | int | float = "",
) -> Tensor:
    """Guided backpropagation times the Grad-CAM maps of the class's logit, (B, C, H, W), signed.

    The Grad-CAM maps come to the image's size bilinearly, as in the paper (Captum's default is nearest). Source: Selvaraju et al. 2017
    (1610.02391), by Captum.

    Args:
        model: the classifier, in eval mode with frozen parameters; see `explainable_model`.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: not read.
        layer: a module's name, or its end where that is unambiguous; empty for the last convolution.

    Raises:
        InputError: where the layer cannot be used, as in `chosen_layer`.
    """
    from captum.attr import GuidedGradCam

    module = layer_module(model, x, layer)

    def attribute(images: Tensor, classes: Tensor) -> Any:
        return GuidedGradCam(model, module).attribute(images, target=classes, interpolate_mode="bilinear")

    with without_captum_traces(model, "Setting backward hooks on ReLU"):
        return maps_or_zeros(attribute, model, x, target, module)


def layer_module(model: nn.Module, x: Tensor, layer: str | int | float) -> nn.Module:
    """The module that `layer` names, or the last convolution; InputErrors as in `chosen_layer`."""
    return chosen_layer(model, x, layer)[1]


def chosen_layer(model: nn.Module, x: Tensor, layer: str | int | float) -> tuple[str, nn.Module]:
    """The full name of the layer that Grad-CAM looks at, and its module.

    Args:
        model: the classifier.
        x: images (B, C, H, W) for a forward pass of the first two.
        layer: the layer's name as in `grad_cam`; "" for the last convolution.

    Raises:
        InputError: where no layer or several have the name, where the model calls the layer other than once or its output is not
            (B, c, h, w), and where layers of tokens follow the last convolution.
    """
    names = dict(unwrapped_network(model).named_modules(remove_duplicate=False))
    del names[""]
    visits = module_visits(model, x)
    last = [module for module in visits if isinstance(module, nn.Conv2d)][-1:]
    if layer == "":
        if not last:
            raise InputError(
                "the model calls no convolution (nn.Conv2d) that Grad-CAM could look at: choose another method or name a layer"
            )
        name, module = next(name for name, module in names.items() if module is last[0]), last[0]
        refuse_tokens(model, x, name, module)
    else:
        name = matching_layer_name(layer, names)
        module = names[name]
    visit = visits.get(module, Visit(0, ()))
    if visit.calls != 1:
        raise InputError(f"Grad-CAM needs a layer that is called once in a forward pass, and {name!r} is called {visit.calls} times")
    if len(visit.shape) != 4 or visit.shape[0] != 2:
        raise InputError(f"Grad-CAM needs a layer whose output is (B, c, h, w), and that of {name!r} is not: name a convolution or a stage")
    if has_channels_last(module, visit.shape):
        shape = ", ".join(map(str, visit.shape[1:]))
        raise InputError(f"Grad-CAM needs a layer whose output is (B, c, h, w), and that of {name!r}, (B, {shape}), has its channels last")
    return name, module


def refuse_tokens(model: nn.Module, x: Tensor, name: str, last: nn.Module) -> None:
    """InputError where attention or layers of tokens, (B, tokens, c), follow the model's last convolution."""
    after: list[str] = []
    past_last = False

    def leave(module: nn.Module, _: tuple[object, ...], output: object) -> None:
        nonlocal past_last
        past_last = past_last or module is last
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        if past_last and isinstance(module, (nn.Linear, nn.LayerNorm)) and len(shape) == 3 and shape[1] > 1:
            after.append("layers of tokens")

    def record(operation: str, args: tuple[Any, ...]) -> None:
        mixed = operation == "_softmax" and args[0].dim() > 2
        if past_last and (mixed or any(part in operation for part in ATTENTION)):
            after.append("attention")

    handles = [module.register_forward_hook(leave) for module in hookable_modules(model)]
    try:
        with torch.no_grad(), OperationRecorder(record):
            model(filled_batch(x[:2])[:2])
    finally:
        for handle in handles:
            handle.remove()
    if after:
        raise InputError(
            f"Grad-CAM looks at the last convolution, {name!r}, and in this model it is followed by {after[0]}, which it would not see: "
            "choose another method, or name a layer with output (B, c, h, w)"
        )


def has_channels_last(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether an output (B, ., ., .) is (B, h, w, c): its last axis, and not its second, is as long as what a layer inside gives."""
    widths = {part.out_features for part in module.modules() if isinstance(part, nn.Linear)}
    widths |= {part.normalized_shape[-1] for part in module.modules() if isinstance(part, nn.LayerNorm)}
    return shape[3] in widths and shape[1] not in widths


def matching_layer_name(layer: str | int | float, names: dict[str, nn.Module]) -> str:
    """The one name that is `layer`, reads as that number (a recipe turns `layer=6` into a number), or ends in it."""
    matches = [name for name in names if name == layer] or [name for name in names if reads_as_number(name, layer)]
    matches = matches or [name for name in names if name.endswith(f".{layer}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(f"layer {str(layer)!r} may be {matches[0]!r} or {matches[1]!r}: write more of its name")
    ends = {end for name in names for end in accumulate(reversed(name.split(".")), lambda tail, head: f"{head}.{tail}")}
    near = did_you_mean(str(layer), ends)
    raise InputError(f"unknown layer {str(layer)!r}{near if 'did you mean' in near else ': it is a name of model.named_modules()'}")


def reads_as_number(name: str, layer: str | int | float) -> bool:
    """Whether a recipe would read the name as this number: 2 is not 2.0, but 1.10 is 1.1."""
    value = parse_literal(name)
    return value == layer and type(value) is type(layer)


def module_visits(model: nn.Module, x: Tensor) -> dict[nn.Module, Visit]:
    """The modules that a forward pass of two rows calls, in the order in which they were last left."""
    visits: dict[nn.Module, Visit] = {}

    def leave(module: nn.Module, _: tuple[object, ...], output: object) -> None:
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        visits[module] = Visit(visits.pop(module, Visit(0, ())).calls + 1, shape)

    handles = [module.register_forward_hook(leave) for module in hookable_modules(model)]
    try:
        with torch.no_grad():
            model(filled_batch(x[:2])[:2])
    finally:
        for handle in handles:
            handle.remove()
    return visits
