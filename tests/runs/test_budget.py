"""Runs that stop early, by --until or --budget: blocks go through all stages, all resumes count, verdicts are those of a whole run."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from commandline import read, refused, robench
from places import CHECKPOINT
from torch import nn

from robench.core.decoding import DamagedImageError
from robench.core.errors import InputError, UnfinishedError
from robench.core.recipes import parse_recipe
from robench.core.rows import blank_row
from robench.core.threat import Threat
from robench.data import Images
from robench.evaluation.plans import RunRequest, stages_of
from robench.runs import execution as measure
from robench.runs.execution import execute
from robench.runs.pools import pool_of_images
from robench.runs.types import RunOptions, Subject

LINF = (Threat("linf", 0.05),)


class Clocked(nn.Module):
    """A linear model by whose images a clock goes on: one second an image and pass, once all is made ready."""

    clock, on = 0.0, False

    def __init__(self, p, each=1.0):
        super().__init__()
        self.inner, self.each, self.limit = p.model, each, math.inf

    def forward(self, x):
        Clocked.clock += self.each * len(x) * Clocked.on
        if Clocked.clock > self.limit:
            raise KeyboardInterrupt
        return self.inner(x)


@pytest.fixture
def run(problem, monkeypatch):
    """run(budget, folder, ...) -> what was measured of a linear model on 60 images, with a clock that goes by its passes."""
    p = problem("linear", n=60)
    images = Images("toy", "test", p.x, p.y, torch.arange(60) + 100, tuple("abcde"))
    monkeypatch.setattr(measure, "now", lambda: Clocked.clock)
    in_blocks = measure.run_in_blocks

    def timed(*words):
        Clocked.on = True
        try:
            return in_blocks(*words)
        finally:
            Clocked.on = False

    monkeypatch.setattr(measure, "run_in_blocks", timed)

    def run(*, budget=None, folder=None, resume=False, chosen=("fgsm", "random-noise,t=0.3"), batch=16, limit=math.inf, until=None,
            threats=LINF, models=1, seed=0, damaged=()):  # fmt: skip
        how = RunOptions(seed, batch, budget=budget, folder=folder, resume=resume, until=until)
        asked = RunRequest([parse_recipe(one) for one in chosen], threats)
        subjects = []
        for number in range(models):
            model = Clocked(p)
            model.limit = Clocked.clock + limit
            subjects.append(Subject(model, blank_row().__class__(**{**vars(blank_row()), "checkpoint": f"m{number}"})))
        return execute(subjects, pool_without(pool_of_images(images), damaged), stages_of(asked, images, how), how)

    return run


def pool_without(pool, damaged):
    """A pool in which the images at some places cannot be read, and are left out."""

    def pixels(places):
        if reasons := {row: f"image {place}" for row, place in enumerate(places.tolist()) if place in damaged}:
            raise DamagedImageError("damaged", reasons)
        return pool.pixels(places)

    return replace(pool, pixels=pixels, skips_damaged=True) if damaged else pool


def verdicts(found):
    """What became of each image that was seen, stage by stage."""
    seen = found.ledger.seen
    return [
        (stage.key, name, values[seen].tolist())
        for case in found.cases
        for stage in found.stages
        for record in found.ledger.levels(case.name, stage).values()
        for name, values in record.columns.items()
        if name in ("fell", "pred")
    ]


def within(whole, part):
    """Asserts that the images that were seen have the verdicts of a run on all."""
    assert verdicts(part) == [(key, name, values) for key, name, values in verdicts(seen_as(whole, part))]


def seen_as(whole, part):
    whole.ledger.seen = part.ledger.seen.clone()
    return whole


def test_a_budget_stops_between_blocks_with_all_stages_on_the_same_images(run):
    part = run(budget=500.0)
    n = int(part.ledger.seen.sum())
    assert 5 < n < 60
    for stage in part.stages[:1]:
        assert int(part.ledger.is_done("m0", stage).sum()) == n
    for stage in part.stages:
        assert not bool((part.ledger.is_done("m0", stage) & ~part.ledger.seen).any())
    assert part.spent_seconds <= 500.0
    assert part.notes[0] == f"the budget ended after {n} of the 60 chosen images, which were drawn with the seed"
    within(run(), part)


def test_a_first_block_that_would_not_fit_is_made_smaller_and_said(run):
    part = run(budget=480.0, batch=60)
    n = int(part.ledger.seen.sum())
    assert 5 < n < 60
    assert part.notes[1] == f"a block of 60 images would not fit into the budget: the first one has {n}"


def test_a_budget_that_is_enough_changes_nothing(run):
    part = run(budget=1e6)
    assert bool(part.ledger.seen.all())
    assert not part.notes
    assert verdicts(part) == verdicts(run())


def test_a_budget_too_small_for_one_image_is_a_sentence_and_a_larger_one_goes_on(run, tmp_path):
    with pytest.raises(
        UnfinishedError, match=r"a budget of 0.5 s is too small: the first image was through after .* s: give more, with --resume"
    ):
        run(budget=0.5, folder=tmp_path)
    with pytest.raises(InputError, match="is too small"):
        run(budget=0.5, folder=tmp_path, resume=True)
    found = run(budget=1e6, folder=tmp_path, resume=True)
    assert verdicts(found) == verdicts(run())


@pytest.mark.parametrize("limit", [9, 120, 257, 300, 370])
def test_what_was_spent_before_a_kill_counts(run, tmp_path, limit):
    whole = run(budget=500.0)
    with pytest.raises(KeyboardInterrupt):
        run(budget=500.0, folder=tmp_path, limit=limit)
    part = run(budget=500.0, folder=tmp_path, resume=True)
    assert 0 < int(part.ledger.seen.sum()) <= int(whole.ledger.seen.sum())
    assert part.spent_seconds <= 500.0 + 128  # a block that was begun is ended
    for stage in part.stages:
        assert not bool((part.ledger.is_done("m0", stage) & ~part.ledger.seen).any())
    within(run(), part)


def test_the_same_budget_is_spent_and_a_larger_one_or_none_goes_on(run, tmp_path):
    n = int(run(budget=400.0, folder=tmp_path).ledger.seen.sum())
    before = Clocked.clock
    again = run(budget=400.0, folder=tmp_path, resume=True)
    assert int(again.ledger.seen.sum()) == n
    assert Clocked.clock == before
    more = run(budget=600.0, folder=tmp_path, resume=True)
    assert n < int(more.ledger.seen.sum()) < 60
    assert verdicts(run(folder=tmp_path, resume=True)) == verdicts(run())


def test_a_run_without_a_budget_is_not_taken_up_with_one(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path, limit=200)
    with pytest.raises(InputError, match="its budget is false, here it is true"):
        run(folder=tmp_path, resume=True, budget=50.0)


def test_stages_on_the_images_of_others_stop_with_them(run, tmp_path):
    chosen = ("fgsm on random-noise,t=0.2", "saliency", "saliency on fgsm")
    part = run(budget=400.0, chosen=chosen, folder=tmp_path)
    n = int(part.ledger.seen.sum())
    assert 0 < n < 60
    more = run(budget=900.0, chosen=chosen, folder=tmp_path, resume=True)  # the images of the first run are gone, and not asked for
    assert int(more.ledger.seen.sum()) > n
    within(run(chosen=chosen), more)


def test_until_waits_for_every_verdict_of_several_models_and_threats(run):
    threats = (Threat("linf", 0.02), Threat("l2", 0.05))
    chosen = ("fgsm", "random-noise,t=0.1", "saliency")
    part = run(chosen=chosen, until=0.12, threats=threats, models=2)
    n = int(part.ledger.seen.sum())
    assert 0 < n < 60
    for case in part.cases:
        for stage in part.stages_of_kind("attack"):
            left = int((part.ledger.right(case.name, stage) & part.ledger.seen).sum())
            low, high = part.interval.bounds(left, n)
            assert (high - low) / 2 <= 0.12
    within(run(chosen=chosen, threats=threats, models=2), part)


def test_images_that_are_left_out_have_not_fallen_where_a_run_stops_at_a_narrow_interval(run):
    easy, until, damaged = (Threat("linf", 1e-6),), 0.1, range(0, 60, 3)
    part = run(chosen=("fgsm",), until=until, threats=easy, damaged=damaged, batch=5)
    (attack,) = part.stages_of_kind("attack")
    n, chosen = int(part.ledger.seen.sum()), 60 - len(part.ledger.skipped)
    left = int((part.ledger.right("m0", attack) & part.ledger.seen).sum())
    assert left == n < 40
    assert part.interval.name == f"anytime, of {chosen} images"
    assert (1 - part.interval.bounds(left, n)[0]) / 2 <= until
    assert (1 - part.interval.bounds(left - 5, n - 5)[0]) / 2 > until  # a block of five less would not do
    seen = n + len(part.ledger.skipped)
    assert part.notes[-2].startswith(f"{len(part.ledger.skipped)} of the {seen} chosen images cannot be read")
    assert part.notes[-1].startswith(f"the intervals speak of the {chosen} chosen images that can be read alone, of which {n} were seen")


def test_where_all_that_can_be_read_are_seen_the_interval_is_a_point(run):
    part = run(chosen=("fgsm",), until=1e-4, damaged=range(7), batch=20)
    (attack,) = part.stages_of_kind("attack")
    left = int((part.ledger.right("m0", attack) & part.ledger.seen).sum())
    assert part.interval.bounds(left, 53) == pytest.approx((left / 53, left / 53))
    assert int(part.ledger.seen.sum()) == 53


@pytest.mark.parametrize(
    ("words", "few", "more"),
    [
        (["corrupt", "--corruption", "fog", "--severity", "1,3"], "25s", "60s"),
        (["saliency", "--score", "gini", "--against", "fgsm", "--eps", "16/255"], "25s", "60s"),
        (["attack", "--attack", "random-noise,t=0.1"], "14s", "21s"),
    ],
)
def test_each_command_ends_with_its_budget_says_so_and_goes_on(words, few, more, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "now", map(float, itertools.count()).__next__)
    call = [words[0], CHECKPOINT, *words[1:], "--n", 40, "--batch-size", 8, "--threads", 1]
    first = robench(*call, "--out", tmp_path / "out", "--budget", few)
    assert "Note: the budget ended after" in first.stderr
    samples = read(tmp_path / "out" / "samples.csv")
    assert "The budget is spent" in robench(*call, "--out", tmp_path / "out", "--budget", few, "--resume").stderr
    assert read(tmp_path / "out" / "samples.csv") == samples
    assert "budget was" in refused(*call, "--out", tmp_path / "out", "--budget", "5s", "--resume")
    robench(*call, "--out", tmp_path / "out", "--budget", more, "--resume")
    assert len(read(tmp_path / "out" / "samples.csv")) > len(samples)
    robench(*call, "--out", tmp_path / "out", "--resume")
    robench(*call, "--out", tmp_path / "whole", "--batch-size", 40)
    columns = {"gini", "clean_margin", "share", "fooled"}
    lines = [[{key: cell for key, cell in line.items() if key not in columns} for line in read(tmp_path / name / "samples.csv")]
             for name in ("out", "whole")]  # fmt: skip
    assert lines[0] == lines[1]
    assert "spent" not in robench(*call, "--out", tmp_path / "whole", "--resume").stderr
