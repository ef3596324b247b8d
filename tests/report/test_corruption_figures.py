"""Pictures of corruptions: the numbers and colours are those given, means are of what they say, and each tile is its image."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from robench.core.corruption_names import EXTRA, FAMILIES, FIFTEEN, NINETEEN, SEVERITIES
from robench.core.errors import InputError
from robench.report.figures import corruptions
from robench.report.figures.corruptions import (
    DAMAGE_COLOURS,
    EMPTY,
    SIGNED_COLOUR_MAP,
    STAR_NOTE,
    ColourScale,
    corruptions_by_family,
    draw_contact_sheet,
    draw_difference_map,
    draw_heat_map,
    draw_severity_curves,
    luminance,
    mosaic,
    readable_colour,
    signed_decimal,
)

HOSTILE = ["", "_x", "$x^$", "a\nb", "<b>&", "%s {0}", "\u6a21\u578b", "w" * 300, "\udcff"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were to be written."""
    figures = []
    monkeypatch.setattr(corruptions, "save_figure", lambda path, figure: figures.append(figure) or path)
    return figures


def table(names, severities=SEVERITIES):
    return {(c, s): (90 - 3 * s - k) / 100 for k, c in enumerate(names) for s in severities}


def words(axes):
    return [text.get_text() for text in axes.texts]


