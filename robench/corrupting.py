"""Accuracy under common corruptions: one or several models on the same corrupted images, made here or read from a released set.

Each corrupted image is made or read once and shown to every model; none is kept. A cell, one corruption at one severity on all images, is
an entry of the journal, so that a run can be taken up again after a kill.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from robench.calls import frozen, padded
from robench.corruptions import CORRUPTIONS
from robench.corruptions import corrupted as under
from robench.corruptions.frost import read
from robench.corruptions.levels import scale_of
from robench.data import Images
from robench.data.corrupted import SYNTH, Corrupted
from robench.data.export import Export
from robench.degradation import CLEAN, FIFTEEN, NINETEEN, NOISES, Reference, rows_of
from robench.destinations import Place, alone_in
from robench.errors import InputError
from robench.evaluation import Track, check_logits, untracked
from robench.inputs import PathLike, as_path, as_seed
from robench.journal import Journal, begun
from robench.memory import ending_told
from robench.models.identity import identity
from robench.models.passes import arithmetic
from robench.probing import Subject
from robench.recipes import did_you_mean, options_of
from robench.rows import Row

SETS = {"fifteen": FIFTEEN, "nineteen": NINETEEN, "noise": NOISES}
NEEDS_CLEAN = ("relative_error", "relative_accuracy", "relative_ce", "relative_mce")  # and all rows of the probe clean
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


@dataclass(frozen=True)
class Degradation:
    """The result of `degrade`: rows, per-image table as columns, labels given by cell and model, one image under everything, reference."""

    rows: list[Row]
    columns: dict[str, list[Any]]
    predictions: dict[str, dict[Cell, Tensor]]
    sheet: dict[Cell, Tensor] = field(default_factory=dict)
    reference: Reference | None = None

    def accuracy(self, checkpoint: str) -> dict[Cell, float]:
        """The accuracy of a model in each cell, and in ("clean", 0) where that was measured."""
        found = [row for row in self.rows if row.checkpoint == checkpoint and row.metric == "accuracy"]
        return {(row.probe, int(words_of(row).get("severity", 0))): row.value for row in found}


def words_of(row: Row) -> dict[str, str]:
    """The key=value words of a row's setting."""
    return dict(word.partition("=")[::2] for word in row.setting.split())


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


def degrade(
    subjects: Sequence[Subject],
    source: Source,
    *,
    reference: Subject | Reference | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    folder: PathLike | Place | None = None,
    resume: bool = False,
    target: Export | None = None,
    track: Track = untracked,
) -> Degradation:
    """Accuracies of models in every cell of a source, the means over cells, and the images on the way, written where `target` says.

    reference  the model by whose errors others are divided: one to be measured along with them, or known errors
    folder     keep the state of the run there, locked meanwhile, as in `evaluation.evaluate`; with `resume`, go on with what is there
    Raises InputError for labels or logits that cannot be used.
    """
    seed = as_seed(seed)
    measured = [*subjects, *([reference] if isinstance(reference, Subject) else [])]
    try_out(measured, source, device)
    predictions: list[dict[Cell, Tensor]] = [{} for _ in measured]
    sheet: dict[Cell, Tensor] = {}
    with ExitStack() as stack:
        work = stack.enter_context(alone_in(folder if isinstance(folder, Place) else as_path(folder, "folder")))
        journal = Journal(work, header(measured, source), resume=resume, adds=only_adds)
        stack.enter_context(journal.kept())
        stack.enter_context(ending_told(batch_size, partial(begun, work)))
        for subject in measured:
            stack.enter_context(frozen(subject.model, device))
        stack.enter_context(arithmetic("fp32"))
        known = {(entry["corruption"], entry["severity"]): entry["labels"] for entry in journal.entries}
        run = Run(measured, source, batch_size, device, journal, track)
        for cell, found, image in every(run, known, target):
            sheet[cell] = image
            for labels, mine in zip(found, predictions, strict=True):
                mine[cell] = labels
        journal.finish()
    return summed(subjects, measured, source, predictions, reference, seed, sheet)


def try_out(subjects: Sequence[Subject], source: Source, device: str) -> None:
    """InputError where the logits of a model cannot be used with these labels, before the first cell is computed."""
    if not subjects or not source.cells:
        return
    few = torch.arange(min(2, len(source.y)))
    x = floats(source.pixels(*source.cells[0], few) if source.clean is None else source.clean(few)).to(device)
    for subject in subjects:
        with frozen(subject.model, device), arithmetic("fp32"), torch.no_grad():
            check_logits(padded(subject.model, x).cpu(), source.y)


@dataclass(frozen=True)
class Run:
    """What the steps of `degrade` share."""

    subjects: Sequence[Subject]
    source: Source
    batch_size: int
    device: str
    journal: Journal
    track: Track


def header(subjects: Sequence[Subject], source: Source) -> dict[str, Any]:
    """What a run is, for its journal."""
    return {
        "robench": version("robench"),
        "architectures": [dict(subject.architecture) for subject in subjects],
        "models": [identity(subject.model) for subject in subjects],
        "source": source.name,
        **source.about,
        "cells": [list(c) for c in source.cells],
    }


