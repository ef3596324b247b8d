"""The images of a run, block after block: how large a block is, and when a run with a half-width or a budget ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from robench.attacks.reference import REFERENCE_ATTACKS
from robench.core.draws import Draws
from robench.core.errors import InputError, UnfinishedError
from robench.core.model_calls import least_rows
from robench.core.rows import WILSON, IntervalKind
from robench.core.statistics import anytime_valid_interval
from robench.data.catalogues import damaged_note
from robench.runs.loop import Run, run_block
from robench.runs.pass_counts import is_ours
from robench.runs.types import Case, RunOptions, Stage

RAMP = 4  # a block of a run with a budget has at most RAMP times the images that were seen before it
MARGIN = 1.1  # an image of the next block is expected to take at most MARGIN times as long as one of the last block


def run_in_blocks(run: Run, how: RunOptions) -> tuple[IntervalKind, list[str], float]:
    """Takes all images through the stages at once, or block after block until an interval is narrow or the budget is spent.

    Args:
        run: the run; its ledger is filled in.
        how: its options.

    Returns:
        How the intervals of accuracies are found, sentences on the run as a whole, and the seconds that a run with a budget has taken.
    """
    n = len(run.pool)
    if how.until is None and how.budget is None:
        run_block(run, torch.arange(n))
        exchange_entries(run, 0)
        return WILSON, leave_out_skipped(run), 0.0
    order, seen_count, since, notes = shuffled_places(n, how.seed), 0, 0, list[str]()
    blocks, narrowed = BlockSizes(run, how), False
    while not narrowed and (size := blocks.next_size(seen_count)):
        seen_count += size
        run_block(replace(run, sentence_of=partial(progress_sentence, order[:seen_count], how)), order[seen_count - size : seen_count])
        since = exchange_entries(run, since)
        narrowed = how.until is not None and is_narrow_enough(run, order[:seen_count], how.until)
    run.ledger.seen = torch.zeros(n, dtype=torch.bool)
    run.ledger.seen[order[:seen_count]] = True
    notes += leave_out_skipped(run)
    readable, population = readable_of(run, order[:seen_count])
    if how.until is not None:
        of_all = f"the {population} chosen images{' that can be read' if population < n else ''}"
        notes.append(f"the intervals speak of {of_all} alone, of which {len(readable)} were seen, not of others like them")
    notes += [] if narrowed else blocks.notes(seen_count)
    interval = anytime_interval(population) if how.until is not None else WILSON
    return interval, notes, blocks.spent_seconds()


def leave_out_skipped(run: Run) -> list[str]:
    """Takes the images that cannot be read out of what the rows speak of; a note on them.

    Args:
        run: the run, whose images have been through its stages.

    Raises:
        InputError: where no image is left.
    """
    ledger = run.ledger
    seen, seen_count = ledger.seen, int(ledger.seen.sum())
    ledger.seen = seen & ~ledger.is_skipped()
    if bool((ledger.seen == seen).all()):
        return []
    sentences = [why for place, why in sorted(ledger.skipped.items()) if seen[place]]
    if not bool(ledger.seen.any()):
        raise InputError(f"none of the images that were chosen can be read, as {sentences[0]}")
    return [damaged_note(sentences, seen_count)]


class BlockSizes:
    """How large the next block of a run is: the batch size, or as many images as the time that is left is enough for.

    A run with a budget begins with one image and goes on with at most RAMP times as many as were seen before, until a block has the batch
    size or the time is spent. How long a block will take is estimated from the seconds an image took in the block before. The sizes of
    these blocks are in the journal, so that a run that was broken off in the middle of one ends it first.

    Attributes:
        run: the run under way.
        how: its options.
        n: number of images.
        least: images of a block below which it is no quicker, as calls of a model are filled up to so many rows.
        begun: size of each block and the seconds spent before it, over all resumes; empty without a budget.
        count: how many blocks this process has asked for.
    """

    def __init__(self, run: Run, how: RunOptions) -> None:
        self.run, self.how, self.n = run, how, len(run.pool)
        self.least = run.world.size * filled_up_rows(run.stages, [case.pool.shape for case in run.cases])
        entries = run.store.journal.entries if how.budget is not None else []
        self.begun: list[tuple[int, float]] = [(entry["block"], entry["spent"]) for entry in entries if "block" in entry]
        self.count = 0

    def spent_seconds(self) -> float:
        """The seconds that the run has taken over all resumes, on the slowest process; 0 without a budget."""
        return max(self.run.world.gather(self.run.clock())) if self.run.clock is not None else 0.0

    def next_size(self, seen: int) -> int:
        """The size of the next block after `seen` images; 0 where the run is to stop."""
        size = min(self.how.batch_size, self.n - seen)
        if self.how.budget is None or not size:
            return size
        if self.count == len(self.begun):
            spent = self.spent_seconds()
            if size := self.fitting_size(seen, size, self.how.budget, spent):
                self.begun.append((size, spent))
                if self.run.world.rank == 0:
                    self.run.store.journal.append({"block": size, "spent": spent})
        self.count += bool(size)
        return self.begun[self.count - 1][0] if size else 0

    def fitting_size(self, seen: int, size: int, budget: float, spent: float) -> int:
        """How many of the next `size` images the time is enough for, 0 for none.

        Args:
            seen: number of images before.
            size: the most that a block may have.
            budget: seconds of the whole run.
            spent: seconds that are spent already.

        Raises:
            UnfinishedError: where the first image took all the time.
        """
        if not seen:
            return 1
        if seen == 1 and spent > budget:
            way = "give more, with --resume" if self.run.store.keeps_state else "give more"
            raise UnfinishedError(f"a budget of {budget:g} s is too small: the first image was through after {spent:.1f} s: {way}")
        last, begin = self.begun[-1]
        return fitting_block(last, spent - begin, budget - spent, most=min(size, RAMP * seen), least=self.least)

    def notes(self, seen: int) -> list[str]:
        """Sentences for a run that the budget ended after `seen` images; none for another."""
        if self.how.budget is None or seen == self.n:
            return []
        sentences = [f"the budget ended after {seen} of the {self.n} chosen images, which were drawn with the seed"]
        if seen < self.how.batch_size:
            sentences.append(
                f"a block of {min(self.how.batch_size, self.n)} images would not fit into the budget: the first one has {seen}"
            )
        return sentences


def filled_up_rows(stages: Sequence[Stage], shapes: Sequence[tuple[int, ...]]) -> int:
    """To how many rows every call of a run is filled up on one process; 1 where an attack is not robench's own.

    Args:
        stages: of the run.
        shapes: of an image (C, H, W), for each model.
    """
    attacks = [stage.about["attack"] for stage in stages if stage.kind == "attack"]
    if not all(is_ours(attack) and attack not in REFERENCE_ATTACKS.values() for attack in attacks):
        return 1
    return min((least_rows(torch.empty(0, *shape)) for shape in shapes), default=1)


def fitting_block(last: int, took: float, left: float, *, most: int, least: int) -> int:
    """How many images the next block may have so that it is through within the seconds that are left, 0 for none.

    Args:
        last: images of the last block.
        took: seconds that it took.
        left: seconds that are left.
        most: images that the block may have, at least 1.
        least: images below which a block is no quicker.
    """
    if took <= 0:
        return most
    fits = int(max(last, least) * left / (MARGIN * took))
    return min(most, fits) if fits >= min(max(last, least), max(most, least)) else 0  # a smaller block may take as long as the last one


def last_attacks(run: Run) -> list[Stage]:
    """The last attack of each cascade, whose verdicts are estimated."""
    return list({stage.about["cascade"]: stage for stage in run.stages if stage.kind == "attack" and stage.is_reported}.values())


def readable_of(run: Run, seen: Tensor) -> tuple[Tensor, int]:
    """Those of the places seen whose images can be read, and of how many images their verdicts speak: all but those known to be damaged.

    Args:
        run: the run under way.
        seen: places of images; what a journal holds of later ones says nothing yet.
    """
    readable = seen[~run.ledger.is_skipped()[seen]]
    return readable, len(run.pool) - len(seen) + len(readable)


def is_narrow_enough(run: Run, seen: Tensor, until: float) -> bool:
    """Whether every verdict's interval is narrow enough, that of the worst of several threats too; images left out are none of it."""
    # a journal may hold part of a later block: what has not been through all stages says nothing yet
    readable, population = readable_of(run, seen)
    if not len(readable):
        return False
    standing: list[Tensor] = []
    for case in run.cases:
        right_by_stage = {stage: run.ledger.right(case.name, stage)[readable] for stage in last_attacks(run)}
        standing += right_by_stage.values()
        if several := [some for stage, some in right_by_stage.items() if stage.source is None]:
            standing.append(torch.stack(several).all(0))
    spans = [anytime_bounds(int(some.sum()), len(readable), population) for some in standing]
    return all((high - low) / 2 <= until for low, high in spans)


