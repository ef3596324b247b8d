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

from robench.core.folders import Destination
from robench.core.inputs import as_model_dtype
from robench.core.model_calls import padded_logits
from robench.core.rows import Check, Row
from robench.core.threat import Threat
from robench.data import Images
from robench.runs.ledger import Ledger
from robench.runs.store import Store

MakeImages = Callable[[Tensor, "Pixels"], Tensor]  # images(places, before) -> what a stage shows
EndSentence = Callable[[], str | None]
Pixels = Callable[[Tensor], Tensor]  # pixels(places (M,)) -> images (M, C, H, W), uint8 or float in [0, 1]


class Track(Protocol):
    """Wraps chunks of images to show how far their work is; the plain `untracked_chunks` shows nothing."""

    def __call__(self, chunks: Sequence[Tensor], what: str, told: EndSentence = ...) -> Iterable[Tensor]:
        """Yields the chunks one after the other.

        Args:
            chunks: places of images, (M,) int64 each.
            what: the name of the work, for the display.
            told: called at the end, returns the sentence to show: "" to show nothing, None for the usual one.
        """


def untracked_chunks(chunks: Sequence[Tensor], what: str, told: EndSentence = lambda: None) -> Iterable[Tensor]:  # noqa: ARG001
    """The chunks themselves: no progress is shown.

    Args:
        chunks: places of images, (M,) int64 each.
        what: ignored.
        told: ignored.
    """
    return chunks


@dataclass(frozen=True)
class Subject:
    """A model under measurement.

    Attributes:
        model: maps pixels (B, C, H, W) in [0, 1] to logits (B, K).
        about: a row that holds the checkpoint, preset, data set and split that all rows of this model carry.
        sha256: digest of the checkpoint file, "" where there is none.
        architecture: plain values that identify the model beside its weights, modules and own code; kept in the state of a run.
        images: the images of the run with the pixels that this model is shown, where they are resized or cut otherwise than for the others:
            the same ids and labels, in the same order; None for the pixels of the run.
    """

    model: nn.Module
    about: Row
    sha256: str = ""
    architecture: Mapping[str, Any] = field(default_factory=dict)
    images: Images | None = None

    @property
    def name(self) -> str:
        """The word that the column checkpoint carries."""
        return self.about.checkpoint


