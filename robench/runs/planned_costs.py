"""The costs of a run before it begins, from a few batches that are timed: nothing of the run is done, and nothing is written.

Attacks are counted on a model that no point fools (`runs.pass_counts`), so that what is said of them is the most that they can cost;
probes, corruptions and saliency methods are timed as they are, on the first images.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robench.attacks import attack_for_classes
from robench.attacks.facts import AttackFacts
from robench.attacks.kernels import compiled_kernels
from robench.core.decoding import DIGEST_LETTERS
from robench.core.facts import facts_above
from robench.core.memory import explain_out_of_memory
from robench.core.model_calls import freeze_model
from robench.core.processes import World, current_world
from robench.core.recipes import setting_text
from robench.data.files import png_bytes
from robench.models.contract import refuse_absent_weights
from robench.models.stand_ins import arithmetic
from robench.runs import diagnostics
from robench.runs.blocks import filled_up_rows
from robench.runs.case_times import CaseTimes, case_times, has_attacks, likely_attack_share, likely_method_share, share_notes
from robench.runs.cases import DIAGNOSED_IMAGES, case_of, distinct_names, stand_in_model
from robench.runs.costs import RunCosts, StageCost
from robench.runs.execution import pools_of_subjects
from robench.runs.ledger import PIXELS_COLUMN, Ledger
from robench.runs.loop import Run, admit, entry_of
from robench.runs.pass_counts import Passes, UnfooledModel, arithmetic_times, counted_passes, is_ours, label_for, with_options
from robench.runs.stages.attack import Attack, attack_outcomes
from robench.runs.stages.method import GALLERY_IMAGES
from robench.runs.store import Store
from robench.runs.timings import SizeTimes, times_by_size, watch_memory
from robench.runs.types import Case, Chunk, Outcome, Pixels, Pool, RunOptions, Stage, Subject, pixels_for_model

STAGE_SECONDS = 1.5  # that a stage as a whole may take on the largest number of images that it is timed on
FEW_SEQUENCES = 4  # that are timed: each has many frames
FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """A run that is planned: what its parts share.

    Attributes:
        pool: the images.
        stages: all stages.
        how: its options.
        models: each subject, made ready, with what a few batches have shown of it.
        most: images in the largest chunk of one process.
        counted: the passes of attacks that were counted already.
    """

    pool: Pool
    stages: Sequence[Stage]
    how: RunOptions
    models: Sequence[tuple[Case, CaseTimes]]
    most: int
    counted: dict[Any, Passes | None]

    def pools(self) -> dict[Pool, list[tuple[Case, CaseTimes]]]:
        """The models that are shown the same pixels, by these; the pixels of the run where there is no model."""
        by_pool: dict[Pool, list[tuple[Case, CaseTimes]]] = {} if self.models else {self.pool: []}
        for case, seen in self.models:
            by_pool.setdefault(case.pool, []).append((case, seen))
        return by_pool

    def places(self, pool: Pool) -> Tensor:
        """The places of the images that are timed, (M,)."""
        models = self.pools()[pool]
        return models[0][1].places if models else torch.arange(self.most)


def costs_of_run(
    subjects: Sequence[Subject],
    pool: Pool,
    stages: Sequence[Stage],
    how: RunOptions,
    *,
    saved: int = 0,
    pictures: int = 0,
    exported: int = 0,
) -> RunCosts:
    """The costs of a run, of which nothing is done.

    Args:
        subjects: the models.
        pool: the images.
        stages: as for `runs.execution.execute`.
        how: the options of the run.
        saved: number of .npy files with adversarial images.
        pictures: number of models and cascades whose adversarial images are written as pictures.
        exported: bytes that are written elsewhere.

    Raises:
        InputError: for what the run would refuse before its first image.
        UnfinishedError: where the memory does not hold a batch.
    """
    world, ledger = current_world(), Ledger(pool.y)
    for subject in subjects:
        refuse_absent_weights(subject.model, "the model")
    modes = [diagnostics.modes_of(subject.model) for subject in subjects]
    with ExitStack() as stack:
        stack.enter_context(explain_out_of_memory(how.batch_size))
        for subject in subjects:
            stack.enter_context(freeze_model(subject.model, how.device))
        stack.enter_context(compiled_kernels(how.compiled))
        stack.enter_context(arithmetic("fp32"))
        stack.enter_context(warnings.catch_warnings(action="ignore", category=RuntimeWarning))
        begin, pools = time.perf_counter(), pools_of_subjects(subjects, pool)
        cases = [
            case_of(subject, name, pools[subject.name], ledger, how, mode)
            for subject, name, mode in zip(subjects, distinct_names(subjects), modes, strict=True)
        ]
        admit(Run(cases, stages, pool, ledger, Store.nowhere(World()), World(), how.batch_size, how.device))
        for case in cases if has_attacks(stages) else ():
            case.model = stand_in_model(case, how)[0]
        prepared = time.perf_counter() - begin
        most = min(how.batch_size, -(-len(pool) // world.size))
        times = [case_times(case, stages, most) for case in cases]
        run = PlannedRun(pool, stages, how, list(zip(cases, times, strict=True)), most, {})
        costs = [*reading_costs(run), *(cost for stage in stages for cost in stage_costs(run, stage))]
    fixed = prepared + diagnostics_seconds(run)
    notes = [*share_notes(cases, times), *size_notes(costs, most), memory_note(how.device)]
    costs += [file_cost(name, disk) for name, disk in written_files(pool, saved, pictures, exported).items() if disk]
    filled_up = filled_up_rows(stages, [case.pool.shape for case in cases])
    return RunCosts(costs, len(pool), how.batch_size, how.device, world.size, filled_up, fixed, notes)


# --- the stages


def stage_costs(run: PlannedRun, stage: Stage) -> Iterator[StageCost]:
    """Yields what a stage costs for each model, and what making its images costs, once for all that are shown the same."""
    if stage.kind == "joined":
        return
    if stage.images is not None:
        yield from making_costs(run, stage)
    for case, seen in run.models:
        if stage.kind == "attack":
            yield attack_cost(run, case, seen, stage)
        elif stage.kind in ("clean", "corruption"):
            yield pass_cost(case, seen, stage)
        elif stage.kind == "sequence":
            yield sequence_cost(run, case, seen, stage)
        else:
            yield whole_stage_cost(case, seen, stage, run.how)


def stage_title(stage: Stage) -> str:
    """A stage as the table names it: corruptions without their severity, so that those of one are counted together."""
    return str(stage.about["corruption"]) if stage.kind == "corruption" else stage.name


def pass_cost(case: Case, seen: CaseTimes, stage: Stage) -> StageCost:
    """What a stage costs that asks a model once for each image."""
    digests: dict[str, Any] = {PIXELS_COLUMN: ["0" * DIGEST_LETTERS] * 8} if stage.kind == "clean" and case.pool.source is not None else {}
    entry = Outcome({"pred": torch.zeros(8, dtype=torch.int64), "margin": torch.full((8,), -1.2345678), **digests})
    return StageCost(
        case.name, stage.kind, stage_title(stage), passes=(1.0, 0.0), times=seen.exact, memory=seen.memory,
        disk=len(case.pool) * entry_bytes(case, stage, [entry], 8),
    )  # fmt: skip


def making_costs(run: PlannedRun, stage: Stage) -> Iterator[StageCost]:
    """Yields what the images cost that a stage makes: once for the models that are shown the same, else once for each of them."""
    for pool, models in run.pools().items():
        before, images, places = pool.pixels or pool.mild, stage.images, run.places(pool)
        assert images is not None
        assert before is not None
        with watch_memory(run.how.device) as peak:
            made = times_by_size(partial(call_with_places, images, places, before), len(places), run.how.device, limit=STAGE_SECONDS)
        count = 1 if stage.is_shared else len(models)
        written = count * (run.how.made_folder is not None and stage.is_reported) * array_bytes(pool)
        yield StageCost(
            "", "making", stage_title(stage), None, count, count, times=made, memory=peak.scaled(made.largest, run.most), disk=written
        )


def sequence_cost(run: PlannedRun, case: Case, seen: CaseTimes, stage: Stage) -> StageCost:
    """What asking a model for the labels of all frames costs."""
    before, images, places = case.pool.pixels or case.pool.mild, stage.images, seen.places[:FEW_SEQUENCES]
    assert images is not None
    assert before is not None
    frames = pixels_for_model(images(places, before), case.exact_model, case.device)
    measure, kept = stage.begin(replace(case, ledger=Ledger(case.pool.y))).measure, list[Outcome]()

    def call(size: int) -> None:
        kept[:] = measure(Chunk(frames[:size], case.pool.y[places[:size]], case.pool.ids[places[:size]], places[:size]))

    with watch_memory(case.device) as peak:
        times = times_by_size(call, len(places), case.device, limit=STAGE_SECONDS)
    disk = len(case.pool) * entry_bytes(case, stage, kept, times.largest)
    memory = peak.scaled(times.largest, run.most)
    return StageCost(case.name, "sequence", stage.name, passes=(frames.shape[1], 0), times=times, memory=memory, disk=disk)


def call_with_places(images: Callable[..., object], places: Tensor, before: Pixels, size: int) -> None:
    """Makes the images at the first places."""
    images(places[:size], before)


def attack_cost(run: PlannedRun, case: Case, seen: CaseTimes, stage: Stage) -> StageCost:
    """What an attack costs: at the most where all images are right and stand."""
    assert stage.threat is not None
    attack = attack_for_classes(stage.about["attack"], case.classes)
    known = (stage.name, setting_text(attack), stage.threat if not is_ours(attack) else stage.threat.norm, case.classes, case.pool.shape)
    if known not in run.counted:
        run.counted[known] = counted_passes(attack, case.classes, case.pool.shape, stage.threat, seed=case.seed)
    passes = run.counted[known]
    likely = likely_attack_share(seen, stage, passes)
    base = StageCost(case.name, "attack", stage.name, stage.threat, 1.0, likely, disk=attack_disk(case, stage))
    if passes is None:
        return base
    with watch_memory(case.device) as peak:
        own = arithmetic_of_attack(case, stage, attack, run.most)
    if own is None:
        return base
    whole = Passes(passes.forwards + 1, passes.backwards)  # the last word of the model itself
    sizes = sorted({run.most, *(size for size, _ in (*own.points, *seen.both.points) if size <= run.most)})
    points = tuple((size, seen.seconds(whole, size) + whole.forwards * own.seconds(size)) for size in sizes)
    memory = seen.memory + peak.scaled(own.largest, run.most) - peak.before
    return replace(base, passes=(whole.forwards, whole.backwards), times=SizeTimes(points), memory=memory)


def arithmetic_of_attack(case: Case, stage: Stage, attack: Attack, most: int) -> SizeTimes | None:
    """The seconds that an attack and what a run does with its points take beside each forward pass, by number of images."""
    assert stage.threat is not None
    facts, label = facts_above(attack, AttackFacts), label_for(attack)
    typical = with_options(attack, {**facts.steady_options, **facts.typical_options})
    model = UnfooledModel(case.first_images[0].float(), case.classes, label, stage.threat)
    trial = replace(case, exact_model=model, model=model, ledger=Ledger(case.pool.y), saved={}, pngs={}, checks=[], notes=[])

    def run(_: nn.Module, x: Tensor, y: Tensor) -> None:
        places = torch.arange(len(x))
        list(attack_outcomes(trial, stage, typical, Chunk(x, y, case.pool.ids[places], places)))

    return arithmetic_times(run, model, most, label, STAGE_SECONDS)


def attack_disk(case: Case, stage: Stage) -> int:
    """The bytes that an attack writes into the state: an entry for each image, the images that later stages are given, some examples."""
    n = 8
    columns: dict[str, Any] = {
        "fell": torch.zeros(n, dtype=torch.bool), "pred": torch.zeros(n, dtype=torch.int64), "margin": torch.full((n,), -1.2345678),
        "distance": torch.full((n,), 0.03137255), "step": torch.full((n,), 100), "forwards": torch.full((n,), 1000),
        "backwards": torch.full((n,), 1000), "reached": torch.zeros(n, dtype=torch.bool), "rounded": torch.full((n,), -1), "png": [""] * n,
    }  # fmt: skip
    kept = array_bytes(case.pool) if stage.keeps_images else 0
    examples = min(8, len(case.pool)) * image_bytes(case.pool) * 4 // 3
    return len(case.pool) * entry_bytes(case, stage, [Outcome(columns)], n) + kept + examples


def whole_stage_cost(case: Case, seen: CaseTimes, stage: Stage, how: RunOptions) -> StageCost:
    """What a probe or a saliency method costs, timed as a whole on the first images as they are."""
    trial = replace(case, is_trial=True, ledger=Ledger(case.pool.y), saved={}, pngs={}, checks=[], notes=[], remembers=True, logits=None)
    measure, places, known = stage.begin(trial).measure, seen.places, seen.logits.cpu()
    labels = known.argmax(1) if stage.kind == "probe" else case.pool.y[places]
    trial.remember(places[: len(known)], known.float())
    found: dict[int, list[Outcome]] = {}

    def call(size: int) -> None:
        found[size] = list(measure(Chunk(seen.x[:size], labels[:size], case.pool.ids[places[:size]], places[:size])))

    with watch_memory(case.device) as peak:
        times = times_by_size(call, len(labels), case.device, limit=STAGE_SECONDS)
    outcomes = found[times.largest]
    disk = len(case.pool) * entry_bytes(case, stage, outcomes, times.largest)
    levels = len({outcome.level for outcome in outcomes})
    if stage.kind == "probe":
        disk += array_bytes(case.pool) * (levels * (how.made_folder is not None and stage.is_reported) + stage.keeps_images)
    elif stage.source is None:
        saved = stage.about["save"](case.name, stage.about["method"]) is not None if "save" in stage.about else False
        disk += saved * array_bytes(case.pool) + min(GALLERY_IMAGES, len(case.pool)) * image_bytes(case.pool) * 4 // 3
    share = seen.right_share if stage.kind == "probe" else likely_method_share(seen, stage)
    memory = peak.scaled(times.largest, len(seen.x))
    return StageCost(
        case.name, stage.kind, stage.name, None, 1.0, share, passes=passes_of_outcomes(outcomes), times=times, memory=memory, disk=disk
    )


def passes_of_outcomes(outcomes: Sequence[Outcome]) -> tuple[float, float] | None:
    """The mean passes of an image over all levels; None where a stage does not count them."""
    if not all("forwards" in outcome.columns for outcome in outcomes):
        return None
    forwards, backwards = (
        sum(torch.as_tensor(outcome.columns[name]).double().mean().item() for outcome in outcomes) for name in ("forwards", "backwards")
    )
    return forwards, backwards


# --- what is not a stage


def reading_costs(run: PlannedRun) -> Iterator[StageCost]:
    """Yields what reading the images costs, which each stage does that begins at them; made images are timed with their reading."""
    reading = [stage for stage in run.stages if stage.images is None and stage.kind != "joined"]
    for pool, models in run.pools().items():
        if (pixels := pool.pixels) is None or not models:
            continue
        places = run.places(pool)
        read = times_by_size(partial(pixels_at_first, pixels, places), len(places), run.how.device, limit=STAGE_SECONDS)
        likely = sum(likely_reads(seen, stage) for stage in reading for _, seen in models)
        yield StageCost("", "reading", "images", None, len(reading) * len(models), likely, times=read)


def pixels_at_first(pixels: Pixels, places: Tensor, size: int) -> None:
    """Reads the images at the first places."""
    pixels(places[:size])


def likely_reads(seen: CaseTimes, stage: Stage) -> float:
    """How many of the images a stage is likely to read, as a share."""
    if stage.kind == "attack":
        return likely_attack_share(seen, stage, None)
    return seen.right_share if stage.kind == "probe" else 1.0


def diagnostics_seconds(run: PlannedRun) -> float:
    """The most seconds of the diagnostics, which look at the first images before the attacks."""
    if not (run.how.examine and has_attacks(run.stages)):
        return 0.0
    passes = Passes(*diagnostics.MOST_PASSES)
    return sum(seen.seconds(passes, min(DIAGNOSED_IMAGES, len(run.pool))) for _, seen in run.models)


def image_bytes(pool: Pool) -> int:
    """The bytes of one image as float32."""
    return FLOAT_BYTES * torch.Size(pool.shape).numel()


def array_bytes(pool: Pool) -> int:
    """The bytes of all images as float32."""
    return len(pool) * image_bytes(pool)


def written_files(pool: Pool, saved: int, pictures: int, exported: int) -> dict[str, int]:
    """The most bytes of the files that no stage writes by itself, by what they hold."""
    noise = torch.rand(pool.shape, generator=torch.Generator().manual_seed(0))  # no picture is larger than one of noise
    drawn = pictures * len(pool) * len(png_bytes(noise)) if pictures else 0
    return {"adversarial images": saved * array_bytes(pool), "their pictures": drawn, "exported images": exported}


def file_cost(name: str, disk: int) -> StageCost:
    """Files that take room and no time of their own."""
    return StageCost("", "files", name, share=0.0, likely_share=0.0, times=SizeTimes(((1, 0.0),)), disk=disk)


def entry_bytes(case: Case, stage: Stage, outcomes: Sequence[Outcome], n: int) -> int:
    """The bytes of one image in the entry of a chunk of n."""
    places = torch.full((n,), len(case.pool))
    chunk = Chunk(case.first_images[:0], places, places, places)
    plain = [(replace(outcome, x=None, extras={}), 0.0) for outcome in outcomes]
    return -(-len(json.dumps(entry_of(case.name, stage, chunk, plain))) // n)


# --- what is said of it


def size_notes(costs: Sequence[StageCost], most: int) -> list[str]:
    """Which stages were timed on fewer images than a batch has."""
    small = {
        cost.name: cost.times.largest for cost in costs if cost.times is not None and cost.kind != "files" and cost.times.largest < most
    }
    if not small:
        return []
    least = min(small.values())
    return [
        f"a batch has {most} images, and {', '.join(small)} were timed on fewer ({least} at least): what is said of a batch follows from it"
    ]


def memory_note(device: str) -> str:
    """What the number for the memory is."""
    if torch.device(device).type == "cuda":
        return "memory is the most that torch had allocated on the device while a batch was timed"
    return "memory is the most that the process held (resident) while a batch was timed"
