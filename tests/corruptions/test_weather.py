"""Snow, fog, frost and spatter: the published generator pixel by pixel and in its statistics, filters of scipy, closed forms, bad input."""

from functools import partial

import numpy as np
import pytest
import torch
from pictures import SEVERITIES, draws, flat, grey, measured, scene, table, tensor
from PIL import Image
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import options_of
from robench.corruptions.frost import LOOKS, drawn_sheets, frost, frost_photos
from robench.corruptions.spatter import (
    EMBOSS,
    MUD,
    ONE,
    WATER,
    connected_edges,
    edge_distances,
    edges,
    equalised_levels,
    kernel_sums,
    local_means,
    spatter,
    water_brightness,
)
from robench.corruptions.weather import fog, plasma, snow

WEATHER = {"snow": snow, "frost": frost, "fog": fog, "spatter": spatter}
GREY = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]


class Given:
    """Draws that hand out given normal and uniform numbers, whatever is asked."""

    def __init__(self, normal=None, uniform=None):
        self.numbers = {"normal": normal, "uniform": uniform}

    def child(self, *names):
        return self

    def normal(self, shape):
        return self.numbers["normal"].reshape(-1, *shape)

    def uniform(self, shape):
        return self.numbers["uniform"].reshape(-1, *shape)


def corrupted(name, x, severity=3, **options):
    """The grey levels of the corrupted images."""
    return grey(WEATHER[name](x, severity, draws(len(x)), **options))


def drops(n=6, height=40, width=51, seed=0):
    """8-bit drops as spatter has them: smoothed noise over a limit, (B, H, W) int32."""
    noise = np.random.default_rng(seed).normal(0.65, 0.3, (n, height, width))
    smooth = ndimage.gaussian_filter(noise, (0, 1.5, 1.5))
    return torch.from_numpy(np.floor(np.where(smooth < 0.69, 0, smooth) * 255)).to(torch.int32)


@pytest.fixture
def folder(tmp_path):
    """A folder with six flat photos of different grey, 330 x 300, the first of them transparent."""
    for place, level in enumerate((10, 60, 110, 160, 210, 250)):
        image = Image.new("RGB", (330, 300), (level, level, level))
        if not place:
            image.putalpha(0)
        image.save(tmp_path / f"frost{place + 1}.png")
    (tmp_path / "about.txt").write_text("no photo")
    return str(tmp_path)


# The published generator


def numbers_of_snow(chance, photos):
    """The numbers of 32 images in the order in which the published generator draws them, as our draws name them."""
    pairs = [(chance.normal(size=(32, 32)), (chance.uniform(-135, -45) + 135) / 90) for _ in range(32)]
    normal, uniform = map(np.array, zip(*pairs, strict=True))
    return Given(torch.from_numpy(normal), torch.from_numpy(uniform))