def progress_sentence(seen: Tensor, how: RunOptions, run: Run, stage: Stage, case: Case) -> str:
    """What is known once the images at the places `seen` have been through the last stage, as a sentence; "" before."""
    if stage is not run.stages[-1]:
        return ""
    who = f"{case.name}: " if run.has_several_subjects else ""
    readable, population = readable_of(run, seen)
    if how.until is None or stage.kind != "attack" or not len(readable):
        return f"{who}{len(seen)} image{'s' * (len(seen) != 1)} seen"
    standing = int(run.ledger.right(case.name, stage)[readable].sum())
    low, high = anytime_bounds(standing, len(readable), population)
    span = f"95 % interval of the {population} chosen images {100 * low:.1f} - {100 * high:.1f}"
    return f"{who}{len(seen)} image{'s' * (len(seen) != 1)} seen: {100 * standing / len(readable):.2f} % left, {span}"


def exchange_entries(run: Run, since: int) -> int:
    """Adds to the ledger what the other processes found since the last exchange.

    Args:
        run: the run, whose journal holds the entries of this process.
        since: how many entries of this process were exchanged before.

    Returns:
        How many entries of this process are known everywhere now.
    """
    added = run.store.journal.added
    for rank, theirs in enumerate(run.world.gather(added[since:])):
        for entry in theirs if rank != run.world.rank else ():
            if "stage" in entry:
                run.ledger.add(entry)
            elif "skipped" in entry:
                run.ledger.skip(entry)
    return len(added)


def shuffled_places(n: int, seed: int) -> Tensor:
    """All n places in random order."""
    return Draws(seed, torch.arange(n), "order").uniform(()).argsort(stable=True)


def anytime_bounds(successes: float, n: int, population: int) -> tuple[float, float]:
    """The anytime-valid interval of a count."""
    return anytime_valid_interval(int(successes), n, population)


def anytime_interval(n: int) -> IntervalKind:
    """The interval of a share of n images that is valid whenever one stops.

    Args:
        n: how many images were chosen.
    """
    return IntervalKind(f"anytime, of {n} images", partial(anytime_bounds, population=n))
