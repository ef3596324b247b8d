"""What the measuring commands do: load images and models, measure with `evaluation.api`, write the results, print them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from robench.cli.calls import repetition_entries
from robench.cli.console import image_progress, print_costs, print_message, print_table, print_to_stderr
from robench.cli.jobs import (
    Job,
    LoadedJob,
    checkpoint_and_data,
    job_words,
    manifest_entries,
    only_adds_time,
    refuse_unknown_names,
    refuse_unused_options,
    run_title,
    subjects_text,
    threats_of,
)
from robench.cli.loading import (
    LoadedSubject,
    load_subjects,
    loading_flags,
    loading_notes,
    quickest_batch_size,
    refuse_other_orders,
    usual_batch_size,
    with_training,
)
from robench.cli.options import AttackOptions, CommonOptions
from robench.core.errors import InputError
from robench.core.files import file_stem
from robench.core.interrupts import interruption_exit_code

if TYPE_CHECKING:
    from robench.core.folders import Destination
    from robench.core.journal import Adds
    from robench.core.processes import World
    from robench.report.result import Result
    from robench.report.trackers.records import StartLog

MOST_LEVELS = 3  # levels of a probe that a terminal shows
PNG_PATTERN = "x_adv-*.png"  # of adversarial images


def run_job(models: Sequence[str], job: Job, common: CommonOptions, attacking: AttackOptions) -> None:
    """Measures models by what a job names: the whole of `robench eval`, `attack` and `saliency`.

    Args:
        models: the models, as the command line spells them.
        job: what is measured.
        common: options that every measuring command has.
        attacking: options of commands that attack.

    Raises:
        InputError: where options, names, models or images do not fit together.
    """
    loaded = load_job(models, job, common, attacking)
    notes = compiler_notes() if attacking.compiled else []
    if notes:
        loaded = replace(loaded, attacking=replace(attacking, compiled=False))

    def measure(place: Destination, quiet: bool) -> Result:
        result = job_result(loaded, place, quiet)
        result.notes[:0] = notes
        return result

    entries, arrays = {**manifest_entries(loaded), **repetition_entries()}, array_patterns(job, attacking)
    run = RunDescription(job.title, run_title(loaded), job_words(loaded), entries, arrays, only_adds_time)
    measure_and_report(loaded.subjects, run, common, measure)


def load_job(models: Sequence[str], job: Job, common: CommonOptions, attacking: AttackOptions) -> LoadedJob:
    """The job with its models, threats and batch size; InputError for names that are unknown and what does not fit together."""
    from robench.evaluation.arguments import as_threat
    from robench.evaluation.plans import surrogate_names
    from robench.models.output_choice import refuse_others_beside_choice

    refuse_unused_options(job, attacking)
    norms = [as_threat(words).norm for words in attacking.threat or ()] or [attacking.norm or "linf"]
    refuse_unknown_names(job, attacking, norms)
    radii = attacking.eps.values if attacking.eps else (0.0,) if attacking.threat else None
    subjects = load_subjects(models, norms[0] if attacking.threat else attacking.norm, radii, common)
    threats = threats_of(subjects, job, attacking)
    surrogates = surrogate_names([*job.recipes(threats[0].norm), *job.against])
    refuse_others_beside_choice([one.loaded for one in subjects], surrogates, "surrogate")
    refuse_other_orders(subjects[0].images.classes, surrogates, subjects[0].classes, "surrogate")
    return LoadedJob(job, common, attacking, subjects, threats, batch_size_of(subjects[0], common))


def batch_size_of(one: LoadedSubject, common: CommonOptions) -> int:
    """The batch size that the user wants: the quickest for --batch-size auto."""
    if common.batch_size == 0:
        return quickest_batch_size(one.loaded, one.images, one.device)
    return common.batch_size or usual_batch_size(one.images)


def array_patterns(job: Job, attacking: AttackOptions) -> list[str]:
    """Patterns of the arrays and pictures that a job writes."""
    patterns = ["x_adv*.npy", "x-*.npy", "maps-*.npy"] if attacking.save else []
    return [*patterns, *([PNG_PATTERN] if attacking.save_png else []), *(["maps-*.npy"] if job.save else [])]


# --- measuring: the public functions do it


def job_result(loaded: LoadedJob, place: Destination, quiet: bool) -> Result:
    """What the public function of the command finds."""
    common = loaded.common
    how: dict[str, Any] = {
        "threats": loaded.threats, "seed": common.seed, "batch_size": loaded.batch_size, "device": loaded.subjects[0].device,
        "budget": common.budget, "folder": place, "resume": place.resume, "track": image_progress(quiet),
        "prepare": bool(loaded.job.attacks()), "download": common.download,
    }  # fmt: skip
    return saliency_result(loaded, place, quiet, how) if loaded.job.command == "saliency" else suite_result(loaded, place, how)


def saliency_result(loaded: LoadedJob, place: Destination, quiet: bool, how: Mapping[str, Any]) -> Result:
    """What `evaluation.api.saliency` finds."""
    from robench.evaluation import api

    job = loaded.job
    return api.saliency(
        [one.run_subject(loaded.subjects[0].images) for one in loaded.subjects], loaded.subjects[0].images,
        methods=job.methods(), scores=job.scores or (),
        target=int(job.target) if job.target.isdecimal() else job.target, channels=job.channels, against=job.against, join=job.join,
        inductive="inductive" in job.suites, save=place.work if job.save else None, tell=partial(print_notes, quiet=quiet), **how,
    )  # fmt: skip


def suite_result(loaded: LoadedJob, place: Destination, how: Mapping[str, Any]) -> Result:
    """What `evaluation.api.evaluate` finds."""
    from robench.evaluation import api

    job, attacking, kinds = loaded.job, loaded.attacking, loaded.job.kinds()
    return api.evaluate(
        [one.run_subject(loaded.subjects[0].images) for one in loaded.subjects], loaded.subjects[0].images,
        suite=job.suites[0] if len(job.suites) == 1 else job.suites, scores=attacking.score or ("gini",), scale=attacking.scale,
        photos=attacking.frost_dir, engine=attacking.engine, precision=attacking.precision, compiled=attacking.compiled,
        until=attacking.until, save=place.work / "x_adv.npy" if attacking.save and "attack" in kinds else None,
        made=place.work if attacking.save and kinds != {"attack"} else None, pngs=place.work if attacking.save_png else None,
        examine=job.examine, **how,
    )  # fmt: skip


def print_notes(sentences: Sequence[str], quiet: bool) -> None:
    """Says what is to be known before anything is computed."""
    for sentence in sentences:
        print_message(f"Note: {sentence}", quiet)


def compiler_notes() -> list[str]:
    """Why the attacks' arithmetic is not compiled, as a note; none where it can be."""
    from robench.attacks.kernels import compile_failure

    why = compile_failure()
    return [f"{why}: the attacks run without it"] if why else []


