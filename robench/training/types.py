"""What a training is made of: its plan, its run, and the events that it yields."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
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


Event: TypeAlias = Step | Epoch | TrainingNote
EventWatcher: TypeAlias = Callable[[Iterator[Event], int], Iterator[Event]]


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
    """A training under way: what every step changes, and `adversary_model`, the model as the adversary calls it.

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
    optimizer: torch.optim.Optimizer
    weights: list[nn.Parameter]
    adversary_model: nn.Module
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


@dataclass(frozen=True)
class Trained:
    """What `train` returns.

    model       the network with the chosen weights            meta   what the checkpoint holds beside them
    evaluation  what was measured at the end; empty where the checkpoint was there already          path  the checkpoint, or None
    """

    model: nn.Module
    meta: dict[str, Any]
    evaluation: list[Measurement]
    path: Path | None
