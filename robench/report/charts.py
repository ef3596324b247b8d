"""Charts as SVG, drawn here so that a page of a hundred runs is there at once: curves with their intervals, and a history of nights.

Colours are classes of the page's style, so that a chart follows light and dark; each line has a pattern and a marker of its own, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from robench.report.page import Chart

WIDTH, HEIGHT = 420.0, 250.0
LEFT_MARGIN, RIGHT_MARGIN, TOP_MARGIN = 46.0, 14.0, 12.0
LABEL_WIDTH = 62.0  # of what stands under an axis: labels closer than this would overlap
LINE_KINDS = 8  # patterns and colours in the style of the page


@dataclass(frozen=True)
class ChartPoint:
    """A point of a line.

    Attributes:
        x: across.
        value: upwards.
        low: lower end of its interval, nan where there is none.
        high: its upper end.
        words: what a reader sees who points at it.
        failed: whether it is marked as a failed gate.
    """

    x: float
    value: float
    low: float = math.nan
    high: float = math.nan
    words: str = ""
    failed: bool = False


@dataclass(frozen=True)
class ChartLine:
    """A line through points, under its name; `kind` is its place among the colours and patterns of the style."""

    name: str
    points: Sequence[ChartPoint]
    kind: int = 0


@dataclass(frozen=True)
class AxisMarks:
    """What stands under the horizontal axis.

    Attributes:
        ticks: (x, label) of what is labelled as far as there is room.
        events: x -> label of upright lines, such as new versions.
        title: what the axis shows.
    """

    ticks: Sequence[tuple[float, str]]
    events: Mapping[float, str] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class ChartFrame:
    """From numbers to places in the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    bottom: float

    def x(self, value: float) -> float:
        """Where a number lies across."""
        wide = WIDTH - LEFT_MARGIN - RIGHT_MARGIN
        return LEFT_MARGIN + (wide / 2 if self.x_high == self.x_low else wide * (value - self.x_low) / (self.x_high - self.x_low))

    def y(self, value: float) -> float:
        """Where a number lies upwards."""
        return self.bottom - (self.bottom - TOP_MARGIN) * (value - self.y_low) / (self.y_high - self.y_low)


def line_chart(title: str, words: str, lines: Sequence[ChartLine], marks: AxisMarks, *, unit: str = "", caption: str = "") -> Chart:
    """Lines with their intervals over one axis.

    Args:
        title: of the chart.
        words: what it shows, for those who do not see it.
        lines: each with at least one point; values that are not finite are left out.
        marks: what stands under the axis.
        unit: "%" where values are percent, "" otherwise.
        caption: a sentence under the chart.
    """
    finite = [point for line in lines for point in line.points if math.isfinite(point.value)]
    bottom = HEIGHT - (46.0 if marks.events else 44.0 if marks.title else 26.0)
    frame, ticks = chart_frame(finite, [x for x, _ in marks.ticks], bottom, unit)
    inside = [*value_axis(frame, ticks, unit), *position_axis(frame, marks)]
    inside += [part for line in lines for part in drawn_line(line, frame, with_bands=len(lines) <= 3)]
    legend = [(f"line-{line.kind % LINE_KINDS}", line.name) for line in lines] if len(lines) > 1 else []
    failed = [("failed", "a gate failed")] if any(point.failed for point in finite) else []
    return Chart(title, words, WIDTH, HEIGHT, Markup("").join(inside), caption, [*legend, *failed])


def chart_frame(points: Sequence[ChartPoint], places: Sequence[float], bottom: float, unit: str) -> tuple[ChartFrame, list[float]]:
    """The frame that holds all points and their intervals, and the ticks of its upright axis."""
    ends = [end for point in points for end in (point.value, point.low, point.high) if math.isfinite(end)] or [0.0, 1.0]
    ticks = round_ticks(min(ends), max(ends))
    if unit == "%":
        ticks = [tick for tick in ticks if -1e-9 <= tick <= 100 + 1e-9]
    xs = [*places, *(point.x for point in points)] or [0.0]
    return ChartFrame(min(xs), max(xs), min(ticks[0], *ends), max(ticks[-1], *ends), bottom), ticks


