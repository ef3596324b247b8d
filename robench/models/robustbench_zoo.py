"""Models of RobustBench's zoo by name, `rb/NAME,dataset=cifar10,threat=Linf`: weights where its package keeps them, read as weights only.

The package robustbench (1.1.1) knows each model's network and how the names in its file of weights are mended. That is left to its own
load_model, once the files that it would fetch are there: MODEL_DIR/DATASET/THREAT/NAME.pt, one NAME.pt_m0.pt, NAME.pt_m1.pt, ... for each
network of an ensemble, and in torch's own cache what it has from timm.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robench.core.errors import InputError
from robench.core.preprocessing import Preprocessing, UnofferedPreprocessingError
from robench.core.recipes import did_you_mean, parse_recipe
from robench.models.model_files import first_line, read_torch
from robench.models.named_models import ModelOptions, OpenedModel
from robench.models.torchvision_weights import open_torchvision_weights

DEFAULTS = {"dataset": "cifar10", "threat": "Linf", "model_dir": "models"}  # those of robustbench's load_model
OF_TORCHVISION = {
    "Standard_R50": "tv/resnet50,weights=IMAGENET1K_V1"
}  # which robustbench fetches unasked, and does not read as weights alone
UNSAFE_LOADS = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # with which torch.load runs what is in a file, whatever its caller meant


@dataclass(frozen=True)
class ZooModel:
    """A model of RobustBench's zoo.

    Attributes:
        name: as RobustBench writes it.
        dataset: cifar10, cifar100 or imagenet.
        threat: Linf, L2 or corruptions.
        folder: MODEL_DIR/DATASET/THREAT, where its weights lie.
        entry: what robustbench says of it: model, gdrive_id, preprocessing.
        timm_name: its name in timm, once robustbench has added its own there; "" where it is none of timm's.
    """

    name: str
    dataset: str
    threat: str
    folder: Path
    entry: Mapping[str, Any]
    timm_name: str

    def label(self) -> str:
        """What sentences and tables call it."""
        return f"rb/{self.name},dataset={self.dataset},threat={self.threat}"


def robustbench_model(source: str, model_options: ModelOptions) -> OpenedModel:
    """The model of RobustBench's zoo that `source` names, with its weights, as robustbench itself builds it.

    Args:
        source: rb/NAME; options dataset (cifar10, cifar100, imagenet), threat (Linf, L2, corruptions) and model_dir, the folder of weights
            (models in the current folder, as in robustbench).
        model_options: what the user said; weights that are missing are fetched where `download` is set.

    Raises:
        InputError: where the package or the file of weights is missing, for unknown names, and for files that hold more than weights.
    """
    zoo_model = zoo_model_of(source)
    why = f"{zoo_model.label()} brings its own network, weights and normalisation"
    model_options.refuse_options("arch activation weights mean std", why)
    if zoo_model.name in OF_TORCHVISION:
        return open_torchvision_weights(OF_TORCHVISION[zoo_model.name], model_options)
    if not model_options.download:
        refuse_unfetched_weights(zoo_model)
    return OpenedModel(network_of_zoo(zoo_model))


def robustbench_preprocessing(source: str) -> Preprocessing | None:
    """How RobustBench resizes and cuts the images of a model; None where it takes them as they are, as those of CIFAR.

    Args:
        source: as for `robustbench_model`; no weights are read.

    Raises:
        InputError: where the package is missing, for unknown names, and for transforms that are no resize and crop.
    """
    zoo_model = zoo_model_of(source)
    if zoo_model.dataset != "imagenet":
        return None
    if zoo_model.timm_name:
        config = importlib.import_module("timm").get_pretrained_cfg(zoo_model.timm_name)
        side = int(config.input_size[1])
        return Preprocessing(math.floor(side / config.crop_pct), (side, side), config.interpolation, zoo_model.label())
    with quiet_library():
        transforms = robustbench_part("data").get_preprocessing(*zoo_keys(zoo_model.dataset, zoo_model.threat), zoo_model.name, None)
    return preprocessing_of_transforms(transforms.transforms, zoo_model.label())


def preprocessing_of_transforms(transforms: Sequence[Any], label: str) -> Preprocessing:
    """torchvision's Resize and CenterCrop, one after the other, as a preprocessing; UnofferedPreprocessingError for others."""
    resize: Any = None
    crop: Any = None
    interpolation = "bilinear"
    for transform in transforms:
        kind = type(transform).__name__
        if kind == "Resize" and resize is None and crop is None and transform.max_size is None:
            resize, interpolation = transform.size, transform.interpolation.value
        elif kind == "CenterCrop" and crop is None:
            crop = tuple(transform.size)
        elif kind != "ToTensor":
            raise UnofferedPreprocessingError(
                f"{label} prepares images by {transform}, which is not offered here: give --resize, --image-size and --interpolation"
            )
    if isinstance(resize, Sequence):
        resize = int(resize[0]) if len(resize) == 1 else (int(resize[0]), int(resize[1]))
    return Preprocessing(resize, crop, interpolation, label)


