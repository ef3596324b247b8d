"""No text in a CSV is a formula in a spreadsheet, numbers stay numbers, and what is read is what was written."""

import csv
import io

import pandas as pd
import pytest

from robench.core.cells import cell_text, csv_cells, safe_cell
from robench.results.files import csv_bytes

ATTACKS = (
    "=1+1",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    " =1",
    '=HYPERLINK("http://x")',
    "-",
    "＝1",
    "'=1",
    "-1+cmd|' /C calc'!A0",
    "\n@a",
)
HARMLESS = ("", "resnet18.pt", "-1", "+2", "-1.5e-3", ".5", "'90s", "a=b", "it's", "8/255", "é")


@pytest.mark.parametrize("text", ATTACKS)
def test_a_text_that_begins_as_a_formula_gets_an_apostrophe_and_loses_it_again(text):
    assert safe_cell(text) == f"'{text}"
    assert cell_text(safe_cell(text)) == text


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_and_numbers_stay_as_they_are(text):
    assert safe_cell(text) == text == cell_text(text)


def test_a_table_is_read_back_as_it_was_and_its_numbers_are_numbers():
    frame = pd.DataFrame({"=name": [*ATTACKS], "x": [-1.5] * len(ATTACKS), "n": [-1] * len(ATTACKS)})
    content = csv_bytes(frame).decode()
    raw = list(csv.reader(io.StringIO(content, newline="")))
    assert all(line[0].startswith("'") for line in raw)
    assert {tuple(line[1:]) for line in raw[1:]} == {("-1.5", "-1")}
    assert csv_cells(content) == [["=name", "x", "n"], *([text, "-1.5", "-1"] for text in ATTACKS)]


def test_letters_that_no_file_can_hold_are_spelt_out():
    assert csv_bytes(pd.DataFrame({"a": ["\ud800"]})) == b"a\n\\ud800\n"
