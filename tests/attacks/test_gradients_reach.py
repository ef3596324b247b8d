"""Attacks that follow gradients need some: inference mode is left or refused, and a model that gives none is told everywhere."""

import json
import warnings

import numpy as np
import pytest
import torch
from changes import audited
from commandline import read, refused, robench
from torch import nn

from robench import evaluate, probe
from robench.attacks import ATTACKS
from robench.core.errors import InputError
from robench.core.model_calls import CUT_GRAPH
from robench.core.recipes import parse_recipe
from robench.core.rows import Row
from robench.core.threat import Threat
from robench.scores.geometry import jacobian_geometry

ABOUT = Row("net", "", "toy", "test", 0, 0, "", 0.0, "", "", "", 0.0)


def verdicts(found):
    return [(sample.sample, sample.broken_by, sample.step) for sample in found.samples]


def test_an_evaluation_inside_inference_mode_gives_the_verdicts_of_one_outside(problem):
    p = problem("linear", n=30)
    words = {
        "suite": [parse_recipe("pgd-10"), parse_recipe("apgd-ce,steps=5"), parse_recipe("fab-t,steps=3"), parse_recipe("square,queries=20")]
    }
    words |= {"eps": float(p.distances("linf").median()), "examine": True}
    outside = evaluate(p.model, p.x, p.y, **words)
    with torch.inference_mode():
        inside = evaluate(p.model, p.x.clone(), p.y.clone(), **words)  # copies made here are inference tensors
        assert torch.is_inference_mode_enabled()
    assert inside.accuracy("square") < 0.6
    assert verdicts(inside) == verdicts(outside)
    assert inside.flags == outside.flags == []


def test_images_that_were_made_in_inference_mode_can_be_attacked_outside_of_it(problem):
    p = problem("convolutional", n=16)
    with torch.inference_mode():
        x, y = p.x.clone(), p.y.clone()
    found = ATTACKS["pgd-10"](p.model, x, y, Threat("linf", 0.1), p.draws())
    assert torch.equal(found.x_adv, ATTACKS["pgd-10"](p.model, p.x, p.y, Threat("linf", 0.1), p.draws()).x_adv)


@pytest.mark.parametrize("name", ["fgsm", "pgd-10", "apgd-t", "fab-t", "malt", "square", "noise"])
def test_an_attack_called_inside_inference_mode_is_refused(problem, name):
    p = problem("linear", n=4)
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        ATTACKS[name](p.model, p.x, p.y, Threat("linf", 0.1), p.draws())


def test_a_model_whose_weights_were_made_in_inference_mode_is_refused(problem):
    p = problem("linear", n=4)
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(p.x[0].numel(), 5))
    with pytest.raises(InputError, match="weights were made inside"):
        evaluate(model, p.x, p.y, suite=[parse_recipe("fgsm")], eps=0.1)


class Cut(nn.Module):
    """A model that answers without a graph, in one of the usual ways."""

    def __init__(self, model, how):
        super().__init__()
        self.model, self.how = model, how

    def forward(self, x):
        if self.how == "detach":
            return self.model(x.detach())
        with torch.no_grad() if self.how == "no_grad" else torch.inference_mode():
            return self.model(x)


@pytest.mark.parametrize("how", ["no_grad", "detach", "inference_mode"])
@pytest.mark.parametrize(
    ("engine", "suite"),
    [("robench", "fgsm"), ("robench", "apgd-t,steps=3"), ("robench", "fab-t,steps=3"), ("reference", "apgd-ce,steps=3")],
)
def test_a_cut_graph_is_a_flag_of_every_attack_that_follows_gradients(problem, how, engine, suite):
    p = problem("linear", n=20)
    found = evaluate(Cut(p.model, how), p.x, p.y, suite=[parse_recipe(suite)], eps=float(p.distances("linf").median()), engine=engine)
    assert [flag for flag in found.flags if CUT_GRAPH in flag]
    assert not evaluate(p.model, p.x, p.y, suite=[parse_recipe(suite)], eps=0.01, engine=engine).flags


def test_a_black_box_attack_of_a_model_without_a_graph_raises_no_flag(problem):
    p = problem("linear", n=20)
    found = evaluate(Cut(p.model, "no_grad"), p.x, p.y, suite=[parse_recipe("square,queries=50")], eps=float(p.distances("linf").median()))
    assert found.flags == []


