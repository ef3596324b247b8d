"""What a training will cost, from a few real steps of it: passes, seconds, memory and disk of a step, an epoch and the whole.

The steps are taken late in the training, where every term of the loss has its weight. Where a whole batch would take too long, smaller
ones are timed, and time and memory of the whole follow in a straight line. What is measured after each epoch and at the end is reckoned
from the passes that it makes of an image (`runs.pass_counts`) and the seconds of a pass. Nothing is kept and nothing is written.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench.attacks import attack_for_classes
from robench.attacks.losses import ce
from robench.core.memory import explain_out_of_memory, is_out_of_memory
from robench.core.model_calls import freeze_model, leaf_gradient, leaf_of
from robench.core.processes import current_world
from robench.core.recipes import Recipe, parse_recipe
from robench.data import Images
from robench.data.made_images import MadePixels
from robench.data.stored_pixels import StoredPixels
from robench.evaluation.planning import IS_PLANNING
from robench.evaluation.plans import resolved_attacks
from robench.models.stand_ins import arithmetic
from robench.runs.costs import StageCost
from robench.runs.pass_counts import counted_passes
from robench.runs.timings import GROWTH, SizeTimes, elapsed_seconds, times_by_size, watch_memory
from robench.runs.types import RunOptions
from robench.training.checkpoint_files import CHECKPOINT_ENDS
from robench.training.epochs import steps_per_epoch
from robench.training.extra_images import ImagesWithExtra, TrainingImages
from robench.training.preparation import PreparedTraining
from robench.training.settings import loss_recipes, loss_sentences, plan_of
from robench.training.steps import begin_training, train_step
from robench.training.teachers import TEACHER_SETTINGS, Teacher, named_teacher, needs_teacher, teacher_path
from robench.training.training_costs import StepCost, TrainingCosts, memory_on_line
from robench.training.types import TrainingPlan, TrainingRun

TURNS, TURNS_SECONDS = 3, 24.0  # steps of the largest size that are timed; fewer where they would take longer than that
STEP_SECONDS = 6.0  # that a step of a larger size may be expected to take
GROWTHS = (GROWTH, 2)  # each size is so many times the one before, the first of these that is quick enough
EXPECTED_PASS_SECONDS = 2.0  # that a pass may be expected to take where the measurements are reckoned
MEASURED_BATCH = RunOptions.batch_size


class PlannedTrainingError(Exception):
    """Ends a training that is only planned, before its files are claimed; `training.planned_trainings.plan_training` takes it.

    Attributes:
        costs: what the training would cost.
    """

    def __init__(self, costs: TrainingCosts) -> None:
        super().__init__("this training is only planned")
        self.costs = costs


def end_if_planned(
    prepared: PreparedTraining, images: Images, *, suite: str | Sequence[Recipe], device: str, teacher: Path | None, seed: int,
    out: Path | None, teachers: Path | None, anew: bool,
) -> None:  # fmt: skip
    """Ends a training that is only planned; any other goes on.

    Args:
        prepared: the training.
        images: all its images, those that are held out among them.
        suite: what is run at the end.
        device: where the network runs.
        teacher: the file of a teacher that was named; None without one.
        seed: of the training.
        out: the checkpoint that it writes, or a folder.
        teachers: the folder of teachers, where there is one.
        anew: whether a teacher that an earlier training has kept is trained again.

    Raises:
        PlannedTrainingError: with the costs, where the training is only planned.
        InputError: for a teacher that cannot be one.
        UnfinishedError: where the memory does not hold a batch.
    """
    if not IS_PLANNING.get():
        return
    file = out if out is not None and out.suffix in CHECKPOINT_ENDS else None
    place = teacher_path(file, teachers, {**prepared.settings, **TEACHER_SETTINGS, "seed": seed, **prepared.begins_with})
    kept = place if place is not None and place.exists() and not anew else None
    named = named_teacher(teacher, loss_recipes(prepared.settings), prepared.model, prepared.about, images) if teacher else None
    raise PlannedTrainingError(costs_of_training(prepared, images, suite, device, named, kept))


def costs_of_training(
    prepared: PreparedTraining, images: Images, suite: str | Sequence[Recipe], device: str, named: Teacher | None, kept: Path | None
) -> TrainingCosts:
    """What a training costs, of which a few steps are made and forgotten; `kept` is the file of an earlier teacher that serves again."""
    recipes = loss_recipes(prepared.settings)
    needs, its, notes = needs_teacher(recipes) and named is None, None, list[str]()
    if needs and kept is not None:
        notes.append(f"{kept.name} serves again as the teacher")
    elif needs:
        undefended = plan_of({**prepared.settings, **TEACHER_SETTINGS}, prepared.plan.seed, None)
        its = planned_costs(prepared, undefended, "the teacher", (), device)
        notes.append("a network without a defence is trained first, as the teacher; --teacher FILE names another")
    stand_in = named.model if named else copy.deepcopy(prepared.model) if needs else None
    plan = replace(prepared.plan, teacher=None if stand_in is None else stand_in.to(device).eval().requires_grad_(False))
    loss = " + ".join(loss_sentences(prepared.settings))
    costs = planned_costs(prepared, plan, f"{prepared.about['arch']} on {images.name}, {loss}", suite, device)
    return replace(costs, teacher=its, notes=[*prepared.notes, *notes, *costs.notes])


def planned_costs(prepared: PreparedTraining, plan: TrainingPlan, title: str, suite: str | Sequence[Recipe], device: str) -> TrainingCosts:
    """What a training by this plan costs, without its teacher's."""
    world, training, parts = current_world(), prepared.training.to(device), plan.accumulate
    most, steps = plan.batch_size // (world.size * parts), steps_per_epoch(plan, training)
    with explain_out_of_memory(plan.batch_size), warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        part = replace(plan, accumulate=1)
        run = begin_training(copy.deepcopy(prepared.model).to(device), part)
        step = step_cost(run, part, training, steps, most, device)
        disk = written_bytes(run, plan)
        times = pass_times(run.model, prepared.test, device)
        costs = measurement_costs(prepared, plan, times, suite, device)
    averaging = (1 - plan.swa) * seconds_of_kind(costs, "clean", len(training)) if plan.swa else 0.0  # for batch norm
    after_epoch, at_end = epoch_measurement_seconds(prepared, plan, costs), final_measurement_seconds(prepared, costs)
    return TrainingCosts(
        title, plan.epochs, steps, plan.batch_size, len(training), len(prepared.held_out), step,
        averaging + after_epoch, at_end, times.memory, disk, device, device_bytes(device), world.size, parts,
        unknown=[cost.name for cost in costs if cost.times is None], notes=cost_notes(step, most, training, world.size, device),
    )  # fmt: skip


