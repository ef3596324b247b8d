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
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robench.core.errors import InputError
from robench.core.model_calls import leaf_gradient, padded_logits
from robench.explainers.forward_survey import ForwardSurvey, forward_survey, hookable_modules
from robench.explainers.hooks import deeplift_attributions, has_no_gradient
from robench.explainers.nonlinearities import (
    RULES,
    Rules,
    is_in_place,
    operation_name,
    rectified_operand,
)

TOLERANCE = 1e-3  # of max |f(x) - f(baseline)|, for DeepLift's completeness; exact rules stay below 1e-5 in float32 [our choice]


def explainable_model(method: str, model: nn.Module, x: Tensor) -> tuple[nn.Module, list[str]]:
    """The model that `method` may explain, and notes, a sentence each: the model itself where it is fit, else a copy with equal logits.

    Only deeplift, guided-backprop and guided-grad-cam need it; any other method gets the model and no note, and so does a model that gives
    no gradient to its input (its maps are 0). The copy shares the model's parameters and buffers.

    Args:
        method: a name in `EXPLAINERS`.
        model: the classifier, in eval mode.
        x: a few images (B, C, H, W), at which the copy is compared and DeepLift's completeness is tried out with a black baseline.

    Raises:
        InputError: one sentence, where the method has no rule for the model's nonlinearities, and where no copy without faults can be had.
    """
    rules = RULES.get(method)
    if rules is None or has_no_gradient(model, x):
        return model, []
    if len(hookable_modules(model)) < len(list(model.modules())):
        raise InputError(f"{method} works by hooks, and a TorchScript program takes none: {OTHER_METHOD_ADVICE}")
    survey, fit, notes = forward_survey(model, x, rules), model, []
    if survey.foreign and method == "deeplift":
        raise InputError(
            f"deeplift has no rule for {brief_list(survey.foreign)}, and would be the plain gradient there: {OTHER_METHOD_ADVICE}"
        )
    if not survey.calls and method != "deeplift":
        exceptions = f" that it could treat, but {brief_list([*survey.foreign, *survey.kinks])}" if survey.foreign or survey.kinks else ""
        raise InputError(f"{method} changes the gradient at ReLUs alone, and this model calls none{exceptions}: {OTHER_METHOD_ADVICE}")
    if survey.faults:
        fit = faultless_copy(method, model, x, rules, survey)
        notes = [f"{method} explains a copy of the model with equal logits and gradients, made because {brief_list(survey.faults)}"]
    if method == "deeplift":
        refuse_incomplete_deeplift(fit, x)
    elif survey.foreign or survey.kinks:
        notes.append(f"{method} treats the ReLUs alone, and takes the plain gradient of {brief_list([*survey.foreign, *survey.kinks])}")
    return fit, notes


def unwrapped_network(model: nn.Module) -> nn.Module:
    """The network that carries the names of the layers.

    Args:
        model: any module.

    Returns:
        What is inside of a rebuilt model, else the model itself.
    """
    return model.model if isinstance(model, RebuiltModel) else model


# The copy


class RebuiltModel(nn.Module):
    """A network whose calls of nonlinearities go to modules of their own.

    Attributes:
        model: the network, with its nonlinearities hidden.
        call_modules: one module for each call, in the order of the forward pass.
        rules: what the method treats.
        growing: whether calls add modules; true in the first forward pass alone.
    """

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
        name, keywords = operation_name(func), dict(kwargs or {})
        pair = (*args, keywords["other"]) if set(keywords) == {"other"} else args
        if not keywords.keys() - {"other"} and (x := rectified_operand(name, pair)) is not None:
            return self.module_for_call(nn.ReLU())(x.clone())
        if name not in self.makers or "out" in keywords:
            return func(*args, **keywords)
        image, *rest = args or (keywords.pop("input"),)
        module = self.makers[name](*rest, **{key: value for key, value in keywords.items() if key != "inplace"})
        if module is None:
            return func(image, *rest, **keywords)
        out = self.module_for_call(module)(image.clone())  # a clone, so that a hook on the tensor sees what comes back from this call alone
        return image.copy_(out) if keywords.get("inplace") or is_in_place(func) else out

    def module_for_call(self, module: nn.Module) -> nn.Module:
        """The module for this call, which is like the one made for it."""
        if self.growing:
            self.call_modules.append(module)
        place, self.count = self.count, self.count + 1
        if place >= len(self.call_modules) or repr(module) != repr(self.call_modules[place]):
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


def faultless_copy(method: str, model: nn.Module, x: Tensor, rules: Rules, survey: ForwardSurvey) -> nn.Module:
    """A copy of the model without the faults, equal at x; InputError where it cannot be had."""
    advice = f"{method} needs a module of its own for each nonlinearity, and {brief_list(survey.faults)}"
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
    remaining = forward_survey(twin, x, rules).faults
    if remaining:
        raise InputError(
            f"{advice}; in a rebuilt copy still {brief_list(remaining)}: give each its module in the model's code, or {OTHER_METHOD_ADVICE}"
        )
    gap = copy_deviation(model, twin, x)
    if not gap <= 1e-5:
        raise InputError(
            f"{advice}; a rebuilt copy differs by {gap:.1e} in its logits or gradients: change the model's code or {OTHER_METHOD_ADVICE}"
        )
    return twin


def redirecting_copy(model: nn.Module, rules: Rules) -> RebuiltModel:
    """A copy with the model's own parameters and buffers, in which every module that the method treats is hidden."""
    memo = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(nn.ModuleList([model]), memo)  # in a list, so that the model itself may be hidden
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
    gap = float((total - rise).abs().max() / rise.abs().max().clamp_min(1e-12))
    if not gap <= TOLERANCE:
        why = f"deeplift misses f(x) - f(baseline) by {gap:.1%} in this model, as where activations are multiplied or normalised"
        raise InputError(f"{why}: {OTHER_METHOD_ADVICE}")


def brief_list(words: list[str]) -> str:
    """The first words, up to four, as part of a sentence."""
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


CHANGES = "the model does not call the same nonlinearities for every batch: choose a method without rules for them"
OTHER_METHOD_ADVICE = "choose a method without such rules, such as integrated-gradients"
