"""FAB and FAB-T: closed-form distances on linear models, the authors' own code, counts of passes, and what must not matter."""

import functools

import pytest
import torch
from pyautoattack.fab_pt import FABAttack_PT
from recording import Watched
from torch import nn

from robench.attacks import kernels
from robench.attacks.fab import fab, fab_step, fab_t, fused_fab_step
from robench.attacks.kernels import compile_failure, compiled_kernels
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.model_calls import freeze_model
from robench.core.threat import Threat

NORMS = ("linf", "l2", "l1")
TWICE = 1.05 - 0.05 * 0.945 / 1.055  # distance over the least one after two iterations on a plane in the interior: the best ever
attacks = pytest.mark.parametrize("attack", [functools.partial(fab, restarts=1), fab_t], ids=["fab", "fab_t"])


def verdicts(attack, p, norm, eps, rows=slice(None), **options):
    """Which samples fall; every one that does is wrong at a point inside the threat."""
    threat = Threat(norm, eps)
    with freeze_model(p.model):
        found = attack(p.model, p.x[rows], p.y[rows], threat, Draws(0, torch.arange(len(p.x))[rows], "test"), **options)
        assert bool((p.model(found.x_adv).argmax(1) != p.y[rows])[found.fooled].all())
    assert bool(threat.contains(p.x[rows], found.x_adv).all())
    return found.fooled


@attacks
@pytest.mark.parametrize("norm", NORMS)
def test_on_a_plane_in_the_interior_a_sample_falls_from_1_0052_times_its_distance_on(problem, attack, norm):
    p = problem("affine", n=12, seed=3)
    distances = p.distances(norm)
    inside = ((distances > 0.002) & (distances < 0.35)).nonzero().flatten().tolist()
    assert len(inside) >= 5
    assert abs(TWICE - 1.0052133) < 1e-7
    for row in inside[:5]:
        distance = float(distances[row])
        assert not verdicts(attack, p, norm, 1.004 * distance, slice(row, row + 1))
        assert verdicts(attack, p, norm, 1.007 * distance, slice(row, row + 1))
        assert verdicts(attack, p, norm, 1.0501 * distance, slice(row, row + 1), steps=1)
        assert not verdicts(attack, p, norm, 1.049 * distance, slice(row, row + 1), steps=1)


@attacks
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 5, 10])
def test_on_linear_models_the_samples_fall_whose_distance_is_less_than_eps(problem, attack, norm, classes):
    p = problem("linear", classes=classes, n=16)
    distances = p.distances(norm)
    eps = float(distances.median()) * 1.0001
    fallen = verdicts(attack, p, norm, eps, steps=12)
    assert not fallen[distances > eps * 1.0001].any()
    assert fallen[distances < eps / 1.02].all()
    assert 0 < fallen.sum() < 16


@attacks
def test_a_box_that_is_mostly_active_is_met_exactly(problem, attack):
    for norm in NORMS:
        p = problem("affine", boxed=True, n=8)
        distances = p.distances(norm)
        eps = float(distances.median()) * 1.0001
        fallen = verdicts(attack, p, norm, eps)
        assert fallen[distances < eps / 1.02].all()
        assert not fallen[distances > eps].any()


def test_a_hundred_classes_are_attacked_in_the_order_of_their_clean_logits(problem):
    p = problem("linear", classes=100, n=6, shape=(1, 6, 6))
    distances = p.distances("l2")
    assert verdicts(fab_t, p, "l2", float(distances.max()) * 1.02, steps=5, targets=99).all()
    assert verdicts(fab, p, "l2", float(distances.max()) * 1.02, steps=5, restarts=1).all()
    assert not verdicts(fab_t, p, "l2", float(distances.min()) * 0.999, steps=2, targets=99).any()


def test_with_one_target_only_the_class_with_the_second_largest_logit_is_reached(problem):
    p = problem("linear", classes=5, n=24)
    with torch.no_grad():
        second = p.model(p.x).topk(2, dim=1).indices[:, 1]
        found = fab_t(p.model, p.x, p.y, Threat("l2", 10.0), p.draws(), targets=1, steps=20)
        reached = p.model(found.x_adv).argmax(1)
    assert found.fooled.all()
    assert (reached == second).float().mean() > 0.6


@pytest.mark.parametrize("norm", NORMS)
def test_verdicts_are_those_of_the_authors_code_but_for_rounding(problem, norm):
    p = problem("convolutional", n=40)
    eps = {"linf": 0.006, "l2": 0.04, "l1": 0.3}[norm]
    name = {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm]
    engine = FABAttack_PT(p.model, norm=name, eps=eps, n_iter=20, n_restarts=1, targeted=True, device="cpu", n_target_classes=9)
    with freeze_model(p.model):
        theirs = (p.model(engine.perturb(p.x, p.y)).argmax(1) != p.y).detach()
        ours = fab_t(p.model, p.x, p.y, Threat(norm, eps), p.draws(), steps=20).fooled
    assert 4 < theirs.sum() < 36
    assert (ours != theirs).sum() <= 1


