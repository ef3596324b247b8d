"""The named architectures, and `build`, which makes a network from a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from robench.errors import InputError
from robench.models.foreign import from_code, from_timm, from_torchvision
from robench.models.layers import ACTIVATIONS, Shape, normalised, whole
from robench.models.resnet import cifar_resnet, preact_resnet18, resnet18, wide_resnet
from robench.models.small import cnn, lenet, mlp, smallcnn, two_conv
from robench.recipes import Recipe, lookup, parse, resolve


def build(
    name: str,
    *,
    classes: int,
    shape: Shape,
    activation: str = "relu",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> nn.Module:
    """A network with random weights (torch's global generator) that maps pixels in [0, 1], (B, *shape), to logits (B, classes).

    `name` is a key of ARCHITECTURES, `tv/NAME`, `timm/NAME`, or the user's `file.py:factory` or `module:factory`; options may follow
    it, as in `cnn,width=32`. With `mean` and `std` (one number a channel) the network starts with a Normalize layer.
    """
    recipe = parse(name)
    if recipe.weight is not None:
        raise InputError(f"an architecture has no weight: write {recipe.name!r}, then options as key=value, parted by commas")
    act = lookup(activation, ACTIVATIONS, "activation")
    if len(shape) != 3:
        raise InputError(f"the shape of an image is channels, height and width, not {tuple(shape)}")
    checked = (whole("channels", shape[0]), whole("height", shape[1]), whole("width", shape[2]))
    merged = Recipe(recipe.name, None, recipe.options | options)
    source = next((make for prefix, make in FOREIGN.items() if prefix in recipe.name), None)
    if source is None:
        network = resolve(merged, ARCHITECTURES, "architecture")(whole("classes", classes), checked, act)
    elif activation != "relu":
        raise InputError(f"{recipe.name} brings its own activations: leave the activation {activation!r} out")
    else:
        network = source(recipe.name.removeprefix("tv/").removeprefix("timm/"), classes, checked, **merged.options)
    return normalised(network, mean, std, checked)


def runs_code(name: str) -> bool:
    """Whether building the architecture `name` runs the user's own code."""
    return ":" in name and not name.startswith(("tv/", "timm/"))


FOREIGN: dict[str, Callable[..., nn.Module]] = {"tv/": from_torchvision, "timm/": from_timm, ":": from_code}

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "mlp-wide": partial(mlp, width=1024, depth=3),
    "cnn": cnn,
    "two-conv": two_conv,
    "lenet": lenet,
    "smallcnn": smallcnn,
    "resnet8": partial(cifar_resnet, 1),
    "resnet20": partial(cifar_resnet, 3),
    "resnet18": resnet18,
    "preact-resnet18": preact_resnet18,
    "wrn-28-10": partial(wide_resnet, 28, 10),
    "wrn-34-10": partial(wide_resnet, 34, 10),
}
