"""The clean pass: the label that a model gives each image as it is, and by which margin."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from robench.attacks.losses import margin
from robench.core.errors import InputError
from robench.core.model_calls import padded_logits
from robench.core.rows import CLEAN
from robench.models.contract import refuse_one_output
from robench.runs.ledger import Ledger
from robench.runs.store import write_array_rows
from robench.runs.types import Case, Chunk, Outcome, ReadyStage, Stage


def clean_stage() -> Stage:
    """The clean pass over all images."""
    return Stage("clean", CLEAN, lambda case: ReadyStage(partial(clean_outcomes, case)), all_images_mask, needs_trial=False)


def all_images_mask(ledger: Ledger, subject: str) -> Tensor:  # noqa: ARG001 - the same for all subjects
    """All images."""
    return torch.ones(ledger.n, dtype=torch.bool)


def clean_outcomes(case: Case, chunk: Chunk) -> Iterator[Outcome]:
    """Yields labels and margins. Raises InputError where logits are not finite or a label is no class."""
    with torch.no_grad():
        logits = padded_logits(case.exact_model, chunk.x).cpu()
    check_logits(logits, chunk.y)
    case.remember(chunk.places, logits)
    for file in case.saved.values():
        write_array_rows(file, chunk.places, chunk.x)
    one = torch.ones_like(chunk.y)
    yield Outcome({"pred": logits.argmax(1), "margin": -margin(logits, chunk.y), "forwards": one, "backwards": 0 * one})


def check_logits(logits: Tensor, y: Tensor, images: str = "clean images") -> None:
    """Raises InputError where a model cannot be evaluated on images: logits that are not finite, labels out of range, one output alone."""
    refuse_one_output(logits)
    if not bool(torch.isfinite(logits).all()):
        raise InputError(f"the model gives NaN or infinite logits on {images}: it cannot be evaluated")
    wrong = y[(y < 0) | (y >= logits.shape[1])]
    if len(wrong):
        raise InputError(f"label {int(wrong[0])} is out of range: the model has {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}")
