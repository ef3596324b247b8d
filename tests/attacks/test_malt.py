"""Targeted APGD towards the nearest classes: the order of the targets, exact verdicts on linear models, and who is given up."""

import pytest
import torch

from robench.attacks.active import Search
from robench.attacks.malt import malt, nearest_classes
from robench.core.errors import InputError
from robench.core.threat import Threat


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
def test_targets_come_in_the_order_of_their_distance_without_the_box(problem, norm, dual):
    p = problem("linear", n=20, classes=7)
    order = nearest_classes(Search(p.model, p.x, p.y, Threat(norm, 0.1)), p.x, 3)
    w, z = p.model.w.detach().double(), p.model(p.x).detach().double()
    for label, targets, logits in zip(p.y.tolist(), order.tolist(), z, strict=True):
        far = {
            c: float((logits[label] - logits[c]) / torch.linalg.vector_norm((w[c] - w[label]).flatten(), dual))
            for c in range(7)
            if c != label
        }
        assert targets == sorted(far, key=far.__getitem__)[:3]


@pytest.mark.parametrize("classes", [2, 3, 5, 30])
@pytest.mark.parametrize("loss", ["dlr", "margin", "prob-margin", "ce"])
def test_images_fall_where_the_exact_distance_is_within_reach(problem, classes, loss):
    p = problem("linear", n=24, classes=classes)
    distances = p.distances("linf")
    eps = float(distances.median()) * 1.0001
    found = malt(p.model, p.x, p.y, Threat("linf", eps), p.draws(), loss=loss, steps=10, rounds=2)
    assert (found.fooled <= (distances < eps)).all()
    assert found.fooled[distances * 1.01 < eps].all()


def test_hopeless_images_are_given_up_after_two_rounds_and_counted(problem):
    p = problem("linear", n=20, classes=5)
    found = malt(p.model, p.x, p.y, Threat("linf", 1e-5), p.draws(), targets=3, steps=6, rounds=9)
    assert not found.fooled.any()
    assert set(found.forwards.tolist()) == {1 + 2 * 3 * 7}
    assert set(found.backwards.tolist()) == {4 + 2 * 3 * 6}
    never = malt(p.model, p.x, p.y, Threat("linf", 1e-5), p.draws(), targets=3, steps=6, rounds=3, loss="ce")
    assert set(never.forwards.tolist()) == {1 + 3 * 3 * 7}


def test_what_becomes_of_an_image_does_not_depend_on_its_batch(problem):
    p = problem("linear", n=30, classes=6)
    threat = Threat("l2", float(p.distances("l2").median()))
    whole = malt(p.model, p.x, p.y, threat, p.draws(), steps=5)
    for part in torch.arange(30).flip(0).split(7):
        few = malt(p.model, p.x[part], p.y[part], threat, p.draws().take(part), steps=5)
        for name in ("x_adv", "fooled", "step", "forwards", "backwards"):
            assert torch.equal(getattr(few, name), getattr(whole, name)[part]), name


@pytest.mark.parametrize("wrong", [{"targets": 0}, {"rounds": 0}, {"doubt": -1.0}, {"loss": "kl"}, {"steps": 2.5}])
def test_wrong_options_get_a_sentence(problem, wrong):
    p = problem("linear", n=4)
    with pytest.raises(InputError):
        malt(p.model, p.x, p.y, Threat("linf", 0.1), p.draws(), **wrong)
