"""The rows and samples of corruptions: accuracies in every cell, means over cells, errors by a reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robench.core.corruption_names import NINETEEN, CorruptionCell
from robench.core.rows import CLEAN, OVERALL_PROBE, Row
from robench.core.statistics import Values
from robench.results.cascade import threat_before
from robench.results.corruption_errors import Reference, degradation_rows, measured_reference
from robench.runs.execution import FinishedRun
from robench.runs.types import Case, Stage

NEEDS_CLEAN = ("relative_error", "relative_accuracy", "relative_ce", "relative_mce")  # and all rows of the probe clean


def cell_of(stage: Stage) -> CorruptionCell:
    """The corruption and the severity of a stage; the corruption's name says what it was applied to where that is not the clean images.

    Args:
        stage: a stage of kind "corruption".
    """
    return str(stage.about["corruption"]), int(stage.about["severity"])


def right_by_cell(run: FinishedRun, case: Case, stages: Sequence[Stage]) -> dict[CorruptionCell, Values]:
    """What a subject gets right in each cell, (n,) over the images that were seen."""
    seen = run.ledger.seen
    return {cell_of(stage): run.ledger.right(case.name, stage)[seen].double().numpy() for stage in stages}


def right_on_clean(run: FinishedRun, case: Case, cells: Mapping[CorruptionCell, Values]) -> Values:
    """What a subject gets right as it is, (n,); all of them where those images are not known."""
    stages = run.stages_of_kind("clean")
    if stages:
        return run.ledger.right(case.name, stages[0])[run.ledger.seen].double().numpy()
    first: Any = next(iter(cells.values()))
    return np.ones(len(first))


def subject_reference(run: FinishedRun, case: Case, stages: Sequence[Stage]) -> Reference | None:
    """A subject as the model by whose errors others are divided; None without cells."""
    cells = right_by_cell(run, case, [stage for stage in stages if stage.source is None])
    if not cells:
        return None
    return measured_reference("_".join(case.subject.name.split()), right_on_clean(run, case, cells), cells, case.subject.sha256)


def corruption_rows(run: FinishedRun, case: Case, stages: Sequence[Stage], reference: Reference | None = None) -> list[Row]:
    """All rows of one subject under corruptions; of those of images that a stage has changed before, accuracies alone."""
    plain = [stage for stage in stages if stage.source is None]
    rows = rows_of_cells(run, case, plain, reference)
    for source in dict.fromkeys(stage.source for stage in stages if stage.source is not None):
        some = rows_of_cells(run, case, [stage for stage in stages if stage.source is source], None)
        if rows:
            some = [row for row in some if row.probe != CLEAN]
        rows += [row for row in some if row.probe != OVERALL_PROBE and row.metric not in NEEDS_CLEAN]
    return rows


def rows_of_cells(run: FinishedRun, case: Case, stages: Sequence[Stage], reference: Reference | None) -> list[Row]:
    """All rows of one subject in cells that belong together."""
    cells = right_by_cell(run, case, stages)
    if not cells:
        return []
    own, source = case.subject.about, stages[0].about
    settings = {cell_of(stage)[0]: str(stage.about.get("setting", "")) for stage in stages}
    common = shared_setting([words for name, words in settings.items() if name in NINETEEN] or list(settings.values()))
    data, split = str(source.get("data", own.data)), str(source.get("split", own.split))
    about = replace(own, seed=case.seed, norm="", eps=0.0, setting=common, data=data, split=split)
    rows = degradation_rows(about, right_on_clean(run, case, cells), cells, reference)
    differs = {name: words for name, words in settings.items() if words != common}
    rows = [
        replace(row, setting=setting_with_own_words(row.setting, common, differs[row.probe])) if row.probe in differs else row
        for row in rows
    ]
    norm, eps = threat_before(stages[0])
    rows = [row if row.probe == CLEAN else replace(row, norm=norm, eps=eps) for row in rows]
    if run.stages_of_kind("clean"):
        return rows
    return [row for row in rows if row.probe != CLEAN and row.metric not in NEEDS_CLEAN]


def shared_setting(settings: Sequence[str]) -> str:
    """The setting of all, "" where they differ."""
    return settings[0] if len(set(settings)) == 1 else ""


def setting_with_own_words(words: str, common: str, own: str) -> str:
    """A setting that ends with the words of its own corruption in place of those that all have."""
    return f"{words.removesuffix(common).strip()} {own}".strip()


def corruption_columns(run: FinishedRun, cases: Sequence[Case], stages: Sequence[Stage]) -> dict[str, list[Any]]:
    """The per-image table as columns: a line for each subject, corruption and image, with the label that it gets at each severity."""
    ledger, seen = run.ledger, run.ledger.seen
    severities = sorted({severity for _, severity in map(cell_of, stages)})
    table: dict[str, list[Any]] = {name: [] for name in ("checkpoint", "probe", "sample", "label", *(f"pred_{s}" for s in severities))}
    cells = {cell_of(stage): stage for stage in stages}
    clean = run.stages_of_kind("clean")
    n, y, ids = int(seen.sum()), ledger.y[seen].tolist(), run.pool.ids[seen].tolist()
    for case in cases:
        for probe in (*(CLEAN for _ in clean), *dict.fromkeys(name for name, _ in cells)):
            table["checkpoint"] += [case.subject.name] * n
            table["probe"] += [probe] * n
            table["sample"] += ids
            table["label"] += y
            for severity in severities:
                stage = clean[0] if probe == CLEAN else cells.get((probe, severity))
                table[f"pred_{severity}"] += [None] * n if stage is None else ledger.column(case.name, stage, "pred", -1)[seen].tolist()
    return table
