"""APGD in linf and l2: schedules as literals, optima of affine models, the authors' code point by point, passes watched."""

import importlib
import itertools
import math

import pytest
import torch
from attacking import gap
from recording import Watched
from torch import nn

from robench.attacks.active import Search
from robench.attacks.apgd import (
    apgd,
    apgd_t,
    approximate_l2_projection,
    check_intervals,
    classes_by_logit,
    initial_state,
    l2_step,
    linf_step,
    losses_and_gradient,
    random_start,
    run_apgd,
    state_after_check,
)
from robench.attacks.kernels import compile_failure, compiled_kernels
from robench.attacks.losses import fitting_loss_name, loss_of
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.model_calls import LEAST_ROWS
from robench.core.threat import NORMS, Threat, diameter

EPS = {"linf": 0.03, "l2": 0.3, "l1": 3.0}


def climbed(p, threat, loss="ce", steps=20, start=None, **options):
    """The search, whose rows all stay, and the points of largest loss after one run."""
    search = Search(p.model, p.x, p.y, threat, stay=True)
    start = random_start(p.x, threat, p.draws()) if start is None else start
    return search, run_apgd(search, start, loss_of(loss, False), threat, steps, **options)


def share_of_optimum(p, threat, points):
    """How much of the largest possible fall of the affine model's margin each point brings, (B,) float64."""
    towards = (p.model.w.detach() * torch.where(p.y == 0, -1.0, 1.0).view(-1, 1, 1, 1)).double()
    a, room = towards.abs().flatten(1), torch.where(towards > 0, 1 - p.x, p.x).double().flatten(1)
    if threat.norm == "l1":  # fill the steepest first
        order = a.argsort(1, descending=True)
        space = room.gather(1, order)
        used = torch.minimum(space, (threat.eps - space.cumsum(1) + space).clamp_min(0))
        best = (used * a.gather(1, order)).sum(1)
    else:
        rate = torch.ones_like(a) if threat.norm == "linf" else a
        low, high = torch.zeros(len(a), 1).double(), torch.full((len(a), 1), 1e3).double()
        for _ in range(100):
            middle = (low + high) / 2
            length = torch.linalg.vector_norm(torch.minimum(middle * rate, room), ord=math.inf if threat.norm == "linf" else 2, dim=1)
            fits = (length <= threat.eps)[:, None]
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        best = (a * torch.minimum(low * rate, room).clamp_max(threat.eps if threat.norm == "linf" else math.inf)).sum(1)
    return ((points - p.x) * towards).flatten(1).double().sum(1) / best


@pytest.mark.parametrize(
    ("steps", "after", "lengths"),
    [
        (100, [22, 41, 57, 70, 80, 87, 93, 99], [22, 19, 16, 13, 10, 7, 6, 6]),
        (50, [11, 21, 30, 38, 45], [11, 10, 9, 8, 7]),
        (20, [4, 7, *range(9, 21)], [4, 3, 2, *[1] * 11]),
        (10, list(range(2, 11)), [2, *[1] * 8]),
        (200, [44, 82, 114, 140, 160, 174, 186, 198], [44, 38, 32, 26, 20, 14, 12, 12]),
        (1000, [220, 410, 570, 700, 800, 870, 930, 990], [220, 190, 160, 130, 100, 70, 60, 60]),
    ],
)
def test_step_sizes_are_checked_when_the_authors_check_them(steps, after, lengths):
    due = check_intervals(steps)
    assert list(due)[: len(after)] == after
    assert list(due.values())[: len(lengths)] == lengths
    assert len(due) == len(after) or steps == 50


