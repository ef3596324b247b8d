"""The files of a training: which one it may write, what an earlier training left there, and their replacement as a whole."""

from __future__ import annotations

import copy
import glob
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from torch import nn

from robench.core.cells import csv_cells
from robench.core.errors import BusyError, InputError, UnfinishedError
from robench.core.files import hold_lock, prepare_folder, refuse_link
from robench.core.folders import exchange_files, finish_exchange, make_empty_folder, word_difference
from robench.core.processes import World
from robench.models import checkpoint
from robench.report.figures.training import draw_training_curves, write_epoch_log
from robench.training.settings import loss_sentences
from robench.training.states import STATE_FORMAT, foreign_state_sentence, read_state, setting_difference, with_later_settings
from robench.training.types import Epoch, StateDict

CHECKPOINT_ENDS = (".pt", ".pth")
RESERVED_STEM_ENDS = (".state", ".last", ".best", ".teacher")  # files of the training of FILE.pt are called FILE.state.pt and so on
ENDS_BESIDE = (".json", ".log.csv", ".curves.png", *(f".{which}{end}" for which in ("best", "last") for end in (*CHECKPOINT_ENDS, ".json")))


@contextmanager
def claimed_checkpoint(
    out: Path | None, name: str, words: Mapping[str, Any], world: World, *, resume: bool, force: bool
) -> Iterator[Path | None]:
    """The checkpoint that a training writes, FILE.pt, which nobody else can write to as long as this lasts.

    Of several processes the first one chooses.

    Args:
        out: FILE.pt; or a folder; None: nothing is written.
        name: what a file in a folder is called, with the next free number; with `resume` the newest unfinished training of these words is
            taken, else a finished one.
        words: what the checkpoint says of itself, as far as it is known before a teacher is.
        world: which process this is, of how many.
        resume: whether an earlier training of these words is gone on with.
        force: whether a finished training may be replaced.

    Raises:
        InputError: where a finished training would be replaced without `force`, and where other files are in the way.
    """
    if out is None:
        yield None
        return
    with ExitStack() as stack:
        file, refusal = None, None
        if world.rank == 0:
            try:
                refuse_reserved(out, words)
                file = locked_checkpoint(out, name, words, resume, stack)
                remove_half_written_files(file)
                refuse_reserved(file, words)
                refuse_foreign_state(file)
                refuse_finished(file, words, resume, force)
                remove_stale_measurement(file, resume, force)
            except InputError as error:
                refusal = error
        file, refusal = world.first_of((file, refusal))
        if refusal is not None:
            raise refusal
        yield file


def refuse_reserved(out: Path, words: Mapping[str, Any]) -> None:
    """InputError for a name that belongs to the files of another training. Only a teacher, measured with no suite, is called .teacher."""
    if out.name in CHECKPOINT_ENDS:
        raise InputError(f"{out} has no name before its {out.name}: write FILE.pt")
    end = Path(out.stem).suffix if out.suffix in CHECKPOINT_ENDS else ""
    if end in RESERVED_STEM_ENDS and (end != ".teacher" or recorded_suite(words)):
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
    if not start.startswith(STATE_FORMAT.partition(b"-3")[0]):
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


def remove_half_written_files(out: Path) -> None:
    """Removes the temporary files that a killed training of FILE.pt left. To be called while it is locked."""
    ends = "|".join(map(re.escape, (*CHECKPOINT_ENDS, ".state.pt", *ENDS_BESIDE)))
    for path in out.parent.glob(f".{glob.escape(out.stem)}.*.tmp"):
        if re.fullmatch(rf"\.{re.escape(out.stem)}({ends})\.[0-9]+\.tmp", path.name):
            path.unlink(missing_ok=True)


def measurement_folder(out: Path) -> Path:
    """The hidden folder of the states of the measurement at the end of a training."""
    return out.with_name(f".{out.stem}.measurement")


def remove_stale_measurement(out: Path, resume: bool, force: bool) -> None:
    """Removes the states of a measurement with which no training goes on: it is finished, or begins anew."""
    refuse_link(measurement_folder(out))
    if not out.with_name(f"{out.stem}.state.pt").exists() or (force and not resume):
        shutil.rmtree(measurement_folder(out), ignore_errors=True)


