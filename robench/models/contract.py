"""What every measurement expects of a model, looked at once on a few images before anything is measured.

A model takes pixels in any batch size and leaves them as they are, gives floating-point logits, and answers in eval mode. Where a copy of
the images or a fuller batch is all that is missing (`ContractKeeper`), or the logits lie inside what the model returns or it wants its
images in half precision (`models.answers.AnswerReader`), the model is put behind it, with a note; else an InputError says what is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from robench.core.errors import InputError
from robench.core.memory import is_out_of_memory
from robench.core.model_calls import LEAST_ROWS, freeze_model, into_eval, least_rows
from robench.core.rows import Check
from robench.models.answers import readable_model
from robench.models.model_files import first_line

CONTRACT_IMAGES = 4  # images that are looked at
LARGE_CONTRACT_IMAGES = 2  # that are looked at where images are large and passes dear
MULTIPLES = (2, 4, 8, 16, 32, 64)  # tried where one of those fails
COMMON_BATCH_SIZES = (1, 2, 4, 8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 200, 250, 256, 500, 512)  # tried where one of the trial sizes fails
LAZY = (UninitializedParameter, UninitializedBuffer)
STEADY = 1e-4  # how far the logits of two passes over the same images may lie apart, as a share of the largest


@dataclass(frozen=True)
class Examination:
    """What came of looking at a model.

    Attributes:
        model: the model, or a wrapper around it that keeps the contract.
        notes: one sentence each on what was done for that, or seen.
        checks: the checks that can raise a flag.
    """

    model: nn.Module
    notes: tuple[str, ...]
    checks: tuple[Check, ...]


class ContractKeeper(nn.Module):
    """A model behind what it needs to keep the contract: a copy of the images, batches of a size that it takes, gradients on after it.

    Attributes:
        network: the model itself.
        multiple: batches are filled up to a multiple of this with copies of their last image, whose logits are dropped.
        most: no batch is larger than this; None for no limit.
    """

    def __init__(self, network: nn.Module, *, multiple: int = 1, most: int | None = None) -> None:
        super().__init__()
        self.network, self.multiple, self.most, self.training = network, multiple, most, False

    def forward(self, x: Tensor) -> Tensor:
        """The logits, (B, K)."""
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # which comes back, whatever the network sets
            if self.multiple == 1 and self.most is None:
                return self.network(x.clone())  # type: ignore[no-any-return]
            return torch.cat([self.part_logits(part) for part in (x.split(self.most) if self.most else (x,))])

    def part_logits(self, x: Tensor) -> Tensor:
        """The logits of at most `most` images."""
        fill = x[-1:].expand(-len(x) % self.multiple, *x.shape[1:])
        return self.network(torch.cat((x, fill)) if len(fill) else x.clone())[: len(x)]  # type: ignore[no-any-return]


def examine_model(model: nn.Module, x: Tensor) -> Examination:
    """Looks at a model on a few images and puts it behind what it needs to keep the contract.

    The random numbers and the modes of the modules stay as they were.

    Args:
        model: the model, in eval mode.
        x: images (B, C, H, W) in [0, 1] on the model's device, of which at most four are used.

    Raises:
        InputError: where the model does not give floating-point logits (B, K), K at least 2, for such images in some batch size.
    """
    x = x[: CONTRACT_IMAGES if least_rows(x) == LEAST_ROWS else LARGE_CONTRACT_IMAGES].detach()
    with (
        torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []),
        watch_modes(model) as ran,
        refuse_too_little_memory(x),
        freeze_model(model),
    ):
        readable, notes = readable_model(model, x)
        batch_safe, more = batch_safe_model(readable, x)
        safe_model, others = input_safe_model(batch_safe, x)
        notes += [*more, *others]
        safe_model, more = gradient_safe_model(safe_model, x)
        notes += [*more, *repeat_notes(safe_model, x), *graph_notes(safe_model, x)]
    return Examination(safe_model, tuple(notes), (training_mode_check(model, ran),))


@contextmanager
def refuse_too_little_memory(x: Tensor) -> Iterator[None]:
    """InputError where memory does not hold a batch of the least size."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"the memory of {x.device} does not hold {trial_sizes(x)[-1]} images {tuple(x.shape[1:])} in this model"
        ) from error


