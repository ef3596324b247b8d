"""Whether a model is fit for the methods that hook its nonlinearities, and a copy of it that is.

Captum changes the backward pass of nonlinearities that are modules and are called once. What it does otherwise it does silently: a
functional ReLU keeps its plain gradient; a tensor that enters both a ReLU module and a shortcut loses the shortcut's gradient, because
the hook sits on the tensor; of two nonlinearities in a row, as ReLU and MaxPool2d, DeepLift gives the first the plain gradient of the
second, because the hook that reads it was set before the one that changes it; where windows of a MaxPool2d overlap, DeepLift loses what
comes back from all windows but one. So one forward pass is watched, and where a fault is found every call of a nonlinearity gets a
module of its own in a copy of the model, with an input tensor of its own. The calls are redirected while the copy runs (by a
TorchFunctionMode), not by tracing: any Python in `forward` is fine, and the names of the layers stay.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from robench.core.errors import InputError
from robench.core.model_calls import leaf_gradient, padded_logits
from robench.explainers.hooks import deeplift_attributions, has_no_gradient

Edge = tuple[Any, int]  # a tensor's place in the graph of a forward pass: the node it came from, and which of the node's outputs it is
NOWHERE: Edge = (None, 0)
TOLERANCE = 1e-3  # of max |f(x) - f(baseline)|, for DeepLift's completeness; exact rules stay below 1e-5 in float32 [our choice]


@dataclass(frozen=True)
class Rules:
    """What a method treats: module classes (`exactly`, or with subclasses) and, by the name of the function, calls that can become one."""

    modules: tuple[type[nn.Module], ...]
    exactly: bool
    makers: dict[str, Callable[..., nn.Module | None]]

    def treats(self, module: nn.Module | None) -> bool:
        """Whether Captum hooks this module."""
        return type(module) in self.modules if self.exactly else isinstance(module, self.modules)


@dataclass(frozen=True)
class ForwardSurvey:
    """What one forward pass showed.

    calls    how many calls of nonlinearities that the method treats      faults  why it would treat them wrongly, one reason each
    foreign  nonlinearities that no rule exists for, with the module that calls them
    kinks    operations that may be the user's own nonlinearity, such as a maximum or a comparison, or only arithmetic
    """

    calls: int
    faults: list[str]
    foreign: list[str]
    kinks: list[str]


def explainable_model(method: str, model: nn.Module, x: Tensor) -> tuple[nn.Module, list[str]]:
    """The model that `method` may explain, and notes, a sentence each: the model itself where it is fit, else a copy with equal logits.

    x  a few images (B, C, H, W), at which the copy is compared and DeepLift's completeness is tried out with a black baseline
    Only deeplift, guided-backprop and guided-grad-cam need it; any other method gets the model and no note, and so does a model that
    gives no gradient to its input (its maps are 0). The copy shares the model's parameters and buffers.
    InputError, one sentence, where the method has no rule for the model's nonlinearities.
    """
    rules = RULES.get(method)
    if rules is None or has_no_gradient(model, x):
        return model, []
    if len(hookable_modules(model)) < len(list(model.modules())):
        raise InputError(f"{method} works by hooks, and a TorchScript program takes none: {OTHER_METHOD_ADVICE}")
    seen, fit, notes = forward_survey(model, x, rules), model, []
    if seen.foreign and method == "deeplift":
        raise InputError(
            f"deeplift has no rule for {brief_list(seen.foreign)}, and would be the plain gradient there: {OTHER_METHOD_ADVICE}"
        )
    if not seen.calls and method != "deeplift":
        spared = f" that it could treat, but {brief_list([*seen.foreign, *seen.kinks])}" if seen.foreign or seen.kinks else ""
        raise InputError(f"{method} changes the gradient at ReLUs alone, and this model calls none{spared}: {OTHER_METHOD_ADVICE}")
    if seen.faults:
        fit = faultless_copy(method, model, x, rules, seen)
        notes = [f"{method} explains a copy of the model with equal logits and gradients, made because {brief_list(seen.faults)}"]
    if method == "deeplift":
        refuse_incomplete_deeplift(fit, x)
    elif seen.foreign or seen.kinks:
        notes.append(f"{method} treats the ReLUs alone, and takes the plain gradient of {brief_list([*seen.foreign, *seen.kinks])}")
    return fit, notes


def unwrapped_network(model: nn.Module) -> nn.Module:
    """The network that carries the names of the layers: what is inside of a rebuilt model, else the model itself."""
    return model.model if isinstance(model, RebuiltModel) else model


def hookable_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that a hook can be put on: those of a TorchScript program cannot."""
    return [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]


