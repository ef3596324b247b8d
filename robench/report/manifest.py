"""The manifest: everything one must know to run a measurement again."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from robench.core.folders import MANIFEST_FORMAT

PACKAGES = ("robench", "torch", "torchvision", "pyautoattack", "captum", "numpy", "pandas", "matplotlib", "pillow")
OPTIONAL_PACKAGES = (
    "timm",
    "transformers",
    "huggingface_hub",
    "datasets",
    "webdataset",
    "pyarrow",
    "robustbench",
    "av",
)  # told where a run used them

NOT_REPEATABLE = "this run was made in Python, whose lines no manifest keeps: robench rerun repeats runs of the command line alone"


def new_manifest(
    device: str, seed: int, seconds: float, flags: Sequence[str], **about: Mapping[str, Any] | Sequence[str]
) -> dict[str, Any]:
    """A plain dict for manifest.json: versions, device, seed, command line, flags, and what the caller adds.

    Args:
        device: the device that was used, such as cpu or cuda:0.
        seed: the seed of all draws.
        seconds: how long the measurement took.
        flags: sentences on what makes the numbers doubtful.
        about: what else belongs there by key, such as data, checkpoint and threat, as plain values.
    """
    return {
        "format": MANIFEST_FORMAT,
        "command": shlex.join(["robench", *sys.argv[1:]]),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 3),
        "seed": seed,
        **machine_entries(device),
        **about,
        "flags": list(flags),
    }


def machine_entries(device: str) -> dict[str, Any]:
    """On what a run is made: the device by name, the CPU threads, and the versions of the packages that its numbers depend on.

    Args:
        device: such as cpu or cuda:0.
    """
    used = [name for name in OPTIONAL_PACKAGES if name in sys.modules and installed_version(name) != "absent"]
    versions = {"python": platform.python_version(), **{name: installed_version(name) for name in (*PACKAGES, *used)}}
    return {"device": device_name(device), "threads": torch.get_num_threads(), "versions": versions}


def installed_version(package: str) -> str:
    """The version of an installed package, "absent" if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def device_name(device: str) -> str:
    """The device's name as its driver tells it."""
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()})"
