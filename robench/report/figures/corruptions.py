"""Pictures of accuracy under common corruptions: heat maps over corruption and severity, curves over severity, and one image under all.

Corruptions stand in the order of the benchmark, family by family, the validation ones after the others of their family; what is in no
family stands at the foot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from robench.core.corruption_names import C_BAR_NUMBERS, EXTRA, FAMILIES, FIFTEEN, THREE_D, CorruptionCell
from robench.core.errors import InputError
from robench.report.figures.saliency import SIGNED_COLOUR_MAP, drawable_image, styled_line
from robench.report.figures.style import INK, drawable_text, house_style, save_figure, wrapped_text

DAMAGE_COLOURS = LinearSegmentedColormap.from_list(
    "damage", ["#1c1030", "#5a1d45", "#a23a3c", "#d9783f", "#f0bd83", "#fdf6e9"]
)  # ever lighter
EMPTY = "#e4e4e4"  # a cell that was not measured
OTHER = "other"
FAMILY_GAP = 0.35  # between families and before means, in cells
NAMES_WIDTH = 1.7  # inches for the names of corruptions and families
DOTS_AN_INCH, LEAST_TILE, LARGEST_TILE = (
    150,
    96,
    128,
)  # dots an inch; at least this many dots is a small image enlarged to; above this one is made smaller
MINUS = "\u2212"
STAR_NOTE = "* for validation, not among the fifteen of the benchmark"
Accuracy = Mapping[CorruptionCell, float]
Grid = NDArray[np.float64]


@dataclass(frozen=True)
class ColourScale:
    """How a number becomes a colour and words.

    Attributes:
        colours: the colours from the least to the largest number.
        least: the number at the low end.
        most: the number at the high end.
        words: gives the words in the cell of a number.
        label: the words under the scale.
    """

    colours: Colormap
    least: float
    most: float
    words: Callable[[float], str]
    label: str

    def colour_of(self, value: float) -> str:
        """The colour of a number."""
        return to_hex(self.colours((value - self.least) / (self.most - self.least))) if math.isfinite(value) else EMPTY


@house_style()
def draw_heat_map(path: Path, accuracy: Accuracy, clean: float, title: str) -> Path:
    """Draws the accuracy of one model, a row a corruption and a column a severity, with means; returns the path.

    Colours go from dark (0 %) to light (100 %) in every picture, so that pictures of several models can be laid side by side. The lowest
    rows are means over the fifteen of the benchmark where all are there, and over all that are there.

    Args:
        path: the PNG file.
        accuracy: (corruption, severity) -> a share in [0, 1]; a cell that is missing or nan stays grey and counts in no mean.
        clean: the accuracy on the images as they are, marked at the scale.
        title: of the picture.
    """
    shades = ColourScale(DAMAGE_COLOURS, 0.0, 100.0, "{:.1f}".format, f"accuracy (%); clean {100 * clean:.1f}")
    return draw_grid_map(path, accuracy, shades, 100 * clean, title)


@house_style()
def draw_difference_map(path: Path, base: Accuracy, new: Accuracy, title: str, clean: tuple[float, float] = (math.nan, math.nan)) -> Path:
    """Draws the accuracy of one model less that of another, a row a corruption and a column a severity; returns the path.

    A cell is red where the new model is better and blue where it is worse.

    The colours are symmetric about 0, which is white, and end at the largest difference of any cell, at 5 points at least (our choice).

    Args:
        path: the PNG file.
        base: accuracies of the one model, (corruption, severity) -> a share in [0, 1]; a cell that one of the two lacks stays grey.
        new: accuracies of the other model.
        title: of the picture.
        clean: their clean accuracies (base, new), nan where unknown.
    """
    gain = {cell: new[cell] - base[cell] if cell in base and cell in new else math.nan for cell in {**base, **new}}
    largest = max((100 * abs(value) for value in gain.values() if math.isfinite(value)), default=0.0)
    span, shift = max(5.0, largest), 100 * (clean[1] - clean[0])
    label = "difference of accuracies (points)" + (f"; clean {signed_decimal(shift)}" if math.isfinite(shift) else "")
    return draw_grid_map(path, gain, ColourScale(SIGNED_COLOUR_MAP, -span, span, signed_decimal, label), shift, title)


def signed_decimal(value: float) -> str:
    """A number with its sign and one decimal; 0 has none."""
    return f"{value:+.1f}".replace("-", MINUS) if round(value, 1) else "0.0"


def draw_grid_map(path: Path, values: Accuracy, shades: ColourScale, mark: float, title: str) -> Path:
    """Draws shares in percent as coloured cells with their numbers, means to the right of and below them, and the scale with a mark."""
    names, severities = corruptions_and_severities(values)
    tops, feet = row_tops(names), mean_groups(names)
    table = 100 * np.array([[values.get((name, severity), math.nan) for severity in severities] for name in names])
    rows = [*tops, *(tops[-1] + 1 + FAMILY_GAP + place for place in range(len(feet)))]
    columns = [*map(float, range(len(severities))), len(severities) + FAMILY_GAP]
    axes = frameless_axes(0.62 * (columns[-1] + 1), 0.27 * (rows[-1] + 1), title)
    axes.set(xlim=(0, columns[-1] + 1), ylim=(rows[-1] + 1, 0))
    for top, line in zip(rows, table_with_means(table, [[name in some for name in names] for _, some in feet]), strict=True):
        for left, value in zip(columns, line, strict=True):
            draw_cell(axes, left, top, value, shades)
    axes.set_xticks([left + 0.5 for left in columns], [*column_labels(severities), "mean"])
    axes.set_yticks([top + 0.5 for top in rows], [*map(corruption_label, names), *(label for label, _ in feet)])
    draw_families(axes, names, tops)
    draw_colour_scale(axes, shades, mark, any(name in EXTRA for name in names))
    return save_figure(path, figure_of(axes))


def draw_cell(axes: Axes, left: float, top: float, value: float, shades: ColourScale) -> None:
    """Draws one cell; its number is black or white, whichever can be read."""
    colour = shades.colour_of(value)
    axes.add_patch(Rectangle((left + 0.02, top + 0.03), 0.96, 0.94, facecolor=colour, linewidth=0))
    if math.isfinite(value):
        axes.text(left + 0.5, top + 0.53, shades.words(value), ha="center", va="center", fontsize=7.5, color=readable_colour(colour))


def readable_colour(colour: str) -> str:
    """Black or white, whichever has the larger contrast with a colour (WCAG 2: both are equal at a relative luminance of 0.179)."""
    return "black" if luminance(colour) > 0.179 else "white"


def luminance(colour: str) -> float:
    """The relative luminance of a colour in [0, 1] (WCAG 2)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def mean_groups(names: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """The means under a table, each with the corruptions that count in it: of the fifteen where all are there, and of all that are."""
    every = (f"mean of {len(names)}", names)
    return [("mean of 15", FIFTEEN), *([every] if len(names) > len(FIFTEEN) else [])] if set(FIFTEEN) <= set(names) else [every]


def table_with_means(table: Grid, members: Sequence[Sequence[bool]]) -> Grid:
    """A table with the means of its rows as one more column, and for each choice of rows the means of the columns as one more row.

    What is nan counts in no mean.
    """
    wide = np.column_stack([table, [known_mean(row) for row in table]])
    return np.vstack([wide, *([known_mean(column[np.array(some)]) for column in wide.T] for some in members)])


def known_mean(values: Grid) -> float:
    """The mean of what is not nan."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else math.nan


def corruptions_and_severities(cells: Iterable[CorruptionCell]) -> tuple[list[str], list[int]]:
    """The corruptions from top to bottom and the severities from left to right; InputError where there are none."""
    names, severities = {name: None for name, _ in cells}, sorted({severity for _, severity in cells})
    if not names:
        raise InputError("a picture of corruptions needs at least one corruption at one severity")
    order = list(FAMILY_BY_NAME)
    return sorted(names, key=lambda name: order.index(name) if name in FAMILY_BY_NAME else len(order)), severities


def row_tops(names: Sequence[str], gap: float = FAMILY_GAP) -> list[float]:
    """How far down each corruption begins, in cells: a gap stands before each family but the first."""
    breaks = np.cumsum([0, *(family(a) != family(b) for a, b in pairwise(names))])
    return [place + gap * float(count) for place, count in enumerate(breaks)]


def family(name: str) -> str:
    """The family of a corruption."""
    return FAMILY_BY_NAME.get(name, OTHER)


def corruption_label(name: str) -> str:
    """The name of a corruption as it is drawn, with a star for those of the validation set."""
    return drawable_text(name.replace("_", " "), 20) + ("*" if name in EXTRA else "")


def column_labels(severities: Sequence[int]) -> list[str]:
    """The names of the columns."""
    return [f"severity {severities[0]}", *map(str, severities[1:])]


def frameless_axes(wide: float, high: float, title: str) -> Axes:
    """Axes of a size in inches without a frame, in a figure with room for names at the left, under a title as wide as both."""
    figure = Figure(figsize=(NAMES_WIDTH + wide, high))
    axes = figure.add_axes((NAMES_WIDTH / (NAMES_WIDTH + wide), 0, wide / (NAMES_WIDTH + wide), 1))
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_visible(False)
    figure.text(
        0, 1 + 0.34 / high, wrapped_text(drawable_text(title, 300), int(13 * (NAMES_WIDTH + wide))), ha="left", va="bottom", fontsize=10
    )
    return axes


def figure_of(axes: Axes) -> Figure:
    """The figure to which axes belong."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # made by `frameless_axes`
    return figure


def draw_families(axes: Axes, names: Sequence[str], tops: Sequence[float]) -> None:
    """Names the families at the left, each along a line as long as its rows."""
    inch = 1 / (axes.get_position().width * figure_of(axes).get_figwidth())
    across = axes.get_yaxis_transform()
    for kind, several in groupby(zip(names, tops, strict=True), lambda pair: family(pair[0])):
        group = [top for _, top in several]
        ends = group[0] + 0.04, group[-1] + 0.96
        axes.plot([-1.3 * inch, -1.3 * inch], ends, transform=across, color=INK, linewidth=1.6, clip_on=False, solid_capstyle="butt")
        upright = 90 if len(group) > 1 else 0
        axes.text(-1.36 * inch, sum(ends) / 2, kind, transform=across, ha="right", va="center", rotation=upright, fontsize=8, color=INK)


def draw_colour_scale(axes: Axes, shades: ColourScale, mark: float, starred: bool) -> None:
    """Draws the scale of the colours under the axes, with a mark at one value, and what the stars mean."""
    figure, box = figure_of(axes), axes.get_position()
    inch = 1 / figure.get_figheight()
    strip = figure.add_axes((box.x0, box.y0 - 0.36 * inch, box.width, 0.11 * inch))
    strip.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=shades.colours, extent=(shades.least, shades.most, 0, 1))
    strip.set_xlabel(shades.label + (f"\n{STAR_NOTE}" if starred else ""), fontsize=8)
    strip.tick_params(axis="x", labelsize=7, length=2)
    strip.set_yticks([])
    strip.spines[:].set_visible(False)
    if math.isfinite(mark):
        strip.plot([min(max(mark, shades.least), shades.most)], [1.6], marker="v", color=INK, markersize=5, clip_on=False)
    strip.set(xlim=(shades.least, shades.most), ylim=(0, 1))


