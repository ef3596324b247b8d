"""The rows and samples of cascades of attacks: what is left after each attack, at each radius, in each norm, and under all norms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robench.attacks import attack_facts
from robench.core.recipes import eps_text
from robench.core.rows import CLEAN, SOURCE_ROLE, WILSON, WORST_NORM, Check, IntervalKind, Row, Sample
from robench.runs import diagnostics
from robench.runs.execution import FinishedRun
from robench.runs.images import image_from_json
from robench.runs.ledger import Ledger, Record
from robench.runs.types import Case, Stage

EXAMPLES_SHOWN = 8  # adversarial images of a cascade that are shown


@dataclass(frozen=True, eq=False)
class Cascade:
    """What one subject's images went through in one norm: the stage before, then the attacks, from the smallest radius on.

    Attributes:
        case: the subject with its settings.
        ledger: what is known of all stages.
        stages: (S) the clean pass, or what changed the images before the attacks, and the attacks.
        breakers: (N,) the place in `stages` of what broke the image: 0 where it was wrong before, -1 where it stands.
        seen: (N,) bool, the images that came as far as the first stage.
    """

    case: Case
    ledger: Ledger
    stages: Sequence[Stage]
    breakers: Tensor
    seen: Tensor

    @property
    def n(self) -> int:
        """How many images there are."""
        return int(self.seen.sum())

    @property
    def norm(self) -> str:
        """The norm of its attacks."""
        threat = self.stages[-1].threat
        return threat.norm if threat else ""

    @property
    def images(self) -> str:
        """The images that are attacked: clean, or the stage that changed them."""
        return self.stages[0].name

    def radii(self) -> list[float]:
        """The radii of the attacks, the smallest first."""
        return sorted({stage.threat.eps for stage in self.stages[1:] if stage.threat})

    def standing(self, place: int) -> Tensor:
        """Which images stand after a stage, (N,) bool."""
        return self.seen & ((self.breakers < 0) | (self.breakers > place))

    def standing_count(self, place: int) -> int:
        """How many of the images stand after a stage."""
        return int(self.standing(place).sum())

    def eight_bit_count(self, place: int) -> int:
        """How many of them stand after a stage where x_adv is rounded to 8 bits."""
        again = (self.breakers > 0) & (self.breaker_column("rounded", -1) == self.ledger.y)
        return int((self.standing(place) | (self.seen & again)).sum())

    def record(self, place: int) -> Record:
        """What is known of a stage."""
        return self.ledger.record(self.case.name, self.stages[place])

    def breaker_column(self, name: str, blank: Any) -> Any:
        """A column, (N,), with the value that the attack which broke the image recorded.

        Args:
            name: the column's name in the records of stages.
            blank: the value where no attack broke the image; a str makes the column a list, else it is a tensor.
        """
        column: Any = [blank] * self.ledger.n if isinstance(blank, str) else torch.full((self.ledger.n,), blank)
        for place in range(1, len(self.stages)):
            values = self.record(place).columns.get(name)
            mine = (self.breakers == place) & self.seen
            if values is None or not bool(mine.any()):
                continue
            if isinstance(column, list):
                column = [value if here else old for old, value, here in zip(column, values, mine.tolist(), strict=True)]
            else:
                column = torch.where(mine, values, column.to(values.dtype))
        return column

    def passes(self, place: int, name: str) -> int:
        """The forward or backward passes of a stage, summed over the images."""
        values = self.record(place).columns.get(name)
        return 0 if values is None else int(values[self.seen].clamp_min(0).sum())

    def was_tried(self, place: int) -> Tensor:
        """Which images went through a stage, (N,) bool."""
        return self.ledger.is_done(self.case.name, self.stages[place]) & self.seen


def run_cascades(run: FinishedRun) -> list[Cascade]:
    """The cascades of a run, subject by subject; one of the clean pass alone for each subject where nothing is attacked.

    Args:
        run: a run that has come to its end.
    """
    cascades = []
    for case in run.cases:
        groups: dict[str, list[Stage]] = {}
        for stage in run.stages_of_kind("attack"):
            groups.setdefault(stage.about["cascade"], []).append(stage)
        for attacks in groups.values():
            cascades.append(cascade_of(case, run.ledger, [attacks[0].source or attacks[0].about["clean"], *attacks]))
        if not groups and all(stage.kind == "clean" for stage in run.stages):
            cascades.append(cascade_of(case, run.ledger, run.stages))
    return cascades


def cascade_of(case: Case, ledger: Ledger, stages: Sequence[Stage]) -> Cascade:
    """One cascade from what the ledger knows."""
    breakers = torch.where(ledger.right(case.name, stages[0]), -1, 0)
    for place, stage in enumerate(stages[1:], 1):
        fell = ledger.column(case.name, stage, "fell", False)
        breakers = torch.where(fell & (breakers < 0), place, breakers)
    return Cascade(case, ledger, stages, breakers, ledger.seen & reached_mask(case, ledger, stages[0]))


def reached_mask(case: Case, ledger: Ledger, stage: Stage) -> Tensor:
    """Which images came as far as a stage, (N,) bool, those too that an attack or a probe leaves out as they were wrong before."""
    before = stage.source or stage.about.get("clean") if stage.kind in ("attack", "probe") else None
    return ledger.is_done(case.name, stage) if before is None else reached_mask(case, ledger, before)


def threat_before(stage: Stage | None) -> tuple[str, float]:
    """Norm and radius of the last attack that changed the images of a stage, itself included; "" and 0 where there is none."""
    if stage is None:
        return "", 0.0
    return (stage.threat.norm, stage.threat.eps) if stage.threat else threat_before(stage.source)


def source_row(case: Case, ledger: Ledger, stage: Stage, base: Row, interval: IntervalKind = WILSON) -> Row:
    """The accuracy on the images of a stage that only gives them to others: where these begin."""
    start = cascade_of(case, ledger, [stage])
    norm, eps = threat_before(stage)
    words = f"{case.settings.get(stage.key, '')} {SOURCE_ROLE}".strip()
    return interval.row_with(
        replace(base, n=start.n, probe=stage.name, setting=words, norm=norm, eps=eps, metric="accuracy"), start.standing_count(0), start.n
    )


def cascade_rows(cascade: Cascade, base: Row, suite: str, interval: IntervalKind = WILSON) -> Iterator[Row]:
    """Every attack's rows at every radius, then, for a named suite, its verdict at every radius on the images as they are.

    Args:
        cascade: what the images went through.
        base: the columns that all rows share; its n is replaced.
        suite: the name of the suite, "" where recipes were given.
        interval: how the 95 % intervals of accuracies are found.
    """
    base, suite = replace(base, n=cascade.n), suite if cascade.stages[0].kind == "clean" else ""
    for place in range(len(cascade.stages)):
        if place or cascade.stages[0].kind == "clean":
            yield from cascade_stage_rows(cascade, place, base, interval)
    if radii := cascade.radii():
        yield eight_bit_row(cascade, min(radii), base, suite, interval)
    if suite:
        for eps in cascade.radii():
            yield from verdict_rows(cascade, eps, base, suite, interval)


def cascade_stage_rows(cascade: Cascade, place: int, base: Row, interval: IntervalKind) -> Iterator[Row]:
    """The rows of one stage: accuracy that is left, seconds, passes summed over the samples, and the attack's own success rate.

    Args:
        cascade: what the images went through.
        place: the stage's place in `cascade.stages`.
        base: the columns that all rows share.
        interval: how the 95 % interval of the accuracy is found.
    """
    stage = cascade.stages[place]
    about = replace(base, probe=stage.name, setting=cascade.case.settings.get(stage.key, ""))
    norm, eps = (stage.threat.norm, stage.threat.eps) if stage.threat is not None else ("", 0.0)
    about = replace(about, norm=norm, eps=eps)
    yield interval.row_with(replace(about, metric="accuracy"), cascade.standing_count(place), base.n)
    yield replace(about, metric="seconds", value=float(cascade.record(place).seconds))
    for metric in ("forwards", "backwards"):
        yield replace(about, metric=metric, value=float(cascade.passes(place, metric)))
    tried_count = int(cascade.was_tried(place).sum())
    if stage.threat is not None and tried_count:
        reached_count = int((cascade.record(place).columns["reached"] & cascade.seen).sum())
        yield WILSON.row_with(replace(about, metric="success_rate", n=tried_count), reached_count, tried_count)


def verdict_rows(cascade: Cascade, eps: float, base: Row, suite: str, interval: IntervalKind) -> Iterator[Row]:
    """The suite's own rows at a radius: the accuracy that is left at its end, and the sums of seconds and passes of its attacks there.

    The clean pass is counted with the smallest radius.
    """
    places = places_at_radius(cascade, eps)
    cost_places = [*([0] if eps == min(cascade.radii()) and cascade.stages[0].kind == "clean" else []), *places]
    about = replace(base, probe=suite, norm=cascade.norm, eps=eps)
    yield interval.row_with(replace(about, metric="accuracy"), cascade.standing_count(places[-1]), base.n)
    yield replace(about, metric="seconds", value=float(sum(cascade.record(place).seconds for place in cost_places)))
    for metric in ("forwards", "backwards"):
        yield replace(about, metric=metric, value=float(sum(cascade.passes(place, metric) for place in cost_places)))


def places_at_radius(cascade: Cascade, eps: float) -> list[int]:
    """The places of the attacks at a radius.

    Args:
        cascade: the attacks in one norm.
        eps: the radius, in pixel units.
    """
    return [place for place, stage in enumerate(cascade.stages) if stage.threat is not None and stage.threat.eps == eps]


def eight_bit_row(cascade: Cascade, eps: float, base: Row, suite: str, interval: IntervalKind) -> Row:
    """The accuracy that is left at the smallest radius where every adversarial image is rounded to 8 bits inside the threat.

    Not known at a larger one: what fell before is not attacked there, and may have an image of 8 bits in the larger ball.
    """
    last = places_at_radius(cascade, eps)[-1]
    stage = cascade.stages[last]
    name = suite or stage.name
    about = replace(base, probe=name, setting="" if suite else cascade.case.settings.get(stage.key, ""), norm=cascade.norm, eps=eps)
    return interval.row_with(replace(about, metric="rounded_accuracy"), cascade.eight_bit_count(last), base.n)


def verdict_row(cascade: Cascade, eps: float, base: Row, suite: str) -> Row:
    """The columns of the row that tells what stands after all attacks at a radius: the suite's, else that of the last attack there.

    Args:
        cascade: what the images went through.
        eps: one of its radii.
        base: the columns that all rows share; its n is replaced.
        suite: the name of the suite, "" where recipes were given.
    """
    last = cascade.stages[places_at_radius(cascade, eps)[-1]]
    is_of_suite = bool(suite) and cascade.stages[0].kind == "clean"
    probe, setting = (suite, "") if is_of_suite else (last.name, cascade.case.settings.get(last.key, ""))
    return replace(base, n=cascade.n, norm=cascade.norm, eps=eps, probe=probe, setting=setting)


def worst_row(cascades_of_model: Sequence[Cascade], base: Row, suite: str) -> Iterator[tuple[Row, Tensor]]:
    """The columns of the row of the worst of several threats, and which images stand under all, (N,) bool; nothing for a single threat.

    Args:
        cascades_of_model: the cascades of one subject.
        base: the columns that all rows share; its n is replaced.
        suite: the name of the suite, "" where recipes were given.
    """
    norms = [cascade for cascade in cascades_of_model if cascade.stages[0].kind == "clean"]
    if len(norms) < 2:
        return
    standing = torch.stack([cascade.standing(len(cascade.stages) - 1) for cascade in norms]).all(0)
    threats = ",".join(f"{cascade.norm}:{eps_text(max(cascade.radii()))}" for cascade in norms)
    name = suite or norms[0].stages[-1].name
    yield replace(base, n=norms[0].n, probe=name, setting=f"threats={threats}", norm=WORST_NORM, eps=0.0), standing


def worst_rows(cascades_of_model: Sequence[Cascade], base: Row, suite: str, interval: IntervalKind = WILSON) -> Iterator[Row]:
    """What is left under the worst of several threats, image by image: an image stands that stands under each, at its largest radius.

    The union of threats of Maini et al. (ICML 2020, 1909.04068), and Croce & Hein (ICML 2022, 2105.12508).
    """
    for about, standing in worst_row(cascades_of_model, base, suite):
        yield interval.row_with(replace(about, metric="accuracy"), int(standing.sum()), about.n)


def cascade_samples(cascade: Cascade) -> list[Sample]:
    """The per-sample table of a cascade, one line for each image that was seen.

    Args:
        cascade: what the images went through.
    """
    names = [CLEAN if place == 0 else "" if place < 0 else cascade.stages[place].name for place in cascade.breakers.tolist()]
    threats = [stage.threat for stage in cascade.stages]
    radii = [threat.eps if place > 0 and (threat := threats[place]) else math.nan for place in cascade.breakers.tolist()]
    pred = cascade.record(0).columns.get("pred", torch.full((cascade.ledger.n,), -1))
    blank = torch.full((cascade.ledger.n,), math.nan, dtype=torch.float64)
    margin = cascade.record(0).columns.get("margin", blank)
    fell = cascade.breakers > 0
    totals = {name: passes_by_image(cascade, name) for name in ("forwards", "backwards")}
    columns: Sequence[list[Any]] = [
        cascade.case.pool.ids.tolist(), cascade.ledger.y.tolist(), pred.tolist(),
        torch.where(fell, cascade.breaker_column("pred", -1), pred).tolist(), names, radii, cascade.breaker_column("step", -1).tolist(),
        margin.tolist(), cascade.breaker_column("margin", math.nan).tolist(), cascade.breaker_column("distance", math.nan).tolist(),
        totals["forwards"].tolist(), totals["backwards"].tolist(), cascade.breaker_column("rounded", -1).tolist(),
        cascade.breaker_column("png", ""),
    ]  # fmt: skip
    lines = zip(zip(*columns, strict=True), cascade.seen.tolist(), strict=True)
    return [Sample(*line) for line, is_seen in lines if is_seen]


def passes_by_image(cascade: Cascade, name: str) -> Tensor:
    """The forward or backward passes spent on each image over all stages, (N,)."""
    none = torch.zeros(cascade.ledger.n, dtype=torch.int64)
    return sum((cascade.record(place).columns.get(name, none).clamp_min(0) for place in range(len(cascade.stages))), none)


def examples_of(cascade: Cascade, samples: Sequence[Sample]) -> list[tuple[int, Sample, Tensor]]:
    """The first stored adversarial images, at most EXAMPLES_SHOWN, as (place among the images, line of the per-sample table, x_adv).

    Args:
        cascade: what the images went through.
        samples: the lines of `cascade_samples`.
    """
    line = cascade.seen.cumsum(0) - 1
    examples = {
        int(place): image_from_json(image)
        for stage in cascade.stages[1:]
        for images in cascade.ledger.extras(cascade.case.name, stage, "images")
        for place, image in images.items()
        if bool(cascade.seen[int(place)])
    }
    return [(place, samples[int(line[place])], image) for place, image in sorted(examples.items())[:EXAMPLES_SHOWN]]


def images_before_attack(cascade: Cascade) -> dict[int, Tensor]:
    """What another stage had made of the stored images before they were attacked, (C, H, W) by place; empty where clean ones are attacked.

    Args:
        cascade: what the images went through.
    """
    some = (cascade.ledger.extras(cascade.case.name, stage, "before") for stage in cascade.stages[1:])
    return {int(place): image_from_json(image) for parts in some for images in parts for place, image in images.items()}


def cascade_checks(cascade: Cascade) -> Iterator[Check]:
    """The checks that follow from the results of a cascade."""
    n, ledger, who = cascade.n, cascade.ledger, cascade.case.name
    if cascade.stages[0].kind == "clean":
        yield diagnostics.near_chance_check(cascade.standing_count(0), n, cascade.case.classes)
    attacks: dict[str, list[Stage]] = {}
    for stage in cascade.stages[1:]:
        attacks.setdefault(stage.name, []).append(stage)
    for find in (warning_checks, nonfinite_logit_checks, outside_point_checks):
        for name, stages in attacks.items():
            yield from find(ledger, who, name, stages)
    for eps in cascade.radii():
        accuracies = {cascade.stages[0].name: cascade.standing_count(0) / n}
        accuracies |= {cascade.stages[place].name: cascade.standing_count(place) / n for place in places_at_radius(cascade, eps)}
        attacks_facts = [attack_facts(name.partition(" on ")[0]) for name in accuracies]
        if any(its.black_box and not its.baseline for its in attacks_facts):
            yield diagnostics.black_box_check(accuracies)
    if len(cascade.radii()) > 1:
        curve = [cascade.standing_count(places_at_radius(cascade, eps)[-1]) / n for eps in cascade.radii()]
        yield diagnostics.security_curve_check(cascade.radii(), curve, cascade.norm)


def warning_checks(ledger: Ledger, subject: str, name: str, stages: Sequence[Stage]) -> Iterator[Check]:
    """What an attack or a probe warned of, each sentence once."""
    sentences = dict.fromkeys(sentence for stage in stages for some in ledger.extras(subject, stage, "warnings") for sentence in some)
    yield from (Check(name, "warning", 1.0, True, sentence) for sentence in sentences)


def nonfinite_logit_checks(ledger: Ledger, subject: str, name: str, stages: Sequence[Stage]) -> Iterator[Check]:
    """How many images had logits that are not finite under an attack, if any."""
    if count := sum(number for stage in stages for number in ledger.extras(subject, stage, "nonfinite")):
        yield diagnostics.nonfinite_check(name, count)


def outside_point_checks(ledger: Ledger, subject: str, name: str, stages: Sequence[Stage]) -> Iterator[Check]:
    """How many points of an attack lay outside its threat, if any."""
    parts = [part for stage in stages for part in ledger.extras(subject, stage, "outside")]
    if sum(part[0] for part in parts):
        yield diagnostics.outside_check(name, sum(p[0] for p in parts), max(p[1] for p in parts), sum(p[2] for p in parts))


def source_checks(ledger: Ledger, subject: str, stage: Stage) -> list[Check]:
    """All that is to be told of a stage that only gives its images to others."""
    return [
        check
        for find in (warning_checks, nonfinite_logit_checks, outside_point_checks)
        for check in find(ledger, subject, stage.name, [stage])
    ]


def check_rows(checks: Sequence[Check], base: Row, n: int) -> list[Row]:
    """A row for each check: metric flag/NAME where it is raised, else check/NAME; the value is the evidence."""
    return [
        replace(base, n=n, probe=check.probe, metric=f"{'flag' if check.raised else 'check'}/{check.name}", value=check.value)
        for check in checks
    ]
