"""Stochastic weight averaging: the mean of the weights at the ends of epochs (Izmailov et al. 2018, 1803.05407).

Every epoch from some share of the training on counts alike. The mean of networks has other activations than each of them, so the statistics
of its batch norm are computed anew, by a pass over the training images, as in the paper; extra images take no part.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from robench.training.extra_images import TrainingImages
from robench.training.frozen_parameters import enter_training_mode
from robench.training.types import TrainingPlan, TrainingRun


@torch.no_grad()
def update_equal_average(run: TrainingRun, plan: TrainingPlan, train: TrainingImages, epoch: int) -> None:
    """Takes the weights at the end of an epoch into the run's average; before the first one that counts it is the model itself.

    Args:
        run: the run, whose average is changed.
        plan: gives the share of the training from which on epochs count.
        train: the training images, for the statistics of batch norm.
        epoch: the number of the epoch, from 0.
    """
    counted = epoch - int(plan.swa * plan.epochs) + 1
    if counted <= 1:
        run.average.load_state_dict(run.model.state_dict())
        return
    for mean, weight in zip(run.average.parameters(), run.model.parameters(), strict=True):
        mean.lerp_(weight, 1 / counted)
    for kept, buffer in zip(run.average.buffers(), run.model.buffers(), strict=True):
        kept.copy_(buffer)
    recompute_statistics(run, plan, train)


def recompute_statistics(run: TrainingRun, plan: TrainingPlan, train: TrainingImages) -> None:
    """Gives the batch norm of the average the mean and variance of its activations at the clean training images, each batch alike.

    Of several processes each passes its share of every batch. Batch norm under a frozen prefix keeps its statistics, and dropout is off.
    """
    enter_training_mode(run.average, plan.freeze)
    norms = [module for module in run.average.modules() if isinstance(module, _BatchNorm) and module.training]
    run.average.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    if norms:
        pass_over_images(run, plan, train)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    run.average.eval()


def pass_over_images(run: TrainingRun, plan: TrainingPlan, train: TrainingImages) -> None:
    """Shows the average all whole batches of the training images, in their order."""
    size = plan.batch_size // plan.accumulate
    batches = [run.world.share(rows) for rows in torch.arange(len(train) // size * size).split(size)]
    train.expect(torch.cat(batches))
    model: nn.Module = run.average
    for rows in batches:
        model(train.pixels(rows))
