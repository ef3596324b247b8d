"""A finished measurement in trackers: its rows and its pictures, read from its folder, so that a failed log can be made up later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from typing import Any

from robench.core.folders import ADVERSARIAL_PNGS, manifest_of
from robench.core.recipes import eps_text
from robench.core.rows import Row
from robench.report.trackers.records import LogRecord, StartLog, TrackedRun, finite_values, flat_parameters
from robench.report.trackers.running import TrackedLogs, run_key, start_logs
from robench.results.files import read_rows

LOGGED_ENDS = (".csv", ".html", ".json", ".png")  # of the files that trackers are given; arrays are large
ALWAYS_TAGGED = "severity="  # a word of the setting that is in the tag also where all rows have the same


def log_results(folder: Path, trackers: Mapping[str, StartLog]) -> list[str]:
    """Gives the rows and files of a finished run to trackers.

    Args:
        folder: the results folder.
        trackers: from `report.trackers.chosen_trackers`.

    Returns:
        A sentence for each tracker that failed.
    """
    manifest = manifest_of(folder)
    words = manifest.get("words", {})
    about = {**words, "command": manifest.get("command", ""), "versions": manifest.get("versions", {})}
    run = TrackedRun(
        str(words.get("command", "")),
        folder.resolve().name,
        folder,
        flat_parameters(about),
        run_key(folder, {**words, "finished": manifest.get("finished", "")}),
    )
    logs = TrackedLogs(start_logs(trackers, run))
    logs.write([LogRecord(0, finite_values(row_values(read_rows(folder))), list(logged_files(folder, manifest)), "finished")])
    return logs.told()


def logged_files(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Path]:
    """Tables, page and pictures of a run; the pictures of single adversarial images are too many."""
    for name in manifest.get("files", ()):
        if Path(name).suffix in LOGGED_ENDS and not fnmatch(name, ADVERSARIAL_PNGS) and (folder / name).is_file():
            yield folder / name


def row_values(rows: Sequence[Row]) -> dict[str, float]:
    """The value of each row under checkpoint/probe/metric/norm and radius.

    Behind the probe stand its severity and the words of its setting by which rows that are alike in all else differ.

    Args:
        rows: the rows of one run.

    Example:
        >>> from dataclasses import replace
        >>> from robench.core.rows import blank_row
        >>> row = replace(blank_row(), checkpoint="cnn", probe="pgd-20", metric="accuracy", norm="linf", eps=8 / 255, value=0.5)
        >>> row_values([row])
        {'cnn/pgd-20/accuracy/linf-8-255': 0.5}
    """
    alike: dict[tuple[object, ...], list[set[str]]] = {}
    for row in rows:
        alike.setdefault(identity_of_row(row), []).append(set(row.setting.split()))
    values: dict[str, float] = {}
    for row in rows:
        shared = set.intersection(*alike[identity_of_row(row)])
        words = [word for word in row.setting.split() if word not in shared or word.startswith(ALWAYS_TAGGED)]
        radius = f"{row.norm}-{eps_text(row.eps).replace('/', '-')}" if row.norm else ""
        tag = "/".join(filter(None, (row.checkpoint, " ".join([row.probe, *words]), row.metric, radius)))
        values[free_tag(tag, values)] = row.value
    return values


def free_tag(tag: str, taken: Mapping[str, float]) -> str:
    """The tag, with the next number behind it where it is taken: a check can be raised twice by one attack."""
    return tag if tag not in taken else next(other for number in count(2) if (other := f"{tag} {number}") not in taken)


def identity_of_row(row: Row) -> tuple[object, ...]:
    """All of a row that its tag shows, but for the setting."""
    return row.checkpoint, row.probe, row.metric, row.norm, row.eps