def zoo_model_of(source: str) -> ZooModel:
    """The model that a name with its options means; InputError for unknown ones."""
    recipe = parse_recipe(source)
    name, options = recipe.name.removeprefix("rb/"), DEFAULTS | recipe.options
    for key in recipe.options:
        if key not in DEFAULTS:
            raise InputError(f"rb/{name} has no option {key!r}{did_you_mean(key, DEFAULTS)}")
    dataset, threat = zoo_keys(str(options["dataset"]), str(options["threat"]), name)
    entries = robustbench_part("model_zoo").model_dicts[dataset][threat]
    if name not in entries:
        raise InputError(f"RobustBench has no model {name!r} of {dataset.value} in {threat.value}{where_else(name, entries)}")
    timm_name = f"{name.lower().replace('-', '_')}_{dataset.value}_{threat.value.lower()}"
    return ZooModel(
        name, dataset.value, threat.value, Path(str(options["model_dir"])).expanduser() / dataset.value / threat.value, entries[name],
        timm_name if importlib.import_module("timm").is_model(timm_name) else "",
    )  # fmt: skip


def zoo_keys(dataset: str, threat: str, name: str = "NAME") -> tuple[Any, Any]:
    """robustbench's own words for a data set and a threat; InputError where it has no models of them."""
    zoo = robustbench_part("model_zoo").model_dicts
    datasets = {key.value: key for key in zoo}
    if dataset not in datasets:
        raise InputError(f"RobustBench has no models of the data set {dataset!r}{did_you_mean(dataset, datasets)}")
    threats = {key.value: key for key in zoo[datasets[dataset]]}
    asked = {key.lower(): key for key in threats}.get(
        threat.lower().removesuffix("_3d"), threat
    )  # 3DCC is measured on models of corruptions
    if asked not in threats:
        raise InputError(
            f"RobustBench has no models of {dataset} in {threat}: write rb/{name},dataset={dataset},threat={' or '.join(threats)}"
        )
    return datasets[dataset], threats[asked]


def where_else(name: str, entries: Mapping[str, Any]) -> str:
    """The end of a sentence about a name that is not there: where the zoo has it, else the nearest one that there is."""
    zoo = robustbench_part("model_zoo").model_dicts
    places = [f"dataset={data.value},threat={threat.value}" for data in zoo for threat in zoo[data] if name in zoo[data][threat]]
    return f": write rb/{name},{' or '.join(places)}" if places else did_you_mean(name, entries)


def robustbench_part(part: str) -> Any:
    """A module of the package robustbench; InputError where it is not installed or cannot be imported."""
    try:
        with quiet_library(), autoattack_by_its_old_name():
            return importlib.import_module(f"robustbench.{part}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("robustbench"):
            raise InputError(
                "models of RobustBench need the package robustbench, which is not installed: pip install robustbench"
            ) from None
        raise InputError(
            f"the package robustbench cannot be imported, as it needs {error.name}, which is not there: "
            "pip install 'setuptools<82' pyautoattack"
        ) from error


@contextmanager
def autoattack_by_its_old_name() -> Iterator[None]:
    """Lets robustbench 1.1.1 import `autoattack`, a name that the package which it requires, pyautoattack, no longer has."""
    names = {"autoattack": "pyautoattack", "autoattack.state": "pyautoattack.state"}
    added = {}
    if importlib.util.find_spec("autoattack") is None and "autoattack" not in sys.modules:
        added = {old: importlib.import_module(new) for old, new in names.items()}
    sys.modules.update(added)
    try:
        yield
    finally:
        for old in added:
            sys.modules.pop(old, None)


@contextmanager
def quiet_library() -> Iterator[None]:
    """Leaves out what the library warns of, and puts what it prints beside the results instead of among them."""
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


# Weights


def files_of(zoo_model: ZooModel) -> list[Path]:
    """The files of weights that robustbench reads for a model."""
    if zoo_model.timm_name:
        url = importlib.import_module("timm").get_pretrained_cfg(zoo_model.timm_name).url
        return [Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]]
    keys = zoo_model.entry["gdrive_id"]
    file = zoo_model.folder / f"{zoo_model.name}.pt"
    return [Path(f"{file}_m{i}.pt") for i in range(len(keys))] if isinstance(keys, list) else [file]


def refuse_unfetched_weights(zoo_model: ZooModel) -> None:
    """InputError where a file of weights is not there, with the place where it belongs."""
    for file in files_of(zoo_model):
        if not file.is_file():
            option = (
                ""
                if zoo_model.timm_name
                else f", or name the folder that holds {zoo_model.dataset}/{zoo_model.threat} with model_dir=FOLDER"
            )
            raise InputError(f"{zoo_model.label()} needs {file.resolve()}, which is not there: put it there{option}, or pass --download")


def network_of_zoo(zoo_model: ZooModel) -> nn.Module:
    """What robustbench's own `load_model` gives; files are read as weights only."""
    load_model = robustbench_part("utils").load_model
    try:
        with quiet_library(), weights_alone():
            network = load_model(zoo_model.name, zoo_model.folder.parents[1], zoo_model.dataset, zoo_model.threat)
    except InputError:
        raise
    except Exception as error:  # whatever its builders, torch.load and the network raise
        for file in filter(Path.is_file, files_of(zoo_model)):
            read_torch(file, trust=False)  # has its own sentence for files that are no weights
        raise InputError(f"{zoo_model.label()} could not be loaded: {type(error).__name__}: {first_line(error)}") from error
    return network  # type: ignore[no-any-return]


@contextmanager
def weights_alone() -> Iterator[None]:
    """torch.load as it is without the variable that makes it run code from files."""
    before = os.environ.pop(UNSAFE_LOADS, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[UNSAFE_LOADS] = before
