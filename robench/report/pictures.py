"""The pictures of a run, from what it found: what attacks leave, error curves of probes, saliency maps, accuracies under corruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robench.core.files import file_stem
from robench.core.recipes import eps_text
from robench.core.rows import CLEAN, Row
from robench.data import Images
from robench.data.imagenet import classes_in_words
from robench.report.figures.attacks import draw_accuracy_bars, draw_change_gallery, draw_security_curve
from robench.report.figures.classes import draw_confusions
from robench.report.figures.corruptions import draw_contact_sheet, draw_heat_map, draw_severity_curves
from robench.report.figures.saliency import (
    ErrorCurve,
    Tile,
    draw_bars,
    draw_histograms,
    draw_lorenz_curves,
    draw_noise_curves,
    draw_saliency_gallery,
    draw_scatter,
)
from robench.report.tables import setting_words
from robench.results.cascade import (
    Cascade,
    cascade_rows,
    cascade_samples,
    cascade_stage_rows,
    examples_of,
    images_before_attack,
    places_at_radius,
    run_cascades,
    verdict_row,
)
from robench.results.classes import cascade_verdict, verdict_confusions
from robench.results.corruptions import cell_of
from robench.results.measurement import Measurement, attack_base_row
from robench.results.scores import ImageChange, MethodScores, SubjectScores, all_subject_scores
from robench.runs.execution import FinishedRun
from robench.runs.images import stage_images
from robench.runs.stages.corruption import corrupted_image_at


def draw_pictures(measurement: Measurement, folder: Path, *, title: str, images: Images | None = None) -> list[Path]:
    """Draws what was measured into a folder; returns the paths.

    Args:
        measurement: what was measured.
        folder: the folder, which exists.
        title: as in `report.tables.report_tables`.
        images: give the classes their names; without them they have their numbers.
    """
    run, classes = measurement.run, classes_in_words(images.classes) if images else ()
    has_cascade = run.stages_of_kind("attack") or all(stage.kind == "clean" for stage in run.stages)
    paths = list(draw_attack_pictures(measurement, folder, title, classes)) if has_cascade else []
    if run.stages_of_kind("method"):
        paths += draw_saliency_pictures(all_subject_scores(run), run, classes, title, folder)
    if run.stages_of_kind("probe"):
        paths += draw_probe_pictures(measurement.rows, title, folder)
    if run.stages_of_kind("corruption"):
        paths += draw_corruption_pictures(measurement, title, folder)
    if run.stages_of_kind("sequence"):
        paths.append(draw_bars(folder / "flips.png", flip_groups(measurement.rows), title, "flip probability (%)"))
    return paths


def class_label(label: int, classes: Sequence[str]) -> str:
    """The name of a class; its number where a model has more outputs than the data has names."""
    return classes[label] if label < len(classes) else str(label)


def float_pixels(x: Tensor) -> Tensor:
    """Images as float pixels in [0, 1] on the CPU."""
    return (x if x.is_floating_point() else x.float() / 255).cpu()


# attacks


def draw_attack_pictures(measurement: Measurement, folder: Path, title: str, classes: Sequence[str]) -> Iterator[Path]:
    """What attacks leave, after each or over radii, and the first images that fell: one of each for each model and cascade."""
    run = measurement.run
    some = run_cascades(run)
    for one in some:
        end = "".join(f"-{file_stem(part)}" for part in cascade_labels(one, some))
        base = attack_base_row(run, one.case)
        rows = list(cascade_rows(one, base, measurement.suite, run.interval))
        if one.stages[0].kind != "clean":
            rows = [*cascade_stage_rows(one, 0, replace(base, n=one.n), run.interval), *rows]
        words = title if not end else f"{', '.join(cascade_labels(one, some))}: {title}"
        if len(one.radii()) > 1:
            yield draw_security_curve(folder / f"curve{end}.png", rows, words)
        else:
            yield draw_accuracy_bars(folder / f"accuracy{end}.png", rows, words)
        yield from draw_examples(folder / f"examples{end}.png", one, classes)
        yield draw_cascade_confusion(folder / f"confusion{end}.png", one, measurement, classes, words)


def cascade_labels(one: Cascade, some: Sequence[Cascade]) -> list[str]:
    """What tells a cascade from others: the model, the norm, the images that are attacked, as far as there are several."""
    each = [(other.case.name, other.norm, other.images) for other in some]
    return [part for place, part in enumerate((one.case.name, one.norm, one.images)) if len({its[place] for its in each}) > 1]


def draw_examples(path: Path, one: Cascade, classes: Sequence[str]) -> Iterator[Path]:
    """The picture of the first adversarial images of a cascade, where some fell."""
    examples = examples_of(one, cascade_samples(one))
    if not examples:
        return
    samples = [sample for _, sample, _ in examples]
    captions = [(class_label(sample.label, classes), class_label(sample.adv_pred, classes)) for sample in samples]
    threat = f"{one.norm} eps = {', '.join(map(eps_text, one.radii()))}"
    title = f"{one.case.subject.name}: {threat}, broken by {', '.join(dict.fromkeys(sample.broken_by for sample in samples))}"
    x = images_before_attacks(one, [place for place, _, _ in examples])
    led = any(not sample.broken_by.startswith("noise") for sample in samples)  # noise looks for no class
    yield draw_change_gallery(
        path, x, torch.stack([image for _, _, image in examples]), captions, title, "adversarial" if led else "changed", one.images
    )


def draw_cascade_confusion(path: Path, one: Cascade, measurement: Measurement, classes: Sequence[str], title: str) -> Path:
    """The confusion of classes before the attacks of a cascade, and after those at its smallest and its largest radius."""
    run, radii = measurement.run, one.radii()
    abouts = [verdict_row(one, eps, one.case.subject.about, measurement.suite) for eps in dict.fromkeys([*radii[:1], *radii[-1:]])]
    places = [0, *(places_at_radius(one, about.eps)[-1] for about in abouts)]
    names = [one.images, *(f"{about.probe}, {about.norm} {eps_text(about.eps)}" for about in abouts)]
    matrices = [verdict_confusions(cascade_verdict(run, one, place, one.case.subject.about)) for place in places]
    panels = [(name, {(c.label, c.predicted): c.count for c in cells}) for name, cells in zip(names, matrices, strict=True)]
    return draw_confusions(path, panels, lambda label: class_label(label, classes) if label >= 0 else "unknown", title)


def images_before_attacks(one: Cascade, places: Sequence[int]) -> Tensor:
    """The images of a cascade as they were before its attacks, (M, C, H, W): those of the pool, or what was kept of changed ones."""
    images = images_before_attack(one)
    return (
        torch.stack([images[place] for place in places])
        if images
        else float_pixels(stage_images(None, torch.tensor(places), one.case.pool, None))
    )


# saliency maps


def draw_saliency_pictures(
    subjects: Sequence[SubjectScores], run: FinishedRun, classes: Sequence[str], title: str, folder: Path
) -> list[Path]:
    """Lorenz curves and Gini histograms, a picture a method with all models; a gallery for each model and method; Gini beside margin."""
    methods = list(dict.fromkeys(some.method for subject in subjects for some in subject.methods if some.maps))
    paths: list[Path] = []
    for method in methods:
        paths += draw_method_pictures(subjects, method, title, folder)
        paths += [draw_map_gallery(subject, method, run, classes, folder) for subject in subjects if scores_on(subject, method) is not None]
    return paths


def scores_on(subject: SubjectScores, method: str, images: str = CLEAN) -> MethodScores | None:
    """The scores of a method on a kind of images."""
    return next((some for some in subject.methods if (some.method, some.images) == (method, images)), None)


def draw_method_pictures(subjects: Sequence[SubjectScores], method: str, name: str, folder: Path) -> Iterator[Path]:
    """The pictures of one method that hold all models; those of scores that were not asked for are left out."""
    pairs = [(subject, some) for subject in subjects if (some := scores_on(subject, method)) is not None]
    title, end = f"{method} of {name}", f"{file_stem(method)}.png"
    ginis = [(subject, some, some.values["gini"].numpy()) for subject, some in pairs if "gini" in some.values]
    finite = [(subject.about.checkpoint, some.lorenz, values) for subject, some, values in ginis if bool(some.lorenz.isfinite().all())]
    curves = [(model, lorenz.numpy(), float(np.nanmean(values))) for model, lorenz, values in finite]
    if curves:
        yield draw_lorenz_curves(folder / f"lorenz-{end}", curves, title)
        yield draw_histograms(folder / f"gini-{end}", list(gini_groups(ginis)), title)
    for subject, some, values in ginis:
        if subject.changes and bool(some.lorenz.isfinite().all()):
            yield draw_gini_by_margin(subject, some, values, folder / f"margin-{file_stem(subject.about.checkpoint)}-{end}")


def draw_gini_by_margin(subject: SubjectScores, some: MethodScores, values: NDArray[np.float64], path: Path) -> Path:
    """The Gini of each image beside its margin, and which fell under the first change, of those that were tried."""
    change, places = subject.changes[0], some.places
    tried = change.tried[places].numpy()
    title = f"{some.method} of {subject.about.checkpoint}, fallen under {change.name}"
    across, fallen = subject.margin[places].numpy()[tried], change.fallen[places].numpy()[tried]
    return draw_scatter(path, across, values[tried], fallen, title, ("clean margin", "Gini"))


def gini_groups(ginis: Sequence[tuple[SubjectScores, MethodScores, NDArray[np.float64]]]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Each model's Gini on the clean images and, where there are changed ones, on those."""
    for subject, some, values in ginis:
        yield subject.about.checkpoint, values
        for change in subject.changes:
            other = scores_on(subject, some.method, change.name)
            if other is not None and len(ginis) * len(subject.changes) <= 3:
                yield f"{subject.about.checkpoint}, {change.name}", other.values["gini"].numpy()


