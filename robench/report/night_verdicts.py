"""The gates from one night to the next: which fell, and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from robench.core.errors import InputError
from robench.core.recipes import did_you_mean
from robench.core.rows import CLEAN, OVERALL_PROBE, Row, setting_dict
from robench.report.nights import Failures, FallenGate, Nights
from robench.results.columns import column_of_row
from robench.results.compare import RunImages, RunPair, run_pair
from robench.results.gates import FELL, FLAG, Gate, default_gates, gate_results, matches, parse_gates
from robench.results.image_values import IMAGE_TABLES, images_of_model, sample_tables
from robench.results.saved_runs import SavedRun

JUDGED = 30  # nights of each measurement, the latest, whose gates are tried where that needs more than what attacks left


@dataclass(frozen=True, eq=False)
class NightVerdicts:
    """What the gates say from night to night.

    Attributes:
        failures: (folder, model) -> the gates that fell there.
        notes: a sentence on each measurement whose nights could not be judged.
    """

    failures: Failures
    notes: Sequence[str]


def night_verdicts(nights: Sequence[Nights], sentences: Sequence[str], alpha: float) -> NightVerdicts:
    """The gates that fell from one night to the next: of each measurement all its nights are one family of Holm's procedure.

    Args:
        nights: what `report.nights.nights_of` gives.
        sentences: as `results.gates.parse_gates` reads them; () for any change of the verdict for the worse.
        alpha: of each family, in (0, 1].
    """
    asked = parse_gates(sentences)
    failures: dict[tuple[Path, str], list[FallenGate]] = {}
    every = [row for some in nights for row in some.runs[-1].rows]
    notes = [f"The gate {gate.sentence} names nothing that the last nights have." for gate in asked if every and not is_about(gate, every)]
    for some in nights:
        rows = [row for row in some.runs[-1].rows if row.checkpoint == some.checkpoint]
        gates = [gate for gate in asked if is_about(gate, rows)] if asked else default_gates(rows)
        pairs = list(night_pairs(some, gates, notes)) if gates else []
        try:
            results = gate_results(gates, pairs, alpha) if pairs else []
        except InputError as error:
            notes.append(f"The nights of {some.checkpoint} ({some.what}) are not judged: {error}.")
            continue
        for result in results:
            if result.verdict == FELL:
                about = None if result.compared is None else column_of_row(result.compared.row)
                fallen = FallenGate(about, result.sentence)
                failures.setdefault((result.pair.new.run.folder, some.checkpoint), []).append(fallen)
    return NightVerdicts(failures, notes)


def refuse_idle_gates(nights: Sequence[Nights], sentences: Sequence[str]) -> None:
    """InputError where a gate is about nothing that a page without a base shows.

    Args:
        nights: what `report.nights.nights_of` gives.
        sentences: as `results.gates.parse_gates` reads them.
    """
    if not nights:
        raise InputError(
            "gates (--gate) compare runs, and no two of these are of the same model name, images and suite: name a base (--base)"
        )
    rows = [row for some in nights for row in some.runs[-1].rows]
    for gate in parse_gates(sentences):
        if not is_about(gate, rows):
            known = dict.fromkeys([*(row.probe for row in rows if row.metric == "accuracy"), *(row.metric for row in rows)])
            raise InputError(f"the gate {gate.sentence!r} names nothing that the last nights have{did_you_mean(gate.name, known)}")


def is_about(gate: Gate, rows: Sequence[Row]) -> bool:
    """Whether a gate names one of some rows, or is about flags, which every run may have."""
    return gate.direction == FLAG or any(matches(gate, row) for row in rows)


def night_pairs(nights: Nights, gates: Sequence[Gate], notes: list[str]) -> Iterator[RunPair]:
    """Each night with the one before, of one model; those that cannot be read or compared are noted."""
    attacks_alone = all(row.norm for run in nights.runs for row in run.rows if any(matches(gate, row) for gate in gates))
    known: list[RunImages] = []
    for run in nights.runs if attacks_alone else nights.runs[-JUDGED:]:
        try:
            known.append(night_images(run, nights.checkpoint, gates, attacks_alone))
        except (InputError, ValueError, KeyError) as error:
            notes.append(f"{run.folder.name} is shown without a verdict: {error.args[0] if error.args else error}.")
    for base, new in pairwise(known):
        try:
            yield run_pair(base, new)
        except InputError as error:
            notes.append(f"{new.run.folder.name} is not judged against {base.run.folder.name}: {error}.")


def night_images(run: SavedRun, checkpoint: str, gates: Sequence[Gate], attacks_alone: bool) -> RunImages:
    """What gates need of the images of one model, and no more: a report of a hundred nights reads a hundred of these."""
    rows = [row for row in run.rows if any(gate.direction != FLAG and matches(gate, row) for gate in gates)]
    references = [row for row in run.rows if row.metric.startswith("reference_")]
    tables = sample_tables(run, tables_behind(rows))
    if attacks_alone and "attack" in tables:
        tables = {"attack": tables["attack"]}
    return RunImages(run, [images_of_model(replace(run, rows=(*rows, *references)), checkpoint, tables)])


def tables_behind(rows: Sequence[Row]) -> set[str]:
    """The names of the per-image tables, without .csv, in which the numbers behind some rows stand."""
    names = {"samples"}  # of the kind that was measured first, attacks before all
    for row in rows:
        words = setting_dict(row.setting)
        if row.probe == OVERALL_PROBE or {"severity", "severities"} & {*words}:
            names.add("samples-corruptions")
        elif "difficulty" in words:
            names.add("samples-sequences")
        elif "images" in words:
            names.add("samples-methods")
        elif not row.norm and row.probe != CLEAN:
            return {*IMAGE_TABLES}
    return names
