"""Networks of others: torchvision's and timm's classifiers with random weights, and the user's own factory. Nothing is ever downloaded."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from robench.core.code_permission import ask_before_code
from robench.core.errors import InputError
from robench.core.recipes import did_you_mean, function_from_file, lookup, parameter_names
from robench.models.layers import Shape
from robench.models.model_files import first_line

CLASS_PARAMETERS = ("num_classes", "n_classes", "nb_classes", "nclasses", "classes")  # what people call the number of classes
LIBRARY_PREFIXES = ("tv", "timm")  # of names such as tv/resnet50
DOWNLOADS = ("weights", "weights_backbone", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


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
    models: Any = torchvision.models  # its stubs do not export list_models; only the classifiers sit in this very module
    lookup(name, dict.fromkeys(models.list_models(module=models)), "torchvision classifier")
    return built_network(f"tv/{name}", lambda: models.get_model(name, weights=None, num_classes=classes, **options), options)


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
    try:
        import timm
    except ImportError:
        raise InputError(f"timm/{name} needs the package timm, which is not installed: pip install timm") from None
    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models())
        raise InputError(f"unknown timm model {name!r}{near if 'did you mean' in near else ': see timm.list_models()'}")
    return built_network(
        f"timm/{name}",
        lambda: timm.create_model(name, pretrained=False, num_classes=classes, in_chans=shape[0], **options),
        options,
    )


def built_network(name: str, build: Callable[[], Any], options: dict[str, Any]) -> nn.Module:
    """What the library builds; InputError for options that would download or that the library does not know."""
    for key in DOWNLOADS:
        if key in options:
            raise InputError(f"{name} has no option {key!r} here, because nothing is downloaded: load a file of weights with --arch {name}")
    try:
        network = build()
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"{name} could not be built: {first_line(error)}") from error
    return module_or_error(network, name)


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
