"""Accuracy class by class: the rows against counts by hand, the interval of the worst class against its promise, and confusions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robench import attack, corrupt, evaluate
from robench.core.errors import InputError
from robench.core.rows import CLASS_METRICS, Row, blank_row, wilson
from robench.report.tables import setting_words
from robench.results.classes import Confusion, Verdict, class_rows, exact_bounds, read_confusions, verdict_confusions, worst_class_row
from robench.results.files import save_tables

ABOUT = replace(blank_row(), checkpoint="a.pt", norm="linf", eps=0.03, probe="smoke", setting="steps=3", n=6)


def verdict(right, y, **more):
    """A verdict on images that all count."""
    y = torch.tensor(y)
    return Verdict(ABOUT, torch.tensor(right, dtype=torch.float64), torch.ones(len(y), dtype=torch.bool), y, **more)


def worst_of(right, y):
    """The row of the worst class."""
    return worst_class_row(verdict(right, y))


def linear_model():
    """A model of three classes that looks at the first three subpixels alone."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(4 * torch.eye(3, 12))
    return net.eval()


def pictures(n=30):
    """Images whose label is the largest of their first three subpixels, by a margin that differs from image to image."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, 2, 2, generator=generator) * 0.5 + 0.2
    return x, x.flatten(1)[:, :3].argmax(1)


# rows


def test_each_class_with_an_image_gets_a_row_and_the_worst_one_more():
    rows = list(class_rows(verdict([1, 0, 1, 1, 0, 0], [0, 0, 2, 2, 2, 5])))
    assert [(row.metric, row.setting, row.n, row.value) for row in rows] == [
        ("class_accuracy", "steps=3 class=0", 2, 0.5), ("class_accuracy", "steps=3 class=2", 3, 2 / 3),
        ("class_accuracy", "steps=3 class=5", 1, 0.0), ("worst_class_accuracy", "steps=3 class=5", 1, 0.0),
    ]  # fmt: skip
    assert (rows[1].low, rows[1].high) == wilson(2, 3)
    assert {(row.checkpoint, row.norm, row.eps, row.probe) for row in rows} == {("a.pt", "linf", 0.03, "smoke")}
    assert [row.interval for row in rows] == ["wilson"] * 3 + ["exact, all classes"]


def test_images_that_were_not_seen_do_not_count():
    seen = torch.tensor([True, True, False, False])
    one = replace(verdict([1, 0, 1, 1], [0, 1, 1, 2]), seen=seen)
    assert one.counts == {0: (1.0, 1), 1: (0.0, 1)}
    assert one.chosen_counts == [1, 2, 1]


def test_of_classes_that_are_equally_bad_the_lowest_label_is_named():
    assert worst_of([0, 0, 1], [4, 2, 1]).setting.endswith("class=2")


def test_nothing_was_seen_and_there_are_no_rows():
    nothing = replace(verdict([1, 0], [0, 1]), seen=torch.zeros(2, dtype=torch.bool))
    assert list(class_rows(nothing)) == []
    assert verdict_confusions(replace(nothing, predicted=torch.tensor([0, 1]))) == []


def test_a_run_that_stops_early_has_intervals_that_hold_whenever_it_stops():
    one = verdict([1, 0, 1, 1], [0, 0, 1, 1], stops_early=True)
    first, second, worst = class_rows(one)
    assert (first.interval, first.low, first.high) == ("anytime, of 2 images", 0.5, 0.5)  # all are seen: a point
    assert (worst.interval, worst.value, worst.low, worst.high) == ("anytime, all classes", 0.5, 0.5, 0.5)
    assert (second.value, second.low, second.high) == (1.0, 1.0, 1.0)
    own, _, lowest = class_rows(replace(one, seen=torch.tensor([True, False, True, False])))
    assert (own.low, own.high, lowest.low, lowest.high) == (0.5, 1.0, 0.5, 1.0)  # one of two was right: at least half of them are


# the interval of the worst class


@pytest.mark.parametrize(("successes", "n", "low", "high"), [
    (0, 10, 0.0, 1 - 0.025 ** (1 / 10)), (10, 10, 0.025 ** (1 / 10), 1.0), (1, 1, 0.025, 1.0), (8, 10, 0.4439, 0.9748),
    (5, 50, 0.0333, 0.2181),
])  # fmt: skip
def test_exact_bounds_are_the_closed_forms_and_the_published_ones(successes, n, low, high):
    assert exact_bounds(successes, n, 0.05) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 120), st.data())
def test_exact_bounds_hold_the_share_and_mirror_each_other(n, data):
    k = data.draw(st.integers(0, n))
    low, high = exact_bounds(k, n, 0.01)
    assert 0 <= low <= k / n <= high <= 1
    mirrored = exact_bounds(n - k, n, 0.01)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)
    tail = sum(math.comb(n, j) * low**j * (1 - low) ** (n - j) for j in range(k, n + 1)) if n < 60 and k else 0.005
    assert tail == pytest.approx(0.005, rel=1e-6)


def test_a_mean_over_versions_of_an_image_gets_the_whole_numbers_around_it():
    low, high = exact_bounds(3.4, 10, 0.05)
    assert (low, high) == (exact_bounds(3, 10, 0.05)[0], exact_bounds(4, 10, 0.05)[1])


@pytest.mark.parametrize(("accuracies", "n"), [
    ([0.5] * 10, 20), ([0.9] * 10, 50), ([0.99] * 10, 6), ([0.8] * 9 + [0.4], 30), ([0.95] * 99 + [0.6], 12), ([0.02] * 4, 9),
])  # fmt: skip
def test_the_interval_of_the_worst_class_holds_the_lowest_true_accuracy(accuracies, n):
    rng, runs = np.random.default_rng(1), 200
    y, lowest, held, own = np.repeat(np.arange(len(accuracies)), n).tolist(), min(accuracies), 0, 0
    for _ in range(runs):
        row = worst_of((rng.random(len(y)) < np.repeat(accuracies, n)).astype(float).tolist(), y)
        held += row.low <= lowest <= row.high
        low, high = wilson(row.value * row.n, row.n)
        own += low <= lowest <= high
    assert held / runs >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / runs)
    if accuracies in ([0.99] * 10, [0.5] * 10):
        assert own / runs < 0.9  # the worst class's own interval, as if it had not been chosen, does not


def test_wilson_ends_would_miss_where_few_images_are_nearly_all_right():
    """Why the ends are exact ones: at 1 - 0.05 / 10, one lost image of six in any of ten classes of 99 % puts Wilson's upper end below."""
    assert wilson(5, 6, z=2.807)[1] < 0.99 < exact_bounds(5, 6, 0.005)[1]
    assert 1 - 0.99**60 > 0.45


