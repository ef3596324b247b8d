"""Columns of tables of models: what a name stands for, and that numbers of different things never share a column."""

from dataclasses import replace

import pytest

from robench.core.errors import InputError
from robench.core.rows import Row
from robench.results.columns import (
    base_data,
    column_of_row,
    column_requests,
    column_titles,
    default_columns,
    requested_columns,
)

ROW = Row("a.pt", "small", "shapes", "test", 100, 0, "", 0.0, "clean", "", "accuracy", 0.9)
LINF = replace(ROW, norm="linf", eps=8 / 255, probe="autoattack")
ROWS = [
    ROW,
    replace(LINF, probe="pgd-20", setting="steps=20 engine=robench"),
    LINF,
    replace(LINF, norm="l2", eps=0.5),
    replace(LINF, norm="worst", eps=0.0, setting="threats=linf:8/255,l2:0.5"),
    replace(ROW, probe="fog", setting="severity=3 scale=cifar frost=procedural"),
    replace(ROW, probe="fog", setting="severities=1,2,3,4,5 scale=cifar frost=procedural", metric="mean_accuracy"),
    replace(ROW, probe="corruptions", setting="severity=1 corruptions=15", metric="mean_accuracy"),
    replace(ROW, probe="corruptions", setting="corruptions=15 cells=75", metric="mean_corruption_error"),
    replace(ROW, probe="saliency", setting="images=clean", metric="gini"),
    replace(ROW, probe="saliency", setting="images=fog-3", metric="gini"),
    replace(ROW, probe="grad-cam", setting="images=clean", metric="gini"),
    replace(LINF, setting="class=3", metric="worst_class_accuracy"),
    replace(LINF, setting="class=3", metric="class_accuracy"),
    replace(LINF, setting="class=4", metric="class_accuracy"),
]


def found(text):
    """What a name stands for, as (probe, metric, norm)."""
    return [(one.probe, one.metric, one.norm) for request in column_requests([text]) for one in requested_columns(request, ROWS)]


def test_a_name_is_a_probe_or_a_metric_and_more_words_choose_one_of_several():
    assert found("clean") == [("clean", "accuracy", "")]
    assert found("autoattack") == [("autoattack", "accuracy", norm) for norm in ("linf", "l2", "worst")]
    assert found("autoattack@norm=l2") == found("autoattack@eps=1/2") == [("autoattack", "accuracy", "l2")]
    assert found("autoattack@norm=linf@eps=8/255") == [("autoattack", "accuracy", "linf")]
    assert found("autoattack@eps=7/255") == []
    assert found("fog") == [("fog", "mean_accuracy", "")]
    assert found("fog@severity=3") == [("fog", "accuracy", "")]
    assert found("mean_corruption_error") == [("corruptions", "mean_corruption_error", "")]
    assert found("gini") == [("saliency", "gini", ""), ("grad-cam", "gini", "")]
    assert found("gini@method=saliency") == found("saliency") == [("saliency", "gini", "")]
    assert len(found("gini@images=fog-3")) == 1
    other = replace(LINF, checkpoint="b.pt", norm="l1", eps=12.0)
    of_other = requested_columns(column_requests(["autoattack@checkpoint=b.pt"])[0], [*ROWS, other])
    assert of_other == [column_of_row(other)]
    assert len(found("class")) == 2
    assert [one.setting for one in requested_columns(column_requests(["class@class=4"])[0], ROWS)] == ["class=4"]
    assert found(" class @ class = 3 ") == found("class@class=3")
    assert found("worst-class") == [("autoattack", "worst_class_accuracy", "linf")]


@pytest.mark.parametrize("text", ["", "@norm=l2", "clean@", "clean@norm", "clean@norm=", "a,,b", "autoattack@eps=much", "clean,clean"])
def test_what_is_no_name_of_a_column_is_refused(text):
    with pytest.raises(InputError):
        column_requests([text])


def test_by_default_the_clean_accuracy_and_the_end_of_each_cascade_are_shown():
    shown = [(one.probe, one.norm or one.metric) for one in default_columns([ROWS])]
    assert shown == [
        ("clean", "accuracy"), ("autoattack", "linf"), ("autoattack", "l2"), ("autoattack", "worst"),
        ("corruptions", "mean_corruption_error"), ("saliency", "gini"), ("grad-cam", "gini"),
    ]  # fmt: skip
    single = [ROW, replace(LINF, probe="fgsm", setting="engine=robench"), replace(LINF, probe="pgd-20", setting="engine=robench")]
    assert [one.probe for one in default_columns([single])] == ["clean", "pgd-20"]


def test_every_word_that_a_number_depends_on_makes_a_column_of_its_own():
    changes = [{"data": "cifar10"}, {"split": "val"}, {"norm": "l2"}, {"eps": 0.1}, {"probe": "fgsm"}, {"metric": "x"}, {"setting": "a=1"}]
    assert len({column_of_row(replace(LINF, **change)) for change in [{}, *changes]}) == 1 + len(changes)


def test_the_clean_images_of_a_corrupted_set_are_those_of_the_set():
    assert column_of_row(replace(ROW, data="shapes-c-synth")) == column_of_row(ROW)
    assert [base_data(name) for name in ("cifar10-c", "cifar10", "-c")] == ["cifar10", "cifar10", "-c"]


def test_titles_tell_columns_apart_and_always_name_the_threat():
    columns = [column_of_row(row) for row in ROWS]
    titles = column_titles(columns)
    assert len(set(titles)) == len(columns)
    assert titles[:5] == [
        "clean", "pgd-20 linf 8/255", "autoattack linf 8/255", "autoattack l2 0.5", "autoattack worst of linf:8/255,l2:0.5",
    ]  # fmt: skip
