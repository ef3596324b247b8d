"""One HTML file with text, tables and pictures, which needs nothing beside it: no script, no link to the outside, pictures inside.

Whatever comes from outside, such as the names of models, is escaped; and should something slip through, the page forbids itself to run or
to load anything.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from robench.core.errors import InputError
from robench.core.files import write_whole

CellValue = str | int | float | None
DASH = "\u2013"
PNG, DPI, CSS_DPI = b"\x89PNG\r\n\x1a\n", 150, 96  # our pictures have 150 dots an inch, a CSS pixel is 1/96 inch
NUMBER_PATTERN = re.compile(r"(?=.*\d)[-+~<>=\d.,;:%()\[\]\s\u00b1eE]*|[-+]?inf", re.DOTALL)  # one class of letters: quick on any name


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
class DataTable:
    """A table. Texts are shown as given; floats of a column with as many decimals as suit its largest; None and nan as a dash.

    Attributes:
        header: the titles of the columns.
        rows: each as long as the header; the first column names the row and stays in sight when the rest is scrolled.
        caption: a sentence under the table, "" for none.
        grouped: whether the first column stands as a line of its own over the rows that share it, and the second column names the rows: 15
            methods x 3 models stay readable on a phone.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[CellValue]]
    caption: str = ""
    grouped: bool = False


@dataclass(frozen=True)
class Picture:
    """A PNG file, what it shows for those who do not see it, and a caption; pictures that follow one another stand side by side."""

    path: Path
    alt: str
    caption: str = ""


Part = Heading | Paragraph | NoteBox | DataTable | Picture


def write_page(path: Path, title: str, parts: Sequence[Part]) -> Path:
    """Writes one self-contained HTML page with the title and the parts from top to bottom, whole or not at all; returns the path.

    Args:
        path: the HTML file.
        title: of the page.
        parts: what stands under the title, in this order.

    Raises:
        InputError: for a picture that cannot be read or is no PNG, and for a row that is not as long as its header.
    """
    body = [f"<h1>{html_text(title)}</h1>", *contents_links(parts), *parts_html(parts)]
    head = f'<meta charset="utf-8">\n<meta {POLICY}>\n<meta {VIEW}>\n<title>{html_text(title)}</title>\n<style>{STYLE}</style>'
    whole = "\n".join(['<!DOCTYPE html>\n<html lang="en">\n<head>', head, "</head>\n<body>\n<main>", *body, "</main>\n</body>\n</html>\n"])
    return write_whole({path: whole.encode()})[0]


def html_text(words: object) -> str:
    """Any words as HTML: escaped, also for attributes; what is no letter (in file names, control characters) becomes a question mark."""
    clean = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", "?", str(words))
    return escape(clean.encode("utf-8", "replace").decode())


def contents_links(parts: Sequence[Part]) -> Iterator[str]:
    """Links to the headings of level 2, where there are more than two."""
    headings = [(place, part.text) for place, part in enumerate(parts) if isinstance(part, Heading) and part.level == 2]
    if len(headings) > 2:
        links = "".join(f'<li><a href="#part-{place}">{html_text(words)}</a></li>' for place, words in headings)
        yield f'<nav aria-label="contents"><ul>{links}</ul></nav>'


def parts_html(parts: Sequence[Part]) -> Iterator[str]:
    """The HTML of the parts, one after the other; pictures in a row are wrapped together."""
    for pictures, some in groupby(enumerate(parts), lambda entry: isinstance(entry[1], Picture)):
        fragments = [part_html(place, part) for place, part in some]
        yield "\n".join(['<div class="pictures">', *fragments, "</div>"] if pictures else fragments)


def part_html(place: int, part: Part) -> str:
    """The HTML of one part."""
    match part:
        case Heading(words, level):
            return f'<h{2 if level == 2 else 3} id="part-{place}">{html_text(words)}</h{2 if level == 2 else 3}>'
        case Paragraph(words):
            return f"<p>{html_text(words)}</p>"
        case NoteBox(words, flag):
            return f'<p class="{"flag" if flag else "note"}" role="note">{html_text(words)}</p>'
        case DataTable():
            return "\n".join(table_html(part))
        case Picture():
            return picture_html(part)


def picture_html(part: Picture) -> str:
    """A picture as a figure with its bytes inside, at the size in inches at which it was drawn, or as wide as the page."""
    try:
        content = part.path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the picture {part.path}: {error.strerror or error}") from None
    if not content.startswith(PNG) or len(content) < 24:
        raise InputError(f"{part.path} is no PNG file, and a page holds no others")
    wide, high = (round(int.from_bytes(content[at : at + 4], "big") * CSS_DPI / DPI) for at in (16, 20))  # of the header chunk
    data = base64.b64encode(content).decode()
    image = f'<img src="data:image/png;base64,{data}" width="{max(1, wide)}" height="{max(1, high)}" alt="{html_text(part.alt)}">'
    return f"<figure>{image}{f'<figcaption>{html_text(part.caption)}</figcaption>' if part.caption else ''}</figure>"


