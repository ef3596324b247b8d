"""One step of a training: a batch of images, what the adversary makes of it, the gradients, the weights after it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.processes import World
from robench.core.recipes import lookup, parse_recipe, resolve
from robench.core.types import Batch
from robench.data.augment import AUGMENTATIONS
from robench.data.mixing import MIXINGS, box_centre, mixing_partners, mixing_share
from robench.models.stand_ins import arithmetic
from robench.models.synced_batch_norm import synchronise
from robench.objectives import penalised_loss
from robench.objectives.awp import perturbed_weights
from robench.objectives.gradients import applies_dropout
from robench.objectives.second_order import attention_by_products, differentiates_twice, name_failing_operators, refuse_lost_derivatives
from robench.objectives.terms import loss_and_terms
from robench.training.batch_parts import LossGradients, batch_parts, mean_gradients
from robench.training.extra_images import TrainingImages
from robench.training.frozen_parameters import enter_training_mode
from robench.training.types import TrainingPlan, TrainingRun

BITS = 2**63 - 1  # of a seed of torch's generators


def sgd(weights: list[nn.Parameter], lr: float, momentum: float, weight_decay: float, nesterov: bool = True) -> torch.optim.Optimizer:
    """Stochastic gradient descent, with momentum if there is any.

    Args:
        weights: the parameters.
        lr: the learning rate.
        momentum: in [0, 1); 0 for none.
        weight_decay: at least 0.
        nesterov: whether the momentum is Nesterov's.
    """
    ahead = nesterov and momentum > 0
    return torch.optim.SGD(weights, lr, momentum=momentum, weight_decay=weight_decay, nesterov=ahead, fused=is_on_gpu(weights))


def adamw(weights: list[nn.Parameter], lr: float, momentum: float, weight_decay: float, nesterov: bool = True) -> torch.optim.Optimizer:  # noqa: ARG001
    """AdamW (Loshchilov & Hutter 2019, 1711.05101) with beta1 = momentum and beta2 = 0.999.

    Args:
        weights: the parameters.
        lr: the learning rate.
        momentum: beta1, in [0, 1).
        weight_decay: at least 0.
        nesterov: of sgd alone; not read.
    """
    return torch.optim.AdamW(weights, lr, (momentum, 0.999), weight_decay=weight_decay, fused=is_on_gpu(weights))


def is_on_gpu(weights: Sequence[Tensor]) -> bool:
    """Whether one fused kernel makes the step: on a GPU. On the CPU it is a small part of one, and would round otherwise."""
    return all(weight.device.type == "cuda" for weight in weights)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter], float, float, float, bool], torch.optim.Optimizer]] = {"sgd": sgd, "adamw": adamw}


def begin_training(model: nn.Module, plan: TrainingPlan, world: World | None = None) -> TrainingRun:
    """A run at its first step. Several processes each take an even part of every batch.

    Args:
        model: the network, which is trained in place; of several processes its batch norm is synchronised.
        plan: what is settled.
        world: which process this is, of how many; by default the only one.

    Raises:
        InputError: where the processes cannot share a batch, or batch norm cannot take it.
    """
    world = world or World()
    refuse_batch_size(model, plan, world.size)
    if world.size > 1:
        synchronise(model)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = lookup(plan.optimizer, OPTIMIZERS, "optimizer")(weights, plan.lr, plan.momentum, plan.weight_decay, plan.nesterov)
    average = copy.deepcopy(model).eval() if plan.ema or plan.swa else model
    adversary_model = torch.compile(model) if plan.is_compiled else model
    return TrainingRun(model, average, optimizer, weights, adversary_model, world)  # type: ignore[arg-type]


def refuse_batch_size(model: nn.Module, plan: TrainingPlan, processes: int) -> None:
    """InputError for a batch size that the processes cannot share evenly, or that the network's batch norm cannot take."""
    if plan.batch_size % processes:
        raise InputError(f"{processes} processes cannot share batches of {plan.batch_size} evenly: choose a multiple for --batch-size")
    if plan.batch_size % (processes * plan.accumulate):
        share = "" if processes == 1 else f" on each of {processes} processes"
        raise InputError(
            f"batches of {plan.batch_size} cannot be cut into {plan.accumulate} even parts{share}: choose another number for --accumulate, "
            "or a multiple for --batch-size"
        )
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if norms and plan.batch_size < 2 * plan.accumulate:
        if plan.accumulate > 1:
            raise InputError("batch norm needs parts of at least 2 images: lower --accumulate or choose an architecture without it")
        raise InputError("batch norm needs batches of at least 2 images: raise --batch-size or choose an architecture without it")


