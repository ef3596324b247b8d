"""A run from its beginning to its end: models made ready, stages admitted, images taken through them in blocks, state kept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench.attacks.kernels import compiled_kernels
from robench.core.draws import Draws
from robench.core.errors import InputError, UnfinishedError
from robench.core.folders import Destination
from robench.core.inputs import FunctionModule
from robench.core.journal import Adds, has_begun
from robench.core.memory import explain_out_of_memory
from robench.core.model_calls import freeze_model, padded_logits
from robench.core.processes import World, current_world
from robench.core.recipes import Recipe, options_of
from robench.core.rows import WILSON, Check, IntervalKind
from robench.models.contract import CONTRACT_IMAGES, examine_model, refuse_absent_weights
from robench.models.identity import code_digests, model_identity
from robench.models.stand_ins import arithmetic, cheaper_stand_in
from robench.runs import diagnostics
from robench.runs.images import stage_file_name
from robench.runs.ledger import Ledger
from robench.runs.loop import Run, Taker, admit, anytime_interval, exchange_entries, run_block, shuffled_places
from robench.runs.stages.clean import check_logits
from robench.runs.store import Store, hold_run_files, make_array_file, open_store, unwritten_mask
from robench.runs.types import Case, Pool, Stage, Subject, Track, pixels_for_model, untracked_chunks

DIAGNOSED_IMAGES = 64  # how many images the diagnostics look at
ENTRY_FORMAT = 3  # counts the forms that the entries of a state have had: one of another form is not taken up
RAMP, MARGIN = (
    4,
    1.1,
)  # a block of a run with a budget has at most RAMP times the images seen; the next is feared to be MARGIN times as slow


@dataclass(frozen=True)
class RunOptions:
    """How a run is made, beside its subjects, images and stages; see `evaluation.evaluate` for each."""

    seed: int = 0
    batch_size: int = 250
    device: str = "cpu"
    engine: str = "robench"
    precision: str = "fp32"
    compiled: bool = False
    until: float | None = None
    budget: float | None = None
    folder: Path | Destination | None = None
    resume: bool = False
    examine: bool = False
    prepare: bool = False
    track: Track = untracked_chunks
    made: Path | None = None


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What a run found: the ledger with all that its rows follow from.

    interval  how the intervals of accuracies after attacks are found        notes  sentences on the run as a whole
    spent     seconds that a run with a budget has taken, over all resumes
    """

    cases: Sequence[Case]
    stages: Sequence[Stage]
    pool: Pool
    ledger: Ledger
    interval: IntervalKind
    notes: Sequence[str]
    spent: float = 0.0

    def stages_of_kind(self, kind: str) -> list[Stage]:
        """The stages of a kind that have rows of their own, in order."""
        return [stage for stage in self.stages if stage.kind == kind and stage.is_reported]


