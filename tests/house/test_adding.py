"""The pages for those who add something of their own: the example of each is run from the command line, by every command that it shows."""

import re
import shlex
from functools import partial
from pathlib import Path

import pytest
from commandline import read, robench
from places import CHECKPOINT, DOCS

from robench.data import DATASETS, load_images
from robench.data.layouts import LAYOUTS
from robench.data.own_sets import images_of_function
from robench.training import presets
from robench.training.presets import PRESETS

MODEL = CHECKPOINT
KINDS = {
    "an-attack",
    "a-probe",
    "a-corruption",
    "a-method",
    "a-score",
    "a-regularizer",
    "an-objective",
    "a-preset",
    "a-data-set",
    "a-layout",
}
QUICK = {"train": ["--arch", "mlp", "--epochs", 1, "--n-train", 200, "--eval-n", 4, "--suite", "fgsm"]}


def blocks(kind, language):
    """The blocks of a language on a page."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / f"adding-{kind}.md").read_text(), re.DOTALL)


def commands():
    """Every command that a page shows, with the kind that the page is on."""
    for kind in sorted(KINDS):
        for line in "".join(blocks(kind, "sh")).splitlines():
            yield pytest.param(kind, shlex.split(line)[1:], id=f"{kind}: {line}")


def test_there_is_a_page_for_each_kind_and_the_index_leads_to_it():
    assert {path.stem.removeprefix("adding-") for path in DOCS.glob("adding-*.md")} == KINDS
    index = (DOCS / "index.md").read_text()
    assert all(f"(adding-{kind}.md)" in index for kind in KINDS)


@pytest.mark.parametrize(("kind", "words"), list(commands()))
def test_every_command_of_a_page_runs_with_its_example(kind, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(blocks(kind, "python")[0])
    if kind == "a-layout":
        exec(blocks(kind, "python")[1], {})  # makes the tree
    command = words[0]
    out = "trained.pt" if command == "train" else "out"
    more = QUICK.get(command, ["--n", 12])
    robench(
        *[MODEL if word == "MODEL" else word for word in words],
        *([] if "--data" in words else ["--data", "shapes"]),
        *more,
        "--out",
        out,
        "--quiet",
    )
    if command == "train":
        assert Path(out).exists()
        return
    told = {str(cell) for path in Path(out).glob("*.csv") for row in read(path) for cell in (*row, *row.values())}
    assert any(("folder:pictures" if kind == "a-layout" else "mine.py:") in cell for cell in told)


def test_the_lines_in_python_of_the_page_on_data_sets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    source, use = blocks("a-data-set", "python")
    Path("mine.py").write_text(source)
    exec(use.replace("MODEL", str(MODEL)), {})
    assert 0 <= float(capsys.readouterr().out) <= 1


@pytest.mark.parametrize(("kind", "line", "table"), [("a-data-set", "bars", DATASETS), ("a-layout", "class-first", LAYOUTS)])
def test_one_line_puts_the_example_of_a_page_into_the_package(kind, line, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = blocks(kind, "python")
    names = {"partial": partial, "images_of_function": images_of_function}
    exec(first, names)
    (entry,) = re.findall(rf'^    "{line}": (.*),$', (DOCS / f"adding-{kind}.md").read_text(), re.MULTILINE)
    monkeypatch.setattr(
        "robench.data.layouts.LAYOUTS" if kind == "a-layout" else "robench.data.DATASETS", {line: eval(entry, names), **table}
    )
    if kind == "a-layout":
        exec(second, {})
        images = load_images("folder:pictures", "test", image_size=32)  # recognised by itself
        assert (len(images), images.classes, images.split) == (12, ("disk", "ring"), "test")
    else:
        assert load_images("bars", "train", n=5).shape == (3, 32, 32)


def test_the_script_of_the_page_on_presets_trains_with_its_preset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", {})  # which takes the script's preset out again
    names: dict[str, object] = {}
    (script,) = blocks("a-preset", "python")
    exec(script, names)
    done, other = names["done"].meta, names["other"].meta
    assert {done["preset"], other["preset"]} == {"tiny"}
    assert done["recipe"]["reg"] == ["jacobian=0.01"]
    assert other["recipe"]["reg"] == []
    assert [len(meta["history"]) for meta in (done, other)] == [1, 1]
    measured, reg = capsys.readouterr().out.splitlines()
    assert {"clean", "fgsm"} <= {*eval(measured)}
    assert reg == "[]"


def test_the_page_on_presets_shows_a_line_of_the_table_as_it_stands():
    page = (DOCS / "adding-a-preset.md").read_text()
    (line,) = [line.strip() for line in page.splitlines() if line.startswith("    ") and "SINGLE_STEP_SETTINGS" in line]
    settings = {"SINGLE_STEP_SETTINGS": presets.SINGLE_STEP_SETTINGS}
    assert eval(f"{{{line}}}", settings)["wong2020"] == presets.DESCRIBED_PRESETS["wong2020"]
