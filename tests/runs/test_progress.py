"""Progress: a bar that counts images on a terminal, and a line after each attack also off one."""

import io
import re

import pytest
import torch
from commandline import robench
from rich.console import Console

from robench import evaluate
from robench.cli import console
from robench.core.recipes import parse_recipe

FACTORY = """
import torch
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
"""


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    return f"{tmp_path}/mine.py:net"


def test_each_attack_ends_with_a_line_off_a_terminal_and_with_none_when_quiet(factory, tmp_path):
    words = ["eval", factory, "--suite", "smoke", "--data", "shapes", "--n", 60, "--eps", "1/255,2/255", "--out"]
    told = robench(*words, tmp_path / "one").stderr
    assert re.search(r"^clean: \d+ of 60 images stand, [\d.]+ s$", told, re.MULTILINE)
    for name in ("fgsm at 1/255", "pgd-10 at 1/255", "fgsm at 2/255", "pgd-10 at 2/255"):
        assert re.search(rf"^{name}: \d+ of 60 images stand", told, re.MULTILINE)
    assert "images stand" not in robench(*words, tmp_path / "two", "--quiet").stderr


def test_a_run_with_a_half_width_says_after_each_block_what_is_known(problem):
    p = problem("linear", n=100)
    told = []

    def track(chunks, what, sentence=lambda: None):
        yield from chunks
        told.append(sentence())

    words = {"suite": [parse_recipe("fgsm")], "eps": float(p.distances("linf").median()), "until": 0.14, "batch_size": 20}
    found = evaluate(p.model, p.x, p.y, track=track, **words)
    sentences = [sentence for sentence in told if sentence]
    assert len(sentences) == len(found.samples) / 20 > 1
    assert sentences[-1].startswith(f"{len(found.samples)} images seen: {100 * found.accuracy('fgsm'):.2f} % left")
    assert all("95 % interval of the 100 chosen images " in sentence for sentence in sentences)


def test_the_bar_counts_images_and_ends_with_their_number(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=shown, force_terminal=True, width=120, highlight=False))
    chunks = torch.arange(10).split(4)
    assert [len(chunk) for chunk in console.image_progress(quiet=False)(chunks, "apgd-t")] == [4, 4, 2]
    assert "0/10" in shown.getvalue()
    assert "apgd-t: 10 images, " in shown.getvalue()


def test_a_sweep_says_which_cell_of_how_many(tmp_path):
    words = ["train", "--sweep", "lr=0.01:0.02", "--n-train", 700, "--held-out", 100, "--epochs", 1, "--eval-n", 20, "--suite", "fgsm"]
    told = robench(*words, "--out", tmp_path / "sweep").stderr
    assert [line for line in told.splitlines() if line.startswith("Cell")] == ["Cell 1 of 2: lr=0.01", "Cell 2 of 2: lr=0.02"]


def test_one_image_stands_and_is_no_plural(tmp_path):
    model = "checkpoints/shapes-cnn-pgd-at.pt"
    told = robench("attack", model, "--attack", "fgsm", "--data", "shapes", "--n", 1, "--out", tmp_path / "one").stderr
    assert re.search(r"^clean: [01] of 1 image stands, [\d.]+ s$", told, re.MULTILINE)
    page = (tmp_path / "one" / "report.html").read_text()
    assert "of the one image is classified correctly as it is" in page
    assert "1 images" not in page
