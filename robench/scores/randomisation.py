"""Does the map depend on what the model has learned? The parameter-randomisation check, meant to be read once a method."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.model_calls import into_eval
from robench.core.recipes import lookup
from robench.core.types import ExplainedImages
from robench.explainers.rebuilt_models import unwrapped_network
from robench.scores.facts import ScoreFacts

LAYERS = {"all": slice(None), "last": slice(-1, None)}
MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "spearman": lambda maps: maps.abs().sum(1, dtype=torch.float64),
    "spearman-signed": lambda maps: maps.sum(1, dtype=torch.float64),
}


@ScoreFacts(
    "The rank correlation of a map with that of the same model under random weights: near 1 it would look the same had the model "
    "learned nothing.",
    "near 1 is a bad sign, near 0 no good one by itself",
    group="trust",
    makes_maps=True,
)
def randomisation(explained: ExplainedImages, *, layers: str = "all", measure: str = "spearman") -> Tensor:
    """The rank correlation of each map with that of the same model under random weights, (B,) float64 in [-1, 1].

    A value near 1 is a bad sign: the map would look the same had the model learned nothing, as edge detectors do. A value near 0 is no good
    sign in itself: noise has it as well, and methods cannot be ranked by it (Binder et al. 2023, 2211.12486, who also show why some
    likeness is to be expected: large activations stay large under random layers above them). Maps of one convolutional network are alike
    to some degree whatever its weights, so hold a method to the plain gradient. Both maps are made with the same random numbers, so the
    map of the model is made anew; the target stays. The random weights depend on the seed and are the same for every image and method: one
    draw of a network. Cost: two maps of each image. Source: Adebayo et al. 2018 (1810.03307).

    Args:
        explained: images (B, C, H, W), the model, and the method that maps are made by.
        layers: "all", where every layer is drawn anew, or "last" for the last one alone; see `randomised_copy`.
        measure: what is ranked, pixel by pixel: "spearman", the sums of sizes over channels, or "spearman-signed", the signed sums.

    Returns:
        The correlations (B,) float64; NaN where a map is constant or not finite.

    Raises:
        InputError: where an option is unknown, and where the model cannot be copied or has no weights that could be drawn.
    """
    rank_key = lookup(measure, MEASURES, "measure")
    twin = randomised_copy(explained.model, explained.draws.seed, layers)

    def ranked(model: nn.Module) -> Tensor:
        return row_ranks(rank_key(explained.explain(model, explained.x, explained.target, explained.draws)).flatten(1))

    return row_correlations(ranked(explained.model), ranked(twin))


def randomised_copy(model: nn.Module, seed: int, how: str = "all") -> nn.Module:
    """A copy of the model with random weights, frozen and in eval mode; the model is left as it is.

    A parameter is drawn from a normal distribution with its own mean and standard deviation, from the seed and its name alone: neither
    the order of layers nor other parameters matter. Normalisations and whatever else holds vectors only stay as they are, buffers
    included. That is our choice, for the sake of range: statistics that no longer fit their weights multiply from layer to layer, and a
    trained ResNet-20 whose batch norms were drawn too gave logits of 1e9. So the check does not see what a map owes to these vectors.

    Args:
        model: any module.
        seed: seed of the random weights.
        how: "all", where every module that has a parameter of two or more dimensions (convolutions, linear maps, embeddings) gets all its
            parameters drawn anew; or "last", only the last of these in the order of the parameters, which in most networks gives the
            logits.

    Raises:
        InputError: where the model has no such parameter or cannot be copied.
    """
    twin = into_eval(copy_for_randomisation(model))
    for weight in twin.parameters():  # one by one: a TorchScript program has no requires_grad_ of its own
        weight.requires_grad_(False)
    parameters = dict(unwrapped_network(twin).named_parameters())
    owners = list(dict.fromkeys(owner_module_name(name) for name, weight in parameters.items() if weight.dim() > 1))
    if not owners:
        raise InputError("randomisation draws weights anew, and this model has no parameters that are matrices: leave the score out")
    layers = owners[lookup(how, LAYERS, "choice of layers")]
    for name, weight in parameters.items():
        if owner_module_name(name) in layers and weight.numel() > 1:
            weight.copy_(redrawn_weight(weight, seed, name))
    return twin


def copy_for_randomisation(model: nn.Module) -> nn.Module:
    """A deep copy; InputError where the model keeps tensors of a graph, which torch does not copy."""
    try:
        with torch.no_grad():  # else the copy of a TorchScript program hangs on the graph of its parameters
            return copy.deepcopy(model)
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise InputError(f"randomisation needs a copy of the model, which cannot be had ({why}): leave the score out") from error


def owner_module_name(name: str) -> str:
    """The name of the module that a parameter belongs to; a parametrised one (such as one with weight norm) counts as its module."""
    return name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def redrawn_weight(weight: Tensor, seed: int, name: str) -> Tensor:
    """Normal numbers of the weight's shape, mean and standard deviation, from the seed and the name; drawn on the CPU, in float32."""
    digest = hashlib.blake2b(f"{seed}|randomised|{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    deviation, mean = torch.std_mean(weight.float().cpu())
    return torch.randn(weight.shape, generator=generator) * deviation + mean


def row_ranks(values: Tensor) -> Tensor:
    """The ranks of each row (B, n), float64, 1 for the smallest, equal values sharing their mean rank; all NaN where one is not finite."""
    sorted_values = values.sort(1).values
    below = torch.searchsorted(sorted_values, values)
    upto = torch.searchsorted(sorted_values, values, right=True)
    return ((below + upto + 1).double() / 2).where(values.isfinite().all(1, keepdim=True), torch.nan)


def row_correlations(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of each two rows (B, n), (B,) float64; NaN where a row is constant. Of ranks it is Spearman's."""
    a, b = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    total = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return ((a * b).sum(1) / total.where(total > 0, torch.nan)).clamp(-1, 1)
