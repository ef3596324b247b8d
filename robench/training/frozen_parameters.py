"""Parameters that a training leaves as they are: those under the prefixes of `freeze`, with the statistics of the batch norm there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from robench.core.errors import InputError

WRAPPED = "network."  # begins the names of a network that stands behind our normalisation
FEW_NAMES = 8  # that a refusal tells


def prefixes_in(freeze: str | Iterable[str]) -> tuple[str, ...]:
    """The prefixes in what the user gave, each once.

    Args:
        freeze: one sentence or several, each of prefixes parted by commas.

    Raises:
        InputError: where one of them is no text or is empty.

    Example:
        >>> prefixes_in("conv1,layer1.")
        ('conv1', 'layer1')
    """
    sentences = [freeze] if isinstance(freeze, str) else [*freeze]
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise InputError(f"freeze takes prefixes of parameter names, such as 'layer1', not {freeze!r}")
    prefixes = [part.strip().removesuffix(".") for sentence in sentences for part in sentence.split(",")]
    if not all(prefixes):
        raise InputError(f"freeze has an empty prefix in {', '.join(sentences)!r}: name what stays as it is, such as layer1")
    return tuple(dict.fromkeys(prefixes))


def is_frozen(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a parameter or a module lies under one of the prefixes: a prefix is whole parts of a name.

    Args:
        name: in the network, with or without the part that our normalisation puts before it.
        prefixes: from `prefixes_in`.

    Example:
        >>> [is_frozen(name, ["layer1"]) for name in ("layer1.0.weight", "network.layer1.0.weight", "layer10.weight")]
        [True, True, False]
    """
    names = (name, name.removeprefix(WRAPPED))
    return any(one == prefix or one.startswith(f"{prefix}.") for one in names for prefix in prefixes)


def freeze_parameters(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Takes the gradients from the parameters under the prefixes.

    Args:
        model: the network; it is changed in place.
        prefixes: from `prefixes_in`; without any, nothing is changed.

    Raises:
        InputError: for a prefix under which there is no parameter, and where none is left to train.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for prefix in prefixes:
        if not any(is_frozen(name, [prefix]) for name in names):
            there = list(dict.fromkeys(name.removeprefix(WRAPPED).rpartition(".")[0] for name in names))
            more = f" and {len(there) - FEW_NAMES} more" if len(there) > FEW_NAMES else ""
            raise InputError(f"nothing to freeze is called {prefix!r}: the network has {', '.join(there[:FEW_NAMES])}{more}")
    if prefixes and all(is_frozen(name, prefixes) for name in names):
        raise InputError(f"freezing {', '.join(prefixes)} leaves no parameter to train")
    for name, parameter in model.named_parameters():
        if is_frozen(name, prefixes):
            parameter.requires_grad_(False)


def enter_training_mode(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Puts the network into training mode, but for the batch norm under the prefixes, whose statistics stay as they are.

    Args:
        model: the network; it is changed in place.
        prefixes: from `prefixes_in`.
    """
    model.train()
    for norm in frozen_norms(model, prefixes) if prefixes else ():
        norm.eval()


def frozen_norms(model: nn.Module, prefixes: Sequence[str]) -> Iterator[nn.Module]:
    """The batch norm modules under the prefixes."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and is_frozen(name, prefixes):
            yield module
