"""What identifies a run in its state, and what a run takes up of the state of an earlier one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.decoding import pixel_digest
from robench.core.errors import InputError, OtherRunError
from robench.core.journal import Adds, checked_entries, complete_lines, state_files
from robench.core.recipes import Recipe, options_of
from robench.data import Images
from robench.data.stored_pixels import StoredPixels
from robench.models.identity import code_digests, model_identity
from robench.runs.images import stage_file_name
from robench.runs.ledger import BLANKS, PIXELS_COLUMN, Ledger
from robench.runs.store import Store, unwritten_mask
from robench.runs.types import Case, Pool, RunOptions, Stage

ENTRY_FORMAT = 3  # counts the forms that the entries of a state have had: one of another form is not taken up


def can_resume(adds: Adds | None, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a run may go on with the state of another: one that only adds to it, or one that goes on without the other's budget."""
    same = {**theirs, "budget": theirs.get("budget") and ours["budget"]}
    return same == ours or (adds is not None and adds(same, ours))


def restore_ledger(ledger: Ledger, cases: Sequence[Case], stages: Sequence[Stage], store: Store) -> None:
    """Adds what the journal holds to the ledger, but for stages whose images are gone and still asked for: these are made again."""
    for entry in store.journal.entries:
        if is_skipped_entry(entry, ledger.n):
            ledger.skip(entry)
    entries = [entry for entry in store.journal.entries if "stage" in entry]
    if wrong := next((entry for entry in entries if not is_entry(entry, ledger.n)), None):
        raise InputError(f"the state in {store.journal.path} holds {str(wrong)[:60]}, which no run writes: begin anew with --force")
    missing_by_stage: dict[tuple[str, str], Tensor] = {}
    while True:
        partial_ledger = Ledger(ledger.y)
        for entry in entries:
            where = (entry["subject"], entry["stage"])
            if where not in missing_by_stage or not bool(missing_by_stage[where][entry["places"]].any()):
                partial_ledger.add(entry)
        more = {where: missing for where, missing in lost_places(partial_ledger, cases, stages, store).items() if bool(missing.any())}
        if not more:
            break
        missing_by_stage |= {where: missing | missing_by_stage.get(where, False) for where, missing in more.items()}
    for entry in entries:
        where = (entry["subject"], entry["stage"])
        if where not in missing_by_stage or not bool(missing_by_stage[where][entry["places"]].any()):
            ledger.add(entry)


def is_skipped_entry(entry: Mapping[str, Any], n: int) -> bool:
    """Whether an entry tells of images that were left out, of N."""
    places, why = entry.get("skipped"), entry.get("why")
    return (
        isinstance(places, list)
        and isinstance(why, list)
        and len(places) == len(why)
        and all(type(place) is int and 0 <= place < n for place in places)
        and all(isinstance(sentence, str) for sentence in why)
    )


def remember_pixels(cases: Sequence[Case], ledger: Ledger) -> None:
    """Refuses image files that have changed since an earlier part of the run; those on the disk are looked at as they are decoded.

    Args:
        cases: the subjects, made ready.
        ledger: what an earlier part of the run has found.

    Raises:
        InputError: where an image in memory is another one.
    """
    for case in cases:
        source = case.pool.source
        if source is None or not source.files_digest:
            continue
        for digests in ledger.word_columns(case.name, PIXELS_COLUMN):
            if isinstance(source.x, StoredPixels):
                source.x.remember(digests)
            elif changed := changed_file(source, digests):
                raise InputError(changed)


def changed_file(images: Images, digests: Sequence[str]) -> str:
    """A sentence on the first image file whose pixels are no longer those that a run has seen; "" where all are the same.

    Args:
        images: the images as they are now; those on the disk are decoded one after another.
        digests: what each was known by, "" where it was not seen.
    """
    for place in [place for place, digest in enumerate(digests) if digest]:
        if pixel_digest(images.x[place : place + 1].cpu().numpy()[0]) != digests[place]:
            name = images.files[place] if images.files else f"image {int(images.ids[place])}"
            return f"{name} has changed since this run has seen it: put the file back, or begin anew with --force"
    return ""


@contextmanager
def name_changed_image(cases: Sequence[Case], folder: Path | None) -> Iterator[None]:
    """Where a state is refused as its images are others: names the first file that has changed, as far as the state shows one.

    Args:
        cases: the subjects, made ready.
        folder: where the state lies; None where there is none.

    Raises:
        OtherRunError: in place of the one from within.
    """
    try:
        yield
    except OtherRunError as error:
        changed = change_since_state(cases, folder) if error.key == "images" and folder is not None else ""
        raise OtherRunError(f"{error}: {changed}", error.key) if changed else error from None


def change_since_state(cases: Sequence[Case], folder: Path) -> str:
    """A sentence on the first image file that has changed since the run in a folder; "" where its state does not show one."""
    earlier = Ledger(cases[0].pool.y)
    for path in state_files(folder):
        for entry in checked_entries(complete_lines(path), path)[1:]:
            if is_entry(entry, earlier.n):
                earlier.add(entry)
    known = [(case.pool.source, digests) for case in cases for digests in earlier.word_columns(case.name, PIXELS_COLUMN)]
    return next(filter(None, (changed_file(images, digests) for images, digests in known if images is not None)), "")


