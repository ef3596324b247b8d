"""Data sets that one function makes, the user's own among them: what it hands back becomes `Images`, or one sentence says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robench.core.errors import InputError
from robench.data.images import Choice, Images, checked_images
from robench.data.layouts import WHOLE_SET
from robench.data.own_code import own_result


def images_of_function(function: Callable[..., Any], name: str, split: str, data_dir: Path, download: bool, choice: Choice) -> Images:
    """The chosen images of a function that makes a whole split, checked. `functools.partial` of the first two makes an entry of DATASETS.

    Args:
        function: function(split, data_dir) -> `Images`, or a pair of x (N, C, H, W), uint8 or float in [0, 1], and whole numbers y (N,),
            as tensors or arrays. Of a pair, ids are the places and classes are called "0", "1", ... up to the largest label.
        name: as the rows spell the data set; it takes the place of the name in `Images`.
        split: "train" or "test"; the function returns `Images` with the split "all" where it has no splits.
        data_dir: the folder of --data-dir, where the function may look for its files.
        download: must be False: only the sets of torchvision are fetched.
        choice: which images are wanted.

    Raises:
        InputError: where the function fails, or returns no such images.
    """
    if download:
        raise InputError(f"{name} fetches nothing by itself: leave --download out")
    result = own_result(name, function, split, data_dir)
    images = result if isinstance(result, Images) else images_of_pair(result, name, split)
    if images.split not in (split, WHOLE_SET):
        raise InputError(
            f"{name} returned the split {images.split!r} where {split!r} was asked for: return that, or {WHOLE_SET!r} without splits"
        )
    images = checked_images(replace(images, name=name))
    return images.take(choice.rows(images.ids, name, images.y))


def images_of_pair(made: object, name: str, split: str) -> Images:
    """Images, of a pair (x, y) of tensors or arrays; InputError where it is none."""
    if not isinstance(made, (tuple, list)) or len(made) != 2 or not all(isinstance(part, (Tensor, np.ndarray)) for part in made):
        what = type(made).__name__
        raise InputError(f"{name} returned {what}: it must return a robench.Images, or x (N, C, H, W) and y (N,) as tensors or arrays")
    x, y = (torch.as_tensor(part).detach().cpu() for part in made)
    if x.dim() == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        raise InputError(f"{name} returned x of shape {tuple(x.shape)}, which looks like (N, H, W, C): return x.permute(0, 3, 1, 2)")
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise InputError(f"{name} returned labels of type {y.dtype}: they must be whole numbers (N,)")
    y = y.to(torch.int64)
    classes = tuple(str(k) for k in range(1 + (int(y.max()) if len(y) else 0))) if y.dim() == 1 else ()
    return Images(name, split, x.to(torch.float32) if x.is_floating_point() else x, y, torch.arange(len(x)), classes)
