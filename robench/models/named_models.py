"""What the user says about a model, and what opening it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from robench.core.errors import InputError
from robench.models.layers import Shape


@dataclass(frozen=True)
class ModelOptions:
    """What the user said about the model; None where nothing was said.

    Attributes:
        arch: the architecture of a file of weights.
        activation: of `arch`.
        weights: the key of a set of weights, in a file that holds several.
        classes: K of the data.
        shape: channels, height and width of the images.
        mean: one number a channel, of the normalisation.
        std: the spread that goes with `mean`, one number a channel.
        trust: whether a stored program may be run.
        device: where the model is to lie.
        download: whether weights that are missing may be fetched.
    """

    arch: str | None = None
    activation: str | None = None
    weights: str | None = None
    classes: int | None = None
    shape: Shape | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    trust: bool = False
    device: str = "cpu"
    download: bool = False

    def refuse_options(self, names: str, why: str) -> None:
        """InputError where one of the options in `names` was given though it cannot apply.

        Args:
            names: names of options, parted by spaces.
            why: the begin of the sentence.
        """
        for name in names.split():
            if getattr(self, name) is not None:
                raise InputError(f"{why}: leave --{name} out")


@dataclass(frozen=True)
class OpenedModel:
    """What opening a model gave.

    Attributes:
        network: from pixels (B, C, H, W) in [0, 1] to whatever the network returns; it normalises them itself.
        notes: one sentence each on what the user should know.
        meta: what a checkpoint of ours says of itself; {} for any other model.
        class_names: the names of the outputs, in their order, where the library of a model says them.
    """

    network: nn.Module
    notes: Sequence[str] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()


def classes_and_shape(name: str, model_options: ModelOptions) -> tuple[int, Shape]:
    """Number of classes K and shape (C, H, W) of the images, where the model does not tell them.

    Args:
        name: what sentences call the model.
        model_options: what the user said about it.

    Raises:
        InputError: where the user said nothing of one of them.
    """
    if model_options.classes is None or model_options.shape is None:
        raise InputError(f"{name} does not tell the number of classes and the shape of the images: give classes and shape")
    return model_options.classes, model_options.shape
