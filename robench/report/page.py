"""One HTML file with text, tables, pictures and charts, which needs nothing beside it: no link to the outside, pictures inside.

Whatever comes from outside, such as the names of models, is escaped; and should something slip through, the page forbids itself to load
anything, and to run anything but its own script, of which it names the hash. Without that script it shows all the same.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robench.core.errors import InputError
from robench.core.files import write_whole

LONGEST_LINE = 48  # letters of a cell that is not broken into lines
DASH = "\u2013"
PNG, DPI, CSS_DPI = b"\x89PNG\r\n\x1a\n", 150, 96  # our pictures have 150 dots an inch, a CSS pixel is 1/96 inch
NUMBER_PATTERN = re.compile(r"(?=.*\d)[-+~<>=\d.,;:%()\[\]\s\u00b1eE]*|[-+]?inf", re.DOTALL)  # one class of letters: quick on any name
NO_LETTER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")


@dataclass(frozen=True)
class TableCell:
    """A cell that shows more than a text.

    Attributes:
        text: what it shows.
        order: the number by which its column is sorted; None where the text does.
        more: small words behind, such as an interval.
        tag: a word in front that stands out, such as "tie".
        kind: how it looks: "", "good", "bad", or "shade-0" to "shade-10" of a heat map.
        span: low, value and high of a small drawing of the interval, from 0 to 100; None without one.
    """

    text: str
    order: float | None = None
    more: str = ""
    tag: str = ""
    kind: str = ""
    span: tuple[float, float, float] | None = None


CellValue = str | int | float | TableCell | None


@dataclass(frozen=True)
class Heading:
    """A heading of level 2 or 3; those of level 2 make the list of contents."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class NoteBox:
    """Plain text in a box; a flag is a sign that a number cannot be trusted as it is, and stands out."""

    text: str
    flag: bool = False


@dataclass(frozen=True)
class VerdictBox:
    """What came out, in a sentence; the state is "good", "bad", "unsure" or "plain". More stands below as a list."""

    text: str
    state: str = "plain"
    items: Sequence[str] = ()


@dataclass(frozen=True)
class FigureBox:
    """One number that is read first: what it is, the number, and what belongs to it, such as its interval."""

    label: str
    figure: str
    more: str = ""
    state: str = "plain"


