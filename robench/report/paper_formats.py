"""Tables for papers as LaTeX (booktabs), Markdown and tidy CSV. Whatever is in a name is text there: no command, no markup, no formula."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from robench.core.cells import safe_cell
from robench.report.paper_tables import PaperCell, PaperLine, PaperTable, plain_table
from robench.report.plain_text import latex_text, markdown_text, one_line
from robench.report.run_list import is_percentage
from robench.report.tables import percent
from robench.results.columns import Column

Escape = Callable[[str], str]


def number_of_cell(column: Column, cell: PaperCell, sign: str) -> str:
    """A number, in percent where it is a share, with its standard deviation over seeds after a sign."""

    def one(value: float) -> str:
        return "-" if math.isnan(value) else percent(value) if is_percentage(column.metric) else f"{value:.3f}"

    return one(cell.value) if math.isnan(cell.sd) else f"{one(cell.value)} {sign} {one(cell.sd)}"


def head_cells(table: PaperTable, escape: Escape, marks: tuple[str, str]) -> list[str]:
    """What stands over the columns: the title, % for shares, and an arrow in the better direction."""
    return [
        " ".join(
            filter(None, (escape(title), escape("%") if is_percentage(column.metric) else "", {1: marks[0], -1: marks[1]}.get(way, "")))
        )
        for title, column, way in zip(table.titles, table.columns, table.better, strict=True)
    ]


def counts_differ(table: PaperTable) -> bool:
    """Whether the lines are of different numbers of images, so that each has to say its own."""
    return len({line.n for line in table.lines}) > 1


def line_head(line: PaperLine, escape: Escape) -> str:
    """The label of a line; a published one is marked."""
    by = line.members[0].published
    return escape(line.label) + (escape(f" ({by})") if by and f"published by {by}" not in line.label else "")


def few_images(line: PaperLine, cell: PaperCell) -> str:
    """The n of a number that is of fewer images than its line, "" for others."""
    return "" if cell.n == line.n else f" (n = {cell.n})"


# --- LaTeX


def latex_document(tables: Sequence[PaperTable]) -> str:
    """The tables as LaTeX, each a table environment; they need the package booktabs.

    Args:
        tables: one for each data set.

    Returns:
        Text to be read by \\input in a document; its first lines are a comment that says what it needs.
    """
    return "% needs \\usepackage{booktabs}\n" + "\n".join(map(paper_latex, tables))


def paper_latex(table: PaperTable) -> str:
    """One table environment."""
    with_n = counts_differ(table)
    heads = ["model", *(["$n$"] if with_n else []), *head_cells(table, latex_text, (r"$\uparrow$", r"$\downarrow$"))]
    rows = [latex_row(table, line, with_n) for line in table.lines]
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{latex_text(' '.join(table.caption))}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule", *rows, r"\bottomrule",
        r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def latex_row(table: PaperTable, line: PaperLine, with_n: bool) -> str:
    """One line of a table."""
    cells = [line_head(line, latex_text), *([str(line.n)] if with_n else [])]
    for column in table.columns:
        cell = line.cells.get(column)
        text = "--" if cell is None else number_of_cell(column, cell, r"$\pm$")
        text = rf"\textbf{{{text}}}" if cell is not None and cell.bold else text
        cells.append(text + (few_images(line, cell) if cell is not None else ""))
    return " & ".join(cells) + r" \\"


# --- Markdown


def markdown_document(tables: Sequence[PaperTable]) -> str:
    """The tables as Markdown with pipes, each with its caption under it.

    Args:
        tables: one for each data set.
    """
    return "\n".join(map(paper_markdown, tables))


def paper_markdown(table: PaperTable) -> str:
    """One table."""
    with_n = counts_differ(table)
    heads = ["model", *(["n"] if with_n else []), *head_cells(table, markdown_text, ("↑", "↓"))]
    lines = [pipe_line(heads), pipe_line(["---", *["---:"] * (len(heads) - 1)])]
    for line in table.lines:
        cells = [line_head(line, markdown_text), *([str(line.n)] if with_n else [])]
        for column in table.columns:
            cell = line.cells.get(column)
            text = "-" if cell is None else number_of_cell(column, cell, "±")
            text = f"**{text}**" if cell is not None and cell.bold else text
            cells.append(text + (few_images(line, cell) if cell is not None else ""))
        lines.append(pipe_line(cells))
    return "\n".join([*lines, "", markdown_text(" ".join(table.caption)), ""])


def pipe_line(cells: Sequence[str]) -> str:
    """One line of a table of Markdown."""
    return f"| {' | '.join(cells)} |"


# --- CSV


def csv_document(tables: Sequence[PaperTable]) -> str:
    """The tables as tidy CSV: one number a line, with its interval, n, spread and seeds; what there is not is left empty.

    Args:
        tables: one for each data set.
    """
    lines = [line for table in tables for line in plain_table(table)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: csv_cell(value) for key, value in line.items()} for line in lines])
    return text.getvalue()


def csv_cell(value: Any) -> Any:
    """A value as a cell: texts that are no formulas, nothing for nan."""
    if isinstance(value, str):
        return safe_cell(one_line(value))
    return "" if isinstance(value, float) and math.isnan(value) else value
