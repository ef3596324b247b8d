"""Each check on a model made to raise it, on healthy models, and on numbers by hand."""

import pytest
import torch
from torch import nn
from torch.autograd import grad as taken_aside  # as a model's file would, before any watch

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.model_calls import are_probabilities, freeze_model
from robench.core.threat import NORMS, Threat
from robench.data import load_images
from robench.runs import diagnostics
from robench.runs.diagnostics import model_checks, watch_autograd

NAMES = [
    "dynamic", "randomised", "batch_dependent", "probabilities", "zero_gradient", "vanishing_ce", "saturated",
    "noise_beats_gradient", "single_step_beats_multi_step", "loss_stalls", "unbroken_at_eps_1",
]  # fmt: skip


class Wrapped(nn.Module):
    """A model between a change of its input and a change of its output."""

    def __init__(self, model, before=lambda x: x, after=lambda logits: logits):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x):
        return self.after(self.model(self.before(x)))


def eps_of(problem, norm, share=0.5):
    """The radius that the given share of images withstands."""
    return float(problem.distances(norm).quantile(share))


def raised(model, problem, threat=None, **options):
    """The names of the raised checks; all the checks are there, whatever is raised."""
    threat = threat or Threat("linf", eps_of(problem, "linf"))
    with freeze_model(model):
        checks = model_checks(model, problem.x, problem.y, threat, problem.draws(), **options)
    assert [check.name for check in checks] == NAMES
    return {check.name for check in checks if check.raised}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("kind", "options"), [("affine", {"n": 40}), ("linear", {"n": 40}), ("linear", {"classes": 2}), ("dense", {"n": 40})]
)
def test_a_healthy_model_raises_nothing(problem, kind, options, norm):
    p = problem(kind, **options)
    eps = {"linf": 0.05, "l2": 0.2, "l1": 1.0}[norm] if kind == "dense" else eps_of(p, norm)
    assert raised(p.model, p, Threat(norm, eps)) == set()


@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.3])
def test_a_healthy_network_raises_nothing_at_any_radius(problem, eps):
    p = problem("convolutional", n=40)
    assert raised(p.model, p, Threat("linf", eps)) == set()


def test_dropout_left_on_is_randomised_and_not_taken_for_anything_of_the_batch(problem):
    p = problem("linear", n=40)
    model = Wrapped(p.model, before=lambda x: nn.functional.dropout(x, 0.05, training=True))
    torch.manual_seed(0)
    assert raised(model, p) == {"randomised"}
    assert raised(model, p, randomised_ok=True) == set()


def test_randomness_is_seen_in_the_logits_and_in_the_number_right():
    still = torch.tensor([[2.0, 1.0], [0.0, 1.0]]).repeat(5, 1, 1)
    assert diagnostics.randomised_check(still, torch.tensor([0, 0])).value == 0
    moved = still.clone()
    moved[3, 1] = torch.tensor([1.0, 0.0])
    check = diagnostics.randomised_check(moved, torch.tensor([0, 0]))
    assert check.raised
    assert check.value == pytest.approx(2**0.5)
    assert "1 to 2 right" in check.sentence
    tied = torch.tensor([[1.0, 1.00001]]).repeat(5, 1, 1)
    tied[2] = tied[2].flip(1)
    assert diagnostics.randomised_check(tied, torch.tensor([0])).value < 1e-4
    assert diagnostics.randomised_check(tied, torch.tensor([0])).raised
    for size, expected in ((0.5e-4, False), (3e-4, True)):  # of logits of length 1: the distance of two unit rows
        barely = torch.tensor([[1.0, 0.0]]).repeat(5, 1, 1)
        barely[4, 0, 1] = size
        assert diagnostics.randomised_check(barely, torch.tensor([0])).raised is expected


