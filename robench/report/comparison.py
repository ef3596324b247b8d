"""Results folders against each other: `compare` and what it returns. It loads no torch, so that the command answers at once."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from robench.core import folders as destinations
from robench.core.errors import InputError
from robench.core.rows import Row, setting_dict
from robench.results.compare import ComparedRow, ComparisonLine, RunImages, RunPair, run_images, run_pair, write_comparison
from robench.results.files import frame_of_entries
from robench.results.gates import CANNOT_TELL, FELL, HELD, NOT_FELL, GateResult, default_gates, gate_results, parse_gates, untested_notes
from robench.results.image_values import CLASS_METRIC
from robench.results.saved_runs import FINISHED, RunFolder, manifest_content, run_folders
from robench.results.seed_means import SeedLine

SINGLE_CORRUPTION_METRICS = ("ce", "relative_ce", "relative_error", "reference_accuracy")
LAST = 7  # runs of a folder that NEW is compared with


@dataclass(frozen=True, eq=False)
class Comparison:
    """A run against one or several earlier ones, image by image.

    Attributes:
        pairs: NEW with each base, the latest base last.
        gates: what each gate says of each row that it matches, against each base.
        notes: sentences on what differs beside the model, and on runs that were left out.
        alpha: the chance of any false alarm among all gates.
    """

    pairs: Sequence[RunPair]
    gates: Sequence[GateResult]
    notes: Sequence[str]
    alpha: float

    @property
    def lines(self) -> list[ComparisonLine]:
        """A `ComparisonLine` for each row that NEW shares with the latest base."""
        return self.lines_with(self.pairs[-1])

    def lines_with(self, pair: RunPair) -> list[ComparisonLine]:
        """A `ComparisonLine` for each row that NEW shares with a base.

        Args:
            pair: one of `pairs`.
        """
        return [one.line(self.interval_alpha) for one in pair.compared]

    @property
    def interval_alpha(self) -> float:
        """1 minus the level of the intervals: alpha, or 0.05 where alpha is 1."""
        return self.alpha if self.alpha < 1 else 0.05

    @property
    def failures(self) -> list[str]:
        """A sentence for each gate that fell."""
        return [result.sentence for result in self.gates if result.verdict == FELL]

    @property
    def warnings(self) -> list[str]:
        """A sentence for each gate of which the images cannot tell whether it fell or held."""
        return [result.sentence for result in self.gates if result.verdict == CANNOT_TELL]

    @property
    def verdict(self) -> str:
        """The verdict of all gates: "fell" where one fell, else "cannot tell" where one cannot, "held" where one held, or "not fell"."""
        verdicts = {result.verdict for result in self.gates}
        return next((verdict for verdict in (FELL, CANNOT_TELL, HELD) if verdict in verdicts), NOT_FELL)

    @cached_property
    def seed_lines(self) -> list[SeedLine]:
        """The rows of groups of seeds against the latest base, tested over images and over seeds; none without such groups."""
        return self.pairs[-1].seed_lines(self.interval_alpha)

    def headlines(self) -> list[ComparedRow]:
        """The rows that a table shows which shall not be long: those of gates, and the others but for single levels and classes."""
        gated = {id(result.compared) for result in self.gates}
        return [one for one in self.pairs[-1].compared if id(one) in gated or is_headline(one.row)]

    @property
    def tests(self) -> int:
        """How many tests the gates made: the size of the family of Holm's procedure."""
        return sum(result.compared is not None for result in self.gates)

    @property
    def new(self) -> RunImages:
        """The run that is compared."""
        return self.pairs[-1].new

    def to_frame(self) -> pd.DataFrame:
        """The lines as a pandas DataFrame: one row a line, the columns of `ComparisonLine`."""
        return frame_of_entries(self.lines, ComparisonLine)

    def _repr_html_(self) -> str:
        """The lines for a notebook, with what failed and the notes; whatever is in them is escaped."""
        paragraphs = [f"<p><b>Failed:</b> {html.escape(one)}</p>" for one in self.failures]
        paragraphs += [f"<p>Cannot tell: {html.escape(one)}</p>" for one in self.warnings]
        paragraphs += [f"<p>Note: {html.escape(one)}</p>" for one in self.notes]
        return self.to_frame().to_html(index=False, escape=True, na_rep="") + "".join(paragraphs)

    def manifest_identity(self) -> dict[str, Any]:
        """What was compared, for the manifest: what tells the comparison from others, as plain values."""
        bases = [finite_manifest(pair.base.run.manifest) for pair in self.pairs]
        return {"command": "compare", "base": bases[0] if len(bases) == 1 else bases, "new": finite_manifest(self.new.run.manifest)}

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
            file = write_comparison(staging, self.all_lines())
        return [path / file.name]

    def all_lines(self) -> list[ComparisonLine]:
        """The lines against every base, the latest base last."""
        return [line for pair in self.pairs for line in self.lines_with(pair)]


