"""Epochs of steps: the loop, what is measured after each epoch, the guard, and which epoch is kept."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.errors import DivergedError, InputError
from robench.core.model_calls import CUT_GRAPH, freeze_model
from robench.core.recipes import parse_recipe, resolve
from robench.core.schedules import SCHEDULES
from robench.core.threat import Threat
from robench.data import Images, stratified_images
from robench.evaluation.measure import suite_measurement
from robench.scores.geometry import jacobian_geometry
from robench.training.equal_average import update_equal_average
from robench.training.extra_images import TrainingImages, batches_with_extra, extra_count
from robench.training.guards import (
    divergence_alarm,
    has_fgsm_gap,
    is_near_best,
    overfitting_alarm,
    robust_overfitting_note,
    unproven_choice_note,
)
from robench.training.states import KEPT_EPOCHS, restore_run, rollback_state, snapshot
from robench.training.steps import train_step
from robench.training.types import Epoch, Step, TrainingPlan, TrainingRun

RETRIES = 3  # how often a training is rolled back before it is given up


def fit(run: TrainingRun, plan: TrainingPlan, train: TrainingImages, held_out: Images) -> Iterator[Step | Epoch]:
    """Trains from where the run stands to its end; yields a Step after every step, an Epoch after every epoch.

    The held-out images are only measured. Of several processes each yields the same events. Where the guard raises an alarm, the run ends
    with that epoch; or it goes back to the end of the last sound one and on from there with half the learning rate and other random
    numbers, three times at most. Same seed, same threads, same number of processes: same weights.

    Args:
        run: the run, which is changed.
        plan: its plan.
        train: the training images, on the device of the model.
        held_out: the held-out images, on the device of the model; there may be none.

    Raises:
        DivergedError: where the loss diverges, and no epoch is there whose weights could be used, or the guard is off.
    """
    steps, rate = steps_per_epoch(plan, train), learning_rate_schedule(plan)
    if run.history and run.history[-1]["alarm"]:
        return  # it had ended before it was saved
    while run.steps_done < plan.epochs * steps or run.sums:
        is_unclosed = bool(run.sums) and run.steps_done % steps == 0  # saved between the last step of an epoch and its end
        epoch, begin, trouble = run.steps_done // steps - is_unclosed, time.perf_counter(), ""
        step = (run.steps_done - 1) % steps
        lr = rate(max(0, run.steps_done - 1) / (plan.epochs * steps), run)
        batches = epoch_batches(plan, train, steps // plan.objective.replays, epoch)
        ahead = batches[run.steps_done % steps // plan.objective.replays :]
        train.expect(torch.cat([run.world.share(rows) for rows in ahead]) if ahead else slice(0, 0))
        while run.steps_done < (epoch + 1) * steps and not trouble:
            step = run.steps_done % steps
            lr = rate(run.steps_done / (plan.epochs * steps), run)
            terms = train_step(run, plan, train, batches[step // plan.objective.replays], lr, steps)
            run.first = terms["loss"] if math.isnan(run.first) else run.first
            trouble = divergence_alarm(terms, run.first)
            run.steps_done += 1
            run.sums = {name: run.sums.get(name, 0.0) + number for name, number in terms.items()}
            yield Step(epoch, step, steps, plan.batch_size, terms)
        if trouble:
            trouble = f"the training diverged in epoch {epoch + 1}, step {run.steps_done - epoch * steps}: {trouble}"
            if run.best is None or plan.guard == "off":
                raise DivergedError(f"{trouble}; lower --lr or the weights")
        mean_terms = {name: total / (step + 1) for name, total in run.sums.items()}
        if plan.swa and not trouble:
            update_equal_average(run, plan, train, epoch)
        unmeasured = Epoch(epoch, time.perf_counter() - begin, lr, mean_terms, math.nan, math.nan, {})
        closed = close_epoch(run, plan, held_out, unmeasured, trouble)
        back = bool(closed.alarm) and roll_back(run, plan)
        yield closed
        if closed.alarm and not back:
            return


def steps_per_epoch(plan: TrainingPlan, train: TrainingImages) -> int:
    """Steps in an epoch: each whole batch as often in a row as the objective replays it."""
    return max(1, len(train) // plan.batch_size) * plan.objective.replays


def learning_rate_schedule(plan: TrainingPlan) -> Callable[[float, TrainingRun], float]:
    """The learning rate by progress, by the losses of the epochs so far, and halved for every roll-back."""
    rate = resolve(parse_recipe(plan.schedule), SCHEDULES, "schedule")
    return lambda progress, run: plan.lr * rate(progress, [record["terms"]["loss"] for record in run.history]) * 0.5 ** len(run.lost_epochs)


def epoch_batches(plan: TrainingPlan, train: TrainingImages, steps: int, epoch: int) -> tuple[Tensor, ...]:
    """The places of each batch of an epoch, with extra images where there are some."""
    if isinstance(train, Images):
        return shuffled_batches(train.ids, steps, plan.batch_size, plan.seed, epoch)
    own_count = plan.batch_size - extra_count(train.share, plan.batch_size)
    own = shuffled_batches(train.own.ids, steps, own_count, plan.seed, epoch)
    return batches_with_extra(own, train, plan.batch_size, plan.seed, epoch)


def shuffled_batches(ids: Tensor, steps: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """The places of each batch of one epoch: the images in a random order of their ids, the incomplete last batch left out.

    Args:
        ids: of the images, (N,) int64.
        steps: how many batches.
        batch_size: images a batch.
        seed: of the training.
        epoch: the number of the epoch, from 0.
    """
    order = Draws(seed, ids.cpu(), "train/order").permutation(epoch)
    return tuple(torch.split(order[: steps * batch_size], batch_size))


def close_epoch(run: TrainingRun, plan: TrainingPlan, held_out: Images, epoch: Epoch, trouble: str) -> Epoch:
    """The epoch measured and entered into the run. After trouble nothing is measured; of an epoch with an alarm no weights are kept."""
    if not trouble:
        epoch = replace(epoch, **held_out_measures(run.average, held_out, plan.threat, plan.seed, plan.probe_n, plan.is_watched))
    watched = plan.is_watched and plan.guard != "off"
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


def held_out_measures(model: nn.Module, held_out: Images, threat: Threat, seed: int, probe_n: int, fgsm: bool = False) -> dict[str, Any]:
    """The measures of an Epoch on the held-out split; the model's flags stay as they are. Empty where nothing is held out."""
    if len(held_out) == 0:
        return {}
    device = str(held_out.x.device)
    clean = suite_measurement(model, held_out, [], threat, device=device).accuracy("clean")
    few = stratified_images(held_out, probe_n, seed)
    probes = ["pgd-10", *(["fgsm"] if fgsm else [])]
    measurements = {name: suite_measurement(model, few, [parse_recipe(name)], threat, seed=seed, device=device) for name in probes}
    with freeze_model(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", re.escape(CUT_GRAPH), RuntimeWarning)  # told in a sentence before the first step
        slopes = jacobian_geometry(model, few.pixels(slice(None)), few.y, classes=1)
    return {
        "held_out_clean": clean,
        "held_out_robust": measurements["pgd-10"].accuracy("pgd-10"),
        "held_out_fgsm": measurements["fgsm"].accuracy("fgsm") if fgsm else math.nan,
        "held_out_attacked_clean": measurements["pgd-10"].accuracy("clean"),
        "held_out_margin": float(slopes["effective-margin"].nanmedian()),
        "held_out_weight_norm": float(slopes["row-norm-true"].nanmedian()),
        "held_out_n": len(held_out),
        "held_out_attacked_n": len(few),
    }


def steady_epoch(run: TrainingRun, epoch: Epoch) -> Epoch | None:
    """What `run.steady` becomes with this epoch, which has no alarm."""
    if not has_fgsm_gap(epoch.record()):
        return None
    return run.steady or (run.last if run.last and not has_fgsm_gap(run.last.record()) else None)


def roll_back(run: TrainingRun, plan: TrainingPlan) -> bool:
    """Whether the run went back to the end of its last sound epoch; it does not without one, nor more than three times."""
    if plan.guard != "roll-back" or run.good is None or len(run.lost_epochs) >= RETRIES:
        return False
    lost_epochs = [*run.lost_epochs, run.history[-1]]
    restore_run(run, run.good["moment"])
    run.best, run.last, run.steady = (run.good[name] for name in KEPT_EPOCHS)
    run.lost_epochs = lost_epochs
    return True


def attacked_count(held_out: Images, plan: TrainingPlan) -> int:
    """How many held-out images the probe attacks take."""
    return min(plan.probe_n, len(held_out))


def is_preferred(epoch: Epoch, run: TrainingRun, plan: TrainingPlan, n: int) -> bool:
    """Whether an epoch, the last in the run's history, takes the place of the best so far. Of equals the later one does."""
    if plan.is_defended:
        return is_near_best(epoch.held_out_robust, run.history, n)
    return run.best is None or epoch_rank(epoch) >= epoch_rank(run.best)


def epoch_rank(epoch: Epoch) -> tuple[float, float]:
    """What the epochs of a training without a defence are compared by; equal for all where nothing is held out."""
    accuracies = (epoch.held_out_clean, epoch.held_out_robust)
    return (0.0, 0.0) if math.isnan(accuracies[0]) else accuracies


def selected_epoch(run: TrainingRun, plan: TrainingPlan, held_out: Images) -> tuple[Epoch, list[str]]:
    """The epoch whose weights are to be used, with notes where the most robust one cannot be told, and where later ones are less robust.

    Raises:
        InputError: where the run has no epoch without an alarm.
    """
    if run.best is None or run.last is None:
        raise InputError("nothing was trained: the run has no epoch")
    if not plan.is_defended:
        return run.best, []
    n = attacked_count(held_out, plan)
    unproven, overfitting = unproven_choice_note(run.history, n, len(held_out.classes)), robust_overfitting_note(run.history, n)
    return (run.steady or run.last) if unproven else run.best, [note for note in (unproven, overfitting) if note]
