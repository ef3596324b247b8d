"""Any text survives the way into a cell and back, and no cell begins as a formula."""

import re

from hypothesis import given
from hypothesis import strategies as st

from robench.core.cells import NUMBER, cell_text, safe_cell

TEXTS = st.text(max_size=20) | st.lists(st.sampled_from([*"'=+-@\t\r\n 1.e＝a"]), max_size=8).map("".join)


@given(TEXTS)
def test_every_text_comes_back_and_none_is_a_formula(text):
    cell = safe_cell(text)
    assert cell_text(cell) == text
    assert not re.match(r"[=+\-@\t\r]", cell) or NUMBER.fullmatch(cell)
