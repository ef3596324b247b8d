"""A training in trackers: every step's loss terms, every epoch's held-out accuracies, and what was measured at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.models import checkpoint
from robench.report.trackers import NO_TRACKERS, chosen_trackers
from robench.report.trackers.records import LogRecord, StartLog, TrackedRun, finite_values, flat_parameters
from robench.report.trackers.running import TrackedLogs, run_key, start_logs
from robench.training.types import Epoch, Event, EventWatcher, Step, TrackerFailure, TrainingRun

LOG_SECONDS = 10.0  # records are given to trackers that often, after every epoch and before every state
HELD_OUT_TAGS = {  # of the fields of an Epoch
    "held_out_clean": "held-out/clean accuracy",
    "held_out_robust": "held-out/PGD-10 accuracy",
    "held_out_fgsm": "held-out/FGSM accuracy",
    "held_out_attacked_clean": "held-out/clean accuracy of the attacked images",
    "held_out_margin": "held-out/effective margin",
    "held_out_weight_norm": "held-out/weight norm",
    "lr": "epoch/learning rate",
    "seconds": "epoch/seconds",
}
LOGGED_ENDS_BESIDE = (".json", ".log.csv", ".curves.png")  # of the files beside FILE.pt that trackers are given at the end


def training_trackers(log: str | Sequence[str] | None, out: Path | None) -> Mapping[str, StartLog]:
    """The trackers that a training names; InputError where one cannot be, and where the training writes no file that it belongs to."""
    if log and out is None:
        raise InputError("log needs the place of the checkpoint: pass out as well")
    return chosen_trackers(log)


class TrainingLog:
    """The trackers of one training."""

    def __init__(self, trackers: Mapping[str, StartLog]) -> None:
        """Takes what `report.trackers.chosen_trackers` gives; nothing is logged before `events`."""
        self._trackers = trackers
        self._logs = TrackedLogs(({}, ()))
        self._pending: list[LogRecord] = []
        self._step = 0
        self._written = time.monotonic()

    def events(self, events: Iterator[Event], run: TrainingRun, out: Path | None, words: Mapping[str, Any]) -> Iterator[Event]:
        """The events as they come; what steps and epochs found is logged, and a tracker that fails becomes an event.

        Args:
            events: of a training that stands at its first step, or is gone on with.
            run: the run, whose roll-backs give their steps tags of their own.
            out: FILE.pt.
            words: what the checkpoint says of itself, as far as it is known.
        """
        if out is None or not self._trackers:
            yield from events
            return
        plain, self._step = checkpoint.plain_values(dict(words)), run.steps_done
        tracked = TrackedRun("train", out.stem, out.parent, flat_parameters(plain), run_key(out, plain), run.steps_done)
        self._logs = TrackedLogs(start_logs(self._trackers, tracked))
        attempt = len(run.lost_epochs)
        yield from map(TrackerFailure, self._logs.told())
        for event in events:
            if isinstance(event, Step):
                attempt, self._step = len(run.lost_epochs), event.epoch * event.steps + event.step + 1
                self._pending.append(LogRecord(self._step, tagged_terms("train", event.terms, attempt)))
            elif isinstance(event, Epoch):
                self._pending.append(LogRecord(self._step, epoch_values(event, attempt)))
            if isinstance(event, Epoch) or time.monotonic() - self._written > LOG_SECONDS:
                self.write_pending()
            yield event
            yield from map(TrackerFailure, self._logs.told())

    def write_pending(self) -> None:
        """Gives the trackers what they have not had yet; so that no step is missing, this comes before a state is saved."""
        records, self._pending, self._written = self._pending, [], time.monotonic()
        if records:
            self._logs.write(records)

    def measured(self, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """Logs what was measured at the end; before the files are written, after which no later call would make up for it.

        Args:
            metrics: what was measured, by probe.
        """
        self.write_pending()
        self._logs.write(
            [LogRecord(self._step, finite_values({f"final/{probe} accuracy": one["accuracy"] for probe, one in metrics.items()}))]
        )

    def finish(self, out: Path | None, watch: EventWatcher) -> None:
        """Logs the files that were written, and that the training is finished.

        Args:
            out: FILE.pt, which lies on the disk.
            watch: as `train` takes it; is shown which trackers failed since the last epoch.
        """
        files = [] if out is None else [out.with_name(out.stem + end) for end in LOGGED_ENDS_BESIDE]
        self._logs.write([LogRecord(self._step, {}, [path for path in files if path.exists()], "finished")])
        failures = [*map(TrackerFailure, self._logs.told())]
        if failures:
            tuple(watch(iter(failures), 0))

    def break_off(self) -> None:
        """Closes the trackers of a training that did not come to its end."""
        self.write_pending()
        self._logs.write([LogRecord(self._step, {}, (), "broken off")])


@contextmanager
def training_log(trackers: Mapping[str, StartLog], rank: int) -> Iterator[TrainingLog]:
    """The trackers of a training, of which the first of several processes alone has any; closed at the end, however it ends.

    Args:
        trackers: from `report.trackers.chosen_trackers`.
        rank: the number of this process.
    """
    log = TrainingLog(trackers if rank == 0 else NO_TRACKERS)
    try:
        yield log
    except BaseException:
        log.break_off()
        raise


def tagged_terms(group: str, terms: Mapping[str, float], attempt: int) -> dict[str, float]:
    """The terms of a loss by their tags; after a roll-back, which goes back over steps that were logged, under a group of their own."""
    suffix = f" after roll-back {attempt}" if attempt else ""
    return finite_values({f"{group}{suffix}/{name}": value for name, value in terms.items()})


def epoch_values(epoch: Epoch, attempt: int) -> dict[str, float]:
    """What an epoch found, by tags."""
    fields = {tag: getattr(epoch, name) for name, tag in HELD_OUT_TAGS.items() if not math.isnan(getattr(epoch, name))}
    suffix = f" after roll-back {attempt}" if attempt else ""
    moved = {tag.replace("/", f"{suffix}/", 1): value for tag, value in fields.items()}
    return {**tagged_terms("epoch mean", epoch.terms, attempt), **finite_values(moved)}
