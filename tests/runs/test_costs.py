"""Costs of a run: sums in chunks, what a budget is enough for, and the plan against a run by a clock that the test moves."""

import itertools

import pytest
import torch
from places import CHECKPOINT
from torch import nn

import robench
from robench.attacks import ATTACKS
from robench.attacks.reference import REFERENCE_ATTACKS
from robench.core.threat import Threat
from robench.data import load_images
from robench.data.files import png_bytes
from robench.evaluation.sequence_sources import SequenceSource
from robench.report.cost_tables import duration_text
from robench.runs import blocks, execution, timings
from robench.runs.blocks import filled_up_rows, fitting_block
from robench.runs.costs import RunCosts, StageCost
from robench.runs.timings import SizeTimes, times_by_size, watch_memory


def linear(seconds_an_image, fixed=0.0):
    return SizeTimes(((1, fixed + seconds_an_image), (2, fixed + 2 * seconds_an_image)))


def test_seconds_between_and_beyond_the_sizes_that_were_timed():
    times = SizeTimes(((4, 1.0), (16, 2.0), (64, 8.0)))
    assert [times.seconds(size) for size in (4, 10, 16, 64, 160)] == pytest.approx([1, 1.5, 2, 8, 20])
    assert SizeTimes(((8, 2.0),)).seconds(20) == 5
    assert SizeTimes(((4, 2.0), (8, 1.9))).seconds(80) == pytest.approx(19), "noise does not make a larger batch free"


def test_a_stage_is_the_sum_of_its_chunks():
    stage = StageCost("m", "attack", "a", times=linear(2.0, fixed=1.0), likely_share=0.5)
    assert stage.seconds(25, 10) == pytest.approx(2 * 21 + 11)
    assert stage.seconds(25, 10, likely=True) == pytest.approx(21 + 6)
    costs = RunCosts([stage, StageCost("m", "attack", "unknown")], 25, 10, "cpu", fixed_seconds=3.0)
    assert (costs.seconds, costs.unknown) == (pytest.approx(56), ["unknown"])
    assert RunCosts([stage], 25, 10, "cpu", processes=2).seconds == pytest.approx(21 + 7)


@pytest.mark.parametrize("budget", [5.0, 30.0, 47.0, 90.0, 1000.0])
def test_the_images_within_a_budget_are_those_that_a_run_with_it_sees(budget, monkeypatch):
    class Clocked(nn.Module):
        clock = 0.0

        def forward(self, x):
            Clocked.clock += len(x) * Clocked.rate
            return x.flatten(1)[:, :2]

    monkeypatch.setattr(execution, "now", lambda: Clocked.clock)
    monkeypatch.setattr(blocks, "RAMP", blocks.RAMP)
    Clocked.rate = 0.0
    x = torch.rand(100, 1, 4, 4)
    real_block = blocks.run_block

    def on_the_clock(run, places):  # 0.6 s an image and 0.2 s a block
        real_block(run, places)
        Clocked.clock += 0.2 + 0.6 * len(places)

    monkeypatch.setattr(blocks, "run_block", on_the_clock)
    found = robench.evaluate(Clocked(), x, torch.zeros(100, dtype=torch.int64), suite=["noise"], batch_size=16, budget=budget)
    seen = int(found.run.ledger.seen.sum())
    stage = StageCost("m", "attack", "noise", times=linear(0.6, fixed=0.2))
    assert RunCosts([stage], 100, 16, "cpu", filled_up=16).images_within(budget) == seen


def test_blocks_below_the_rows_that_calls_are_filled_up_to_are_expected_to_take_no_longer():
    assert fitting_block(1, 10.0, 12.0, most=4, least=1) == 1, "four images would take four times as long"
    assert fitting_block(1, 10.0, 12.0, most=4, least=16) == 4
    assert fitting_block(4, 10.0, 20.0, most=40, least=16) == 29
    assert fitting_block(4, 10.0, 10.5, most=3, least=16) == 0, "a tenth more is asked for"
    filled = StageCost("m", "attack", "a", times=SizeTimes(((1, 40.0), (16, 40.0), (32, 80.0))))
    assert (
        RunCosts([filled], 20, 32, "cpu").images_within(130.0) < RunCosts([filled], 20, 32, "cpu", filled_up=16).images_within(130.0) == 20
    )


def test_an_attack_that_makes_its_own_calls_is_not_filled_up():
    class Planned:
        kind = "attack"

        def __init__(self, attack):
            self.about = {"attack": attack}

    small, large = (3, 32, 32), (3, 224, 224)
    assert filled_up_rows([Planned(ATTACKS["pgd-10"])], [small]) == 16
    assert filled_up_rows([Planned(ATTACKS["pgd-10"])], [small, large]) == 4
    assert filled_up_rows([Planned(ATTACKS["pgd-10"]), Planned(lambda model, x: x)], [small]) == 1
    assert filled_up_rows([Planned(next(iter(REFERENCE_ATTACKS.values())))], [small]) == 1


