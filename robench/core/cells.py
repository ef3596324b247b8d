"""Texts in the cells of CSV files: none may be a formula where a spreadsheet opens the file, and all are read back as they were."""

from __future__ import annotations

import csv
import io
import re

FORMULA = re.compile(r"[\s']*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def safe_cell(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula: where it begins as one, an apostrophe stands before it (as OWASP advises).

    Numbers stay as they are, -1 and +1 too.

    Args:
        text: such as the name of a model, a class or a recipe.

    Example:
        >>> safe_cell("=1+1"), safe_cell("-1"), safe_cell("resnet18.pt")
        ("'=1+1", '-1', 'resnet18.pt')
    """
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def spelt_out(text: str) -> str:
    """A text in which letters that no file can hold, as in names of files that are not UTF-8, are spelt out.

    Args:
        text: any.

    Example:
        >>> spelt_out("seal.jpg"), spelt_out(chr(0xDCFF) + ".jpg")
        ('seal.jpg', '\\\\udcff.jpg')
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def cell_text(cell: str) -> str:
    """The text that `safe_cell` made a cell of.

    Args:
        cell: as it stands in the file.

    Example:
        >>> cell_text("'=1+1"), cell_text("'90s"), cell_text("-1")
        ('=1+1', "'90s", '-1')
    """
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def cell_number(cell: str) -> float:
    """The number in a cell, in the letters in which numbers are written: no digits of other scripts, no 1_0, no spaces.

    Args:
        cell: as it stands in the file.

    Raises:
        ValueError: where it is none.

    Example:
        >>> cell_number("-2.5e-3"), cell_number("inf")
        (-0.0025, inf)
    """
    if not NUMBER.fullmatch(cell) and cell.lower().lstrip("+-") not in ("inf", "nan"):
        raise ValueError(f"{short_cell(cell)} stands where a number belongs")
    return float(cell)


def cell_whole_number(cell: str) -> int:
    """The whole number in a cell, as `cell_number`.

    Args:
        cell: as it stands in the file.

    Raises:
        ValueError: where it is none, or has more than 18 digits.

    Example:
        >>> cell_whole_number("12")
        12
    """
    if not WHOLE.fullmatch(cell):
        raise ValueError(f"{short_cell(cell)} stands where a whole number belongs")
    return int(cell)


def short_cell(cell: str) -> str:
    """A cell in quotes as a sentence shows it, long ones cut; an empty one in words."""
    return repr(cell if len(cell) <= 40 else f"{cell[:40]}...") if cell else "nothing"


def csv_cells(text: str) -> list[list[str]]:
    """The lines of a CSV file, each the texts of its cells.

    Args:
        text: the content of the file.

    Raises:
        ValueError: where it is no CSV, with what is wrong in it.
    """
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    return [[cell_text(cell) for cell in line] for line in lines] if "'" in text else lines