# --- a step


def step_cost(run: TrainingRun, plan: TrainingPlan, train: TrainingImages, steps: int, most: int, device: str) -> StepCost:
    """What steps of growing size show, up to `most` images where that takes not too long; a first one is left out.

    Args:
        run: the run, which is changed.
        plan: its plan.
        train: the training images, on the device.
        steps: how many steps an epoch has.
        most: images of a whole batch, of one process.
        device: where the run is.
    """
    size, points, memory = first_size(run, plan, train, steps, most, device), list[tuple[int, float]](), list[tuple[int, int]]()
    run.steps_done = max(1, plan.epochs * steps - 1)  # every term has its weight by now
    with counted_calls(run.model) as calls:
        seconds, held = timed_step(replace(run, adversary_model=run.model), plan, train, size, steps, device)
    passes = (calls[0] / size, calls[1] / size)
    while larger := next_size(size, most, seconds, STEP_SECONDS):
        points, memory, size = [*points, (size, seconds)], [*memory, (size, held)], larger
        seconds, held = timed_step(run, plan, train, size, steps, device)
    count = max(1, min(TURNS, int(TURNS_SECONDS / seconds)))
    turns = [timed_step(run, plan, train, size, steps, device) for _ in range(count)]
    points = [*points, (size, sum(spent for spent, _ in turns) / count)]
    memory = [*memory, (size, max(held for _, held in turns))]
    if len(points) == 1 and size < most:  # a line needs two
        larger = min(2 * size, most)
        seconds, held = timed_step(run, plan, train, larger, steps, device)
        points, memory = [*points, (larger, seconds)], [*memory, (larger, held)]
    return StepCost(passes, SizeTimes(tuple(points)), tuple(memory), count)