# runs


def test_the_rows_of_a_run_are_the_accuracies_of_its_samples_class_by_class():
    x, y = pictures()
    found = evaluate(linear_model(), x, y, suite=["fgsm", "pgd,steps=3"], eps=[0.02, 0.1])
    for eps in (0.0, 0.02, 0.1):
        probe = "clean" if not eps else "pgd"
        rows = {
            setting_words(row)["class"]: row for row in found.rows if (row.metric, row.eps, row.probe) == ("class_accuracy", eps, probe)
        }
        for label in map(int, y.unique()):
            mine = [one for one in found.samples if one.label == label]
            stand = [one for one in mine if not one.broken_by or (one.broken_by != "clean" and one.eps > eps)]
            assert (rows[str(label)].n, rows[str(label)].value) == (len(mine), pytest.approx(len(stand) / len(mine)))
        whole = next(row for row in found.rows if (row.metric, row.eps, row.probe) == ("accuracy", eps, probe))
        assert sum(row.value * row.n for row in rows.values()) == pytest.approx(whole.value * whole.n)
    assert found.rows[-1].metric in CLASS_METRICS  # behind all others


def test_confusions_are_the_labels_of_the_samples():
    x, y = pictures()
    found = attack(linear_model(), x, y, "pgd,steps=3", eps=0.05)
    attacked = [(cell.label, cell.predicted) for cell in found.confusions if cell.norm for _ in range(cell.count)]
    assert sorted(attacked) == sorted((one.label, one.adv_pred) for one in found.samples)
    clean = [cell for cell in found.confusions if not cell.norm]
    assert all(cell.label == cell.predicted and cell.probe == "clean" for cell in clean)
    assert sum(cell.count for cell in clean) == len(y)
    assert any(label != predicted for label, predicted in attacked)


