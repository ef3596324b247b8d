"""Glass and elastic ground: the published generator pixel by pixel, its loops and scipy at both scales, closed forms, borders."""

import numpy as np
import pytest
import torch
from pictures import SEVERITIES, draws, grey
from scipy import ndimage, stats

from robench.corruptions.warp import (
    affine_places,
    copy_sources,
    elastic_transform,
    folded_places,
    glass_blur,
    sampled_images,
    smoothed_noise,
    smoothing_weights,
)

GLASS = {
    "cifar": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    "imagenet": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
}
ELASTIC = {  # strength and deviation in pixels, and how far a corner may move
    "cifar": [(0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)],
    "imagenet": [(488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)],
}


class Given:
    """Draws that hand out given numbers, by the step that is asked."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def child(self, *names):
        return self

    def integers(self, high, shape, step=0):
        return self.numbers[step]

    def uniform(self, shape, step=0):
        return self.numbers[step].reshape(-1, *shape)


def scene(n=2, height=32, width=32, channels=3, seed=0):
    """Images of smooth colours and some noise, x of whole grey levels."""
    g = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(g.normal(size=(n, channels, height, width)), (0, 0, 3, 3)) * 5 + 0.5
    images = np.clip(smooth + g.normal(size=smooth.shape) * 0.05, 0, 1)
    return torch.from_numpy(np.round(images * 255)).to(torch.float32) / 255


@pytest.fixture
def reference(reference):
    """Those of the two corruptions, and the clean ones, (B, C, H, W) int64."""
    return {
        key: torch.from_numpy(images).movedim(3, 1).long()
        for key, images in reference.items()
        if key.startswith(("clean", "glass", "elastic"))
    }


# Glass


def looped(image, chosen, reach):
    """An image (C, H, W) after one round of copies, pixel by pixel; chosen (H - 2 reach, W - 2 reach, 2) steps down and right."""
    image = image.copy()
    for row in range(image.shape[1] - reach, reach, -1):
        for column in range(image.shape[2] - reach, reach, -1):
            down, right = chosen[row - reach - 1, column - reach - 1]
            image[:, row, column] = image[:, row + down, column + right]
    return image


def steps(numbers, reach):
    """Steps down and right, (..., 2), of numbers from 0 to (2 reach)^2 - 1."""
    return np.stack((numbers // (2 * reach), numbers % (2 * reach)), -1) - reach


@pytest.mark.realdata
@pytest.mark.parametrize("severity", SEVERITIES)
def test_with_the_random_numbers_of_the_published_generator_its_glass_comes_out(reference, severity):
    rounds = GLASS["cifar"][severity - 1][2]
    right, down = np.moveaxis(np.random.RandomState(0).randint(-1, 1, size=(32, rounds, 30, 30, 2)), -1, 0) + 1
    numbers = torch.from_numpy(2 * down + right).flip(2, 3)  # the published loops go from the last pixel to the first
    made = glass_blur(reference["clean"] / 255, severity, Given(*numbers.unbind(1)))
    gap = grey(made) - reference[f"glass_blur_{severity}"]
    assert gap.abs().max() <= 1
    assert (gap != 0).float().mean() < 0.001


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 14), (28, 28), (30, 23)])
@pytest.mark.parametrize("reach", [1, 2, 3, 4])
def test_copies_are_those_of_a_loop_over_pixels(reach, height, width):
    inside = (height - 2 * reach, width - 2 * reach)
    numbers = np.random.default_rng(reach).integers(0, 4 * reach * reach, (5, *inside))
    places = np.arange(height * width).reshape(1, height, width)
    expected = [looped(places, chosen, reach) for chosen in steps(numbers, reach)]
    assert np.array_equal(copy_sources(torch.from_numpy(numbers), reach, height, width).numpy(), np.concatenate(expected).reshape(5, -1))


def test_a_chain_of_copies_hands_the_last_pixel_on_to_the_first():
    onward = np.full((1, 26, 26), 2 * 4 + 2 + 1)  # no step down, one step to the right
    place = copy_sources(torch.from_numpy(onward), 2, 30, 30).view(30, 30)
    own = torch.arange(900).view(30, 30)
    assert torch.equal(place[3:29, 3:29], own[3:29, 29:].expand(26, 26))
    place[3:29, 3:29] = own[3:29, 3:29]
    assert torch.equal(place, own)


@pytest.mark.parametrize("scale", GLASS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_is_the_published_procedure_with_scipys_gaussian(scale, severity):
    deviation, reach, rounds = GLASS[scale][severity - 1]
    x, own = scene(2, 29, 34), draws(2).child("glass_blur", severity)
    inside = (29 - 2 * reach, 34 - 2 * reach)
    made = grey(glass_blur(x, severity, draws(2), scale=scale)).numpy()
    for sample, image in enumerate((grey(x).double() / 255).numpy()):
        sharp = np.floor(ndimage.gaussian_filter(image, (0, deviation, deviation), mode="nearest") * 255)
        for step in range(rounds):
            numbers = own.integers((2 * reach) ** 2, inside, step)[sample].numpy()
            sharp = looped(sharp, steps(numbers, reach), reach)
        gap = made[sample] - ndimage.gaussian_filter(sharp, (0, deviation, deviation), mode="nearest")
        assert gap.max() < 1e-3
        assert gap.min() > -1.001


def test_each_of_four_neighbours_is_copied_as_often_and_the_first_two_rows_and_columns_stay():
    x = torch.arange(256.0).view(1, 1, 16, 16).expand(200, -1, -1, -1) / 255
    made = grey(glass_blur(x, 1, draws(200)))[:, 0]
    gone = grey(x)[:, 0] - made
    assert not gone[:, :2].any()
    assert not gone[:, :, :2].any()
    seen = torch.bincount(gone[:, 2:, 2:].flatten(), minlength=18)
    assert seen.nonzero().flatten().tolist() == [0, 1, 16, 17]  # itself, the left one, the upper one, and the one left of that
    assert stats.chisquare(seen[[0, 1, 16, 17]].numpy()).pvalue > 1e-3


def test_images_that_are_too_small_for_a_round_of_copies_are_only_smoothed():
    x = scene(2, 8, 8)
    made = grey(glass_blur(x, 5, draws(2), scale="imagenet"))
    assert made.shape == x.shape
    assert torch.equal(made, grey(glass_blur(x, 5, draws(2, seed=1), scale="imagenet")))


# Elastic ground


@pytest.mark.realdata
@pytest.mark.parametrize("severity", SEVERITIES)
def test_with_the_random_numbers_of_the_published_generator_its_elastic_images_come_out(reference, severity):
    numbers = torch.from_numpy(np.random.RandomState(0).uniform(-1, 1, size=(32, 3 * 2 + 2 * 32 * 32)) / 2 + 0.5)
    made = elastic_transform(reference["clean"] / 255, severity, Given(numbers[:, :6], numbers[:, 6:]))
    gap = grey(made) - reference[f"elastic_transform_{severity}"]
    assert gap.abs().max() <= 1  # a library of another build may round the last bit of a flat part otherwise
    assert (gap != 0).float().mean() < 0.001


def mapped(image, corners, height, width):
    """The image (C, H, W) under the affine map that moves three corners of the centre square so far, by scipy."""
    half, middle = min(height, width) // 3, np.array([width // 2, height // 2])
    old = middle + half * np.array([[1, 1], [1, -1], [-1, -1]])
    back = np.linalg.solve(np.column_stack((old + corners, np.ones(3))), old)  # (x, y, 1) of the new image to (x, y) of the old one
    down, right = np.mgrid[:height, :width].astype(float)
    right, down = np.moveaxis(np.stack((right, down, np.ones_like(down)), -1) @ back, -1, 0)
    return np.stack([ndimage.map_coordinates(plane, (down, right), order=1, mode="mirror") for plane in image])


@pytest.mark.parametrize("scale", ELASTIC)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_is_the_published_procedure_with_scipys_functions(scale, severity):
    strength, deviation, shift = ELASTIC[scale][severity - 1]
    height, width = (36, 48) if scale == "cifar" else (90, 70)  # far moves are made on an image that has room for them
    x, own = scene(2, height, width), draws(2).child("elastic_transform", severity)
    made = grey(elastic_transform(x, severity, draws(2), scale=scale)).numpy()
    down, right = np.mgrid[:height, :width]
    for sample, image in enumerate(x.double().numpy()):
        corners = (own.uniform((3, 2))[sample].double().numpy() * 2 - 1) * shift
        turned = mapped(image, corners, height, width)
        moves = own.uniform((2, height, width), step=1)[sample].double().numpy() * 2 - 1
        across, along = (ndimage.gaussian_filter(move, deviation, mode="reflect", truncate=3) * strength for move in moves)
        moved = [ndimage.map_coordinates(plane, (down + along, right + across), order=1, mode="reflect") for plane in turned]
        gap = made[sample] - np.stack(moved) * 255
        assert gap.max() < 5e-3
        assert gap.min() > -1.005


def test_corners_that_stay_and_ground_that_is_still_leave_the_image_as_it_is():
    x = scene(2, 33, 50)
    still = torch.full((2, 3 * 2), 0.5), torch.full((2, 2 * 33 * 50), 0.5)
    for severity in SEVERITIES:
        assert torch.equal(elastic_transform(x, severity, Given(*still)), x)


def test_corners_that_move_together_move_the_image_with_them_and_mirror_its_border():
    x = scene(1, 40, 40)
    aside = torch.tensor([[3.0, 1.0]] * 3).expand(1, 3, 2).double() / 4.88 / 2 + 0.5
    level = torch.full((1, 2 * 40 * 40), 0.5)
    made = elastic_transform(x, 3, Given(aside, level), scale="imagenet")
    assert (grey(made)[:, :, 1:, 3:] - grey(x)[:, :, :-1, :-3]).abs().max() <= 1
    assert (grey(made)[:, :, 1:, :3] - grey(x)[:, :, :-1, 1:4].flip(3)).abs().max() <= 1


@pytest.mark.parametrize(("height", "width", "deviation"), [(32, 32, 0.96), (32, 32, 6.4), (28, 61, 170.8), (224, 224, 19.52)])
def test_waves_are_scipys_gaussian_and_the_same_to_the_bit_in_every_batch(height, width, deviation):
    noise = draws(3).uniform((2, height, width)).double() * 2 - 1
    made = smoothed_noise(noise, deviation)
    expected = ndimage.gaussian_filter(noise.numpy(), (0, 0, deviation, deviation), mode="reflect", truncate=3)
    assert np.abs(made.numpy() - expected).max() < 1e-6
    assert torch.equal(made[1:2], smoothed_noise(noise[1:2], deviation))
    rows, columns = (torch.linalg.matrix_norm(smoothing_weights(size, deviation), ord=torch.inf) for size in (height, width))
    assert max(rows, columns) < 1 + 1e-5
    assert torch.equal(made * 2.0**51, (made * 2.0**51).round())  # nothing was rounded away: the last bits are of the grid


@pytest.mark.parametrize(("edge", "mode"), [(0, "mirror"), (1, "reflect")])
def test_between_pixels_and_far_outside_images_are_those_of_scipy(edge, mode):
    x = scene(2, 9, 14).double()
    down, right = torch.from_numpy(np.random.default_rng(0).uniform(-70, 80, (2, 2, 9, 14))).unbind(0)
    down[:, 0], right[:, 0] = torch.arange(14) - 3.0, torch.arange(14) * 2.0 - 5  # whole places
    made = sampled_images(x, right, down, edge=edge)
    for sample in range(2):
        for channel in range(3):
            places = (down[sample].numpy(), right[sample].numpy())
            expected = ndimage.map_coordinates(x[sample, channel].numpy(), places, order=1, mode=mode)
            assert np.allclose(made[sample, channel].numpy(), expected, atol=1e-12)


def test_places_are_mirrored_with_the_border_once_or_twice():
    places = torch.arange(-9, 13)
    assert np.array_equal(folded_places(places, 4, 0).numpy(), np.pad(np.arange(4), 9, mode="reflect"))
    assert np.array_equal(folded_places(places, 4, 1).numpy(), np.pad(np.arange(4), 9, mode="symmetric"))


def test_corners_that_fall_on_one_line_give_finite_places_in_the_image():
    flat = torch.tensor([[[0.0, 0.0], [0.0, 20.0], [20.0, 20.0]]], dtype=torch.float64)  # all three on the lower right one
    for corners in (flat, flat + torch.tensor([1e-7, 0.0]) * torch.arange(3)[:, None]):
        right, down = affine_places(corners, 32, 32)
        assert right.isfinite().all()
        assert sampled_images(scene(1).double(), right, down, edge=0).isfinite().all()


def test_corners_move_evenly_up_to_the_distance_of_the_severity():
    ramp = (torch.arange(64.0) * 4).expand(1, 1, 64, 64).expand(400, -1, -1, -1) / 255
    made = grey(elastic_transform(ramp, 1, draws(400), scale="cifar"))[:, 0].double() / 4
    seen = 53 - made[:, 53, 53]  # of the first corner; a third of 64 is 21
    assert seen.abs().max() <= 2.56 + 0.6
    assert stats.kstest(seen.numpy(), stats.uniform(-2.7, 5.4).cdf).statistic < 0.12
