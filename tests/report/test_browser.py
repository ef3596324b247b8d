"""The page in a browser: its script runs without an error, keeps what was chosen in the address, and the page reads whole without it."""

import re
import shutil
import subprocess

import pytest
from made_runs import make_nights, make_run, share_row

import robench

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of twelve runs: ten nights of one model, and two other models."""
    folder = tmp_path_factory.mktemp("browser")
    make_nights(folder / "results", 10, more=[share_row("net.pt", 100, "fog", 70, metric="mean_accuracy")])
    make_run(folder / "results" / "a", name="weak <b>.pt", robust=0.1, clean=0.95, flags=["something is odd"])
    make_run(folder / "results" / "c", name="strong.pt", robust=0.8, clean=0.85)
    return robench.write_report(folder / "results", folder / "page.html")


def opened(page, fragment, *more):
    """The document after its script has run, and what the browser says of errors."""
    words = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={page.parent / 'profile'}",
        "--enable-logging=stderr", "--hide-scrollbars", *more, f"{page.as_uri()}{fragment}",
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Content Security Policy" in line]
    return done.stdout, said


def table_rows(document):
    """The rows of the leaderboard as they stand, with whether they are hidden: (text of the first cell, hidden)."""
    table = document.split('data-name="leaderboard"')[1].split("</table>")[0]
    body = table.split("<tbody>")[1]
    return [
        (re.sub(r"<[^>]*>", "", row.split("</th>")[0]).partition(">")[2], " hidden" in row.split(">")[0]) for row in body.split("<tr")[1:]
    ]


def heads(document):
    return dict(re.findall(r'<th scope="col"[^>]*data-key="([^"]*)"[^>]*aria-sort="(\w+)"', document.split('data-name="leaderboard"')[1]))


@pytest.fixture(scope="module")
def dumped(page):
    """Each fragment's document, once."""
    known = {}

    def document(fragment):
        if fragment not in known:
            known[fragment], said = opened(page, fragment, "--dump-dom")
            assert said == []
        return known[fragment]

    return document


def test_the_address_sorts_the_leaderboard(dumped):
    strong, net, weak = "strong.pt", "net.pt (sha256", "weak &lt;b&gt;.pt"
    up = [name for name, _ in table_rows(dumped("#sort=smoke"))]
    down = [name for name, _ in table_rows(dumped("#sort=smoke&desc"))]
    assert up[0] == weak
    assert up[-1] == strong
    assert down[0] == strong
    assert down[-1] == weak
    assert all(name.startswith(net) for name in up[1:-1])
    by_name = [name.split()[0] for name, _ in table_rows(dumped("#sort=model&desc"))]
    assert by_name == ["weak", "strong.pt", *["net.pt"] * 10]
    states = heads(dumped("#sort=smoke&desc"))
    assert [key for key, state in states.items() if state == "descending"] == ["smoke-linf-8-255"]
    assert {*states.values()} == {"descending", "none"}
    assert set(heads(dumped("")).values()) == {"none"}


def test_the_address_filters_rows_chooses_columns_and_colours(dumped):
    document = dumped("#filter=strong&theme=dark&columns=clean")
    assert [name for name, hidden in table_rows(document) if not hidden] == ["strong.pt"]
    assert re.search(r'role="status">1 of 12 rows<', document)
    assert '<html lang="en" data-theme="dark">' in document
    head = document.split('data-name="leaderboard"')[1].split("</thead>")[0]
    shown = re.findall(r"<th scope=\"col\"[^>]*>", head)
    assert ["hidden" in head for head in shown] == [False, False, *[True] * (len(shown) - 2)]
    assert '<html lang="en">' in dumped("")
    assert all(not hidden for _, hidden in table_rows(dumped("")))


def test_a_fragment_that_says_nothing_useful_changes_nothing(dumped):
    plain = [name for name, _ in table_rows(dumped(""))]
    for fragment in ("#sort=nothing&columns=", "#%E0%A4%A&=&&desc", "#theme=<script>alert(1)</script>&sort=__proto__"):
        assert [name for name, _ in table_rows(dumped(fragment))] == plain


def test_headers_are_buttons_and_controls_have_names(dumped):
    document = dumped("")
    head = document.split('data-name="leaderboard"')[1].split("</thead>")[0]
    assert head.count("<th ") == head.count('<button type="button">')
    assert re.search(r'<label>Filter <input type="search"', document)
    assert 'role="search" aria-label="rows and columns of leaderboard"' in document


def test_without_its_script_the_page_shows_every_number(page, dumped):
    plain = page.read_text()
    assert "<button" not in plain
    assert "hidden" not in re.sub(r"<(style|script)>.*?</\1>|aria-hidden", "", plain, flags=re.DOTALL)
    with_script = re.sub(r"<[^>]*>", " ", dumped("").split("<main")[1].split("<script")[0]).split()
    assert {*re.sub(r"<[^>]*>", " ", plain.split("<main")[1].split("<script")[0]).split()} <= {*with_script}


@pytest.mark.parametrize(("width", "theme"), [(400, "light"), (1600, "dark")])
def test_a_screenshot_shows_a_page_that_is_no_wider_than_the_window(page, tmp_path, width, theme):
    from PIL import Image

    _, said = opened(page, f"#theme={theme}", f"--window-size={width},1200", f"--screenshot={tmp_path / 'shot.png'}")
    assert said == []
    image = Image.open(tmp_path / "shot.png").convert("L")
    assert image.width == width
    paper = image.getpixel((2, image.height - 3))
    assert paper > 240 if theme == "light" else paper < 30
    assert image.getextrema()[1] - image.getextrema()[0] > 150  # there is text on it
