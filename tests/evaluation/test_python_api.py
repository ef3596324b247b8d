"""The public functions: whatever images and models come in, the same rows come out; results as frames, notebooks and folders; refusals."""

import importlib
import inspect
import typing
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from commandline import read, robench
from places import CHECKPOINT
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import robench as public
from robench.core import statistics
from robench.core.errors import InputError
from robench.core.rows import Row, blank_row
from robench.core.threat import Threat
from robench.data import load_images
from robench.report.comparison import Comparison
from robench.report.result import Result
from robench.results.compare import ComparisonLine
from robench.runs.pools import images_from_arrays
from robench.training.presets import SMALL_SETTINGS

FUNCTIONS = ("attack", "compare", "corrupt", "evaluate", "gini", "load_model", "probe", "saliency", "train")
OF_STATISTICS = (
    "anytime_valid_interval", "bootstrap_interval", "difference_of_means", "least_significant_count",
    "mcnemar", "paired_difference", "quantiles", "spearman",
    "superiority",
)  # fmt: skip
CALLS = {
    "evaluate": partial(public.evaluate, suite=["fgsm", "random-noise,t=0.2", "fog,severity=3", "saliency"], eps=0.02),
    "attack": partial(public.attack, recipe="pgd,steps=2", eps=0.02),
    "probe": partial(public.probe, recipes=["random-noise,t=0.2,repeats=2"]),
    "corrupt": partial(public.corrupt, corruptions=["fog", "contrast"], severities=(1, 3)),
    "saliency": partial(public.saliency, scores="gini", against=["fgsm"], eps=0.02),
}


@pytest.fixture
def p(problem):
    return problem("convolutional", n=12, shape=(3, 32, 32))


@pytest.fixture
def other(problem):
    return problem("convolutional", n=12, shape=(3, 32, 32), seed=1).model


def told(found):
    """The rows without what depends on the clock."""
    return [str(row) for row in found.rows if row.metric != "seconds"]


@pytest.mark.parametrize("name", [*FUNCTIONS, *(f"statistics.{name}" for name in OF_STATISTICS)])
def test_every_public_function_says_all_it_takes_and_gives_with_an_example(name):
    home = statistics if "." in name else public
    function = getattr(home, name.rpartition(".")[2])
    words = inspect.signature(function).parameters
    assert not [word for word in words.values() if word.kind in (word.VAR_KEYWORD, word.VAR_POSITIONAL)]
    text = inspect.getdoc(function)
    for section in ("Returns:", "Raises:", "Example:"):
        assert f"\n{section}\n" in text, section
    described = [line.strip().partition(":")[0] for line in text.split("Args:\n")[1].split("\n\n")[0].splitlines() if line[4:5].strip()]
    assert described == list(words)
    hints = typing.get_type_hints(inspect.unwrap(function), vars(importlib.import_module(inspect.unwrap(function).__module__)))
    assert {*hints} == {*words, "return"}
    assert ">>> " in text.split("Example:\n")[1]  # tests/house/test_docs.py runs it


def test_a_training_takes_every_key_of_a_preset():
    words = inspect.signature(public.train).parameters
    assert {*SMALL_SETTINGS} <= {*words}
    assert all(words[key].default is None for key in SMALL_SETTINGS)
    with pytest.raises(TypeError, match="lerning_rate"):
        public.train("shapes", lerning_rate=1)


@pytest.mark.parametrize("name", CALLS)
def test_tensors_arrays_a_data_set_and_a_loader_give_the_same_rows(name, p):
    call = CALLS[name]
    expected = told(call(p.model, p.x, p.y))
    assert len(expected) > 3
    loader = DataLoader(TensorDataset(p.x, p.y), batch_size=5)
    for images in ((p.x.numpy(), p.y.numpy()), (p.x.numpy(), p.y.tolist()), (images_from_arrays(p.x, p.y),), (loader,)):
        found = call(p.model, *images)
        assert told(found) == expected
        assert isinstance(found, Result)
        assert isinstance(found.to_frame(), pd.DataFrame)
        assert list(found.to_frame().columns) == [field.name for field in fields(Row)]
        assert len(found.to_frame()) == len(found.rows)


