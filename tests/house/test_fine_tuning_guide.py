"""docs/fine-tuning.md: every command of the page is run in its order, with fewer images, shorter attacks and one epoch."""

import json
import re
import shlex
import subprocess
import sys

from commandline import robench
from places import DOCS

PAGE = (DOCS / "fine-tuning.md").read_text()
SUBSTITUTES = {  # what stands on the page: what is run here
    "--suite autoattack": "--suite apgd-ce,steps=5",
    '"autoattack:': '"apgd-ce:',
    "--n 200": "--n 40",
    "--n 50": "--n 8",
    "--eps 2/255 --out robust.pt": "--eps 2/255 --out robust.pt --epochs 1 --n-train 600 --eval-n 20 --suite fgsm",
    "--seed 1 --out next.pt": "--seed 1 --out next.pt --epochs 1 --n-train 600 --eval-n 20 --suite fgsm",
    "n=4000": "n=1500",
    "range(8)": "range(3)",
}


def blocks(kind):
    """The blocks of code of a kind, as they are run here."""
    text = PAGE
    for written, run in SUBSTITUTES.items():
        assert written in PAGE
        text = text.replace(written, run)
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def test_the_commands_lead_from_weights_to_a_gate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in zip(("my_model.py", "train_mine.py"), blocks("python"), strict=True):
        (tmp_path / name).write_text(text)
    lines = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    for line in lines:
        if line[0] == "python":
            subprocess.run([sys.executable, *line[1:]], check=True)
        elif line[1] == "compare":
            robench(*line[1:], "--quiet") if "results/base" in line else gate(line[1:])
        else:
            robench(*line[1:], "--quiet")
    assert [line[1] for line in lines].count("eval") == 4
    meta = json.loads((tmp_path / "robust.json").read_text())["meta"]
    assert meta["before"]["clean"]["n"] == meta["metrics"]["clean"]["n"]
    assert meta["recipe"]["init"]["name"] == "my.pth"
    assert meta["model"]["mean"] == [0.5, 0.5, 0.5]


def gate(words):
    """Runs a comparison, whose gate may hold or fall on so few images."""
    from commandline import app
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, words)
    assert result.exit_code in (0, 1), result.output
