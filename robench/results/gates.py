"""Gates: what may not happen between two runs, as the user spells it, which rows it is about, and what the numbers say of it.

A gate with a tolerance says one of three things of each row that it matches: it *fell* (the change is significantly more than the
tolerance), it *held* (the interval of the change excludes the tolerance), or the images *cannot tell*. A gate of any change, and one of
flags, knows only fell and not fell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from robench.core.errors import InputError
from robench.core.paired import POWER, SCORE, VERDICT, WORST_CLASS, detectable_difference, holm, images_needed, least_class, p_of_margin
from robench.core.recipes import ON_SEPARATOR, did_you_mean, eps_text, parse_fraction
from robench.core.rows import CLEAN, OVERALL_PROBE, WORST_NORM, Row, setting_dict
from robench.core.statistics import LEAST_VALUES
from robench.results.compare import ComparedRow, RunPair
from robench.results.image_values import CLASS_METRIC, WORST_CLASS_METRIC
from robench.results.named_rows import METRIC_ALIASES, name_and_words

GATE = re.compile(
    r"(?P<name>.+?)\s*:\s*(?P<direction>drop|rise)\s*"
    r"(?:>\s*(?P<number>[0-9]*\.?[0-9]+|[0-9]+/[0-9]+)\s*(?P<percent>%?))?"
)
FORM = "write NAME:drop, NAME:drop>1%, NAME:rise>0.02, NAME@KEY=VALUE:drop>1%, or flag:NAME"
DROP, RISE, FLAG = "drop", "rise", "flag"
FELL, HELD, CANNOT_TELL, NOT_FELL = "fell", "held", "cannot tell", "not fell"
MOST_NEEDED = 10_000_000  # a number of images above it is not told


@dataclass(frozen=True)
class Gate:
    """What may not happen: a number may drop, or rise, by `tolerance` at most.

    The tolerance is kept exact, so that 0.7 % of 1,000 images are 7.

    Attributes:
        name: of the rows that it is about: a probe, whose accuracies they are, or a metric; of a flag its name or "*".
        direction: "drop", "rise" or "flag".
        tolerance: in the unit of the number, at least 0.
        where: what a row must have besides, as (key, value): norm, eps, probe, metric, method, class, checkpoint or a word of its setting.
        sentence: as the user wrote it.
    """

    name: str
    direction: str
    tolerance: Fraction
    where: tuple[tuple[str, str], ...] = ()
    sentence: str = field(default="", compare=False)


@dataclass(frozen=True, eq=False)
class GateResult:
    """What one gate says of one row against one base.

    Attributes:
        gate: the gate.
        pair: the runs.
        compared: the row in both; None for flags.
        p: the p value of a change beyond the tolerance, adjusted for all tests of the call; nan for flags.
        verdict: "fell", "held", "cannot tell" or "not fell".
        sentence: the numbers behind it.
    """

    gate: Gate
    pair: RunPair
    compared: ComparedRow | None
    p: float
    verdict: str
    sentence: str


# --- reading them


def parse_gates(sentences: Iterable[str]) -> list[Gate]:
    """The gates that sentences spell, each once.

    Args:
        sentences: each `NAME:drop`, `NAME:drop>1%`, `NAME:rise>0.02`, `NAME@KEY=VALUE:drop>1%` (several @ for several keys) or `flag:NAME`.

    Raises:
        InputError: for what cannot be read, and for a tolerance that divides by zero.

    Example:
        >>> parse_gates(["pgd@norm=l2:drop>1%"])[0].where
        (('norm', 'l2'),)
    """
    return list(dict.fromkeys(map(parse_gate, sentences)))


def parse_gate(sentence: str) -> Gate:
    """The gate that one sentence spells."""
    text = sentence.strip()
    if flag := re.fullmatch(r"flag\s*:\s*(\S+)", text):
        return Gate(flag[1], FLAG, Fraction(0), sentence=text)
    match = GATE.fullmatch(text)
    named = name_and_words(match["name"]) if match else None
    if match is None or named is None:
        raise InputError(f"cannot read the gate {sentence!r}: {FORM}")
    try:
        tolerance = Fraction(match["number"] or 0) / (100 if match["percent"] else 1)
    except ZeroDivisionError:
        raise InputError(f"the gate {sentence!r} divides by zero") from None
    return Gate(named[0], match["direction"], tolerance, named[1], text)


def default_gates(rows: Sequence[Row]) -> list[Gate]:
    """The gate of a call without one: that the verdict of the runs does not change for the worse at all.

    The verdict is what is left after the last attack or the suite on the images as they are (under several threats of each and of the
    worst), else the error over all corruptions, else the flip probability over all sequences, else the accuracy after each probe, else
    the clean accuracy.

    Args:
        rows: those that both runs have.
    """
    attacks = [row.probe for row in rows if row.metric == "accuracy" and row.norm and ON_SEPARATOR not in row.probe]
    if attacks:
        return [Gate(attacks[-1], DROP, Fraction(0), sentence=f"{attacks[-1]}:drop")]
    errors = [row.metric for row in rows if row.probe == OVERALL_PROBE and row.metric in ("mean_corruption_error", "mean_error")]
    if errors:
        return [Gate(errors[0], RISE, Fraction(0), sentence=f"{errors[0]}:rise")]
    if any(row.metric == "mean_flip_probability" for row in rows):
        return [Gate("mean_flip_probability", RISE, Fraction(0), sentence="mean_flip_probability:rise")]
    probes = [row.probe for row in rows if row.metric == "accuracy" and row.probe != CLEAN]
    return [Gate(name, DROP, Fraction(0), sentence=f"{name}:drop") for name in dict.fromkeys(probes or [CLEAN])]


# --- which rows they are about


def row_keys(row: Row) -> dict[str, str]:
    """What a row can be picked by: the words of its setting, its columns, and the name of its saliency method."""
    words = setting_dict(row.setting)
    return {
        **words, "checkpoint": row.checkpoint, "norm": row.norm, "eps": repr(row.eps), "probe": row.probe, "metric": row.metric,
        "method": row.probe, "data": row.data, "split": row.split,
    }  # fmt: skip


def matches(gate: Gate, row: Row) -> bool:
    """Whether a gate is about a row.

    Args:
        gate: the gate.
        row: the row.
    """
    name = METRIC_ALIASES.get(gate.name, gate.name)
    named = row.metric == name or (row.probe == name and row.metric == "accuracy")
    keys = row_keys(row)
    return named and all(key in keys and is_value(key, keys[key], value) for key, value in gate.where)


def is_value(key: str, cell: str, value: str) -> bool:
    """Whether a cell is what the user wrote; radii are compared as numbers."""
    if key != "eps":
        return cell == value
    try:
        return math.isclose(float(cell), parse_fraction(value), rel_tol=1e-6, abs_tol=1e-12)
    except ValueError:
        return False


def matched_rows(gate: Gate, compared: Sequence[ComparedRow]) -> list[ComparedRow]:
    """The rows that a gate is about.

    Raises:
        InputError: where there is none, and where the gate could never fail.
    """
    name = METRIC_ALIASES.get(gate.name, gate.name)
    rows = [one for one in compared if matches(gate, one.row)]
    if not rows:
        raise InputError(no_row_sentence(gate, name, [one.row for one in compared]))
    if gate.tolerance >= 1 and all(one.values.kind != SCORE and one.values.unit <= 1 for one in rows):
        raise InputError(
            f"the gate {gate.sentence!r} can never fail: no accuracy changes by more than 100 %; one percent is written {gate.direction}>1%"
        )
    return rows


def rows_in_some(gate: Gate, pair: RunPair, pairs: Sequence[RunPair]) -> list[ComparedRow]:
    """The rows that a gate is about against one base; none where that base has no such row, but another one has.

    Raises:
        InputError: where no base has one.
    """
    if not any(matches(gate, one.row) for one in pair.compared) and any(
        matches(gate, one.row) for other in pairs for one in other.compared
    ):
        return []
    return matched_rows(gate, pair.compared)


def untested_notes(gates: Sequence[Gate], pairs: Sequence[RunPair]) -> list[str]:
    """A sentence for each gate and base that has no row for it, where another base has one.

    Args:
        gates: those of the call.
        pairs: NEW with each base.
    """
    return [
        f"{pair.base_name} has no row for the gate {gate.sentence!r}, which is not tested against it"
        for gate in gates
        for pair in pairs
        if gate.direction != FLAG and not rows_in_some(gate, pair, pairs)
    ]


def no_row_sentence(gate: Gate, name: str, rows: Sequence[Row]) -> str:
    """Why a gate is about no row that both runs have."""
    known = dict.fromkeys([*(row.probe for row in rows if row.metric == "accuracy"), *(row.metric for row in rows)])
    if name not in known:
        scored = list(dict.fromkeys(row.metric for row in rows if row.probe == name))
        if scored:
            return f"{name!r} has no accuracy: name its number, as {scored[0]}@probe={name}:{gate.direction}"
        return f"no probe or metric {gate.name!r} was measured in both runs{did_you_mean(gate.name, known)}"
    mine = [row_keys(row) for row in rows if row.metric == name or (row.probe == name and row.metric == "accuracy")]
    for key, value in gate.where:
        values = list(dict.fromkeys(keys[key] for keys in mine if key in keys))
        if not values:
            return f"the rows of {gate.name!r} have no {key!r}{did_you_mean(key, dict.fromkeys(k for keys in mine for k in keys))}"
        if not any(is_value(key, cell, value) for cell in values):
            shown = [eps_text(float(cell)) if key == "eps" else cell or "none" for cell in values]
            return f"the rows of {gate.name!r} have no {key} {value!r}: there is {', '.join(shown[:8])}"
    return f"no row of {gate.name!r} has all of {', '.join(f'{key}={value}' for key, value in gate.where)}"


def refuse_contradictions(matched: Mapping[Gate, Sequence[ComparedRow]]) -> None:
    """Raises InputError where two gates allow one row different changes in the same direction."""
    seen: dict[tuple[int, str], Gate] = {}
    for gate, rows in matched.items():
        for one in rows:
            other = seen.setdefault((id(one), gate.direction), gate)
            if other.tolerance != gate.tolerance:
                raise InputError(
                    f"the gates {other.sentence!r} and {gate.sentence!r} allow {row_text(one.row)} different changes: keep one of them"
                )


# --- what the numbers say


def gate_results(gates: Sequence[Gate], pairs: Sequence[RunPair], alpha: float) -> list[GateResult]:
    """What all gates say of all rows that they match, against every base.

    The tests of one call are one family: their p values are adjusted by Holm's procedure, so that the chance of any false alarm is at
    most alpha. That a gate held is said at level alpha each: to say so of all that held needs no adjustment.

    Args:
        gates: each is tested at every row that it matches.
        pairs: the runs, one pair a base.
        alpha: of the family, in (0, 1].

    Returns:
        Base by base, in the order of the gates and rows; flags last.

    Raises:
        InputError: for a gate that names nothing, and for gates that contradict each other.
    """
    tests: list[tuple[Gate, RunPair, ComparedRow]] = []
    for pair in pairs:
        matched = {gate: rows for gate in gates if gate.direction != FLAG and (rows := rows_in_some(gate, pair, pairs))}
        refuse_contradictions(matched)
        tests += [(gate, pair, one) for gate, rows in matched.items() for one in rows]
    adjusted = holm([p_of_change(gate, one) for gate, _, one in tests])
    results = [tested_gate(gate, pair, one, p, alpha, len(tests)) for (gate, pair, one), p in zip(tests, adjusted, strict=True)]
    return results + [result for pair in pairs for gate in gates if gate.direction == FLAG for result in flag_results(gate, pair)]


def margin_of(gate: Gate) -> float:
    """The difference NEW - BASE that a gate just allows."""
    return float(gate.tolerance) * (-1 if gate.direction == DROP else 1)


def is_beyond(gate: Gate, one: ComparedRow) -> bool:
    """Whether the change that was found is more than a gate allows; of verdicts counted in whole images."""
    values = one.values
    sign = -1 if gate.direction == DROP else 1
    if values.kind == VERDICT:
        return Fraction(sign * round(float((values.new - values.base).sum())), values.n) > gate.tolerance
    return sign * values.difference > float(gate.tolerance) + 1e-12


def p_of_change(gate: Gate, one: ComparedRow) -> float:
    """The p value of a change beyond the tolerance; 1 where there is none."""
    return p_of_margin(one.values, margin_of(gate)) if is_beyond(gate, one) else 1.0


def tested_gate(gate: Gate, pair: RunPair, one: ComparedRow, p: float, alpha: float, tests: int) -> GateResult:
    """What one gate says of one row."""
    plain = p_of_margin(one.values, margin_of(gate)) if one.values.n else 1.0
    beyond = is_beyond(gate, one)
    if beyond and p <= alpha:
        verdict = FELL
    elif not gate.tolerance:
        verdict = NOT_FELL
    else:
        verdict = HELD if not beyond and plain <= alpha else CANNOT_TELL
    return GateResult(gate, pair, one, p, verdict, result_sentence(gate, pair, one, verdict, (plain, p), alpha, tests))


def result_sentence(
    gate: Gate, pair: RunPair, one: ComparedRow, verdict: str, p_values: tuple[float, float], alpha: float, tests: int
) -> str:  # fmt: skip
    """The numbers behind a verdict in a sentence."""
    level = alpha if alpha < 1 else 0.05
    line, unit = one.line(level), "" if one.values.kind == SCORE else " points"
    scale, sign = 1 if one.values.kind == SCORE else 100, -1 if gate.direction == DROP else 1
    ends = sorted(sign * end * scale for end in (line.low, line.high))
    interval = (
        f"{100 * (1 - level):g} % interval of the {gate.direction} {change_text(ends[0], scale)} to {change_text(ends[1], scale)}{unit}"
    )
    what = (
        (f"{one.row.checkpoint}: " if len(pair.models) > 1 else "")
        + row_text(one.row)
        + (f" against {pair.base_name}" if pair.is_one_of_several else "")
    )
    numbers = f"from {value_in_percent(line.base, scale)} to {value_in_percent(line.new, scale)}" + (" %" if scale > 1 else "")
    change = f"{change_text(sign * line.difference * scale, scale)}{unit} where at most {float(scale * gate.tolerance):g} may go"
    if verdict == FELL:
        moved = "fell" if gate.direction == DROP else "rose"
        p = p_values_text(one.test_name(bool(gate.tolerance)), p_values, tests)
        return f"{what} {moved} {numbers}, by {change}: {counts_text(one)} ({p}, alpha {alpha:g}; {interval})"
    if verdict == NOT_FELL:
        return f"{what} went {numbers}, no significant {gate.direction}: {detectable_text(one, level / tests, scale, unit)} ({interval})"
    if verdict == HELD:
        return f"{what} held: {numbers}, a {gate.direction} of {change} ({interval})"
    if one.values.kind == SCORE and one.values.n < LEAST_VALUES:
        return f"{what}: {one.values.n} scores cannot tell, {numbers}: at least {LEAST_VALUES} images are needed"
    beyond = is_beyond(gate, one)  # to fall it must be significant among all tests, to hold alone
    needed = needed_text(images_needed(one.values, margin_of(gate), level / tests if beyond else level))
    among = f"; p = {p_values[1]:.2g} after Holm over {tests} tests" if beyond and tests > 1 else ""
    return f"{what}: {one.values.n:,} images cannot tell, {numbers}, a {gate.direction} of {change} ({interval}{among}): {needed}"


def p_values_text(test: str, p_values: tuple[float, float], tests: int) -> str:
    """The p value of a test, and what Holm's procedure makes of it."""
    return f"{test} p = {p_values[0]:.2g}" + (f", {p_values[1]:.2g} after Holm over {tests} tests" if tests > 1 else "")


