"""The baseline image: words, numbers, and the mean of the model's own normalisation."""

import pytest
import torch
from torch import nn
from torchvision import transforms

from robench.core.errors import InputError
from robench.explainers.baselines import baseline_of
from robench.models.layers import Normalize

MEAN, STD = [0.25, 0.5, 0.75], [0.5, 0.5, 0.25]


class Scaled(nn.Module):
    """A normalisation as others write it: buffers with a batch axis, or whatever is given."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std


def images(channels=3, dtype=torch.float32):
    return torch.rand((4, channels, 5, 6), generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize(("baseline", "value"), [("black", 0.0), ("grey", 0.5), ("white", 1.0), (0, 0.0), (0.3, 0.3), (1, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_word_or_a_number_is_an_image_of_that_value_like_the_images(baseline, value, dtype):
    x = images(dtype=dtype)
    assert torch.equal(baseline_of(nn.Identity(), x, baseline), torch.full_like(x, value))
    assert baseline_of(nn.Identity(), x, baseline).dtype == dtype


@pytest.mark.parametrize(
    "normalisation",
    [
        Normalize(MEAN, STD),
        transforms.Normalize(MEAN, STD),
        Scaled(tuple(MEAN), tuple(STD)),
        Scaled(torch.tensor(MEAN).view(1, -1, 1, 1), torch.tensor(STD).view(1, -1, 1, 1)),
    ],
)
def test_the_mean_is_what_the_models_normalisation_maps_to_zero(normalisation):
    x = images()
    start = baseline_of(nn.Sequential(nn.Identity(), normalisation, nn.BatchNorm2d(3)), x, "mean")
    assert start.shape == x.shape
    assert torch.equal(start, torch.tensor(MEAN).view(1, -1, 1, 1).expand_as(x))
    if not isinstance(normalisation, Scaled):
        assert torch.equal(normalisation(start), torch.zeros_like(x))


def test_one_mean_for_all_channels_is_enough():
    x = images()
    for mean, std in ((0.25, 2.0), (torch.tensor(0.25), torch.tensor(2.0)), ([0.25], [2.0])):
        assert torch.equal(baseline_of(Scaled(mean, std), x, "mean"), torch.full_like(x, 0.25))


def test_the_first_normalisation_that_fits_the_channels_counts():
    model = nn.Sequential(Scaled(torch.zeros(7), torch.ones(7)), Normalize([0.4], [1.0]), Normalize([0.6], [1.0]))
    assert torch.equal(baseline_of(model, images(), "mean"), torch.full_like(images(), 0.4))


def test_the_mean_keeps_the_digits_of_double_precision():
    mean = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    start = baseline_of(Scaled(mean, mean), images(dtype=torch.float64), "mean")
    assert torch.equal(start[0, :, 0, 0], mean)


def test_the_baseline_shares_no_memory_with_the_model():
    model, x = Normalize(MEAN, STD), torch.rand((1, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    baseline_of(model, x, "mean").zero_()
    assert model.mean.flatten().tolist() == MEAN


@pytest.mark.parametrize("baseline", [-0.1, 1.1, float("nan"), float("inf"), True])
def test_a_number_that_is_no_pixel_is_refused(baseline):
    with pytest.raises(InputError, match="baseline must be a finite number of at least 0 and at most 1"):
        baseline_of(nn.Identity(), images(), baseline)


def test_an_unknown_word_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="unknown baseline 'gray': choose black, grey, white, mean or a number"):
        baseline_of(nn.Identity(), images(), "gray")


@pytest.mark.parametrize(
    "model",
    [nn.Flatten(), nn.BatchNorm2d(3), Scaled(torch.zeros(5), torch.ones(5)), Scaled("a", "b"), Scaled([], []), Scaled([0.1] * 3, None)],
)
def test_the_mean_of_a_model_without_a_normalisation_is_refused(model):
    with pytest.raises(InputError, match="baseline=mean needs a model that normalises its input itself"):
        baseline_of(model, images(), "mean")


def test_the_mean_of_a_normalisation_on_another_scale_is_refused():
    with pytest.raises(InputError, match=r"pixels in \[0, 1\], and this model takes off \[123.0, 117.0, 104.0\]"):
        baseline_of(Scaled([123.0, 117.0, 104.0], [58.0, 57.0, 57.0]), images(), "mean")
