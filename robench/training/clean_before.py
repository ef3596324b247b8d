"""The clean accuracy of a network before it is trained further, beside the one after, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robench.core.statistics import paired_difference
from robench.data import Images
from robench.evaluation.measure import suite_measurement
from robench.results.measurement import Measurement
from robench.training.final_measurement import metrics, state_name
from robench.training.preparation import HELD_OUT_ENDING, PreparedTraining

FEW_CLASSES = 3  # that a note names


def clean_measurement(prepared: PreparedTraining, device: str, folder: Path | None) -> Measurement:
    """The clean accuracy of the weights that a training begins with, on all images of the test.

    Args:
        prepared: the training.
        device: where the network runs.
        folder: takes the state, from which a later call goes on; None keeps none.
    """
    model = prepared.model.to(device)
    own = None if folder is None else folder / state_name(model)
    return suite_measurement(model, prepared.test, [], prepared.plan.threat, device=device, folder=own and own / "before")


def before_notes(before: Measurement | None, images: Images) -> list[str]:
    """A note on the clean accuracy before the training.

    Args:
        before: what was measured; None where nothing was.
        images: all images of the test.
    """
    if before is None:
        return []
    share = before.accuracy("clean")
    return [f"the clean accuracy before the training is {100 * share:.1f} % on {len(images)} images of {images.name}"]


def before_words(before: Measurement | None, images: Images) -> dict[str, Any]:
    """What a checkpoint says of the accuracy before its training, as "before"; nothing where it was not measured.

    Args:
        before: what was measured.
        images: all images of the test.
    """
    if before is None:
        return {}
    split = "" if images.name.endswith(HELD_OUT_ENDING) else images.split
    return {"before": metrics([before, before], images.name, split)}


def fall_notes(before: Measurement | None, after: Measurement, classes: Sequence[str]) -> list[str]:
    """A note where the clean accuracy fell, by how much and in which classes most; none where it did not.

    Args:
        before: what was measured before the training; None where nothing was.
        after: what was measured after it, on the same images.
        classes: the names of the classes.
    """
    if before is None:
        return []
    labels = np.array([line.label for line in after.samples])
    old, new = (np.array([line.clean_pred == line.label for line in one.samples]) for one in (before, after))
    counts = (int((old & new).sum()), int((old & ~new).sum()), int((~old & new).sum()), int((~old & ~new).sum()))
    change, low, high = paired_difference(*counts)
    if change >= 0:
        return []
    falls = {k: float(old[labels == k].mean() - new[labels == k].mean()) for k in np.unique(labels)}
    worst = sorted((k for k in falls if falls[k] > 0), key=lambda k: -falls[k])[:FEW_CLASSES]
    where = ", ".join(f"{classes[k]} (by {100 * falls[k]:.1f})" for k in worst)
    chance = "" if high < 0 else ", which may be chance"
    return [
        f"the clean accuracy fell from {100 * old.mean():.1f} to {100 * new.mean():.1f} % on {len(labels)} images, by {-100 * change:.1f} "
        f"points (95 % interval {-100 * high:.1f} to {-100 * low:.1f}){chance}, most in the classes {where}"
    ]