def numbers_of_fog(chance, photos):
    """As for snow: each step of the plasma draws the middles, then the places above and then those beside them."""
    u = np.zeros((32, 32, 32))
    for cloud in u:
        for step in (32, 16, 8, 4, 2):
            for down, right in ((step // 2, step // 2), (0, step // 2), (step // 2, 0)):
                cloud[down::step, right::step] = chance.uniform(size=(32 // step, 32 // step))
    return Given(uniform=torch.from_numpy(u))


def numbers_of_frost(chance, photos):
    """As for snow: the photo, then the row and the column of the part."""
    sizes = [sheet[0, 2::5, 2::5].shape for sheet in frost_photos(photos)]
    drawn = []
    for _ in range(32):
        which = chance.randint(5)
        spare = [size - 32 for size in sizes[which]]
        drawn.append([(which + 0.5) / 5, *((chance.randint(0, size) + 0.5) / size for size in spare)])
    return Given(uniform=torch.tensor(drawn, dtype=torch.float64))


def numbers_of_spatter(chance, photos):
    """As for snow."""
    return Given(torch.from_numpy(chance.normal(size=(32, 32, 32))))


NUMBERS = {"snow": numbers_of_snow, "frost": numbers_of_frost, "fog": numbers_of_fog, "spatter": numbers_of_spatter}


@pytest.mark.realdata
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", WEATHER)
def test_with_the_random_numbers_of_the_published_generator_its_images_come_out(reference, data_dir, name, severity):
    photos = str(data_dir / "frost")
    numbers = NUMBERS[name](np.random.RandomState(0), photos)
    options = {"photos": photos} if name == "frost" else {}
    made = WEATHER[name](tensor(reference["clean"]), severity, numbers, **options)
    gap = grey(made) - torch.from_numpy(reference[f"{name}_{severity}"]).movedim(3, 1).long()
    assert gap.abs().max() <= 1
    assert (gap != 0).float().mean() < 0.001


def statistics(data_dir, corrupt):
    """(Severity, statistic) to ours, on the first 500 test images."""
    with np.load(data_dir / "cifar10-lossless.npz") as file:
        clean = file["x_test"][:500]
    x, result = tensor(clean), {}
    for severity in SEVERITIES:
        made = grey(corrupt(x, severity, draws(500))).movedim(1, 3).numpy()
        for statistic, value in measured(made.astype(np.float64), clean.astype(np.float64)).items():
            result[severity, statistic] = value
    return result


@pytest.mark.realdata
@pytest.mark.parametrize("name", WEATHER)
def test_500_images_have_the_statistics_of_the_published_ones(data_dir, name):
    values = table(data_dir / "cifar_c_reference_statistics.csv", "value")
    deviations = table(data_dir / "cifar_c_reference_seed_sd.csv", "seed_sd")
    corrupt = partial(frost, photos=str(data_dir / "frost")) if name == "frost" else WEATHER[name]
    for (severity, statistic), value in statistics(data_dir, corrupt).items():
        key = (name, severity, statistic)
        assert abs(value - values[key]) <= 3.5 * 2**0.5 * deviations[key], key  # a difference of two seeds; the largest of 45
        if statistic == "mean_abs_diff":
            assert abs(value - values[key]) <= max(0.03 * values[key], 3 * deviations[key]), key


@pytest.mark.realdata
def test_drawn_frost_distorts_as_much_as_the_published_photos(data_dir):
    values = table(data_dir / "cifar_c_reference_statistics.csv", "value")
    for (severity, statistic), value in statistics(data_dir, frost).items():
        assert value == pytest.approx(values["frost", severity, statistic], rel=0.05), (severity, statistic)


# Snow and fog


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("scale", "shares"), [("cifar", (0.95, 0.9, 0.9, 0.85, 0.8)), ("imagenet", (0.8, 0.7, 0.7, 0.65, 0.55))])
def test_snow_without_flakes_is_a_paler_image(channels, scale, shares):
    x = scene(2, 28, 35, channels)
    none = Given(torch.full((2, 28, 35), -9.0), torch.zeros(2))
    whole = x.double()
    bright = (whole * GREY).sum(1, keepdim=True) if channels == 3 else whole
    for severity, share in zip(SEVERITIES, shares, strict=True):
        expected = share * whole + (1 - share) * torch.maximum(whole, 1.5 * bright + 0.5)
        gap = grey(snow(x, severity, none, scale=scale)) - expected.clamp(max=1) * 255
        assert gap.max() < 1e-4
        assert gap.min() > -1.0001


@pytest.mark.parametrize(
    ("scale", "severity", "row"),
    [
        ("cifar", 1, (0.1, 0.2, 1, 0.6, 8, 3, 0.95)),
        ("cifar", 2, (0.1, 0.2, 1, 0.5, 10, 4, 0.9)),
        ("cifar", 3, (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9)),
        ("cifar", 4, (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85)),
        ("cifar", 5, (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)),
        ("imagenet", 1, (0.1, 0.3, 3, 0.5, 10, 4, 0.8)),
        ("imagenet", 2, (0.2, 0.3, 2, 0.5, 12, 4, 0.7)),
        ("imagenet", 3, (0.55, 0.3, 4, 0.9, 12, 8, 0.7)),
        ("imagenet", 4, (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65)),
        ("imagenet", 5, (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)),
    ],
)
def test_flakes_are_enlarged_noise_over_a_limit_smeared_straight_down_and_turned(scale, severity, row):
    mean, deviation, factor, limit, radius, smear, share = row
    noise = np.random.default_rng(1).normal(size=(36, 36))
    part = int(np.ceil(36 / factor))
    first = (36 - part) // 2
    wide = ndimage.zoom((mean + deviation * noise)[first : first + part, first : first + part], factor, order=1)
    trim = (len(wide) - 36) // 2
    large = wide[trim : trim + 36, trim : trim + 36]
    flakes = np.floor(np.where(large < limit, 0, np.clip(large, 0, 1)) * 255)
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / smear) ** 2)
    rows = np.arange(36)
    layer = sum(weight * flakes[np.clip(rows - tap, 0, 35)] for tap, weight in enumerate(weights / weights.sum()))
    expected = np.clip(layer + layer[::-1, ::-1] + 255 * 0.5 * (1 - share), 0, 255)
    made = grey(snow(torch.zeros(1, 1, 36, 36), severity, Given(torch.from_numpy(noise), torch.tensor([0.5])), scale=scale))[0, 0].numpy()
    assert np.abs(made - expected).max() < 3.01  # both layers and the sum are cut off to whole levels
    assert np.abs(made - expected).mean() < 1.6


def test_snow_falls_in_streaks_that_lie_nearer_to_the_vertical():
    made = corrupted("snow", torch.zeros(300, 1, 48, 48), 4).double()
    down, across = made.diff(dim=2).abs().mean((1, 2, 3)), made.diff(dim=3).abs().mean((1, 2, 3))
    assert (down < across).double().mean() > 0.9
    assert torch.equal(made, made.flip(2, 3))  # flakes and the same flakes turned around


@pytest.mark.parametrize(("side", "decay"), [(2, 3.0), (32, 1.75), (64, 1.4)])
def test_plasma_is_diamond_square_place_by_place(side, decay):
    u = np.random.default_rng(side).uniform(size=(side, side))
    heights, step, wibble = np.zeros((side, side)), side, 100.0
    while step > 1:
        half = step // 2
        corners = [(down, right) for down in (-half, half) for right in (-half, half)]
        beside = [(-half, 0), (half, 0), (0, -half), (0, half)]
        places = np.argwhere(np.ones((side // half, side // half)))
        for odd, offsets in ((2, corners), (1, beside)):
            for row, column in (places[(places % 2).sum(1) == odd] * half).tolist():
                around = [heights[(row + down) % side, (column + right) % side] for down, right in offsets]
                heights[row, column] = np.mean(around) + wibble * wibble * (2 * u[row, column] - 1)
        step, wibble = half, wibble / decay
    expected = (heights - heights.min()) / np.ptp(heights)
    assert np.allclose(plasma(torch.from_numpy(u)[None], decay)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("scale", "thick"), [("cifar", (0.2, 0.5, 0.75, 1, 1.5)), ("imagenet", (1.5, 2, 2.5, 2.5, 3))])
@pytest.mark.parametrize(("side", "channels"), [(32, 3), (64, 1)])
def test_fog_keeps_the_brightest_and_darkens_where_it_is_thin(scale, thick, side, channels):
    x = flat(200, side, n=3, channels=channels)
    for severity, thickness in zip(SEVERITIES, thick, strict=True):
        made = corrupted("fog", x, severity, scale=scale)
        share = 200 / 255 / (200 / 255 + thickness)
        assert ((made.amax((1, 2, 3)) - 200).abs() <= 1).all()
        assert ((made.amin((1, 2, 3)) - 200 * share).abs() <= 1).all()
        assert torch.equal(made, made[:, :1].expand_as(made))
    assert corrupted("fog", flat(0)).unique().tolist() == [0]


def test_fog_is_white_in_all_channels_and_scaled_to_the_brightest_of_them():
    x = torch.tensor([200, 100, 0])[None, :, None, None].expand(1, 3, 32, 32) / 255
    made = corrupted("fog", x, 4)[0]
    share = 200 / 455  # 1 is the thickness of severity 4
    assert (made.amax((1, 2)) - torch.tensor([455, 355, 255]) * share).abs().max() <= 1
    assert (made.amin((1, 2)) - torch.tensor([200, 100, 0]) * share).abs().max() <= 1


def test_fog_of_greater_severity_is_rougher():
    x = flat(255, 64, n=20)
    rough = [corrupted("fog", x, severity, scale="cifar").double() for severity in (1, 3, 4, 5)]
    ratios = [float(made.diff(dim=3).abs().mean() / made.std()) for made in rough]
    assert ratios == sorted(ratios)


# Frost


@pytest.mark.parametrize(
    ("scale", "covers"),
    [
        ("cifar", ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
        ("imagenet", ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_frost_adds_its_share_of_one_of_the_first_five_photos(folder, scale, covers, channels):
    for severity, (kept, added) in zip(SEVERITIES, covers, strict=True):
        made = corrupted("frost", flat(120, n=60, channels=channels), severity, scale=scale, photos=folder)
        seen = sorted(set(made.amax((1, 2, 3)).tolist()))
        expected = sorted({min(255, int(kept * 120 + added * level + 1e-6)) for level in (10, 60, 110, 160, 210)})
        assert len(seen) == len(expected)
        assert all(abs(one - other) <= 1 for one, other in zip(seen, expected, strict=True))  # cut off next to a whole level
        assert (made == made.amax((1, 2, 3), keepdim=True)).all()


def slope(path, width, height):
    """A photo whose red is its column and whose green is its row, modulo 256."""
    green, red = np.indices((height, width))
    Image.fromarray((np.stack((red, green, 0 * red), 2) % 256).astype(np.uint8)).save(path / "slope.png")
    return str(path)


def test_frost_takes_every_fifth_pixel_of_a_photo_for_cifar_and_all_for_imagenet(tmp_path):
    photos = slope(tmp_path, 256, 200)
    for scale, stride, added in (("cifar", 5, 0.2), ("imagenet", 1, 0.4)):
        made = corrupted("frost", torch.zeros(300, 3, 32, 32), 1, scale=scale, photos=photos).double()
        left, top = made[:, 0, 0, 0] / added, made[:, 1, 0, 0] / added
        ahead = (made[:, 0] / added)[:, 0] - left[:, None]
        assert (ahead - stride * torch.arange(32)).abs().max() <= 1 / added + 0.01
        size = [len(range(stride // 2, length, stride)) for length in (256, 200)]
        for place, spare in ((left, size[0] - 32), (top, size[1] - 32)):
            index = ((place - stride // 2) / stride + 0.5).floor()
            assert index.min() >= -1
            assert index.max() <= spare
            assert index.max() - index.min() > 0.8 * spare - 2


def test_frost_leaves_out_fewer_pixels_where_the_image_would_not_fit(tmp_path):
    photos = slope(tmp_path, 256, 130)
    made = corrupted("frost", torch.zeros(5, 3, 64, 64), 2, scale="cifar", photos=photos).double() / 0.3
    assert ((made[:, 0, 0, -1] - made[:, 0, 0, 0]) / 63 - 2).abs().max() < 0.1  # 130 / 64: every second one
    exact = corrupted("frost", torch.zeros(5, 3, 130, 100), 1, photos=photos)
    assert exact.shape == (5, 3, 130, 100)
    assert torch.equal(exact[0, 1], exact[4, 1])  # as many rows as the photo: one place for all


@pytest.mark.parametrize(("height", "width"), [(28, 28), (64, 40), (65, 97), (530, 600)])
def test_drawn_frost_goes_on_without_end(height, width):
    made = corrupted("frost", torch.zeros(2, 3, height, width), 5).double()
    for sheet in made[:, 1]:
        for line in (sheet.diff(dim=0).abs().mean(1), sheet.diff(dim=1).abs().mean(0)):
            assert line.max() < 3 * line.mean() + 3  # no seam


def test_drawn_sheets_have_the_colours_they_should_have():
    assert drawn_sheets() is drawn_sheets()
    for sheet, (mean, deviation, *_) in zip(drawn_sheets(), LOOKS, strict=True):
        assert (sheet.double().mean((1, 2)) - torch.tensor(mean)).abs().max() < 1.5
        assert (sheet.double().std((1, 2)) - torch.tensor(deviation)).abs().max() < 1.5
        rows, columns = (sheet.double().diff(dim=dim).abs().mean() for dim in (1, 2))
        assert 0.8 < rows / columns < 1.25  # ferns lie in all directions


def test_frost_of_grey_images_is_the_grey_of_the_ice():
    shades = torch.zeros(3, 1, 32, 32)
    colours = (corrupted("frost", shades.expand(-1, 3, -1, -1), 1) * GREY).sum(1, keepdim=True)
    assert (corrupted("frost", shades, 1) - colours).abs().max() <= 1


def test_photos_that_are_missing_broken_or_too_small_are_input_errors(tmp_path, folder):
    with pytest.raises(InputError, match=r"no such folder of frost photos: .*nowhere"):
        frost(scene(1), 1, draws(1), photos=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="a frost photo of 300 x 330 pixels is smaller than the images, 301 x 40"):
        frost(torch.zeros(1, 3, 301, 40), 1, draws(1), photos=folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no frost photos \(.png, .jpg, .jpeg\) in the folder"):
        frost(scene(1), 1, draws(1), photos=str(tmp_path / "empty"))
    (tmp_path / "empty" / "frost.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"cannot read the frost photo .*frost.jpg"):
        frost(scene(1), 1, draws(1), photos=str(tmp_path / "empty"))


# Spatter


def test_edges_are_cannys_pixel_by_pixel():
    levels = drops()
    made = edges(levels, 50, 150)
    for image, found in zip(levels.numpy().astype(float), made.numpy(), strict=True):
        down, right = ndimage.sobel(image, 0, mode="nearest"), ndimage.sobel(image, 1, mode="nearest")
        steep = np.pad(np.abs(down) + np.abs(right), 1)
        thin = np.zeros(image.shape, bool)
        for row, column in np.argwhere(steep[1:-1, 1:-1] > 50):
            middle, angle = steep[row + 1, column + 1], np.degrees(np.arctan2(abs(down[row, column]), abs(right[row, column])))
            aslant = 1 if down[row, column] * right[row, column] >= 0 else -1
            ahead = (0, 1) if angle < 22.5 else (1, 0) if angle > 67.5 else (1, aslant)
            before, after = (steep[row + 1 + way * ahead[0], column + 1 + way * ahead[1]] for way in (-1, 1))
            thin[row, column] = middle > before and (middle > after or (0 in ahead and middle == after))
        parts, _ = ndimage.label(thin, np.ones((3, 3)))
        strong = np.unique(parts[thin & (steep[1:-1, 1:-1] > 150)])
        assert np.array_equal(found, thin & np.isin(parts, strong))
    assert made.float().mean() > 0.05


def test_what_touches_something_strong_is_joined_to_it():
    weak = torch.rand(5, 40, 50, generator=torch.Generator().manual_seed(0)) < 0.4
    strong = weak & (torch.rand(5, 40, 50, generator=torch.Generator().manual_seed(1)) < 0.02)
    for image, begun, made in zip(weak.numpy(), strong.numpy(), connected_edges(strong, weak).numpy(), strict=True):
        parts, _ = ndimage.label(image, np.ones((3, 3)))
        assert np.array_equal(made, np.isin(parts, np.unique(parts[begun])))


def test_distances_are_shortest_paths_in_steps_of_1_and_1_4_and_2_1969():
    marked = torch.rand(3, 23, 31, generator=torch.Generator().manual_seed(0)) < 0.004
    marked[1:] = False
    marked[1, 22, 0] = True
    height, width = marked.shape[1:]
    ends, costs = [], []
    for down in (-2, -1, 0, 1, 2):
        for right in (-2, -1, 0, 1, 2):
            cost = {(0, 1): 1.0, (1, 1): 1.4, (1, 2): 2.1969}.get(tuple(sorted((abs(down), abs(right)))))
            for row in range(max(0, -down), min(height, height - down)) if cost else ():
                for column in range(max(0, -right), min(width, width - right)):
                    ends.append((row * width + column, (row + down) * width + column + right))
                    costs.append(cost)
    graph = coo_array((costs, np.array(ends).T), shape=(height * width,) * 2).tocsr()
    for places, made in zip(marked[:2], edge_distances(marked)[:2], strict=True):
        paths = dijkstra(graph, indices=places.flatten().nonzero()[:, 0].numpy(), min_only=True)
        assert np.allclose(made.numpy().flatten() / ONE, np.minimum(paths, 20), atol=1e-4)
    assert (edge_distances(marked)[2] == 20 * ONE).all()  # nothing marked


def test_equalised_levels_are_the_shares_of_darker_pixels():
    levels = (torch.rand(4, 20, 30, generator=torch.Generator().manual_seed(0)) ** 3 * 21).to(torch.int32)
    levels[3] = 7
    made = equalised_levels(levels)
    for image, spread in zip(levels[:3].numpy(), made[:3].numpy(), strict=True):
        darkest = (image == image.min()).sum()
        below = np.array([(image <= level).sum() for level in range(21)])
        assert np.array_equal(spread, np.rint((below - darkest) / (image.size - darkest) * 255)[image])
    assert torch.equal(made[3], levels[3])


def test_means_and_sums_of_nine_are_scipys():
    x = torch.randint(0, 256, (3, 17, 20), generator=torch.Generator().manual_seed(0))
    for image, mean, sum_ in zip(x.double().numpy(), local_means(x.double()).numpy(), kernel_sums(x, EMBOSS).numpy(), strict=True):
        assert np.allclose(mean, ndimage.uniform_filter(image, 3, mode="mirror"), atol=1e-4)
        assert np.array_equal(sum_, ndimage.correlate(image, np.array(EMBOSS), mode="mirror"))


@pytest.mark.parametrize(
    ("severity", "scale", "row"),
    [
        (4, "cifar", (0.65, 0.1, 0.7, 0.69, 0.6)),
        (5, "cifar", (0.65, 0.1, 0.5, 0.68, 0.6)),
        (4, "imagenet", (0.65, 0.3, 1, 0.65, 1.5)),
        (5, "imagenet", (0.67, 0.4, 1, 0.65, 1.5)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_mud_covers_what_its_smoothed_mask_says(severity, scale, row, channels):
    mean, deviation, smooth, limit, soft = row
    noise = np.random.default_rng(0).normal(size=(1, 50, 61))
    mask = (ndimage.gaussian_filter(mean + deviation * noise, (0, smooth, smooth), mode="nearest") > limit).astype(float)
    cover = ndimage.gaussian_filter(mask, (0, soft, soft), mode="nearest")
    cover[cover < 0.8] = 0
    brown = np.array(MUD if channels == 3 else [np.dot(MUD, GREY.flatten().numpy())])[:, None, None]
    x = scene(1, 50, 61, channels)
    expected = x[0].double().numpy() * 255 * (1 - cover) + cover * brown
    gap = grey(spatter(x, severity, Given(torch.from_numpy(noise)), scale=scale))[0].numpy() - expected
    assert 0 < cover.mean() < 0.6
    assert gap.max() < 1e-3
    assert gap.min() > -1.001


@pytest.mark.parametrize(("scale", "strengths"), [("cifar", (0.5, 0.5, 0.5)), ("imagenet", (0.6, 0.6, 0.5))])
@pytest.mark.parametrize("channels", [1, 3])
def test_water_is_turquoise_of_the_severitys_strength_at_its_brightest(scale, strengths, channels):
    turquoise = WATER if channels == 3 else (np.dot(WATER, GREY.flatten().numpy()),)
    for severity, strength in enumerate(strengths, 1):
        made = corrupted("spatter", torch.zeros(5, channels, 64, 64), severity, scale=scale)
        for channel, level in enumerate(turquoise):
            assert ((made[:, channel].amax((1, 2)) - strength * level).abs() <= 1).all()
        assert (made == 0).float().mean() > 0.5


def test_where_there_is_no_water_nothing_changes():
    assert water_brightness(torch.zeros(1, 1, 28, 28, dtype=torch.float64)).abs().max() == 0
    x = scene(1)
    assert torch.equal(spatter(x, 1, Given(torch.full((1, 32, 32), -9.0))), x)


# What holds for all


@pytest.mark.parametrize("name", WEATHER)
@pytest.mark.parametrize("channels", [1, 3])
def test_halves_give_what_the_whole_gives(name, channels):
    x = scene(9, channels=channels)
    for severity, scale in ((2, "cifar"), (5, "cifar"), (3, "imagenet")):
        whole = WEATHER[name](x, severity, draws(9), scale=scale)
        for rows in (torch.arange(4), torch.arange(4, 9), torch.tensor([7]), torch.tensor([8, 0, 3])):
            assert torch.equal(WEATHER[name](x[rows], severity, draws(9).take(rows), scale=scale), whole[rows])


@pytest.mark.parametrize("name", WEATHER)
@pytest.mark.parametrize(("height", "width", "channels"), [(8, 9, 3), (28, 28, 1), (33, 50, 3), (100, 70, 1)])
def test_every_size_and_colour_gives_8_bit_images_and_leaves_x_alone(name, height, width, channels):
    x = scene(2, height, width, channels)
    before, states = x.clone(), (torch.get_rng_state(), np.random.get_state()[1].copy())
    for severity in SEVERITIES:
        made = WEATHER[name](x, severity, draws(2))
        assert (made.shape, made.dtype, made.device) == (x.shape, torch.float32, x.device)
        assert torch.equal(made, grey(made).float() / 255)
        assert 0 <= made.min() <= made.max() <= 1
        assert not torch.equal(made, x) or height == 8  # a tiny image may stay dry
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


@pytest.mark.parametrize("name", WEATHER)
def test_seed_sample_and_severity_decide(name):
    x = scene(1).expand(2, -1, -1, -1)
    made, again, other = (WEATHER[name](x, 3, draws(2, seed)) for seed in (0, 0, 1))
    assert torch.equal(made, again)
    assert not torch.equal(made, other)
    assert not torch.equal(made[0], made[1])


def test_images_of_one_seed_are_the_same_in_every_version():
    sums = {name: corrupted(name, scene(2)).sum((1, 2, 3)).tolist() for name in WEATHER}
    assert sums == {"snow": [362372, 471440], "frost": [404983, 517822], "fog": [382963, 333667], "spatter": [319208, 422368]}


@pytest.mark.parametrize("name", WEATHER)
def test_every_entry_has_its_name_a_docstring_its_options_and_an_empty_answer_to_no_images(name):
    corrupt = WEATHER[name]
    assert corrupt.__name__ == name
    assert corrupt.__doc__
    assert options_of(corrupt) == {"scale": "auto", **({"photos": ""} if name == "frost" else {})}
    for severity in (1, 5):
        assert corrupt(torch.empty(0, 3, 32, 32), severity, draws(0)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", WEATHER)
def test_bad_severities_and_images_are_input_errors(name):
    with pytest.raises(InputError, match="severity must be a whole number from 1 to 5, not 6"):
        WEATHER[name](scene(1), 6, draws(1))
    with pytest.raises(InputError, match="1 or 3 channels"):
        WEATHER[name](torch.zeros(1, 2, 32, 32), 1, draws(1))
    with pytest.raises(InputError, match="unknown scale of severities 'imagnet'"):
        WEATHER[name](scene(1), 1, draws(1), scale="imagnet")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", WEATHER)
def test_a_cuda_device_gives_the_same_image_to_one_grey_level(name, severity):
    x = scene(8)
    there = WEATHER[name](x.cuda(), severity, Draws(0, torch.arange(8, device="cuda"), "test"))
    assert there.device.type == "cuda"
    assert (grey(there.cpu()) - corrupted(name, x, severity)).abs().max() <= 1
