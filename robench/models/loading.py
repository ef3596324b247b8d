"""`load_with_origin`: a classifier from whatever the user names, ready for evaluation, or an InputError that says what is wrong with it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.code_permission import ask_before_code
from robench.core.errors import InputError
from robench.core.files import is_existing_path
from robench.core.inputs import as_device
from robench.core.model_calls import are_probabilities, into_eval
from robench.core.recipes import parse_recipe
from robench.models.answers import dtype_word
from robench.models.architectures import ARCHITECTURES, build_network, is_foreign, is_library, runs_code
from robench.models.checkpoint import fingerprint, is_our_checkpoint, state_and_meta
from robench.models.contract import examine_model, refuse_absent_weights, trial_logits_or_error
from robench.models.exported import read_program
from robench.models.foreign import network_from_code
from robench.models.heads import with_new_head
from robench.models.huggingface import huggingface_model
from robench.models.identity import code_digests
from robench.models.layers import HALF, Normalize, Shape, half_precision, normalised_network
from robench.models.model_files import TRUST, existing_file, first_line, model_file_kind, read_safetensors, read_torch
from robench.models.named_models import ModelOptions, OpenedModel, classes_and_shape
from robench.models.robustbench_zoo import robustbench_model
from robench.models.timm_weights import is_pretrained_timm, open_pretrained_timm
from robench.models.torchvision_weights import named_torchvision_weights, open_torchvision_weights
from robench.models.weights import (
    StoredNormalisation,
    fit_weights,
    fitting_weights,
    has_network_names,
    has_same_numbers,
    normalisation_in,
    numbers_as_option,
    output_count,
    prefix_variants,
    unwrapped_weights,
    weights_in,
)


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode and where it came from.

    Attributes:
        model: the network.
        name: what the user wrote without its folders: shapes-cnn-sagr.pt, zoo.py:wong2020_fgsm, tv/resnet18.
        sha256: of the weights (`models.checkpoint.fingerprint`), whatever the file; of the file for a stored program.
        meta: what our checkpoint says of itself; {} for any other model.
        notes: one sentence each on what the user should know.
        flags: one sentence each on what makes the numbers of this model doubtful, whatever is measured.
        architecture: its name, activation, normalisation and key in the file, as user or checkpoint gave them; the sha256 of own code.
        class_names: the names of the outputs, in their order, where the library of a model says them; () else.
        outputs: the number of outputs; None where the model was not tried.
    """

    model: nn.Module
    name: str
    sha256: str
    meta: dict[str, Any]
    notes: tuple[str, ...]
    flags: tuple[str, ...] = ()
    architecture: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    outputs: int | None = None


def load_with_origin(source: str | Path, **options: Any) -> LoadedModel:
    """The model that `source` names, in eval mode, with its name, hash, description and notes.

    Args:
        source: a file, or a name with its options; `load_model` lists them.
        options: those of `load_model`, by name; TypeError for others.

    Raises:
        InputError: one sentence, for whatever does not fit.
    """
    if not isinstance(source, (str, Path)):
        raise InputError(
            f"the model to load is of type {type(source).__name__}: name a file, a factory or an architecture, as words or a path"
        )
    model_options = ModelOptions(**options)
    model_options = replace(model_options, device=as_device(model_options.device))
    kind = source_kind(str(source))
    opened = OPENERS[kind](str(source), model_options)
    model, meta, notes = opened.network, opened.meta, [*opened.notes]
    refuse_absent_weights(model, Path(source).name)
    refuse_nonfinite_weights(model, Path(source).name)
    model = into_eval(model.to(model_options.device))
    network_meta = meta.get("model", {})
    notes += other_size_notes(network_meta.get("shape"), model_options.shape, Path(source).name)
    classes, shape = model_options.classes or network_meta.get("classes"), model_options.shape or network_meta.get("shape")
    is_exported, flags, outputs = kind in ("torchscript", "pt2"), list[str](), None
    digest = sha256(Path(source).read_bytes()).hexdigest() if is_exported else fingerprint(model.state_dict())
    if classes is not None and shape is not None:
        examination = examine_model(model, trial_images((shape[0], shape[1], shape[2])).to(model_options.device))
        model, flags = examination.model, [f"{check.probe}: {check.sentence}" for check in examination.checks if check.raised]
        outputs, trial = outputs_and_notes(model, (shape[0], shape[1], shape[2]), classes, model_options.device)
        notes += [*examination.notes, *trial]
    return LoadedModel(
        model,
        source_name(str(source), kind),
        digest,
        meta,
        tuple(notes),
        tuple(flags),
        architecture_of(str(source), kind, meta, model_options),
        opened.class_names,
        outputs,
    )