def train_step(run: TrainingRun, plan: TrainingPlan, train: TrainingImages, rows: Tensor, lr: float, steps: int) -> dict[str, float]:
    """One step on the images at `rows`, of which each process takes its share.

    Args:
        run: the run, whose weights, average and kept tensors are changed.
        plan: the plan.
        train: all training images.
        rows: the places (B,) of the images of the batch.
        lr: the learning rate.
        steps: how many steps an epoch has.

    Returns:
        The terms of the loss, means over the images of all processes.
    """
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    device = run.weights[0].device
    with plan_precision(plan, device), seeded_dropout(run, plan, device):
        batch = crafted_batch(run, plan, training_batch(run, plan, train, rows, run.steps_done / (plan.epochs * steps)))
        grads, grad_x, terms = step_gradients(run, plan, batch)
    with torch.no_grad():
        numbers = torch.stack([term.detach().double() for term in terms.values()])
        run.world.average([*grads, numbers])
        for weight, grad in zip(run.weights, grads, strict=True):
            weight.grad = gradient_in_layout(grad, weight)
        run.optimizer.step()
        if plan.objective.absorb and grad_x is not None:
            plan.objective.absorb(batch, grad_x)
        if plan.ema:
            update_average(run.average, run.model, min(plan.ema, (1 + run.steps_done) / (10 + run.steps_done)))
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
    """Where the model has dropout: torch's generators start from a seed made of the run's seed, the step and the process.

    Layers of dropout take no generator of their own, so they cannot draw from `Draws`.
    """
    if not any(applies_dropout(module) for module in run.model.modules()):
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(((plan.seed * 1_000_003 + run.steps_done) * 64 + len(run.lost_epochs)) * 1024 + run.world.rank & BITS)
        yield


def training_batch(run: TrainingRun, plan: TrainingPlan, train: TrainingImages, rows: Tensor, progress: float) -> Batch:
    """This process's images, augmented and mixed, before the adversary changes them.

    Augmentations draw from `Draws`, by image. Partners, share and box of a mixing belong to the whole batch, see `data.mixing`.

    Args:
        run: the run, which gives the number of the step.
        plan: the plan.
        train: all training images.
        rows: the places (B,) of the images of the batch.
        progress: the share of the training that is done, in [0, 1).
    """
    key = "/".join(["train", *(["again", str(len(run.lost_epochs))] if run.lost_epochs else [])])
    number = run.steps_done // plan.objective.replays * plan.objective.replays  # the same images in every replay
    mine = run.world.share(rows)
    x, draws = augmented_images(plan, train, mine, key, number)
    y, mixed = train.y[mine], None
    for name, alpha in (("mixup", plan.mixup), ("cutmix", plan.cutmix)):
        if alpha:
            others = run.world.share(rows[mixing_partners(len(rows), plan.seed, number)])
            other, _ = augmented_images(plan, train, others, key, number)
            lam = mixing_share(alpha, plan.seed, number)
            x, y, mixed = MIXINGS[name](x, other, y, train.y[others], len(train.classes), lam, box_centre(plan.seed, number))
    draws = Draws(plan.seed, draws.ids, key).child(run.steps_done)
    return Batch(
        x, y, x, x.new_empty(0), draws.ids, progress, draws, plan.label_smoothing, plan.teacher, plan.threat, mixed, run.kept_tensors
    )  # fmt: skip


