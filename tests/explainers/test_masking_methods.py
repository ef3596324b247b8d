"""Explainers on blocks: closed forms, every coalition by hand, Captum with a mask over the pixels, and what may not change a map."""

import itertools
import math
import random
import sys

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, KernelShap, Occlusion, ShapleyValueSampling
from torch import nn

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.facts import facts_above
from robench.core.recipes import options_of
from robench.explainers.facts import MethodFacts
from robench.explainers.masking import (
    coalitions,
    feature_ablation,
    kernel_shap,
    masking_remarks,
    occlusion,
    orders,
    shapley_sampling,
)

METHODS = {
    "occlusion": occlusion,
    "feature-ablation": feature_ablation,
    "shapley-sampling": shapley_sampling,
    "kernel-shap": kernel_shap,
}
QUICK = {"shapley-sampling": {"samples": 3}, "kernel-shap": {"samples": 64}}
every_method = pytest.mark.parametrize("name", METHODS)


class Recording(nn.Module):
    """The model; keeps how many rows it was asked about call by call, and whether gradients were on."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rows, self.grads = model, [], []

    def forward(self, x):
        self.rows.append(len(x))
        self.grads.append(torch.is_grad_enabled())
        return self.model(x)


class Quadratic(nn.Module):
    """Logits (s^2, -s) with s a weighted sum over pixels: blocks interact in pairs, and in nothing larger."""

    def __init__(self, shape):
        super().__init__()
        self.w = torch.randn(shape, generator=torch.Generator().manual_seed(3)) / 4

    def forward(self, x):
        s = (x * self.w).flatten(1).sum(1)
        return torch.stack((s * s, -s), 1)


class Broken(nn.Module):
    """The model, but NaN wherever the first pixel is above 0.9."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).masked_fill((x[:, 0, 0, 0] > 0.9)[:, None], torch.nan)


def quick(name, **options):
    """The method with few samples."""
    return lambda *given: METHODS[name](*given, **QUICK.get(name, {}), **options)


