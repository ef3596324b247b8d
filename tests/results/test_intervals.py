"""What an interval says and of whom: few images have no bootstrap and no correlation, every interval is named, every group has its n."""

import csv
import math
from dataclasses import replace

import pytest

from robench import evaluate
from robench.core.recipes import parse_recipe
from robench.core.rows import WILSON, Row, with_interval
from robench.core.saved_results import load_results
from robench.core.statistics import LEAST_VALUES, bootstrap_interval, difference_of_means, spearman
from robench.results.corruption_errors import degradation_rows as degraded
from robench.results.files import save_tables

ABOUT = Row("net", "", "toy", "test", 0, 0, "", 0.0, "", "", "", 0.0)
TEN = [float(value) for value in range(10)]


def test_nine_values_have_no_bootstrap_interval_and_no_correlation_and_ten_have():
    assert LEAST_VALUES == 10
    assert all(map(math.isnan, bootstrap_interval(TEN[:9], 0)))
    assert all(map(math.isnan, spearman(TEN[:9], TEN[:9])))
    difference, low, high = difference_of_means(TEN, TEN[:9], 0)
    assert difference == 0.5
    assert math.isnan(low)
    assert math.isnan(high)
    assert bootstrap_interval(TEN, 0)[0] < 4.5 < bootstrap_interval(TEN, 0)[1]
    assert spearman(TEN, TEN)[0] == 1
    assert not math.isnan(difference_of_means(TEN, TEN, 0)[1])


@pytest.mark.parametrize(("n", "names"), [(9, {"wilson", ""}), (10, {"wilson", "bootstrap"})])
def test_corruption_means_of_few_images_have_wilsons_interval_or_none(n, names):
    right = [float(place % 2) for place in range(n)]
    rows = degraded(ABOUT, [1.0] * (n - 1) + [0.0], {("fog", 1): right, ("fog", 2): right[::-1]})
    assert {row.interval for row in rows} == names
    assert all(math.isnan(row.low) == (row.interval == "") for row in rows)
    assert all(row.low <= row.value <= row.high for row in rows if row.interval)


def test_the_rows_say_how_their_interval_was_found(problem):
    p = problem("linear", n=120)
    words = {"suite": [parse_recipe("fgsm")], "eps": float(p.distances("linf").quantile(0.2))}
    found = evaluate(p.model, p.x, p.y, **words)
    assert {row.interval for row in found.rows if row.metric in ("accuracy", "success_rate")} == {"wilson"}
    assert {row.interval for row in found.rows if row.metric in ("seconds", "forwards")} == {""}
    stopped = evaluate(p.model, p.x, p.y, until=0.2, batch_size=30, **words)
    assert {row.interval for row in stopped.rows if row.metric == "accuracy"} == {"anytime, of 120 images"}
    assert f"speak of the 120 chosen images alone, of which {len(stopped.samples)} were seen" in stopped.notes[-1]


def test_an_interval_that_is_not_there_has_no_name():
    assert with_interval(ABOUT, 1.0, math.nan, math.nan, "bootstrap").interval == ""
    assert WILSON.row_with(ABOUT, 3, 10).interval == "wilson"


def test_compare_reads_rows_that_were_written_before_intervals_had_names(problem, tmp_path):
    p = problem("linear", n=20)
    found = evaluate(p.model, p.x, p.y, suite=[parse_recipe("fgsm")], eps=float(p.distances("linf").median()))
    about = {"data": {"name": "toy", "split": "test", "n": 20, "sha256": "0"}, "checkpoint": {"sha256": "1"}, "flags": []}
    save_tables(tmp_path, found.rows, found.samples, about)
    new = load_results(tmp_path)
    with (tmp_path / "rows.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    place = head.index("interval")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[cell for column, cell in enumerate(line) if column != place] for line in (head, *lines)])
    assert load_results(tmp_path) == new


def test_a_training_tells_the_clean_accuracy_of_the_images_that_were_attacked():
    from robench.training.final_measurement import CLEAN_ATTACKED
    from robench.training.train import train

    words = {"n_train": 700, "held_out": 0.2, "epochs": 1, "suite": [parse_recipe("fgsm")]}
    metrics = train("shapes", eval_n=40, **words).meta["metrics"]
    assert [(probe, found["n"]) for probe, found in metrics.items()][1:] == [(CLEAN_ATTACKED, 40), ("fgsm", 40)]
    assert metrics["clean"]["n"] > 40
    assert metrics["fgsm"]["accuracy"] <= metrics[CLEAN_ATTACKED]["accuracy"]


def test_the_table_of_an_audit_has_n_in_every_cell():
    from robench.report.tables import score_lines

    rows = [replace(ABOUT, metric="accuracy", value=1.0, n=20)] + [
        replace(ABOUT, probe=probe, metric="randomisation", value=0.25, n=n) for probe, n in (("saliency", 20), ("occlusion", 5))
    ]
    lines = [*score_lines(rows, [ABOUT.checkpoint], lambda row: row.metric == "randomisation", brief=True)]
    assert lines == [("saliency", "randomisation", "0.25, n = 20"), ("occlusion", "randomisation", "0.25, n = 5")]
