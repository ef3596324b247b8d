"""What one reads first on the page of a run: the verdict in a sentence, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from robench.core.rows import CLEAN, OVERALL_PROBE, Row
from robench.report import page
from robench.report.board_parts import TIE_WORDS, board_table, interval_words, number_words
from robench.report.leaderboard import leaderboards_of
from robench.report.run_list import is_percentage
from robench.report.tables import SPACE
from robench.results.columns import Column, column_of_row, column_titles, default_columns
from robench.results.saved_runs import SavedRun

MOST_FIGURES = 8  # numbers in boxes; the tables have them all


def headline_parts(run: SavedRun) -> Iterator[page.Part]:
    """The verdict of a run: of one model a sentence and its numbers in boxes, of several models a table of these numbers.

    Args:
        run: a finished run.
    """
    if not run.rows:
        return
    state = "unsure" if run.flags else "plain"
    if len(run.checkpoints) == 1:
        found = headline_rows(run.rows)
        yield page.VerdictBox(f"{model_sentence(run.checkpoints[0], [row for _, row in found])} {flag_sentence(run)}", state)
        titles = column_titles([column for column, _ in found])
        yield from (figure_box(row, title) for (_, row), title in list(zip(found, titles, strict=True))[:MOST_FIGURES])
        return
    yield page.VerdictBox(f"{len(run.checkpoints)} models, measured in the same way on the same images. {flag_sentence(run)}", state)
    for place, board in enumerate(leaderboards_of([run])):
        yield board_table(board, f"models-{place + 1}" if place else "models", with_runs=False)
    yield page.Paragraph(TIE_WORDS)


def headline_rows(rows: Sequence[Row]) -> list[tuple[Column, Row]]:
    """The usual columns of a leaderboard with the rows of one model in them."""
    by_column = {column_of_row(row): row for row in reversed(rows)}
    return [(column, by_column[column]) for column in default_columns([rows]) if not math.isnan(by_column[column].value)]


def model_sentence(name: str, rows: Sequence[Row]) -> str:
    """What came out for one model, in a sentence."""
    told = [words for row in rows if (words := told_number(row))]
    return f"{name or 'The model'}: {', '.join(told)}." if told else f"{name or 'The model'} was measured."


def told_number(row: Row) -> str:
    """A number in words; "" for one that needs its table."""
    if row.metric == "gini":
        return ""
    share = f"{number_words(row.metric, row.value)} %"
    if row.probe == CLEAN:
        images = (
            f"{row.n:,} images are classified correctly as they are" if row.n != 1 else "the one image is classified correctly as it is"
        )
        return f"{share} of {images}"
    if row.metric == "mean_flip_probability":
        return f"the label changes in {share} of the comparisons along sequences"
    if row.probe == OVERALL_PROBE:
        return f"under corruptions the error is {share}"
    return f"{share} stand after {column_titles([column_of_row(row)])[0]}"


def flag_sentence(run: SavedRun) -> str:
    """How many flags were raised."""
    count = len(run.flags)
    if not count:
        return "No flag was raised."
    return f"{count} flag{'s were' if count > 1 else ' was'} raised: read {'them' if count > 1 else 'it'} before you trust these numbers."


def figure_box(row: Row, title: str) -> page.FigureBox:
    """A number in a box with its interval and its images."""
    interval = interval_words(row.metric, row.low, row.high)
    unit = " %" if is_percentage(row.metric) else ""
    more = ", ".join(filter(None, (f"95 % interval {interval}" if interval else "", f"n{SPACE}={SPACE}{row.n:,}")))
    return page.FigureBox("clean accuracy" if row.probe == CLEAN else title, number_words(row.metric, row.value) + unit, more)