# The copy


class RebuiltModel(nn.Module):
    """A network whose calls of nonlinearities go to `call_modules`, one module for each call, in the order of the forward pass."""

    def __init__(self, model: nn.Module, rules: Rules) -> None:
        super().__init__()
        self.model, self.call_modules, self.rules = model, nn.ModuleList(), rules
        self.growing = True

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits, (B, K); InputError where it called other nonlinearities than when it was rebuilt."""
        with CallRedirector(self.rules, self.call_modules, self.growing) as calls:
            logits: Tensor = self.model(x)
        if calls.count != len(self.call_modules):
            raise InputError(CHANGES)
        return logits


class CallRedirector(TorchFunctionMode):
    """While it is active, calls that the makers know go to the modules in `call_modules`; new ones are put there while `growing`."""

    def __init__(self, rules: Rules, call_modules: nn.ModuleList, growing: bool) -> None:
        super().__init__()
        self.makers, self.call_modules, self.growing, self.count = rules.makers, call_modules, growing, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = operation_name(func), dict(kwargs or {})
        pair = (*args, given["other"]) if set(given) == {"other"} else args
        if not given.keys() - {"other"} and (x := rectified_operand(name, pair)) is not None:
            return self.module_for_call(nn.ReLU())(x.clone())
        if name not in self.makers or "out" in given:
            return func(*args, **given)
        image, *rest = args or (given.pop("input"),)
        made = self.makers[name](*rest, **{key: value for key, value in given.items() if key != "inplace"})
        if made is None:
            return func(image, *rest, **given)
        out = self.module_for_call(made)(image.clone())  # a clone, so that a hook on the tensor sees what comes back from this call alone
        return image.copy_(out) if given.get("inplace") or is_in_place(func) else out

    def module_for_call(self, made: nn.Module) -> nn.Module:
        """The module for this call, which is like the one made for it."""
        if self.growing:
            self.call_modules.append(made)
        place, self.count = self.count, self.count + 1
        if place >= len(self.call_modules) or repr(made) != repr(self.call_modules[place]):
            raise InputError(CHANGES)
        return self.call_modules[place]


class HiddenNonlinearity(nn.Module):
    """Stands where a nonlinearity stood: it calls it, and Captum does not find it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module_in_tuple = (module,)  # in a tuple, so that it is no submodule

    def forward(self, x: Tensor) -> Any:
        """What the nonlinearity gives."""
        return self.module_in_tuple[0](x)


class PoolingWindows(nn.Module):
    """Lays the windows of a pooling side by side, so that none overlap: (B, C, H, W) to (B, C, h * kernel, w * kernel)."""

    def __init__(
        self, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], ceil: bool
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding, self.dilation, self.ceil = kernel, stride, padding, dilation, ceil

    def extra_repr(self) -> str:
        """The settings, by which two calls are told apart."""
        return f"{self.kernel}, {self.stride}, {self.padding}, {self.dilation}, {self.ceil}"

    def forward(self, x: Tensor) -> Tensor:
        """The windows; where they reach over the edge they hold the lowest number, which no maximum takes."""
        edges: list[int] = []
        for axis in (1, 0):
            size, span = x.shape[2 + axis] + self.padding[axis], self.dilation[axis] * (self.kernel[axis] - 1) + 1
            free = size + self.padding[axis] - span
            last = free // self.stride[axis] * self.stride[axis]
            if self.ceil and last < free and last + self.stride[axis] < size:  # torch: the last window begins before the right padding
                last += self.stride[axis]
            edges += [self.padding[axis], last + span - size]
        x = F.pad(x, edges, value=torch.finfo(x.dtype).min)
        for axis in (0, 1):
            x = x.unfold(2 + axis, self.dilation[axis] * (self.kernel[axis] - 1) + 1, self.stride[axis])[..., :: self.dilation[axis]]
        rows, columns = x.shape[2] * self.kernel[0], x.shape[3] * self.kernel[1]
        return x.permute(0, 1, 2, 4, 3, 5).reshape(*x.shape[:2], rows, columns)


