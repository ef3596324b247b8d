"""Pictures of maps and probes: what is drawn is what was given, any name can be drawn, and odd numbers do no harm."""

import itertools
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.patches import StepPatch
from pictures import drawings, legend

from robench.report.figures import saliency
from robench.report.figures import style as house
from robench.report.figures.saliency import (
    ErrorCurve,
    Tile,
    colour_and_style,
    coloured_map,
    common_bins,
    draw_bars,
    draw_histograms,
    draw_lorenz_curves,
    draw_noise_curves,
    draw_saliency_gallery,
    draw_scatter,
    drawable_image,
    drawable_text,
    map_over_image,
    scaled_map,
)

HOSTILE = ["", "_hidden", "$x^$", "a\nb\tc", "<b>&amp;", "%s {0}", "\u6a21\u578b \U0001f600", "w" * 300, "\udcff", "\\frac{1}"]
POINTS = [(0.002, 0.1, 0.05, 0.2), (0.02, 0.4, 0.3, 0.6)]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were to be written."""
    return drawings(monkeypatch)


def image(seed=0, channels=3, side=8):
    return torch.rand(channels, side, side, generator=torch.Generator().manual_seed(seed))


def tile(seed=0, **more):
    return Tile("cat", image(seed), image(seed + 1) - 0.5, **more)


def test_lorenz_curves_stand_at_even_shares_in_percent_with_their_gini(drawn):
    draw_lorenz_curves("x.png", [("one", [0, 0.25, 1], 0.25), ("_two", np.linspace(0, 1, 101) ** 2, 1 / 3)], "title")
    axes = drawn[0].axes[0]
    even, one, two = axes.lines
    assert np.array_equal(even.get_data(), [[0, 100], [0, 100]])
    assert [x.tolist() for x in one.get_data()] == [[0, 50, 100], [0, 25, 100]]
    assert two.get_data()[1][50] == pytest.approx(25)
    assert legend(axes) == ["0.250  one", "0.333  _two"]
    assert axes.get_xlim() == axes.get_ylim() == (0, 100)


def test_the_legend_of_lorenz_curves_lies_in_the_empty_corner_or_outside(tmp_path, drawn):
    for count, name in ((3, "resnet20_standard"), (8, "a_rather_long_model_name")):
        draw_lorenz_curves("x.png", [(f"{name}{k}", [0, 0.3, 1], 0.2) for k in range(count)], "title")
        figure = drawn[-1]
        figure.canvas.draw()
        axes = figure.axes[0]
        corner = axes.get_legend().get_window_extent().transformed(axes.transData.inverted())
        assert corner.ymax < 0 or corner.xmax < corner.ymin  # below the axes, or above the diagonal


def test_models_differ_in_colour_and_in_line_style():
    looks = [colour_and_style(place) for place in range(32)]
    assert len(set(looks)) == 32
    assert len({colour for colour, _ in looks[:8]}) == 8
    assert all(one[0] != two[0] and one[1] != two[1] for one, two in itertools.pairwise(looks[:8]))


def test_histograms_have_common_bins_and_sum_to_all_images(drawn):
    rng = np.random.default_rng(0)
    groups = [("narrow", rng.normal(0.5, 0.01, 300)), ("wide", rng.normal(0.8, 0.05, 200))]
    draw_histograms("x.png", groups, "title", "Gini")
    axes = drawn[0].axes[0]
    steps = [patch for patch in axes.patches if isinstance(patch, StepPatch) and not patch.get_fill()]
    values, edges = zip(*[(patch.get_data().values, patch.get_data().edges) for patch in steps], strict=True)
    assert [sum(heights) for heights in values] == pytest.approx([100, 100])
    assert edges[0].tolist() == edges[1].tolist()
    assert np.diff(edges[0])[0] < 0.02  # the narrow group is not one block
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([group.mean() for _, group in groups])
    assert axes.get_xlabel() == "Gini"


def test_histograms_name_what_is_undefined_and_keep_an_outlier_in_the_last_bin(drawn):
    values = [*np.linspace(0.4, 0.6, 60), math.nan, math.nan, math.inf, 1e9]
    draw_histograms("x.png", [("odd", values), ("none", [math.nan]), ("empty", [])], "title")
    axes = drawn[0].axes[0]
    assert legend(axes) == ["odd  (mean 1.64e+07, 3 undefined)", "none  (no value)", "empty  (no value)"]
    heights, edges, _ = next(patch for patch in axes.patches if not patch.get_fill()).get_data()
    assert edges[-1] < 2
    assert heights.sum() == pytest.approx(100)
    assert heights[-1] == pytest.approx(100 / 61)
    assert max(line.get_xdata()[0] for line in axes.lines) <= edges[-1]


@pytest.mark.parametrize(
    "groups", [[], [np.array([0.3])], [np.full(20, 0.3)], [np.full(20, 1e-12)], [np.array([-1e300, 1e300])], [np.zeros(3)]]
)
def test_bins_hold_the_values_however_they_lie(groups):
    edges = common_bins(groups)
    assert (np.diff(edges) > 0).all()
    assert 10 <= len(edges) - 1 <= 60
    assert all(edges[0] <= group.min() and group.max() <= edges[-1] for group in groups)


def test_maps_are_scaled_about_zero_to_their_99th_percentile():
    signed = torch.zeros(2, 10, 20)
    signed[0] = torch.linspace(-1, 1, 200).view(10, 20)
    signed[1, 0, 0] = -500.0  # one entry in two hundred
    found = scaled_map(signed)
    assert found.shape == (10, 20)
    assert found[0, 0] == -1
    assert found[9, 19] == 1
    span = np.percentile(signed.double().sum(0).abs().numpy(), 99)
    middle = signed[0].double().abs() < 0.9
    assert torch.allclose(found[middle][1:], (signed[0].double() / span)[middle][1:])
    assert torch.allclose(scaled_map(7 * signed), found)
    assert torch.allclose(scaled_map(-signed), -found)


def test_zero_is_white_positive_red_negative_blue_and_nan_grey():
    signed = torch.zeros(1, 10, 10)
    signed[0, 0, :4] = torch.tensor([1.0, -1.0, torch.nan, 0.5])
    colours = coloured_map(signed)
    red, blue, missing, half, zero = (colours[:, 0, k] for k in range(5))
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    assert half[0] > half[2]
    assert to_hex(missing.tolist()) == "#b9b9b9"
    assert zero.min() > 0.95
    assert coloured_map(torch.zeros(3, 4, 4)).min() > 0.95
    assert coloured_map(torch.full((3, 4, 4), torch.inf)).isfinite().all()


def test_the_overlay_leaves_the_grey_image_where_the_map_is_zero():
    x, signed = image(), torch.zeros(3, 8, 8)
    signed[:, 2, 3], signed[:, 6, 1] = -4.0, 4.0
    found = map_over_image(x, signed)
    grey = 0.35 + 0.65 * x.mean(0)
    assert torch.allclose(found[:, 5, 5], grey[5, 5].expand(3))
    assert to_hex(found[:, 2, 3].tolist()) == saliency.INK  # blue is negative, as the legend says
    assert to_hex(found[:, 6, 1].tolist()) == saliency.WARM
    assert map_over_image(x, torch.full((1, 8, 8), torch.nan)).isfinite().all()


def test_images_with_any_number_of_channels_can_be_seen():
    assert [len(drawable_image(image(channels=c))) for c in (1, 2, 3, 4)] == [1, 1, 3, 1]
    assert torch.equal(drawable_image(2 * image()), (2 * image()).clamp(0, 1))


def test_a_gallery_has_three_lines_and_two_more_where_there_are_adversarial_images(drawn):
    draw_saliency_gallery("x.png", [tile(), tile(3)], "title")
    draw_saliency_gallery("x.png", [tile(), tile(3, x_adv=image(9), map_adv=image(8), caption_adv="-> dog", fallen=False)], "title")
    plain, attacked = drawn
    assert (len(plain.axes), len(attacked.axes)) == (6, 10)
    assert [axes.get_ylabel() for axes in attacked.axes[::2]] == ["image", "map", "map on image", "adversarial", "its map"]
    assert [len(axes.images) for axes in attacked.axes] == [1] * 6 + [0, 1] * 2
    assert np.allclose(attacked.axes[7].images[0].get_array(), image(9).permute(1, 2, 0))
    assert np.allclose(attacked.axes[9].images[0].get_array(), coloured_map(image(8)).permute(1, 2, 0))
    assert attacked.axes[7].get_title() == "-> dog"
    assert attacked.axes[7].title.get_color() != saliency.WARM
    assert "99th percentile" in attacked.get_supxlabel()


def test_the_maps_of_a_gallery_are_left_as_they_were(tmp_path):
    entries = [tile(k, x_adv=image(k + 5), map_adv=image(k + 7).requires_grad_()) for k in range(2)]
    before = [entry.map.clone() for entry in entries]
    path = draw_saliency_gallery(tmp_path / "g.png", entries, "title")
    assert all(torch.equal(entry.map, old) for entry, old in zip(entries, before, strict=True))
    assert imread(path)[..., :3].std() > 0.05


def test_error_curves_have_a_panel_a_probe_and_the_same_look_for_the_same_model(drawn):
    other = [(10 * t, *rest) for t, *rest in POINTS]
    draw_noise_curves(
        "x.png",
        [ErrorCurve("b", "noise", POINTS), ErrorCurve("a", "noise", POINTS[::-1]), ErrorCurve("a", "random", [(0, 0, 0, 0), *other])],
        "title",
    )
    figure = drawn[0]
    noise, random = figure.axes
    assert (noise.get_title(), random.get_title()) == ("noise", "random")
    assert noise.get_xscale() == random.get_xscale() == "log"
    assert [line.get_data()[1].tolist() for line in noise.lines] == [[10, 40], [10, 40]]
    assert random.lines[0].get_data()[0].tolist() == [0.02, 0.2]  # t = 0 has no place
    assert noise.lines[1].get_color() == random.lines[0].get_color() != noise.lines[0].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b", "a"]
    assert noise.get_xticks().tolist() == random.get_xticks().tolist() == [0.002, 0.02, 0.2]
    band = noise.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((5, 60))


def test_bars_stand_in_groups_with_their_intervals(drawn):
    groups = [("m", [("black", 0.2, 0.1, 0.4), ("white", 0.5, 0.45, 0.6)]), ("n", [("white", 1, 0.9, 1)])]
    draw_bars("x.png", groups, "title")
    axes = drawn[0].axes[0]
    assert [patch.get_height() for patch in axes.patches] == pytest.approx([20, 50, 100])
    centres = [patch.get_x() + patch.get_width() / 2 for patch in axes.patches]
    assert [round(centre) for centre in centres] == [0, 0, 1]
    assert centres[0] < 0 < centres[1]
    assert axes.patches[1].get_facecolor() == axes.patches[2].get_facecolor() != axes.patches[0].get_facecolor()
    spans = [
        segment[:, 1].tolist()
        for container in axes.containers
        if hasattr(container, "lines")
        for segment in container.lines[2][0].get_segments()
    ]
    assert spans == [pytest.approx([10, 40]), pytest.approx([45, 60]), pytest.approx([90, 100])]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["m", "n"]


def test_points_that_fell_and_points_that_stand_are_told_apart(drawn):
    x, y, fell = [1, 2, 3, math.nan, 5], [1, 4, 9, 16, math.inf], [True, False, False, True, False]
    draw_scatter("x.png", x, y, fell, "title", ("margin", "Gini"))
    axes = drawn[0].axes[0]
    assert legend(axes) == ["stands: 2, large: median", "fell: 1, large: median"]
    stands, median, fallen, _ = (collection.get_offsets().tolist() for collection in axes.collections)
    assert (stands, median, fallen) == ([[2, 4], [3, 9]], [[2.5, 6.5]], [[1, 1]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("margin", "Gini")


def every_picture(folder, names):
    """Draws each kind of picture with the names wherever a name may stand."""
    title = " ".join(names)
    x = [0.1, 0.2, 0.4]
    return [
        draw_lorenz_curves(folder / "a.png", [(name, [0, 0.4, 1], 0.3) for name in names], title),
        draw_histograms(folder / "b.png", [(name, x) for name in names], title, title[:20]),
        draw_saliency_gallery(
            folder / "c.png", [Tile(n, image(side=2), image(side=2), image(side=2), image(side=2), n) for n in names[:3]], title
        ),
        draw_noise_curves(folder / "d.png", [ErrorCurve(name, name, POINTS) for name in names[:3]], title, title[:20]),
        draw_bars(folder / "e.png", [(name, [(name, 0.2, 0.1, 0.3)]) for name in names], title),
        draw_scatter(folder / "f.png", x, x, [True, False, True], title, (title[:20], title[:20])),
    ]


def test_any_name_can_be_drawn_without_a_warning_and_no_setting_is_left_changed(tmp_path):
    before = dict(mpl.rcParams)
    for names in (HOSTILE[:5], HOSTILE[5:]):
        for path in every_picture(tmp_path, names):
            high, wide, _ = imread(path).shape
            assert 300 < high < 2500
            assert 500 < wide < 2500
    assert dict(mpl.rcParams) == before


def test_nothing_at_all_can_be_drawn(tmp_path):
    paths = [
        draw_lorenz_curves(tmp_path / "a.png", [], ""),
        draw_histograms(tmp_path / "b.png", [], ""),
        draw_saliency_gallery(tmp_path / "c.png", [], ""),
        draw_noise_curves(tmp_path / "d.png", [], ""),
        draw_noise_curves(tmp_path / "d.png", [ErrorCurve("a", "b", [])], ""),
        draw_bars(tmp_path / "e.png", [], ""),
        draw_scatter(tmp_path / "f.png", [], [], [], "", ("", "")),
        draw_lorenz_curves(tmp_path / "a.png", [("nan", [math.nan] * 101, math.nan)], ""),
        draw_noise_curves(tmp_path / "d.png", [ErrorCurve("a", "b", [(0.1, math.nan, math.nan, math.nan)])], ""),
    ]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_long_names_lose_their_middle_and_keep_both_ends():
    assert drawable_text("resnet18") == "resnet18"
    name = "/very/long/folder/" + "x" * 60 + "/checkpoint-seed-2.pt"
    assert len(drawable_text(name)) == house.LONGEST_DRAWN_NAME
    assert drawable_text(name).startswith("/very/long")
    assert drawable_text(name).endswith("-seed-2.pt")
    assert drawable_text(" a\n\tb ") == "a b"
