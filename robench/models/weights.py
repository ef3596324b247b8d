"""Weights from a file: finding the state_dict in what it holds, the normalisation among them, and fitting them to a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.recipes import did_you_mean

NESTS = ("state_dict", "model_state_dict", "model", "net", "ema")
NO_WEIGHTS = ("optim", "sched", "scaler")  # parts of the names under which training tools keep tensors that are no weights
DEEP = 4  # levels that weights may be nested
PREFIXES = ("module.", "model.", "_orig_mod.", "network.")
UNUSED_PREFIX = "sub_block1."  # a copy of block1 that TRADES and its successors keep in their wide residual networks and never run
AVERAGE_COUNT = "n_averaged"  # how many weights torch's AveragedModel has averaged
OWN_NORMALISATION = ("normalize.mean", "normalize.std")  # the names of our own normalisation
NORMALISATIONS = (OWN_NORMALISATION, ("mu", "sigma"), ("mean", "std"), ("0.mean", "0.std"), ("normalizer.new_mean", "normalizer.new_std"))
CHOOSES = "--weights KEY (weights=KEY in Python)"


def weights_in(content: Any, name: str, shapes: str | None = None) -> tuple[dict[str, Tensor] | nn.Module, list[str]]:
    """The state_dict or the whole model that a file holds, and notes.

    Args:
        content: what the file holds.
        name: what sentences call the file.
        shapes: the key under which the weights lie, with dots between the levels; None takes the top, or the first usual name.

    Raises:
        InputError: where there are none, or where it is open which.
    """
    weight_sets = weight_sets_in(content)
    if not weight_sets:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
        raise InputError(f"{name} holds no state_dict, but {type(content).__name__}{f' of {keys}' if keys else ''}")
    if "" in weight_sets:
        if shapes is not None:
            raise InputError(f"{name} holds one set of weights, at its top: leave --weights out")
        return weight_sets[""], []
    if shapes is not None:
        if shapes not in weight_sets:
            raise InputError(f"{name} has no set of weights {shapes!r}{did_you_mean(shapes, weight_sets)}")
        return weight_sets[shapes], []
    chosen_key = usual_key(weight_sets)
    if chosen_key is None:
        raise InputError(f"{name} holds several sets of weights ({', '.join(weight_sets)}): choose one with {CHOOSES}")
    others = ", ".join(repr(key) for key in weight_sets if key != chosen_key)
    if others:
        return weight_sets[chosen_key], [f"{name} holds several sets of weights: {chosen_key!r} was taken, not {others}; {CHOOSES} chooses"]
    return weight_sets[chosen_key], [] if is_usual_key(chosen_key) else [f"the weights of {name} are those under {chosen_key!r}"]


def weight_sets_in(content: Any, where: str = "", deep: int = DEEP) -> dict[str, Any]:
    """Every state_dict and whole model in what a file holds, by its key with dots between the levels, "" for the top."""
    if isinstance(content, nn.Module) or is_state_dict(content):
        return {where: content}
    weight_sets: dict[str, Any] = {}
    for key, value in content.items() if isinstance(content, Mapping) and deep else ():
        if isinstance(key, str) and not any(word in key.lower() for word in NO_WEIGHTS):
            weight_sets |= weight_sets_in(value, f"{where}.{key}" if where else key, deep - 1)
    return weight_sets


def usual_key(normalisation: Mapping[str, Any]) -> str | None:
    """The key that is taken where nobody chose: the only one, or the first of the usual names on every level."""
    if len(normalisation) == 1:
        return next(iter(normalisation))
    return min(filter(is_usual_key, normalisation), key=lambda key: [NESTS.index(part) for part in key.split(".")], default=None)


def is_usual_key(key: str) -> bool:
    """Whether every level of a key is a usual name."""
    return all(part in NESTS for part in key.split("."))


def is_state_dict(content: object) -> bool:
    """Whether it is a state_dict: names and tensors, nothing else."""
    return isinstance(content, Mapping) and bool(content) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


# The normalisation among the weights


@dataclass(frozen=True)
class StoredNormalisation:
    """What looks like a normalisation among weights.

    Attributes:
        names: the names of mean and std among the weights.
        mean: its numbers, one a channel or one for all.
        std: the numbers of the spread, one a channel or one for all.
        rest: the other weights, without the prefix that they share.
        own: whether it is the layer that robench puts before a network.
    """

    names: tuple[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rest: dict[str, Tensor]
    own: bool


def normalisation_in(state: Mapping[str, Tensor], channels: int) -> StoredNormalisation | None:
    """The normalisation among weights, under a usual pair of names, with or without wrappers' prefixes; None where there is none."""
    for variant in prefix_variants(state):
        for names in NORMALISATIONS:
            pair = [variant[name].flatten().tolist() for name in names if name in variant]
            if len(pair) == 2 and all(len(values) in (1, channels) for values in pair):
                rest = {key: value for key, value in variant.items() if key not in names}
                own = names == OWN_NORMALISATION and all(key.startswith("network.") for key in rest)
                return StoredNormalisation(names, tuple(map(float, pair[0])), tuple(map(float, pair[1])), unwrapped_weights(rest), own)
    return None