def trial_sizes(x: Tensor) -> tuple[int, int, int]:
    """Batch sizes that a model must take: one image, an odd number, and more than the rows that every call is filled up to.

    Args:
        x: images (B, C, H, W); only their size is looked at.
    """
    return 1, 3, least_rows(x) + 1


def trial_logits(model: nn.Module, x: Tensor, n: int) -> Tensor:
    """The logits of a batch of n images, (n, K): x repeated, as a copy. InputError where they are no logits; other exceptions pass."""
    with torch.no_grad():
        logits = model(repeated_images(x, n))
    if not isinstance(logits, Tensor):
        raise InputError(f"the model returns {type(logits).__name__}, not one tensor of logits (B, K)")
    if logits.dim() != 2 or len(logits) != n:
        raise InputError(f"the model turns images {(n, *x.shape[1:])} into an output {tuple(logits.shape)}, not into logits (B, K)")
    refuse_one_output(logits)
    if not logits.is_floating_point():
        raise InputError(f"the model returns {str(logits.dtype).removeprefix('torch.')} numbers: logits must be floating-point numbers")
    return logits


def refuse_one_output(logits: Tensor) -> None:
    """InputError for outputs (B, K) with K below 2: the largest of one is always the same, so that nothing could ever be wrong.

    Args:
        logits: (B, K).
    """
    if logits.shape[1] < 2:
        raise InputError(
            f"the model returns {logits.shape[1]} output for each image, and classes need at least 2: for one logit z return (0, z)"
        )


def repeated_images(x: Tensor, n: int) -> Tensor:
    """A batch of n images, those of x over and over, as a copy."""
    return x[torch.arange(n, device=x.device) % len(x)]


# Batch sizes


def batch_safe_model(model: nn.Module, x: Tensor) -> tuple[nn.Module, list[str]]:
    """The model, behind a wrapper where it does not take batches of any size, with a note; InputError where no size was found."""
    failed = {n: why for n in trial_sizes(x) if (why := batch_failure(model, x, n))}
    if not failed:
        return model, []
    n, why = next(iter(failed.items()))
    symptom = f"the model fails on a batch of {n} ({why})"
    for size in MULTIPLES:
        if not any(batch_failure(model, x, count * size) for count in (1, 2, 3)):
            return ContractKeeper(model, multiple=size), [
                f"{symptom}: batches are filled up to a multiple of {size} with copies of their last image"
            ]
    for size in COMMON_BATCH_SIZES if len(failed) > 1 else ():
        if not batch_failure(model, x, size):
            return ContractKeeper(model, multiple=size, most=size), [
                f"{symptom}, and takes {size}: it is given {size} at a time, filled up with copies"
            ]
    trial_logits_or_error(model, x, n)
    raise InputError(f"{symptom}: a model must take batches of any size")


def batch_failure(model: nn.Module, x: Tensor, n: int) -> str:
    """Why the model does not take a batch of n images, in a few words; "" where it does. What memory lacks is no reason."""
    try:
        trial_logits(model, x, n)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def trial_logits_or_error(model: nn.Module, x: Tensor, n: int) -> Tensor:
    """The logits of a batch of n images, (n, K); InputError with the reason where the model does not take it."""
    size = f"(B, {', '.join(map(str, x.shape[1:]))})"
    try:
        return trial_logits(model, x, n)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the model cannot take images of shape {size}: {type(error).__name__}: {first_line(error)}") from error


# The images, a second call, the graph


def input_safe_model(model: nn.Module, x: Tensor) -> tuple[nn.Module, list[str]]:
    """The model, behind a copy of its images where it changes them in place, with a note."""
    batch = repeated_images(x, len(x))
    with torch.no_grad():
        model(batch)
    if torch.equal(batch, repeated_images(x, len(x))):
        return model, []
    return ContractKeeper(model), ["the model changes its images in place: it is given copies, so that nothing else sees the change"]


def gradient_safe_model(model: nn.Module, x: Tensor) -> tuple[nn.Module, list[str]]:
    """The model, behind a wrapper that enables gradients again where its forward disables them for whoever comes next, with a note."""
    with torch.enable_grad():
        try:
            model(repeated_images(x, len(x)))
        except Exception as error:  # what fails with gradients alone is told by `graph_notes`
            if is_out_of_memory(error):
                raise
        left_on = torch.is_grad_enabled()
    if left_on:
        return model, []
    note = "the model disables gradients for the whole process (torch.set_grad_enabled(False)): they are enabled again after each call"
    return (model if isinstance(model, ContractKeeper) else ContractKeeper(model)), [note]


