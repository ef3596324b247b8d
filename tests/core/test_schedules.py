"""Schedules by name: milestones in closed form, the plateau rule against torch's, and what every schedule keeps to."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch

from robench.core.errors import InputError
from robench.core.recipes import parse_recipe, resolve
from robench.core.schedules import SCHEDULES, milestones, plateau


def rate_of(sentence):
    return resolve(parse_recipe(sentence), SCHEDULES, "schedule")


def torch_rates(losses, **options):
    """The rates at the start of each epoch by torch's scheduler, which is told each epoch's loss at its end."""
    descent = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(descent, eps=0.0, **options)
    rates = [1.0]
    for loss in losses:
        scheduler.step(loss)
        rates.append(descent.param_groups[0]["lr"])
    return rates


def falling(seed, n=80):
    """A loss that falls and stalls by turns, each some ten epochs long, with noise."""
    rng = np.random.default_rng(seed)
    pace = np.repeat(rng.choice([0.0, 0.001, 0.03], n // 8), 8)
    return np.exp(-np.cumsum(pace) + rng.normal(0, 0.006, n)).tolist()


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_takes_the_time_and_perhaps_the_losses_and_starts_without_any(name):
    first, second, *options = inspect.signature(SCHEDULES[name]).parameters.values()
    assert (first.name, second.name, second.default) == ("t", "losses", ())
    assert all(option.kind is option.KEYWORD_ONLY and option.default is not option.empty for option in options)
    for t in (0.0, 0.3, 0.999):
        assert 0 <= SCHEDULES[name](t) <= 1
        assert SCHEDULES[name](t) == SCHEDULES[name](t, ()) == SCHEDULES[name](t, [2.0, 1.0])


def test_losses_are_no_option_on_the_command_line():
    with pytest.raises(InputError, match="has no option 'losses'"):
        rate_of("plateau,losses=1")


# milestones


def test_milestones_drop_once_at_each_share():
    grid = [0.0, 0.249, 0.25, 0.5, 0.749, 0.75, 0.9, 0.99]
    assert [rate_of("milestones,at=0.25:0.75:0.9,factor=0.5")(t) for t in grid] == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.125, 0.125]
    assert [rate_of("milestones,at=0.5")(t) for t in (0.499, 0.5)] == [1, 0.1]
    assert [rate_of("milestones,at=1/2")(t) for t in (0.499, 0.5)] == [1, 0.1]
    assert [rate_of("milestones,at=1")(t) for t in (0.0, 0.999)] == [1, 1]
    assert [rate_of("milestones,at=0")(t) for t in (0.0, 0.999)] == [0.1, 0.1]


def test_two_milestones_are_the_piecewise_schedule():
    grid = np.linspace(0, 1, 401)[:-1].tolist()
    assert [milestones(t) for t in grid] == [SCHEDULES["piecewise"](t) for t in grid]
    sentence = "milestones,at=0.3:0.6,factor=0.2"
    assert [rate_of(sentence)(t) for t in grid] == [SCHEDULES["piecewise"](t, first=0.3, second=0.6, factor=0.2) for t in grid]


def test_milestones_written_as_fractions_fall_on_the_first_step_of_their_epoch():
    rate, steps = rate_of("milestones,at=75/120:90/120:100/120"), 391
    for drops, epoch in enumerate((75, 90, 100)):
        assert rate((epoch * steps - 1) / (120 * steps)) == 0.1**drops
        assert rate(epoch * steps / (120 * steps)) == 0.1 ** (drops + 1)


@pytest.mark.parametrize("at", ["0.5:late", "0.5;0.75", "0.5:", "1.5", "-0.1:0.5", "0.5:7", "true", "0.5:1/0", "nan"])
def test_milestones_outside_the_training_are_refused(at):
    with pytest.raises(InputError, match=r"(of|in) milestones must be"):
        rate_of(f"milestones,at={at}")(0.5)


@pytest.mark.parametrize("factor", [-0.1, 1.5, "small"])
@pytest.mark.parametrize("name", ["milestones", "plateau"])
def test_wrong_factors_are_refused(name, factor):
    with pytest.raises(InputError, match=f"the factor of {name} must be"):
        rate_of(f"{name},factor={factor}")(0.5)


# plateau


@pytest.mark.parametrize(
    "options", [{}, {"patience": 0}, {"patience": 3, "factor": 0.5}, {"patience": 5, "threshold": 0.0}, {"patience": 2, "threshold": 0.1}]
)
def test_plateau_gives_the_rates_of_torch_after_every_epoch(options):
    dropped = 0
    for seed in range(20):
        losses = falling(seed)
        expected = torch_rates(losses, **({"patience": 10, "threshold": 1e-2, "factor": 0.1} | options))
        found = [plateau(0.5, losses[:epoch], **options) for epoch in range(len(losses) + 1)]
        assert found == pytest.approx(expected, rel=1e-9)
        dropped += len(set(found)) > 1
    assert dropped > 3


def test_plateau_waits_for_more_than_patience_epochs_after_the_lowest_loss():
    assert [plateau(0.5, [1.0] * epochs) for epochs in (0, 1, 11, 12, 22, 23)] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01])


def test_progress_below_the_threshold_counts_when_it_has_added_up():
    losses = [0.999**epoch for epoch in range(100)]  # 1 % lower after 11 epochs, not after 10
    assert plateau(0.5, losses) == 1
    assert [plateau(0.5, losses[:epochs], patience=9) for epochs in (10, 11, 21, 22)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_a_loss_that_is_no_number_counts_as_no_progress_as_in_torch():
    losses = [1.0, math.nan, math.inf, 0.5, math.nan, math.nan, math.nan]
    expected = torch_rates(losses, patience=1, threshold=1e-2, factor=0.1)
    assert [plateau(0.5, losses[:epoch], patience=1) for epoch in range(8)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "says"), [("patience=-1", "the patience"), ("patience=2.5", "the patience"), ("threshold=2", "the threshold")]
)
def test_wrong_plateau_options_are_refused(options, says):
    with pytest.raises(InputError, match=f"{says} of plateau must be"):
        rate_of(f"plateau,{options}")(0.5)
