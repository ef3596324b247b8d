"""Image classifiers of the Hugging Face hub by name, `hf/ORG/NAME`: weights and settings from its cache, never code from a repository.

transformers builds the network from `config.json` and reads the weights (safetensors, else pickles as weights only). What it would load or
run beyond that is refused: code in the repository (`auto_map`), and attention kernels of other repositories. A repository in timm's layout
is opened as `timm/hf-hub:ORG/NAME`.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.files import json_value
from robench.core.preprocessing import Preprocessing, UnofferedPreprocessingError
from robench.core.recipes import did_you_mean, parse_recipe
from robench.models.cached_files import FETCH, cached_hugging_face_file, hub_module, hugging_face_file
from robench.models.huggingface_images import ImageSettings, settings_of_processor
from robench.models.layers import normalised_network
from robench.models.model_files import first_line
from robench.models.named_models import ModelOptions, OpenedModel
from robench.models.timm_weights import open_pretrained_timm

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # the usual name first
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")  # the safe ones first
MOST_SETTINGS_BYTES = 16 << 20  # of a file of settings; one with the names of 21,841 classes has 2 MiB
ELSEWHERE = ("attn_implementation", "_attn_implementation", "experts_implementation")  # settings that can name a repository with code


class PixelClassifier(nn.Module):
    """A classifier of transformers as a function from normalised images to logits.

    Args:
        network: whose `forward` takes `pixel_values` and returns an object with `logits`.
        is_reversed: whether it wants blue before green and red.
    """

    def __init__(self, network: nn.Module, is_reversed: bool) -> None:
        super().__init__()
        self.network, self.is_reversed = network, is_reversed

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, K) of images (B, C, H, W)."""
        return self.network(pixel_values=x.flip(1) if self.is_reversed else x).logits  # type: ignore[no-any-return]


@dataclass(frozen=True)
class HubName:
    """A repository of the hub, or a folder that has the same files.

    Attributes:
        repository: ORG/NAME, or the path of a folder.
        revision: a branch, tag or commit of the repository; "" for main.
        is_folder: whether it is the path of a folder.
    """

    repository: str
    revision: str
    is_folder: bool

    def label(self) -> str:
        """What sentences call it."""
        return f"hf/{self.repository}" + (f"@{self.revision}" if self.revision else "")


def huggingface_model(source: str, model_options: ModelOptions) -> OpenedModel:
    """The image classifier that `source` names, with its weights, its normalisation and the names of its classes.

    Args:
        source: hf/ORG/NAME or hf/ORG/NAME@REVISION; hf/./FOLDER or hf//FOLDER for what `save_pretrained` wrote.
        model_options: what the user said; what is missing is fetched where `download` is set.

    Raises:
        InputError: where a package or a file is missing, for a repository that needs its own code, and for one that is no image classifier.
    """
    name = hub_name(source)
    folder = folder_of_repository(name, model_options.download)
    config = settings_in(folder / CONFIG, name)
    if is_timms(config):
        return open_pretrained_timm(name_in_timm(name), model_options)
    refuse_foreign_code(config, name)
    settings = image_settings(folder, name, model_options.download)
    mean, std = model_options.mean, model_options.std
    if settings is not None:
        model_options.refuse_options("mean std", f"{name.label()} knows its own normalisation")
        mean, std = settings.mean, settings.std
    place = weights_file(folder, name, model_options.download)
    network = classifier_of(place.parent, name)
    classifier = PixelClassifier(network, settings is not None and settings.is_reversed)
    return OpenedModel(
        normalised_network(classifier, mean, std), [origin_note(name, place, settings)], class_names=named_outputs(network.config)
    )


def huggingface_preprocessing(source: str, *, download: bool = False) -> Preprocessing | None:
    """How the image processor of a repository resizes and cuts images, with Pillow; None where it has no settings of one.

    Args:
        source: as for `huggingface_model`; not one in timm's layout (`timm_name_of`).
        download: whether settings that are missing may be fetched.

    Raises:
        InputError: where the settings are missing.
        UnofferedPreprocessingError: where the processor does something else than resize and crop.
    """
    name = hub_name(source)
    folder = folder_of_repository(name, download)
    refuse_foreign_code(settings_in(folder / CONFIG, name), name)
    settings = image_settings(folder, name, download)
    if settings is None:
        return None
    if settings.preprocessing is None:
        raise UnofferedPreprocessingError(
            f"{name.label()} prepares images by {settings.kind} in a way that is no resize and crop: "
            "give --resize, --image-size and --interpolation"
        )
    return settings.preprocessing