def test_a_normalisation_by_the_batch_is_seen(problem):
    p = problem("linear", n=40)
    model = Wrapped(p.model, before=nn.BatchNorm2d(3, track_running_stats=False))
    p = type(p)(model, p.x, model(p.x).argmax(1))
    assert raised(model, p, Threat("linf", 0.01)) >= {"batch_dependent"}
    assert "randomised" not in raised(model, p, Threat("linf", 0.01))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_model_that_looks_at_other_rows_is_seen_on_few_images_too(problem, n):
    p = problem("linear", n=n)
    assert "batch_dependent" in raised(Wrapped(p.model, after=lambda z: z + z.mean(0) * torch.arange(5.0)), p, Threat("linf", 0.01))
    assert raised(p.model, p, Threat("linf", 0.001)) == set()


def test_a_softmax_at_the_end_is_seen(problem):
    p = problem("linear", n=40)
    assert "probabilities" in raised(Wrapped(p.model, after=lambda z: (z / 10).softmax(1)), p)
    assert not diagnostics.probabilities_check(torch.tensor([[0.5, 0.5], [0.7, 0.4]])).raised
    assert not diagnostics.probabilities_check(torch.tensor([[1.5, -0.5]])).raised
    assert not diagnostics.probabilities_check(torch.tensor([[0.8, 0.7, -0.5]])).raised
    assert diagnostics.probabilities_check(torch.tensor([[1.0, 0.0], [0.7, 0.4]])).value == 0.5


@pytest.mark.parametrize(
    "after",
    [
        lambda z: nn.functional.one_hot(z.argmax(1), 5).float(),
        lambda z: z.detach(),
        lambda z: z.mul(20).round(),
        lambda z: z.clamp_max(-1e3),
    ],
    ids=["one-hot", "cut", "rounded", "constant"],
)
def test_a_gradient_of_zero_is_seen_whether_it_is_zero_or_missing(problem, after):
    p = problem("linear", n=40)
    model = Wrapped(p.model, after=after)
    assert raised(model, p) >= {"zero_gradient", "vanishing_ce", "loss_stalls"}


def test_one_image_without_a_gradient_is_enough(problem):
    p = problem("linear", n=40)
    first = p.x[0].sum()

    def flat_at_first(x):
        here = (x.flatten(1).sum(1) - first).abs() < 1e-3
        return torch.where(here.view(-1, 1, 1, 1), x.detach(), x)

    with freeze_model(p.model):
        checks = model_checks(Wrapped(p.model, before=flat_at_first), p.x, p.y, Threat("linf", 0.01), p.draws())
    check = next(check for check in checks if check.name == "zero_gradient")
    assert check.raised
    assert check.value == pytest.approx(1 / 40)


def test_dlr_behind_the_boundary_is_no_zero_gradient(problem):
    p = problem("linear", n=60)
    assert (p.model(p.x).argsort(1)[:, -3] != p.y).all()
    assert raised(p.model, p, Threat("linf", 0.9)) <= {"noise_beats_gradient"}  # random starts lie far behind it


def test_logits_so_steep_that_cross_entropy_dies_are_seen(problem):
    p = problem("linear", n=40)
    steep = Wrapped(p.model, after=lambda z: 1e4 * z)
    found = raised(steep, p)
    assert found >= {"vanishing_ce", "saturated", "loss_stalls"}
    assert not found & {"zero_gradient", "unbroken_at_eps_1"}


class Adapting(nn.Module):
    """A defence that takes a gradient step on its own input before it answers."""

    def __init__(self, model, route):
        super().__init__()
        self.model, self.route = model, route

    def forward(self, x):
        def loss(point):
            return self.model(point).logsumexp(1).sum()

        if self.route == "func":
            return self.model(x - 1e-4 * torch.func.grad(loss)(x.detach()))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            if self.route == "backward":
                loss(leaf).backward()
                return self.model(x - 1e-4 * leaf.grad)
            grad = taken_aside if self.route == "aside" else torch.autograd.grad
            return self.model(x - 1e-4 * grad(loss(leaf), leaf)[0])


@pytest.mark.parametrize("route", ["grad", "aside", "backward", "func"])
def test_a_defence_that_calls_autograd_is_seen_on_every_route(problem, route):
    p = problem("linear", n=40)
    assert raised(Adapting(p.model, route), p) == {"dynamic"}