def table_html(part: DataTable) -> Iterator[str]:
    """The lines of a table that scrolls inside its own box, under a header that stays."""
    wide = len(part.header)
    for row in part.rows:
        if len(row) != wide:
            raise InputError(f"a table with {wide} columns cannot hold a row of {len(row)}")
    columns = [column_texts(column) for column in zip(*part.rows, strict=True)] if part.rows else [[] for _ in part.header]
    right = [is_numeric(column) for column in columns]
    first = 1 if part.grouped and wide > 1 else 0
    kinds = [' class="number"' if right[k] and k > first else "" for k in range(wide)]
    caption = f"<caption>{html_text(part.caption)}</caption>" if part.caption else ""
    yield f'<div class="table" role="region" aria-label="{html_text(part.caption or "table")}" tabindex="0"><table>{caption}<thead><tr>'
    yield "".join(f'<th scope="col"{kinds[k]}>{html_text(part.header[k])}</th>' for k in range(first, wide)) + "</tr></thead>"
    rows = list(zip(*columns, strict=True))
    for group, some in groupby(rows, lambda row: row[0] if first else None):
        yield "<tbody>"
        if group is not None:
            yield f'<tr class="group"><th scope="rowgroup" colspan="{wide - 1}"><span>{html_text(group)}</span></th></tr>'
        for row in some:
            cells = "".join(f"<td{kinds[k]}>{html_text(row[k])}</td>" for k in range(first + 1, wide))
            yield f'<tr><th scope="row">{html_text(row[first])}</th>{cells}</tr>'
        yield "</tbody>"
    yield "</table></div>"


def column_texts(column: Iterable[CellValue]) -> list[str]:
    """The cells of a column as texts: texts and whole numbers as they are, None and nan as a dash.

    Floats have equal decimals, so that they can be compared by eye: three where all are below 10 and fewer above. Two digits where these
    decimals would hide a number, and three in all where a column goes to a million.
    """
    cells = list(column)
    largest = max((abs(cell) for cell in cells if isinstance(cell, float) and math.isfinite(cell)), default=0.0)
    places = min(3, max(0, 3 - math.floor(math.log10(largest)))) if largest else 3

    def words(cell: CellValue) -> str:
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


POLICY = "http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\""
VIEW = 'name="viewport" content="width=device-width, initial-scale=1"'
STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5b6673; --paper: #ffffff; --band: #f3f5f8; --line: #d5dbe3; --blue: #2b4c7e;
  --red: #b0431f; --warn: #fdf1ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa6b4; --paper: #14181e; --band: #1d232b; --line: #36404c;
  --blue: #9db9e6; --red: #f0916d; --warn: #2e1f19; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 70rem; margin: 0 auto; padding: 1rem 1.2rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 0.6rem; padding-bottom: 0.2rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0.4rem; }
p { max-width: 46rem; white-space: pre-line; }
a { color: var(--blue); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; margin: 0; padding: 0; list-style: none; }
.note, .flag { background: var(--band); border-left: 4px solid var(--blue); padding: 0.6rem 0.9rem; }
.flag { background: var(--warn); border-color: var(--red); }
.table { width: fit-content; max-width: 100%; max-height: 85vh; overflow: auto; margin: 1rem 0; border: 1px solid var(--line);
  border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.88rem; line-height: 1.35; overflow-wrap: normal; }
caption { text-align: left; padding: 0.5rem 0.7rem; color: var(--soft); }
th, td { padding: 0.28rem 0.7rem; text-align: left; vertical-align: baseline; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody:last-child tr:last-child > * { border-bottom: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
thead th { position: sticky; top: 0; z-index: 2; background: var(--band); white-space: normal; vertical-align: bottom; }
tr > th:first-child { position: sticky; left: 0; z-index: 1; min-width: min(10rem, 40vw); white-space: normal; overflow-wrap: anywhere;
  background: var(--paper); font-weight: 500; border-right: 1px solid var(--line); }
thead tr > th:first-child { z-index: 3; background: var(--band); font-weight: bold; }
tbody tr.group th { background: var(--band); color: var(--blue); font-weight: 650; max-width: none; border-right: 0; }
tr.group span { position: sticky; left: 0.7rem; }
tbody tr:not(.group):hover > * { background: var(--band); }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; margin: 1rem 0; }
figure { margin: 0; max-width: 100%; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
figcaption { color: var(--soft); font-size: 0.85rem; padding-top: 0.3rem; max-width: 46rem; }
@media print { .table { max-height: none; overflow: visible; } }
"""
