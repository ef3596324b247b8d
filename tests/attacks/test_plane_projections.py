"""Projection on hyperplane and box: against float64 bisection, on grids with ties and faces, out of reach, and row by row."""

import pytest
import torch

from robench.attacks.fab import plane_projection

NORMS = ("linf", "l2", "l1")


def sizes_by_bisection(norm, t, w, c):
    """The least norm of a step onto the plane, (R,) float64; the norm of the corner nearest to it where it is out of reach."""
    t, w, c = t.double(), w.double(), c.double()
    a, goal = w.abs(), c.abs()
    room = torch.where(w * torch.where(c < 0, -1.0, 1.0)[:, None] > 0, t, 1 - t) * (a > 0)
    if norm == "l1":
        return knapsack(a, room, goal)
    rate = torch.ones_like(a) if norm == "linf" else a
    low, high = torch.zeros_like(goal), (room / rate.clamp_min(1e-12)).amax(1)
    for _ in range(200):
        middle = (low + high) / 2
        short = (a * torch.minimum(middle[:, None] * rate, room)).sum(1) < goal
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    moved = torch.minimum(high[:, None] * rate, room) * (a > 0)
    return moved.amax(1) if norm == "linf" else moved.norm(dim=1)


def knapsack(a, room, goal):
    """By bisection on the steepness: all room above it is used, and of what lies on it as much as is needed."""
    low, high = torch.zeros_like(goal), a.amax(1) + 1
    for _ in range(200):
        middle = (low + high) / 2
        short = (a * room * (a > middle[:, None])).sum(1) < goal
        low, high = torch.where(short, low, middle), torch.where(short, middle, high)
    full = a > high[:, None]
    missing = (goal - (a * room * full).sum(1)).clamp_min(0)
    on_it = (a > low[:, None]) & ~full & (a > 0)
    steep = torch.where(on_it, a, 0.0).amax(1)
    extra = torch.where(steep > 0, missing / steep.clamp_min(1e-300), 0.0)
    return (room * full).sum(1) + torch.minimum(extra, (room * on_it).sum(1))


def problems(d, rows=24, seed=0, grid=False):
    """Points, normals and offsets of both signs, from next to the plane to out of reach; row 0 has w = 0, row 1 c = 0."""
    g = torch.Generator().manual_seed(seed)
    t, w = torch.rand((rows, d), generator=g), torch.randn((rows, d), generator=g)
    if grid:
        t, w = (t * 4).round() / 4, w.round().clamp(-2, 2)
    reach = torch.where(w > 0, t, 1 - t).mul(w.abs()).sum(1)
    c = reach * torch.linspace(0.001, 1.4, rows)
    c[::2] *= -1
    w[0], c[1] = 0, 0
    return t, w, c


@pytest.mark.parametrize("look", [True, False])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("d", [1, 2, 3, 5, 16, 784, 3072, 4096])
def test_a_projection_lies_on_the_plane_in_the_box_and_is_as_short_as_bisection_finds(norm, d, look):
    for grid in (False, True):
        t, w, c = problems(d, grid=grid)
        delta, length = (part[0] for part in plane_projection(norm, t[None], w, c[None], look))
        expected = sizes_by_bisection(norm, t, w, c)
        order = {"linf": float("inf"), "l2": 2, "l1": 1}[norm]
        torch.testing.assert_close(length.double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.linalg.vector_norm(delta, ord=order, dim=1), length, rtol=1e-5, atol=1e-6)
        assert (t + delta).min() >= -1e-6
        assert (t + delta).max() <= 1 + 1e-6
        assert not delta[w == 0].any()
        reach = (torch.where(w * c[:, None] > 0, t, 1 - t) * w.abs()).sum(1)
        residual = (c + (w * delta).sum(1)).abs().double()
        torch.testing.assert_close(residual, (c.abs() - reach).clamp_min(0).double(), rtol=1e-3, atol=float(2e-4 * c.abs().max() + 1e-6))


@pytest.mark.parametrize("norm", NORMS)
def test_a_projection_is_exact_in_float64_also_where_the_gradient_is_tiny_or_huge(norm):
    t, w, c = (part.double() for part in problems(784))
    for scale in (1.0, 1e-25, 1e25):
        _, length = plane_projection(norm, t[None], w * scale, c[None] * scale, True)
        torch.testing.assert_close(length[0], sizes_by_bisection(norm, t, w, c), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_out_of_reach_the_nearest_corner_is_taken_and_a_zero_normal_moves_nothing(norm):
    t, w = torch.tensor([[0.25, 0.5, 1.0, 0.0]]), torch.tensor([[1.0, -2.0, -3.0, 0.0]])
    for look in (True, False):
        delta, _ = plane_projection(norm, t[None], w, torch.tensor([[100.0]]), look)
        assert (t + delta[0]).tolist() == [[0.0, 1.0, 1.0, 0.0]]
        delta, _ = plane_projection(norm, t[None], w, torch.tensor([[-100.0]]), look)
        assert (t + delta[0]).tolist() == [[1.0, 0.0, 0.0, 0.0]]
        delta, length = plane_projection(norm, t[None], 0 * w, torch.tensor([[1.0]]), look)
        assert not delta.any()
        assert not length.any()


@pytest.mark.parametrize("norm", NORMS)
def test_two_stacks_are_projected_as_each_alone_and_a_row_does_not_depend_on_the_others(norm):
    t, w, c = problems(300, rows=12)
    u, _, b = problems(300, rows=12, seed=1)
    both, lengths = plane_projection(norm, torch.stack((t, u)), w, torch.stack((c, b)), True)
    for stack, points, offsets in ((0, t, c), (1, u, b)):
        alone, length = plane_projection(norm, points[None], w, offsets[None], True)
        assert torch.equal(both[stack], alone[0])
        assert torch.equal(lengths[stack], length[0])
    backwards = torch.arange(11, 3, -1)
    some, _ = plane_projection(norm, t[None, backwards], w[backwards], c[None, backwards], True)
    assert torch.equal(some[0], both[0, backwards])


def test_where_the_few_steepest_coordinates_do_not_reach_the_plane_all_are_used():
    t, w = torch.full((2, 1000), 0.5), torch.ones(2, 1000)
    w[1] = torch.linspace(1, 2, 1000)
    delta, length = plane_projection("l1", t[None], w, torch.tensor([[200.0, 10.0]]), True)
    assert length[0, 0] == pytest.approx(200, rel=1e-5)
    assert (delta[0, 1] != 0).sum() < 20
