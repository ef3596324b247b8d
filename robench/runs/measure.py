"""A run from its beginning to its end: models made ready, stages admitted, images taken through them in blocks, state kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench import diagnostics
from robench.attacks.kernels import compiled as compiled_kernels
from robench.calls import frozen, padded
from robench.destinations import Place
from robench.draws import Draws
from robench.errors import InputError
from robench.inputs import Function
from robench.journal import Adds, begun
from robench.memory import ending_told
from robench.models.contract import FEW, examined, refuse_absent
from robench.models.identity import code_of, identity
from robench.models.passes import arithmetic, cheaper
from robench.recipes import Recipe, options_of
from robench.rows import WILSON, Check, Interval
from robench.runs.images import file_of
from robench.runs.ledger import Ledger
from robench.runs.loop import Run, Taker, admit, anytime_of, exchange, run_block, shuffled
from robench.runs.stages.clean import check_logits
from robench.runs.store import Store, alone, make_rows, opened
from robench.runs.types import Case, Pool, Stage, Subject, Track, floats, untracked
from robench.shards import World, started

EXAMINED = 64  # how many images the diagnostics look at
ENTRIES = 3  # counts the forms that the entries of a state have had: one of another form is not taken up
FIRST = 16  # images of the first block of a run with a budget, which shows how long one takes


@dataclass(frozen=True)
class How:
    """How a run is made, beside its subjects, images and stages; see `evaluation.evaluate` for each."""

    seed: int = 0
    batch_size: int = 250
    device: str = "cpu"
    engine: str = "robench"
    precision: str = "fp32"
    compiled: bool = False
    until: float | None = None
    budget: float | None = None
    folder: Path | Place | None = None
    resume: bool = False
    examine: bool = False
    prepare: bool = False
    track: Track = untracked


@dataclass(frozen=True, eq=False)
class Measured:
    """What a run found: the ledger with all that its rows follow from.

    interval  how the intervals of accuracies after attacks are found        notes  sentences on the run as a whole
    spent     seconds that a run with a budget has taken, over all resumes
    """

    cases: Sequence[Case]
    stages: Sequence[Stage]
    pool: Pool
    ledger: Ledger
    interval: Interval
    notes: Sequence[str]
    spent: float = 0.0

    def of_kind(self, kind: str) -> list[Stage]:
        """The stages of a kind that have rows of their own, in order."""
        return [stage for stage in self.stages if stage.kind == kind and stage.reported]


def execute(
    subjects: Sequence[Subject], pool: Pool, stages: Sequence[Stage], how: How, *, images: str = "", data: str = "",
    save: Mapping[tuple[str, str], Path] | None = None, pngs: Mapping[tuple[str, str], Path] | None = None,
    words: Mapping[str, Any] | None = None, adds: Adds | None = None, taker: Taker | None = None,
) -> Measured:  # fmt: skip
    """Runs the stages on the images for all subjects.

    images  digest of the images                   data   their name
    save    (subject, cascade) -> the .npy file that takes the adversarial images; pngs likewise the beginning of the pictures' paths
    words   what else tells the run apart, for its state; plain values
    adds    adds(theirs, ours) -> whether a header only adds to that of an earlier run, which can then go on
    taker   what else wants the images of shared stages

    In a torch.distributed process group each process takes its share of the images, and all return the whole.
    Raises InputError for images, labels or logits that cannot be measured, and for what does not go together.
    """
    world, folder = started(), how.folder
    work = folder.work if isinstance(folder, Place) else folder
    save, pngs = save or {}, pngs or {}
    names = [subject.name for subject in subjects]
    if twins := {name for name, _ in (*save, *pngs) if names.count(name) != 1}:
        raise InputError(f"several models are called {min(twins)!r}: give each a name of its own, so that their files can be told apart")
    ledger = Ledger(pool.y)
    for subject in subjects:
        refuse_absent(subject.model, "the model")
        refuse_function(subject.model, work)
    modes = [diagnostics.modes_of(subject.model) for subject in subjects]
    with ExitStack() as stack:
        stack.enter_context(alone(world, folder, *save.values()))
        stack.enter_context(ending_told(how.batch_size, partial(begun, work)))
        for subject in subjects:
            stack.enter_context(frozen(subject.model, how.device))
        stack.enter_context(compiled_kernels(how.compiled))
        stack.enter_context(arithmetic("fp32"))
        attacks = any(stage.kind == "attack" for stage in stages)
        cases = [
            case_of(subject, name, pool, ledger, how, mode)
            for subject, name, mode in zip(subjects, told_apart(subjects), modes, strict=True)
        ]
        run = Run(cases, stages, pool, ledger, Store.nowhere(world), world, how.batch_size, how.device, how.track, taker)
        admit(run)
        header = header_of(cases, stages, pool, how, images=images, data=data, words=words or {}) if work else {}
        store = stack.enter_context(opened(world, folder, header, resume=how.resume, adds=adds))
        lost = lost_images(cases, stages, store)
        for entry in store.journal.entries:
            if "stage" in entry and (entry["subject"], entry["stage"]) not in lost:
                ledger.add(entry)
        world.agree(0)
        run = replace(run, store=store)
        for case in cases:
            case.store, case.remembers = store, any(stage.kind == "method" for stage in stages)
            case.saved = saved_of(case, save, store, world)
            case.pngs = {cascade: path for (name, cascade), path in pngs.items() if name == case.name}
            if attacks:
                case.model, notes = quicker(case, how)
                case.notes += notes
            if how.examine and attacks:
                case.checks += diagnosed(run, case)
        interval, notes, spent = in_blocks(run, how)
    return Measured(cases, stages, pool, ledger, interval, notes, spent)


def refuse_function(model: nn.Module, folder: Path | None) -> None:
    """InputError where a run that can go on would have to know a plain function again."""
    if isinstance(model, Function) and folder is not None:
        raise InputError(
            "a run that keeps its state in a folder must know its model by its weights: hand over a torch.nn.Module, or no folder"
        )


def told_apart(subjects: Sequence[Subject]) -> list[str]:
    """A name for each subject: its own, with its number behind it where one before it has the same."""
    names = [subject.name for subject in subjects]
    return [name if name not in names[:place] else f"{name}#{place}" for place, name in enumerate(names)]


def case_of(subject: Subject, name: str, pool: Pool, ledger: Ledger, how: How, modes: Sequence[bool]) -> Case:
    """A subject made ready: looked at on a few images, and behind what it needs to keep the contract."""
    first = torch.arange(min(max(FEW, 8), len(pool)))
    few = floats(first_pixels(pool, first), subject.model, how.device)
    seen = examined(subject.model, few[:FEW])
    trained = diagnostics.train_mode(modes, seen.checks)
    logits = logits_of(seen.model, few)
    check_logits(logits, pool.y)
    notes = [
        *(["the model is a plain function: what it calls runs in the mode that it is in, so put that into eval mode yourself"]
          if isinstance(subject.model, Function) else []),
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


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """The logits (B, K) of some images on the CPU, by an uncounted pass; InputError where the model returns something else."""
    with torch.no_grad():
        logits = padded(model, x)
    if logits.dim() != 2 or len(logits) != len(x):
        raise InputError(f"the model returns {tuple(logits.shape)} for {len(x)} images: expected logits (B, K)")
    return logits.cpu()


def quicker(case: Case, how: How) -> tuple[nn.Module, list[str]]:
    """The stand-in that the attacks are given, and notes on it; the reference engine gets the model itself."""
    if how.engine == "reference":
        if how.precision != "fp32":
            raise InputError(f"the reference engine runs in fp32: leave --precision {how.precision} out")
        return case.exact, []
    if how.precision == "fp32" and not how.prepare:
        return case.exact, []
    x = floats(first_pixels(case.pool, torch.arange(min(EXAMINED, len(case.pool)))), case.exact, how.device)
    normed = any(isinstance(module, nn.BatchNorm2d) for module in case.exact.modules())  # a rule, not a race: the same bits in every run
    return cheaper(case.exact, x, precision=how.precision, channels_last=normed if x.device.type == "cpu" else how.precision != "fp32")


def saved_of(case: Case, save: Mapping[tuple[str, str], Path], store: Store, world: World) -> dict[str, Path]:
    """The files of adversarial images of a case, made anew unless the run goes on. InputError if one is gone."""
    found = {cascade: path for (name, cascade), path in save.items() if name == case.name}
    for path in found.values():
        if any("stage" in entry for entry in store.journal.entries):
            store.check(path, True)
        elif world.rank == 0:
            path.unlink(missing_ok=True)
            make_rows(path, (len(case.pool), *case.pool.shape))
    world.agree(0)
    return found


def lost_images(cases: Sequence[Case], stages: Sequence[Stage], store: Store) -> set[tuple[str, str]]:
    """The (subject, stage) whose images later stages need and the state does not have, as those of a finished run: they are made again."""
    return {(case.name, stage.key) for case in cases for stage in stages if stage.kept and not store.file(file_of(stage, case)).exists()}


def diagnosed(run: Run, case: Case) -> list[Check]:
    """The diagnostics on the first images, of the first process, from the journal where they are there already."""
    known = [entry["checks"] for entry in run.store.journal.entries if "checks" in entry and entry["subject"] == case.name]
    if not known and run.world.rank == 0:
        places = torch.arange(min(EXAMINED, len(run.pool)))
        attacks = [stage for stage in run.stages if stage.kind == "attack"]
        draws = Draws(case.seed, run.pool.ids[places].to(case.device), "diagnostics")
        y = run.pool.y[places].to(case.device)
        random = any(options_of(stage.about["attack"]).get("eot", 1) > 1 for stage in attacks)
        x, threat = floats(first_pixels(run.pool, places), case.exact, case.device), attacks[-1].threat
        assert threat is not None
        found = diagnostics.examine(case.exact, x, y, threat, draws, randomised_ok=random)
        known = [[[check.probe, check.name, check.value, check.raised, check.sentence] for check in found]]
        run.store.journal.append({"checks": known[0], "subject": case.name})
    return [Check(*values) for values in run.world.agree(known)[0]]


def in_blocks(run: Run, how: How) -> tuple[Interval, list[str], float]:
    """Takes all images through the stages at once, or block after block until an interval is narrow or the budget is spent."""
    n = len(run.pool)
    if how.until is None and how.budget is None:
        run_block(run, torch.arange(n))
        exchange(run, 0)
        return WILSON, [], 0.0
    order, seen, since, notes = shuffled(n, how.seed), 0, 0, list[str]()
    interval = anytime_of(n) if how.until is not None else WILSON
    clock = Clock(run, how, order)
    while seen < n:
        size, note = clock.block(seen)
        notes += [note] if note else []
        if not size:
            break
        seen += size
        run_block(replace(run, telling=partial(so_far, interval, order[:seen], how)), order[seen - size : seen])
        since = exchange(run, since)
        if how.until is not None and narrow(run, interval, order[:seen], how.until):
            break
    run.ledger.seen = torch.zeros(n, dtype=torch.bool)
    run.ledger.seen[order[:seen]] = True
    what = f"of which {seen} were seen" if seen < n or how.until is not None else ""
    if how.until is not None:
        notes.append(f"the intervals speak of the {n} chosen images alone, {what}, not of others like them")
    elif seen < n:
        notes.append(f"the budget ended after {seen} of the {n} chosen images, which were drawn with the seed")
    return interval, notes, clock.spent(seen)


@dataclass
class Clock:
    """How large the next block of a run is: what the budget leaves room for, by the seconds that an image has taken so far."""

    run: Run
    how: How
    order: Tensor

    def spent(self, seen: int) -> float:  # noqa: ARG002
        """The seconds that the entries of the run took, on the slowest process."""
        journal = self.run.store.journal
        mine = seconds_of(journal.added)
        return seconds_of(journal.entries) / max(1, self.run.world.size) + max(self.run.world.gather(mine))

    def known(self, seen: int) -> int:
        """How many of the next images an earlier run has taken through all stages already: they cost nothing."""
        ledger = self.run.ledger
        waiting = torch.zeros(len(self.order), dtype=torch.bool)
        for case in self.run.cases:
            for stage in self.run.stages:
                waiting |= stage.on(ledger, case.name) & ~ledger.done(case.name, stage)
        left = waiting[self.order[seen:]].nonzero().flatten()
        return int(left[0]) if len(left) else len(self.order) - seen

    def block(self, seen: int) -> tuple[int, str]:
        """The size of the next block after `seen` images, 0 where the run is to stop, and a note."""
        size = min(self.how.batch_size, len(self.order) - seen)
        if self.how.budget is None:
            return size, ""
        if known := self.known(seen):
            return known, ""
        spent = self.spent(seen)
        if not seen:
            return min(size, FIRST), ""
        left, each = self.how.budget - spent, spent / seen
        fits = int(left / each) if each > 0 else size
        if fits >= size:
            return size, ""
        if seen == FIRST and fits >= 1:
            return fits, f"a block of {size} images would not fit into the budget: the first one has {fits + seen}"
        return 0, ""


def seconds_of(entries: Sequence[Mapping[str, Any]]) -> float:
    """The seconds that pieces of work took."""
    return math.fsum(level["seconds"] for entry in entries for level in entry.get("levels", ()))


def last_stages(run: Run) -> list[Stage]:
    """The last attack of each cascade, whose verdicts are estimated."""
    return list({stage.about["cascade"]: stage for stage in run.stages if stage.kind == "attack"}.values())


def narrow(run: Run, interval: Interval, seen: Tensor, until: float) -> bool:
    """Whether every verdict's interval is narrow enough, of the images that have been through all stages."""
    # a journal may hold part of a later block: what has not been through all stages says nothing yet
    spans = [
        interval.of(int(run.ledger.right(case.name, stage)[seen].sum()), len(seen)) for case in run.cases for stage in last_stages(run)
    ]
    return all((high - low) / 2 <= until for low, high in spans)


