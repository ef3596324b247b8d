"""What became of N images in the stages of an evaluation: the sum of entries, each the result of one stage on one chunk of images.

An entry is plain JSON, so that a journal on the disk and other processes can hand it over; adding the same entries in any order
that respects the stages gives the same outcomes.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robench.rows import Sample
from robench.threat import Threat
from robench.types import Found

Attack = Callable[..., Found]
Entry = Mapping[str, Any]
COLUMNS = ("pred", "margin", "distance", "step", "forwards", "backwards", "reached")


@dataclass(frozen=True)
class Stage:
    """One attack at one radius, on what still stands; without an attack it is the clean pass."""

    probe: str
    setting: str
    threat: Threat
    attack: Attack | None = None


@dataclass
class Tally:
    """What one stage did in sum: images tried, those that reached the attack's goal, seconds, and passes."""

    tried: int = 0
    reached: int = 0
    seconds: float = 0.0
    forwards: int = 0
    backwards: int = 0


@dataclass
class Outcomes:
    """The sum of entries: tensors of length N on the CPU, in the words of rows.Sample, and a tally for each stage.

    broken (N,) is the stage that broke the image, -1 where it stands; done (S, N) says which stages it went through.
    """

    ids: Tensor
    y: Tensor
    stages: Sequence[Stage]
    broken: Tensor
    done: Tensor
    clean_pred: Tensor
    clean_margin: Tensor
    adv_pred: Tensor
    adv_margin: Tensor
    distance: Tensor
    step: Tensor
    forwards: Tensor
    backwards: Tensor
    tallies: list[Tally]
    classes: int
    rounded_pred: Tensor
    png: list[str]
    nonfinite: dict[str, int] = field(default_factory=dict)
    outside: dict[str, tuple[int, float, int]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    images: dict[int, Tensor] = field(default_factory=dict)

    def todo(self, stage: int, places: Tensor) -> Tensor:
        """Those of the places that stand and have not been through the stage, (M,)."""
        return places[((self.broken < 0) & ~self.done[stage])[places]]

    def left(self, stage: int) -> int:
        """How many of the images that went through the clean pass stand after a stage."""
        return int((self.done[0] & ((self.broken < 0) | (self.broken > stage))).sum())

    def left_in_eight_bits(self, stage: int) -> int:
        """How many of them stand after a stage where x_adv is rounded to 8 bits."""
        again = (self.broken > 0) & (self.rounded_pred == self.y)
        return int((self.done[0] & ((self.broken < 0) | (self.broken > stage) | again)).sum())

    def add(self, entry: Entry) -> None:
        """Takes up the result of a stage on some images."""
        stage, places, fell = int(entry["stage"]), torch.tensor(entry["places"], dtype=torch.int64), torch.tensor(entry["fell"]).bool()
        values = {name: torch.tensor(entry[name]) for name in COLUMNS}
        self.done[stage, places] = True
        self.forwards[places] += values["forwards"].long()
        self.backwards[places] += values["backwards"].long()
        if stage == 0:
            self.clean_pred[places] = self.adv_pred[places] = values["pred"].long()
            self.clean_margin[places] = values["margin"].double()
        else:
            self._fell(places[fell], {name: value[fell] for name, value in values.items()})
            self.rounded_pred[places[fell]] = torch.tensor(entry["rounded"], dtype=torch.int64)
            for place, name in zip(places[fell].tolist(), entry["png"], strict=True):
                self.png[place] = name
        self.broken[places[fell]] = stage
        self._count(stage, entry)

    def _fell(self, places: Tensor, values: Mapping[str, Tensor]) -> None:
        """Writes what is known of images that an attack broke."""
        self.adv_pred[places], self.step[places] = values["pred"].long(), values["step"].long()
        self.adv_margin[places], self.distance[places] = values["margin"].double(), values["distance"].double()

    def _count(self, stage: int, entry: Entry) -> None:
        """Adds to the tally of the stage and to what was noticed about its probe."""
        tally, probe = self.tallies[stage], self.stages[stage].probe
        tally.tried += len(entry["places"])
        tally.reached += sum(entry["reached"])
        tally.seconds += entry["seconds"]
        tally.forwards += sum(entry["forwards"])
        tally.backwards += sum(entry["backwards"])
        self.nonfinite[probe] = self.nonfinite.get(probe, 0) + entry["nonfinite"]
        count, worst, bad = self.outside.get(probe, (0, 0.0, 0))
        more, far, infinite = entry["outside"]
        self.outside[probe] = count + more, max(worst, far), bad + infinite
        known = self.warnings.setdefault(probe, [])
        known += [sentence for sentence in entry["warnings"] if sentence not in known]
        self.images |= {int(place): unpacked(image) for place, image in entry["images"].items()}

    def samples(self) -> list[Sample]:
        """The per-sample table, one line for each image that went through the clean pass."""
        names = ["" if stage < 0 else self.stages[stage].probe for stage in self.broken.tolist()]
        radii = [self.stages[stage].threat.eps if stage > 0 else math.nan for stage in self.broken.tolist()]
        columns: Sequence[list[Any]] = [
            self.ids.tolist(), self.y.tolist(), self.clean_pred.tolist(), self.adv_pred.tolist(), names, radii, self.step.tolist(),
            self.clean_margin.tolist(), self.adv_margin.tolist(), self.distance.tolist(), self.forwards.tolist(), self.backwards.tolist(),
            self.rounded_pred.tolist(), self.png,
        ]  # fmt: skip
        return [Sample(*line) for line, known in zip(zip(*columns, strict=True), self.done[0].tolist(), strict=True) if known]


def nothing_known(ids: Tensor, y: Tensor, stages: Sequence[Stage], classes: int) -> Outcomes:
    """The outcomes of images of which nothing is known yet."""
    n = len(y)
    whole, none, zero = torch.full((n,), -1), torch.full((n,), math.nan, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    done = torch.zeros((len(stages), n), dtype=torch.bool)
    return Outcomes(
        ids, y, stages, whole.clone(), done, whole.clone(), none.clone(), whole.clone(), none.clone(), none.clone(), whole.clone(),
        zero, zero.clone(), [Tally() for _ in stages], classes, whole.clone(), [""] * n,
    )  # fmt: skip


def packed(image: Tensor) -> dict[str, Any]:
    """An image (C, H, W) as plain JSON, to the bit."""
    return {"shape": list(image.shape), "float32": b64encode(image.float().contiguous().numpy().tobytes()).decode()}


def unpacked(image: Mapping[str, Any]) -> Tensor:
    """The image that `packed` packed."""
    return torch.from_numpy(np.frombuffer(b64decode(image["float32"]), dtype=np.float32).copy()).view(image["shape"])
