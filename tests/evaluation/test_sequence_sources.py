"""`robench corrupt --from` on sequences of real images: numbers by hand, resumed after a kill, compared with another run, refusals."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from commandline import read, refused, robench

MODEL_FILE = """
import torch
from torch import nn
class Banded(nn.Module):
    def __init__(self, share=1.0):
        super().__init__()
        self.net = nn.Linear(3, 10)
        with torch.no_grad():
            self.net.weight.copy_(torch.linspace(-9, 9, 30).view(10, 3).sin() * 8)
            self.net.bias.copy_(torch.linspace(-2, 2, 10).cos() * share)
    def forward(self, x):
        return self.net(x.mean((2, 3)) + 3 * x[:, :, 3, 5])
def banded():
    return Banded()
def other():
    return Banded(4.0)
"""


@pytest.fixture
def folder(tmp_path_factory, data_dir):
    """CIFAR-10-P of real images: rolled by a pixel a frame, brighter by a frame, and noisy."""
    if not (data_dir / "cifar10-lossless.npz").exists():
        pytest.skip("no cifar10-lossless.npz in ROBENCH_DATA")
    top = tmp_path_factory.mktemp("sets") / "CIFAR-10-P"
    top.mkdir()
    with np.load(data_dir / "cifar10-lossless.npz") as file:
        x = file["x_test"][:24]
    rng = np.random.default_rng(0)
    np.save(top / "translate.npy", np.stack([np.roll(x, shift, axis=2) for shift in range(-7, 9)], 1))
    np.save(top / "brightness.npy", np.stack([np.clip(x.astype(int) + 6 * step, 0, 255).astype(np.uint8) for step in range(11)], 1))
    noisy = [np.clip(x + rng.normal(0, 30, x.shape), 0, 255).astype(np.uint8) for _ in range(10)]
    np.save(top / "gaussian_noise.npy", np.stack([x, *noisy], 1))
    (top.parent / "models.py").write_text(MODEL_FILE)
    return top


def by_hand(folder, name, noise, apart=1):
    """The share of flips of each sequence, by a plain loop over frames."""
    namespace = {}
    exec(MODEL_FILE, namespace)
    shares = []
    for frames in np.load(folder / f"{name}.npy"):
        with torch.no_grad():
            labels = namespace["banded"]()(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255).argmax(1).tolist()
        pairs = [(labels[0], label) for label in labels[1:]] if noise else list(zip(labels, labels[apart:], strict=False))
        shares.append(sum(one != other for one, other in pairs) / len(pairs))
    return shares


@pytest.mark.realdata
def test_rows_and_samples_are_those_of_a_plain_loop(folder, tmp_path):
    said = robench("corrupt", f"{folder.parent / 'models.py'}:banded", "--from", folder, "--out", tmp_path / "run", "--batch-size", 50)
    rows = {(row["probe"], row["metric"]): row for row in read(tmp_path / "run" / "rows.csv")}
    samples = read(tmp_path / "run" / "samples.csv")
    everything = []
    for name in ("gaussian_noise", "brightness", "translate"):
        shares = by_hand(folder, name, "noise" in name)
        everything.append(np.mean(shares))
        assert float(rows[name, "flip_probability"]["value"]) == pytest.approx(np.mean(shares))
        assert [float(line["flips"]) for line in samples if line["probe"] == name] == pytest.approx(shares)
        assert 0 < np.mean(shares) < 1
    overall = rows["sequences", "mean_flip_probability"]
    assert float(overall["value"]) == pytest.approx(np.mean(everything))
    assert (overall["data"], overall["n"], overall["setting"]) == ("folder:CIFAR-10-P", "24", "difficulty=1 perturbations=3 list=all")
    assert {line["label"] for line in samples} == {"-1"}  # the released set has no labels, and a flip needs none
    assert "mean_flip_probability" in said.stdout
    assert (tmp_path / "run" / "flips.png").stat().st_size > 1000
    assert "Flips along sequences" in (tmp_path / "run" / "report.html").read_text()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]["images"]
    again = robench("corrupt", f"{folder.parent / 'models.py'}:banded", "--from", folder, "--out", tmp_path / "run", "--resume")
    assert "n = 24" in again.stdout.replace("\n", " ")


@pytest.mark.realdata
def test_a_higher_difficulty_compares_frames_that_are_further_apart(folder, tmp_path):
    words = ["--from", folder, "--corruption", "translate", "--severity", "1,3", "--out", tmp_path / "run"]
    robench("corrupt", f"{folder.parent / 'models.py'}:banded", *words)
    rows = [row for row in read(tmp_path / "run" / "rows.csv") if row["metric"] == "flip_probability"]
    assert [row["setting"] for row in rows] == ["difficulty=1", "difficulty=3"]
    assert [float(row["value"]) for row in rows] == pytest.approx([np.mean(by_hand(folder, "translate", False, d)) for d in (1, 3)])


@pytest.mark.realdata
def test_two_runs_are_compared_sequence_by_sequence_and_contradictions_are_found(folder, tmp_path):
    for name in ("banded", "other"):
        robench("corrupt", f"{folder.parent / 'models.py'}:{name}", "--from", folder, "--out", tmp_path / name)
    robench("compare", tmp_path / "banded", tmp_path / "other", "--out", tmp_path / "compared")
    lines = {(line["probe"], line["metric"]): line for line in read(tmp_path / "compared" / "compare.csv")}
    flips = [{line["sample"]: float(line["flips"]) for line in read(tmp_path / name / "samples.csv") if line["probe"] == "translate"}
             for name in ("banded", "other")]  # fmt: skip
    line = lines["translate", "flip_probability"]
    assert float(line["difference"]) == pytest.approx(np.mean(list(flips[1].values())) - np.mean(list(flips[0].values())))
    assert int(line["only_new"]) == sum(flips[1][sample] > flips[0][sample] for sample in flips[0])
    assert line["test"].startswith("tango")
    assert lines["sequences", "mean_top5_distance"]["test"] == "bootstrap"
    assert robench("compare", tmp_path / "banded", tmp_path / "other", "--fail-on", "flip_probability@probe=translate:rise>100%", code=2)
    samples = tmp_path / "other" / "samples.csv"
    samples.write_text(samples.read_text().replace(",0.0,", ",1.0,", 1))
    assert "but the images of the tables beside it give" in refused("compare", tmp_path / "banded", tmp_path / "other")


@pytest.mark.realdata
def test_a_run_on_sequences_that_was_killed_goes_on_to_the_same_rows(folder, tmp_path):
    words = ["corrupt", f"{folder.parent / 'models.py'}:banded", "--from", folder, "--batch-size", 20, "--threads", 1, "--out"]
    robench(*words, tmp_path / "whole")
    run = subprocess.Popen([sys.executable, "-m", "robench", *map(str, words), str(tmp_path / "killed")], env=os.environ)
    state = tmp_path / "killed" / "state-0.jsonl"
    begin = time.monotonic()
    while (not state.exists() or state.read_bytes().count(b"\n") < 4) and time.monotonic() - begin < 60 and run.poll() is None:
        time.sleep(0.005)
    run.kill()
    run.wait()
    if not (tmp_path / "killed" / "rows.csv").exists():
        assert "pass --resume" in refused(*words, tmp_path / "killed")
    robench(*words, tmp_path / "killed", "--resume")
    for name in ("rows.csv", "samples.csv"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "shapes"], "--data has no use for sequences"),
        (["--image-size", "32"], "--image-size has no use for sequences"),
        (["--classes", "as-is"], "--classes has no use for sequences"),
        (["--save"], "--save has no use for sequences"),
        (["--severity", "4"], "difficulties 1, 2 and 3, not 4"),
        (["--corruption", "tiltt"], "unknown perturbation 'tiltt': did you mean 'tilt'"),
        (["--corruption", "fog"], "unknown perturbation 'fog'"),
        (["--reference", "alexnet"], "tv/alexnet,weights=IMAGENET1K_V1"),
        (["--n", "25"], "n = 25 is not possible"),
    ],
)
def test_what_sequences_have_no_use_for_is_refused(folder, words, sentence):
    assert sentence in refused("corrupt", f"{folder.parent / 'models.py'}:banded", "--from", folder, *words)
