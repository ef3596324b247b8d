"""Trackers at work: one that fails is left out from then on, with a sentence, and the run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.report.trackers.records import Log, LogRecord, StartLog, TrackedRun

LONGEST_REASON = 300  # letters of an error that a sentence repeats


class TrackedLogs:
    """The logs of one run, and what is to be said of those that failed."""

    def __init__(self, started: tuple[Mapping[str, Log], Sequence[str]]) -> None:
        """Takes what `start_logs` gives."""
        self._logs = dict(started[0])
        self._sentences = list(started[1])

    def write(self, records: Sequence[LogRecord]) -> None:
        """Gives records to every log that has not failed yet."""
        for label, log in list(self._logs.items()):
            try:
                log(records)
            except (Exception, SystemExit) as error:
                del self._logs[label]
                self._sentences.append(tracker_failure(label, error))

    def told(self) -> list[str]:
        """The sentences on trackers that failed since this was last asked."""
        sentences, self._sentences = self._sentences, []
        return sentences


def start_logs(trackers: Mapping[str, StartLog], run: TrackedRun) -> tuple[dict[str, Log], list[str]]:
    """The logs of a run by the label of their tracker, and a sentence for each tracker that could not begin.

    Args:
        trackers: from `report.trackers.chosen_trackers`.
        run: what they are told.
    """
    logs: dict[str, Log] = {}
    sentences = []
    for label, start in trackers.items():
        try:
            logs[label] = checked_log(start(run))
        except (Exception, SystemExit) as error:
            sentences.append(tracker_failure(label, error))
    return logs, sentences


def checked_log(log: Any) -> Log:
    """What a tracker returned, which must be a function."""
    if not callable(log):
        raise InputError(f"it returned {type(log).__name__} and no function log(records), see docs/adding-a-tracker.md")
    return log  # type: ignore[no-any-return]


def tracker_failure(label: str, error: BaseException) -> str:
    """What is said of a tracker that failed."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    short = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}..."
    return f"tracker {label} failed ({short}): from there on it has nothing of this run, and the run itself is whole"


def run_key(place: Path, words: Mapping[str, Any]) -> str:
    """A key that is the same for a run that is gone on with, and for no other.

    Args:
        place: the checkpoint, or the results folder.
        words: what was asked for, as plain JSON values.
    """
    text = json.dumps([str(place.resolve()), words], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
