"""Functions of the user's own that return the wrong thing are refused in one sentence."""

import pytest
from changes import audited, changed

from robench import probe
from robench.core.errors import InputError
from robench.training.settings import plan_of, resolved_settings

CODE = """
import torch

def images(model, x, y, draws):
    return x

def nothing(model, x, y, draws):
    return None

def inside(model, x, y, draws):
    yield x

def numbers(model, x, target, draws):
    return 3.0

def flat(model, x, target, draws):
    return x.flatten(1)

def mean(explained):
    return explained.maps.mean()

def word(explained):
    return "even"

def objective():
    return 1.0
"""


@pytest.fixture
def p(problem):
    return problem("linear", n=6)


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return lambda name: f"{path}:{name}"


@pytest.mark.parametrize(
    ("name", "said"),
    [("images", "returned Tensor: it must"), ("nothing", "returned NoneType"), ("inside", "yielded Tensor and no Level:")],
)
def test_a_probe_that_yields_no_level_is_refused(p, mine, name, said):
    with pytest.raises(InputError, match=f"probe 'mine.py:{name}' {said}"):
        probe(p.model, p.x, p.y, mine(name))
    with pytest.raises(InputError, match=f"probe 'mine.py:{name}' {said}"):
        changed(f"probe:{mine(name)}", p.model, p.x, p.y)


@pytest.mark.parametrize(("name", "said"), [("numbers", "returned float"), ("flat", r"returned a tensor of float32 \(2, ")])
def test_a_method_that_returns_no_maps_is_refused(p, mine, name, said):
    with pytest.raises(InputError, match=f"method .*{name}' {said}.*: it must return float maps"):
        audited(p.model, p.x, p.y, methods=mine(name), scores="gini")


@pytest.mark.parametrize(("name", "said"), [("mean", r"a tensor of shape \(\)"), ("word", "str")])
def test_a_score_without_a_number_an_image_is_refused(p, mine, name, said):
    with pytest.raises(InputError, match=rf"score .*{name}' returned {said}: it must return a tensor with one number an image"):
        audited(p.model, p.x, p.y, scores=mine(name))


def test_an_objective_that_is_none_is_refused(mine):
    with pytest.raises(InputError, match=r"objective 'mine.py:objective' returned float and no robench.objectives.Objective"):
        plan_of(resolved_settings("small", {"objective": mine("objective")})[0], 0, None)
