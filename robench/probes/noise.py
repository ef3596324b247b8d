"""Noise on few subpixels: on those that the model's own saliency names (inductive), or on random ones, the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from robench.core.checks import number_option, positive_option, whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.model_calls import leaf_gradient, leaf_of, padded_logits
from robench.core.recipes import lookup
from robench.core.types import Level
from robench.explainers.baselines import normalisation_of

INDUCTIVE_SHARES = tuple(i / 500 for i in range(1, 11))  # .002, .004, ..., .02: the shares for inductive noise in Chen et al.'s code
RANDOM_SHARES = tuple(i / 50 for i in range(1, 11))  # .02, .04, ..., .2: theirs for random noise
PAPER_COUNTS, PAPER_SUBPIXELS = (500, 1000, 5000, 10000, 20000), 3 * 224 * 224  # the counts of Duan et al., and out of how many subpixels
INTEGRATION_STEPS = 50  # of integrated gradients


def inductive_noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    draws: Draws,
    *,
    kind: str = "add",
    t: float | str = "paper",
    k: int | str | None = None,
    saliency: str = "gradient",
    baseline: float | str = 0.0,
    order: str = "signed",
    noise: str = "normal",
    sigma: float = 1.0,
    repeats: int = 3,
) -> Iterator[Level]:
    """Noise on the subpixels that speak most for the true class (Duan et al., ICLR 2023; Chen et al. 2023, 2305.09305).

    The level is one model call of all images. A subpixel gets the same noise at every t of a repeat, so the levels are nested and their
    curve is smooth (our choice). The passes of the saliency are counted in the first level. Setting: t=0.002 k=6.

    The code of Duan et al. is nearest with saliency=integrated-gradients,baseline=mean,noise=uniform,k=paper. Unlike it, images stay in
    [0, 1] (there each channel may leave it, up to the range of the whole image after normalisation), and k means k subpixels (there k + 1).

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        draws: random numbers of the samples; the result is a pure function of them.
        kind: add: x + noise there (their noise I); replace: the noise alone (their noise II); then clamped to [0, 1].
        t: int(C*H*W*t) subpixels are changed: a share in [0, 1]; paper or inductive: the ten shares .002, .004, ..., .02; random: .02, .04,
            ..., .2. A share below one subpixel changes nothing.
        k: so many subpixels instead, at least 1; paper: 500, 1000, 5000, 10000, 20000 of the 150,528 of ImageNet, in proportion to the
            image, rounded and at least 1 (the scaling is ours). None: t decides.
        saliency: of the true logit, once for all levels: gradient, or integrated-gradients (50 steps from the baseline).
        baseline: of integrated-gradients: as in `explainers.baselines.baseline_of`; mean in the code of Duan et al.
        order: signed: the largest attributions come first; absolute: the largest sizes. Ties by index, so a map of zeros means the first
            subpixels.
        noise: normal; uniform: as in the code of Duan et al., between the least and the largest number of the image as the model
            normalises it, added and clamped there. Needs a model that normalises its input itself.
        sigma: standard deviation of the normal noise, above 0, in pixel units.
        repeats: independent draws of the noise, at least 1.

    Yields:
        A Level for each setting and repeat.

    Raises:
        InputError: an option is out of its range; raised when the first level is asked for.
    """
    levels, rank, repeats = (
        subpixel_counts(x, t, k, INDUCTIVE_SHARES),
        lookup(order, ATTRIBUTION_ORDERS, "order"),
        whole_option("repeats", repeats),
    )
    change = noise_function(model, x, kind, noise, sigma)
    maps, passes = attribution(model, x, y, draws, saliency, baseline)
    places = largest_indices(rank(maps).flatten(1), max(levels.values()))
    for repeat in range(repeats):
        yield from repeat_levels(model, x, y, draws.child("repeat", repeat), places, levels, change, repeat, 0 if repeat else passes)


def random_noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    draws: Draws,
    *,
    kind: str = "add",
    t: float | str = "paper",
    k: int | str | None = None,
    noise: str = "normal",
    sigma: float = 1.0,
    repeats: int = 3,
) -> Iterator[Level]:
    """Noise on random subpixels, the baseline of inductive noise (Chen et al. 2023, 2305.09305). No gradients.

    The subpixels of a smaller t are among those of a larger one, with the same noise.

    Args:
        model: the classifier in eval mode with frozen parameters; it maps images to logits (B, K).
        x: clean images (B, C, H, W), float in [0, 1], that the model classifies right.
        y: labels (B,) int64.
        draws: random numbers of the samples; the result is a pure function of them.
        kind: as in `inductive_noise`.
        t: a share in [0, 1]; paper or random: the ten shares .02, .04, ..., .2; inductive: .002, .004, ..., .02, to compare at equal
            shares.
        k: as in `inductive_noise`.
        noise: as in `inductive_noise`.
        sigma: as in `inductive_noise`.
        repeats: independent draws of the subpixels and of the noise, at least 1.

    Yields:
        A Level for each setting and repeat.

    Raises:
        InputError: an option is out of its range; raised when the first level is asked for.
    """
    levels, repeats, change = (
        subpixel_counts(x, t, k, RANDOM_SHARES),
        whole_option("repeats", repeats),
        noise_function(model, x, kind, noise, sigma),
    )
    for repeat in range(repeats):
        own = draws.child("repeat", repeat)
        places = largest_indices(own.uniform((x[0].numel(),)), max(levels.values()))
        yield from repeat_levels(model, x, y, own, places, levels, change, repeat, 0)


NoiseKind = Callable[[Tensor, Tensor], Tensor]
NoiseChange = Callable[[Tensor, Tensor, Draws], Tensor]
NOISE_KINDS: dict[str, NoiseKind] = {"add": lambda x, noise: x + noise, "replace": lambda _, noise: noise}
ATTRIBUTION_ORDERS: dict[str, Callable[[Tensor], Tensor]] = {"signed": lambda maps: maps, "absolute": lambda maps: maps.abs()}


def noise_function(model: nn.Module, x: Tensor, kind: str, noise: str, sigma: float) -> NoiseChange:
    """The function (images, places, draws) -> noisy values in [0, 1] of the subpixels at `places`, (B, m)."""
    change, sigma = lookup(kind, NOISE_KINDS, "kind of noise"), positive_option("sigma", sigma)
    if lookup(noise, {"normal": False, "uniform": True}, "noise"):
        if sigma != 1:
            raise InputError("sigma belongs to normal noise, and noise=uniform takes its range from the image: leave sigma out")
        mean, std = normalisation_of(model, x.shape[1], "noise=uniform", "noise=normal")
        return partial(uniform_noise_values, change, mean.to(x), std.to(x))
    return partial(normal_noise_values, change, sigma)


def normal_noise_values(change: NoiseKind, sigma: float, x: Tensor, places: Tensor, draws: Draws) -> Tensor:
    """Normal noise in pixel units."""
    values = x.flatten(1).gather(1, places)
    return change(values, sigma * draws.normal((places.shape[1],)).to(x.dtype)).clamp(0, 1)


def uniform_noise_values(change: NoiseKind, mean: Tensor, std: Tensor, x: Tensor, places: Tensor, draws: Draws) -> Tensor:
    """Uniform noise over the range of each image in the units after the model's normalisation, and kept inside that range."""
    flat = ((x - mean) / std).flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    noisy = change(flat.gather(1, places), low + (high - low) * draws.uniform((places.shape[1],)).to(x.dtype))
    channel = places // x[0, 0].numel()
    scale, shift = (part.flatten().expand(x.shape[1])[channel] for part in (std, mean))
    return (torch.minimum(torch.maximum(noisy, low), high) * scale + shift).clamp(0, 1)


