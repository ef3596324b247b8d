"""What a model answers: the logits inside a tuple, a dict or an object, and weights in half precision, whose input has to be cast."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.memory import is_out_of_memory
from robench.models.layers import HALF, half_precision
from robench.models.model_files import first_line

AnswerEntry = str | int  # the name or the place of one tensor among several that a model returns
LOGITS = "logits"  # the entry that is taken wherever there is one of this name
TRIED_SIZES = (4, 1, 2, 8, 16, 32, 64, 10, 20, 25, 50, 100, 128, 256)  # batches until the model answers one


class AnswerReader(nn.Module):
    """A model behind what makes its answers one tensor of logits in float32.

    Attributes:
        network: the model itself.
        entry: which entry of its output are the logits; None where the output is a tensor.
        named: whether the entry is the name of an attribute, and not a key or a place.
        dtype: what the images are cast to; None leaves them as they are.
    """

    def __init__(
        self, network: nn.Module, entry: AnswerEntry | None = None, *, named: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.network, self.entry, self.named, self.dtype, self.training = network, entry, named, dtype, False

    def forward(self, x: Tensor) -> Tensor:
        """The logits, (B, K)."""
        output: Any = self.network(x if self.dtype is None else x.to(self.dtype))
        if self.entry is not None and not isinstance(output, Tensor):
            output = getattr(output, str(self.entry)) if self.named else output[self.entry]
        return output if self.dtype is None else output.float()  # type: ignore[no-any-return]


def readable_model(model: nn.Module, x: Tensor) -> tuple[nn.Module, list[str]]:
    """The model, behind an `AnswerReader` where it returns more than a tensor or needs its input in half precision, with notes.

    Args:
        model: in eval mode.
        x: a few images (B, C, H, W), float, on its device.

    Raises:
        InputError: where what the model returns holds no logits, or it is open which of several tensors they are.
    """
    half = half_precision(model)
    output, _ = first_answer(model, x, None)
    dtype, why = None, ""
    if output is None and half is not None:
        dtype = half
        output, why = first_answer(model, x, half)
    notes = [] if half is None else [half_note(half)]
    if output is None:
        if half is not None and ("not implemented" in why or "not supported" in why):
            raise InputError(f"the model has weights in {dtype_word(half)}, in which {x.device} does not compute all of it: {why}")
        return (model, []) if dtype is None else (AnswerReader(model, dtype=dtype), notes)
    if isinstance(output, Tensor):
        return (model if dtype is None else AnswerReader(model, dtype=dtype)), notes
    entry, note = logits_entry(output)
    return AnswerReader(model, entry, named=is_named(output), dtype=dtype), [note, *notes]


def first_answer(model: nn.Module, x: Tensor, dtype: torch.dtype | None) -> tuple[Any, str]:
    """What the model returns for the first size of batches that it takes, and why it takes none; None where it takes none."""
    why = ""
    for n in dict.fromkeys((len(x), *TRIED_SIZES)):
        batch = x[torch.arange(n, device=x.device) % len(x)]
        try:
            with torch.no_grad():
                return model(batch if dtype is None else batch.to(dtype)), ""
        except Exception as error:
            if is_out_of_memory(error):
                raise
            why = why or f"{type(error).__name__}: {first_line(error)}"
    return None, why


def dtype_word(dtype: torch.dtype) -> str:
    """How sentences call a type: float16.

    Args:
        dtype: a type of tensors
    """
    return str(dtype).removeprefix("torch.")


def half_note(dtype: torch.dtype) -> str:
    """What is to be known of a model in half precision."""
    word = dtype_word(dtype)
    return f"the model has weights in {word}: pixels and attacks stay in float32, and every verdict is the model's own in {word}"


def logits_entry(output: Any) -> tuple[AnswerEntry, str]:
    """Which entry of what a model returns are the logits, and a note that says so.

    It is the one that is called logits, else the only tensor (B, K) of floating-point numbers with K at least 2, else, in a tuple or list,
    the first of several with one K.

    Args:
        output: what a model returns, no tensor.

    Raises:
        InputError: where there is none, and where it is open which.
    """
    what, entries = type(output).__name__, entries_of(output)
    several = {key: value for key, value in entries.items() if are_logits(value)}
    if isinstance(logits := entries.get(LOGITS), Tensor):
        several = {LOGITS: logits}
    if not several:
        inside = f", and none of its entries is ({', '.join(map(repr, entries))})" if entries else ""
        raise InputError(f"the model returns {what}, not one tensor of logits (B, K){inside}")
    widths = {value.shape[-1] for value in several.values()}
    if len(several) > 1 and (isinstance(output, Mapping) or len(widths) > 1 or not isinstance(output, Sequence)):
        named = ", ".join(f"{key!r} (B, {value.shape[-1]})" for key, value in several.items())
        raise InputError(f"the model returns {what} with several tensors that may be the logits ({named}): call one of them {LOGITS!r}")
    entry = next(iter(several))
    others = ", ".join(repr(key) for key in entries if key != entry)
    return entry, f"the model returns {what}: its entry {entry!r} is taken for the logits" + (f", not {others}" if others else "")


def entries_of(output: Any) -> dict[AnswerEntry, Any]:
    """The entries of a dict, a named tuple, a tuple, a list, a dataclass or an object with logits; {} for anything else."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return {LOGITS: output.logits} if hasattr(output, LOGITS) else {}