def test_the_watch_counts_and_leaves_no_trace():
    doors = {name: getattr(torch.autograd, name) for name in ("grad", "backward", "_engine_run_backward") if hasattr(torch.autograd, name)}
    x = torch.ones(2, requires_grad=True)

    def fail():
        with watch_autograd() as calls:
            x.square().sum().backward()
            torch.autograd.grad(x.square().sum(), x)
            assert len(calls) == 2
            raise InputError("in the middle")

    with pytest.raises(InputError, match="in the middle"):
        fail()
    assert x.grad.tolist() == [2.0, 2.0]
    assert all(getattr(torch.autograd, name) is function for name, function in doors.items())


def test_the_watch_works_where_torch_has_only_the_public_doors(monkeypatch):
    inner = getattr(torch.autograd, "_engine_run_backward", None)
    if inner is not None:
        monkeypatch.setattr("builtins.hasattr", lambda thing, name, real=hasattr: name != "_engine_run_backward" and real(thing, name))
    x = torch.ones(2, requires_grad=True)
    with watch_autograd() as calls:
        x.square().sum().backward()
        torch.autograd.grad(x.square().sum(), x)
    assert calls == ["backward", "grad"]


def test_shattered_gradients_are_seen(problem):
    """A ripple of no height and great slope: the decisions stay, and every gradient points anywhere (Athalye et al. 2018)."""
    p = problem("linear", n=64, shape=(1, 4, 4))
    shattered = Wrapped(p.model, before=lambda x: x + 2e-3 * torch.sin(2e4 * x))
    eps = 1.5 * eps_of(p, "linf")
    healthy, masked = raised(p.model, p, Threat("linf", eps)), raised(shattered, p, Threat("linf", eps))
    assert healthy == set()
    assert masked >= {"noise_beats_gradient", "loss_stalls"}


