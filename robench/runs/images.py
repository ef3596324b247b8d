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
from robench.core.files import stem
from robench.runs.store import read_rows
from robench.runs.types import Case, Pool, Stage

LONG = 80  # letters of a name in that of a file


EXAMPLES = 8  # how many changed images of a stage are kept for the pictures


def shown_by(stage: Stage | None, places: Tensor, pool: Pool, case: Case | None) -> Tensor:
    """The images at `places` as a stage leaves them, (M, C, H, W), uint8 or float; None: as they are.

    Those that an attack or a probe was not tried on are left as its source shows them.

    case  the subject by whom an attack or a probe found them; None where all subjects share them
    """
    if stage is None or (stage.images is None and not stage.kept and stage.kind in ("clean", "method")):
        if pool.pixels is None:
            raise InputError("the images as they are are not known here: name them with --data")
        return pool.pixels(places)
    if stage.images is not None:
        return stage.images(places, lambda some: shown_by(stage.source, some, pool, case))
    assert case is not None
    done = case.ledger.done(case.name, stage)[places]
    if bool(done.all()):
        return read_rows(case.store.file(file_of(stage, case)), places)
    x = shown_by(stage.source, places, pool, case).cpu()
    x = x.clone() if x.is_floating_point() else x.float() / 255
    if bool(done.any()):
        x[done] = read_rows(case.store.file(file_of(stage, case)), places[done]).to(x)
    return x


def file_of(stage: Stage, case: Case) -> str:
    """The name of the file that keeps the images of a stage for later ones."""
    return f"{stem(case.name)[:LONG]}-{stem(stage.key)[:LONG]}-{hashlib.sha256(f'{case.name} {stage.key}'.encode()).hexdigest()[:8]}"


def packed(image: Tensor) -> dict[str, Any]:
    """An image (C, H, W) as plain JSON, to the bit."""
    return {"shape": list(image.shape), "float32": b64encode(image.float().contiguous().numpy().tobytes()).decode()}


def unpacked(image: Mapping[str, Any]) -> Tensor:
    """The image that `packed` packed."""
    return torch.from_numpy(np.frombuffer(b64decode(image["float32"]), dtype=np.float32).copy()).view(image["shape"])
