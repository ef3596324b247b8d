"""LaTeX, Markdown and CSV: whatever a name holds, the text stays a table, and says what was given."""

import csv
import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robench.report.leaderboard import BoardLine, Cell
from robench.report.paper_formats import csv_document, csv_text, latex_document, latex_text, markdown_document, markdown_text
from robench.report.paper_tables import PaperCell, PaperLine, PaperTable
from robench.results.columns import Column

NASTY = r"50%_a&b\#$~^{x}<|>[1]*--`\input{/etc/passwd}|=1+1" + "\n@\x1b[31m ü 好"
CLEAN = Column("shapes", "test", "clean", "accuracy", "", 0.0, "")
GINI = Column("shapes", "test", "saliency", "gini", "", 0.0, "")


def table(*names, n=(500, 500), caption=("One sentence.",)):
    """A table with a bold number, one with its spread, and one that is missing."""
    lines = []
    for name, count in zip(names, n, strict=False):
        member = BoardLine(name, "", "test", count, "", 0, "", {}, {CLEAN: Cell(0.5, 0.4, 0.6, count), GINI: Cell(0.7, 0.6, 0.8, count)})
        cells = {CLEAN: PaperCell(0.5, 0.4, 0.6, 0.01, count, (0.49, 0.51), bold=not lines)}
        if lines:
            cells[GINI] = PaperCell(0.71234, 0.7, 0.72, math.nan, count - 3, (0.71234,))
        lines.append(PaperLine(name, "training", (0, 1), (member,), cells))
    return PaperTable("shapes", (CLEAN, GINI), ("clean", "saliency gini"), (1, 0), tuple(lines), caption)


SIGN = re.compile(
    r"\\(?:begin\{(\w+)\}|end\{(\w+)\}|(caption|textbf)(?=\{)|usepackage\{booktabs\}|[%&#_${}]|\\(?![\[*])|"
    r"(?:textbackslash|textasciicircum|textasciitilde|textasciigrave|textless|textgreater|textbar)\{\}|"
    r"(?:pm|uparrow|downarrow|toprule|midrule|bottomrule|centering)\b)"
)


def read_latex(text):
    """The rows of the tables of LaTeX text; fails where a command is unknown, a brace is open, or a row has another number of cells."""
    rows, open_ones, cells, in_math, place = [], [], 1, False, 0
    text = re.sub(r"(?m)^%.*\n", "", text)
    while place < len(text):
        if found := SIGN.match(text, place):
            if found[1]:
                open_ones.append(found[1])
            if found[2]:
                assert open_ones.pop() == found[2]
            if found[0] == r"\\":
                rows.append(cells)
                cells = 1
            place = found.end()
            continue
        sign = text[place]
        assert sign not in "\\%#_^~", f"{sign!r} is not escaped: {text[place - 20 : place + 20]!r}"
        assert sign.isascii() or sign.isalpha()
        if sign == "{":
            open_ones.append("{")
        elif sign == "}":
            assert open_ones.pop() == "{"
        elif sign == "$":
            in_math = not in_math
        elif sign == "&":
            assert open_ones[-1] == "tabular"
            cells += 1
        place += 1
    assert open_ones == []
    assert not in_math
    return rows


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


@given(name=st.text())
def test_any_name_is_text_in_latex(name):
    assert set(read_latex(latex_document([table(name, "b", caption=(name,))]))) == {3}
    assert "--" not in latex_text(name)


@given(name=st.text())
def test_any_name_is_one_cell_of_markdown(name):
    text = markdown_document([table(name, "b")])
    lines = [line for line in text.split("\n") if line.startswith("| ")]
    assert len(lines) == 4
    for line in lines:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 4
    assert not re.search(r"(?<!\\)[*`<\[]", markdown_text(name))


def test_markdown_shows_bold_spread_n_and_the_caption():
    text = markdown_document([table("a", "b", n=(500, 400))])
    assert "| a | 500 | **50.00 ± 1.00** | - |" in text
    assert "| b | 400 | 50.00 ± 1.00 | 0.712 (n = 397) |" in text
    assert text.endswith("One sentence.\n")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "a,b", 'a"b', "a\nb"])
def test_no_cell_of_csv_is_a_formula_and_names_come_back(name):
    lines = list(csv.DictReader(io.StringIO(csv_document([table(name, "b")]), newline="")))
    assert lines[0]["model"] == csv_text(name)
    assert lines[0]["model"].removeprefix("'") == " ".join(name.split())
    assert not lines[0]["model"].startswith(("=", "+", "-", "@", "\t", "\r"))


def test_csv_is_tidy_and_leaves_empty_what_there_is_not():
    first, second, third = csv.DictReader(io.StringIO(csv_document([table("a", "b")]), newline=""))
    assert [first[key] for key in ("model", "column", "value", "low", "high", "sd", "n", "seeds", "bold", "eps")] == [
        "a", "clean", "0.5", "0.4", "0.6", "0.01", "500", "0 1", "1", "",
    ]  # fmt: skip
    assert (third["column"], third["sd"], third["n"]) == ("saliency gini", "", "497")
    assert second["model"] == "b"
