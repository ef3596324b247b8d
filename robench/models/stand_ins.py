"""Cheaper passes of a model for attacks: batch norm folded, another memory format, fewer bits, compiled, and a batch size that suits.

An attack may search with a stand-in for the user's model. A stand-in holds the user's own model as `exact`, and whoever runs the
attack asks `exact` about every point that the stand-in calls adversarial: so a stand-in can miss a point, never invent one.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from robench.core.errors import InputError
from robench.core.model_calls import into_eval
from robench.core.recipes import did_you_mean

PRECISIONS = ("fp32", "tf32", "bf16")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
MOST_IMAGES = 64  # that two ways of making a pass race on
FEW_IMAGES = 16  # that logits and gradients are compared on
RACE_SECONDS = 0.3  # that a race between two ways of making a pass is to take
PAYS = 0.95  # the share of the time that a way must stay under to be taken
SHORT_PASS = 0.02  # seconds; an attack's own arithmetic, about a millisecond a step, should not count beside the pass
PROBE_SECONDS = 4.0  # after which no larger batch is tried


class StandIn(nn.Module):
    """Answers like `exact`, only cheaper; its logits are float32 and the gradient of its input is contiguous."""

    def __init__(self, exact: nn.Module, network: nn.Module, *, channels_last: bool = False, bf16: bool = False) -> None:
        super().__init__()
        self.exact, self.network, self.channels_last, self.bf16 = exact, network, channels_last, bf16
        self.training = False  # not by eval(), which some stored programs refuse

    def forward(self, x: Tensor) -> Tensor:
        """The logits, (B, K)."""
        x = ChannelsLast.apply(x) if self.channels_last else x
        if not self.bf16:
            return self.network(x)  # type: ignore[no-any-return]
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x).float()  # type: ignore[no-any-return]


class Fp32(nn.Module):
    """A model whose passes are made in full float32 where the passes around them are not."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.training = network, False

    def forward(self, x: Tensor) -> Tensor:
        """The logits, (B, K)."""
        with arithmetic("fp32"):
            return self.network(x)  # type: ignore[no-any-return]


class ChannelsLast(torch.autograd.Function):
    """The images in channels_last format; their gradient comes back in the usual one, so that callers can `view` it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 (torch's signature)
        """The same values, (B, C, H, W)."""
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004 (torch's signature)
        """The same gradient, (B, C, H, W)."""
        return grads[0].contiguous()


def cheaper_stand_in(
    model: nn.Module, x: Tensor, *, precision: str = "fp32", compile: bool = False, channels_last: bool | None = None
) -> tuple[nn.Module, list[str]]:
    """A stand-in whose passes cost less than the model's (the model itself where nothing pays), and a sentence on each thing done.

    Args:
        model: in eval mode on the device of x; it stays as it is.
        x: (B, C, H, W), a sample of clean float images, of which at most 64 are used.
        precision: "fp32", or for the search alone "tf32" (CUDA only) or "bf16". Hold `arithmetic(precision)` around all passes,
            backward ones too.
        compile: torch.compile on CUDA, which takes some ten seconds and more; kept only where it wins a race. Not on the CPU: there it took
            mostly 1.1 to 2 times as long on two of three networks, and 0.9 of the time on the third, after 5 to 30 s.
        channels_last: None uses it where it wins a race, whose outcome may differ between two runs for a model that gains little.

    Raises:
        InputError: for a precision that is unknown or that the device does not have.
    """
    refuse_precision(precision, x.device)
    if model.training:
        raise ValueError("cheaper passes are made for a model in eval mode")
    x, bf16 = x[:MOST_IMAGES].detach(), precision == "bf16"
    exact = Fp32(model) if precision == "tf32" else model
    why = copy_obstacle(model, x)
    with arithmetic(precision):
        network, notes = (model, [why]) if why else folded_model(model, x)
        stand_in = StandIn(exact, network, bf16=bf16)
        notes += precision_notes(model, stand_in, x, precision)
        if not why and channels_last is not False:
            stand_in, more = channels_last_stand_in(stand_in, x, wanted=channels_last is True)
            notes += more
        if compile and x.device.type == "cpu":
            notes += ["not compiled: on the CPU it rarely pays beside the other ways"]
        elif compile and not why:
            stand_in, more = compiled_stand_in(stand_in, x)
            notes += more
    plain = stand_in.network is model and precision == "fp32"
    return (model if plain else stand_in), notes


def refuse_precision(precision: str, device: torch.device) -> None:
    """InputError for a precision that is unknown or that the device has not."""
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}{did_you_mean(str(precision), PRECISIONS)}")
    if precision == "tf32" and device.type != "cuda":
        raise InputError(f"precision tf32 needs a CUDA device, not {device.type}: choose fp32 or bf16")


def precision_notes(model: nn.Module, stand_in: StandIn, x: Tensor, precision: str) -> list[str]:
    """What to know about a precision other than fp32. It was asked for, so it is used whether it pays or not, and the note says which."""
    if precision == "fp32":
        return []
    rough = ["attacks search in " + precision + ": gradients are rougher, and every success is asked again in fp32"]
    if precision == "tf32":
        return rough
    share = time_share(stand_in, StandIn(model, stand_in.network), x)
    return [*rough, f"bf16 takes {share:.2f} of the time of fp32" + ("" if share < PAYS else ": it does not pay here")]


# Full float32 and less


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """A context for float32 products: exact to float32 ("fp32", and what autocast leaves alone in "bf16") or rounded to TF32 ("tf32").

    torch's own default rounds convolutions on CUDA to TF32. The caller's settings come back at the end. They hold for whatever is
    computed meanwhile, so that a backward pass belongs inside as well.

    Args:
        precision: "fp32", "tf32" or "bf16".
    """
    backends = torch.backends
    device = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)  # type: ignore[attr-defined]
    host = (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn)  # type: ignore[attr-defined]
    before, old = [part.fp32_precision for part in (*device, *host)], old_precision_settings()
    tf32 = precision == "tf32"
    try:
        set_old_settings(("high", True) if tf32 else ("highest", False))
        set_part_precisions((*device, *host), ["tf32" if tf32 else "ieee"] * 3 + ["ieee"] * 3)
        yield
    finally:
        set_old_settings(old)
        set_part_precisions((*device, *host), before)


def set_part_precisions(parts: tuple[Any, ...], values: list[str]) -> None:
    """Sets the precision of each part."""
    for part, value in zip(parts, values, strict=True):
        part.fp32_precision = value


def old_precision_settings() -> tuple[str, bool] | None:
    """torch's older switches of the same thing; None where they contradict the newer ones and torch refuses to read them."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None


