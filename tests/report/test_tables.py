"""The tables that follow from rows: what stands in which line, for one model and several, and what each number means."""

import csv
from dataclasses import replace

import pytest
from places import GOLDEN

from robench.core.rows import Row
from robench.report.metric_meanings import HIGHER, LOWER, METRICS, NEITHER, OWN_SCORE_MEANING, metric_key, metric_meaning
from robench.report.tables import report_tables, rows_by_kind
from robench.results.files import read_rows

SPACE = "\N{NO-BREAK SPACE}"
ABOUT = Row("a.pt", "", "shapes", "test", 40, 0, "", 0.0, "", "", "", 0.0)


def stage(probe, left, norm="", eps=0.0, model="a.pt", setting=""):
    """The rows of one stage of a cascade."""
    about = replace(ABOUT, checkpoint=model, norm=norm, eps=eps, probe=probe, setting=setting)
    numbers = {"seconds": 1.25, "forwards": 1200.0, "backwards": 1000.0}
    found = replace(about, metric="accuracy", value=left, low=left - 0.1, high=left + 0.1, interval="wilson")
    return [found, *(replace(about, metric=metric, value=value) for metric, value in numbers.items())]


def rounded(left, norm, eps, probe="pgd-10", model="a.pt"):
    return replace(stage(probe, left, norm, eps, model)[0], metric="rounded_accuracy")


def test_the_attacks_of_one_model_stand_with_their_seconds_and_passes():
    rows = [*stage("clean", 0.9), *stage("pgd-10", 0.25, "linf", 8 / 255), rounded(0.5, "linf", 8 / 255)]
    (table,) = report_tables(rows, title="smoke of a.pt")
    assert table.title == "smoke of a.pt"
    assert table.columns == ("probe", "accuracy left %", "95 % interval", "seconds", "forwards", "backwards")
    assert table.lines == [
        ("clean", "90.00", f"80.0{SPACE}-{SPACE}100.0", "1.2", "1,200", "1,000"),
        ("pgd-10", "25.00", f"15.0{SPACE}-{SPACE}35.0", "1.2", "1,200", "1,000"),
        ("after 8-bit rounding", "50.00", f"40.0{SPACE}-{SPACE}60.0", "", "", ""),
    ]


def test_a_line_names_the_radius_and_the_norm_as_far_as_there_are_several():
    two = [*stage("clean", 0.9), *stage("pgd-10", 0.5, "linf", 4 / 255), *stage("pgd-10", 0.3, "linf", 8 / 255)]
    assert [line[0] for line in report_tables(two, title="t")[0].lines] == ["clean", f"pgd-10{SPACE}4/255", f"pgd-10{SPACE}8/255"]
    norms = [
        *stage("clean", 0.9), *stage("pgd-10", 0.5, "linf", 8 / 255), *stage("pgd-10", 0.4, "l2", 0.5), rounded(0.5, "linf", 8 / 255),
        rounded(0.5, "l2", 0.5), stage("pgd-10", 0.2, "worst", 0.0, setting="threats=linf:8/255,l2:0.5")[0],
    ]  # fmt: skip
    names = [line[0].replace(SPACE, " ") for line in report_tables(norms, title="t")[0].lines]
    assert names == [
        "clean", "pgd-10 linf 8/255", "pgd-10 l2 0.5", "worst of linf 8/255, l2 0.5", "after 8-bit rounding linf 8/255",
        "after 8-bit rounding l2 0.5",
    ]  # fmt: skip


def test_the_attacks_of_several_models_stand_side_by_side_with_a_dash_where_one_was_not_run():
    rows = [
        *stage("clean", 0.9), *stage("pgd-10", 0.25, "linf", 0.1), *stage("clean", 0.8, model="b.pt"),
        *stage("fgsm", 0.5, "linf", 0.1, model="b.pt"),
    ]  # fmt: skip
    (table,) = report_tables(rows, title="two models")
    assert table.columns == ("probe", "a.pt", "b.pt")
    assert [(name, a.split(" ")[0], b.split(" ")[0]) for name, a, b in table.lines] == [
        ("clean", "90.00", "80.00"), ("pgd-10", "25.00", "-"), ("fgsm", "-", "50.00"),
    ]  # fmt: skip
    assert table.title == "two models; % with its 95 % interval"


def test_an_interval_that_speaks_of_the_chosen_images_alone_says_so():
    rows = [replace(row, interval="anytime, of 500 images") if row.interval else row for row in stage("clean", 0.9)]
    assert report_tables(rows, title="t")[0].columns[2] == "95 % interval of the 500 chosen images"