def next_size(size: int, most: int, seconds: float, limit: float) -> int | None:
    """The next size of a batch to be tried, where its step is expected to take no longer than the limit; None where none is."""
    sizes = [min(growth * size, most) for growth in GROWTHS]
    return next((larger for larger in sizes if larger > size and seconds * larger / size <= limit), None)


def first_size(run: TrainingRun, plan: TrainingPlan, train: TrainingImages, steps: int, most: int, device: str) -> int:
    """The smallest batch that a step can be made of, one image or two, as batch norm may need; that step is made and not timed."""
    try:
        timed_step(run, plan, train, 1, steps, device)
    except (ValueError, IndexError, RuntimeError) as error:
        if most == 1 or is_out_of_memory(error):
            raise
        timed_step(run, plan, train, 2, steps, device)
        return 2
    return 1


def timed_step(run: TrainingRun, plan: TrainingPlan, train: TrainingImages, size: int, steps: int, device: str) -> tuple[float, int]:
    """The seconds of one step on the first images, and the most bytes that were held meanwhile."""
    rows = torch.arange(size)
    with watch_memory(device) as peak:
        seconds = elapsed_seconds(lambda: train_step(run, plan, train, rows, 0.0, steps), device)
    return seconds, peak.most


@contextmanager
def counted_calls(model: nn.Module) -> Iterator[list[int]]:
    """Counts the images that go through a model inside: [in forward passes, in backward passes]."""
    calls = [0, 0]

    def count_backward(grad: Tensor) -> None:
        calls[1] += len(grad)

    def count_forward(_: nn.Module, __: object, logits: Tensor) -> None:
        calls[0] += len(logits)
        if logits.requires_grad:
            logits.register_hook(count_backward)

    handle = model.register_forward_hook(count_forward)
    try:
        yield calls
    finally:
        handle.remove()


def written_bytes(run: TrainingRun, plan: TrainingPlan) -> dict[str, int]:
    """The most bytes that a training writes, by what they hold.

    Two checkpoints, of the best and the last epoch; the state has weights, averages, optimiser, the weights of three epochs, and with a
    guard that rolls back as much again.
    """
    weights = nested_bytes(run.model.state_dict())
    moment = (
        weights * (2 if run.average is not run.model else 1) + nested_bytes(run.optimizer.state_dict()) + nested_bytes(run.kept_tensors)
    )
    state = moment + 3 * weights
    return {"checkpoints": 2 * weights, "state": state * (2 if plan.guard == "roll-back" else 1)}


