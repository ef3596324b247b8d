"""The authors' components through our signature: verdicts of the package's own driver, counts, any number of classes."""

import csv
import os
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robench.attacks import reference
from robench.attacks.reference import (
    reference_apgd_ce,
    reference_apgd_dlr,
    reference_apgd_t,
    reference_fab,
    reference_fab_t,
    reference_limits,
    reference_square,
    tiles_fit,
)
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import resolve
from robench.core.threat import Threat
from robench.evaluation.suites import suite_recipes

NORM_EPS = [("linf", 0.08), ("l2", 0.4), ("l1", 1.0)]
CASCADES = [
    ("linf", 0.04, ["apgd-ce", "fab-t"]),
    ("l2", 0.2, ["apgd-ce", "apgd-t"]),
    ("l1", 0.5, ["apgd-ce", "apgd-t"]),
    ("linf", 0.15, ["square"]),
    ("l2", 0.8, ["square"]),
    ("l1", 4.0, ["square"]),
]


def cascade(p, threat, seed, names):
    """Our attacks one after the other on what stands: the points, and what broke each sample."""
    points, broken_by = p.x.clone(), [""] * len(p.x)
    chosen = [recipe for recipe in suite_recipes("autoattack", threat.norm) if recipe.name in names]
    for name, attack in [(recipe.name, resolve(recipe, reference.REFERENCE_ATTACKS, "attack")) for recipe in chosen]:
        places = torch.tensor([i for i, by in enumerate(broken_by) if not by], dtype=torch.int64)
        found = attack(p.model, p.x[places], p.y[places], threat, Draws(seed, places, name))
        points[places] = found.x_adv
        for i in places[found.fooled].tolist():
            broken_by[i] = name
    return points, broken_by


@pytest.mark.parametrize(("norm", "eps", "names"), CASCADES)
@pytest.mark.filterwarnings("ignore:there are points with zero gradient:RuntimeWarning")
def test_points_are_those_of_the_packages_own_driver_in_its_standard_version(problem, norm, eps, names):
    from pyautoattack import AutoAttack

    p, threat, seed = problem("dense"), Threat(norm, eps), 3
    trace = sys.gettrace()  # the driver takes it away
    driver = AutoAttack(p.model, norm={"linf": "Linf", "l2": "L2", "l1": "L1"}[norm], eps=eps, seed=seed, version="standard")
    assert set(names) <= set(driver.attacks_to_run)
    driver.attacks_to_run = names
    with torch.random.fork_rng(devices=[]):
        theirs, labels = driver.run_standard_evaluation(p.x, p.y)
    sys.settrace(trace)
    points, broken_by = cascade(p, threat, seed, names)
    assert torch.equal(points, theirs)
    assert [bool(by) for by in broken_by] == (labels != p.y).tolist()
    assert any(broken_by)
    assert len(names) == 1 or not all(broken_by)


@pytest.mark.parametrize(
    ("name", "forwards", "backwards"), [("apgd-ce", 102, 101), ("apgd-t", 919, 909), ("fab-t", 1828, 900), ("square", 5003, 0)]
)
def test_a_survivor_costs_the_known_number_of_passes(problem, name, forwards, backwards):
    p = problem("linear", n=4, classes=10, shape=(1, 5, 5))
    found = reference.REFERENCE_ATTACKS[name](p.model, p.x, p.y, Threat("linf", 1e-5), p.draws())
    assert not found.fooled.any()
    assert found.forwards.tolist() == [forwards] * 4
    assert found.backwards.tolist() == [backwards] * 4
    assert torch.equal(found.x_adv, p.x)
    assert set(found.step.tolist()) == {-1}