def execute(
    subjects: Sequence[Subject], pool: Pool, stages: Sequence[Stage], how: RunOptions, *, images: str = "", data: str = "",
    save: Mapping[tuple[str, str], Path] | None = None, pngs: Mapping[tuple[str, str], Path] | None = None,
    words: Mapping[str, Any] | None = None, adds: Adds | None = None, taker: Taker | None = None,
) -> FinishedRun:  # fmt: skip
    """Runs the stages on the images for all subjects.

    images  digest of the images                   data   their name
    save    (subject, cascade) -> the .npy file that takes the adversarial images; pngs likewise the beginning of the pictures' paths
    words   what else tells the run apart, for its state; plain values
    adds    adds(theirs, ours) -> whether a header only adds to that of an earlier run, which can then go on
    taker   what else wants the images of shared stages

    In a torch.distributed process group each process takes its share of the images, and all return the whole.
    Raises InputError for images, labels or logits that cannot be measured, and for what does not go together.
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
        attacks = any(stage.kind == "attack" for stage in stages)
        cases = [
            case_of(subject, name, pool, ledger, how, mode)
            for subject, name, mode in zip(subjects, distinct_names(subjects), modes, strict=True)
        ]
        run = Run(cases, stages, pool, ledger, Store.nowhere(world), world, how.batch_size, how.device, how.track, taker)
        admit(run)
        header = header_of(cases, stages, pool, how, images=images, data=data, words=words or {}) if work else {}
        store = stack.enter_context(open_store(world, folder, header, resume=how.resume, adds=partial(can_resume, adds)))
        restore_ledger(ledger, cases, stages, store)
        world.first_of(0)
        before = max((entry.get("spent", 0.0) for entry in store.journal.entries), default=0.0)
        run = replace(run, store=store, made=how.made, clock=(lambda: before + now() - begin) if how.budget is not None else None)
        refuse_lost_maps(cases, stages, store)
        for case in cases:
            case.saves_made_images = how.made is not None
            case.store, case.remembers = store, any(stage.kind == "method" for stage in stages)
            case.saved = adversarial_files(case, save, store, world)
            case.pngs = {cascade: path for (name, cascade), path in pngs.items() if name == case.name}
            if attacks:
                case.model, notes = stand_in_model(case, how)
                case.notes += notes
            if how.examine and attacks:
                case.checks += case_diagnostics(run, case)
        interval, notes, spent = run_in_blocks(run, how)
    return FinishedRun(cases, stages, pool, ledger, interval, notes, spent)


def now() -> float:
    """The time in seconds, by which budgets are kept."""
    return time.monotonic()


def can_resume(adds: Adds | None, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a run may go on with the state of another: one that only adds to it, or one that goes on without the other's budget."""
    same = {**theirs, "budget": theirs.get("budget") and ours["budget"]}
    return same == ours or (adds is not None and adds(same, ours))


def refuse_function(model: nn.Module, folder: Path | None) -> None:
    """InputError where a run that can go on would have to know a plain function again."""
    if isinstance(model, FunctionModule) and folder is not None:
        raise InputError(
            "a run that keeps its state in a folder must know its model by its weights: hand over a torch.nn.Module, or no folder"
        )


def distinct_names(subjects: Sequence[Subject]) -> list[str]:
    """A name for each subject: its own, with its number behind it where one before it has the same."""
    names = [subject.name for subject in subjects]
    return [name if name not in names[:place] else f"{name}#{place}" for place, name in enumerate(names)]


def case_of(subject: Subject, name: str, pool: Pool, ledger: Ledger, how: RunOptions, modes: Sequence[bool]) -> Case:
    """A subject made ready: looked at on a few images, and behind what it needs to keep the contract."""
    first = torch.arange(min(max(CONTRACT_IMAGES, 8), len(pool)))
    few = pixels_for_model(first_pixels(pool, first), subject.model, how.device)
    seen = examine_model(subject.model, few[:CONTRACT_IMAGES])
    trained = diagnostics.train_mode_check(modes, seen.checks)
    logits = uncounted_logits(seen.model, few)
    check_logits(logits, pool.y)
    notes = [
        *(["the model is a plain function: what it calls runs in the mode that it is in, so put that into eval mode yourself"]
          if isinstance(subject.model, FunctionModule) else []),
        *seen.notes,
    ]  # fmt: skip
    return Case(
        subject, name, seen.model, seen.model, few, logits.shape[1], pool, ledger, Store.nowhere(World()), how.seed, how.batch_size,
        how.device, how.precision, checks=[trained, *seen.checks], notes=notes,
    )  # fmt: skip


def first_pixels(pool: Pool, places: Tensor) -> Tensor:
    """Some images of the pool to look at a model with: mild ones where those as they are are not known."""
    if pool.pixels is not None:
        return pool.pixels(places)
    if pool.mild is None:
        raise InputError("there are no images to look at the model with")
    return pool.mild(places)


def uncounted_logits(model: nn.Module, x: Tensor) -> Tensor:
    """The logits (B, K) of some images on the CPU, by an uncounted pass; InputError where the model returns something else."""
    with torch.no_grad():
        logits = padded_logits(model, x)
    if logits.dim() != 2 or len(logits) != len(x):
        raise InputError(f"the model returns {tuple(logits.shape)} for {len(x)} images: expected logits (B, K)")
    return logits.cpu()


