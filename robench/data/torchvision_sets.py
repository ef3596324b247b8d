"""The data sets torchvision knows. Nothing is fetched unless asked for; torchvision checks the md5 of what it fetches."""

from __future__ import annotations

import contextlib
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robench.core.errors import AbsentDataError, InputError
from robench.data.images import Choice, Images

TORCHVISION_NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
OFFICIAL_SPLITS = ("test", "train")
DAMAGE_ERRORS = (RuntimeError, ValueError, AssertionError, IndexError, KeyError, EOFError, OSError, pickle.UnpicklingError)


def load_official(name: str, split: str, data_dir: Path, download: bool, choice: Choice) -> Images:
    """The chosen images of a set that torchvision knows, from `data_dir` in torchvision's layout.

    Args:
        name: a key of TORCHVISION_NAMES.
        split: "train" or "test".
        data_dir: the folder that torchvision reads and fetches into.
        download: whether torchvision may fetch what is missing.
        choice: which images are wanted.

    Raises:
        InputError: where files are missing, damaged or not as published, or cannot be fetched.
    """
    if split not in OFFICIAL_SPLITS:
        raise InputError(f"{name} has no split {split!r}: choose one of {', '.join(OFFICIAL_SPLITS)}")
    x, y, classes = dataset_tensors(torchvision_dataset(name, split, data_dir, download))
    rows = choice.rows(torch.arange(len(x)), f"the {split} split of {name}", y)
    return Images(name, split, x[rows], y[rows], rows, classes)


def official_test_labels(name: str, data_dir: Path) -> Tensor | None:
    """The labels of the whole test split of a set, (N,) int64; None where `data_dir` does not hold it."""
    try:
        return dataset_tensors(torchvision_dataset(name, "test", data_dir, False))[1]
    except InputError:
        return None


def torchvision_dataset(name: str, split: str, data_dir: Path, download: bool) -> Any:
    """torchvision's own object for the whole split; InputError where its files are missing or damaged, or cannot be fetched."""
    from torchvision import datasets  # late: it takes a second that other data need not wait for

    which = {"split": split} if name == "svhn" else {"train": split == "train"}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision reports downloads on stdout, which is for data
            return getattr(datasets, TORCHVISION_NAMES[name])(root=str(data_dir), download=download, **which)
    except ModuleNotFoundError as error:
        raise InputError(f"{name} needs {error.name}, which is not installed: pip install {error.name}") from None
    except DAMAGE_ERRORS as error:
        if download:
            raise InputError(f"{name} could not be fetched or read in {data_dir}: {error}") from error
        if str(error).startswith("Dataset not found"):
            if what := published_file_fault(name, split, data_dir):
                raise InputError(f"{name} in {data_dir} is not as published: {what}; fetch it again with --download") from None
            raise AbsentDataError(f"{name} not found in {data_dir}: pass --data-dir, or --download to fetch it") from None
        raise InputError(f"{name} in {data_dir} is damaged ({error}): delete it and pass --download to fetch it again") from error


def published_file_fault(name: str, split: str, data_dir: Path) -> str:
    """What is wrong with the files of a set whose md5 torchvision checks, where some are there; "" where none are."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    dataset: Any = getattr(datasets, TORCHVISION_NAMES[name])
    if name == "svhn":
        published_files = [tuple(dataset.split_list[split][1:])]
    else:
        published_files = (
            [(f"{dataset.base_folder}/{file}", md5) for file, md5 in dataset.train_list + dataset.test_list]
            if name.startswith("cifar")
            else []
        )
    missing = [file for file, _ in published_files if not (data_dir / file).is_file()]
    other = [file for file, md5 in published_files if file not in missing and not check_integrity(str(data_dir / file), md5)]
    if len(missing) == len(published_files):
        return ""
    if other:
        return f"{other[0]} has another md5 than the published file, and being a pickle or the like it is not read"
    return f"{missing[0]} is missing"


def dataset_tensors(dataset: Any) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images (N, C, H, W) uint8, labels (N,) and class names of a torchvision set, which keeps each in its own layout."""
    x = torch.as_tensor(dataset.data)
    if x.dim() == 3:  # MNIST and its kin: (N, H, W)
        x = x.unsqueeze(1)
    elif x.shape[-1] == 3:  # CIFAR: (N, H, W, C); SVHN is (N, C, H, W) already
        x = x.permute(0, 3, 1, 2).contiguous()
    y = torch.as_tensor(dataset.labels if hasattr(dataset, "labels") else dataset.targets)
    classes = getattr(dataset, "classes", None) or [str(k) for k in range(10)]
    return x, y.to(torch.int64), tuple(classes)