def test_an_hour_is_called_one():
    assert [duration_text(seconds) for seconds in (3599.0, 3600.0, 5000.0)] == ["1.0 h", "1.0 h", "1.4 h"]
    assert duration_text(3590.0) == "59.8 min"


def test_a_budget_that_the_first_image_takes_is_enough_for_none():
    stage = StageCost("m", "attack", "a", times=linear(5.0))
    assert RunCosts([stage], 9, 4, "cpu").images_within(4.0) == 0


def test_times_are_taken_at_growing_sizes_until_the_next_would_take_too_long(monkeypatch):
    clock = itertools.count()
    asked = []
    monkeypatch.setattr(timings, "elapsed_seconds", lambda call, device: (call(), next(clock))[0] or 0.1 * asked[-1])
    times = times_by_size(asked.append, 1000, "cpu", limit=5.0)
    assert [size for size, _ in times.points] == [1, 4, 16]
    assert times.seconds(1000) == pytest.approx(100)


def test_memory_that_is_held_meanwhile_is_seen():
    with watch_memory("cpu") as peak:
        block = torch.ones(64 << 20, dtype=torch.uint8)
        del block
    assert 60 << 20 < peak.grown < 128 << 20


def test_what_is_likely_follows_who_falls_and_the_most_does_not():
    images, model = load_images("shapes", "test", n=40), robench.load_model(CHECKPOINT)
    weak, strong = (robench.plan_costs(robench.evaluate, model, images, suite=["pgd-20", "pgd-50"], eps=eps) for eps in (1e-7, "64/255"))
    first, later = (stage for stage in strong.stages if stage.kind == "attack")
    assert later.likely_share == 0 < first.likely_share < 0.6 < first.share == later.share == 1
    assert all(stage.likely_share == 1 for stage in weak.stages if stage.kind == "attack")
    assert strong.likely_seconds < strong.seconds


def test_radii_threats_and_models_have_costs_of_their_own_and_the_same_work_is_counted_once():
    images, model = load_images("shapes", "test", n=6), robench.load_model(CHECKPOINT)
    costs = robench.plan_costs(
        robench.evaluate, {"a": model, "b": robench.load_model(CHECKPOINT)}, images, suite=["fgsm", "fog,severity=2"],
        threats=["linf:1/255", "linf:2/255", "l2:0.1"],
    )  # fmt: skip
    attacks = [(stage.subject, stage.threat) for stage in costs.stages if stage.kind == "attack"]
    threats = [Threat("linf", 1 / 255), Threat("linf", 2 / 255), Threat("l2", 0.1)]
    assert sorted(attacks, key=str) == sorted(itertools.product(("a", "b"), threats), key=str)
    assert [stage.share for stage in costs.stages if stage.kind == "making"] == [1]


def test_only_measurements_are_planned():
    with pytest.raises(robench.InputError, match="only measurements"):
        robench.plan_costs(robench.gini, [[1.0]])


def test_sequences_cost_a_pass_for_each_of_their_frames():
    def frames(perturbation, difficulty, places):
        return torch.zeros(len(places), 7, 3, 4, 4, dtype=torch.uint8)

    ids, cells = torch.arange(5), (("tilt", 1),)
    source = SequenceSource("folder:toy-p", "test", ids, ids, tuple("abcde"), cells, {cells[0]: 7}, "", frames, {"images": "x"})
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    costs = robench.plan_costs(robench.corrupt, model, source)
    (stage,) = [stage for stage in costs.stages if stage.kind == "sequence"]
    assert stage.passes == (7, 0)
    assert costs.n == 5


def folder_of_pictures(folder, damaged=(), **more):
    """The images of a folder of 12 pictures, which stay on the disk."""
    for place in range(12):
        path = folder / "test" / "ab"[place // 6] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = png_bytes(torch.rand((3, 8, 8), generator=torch.Generator().manual_seed(place)))
        path.write_bytes(whole[: len(whole) // 2] if place in damaged else whole)
    return load_images(f"folder:{folder}", "test", pixels="disk", workers=0, **more)


def test_reading_images_from_the_disk_has_a_cost_for_each_stage_that_reads_them(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    costs = robench.plan_costs(robench.evaluate, model, folder_of_pictures(tmp_path), suite=["fgsm", "noise", "fog,severity=1"])
    (reading,) = [stage for stage in costs.stages if stage.kind == "reading"]
    assert reading.share == 3, "the clean pass and two attacks; the corruption is timed with its reading"
    assert costs.stage_seconds(reading) > 0


def test_a_damaged_image_is_refused_or_passed_over_as_the_run_would(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(robench.InputError, match=r"9\.png"):
        robench.plan_costs(robench.evaluate, model, folder_of_pictures(tmp_path, damaged={9}), suite=["fgsm"])
    images = folder_of_pictures(tmp_path, damaged={9}, skip_damaged=True)
    costs = robench.plan_costs(robench.evaluate, model, images, suite=["fgsm"])
    assert costs.n == 12
    assert not costs.unknown
