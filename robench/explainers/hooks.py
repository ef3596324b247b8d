"""DeepLift and guided backpropagation: Captum changes the backward pass by hooks on the modules of the nonlinearities.

Both read the model's modules, so the model must be fit for them: `explainers.rebuilt_models.explainable_model` sees to that. A batch of a
few images is filled up with copies of the first, so that every call has at least `least_rows` rows; the model itself is not wrapped.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.model_calls import least_rows
from robench.explainers.baselines import baseline_of
from robench.explainers.facts import MethodFacts

DEEPLIFT_LEFTOVERS = (
    "input",
    "output",
    "input_ref",
)  # what DeepLift keeps on a module until its backward pass; it stays where no gradient arrives


@MethodFacts(complete=True)
def deeplift(model: nn.Module, x: Tensor, target: Tensor, draws: Draws, *, baseline: float | str = 0.0) -> Tensor:  # noqa: ARG001
    """DeepLift: differences to a baseline, handed back layer by layer, (B, C, H, W), signed; they add up to f(x) - f(baseline).

    The rescale rule as a modified gradient (Ancona et al. 2018, 1711.06104). It holds for the modules ReLU, LeakyReLU, ELU, Sigmoid, Tanh,
    Softplus and MaxPool2d; every call of the model has 2B rows. Source: Shrikumar et al. 2017 (1704.02685), by Captum.

    Args:
        model: the classifier, in eval mode with frozen parameters; see `explainable_model`.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: not read.
        baseline: the image from which the rise is counted, as in `explainers.baselines.baseline_of`.

    Raises:
        InputError: where the baseline is unknown.
    """
    return deeplift_attributions(model, x, target, baseline_of(model, x, baseline))


def guided_backprop(model: nn.Module, x: Tensor, target: Tensor, draws: Draws) -> Tensor:  # noqa: ARG001
    """The gradient of the class's logit whose negative entries are cut at every ReLU on the way back, (B, C, H, W), signed.

    Only modules nn.ReLU are seen; for all else it is the plain gradient. Source: Springenberg et al. 2014 (1412.6806), by Captum.

    Args:
        model: the classifier, in eval mode with frozen parameters; see `explainable_model`.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: not read.
    """
    from captum.attr import GuidedBackprop

    with without_captum_traces(model, "Setting backward hooks on ReLU"):
        return maps_or_zeros(lambda images, classes: GuidedBackprop(model).attribute(images, target=classes), model, x, target)


def deeplift_attributions(model: nn.Module, x: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """DeepLift's attributions from the baseline images `start` (B, C, H, W)."""
    from captum.attr import DeepLift

    def attribute(images: Tensor, classes: Tensor) -> Any:
        method: Any = DeepLift(model)
        return method.attribute(images, baselines=filled_batch(start), target=classes)

    with without_captum_traces(model, "Setting forward, backward hooks"):
        return maps_or_zeros(attribute, model, x, target)


def maps_or_zeros(
    attribute: Callable[[Tensor, Tensor], Any], model: nn.Module, x: Tensor, target: Tensor, layer: nn.Module | None = None
) -> Tensor:
    """What `attribute` gives for the filled batch, its rows beyond B left out.

    All 0 where no gradient reaches the images (or the layer): there Captum fails, since it asks for a gradient that does not exist.
    """
    try:
        maps: Tensor = attribute(filled_batch(x), filled_batch(target))
    except RuntimeError:
        if not has_no_gradient(model, x, layer):
            raise
        return torch.zeros_like(x)
    return maps[: len(x)].detach()


def filled_batch(rows: Tensor) -> Tensor:
    """A new tensor of at least `least_rows` rows, where the first row fills up; Captum sets flags on it, and none on the caller's."""
    missing = max(least_rows(rows) - len(rows), 0)
    return torch.cat((rows, rows[:1].expand(missing, *rows.shape[1:]))).detach()


def has_no_gradient(model: nn.Module, x: Tensor, layer: nn.Module | None = None) -> bool:
    """Whether the model's logits have no gradient with respect to its input, or to the output of a layer.

    Args:
        model: the classifier.
        x: images (B, C, H, W) for one forward and one backward pass.
        layer: a module of the model whose output counts too; None for the input alone.
    """
    places = [filled_batch(x).requires_grad_()]
    handle = layer.register_forward_hook(lambda module, args, output: places.append(output)) if layer is not None else None  # noqa: ARG005
    try:
        with torch.enable_grad():
            total = model(places[0]).sum()
    finally:
        if handle is not None:
            handle.remove()
    if not all(tensor.requires_grad for tensor in (total, *places)):
        return True
    return any(grad is None for grad in torch.autograd.grad(total, places, allow_unused=True))


@contextmanager
def without_captum_traces(model: nn.Module, *expected: str) -> Iterator[None]:
    """Silences Captum's warnings that begin with one of `expected`, and takes off the model what DeepLift may leave there."""
    before = {(module, name) for module in model.modules() for name in DEEPLIFT_LEFTOVERS if name in module.__dict__}
    try:
        with warnings.catch_warnings():
            for message in (*expected, "Input Tensor 0 did not already require gradients"):
                warnings.filterwarnings("ignore", message=message, category=UserWarning)
            yield
    finally:
        for module in model.modules():
            for name in DEEPLIFT_LEFTOVERS:
                if name in module.__dict__ and (module, name) not in before:
                    delattr(module, name)