@dataclass(frozen=True, eq=False)
class Pool:
    """The N images of a run. They are asked for by their places in it, 0 to N - 1.

    Attributes:
        pixels: gives the clean images at some places, uint8 or float in [0, 1]; None where only changed images are known, as in a
            released set of corrupted images.
        y: labels, (N,) int64 on the CPU.
        ids: sample ids, (N,) int64 on the CPU; the random numbers of an image belong to its id.
        shape: (C, H, W) of one image.
        masks: (N, H, W) bool, True on the object; None where it is not known.
        mild: gives slightly changed images, on which a model is examined where the clean ones are not known.
        source: the data set whose pixels these are; None where they come from elsewhere.
        skips_damaged: whether images that cannot be read are left out, in place of an error.
    """

    pixels: Pixels | None
    y: Tensor
    ids: Tensor
    shape: tuple[int, ...]
    masks: Tensor | None = None
    mild: Pixels | None = None
    source: Images | None = None
    skips_damaged: bool = False

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Chunk:
    """M images of the pool as a stage sees them.

    Attributes:
        x: (M, C, H, W) float in [0, 1], on the device.
        y: labels, (M,) int64 on the CPU.
        ids: sample ids, (M,) int64 on the CPU.
        places: places in the pool, (M,) int64 on the CPU.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    places: Tensor


@dataclass(frozen=True)
class Outcome:
    """What one level of a stage found on a chunk of M images.

    Attributes:
        columns: name -> one value an image: a tensor (M,) or a list of M words.
        level: the level as key=value words; "" where the stage has a single level.
        repeat: number of the random draw at this level, from 0.
        x: the images that the stage made, (M, C, H, W), for later stages; None where none are needed.
        extras: plain JSON values that belong to the chunk as a whole.
    """

    columns: Mapping[str, Tensor | list[str]]
    level: str = ""
    repeat: int = 0
    x: Tensor | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)


Measure = Callable[[Chunk], Iterable[Outcome]]


@dataclass(frozen=True)
class ReadyStage:
    """A stage made ready for one model.

    Attributes:
        measure: measures one chunk and yields an outcome for each level.
        setting: the options of the stage as key=value words, as the rows show them.
        notes: sentences on what was changed in the model or the options for this.
    """

    measure: Measure
    setting: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Stage:
    """One step of a run.

    Attributes:
        kind: "clean", "attack", "probe", "corruption", "method" or "joined".
        name: the name in rows and files.
        begin: makes the stage ready for one model; InputError where it cannot be used, though some errors come with the first chunk only.
        on: on(ledger, subject) -> (N,) bool, the images that the stage is for.
        source: the stage whose images it is given; None for the clean ones.
        images: images(places, before) -> the images that it shows to every model, where it makes them without asking a model (a
            corruption); `before` gives the images of its source. None for other stages.
        threat: the threat of an attack, else None.
        keeps_images: whether the images that it makes are kept for a later stage.
        needs_trial: whether it is run on two images before the run begins, to see that it can be used.
        is_reported: whether it has rows of its own; False where it only gives its images to other stages.
        expect: says which places will be asked for, so that `images` can decode ahead; None where it does not read files itself.
        about: what its rows need to know, by name.
        words: plain JSON values that identify it in the state of a run.
    """

    kind: str
    name: str
    begin: Callable[[Case], ReadyStage]
    on: Callable[[Ledger, str], Tensor]
    source: Stage | None = None
    images: Callable[[Tensor, Pixels], Tensor] | None = None
    threat: Threat | None = None
    keeps_images: bool = False
    needs_trial: bool = True
    is_reported: bool = True
    expect: Callable[[Tensor], None] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    words: Sequence[Any] = ()

    @property
    def key(self) -> str:
        """The text that identifies the stage within its run, also in the journal."""
        threat = f" {self.threat.norm} {self.threat.eps!r}" if self.threat else ""
        return f"{'' if self.is_reported else 'images of '}{self.kind} {self.name}{threat}"

    @property
    def is_shared(self) -> bool:
        """Whether all models are shown the same images, so that they are made once for all."""
        return self.images is not None and (self.source is None or self.source.is_shared)


@dataclass(eq=False)
class Case:
    """One subject of a run, made ready: what its stages share.

    Attributes:
        subject: the model as the user gave it, with the words of its rows.
        name: the subject's name in the ledger: its own, with a number behind it where an earlier subject has the same.
        exact_model: the model whose logits decide: the user's, wrapped where it does not keep the contract.
        model: the model that attacks are given: `exact_model` or a cheaper stand-in.
        first_images: the first images of the pool, float on the device.
        classes: number of logits.
        pool: all images.
        ledger: what is known so far.
        store: keeps journal and arrays.
        seed: of all random draws.
        batch_size: images in a chunk.
        device: where the model runs.
        precision: of attacks' passes: "fp32", "tf32" or "bf16".
        logits: clean logits (N, K), NaN where they are not known yet; None unless `remembers`.
        remembers: whether the clean logits are kept because a stage needs them again.
        saves_made_images: whether the images that probes make are saved.
        is_trial: whether the stages are only tried on a few images.
        checks: the diagnostics, raised or not.
        notes: sentences on what was done otherwise than asked.
        settings: key of a stage -> its options as the rows show them.
        saved: cascade -> the .npy file that takes its adversarial images.
        pngs: cascade -> the beginning of the paths of its pictures.
    """

    subject: Subject
    name: str
    exact_model: nn.Module
    model: nn.Module
    first_images: Tensor
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
    saves_made_images: bool = False
    is_trial: bool = False
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    saved: dict[str, Path] = field(default_factory=dict)
    pngs: dict[str, Path] = field(default_factory=dict)

    def logits_at(self, chunk: Chunk, *, clean: bool) -> Tensor:
        """The logits (M, K) of a chunk, float on the CPU.

        Args:
            chunk: the images.
            clean: whether the chunk shows the clean images, so that logits that are known already are used.
        """
        if clean and self.logits is not None and bool(self.logits[chunk.places].isfinite().all()):
            return self.logits[chunk.places]
        with torch.no_grad():
            return padded_logits(self.exact_model, chunk.x).cpu()

    def remember(self, places: Tensor, logits: Tensor) -> None:
        """Keeps the logits (M, K) of the clean images at `places` (M,), if a stage needs them again."""
        if self.remembers:
            if self.logits is None:
                self.logits = logits.new_full((len(self.pool), logits.shape[1]), float("nan"))
            self.logits[places] = logits


@dataclass(frozen=True)
class RunOptions:
    """How a run is made, beside its subjects, images and stages; see `evaluation.api.evaluate` for each."""

    seed: int = 0
    batch_size: int = 250
    device: str = "cpu"
    engine: str = "robench"
    precision: str = "fp32"
    compiled: bool = False
    until: float | None = None
    budget: float | None = None
    folder: Path | Destination | None = None
    resume: bool = False
    examine: bool = False
    prepare: bool = False
    track: Track = untracked_chunks
    made_folder: Path | None = None
    download: bool = False  # weights that models of transfer attacks lack


def pixels_for_model(x: Tensor, model: nn.Module, device: str) -> Tensor:
    """The images as float pixels in [0, 1] on the device, in the dtype of the model's weights.

    Args:
        x: images (M, C, H, W), uint8 or float in [0, 1].
        model: the model that they are for.
        device: the device that they are moved to.
    """
    x = x.to(device).contiguous()
    return as_model_dtype(x if x.is_floating_point() else x.float() / 255, model)
