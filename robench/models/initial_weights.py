"""The weights that a training begins with: read from whatever names a model, and put into the network that is trained.

A checkpoint of ours, and a model of a library, say what their network and their normalisation are; a file of weights says neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.model_calls import freeze_model
from robench.core.recipes import Recipe, parse_recipe, recipe_text
from robench.models.architectures import build_network
from robench.models.checkpoint import fingerprint, is_our_checkpoint, state_and_meta
from robench.models.contract import trial_logits_or_error
from robench.models.foreign import library_reference
from robench.models.heads import head_name, with_new_head
from robench.models.layers import Shape, half_precision, normalised_network
from robench.models.loading import (
    OPENERS,
    REBUILT_BY_NAME,
    architecture_to_build,
    described_network,
    misfit_hint,
    refuse_nonfinite_weights,
    source_kind,
    source_name,
    split_normalisation,
    trial_images,
    weights_behind_normalisation,
)
from robench.models.model_files import existing_file, read_safetensors, read_torch
from robench.models.named_models import ModelOptions
from robench.models.timm_weights import described_timm_model, is_pretrained_timm
from robench.models.weights import fit_weights, fitting_weights, has_network_names, weights_in

ASK_FOR_HEAD = "--new-head (new_head=True in Python)"


@dataclass(frozen=True)
class InitialWeights:
    """Weights that a training begins with, and what their source says of their network.

    Attributes:
        name: what the user wrote, without its folders.
        sha256: of the weights (`models.checkpoint.fingerprint`).
        state: the weights by name, without a normalisation that the source knows.
        arch: the architecture; None for a file of weights alone.
        activation: of `arch`; None where the source does not say it.
        mean: one number a channel, with which the source says that pixels are normalised; None for none.
        std: the spread that goes with `mean`.
        knows_normalisation: whether mean and std, or None, are all that pixels are normalised by; else the user may say it.
        classes: the names of the classes in their order, where a checkpoint of ours stores them; () else.
        head: the layer that an earlier training has put in place of the network's own last one; None for none.
        outputs: of a checkpoint of ours and of a library's model; None for a file of weights alone.
        notes: one sentence each on what the user should know.
    """

    name: str
    sha256: str
    state: Mapping[str, Tensor]
    arch: str | None = None
    activation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    knows_normalisation: bool = False
    classes: tuple[str, ...] = ()
    head: str | None = None
    outputs: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BegunNetwork:
    """A network with the weights that its training begins with.

    Attributes:
        network: from pixels (B, C, H, W) in [0, 1] to logits (B, K).
        mean: of its normalisation; None for none.
        std: the spread that goes with `mean`.
        head: the layer that was put in place of the last one of its architecture; None for none.
        is_new: whether its last layer has random weights.
        notes: one sentence each on what the user should know.
    """

    network: nn.Module
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    head: str | None
    is_new: bool
    notes: tuple[str, ...]


def read_initial_weights(source: str, model_options: ModelOptions) -> InitialWeights:
    """The weights that `source` names.

    Args:
        source: a checkpoint of ours, a state_dict or safetensors file, or a model by name, as for `load_model`.
        model_options: what the user said; `arch` is needed for a file of weights and for a checkpoint whose network is code.

    Raises:
        InputError: one sentence, where there are no weights to train, or options contradict what the source says.
    """
    kind = source_kind(source)
    if kind in ("torchscript", "pt2"):
        raise InputError(f"{source_name(source, kind)} is a stored program, which is not trained here: save a state_dict of its network")
    if kind == "library":
        return library_weights(source, model_options)
    if kind == "code":
        return code_weights(source, model_options)
    name = source_name(source, kind)
    if kind == "safetensors":
        model_options.refuse_options("weights", f"{name} holds one set of weights")
        return InitialWeights(name, "", read_safetensors(Path(source)))
    content, notes = read_torch(existing_file(source), model_options.trust)
    if is_our_checkpoint(content):
        return checkpoint_weights(*state_and_meta(content, name), name, model_options)
    weights, more = weights_in(content, name, model_options.weights)
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    return InitialWeights(name, "", state, notes=(*notes, *more))


def initial_weights(source: str, model_options: ModelOptions) -> InitialWeights:
    """What `read_initial_weights` gives, with its sha256.

    Args:
        source: as there.
        model_options: as there.

    Raises:
        InputError: as there.
    """
    found = read_initial_weights(source, model_options)
    return replace(found, sha256=fingerprint(found.state))


def checkpoint_weights(state: Mapping[str, Tensor], meta: dict[str, Any], name: str, model_options: ModelOptions) -> InitialWeights:
    """The weights of a checkpoint of ours; InputError where the user says something else of its network."""
    model_options.refuse_options("weights", f"{name} is a checkpoint of robench and holds one set of weights")
    about = meta.get("model", {})
    try:
        arch, mean, std = str(about["arch"]), about["mean"], about["std"]
        activation, outputs = str(about["activation"]), int(about["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name} is a damaged checkpoint: it does not describe its network ({type(error).__name__}: {error})") from error
    same = replace(model_options, arch=None) if model_options.arch == arch else model_options
    chosen = arch if model_options.arch == arch else architecture_to_build(arch, name, same)
    if about.get("options"):
        recipe = parse_recipe(chosen)
        chosen = recipe_text(Recipe(recipe.name, None, {**recipe.options, **about["options"]}))
    bare = {key.removeprefix("network."): value for key, value in state.items() if not mean or key.startswith("network.")}
    classes = meta.get("classes") if isinstance(meta.get("classes"), list) else []
    numbers = [tuple(map(float, each)) if each else None for each in (mean, std)]
    return InitialWeights(
        name, "", bare if mean else dict(state), chosen, activation, numbers[0], numbers[1], True, tuple(map(str, classes or ())),
        about.get("head"), outputs,
    )  # fmt: skip


def code_weights(source: str, model_options: ModelOptions) -> InitialWeights:
    """The weights that the user's own factory brings."""
    name = source_name(source, "code")
    refuse_other_arch(source, model_options, name)
    network = OPENERS["code"](source, replace(model_options, arch=None)).network
    return InitialWeights(name, "", network.state_dict(), source)