def test_uneven_totals_are_split_into_whole_numbers_that_add_up(problem):
    p = problem("linear", n=7, classes=4, shape=(1, 5, 5))
    counted = nn.Module()
    counted.rows = 0

    class Watched(nn.Module):
        def forward(self, x):
            counted.rows += len(x)
            return p.model(x)

    distances = p.distances("linf")
    found = reference_apgd_t(Watched(), p.x, p.y, Threat("linf", float(distances.median()) * 1.01), p.draws())
    assert 0 < int(found.fooled.sum()) < 7
    assert int(found.forwards.sum()) == counted.rows - 1 - 7  # the number of classes is asked for, and the points judged again
    assert int(found.forwards.max() - found.forwards.min()) <= 1


@pytest.mark.parametrize("classes", [2, 3, 5, 10])
@pytest.mark.filterwarnings("ignore:there are points with zero gradient:RuntimeWarning")
def test_any_number_of_classes_runs_and_what_is_left_out_finds_nothing(problem, classes):
    p = problem("linear", n=6, classes=classes, shape=(1, 5, 5))
    for attack, least in ((reference_apgd_ce, 2), (reference_apgd_dlr, 3), (reference_apgd_t, 4), (reference_fab_t, 2)):
        found = attack(p.model, p.x, p.y, Threat("linf", 1.0), p.draws())
        assert found.fooled.tolist() == [classes >= least] * 6, attack
        assert (int(found.forwards.sum()) > 0) == (classes >= least)
        if classes >= least:
            assert (p.model(found.x_adv).argmax(1) != p.y).all()


def test_survivors_of_few_classes_meet_every_target_and_no_index_error(problem):
    p = problem("linear", n=4, classes=3, shape=(1, 5, 5))
    found = reference_fab_t(p.model, p.x, p.y, Threat("linf", 1e-5), p.draws())
    assert found.backwards.tolist() == [200] * 4
    p = problem("linear", n=4, classes=5, shape=(1, 5, 5))
    assert reference_apgd_t(p.model, p.x, p.y, Threat("linf", 1e-5), p.draws()).backwards.tolist() == [4 * 101] * 4


def test_limits_say_what_is_left_out_for_few_classes():
    assert reference_limits(10) == reference_limits(4) == {}
    assert reference_limits(3) == {"apgd-t": "left out: the targeted DLR loss needs 4 classes, the model has 3"}
    assert reference_limits(2)["apgd-dlr"] == "left out: the DLR loss needs 3 classes, the model has 2"


def test_the_options_reach_the_engine(problem):
    p = problem("linear", n=4, classes=5, shape=(1, 5, 5))
    spent = lambda attack, **options: partial(attack, **options)(p.model, p.x, p.y, Threat("linf", 1e-5), p.draws())  # noqa: E731
    assert set(spent(reference_apgd_ce, steps=7, restarts=3).backwards.tolist()) == {3 * 8}
    assert set(spent(reference_apgd_ce, steps=7, eot=4).backwards.tolist()) == {4 * 8}
    assert set(spent(reference_apgd_t, steps=7, targets=2).backwards.tolist()) == {2 * 8}
    assert set(spent(reference_fab_t, steps=7, targets=2, restarts=2).backwards.tolist()) == {4 * 7}
    assert set(spent(reference_fab, steps=7, restarts=2).backwards.tolist()) == {2 * 7 * 5}
    assert set(spent(reference_square, queries=9).forwards.tolist()) == {9 + 3}
    with pytest.raises(InputError, match="steps must be a whole number"):
        spent(reference_apgd_ce, steps=0)


@pytest.mark.parametrize(("norm", "reach"), [("linf", 1.001), ("l2", 1.02), ("l1", 1.02)])
def test_apgd_falls_exactly_where_the_exact_distance_is_within_reach(problem, norm, reach):
    p = problem("affine", n=12, shape=(1, 6, 6))
    distances = p.distances(norm).sort().values
    eps = float((distances[5] * distances[6]).sqrt())
    sparse = {"restarts": 5, "large_eps": True} if norm == "l1" else {}
    found = reference_apgd_ce(p.model, p.x, p.y, Threat(norm, eps), p.draws(), **sparse)
    exact = p.distances(norm)
    assert (found.fooled <= (exact < eps)).all()
    assert found.fooled[exact * reach < eps].all()


