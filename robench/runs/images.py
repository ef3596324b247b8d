"""The pixels that a stage shows: those of the pool, those that a stage makes of them, or those that a stage before has found."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robench.core.errors import InputError
from robench.core.files import file_stem
from robench.runs.store import array_rows_at
from robench.runs.types import Case, Pool, Stage

STEM_LETTERS = 80  # letters of a name in that of a file


EXAMPLES_KEPT = 8  # how many changed images of a stage are kept for the pictures


def stage_images(stage: Stage | None, places: Tensor, pool: Pool, case: Case | None) -> Tensor:
    """The images at some places as a stage leaves them, (M, C, H, W), uint8 or float.

    Those that an attack or a probe was not tried on are left as its source shows them.

    Args:
        stage: the stage; None for the clean images.
        places: (M,) int64.
        pool: all images.
        case: the subject on whom an attack or a probe found them; None where all subjects share them.

    Raises:
        InputError: where the clean images are wanted and not known.
    """
    if stage is None or (stage.images is None and not stage.keeps_images and stage.kind in ("clean", "method")):
        if pool.pixels is None:
            raise InputError("the images as they are are not known here: name them with --data")
        return pool.pixels(places)
    if stage.images is not None:
        return stage.images(places, lambda some: stage_images(stage.source, some, pool, case))
    assert case is not None
    done = case.ledger.is_done(case.name, stage)[places]
    if bool(done.all()):
        return array_rows_at(case.store.file(stage_file_name(stage, case)), places)
    x = stage_images(stage.source, places, pool, case).cpu()
    x = x.clone() if x.is_floating_point() else x.float() / 255
    if bool(done.any()):
        x[done] = array_rows_at(case.store.file(stage_file_name(stage, case)), places[done]).to(x)
    return x


def stage_file_name(stage: Stage, case: Case) -> str:
    """The name of the file that keeps the images of a stage for later ones."""
    digest = hashlib.sha256(f"{case.name} {stage.key}".encode()).hexdigest()[:8]
    return f"{file_stem(case.name)[:STEM_LETTERS]}-{file_stem(stage.key)[:STEM_LETTERS]}-{digest}"


def image_json(image: Tensor) -> dict[str, Any]:
    """An image (C, H, W) as plain JSON, to the bit."""
    return {"shape": list(image.shape), "float32": b64encode(image.float().contiguous().numpy().tobytes()).decode()}


def image_from_json(image: Mapping[str, Any]) -> Tensor:
    """The image (C, H, W) float32 that `image_json` packed.

    Args:
        image: plain values with its shape and bytes.
    """
    return torch.from_numpy(np.frombuffer(b64decode(image["float32"]), dtype=np.float32).copy()).view(image["shape"])
