"""A radius beyond every image is a slip of the units: it is refused wherever a user gives one, and what it may have meant is named."""

import pytest
from commandline import refused

from robench.attacks import ATTACKS
from robench.errors import InputError
from robench.evaluation import evaluate
from robench.recipes import parse
from robench.threat import Threat, diameter
from robench.training import train

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
        evaluate(p.model, p.x, p.y, suite=[parse("fgsm")], norm=norm, eps=[0.1, eps])
    with pytest.raises(InputError, match=sentence):
        ATTACKS["pgd-10"](p.model, p.x, p.y, Threat(norm, eps), p.draws())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_diameter_itself_is_a_radius(problem, norm):
    p = problem("linear", n=20, shape=(3, 8, 8))
    eps = diameter(norm, (3, 8, 8))
    found = evaluate(p.model, p.x, p.y, suite=[parse("pgd-margin"), parse("apgd-ce,steps=5")], norm=norm, eps=eps)
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
