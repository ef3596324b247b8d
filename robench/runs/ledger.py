"""What a run knows: the sum of its entries, each the outcomes of one stage on one chunk of images for one subject.

An entry is plain JSON, so that a journal on the disk and other processes can hand it over; the order in which entries are added does not
matter, and one that comes twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

Entry = Mapping[str, Any]
LevelKey = tuple[str, int]  # the key=value words of a level, and which of its draws
PIXELS_COLUMN = "pixels"  # of the clean pass: what each image is known by, a digest of its pixels
BLANKS: dict[type, Any] = {bool: False, int: -1, float: float("nan"), str: ""}


class LedgerStage(Protocol):
    """What the ledger must know of a `Stage`."""

    @property
    def key(self) -> str:
        """What tells it from the other stages of a run."""

    @property
    def kind(self) -> str:
        """clean, attack, probe, corruption, method, joined."""

    @property
    def source(self) -> LedgerStage | None:
        """The stage whose images it is given; None for the images as they are."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What its rows need to know, by name: the stages `clean` and `before`."""


@dataclass
class Record:
    """One level of a stage for one subject: columns of length N, tensors or lists of words, and what belongs to whole chunks."""

    columns: dict[str, Any] = field(default_factory=dict)
    extras: list[Mapping[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def write_values(self, places: Tensor, columns: Mapping[str, Sequence[Any]], n: int) -> None:
        """Writes the values of some images."""
        for name, values in columns.items():
            kind = type(values[0])
            if kind is str:
                words = self.columns.setdefault(name, [""] * n)
                for place, word in zip(places.tolist(), values, strict=True):
                    words[place] = word
                continue
            dtype = {bool: torch.bool, int: torch.int64, float: torch.float64}[kind]
            if name not in self.columns:
                self.columns[name] = torch.full((n,), BLANKS[kind], dtype=dtype)
            self.columns[name][places] = torch.tensor(values, dtype=dtype)


class Ledger:
    """The sum of the entries of a run on N images.

    Attributes:
        y: labels, (N,).
        n: N.
        seen: (N,) bool, the images that rows and samples speak of; all of them unless a run stopped early, or left some out.
        skipped: place -> why the image there cannot be read, of those that are left out.
    """

    def __init__(self, y: Tensor) -> None:
        self.y, self.n = y, len(y)
        self.seen = torch.ones(self.n, dtype=torch.bool)
        self.skipped: dict[int, str] = {}
        self._records: dict[tuple[str, str], dict[LevelKey, Record]] = {}
        self._done: dict[tuple[str, str], Tensor] = {}

    def add(self, entry: Entry) -> None:
        """Takes up an entry; one whose images went through its stage already changes nothing.

        Args:
            entry: plain values from `entry_of`.
        """
        where, places = (entry["subject"], entry["stage"]), torch.tensor(entry["places"], dtype=torch.int64)
        done = self._done.setdefault(where, torch.zeros(self.n, dtype=torch.bool))
        if bool(done[places].any()):
            return
        done[places] = True
        for level_entry in entry["levels"]:
            record = self._records.setdefault(where, {}).setdefault((level_entry["level"], level_entry["repeat"]), Record())
            record.write_values(places, level_entry["columns"], self.n)
            record.seconds += level_entry["seconds"]
            if level_entry["extras"]:
                record.extras.append(level_entry["extras"])

    def skip(self, entry: Entry) -> None:
        """Takes up which images cannot be read, for all subjects and stages.

        Args:
            entry: plain values, "skipped" with places and "why" with a sentence for each.
        """
        self.skipped |= dict(zip(entry["skipped"], entry["why"], strict=True))

    def is_skipped(self) -> Tensor:
        """Which images are left out because they cannot be read, (N,) bool."""
        mask = torch.zeros(self.n, dtype=torch.bool)
        mask[list(self.skipped)] = True
        return mask

    def is_done(self, subject: str, stage: LedgerStage) -> Tensor:
        """Which images went through a stage, (N,) bool."""
        return self._done.get((subject, stage.key), torch.zeros(self.n, dtype=torch.bool))

    def levels(self, subject: str, stage: LedgerStage) -> dict[LevelKey, Record]:
        """What is known of each level of a stage, in the order in which they came."""
        return self._records.get((subject, stage.key), {})

    def record(self, subject: str, stage: LedgerStage) -> Record:
        """What is known of a stage of one level; empty where no image went through it."""
        return next(iter(self.levels(subject, stage).values()), Record())

    def column(self, subject: str, stage: LedgerStage, name: str, blank: Any) -> Any:
        """A column of a stage of one level, (N,).

        Args:
            subject: the subject's name.
            stage: the stage.
            name: the column.
            blank: the value of all images where none went through the stage.
        """
        columns = self.record(subject, stage).columns
        return columns[name] if name in columns else torch.full((self.n,), blank)

    def right(self, subject: str, stage: LedgerStage) -> Tensor:
        """Which images the model gets right as a stage leaves them, (N,) bool: the clean ones, corrupted ones, those that stand."""
        if stage.kind in ("attack", "probe", "joined"):
            before = self.was_tried(subject, stage)
            return before & ~self.has_fallen(subject, stage)
        pred: Tensor = self.column(subject, stage, "pred", -1)
        return self.is_done(subject, stage) & (pred == self.y)

    def has_fallen(self, subject: str, stage: LedgerStage) -> Tensor:
        """Which images that were right fell under a stage, (N,) bool: a probe's in its first draw, an attack's in its cascade too."""
        if stage.kind == "corruption":
            return self.was_tried(subject, stage) & ~self.right(subject, stage)
        fell: Tensor = self.column(subject, stage, "fell", False)
        for earlier in stage.about.get("before", ()):
            fell = fell | self.column(subject, earlier, "fell", False)
        return fell

    def was_tried(self, subject: str, stage: LedgerStage) -> Tensor:
        """Which images were right before a stage changed them, (N,) bool."""
        if stage.kind == "joined":
            mask: Tensor = self.column(subject, stage, "tried", False)
            return mask
        before = stage.source or stage.about.get("clean")
        return torch.ones(self.n, dtype=torch.bool) if before is None else self.right(subject, before)

    def word_columns(self, subject: str, name: str) -> list[list[str]]:
        """The columns of words of a name, (N,) each, over all stages of a subject.

        Args:
            subject: the subject's name.
            name: the column.
        """
        return [
            record.columns[name]
            for (other, _), levels in self._records.items()
            if other == subject
            for record in levels.values()
            if isinstance(record.columns.get(name), list)
        ]

    def extras(self, subject: str, stage: LedgerStage, name: str) -> list[Any]:
        """The values that the chunks of a stage have under a name, over all levels.

        Args:
            subject: the subject's name.
            stage: the stage.
            name: the key.
        """
        return [more[name] for record in self.levels(subject, stage).values() for more in record.extras if name in more]
