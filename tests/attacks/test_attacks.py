"""Losses against literals, and attacks against the exact distances of linear models and against other libraries."""

import inspect

import pytest
import torch
from attacking import gap
from torch import nn

from robench.attacks import ATTACKS
from robench.attacks.active import Search
from robench.attacks.fgsm import fgsm
from robench.attacks.losses import LOSSES, TARGETED_LOSSES, fitting_loss, loss_of
from robench.attacks.noise import noise
from robench.attacks.pgd import pgd, run_pgd
from robench.core.errors import InputError
from robench.core.recipes import parse_recipe, resolve
from robench.core.threat import NORMS, Threat

OWN = ["fgsm", "pgd", "pgd-10", "pgd-20", "pgd-50", "pgd-margin", "noise"]


@pytest.mark.parametrize(("y", "value"), [(0, -1 / 3), (1, 1.0), (2, 1 / 3), (3, 2.0), (4, 4 / 3)])
def test_dlr_has_its_published_values(y, value):
    assert LOSSES["dlr"](torch.tensor([[4.0, 1, 3, -2, 0]]), torch.tensor([y])).item() == pytest.approx(value, abs=1e-6)


def test_dlr_is_0_on_ties_and_finite_on_constant_logits():
    tied = torch.tensor([[2.0, 2, 1, 0, -1]] * 2)
    assert LOSSES["dlr"](tied, torch.tensor([0, 1])).tolist() == [0.0, 0.0]
    assert LOSSES["dlr"](torch.full((5, 5), 7.0), torch.arange(5)).tolist() == [0.0] * 5


@pytest.mark.parametrize(
    ("y", "t", "value"), [(0, 2, -0.285714), (0, 1, -0.857143), (0, 4, -1.142857), (0, 3, -1.714286), (2, 0, 0.285714)]
)
def test_targeted_dlr_has_its_published_values(y, t, value):
    z = torch.tensor([[4.0, 1, 3, -2, 0]])
    assert TARGETED_LOSSES["dlr"](z, torch.tensor([y]), torch.tensor([t])).item() == pytest.approx(value, abs=1e-6)