@house_style()
def draw_contact_sheet(path: Path, tiles: Mapping[CorruptionCell, Tensor], clean: Tensor, title: str) -> Path:
    """Draws one image under everything, a row a corruption and a column a severity, after the image as it is; returns the path.

    A dot of the picture is a pixel, or a part of one; only of images above 128 pixels a side several pixels are averaged to a dot, which
    makes noise look weaker than it is, so the picture says so.

    Args:
        path: the PNG file.
        tiles: (corruption, severity) -> the corrupted image, (C, H, W) in [0, 1].
        clean: the image as it is, of the same shape.
        title: of the picture.
    """
    names, severities = corruptions_and_severities(tiles)
    if any(tile.shape != clean.shape for tile in tiles.values()):
        raise InputError("the images of a contact sheet must all be as large as the clean one")
    tops, shrunk = row_tops(names, 0.15), -(-max(clean.shape[1:]) // LARGEST_TILE)
    sheet = mosaic([[clean, *(tiles.get((name, severity)) for severity in severities)] for name in names], tops, shrunk)
    axes = frameless_axes(sheet.shape[1] / DOTS_AN_INCH, sheet.shape[0] / DOTS_AN_INCH, title)
    axes.imshow(sheet, extent=(0, len(severities) + 1, tops[-1] + 1, 0), aspect="auto", interpolation="nearest")
    axes.set_xticks([column + 0.5 for column in range(len(severities) + 1)], ["clean", *column_labels(severities)])
    axes.set_yticks([top + 0.5 for top in tops], [corruption_label(name) for name in names])
    notes = [f"{shrunk} x {shrunk} pixels averaged: noise looks weaker than it is"] * (shrunk > 1)
    notes += [STAR_NOTE] * any(name in EXTRA for name in names)
    axes.set_xlabel("\n".join(notes), fontsize=8)
    axes.xaxis.set_label_position("bottom")
    draw_families(axes, names, tops)
    return save_figure(path, figure_of(axes))


def mosaic(lines: Sequence[Sequence[Tensor | None]], tops: Sequence[float], shrunk: int = 1) -> NDArray[np.uint8]:
    """Lines of images as one picture, (height, width, 3), line by line at the heights `tops` in tiles; white where there is none.

    Each image (C, H, W) is enlarged to at least SIDE dots, or `shrunk` x `shrunk` of its pixels become one.
    """
    tiles = [[None if image is None else image_dots(image, shrunk) for image in line] for line in lines]
    high, wide, _ = next(tile.shape for tile in tiles[0] if tile is not None)
    gap = max(2, high // 24)
    sheet = np.full((round((tops[-1] + 1) * (high + gap)), len(tiles[0]) * (wide + gap), 3), 255, dtype=np.uint8)
    for top, line in zip(tops, tiles, strict=True):
        for column, tile in enumerate(line):
            if tile is not None:
                y, x = round(top * (high + gap)) + gap // 2, column * (wide + gap) + gap // 2
                sheet[y : y + high, x : x + wide] = tile
    return sheet


def image_dots(image: Tensor, shrunk: int) -> NDArray[np.uint8]:
    """One image as (height, width, 3)."""
    tile = drawable_image(image).cpu()[None]
    if shrunk > 1:
        tile = avg_pool2d(tile, shrunk, ceil_mode=True)
    else:
        tile = interpolate(tile, scale_factor=float(-(-LEAST_TILE // max(tile.shape[2:]))), mode="nearest")
    return np.asarray((255 * tile[0].expand(3, -1, -1)).round().to(torch.uint8).permute(1, 2, 0).numpy())


@house_style()
def draw_severity_curves(path: Path, models: Sequence[tuple[str, Accuracy, float]], title: str) -> Path:
    """Draws the mean accuracy of each family over the severity, a panel a family and a line a model, from the clean accuracy at 0.

    A line joins the severities that were measured on some model. A family's mean goes over those of the fifteen that some model was
    measured on, and over others only where it has none of these. Returns the path.

    Args:
        path: the PNG file.
        models: for each model its name, its accuracies, (corruption, severity) -> a share in [0, 1], and its clean accuracy.
        title: of the picture.
    """
    names, severities = corruptions_and_severities([cell for _, accuracy, _ in models for cell in accuracy])
    panels = corruptions_by_family(names)
    figure = Figure(figsize=(max(4.4, 1.9 * len(panels) + 0.6), 3.0), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (kind, members) in zip(grid, panels.items(), strict=True):
        axes.grid(axis="y", color=EMPTY, linewidth=0.6)
        for place, (_, accuracy, clean) in enumerate(models):
            means = [known_mean(np.array([accuracy.get((name, s), math.nan) for name in members])) for s in severities]
            line = styled_line(place, "", marker="o")
            line.set(data=([0, *severities], [100 * share for share in (clean, *means)]), clip_on=False, zorder=3)
            axes.add_line(line)
        count = f"{len(members)} corruptions" if len(members) > 1 else corruption_label(members[0])
        axes.set(xlim=(-0.15, 5.15), ylim=(0, 100), xticks=range(6), xlabel=f"severity\n({count})")
        axes.set_title(kind, fontsize=9)
    grid[0].set_ylabel("mean accuracy (%)")
    lines = [styled_line(place, drawable_text(name), marker="o") for place, (name, *_) in enumerate(models)]
    columns = max(1, min(len(lines), int(16 * figure.get_figwidth()) // max(8 + len(str(line.get_label())) for line in lines)))
    figure.legend(handles=lines, loc="outside lower center", ncols=columns)
    figure.suptitle(wrapped_text(drawable_text(title, 300), int(14 * figure.get_figwidth())), fontsize=10)
    return save_figure(path, figure)


def corruptions_by_family(names: Sequence[str]) -> dict[str, list[str]]:
    """The families and their corruptions, of each the benchmark's own ones, or the others where it has none of these."""
    groups = {kind: list(several) for kind, several in groupby(names, family)}
    return {kind: [name for name in several if name in FIFTEEN] or several for kind, several in groups.items()}


FAMILY_BY_NAME = {
    **{name: kind for kind, names in FAMILIES.items() for name in (*names, *(extra for extra in EXTRA if EXTRA[extra] == kind))},
    **{name: "C-bar" for numbers in C_BAR_NUMBERS.values() for name in numbers},
    **dict.fromkeys(THREE_D, "3DCC"),
}
