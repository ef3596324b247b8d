"""`robench list runs`: what lies in a folder, whatever lies in it."""

import json
import shutil
from dataclasses import asdict

import pandas as pd
import pytest
from commandline import robench

from robench.core.errors import InputError
from robench.core.rows import Row
from robench.report.run_list import is_percentage, run_summaries


def write_run(folder, day=1, more=(), name="a.pt", **manifest):
    """A finished run with a clean accuracy and more rows."""
    folder.mkdir(parents=True)
    rows = [Row(name, "small", "shapes", "test", 50, 0, "", 0.0, "clean", "", "accuracy", 0.9, 0.8, 0.95, "wilson"), *more]
    pd.DataFrame([asdict(row) for row in rows]).to_csv(folder / "rows.csv", index=False)
    words = {"command": "eval", "suite": "smoke"}
    content = {"command": "robench eval a.pt", "finished": f"2026-11-{day:02}T10:00:00Z", "data": {"n": 50}, "words": words, **manifest}
    (folder / "manifest.json").write_text(json.dumps(content) + "\n")
    return folder


ROBUST = Row("a.pt", "small", "shapes", "test", 50, 0, "linf", 8 / 255, "smoke", "", "accuracy", 0.5)


def test_each_run_is_told_with_its_verdict_and_the_newest_is_last(tmp_path):
    write_run(tmp_path / "b", 2, [ROBUST], flags=["doubtful"])
    write_run(tmp_path / "deep" / "a", 3)
    write_run(tmp_path / "c", 1)
    found = run_summaries(tmp_path)
    assert [one.folder.name for one in found] == ["c", "b", "a"]
    assert found[1].verdicts == ("clean 90.00 %, smoke linf 8/255 50.00 %",)
    assert (found[1].command, found[1].data, found[1].n, found[1].models, found[1].flags) == ("eval smoke", "shapes test", 50, ("a.pt",), 1)


def test_unfinished_and_unreadable_runs_are_told_with_their_reason(tmp_path):
    header = {"subjects": ["a.pt"], "data": "shapes", "n": 24, "threats": [["linf", 8 / 255]]}
    for name, text in (("half", json.dumps(header) + "\n"), ("torn", "{" * 5000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state-0.jsonl").write_text(text)
    write_run(tmp_path / "newer", format=99)
    write_run(tmp_path / "cut")
    (tmp_path / "cut" / "rows.csv").write_text("checkpoint,n\n")
    found = {one.folder.name: one for one in run_summaries(tmp_path)}
    assert {name: one.state for name, one in found.items()} == {
        "half": "unfinished", "torn": "unfinished", "newer": "unreadable", "cut": "unreadable",
    }  # fmt: skip
    assert "--resume --out" in found["half"].reason
    assert (found["half"].models, found["half"].data, found["half"].n, found["half"].command) == (("a.pt",), "shapes", 24, "linf 8/255")
    assert "upgrade" in found["newer"].reason
    assert "rows.csv" in found["cut"].reason


@pytest.mark.parametrize(
    "words", [5, [], {"suite": 5}, {"suite": {"name": 5}}, {"suite": [{"name": "x", "weight": [], "options": 3}]}, {"suite": [[[]]]}]
)
def test_whatever_the_words_of_a_manifest_are_the_run_is_told(tmp_path, words):
    write_run(tmp_path / "a", words=words, data={"n": "many"}, flags="none")
    (one,) = run_summaries(tmp_path)
    assert (one.state, one.n, one.flags) == ("finished", 50, 0)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        run_summaries(tmp_path / "results")


def test_shares_are_percent_and_scores_are_not():
    assert [is_percentage(name) for name in ("accuracy", "mean_corruption_error", "mce", "noise_accuracy", "gini", "entropy")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip


def test_a_name_cannot_steer_the_terminal(tmp_path):
    write_run(tmp_path / "a", name="\x1b[31mred")
    shown = robench("list", "runs", tmp_path).stdout
    assert "?[31mred" in shown
    assert "\x1b" not in shown


def test_the_command_prints_the_table_or_json(tmp_path):
    write_run(tmp_path / "runs" / "a", 1, [ROBUST])
    shown = robench("list", "runs", tmp_path / "runs").stdout
    assert "clean 90.00 %, smoke linf 8/255 50.00 %" in shown
    ((one,),) = [json.loads(robench("list", "runs", tmp_path / "runs", "--json").stdout)]
    assert (one["folder"], one["verdicts"]) == (str(tmp_path / "runs" / "a"), {"a.pt": "clean 90.00 %, smoke linf 8/255 50.00 %"})
    shutil.rmtree(tmp_path / "runs" / "a")
    for words in (["runs", tmp_path / "runs"], ["runs", tmp_path / "no"], ["attacks", tmp_path], ["attacks", "--json"]):
        assert robench("list", *words, code=2).stderr.count("\n") == 1
