"""Pictures of saliency maps and of what probes do: Lorenz curves, histograms, galleries, error curves, bars and points.

Names are drawn as they are, shortened where they are long: a dollar sign starts no formula. From model to model both the colour and the
line style change, so that curves can be told apart without colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray
from torch import Tensor

from robench.core.statistics import sorted_finite_values
from robench.report.figures.style import (
    INK,
    WARM,
    caption_text,
    draw_image,
    drawable_text,
    house_style,
    save_figure,
    save_titled_figure,
    wrapped_text,
)

MODEL_COLOURS = (INK, WARM, "#3f9b78", "#d8a21d", "#7f5aa6", "#58a9cf", "#5d5d5d", "#d27aa5")
STYLES: tuple[Any, ...] = ("-", "--", ":", "-.")
QUIET, PAPER = "#8a8a8a", "#fbfaf8"  # of what is drawn to compare with; of a map where it is 0
SIGNED_COLOUR_MAP = LinearSegmentedColormap.from_list("signed", ["#10294f", INK, "#8fa6c7", PAPER, "#e0a08c", WARM, "#6e2410"])
TOGETHER = 3  # histograms in one picture, one over the other
PERCENTILE = 99.0  # of |map|, image by image: where the colours end, because single subpixels would leave all others pale
MEAN_GINI = "mean Gini"
FloatValues = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Tile:
    """One column of a gallery: an image with its map, and its adversarial image with that one's map where there is one.

    Attributes:
        caption: for instance the label.
        x: the image (C, H, W) in [0, 1], on the CPU.
        map: its map (c, H, W), signed, on the CPU.
        x_adv: the adversarial image (C, H, W), or None.
        map_adv: its map (c, H, W), or None.
        caption_adv: for instance the label at x_adv.
        fallen: whether x_adv fools the model: then its caption is red.
    """

    caption: str
    x: Tensor
    map: Tensor
    x_adv: Tensor | None = None
    map_adv: Tensor | None = None
    caption_adv: str = ""
    fallen: bool = True


@dataclass(frozen=True)
class ErrorCurve:
    """The error rates of one model under one probe.

    Attributes:
        model: the model's name.
        probe: the probe's name.
        points: (t, mean, low, high) with shares in [0, 1] and t above 0.
    """

    model: str
    probe: str
    points: Sequence[tuple[float, float, float, float]]


@house_style()
def draw_lorenz_curves(path: Path, curves: Sequence[tuple[str, FloatValues, float]], title: str) -> Path:
    """Draws mean Lorenz curves of several models, with the diagonal on which all entries of a map are equal; returns the path.

    Args:
        path: the PNG file.
        curves: for each model its name, heights in [0, 1] at evenly spaced shares from 0 to 1, and the mean Gini, which stands in the
            legend.
        title: of the picture.
    """
    figure = Figure(figsize=(4.8, 4.8))
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=QUIET, linewidth=0.8)
    lines: list[Artist] = []
    for place, (name, heights, gini) in enumerate(curves):
        line = styled_line(place, f"{gini:.3f}  {drawable_text(name)}")
        line.set_data(np.linspace(0, 100, len(heights)), 100 * np.asarray(heights, dtype=np.float64))
        lines.append(axes.add_line(line))
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xlabel="entries of the map, smallest first (%)", ylabel="share of their sum (%)")
    longest = max((len(drawable_text(name)) for name, *_ in curves), default=0)
    if longest + 3 * len(curves) > 40:  # more would reach over the diagonal
        put_legend_below(axes, lines, MEAN_GINI)
    elif lines:
        axes.legend(handles=lines, loc="upper left", title=MEAN_GINI, alignment="left", handlelength=2.6)
    return save_titled_figure(path, figure, axes, title)


@house_style()
def draw_histograms(path: Path, groups: Sequence[tuple[str, FloatValues]], title: str, label: str = "Gini") -> Path:
    """Draws step histograms of a score over the images of each group, in common bins, each mean as an upright line; returns the path.

    More than three groups stand one below the other, because outlines over outlines cannot be followed. What is not finite is left out,
    and counted in the legend. Values further from the middle half of every group than five times its width
    are drawn in the bins at the ends, so that single images do not squeeze all others together (our choice).
    """
    samples = [sorted_finite_values(values) for _, values in groups]
    edges = common_bins([sample for sample in samples if len(sample)])
    labels = [f"{drawable_text(name)}  ({mean_words(values, sample)})" for (name, values), sample in zip(groups, samples, strict=True)]
    if len(groups) > TOGETHER:
        return draw_stacked_histograms(path, samples, labels, edges, title, label)
    figure = Figure(figsize=(5.4, 3.4))
    axes = figure.subplots()
    for place, sample in enumerate(samples):
        draw_histogram_steps(axes, sample, edges, place)
    axes.set(ylim=(0, None), xlabel=drawable_text(label), ylabel="images in the bin (%)")
    axes.margins(x=0.02)
    put_legend_below(axes, [styled_line(place, name) for place, name in enumerate(labels)])
    return save_titled_figure(path, figure, axes, title)


def draw_stacked_histograms(
    path: Path, samples: Sequence[NDArray[np.float64]], labels: Sequence[str], edges: NDArray[np.float64], title: str, label: str
) -> Path:
    """Draws step histograms one below the other, with common axes."""
    figure = Figure(figsize=(5.4, 0.9 + 1.0 * len(samples)), layout="constrained")
    grid = figure.subplots(len(samples), 1, sharex=True, sharey=True)
    for place, (axes, sample, name) in enumerate(zip(grid, samples, labels, strict=True)):
        draw_histogram_steps(axes, sample, edges, place)
        axes.set_title(name, fontsize=8, loc="left", color=colour_and_style(place)[0])
        axes.margins(x=0.02)
    grid[0].set_ylim(0, None)
    grid[-1].set_xlabel(drawable_text(label))
    figure.supylabel("images in the bin (%)", fontsize=9)
    figure.suptitle(wrapped_text(drawable_text(title, 300), int(13 * figure.get_figwidth())), fontsize=10, x=0.01, ha="left")
    return save_figure(path, figure)


def mean_words(values: FloatValues, sample: NDArray[np.float64]) -> str:
    """The mean of what is finite, and how many values are not."""
    missing = f", {len(values) - len(sample)} undefined" if len(sample) < len(values) else ""
    return f"mean {sample.mean():.3g}{missing}" if len(sample) else "no value"


def draw_histogram_steps(axes: Axes, values: NDArray[np.float64], edges: NDArray[np.float64], place: int) -> None:
    """Draws one step histogram in percent with an upright line at the mean; nothing without values."""
    if not len(values):
        return
    colour, style = colour_and_style(place)
    axes.axvline(min(max(float(values.mean()), edges[0]), edges[-1]), color=colour, linewidth=0.9, alpha=0.8)
    values = values.clip(edges[0], edges[-1])
    heights = 100 * np.histogram(values, edges)[0] / len(values)
    axes.stairs(heights, edges, color=colour, fill=True, alpha=0.10)
    axes.stairs(heights, edges, color=colour, linestyle=style, linewidth=1.4)


def common_bins(groups: Sequence[NDArray[np.float64]], most: int = 60) -> NDArray[np.float64]:
    """The edges of 10 to `most` bins for groups of values, as wide as Freedman & Diaconis 1981 ask for the narrowest group.

    The bins end at five times the width of a group's middle half beyond it, where no group reaches further.
    """
    if not groups:
        return np.linspace(0, 1, 11)
    least, first, third, largest = np.array([np.quantile(values, [0, 0.25, 0.75, 1]) for values in groups]).T
    reach = np.where(third > first, 5 * (third - first), np.inf)
    low, high = float(np.maximum(least, first - reach).min()), float(np.minimum(largest, third + reach).max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return np.linspace(low - 0.5, high + 0.5, 12)
    widths = [2 * (q3 - q1) / len(values) ** (1 / 3) for q1, q3, values in zip(first, third, groups, strict=True) if q3 > q1]
    count = (high - low) / min(widths, default=math.inf)
    return np.linspace(low, high, round(min(max(count, 10), most)) + 1)


@house_style()
def draw_saliency_gallery(path: Path, tiles: Sequence[Tile], title: str, changed: str = "adversarial") -> Path:
    """Draws image, map and the map over the grey image, one image a column, and below the changed image and its map; returns the path.

    The channels of a map are added up. Its colours are symmetric about 0, which is white, and end at the 99th percentile of its own sizes:
    red where it is positive, blue where it is negative. So the strength of two maps cannot be compared by eye. nan is grey.

    Args:
        path: the PNG file.
        tiles: the columns.
        title: of the picture.
        changed: what the row of changed images is called.
    """
    has_changes = any(tile.x_adv is not None or tile.map_adv is not None for tile in tiles)
    names = ("image", "map", "map on image", *((drawable_text(changed, 18), "its map") if has_changes else ()))
    wide = max(3.6, 1.3 * len(tiles) + 0.5)
    heading = wrapped_text(drawable_text(title, 300), int(14 * wide))
    high = 1.45 * len(names) + (1.1 if has_changes else 0.85) + 0.17 * heading.count("\n")
    figure = Figure(figsize=(wide, high), layout="constrained")
    grid = figure.subplots(len(names), max(1, len(tiles)), squeeze=False)
    for column, tile in enumerate(tiles):
        grid[0][column].set_title(caption_text(tile.caption), fontsize=8)
        images = (drawable_image(tile.x), coloured_map(tile.map), map_over_image(tile.x, tile.map))
        others = (
            tile.x_adv if tile.x_adv is None else drawable_image(tile.x_adv),
            tile.map_adv if tile.map_adv is None else coloured_map(tile.map_adv),
        )
        for line, image in enumerate((images + others)[: len(names)]):
            draw_image_if_any(grid[line][column], image)
        if has_changes:
            grid[3][column].set_title(caption_text(tile.caption_adv), fontsize=8, color=WARM if tile.fallen else "#555555")
    for line, name in enumerate(names):
        grid[line][0].set_ylabel(name, fontsize=9)
    note = f"channels added up; red is positive, blue negative, white 0; full colour at the {PERCENTILE:g}th percentile of each |map|"
    figure.supxlabel(wrapped_text(note, int(18 * wide)), fontsize=7, color="#555555")
    figure.suptitle(heading, fontsize=10)
    return save_figure(path, figure)


def draw_image_if_any(axes: Axes, image: Tensor | None) -> None:
    """Draws an image (C, H, W), or leaves the place empty."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if image is not None:
        draw_image(axes, image)


