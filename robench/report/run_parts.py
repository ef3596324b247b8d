"""What the page of one run shows: facts, flags and notes, what the numbers mean, tables, pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robench.core.files import is_existing_file
from robench.core.recipes import eps_text
from robench.core.rows import CLEAN, WORST_NORM, Row
from robench.core.saved_results import manifest_value
from robench.report import page
from robench.report.captions import captioned_groups, measured_severities
from robench.report.class_tables import class_names_in, class_tables
from robench.report.headline import headline_parts
from robench.report.metric_meanings import METRICS, OWN_SCORE_MEANING, accuracy_sentence, metric_key
from robench.report.tables import FATE, TextTable, report_tables, rows_by_kind
from robench.results.classes import read_confusions
from robench.results.image_identities import preprocessing_text
from robench.results.saved_runs import SavedRun

VERSIONS = ("robench", "torch", "pyautoattack", "timm", "transformers", "robustbench")
TABLE_METRICS = (*FATE, "error_rate/sd", "error_rate_shared/sd")  # metrics with a / that the tables show


def page_parts(
    run: SavedRun, *, title: str, threat: str, tables: Sequence[TextTable], pictures: Sequence[Path], compared: Sequence[page.Part] = ()
) -> Iterator[page.Part]:  # fmt: skip
    """What the page of one run shows: its verdict, flags and notes, tables, pictures, how it was measured, what the numbers mean.

    Args:
        run: the run; its folder need not be complete yet.
        title: of the page.
        threat: what was attacked within, in words.
        tables: what `report.tables.report_tables` gives.
        pictures: its PNG files.
        compared: what is shown of a comparison with an earlier run, behind the verdict.
    """
    notes = run.manifest.get("notes")
    yield from headline_parts(run)
    yield from (page.NoteBox(flag, flag=True) for flag in run.flags)
    yield from (page.NoteBox(str(note)) for note in (notes if isinstance(notes, list) else ()))
    yield from compared
    for table in tables:
        heading, caption = heading_of(table, title)
        yield page.Heading(heading)
        yield page.DataTable(table.columns, table.lines, caption, grouped=table.word_columns > 1)
    for heading, caption, paths in captioned_groups(pictures, measured_severities(run.rows)):
        yield page.Heading(heading)
        yield page.Paragraph(caption)
        yield from (page.Picture(path, f"{heading}: {path.stem}") for path in paths)
    yield page.Heading("What was measured")
    yield page.DataTable(("", ""), list(measurement_facts(run.manifest, threat)))
    yield page.Folded("The whole manifest", [page.Preformatted(json.dumps(run.manifest, indent=2, default=str), "manifest.json")])
    yield page.Heading("What the numbers mean")
    yield meanings_table([row for row in run.rows if is_shown(row)])
    if others := [row for row in run.rows if not is_shown(row)]:
        yield page.Folded("What else is in rows.csv", [meanings_table(others)])


def saved_run_parts(run: SavedRun, compared: Sequence[page.Part] = ()) -> Iterator[page.Part]:
    """What the page of a finished run shows, read from its folder alone.

    Args:
        run: the run.
        compared: what is shown of a comparison with an earlier run.
    """
    title, threat = saved_run_title(run), radii_words(radii_of_rows(run.rows))
    tables = report_tables(run.rows, title=title, reference=reference_in(run.manifest))
    tables += class_tables(run.rows, read_confusions(run.folder), class_names_in(run.manifest))
    yield from page_parts(run, title=title, threat=threat, tables=tables, pictures=run_pictures(run), compared=compared)


def run_pictures(run: SavedRun) -> list[Path]:
    """The PNG files that a run wrote into its folder, by its manifest, but for pictures of single adversarial images."""
    names = run.manifest.get("files")
    there = [str(name) for name in names] if isinstance(names, list) else [path.name for path in sorted(run.folder.glob("*.png"))]
    paths = [run.folder / name for name in there if Path(name).name == name and name.endswith(".png") and not name.startswith("x_adv")]
    return [path for path in paths if is_existing_file(path)]


def saved_run_title(run: SavedRun) -> str:
    """Models, images, threat and seed of a finished run, in the words of the tables of a measuring command."""
    names, first = run.checkpoints, run.rows[0]
    suite = manifest_value(run.manifest, "words.suite")
    who = f"{len(names)} models" if len(names) > 1 else names[0] or "the model"
    radii = radii_of_rows(run.rows)
    images = " ".join(filter(None, (first.data, first.split))) or "images"
    subject = f"{suite} of {who}" if isinstance(suite, str) and suite else who
    parts = f"{subject} on {images}", f"n = {first.n}", radii_words(radii) if radii else "", f"seed {first.seed}"
    return ", ".join(filter(None, parts))


def radii_of_rows(rows: Sequence[Row]) -> dict[str, list[float]]:
    """The radii of all attacks of a run by norm, from its rows."""
    radii: dict[str, set[float]] = {}
    for row in rows:
        if row.norm not in ("", WORST_NORM):
            radii.setdefault(row.norm, set()).add(row.eps)
    return {norm: sorted(some) for norm, some in radii.items()}


def radii_words(radii: Mapping[str, Sequence[float]]) -> str:
    """Norms and radii in words."""
    threats = [f"{norm} eps = {', '.join(map(eps_text, some))}" for norm, some in radii.items()]
    return "; ".join(threats) or "none: nothing was attacked within a norm ball"


def reference_in(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a manifest says of the model by whose errors others are divided; None without one, or where it is not as robench writes it."""
    found = mapping_at(mapping_at(manifest, "corruptions"), "reference")
    numbers = [found.get("clean_accuracy") or 0.0, *mapping_at(found, "accuracy").values()]
    is_whole = {"name", "sha256", "accuracy"} <= found.keys() and all(isinstance(number, (int, float)) for number in numbers)
    return found if is_whole else None


