"""The authors' own AutoAttack components, run one by one through the package `pyautoattack` 0.2.0.

AutoAttack: Croce & Hein 2020, 2003.01690 (l1: 2103.01208). FAB: Croce & Hein 2020, 1907.02044. Square: Andriushchenko et
al. 2020, 1912.00049. The options bear the names of our own attacks; the package's
driver is not used (it installs a trace hook, returns flags as log lines and fails below 10 classes).

What the engine does not say is said here as well as it can be:
* passes: counted for the whole batch and split evenly over its samples; the engine runs fallen samples on.
* step: 0 where fooled.
* nonfinite: set for the whole batch when any call gave a NaN or infinite logit.
* its noise is the same in every batch and belongs to a sample's place among those that stand, so verdicts can move with
  the batch size; the seed is draws.seed. The global random state is left as it was.
The points it returns are judged again: outside the threat they are projected first (its l1 projection rounds outwards).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from robench.core.checks import switch_option, whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.model_calls import CUT_GRAPH, freeze_model
from robench.core.threat import Threat
from robench.core.types import AttackResult

ENGINE_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def reference_apgd_ce(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws,
    *, steps: int = 100, restarts: int = 1, eot: int = 1, large_eps: bool = False,
) -> AttackResult:  # fmt: skip
    """APGD on the cross-entropy by its authors' code (Croce & Hein 2020, 2003.01690); options as in our own.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        steps: iterations per restart, at least 1.
        restarts: independent random starts, at least 1.
        eot: passes whose gradients are averaged, at least 1.
        large_eps: true starts in a ball of radius 3 eps, then 2 eps, then eps; l1 only.

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range.
    """
    return run_engine(model, x, y, threat, draws, engine=APGDAttack, loss="ce", **apgd_settings(steps, restarts, eot, large_eps))


def reference_apgd_dlr(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws,
    *, steps: int = 100, restarts: int = 1, eot: int = 1, large_eps: bool = False,
) -> AttackResult:  # fmt: skip
    """APGD on the DLR loss by its authors' code (Croce & Hein 2020, 2003.01690); nothing is found below 3 classes.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        steps: iterations per restart, at least 1.
        restarts: independent random starts, at least 1.
        eot: passes whose gradients are averaged, at least 1.
        large_eps: true starts in a ball of radius 3 eps, then 2 eps, then eps; l1 only.

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range.
    """
    if class_count(model, x) < 3:
        return empty_result(x)
    return run_engine(model, x, y, threat, draws, engine=APGDAttack, loss="dlr", **apgd_settings(steps, restarts, eot, large_eps))


def reference_apgd_t(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws,
    *, steps: int = 100, targets: int = 9, restarts: int = 1, large_eps: bool = False,
) -> AttackResult:  # fmt: skip
    """Targeted APGD on the DLR loss by its authors' code (Croce & Hein 2020, 2003.01690).

    Nothing is found below 4 classes, where the targeted DLR loss is not defined.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        steps: iterations per target and restart, at least 1.
        targets: how many classes, at least 1; fewer where the model has fewer classes.
        restarts: independent random starts per target, at least 1.
        large_eps: true starts in a ball of radius 3 eps, then 2 eps, then eps; l1 only.

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range.
    """
    classes = class_count(model, x)
    if classes < 4:
        return empty_result(x)
    settings = apgd_settings(steps, restarts, 1, large_eps) | {"n_target_classes": min(whole_option("targets", targets), classes - 1)}
    return run_engine(model, x, y, threat, draws, engine=APGDAttack_targeted, **settings)


def reference_fab_t(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws, *, steps: int = 100, targets: int = 9, restarts: int = 1
) -> AttackResult:
    """Targeted FAB by its authors' code (Croce & Hein 2020, 1907.02044); fewer targets where the model has fewer classes.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        steps: iterations per target and restart, at least 1.
        targets: how many classes, at least 1.
        restarts: runs per target, at least 1.

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range.
    """
    settings = {"n_iter": whole_option("steps", steps), "n_restarts": whole_option("restarts", restarts)}
    target_count = min(whole_option("targets", targets), class_count(model, x) - 1)
    return run_engine(model, x, y, threat, draws, engine=FABAttack_PT, targeted=True, n_target_classes=target_count, **settings)


def reference_fab(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws, *, steps: int = 100, restarts: int = 5
) -> AttackResult:
    """FAB towards the nearest class by its authors' code (Croce & Hein 2020, 1907.02044).

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        steps: iterations per restart, at least 1.
        restarts: runs, at least 1.

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: an option is out of its range.
    """
    settings = {"n_iter": whole_option("steps", steps), "n_restarts": whole_option("restarts", restarts)}
    return run_engine(model, x, y, threat, draws, engine=FABAttack_PT, targeted=False, **settings)


def reference_square(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws, *, queries: int = 5000) -> AttackResult:
    """Square, a black-box search, by its authors' code (Andriushchenko et al. 2020, 1912.00049).

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        threat: the set in which every x_adv must lie.
        draws: random numbers of the samples; the result is a pure function of them.
        queries: candidates per sample, at least 1.

    Returns:
        The worst point that was found for each sample, or clean x, with what was spent on it.

    Raises:
        InputError: `queries` is out of its range, or the engine's start pattern in l2 and l1 does not fit the images.
    """
    if threat.norm != "linf" and not tiles_fit(*x.shape[-2:]):
        height, width = x.shape[-2:]
        raise InputError(f"the reference Square cannot start on images of {height}x{width} in {threat.norm}: leave it out or resize them")
    return run_engine(
        model,
        x,
        y,
        threat,
        draws,
        engine=SquareAttack,
        n_queries=whole_option("queries", queries),
        p_init=0.8,
        n_restarts=1,
        resc_schedule=False,
    )


def reference_limits(known: int) -> dict[str, str]:
    """What this engine cannot do with a model of so many classes, by the attack's name; empty where nothing is left out.

    Args:
        known: number of classes K of the model.
    """
    limits = {"apgd-dlr": f"left out: the DLR loss needs 3 classes, the model has {known}"} if known < 3 else {}
    if known < 4:
        limits["apgd-t"] = f"left out: the targeted DLR loss needs 4 classes, the model has {known}"
    return limits


def apgd_settings(steps: int, restarts: int, eot: int, large_eps: bool) -> dict[str, Any]:
    """The package's words for the options of APGD."""
    sizes = {"n_iter": whole_option("steps", steps), "n_restarts": whole_option("restarts", restarts), "eot_iter": whole_option("eot", eot)}
    return {**sizes, "rho": 0.75, "use_largereps": switch_option("large_eps", large_eps)}