def test_fab_overshoots_by_its_known_share(problem):
    # On an affine model FAB's best point lies at 1.0052133 times the distance: 1.05 - .05 * .945 / 1.055.
    p = problem("affine", n=2, shape=(1, 6, 6))
    for i, distance in enumerate(p.distances("linf").tolist()):
        draws = p.draws().take(torch.tensor([i]))
        for factor, falls in ((1.004, False), (1.007, True)):
            found = reference_fab_t(p.model, p.x[i : i + 1], p.y[i : i + 1], Threat("linf", factor * distance), draws)
            assert found.fooled.item() == falls


@pytest.mark.parametrize("attack", [reference_apgd_ce, reference_apgd_dlr, reference_apgd_t, reference_fab_t])
@pytest.mark.parametrize(("norm", "eps"), NORM_EPS)
@pytest.mark.filterwarnings("ignore:there are points with zero gradient:RuntimeWarning")
def test_points_lie_in_the_threat_and_stand_for_the_verdict(problem, attack, norm, eps):
    p, threat = problem("dense"), Threat(norm, eps)
    found = attack(p.model, p.x, p.y, threat, p.draws())
    assert threat.contains(p.x, found.x_adv).all()
    assert torch.equal(p.model(found.x_adv).argmax(1) != p.y, found.fooled)
    assert torch.equal(found.step, found.fooled.long() - 1)
    assert found.fooled.any()


def test_the_global_random_state_and_the_models_flags_are_left_as_they_were(problem):
    p = problem("convolutional", n=4, shape=(1, 5, 5))
    p.model.train()
    before = torch.get_rng_state()
    for attack in (reference_apgd_ce, reference_fab_t):
        attack(p.model, p.x, p.y, Threat("l2", 2.0), p.draws())
    assert torch.equal(torch.get_rng_state(), before)
    assert p.model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in p.model.parameters())


def test_the_seed_is_that_of_the_draws(problem):
    p, threat = problem("dense"), Threat("linf", 0.05)
    again = [reference_apgd_ce(p.model, p.x, p.y, threat, p.draws(seed)).x_adv for seed in (0, 0, 1)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])


class ChannelsLast(nn.Module):
    """The model in channels_last memory, so that the gradient of the input comes in that layout."""

    def __init__(self, model):
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.model(x.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.3), ("l2", 3.0), ("l1", 20.0)])
@pytest.mark.filterwarnings("ignore:there are points with zero gradient:RuntimeWarning")
def test_channels_last_models_and_images_run(problem, norm, eps):
    p, threat = problem("convolutional", n=6, shape=(3, 6, 6)), Threat(norm, eps)
    x = p.x.contiguous(memory_format=torch.channels_last)
    plain = [attack(p.model, p.x, p.y, threat, p.draws()).fooled for attack in (reference_apgd_ce, reference_apgd_t, reference_fab_t)]
    model = ChannelsLast(p.model)
    for attack, expected in zip((reference_apgd_ce, reference_apgd_t, reference_fab_t), plain, strict=True):
        assert torch.equal(attack(model, x, p.y, threat, p.draws()).fooled, expected)


