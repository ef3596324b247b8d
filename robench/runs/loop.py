"""The one loop: subjects x stages x images, block by block, chunk by chunk; what is finished is in the journal and is not done again."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from robench.core.decoding import DamagedImageError
from robench.core.errors import UnfinishedError
from robench.core.files import file_stem
from robench.core.model_calls import padded_logits
from robench.core.processes import World
from robench.core.recipes import eps_text
from robench.data.stored_pixels import readable_rows
from robench.runs.images import stage_file_name, stage_images
from robench.runs.ledger import PIXELS_COLUMN, Ledger
from robench.runs.own_functions import is_own
from robench.runs.stages.clean import check_logits
from robench.runs.store import Store, make_array_file, write_array_rows
from robench.runs.types import Case, Chunk, Outcome, Pool, ReadyStage, Stage, Track, pixels_for_model, untracked_chunks

TRIAL_IMAGES = 2  # images on which a stage is tried out


class Taker(Protocol):
    """What else wants the images of shared stages, such as a folder that they are written into."""

    def wants(self, stage: Stage) -> bool:
        """Whether it takes the images of a stage."""

    def take(self, stage: Stage, places: Tensor, x: Tensor) -> None:
        """Takes some images.

        Args:
            stage: the stage that they are of.
            places: (M,) int64.
            x: (M, C, H, W), in the order of the places.
        """


@dataclass(frozen=True, eq=False)
class Run:
    """A run under way: what its steps share.

    Attributes:
        cases: the subjects, made ready.
        stages: all stages in their order.
        pool: the images.
        ledger: every outcome so far.
        store: journal and arrays.
        world: the processes that share the images.
        batch_size: images in a chunk.
        device: where the models run.
        track: shows progress.
        taker: what else takes the images of shared stages, or None.
        sentence_of: gives the sentence that is shown once a stage is through; None for `standing_sentence`.
        made_folder: the folder that takes the images that probes and corruptions make, or None.
        clock: gives the seconds that a run with a budget has taken over all resumes; None without a budget.
    """

    cases: Sequence[Case]
    stages: Sequence[Stage]
    pool: Pool
    ledger: Ledger
    store: Store
    world: World
    batch_size: int
    device: str
    track: Track = untracked_chunks
    taker: Taker | None = None
    sentence_of: Callable[[Run, Stage, Case], str | None] | None = None
    made_folder: Path | None = None  # the folder that takes the images that probes and corruptions make
    clock: Callable[[], float] | None = None  # the seconds that a run with a budget has taken over all resumes

    @property
    def has_several_subjects(self) -> bool:
        """Whether there are several subjects, so that each must be named."""
        return len(self.cases) > 1


def admit(run: Run) -> None:
    """Makes every stage ready for every model, and tries it on two images where only that tells whether it can be used.

    Args:
        run: the run, of which no image is computed yet.

    Raises:
        InputError: where a stage is refused.
    """
    sole = len(run.cases) * sum(stage.kind != "clean" for stage in run.stages) == 1
    for case in run.cases:
        trial = replace(case, is_trial=True, ledger=Ledger(run.pool.y), saved={}, pngs={}, checks=[], notes=[], remembers=False)
        tried_kinds: set[str] = set()
        for stage in run.stages:
            ready = stage.begin(trial)
            case.settings[stage.key] = ready.setting
            case.notes += [note for note in ready.notes if note not in case.notes]
            if (
                stage.needs_trial
                and not is_tried_already(stage, tried_kinds)
                and (stage.kind in ("probe", "method") or not sole)
                and case.pool.pixels is not None
            ):
                try_out(trial, stage, ready, case.pool)


def is_tried_already(stage: Stage, seen: set[str]) -> bool:
    """Whether a corruption of ours was tried already: what images one takes, all take; with photos of the user's it is tried by itself."""
    recipe = stage.about.get("recipe")
    if stage.kind != "corruption" or (recipe is not None and (is_own(recipe.name) or recipe.options.get("photos"))):
        return False
    before = stage.kind in seen
    seen.add(stage.kind)
    return before