def subpixel_counts(x: Tensor, t: float | str, k: int | str | None, paper: tuple[float, ...]) -> dict[str, int]:
    """The number of subpixels of each level, by its setting; `paper` are the shares that the word means."""
    size = x[0].numel()
    if k is None:
        words = {"paper": paper, "inductive": INDUCTIVE_SHARES, "random": RANDOM_SHARES}
        shares = lookup(t, words, "t") if isinstance(t, str) else (number_option("t", t, most=1),)
        return {f"t={share:g} k={int(size * share)}": int(size * share) for share in shares}
    if t != "paper":
        raise InputError(f"t={t} and k={k} say the same thing twice: give one of them")
    paper_counts = lookup(k, {"paper": PAPER_COUNTS}, "k") if isinstance(k, str) else ()
    counts = [max(1, round(count * size / PAPER_SUBPIXELS)) for count in paper_counts] or [whole_option("k", k)]
    if max(counts) > size:
        raise InputError(f"k={k} is more than the {size} subpixels of an image")
    return {f"k={count} t={count / size:.4g}": count for count in counts}


def attribution(model: nn.Module, x: Tensor, y: Tensor, draws: Draws, saliency: str, baseline: float | str = 0.0) -> tuple[Tensor, int]:
    """The attributions (B, C, H, W) of the logits of y, signed, not finite ones as 0; and how many passes of each direction they took."""
    explain, passes = lookup(saliency, SALIENCIES, "saliency")
    if saliency == "gradient" and baseline != 0:
        raise InputError("a baseline belongs to saliency=integrated-gradients, and the gradient has none: leave baseline out")
    return explain(model, x, y, draws, baseline).nan_to_num(0.0, 0.0, 0.0), passes