def source_name(source: str, kind: str) -> str:
    """What tables call a model: what the user wrote, without its folders."""
    if kind == "library":
        return library_name(source)
    reference = named_code(source)[0] if kind == "code" else source
    return Path(reference).name + source[len(reference) :]


def library_name(source: str) -> str:
    """The name of a library's model without the folders of this machine: of a folder its last part alone, and no model_dir."""
    library, _, rest = source.partition("/")
    name, *options = rest.split(",")
    short = Path(name).name if name.startswith((".", "/", "~")) else name
    return ",".join([f"{library}/{short}", *(option for option in options if option.partition("=")[0].strip() not in FOLDER_OPTIONS)])


def architecture_of(source: str, kind: str, meta: Mapping[str, Any], model_options: ModelOptions) -> dict[str, Any]:
    """What tells the model apart beside its weights: what the checkpoint says of its network, else what the user said of it."""
    network_meta = dict(meta.get("model", {}))
    code = code_digests(source if kind == "code" else model_options.arch or network_meta.get("arch"))
    user_options = {
        "arch": model_options.arch,
        "activation": model_options.activation,
        "mean": model_options.mean,
        "std": model_options.std,
        "weights": model_options.weights,
    }
    if kind in ("library", "code"):
        user_options["arch"] = source_name(source, kind)
    plain_options = {key: list(value) if isinstance(value, tuple) else value for key, value in user_options.items() if value is not None}
    return {**plain_options, **{key: value for key, value in network_meta.items() if key != "code"}, **({"code": code} if code else {})}


def other_size_notes(trained: Sequence[int] | None, given: Shape | None, name: str) -> list[str]:
    """A note where a checkpoint was trained on images of another size; InputError where they had other channels."""
    if trained is None or given is None or tuple(trained) == tuple(given):
        return []
    if trained[0] != given[0]:
        raise InputError(f"{name} was trained on images of shape {tuple(trained)}, and these have shape {tuple(given)}: other channels")
    return [f"{name} was trained on images of shape {tuple(trained)}, and these have shape {tuple(given)}"]


def load_model(
    source: str | Path,
    *,
    arch: str | None = None,
    activation: str | None = None,
    weights: str | None = None,
    classes: int | None = None,
    shape: Shape | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    trust: bool = False,
    device: str = "cpu",
    download: bool = False,
) -> nn.Module:
    """The model that `source` names, in eval mode: from pixels (B, C, H, W) in [0, 1] to logits (B, K).

    Args:
        source: our checkpoint, a state_dict or safetensors file with `arch`, a TorchScript archive or torch.export program (with `trust`),
            "file.py:factory" or "module:factory" (runs that code), "tv/NAME" or "timm/NAME" (random weights).
        arch: the architecture of a file of weights: "resnet18", "tv/resnet50", "file.py:factory".
        activation: of `arch`, relu if not given; a checkpoint knows its own.
        weights: which set of weights of a file that holds several, by its key: "state_dict_ema".
        classes: K of the data, where the file does not say it.
        shape: (C, H, W) of the images. Where both are known the model is tried out on a few images.
        mean: one number a channel, for a model that takes normalised pixels.
        std: the spread that goes with `mean`, one number a channel.
        trust: whether a stored program, which runs code, may be loaded.
        device: where the model is to lie: "cpu", "cuda", "mps".
        download: whether weights that a name stands for may be fetched where the library's cache lacks them.

    Returns:
        The network as a torch.nn.Module. `robench.models.load_with_origin` returns its name, hash, meta and notes as well.

    Raises:
        InputError: one sentence, for whatever does not fit.

    Example:
        >>> import robench
        >>> model = robench.load_model("checkpoints/shapes-cnn-pgd-at.pt")
        >>> model(torch.rand(2, 3, 32, 32)).shape, model.training
        (torch.Size([2, 10]), False)
    """
    return load_with_origin(
        source, arch=arch, activation=activation, weights=weights, classes=classes, shape=shape, mean=mean, std=std, trust=trust,
        device=device, download=download,
    ).model  # fmt: skip


