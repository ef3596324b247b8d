"""What a caller from Python may hand over, brought to the one form that the rest works on: arrays, lists, words, plain functions."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.recipes import Recipe, parse_fraction, parse_recipe

Array: TypeAlias = Tensor | np.ndarray[Any, Any] | Sequence[Any]
PathLike: TypeAlias = str | os.PathLike[str]
Radius: TypeAlias = float | str | Sequence[float | str]
Suite: TypeAlias = str | Recipe | Sequence[str | Recipe]
SUITE_NAMES = ("clean", "smoke", "fast", "autoattack", "autoattack-plus", "autoattack-rand", "inductive", "full")  # that name nothing else
LARGEST_SEED = 2**32 - 1
SMALLEST_SIDE = 5  # channels from here on are taken for a side of the image where the last axis has 1, 3 or 4


class FunctionModule(nn.Module):
    """A plain function (B, C, H, W) -> logits (B, K) as a module; what it calls keeps its own mode and parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """What the function returns."""
        return self.function(x)


def as_model(model: Any) -> nn.Module:
    """The model as a module: a module as it is, a module's own method as that module, a plain function behind `FunctionModule`.

    Args:
        model: a torch.nn.Module or a function from images (B, C, H, W) to logits (B, K).

    Raises:
        InputError: for anything else, such as a path or a class.
    """
    if isinstance(model, (str, Path)):
        raise InputError(f"the model is {str(model)!r}: load it first, with robench.load_model({str(model)!r})")
    owner = getattr(model, "__self__", None)
    if isinstance(owner, nn.Module) and getattr(model, "__name__", "") in ("forward", "__call__", "_wrapped_call_impl"):
        return owner
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, type) or not callable(model):
        what = f"the class {model.__name__}: hand over an object of it" if isinstance(model, type) else f"of type {type(model).__name__}"
        raise InputError(f"the model is {what}; it must be a torch.nn.Module or a function from images (B, C, H, W) to logits (B, K)")
    return FunctionModule(model)


def as_images(x: Any) -> Tensor:
    """The images as a tensor (N, C, H, W), uint8 or float.

    Args:
        x: a tensor, an array or nested lists.

    Raises:
        InputError: for other shapes and types, for (N, H, W, C), and for bytes of 0 and 1 alone.
    """
    images = as_tensor(x, "x")
    shape = tuple(images.shape)
    if images.dim() != 4 or len(images) == 0:
        alone = ": a single image is handed over as x[None]" if images.dim() == 3 else ""
        raise InputError(f"x has shape {shape}, and must be images (N, C, H, W), N > 0{alone}")
    if shape[3] in (1, 3, 4) and min(shape[1:3]) >= SMALLEST_SIDE:
        raise InputError(
            f"x has shape {shape}, which looks like (N, H, W, C): hand over x.permute(0, 3, 1, 2), or x.transpose(0, 3, 1, 2) in numpy"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"x holds {dtype_name(images)} numbers: pixels are uint8 from 0 to 255, or float from 0 to 1")
    if images.dtype == torch.uint8 and int(images.max()) == 1:
        raise InputError("x holds bytes of 0 and 1 alone, which is black: multiply them by 255, or hand over x.float()")
    return images


def as_model_dtype(x: Tensor, model: nn.Module) -> Tensor:
    """The float images in the dtype of the model's weights, if that is float32 or float64; images of another dtype stay as they are.

    Args:
        x: images (B, C, H, W); numpy's own floats are float64.
        model: the model that they are for; one without floating-point weights counts as float32.
    """
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return x if not x.is_floating_point() or x.dtype == own or own not in (torch.float32, torch.float64) else x.to(own)


