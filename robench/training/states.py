"""A training that can be broken off: its state on the disk, Ctrl-C between two steps, and what an earlier run left."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeAlias

import torch

from robench.core.errors import BusyError, DivergedError, InputError, UnfinishedError
from robench.core.files import hold_lock, prepare_folder, write_whole
from robench.core.folders import exchange_files, finish_exchange, make_empty_folder, word_difference
from robench.core.processes import World
from robench.models import checkpoint
from robench.training.fitting import Epoch, StateDict, Step, TrainingNote, TrainingRun, restore_run, run_state

STATE_FORMAT = b"robench-training-2 "  # a state begins with this, the sha256 of the rest, and the end of the line
CHECKPOINT_ENDS = (".pt", ".pth")
RESERVED = (".state", ".last", ".best", ".teacher")  # files of the training of FILE.pt are called FILE.state.pt and so on
ENDS_BESIDE = (".json", ".log.csv", ".curves.png", *(f".{which}{end}" for which in ("best", "last") for end in (*CHECKPOINT_ENDS, ".json")))
SAVE_SECONDS = 60.0  # a training that is killed loses that much at most, or twenty times what it takes to save
Event: TypeAlias = Step | Epoch | TrainingNote


@dataclass(frozen=True)
class ResumableRun:
    """A run with its checkpoint-to-be (None: nothing is written) and the words that a resumed run must repeat."""

    out: Path | None
    words: dict[str, Any]
    run: TrainingRun

    @property
    def state(self) -> Path | None:
        """The file of the state while the run is under way."""
        return None if self.out is None else self.out.with_name(f"{self.out.stem}.state.pt")


def resume_from_state(going: ResumableRun, resume: bool, force: bool = False) -> list[str]:
    """Brings the run to where its state file says; a note that it did. InputError for the state of other settings, or one in the way."""
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
    restore_run(going.run, content["run"])
    return [f"taken up after {going.run.done} steps and {len(going.run.history)} epochs"]


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
    content: dict[str, Any] = torch.load(io.BytesIO(data[start + 1 :]), map_location="cpu", weights_only=True)
    return content


def resumable_events(going: ResumableRun, events: Iterator[Event]) -> Iterator[Event]:
    """The events of a run whose state is written every minute, at its end, and where Ctrl-C is pressed, after the step under way.

    Several processes write it after every epoch, together, and Ctrl-C costs what came after the last one. A run that has diverged would
    do so again: its state is removed.
    """
    if going.state is None:
        yield from events
        return
    try:
        yield from interruptible_events(going, events)
    except DivergedError:
        going.state.unlink(missing_ok=True)
        raise
    write_state(going)


def interruptible_events(going: ResumableRun, events: Iterator[Event]) -> Iterator[Event]:
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


def write_state(going: ResumableRun) -> None:
    """Writes the state file, whole."""
    content = {"words": going.words, "run": run_state(going.run)}
    if going.state is not None and going.run.world.rank == 0:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getvalue()
        write_whole({going.state: STATE_FORMAT + hashlib.sha256(data).hexdigest().encode() + b"\n" + data})


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


@contextmanager
def claimed_checkpoint(
    out: Path | None, name: str, words: Mapping[str, Any], world: World, *, resume: bool, force: bool
) -> Iterator[Path | None]:
    """The checkpoint that a training writes, FILE.pt, which nobody else can write to as long as this lasts.

    out    FILE.pt; or a folder: then the file is called `name`, with the next free number, or with `resume` is that of the newest
           unfinished training of these words, else of a finished one
    words  what the checkpoint says of itself, as far as it is known before a teacher is

    Of several processes the first one chooses. InputError where a finished training would be replaced and `force` is not given.
    """
    if out is None:
        yield None
        return
    with ExitStack() as stack:
        chosen, refusal = None, None
        if world.rank == 0:
            try:
                refuse_reserved(out, words)
                chosen = locked_checkpoint(out, name, words, resume, stack)
                refuse_reserved(chosen, words)
                refuse_foreign_state(chosen)
                refuse_finished(chosen, words, resume, force)
            except InputError as error:
                refusal = error
        chosen, refusal = world.first_of((chosen, refusal))
        if refusal is not None:
            raise refusal
        yield chosen


def refuse_reserved(out: Path, words: Mapping[str, Any]) -> None:
    """InputError for a name that belongs to the files of another training. Only a teacher, measured with no suite, is called .teacher."""
    if out.name in CHECKPOINT_ENDS:
        raise InputError(f"{out} has no name before its {out.name}: write FILE.pt")
    end = Path(out.stem).suffix if out.suffix in CHECKPOINT_ENDS else ""
    if end in RESERVED and (end != ".teacher" or recorded_suite(words)):
        stem = out.stem.removesuffix(end)
        raise InputError(f"{out.name} is the name of a file that the training of {stem}{out.suffix} may write: choose another --out")


def recorded_suite(words: Mapping[str, Any]) -> Any:
    """What a training is measured with at its end; nothing for a teacher that is trained first."""
    return words.get("recipe", {}).get("suite")


def refuse_foreign_state(out: Path) -> None:
    """InputError where the state of FILE.pt would be written over a file that is no state of a training."""
    path = out.with_name(f"{out.stem}.state.pt")
    try:
        with path.open("rb") as handle:
            start = handle.read(len(STATE_FORMAT))
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if not start.startswith(STATE_FORMAT.partition(b"-2")[0]):
        raise InputError(foreign_state_sentence(path))


def locked_checkpoint(out: Path, name: str, words: Mapping[str, Any], resume: bool, stack: ExitStack) -> Path:
    """The file that is locked for this training."""
    if out.suffix in CHECKPOINT_ENDS:
        prepare_folder(out.parent)
        stack.enter_context(hold_lock(out.with_name(f".{out.stem}.lock"), out))
        return out
    prepare_folder(out)
    for path in chain(earlier_training_paths(out, name, words) if resume else (), free_paths(out, name)):
        with suppress(BusyError):  # another run writes there
            stack.enter_context(hold_lock(path.with_name(f".{path.stem}.lock"), path))
            if resume or not is_occupied(path):
                return path
    raise AssertionError("there is always a free number")


def free_paths(folder: Path, name: str) -> Iterator[Path]:
    """Files of a name, with the next free numbers."""
    paths = (folder / (f"{name}.pt" if number == 1 else f"{name}-{number}.pt") for number in count(1))
    return (path for path in paths if not is_occupied(path))


def is_occupied(path: Path) -> bool:
    """Whether there is a file that belongs to a checkpoint of this name, or to its training."""
    return any(path.with_name(path.stem + end).exists() for end in (".pt", ".json", ".state.pt", ".teacher.pt", ".teacher.state.pt"))


def setting_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first setting in which two trainings differ; what the user says before what follows from it, such as the network's mean."""
    for keys in (("recipe", "preset"), (*theirs, *ours)):
        told = word_difference({key: theirs.get(key) for key in keys}, {key: ours.get(key) for key in keys})
        if told:
            return told
    return ""


