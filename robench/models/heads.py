"""The last layer of a classifier: its name, and another one for another number of classes in its place."""

from __future__ import annotations

from typing import Any

from torch import nn

from robench.core.errors import InputError


def head_name(network: nn.Module) -> str:
    """The name of the layer that gives the logits: what timm calls the classifier, else the last linear layer, else the last convolution.

    Args:
        network: without a normalisation in front.

    Raises:
        InputError: where there is none.

    Example:
        >>> head_name(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(72, 10)))
        '2'
    """
    find: Any = getattr(network, "get_classifier", None)
    classifier = find() if callable(find) else None
    modules: dict[str, nn.Module] = dict(network.named_modules())
    for name, module in modules.items():
        if module is classifier and isinstance(module, (nn.Linear, nn.Conv2d)):
            return name
    for kind in (nn.Linear, nn.Conv2d):
        names = [name for name, module in modules.items() if isinstance(module, kind)]
        if names:
            return names[-1]
    raise InputError("the network has no linear layer and no convolution that could be its last: give it one for these classes yourself")


def with_new_head(network: nn.Module, name: str, classes: int) -> nn.Module:
    """The network with a new layer of random weights (torch's global generator) in place of its last one.

    Args:
        network: is changed in place.
        name: of the layer, from `head_name`.
        classes: how many outputs the new one has, at least 1.

    Raises:
        InputError: where no linear layer and no convolution has that name.
    """
    parent, _, child = name.rpartition(".")
    old = dict(network.named_modules()).get(name)
    if isinstance(old, nn.Linear):
        new: nn.Module = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    elif isinstance(old, nn.Conv2d):
        sizes: dict[str, Any] = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation")}
        new = nn.Conv2d(old.in_channels, classes, bias=old.bias is not None, **sizes)
    else:
        raise InputError(f"the network has no linear layer and no convolution that is called {name!r}")
    if not name:
        return new
    setattr(network.get_submodule(parent), child, new)
    return network
