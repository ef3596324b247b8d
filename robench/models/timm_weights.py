"""timm's models with the weights that timm names, or that a repository of Hugging Face's hub holds in timm's layout.

The files are found and read here, as weights only, and handed to timm's own builder, which fits them: no code of a repository runs, and
nothing in its config.json can name a file or an address.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from robench.core.errors import InputError
from robench.models.cached_files import cached_hugging_face_file, hugging_face_file, torch_hub_file, torch_hub_place
from robench.models.foreign import (
    WEIGHT_CHOICES,
    built_pretrained,
    installed_timm,
    library_reference,
    refuse_settled_options,
    refuse_unknown_timm,
)
from robench.models.layers import normalised_network
from robench.models.model_files import first_line, model_file_kind, read_safetensors, read_torch
from robench.models.named_models import ModelOptions, OpenedModel
from robench.models.weights import weights_in

HUB = ("hf-hub:", "hf_hub:")  # prefixes of names in Hugging Face's hub, new and old
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # timm's names of files of weights, the preferred one first
WHERE_WEIGHTS_LIE = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")  # entries of timm's configs


@dataclass(frozen=True)
class TimmModel:
    """What is known of a model of timm's before it is built.

    Attributes:
        label: what sentences call it.
        architecture: its name in timm's registry.
        config: timm's own config of weights and data, a `PretrainedCfg`.
        options: options of timm.create_model.
        repository: ORG/NAME in Hugging Face's hub; "" for none.
        revision: a branch, tag or commit of it; None for main.
        inferred_classes: whether a thousand outputs may be taken for ImageNet's, as in timm's own models.
    """

    label: str
    architecture: str
    config: Any
    options: Mapping[str, Any]
    repository: str
    revision: str | None = None
    inferred_classes: bool = True


def is_pretrained_timm(source: str) -> bool:
    """Whether a name of timm's stands for a model with weights: pretrained=true, or one of Hugging Face's hub.

    Args:
        source: "timm/NAME", as the user wrote it.

    Raises:
        InputError: for another value of pretrained than true and false.
    """
    name, options = library_reference(source)
    pretrained = options.get("pretrained", False)
    if not isinstance(pretrained, bool):
        raise InputError(f"{source}: pretrained is true or false, not {pretrained!r}")
    return pretrained or name.startswith(HUB)


def described_timm_model(source: str, *, download: bool) -> TimmModel:
    """What timm's registry or the config.json of a repository says of a model.

    Args:
        source: "timm/NAME,pretrained=true" or "timm/hf-hub:ORG/NAME", with options.
        download: whether a config.json that is missing may be fetched.

    Raises:
        InputError: for an unknown name, where timm has no weights of it, and where a config.json is missing or describes no classifier.
    """
    installed_timm(source)
    name, options = library_reference(source)
    options.pop("pretrained", None)
    if name.startswith(HUB):
        model = hub_timm_model(name.removeprefix(HUB[0]).removeprefix(HUB[1]), options, download)
    else:
        model = registered_timm_model(name, options)
    size = model.config.input_size
    if not (isinstance(size, (list, tuple)) and len(size) == 3 and all(type(side) is int and side > 0 for side in size)):
        raise InputError(f"{model.label} says of its images what no image has: an input_size of {str(size)[:60]}")
    if not model.config.num_classes:
        raise InputError(f"{model.label} has no classes: it gives features alone")
    return model


def registered_timm_model(name: str, options: Mapping[str, Any]) -> TimmModel:
    """The model of timm's registry under this name, which may end in the tag of its weights."""
    from timm.models import get_pretrained_cfg

    label = f"timm/{name},pretrained=true"
    refuse_unknown_timm(name)
    try:
        config: Any = get_pretrained_cfg(name)
    except RuntimeError as error:
        raise InputError(f"{label}: {first_line(error)}") from error
    if config is None or not config.has_weights:
        raise InputError(f"timm has no weights for {name}: name a file of weights, with --arch timm/{name}")
    repository, _, revision = (config.hf_hub_id or "").partition("@")
    return TimmModel(label, name.partition(".")[0], config, options, repository, revision or None)


def hub_timm_model(reference: str, options: Mapping[str, Any], download: bool) -> TimmModel:
    """The model that the config.json of a repository describes, in either of timm's layouts."""
    from timm.models import PretrainedCfg

    label = f"timm/{HUB[0]}{reference}"
    repository, _, revision = reference.partition("@")
    place = hugging_face_file(repository, ["config.json"], revision=revision or None, download=download, source=label)
    content = hub_config(place, label)
    about = dict(content["pretrained_cfg"]) if "pretrained_cfg" in content else dict(content)
    for key in ("num_classes", "label_names", "label_descriptions"):
        about[key] = content.get(key, about.get(key))
    if "labels" in content:
        about["label_names"] = content["labels"]
    known = {field.name for field in dataclasses.fields(PretrainedCfg)} - {*WHERE_WEIGHTS_LIE}
    config: Any = PretrainedCfg(**{key: value for key, value in about.items() if key in known and value is not None})
    stored = dict(content.get("model_args") or {})
    if odd := {*stored} & {*WEIGHT_CHOICES, "num_classes", "features_only"}:
        raise InputError(f"{label} has a config.json with the option {min(odd)}, which is none of a network")
    return TimmModel(
        label, str(content["architecture"]), config, {**stored, **options}, repository, revision or None, repository.startswith("timm/")
    )


