"""What lies in a folder of results, run by run: when, which models, what was measured, the verdict, and what cannot be read and why."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.core.files import json_value
from robench.core.folders import as_written
from robench.core.journal import state_files
from robench.core.recipes import eps_text
from robench.core.rows import CLEAN
from robench.core.saved_results import manifest_value
from robench.report.tables import percent
from robench.results.columns import Column, column_of_row, column_titles, default_columns
from robench.results.saved_runs import FINISHED, UNFINISHED, UNREADABLE, RunFolder, SavedRun, run_folders, saved_run

RECIPE_WORDS = ("suite", "probes", "attacks", "methods", "corruptions")  # under which the words of a run name what was asked for
PERCENTAGES = (
    "mce", "relative_mce", "ce", "relative_ce", "success_rate", "changed_share", "error_rate", "error_rate_shared", "flip_rate", "mfr",
    "relative_top5_distance", "mt5d",
)  # fmt: skip
MOST_HEADER_BYTES = 1 << 20  # of a state that is read for its list entry


@dataclass(frozen=True)
class RunSummary:
    """What is told of one run.

    Attributes:
        folder: where it lies.
        state: "finished", "unfinished" or "unreadable".
        when: when it ended, or was last written, as 2026-11-28T21:53:35Z; "" where that is not known.
        command: what measured it, with what it was asked for, such as "eval full"; "" where that is not known.
        data: data set and split.
        n: number of images; None where it is not known.
        models: the names of the models.
        verdicts: for each model what came out, as a sentence part; none of an unfinished one.
        flags: how many flags were raised.
        reason: why it is not finished or cannot be read, and what to do; "" for a finished one.
    """

    folder: Path
    state: str
    when: str
    command: str = ""
    data: str = ""
    n: int | None = None
    models: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    flags: int = 0
    reason: str = ""

    def plain(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        verdicts = dict(zip(self.models, self.verdicts, strict=False))
        return {
            "folder": str(self.folder), "state": self.state, "when": self.when, "command": self.command, "data": self.data, "n": self.n,
            "models": list(self.models), "verdicts": verdicts, "flags": self.flags, "reason": self.reason,
        }  # fmt: skip


def run_summaries(folder: Path) -> list[RunSummary]:
    """What lies in a folder and below it, the newest last.

    Args:
        folder: such as results/; it may be a run itself.

    Raises:
        InputError: where there is no such folder.
    """
    return sorted(map(summary_of_folder, run_folders(folder)), key=lambda one: (one.when, str(one.folder)))


def summary_of_folder(entry: RunFolder) -> RunSummary:
    """What is told of one folder; whatever lies in it, it gives a line."""
    if entry.state == UNFINISHED:
        return unfinished_summary(entry)
    if entry.state == FINISHED:
        try:
            return finished_summary(saved_run(entry.folder))
        except InputError as error:
            entry = RunFolder(entry.folder, UNREADABLE, str(error))
    return RunSummary(entry.folder, entry.state, last_write(entry.folder / "manifest.json"), reason=entry.reason)


def finished_summary(run: SavedRun) -> RunSummary:
    """What is told of a finished run."""
    first, n = run.rows[0], manifest_value(run.manifest, "data.n")
    names = tuple(run.checkpoints)
    verdicts = tuple(verdict_text(run, name) for name in names)
    data = " ".join(filter(None, (first.data, first.split)))
    n = n if isinstance(n, int) and not isinstance(n, bool) else first.n
    return RunSummary(run.folder, FINISHED, run.finished, command_text(run), data, n, names, verdicts, len(run.flags))


def verdict_text(run: SavedRun, name: str) -> str:
    """What came out for one model: the clean accuracy and the last robust one, or what the run is of."""
    rows = [row for row in run.rows if row.checkpoint == name]
    columns = default_columns([rows])
    values = {column_of_row(row): row.value for row in rows}
    robust, others = [one for one in columns if one.norm][-1:], [one for one in columns if not one.norm and one.probe != CLEAN][:1]
    shown = [one for one in columns if one.probe == CLEAN][:1] + (robust or others)
    return ", ".join(f"{title} {number_text(column, values[column])}" for title, column in zip(column_titles(shown), shown, strict=True))


def number_text(column: Column, value: float) -> str:
    """A number as it is read: shares in percent, scores with four digits."""
    return "-" if math.isnan(value) else f"{percent(value)} %" if is_percentage(column.metric) else f"{value:.4g}"


def is_percentage(metric: str) -> bool:
    """Whether a metric is a share, which people read in percent.

    Args:
        metric: as in `Row`.
    """
    return metric in PERCENTAGES or metric.endswith(("accuracy", "_error", "_error_19", "flip_probability"))


def command_text(run: SavedRun) -> str:
    """The command of a run with what it was asked for."""
    words = run.manifest.get("words")
    asked = next((words[key] for key in RECIPE_WORDS if words.get(key)), "") if isinstance(words, Mapping) else ""
    each = asked if isinstance(asked, list) else [asked]
    try:
        return " ".join(filter(None, (run.command, ",".join(filter(None, map(as_written, each))))))
    except (TypeError, ValueError, KeyError, AttributeError):  # words of another shape than ours
        return run.command


def unfinished_summary(entry: RunFolder) -> RunSummary:
    """What is told of an unfinished run: what its state says that it is of, and how it goes on."""
    files = state_files(entry.folder)
    header = state_header(files[0]) if files else {}
    subjects, threats, n = header.get("subjects"), header.get("threats"), header.get("n")
    names = tuple(map(str, subjects)) if isinstance(subjects, list) else ()
    return RunSummary(
        entry.folder, UNFINISHED, max(map(last_write, files), default=""), threats_of_state(threats), str(header.get("data") or ""),
        n if isinstance(n, int) else None, names, reason=entry.reason,
    )  # fmt: skip


def state_header(file: Path) -> Mapping[str, Any]:
    """The first line of a state, {} where it is none; nothing else is read of it."""
    try:
        with file.open("rb") as handle:
            content = json_value(handle.readline(MOST_HEADER_BYTES))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}


def threats_of_state(threats: object) -> str:
    """Under which threats an unfinished run attacks, as its state tells; "" where it does not."""
    pairs = threats if isinstance(threats, list) else []
    known = [pair for pair in pairs if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], float)]
    return ", ".join(f"{norm} {eps_text(eps)}" for norm, eps in known)


def last_write(file: Path) -> str:
    """When a file was last written, in UTC; "" where it cannot be told."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(file.stat().st_mtime))
    except (OSError, OverflowError, ValueError):
        return ""


def summary_lines(summaries: Sequence[RunSummary], below: Path) -> Iterable[tuple[str, ...]]:
    """The lines of the table of `robench list runs`: one a model, and one for each run that is not finished.

    Args:
        summaries: what is told of each run.
        below: the folder that was asked for, which is left out of the paths.
    """
    for one in summaries:
        folder = str(one.folder.relative_to(below)) if one.folder != below else str(one.folder)
        when, images = one.when[:16].replace("T", " "), f"{one.data}, {one.n}" if one.n is not None else one.data
        flags = f", {one.flags} flag{'s' * (one.flags > 1)}" if one.flags else ""
        if one.state != FINISHED:
            yield when, folder, ", ".join(one.models), one.command, images, one.reason
        for name, verdict in zip(one.models, one.verdicts, strict=False):
            yield when, folder, name, one.command, images, verdict + flags
