"""The network that a training begins with where `init` names its weights: whose architecture, normalisation and last layer it has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from robench.core.errors import InputError
from robench.core.inputs import PathLike
from robench.core.recipes import parse_recipe
from robench.data import Images
from robench.models.architectures import ARCHITECTURES, is_foreign, runs_code
from robench.models.contract import CONTRACT_IMAGES
from robench.models.identity import code_digests
from robench.models.initial_weights import BegunNetwork, InitialWeights, initial_weights, network_from_weights
from robench.models.named_models import ModelOptions
from robench.training.presets import FINE_TUNING, PRESETS
from robench.training.settings import (
    channel_numbers,
    foreign_network_notes,
    given_normalisation,
    images_of_all_classes,
    overrides_with_normalisation,
)


@dataclass(frozen=True)
class Beginning:
    """What a training begins with.

    Attributes:
        source: what `init` names: a file, or a model by name.
        weights: the key of one of several sets of weights in a file.
        new_head: whether the last layer gets new weights.
        trust: whether a file that holds a whole pickled model may be unpickled.
        download: whether weights of a library's model may be fetched.
    """

    source: str
    weights: str | None = None
    new_head: bool = False
    trust: bool = False
    download: bool = False


BEGINNING_OPTIONS = ("init", "weights", "new_head", "trust")  # of `train`


def beginning_of(
    init: PathLike | None,
    weights: str | None = None,
    new_head: bool | None = False,
    trust: bool | None = False,
    *,
    download: bool = False,
) -> Beginning | None:
    """What the user's words say of the beginning; None for random weights.

    Args:
        init: a file, or a model by name.
        weights: the key of a set of weights.
        new_head: whether the last layer gets new weights.
        trust: whether a pickled model may be unpickled.
        download: whether weights may be fetched.

    Raises:
        InputError: where something is said of weights that are not named.
    """
    if init is not None:
        return Beginning(os.fspath(init), weights, bool(new_head), bool(trust), download)
    for option, value in {"new-head": new_head, "weights": weights, "trust": trust}.items():
        if value:
            raise InputError(f"--{option} says something of the weights to begin with: name them with --init, or leave it out")
    return None


def weights_to_begin_with(beginning: Beginning, overrides: Mapping[str, Any], preset: str, images: Images) -> InitialWeights:
    """The weights that are begun with, read, with the architecture that they are of.

    Args:
        beginning: what the user said of them.
        overrides: the user's settings, of which `arch` is needed for weights alone.
        preset: the name of the preset, which says it too, unless it is the one for fine-tuning.
        images: of the training.

    Raises:
        InputError: where there are none, where their architecture is not known, and where they know the classes in another order.
    """
    its = overrides.get("arch") or (None if preset == FINE_TUNING else PRESETS.get(preset, {}).get("arch"))
    options = ModelOptions(
        arch=overrides.get("arch"), weights=beginning.weights, classes=len(images.classes), shape=images.shape, trust=beginning.trust,
        download=beginning.download,
    )  # fmt: skip
    found = initial_weights(beginning.source, options)
    if found.arch is None and its is None:
        raise InputError(f"{found.name} holds weights only: name its network with --arch, such as one of {', '.join(ARCHITECTURES)}")
    if found.classes and found.classes != tuple(images.classes) and {*found.classes} == {*images.classes} and not beginning.new_head:
        raise InputError(f"{found.name} counts the classes of {images.name} in another order: pass --new-head to train a new last layer")
    return found


def overrides_from_weights(found: InitialWeights, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The user's settings with what the weights say of their network.

    Args:
        found: the weights.
        overrides: the user's settings.

    Raises:
        InputError: where the two contradict each other.
    """
    settings = overrides_with_normalisation(overrides)
    if found.arch is not None:
        settings["arch"] = found.arch
    if found.activation is not None:
        if settings.get("activation") not in (None, found.activation):
            raise InputError(
                f"{found.name} was trained with the activation {found.activation!r}, not {settings['activation']!r}: leave --activation out"
            )
        settings["activation"] = found.activation
    normalize = settings.get("normalize")
    if not found.knows_normalisation:
        return {**settings, "normalize": normalize or "none"}
    its = normalisation_sentence(found.mean, found.std)
    if normalize is not None and numbers_of(normalize) != numbers_of(its):
        what = "mean and std" if normalize.startswith("given") else f"--normalize {normalize}"
        raise InputError(f"{found.name} knows its own normalisation, {spoken(found)}: leave {what} out")
    return {**settings, "normalize": its}


