"""The files of a run: rows.csv, a table of what became of each image for each kind, manifest.json, pictures, and one page, report.html."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robench.core.recipes import eps_text
from robench.core.rows import CLEAN, WORST_NORM, Row
from robench.data import Images
from robench.report import page
from robench.report.metric_meanings import METRICS, OWN_SCORE_MEANING, accuracy_sentence, metric_key
from robench.report.pictures import captioned_groups, draw_pictures, measured_severities
from robench.report.tables import FATE, TextTable, report_tables, rows_by_kind
from robench.results.files import save_tables
from robench.results.measurement import Measurement

VERSIONS = ("robench", "torch", "pyautoattack")
TABLE_METRICS = (*FATE, "error_rate/sd", "error_rate_shared/sd")  # metrics with a / that the tables show


def save_measurement(
    measurement: Measurement, folder: Path, *, title: str, images: Images | None, manifest: Mapping[str, Any]
) -> list[Path]:  # fmt: skip
    """Writes all files of a run into a folder; returns the paths.

    Args:
        measurement: what was measured.
        folder: the folder, which exists.
        title: of tables and pictures: models, images, seed, and for attacks the threat.
        images: give the classes their names; None where these are not known.
        manifest: what `report.manifest.new_manifest` gives, with checkpoint, data, notes and flags; corruptions.reference describes a
            reference.
    """
    more = dict(measurement.tables)
    table_paths = save_tables(folder, measurement.rows, more.pop("samples", []), manifest, **more)
    picture_paths = draw_pictures(measurement, folder, title=title, images=images)
    text_tables = report_tables(measurement.rows, title=title, reference=reference_in(manifest))
    parts = list(page_parts(measurement, title, text_tables, picture_paths, manifest))
    return [*table_paths, *picture_paths, page.write_page(folder / "report.html", title, parts)]


def reference_in(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a manifest says of the model by whose errors others are divided; None without one."""
    return (manifest.get("corruptions") or {}).get("reference") or None


def page_parts(
    measurement: Measurement, title: str, text_tables: Sequence[TextTable], picture_paths: Sequence[Path], manifest: Mapping[str, Any]
) -> Iterator[page.Part]:  # fmt: skip
    """What the page shows: what was measured, flags and notes, what the numbers mean, tables, pictures."""
    rows = measurement.rows
    yield from (page.NoteBox(flag, flag=True) for flag in manifest.get("flags", ()))
    yield from (page.NoteBox(note) for note in manifest.get("notes", ()))
    yield page.Heading("What was measured")
    yield page.DataTable(("", ""), list(measurement_facts(measurement, manifest)))
    yield page.Heading("What the numbers mean")
    yield meanings_table([row for row in rows if is_shown(row)])
    for table in text_tables:
        yield page.Heading(heading_of(table, title))
        yield page.DataTable(table.columns, table.lines, grouped=table.word_columns > 1)
    for heading, caption, paths in captioned_groups(picture_paths, measured_severities(rows)):
        yield page.Heading(heading)
        yield page.Paragraph(caption)
        yield from (page.Picture(path, f"{heading}: {path.stem}") for path in paths)
    if others := [row for row in rows if not is_shown(row)]:
        yield page.Heading("What else is in rows.csv")
        yield meanings_table(others)


def is_shown(row: Row) -> bool:
    """Whether a row is of a kind that tables show, and not one of the spreads, quantiles and checks of rows.csv alone."""
    return "/" not in row.metric or row.metric in TABLE_METRICS


def heading_of(table: TextTable, title: str) -> str:
    """The title of a table without that of the page, which stands above."""
    words = table.title.replace(f" of {title}", "").replace(f": {title}", "").replace(title, "accuracy left after attacks")
    return words[:1].upper() + words[1:]


def measurement_facts(measurement: Measurement, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was measured, line by line: models, images, threat, seed, when, by which versions."""
    checkpoints, data, versions = manifest.get("checkpoint", []), manifest.get("data", {}), manifest.get("versions", {})
    for one in checkpoints if isinstance(checkpoints, list) else [checkpoints]:
        yield "model", f"{one.get('name') or 'unnamed'}, sha256 {one.get('sha256') or 'unknown'}"
    if reference := reference_in(manifest):
        yield "reference", f"{reference['name']}, " + (f"sha256 {reference['sha256']}" if reference["sha256"] else "published errors")
    more = f" of {data['chosen']} chosen ones" if data.get("chosen", data.get("n")) != data.get("n") else ""
    yield "images", f"{data.get('name') or 'unnamed'}, {data.get('split') or 'no'} split, n = {data.get('n')}{more}"
    yield "threat", threat_description(measurement)
    yield "seed", str(manifest.get("seed", ""))
    yield "finished", f"{manifest.get('finished', '')}, after {manifest.get('seconds', 0):.1f} s on {manifest.get('device', '')}"
    yield "versions", ", ".join(f"{name} {versions[name]}" for name in VERSIONS if versions.get(name, "absent") != "absent")
    yield "command", str(manifest.get("command", ""))


def radii_by_norm(measurement: Measurement) -> dict[str, list[float]]:
    """The radii of all attacks of a run by norm, those that only gave their images to other stages too."""
    radii: dict[str, set[float]] = {}
    for stage in measurement.run.stages:
        if stage.kind == "attack" and stage.threat is not None:
            radii.setdefault(stage.threat.norm, set()).add(stage.threat.eps)
    return {norm: sorted(some) for norm, some in radii.items()}


def threat_description(measurement: Measurement) -> str:
    """The threat in words."""
    threats = [f"{norm} eps = {', '.join(map(eps_text, some))}" for norm, some in radii_by_norm(measurement).items()]
    return "; ".join(threats) or "none: nothing was attacked within a norm ball"


def accuracy_kinds(rows: Sequence[Row]) -> set[str]:
    """Which kinds of accuracies there are among rows, in the words of `report.metric_meanings.ACCURACY_SENTENCES`."""
    accuracies = [row for row in rows if row.metric == "accuracy"]
    attacks = {row.probe for row in rows_by_kind(rows).get("attack", [])}
    corruptions = {row.probe for row in rows if row.metric == "mean_accuracy"}
    kinds = {"clean"} if any(row.probe == CLEAN for row in accuracies) else set[str]()
    kinds |= {"corruption"} if any(row.probe in corruptions for row in accuracies) else set()
    kinds |= {"attack"} if any(row.probe in attacks and row.probe != CLEAN and row.norm for row in accuracies) else set()
    kinds |= {"worst"} if any(row.norm == WORST_NORM for row in accuracies) else set()
    return kinds | ({"on"} if any(" on " in row.probe for row in accuracies) else set())


def meanings_table(rows: Sequence[Row]) -> page.DataTable:
    """What each kind of number among the rows means, on how many images it was found, and which direction is better."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        counts.setdefault(metric_key(row.metric) or row.metric, []).append(row.n)
    lines = []
    for name, image_counts in counts.items():
        sentence, direction = METRICS.get(name, OWN_SCORE_MEANING)
        sentence = accuracy_sentence(accuracy_kinds(rows)) if name == "accuracy" else sentence
        n = str(min(image_counts)) if min(image_counts) == max(image_counts) else f"{min(image_counts)} to {max(image_counts)}"
        lines.append((name, n, direction, sentence))
    return page.DataTable(("number", "images", "better", "what it is"), lines)
