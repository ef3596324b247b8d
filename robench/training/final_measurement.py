"""The measurement at the end of a training, and what a checkpoint says of it: clean accuracy, the suite's accuracies, raised flags."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from robench.core.model_calls import into_eval
from robench.core.processes import current_world
from robench.core.recipes import Recipe
from robench.core.threat import Threat
from robench.data import Images
from robench.evaluation.measure import suite_measurement
from robench.models.identity import model_identity
from robench.results.measurement import Measurement
from robench.training.preparation import HELD_OUT_ENDING

CLEAN_ATTACKED = "clean, attacked images"  # so that what the attacks leave is not held against the clean accuracy of other images


def final_measurements(
    model: nn.Module, images: Images, few: Images, suite: str | Sequence[Recipe], threat: Threat, seed: int, device: str,
    folder: Path | None,
) -> list[Measurement]:  # fmt: skip
    """Clean accuracy on all images, and the suite on few of them.

    Args:
        model: with the weights that are kept; it is set to eval mode.
        images: all images of the test.
        few: those that are attacked.
        suite: by which.
        threat: of the attacks.
        seed: of all draws.
        device: where the model runs.
        folder: takes the states of both measurements, from which a later call goes on; None keeps none.
    """
    into_eval(model)
    own = None if folder is None else folder / state_name(model)
    measurements = [
        suite_measurement(model, images, [], threat, device=device, folder=own and own / "clean"),
        suite_measurement(model, few, suite, threat, seed=seed, device=device, folder=own and own / "suite"),
    ]
    current_world().first_of(0)  # until all processes are done with the states
    return measurements


def state_name(model: nn.Module) -> str:
    """The name of the folder of a network's states: of other weights, and of another robench, there is another."""
    return hashlib.sha256(f"{version('robench')} {model_identity(model)}".encode()).hexdigest()[:16]


def measured_words(measurements: Sequence[Measurement], test: Images) -> dict[str, Any]:
    """What a checkpoint says of its final measurement: the accuracies as "metrics", the raised flags as "flags"."""
    split = "" if test.name.endswith(HELD_OUT_ENDING) else test.split
    return {"metrics": metrics(measurements, test.name, split), "flags": flag_sentences(measurements)}


def metrics(measurements: Sequence[Measurement], data: str, split: str) -> dict[str, Any]:
    """The measured accuracies by probe, each with interval, n and images.

    Clean accuracy on all images comes first, then on the attacked ones where these are fewer, then the suite's.

    Args:
        measurements: from `final_measurements`.
        data: the name of the images.
        split: of the images; "" where `data` says it.
    """
    (everywhere, *_), few = ([row for row in evaluation.rows if row.metric == "accuracy"] for evaluation in measurements)
    again = few[:1] if len(few) > 1 and few[0].n != everywhere.n else []
    rows = [everywhere, *(replace(row, probe=CLEAN_ATTACKED) for row in again), *few[1:]]
    images = {"data": data, "split": split} if split else {"data": data}
    return {
        row.probe: {"accuracy": row.value, "low": row.low, "high": row.high, "n": row.n, "norm": row.norm, "eps": row.eps, **images}
        for row in rows
    }


def flag_sentences(measurements: Sequence[Measurement]) -> list[str]:
    """A sentence for each raised flag; what is told of all images is not told of few of them again."""
    checks = {(check.probe, check.name): check for evaluation in reversed(measurements) for check in evaluation.checks if check.raised}
    return [f"{check.probe}: {check.sentence}" for check in checks.values()]