def as_labels(y: Any, n: int, what: str = "y", each: str = "label") -> Tensor:
    """Whole numbers as a tensor (N,) int64, one an image.

    Args:
        y: a tensor, an array or a list.
        n: number of images.
        what: the name of the argument, for errors.
        each: what one number is called, for errors.

    Raises:
        InputError: for another shape, and for numbers that are not of an integer type.
    """
    labels = as_tensor(y, what)
    if labels.shape != (n,):
        hint = f": for one-hot rows hand over {what}.argmax(1)" if labels.dim() == 2 and len(labels) == n and labels.shape[1] > 1 else ""
        raise InputError(f"{what} has shape {tuple(labels.shape)}, and must hold one {each} for each of the {n} images, ({n},){hint}")
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(f"{what} holds {dtype_name(labels)} numbers, and must hold whole ones: one {each} an image")
    return labels.long()


def as_tensor(value: Any, name: str) -> Tensor:
    """A tensor (detached), or a numpy array or list of numbers as one.

    Args:
        value: what the caller handed over.
        name: the name of the argument, for errors.

    Raises:
        InputError: for anything else.
    """
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
        return torch.from_numpy(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} is of type {type(value).__name__}, and must be a tensor or an array of numbers") from None


def as_masks(masks: Any, x: Tensor) -> Tensor:
    """The masks of the object as a tensor (N, H, W) bool on the CPU.

    Args:
        masks: (N, H, W), true or 1 where the object is; a tensor or an array.
        x: the images (N, C, H, W) that they belong to.

    Raises:
        InputError: for another shape.
    """
    tensor, shape = as_tensor(masks, "masks"), (len(x), *x.shape[2:])
    if tuple(tensor.shape) != shape:
        raise InputError(f"masks has shape {tuple(tensor.shape)}, and must be {shape}: true or 1 where the object is on each image")
    return tensor.cpu().bool()


def as_list(value: Any) -> list[Any]:
    """The values as a list; a word, a path, a number, a recipe or a threat becomes a list of one.

    Args:
        value: one value, or an iterable of several.

    Example:
        >>> as_list("gini"), as_list(("gini", "hoyer"))
        (['gini'], ['gini', 'hoyer'])
    """
    several = isinstance(value, Iterable) and not isinstance(value, (str, bytes, os.PathLike)) and getattr(value, "ndim", 1) > 0
    return list(value) if several else [value]


def dtype_name(x: Tensor) -> str:
    """The dtype of a tensor in one word, such as "float32".

    Args:
        x: any tensor.
    """
    return str(x.dtype).removeprefix("torch.")


def as_radius(eps: Any) -> float:
    """A radius as a float, in pixel units.

    Args:
        eps: a number, or a fraction such as "8/255".

    Raises:
        InputError: for what is no finite number of at least 0.
    """
    try:
        complex_or_array = getattr(getattr(eps, "dtype", None), "kind", "") == "c" or (isinstance(eps, np.ndarray) and eps.ndim > 0)
        no_number = eps is None or isinstance(eps, bool) or complex_or_array
        radius = parse_fraction(eps) if isinstance(eps, str) else math.nan if no_number else float(eps)
    except (TypeError, ValueError, OverflowError):
        radius = math.nan
    if not 0 <= radius < math.inf:
        raise InputError(f"eps must be a finite number of at least 0, or a fraction such as '8/255', not {eps!r}")
    return radius


def as_radii(eps: Any) -> list[float]:
    """The radii as floats in ascending order, each once.

    Args:
        eps: one radius, several, or several in one string, separated by commas.

    Raises:
        InputError: where there is none, and for what is no radius.

    Example:
        >>> as_radii("0.5,0.25")
        [0.25, 0.5]
    """
    if isinstance(eps, str):
        eps = eps.split(",")
    several = isinstance(eps, Iterable) and getattr(eps, "ndim", 1) > 0
    radii = sorted({as_radius(one) for one in (eps if several else [eps])})
    if not radii:
        raise InputError("eps is empty: give a radius, such as 8/255")
    return radii


