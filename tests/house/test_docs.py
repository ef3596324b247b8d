"""The documentation: its Python runs, its links lead somewhere, and the commands it shows are understood."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from robench.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "checkpoints" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_python_of_the_page_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    blocks = [part.split("```")[0] for part in (ROOT / "docs" / "python.md").read_text().split("```python\n")[1:]]
    names: dict[str, object] = {}
    exec(blocks[0], names)
    clean, pgd = map(float, capsys.readouterr().out.split()[:2])
    assert clean > 0.9
    assert 0.4 < pgd < clean
    assert len(names["fallen"]) == round((clean - pgd) * 64)
    for block in blocks[1:]:
        exec(block, names)
    assert list(names["worst"].checkpoint) == ["pgd-at", "blind"]
    assert {path.name for path in names["paths"]} == {path.name for path in (tmp_path / "results" / "maps").iterdir()}
    assert {"rows.csv", "report.html"} <= {path.name for path in names["paths"]}
    assert names["comparison"].to_frame()["probe"].tolist() == ["clean", "pgd"]


def test_the_python_of_the_readme_runs_as_printed(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec((ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0], {})
    left, flags = capsys.readouterr().out.split(maxsplit=1)
    assert 0.5 < float(left) < 0.9
    assert flags.strip() == "[]"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_in_a_command_exists(page):
    commands = get_command(app).commands
    for line in re.findall(r"robench (?:train|eval|attack|saliency|corrupt|compare|list)\b[^`\n|]*", page.read_text()):
        known = {o for p in commands[line.split()[1]].params for o in p.opts} | {"--help"}
        unknown = set(re.findall(r"(?<!\S)--[a-z-]+", line)) - known
        assert not unknown, f"{line}: {unknown}"


def test_no_page_speaks_of_a_machine():
    for page in PAGES:
        assert not re.search(r"/work/|/root/|/home/|\.\./shared", page.read_text()), page