def drawable_image(image: Tensor) -> Tensor:
    """An image (C, H, W) as one that can be drawn, (1, H, W) or (3, H, W): the mean of its channels where it has another number of them."""
    return (image if len(image) in (1, 3) else image.mean(0, keepdim=True)).detach().float().clamp(0, 1)


def scaled_map(signed: Tensor) -> Tensor:
    """A map (c, H, W) with its channels added up, (H, W) in [-1, 1]: 1 is the 99th percentile of its sizes, and 0 stays 0."""
    total = signed.detach().double().sum(0)
    sizes = total.abs()[total.isfinite()].numpy()
    span = float(np.percentile(sizes, PERCENTILE) or sizes.max()) if sizes.size else 0.0  # where most are 0, the largest
    return (total / (span or 1.0)).clamp(-1, 1)


def coloured_map(signed: Tensor) -> Tensor:
    """A map (c, H, W) in colours, (3, H, W); nan is grey."""
    colours = torch.from_numpy(SIGNED_COLOUR_MAP.with_extremes(bad="#b9b9b9")((scaled_map(signed).numpy() + 1) / 2))
    return colours[..., :3].permute(2, 0, 1).float()


def map_over_image(image: Tensor, signed: Tensor) -> Tensor:
    """The grey image, lightened, (3, H, W), with red where the map is large and positive, and blue where it is large and negative."""
    grey = 0.35 + 0.65 * drawable_image(image).mean(0, keepdim=True)
    values = scaled_map(signed).nan_to_num(0.0).float().unsqueeze(0)
    colour = torch.where(values > 0, rgb(WARM), rgb(INK))
    return grey * (1 - values.abs()) + colour * values.abs()