def normalisation_sentence(mean: Any, std: Any) -> str:
    """The setting `normalize` for these numbers, "none" for none."""
    return "none" if mean is None else str(overrides_with_normalisation({"mean": mean, "std": std})["normalize"])


def numbers_of(normalize: str) -> Any:
    """What is equal for equal normalisations: the numbers to six digits."""
    if normalize == "data":
        return normalize
    return {key: [float(f"{value:.6g}") for value in values] for key, values in given_normalisation(normalize).items()}


def spoken(found: InitialWeights) -> str:
    """The normalisation of weights in a sentence."""
    if found.mean is None or found.std is None:
        return "none"
    mean, std = (",".join(f"{value:.4g}" for value in values) for values in (found.mean, found.std))
    return f"mean {mean} and std {std}"


def begun_network(
    found: InitialWeights, settings: Mapping[str, Any], images: Images, seed: int, new_head: bool
) -> tuple[BegunNetwork, dict[str, Any]]:
    """The network with its weights, and the description from which a checkpoint rebuilds it.

    Args:
        found: the weights.
        settings: of the training.
        images: the training images, which give classes and shape.
        seed: of a new last layer.
        new_head: whether it gets one.

    Raises:
        InputError: where the weights do not fit, and where the network cannot be trained on these images.
    """
    arch, activation, classes = settings["arch"], settings["activation"], len(images.classes)
    chosen = images_of_all_classes(images, 5000, seed)
    mean, std = channel_numbers(settings["normalize"], chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        begun = network_from_weights(
            found, arch=arch, activation=activation, classes=classes, shape=images.shape, mean=mean, std=std, new_head=new_head
        )
        about = {
            "arch": arch, "classes": classes, "shape": list(images.shape), "activation": activation,
            "mean": None if begun.mean is None else list(begun.mean), "std": None if begun.std is None else list(begun.std),
            **({"preprocessing": images.preprocessing.plain()} if images.preprocessing else {}),
            **({"head": begun.head} if begun.head else {}),
        }  # fmt: skip
        is_other = is_foreign(parse_recipe(arch).name)
        notes = foreign_network_notes(begun.network, chosen.pixels(slice(0, CONTRACT_IMAGES)), about) if is_other else []
    code = code_digests(arch) if runs_code(parse_recipe(arch).name) else {}
    said = [f"the training begins with the weights of {found.name}", *unsaid_normalisation_notes(found, begun), *begun.notes, *notes]
    return replace(begun, notes=tuple(said)), {**about, **({"code": code} if code else {})}


def unsaid_normalisation_notes(found: InitialWeights, begun: BegunNetwork) -> list[str]:
    """A note where nobody has said how pixels are normalised."""
    if found.knows_normalisation or begun.mean is not None:
        return []
    return [f"{found.name} gets pixels in [0, 1] as they are, as nothing says how it normalises them: --mean and --std say it"]


def beginning_words(found: InitialWeights | None, beginning: Beginning | None) -> dict[str, Any]:
    """What a checkpoint says of what its training began with; nothing of random weights.

    Args:
        found: the weights.
        beginning: what the user said of them.
    """
    if found is None or beginning is None:
        return {}
    return {"init": {"name": found.name, "sha256": found.sha256}, **({"new_head": True} if beginning.new_head else {})}
