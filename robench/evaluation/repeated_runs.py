"""A run made again: what has changed since, whether its code may run, the run itself, and what its tables say of the old ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.core.files import file_stem, is_existing_file, is_existing_path, json_value
from robench.core.folders import MANIFEST, make_numbered_folder, manifest_of, word_difference
from robench.core.journal import state_files
from robench.evaluation.named_files import NamedFile, digests_of_files, module_path
from robench.evaluation.repeated_calls import left_out
from robench.report.manifest import machine_entries
from robench.results.saved_runs import refuse_newer

SHOWN = 5  # files that one sentence names
WEIGHT_FILE_ENDS = (".pt", ".pth")


@dataclass(frozen=True)
class RunToRepeat:
    """A run that is to be made again.

    Attributes:
        place: its results folder, or the JSON beside the checkpoint of a training.
        manifest: what it says of itself.
        old_call: how it was called.
        call: how it is called now.
        given: what the user set, by key.
        command: the command.
        words: of the call, without --out.
    """

    place: Path
    manifest: Mapping[str, Any]
    old_call: Mapping[str, Any]
    call: Mapping[str, Any]
    given: Mapping[str, Sequence[str]]
    command: Any
    words: Sequence[str]

    @property
    def is_training(self) -> bool:
        """Whether it is one training, whose result is a checkpoint."""
        return self.call["command"] == "train" and "sweep" not in self.call["options"]


# --- the manifest


def manifest_to_repeat(place: Path) -> tuple[Path, dict[str, Any]]:
    """The folder, or the JSON beside a checkpoint, and what it says of the run.

    Args:
        place: as the user wrote it.

    Raises:
        InputError: where there is no finished run, or its manifest cannot be read.
    """
    if place.suffix in (*WEIGHT_FILE_ENDS, ".json") and is_existing_file(place) and place.name != MANIFEST:
        return place.with_suffix(".json"), manifest_of_training(place.with_suffix(".json"))
    place = place.parent if place.name == MANIFEST else place
    if is_existing_file(place / MANIFEST):
        manifest = manifest_of(place)
        refuse_newer(manifest, place)
        return place, manifest
    if is_existing_path(place) and place.is_dir() and state_files(place):
        raise InputError(f"{place} holds an unfinished run: end it with its own words and --resume")
    raise InputError(f"{place} holds no finished run: name a results folder with its {MANIFEST}, or NET.json of a training")


def manifest_of_training(file: Path) -> dict[str, Any]:
    """What the JSON beside a checkpoint says of its training, and the sha256 of its weights; InputError where it is none."""
    try:
        content = json_value(file.read_bytes())
        meta = content["meta"]
        return {**{key: meta.get(key) for key in ("arguments", "files_read", "device", "threads", "versions")}, "sha256": content["sha256"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {file} as the JSON beside a checkpoint of robench ({type(error).__name__})") from None


# --- code


def code_permission(trust: bool, tell: Callable[[str], None]) -> Callable[[str], None]:
    """What is asked before code runs: with trust it prints where the code lies, each once; without it raises an InputError.

    Args:
        trust: whether the user passed --trust to `robench rerun`.
        tell: prints a sentence.
    """
    told = set[str]()

    def ask(reference: str) -> None:
        place = code_place(reference)
        if not trust:
            raise InputError(f"this run needs code to be run, {place}: look at it first, then pass --trust to rerun")
        if place not in told:
            told.add(place)
            tell(f"Runs code: {place}")

    return ask


def code_place(reference: str) -> str:
    """Where code lies, with its whole path: "/home/me/mine.py:attack"."""
    name, colon, function = reference.rpartition(":")
    if not colon or ".py:" in reference:
        return visible(str(Path(name or reference).absolute()) + colon + (function if colon else ""))
    path = module_path(name)
    return visible(f"{path.absolute() if path else 'module ' + name}:{function}")


def visible(text: str) -> str:
    """A text without characters that steer a terminal.

    Args:
        text: any text.
    """
    return text if text.isprintable() else ascii(text)


def refuse_code(files: Sequence[NamedFile], ask: Callable[[str], None]) -> None:
    """Tells of all code that the call names before any of it runs; InputError where it must not run.

    Args:
        files: the files that the call names.
        ask: ask(path) raises InputError where the code of this path must not run.
    """
    code = [file.reference if ":" in file.reference or file.path is None else str(file.path) for file in files if file.is_code]
    try:
        for reference in code:
            ask(reference)
    except InputError:
        places = list(dict.fromkeys(map(code_place, code)))
        more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        raise InputError(
            f"this run needs code to be run, {', '.join(places[:SHOWN])}{more}: look at it first, then pass --trust to rerun"
        ) from None


# --- what has changed


def refuse_missing_files(files: Sequence[NamedFile], run: RunToRepeat) -> None:
    """InputError where a file that the call names is not there.

    Args:
        files: the files that the call names.
        run: the run that is repeated.
    """
    paths = dict.fromkeys(file.path for file in files if file.path is not None)
    missing = [str(path) for path in paths if not (is_existing_file(path) or (is_existing_path(path) and path.is_dir()))]  # or a device
    if missing:
        folder = str(run.call["folder"])
        hint = f" (relative paths count from {visible(folder)}, where it was made)" if folder and Path(folder) != Path.cwd() else ""
        raise InputError(f"{run.place} cannot be repeated without {', '.join(map(visible, missing[:SHOWN]))}, not found here{hint}")


def changed_files(run: RunToRepeat, files: Sequence[NamedFile]) -> dict[str, tuple[str, str]]:
    """The files that are not what they were when the run was made, with the sha256 that each had and has.

    Args:
        run: the run that is repeated.
        files: the files that its call names.
    """
    before = run.manifest.get("files_read")
    if not isinstance(before, dict):
        return {}
    return {
        visible(path): (visible(str(before[path])[:12]), digest[:12])
        for path, digest in digests_of_files(files).items()
        if path in before and before[path] != digest
    }


def changed_file_notes(changed: Mapping[str, tuple[str, str]]) -> list[str]:
    """A sentence for each file that is not what it was.

    Args:
        changed: path -> sha256 before and now.
    """
    return [f"{path} is not the file that it was: its sha256 was {old}, and is {new}" for path, (old, new) in changed.items()]


def changed_file_causes(changed: Mapping[str, tuple[str, str]]) -> list[str]:
    """The same as causes of other tables: "another file: mine.txt, sha256 ... before, ... now".

    Args:
        changed: path -> sha256 before and now.
    """
    causes = [f"another file: {path}, sha256 {old} before, {new} now" for path, (old, new) in changed.items()]
    return [*causes[:SHOWN], *([f"{len(causes) - SHOWN} more files"] if len(causes) > SHOWN else [])]


def clock_reasons(run: RunToRepeat) -> list[str]:
    """A sentence where the clock decides how many images a run reaches.

    Args:
        run: the run that is repeated.
    """
    return ["the run has a --budget: the clock decides how many images it reaches"] if "budget" in run.call["options"] else []


def machine_differences(run: RunToRepeat, device: str) -> list[str]:
    """A sentence for the versions, the device and the number of threads that are not what they were.

    Args:
        run: the run that is repeated.
        device: the device that is used now.
    """
    now = machine_entries(device)
    before = run.manifest.get("versions")
    versions = [
        f"{name} {visible(str(before[name]))[:40]} is now {version}"
        for name, version in now["versions"].items()
        if isinstance(before, dict) and before.get(name, version) != version
    ]
    others = [
        f"{key} {visible(str(run.manifest[key]))[:80]} is now {now[key]}"
        for key in ("device", "threads")
        if run.manifest.get(key) not in (None, now[key])
    ]
    return [f"not on what it was made: {', '.join([*versions, *others])}"] if versions or others else []


def ignored_option_notes(run: RunToRepeat) -> list[str]:
    """A sentence on options that are never taken from a manifest.

    Args:
        run: the run that is repeated.
    """
    names = [f"--{key}" for key in left_out(run.old_call)]
    return [f"{', '.join(names)} of the manifest is left out: pass to rerun what you want of it"] if names else []


# --- the run


def refuse_place(run: RunToRepeat, out: Path | None, resume: bool) -> None:
    """InputError where the new run would replace the old one, or has a name that it cannot have.

    Args:
        run: the run that is repeated.
        out: the folder or file that the user names, None for a new one.
        resume: whether the new run goes on with an unfinished one.
    """
    if out is None:
        if resume:
            raise InputError("which run is --resume to go on with? Pass its folder with --out")
        return
    old = run.place.with_suffix(".json") if run.is_training else run.place
    if run.is_training and out.suffix not in WEIGHT_FILE_ENDS:
        raise InputError(f"the result of a training is a file: pass --out FILE.pt, not {out}")
    if (out.with_suffix(".json") if run.is_training else out).resolve() == old.resolve():
        raise InputError(f"{out} is the run that is to be repeated: choose another --out")


@contextmanager
def place_of_rerun(run: RunToRepeat, out: Path | None) -> Iterator[Path]:
    """Where the new run writes; a folder that was made for nothing is removed.

    Args:
        run: the run that is repeated.
        out: the folder or file that the user names, None for a new numbered folder.
    """
    if out is not None:
        yield out
        return
    name, results = file_stem(run.place.stem if run.is_training else run.place.resolve().name), Path("results")
    new = [] if results.exists() else [results]
    folder = make_numbered_folder(results / f"{time.strftime('%Y%m%d-%H%M%S')}-rerun-{name}")
    try:
        yield folder / f"{name}.pt" if run.is_training else folder
    finally:
        for made in (folder, *new):
            with suppress(OSError):  # there are results in it, or the run has removed it
                made.rmdir()


# --- what came out


def weight_differences(run: RunToRepeat, target: Path) -> list[str]:
    """The difference of the weights, as a sentence; none where they are the same bit for bit.

    Args:
        run: the training that is repeated.
        target: the new checkpoint.
    """
    before, now = run.manifest["sha256"], manifest_of_training(target.with_suffix(".json"))["sha256"]
    return [] if before == now else [f"their sha256 was {visible(str(before))[:12]}, and is {now[:12]}"]


def word_changes(run: RunToRepeat, target: Path) -> list[str]:
    """What identifies a run and is another one now, in plain words: its models, its images, else the first other word.

    Args:
        run: the run that is repeated.
        target: the folder or checkpoint of the new one.
    """
    if run.is_training:
        return []
    before, now = run.manifest.get("words"), manifest_of(target).get("words")
    if not isinstance(before, dict) or not isinstance(now, dict):
        return []
    with suppress(TypeError, ValueError, AttributeError, KeyError):
        images = digest_change(before.get("data"), now.get("data"))
        changes = [*model_changes(before.get("checkpoint"), now.get("checkpoint")), *([f"other images: {images}"] if images else [])]
        difference = "" if changes else word_difference(before, now)
        return list(map(visible, changes or ([f"another call: {difference}"] if difference else [])))
    return ["another call"]


def model_changes(before: Any, now: Any) -> list[str]:
    """A sentence for each model that is another one: "another model: net.pth, sha256 ... before, ... now"."""
    pairs = zip(*(models if isinstance(models, list) else [models] for models in (before, now)), strict=True)
    changes = [(new["name"], digest_change(old, new)) for old, new in pairs if isinstance(old, dict) and old != new]
    return [f"another model: {name}{', ' if change else ''}{change}" for name, change in changes[:SHOWN]]


def digest_change(before: Any, now: Any) -> str:
    """The sha256 that an entry had and the one that it has; "" where they are the same."""
    one, other = (str(entry.get("sha256", "")) if isinstance(entry, dict) else "" for entry in (before, now))
    return f"sha256 {one[:12]} before, {other[:12]} now" if one != other else ""