def run_engine(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws, *, engine: Any, **settings: Any) -> AttackResult:
    """What one component of the package finds; a RuntimeWarning hands on what it logs (points with zero gradient)."""
    if not len(x):
        return empty_result(x)
    counted_model, logger = CountedModel(model), EngineLogger()
    if issubclass(engine, APGDAttack):
        settings["logger"] = logger
    common = {"norm": ENGINE_NORMS[threat.norm], "eps": threat.eps, "seed": draws.seed, "device": x.device, "verbose": False}
    with freeze_model(model), torch.no_grad(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        x_adv = engine(counted_model, **common, **settings).perturb(x.contiguous(), y).detach()
        passes = counted_model.forwards, counted_model.backwards
        x_adv = x_adv.where(threat.contains(x, x_adv).view(-1, 1, 1, 1), threat.project(x, x_adv))
        logits = counted_model(x_adv)
    for message in dict.fromkeys(logger.messages):
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    fooled = (logits.argmax(1) != y) & logits.isfinite().all(1)
    return AttackResult(
        x_adv=x_adv.where(fooled.view(-1, 1, 1, 1), x),
        fooled=fooled,
        step=fooled.long() - 1,
        forwards=even_split(passes[0], y),
        backwards=even_split(passes[1], y),
        nonfinite=counted_model.nonfinite.expand(len(x)).clone(),
    )


class CountedModel(nn.Module):
    """The model as the engine sees it: counts rows of forward and backward passes, and notes logits that are not finite."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0
        self.nonfinite = torch.tensor(False)

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits, (B, K)."""
        self.forwards += len(x)
        logits: Tensor = self.model(CountedBackward.apply(x, self))
        self.nonfinite = self.nonfinite.to(x.device) | ~logits.detach().isfinite().all()
        if torch.is_grad_enabled() and x.requires_grad and not logits.requires_grad:
            warnings.warn(CUT_GRAPH, RuntimeWarning, stacklevel=2)
            logits = logits + 0 * x.flatten(1).sum(1, keepdim=True)  # the engine fails on logits without a graph
        return logits


class CountedBackward(torch.autograd.Function):
    """The identity; its backward counts rows and hands on a contiguous gradient (the engine fails on channels_last ones)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counted: CountedModel) -> Tensor:
        """X itself, as a view."""
        ctx.counted = counted
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gradient as it comes, contiguous."""
        ctx.counted.backwards += len(grads[0])
        return grads[0].contiguous(), None


class EngineLogger:
    """A logger for the engine that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def warning(self, message: str) -> None:
        """Keeps the message, without counts (so that batches say the same) and without its pointer to a file of the package."""
        self.messages.append(re.sub(r"\b\d+ ", "", message.partition(" See ")[0]))


def class_count(model: nn.Module, x: Tensor) -> int:
    """How many classes the model has (one uncounted pass of one image); 10 where there is no image to ask with."""
    with freeze_model(model), torch.no_grad():
        return int(model(x[:1]).shape[1]) if len(x) else 10


def empty_result(x: Tensor) -> AttackResult:
    """Nothing found and nothing spent."""
    zero = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return AttackResult(x.clone(), zero.bool(), zero - 1, zero, zero.clone(), zero.bool())


def even_split(total: int, like: Tensor) -> Tensor:
    """The total split evenly in whole numbers, (B,); they add up to it."""
    each, rest = divmod(total, len(like))
    return each + (torch.arange(len(like), device=like.device) < rest).long()


def tiles_fit(height: int, width: int) -> bool:
    """Whether the engine's l2 and l1 start pattern (tiles of a fifth of the height, one offset for both axes) stays inside the image."""
    side = height // 5
    offset = (height - 5 * side) // 2
    return side > 0 and (side == 1 or all(offset + length // side * side <= length for length in (height, width)))


REFERENCE_ATTACKS: dict[str, Callable[..., AttackResult]] = {
    "apgd-ce": reference_apgd_ce,
    "apgd-dlr": reference_apgd_dlr,
    "apgd-t": reference_apgd_t,
    "fab": reference_fab,
    "fab-t": reference_fab_t,
    "square": reference_square,
}
