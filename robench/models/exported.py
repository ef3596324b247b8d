"""A torch.export program (.pt2) as a classifier: it stays as it was exported, so its batch size and mode are worked around, not changed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.models.answers import first_rows, joined_answers


class Exported(nn.Module):
    """Runs a program on batches of any size: at most `most` images at a time, filled up to `least` with copies of the last one."""

    def __init__(self, program: nn.Module, least: int, most: int | None) -> None:
        super().__init__()
        self.program, self.least, self.most = program, least, most

    def forward(self, x: Tensor) -> Any:
        """What the program returns: the logits, (B, K), or several tensors, all of them for all images."""
        return joined_answers([self.part_answer(part) for part in (x.split(self.most) if self.most else (x,))])

    def part_answer(self, x: Tensor) -> Any:
        """What the program returns for at most `most` images."""
        fill = x[-1:].expand(max(0, self.least - len(x)), *x.shape[1:])
        return first_rows(self.program(torch.cat((x, fill)) if len(fill) else x), len(x))

    def train(self, mode: bool = True) -> Exported:
        """This module, unchanged but for the flag: a program has no modes, and raises when it is asked to change."""
        self.training = mode
        return self


def read_program(path: Path, device: str) -> Exported:
    """The program that torch.export.save wrote, on `device`; it must take one batch of images and be exported in eval mode.

    torch.export.load can unpickle weights, constants and sample inputs in full (torch 2.15), so the caller must trust the file.
    """
    from torch.export.passes import move_to_device_pass

    try:
        with silence_logger("torch.export"), path.open("rb") as file:  # a path would have to end in .pt2
            program = torch.export.load(file)
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as a torch.export program ({type(error).__name__}): export it again") from error
    refuse_training_mode(program, path.name)
    least, most = batch_range(program, path.name)
    return Exported(move_to_device_pass(program, device).module(), least, most)


def batch_range(program: torch.export.ExportedProgram, name: str) -> tuple[int, int | None]:
    """The smallest and largest batch the program takes (None: no limit); InputError where it takes no single batch of images."""
    inputs = program.graph_signature.user_inputs
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].dim() != 4:
        raise InputError(f"{name} takes something else than one batch of images: export a program of x (B, C, H, W)")
    size: Any = values[0].shape[0]
    if isinstance(size, int):
        return size, size
    limits = program.range_constraints.get(size.node.expr)
    if limits is None:
        raise InputError(f"{name} takes batches of {size.node.expr} images only: export it with a plain dynamic batch size")
    most = int(limits.upper) if limits.upper < 2**31 else None
    return max(1, int(limits.lower)), most


def refuse_training_mode(program: torch.export.ExportedProgram, name: str) -> None:
    """InputError where dropout or batch norm was exported in training mode; it cannot be switched off afterwards."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        flags = [argument.name for argument in schema.arguments]
        arguments = dict(zip(flags, node.args, strict=False)) | dict(node.kwargs)
        if arguments.get("train") is True or arguments.get("training") is True:
            raise InputError(f"{name} was exported in training mode ({schema.name}): export model.eval()")


@contextmanager
def silence_logger(name: str) -> Iterator[None]:
    """Without the messages of one logger: what it would print as a traceback becomes an InputError."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
