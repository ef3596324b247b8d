"""Networks: named architectures, checkpoints, and the loader of every kind of model file."""

from robench.core.moved import names_of_before
from robench.models.architectures import ARCHITECTURES, build_network
from robench.models.layers import ACTIVATIONS, Normalize
from robench.models.loading import LoadedModel, checkpoint_meta, load_model, load_with_origin, trial_notes
from robench.models.stand_ins import arithmetic, cheaper_stand_in, fitting_batch_size

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "LoadedModel",
    "Normalize",
    "arithmetic",
    "build_network",
    "cheaper_stand_in",
    "checkpoint_meta",
    "fitting_batch_size",
    "load_model",
    "load_with_origin",
    "trial_notes",
]

__getattr__ = names_of_before(__name__, {"load": "load_with_origin"})
