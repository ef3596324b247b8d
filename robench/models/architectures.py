"""The named architectures, and `build_network`, which makes a network from a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from robench.core.checks import whole_option
from robench.core.errors import InputError
from robench.core.recipes import Recipe, lookup, parse_recipe, resolve
from robench.models.contract import materialised_network
from robench.models.foreign import LIBRARY_PREFIXES, network_from_code, timm_network, torchvision_network
from robench.models.layers import ACTIVATIONS, Shape, normalised_network
from robench.models.resnet import cifar_resnet, preact_resnet18, resnet18, wide_resnet
from robench.models.small import cnn, lenet, mlp, smallcnn, two_conv


def build_network(
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

    Args:
        name: a key of ARCHITECTURES, "tv/NAME", "timm/NAME", or the user's "file.py:factory" or "module:factory"; options may follow it,
            as in "cnn,width=32".
        classes: K, at least 1.
        shape: channels, height and width of an image.
        activation: a key of ACTIVATIONS, for our own architectures.
        mean: one number a channel, with which the network starts with a Normalize layer; None for none.
        std: the spread that goes with `mean`, one number a channel, above 0; None for none.
        options: options of the architecture, as after its name.

    Raises:
        InputError: for an unknown name or option, and for images that are too small.

    Example:
        >>> network = build_network("cnn", classes=10, shape=(3, 32, 32))
        >>> sum(weight.numel() for weight in network.parameters())
        156074
    """
    if len(shape) != 3:
        raise InputError(f"the shape of an image is channels, height and width, not {tuple(shape)}")
    image_shape = (whole_option("channels", shape[0]), whole_option("height", shape[1]), whole_option("width", shape[2]))
    network = bare_network(name, whole_option("classes", classes), image_shape, activation, options)
    return normalised_network(network, mean, std, image_shape)


def bare_network(name: str, classes: int, shape: Shape, activation: str, options: dict[str, Any]) -> nn.Module:
    """The network itself, on pixels as they come."""
    recipe = parse_recipe(name)
    if recipe.weight is not None:
        raise InputError(f"an architecture has no weight: write {recipe.name!r}, then options as key=value, parted by commas")
    recipe = Recipe(recipe.name, None, recipe.options | options)
    act = lookup(activation, ACTIVATIONS, "activation")
    if not is_foreign(recipe.name):
        return resolve(recipe, ARCHITECTURES, "architecture")(classes, shape, act)  # type: ignore[no-any-return]
    if activation != "relu":
        raise InputError(f"{recipe.name} brings its own activations: leave the activation {activation!r} out")
    if runs_code(recipe.name):
        return materialised_network(network_from_code(recipe.name, classes, shape, **recipe.options), shape, recipe.label)
    library, _, model = recipe.name.partition("/")
    if library not in LIBRARY_BUILDERS:
        raise InputError(f"{recipe.name} is a model with weights of its own and no architecture to build: name it as the model")
    return LIBRARY_BUILDERS[library](model, classes, shape, **recipe.options)


def is_library(name: str) -> bool:
    """Whether `name` is that of a model of a library: tv/NAME, timm/NAME and the like.

    Args:
        name: of a model, as the user wrote it.
    """
    return name.partition("/")[0] in LIBRARY_PREFIXES and "/" in name


def is_foreign(name: str) -> bool:
    """Whether the architecture `name` is none of ours.

    Args:
        name: an architecture, without its options.
    """
    return is_library(name) or runs_code(name)


def runs_code(name: str) -> bool:
    """Whether building the architecture `name` runs the user's own code.

    Args:
        name: an architecture, without its options.
    """
    return ":" in name and not is_library(name)


LIBRARY_BUILDERS: dict[str, Callable[..., nn.Module]] = {"tv": torchvision_network, "timm": timm_network}

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
