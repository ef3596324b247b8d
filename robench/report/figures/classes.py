"""Pictures of classes: who is taken for whom, as matrices, or as bars where there are many classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from robench.report.figures.style import INK, WARM, drawable_text, house_style, save_figure, wrapped_text

PairCounts = Mapping[tuple[int, int], int]  # (label, predicted label) -> how many images
MOST_MATRIX_CLASSES = 20  # classes whose matrix can be read
DRAWN_PAIRS = 15  # pairs of classes that are drawn as bars
LONGEST_NAME = 14  # letters of a class name beside a matrix
RIGHT, WRONG = (LinearSegmentedColormap.from_list(name, ["#ffffff", colour]) for name, colour in (("right", INK), ("wrong", WARM)))


@house_style()
def draw_confusions(path: Path, panels: Sequence[tuple[str, PairCounts]], name_of: Callable[[int], str], title: str) -> Path:
    """Draws confusion matrices side by side, a row a true class and a column the label it got; returns the path.

    Of more than MOST_MATRIX_CLASSES classes the most frequent confusions of each are bars.

    Args:
        path: the PNG file.
        panels: for each matrix what it shows, and its cells that are not 0.
        name_of: gives the name of a class.
        title: of the picture.
    """
    labels = sorted({label for _, cells in panels for pair in cells for label in pair})
    is_small = len(labels) <= MOST_MATRIX_CLASSES
    wide, high = (max(2.8, 0.9 + 0.3 * len(labels)), max(3.0, 1.2 + 0.3 * len(labels))) if is_small else (4.4, 3.6)
    figure = Figure(figsize=(max(4.4, len(panels) * wide), high), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, cells) in zip(grid, panels, strict=True):
        if is_small:
            draw_matrix(axes, cells, labels, name_of)
        else:
            draw_pair_bars(axes, cells, name_of)
        axes.set_title(wrapped_text(drawable_text(name), max(18, int(11 * figure.get_figwidth() / len(panels)))), fontsize=9)
    figure.suptitle(wrapped_text(drawable_text(title, 300), int(13 * figure.get_figwidth())), fontsize=10)
    return save_figure(path, figure)


def class_totals(cells: PairCounts) -> dict[int, int]:
    """How many images each class has."""
    totals: dict[int, int] = {}
    for (label, _), count in cells.items():
        totals[label] = totals.get(label, 0) + count
    return totals


def draw_matrix(axes: Axes, cells: PairCounts, labels: Sequence[int], name_of: Callable[[int], str]) -> None:
    """Draws one matrix: the number of images in each cell, over the colour of its share of the class."""
    totals, place = class_totals(cells), {label: place for place, label in enumerate(labels)}
    for (label, predicted), count in cells.items():
        share = count / totals[label]
        left, top = place[predicted], place[label]
        axes.add_patch(Rectangle((left, top), 1, 1, facecolor=(RIGHT if label == predicted else WRONG)(share), linewidth=0))
        axes.text(left + 0.5, top + 0.52, str(count), ha="center", va="center", fontsize=6.5, color="white" if share > 0.55 else "black")
    names = [drawable_text(name_of(label), LONGEST_NAME) for label in labels]
    ticks = [place + 0.5 for place in range(len(labels))]
    end = max(1, len(labels))
    axes.set(xlim=(0, end), ylim=(end, 0), aspect="equal", xlabel="taken for", ylabel="class")
    axes.set_xticks(ticks, names, rotation=90, fontsize=7)
    axes.set_yticks(ticks, names, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set(visible=True, color="#b0b0b0", linewidth=0.6)


def draw_pair_bars(axes: Axes, cells: PairCounts, name_of: Callable[[int], str]) -> None:
    """Draws the most frequent confusions of a matrix as bars, the most frequent on top, with their counts."""
    totals = class_totals(cells)
    wrong = sorted((-count, *pair) for pair, count in cells.items() if pair[0] != pair[1])[:DRAWN_PAIRS]
    names = [" > ".join(drawable_text(name_of(label), LONGEST_NAME) for label in pair) for _, *pair in wrong]
    axes.barh(range(len(wrong)), [-count for count, *_ in wrong], color=WARM, height=0.7)
    for place, (count, label, _) in enumerate(wrong):
        axes.annotate(f" {-count} of {totals[label]}", (-count, place), va="center", fontsize=7)
    axes.set(ylim=(max(len(wrong), 1) - 0.4, -0.6), xlabel="images", xlim=(0, 1.25 * max((-count for count, *_ in wrong), default=1)))
    axes.set_yticks(range(len(wrong)), names, fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
