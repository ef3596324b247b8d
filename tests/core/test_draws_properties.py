"""Properties of the random numbers: each depends on seed, key, id, step and place alone, whatever the batch and its order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robench.core.draws import Draws

SEEDS, STEPS = st.integers(0, 2**32 - 1), st.integers(0, 2**31)
IDS = st.lists(st.integers(0, 2**62), min_size=1, max_size=6)
KEYS = st.text(max_size=8)
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
KINDS = {
    "uniform": lambda draws, shape, step=0: draws.uniform(shape, step),
    "normal": lambda draws, shape, step=0: draws.normal(shape, step),
    "signs": lambda draws, shape, step=0: draws.signs(shape, step),
    "integers": lambda draws, shape, step=0: draws.integers(1000, shape, step),
}


def draws_of(seed, ids, key):
    return Draws(seed, torch.tensor(ids), key)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, ids=IDS, key=KEYS, shape=SHAPES, step=STEPS, data=st.data())
def test_a_number_does_not_depend_on_the_batch_and_its_order(kind, seed, ids, key, shape, step, data):
    all_at_once = KINDS[kind](draws_of(seed, ids, key), shape, step)
    assert all_at_once.shape == (len(ids), *shape)
    places = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=6))
    some = KINDS[kind](
        draws_of(seed, [ids[place] for place in places], key) if places else draws_of(seed, ids, key).take(torch.tensor([]).long()),
        shape,
        step,
    )
    assert torch.equal(some, all_at_once[torch.tensor(places).long()])


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, ids=IDS, key=KEYS, sizes=st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted), step=STEPS)
def test_a_number_does_not_depend_on_how_many_come_after_it(kind, seed, ids, key, sizes, step):
    few, many = sizes
    draws = draws_of(seed, ids, key)
    assert torch.equal(KINDS[kind](draws, (many,), step)[:, :few], KINDS[kind](draws, (few,), step))


@given(seed=SEEDS, ids=IDS, key=KEYS, names=st.lists(KEYS, min_size=1, max_size=3), data=st.data())
def test_children_of_some_samples_are_some_samples_of_the_children(seed, ids, key, names, data):
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    draws = draws_of(seed, ids, key)
    one, other = draws.take(mask).child(*names), draws.child(*names).take(mask)
    assert one.key == other.key == "/".join([key, *names])
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.uniform((3,)), draws.child(*names).uniform((3,))[mask])


@given(seed=SEEDS, ids=IDS, key=KEYS, step=STEPS, other=st.tuples(SEEDS, KEYS, STEPS))
def test_another_seed_key_or_step_gives_other_numbers(seed, ids, key, step, other):
    numbers = draws_of(seed, ids, key).uniform((8,), step)
    for change in ((other[0], key, step), (seed, other[1], step), (seed, key, other[2])):
        again = draws_of(change[0], ids, change[1]).uniform((8,), change[2])
        assert torch.equal(again, numbers) is (change == (seed, key, step))


@given(seed=SEEDS, ids=IDS, key=KEYS, high=st.integers(1, 2**31))
def test_numbers_stay_in_their_ranges(seed, ids, key, high):
    draws = draws_of(seed, ids, key)
    uniform, integers, signs = draws.uniform((16,)), draws.integers(high, (16,)), draws.signs((16,))
    assert ((uniform >= 0) & (uniform < 1)).all()
    assert torch.equal((uniform * 2**24).round() / 2**24, uniform)
    assert ((integers >= 0) & (integers < high)).all()
    assert (signs.abs() == 1).all()
    assert draws.normal((16,)).isfinite().all()