def needed_text(images: float | None) -> str:
    """How many images would do, in words."""
    if images is None:
        return "no number of images would tell, for the change found is the one allowed"
    return f"about {images:,} images would do" if images < MOST_NEEDED else "no feasible number of images would do"


def counts_text(one: ComparedRow) -> str:
    """How many images changed, in words."""
    values = one.values
    if values.kind == WORST_CLASS:
        classes = [least_class(values.labels, numbers) for numbers in (values.base, values.new)]
        return f"class {classes[0]} is the worst one in BASE and class {classes[1]} in NEW, chosen among {len(values.classes.new)}"
    lost, won = int((values.new < values.base).sum()), int((values.new > values.base).sum())
    if values.kind == VERDICT:
        return f"of {values.n} images {lost} are lost and {won} won"
    return f"of {values.n} images {lost} are lower and {won} higher"


def detectable_text(one: ComparedRow, alpha: float, scale: int, unit: str) -> str:
    """What change the images would have shown."""
    least = detectable_difference(one.values, min(alpha, 0.999))
    if math.isnan(least):
        return f"{one.values.n:,} {'image is' if one.values.n == 1 else 'images are'} too few to find any"
    return f"one of {change_text(least * scale, scale)}{unit} would have been found {round(10 * POWER)} times in 10"