def set_old_settings(values: tuple[str, bool] | None) -> None:
    """Sets the older switches: torch raises when somebody reads them while they contradict the newer ones."""
    if values is not None:
        with warnings.catch_warnings(action="ignore"):
            torch.set_float32_matmul_precision(values[0])
            torch.backends.cudnn.allow_tf32 = values[1]


# What may be touched, and what agrees


def copy_obstacle(model: nn.Module, x: Tensor) -> str:
    """Why the model cannot be copied and changed, as a note; "" where it can."""
    modules = list(model.modules())
    if any(isinstance(module, torch.jit.ScriptModule | fx.GraphModule) or hasattr(module, "_orig_mod") for module in modules):
        return "the model holds a stored or compiled program: its passes are used as they are"
    if any(getattr(module, name) for module in modules for name in HOOKS):
        return "the model has hooks: its passes are used as they are"
    with torch.no_grad():
        if not is_close(model(x[:FEW_IMAGES]), model(x[:FEW_IMAGES]), 1e-5):
            return "the model gives other logits when it is asked again: its passes are used as they are"
    return ""


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode with frozen parameters."""
    return into_eval(deepcopy(model)).requires_grad_(False)


def logits_and_input_gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (B, K) and the gradient of the sum of their logsumexp, (B, C, H, W)."""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits: Tensor = model(leaf)
        (grad,) = torch.autograd.grad(logits.logsumexp(1).sum(), leaf)
    return logits.detach(), grad


def is_close(a: Tensor, b: Tensor, share: float) -> bool:
    """Whether a lies within `share` of the largest entry of b everywhere."""
    return a.shape == b.shape and bool((a - b).abs().max() <= share * b.abs().max())


def agrees_with_model(candidate: nn.Module, model: nn.Module, x: Tensor, bf16: bool = False) -> bool:
    """Whether the candidate gives the model's logits (to 1e-4 of the largest) and gradients (to 1 % in norm: ReLU flips near 0).

    In bf16 the bounds are 5 % and 50 %: they only tell a broken model from a sound one.
    """
    with arithmetic("fp32"):
        (logits, grad), (model_logits, model_grad) = (
            logits_and_input_gradient(candidate, x[:FEW_IMAGES]),
            logits_and_input_gradient(model, x[:FEW_IMAGES]),
        )
    share, bend = (0.05, 0.5) if bf16 else (1e-4, 0.01)
    return is_close(logits, model_logits, share) and bool((grad - model_grad).norm() <= bend * model_grad.norm())


