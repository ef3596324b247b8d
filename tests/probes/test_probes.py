"""Probes: which places are changed and to what, occlusion against plain loops, who is asked, and what does not depend on the batch."""

import math
from itertools import pairwise

import pytest
import torch
from recording import Listening
from torch import nn

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import options_of, parse_recipe, resolve
from robench.probes import PROBES
from robench.probes.noise import inductive_noise, random_noise
from robench.probes.occlusion import centre_distances, inductive_occlusion, random_occlusion, union_mask

NOISES = {"inductive": inductive_noise, "random": random_noise}
OCCLUSIONS = {"inductive": inductive_occlusion, "random": random_occlusion}


class Rule(nn.Module):
    """Two logits from a rule (R, C, H, W) -> (R,): above 0 is class 1. Its gradient is cut."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, x):
        with torch.no_grad():
            score = self.rule(x)
        return torch.stack((-score, score), 1)


def run(probe, p, ids=None, model=None, **options):
    """All levels of a probe on the samples `ids` of a problem."""
    ids = torch.arange(len(p.x)) if ids is None else torch.as_tensor(ids)
    return list(probe(model or p.model, p.x[ids], p.y[ids], p.draws().take(ids), **options))


def grey(n=5, shape=(3, 8, 8)):
    """Images inside the box, so that noise changes every subpixel that it meets."""
    return 0.4 + 0.2 * torch.rand((n, *shape), generator=torch.Generator().manual_seed(1))


def changed(level, x):
    """Which subpixels a level changed, (B, D) bool."""
    return (level.x != x).flatten(1)


def never(x):
    """The rule of a model that nothing fools."""
    return -torch.ones(len(x))


def ruled(probe, x, rule=never, **options):
    """All levels of a probe on a model of this rule, or on a Recording of one, at images of label 0."""
    model = rule if isinstance(rule, nn.Module) else Rule(rule)
    return list(probe(model, x, torch.zeros(len(x)).long(), Draws(0, torch.arange(len(x))), **options))


# Noise: how many, where, what


@pytest.mark.parametrize("kind", ["add", "replace"])
@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 11)])
@pytest.mark.filterwarnings("ignore:the logits have no gradient:RuntimeWarning")
def test_a_level_changes_as_many_subpixels_as_it_says(name, kind, shape):
    x, size = grey(4, shape), math.prod(shape)
    levels = ruled(NOISES[name], x, kind=kind, repeats=2)
    step = 0.002 if name == "inductive" else 0.02
    assert [(level.setting, level.repeat) for level in levels[:10]] == [
        (f"t={i * step:g} k={int(size * i * step)}", 0) for i in range(1, 11)
    ]
    for level in levels:
        share = float(level.setting.split()[0].removeprefix("t="))
        assert changed(level, x).sum(1).tolist() == [int(size * share)] * 4
        assert level.share.tolist() == [int(size * share) / size] * 4


@pytest.mark.parametrize("order", ["signed", "absolute"])
def test_inductive_noise_falls_on_the_largest_weights_of_a_linear_model(problem, order):
    p = problem("linear", n=20, shape=(3, 6, 6))
    p.x.copy_(grey(20, (3, 6, 6)))
    for level in run(inductive_noise, p, t=0.1, order=order, repeats=2):
        for image, label in enumerate(p.y.tolist()):
            weights = p.model.w[label].flatten().tolist()
            best = sorted(range(108), key=lambda i: -(abs(weights[i]) if order == "absolute" else weights[i]))[:10]
            assert changed(level, p.x)[image].nonzero().flatten().tolist() == sorted(best)


def test_integrated_gradients_rank_by_weight_times_pixel(problem):
    p = problem("linear", n=6, shape=(3, 6, 6))
    (level,) = run(inductive_noise, p, k=7, saliency="integrated-gradients", repeats=1)
    for image, label in enumerate(p.y.tolist()):
        best = (p.model.w[label] * p.x[image]).flatten().topk(7).indices.sort().values
        assert torch.equal(changed(level, p.x)[image].nonzero().flatten(), best)
    assert level.forwards.tolist() == [51] * 6
    assert level.backwards.tolist() == [50] * 6


@pytest.mark.filterwarnings("ignore:the logits have no gradient:RuntimeWarning")
def test_of_equal_attributions_the_first_subpixels_are_changed_and_a_model_without_gradient_is_no_error():
    x = grey(3, (2, 3, 3))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(18, 2))
    flat[1].weight.data = torch.ones(2, 18) * torch.tensor([[1.0], [-1.0]])
    for model in (flat, Rule(never)):
        (level,) = ruled(inductive_noise, x, model, k=5, repeats=1)
        assert changed(level, x).tolist() == [[True] * 5 + [False] * 13] * 3


def test_noise_is_added_or_put_in_place_then_clamped_and_belongs_to_the_rank(problem):
    p = problem("linear", n=9, shape=(3, 6, 6))
    places = torch.stack([p.model.w[label].flatten().argsort(descending=True) for label in p.y.tolist()])[:, :30]
    for repeat in range(2):
        noise = p.draws().child("repeat", repeat).normal((30,))
        for kind in ("add", "replace"):
            for sigma in (1.0, 0.25):
                level = run(inductive_noise, p, k=30, kind=kind, sigma=sigma, repeats=2)[repeat]
                expected = (sigma * noise + (p.x.flatten(1).gather(1, places) if kind == "add" else 0)).clamp(0, 1)
                assert torch.equal(level.x.flatten(1).gather(1, places), expected)
                assert (level.x.min(), level.x.max()) == (0, 1) or sigma < 1
                assert torch.equal(level.x.flatten(1).scatter(1, places, 0), p.x.flatten(1).scatter(1, places, 0))


class Normalised(nn.Module):
    """A linear model of pixels less 0.4 over a spread of its own for each channel."""

    def __init__(self, shape, classes=4):
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.mean, self.std, self.w = [0.4, 0.5, 0.6], [0.2, 0.25, 0.4], torch.randn((classes, *shape), generator=g)

    def forward(self, x):
        z = (x - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)
        return torch.einsum("bchw,kchw->bk", z, self.w)


@pytest.mark.parametrize("kind", ["add", "replace"])
def test_uniform_noise_has_the_range_of_the_normalised_image_and_stays_in_it(kind):
    shape, k = (3, 6, 6), 60
    model, x = Normalised(shape), torch.rand(7, *shape, generator=torch.Generator().manual_seed(2))
    draws, y = Draws(0, torch.arange(7)), torch.zeros(7, dtype=torch.int64)
    (level,) = inductive_noise(model, x, y, draws, k=k, kind=kind, noise="uniform", repeats=1)
    mean, std = torch.tensor(model.mean).view(3, 1, 1), torch.tensor(model.std).view(3, 1, 1)
    z, u = (x - mean) / std, draws.child("repeat", 0).uniform((k,))
    places = (model.w[0] / std).flatten().argsort(descending=True)[:k]
    for image in range(7):
        low, high = z[image].min(), z[image].max()
        noise = low + (high - low) * u[image]
        own = z[image].flatten()[places] if kind == "add" else 0
        noisy = z[image].flatten().clone()
        noisy[places] = (own + noise).clamp(low, high)
        expected = (noisy.view(shape) * std + mean).clamp(0, 1)
        torch.testing.assert_close(level.x[image], expected, atol=1e-6, rtol=0)


def test_integrated_gradients_from_the_mean_rank_by_weight_times_distance_to_it():
    shape = (3, 5, 5)
    model, x = Normalised(shape), torch.rand(4, *shape, generator=torch.Generator().manual_seed(3))
    y = torch.zeros(4, dtype=torch.int64)
    options = {"k": 9, "saliency": "integrated-gradients", "baseline": "mean", "repeats": 1}
    (level,) = inductive_noise(model, x, y, Draws(0, torch.arange(4)), **options)
    mean, std = torch.tensor(model.mean).view(3, 1, 1), torch.tensor(model.std).view(3, 1, 1)
    for image in range(4):
        best = (model.w[0] / std * (x[image] - mean)).flatten().topk(9).indices.sort().values
        assert torch.equal(changed(level, x)[image].nonzero().flatten(), best)


@pytest.mark.parametrize("name", NOISES)
def test_levels_are_nested_and_one_alone_is_the_same_as_among_all(problem, name):
    p = problem("convolutional", n=6)
    levels = run(NOISES[name], p, t="random", repeats=2)
    for small, large in pairwise(levels[:10]):
        inside = changed(small, p.x)
        assert (inside <= changed(large, p.x)).all()
        assert torch.equal(small.x.flatten(1)[inside], large.x.flatten(1)[inside])
    alone = run(NOISES[name], p, t=0.12, repeats=2)
    for one, same in zip(alone, (levels[5], levels[15]), strict=True):
        assert (one.setting, one.repeat) == (same.setting, same.repeat) == ("t=0.12 k=23", one.repeat)
        assert torch.equal(one.x, same.x)
        assert torch.equal(one.fooled, same.fooled)


def test_the_places_of_random_noise_are_uniform_and_differ_between_images_and_repeats():
    x = grey(400, (1, 5, 5))
    one, two = ruled(random_noise, x, k=5, repeats=2)
    counts = changed(one, x).sum(0).double()
    assert ((counts - 80).abs() < 5 * math.sqrt(400 * 0.2 * 0.8)).all()
    for first, second in ((changed(one, x), changed(two, x)), (changed(one, x)[:200], changed(one, x)[200:])):
        assert 0.1 < float((first & second).sum(1).double().mean()) / 5 < 0.3


def test_inductive_noise_lowers_the_true_logit_more_than_random_noise_of_the_same_size(problem):
    p = problem("linear", n=24, shape=(3, 6, 6))
    p.x.copy_(grey(24, (3, 6, 6)))
    weights = p.model.w[p.y].flatten(1)
    at_weights = [changed(run(NOISES[name], p, t=0.2, repeats=1)[0], p.x) * weights for name in ("inductive", "random")]
    assert (at_weights[0].sum(1) > 2 * at_weights[1].sum(1).clamp_min(0) + 5).all()


def test_a_share_below_one_subpixel_changes_nothing(problem):
    p = problem("dense", n=5)
    for probe in NOISES.values():
        for level in run(probe, p, t=0.02):
            assert level.setting == "t=0.02 k=0"
            assert torch.equal(level.x, p.x)
            assert not level.fooled.any()
            assert not level.share.any()


def test_counts_of_the_paper_are_scaled_to_the_image():
    def settings(shape):
        return [level.setting.split()[0] for level in ruled(random_noise, torch.rand((1, *shape)), k="paper", repeats=1)]

    assert settings((3, 224, 224)) == ["k=500", "k=1000", "k=5000", "k=10000", "k=20000"]
    assert settings((3, 32, 32)) == ["k=10", "k=20", "k=102", "k=204", "k=408"]
    assert settings((1, 6, 6)) == ["k=1", "k=2", "k=5"]  # equal levels are one level


# Occlusion


def boxes(centres, n, r, height, width):
    """The pixels of the union, one by one."""
    return {
        (i, j)
        for centre in centres[:n]
        for i in range(centre // width - r, centre // width + r)
        for j in range(centre % width - r, centre % width + r)
        if 0 <= i < height and 0 <= j < width
    }


def by_loops(model, image, label, centres, count, reach, value):
    """Whether any union fools, its least area, the largest area, and how many unions say something new; one by one."""
    areas, fooling, seen, new = [], [], {}, 0
    for n in range(1, count + 1):
        for r in range(1, reach + 1):
            union = boxes(centres, n, r, *image.shape[1:])
            covered = image.clone()
            for i, j in union:
                covered[:, i, j] = value
            areas.append(len(union))
            new += union not in (seen.get((n - 1, r)), seen.get((n, r - 1)))
            seen[n, r] = union
            if model(covered[None].expand(16, -1, -1, -1))[0].argmax() != label:
                fooling.append(len(union))
    return bool(fooling), min(fooling, default=max(areas)), new


def centres_of(name, p, image, repeat, count):
    """The top pixels of one image."""
    if name == "random":
        keys = p.draws().child("repeat", repeat).uniform((p.x[0, 0].numel(),))[image]
    else:
        leaf = p.x[image : image + 1].clone().requires_grad_()
        keys = torch.autograd.grad(p.model(leaf)[0, p.y[image]], leaf)[0][0].mean(0).flatten()
    return sorted(range(len(keys)), key=lambda i: (-float(keys[i]), i))[:count]


@pytest.mark.parametrize("shape", [(3, 9, 9), (1, 7, 12)])
@pytest.mark.parametrize("name", OCCLUSIONS)
def test_occlusion_is_what_plain_loops_find(problem, name, shape):
    p = problem("convolutional", n=14, shape=shape, seed=3)
    levels = run(OCCLUSIONS[name], p, count=5, radius=3, **({"repeats": 2} if name == "random" else {}))
    assert [level.setting for level in levels[:3]] == [f"colour={word} radius=3" for word in ("black", "grey", "white")]
    fallen = torch.cat([level.fooled for level in levels])
    assert 0.1 < fallen.double().mean() < 0.95
    for level in levels:
        value = {"black": 0.0, "grey": 0.5, "white": 1.0}[level.setting.split()[0].removeprefix("colour=")]
        for image in range(14):
            centres = centres_of(name, p, image, level.repeat, 5)
            fooled, area, new = by_loops(p.model, p.x[image], p.y[image], centres, 5, 3, value)
            assert bool(level.fooled[image]) == fooled
            assert float(level.share[image]) == area / (shape[1] * shape[2])
            tried = int(level.forwards[image] - level.backwards[image])
            assert (1 <= tried <= new) if fooled else tried == new
            covered = (level.x[image] == value).all(0)
            assert int(covered.sum()) == area
            assert torch.equal(level.x[image][:, ~covered], p.x[image][:, ~covered])


def test_the_area_of_a_union_is_that_of_its_pixels():
    g = torch.Generator().manual_seed(0)
    for height, width in ((5, 8), (9, 4)):
        centres = torch.rand(30, height * width, generator=g).argsort(1)[:, :6]
        pair = torch.randint(24, (30,), generator=g)
        covered = union_mask(centre_distances(centres // width, height), centre_distances(centres % width, width), pair, 4)
        assert set(covered.unique().tolist()) == {0.0, 1.0}
        for image, which, row in zip(covered, pair.tolist(), centres.tolist(), strict=True):
            expected = boxes(row, which // 4 + 1, which % 4 + 1, height, width)
            assert {tuple(place) for place in image.nonzero().tolist()} == expected


def test_the_published_radii_are_scaled_to_the_image():
    for side, large, small in ((224, 20, 10), (32, 3, 1), (28, 2, 1), (8, 1, 1)):
        x = torch.rand(1, 1, side, side + 5)
        names = {"random-occlusion-n10r20": large, "random-occlusion-n5r10": small}
        for name, radius in names.items():
            level = ruled(PROBES[name], x, lambda x: torch.ones(len(x)), repeats=1)[0]
            assert level.setting == f"colour=black radius={radius}"


def test_only_standing_images_are_asked_about_and_calls_stay_full():
    x = torch.full((100, 1, 8, 8), 0.6)
    x[::2] = 0.9  # these fall at once, the others never
    model = Listening(Rule(lambda x: torch.where((x.amin((1, 2, 3)) == 0) & (x.amax((1, 2, 3)) > 0.7), 1.0, -1.0)))
    (level,) = ruled(random_occlusion, x, model, count=5, radius=2, colour="black", repeats=1)
    assert level.fooled.tolist() == [True, False] * 50
    rows = torch.cat(model.asked).amax((1, 2, 3))
    assert int((rows > 0.7).sum()) == 50
    assert int((rows < 0.7).sum()) == int(level.forwards[1::2].sum())
    assert level.forwards[::2].tolist() == [1] * 50
    sizes = [len(call) for call in model.asked]
    assert sizes[:-2] == [100] * (len(sizes) - 2)
    assert max(sizes) == 100
    assert len(sizes) <= int(level.forwards.sum()) // 100 + 2


def test_a_single_image_is_asked_about_many_unions_at_once_and_no_call_is_larger_than_64_or_the_batch():
    for n, most in ((1, 64), (5, 64), (70, 70)):
        model = Listening(Rule(never))
        x = torch.rand(n, 1, 16, 16)
        (level,) = ruled(random_occlusion, x, model, count=10, radius=8, colour="white", repeats=1)
        assert max(len(call) for call in model.asked) == most
        assert -(-int(level.forwards.sum()) // most) <= len(model.asked) <= -(-int(level.forwards.sum()) // most) + 3
        assert sum(len(call) for call in model.asked) <= int(level.forwards.sum()) + 15
        assert (level.share <= 1).all()


def test_a_union_that_covers_the_image_again_is_not_tried_again():
    model = Listening(Rule(never))
    x = torch.rand(3, 1, 4, 4)
    (level,) = ruled(random_occlusion, x, model, count=2, radius=50, colour="grey", repeats=1)
    assert (level.forwards < 12).all()
    assert level.share.tolist() == [1.0] * 3
    assert torch.equal(level.x, torch.full_like(x, 0.5))


# All probes


@pytest.mark.parametrize("name", PROBES)
def test_a_verdict_is_that_of_the_model_at_the_changed_image(problem, name):
    p = problem("convolutional", n=40, shape=(3, 8, 8))
    x = p.x.clone()
    levels = run(PROBES[name], p)
    for level in levels:
        assert torch.equal(level.fooled, p.model(level.x).argmax(1) != p.y)
        assert level.x.shape == p.x.shape
        assert level.x.dtype == p.x.dtype
        assert not level.x.requires_grad
        assert (level.x >= 0).all()
        assert (level.x <= 1).all()
        assert (level.forwards >= 1).all()
    assert torch.stack([level.fooled for level in levels]).any()
    assert torch.equal(p.x, x)
    assert all(parameter.grad is None for parameter in p.model.parameters())


@pytest.mark.parametrize("kind", ["linear", "dense"])
@pytest.mark.parametrize("name", PROBES)
def test_nothing_depends_on_the_batch_or_its_order(problem, name, kind):
    p = problem(kind, n=20, shape=(3, 6, 6))
    whole = run(PROBES[name], p)
    for part in torch.arange(20).flip(0).split(7):
        for few, all_ in zip(run(PROBES[name], p, part), whole, strict=True):
            assert (few.setting, few.repeat) == (all_.setting, all_.repeat)
            for field in ("x", "fooled", "share", "forwards", "backwards"):
                assert torch.equal(getattr(few, field), getattr(all_, field)[part]), field


@pytest.mark.parametrize("name", PROBES)
def test_every_level_comes_with_the_same_repeats_and_the_saliency_is_paid_once(problem, name):
    p = problem("dense", n=4, shape=(3, 8, 8))
    levels = run(PROBES[name], p)
    repeats = options_of(PROBES[name]).get("repeats", 1)
    by_setting = {level.setting: [] for level in levels}
    for level in levels:
        by_setting[level.setting].append(level.repeat)
    assert all(found == list(range(repeats)) for found in by_setting.values())
    backwards = torch.stack([level.backwards for level in levels])
    assert backwards.sum(0).tolist() == [1 if "inductive" in name else 0] * 4
    assert not backwards[1:].any()


@pytest.mark.parametrize("name", PROBES)
def test_logits_that_are_not_finite_never_fool(problem, name):
    p = problem("dense", n=6, shape=(3, 8, 8))

    class Breaks(nn.Module):
        def forward(self, x):
            logits, moved = p.model(x), (x[:, None] != p.x).flatten(2).any(2).all(1)
            broken = logits.new_tensor([math.nan, math.inf, *[0.0] * 8])
            return torch.where(moved[:, None], broken, logits)

    levels = run(PROBES[name], p, model=Breaks())
    assert any(bool((level.x != p.x).any()) for level in levels)
    assert not any(bool(level.fooled.any()) for level in levels)


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("inductive-noise,t=1.5", "t must be"),
        ("inductive-noise,t=papr", "did you mean 'paper'"),
        ("inductive-noise,t=0.1,k=5", "twice"),
        ("inductive-noise,k=0", "k must be"),
        ("inductive-noise,k=500", "more than the 192 subpixels"),
        ("inductive-noise,kind=ad", "did you mean 'add'"),
        ("inductive-noise,saliency=gradients", "did you mean 'gradient'"),
        ("inductive-noise,order=size", "unknown order"),
        ("inductive-noise,noise=unifrom", "did you mean 'uniform'"),
        ("inductive-noise,noise=uniform,sigma=2", "leave sigma out"),
        ("random-noise,noise=uniform", "noise=uniform needs a model that normalises its input itself"),
        ("inductive-noise,baseline=mean", "leave baseline out"),
        ("inductive-occlusion,baseline=mean", "leave baseline out"),
        ("inductive-noise,saliency=integrated-gradients,baseline=mean", "baseline=mean needs a model that normalises its input itself"),
        ("random-noise,sigma=0", "sigma must be"),
        ("random-noise,repeats=0", "repeats must be"),
        ("random-noise,k=duan", "unknown k"),
        ("inductive-occlusion,count=0", "count must be"),
        ("inductive-occlusion,count=65", "more than the 64 pixels"),
        ("inductive-occlusion,radius=0", "radius must be"),
        ("inductive-occlusion,radius=1.5", "radius must be"),
        ("inductive-occlusion,radius=big", "radius must be"),
        ("inductive-occlusion,colour=gray", "did you mean 'grey'"),
        ("random-occlusion,repeats=0", "repeats must be"),
    ],
)
def test_wrong_options_are_input_errors_before_any_pass(problem, sentence, words):
    p = problem("dense", n=2, shape=(3, 8, 8))
    model = Listening(p.model)
    with pytest.raises(InputError, match=words):
        run(resolve(parse_recipe(sentence), PROBES, "probe"), p, model=model)
    assert not model.asked


def test_float64_images_stay_float64(problem):
    p = problem("convolutional", n=4)
    double = type(p)(p.model.double(), p.x.double(), p.y)
    for name in PROBES:
        assert run(PROBES[name], double)[0].x.dtype == torch.float64
