"""Names that are scripts, formulas or paths: they stand in tables and pages as the text that they are."""

import csv
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from commandline import robench

from robench.models import build_network
from robench.models.checkpoint import save_checkpoint
from robench.results.files import read_rows

MODEL = "=cmd|'calc'!A0<img src=x onerror=touch()>.pt"
CLASSES = ("<script>touch()</script>", "@SUM(1+1)", '"><svg onload=touch()>javascript:touch()')


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


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


def test_no_cell_of_any_table_is_a_formula_and_the_names_are_read_back(run):
    tables = sorted(run.glob("*.csv"))
    assert "rows.csv" in [path.name for path in tables]
    for path in tables:
        with path.open(newline="") as file:
            cells = [cell for line in csv.reader(file) for cell in line]
        assert [cell for cell in cells if re.match(r"[=+\-@\t\r]", cell) and not re.fullmatch(r"-?[0-9.e+-]+", cell)] == []
    assert {row.checkpoint for row in read_rows(run)} == {MODEL}


def check_page(path):
    """Every tag of a page is one of its own: nothing runs, and nothing comes from elsewhere."""
    page = Tags()
    page.feed(path.read_text())
    names = {tag for tag, _ in page.tags}
    assert not names & {"iframe", "object", "embed", "base", "link", "form"}
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert len(scripts) <= 1
    assert not any("src" in attrs for attrs in scripts)
    assert "touch()" not in "".join(re.findall(r"<script[^>]*>(.*?)</script>", path.read_text(), re.DOTALL))
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    policy = next(attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    assert "default-src 'none'" in policy


def test_no_name_is_a_script_in_the_page_of_a_run(run):
    check_page(run / "report.html")


def test_no_name_is_a_script_in_a_report_of_runs(run, tmp_path):
    robench("report", run, "--out", tmp_path / "page.html")
    check_page(tmp_path / "page.html")
    assert "onerror" in (tmp_path / "page.html").read_text()  # as text
