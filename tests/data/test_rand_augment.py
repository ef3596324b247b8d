"""RandAugment and random resized crops: operations equal to torchvision's, random numbers that belong to images."""

import math

import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode, v2

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.data.rand_augment import OPERATIONS, crop_boxes, rand_augment, random_resized_crop
from robench.training.settings import resolved_settings

NAMES = {name.lower(): name for name in v2.RandAugment._AUGMENTATION_SPACE}


def pictures(n=6, channels=3):
    return torch.randint(0, 256, (n, channels, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def test_the_operations_are_those_of_torchvision():
    assert {name.replace("-", "") for name in OPERATIONS} == set(NAMES)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("m", [0, 9, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_operation_gives_the_pixels_of_torchvision(name, m, channels):
    x, theirs = pictures(channels=channels), v2.RandAugment()
    which = NAMES[name.replace("-", "")]
    levels, signed = theirs._AUGMENTATION_SPACE[which]
    magnitudes = levels(31, 24, 32)
    operation, is_signed = OPERATIONS[name]
    assert is_signed == signed
    for sign in (1, -1) if signed else (1,):
        magnitude = 0.0 if magnitudes is None else sign * float(magnitudes[m])
        expected = theirs._apply_image_or_video_transform(x, which, magnitude, InterpolationMode.NEAREST, theirs._fill)
        difference = (operation(x, sign * m / 30).int() - expected.int()).abs()
        assert int(difference.max()) <= 1  # their strengths are float32: a blend may be cut off to the byte below
        assert float((difference == 0).float().mean()) > 0.99


@pytest.mark.parametrize("augment", [rand_augment, random_resized_crop])
def test_an_image_becomes_the_same_pixels_in_any_batch(augment):
    x, ids = pictures(40), torch.arange(40)
    for images in (x, x.float() / 255):
        whole = augment(images, Draws(0, ids), 5)
        some = torch.tensor([30, 3, 17])
        assert torch.equal(augment(images[some], Draws(0, ids[some]), 5), whole[some])
        assert not torch.equal(augment(images, Draws(0, ids), 6), whole)
        assert whole.dtype == images.dtype
        assert whole.shape == images.shape


def test_floats_become_what_bytes_become():
    x, draws = pictures(40), Draws(0, torch.arange(40))
    assert torch.equal((rand_augment(x.float() / 255, draws, 1) * 255).round().to(torch.uint8), rand_augment(x, draws, 1))


def test_boxes_have_even_areas_and_shapes_and_lie_inside():
    boxes = torch.tensor(crop_boxes(Draws(0, torch.arange(4000)), 0, (200, 200), 0.25, 4 / 3), dtype=torch.float64)
    top, left, h, w = boxes.unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + h <= 200) & (left + w <= 200)).all())
    assert bool((w / h < 4 / 3 + 0.02).all()) and bool((h / w < 4 / 3 + 0.02).all())  # noqa: PT018
    small = (h * w / 40000)[(h * w / 40000) < 0.5]  # below which every shape fits
    assert stats.kstest((small - 0.25).numpy() / 0.25, "uniform").pvalue > 1e-4
    theirs = [v2.RandomResizedCrop(200, scale=(0.25, 1)).make_params([pictures(1)[0].new_empty(3, 200, 200)]) for _ in range(800)]
    areas = [math.sqrt(its["height"] * its["width"]) for its in theirs]
    assert stats.ks_2samp(areas, (h * w).sqrt().tolist()).pvalue > 1e-4


def test_the_whole_image_stays_where_nothing_may_be_cut():
    x = pictures(5)
    assert torch.equal(random_resized_crop(x, Draws(0, torch.arange(5)), least=1, ratio=1, flip=False), x)


@pytest.mark.parametrize("options", [{"n": 0}, {"m": 31}, {"m": -1}, {"m": 1.5}])
def test_options_of_rand_augment_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match="rand-augment"):
        rand_augment(pictures(), Draws(0, torch.arange(6)), **options)


@pytest.mark.parametrize("options", [{"least": 0}, {"least": 2}, {"ratio": 0.5}])
def test_options_of_a_crop_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match="random-resized-crop"):
        random_resized_crop(pictures(), Draws(0, torch.arange(6)), **options)


def test_augmentations_of_a_training_are_named_and_none_is_a_file():
    for word, sentence in (("mine.py:f", "unknown augmentation"), ("rand-augment,k=1", "has no option 'k'")):
        with pytest.raises(InputError, match=sentence):
            resolved_settings("small", {"augment": word})