@attacks
@pytest.mark.parametrize("norm", NORMS)
def test_points_do_not_depend_on_batch_size_or_order(problem, attack, norm):
    p = problem("linear", n=23, classes=4)
    model, x, y = p.model.double(), p.x.double(), p.y
    eps = float(p.distances(norm).median())
    run = functools.partial(attack, model, threat=Threat(norm, eps), steps=6, restarts=2)
    draws = Draws(0, torch.arange(23), "test")
    whole = run(x, y, draws=draws)
    for rows in (torch.arange(22, -1, -1), torch.tensor([4]), torch.tensor([20, 3, 11, 7, 8])):
        part = run(x[rows], y[rows], draws=draws.take(rows))
        assert torch.equal(part.x_adv, whole.x_adv[rows])
        assert torch.equal(part.fooled, whole.fooled[rows])
        assert torch.equal(part.forwards, whole.forwards[rows])
        assert torch.equal(part.backwards, whole.backwards[rows])
        assert torch.equal(part.step, whole.step[rows])


@attacks
@pytest.mark.parametrize("shape", [(1, 1, 7), (2, 5, 3), (1, 28, 28)])
def test_images_need_not_be_square_or_of_three_channels(problem, attack, shape):
    p = problem("linear", shape=shape, n=9)
    for norm in NORMS:
        distances = p.distances(norm)
        eps = float(distances[distances.isfinite()].max()) * 1.02
        assert verdicts(attack, p, norm, eps, steps=10)[distances.isfinite()].all()


def test_channels_last_images_are_attacked_as_others_are(problem):
    p = problem("linear", n=20)
    threat = Threat("linf", float(p.distances("linf").median()))
    plain = fab_t(p.model, p.x, p.y, threat, p.draws(), steps=5)
    last = fab_t(p.model, p.x.contiguous(memory_format=torch.channels_last), p.y, threat, p.draws(), steps=5)
    assert torch.equal(plain.fooled, last.fooled)
    torch.testing.assert_close(plain.x_adv, last.x_adv)


def test_a_survivor_of_fab_t_spends_1792_forwards_and_900_backwards_at_ten_classes(problem):
    p = problem("linear", classes=10, n=4, shape=(1, 4, 4))
    found = fab_t(p.model, p.x, p.y, Threat("linf", 1e-6), p.draws())
    assert found.forwards.tolist() == [1792] * 4
    assert found.backwards.tolist() == [900] * 4


@pytest.mark.parametrize(("attack", "forwards"), [(fab_t, 1 + 3 * (7 + 8)), (fab, 2 * 2 * 4)], ids=["fab_t", "fab"])
def test_passes_are_counted_as_the_model_sees_them_and_fallen_samples_get_no_more(problem, attack, forwards):
    p = problem("linear", n=32, classes=4)
    watched = Watched(p.model)
    found = attack(watched, p.x, p.y, Threat("linf", 1e-6), p.draws(), steps=4, restarts=2)
    assert set(found.forwards.tolist()) == {forwards}
    assert set(found.backwards.tolist()) == {3 * 8}
    assert sum(watched.forwards) == 32 * forwards
    assert sum(watched.backwards) == 32 * 3 * 8
    watched = Watched(p.model)
    eps = float(p.distances("linf").median())
    found = attack(watched, p.x, p.y, Threat("linf", eps), p.draws(), steps=4, restarts=2)
    assert 0 < found.fooled.sum() < 32
    assert found.forwards[found.fooled].max() < forwards
    assert set(found.forwards[~found.fooled].tolist()) == {forwards}
    passengers = len(watched.forwards) * 32 // 8
    assert found.forwards.sum() <= sum(watched.forwards) <= found.forwards.sum() + passengers
    assert watched.forwards[-1] < 32


@attacks
def test_once_all_have_fallen_the_model_is_asked_no_more(problem, attack):
    p = problem("linear", n=20)
    watched = Watched(p.model)
    found = attack(watched, p.x, p.y, Threat("l2", 10.0), p.draws())
    assert found.fooled.all()
    assert len(watched.forwards) <= found.forwards.max() < 20
    assert attack(watched, p.x[:0], p.y[:0], Threat("l2", 1.0), Draws(0, torch.arange(0))).fooled.shape == (0,)


