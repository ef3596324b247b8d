"""Where a run writes: a place that is free, or holds an unfinished run, or a finished one, which is never replaced unasked.

A results folder is finished once it holds manifest.json, which moves in last and names the run's words and its files. Results are put
together in a hidden folder inside; so a folder never holds half of them, and files that are not of a run are never touched. While a run
is under way it holds a lock, so that a second one is refused whatever it was told.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.core.errors import InputError, UnfinishedError
from robench.core.files import (
    ELSEWHERE_ADVICE,
    FULL,
    hold_lock,
    is_existing_path,
    is_plain_name,
    json_value,
    prepare_folder,
    refuse_link,
    refuse_no_file,
    sync_folder,
    write_whole,
)
from robench.core.journal import LONGEST_EXCERPT, Adds, differing_excerpts, has_begun, state_files
from robench.core.recipes import Recipe, recipe_text, value_text

MANIFEST, MANIFEST_FORMAT = "manifest.json", 2  # a reader refuses manifests of a larger format
LOCK, STAGED, REPLACING, WHOLE_MARK = ".lock", ".results", ".replacing", ".whole"
OUR_FILES = (
    MANIFEST, "rows.csv", "samples.csv", "samples-methods.csv", "samples-probes.csv", "samples-corruptions.csv", "samples-sequences.csv",
    "images.csv", "confusion.csv",
    "report.html", "x_adv.npy", "sweep.json", "front.png", "compare.csv",
)  # fmt: skip
ADVERSARIAL_PNGS = "x_adv-*.png"  # of adversarial images
ARRAYS = ("x_adv*.npy", "x-*.npy", "maps-*.npy", ADVERSARIAL_PNGS)  # what a run writes on its way, for each model, threat and method
NUMBERED_FILES = (*ARRAYS, "samples-*.csv")  # whose names a run makes up
HIDDEN_FOLDER = ".images"  # images that later stages of a run are given, until its end
REPEATED_OPTIONS = {"methods": "--method", "scores": "--score", "against": "--against", "join": "--join"}  # options by their word
Words = Mapping[str, Any]


@dataclass(frozen=True)
class Destination:
    """Where a run writes.

    Attributes:
        folder: where its results lie in the end.
        words: what was asked for, as plain JSON values; "command" is among them.
        work: where it keeps its state and large arrays: `folder`, or a hidden folder inside where it replaces an earlier run.
        resume: whether it goes on with the state in `work`.
        finished: whether the folder holds the finished run of these words already.
    """

    folder: Path
    words: dict[str, Any]
    work: Path
    resume: bool = False
    finished: bool = False

    @property
    def replaces(self) -> bool:
        """Whether the run replaces an earlier one."""
        return self.work != self.folder

    @property
    def has_begun(self) -> bool:
        """Whether there is a state with work in it."""
        return has_begun(self.work)

    @contextmanager
    def staged_results(self, also: Sequence[str] = ()) -> Iterator[Path]:
        """Gives an empty folder for results, which move into their place when all are written, with manifest.json last.

        Args:
            also: patterns of the files in `work` that belong to the run too, such as arrays and checkpoints.
        """
        staging = self.work if self.replaces else make_empty_folder(self.folder / STAGED)
        yield staging
        before = finished_run_files(self.folder)
        arrays = [] if self.replaces else [path.name for pattern in also for path in sorted(self.folder.glob(pattern))]
        files = sorted({*arrays, *(path.name for path in staging.iterdir() if path.name not in (LOCK, WHOLE_MARK)), MANIFEST})
        manifest = json.loads((staging / MANIFEST).read_bytes()) if (staging / MANIFEST).exists() else {}
        results = [name for name in files if name not in {path.name for path in state_files(staging)}]
        text = json.dumps({**manifest, "words": self.words, "files": results}, indent=2, allow_nan=False)
        write_whole({staging / MANIFEST: f"{text}\n".encode()})
        old = (
            {*before, *(path.name for path in state_files(self.folder)), *unfinished_run_arrays(self.folder)}
            if self.replaces
            else {*before} - {*arrays}
        )
        exchange_files(staging, self.folder, old, last=MANIFEST)


def never_adds(theirs: Words, ours: Words) -> bool:  # noqa: ARG001
    """False: no other words only add to those of a finished run.

    Args:
        theirs: the words of the finished run.
        ours: the words of this run.
    """
    return False


def can_go_on_by_budget(theirs: Words, ours: Words) -> bool:
    """Whether a run may go on by its budget: it has the same one, a larger one, or none any more.

    Args:
        theirs: the words of the earlier run.
        ours: the words of this run.
    """
    before, now = theirs.get("budget"), ours.get("budget")
    return bool(before == now or (before is not None and (now is None or now > before)))


@contextmanager
def claim_destination(
    folder: Path, words: Words, *, resume: bool = False, force: bool = False, adds: Adds = never_adds
) -> Iterator[Destination]:
    """Gives the place of a run in a folder, which no other process can write to in the meantime.

    Afterwards hidden files that nothing can go on with are removed, and so is an empty folder.

    Args:
        folder: the results folder; it is made if need be.
        words: what was asked for, as plain JSON values; "command" names the kind of the run.
        resume: go on with the unfinished run that lies there, or show the finished one of the same words.
        force: replace the run that lies there once this one is whole.
        adds: adds(theirs, ours) -> whether our words only add to those of the finished run that lies there, so that it can go on.

    Raises:
        InputError: where the folder holds a run or files with which these words cannot go on.
    """
    plain: dict[str, Any] = json.loads(json.dumps(words))
    is_new = not is_existing_path(folder)
    place = None
    try:
        with hold_lock(prepare_folder(folder) / LOCK, folder):
            clean_up_killed_runs(folder)
            place = allowed_destination(folder, plain, resume, force, adds)
            try:
                yield place
            except BaseException as error:
                if not isinstance(error, UnfinishedError):  # which says what lies there
                    shutil.rmtree(folder / STAGED, ignore_errors=True)
                remove_unusable_state(place)
                if isinstance(error, InputError) and place.has_begun and not place.finished and is_disk_failure(error):
                    raise kept_state_error(error, place.replaces) from error
                raise
    finally:
        if is_new or place is not None:
            with suppress(OSError):
                folder.rmdir()


def is_disk_failure(error: InputError) -> bool:
    """Whether it was the disk that ended a run, and the error does not yet say how the run goes on.

    Args:
        error: the error that ended it.
    """
    return isinstance(error.__cause__, OSError) and not isinstance(error, UnfinishedError)


def kept_state_error(error: InputError, replaces: bool) -> UnfinishedError:
    """The error to raise where the disk has ended a run whose state is kept: it says how the run goes on.

    Args:
        error: the error of the disk.
        replaces: whether the run replaces an earlier one, so that --force belongs to the advice.
    """
    reason, full = str(error).partition(ELSEWHERE_ADVICE)[0], getattr(error.__cause__, "errno", None) in FULL
    way = f"{'make room, and ' * full}go on with the same words and {'--force ' * replaces}--resume"
    return UnfinishedError(f"{reason}; the state is kept: {way}")


@contextmanager
def hold_state_folder(folder: Path | Destination | None) -> Iterator[Path | None]:
    """Gives the folder of a run's state, made if need be, which no other process can write to in the meantime.

    A folder that was made for nothing is removed afterwards.

    Args:
        folder: a path; a `Destination`, which is locked already; or None, which gives None.

    Raises:
        InputError: where another run writes there, and where a finished run of the command line lies there.
    """
    if not isinstance(folder, Path):
        yield None if folder is None else folder.work
        return
    with hold_lock_in(folder, LOCK, folder):
        clean_up_killed_runs(folder)
        if finished_run_words(folder) is not None:
            raise InputError(f"{folder} holds a finished run: choose another folder")
        yield folder


@contextmanager
def hold_file(file: Path | None) -> Iterator[None]:
    """Locks a file, so that no other process writes it in the meantime; its folder is made if need be.

    Args:
        file: the file; for None nothing is locked.

    Raises:
        InputError: where another run writes it.
    """
    with nullcontext() if file is None else hold_lock_in(file.parent, f".{file.name}.lock", file):
        yield


@contextmanager
def hold_lock_in(folder: Path, name: str, what: Path) -> Iterator[None]:
    """Holds a lock in a folder, which is made if need be, and removed at the end if it was made for nothing.

    Args:
        folder: where the lock file lies.
        name: the name of the lock file.
        what: the file or folder that the lock protects, for the error.

    Raises:
        InputError: where another process holds the lock.
    """
    is_new = not is_existing_path(folder)
    try:
        with hold_lock(prepare_folder(folder) / name, what):
            yield
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def refuse_beside_results(save: Path | None, pngs: Path | None, own_folder: Path | None) -> None:
    """Refuses an array or pictures that would replace files of a finished run, or lie among them.

    Args:
        save: the array that takes adversarial images, or None.
        pngs: the folder that takes pictures, or None.
        own_folder: the run's own folder, in which both are allowed, or None.

    Raises:
        InputError: where that is so, and where the array's place is taken by what is no file.
    """
    if save is not None:
        refuse_no_file(save)
    if (
        save is not None
        and save.parent != own_folder
        and finished_run_words(save.parent) is not None
        and save.name in {*finished_run_files(save.parent), *OUR_FILES}
    ):
        raise InputError(f"{save.parent} holds a finished run, to which {save.name} belongs: choose another place")
    if pngs is not None and pngs != own_folder and finished_run_words(pngs) is not None:
        raise InputError(f"{pngs} holds a finished run: choose another folder for the pictures")


def allowed_destination(folder: Path, words: dict[str, Any], resume: bool, force: bool, adds: Adds) -> Destination:
    """What a run with these words may do in a folder. Raises InputError where that is nothing."""
    theirs, unfinished = finished_run_words(folder), bool(state_files(folder))
    if theirs is None and not unfinished:
        refuse_foreign_files(folder)
        return Destination(folder, words, folder, resume)
    if theirs is not None and theirs.get("command", words["command"]) != words["command"]:
        raise InputError(f"{folder} holds results of 'robench {theirs['command']}': choose another folder")
    theirs = None if theirs is None else with_our_digest(theirs, words)
    work = folder / REPLACING
    if force:
        going = resume and bool(state_files(work))
        if resume and not going and theirs is not None and not word_difference(theirs, words):
            return Destination(folder, words, folder, finished=True)
        if theirs is not None or going or not resume:
            return Destination(folder, words, work if going else make_empty_folder(work), going)
    if theirs is None:
        if not resume:
            raise InputError(
                f"{folder} holds the state of a run: pass --resume to go on with it, --force to begin anew, or choose another folder"
            )
        return Destination(folder, words, folder, resume=True)
    if not resume:
        raise InputError(f"{folder} holds a finished run: pass --resume to see it, --force to replace it, or choose another folder")
    if not {*theirs} - {"command"}:
        raise InputError(f"{folder} holds a finished run that does not say its words: pass --force to replace it, or choose another folder")
    other = word_difference(theirs, words)
    if not other:
        return Destination(folder, words, folder, finished=True)
    if adds(theirs, words):
        return Destination(folder, words, folder, resume=True)
    resume_hint = "; one that is to replace it is unfinished: --force --resume goes on with it" if state_files(work) else ""
    raise InputError(
        f"{folder} holds a finished run with other words ({other}): pass --force to replace it, or choose another folder{resume_hint}"
    )


def with_our_digest(theirs: Words, ours: Words) -> Words:
    """The words of an earlier run with our digests of the images, where these are the same files or the earlier run names no files.

    Of files in memory "sha256" is that of their pixels, on the disk that of the files, so that it says where they were, too.
    """
    data, mine = theirs.get("data"), ours.get("data")
    if not isinstance(data, Mapping) or not isinstance(mine, Mapping) or "files" not in mine:
        return theirs
    key = "files" if "files" not in data else "sha256" if data["files"] == mine["files"] else ""
    return {**theirs, "data": {**data, key: mine[key]}} if key else theirs


def finished_run_words(folder: Path) -> Words | None:
    """The words of the finished run in a folder; None without one.

    Args:
        folder: of results.

    Raises:
        InputError: for a manifest that robench did not write.
    """
    if not (folder / MANIFEST).exists():
        return None
    content = manifest_of(folder)
    if isinstance(content.get("words"), dict):
        return content["words"]  # type: ignore[no-any-return]
    words = str(content.get("command", "")).split()
    if words[:1] != ["robench"]:
        raise InputError(f"{folder} holds a {MANIFEST} that no run of robench wrote: choose another folder")
    return {"command": words[1]} if len(words) > 1 else {}


def manifest_of(folder: Path) -> dict[str, Any]:
    """The content of manifest.json in a results folder.

    Args:
        folder: the folder of a finished run.

    Raises:
        InputError: where it cannot be read, or is no manifest.
    """
    try:
        content = json_value((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {folder / MANIFEST} ({type(error).__name__}): choose another folder") from None
    if not isinstance(content, dict):
        raise InputError(f"{folder} holds a {MANIFEST} that no run of robench wrote: choose another folder")
    return content


def refuse_foreign_files(folder: Path) -> None:
    """Raises InputError where a folder without a run holds a file whose name a run would take."""
    there = [*(name for name in OUR_FILES if (folder / name).exists()), *(path.name for path in matching_files(folder, NUMBERED_FILES))]
    if there:
        raise InputError(f"{folder} holds {there[0]}, which belongs to no finished run of robench: choose another folder")


def finished_run_files(folder: Path) -> list[str]:
    """The files of the finished run in a folder, by its manifest; of a run of an earlier version those that every run has."""
    if not (folder / MANIFEST).exists():
        return []
    names = manifest_of(folder).get("files")
    if isinstance(names, list) and all(map(is_plain_name, names)):
        return [*names]
    return [name for name in (*OUR_FILES, "accuracy.png", "curve.png", "examples.png") if (folder / name).exists()]


def unfinished_run_arrays(folder: Path) -> list[str]:
    """The arrays and the pictures of adversarial images of an unfinished run."""
    if not state_files(folder) or (folder / MANIFEST).exists():
        return []
    return [path.name for path in matching_files(folder, ARRAYS)]


def matching_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files in a folder whose names match one of the patterns, each once."""
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})


