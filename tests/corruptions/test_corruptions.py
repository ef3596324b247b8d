"""Corruptions: the published generator pixel by pixel and in its statistics, independent libraries, draws per image, bad input."""

import colorsys
from io import BytesIO

import numpy as np
import pytest
import torch
from pictures import SEVERITIES, draws, flat, grey, measured, scene, table, tensor
from PIL import Image
from scipy import ndimage, stats

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import lookup, options_of
from robench.corruptions import CORRUPTIONS, scale_of
from robench.corruptions.blur import disk_kernel, smeared_images, zoom_weights
from robench.corruptions.digital import box_resized_images, to_hsv, to_rgb
from robench.corruptions.noise import poisson_numbers

OTHERS = ["glass_blur", "elastic_transform", "snow", "frost", "fog", "spatter"]  # held to the reference in test_warp.py and test_weather.py
HERE = [name for name in CORRUPTIONS if name not in OTHERS]
RANDOM = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "motion_blur", *OTHERS]
FIXED = [name for name in CORRUPTIONS if name not in RANDOM]


class Given:
    """Draws that hand out given numbers, whatever is asked."""

    def __init__(self, numbers):
        self.numbers = numbers

    def child(self, *names):
        return self

    def normal(self, shape):
        return self.numbers

    def uniform(self, shape):
        return self.numbers


def corrupted(name, x, severity=3, **options):
    """The grey levels of the corrupted images."""
    return grey(CORRUPTIONS[name](x, severity, draws(len(x)), **options))


# The published generator


def against(reference, name, severity, numbers=None):
    """The difference to the published images, in grey levels, (B, C, H, W)."""
    x = tensor(reference["clean"])
    made = CORRUPTIONS[name](x, severity, numbers or draws(len(x)))
    return grey(made) - torch.from_numpy(reference[f"{name}_{severity}"]).movedim(3, 1).long()


@pytest.mark.realdata
@pytest.mark.parametrize("name", FIXED)
def test_a_corruption_without_chance_is_the_published_one_pixel_by_pixel(reference, name):
    for severity in SEVERITIES:
        gap = against(reference, name, severity)
        assert gap.abs().max() <= 1  # a library of another build may round the last bit of a flat part otherwise
        assert (gap != 0).float().mean() < 0.001


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise", "motion_blur"])
def test_with_the_random_numbers_of_the_published_generator_its_images_come_out(reference, name):
    chance = np.random.RandomState(0)  # the published generator, seeded so, draws image by image
    normal = torch.from_numpy(chance.normal(size=(32, 32, 32, 3))).movedim(3, 1)
    angle = torch.from_numpy(np.random.RandomState(0).uniform(-45, 45, 32) + 45) / 90
    for severity in SEVERITIES:
        gap = against(reference, name, severity, Given(angle if name == "motion_blur" else normal))
        assert gap.abs().max() <= 1
        assert (gap != 0).float().mean() < 0.001


@pytest.mark.realdata
@pytest.mark.parametrize("name", HERE)
def test_500_images_have_the_statistics_of_the_published_ones(data_dir, name):
    values = table(data_dir / "cifar_c_reference_statistics.csv", "value")
    deviations = table(data_dir / "cifar_c_reference_seed_sd.csv", "seed_sd")
    with np.load(data_dir / "cifar10-lossless.npz") as file:
        clean = file["x_test"][:500]
    x = tensor(clean)
    for severity in SEVERITIES:
        made = grey(CORRUPTIONS[name](x, severity, draws(500))).movedim(1, 3).numpy()
        for statistic, value in measured(made.astype(np.float64), clean.astype(np.float64)).items():
            key = (name, severity, statistic)
            allowed = 3.5 * 2**0.5 * deviations[key] if name in RANDOM else 0.002  # a difference of two seeds; the largest of 225
            assert abs(value - values[key]) <= allowed, f"{key}: {value} and not {values[key]}"
            assert abs(value - values[key]) <= 0.03 * values[key]


# Independent libraries and closed forms


@pytest.mark.parametrize("c", [3, 60, 500])
def test_poisson_numbers_are_the_quantiles_that_scipy_gives(c):
    rates = torch.arange(256, dtype=torch.float64) / 255 * c
    which = torch.arange(256).repeat_interleave(40)
    u = Draws(0, torch.arange(1), "u").uniform((len(which),))[0]
    u[::40], u[1::40] = 0.0, 1 - 2.0**-24
    expected = stats.poisson.ppf(u.double().numpy() + 2.0**-25, rates[which].numpy())
    assert np.array_equal(poisson_numbers(rates, which, u).numpy(), np.maximum(expected, 0))