def rgb(colour: str) -> Tensor:
    """A colour such as #b0431f as shares of red, green and blue, (3, 1, 1)."""
    return torch.tensor([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]).view(3, 1, 1)


@house_style()
def draw_noise_curves(path: Path, curves: Sequence[ErrorCurve], title: str, label: str = "share of the subpixels, t") -> Path:
    """Draws error rates over t, one panel a probe, one curve a model with its band, on one logarithmic axis for all; returns the path."""
    probes, models = list(dict.fromkeys(curve.probe for curve in curves)), list(dict.fromkeys(curve.model for curve in curves))
    columns = max(1, len(probes))
    figure = Figure(figsize=(max(4.4, 2.7 * columns + 0.4), 3.5), layout="constrained")
    grid = figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0]
    shares = sorted({point[0] for curve in curves for point in curve.points if point[0] > 0})
    for axes, probe in zip(grid, probes, strict=False):
        for curve in curves:
            if curve.probe == probe:
                draw_error_curve(axes, curve, models.index(curve.model), 0.16 if len(models) < 4 else 0.05)
        set_log_axis(axes, shares)
        axes.set_title(drawable_text(probe, 30), fontsize=9)
        axes.set(xlabel=drawable_text(label), ylim=(0, 100))
    grid[0].set_ylabel("error rate (%)")
    lines = [styled_line(place, drawable_text(model), marker="o") for place, model in enumerate(models)]
    if lines:
        figure.legend(
            handles=lines, loc="outside lower center", ncols=max(1, min(columns, 110 // max(1, *(len(str(x.get_label())) for x in lines))))
        )
    figure.suptitle(wrapped_text(drawable_text(title, 300), 38 * columns + 14), fontsize=10)
    return save_figure(path, figure)


def draw_error_curve(axes: Axes, curve: ErrorCurve, place: int, alpha: float) -> None:
    """Draws a curve's means as a line and its lows and highs as a band, in percent; t = 0 has no place on a logarithmic axis."""
    t, mean, low, high = np.array(sorted(point for point in curve.points if point[0] > 0), dtype=np.float64).reshape(-1, 4).T
    line = styled_line(place, "", marker="o")
    line.set(data=(t, 100 * mean), clip_on=False, zorder=3)
    axes.fill_between(t, 100 * low, 100 * high, color=MODEL_COLOURS[place % len(MODEL_COLOURS)], alpha=alpha, linewidth=0)
    axes.add_line(line)


def set_log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Makes the x axis logarithmic; its ticks are values that were measured, the ends among them, a third of the axis apart or more."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    if values:
        third = math.log(values[-1] / values[0]) / 3.5
        ticks = [values[0]]
        for value in values[1:]:
            if math.log(value / ticks[-1]) >= third and (value == values[-1] or math.log(values[-1] / value) >= third):
                ticks.append(value)
        axes.set_xticks([*ticks, *([values[-1]] if ticks[-1] < values[-1] else [])])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))