def timm_name_of(source: str, *, download: bool = False) -> str:
    """The name in timm of a repository in timm's layout, timm/hf-hub:ORG/NAME; "" for one of transformers.

    Args:
        source: as for `huggingface_model`.
        download: whether a config.json that is missing may be fetched.
    """
    name = hub_name(source)
    return name_in_timm(name) if is_timms(settings_in(folder_of_repository(name, download) / CONFIG, name)) else ""


def hub_name(source: str) -> HubName:
    """The repository or folder that a name means; InputError for options, of which there are none, and for names of another form."""
    recipe = parse_recipe(source)
    for key in recipe.options:
        hint = ": write the revision behind the name, as hf/ORG/NAME@REVISION" if key == "revision" else did_you_mean(key, [])
        raise InputError(f"{recipe.name} has no option {key!r}{hint}")
    name = recipe.name.removeprefix("hf/")
    if name.startswith(("./", "../", "/", "~")):
        return HubName(str(Path(name).expanduser()), "", True)
    repository, _, revision = name.partition("@")
    if not repository or repository.count("/") > 1:
        raise InputError(f"{source!r} names no repository of the hub: write hf/ORG/NAME, or hf/./FOLDER for a folder of your own")
    return HubName(repository, revision, False)


# Where the files are


def folder_of_repository(name: HubName, download: bool) -> Path:
    """The folder with a repository's config.json: its snapshot in the hub's cache, or the user's own; InputError where there is none."""
    package("transformers")
    if name.is_folder:
        folder = Path(name.repository)
        if not (folder / CONFIG).is_file():
            raise InputError(f"{name.label()} has no {CONFIG}: {folder.resolve()} is no folder that save_pretrained wrote")
        return folder
    return hugging_face_file(name.repository, [CONFIG], revision=name.revision or None, download=download, source=name.label()).parent


def settings_file(folder: Path, name: HubName, download: bool) -> Path | None:
    """The settings of the image processor; None where the repository is known to have none. InputError where that is not known."""
    if name.is_folder:
        return next((folder / file for file in PROCESSORS if (folder / file).is_file()), None)
    request = {"revision": name.revision or None, "source": name.label()}
    place = cached_hugging_face_file(name.repository, PROCESSORS, **request)  # type: ignore[arg-type]
    if place is None and download:
        fetch_settings(name)
        return cached_hugging_face_file(name.repository, PROCESSORS, **request)  # type: ignore[arg-type]
    if place is None and not is_known_to_lack(name, PROCESSORS[0]):
        raise InputError(f"{name.label()} needs {PROCESSORS[0]} in {folder}, which is not there: {FETCH}, or to learn that there is none")
    return place


def fetch_settings(name: HubName) -> None:
    """Puts what a repository has of settings into the hub's cache; InputError where it cannot be asked."""
    try:
        hub_module(name.label()).snapshot_download(name.repository, revision=name.revision or None, allow_patterns=[CONFIG, *PROCESSORS])
    except Exception as error:  # whatever the network, the host or a missing permission raises
        raise InputError(f"the settings of {name.label()} cannot be fetched ({type(error).__name__}: {first_line(error)})") from error


def is_known_to_lack(name: HubName, file: str) -> bool:
    """Whether the hub's cache has noted that a repository has no such file."""
    hub = hub_module(name.label())
    found = hub.try_to_load_from_cache(name.repository, file, revision=name.revision or None)
    return found is not None and not isinstance(found, str)


def weights_file(folder: Path, name: HubName, download: bool) -> Path:
    """The file of weights, or the list of its parts, which are there as well; InputError where one is missing."""
    place = file_of(folder, name, WEIGHTS, download)
    if place.suffix == ".json":
        parts = settings_in(place, name).get("weight_map")
        if not isinstance(parts, dict):
            raise InputError(f"{name.label()}: {place.name} names no weights")
        for part in sorted({*map(str, parts.values())}):
            if Path(part).name != part:
                raise InputError(f"{name.label()}: {place.name} names weights outside of its folder ({part})")
            file_of(folder, name, [part], download)
    return place


def file_of(folder: Path, name: HubName, files: tuple[str, ...] | list[str], download: bool) -> Path:
    """The first of several files that a repository or folder has; InputError where it has none."""
    if not name.is_folder:
        return hugging_face_file(name.repository, files, revision=name.revision or None, download=download, source=name.label())
    place = next((folder / file for file in files if (folder / file).is_file()), None)
    if place is None:
        raise InputError(f"{name.label()} has no weights: there is no {' or '.join(files)} in {folder.resolve()}")
    return place


