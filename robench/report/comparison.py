"""Two results folders against each other: `compare` and what it returns. It loads no torch, so that the command answers at once."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from robench.core import folders as destinations
from robench.core.errors import InputError
from robench.core.saved_results import ModelResults, load_all_results
from robench.results.compare import ComparisonLine, blind_gate_notes, compare_folders, gate_failures, write_comparison
from robench.results.compare import parse_gates as gates_of
from robench.results.files import frame_of_entries


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs image by image.

    Attributes:
        lines: a `ComparisonLine` for each probe and radius: both accuracies, the difference with its interval, lost and won images, p.
        failures: a sentence for each gate that failed.
        notes: sentences on what differs beside the model, and on gates that could not see a drop.
        base: what lies in the folder BASE, model by model.
        new: what lies in the folder NEW, model by model.
    """

    lines: list[ComparisonLine]
    failures: list[str]
    notes: list[str]
    base: Sequence[ModelResults]
    new: Sequence[ModelResults]

    def to_frame(self) -> pd.DataFrame:
        """The lines as a pandas DataFrame: one probe and radius a line, the columns of `ComparisonLine`."""
        return frame_of_entries(self.lines, ComparisonLine)

    def _repr_html_(self) -> str:
        """The lines for a notebook, with what failed and the notes; whatever is in them is escaped."""
        paragraphs = [f"<p><b>Failed:</b> {html.escape(one)}</p>" for one in self.failures]
        paragraphs += [f"<p>Note: {html.escape(one)}</p>" for one in self.notes]
        return self.to_frame().to_html(index=False, escape=True, na_rep="") + "".join(paragraphs)

    def manifest_identity(self) -> dict[str, Any]:
        """What was compared, for the manifest: what tells the comparison from others, as plain values."""
        return {"command": "compare", "base": self.base[0].manifest, "new": self.new[0].manifest}

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes compare.csv into a folder, as the command line does; returns its path.

        Args:
            folder: is made if need be.

        Raises:
            InputError: where the folder holds results of a run, or files with the names of results.
        """
        path = Path(folder)
        if path.is_dir() and destinations.finished_run_words(path) is not None:
            raise InputError(f"{path} holds a finished run: choose another folder")
        with destinations.claim_destination(path, self.manifest_identity()) as place, place.staged_results() as staging:
            file = write_comparison(staging, self.lines)
        return [path / file.name]


def compare(
    base: str | os.PathLike[str], new: str | os.PathLike[str], gates: str | Sequence[str] = (), alpha: float = 0.05
) -> Comparison:  # fmt: skip
    """Two results folders of attacks, image by image, and whether accuracy fell by more than chance and more than is allowed.

    Args:
        base: a folder that `robench eval`, `robench attack` or `Result.save` has written.
        new: another, of the same images and probes; of runs that stopped early the images in common are compared, of several models
            those of one name.
        gates: what may not happen: "autoattack:drop", "autoattack:drop>1%" or "clean:drop>0.01", one or several; any drop of the last
            probe if none is given.
        alpha: a drop counts if its McNemar p value is at most this, in (0, 1].

    Returns:
        A `Comparison`: lines, failures and notes; `to_frame()`, `save(folder)`; a table in a notebook.

    Raises:
        InputError: one sentence, for folders that cannot be read or compared, and for gates that cannot be read.

    Example:
        >>> import tempfile
        >>> from robench.data import load_images
        >>> images, model = load_images("shapes", "test", n=12), robench.load_model("checkpoints/shapes-cnn-pgd-at.pt")
        >>> folder = tempfile.mkdtemp()
        >>> for seed in (0, 1):
        ...     _ = robench.attack(model, images, recipe="pgd,steps=3", seed=seed).save(f"{folder}/{seed}")
        >>> found = robench.compare(f"{folder}/0", f"{folder}/1", gates="pgd:drop>20%")
        >>> [line.probe for line in found.lines], found.failures
        (['clean', 'pgd'], [])
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha <= 1:
        raise InputError(f"alpha (--alpha) must be a number above 0 and at most 1, not {alpha!r}")
    before, after = load_all_results(Path(base)), load_all_results(Path(new))
    lines, notes = compare_folders(before, after)
    sentences = [gate for words in ([gates] if isinstance(gates, str) else gates) for gate in words.split(",")]
    parsed_gates = gates_of(sentences, list(dict.fromkeys(line.probe for line in lines)))
    return Comparison(
        lines, gate_failures(parsed_gates, lines, alpha), [*notes, *blind_gate_notes(parsed_gates, lines[0].n, alpha)], before, after
    )
