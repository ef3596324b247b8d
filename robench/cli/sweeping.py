"""`robench train` with `--sweep` or `--seeds`: several trainings in one call, and a table of them; of a sweep the front as well."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from robench.cli.calls import entries_with_seed, repetition_entries
from robench.cli.console import print_message, print_to_stderr, task_table
from robench.core.errors import InputError
from robench.report.tables import percent

if TYPE_CHECKING:
    from robench.core.clusters import EngineWords
    from robench.training.grids import SweepCell
    from robench.training.planned_trainings import SweepCosts
    from robench.training.seed_groups import TrainedSeeds
    from robench.training.sweeps import FinishedCell
    from robench.training.training_costs import TrainingCosts


def train_sweep(
    sentence: str, run: Callable[..., Any], words: dict[str, Any], overrides: dict[str, Any], *, suite: str, measure: str, quiet: bool,
    engine: EngineWords | None = None,
) -> None:  # fmt: skip
    """Trains every cell into the folder `words["out"]`, writes rows.csv, sweep.json and front.png there, and prints the table.

    Args:
        sentence: the grid, such as "lambda=0.03:0.1,rho=0.1:1".
        run: `training.train.train`.
        words: arguments of `run` that are no settings; "preset", "out", "resume" and "force" are taken out.
        overrides: settings by name, None for what the user left to the preset.
        suite: what is run at the end of each training.
        measure: the images that are measured at the end, "test" or "held-out".
        quiet: whether progress and messages are left out.
        engine: the cluster on which cells are trained side by side; None trains one after the other here.

    Raises:
        InputError: for a grid that cannot be read or trained, and where the folder is refused.
    """
    from robench.cli.jobs import refuse_several_processes
    from robench.cli.measure import run_place
    from robench.core.recipes import lookup
    from robench.training.grids import sweep_cells
    from robench.training.preparation import refuse_untrainable
    from robench.training.presets import FINE_TUNING, PRESETS
    from robench.training.sweeps import adds_cells, read_finished_cells, sweep, sweep_header

    refuse_several_processes("a sweep")
    preset, out, resume, force = words.pop("preset"), words.pop("out"), words.pop("resume"), words.pop("force")
    if out is not None and out.suffix in (".pt", ".pth"):
        raise InputError(f"a sweep writes into a folder, not a file: {out}")
    user_overrides = {key: value for key, value in overrides.items() if value is not None}
    usual = "small" if words.get("init") is None else FINE_TUNING
    cells = sweep_cells(sentence, {**lookup(preset or usual, PRESETS, "preset"), **user_overrides})

    def words_of(cell: SweepCell) -> dict[str, Any]:
        settings = {"seed": words["seed"], **user_overrides, **cell.overrides}
        return {**{key: value for key, value in words.items() if key != "seed"}, **settings, "preset": preset}

    def train_one(cell: SweepCell, path: Path) -> dict[str, Any]:
        print_message(f"Cell {cells.index(cell) + 1} of {len(cells)}: {cell.setting}", quiet)
        return run(**words_of(cell), out=path, teachers=path.parent, resume=place.resume).meta  # type: ignore[no-any-return]

    about = {**sweep_words(words, preset, user_overrides), **content_digests(words, user_overrides)}
    begin = time.perf_counter()
    run_words = {"command": "sweep", **sweep_header(cells, suite, measure, about)}
    with run_place(out, words["data"], "sweep", run_words, resume=resume, force=force, adds=adds_cells) as place:
        if place.finished:
            done = read_finished_cells(cells, place.folder)
        else:
            refuse_untrainable({cell.setting: {**user_overrides, **cell.overrides} for cell in cells}, words, preset)
            how: dict[str, Any] = {"folder": place, "about": about, "suite": suite, "measure": measure, "resume": place.resume}
            done = list(sweep(cells, train_one, **how)) if engine is None else cluster_sweep(cells, words_of, engine, how, quiet)
        title = (
            f"{sweep_subject(sentence, user_overrides)} on {done[0].rows[0].data or Path(words['data']).name}, measured on {measure} images"
        )
        if not place.finished:
            also = [pattern for cell in cells for pattern in (f"{cell.name}.pt", f"{cell.name}.*.*", f"{cell.name}.json")]
            with place.staged_results([*also, "teacher-????????.*", "rows.csv", "sweep.json"]) as folder:
                write_front_and_manifest(folder, done, suite, title, words, time.perf_counter() - begin)
    print_sweep_table(done, suite, title)
    print_sweep_files(done, place.folder, f"in {time.perf_counter() - begin:.0f} s" if not place.finished else "", quiet)


def sweep_with_seeds(sentence: str, seeds: Sequence[int] | None) -> str:
    """The grid with the seeds as its last key; InputError where it has seeds already, and where one is named twice.

    Args:
        sentence: the grid.
        seeds: those of --seeds; None where the option was not given.
    """
    from robench.training.grids import seed_key_of
    from robench.training.seed_groups import distinct_seeds

    if seeds is None:
        return sentence
    if key := seed_key_of(sentence):
        raise InputError(f"the sweep {sentence!r} gives seeds itself ({key}): leave --seeds out")
    return f"{sentence},seed={':'.join(map(str, distinct_seeds(seeds)))}"


def train_each_seed(
    seeds: Sequence[int], run: Callable[..., Any], words: dict[str, Any], overrides: dict[str, Any], *, quiet: bool, shown: bool
) -> None:
    """Trains a network for each seed, writes their table, and prints it; exit code 1 where a guard ended one of them.

    Args:
        seeds: of the trainings.
        run: `training.train.train`.
        words: arguments of `run` that are no settings, "out" among them.
        overrides: settings by name, None for what the user left to the preset.
        quiet: whether progress and messages are left out.
        shown: whether this process prints the result.

    Raises:
        InputError: for seeds, files and words that cannot be.
        typer.Exit: with code 1 where a seed diverged, or its network learnt to fool its own adversary.
    """
    from robench.training.seed_groups import trained_seed_group

    out = words["out"]
    if out is None:
        raise InputError("--seeds need --out FILE.pt, after which the checkpoints are called FILE-seed0.pt and so on")

    def train_seed(seed: int, path: Path) -> Any:
        print_message(f"Seed {seed}, {list(seeds).index(seed) + 1} of {len(seeds)}", quiet)
        return run(**{**words, "seed": seed, "out": path, "origin": entries_with_seed(words["origin"], seed)}, **overrides)

    begin = time.perf_counter()
    group = trained_seed_group(train_seed, seeds, out, resume=words["resume"], force=words["force"])
    if shown:
        print_seed_table(group, time.perf_counter() - begin, quiet)
    if group.left_out:
        raise typer.Exit(1)


def print_seed_table(group: TrainedSeeds, seconds: float, quiet: bool) -> None:
    """Prints each seed with its numbers, then their mean and standard deviation, and names the seeds that these leave out."""
    from robench.cli.console import print_table
    from robench.report.tables import percent

    probes = list(dict.fromkeys(probe for one in group.trainings for probe in one.metrics))
    lines = [
        (f"{one.seed} (left out)" if one.alarm else str(one.seed),
         *(percent(one.metrics[probe]["accuracy"]) if probe in one.metrics else "diverged" for probe in probes))
        for one in group.trainings
    ]  # fmt: skip
    means, count = group.means, len(group.sound)
    shown = [means.get(probe) for probe in probes]
    lines += [
        ("mean", *(percent(found.mean) if found else "" for found in shown)),
        ("sd (n - 1)", *(percent(found.sd) if found and count > 1 else "-" for found in shown)),
        ("seeds", *(str(count) for _ in probes)),
    ]
    n = ", ".join(f"{probe}: n = {group.sound[0].metrics[probe]['n']}" for probe in means)
    less = f", without {len(group.left_out)} of {len(group.trainings)}" if group.left_out else ""
    title = f"{count} seed{'' if count == 1 else 's'}{less}, accuracies in %" + (f"; {n}" if n else "")
    print_table(title, ("seed", *probes), lines)
    for seed, alarm in group.left_out.items():
        print_to_stderr(f"Left out of the means: seed {seed}: {alarm}")
    files = " and ".join(map(str, group.files))
    fresh = sum(one.trained for one in group.trainings)
    print_message(f"Written: {files}; {fresh} of {len(group.trainings)} trained in {seconds:.0f} s", quiet)


def cluster_sweep(
    cells: Sequence[SweepCell], words_of: Callable[[SweepCell], dict[str, Any]], engine: EngineWords, how: dict[str, Any], quiet: bool
) -> list[FinishedCell]:
    """Trains the cells side by side on a cluster; all cells, in the order of the grid.

    Args:
        cells: of the grid.
        words_of: arguments of `training.train.train` for a cell.
        engine: the cluster.
        how: the other arguments of `training.sweeps.sweep`.
        quiet: whether progress and messages are left out.
    """
    from robench.core.clusters import join_cluster
    from robench.training.cluster_sweeps import cells_on_cluster
    from robench.training.sweeps import sweep

    with join_cluster(engine.address, engine.resources) as granted, task_table("cell", [cell.setting for cell in cells], quiet) as show:
        here = {"watch", "device"}  # what a process of the cluster has of its own
        device = engine.device_of_tasks(granted)

        def remote_words(cell: SweepCell) -> dict[str, Any]:
            return {**{key: value for key, value in words_of(cell).items() if key not in here}, "device": device}

        train_cells = partial(cells_on_cluster, remote_words, granted, show, lambda sentence: print_message(f"Note: {sentence}", quiet))
        done: dict[str, FinishedCell] = {}
        for one in sweep(cells, train_cells=train_cells, **how):
            done[one.cell.setting] = one
            print_message(f"Cell {len(done)} of {len(cells)}: {one.cell.setting}: {cell_sentence(one)}", quiet)
    return [done[cell.setting] for cell in cells]


def cell_sentence(one: FinishedCell) -> str:
    """What became of a cell, in a few words."""
    if not one.accuracies:
        return "diverged"
    accuracies = ", ".join(f"{probe} {percent(row.value)} %" for probe, row in one.accuracies.items())
    return f"{accuracies}, {one.number('seconds'):.0f} s" if one.fresh else f"{accuracies}, trained before"


def print_planned_training(
    sentence: str | None, seeds: Sequence[int] | None, words: dict[str, Any], overrides: dict[str, Any], quiet: bool
) -> None:
    """Prints what a training, or those of a sweep, will cost, and how that is to be read; nothing of it is done.

    Args:
        sentence: the grid of a sweep; None without one.
        seeds: those of --seeds; None where the option was not given.
        words: arguments of `train` that are no settings.
        overrides: settings by name, None for what the user left to the preset.
        quiet: whether only the result is wanted.

    Raises:
        InputError: what the training, or one of the sweep, would raise before its first step.
    """
    from robench.cli.console import print_sentence, print_table
    from robench.training import training_cost_tables as tables
    from robench.training.planned_trainings import plan_training
    from robench.training.seed_groups import distinct_seeds

    if sentence is None and seeds is None:
        costs = plan_training(**words, **overrides)
        table, sentences, notes = (
            tables.training_cost_table(costs),
            tables.training_cost_sentences(costs),
            tables.training_reading_help(costs),
        )
    else:
        grid = sweep_with_seeds(sentence, seeds) if sentence is not None else f"seed={':'.join(map(str, distinct_seeds(seeds or ())))}"
        every = planned_sweep(grid, words, overrides)
        given = {key: value for key, value in overrides.items() if value is not None}
        title = f"{sweep_subject(grid, given)} on {words['data']}"
        table, sentences, notes = (
            tables.sweep_cost_table(every, title),
            tables.sweep_cost_sentences(every),
            tables.sweep_reading_help(every),
        )
    print_table(*table)
    for line in sentences:
        print_sentence(line)
    for note in notes:
        print_message(f"Note: {note}", quiet)


def planned_sweep(sentence: str, words: dict[str, Any], overrides: dict[str, Any]) -> SweepCosts:
    """What the trainings of a sweep cost."""
    from robench.cli.jobs import refuse_several_processes
    from robench.core.recipes import lookup
    from robench.training.grids import sweep_cells
    from robench.training.planned_trainings import plan_sweep, plan_training, settings_of_cell
    from robench.training.presets import PRESETS

    refuse_several_processes("a sweep")
    preset, out = words["preset"] or "small", words["out"]
    user_overrides = {key: value for key, value in overrides.items() if value is not None}
    cells = sweep_cells(sentence, {**lookup(preset, PRESETS, "preset"), **user_overrides})

    def plan_one(cell: SweepCell) -> TrainingCosts:
        settings = {"seed": words["seed"], **user_overrides, **cell.overrides}
        apart = {key: value for key, value in words.items() if key not in ("seed", "out")}
        try:
            return plan_training(**apart, **settings, teachers=out)
        except InputError as error:
            raise InputError(f"the cell {cell.setting} cannot be trained: {error}") from error

    return plan_sweep(cells, plan_one, lambda cell: settings_of_cell(preset, {**user_overrides, **cell.overrides}, words["seed"]))


def sweep_subject(sentence: str, overrides: dict[str, Any]) -> str:
    """What is trained, for a title: the grid, the objective and the regularisers."""
    loss = " + ".join(word for word in (overrides.get("objective"), *overrides.get("reg", ())) if word)
    return f"Sweep of {', '.join(filter(None, (sentence, loss)))}"


def print_sweep_files(done: Sequence[FinishedCell], folder: Path, time_spent: str, quiet: bool) -> None:
    """Prints the flags of all cells, and which files were written; `time_spent` is "" where nothing was changed."""
    for one in done:
        if (count := one.number("flags")) > 0:
            print_to_stderr(f"Flag: {one.cell.setting}: the final measurement raised {count:.0f}, see {one.cell.name}.json")
    there = sum((folder / f"{one.cell.name}.pt").exists() for one in done)  # a training that diverged leaves none
    files = f"rows.csv, sweep.json, front.png and {there} checkpoint{'' if there == 1 else 's'} in {folder}"
    sentence = f"Written: {files}, {time_spent}" if time_spent else f"This sweep is finished, and nothing was changed: {files}"
    print_message(sentence, quiet)


def sweep_words(words: dict[str, Any], preset: str | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """What was asked of a sweep, as plain JSON values, without what its numbers do not depend on."""
    from robench.training.beginnings import BEGINNING_OPTIONS

    relevant_words = {key: value for key, value in words.items() if key not in ("watch", "device", "suite", "log")}
    begins_with = {key for key in BEGINNING_OPTIONS if not relevant_words.get(key)}  # which an earlier version did not say
    relevant_words = {key: value for key, value in relevant_words.items() if key not in begins_with}
    return json_words({**relevant_words, "preset": preset, **overrides})


def content_digests(words: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """The sha256 of what the words of a sweep name: images, a teacher, own code, models that attacks transfer from."""
    from robench.models.identity import code_digests, file_digest
    from robench.training.preparation import DATA_OPTIONS, images_of_split, named_file_digests

    image_options = {key: words[key] for key in DATA_OPTIONS}
    digests: dict[str, Any] = {
        "sha256 of the training images": images_of_split(words["data"], "train", words["n_train"], words["seed"], **image_options).sha256
    }
    if words["measure"] == "test":
        digests["sha256 of the test images"] = images_of_split(words["data"], "test", **image_options).sha256
    if words["teacher"] is not None:
        digests["sha256 of the teacher"] = file_digest(words["teacher"])
    if words.get("init") is not None:
        digests["sha256 of the weights to begin with"] = digest_of_source(words["init"])
    files = named_file_digests(list(filter(None, (overrides.get("objective"), *overrides.get("reg", ())))), words["suite"])
    code = {**files.pop("code", {}), **code_digests(overrides.get("arch"))}
    return {**digests, **files, **({"code": code} if code else {})}


def digest_of_source(source: str) -> str:
    """The sha256 of the file that a model is; of a model of a library by its name, the name."""
    from robench.core.files import is_existing_file
    from robench.models.identity import file_digest

    return file_digest(Path(source)) if is_existing_file(Path(source)) else source


def json_words(words: dict[str, Any]) -> dict[str, Any]:
    """The words as JSON holds them, paths as they were written."""
    return json.loads(json.dumps(words, default=str))  # type: ignore[no-any-return]


def write_front_and_manifest(
    folder: Path, done: Sequence[FinishedCell], suite: str, title: str, words: dict[str, Any], seconds: float
) -> None:
    """Draws the front and writes the manifest."""
    from robench.core.files import write_whole
    from robench.report.figures.training import draw_front
    from robench.report.manifest import new_manifest
    from robench.training.sweeps import front_points, robust_probe

    draw_front(folder / "front.png", front_points(done, suite), title, robust=robust_probe(done, suite))
    content = new_manifest(words["device"], words["seed"], seconds, [], **repetition_entries())
    write_whole({folder / "manifest.json": json.dumps(content).encode()})


def print_sweep_table(done: Sequence[FinishedCell], suite: str, title: str) -> None:
    """Prints a line a cell, and then a line for each setting with several seeds, whose means decide on the front."""
    from robench.cli.console import print_table
    from robench.training.final_measurement import CLEAN_ATTACKED
    from robench.training.grids import SEED_KEYS
    from robench.training.sweeps import robust_probe, rows_with_front, settings_of_cells, sweep_lines

    robust = robust_probe(done, suite)
    keys = list(done[0].cell.values)
    also = [CLEAN_ATTACKED] if any(CLEAN_ATTACKED in one.accuracies for one in done) else []
    probes = ("clean", *also, robust)
    lines = []
    for line in sweep_lines(rows_with_front(done, suite)):
        over = f"mean ({line['seeds']:.0f})" if "seeds" in line else "no seed left"
        cells = [text for probe in probes for text in accuracy_texts(line, probe)]
        seconds = f"{line['seconds']:.1f}" if "seconds" in line else ""
        words = (str(line.get(key, over if key in SEED_KEYS else "")) for key in keys)
        lines.append((*words, *cells, "yes" if line.get("on_front") else "", seconds))
    n = done[0].accuracies[robust].n if robust in done[0].accuracies else 0
    heads = (word for probe in probes for word in (f"{probe} %", "95 % interval"))
    print_table(
        f"{title}; {robust}: n = {n}",
        (*keys, *heads, "on front", "seconds"), lines, word_columns=len(keys),
    )  # fmt: skip
    for setting in settings_of_cells(done):
        if len(setting.cells) > 1 and setting.failed:
            lost = ", ".join(one.cell.setting for one in setting.failed)
            print_to_stderr(
                f"{setting.text or 'The setting'} is on no front, and its means leave out what diverged or its guard ended: {lost}"
            )


def accuracy_texts(line: dict[str, Any], probe: str) -> tuple[str, str]:
    """An accuracy of a cell, or the mean and standard deviation of several seeds, with its interval."""
    from robench.report.tables import interval_text, percent

    if probe not in line:
        return "diverged", ""
    sd = line.get(f"{probe} sd", math.nan)
    spread = "" if math.isnan(sd) else f" \N{PLUS-MINUS SIGN} {percent(sd)}"
    low, high = line[f"{probe} low"], line[f"{probe} high"]
    return percent(line[probe]) + spread, "" if math.isnan(low) else interval_text(low, high)
