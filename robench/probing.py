"""Probes of one or several models from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from robench.calls import with_gradients
from robench.inputs import as_seed
from robench.recipes import Recipe
from robench.results.probes import clean_row, noticed, rows_of, samples_of
from robench.rows import Check, Row, Tried
from robench.runs.measure import How, execute
from robench.runs.pools import pool_of
from robench.runs.stages.clean import clean_stage
from robench.runs.stages.probe import probe_stage
from robench.runs.types import Subject, Track, untracked


@dataclass(frozen=True)
class Probing:
    """The result of `probe`: measurements, what became of each image, and raised flags."""

    rows: list[Row]
    samples: list[Tried]
    checks: list[Check]

    @property
    def flags(self) -> list[str]:
        """A sentence for each raised flag."""
        return [f"{check.probe}: {check.sentence}" for check in self.checks]


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
    clean = clean_stage()
    stages = [probe_stage(recipe, clean=clean) for recipe in recipes]
    how = How(as_seed(seed), batch_size, device, track=track)
    found = execute(subjects, pool_of(x, y, ids), [clean, *stages], how)
    rows, flags = list[Row](), list[tuple[Row, Check]]()
    for case in found.cases:
        rows += [clean_row(found, case, clean), *(row for stage in stages for row in rows_of(found, case, stage))]
        flags += [told for stage in stages for told in noticed(found, case, stage)]
    rows += [replace(about, metric=f"flag/{check.name}", value=check.value) for about, check in flags]
    samples = [line for case in found.cases for line in samples_of(found, case, clean, stages)]
    return Probing(rows, samples, list(dict.fromkeys(check for _, check in flags)))