def finite_manifest(manifest: Mapping[str, Any]) -> Any:
    """What a manifest holds, with None for numbers that JSON does not know: somebody else's may have 1e999."""
    return json.loads(json.dumps(manifest), parse_constant=lambda _: None)


def is_headline(row: Row) -> bool:
    """Whether a row is of the few that are shown of every comparison: no level of a corruption or probe, and no single class."""
    words = setting_dict(row.setting)
    return not ({"severity", "t", "colour"} & {*words}) and row.metric not in (CLASS_METRIC, *SINGLE_CORRUPTION_METRICS)


def compare(
    base: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], new: str | os.PathLike[str], gates: str | Sequence[str] = (),
    alpha: float = 0.05, last: int | None = None,
) -> Comparison:  # fmt: skip
    """A run against one or several earlier ones, image by image, and whether anything became worse by more than chance and is allowed.

    Args:
        base: a results folder of `robench eval`, `attack`, `saliency`, `corrupt` or `Result.save`; several of them, the latest last; or a
            folder of such folders, of which the last ones before NEW are taken.
        new: another, of the same images and attacks; of runs that stopped early the images in common are compared, of several models
            those of one name.
        gates: what may not happen: "autoattack:drop", "autoattack:drop>1%", "gini@method=saliency:rise>0.02", "worst-class:drop>3%" or
            "flag:*", one or several; any change for the worse of the verdict if none is given.
        alpha: the chance of any false alarm among all gates, in (0, 1].
        last: how many runs of a folder of folders count; 7 if not given.

    Returns:
        A `Comparison`: lines, gates with their verdicts, failures, warnings and notes; `to_frame()`, `save(folder)`; a table in a notebook.

    Raises:
        InputError: one sentence, for folders that cannot be read or compared, and for gates that cannot be read.

    Example:
        >>> import tempfile
        >>> from robench.data import load_images
        >>> images, model = load_images("shapes", "test", n=12), robench.load_model("checkpoints/shapes-cnn-pgd-at.pt")
        >>> folder = tempfile.mkdtemp()
        >>> for seed in (0, 1):
        ...     _ = robench.attack(model, images, recipe="pgd,steps=3", seed=seed).save(f"{folder}/{seed}")
        >>> found = robench.compare(f"{folder}/0", f"{folder}/1", gates="pgd:drop>90%")
        >>> [line.probe for line in found.lines][:2], found.verdict
        (['clean', 'pgd'], 'held')
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha <= 1:
        raise InputError(f"alpha (--alpha) must be a number above 0 and at most 1, not {alpha!r}")
    sentences = [gate for words in ([gates] if isinstance(gates, str) else gates) for gate in words.split(",")]
    if sentences and not any(map(str.strip, sentences)):
        raise InputError("gates (--fail-on) names no gate: write one, such as autoattack:drop>1%, or leave the option out")
    asked = parse_gates(filter(str.strip, sentences))
    folders = [Path(base)] if isinstance(base, (str, os.PathLike)) else [Path(one) for one in base]
    after = run_images(Path(new))
    pairs, notes = pairs_with(folders, after, last)
    rows = [one.row for one in pairs[-1].compared]
    chosen = asked or default_gates(rows)
    results = gate_results(chosen, pairs, alpha)
    notes += untested_notes(chosen, pairs)
    notes += pairs[-1].notes
    return Comparison(pairs, results, [*notes, *best_notes(results, pairs)], alpha)


def pairs_with(folders: Sequence[Path], new: RunImages, last: int | None) -> tuple[list[RunPair], list[str]]:
    """NEW with each base, and notes on the runs of a folder of folders that were left out."""
    if len(folders) == 1 and not (folders[0] / destinations.MANIFEST).exists():
        runs = run_folders(folders[0]) if folders[0].is_dir() else []
        if [one for one in runs if one.folder != folders[0]] or last is not None:
            return last_pairs(folders[0], runs, new, LAST if last is None else last)
    if last is not None:
        raise InputError("--last counts the runs of one folder of results folders: name that folder alone before NEW, or leave --last out")
    same = [folder for folder in folders if folder.resolve() == new.run.folder.resolve()]
    if same and len(folders) > 1:
        raise InputError(f"{same[0]} is both a base and NEW")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("one base is named twice: name each once, the latest last, and NEW behind them")
    return [named_pair(folder, new, len(folders) > 1) for folder in folders], []


def named_pair(folder: Path, new: RunImages, is_one_of_several: bool) -> RunPair:
    """NEW with one base; of several, an error names it."""
    base = run_images(folder)
    try:
        return run_pair(base, new, is_one_of_several)
    except InputError as error:
        raise InputError(f"{folder} as BASE: {error}" if is_one_of_several else str(error)) from None


def last_pairs(folder: Path, runs: Sequence[RunFolder], new: RunImages, last: int) -> tuple[list[RunPair], list[str]]:
    """NEW with the last runs below a folder that ended before it and can be compared with it; what is left out is named."""
    if last < 1:
        raise InputError(f"--last must be at least 1, not {last}")
    notes = [f"{one.folder} is left out: {one.reason}" for one in runs if one.state != FINISHED]
    others = [one.folder for one in runs if one.state == FINISHED and one.folder.resolve() != new.run.folder.resolve()]
    pairs: list[RunPair] = []
    for ended, path in sorted(((finished_at(path), path) for path in others), reverse=True):
        if ended > new.run.finished:
            notes.append(f"{path} is left out: it ended after NEW")
        elif len(pairs) < last:
            try:
                pairs.append(run_pair(run_images(path), new))
            except InputError as error:
                notes.append(f"{path} is left out: {error}")
    if not pairs:
        reason = f" ({notes[0]})" if notes else ""
        raise InputError(f"no finished run below {folder} can be compared with {new.run.folder}{reason}")
    return [replace(pair, is_one_of_several=len(pairs) > 1) for pair in reversed(pairs)], notes


def finished_at(folder: Path) -> str:
    """When a run ended; "" where that is not known."""
    try:
        return str(manifest_content(folder / destinations.MANIFEST).get("finished", ""))
    except InputError:
        return ""


def best_notes(results: Sequence[GateResult], pairs: Sequence[RunPair]) -> list[str]:
    """For each row whose gate fell against the best of several bases, a sentence that names it."""
    if len(pairs) < 2:
        return []
    groups: dict[tuple[Any, ...], list[GateResult]] = {}
    for result in results:
        if result.compared is not None:
            groups.setdefault((result.gate, result.compared.row), []).append(result)
    notes = []
    for (gate, _), some in groups.items():
        sign = 1 if gate.direction == "drop" else -1
        best = max(some, key=lambda result: sign * result.compared.base if result.compared else 0.0)
        if best.verdict == FELL:
            line = best.compared.line() if best.compared else None
            change = f" by {best.compared.row.metric} from {line.base:.4g} to {line.new:.4g}" if best.compared and line else ""
            notes.append(f"since the best of {len(some)} runs, {best.pair.base_name}, the gate {gate.sentence} fell{change}")
    return notes
