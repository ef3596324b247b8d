"""What one forward pass shows of a model: which nonlinearities it calls, and why hooks on them would go wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robench.core.model_calls import padded_logits
from robench.explainers.nonlinearities import (
    FOREIGN,
    FUNCTIONS,
    KINKS,
    Rules,
    has_plain_windows,
    is_zero,
    operation_name,
    rectified_operand,
)

Edge = tuple[Any, int]  # a tensor's place in the graph of a forward pass: the node it came from, and which of the node's outputs it is
NOWHERE: Edge = (None, 0)


@dataclass(frozen=True)
class ForwardSurvey:
    """What one forward pass showed.

    Attributes:
        calls: number of calls of nonlinearities that the method treats.
        faults: why the method would treat them wrongly, one reason each.
        foreign: nonlinearities that no rule exists for, by the module that calls them or the operation.
        kinks: operations that may be the user's own nonlinearity, such as a maximum or a comparison, or only arithmetic.
    """

    calls: int
    faults: list[str]
    foreign: list[str]
    kinks: list[str]


def hookable_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that a hook can be put on: those of a TorchScript program cannot."""
    return [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]


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
    module_calls: list[tuple[nn.Module, Edge]] = []
    outputs: set[Edge] = set()
    loose: list[str] = []
    foreign: list[str] = []
    kinks: list[str] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        running.append(module)
        if rules.treats(module):
            module_calls.append((module, graph_edge(args)))

    def leave(module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        running.pop()
        if rules.treats(module):
            outputs.add(graph_edge((output,)))

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
    return ForwardSurvey(
        len(module_calls) + len(loose), faults_of(module_calls, outputs, loose, logits), distinct_words(foreign), distinct_words(kinks)
    )


def nonlinearity_name(name: str, module: nn.Module | None) -> str:
    """What to call a nonlinearity: as torch's module that it sits in, or as the operation."""
    single = module is not None and type(module).__module__.startswith("torch.nn") and not any(module.children())
    return type(module).__name__ if single else FOREIGN[name]


def faults_of(entered: list[tuple[nn.Module, Edge]], outputs: set[Edge], loose: list[str], logits: Tensor) -> list[str]:
    """Why Captum would treat these calls wrongly: the modules entered with their inputs, the outputs they left, and the loose calls."""
    faults = [f"{FUNCTIONS.get(name, name)} is called outside of a module of its own" for name in loose]
    uses, times = consumer_counts(logits), Counter(module for module, _ in entered)
    for module, input_edge in entered:
        kind = type(module).__name__
        if times[module] > 1:
            faults.append(f"a {kind} is called {times[module]} times")
        if input_edge is NOWHERE:
            faults.append(f"no gradient passes through a {kind}")
        elif uses[input_edge] > 1:
            faults.append(f"the input of a {kind} is also used elsewhere")
        elif input_edge in outputs:
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
    waiting, visited = [logits.grad_fn], {logits.grad_fn}
    while waiting:
        node = waiting.pop()
        for parent, number in node.next_functions if node is not None else ():
            uses[parent, number] += 1
            if parent not in visited:
                visited.add(parent)
                waiting.append(parent)
    return uses


def is_treated(name: str, args: tuple[Any, ...], rules: Rules) -> bool:
    """Whether the operation is one of a nonlinearity that the method treats; clamp, threshold and maximum only where they are a ReLU."""
    if name in ("clamp", "clamp_min"):
        return len(args) == 2 and is_zero(args[1])
    if name == "threshold":
        return all(map(is_zero, args[1:3]))
    return rectified_operand(name, args) is not None or FUNCTIONS.get(name, name) in rules.makers


def distinct_words(words: Iterable[str]) -> list[str]:
    """The words without repetition, in their order."""
    return list(dict.fromkeys(words))
