"""The random numbers: the generator against its published vectors, their law, and what they may depend on."""

import itertools

import pytest
import torch
from scipy import stats

from robench.core.draws import Draws, philox

IDS = torch.arange(200)

# Known-answer vectors of Philox-4x32-10, as published with the paper's library (Random123, kat_vectors).
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_philox_gives_the_published_words(counter, key, words):
    assert tuple(int(word) for word in philox(tuple(torch.tensor([c]) for c in counter), key)) == words


def test_uniform_numbers_are_uniform_on_the_unit_interval():
    drawn = Draws(3, IDS, "law").uniform((500,)).flatten().numpy()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3


def test_normal_numbers_are_standard_normal():
    drawn = Draws(3, IDS, "law").normal((501,)).flatten().numpy()
    assert drawn.shape == (200 * 501,)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert abs(stats.kurtosis(drawn)) < 0.06


def test_signs_and_integers_are_even():
    signs = Draws(1, IDS, "s").signs((1000,))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 4 / signs.numel() ** 0.5
    counts = Draws(1, IDS, "i").integers(7, (1000,)).flatten().bincount(minlength=7)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["uniform", "normal", "signs"])
def test_a_number_does_not_depend_on_the_other_samples_or_on_how_many_are_drawn(kind):
    draws = Draws(7, IDS, "a")
    whole = getattr(draws, kind)((3, 5, 5), 2)
    some = torch.tensor([150, 3, 77])
    assert torch.equal(getattr(draws.take(some), kind)((3, 5, 5), 2), whole[some])
    assert torch.equal(getattr(draws, kind)((2, 3), 2).flatten(1), whole.flatten(1)[:, :6])


def test_seed_id_key_step_and_kind_each_give_other_numbers_without_correlation():
    base = Draws(0, IDS, "a")
    others = {
        "seed": Draws(1, IDS, "a").uniform((400,)),
        "id": Draws(0, IDS + 1, "a").uniform((400,)),
        "large id": Draws(0, IDS + 2**32, "a").uniform((400,)),
        "key": base.child("b").uniform((400,)),
        "step": base.uniform((400,), 1),
        "kind": (base.signs((400,)) + 1) / 2,
        "normal": torch.special.ndtr(base.normal((400,))),
    }
    first = base.uniform((400,)).flatten()
    for name, second in others.items():
        correlation = torch.corrcoef(torch.stack((first, second.flatten())))[0, 1]
        assert abs(float(correlation)) < 4.5 / first.numel() ** 0.5, name


def test_neighbouring_samples_and_places_are_independent():
    drawn = Draws(0, IDS, "a").uniform((400,)).double()
    by_sample = torch.corrcoef(drawn)[~torch.eye(len(IDS), dtype=torch.bool)]
    assert float(by_sample.square().mean() * 400) == pytest.approx(1, abs=0.05)  # the chance level of squared correlations
    by_place = torch.corrcoef(drawn.T)[~torch.eye(400, dtype=torch.bool)]
    assert float(by_place.square().mean() * len(IDS)) == pytest.approx(1, abs=0.05)


def test_keys_are_told_apart_by_their_parts():
    draws = Draws(0, IDS[:4])
    assert draws.child("a", 1).key == draws.child("a").child(1).key
    assert not torch.equal(draws.child("a", 11).uniform((9,)), draws.child("a", 1, 1).uniform((9,)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_gives_the_same_numbers():
    here, there = Draws(5, IDS, "a"), Draws(5, IDS.cuda(), "a")
    assert torch.equal(here.uniform((777,)), there.uniform((777,)).cpu())
    assert torch.allclose(here.normal((777,)), there.normal((777,)).cpu(), atol=1e-6, rtol=0)


def test_a_permutation_has_every_place_once_and_the_order_of_two_samples_does_not_hang_on_the_others():
    draws = Draws(3, torch.arange(100) * 7, "order")
    order = draws.permutation(2)
    assert torch.equal(order.sort().values, torch.arange(100))
    assert not torch.equal(order, draws.permutation(3))
    some = torch.tensor([50, 3, 99, 20])
    assert torch.equal(some[draws.take(some).permutation(2)], order[torch.isin(order, some)])


def test_permutations_of_four_samples_are_even():
    orders = [tuple(Draws(0, torch.arange(4), "order").permutation(step).tolist()) for step in range(2400)]
    counts = torch.tensor([orders.count(order) for order in itertools.permutations(range(4))])
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.3, 0.3), (2.0, 5.0), (0.5, 3.0)])
def test_beta_numbers_follow_their_law_and_belong_to_their_sample(a, b):
    draws = Draws(1, torch.arange(4000), "beta")
    numbers = draws.beta(a, b)
    assert stats.kstest(numbers.numpy(), stats.beta(a, b).cdf).pvalue > 1e-3
    some = torch.tensor([17, 3999, 4])
    assert torch.equal(draws.take(some).beta(a, b), numbers[some])


@pytest.mark.parametrize("shape", [0.05, 0.9, 1.0, 7.5])
def test_gamma_numbers_follow_their_law(shape):
    numbers = Draws(2, torch.arange(4000), "gamma").log_gamma(shape)
    assert stats.kstest(numbers.numpy(), stats.loggamma(shape).cdf).pvalue > 1e-3
