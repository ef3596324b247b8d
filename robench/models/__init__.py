"""Networks: named architectures, checkpoints, and the loader of every kind of model file."""

from robench.models.architectures import ARCHITECTURES, build
from robench.models.layers import ACTIVATIONS, Normalize
from robench.models.loading import Loaded, check, load, load_model, peek

__all__ = ["ACTIVATIONS", "ARCHITECTURES", "Loaded", "Normalize", "build", "check", "load", "load_model", "peek"]
