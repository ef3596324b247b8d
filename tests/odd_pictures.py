"""Made JPEG and PNG files of odd sizes and modes, with a photograph's smooth and rough parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ODD_PICTURES = {  # name -> height, width, mode
    "tall.jpg": (500, 333, "RGB"),
    "wide.jpg": (333, 500, "RGB"),
    "usual.jpg": (375, 500, "RGB"),
    "strip.jpg": (224, 1000, "RGB"),
    "small.jpg": (80, 100, "RGB"),
    "odd.jpg": (257, 391, "RGB"),
    "grey.jpg": (300, 401, "L"),
    "cmyk.jpg": (301, 260, "CMYK"),
    "palette.png": (240, 250, "P"),
}


def made_picture(name: str, folder: Path) -> Path:
    """The file of that name in ODD_PICTURES, made in a folder."""
    height, width, mode = ODD_PICTURES[name]
    generator = np.random.default_rng(height * 1000 + width)
    rows, columns = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(rows / (7 + k) + columns / (11 + 3 * k)) for k in range(3)]
    pixels = np.clip(np.stack(waves, 2) + generator.normal(0, 25, (height, width, 3)), 0, 255).astype(np.uint8)
    path = folder / name
    Image.fromarray(pixels).convert(mode).save(path, **({"quality": 91} if name.endswith("jpg") else {}))
    return path