def try_out(case: Case, stage: Stage, ready_stage: ReadyStage, pool: Pool) -> None:
    """Asks a stage for its first outcome on two clean images with the model's own labels, so that all of them count as right."""
    assert pool.pixels is not None
    places, pixels = readable_rows(pool.pixels, len(pool), TRIAL_IMAGES, pool.skips_damaged)
    x = pixels_for_model(pixels, case.exact_model, case.device)
    with torch.no_grad():
        logits = padded_logits(case.exact_model, x).cpu()
    check_logits(logits, pool.y)
    if stage.images is not None:
        x = pixels_for_model(stage.images(places, pool.pixels), case.exact_model, case.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what is to be told is told when the stage runs
        next(iter(ready_stage.measure(Chunk(x, logits.argmax(1), pool.ids[places], places))), None)


def run_block(run: Run, places: Tensor) -> None:
    """Takes images through all stages."""
    mine = torch.zeros(len(run.pool), dtype=torch.bool)
    mine[run.world.share(places)] = True
    for stage in run.stages:
        if stage.is_shared:
            run_shared_stage(run, stage, places, mine)
        else:
            for case in run.cases:
                run_subject_stage(run, stage, case, places, mine)


def waiting_places(run: Run, stage: Stage, case: Case, places: Tensor, mine: Tensor) -> Tensor:
    """Those of the places that a stage is for and that have not been through it, in their order."""
    waiting = stage.on(run.ledger, case.name) & ~run.ledger.is_done(case.name, stage) & mine & ~run.ledger.is_skipped()
    return places[waiting[places]]


def announce(stage: Stage, pool: Pool, places: Tensor) -> None:
    """Lets images on the disk be decoded ahead: those that a stage will be given."""
    first = stage
    while first.source is not None:
        first = first.source
    if first.expect is not None:
        first.expect(places)
    elif pool.source is not None:
        pool.source.expect(places)


def readable_images(run: Run, stage: Stage | None, places: Tensor, pool: Pool, case: Case | None) -> tuple[Tensor, Tensor]:
    """Those of the places whose images can be read, and their images as a stage leaves them, as `stage_images` gives them.

    Where others are to be left out, an entry of the journal says which, for all subjects and stages.

    Raises:
        UnfinishedError: where an image cannot be read and none is to be left out.
        InputError: where no image can be read.
    """
    while len(places):
        try:
            return places, stage_images(stage, places, pool, case)
        except DamagedImageError as error:
            if not pool.skips_damaged:
                again = ", with --resume" if run.store.keeps_state else ""
                raise UnfinishedError(f"{error}{again}") from error
            entry = {"skipped": [int(places[row]) for row in error.reasons], "why": list(error.reasons.values())}
            run.store.journal.append(entry)
            run.ledger.skip(entry)
            places = places[~run.ledger.is_skipped()[places]]
    return places, torch.empty(0, *pool.shape)


def run_subject_stage(run: Run, stage: Stage, case: Case, places: Tensor, mine: Tensor) -> None:
    """A stage whose images belong to one subject."""
    waiting = waiting_places(run, stage, case, places, mine)
    announce(stage, case.pool, waiting)
    chunks = waiting.split(run.batch_size) if len(waiting) else ()
    measure = stage.begin(case).measure if len(waiting) else None
    for chunk in run.track(chunks, progress_label(run, stage, case), partial(run.sentence_of or standing_sentence, run, stage, case)):
        assert measure is not None
        begin = time.perf_counter()
        readable, x = readable_images(run, stage if stage.images is not None else stage.source, chunk, case.pool, case)
        if not len(readable):
            continue
        x = pixels_for_model(x, case.exact_model, case.device)
        if stage.kind == "corruption" and stage.is_reported:
            write_made_images(run, stage, "", case, readable, x)
        measure_chunk(run, stage, case, measure, readable, x, begin)


def write_source_images(run: Run, stage: Stage, case: Case, places: Tensor, x: Tensor) -> None:
    """Writes the images of a source into the files of adversarial images of the cascades on them: they stay where nothing is found."""
    attacks = [other for other in run.stages if other.kind == "attack" and other.is_reported and other.source is stage]
    for cascade in dict.fromkeys(str(attack.about["cascade"]) for attack in attacks):
        write_array_rows(case.saved.get(cascade), places, x)


def run_shared_stage(run: Run, stage: Stage, places: Tensor, mine: Tensor) -> None:
    """A stage whose images are the same for all subjects that are shown the same pixels: made once for these, and for the taker."""
    pools = list(dict.fromkeys([run.pool, *(case.pool for case in run.cases)]))
    for pool in pools:
        cases = [case for case in run.cases if case.pool is pool]
        takes = pool is run.pool and run.taker is not None and run.taker.wants(stage)
        if cases or takes:
            run_stage_on_pool(run, stage, pool, cases, takes, places, mine)


def run_stage_on_pool(run: Run, stage: Stage, pool: Pool, cases: Sequence[Case], takes: bool, places: Tensor, mine: Tensor) -> None:
    """A shared stage for the subjects that are shown the pixels of one pool: to those who have not seen them, and to the taker."""
    waiting = {case.name: waiting_places(run, stage, case, places, mine) for case in cases}
    union = torch.zeros(len(pool), dtype=torch.bool)
    for some in waiting.values():
        union[some] = True
    if takes:
        union[places] = True
    needed_places = places[(union & ~run.ledger.is_skipped())[places]]
    announce(stage, pool, needed_places)
    chunks = needed_places.split(run.batch_size) if len(needed_places) else ()
    measures = {case.name: stage.begin(case).measure for case in cases if len(waiting[case.name])}
    owner = cases[0] if cases and pool is not run.pool else None  # whose name the files of made images bear
    for chunk in run.track(chunks, progress_label(run, stage, owner)):
        begin = time.perf_counter()
        readable, x = readable_images(run, stage, chunk, pool, None)
        if takes and run.taker is not None:
            run.taker.take(stage, readable, x)
        if stage.is_reported and len(readable):
            write_made_images(run, stage, "", owner, readable, pixels_for_model(x, cases[0].exact_model, run.device) if cases else x)
        for case in cases:
            rows = (~run.ledger.is_done(case.name, stage) & mine)[readable] & stage.on(run.ledger, case.name)[readable]
            if bool(rows.any()):
                own = pixels_for_model(x if bool(rows.all()) else x[rows.to(x.device)], case.exact_model, case.device)
                measure_chunk(run, stage, case, measures[case.name], readable[rows], own, begin)
                begin = time.perf_counter()


def measure_chunk(
    run: Run, stage: Stage, case: Case, measure: Callable[[Chunk], Iterable[Outcome]], places: Tensor, x: Tensor, begin: float
) -> None:
    """Measures a chunk, and adds its entry to the journal and the ledger."""
    chunk, pool = Chunk(x, run.pool.y[places], run.pool.ids[places], places), case.pool
    if stage.kind == "corruption" and not stage.is_reported:
        write_source_images(run, stage, case, places, x)
    timed = []
    for outcome in measure(chunk):
        if stage.keeps_images and outcome.x is not None:
            write_stage_images(case, stage, places, outcome.x, pool)
            write_source_images(run, stage, case, places, outcome.x)
        if stage.is_reported and outcome.x is not None:
            write_made_images(run, stage, outcome.level, case, places, outcome.x)
        now = time.perf_counter()
        columns = outcome.columns
        if stage.kind == "clean" and pool.source is not None:
            columns = {**columns, PIXELS_COLUMN: pool.source.pixel_digests(places)}
        timed.append((replace(outcome, x=None, columns=columns), now - begin))
        begin = now
    entry = entry_of(case.name, stage, chunk, timed) | ({"spent": run.clock()} if run.clock is not None else {})
    run.store.journal.append(entry)
    run.ledger.add(entry)


def write_made_images(run: Run, stage: Stage, level: str, case: Case | None, places: Tensor, x: Tensor) -> None:
    """Writes the images that a probe or a corruption made into their file, x-NAME-LEVEL.npy; those that it was not tried on stay zero."""
    if run.made_folder is None or stage.kind not in ("probe", "corruption"):
        return
    who = [case.name] if case is not None and run.has_several_subjects else []
    file = run.made_folder / f"x-{'-'.join(file_stem(word) for word in (*who, stage.name, level) if word)}.npy"
    done = any(bool(run.ledger.is_done(one.name, stage).any()) for one in ([case] if case is not None else run.cases))
    run.store.check(file, done)
    if not file.exists():
        make_array_file(file, (len(run.pool), *(run.pool if case is None else case.pool).shape))
    write_array_rows(file, places, x)


def write_stage_images(case: Case, stage: Stage, places: Tensor, x: Tensor, pool: Pool) -> None:
    """Keeps the images that a stage made for later stages."""
    file = case.store.file(stage_file_name(stage, case))
    if not file.exists():
        make_array_file(file, (len(pool), *pool.shape))
    write_array_rows(file, places, x)


def progress_label(run: Run, stage: Stage, case: Case | None) -> str:
    """A stage as the progress names it."""
    if stage.kind == "corruption":
        name = f"{stage.about['corruption']} {stage.about['severity']}"
    elif stage.kind == "method":
        name = f"{stage.about['method']} {stage.about['images']}"
    else:
        name = stage.name
    return f"{case.name}: {name}" if case is not None and run.has_several_subjects else name


def standing_sentence(run: Run, stage: Stage, case: Case) -> str | None:
    """What a stage of a cascade has left, as a sentence; where several processes share the images, of the share of this one."""
    if stage.kind not in ("clean", "attack") or not any(other.kind == "attack" for other in run.stages):
        return None if stage.kind != "joined" else ""
    ledger, clean = run.ledger, run.stages[0]
    n = int(ledger.is_done(case.name, clean).sum())
    standing = int((ledger.right(case.name, stage) & ledger.is_done(case.name, clean)).sum())
    radii = {other.threat for other in run.stages if other.kind == "attack"}
    several = len(radii) > 1 and stage.threat is not None
    name = f"{stage.name} at {eps_text(stage.threat.eps)}" if several and stage.threat else stage.name
    if len({threat.norm for threat in radii if threat}) > 1 and stage.threat:
        name = f"{stage.name} at {stage.threat.norm} {eps_text(stage.threat.eps)}"
    share = " of this process" if run.world.size > 1 else ""
    seconds = sum(record.seconds for record in ledger.levels(case.name, stage).values())
    who = f"{case.name}: " if run.has_several_subjects else ""
    return f"{who}{name}: {standing} of {n} image{'s' * (n != 1)}{share} stand{'s' * (n == 1)}, {seconds:.1f} s"


def entry_of(subject: str, stage: Stage, chunk: Chunk, timed: Iterable[tuple[Outcome, float]]) -> dict[str, Any]:
    """The outcomes of a stage on a chunk, each with its seconds, as plain JSON: per-image tensors become lists."""
    levels = [
        {
            "level": outcome.level, "repeat": outcome.repeat, "seconds": seconds, "extras": dict(outcome.extras),
            "columns": {name: values if isinstance(values, list) else values.tolist() for name, values in outcome.columns.items()},
        }
        for outcome, seconds in timed
    ]  # fmt: skip
    return {"subject": subject, "stage": stage.key, "places": chunk.places.tolist(), "levels": levels}