@pytest.mark.parametrize(
    ("level", "scale", "severity", "photons"),
    [(255, "cifar", 1, 500), (60, "cifar", 2, 250), (128, "cifar", 3, 100), (9, "cifar", 4, 75), (2, "cifar", 5, 50)]
    + [(200, "imagenet", severity, photons) for severity, photons in zip(SEVERITIES, (60, 25, 12, 5, 3), strict=True)],
)
def test_shot_noise_counts_photons_as_poisson_numbers(level, scale, severity, photons):
    made = corrupted("shot_noise", flat(level, side=64, n=8), severity, scale=scale)
    counts = np.arange(0, photons + 1)
    chances = stats.poisson.pmf(counts, level / 255 * photons)
    chances[-1] += stats.poisson.sf(photons, level / 255 * photons)  # brighter than white is white
    level_of = np.floor(np.clip(counts / photons, 0, 1) * 255).astype(int)
    expected = np.bincount(level_of, chances, minlength=256) * made.numel()
    seen = np.bincount(made.flatten().numpy(), minlength=256)
    assert seen[expected == 0].sum() == 0
    often = expected > 20
    sorts = [np.append(counted[often], counted[~often].sum()) for counted in (seen, expected)]
    kept = sorts[1] > 0  # nothing may be rare where photons are few
    assert stats.chisquare(sorts[0][kept], sorts[1][kept]).pvalue > 1e-3


def test_gaussian_and_speckle_noise_have_the_deviation_of_their_severity():
    x = flat(100, side=64, n=8)
    for severity, deviation in zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True):
        made = corrupted("gaussian_noise", x, severity).double()
        assert made.std() == pytest.approx(255 * deviation, rel=0.02)
        assert made.mean() == pytest.approx(99.5, abs=0.4)  # cut off to whole levels: half a level darker
    for severity, deviation in zip(SEVERITIES, (0.15, 0.2, 0.35, 0.45, 0.6), strict=True):
        assert corrupted("speckle_noise", x, severity, scale="imagenet").double().std() == pytest.approx(100 * deviation, rel=0.05)


@pytest.mark.parametrize(("scale", "shares"), [("cifar", (0.01, 0.02, 0.03, 0.05, 0.07)), ("imagenet", (0.03, 0.06, 0.09, 0.17, 0.27))])
def test_impulse_noise_sets_its_share_of_subpixels_to_white_or_black_and_leaves_the_others(scale, shares):
    for severity, share in zip(SEVERITIES, shares, strict=True):
        made = corrupted("impulse_noise", flat(77, side=64, n=8), severity, scale=scale)
        assert made.unique().tolist() == [0, 77, 255]
        for colour in (0, 255):
            assert stats.binomtest(int((made == colour).sum()), made.numel(), share / 2).pvalue > 1e-3


def test_contrast_brightness_and_saturate_do_what_their_formulas_say():
    x = tensor(np.array([[[[200, 100, 0], [100, 200, 200]]] * 8] * 1, dtype=np.uint8).repeat(4, 2))
    assert corrupted("contrast", x, 2)[0, :, 0, [0, -1]].tolist() == [[175, 125], [125, 175], [50, 150]]  # half way to 150, 150, 100
    assert corrupted("brightness", x, 2)[0, :, 0, 0].tolist() == [225, 112, 0]  # value + 25.5, the same hue and saturation
    assert corrupted("saturate", x, 1)[0, :, 0, 0].tolist() == [200, 170, 139]  # saturation 0.3: 200 (1 - 0.3) and half way
    assert corrupted("saturate", flat(90), 3).unique().tolist() == [90]
    assert corrupted("saturate", flat(90), 4)[0, :, 0, 0].tolist() == [90, 81, 81]  # grey has the hue red
    assert corrupted("saturate", flat(90)[:, :1], 5).unique().tolist() == [77]  # the grey of (90, 72, 72): 0.299 of 90, the rest of 72


def test_large_images_are_changed_as_much_as_the_severities_of_imagenet_say():
    halves = torch.cat((flat(0, side=80), flat(200, side=80)), 2)
    brighter, weaker, fewer = (0.1, 0.2, 0.3, 0.4, 0.5), (0.4, 0.3, 0.2, 0.1, 0.05), (0.6, 0.5, 0.4, 0.3, 0.25)
    for severity in SEVERITIES:
        assert corrupted("brightness", flat(60, side=80), severity).unique().tolist() == [int(60 + 255 * brighter[severity - 1])]
        expected = 100 + 100 * weaker[severity - 1]
        assert corrupted("contrast", halves, severity)[0, 0, -1, 0] == pytest.approx(expected, abs=1)
        slope = torch.arange(200.0).expand(1, 3, 200, 200) / 255
        assert corrupted("pixelate", slope, severity)[0, 0, 0].unique().numel() == 200 * fewer[severity - 1]