def faultless_copy(method: str, model: nn.Module, x: Tensor, rules: Rules, seen: ForwardSurvey) -> nn.Module:
    """A copy of the model without the faults, equal at x; InputError where it cannot be had."""
    advice = f"{method} needs a module of its own for each nonlinearity, and {brief_list(seen.faults)}"
    try:
        twin = redirecting_copy(model, rules)
    except RuntimeError as error:
        raise InputError(
            f"{advice}; the model cannot be copied ({str(error).splitlines()[0]}): change its code or {OTHER_METHOD_ADVICE}"
        ) from error
    with torch.no_grad():
        padded_logits(twin, x)
    twin.growing = False
    twin.train(model.training)
    left = forward_survey(twin, x, rules).faults
    if left:
        raise InputError(
            f"{advice}; in a rebuilt copy still {brief_list(left)}: give each its module in the model's code, or {OTHER_METHOD_ADVICE}"
        )
    gap = copy_deviation(model, twin, x)
    if not gap <= 1e-5:
        raise InputError(
            f"{advice}; a rebuilt copy differs by {gap:.1e} in its logits or gradients: change the model's code or {OTHER_METHOD_ADVICE}"
        )
    return twin


def redirecting_copy(model: nn.Module, rules: Rules) -> RebuiltModel:
    """A copy with the model's own parameters and buffers, in which every module that the method treats is hidden."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(nn.ModuleList([model]), shared)  # in a list, so that the model itself may be hidden
    for parent in list(twin.modules()):
        for name, child in list(parent._modules.items()):  # named_children would leave out a module that has two names here
            if child is not None and rules.treats(child):
                setattr(parent, name, HiddenNonlinearity(child))
    return RebuiltModel(twin[0], rules)


def copy_deviation(model: nn.Module, twin: nn.Module, x: Tensor) -> float:
    """How far the twin's logits and gradients at x are from the model's, as a share of the largest; nan where one is nan."""
    pairs = zip(logits_and_gradient(model, x), logits_and_gradient(twin, x), strict=True)
    return float(torch.stack([(own - other).abs().max() / own.abs().max().clamp_min(1e-12) for own, other in pairs]).max())


def logits_and_gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits at x, (B, K), and the gradient of the largest ones, (B, C, H, W)."""
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = padded_logits(model, leaf)
        return logits.detach(), leaf_gradient(logits.amax(1).sum(), leaf)


def refuse_incomplete_deeplift(model: nn.Module, x: Tensor) -> None:
    """InputError unless DeepLift's attributions at x sum up to f(x) - f(black), where f is the largest logit."""
    black = torch.zeros_like(x)
    with torch.no_grad():
        logits = padded_logits(model, x)
        target = logits.argmax(1)
        rise = (logits - padded_logits(model, black)).gather(1, target[:, None])[:, 0]
    total = deeplift_attributions(model, x, target, black).flatten(1).sum(1)
    missed = float((total - rise).abs().max() / rise.abs().max().clamp_min(1e-12))
    if not missed <= TOLERANCE:
        why = f"deeplift misses f(x) - f(baseline) by {missed:.1%} in this model, as where activations are multiplied or normalised"
        raise InputError(f"{why}: {OTHER_METHOD_ADVICE}")


# What a forward pass shows


