"""`robench train --sweep`: one training for each cell of a grid, a table of them and the front of clean and robust accuracy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robench.cli.console import complain, message
from robench.core.errors import InputError

if TYPE_CHECKING:
    from robench.training.sweeps import Cell, Finished


def sweep_command(
    sentence: str, run: Callable[..., Any], words: dict[str, Any], given: dict[str, Any], *, suite: str, measure: str, quiet: bool
) -> None:
    """Trains every cell into the folder `words["out"]`, writes rows.csv, sweep.json and front.png there, and prints the table.

    run    robench.training.train.train      words  its arguments but for the settings, which are `given` where they are not None
    """
    from robench.cli.measure import alone, destined
    from robench.core.recipes import lookup
    from robench.training.presets import PRESETS
    from robench.training.sweeps import header, more_cells, planned, sweep
    from robench.training.train import refuse_untrainable

    alone("a sweep")
    preset, out, resume, force = words.pop("preset"), words.pop("out"), words.pop("resume"), words.pop("force")
    if out is not None and out.suffix in (".pt", ".pth"):
        raise InputError(f"a sweep writes into a folder, not a file: {out}")
    named = {key: value for key, value in given.items() if value is not None}
    cells = planned(sentence, {**lookup(preset or "small", PRESETS, "preset"), **named})

    def train_one(cell: Cell, path: Path) -> dict[str, Any]:
        message(f"Cell {cells.index(cell) + 1} of {len(cells)}: {cell.setting}", quiet)
        settings = {"seed": words["seed"], **named, **cell.overrides}
        apart = {key: value for key, value in words.items() if key != "seed"}
        return run(**apart, **settings, preset=preset, out=path, teachers=path.parent, resume=place.resume).meta  # type: ignore[no-any-return]

    about = plain({**{key: value for key, value in words.items() if key not in ("watch", "device", "suite")}, "preset": preset, **named})
    about |= contents(words, named)
    begin = time.perf_counter()
    asked = {"command": "sweep", **header(cells, suite, measure, about)}
    methods = [named.get("objective"), *named.get("reg", ())]
    of = ", ".join(filter(None, (sentence, " + ".join(word for word in methods if word))))
    title = f"Sweep of {of} on "
    with destined(out, words["data"], "sweep", asked, resume=resume, force=force, adds=more_cells) as place:
        if place.finished:
            done = known(cells, place.folder)
        else:
            refuse_untrainable({cell.setting: {**named, **cell.overrides} for cell in cells}, words, preset)
            done = list(sweep(cells, train_one, folder=place, about=about, suite=suite, measure=measure, resume=place.resume))
        title += f"{done[0].rows[0].data or Path(words['data']).name}, measured on {measure} images"
        if not place.finished:
            also = [pattern for cell in cells for pattern in (f"{cell.name}.pt", f"{cell.name}.*.*", f"{cell.name}.json")]
            with place.results([*also, "teacher-????????.*", "rows.csv", "sweep.json"]) as folder:
                written(folder, done, suite, title, words, time.perf_counter() - begin)
    table(done, suite, title)
    for one in done:
        if (count := one.number("flags")) > 0:
            complain(f"Flag: {one.cell.setting}: the final measurement raised {count:.0f}, see {one.cell.name}.json")
    seconds = time.perf_counter() - begin
    there = sum((place.folder / f"{cell.name}.pt").exists() for cell in cells)  # a training that diverged leaves none
    files = f"rows.csv, sweep.json, front.png and {there} checkpoint{'' if there == 1 else 's'} in {place.folder}"
    message(
        f"This sweep is finished, and nothing was changed: {files}" if place.finished else f"Written: {files}, in {seconds:.0f} s", quiet
    )


def known(cells: Sequence[Cell], folder: Path) -> list[Finished]:
    """The cells of a finished sweep."""
    from robench.results.files import read_rows
    from robench.training.sweeps import Finished

    rows = [row for row in read_rows(folder) if row.metric != "on_front"]
    return [Finished(cell, [row for row in rows if row.setting == cell.setting], fresh=False) for cell in cells]


def contents(words: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """The sha256 of what the words of a sweep name: images, a teacher, own code, models that attacks transfer from."""
    from robench.models.identity import code_of, digest_of
    from robench.training.train import files_named, images_of

    shown = {key: words[key] for key in ("data_dir", "download", "image_size", "resize", "layout")}
    found: dict[str, Any] = {
        "sha256 of the training images": images_of(words["data"], "train", words["n_train"], words["seed"], **shown).sha256
    }
    if words["measure"] == "test":
        found["sha256 of the test images"] = images_of(words["data"], "test", **shown).sha256
    if words["teacher"] is not None:
        found["sha256 of the teacher"] = digest_of(words["teacher"])
    files = files_named(list(filter(None, (named.get("objective"), *named.get("reg", ())))), words["suite"])
    code = {**files.pop("code", {}), **code_of(named.get("arch"))}
    return {**found, **files, **({"code": code} if code else {})}


def plain(words: dict[str, Any]) -> dict[str, Any]:
    """The words as JSON holds them, paths as they were written."""
    return json.loads(json.dumps(words, default=str))  # type: ignore[no-any-return]


def written(folder: Path, done: Sequence[Finished], suite: str, title: str, words: dict[str, Any], seconds: float) -> None:
    """Draws the front and writes the manifest."""
    from robench.core.files import write_whole
    from robench.report.figures.training import front
    from robench.report.manifest import manifest
    from robench.training.sweeps import points, robust_probe

    front(folder / "front.png", points(done, suite), title, robust=robust_probe(done, suite))
    content = manifest(words["device"], words["seed"], seconds, [])
    write_whole({folder / "manifest.json": json.dumps(content).encode()})


def table(done: Sequence[Finished], suite: str, title: str) -> None:
    """Prints a line a cell."""
    from robench.cli.console import show
    from robench.report.tables import interval, percent
    from robench.training.sweeps import pivot, robust_probe, with_front
    from robench.training.train import CLEAN_ATTACKED

    robust = robust_probe(done, suite)
    keys = list(done[0].cell.values)
    also = [CLEAN_ATTACKED] if any(CLEAN_ATTACKED in one.accuracies for one in done) else []
    lines = []
    for line in pivot(with_front(done, suite)):
        cells = [
            text
            for probe in ("clean", *also, robust)
            for text in (
                (percent(line[probe]), interval(line[f"{probe} low"], line[f"{probe} high"])) if probe in line else ("diverged", "")
            )
        ]
        on_front = "yes" if line.get("on_front") else ""
        lines.append((*(str(line[key]) for key in keys), *cells, on_front, f"{line['seconds']:.1f}"))
    n = done[0].accuracies[robust].n if robust in done[0].accuracies else 0
    heads = (word for probe in ("clean", *also, robust) for word in (f"{probe} %", "95 % interval"))
    show(
        f"{title}; {robust}: n = {n}",
        (*keys, *heads, "on front", "seconds"), lines, left=len(keys),
    )  # fmt: skip