def is_named(output: Any) -> bool:
    """Whether the entries of an output are attributes."""
    return not isinstance(output, (Mapping, list)) and not (isinstance(output, tuple) and not hasattr(output, "_fields"))


def are_logits(value: Any) -> bool:
    """Whether a value may be logits: a floating-point tensor (B, K), K at least 2."""
    return isinstance(value, Tensor) and value.dim() == 2 and value.is_floating_point() and value.shape[1] > 1


def first_rows(output: Any, n: int) -> Any:
    """What a model returns for its first n images alone.

    Args:
        output: a tensor, or a dict, tuple or list of tensors.
        n: how many.
    """
    if isinstance(output, Mapping):
        return {key: first_rows(value, n) for key, value in output.items()}
    if isinstance(output, (tuple, list)):
        return tuple(first_rows(value, n) for value in output)
    return output[:n] if isinstance(output, Tensor) and output.dim() else output


def joined_answers(parts: Sequence[Any]) -> Any:
    """What a model returns for several batches, as for one.

    Args:
        parts: what it returned for each, all of one form.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Mapping):
        return {key: joined_answers([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(joined_answers(column) for column in zip(*parts, strict=True))
    return torch.cat([*parts]) if isinstance(first, Tensor) and first.dim() else first


def answer_logits_alone(model: nn.Module) -> nn.Module:
    """The model itself, which from now on returns logits alone and takes images in float32, whatever its weights are; by hooks.

    Its weights keep their names, and a plain network stays what it is. A stored program takes no hooks and stays as it is.

    Args:
        model: a network that robench has built or loaded; it is changed in place.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return model
    if half_precision(model) is not None:
        model.register_forward_pre_hook(cast_input)
    model.register_forward_hook(logits_alone)
    return model


def trained_answer_notes(model: nn.Module, x: Tensor) -> list[str]:
    """Makes a network that is to be trained return logits alone where it returns more in training or eval mode, with a note; in place.

    Args:
        model: the network.
        x: a few images (B, C, H, W), float.

    Raises:
        InputError: where it is open which of several tensors the logits are.
    """
    outputs = []
    with suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):  # what fails here is told by those who look at it next
        trial = deepcopy(model)
        for mode in (True, False):
            outputs.append(trial.train(mode)(x))
    several = [output for output in outputs if not isinstance(output, Tensor)]
    if not several:
        return []
    _, note = logits_entry(several[0])
    model.register_forward_hook(logits_alone)
    return [f"{note}; it is trained on them alone"]


def cast_input(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The images in the type of the model's weights."""
    return tuple(x.to(half_precision(model)) for x in inputs)


def logits_alone(_: nn.Module, __: Any, output: Any) -> Tensor:
    """The logits in what a model returns, in float32 where they come in half precision."""
    if not isinstance(output, Tensor):
        entry, _note = logits_entry(output)
        output = entries_of(output)[entry]
    return output.float() if output.dtype in HALF else output  # type: ignore[no-any-return]
