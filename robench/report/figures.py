"""Pictures, drawn without a screen and written as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from robench.rows import Row
from robench.writing import write_whole

INK, WARM = "#2b4c7e", "#c1502e"


def save_figure(path: Path, figure: Figure) -> Path:
    """Writes a figure as PNG, whole or not at all; returns the path."""
    FigureCanvasAgg(figure)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150, bbox_inches="tight")
    return write_whole({path: drawn.getvalue()})[0]


def staircase(path: Path, rows: Sequence[Row], title: str) -> Path:
    """Accuracy that is left after each probe of a suite, with its 95 % interval, as bars from left to right."""
    steps = [row for row in rows if row.metric == "accuracy"]
    figure = Figure(figsize=(1.1 + 1.05 * len(steps), 3.4))
    axes = figure.subplots()
    heights = [100 * row.value for row in steps]
    spans = [[100 * (row.value - row.low) for row in steps], [100 * (row.high - row.value) for row in steps]]
    colours = [INK if row.probe == "clean" else WARM for row in steps]
    axes.bar([row.probe for row in steps], heights, yerr=spans, color=colours, capsize=4, width=0.65)
    for place, height in enumerate(heights):
        axes.annotate(f"{height:.1f}", (place, 2), ha="center", color="white" if height > 10 else "black", fontsize=9)
    axes.set(ylim=(0, 100), ylabel="accuracy after the probe (%)")
    axes.set_title(title, fontsize=9)
    axes.tick_params(axis="x", labelrotation=25 if len(steps) > 4 else 0, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return save_figure(path, figure)


def curve(path: Path, rows: Sequence[Row], title: str) -> Path:
    """The security curve: accuracy that is left at each radius after the last probe there, with its 95 % interval, from eps = 0 (clean)."""
    last = {row.eps: row for row in rows if row.metric == "accuracy"}  # clean stands at 0; at a radius the last probe stays
    points = [last[eps] for eps in sorted(last)]
    radii, in_255 = [row.eps for row in points], points[-1].norm == "linf"
    scale = 255 if in_255 else 1
    figure = Figure(figsize=(5.2, 3.4))
    axes = figure.subplots()
    axes.plot([scale * e for e in radii], [100 * row.value for row in points], color=WARM, marker="o", label=points[-1].probe)
    axes.fill_between([scale * e for e in radii], [100 * r.low for r in points], [100 * r.high for r in points], color=WARM, alpha=0.18)
    axes.set(ylim=(0, 100), xlim=(0, None), ylabel="accuracy left (%)", xlabel=f"eps ({points[-1].norm}{', in 1/255' if in_255 else ''})")
    axes.set_title(title, fontsize=9)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return save_figure(path, figure)


def gallery(path: Path, x: Tensor, x_adv: Tensor, captions: Sequence[tuple[str, str]], title: str) -> Path:
    """Clean image, adversarial image and their difference (scaled to the full range, grey = 0), one sample a column.

    x, x_adv (M, C, H, W) in [0, 1] on the CPU; captions: the true label, which the model gives x, and the label at x_adv.
    """
    change = x_adv - x
    span = change.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
    lines = (x, x_adv, 0.5 + 0.5 * change / span)
    figure = Figure(figsize=(1.25 * len(x) + 0.6, 4.6))
    grid = figure.subplots(3, len(x), squeeze=False)
    for line, images in enumerate(lines):
        for column, image in enumerate(images):
            picture(grid[line][column], image)
    for column, (label, adv_pred) in enumerate(captions):
        grid[0][column].set_title(label, fontsize=8)
        grid[1][column].set_title(f"-> {adv_pred}", fontsize=8, color=WARM)
    for line, name in enumerate(("clean", "adversarial", "difference")):
        grid[line][0].set_ylabel(name, fontsize=9)
    figure.suptitle(title, fontsize=9)
    return save_figure(path, figure)


def picture(axes: Axes, image: Tensor) -> None:
    """Draws one image (C, H, W) in [0, 1]; grey where C = 1."""
    axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
