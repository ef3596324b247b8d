"""What a training is made of: its plan, its run, and the events that it yields."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from robench.core.processes import World
from robench.core.threat import Threat
from robench.objectives import Objective, Regularizer
from robench.results.measurement import Measurement

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One step of the training.

    Attributes:
        epoch: the number of the epoch, from 0.
        step: the number of the step in it, from 0.
        steps: how many steps an epoch has.
        images: how many images the step takes, over all processes.
        terms: the loss under "loss", then its terms by name, means over the images.
    """

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
class TrackerFailure(TrainingNote):
    """A sentence on a tracker that failed, while the training goes on; it is shown also where notes are not."""


@dataclass(frozen=True)
class Epoch:
    """One epoch: what was trained and measured in it, and what the guard says of it.

    All accuracies are shares in [0, 1], nan where nothing was measured.

    Attributes:
        epoch: its number, from 0.
        seconds: how long its steps took.
        lr: the learning rate of its last step.
        terms: the mean of each term of the loss over its steps.
        held_out_clean: accuracy on all held-out images.
        held_out_robust: accuracy under PGD-10 on the attacked ones: `probe_n` of them, the same share of each class.
        weights: the weights that were measured, on the CPU; empty where the training has diverged.
        held_out_fgsm: accuracy under FGSM on the attacked ones; nan where the guard does not look for it.
        held_out_attacked_clean: clean accuracy on the attacked ones.
        held_out_margin: median of the effective margin on the attacked ones.
        held_out_weight_norm: median of ||g_y|| on them, the norm of the gradient of the true class's logit by the image.
        held_out_n: how many images are held out.
        held_out_attacked_n: how many of them are attacked.
        alarm: why the training ends with this epoch or goes back before it; "" if it does neither.
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


Event: TypeAlias = Step | Epoch | TrainingNote
EventWatcher: TypeAlias = Callable[[Iterator[Event], int], Iterator[Event]]


def show_notes(sentences: Sequence[str], watch: EventWatcher) -> None:
    """Shows sentences to whoever watches a training, outside of its epochs.

    Args:
        sentences: one for each TrainingNote; without any, `watch` is not called.
        watch: as `train` takes it.
    """
    if sentences:
        tuple(watch(iter(map(TrainingNote, sentences)), 0))


@dataclass(frozen=True)
class TrainingPlan:
    """What is settled before the first step.

    Attributes:
        objective: the loss, and how its x_adv are made.
        regularizers: by label their weights over the training and their functions.
        threat: of training, and of the attacks on the held-out images.
        seed: of all random numbers.
        epochs: passes over the training images.
        batch_size: images a step, over all processes.
        optimizer: a name in `training.steps.OPTIMIZERS`.
        lr: the largest learning rate.
        momentum: of the optimizer; beta1 of AdamW.
        nesterov: whether the momentum of sgd is Nesterov's.
        weight_decay: of the optimizer.
        schedule: of the learning rate, as a recipe.
        augment: a name in `data.augment.AUGMENTATIONS`.
        ema: the decay of the average of the weights, 0 for none.
        label_smoothing: the share of the labels that is spread over all classes.
        probe_n: how many held-out images are attacked after each epoch.
        mixup: the parameter of its Beta distribution, 0 for none.
        cutmix: the parameter of the Beta distribution of its shares, 0 for none.
        awp: the relative size of the adversarial weight perturbation, 0 for none.
        awp_warmup: the share of the training before it begins.
        precision: "fp32", "tf32" or "bf16" (autocast; gradients of gradients stay in fp32).
        is_compiled: whether the adversary's passes go through torch.compile, and all passes where there is no regulariser.
        is_defended: whether the epoch is chosen by robust accuracy on the held-out images, and not by clean accuracy.
        is_watched: whether the adversary is one that a network can learn to fool, so that the guard looks for it.
        guard: what happens where it does, or where the loss diverges: "stop", "roll-back" or "off".
        teacher: the network that is learnt from, frozen.
        freeze: prefixes of the parameters that stay as they are, with the statistics of the batch norm there.
        accumulate: in how many parts the images of a step go through the network.
        swa: the share of the training from which on the weights at the ends of epochs are averaged evenly, 0 for none.
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
    nesterov: bool = True
    precision: str = "fp32"
    is_compiled: bool = False
    is_defended: bool = True
    is_watched: bool = False
    guard: str = "off"
    teacher: nn.Module | None = None
    freeze: Sequence[str] = ()
    accumulate: int = 1
    swa: float = 0.0


@dataclass
class TrainingRun:
    """A training under way: all that a step or an epoch changes.

    Attributes:
        model: the network that is trained, in place.
        average: the network that is measured and handed out: the moving average of the weights, or the model itself.
        optimizer: torch's optimizer of the weights.
        weights: the parameters that are trained.
        adversary_model: the model as the adversary calls it; compiled where the plan says so.
        world: which process this is, of how many.
        kept_tensors: what the objective keeps from step to step, by name.
        steps_done: how many steps are done.
        sums: the sum of each term over the steps of the epoch so far.
        history: the records of the epochs so far.
        best: of the epochs without an alarm the one that the held-out accuracies choose, with its weights.
        last: the last epoch without an alarm.
        steady: the last of them without a gap of FGSM over PGD-10, where a later one has it.
        good: what a roll-back goes back to: the moment and best, last and steady at the end of the last sound epoch; None where no
            roll-back can come.
        lost_epochs: the records of epochs that were rolled back.
        first: the loss of the first step; nan before it.
    """

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    weights: list[nn.Parameter]
    adversary_model: nn.Module
    world: World
    kept_tensors: StateDict = field(default_factory=dict)
    steps_done: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: Epoch | None = None
    last: Epoch | None = None
    steady: Epoch | None = None
    good: dict[str, Any] | None = None
    lost_epochs: list[dict[str, Any]] = field(default_factory=list)
    first: float = math.nan


@dataclass(frozen=True)
class Trained:
    """What `train` returns.

    Attributes:
        model: the network with the chosen weights, in evaluation mode.
        meta: what the checkpoint holds beside the weights.
        evaluation: what was measured at the end; empty where an earlier run had finished the training.
        path: the checkpoint; None where none was written.
    """

    model: nn.Module
    meta: dict[str, Any]
    evaluation: list[Measurement]
    path: Path | None