@pytest.mark.parametrize("name", CALLS)
def test_several_models_by_a_mapping_or_as_subjects_have_the_rows_of_each_alone(name, p, other):
    call = CALLS[name]
    both = call({"a": p.model, "b": other.forward}, p.x, p.y)
    subjects = [public.Subject(model, replace(blank_row(), checkpoint=called)) for called, model in (("a", p.model), ("b", other))]
    assert told(call(subjects, p.x, p.y)) == told(both)
    assert told(call(dict(zip("ab", subjects, strict=True)), p.x, p.y)) == told(both)
    for called, model in (("a", p.model), ("b", other)):
        alone = [line for line in told(call({called: model}, p.x, p.y)) if "_shared" not in line]
        assert [line for line in told(both) if f"checkpoint={called!r}" in line and "_shared" not in line] == alone


def test_the_names_of_a_data_set_are_those_of_the_rows(p):
    images = replace(images_from_arrays(p.x, p.y), name="mine", split="test")
    assert {(row.checkpoint, row.data, row.split) for row in CALLS["attack"](p.model, images).rows} == {("", "mine", "test")}
    about = replace(blank_row(), checkpoint="net.pt", preset="small", data="d", split="s")
    rows = public.evaluate(p.model, p.x, p.y, suite=["fgsm"], about=about).rows
    assert {(row.checkpoint, row.preset, row.data, row.split) for row in rows} == {("net.pt", "small", "d", "s")}


def test_masks_may_be_handed_over_beside_arrays():
    images = load_images("shapes", "test", n=12)
    model = public.load_model(CHECKPOINT)
    words = {"scores": "mass-in-mask", "ids": images.ids}
    found = public.saliency(model, images.x, images.y, masks=images.masks.numpy(), **words)
    expected = [row.value for row in public.saliency(model, images, scores="mass-in-mask").rows if row.metric == "mass-in-mask"]
    assert [row.value for row in found.rows if row.metric == "mass-in-mask"] == expected
    with pytest.raises(InputError, match=r"masks has shape \(12, 16, 16\), and must be \(12, 32, 32\)"):
        public.saliency(model, images.x, images.y, masks=images.masks[:, ::2, ::2], **words)
    with pytest.raises(InputError, match="needs the object's mask"):
        public.saliency(model, images.x, images.y, **words)