def is_entry(entry: Mapping[str, Any], n: int) -> bool:
    """Whether an entry has the form of `runs.loop.entry_of`, for N images: a state may come from anywhere, its checksums too.

    Args:
        entry: what a state file holds.
        n: the number of images.
    """
    places, levels = entry.get("places"), entry.get("levels")
    return (
        all(isinstance(entry.get(key), str) for key in ("subject", "stage"))
        and isinstance(places, list)
        and all(type(place) is int and 0 <= place < n for place in places)
        and len({*places}) == len(places) > 0
        and isinstance(levels, list)
        and all(isinstance(level, dict) and is_level(level, len(places)) for level in levels)
    )


def is_level(level: Mapping[str, Any], length: int) -> bool:
    """Whether what an entry says of a level has its form, for so many images."""
    columns, extras, seconds = level.get("columns"), level.get("extras"), level.get("seconds")
    return (
        isinstance(level.get("level"), str)
        and type(level.get("repeat")) is int
        and type(seconds) in (int, float)
        and isinstance(extras, dict)
        and isinstance(columns, dict)
        and all(
            isinstance(values, list) and len(values) == length and len({type(value) for value in values}) == 1 and type(values[0]) in BLANKS
            for values in columns.values()
        )
    )


def lost_places(known: Ledger, cases: Sequence[Case], stages: Sequence[Stage], store: Store) -> dict[tuple[str, str], Tensor]:
    """The places, (N,) bool, where a stage is done but its images are not there, by (subject, stage), if a later stage needs them yet."""
    missing_by_stage = {}
    for case in cases:
        for stage in stages:
            if not stage.keeps_images or stage.images is not None:
                continue
            needed = torch.zeros(known.n, dtype=torch.bool)
            for later in stages:
                if stage in source_chain(later):
                    needed |= later.on(known, case.name) & ~known.is_done(case.name, later)
            places = (needed & known.is_done(case.name, stage)).nonzero().flatten()
            missing = torch.zeros(known.n, dtype=torch.bool)
            missing[places] = unwritten_mask(store.file(stage_file_name(stage, case)), places)
            missing_by_stage[case.name, stage.key] = missing
    return missing_by_stage


def source_chain(stage: Stage) -> list[Stage]:
    """The stages through which the images of a stage have come."""
    return [] if stage.source is None else [stage.source, *source_chain(stage.source)]


def refuse_lost_maps(cases: Sequence[Case], stages: Sequence[Stage], store: Store) -> None:
    """Raises InputError where a run goes on whose maps are gone."""
    for case in cases:
        for stage in stages:
            file = stage.about["save"](case.name, stage.about["method"]) if "save" in stage.about and stage.source is None else None
            if file is not None:
                store.check(file, bool(case.ledger.is_done(case.name, stage).any()))


def header_of(
    cases: Sequence[Case], stages: Sequence[Stage], pool: Pool, how: RunOptions, *, images: str, data: str, words: Mapping[str, Any]
) -> dict[str, Any]:
    """What identifies a run, for its journal: a run with another header cannot go on with its state, unless it only adds to it.

    Args:
        cases: the subjects, made ready.
        stages: all stages in their order.
        pool: the images.
        how: the options of the run.
        images: digest of the images; "" for a digest of labels and ids.
        data: the name of the images.
        words: plain values that identify the run beside these.
    """
    digest = hashlib.sha256()
    for tensor in (pool.y, pool.ids):
        digest.update(tensor.contiguous().numpy().tobytes())
    models = [
        value for stage in stages if "attack" in stage.about for value in options_of(stage.about["attack"]).values()
        if isinstance(value, nn.Module)
    ]  # fmt: skip
    identities = [model_identity(case.subject.model) for case in cases]
    batched = how.engine == "reference" or how.until is not None  # where verdicts or the end depend on it
    return {
        "robench": version("robench"), "entries": ENTRY_FORMAT,
        "subjects": [case.name for case in cases],
        "architecture": [dict(case.subject.architecture) for case in cases],
        **{key: [one[key] for one in identities] for key in ("weights", "modules", "code")},
        "surrogates": [model_identity(model) for model in models],
        "code of recipes": code_digests(*(recipe.name for stage in stages for recipe in recipes_of(stage))),
        "data": data, "n": len(pool), "images": images or digest.hexdigest(), "labels": digest.hexdigest(),
        "seed": how.seed, "until": how.until, "budget": how.budget is not None,
        "batch_size": how.batch_size if batched else None, "precision": how.precision, **words,
        "stages": [[stage.key, *stage.words] for stage in stages],
        **own_pixels_words(cases),
        **({"masks": tensor_digest(pool.masks)} if pool.masks is not None and any(stage.kind == "method" for stage in stages) else {}),
    }  # fmt: skip


def own_pixels_words(cases: Sequence[Case]) -> dict[str, Any]:
    """The digests of the images of each subject, where some are shown pixels of their own; none else."""
    own = [case.subject.images for case in cases]
    return {"images of subjects": [images.identity if images else "" for images in own]} if any(own) else {}


def tensor_digest(tensor: Tensor) -> str:
    """The sha256 of a tensor's numbers."""
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()


def recipes_of(stage: Stage) -> list[Recipe]:
    """The recipes that a stage was made from: its own, and those of the scores of its maps.

    Args:
        stage: any stage.
    """
    return [*([stage.about["recipe"]] if "recipe" in stage.about else []), *stage.about.get("scores", ())]