def earlier_training_paths(folder: Path, name: str, words: Mapping[str, Any]) -> Iterator[Path]:
    """The unfinished trainings of these words under a name and its numbers, the newest first, then the finished ones."""
    family = re.compile(re.escape(name) + r"(-[0-9]+)?")
    stems = {path.name.partition(".pt")[0] for path in folder.glob(f"{glob.escape(name)}*.pt")}
    plain = {stem.removesuffix(".state").removesuffix(".teacher") for stem in stems}
    paths = [folder / f"{stem}.pt" for stem in plain if family.fullmatch(stem)]
    unfinished = [path for path in paths if not path.exists() and state_matches(path, words)]
    yield from sorted(unfinished, key=last_write_time, reverse=True)
    yield from sorted(
        (path for path in paths if path.exists() and not checkpoint_difference(path, words)), key=last_write_time, reverse=True
    )


def last_write_time(path: Path) -> float:
    """When a file of a training was last written."""
    ends = (".pt", ".state.pt", ".teacher.pt", ".teacher.state.pt")
    return max(other.stat().st_mtime for end in ends if (other := path.with_name(path.stem + end)).exists())


def state_matches(path: Path, words: Mapping[str, Any]) -> bool:
    """Whether the state of a training belongs to these words; one that still trains its teacher has none, and its name must do."""
    state = path.with_name(f"{path.stem}.state.pt")
    if not state.exists():
        return True
    try:
        known = read_state(state)["words"]
    except InputError:
        return False
    return not word_difference(
        words_without_teacher({key: value for key, value in known.items() if key != "processes"}), words_without_teacher(words)
    )