def mask(x, block):
    """The number of its block for every pixel, (1, 1, H, W)."""
    height, width = x.shape[2:]
    return torch.tensor([[(i // block) * math.ceil(width / block) + j // block for j in range(width)] for i in range(height)])[None, None]


def over_blocks(values, x, block):
    """The sum of (B, C, H, W) over each block, laid over its pixels."""
    out = torch.zeros_like(values)
    for number in mask(x, block).unique():
        inside = mask(x, block) == number
        out += inside * (values * inside).flatten(1).sum(1)[:, None, None, None]
    return out


def per_block(maps, block):
    """One number for each block, (B, blocks); asserts that it is the same at every subpixel of the block."""
    where, flat = mask(maps, block).expand_as(maps)[0].flatten(), maps.flatten(1)
    found = [flat[:, where == number] for number in where.unique()]
    assert all((values == values[:, :1]).all() for values in found)
    return torch.stack([values[:, 0] for values in found], 1)


def worth(model, x, target, base, block):
    """The target's logit of each image for every coalition of blocks, by their numbers as a frozenset: {coalition: (B,) float64}."""
    numbers = mask(x, block).unique().tolist()
    table = {}
    for size in range(len(numbers) + 1):
        for shown in itertools.combinations(numbers, size):
            inside = torch.isin(mask(x, block), torch.tensor(shown))
            logits = model(torch.where(inside, x, torch.full_like(x, base))).detach().double()
            table[frozenset(shown)] = logits.gather(1, target[:, None])[:, 0]
    return table


def rises(table, order):
    """By how much each block raises the logit when the blocks are shown in this order, (B, blocks)."""
    rise = [table[frozenset(order[: order.index(i) + 1])] - table[frozenset(order[: order.index(i)])] for i in range(len(order))]
    return torch.stack(rise, 1)


# Closed forms


@every_method
def test_on_a_linear_model_a_block_gets_the_sum_of_weight_times_difference_from_the_baseline(problem, name):
    p = problem("linear", n=5, shape=(3, 10, 7))
    expected = over_blocks(p.model.w[p.y].detach() * (p.x - 0.3), p.x, 4)
    maps = quick(name, block=4, baseline=0.3)(p.model, p.x, p.y, p.draws())
    torch.testing.assert_close(maps, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_place_under_several_windows_gets_the_mean_over_them(problem, stride):
    p = problem("linear", n=3, shape=(3, 9, 9))
    effect, total, count = p.model.w[p.y].detach() * p.x, torch.zeros_like(p.x), torch.zeros(9, 9)
    starts = range(0, math.ceil(5 / stride) * stride + 1, stride)
    for i, j in itertools.product(starts, starts):  # the last window reaches over the edge where the stride does not fit
        total[:, :, i : i + 4, j : j + 4] += effect[:, :, i : i + 4, j : j + 4].flatten(1).sum(1)[:, None, None, None]
        count[i : i + 4, j : j + 4] += 1
    maps = occlusion(p.model, p.x, p.y, p.draws(), block=4, stride=stride)
    torch.testing.assert_close(maps, total / count, atol=1e-4, rtol=1e-4)


def test_occlusion_with_windows_side_by_side_is_feature_ablation(problem):
    p = problem("convolutional", n=4, shape=(3, 10, 11))
    given = (p.model, p.x, p.y, p.draws())
    torch.testing.assert_close(occlusion(*given), feature_ablation(*given), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", [shapley_sampling, kernel_shap])
def test_where_blocks_interact_in_pairs_only_orders_and_coalitions_in_pairs_give_the_exact_values(problem, method):
    x = torch.rand((4, 1, 12, 12), generator=torch.Generator().manual_seed(0))
    model, zero = Quadratic((1, 12, 12)), torch.zeros(4, dtype=torch.int64)
    s = torch.stack([(x * model.w * (mask(x, 4) == number)).flatten(1).sum(1) for number in range(9)], 1)
    maps = method(model, x, zero, Draws(0, torch.arange(4), "test"), samples={shapley_sampling: 2, kernel_shap: 200}[method])
    torch.testing.assert_close(per_block(maps, 4), s * s.sum(1, keepdim=True), atol=2e-5, rtol=1e-4)  # s_i^2 + sum over j of s_i s_j


@every_method
def test_an_image_of_one_block_gets_all_that_the_logit_rises(problem, name):
    p = problem("convolutional", n=3, shape=(3, 6, 6))
    rise = (p.model(p.x) - p.model(torch.full_like(p.x, 0.5))).gather(1, p.y[:, None]).detach()
    maps = quick(name, block=6, baseline="grey")(p.model, p.x, p.y, p.draws())
    torch.testing.assert_close(per_block(maps, 6), rise, atol=1e-6, rtol=1e-5)


# Shapley values


def test_the_orders_lead_to_the_shapley_values_of_all_coalitions(problem):
    p, samples = problem("convolutional", n=6), 400
    table = worth(p.model, p.x, p.y, 0.0, 4)
    both = torch.stack([(rises(table, o) + rises(table, o[::-1])) / 2 for o in itertools.permutations(range(4))])
    exact, error = both.mean(0), both.std(0, correction=0) / math.sqrt(samples / 2)
    assert error.mean() < 0.02 * exact.abs().mean()
    found = per_block(shapley_sampling(p.model, p.x, p.y, p.draws(), samples=samples), 4)
    assert ((found - exact).abs() < 4.5 * error + 1e-5).all()  # 24 numbers: 4.5 standard errors are passed once in 6,000 runs


def test_kernel_shap_leads_to_the_shapley_values_of_all_coalitions(problem):
    p, runs = problem("convolutional", n=1, shape=(3, 8, 12)), 24
    x, y = p.x.expand(runs, -1, -1, -1), p.y.expand(runs)
    table = worth(p.model, p.x, p.y, 0.0, 4)
    exact = torch.stack([rises(table, order) for order in itertools.permutations(range(6))]).mean(0)
    found = per_block(kernel_shap(p.model, x, y, Draws(0, torch.arange(runs)), samples=200), 4).double()
    error = found.std(0) / math.sqrt(runs)
    assert 0 < error.mean() < 0.02 * exact.abs().mean()
    assert ((found.mean(0) - exact[0]).abs() < 4.5 * error + 1e-5).all()


def test_kernel_shap_is_the_weighted_regression_on_its_coalitions(problem):
    p, samples = problem("convolutional", n=2, shape=(3, 8, 12)), 41
    table = worth(p.model, p.x, p.y, 0.2, 4)
    maps = kernel_shap(p.model, p.x, p.y, p.draws(), samples=samples, baseline=0.2)
    for i, found in enumerate(per_block(maps, 4).double()):
        drawn = coalitions(p.draws().take(torch.tensor([i])), 6, samples, torch.device("cpu"))
        z = torch.cat(list(itertools.islice(drawn, samples)))
        value = torch.stack([table[frozenset(row.nonzero().flatten().tolist())][i] for row in z])
        weight = torch.tensor([1e3, 1e3] + [1.0] * (samples - 2), dtype=torch.float64)  # the roots of the weights
        design = torch.cat((z.double(), torch.ones(samples, 1)), 1)
        solved = torch.linalg.lstsq(design * weight[:, None], (value * weight)[:, None]).solution[:-1, 0]
        torch.testing.assert_close(found, solved, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("method", "samples", "tolerance"), [(shapley_sampling, 3, 1e-5), (kernel_shap, 64, 1e-3)])
def test_the_blocks_sum_up_to_what_the_logit_rises(problem, method, samples, tolerance):
    p = problem("convolutional", n=5, shape=(3, 10, 10))
    rise = (p.model(p.x) - p.model(torch.ones_like(p.x))).gather(1, p.y[:, None])[:, 0].detach()
    maps = method(p.model, p.x, p.y, p.draws(), samples=samples, baseline="white")
    torch.testing.assert_close(per_block(maps, 4).sum(1), rise, atol=tolerance, rtol=0)


# Orders and coalitions


def test_all_orders_are_equally_likely_and_every_other_one_is_reversed():
    found = [tuple(order) for order in orders(Draws(0, torch.arange(3), "a"), 3, 6000)]
    assert len(found) == 6000
    assert found[1::2] == [order[::-1] for order in found[::2]]
    counts = [found.count(order) for order in itertools.permutations(range(3))]
    assert all(abs(count - 1000) < 4.5 * math.sqrt(2 * 3000 / 3 * 2 / 3) for count in counts)  # 3000 pairs, each of 3 kinds


def test_the_orders_depend_on_seed_and_key_and_not_on_the_images():
    def first(*given):
        return list(orders(Draws(*given), 16, 3))

    assert first(0, torch.arange(3), "a") == first(0, torch.tensor([7]), "a")
    assert len({str(first(*given)) for given in [(0, torch.arange(3), "a"), (1, torch.arange(3), "a"), (0, torch.arange(3), "b")]}) == 3


def test_coalitions_have_the_sizes_of_the_shapley_kernel_and_come_with_their_complements():
    blocks, samples = 6, 20002
    drawn = coalitions(Draws(0, torch.tensor([4]), "a"), blocks, samples, torch.device("cpu"))
    z = torch.cat(list(itertools.islice(drawn, samples)))
    assert z[0].sum() == blocks
    assert z[1].sum() == 0
    assert (z[2::2] + z[3::2] == 1).all()
    pairs = z[2::2]
    chances = np.array([1 / (k * (blocks - k)) for k in range(1, blocks)])
    expected = chances / chances.sum() * len(pairs)
    counts = np.bincount(pairs.sum(1), minlength=blocks)[1:]
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected)).all()
    assert ((pairs.double().mean(0) - 0.5).abs() < 4.5 * 0.5 / math.sqrt(len(pairs))).all()


def test_each_image_has_coalitions_of_its_own():
    found = [torch.cat(list(coalitions(Draws(0, torch.tensor([i]), "a"), 16, 66, torch.device("cpu")))) for i in (0, 1, 0)]
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


# Captum, called directly with a mask over the pixels


def direct(name, p, block):
    """What Captum gives for the images of a problem, one variant of them a call, with the baseline 0.2 and our random numbers."""
    given = {"baselines": 0.2, "target": p.y}
    masked = given | {"feature_mask": mask(p.x, block)}
    if name == "occlusion":
        return Occlusion(p.model).attribute(p.x, sliding_window_shapes=(3, block, block), strides=(3, block, block), **given)
    if name == "feature-ablation":
        return FeatureAblation(p.model).attribute(p.x, **masked)
    if name == "shapley-sampling":
        method = ShapleyValueSampling(p.model)
        method.permutation_generator = lambda blocks, samples: orders(p.draws(), blocks, samples)
        return method.attribute(p.x, n_samples=3, **masked)
    return torch.cat([direct_kernel(p, i, block) for i in range(len(p.x))])


def direct_kernel(p, i, block):
    """KernelShap of image i."""

    def replayed(inputs, **rest):
        yield from coalitions(p.draws().take(torch.tensor([i])), rest["num_interp_features"], 64, torch.device("cpu"))

    method = KernelShap(p.model)
    method.perturb_func = replayed
    with torch.random.fork_rng(devices=[]):
        return method.attribute(p.x[i : i + 1], baselines=0.2, target=p.y[i : i + 1], feature_mask=mask(p.x, block), n_samples=64)


@every_method
@pytest.mark.parametrize("block", [3, 4])
def test_maps_are_those_of_captum_with_a_mask_over_the_pixels(problem, name, block):
    p = problem("convolutional", n=4, shape=(3, 10, 11))
    maps = quick(name, block=block, baseline=0.2)(p.model, p.x, p.y, p.draws())
    tolerance = 1e-4 if name == "kernel-shap" else 1e-6
    torch.testing.assert_close(maps, direct(name, p, block).detach(), atol=tolerance, rtol=0)


def test_captums_own_kernel_shap_leads_to_the_same_values(problem):
    p = problem("convolutional", n=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = KernelShap(p.model).attribute(p.x, baselines=0.0, target=p.y, feature_mask=mask(p.x, 4), n_samples=4000)
    ours = kernel_shap(p.model, p.x, p.y, p.draws(), samples=1000)
    torch.testing.assert_close(ours, theirs, atol=float(0.05 * theirs.abs().max()), rtol=0)


# What may not change a map, and what a map may not change


@every_method
def test_the_map_of_an_image_depends_on_no_other_image(problem, name):
    p, explain = problem("convolutional", n=7), quick(name, block=3)
    together = explain(p.model, p.x, p.y, p.draws())
    for part in (torch.tensor([3]), torch.tensor([6, 0, 2]), torch.arange(7).flip(0)):
        alone = explain(p.model, p.x[part], p.y[part], p.draws().take(part))
        torch.testing.assert_close(alone, together[part], atol=1e-5, rtol=1e-4)


@every_method
def test_images_beyond_a_full_call_change_nothing(problem, name):
    p = problem("dense", n=70, shape=(1, 4, 4))
    explain = quick(name, block=2)
    together = explain(p.model, p.x, p.y, p.draws())
    few = torch.arange(66, 70)
    torch.testing.assert_close(explain(p.model, p.x[few], p.y[few], p.draws().take(few)), together[few], atol=1e-5, rtol=1e-4)


@every_method
def test_global_random_states_are_neither_used_nor_changed(problem, name):
    p, found = problem("convolutional", n=2), []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
            before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
            found.append(quick(name)(p.model, p.x, p.y, p.draws()))
            after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]
    assert torch.equal(*found)


@every_method
@pytest.mark.parametrize("n", [1, 5, 33, 70])
def test_no_call_has_more_rows_than_the_images_or_64_and_none_asks_for_gradients(problem, name, n):
    p = problem("dense", n=n, shape=(1, 12, 12))
    watched = Recording(p.model)
    options = {"samples": 200} if name == "kernel-shap" else QUICK.get(name, {})
    METHODS[name](watched, p.x, p.y, p.draws(), block=2, **options)
    assert max(watched.rows) <= max(n, 64)
    assert max(watched.rows) > 32  # and they are not asked about one by one
    assert not any(watched.grads)


@pytest.mark.parametrize(
    ("name", "forwards"), [("occlusion", 65), ("feature-ablation", 65), ("shapley-sampling", 1601), ("kernel-shap", 2176)]
)
def test_forward_passes_of_an_image_of_64_blocks(problem, name, forwards):
    p = problem("dense", n=16, shape=(1, 16, 16))
    watched = Recording(p.model)
    METHODS[name](watched, p.x, p.y, p.draws(), block=2)
    assert sum(watched.rows) == 16 * forwards


@every_method
def test_maps_are_plain_tensors_and_images_and_model_stay_as_they_were(problem, name):
    p = problem("convolutional", n=3)
    kept, state = p.x.clone(), {key: value.clone() for key, value in p.model.state_dict().items()}
    maps = quick(name)(p.model, p.x, p.y, p.draws())
    assert maps.shape == p.x.shape
    assert maps.dtype == p.x.dtype
    assert maps.is_contiguous()
    assert not maps.requires_grad
    assert torch.equal(p.x, kept)
    assert not p.x.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in p.model.state_dict().items())
    assert all(parameter.grad is None for parameter in p.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in p.model.modules())


@every_method
def test_images_in_float64_get_maps_in_float64(problem, name):
    p = problem("linear", n=2, shape=(1, 8, 8))
    maps = quick(name)(p.model.double(), p.x.double(), p.y, p.draws())
    assert maps.dtype == torch.float64
    torch.testing.assert_close(maps, over_blocks(p.model.w[p.y].detach() * p.x.double(), p.x, 4), atol=1e-4, rtol=1e-4)


@every_method
def test_a_logit_that_is_not_finite_spoils_the_map_of_its_image_alone(problem, name):
    p = problem("convolutional", n=4)
    x = p.x.clone()
    x[:, 0, 0, 0] = torch.tensor([0.1, 1.0, 0.2, 0.3])
    maps, sound = (quick(name)(model, x, p.y, p.draws()) for model in (Broken(p.model), p.model))
    assert not maps[1].isfinite().any()
    others = torch.tensor([0, 2, 3])
    torch.testing.assert_close(maps[others], sound[others], atol=1e-5, rtol=0)


# Options


@every_method
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block": 9}, "the image of 8x8 pixels is smaller than a block of 9x9"),
        ({"block": 0}, "block must be a whole number"),
        ({"block": 2.0}, "block must be a whole number"),
        ({"baseline": 2.0}, "baseline must be"),
        ({"baseline": "blue"}, "unknown baseline"),
    ],
)
def test_wrong_options_are_told(problem, name, options, words):
    p = problem("convolutional", n=2)
    with pytest.raises(InputError, match=words):
        METHODS[name](p.model, p.x, p.y, p.draws(), **options)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (occlusion, {"stride": 5}, "stride=5 leaves gaps between windows of block=4"),
        (occlusion, {"stride": 0}, "stride must be a whole number"),
        (shapley_sampling, {"samples": 0}, "samples must be a whole number"),
        (kernel_shap, {"samples": 7}, "samples=7 are too few for 4 blocks: ask for at least 8 samples"),
    ],
)
def test_wrong_options_of_one_method_are_told(problem, method, options, words):
    p = problem("convolutional", n=2)
    with pytest.raises(InputError, match=words):
        method(p.model, p.x, p.y, p.draws(), **options)