def test_the_step_is_halved_where_the_loss_rose_too_seldom_or_nothing_has_changed(problem):
    p = problem("linear", n=5)
    threat = Threat("linf", 0.1)
    state = initial_state(Search(p.model, p.x, p.y, threat), p.x, threat, torch.zeros(5), torch.zeros_like(p.x), True)
    state = state._replace(
        rises=torch.tensor([12.0, 13, 13, 13, 12]),
        halved=torch.tensor([True, True, False, False, False]),
        best=torch.tensor([1.0, 1, 1, 0, 0]),
        x_best=p.x + 1,
        grad_best=torch.ones_like(p.x),
    )
    after = state_after_check(p.x, state, threat, 0.75 * 16)  # 12 rises of 16 are too few: the bound itself counts
    assert after.halved.tolist() == [True, False, False, True, True]
    assert after.length.flatten().tolist() == pytest.approx([0.1, 0.2, 0.2, 0.1, 0.1])
    back = after.halved.view(-1, 1, 1, 1)
    assert torch.equal(after.x, torch.where(back, p.x + 1, p.x))
    assert torch.equal(after.grad, back.float().expand_as(p.x))
    assert after.rises.tolist() == [0] * 5
    assert torch.equal(after.best_before, state.best)


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize(("norm", "steps", "least"), [("linf", 1, 1 - 1e-5), ("l2", 20, 0.999), ("l2", 100, 0.9999)])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_point_reaches_the_affine_models_optimum(problem, norm, steps, least, boxed, seed):
    p = problem("affine", n=8, boxed=boxed, seed=seed)
    threat = Threat(norm, {"linf": 0.03, "l2": 0.5}[norm])
    _, points = climbed(p, threat, steps=steps)
    share = share_of_optimum(p, threat, points)
    assert threat.contains(p.x, points).all()
    assert share.min() >= least
    assert share.max() <= 1 + 1e-5


@pytest.mark.parametrize("kind", ["linear", "convolutional"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("steps", [7, 20, 100])
@pytest.mark.parametrize(("norm", "engine", "rtol", "atol"), [("linf", "Linf", 0, 2e-9), ("l2", "L2", 0, 1e-3)])
def test_points_and_verdicts_equal_those_of_the_authors(monkeypatch, problem, kind, loss, steps, norm, engine, rtol, atol):
    base = pytest.importorskip("pyautoattack.autopgd_base")
    monkeypatch.setattr(importlib.import_module("robench.attacks.apgd"), "PROJECTION_ROUNDS", 0)  # their l2 projection
    p = problem(kind, n=20)
    threat = Threat(norm, {"linf": 0.02, "l2": 0.3}[norm])
    start = random_start(p.x, threat, p.draws())
    search, ours = climbed(p, threat, loss, steps, start)
    attack = base.APGDAttack(p.model, n_iter=steps, norm=engine, eps=threat.eps, loss=loss, device="cpu")
    attack.init_hyperparam(p.x)
    with torch.no_grad():
        theirs, right, _, _ = attack.attack_single_run(p.x, p.y, x_init=start.clone())
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    fooled = search.result().fooled
    assert torch.equal(fooled, ~right.bool())
    assert fooled.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "dlr", "margin", "prob-margin"])
def test_all_iterates_lie_in_the_threat_and_the_best_point_is_where_the_largest_loss_was(problem, norm, loss):
    p = problem("convolutional", n=20)
    threat, losses, points = Threat(norm, EPS[norm]), [], []

    def heard(logits, y):
        losses.append(loss_of(loss, False)(logits, y))
        return losses[-1]

    class Watched(nn.Module):
        def forward(self, x):
            points.append(x.detach())
            return p.model(x)

    search = Search(Watched(), p.x, p.y, threat, stay=True)
    best = run_apgd(search, random_start(p.x, threat, p.draws()), heard, threat, 15)
    assert len(points) == len(losses) == 16
    assert all(threat.contains(p.x, point).all() for point in points)
    largest, turn = torch.stack(losses).max(0)
    assert torch.equal(torch.stack([points[t][row] for row, t in enumerate(turn.tolist())]), best)
    assert (turn > 0).any()
    assert (largest >= losses[0]).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("attack", "options"), [(apgd, {"restarts": 2}), (apgd_t, {"targets": 2}), (apgd, {"target": "random"})])
def test_what_is_found_depends_neither_on_batch_size_nor_on_order(problem, attack, options, norm):
    p = problem("linear", n=40)
    threat = Threat(norm, 1.1 * gap(p.distances(norm)))
    options = options | {"steps": 10, "large_eps": norm == "l1"}
    together = attack(p.model, p.x, p.y, threat, p.draws(), **options)
    assert together.fooled.any()
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for part in (*torch.arange(40).split(7), *shuffled.split(23), torch.tensor([5])):
        found = attack(p.model, p.x[part], p.y[part], threat, p.draws().take(part), **options)
        for field in ("x_adv", "fooled", "step", "forwards", "backwards", "nonfinite"):
            assert torch.equal(getattr(found, field), getattr(together, field)[part]), field


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 100])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("attack", [apgd, apgd_t])
def test_with_any_number_of_classes_the_samples_closer_than_eps_fall(problem, attack, loss, classes):
    p = problem("linear", n=20 if classes < 100 else 8, classes=classes)
    distances = p.distances("linf")
    eps = gap(distances)
    found = attack(p.model, p.x, p.y, Threat("linf", eps), p.draws(), loss=loss, steps=20 if classes < 100 else 3)
    assert (found.fooled <= (distances < eps)).all()
    assert torch.equal(found.fooled, distances < eps) if classes < 100 else found.fooled.sum() >= 0.7 * (distances < eps).sum()


