"""The words of a run: subjects, the pool of images, stages, and what a stage says of some images.

A run measures subjects x stages x images. A stage says which images it is for, where their pixels come from, and measures a chunk of
them; its outcomes are added to the ledger, from which everything else follows: rows, samples, pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from robench.core.inputs import as_model_dtype
from robench.core.model_calls import padded_logits
from robench.core.rows import Check, Row
from robench.core.threat import Threat
from robench.runs.ledger import Ledger
from robench.runs.store import Store

MakeImages = Callable[[Tensor, "Pixels"], Tensor]  # images(places, before) -> what a stage shows
EndSentence = Callable[[], str | None]
Pixels = Callable[[Tensor], Tensor]  # pixels(places (M,)) -> images (M, C, H, W), uint8 or float in [0, 1]


class Track(Protocol):
    """Wraps chunks of images to show how far their work is; the plain `untracked_chunks` shows nothing."""

    def __call__(self, chunks: Sequence[Tensor], what: str, told: EndSentence = ...) -> Iterable[Tensor]:
        """The chunks themselves; `told` gives what is to be said at their end, "" where nothing is, None for what is usual."""


def untracked_chunks(chunks: Sequence[Tensor], what: str, told: EndSentence = lambda: None) -> Iterable[Tensor]:  # noqa: ARG001
    """The chunks themselves: no progress is shown."""
    return chunks


@dataclass(frozen=True)
class Subject:
    """A model under measurement, with the name, preset, data set and split of its rows; sha256 says which it is, where a row has to.

    architecture  what tells the model apart beside its weights, modules and own code, for the state of a run; plain values
    """

    model: nn.Module
    about: Row
    sha256: str = ""
    architecture: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The word that the column checkpoint carries."""
        return self.about.checkpoint


@dataclass(frozen=True, eq=False)
class Pool:
    """The N images of a run, asked for by their places in it.

    pixels  the images as they are at some places, uint8 or float in [0, 1]; None where only changed ones are known, as in a released set
    y, ids  (N,) labels and sample ids                       masks  (N, H, W) bool, where the object is, or None
    shape   (C, H, W) of an image
    mild    gives slightly changed ones, by which a model can be looked at where those as they are are not known
    """

    pixels: Pixels | None
    y: Tensor
    ids: Tensor
    shape: tuple[int, ...]
    masks: Tensor | None = None
    mild: Pixels | None = None

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Chunk:
    """M images of the pool as a stage sees them: x (M, C, H, W) float in [0, 1] on the device; y, ids, places (M,) on the CPU."""

    x: Tensor
    y: Tensor
    ids: Tensor
    places: Tensor


@dataclass(frozen=True)
class Outcome:
    """What one level of a stage says of a chunk.

    columns  name -> (M,) tensor, or list of M words          level   the level as key=value words, "" where a stage has one only
    repeat   which of several draws of the level, from 0      x       the images that it made, (M, C, H, W), for later stages
    extras   what belongs to the chunk as a whole, as plain JSON values
    """

    columns: Mapping[str, Tensor | list[str]]
    level: str = ""
    repeat: int = 0
    x: Tensor | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)


Measure = Callable[[Chunk], Iterable[Outcome]]


@dataclass(frozen=True)
class ReadyStage:
    """A stage made ready for one model: what measures chunks, the options as the rows tell them, and notes on what was done for that."""

    measure: Measure
    setting: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Stage:
    """One step of a run.

    kind    clean, attack, probe, corruption, method, ...      name    what rows and files call it
    begin   makes it ready for one model; what cannot be done with it is refused here or by the first chunk
    on      on(ledger, subject) -> (N,) bool, the images that the stage is for
    source  the stage whose images it is given; None for the images as they are
    images  images(places, before) -> what it shows to the models, where it changes the images without asking them (a corruption);
            `before` gives the pixels that its source shows
    threat  of an attack                                       kept    whether a later stage needs the images that it makes
    tried   whether it is tried on two images before the run   about   what its rows need to know, by name
    reported  whether it has rows of its own, or only gives images to others
    words   what identifies it, for the state of a run: plain JSON values
    """

    kind: str
    name: str
    begin: Callable[[Case], ReadyStage]
    on: Callable[[Ledger, str], Tensor]
    source: Stage | None = None
    images: Callable[[Tensor, Pixels], Tensor] | None = None
    threat: Threat | None = None
    kept: bool = False
    tried: bool = True
    reported: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)
    words: Sequence[Any] = ()

    @property
    def key(self) -> str:
        """What tells it from the other stages of a run."""
        threat = f" {self.threat.norm} {self.threat.eps!r}" if self.threat else ""
        return f"{'' if self.reported else 'images of '}{self.kind} {self.name}{threat}"

    @property
    def shared(self) -> bool:
        """Whether all models are shown the same images, which are then made once."""
        return self.images is not None and (self.source is None or self.source.shared)


@dataclass(eq=False)
class Case:
    """One subject of a run, made ready: all that its stages share.

    name     what the ledger calls the subject: its name, if no other has it
    exact    the model that has the last word: the user's, or that behind what it needs to keep the contract
    model    what the attacks are given: that one, or a cheaper stand-in
    few      the first images, float on the device             classes  how many logits the model has
    logits   of the images as they are, (N, K), NaN where they are not known; kept where `remembers` says that a stage needs them again
    makes    whether the images that probes make are saved
    few_only whether the stages are only tried out on a few images
    checks   the diagnostics, raised or not                    notes    sentences on what was done otherwise than asked
    saved    cascade -> the file that takes its x_adv          pngs     cascade -> the beginning of the paths of its pictures
    settings of the stages, as the rows tell them, by key
    """

    subject: Subject
    name: str
    exact: nn.Module
    model: nn.Module
    few: Tensor
    classes: int
    pool: Pool
    ledger: Ledger
    store: Store
    seed: int
    batch_size: int
    device: str
    precision: str = "fp32"
    logits: Tensor | None = None
    remembers: bool = False
    makes: bool = False
    few_only: bool = False
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    saved: dict[str, Path] = field(default_factory=dict)
    pngs: dict[str, Path] = field(default_factory=dict)

    def logits_at(self, chunk: Chunk, *, clean: bool) -> Tensor:
        """The logits (M, K) of a chunk on the CPU: those that are known where it shows the images as they are."""
        if clean and self.logits is not None and bool(self.logits[chunk.places].isfinite().all()):
            return self.logits[chunk.places]
        with torch.no_grad():
            return padded_logits(self.exact, chunk.x).cpu()

    def remember(self, places: Tensor, logits: Tensor) -> None:
        """Keeps the logits (M, K) of the images as they are, if a stage needs them again."""
        if self.remembers:
            if self.logits is None:
                self.logits = logits.new_full((len(self.pool), logits.shape[1]), float("nan"))
            self.logits[places] = logits


def pixels_for_model(x: Tensor, model: nn.Module, device: str) -> Tensor:
    """Images as float pixels in [0, 1] on the device, in the type of the model's weights."""
    x = x.to(device).contiguous()
    return as_model_dtype(x if x.is_floating_point() else x.float() / 255, model)
