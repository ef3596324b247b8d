"""SWA: the mean of the weights at the ends of epochs, with batch norm for that mean, and what is measured and kept of it."""

import copy

import pytest
import torch
from torch import nn

from robench.core.errors import InputError
from robench.data import Images
from robench.training.epochs import fit
from robench.training.settings import plan_of, resolved_settings
from robench.training.steps import begin_training
from robench.training.types import Epoch


def images(n=24):
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(n, 3, 8, 8, generator=generator) * 255).to(torch.uint8)
    return Images("toy", "train", x, torch.arange(n) % 3, torch.arange(n), ("a", "b", "c"))


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3))


def plan(**changes):
    words = {"epochs": 4, "batch_size": 8, "probe_n": 8, "eps": 0.03, "lr": 0.05, "optimizer": "sgd", "schedule": "constant"}
    return plan_of(resolved_settings("small", {**words, **changes})[0], 1, None)


def trained(chosen):
    """The run at its end, the model's state at the end of each epoch, and the epochs."""
    run, states, epochs = begin_training(network(), chosen), [], []
    for event in fit(run, chosen, images(), images()):
        if isinstance(event, Epoch):
            states.append(copy.deepcopy(run.model.state_dict()))
            epochs.append(event)
    return run, states, epochs


def test_epochs_from_the_share_on_count_alike():
    run, states, epochs = trained(plan(swa=0.25))
    for name, parameter in run.average.named_parameters():
        expected = torch.stack([state[name] for state in states[1:]]).mean(0)
        torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(run.average[0].weight, run.model[0].weight)
    assert torch.equal(epochs[0].weights["0.weight"], states[0]["0.weight"])  # before the share: the network itself
    assert torch.equal(epochs[3].weights["0.weight"], run.average[0].weight)


def test_batch_norm_is_that_of_the_averaged_network_on_the_clean_training_images():
    run, _, _ = trained(plan(swa=0.25))
    activations = run.average[0](images().pixels(slice(None)))
    batches = activations.split(8)
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variance = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(run.average[1].running_mean, mean)
    torch.testing.assert_close(run.average[1].running_var, variance)
    assert run.average[1].momentum == 0.1
    assert not run.average.training


def test_the_trained_network_is_the_one_without_an_average():
    (run, _, _), (plain, _, _) = trained(plan(swa=0.25)), trained(plan())
    assert all(torch.equal(a, b) for a, b in zip(run.model.state_dict().values(), plain.model.state_dict().values(), strict=True))


def test_frozen_batch_norm_keeps_its_statistics():
    chosen = plan(swa=0.1, freeze=("1",))
    run = begin_training(network(), chosen)
    run.model[1].running_mean.fill_(0.3)
    tuple(fit(run, chosen, images(), images()))
    assert torch.equal(run.average[1].running_mean, torch.full((4,), 0.3))


def test_two_averages_are_refused():
    with pytest.raises(InputError, match="ema and swa both average the weights"):
        plan(swa=0.5, ema=0.9)


@pytest.mark.parametrize("share", [1, -0.1, "half", float("nan")])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(InputError, match="swa"):
        plan(swa=share)
