"""The threat: projections against brute force, steepest directions, random points."""

import math

import pytest
import torch

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.threat import NORMS, Threat, delta_norms

CASES = [("linf", 0.1), ("l2", 0.5), ("l2", 3.0), ("l1", 0.3), ("l1", 5.0), ("l1", 1000.0), ("l2", 0.0)]


def images(n=32, shape=(3, 8, 8), seed=0):
    """Random images with many subpixels on the faces of the box."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, *shape, generator=generator) * 1.6 - 0.3).clamp(0, 1), generator


@pytest.mark.parametrize(("norm", "eps"), CASES)
def test_a_projected_point_is_inside_and_projecting_again_changes_nothing(norm, eps):
    x, generator = images()
    threat = Threat(norm, eps)
    once = threat.project(x, x + torch.randn(x.shape, generator=generator))
    assert bool(threat.contains(x, once).all())
    assert torch.allclose(threat.project(x, once), once, atol=1e-6)


@pytest.mark.parametrize(("norm", "eps"), CASES)
def test_points_of_the_threat_are_left_alone(norm, eps):
    x, _ = images()
    inner = Threat(norm, eps * 0.999).sample(x, Draws(0, torch.arange(len(x))))
    assert torch.allclose(Threat(norm, eps).project(x, inner), inner, atol=1e-6)


@pytest.mark.parametrize(("norm", "eps"), CASES)
def test_the_projection_is_the_nearest_point_by_the_variational_inequality(norm, eps):
    x, generator = images()
    threat, target = Threat(norm, eps), x + 0.5 * torch.randn(x.shape, generator=generator)
    nearest = threat.project(x, target)
    for seed in range(20):
        other = threat.sample(x, Draws(seed, torch.arange(len(x))))
        towards = ((target - nearest) * (other - nearest)).flatten(1).double().sum(1)
        assert float(towards.max()) <= 1e-4 * max(1.0, eps)


@pytest.mark.parametrize(("norm", "exponent"), [("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 16, 784])
def test_l1_and_l2_projections_equal_a_bisection_in_float64(norm, exponent, width):
    x, generator = images(64, (1, 1, width), seed=width)
    x, delta, eps = x.double(), torch.randn(64, 1, 1, width, generator=generator).double(), 0.3 * math.sqrt(width)
    room = torch.where(delta > 0, 1 - x, x)

    def cut(factor):  # the optimality conditions: scaling for l2, soft thresholding for l1
        shrunk = delta.abs() * factor if norm == "l2" else (delta.abs() - factor).clamp_min(0)
        return torch.minimum(shrunk, room)

    low, high = torch.zeros(64, 1, 1, 1).double(), torch.full((64, 1, 1, 1), 10.0).double()
    high = torch.ones_like(high) if norm == "l2" else high
    for _ in range(200):
        middle = (low + high) / 2
        grows = (delta_norms(norm, cut(middle)) <= eps).view(-1, 1, 1, 1)
        low, high = (torch.where(grows, middle, low), torch.where(grows, high, middle)) if norm == "l2" else (
            torch.where(grows, low, middle), torch.where(grows, middle, high))  # fmt: skip
    best = x + delta.sign() * cut(low if norm == "l2" else high)
    assert torch.allclose(Threat(norm, eps).project(x, x + delta), best, atol=2e-6 * eps + 1e-9)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.0), ("linf", 0.1), ("l1", 4.0)])
def test_a_step_along_ascend_has_unit_norm_and_gains_the_dual_norm_where_that_is_the_aim(norm, eps):
    x, generator = images()
    grad = torch.randn(x.shape, generator=generator)
    direction = Threat(norm, eps).ascend(torch.full_like(x, 0.5), grad)
    assert torch.allclose(delta_norms(norm, direction), torch.ones(len(x)), atol=1e-6)
    gain = (direction * grad).flatten(1).sum(1)
    if norm != "l1":
        assert torch.allclose(gain, grad.flatten(1).norm(p={"l2": 2.0, "linf": 1.0}[norm], dim=1), rtol=1e-5)
    else:
        assert torch.allclose(gain, grad.flatten(1).abs().topk(4).values.mean(1), rtol=1e-5)  # ceil(eps) subpixels share the step


def test_an_l1_step_spends_nothing_on_subpixels_that_the_box_stops():
    x = torch.zeros(1, 1, 1, 200)
    grad = -torch.ones_like(x)
    grad[..., 7] = 1e-3
    direction = Threat("l1", 1.0).ascend(x, grad)
    assert direction.nonzero()[:, -1].tolist() == [7]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_zero_gradients_give_zero_steps_and_tiny_ones_do_not_vanish(norm):
    x = torch.full((2, 3, 4, 4), 0.5)
    grad = torch.zeros_like(x)
    grad[1] = 1e-30 * torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    direction = Threat(norm, 1.0).ascend(x, grad)
    assert torch.equal(direction[0], torch.zeros_like(direction[0]))
    assert float(delta_norms(norm, direction)[1]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.2), ("l1", 0.5)])
def test_random_points_fill_the_ball_and_its_surface(norm, eps):
    x, draws = torch.full((400, 3, 6, 6), 0.5), Draws(0, torch.arange(400), norm)
    threat = Threat(norm, eps)
    inner, outer = threat.sample(x, draws), threat.surface(x, draws)
    assert bool(threat.contains(x, inner).all())
    assert torch.allclose(threat.distance(x, outer), torch.full((400,), eps), atol=1e-5)
    radii = (threat.distance(x, inner) / eps).double() ** 108  # uniform in [0, 1] where the point is even in the ball
    assert float(radii.mean()) == pytest.approx(0.5, abs=0.06)
    assert float((inner - x).mean()) == pytest.approx(0, abs=3e-3 * eps)


def test_contains_refuses_what_leaves_the_ball_or_the_box_or_is_not_a_number():
    x = torch.full((4, 1, 2, 2), 0.95)
    x_adv = x.clone()
    x_adv[1] += 0.0501
    x_adv[2, 0, 0, 0] = 0.95 - 0.0502
    x_adv[3, 0, 0, 0] = float("nan")
    assert Threat("linf", 0.05).contains(x, x_adv).tolist() == [True, False, False, False]


@pytest.mark.parametrize(("norm", "eps"), [("linf", -0.1), ("linf", float("nan")), ("l2", float("inf")), ("l3", 1.0)])
def test_impossible_threats_are_refused(norm, eps):
    with pytest.raises(InputError):
        Threat(norm, eps)


@pytest.mark.parametrize("norm", NORMS)
def test_a_projector_is_the_projection_around_its_images(norm):
    x, threat = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0)), Threat(norm, 0.3)
    moved = x + torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(threat.projector(x)(moved), threat.project(x, moved))
