"""A comparison as Markdown, JUnit, JSON, annotations and LaTeX, against several nights, by gates on every kind of row."""

import json
import shutil
from xml.etree import ElementTree

import pytest
from commandline import refused, robench
from places import ROOT

from robench.report.comparison import compare
from robench.report.comparison_files import annotation_text, markdown_table

MODEL = ROOT / "checkpoints" / "shapes-cnn-pgd-at.pt"
WEAK = f"{ROOT}/tests/golden/twins.py:relu"
SUITE = ["fgsm", "random-noise,t=0.1", "fog", "saliency"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of a network, and one of another, of everything that is measured."""
    folder = tmp_path_factory.mktemp("mixed")
    words = [word for recipe in SUITE for word in ("--suite", recipe)]
    for name, model in (("base", MODEL), ("new", WEAK)):
        robench("eval", model, *words, "--data", "shapes", "--n", 40, "--threads", 1, "--quiet", "--out", folder / name)
    return folder / "base", folder / "new"


def night(source, folder, number):
    """A copy of a run that ended on a day of November."""
    shutil.copytree(source, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "finished": f"2026-11-{number:02d}T02:00:00Z"}) + "\n")
    return folder


GATES = [
    "clean:drop>1%", "fgsm:drop>1%", "random-noise:drop>2%", "fog:drop>2%", "fog@severity=3:rise>50%", "mean_error:rise>1%",
    "gini:drop>0.001", "gini@method=saliency:rise>0.5", "worst-class:drop>3%", "class@class=2:drop>90%", "flag:*",
]  # fmt: skip


def test_every_kind_of_row_has_gates_and_the_files_tell_the_same(runs, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    files = {name: tmp_path / f"gates.{name}" for name in ("markdown", "junit", "json", "latex")}
    words = [word for name, path in files.items() for word in (f"--{name}", path)]
    told = robench("compare", *runs, *(word for gate in GATES for word in ("--fail-on", gate)), *words, code=1)
    found = json.loads(files["json"].read_text())
    verdicts = {gate["gate"]: gate["verdict"] for gate in found["gates"]}
    assert list(verdicts) == GATES
    assert {"fell", "held", "cannot tell", "not fell"} >= set(verdicts.values())
    assert verdicts["gini:drop>0.001"] == "fell"
    assert verdicts["gini@method=saliency:rise>0.5"] == "held"
    assert verdicts["clean:drop>1%"] == "cannot tell"
    assert found["verdict"] == "fell"
    assert len([gate for gate in found["gates"] if gate["gate"] == "fog:drop>2%"]) == 5
    cases = [*ElementTree.parse(files["junit"]).getroot().iter("testcase")]
    assert len(cases) == len(found["gates"])
    failures = [case.find("failure").get("message") for case in cases if case.find("failure") is not None]
    assert failures == [gate["sentence"] for gate in found["gates"] if gate["verdict"] == "fell"]
    skipped = [case for case in cases if case.find("skipped") is not None]
    assert len(skipped) == sum(gate["verdict"] == "cannot tell" for gate in found["gates"])
    assert summary.read_text() == "before\n" + files["markdown"].read_text()
    assert "fgsm:drop&gt;1%" in files["markdown"].read_text()
    errors = [line for line in told.stdout.splitlines() if line.startswith("::error ")]
    assert len(errors) == len(failures)
    assert "$\\mathbf{-0.0" in files["latex"].read_text()  # the Gini, which alone is significant


def test_a_gate_that_cannot_tell_is_skipped_and_with_strict_a_failure(runs, tmp_path):
    for words, code, tag in (([], 0, "skipped"), (["--strict"], 1, "failure")):
        robench("compare", runs[0], runs[0], "--fail-on", "clean:drop>1%", "--junit", tmp_path / "x.xml", *words, code=code)
        (case,) = ElementTree.parse(tmp_path / "x.xml").getroot().iter("testcase")
        assert "cannot tell" in case.find(tag).get("message")


def test_each_gate_is_tested_against_each_night_and_all_are_one_family(runs, tmp_path):
    nights = tmp_path / "nights"
    for number in (1, 2, 3):
        night(runs[0], nights / f"n{number}", number)
    new = night(runs[1], nights / "n4", 4)
    night(runs[0], nights / "n5", 5)
    (nights / "half").mkdir()
    (nights / "half" / "state-0.jsonl").write_text("{}\n")
    found = compare(nights, new, gates="gini:drop", last=2)
    assert [pair.base_name for pair in found.pairs] == ["n2", "n3"]
    assert found.tests == 2
    assert all("after Holm over 2 tests" in sentence for sentence in found.failures)
    assert any("n5 is left out: it ended after NEW" in note for note in found.notes)
    assert any("half holds an unfinished run" in note for note in found.notes)
    assert any(note.startswith("since the best of 2 runs, n2, the gate gini:drop fell") for note in found.notes)
    assert [pair.base_name for pair in compare(nights, new).pairs] == ["n1", "n2", "n3"]
    named = compare([nights / "n1", nights / "n3"], new, gates="gini:drop")
    assert [result.verdict for result in named.gates] == ["fell", "fell"]
    assert "--last must be at least 1" in refused("compare", nights, new, "--last", 0)
    other = night(runs[0], tmp_path / "lonely" / "n1", 9)
    assert "one base is named twice" in refused("compare", nights / "n1", nights / "n1", new)
    assert "no finished run below" in refused("compare", tmp_path / "lonely", other, "--last", 1)


def test_a_slow_decay_is_found_against_the_best_night_only_where_that_is_significant(runs, tmp_path):
    for number in (1, 2):
        night(runs[0], tmp_path / f"n{number}", number)
    same = compare([tmp_path / "n1", tmp_path / "n2"], runs[0], gates="fgsm:drop")
    assert not [note for note in same.notes if note.startswith("since the best")]
    assert {result.verdict for result in same.gates} == {"not fell"}


def test_a_summary_that_cannot_be_written_does_not_hide_the_verdict(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    assert "cannot be written" in robench("compare", *runs, "--fail-on", "gini:drop", code=1).stderr


def test_annotations_and_cells_keep_to_their_line():
    assert annotation_text("a\nb%,:", in_value=True) == "a%0Ab%25%2C%3A"
    assert markdown_table(("a",), [["x|y\n<b>"]]).splitlines()[-1] == "| x\\|y &lt;b&gt; |"


def test_where_nothing_is_written_nothing_is_replaced(runs, tmp_path):
    path = tmp_path / "gates.json"
    path.write_text("kept")
    refused("compare", *runs, "--fail-on", "nothing:drop", "--json", path)
    assert path.read_text() == "kept"
    assert "lies in the results folder of a run" in refused("compare", *runs, "--json", runs[0] / "x.json")
    assert [one.name for one in tmp_path.iterdir()] == ["gates.json"]


def test_no_file_goes_into_the_folder_of_a_run_or_below_one(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, new = night(runs[0], tmp_path / "nights" / "a", 1), night(runs[1], tmp_path / "b", 2)
    begun = tmp_path / "nights" / "begun"
    begun.mkdir()
    (begun / "state-0.jsonl").write_text("{}\n")
    (made / "inner").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for place in (made / "rows.csv", made / "new.html", made / "inner" / "new.html", begun / "new.html"):
        for option in ("--markdown", "--junit", "--json", "--latex"):
            assert "lies in the results folder of a run" in refused("compare", "nights", new, option, place)
        for option in ("--out", "--markdown", "--csv", "--latex"):
            assert "lies in the results folder of a run" in refused("report", "nights", "--force", option, place)
    assert "lies in the results folder of a run" in refused("compare", made, new, "--out", made / "inner")
    assert "nights is a folder of runs, such as nights/a" in refused("compare", made, new, "--out", "nights")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_folder_with_the_manifest_of_another_program_takes_files(runs, tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "an app", "files": ["a.js"]}')
    robench("compare", runs[0], runs[0], "--json", tmp_path / "x.json")
    assert (tmp_path / "x.json").exists()


def test_the_folder_of_a_comparison_takes_its_other_files_and_none_of_the_names_of_a_run(runs, tmp_path):
    out = tmp_path / "out"
    for words in ([], ["--resume"], ["--force"]):
        robench("compare", runs[0], runs[0], "--out", out, "--json", out / "x.json", *words)
        assert sorted(path.name for path in out.iterdir()) == ["compare.csv", "manifest.json", "x.json"]
    assert "belongs to the results in" in refused("compare", runs[0], runs[0], "--force", "--out", out, "--json", out / "compare.csv")
    assert "is the folder of the results" in refused("compare", runs[0], runs[0], "--out", tmp_path / "n", "--json", tmp_path / "n")
    assert not (tmp_path / "n").exists()
