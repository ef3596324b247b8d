"""One training as a run of steps that can be saved after any of them and goes on from there to the same weights, bit for bit.

Everything that a step changes lies in a Run; everything else is settled in a Plan before the first step. All random numbers
are functions of the seed, the number of the step and the ids of the images, so that no generator has to be saved.
"""

from __future__ import annotations

import copy
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.errors import DivergedError, InputError
from robench.core.model_calls import CUT_GRAPH, freeze_model
from robench.core.processes import World
from robench.core.recipes import lookup, parse_recipe, resolve
from robench.core.schedules import SCHEDULES
from robench.core.threat import Threat
from robench.core.types import Batch
from robench.data import Images, stratified_images
from robench.data.augment import AUGMENTATIONS
from robench.data.mixing import MIXINGS, box_centre, mixing_partners, mixing_share
from robench.evaluation.measure import suite_measurement
from robench.models.stand_ins import arithmetic
from robench.models.synced_batch_norm import synchronise
from robench.objectives import Objective, Regularizer, penalised_loss
from robench.objectives.awp import perturbed_weights
from robench.objectives.gradients import applies_dropout
from robench.objectives.second_order import attention_by_products, differentiates_twice, name_failing_operators, refuse_lost_derivatives
from robench.scores.geometry import jacobian_geometry
from robench.training.guards import divergence_alarm, has_fgsm_gap, is_near_best, overfitting_alarm, unproven_choice_note

StateDict = dict[str, Tensor]
BITS = 2**63 - 1  # of a seed of torch's generators
RETRIES = 3  # how often a training is rolled back before it is given up


@dataclass(frozen=True)
class Step:
    """One step of the training: where it stands, of how many steps an epoch, its number of images, and the terms of the loss."""

    epoch: int
    step: int
    steps: int
    images: int
    terms: dict[str, float]


@dataclass(frozen=True)
class TrainingNote:
    """A sentence on what the training does otherwise than its words say, or adds to them."""

    sentence: str


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean terms of the loss, measures on the held-out split, the weights that were measured, and what the guard says.

    held_out_clean  accuracy on all held-out images; held_out_robust under PGD-10, held_out_fgsm under FGSM, on `probe_n` of them, with
                    the same share of each class; held_out_attacked_clean is the clean accuracy on those
    held_out_margin, held_out_weight_norm  medians on those of the effective margin and of ||g_y||, the norm of the true logit's slope
    held_out_n, held_out_attacked_n  how many images all and those are
    alarm           why the training ends with this epoch or goes back before it; "" if it does neither
    """

    epoch: int
    seconds: float
    lr: float
    terms: dict[str, float]
    held_out_clean: float
    held_out_robust: float
    weights: StateDict
    held_out_fgsm: float = math.nan
    held_out_attacked_clean: float = math.nan
    held_out_margin: float = math.nan
    held_out_weight_norm: float = math.nan
    held_out_n: int = 0
    held_out_attacked_n: int = 0
    alarm: str = ""

    def record(self) -> dict[str, Any]:
        """All but the weights."""
        return {key: value for key, value in vars(self).items() if key != "weights"}


def sgd(weights: list[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent, with Nesterov's momentum if there is any."""
    return torch.optim.SGD(weights, lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0, fused=is_on_gpu(weights))


