"""Names that are scripts, formulas or paths: they stand in tables and pages as the text that they are."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from commandline import robench
from page_checks import check_junit, check_latex, check_markdown, check_page, controls

from robench.core.errors import InputError
from robench.core.saved_results import load_all_results
from robench.models import build_network
from robench.models.checkpoint import save_checkpoint
from robench.results.files import read_rows

MODEL = "=cmd|'calc'!A0<img src=x onerror=touch()>.pt"
CLASSES = ("<script>touch()</script>", "@SUM(1+1)", '"><svg onload=touch()>javascript:touch()')
NAMES = (
    "</script><script>touch()</script>",
    "]]><failure/>",
    "<!-- -- -->",
    "\\end{tabular}\\input{/etc/passwd}",
    "a|b|c",
    "line\nother\r\nline",
    "\u202egpj.ten\u202c\u2066\u200f",
    "\x1b]0;owned\x07\x1b[2J",
    "{{ 7*7 }}{% raw %}",
    "![x](javascript:touch()) <https://a> `b` **c**",
    "' onmouseover=touch() x='",
    "&lt;script&gt; &#60; $x$ %0A::error::x",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A results folder of attacks, a corruption and maps, of a model and classes with such names."""
    folder = tmp_path_factory.mktemp("hostile")
    meta = {
        "model": {"arch": "mlp,width=4,depth=1", "classes": 3, "shape": [3, 8, 8], "activation": "relu", "mean": None, "std": None},
        "data": {"name": CLASSES[0], "classes": list(CLASSES)},
    }
    save_checkpoint(folder / MODEL, build_network("mlp,width=4,depth=1", classes=3, shape=(3, 8, 8)), meta)
    x = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    np.savez(folder / "=set.npz", x_test=x, y_test=np.arange(12) % 3, classes=np.array(CLASSES))
    (folder / "mine.txt").write_text("fgsm\nfog\nsaliency\n")
    robench(
        "eval",
        folder / MODEL,
        "--suite",
        folder / "mine.txt",
        "--data",
        f"npz:{folder / '=set.npz'}",
        "--eps",
        "0.1",
        "--out",
        folder / "run",
    )
    return folder / "run"


@pytest.fixture(params=NAMES, ids=range(len(NAMES)))
def nights(request, run, tmp_path):
    """Two nights in which a name stands wherever a file of a run can bring one: model, data set, classes, flags, notes, versions."""
    name = request.param
    for night, day in (("1", "26"), ("2", "27")):
        folder = tmp_path / "nights" / night
        folder.mkdir(parents=True)
        for file in run.glob("*.csv"):
            with file.open(newline="") as handle:
                lines = [[cell.replace(f"'{MODEL}", name).replace(MODEL, name) for cell in line] for line in csv.reader(handle)]
            data = lines[0].index("data") if "data" in lines[0] else None
            for line in lines[1:] if data is not None else []:
                line[data] = name
            with (folder / file.name).open("w", newline="") as handle:
                csv.writer(handle, quoting=csv.QUOTE_ALL).writerows(lines)
        manifest = json.loads((run / "manifest.json").read_text())
        manifest |= {
            "flags": [name],
            "notes": [name],
            "finished": f"2026-11-{day}T01:00:00Z {name}",
            "versions": {name: name, "robench": name},
        }
        manifest["data"] |= {"name": name, "classes": [name, f"{name} ", "x"]}
        (folder / "manifest.json").write_text(json.dumps(manifest) + "\n")
    return tmp_path / "nights"


def name_in(nights):
    """The name that stands in the nights."""
    return json.loads((nights / "1" / "manifest.json").read_text())["flags"][0]


def plain(text):
    """The ASCII letters and digits of a text."""
    return re.sub(r"[^A-Za-z0-9]", "", text)


def test_no_cell_of_any_table_is_a_formula_and_the_names_are_read_back(run):
    tables = sorted(run.glob("*.csv"))
    assert "rows.csv" in [path.name for path in tables]
    for path in tables:
        with path.open(newline="") as file:
            cells = [cell for line in csv.reader(file) for cell in line]
        assert [cell for cell in cells if re.match(r"[=+\-@\t\r]", cell) and not re.fullmatch(r"-?[0-9.e+-]+", cell)] == []
    assert {row.checkpoint for row in read_rows(run)} == {MODEL}