def test_maps_are_saved_to_a_folder(p, other, tmp_path):
    public.saliency({"a.pt": p.model, "b": other}, p.x, p.y, ["saliency", "input-x-gradient"], "gini", save=tmp_path / "maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == sorted(
        f"maps-{name}-{method}.npy" for name in ("a-pt", "b") for method in ("saliency", "input-x-gradient")
    )
    assert np.load(tmp_path / "maps" / "maps-b-saliency.npy").shape == tuple(p.x.shape)
    public.saliency(p.model, p.x, p.y, scores="gini", save=tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["maps-model-saliency.npy"]


def test_errors_are_divided_by_those_of_a_reference(p, other):
    call = CALLS["corrupt"]
    itself = call({"a": p.model}, p.x, p.y, reference=p.model)
    assert {row.checkpoint for row in itself.rows} == {"a"}
    named = public.Subject(other, replace(blank_row(), checkpoint="other"))
    against = call({"a": p.model}, p.x, p.y, reference=named)
    assert any("reference=other" in row.setting for row in against.rows)
    assert told(call({"a": p.model}, p.x, p.y, reference=other)) == [
        line.replace("reference=other", "reference=reference") for line in told(against)
    ]


def test_the_gini_is_that_of_the_sizes_by_hand():
    maps = torch.tensor([[[1.0, -1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, -7.0]], [[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    found = public.gini(maps)
    assert (found.dtype, tuple(found.shape)) == (torch.float64, (4,))
    assert found[:3].tolist() == pytest.approx([0, 3 / 4, 1 / 4])
    assert found[3].isnan()
    assert torch.equal(public.gini(maps.numpy() * 3)[:3], public.gini(maps * 3)[:3])
    assert public.gini([[0, 0, -3, 0]]).tolist() == public.gini(torch.tensor([[0, 0, 3, 0]], dtype=torch.uint8)).tolist() == [0.75]
    assert public.gini(torch.ones(0, 5)).shape == (0,)
    for wrong in (torch.ones(4), torch.ones(4, 0), torch.ones(2, 2, dtype=torch.complex64), "maps"):
        with pytest.raises(InputError, match="maps"):
            public.gini(wrong)


def test_a_notebook_shows_the_rows_and_runs_nothing_that_is_in_them(p):
    found = public.attack({"<script>alert(1)</script>": p.model, "b": p.model}, p.x, p.y, "fgsm", eps=0.02)
    shown = found._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    for words in ("<table", "accuracy", "fgsm"):
        assert words in shown
    many = replace(found, rows=[row for row in found.rows for _ in range(20)])
    assert f"{len(many.rows) - 60} rows more" in many._repr_html_()


def saved(name, model, images, folder, **words):
    """What a public function saves."""
    return {path.name for path in CALLS[name](model, images, **words).save(folder)}


def test_what_is_saved_are_the_files_that_the_command_line_writes(tmp_path):
    images = load_images("shapes", "test", n=12)
    model = {CHECKPOINT.name: public.load_model(CHECKPOINT)}
    words = ["--n", 12, "--eps", "0.02", "--quiet", "--device", "cpu"]
    robench("attack", CHECKPOINT, "--attack", "pgd,steps=2", *words, "--out", tmp_path / "attack")
    robench("attack", CHECKPOINT, "--attack", "random-noise,t=0.2,repeats=2", *words[:2], "--quiet", "--out", tmp_path / "probe")
    cells = ["--corruption", "fog", "--corruption", "contrast", "--severity", "1,3"]
    robench("corrupt", CHECKPOINT, *cells, *words[:2], "--quiet", "--out", tmp_path / "corrupt")
    robench("saliency", CHECKPOINT, "--score", "gini", "--against", "fgsm", *words, "--out", tmp_path / "saliency")
    for name in ("attack", "probe", "corrupt", "saliency"):
        folder = tmp_path / "python" / name
        written = saved(name, model, images, folder)
        assert written == {path.name for path in folder.iterdir()}, name
        assert written == {path.name for path in (tmp_path / name).iterdir()} - {"state-0.jsonl"}, name  # with which a run can go on
        for table in ("rows.csv", "samples.csv"):
            ours, theirs = (
                [{k: v for k, v in line.items() if k not in ("preset", "value")} | value(line) for line in read(place / table)]
                for place in (folder, tmp_path / name)
            )
            assert ours == theirs, (name, table)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(InputError, match="holds a finished run: choose another folder"):
            saved(name, model, images, folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "rows.csv").write_text("mine")
    with pytest.raises(InputError, match=r"rows\.csv"):
        saved("attack", model, images, tmp_path / "foreign")
    assert (tmp_path / "foreign" / "rows.csv").read_text() == "mine"


def value(line):
    """The value of a line, but for seconds."""
    return {"value": line["value"]} if "metric" in line and line["metric"] != "seconds" else {}


def test_two_saved_results_are_compared_and_the_comparison_is_shown_and_saved(p, other, tmp_path):
    for name, model in (("base", p.model), ("new<b>", other)):
        public.attack({name: model}, p.x, p.y, "fgsm", eps=0.02).save(tmp_path / name[:3])
    found = public.compare(tmp_path / "bas", str(tmp_path / "new"), gates="clean:drop,fgsm:drop>1%")
    assert isinstance(found, Comparison)
    assert list(found.to_frame().columns) == [field.name for field in fields(ComparisonLine)]
    accuracies = found.to_frame().query("metric == 'accuracy'")
    assert accuracies["probe"].tolist() == ["clean", "fgsm"]
    assert {line.metric for line in found.lines} == {"accuracy", "class_accuracy", "worst_class_accuracy"}
    assert found.lines[0].base == 1
    assert found.failures[0].startswith("clean fell from 100.00")
    shown = found._repr_html_()
    assert "new<b>" not in shown
    assert "new&lt;b&gt;" in shown
    assert "Failed:" in shown
    (path,) = found.save(tmp_path / "out")
    assert path == tmp_path / "out" / "compare.csv"
    assert [line["probe"] for line in read(path)] == [line.probe for line in found.lines]
    robench("compare", tmp_path / "bas", tmp_path / "new", "--out", tmp_path / "cli")
    assert (tmp_path / "cli" / "compare.csv").read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match="holds a finished run"):
        found.save(tmp_path / "bas")
    for wrong in (0, 2, True, "0.05", float("nan")):
        with pytest.raises(InputError, match=r"alpha .*must be a number above 0 and at most 1"):
            public.compare(tmp_path / "bas", tmp_path / "new", alpha=wrong)


def test_a_result_of_a_comparison_is_joined_with_maps_of_the_same_model_alone(p, other, tmp_path):
    public.attack({"a": p.model}, p.x, p.y, "fgsm", eps=0.02).save(tmp_path / "run")
    found = public.saliency({"a": p.model, "b": other}, p.x, p.y, scores="gini", join=tmp_path / "run")
    assert {row.checkpoint for row in found.rows if "against=" in row.setting} <= {"a"}
    with pytest.raises(InputError, match="with other weights than any model named here"):
        public.saliency({"b": other}, p.x, p.y, scores="gini", join=[tmp_path / "run"])


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("evaluate", {"y": None}, r"x has no labels of its own: hand over y, an Images, or a DataLoader of \(x, y\)"),
        (
            "attack",
            {"x": DataLoader(TensorDataset(torch.ones(0, 3, 8, 8), torch.ones(0).long())), "y": None},
            "the DataLoader gives no batch",
        ),
        ("attack", {"x": DataLoader(torch.rand(4, 3, 8, 8)), "y": None}, "batches of type Tensor and no pairs"),
        ("attack", {"x": DataLoader(TensorDataset(torch.rand(4, 3, 8, 8), torch.ones(4).long()))}, "brings its own y: leave y out"),
        ("probe", {"x": images_from_arrays(torch.rand(4, 3, 8, 8), [0, 1, 2, 3])}, "Images, which brings its own y: leave y out"),
        (
            "probe",
            {"x": images_from_arrays(torch.rand(4, 3, 8, 8), [0, 1, 2, 3]), "y": None, "ids": [1, 2, 3, 4]},
            "its own ids: leave ids out",
        ),
        ("evaluate", {"model": [nn.Flatten()]}, "the list of models holds Flatten: hand over a mapping of names to models, or a list of"),
        ("evaluate", {"model": []}, "no model is given"),
        ("evaluate", {"model": {}}, "no model is given"),
        ("evaluate", {"model": {"a": "net.pt"}}, r"'a' is none: the model is 'net.pt': load it first"),
        ("saliency", {"model": "net.pt"}, "load it first, with robench.load_model"),
        ("evaluate", {"model": {"a": nn.Flatten()}, "about": blank_row()}, "about and architecture are for one model"),
        ("attack", {"recipe": "random-noise"}, "random-noise is no attack but a probe: robench.evaluate takes recipes of every kind"),
        ("attack", {"recipe": "autoattack"}, "autoattack is a suite and no attack: robench.evaluate takes suites"),
        ("attack", {"recipe": 3}, "a recipe is of type int"),
        ("attack", {"recipe": "fgms"}, "did you mean 'fgsm'"),
        ("probe", {"recipes": ["pgd-20"]}, "pgd-20 is no probe but an attack"),
        ("saliency", {"methods": "pgd"}, "unknown method 'pgd'"),
        ("saliency", {"scores": "ginni"}, "did you mean 'gini'"),
        ("saliency", {"against": "saliency"}, "makes maps and no images"),
        ("corrupt", {"corruptions": "frog"}, "unknown corruption 'frog': did you mean 'fog'"),
        ("corrupt", {"severities": 6}, "a severity must be a whole number from 1 to 5, not 6"),
        ("corrupt", {"severities": [0]}, "a severity must be a whole number of at least 1, not 0"),
        ("corrupt", {"scale": "large"}, "large"),
        ("corrupt", {"reference": "net.pt"}, "load it first"),
        ("evaluate", {"threats": "linf:8/255"}, "a threat says its norm and radius: leave norm and eps out"),
        ("evaluate", {"threats": ["linf"], "eps": None}, "cannot read the threat 'linf': write NORM:EPS"),
        ("evaluate", {"threats": ["linf:big"], "eps": None}, "cannot read the threat 'linf:big'"),
        ("evaluate", {"threats": ["linf:0.1", Threat("linf", 0.1)], "eps": None}, "a threat is given twice"),
        ("evaluate", {"norm": "l2", "eps": None}, "eps"),
        ("evaluate", {"budget": -1}, "the budget must be a number of seconds above 0, not -1"),
        ("evaluate", {"budget": "20m"}, "budget must be a number, not '20m'"),
        ("attack", {"until": 0.7}, "the half-width to stop at must lie between 0 and 0.5"),
    ],
)
def test_what_cannot_be_measured_gets_a_sentence(name, change, sentence, problem):
    p = problem("convolutional", n=12)
    words = {"model": p.model, "x": p.x, "y": p.y} | change
    with pytest.raises(InputError, match=sentence) as error:
        CALLS[name](words.pop("model"), words.pop("x"), words.pop("y"), **words)
    assert "\n" not in str(error.value)


def test_two_models_of_one_name_are_refused(p, other):
    subjects = [public.Subject(model, blank_row()) for model in (p.model, other)]
    with pytest.raises(InputError, match="two models are called '': give each a name of its own"):
        public.probe(subjects, p.x, p.y)
