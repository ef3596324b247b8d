"""How images become pixels for a model, as the model itself says it: its checkpoint, or the config of the library that it comes from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.core.preprocessing import Preprocessing, UnofferedPreprocessingError, preprocessing_from_plain
from robench.models.huggingface import huggingface_preprocessing, timm_name_of
from robench.models.loading import checkpoint_meta, source_kind
from robench.models.robustbench_zoo import robustbench_preprocessing
from robench.models.timm_weights import described_timm_model, is_pretrained_timm, timm_data_settings
from robench.models.torchvision_weights import named_torchvision_weights

GIVE_SIZES = "give --resize, --image-size and --interpolation"


def model_preprocessing(source: str, *, download: bool = False) -> Preprocessing | None:
    """What a model says of the images that it takes, from its description alone: no network is built.

    Args:
        source: what names the model, as `load_model` takes it.
        download: whether a description that is missing may be fetched.

    Returns:
        How its images are resized and cut; None where it says nothing, as weights of a file, your own code and random weights.

    Raises:
        InputError: where there is no such model.
        UnofferedPreprocessingError: where what it says is no resize and crop; the user's own sizes can take its place.

    Example:
        >>> model_preprocessing("tv/resnet50,weights=IMAGENET1K_V2").words()
        'resize 232 bilinear, crop 224x224'
    """
    if source_kind(source) == "library":
        said = LIBRARY_PREPROCESSINGS.get(source.partition("/")[0])
        return said(source, download) if said else None
    stored = checkpoint_meta(source).get("model", {}).get("preprocessing")
    return None if stored is None else preprocessing_from_plain(stored, Path(source).name)


def torchvision_preprocessing(source: str, _download: bool) -> Preprocessing | None:
    """What the `transforms()` of torchvision's weights say; None where the weights are random.

    Args:
        source: "tv/NAME,weights=ENTRY".

    Raises:
        InputError: for an unknown network or entry, and for weights that want more than resizing and cutting.
    """
    entry = named_torchvision_weights(source)
    if entry is None:
        return None
    settings = entry.transforms()
    if type(settings).__name__ != "ImageClassification":
        raise UnofferedPreprocessingError(
            f"{source} wants its images prepared by {type(settings).__name__}, which is not offered here: {GIVE_SIZES}"
        )
    resize, crop = one_side_or_two(settings.resize_size), one_side_or_two(settings.crop_size)
    extent = (crop, crop) if isinstance(crop, int) else crop
    return Preprocessing(resize, extent, settings.interpolation.value, source.partition(",")[0] + f",weights={entry.name}")


def one_side_or_two(sides: Any) -> int | tuple[int, int]:
    """What torchvision's transforms say of a size: [256] for the shorter side, [224, 256] for height and width."""
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def timm_preprocessing(source: str, download: bool) -> Preprocessing | None:
    """What `timm.data.resolve_data_config` says of a model with weights, in the geometry of timm's evaluation; None for random ones.

    The image is resized to the size of the network divided by crop_pct, and the middle is kept: by the shorter side (crop_mode "center"),
    or in both directions, whatever its shape is ("squash").

    Args:
        source: "timm/NAME,pretrained=true" or "timm/hf-hub:ORG/NAME".
        download: whether a config.json that is missing may be fetched.

    Raises:
        InputError: for an unknown name, for a config that is missing, and where images are padded, or resized for a network that is not
            square, which is not offered.
    """
    if not is_pretrained_timm(source):
        return None
    model = described_timm_model(source, download=download)
    settings = timm_data_settings(model)
    height, width = settings["input_size"][1:]
    try:
        scaled = (math.floor(height / settings["crop_pct"]), math.floor(width / settings["crop_pct"]))
    except (TypeError, ZeroDivisionError, OverflowError, ValueError) as error:
        raise InputError(f"{model.label} says of its images what timm does not take: a crop_pct of {settings['crop_pct']!r}") from error
    if settings["crop_mode"] == "squash":
        return Preprocessing(scaled, (height, width), settings["interpolation"], model.label)
    if settings["crop_mode"] != "center" or height > scaled[0] or width > scaled[1]:
        raise UnofferedPreprocessingError(f"{model.label} wants its images padded with a border, which is not offered here: {GIVE_SIZES}")
    if scaled[0] != scaled[1]:
        raise UnofferedPreprocessingError(
            f"{model.label} wants images of {height}x{width} pixels, and only square ones are resized as timm does it: {GIVE_SIZES}"
        )
    return Preprocessing(scaled[0], (height, width), settings["interpolation"], model.label)


def hub_preprocessing(source: str, download: bool) -> Preprocessing | None:
    """What the image processor of a repository of Hugging Face's hub does, or timm for one in its layout.

    Args:
        source: "hf/ORG/NAME".
        download: whether settings that are missing may be fetched.

    Raises:
        InputError: where the settings are missing, and for a processor that does something else than resize and crop.
    """
    in_timm = timm_name_of(source, download=download)
    return timm_preprocessing(in_timm, download) if in_timm else huggingface_preprocessing(source, download=download)


LIBRARY_PREPROCESSINGS: dict[str, Callable[[str, bool], Preprocessing | None]] = {  # by the prefix of the source; others say nothing
    "tv": torchvision_preprocessing,
    "timm": timm_preprocessing,
    "hf": hub_preprocessing,
    "rb": lambda source, _download: robustbench_preprocessing(source),
}
