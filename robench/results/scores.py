"""The rows and samples of saliency maps: how scores are spread, how they go with the margin, and with who falls on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from robench.core.model_calls import CUT_GRAPH
from robench.core.rows import CLEAN, Row
from robench.explainers.hooks import has_no_gradient
from robench.results import cascade
from robench.runs.execution import FinishedRun
from robench.runs.images import image_from_json, stage_images
from robench.runs.ledger import Ledger
from robench.runs.own_functions import WEIGHTS_CHANGED
from robench.runs.stages.method import JACOBIAN, LORENZ_POINTS, applies_to_maps, explained_places
from robench.runs.types import Case, Pixels, Stage
from robench.scores import GROUPS

SHOWN_IMAGES = 8  # how many images the gallery shows


@dataclass(frozen=True, eq=False)
class ImageChange:
    """What an earlier stage made of the N images of one subject: an attack, a probe, a corruption, or an earlier run.

    Attributes:
        name: pgd-20, random-noise, gaussian_noise-3, autoattack, ...: the word that rows and columns carry.
        fallen: (N,) bool: the model is wrong on the changed image.
        tried: (N,) bool: the model was right on the clean image, and the change was tried.
        x: x(places) gives the changed images, float32 in [0, 1]; None where only the verdicts are known. Those that an attack or a probe
            found in a run with a folder are there until the run ends.
        places: (M,) the images whose changed version is explained: of an attack the fallen ones, else all that were tried.
        norm: the norm of the attack's threat, as in the column of its rows; empty for what has none.
        eps: the radius of that threat, 0 for what has none.
    """

    name: str
    fallen: Tensor
    tried: Tensor
    x: Pixels | None
    places: Tensor
    norm: str = ""
    eps: float = 0.0

    def words(self, places: Tensor) -> list[int | None]:
        """1 where the image fell, 0 where it stands, None where it was not tried, for the images at `places`."""
        pairs = zip(self.fallen[places].tolist(), self.tried[places].tolist(), strict=True)
        return [int(fell) if tried else None for fell, tried in pairs]


@dataclass
class MethodScores:
    """The scores of one method on one kind of images of one model: the rows of the per-sample table that belong together.

    Attributes:
        method: the method's name.
        setting: its options, key=value.
        images: "clean", or the name of what changed the images.
        places: (M,) which of the N images these are.
        values: the scores by name, (M,) float64 each, NaN where undefined.
        zero: (M,) bool: the map is zero everywhere.
        bad: (M,) bool: the map is not finite.
        pred: (M,) the labels that the model gives these images.
        target: (M,) the classes explained.
        lorenz: (LORENZ_POINTS,) mean Lorenz curve, NaN where there is none.
        seconds: time spent on the maps and their scores.
        maps: maps (C or 1, H, W) of the images in the gallery, by place.
        x: these images (C, H, W) by place, where they are not the clean ones.
        options: each score's own options, key=value words with commas between them.
        norm: the norm of the attack that made the images; empty for others.
        eps: the radius of that attack; 0 for others.
    """

    method: str
    setting: str
    images: str
    places: Tensor
    values: dict[str, Tensor]
    zero: Tensor
    bad: Tensor
    pred: Tensor
    target: Tensor
    lorenz: Tensor
    seconds: float = 0.0
    maps: dict[int, Tensor] = field(default_factory=dict)
    x: dict[int, Tensor] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    norm: str = ""
    eps: float = 0.0


@dataclass(frozen=True)
class SubjectScores:
    """The scores of the maps of one subject on N images.

    Attributes:
        about: the columns that all rows of the subject share.
        ids: (N,) the images' indices in the official split.
        y: (N,) labels.
        pred: (N,) the labels that the model gives the clean images.
        margin: (N,) the margins on the clean images.
        seen: (N,) bool: the run has come to the image.
        methods: the scores of each method on each kind of images.
        changes: what changed the images that are explained, or whose verdicts are set against the scores.
        gallery_places: places of the images that the gallery shows.
        notes: sentences on what was done otherwise than asked.
        flags: sentences on what makes the numbers doubtful.
    """

    about: Row
    ids: Tensor
    y: Tensor
    pred: Tensor
    margin: Tensor
    seen: Tensor
    methods: list[MethodScores]
    changes: Sequence[ImageChange]
    gallery_places: list[int]
    notes: list[str]
    flags: list[str] = field(default_factory=list)


def all_subject_scores(run: FinishedRun) -> list[SubjectScores]:
    """The scores of the maps of each subject of a run.

    Args:
        run: a run that has come to its end.
    """
    return [subject_scores(run, case) for case in run.cases]


def subject_scores(run: FinishedRun, case: Case) -> SubjectScores:
    """What a run found on the maps of one subject."""
    ledger, clean = run.ledger, run.stages_of_kind("clean")[0]
    about = replace(case.subject.about, n=int(ledger.seen.sum()), seed=case.seed, norm="", eps=0.0)
    stages = [stage for stage in run.stages_of_kind("method") if stage.source is None or not is_of_other_subject(case, stage.source)]
    scored = [one for stage in stages if (one := method_scores(run, case, stage)) is not None]
    changes = [change_of(run, case, stage) for stage in changes_in(run) if not is_of_other_subject(case, stage)]
    is_cut = has_no_gradient(case.subject.model, case.first_images[:1])
    flags = [f"{CLEAN}: {CUT_GRAPH}"] if is_cut else []
    flags += [f"{check.probe}: {check.sentence}" for stage in changes_in(run) for check in cascade.source_checks(ledger, case.name, stage)]
    flags += [
        f"{own}: {WEIGHTS_CHANGED}" for own in dict.fromkeys(own for stage in stages for own in ledger.extras(case.name, stage, "changed"))
    ]
    gallery_places = next((change.places[:SHOWN_IMAGES].tolist() for change in changes if len(change.places)), first_seen_places(ledger))
    gallery_places = [
        place for place in gallery_places if all(place in one.maps for one in scored if one.images == CLEAN and one.method != JACOBIAN)
    ]
    pred = ledger.column(case.name, clean, "pred", -1)
    margin = ledger.column(case.name, clean, "margin", math.nan)
    notes = (
        [note for note in case.notes if note]
        + missing_score_notes(stages, scored)
        + unusable_map_notes(scored, zero_maps_clause(case.logits, is_cut))
    )
    return SubjectScores(about, run.pool.ids, ledger.y, pred, margin.double(), ledger.seen, scored, changes, gallery_places, notes, flags)


def missing_score_notes(stages: Sequence[Stage], scored: Sequence[MethodScores]) -> list[str]:
    """A sentence for each score that was asked for and that none of the methods can have."""
    available = {name for some in scored for name in some.values}
    labels = dict.fromkeys(
        score.label for stage in stages for score in stage.about["scores"] if not applies_to_maps(score.name, complete=False)
    )
    methods = list(dict.fromkeys(some.method for some in scored if some.method != JACOBIAN))
    who = f"{', '.join(methods)} {'have' if len(methods) > 1 else 'has'}"
    return [
        f"{who} no {name}, which needs a method whose maps promise to add up to the rise of the logit over one baseline: add one, such as "
        f"integrated-gradients"
        for name in labels
        if methods and name not in available and name not in GROUPS["jacobian"]
    ]


def first_seen_places(ledger: Ledger) -> list[int]:
    """The first images that were seen."""
    return [int(place) for place in ledger.seen.nonzero().flatten()[:SHOWN_IMAGES]]


def is_of_other_subject(case: Case, stage: Stage) -> bool:
    """Whether a stage belongs to another subject alone."""
    return stage.kind == "joined" and stage.about["subject"] != case.name


def changes_in(run: FinishedRun) -> list[Stage]:
    """The stages that change images which methods explain, or whose verdicts are set against the scores."""
    methods = run.stages_of_kind("method")
    return list(methods[0].about["changes"]) if methods else []


def change_of(run: FinishedRun, case: Case, stage: Stage) -> ImageChange:
    """What a stage made of the images of one subject."""
    ledger, seen = run.ledger, run.ledger.seen
    places = (explained_places(stage)(ledger, case.name) & seen).nonzero().flatten()
    has_images = stage.keeps_images or stage.images is not None

    def x(some: Tensor) -> Tensor:
        images = stage_images(stage, some, case.pool, case).cpu()
        return images if images.is_floating_point() else images.float() / 255

    norm, eps = cascade.threat_before(stage)
    fallen, tried = ledger.has_fallen(case.name, stage) & seen, ledger.was_tried(case.name, stage) & seen
    return ImageChange(stage.name, fallen & tried, tried, x if has_images else None, places, norm, eps)


def method_scores(run: FinishedRun, case: Case, stage: Stage) -> MethodScores | None:
    """The scores of one method on one kind of images; None where there was no such image."""
    ledger = run.ledger
    places = (stage.on(ledger, case.name) & ledger.seen).nonzero().flatten()
    if not len(places):
        return None
    record = ledger.record(case.name, stage)
    values = {name.removeprefix("score "): column[places] for name, column in record.columns.items() if name.startswith("score ")}
    none = torch.zeros(len(places), dtype=torch.bool)
    extras: dict[str, Any] = {"options": {}, "maps": {}, "x": {}, "lorenz": []}
    for more in record.extras:
        extras["options"] |= more.get("options", {})
        for name in ("maps", "x"):
            extras[name] |= {int(place): image_from_json(image) for place, image in more.get(name, {}).items()}
        extras["lorenz"] += [more["lorenz"]] if "lorenz" in more else []
    return MethodScores(
        stage.about["method"], case.settings[stage.key], stage.about["images"], places, values,
        record.columns["zero"][places] if "zero" in record.columns else none,
        record.columns["bad"][places] if "bad" in record.columns else none,
        record.columns["pred"][places], record.columns["target"][places], mean_lorenz_curve(extras["lorenz"]), record.seconds,
        extras["maps"],
        extras["x"], extras["options"], *cascade.threat_before(stage.source),
    )  # fmt: skip


def mean_lorenz_curve(parts: Sequence[tuple[Sequence[float], int]]) -> Tensor:
    """The mean of Lorenz curves, (LORENZ_POINTS,), from the sums over chunks and their counts; NaN where there is none."""
    count = sum(number for _, number in parts)
    if not count:
        return torch.full((LORENZ_POINTS,), torch.nan, dtype=torch.float64)
    return torch.tensor([sums for sums, _ in parts], dtype=torch.float64).sum(0) / count


def zero_maps_clause(logits: Tensor | None, is_cut: bool) -> str:
    """What was seen of a model, for the remark that all its maps are zero: that its graph is cut, or its logits (N, K) on the images."""
    if is_cut:
        return ", as its logits have no gradient"
    logits = None if logits is None else logits[logits.isfinite().all(1)]  # those of an earlier run are not known
    if logits is None or len(logits) < 2:
        return ""
    alike = bool((logits == logits[:1]).all())
    return ", and it gives every image the same logits" if alike else ", although its logits differ from image to image"


def unusable_map_notes(scored: Iterable[MethodScores], seen: str) -> list[str]:
    """Sentences on maps that are zero or not finite; `seen` says how the model reacted."""
    notes = []
    for some in scored:
        zero, bad, n = int(some.zero.sum()), int(some.bad.sum()), len(some.places)
        where = f"{some.method} on {some.images} images"
        if zero == n > 0:
            notes.append(f"{where}: all {n} maps of the model are zero{seen}: there is no Gini to report")
        elif zero:
            notes.append(f"{where}: {zero} of {n} maps are zero everywhere; they have no Gini and are left out")
        if bad:
            notes.append(f"{where}: {bad} of {n} maps hold NaN or infinite numbers; they are left out")
    return notes