def test_no_name_is_a_script_in_the_page_of_a_run(run):
    check_page((run / "report.html").read_text())


def test_no_name_is_a_script_in_a_report_of_runs(run, tmp_path):
    robench("report", run, "--out", tmp_path / "page.html")
    check_page((tmp_path / "page.html").read_text())
    assert "onerror" in (tmp_path / "page.html").read_text()  # as text


def test_no_name_leaves_its_place_in_a_report_of_one_run_or_many(nights, tmp_path):
    one, many, latex, markdown, table = (tmp_path / name for name in ("one.html", "many.html", "t.tex", "t.md", "t.csv"))
    robench("report", nights / "2", "--base", nights / "1", "--out", one)
    words = robench("report", nights, "--out", many, "--latex", latex, "--markdown", markdown, "--csv", table)
    for page in (one, many):
        text = page.read_text()
        assert plain(name_in(nights)) in plain(check_page(text).text)
        assert "<script>touch" not in text
    check_latex(latex.read_text())
    check_markdown(markdown.read_text())
    with table.open(newline="") as file:
        head, *lines = csv.reader(file)
    assert lines
    assert all(len(line) == len(head) for line in lines)
    assert not controls(words.output)


def test_no_name_leaves_its_place_in_a_comparison_or_a_list(nights, tmp_path):
    files = {name: tmp_path / f"out.{name}" for name in ("markdown", "junit", "json", "latex")}
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    words = robench("compare", nights / "1", nights / "2", "--fail-on", "clean:drop>1%", "--fail-on", "flag:*", *options)
    check_markdown(files["markdown"].read_text())
    check_latex(files["latex"].read_text())
    assert len(check_junit(files["junit"].read_bytes())) == 2
    json.loads(files["json"].read_text())
    assert not controls(words.output)
    assert not controls(robench("list", "runs", nights).output)
    assert len(json.loads(robench("list", "runs", nights, "--json").output)) == 2


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_published_row_leaves_its_place(name, run, tmp_path):
    folder = tmp_path / "model_info" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    row = {"dataset": "cifar10", "eps": "8/255", "clean_acc": "91.10", "autoattack_acc": "65.88"}
    texts = dict.fromkeys(("name", "authors", "venue", "architecture", "link", "footnote"), name)
    (folder / "A.json").write_text(json.dumps(row | texts))
    (folder / "<script>touch()</script>.json".replace("/", "")).write_text(json.dumps(row | texts))
    shutil.copytree(run, tmp_path / "run")
    page, markdown, latex = tmp_path / "page.html", tmp_path / "t.md", tmp_path / "t.tex"
    robench("report", tmp_path / "run", "--published", tmp_path / "model_info", "--out", page, "--markdown", markdown, "--latex", latex)
    check_page(page.read_text())
    check_markdown(markdown.read_text())
    check_latex(latex.read_text())


def test_numbers_that_json_does_not_know_and_counts_that_are_none_end_in_a_sentence_or_nothing(run, tmp_path):
    for name in ("1", "2"):
        shutil.copytree(run, tmp_path / name)
    manifest = json.loads((run / "manifest.json").read_text())
    (tmp_path / "1" / "manifest.json").write_text(json.dumps(manifest | {"notes": "HUGE"}).replace('"HUGE"', "[1e999, -1e999]") + "\n")
    robench("compare", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "out")
    manifest["data"]["n"] = [12]
    (tmp_path / "1" / "manifest.json").write_text(json.dumps(manifest) + "\n")
    with pytest.raises(InputError, match="do not agree how many images"):
        load_all_results(tmp_path / "1")


@pytest.mark.parametrize("column", ["clean_pred", "adv_pred"])
def test_a_table_of_images_without_a_column_is_shown_or_refused(column, run, tmp_path):
    for name in ("1", "2"):
        shutil.copytree(run, tmp_path / name)
    with (run / "samples.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    place = lines[0].index(column)
    with (tmp_path / "2" / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows(line[:place] + line[place + 1 :] for line in lines)
    robench("report", tmp_path / "2", "--base", tmp_path / "1", "--out", tmp_path / "page.html")
    check_page((tmp_path / "page.html").read_text())
