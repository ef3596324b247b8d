"""Networks: named architectures, checkpoints, and the loader of every kind of model file."""

from robench.models.architectures import ARCHITECTURES, build
from robench.models.layers import ACTIVATIONS, Normalize
from robench.models.loading import Loaded, check, load, load_model, peek
from robench.models.passes import arithmetic, cheaper, fitting_batch

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "Loaded",
    "Normalize",
    "arithmetic",
    "build",
    "cheaper",
    "check",
    "fitting_batch",
    "load",
    "load_model",
    "peek",
]