# What the settings say


def settings_in(file: Path, name: HubName) -> dict[str, Any]:
    """The object in a JSON file of a repository; InputError where there is none."""
    try:
        if file.stat().st_size > MOST_SETTINGS_BYTES:
            raise InputError(f"{name.label()}: {file.name} is larger than {MOST_SETTINGS_BYTES >> 20} MiB: it holds no settings")
        content = json_value(file.read_bytes())
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name.label()}: {file.name} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{name.label()}: {file.name} holds no JSON object")
    return content


def is_timms(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is in timm's layout."""
    return "pretrained_cfg" in config and isinstance(config.get("architecture"), str)


def name_in_timm(name: HubName) -> str:
    """What a repository in timm's layout is called there; InputError for a folder, which has no such name."""
    if name.is_folder:
        raise InputError(f"{name.label()} is in timm's layout: name its file of weights, with --arch timm/NAME")
    return f"timm/hf-hub:{name.label().removeprefix('hf/')}"


def refuse_foreign_code(config: Mapping[str, Any], name: HubName) -> None:
    """InputError where a model is of a kind that transformers has not, or asks for code from a repository."""
    known = package("transformers.models.auto.configuration_auto").CONFIG_MAPPING_NAMES
    kind = config.get("model_type")
    if kind not in known and "auto_map" in config:
        raise InputError(
            f"{name.label()} needs code from its repository (auto_map in {CONFIG}), which is never run: export it to a .pt2 file"
        )
    if kind not in known:
        raise InputError(
            f"{name.label()} is of a kind that the installed transformers does not have: {kind or 'its config.json names none'}"
        )
    if "/" in json.dumps([config.get(key, "") for key in ELSEWHERE]):
        raise InputError(f"{name.label()} asks for kernels of another repository ({ELSEWHERE[0]} in {CONFIG}), which are never run")


def image_settings(folder: Path, name: HubName, download: bool) -> ImageSettings | None:
    """What the image processor of a repository does; None where there are no settings of one."""
    place = settings_file(folder, name, download)
    if place is None:
        return None
    settings_in(place, name)
    try:
        with quiet_transformers(), offline_hub(name):
            processor = package("transformers").AutoImageProcessor.from_pretrained(
                str(place.parent), backend="pil", local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers has no exception of its own: OSError, ValueError, TypeError, ...
        raise InputError(f"{name.label()}: {place.name} describes no image processor of transformers: {first_line(error)}") from error
    return settings_of_processor(processor, name.label())


# The network


def classifier_of(folder: Path, name: HubName) -> Any:
    """The network with its weights; InputError where weights are missing or the model is no classifier of pixels."""
    try:
        with quiet_transformers(), offline_hub(name):
            network, found = package("transformers").AutoModelForImageClassification.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, weights_only=True, output_loading_info=True
            )
    except Exception as error:  # as above, and what torch and safetensors raise
        raise InputError(f"{name.label()} could not be loaded as an image classifier: {first_line(error)}") from error
    if missing := sorted({*map(str, found["missing_keys"])}):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"{name.label()} has no weights for {', '.join(missing[:3])}{more}: it is no trained {type(network).__name__}")
    if network.main_input_name != "pixel_values":
        raise InputError(f"{name.label()} takes {network.main_input_name} and no pixels")
    return network


def named_outputs(config: Any) -> tuple[str, ...]:
    """The names of the outputs in their order; () where the repository gives none of its own."""
    names = config.id2label or {}
    ordered = tuple(str(names[index]) for index in sorted(names))
    return () if all(label == f"LABEL_{index}" for index, label in enumerate(ordered)) else ordered


def origin_note(name: HubName, place: Path, settings: ImageSettings | None) -> str:
    """Where the weights come from, and how images are normalised."""
    if settings is None:
        return f"{name.label()} has the weights {place.name} and no {PROCESSORS[0]}: it normalises by --mean and --std alone"
    reverse = ", blue before green and red" if settings.is_reversed else ""
    return f"{name.label()} has the weights {place.name}, and normalises by the mean and std of its {settings.kind}{reverse}"


# The packages


def package(name: str) -> Any:
    """transformers, or a module of it; InputError where it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"hf/ORG/NAME needs the package {error.name}, which is not installed: pip install transformers") from error


@contextmanager
def offline_hub(name: HubName) -> Iterator[None]:
    """Lets no request of huggingface_hub, and so of transformers, reach the network."""
    constants = hub_module(name.label()).constants
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Leaves out transformers' progress bar, warnings and reports; what matters of them is checked here."""
    log = package("transformers").utils.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()
