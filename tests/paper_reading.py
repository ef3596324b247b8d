"""What the tests of tables for papers share: a small table, and a strict reader of the LaTeX that it becomes."""

import math
import re

from robench.report.leaderboard import BoardLine, Cell
from robench.report.paper_tables import PaperCell, PaperLine, PaperTable
from robench.results.columns import Column

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