def stand_in_model(case: Case, how: RunOptions) -> tuple[nn.Module, list[str]]:
    """The stand-in that the attacks are given, and notes on it; the reference engine gets the model itself."""
    if how.engine == "reference":
        if how.precision != "fp32":
            raise InputError(f"the reference engine runs in fp32: leave --precision {how.precision} out")
        return case.exact_model, []
    if how.precision == "fp32" and not how.prepare:
        return case.exact_model, []
    x = pixels_for_model(first_pixels(case.pool, torch.arange(min(DIAGNOSED_IMAGES, len(case.pool)))), case.exact_model, how.device)
    normed = any(
        isinstance(module, nn.BatchNorm2d) for module in case.exact_model.modules()
    )  # a rule, not a race: the same bits in every run
    return cheaper_stand_in(
        case.exact_model, x, precision=how.precision, channels_last=normed if x.device.type == "cpu" else how.precision != "fp32"
    )


def adversarial_files(case: Case, save: Mapping[tuple[str, str], Path], store: Store, world: World) -> dict[str, Path]:
    """The files of adversarial images of a case, made anew unless the run goes on. InputError if one is gone."""
    found = {cascade: path for (name, cascade), path in save.items() if name == case.name}
    for path in found.values():
        if any("stage" in entry for entry in store.journal.entries):
            store.check(path, True)
        elif world.rank == 0:
            path.unlink(missing_ok=True)
            make_array_file(path, (len(case.pool), *case.pool.shape))
    world.first_of(0)
    return found


def restore_ledger(ledger: Ledger, cases: Sequence[Case], stages: Sequence[Stage], store: Store) -> None:
    """Adds what the journal holds to the ledger, but for stages whose images are gone and still asked for: these are made again."""
    entries = [entry for entry in store.journal.entries if "stage" in entry]
    lost: dict[tuple[str, str], Tensor] = {}
    while True:
        known = Ledger(ledger.y)
        for entry in entries:
            where = (entry["subject"], entry["stage"])
            if where not in lost or not bool(lost[where][entry["places"]].any()):
                known.add(entry)
        more = {where: gone for where, gone in lost_places(known, cases, stages, store).items() if bool(gone.any())}
        if not more:
            break
        lost |= {where: gone | lost.get(where, False) for where, gone in more.items()}
    for entry in entries:
        where = (entry["subject"], entry["stage"])
        if where not in lost or not bool(lost[where][entry["places"]].any()):
            ledger.add(entry)


def lost_places(known: Ledger, cases: Sequence[Case], stages: Sequence[Stage], store: Store) -> dict[tuple[str, str], Tensor]:
    """The places, (N,) bool, where a stage is done but its images are not there, by (subject, stage), if a later stage needs them yet."""
    found = {}
    for case in cases:
        for stage in stages:
            if not stage.keeps_images or stage.images is not None:
                continue
            needed = torch.zeros(known.n, dtype=torch.bool)
            for later in stages:
                if stage in source_chain(later):
                    needed |= later.on(known, case.name) & ~known.done(case.name, later)
            places = (needed & known.done(case.name, stage)).nonzero().flatten()
            gone = torch.zeros(known.n, dtype=torch.bool)
            gone[places] = unwritten_mask(store.file(stage_file_name(stage, case)), places)
            found[case.name, stage.key] = gone
    return found


def source_chain(stage: Stage) -> list[Stage]:
    """The stages through which the images of a stage have come."""
    return [] if stage.source is None else [stage.source, *source_chain(stage.source)]


def refuse_lost_maps(cases: Sequence[Case], stages: Sequence[Stage], store: Store) -> None:
    """InputError where a run goes on whose maps are gone."""
    for case in cases:
        for stage in stages:
            file = stage.about["save"](case.name, stage.about["method"]) if "save" in stage.about and stage.source is None else None
            if file is not None:
                store.check(file, bool(case.ledger.done(case.name, stage).any()))