def test_dlr_does_not_change_with_scale_and_shift_of_the_logits():
    z, y, t = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 6, (torch.arange(50) + 2) % 6
    torch.testing.assert_close(LOSSES["dlr"](3 * z + 5, y), LOSSES["dlr"](z, y), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(TARGETED_LOSSES["dlr"](3 * z + 5, y, t), TARGETED_LOSSES["dlr"](z, y, t), rtol=1e-4, atol=1e-5)


def test_margin_and_cross_entropy_by_hand():
    z, y, t = torch.tensor([[4.0, 1, 3], [0, 0, 0]]), torch.tensor([0, 1]), torch.tensor([1, 2])
    assert LOSSES["margin"](z, y).tolist() == [-1.0, 0.0]
    assert TARGETED_LOSSES["margin"](z, y, t).tolist() == [-3.0, 0.0]
    norm = torch.tensor([4.0, 1, 3]).exp().sum().log().item()
    assert LOSSES["ce"](z, y).tolist() == pytest.approx([norm - 4, 1.0986123], abs=1e-6)
    assert TARGETED_LOSSES["ce"](z, y, t).tolist() == pytest.approx([1 - norm, -1.0986123], abs=1e-6)


def test_the_probability_margin_by_hand():
    z, y, t = torch.tensor([[4.0, 1, 3], [0, 0, 0]]).log(), torch.tensor([0, 1]), torch.tensor([1, 2])
    z[1] = 0.0
    assert LOSSES["prob-margin"](z, y).tolist() == pytest.approx([-1 / 8, 0.0], abs=1e-6)
    assert TARGETED_LOSSES["prob-margin"](z, y, t).tolist() == pytest.approx([-3 / 8, 0.0], abs=1e-6)
    assert torch.equal(LOSSES["prob-margin"](torch.tensor([[200.0, 0, 1]]), torch.tensor([0])), torch.tensor([-1.0]))


def test_the_gradient_of_dlr_is_that_of_its_formula_also_on_ties():
    z = torch.tensor([[4.0, 1, 3, -2, 0], [4, 1, 3, -2, 0], [2, 2, 1, 0, -1], [2, 2, 1, 0, -1]], requires_grad=True)
    (grad,) = torch.autograd.grad(LOSSES["dlr"](z, torch.tensor([0, 3, 0, 1])).sum(), z)
    by_hand = [[-2 / 9, -1 / 9, 3 / 9, 0, 0], [-1 / 3, 2 / 3, 0, -1 / 3, 0], [-1, 1, 0, 0, 0], [1, -1, 0, 0, 0]]
    torch.testing.assert_close(grad, torch.tensor(by_hand))


@pytest.mark.parametrize(("targeted", "classes"), [(False, 2), (True, 3)])
def test_dlr_says_how_many_classes_it_needs(targeted, classes):
    y = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(InputError, match=f"needs at least {classes + 1} classes and the model has {classes}"):
        loss_of("dlr", targeted)(torch.zeros(1, classes), y, *([y + 1] if targeted else []))


@pytest.mark.parametrize(("targeted", "classes"), [(False, 2), (True, 3)])
def test_a_fitted_dlr_is_the_margin_below_that(targeted, classes):
    z, y = torch.randn(6, classes, generator=torch.Generator().manual_seed(0)), torch.zeros(6, dtype=torch.int64)
    aim = [y + 1] if targeted else []
    assert torch.equal(fitting_loss("dlr", targeted)(z, y, *aim), loss_of("margin", targeted)(z, y, *aim))
    wide = torch.cat((z, z), 1)
    assert torch.equal(fitting_loss("dlr", targeted)(wide, y, *aim), loss_of("dlr", targeted)(wide, y, *aim))
    with pytest.raises(InputError, match="unknown loss 'dlt'"):
        fitting_loss("dlt", targeted)


@pytest.mark.parametrize("boxed", [False, True])
def test_fgsm_is_exact_on_the_affine_model_in_linf(problem, boxed):
    p = problem("affine", n=40, boxed=boxed)
    distances = p.distances("linf")
    for i, distance in enumerate(distances.tolist()):
        sample = p.x[i : i + 1], p.y[i : i + 1]
        draws = p.draws().take(torch.tensor([i]))
        assert fgsm(p.model, *sample, Threat("linf", distance * 1.001), draws).fooled.item()
        assert not fgsm(p.model, *sample, Threat("linf", distance * 0.999), draws).fooled.item()


@pytest.mark.parametrize("boxed", [False, True])
def test_fgsm_in_l2_steps_along_the_gradient(problem, boxed):
    p = problem("affine", boxed=boxed)
    distances = p.distances("l2")
    eps = gap(distances)
    found = fgsm(p.model, p.x, p.y, Threat("l2", eps), p.draws())
    assert (found.fooled <= (distances < eps)).all()
    assert boxed or torch.equal(found.fooled, distances < eps)


# How far PGD needs to go, as a multiple of the exact distance. In l2, steps of 2.5 eps in total turn an even start to within
# about 1.4 % of the optimum, a bad one to 3 %. In l1 with the box active a random start is far from sparse: from the clean image.
REACH = [
    ("linf", False, True, 1.001),
    ("linf", True, True, 1.001),
    ("l2", False, True, 1.03),
    ("l2", True, True, 1.03),
    ("l2", False, False, 1.001),
    ("l2", True, False, 1.001),
    ("l1", False, True, 1.001),
    ("l1", True, False, 1.1),
    ("l1", True, True, 1.1),
]


@pytest.mark.parametrize(("norm", "boxed", "random_start", "reach"), REACH)
def test_pgd_needs_hardly_more_than_the_exact_distance(problem, norm, boxed, random_start, reach):
    p = problem("affine", boxed=boxed)
    for i, distance in enumerate(p.distances(norm).tolist()):
        sample, draws = (p.x[i : i + 1], p.y[i : i + 1]), p.draws().take(torch.tensor([i]))
        options = {"steps": 50, "random_start": random_start}
        assert pgd(p.model, *sample, Threat(norm, distance * reach), draws, **options).fooled.item()
        assert not pgd(p.model, *sample, Threat(norm, distance * 0.999), draws, **options).fooled.item()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_on_a_linear_model_exactly_the_samples_closer_than_eps_fall(problem, norm, loss):
    p = problem("linear", n=40)
    distances = p.distances(norm)
    eps = gap(distances)
    found = pgd(p.model, p.x, p.y, Threat(norm, eps), p.draws(), steps=60, restarts=4, loss=loss)
    assert torch.equal(found.fooled, distances < eps)
    assert torch.equal(p.model(found.x_adv).argmax(1) != p.y, found.fooled)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", OWN)
def test_points_lie_in_the_threat_and_stand_for_the_verdict(problem, name, norm):
    p = problem("convolutional", n=20)
    threat = Threat(norm, {"linf": 0.03, "l2": 0.3, "l1": 3.0}[norm])
    found = ATTACKS[name](p.model, p.x, p.y, threat, p.draws())
    assert threat.contains(p.x, found.x_adv).all()
    assert torch.equal(p.model(found.x_adv).argmax(1) != p.y, found.fooled)
    assert torch.equal(found.x_adv[~found.fooled], p.x[~found.fooled])
    assert torch.equal(found.step >= 0, found.fooled)
    assert name in ("noise", "fgsm") or found.fooled.any()


@pytest.mark.parametrize("name", OWN)
def test_a_sample_that_is_wrong_when_clean_is_fooled_at_once(problem, name):
    p = problem("linear", n=20)
    wrong = (p.y + 1) % 5
    found = ATTACKS[name](p.model, p.x, wrong, Threat("linf", 1e-3), p.draws())
    assert found.fooled.all()
    assert found.step.tolist() == [0] * 20
    assert name != "fgsm" or torch.equal(found.x_adv, p.x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("name", "options"), [("fgsm", ""), ("pgd", ",restarts=3"), ("pgd", ",target=random"), ("noise", ",tries=5")])
def test_what_is_found_depends_neither_on_batch_size_nor_on_order(problem, name, options, norm):
    p = problem("linear", n=40)
    attack = resolve(parse_recipe(name + options), ATTACKS, "attack")
    threat = Threat(norm, 1.1 * gap(p.distances(norm)))
    together = attack(p.model, p.x, p.y, threat, p.draws())
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for part in (*torch.arange(40).split(7), *shuffled.split(23), torch.tensor([5])):
        found = attack(p.model, p.x[part], p.y[part], threat, p.draws().take(part))
        for field in ("x_adv", "fooled", "step", "forwards", "backwards", "nonfinite"):
            assert torch.equal(getattr(found, field), getattr(together, field)[part]), field


@pytest.mark.parametrize("loss", TARGETED_LOSSES)
@pytest.mark.parametrize("target", ["second", "least-likely", "random", 2])
def test_a_targeted_attack_reaches_its_target(problem, target, loss):
    p = problem("linear", n=20)
    clean = p.model(p.x)
    ranked = clean.argsort(1)
    found = pgd(p.model, p.x, p.y, Threat("linf", 1.0), p.draws(), steps=40, target=target, loss=loss)
    reached = p.model(found.x_adv).argmax(1)
    able = p.y != 2 if target == 2 else torch.ones(20, dtype=torch.bool)
    assert torch.equal(found.fooled, able)
    assert torch.equal(reached != p.y, able)
    expected = {"second": ranked[:, -2], "least-likely": ranked[:, 0], 2: torch.full_like(p.y, 2)}
    assert target == "random" or torch.equal(reached[able], expected[target][able])
    assert torch.equal(found.x_adv[~able], p.x[~able])
    assert torch.equal(found.forwards, torch.where(able, found.step + 2, 1))


def test_random_targets_follow_the_seed_and_reach_every_other_class(problem):
    p = problem("linear", n=200)

    def reached(seed):
        found = pgd(p.model, p.x, p.y, Threat("linf", 1.0), p.draws(seed), steps=40, target="random")
        assert found.fooled.all()
        return p.model(found.x_adv).argmax(1)

    assert torch.equal(reached(0), reached(0))
    assert not torch.equal(reached(0), reached(1))
    assert {((a - b) % 5).item() for a, b in zip(reached(0), p.y, strict=True)} == {1, 2, 3, 4}


def test_a_wrong_point_that_misses_the_target_is_kept_for_the_caller_to_see(problem):
    p = problem("linear", n=40)
    found = pgd(p.model, p.x, p.y, Threat("linf", float(p.distances("linf").max())), p.draws(), steps=40, target="least-likely")
    wrong = p.model(found.x_adv).argmax(1) != p.y
    missed = wrong & ~found.fooled
    assert missed.any()
    assert set(found.step[missed].tolist()) == {-1}
    assert set(found.forwards[missed].tolist()) == {42}


def test_restarts_run_only_on_what_still_stands_and_only_help(problem):
    p = problem("convolutional", n=40)
    once = pgd(p.model, p.x, p.y, Threat("linf", 0.02), p.draws(), steps=3)
    often = pgd(p.model, p.x, p.y, Threat("linf", 0.02), p.draws(), steps=3, restarts=8)
    assert 0 < int(once.fooled.sum()) < int(often.fooled.sum())
    assert torch.equal(often.x_adv[once.fooled], once.x_adv[once.fooled])
    assert torch.equal(often.forwards[once.fooled], once.forwards[once.fooled])


def test_noise_fools_less_than_an_attack_and_more_with_more_tries(problem):
    p = problem("linear", n=100)
    eps = float(p.distances("linf").quantile(0.3)) * 3
    fallen = [int(noise(p.model, p.x, p.y, Threat("linf", eps), p.draws(), tries=tries).fooled.sum()) for tries in (1, 30)]
    assert fallen[0] < fallen[1] < int(pgd(p.model, p.x, p.y, Threat("linf", eps), p.draws()).fooled.sum())


def test_noise_has_the_norm_of_the_threat(problem):
    p = problem("affine", n=6)
    for norm in NORMS:
        threat = Threat(norm, 0.05)
        found = noise(p.model, p.x, 1 - p.y, threat, p.draws())  # under wrong labels nearly every point is recorded
        length = threat.distance(p.x, found.x_adv)[found.fooled]
        assert len(length) >= 3
        torch.testing.assert_close(length, torch.full_like(length, 0.05), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"restarts": 0}, "restarts must be a whole number of at least 1"),
        ({"restarts": True}, "restarts must be a whole number"),
        ({"step_size": -0.1}, "step_size must be a finite number above 0"),
        ({"step_size": "big"}, "step_size must be a finite number above 0, not 'big'"),
        ({"loss": "dlt"}, "unknown loss 'dlt': did you mean 'dlr'"),
        ({"target": "least_likely"}, "unknown target 'least_likely': did you mean 'least-likely'"),
        ({"target": 5}, "target=5 is no class of the model: it has 5 classes, 0 to 4"),
        ({"target": -1}, "target=-1 is no class"),
        ({"target": 1.5}, "or the number of a class, not 1.5"),
        ({"random_start": 1}, "random_start must be true or false"),
        ({"random_start": False, "restarts": 2}, "restarts=2 from the clean image would all be the same"),
    ],
)
def test_a_wrong_option_is_answered_with_a_sentence(problem, options, sentence):
    p = problem("linear", n=4)
    with pytest.raises(InputError, match=sentence):
        pgd(p.model, p.x, p.y, Threat("linf", 0.1), p.draws(), **options)
    with pytest.raises(InputError, match="tries must be a whole number of at least 1"):
        noise(p.model, p.x, p.y, Threat("linf", 0.1), p.draws(), tries=0)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_entry_shows_its_options_and_a_docstring(name):
    attack = ATTACKS[name]
    parameters = inspect.signature(attack).parameters.values()
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == ["model", "x", "y", "threat", "draws"]
    assert all(p.default is not p.empty for p in parameters if p.kind is p.KEYWORD_ONLY)
    first = inspect.getdoc(attack).splitlines()[0]
    assert first.endswith(".")
    assert "partial" not in first