@every_method
def test_a_block_has_to_fit_into_the_shorter_side(problem, name):
    p = problem("convolutional", n=1, shape=(3, 6, 10))
    with pytest.raises(InputError, match="the image of 6x10 pixels is smaller than a block of 7x7"):
        METHODS[name](p.model, p.x, p.y, p.draws(), block=7)


def test_a_block_of_one_pixel_hides_pixel_by_pixel(problem):
    p = problem("linear", n=2, shape=(3, 5, 5))
    maps = feature_ablation(p.model, p.x, p.y, p.draws(), block=1)
    expected = (p.model.w[p.y].detach() * p.x).sum(1, keepdim=True).expand_as(p.x)
    torch.testing.assert_close(maps, expected, atol=1e-4, rtol=1e-4)


def test_without_scikit_learn_kernel_shap_says_what_to_install(problem, monkeypatch):
    p = problem("convolutional", n=1)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(InputError, match=r"^kernel-shap needs scikit-learn, which is not installed: pip install scikit-learn$"):
        kernel_shap(p.model, p.x, p.y, p.draws())


@pytest.mark.parametrize(
    ("name", "more"), [*((name, {"block": block}) for name in METHODS for block in (3, 4)), ("occlusion", {"block": 5, "stride": 2})]
)
def test_the_forward_passes_of_a_map_are_counted_beforehand(problem, name, more):
    p = problem("convolutional", n=64, shape=(3, 9, 12))
    options = {**options_of(METHODS[name]), **QUICK.get(name, {}), **more}
    model = Recording(p.model)
    METHODS[name](model, p.x, p.y, p.draws(), **options)
    assert facts_above(METHODS[name], MethodFacts).passes(p.x, options) == sum(model.rows) / 64


