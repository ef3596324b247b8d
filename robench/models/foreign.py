"""Networks of others: torchvision's and timm's classifiers with random weights, and the user's own factory."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import nn

from robench.core.code_permission import ask_before_code
from robench.core.errors import InputError
from robench.core.recipes import did_you_mean, function_from_file, lookup, parameter_names, parse_recipe
from robench.models.layers import Shape
from robench.models.model_files import first_line

CLASS_PARAMETERS = ("num_classes", "n_classes", "nb_classes", "nclasses", "classes")  # what people call the number of classes
LIBRARY_PREFIXES = ("tv", "timm", "hf", "rb")  # of names such as tv/resnet50
LIBRARY_FORMS = (  # how models of libraries are written, with what that stands for, and an example
    ("tv/NAME", "torchvision's classifier with random weights; also with --arch, for weights of a file", "tv/resnet18"),
    ("tv/NAME,weights=ENTRY", "torchvision's classifier with weights of its own, by the names of its enums", "tv/resnet50,weights=DEFAULT"),
    ("timm/NAME", "timm's model with random weights; also with --arch, for weights of a file", "timm/vit_small_patch16_224"),
    ("timm/NAME,pretrained=true", "timm's model with weights of its own", "timm/resnet50.a1_in1k,pretrained=true"),
    (
        "timm/hf-hub:ORG/NAME",
        "a repository of Hugging Face's hub in timm's layout, @REVISION behind it",
        "timm/hf-hub:timm/resnet50.a1_in1k",
    ),
    ("hf/ORG/NAME", "an image classifier of transformers, from Hugging Face's hub; @REVISION behind it", "hf/google/vit-base-patch16-224"),
    (
        "rb/NAME,dataset=DATASET,threat=THREAT",
        "a model of RobustBench's zoo, from its folder models or model_dir=FOLDER",
        "rb/Carmon2019Unlabeled,dataset=cifar10,threat=Linf",
    ),
)
WEIGHT_CHOICES = ("weights", "weights_backbone", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def torchvision_network(name: str, classes: int, shape: Shape, **options: Any) -> nn.Module:
    """torchvision's classifier of that name with random weights; `options` go to its builder.

    Args:
        name: the name in torchvision, such as "resnet50".
        classes: K.
        shape: channels, height and width of an image; there must be 3 channels.
        options: options of torchvision's builder; those that would download are refused.

    Raises:
        InputError: for an unknown name, other channels, and options that the builder does not take.
    """
    import torchvision

    if shape[0] != 3:
        raise InputError(f"tv/{name} takes images of 3 channels, not {shape[0]}: choose another architecture")
    refuse_unknown_torchvision(name)
    models: Any = torchvision.models
    return built_network(f"tv/{name}", lambda: models.get_model(name, weights=None, num_classes=classes, **options), options)


def refuse_unknown_torchvision(name: str) -> None:
    """InputError for what is no classifier of torchvision's.

    Args:
        name: the name in torchvision.
    """
    import torchvision

    models: Any = torchvision.models  # its stubs do not export list_models; only the classifiers sit in this very module
    lookup(name, dict.fromkeys(models.list_models(module=models)), "torchvision classifier")


def timm_network(name: str, classes: int, shape: Shape, **options: Any) -> nn.Module:
    """timm's model of that name with random weights.

    Args:
        name: the name in timm.
        classes: K.
        shape: channels, height and width of an image.
        options: options of timm.create_model, such as img_size for a transformer; those that would download are refused.

    Raises:
        InputError: where timm is not installed, for an unknown name, and for options that timm does not take.
    """
    timm = installed_timm(f"timm/{name}")
    refuse_unknown_timm(name)
    return built_network(
        f"timm/{name}",
        lambda: timm.create_model(name, pretrained=False, num_classes=classes, in_chans=shape[0], **options),
        options,
    )


def installed_timm(source: str) -> Any:
    """The package timm.

    Args:
        source: the model that needs it, for the sentence.

    Raises:
        InputError: where it is not installed.
    """
    try:
        import timm
    except ImportError:
        raise InputError(f"{source} needs the package timm, which is not installed: pip install timm") from None
    return timm


def refuse_unknown_timm(name: str) -> None:
    """InputError for what is no model of timm's.

    Args:
        name: the name in timm, perhaps with the tag of its weights.
    """
    timm = installed_timm(f"timm/{name}")
    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models())
        raise InputError(f"unknown timm model {name!r}{near if 'did you mean' in near else ': see timm.list_models()'}")


def built_network(name: str, build: Callable[[], Any], options: dict[str, Any]) -> nn.Module:
    """What the library builds; InputError for options that choose weights or that the library does not know."""
    for key in WEIGHT_CHOICES:
        if key in options:
            raise InputError(f"{name} is built with random weights or those of a file: leave {key}={options[key]} out")
    try:
        network = build()
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"{name} could not be built: {first_line(error)}") from error
    return module_or_error(network, name)


def built_pretrained(name: str, build: Callable[[], Any]) -> nn.Module:
    """What the library builds and gives weights to.

    Args:
        name: what sentences call the model.
        build: builds it.

    Raises:
        InputError: where the weights or the options do not fit.
    """
    try:
        network = build()
    except Exception as error:  # whatever the library makes of other options, or of weights of another network
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]  # torch says in the second what does not fit
        reason = shorten(" ".join(lines[:2]), 300)
        raise InputError(f"{name} could not be built with its weights ({type(error).__name__}: {reason})") from error
    return module_or_error(network, name)


def refuse_settled_options(name: str, options: dict[str, Any]) -> None:
    """InputError for options that a model with weights of its own answers itself: other weights, another number of classes.

    Args:
        name: what sentences call the model.
        options: options of the network that the user gave.
    """
    for key in (*WEIGHT_CHOICES, *CLASS_PARAMETERS, "features_only"):
        if key in options:
            raise InputError(f"{name} has weights and classes of its own: leave {key}={options[key]} out")


def library_reference(source: str) -> tuple[str, dict[str, Any]]:
    """The name in its library and the options in "LIBRARY/NAME,option=value".

    Args:
        source: as the user wrote it.
    """
    recipe = parse_recipe(source)
    if recipe.weight is not None or recipe.on is not None:
        raise InputError(f"cannot read {source!r}: write LIBRARY/NAME, then options as key=value, parted by commas")
    return recipe.name.partition("/")[2], recipe.options


def network_from_code(reference: str, classes: int | None, shape: Shape | None, /, **options: Any) -> nn.Module:
    """What the user's factory returns, for `file.py:factory` or `module:factory`; runs their code.

    A factory that has parameters named `classes` or `shape` is given them; it needs none.
    """
    factory = function_at(reference)
    data_options = {
        key: value for key, value in {"classes": classes, "shape": shape}.items() if value is not None and key in parameter_names(factory)
    }
    for name in needed_parameters(factory):
        if name not in data_options | options:
            value = classes if name in CLASS_PARAMETERS and classes else "VALUE"
            raise InputError(f"{Path(reference).name} needs a value for {name!r}: write {reference},{name}={value}")
    try:
        network = factory(**data_options | options)
    except Exception as error:
        raise InputError(f"{Path(reference).name} failed: {type(error).__name__}: {first_line(error)}") from error
    return module_or_error(network, Path(reference).name)


def function_at(reference: str) -> Callable[..., Any]:
    """The function that `file.py:factory` or `module:factory` names; a module may lie in the current folder."""
    if ".py:" in reference:
        return function_from_file(reference)
    ask_before_code(reference)
    module, _, name = reference.rpartition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise InputError(f"module {module!r} cannot be imported: {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise InputError(f"module {module!r} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def needed_parameters(function: Callable[..., Any]) -> list[str]:
    """The names of the parameters without which a function cannot be called by name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return []
    keyword_kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter.name for parameter in parameters if parameter.kind in keyword_kinds and parameter.default is inspect.Parameter.empty]


def module_or_error(network: Any, name: str) -> nn.Module:
    """`network`, if it is a torch module; InputError else."""
    if not isinstance(network, nn.Module):
        raise InputError(f"{name} gave {type(network).__name__} and no torch.nn.Module")
    return network
