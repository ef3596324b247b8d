"""The HTML page: whole and closed, nothing from outside runs or loads, cells and pictures arrive as they were given."""

import base64
import hashlib
import io
import math
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from robench.core.errors import InputError
from robench.report.page import (
    DASH,
    Chart,
    DataTable,
    FigureBox,
    Folded,
    Heading,
    NoteBox,
    Paragraph,
    Picture,
    Preformatted,
    TableCell,
    VerdictBox,
    column_texts,
    is_numeric,
    write_page,
)

VOID = {"meta", "img", "br", "link", "input", "hr"}
CHILDREN = {"table": {"caption", "thead", "tbody"}, "thead": {"tr"}, "tbody": {"tr"}, "tr": {"th", "td"}, "ul": {"li"}}
PHRASING = {"a", "span", "img"}
HOLD_PHRASING = {"h1", "h2", "h3", "p", "th", "td", "caption", "figcaption", "li", "a", "span"}


class Reader(HTMLParser):
    """The elements of a page as (tag, attributes, text inside, parents); complains about what is not nested or not closed."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.all = [], []

    def handle_starttag(self, tag, attrs):
        parent = self.open[-1][0] if self.open else None
        assert tag in CHILDREN.get(parent, {tag}), f"{tag} in {parent}"
        assert parent not in HOLD_PHRASING or tag in PHRASING, f"{tag} in {parent}"
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} twice"
        element = [tag, dict(attrs), "", [entry[0] for entry in self.open]]
        self.all.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        assert not data.strip() or self.open[-1][0] not in CHILDREN, f"loose text {data!r} in {self.open[-1][0]}"
        for element in self.open:
            element[2] += data

    def named(self, *tags):
        return [element for element in self.all if element[0] in tags]


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert not reader.open
    return reader


def rows(reader):
    """The texts of the cells, row by row, and the classes of the cells likewise."""
    found, inside = [], []
    for tag, attrs, words, _ in reader.all:
        if tag == "tr":
            found.append([])
            inside.append([])
        elif tag in ("th", "td"):
            found[-1].append(words)
            inside[-1].append(attrs.get("class", ""))
    return found, inside


@pytest.fixture
def png(tmp_path):
    """Writes a picture of the given size; returns its path."""

    def write(wide, high, name="a.png"):
        pixels = np.random.default_rng(wide).integers(0, 256, (high, wide, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        return tmp_path / name

    return write


def test_a_page_with_every_kind_of_part_is_whole(tmp_path, png):
    parts = [
        Heading("One"), Paragraph("text"), NoteBox("a note"), NoteBox("a flag", flag=True), Heading("Small", 3),
        DataTable(["model", "gini"], [["a", 0.5]], "caption"), Picture(png(30, 20), "alt", "caption"), Picture(png(31, 20, "b.png"), "alt"),
        Heading("Two"), Heading("Three"), DataTable(["m", "n", "o"], [["a", "b", 1]], grouped=True), DataTable(["only"], []),
        DataTable([], []),
    ]  # fmt: skip
    path = write_page(tmp_path / "page.html", "Title", parts)
    reader = read(path)
    assert path.read_text().startswith("<!DOCTYPE html>\n<html lang=")
    assert [element[2] for element in reader.named("title", "h1", "h2", "h3")] == ["Title", "Title", "One", "Small", "Two", "Three"]
    assert [(e[1]["class"], e[2]) for e in reader.named("p") if "class" in e[1]] == [("note", "a note"), ("flag", "a flag")]
    skip, *links = [(element[1]["href"], element[2]) for element in reader.named("a")]
    assert skip == ("#content", "Skip to the content")
    assert reader.named("main")[0][1]["id"] == "content"
    ids = {element[1]["id"]: element[2] for element in reader.named("h2")}
    assert [(ids[target.removeprefix("#")], words) for target, words in links] == [(name, name) for name in ("One", "Two", "Three")]
    assert [e[1].get("class") for e in reader.named("div")].count("pictures") == 1  # two pictures in a row, wrapped together
    ids = [element[1]["id"] for element in reader.all if "id" in element[1]]
    assert len(set(ids)) == len(ids)


def test_pictures_are_inside_with_every_byte_and_shown_at_the_size_they_were_drawn_at(tmp_path, png):
    path = write_page(tmp_path / "p.html", "t", [Picture(png(300, 150), 'a "quoted" alt', "c"), Picture(png(750, 40, "b.png"), "")])
    images = read(path).named("img")
    for (_, attrs, _, parents), name in zip(images, ("a.png", "b.png"), strict=True):
        head, data = attrs["src"].split(",", 1)
        content = base64.b64decode(data, validate=True)
        assert head == "data:image/png;base64"
        assert content == (tmp_path / name).read_bytes()
        wide, high = Image.open(io.BytesIO(content)).size
        assert (int(attrs["width"]), int(attrs["height"])) == (round(wide * 0.64), round(high * 0.64))
        assert parents[-1] == "figure"
    assert [attrs["alt"] for _, attrs, _, _ in images] == ['a "quoted" alt', ""]


def test_nothing_is_loaded_from_outside_and_nothing_could_be(tmp_path, png):
    path = write_page(tmp_path / "p.html", "t", [Picture(png(8, 8), "a"), DataTable(["m"], [["x"]])])
    source = re.sub(r"base64,[A-Za-z0-9+/=]+|sha256-[A-Za-z0-9+/=]+", "", path.read_text())
    assert not re.search(r"https?:|//|@import|url\(|<script[^>]|<link|<iframe|javascript:|eval|innerHTML", source, re.IGNORECASE)
    policy = next(attrs["content"] for _, attrs, _, _ in read(path).named("meta") if attrs.get("http-equiv"))
    digests = {tag: sha256_of(path, tag) for tag in ("style", "script")}  # of the only ones that there are
    own = f"style-src 'sha256-{digests['style']}'; script-src 'sha256-{digests['script']}'"
    assert policy == f"default-src 'none'; img-src data:; {own}; base-uri 'none'; form-action 'none'"
    for tag, attrs, _, _ in read(path).all:
        assert not {name for name in attrs if name.startswith("on")} | ({"src", "href"} & set(attrs) if tag not in ("img", "a") else set())


def sha256_of(path, tag):
    """The hash of what stands in the one element with this tag, as a policy names it."""
    text = path.read_text(encoding="utf-8")
    assert text.count(f"<{tag}") == 1
    inside = text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
    return base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()


EVIL = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "</title><h1>", "</style>", "<!-- ", "]]>",
    "&lt;b&gt;", "&#60;i&#62;", "a\nb", "{}%s$x$", "\u202eevil", "\u6a21\u578b", "</td></tr></table>", "javascript:alert(1)",
]  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_a_name_is_text_wherever_it_stands(tmp_path, png, name):
    def parts(word):
        return [
            Heading(word), Heading(word), Heading(word, 3), Heading(word), Paragraph(word), NoteBox(word), NoteBox(word, flag=True),
            DataTable([word, word, word], [[word, word, word], [word, "b", 1]], word, grouped=True), DataTable([word, "x"], [[word,
            word]], word),
            Picture(png(8, 8), word, word), VerdictBox(word), FigureBox(word, word, word), Preformatted(word, word),
            Folded(word, [Paragraph(word), DataTable([word], [[word]], name=word)]),
            Chart(word, word, 9, 9, Markup(""), word, [("a", word)]),
            DataTable([word, "x"], [[TableCell(word, 1.0, word, word), word]], word, name=word, better=(0, 1)),
        ]  # fmt: skip

    plain, found = (read(write_page(tmp_path / file, word, parts(word))) for file, word in (("a.html", "plain"), ("b.html", name)))
    assert [(tag, set(attrs), parents) for tag, attrs, _, parents in found.all] == [
        (tag, set(attrs), parents) for tag, attrs, _, parents in plain.all
    ]
    for (_, attrs, words, _), (_, _, before, _) in zip(found.all, plain.all, strict=True):
        if before == "plain":
            assert words == name
        assert attrs.get("alt", name) == name
        assert attrs.get("aria-label") in (None, name, "contents")
        assert attrs.get("data-name") in (None, name)


def test_what_is_no_letter_does_not_break_the_page(tmp_path):
    path = write_page(tmp_path / "p.html", "nul \x00 escape \x1b surrogate \udcff", [Paragraph("a\x0cb\x85")])
    assert read(path).named("h1")[0][2] == "nul ? escape ? surrogate ?"
    assert read(path).named("p")[0][2] == "a?b?"


def test_cells_arrive_as_given_with_numbers_to_the_right(tmp_path):
    table = DataTable(
        ["2020-model", "gini", "interval", "n", "words", "mixed", "rate"],
        [["007", 0.52713, "0.53 [0.51, 0.55]", 200, "1e-3 or so", "1", "52.7 %"], ["b", 0.9, "-1.2 \u00b1 3e-05", 3, "x", "y", "<1 %"]],
    )
    cells, kinds = rows(read(write_page(tmp_path / "p.html", "t", [table])))
    assert cells == [
        list(table.header),
        ["007", "0.527", "0.53 [0.51, 0.55]", "200", "1e-3 or so", "1", "52.7 %"],
        ["b", "0.900", "-1.2 \u00b1 3e-05", "3", "x", "y", "<1 %"],
    ]
    assert kinds == [["", "number", "number", "number", "", "", "number"]] * 3


def test_a_grouped_table_names_each_group_once_and_keeps_every_other_cell(tmp_path):
    methods, models = [f"method-{k}" for k in range(15)], ["a", "b", "c"]
    entries = [[method, model, *(f"0.{k}{len(method)}" for k in range(8))] for method in methods for model in models]
    table = DataTable(["method", "model", *(f"score{k}" for k in range(8))], entries, grouped=True)
    reader = read(write_page(tmp_path / "p.html", "t", [table]))
    cells, _ = rows(reader)
    assert cells[0] == list(table.header[1:])
    assert [row[0] for row in cells if len(row) == 1] == methods
    assert [row for row in cells[1:] if len(row) > 1] == [entry[1:] for entry in entries]
    assert {attrs["colspan"] for _, attrs, _, _ in reader.named("th") if "colspan" in attrs} == {"9"}
    assert len(reader.named("tbody")) == 15


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([0.5, 0.123456, None, math.nan], ["0.500", "0.123", DASH, DASH]),
        ([12.0, 0.5], ["12.00", "0.50"]),
        ([523.0, 0.25], ["523.0", "0.2"]),
        ([123456.0, 7.0], ["123456", "7"]),
        ([1.5e7, 7.25], ["1.5e+07", "7.25"]),
        ([0.9, 0.00042, 0.0, -0.00042], ["0.900", "0.00042", "0.000", "-0.00042"]),
        ([3e-7, 0.0], ["3e-07", "0.000"]),
        ([0.0, -0.0], ["0.000", "0.000"]),
        ([math.inf, -math.inf, 1.0], ["inf", "-inf", "1.000"]),
        ([1, 1000000, "text", ""], ["1", "1000000", "text", ""]),
        ([np.float64(0.25), True], ["0.250", "True"]),
        ([], []),
    ],
)
def test_floats_of_a_column_have_equal_decimals_and_none_is_hidden(column, expected):
    assert column_texts(column) == expected


def test_what_counts_as_numbers():
    assert is_numeric(["0.1", DASH, ""])
    assert is_numeric([DASH, DASH])
    assert is_numeric(["-", "+0.25", "73.20 (70.1 - 76.0)"])
    assert is_numeric(["1e-3", "-inf", "+3 %", "0.5 (0.4; 0.6)"])
    assert not is_numeric(["", ""])
    assert not is_numeric(["...", "1"])
    assert not is_numeric(["resnet20"])
    begin = time.perf_counter()
    assert not is_numeric(["1" * 50_000 + "x", "1,. " * 20_000 + "x"])
    assert time.perf_counter() - begin < 1  # no name makes it slow


def test_what_cannot_be_on_a_page_is_refused_in_one_sentence_and_writes_nothing(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for part, reason in (
        (Picture(tmp_path / "none.png", ""), "cannot read the picture .*none.png"),
        (Picture(tmp_path / "text.png", ""), "text.png is no PNG"),
        (DataTable(["a", "b"], [["x"]]), "2 columns cannot hold a row of 1"),
    ):
        with pytest.raises(InputError, match=reason):
            write_page(tmp_path / "p.html", "t", [part])
    assert [path.name for path in tmp_path.iterdir()] == ["text.png"]


def test_the_same_parts_give_the_same_bytes(tmp_path, png):
    parts = [Heading("a"), Picture(png(20, 20), "a"), DataTable(["m", "n"], [["x", 0.1]])]
    first, second = (write_page(tmp_path / name, "t", parts).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def luminance(colour):
    """The relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_follows_the_published_formula():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)  # the grey that just fails


@pytest.mark.parametrize("place", [0, 1], ids=["light", "dark"])
def test_every_text_has_a_contrast_of_at_least_four_and_a_half_and_every_line_of_three(tmp_path, place):
    style = read(write_page(tmp_path / "p.html", "t", [])).named("style")[0][2]
    colours = {name: pair[place] for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)}
    assert {*re.findall(r"var\(--([\w-]+)\)", style)} <= colours.keys()
    assert not re.search(r"[^-\w](?:color|background): #(?!ffffff)", style)  # no colour without a name
    grounds = ["paper", "sheet", "band"]
    for text in ("ink", "soft", "accent"):
        assert min(contrast(colours[text], colours[ground]) for ground in grounds) >= 4.5
    for state in ("good", "bad", "unsure"):
        assert contrast(colours["ink"], colours[f"{state}-soft"]) >= 4.5
        assert min(contrast(colours[state], colours[ground]) for ground in ("sheet", "band", f"{state}-soft")) >= 4.5
    for line in ("focus", *(f"line-{place}" for place in range(8))):
        assert min(contrast(colours[line], colours[ground]) for ground in grounds) >= 3
