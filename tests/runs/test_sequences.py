"""Sequences: which frames are compared, flips at known frames, the distance of the five likeliest labels against its definition."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import nn

import robench
from robench.core.errors import InputError
from robench.core.perturbation_names import LISTS_OF_TEN, PERTURBATIONS, TEN
from robench.evaluation.sequence_sources import SequenceSource
from robench.runs.stages.sequence import compared_frames, top5_distances

CLASSES = 10


class ByBrightness(nn.Module):
    """The label is the first pixel in tenths, so that frames say which label they get; the order of the others follows from it."""

    def forward(self, x):
        level = (x[:, 0, 0, 0] * 255).round()
        return -((level[:, None] - torch.arange(CLASSES)).abs() + 1e-3 * torch.arange(CLASSES))


def source_of(**labels):
    """Sequences whose frames have these labels: name -> (N, T)."""
    tables = {name: torch.as_tensor(table) for name, table in labels.items()}

    def frames(perturbation, difficulty, places):
        chosen = tables[perturbation if f"{perturbation}_{difficulty}" not in tables else f"{perturbation}_{difficulty}"][places]
        return chosen.to(torch.uint8)[:, :, None, None, None].expand(*chosen.shape, 3, 4, 4).clone()

    n = len(next(iter(tables.values())))
    cells = tuple((name, 1) for name in tables)
    ids, names = torch.arange(n), tuple(map(str, range(CLASSES)))
    lengths = {cell: tables[cell[0]].shape[1] for cell in cells}
    return SequenceSource("folder:toy-p", "test", ids % CLASSES, ids, names, cells, lengths, "", frames, {"images": "x"})


def values(result):
    return {(row.probe, row.metric): row.value for row in result.rows}


def test_the_names_and_lists_are_those_of_the_paper_and_of_the_authors_scripts():
    assert len(TEN) == 10
    assert len(PERTURBATIONS) == 14
    assert LISTS_OF_TEN["spatter"] == (
        "gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "spatter", "brightness", "translate", "rotate", "tilt", "scale",
    )  # fmt: skip


def test_noise_is_compared_with_the_first_frame_and_all_else_with_the_one_before():
    table = [[3, 4, 4, 4, 3], [5, 5, 5, 5, 5], [1, 2, 1, 2, 1], [7, 7, 8, 8, 8]]
    found = values(robench.corrupt(ByBrightness(), source_of(shot_noise=table, tilt=table)))
    assert found["shot_noise", "flip_probability"] == pytest.approx(np.mean([3 / 4, 0, 2 / 4, 3 / 4]))
    assert found["tilt", "flip_probability"] == pytest.approx(np.mean([2 / 4, 0, 1, 1 / 4]))
    assert found["sequences", "mean_flip_probability"] == pytest.approx((0.5 + 0.4375) / 2)


@pytest.mark.parametrize(("frames", "difficulty"), [*itertools.product((4, 7, 31), (1, 2, 3))])
def test_the_compared_frames_are_those_of_the_published_loop(frames, difficulty):
    """Its loop: of the frames i, i + d, i + 2 d, ... for i below d, each with the one before it."""
    pairs = {(j, j + difficulty) for start in range(difficulty) for j in list(range(start, frames, difficulty))[:-1]}
    base, other = compared_frames(frames, False, difficulty)
    assert set(zip(base.tolist(), other.tolist(), strict=True)) == pairs
    assert len(base) == len(pairs)
    base, other = compared_frames(frames, True, difficulty)
    assert (base.unique().tolist(), other.tolist()) == ([0], list(range(1, frames)))


def published_distance(before, after):
    """The sum over i of 1..5 and over j from min(i, sigma(i)) + 1 to max(i, sigma(i)) of 1 where 1 <= j - 1 <= 5 (1903.12261)."""
    ranks, others = (rankdata(-logits, method="ordinal").astype(int) for logits in (before, after))
    sigma = others[np.argsort(ranks)]
    return sum(1 <= j - 1 <= 5 for i in range(1, 6) for j in range(min(i, sigma[i - 1]) + 1, max(i, sigma[i - 1]) + 1))


@pytest.mark.parametrize("classes", [5, 6, 10, 1000])
def test_the_distance_of_the_five_likeliest_labels_is_that_of_the_paper(classes):
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(2, 40, classes)).round(1 if classes < 100 else 3)  # with equal ones among them
    found = top5_distances(*torch.from_numpy(logits))
    assert found.tolist() == [published_distance(*pair) for pair in zip(*logits, strict=True)]


def test_the_distance_is_nothing_for_the_same_order_and_fifteen_where_none_of_the_five_is_left():
    order = torch.arange(12.0).flip(0)
    assert int(top5_distances(order, 3 * order + 1)) == 0
    assert int(top5_distances(order, order.flip(0))) == 15
    assert int(top5_distances(order, order[[1, 0, *range(2, 12)]])) == 2


def test_ratios_by_a_reference_are_those_of_the_means_and_a_steady_reference_has_none():
    class Half(nn.Module):
        """Its label is half of the first pixel."""

        def forward(self, x):
            return -((x[:, 0, 0, 0] * 255 / 2).floor()[:, None] - torch.arange(CLASSES)).abs()

    rng = np.random.default_rng(0)
    tables = {name: rng.integers(0, 8, (30, 6)) for name in TEN}
    found = robench.corrupt(ByBrightness(), source_of(**tables), reference=Half())
    by = values(found)
    rates = []
    for name in TEN:
        assert by[name, "flip_rate"] == pytest.approx(by[name, "flip_probability"] / by[name, "reference_flip_probability"])
        base, other = compared_frames(6, "noise" in name, 1)
        assert by[name, "reference_flip_probability"] == pytest.approx((tables[name][:, base] // 2 != tables[name][:, other] // 2).mean())
        rates.append(by[name, "flip_rate"])
    assert by["sequences", "mfr"] == pytest.approx(np.mean(rates))
    assert by["sequences", "mt5d"] == pytest.approx(np.mean([by[name, "relative_top5_distance"] for name in TEN]))
    rows = {row.metric: row for row in found.rows if row.probe == "sequences"}
    assert rows["mfr"].low < rows["mfr"].value < rows["mfr"].high
    assert rows["mfr"].setting == "difficulty=1 perturbations=10 list=snow reference=reference"
    steady = robench.corrupt(ByBrightness(), source_of(tilt=tables["tilt"]), reference=lambda x: torch.eye(CLASSES)[0].expand(len(x), -1))
    assert math.isnan(values(steady)["tilt", "flip_rate"])
    assert any("no flip_rate of tilt" in note for note in steady.notes)
    assert ("sequences", "mfr") not in values(steady)  # which needs a complete list


def test_both_lists_of_ten_have_means_where_both_are_complete_and_a_part_has_one_over_all():
    rng = np.random.default_rng(1)
    tables = {name: rng.integers(0, 8, (12, 4)) for name in (*TEN, "spatter")}
    rows = [row for row in robench.corrupt(ByBrightness(), source_of(**tables)).rows if row.metric == "mean_flip_probability"]
    assert [row.setting for row in rows] == ["difficulty=1 perturbations=10 list=snow", "difficulty=1 perturbations=10 list=spatter"]
    assert rows[0].value != rows[1].value
    part = robench.corrupt(ByBrightness(), source_of(snow=tables["snow"], spatter=tables["spatter"]))
    assert [row.setting for row in part.rows if row.probe == "sequences"] == ["difficulty=1 perturbations=2 list=all"] * 2


def test_a_sequence_is_the_unit_of_the_interval():
    """Thirty frames of one sequence that all flip say no more than one sequence."""
    few = source_of(tilt=np.concatenate([np.zeros((9, 31), int), np.arange(31)[None] % 2]))
    row = next(row for row in robench.corrupt(ByBrightness(), few).rows if row.metric == "flip_probability")
    assert row.value == pytest.approx(0.1)
    assert row.n == 10
    assert row.high > 0.25  # as of 1 in 10, and not of 30 in 300


def test_a_model_of_four_outputs_has_flips_and_no_distance_and_several_models_share_the_frames():
    source, asked = source_of(tilt=np.arange(40).reshape(8, 5) % 4), []

    def counted(*cell, frames=source.frames):
        asked.append(len(cell[2]))
        return frames(*cell)

    object.__setattr__(source, "frames", counted)
    four = nn.Sequential(ByBrightness(), nn.Linear(CLASSES, 4))
    found = robench.corrupt({"ten": ByBrightness(), "four": four}, source, batch_size=20)
    metrics = {(row.checkpoint, row.metric) for row in found.rows}
    assert {("ten", "top5_distance"), ("four", "flip_probability")} <= metrics
    assert ("four", "top5_distance") not in metrics
    assert asked.count(4) == 2  # twenty frames at once are four sequences of five, read once for both models


def test_published_errors_of_alexnet_are_refused_and_say_what_to_do():
    with pytest.raises(InputError, match="tv/alexnet"):
        robench.corrupt(ByBrightness(), source_of(tilt=np.zeros((10, 4), int)), reference="alexnet")