def remarks(name, x, options):
    return masking_remarks(facts_above(METHODS[name], MethodFacts), x, options)


def test_many_passes_and_few_coalitions_are_told_with_their_numbers():
    usual = {name: options_of(METHODS[name]) for name in METHODS}
    small, middle, large = (torch.empty((1, 3, side, side)) for side in (32, 64, 224))
    assert remarks("occlusion", small, usual["occlusion"]) == []
    assert (
        "each map takes 3,137 forward passes of the model (56 x 56 blocks of 4 pixels)"
        in remarks("occlusion", large, usual["occlusion"])[0]
    )
    assert "78,401 forward passes" in remarks("shapley-sampling", large, usual["shapley-sampling"])[0]
    assert remarks("occlusion", large, usual["occlusion"] | {"block": 16}) == []
    (passes,) = remarks("kernel-shap", small, usual["kernel-shap"])  # 2176 = 2 * 64 + 2048
    assert "2,176 forward passes" in passes
    told = remarks("kernel-shap", middle, usual["kernel-shap"])
    assert "2,176 samples are 8.5 for each of the 16 x 16 blocks of 4 pixels, fewer than the 34" in told[1]
    assert len(remarks("kernel-shap", middle, usual["kernel-shap"] | {"block": 8})) == 1
    assert len(remarks("kernel-shap", small, usual["kernel-shap"] | {"samples": 2000})) == 2
    with pytest.raises(InputError, match="choose a smaller block"):
        remarks("occlusion", small, usual["occlusion"] | {"block": 64})