@house_style()
def draw_bars(
    path: Path, groups: Sequence[tuple[str, Sequence[tuple[str, float, float, float]]]], title: str, label: str = "error rate (%)"
) -> Path:
    """Draws shares as bars in percent; returns the path.

    Args:
        path: the PNG file.
        groups: the name under a group of bars, such as a model, and its bars as (name, value, low, high); equal names have equal colours.
        title: of the picture.
        label: of the upright axis.
    """
    names = list(dict.fromkeys(bar[0] for _, bars in groups for bar in bars))
    width = 0.84 / max(1, len(names))
    figure = Figure(figsize=(max(4.2, 1.2 + max(1.6, 0.3 * len(names) + 0.3) * len(groups)), 3.4))
    axes = figure.subplots()
    handles: list[Artist] = []
    for place, name in enumerate(names):
        bars = [(spot, *bar[1:]) for spot, (_, several) in enumerate(groups) for bar in several if bar[0] == name]
        spot, value, low, high = np.array(bars, dtype=np.float64).T * [[1], [100], [100], [100]]
        at, spans = spot + (place - (len(names) - 1) / 2) * width, np.array([value - low, high - value]).clip(0)
        axes.bar(at, value, 0.9 * width, yerr=spans, color=MODEL_COLOURS[place % len(MODEL_COLOURS)], ecolor="#333333", capsize=2)
        for zero in at[value == 0]:
            axes.plot(
                [zero - 0.45 * width, zero + 0.45 * width],
                [0, 0],
                color=MODEL_COLOURS[place % len(MODEL_COLOURS)],
                linewidth=3,
                clip_on=False,
            )
        handles.append(Patch(color=MODEL_COLOURS[place % len(MODEL_COLOURS)], label=drawable_text(name)))
    axes.set(ylim=(0, 100), ylabel=label)
    axes.set_xticks(range(len(groups)), [wrapped_text(drawable_text(name), 18) for name, _ in groups])
    put_legend_below(axes, handles)
    return save_titled_figure(path, figure, axes, title)


