"""The rows and samples of probes: error rates of every level on two denominators.

The images right for one model, which no other model can move, and those right for all models of the call, the convention of the papers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robench.core.rows import CLEAN, WILSON, Check, ProbeSample, Row
from robench.results.cascade import threat_before
from robench.runs.execution import FinishedRun
from robench.runs.ledger import Record
from robench.runs.types import Case, Stage


@dataclass(frozen=True, eq=False)
class Rates:
    """One level of a probe for one subject: its draws, one record each, and the images that it was tried on, (N,) bool."""

    about: Row
    case: Case
    draws: Sequence[Record]
    right: Tensor

    @property
    def fooled_share(self) -> Tensor:
        """The share of the draws in which the model was wrong, (N,) float64."""
        return torch.stack([record.columns["fell"].double() for record in self.draws]).sum(0) / len(self.draws)

    @property
    def share(self) -> Tensor:
        """The share of the image that was changed, a mean over the draws, (N,) float64."""
        return torch.stack([record.columns["share"].nan_to_num(0.0) for record in self.draws]).sum(0) / len(self.draws)


def clean_row(run: FinishedRun, case: Case, clean: Stage) -> Row:
    """The clean accuracy of a subject."""
    seen = run.ledger.seen
    right = int((run.ledger.right(case.name, clean) & seen).sum())
    about = replace(case.subject.about, n=int(seen.sum()), seed=case.seed, norm="", eps=0.0, probe=CLEAN, setting="")
    return WILSON.row_with(replace(about, metric="accuracy"), right, about.n)


def rates_of(run: FinishedRun, case: Case, stage: Stage) -> list[Rates]:
    """The levels of a probe for one subject, in the order in which it yields them."""
    ledger = run.ledger
    norm, eps = threat_before(stage)
    about = replace(case.subject.about, n=int(ledger.seen.sum()), seed=case.seed, norm=norm, eps=eps, probe=stage.name)
    groups: dict[str, list[Record]] = {}
    for (level, _), record in ledger.levels(case.name, stage).items():
        groups.setdefault(level, []).append(record)
    right = ledger.was_tried(case.name, stage) & ledger.seen
    options = case.settings[stage.key]
    return [Rates(replace(about, setting=level_setting(level, options)), case, records, right) for level, records in groups.items()]


def level_setting(level: str, options: str) -> str:
    """The setting of a level: its own key=value words, then those of the probe that it does not settle."""
    keys = {word.partition("=")[0] for word in level.split()}
    return " ".join([*level.split(), *(word for word in options.split() if word.partition("=")[0] not in keys)])


def probe_stage_rows(run: FinishedRun, case: Case, stage: Stage) -> Iterator[Row]:
    """The rows of a probe: error rates on both denominators, their spread over the draws, the share changed, seconds and passes.

    The interval is Wilson's over images, at the mean over the draws.
    """
    shared = torch.stack([run.ledger.was_tried(one.name, stage) for one in run.cases]).all(0) & run.ledger.seen
    for rates in rates_of(run, case, stage):
        several = [("error_rate_shared", shared)] if len(run.cases) > 1 else []
        for name, among in (("error_rate", rates.right), *several):
            yield from error_rows(rates, name, among)
        n = int(rates.right.sum())
        yield replace(rates.about, n=n, metric="changed_share", value=mean_or_nan(rates.share[rates.right]))
        yield replace(rates.about, n=n, metric="seconds", value=math.fsum(record.seconds for record in rates.draws))
        for metric in ("forwards", "backwards"):
            passes = sum(int(record.columns[metric][rates.right].clamp_min(0).sum()) for record in rates.draws)
            yield replace(rates.about, n=n, metric=metric, value=float(passes))


def error_rows(rates: Rates, name: str, among: Tensor) -> Iterator[Row]:
    """The error rate over the images of `among`, (N,) bool, and its standard deviation over the draws where there are several."""
    n = int(among.sum())
    if not n:
        return
    yield WILSON.row_with(replace(rates.about, n=n, metric=name), float(rates.fooled_share[among].sum()), n)
    if len(rates.draws) > 1:
        each = torch.stack([record.columns["fell"][among].double().mean() for record in rates.draws])
        yield replace(rates.about, n=n, metric=f"{name}/sd", value=float(each.std()))


def mean_or_nan(values: Tensor) -> float:
    """The mean of some numbers, nan where there are none."""
    return float(values.mean()) if len(values) else math.nan


def probe_samples(run: FinishedRun, case: Case, clean: Stage, stages: Sequence[Stage]) -> Iterator[ProbeSample]:
    """The per-sample table of a subject: a line for each image as it is, then for each level those that it was tried on."""
    ledger, ids, y = run.ledger, run.pool.ids.tolist(), run.ledger.y.tolist()
    pred = ledger.column(case.name, clean, "pred", -1).tolist()
    wrong = (~ledger.right(case.name, clean)).double().tolist()
    for place in ledger.seen.nonzero().flatten().tolist():
        yield ProbeSample(case.subject.name, CLEAN, "", ids[place], y[place], pred[place], wrong[place], 0.0)
    for stage in stages:
        for rates in rates_of(run, case, stage):
            fooled, share, about = rates.fooled_share.tolist(), rates.share.tolist(), rates.about
            for place in rates.right.nonzero().flatten().tolist():
                yield ProbeSample(
                    about.checkpoint, about.probe, about.setting, ids[place], y[place], pred[place], fooled[place], share[place]
                )  # fmt: skip


def probe_warnings(run: FinishedRun, case: Case, stage: Stage) -> list[tuple[Row, Check]]:
    """What a probe warned of, each sentence once, with the row that it belongs to."""
    norm, eps = threat_before(stage)
    about = replace(
        case.subject.about, n=int(run.ledger.seen.sum()), seed=case.seed, norm=norm, eps=eps, probe=stage.name,
        setting=case.settings[stage.key],
    )  # fmt: skip
    sentences = dict.fromkeys(sentence for some in run.ledger.extras(case.name, stage, "warnings") for sentence in some)
    return [(about, Check(stage.name, "warning", 1.0, True, sentence)) for sentence in sentences]