def test_the_margin_stands_in_where_dlr_is_undefined(problem):
    assert [fitting_loss_name("dlr", classes, False) for classes in (2, 3)] == ["margin", "dlr"]
    assert [fitting_loss_name("dlr", classes, True) for classes in (3, 4)] == ["margin", "dlr"]
    assert fitting_loss_name("ce", 2, True) == "ce"
    p = problem("linear", n=20, classes=3)
    found = [apgd_t(p.model, p.x, p.y, Threat("l2", 0.2), p.draws(), loss=loss, steps=10).x_adv for loss in ("dlr", "margin")]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("attack", "norm", "options", "forwards", "backwards"),
    [
        (apgd, "linf", {}, 101, 100),
        (apgd, "l2", {"steps": 10, "restarts": 3}, 33, 30),
        (apgd, "l1", {"steps": 10, "large_eps": True}, 13, 10),
        (apgd, "l1", {"steps": 10}, 11, 10),
        (apgd, "linf", {"steps": 10, "eot": 4}, 41, 40),
        (apgd, "linf", {"steps": 10, "target": "second"}, 12, 10),
        (apgd_t, "linf", {"steps": 10}, 9 * 11 + 1, 90),
        (apgd_t, "linf", {"steps": 10, "targets": 3, "restarts": 2, "eot": 2}, 6 * 21 + 1, 120),
    ],
)
def test_a_survivor_costs_one_forward_pass_more_than_steps_and_counts_are_true(problem, attack, norm, options, forwards, backwards):
    p = problem("linear", n=20, classes=10)
    watched = Watched(p.model)
    found = attack(watched, p.x, p.y, Threat(norm, 1e-6), p.draws(), **options)
    assert not found.fooled.any()
    assert found.forwards.tolist() == [forwards] * 20
    assert found.backwards.tolist() == [backwards] * 20
    assert (sum(watched.forwards), sum(watched.backwards)) == (20 * forwards, 20 * backwards)


@pytest.mark.parametrize("attack", [apgd, apgd_t])
def test_a_fooled_sample_leaves_the_run(problem, attack):
    p = problem("linear", n=64)
    watched = Watched(p.model)
    found = attack(watched, p.x, p.y, Threat("linf", gap(p.distances("linf"))), p.draws(), steps=30)
    assert 0 < int(found.fooled.sum()) < 64
    assert found.fooled.any()
    clean = int(attack is apgd_t)
    assert torch.equal(found.forwards[found.fooled], found.step[found.fooled] + 1 + clean)
    assert sum(watched.forwards) <= 8 / 7 * int(found.forwards.sum()) + LEAST_ROWS * int(found.forwards.max())


def test_the_last_iterate_decides_too(problem):
    p = problem("affine", n=8)
    threat = Threat("linf", float(p.distances("linf").max()) * 1.01)
    found = apgd(p.model, p.x, p.y, threat, p.draws(), steps=1)
    assert found.fooled.all()
    assert set(found.step.tolist()) == {1}


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin", "prob-margin"])
@pytest.mark.parametrize("target", ["second", "least-likely", 2])
def test_a_targeted_attack_reaches_its_target(problem, target, loss):
    p = problem("linear", n=20)
    ranks = p.model(p.x).argsort(1)
    found = apgd(p.model, p.x, p.y, Threat("linf", 1.0), p.draws(), steps=20, target=target, loss=loss)
    wanted = {"second": ranks[:, -2], "least-likely": ranks[:, 0], 2: torch.full_like(p.y, 2)}[target]
    able = wanted != p.y
    assert torch.equal(found.fooled, able)
    assert torch.equal(p.model(found.x_adv).argmax(1), torch.where(able, wanted, p.y))


def test_targets_go_by_falling_logits_and_leave_the_label_out():
    logits = torch.tensor([[4.0, 1, 3, -2], [0, 5, 5, 1], [1, 2, 3, 4]])
    assert classes_by_logit(logits, torch.tensor([0, 2, 0])).tolist() == [[2, 1, 3], [1, 3, 0], [3, 2, 1]]


