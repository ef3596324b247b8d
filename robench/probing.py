"""Probes of one or several models: every level of every probe on all the images that a model gets right, each level for itself.

Unlike the attacks of `evaluation`, probes have no radius and make no cascade: an error rate at t = 0.004 is one over all images. It has two
denominators, and both are reported: the images right for this model, which no other model can move, and those right for all models of the
call, the convention of the papers.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robench.calls import frozen, padded, with_gradients
from robench.claims import levels_of
from robench.draws import Draws
from robench.evaluation import Track, check_logits, checked, pixels, untracked
from robench.inputs import as_seed
from robench.memory import ending_told
from robench.models.passes import arithmetic
from robench.probes import PROBES
from robench.recipes import Recipe, resolve, setting
from robench.rows import WILSON, Check, Row, Tried
from robench.types import Level

Probe = Callable[..., Iterator[Level]]


@dataclass(frozen=True)
class Subject:
    """A model under the name, preset, data set and split of its rows; sha256 says which it is, where a row has to.

    architecture  what tells the model apart beside its weights, modules and own code, for the state of a run; plain values
    """

    model: nn.Module
    about: Row
    sha256: str = ""
    architecture: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Record:
    """One level of a probe on one model: what became of the N images, summed over its repeats and chunks.

    clean_pred (N,)   the labels that the model gives the images      fooled (N,)   in how many repeats it was wrong
    share (N,)        share changed, summed over the repeats          by_repeat     fooled (N,) bool, repeat by repeat
    """

    about: Row
    clean_pred: Tensor
    fooled: Tensor
    share: Tensor
    by_repeat: dict[int, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    forwards: int = 0
    backwards: int = 0

    @property
    def repeats(self) -> int:
        """How many draws there were."""
        return max(1, len(self.by_repeat))

    def add(self, places: Tensor, level: Level, seconds: float) -> None:
        """Takes up what a level did to the images at `places`."""
        fooled = level.fooled.cpu()
        self.fooled[places] += fooled.double()
        self.share[places] += level.share.cpu().double()
        self.by_repeat.setdefault(level.repeat, torch.zeros(len(self.fooled), dtype=torch.bool))[places] = fooled
        self.seconds += seconds
        self.forwards += int(level.forwards.sum())
        self.backwards += int(level.backwards.sum())


@dataclass(frozen=True)
class Probing:
    """The result of `probe`: measurements, what became of each image, the records they are made from, in order, and raised flags."""

    rows: list[Row]
    samples: list[Tried]
    records: list[Record]
    checks: list[Check]

    @property
    def flags(self) -> list[str]:
        """A sentence for each raised flag."""
        return [f"{check.probe}: {check.sentence}" for check in self.checks]


def resolved(recipes: Sequence[Recipe]) -> list[tuple[Recipe, Probe]]:
    """The recipes with the functions that they name; InputError for an unknown one."""
    return [(recipe, resolve(recipe, PROBES, "probe")) for recipe in recipes]


@with_gradients
def probe(
    subjects: Sequence[Subject],
    x: Tensor,
    y: Tensor,
    recipes: Sequence[Recipe],
    *,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    track: Track = untracked,
) -> Probing:
    """Error rates of one or several models under probes, with intervals, the share of the image that was changed, and passes.

    x, y, ids  as in `evaluation.evaluate`: every model sees the same images
    Raises InputError for images, labels or logits that cannot be evaluated.
    """
    x, y, ids = checked(x, y, ids)
    seed = as_seed(seed)
    chosen = resolved(recipes)
    for subject in subjects:
        try_out(subject.model, x, y, ids, chosen, seed, device)
    records, flags = list[Record](), list[tuple[Row, Check]]()
    for subject in subjects:
        about = replace(subject.about, n=len(x), seed=seed, norm="", eps=0.0)
        with ending_told(batch_size), frozen(subject.model, device), arithmetic("fp32"):
            pred = predictions(subject.model, x, y, batch_size, device)
            records.append(Record(replace(about, probe="clean", setting=""), pred, (pred != y).double(), torch.zeros(len(x)).double()))
            for recipe, function in chosen:
                called = replace(about, probe=recipe.label, setting=setting(function))
                run = partial(levels, subject.model, x, y, ids, called=called, function=function, batch_size=batch_size, device=device)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", RuntimeWarning)
                    records += run(pred, track=track)
                flags += [(called, Check(recipe.label, "warning", 1.0, True, told)) for told in sentences(caught)]
    shared = torch.stack([record.clean_pred == y for record in records]).all(0)
    rows = [row for record in records for row in rows_of(record, record.clean_pred == y, shared, len(subjects))]
    rows += [replace(about, metric=f"flag/{check.name}", value=check.value) for about, check in flags]
    samples = [line for record in records for line in lines(record, ids, y)]
    return Probing(rows, samples, records, list(dict.fromkeys(check for _, check in flags)))


def try_out(model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, chosen: Sequence[tuple[Recipe, Probe]], seed: int, device: str) -> None:
    """Asks for the first level of every probe on the first two images, with the model's own labels, so that all of them count as right.

    Raises InputError where a probe or the model's logits would be refused, before the other images are computed.
    """
    few = torch.arange(min(2, len(x)))
    with frozen(model, device), arithmetic("fp32"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what is to be told is told when the probe runs
        some = pixels(x, few, device)
        with torch.no_grad():
            logits = padded(model, some).cpu()
        check_logits(logits, y)
        for recipe, function in chosen:
            draws = Draws(seed, ids[few].to(device), recipe.label)
            next(levels_of(function, model, some, logits.argmax(1).to(device), draws, recipe.label), None)


def sentences(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """What a probe warned of, each sentence once."""
    return list(dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, RuntimeWarning)))


def predictions(model: nn.Module, x: Tensor, y: Tensor, batch_size: int, device: str) -> Tensor:
    """The labels that the model gives the images, (N,); InputError where its logits cannot be used."""
    found = []
    for places in torch.arange(len(x)).split(batch_size):
        with torch.no_grad():
            logits = padded(model, pixels(x, places, device)).cpu()
        check_logits(logits, y[places])
        found.append(logits.argmax(1))
    return torch.cat(found)


def levels(
    model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, pred: Tensor,
    *, called: Row, function: Probe, batch_size: int, device: str, track: Track,
) -> list[Record]:  # fmt: skip
    """The records of a probe's levels on the images that the model gets right, in the order in which the probe yields them."""
    found: dict[str, Record] = {}
    right = (pred == y).nonzero().flatten()
    chunks = right.split(batch_size) if len(right) else ()
    for places in track(chunks, called.probe):
        draws = Draws(called.seed, ids[places].to(device), called.probe)
        begin = time.perf_counter()
        for level in levels_of(function, model, pixels(x, places, device), y[places].to(device), draws, called.probe):
            about = replace(called, setting=joined(level.setting, called.setting))
            blank = partial(torch.zeros, len(x), dtype=torch.float64)
            found.setdefault(level.setting, Record(about, pred, blank(), blank())).add(places, level, time.perf_counter() - begin)
            begin = time.perf_counter()
    return list(found.values())


