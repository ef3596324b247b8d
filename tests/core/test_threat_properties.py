"""Properties of the threat: what a projection is, for any images, points, norms and radii; where random points lie."""

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robench.core.draws import Draws
from robench.core.threat import NORMS, Threat, delta_norms

RADII = st.sampled_from([0.0, 1 / 255, 8 / 255, 0.5, 1.0, 3.0, 1000.0]) | st.floats(0, 10)
THREATS = st.builds(Threat, st.sampled_from(NORMS), RADII)
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
KINDS = st.sampled_from([np.float32, np.float64])
LEVELS = st.integers(0, 255)


@st.composite
def batches(draw, *ranges, kinds=KINDS):
    """Batches of images of one shape and type, each with its numbers in a range."""
    shape, kind = draw(SHAPES), draw(kinds)
    width = 8 * np.dtype(kind).itemsize
    return [torch.from_numpy(draw(arrays(kind, shape, elements=st.floats(low, high, width=width)))) for low, high in ranges]


def draws_for(x, seed=0):
    return Draws(seed, torch.arange(len(x)), "test")


@given(THREATS, batches((0, 1), (-2, 3)))
def test_a_projection_lies_in_the_ball_and_in_the_box(threat, batch):
    x, point = batch
    assert threat.contains(x, threat.project(x, point)).all()


@given(THREATS, batches((0, 1), (-2, 3)))
def test_projecting_twice_is_projecting_once(threat, batch):
    x, point = batch
    once = threat.project(x, point)
    assert torch.allclose(threat.project(x, once), once, rtol=0, atol=1e-5 * min(threat.eps, 1) + 1e-6)


@given(THREATS, batches((0, 1), (-2, 3), (-2, 3), kinds=st.just(np.float64)), st.integers(0, 2**32 - 1))
def test_no_point_of_the_threat_is_nearer_than_the_projection(threat, batch, seed):
    x, point, other = batch
    least = delta_norms("l2", point - threat.project(x, point))
    for inside in (x, threat.sample(x, draws_for(x, seed)), threat.surface(x, draws_for(x, seed)), threat.project(x, other)):
        reached = threat.distance(x, inside) <= threat.eps * (1 + 1e-9)
        assert (least <= delta_norms("l2", point - inside) + 1e-5 * min(threat.eps, 10) + 1e-6)[reached].all()


@given(THREATS, batches((0, 1), (-2, 3)))
def test_a_projector_projects(threat, batch):
    x, point = batch
    assert torch.equal(threat.projector(x)(point), threat.project(x, point))


@given(THREATS, batches((0, 1), (-2, 3)))
def test_an_image_is_projected_as_it_is_alone(threat, batch):
    x, point = batch
    together = threat.project(x, point)
    alone = torch.cat([threat.project(x[row : row + 1], point[row : row + 1]) for row in range(len(x))])
    assert torch.allclose(alone, together, rtol=0, atol=1e-6)


@given(THREATS, batches((0, 1)), st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_random_points_lie_in_the_threat(threat, batch, seed, step):
    (x,) = batch
    assert threat.contains(x, threat.sample(x, draws_for(x, seed), step)).all()
    assert threat.contains(x, threat.surface(x, draws_for(x, seed), step)).all()


@given(THREATS, SHAPES.flatmap(lambda shape: st.tuples(*[arrays(np.int64, shape, elements=LEVELS)] * 2)))
def test_a_rounded_point_lies_on_grey_levels_and_in_the_threat(threat, levels):
    x, point = (torch.from_numpy(level).float() / 255 for level in levels)
    assume(threat.eps <= 300)
    rounded = threat.project_to_grey_levels(x, threat.project(x, point + 0.3 / 255))
    assert threat.contains(x, rounded).all()
    assert torch.equal((255 * rounded).round() / 255, rounded)
