"""The options that measuring commands share, each written once: a command takes a group as one argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, TypeVar, get_type_hints

from robench.cli import options as o

G = TypeVar("G")


@dataclass(frozen=True)
class CommonOptions:
    """What every measuring command is told: the images, how models are loaded, where results go."""

    data: o.Data = None
    data_dir: o.DataDir = None
    download: o.Download = False
    split: o.Split = "test"
    image_size: o.ImageSize = None
    resize: o.Resize = None
    layout: o.Layout = None
    class_order: o.ClassOrder = None
    classes: o.Classes = None
    n: o.N = None
    shuffle: o.Shuffle = False
    indices: o.Indices = None
    budget: o.Budget = None
    seed: o.Seed = 0
    batch_size: o.BatchSize = None
    arch: o.Arch = None
    activation: o.Activation = None
    weights: o.Weights = None
    mean: o.Mean = None
    std: o.Std = None
    trust: o.Trust = False
    device: o.Device = "auto"
    threads: o.Threads = None
    out: o.Out = None
    resume: o.Resume = False
    force: o.Force = False
    strict: o.Strict = False
    quiet: o.Quiet = False

    def choice(self) -> dict[str, Any]:
        """The options that choose the images."""
        return {name: getattr(self, name) for name in IMAGE_OPTIONS}

    def loading(self) -> dict[str, Any]:
        """The options that say how models are loaded."""
        return {
            "arch": self.arch, "activation": self.activation, "weights": self.weights, "mean": self.mean and self.mean.values,
            "std": self.std and self.std.values, "trust": self.trust,
        }  # fmt: skip


IMAGE_OPTIONS = ("data_dir", "download", "split", "image_size", "resize", "layout", "class_order", "n", "shuffle", "indices")


@dataclass(frozen=True)
class AttackOptions:
    """What commands that attack are told besides."""

    norm: o.Norm = None
    eps: o.RadiusOption = None
    threat: o.Threats = None
    until: o.Until = None
    engine: o.Engine = "robench"
    precision: o.Precision = "fp32"
    compiled: o.Compile = False
    scale: o.Scale = "auto"
    frost_dir: o.FrostDir = None
    score: o.Scores = None
    save: o.Save = False
    save_png: o.SavePng = False


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of its groups written out, as Typer reads them."""
    hints, signature = get_type_hints(command, include_extras=True), inspect.signature(command)
    groups = {name: kind for name, kind in hints.items() if kind in (CommonOptions, AttackOptions)}
    own = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values() if p.name not in groups]
    parts = {
        name: [
            inspect.Parameter(part.name, inspect.Parameter.KEYWORD_ONLY, default=part.default, annotation=its[part.name])
            for its in [get_type_hints(kind, include_extras=True)]
            for part in fields(kind)
        ]
        for name, kind in groups.items()
    }

    @wraps(command)
    def flat(**given: Any) -> None:
        held = {name: kind(**{part.name: given.pop(part.name) for part in parts[name]}) for name, kind in groups.items()}
        command(**given, **held)

    each = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *(part for its in parts.values() for part in its)]
    flat.__signature__ = signature.replace(parameters=each)  # type: ignore[attr-defined]
    flat.__annotations__ = {part.name: part.annotation for part in each} | {"return": None}
    return flat