def test_a_restart_starts_elsewhere_and_its_start_belongs_to_the_sample(problem):
    p = problem("dense", n=4, classes=3)
    asked = []

    class Listening(nn.Module):
        def forward(self, x):
            asked.append(x.detach().clone())
            return p.model(x)

    eps = 1e-3
    fab(Listening(), p.x, p.y, Threat("l1", eps), p.draws(), steps=1, restarts=3)
    starts = torch.stack(asked[::2])[:, :4]
    assert torch.equal(starts[0], p.x)
    away = (starts[1:] - p.x).flatten(2).abs().sum(2)
    assert (away <= eps / 2 * 1.01).all()
    assert (away > eps / 8).all()
    assert not torch.equal(starts[1], starts[2])


class Holes(nn.Module):
    """The model, with NaN logits wherever an image is further than `reach` from all clean ones."""

    def __init__(self, p, reach):
        super().__init__()
        self.model, self.x, self.reach = p.model, p.x, reach

    def forward(self, x):
        logits = self.model(x)
        far = (x[:, None] - self.x).flatten(2).abs().amax(2).amin(1) > self.reach
        return logits.masked_fill(far[:, None], float("nan"))


@attacks
def test_a_row_that_meets_nan_walks_back_and_can_still_fall(problem, attack):
    p = problem("affine", n=12, seed=3)
    row = p.distances("linf").argmax()[None]
    distance = float(p.distances("linf")[row])
    model = Holes(p, 1.03 * distance)
    found = attack(model, p.x[row], p.y[row], Threat("linf", 1.02 * distance), p.draws().take(row), steps=5)
    assert found.nonfinite.all()  # the first step goes 1.05 times the distance
    assert found.fooled.all()
    assert found.x_adv.isfinite().all()


@attacks
def test_without_a_gradient_nothing_moves_and_nothing_breaks(attack):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    flat[1].weight.data.zero_()
    flat[1].bias.data = torch.tensor([1.0, 0.0, -1.0])
    x, y = torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64)
    found = attack(flat, x, y, Threat("l2", 1.0), Draws(0, torch.arange(5)), steps=3)
    assert not found.fooled.any()
    assert torch.equal(found.x_adv, x)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"restarts": 0}, {"alpha_max": 1.5}, {"alpha_max": 0.0}, {"beta": 2.0}, {"eta": "much"}, {"steps": 1.5}]
)
@attacks
def test_a_wrong_option_is_an_input_error(problem, attack, wrong):
    p = problem("affine")
    with pytest.raises(InputError, match=next(iter(wrong))):
        attack(p.model, p.x, p.y, Threat("l2", 1.0), p.draws(), **wrong)


def test_more_targets_than_classes_are_as_many_as_there_are(problem):
    p = problem("linear", classes=3, n=4)
    found = fab_t(p.model, p.x, p.y, Threat("l2", 1e-6), p.draws(), steps=2, targets=50)
    assert found.backwards.tolist() == [4] * 4
    with pytest.raises(InputError, match="targets"):
        fab_t(p.model, p.x, p.y, Threat("l2", 1.0), p.draws(), targets=0)


def steps_of_both_kinds(norm, fused, shape=(1, 5, 5)):
    """The next iterates by the plain step and by the fused one, on images with pixels at the box and normals of all sizes."""
    g = torch.Generator().manual_seed(0)
    x, x_adv = ((torch.rand((9, *shape), generator=g) * 1.4 - 0.2).clamp(0, 1) for _ in range(2))
    f, w = torch.randn(9, generator=g), torch.randn((9, *shape), generator=g)
    w[0], w[1, :, :2], w[2], f[3] = 0, 0, w[2] * 1e-20, 0
    f[2], f[4] = f[2] * 1e-20, 1e3
    return fab_step(norm, x, x_adv, f, w, 0.1, 1.05, True), fused(norm, x, x_adv, f, w, 0.1, 1.05)


@pytest.mark.parametrize("look", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_fused_step_is_the_plain_one(norm, look):
    plain, fused = steps_of_both_kinds(norm, functools.partial(fused_fab_step, look=look))
    torch.testing.assert_close(fused, plain, atol=2e-6, rtol=1e-5)


def test_compiled_it_is_still_the_same():
    if reason := compile_failure():
        pytest.skip(reason)
    with compiled_kernels():
        plain, fused = steps_of_both_kinds("linf", functools.partial(fused_fab_step, look=True))
    torch.testing.assert_close(fused, plain, atol=2e-6, rtol=1e-5)


def test_compiled_fab_breaks_the_same_images(problem, monkeypatch):
    p = problem("convolutional", n=16)
    threat = Threat("linf", 0.02)
    plain = fab_t(p.model, p.x, p.y, threat, p.draws(), steps=10, targets=3)
    monkeypatch.setattr(kernels, "LEAST_COMPILED_ROWS", 10**9)  # the kernels' own functions, not compiled
    with compiled_kernels():
        fused = fab_t(p.model, p.x, p.y, threat, p.draws(), steps=10, targets=3)
    assert 0 < int(plain.fooled.sum()) < 16
    assert torch.equal(plain.fooled, fused.fooled)
