"""The documentation: its Python runs, its links lead somewhere, the commands it shows are understood, examples of docstrings give what
they say."""

import ast
import doctest
import importlib
import re

import pytest
import torch
from places import ROOT
from typer.main import get_command

import robench
from robench.cli import app

PAGES = [ROOT / "README.md", ROOT / "checkpoints" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def docstrings_with_examples(path):
    """(name, line, docstring) of what a file documents with an example: itself, its classes, functions and methods, inner ones too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ">>>" in (text := ast.get_docstring(node) or ""):
            yield getattr(node, "name", path.stem), node.body[0].lineno, text


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


WITH_EXAMPLES = [path for path in sorted((ROOT / "robench").rglob("*.py")) if [*docstrings_with_examples(path)]]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_name)
def test_the_examples_in_the_docstrings_of_a_module_give_what_they_say(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    runner, said = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE), []
    names = {"robench": robench, "torch": torch, **vars(importlib.import_module(module_name(path)))}
    for name, line, text in docstrings_with_examples(path):
        example = doctest.DocTestParser().get_doctest(text, names, name, str(path), line - 1)
        with torch.random.fork_rng(devices=[]):
            runner.run(example, out=said.append)
    assert runner.failures == 0, "".join(said)


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
