"""What a training leaves behind beside its checkpoint: the log of its epochs, their curves, and the front of several trainings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, MaxNLocator

from robench.core.errors import InputError
from robench.core.files import write_whole
from robench.core.fronts import Pair, front_corners
from robench.core.fronts import front_membership as undominated
from robench.report.figures.saliency import colour_and_style, put_legend_below, styled_line
from robench.report.figures.style import drawable_text, house_style, save_figure, save_titled_figure, wrapped_text
from robench.results.files import csv_bytes

History = Sequence[Mapping[str, Any]]
Box = tuple[float, ...]  # left, low, right, high
FIRST = ("epoch", "seconds", "lr")
ATTACKED_COUNT_COLUMN = "held_out_attacked_n"
# the accuracies of an epoch: how they are called, and where the epoch says on how many images they were measured
ACCURACY_LABELS = {
    "held_out_clean": ("clean", "held_out_n"), "held_out_attacked_clean": ("clean", ATTACKED_COUNT_COLUMN),
    "held_out_fgsm": ("FGSM", ATTACKED_COUNT_COLUMN), "held_out_robust": ("PGD-10", ATTACKED_COUNT_COLUMN),
}  # fmt: skip
NOT_DRAWN = ("held_out_n", ATTACKED_COUNT_COLUMN)
HELD_OUT_PREFIX = "held_out_"
DECADE = 10.0  # a ratio of the largest to the smallest value from which an axis is logarithmic (our choice)
MOST_DOTS = 40  # points of a line up to which each has a dot
MARKERS = "os^Dv*PX"
EDGE = "#b5b5b5"
LABEL_SIZE, LABEL_HEIGHT, LABEL_DISTANCE = 6.5, 8.0, 5.0  # points: letters of a label, height of a label, its distance from the dot


def write_epoch_log(path: Path, history: History) -> Path:
    """Writes the epochs of a training as CSV, one a line, whole or not at all; returns the path.

    The columns are epoch (from 1), seconds, lr, those on held-out images, other numbers, then one for each term, and last what is said in
    words, such as an alarm; a term with the name of another column is called terms/NAME. What an epoch lacks is empty.

    Args:
        path: the CSV file.
        history: one dict an epoch: epoch from 0, seconds, lr, numbers on the held-out images, and in `terms` the mean terms of the loss by
            name.
    """
    scalars, names = scalar_keys(history), term_keys(history)
    words = list(dict.fromkeys(key for epoch in history for key, value in epoch.items() if isinstance(value, str)))
    lines = [
        {key: epoch.get(key) for key in scalars}
        | {"epoch": int(epoch["epoch"]) + 1}
        | {(f"terms/{name}" if name in (*scalars, *words) else name): epoch.get("terms", {}).get(name) for name in names}
        | {key: epoch.get(key) for key in words}
        for epoch in history
    ]
    table = pd.DataFrame(lines, columns=list(lines[0]) if lines else list(FIRST))
    return write_whole({path: csv_bytes(table)})[0]


def scalar_keys(history: History) -> list[str]:
    """The keys of the numbers that some epoch has: epoch, seconds and lr, those on held-out images, others."""
    keys = dict.fromkeys(key for epoch in history for key, value in epoch.items() if is_number(value) or value is None)
    return [*FIRST, *sorted((key for key in keys if key not in FIRST), key=lambda key: not key.startswith(HELD_OUT_PREFIX))]


def term_keys(history: History) -> list[str]:
    """The names of the terms of the loss that some epoch has, in the order in which they first appear."""
    return list(dict.fromkeys(name for epoch in history for name in epoch.get("terms", {})))


def is_number(value: object) -> bool:
    """Whether a value is a number that can be drawn or is nan."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Panel:
    """One part of the picture of a training: lines as (epoch from 1, value) by name; shares are drawn in percent from 0 to 100."""

    label: str
    lines: Mapping[str, Sequence[Pair]]
    shares: bool = False
    logarithmic: bool = False