@dataclass(frozen=True)
class DataTable:
    """A table. Texts are shown as given; floats of a column with as many decimals as suit its largest; None and nan as a dash.

    Attributes:
        header: the titles of the columns.
        rows: each as long as the header; the first column names the row and stays in sight when the rest is scrolled.
        caption: a sentence under the table, "" for none.
        grouped: whether the first column stands as a line of its own over the rows that share it, and the second column names the rows: 15
            methods x 3 models stay readable on a phone.
        name: of a table that can be sorted and filtered; "" for one that cannot.
        better: for each column 1 where higher is better, -1 where lower is, 0 where neither is; () for a table that does not say.
        aside: the columns, by their places, that such a table shows only where they are chosen.
        row_kinds: how each row looks, "" or "published"; () for all alike.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[CellValue]]
    caption: str = ""
    grouped: bool = False
    name: str = ""
    better: Sequence[int] = ()
    aside: Sequence[int] = ()
    row_kinds: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A picture, what it shows for those who do not see it, and a caption; pictures that follow one another stand side by side.

    Attributes:
        source: a PNG file, or its bytes.
        alt: what it shows.
        caption: a sentence under it, "" for none.
        dots: how many dots an inch has.
        kind: how it looks, "" or "small": with its pixels to be seen.
    """

    source: Path | bytes
    alt: str
    caption: str = ""
    dots: int = DPI
    kind: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawing made by `report.charts`; charts that follow one another stand side by side.

    Attributes:
        title: its name.
        words: what it shows, for those who do not see it.
        width: of the drawing.
        height: of the drawing.
        drawing: the inside of the SVG element; its texts are escaped.
        caption: a sentence under it, "" for none.
        legend: (class, words) of each line.
    """

    title: str
    words: str
    width: float
    height: float
    drawing: Markup
    caption: str = ""
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Preformatted:
    """Text with its line breaks and spaces, such as JSON, and its name."""

    text: str
    label: str


@dataclass(frozen=True)
class Folded:
    """Parts that are shown when their summary is opened."""

    summary: str
    parts: Sequence[Part]


Part = Heading | Paragraph | NoteBox | VerdictBox | FigureBox | DataTable | Picture | Chart | Preformatted | Folded
SIDE_BY_SIDE: dict[type, str] = {Picture: "pictures", Chart: "charts", FigureBox: "cards"}


def write_page(path: Path, title: str, parts: Sequence[Part]) -> Path:
    """Writes one self-contained HTML page with the title and the parts from top to bottom, whole or not at all; returns the path.

    Args:
        path: the HTML file.
        title: of the page.
        parts: what stands under the title, in this order.

    Raises:
        InputError: for a picture that cannot be read or is no PNG, and for a row that is not as long as its header.
    """
    return write_whole({path: page_html(title, parts).encode()})[0]


def page_html(title: str, parts: Sequence[Part]) -> str:
    """The page as text.

    Args:
        title: of the page.
        parts: what stands under the title, in this order.

    Raises:
        InputError: as in `write_page`.
    """
    style, script = template_source("page.css"), template_source("page.js")
    return page_templates().get_template("page.html").render(
        title=title, policy=Markup(page_policy(style, script)), style=Markup(style), script=Markup(script), links=contents_links(parts),
        shown_parts=list(shown_parts(parts, "")),
    )  # fmt: skip


@cache
def page_templates() -> Environment:
    """The templates; whatever they show is escaped, and nothing that is missing is passed over."""
    loader = PackageLoader("robench.report", "templates")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=cleaned, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip


@cache
def template_source(name: str) -> str:
    """The text of a file among the templates."""
    templates = page_templates()
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0].replace("\r\n", "\n")  # as a browser reads it before it takes the hash


def page_policy(style: str, script: str) -> str:
    """What the page allows itself: the pictures inside, its own style and its own script, by their hashes, and nothing else."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    own = f"style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"
    return f"default-src 'none'; img-src data:; {own}; base-uri 'none'; form-action 'none'"


def cleaned(value: Any) -> Any:
    """A value before it is escaped: what is no letter (in file names, control characters) becomes a question mark."""
    if isinstance(value, Markup):
        return value
    return NO_LETTER.sub("?", str(value)).encode("utf-8", "replace").decode()


def contents_links(parts: Sequence[Part]) -> list[tuple[int, str]]:
    """Place and text of the headings of level 2, where there are more than two."""
    headings = [(place, part.text) for place, part in enumerate(parts) if isinstance(part, Heading) and part.level == 2]
    return headings if len(headings) > 2 else []


def shown_parts(parts: Sequence[Part], before: str) -> Iterator[dict[str, Any]]:
    """What the templates show of each part; pictures, charts and figures in a row are wrapped together.

    Args:
        parts: in their order.
        before: what stands before the places in the ids, such as "3-" for parts inside the fourth.
    """
    for kind, some in groupby(enumerate(parts), lambda entry: SIDE_BY_SIDE.get(type(entry[1]), "")):
        shown = [shown_part(f"{before}{place}", part) for place, part in some]
        yield from [{"kind": "Gallery", "part": None, "of": kind, "inner": shown}] if kind else shown


def shown_part(place: str, part: Part) -> dict[str, Any]:
    """What the templates show of one part."""
    shown: dict[str, Any] = {"kind": type(part).__name__, "place": place, "part": part}
    match part:
        case DataTable():
            return shown | shown_table(part) | {"table_id": f"table-{place}"}
        case Picture():
            return shown | shown_picture(part)
        case Folded():
            return shown | {"inner": list(shown_parts(part.parts, f"{place}-"))}
        case _:
            return shown


def shown_picture(part: Picture) -> dict[str, Any]:
    """A picture's bytes, at the size in inches at which it was drawn."""
    content, name = part.source, "a picture"
    if isinstance(content, Path):
        name = str(content)
        try:
            content = content.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read the picture {name}: {error.strerror or error}") from None
    if not content.startswith(PNG) or len(content) < 24:
        raise InputError(f"{name} is no PNG file, and a page holds no others")
    wide, high = (round(int.from_bytes(content[at : at + 4], "big") * CSS_DPI / part.dots) for at in (16, 20))  # of the header chunk
    return {"data": Markup(base64.b64encode(content).decode()), "wide": max(1, wide), "high": max(1, high)}