def test_a_model_that_only_a_single_step_fools_is_seen(problem):
    """The gradient turns around once the image has moved: one long step leaves the ball by the way that short ones take back."""
    p = problem("linear", n=64)
    eps = eps_of(p, "linf")

    def turned(x):
        near = (x - p.x.repeat(-(-len(x) // 64), 1, 1, 1)[: len(x)]).flatten(1).abs().amax(1) < 1e-6
        return torch.where(near.view(-1, 1, 1, 1), x, 2 * x.detach() - x)

    assert raised(Wrapped(p.model, before=turned), p, Threat("linf", eps)) >= {"single_step_beats_multi_step"}


def test_the_verdict_is_a_function_of_model_images_and_draws(problem):
    p = problem("convolutional", n=20)
    threat = Threat("linf", 0.05)
    once, again, other = (model_checks(p.model, p.x, p.y, threat, p.draws(seed)) for seed in (0, 0, 1))
    assert once == again
    assert [check.name for check in other] == NAMES
    assert all(parameter.grad is None for parameter in p.model.parameters())


def passes(model, problem, eps):
    """Forward and backward passes per image that an examination takes."""
    rows = [0, 0]

    def noted(logits):
        rows[0] += len(logits)
        if logits.requires_grad:
            logits.register_hook(lambda grad: rows.__setitem__(1, rows[1] + len(grad)))
        return logits

    with freeze_model(model):
        model_checks(Wrapped(model, after=noted), problem.x, problem.y, Threat("linf", eps), problem.draws())
    return rows[0] / len(problem.x), rows[1] / len(problem.x)


def test_an_examination_costs_what_it_says(problem):
    p = problem("linear", n=64)
    forwards, backwards = passes(p.model, p, 1e-6)
    assert 28 < forwards <= 39
    assert 16 < backwards <= 26
    forwards, backwards = passes(Wrapped(p.model, after=lambda z: z - z.detach() + torch.arange(5.0)), p, 1e-6)
    assert 39 < forwards <= 50
    assert 26 < backwards <= 36


def test_training_mode_is_told_of_modules_that_depend_on_it():
    class Own(nn.Module):
        def forward(self, x):
            return x * 2 if self.training else x

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), Own(), nn.Flatten())
    check = diagnostics.train_mode_check(diagnostics.modes_of(network))
    assert (check.raised, check.value) == (True, 1.0)
    assert "3 of 3" in check.sentence
    assert not diagnostics.train_mode_check(diagnostics.modes_of(network.eval())).raised
    assert not diagnostics.train_mode_check(
        diagnostics.modes_of(nn.Sequential(network))
    ).raised  # the wrapper itself trains, and does nothing
    network[1].train()
    assert diagnostics.train_mode_check(diagnostics.modes_of(network)).value == pytest.approx(1 / 3)
    assert not diagnostics.train_mode_check(diagnostics.modes_of(nn.Linear(2, 2))).raised


@pytest.mark.filterwarnings("ignore")  # torch.jit is on its way out, and people have such files
def test_a_scripted_model_cannot_be_looked_into_and_counts_as_dependent():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    assert diagnostics.train_mode_check(diagnostics.modes_of(scripted)).raised
    assert not diagnostics.train_mode_check(diagnostics.modes_of(scripted.eval())).raised


def test_a_model_that_nothing_moves_withstands_the_attack_without_a_bound(problem):
    p = problem("linear", n=20)
    assert "unbroken_at_eps_1" in raised(Wrapped(p.model, after=lambda z: 0 * z + torch.arange(5.0)), p)
    assert "unbroken_at_eps_1" in raised(Wrapped(p.model, before=lambda x: 0 * x), p, Threat("l2", 0.1))


def test_nan_on_clean_images_is_no_error_here(problem):
    p = problem("linear", n=20)
    assert "randomised" not in raised(Wrapped(p.model, after=lambda z: z / 0 * 0), p)


def test_shares_of_broken_images_by_hand():
    def broken(count):
        return torch.arange(20) < count

    for blind, climbed, expected in ((3, 3, True), (4, 3, True), (3, 4, False), (2, 0, False), (20, 20, False), (20, 19, True)):
        check = diagnostics.noise_beats_gradient_check(broken(blind), broken(climbed))
        assert (check.raised, check.value) == (expected, pytest.approx((blind - climbed) / 20))
    for single, many, expected in ((4, 3, True), (3, 3, False), (3, 4, False)):
        assert diagnostics.single_step_check(broken(single), broken(many)).raised is expected
    assert diagnostics.single_step_check(broken(5), ~broken(1)).value == pytest.approx(1 / 20)
    assert diagnostics.unbroken_at_eps_1_check(broken(19)).raised
    assert not diagnostics.unbroken_at_eps_1_check(broken(20)).raised
    assert diagnostics.vanishing_ce_check(broken(3)).raised
    assert not diagnostics.vanishing_ce_check(broken(2)).raised
    assert diagnostics.saturated_check(torch.tensor([1.0, 101.0, 200.0])).raised
    assert not diagnostics.saturated_check(torch.tensor([1.0, 99.0, 200.0])).raised
    assert diagnostics.loss_stalls_check(torch.zeros(20), broken(17).float()).raised
    assert not diagnostics.loss_stalls_check(torch.zeros(20), broken(18).float()).raised
    assert not diagnostics.loss_stalls_check(torch.zeros(0), torch.zeros(0)).raised


def test_a_black_box_attack_is_held_against_what_ran_before_it():
    def check(**left):
        return diagnostics.black_box_check(left)

    assert check(clean=0.9, apgd=0.5, square=0.49).raised
    assert check(clean=0.9, apgd=0.5, square=0.49).value == pytest.approx(0.01)
    assert check(clean=0.9, apgd=0.5, square=0.49, fab=0.4).raised  # what comes later does not excuse it
    assert check(clean=0.9, apgd=0.5, square=0.49).probe == "square"
    assert not check(clean=0.9, apgd=0.5, square=0.498).raised
    assert not check(clean=0.9, square=0.1).raised
    assert not check(clean=0.9, square=0.5, apgd=0.4).raised
    assert not check(clean=0.9, apgd=0.5, fab=0.1).raised
    transferred = diagnostics.black_box_check({"clean": 0.9, "pgd-10": 0.8, "transfer:other.pt,steps=5": 0.7, "square": 0.65})
    assert transferred.raised
    assert transferred.probe == "transfer:other.pt,steps=5"


def test_accuracy_near_chance_is_told_by_its_interval():
    assert diagnostics.near_chance_check(12, 100, 10).raised
    assert not diagnostics.near_chance_check(90, 100, 10).raised
    assert not diagnostics.near_chance_check(2, 20, 10).raised  # too few images to say
    assert diagnostics.near_chance_check(0, 40, 10).raised


def test_a_security_curve_must_fall_and_end_at_zero():
    assert not diagnostics.security_curve_check([0.0, 0.1, 0.3], [0.9, 0.5, 0.5], "linf").raised
    rising = diagnostics.security_curve_check([0.0, 0.1, 0.3], [0.9, 0.5, 0.6], "linf")
    assert rising.raised
    assert rising.value == pytest.approx(0.1)
    assert diagnostics.security_curve_check([0.3, 0.0, 0.1], [0.6, 0.9, 0.5], "l2").raised  # in whatever order it comes
    assert diagnostics.security_curve_check([0.5, 1.0], [0.3, 0.2], "linf").value == pytest.approx(0.2)
    assert not diagnostics.security_curve_check([0.5, 1.0], [0.3, 0.2], "l2").raised


def test_counts_are_raised_from_one_on():
    assert not diagnostics.nonfinite_check("pgd", 0).raised
    assert diagnostics.nonfinite_check("pgd", 2).value == 2
    assert not diagnostics.outside_check("mine.py:f", 0, 0.0).raised
    assert "0.25" in diagnostics.outside_check("mine.py:f", 1, 0.25).sentence
    assert "3 points lay outside the threat, 3 of them with NaN" in diagnostics.outside_check("mine.py:f", 3, 0.0, 3).sentence
    assert not diagnostics.dynamic_check(0).raised
    assert diagnostics.dynamic_check(1).raised


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "eps", "expected"),
    [
        ("wong2020_fgsm", 0.3, set()),
        ("atzmon2019", 0.3, {"vanishing_ce", "saturated", "loss_stalls"}),
        ("resnet2b", 2 / 255, set()),
        ("resnet20_standard", 1 / 255, set()),
    ],
)
def test_networks_trained_by_others_show_what_the_documentation_says(zoo, data_dir, name, eps, expected):
    source = f"npz:{data_dir / 'cifar10-lossless.npz'}" if name.startswith("resnet") else "mnist"
    images = load_images(source, "test", data_dir=data_dir, n=64)
    x, model = images.x.float() / 255, getattr(zoo, name)()
    with freeze_model(model):
        checks = model_checks(model, x, images.y, Threat("linf", eps), Draws(0, images.ids, "diagnostics"))
    assert {check.name for check in checks if check.raised} == expected


def test_one_rule_says_whether_outputs_are_probabilities():
    logits = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        assert are_probabilities(logits.softmax(1).to(dtype)).all()
        assert not are_probabilities(logits.to(dtype)).any()
    nearly = torch.tensor([[0.5, 0.5 + 5e-5], [0.5, 0.5 + 5e-6], [1.0, -5e-6], [1.0, 0.0]])
    assert are_probabilities(nearly).tolist() == [False, True, True, True]
    assert not are_probabilities(torch.ones(3, 1)).any()


@pytest.mark.parametrize(("after", "margins"), [(lambda z: z.mul(20).round() * 1e4, False), (lambda z: 1e4 * z, True)])
def test_no_flag_advises_a_loss_that_another_says_is_blind(problem, after, margins):
    p = problem("linear", n=40)
    with freeze_model(p.model):
        checks = model_checks(Wrapped(p.model, after=after), p.x, p.y, Threat("linf", 0.05), p.draws())
    told = {check.name: check.sentence for check in checks if check.raised}
    assert ("zero_gradient" in told) is not margins
    assert {"vanishing_ce", "saturated"} <= told.keys()
    assert all(("use margin or dlr" in told[name]) is margins for name in ("vanishing_ce", "saturated"))