def has_same_numbers(normalisation: StoredNormalisation, mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether these are the numbers of the file, to the four digits that people write."""
    user_numbers, file_numbers = torch.tensor([*map(float, (*mean, *std))]), torch.tensor([*normalisation.mean, *normalisation.std])
    return user_numbers.shape == file_numbers.shape and torch.allclose(user_numbers, file_numbers, rtol=0, atol=6e-5)


def unwrapped_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the first part of their names where all have the same one and it is a number or a wrapper's."""
    firsts = {key.partition(".")[0] for key in state}
    first = firsts.pop() if len(firsts) == 1 else ""
    wrapped = first.isdecimal() or f"{first}." in PREFIXES
    return {key.removeprefix(f"{first}."): value for key, value in state.items()} if wrapped else dict(state)


def numbers_as_option(values: Sequence[float]) -> str:
    """Numbers as the options take them."""
    return ",".join(f"{value:.4g}" for value in values)


# Fitting


def fit_weights(
    network: nn.Module, state: Mapping[str, Tensor], name: str, arch: str, classes: int, hint: Callable[[], str] = lambda: ""
) -> None:
    """Puts the weights into the network; InputError, naming the first few and with the hint, where names or shapes do not fit `arch`."""
    network_state = network.state_dict()
    state = fitting_weights(state, network_state)
    missing = [key for key in network_state if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in network_state and not key.startswith(UNUSED_PREFIX)]
    wrong = {
        key: (state[key].shape, network_state[key].shape)
        for key in network_state
        if key in state and state[key].shape != network_state[key].shape
    }
    outputs = {shape[0] for shape, due in wrong.values() if shape[1:] == due[1:] and due[:1] == (classes,)}
    if not missing and not unknown and len(outputs) == 1 and all(due[:1] == (classes,) for _, due in wrong.values()):
        raise InputError(f"{name} has {outputs.pop()} outputs, the data {classes} classes")
    shapes = [f"{key} is {tuple(shape)} instead of {tuple(due)}" for key, (shape, due) in wrong.items()]
    faults = [first_items("lacks", missing), first_items("has the unknown", unknown), first_items("has other shapes:", shapes)]
    if any(faults):
        raise InputError(f"{name} does not fit {arch}: it {' and '.join(filter(None, faults))}{hint()}")
    network.load_state_dict(state, strict=False)


def fitting_weights(state: Mapping[str, Tensor], network_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the prefixes that keep their names from being those of the network; without all of them where none do."""
    *_, bare = variants = list(prefix_variants(state))
    return next((variant for variant in variants if has_network_names(variant, network_state)), bare)


def has_network_names(state: Mapping[str, Tensor], network_state: Mapping[str, Tensor]) -> bool:
    """Whether the weights have the network's names, but for what may be missing and what is never run."""
    batch_counters = {key for key in network_state if key.endswith("num_batches_tracked")}
    names = {key for key in state if key in network_state or not key.startswith(UNUSED_PREFIX)}
    return names | batch_counters == network_state.keys()


def output_count(state: Mapping[str, Tensor], network: nn.Module, classes: int) -> int:
    """How many outputs the weights have: where the last layer alone differs from that of a network for so many classes, its length."""
    network_state = network.state_dict()
    weights = fitting_weights(state, network_state)
    other = [
        (value.shape, network_state[key].shape)
        for key, value in weights.items()
        if key in network_state and value.shape != network_state[key].shape
    ]
    lengths = {shape[:1] for shape, _ in other}
    alike = all(due[:1] == (classes,) and shape[1:] == due[1:] for shape, due in other)
    return int(next(iter(lengths))[0]) if alike and len(lengths) == 1 and () not in lengths else classes


def prefix_variants(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The weights as they are, then without the wrappers' prefixes, one by one, as long as every name starts with the same one."""
    names = {key: value for key, value in state.items() if key != AVERAGE_COUNT}
    yield names
    while prefix := next((p for p in PREFIXES if names and all(key.startswith(p) for key in names)), None):
        names = {key.removeprefix(prefix): value for key, value in names.items()}
        yield names


def first_items(what: str, items: list[str]) -> str:
    """`what` and the first three items; empty where there are none."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{what} {', '.join(items[:3])}{more}" if items else ""