def shown_table(part: DataTable) -> dict[str, Any]:
    """The columns of a table and its rows, in groups."""
    wide = len(part.header)
    for row in part.rows:
        if len(row) != wide:
            raise InputError(f"a table with {wide} columns cannot hold a row of {len(row)}")
    columns = [column_texts(column) for column in zip(*part.rows, strict=True)] if part.rows else [[] for _ in part.header]
    first = 1 if part.grouped and wide > 1 else 0
    kinds = ["number" if k > first and is_numeric(columns[k]) else "words" if is_long(columns[k]) else "" for k in range(wide)]
    shown_columns = [
        {
            "title": part.header[k], "kind": kinds[k], "key": column_key(part.header[k]), "shown": k not in part.aside,
            "better": part.better[k] if part.better else 0,
        }
        for k in range(first, wide)
    ]  # fmt: skip
    row_kinds = part.row_kinds or [""] * len(part.rows)
    rows = [
        {"kind": row_kinds[at], "group": columns[0][at] if first else None,
         "cells": [shown_cell(columns[k][at], part.rows[at][k], kinds[k]) for k in range(first, wide)]}
        for at in range(len(part.rows))
    ]  # fmt: skip
    groups = [(group, list(some)) for group, some in groupby(rows, lambda row: row["group"])]
    return {"columns": shown_columns if any(part.header) else [], "wide": len(shown_columns), "groups": groups}


def shown_cell(text: str, cell: CellValue, kind: str) -> dict[str, Any]:
    """What the template shows of a cell."""
    if not isinstance(cell, TableCell):
        return {"text": text, "kind": kind, "order": None, "more": "", "tag": "", "span": None}
    order = None if cell.order is None or math.isnan(cell.order) else f"{cell.order:.9g}"
    span = [f"{end:.4g}" for end in cell.span] if cell.span else None
    kinds = " ".join(filter(None, (kind, cell.kind)))
    return {"text": text, "kind": kinds, "order": order, "more": cell.more, "tag": cell.tag, "span": span}


def is_long(column: Sequence[str]) -> bool:
    """Whether the cells of a column are sentences, which are broken into lines."""
    return any(len(cell) > LONGEST_LINE for cell in column)


def column_key(title: str) -> str:
    """How the fragment of the address names a column: its title in small letters, with "-" for what is neither letter nor digit.

    Args:
        title: what stands over the column.

    Example:
        >>> column_key("Clean accuracy %")
        'clean-accuracy'
    """
    return re.sub(r"[^\w.]+", "-", title.lower()).strip("-")


def column_texts(column: Iterable[CellValue]) -> list[str]:
    """The cells of a column as texts: texts and whole numbers as they are, None and nan as a dash.

    Floats have equal decimals, so that they can be compared by eye: three where all are below 10 and fewer above. Two digits where these
    decimals would hide a number, and three in all where a column goes to a million.
    """
    cells = list(column)
    largest = max((abs(cell) for cell in cells if isinstance(cell, float) and math.isfinite(cell)), default=0.0)
    places = min(3, max(0, 3 - math.floor(math.log10(largest)))) if largest else 3

    def words(cell: CellValue) -> str:
        if isinstance(cell, TableCell):
            return cell.text
        if cell is None or cell != cell:  # noqa: PLR0124  # nan
            return DASH
        if not isinstance(cell, float) or math.isinf(cell):
            return str(cell)
        if largest >= 1e6:
            return f"{cell:.3g}"
        return f"{cell:.2g}" if 0 < abs(cell) < 10.0**-places else f"{cell:z.{places}f}"

    return [words(cell) for cell in cells]


def is_numeric(column: Sequence[str]) -> bool:
    """Whether a column holds numbers: alone, in percent, or with an interval or a spread behind."""
    return any(column) and all(NUMBER_PATTERN.fullmatch(cell) for cell in column if cell not in ("", "-", DASH))