def case_diagnostics(run: Run, case: Case) -> list[Check]:
    """The diagnostics on the first images, of the first process, from the journal where they are there already."""
    known = [entry["checks"] for entry in run.store.journal.entries if "checks" in entry and entry["subject"] == case.name]
    if not known and run.world.rank == 0:
        places = torch.arange(min(DIAGNOSED_IMAGES, len(run.pool)))
        attacks = [stage for stage in run.stages if stage.kind == "attack"]
        draws = Draws(case.seed, run.pool.ids[places].to(case.device), "diagnostics")
        y = run.pool.y[places].to(case.device)
        random = any(options_of(stage.about["attack"]).get("eot", 1) > 1 for stage in attacks)
        x, threat = pixels_for_model(first_pixels(run.pool, places), case.exact_model, case.device), attacks[-1].threat
        assert threat is not None
        found = diagnostics.model_checks(case.exact_model, x, y, threat, draws, randomised_ok=random)
        known = [[[check.probe, check.name, check.value, check.raised, check.sentence] for check in found]]
        run.store.journal.append({"checks": known[0], "subject": case.name})
    return [Check(*values) for values in run.world.first_of(known)[0]]


def run_in_blocks(run: Run, how: RunOptions) -> tuple[IntervalKind, list[str], float]:
    """Takes all images through the stages at once, or block after block until an interval is narrow or the budget is spent."""
    n = len(run.pool)
    if how.until is None and how.budget is None:
        run_block(run, torch.arange(n))
        exchange_entries(run, 0)
        return WILSON, [], 0.0
    order, seen, since, notes = shuffled_places(n, how.seed), 0, 0, list[str]()
    interval = anytime_interval(n) if how.until is not None else WILSON
    blocks, narrowed = BlockSizes(run, how), False
    while not narrowed and (size := blocks.next_size(seen)):
        seen += size
        run_block(replace(run, sentence_of=partial(progress_sentence, interval, order[:seen], how)), order[seen - size : seen])
        since = exchange_entries(run, since)
        narrowed = how.until is not None and is_narrow_enough(run, interval, order[:seen], how.until)
    run.ledger.seen = torch.zeros(n, dtype=torch.bool)
    run.ledger.seen[order[:seen]] = True
    what = f"of which {seen} were seen" if seen < n or how.until is not None else ""
    if how.until is not None:
        notes.append(f"the intervals speak of the {n} chosen images alone, {what}, not of others like them")
    notes += [] if narrowed else blocks.notes(seen)
    return interval, notes, blocks.spent()


class BlockSizes:
    """How large the next block of a run is: the batch size, or as many images as the time that is left is enough for.

    A first block that would not fit is made smaller: of a run with a budget the first images come one, then four times as many as were
    seen before, until a block is full or the time is spent. What a block will take is judged by the time an image took in the block before.
    The sizes of these blocks are in the journal, so that a run that was broken off in the middle of one ends it first.
    """

    def __init__(self, run: Run, how: RunOptions) -> None:
        self.run, self.how, self.n = run, how, len(run.pool)
        entries = run.store.journal.entries if how.budget is not None else []
        self.begun: list[tuple[int, float]] = [(entry["block"], entry["spent"]) for entry in entries if "block" in entry]
        self.count = 0

    def spent(self) -> float:
        """The seconds that the run has taken over all resumes, on the slowest process; 0 without a budget."""
        return max(self.run.world.gather(self.run.clock())) if self.run.clock is not None else 0.0

    def next_size(self, seen: int) -> int:
        """The size of the next block after `seen` images, 0 where the run is to stop."""
        size = min(self.how.batch_size, self.n - seen)
        if self.how.budget is None or not size:
            return size
        if self.count == len(self.begun):
            spent = self.spent()
            if size := self.fitting_size(seen, size, self.how.budget, spent):
                self.begun.append((size, spent))
                if self.run.world.rank == 0:
                    self.run.store.journal.append({"block": size, "spent": spent})
        self.count += bool(size)
        return self.begun[self.count - 1][0] if size else 0

    def fitting_size(self, seen: int, size: int, budget: float, spent: float) -> int:
        """How many of the next `size` images the time is enough for, 0 for none. UnfinishedError where the first image took all of it."""
        if not seen:
            return 1
        if seen == 1 and spent > budget:
            way = "give more, with --resume" if self.run.store.kept else "give more"
            raise UnfinishedError(f"a budget of {budget:g} s is too small: the first image was through after {spent:.1f} s: {way}")
        last, begin = self.begun[-1]
        took, wanted = MARGIN * (spent - begin), min(size, RAMP * seen)
        fits = wanted if took <= 0 else int(last * (budget - spent) / took)
        return min(wanted, fits) if fits >= min(last, wanted) else 0  # a smaller block may take as long as the last one

    def notes(self, seen: int) -> list[str]:
        """What is to be said where the budget ended the run."""
        if self.how.budget is None or seen == self.n:
            return []
        found = [f"the budget ended after {seen} of the {self.n} chosen images, which were drawn with the seed"]
        if seen < self.how.batch_size:
            found.append(f"a block of {min(self.how.batch_size, self.n)} images would not fit into the budget: the first one has {seen}")
        return found