def adamw(weights: list[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, 1711.05101) with beta1 = momentum."""
    return torch.optim.AdamW(weights, lr, (momentum, 0.999), weight_decay=weight_decay, fused=is_on_gpu(weights))


def is_on_gpu(weights: Sequence[Tensor]) -> bool:
    """Whether one fused kernel makes the step: on a GPU. On the CPU it is a small part of one, and would round otherwise."""
    return all(weight.device.type == "cuda" for weight in weights)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter], float, float, float], torch.optim.Optimizer]] = {"sgd": sgd, "adamw": adamw}


@dataclass(frozen=True)
class TrainingPlan:
    """What is settled before the first step.

    mixup, cutmix  the parameter of their Beta distribution, 0 for none       ema        decay of the average of the weights, 0 for none
    awp            size of the adversarial weight perturbation, 0 for none    awp_warmup share of the training before it begins
    precision      fp32, tf32, or bf16 (autocast; gradients of gradients stay in fp32)
    compiled       the adversary's passes go through torch.compile, and all passes where there is no regulariser
    defended       whether the epoch is chosen by robust accuracy on the held-out images, or by clean accuracy
    watched        whether the adversary is one that a network can learn to fool, so that the guard looks for it
    guard          what happens where it does, or where the loss diverges: stop, roll-back or off
    """

    objective: Objective
    regularizers: Mapping[str, Regularizer]
    threat: Threat
    seed: int
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    augment: str
    ema: float
    label_smoothing: float
    probe_n: int
    mixup: float = 0.0
    cutmix: float = 0.0
    awp: float = 0.0
    awp_warmup: float = 0.0
    precision: str = "fp32"
    compiled: bool = False
    defended: bool = True
    watched: bool = False
    guard: str = "off"
    teacher: nn.Module | None = None


@dataclass
class TrainingRun:
    """A training under way: what every step changes, and `quick`, the model as the adversary calls it.

    average  the network that is measured and handed out: the moving average of the weights, or the model itself
    kept     what the objective keeps from step to step       done     steps so far
    sums     of the terms in the epoch so far                 history  records of the epochs so far
    best     of the epochs without an alarm the one that their held-out accuracies choose, with its weights; last  the last of them
    steady   the last of them that shows no gap of FGSM over PGD-10, where a later one does
    good     what a roll-back goes back to, where it may be needed: the moment, best, last and steady at the end of the last sound epoch
    lost     records of epochs that were rolled back          first    loss of the first step
    """

    model: nn.Module
    average: nn.Module
    descent: torch.optim.Optimizer
    weights: list[nn.Parameter]
    quick: nn.Module
    world: World
    kept: StateDict = field(default_factory=dict)
    done: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: Epoch | None = None
    last: Epoch | None = None
    steady: Epoch | None = None
    good: dict[str, Any] | None = None
    lost: list[dict[str, Any]] = field(default_factory=list)
    first: float = math.nan


PROGRESS_FIELDS = ("done", "sums", "history", "first")
KEPT_EPOCHS = ("best", "last", "steady")


def begin_training(model: nn.Module, plan: TrainingPlan, world: World | None = None) -> TrainingRun:
    """A run at its first step; `model` is trained in place. Several processes each take an even part of every batch."""
    world = world or World()
    refuse_batch_size(model, plan, world.size)
    if world.size > 1:
        synchronise(model)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    descent = lookup(plan.optimizer, OPTIMIZERS, "optimizer")(weights, plan.lr, plan.momentum, plan.weight_decay)
    average = copy.deepcopy(model).eval() if plan.ema else model
    quick = torch.compile(model) if plan.compiled else model
    return TrainingRun(model, average, descent, weights, quick, world)  # type: ignore[arg-type]


def refuse_batch_size(model: nn.Module, plan: TrainingPlan, processes: int) -> None:
    """InputError for a batch size that the processes cannot share evenly, or that the network's batch norm cannot take."""
    if plan.batch_size % processes:
        raise InputError(f"{processes} processes cannot share batches of {plan.batch_size} evenly: choose a multiple for --batch-size")
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if norms and plan.batch_size < 2:
        raise InputError("batch norm needs batches of at least 2 images: raise --batch-size or choose an architecture without it")


def run_state(run: TrainingRun) -> dict[str, Any]:
    """Everything of a run that a later process needs to go on, as tensors on the CPU, numbers, words, lists and dicts.

    Of several processes all must call it together: what the objective keeps is each one's own.
    """
    now = rollback_state(run)
    return {
        **now,
        "everybody": run.world.gather(now["kept"]),
        **kept_epoch_states(vars(run)),
        "good": None if run.good is None else {"moment": run.good["moment"], **kept_epoch_states(run.good)},
        "lost": copy.deepcopy(run.lost),
    }


def kept_epoch_states(of: Mapping[str, Any]) -> dict[str, Any]:
    """The epochs whose weights are kept, as dicts."""
    return {name: None if of[name] is None else asdict(of[name]) for name in KEPT_EPOCHS}


def epochs_from_state(state: Mapping[str, Any]) -> dict[str, Epoch | None]:
    """Those epochs again."""
    return {name: None if state.get(name) is None else Epoch(**state[name]) for name in KEPT_EPOCHS}


def rollback_state(run: TrainingRun) -> dict[str, Any]:
    """The part of a run's state that a roll-back brings back."""
    return copy.deepcopy(
        {
            "model": snapshot(run.model),
            "average": None if run.average is run.model else snapshot(run.average),
            "optimizer": run.descent.state_dict(),
            "kept": {name: tensor.cpu() for name, tensor in run.kept.items()},
            **{name: getattr(run, name) for name in PROGRESS_FIELDS},
        }
    )


def restore_run(run: TrainingRun, state: Mapping[str, Any]) -> None:
    """Brings a run to where it was when `state` was saved."""
    run.model.load_state_dict(state["model"])
    if run.average is not run.model:
        run.average.load_state_dict(state["average"])
    run.descent.load_state_dict(copy.deepcopy(state["optimizer"]))
    device = run.weights[0].device
    run.kept = {name: tensor.to(device) for name, tensor in state["kept"].items()}
    for name in PROGRESS_FIELDS:
        setattr(run, name, copy.deepcopy(state[name]))
    if "best" in state:
        run.best, run.last, run.steady = epochs_from_state(state).values()
        run.good = None if state["good"] is None else {"moment": state["good"]["moment"], **epochs_from_state(state["good"])}
        run.lost = copy.deepcopy(state["lost"])
        run.kept = {name: tensor.to(device) for name, tensor in state["everybody"][run.world.rank].items()}


def fit(run: TrainingRun, plan: TrainingPlan, train: Images, held_out: Images) -> Iterator[Step | Epoch]:
    """Trains from where the run stands to its end; yields a Step after every step, an Epoch after every epoch.

    The held-out split is only measured. Of several processes each yields the same events. Where the guard raises an alarm, the run
    ends with that epoch, or goes back to the end of the last sound one and on from there with half the learning rate and other random
    numbers, three times at most. InputError where the loss diverges and there is nothing to go back to.
    Same seed, same threads, same number of processes: same weights.
    """
    steps, pace = steps_per_epoch(plan, train), learning_rate_schedule(plan)
    if run.history and run.history[-1]["alarm"]:
        return  # it had ended before it was saved
    while run.done < plan.epochs * steps:
        epoch, begin_, lr, trouble = run.done // steps, time.perf_counter(), 0.0, ""
        batches = shuffled_batches(len(train), steps // plan.objective.replays, plan.batch_size, plan.seed, epoch)
        while run.done < (epoch + 1) * steps and not trouble:
            step = run.done % steps
            lr = pace(run.done / (plan.epochs * steps), run)
            terms = train_step(run, plan, train, batches[step // plan.objective.replays], lr, steps)
            run.first = terms["loss"] if math.isnan(run.first) else run.first
            trouble = divergence_alarm(terms, run.first)
            run.done += 1
            run.sums = {name: run.sums.get(name, 0.0) + number for name, number in terms.items()}
            yield Step(epoch, step, steps, plan.batch_size, terms)
        if trouble:
            trouble = f"the training diverged in epoch {epoch + 1}, step {run.done - epoch * steps}: {trouble}"
            if run.best is None or plan.guard == "off":
                raise DivergedError(f"{trouble}; lower --lr or the weights")
        found = close_epoch(
            run, plan, held_out, Epoch(epoch, time.perf_counter() - begin_, lr, mean_terms(run, steps), math.nan, math.nan, {}), trouble
        )
        back = bool(found.alarm) and roll_back(run, plan)
        yield found
        if found.alarm and not back:
            return


def steps_per_epoch(plan: TrainingPlan, train: Images) -> int:
    """Steps in an epoch: each whole batch as often in a row as the objective replays it."""
    return max(1, len(train) // plan.batch_size) * plan.objective.replays


def learning_rate_schedule(plan: TrainingPlan) -> Callable[[float, TrainingRun], float]:
    """The learning rate by progress, by the losses of the epochs so far, and halved for every roll-back."""
    rate = resolve(parse_recipe(plan.schedule), SCHEDULES, "schedule")
    return lambda progress, run: plan.lr * rate(progress, [record["terms"]["loss"] for record in run.history]) * 0.5 ** len(run.lost)


def shuffled_batches(n: int, steps: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """The places of each batch of one epoch: a permutation drawn from (seed, epoch), the incomplete last batch left out."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(n, generator=generator)[: steps * batch_size]
    return tuple(torch.split(order, batch_size))


def mean_terms(run: TrainingRun, steps: int) -> dict[str, float]:
    """The mean of each term over the steps of the epoch so far."""
    made = (run.done - 1) % steps + 1
    return {name: total / made for name, total in run.sums.items()}


def train_step(run: TrainingRun, plan: TrainingPlan, train: Images, rows: Tensor, lr: float, steps: int) -> dict[str, float]:
    """One step on the images at `rows`, of which each process takes its share; returns the terms of the loss over all of them."""
    for group in run.descent.param_groups:
        group["lr"] = lr
    device = run.weights[0].device
    with plan_precision(plan, device), seeded_dropout(run, plan, device):
        batch = crafted_batch(run, plan, training_batch(run, plan, train, rows, run.done / (plan.epochs * steps)))
        grads, grad_x, terms = step_gradients(run, plan, batch)
    with torch.no_grad():
        numbers = torch.stack([term.detach().double() for term in terms.values()])
        run.world.average([*grads, numbers])
        for weight, grad in zip(run.weights, grads, strict=True):
            weight.grad = gradient_in_layout(grad, weight)
        run.descent.step()
        if plan.objective.absorb and grad_x is not None:
            plan.objective.absorb(batch, grad_x)
        if plan.ema:
            update_average(run.average, run.model, min(plan.ema, (1 + run.done) / (10 + run.done)))
    return dict(zip(terms, numbers.tolist(), strict=True))


def gradient_in_layout(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient in the memory layout of its weight: a second derivative can come in another, which fused optimisers read wrongly."""
    return grad if grad.stride() == weight.stride() else torch.empty_like(weight).copy_(grad)


@contextmanager
def plan_precision(plan: TrainingPlan, device: torch.device) -> Iterator[None]:
    """The arithmetic of the plan's precision."""
    low = torch.autocast(device.type, torch.bfloat16) if plan.precision == "bf16" else nullcontext()
    with arithmetic(plan.precision), low:
        yield


@contextmanager
def seeded_dropout(run: TrainingRun, plan: TrainingPlan, device: torch.device) -> Iterator[None]:
    """Where the model has dropout: torch's generators start from a seed made of the run's seed, the step and the process."""
    if not any(applies_dropout(module) for module in run.model.modules()):
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(((plan.seed * 1_000_003 + run.done) * 64 + len(run.lost)) * 1024 + run.world.rank & BITS)
        yield


def training_batch(run: TrainingRun, plan: TrainingPlan, train: Images, rows: Tensor, progress: float) -> Batch:
    """This process's images, augmented and mixed, with nothing made of them yet."""
    key = "/".join(["train", *(["again", str(len(run.lost))] if run.lost else [])])
    number = run.done // plan.objective.replays * plan.objective.replays  # the same images in every replay
    mine = run.world.share(rows)
    x, draws = augmented_images(plan, train, mine, key, number)
    y, mixed = train.y[mine], None
    for name, alpha in (("mixup", plan.mixup), ("cutmix", plan.cutmix)):
        if alpha:
            others = run.world.share(rows[mixing_partners(len(rows), plan.seed, number)])
            other, _ = augmented_images(plan, train, others, key, number)
            lam = mixing_share(alpha, plan.seed, number)
            x, y, mixed = MIXINGS[name](x, other, y, train.y[others], len(train.classes), lam, box_centre(plan.seed, number))
    draws = Draws(plan.seed, draws.ids, key).child(run.done)
    return Batch(
        x, y, x, x.new_empty(0), draws.ids, progress, draws, plan.label_smoothing, plan.teacher, plan.threat, mixed, run.kept
    )  # fmt: skip


def augmented_images(plan: TrainingPlan, train: Images, rows: Tensor, key: str, number: int) -> tuple[Tensor, Draws]:
    """The images at `rows` under the plan's augmentation in this step, and their random numbers."""
    draws = Draws(plan.seed, train.ids[rows], key).child(number)
    return lookup(plan.augment, AUGMENTATIONS, "augmentation")(train.pixels(rows), draws.child("augment")), draws


def crafted_batch(run: TrainingRun, plan: TrainingPlan, batch: Batch) -> Batch:
    """The batch with the images that the loss is taken at."""
    run.model.train()
    x_adv = plan.objective.craft(run.quick, batch).detach()
    return replace(batch, x_adv=x_adv.requires_grad_(bool(plan.regularizers) or plan.objective.absorb is not None))


def step_gradients(run: TrainingRun, plan: TrainingPlan, batch: Batch) -> tuple[list[Tensor], Tensor | None, dict[str, Tensor]]:
    """The gradients of the loss by the weights and, where the objective wants to know it, by x_adv; and the loss with its terms."""
    model = run.model if plan.regularizers else run.quick
    loss_of = penalised_loss(plan.objective.loss, plan.regularizers)

    def base() -> Tensor:
        return plan.objective.loss(model, batch_with_logits(model, batch))[0]

    with ExitStack() as stack:
        stack.enter_context(attention_by_products(differentiates_twice(plan.regularizers)))
        if plan.awp and batch.progress >= plan.awp_warmup:
            stack.enter_context(perturbed_weights(run.model, base, plan.awp, reduce=run.world.average))
        answered = batch_with_logits(model, batch)
        leaves = [*run.weights, *([batch.x_adv] if plan.objective.absorb else [])]
        with name_failing_operators(answered.logits):
            loss, terms = loss_of(model, answered)
            if run.done == 0:
                refuse_lost_derivatives(loss, answered.logits)
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
    grads = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]
    return grads[: len(run.weights)], grads[-1] if plan.objective.absorb else None, {"loss": loss, **terms}


def batch_with_logits(model: nn.Module, batch: Batch) -> Batch:
    """The batch with the model's logits at x_adv, and nothing remembered from other passes."""
    return replace(batch, logits=model(batch.x_adv), memo={})


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves the average's weights a share 1 - decay towards the model's, and copies its buffers (batch norm's statistics)."""
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)


def close_epoch(run: TrainingRun, plan: TrainingPlan, held_out: Images, epoch: Epoch, trouble: str) -> Epoch:
    """The epoch measured and entered into the run. After trouble nothing is measured; of an epoch with an alarm no weights are kept."""
    if not trouble:
        epoch = replace(epoch, **held_out_measures(run.average, held_out, plan.threat, plan.seed, plan.probe_n, plan.watched))
    watched = plan.watched and plan.guard != "off"
    alarm = trouble or (overfitting_alarm([*run.history, epoch.record()]) if watched else "")
    epoch = replace(epoch, alarm=alarm, weights={} if trouble else snapshot(run.average))
    run.history.append(epoch.record())
    run.sums = {}
    if not alarm:
        run.best = epoch if run.best is None or is_preferred(epoch, run, plan, attacked_count(held_out, plan)) else run.best
        run.steady = steady_epoch(run, epoch)
        run.last = epoch
    if not alarm and plan.guard == "roll-back" and not (watched and has_fgsm_gap(epoch.record())):
        run.good = {"moment": rollback_state(run), **{name: getattr(run, name) for name in KEPT_EPOCHS}}
    return epoch


def steady_epoch(run: TrainingRun, epoch: Epoch) -> Epoch | None:
    """What `run.steady` becomes with this epoch, which has no alarm."""
    if not has_fgsm_gap(epoch.record()):
        return None
    return run.steady or (run.last if run.last and not has_fgsm_gap(run.last.record()) else None)


def roll_back(run: TrainingRun, plan: TrainingPlan) -> bool:
    """Whether the run went back to the end of its last sound epoch; it does not without one, nor more than three times."""
    if plan.guard != "roll-back" or run.good is None or len(run.lost) >= RETRIES:
        return False
    lost = [*run.lost, run.history[-1]]
    restore_run(run, run.good["moment"])
    run.best, run.last, run.steady = (run.good[name] for name in KEPT_EPOCHS)
    run.lost = lost
    return True


def attacked_count(held_out: Images, plan: TrainingPlan) -> int:
    """How many held-out images the probe attacks take."""
    return min(plan.probe_n, len(held_out))


def is_preferred(epoch: Epoch, run: TrainingRun, plan: TrainingPlan, n: int) -> bool:
    """Whether an epoch, the last in the run's history, takes the place of the best so far. Of equals the later one does."""
    if plan.defended:
        return is_near_best(epoch.held_out_robust, run.history, n)
    return run.best is None or epoch_rank(epoch) >= epoch_rank(run.best)


def epoch_rank(epoch: Epoch) -> tuple[float, float]:
    """What the epochs of a training without a defence are compared by; equal for all where nothing is held out."""
    held = (epoch.held_out_clean, epoch.held_out_robust)
    return (0.0, 0.0) if math.isnan(held[0]) else held


def selected_epoch(run: TrainingRun, plan: TrainingPlan, held_out: Images) -> tuple[Epoch, str]:
    """The epoch whose weights are to be used, and a note where the most robust one cannot be told; InputError where there is none."""
    if run.best is None or run.last is None:
        raise InputError("nothing was trained: the run has no epoch")
    note = unproven_choice_note(run.history, attacked_count(held_out, plan), len(held_out.classes)) if plan.defended else ""
    return ((run.steady or run.last) if note else run.best), note


def held_out_measures(model: nn.Module, held_out: Images, threat: Threat, seed: int, probe_n: int, fgsm: bool = False) -> dict[str, Any]:
    """The measures of an Epoch on the held-out split; the model's flags stay as they are. Empty where nothing is held out."""
    if len(held_out) == 0:
        return {}
    device = str(held_out.x.device)
    clean = suite_measurement(model, held_out, [], threat, device=device).accuracy("clean")
    few = stratified_images(held_out, probe_n, seed)
    probes = ["pgd-10", *(["fgsm"] if fgsm else [])]
    found = {name: suite_measurement(model, few, [parse_recipe(name)], threat, seed=seed, device=device) for name in probes}
    with freeze_model(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", re.escape(CUT_GRAPH), RuntimeWarning)  # told in a sentence before the first step
        slopes = jacobian_geometry(model, few.pixels(slice(None)), few.y, classes=1)
    return {
        "held_out_clean": clean,
        "held_out_robust": found["pgd-10"].accuracy("pgd-10"),
        "held_out_fgsm": found["fgsm"].accuracy("fgsm") if fgsm else math.nan,
        "held_out_attacked_clean": found["pgd-10"].accuracy("clean"),
        "held_out_margin": float(slopes["effective-margin"].nanmedian()),
        "held_out_weight_norm": float(slopes["row-norm-true"].nanmedian()),
        "held_out_n": len(held_out),
        "held_out_attacked_n": len(few),
    }


def snapshot(model: nn.Module) -> StateDict:
    """A copy of the weights and buffers on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
