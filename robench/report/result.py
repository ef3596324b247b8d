"""What a public function returns: a Measurement that a notebook shows, pandas reads, and a folder keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from robench.core import folders as destinations
from robench.core.errors import InputError
from robench.core.inputs import PathLike
from robench.core.recipes import recipe_text
from robench.core.rows import Row
from robench.data import Images
from robench.report.folder import radii_by_norm, save_measurement, threat_description
from robench.report.manifest import NOT_REPEATABLE, new_manifest
from robench.results.corruption_errors import manifest_reference
from robench.results.files import frame_of_entries
from robench.results.image_identities import identity_words
from robench.results.measurement import Measurement
from robench.results.score_rows import layers_of
from robench.results.scores import all_subject_scores
from robench.runs.resuming import recipes_of

ALWAYS = ("probe", "metric", "value")  # columns that a notebook shows in any case
MOST_NOTEBOOK_ROWS = 60  # rows that a notebook shows


@dataclass(frozen=True, eq=False)
class Result(Measurement):
    """What was measured, with the images, which its pictures and its files need.

    Attributes:
        images: the images that were measured on; None where they are not at hand.
        notes_before_run: sentences that were already printed before the run began; `notes` holds them too.
    """

    images: Images | None = None
    notes_before_run: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame: one measurement a line, the columns of `Row`."""
        return frame_of_entries(self.rows, Row)

    def _repr_html_(self) -> str:
        """The rows for a notebook: the columns in which they differ, and probe, metric and value; whatever is in them is escaped."""
        frame = self.to_frame()
        columns = [name for name in frame.columns if name in ALWAYS or frame[name].nunique(dropna=False) > 1]
        remaining = len(frame) - MOST_NOTEBOOK_ROWS
        note = f"<p>{remaining} rows more: to_frame() has all</p>" if remaining > 0 else ""
        return frame[columns].head(MOST_NOTEBOOK_ROWS).to_html(index=False, escape=True, na_rep="") + note

    def save(self, folder: PathLike) -> list[Path]:
        """Writes the files that the command line writes: tables, manifest, pictures, and a page; returns their paths.

        Args:
            folder: is made if need be.

        Raises:
            InputError: where the folder holds results of a run, or files with the names of results.
        """
        path = Path(folder)
        if path.is_dir() and destinations.finished_run_words(path) is not None:
            raise InputError(f"{path} holds a finished run: choose another folder")
        with destinations.claim_destination(path, self.manifest_identity()) as place, place.staged_results() as staging:
            paths = save_measurement(self, staging, title=self.title(), images=self.images, manifest=self.manifest())
        return [path / one.name for one in paths]

    def manifest_identity(self) -> dict[str, Any]:
        """What was measured, for the manifest: what tells the run from others, as plain values."""
        cases, stages = self.run.cases, self.run.stages
        recipes = [[stage.key, *(recipe_text(recipe) for recipe in recipes_of(stage))] for stage in stages]
        return {"command": "python", "subjects": [case.name for case in cases], "seed": self.seed, "stages": recipes}

    @property
    def seed(self) -> int:
        """The seed of all draws."""
        return self.run.cases[0].seed

    def title(self) -> str:
        """Models, images, threat and seed."""
        names = list(dict.fromkeys(row.checkpoint for row in self.rows))
        who = f"{len(names)} models" if len(names) > 1 else names[0] if names and names[0] else "the model"
        ball = threat_description(self) if radii_by_norm(self) else ""
        data = self.data()
        images = " ".join(filter(None, (data["name"], data["split"]))) or "images"
        parts = f"{f'{self.suite} of ' if self.suite else ''}{who} on {images}", f"n = {data['n']}", ball, f"seed {self.seed}"
        return ", ".join(filter(None, parts))

    def data(self) -> dict[str, Any]:
        """What the manifest says of the images."""
        about, seen_count, images = self.run.cases[0].subject.about, int(self.run.ledger.seen.sum()), self.images
        digest = {} if images is None else {"sha256": images.sha256}
        return {"name": about.data, "split": about.split, "n": seen_count, **digest, **identity_words(self.run, images)}

    def manifest(self) -> dict[str, Any]:
        """The manifest of the files: what one must know to measure again."""
        ledger, cases = self.run.ledger, self.run.cases
        records = [record for case in cases for stage in self.run.stages for record in ledger.levels(case.name, stage).values()]
        names = {row.checkpoint for row in self.rows}
        subjects = [case.subject for case in cases if case.subject.name in names]
        checkpoints = [
            {"name": one.name, "sha256": one.sha256, "preset": one.about.preset, "architecture": dict(one.architecture)} for one in subjects
        ]
        layers = layers_of(all_subject_scores(self.run)) if self.run.stages_of_kind("method") else {}
        reference = manifest_reference(self.reference, bool(self.run.stages_of_kind("clean")))
        threats = [{"norm": norm, "eps": radii if len(radii) > 1 else radii[0]} for norm, radii in radii_by_norm(self).items()]
        about: dict[str, Any] = {
            "checkpoint": checkpoints[0] if len(checkpoints) == 1 else checkpoints, "data": self.data(),
            "threat": threats[0] if len(threats) == 1 else threats,
            **({"corruptions": {"reference": reference}} if reference else {}), **({"audit": {"layers": layers}} if layers else {}),
            "notes": self.notes, "not_repeatable": NOT_REPEATABLE,
        }  # fmt: skip
        return new_manifest(cases[0].device, self.seed, math.fsum(record.seconds for record in records), self.flags, **about)