# --- a run and its report


@dataclass(frozen=True)
class RunDescription:
    """What a run is called, what identifies it and what is said of it.

    Attributes:
        name: what is measured, in the name of the folder.
        title: title of the tables; {n} in it becomes the number of images.
        words: what identifies the run, as plain JSON values.
        entries: what the manifest says besides models, images and notes; a function is called with the result.
        arrays: patterns of the files that are written while it measures.
        adds: adds(theirs, ours) tells whether these words only add to those of a finished run.
    """

    name: str
    title: str
    words: dict[str, Any]
    entries: Mapping[str, Any]
    arrays: Sequence[str]
    adds: Adds


def measure_and_report(
    subjects: Sequence[LoadedSubject], run: RunDescription, common: CommonOptions, measure: Callable[[Destination, bool], Result]
) -> None:
    """Claims the folder, measures, writes tables, manifest, pictures and a page, and prints tables, notes and flags.

    Where `torchrun` started several processes, each measures its share and the first one reports.

    Args:
        subjects: the models, all with the same images.
        run: what the run is called and what identifies it.
        common: options that every measuring command has.
        measure: measure(place, quiet) measures everything and writes arrays.

    Raises:
        InputError: where the folder is refused, or what is asked for.
        typer.Exit: with code 1 where a flag was raised and --strict given, with 130 (143 by SIGTERM) where the run was interrupted.
    """
    from robench.core.processes import join_world
    from robench.report.trackers import chosen_trackers

    trackers = chosen_trackers(common.log)
    with join_world() as world, ExitStack() as stack:
        first = world.rank == 0
        if common.plan:
            if first:
                print_plan(run, common, measure)
            return
        how: dict[str, Any] = {"resume": common.resume, "force": common.force, "adds": run.adds}
        place = shared_place(world, stack, partial(run_place, common.out, subjects_text(subjects), run.name, run.words, **how))
        if place.finished:
            flags = print_finished_run(subjects, place, run.title, common) if first else []
        else:
            begin = time.perf_counter()
            result = measure(place, common.quiet or not first)
            flags = [*loading_flags(subjects), *(flag for flag in result.flags if flag not in loading_flags(subjects))]
            if first:
                report_run(subjects, run, result, place, common, flags, time.perf_counter() - begin)
        if first:
            print_tracker_failures(place, trackers)
    if first and common.strict and flags:
        print_to_stderr(f"Flags were raised and --strict was given: {len(flags)}")
        raise typer.Exit(1)