class Rounded(nn.Module):
    """A model that rounds its input: the graph is whole, and every gradient is 0."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x * 255).round() / 255)


def test_gradients_that_are_all_zero_are_a_flag_of_the_attack(problem):
    p = problem("linear", n=20)
    with torch.no_grad():
        y = Rounded(p.model)(p.x).argmax(1)
    found = evaluate(Rounded(p.model), p.x, y, suite=[parse_recipe("pgd-10")], eps=0.05)
    assert [flag for flag in found.flags if "exactly 0 on every image" in flag]


def test_a_probe_that_is_led_by_gradients_says_that_there_are_none(problem):
    p = problem("linear", n=12)
    found = probe(Cut(p.model, "no_grad"), p.x, p.y, "inductive-noise,k=3")
    assert found.flags == [f"inductive-noise: {CUT_GRAPH}"]
    assert [row.probe for row in found.rows if row.metric == "flag/warning"] == ["inductive-noise"]
    assert probe(p.model, p.x, p.y, "inductive-noise,k=3").flags == []


def test_an_audit_of_maps_says_that_the_graph_is_cut(problem):
    p = problem("linear", n=12)
    words = {"methods": "input-x-gradient", "scores": ["gini", "row-norm-true"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audited(Cut(p.model, "no_grad"), p.x, p.y, **words).flags == [f"clean: {CUT_GRAPH}"]
    with torch.inference_mode():
        assert audited(p.model, p.x, p.y, **words).flags == []


def test_a_run_from_python_warns_of_a_cut_graph(problem):
    p = problem("linear", n=4)
    with pytest.warns(RuntimeWarning, match="no gradient with respect to the images"):
        ATTACKS["fgsm"](Cut(p.model, "no_grad"), p.x, p.y, Threat("linf", 0.1), p.draws())


def test_geometry_inside_inference_mode_is_that_of_outside(problem):
    p = problem("linear", n=6)
    outside = jacobian_geometry(p.model.eval().requires_grad_(False), p.x, p.y)
    with torch.inference_mode():
        inside = jacobian_geometry(p.model, p.x.clone(), p.y.clone())
    assert outside["row-norm-true"].min() > 0
    for name, values in outside.items():
        assert torch.equal(inside[name], values)


CUTTING = """from torch import nn
class Net(nn.Module):
    def __init__(self, classes, shape, how, **others):
        super().__init__()
        self.how, self.inner = how, nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
    def forward(self, x):
        return self.inner(x).detach() if self.how == "all" else self.inner(x.detach())
"""


@pytest.fixture
def training_of(tmp_path):
    """The words of a short training on 80 images of two classes, with a network of one's own that cuts its graph."""
    (tmp_path / "own.py").write_text(CUTTING)
    y = np.arange(80) % 2
    x = (np.random.default_rng(0).random((80, 8, 8, 3)) * 150 + 100 * y[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "toy.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    words = ["train", "--data", f"npz:{tmp_path}/toy.npz", "--epochs", 1, "--batch-size", 8, "--held-out", 20, "--suite", "pgd-20"]
    return lambda how: [*words, "--arch", f"{tmp_path}/own.py:Net,how={how}"]


@pytest.mark.parametrize(
    ("methods", "named"),
    [
        (["--reg", "jacobian"], "jacobian needs it"),
        (["--objective", "pgd-at"], "pgd-at needs it"),
        (["--objective", "fgsm-rs", "--reg", "l2,vat"], "fgsm-rs and vat need it"),
        (["--reg", "l2=0.1", "--reg", "arr=1"], "arr needs it"),
    ],
)
def test_a_training_that_follows_gradients_refuses_a_network_that_gives_none(training_of, tmp_path, methods, named):
    out = tmp_path / "out"
    assert f"no gradient by the images, and {named}: change its forward" in refused(
        *training_of("images"), *methods, "--out", out / "net.pt"
    )
    assert not list(out.glob("*"))


def test_a_network_whose_weights_have_no_gradient_is_not_trained(training_of, tmp_path):
    assert "no gradient by the weights" in refused(*training_of("all"), "--out", tmp_path / "net.pt")


def test_a_standard_training_of_a_cut_network_goes_on_and_prints_and_keeps_its_flags(training_of, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        shown = robench(*training_of("images"), "--reg", "l2", "--out", tmp_path / "net.pt")
    assert f"Note: {CUT_GRAPH}" in shown.stderr
    assert f"Flag: pgd-20: {CUT_GRAPH}" in shown.stderr
    assert f"pgd-20: {CUT_GRAPH}" in json.loads((tmp_path / "net.json").read_text())["meta"]["flags"]


def test_a_sweep_says_which_of_its_cells_raised_flags(training_of, tmp_path):
    shown = robench(*training_of("images"), "--reg", "l2", "--sweep", "lambda=0:0.1", "--out", tmp_path / "sweep")
    assert "Flag: lambda=0.1: the final measurement raised " in shown.stderr
    assert [row["setting"] for row in read(tmp_path / "sweep" / "rows.csv") if row["metric"] == "flags"] == ["lambda=0", "lambda=0.1"]


def test_a_model_that_ignores_its_images_is_not_said_to_cut_its_graph(problem):
    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.b = torch.nn.Parameter(torch.arange(5.0))

        def forward(self, x):
            return self.b.expand(len(x), 5)

    p = problem("linear", n=4)
    flags = evaluate(Constant(), p.x, torch.full((4,), 4), suite=[parse_recipe("fgsm")], eps=0.1).flags
    assert [flag for flag in flags if "no gradient with respect to the images" in flag]
    assert "graph" not in " ".join(flags)
