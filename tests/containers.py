"""Parquet files and shards as Hugging Face's datasets and webdataset write them, made of small images, for tests of several folders."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("cat", "dog", "eel")


def small_pixels(n: int = 10, seed: int = 0) -> np.ndarray[Any, Any]:
    """Images (N, 8, 8, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), np.uint8)


def png_bytes(pixels: np.ndarray[Any, Any]) -> bytes:
    """An image (H, W, 3) as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_parquet(
    path: Path, rows: Sequence[bytes | None], label: Any = None, *, paths: Any = None, features: Any = None, **how: Any
) -> None:
    """A parquet file with the columns image (bytes and path) and label.

    Args:
        path: of the file; its folder is made.
        rows: the bytes of each image.
        label: the labels, or a dict of columns; k % 3 unless given.
        paths: what stands beside the bytes.
        features: Hugging Face's features; none unless given.
        how: options of pyarrow.parquet.write_table.
    """
    import pyarrow
    import pyarrow.parquet

    names = paths or [None] * len(rows)
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = pyarrow.array([{"bytes": row, "path": name} for row, name in zip(rows, names, strict=True)], kind)
    label = [k % 3 for k in range(len(rows))] if label is None else label
    table = pyarrow.table({"image": images, **(label if isinstance(label, dict) else {"label": label})})
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, **how)


def class_label(names: Sequence[str] = NAMES) -> dict[str, Any]:
    """Features of an image and a label with names, as datasets writes them."""
    return {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}


def write_shard(path: Path, members: Sequence[tuple[str, bytes]], **how: Any) -> None:
    """A tar file with these members, in their order.

    Args:
        path: of the file; its folder is made.
        members: name and content.
        how: options of tarfile.open.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **how) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def sample_members(pixels: np.ndarray[Any, Any], begin: int = 0) -> list[tuple[str, bytes]]:
    """The members of one sample an image: a PNG file and its label, k % 3."""
    return [
        member
        for k, image in enumerate(pixels, begin)
        for member in ((f"part/{k:04d}.png", png_bytes(image)), (f"part/{k:04d}.cls", str(k % 3).encode()))
    ]