@house_style()
def draw_scatter(
    path: Path, x: FloatValues, y: FloatValues, fallen: Sequence[bool] | NDArray[np.bool_], title: str, labels: tuple[str, str]
) -> Path:
    """Draws a point an image, those that fell in another colour and shape than those that stand, and both medians; returns the path.

    Args:
        path: the PNG file.
        x: where the images stand across; an image with a number that is not finite is left out.
        y: where they stand upwards, of the same length.
        fallen: which of them fell, of the same length.
        title: of the picture.
        labels: what x and y are, such as ("margin", "Gini").
    """
    across, up, fell = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), np.asarray(fallen, dtype=bool)
    figure = Figure(figsize=(4.8, 3.8))
    axes = figure.subplots()
    finite = np.isfinite(across) & np.isfinite(up)
    handles: list[Artist] = []
    for name, among, colour, marker in (("stands", finite & ~fell, INK, "o"), ("fell", finite & fell, WARM, "^")):
        count = int(among.sum())
        alpha = min(0.75, max(0.12, 25 / math.sqrt(count + 1)))
        axes.scatter(across[among], up[among], s=11, c=colour, marker=marker, alpha=alpha, linewidths=0)
        if count:
            centre = np.median(across[among]), np.median(up[among])
            axes.scatter(*centre, s=90, c=colour, marker=marker, edgecolors="white", linewidths=1.4, zorder=3)
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5, label=f"{name}: {count}, large: median"))
    axes.set(xlabel=drawable_text(labels[0]), ylabel=drawable_text(labels[1]))
    put_legend_below(axes, handles)
    return save_titled_figure(path, figure, axes, title)


def colour_and_style(place: int) -> tuple[str, Any]:
    """The colour and the line style of the model at a place in the list: 32 models before any two are drawn alike."""
    return MODEL_COLOURS[place % len(MODEL_COLOURS)], STYLES[(place + place // len(MODEL_COLOURS)) % len(STYLES)]


def styled_line(place: int, label: str, marker: str = "") -> Line2D:
    """A line as a picture and its legend draw it."""
    colour, style = colour_and_style(place)
    return Line2D([], [], color=colour, linestyle=style, linewidth=1.7, marker=marker, markersize=3.5, label=label)


def put_legend_below(axes: Axes, handles: Sequence[Artist], title: str | None = None) -> None:
    """Puts the legend under the axes with their labels, where it hides nothing; in two columns where its entries are short."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    ncols = 2 if len(handles) > 1 and longest <= 30 else 1
    figure = axes.get_figure(root=True)
    if handles and figure is not None:
        figure.draw_without_rendering()  # the labels have places from now on
        lowest = min(box.y0 for box in [label.get_window_extent() for label in (axes.xaxis.label, *axes.get_xticklabels())] if box.height)
        place = (-0.02, axes.transAxes.inverted().transform((0, lowest))[1] - 0.02)
        axes.legend(
            handles=list(handles), loc="upper left", bbox_to_anchor=place, ncols=ncols, handlelength=2.6, title=title, alignment="left"
        )