class OperationRecorder(TorchDispatchMode):
    """While it is active, every operation that reaches the device is told to `record`, under its plain name."""

    def __init__(self, record: Callable[[str, tuple[Any, ...]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = record

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.record(operation_name(func), args)
        return func(*args, **(kwargs or {}))


def forward_survey(model: nn.Module, x: Tensor, rules: Rules) -> ForwardSurvey:
    """What a forward pass at x shows; it leaves no hook on the model."""
    running: list[nn.Module] = []
    entered: list[tuple[nn.Module, Edge]] = []
    left: set[Edge] = set()
    loose: list[str] = []
    foreign: list[str] = []
    kinks: list[str] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        running.append(module)
        if rules.treats(module):
            entered.append((module, graph_edge(args)))

    def leave(module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        running.pop()
        if rules.treats(module):
            left.add(graph_edge((output,)))

    def record(name: str, args: tuple[Any, ...]) -> None:
        module = running[-1] if running else None
        if is_treated(name, args, rules) and not rules.treats(module):
            loose.append(name)
        elif name in FOREIGN:
            foreign.append(nonlinearity_name(name, module))
        elif name in KINKS and not rules.treats(module) and isinstance(args[0], Tensor) and args[0].is_floating_point():
            kinks.append(KINKS[name])

    modules = list(model.modules())
    handles = [m.register_forward_pre_hook(enter) for m in modules] + [m.register_forward_hook(leave) for m in modules]
    leaf = x.detach().clone().requires_grad_()
    try:
        with torch.enable_grad(), OperationRecorder(record):
            logits = padded_logits(model, leaf * 1)
    finally:
        for handle in handles:
            handle.remove()
    return ForwardSurvey(len(entered) + len(loose), faults_of(entered, left, loose, logits), distinct_words(foreign), distinct_words(kinks))


def nonlinearity_name(name: str, module: nn.Module | None) -> str:
    """What to call a nonlinearity: as torch's module that it sits in, or as the operation."""
    single = module is not None and type(module).__module__.startswith("torch.nn") and not any(module.children())
    return type(module).__name__ if single else FOREIGN[name]


def faults_of(entered: list[tuple[nn.Module, Edge]], left: set[Edge], loose: list[str], logits: Tensor) -> list[str]:
    """Why Captum would treat these calls wrongly: the modules entered with their inputs, the outputs they left, and the loose calls."""
    faults = [f"{FUNCTIONS.get(name, name)} is called outside of a module of its own" for name in loose]
    uses, times = consumer_counts(logits), Counter(module for module, _ in entered)
    for module, given in entered:
        kind = type(module).__name__
        if times[module] > 1:
            faults.append(f"a {kind} is called {times[module]} times")
        if given is NOWHERE:
            faults.append(f"no gradient passes through a {kind}")
        elif uses[given] > 1:
            faults.append(f"the input of a {kind} is also used elsewhere")
        elif given in left:
            faults.append(f"a {kind} follows another nonlinearity directly")
        if getattr(module, "inplace", False):
            faults.append(f"a {kind} works in place")
        if isinstance(module, nn.MaxPool2d) and not has_plain_windows(module):
            faults.append("the windows of a MaxPool2d may overlap")
    return distinct_words(faults)


def graph_edge(tensors: tuple[Any, ...]) -> Edge:
    """Where in the graph the one tensor of a call stands."""
    if len(tensors) != 1 or not isinstance(tensors[0], Tensor) or tensors[0].grad_fn is None:
        return NOWHERE
    return tensors[0].grad_fn, tensors[0].output_nr


def consumer_counts(logits: Tensor) -> Counter[Edge]:
    """How many operations on the way to the logits use each tensor of the graph."""
    uses: Counter[Edge] = Counter()
    waiting, known = [logits.grad_fn], {logits.grad_fn}
    while waiting:
        node = waiting.pop()
        for used, number in node.next_functions if node is not None else ():
            uses[used, number] += 1
            if used not in known:
                known.add(used)
                waiting.append(used)
    return uses


def is_treated(name: str, args: tuple[Any, ...], rules: Rules) -> bool:
    """Whether the operation is one of a nonlinearity that the method treats; clamp, threshold and maximum only where they are a ReLU."""
    if name in ("clamp", "clamp_min"):
        return len(args) == 2 and is_zero(args[1])
    if name == "threshold":
        return all(map(is_zero, args[1:3]))
    return rectified_operand(name, args) is not None or FUNCTIONS.get(name, name) in rules.makers


def rectified_operand(name: str, args: tuple[Any, ...]) -> Tensor | None:
    """The x of maximum(x, 0), in either order and under any of its names; None for any other call."""
    if name not in ("maximum", "max", "fmax") or len(args) != 2 or not all(isinstance(arg, Tensor) for arg in args):
        return None
    for x, other in (args, args[::-1]):
        if is_zero(other) and torch.broadcast_shapes(x.shape, other.shape) == x.shape:
            return x  # type: ignore[no-any-return]
    return None


def is_zero(value: Any) -> bool:
    """Whether a number, or every entry of a tensor, is 0."""
    return bool((value == 0).all()) if isinstance(value, Tensor) else value is not None and value == 0


def has_plain_windows(pool: nn.MaxPool2d) -> bool:
    """Whether the pooling's windows lie side by side, without padding."""
    kernel, stride = row_column_pair(pool.kernel_size), row_column_pair(pool.stride)
    return kernel == stride and row_column_pair(pool.padding) == (0, 0) and row_column_pair(pool.dilation) == (1, 1) and not pool.ceil_mode


def operation_name(func: Any) -> str:
    """The name of a torch function or operation without overload and without the underscore of those that work in place."""
    return str(getattr(func, "__name__", "")).partition(".")[0].removesuffix("_")


def is_in_place(func: Any) -> bool:
    """Whether the function's name says that it works in place."""
    return str(getattr(func, "__name__", "")).partition(".")[0].endswith("_")


def distinct_words(words: Iterable[str]) -> list[str]:
    """The words without repetition, in their order."""
    return list(dict.fromkeys(words))


def brief_list(words: list[str]) -> str:
    """The first words, up to four, as part of a sentence."""
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def row_column_pair(value: int | Iterable[int]) -> tuple[int, int]:
    """A pooling's setting for rows and columns."""
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    return values[0], values[-1]


# The makers: the module that a call of a function becomes, or None where it is no such nonlinearity; given what follows the input.


def relu_for_clamp(min: Any = None, max: Any = None) -> nn.Module | None:
    """For clamp, clip and clamp_min: a ReLU at 0."""
    return nn.ReLU() if max is None and is_zero(min) else None


def relu_for_threshold(threshold: Any, value: Any) -> nn.Module | None:
    """For threshold: a ReLU where what is not above 0 becomes 0."""
    return nn.ReLU() if is_zero(threshold) and is_zero(value) else None


def module_for_max_pool(
    kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, return_indices: bool = False
) -> nn.Module | None:
    """For max_pool2d: the pooling itself, or its windows laid side by side and then pooled."""
    if return_indices:
        return None
    kernel, step, edges, gaps = (
        row_column_pair(kernel_size),
        row_column_pair(stride or kernel_size),
        row_column_pair(padding),
        row_column_pair(dilation),
    )
    pool = nn.MaxPool2d(kernel, step, edges, gaps, ceil_mode=ceil_mode)
    return pool if has_plain_windows(pool) else nn.Sequential(PoolingWindows(kernel, step, edges, gaps, ceil_mode), nn.MaxPool2d(kernel))


RELUS: dict[str, Callable[..., nn.Module | None]] = {
    "relu": nn.ReLU,
    "clamp": relu_for_clamp,
    "clip": relu_for_clamp,
    "clamp_min": relu_for_clamp,
    "threshold": relu_for_threshold,
    "_threshold": relu_for_threshold,
}
RESCALED: dict[str, Callable[..., nn.Module | None]] = RELUS | {
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "max_pool2d": module_for_max_pool,
}

GUIDED = Rules((nn.ReLU,), False, RELUS)
RULES = {
    # those of Captum's table but Softmax, whose rule there takes a mean over the whole batch, and pooling of other than images
    "deeplift": Rules((nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool2d), True, RESCALED),
    "guided-backprop": GUIDED,
    "guided-grad-cam": GUIDED,
}

FUNCTIONS = {"max_pool2d_with_indices": "max_pool2d"}  # operations that reach the device under another name than the function's
FOREIGN = {
    "gelu": "gelu", "silu": "silu", "mish": "mish", "hardswish": "hardswish", "hardsigmoid": "hardsigmoid", "hardtanh": "hardtanh",
    "_prelu_kernel": "prelu", "celu": "celu", "log_sigmoid_forward": "log_sigmoid", "threshold": "threshold", "glu": "glu",
    "rrelu_with_noise": "rrelu", "_softmax": "softmax", "_log_softmax": "log_softmax", "softshrink": "softshrink",
    "hardshrink": "hardshrink", "adaptive_max_pool2d": "adaptive_max_pool2d",
}  # fmt: skip
COMPARISON = "what a comparison chooses"
KINKS = {
    "maximum": "maximum", "minimum": "minimum", "fmax": "fmax", "fmin": "fmin", "abs": "abs", "heaviside": "heaviside",
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), "clamp"), **dict.fromkeys(("gt", "ge", "lt", "le"), COMPARISON),
}  # fmt: skip
CHANGES = "the model does not call the same nonlinearities for every batch: choose a method without rules for them"
OTHER_METHOD_ADVICE = "choose a method without such rules, such as integrated-gradients"
