"""What all pictures share: settings, names that can be drawn, files.

Names are drawn as they are, shortened where they are long: a dollar sign starts no formula.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from robench.core.files import write_whole

INK, WARM = "#2b4c7e", "#c1502e"
LONGEST_DRAWN_NAME = 44  # letters of a name that are drawn
CAPTION = 17  # letters of a line above an image of a gallery
HOUSE: dict[Any, Any] = {
    "text.parse_math": False, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8,
    "legend.title_fontsize": 8, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """The settings that all pictures here share, put back afterwards; letters that the font lacks become boxes without a warning."""
    with mpl.rc_context(HOUSE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


def drawable_text(name: str, longest: int = LONGEST_DRAWN_NAME) -> str:
    """A name in one line that can be drawn, without its middle where it is longer than `longest` letters: names often differ at the end."""
    line = " ".join(name.encode("utf-8", "replace").decode().split())  # file names may hold what is no letter at all
    keep = longest - 3
    return line if len(line) <= longest else f"{line[: keep // 2]}...{line[len(line) - (keep - keep // 2) :]}"


def wrapped_text(text: str, width: int) -> str:
    """A text in lines of at most `width` letters."""
    return "\n".join(wrap(text, width))


def save_figure(path: Path, figure: Figure) -> Path:
    """Writes a figure as PNG, whole or not at all; returns the path."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    return write_whole({path: buffer.getvalue()})[0]


def save_titled_figure(path: Path, figure: Figure, axes: Axes, title: str) -> Path:
    """Writes a picture with one axis under its title, folded to its width."""
    axes.set_title(wrapped_text(drawable_text(title, 300), int(13 * figure.get_figwidth())), fontsize=10, loc="left", pad=9)
    return save_figure(path, figure)


def caption_text(text: str) -> str:
    """Words above an image, in at most four lines: of more the first two and the last are drawn."""
    lines = wrap(drawable_text(text, 300), CAPTION)
    return "\n".join(lines if len(lines) <= 4 else [*lines[:2], "...", lines[-1]])


def draw_image(axes: Axes, image: Tensor) -> None:
    """Draws one image (C, H, W) in [0, 1]; grey where C = 1."""
    axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