def test_more_targets_and_restarts_only_help(problem):
    p = problem("convolutional", n=60)
    threat = Threat("l2", 0.06)
    few, targets, restarts = (
        apgd_t(p.model, p.x, p.y, threat, p.draws(), steps=3, **options).fooled
        for options in ({"targets": 1}, {"targets": 9}, {"targets": 1, "restarts": 3})
    )
    assert 0 < int(few.sum()) < int(targets.sum()) < 60
    assert (targets >= few).all()
    assert (restarts >= few).all()


class Turning(nn.Module):
    """A two-class affine model whose weight is another one at each pass, in turn."""

    def __init__(self, weights, bias=0.0):
        super().__init__()
        self.weights, self.bias, self.passes = weights, bias, 0

    def forward(self, x):
        score = (x * self.weights[self.passes % len(self.weights)]).flatten(1).sum(1) + self.bias
        self.passes += 1
        return torch.stack((score / 2, -score / 2), 1)


def test_with_eot_gradients_are_averaged_and_the_last_pass_gives_loss_and_verdict():
    x, y = torch.full((16, 1, 2, 2), 0.5), torch.zeros(16, dtype=torch.int64)
    weights = -torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    weights[2] *= -1  # wrong on the first two passes, right on the third
    search = Search(Turning(weights), x, y, Threat("linf", 0.1), stay=True)
    losses, grad = losses_and_gradient(search, x, loss_of("margin", False), 3)
    torch.testing.assert_close(grad[0], -weights.mean(0))
    torch.testing.assert_close(losses, -(x * weights[2]).flatten(1).sum(1))
    assert not search.result().fooled.any()
    assert search.result().forwards.tolist() == search.result().backwards.tolist() == [3] * 16


def test_with_eot_one_lucky_pass_does_not_end_the_run_and_the_fooled_leave_after_it():
    x, y = torch.full((16, 1, 2, 2), 0.5), torch.zeros(16, dtype=torch.int64)
    weights = torch.ones(2 * 10 + 1, 1, 2, 2)
    weights[3] = -1  # the verdict of the second iterate
    model = Turning(weights)
    found = apgd(model, x, y, Threat("linf", 1e-4), Draws(0, torch.arange(16)), steps=10, eot=2, restarts=3)
    assert found.fooled.all()
    assert set(found.step.tolist()) == {1}
    assert found.forwards.tolist() == [21] * 16
    assert model.passes == 21


class Noisy(nn.Module):
    """A model that sees its images through noise."""

    def __init__(self, model, sigma):
        super().__init__()
        self.model, self.sigma, self.generator = model, sigma, torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.model(x + self.sigma * torch.randn(x.shape, generator=self.generator))


def test_with_eot_the_attack_on_a_noisy_model_reaches_the_optimum_that_one_pass_misses(problem):
    p = problem("affine", n=12)
    threat = Threat("linf", float(p.distances("linf").max()) * 1.2)
    found = apgd(Noisy(p.model, 0.02), p.x, p.y, threat, p.draws(), steps=20, eot=5)
    assert (p.model(found.x_adv).argmax(1) != p.y).all()
    assert set(found.forwards.tolist()) == {101}


@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 1, 4), (2, 7, 3), (1, 1, 1)])
@pytest.mark.parametrize("norm", NORMS)
def test_images_of_any_shape_are_attacked(problem, norm, shape):
    p = problem("linear", n=20, shape=shape)
    threat = Threat(norm, min(EPS[norm], diameter(norm, shape)))
    for attack in (apgd, apgd_t):
        found = attack(p.model, p.x, p.y, threat, p.draws(), steps=5)
        assert threat.contains(p.x, found.x_adv).all()
        assert torch.equal(p.model(found.x_adv).argmax(1) != p.y, found.fooled)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("norm", NORMS)
def test_non_finite_logits_never_count_as_adversarial(problem, norm, bad):
    p = problem("linear", n=30)

    class Sick(nn.Module):
        def forward(self, x):
            logits = p.model(x)
            sick = logits.argmax(1, keepdim=True) != p.y[0]
            return torch.where(sick, logits.detach() * 0 + bad, logits)

    mine = p.y == p.y[0]
    x, y = p.x[mine], p.y[mine]
    threat = Threat(norm, 2 * float(p.distances(norm).max()))
    for attack in (apgd, apgd_t):
        found = attack(Sick(), x, y, threat, p.draws().take(mine), steps=10)
        assert attack(p.model, x, y, threat, p.draws().take(mine), steps=10).fooled.all()
        assert found.nonfinite.all()
        assert not found.fooled.any()
        assert torch.equal(found.x_adv, x)