def joined(level: str, options: str) -> str:
    """The setting of a level: its own key=value words, then those of the probe that it does not settle."""
    settled = {word.partition("=")[0] for word in level.split()}
    return " ".join([*level.split(), *(word for word in options.split() if word.partition("=")[0] not in settled)])


def rows_of(record: Record, right: Tensor, shared: Tensor, models: int) -> Iterator[Row]:
    """The rows of one level: error rates on both denominators, their spread over the draws, the share changed, seconds and passes.

    The interval is Wilson's over images, at the mean over the draws. For the clean images the accuracy is the one row.
    """
    about = record.about
    if about.probe == "clean":
        n = len(right)
        yield WILSON.around(replace(about, metric="accuracy"), int(right.sum()), n)
        return
    for name, among in (("error_rate", right), *([("error_rate_shared", shared)] if models > 1 else [])):
        yield from error_rows(record, name, among)
    yield replace(about, n=int(right.sum()), metric="changed_share", value=mean(record.share[right] / record.repeats))
    for metric, value in (("seconds", record.seconds), ("forwards", record.forwards), ("backwards", record.backwards)):
        yield replace(about, n=int(right.sum()), metric=metric, value=float(value))


def error_rows(record: Record, name: str, among: Tensor) -> Iterator[Row]:
    """The error rate over the images of `among`, (N,) bool, and its standard deviation over the draws where there are several."""
    n = int(among.sum())
    if not n:
        return
    wrong = float(record.fooled[among].sum()) / record.repeats
    yield WILSON.around(replace(record.about, n=n, metric=name), wrong, n)
    if record.repeats > 1:
        rates = torch.stack([fooled[among].double().mean() for fooled in record.by_repeat.values()])
        yield replace(record.about, n=n, metric=f"{name}/sd", value=float(rates.std()))


def mean(values: Tensor) -> float:
    """The mean of some numbers, nan where there are none."""
    return float(values.mean()) if len(values) else math.nan


def lines(record: Record, ids: Tensor, y: Tensor) -> Iterator[Tried]:
    """The lines of the per-sample table for one level: the images that it was tried on; all of them for the clean images."""
    about, tried = record.about, torch.ones_like(y).bool() if record.about.probe == "clean" else record.clean_pred == y
    for place in tried.nonzero().flatten().tolist():
        yield Tried(
            about.checkpoint, about.probe, about.setting, int(ids[place]), int(y[place]), int(record.clean_pred[place]),
            float(record.fooled[place]) / record.repeats, float(record.share[place]) / record.repeats,
        )  # fmt: skip