def words_without_teacher(words: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a training but for its teacher and the epoch that was chosen."""
    recipe = {key: value for key, value in words.get("recipe", {}).items() if key not in ("teacher", "epoch")}
    return {**checkpoint.plain_values(dict(words)), "recipe": checkpoint.plain_values(recipe)}


def refuse_finished(out: Path, words: Mapping[str, Any], resume: bool, force: bool) -> None:
    """InputError where FILE.pt, or a file beside it, is there and must not be replaced. Ends an exchange that was broken off."""
    finish_exchange(staging_folder(out), out.parent, out.name)
    if not out.exists():
        there = files_beside(out)
        if there:
            raise InputError(f"{there[0]} is in the way, and there is no {out.name} that it belongs to: choose another --out, or move it")
        return
    known = checkpoint.read_checkpoint(out)[1]
    if Path(out.stem).suffix == ".teacher" and recorded_suite(known):
        raise InputError(f"{out} holds a finished training and no teacher that was trained first: move it, or choose another --out")
    foreign = [path for path in stranger_files(out) if force or path == out.with_suffix(".json")]
    if foreign:
        raise InputError(f"{foreign[0]} was not written with {out.name}, or was changed since: move it, or choose another --out")
    if force:
        return
    if not resume:
        raise InputError(f"{out} holds a finished training: pass --resume to see it, --force to replace it, or choose another --out")
    other = checkpoint_difference(out, words)
    if other:
        begun = "; --force --resume goes on with the one that is to replace it" if out.with_name(f"{out.stem}.state.pt").exists() else ""
        raise InputError(
            f"{out} holds a finished training with other settings ({other}): pass --force to replace it, or choose another --out{begun}"
        )


def files_beside(out: Path) -> list[Path]:
    """The files that are there under the names of those beside FILE.pt."""
    return [path for path in (out.with_name(out.stem + end) for end in ENDS_BESIDE) if path.exists()]


def stranger_files(out: Path) -> list[Path]:
    """The files that are there under the names of those beside FILE.pt, but were not written by its training."""
    state, meta = checkpoint.read_checkpoint(out)
    return [path for path in files_beside(out) if not belongs_to_training(path, out, state, meta)]


def belongs_to_training(path: Path, out: Path, state: StateDict, meta: Mapping[str, Any]) -> bool:
    """Whether a file beside FILE.pt was written by its training; curves cannot be told apart, and count as if they were."""
    end = path.name.removeprefix(out.stem)
    if end == ".json":
        return checkpoint.describes_weights(path, state)
    if end == ".log.csv":
        return logged_seconds(path) == [epoch["seconds"] for epoch in meta.get("history", [])]
    return end == ".curves.png" or is_sibling_checkpoint(path, out, meta)


def logged_seconds(path: Path) -> list[float]:
    """The seconds of each epoch in a log; none where it is something else."""
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            return [float(line["seconds"]) for line in csv.DictReader(handle)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []


def is_sibling_checkpoint(path: Path, out: Path, meta: Mapping[str, Any]) -> bool:
    """Whether a file holds, or describes, the best or the last weights of the training of FILE.pt: its history, and nothing measured."""
    weights = path if path.suffix in CHECKPOINT_ENDS else path.with_suffix(out.suffix)
    try:
        state, its = checkpoint.read_checkpoint(weights)
    except InputError:
        return False
    same = its.get("history") == meta.get("history") and not its.get("metrics")
    return same and (path == weights or checkpoint.describes_weights(path, state))


def checkpoint_difference(out: Path, words: Mapping[str, Any]) -> str:
    """In what a finished checkpoint was trained otherwise, but for its teacher; "" where in nothing."""
    known = checkpoint.read_checkpoint(out)[1]
    wanted = words_without_teacher(words)
    return setting_difference(words_without_teacher({key: known.get(key) for key in wanted}), wanted)


def finished_training(out: Path | None, words: Mapping[str, Any]) -> tuple[StateDict, dict[str, Any]] | None:
    """Weights and meta that an earlier run with the same words has written, if they are there."""
    if out is None or not out.exists() or checkpoint_difference(out, words):
        return None
    return checkpoint.read_checkpoint(out)


def has_unfinished_training(out: Path | None) -> bool:
    """Whether a training of FILE.pt lies there that can go on."""
    return out is not None and any(out.with_name(out.stem + end).exists() for end in (".state.pt", ".teacher.state.pt"))


def staging_folder(out: Path) -> Path:
    """The hidden folder in which the files of a checkpoint are put together."""
    return out.with_name(f".{out.stem}.results")


@contextmanager
def checkpoint_replacement(out: Path) -> Iterator[Path]:
    """Where the files of FILE.pt are written; at the end they move into their place, and those of the earlier training go, no others."""
    staged = make_empty_folder(staging_folder(out))
    try:
        yield staged / out.name
        old = {out.name, *(path.name for path in {*files_beside(out)} - {*stranger_files(out)})} if out.exists() else set()
        exchange_files(staged, out.parent, old, last=out.name)
    except UnfinishedError:
        raise
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
