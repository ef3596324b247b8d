"""A training that can be broken off: its state on the disk, Ctrl-C between two steps, and what an earlier run left."""

from __future__ import annotations

import hashlib
import io
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from robench.errors import DivergedError, InputError
from robench.fitting import Epoch, Note, Run, State, Step, restore, saved
from robench.models import checkpoint
from robench.writing import write_whole

FORMAT = b"robench-training-2 "  # a state begins with this, the sha256 of the rest, and the end of the line
SAVE_SECONDS = 60.0  # a training that is killed loses that much at most, or twenty times what it takes to save
Event: TypeAlias = Step | Epoch | Note


@dataclass(frozen=True)
class Going:
    """A run with its checkpoint-to-be (None: nothing is written) and the words that a resumed run must repeat."""

    out: Path | None
    words: dict[str, Any]
    run: Run

    @property
    def state(self) -> Path | None:
        """The file of the state while the run is under way."""
        return None if self.out is None else self.out.with_name(f"{self.out.stem}.state.pt")


def taken_up(going: Going, resume: bool) -> list[str]:
    """Brings the run to where its state file says; a note that it did. InputError for the state of other settings, or one in the way."""
    path = going.state
    if path is None or not path.exists():
        return []
    if not resume:
        raise InputError(f"{path} holds an unfinished training: pass --resume to go on with it, or remove it")
    content = read_state(path)
    other = differing(content["words"], going.words)
    if other:
        raise InputError(f"{path.name} belongs to a training with other settings ({other}): repeat its words, or remove it")
    restore(going.run, content["run"])
    return [f"taken up after {going.run.done} steps and {len(going.run.history)} epochs"]


def read_state(path: Path) -> dict[str, Any]:
    """What a state file holds; InputError where it is none, or not as it was written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    start = len(FORMAT) + 64
    if not data.startswith(FORMAT):
        raise InputError(f"{path.name} is not the state of a training that this robench can go on with: remove it")
    if data[start : start + 1] != b"\n" or data[len(FORMAT) : start] != hashlib.sha256(data[start + 1 :]).hexdigest().encode():
        raise InputError(f"{path.name} is cut off or damaged: remove it")
    content: dict[str, Any] = torch.load(io.BytesIO(data[start + 1 :]), map_location="cpu", weights_only=True)
    return content


def differing(one: Mapping[str, Any], other: Mapping[str, Any], where: str = "") -> str:
    """The first setting in which two dicts differ, with both values; "" if none."""
    for key in sorted({*one, *other}):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found = differing(a, b, f"{where}{key}.")
            if found:
                return found
        elif a != b:
            return f"{where}{key} was {a!r} and is {b!r}"
    return ""


def kept_going(going: Going, events: Iterator[Event]) -> Iterator[Event]:
    """The events of a run whose state is written every minute, at its end, and where Ctrl-C is pressed, after the step under way.

    Several processes write it after every epoch, together, and Ctrl-C costs what came after the last one. A run that has diverged would
    do so again: its state is removed.
    """
    if going.state is None:
        yield from events
        return
    try:
        yield from watched(going, events)
    except DivergedError:
        going.state.unlink(missing_ok=True)
        raise
    write_state(going)


def watched(going: Going, events: Iterator[Event]) -> Iterator[Event]:
    """The events of a run whose state is written now and then, and where Ctrl-C ends it between two steps."""
    alone, next_save = going.run.world.size == 1, time.monotonic() + SAVE_SECONDS
    with interruptions(alone) as asked:
        for event in events:
            yield event
            if asked() or (time.monotonic() >= next_save if alone else isinstance(event, Epoch)):
                begin_ = time.monotonic()
                write_state(going)
                next_save = time.monotonic() + max(SAVE_SECONDS, 20 * (time.monotonic() - begin_))
            if asked():
                raise KeyboardInterrupt


def write_state(going: Going) -> None:
    """Writes the state file, whole."""
    content = {"words": going.words, "run": saved(going.run)}
    if going.state is not None and going.run.world.rank == 0:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getvalue()
        write_whole({going.state: FORMAT + hashlib.sha256(data).hexdigest().encode() + b"\n" + data})


@contextmanager
def interruptions(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, once; a second one interrupts at once. Where signals cannot or shall not be taken, always no."""
    if not wanted or threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield lambda: False
        return
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def press(number: int, frame: Any) -> None:  # noqa: ARG001 - the signature of a handler
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def finished(out: Path | None, meta: Mapping[str, Any]) -> tuple[State, dict[str, Any]] | None:
    """Weights and meta that an earlier run with the same words has written, if they are there."""
    if out is None or not out.exists() or not out.with_suffix(".json").exists():
        return None
    state, known = checkpoint.read(out)
    wanted = checkpoint.plain(dict(meta))
    recipe = {key: value for key, value in known.get("recipe", {}).items() if key != "epoch"}
    if differing({**{key: known.get(key) for key in wanted}, "recipe": recipe}, wanted):
        return None
    return state, known