def nested_bytes(value: Any) -> int:
    """The bytes of all tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(nested_bytes, parts))


# --- what is measured


@dataclass(frozen=True)
class PassTimes:
    """What passes of a network in evaluation mode have shown.

    Attributes:
        forward: seconds of a forward pass by number of images.
        both: seconds of a forward pass and one back to the images.
        memory: the most bytes that were held, for a whole batch of a measurement.
    """

    forward: SizeTimes
    both: SizeTimes
    memory: int

    def cost(self, kind: str, name: str, forwards: float, backwards: float) -> StageCost:
        """What so many passes of each image cost."""
        sizes = sorted({size for times in (self.forward, self.both) for size, _ in times.points})
        forward = {size: self.forward.seconds(size) for size in sizes}
        points = [(size, forwards * forward[size] + backwards * max(0.0, self.both.seconds(size) - forward[size])) for size in sizes]
        return StageCost("", kind, name, passes=(forwards, backwards), times=SizeTimes(tuple(points)))


def pass_times(model: nn.Module, images: Images, device: str) -> PassTimes:
    """The seconds and the memory of passes of a network, as measurements make them."""
    most = min(MEASURED_BATCH, len(images))
    x, y = images.pixels(slice(0, most)).to(device), images.y[:most].to(device)

    def forward(size: int) -> None:
        with torch.no_grad():
            model(x[:size])

    def both(size: int) -> None:
        with torch.enable_grad():
            leaf = leaf_of(x[:size])
            leaf_gradient(ce(model(leaf), y[:size]).sum(), leaf)

    with freeze_model(model, device), arithmetic("fp32"):
        forwards = times_by_size(forward, most, device, limit=EXPECTED_PASS_SECONDS)
        boths = times_by_size(both, most, device, limit=EXPECTED_PASS_SECONDS)
        memory = []
        for size in sorted({1, boths.largest}):
            with watch_memory(device) as peak:
                both(size)
            memory.append((size, peak.most))
    return PassTimes(forwards, boths, memory_on_line(memory, most))


def measurement_costs(
    prepared: PreparedTraining, plan: TrainingPlan, times: PassTimes, suite: str | Sequence[Recipe], device: str
) -> list[StageCost]:
    """The clean pass, each attack of the suite ("final"), and what follows an epoch: PGD-10, FGSM where the guard looks for it, slopes."""
    after = [parse_recipe(name) for name in ("pgd-10", *["fgsm"] * plan.is_watched)]
    classes, shape = prepared.about["classes"], prepared.test.shape
    costs = [times.cost("clean", "clean", 1, 0), times.cost("epoch", "slopes", 1, 1)]
    for kind, recipes in (("final", suite), ("epoch", after)):
        for recipe, attack in resolved_attacks(recipes, plan.threat.norm, "robench", device):
            passes = counted_passes(attack_for_classes(attack, classes), classes, shape, plan.threat)
            known = passes and times.cost(kind, recipe.label, passes.forwards + 1, passes.backwards)
            costs.append(known or StageCost("", kind, recipe.label))
    return costs


def seconds_of_kind(costs: Sequence[StageCost], kind: str, images: int) -> float:
    """The seconds of the costs of one kind for so many images, which all processes share."""
    each = images / current_world().size
    return sum(cost.seconds(each, MEASURED_BATCH) for cost in costs if cost.kind == kind)


def epoch_measurement_seconds(prepared: PreparedTraining, plan: TrainingPlan, costs: Sequence[StageCost]) -> float:
    """The seconds after each epoch: clean accuracy on all held-out images, attacks and slopes on some; clean labels come first again."""
    few = min(plan.probe_n, len(prepared.held_out))
    again = (1 + plan.is_watched) * seconds_of_kind(costs, "clean", few)
    return seconds_of_kind(costs, "clean", len(prepared.held_out)) + again + seconds_of_kind(costs, "epoch", few)


def final_measurement_seconds(prepared: PreparedTraining, costs: Sequence[StageCost]) -> float:
    """The seconds at the end: clean accuracy on all images, and again with the suite on those that are attacked."""
    few = len(prepared.few)
    return sum(seconds_of_kind(costs, kind, n) for kind, n in (("clean", len(prepared.test)), ("clean", few), ("final", few)))


# --- what is said of it


def device_bytes(device: str) -> int | None:
    """The memory of a device, of the CPU that of the machine; None where it is not known."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)
    if torch.device(device).type != "cpu":
        return None
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else None


def cost_notes(step: StepCost, most: int, train: TrainingImages, processes: int, device: str) -> list[str]:
    """Where the numbers come from, in sentences."""
    many = f"the mean of {step.turns} real steps" if step.turns > 1 else "those of one real step"
    notes = [f"seconds a step are {many} after a first one, taken where every term of the loss has its weight"]
    sizes = [size for size, _ in step.times.points]
    if sizes[-1] < most:
        shown = " and ".join(map(str, sizes[-2:]))
        notes.append(
            f"a batch of {most} images would take too long here: steps of {shown} were timed, and the rest lies on a straight line"
        )
    if processes > 1:
        notes.append(
            f"{processes} processes share each batch, and one was timed alone: on shared cores, or over a network, they are slower"
        )
    own = train.own if isinstance(train, ImagesWithExtra) else train
    if isinstance(own.x, StoredPixels) and not isinstance(own.x.decoder, MadePixels):
        notes.append("images are read from the disk within the timed steps: worker processes that decode ahead make a step shorter")
    on_gpu = torch.device(device).type == "cuda"
    where = "torch had allocated on the device" if on_gpu else "the process held (resident)"
    return [
        *notes,
        "the measurements are reckoned at the most, by their passes, as if every image stood; those of a trained network take less",
        f"memory is the most that {where} during a step, of other batch sizes in a straight line through those that were seen",
    ]