@house_style()
def draw_training_curves(path: Path, history: History, title: str, chosen: int | None = None) -> Path:
    """Draws the epochs of a training, a panel for the loss, the held-out accuracies, the learning rate and each other number; the path.

    What is not finite is left out, and the line goes on from the epoch before to the next. The axis of the loss is logarithmic where no
    term is negative and they span a factor of ten or more; what is 0 then has no place on it.

    Args:
        path: the PNG file.
        history: one dict an epoch, at least one, with the keys that `write_epoch_log` lists.
        title: of the picture.
        chosen: the epoch, from 1, whose weights were kept: an upright line; None for no line.

    Raises:
        InputError: where there is no epoch.
    """
    if not history:
        raise InputError("the curves of a training need at least one epoch")
    panels = training_panels(history)
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    figure = Figure(figsize=(3.1 * columns + 0.3, 2.5 * -(-len(panels) // columns) + 0.5), layout="constrained")
    grid = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        draw_panel(axes, panel, len(history), chosen)
    for axes in grid[len(panels) :]:
        axes.remove()
    figure.suptitle(wrapped_text(drawable_text(title, 300), 40 * columns), fontsize=10)
    if chosen is not None:
        figure.supxlabel(f"upright line: epoch {chosen}, whose weights were kept", fontsize=7, color="#555555")
    return save_figure(path, figure)


def training_panels(history: History) -> list[Panel]:
    """The panels for which there is at least one finite number; the one of the loss is always there."""
    terms = {name: finite_points(history, lambda epoch, name=name: epoch.get("terms", {}).get(name)) for name in term_keys(history)}
    scalars = {key: finite_points(history, lambda epoch, key=key: epoch.get(key)) for key in scalar_keys(history)}
    accuracies: dict[str, list[Pair]] = {}
    for key in ACCURACY_LABELS:
        if scalars.get(key):  # where all held-out images are attacked, the clean accuracy of both has one label, and one line
            accuracies.setdefault(accuracy_label(key, history), scalars[key])
    others = [
        Panel(axis_label(key), {key: line}) for key, line in scalars.items() if line and key not in (*FIRST, *ACCURACY_LABELS, *NOT_DRAWN)
    ]
    loss = Panel("terms of the loss", terms, logarithmic=spans_decades(value for line in terms.values() for _, value in line))
    accuracy_panels = [Panel("held-out accuracy (%)", accuracies, shares=True)] if accuracies else []
    return [loss, *accuracy_panels, *([Panel("learning rate", {"lr": scalars["lr"]})] if scalars["lr"] else []), *others]


def accuracy_label(key: str, history: History) -> str:
    """What an accuracy is called in the legend: with the number of its images, where the last epoch says it."""
    name, where = ACCURACY_LABELS[key]
    n = history[-1].get(where)
    return f"{name}, n = {n}" if n else name


def finite_points(history: History, value_of: Any) -> list[Pair]:
    """The points (epoch from 1, value) of one quantity, without those that are not finite."""
    pairs = ((float(epoch["epoch"]) + 1, value_of(epoch)) for epoch in history)
    return [(at, float(value)) for at, value in pairs if is_number(value) and math.isfinite(value)]


def axis_label(key: str) -> str:
    """The key of a number as the label of an axis."""
    return key.removeprefix(HELD_OUT_PREFIX).replace("_", " ") + (", held-out images" if key.startswith(HELD_OUT_PREFIX) else "")


def spans_decades(values: Iterable[float]) -> bool:
    """Whether values are best seen on a logarithmic axis: none is negative, and the positive ones span a factor of ten or more."""
    numbers = list(values)
    positive = [value for value in numbers if value > 0]
    return bool(positive) and min(numbers) >= 0 and max(positive) >= DECADE * min(positive)


def draw_panel(axes: Axes, panel: Panel, epochs: int, chosen: int | None) -> None:
    """Draws one panel, with a legend under it where it has several lines."""
    for place, (name, points) in enumerate(panel.lines.items()):
        visible = [(at, value) for at, value in points if value > 0 or not panel.logarithmic]
        line = styled_line(place, drawable_text(name, 20), marker="o" if len(visible) <= MOST_DOTS else "")
        line.set(
            data=([at for at, _ in visible], [100 * value if panel.shares else value for _, value in visible]),
            clip_on=not panel.shares,
            zorder=3,
        )
        axes.add_line(line)
    if chosen is not None:
        axes.axvline(chosen, color=EDGE, linewidth=0.9, zorder=1)
    axes.autoscale_view()
    if panel.logarithmic:
        axes.set_yscale("log")
        label_decades(axes)
    if panel.shares:
        axes.set_ylim(0, 100)
    room = max(0.4, 0.02 * epochs)
    axes.set(xlim=(1 - room, epochs + room), xlabel="epoch")
    axes.set_title(wrapped_text(panel.label, 34), fontsize=9, loc="left")
    if epochs < 10:
        axes.set_xticks(range(1, epochs + 1))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    if len(panel.lines) > 1 or panel.shares:
        columns = 2 if len(panel.lines) > 2 else len(panel.lines)
        axes.legend(handlelength=2.4, fontsize=7.5, loc="upper left", bbox_to_anchor=(-0.08, -0.22), ncols=columns, columnspacing=1.0)


def label_decades(axes: Axes) -> None:
    """Labels each decade of an axis in plain numbers, and 2 and 5 of each where there are few."""
    low, high = axes.get_ylim()
    between = "25" if high / low < 300 else ""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in between else ""))
    axes.tick_params(axis="y", which="minor", labelsize=7)


@dataclass(frozen=True)
class FrontPoint:
    """One training in the picture of a front.

    Attributes:
        series: the name of its series.
        label: its label within the series.
        clean: its clean accuracy as shares (value, low, high).
        robust: its robust accuracy as shares (value, low, high).
    """

    series: str
    label: str
    clean: tuple[float, float, float]
    robust: tuple[float, float, float]

    @property
    def accuracies(self) -> Pair:
        """Clean and robust accuracy."""
        return self.clean[0], self.robust[0]


@house_style()
def draw_front(path: Path, points: Sequence[FrontPoint], title: str, robust: str = "robust") -> Path:
    """Draws the robust over the clean accuracy of several trainings with their 95 % intervals, and the front among them; returns the path.

    A series has one colour and one shape. Full dots are those that no other dominates, joined by the grey steps: for each clean accuracy
    the best robust accuracy at no less of it. Thin steps in a series' own colour are its own front. Where labels have no room left, those
    of dominated dots are left out.

    Args:
        path: the PNG file.
        points: one a training; one whose accuracy is not finite is left out.
        title: of the picture.
        robust: how the robust accuracy was measured.
    """
    finite = [point for point in points if all(map(math.isfinite, point.accuracies))]
    on_front = undominated([point.accuracies for point in finite])
    figure = Figure(figsize=(6.4, 4.8))
    axes = figure.subplots()
    draw_front_steps(axes, [point.accuracies for point in finite], to_edges=True, color=EDGE, linewidth=3.2)
    names = list(dict.fromkeys(point.series for point in points))
    handles: list[Artist] = []
    for place, name in enumerate(names):
        among = [(point, best) for point, best in zip(finite, on_front, strict=True) if point.series == name]
        handles.append(draw_series(axes, among, place, name, len(names) > 1))
    set_limits(axes, finite)
    draw_labels(axes, [point for point, _ in sorted(zip(finite, on_front, strict=True), key=lambda pair: not pair[1])], names)
    axes.set(xlabel="clean accuracy (%)", ylabel=f"{drawable_text(robust)} accuracy (%)")
    grey = Line2D([], [], color=EDGE, linewidth=3.2, label="front (hollow: dominated)")
    put_legend_below(axes, [*(handle for handle in handles if handle.get_label()), grey])
    return save_titled_figure(path, figure, axes, title)


def draw_series(axes: Axes, points: Sequence[tuple[FrontPoint, bool]], place: int, name: str, several: bool) -> Line2D:
    """Draws the dots of one series, hollow where dominated, with their intervals and its own front; returns its line for the legend."""
    (colour, style), marker = colour_and_style(place), MARKERS[place % len(MARKERS)]
    for point, best in points:
        (x, left, right), (y, low, high) = ([100 * share for share in triple] for triple in (point.clean, point.robust))
        spans = [[max(0.0, x - left)], [max(0.0, right - x)]], [[max(0.0, y - low)], [max(0.0, high - y)]]
        axes.errorbar([x], [y], xerr=spans[0], yerr=spans[1], fmt="none", ecolor=colour, elinewidth=0.7, alpha=0.45, zorder=2)
        axes.plot([x], [y], marker=marker, markersize=6, color=colour, markerfacecolor=colour if best else "white", linestyle="", zorder=4)
    if several:
        draw_front_steps(
            axes, [point.accuracies for point, _ in points], to_edges=False, color=colour, linestyle=style, linewidth=0.9, alpha=0.7
        )
    return Line2D(
        [], [], color=colour, linestyle=style if several else "", linewidth=0.9, marker=marker, markersize=6, label=drawable_text(name)
    )


def draw_front_steps(axes: Axes, pairs: Sequence[Pair], *, to_edges: bool, **look: Any) -> None:
    """Draws the front of some pairs of shares as steps from corner to corner, and on to the left edge and down where asked."""
    corners = [(100 * clean, 100 * robust) for clean, robust in front_corners(pairs)]
    if corners and to_edges:
        corners = [(-1.0, corners[0][1]), *corners, (corners[-1][0], -1.0)]
    if corners:
        axes.plot(*zip(*corners, strict=True), drawstyle="steps-pre", zorder=1, solid_joinstyle="miter", **look)


def set_limits(axes: Axes, points: Sequence[FrontPoint]) -> None:
    """Sets the limits of the axes so that all intervals are inside, with some room for labels; 0 to 100 without points."""
    for which, triples in (("xlim", [point.clean for point in points]), ("ylim", [point.robust for point in points])):
        percents = [100 * share for triple in triples for share in triple if math.isfinite(share)] or [0.0, 100.0]
        room = max(1.0, 0.06 * (max(percents) - min(percents)))
        axes.set(**{which: (max(-1.0, min(percents) - room), min(101.0, max(percents) + room))})


def draw_labels(axes: Axes, points: Sequence[FrontPoint], names: Sequence[str]) -> None:
    """Writes the labels beside the dots, the first ones first, each at the first of eight places that is free; else it is left out."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # made by `draw_front`
    scale = 72 / figure.dpi
    at = [(100 * point.clean[0], 100 * point.robust[0]) for point in points]
    dots = [tuple(scale * axes.transData.transform(place)) for place in at]
    frame: Box = tuple(scale * float(edge) for edge in axes.bbox.extents)
    obstacles: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots]
    for point, place, dot in zip(points, at, dots, strict=True):
        text = drawable_text(point.label, 30)
        boxes = ((shift, label_box(dot, shift)) for shift in label_shifts(label_width(text)))
        free = (shift for shift, box in boxes if lies_within(box, frame) and not any(overlaps(box, other) for other in obstacles))
        shift = next(free, None) if text else None
        if shift is not None:
            colour, halo = colour_and_style(names.index(point.series))[0], [withStroke(linewidth=1.6, foreground="white")]
            how: dict[str, Any] = {
                "textcoords": "offset points",
                "fontsize": LABEL_SIZE,
                "va": "bottom",
                "color": colour,
                "path_effects": halo,
            }
            axes.annotate(text, place, shift[:2], zorder=5, **how)
            obstacles.append(label_box(dot, shift))


def label_width(text: str) -> float:
    """The width of a label in points."""
    return float(TextPath((0, 0), text, size=LABEL_SIZE).get_extents().width) + 2 if text else 0.0


def label_shifts(wide: float) -> list[tuple[float, float, float]]:
    """Where a label may stand, in points: how far its lower left corner is right of and above the dot, and its width.

    At the corners of the dot first, and beside, above and below it last, where the intervals run.
    """
    across = {1: LABEL_DISTANCE, -1: -LABEL_DISTANCE - wide, 0: -wide / 2}
    up = {1: LABEL_DISTANCE - 2, -1: -LABEL_DISTANCE + 2 - LABEL_HEIGHT, 0: -LABEL_HEIGHT / 2}
    order = sorted(((a, b) for a, b in product(across, up) if a or b), key=lambda place: not (place[0] and place[1]))
    return [(across[a], up[b], wide) for a, b in order]


def label_box(dot: tuple[float, ...], shift: tuple[float, float, float]) -> Box:
    """The box of a label (left, low, right, high) in points."""
    return dot[0] + shift[0], dot[1] + shift[1], dot[0] + shift[0] + shift[2], dot[1] + shift[1] + LABEL_HEIGHT


def lies_within(box: Box, frame: Box) -> bool:
    """Whether a box (left, low, right, high) lies in another."""
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def overlaps(one: Box, other: Box) -> bool:
    """Whether two boxes (left, low, right, high) overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
