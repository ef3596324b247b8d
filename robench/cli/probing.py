"""What `eval` and `attack` do with probes: run them on one or several models, write the results, print the tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robench.cli.console import Table, complain, interval, message, percent, show, tracker
from robench.cli.drawing import page_parts, probe_pictures
from robench.cli.labels import chance_flags
from robench.cli.measuring import (
    BATCH_SIZE,
    Subject,
    about,
    alone,
    described,
    destined,
    end_if_strict,
    flags_of,
    image_words,
    notes_of,
    quickest_batch,
    recipe_words,
    subject_words,
    told_again,
)
from robench.recipes import Recipe

if TYPE_CHECKING:
    from robench.probing import Probing
    from robench.rows import Row

MOST = 3  # levels of a probe that a terminal shows


def run_probes(
    what: Sequence[Subject], recipes: Sequence[Recipe], title: str, out: Path | None, *, quiet: bool, strict: bool, seed: int,
    batch_size: int | None, resume: bool, force: bool, command: str,
) -> None:  # fmt: skip
    """Measures, writes tables, manifest, pictures and a page, and prints the tables; exit code 1 for a raised flag if `strict`."""
    from robench.report import read_rows
    from robench.report.page import page

    alone("a probe")
    words = {"command": command, **described(what), "probes": [recipe_words(recipe) for recipe in recipes], "seed": seed}
    begin, name = time.perf_counter(), f"{title} of {subject_words(what)} on {image_words(what[0])}, seed {seed}"
    with destined(out, subject_words(what), title, words, resume=resume, force=force) as place:
        if place.finished:
            for table in tables(read_rows(place.folder), MOST):
                show(*table)
            flags = told_again(place, [*notes_of(what), *flags_of(what)], quiet)
        else:
            with place.results() as folder:
                found = probed(what, recipes, quiet=quiet, seed=seed, batch_size=batch_size)
                guesses = chance_flags(found.rows, len(what[0].images.classes))
                flags = [*flags_of(what), *found.flags, *guesses]
                written = write(what, found, flags, name, folder, seed, time.perf_counter() - begin)
                written.append(page(folder / "report.html", name, page_parts(tables(found.rows), written, notes_of(what))))
            for table in tables(found.rows, MOST):
                show(*table)
            for flag in (*found.flags, *guesses):
                complain(f"Flag: {flag}")
            message(f"Every level is in rows.csv and report.html; at most {MOST} of a probe are shown here.", quiet)
            message(f"Written: {', '.join(path.name for path in written)} in {place.folder}", quiet)
    end_if_strict(strict, flags)


def probed(what: Sequence[Subject], recipes: Sequence[Recipe], *, quiet: bool, seed: int, batch_size: int | None) -> Probing:
    """What `probe` finds on the models."""
    from robench.probing import Subject as Probed
    from robench.probing import probe

    images = what[0].images
    return probe(
        [Probed(one.loaded.model, about(one)) for one in what], images.x, images.y, recipes, ids=images.ids, seed=seed,
        batch_size=quickest_batch(what[0]) if batch_size == 0 else batch_size or BATCH_SIZE, device=what[0].device, track=tracker(quiet),
    )  # fmt: skip


def tables(rows: Sequence[Row], most: int | None = None) -> list[Table]:
    """The tables of error rates: on the images that each model gets right, and, for several models, on those that all of them do.

    most  show so many levels of a probe at most, evenly chosen; all of them if not given
    """
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    own = Table("error rate % on the images that a model gets right when clean", ("probe", "changed %", *names), [])
    clean = [row for row in rows if row.metric == "accuracy"]
    own.lines.extend([("clean accuracy", "", *(f"{percent(row.value)} ({interval(row.low, row.high)})" for row in clean))] if clean else [])
    own.lines.extend([("n right when clean", "", *(f"{round(row.value * row.n)} of {row.n}" for row in clean))] if clean else [])
    own.lines.extend(level_lines(rows, names, "error_rate", most))
    spread = "; +- is the standard deviation over the draws" if any(row.metric.endswith("/sd") for row in rows) else ""
    own = own._replace(title=own.title + spread)
    if len(names) == 1:
        return [own]
    n = next((row.n for row in rows if row.metric == "error_rate_shared"), 0)
    title = f"error rate % on the {n} image{'s' * (n != 1)} that all models get right: this changes with the list of models{spread}"
    return [own, Table(title, own.columns, list(level_lines(rows, names, "error_rate_shared", most)))]


def level_lines(rows: Sequence[Row], names: Sequence[str], metric: str, most: int | None) -> Iterable[tuple[str, ...]]:
    """One line a level: the probe with its level, the share of the image that was changed (mean over the models), each model's error."""
    values = {(row.checkpoint, row.probe, row.setting, row.metric): row for row in rows}
    levels: dict[str, list[str]] = {}
    for row in rows:
        if row.metric == "error_rate" and row.setting not in levels.setdefault(row.probe, []):
            levels[row.probe].append(row.setting)
    for probe, settings in levels.items():
        for setting in chosen(settings, most):
            shares = [row.value for (_, *level), row in values.items() if level == [probe, setting, "changed_share"]]
            cells = [cell(values.get((name, probe, setting, metric)), values.get((name, probe, setting, f"{metric}/sd"))) for name in names]
            yield f"{probe} {level_words(settings, setting)}".strip(), f"{100 * sum(shares) / len(shares):.2f}", *cells


def chosen(settings: Sequence[str], most: int | None) -> Sequence[str]:
    """At most so many of the settings, the first and the last among them."""
    if most is None or len(settings) <= most:
        return settings
    return [settings[round(place * (len(settings) - 1) / (most - 1))] for place in range(most)]


def cell(row: Row | None, spread: Row | None) -> str:
    """An error rate with its standard deviation over the draws where there are several, else its interval; a dash where there is none."""
    if row is None:
        return "-"
    return f"{percent(row.value)} +- {percent(spread.value)}" if spread else f"{percent(row.value)} ({interval(row.low, row.high)})"


def level_words(settings: Sequence[str], setting: str) -> str:
    """The words of a setting that are not the same for all levels of the probe; a count beside its share is left out."""
    common = set.intersection(*(set(other.split()) for other in settings))
    words = [word for word in setting.split() if word not in common]
    return " ".join(word for word in words if not (word.startswith("k=") and any(other.startswith("t=") for other in words)))


def write(what: Sequence[Subject], found: Probing, flags: Sequence[str], name: str, folder: Path, seed: int, seconds: float) -> list[Path]:
    """Writes rows, the per-sample table, the manifest and the pictures; returns the paths."""
    from robench.report import save
    from robench.report.manifest import manifest

    content = manifest(what[0].device, seed, seconds, flags, **described(what), notes=notes_of(what))
    return [*save(folder, found.rows, found.samples, content), *probe_pictures(found, name, folder)]