# Batch norm


def folded_model(model: nn.Module, x: Tensor) -> tuple[nn.Module, list[str]]:
    """A copy of the model in which each batch norm is part of the layer before it, where it can be and agrees on x; else the model.

    In eval mode batch norm is a scale and a shift per channel, and so are absorbed by a convolution or linear layer that feeds
    nothing else (Jacob et al. 2018, 1712.05877, section 3.2). The graph of the model only tells which layers those are; the copy
    runs the model's own code.
    """
    if not any(isinstance(module, BATCH_NORMS) for module in model.modules()):
        return model, []
    try:
        names = foldable_layers(deepcopy(model))  # a trace may leave its traces in the module
        network = frozen_copy(model)
        fold_batch_norms(network, names)
        fits = agrees_with_model(network, model, x)
    except Exception as error:  # whatever the user's code does when it is traced or copied
        return model, [f"batch norm is not folded: the model cannot be traced or changed ({type(error).__name__})"]
    if not names:
        return model, ["batch norm is not folded: none follows a convolution or linear layer directly"]
    if not fits:
        return model, ["batch norm is not folded: the folded model gives other logits or gradients"]
    return network, [f"batch norm folded into {len(names)} layer{'s' * (len(names) > 1)}"]


def foldable_layers(model: nn.Module) -> list[tuple[str, str]]:
    """The names of each layer and the batch norm that alone takes its output, where both are called once."""
    graph, modules = fx.Tracer().trace(model), dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    count = Counter(node.target for node in calls)
    pairs = [(node.args[0], node) for node in calls if len(node.args) == 1 and not node.kwargs and node.args[0] in calls]
    return [
        (layer.target, norm.target)
        for layer, norm in pairs
        if len(layer.users) == count[layer.target] == count[norm.target] == 1 and can_fold(modules[layer.target], modules[norm.target])
    ]


