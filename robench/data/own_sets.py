"""Data sets that one function makes, the user's own among them: what it hands back becomes `Images`, or one sentence says why not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robench.core.errors import InputError
from robench.core.preprocessing import Preprocessing
from robench.core.recipes import object_from_file, parse_recipe, recipe_text, resolve
from robench.data.catalogues import Keeping
from robench.data.images import Choice, Images, checked_images, resized_images
from robench.data.layouts import WHOLE_SET
from robench.data.own_code import own_result
from robench.data.own_loaders import arrays_of_loader, images_of_dataset, is_own_source, is_read_to_its_end, read_note


def images_of_own_name(
    name: str, table: Mapping[str, Callable[..., Any]], split: str, data_dir: Path, download: bool, choice: Choice,
    preprocessing: Preprocessing | None, keeping: Keeping,
) -> Images:  # fmt: skip
    """The chosen images of `file.py:function`, or of a DataLoader or data set that lies in a file, `file.py:loader`; the file is run.

    Args:
        name: as the user wrote it, with options.
        table: name -> function, of the data sets that robench has.
        split: "train" or "test"; an object that lies in a file is used whole, and says "all".
        data_dir: the folder of --data-dir.
        download: must be False.
        choice: which images are wanted.
        preprocessing: how they are resized and cut; None leaves them as they are.
        keeping: where the pixels of a DataLoader or data set are kept.

    Raises:
        InputError: where the file has no such name, fails, or gives no such images.
    """
    recipe = parse_recipe(name)
    known_as = recipe_text(replace(recipe, name=recipe.label))
    made = object_from_file(recipe.name)
    if callable(made) and not is_own_source(made) and takes_options_alone(made):
        return images_of_plain_function(partial(made, **recipe.options), known_as, choice, preprocessing, keeping, download)
    if not is_own_source(made):
        function = resolve(recipe, table, "data set")
        return images_of_function(function, known_as, split, data_dir, download, choice, preprocessing=preprocessing, keeping=keeping)
    if recipe.options or recipe.weight is not None or download:
        what = "it fetches nothing by itself" if download else "options go to a function that returns one"
        raise InputError(f"{recipe.label} is a {type(made).__name__}, and takes no options: {what}")
    return images_of_source(made, known_as, WHOLE_SET, choice, preprocessing, keeping)


def takes_options_alone(function: Callable[..., Any]) -> bool:
    """Whether a function is called without split and folder: it has no arguments but options, which are given by name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    return all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)


def images_of_plain_function(
    function: Callable[[], Any], name: str, choice: Choice, preprocessing: Preprocessing | None, keeping: Keeping, download: bool
) -> Images:
    """The chosen images of a function that takes neither split nor folder: what it returns is used whole, and says "all"."""

    def whole(split: str, data_dir: Path) -> Any:  # noqa: ARG001
        return function()

    return images_of_function(whole, name, WHOLE_SET, Path(), download, choice, preprocessing=preprocessing, keeping=keeping)


def images_of_function(
    function: Callable[..., Any],
    name: str,
    split: str,
    data_dir: Path,
    download: bool,
    choice: Choice,
    *,
    preprocessing: Preprocessing | None = None,
    keeping: Keeping | None = None,
) -> Images:
    """The chosen images of a function that makes a whole split, checked. `functools.partial` of the first two makes an entry of DATASETS.

    Args:
        function: function(split, data_dir) -> `Images`, or a pair of x (N, C, H, W), uint8 or float in [0, 1], and whole numbers y (N,),
            as tensors or arrays, or a DataLoader or data set of (x, y). Ids are the places; classes are called "0", "1", ... up to the
            largest label where a data set does not name them.
        name: as the rows spell the data set; it takes the place of the name in `Images`.
        split: "train" or "test"; the function returns `Images` with the split "all" where it has no splits.
        data_dir: the folder of --data-dir, where the function may look for its files.
        download: must be False: only the sets of torchvision are fetched.
        choice: which images are wanted.
        preprocessing: how they are resized and cut; None leaves them as they are.
        keeping: where the pixels of a DataLoader or data set are kept; None for a default.

    Raises:
        InputError: where the function fails, or returns no such images.
    """
    if download:
        raise InputError(f"{name} fetches nothing by itself: leave --download out")
    result = own_result(name, function, split, data_dir)
    if is_own_source(result):
        return images_of_source(result, name, split, choice, preprocessing, keeping or Keeping())
    if keeping is not None and keeping != Keeping():
        raise InputError(f"--pixels, --workers and --skip-damaged are for what is read as it is needed, and {name} returned it whole")
    images = result if isinstance(result, Images) else images_of_pair(result, name, split)
    if images.split not in (split, WHOLE_SET):
        raise InputError(
            f"{name} returned the split {images.split!r} where {split!r} was asked for: return that, or {WHOLE_SET!r} without splits"
        )
    return fitted_choice(replace(images, name=name), choice, preprocessing)


def fitted_choice(images: Images, choice: Choice, preprocessing: Preprocessing | None) -> Images:
    """The chosen ones of images in memory, checked, resized and cut."""
    images = checked_images(images)
    taken = images.take(choice.rows(images.ids, images.name, images.y))
    return taken if preprocessing is None else resized_images(taken, preprocessing)


def images_of_source(
    source: Any, name: str, split: str, choice: Choice, preprocessing: Preprocessing | None, keeping: Keeping
) -> Images:  # fmt: skip
    """The chosen images of a DataLoader or a data set of the user's own.

    Args:
        source: the DataLoader or data set.
        name: as the rows spell it.
        split: "train" or "test"; "all" where it is the whole.
        choice: which images are wanted.
        preprocessing: how they are resized and cut; None leaves them as they are.
        keeping: where their pixels are kept, and how many processes ask for them.

    Raises:
        InputError: where it gives no such images.
    """
    if keeping.skips_damaged:
        raise InputError(f"--skip-damaged is for image files, and {name} is asked for images itself: let it leave such images out")
    if not is_read_to_its_end(source):
        return images_of_dataset(source, name, split, choice=choice, preprocessing=preprocessing, keeping=keeping)
    if keeping.place == "disk" or keeping.workers is not None:
        raise InputError(f"{name} can only be read to its end, into memory: leave --pixels and --workers out")
    images = images_of_pair(arrays_of_loader(source, name), name, split)
    return fitted_choice(replace(images, notes=(read_note(name),)), choice, preprocessing)


def images_of_pair(made: object, name: str, split: str) -> Images:
    """Images, of a pair (x, y) of tensors or arrays; InputError where it is none."""
    if not isinstance(made, (tuple, list)) or len(made) != 2 or not all(isinstance(part, (Tensor, np.ndarray)) for part in made):
        what = type(made).__name__
        raise InputError(
            f"{name} returned {what}: it must return a robench.Images, or x (N, C, H, W) and y (N,) as tensors or arrays, or a DataLoader"
        )
    x, y = (torch.as_tensor(part).detach().cpu() for part in made)
    if x.dim() == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        raise InputError(f"{name} returned x of shape {tuple(x.shape)}, which looks like (N, H, W, C): return x.permute(0, 3, 1, 2)")
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise InputError(f"{name} returned labels of type {y.dtype}: they must be whole numbers (N,)")
    y = y.to(torch.int64)
    classes = tuple(str(k) for k in range(1 + (int(y.max()) if len(y) else 0))) if y.dim() == 1 else ()
    return Images(name, split, x.to(torch.float32) if x.is_floating_point() else x, y, torch.arange(len(x)), classes)