def logit_gradient(model: nn.Module, x: Tensor, y: Tensor, draws: Draws, baseline: float | str) -> Tensor:  # noqa: ARG001
    """The gradient of the logit of y at x, (B, C, H, W).

    Args:
        model: the classifier in eval mode with frozen parameters.
        x: images (B, C, H, W), float in [0, 1].
        y: labels (B,) int64.
        draws: not used.
        baseline: not used.
    """
    with torch.enable_grad():
        leaf = leaf_of(x)
        total = padded_logits(model, leaf).gather(1, y[:, None]).sum()
        return leaf_gradient(total, leaf)


def integrated_logit_gradients(model: nn.Module, x: Tensor, y: Tensor, draws: Draws, baseline: float | str) -> Tensor:
    """Integrated gradients of the logit of y from the baseline, (B, C, H, W).

    Args:
        model: the classifier in eval mode with frozen parameters.
        x: images (B, C, H, W), float in [0, 1].
        y: labels (B,) int64.
        draws: handed on to `explainers.gradients.integrated_gradients`.
        baseline: as in `explainers.baselines.baseline_of`.
    """
    from robench.explainers.gradients import integrated_gradients

    return integrated_gradients(model, x, y, draws, steps=INTEGRATION_STEPS, baseline=baseline)


SALIENCIES: dict[str, tuple[Callable[[nn.Module, Tensor, Tensor, Draws, float | str], Tensor], int]] = {
    "gradient": (logit_gradient, 1),
    "integrated-gradients": (integrated_logit_gradients, INTEGRATION_STEPS),
}


def largest_indices(scores: Tensor, most: int) -> Tensor:
    """The indices of the `most` largest scores of each row, (B, n) -> (B, most), the largest first; of equal ones the first."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :most].contiguous()


def is_fooled(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the model gives x another label than y, (R,) bool; never where a logit is not finite."""
    with torch.no_grad():
        logits = padded_logits(model, x)
    return (logits.argmax(1) != y) & logits.isfinite().all(1)


def repeat_levels(
    model: nn.Module, x: Tensor, y: Tensor, draws: Draws, places: Tensor,
    levels: dict[str, int], change: NoiseChange, repeat: int, passes: int,
) -> Iterator[Level]:  # fmt: skip
    """The levels of one repeat: noise on the first subpixels of `places`.

    A noise number belongs to a place in this list: as many are drawn as the largest level changes, not one for each subpixel.

    Args:
        model: the classifier in eval mode with frozen parameters.
        x: images (B, C, H, W), float in [0, 1].
        y: labels (B,) int64.
        draws: random numbers of this repeat.
        places: flat indices of the subpixels in the order in which they are changed, (B, most).
        levels: the number of subpixels of each level, by its setting.
        change: the noisy values of the subpixels at some places, as made by `noise_function`.
        repeat: which of several draws, from 0.
        passes: how many passes of each direction were made before; they are counted in the first level.
    """
    noisy_values = change(x, places, draws)
    for setting, count in levels.items():
        x_level = x.flatten(1).scatter(1, places[:, :count], noisy_values[:, :count]).view_as(x)
        share = torch.full((len(x),), count / x[0].numel(), dtype=torch.float64, device=x.device)
        yield Level(
            setting, repeat, x_level, is_fooled(model, x_level, y), share, torch.full_like(y, 1 + passes), torch.full_like(y, passes)
        )
        passes = 0