def library_weights(source: str, model_options: ModelOptions) -> InitialWeights:
    """The weights of a library's model, by the name from which its network is built again; InputError where that gives another one."""
    library, name = source.partition("/")[0], source_name(source, "library")
    arch = source if library in REBUILT_BY_NAME else built_name(source, model_options)
    refuse_other_arch(arch, model_options, name)
    opened = OPENERS["library"](source, replace(model_options, arch=None, activation=None, mean=None, std=None, classes=None))
    network, mean, std = split_normalisation(opened.network)
    shape = model_options.shape or (3, 224, 224)
    outputs = output_number(opened.network, shape)
    found = InitialWeights(
        name, "", network.state_dict(), arch, None, mean, std, mean is not None or library != "hf", (), None, outputs, tuple(opened.notes)
    )
    if library not in REBUILT_BY_NAME:
        refuse_other_network(network, found, shape)
    return found


def built_name(source: str, model_options: ModelOptions) -> str:
    """The name of the architecture of torchvision's or timm's model with weights; InputError for one with random weights."""
    library = source.partition("/")[0]
    name, options = library_reference(source)
    if library == "tv" and "weights" in options:
        return recipe_text(Recipe(f"tv/{name}", None, {key: value for key, value in options.items() if key != "weights"}))
    if library == "timm" and is_pretrained_timm(source):
        model = described_timm_model(source, download=model_options.download)
        named = name if "hub:" not in name else model.architecture
        recipe = Recipe(f"timm/{named}", None, dict(model.options))
        if parse_recipe(recipe_text(recipe)) != recipe:
            raise InputError(f"{source} has options that a checkpoint cannot keep: {', '.join(model.options)}")
        return recipe_text(recipe)
    ask = {"tv": "weights=DEFAULT", "timm": "pretrained=true"}[library]
    raise InputError(f"{source} has random weights: write {source},{ask} for those of the library, or name a file, with --arch {source}")


def refuse_other_arch(arch: str, model_options: ModelOptions, name: str) -> None:
    """InputError where the user names another architecture than that of the weights."""
    if model_options.arch not in (None, arch):
        raise InputError(f"{name} is a model of the architecture {arch}, not {model_options.arch}: leave --arch out")


def refuse_other_network(network: nn.Module, found: InitialWeights, shape: Shape) -> None:
    """InputError where the network that a checkpoint would be rebuilt as does not compute what the library's does."""
    outputs = found.outputs or 1
    x = trial_images(shape)[:2]
    try:
        again = build_network(str(found.arch), classes=outputs, shape=shape)
        again.load_state_dict(dict(found.state))
        with freeze_model(network), freeze_model(again), torch.no_grad():
            same = torch.allclose(network(x), again(x), rtol=1e-4, atol=1e-5)
    except (RuntimeError, TypeError):  # other names of weights, or outputs that are no tensors
        same = False
    if not same:
        raise InputError(
            f"{found.name} is built with settings of its weights, which {found.arch} does not have: fine-tune a network of your own code"
        )