def remove_half_written(folder: Path) -> None:
    """Removes the temporary files that a killed run left. To be called while the folder is locked.

    Args:
        folder: the folder that the run wrote into.
    """
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\.(x_adv|x-|maps-|state-|rows|samples|manifest|sweep).*\.[0-9]+\.tmp", path.name):
            path.unlink(missing_ok=True)


def make_empty_folder(folder: Path) -> Path:
    """The hidden folder, made anew and empty.

    Args:
        folder: its path; what lies there is removed.

    Raises:
        InputError: if it cannot be written into.
    """
    refuse_link(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return prepare_folder(folder)


def remove_unusable_state(place: Destination) -> None:
    """Removes the state that a run which was refused or broken off leaves, unless it can go on from there."""
    if place.finished or place.has_begun or ((place.folder / MANIFEST).exists() and not place.replaces):
        return
    for path in [*state_files(place.work), *matching_files(place.work, ARRAYS)]:
        path.unlink(missing_ok=True)
    shutil.rmtree(place.work / HIDDEN_FOLDER, ignore_errors=True)
    if place.replaces:
        shutil.rmtree(place.work, ignore_errors=True)


def exchange_files(staging: Path, folder: Path, old: set[str], last: str) -> None:
    """Moves all files of `staging` into the folder, and removes the old ones that have no successor.

    From the moment when the mark is written the exchange is settled: `finish_exchange` ends it after a kill.

    Args:
        staging: the folder of the new files, which is removed.
        folder: where they belong.
        old: names of the files of the earlier run in `folder`.
        last: the name of the file that moves at the end.

    Raises:
        UnfinishedError: where a file that is not of the earlier run would be overwritten; the new files then stay where they are.
    """
    new = [path.name for path in staging.iterdir() if path.name not in (LOCK, WHOLE_MARK)]
    foreign = [name for name in sorted(new) if name not in old and (folder / name).exists()]
    if foreign:
        raise UnfinishedError(f"{folder / foreign[0]} is in the way and not of this run: move it; all results are whole, in {staging}")
    write_whole({staging / WHOLE_MARK: json.dumps({"new": sorted(new), "old": sorted(old)}).encode()})
    finish_exchange(staging, folder, last)


def clean_up_killed_runs(folder: Path) -> None:
    """Ends the exchanges of runs that were killed, and removes what they left and nothing can go on with."""
    for staging in (folder / STAGED, folder / REPLACING):
        finish_exchange(staging, folder, MANIFEST)
        if not state_files(staging) and not (staging / MANIFEST).exists():
            shutil.rmtree(staging, ignore_errors=True)
    remove_half_written(folder)
    if not state_files(folder):
        shutil.rmtree(folder / HIDDEN_FOLDER, ignore_errors=True)


def finish_exchange(staging: Path, folder: Path, last: str) -> None:
    """Ends an exchange of files that was settled; where there is none, the empty folder that a kill at its very end left is removed.

    Args:
        staging: the folder of the new files.
        folder: where they belong.
        last: the name of the file that moves at the end.

    Raises:
        UnfinishedError: where they cannot be moved.
    """
    mark = staging / WHOLE_MARK
    refuse_link(staging)
    try:
        if not mark.exists():
            with suppress(OSError):
                staging.rmdir()
            return
        new, old = settled_names(mark)
        for name in sorted(new, key=lambda name: name == last):
            if (staging / name).exists():
                (staging / name).replace(folder / name)
        sync_folder(folder)  # before the mark goes
        for name in {*old} - {*new}:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(staging)
    except (OSError, ValueError) as error:
        raise UnfinishedError(f"cannot move {staging} into {folder}: {error}; all results are whole there") from error


def settled_names(mark: Path) -> tuple[list[str], list[str]]:
    """The names of the new and the old files of an exchange, by its mark; InputError where it was not written as one."""
    try:
        content = json_value(mark.read_bytes())
    except ValueError:
        content = None
    lists = [content.get(key) if isinstance(content, dict) else None for key in ("new", "old")]
    if not all(isinstance(names, list) and all(map(is_plain_name, names)) for names in lists):
        raise UnfinishedError(
            f"{mark} is damaged, and does not say which files move: move what you need out of {mark.parent}, then remove it"
        )
    new, old = lists
    return [*(new or ())], [*(old or ())]


def make_numbered_folder(folder: Path) -> Path:
    """Makes a new folder of this name, with the next free number behind it where there is one already, and returns its path.

    Args:
        folder: the path that is wanted.

    Raises:
        InputError: where it cannot be made.
    """
    number = 1
    while True:
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise InputError(f"cannot write into {path.parent}: {error.strerror or error}") from None
        else:
            return path


def word_difference(one: Words, other: Words, where: str = "") -> str:
    """The first word in which two dicts differ, with both values, as a sentence; "" if they are equal.

    Lists and dicts of lists (a grid) come last.

    Args:
        one: the words of the earlier run.
        other: the words of this run.
        where: what stands before the keys in the sentence, such as "data.".
    """
    for key in sorted({*one, *other}, key=lambda key: (holds_lists(one.get(key)), key)):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if difference := word_difference(a, b, f"{where}{key}."):
                return difference
        elif a != b:
            if are_lists_of_words(a, b):
                return list_difference(where + key, [*(a or ())], [*(b or ())])
            before, now, of = differing_excerpts(*(value_text(value) if isinstance(value, float) else repr(value) for value in (a, b)))
            return f"{where}{key} was {before} and is {now}{of}"
    return ""


def holds_lists(value: object) -> bool:
    """Whether a value is a list or a dict of lists."""
    return isinstance(value, list) or (isinstance(value, Mapping) and bool(value) and all(isinstance(its, list) for its in value.values()))


def are_lists_of_words(*values: object) -> bool:
    """Whether values are lists whose items can be told as the user wrote them."""
    return all(isinstance(value, list) and all(map(as_written, value)) for value in values)


def list_difference(key: str, one: list[Any], other: list[Any]) -> str:
    """In what two lists differ, in the words of the command line; long ones without what they share."""
    texts, other_texts = [*map(as_written, one)], [*map(as_written, other)]
    if texts == other_texts:
        text = next(words for words, a, b in zip(texts, one, other, strict=True) if a != b)
        return f"what {option_words(key, [text])} names has changed"
    long = max(len(option_words(key, texts)), len(option_words(key, other_texts))) > LONGEST_EXCERPT
    a, b = (
        [*(["..."] if long and {*its} & {*those} else []), *(word for word in its if not long or word not in those)]
        for its, those in ((texts, other_texts), (other_texts, texts))
    )
    return f"{key} was {option_words(key, a)} and is {option_words(key, b)}"


def option_words(key: str, words: Sequence[str]) -> str:
    """Words as one writes them on the command line, where the option is known."""
    option = REPEATED_OPTIONS.get(key)
    parts = [f"{option} {word}" if option and word != "..." else word for word in words]
    return (" " if option else ", ").join(parts) or "none"


def as_written(item: object) -> str:
    """A recipe, a file, a model, a number or a word as the user wrote it; "" for anything else.

    Args:
        item: a value of a run's words.
    """
    if isinstance(item, Mapping) and {"name", "weight", "options"} <= {*item}:
        return recipe_text(Recipe(item["name"], item["weight"], dict(item["options"])))
    if isinstance(item, Mapping):
        return str(item.get("path") or item.get("name") or "")
    return value_text(item) if isinstance(item, (str, int, float)) else ""
