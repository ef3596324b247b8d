"""What a few batches show of one model before a run: seconds and memory of its passes, and which share of images is likely to stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robench.attacks import ATTACKS
from robench.attacks.losses import ce
from robench.core.draws import Draws
from robench.core.model_calls import leaf_gradient, leaf_of, least_rows, padded_logits
from robench.core.recipes import eps_text
from robench.core.rows import WILSON
from robench.core.threat import Threat
from robench.models.stand_ins import arithmetic
from robench.runs.cases import first_pixels
from robench.runs.pass_counts import Passes
from robench.runs.timings import SizeTimes, times_by_size, watch_memory
from robench.runs.types import Case, Stage, pixels_for_model

QUICK_ATTACK, QUICK_STEPS = "pgd-10", 10  # tells which share of images is likely to stand
QUICK_IMAGES, QUICK_SECONDS = 64, 6.0  # on so many images at most, and as many as so many seconds are enough for
PASS_SECONDS = 4.0  # that a pass of the largest batch may take when it is timed


@dataclass(frozen=True, eq=False)
class CaseTimes:
    """What a few batches have shown of one model.

    Attributes:
        places: places in the pool of the images that were looked at, (M,).
        x: images (M, C, H, W), a chunk of the run at the most.
        y: their labels, (M,).
        logits: the model's logits at the first of them, (L, K).
        exact: seconds of a forward pass of the model itself.
        forward: seconds of a forward pass of the model that attacks are given.
        both: seconds of a forward and backward pass of it.
        memory: the most bytes held during these passes, for a whole chunk.
        before: bytes held before them.
        standing: the share of images that stand after a quick attack, by threat.
    """

    places: Tensor
    x: Tensor
    y: Tensor
    logits: Tensor
    exact: SizeTimes
    forward: SizeTimes
    both: SizeTimes
    memory: int
    before: int
    standing: dict[Threat, tuple[int, int]]

    @property
    def right(self) -> tuple[int, int]:
        """How many of the images whose logits are known are right, of how many."""
        return int((self.logits.argmax(1) == self.y[: len(self.logits)]).sum()), len(self.logits)

    @property
    def right_share(self) -> float:
        """The share of images that are right as they are."""
        right, n = self.right
        return right / n

    def seconds(self, passes: Passes, rows: int) -> float:
        """The seconds of an attack's passes for so many images."""
        rows = max(rows, least_rows(self.x))
        forward = self.forward.seconds(rows)
        return passes.forwards * forward + passes.backwards * max(0.0, self.both.seconds(rows) - forward)

    def standing_share(self, threat: Threat) -> float:
        """The share of images that are likely to stand under a threat: those that are right where no attack was tried."""
        if threat not in self.standing:
            return self.right_share
        left, n = self.standing[threat]
        return left / n


def has_attacks(stages: Sequence[Stage]) -> bool:
    """Whether any stage attacks."""
    return any(stage.kind == "attack" for stage in stages)


def case_times(case: Case, stages: Sequence[Stage], most: int) -> CaseTimes:
    """What a few batches of at most `most` images show of a model."""
    places, x = first_pixels(case.pool, most)
    x, y, most = pixels_for_model(x, case.exact_model, case.device), case.pool.y[places].to(case.device), len(places)
    kept: dict[str, Tensor] = {}

    def labelled(size: int) -> None:
        with torch.no_grad():
            kept["logits"] = padded_logits(case.exact_model, x[:size])

    def forward(size: int) -> None:
        with torch.no_grad(), arithmetic(case.precision):
            padded_logits(case.model, x[:size])

    def both(size: int) -> None:
        with torch.enable_grad(), arithmetic(case.precision):
            leaf = leaf_of(x[:size])
            leaf_gradient(ce(padded_logits(case.model, leaf), y[:size]).sum(), leaf)

    least, attacks = least_rows(x), has_attacks(stages)
    first = min(least, most)
    with watch_memory(case.device) as peak:
        exact = times_by_size(labelled, most, case.device, first=first, limit=PASS_SECONDS)
        quick = times_by_size(forward, most, case.device, first=first, limit=PASS_SECONDS) if attacks else exact
        slow = times_by_size(both, most, case.device, first=first, limit=PASS_SECONDS) if attacks else exact
    memory = peak.scaled(min(exact.largest, slow.largest), most)
    seen = CaseTimes(
        places,
        x,
        y,
        kept["logits"],
        at_full_rows(exact, least),
        at_full_rows(quick, least),
        at_full_rows(slow, least),
        memory,
        peak.before,
        {},
    )
    return replace(seen, standing=standing_after_quick_attack(case, seen, stages))


