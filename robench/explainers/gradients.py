"""Explainers by gradients with respect to the pixels: the plain one, times the image, along a path, and under noise.

Captum makes the maps. We give it our own way to take a gradient (its `gradient_func`): one backward pass of the sum instead of one output
per row, and zeros where the model has cut the graph, where Captum's raises. Random numbers come from the draws and not from Captum, whose
sources are global: under the same numbers the maps are equal. Noised images are not clipped to [0, 1], as in Captum and in the papers. A
gradient that is not finite stays so: the map then says that it is of no use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.checks import number_option, positive_option, whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.model_calls import FULL_ROWS, call_ranges, padded_logits
from robench.explainers.baselines import NAMED_BASELINES, baseline_of
from robench.explainers.facts import MethodFacts


def saliency(model: nn.Module, x: Tensor, target: Tensor, draws: Draws) -> Tensor:  # noqa: ARG001
    """The gradient of the class's logit by the pixels, (B, C, H, W), signed.

    Cost: one forward and one backward pass. Source: Simonyan et al. 2013 (1312.6034), who took its size; by Captum.

    Args:
        model: the classifier, in eval mode with frozen parameters.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: not read.
    """
    return logit_gradients(model, x, target)


def input_x_gradient(model: nn.Module, x: Tensor, target: Tensor, draws: Draws) -> Tensor:  # noqa: ARG001
    """The image times the gradient of the class's logit, (B, C, H, W), signed.

    Black subpixels get nothing. Cost: one forward and one backward pass. Source: Shrikumar et al. 2016 (1605.01713), by Captum.

    Args:
        model: the classifier, in eval mode with frozen parameters.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: not read.
    """
    from captum.attr import InputXGradient

    return captum_maps(InputXGradient, model, x, target)


@MethodFacts(complete=True)
def integrated_gradients(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    draws: Draws,  # noqa: ARG001
    *,
    steps: int = 50,
    baseline: float | str = 0.0,
) -> Tensor:
    """The gradient averaged on the way from a baseline to the image, times their difference, (B, C, H, W), signed: it adds up.

    The integrated gradients of logit[target] add up to f(x) - f(baseline), to the error of the quadrature.

    They are the difference to the baseline times the mean gradient on the straight way from there. Source: Sundararajan et al. 2017
    (1703.01365), by Captum with its default, Gauss-Legendre quadrature.

    Args:
        model: the classifier, in eval mode with frozen parameters.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: not read.
        steps: number of gradients on the way, at least 1; 20 to 300 in the paper, 50 is also Captum's.
        baseline: the image where the way begins, as in `explainers.baselines.baseline_of`.

    Raises:
        InputError: where an option is out of its range.
    """
    from captum.attr import IntegratedGradients

    count, start = whole_option("steps", steps), baseline_of(model, x, baseline)
    # fewer rows than images would be refused with a warning; without a number here, all steps go into one call
    return captum_maps(IntegratedGradients, model, x, target, baselines=start, n_steps=count, internal_batch_size=max(len(x), FULL_ROWS))


def smoothgrad(model: nn.Module, x: Tensor, target: Tensor, draws: Draws, *, samples: int = 25, stdev: float = 0.15) -> Tensor:
    """The mean gradient of the class's logit under normal noise on the image, (B, C, H, W), signed.

    Source: Smilkov et al. 2017 (1706.03825), who take noise of 10 to 20 % of the range of the image; here of [0, 1].

    Args:
        model: the classifier, in eval mode with frozen parameters.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: random numbers of the noise.
        samples: number of noised copies of each image, one forward and one backward pass each, at least 1.
        stdev: standard deviation of the noise in pixel units, at least 0; 0 gives `saliency`.

    Raises:
        InputError: where an option is out of its range.
    """
    return mean_tensor(noised_gradients(model, x, target, draws, samples, stdev), samples)


def smoothgrad_sq(model: nn.Module, x: Tensor, target: Tensor, draws: Draws, *, samples: int = 25, stdev: float = 0.15) -> Tensor:
    """The mean square of the gradient of the class's logit under normal noise on the image, (B, C, H, W), at least 0.

    Squares raise the Gini by construction. Source: Hooker et al. 2019 (1806.10758).

    Args:
        model: the classifier, in eval mode with frozen parameters.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: random numbers of the noise.
        samples: number of noised copies of each image, as in `smoothgrad`.
        stdev: standard deviation of the noise, as in `smoothgrad`.

    Raises:
        InputError: where an option is out of its range.
    """
    return mean_tensor((grad.square() for grad in noised_gradients(model, x, target, draws, samples, stdev)), samples)


def vargrad(model: nn.Module, x: Tensor, target: Tensor, draws: Draws, *, samples: int = 25, stdev: float = 0.15) -> Tensor:
    """The variance of the gradient of the class's logit under normal noise on the image, (B, C, H, W), at least 0.

    It is divided by the number of samples, as in Captum, but gathered by the updates of Welford 1962: Captum's difference of the mean
    square and the squared mean loses its digits, and may be below 0, where the variance is small. Source: Adebayo et al. 2018 (1810.03307).

    Args:
        model: the classifier, in eval mode with frozen parameters.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: random numbers of the noise.
        samples: number of noised copies of each image, as in `smoothgrad`, at least 2.
        stdev: standard deviation of the noise in pixel units, above 0.

    Raises:
        InputError: where an option is out of its range.
    """
    whole_option("samples", samples, 2)
    mean = squares = torch.zeros_like(x)
    for count, grad in enumerate(noised_gradients(model, x, target, draws, samples, positive_option("stdev", stdev)), 1):
        step = grad - mean
        mean = mean + step / count
        squares = squares + step * (grad - mean)
    return squares / samples


@MethodFacts(complete=True)
def gradient_shap(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    draws: Draws,
    *,
    samples: int = 25,
    stdev: float = 0.0,
    baseline: float | str = 0.0,
) -> Tensor:
    """Expected gradients, (B, C, H, W), signed: integrated gradients at random places of the way, averaged over draws.

    On average over the draws the maps add up to f(x) - f(baseline) for f = logit[target].

    They are the mean of (image - baseline) times the gradient at a random point between the two, equal to Captum's GradientShap under the
    same random numbers. Source: Lundberg & Lee 2017 (1705.07874), Erion et al. 2019 (1906.10670).

    Args:
        model: the classifier, in eval mode with frozen parameters.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: random numbers of the points, the noise and uniform baselines.
        samples: number of random points for each image, one forward and one backward pass each, at least 1.
        stdev: standard deviation of normal noise on the image in pixel units, at least 0; above 0 the maps add up to
            f(x + noise) - f(baseline).
        baseline: as in `explainers.baselines.baseline_of`; or "uniform", another image of uniform noise for each sample (Sturmfels et al.
            2020, Distill).

    Raises:
        InputError: where an option is out of its range or unknown.
    """
    count, size, start = whole_option("samples", samples), number_option("stdev", stdev), sample_baselines(model, x, draws, baseline)

    def parts() -> Iterator[Tensor]:
        for some in call_ranges(len(x), count):
            ends, begins = sample_batch(some, partial(noised_images, x, draws, size)), sample_batch(some, start)
            share = sample_batch(some, lambda i: draws.child("coefficient").uniform((1, 1, 1), i).to(x))
            yield from (logit_gradients(model, torch.lerp(begins, ends, share), target) * (ends - begins)).split(len(x))

    return mean_tensor(parts(), count)


def sample_baselines(model: nn.Module, x: Tensor, draws: Draws, baseline: float | str) -> Callable[[int], Tensor]:
    """The baselines (B, C, H, W) of each sample."""
    if baseline == "uniform":
        return lambda i: draws.child("baseline").uniform(tuple(x.shape[1:]), i).to(x)
    if isinstance(baseline, str) and baseline not in (*NAMED_BASELINES, "mean"):
        raise InputError(f"unknown baseline {baseline!r}: choose uniform, black, grey, white, mean or a number between 0 and 1")
    fixed = baseline_of(model, x, baseline)
    return lambda _: fixed


def noised_gradients(model: nn.Module, x: Tensor, target: Tensor, draws: Draws, samples: int, stdev: float) -> Iterator[Tensor]:
    """The gradients (B, C, H, W) at each of the noised copies of the images."""
    size = number_option("stdev", stdev)
    for some in call_ranges(len(x), whole_option("samples", samples)):
        yield from logit_gradients(model, sample_batch(some, partial(noised_images, x, draws, size)), target).split(len(x))


def noised_images(x: Tensor, draws: Draws, stdev: float, i: int) -> Tensor:
    """The images with the noise of sample i."""
    return torch.add(x, draws.child("noise").normal(tuple(x.shape[1:]), i).to(x), alpha=stdev) if stdev else x


def sample_batch(some: range, maker: Callable[[int], Tensor]) -> Tensor:
    """What is made for each of some samples, (samples * B, ...), one sample after the other."""
    parts = [maker(i) for i in some]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def mean_tensor(parts: Iterator[Tensor], count: int) -> Tensor:
    """The mean of `count` tensors, which are not kept."""
    total = next(parts).clone()
    for part in parts:
        total += part
    return total / count


# Captum


def logit_gradients(model: nn.Module, points: Tensor, target: Tensor) -> Tensor:
    """The gradients of logit[target] at points (n * B, C, H, W), for n copies of the images one after the other."""
    from captum.attr import Saliency

    return captum_maps(Saliency, model, points, target, abs=False)


def captum_maps(kind: Any, model: nn.Module, x: Tensor, target: Tensor, **settings: Any) -> Tensor:
    """The maps that a method of Captum gives, detached and of the type of x."""
    method = kind(partial(target_logits_at, model, target))
    method.gradient_func = gradient_of_sum
    leaf = x.detach().requires_grad_()  # Captum sets the flag on what it is given, with a warning
    with torch.no_grad():  # image times gradient would carry a graph
        maps: Tensor = method.attribute(leaf, **settings)
    return maps.to(x.dtype)


def target_logits_at(model: nn.Module, target: Tensor, points: Tensor) -> Tensor:
    """logit[target] at points (n * B, C, H, W), (n * B,)."""
    return padded_logits(model, points).gather(1, target.repeat(len(points) // len(target))[:, None])[:, 0]


def gradient_of_sum(forward_fn: Callable[[Tensor], Tensor], inputs: tuple[Tensor], *_: object, **__: object) -> tuple[Tensor]:
    """In place of Captum's `compute_gradients`: the gradient of the outputs' sum, 0 where the model has cut the graph."""
    with torch.enable_grad():
        total = forward_fn(inputs[0]).sum()
        if not total.requires_grad:
            return (torch.zeros_like(inputs[0]),)
        (grad,) = torch.autograd.grad(total, inputs, materialize_grads=True)
    return (grad,)