def checkpoint_meta(source: str | Path) -> dict[str, Any]:
    """What our checkpoint says of itself (its meta), without its network.

    It is {} for any other model, also for one that `load_with_origin` will refuse.

    Args:
        source: what names a model: a file, or a name with its options.

    Raises:
        InputError: where there is no such file, and for a checkpoint of ours that is damaged.
    """
    if source_kind(str(source)) != "torch":
        return {}
    try:
        content, _ = read_torch(existing_file(source), trust=False)
    except InputError:
        return {}
    return state_and_meta(content, Path(source).name)[1] if is_our_checkpoint(content) else {}


def source_kind(source: str) -> str:
    """The kind of a source, a key of OPENERS.

    Args:
        source: what names a model.

    Raises:
        InputError: where nothing is named, or a file is missing or no model file.
    """
    if not source.strip():
        raise InputError("no model is named: give a checkpoint, a file of weights, file.py:factory or tv/NAME")
    if is_library(source) and not is_existing_path(Path(source)):
        return "library"
    if named_code(source)[0] and not is_existing_path(Path(source)):
        return "code"
    if source in ARCHITECTURES and not is_existing_path(Path(source)):
        raise InputError(f"{source!r} is an architecture without weights: name a model file, with --arch {source} for a state_dict")
    return model_file_kind(existing_file(source))


def named_code(source: str) -> tuple[str, dict[str, Any]]:
    """The reference to the user's code and its options in `file.py:factory,option=value`; ("", {}) where it is none.

    Args:
        source: of a model, as the user wrote it.
    """
    match = re.fullmatch(r"(.+?:[^\W\d]\w*)((?:,[^,=]+=[^,]+)*)", source)
    return (match[1], parse_recipe(f"factory{match[2]}").options) if match else ("", {})


def open_library(source: str, model_options: ModelOptions) -> OpenedModel:
    """What a library of models gives for a name.

    Args:
        source: "LIBRARY/NAME", with options.
        model_options: what the user said about the model.

    Raises:
        InputError: for names and options that the library does not know, and for options that cannot apply.
    """
    model_options.refuse_options("arch activation weights", f"{source} names its own architecture")
    return LIBRARIES[source.partition("/")[0]](source, model_options)


def open_torchvision(source: str, model_options: ModelOptions) -> OpenedModel:
    """torchvision's network, with weights of its own where they are named, else with random ones.

    Args:
        source: the model as the command line names it
        model_options: what the options say of it: classes, shape, mean, std, download
    """
    named = named_torchvision_weights(source) is not None
    return (open_torchvision_weights if named else random_library_network)(source, model_options)


def open_timm(source: str, model_options: ModelOptions) -> OpenedModel:
    """timm's network, with weights of its own where they are asked for, else with random ones.

    Args:
        source: the model as the command line names it
        model_options: what the options say of it: classes, shape, mean, std, download
    """
    return (open_pretrained_timm if is_pretrained_timm(source) else random_library_network)(source, model_options)


def random_library_network(source: str, model_options: ModelOptions) -> OpenedModel:
    """A library's network with random weights; InputError where the number of classes or the shape of the images is not known."""
    classes, shape = classes_and_shape(source, model_options)
    name = source.replace(",pretrained=false", "")
    model = build_network(name, classes=classes, shape=shape, mean=model_options.mean, std=model_options.std)
    ask = {"tv": "weights=DEFAULT", "timm": "pretrained=true"}[source.partition("/")[0]]
    own = f"write {name},{ask} for those of the library, or name a file of weights, with --arch {name}"
    return OpenedModel(model, [f"{source} has random weights: {own}"])


def open_code(source: str, model_options: ModelOptions) -> OpenedModel:
    """What the user's factory returns.

    Args:
        source: "file.py:factory" or "module:factory", with options.
        model_options: what the user said about the model.

    Raises:
        InputError: where the factory fails or returns no torch module.
    """
    reference, options = named_code(source)
    name = Path(reference).name
    model_options.refuse_options("arch activation weights", f"{name} makes its own network")
    model = network_from_code(reference, model_options.classes, model_options.shape, **options)
    return OpenedModel(normalised_network(model, model_options.mean, model_options.std, model_options.shape), own_code_notes(reference))


def own_code_notes(source: str) -> list[str]:
    """A note that a network was made by code of the user's; none where it was not."""
    return [f"{Path(named_code(source)[0]).name} ran code of the user's"] if runs_code(source) else []


