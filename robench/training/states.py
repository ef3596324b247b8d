"""The state of a training under way: what of a run is saved, its file, and Ctrl-C between two steps."""

from __future__ import annotations

import copy
import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robench.core.errors import DivergedError, InputError
from robench.core.files import write_whole
from robench.core.folders import word_difference
from robench.core.interrupts import interruptions
from robench.models import checkpoint
from robench.models.model_files import refuse_oversized_tensors
from robench.training.presets import SMALL_SETTINGS
from robench.training.types import Epoch, Event, StateDict, TrainingRun

STATE_FORMAT = b"robench-training-3 "  # a state begins with this, the sha256 of the rest, and the end of the line
SAVE_SECONDS = 60.0  # a training that is killed loses that much at most, or twenty times what it takes to save
PROGRESS_FIELDS = {"done": "steps_done", "sums": "sums", "history": "history", "first": "first"}  # by their key in a state file
KEPT_EPOCHS = ("best", "last", "steady")


def snapshot(model: nn.Module) -> StateDict:
    """A copy of the weights and buffers on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def run_state(run: TrainingRun) -> dict[str, Any]:
    """Everything of a run that a later process needs to go on, as tensors on the CPU, numbers, words, lists and dicts.

    Of several processes all must call it together: what the objective keeps is each one's own.
    """
    now = rollback_state(run)
    return {
        **now,
        "everybody": run.world.gather(now["kept"]),
        **kept_epoch_states(vars(run)),
        "good": None if run.good is None else {"moment": run.good["moment"], **kept_epoch_states(run.good)},
        "lost": copy.deepcopy(run.lost_epochs),
    }


def kept_epoch_states(of: Mapping[str, Any]) -> dict[str, Any]:
    """The epochs whose weights are kept, as dicts."""
    return {name: None if of[name] is None else asdict(of[name]) for name in KEPT_EPOCHS}


def epochs_from_state(state: Mapping[str, Any]) -> dict[str, Epoch | None]:
    """Those epochs again; what was one epoch under several names is one object."""
    kept = {name: Epoch(**state[name]) for name in KEPT_EPOCHS if state.get(name) is not None}
    known = {(epoch.epoch, epoch.seconds): epoch for epoch in kept.values()}
    return {name: known[kept[name].epoch, kept[name].seconds] if name in kept else None for name in KEPT_EPOCHS}


def rollback_state(run: TrainingRun) -> dict[str, Any]:
    """The part of a run's state that a roll-back brings back."""
    return copy.deepcopy(
        {
            "model": snapshot(run.model),
            "average": None if run.average is run.model else snapshot(run.average),
            "optimizer": run.optimizer.state_dict(),
            "kept": {name: tensor.cpu() for name, tensor in run.kept_tensors.items()},
            **{key: getattr(run, name) for key, name in PROGRESS_FIELDS.items()},
        }
    )


def restore_run(run: TrainingRun, state: Mapping[str, Any]) -> None:
    """Brings a run to where it was when `state` was saved.

    Args:
        run: the run, at any step; it is changed.
        state: from `run_state`, or from `rollback_state`, which leaves the best and the last epochs as they are.
    """
    run.model.load_state_dict(state["model"])
    if run.average is not run.model:
        run.average.load_state_dict(state["average"])
    run.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    device = run.weights[0].device
    run.kept_tensors = {name: tensor.to(device) for name, tensor in state["kept"].items()}
    for key, name in PROGRESS_FIELDS.items():
        setattr(run, name, copy.deepcopy(state[key]))
    if "best" in state:
        run.best, run.last, run.steady = epochs_from_state(state).values()
        run.good = None if state["good"] is None else {"moment": state["good"]["moment"], **epochs_from_state(state["good"])}
        run.lost_epochs = copy.deepcopy(state["lost"])
        run.kept_tensors = {name: tensor.to(device) for name, tensor in state["everybody"][run.world.rank].items()}


def save_nothing_else() -> None:
    """Does nothing: a state alone is written."""


@dataclass(frozen=True)
class ResumableRun:
    """A run with the file that it will write, and what a resumed run must repeat.

    Attributes:
        out: the checkpoint-to-be, FILE.pt; None: nothing is written.
        words: the settings of the training as plain values; a state with others is refused.
        run: the run.
        before_saving: called before each state is written, such as for what must not lag behind it.
    """

    out: Path | None
    words: dict[str, Any]
    run: TrainingRun
    before_saving: Callable[[], None] = save_nothing_else

    @property
    def state(self) -> Path | None:
        """The file of the state while the run is under way."""
        return None if self.out is None else self.out.with_name(f"{self.out.stem}.state.pt")


