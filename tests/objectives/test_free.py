"""Free adversarial training: one backward pass for the weights and the perturbation, written out and compared."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from batches import net, unmade
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.threat import Threat
from robench.objectives.free import DELTA, free_at, unit_ball_projection
from robench.objectives.terms import Objective

EPS = 0.2
THREATS = [Threat("linf", EPS), Threat("l2", 1.0), Threat("l1", 3.0)]


def batches(n: int = 3, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(size, 1, 6, 6, generator=generator, dtype=torch.float64), (torch.arange(size) + i) % 5) for i in range(n)]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def run(
    objective: Objective, model: nn.Module, data: Sequence[tuple[Tensor, Tensor]], threat: Threat, state: dict[str, Tensor]
) -> list[Tensor]:
    """Trains as a training loop does; returns the images of every step."""
    model.train()
    optimizer, made = sgd(model), []
    for x, y in data:
        for _ in range(objective.replays):
            batch = unmade(x, y, threat, state=state)
            x_adv = objective.craft(model, batch).detach().requires_grad_()
            batch = replace(batch, x_adv=x_adv, logits=model(x_adv))
            loss, _ = objective.loss(model, batch)
            optimizer.zero_grad()
            torch.autograd.backward(loss, inputs=[*model.parameters(), x_adv])
            objective.absorb(batch, x_adv.grad)
            optimizer.step()
            made.append(x_adv.detach())
    return made


@pytest.mark.parametrize("layer", [nn.Identity, lambda: nn.BatchNorm2d(4)])
def test_weights_and_perturbations_are_those_of_the_published_loop_written_out(layer):
    model, data, state = net(layer()), batches(), {}
    theirs, delta, step = copy.deepcopy(model), torch.zeros(4, 1, 6, 6, dtype=torch.float64), 0.3
    optimizer = sgd(theirs)
    for x, y in data:
        for _ in range(3):
            x_adv = (x + delta).clamp(0, 1).requires_grad_()
            optimizer.zero_grad()
            F.cross_entropy(theirs(x_adv), y).backward()
            delta = (delta + step * EPS * x_adv.grad.sign()).clamp(-EPS, EPS)
            optimizer.step()
    run(free_at(replays=3, step=step), model, data, THREATS[0], state)
    torch.testing.assert_close(EPS * state[DELTA], delta, rtol=0, atol=1e-14)
    for ours, expected in zip(model.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_the_first_images_are_clean_and_later_batches_begin_where_the_last_one_ended():
    model, data, state = net(), batches(2), {}
    made = run(free_at(replays=2), model, data[:1], THREATS[0], state)
    assert torch.equal(made[0], data[0][0])
    delta = state[DELTA].clone()
    assert delta.abs().sum() > 0
    made = run(free_at(replays=2), model, data[1:], THREATS[0], state)
    torch.testing.assert_close(made[0], (data[1][0] + EPS * delta).clamp(0, 1), rtol=0, atol=1e-15)


def test_the_loss_rises_from_replay_to_replay_where_the_weights_stand_still():
    model, (x, y), state, objective, losses = net(), batches(1, 32)[0], {}, free_at(step=0.25), []
    for _ in range(5):
        batch = unmade(x, y, THREATS[0], state=state)
        x_adv = objective.craft(model, batch).detach().requires_grad_()
        loss, _ = objective.loss(model, replace(batch, x_adv=x_adv, logits=model(x_adv)))
        objective.absorb(replace(batch, x_adv=x_adv), torch.autograd.grad(loss, x_adv)[0])
        losses.append(loss.item())
    assert losses == sorted(losses)
    assert losses[-1] > losses[0] + 0.01


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_images_stay_in_the_threat_and_perturbations_in_the_ball(threat):
    model, data, state = net(), batches(2, 8), {}
    made = run(free_at(replays=4), model, data, threat, state)
    assert all(threat.contains(x, x_adv).all() for (x, _), some in zip(data, (made[:4], made[4:]), strict=True) for x_adv in some)
    lengths = Threat(threat.norm, 1.0).distance(torch.zeros_like(state[DELTA]), state[DELTA])
    assert (lengths <= 1 + 1e-9).all()
    assert (lengths > 0.99).all()


def test_the_state_is_one_plain_tensor_without_a_graph():
    state = {}
    run(free_at(replays=2), net(), batches(1), THREATS[1], state)
    assert list(state) == [DELTA]
    assert type(state[DELTA]) is Tensor
    assert not state[DELTA].requires_grad
    assert state[DELTA].grad_fn is None


def test_a_batch_of_another_shape_or_type_is_served():
    objective, state, (x, y) = free_at(), {DELTA: torch.ones(4, 1, 6, 6)}, batches(1)[0]
    assert torch.equal(objective.craft(net(), unmade(x[:3], y[:3], THREATS[0], state=state)), x[:3])
    made = objective.craft(net(), unmade(x, y, THREATS[0], state=state))
    assert made.dtype == torch.float64
    torch.testing.assert_close(made, (x + EPS).clamp(0, 1))


def test_the_scale_of_the_gradient_does_not_matter():
    x, y = batches(1)[0]
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for threat in THREATS:
        found = []
        for scale in (1.0, 1e-6):
            state: dict[str, Tensor] = {}
            free_at(step=0.5).absorb(unmade(x, y, threat, state=state), scale * grad)
            found.append(state[DELTA])
        torch.testing.assert_close(*found)


def test_an_eps_of_zero_leaves_the_images_alone():
    data, state = batches(2), {}
    made = run(free_at(replays=2), net(), data, Threat("linf", 0.0), state)
    assert torch.equal(made[1], data[0][0])
    assert torch.isfinite(state[DELTA]).all()


def test_the_projection_is_that_to_the_unit_ball_and_knows_no_box():
    delta = torch.tensor([1.5, -0.7, 0.0, 0.1], dtype=torch.float64).view(1, 1, 2, 2)
    expected = {
        "linf": [1.0, -0.7, 0.0, 0.1],
        "l2": [value / (1.5**2 + 0.7**2 + 0.1**2) ** 0.5 for value in (1.5, -0.7, 0.0, 0.1)],
        "l1": [0.9, -0.1, 0.0, 0.0],  # each size less 0.6, so that the sizes sum to 1
    }
    for norm, values in expected.items():
        found = unit_ball_projection(delta, norm, 2.0).flatten()
        torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64), rtol=0, atol=1e-5)
        inside = torch.full_like(delta, 0.2) * delta.sign()
        torch.testing.assert_close(unit_ball_projection(inside, norm, 2.0), inside, rtol=0, atol=1e-12)


def test_the_objective_tells_how_often_a_batch_is_replayed():
    assert free_at().replays == 8
    assert free_at(replays=3).replays == 3


@pytest.mark.parametrize("options", [{"replays": 0}, {"replays": 1.5}, {"step": 0}, {"step": "long"}, {"step": float("inf")}])
def test_wrong_options_are_refused(options):
    with pytest.raises(InputError, match="of free-at"):
        free_at(**options)