def test_colours_are_turned_as_the_standard_library_turns_them():
    colours = np.concatenate(
        [np.random.default_rng(0).integers(0, 256, (300, 3)), [[0, 0, 0], [255, 255, 255], [9, 9, 9], [7, 7, 1], [1, 7, 7]]]
    )
    x = torch.from_numpy(colours / 255)[:, :, None, None]
    hue, saturation, value = to_hsv(x)
    expected = torch.tensor([colorsys.rgb_to_hsv(*colour) for colour in (colours / 255).tolist()], dtype=torch.float64)
    assert torch.allclose(torch.stack((hue, saturation, value), 1).flatten(1), expected, atol=1e-12)
    assert torch.allclose(to_rgb(hue, saturation, value), x, atol=1e-12)


@pytest.mark.parametrize(("height", "width", "share"), [(28, 28, 0.65), (32, 32, 0.95), (45, 33, 0.3), (64, 97, 0.25), (224, 224, 0.6)])
def test_boxes_are_pillows_to_the_level(height, width, share):
    x = scene(2, height, width)
    small = int(width * share), int(height * share)
    for image, made in zip(grey(x).movedim(1, 3).numpy().astype(np.uint8), box_resized_images(grey(x).double(), *small[::-1]), strict=True):
        shrunk = Image.fromarray(image).resize(small, Image.Resampling.BOX)
        assert np.array_equal(made.movedim(0, 2).numpy(), np.asarray(shrunk))
        again = box_resized_images(made[None], height, width)[0].movedim(0, 2).numpy()
        assert np.array_equal(again, np.asarray(shrunk.resize((width, height), Image.Resampling.BOX)))


@pytest.mark.parametrize(("scale", "qualities"), [("cifar", (80, 65, 58, 50, 40)), ("imagenet", (25, 18, 15, 10, 7))])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_halves_the_colours_and_keeps_grey_images_grey(scale, qualities, channels):
    x = scene(1, 29, 40, channels)
    image = grey(x)[0].movedim(0, 2).numpy().astype(np.uint8).squeeze()
    for severity, quality in zip(SEVERITIES, qualities, strict=True):
        file = BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=2)
        made = corrupted("jpeg_compression", x, severity, scale=scale)[0].movedim(0, 2).numpy().squeeze()
        assert np.array_equal(made, np.asarray(Image.open(file)))


@pytest.mark.parametrize("side", [28, 75])
def test_gaussian_blur_is_scipys(side):
    x = scene(2, side, side + 4)
    for severity, deviation in zip(SEVERITIES, (1, 2, 3, 4, 6), strict=True):
        expected = ndimage.gaussian_filter(x.double().numpy(), (0, 0, deviation, deviation), mode="nearest") * 255
        gap = corrupted("gaussian_blur", x, severity, scale="imagenet").numpy() - expected
        assert gap.max() < 1e-3
        assert gap.min() > -1.001