def only_adds(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a run asks for what another did and for more: corruptions, severities, models, or a reference where there was none.

    theirs, ours  what `header` says, with more words or without
    """
    each = ("models", "names", "architectures")  # of the models, then of the reference
    grown = (*each, "cells", "measured", "reference")
    same = {key: value for key, value in theirs.items() if key not in grown}
    more = {key for key in {*ours} - {*theirs} if not key.startswith(PIXELS)}
    return (
        not more
        and all(ours.get(key) == value for key, value in same.items())
        and all(cell in ours["cells"] for cell in theirs["cells"])
        and all(ours.get(key, [])[: len(theirs[key])] == theirs[key] for key in each if key in theirs)
        and theirs.get("measured") in (ours.get("measured"), len(theirs["models"]))  # a reference does not become a model
        and theirs.get("reference", "") in ("", ours.get("reference", ""))
    )


def every(run: Run, known: Mapping[Cell, list[list[int]]], target: Export | None) -> Iterator[tuple[Cell, list[Tensor], Tensor]]:
    """Each cell, the clean images first, with the labels that each model gives, (N,), and the first image, (C, H, W) float on the CPU."""
    if run.source.clean is not None:
        yield cell_of(run, (CLEAN, 0), run.source.clean, known, None)
    for corruption in dict.fromkeys(name for name, _ in run.source.cells):
        with writer(target, corruption) as put:
            for cell in [cell for cell in run.source.cells if cell[0] == corruption]:
                yield cell_of(run, cell, partial(run.source.pixels, *cell), known, put)


@contextmanager
def writer(target: Export | None, corruption: str) -> Iterator[Callable[[int, Tensor, Tensor], None] | None]:
    """What takes the images of a corruption as they are made; None where they are not kept, or were already."""
    with nullcontext() if target is None or target.has(corruption) else target.writing(corruption) as put:
        yield put


def cell_of(
    run: Run, cell: Cell, pixels: Callable[[Tensor], Tensor], known: Mapping[Cell, list[list[int]]], put: Any
) -> tuple[Cell, list[Tensor], Tensor]:
    """One cell: its labels from the journal, or from the models that the journal does not know; images are made if someone sees them."""
    places, labels = torch.arange(len(run.source.y)), [torch.tensor(labels) for labels in known.get(cell, [])]
    asked = run.subjects[len(labels) :]
    if put is None and not asked:
        return cell, labels, floats(pixels(places[:1]))[0].cpu()
    parts, first = list[list[Tensor]](), torch.zeros(0)
    chunks = places.split(run.batch_size)
    for chunk in run.track(chunks, f"{cell[0]} {cell[1] or ''}".strip()):
        x = pixels(chunk)
        first = floats(x[:1])[0].cpu() if not len(first) else first
        if put is not None:
            put(cell[1], chunk, x)
        parts.append([labels_of(subject, floats(x).to(run.device), run.source.y[chunk]) for subject in asked])
    if not asked:
        return cell, labels, first
    found = [*labels, *(torch.cat(its) for its in zip(*parts, strict=True))]
    run.journal.append({"corruption": cell[0], "severity": cell[1], "labels": [labels.tolist() for labels in found]})
    return cell, found, first


def floats(x: Tensor) -> Tensor:
    """The images as float pixels in [0, 1]."""
    return x if x.is_floating_point() else x.float() / 255


def labels_of(subject: Subject, x: Tensor, y: Tensor) -> Tensor:
    """The labels that a model gives, (M,) on the CPU; InputError where its logits cannot be used."""
    with torch.no_grad():
        logits = padded(subject.model, x).cpu()
    check_logits(logits, y)
    return logits.argmax(1)


def summed(
    subjects: Sequence[Subject], measured: Sequence[Subject], source: Source, predictions: Sequence[Mapping[Cell, Tensor]],
    reference: Subject | Reference | None, seed: int, sheet: dict[Cell, Tensor],
) -> Degradation:  # fmt: skip
    """Rows and the per-image table from the labels."""
    from robench.degradation import measured_reference

    rows: list[Row] = []
    if isinstance(reference, Subject):
        clean, cells = right(source, predictions[-1])
        reference = measured_reference("_".join(reference.about.checkpoint.split()), clean, cells, reference.sha256) if cells else None
    for subject, mine in zip(subjects, predictions, strict=False):
        about = replace(subject.about, data=source.name, split=source.split, seed=seed, setting=source.setting)
        found = rows_of(about, *right(source, mine), reference) if source.cells else []
        rows += found if source.clean is not None else [row for row in found if row.probe != CLEAN and row.metric not in NEEDS_CLEAN]
    names = [subject.about.checkpoint for subject in measured]
    kept = {name: dict(mine) for name, mine in zip(names, predictions, strict=True)}
    return Degradation(rows, columns(subjects, source, predictions), kept, sheet, reference)


def right(source: Source, labels: Mapping[Cell, Tensor]) -> tuple[Any, dict[Cell, Any]]:
    """Whether each image is right, as it is and in each cell, 0 or 1, (N,) numpy arrays; without clean images, all count as right there."""
    found = {cell: (pred == source.y).double().numpy() for cell, pred in labels.items()}
    return found.pop((CLEAN, 0), torch.ones(len(source.y)).double().numpy()), found


def columns(subjects: Sequence[Subject], source: Source, predictions: Sequence[Mapping[Cell, Tensor]]) -> dict[str, list[Any]]:
    """The per-image table as columns: a line for each model, corruption and image, with the label that it gets at each severity."""
    severities = sorted({severity for _, severity in source.cells})
    table: dict[str, list[Any]] = {name: [] for name in ("checkpoint", "probe", "sample", "label", *(f"pred_{s}" for s in severities))}
    names = dict.fromkeys(name for name, _ in source.cells)
    for subject, mine in zip(subjects, predictions, strict=False):
        for probe in (*((CLEAN,) if (CLEAN, 0) in mine else ()), *names):
            n = len(source.y)
            table["checkpoint"] += [subject.about.checkpoint] * n
            table["probe"] += [probe] * n
            table["sample"] += source.ids.tolist()
            table["label"] += source.y.tolist()
            for severity in severities:
                labels = mine.get((CLEAN, 0) if probe == CLEAN else (probe, severity))
                table[f"pred_{severity}"] += [None] * n if labels is None else labels.tolist()
    return table
