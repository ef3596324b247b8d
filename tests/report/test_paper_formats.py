"""LaTeX, Markdown and CSV: whatever a name holds, the text stays a table, and says what was given."""

import csv
import io
import re

import pytest
from paper_reading import read_latex, table

from robench.core.cells import safe_cell
from robench.report.paper_formats import csv_document, latex_document, markdown_document

NASTY = r"50%_a&b\#$~^{x}<|>[1]*--`\input{/etc/passwd}|=1+1" + "\n@\x1b[31m ü 好"


def test_latex_is_balanced_escaped_and_has_as_many_cells_in_each_row():
    text = latex_document([table("a_b.pt", NASTY, caption=(NASTY,))])
    assert set(read_latex(text)) == {3}
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns == "lrr"
    assert r"\textbf{50.00 $\pm$ 1.00}" in text
    assert "0.712 (n = 497)" in text
    assert r"a\_b.pt" in text
    assert "input\\{" in text


def test_the_reader_of_the_test_refuses_what_would_not_compile():
    good = latex_document([table("a", "b")])
    for wrong in (good.replace(r"\%", "%x", 1).replace("\n%", "\n"), good.replace(r"\end{tabular}", ""), good.replace("a &", "a_b &"),
                  good.replace(r"\toprule", r"\input{x}"), good.replace("a &", "{a &")):  # fmt: skip
        with pytest.raises(AssertionError):
            read_latex(wrong.replace("%x", r"\write18{x}"))


def test_markdown_shows_bold_spread_n_and_the_caption():
    text = markdown_document([table("a", "b", n=(500, 400))])
    assert "| a | 500 | **50.00 ± 1.00** | - |" in text
    assert "| b | 400 | 50.00 ± 1.00 | 0.712 (n = 397) |" in text
    assert text.endswith("One sentence.\n")


@pytest.mark.parametrize("name", ["=1+1", "+a", "-a", "@x", "\t=1", "\r=1", "a,b", 'a"b', "a\nb"])
def test_no_cell_of_csv_is_a_formula_and_names_come_back(name):
    lines = list(csv.DictReader(io.StringIO(csv_document([table(name, "b")]), newline="")))
    assert lines[0]["model"] == safe_cell(" ".join(name.split()))
    assert lines[0]["model"].removeprefix("'") == " ".join(name.split())
    assert not lines[0]["model"].startswith(("=", "+", "-", "@", "\t", "\r"))


def test_csv_is_tidy_and_leaves_empty_what_there_is_not():
    first, second, third = csv.DictReader(io.StringIO(csv_document([table("a", "b")]), newline=""))
    assert [first[key] for key in ("model", "column", "value", "low", "high", "sd", "n", "seeds", "bold", "eps")] == [
        "a", "clean", "0.5", "0.4", "0.6", "0.01", "500", "0 1", "1", "",
    ]  # fmt: skip
    assert (third["column"], third["sd"], third["n"]) == ("saliency gini", "", "497")
    assert second["model"] == "b"