def test_zoomed_axes_are_scipys_at_every_size():
    for size in (8, 28, 29, 31, 32, 57, 64, 96, 224):
        line = np.random.default_rng(size).uniform(size=size)
        for factor in np.arange(1, 1.31, 0.01).tolist():
            part = int(np.ceil(size / factor))
            start = (size - part) // 2
            wide = ndimage.zoom(line[start : start + part], factor, order=1)
            expected = wide[(len(wide) - size) // 2 :][:size]
            assert np.allclose(zoom_weights(size, factor).numpy() @ line, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("scale", "ends", "steps"),
    [("cifar", (1.06, 1.11, 1.16, 1.21, 1.26), (0.01,) * 5), ("imagenet", (1.11, 1.16, 1.21, 1.26, 1.31), (0.01, 0.01, 0.02, 0.02, 0.03))],
)
def test_zoom_blur_is_the_mean_of_its_zooms_and_the_image(scale, ends, steps):
    x = scene(1, 28, 40)
    for severity, end, step in zip(SEVERITIES, ends, steps, strict=True):
        zooms = [zoom_weights(28, factor) @ x.double() @ zoom_weights(40, factor).T for factor in np.arange(1, end, step).tolist()]
        expected = torch.stack((x.double(), *zooms)).mean(0) * 255
        gap = corrupted("zoom_blur", x, severity, scale=scale) - expected
        assert gap.max() < 1e-3
        assert gap.min() > -1.001


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur_is_the_mean_over_a_disk_mirrored_at_the_border(severity):
    radius, deviation = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    kernel, x = disk_kernel(radius, deviation).numpy(), scene(1, 28, 37)
    assert kernel.sum() == pytest.approx(1.0, abs=0.02)  # above 1 where the disk touches its frame: the published kernel brightens
    assert np.array_equal(kernel, kernel[::-1])
    expected = np.stack([ndimage.correlate(plane, kernel, mode="mirror") for plane in x[0].double().numpy()]) * 255
    gap = corrupted("defocus_blur", x, severity, scale="imagenet")[0].numpy() - expected.clip(0, 255)
    assert gap.max() < 1e-3
    assert gap.min() > -1.001


def test_motion_blur_smears_a_point_against_the_angle_and_to_one_side():
    point = torch.zeros(3, 1, 33, 33, dtype=torch.float64)
    point[:, :, 16, 16] = 1.0
    made = smeared_images(point, 6, 2.0, torch.tensor([0.0, 90.0, 45.0]))
    weights = torch.exp(-(torch.arange(13.0, dtype=torch.float64) ** 2) / 8)
    weights = weights / weights.sum()
    assert torch.allclose(made[0, 0, 16, 4:17].flip(0), weights, atol=1e-9)
    assert torch.allclose(made[1, 0, 4:17, 16].flip(0), weights, atol=1e-9)
    assert torch.equal(made[2, 0], made[2, 0].T)
    assert torch.allclose(made.sum((2, 3)), torch.ones(3, 1, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize(
    ("scale", "settings"),
    [("cifar", ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))), ("imagenet", ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)))],
)
def test_motion_blur_is_as_long_as_its_severity_says(scale, settings):
    line = torch.zeros(1, 1, 64, 64)
    line[:, :, :, 50] = 1.0
    for severity, (radius, deviation) in zip(SEVERITIES, settings, strict=True):
        made = grey(CORRUPTIONS["motion_blur"](line, severity, Given(torch.tensor([0.5])), scale=scale))  # straight to one side
        weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * deviation**2))
        expected = np.zeros(64)
        expected[50 - 2 * radius : 51] = weights[::-1] / weights.sum() * 255
        assert np.abs(made[0, 0, 30].numpy() - expected + 0.5).max() < 0.51  # cut off to whole levels


def test_motion_blur_draws_angles_between_minus_45_and_45_degrees():
    point = torch.zeros(400, 1, 33, 33)
    point[:, :, 16, 16] = 1.0
    made = CORRUPTIONS["motion_blur"](point, 5, draws(400))[:, 0]
    places = torch.arange(33) - 16.0
    right, down = -(made * places).sum((1, 2)), -(made * places[:, None]).sum((1, 2))
    angles = torch.rad2deg(torch.atan2(down, right))
    assert angles.abs().max() < 48
    assert stats.kstest(angles.numpy(), stats.uniform(-45, 90).cdf).statistic < 0.12  # the line is drawn in whole pixels


@pytest.mark.parametrize("name", ["gaussian_blur", "zoom_blur", "motion_blur", "defocus_blur", "pixelate", "contrast"])
def test_a_flat_image_stays_flat(name):
    for level in (0, 100, 255):
        made = corrupted(name, flat(level))
        assert made.unique().numel() == 1
        assert abs(int(made[0, 0, 0, 0]) - level) <= 1  # what ends next to a whole level may be cut off below it


# What holds for all


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_halves_give_what_the_whole_gives(name, channels):
    x = scene(9, channels=channels)
    for scale in ("cifar", "imagenet"):
        whole = CORRUPTIONS[name](x, 4, draws(9), scale=scale)
        for rows in (torch.arange(4), torch.arange(4, 9), torch.tensor([7]), torch.tensor([8, 0, 3])):
            assert torch.equal(CORRUPTIONS[name](x[rows], 4, draws(9).take(rows), scale=scale), whole[rows])


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (28, 28, 3), (33, 50, 3), (100, 70, 1)])
def test_every_size_and_colour_gives_8_bit_images_and_leaves_x_alone(name, height, width, channels):
    x = scene(2, height, width, channels)
    before, states = x.clone(), (torch.get_rng_state(), np.random.get_state()[1].copy())
    for severity in SEVERITIES:
        made = CORRUPTIONS[name](x, severity, draws(2))
        assert (made.shape, made.dtype, made.device) == (x.shape, torch.float32, x.device)
        assert torch.equal(made, grey(made).float() / 255)
        assert 0 <= made.min() <= made.max() <= 1
        pale = name == "saturate" and channels == 1 and severity <= 3
        assert torch.equal(made, x) == pale
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_seed_sample_and_severity_decide_the_random_ones_and_nothing_the_others(name):
    x = scene(1).expand(2, -1, -1, -1)
    made, again, other = (CORRUPTIONS[name](x, 3, draws(2, seed)) for seed in (0, 0, 1))
    assert torch.equal(made, again)
    assert torch.equal(made, other) == (name in FIXED)
    assert torch.equal(made[0], made[1]) == (name in FIXED)