def resume_from_state(going: ResumableRun, resume: bool, force: bool = False) -> list[str]:
    """Brings a run to where its state file says, if there is one.

    Args:
        going: the run; it is changed.
        resume: go on from the file.
        force: without `resume`: begin anew, whatever the file holds.

    Returns:
        A note that the run was taken up; none where it begins.

    Raises:
        InputError: for the state of other settings, and for any state where neither is wanted.
    """
    path = going.state
    if path is None or not path.exists() or (force and not resume):
        return []
    if not resume:
        raise InputError(f"{path} holds an unfinished training: pass --resume to go on with it, or --force to begin anew")
    content = read_state(path)
    other = setting_difference(content["words"], going.words)
    if other:
        raise InputError(
            f"{path.name} belongs to a training with other settings ({other}): repeat its words, or pass --force to begin anew"
        )
    try:
        restore_run(going.run, content["run"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise InputError(f"{path.name} does not hold what a state of this training holds ({type(error).__name__}): remove it") from error
    return [f"taken up after {going.run.steps_done} steps and {len(going.run.history)} epochs"]


def setting_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first setting in which two trainings differ; what the user says before what follows from it, such as the network's mean."""
    theirs, ours = with_later_settings(theirs), with_later_settings(ours)
    before, now = (dict((words.get("recipe") or {}).get("init") or {}) for words in (theirs, ours))
    if before.get("name") == now.get("name") and before.get("sha256") != now.get("sha256"):
        return (
            f"{now['name']}, with whose weights it began, has changed: their sha256 was {before['sha256'][:12]} and is {now['sha256'][:12]}"
        )
    for keys in (("recipe", "preset"), (*theirs, *ours)):
        difference = word_difference({key: theirs.get(key) for key in keys}, {key: ours.get(key) for key in keys})
        if difference:
            return difference
    return ""


def with_later_settings(words: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a training, in which a setting that an earlier version did not have is at its default.

    Args:
        words: of a state or of a checkpoint; without a recipe they stay as they are.
    """
    recipe = words.get("recipe")
    if not isinstance(recipe, Mapping) or not recipe:
        return dict(words)
    return {**words, "recipe": {**checkpoint.plain_values(SMALL_SETTINGS), **recipe}}


def foreign_state_sentence(path: Path) -> str:
    """The sentence for a file that has the name of a state and is something else, perhaps somebody's training."""
    return f"{path} is not the state of a training that this robench can go on with: move it, or choose another --out"


def read_state(path: Path) -> dict[str, Any]:
    """What a state file holds; InputError where it is none, or not as it was written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    start = len(STATE_FORMAT) + 64
    if not data.startswith(STATE_FORMAT):
        raise InputError(foreign_state_sentence(path))
    if data[start : start + 1] != b"\n" or data[len(STATE_FORMAT) : start] != hashlib.sha256(data[start + 1 :]).hexdigest().encode():
        raise InputError(f"{path.name} is cut off or damaged: remove it")
    try:
        content = torch.load(io.BytesIO(data[start + 1 :]), map_location="cpu", weights_only=True)
        whole = isinstance(content, dict) and isinstance(content.get("words"), dict) and isinstance(content.get("run"), dict)
    except Exception:  # an unpickler that is fed anything raises anything
        whole = False
    if not whole:
        raise InputError(foreign_state_sentence(path))
    refuse_oversized_tensors(content, len(data), path.name)
    return content  # type: ignore[no-any-return]


def resumable_events(going: ResumableRun, events: Iterator[Event]) -> Iterator[Event]:
    """The events of a run whose state is written after epochs, every minute, at its end, and at Ctrl-C, after the step under way.

    After an epoch it is written unless that would take more than a fiftieth of the time.

    Several processes write it after every epoch, together, and Ctrl-C costs what came after the last one. A run that has diverged would
    do so again: its state is removed.
    """
    if going.state is None:
        yield from events
        return
    try:
        yield from interruptible_events(going, events)
    except DivergedError:
        remove_state(going)
        raise
    write_state(going)


def interruptible_events(going: ResumableRun, events: Iterator[Event]) -> Iterator[Event]:
    """The events of a run whose state is written now and then, and where Ctrl-C ends it between two steps."""
    alone, begin = going.run.world.size == 1, time.monotonic()
    next_save, next_epoch_save = begin + SAVE_SECONDS, begin
    with interruptions(alone) as interruption:
        for event in events:
            yield event
            now, is_epoch = time.monotonic(), isinstance(event, Epoch)
            is_due = (now >= next_save or (is_epoch and now >= next_epoch_save)) if alone else is_epoch
            if interruption() or is_due:
                write_state(going)
                after = time.monotonic()
                next_save, next_epoch_save = after + max(SAVE_SECONDS, 20 * (after - now)), after + 50 * (after - now)
            if stop := interruption():
                raise stop


def write_state(going: ResumableRun) -> None:
    """Writes the state file, whole."""
    going.before_saving()
    content = {"words": going.words, "run": run_state(going.run)}
    if going.state is not None and going.run.world.rank == 0:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getvalue()
        write_whole({going.state: STATE_FORMAT + hashlib.sha256(data).hexdigest().encode() + b"\n" + data})


def remove_state(going: ResumableRun) -> None:
    """Removes the state file of a run that is finished, or cannot go on."""
    if going.state is not None:
        going.state.unlink(missing_ok=True)
