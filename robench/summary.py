"""From outcomes to the rows that every command writes, and what the results themselves say about their own worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from robench import diagnostics
from robench.outcomes import Outcomes
from robench.rows import WILSON, Check, Interval, Row


def blank() -> Row:
    """A Row whose measurement is still to be filled in."""
    return Row("", "", "", "", 0, 0, "", 0.0, "", "", "", float("nan"))


def rows_of(outcomes: Outcomes, base: Row, suite: str, interval: Interval = WILSON) -> Iterator[Row]:
    """Every probe's rows at every radius, then, for a named suite, its verdict at every radius."""
    base = replace(base, n=int(outcomes.done[0].sum()))
    for stage in range(len(outcomes.stages)):
        yield from measured(outcomes, stage, base, interval)
    if radii := {stage.threat.eps for stage in outcomes.stages[1:]}:
        yield in_eight_bits(outcomes, min(radii), base, suite, interval)
    if suite:
        for eps in sorted({stage.threat.eps for stage in outcomes.stages[1:]}):
            yield from verdict(outcomes, eps, base, suite, interval)


def measured(outcomes: Outcomes, stage: int, base: Row, interval: Interval) -> Iterator[Row]:
    """The rows of one stage: accuracy that is left, seconds, passes summed over the samples, and the attack's own success rate."""
    what, tally = outcomes.stages[stage], outcomes.tallies[stage]
    named = replace(base, probe=what.probe, setting=what.setting, norm=what.threat.norm, eps=what.threat.eps)
    if what.attack is None:
        named = replace(named, norm="", eps=0.0)
    yield interval.around(replace(named, metric="accuracy"), outcomes.left(stage), base.n)
    for metric, value in (("seconds", tally.seconds), ("forwards", tally.forwards), ("backwards", tally.backwards)):
        yield replace(named, metric=metric, value=float(value))
    if what.attack is not None and tally.tried:
        yield WILSON.around(replace(named, metric="success_rate", n=tally.tried), tally.reached, tally.tried)


def verdict(outcomes: Outcomes, eps: float, base: Row, suite: str, interval: Interval) -> Iterator[Row]:
    """The suite's own rows at a radius: the accuracy that is left at its end, and the sums of seconds and passes of its attacks there.

    The clean pass is counted with the smallest radius.
    """
    stages = [i for i, stage in enumerate(outcomes.stages) if stage.threat.eps == eps]
    named = replace(base, probe=suite, norm=outcomes.stages[-1].threat.norm, eps=eps)
    yield interval.around(replace(named, metric="accuracy"), outcomes.left(stages[-1]), base.n)
    for metric in ("seconds", "forwards", "backwards"):
        yield replace(named, metric=metric, value=float(sum(getattr(outcomes.tallies[i], metric) for i in stages)))


def in_eight_bits(outcomes: Outcomes, eps: float, base: Row, suite: str, interval: Interval) -> Row:
    """The accuracy that is left at the smallest radius where every adversarial image is rounded to 8 bits inside the threat.

    Not known at a larger one: what fell before is not attacked there, and may have an image of 8 bits in the larger ball.
    """
    last = max(i for i, stage in enumerate(outcomes.stages) if stage.threat.eps == eps)
    what = outcomes.stages[last]
    named = replace(base, probe=suite or what.probe, setting="" if suite else what.setting, norm=what.threat.norm, eps=eps)
    return interval.around(replace(named, metric="rounded_accuracy"), outcomes.left_in_eight_bits(last), base.n)


def noticed(outcomes: Outcomes) -> Iterator[Check]:
    """The checks that follow from the results."""
    n = int(outcomes.done[0].sum())
    yield diagnostics.near_chance(outcomes.left(0), n, outcomes.classes)
    for probe, sentences in outcomes.warnings.items():
        yield from (Check(probe, "warning", 1.0, True, sentence) for sentence in sentences)
    for probe, count in outcomes.nonfinite.items():
        if count:
            yield diagnostics.nonfinite(probe, count)
    for probe, (count, worst, bad) in outcomes.outside.items():
        if count:
            yield diagnostics.outside(probe, count, worst, bad)
    radii = sorted({stage.threat.eps for stage in outcomes.stages[1:]})
    for eps in radii:
        left = {s.probe: outcomes.left(i) / n for i, s in enumerate(outcomes.stages) if i == 0 or s.threat.eps == eps}
        if any(name == "square" or name.startswith("transfer:") for name in left):
            yield diagnostics.black_box_beats_white_box(left)
    if len(radii) > 1:
        yield curve_of(outcomes, radii, n)


def curve_of(outcomes: Outcomes, radii: Sequence[float], n: int) -> Check:
    """The check of a security curve."""
    last = {stage.threat.eps: i for i, stage in enumerate(outcomes.stages)}
    return diagnostics.curve(radii, [outcomes.left(last[eps]) / n for eps in radii], outcomes.stages[-1].threat.norm)


def check_rows(checks: Sequence[Check], base: Row, n: int) -> list[Row]:
    """A row for each check: metric flag/NAME where it is raised, else check/NAME; the value is the evidence."""
    return [
        replace(base, n=n, probe=check.probe, metric=f"{'flag' if check.raised else 'check'}/{check.name}", value=check.value)
        for check in checks
    ]