def test_corruptions_and_severities_have_random_numbers_of_their_own():
    x = flat(128, side=64)
    first, second = (corrupted("gaussian_noise", x, severity).flatten().double() for severity in (1, 2))
    speckle = corrupted("speckle_noise", x, 1).flatten().double()
    for one, two in ((first, second), (first, speckle)):
        assert abs(float(torch.corrcoef(torch.stack((one, two)))[0, 1])) < 0.03


def test_random_corruptions_of_one_seed_are_the_same_in_every_version():
    x = scene(2)
    sums = {
        name: corrupted(name, x).sum((1, 2, 3)).tolist() for name in RANDOM if name in HERE or name in ("elastic_transform", "glass_blur")
    }
    assert sums == {
        "elastic_transform": [295880, 374437],
        "gaussian_noise": [304906, 407472],
        "glass_blur": [310550, 418682],
        "impulse_noise": [305478, 408628],
        "motion_blur": [302393, 388884],
        "shot_noise": [295732, 396108],
        "speckle_noise": [294752, 396653],
    }


def test_images_between_grey_levels_are_rounded_to_them_first():
    x = scene(2)
    between = (x + 0.4 / 255).clamp(0, 1)
    assert torch.equal(corrupted("contrast", between), corrupted("contrast", x))


def test_the_size_of_the_images_chooses_the_table_unless_the_user_does():
    small, large = scene(1, 64, 64), scene(1, 64, 65)
    assert [scale_of(small), scale_of(large), scale_of(large, "cifar")] == ["cifar", "imagenet", "cifar"]
    for x, scale, other in ((small, "cifar", "imagenet"), (large, "imagenet", "cifar")):
        assert torch.equal(corrupted("brightness", x), corrupted("brightness", x, scale=scale))
        assert not torch.equal(corrupted("brightness", x), corrupted("brightness", x, scale=other))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_entry_has_its_name_a_docstring_the_option_scale_and_an_empty_answer_to_no_images(name):
    corrupt = CORRUPTIONS[name]
    assert corrupt.__name__ == name
    assert corrupt.__doc__
    assert options_of(corrupt) == {"scale": "auto"} | ({"photos": ""} if name == "frost" else {})
    assert corrupt(torch.empty(0, 3, 32, 32), 1, draws(0)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("severity", [0, 6, 2.0, True, "3"])
def test_a_severity_outside_1_to_5_is_an_input_error(severity):
    with pytest.raises(InputError, match="severity must be a whole number from 1 to 5, not"):
        CORRUPTIONS["contrast"](scene(1), severity, draws(1))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 2, 32, 32), "1 or 3 channels"),
        (torch.zeros(3, 32, 32), "1 or 3 channels"),
        (torch.zeros(1, 3, 7, 32), "at least 8"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "divide 8-bit images by 255"),
        (torch.full((1, 3, 32, 32), 1.1), "outside or not finite"),
        (torch.full((1, 3, 32, 32), float("nan")), "outside or not finite"),
    ],
)
def test_what_is_no_image_in_0_to_1_is_an_input_error(x, message):
    with pytest.raises(InputError, match=message):
        CORRUPTIONS["gaussian_noise"](x, 1, draws(1))


def test_an_unknown_name_or_scale_is_an_input_error_with_a_hint():
    with pytest.raises(InputError, match="did you mean 'gaussian_noise'"):
        lookup("gausian_noise", CORRUPTIONS, "corruption")
    with pytest.raises(InputError, match=r"unknown scale of severities 'imagnet'.*'imagenet'"):
        CORRUPTIONS["contrast"](scene(1), 1, draws(1), scale="imagnet")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_cuda_device_gives_the_same_image_to_one_grey_level(name):
    x = scene(4)
    there = CORRUPTIONS[name](x.cuda(), 3, Draws(0, torch.arange(4, device="cuda"), "test"))
    assert there.device.type == "cuda"
    assert (grey(there.cpu()) - corrupted(name, x)).abs().max() <= 1