def draw_map_gallery(subject: SubjectScores, method: str, run: FinishedRun, classes: Sequence[str], folder: Path) -> Path:
    """The gallery of one model and method: the first images, or the first that an attack broke, with that image and its map."""
    clean = scores_on(subject, method)
    assert clean is not None
    change = next((change for change in subject.changes if (some := scores_on(subject, method, change.name)) is not None and some.x), None)
    places = [place for place in subject.gallery_places if place in clean.maps]
    tiles = [gallery_tile(subject, clean, change, place, run, classes) for place in places]
    title = f"{method} of {subject.about.checkpoint}" + (f", clean and under {change.name}" if change else "")
    row = "adversarial" if change and change.norm else "changed"  # a probe or a corruption looks for no class
    return draw_saliency_gallery(folder / f"gallery-{file_stem(subject.about.checkpoint)}-{file_stem(method)}.png", tiles, title, row)


def gallery_tile(
    subject: SubjectScores, clean: MethodScores, change: ImageChange | None, place: int, run: FinishedRun, classes: Sequence[str]
) -> Tile:
    """One column of the gallery: an image with its map, and below what one change made of it where it was changed."""
    other = None if change is None else scores_on(subject, clean.method, change.name)
    at = torch.tensor([place])
    pool = next((case.pool for case in run.cases if case.subject.name == subject.about.checkpoint), run.pool)
    x = float_pixels(stage_images(None, at, pool, None))[0]
    label, pred = class_label(int(subject.y[place]), classes), class_label(int(subject.pred[place]), classes)
    caption = label if label == pred else f"{label}, taken for {pred}"
    if change is None or other is None or place not in other.maps or place not in other.x:
        return Tile(caption, x, clean.maps[place])
    taken_for = class_label(int(other.pred[other.places == place][0]), classes)
    return Tile(caption, x, clean.maps[place], other.x[place], other.maps[place], taken_for, bool(change.fallen[place]))