def test_an_empty_batch_and_a_radius_of_0_come_back_as_they_are(problem):
    p = problem("linear", n=16)
    for attack, norm in itertools.product((apgd, apgd_t), NORMS):
        none = attack(p.model, p.x[:0], p.y[:0], Threat(norm, 0.1), p.draws().take(torch.arange(0)))
        assert none.x_adv.shape == (0, 3, 6, 6)
        still = attack(p.model, p.x, p.y, Threat(norm, 0.0), p.draws(), steps=3)
        assert torch.equal(still.x_adv, p.x)
        assert not still.fooled.any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_lie_on_the_sphere_and_differ_between_samples(problem, norm):
    x = torch.full((50, 3, 6, 6), 0.5)
    start = random_start(x, Threat(norm, 0.1), Draws(0, torch.arange(50)))
    torch.testing.assert_close(Threat(norm, 0.1).distance(x, start), torch.full((50,), 0.1))
    assert len(start.flatten(1).unique(dim=0)) == 50
    if norm == "linf":
        assert float(((start - x).abs() < 0.05).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_rounds_bring_the_l2_projection_to_the_exact_one():
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(64, 3, 8, 8, generator=generator) * 1.6 - 0.3).clamp(0, 1)
    aim, threat = x + torch.randn(x.shape, generator=generator), Threat("l2", 4.0)
    exact = threat.project(x, aim)
    far = [float((approximate_l2_projection(x, aim, 4.0, rounds) - exact).abs().max()) for rounds in (0, 3, 40)]
    assert far[0] > 5 * far[1] > 100 * far[2]
    assert far[2] < 1e-6
    assert all(threat.contains(x, approximate_l2_projection(x, aim, 4.0, rounds)).all() for rounds in (0, 1, 3))


def test_an_l2_step_keeps_the_direction_of_a_tiny_gradient():
    x, grad = torch.full((2, 1, 4, 4), 0.5), torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    grad[1] = grad[0] * 1e-15
    after = l2_step(x, x, x, grad, torch.full((2, 1, 1, 1), 0.1), 0.2, 1.0)
    torch.testing.assert_close(after[1], after[0])
    assert torch.equal(l2_step(x, x, x, grad * 0, torch.full((2, 1, 1, 1), 0.1), 0.2, 1.0), x)


def test_compiled_steps_equal_eager_ones():
    if why := compile_failure():
        pytest.skip(why)
    g = torch.Generator().manual_seed(0)
    for rows in (8, 5):
        x, x_adv, x_prev, grad = (torch.rand(rows, 3, 5, 4, generator=g) for _ in range(4))
        grad, length = grad - 0.5, torch.rand(rows, 1, 1, 1, generator=g)
        for step, given in (
            (linf_step, (x_adv, x_prev, grad, length, (x - 0.1).clamp_min(0), (x + 0.1).clamp_max(1), 0.75)),
            (l2_step, (x, x_adv, x_prev, grad, length, 0.5, 0.75)),
        ):
            eager = step(*given)
            with compiled_kernels():
                torch.testing.assert_close(step(*given), eager, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"restarts": 0}, "restarts must be a whole number"),
        ({"eot": 0}, "eot must be a whole number of at least 1"),
        ({"rho": 0}, "rho must be a finite number above 0"),
        ({"rho": 1.5}, "rho is a share of the steps, at most 1, not 1.5"),
        ({"large_eps": True}, "large_eps is a schedule for l1: leave it out for linf"),
        ({"large_eps": 1}, "large_eps must be true or false"),
        ({"loss": "dlt"}, "unknown loss 'dlt': did you mean 'dlr'"),
    ],
)
def test_a_wrong_option_is_answered_with_a_sentence(problem, options, sentence):
    p = problem("linear", n=4)
    for attack in (apgd, apgd_t):
        with pytest.raises(InputError, match=sentence):
            attack(p.model, p.x, p.y, Threat("linf", 0.1), p.draws(), **options)
    with pytest.raises(InputError, match="targets must be a whole number"):
        apgd_t(p.model, p.x, p.y, Threat("linf", 0.1), p.draws(), targets=0)
    with pytest.raises(InputError, match="unknown target"):
        apgd(p.model, p.x, p.y, Threat("linf", 0.1), p.draws(), target="first")
