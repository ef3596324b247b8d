"""Accuracy under common corruptions: one or several models on the same corrupted images, made here or read from a released set.

Each corrupted image is made or read once and shown to every model; none is kept. A cell, one corruption at one severity on all images, is
an entry of the journal, so that a run can be taken up again after a kill.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robench.corruptions import CORRUPTIONS
from robench.corruptions import corrupted as under
from robench.corruptions.frost import read
from robench.corruptions.levels import scale_of
from robench.data import Images
from robench.data.corrupted import SYNTH, Corrupted
from robench.data.export import Export, Put
from robench.degradation import SETS
from robench.errors import InputError
from robench.recipes import did_you_mean, options_of
from robench.runs.stages.clean import clean_stage
from robench.runs.stages.corruption import cell_stage
from robench.runs.types import Pool, Stage

PIXELS = "pixels of "  # before a corruption, the key of the digest of its images
Cell = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Source:
    """N corrupted images, asked for by corruption, severity and place.

    name     as the rows spell it: cifar10-c (released), cifar10-c-synth (made here), ...
    y, ids   (N,) labels and sample ids; split and classes as in Images          setting  words of every row: scale=cifar
    pixels   pixels(corruption, severity, places (M,)) -> (M, C, H, W), uint8 or float in [0, 1]
    clean    clean(places) -> the images as they are, or None where there are none
    about    plain values that say which images these are, for the journal          notes  sentences on them, for the reader
    """

    name: str
    split: str
    y: Tensor
    ids: Tensor
    classes: tuple[str, ...]
    cells: tuple[Cell, ...]
    setting: str
    pixels: Callable[[str, int, Tensor], Tensor]
    clean: Callable[[Tensor], Tensor] | None
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def named(corruptions: Sequence[str]) -> tuple[str, ...]:
    """The corruptions that names, and the words fifteen, nineteen and noise, stand for, each once; InputError for an unknown one."""
    found: dict[str, None] = {}
    for name in corruptions:
        if name not in SETS and name not in CORRUPTIONS:
            raise InputError(f"unknown corruption {name!r}{did_you_mean(name, [*SETS, *CORRUPTIONS])}")
        found |= dict.fromkeys(SETS.get(name, (name,)))
    return tuple(found)


def made(
    images: Images, corruptions: Sequence[str], severities: Sequence[int], *, scale: str, photos: str, seed: int, device: str
) -> Source:
    """The images under corruptions made here; `photos` is a folder of frost photos, empty for the procedural texture."""
    scale = scale_of(images.x[:1], scale)
    if photos and "frost" not in corruptions:
        raise InputError("--frost-dir is for the corruption frost, which is not among those asked for: leave it out")

    def pixels(corruption: str, severity: int, places: Tensor) -> Tensor:
        more = {"photos": photos} if "photos" in options_of(CORRUPTIONS[corruption]) else {}
        x, ids = images.pixels(places).to(device), images.ids[places].to(device)
        return under(x, ids, corruption, severity, seed=seed, scale=scale, **more)

    cells = tuple((corruption, severity) for corruption in corruptions for severity in severities)
    frost = f" frost={'photos' if photos else 'procedural'}" if "frost" in corruptions else ""
    about = {"n": len(images), "images": images.sha256, "seed": seed, "scale": scale, "photos": digest_of(photos)}
    setting = f"scale={scale}{frost}"
    return Source(images.name + SYNTH, images.split, images.y, images.ids, images.classes, cells, setting, pixels, images.pixels, about)


def digest_of(photos: str) -> str:
    """A digest of the frost photos in a folder that are used, "" without a folder."""
    digest = hashlib.sha256()
    for photo in read(photos) if photos else ():
        digest.update(photo.numpy().tobytes())
    return digest.hexdigest() if photos else ""


def of_set(corrupted: Corrupted, rows: Tensor, clean: Images | None) -> Source:
    """The images at `rows` of a set on the disk; `clean` are the same images as they are, in the same order, if they are known."""
    digest = hashlib.sha256()
    for tensor in (corrupted.y[rows], corrupted.ids[rows]):
        digest.update(tensor.contiguous().numpy().tobytes())
    cells = tuple((corruption, severity) for corruption in corrupted.corruptions for severity in corrupted.severities)
    pixels = {f"{PIXELS}{name}": corrupted.digest(name, rows) for name in corrupted.corruptions}
    about = {
        "set": corrupted.name,
        "labels": digest.hexdigest(),
        "made": dict(corrupted.made),
        "clean": clean.sha256 if clean else "",
        **pixels,
    }
    told = ("scale", "seed", *(("frost",) if "frost" in corrupted.corruptions else ()))
    words = (
        [f"layout={corrupted.layout}"] if corrupted.layout else [f"{key}={corrupted.made[key]}" for key in told if key in corrupted.made]
    )
    return Source(
        corrupted.name, corrupted.split, corrupted.y[rows], corrupted.ids[rows], corrupted.classes, cells, " ".join(words),
        lambda corruption, severity, places: corrupted.load(corruption, severity, rows[places]).x,
        None if clean is None else clean.pixels, about, corrupted.notes,
    )  # fmt: skip


def pool_of_source(source: Source) -> Pool:
    """The pool of a source's images."""
    first = source.clean or partial(source.pixels, *source.cells[0])
    shape = tuple(first(torch.arange(1)).shape[1:])
    return Pool(source.clean, source.y, source.ids, shape, mild=None if source.clean else first)


