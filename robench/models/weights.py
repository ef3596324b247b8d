"""Weights from a file: finding the state_dict in what it holds, and fitting it to a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from robench.errors import InputError

NESTS = ("state_dict", "model_state_dict", "model", "net", "ema")
PREFIXES = ("module.", "model.", "_orig_mod.")
UNUSED = "sub_block1."  # a copy of block1 that TRADES and its successors keep in their wide residual networks and never run


def weights_in(content: Any, name: str) -> tuple[dict[str, Tensor] | nn.Module, list[str]]:
    """The state_dict or the whole model that a file holds, at its top or under a usual name, and notes; InputError where there is none."""
    if isinstance(content, nn.Module) or is_state(content):
        return content, []
    inside = [key for key in NESTS if isinstance(content, Mapping) and isinstance(content.get(key), (Mapping, nn.Module))]
    if not inside:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
        raise InputError(f"{name} holds no state_dict, but {type(content).__name__}{f' of {keys}' if keys else ''}")
    found, notes = weights_in(content[inside[0]], name)
    if len(inside) > 1:
        notes = [*notes, f"{name} holds several sets of weights: {inside[0]!r} was taken, not {inside[1]!r}"]
    return found, notes


def is_state(content: object) -> bool:
    """Whether it is a state_dict: names and tensors, nothing else."""
    return isinstance(content, Mapping) and bool(content) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def fit(network: nn.Module, state: Mapping[str, Tensor], name: str, arch: str, classes: int) -> None:
    """Puts the weights into the network; InputError, naming the first few, where names or shapes do not fit `arch`."""
    wanted = network.state_dict()
    *_, bare = variants = list(without_prefixes(state))
    state = next((variant for variant in variants if variant.keys() == wanted.keys()), bare)
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in wanted and not key.startswith(UNUSED)]
    wrong = {key: (state[key].shape, wanted[key].shape) for key in wanted if key in state and state[key].shape != wanted[key].shape}
    outputs = {seen[0] for seen, due in wrong.values() if seen[1:] == due[1:] and due[:1] == (classes,)}
    if not missing and not unknown and len(outputs) == 1 and all(due[:1] == (classes,) for _, due in wrong.values()):
        raise InputError(f"{name} has {outputs.pop()} outputs, the data {classes} classes")
    shapes = [f"{key} is {tuple(seen)} instead of {tuple(due)}" for key, (seen, due) in wrong.items()]
    faults = [few("lacks", missing), few("has the unknown", unknown), few("has other shapes:", shapes)]
    if any(faults):
        raise InputError(f"{name} does not fit {arch}: it {' and '.join(filter(None, faults))}")
    network.load_state_dict(state, strict=False)


def without_prefixes(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The weights as they are, then without the wrappers' prefixes, one by one, as long as every name starts with the same one."""
    names = dict(state)
    yield names
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in names)), None):
        names = {key.removeprefix(prefix): value for key, value in names.items()}
        yield names


def few(what: str, items: list[str]) -> str:
    """`what` and the first three items; empty where there are none."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{what} {', '.join(items[:3])}{more}" if items else ""
