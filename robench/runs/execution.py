"""A run from its beginning to its end: models made ready, stages admitted, images taken through them in blocks, state kept."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from robench.attacks.kernels import compiled_kernels
from robench.core.errors import InputError
from robench.core.folders import Destination
from robench.core.journal import Adds, has_begun
from robench.core.memory import explain_out_of_memory
from robench.core.model_calls import freeze_model
from robench.core.processes import current_world
from robench.core.rows import IntervalKind
from robench.models.contract import refuse_absent_weights
from robench.models.stand_ins import arithmetic
from robench.runs import diagnostics
from robench.runs.blocks import run_in_blocks
from robench.runs.cases import case_of, distinct_names, equip_case, refuse_function
from robench.runs.ledger import Ledger
from robench.runs.loop import Run, Taker, admit
from robench.runs.pools import pool_of_images
from robench.runs.resuming import (
    can_resume,
    header_of,
    name_changed_image,
    refuse_lost_maps,
    remember_pixels,
    restore_ledger,
)
from robench.runs.store import Store, hold_run_files, open_store
from robench.runs.types import Case, Pool, RunOptions, Stage, Subject


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What a run found: the ledger with all that its rows follow from.

    Attributes:
        cases: the subjects, made ready.
        stages: all stages in their order.
        pool: the images.
        ledger: every outcome.
        interval: how the intervals of accuracies after attacks are found.
        notes: sentences on the run as a whole.
        spent_seconds: seconds that a run with a budget has taken, over all resumes; 0 without a budget.
    """

    cases: Sequence[Case]
    stages: Sequence[Stage]
    pool: Pool
    ledger: Ledger
    interval: IntervalKind
    notes: Sequence[str]
    spent_seconds: float = 0.0

    def stages_of_kind(self, kind: str) -> list[Stage]:
        """The stages of a kind that have rows of their own, in order."""
        return [stage for stage in self.stages if stage.kind == kind and stage.is_reported]


def execute(
    subjects: Sequence[Subject], pool: Pool, stages: Sequence[Stage], how: RunOptions, *, images: str = "", data: str = "",
    save: Mapping[tuple[str, str], Path] | None = None, pngs: Mapping[tuple[str, str], Path] | None = None,
    words: Mapping[str, Any] | None = None, adds: Adds | None = None, taker: Taker | None = None,
) -> FinishedRun:  # fmt: skip
    """Runs the stages on the images for all subjects.

    In a torch.distributed process group each process takes its share of the images, and all return the whole.

    Args:
        subjects: the models.
        pool: the images.
        stages: the clean pass first, then the others; a stage stands behind those whose images it is given.
        how: the options of the run.
        images: digest of the images; "" for a digest of labels and ids.
        data: the name of the images.
        save: (subject, cascade) -> the .npy file that takes the adversarial images.
        pngs: (subject, cascade) -> the beginning of the paths of their pictures.
        words: plain values that identify the run in its state beside what is known here.
        adds: adds(theirs, ours) -> whether a header only adds to that of an earlier run, which can then go on.
        taker: what else takes the images of shared stages, such as an export.

    Raises:
        InputError: for images, labels or logits that cannot be measured, and for what does not go together.
        UnfinishedError: where the disk, the memory or the budget ends a run whose state is kept.
    """
    world, folder, begin = current_world(), how.folder, now()
    work = folder.work if isinstance(folder, Destination) else folder
    save, pngs = save or {}, pngs or {}
    names = [subject.name for subject in subjects]
    if twins := {name for name, _ in (*save, *pngs) if names.count(name) != 1}:
        raise InputError(f"several models are called {min(twins)!r}: give each a name of its own, so that their files can be told apart")
    ledger = Ledger(pool.y)
    for subject in subjects:
        refuse_absent_weights(subject.model, "the model")
        refuse_function(subject.model, work)
    modes = [diagnostics.modes_of(subject.model) for subject in subjects]
    with ExitStack() as stack:
        stack.enter_context(hold_run_files(world, folder, *save.values()))
        stack.enter_context(explain_out_of_memory(how.batch_size, partial(has_begun, work)))
        for subject in subjects:
            stack.enter_context(freeze_model(subject.model, how.device))
        stack.enter_context(compiled_kernels(how.compiled))
        stack.enter_context(arithmetic("fp32"))
        pools = pools_of_subjects(subjects, pool)
        cases = [
            case_of(subject, name, pools[subject.name], ledger, how, mode)
            for subject, name, mode in zip(subjects, distinct_names(subjects), modes, strict=True)
        ]
        run = Run(cases, stages, pool, ledger, Store.nowhere(world), world, how.batch_size, how.device, how.track, taker)
        admit(run)
        header = header_of(cases, stages, pool, how, images=images, data=data, words=words or {}) if work else {}
        stack.enter_context(name_changed_image(cases, work))
        store = stack.enter_context(open_store(world, folder, header, resume=how.resume, adds=partial(can_resume, adds)))
        restore_ledger(ledger, cases, stages, store)
        remember_pixels(cases, ledger)
        world.first_of(0)
        before = max((entry.get("spent", 0.0) for entry in store.journal.entries), default=0.0)
        run = replace(
            run,
            store=store,
            made_folder=how.made_folder,
            clock=(lambda: before + now() - begin) if how.budget is not None else None,
        )
        refuse_lost_maps(cases, stages, store)
        for case in cases:
            equip_case(run, case, how, save, pngs)
        interval, notes, spent = run_in_blocks(run, how)
    return FinishedRun(cases, stages, pool, ledger, interval, notes, spent)


def pools_of_subjects(subjects: Sequence[Subject], pool: Pool) -> dict[str, Pool]:
    """The images that each subject is shown, by its name: those of the run, or the same with pixels of its own; equal ones are one pool.

    Raises InputError where they are not the same images.
    """
    by_images: dict[int, Pool] = {}
    for images in [subject.images for subject in subjects if subject.images is not None]:
        if images.ids.cpu().tolist() != pool.ids.tolist() or images.y.cpu().tolist() != pool.y.tolist():
            raise InputError(
                "the images that a subject brings are not those of the run: ids and labels must be the same, in the same order"
            )
        same = pool.source is not None and images is pool.source
        by_images.setdefault(id(images), pool if same else pool_of_images(images))
    return {one.name: pool if one.images is None else by_images[id(one.images)] for one in subjects}


def now() -> float:
    """The time in seconds, by which budgets are kept."""
    return time.monotonic()
