"""Probes of several models: both denominators, the mean and spread over draws, what is counted, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from robench import probe
from robench.core.errors import InputError
from robench.core.recipes import parse_recipe
from robench.core.rows import blank_row, wilson
from robench.report.tables import report_tables
from robench.results.probes import level_setting
from robench.runs.execution import execute
from robench.runs.pools import pool_of
from robench.runs.stages.clean import clean_stage
from robench.runs.stages.probe import probe_stage
from robench.runs.types import RunOptions, Subject


class Threshold(nn.Module):
    """Class 1 where the first pixel's value is above a level, class 0 elsewhere."""

    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, x):
        score = x[:, 0, 0, 0] - self.level
        return torch.stack((-score, score), 1)


def subject(model, name="model"):
    return Subject(model, replace(blank_row(), checkpoint=name))


@pytest.fixture
def images():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(40, 1, 4, 4, generator=g)
    return x, (x[:, 0, 0, 0] > 0.5).long()


def rows_of(found, metric, checkpoint="model"):
    return [row for row in found.rows if row.metric == metric and row.checkpoint == checkpoint]


def test_error_rates_are_over_the_images_that_each_model_and_that_all_models_get_right(images):
    x, y = images
    found = probe(
        [subject(Threshold(0.5), "a"), subject(Threshold(0.7), "b")], x, y, [parse_recipe("random-noise,t=0.5,repeats=4")], seed=3
    )
    value = x[:, 0, 0, 0]
    right = {"a": torch.ones(40).bool(), "b": (value > 0.7) == (y == 1)}
    shared = right["a"] & right["b"]
    assert 0 < int(shared.sum()) < 40
    for name in "ab":
        (own,), (both,) = rows_of(found, "error_rate", name), rows_of(found, "error_rate_shared", name)
        assert (own.n, both.n) == (int(right[name].sum()), int(shared.sum()))
        lines = {line.sample: line.fooled for line in found.samples if line.checkpoint == name and line.probe == "random-noise"}
        assert sorted(lines) == right[name].nonzero().flatten().tolist()
        assert own.value == pytest.approx(sum(lines.values()) / len(lines), abs=1e-12)
        kept = [fooled for sample, fooled in lines.items() if shared[sample]]
        assert both.value == pytest.approx(sum(kept) / len(kept), abs=1e-12)
        assert (own.low, own.high) == pytest.approx(wilson(sum(lines.values()), len(lines)))
        assert 0 < own.value < 1


def test_one_model_alone_has_no_shared_denominator(images):
    x, y = images
    found = probe([subject(Threshold(0.5))], x, y, [parse_recipe("random-noise,t=0.5")])
    assert not rows_of(found, "error_rate_shared")


def test_the_spread_is_the_standard_deviation_over_the_draws(images):
    x, y = images
    found = probe([subject(Threshold(0.5))], x, y, [parse_recipe("random-noise,t=0.5,repeats=3")], seed=1)
    clean = clean_stage()
    stage = probe_stage(parse_recipe("random-noise,t=0.5,repeats=3"), clean=clean)
    ledger = execute([subject(Threshold(0.5))], pool_of(x, y), [clean, stage], RunOptions(seed=1)).ledger
    rates = [float(record.columns["fell"].double().mean()) for record in ledger.levels("model", stage).values()]
    mean = sum(rates) / 3
    sd = math.sqrt(sum((rate - mean) ** 2 for rate in rates) / 2)
    assert rows_of(found, "error_rate/sd")[0].value == pytest.approx(sd)
    assert rows_of(found, "error_rate")[0].value == pytest.approx(mean)
    assert len(set(rates)) > 1
    assert report_tables(found.rows, title="")[0].title.endswith("; +- is the standard deviation over the draws")
    once = probe([subject(Threshold(0.5))], x, y, [parse_recipe("random-noise,t=0.5,repeats=1")], seed=1)
    assert "+-" not in report_tables(once.rows, title="")[0].title


def test_the_result_does_not_depend_on_the_batch_or_on_the_order_of_the_images(images):
    x, y = images
    run = lambda order, batch: probe(  # noqa: E731
        [subject(Threshold(0.5))], x[order], y[order], [parse_recipe("random-noise,t=0.3"),
        parse_recipe("inductive-occlusion,count=2,radius=1")],
        ids=order, batch_size=batch,
    )  # fmt: skip
    one, other = run(torch.arange(40), 40), run(torch.randperm(40, generator=torch.Generator().manual_seed(1)), 7)

    def fates(found):
        return {(line.probe, line.setting, line.sample): (line.fooled, line.changed_share) for line in found.samples}

    assert fates(one) == fates(other)
    assert len(fates(one)) == 40 * (1 + 1 + 3)


def test_levels_carry_their_own_words_before_those_of_the_probe(images):
    x, y = images
    found = probe([subject(Threshold(0.5))], x, y, [parse_recipe("random-noise")])
    settings = [row.setting for row in rows_of(found, "error_rate")]
    assert len(settings) == 10
    assert settings[0].startswith("t=0.02 k=0 ")
    assert settings[-1].startswith("t=0.2 k=3 ")
    assert all(words.split().count("kind=add") == 1 and "t=paper" not in words for words in settings)
    assert level_setting("t=0.1", "t=paper kind=add") == "t=0.1 kind=add"


def test_what_is_changed_and_what_is_spent_is_in_the_rows(images):
    x, y = images
    found = probe([subject(Threshold(0.5))], x, y, [parse_recipe("random-noise,t=0.5,repeats=2")])
    assert rows_of(found, "changed_share")[0].value == pytest.approx(0.5)
    assert rows_of(found, "forwards")[0].value == 2 * 40
    assert rows_of(found, "backwards")[0].value == 0


def test_a_model_that_is_never_right_has_no_error_rate_and_no_crash(images):
    x, y = images
    found = probe([subject(Threshold(0.5))], x, 1 - y, [parse_recipe("random-noise,t=0.5")])
    assert rows_of(found, "accuracy")[0].value == 0
    assert not rows_of(found, "error_rate")
    assert {line.probe for line in found.samples} == {"clean"}


def test_unknown_probes_and_labels_out_of_range_are_refused(images):
    x, y = images
    with pytest.raises(InputError, match="did you mean 'random-noise'"):
        probe_stage(parse_recipe("randm-noise"), clean=clean_stage())
    with pytest.raises(InputError, match="label 5 is out of range"):
        probe([subject(Threshold(0.5))], x, y + 5, [parse_recipe("random-noise")])


def test_a_probe_that_cannot_be_had_of_the_second_model_is_refused_before_the_first_is_measured(images):
    def track(*_, **__):
        raise AssertionError("the images were begun")

    few = nn.Sequential(nn.Flatten(), nn.Linear(images[0][0].numel(), int(images[1].max())))
    with pytest.raises(InputError, match="returns 1 output"):
        probe({"enough": Threshold(0.5), "few": few}, *images, [parse_recipe("random-noise,t=0.5")], track=track)
    with pytest.raises(InputError, match="is more than the"):
        probe([subject(Threshold(0.5))], *images, [parse_recipe("random-noise-few"), parse_recipe("random-noise,k=100000")], track=track)
