"""A radius beyond every image is a slip of the units: it is refused wherever a user gives one, and what it may have meant is named."""

from contextlib import nullcontext

import pytest
from commandline import refused

from robench import evaluate
from robench.attacks import ATTACKS
from robench.core.errors import InputError
from robench.core.recipes import parse_recipe
from robench.core.threat import Threat, diameter
from robench.objectives import refuse_unreachable
from robench.training.train import train

BEYOND = [
    ("linf", 8.0, "8/255"),
    ("linf", 1.001, "at most 1 apart"),
    ("l2", 13.9, "of 3x8x8 are at most 13.86 apart in l2"),
    ("l1", 192.5, "192 apart"),
]


def test_the_diameter_of_the_box_is_the_distance_of_black_and_white():
    assert [diameter(norm, (3, 8, 8)) for norm in ("linf", "l2", "l1")] == [1, pytest.approx(192**0.5), 192]


@pytest.mark.parametrize(("norm", "eps", "sentence"), BEYOND)
def test_evaluate_and_the_attacks_refuse_a_radius_beyond_every_image(problem, norm, eps, sentence):
    p = problem("linear", n=3, shape=(3, 8, 8))
    with pytest.raises(InputError, match=sentence):
        evaluate(p.model, p.x, p.y, suite=[parse_recipe("fgsm")], norm=norm, eps=[0.1, eps])
    with pytest.raises(InputError, match=sentence):
        ATTACKS["pgd-10"](p.model, p.x, p.y, Threat(norm, eps), p.draws())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_diameter_itself_is_a_radius(problem, norm):
    p = problem("linear", n=20, shape=(3, 8, 8))
    eps = diameter(norm, (3, 8, 8))
    found = evaluate(p.model, p.x, p.y, suite=[parse_recipe("pgd-margin"), parse_recipe("apgd-ce,steps=5")], norm=norm, eps=eps)
    assert found.accuracy("apgd-ce") == 0


@pytest.mark.parametrize(("norm", "eps", "sentence"), [("linf", 8.0, "8/255"), ("l2", 128.0, "3x32x32.*128/255")])
def test_training_refuses_such_a_radius_before_it_begins(norm, eps, sentence):
    with pytest.raises(InputError, match=sentence):
        train("shapes", n_train=800, norm=norm, eps=eps, objective="pgd-at")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--objective", "pgd-at", "--eps", "8"],
        ["train", "--sweep", "eps=8/255:8", "--objective", "pgd-at"],
        ["eval", "tv/resnet18", "--data", "shapes", "--eps", "4/255,8"],
        ["attack", "tv/resnet18", "--data", "shapes", "--eps", "8"],
        ["saliency", "tv/resnet18", "--data", "shapes", "--against", "pgd-10", "--eps", "8"],
    ],
)
def test_every_command_refuses_eps_8_and_asks_for_8_of_255(words, tmp_path):
    assert "did you mean 8/255?" in refused(*words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("recipe", "norm", "sentence"),
    [
        ("vat,radius=200", "linf", "vat with radius=200 reaches beyond every image.* of 3x32x32 are at most 55.43 apart in l2"),
        ("vat,xi=56", "linf", "vat with xi=56"),
        ("sagr,estimator=fd,h=60", "linf", "sagr with h=60"),
        ("tulip,h=60", "linf", "tulip with h=60"),
        ("cure,h=60", "linf", "cure with h=60"),
        ("pgd-at,step_size=2", "linf", "pgd-at with step_size=2 .*did you mean 2/255"),
        ("arr,step_size=56", "l2", "arr with step_size=56"),
        ("vat,radius=55", "linf", ""),
        ("trades,step_size=2", "l2", ""),
        ("hat,h=60", "linf", ""),  # a factor
        ("mine.py:penalty,h=60", "linf", ""),  # whose h is unknown
    ],
)
def test_a_length_of_a_training_method_beyond_every_image_is_refused(recipe, norm, sentence):
    with pytest.raises(InputError, match=sentence) if sentence else nullcontext():
        refuse_unreachable([parse_recipe(recipe)], Threat(norm, 0.03), (3, 32, 32))


def test_a_training_with_a_radius_beyond_every_image_writes_nothing(tmp_path):
    with pytest.raises(InputError, match="vat with radius=200 reaches beyond"):
        train("shapes", reg=("vat,radius=200",), n_train=200, epochs=1, out=tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("norm", "step_size"), [("linf", 8.0), ("l2", 14.0)])
def test_a_step_of_pgd_beyond_every_image_is_refused(problem, norm, step_size):
    p = problem("linear", n=2)
    with pytest.raises(InputError, match=f"step_size={step_size:g} reaches beyond every image"):
        ATTACKS["pgd"](p.model, p.x, p.y, Threat(norm, 0.1), p.draws(), step_size=step_size)
