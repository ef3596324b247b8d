"""The tables and pictures of classes: which line stands where, what a terminal leaves out, and names of any kind."""

from dataclasses import replace

import pytest
from commandline import read, robench
from places import CHECKPOINT

from robench.core.rows import blank_row
from robench.report.class_tables import class_names_in, class_tables, class_text
from robench.report.figures.classes import draw_confusions
from robench.results.classes import Confusion

SPACE = "\N{NO-BREAK SPACE}"
CLEAN, ATTACKED = replace(blank_row(), probe="clean"), replace(blank_row(), probe="smoke", norm="linf", eps=0.03)


def class_values(about, values, model="a.pt"):
    """The rows of the classes 0, 1, ... with these accuracies, ten images each."""
    lowest = min(range(len(values)), key=values.__getitem__)
    pairs = [*(("class_accuracy", label) for label in range(len(values))), ("worst_class_accuracy", lowest)]
    return [
        replace(about, checkpoint=model, n=10, metric=metric, setting=f"class={label}", value=values[label], low=0.0, high=1.0)
        for metric, label in pairs
    ]  # fmt: skip


def test_the_worst_class_of_the_last_verdict_stands_first():
    rows = [*class_values(CLEAN, [1.0, 0.9, 0.8]), *class_values(ATTACKED, [0.5, 0.2, 0.2])]
    (table,) = class_tables(rows, [], ["cat", "dog", "fox"])
    assert table.columns == ("class", "n", "clean", "smoke")
    span = f"(0.0{SPACE}-{SPACE}100.0)"
    assert table.lines == [
        ("worst class", "", f"2:{SPACE}80.00 {span}", f"1:{SPACE}20.00 {span}"),
        ("2 fox", "10", f"80.00 {span}", f"20.00 {span}"),
        ("1 dog", "10", f"90.00 {span}", f"20.00 {span}"),
        ("0 cat", "10", f"100.00 {span}", f"50.00 {span}"),
    ]


def test_a_terminal_shows_ten_classes_and_says_how_many_are_left_out():
    rows = class_values(CLEAN, [1 - k / 100 for k in range(12)])
    (table,) = class_tables(rows, [], brief=True)
    assert [line[0] for line in table.lines] == ["worst class", "11", "10", "9", "8", "7", "6", "5", "4", "3", "(2 more)", "0"]
    assert len(class_tables(rows, [])[0].lines) == 13


def test_of_a_thousand_classes_a_page_shows_the_ten_worst_and_the_best():
    (table,) = class_tables(class_values(CLEAN, [k / 1000 for k in range(1000)]), [])
    assert [line[0] for line in table.lines] == ["worst class", *map(str, range(10)), "(989 more)", "999"]


def test_each_model_has_a_table_and_a_terminal_few_classes_of_each():
    rows = [row for model in "abcd" for row in class_values(CLEAN, [0.5, 0.4, 0.3, 0.2, 0.1], model)]
    tables = class_tables(rows, [], brief=True)
    assert [table.title for table in tables] == [f"classes of {model}: accuracy % with its 95 % interval" for model in "abcd"]
    assert [line[0] for line in tables[0].lines] == ["worst class", "4", "(3 more)", "0"]


def test_beside_what_has_no_classes_a_terminal_leaves_the_clean_ones_out():
    rows = [*class_values(CLEAN, [0.5, 0.4]), replace(blank_row(), probe="random-noise", metric="error_rate", value=0.1)]
    assert class_tables(rows, [Confusion("a.pt", "", 0.0, "clean", 0, 1, 3)], brief=True) == []
    assert len(class_tables(rows, [Confusion("a.pt", "", 0.0, "clean", 0, 1, 3)])) == 2


@pytest.mark.parametrize(("known", "words"), [
    (["a", "b"], ""), (["a", "b", "c d", "e"], "; no image of 2 c d, 3 e"), (["a"] * 40, "; no image of 38 classes"), ([], ""),
])  # fmt: skip
def test_classes_without_an_image_are_named_where_they_are_few(known, words):
    (table,) = class_tables(class_values(CLEAN, [0.5, 0.4]), [], known)
    assert table.title == f"classes: accuracy % with its 95 % interval{words}"


def test_the_most_frequent_confusions_with_the_images_of_the_class():
    cells = [
        Confusion("a.pt", "", 0.0, "clean", 0, 0, 52), Confusion("a.pt", "", 0.0, "clean", 1, 0, 1),
        Confusion("a.pt", "linf", 0.03, "smoke", 0, 1, 14), Confusion("a.pt", "linf", 0.03, "smoke", 0, 0, 38),
        Confusion("a.pt", "linf", 0.03, "smoke", 1, 2, 20), Confusion("a.pt", "linf", 0.03, "smoke", 2, -1, 1),
    ]  # fmt: skip
    (page,) = class_tables([], cells, ["cat", "dog"])
    assert page.lines == [
        ("clean", "1 dog -> 0 cat", "1 of 1"), ("smoke", "1 dog -> 2", "20 of 20"), ("smoke", "0 cat -> 1 dog", "14 of 52"),
        ("smoke", "2 -> unknown", "1 of 1"),
    ]  # fmt: skip
    assert {line[0] for line in class_tables([*class_values(ATTACKED, [0.5])], cells, brief=True)[1].lines} == {"smoke"}


def test_a_name_is_one_short_line():
    assert class_text(1, ["", "a\nb\t\u202e\x1b" + "c" * 60]) == f"1 a b {'c' * 33}..."
    assert (class_text(0, ["0"]), class_text(0, []), class_text(5, ["cat"])) == ("0", "0", "5")


@pytest.mark.parametrize("count", [0, 1, 21])
def test_confusions_of_any_number_of_classes_are_drawn(tmp_path, count):
    cells = {(label, other): label + 1 for label in range(count) for other in (label, (label * 7 + 1) % count)}
    path = draw_confusions(tmp_path / "confusion.png", [("clean", {}), ("$x$", cells)], lambda label: f"class $_{label}", "title " * 30)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_tells_of_its_classes_again_and_its_files_are_replaced_with_it(tmp_path):
    words = ["eval", CHECKPOINT, "--suite", "smoke", "--n", 20, "--out", tmp_path / "run"]
    first, again = robench(*words).stdout, robench(*words, "--resume").stdout
    assert first == again
    assert "heart" in first
    assert {line["predicted"] for line in read(tmp_path / "run" / "confusion.csv")} <= set(map(str, range(10)))
    robench(*words, "--force", "--eps", "2/255")
    assert {line["eps"] for line in read(tmp_path / "run" / "confusion.csv")} == {"0.0", str(2 / 255)}


def test_rows_and_manifests_of_anything_give_a_table_or_nothing():
    odd = [replace(row, setting=setting) for row in class_values(CLEAN, [0.5, 0.2]) for setting in ("", "class=", "class=x", "class=-1")]
    assert class_tables(odd, [], ["cat"])[0].lines[1][0] == "unknown"
    assert class_names_in({"data": {"classes": ["cat", 3, None]}}) == ["cat", "3", "None"]
    assert [class_names_in(one) for one in ({}, {"data": []}, {"data": {"classes": "cat"}}, {"data": {"classes": {"a": 1}}})] == [[]] * 4
