"""`robench report` with tables: what it writes, and that a wrong call writes nothing."""

import json
from dataclasses import asdict, replace

import pandas as pd
import pytest
from commandline import read, refused, robench

from robench.core.rows import Row

CLEAN = Row("a.pt", "small", "cifar10", "test", 500, 0, "", 0.0, "clean", "", "accuracy", 0.9, 0.87, 0.92, "wilson")
ROBUST = replace(CLEAN, norm="linf", eps=8 / 255, probe="autoattack", value=0.5, low=0.46, high=0.54)
PUBLISHED = {"name": "A title", "dataset": "cifar10", "eps": "8/255", "clean_acc": "91.10", "autoattack_acc": "65.88"}


@pytest.fixture
def run(tmp_path):
    return made_run(tmp_path / "runs" / "a", "cifar10")


def made_run(folder, data):
    """A run with AutoAttack on some data set; returns the folder."""
    folder.mkdir(parents=True)
    pd.DataFrame([asdict(replace(row, data=data)) for row in (CLEAN, ROBUST)]).to_csv(folder / "rows.csv", index=False)
    content = {"checkpoint": {"name": "a.pt", "sha256": "aa"}, "data": {"n": 500}, "finished": "2026-11-01T00:00:00Z"}
    (folder / "manifest.json").write_text(json.dumps(content) + "\n")
    return folder


@pytest.fixture
def model_info(tmp_path):
    folder = tmp_path / "model_info" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    (folder / "Model.json").write_text(json.dumps(PUBLISHED))
    (folder / "Bad.json").write_text("{")
    return tmp_path / "model_info"


def test_tables_are_written_without_a_page_and_published_rows_stand_in_them(run, model_info, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / name for name in ("t.tex", "t.md", "t.csv")]
    words = [item for option, file in zip(("--latex", "--markdown", "--csv"), files, strict=True) for item in (option, file)]
    result = robench("report", run.parent, "--published", model_info, *words)
    assert "Bad.json is not JSON" in result.stderr
    assert not (tmp_path / "robench-report.html").exists()
    lines = read(files[2])
    assert [(line["model"], line["column"], line["n"], line["published"]) for line in lines if line["column"] != "clean"] == [
        ("Model, published by RobustBench", "autoattack linf 8/255", "10000", "RobustBench"),
        ("a.pt", "autoattack linf 8/255", "500", ""),
    ]  # fmt: skip
    assert "| Model, published by RobustBench | 10000 | 91.10 | **65.88** |" in files[1].read_text()
    assert r"\textbf{65.88}" in files[0].read_text()


def test_chosen_columns_are_those_of_the_tables(run, tmp_path):
    robench("report", run, "--columns", "autoattack@norm=linf", "--csv", tmp_path / "t.csv")
    assert [line["column"] for line in read(tmp_path / "t.csv")] == ["autoattack linf 8/255"]


def test_a_run_becomes_a_file_of_robustbench(run, tmp_path):
    file = tmp_path / "model_info" / "cifar10" / "Linf" / "Mine.json"
    robench("report", run, "--robustbench", file, "--about", "venue=ICLR 2026", "--about", "authors=A, B")
    content = json.loads(file.read_text())
    assert (content["autoattack_acc"], content["venue"], content["authors"], content["link"]) == ("50.00", "ICLR 2026", "A, B", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--csv", "t.csv", "--latex", "./t.csv"], "choose two files"),
        (["--csv", "old.csv"], "pass --force"),
        (["--csv", "runs/a/rows.csv"], "lies in the results folder of a run"),
        (["--csv", "t.csv", "--columns", "cleam"], "did you mean 'clean'"),
        (["--csv", "t.csv", "--columns", "clean@"], "names no column"),
        (["--csv", "t.csv", "--published", "nowhere"], "no folder"),
        (["--columns", "clean", "--out", "p.html"], "the page of one run has no leaderboard"),
        (["--columns", "nope", "--robustbench", "t.json"], "--columns and --published belong to the page and the tables"),
        (["--data", "shapes"], "--data is the data set of the images that changed against --base"),
        (["--last", "3"], "--last counts the runs of the folder of --base"),
        (["--gate", "nope:drop", "--out", "p.html"], "no two of these are of the same model name"),
        (["--gate", "clean:drop", "--out", "p.html"], "no two of these are of the same model name"),
        (["--csv", "t.csv", "--about", "name=x"], "--about belongs to --robustbench"),
        (["--robustbench", "t.json", "--about", "clean_acc=99"], "no fact that RobustBench lists"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_writes_nothing(run, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.csv").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sentence in refused("report", run, *words)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_published_rows_of_another_data_set_are_told_with_what_there_is(model_info, tmp_path):
    run = made_run(tmp_path / "mine", "shapes")
    told = "No published row is of shapes, the data set of your runs: there are rows of cifar10."
    for words in (["--out", tmp_path / "p.html"], ["--csv", tmp_path / "t.csv"]):
        assert f"Note: {told}" in robench("report", run, "--published", model_info, *words).stderr
    assert told in (tmp_path / "p.html").read_text()
    assert "1 runs" not in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(("data", "listed"), [("cifar10", True), ("cifar100", True), ("imagenet", True), ("shapes", False)])
def test_a_file_of_a_data_set_that_robustbench_does_not_list_is_written_with_a_note(data, listed, tmp_path):
    run = made_run(tmp_path / "mine", data)
    said = robench("report", run, "--robustbench", tmp_path / "Mine.json").stderr
    assert (f"RobustBench does not list the data set {data}, but cifar10, cifar100, imagenet" in said) == (not listed)
    assert json.loads((tmp_path / "Mine.json").read_text())["dataset"] == data