def test_a_variant_runs_its_recipe_and_takes_further_options(problem):
    p = problem("linear", n=20)
    stands = {"model": p.model, "x": p.x, "y": p.y, "threat": Threat("linf", 1e-6), "draws": p.draws()}
    assert ATTACKS["pgd-50-10"](**stands).backwards.tolist() == [500] * 20
    assert ATTACKS["pgd-margin"](**stands).backwards.tolist() == [80] * 20
    assert resolve(parse_recipe("pgd-20,restarts=2"), ATTACKS, "attack")(**stands).backwards.tolist() == [40] * 20


@pytest.fixture
def trajectory(problem):
    """A network, and the last points of our 10 steps of 0.001 in a ball of 0.004 from the clean images, for those that stand."""
    p = problem("convolutional", n=40)
    search = Search(p.model, p.x, p.y, Threat("linf", 0.004))
    points = run_pgd(search, p.x, loss_of("ce", False), 0.001, 10)[search.standing]
    kept = search.rows[search.standing]
    assert len(kept) > 20
    return p, points, kept


@pytest.mark.filterwarnings("ignore")
def test_points_equal_those_of_torchattacks(trajectory):
    torchattacks = pytest.importorskip("torchattacks")
    p, points, kept = trajectory
    theirs = torchattacks.PGD(p.model, eps=0.004, alpha=0.001, steps=10, random_start=False)(p.x, p.y)
    torch.testing.assert_close(points, theirs[kept], rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_points_equal_those_of_foolbox(trajectory):
    foolbox = pytest.importorskip("foolbox")
    p, points, kept = trajectory
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.001, steps=10, random_start=False)
    theirs = attack.run(foolbox.PyTorchModel(p.model, bounds=(0, 1)), p.x, p.y, epsilon=0.004)
    torch.testing.assert_close(points, theirs[kept], rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_everything_that_torchattacks_fools_we_fool(problem):
    torchattacks = pytest.importorskip("torchattacks")
    p = problem("convolutional", n=60)
    theirs = torchattacks.PGD(p.model, eps=0.02, alpha=0.004, steps=10, random_start=False)(p.x, p.y)
    fallen = p.model(theirs).argmax(1) != p.y
    found = pgd(p.model, p.x, p.y, Threat("linf", 0.02), p.draws(), step_size=0.004, random_start=False)
    assert fallen.any()
    assert (found.fooled >= fallen).all()


def test_cross_entropy_dies_at_a_large_logit_gap_where_margin_does_not(problem):
    p = problem("affine")
    steep = nn.Sequential(p.model, Scaled(1e5))
    threat = Threat("linf", 1.05 * float(p.distances("linf").max()))
    assert pgd(steep, p.x, p.y, threat, p.draws(), loss="margin").fooled.all()
    assert not pgd(steep, p.x, p.y, threat, p.draws(), loss="ce").fooled.all()


class Scaled(nn.Module):
    """Logits times a constant."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x
