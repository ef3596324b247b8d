"""The pool of images of a run, from what a caller hands over."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from robench.core.errors import InputError
from robench.core.inputs import Array, as_images, as_labels
from robench.core.model_calls import autograd_tensor
from robench.data import Images
from robench.data.images import pixel_range_fault
from robench.runs.types import Pool


def pool_tensors(x: Array, y: Array, ids: Array | None) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and ids as tensors, the last two on the CPU. Raises InputError where they do not go together."""
    x = as_images(x)
    y, ids = as_labels(y, len(x)), torch.arange(len(x)) if ids is None else as_ids(ids, len(x))
    if x.is_floating_point() and (fault := pixel_range_fault(x)):
        raise InputError(f"pixels must lie in [0, 1], and {fault}")
    return autograd_tensor(x), autograd_tensor(y.cpu()), autograd_tensor(ids.cpu())


def as_ids(ids: Array, n: int) -> Tensor:
    """Numbers of images as a tensor (N,) int64.

    Args:
        ids: whole numbers, each once.
        n: the number of images.

    Raises:
        InputError: for anything else.
    """
    numbers = as_labels(ids, n, "ids", "id")
    if len(numbers.unique()) < n:
        raise InputError("ids name an image twice: each needs its own, since its random numbers belong to it")
    return numbers


def pool_of(x: Array, y: Array, ids: Array | None = None, masks: Tensor | None = None) -> Pool:
    """The pool of some images.

    Args:
        x: images (N, C, H, W), uint8 or float in [0, 1].
        y: labels (N,).
        ids: sample ids (N,), each once; 0 to N - 1 if not given.
        masks: (N, H, W) bool, where the object is, or None.
    """
    images, labels, numbers = pool_tensors(x, y, ids)
    return Pool(lambda places: images[places.to(images.device)], labels, numbers, tuple(images.shape[1:]), masks)


def images_from_arrays(
    x: Array, y: Array, ids: Array | None = None, *, name: str = "", split: str = "", masks: Tensor | None = None
) -> Images:
    """The images as a data set whose classes have no names.

    Args:
        x: images (N, C, H, W), uint8 or float in [0, 1].
        y: labels (N,).
        ids: sample ids (N,), each once; 0 to N - 1 if not given.
        name: of the data set.
        split: of the data set.
        masks: (N, H, W) bool, where the object is, or None.

    Raises:
        InputError: where these do not go together.
    """
    images, labels, numbers = pool_tensors(x, y, ids)
    return Images(name, split, images, labels, numbers, (), masks)


def pool_of_images(images: Images) -> Pool:
    """The pool of a data set.

    Args:
        images: the data set.
    """
    x = images.x
    if isinstance(x, Tensor):
        return replace(pool_of(x, images.y, images.ids, images.masks), source=images)
    y, ids = autograd_tensor(images.y.cpu()), autograd_tensor(images.ids.cpu())
    return Pool(x.__getitem__, y, ids, images.shape, images.masks, source=images, skips_damaged=x.skips_damaged)
