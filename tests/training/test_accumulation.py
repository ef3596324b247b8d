"""A step whose images go through the network in parts is the step of the whole batch, for every objective and regulariser."""

import pytest
import torch
from torch import nn

from robench.core.errors import InputError
from robench.core.processes import World
from robench.data import Images
from robench.objectives import OBJECTIVES, REGULARIZERS, Objective
from robench.training.epochs import fit
from robench.training.settings import plan_of, resolved_settings
from robench.training.steps import begin_training
from robench.training.types import Step

CASES = {
    **{name: {"objective": name} for name in OBJECTIVES},
    **{f"+{name}": {"reg": (f"{name}=0.1",), "objective": "standard"} for name in REGULARIZERS},
    "weighted": {"objective": "mail-trades,begin=0", "label_smoothing": 0.1},
    "weights perturbed": {"objective": "mart,steps=2", "awp": 0.05},
    "all together": {"objective": "trades,steps=2", "reg": ("emr", "igd"), "awp": 0.01, "mixup": 1.0, "augment": "crop-flip-cutout"},
}


def images(n=24):
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(n, 3, 8, 8, generator=generator) * 255).to(torch.uint8)
    return Images("toy", "train", x, torch.arange(n) % 3, torch.arange(n) + 50, ("a", "b", "c"))


class Exact(nn.Module):
    """Takes float32 pixels into a float64 network: a sign of a gradient that turns with the order of a sum would hide a wrong mean."""

    def forward(self, x):
        return x.double()


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(Exact(), nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 3)).double()


def plan(**changes):
    words = {"epochs": 2, "batch_size": 12, "probe_n": 8, "eps": 0.03, "lr": 0.02, "optimizer": "sgd", "schedule": "constant"}
    settings, _ = resolved_settings("small", {**words, **changes})
    return plan_of(settings, 1, network(7).eval().requires_grad_(False))


def trained(chosen, model=None):
    """The weights after four steps, and the terms of each."""
    run = begin_training(model or network(), chosen)
    terms = [event.terms for event in fit(run, chosen, images(), images()) if isinstance(event, Step)]
    return run.model.state_dict(), terms


@pytest.mark.parametrize("name", CASES)
def test_a_step_in_three_parts_is_the_step_of_the_whole_batch(name):
    (whole, terms), (parts, part_terms) = (trained(plan(**CASES[name], accumulate=n)) for n in (1, 3))
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=2e-6, atol=1e-8)  # gradients by x pass through float32
    for one, other in zip(terms, part_terms, strict=True):
        assert other == pytest.approx(one, rel=1e-6, abs=1e-7)  # 1 - cosine of float32 gradients


def test_bf16_adds_up_gradients_in_fp32():
    def small():
        return network()[1:].float()

    (whole, _), (parts, _) = (trained(plan(precision="bf16", objective="standard", accumulate=n), small()) for n in (1, 4))
    start = small().state_dict()
    for key, value in whole.items():
        assert value.dtype == torch.float32
        assert (parts[key] - value).norm() < 0.05 * (value - start[key]).norm(), key


def test_the_network_sees_no_more_than_a_part_at_once():
    sizes = []

    class Watched(nn.Module):
        def forward(self, x):
            sizes.append((len(x), self.training))
            return x

    model = nn.Sequential(Watched(), network())
    trained(plan(objective="trades,steps=2", reg=("sagr",), awp=0.01, accumulate=4), model)
    assert {size for size, is_training in sizes if is_training} == {3}  # the others measure the held-out images


def test_batch_norm_takes_the_statistics_of_each_part():
    model = nn.Sequential(Exact(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 3)).double()
    state, _ = trained(plan(accumulate=3), model)
    assert int(state["1.num_batches_tracked"]) == 4 * 3


def test_an_objective_that_absorbs_gradients_is_shown_the_whole_batch():
    seen = []

    def craft(model, batch):
        return batch.x

    def loss(model, batch):
        return (batch.logits.square().mean(1)).mean(), {}

    def absorb(batch, grad):
        seen.append((batch.x_adv.detach().clone(), grad.clone()))

    for n in (1, 3):
        settings = plan(accumulate=n)
        object.__setattr__(settings, "objective", Objective(craft, loss, absorb))
        trained(settings)
    for (x, grad), (other_x, other) in zip(seen[:4], seen[4:], strict=True):
        assert torch.equal(x, other_x)
        assert grad.shape == x.shape
        torch.testing.assert_close(other, grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "world", "sentence"),
    [
        ({"accumulate": 5}, World(), "batches of 12 cannot be cut into 5 even parts: choose another number for --accumulate"),
        ({"accumulate": 4}, World(0, 2), "batches of 12 cannot be cut into 4 even parts on each of 2 processes"),
    ],
)
def test_parts_that_are_not_even_are_refused(changes, world, sentence):
    with pytest.raises(InputError, match=sentence):
        begin_training(network(), plan(**changes), world)


def test_parts_of_one_image_are_refused_for_batch_norm_before_the_first_step():
    model = nn.Sequential(Exact(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 3)).double()
    with pytest.raises(InputError, match="batch norm needs parts of at least 2 images: lower --accumulate"):
        begin_training(model, plan(accumulate=12))
    begin_training(network(), plan(accumulate=12))


@pytest.mark.parametrize("value", [0, -1, 1.5, True, float("nan")])
def test_what_is_no_number_of_parts_is_refused(value):
    with pytest.raises(InputError, match="accumulate"):
        plan(accumulate=value)