def rows(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def numbers(axes, columns):
    """The numbers of a map from the top, line by line."""
    found = [float(text.replace("\u2212", "-")) for text in words(axes) if text not in [*FAMILIES, "other"]]
    return np.array(found).reshape(-1, columns)


def test_a_heat_map_shows_each_accuracy_in_percent_with_the_means_of_rows_and_columns(drawn):
    accuracy = {("fog", 1): 0.5, ("fog", 3): 0.25, ("shot_noise", 1): 1.0, ("shot_noise", 3): 0.0}
    draw_heat_map("x.png", accuracy, 0.875, "title")
    axes, strip = drawn[0].axes
    assert rows(axes) == ["shot noise", "fog", "mean of 2"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["severity 1", "3", "mean"]
    assert numbers(axes, 3).tolist() == [[100, 0, 50], [50, 25, 37.5], [75, 12.5, 43.8]]
    assert strip.get_xlabel() == "accuracy (%); clean 87.5"
    assert strip.lines[0].get_xdata()[0] == 87.5


def test_colours_are_those_of_the_accuracy_whatever_else_is_in_the_map(drawn):
    for other in (0.0, 0.9):
        draw_heat_map("x.png", {("fog", 1): 0.5, ("snow", 1): other}, 0.9, "title")
    patches = [figure.axes[0].patches for figure in drawn]
    assert patches[0][2].get_facecolor() == patches[1][2].get_facecolor() == pytest.approx(DAMAGE_COLOURS(0.5), abs=1 / 255)
    assert patches[0][0].get_facecolor() != patches[1][0].get_facecolor()


def test_the_mean_of_the_fifteen_leaves_the_validation_ones_out(drawn):
    accuracy = {(c, s): 0.5 if c in FIFTEEN else 1.0 for c in NINETEEN for s in SEVERITIES}
    draw_heat_map("x.png", accuracy, 0.9, "title")
    axes, strip = drawn[0].axes
    assert rows(axes)[-2:] == ["mean of 15", "mean of 19"]
    assert numbers(axes, 6)[-2:, -1].tolist() == [50.0, 60.5]
    assert [name for name in rows(axes) if name.endswith("*")] == [f"{name.replace('_', ' ')}*" for name in EXTRA]
    assert STAR_NOTE in strip.get_xlabel()
    draw_heat_map("x.png", table(FIFTEEN), 0.9, "title")
    assert rows(drawn[1].axes[0])[-2:] == ["jpeg compression", "mean of 15"]
    assert "*" not in drawn[1].axes[1].get_xlabel()


def test_families_stand_in_order_beside_their_rows(drawn):
    draw_heat_map("x.png", table(["my_rain", "saturate", *reversed(FIFTEEN)]), 0.9, "title")
    axes = drawn[0].axes[0]
    assert [text for text in words(axes) if text in [*FAMILIES, "other"]] == [*FAMILIES, "other"]
    ends = [line.get_ydata() for line in axes.lines]
    assert [round(b - a) for a, b in ends] == [3, 4, 4, 5, 1]
    assert all(one[1] < other[0] for one, other in pairwise(ends))
    assert rows(axes)[:3] == ["gaussian noise", "shot noise", "impulse noise"]
    assert rows(axes)[-4:-2] == ["saturate*", "my rain"]


def test_what_was_not_measured_is_grey_and_in_no_mean(drawn):
    draw_heat_map("x.png", {("fog", 1): 0.5, ("snow", 1): 0.7, ("snow", 2): math.nan, ("frost", 2): 0.1}, math.nan, "title")
    axes, strip = drawn[0].axes
    grey = [patch for patch in axes.patches if patch.get_facecolor() == pytest.approx((0xE4 / 255,) * 3 + (1,))]
    assert EMPTY == "#e4e4e4"
    assert len(grey) == 3
    shown = [float(text) for text in words(axes) if text != "weather"]
    assert shown == [70, 70, 10, 10, 50, 50, 60, 10, 43.3]
    assert not strip.lines


def test_a_difference_map_is_new_less_base_and_symmetric_about_0(drawn):
    base, new = {("fog", 1): 0.5, ("fog", 2): 0.5, ("snow", 1): 0.4}, {("fog", 1): 0.9, ("fog", 2): 0.3, ("frost", 1): 0.4}
    draw_difference_map("x.png", base, new, "title", (0.9, 0.8))
    axes, strip = drawn[0].axes
    assert [text for text in words(axes) if text != "weather"] == ["+40.0", "\u221220.0", "+10.0", "+40.0", "\u221220.0", "+10.0"]
    assert strip.get_xlim() == pytest.approx((-40, 40))
    assert strip.get_xlabel() == "difference of accuracies (points); clean \u221210.0"
    colours = [patch.get_facecolor() for patch in axes.patches if patch.get_facecolor()[:3] != pytest.approx((0xE4 / 255,) * 3)]
    assert colours[0] == pytest.approx(SIGNED_COLOUR_MAP(1.0), abs=1 / 255)
    assert colours[1] == pytest.approx(SIGNED_COLOUR_MAP(0.25), abs=0.02)


def test_two_equal_models_differ_by_0_in_white(drawn):
    draw_difference_map("x.png", table(["fog"]), table(["fog"]), "title")
    axes, strip = drawn[0].axes
    assert {text for text in words(axes) if text != "weather"} == {"0.0"}
    assert strip.get_xlim() == (-5, 5)
    assert not strip.lines
    assert [signed_decimal(value) for value in (-0.04, 0.04, -1.25, 3.0)] == ["0.0", "0.0", "\u22121.2", "+3.0"]


def test_damage_gets_lighter_all_the_way_so_that_it_needs_no_hue():
    shades = ColourScale(DAMAGE_COLOURS, 0, 100, str, "")
    light = [luminance(shades.colour_of(value)) for value in range(101)]
    assert all(a < b for a, b in pairwise(light))
    assert (light[0], light[-1]) == (pytest.approx(0.01, abs=0.01), pytest.approx(0.93, abs=0.03))


@pytest.mark.parametrize("colours", [DAMAGE_COLOURS, SIGNED_COLOUR_MAP])
def test_every_number_can_be_read(colours):
    shades = ColourScale(colours, 0, 100, str, "")
    for value in range(101):
        colour = shades.colour_of(value)
        contrast = (luminance(colour) + 0.05) / 0.05 if readable_colour(colour) == "black" else 1.05 / (luminance(colour) + 0.05)
        assert contrast >= 4.5


def test_every_tile_of_a_contact_sheet_stands_in_its_place_in_its_colours(tmp_path):
    names, side = ["gaussian_noise", "fog", "saturate"], 32
    shades = {(c, s): (40 * k + 30, 30 * s, 200) for k, c in enumerate(names) for s in SEVERITIES}
    tiles = {cell: (torch.tensor(colour) / 255).view(3, 1, 1).expand(3, side, side) for cell, colour in shades.items()}
    path = draw_contact_sheet(tmp_path / "sheet.png", tiles, torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, side, side), "title")
    picture = (255 * imread(path)[..., :3]).round().astype(int)
    boxes = {cell: np.argwhere((picture == colour).all(-1)) for cell, colour in shades.items()}
    assert {len(box) for box in boxes.values()} == {96 * 96}
    centres = {cell: box.mean(0) for cell, box in boxes.items()}
    for name in names:
        across = np.diff([centres[name, s][1] for s in SEVERITIES])
        assert across == pytest.approx(100)
    assert centres["gaussian_noise", 1][0] < centres["fog", 1][0] < centres["saturate", 1][0]
    clean = np.argwhere((picture == (255, 0, 0)).all(-1))
    assert len(clean) == 3 * 96 * 96
    assert clean[:, 1].mean() == pytest.approx(centres["fog", 1][1] - 100)


def test_tiles_are_enlarged_pixel_by_pixel_and_missing_ones_are_white():
    image = torch.rand(1, 28, 20, generator=torch.Generator().manual_seed(0))
    sheet = mosaic([[image, None]], [0])
    high, wide = 4 * 28, 4 * 20
    assert sheet.shape == (high + 4, 2 * (wide + 4), 3)
    tile = sheet[2 : 2 + high, 2 : 2 + wide]
    assert np.array_equal(tile[::4, ::4, 0], (255 * image[0]).round().numpy().astype(np.uint8))
    assert np.array_equal(tile[::4, ::4], tile[3::4, 3::4])
    assert (sheet[:, wide + 4 :] == 255).all()


def test_large_images_are_averaged_and_the_sheet_says_so(drawn):
    image = torch.zeros(3, 224, 224)
    image[:, ::2] = 1
    sheet = mosaic([[image]], [0], 2)
    assert sheet.shape == (116, 116, 3)
    assert set(np.unique(sheet[2:114, 2:114])) == {128}
    draw_contact_sheet("x.png", {("fog", 1): image}, image, "title")
    draw_contact_sheet("x.png", {("fog", 1): image[:, :32, :32]}, image[:, :32, :32], "title")
    assert "2 x 2 pixels averaged" in drawn[0].axes[0].get_xlabel()
    assert drawn[1].axes[0].get_xlabel() == ""


def test_severity_curves_start_at_clean_and_go_over_the_benchmarks_own(drawn):
    accuracy = {("snow", s): 0.9 - 0.1 * s for s in SEVERITIES} | {("fog", 2): 0.3, ("spatter", 2): 0.0, ("saturate", 1): 0.8}
    draw_severity_curves("x.png", [("one", accuracy, 0.95), ("two", {("snow", 1): 0.2}, 0.3)], "title")
    weather, digital = drawn[0].axes
    assert [axes.get_title() for axes in drawn[0].axes] == ["weather", "digital"]
    assert weather.lines[0].get_ydata() == pytest.approx([95, 80, 50, 60, 50, 40])
    assert weather.lines[1].get_ydata() == pytest.approx([30, 20, *[math.nan] * 4], nan_ok=True)
    assert digital.lines[0].get_ydata()[:2] == pytest.approx([95, 80])
    assert [axes.get_xlabel().split("\n")[1] for axes in drawn[0].axes] == ["(2 corruptions)", "(saturate*)"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["one", "two"]


def test_panels_hold_validation_corruptions_only_where_nothing_else_is_there():
    assert corruptions_by_family(["gaussian_noise", "speckle_noise", "gaussian_blur"]) == {
        "noise": ["gaussian_noise"],
        "blur": ["gaussian_blur"],
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_can_be_drawn(tmp_path, name):
    accuracy = table([name, "fog"], (1,))
    image = torch.rand(3, 8, 8)
    for path in (
        draw_heat_map(tmp_path / "a.png", accuracy, 0.9, name),
        draw_contact_sheet(tmp_path / "b.png", dict.fromkeys(accuracy, image), image, name),
        draw_severity_curves(tmp_path / "c.png", [(name, accuracy, 0.9)], name),
    ):
        assert imread(path).ndim == 3


def test_pictures_of_nothing_and_of_unequal_images_are_refused():
    image = torch.rand(3, 8, 8)
    for draw in (
        lambda: draw_heat_map("x.png", {}, 0.9, "title"),
        lambda: draw_difference_map("x.png", {}, {}, "title"),
        lambda: draw_contact_sheet("x.png", {}, image, "title"),
        lambda: draw_severity_curves("x.png", [], "title"),
        lambda: draw_severity_curves("x.png", [("one", {}, 0.9)], "title"),
    ):
        with pytest.raises(InputError, match="at least one corruption"):
            draw()
    with pytest.raises(InputError, match="as large as the clean one"):
        draw_contact_sheet("x.png", {("fog", 1): image[:, :4]}, image, "title")


def test_the_curves_join_the_severities_that_were_measured(drawn):
    draw_severity_curves("x.png", [("one", table(["fog", "snow"], (1, 3)), 0.95)], "title")
    (line,) = drawn[0].axes[0].lines
    assert list(line.get_xdata()) == [0, 1, 3]
    assert list(line.get_ydata()) == pytest.approx([95, 86.5, 80.5])