def at_full_rows(times: SizeTimes, least: int) -> SizeTimes:
    """The same where the first size was filled up to the least rows of a call, as every call with fewer is."""
    (size, seconds), *more = times.points
    return SizeTimes(((max(size, least), seconds), *more))


def standing_after_quick_attack(case: Case, seen: CaseTimes, stages: Sequence[Stage]) -> dict[Threat, tuple[int, int]]:
    """How many of the first images stand after a quick attack under each threat, of how many; none where it would take too long."""
    least = least_rows(seen.x)
    n = min(QUICK_IMAGES, len(seen.logits), int(QUICK_SECONDS / (QUICK_STEPS * max(seen.both.seconds(least), 1e-6)) * least))
    standing: dict[Threat, tuple[int, int]] = {}
    if n < min(least, len(seen.logits)):
        return standing
    right = (seen.logits[:n].argmax(1) == seen.y[:n]).nonzero().flatten()
    draws = Draws(case.seed, case.pool.ids[seen.places[right.cpu()]].to(case.device), "planned")
    for threat in dict.fromkeys(stage.threat for stage in stages if stage.kind == "attack" and stage.source is None):
        if threat is not None and len(right):
            with arithmetic(case.precision):
                fell = ATTACKS[QUICK_ATTACK](case.model, seen.x[right], seen.y[right], threat, draws).fooled
            standing[threat] = len(right) - int(fell.sum()), n
        elif threat is not None:
            standing[threat] = 0, n
    return standing


def likely_attack_share(seen: CaseTimes, stage: Stage, passes: Passes | None) -> float:
    """The share of images that an attack is likely to work on, counted in whole images.

    Those that fall to a quick attack fall to the first of a cascade within about as many passes, and are not seen by the others.
    """
    assert stage.threat is not None
    if stage.source is not None:
        return seen.right_share
    before = [earlier for earlier in stage.about["before"] if earlier.threat is not None]
    entering = seen.standing_share(before[-1].threat) if before else seen.right_share
    staying = min(entering, seen.standing_share(stage.threat))
    early = 1.0 if passes is None else min(1.0, QUICK_STEPS / max(passes.forwards, 1.0))
    return staying + (entering - staying) * early


def likely_method_share(seen: CaseTimes, stage: Stage) -> float:
    """The share of images that a method is likely to explain: all as they are, of an attack those that fall, else those that are right."""
    if stage.source is None:
        return 1.0
    if stage.source.kind == "attack" and stage.source.threat is not None and stage.source.source is None:
        return seen.right_share - min(seen.right_share, seen.standing_share(stage.source.threat))
    return seen.right_share


def share_notes(cases: Sequence[Case], times: Sequence[CaseTimes]) -> list[str]:
    """Where the likely numbers come from."""
    sentences = []
    for case, seen in zip(cases, times, strict=True):
        who = f"{case.name}: " if len(cases) > 1 else ""
        sentences.append(f"{who}right as they are: {counted_share_text(*seen.right)}")
        sentences += [
            f"{who}left by {QUICK_ATTACK} at {threat.norm} {eps_text(threat.eps)}, by which the likely goes: {counted_share_text(*counts)}"
            for threat, counts in seen.standing.items()
        ]
    return sentences


def counted_share_text(count: int, n: int) -> str:
    """A share of n images in percent, with its interval."""
    low, high = WILSON.bounds(count, n)
    return f"{100 * count / n:.0f} % ({100 * low:.0f} - {100 * high:.0f}) of the first {n} image{'s' * (n != 1)}"