def round_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers, about so many, that enclose a range.

    Args:
        low: its lower end.
        high: its upper end.
        count: about how many steps.

    Example:
        >>> round_ticks(61.2, 74.9)
        [60.0, 65.0, 70.0, 75.0]
    """
    span = high - low or abs(high) * 0.1 or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= span / count * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    return [round(step * place, 12) for place in range(first, last + 1)]


def value_axis(frame: ChartFrame, ticks: Sequence[float], unit: str) -> Iterator[Markup]:
    """The lines across with their numbers."""
    for tick in ticks:
        y = frame.y(tick)
        yield element("line", class_="grid", x1=LEFT_MARGIN, x2=WIDTH - RIGHT_MARGIN, y1=y, y2=y)
        yield element("text", f"{tick:g}{unit and ' ' + unit}", class_="tick", x=LEFT_MARGIN - 7, y=y + 4, text_anchor="end")


def position_axis(frame: ChartFrame, marks: AxisMarks) -> Iterator[Markup]:
    """What stands under the axis: labels as far as there is room, events with an upright line, and the title."""
    for x, label in spaced_labels(frame, marks.ticks):
        yield element("text", label, class_="tick", x=x, y=frame.bottom + 17, text_anchor=anchor_at(x))
    for x in marks.events:
        yield element("line", class_="event", x1=frame.x(x), x2=frame.x(x), y1=TOP_MARGIN, y2=frame.bottom + 22)
    for x, label in spaced_labels(frame, sorted(marks.events.items())):
        yield element("text", label, class_="tick event", x=x, y=frame.bottom + 34, text_anchor=anchor_at(x))
    if marks.title:
        yield element("text", marks.title, class_="tick", x=(LEFT_MARGIN + WIDTH - RIGHT_MARGIN) / 2, y=HEIGHT - 5, text_anchor="middle")


def anchor_at(x: float) -> str:
    """To which side of its place a label runs, so that it stays inside the drawing."""
    return "start" if x < LEFT_MARGIN + 20 else "end" if x > WIDTH - RIGHT_MARGIN - 20 else "middle"


def spaced_labels(frame: ChartFrame, labels: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Place and label of those that have room: the last, and before it as many as do not touch each other."""
    kept: list[tuple[float, str]] = []
    for x, label in reversed(labels):
        if not kept or kept[-1][0] - frame.x(x) >= max(LABEL_WIDTH, 6.4 * len(label)):
            kept.append((frame.x(x), label))
    return kept[::-1]


def drawn_line(line: ChartLine, frame: ChartFrame, *, with_bands: bool) -> Iterator[Markup]:
    """A line, the band of its intervals or an upright line at each point, and its points with what they say."""
    points, kind = [point for point in line.points if math.isfinite(point.value)], f"line-{line.kind % LINE_KINDS}"
    spans = [point for point in points if math.isfinite(point.low) and math.isfinite(point.high)]
    if with_bands and len(spans) > 1:
        edge = [(point.x, point.high) for point in spans] + [(point.x, point.low) for point in reversed(spans)]
        yield element("polygon", class_=f"band {kind}", points=" ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in edge))
    if len(points) > 1:
        way = " ".join(f"{frame.x(point.x):.1f},{frame.y(point.value):.1f}" for point in points)
        yield element("polyline", class_=kind, points=way)
    for point in points:
        x, y = frame.x(point.x), frame.y(point.value)
        if point in spans and (len(points) == 1 or not with_bands):
            yield element("line", class_=f"{kind} whisker", x1=x, x2=x, y1=frame.y(point.low), y2=frame.y(point.high))
        shape = (
            element("path", class_="failed", d=f"M{x - 6:.1f},{y - 5:.1f}h12l-6,11z")
            if point.failed
            else element("circle", class_=kind, cx=x, cy=y, r=3 if len(points) <= 40 else 2)
        )
        yield element("g", element("title", point.words) + shape) if point.words else shape


def element(tag: str, inside: str | Markup = "", /, **attributes: object) -> Markup:
    """An SVG element; texts and attributes are escaped, and numbers have one decimal.

    Args:
        tag: its name.
        inside: its text, or elements.
        **attributes: "_" stands for "-"; class_ is the class.
    """
    pairs = [
        (name.rstrip("_").replace("_", "-"), f"{value:.1f}" if isinstance(value, float) else value) for name, value in attributes.items()
    ]
    return Markup("<{}{}>{}</{}>").format(tag, Markup("").join(Markup(' {}="{}"').format(*pair) for pair in pairs), inside, tag)
