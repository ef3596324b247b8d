"""What a model file holds, told by its content, and the reading of those that torch.save wrote. Nothing runs without trust."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.code_permission import ask_before_code
from robench.core.errors import InputError
from robench.core.files import unpacked_limit

TRUST = "pass --trust (trust=True in Python)"


def existing_file(source: str | Path) -> Path:
    """The path of a readable, non-empty file; InputError else."""
    path = Path(source)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: name a model file in it")
        if not path.is_file():
            raise InputError(f"no such model file: {path}")
        with path.open("rb") as handle:
            if not handle.read(1):
                raise InputError(f"{path} is empty")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return path


def model_file_kind(path: Path) -> str:
    """The kind of a model file, a key of loading.OPENERS; InputError where it is none.

    Args:
        path: the file.
    """
    with path.open("rb") as handle:
        start = handle.read(9)
    if start[:2] == b"PK":
        return zip_file_kind(path)
    if start[:1] == b"\x80":  # a pickle: what torch.save wrote before 1.6
        return "torch"
    if path.suffix == ".safetensors" or (start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size):
        return "safetensors"
    if path.suffix == ".py":
        raise InputError(f"{path} is a Python file: name the function in it that makes the model, as {path}:FUNCTION")
    if start.startswith(b"robe") and path.name.endswith(".state.pt"):
        raise InputError(f"{path.name} is the state of an unfinished training: end it with robench train and --resume")
    raise InputError(f"{path.name} is not a model file that robench knows: it starts with {start[:4]!r}")


def zip_file_kind(path: Path) -> str:
    """The kind of a zip file, by the names in it; InputError where it is cut off, damaged or something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
            unpacked = sum(item.file_size for item in archive.infolist())
            if unpacked > unpacked_limit(path.stat().st_size):
                raise InputError(f"{path.name} is {path.stat().st_size:,} bytes and would unpack to {unpacked:,}: that is no model file")
            # torch can leave the checksums out; then all are 0
            damaged = archive.testzip() if any(item.CRC for item in archive.infolist()) else None
            if min((item.header_offset for item in archive.infolist()), default=0):
                raise zipfile.BadZipFile("cut off: this is the directory of a zip file inside it")
    except InputError:
        raise
    except Exception as error:  # names that are no UTF-8, streams that end early, ...: zipfile has an exception of its own for each
        raise InputError(f"{path.name} is cut off or damaged: copy it again") from error
    if damaged:
        raise InputError(f"{path.name} is damaged, {damaged!r} in it fails its checksum: copy it again")
    if any("data/aotinductor/" in name for name in names):
        raise InputError(f"{path.name} is an AOTInductor package, compiled code without gradients: save a torch.export program instead")
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return "pt2"
    if "constants.pkl" in names:
        return "torchscript"
    if "data.pkl" in names:
        return "torch"
    raise InputError(f"{path.name} is a zip file, but holds no model")


def read_torch(path: Path, trust: bool) -> tuple[Any, list[str]]:
    """What torch.save wrote, on the CPU, and notes. Weights only; a pickle that needs more is an InputError unless `trust` is set."""
    try:
        return unpickled_content(path, weights_only=True), []
    except InputError:
        raise
    except UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None:
            raise unreadable_error(path, error) from error
        if not trust:
            raise InputError(
                f"{path.name} holds a pickled model or other code ({culprit[1]}) and is refused: "
                f"save its state_dict, or {TRUST} to unpickle it, which runs code from the file"
            ) from error
    except Exception as error:
        raise unreadable_error(path, error) from error
    ask_before_code(str(path))
    try:
        return unpickled_content(path, weights_only=False), [f"{path.name} was unpickled, which can run any code"]
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path.name} cannot be unpickled ({type(error).__name__}: {first_line(error)}): save its state_dict instead"
        ) from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Args:
        path: the file.

    Raises:
        InputError: where it is damaged, or safetensors is not installed.
    """
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(f"{path.name} needs the package safetensors, which is not installed: pip install safetensors") from None
    try:
        return load_file(path)
    except Exception as error:
        raise InputError(f"{path.name} is damaged or no safetensors file ({first_line(error)})") from error


def unpickled_content(path: Path, weights_only: bool) -> Any:
    """torch.load on the CPU, without its advice about pickle protocols; InputError for tensors that the file is too small for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        content = torch.load(path, map_location="cpu", weights_only=weights_only)
    if not isinstance(content, nn.Module):
        refuse_oversized_tensors(content, path.stat().st_size, path.name)
    return content


def refuse_oversized_tensors(content: Any, size: int, name: str) -> None:
    """Refuses tensors that would take more memory than the file that holds them: strides of 0 and storages that were never written.

    Args:
        content: what was read.
        size: of the file, in bytes.
        name: what the sentence calls it.

    Raises:
        InputError: where there is one.
    """
    for value in nested_values(content):
        if isinstance(value, Tensor) and value.layout == torch.strided and value.numel() * value.element_size() > unpacked_limit(size):
            raise InputError(f"{name} is damaged: it is {size:,} bytes, and a tensor in it claims the shape {tuple(value.shape)}")


def nested_values(content: Any) -> Iterator[Any]:
    """All that lies in nested dicts and lists, each dict and list once."""
    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, (Mapping, list, tuple, set, frozenset)):
            if id(value) not in seen:
                seen.add(id(value))
                waiting += [*value.values()] if isinstance(value, Mapping) else [*value]
        else:
            yield value


def unreadable_error(path: Path, error: Exception) -> InputError:
    """The error for a file that torch cannot read at all."""
    reason = (
        "" if isinstance(error, UnpicklingError) else f": {first_line(error)}"
    )  # the unpickler's own message is advice to trust the file
    return InputError(f"{path.name} is cut off, damaged, or no file that torch.save wrote ({type(error).__name__}{reason})")


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters of it, for use inside one sentence."""
    return next((shorten(line, 200) for line in str(error).splitlines() if line.strip()), type(error).__name__)