def as_seed(seed: Any) -> int:
    """The seed as an int.

    Args:
        seed: a whole number from 0 to 2^32 - 1, which every generator takes.

    Raises:
        InputError: for anything else.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"the seed must be a whole number from 0 to {LARGEST_SEED}, not {seed!r}")
    return int(seed)


def as_suite(suite: Suite) -> str | list[Recipe]:
    """The name of a suite as it is, else a list of recipes, for which sentences such as "pgd,steps=50" are read.

    Args:
        suite: a name, a recipe, or several sentences and recipes.

    Raises:
        InputError: for anything else, and for a sentence that cannot be read.
    """
    if isinstance(suite, str):
        return suite
    recipes = as_list(suite)
    wrong = next((one for one in recipes if not isinstance(one, (str, Recipe))), recipes)
    if wrong is not recipes:
        verb = "holds" if isinstance(suite, Iterable) else "is"
        raise InputError(f"suite {verb} {type(wrong).__name__}: name attacks, such as 'pgd,steps=50', or a suite, such as 'autoattack'")
    return [parse_recipe(one) if isinstance(one, str) else one for one in recipes]


def as_suite_list(suite: Suite) -> list[str | Recipe]:
    """What is to be measured, as a list: names of suites and of files of recipes as they are, all else read as recipes.

    In a list "pgd" is the attack; alone it is the suite of that name.

    Args:
        suite: a name, a recipe, or several sentences and recipes.

    Raises:
        InputError: for anything else, and for a sentence that cannot be read.
    """
    name_or_recipes = as_suite(suite)
    return (
        [name_or_recipes]
        if isinstance(name_or_recipes, str)
        else [one.name if one == Recipe(one.name) and one.name in SUITE_NAMES else one for one in name_or_recipes]
    )


def as_whole_number(value: Any, name: str, least: int | None = None) -> int:
    """A whole number as an int; numpy's integers are accepted.

    Args:
        value: what the caller handed over.
        name: the name of the argument, for the error.
        least: the smallest value that is allowed; None for no bound.

    Raises:
        InputError: for anything else, also for true and false.
    """
    number = int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else None
    if number is None or (least is not None and number < least):
        raise InputError(f"{name} must be a whole number{'' if least is None else f' of at least {least}'}, not {value!r}")
    return number


def as_number(value: Any, name: str) -> float:
    """A number as a float; numpy's numbers are accepted.

    Args:
        value: what the caller handed over.
        name: the name of the argument, for the error.

    Raises:
        InputError: for anything else, also for true and false.
    """
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    raise InputError(f"{name} must be a number, not {value!r}")


def as_device(device: Any) -> str:
    """The name of a device, such as "cpu" or "cuda:1".

    Args:
        device: a name or a torch.device.

    Raises:
        InputError: for a name that torch does not know, and for a device that is not there.
    """
    try:
        torch_device = torch.device(device if isinstance(device, torch.device) else str(device))
    except RuntimeError:
        raise InputError(f"unknown device {device!r}: choose one of cpu, cuda, mps") from None
    if (torch_device.type == "cuda" and (torch_device.index or 0) >= torch.cuda.device_count()) or (
        torch_device.type == "mps" and not torch.backends.mps.is_available()
    ):
        raise InputError(f"there is no {torch_device} device here: choose device='cpu', or another that is there")
    return str(torch_device)


def as_word(value: Any, name: str) -> str:
    """The string itself.

    Args:
        value: what the caller handed over.
        name: the name of the argument, for the error.

    Raises:
        InputError: for anything else.
    """
    if isinstance(value, str):
        return value
    raise InputError(f"{name} must be a string, not {value!r}")


def as_path(value: Any, name: str) -> Path | None:
    """A string or path as a `Path`; None stays None.

    Args:
        value: what the caller handed over.
        name: the name of the argument, for the error.

    Raises:
        InputError: for anything else, and for an empty string.
    """
    if isinstance(value, str) and not value.strip():
        raise InputError(f"{name} is an empty path: name a place, or leave it out")
    if value is None or isinstance(value, (str, os.PathLike)):
        return None if value is None else Path(value)
    raise InputError(f"{name} is of type {type(value).__name__}, and must be a path")
