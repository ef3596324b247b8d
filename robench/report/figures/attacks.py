"""Pictures of an evaluation: the accuracy that attacks leave, over attacks and over radii, and adversarial images.

Names are drawn as they are, shortened where they are long: a dollar sign starts no formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from robench.core.rows import CLEAN, Row
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

ROOM = 112  # the upper end of an axis in percent on which numbers stand above bars and their intervals


@house_style()
def draw_accuracy_bars(path: Path, rows: Sequence[Row], title: str) -> Path:
    """Accuracy that is left after each probe of a suite, as bars from left to right; numbers stand above the 95 % intervals."""
    steps = [row for row in rows if row.metric == "accuracy"]
    figure = Figure(figsize=(max(4.2, 1.1 + 1.05 * len(steps)), 3.4))
    axes = figure.subplots()
    heights = [100 * row.value for row in steps]
    spans = [[100 * max(0.0, row.value - row.low) for row in steps], [100 * max(0.0, row.high - row.value) for row in steps]]
    axes.bar(range(len(steps)), heights, yerr=spans, color=[bar_colour(row) for row in steps], ecolor="#333333", capsize=4, width=0.65)
    for place, row in enumerate(steps):
        axes.annotate(f"{100 * row.value:.1f}", (place, 100 * max(row.value, row.high) + 1.5), ha="center", va="bottom", fontsize=9)
    axes.set(ylim=(0, ROOM), yticks=range(0, 101, 20), ylabel="accuracy after the probe (%)", xlim=(-0.6, len(steps) - 0.4))
    axes.set_xticks(range(len(steps)), [wrapped_text(drawable_text(row.probe, 40), 13) for row in steps])
    return save_titled_figure(path, figure, axes, title)


def bar_colour(row: Row) -> str:
    """The colour of a bar: blue for the clean images."""
    return INK if row.probe == CLEAN else WARM


@house_style()
def draw_security_curve(path: Path, rows: Sequence[Row], title: str) -> Path:
    """The security curve: accuracy that is left at each radius after the last probe there, with its 95 % interval, from eps = 0 (clean)."""
    last = {row.eps: row for row in rows if row.metric == "accuracy"}  # clean stands at 0; at a radius the last probe stays
    points = [last[eps] for eps in sorted(last)]
    in_255 = points[-1].norm == "linf"
    radii = [(255 if in_255 else 1) * row.eps for row in points]
    figure = Figure(figsize=(5.2, 3.4))
    axes = figure.subplots()
    axes.plot(radii, [100 * row.value for row in points], color=WARM, marker="o", clip_on=False, zorder=3)
    axes.fill_between(radii, [100 * row.low for row in points], [100 * row.high for row in points], color=WARM, alpha=0.18, linewidth=0)
    axes.set(ylim=(0, 100), xlim=(0, radii[-1] or 1), xlabel=f"eps ({points[-1].norm}{', in 1/255' if in_255 else ''})")
    axes.set_ylabel(f"accuracy left (%)\nafter {drawable_text(points[-1].probe, 30)}")
    return save_titled_figure(path, figure, axes, title)


@house_style()
def draw_change_gallery(
    path: Path, x: Tensor, x_adv: Tensor, captions: Sequence[tuple[str, str]], title: str, changed: str = "adversarial",
    before: str = CLEAN,
) -> Path:  # fmt: skip
    """Draws image, changed image and their difference (amplified to the full range, grey = 0), one sample a column; returns the path.

    Above each difference stands by how much it is amplified: its largest change of a subpixel becomes black or white.

    Args:
        path: the PNG file.
        x: images (M, C, H, W) in [0, 1] on the CPU.
        x_adv: the changed images (M, C, H, W) in [0, 1] on the CPU.
        captions: for each image the true label, which the model gives x, and the label at x_adv.
        title: of the picture.
        changed: what the row of x_adv is called.
        before: what the row of x is called.
    """
    change = x_adv - x
    span = change.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
    figure = Figure(figsize=(max(3.6, 1.3 * len(x) + 0.5), 5.0), layout="constrained")
    grid = figure.subplots(3, len(x), squeeze=False)
    for line, images in enumerate((x, x_adv, 0.5 + 0.5 * change / span)):
        for column, image in enumerate(images):
            draw_image(grid[line][column], image)
    for column, ((label, adv_pred), largest) in enumerate(zip(captions, span.flatten().tolist(), strict=True)):
        grid[0][column].set_title(caption_text(label), fontsize=8)
        grid[1][column].set_title(caption_text(f"-> {adv_pred}"), fontsize=8, color=WARM)
        grid[2][column].set_title(f"x {1 / largest:.3g}" if largest > 1e-9 else "no change", fontsize=8, color="#555555")
    for line, name in enumerate((drawable_text(before, 16), drawable_text(changed, 16), "difference,\namplified")):
        grid[line][0].set_ylabel(name, fontsize=9)
    figure.suptitle(wrapped_text(drawable_text(title, 300), int(14 * figure.get_figwidth())), fontsize=10)
    return save_figure(path, figure)