def released_images(source: Source) -> Images:
    """What a measurement needs to know of the images of a source: labels, ids, classes, and the shape; no pixels but the first."""
    first = source.clean or partial(source.pixels, *source.cells[0])
    x = first(torch.arange(1))
    return Images(source.name, source.split, x.expand(len(source.y), *x.shape[1:]), source.y, source.ids, source.classes)


def stages_of_source(source: Source) -> list[Stage]:
    """The clean pass, where the clean images are known, then each corruption at each severity."""
    clean = clean_stage() if source.clean is not None else None
    words = {"setting": source.setting, "data": source.name, "split": source.split}
    cells = [
        cell_stage(f"{name}-{severity}", name, severity, partial(shown, source, name, severity), clean=clean, words=words)
        for name in dict.fromkeys(name for name, _ in source.cells)
        for other, severity in source.cells
        if other == name
    ]
    return [*([clean] if clean else []), *cells]


def shown(source: Source, corruption: str, severity: int, places: Tensor, before: object) -> Tensor:  # noqa: ARG001 - it has its own
    """The images of a source in one cell."""
    return source.pixels(corruption, severity, places)


class Exporting(ExitStack):
    """Hands the images of corruptions to an export, file by file; those that are there already are passed over."""

    def __init__(self, target: Export) -> None:
        super().__init__()
        self.target, self.corruption = target, ""
        self.put: Put | None = None

    def wants(self, stage: Stage) -> bool:
        """Whether the images of a stage are still to be written."""
        if stage.kind != "corruption":
            return False
        return stage.about["corruption"] == self.corruption or not self.target.has(stage.about["corruption"])

    def take(self, stage: Stage, places: Tensor, x: Tensor) -> None:
        """Writes some images."""
        if stage.about["corruption"] != self.corruption:
            self.close()
            self.corruption = stage.about["corruption"]
            self.put = self.enter_context(self.target.writing(self.corruption))
        assert self.put is not None
        self.put(stage.about["severity"], places, x)


def only_adds(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a run asks for what another did and for more: corruptions, severities, models, or a reference where there was none.

    theirs, ours  the header of a run's state, or its words
    """
    each = ("models", "names", "subjects", "architectures", "architecture", "weights", "modules", "code")  # models, then the reference
    grown = (*each, "cells", "stages", "measured", "reference", "code of recipes", "surrogates")
    same = {key: value for key, value in theirs.items() if key not in grown}
    more = {key for key in {*ours} - {*theirs} if not key.startswith(PIXELS)}
    count = len(theirs.get("models", theirs.get("subjects", ())))
    return (
        not more
        and all(ours.get(key) == value for key, value in same.items())
        and all(cell in ours.get(key, []) for key in ("cells", "stages") for cell in theirs.get(key, []))
        and all(ours.get(key, [])[: len(theirs[key])] == theirs[key] for key in each if key in theirs)
        and theirs.get("measured") in (ours.get("measured"), count)  # a reference does not become a model
        and theirs.get("reference", "") in ("", ours.get("reference", ""))
    )
