"""The pages for those who add something of their own: the example of each is run from the command line, by every command that it shows."""

import json
import re
import shlex
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
from commandline import read, robench
from places import CHECKPOINT, DOCS

from robench import data
from robench.cli.lists import list_entries
from robench.data import load_images
from robench.data.own_sets import images_of_function
from robench.models import checkpoint_meta
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
    "a-tracker",
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
    if kind == "a-tracker":
        file = "fog.jsonl" if command == "corrupt" else "log.jsonl"
        logged = [
            json.loads(line) for line in Path("trained.log.jsonl" if command == "train" else f"{out}/{file}").read_text().splitlines()
        ]
        assert logged[0]["parameters"]
        assert any("accuracy" in tag for record in logged[1:] for tag in record)
    if kind == "a-tracker" or command == "train":
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


# kind: what `robench list` calls it, and the dict of the package
IN_THE_PACKAGE = {
    "an-attack": ("attacks", "robench.attacks.ATTACKS"),
    "a-probe": ("probes", "robench.probes.PROBES"),
    "a-corruption": ("corruptions", "robench.corruptions.CORRUPTIONS"),
    "a-method": ("methods", "robench.explainers.EXPLAINERS"),
    "a-score": ("scores", "robench.scores.SCORES"),
    "a-regularizer": ("regularizers", "robench.objectives.REGULARIZERS"),
    "an-objective": ("objectives", "robench.objectives.OBJECTIVES"),
    "a-preset": ("presets", "robench.training.presets.DESCRIBED_PRESETS"),
    "a-data-set": ("data", "robench.data.DATASETS"),
    "a-layout": ("", "robench.data.layouts.LAYOUTS"),
    "a-tracker": ("trackers", "robench.report.trackers.TRACKERS"),
}
LINE = r'^    "([a-z0-9-]+)": (.*),$'  # of a dict, as a page shows it


def put_into_the_package(kind, monkeypatch):
    """Adds the example of a page by the one line that the page shows, and returns its name; what follows from the dict follows anew."""
    names = {"partial": partial, "images_of_function": images_of_function, "SINGLE_STEP_SETTINGS": presets.SINGLE_STEP_SETTINGS}
    if kind != "a-preset":  # whose line is of a preset that there is
        exec(blocks(kind, "python")[1 if kind == "a-corruption" else 0], names)
    page = (DOCS / f"adding-{kind}.md").read_text()
    ((name, entry),) = re.findall(LINE, page[page.index("## In robench itself") :], re.MULTILINE)
    name = "a-new-preset" if kind == "a-preset" else name
    module, _, table = IN_THE_PACKAGE[kind][1].rpartition(".")
    entries = getattr(import_module(module), table)
    if kind == "a-layout":  # layouts are tried in order, and the last one takes every folder
        monkeypatch.setattr(IN_THE_PACKAGE[kind][1], {name: eval(entry, names), **entries})
    else:
        monkeypatch.setitem(entries, name, eval(entry, names))
    if kind == "a-preset":
        monkeypatch.setitem(PRESETS, name, entries[name][1])
        monkeypatch.setitem(presets.PRESET_DESCRIPTIONS, name, entries[name][0])
    if kind == "a-data-set":
        monkeypatch.setitem(data.DATASET_SUMMARIES, name, data.data_summary(name, entries[name]))
    return name


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_one_line_puts_the_example_of_a_page_into_the_package(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = put_into_the_package(kind, monkeypatch)
    listed = IN_THE_PACKAGE[kind][0]
    if listed:
        (summary,) = [text for entry, text, _ in list_entries(listed) if entry == name]
        assert 0 < len(summary) <= 140
        assert f" {name} " in robench("list", listed).stdout
    if kind == "a-layout":
        exec(blocks(kind, "python")[1], {})  # makes the tree, which is recognised by itself
        images = load_images("folder:pictures", "test", image_size=32)
        assert (len(images), images.classes, images.split) == (12, ("disk", "ring"), "test")
        return
    line = f"robench train --preset {name}" if kind == "a-preset" else "".join(blocks(kind, "sh")).splitlines()[0]
    words = [MODEL if word == "MODEL" else re.sub(r"mine\.py:\w+", name, word) for word in shlex.split(line)[1:]]
    more = QUICK.get(words[0], ["--n", 12])
    robench(
        *words,
        *([] if "--data" in words else ["--data", "shapes"]),
        *more,
        "--out",
        "trained.pt" if words[0] == "train" else "out",
        "--quiet",
    )
    if words[0] == "train":
        assert name in json.dumps(checkpoint_meta("trained.pt"))
    elif kind == "a-tracker":
        assert Path("out", "log.jsonl").stat().st_size > 0
    else:
        assert name in {cell for row in read(Path("out", "rows.csv")) for cell in row.values()}


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
    assert eval(f"{{{line}}}", settings)["n-fgsm2022"] == presets.DESCRIBED_PRESETS["n-fgsm2022"]
