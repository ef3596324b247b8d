"""The transfer attack against the exact distances of linear models, and what it asks of the attacked model."""

import pytest
import torch
from torch import nn

from robench.attacks.pgd import pgd
from robench.attacks.transfer import transfer
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.threat import NORMS, Threat

EPS = {"linf": 0.03, "l2": 0.3, "l1": 3.0}


class Counting(nn.Module):
    """A model that counts its calls and the rows of each, and refuses to be differentiated."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, x):
        assert not x.requires_grad
        self.rows.append(len(x))
        return self.model(x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_crafted_on_the_model_itself_it_reaches_the_exact_distance(problem, norm, boxed):
    p = problem("affine", boxed=boxed)
    reach = 1.1 if norm == "l1" and boxed else 1.001
    for i, distance in enumerate(p.distances(norm).tolist()):
        sample, draws = (p.x[i : i + 1], p.y[i : i + 1]), p.draws().take(torch.tensor([i]))
        assert transfer(p.model, *sample, Threat(norm, distance * reach), draws, surrogate=p.model).fooled.item()
        assert not transfer(p.model, *sample, Threat(norm, distance * 0.999), draws, surrogate=p.model, restarts=2).fooled.item()


def test_a_related_surrogate_fools_more_than_an_unrelated_one_and_less_than_the_model_itself(problem):
    p, other = problem("linear", n=100), problem("linear", seed=1).model
    related = problem("linear").model
    related.w.data += 1.5 * other.w.data
    related.b.data = -related.w.data.flatten(1).sum(1) / 2
    threat = Threat("linf", 1.2 * float(p.distances("linf").max()))
    fallen = [int(transfer(p.model, p.x, p.y, threat, p.draws(), surrogate=s).fooled.sum()) for s in (other, related, p.model)]
    assert fallen[0] < fallen[1] < fallen[2] == 100


@pytest.mark.parametrize("norm", NORMS)
def test_points_lie_in_the_threat_and_stand_for_the_verdict(problem, norm):
    p, threat = problem("convolutional", n=40), Threat(norm, EPS[norm])
    found = transfer(p.model, p.x, p.y, threat, p.draws(), surrogate=p.model, restarts=2)
    assert found.fooled.any()
    assert threat.contains(p.x, found.x_adv).all()
    assert torch.equal(p.model(found.x_adv).argmax(1) != p.y, found.fooled)
    assert torch.equal(found.x_adv[~found.fooled], p.x[~found.fooled])


def test_the_attacked_model_is_asked_once_per_restart_and_never_differentiated(problem):
    p, other = problem("linear", n=40), problem("linear", seed=1).model
    asked = Counting(p.model)
    nothing = transfer(asked, p.x, p.y, Threat("linf", 1e-6), p.draws(), surrogate=other, restarts=3)
    assert asked.rows == [40, 40, 40]
    assert nothing.forwards.tolist() == [3] * 40
    assert nothing.backwards.tolist() == [0] * 40
    threat = Threat("linf", 0.6 * float(p.distances("linf").max()))
    asked.rows.clear()
    some = transfer(asked, p.x, p.y, threat, p.draws(), surrogate=p.model, restarts=2)
    left = 40 - int(some.fooled.sum())
    assert asked.rows == [40, max(left, 16)]  # the fallen are not asked again
    assert 0 < left < 35
    everything = transfer(p.model, p.x, p.y, Threat("linf", 1.0), p.draws(), surrogate=p.model, restarts=3)
    assert everything.forwards.tolist() == [1] * 40
    assert everything.step.tolist() == [0] * 40


def test_further_restarts_are_other_points_and_only_help(problem):
    p, other = problem("dense", n=200), problem("dense", seed=1).model
    threat = Threat("linf", 0.1)
    once, twice, often = (transfer(p.model, p.x, p.y, threat, p.draws(), surrogate=other, restarts=r) for r in (1, 2, 6))
    assert 0 < int(once.fooled.sum()) < int(twice.fooled.sum()) < int(often.fooled.sum())
    assert torch.equal(often.x_adv[once.fooled], once.x_adv[once.fooled])


def test_the_climb_goes_on_after_the_surrogate_is_fooled(problem):
    p = problem("affine")
    threat = Threat("linf", 3 * float(p.distances("linf").max()))
    deep = transfer(p.model, p.x, p.y, threat, p.draws(), surrogate=p.model).x_adv
    torch.testing.assert_close(threat.distance(p.x, deep), torch.full((12,), threat.eps), rtol=1e-4, atol=1e-6)
    shallow = pgd(p.model, p.x, p.y, threat, p.draws(), steps=20, random_start=False).x_adv
    losses = [nn.functional.cross_entropy(p.model(points), p.y, reduction="none") for points in (deep, shallow)]
    assert (losses[0] > losses[1]).all()


def test_momentum_keeps_what_a_turning_gradient_forgets(problem):
    """A surrogate whose gradient flips its sign at every step: the plain steps end where they began, momentum goes on."""
    p = problem("affine")

    class Flipping(nn.Module):
        turn = 0

        def forward(self, x):
            Flipping.turn += 1
            factor = 1.0 if Flipping.turn % 3 else -1.0
            return p.model(x.detach()) + factor * (p.model(x) - p.model(x.detach()))

    threat = Threat("linf", float(p.distances("linf").max()))
    ends = []
    for decay in (0.0, 1.0):
        Flipping.turn = 0
        found = transfer(p.model, p.x, 1 - p.y, threat, p.draws(), surrogate=Flipping(), steps=9, step_size=threat.eps / 9, decay=decay)
        ends.append(float(threat.distance(p.x, found.x_adv).mean()))
    assert ends[0] == pytest.approx(threat.eps / 3, rel=0.02)  # six steps up, three down
    assert ends[1] > 0.7 * threat.eps


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_found_depends_neither_on_batch_size_nor_on_order(problem, norm):
    p, other = problem("linear", n=40), problem("linear", seed=1).model
    other.w.data += p.model.w.data
    threat = Threat(norm, 1.2 * float(p.distances(norm).max()))
    together = transfer(p.model, p.x, p.y, threat, p.draws(), surrogate=other, restarts=3)
    assert 0 < int(together.fooled.sum()) < 40
    for part in (*torch.arange(40).split(7), torch.randperm(40, generator=torch.Generator().manual_seed(1)), torch.tensor([5])):
        found = transfer(p.model, p.x[part], p.y[part], threat, p.draws().take(part), surrogate=other, restarts=3)
        for field in ("x_adv", "fooled", "step", "forwards", "backwards", "nonfinite"):
            assert torch.equal(getattr(found, field), getattr(together, field)[part]), field


def test_a_small_batch_is_padded_for_the_surrogate_too(problem):
    """Logits of real networks differ in the last bits between tiny batches, and gradients with them."""
    p, rows = problem("convolutional", n=3), []
    p.model.register_forward_hook(lambda module, inputs, logits: rows.append(len(logits)))
    transfer(lambda x: torch.zeros(len(x), 10), p.x, p.y, Threat("linf", 0.01), p.draws(), surrogate=p.model, steps=4)
    assert rows == [16] * 4


def test_the_surrogates_parameters_get_no_gradients(problem):
    p = problem("convolutional")
    transfer(p.model, p.x, p.y, Threat("linf", 0.01), p.draws(), surrogate=p.model)
    assert all(parameter.grad is None for parameter in p.model.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"step_size": 0}, "step_size must be a finite number above 0, not 0"),
        ({"restarts": 1.5}, "restarts must be a whole number"),
        ({"decay": -0.1}, "decay must be a finite number of at least 0, not -0.1"),
        ({"decay": "much"}, "decay must be a finite number"),
        ({"loss": "dlt"}, "unknown loss 'dlt': did you mean 'dlr'"),
    ],
)
def test_a_wrong_option_is_answered_with_a_sentence(problem, options, sentence):
    p = problem("linear", n=4)
    with pytest.raises(InputError, match=sentence):
        transfer(p.model, p.x, p.y, Threat("linf", 0.1), p.draws(), surrogate=p.model, **options)


def test_a_surrogate_that_cannot_serve_is_refused(problem):
    p = problem("linear", n=40)
    run = {"model": p.model, "x": p.x, "y": p.y, "threat": Threat("linf", 0.1), "draws": p.draws()}
    with pytest.raises(InputError, match="the surrogate has 3 classes and knows no label 4"):
        transfer(**run, surrogate=problem("linear", classes=3).model)

    class Blind(nn.Module):
        def forward(self, x):
            return p.model(x).detach()

    with pytest.raises(InputError, match="no gradient"):
        transfer(**run, surrogate=Blind())


def test_a_surrogate_for_images_of_another_size_is_named_as_the_cause(problem):
    x = torch.rand(2, 3, 8, 8)
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 3))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    y = model(x).argmax(1)
    with pytest.raises(InputError, match=r"the surrogate cannot take images of 3x8x8 pixels \(.*\): choose one for images of this size"):
        transfer(model.requires_grad_(False), x, y, Threat("linf", 0.1), Draws(0, torch.arange(2), "transfer"), surrogate=other)