def print_plan(run: RunDescription, common: CommonOptions, measure: Callable[[Destination, bool], Result]) -> None:
    """Prints what a run will cost, and how that is to be read; nothing of it is done.

    Args:
        run: what the run is called.
        common: options that every measuring command has.
        measure: measure(place, quiet) would measure everything.
    """
    from robench.core.folders import Destination
    from robench.evaluation.planning import plan_costs

    folder = common.out or Path("results")
    costs = plan_costs(measure, Destination(folder, run.words, folder), True)
    print_costs(costs, f"Plan of {run.title.format(n=costs.n)}", common.budget, common.quiet)


def report_run(
    subjects: Sequence[LoadedSubject], run: RunDescription, result: Result, place: Destination, common: CommonOptions,
    flags: Sequence[str], seconds: float,
) -> None:  # fmt: skip
    """Writes the results of a run and prints them."""
    with place.staged_results(run.arrays) as folder:
        paths = write_results(subjects, result, run.title, run.entries, common, folder, flags, seconds)
    names = [*(path.name for path in paths), *array_names_in(place.folder, run.arrays)]
    print_results(subjects, result, run.title, place, names, common.quiet)


def print_tracker_failures(place: Destination, trackers: Mapping[str, StartLog]) -> None:
    """Gives the results, which are on the disk, to the trackers; a sentence for each that fails, also where messages are not wanted."""
    from robench.report.trackers.measured import log_results

    for sentence in log_results(place.folder, trackers) if trackers else ():
        print_to_stderr(f"Note: {sentence}")


def array_names_in(folder: Path, patterns: Sequence[str]) -> list[str]:
    """The files in a folder that match the patterns; of pictures, which are many, the pattern."""
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return [path.name for path in paths if path.suffix != ".png"] + [PNG_PATTERN] * any(path.suffix == ".png" for path in paths)


def write_results(
    subjects: Sequence[LoadedSubject], result: Result, title: str, entries: Mapping[str, Any], common: CommonOptions, folder: Path,
    flags: Sequence[str],
    seconds: float,
) -> list[Path]:  # fmt: skip
    """Writes tables, manifest, pictures and the page into the folder; the paths."""
    from robench.report.folder import save_measurement
    from robench.report.manifest import new_manifest
    from robench.results.image_identities import identity_words

    n = int(result.run.ledger.seen.sum())
    words = checkpoint_and_data(subjects)
    words["checkpoint"] = with_training(words["checkpoint"], [one.loaded for one in subjects])
    words |= {key: value(result) if callable(value) else value for key, value in entries.items()}
    words["data"] = {**words["data"], "n": n, **identity_words(result.run, subjects[0].images)}
    notes = [*loading_notes(subjects), *(note for note in result.notes if note not in loading_notes(subjects))]
    content = new_manifest(subjects[0].device, common.seed, result.run.spent_seconds or seconds, flags, **words, notes=notes)
    return save_measurement(result, folder, title=title.format(n=n), images=subjects[0].images, manifest=content)


def print_results(
    subjects: Sequence[LoadedSubject], result: Result, title: str, place: Destination, file_names: Sequence[str], quiet: bool
) -> None:
    """Prints the tables, the notes and the flags, and says what was written."""
    from robench.data.imagenet import classes_in_words
    from robench.report.class_tables import class_tables
    from robench.report.tables import report_tables

    tables = report_tables(
        result.rows, title=title.format(n=int(result.run.ledger.seen.sum())), most=MOST_LEVELS, reference=stored_reference(place)
    )
    classes = classes_in_words(subjects[0].images.classes)
    for table in [*tables, *class_tables(result.rows, result.confusions, classes, brief=True)]:
        print_table(*table)
    for note in result.notes:
        if note not in loading_notes(subjects) and note not in result.notes_before_run:
            print_message(f"Note: {note}", quiet)
    for flag in result.flags:
        if flag not in loading_flags(subjects):  # those were told as the models were loaded
            print_to_stderr(f"Flag: {flag}")
    if any(row.metric == "error_rate" for row in result.rows):
        print_message(f"Every level is in rows.csv and report.html; at most {MOST_LEVELS} of a probe are shown here.", quiet)
    print_message(f"Written: {', '.join(file_names)} in {place.folder}", quiet)