def augmented_images(plan: TrainingPlan, train: TrainingImages, rows: Tensor, key: str, number: int) -> tuple[Tensor, Draws]:
    """The images at `rows` under the plan's augmentation in this step, and their random numbers."""
    draws = Draws(plan.seed, train.ids[rows], key).child(number)
    return resolve(parse_recipe(plan.augment), AUGMENTATIONS, "augmentation")(train.pixels(rows), draws.child("augment")), draws


def crafted_batch(run: TrainingRun, plan: TrainingPlan, batch: Batch) -> Batch:
    """The batch with the images that the loss is taken at, made part by part.

    An objective that absorbs gradients keeps something for the places of the whole batch, which it is shown as it is.
    """
    enter_training_mode(run.model, plan.freeze)
    x_adv = torch.cat([crafted_images(run, plan, part) for part in batch_parts(batch, 1 if plan.objective.absorb else plan.accumulate)])
    return replace(batch, x_adv=x_adv.requires_grad_(bool(plan.regularizers) or plan.objective.absorb is not None))


def crafted_images(run: TrainingRun, plan: TrainingPlan, batch: Batch) -> Tensor:
    """The images that the objective makes of the batch, (B, C, H, W), without their graph."""
    x_adv = plan.objective.craft(run.adversary_model, batch)
    if run.steps_done == 0:
        refuse_crafted_images(x_adv, batch.x)
    return x_adv.detach()


def refuse_crafted_images(x_adv: object, x: Tensor) -> None:
    """InputError where what an objective crafted are no images like x, in [0, 1]: looked at in the first step, as it costs a little."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape or not x_adv.is_floating_point():
        what = f"{x_adv.dtype} {tuple(x_adv.shape)}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise InputError(f"the objective's craft returned {what}: it must return images like those it is given, {tuple(x.shape)} in floats")
    if not bool(((x_adv >= -1e-4) & (x_adv <= 1 + 1e-4)).all()):
        low, high = float(x_adv.min()), float(x_adv.max())
        raise InputError(f"the objective's craft returned pixels that do not lie in [0, 1]: these span {low:.4g} to {high:.4g}")


def step_gradients(run: TrainingRun, plan: TrainingPlan, batch: Batch) -> LossGradients:
    """The gradients of the loss by the weights and, where the objective wants to know it, by x_adv; and the loss with its terms."""
    model = run.model if plan.regularizers else run.adversary_model
    parts = batch_parts(batch, plan.accumulate)

    def base(part: Batch) -> Tensor:
        return loss_and_terms(plan.objective.loss, model, batch_with_logits(model, part))[0]

    with ExitStack() as stack:
        stack.enter_context(attention_by_products(differentiates_twice(plan.regularizers)))
        if plan.awp and batch.progress >= plan.awp_warmup:
            bases = [partial(base, part) for part in parts]
            stack.enter_context(perturbed_weights(run.model, bases, plan.awp, reduce=run.world.average))
        return mean_gradients((loss_gradients(run, plan, model, part) for part in parts), len(parts))


def loss_gradients(run: TrainingRun, plan: TrainingPlan, model: nn.Module, batch: Batch) -> LossGradients:
    """One forward and backward pass of the loss on a batch, or on a part of one."""
    full_batch = batch_with_logits(model, batch)
    leaves = [*run.weights, *([batch.x_adv] if plan.objective.absorb else [])]
    with name_failing_operators(full_batch.logits):
        loss, terms = penalised_loss(plan.objective.loss, plan.regularizers)(model, full_batch)
        if run.steps_done == 0:
            refuse_lost_derivatives(loss, full_batch.logits)
        derivatives = torch.autograd.grad(loss, leaves, allow_unused=True)
    grads = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, derivatives, strict=True)]
    return LossGradients(grads[: len(run.weights)], grads[-1] if plan.objective.absorb else None, {"loss": loss, **terms})


def batch_with_logits(model: nn.Module, batch: Batch) -> Batch:
    """The batch with the model's logits at x_adv, and nothing remembered from other passes."""
    return replace(batch, logits=model(batch.x_adv), memo={})


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves the average's weights a share 1 - decay towards the model's, and copies its buffers (batch norm's statistics)."""
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)
