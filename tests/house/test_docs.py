"""The documentation: its Python runs, its links lead somewhere, the commands it shows are understood, examples of docstrings give what
they say, and what is named in backticks exists."""

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
from robench.core.draws import Draws
from robench.core.types import Batch, ExplainedImages
from robench.results.cascade import Cascade

MODULES = sorted((ROOT / "robench").rglob("*.py"))
STEMS = {part for path in MODULES for part in path.relative_to(ROOT).with_suffix("").parts} - {"__init__", "__main__"}
VALUES = {"draws": Draws, "batch": Batch, "explained": ExplainedImages, "cascade": Cascade}  # what variables of these names hold
FILE_ENDINGS = ("csv", "json", "py", "md", "txt", "html", "png", "pt", "npz", "npy", "svg", "toml", "sh")
DOTTED_KEYS = {"sagr.lambda", "sagr.norm", "train.norm", "data.n", "data.chosen"}  # in the grid of a sweep; in a manifest
FOREIGN = {"__getattr__", "dir", "backward", "view", "compute_gradients", "pyautoattack", "torchrun"}  # Python, torch, Captum, tools
KEYS = {"lambda", "warmup", "drops", "reg", "seed", "before", "step_size"}  # of recipes and settings; arguments of what is called
PAGES = [ROOT / "README.md", ROOT / "checkpoints" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def docstrings_with_examples(path):
    """(name, line, docstring) of what a file documents with an example: itself, its classes, functions and methods, inner ones too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ">>>" in (text := ast.get_docstring(node) or ""):
            yield getattr(node, "name", path.stem), node.body[0].lineno, text


def documented(path):
    """(name, docstring) of a file and of the classes and functions in it, inner ones too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield getattr(node, "name", path.stem), ast.get_docstring(node) or ""


def words_of_code(path):
    """The words of a file outside its docstrings."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (doc := ast.get_docstring(node, clean=False)):
            text = text.replace(doc, "", 1)
    return {*re.findall(r"\w+", text)}


def defined_names():
    """Functions, classes, methods and fields of the package, and its modules."""
    return STEMS.union(*(re.findall(r"^ *(?:def |class )?(\w+)(?=[:(])", path.read_text(), re.MULTILINE) for path in MODULES))


def exists(name):
    """Whether a dotted name leads to a module, a thing in a module, or a method or field of a class."""
    first, *rest = name.split(".")
    if first in VALUES:
        return has(VALUES[first], rest)
    parts = rest if first == "robench" else [first, *rest]
    depth = max(depth for depth in range(len(parts) + 1) if is_module(parts[:depth]))
    return has(importlib.import_module(".".join(["robench", *parts[:depth]])), parts[depth:])


def is_module(parts):
    """Whether there is a module or package of robench with this path."""
    place = ROOT.joinpath("robench", *parts)
    return place.is_dir() or place.with_suffix(".py").exists()


def has(thing, names):
    """Whether a thing has an attribute or field, that one the next, and so on."""
    first, *rest = [*names, ""]
    if not first or first in getattr(thing, "__dataclass_fields__", ()):
        return True
    return hasattr(thing, first) and has(getattr(thing, first), rest[:-1])


def dotted_names(text):
    """The dotted names in backticks that begin with a package, a module or a known variable, without files and keys."""
    names = {*re.findall(r"`((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)(?:\([^`\n]*\))?`", text)} - DOTTED_KEYS
    return [name for name in names if name.split(".")[0] in STEMS | VALUES.keys() and name.rpartition(".")[2] not in FILE_ENDINGS]


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


@pytest.mark.parametrize("path", [*MODULES, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_dotted_names_in_docstrings_and_pages_exist_below_robench(path):
    texts = documented(path) if path.suffix == ".py" else [(path.name, path.read_text())]
    missing = {f"{place}: {name}" for place, text in texts for name in dotted_names(text) if not exists(name)}
    assert not missing, "write the whole path below robench, as in core.types.AttackResult"


def test_single_names_in_docstrings_stand_in_the_code_of_their_module_or_are_defined_in_another():
    defined, missing = defined_names() | FOREIGN | KEYS, []
    for path in MODULES:
        known = words_of_code(path) | defined
        for place, text in documented(path):
            missing += [f"{path.stem}.{place}: {name}" for name in re.findall(r"`([A-Za-z_]\w*)`", text) if name not in known]
    assert not missing


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
    assert names["comparison"].to_frame().query("metric == 'accuracy'")["probe"].tolist() == ["clean", "pgd"]


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
    for line in re.findall(r"robench (?:train|eval|attack|saliency|corrupt|compare|report|list)\b[^`\n|]*", page.read_text()):
        known = {o for p in commands[line.split()[1]].params for o in p.opts} | {"--help"}
        unknown = set(re.findall(r"(?<!\S)--[a-z-]+", line)) - known
        assert not unknown, f"{line}: {unknown}"


@pytest.mark.parametrize("path", [*MODULES, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_called_a_score_is_never_called_an_audit(path):
    texts = documented(path) if path.suffix == ".py" else [(path.name, path.read_text())]
    assert not [place for place, text in texts if re.search(r"\baudit", text, re.IGNORECASE)]


def test_no_page_speaks_of_a_machine():
    for page in PAGES:
        assert not re.search(r"/work/|/root/|/home/|\.\./shared", page.read_text()), page
