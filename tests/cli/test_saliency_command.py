"""`robench saliency` and the probes of `robench eval` and `attack`, end to end: what comes out, and what a user gets wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import read, refused, robench
from places import CHECKPOINT

from robench.core.errors import InputError
from robench.scores.inequality import gini_of_sorted

MODELS = """
import torch
from torch import nn

class Relu(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv, self.relu, self.linear = nn.Conv2d(3, 6, 5, 4), nn.ReLU(), nn.Linear(6 * 49, 10)
        for parameter in self.parameters():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x):
        return self.linear(self.relu(self.conv(x)).flatten(1))

def relu():
    return Relu().eval()

def constant():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.arange(10.0).expand(len(x), -1) + 0 * x.sum((1, 2, 3))[:, None]
    return Constant()

def probabilities():
    return nn.Sequential(Relu(), nn.Softmax(1)).eval()
"""
PAIRS = """
import torch
from torch import nn
from robench.attacks.fgsm import fgsm
from robench.core.errors import InputError
from robench.explainers.gradients import saliency

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.std = [0.5], [0.25]

    def forward(self, x):
        return (x - 0.5) / 0.25

def first():
    torch.manual_seed(0)
    return nn.Sequential(Scaled(), nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 10)).eval()

def second():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.GELU(), nn.Linear(8, 10)).eval()

def convolutional(model):
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        raise InputError("this needs a convolution")

def attack(model, x, y, threat, draws):
    convolutional(model)
    return fgsm(model, x, y, threat, draws)

def explain(model, x, target, draws):
    convolutional(model)
    return saliency(model, x, target, draws)

def score(explained):
    convolutional(explained.model)
    return explained.maps.flatten(1).sum(1)