def is_shown(row: Row) -> bool:
    """Whether a row is of a kind that tables show, and not one of the spreads, quantiles and checks of rows.csv alone."""
    return "/" not in row.metric or row.metric in TABLE_METRICS


def heading_of(table: TextTable, title: str) -> tuple[str, str]:
    """The title of a table without that of the page, which stands above, as a short heading and the words under the table."""
    words = table.title.replace(f" of {title}", "").replace(f": {title}", "").replace(title, "accuracy left after attacks")
    heading, _, caption = words.partition(next((one for one in ("; ", ": ") if one in words), "; "))
    return heading[:1].upper() + heading[1:], caption[:1].upper() + caption[1:]


def measurement_facts(manifest: Mapping[str, Any], threat: str) -> Iterator[tuple[str, str]]:
    """What was measured, line by line: models, images, threat, seed, when, by which versions."""
    checkpoints, data, versions = manifest.get("checkpoint", []), mapping_at(manifest, "data"), mapping_at(manifest, "versions")
    for one in checkpoints if isinstance(checkpoints, list) else [checkpoints]:
        if isinstance(one, Mapping):
            yield "model", f"{one.get('name') or 'unnamed'}, sha256 {one.get('sha256') or 'unknown'}"
    if reference := reference_in(manifest):
        yield "reference", f"{reference['name']}, " + (f"sha256 {reference['sha256']}" if reference["sha256"] else "published errors")
    more = f" of {data['chosen']} chosen ones" if data.get("chosen", data.get("n")) != data.get("n") else ""
    yield "images", f"{data.get('name') or 'unnamed'}, {data.get('split') or 'no'} split, n = {data.get('n')}{more}"
    if "preprocessing" in data:
        names = [
            str(one.get("name", ""))
            for one in (checkpoints if isinstance(checkpoints, list) else [checkpoints])
            if isinstance(one, Mapping)
        ]
        ways = {name: preprocessing_text(manifest, name) for name in names}
        yield "shown as", "; ".join(dict.fromkeys(ways.values() if len({*ways.values()}) < 2 else [f"{k}: {v}" for k, v in ways.items()]))
    if damaged := data.get("damaged_count"):
        some = data.get("damaged") or []
        yield "left out", f"{damaged} that cannot be read: {', '.join(map(str, some[:3]))}{', ...' if len(some) > 3 else ''}"
    yield "threat", threat
    yield "seed", str(manifest.get("seed", ""))
    seconds = manifest.get("seconds", 0)
    taken = f"{seconds:.1f} s" if isinstance(seconds, (int, float)) else str(seconds)
    yield "finished", f"{manifest.get('finished', '')}, after {taken} on {manifest.get('device', '')}"
    yield "versions", ", ".join(f"{name} {versions[name]}" for name in VERSIONS if versions.get(name, "absent") != "absent")
    yield "command", str(manifest.get("command", ""))


def mapping_at(manifest: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What a manifest has under a key, {} where that is no object."""
    found = manifest.get(key)
    return found if isinstance(found, Mapping) else {}


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