# probes


def draw_probe_pictures(rows: Sequence[Row], title: str, folder: Path) -> list[Path]:
    """The curves of noise probes over t, and the error rates under boxes as bars; only what was run."""
    curves, groups = list(error_curves(rows)), list(box_groups(rows))
    paths = [draw_noise_curves(folder / "noise.png", curves, title)] if curves else []
    return [*paths, draw_bars(folder / "occlusion.png", groups, title)] if groups else paths


def error_curves(rows: Sequence[Row]) -> Iterator[ErrorCurve]:
    """A curve for each model and noise probe: t, the mean error rate over the draws, and a standard deviation over them to either side."""
    deviations = {(row.checkpoint, row.probe, row.setting): row.value for row in rows if row.metric == "error_rate/sd"}
    points: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    for row in rows:
        t = setting_words(row).get("t", "")
        if row.metric == "error_rate" and t.replace(".", "", 1).isdigit():
            sd = deviations.get((row.checkpoint, row.probe, row.setting), 0.0)
            points.setdefault((row.checkpoint, row.probe), []).append((float(t), row.value, row.value - sd, row.value + sd))
    for (model, probe), line in points.items():
        yield ErrorCurve(model, probe, sorted(line))


def box_groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[tuple[str, float, float, float]]]]:
    """A group of bars for each occlusion probe and colour: each model's error rate with its interval."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.metric == "error_rate" and "colour" in setting_words(row):
            groups.setdefault(f"{row.probe} {setting_words(row)['colour']}", []).append(row)
    for name, mine in groups.items():
        yield name, [(row.checkpoint, row.value, row.low, row.high) for row in mine]


def flip_groups(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, float, float, float]]]]:
    """A group of bars for each perturbation and difficulty: each model's flip probability with its interval."""
    groups: dict[str, list[tuple[str, float, float, float]]] = {}
    for row in rows:
        if row.metric == "flip_probability":
            difficulty = setting_words(row)["difficulty"]
            name = row.probe.replace("_", " ") + (f" {difficulty}" if difficulty != "1" else "")
            groups.setdefault(name, []).append((row.checkpoint, row.value, row.low, row.high))
    return list(groups.items())