def open_torch(source: str, model_options: ModelOptions) -> OpenedModel:
    """What torch.save wrote: our checkpoint, a state_dict, or, with trust, a whole model.

    Args:
        source: the path of the file.
        model_options: what the user said about the model.

    Raises:
        InputError: where it holds no weights or code without trust, and where its weights do not fit.
    """
    name = Path(source).name
    content, notes = read_torch(Path(source), model_options.trust)
    if is_our_checkpoint(content):
        state, meta = state_and_meta(content, name)
        network = rebuilt_network(state, meta, name, model_options)
        return OpenedModel(network, notes + checkpoint_code_notes(meta, name, model_options), meta)
    weights, more = weights_in(content, name, model_options.weights)
    if isinstance(weights, nn.Module):
        model_options.refuse_options("arch activation", f"{name} holds a whole model")
        return OpenedModel(normalised_network(weights, model_options.mean, model_options.std, model_options.shape), notes + more)
    network, network_notes = network_from_state(weights, name, model_options)
    return OpenedModel(network, notes + more + network_notes)


def open_safetensors(source: str, model_options: ModelOptions) -> OpenedModel:
    """A state_dict in safetensors format.

    Args:
        source: the path of the file.
        model_options: what the user said about the model.

    Raises:
        InputError: where it is damaged, safetensors is not installed, or its weights do not fit.
    """
    name, state = Path(source).name, read_safetensors(Path(source))
    model_options.refuse_options("weights", f"{name} holds one set of weights")
    return OpenedModel(*network_from_state(state, name, model_options))


