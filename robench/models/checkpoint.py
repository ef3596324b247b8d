"""Our checkpoint: one file with weights and a plain description, readable without running anything, and a JSON file beside it."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.files import json_value, write_whole
from robench.core.threat import NORMS
from robench.models.model_files import existing_file, read_torch, zip_file_kind

CHECKPOINT_FORMAT = "robench-checkpoint-1"
MOST_NUMBERS = 2**28  # of one image that a network was trained on
NOT_OF_TRAINING = ("seed", "epoch", "suite")  # words of a recipe that do not tell a training from others, but for its seed


def save_checkpoint(path: str | Path, model: nn.Module, meta: dict[str, Any]) -> None:
    """Writes weights and meta to `path`, and meta with the weights' sha256 to the `.json` beside it; both appear whole or not at all.

    Args:
        path: the file, of any ending but .json.
        model: the network.
        meta: plain values; meta["model"] must hold arch, classes, shape, activation, mean, std and options, from which `load_model`
            rebuilds it.

    Raises:
        InputError: where the place cannot be written.
    """
    path = Path(path)
    if path.suffix == ".json":
        raise InputError(f"{path} is the name of the description beside a checkpoint: name the checkpoint itself, such as {path.stem}.pt")
    state, plain_meta = {name: value.detach().cpu() for name, value in model.state_dict().items()}, plain_values(meta)
    buffer = io.BytesIO()
    torch.save({"format": CHECKPOINT_FORMAT, "state": state, "meta": plain_meta}, buffer)
    text = json.dumps({"format": CHECKPOINT_FORMAT, "sha256": fingerprint(state), "meta": plain_meta}, indent=2, allow_nan=False)
    write_whole({path: buffer.getvalue(), path.with_suffix(".json"): f"{text}\n".encode()})


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state_dict and the meta of a checkpoint of ours.

    Args:
        path: the file.

    Raises:
        InputError: for any other file, and for one of which a byte was changed.
    """
    if existing_file(path).read_bytes()[:2] == b"PK":
        zip_file_kind(Path(path))  # which tests the checksums; torch does not
    content, _ = read_torch(Path(path), trust=False)
    if not is_our_checkpoint(content):
        raise InputError(f"{Path(path).name} is not a checkpoint of robench")
    return state_and_meta(content, Path(path).name)


def is_our_checkpoint(content: object) -> bool:
    """Whether what a file holds is a checkpoint of robench, of this version or another."""
    return isinstance(content, Mapping) and str(content.get("format", "")).startswith("robench-checkpoint-")


def state_and_meta(content: Mapping[str, Any], name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State and meta of a checkpoint's content; InputError where they are not what this version writes."""
    if content["format"] != CHECKPOINT_FORMAT:
        raise InputError(
            f"{name} has the format {content['format']!r} and this robench reads {CHECKPOINT_FORMAT!r}: use the version that wrote it"
        )
    state, meta = content.get("state"), content.get("meta")
    if not isinstance(state, dict) or not isinstance(meta, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{name} is a damaged checkpoint: its weights or its description are missing")
    if wrong := meta_faults(meta):
        raise InputError(f"{name} is a damaged checkpoint: its description says {wrong[0]}")
    return state, meta


def meta_faults(meta: Mapping[str, Any]) -> list[str]:
    """What a description says that no checkpoint of ours can say, in a few words each; what it leaves out is no fault here."""
    if odd := [key for key in ("model", "data", "recipe", "metrics") if not isinstance(meta.get(key, {}), dict)]:
        return [f"{key} {meta[key]!r}, which is no table" for key in odd]
    wrong = list[str]()
    model, recipe = meta.get("model", {}), meta.get("recipe", {})
    shape, classes = model.get("shape", [1, 1, 1]), model.get("classes", 1)
    sides = isinstance(shape, (list, tuple)) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)
    if not sides or math.prod(shape) > MOST_NUMBERS:
        wrong.append(f"shape {shape!r}")
    if type(classes) is not int or classes < 1:
        wrong.append(f"classes {classes!r}")
    eps, norm = recipe.get("eps", 0.0), recipe.get("norm", "linf")
    if type(eps) not in (int, float) or not 0 <= eps < math.inf:
        wrong.append(f"eps {eps!r}")
    if norm not in NORMS:
        wrong.append(f"norm {norm!r}")
    return wrong


def fingerprint(state: Mapping[str, Any]) -> str:
    """The sha256 of a state_dict: name, type, shape and bytes of each tensor, in the order of the names; no matter which file held it.

    Args:
        state: tensors by name; what is no tensor does not count.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describes_weights(path: Path, state: Mapping[str, Any]) -> bool:
    """Whether a JSON file is the one that was written beside these weights.

    Args:
        path: the file, which need not exist.
        state: the state_dict of the weights.
    """
    try:
        content = json_value(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("sha256") == fingerprint(state)


def training_words(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a training from others, for manifests: checkpoints of the same recipe and data differ in the seed alone.

    Args:
        meta: what a checkpoint of ours says of itself; {} for any other model.

    Returns:
        "recipe" without the seed, the epoch that was chosen and what was measured at the end; "data" with name, n and held_out; "seed";
        and "alarm" where its guard ended the training.
        {} where the seed is not known, and where the recipe holds what is no plain value.

    Example:
        >>> training_words({"recipe": {"arch": "cnn", "seed": 3}, "data": {"name": "shapes", "sha256": "..."}})
        {'recipe': {'arch': 'cnn'}, 'data': {'name': 'shapes'}, 'seed': 3}
    """
    recipe, data = meta.get("recipe", {}), meta.get("data", {})
    if "seed" not in recipe:
        return {}
    settings = {key: value for key, value in recipe.items() if key not in NOT_OF_TRAINING}
    about = {key: data[key] for key in ("name", "n", "held_out") if key in data}
    try:
        return dict(plain_values({"recipe": settings, "data": about, "seed": recipe["seed"], **alarm_words(meta)}))
    except (TypeError, RecursionError):
        return {}


def alarm_words(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The alarm with which the guard of a training ended it, {} where it ran to its end."""
    history = meta.get("history")
    last = history[-1] if isinstance(history, (list, tuple)) and history else {}
    alarm = last.get("alarm") if isinstance(last, Mapping) else None
    return {"alarm": alarm} if alarm and isinstance(alarm, str) else {}


def plain_values(value: Any) -> Any:
    """`value` as what both files can hold: str, int, float, bool, None, lists and dicts; NaN and infinity become None.

    Args:
        value: of these types, or a tuple, which becomes a list.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(value, dict):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"a checkpoint's meta holds plain values only, not {type(value).__name__}")
