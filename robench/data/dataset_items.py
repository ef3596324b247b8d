"""One item (x, y) of a data set of the user's own, as torch's DataLoader takes them: looked at, checked, and brought to one form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robench.core.errors import InputError
from robench.core.inputs import SMALLEST_SIDE, dtype_name
from robench.core.preprocessing import Preprocessing
from robench.data.images import pixel_range_fault, resized_crops

NORMALISED = (
    "they look normalised: take Normalize out of the transforms of the data set, and give it to the model, "
    "by --mean and --std or as a first layer"
)


@dataclass(frozen=True)
class ItemForm:
    """What all items of a data set have in common.

    Attributes:
        name: what sentences call the set.
        shape: (C, H, W) of each x as the data set gives it.
        dtype: in which pixels are kept.
        preprocessing: how they are resized and cut; None leaves them as they are.
        labels: (N,) int64, what is known of the labels by index, -1 where one is not known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    preprocessing: Preprocessing | None = None
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def extent(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that come out."""
        if self.preprocessing is None:
            c, h, w = self.shape
            return c, h, w
        return (self.shape[0], *self.preprocessing.cut_extent(*self.shape[1:]))


def item_of_dataset(dataset: Any, index: int, form: ItemForm) -> tuple[Tensor, int]:
    """The pixels of an item, checked, resized and cut, and its label; an exception of the data set's own is raised as it is, with a note.

    Args:
        dataset: has __getitem__.
        index: of the item.
        form: what it must look like.

    Returns:
        x (C, H, W) uint8 or float in [0, 1], and y.

    Raises:
        InputError: for what is no such item.
    """
    x, y = raw_item(dataset, index, form.name)
    if tuple(x.shape) != form.shape:
        sizes = f"image {index} has shape {tuple(x.shape)}, and others have {form.shape}"
        raise InputError(f"{form.name}: images differ in size ({sizes}): bring them to one in the transforms of the data set")
    if (x.dtype == torch.uint8) != (form.dtype == torch.uint8):
        raise InputError(f"{form.name}: image {index} holds {dtype_name(x)} numbers, and others do not: give all as uint8, or all as float")
    if form.labels.numel() and 0 <= int(form.labels[index]) != y:
        raise InputError(
            f"{form.name}: image {index} comes with the label {y}, and the data set's own list of labels (targets or labels) says "
            f"{int(form.labels[index])}: bring the two together, or take the list out"
        )
    refuse_out_of_range(x, index, form.name)
    x = x.to(form.dtype)
    return (x if form.preprocessing is None else resized_crops(x[None], form.preprocessing)[0]).contiguous(), y


def raw_item(dataset: Any, index: int, name: str) -> tuple[Tensor, int]:
    """The pixels of an item as a tensor (C, H, W), uint8 or float, and its label. Raises InputError for what is no such item."""
    try:
        item = dataset[index]
    except Exception as error:
        error.add_note(f"robench asked {name} for image {index}.")
        raise
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise InputError(f"{name} gives batches of type {type(item).__name__} and no pairs: its data set must give (x, y)")
    return item_tensor(item[0], index, name), item_label(item[1], index, name)


def item_tensor(x: Any, index: int, name: str) -> Tensor:
    """The x of an item as a tensor (C, H, W), uint8 or float. Raises InputError for anything else."""
    if type(x).__module__.partition(".")[0] == "PIL":
        way = "add torchvision.transforms.ToTensor() to its transforms, or name a folder of image files by --data folder:PATH"
        raise InputError(f"{name}: image {index} is a picture of Pillow's and no tensor: {way}")
    if not isinstance(x, (Tensor, np.ndarray)):
        raise InputError(f"{name}: image {index} is of type {type(x).__name__}: it must be a tensor (C, H, W), uint8 or float in [0, 1]")
    tensor = torch.as_tensor(x).detach().cpu()
    shape = tuple(tensor.shape)
    if len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) >= SMALLEST_SIDE:
        raise InputError(f"{name}: image {index} has shape {shape}, which looks like (H, W, C): give x.permute(2, 0, 1)")
    if len(shape) != 3 or 0 in shape:
        way = ": grey images need a channel, x[None]" if len(shape) == 2 else ""
        raise InputError(f"{name}: image {index} has shape {shape}, and must be (C, H, W){way}")
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise InputError(f"{name}: image {index} holds {dtype_name(tensor)} numbers: pixels are uint8 from 0 to 255, or float from 0 to 1")
    return tensor


def item_label(y: Any, index: int, name: str) -> int:
    """The y of an item. Raises InputError for what is no whole number."""
    many = y.size if isinstance(y, np.ndarray) else y.numel() if isinstance(y, Tensor) else len(y) if isinstance(y, (list, tuple)) else 1
    if many != 1 or getattr(y, "ndim", 0) > 0 or isinstance(y, (list, tuple)):
        hint = ": for one-hot labels give y.argmax()" if many > 1 else ""
        raise InputError(f"{name}: the label of image {index} holds {many} numbers, and must be one whole number{hint}")
    value = y.item() if isinstance(y, (Tensor, np.ndarray, np.generic)) else y
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name}: the label of image {index} is {value!r:.40} ({type(value).__name__}), and must be a whole number from 0")
    if value < 0:
        raise InputError(f"{name}: labels are whole numbers from 0, and that of image {index} is {value}")
    return value


def refuse_out_of_range(x: Tensor, index: int, name: str) -> None:
    """InputError for float pixels outside [0, 1], with what to do about it."""
    if x.is_floating_point() and (fault := pixel_range_fault(x[None])):
        low, high = (float(x.min()), float(x.max())) if bool(x.isfinite().all()) else (0.0, 0.0)
        told = fault.partition(":")[0]
        if low > -0.1 and high < 1.1 and low < high:
            fault = f"{told}: end the transforms of the data set with a clamp to [0, 1]"
        elif low < 0:
            fault = f"{told}: {NORMALISED}"
        raise InputError(f"{name}: pixels must lie in [0, 1], and of image {index} {fault}")
