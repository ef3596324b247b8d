"""No text in a CSV is a formula in a spreadsheet, numbers stay numbers, and what is read is what was written."""

import csv
import io
from dataclasses import replace

import pandas as pd
import pytest

from robench.core.cells import cell_number, cell_text, cell_whole_number, csv_cells, safe_cell
from robench.core.rows import Row, blank_row
from robench.results.files import csv_bytes, frame_of_columns, frame_of_entries

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
    assert csv_bytes(frame_of_columns({"a": ["\ud800"]})) == b"a\n\\ud800\n"
    assert csv_bytes(frame_of_columns({"\ud800": [1], "b": ["\u00e9"]})) == "\\ud800,b\n1,\u00e9\n".encode()
    row = replace(blank_row(), checkpoint="\udcff.pt", value=1.0)
    assert b"\\udcff.pt" in csv_bytes(frame_of_entries([row], Row))


@pytest.mark.parametrize("text", ["", " 1", "1_0", "\uff11", "\u0661", "0x1", "1e", "one", "1 0", "infinity", "1\n"])
def test_numbers_are_written_in_ascii_digits_alone(text):
    for read in (cell_number, cell_whole_number):
        with pytest.raises(ValueError, match="stands where a"):
            read(text)


@pytest.mark.parametrize("number", [0.0, -1.5e-300, 1 / 3, 1e22, float("inf"), -float("inf"), 5e-324])
def test_what_is_written_as_a_number_is_read_as_it(number):
    assert cell_number(repr(number)) == number
    assert cell_number("nan") != cell_number("nan")
    assert cell_whole_number("-12") == -12
    with pytest.raises(ValueError, match="whole number"):
        cell_whole_number("9" * 19)
