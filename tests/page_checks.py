"""What a page and the files of a comparison keep to, whatever names stand in them: nothing runs, and each name stays in its place."""

from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser
from xml.etree import ElementTree

from robench.report.page import template_source

SCRIPT = template_source("page.js")  # the only script of a page
ACTIVE = {"iframe", "object", "embed", "base", "link", "form", "frame", "applet", "audio", "video", "foreignobject"}
TURNING = "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
UNESCAPED_BAR = re.compile(r"(?<!\\)(?:\\\\)*\|")


class Tags(HTMLParser):
    """The tags of a page with their attributes, and what stands in its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps the tag."""
        self.tags.append((tag, dict(attrs)))
        self.scripts += [""] * (tag == "script")

    def handle_data(self, data: str) -> None:
        """Keeps the text of a script, and that of the page."""
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def check_page(text: str) -> Tags:
    """Every tag of a page is one of its own: nothing runs but its one script, and nothing comes from elsewhere."""
    page = Tags()
    page.feed(text)
    page.close()
    assert not {tag for tag, _ in page.tags} & ACTIVE
    assert page.scripts in ([], [SCRIPT]), "another script"
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name in ("srcdoc", "formaction", "srcset")], tag
        assert tag != "meta" or (attrs.get("http-equiv") or "").lower() in ("", "content-security-policy")
        for name in ("src", "href", "xlink:href", "action"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/png;base64,")), (tag, attrs)
    policies = [attrs["content"] or "" for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]
    return page


def check_markdown(text: str) -> None:
    """Each line of a table has as many cells as its head, no line is HTML or a link, and nothing steers a terminal."""
    assert not controls(text)
    assert not re.search(r"(?<!\\)[<\[`]", text)
    cells = 0
    for line in text.split("\n"):
        if not line.startswith("| "):
            assert not re.match(r"\s*(\|)", line), line
            cells = 0
            continue
        found = len(UNESCAPED_BAR.findall(line))
        assert cells in (0, found), line
        cells = found


def check_junit(data: bytes) -> list[ElementTree.Element]:
    """Valid XML of the elements of JUnit alone; the test cases."""
    root = ElementTree.fromstring(data)
    assert {element.tag for element in root.iter()} <= {"testsuites", "testsuite", "testcase", "failure", "skipped", "system-out"}
    return [*root.iter("testcase")]


def check_latex(text: str) -> None:
    """Every environment ends where it should, each line of the table has as many cells, and no command is another than the table's."""
    assert not controls(text)
    bare = text.replace("\\\\", "\n").replace("\\&", "")
    begun = re.findall(r"\\(begin|end)\{(\w+\*?)\}", bare)
    open_ones: list[str] = []
    for kind, name in begun:
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert open_ones == []
    assert not re.search(r"\\(input|include|write|def|catcode|href|url|immediate)\b", bare)


def controls(text: str) -> list[str]:
    """The signs of a text that steer a terminal, or turn the direction in which it is read."""
    return [letter for letter in text if letter not in "\n\t" and (unicodedata.category(letter) == "Cc" or letter in TURNING)]
