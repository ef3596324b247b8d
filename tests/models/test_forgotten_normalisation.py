"""A normalisation that was forgotten is told, with the options to pass; where none was, nothing is said."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import robench
from torch import nn

from robench.core.errors import InputError
from robench.data.images import pixel_range_fault
from robench.models.forgotten_normalisation import USUAL, forgotten_normalisation_notes, normalises
from robench.models.layers import Normalize, normalised_network
from robench.runs.pools import pool_tensors


class Nearest(nn.Module):
    """The class whose level (B, C, H, W) is nearest to the mean of the pixels that it is given."""

    def __init__(self, levels: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("levels", levels)

    def forward(self, x):
        return -(x.mean((2, 3))[:, None] - self.levels).abs().sum(2)


def images(channels: int):
    y = torch.arange(64) % 8
    return (y / 10 + 0.1)[:, None, None, None].expand(-1, channels, 4, 4).clone(), y


@pytest.mark.parametrize("what", USUAL)
def test_each_usual_normalisation_that_was_forgotten_is_named(what):
    mean, std = USUAL[what]
    x, y = images(len(mean))
    model = Nearest(Normalize(mean, std)(x[:8]).mean((2, 3)))
    (note,) = forgotten_normalisation_notes(model, "net.pth", x, y)
    assert note.startswith("of the first 64 images net.pth is right on 64 with --mean ")
    assert what in note
    assert forgotten_normalisation_notes(Nearest(x[:8].mean((2, 3))), "net.pth", x, y) == []
    assert normalises(normalised_network(model, mean, std))
    assert not normalises(model)


def test_a_few_images_and_a_model_of_chance_prove_nothing():
    x, y = images(3)
    mean, std = USUAL["ImageNet's"]
    model = Nearest(Normalize(mean, std)(x[:8]).mean((2, 3)))
    assert forgotten_normalisation_notes(model, "net.pth", x[:6], y[:6]) == []
    torch.manual_seed(0)
    assert forgotten_normalisation_notes(nn.Sequential(nn.Flatten(), nn.Linear(48, 8)), "net.pth", x, y) == []


def test_pixels_are_told_by_what_is_wrong_with_them():
    x = torch.rand(4, 1, 2, 2)
    assert pixel_range_fault(x) == ""
    assert "divide by 255" in pixel_range_fault(x * 255)
    assert "undo the normalisation" in pixel_range_fault(x * 4 - 2)
    assert "divide" not in pixel_range_fault(x + 0.2) + pixel_range_fault(x * 1000)
    x[1, 0, 0, 0] = float("nan")
    assert pixel_range_fault(x) == "1 of these are NaN or infinite: leave such images out"
    with pytest.raises(InputError, match=r"pixels must lie in .0, 1., and 1 of these are NaN or infinite"):
        pool_tensors(x, torch.zeros(4).long(), None)


@pytest.mark.realdata
def test_a_real_network_without_its_normalisation_is_told_and_with_it_is_not(data_dir, tmp_path, zoo):
    path = Path(os.environ["ROBENCH_MODELS"]) / "cifar_resnet20_standard.pth"
    words = ["attack", path, "--arch", "resnet20", "--data", f"npz:{data_dir}/cifar10-lossless.npz", "--n", 64, "--attack", "fgsm"]
    said = " ".join(robench(*words, "--out", tmp_path / "bare").stderr.split())
    assert "is right on 60 with --mean 0.4914,0.4822,0.4465 --std 0.2471,0.2435,0.2616 (CIFAR-10's), and on 25 without" in said
    given = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    assert "without: if it was trained so" not in robench(*words, *given, "--out", tmp_path / "given").stderr


NORMALISED = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("levels", ((torch.arange(10) / 12 + 0.1) - 0.5) / 0.5)

    def forward(self, x):
        return -(x.mean((1, 2, 3))[:, None] - self.levels).abs()
"""


@pytest.mark.parametrize("place", ["model", "reference"])
def test_a_forgotten_normalisation_is_told_of_a_set_without_its_clean_images(tmp_path, place):
    y = np.tile(np.arange(10), 7)[:64]
    x = np.round(255 * (y / 12 + 0.1)).astype(np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    (tmp_path / "set").mkdir()
    for name, images in (("brightness", x), ("fog", 255 - x)):
        np.save(tmp_path / "set" / f"{name}.npy", np.tile(images, (5, 1, 1, 1)))
    np.save(tmp_path / "set" / "labels.npy", np.tile(y, 5))
    (tmp_path / "net.py").write_text(NORMALISED)
    (tmp_path / "good.py").write_text(NORMALISED.replace("(x.mean", "((2 * x - 1).mean"))
    named = {"model": [f"{tmp_path}/net.py:Net"], "reference": [f"{tmp_path}/good.py:Net", "--reference", f"{tmp_path}/net.py:Net"]}
    said = " ".join(robench("corrupt", *named[place], "--from", tmp_path / "set", "--out", tmp_path / "out").stderr.split())
    assert "is right on 64 with --mean 0.5 --std 0.5 (pixels from -1 to 1)" in said
