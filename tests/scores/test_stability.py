"""Max-sensitivity: 0 for maps that do not move, closed forms, Captum under the same changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from maps import asked, gradient, part

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.scores.stability import max_sensitivity


def identity(model, x, target, draws):
    return x.clone()


def smooth(model, x, target, draws):
    """The gradient at a noisy image: a method that draws random numbers."""
    return gradient(model, x + 0.3 * draws.child("smooth").normal(tuple(x.shape[1:])), target, draws)


def test_the_gradient_of_a_linear_model_does_not_move(problem):
    assert max_sensitivity(asked(problem("linear"))).tolist() == [0.0] * 24


def test_where_the_map_is_the_image_the_score_is_the_length_of_the_change(problem):
    net = asked(problem("convolutional"), identity)
    noise = [net.draws.child("max-sensitivity").uniform((3, 8, 8), step) for step in range(4)]
    moved = [(net.x + 0.1 * (2 * one - 1)).clamp(0, 1) for one in noise]
    lengths = torch.stack([(one - net.x).double().flatten(1).norm(dim=1) for one in moved]).amax(0)
    assert torch.allclose(max_sensitivity(net, radius=0.1, samples=4), lengths / net.x.double().flatten(1).norm(dim=1), rtol=1e-6)


def test_no_subpixel_leaves_the_box_or_the_ball(problem):
    x = (torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 - 1).clamp(0, 1)
    seen = []

    def recorded(model, images, target, draws):
        seen.append(images.clone())
        return images + 1

    max_sensitivity(asked(problem("convolutional"), recorded, x=x), radius=0.3, samples=5)
    everything = torch.stack(seen)
    assert len(seen) == 1 + 1 + 5  # the maps, the map made anew, the changed images
    assert everything.min() == 0
    assert everything.max() == 1
    assert 0.299 < (everything - x).abs().max() <= 0.3 + 1e-6


@pytest.mark.parametrize("explain", [gradient, identity])
def test_it_is_the_sensitivity_of_captum_under_the_same_changes(problem, explain):
    from captum.metrics import sensitivity_max

    inside = 0.2 + 0.6 * problem("convolutional").x
    net = asked(problem("convolutional"), explain, x=inside)
    noise = iter([net.draws.child("max-sensitivity").uniform((3, 8, 8), step) for step in range(6)])

    def method(inputs, target):
        if isinstance(inputs, tuple):
            return (method(inputs[0], target),)
        return explain(net.model, inputs, target, net.draws)

    theirs = sensitivity_max(
        method,
        net.x,
        perturb_func=lambda inputs: inputs + 0.05 * (2 * next(noise) - 1),
        n_perturb_samples=6,
        max_examples_per_batch=16,
        target=net.target,
    )
    assert torch.allclose(max_sensitivity(net, radius=0.05, samples=6), theirs.double(), rtol=1e-4)


def test_noise_that_a_method_draws_is_not_held_against_it(problem):
    noisy = asked(problem("linear"), lambda model, x, target, draws: draws.child("noise").normal(tuple(x.shape[1:])))
    assert max_sensitivity(noisy).tolist() == [0.0] * 24


def test_more_samples_and_a_larger_ball_raise_it(problem):
    net = asked(problem("convolutional"))
    few, many, far = max_sensitivity(net, samples=2), max_sensitivity(net, samples=8), max_sensitivity(net, samples=2, radius=0.2)
    assert (many >= few).all()
    assert far.mean() > 2 * few.mean()
    assert few.min() > 0


def test_the_scale_of_the_map_does_not_matter(problem):
    net = asked(problem("convolutional"))
    large = replace(net, explain=lambda *given: 1e4 * gradient(*given))
    assert torch.allclose(max_sensitivity(net), max_sensitivity(large), rtol=1e-5)


def test_maps_of_zeros_and_maps_that_are_not_finite_have_no_score(problem):
    def broken(model, x, target, draws):
        maps = gradient(model, x, target, draws)
        maps[draws.ids == 1] = 0
        maps[(draws.ids == 4) & (x[:, 0, 0, 0] != net.x[:, 0, 0, 0])] = torch.inf  # the changed images alone
        maps[draws.ids == 6] = torch.nan
        maps[(draws.ids == 5) & (x[:, 0, 0, 0] == net.x[:, 0, 0, 0])] = 0  # the image itself alone
        return maps

    net = asked(problem("convolutional"))
    found = max_sensitivity(replace(net, explain=broken))
    assert found.isnan().nonzero().flatten().tolist() == [1, 4, 5, 6]
    assert torch.equal(found[7:], max_sensitivity(net)[7:])


@pytest.mark.parametrize("explain", [gradient, smooth])
def test_halves_and_single_images_score_as_the_whole_does(problem, explain):
    net = asked(problem("convolutional", n=17), explain)
    whole = max_sensitivity(net, samples=4)
    halves = torch.cat([max_sensitivity(part(net, keep), samples=4) for keep in (slice(0, 8), slice(8, 17))])
    assert whole.shape == (17,)
    assert whole.dtype == torch.float64
    assert torch.allclose(whole, halves, rtol=1e-4)
    assert torch.allclose(whole[3:4], max_sensitivity(part(net, slice(3, 4)), samples=4), rtol=1e-4)


def test_nothing_that_was_given_is_changed(problem):
    net = asked(problem("convolutional"), identity)
    before, state = net.x.clone(), torch.random.get_rng_state()
    max_sensitivity(net)
    assert torch.equal(net.x, before)
    assert torch.equal(state, torch.random.get_rng_state())


def test_other_seeds_try_other_changes(problem):
    net = asked(problem("convolutional"))
    other = replace(net, draws=Draws(1, net.draws.ids, net.draws.key))
    assert not torch.allclose(max_sensitivity(net), max_sensitivity(other), rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"radius": 0}, "radius"),
        ({"radius": 8}, "radius=8 reaches beyond every image.*did you mean 8/255"),
        ({"samples": 0}, "samples"),
        ({"samples": 2.5}, "samples"),
    ],
)
def test_a_wrong_option_is_named(problem, options, word):
    with pytest.raises(InputError, match=word):
        max_sensitivity(asked(problem("linear")), **options)
