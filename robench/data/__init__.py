"""Data sets by name: built in, torchvision's, npz files, image folders and the user's own. An image's id is its index in the split.

DATASETS and FORMATS list them; docs/adding-a-data-set.md and docs/adding-a-layout.md say how one is added.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.core.files import expanded_path
from robench.core.inputs import PathLike, as_seed
from robench.core.moved import names_of_before
from robench.core.preprocessing import Preprocessing, preprocessing_of_options
from robench.core.recipes import did_you_mean
from robench.data import files, shapes
from robench.data import torchvision_sets as official
from robench.data.catalogues import Catalogue, Keeping, images_of_catalogue
from robench.data.images import Choice, Images, checked_images, class_coverage, resized_images, stratified_images, stratified_mask
from robench.data.index_files import indices_in
from robench.data.own_loaders import images_of_dataset
from robench.data.own_sets import images_of_function, images_of_own_name  # noqa: F401 - the first for entries of DATASETS
from robench.data.parquet_sets import parquet_catalogue
from robench.data.shards import shard_catalogue

__all__ = [
    "CATALOGUES",
    "CONTAINERS",
    "DATASETS",
    "DATASET_SUMMARIES",
    "FORMATS",
    "Choice",
    "Images",
    "class_coverage",
    "holdout",
    "images_of_dataset",
    "indices_in",
    "load_images",
    "stratified_images",
]


def load_built_in(split: str, data_dir: Path, download: bool, choice: Choice) -> Images:  # noqa: ARG001
    """Ten shapes on textured backgrounds, 32x32 RGB, with object masks; built in, drawn in seconds.

    Args:
        split: "train" or "test".
        data_dir: not used.
        download: not used.
        choice: which images are wanted; n may go beyond the usual size of the split.
    """
    return shapes.load_shapes(split, choice)


# name: loader(split, data_dir, download, choice)
DATASETS: dict[str, Callable[[str, Path, bool, Choice], Images]] = {
    "shapes": load_built_in,
    "cifar10": partial(official.load_official, "cifar10"),
    "cifar100": partial(official.load_official, "cifar100"),
    "svhn": partial(official.load_official, "svhn"),
    "mnist": partial(official.load_official, "mnist"),
    "fashion-mnist": partial(official.load_official, "fashion-mnist"),
}

# prefix: reader(path, split, class_order, layout), of images that lie on the disk; nothing is decoded
CATALOGUES: dict[str, Callable[[Path, str, str | None, str | None], Catalogue]] = {
    "folder": files.folder_catalogue,
}
# prefix: reader(text, split, data_dir, download), of images inside larger files; what follows the prefix may have options, or be no path
CONTAINERS: dict[str, Callable[[str, str, Path, bool], Catalogue]] = {
    "hf-data": parquet_catalogue,
    "wds": shard_catalogue,
}
FORMATS: dict[str, Callable[..., Any]] = {"npz": files.read_npz, **CATALOGUES, **CONTAINERS}  # those that a path follows
# what `robench list data` says of names whose function does not say it in the first line of its docstring
SUMMARIES_OF_SHARED = {
    "cifar10": "CIFAR-10, 32x32 RGB; with --download or in --data-dir, as are the next four",
    "cifar100": "CIFAR-100, 32x32 RGB",
    "svhn": "house numbers, 32x32 RGB (needs scipy)",
    "mnist": "handwritten digits, 28x28 grey",
    "fashion-mnist": "clothes, 28x28 grey",
    "npz": "an npz file with x_train, y_train, x_test, y_test, or x and y (other usual keys too)",
    "hf-data": "parquet files as Hugging Face has them: a folder, or ORG/NAME of the hub in its cache or with --download; docs/data.md",
    "wds": "webdataset's tar files: a folder or a pattern such as val-{000..049}.tar; docs/data.md",
    "folder": "image files as PATH/train/CLASS/* and PATH/test/CLASS/*, or PATH/CLASS/*; ImageNet and its kin as they unpack",
}


def data_summary(name: str, loader: Callable[..., Any]) -> str:
    """What a data set or format is, in one line: its words above, else the first line of its function's docstring.

    Args:
        name: the key in DATASETS or FORMATS.
        loader: its function, or a partial of `images_of_function`.
    """
    function = loader.args[0] if isinstance(loader, partial) else loader
    return SUMMARIES_OF_SHARED.get(name) or (function.__doc__ or "").partition("\n")[0].removesuffix(".")


DATASET_SUMMARIES = {
    **{name: data_summary(name, loader) for name, loader in DATASETS.items()},
    **{f"{kind}:PATH": data_summary(kind, reader) for kind, reader in FORMATS.items()},
    "file.py:function": "your own: function(split, data_dir) returns x and y, a DataLoader or data set of (x, y), or a robench.Images",
}


def load_images(
    name: str,
    split: str = "test",
    *,
    data_dir: PathLike | None = None,
    download: bool = False,
    n: int | None = None,
    shuffle: bool = False,
    indices: PathLike | None = None,
    seed: int = 0,
    image_size: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    preprocessing: Preprocessing | None = None,
    pixels: str = "auto",
    workers: int | None = None,
    skip_damaged: bool = False,
    at_most: int | None = None,
    by_class: bool = False,
    class_order: str | None = None,
    layout: str | None = None,
) -> Images:
    """The images of a data set.

    Args:
        name: a key of DATASETS, "npz:PATH", "folder:PATH", "hf-data:ORG/NAME", "wds:PATTERN", or "file.py:function" (runs that file), with
            options: "mine.py:digits,side=14".
        split: "train" or "test". A source without splits is used whole, and says "all".
        data_dir: the folder of torchvision's sets, where relative paths are looked up too; ./data unless given.
        download: whether torchvision may fetch what is missing into data_dir, and the hub into its cache.
        n: take the first n images, as RobustBench does; with shuffle or by_class, n that are drawn. None takes all.
        shuffle: draw with the seed, in an order of its own.
        indices: a text file of the ids to use, one a line, in that order, or of names of image files (CLASS/FILE); also packed with gzip.
        seed: of shuffle and by_class.
        image_size: cut the middle to so many pixels a side, as torchvision's CenterCrop does.
        resize: bring the shorter side to so many pixels first, as torchvision's Resize does; image_size unless given.
        interpolation: how that is done: "bilinear" unless given, "bicubic", "lanczos", "box", "hamming" or "nearest".
        preprocessing: all of that as one value, such as a model says it, in place of the three.
        pixels: where those of image files are kept: "memory", "disk" to decode them as they are asked for, or "auto", in memory where
            they take at most 256 MiB.
        workers: processes that decode what stays on the disk; 0 for none, None for one a core, at most four.
        skip_damaged: leave out image files that cannot be read, with a note, in place of an error.
        at_most: take the first ones where n is None; the set may have fewer.
        by_class: with n, draw the same share of each class with the seed, in their order.
        class_order: "text" or "number", how the classes of a folder count where their names are numbers and the two differ.
        layout: "splits", "classes" or the user's own "file.py:function", what the folders in a folder are, where their names leave two
            readings.

    Raises:
        InputError: one sentence, for whatever is missing, damaged or does not fit.

    Example:
        >>> images = load_images("shapes", "test", n=12)
        >>> images.x.shape, images.x.dtype, images.classes[:2]
        (torch.Size([12, 3, 32, 32]), torch.uint8, ('disk', 'ring'))
    """
    seed, by_options = as_seed(seed), preprocessing_of_options(image_size, resize, interpolation)
    if by_options is not None and preprocessing is not None:
        raise InputError("the preprocessing says how images are resized and cut: leave image_size, resize and interpolation out")
    preprocessing = by_options or preprocessing
    keeping = Keeping(pixels, workers, skip_damaged)
    if n is not None and n < 1:
        raise InputError(f"n must be at least 1, not {n}")
    choice = Choice(n, shuffle, None if indices is None else indices_in(Path(indices)), seed, at_most, by_class)
    place = Path("data") if data_dir is None else Path(data_dir)
    kind, _, path = name.partition(":")
    if layout is not None and kind != "folder":
        raise InputError(f"a layout is a question for folders, and {name} is none: leave --layout out")
    if class_order is not None and kind != "folder":
        raise InputError(f"the order of classes is a question for folders, and {name} says itself how it counts: leave --class-order out")
    if kind in CATALOGUES and path:
        catalogue = CATALOGUES[kind](files.dataset_path(expanded_path(Path(path)), place, kind), split, class_order, layout)
        return checked_images(images_of_catalogue(catalogue, choice, preprocessing, keeping))
    if kind in CONTAINERS and path:
        return checked_images(images_of_catalogue(CONTAINERS[kind](path, split, place, download), choice, preprocessing, keeping))
    if ".py:" in name:
        return images_of_own_name(name, DATASETS, split, place, download, choice, preprocessing, keeping)
    if skip_damaged or pixels != "auto" or workers is not None:
        raise InputError(f"--pixels, --workers and --skip-damaged are for image files, and {name} is none: leave them out")
    if skip_damaged or pixels != "auto" or workers is not None:
        raise InputError(f"--pixels, --workers and --skip-damaged are for image files, and {name} is none: leave them out")
    if kind == "npz" and path:
        images = files.read_npz(files.dataset_path(expanded_path(Path(path)), place, kind), split, choice)
    elif name in DATASETS:
        images = DATASETS[name](split, place, download, choice)
    else:
        raise InputError(f"unknown data set {name!r}{did_you_mean(name, DATASET_SUMMARIES)}")
    return checked_images(images if preprocessing is None else resized_images(images, preprocessing))


def holdout(images: Images, share_or_n: float, seed: int) -> tuple[Images, Images]:
    """The images in two parts, (to train on, held out), with the same share of each class in both.

    Class sizes are rounded by largest remainder. Which images are held out depends on the seed and their ids only, not on their order.

    Args:
        images: the images.
        share_or_n: below 1 the share to hold out, else their number; 0 holds out none.
        seed: of the draw.

    Returns:
        The images to train on, and those that are held out.

    Raises:
        InputError: where all would be held out, or a number from 1 on is not whole.
    """
    n = round(share_or_n * len(images)) if share_or_n < 1 else int(share_or_n)
    if not share_or_n >= 0 or not n < len(images) or (share_or_n >= 1 and n != share_or_n):
        raise InputError(f"cannot hold out {share_or_n} of {len(images)} images: give a share below 1 or a smaller whole number")
    held_out_mask = stratified_mask(images.y, images.ids, n, seed, "data/holdout")
    return images.take(~held_out_mask), images.take(held_out_mask)


__getattr__ = names_of_before(__name__, {"load": "load_images"})