def stored_reference(place: Destination) -> Any:
    """What the manifest says of the model by whose errors others are divided; None without one."""
    from robench.core.folders import manifest_of

    return manifest_of(place.folder).get("corruptions", {}).get("reference") or None


def print_finished_run(subjects: Sequence[LoadedSubject], place: Destination, title: str, common: CommonOptions) -> list[str]:
    """Prints the tables of a finished run; the flags."""
    from robench.core.folders import manifest_of
    from robench.data.imagenet import classes_in_words
    from robench.report.class_tables import class_tables
    from robench.report.tables import report_tables
    from robench.results.classes import read_confusions
    from robench.results.files import read_rows

    rows = read_rows(place.folder)
    n = next((row.n for row in rows if row.metric in ("accuracy", "flip_probability")), 0)
    tables = report_tables(rows, title=title.format(n=n), most=MOST_LEVELS, reference=stored_reference(place))
    for table in [*tables, *class_tables(rows, read_confusions(place.folder), classes_in_words(subjects[0].images.classes), brief=True)]:
        print_table(*table)
    manifest = manifest_of(place.folder)
    data, until = manifest.get("data", {}), manifest.get("how", {}).get("until")
    if common.budget is not None and data.get("chosen", 0) > data.get("n", 0):
        ended = "The budget is spent" if until is None else f"The run ended at --until {until:g} or with its budget"
        print_message(f"{ended}: a longer one goes on{'' if until is None else ' where it was the budget'}, with --resume", common.quiet)
    return print_finished_notes(place, [*loading_notes(subjects), *loading_flags(subjects)], common.quiet)


def print_finished_notes(place: Destination, earlier_notes: Sequence[str], quiet: bool) -> list[str]:
    """Says the notes and flags of a finished run, but for those that are known, and that nothing was changed; the flags."""
    from robench.core.folders import manifest_of

    manifest = manifest_of(place.folder)
    flags = [str(flag) for flag in manifest.get("flags", [])]
    for note in manifest.get("notes", []):
        print_message(f"Note: {note}", quiet or note in earlier_notes)
    for flag in flags:
        if flag not in earlier_notes:  # those were told as the model was loaded
            print_to_stderr(f"Flag: {flag}")
    names = ", ".join(name for name in manifest["files"] if name != "manifest.json")
    print_message(f"This run is finished, and nothing was changed: {names} in {place.folder}", quiet)
    return flags


# --- the folder of a run


@contextmanager
def run_place(
    out: Path | None, model: str, what: str, words: dict[str, Any], *, resume: bool, force: bool, adds: Adds
) -> Iterator[Destination]:
    """The place of a run: the user's folder, or a new one, results/<time>-<model>-<what>; see `core.folders.claim_destination`.

    Where a run with a state is interrupted, says how it goes on and ends with exit code 130, or 143.
    """
    from robench.core.folders import claim_destination, make_numbered_folder

    for name, value in (("resume", resume), ("force", force)):
        if value and out is None:
            raise InputError(f"which run is --{name} to {'go on with' if name == 'resume' else 'replace'}? Pass its folder with --out")
    folder = out or make_numbered_folder(Path("results") / f"{time.strftime('%Y%m%d-%H%M%S')}-{file_stem(model)}-{file_stem(what)}")
    with claim_destination(folder, words, resume=resume, force=force, adds=adds) as place:
        try:
            yield place
        except KeyboardInterrupt as stop:
            if not place.has_begun or place.finished:
                raise
            print_to_stderr(f"Interrupted: go on with the same words and {'--force ' if place.replaces else ''}--resume --out {folder}")
            raise typer.Exit(interruption_exit_code(stop)) from None


def shared_place(world: World, stack: ExitStack, claim: Callable[[], AbstractContextManager[Destination]]) -> Destination:
    """The place that the first process claims, on all processes; where it is refused, the others end without a word."""
    place, refusal = None, None
    if world.rank == 0:
        try:
            place = stack.enter_context(claim())
        except InputError as error:
            refusal = error
    place, refusal = world.first_of((place, refusal))
    if place is None:
        raise refusal if refusal and world.rank == 0 else typer.Exit(2)
    return place