"""


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "mine.py"
    path.write_text(MODELS)
    return path


@pytest.fixture(scope="module")
def audited(tmp_path_factory, factories):
    """An audit of two models with an attack, and its folder."""
    out = tmp_path_factory.mktemp("audit") / "out"
    words = ["saliency", CHECKPOINT, f"{factories}:relu", "--data", "shapes", "--n", 40, "--method", "saliency", "--method", "grad-cam"]
    result = robench(*words, "--against", "pgd-10", "--eps", "16/255", "--score", "maps", "--score", "masks", "--save", "--out", out)
    return out, result


def test_an_audit_puts_the_models_side_by_side(audited):
    out, result = audited
    rows = read(out / "rows.csv")
    ginis = {(row["checkpoint"], row["probe"]): row for row in rows if row["metric"] == "gini" and "images=clean" in row["setting"]}
    assert set(ginis) == {(model, probe) for model in (CHECKPOINT.name, "mine.py:relu") for probe in ("saliency", "grad-cam")}
    for row in ginis.values():
        assert float(row["low"]) < float(row["value"]) < float(row["high"])
        assert (row["data"], row["split"], row["norm"]) == ("shapes", "test", "")
        assert float(row["n"]) <= 40
    for (_, probe), row in ginis.items():
        assert probe in result.stdout
        assert f"{float(row['value']):.4g}" in result.stdout.replace("\n", "")
    *_, last = [row for row in rows if not row["metric"].endswith("class_accuracy")]
    assert "target=true channels=none" in last["setting"]


def test_the_per_sample_table_is_what_the_rows_are_made_of(audited):
    out, _ = audited
    samples = [line for line in read(out / "samples.csv") if line["checkpoint"] == CHECKPOINT.name and line["method"] == "saliency"]
    clean = [line for line in samples if line["images"] == "clean"]
    assert [int(line["sample"]) for line in clean] == list(range(40))
    fallen = [line["sample"] for line in clean if line["fallen_pgd-10"] == "1"]
    assert [line["sample"] for line in samples if line["images"] == "pgd-10"] == fallen
    assert 0 < len(fallen) < 40
    rows = [row for row in read(out / "rows.csv") if row["checkpoint"] == CHECKPOINT.name and row["probe"] == "saliency"]
    value = {(row["metric"], "against" in row["setting"]): float(row["value"]) for row in rows if "images=clean" in row["setting"]}
    assert value["gini", False] == pytest.approx(np.mean([float(line["gini"]) for line in clean]))
    assert value["gini/fallen", True] == pytest.approx(np.mean([float(line["gini"]) for line in clean if line["sample"] in fallen]))
    assert all(0 <= float(line["mass-in-mask"]) <= 1 for line in clean)
    threats = {(row["norm"], row["eps"]) for row in rows if "pgd-10" in row["setting"]}
    assert threats == {("linf", str(16 / 255))}
    assert {(row["norm"], row["eps"]) for row in rows if "pgd-10" not in row["setting"]} == {("", "0.0")}


def test_saved_maps_have_the_gini_of_the_table(audited):
    out, _ = audited
    maps = np.load(out / "maps-shapes-cnn-pgd-at-pt-saliency.npy")
    assert maps.shape == (40, 3, 32, 32)
    column = [float(line["gini"]) for line in read(out / "samples.csv")[:40]]
    again = gini_of_sorted(torch.from_numpy(maps).flatten(1).abs().double().sort(1).values)
    np.testing.assert_allclose(column, again, atol=1e-7)
    assert np.load(out / "maps-mine-py-relu-grad-cam.npy").shape == (40, 1, 32, 32)


def test_an_audit_leaves_pictures_and_one_page_that_needs_nothing_else(audited):
    out, _ = audited
    names = {path.name for path in out.iterdir()}
    assert {f"{kind}-{method}.png" for kind in ("lorenz", "gini") for method in ("saliency", "grad-cam")} < names
    assert {"gallery-mine-py-relu-saliency.png", "margin-shapes-cnn-pgd-at-pt-grad-cam.png"} < names
    page = (out / "report.html").read_text()
    assert "://" not in page
    assert page.count("data:image/png;base64") == sum(name.endswith(".png") for name in names)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["audit"]["methods"] == ["saliency", "grad-cam"]
    layers = {CHECKPOINT.name: "network.4", "mine.py:relu": "conv"}
    assert manifest["audit"]["layers"] == {model: {"grad-cam": layer} for model, layer in layers.items()}
    for row in read(out / "rows.csv"):
        assert (f"layer={layers[row['checkpoint']]} " in row["setting"]) == (row["probe"] == "grad-cam")
    assert "the layer is &#39;conv&#39;" in page or "the layer is 'conv'" in page
    assert [entry["name"] for entry in manifest["checkpoint"]] == [CHECKPOINT.name, "mine.py:relu"]
    assert manifest["threat"] == {"norm": "linf", "eps": 16 / 255}


def test_the_scores_do_not_depend_on_the_batch_size(audited, tmp_path):
    words = ["saliency", CHECKPOINT, "--n", 40, "--batch-size", 7, "--method", "smoothgrad,samples=3", "--out"]
    robench(*words, tmp_path / "small")
    words[5] = 40
    robench(*words, tmp_path / "large")
    for one, other in zip(read(tmp_path / "small" / "samples.csv"), read(tmp_path / "large" / "samples.csv"), strict=True):
        assert one["sample"] == other["sample"]
        assert float(one["gini"]) == pytest.approx(float(other["gini"]), abs=1e-4)


def test_an_earlier_evaluation_is_joined_by_the_weights(tmp_path):
    robench("eval", CHECKPOINT, "--suite", "smoke", "--eps", "16/255", "--n", 30, "--save", "--out", tmp_path / "eval")
    robench("saliency", CHECKPOINT, "--n", 40, "--join", tmp_path / "eval", "--out", tmp_path / "audit")
    broken = {line["sample"]: line["broken_by"] for line in read(tmp_path / "eval" / "samples.csv")}
    lines = read(tmp_path / "audit" / "samples.csv")
    for line in lines[:40]:
        known = broken.get(line["sample"], "clean")
        assert line["fallen_smoke"] == ("" if known == "clean" else str(int(bool(known))))
    assert [line["sample"] for line in lines[40:]] == [sample for sample, by in broken.items() if by not in ("", "clean")]
    said = refused("saliency", CHECKPOINT, "--n", 40, "--join", tmp_path / "eval", "--join", tmp_path / "eval", "--out", tmp_path / "x")
    assert "asked for twice" in said
    assert not (tmp_path / "x").exists()


def test_results_of_another_model_are_not_joined(tmp_path, factories):
    robench("eval", CHECKPOINT, "--suite", "smoke", "--n", 10, "--out", tmp_path / "eval")
    said = refused("saliency", f"{factories}:relu", "--data", "shapes", "--n", 10, "--join", tmp_path / "eval", "--out", tmp_path / "audit")
    assert "with other weights than any model named here" in said


def test_a_constant_model_is_reported_as_one(tmp_path, factories):
    result = robench("saliency", f"{factories}:constant", "--data", "shapes", "--n", 12, "--inductive", "--out", tmp_path / "out")
    assert "all 12 maps of the model are zero, and it gives every image the same logits: there is no Gini" in result.stderr
    assert "12 of 12" in result.stdout
    rows = {row["metric"]: row for row in read(tmp_path / "out" / "rows.csv") if row["probe"] == "saliency"}
    assert rows["gini"]["value"] == ""
    assert float(rows["zero_maps"]["value"]) == 12
    assert "gives every image the same logits" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "saliency", "--method", "deeplift"], "GELU"),
        (
            ["--score", "completeness,baseline=mean", "--method", "integrated-gradients,steps=2"],
            "baseline=mean needs a model that normalises",
        ),
        (["--against", "fgsm", "--against", "random-noise"], "has several levels"),
        (["--against", "pgd-10", "--against", "pgd-10,loss=margin"], "asked for twice"),
        (["--against", "fgsm", "--against", "{mine}:attack"], "this needs a convolution"),
        (["--method", "{mine}:explain"], "this needs a convolution"),
        (["--score", "{mine}:score"], "this needs a convolution"),
    ],
)
def test_one_inadmissible_pair_is_refused_before_anything_is_computed(words, sentence, tmp_path, monkeypatch):
    def computed(*_, **__):
        raise AssertionError("the audit was begun")

    mine = tmp_path / "pairs.py"
    mine.write_text(PAIRS)
    monkeypatch.setattr("robench.runs.execution.run_in_blocks", computed)
    given = [word.format(mine=mine) for word in words]
    said = refused("saliency", f"{mine}:first", f"{mine}:second", "--data", "shapes", "--n", 8, "--out", tmp_path / "out", *given)
    assert sentence in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "salience"], "unknown method 'salience': did you mean 'saliency'"),
        (["--method", "saliency,steps=3"], "has no option 'steps'"),
        (["--method", "guided-backprop"], "changes the gradient at ReLUs alone, and this model calls none"),
        (["--method", "deeplift"], "GELU"),
        (["--method", "grad-cam", "--layer", "nowhere"], "nowhere"),
        (["--layer", "conv1"], "has a layer: leave --layer out"),
        (["--method", "occlusion", "--block", "64"], "block"),
        (["--target", "10"], "no class of the model: it has 10 classes, 0 to 9"),
        (["--target", "tru"], "did you mean 'true'"),
        (["--channels", "median"], "unknown way to put channels together 'median'"),
        (["--score", "ginny"], "did you mean 'gini'"),
        (["--eps", "8/255"], "belong to an attack"),
        (["--against", "pdg-20"], "did you mean 'pgd-20'"),
        (["--against", "random-noise"], "has several levels"),
        (["--against", "gaussian_noise,severity=6"], "severity must be a whole number from 1 to 5, not 6"),
        (["--against", "pgd-10", "--against", "pgd-10"], "asked for twice"),
        (["--join", "nowhere"], "no results folder: nowhere"),
    ],
)
def test_what_is_wrong_gets_one_sentence_and_leaves_nothing(words, sentence, tmp_path):
    assert sentence in refused("saliency", CHECKPOINT, "--n", 8, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_images_of_any_size_are_audited_by_default(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(37 * 50, 2))\n")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "odd.npz", x_test=rng.random((12, 37, 50, 1), dtype=np.float32), y_test=np.arange(12) % 2)
    words = ["saliency", f"{mine}:net", "--data", f"npz:{tmp_path / 'odd.npz'}", "--out", tmp_path / "out"]
    said = " ".join(robench(*words).stderr.split())
    assert "regional-gini is left out: no block of about 4 pixels divides images of 37 x 50" in said
    assert "regional-gini is left out" in (tmp_path / "out" / "report.html").read_text()
    assert {row["metric"] for row in read(tmp_path / "out" / "rows.csv")} > {"gini", "entropy", "top-mass-1", "alignment"}
    assert "no block of about 4 pixels" in refused(*words[:-1], tmp_path / "other", "--score", "regional-gini")


def test_the_passes_of_masking_are_told_before_the_models_are_tried(tmp_path, monkeypatch):
    def tried(*_, **__):
        raise InputError("tried")

    monkeypatch.setattr("robench.runs.execution.admit", tried)
    words = ["saliency", CHECKPOINT, "--n", 8, "--method", "shapley-sampling", "--score", "gini", "--score", "max-sensitivity"]
    said = refused(*words, "--out", tmp_path / "out")
    assert "shapley-sampling: each map takes 1,601 forward passes of the model (8 x 8 blocks of 4 pixels)" in said
    assert "max-sensitivity makes maps anew, which multiplies its passes" in said
    assert "forward passes" not in refused(*words, "--out", tmp_path / "out", "--quiet")


def test_models_trained_for_different_threats_need_one_radius(tmp_path, factories):
    words = ["saliency", CHECKPOINT, f"{factories}:relu", "--data", "shapes", "--n", 8, "--against", "pgd-10", "--norm", "l2"]
    robench(*words, "--eps", "0.5", "--out", tmp_path / "one")
    other = torch.load(CHECKPOINT, weights_only=True)
    other["meta"]["recipe"]["eps"] = 2 / 255
    torch.save(other, tmp_path / "other.pt")
    said = refused("saliency", CHECKPOINT, tmp_path / "other.pt", "--n", 8, "--against", "pgd-10", "--out", tmp_path / "out")
    assert "trained for different threats: pass --norm and --eps" in said


def test_a_method_that_is_refused_late_leaves_no_maps(tmp_path):
    words = ["saliency", CHECKPOINT, "--n", 8, "--save", "--method", "saliency", "--method", "deeplift", "--out", tmp_path / "out"]
    assert "GELU" in refused(*words)
    assert not (tmp_path / "out").exists()


def test_probabilities_are_refused(tmp_path, factories):
    said = refused("saliency", f"{factories}:probabilities", "--data", "shapes", "--n", 8, "--out", tmp_path / "out")
    assert "the model returns probabilities" in said


def test_two_models_with_one_file_name_are_told_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pt").write_bytes(CHECKPOINT.read_bytes())
    words = ["saliency", tmp_path / "a" / "model.pt", tmp_path / "b" / "model.pt", "--n", 8, "--out", tmp_path / "out"]
    robench(*words)
    assert {row["checkpoint"] for row in read(tmp_path / "out" / "rows.csv")} == {"a/model.pt", "b/model.pt"}
    assert "named twice" in refused("saliency", CHECKPOINT, CHECKPOINT, "--n", 8)


def test_the_suite_inductive_gives_both_denominators_for_several_models(tmp_path, factories):
    out = tmp_path / "out"
    robench("eval", CHECKPOINT, f"{factories}:relu", "--data", "shapes", "--suite", "inductive", "--n", 30, "--out", out)
    rows = read(out / "rows.csv")
    probes = {row["probe"] for row in rows}
    assert {
        "clean",
        "inductive-noise",
        "inductive-noise-2",
        "random-noise",
        "inductive-occlusion-n5r10",
        "random-occlusion-n10r20",
    } < probes
    for checkpoint in (CHECKPOINT.name, "mine.py:relu"):
        mine = [row for row in rows if row["checkpoint"] == checkpoint]
        right = sum(
            line["fooled"] == "0.0" for line in read(out / "samples.csv") if (line["checkpoint"], line["probe"]) == (checkpoint, "clean")
        )
        assert {int(row["n"]) for row in mine if row["metric"] == "error_rate"} == {right}
        shared = {int(row["n"]) for row in mine if row["metric"] == "error_rate_shared"}
        assert len(shared) == 1
        assert shared.pop() <= right
    levels = [row["setting"].split()[0] for row in rows if row["probe"] == "inductive-noise" and row["metric"] == "error_rate"]
    assert levels[:10] == [f"t={i / 500:g}" for i in range(1, 11)]
    assert {"noise.png", "occlusion.png", "report.html", "manifest.json"} < {path.name for path in out.iterdir()}


def test_an_attack_by_a_probe_writes_its_one_level(tmp_path):
    robench("attack", CHECKPOINT, "--attack", "random-noise,t=0.1,repeats=2", "--n", 20, "--out", tmp_path / "out")
    (row,) = [row for row in read(tmp_path / "out" / "rows.csv") if row["metric"] == "error_rate"]
    assert row["setting"] == "t=0.1 k=307 kind=add noise=normal sigma=1.0 repeats=2"
    (share,) = [row for row in read(tmp_path / "out" / "rows.csv") if row["metric"] == "changed_share"]
    assert float(share["value"]) == pytest.approx(307 / 3072)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["attack", CHECKPOINT, "--attack", "inductive-noise", "--eps", "8/255"], "no use for --eps"),
        (["attack", CHECKPOINT, "--attack", "random-noise", "--resume"], "Pass its folder with --out"),
        (["attack", CHECKPOINT, "--attack", "random-noise,t=2"], "t must be"),
        (["eval", CHECKPOINT, "--suite", "inductive", "--engine", "reference"], "no use for --engine"),
        (["attack", CHECKPOINT, "--attack", "inductive-occlusion,colour=blue"], "colour"),
    ],
)
def test_what_a_probe_cannot_take_is_refused(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(*words, "--n", 8)
    assert not list(tmp_path.rglob("*.csv"))


def test_a_cascade_of_attacks_takes_several_models(tmp_path, factories):
    out = tmp_path / "out"
    said = robench(
        "eval", CHECKPOINT, f"{factories}:relu", "--data", "shapes", "--n", 8, "--suite", "smoke", "--eps", "8/255", "--out", out
    )
    assert "smoke of 2 models on shapes test, n = 8" in said.stdout
    assert {row["checkpoint"] for row in read(out / "samples.csv")} == {Path(CHECKPOINT).name, "mine.py:relu"}
    assert (out / "report.html").exists()
