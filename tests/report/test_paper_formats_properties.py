"""Whatever a name is, it is text in the tables for papers."""

import re

from hypothesis import given
from hypothesis import strategies as st
from paper_reading import read_latex, table

from robench.report.paper_formats import latex_document, markdown_document
from robench.report.plain_text import latex_text, markdown_text


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
