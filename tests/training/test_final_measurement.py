"""The measurement at the end of a training: its network is measured in eval mode, and not flagged for its mode."""

import torch
from torch import nn

from robench.core.recipes import parse_recipe
from robench.core.threat import Threat
from robench.data import Images
from robench.training.final_measurement import final_measurements, flag_sentences


def test_a_network_that_comes_from_its_training_is_not_flagged_for_its_mode():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(64, 2)).train()
    y = torch.arange(12) % 2
    images = Images("toy", "test", torch.rand(12, 3, 6, 6), y, torch.arange(12), ("dark", "bright"))
    measurements = final_measurements(network, images, images, [parse_recipe("fgsm")], Threat("linf", 0.01), 0, "cpu", None)
    assert {check.name: check.raised for check in measurements[1].checks}["train_mode"] is False
    assert not [sentence for sentence in flag_sentences(measurements) if "training mode" in sentence]
