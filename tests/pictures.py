"""What the tests of corruptions and of figures share: draws, images to corrupt, statistics; the boxes of what is written in a figure."""

from itertools import combinations

import numpy as np
import torch
from commandline import read
from matplotlib.axis import XTick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from scipy import ndimage

from robench.core.draws import Draws
from robench.report.figures import attacks, classes, corruptions, saliency, training
from robench.report.figures import style as house

SEVERITIES = range(1, 6)


def draws(n, seed=0):
    """Draws of the samples 0 to n - 1."""
    return Draws(seed, torch.arange(n), "test")


def tensor(images):
    """8-bit images (B, H, W, C) as x."""
    return torch.from_numpy(images).movedim(3, 1).to(torch.float32) / 255


def grey(x):
    """The grey levels of x, (B, C, H, W) int64."""
    return (x * 255).round().long()


def scene(n=4, height=32, width=32, channels=3, seed=0):
    """Images of smooth colours with flat black and white parts and some noise, x of whole grey levels."""
    g = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(g.normal(size=(n, channels, height, width)), (0, 0, 4, 4)) * 6 + 0.5
    images = np.clip(smooth + g.normal(size=smooth.shape) * 0.05, 0, 1)
    images[:, :, : height // 6], images[:, :, :, -width // 6 :] = 1.0, 0.0
    return torch.from_numpy(np.round(images * 255)).to(torch.float32) / 255


def flat(level, side=32, n=1, channels=3):
    """Images of one grey level."""
    return torch.full((n, channels, side, side), level / 255)


def measured(made, clean):
    """The statistics of the table of the published generator, in grey levels; both (B, H, W, C)."""
    gap = made - clean
    result = {"mean_abs_diff": np.abs(gap).mean(), "rms_diff": np.sqrt(np.square(gap).mean())}
    result["mean_abs_hgrad"] = np.abs(np.diff(made, axis=2)).mean()
    for channel, letter in enumerate("rgb"):
        result[f"mean_{letter}"], result[f"std_{letter}"] = made[..., channel].mean(), made[..., channel].std()
    return result


def table(path, value):
    """A table of the published generator: (corruption, severity, statistic) to a number."""
    return {(row["corruption"], int(row["severity"]), row["statistic"]): float(row[value]) for row in read(path)}


def legend(axes):
    """The texts of a legend."""
    return [text.get_text() for text in axes.get_legend().get_texts()]


def drawings(monkeypatch):
    """A list that takes the figures of all modules that draw, which are not written then."""
    figures = []
    for module in (house, attacks, classes, saliency, corruptions, training):
        monkeypatch.setattr(module, "save_figure", lambda path, figure: figures.append(figure) or path)
    return figures


def words(figure):
    """The texts of a figure as they are drawn, each with its box in dots."""
    FigureCanvasAgg(figure).draw()
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    ticks = [
        tick for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
    ]
    unseen = {id(label) for tick in ticks for label in (tick.label1, tick.label2) if not in_view(tick)}
    return [(text.get_text(), text.get_window_extent()) for text in found if id(text) not in unseen]


def in_view(tick):
    """Whether the place of a tick lies on its axis."""
    low, high = sorted(tick.axes.get_xlim() if isinstance(tick, XTick) else tick.axes.get_ylim())
    room = 1e-9 * (high - low)
    return low - room <= tick.get_loc() <= high + room


def overlaps(texts, slack=1.0):
    """The pairs of texts, as `words` gives them, whose boxes overlap by more than `slack` dots."""
    pairs = []
    for (one, box), (other, its) in combinations(texts, 2):
        across, up = min(box.x1, its.x1) - max(box.x0, its.x0), min(box.y1, its.y1) - max(box.y0, its.y0)
        if across > slack and up > slack:
            pairs.append((one, other))
    return pairs


def outside(figure, texts):
    """The texts of a figure, as `words` gives them, that reach out of what is written to the disk."""
    frame = figure.get_tightbbox().padded(0.1)
    dots = figure.dpi
    return [text for text, box in texts if not (
        box.x0 >= frame.x0 * dots and box.x1 <= frame.x1 * dots and box.y0 >= frame.y0 * dots and box.y1 <= frame.y1 * dots
    )]  # fmt: skip
