"""The pages for those who add something of their own: the example of each is run from the command line, by every command that it shows."""

import re
import shlex
from pathlib import Path

import pytest
from commandline import read, robench

from robench.training import presets
from robench.training.presets import PRESETS

DOCS = Path(__file__).parents[2] / "docs"
MODEL = DOCS.parent / "checkpoints" / "shapes-cnn-pgd-at.pt"
KINDS = {"an-attack", "a-probe", "a-corruption", "a-method", "a-score", "a-regularizer", "an-objective", "a-preset"}
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
    command = words[0]
    out = "trained.pt" if command == "train" else "out"
    more = QUICK.get(command, ["--n", 12])
    robench(*[MODEL if word == "MODEL" else word for word in words], "--data", "shapes", *more, "--out", out, "--quiet")
    if command == "train":
        assert Path(out).exists()
        return
    told = {str(cell) for path in Path(out).glob("*.csv") for row in read(path) for cell in (*row, *row.values())}
    assert any("mine.py:" in cell for cell in told)


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
