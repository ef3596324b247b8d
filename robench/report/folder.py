"""The files of a run: rows.csv, a table of what became of each image for each kind, manifest.json, pictures, and one page, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robench.data import Images
from robench.data.imagenet import classes_in_words
from robench.report import page
from robench.report.class_tables import class_tables
from robench.report.pictures import draw_pictures
from robench.report.run_parts import page_parts, radii_words, reference_in
from robench.report.tables import report_tables
from robench.results.files import save_tables
from robench.results.measurement import Measurement
from robench.results.saved_runs import SavedRun


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
    manifest = with_class_names(manifest, images)
    more = dict(measurement.tables)
    table_paths = save_tables(folder, measurement.rows, more.pop("samples", []), manifest, **more)
    picture_paths = draw_pictures(measurement, folder, title=title, images=images)
    text_tables = report_tables(measurement.rows, title=title, reference=reference_in(manifest))
    text_tables += class_tables(measurement.rows, measurement.confusions, classes_in_words(images.classes) if images else ())
    run = SavedRun(folder, manifest, tuple(measurement.rows))
    parts = page_parts(run, title=title, threat=threat_description(measurement), tables=text_tables, pictures=picture_paths)
    return [*table_paths, *picture_paths, page.write_page(folder / "report.html", title, list(parts))]


def with_class_names(manifest: Mapping[str, Any], images: Images | None) -> Mapping[str, Any]:
    """A manifest with the names of the classes among what it says of the images, where these are known: rows have labels alone.

    Where the classes are WordNet ids of ImageNet, their names in words are there, too.
    """
    if images is None:
        return manifest
    classes, words = list(images.classes), classes_in_words(images.classes)
    more = {"classes_in_words": words} if words != classes else {}
    return {**manifest, "data": {**manifest.get("data", {}), "classes": classes, **more}}


def radii_by_norm(measurement: Measurement) -> dict[str, list[float]]:
    """The radii of all attacks of a run by norm, those that only gave their images to other stages too."""
    radii: dict[str, set[float]] = {}
    for stage in measurement.run.stages:
        if stage.kind == "attack" and stage.threat is not None:
            radii.setdefault(stage.threat.norm, set()).add(stage.threat.eps)
    return {norm: sorted(some) for norm, some in radii.items()}


def threat_description(measurement: Measurement) -> str:
    """The threat in words."""
    return radii_words(radii_by_norm(measurement))
