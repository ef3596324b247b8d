"""The pictures and the page of an audit and of probes: what was measured, handed to the functions that draw it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robench.cli.console import Table
from robench.cli.measuring import stem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from robench.altered import Altered
    from robench.auditing import Audit, Scored
    from robench.data import Images
    from robench.probing import Probing
    from robench.report.page import Part
    from robench.report.saliency import Curve, Tile
    from robench.rows import Row

CAPTIONS = {
    "lorenz": "Lorenz curves, the mean over images: what share of the map the smallest so many subpixels carry.",
    "gini": "The Gini index of each image's map; upright lines are means.",
    "margin": "Each image's Gini beside its margin (true logit less the largest other one), of those that are right when clean.",
    "gallery": "Each map has its own scale: the strength of two maps cannot be compared by eye.",
    "noise": "Error rate over the share of subpixels that are disturbed, on the images that a model gets right; all probes on one axis; "
    "bands show the draws.",
    "occlusion": "Error rate under boxes, on the images that a model gets right.",
    "heat": "Accuracy in each cell, in percent.",
    "severities": "Mean accuracy of each family of corruptions over the severity, {measured}; 0 is the image as it is.",
    "sheet": "One image under everything.",
}
HEADINGS = {
    "lorenz": "Lorenz curves",
    "gini": "Gini over the images",
    "margin": "Gini and margin",
    "gallery": "Gallery",
    "noise": "Noise on few subpixels",
    "occlusion": "Occlusion",
    "heat": "Corruption by severity",
    "severities": "Families",
    "sheet": "Contact sheet",
}


def audit_pictures(audits: Sequence[Audit], images: Images, name: str, folder: Path) -> list[Path]:
    """Lorenz curves and Gini histograms, a picture a method with all models; a gallery for each model and method; Gini beside margin."""
    methods = list(dict.fromkeys(some.method for audit in audits for some in audit.scored if some.maps))
    written: list[Path] = []
    for method in methods:
        written += by_method(audits, method, name, folder)
        written += [gallery(audit, method, images, folder) for audit in audits if of(audit, method) is not None]
    return written


def of(audit: Audit, method: str, images: str = "clean") -> Scored | None:
    """The scores of a method on a kind of images."""
    return next((some for some in audit.scored if (some.method, some.images) == (method, images)), None)


def by_method(audits: Sequence[Audit], method: str, name: str, folder: Path) -> Iterator[Path]:
    """The pictures of one method that hold all models; those of scores that were not asked for are left out."""
    from robench.report.saliency import histograms, lorenz_curves, scatter

    found = [(audit, some) for audit in audits if (some := of(audit, method)) is not None]
    title, end = f"{method} of {name}", f"{stem(method)}.png"
    ginis = [(audit, some, some.values["gini"].numpy()) for audit, some in found if "gini" in some.values]
    curves = [(a.about.checkpoint, some.lorenz.numpy(), mean(values)) for a, some, values in ginis if bool(some.lorenz.isfinite().all())]
    if curves:
        yield lorenz_curves(folder / f"lorenz-{end}", curves, title)
        yield histograms(folder / f"gini-{end}", list(histogram_groups(ginis)), title)
    for audit, some, values in ginis:
        if audit.altered and bool(some.lorenz.isfinite().all()):
            change = audit.altered[0]
            tried = change.tried.numpy()
            path = folder / f"margin-{stem(audit.about.checkpoint)}-{end}"
            labels = ("clean margin", "Gini")
            words = f"{method} of {audit.about.checkpoint}, fallen under {change.name}"
            yield scatter(path, audit.margin.numpy()[tried], values[tried], change.fallen.numpy()[tried], words, labels)


def mean(values: NDArray[np.float64]) -> float:
    """The mean of the finite values."""
    import numpy

    return float(numpy.nanmean(values))


def histogram_groups(ginis: Sequence[tuple[Audit, Scored, NDArray[np.float64]]]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Each model's Gini on the clean images and, where there are changed ones, on those."""
    for audit, some, values in ginis:
        yield audit.about.checkpoint, values
        for change in audit.altered:
            other = of(audit, some.method, change.name)
            if other is not None and len(ginis) * len(audit.altered) <= 3:
                yield f"{audit.about.checkpoint}, {change.name}", other.values["gini"].numpy()