# corruptions


def draw_corruption_pictures(measurement: Measurement, title: str, folder: Path) -> list[Path]:
    """A heat map a model, curves over severity, and the first image under everything."""
    run = measurement.run
    cells = run.stages_of_kind("corruption")
    corruptions = {cell_of(stage)[0] for stage in cells}
    rows = [row for row in measurement.rows if row.metric == "accuracy"]
    of_cells = [row for row in rows if row.probe in corruptions and "severity" in setting_words(row)]
    clean = {row.checkpoint: row.value for row in rows if row.probe == CLEAN}
    values = {name: accuracy_by_cell(of_cells, name) for name in dict.fromkeys(row.checkpoint for row in of_cells)}
    data, n = of_cells[0].data, of_cells[0].n
    paths = [
        draw_heat_map(folder / f"heat-{file_stem(name)}.png", table, clean.get(name, float("nan")), f"{name} on {data}, n = {n}")
        for name, table in values.items()
    ]
    if len({severity for _, severity in map(cell_of, cells)}) > 1:
        lines = [(name, table, clean.get(name, float("nan"))) for name, table in values.items()]
        paths.append(draw_severity_curves(folder / "severities.png", lines, title))
    if run.pool.pixels is not None:
        words = f"image {int(run.pool.ids[first_seen_place(run)])} of {data}", str(cells[0].about.get("setting", ""))
        paths += draw_first_image_sheet(folder / "sheet.png", run, *words)
    return paths


def accuracy_by_cell(rows: Sequence[Row], checkpoint: str) -> dict[tuple[str, int], float]:
    """The accuracy of a model in each cell."""
    return {(row.probe, int(setting_words(row)["severity"])): row.value for row in rows if row.checkpoint == checkpoint}


def first_seen_place(run: FinishedRun) -> int:
    """The place of the first image that the rows speak of."""
    return int(run.ledger.seen.nonzero()[0])


def draw_first_image_sheet(path: Path, run: FinishedRun, *words: str) -> list[Path]:
    """The first image under every corruption that all models share, if there is one."""
    images = {
        cell_of(stage): corrupted_image_at(stage, first_seen_place(run), run.pool)
        for stage in run.stages_of_kind("corruption")
        if stage.is_shared
    }
    clean = float_pixels(stage_images(None, torch.tensor([first_seen_place(run)]), run.pool, None))[0]
    return [draw_contact_sheet(path, images, clean, ", ".join(filter(None, words)))] if images else []