def test_at_a_smaller_radius_an_image_that_falls_at_a_larger_one_has_its_clean_label():
    x, y = pictures()
    both = attack(linear_model(), x, y, "fgsm", eps=[0.02, 0.1])
    small = attack(linear_model(), x, y, "fgsm", eps=0.02)
    at = {eps: [cell for cell in both.confusions if cell.eps == eps] for eps in (0.02, 0.1)}
    assert at[0.02] == [cell for cell in small.confusions if cell.eps == 0.02]
    assert sum(cell.count for cell in at[0.1] if cell.label != cell.predicted) > sum(
        cell.count for cell in at[0.02] if cell.label != cell.predicted
    )


def test_under_several_threats_each_norm_and_the_worst_of_them_have_classes():
    x, y = pictures()
    found = evaluate(linear_model(), x, y, suite=["fgsm"], threats=["linf:0.05", "l2:0.1"])
    groups = {row.norm: [] for row in found.rows if row.metric == "class_accuracy"}
    for row in found.rows:
        if row.metric == "class_accuracy":
            groups[row.norm].append(row.value)
    assert set(groups) == {"", "linf", "l2", "worst"}
    assert all(worst <= min(linf, l2) for worst, linf, l2 in zip(groups["worst"], groups["linf"], groups["l2"], strict=True))
    assert {cell.norm for cell in found.confusions} == {"", "linf", "l2"}


def test_under_corruptions_a_class_has_the_mean_over_severities_and_corruptions():
    x, y = pictures(24)
    x = x.repeat_interleave(4, 2).repeat_interleave(4, 3)
    found = corrupt(linear_on_means(), x, y, ["gaussian_noise", "contrast"], [1, 5])
    cells = {name: [] for name in ("gaussian_noise", "contrast")}
    table = found.tables["samples"]
    for label in map(int, y.unique()):
        for name, shares in cells.items():
            places = [k for k in range(len(table["label"])) if table["label"][k] == label and table["probe"][k] == name]
            right = [sum(table[f"pred_{severity}"][k] == label for severity in (1, 5)) / 2 for k in places]
            shares.append(sum(right) / len(right))
    rows = [row for row in found.rows if (row.metric, row.probe) == ("class_accuracy", "corruptions")]
    assert [row.value for row in rows] == pytest.approx([(a + b) / 2 for a, b in zip(*cells.values(), strict=True)])
    overall = next(row for row in found.rows if row.metric == "mean_accuracy" and row.probe == "corruptions")
    assert sum(row.value * row.n for row in rows) / len(y) == pytest.approx(overall.value)
    assert {row.setting.rpartition(" ")[0] for row in rows} == {overall.setting}
    assert {row.probe for row in found.rows if row.metric == "class_accuracy"} == {"clean", "corruptions"}


def linear_on_means():
    """As `linear_model`, for images that are four times as large."""
    return nn.Sequential(nn.AvgPool2d(4), linear_model()).eval()


# files


def test_confusions_are_read_as_they_were_written(tmp_path):
    cells = [Confusion("=a.pt", "linf", 8 / 255, "smoke", 3, -1, 7), Confusion("b, c.pt", "", 0.0, "clean", 0, 0, 1)]
    save_tables(tmp_path, [], [], {}, confusion=cells)
    assert read_confusions(tmp_path) == cells
    (tmp_path / "confusion.csv").write_text("checkpoint,label\na,b\n")
    with pytest.raises(InputError, match="measure again"):
        read_confusions(tmp_path)
    (tmp_path / "confusion.csv").write_text("checkpoint,norm,eps,probe,label,predicted,count\na,,0.0,clean,1,1,12")
    with pytest.raises(InputError, match="cut short"):
        read_confusions(tmp_path)
    (tmp_path / "confusion.csv").unlink()
    assert read_confusions(tmp_path) == []


def test_rows_of_classes_are_rows_as_all_others():
    assert all(isinstance(row, Row) and row.low <= row.value <= row.high for row in class_rows(verdict([1, 0, 1], [0, 1, 1])))