def so_far(interval: Interval, seen: Tensor, how: How, run: Run, stage: Stage, case: Case) -> str:
    """What is known once the images at the places `seen` have been through the last stage, as a sentence; "" before."""
    if stage is not run.stages[-1]:
        return ""
    who = f"{case.name}: " if run.several else ""
    if how.until is None or stage.kind != "attack":
        return f"{who}{len(seen)} images seen"
    left = int(run.ledger.right(case.name, stage)[seen].sum())
    low, high = interval.of(left, len(seen))
    span = f"95 % interval of the {len(run.pool)} chosen images {100 * low:.1f} - {100 * high:.1f}"
    return f"{who}{len(seen)} images seen: {100 * left / len(seen):.2f} % left, {span}"


def header_of(
    cases: Sequence[Case], stages: Sequence[Stage], pool: Pool, how: How, *, images: str, data: str, words: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run is, for its journal: a run with another header cannot go on with its state, unless it only adds to it."""
    digest = hashlib.sha256()
    for tensor in (pool.y, pool.ids):
        digest.update(tensor.contiguous().numpy().tobytes())
    models = [
        value for stage in stages if "attack" in stage.about for value in options_of(stage.about["attack"]).values()
        if isinstance(value, nn.Module)
    ]  # fmt: skip
    known = [identity(case.subject.model) for case in cases]
    told = how.engine == "reference" or how.until is not None or how.budget is not None  # where verdicts or the end depend on it
    return {
        "robench": version("robench"), "entries": ENTRIES,
        "subjects": [case.name for case in cases],
        "architecture": [dict(case.subject.architecture) for case in cases],
        **{key: [one[key] for one in known] for key in ("weights", "modules", "code")},
        "surrogates": [identity(model) for model in models],
        "code of recipes": code_of(*(recipe.name for stage in stages for recipe in recipes_of(stage))),
        "data": data, "n": len(pool), "images": images or digest.hexdigest(), "labels": digest.hexdigest(),
        "seed": how.seed, "until": how.until, "batch_size": how.batch_size if told else None, "precision": how.precision, **words,
        "stages": [[stage.key, *stage.words] for stage in stages],
    }  # fmt: skip


def recipes_of(stage: Stage) -> list[Recipe]:
    """The recipes that a stage was made from: its own, and those of the scores of its maps."""
    return [*([stage.about["recipe"]] if "recipe" in stage.about else []), *stage.about.get("scores", ())]