class NanWhereWrong(nn.Module):
    """The model, but with NaN logits wherever its label is not 0."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        return torch.where((logits.argmax(1) == 0)[:, None], logits, float("nan"))


def test_nan_logits_never_count_as_adversarial(problem):
    p = problem("affine", n=12, shape=(1, 6, 6))
    right = p.y == 0
    found = reference_apgd_ce(NanWhereWrong(p.model), p.x[right], p.y[right], Threat("linf", 0.3), p.draws().take(right))
    assert not found.fooled.any()
    assert found.nonfinite.all()
    assert torch.equal(found.x_adv, p.x[right])
    assert not reference_apgd_ce(p.model, p.x, p.y, Threat("linf", 0.3), p.draws()).nonfinite.any()


class Deaf(nn.Module):
    """Constant logits: class 0 whatever the image."""

    def forward(self, x):
        return x.flatten(1).sum(1, keepdim=True) * 0 + torch.tensor([1.0, 0.5, 0.2, 0.1, 0.0])


def test_the_engines_warning_of_zero_gradients_comes_out_once():
    x = torch.rand(3, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RuntimeWarning, match="^there are points with zero gradient!") as caught:
        reference_apgd_t(Deaf(), x, torch.zeros(3, dtype=torch.int64), Threat("linf", 0.1), Draws(0, torch.arange(3)))
    assert len(caught) == 1


def test_samples_that_are_wrong_when_clean_come_back_fooled_and_clean(problem):
    p = problem("linear", n=5, shape=(1, 5, 5))
    found = reference_apgd_ce(p.model, p.x, (p.y + 1) % 5, Threat("linf", 0.1), p.draws())
    assert found.fooled.all()
    assert torch.equal(found.x_adv, p.x)


def test_an_empty_batch_comes_back_empty(problem):
    p = problem("linear", n=5, shape=(1, 5, 5))
    for attack in (reference_apgd_ce, reference_apgd_t, reference_fab_t, reference_square):
        assert len(attack(p.model, p.x[:0], p.y[:0], Threat("linf", 0.1), p.draws().take(torch.arange(0))).fooled) == 0


@pytest.mark.parametrize(("height", "width"), [(4, 4), (14, 14), (19, 19), (24, 24), (32, 30), (5, 5), (7, 9), (28, 28), (32, 32)])
def test_square_says_where_the_engine_cannot_start(height, width):
    x, y = torch.full((1, 1, height, width), 0.5), torch.ones(1, dtype=torch.int64)  # wrong label of a deaf model: over at once
    draws = Draws(0, torch.arange(1))
    if not tiles_fit(height, width):
        with pytest.raises(InputError, match=f"cannot start on images of {height}x{width} in l2"):
            reference_square(Deaf(), x, y, Threat("l2", 0.1), draws)
        engine_fails(height, width)
    else:
        assert (height, width) in ((5, 5), (7, 9), (28, 28), (32, 32))


def engine_fails(height, width):
    """That the engine, asked to start there all the same, raises."""
    from pyautoattack.square import SquareAttack

    x, y = torch.full((1, 1, height, width), 0.5), torch.zeros(1, dtype=torch.int64)
    with pytest.raises((RuntimeError, ZeroDivisionError)), torch.random.fork_rng(devices=[]):
        SquareAttack(Deaf(), norm="L2", eps=0.1, n_queries=1).perturb(x, y)


@pytest.mark.realdata
@pytest.mark.skipif(
    not os.environ.get("ROBENCH_DATA") or not os.environ.get("ROBENCH_MODELS"), reason="ROBENCH_DATA or ROBENCH_MODELS is not set"
)
def test_apgd_ce_on_wong2020_breaks_the_very_samples_of_the_recorded_reference_run(zoo, data_dir):
    raw = data_dir / "MNIST" / "raw"
    x = torch.from_numpy(np.fromfile(raw / "t10k-images-idx3-ubyte", np.uint8, 500 * 784, offset=16)).view(-1, 1, 28, 28) / 255
    y = torch.from_numpy(np.fromfile(raw / "t10k-labels-idx1-ubyte", np.uint8, 500, offset=8)).long()
    with (Path(os.environ["ROBENCH_MODELS"]) / "reference_verdicts.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "wong2020_fgsm" and row["seed"] == "0"]
    recorded = {int(row["sample"]) for row in rows if row["broken_by"] == "apgd-ce"}
    model = zoo.wong2020_fgsm()
    standing = (model(x).argmax(1) == y).nonzero().flatten()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        broken = [
            places[reference_apgd_ce(model, x[places], y[places], Threat("linf", 0.3), Draws(0, places)).fooled]
            for places in standing.split(250)
        ]
    assert set(torch.cat(broken).tolist()) == recorded