def value_in_percent(value: float, scale: int) -> str:
    """A value in percent, or a score with four digits."""
    return f"{scale * value:.2f}" if scale == 100 else f"{value:.4g}"


def change_text(value: float, scale: int) -> str:
    """A difference in points with two decimals, or of scores with three digits; nothing changed has no sign."""
    return f"{value:z.2f}" if scale == 100 else f"{value + 0.0:.3g}"


def row_text(row: Row, *, with_threat: bool = True) -> str:
    """A row in the words of a sentence: its probe or metric, and what tells it from others of that name.

    Args:
        row: the row.
        with_threat: whether its norm and radius are among them, for one within a norm ball.

    Example:
        >>> from dataclasses import replace
        >>> from robench.core.rows import blank_row
        >>> row_text(replace(blank_row(), probe="pgd-20", metric="accuracy", norm="linf", eps=8 / 255))
        'pgd-20 at linf eps 8/255'
    """
    words = setting_dict(row.setting)
    name = (
        row.probe
        if row.metric in ("accuracy", CLASS_METRIC)
        else row.metric
        if row.probe == OVERALL_PROBE
        else f"{row.metric} of {row.probe}"
    )
    if row.metric == WORST_CLASS_METRIC:
        return f"worst class of {with_threat_text(row, row.probe, with_threat)}"
    name += "".join(f" {key} {words[key]}" for key in ("severity", "t", "colour", "class") if key in words)
    name += f" on {words['images']}" if words.get("images", CLEAN) != CLEAN else ""
    return with_threat_text(row, name, with_threat)


def with_threat_text(row: Row, name: str, with_threat: bool) -> str:
    """A name with the threat behind it."""
    if row.norm == WORST_NORM:
        return f"{name} under the worst threat"
    return name + (f" at {row.norm} eps {eps_text(row.eps)}" if row.norm and with_threat else "")


def flag_results(gate: Gate, pair: RunPair) -> list[GateResult]:
    """What a gate of flags says: it fell where NEW raised a flag that BASE has not.

    Raises:
        InputError: for a flag that no run looked at.
    """
    if gate.name != "*" and gate.name not in pair.known_flags:
        raise InputError(f"no flag {gate.name!r} was looked at in NEW{did_you_mean(gate.name, dict.fromkeys(sorted(pair.known_flags)))}")
    where = f" against {pair.base_name}" if pair.is_one_of_several else ""
    raised = [sentence for name, sentence in pair.new_flags if gate.name in ("*", name)]
    if not raised:
        return [GateResult(gate, pair, None, math.nan, NOT_FELL, f"NEW raised no flag that BASE has not{where}")]
    return [GateResult(gate, pair, None, math.nan, FELL, f"a flag of NEW that BASE has not{where}: {sentence}") for sentence in raised]