def repeat_notes(model: nn.Module, x: Tensor) -> list[str]:
    """A note where the model gives other logits when it is asked a second time."""
    first, second = (trial_logits(model, x, len(x)).double() for _ in range(2))
    apart = float((first - second).abs().max())
    if first.shape == second.shape and not apart > STEADY * float(first.abs().max()):
        return []
    return [f"the model gives other logits when it is asked again about the same images (up to {apart:.2g} apart)"]


def graph_notes(model: nn.Module, x: Tensor) -> list[str]:
    """A note where gradients cannot be taken twice from one graph; torch.compile is told to keep the graph where that is all it needs."""
    why = second_gradient_fault(model, x)
    if "donated_buffer" in why:
        keep_graphs()
        why = second_gradient_fault(model, x)
        if not why:
            return ["the model is compiled by torch.compile: it was compiled anew so that its graphs can be used twice"]
    return [f"no gradient can be taken from the model ({why}): only attacks that take none can run"] if why else []


def second_gradient_fault(model: nn.Module, x: Tensor) -> str:
    """Why two gradients cannot be taken from one graph of the model; "" where they can, and where there is no graph at all."""
    with torch.enable_grad():
        leaf = repeated_images(x, len(x)).requires_grad_()
        try:
            logits = model(leaf)
            if logits.requires_grad:
                for again in (True, False):
                    torch.autograd.grad(logits.sum(), leaf, retain_graph=again, allow_unused=True)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return str(error) if "donated_buffer" in str(error) else f"{type(error).__name__}: {first_line(error)}"
    return ""


def keep_graphs() -> None:
    """Lets compiled graphs be used twice, for the rest of the process; what was compiled before is compiled anew."""
    config: Any = sys.modules["torch._functorch.config"]
    config.donated_buffer = False
    torch._dynamo.reset()


# Modes


@contextmanager
def watch_modes(model: nn.Module) -> Iterator[set[nn.Module]]:
    """The modules that depend on the mode and are in training mode as they run inside, or afterwards; compiled ones only afterwards."""
    modules, ran = [module for module in model.modules() if reads_training(module)], set[nn.Module]()

    def note(module: nn.Module, _: Any) -> None:
        if module.training:
            ran.add(module)

    plain = not any(hasattr(module, "_orig_mod") for module in model.modules())  # a hook would compile the model anew
    hooks = [module.register_forward_pre_hook(note) for module in modules if plain and not isinstance(module, torch.jit.ScriptModule)]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()
        for module in modules:
            note(module, None)
        for module in model.modules():
            module.training = False


def training_mode_check(model: nn.Module, ran: set[nn.Module]) -> Check:
    """The share of the mode-dependent modules that ran in training mode although the model was in eval mode; raised if any did."""
    n = sum(map(reads_training, model.modules()))
    evidence = f"{len(ran)} of {n} modules that depend on the mode run in training mode although the model is in eval mode"
    advice = "its forward switches them on; dropout and batch statistics are part of what is measured"
    return Check("clean", "trains_in_forward", len(ran) / max(n, 1), bool(ran), f"{evidence}: {advice}" if ran else evidence)


def reads_training(module: nn.Module) -> bool:
    """Whether the module's forward reads its `training` flag; True where its code cannot be seen.

    Args:
        module: any module.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return True
    code = getattr(type(module).forward, "__code__", None)
    return code is None or "training" in code.co_names


# Weights that are not there


def refuse_absent_weights(model: nn.Module, name: str) -> None:
    """InputError where weights have no values: those of lazy layers that never saw an image, and those on the meta device.

    Args:
        model: the model.
        name: what sentences call it.
    """
    for key, value in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(value, LAZY):
            raise InputError(
                f"{name} has lazy layers whose weights are not there yet (first {key}): call it once on an image, then load its weights"
            )
        if value.is_meta:
            raise InputError(
                f"{name} has weights on the meta device, which have no values (first {key}): build it on the CPU and load its weights"
            )


def materialised_network(network: nn.Module, shape: tuple[int, int, int], name: str) -> nn.Module:
    """The network, ready to be given weights: its lazy layers, if there are any, have seen an image of this shape."""
    if any(isinstance(value, LAZY) for value in (*network.parameters(), *network.buffers())):
        with torch.no_grad():
            into_eval(network)(torch.zeros(2, *shape))
    refuse_absent_weights(network, name)
    return network