def can_fold(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether the norm's scale and shift can be part of the layer: plain torch layers, with statistics of training."""
    if type(norm) not in BATCH_NORMS or norm.running_mean is None:
        return False
    return type(layer) in CONVOLUTIONS or type(layer) is nn.Linear


def fold_batch_norms(network: nn.Module, names: list[tuple[str, str]]) -> None:
    """Moves each batch norm into its layer, in place, under every name that it has."""
    for layer_name, norm_name in names:
        layer: Any = network.get_submodule(layer_name)
        norm: Any = network.get_submodule(norm_name)
        mean = norm.running_mean
        gain = torch.ones_like(mean) if norm.weight is None else norm.weight
        shift = torch.zeros_like(mean) if norm.bias is None else norm.bias
        fuse: Callable[..., Any] = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
        layer.weight, layer.bias = fuse(layer.weight, layer.bias, mean, norm.running_var, norm.eps, gain, shift)
        for name, module in list(network.named_modules(remove_duplicate=False)):
            if module is norm:
                network.set_submodule(name, nn.Identity())


# Memory format and compilation, by race


def channels_last_stand_in(stand_in: StandIn, x: Tensor, wanted: bool = False) -> tuple[StandIn, list[str]]:
    """The stand-in in channels_last format where it agrees on x and wins a race, or is wanted; else as it is."""
    if not any(isinstance(module, nn.Conv2d) for module in stand_in.network.modules()):
        return stand_in, []
    try:
        network: nn.Module = frozen_copy(stand_in.network).to(memory_format=torch.channels_last)
        candidate = StandIn(stand_in.exact, network, channels_last=True, bf16=stand_in.bf16)
        if not agrees_with_model(candidate, stand_in, x, stand_in.bf16):
            return stand_in, ["channels_last is not used: it gives other logits or gradients"]
        share = time_share(candidate, stand_in, x)
    except Exception as error:  # such as a model that views its activations in the usual format
        return stand_in, [f"channels_last is not used: the model cannot take it ({type(error).__name__})"]
    if wanted or share < PAYS:
        return candidate, [f"memory format channels_last, {share:.2f} of the time"]
    return stand_in, []


def compiled_stand_in(stand_in: StandIn, x: Tensor) -> tuple[StandIn, list[str]]:
    """The stand-in compiled by torch where that works and wins a race; else as it is."""
    try:
        with warnings.catch_warnings(action="ignore"):
            network: Any = torch.compile(frozen_copy(stand_in.network), dynamic=True)  # a copy: flags that change later compile anew
            candidate = StandIn(stand_in.exact, network, channels_last=stand_in.channels_last, bf16=stand_in.bf16)
            if not agrees_with_model(candidate, stand_in, x, stand_in.bf16):
                return stand_in, ["not compiled: the compiled model gives other logits or gradients"]
            share = time_share(candidate, stand_in, x)
    except Exception as error:  # no compiler, no Triton, or code that torch.compile does not take
        return stand_in, [f"not compiled: torch.compile failed ({type(error).__name__})"]
    if share < PAYS:
        return candidate, [f"compiled, {share:.2f} of the time"]
    return stand_in, [f"not compiled: it takes {share:.2f} of the time"]


def time_share(candidate: nn.Module, current: nn.Module, x: Tensor) -> float:
    """The candidate's share of the current model's time: the best turn of either, in alternation; load only ever adds."""
    turn_seconds(current, x[:4])
    fits = RACE_SECONDS / 8 / max(turn_seconds(current, x[:4]), 1e-6)  # how often four images fit into one of eight turns
    x = x[: max(4, int(4 * fits))]
    turn_seconds(candidate, x), turn_seconds(current, x)
    times: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < RACE_SECONDS:
        times.append((turn_seconds(candidate, x), turn_seconds(current, x)))
    return min(mine for mine, _ in times) / min(theirs for _, theirs in times)


def turn_seconds(model: nn.Module, x: Tensor) -> float:
    """The seconds of a forward and backward pass and of a forward pass alone: attacks of AutoAttack spend about as much on either."""
    both, begin = pass_seconds(model, x), time.perf_counter()
    with torch.no_grad():
        model(x)
    wait_for_device(x.device)
    return both + time.perf_counter() - begin


def pass_seconds(model: nn.Module, x: Tensor) -> float:
    """The seconds of one forward and backward pass."""
    wait_for_device(x.device)
    begin = time.perf_counter()
    logits_and_input_gradient(model, x)
    wait_for_device(x.device)
    return time.perf_counter() - begin


def wait_for_device(device: torch.device) -> None:
    """Waits until an accelerator has done what it was given.

    Args:
        device: where the work runs; nothing is waited for on the CPU
    """
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


# Batch size


def fitting_batch_size(model: nn.Module, x: Tensor, device: str | torch.device, start: int = 16, most: int | None = None) -> int:
    """The batch size that gives the most images a second in forward and backward passes, at most `most`.

    The size is doubled from `start` until the images per second rise by less than 5 % (fall by as much, while a pass takes under 20 ms),
    memory ends (a first size that does not fit is halved), or a few seconds are over. Only the accelerator's memory is watched: on the
    CPU speed stops rising long before memory ends.

    Args:
        model: in eval mode, on `device`.
        x: images (B, C, H, W), of which at most 64 are used, repeated to fill a batch.
        device: where the passes are made.
        start: the size that is tried first.
        most: the largest size; None for 65,536.

    Raises:
        InputError: where not even one image fits into memory.
    """
    x, most = x[:MOST_IMAGES].detach().to(device), max(1, most or 2**16)
    size = min(start, most)
    rate = images_per_second(model, x, size)
    while not rate and size > 1:
        size //= 2
        most = size
        rate = images_per_second(model, x, size)
    if not rate:
        raise InputError(f"the memory of {device} does not hold one forward and backward pass of a single image")
    begin = time.perf_counter()
    while size < most and time.perf_counter() - begin < PROBE_SECONDS:
        following = min(2 * size, most)
        faster = images_per_second(model, x, following)
        enough = PAYS if size / rate < SHORT_PASS else 1 / PAYS
        if faster < enough * rate:
            return following if faster > rate else size
        size, rate = following, faster
    return size


def images_per_second(model: nn.Module, x: Tensor, size: int) -> float:
    """Images a second in the best pass of `size` images, a first one left out; 0 where memory does not hold them."""
    try:
        batch = x[torch.arange(size, device=x.device) % len(x)]
        spent = [pass_seconds(model, batch)]
        while len(spent) < 2 or sum(spent) < PROBE_SECONDS / 16:
            spent.append(pass_seconds(model, batch))
        return size / min(spent[1:])
    except torch.OutOfMemoryError:
        pass  # the failed pass holds its memory until this clause is left
    if x.device.type != "cpu":
        torch.accelerator.empty_cache()
    return 0.0