def last_attacks(run: Run) -> list[Stage]:
    """The last attack of each cascade, whose verdicts are estimated."""
    return list({stage.about["cascade"]: stage for stage in run.stages if stage.kind == "attack" and stage.is_reported}.values())


def is_narrow_enough(run: Run, interval: IntervalKind, seen: Tensor, until: float) -> bool:
    """Whether every verdict's interval is narrow enough, that of the worst of several threats too."""
    # a journal may hold part of a later block: what has not been through all stages says nothing yet
    standing: list[Tensor] = []
    for case in run.cases:
        left = {stage: run.ledger.right(case.name, stage)[seen] for stage in last_attacks(run)}
        standing += left.values()
        if several := [some for stage, some in left.items() if stage.source is None]:
            standing.append(torch.stack(several).all(0))
    spans = [interval.bounds(int(some.sum()), len(seen)) for some in standing]
    return all((high - low) / 2 <= until for low, high in spans)


def progress_sentence(interval: IntervalKind, seen: Tensor, how: RunOptions, run: Run, stage: Stage, case: Case) -> str:
    """What is known once the images at the places `seen` have been through the last stage, as a sentence; "" before."""
    if stage is not run.stages[-1]:
        return ""
    who = f"{case.name}: " if run.has_several_subjects else ""
    if how.until is None or stage.kind != "attack":
        return f"{who}{len(seen)} images seen"
    left = int(run.ledger.right(case.name, stage)[seen].sum())
    low, high = interval.bounds(left, len(seen))
    span = f"95 % interval of the {len(run.pool)} chosen images {100 * low:.1f} - {100 * high:.1f}"
    return f"{who}{len(seen)} images seen: {100 * left / len(seen):.2f} % left, {span}"


def header_of(
    cases: Sequence[Case], stages: Sequence[Stage], pool: Pool, how: RunOptions, *, images: str, data: str, words: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run is, for its journal: a run with another header cannot go on with its state, unless it only adds to it."""
    digest = hashlib.sha256()
    for tensor in (pool.y, pool.ids):
        digest.update(tensor.contiguous().numpy().tobytes())
    models = [
        value for stage in stages if "attack" in stage.about for value in options_of(stage.about["attack"]).values()
        if isinstance(value, nn.Module)
    ]  # fmt: skip
    known = [model_identity(case.subject.model) for case in cases]
    told = how.engine == "reference" or how.until is not None  # where verdicts or the end depend on it
    return {
        "robench": version("robench"), "entries": ENTRY_FORMAT,
        "subjects": [case.name for case in cases],
        "architecture": [dict(case.subject.architecture) for case in cases],
        **{key: [one[key] for one in known] for key in ("weights", "modules", "code")},
        "surrogates": [model_identity(model) for model in models],
        "code of recipes": code_digests(*(recipe.name for stage in stages for recipe in recipes_of(stage))),
        "data": data, "n": len(pool), "images": images or digest.hexdigest(), "labels": digest.hexdigest(),
        "seed": how.seed, "until": how.until, "budget": how.budget is not None,
        "batch_size": how.batch_size if told else None, "precision": how.precision, **words,
        "stages": [[stage.key, *stage.words] for stage in stages],
        **({"masks": tensor_digest(pool.masks)} if pool.masks is not None and any(stage.kind == "method" for stage in stages) else {}),
    }  # fmt: skip


def tensor_digest(tensor: Tensor) -> str:
    """The sha256 of a tensor's numbers."""
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()


def recipes_of(stage: Stage) -> list[Recipe]:
    """The recipes that a stage was made from: its own, and those of the scores of its maps."""
    return [*([stage.about["recipe"]] if "recipe" in stage.about else []), *stage.about.get("scores", ())]