def output_number(network: nn.Module, shape: Shape) -> int:
    """How many logits a network gives for images of this shape; InputError where it gives none."""
    with freeze_model(network), torch.no_grad():
        return trial_logits_or_error(network, trial_images(shape)[:2], 2).shape[1]


def network_from_weights(
    found: InitialWeights, *, arch: str, activation: str, classes: int, shape: Shape, mean: Sequence[float] | None,
    std: Sequence[float] | None, new_head: bool,
) -> BegunNetwork:  # fmt: skip
    """A network of an architecture with these weights, for so many classes.

    A new last layer is drawn from torch's global generator.

    Args:
        found: the weights.
        arch: its architecture.
        activation: of `arch`.
        classes: K of the data.
        shape: channels, height and width of the images.
        mean: of the normalisation; None for none.
        std: the spread that goes with `mean`.
        new_head: whether the last layer is to have new weights.

    Raises:
        InputError: where the weights do not fit, and where the number of outputs is not that of the classes and no new layer was asked for.
    """
    network = described_network(arch, classes=classes, shape=shape, activation=activation, head=found.head)
    if half_precision(network) is not None:
        raise InputError(f"{found.name} has weights in half precision, in which nothing is trained here: leave them in float32")
    state, hint, notes = found.state, partial(str), [*found.notes]
    if not found.knows_normalisation:
        behind = weights_behind_normalisation(state, network.state_dict(), found.name, mean, std, shape[0])
        options = ModelOptions(arch=arch, mean=mean)
        hint = partial(misfit_hint, state, behind.normalisation, options, classes, shape)
        state, mean, std = behind.rest, behind.mean, behind.std
        notes += behind.notes
    state = fitting_weights(state, network.state_dict())
    fitted = fixed_network if output_number(network, shape) != classes else flexible_network
    network, heads, head = fitted(network, state, found, arch, classes, new_head, hint, shape)
    refuse_nonfinite_weights(network, found.name)
    if heads:
        notes.append(f"{found.name}: {' and '.join(heads)}, the last layer, is new and has random weights for {classes} classes")
    numbers = [None if each is None else tuple(map(float, each)) for each in (mean, std)]
    return BegunNetwork(
        normalised_network(network, mean, std, shape), numbers[0], numbers[1], head or found.head, bool(heads), tuple(notes)
    )


def flexible_network(
    network: nn.Module, state: Mapping[str, Tensor], found: InitialWeights, arch: str, classes: int, new_head: bool, hint: Any, _: Shape
) -> tuple[nn.Module, list[str], str | None]:
    """The network, which has as many outputs as the data classes, with the weights, and the names of layers that keep random ones."""
    due = network.state_dict()
    other = [key for key, value in state.items() if key in due and value.shape != due[key].shape]
    alike = all(due[key].shape[:1] == (classes,) and state[key].shape[1:] == due[key].shape[1:] for key in other)
    heads = list(dict.fromkeys(key.rpartition(".")[0] for key in other)) if alike and has_network_names(state, due) else []
    if heads and not new_head:
        raise InputError(
            f"{found.name} has {state[other[0]].shape[0]} outputs, the data {classes} classes: "
            f"pass {ASK_FOR_HEAD} to train a new last layer ({', '.join(heads)}), or choose the data that it was trained on"
        )
    if new_head and not other:
        heads = [head_name(network)]
    kept = {key: due[key] if any(key.startswith(f"{head}.") for head in heads) else value for key, value in state.items()}
    fit_weights(network, kept, found.name, arch, classes, hint)
    return network, heads, None


def fixed_network(
    network: nn.Module, state: Mapping[str, Tensor], found: InitialWeights, arch: str, classes: int, new_head: bool, hint: Any, shape: Shape
) -> tuple[nn.Module, list[str], str | None]:
    """The network, whose code or name says how many outputs it has, with the weights and another last layer, and its name."""
    fit_weights(network, state, found.name, arch, classes, hint)
    name, outputs = head_name(network), output_number(network, shape)
    if not new_head:
        raise InputError(
            f"{found.name} has {outputs} outputs, the data {classes} classes: "
            f"pass {ASK_FOR_HEAD} to train a new last layer ({name}), or choose the data that it was trained on"
        )
    return with_new_head(network, name, classes), [name], name
