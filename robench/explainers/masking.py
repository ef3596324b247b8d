"""Explainers that hide blocks of pixels and look at the logit: occlusion, feature ablation and two estimates of Shapley values.

A block is block x block pixels with all their channels; the last row and column of blocks are smaller where the size of the image is
no multiple. A hidden block shows the baseline. No gradients are asked for, so the methods also work on models that give none. Captum is
given the grid of blocks (1 shown, 0 hidden) instead of the pixels: the same attributions as with a feature mask over the pixels, without
Captum's loops over every pixel of the mask.

In the maps every subpixel carries the attribution of its whole block: what is complete is the sum over blocks, not over subpixels. The
Gini index does not mind, as long as all blocks are of one size. A logit of the target that is not finite spoils the map of its image.

The Shapley values are estimates, and noisy at the default number of samples: with 64 blocks and an undefended ResNet-20 the maps are off by
some 0.4 of their l2 norm, those of kernel_shap a little more at equal passes (`tests/benchmarks/masking_cost.py --errors`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.checks import whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.model_calls import FULL_ROWS, copies_per_call, padded_logits
from robench.explainers.baselines import baseline_of
from robench.explainers.facts import MethodFacts

MANY = 1000  # forward passes a map that are worth a word [our choice]
A_BLOCK = 34  # samples for each block: those of the default at 64 blocks, 2176 / 64 [our choice]
PAIRS = 32  # pairs of coalitions that are drawn together


# Forward passes of a map of one of the images x, all options given; they stand above the functions whose facts they are


def block_passes(x: Tensor, options: Mapping[str, Any]) -> int:
    """One for each block and one for the image."""
    rows, columns = block_grid(x, options["block"])
    return 1 + rows * columns


def window_passes(x: Tensor, options: Mapping[str, Any]) -> int:
    """One for each window and one for the image."""
    if options["stride"] is None:
        return block_passes(x, options)
    stride = whole_option("stride", options["stride"])
    rows, columns = (1 + -(-(side - int(options["block"])) // stride) for side in x.shape[2:])
    return 1 + rows * columns


def order_passes(x: Tensor, options: Mapping[str, Any]) -> int:
    """One for each block of each order and one for the image."""
    return 1 + (block_passes(x, options) - 1) * whole_option("samples", options["samples"])


def coalition_passes(_x: Tensor, options: Mapping[str, Any]) -> int:
    """One for each coalition."""
    return whole_option("samples", options["samples"])


@MethodFacts(passes=window_passes)
def occlusion(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    draws: Draws,  # noqa: ARG001
    *,
    block: int = 4,
    stride: int | None = None,
    baseline: float | str = 0.0,
) -> Tensor:
    """How far the class's logit falls when a window that slides over the image hides a place, (B, C, H, W).

    Cost: one forward pass per window and one for the image. Source: Zeiler & Fergus 2014 (1311.2901), by Captum.

    Args:
        model: the classifier, in eval mode; no gradient is asked for.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: not read.
        block: height and width of the window in pixels; it covers all channels.
        stride: pixels from one window to the next, at most `block`; a place under several windows gets their mean. `block` if not given:
            the windows then lie side by side and the maps are those of `feature_ablation`.
        baseline: what a hidden pixel shows, as in `explainers.baselines.baseline_of`.

    Raises:
        InputError: where the image is smaller than a block, or the stride leaves gaps.
    """
    from captum.attr import Occlusion

    block_grid(x, block)
    step = block if stride is None else whole_option("stride", stride)
    if step > block:
        raise InputError(f"stride={step} leaves gaps between windows of block={block}: choose a stride of at most the block")
    maps: Tensor = Occlusion(partial(padded_logits, model)).attribute(
        x,
        sliding_window_shapes=(x.shape[1], block, block),
        strides=(x.shape[1], step, step),
        baselines=baseline_of(model, x, baseline),
        target=target,
        perturbations_per_eval=copies_per_call(len(x)),
    )
    return maps.to(x.dtype)


@MethodFacts(passes=block_passes)
def feature_ablation(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    draws: Draws,  # noqa: ARG001
    *,
    block: int = 4,
    baseline: float | str = 0.0,
) -> Tensor:
    """How far the class's logit falls when one block alone is hidden, (B, C, H, W).

    Cost: one forward pass per block and one for the image.

    Args:
        model: the classifier, in eval mode; no gradient is asked for.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: not read.
        block: height and width of the blocks in pixels; 1 hides pixel by pixel.
        baseline: what a hidden pixel shows, as in `explainers.baselines.baseline_of`.

    Raises:
        InputError: where the image is smaller than a block.
    """
    from captum.attr import FeatureAblation

    open_gates = torch.ones((len(x), *block_grid(x, block)), device=x.device)
    values: Tensor = FeatureAblation(partial(gated_logits, model, block)).attribute(
        open_gates,
        baselines=torch.zeros_like(open_gates),
        target=target,
        additional_forward_args=(x, baseline_of(model, x, baseline)),
        perturbations_per_eval=copies_per_call(len(x)),
    )
    return block_map(values, x, block).expand_as(x).to(x.dtype, copy=True)


@MethodFacts(passes=order_passes)
def shapley_sampling(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    draws: Draws,
    *,
    block: int = 4,
    samples: int = 25,
    baseline: float | str = 0.0,
) -> Tensor:
    """The Shapley values of the blocks, estimated by random orders, (B, C, H, W).

    In each order the blocks are shown one after the other, and a block gets by how much the logit rises, on average. The sum over blocks is
    f(x) - f(baseline) for any number of samples. All images share the orders, which come from the seed and the key of the draws, not from
    the ids: Captum takes one order for a batch, and so a map depends on no other image. Each order is uniform, so the estimate of each
    image is unbiased; the errors of different images are not independent. Every other order is the one before it reversed: a block that
    came early comes late, which lowers the variance (Mitchell et al. 2022, 2104.12199, antithetic sampling). Cost: `samples` forward
    passes per block, and one. Source: Castro et al. 2009; Strumbelj & Kononenko 2010; by Captum.

    Args:
        model: the classifier, in eval mode; no gradient is asked for.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: random numbers of the orders.
        block: height and width of the blocks in pixels.
        samples: number of random orders, at least 1.
        baseline: what a hidden pixel shows, as in `explainers.baselines.baseline_of`.

    Raises:
        InputError: where the image is smaller than a block, or an option is out of its range.
    """
    from captum.attr import ShapleyValueSampling

    whole_option("samples", samples)
    open_gates = torch.ones((len(x), *block_grid(x, block)), device=x.device)
    method = ShapleyValueSampling(partial(gated_logits, model, block))
    method.permutation_generator = partial(orders, draws)
    values: Tensor = method.attribute(
        open_gates,
        baselines=torch.zeros_like(open_gates),
        target=target,
        additional_forward_args=(x, baseline_of(model, x, baseline)),
        n_samples=samples,
        perturbations_per_eval=copies_per_call(len(x)),
    )
    return block_map(values, x, block).expand_as(x).to(x.dtype, copy=True)


@MethodFacts(passes=coalition_passes, shared_samples=True)
def kernel_shap(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    draws: Draws,
    *,
    block: int = 4,
    samples: int = 2176,
    baseline: float | str = 0.0,
) -> Tensor:
    """The Shapley values of the blocks, estimated by weighted least squares, (B, C, H, W).

    The full and the empty coalition weigh 10^6, so that the sum over blocks is close to f(x) - f(baseline). The others are drawn with the
    chances of the Shapley kernel, for each image its own, each followed by its complement, which lowers the variance (Covert & Lee
    2021, 2012.01536, paired sampling). Each image is explained by itself: Captum fits one regression at a time. Cost: `samples` forward
    passes. Source: Lundberg & Lee 2017 (1705.07874), by Captum.

    Args:
        model: the classifier, in eval mode; no gradient is asked for.
        x: images (B, C, H, W), float in [0, 1].
        target: classes (B,) int64 whose logits are explained.
        draws: random numbers of the coalitions.
        block: height and width of the blocks in pixels.
        samples: number of coalitions of blocks that are shown, the full and the empty one included, for each image; at least twice the
            blocks. The default is 2 * 64 + 2048, the rule of the authors' package for the 64 blocks of a 32x32 image; more blocks need
            more.
        baseline: what a hidden pixel shows, as in `explainers.baselines.baseline_of`.

    Raises:
        InputError: without scikit-learn, for too few samples, and where the image is smaller than a block.
    """
    refuse_without_sklearn()
    rows, columns = block_grid(x, block)
    blocks = rows * columns
    if whole_option("samples", samples) < 2 * blocks:
        raise InputError(f"samples={samples} are too few for {blocks} blocks: ask for at least {2 * blocks} samples or for larger blocks")
    if blocks == 1:  # the kernel is not defined, and the value is: all of f(x) - f(baseline)
        return feature_ablation(model, x, target, draws, block=block, baseline=baseline)
    base, values = baseline_of(model, x, baseline), torch.empty((len(x), rows, columns), device=x.device)
    with torch.random.fork_rng(devices=[]):  # Captum's data loader takes a number from torch's generator, and does not use it
        for i in range(len(x)):
            one = slice(i, i + 1)
            stream = coalitions(draws.take(torch.tensor([i], device=draws.ids.device)), blocks, samples, x.device)
            values[i] = kernel_shap_values(
                partial(gated_logits, model, block), x[one], base[one], target[one], (rows, columns), stream, samples, len(x)
            )
    return block_map(values, x, block).expand_as(x).to(x.dtype, copy=True)


def kernel_shap_values(
    ask: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    base: Tensor,
    target: Tensor,
    cells: tuple[int, int],
    stream: Iterator[Tensor],
    samples: int,
    rows: int,
) -> Tensor:
    """Captum's KernelShap of one image on the coalitions of the stream: the values of the blocks, of shape `cells`.

    Args:
        ask: gives the logits of images with some blocks hidden, as `gated_logits`; where the target's is not finite the values are NaN,
            since scikit-learn refuses such numbers.
        x: the image (1, C, H, W).
        base: its baseline (1, C, H, W).
        target: its class (1,) int64.
        cells: rows and columns of blocks.
        stream: the coalitions, (1, blocks) each.
        samples: how many coalitions are taken from the stream.
        rows: number of images in the caller's batch: a model call may have as many rows.
    """
    from captum.attr import KernelShap

    finite: list[Tensor] = []

    def heard(gates: Tensor, x: Tensor, base: Tensor) -> Tensor:
        logits = ask(gates, x, base)
        finite.append(logits[:, target].isfinite().all())
        return logits.nan_to_num(0.0, 0.0, 0.0)

    open_gates = torch.ones((1, *cells), device=x.device)
    method = KernelShap(heard)
    method.perturb_func = lambda *_, **__: next(stream)
    values: Tensor = method.attribute(
        open_gates,
        baselines=torch.zeros_like(open_gates),
        target=target,
        additional_forward_args=(x, base),
        n_samples=samples,
        perturbations_per_eval=max(rows, FULL_ROWS),
        return_input_shape=False,
    )
    return values.reshape(cells) if torch.stack(finite).all() else torch.full(cells, torch.nan)


# Blocks


def block_grid(x: Tensor, block: int) -> tuple[int, int]:
    """Rows and columns of blocks on images x; InputError where a block is larger than they are."""
    height, width = x.shape[2:]
    if whole_option("block", block) > min(height, width):
        raise InputError(f"the image of {height}x{width} pixels is smaller than a block of {block}x{block}: choose a smaller block")
    return -(-height // block), -(-width // block)


def block_map(values: Tensor, x: Tensor, block: int) -> Tensor:
    """Values of blocks (R, rows, columns), each laid over its pixels: (R, 1, H, W) for the H and W of x."""
    tiled = values.repeat_interleave(block, 1).repeat_interleave(block, 2)
    return tiled[:, None, : x.shape[2], : x.shape[3]]


def gated_logits(model: nn.Module, block: int, gates: Tensor, x: Tensor, base: Tensor) -> Tensor:
    """The logits, (R, K), of x where the gates (R, rows, columns) are 1 and of the baseline where they are 0."""
    return padded_logits(model, torch.where(block_map(gates, x, block) > 0, x, base))


def masking_remarks(facts: MethodFacts, x: Tensor, options: Mapping[str, Any]) -> list[str]:
    """What to know before such maps are made, a sentence each: many forward passes, or few samples for so many blocks.

    Args:
        facts: those of the method; of one that hides no blocks there is nothing to know.
        x: images (B, C, H, W); only their size is read.
        options: all options of the method by name, defaults included.

    Raises:
        InputError: for options that cannot be.
    """
    if facts.passes is None:
        return []
    (rows, columns), passes = block_grid(x, options["block"]), facts.passes(x, options)
    blocks, remarks = f"{rows} x {columns} blocks of {options['block']} pixels", list[str]()
    if passes >= MANY:
        remarks.append(f"each map takes {passes:,} forward passes of the model ({blocks}); larger blocks take fewer (--block)")
    share = options["samples"] / (rows * columns) if facts.shared_samples else A_BLOCK
    if share < A_BLOCK:
        remarks.append(
            f"{options['samples']:,} samples are {share:.2g} for each of the {blocks}, fewer than the {A_BLOCK} of the default at 64 "
            "blocks: another seed may give another map; choose larger blocks (--block) or more samples"
        )
    return remarks


# Random orders and coalitions


def orders(draws: Draws, blocks: int, samples: int) -> Iterator[list[int]]:
    """The orders of shapley_sampling: uniform, every other one the reverse of that before; they do not depend on the ids."""
    shared_draws = replace(draws, ids=torch.zeros(1, dtype=torch.int64)).child("orders")
    for turn in range(0, samples, 2):
        order: list[int] = shared_draws.integers(2**31, (blocks,), turn)[0].argsort(stable=True).tolist()
        yield order
        if turn + 1 < samples:
            yield order[::-1]


def coalitions(draws: Draws, blocks: int, samples: int, device: torch.device) -> Iterator[Tensor]:
    """The coalitions of kernel_shap for the one sample of the draws: (1, blocks) int64, 1 where a block is shown.

    The full one, the empty one, then pairs of complements. A coalition of k blocks has the weight (M - 1) / (k (M - k)) / (M over k)
    in the Shapley kernel (Lundberg & Lee 2017, theorem 2), so its size is drawn with chances as 1 / (k (M - k)), the blocks then uniform.
    """
    yield torch.ones((1, blocks), dtype=torch.int64, device=device)
    yield torch.zeros((1, blocks), dtype=torch.int64, device=device)
    sizes = torch.arange(1, blocks, dtype=torch.float64)
    bounds = (1 / (sizes * (blocks - sizes))).cumsum(0)
    coalition_draws = draws.child("coalitions")
    for turn in range(-(-(samples - 2) // (2 * PAIRS))):
        level = coalition_draws.uniform((PAIRS, 1), turn)[0].cpu().double() * bounds[-1]
        size = torch.searchsorted(bounds, level, right=True) + 1
        rank = coalition_draws.integers(2**31, (PAIRS, blocks), turn)[0].cpu().argsort(stable=True).argsort()
        first = (rank < size).to(device=device, dtype=torch.int64)
        yield from torch.stack((first, 1 - first), 1).reshape(-1, 1, blocks)


def refuse_without_sklearn() -> None:
    """InputError where scikit-learn is not installed, which Captum's KernelShap regresses with."""
    try:
        importlib.import_module("sklearn.linear_model")
    except ImportError:
        raise InputError("kernel-shap needs scikit-learn, which is not installed: pip install scikit-learn") from None
