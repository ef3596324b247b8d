"""What a model is, so that a run does not go on with another: its weights, its modules with their options, the user's own code."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Any

from torch import nn

from robench.core.recipes import parse_recipe
from robench.models.architectures import is_library, runs_code
from robench.models.checkpoint import fingerprint

LIBRARY_PACKAGES = ("torch", "torchvision", "timm", "robench", "captum")


def model_identity(model: nn.Module) -> dict[str, Any]:
    """Hashes of a model's weights, of its modules as torch prints them (activations among them), and of the source files of own classes.

    Args:
        model: the model.

    Returns:
        A dict with "weights", "modules" and "code", as the states of runs keep it.
    """
    printed = re.sub(r"0x[0-9a-f]+", "", repr(model))
    return {
        "weights": fingerprint(model.state_dict()),
        "modules": hashlib.sha256(printed.encode()).hexdigest(),
        "code": own_code_digests(model),
    }


def own_code_digests(model: nn.Module) -> dict[str, str]:
    """The sha256 of every source file of the user's that a class of the model's modules comes from, by its name."""
    kinds = {
        kind for module in model.modules() for kind in type(module).__mro__ if kind.__module__.partition(".")[0] not in LIBRARY_PACKAGES
    }
    files = {Path(code.co_filename) for kind in kinds if (code := getattr(vars(kind).get("forward"), "__code__", None)) is not None}
    return {file.name: digest for file in sorted(files) if "site-packages" not in file.parts and (digest := file_digest(file))}


def code_digests(*references: str | None) -> dict[str, str]:
    """The sha256 of the source file behind each reference that names the user's own code.

    Args:
        *references: recipes or models, such as `file.py:function` or `module:function`; others and None are passed over.
    """
    digests: dict[str, str] = {}
    for reference in references:
        name = parse_recipe(reference).name if reference else ""
        if ".py:" in name:
            file = Path(name.rpartition(":")[0])
        elif runs_code(name) and not is_library(name):
            file = Path(getattr(sys.modules.get(name.rpartition(":")[0]), "__file__", None) or "")
        else:
            continue
        if digest := file_digest(file):
            twin = digests.get(file.name, digest) != digest  # a file of this name in another folder
            digests[str(file) if twin else file.name] = digest
    return digests


def file_digest(file: Path) -> str:
    """The sha256 of a file, "" where there is none.

    Args:
        file: the path.
    """
    if not file.is_file():
        return ""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