def free_paths(folder: Path, name: str) -> Iterator[Path]:
    """Files of a name, with the next free numbers."""
    paths = (folder / (f"{name}.pt" if number == 1 else f"{name}-{number}.pt") for number in count(1))
    return (path for path in paths if not is_occupied(path))


def is_occupied(path: Path) -> bool:
    """Whether there is a file that belongs to a checkpoint of this name, or to its training."""
    return any(path.with_name(path.stem + end).exists() for end in (".pt", ".json", ".state.pt", ".teacher.pt", ".teacher.state.pt"))


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
        state_words = read_state(state)["words"]
    except InputError:
        return False
    return not word_difference(
        words_without_teacher({key: value for key, value in state_words.items() if key != "processes"}), words_without_teacher(words)
    )


def words_without_teacher(words: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a training but for its teacher and the epoch that was chosen."""
    words = with_later_settings(words)
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
    meta = checkpoint.read_checkpoint(out)[1]
    if Path(out.stem).suffix == ".teacher" and recorded_suite(meta):
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
        advice = "; --force --resume goes on with the one that is to replace it" if out.with_name(f"{out.stem}.state.pt").exists() else ""
        raise InputError(
            f"{out} holds a finished training with other settings ({other}): pass --force to replace it, or choose another --out{advice}"
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
        head, *lines = csv_cells(path.read_bytes().decode())
        place = head.index("seconds")
        return [float(line[place]) for line in lines if line]
    except (OSError, ValueError, IndexError):
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
    meta = checkpoint.read_checkpoint(out)[1]
    expected = words_without_teacher(words)
    return setting_difference(words_without_teacher({key: meta.get(key) for key in expected}), expected)


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
    """Where the files of FILE.pt are written; at the end they move there, and those of the earlier training and the states go."""
    staging = make_empty_folder(staging_folder(out))
    try:
        yield staging / out.name
        old = {out.name, *(path.name for path in {*files_beside(out)} - {*stranger_files(out)})} if out.exists() else set()
        exchange_files(staging, out.parent, {*old, f"{out.stem}.state.pt"}, last=out.name)
        shutil.rmtree(measurement_folder(out), ignore_errors=True)
    except UnfinishedError:
        raise
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def write_training(out: Path, model: nn.Module, meta: dict[str, Any], chosen_epoch: Epoch, others: Mapping[str, Epoch]) -> None:
    """Writes FILE.pt and all that belongs to it, in the place of the files of an earlier training, whole or not at all.

    Args:
        out: FILE.pt.
        model: the network with the weights of the chosen epoch.
        meta: what the checkpoint says of it.
        chosen_epoch: the epoch.
        others: epochs whose weights are written too, where they are not the chosen one, by "best" and "last".
    """
    with checkpoint_replacement(out) as file:
        save_weights(file, model, meta, chosen_epoch, others)
        write_epoch_log(file.with_name(f"{file.stem}.log.csv"), meta["history"])
        title = f"{file.stem}: {' + '.join(loss_sentences(meta['recipe']))}"
        draw_training_curves(file.with_name(f"{file.stem}.curves.png"), meta["history"], title, chosen_epoch.epoch + 1)


def save_weights(out: Path, model: nn.Module, meta: dict[str, Any], chosen_epoch: Epoch, others: Mapping[str, Epoch]) -> None:
    """Writes the chosen weights to FILE.pt, and those of other epochs to FILE.<name>.pt.

    Args:
        out: FILE.pt.
        model: the network with the chosen weights.
        meta: what the checkpoint says of it; of other weights nothing measured is said.
        chosen_epoch: the epoch of the chosen weights.
        others: epochs by name; one that is the chosen epoch itself is left out.
    """
    for name, epoch in others.items():
        beside = out.with_name(f"{out.stem}.{name}{out.suffix}")
        if epoch is chosen_epoch:
            continue
        other = copy.deepcopy(model)
        other.load_state_dict(epoch.weights)
        checkpoint.save_checkpoint(
            beside, other, {**meta, "metrics": {}, "flags": [], "recipe": {**meta["recipe"], "select": name, "epoch": epoch.epoch + 1}}
        )
    checkpoint.save_checkpoint(out, model, meta)