def open_torchscript(source: str, model_options: ModelOptions) -> OpenedModel:
    """A TorchScript archive, with trust.

    Args:
        source: the path of the file.
        model_options: what the user said about the model.

    Raises:
        InputError: where it is not trusted, or cannot be read.
    """
    name = Path(source).name
    refuse_untrusted(source, "a TorchScript archive, a stored program (deprecated since torch 2.14)", model_options)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch.jit.load` is deprecated")
            model = torch.jit.load(source, map_location="cpu")
    except RuntimeError as error:
        raise InputError(f"{name} cannot be read as a TorchScript archive ({first_line(error)})") from error
    network = normalised_network(model, model_options.mean, model_options.std, model_options.shape)
    return OpenedModel(network, [f"{name} is a stored program, which was run"])


def open_pt2(source: str, model_options: ModelOptions) -> OpenedModel:
    """A torch.export program, with trust.

    Args:
        source: the path of the file.
        model_options: what the user said about the model.

    Raises:
        InputError: where it is not trusted, cannot be read, or takes no single batch of images in eval mode.
    """
    name = Path(source).name
    refuse_untrusted(source, "a torch.export program, which torch reads by unpickling", model_options)
    model = read_program(Path(source), model_options.device)
    network = normalised_network(model, model_options.mean, model_options.std, model_options.shape)
    return OpenedModel(network, [f"{name} is a stored program, which was run"])


def refuse_untrusted(source: str, what: str, model_options: ModelOptions) -> None:
    """InputError for a stored program unless the user trusts it."""
    name = Path(source).name
    if not model_options.trust:
        raise InputError(f"{name} is {what}: {TRUST} to run it, or save a state_dict and name its network with --arch")
    ask_before_code(source)
    model_options.refuse_options("arch activation weights", f"{name} is a stored program")


def rebuilt_network(state: Mapping[str, Tensor], meta: dict[str, Any], name: str, model_options: ModelOptions) -> nn.Module:
    """The network that our checkpoint describes, with its weights."""
    if not repeats_normalisation(meta.get("model", {}), model_options):
        model_options.refuse_options("mean std", f"{name} is a checkpoint of robench and knows its own normalisation")
    model_options.refuse_options("weights", f"{name} is a checkpoint of robench and holds one set of weights")
    try:
        network_meta = meta["model"]
        arch, activation, classes = str(network_meta["arch"]), str(network_meta["activation"]), network_meta["classes"]
        mean, std = ([float(number) for number in network_meta[key]] if network_meta[key] else None for key in ("mean", "std"))
        shape, options = tuple(network_meta["shape"]), dict(network_meta.get("options") or {})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name} is a damaged checkpoint: it does not describe its network ({type(error).__name__}: {error})") from error
    if model_options.activation not in (None, activation):
        raise InputError(f"{name} was trained with the activation {activation!r}, not {model_options.activation!r}: leave --activation out")
    arch = architecture_to_build(arch, name, model_options)
    if not is_foreign(parse_recipe(arch).name):
        refuse_oversized_network(partial(build_network, arch, classes=classes, shape=shape, activation=activation, **options), state, name)
    elif is_library(arch) and classes > max((len(value) for value in state.values() if value.dim()), default=0):
        raise InputError(f"{name} is a damaged checkpoint: it describes {classes} classes, and no weights are so long")
    head = network_meta.get("head")
    bare = described_network(arch, classes=classes, shape=shape, activation=activation, head=None if head is None else str(head), **options)
    network = normalised_network(bare, mean, std, shape)
    fit_weights(network, state, name, arch, classes)
    return network


def described_network(arch: str, *, classes: int, shape: Shape, activation: str, head: str | None = None, **options: Any) -> nn.Module:
    """The network that an architecture is, without a normalisation in front, on which weights are then put.

    Args:
        arch: what `build_network` takes, or the name of a library's model that has no builder without weights: "hf/NAME", "rb/NAME".
        classes: K.
        shape: channels, height and width of an image.
        activation: of our own architectures.
        head: the layer in whose place a new one for K classes was put; None for none.
        options: of our own architectures.

    Raises:
        InputError: where it cannot be built, or the library's model is not on this machine.
    """
    if is_library(arch) and arch.partition("/")[0] in REBUILT_BY_NAME:
        network = split_normalisation(open_library(arch, ModelOptions(shape=shape)).network)[0]
    else:
        network = build_network(arch, classes=classes, shape=shape, activation=activation, **options)
    return network if head is None else with_new_head(network, head, classes)


def split_normalisation(network: nn.Module) -> tuple[nn.Module, tuple[float, ...] | None, tuple[float, ...] | None]:
    """The network behind our normalisation, with its mean and std; the network itself and None twice where there is none.

    Args:
        network: what a model was opened as.
    """
    parts = dict(network.named_children()) if isinstance(network, nn.Sequential) else {}
    front = parts.get("normalize")
    if list(parts) != ["normalize", "network"] or not isinstance(front, Normalize):
        return network, None, None
    mean, std = (tuple(float(f"{number:.7g}") for number in each.flatten().tolist()) for each in (front.mean, front.std))
    return parts["network"], mean, std


def repeats_normalisation(network_meta: Mapping[str, Any], model_options: ModelOptions) -> bool:
    """Whether mean and std that the user gives are those of a checkpoint, as where a file of weights stands beside it in one call."""
    given, its = ([of.mean, of.std] for of in (model_options, ModelOptions(mean=network_meta.get("mean"), std=network_meta.get("std"))))
    try:
        pairs = [[float(number) for number in (each or ())] for each in (*given, *its)]
    except (TypeError, ValueError):  # of a damaged checkpoint, which is told below
        return False
    return all(pairs) and all(
        len(one) == len(other) and all(abs(a - b) <= SAME_DIGITS for a, b in zip(one, other, strict=True))
        for one, other in zip(pairs[:2], pairs[2:], strict=True)
    )


def refuse_oversized_network(built: Callable[[], nn.Module], state: Mapping[str, Tensor], name: str) -> None:
    """InputError where the network that a checkpoint describes is far larger than its weights, seen without memory for it."""
    stored_count = sum(value.numel() for value in state.values())
    try:
        with torch.device("meta"):
            network_count = sum(value.numel() for value in built().state_dict().values())
    except (RuntimeError, OverflowError) as error:
        raise InputError(f"{name} is a damaged checkpoint: it describes a network that cannot be ({first_line(error)})") from error
    if network_count > 2 * stored_count + 2**20:
        raise InputError(f"{name} is a damaged checkpoint: it describes a network of {network_count:,} numbers, and holds {stored_count:,}")


def checkpoint_code_notes(meta: Mapping[str, Any], name: str, model_options: ModelOptions) -> list[str]:
    """Notes that the user's code makes a checkpoint's network, and where it is not what it was when it was trained."""
    arch = model_options.arch or str(meta["model"]["arch"])
    training_code, now = meta["model"].get("code"), code_digests(arch)
    other = training_code and training_code != now
    return [*own_code_notes(arch), *([f"{name} was trained with other code than {', '.join(now)} holds now"] if other else [])]


def architecture_to_build(arch: str, name: str, model_options: ModelOptions) -> str:
    """The architecture in a checkpoint; where that is code, which no file may start by itself, the user names it or trusts the file."""
    if not runs_code(arch):
        if model_options.arch == arch:
            return arch
        model_options.refuse_options("arch", f"{name} is a checkpoint of robench and knows its own network")
        return arch
    if model_options.arch is None and not model_options.trust:
        raise InputError(f"{name} wants to run {arch} for its network: name that code yourself with --arch, or {TRUST}")
    return model_options.arch or arch


def network_from_state(state: Mapping[str, Tensor], name: str, model_options: ModelOptions) -> tuple[nn.Module, list[str]]:
    """The network that the user named, with weights from a file and the normalisation of either, and notes."""
    if model_options.arch is None:
        raise InputError(f"{name} holds weights only: name its network with --arch, such as one of {', '.join(ARCHITECTURES)}")
    classes, shape = classes_and_shape(name, model_options)
    network = build_network(model_options.arch, classes=classes, shape=shape, activation=model_options.activation or "relu")
    behind = weights_behind_normalisation(state, network.state_dict(), name, model_options.mean, model_options.std, shape[0])
    rest, normalisation = behind.rest, behind.normalisation
    outputs = output_count(rest, network, classes)
    if outputs > classes:
        classes, network = (
            outputs,
            build_network(model_options.arch, classes=outputs, shape=shape, activation=model_options.activation or "relu"),
        )
    fit_weights(network, rest, name, model_options.arch, classes, partial(misfit_hint, state, normalisation, model_options, classes, shape))
    return normalised_network(network, behind.mean, behind.std, shape), [
        *own_code_notes(model_options.arch),
        *behind.notes,
        *stored_half_notes(rest, network, name),
    ]


@dataclass(frozen=True)
class WeightsBehindNormalisation:
    """Weights of a file, apart from the normalisation that goes before their network.

    Attributes:
        rest: the weights of the network.
        normalisation: what looks like one among the weights; None for none.
        mean: with which pixels are normalised, one number a channel; None for none.
        std: the spread that goes with `mean`.
        notes: one sentence each on what the user should know.
    """

    rest: dict[str, Tensor]
    normalisation: StoredNormalisation | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    notes: Sequence[str] = ()


def weights_behind_normalisation(
    state: Mapping[str, Tensor], due: Mapping[str, Tensor], name: str, mean: Sequence[float] | None, std: Sequence[float] | None,
    channels: int,
) -> WeightsBehindNormalisation:  # fmt: skip
    """The weights of a file apart from their normalisation, which is the file's or the user's.

    Args:
        state: what the file holds.
        due: the state_dict of the network that takes the weights.
        name: what sentences call the file.
        mean: what the user said of the normalisation; None for nothing.
        std: the spread that goes with `mean`.
        channels: of the images.

    Raises:
        InputError: where the file has other numbers than the user.
    """
    has_user_normalisation = mean is not None and std is not None
    normalisation = None if has_network_names(fitting_weights(state, due), due) else normalisation_in(state, channels)
    notes, rest = list[str](), dict(state)
    if normalisation and has_user_normalisation and not has_same_numbers(normalisation, mean or (), std or ()):
        options = f"--mean {numbers_as_option(normalisation.mean)} --std {numbers_as_option(normalisation.std)}"
        raise InputError(
            f"{name} has a normalisation of its own ({', '.join(normalisation.names)}), which is {options}: leave other numbers out"
        )
    if normalisation and (has_user_normalisation or (normalisation.own and mean is None and std is None)):
        rest, mean, std = normalisation.rest, normalisation.mean, normalisation.std
        notes = [
            f"{name} brings its own normalisation: mean {numbers_as_option(normalisation.mean)}, std {numbers_as_option(normalisation.std)}"
        ]
    elif has_user_normalisation:
        rest = dict(state) if has_network_names(fitting_weights(state, due), due) else unwrapped_weights(fitting_weights(state, due))
    return WeightsBehindNormalisation(rest, normalisation, mean, std, notes)


def stored_half_notes(state: Mapping[str, Tensor], network: nn.Module, name: str) -> list[str]:
    """A note where weights are stored in half precision and the network that takes them computes in float32."""
    stored = {value.dtype for value in state.values()} & {*HALF}
    if not stored or half_precision(network) is not None:
        return []
    word = dtype_word(min(stored, key=str))
    return [f"{name} stores weights in {word}, and the network computes in float32: to measure it in {word}, give a factory that casts it"]


def misfit_hint(
    state: Mapping[str, Tensor], normalisation: StoredNormalisation | None, model_options: ModelOptions, classes: int, shape: Shape
) -> str:
    """What may help where weights do not fit: the normalisation among them or before the network, and architectures that they fit."""
    *_, bare = prefix_variants(state)
    rest = unwrapped_weights(bare) if normalisation is None else normalisation.rest
    hint = ""
    if normalisation is not None and model_options.mean is None:
        options = f"--mean {numbers_as_option(normalisation.mean)} --std {numbers_as_option(normalisation.std)}"
        hint = f"; its {' and '.join(normalisation.names)} look like a normalisation: pass {options}"
    elif model_options.mean is None and rest.keys() != bare.keys():
        hint = "; its names start with a number, as a network's behind a normalisation do: pass --mean and --std (0 and 1 for none)"
    fitting_too = [] if model_options.arch in (names := fitting_architectures(rest, classes, shape)) else names
    return hint + (f"; the names and shapes are those of --arch {' or '.join(fitting_too)}" if fitting_too else "")


def fitting_architectures(state: Mapping[str, Tensor], classes: int, shape: Shape) -> list[str]:
    """Our architectures whose names and shapes these weights have, the number of outputs aside."""
    names = []
    for arch in ARCHITECTURES:
        with suppress(InputError), torch.device("meta"):  # no memory, and no numbers
            due = build_network(arch, classes=classes, shape=shape).state_dict()
            weights = fitting_weights(state, due)
            if has_network_names(weights, due) and all(
                weights[key].shape[1:] == value.shape[1:] for key, value in due.items() if key in weights
            ):
                names.append(arch)
    return names


def refuse_nonfinite_weights(model: nn.Module, name: str) -> None:
    """InputError where a weight or buffer is NaN or infinite."""
    for key, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{name} holds NaN or infinite weights (first in {key}): it cannot be measured")


def trial_images(shape: Shape) -> Tensor:
    """Four random images, (4, C, H, W), always the same ones."""
    return torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))


def trial_notes(model: nn.Module, shape: Shape, classes: int, device: str) -> list[str]:
    """Notes on a model that was tried on four random images of `shape`.

    Args:
        model: in eval mode, on `device`.
        shape: channels, height and width of an image.
        classes: K of the data.
        device: where the model lies.

    Raises:
        InputError: where it does not give finite logits (B, K) for them, with at least as many outputs as classes.
    """
    return outputs_and_notes(model, shape, classes, device)[1]


def outputs_and_notes(model: nn.Module, shape: Shape, classes: int, device: str) -> tuple[int, list[str]]:
    """The number of outputs of a model, and what `trial_notes` says of it."""
    x = trial_images(shape).to(device)
    logits = trial_logits_or_error(model, x, len(x))
    if logits.shape[1] < classes:
        raise InputError(f"the model has {logits.shape[1]} outputs, the data {classes} classes")
    if not bool(logits.isfinite().all()):
        raise InputError("the model gives NaN or infinite logits on images in [0, 1]")
    notes = more_outputs_notes(logits.shape[1], classes)
    if bool(are_probabilities(logits).all()):
        notes.append(
            "the outputs look like probabilities, not logits: leave the softmax out of the model, or attacks see vanishing gradients"
        )
    return logits.shape[1], notes


def more_outputs_notes(outputs: int, classes: int) -> list[str]:
    """A note where the model has more outputs than the data has classes: the others may win, as where it is used."""
    note = f"the model has {outputs} outputs, the data {classes} classes: label k is taken for output k, and all {outputs} outputs compete"
    return [note] if outputs > classes else []


REBUILT_BY_NAME = ("hf", "rb")  # libraries whose networks are opened again by their name, as no builder makes them without weights
SAME_DIGITS = 6e-5  # by which numbers that people write with four digits may differ
FOLDER_OPTIONS = ("model_dir", "model-dir")  # of a library's model, which say where its weights lie
LIBRARIES: dict[str, Callable[[str, ModelOptions], OpenedModel]] = {  # source -> what its library gives, by the prefix of the source
    "tv": open_torchvision,
    "timm": open_timm,
    "hf": huggingface_model,
    "rb": robustbench_model,
}

OPENERS: dict[str, Callable[[str, ModelOptions], OpenedModel]] = {
    "library": open_library,
    "code": open_code,
    "torch": open_torch,
    "safetensors": open_safetensors,
    "torchscript": open_torchscript,
    "pt2": open_pt2,
}