def mixed():
    """Rows of all kinds, of one model."""
    probe, fog = replace(ABOUT, probe="random-noise", setting="t=0.1 k=3"), replace(ABOUT, probe="fog")
    maps = replace(ABOUT, probe="saliency", setting="target=true channels=none images=clean")
    return [
        *stage("clean", 0.9), *stage("pgd-10", 0.25, "linf", 0.1),
        replace(maps, metric="gini", value=0.5), replace(maps, metric="entropy", value=3.0), replace(maps, metric="seconds", value=1.0),
        replace(maps, metric="zero_maps", value=0.0), replace(maps, metric="gini/margin_correlation", value=0.1),
        replace(probe, metric="error_rate", value=0.3, low=0.2, high=0.4), replace(probe, metric="changed_share", value=0.1),
        replace(probe, metric="forwards", value=10.0), replace(probe, metric="seconds", value=10.0),
        replace(fog, setting="severity=3 scale=cifar", metric="accuracy", value=0.7, low=0.6, high=0.8),
        replace(fog, setting="severities=3 scale=cifar", metric="mean_accuracy", value=0.7, low=0.6, high=0.8),
        replace(ABOUT, probe="corruptions", setting="corruptions=1 cells=1 scale=cifar", metric="mean_error", value=0.3),
        replace(ABOUT, probe="pgd-10", norm="linf", eps=0.1, metric="check/loss_stalls", value=0.0),
        replace(ABOUT, probe="random-noise", metric="flag/warning", value=1.0),
    ]  # fmt: skip


def test_a_run_of_all_kinds_has_the_tables_of_each_and_no_row_in_a_table_of_another():
    found = report_tables(mixed(), title="T")
    assert [(table.title, [line[: table.word_columns] for line in table.lines]) for table in found] == [
        ("attacks: T", [("clean",), ("pgd-10",)]),
        ("saliency scores of T: Gini, mean over images (95 % bootstrap interval), target true, channels none",
         [("clean accuracy %",), ("saliency",)]),
        ("other scores, means over images, target true, channels none", [("saliency", "entropy")]),
        ("Gini beside the margin and the images that fall", [("saliency", "margin_correlation")]),
        ("error rate % on the images that a model gets right when clean",
         [("clean accuracy",), ("n right when clean",), ("random-noise",)]),
        ("corruptions: T", [("clean accuracy %",), ("mean_error",)]),
        ("mean accuracy % over severity 3", [("fog",)]),
    ]  # fmt: skip


def test_every_row_belongs_to_one_kind_but_for_those_of_the_clean_images():
    rows = mixed()
    found = rows_by_kind(rows)
    assert list(found) == ["attack", "method", "probe", "corruption"]
    count = sum(row.probe == "clean" for row in rows)
    assert sum(map(len, found.values())) == len(rows) - count + 4 * count
    assert list(rows_by_kind(stage("clean", 1.0))) == ["attack"]
    assert rows_by_kind([]) == {}


def test_the_reference_has_a_table_of_what_its_errors_divide_by():
    reference = {"name": "ref", "sha256": "a" * 64, "clean_accuracy": 0.9, "accuracy": {"fog": 0.6}}
    table = report_tables(mixed(), title="T", reference=reference)[-1]
    assert table.title == "reference ref, sha256 aaaaaaaaaaaa: its own accuracy"
    assert table.lines == [("clean", "90.00", "-"), ("fog", "60.00", "+30.00")]


@pytest.mark.parametrize("most", [None, 3])
def test_a_terminal_shows_the_ends_and_the_middle_of_a_probe(most):
    probe = replace(ABOUT, probe="random-noise")
    rows = [replace(probe, setting=f"t=0.{k}", metric=metric, value=0.1) for k in range(1, 8) for metric in ("error_rate", "changed_share")]
    names = [line[0] for line in report_tables(rows, title="", most=most)[0].lines]
    assert names == [f"random-noise t=0.{k}" for k in ((1, 4, 7) if most else range(1, 8))]


def golden_metrics():
    """The metrics of the golden tables, each with the name of one table that has it."""
    found = {}
    for path in sorted(GOLDEN.glob("*.rows.csv")):
        with path.open(newline="") as file:
            found |= {row["metric"]: path.name for row in csv.DictReader(file)}
    return found


def test_every_metric_that_a_command_writes_has_a_meaning():
    found = golden_metrics()
    assert len(found) > 50
    assert {metric: where for metric, where in found.items() if not metric_key(metric) and ".py:" not in metric} == {}
    assert not [name for name, (sentence, _) in METRICS.items() if not sentence.endswith(".")]


def test_every_score_has_a_meaning():
    from robench.scores import GROUPS, SCORES

    assert [name for name in {*SCORES, *GROUPS["jacobian"]} if METRICS[name] == OWN_SCORE_MEANING] == []


def test_a_meaning_tells_the_direction():
    assert [metric_meaning(metric)[1] for metric in ("accuracy", "error_rate", "gini", "mce", "gini/superiority", "flag/curve")] == [
        HIGHER, LOWER, NEITHER, LOWER, NEITHER, NEITHER,
    ]  # fmt: skip
    assert metric_meaning("scores.py:mine") == OWN_SCORE_MEANING
    assert metric_key("scores.py:mine/sd") == "*/sd"


def test_all_golden_rows_have_tables(tmp_path):
    for path in sorted(GOLDEN.glob("*.rows.csv")):
        (tmp_path / "rows.csv").write_bytes(path.read_bytes())
        for table in report_tables(read_rows(tmp_path), title="T"):
            assert table.lines, path.name
            assert {len(line) for line in table.lines} == {len(table.columns)}, path.name