def gallery(audit: Audit, method: str, images: Images, folder: Path) -> Path:
    """The gallery of one model and method: the first images, or the first that an attack broke, with that image and its map."""
    from robench.report.saliency import saliency_gallery

    change = next((change for change in audit.altered if change.x is not None and len(change.places)), None)
    tiles = [tile(audit, method, images, place, change) for place in audit.shown]
    title = f"{method} of {audit.about.checkpoint}" + (f", clean and under {change.name}" if change else "")
    row = "adversarial" if change and change.norm else "changed"  # a probe or a corruption looks for no class
    return saliency_gallery(folder / f"gallery-{stem(audit.about.checkpoint)}-{stem(method)}.png", tiles, title, row)


def tile(audit: Audit, method: str, images: Images, place: int, change: Altered | None) -> Tile:
    """One column of the gallery: an image with its map, and below what one change made of it where it was changed."""
    from robench.report.saliency import Tile

    clean = of(audit, method)
    assert clean is not None
    other = None if change is None else of(audit, method, change.name)
    x = images.pixels(slice(place, place + 1))[0].cpu()
    label, pred = images.word(int(audit.y[place])), images.word(int(audit.pred[place]))
    caption = label if label == pred else f"{label}, taken for {pred}"
    if change is None or change.x is None or other is None or place not in change.places or place not in other.maps:
        return Tile(caption, x, clean.maps[place])
    return Tile(
        caption, x, clean.maps[place], change.x[place], other.maps[place], taken_for(other, place, images), bool(change.fallen[place])
    )


def taken_for(some: Scored, place: int, images: Images) -> str:
    """The class that the model takes the changed image at `place` for."""
    row = int((some.places == place).nonzero()[0, 0])
    return images.word(int(some.pred[row]))


def probe_pictures(found: Probing, name: str, folder: Path) -> list[Path]:
    """The curves of noise probes over t, the error rates under boxes as bars, and changed images; only what was run."""
    from robench.report.saliency import bars, noise_curves

    curves, groups = list(noise_levels(found.rows)), list(box_groups(found.rows))
    written = [noise_curves(folder / "noise.png", curves, name)] if curves else []
    return [*written, bars(folder / "occlusion.png", groups, name)] if groups else written


def noise_levels(rows: Sequence[Row]) -> Iterator[Curve]:
    """A curve for each model and noise probe: t, the mean error rate over the draws, and a standard deviation over them to either side."""
    from robench.report.saliency import Curve

    spread = {(row.checkpoint, row.probe, row.setting): row.value for row in rows if row.metric == "error_rate/sd"}
    points: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    for row in rows:
        t = words_of(row).get("t", "")
        if row.metric == "error_rate" and t.replace(".", "", 1).isdigit():
            sd = spread.get((row.checkpoint, row.probe, row.setting), 0.0)
            points.setdefault((row.checkpoint, row.probe), []).append((float(t), row.value, row.value - sd, row.value + sd))
    for (model, probe), line in points.items():
        yield Curve(model, probe, sorted(line))


def box_groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[tuple[str, float, float, float]]]]:
    """A group of bars for each occlusion probe and colour: each model's error rate with its interval."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.metric == "error_rate" and "colour" in words_of(row):
            groups.setdefault(f"{row.probe} {words_of(row)['colour']}", []).append(row)
    for name, mine in groups.items():
        yield name, [(row.checkpoint, row.value, row.low, row.high) for row in mine]


def words_of(row: Row) -> dict[str, str]:
    """The key=value words of a row's setting."""
    return dict(word.partition("=")[::2] for word in row.setting.split())


def joined(numbers: Sequence[int]) -> str:
    """Numbers in a sentence: 1, 2 and 3."""
    *first, last = map(str, numbers or (0,))
    return f"{', '.join(first)} and {last}" if first else last


def page_parts(tables: Sequence[Table], pictures: Sequence[Path], notes: Sequence[str], *, severities: Sequence[int] = ()) -> list[Part]:
    """What the page of a run shows: notes, tables, pictures with a word on each; `severities` are those of the corruptions measured."""
    from robench.report import page

    parts: list[Part] = [page.Note(note) for note in notes]
    for table in tables:
        parts += [page.Heading(table.title[:1].upper() + table.title[1:]), page.Table(table.columns, table.lines, grouped=table.left > 1)]
    shown = [path for path in pictures if path.suffix == ".png"]
    for kind, caption in CAPTIONS.items():
        mine = [path for path in shown if path.name.startswith(kind)]
        if mine:
            parts += [
                page.Heading(HEADINGS[kind]),
                page.Paragraph(caption.replace("{measured}", f"measured at {joined(severities)}")),
                *(page.Picture(path, f"{HEADINGS[kind]}: {path.stem}") for path in mine),
            ]
    return parts
