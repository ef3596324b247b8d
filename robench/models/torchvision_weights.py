"""torchvision's classifiers with the weights that it names, such as tv/resnet50,weights=IMAGENET1K_V2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from robench.core.errors import InputError
from robench.core.recipes import did_you_mean
from robench.models.cached_files import torch_hub_file
from robench.models.foreign import built_pretrained, library_reference, refuse_settled_options, refuse_unknown_torchvision
from robench.models.layers import normalised_network
from robench.models.model_files import read_torch
from robench.models.named_models import ModelOptions, OpenedModel
from robench.models.weights import weights_in


def named_torchvision_weights(source: str) -> Any:
    """The entry of torchvision's enum of weights that `tv/NAME,weights=ENTRY` names; None where no weights are named.

    Args:
        source: as the user wrote it; ENTRY is DEFAULT, IMAGENET1K_V2 or ResNet50_Weights.IMAGENET1K_V2.

    Raises:
        InputError: for an unknown network or entry, and for one without classes.
    """
    import torchvision

    name, options = library_reference(source)
    refuse_unknown_torchvision(name)
    if "weights" not in options:
        return None
    models: Any = torchvision.models
    entries = models.get_model_weights(name)
    wanted = str(options["weights"]).removeprefix(f"{entries.__name__}.")
    if wanted not in entries.__members__:
        near = did_you_mean(wanted, entries.__members__)
        raise InputError(f"tv/{name} has no weights {options['weights']!r}{near}")
    if not entries[wanted].meta["categories"]:
        raise InputError(f"tv/{name} has no classes with the weights {wanted}: choose others")
    return entries[wanted]


def open_torchvision_weights(source: str, model_options: ModelOptions) -> OpenedModel:
    """torchvision's network with weights of its own, behind the normalisation that their `transforms()` name.

    Args:
        source: "tv/NAME,weights=ENTRY", with options of torchvision's builder.
        model_options: what the user said about the model.

    Raises:
        InputError: where the weights are missing or damaged or do not fit, and for options that the weights answer.
    """
    name, options = library_reference(source)
    entry = named_torchvision_weights(source)
    label = f"tv/{name},weights={entry.name}"
    model_options.refuse_options("mean std", f"{label} knows its own normalisation")
    if model_options.shape is not None and model_options.shape[0] != 3:
        raise InputError(f"{label} takes images of 3 channels, not {model_options.shape[0]}")
    given = {key: value for key, value in options.items() if key != "weights"}
    refuse_settled_options(label, given)
    place = torch_hub_file(entry.url, download=model_options.download, source=label)
    content, _ = read_torch(place, trust=False)
    state: Any = weights_in(content, place.name)[0]  # no whole model, which is read with trust alone
    network = built_pretrained(label, lambda: network_with_weights(name, entry, state, given))
    settings = entry.transforms()
    return OpenedModel(
        normalised_network(network, settings.mean, settings.std),
        [f"{label} has the weights {place.name}, and normalises by their mean and std"],
        class_names=tuple(entry.meta["categories"]),
    )


def network_with_weights(name: str, entry: Any, state: dict[str, Tensor], options: dict[str, Any]) -> Any:
    """What torchvision's builder makes of these weights: it knows which options of the network they settle."""
    import torchvision

    models: Any = torchvision.models
    with state_dict_of(entry, state):
        return models.get_model(name, weights=entry, progress=False, **options)


@contextmanager
def state_dict_of(entry: Any, state: dict[str, Tensor]) -> Iterator[None]:
    """An entry of an enum of weights that gives, when the builder asks, weights that were read already, and so never looks for a file."""
    entry.get_state_dict = lambda *_, **__: state
    try:
        yield
    finally:
        del entry.get_state_dict