def hub_config(place: Path, label: str) -> dict[str, Any]:
    """What a config.json in timm's layout says; InputError where it is none."""
    try:
        content = json.loads(place.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{label} has a config.json that cannot be read ({first_line(error)})") from error
    tables = content if isinstance(content, dict) else {}
    nested = [tables.get(key) for key in ("pretrained_cfg", "model_args") if tables.get(key) is not None]
    if not isinstance(tables.get("architecture"), str) or not all(isinstance(table, dict) for table in nested):
        raise InputError(f"{label} has a config.json that is none of timm's: it names no architecture")
    refuse_unknown_timm(tables["architecture"])
    return tables


def open_pretrained_timm(source: str, model_options: ModelOptions) -> OpenedModel:
    """timm's network with its weights, behind the normalisation of its config.

    Args:
        source: "timm/NAME,pretrained=true" or "timm/hf-hub:ORG/NAME", with options of timm.create_model.
        model_options: what the user said about the model.

    Raises:
        InputError: where the weights are missing or damaged or do not fit, and for options that the weights answer.
    """
    model = described_timm_model(source, download=model_options.download)
    model_options.refuse_options("mean std", f"{model.label} knows its own normalisation")
    channels = model.config.input_size[0]
    if model_options.shape is not None and model_options.shape[0] != channels:
        raise InputError(f"{model.label} takes images of {channels} channels, not {model_options.shape[0]}")
    refuse_settled_options(model.label, {key: value for key, value in library_reference(source)[1].items() if key != "pretrained"})
    place = timm_weights_file(model, model_options.download)
    network = built_pretrained(model.label, lambda: network_with_file(model, place))
    settings = timm_data_settings(model)
    return OpenedModel(
        normalised_network(network, settings["mean"], settings["std"]),
        [f"{model.label} has the weights {place.name} of {model.repository or place.parent}, and normalises by their mean and std"],
        class_names=timm_class_names(model),
    )


def timm_weights_file(model: TimmModel, download: bool) -> Path:
    """The file of weights: in Hugging Face's cache, in torch's, or fetched from where timm fetches it; InputError where there is none."""
    config = model.config
    address, name = (config.url or "", "") if isinstance(config.url, str | None) else config.url
    if not model.repository:
        return torch_hub_file(address, name, download=download, source=model.label)
    names = [config.hf_hub_filename] if config.hf_hub_filename else list(HUB_FILES)
    place = cached_hugging_face_file(model.repository, names, revision=model.revision, source=model.label)
    if place is not None:
        return place
    if address and torch_hub_place(address, name).is_file():
        return torch_hub_file(address, name, download=False, source=model.label)
    return hugging_face_file(model.repository, names, revision=model.revision, download=download, source=model.label)


def network_with_file(model: TimmModel, place: Path) -> nn.Module:
    """What timm's builder makes of a file of weights, which is read as weights only."""
    import timm

    overlay: dict[str, Any] = dict.fromkeys(WHERE_WEIGHTS_LIE)
    if place.suffix == ".npz":  # the layout of JAX, which timm's networks read themselves, with numpy and without pickle
        overlay |= {"file": str(place), "custom_load": True}
    else:
        overlay |= {"state_dict": timm_state(place), "custom_load": False}
    config = dataclasses.replace(model.config, **overlay)
    network: Any = timm.create_model(model.architecture, pretrained=True, pretrained_cfg=config, **model.options)
    network.pretrained_cfg.pop("state_dict", None)  # of which timm keeps a copy
    return network  # type: ignore[no-any-return]


def timm_state(place: Path) -> dict[str, Any]:
    """What a file of weights holds, as timm's builder takes it; InputError for one that holds no weights."""
    content = read_safetensors(place) if model_file_kind(place) == "safetensors" else read_torch(place, trust=False)[0]
    weights_in(content, place.name)  # which refuses what holds none
    return dict(content)


def timm_data_settings(model: TimmModel) -> dict[str, Any]:
    """What timm's `resolve_data_config` says of the images of a model: input_size, interpolation, mean, std, crop_pct and crop_mode.

    Args:
        model: what is known of it.

    Raises:
        InputError: where its config holds what timm does not take.
    """
    import timm.data

    library: Any = timm.data
    side = model.options.get("img_size")
    arguments = {"img_size": side, "in_chans": model.config.input_size[0]} if isinstance(side, int) else {}
    if isinstance(side, (list, tuple)):
        arguments = {"input_size": (model.config.input_size[0], *side)}
    try:
        settings: dict[str, Any] = library.resolve_data_config(arguments, pretrained_cfg=model.config.to_dict())
    except Exception as error:  # whatever a config.json may hold
        raise InputError(f"{model.label} says of its images what timm does not take ({first_line(error)})") from error
    return settings


def timm_class_names(model: TimmModel) -> tuple[str, ...]:
    """The names of the outputs: those of the config, else, for timm's own models, ImageNet's wnids; () where neither says them."""
    import timm.data

    library: Any = timm.data
    count, names = model.config.num_classes, model.config.label_names
    if names and len(names) == count:
        return tuple(map(str, names))
    subset = library.infer_imagenet_subset({"num_classes": count}) if model.inferred_classes else None
    return tuple(library.ImageNetInfo(subset).label_names()) if subset else ()
