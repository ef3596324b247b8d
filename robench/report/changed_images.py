"""The images that stand in one run and not in the other, with what became of them and their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robench.core.paired import VERDICT
from robench.core.rows import CLEAN, Row
from robench.report import page
from robench.report.class_tables import class_names_in, class_text
from robench.report.image_sources import PictureSource, attacked_pictures, original_pictures, side_by_side, whole_cells
from robench.results.columns import column_of_row, column_titles, verdict_rows_of
from robench.results.compare import RunImages, RunPair, row_key
from robench.results.image_values import ImageValues, ModelImages, of_checkpoint, sample_tables
from robench.results.saved_runs import SavedRun

MOST_LISTED, MOST_PICTURES = 200, 24  # images of a row that are listed, and shown, those that were lost first
PICTURE_SIDE = 112  # CSS pixels of a small image


@dataclass(frozen=True)
class Fate:
    """What became of an image in a run: the labels it got as it is and attacked, and what broke it ("" for a survivor)."""

    clean: int
    attacked: int
    broken_by: str


@dataclass(frozen=True, eq=False)
class ChangedImages:
    """The images of one model that stand after one row in one of two runs alone.

    Attributes:
        row: the row of NEW.
        lost: ids of those that stand in BASE alone.
        won: ids of those that stand in NEW alone.
        labels: label of each image.
        fates: sample -> what became of it in BASE, and in NEW.
    """

    row: Row
    lost: Sequence[int]
    won: Sequence[int]
    labels: Mapping[int, int]
    fates: tuple[Mapping[int, Fate], Mapping[int, Fate]]


def changed_image_parts(pair: RunPair, data_dir: Path | None, data: str = "") -> Iterator[page.Part]:
    """The images that changed from BASE to NEW: lists of them, and pictures of the first.

    Args:
        pair: the two runs.
        data_dir: where torchvision's sets lie; ./data if not given.
        data: the user's own word for the data set; "" for that of the manifest.
    """
    found = [changed for models in pair.models for changed in changed_images(pair, *models)]
    yield page.Heading("Images that changed")
    if not any([*changed.lost, *changed.won] for changed in found):
        yield page.Paragraph("No image stands in one of the two runs alone, neither as it is nor after all attacks.")
        return
    samples = list(dict.fromkeys(sample for changed in found for sample in [*changed.lost, *changed.won]))
    source = original_pictures(pair.new.run, samples, data_dir, data)
    if source.reason:
        yield page.NoteBox(source.reason)
    classes = class_names_in(pair.new.run.manifest) or source.classes
    several = len(pair.models) > 1
    for changed in found:
        if changed.lost or changed.won:
            yield from row_parts(pair.new, changed, source, classes, several)


def changed_images(pair: RunPair, one: ModelImages, another: ModelImages) -> list[ChangedImages]:
    """What changed for one model: as the images are, and after all attacks of each threat."""
    verdicts = {row_key(row) for row in verdict_rows_of(pair.new.run.rows)}
    before = {row_key(values.row): values for values in one.series}
    wanted = [
        values
        for values in another.series
        if values.kind == VERDICT and row_key(values.row) in before
        and ((values.row.probe == CLEAN and values.row.metric == "accuracy") or row_key(values.row) in verdicts)
    ]  # fmt: skip
    return [changed_under(pair, before[row_key(values.row)], values) for values in wanted]


def changed_under(pair: RunPair, base: ImageValues, new: ImageValues) -> ChangedImages:
    """What changed in one row."""
    change = new.values - base.values
    labels = dict(zip(new.ids.tolist(), new.labels.tolist(), strict=True))
    fates = tuple(run_fates(run, values.row) for run, values in ((pair.base.run, base), (pair.new.run, new)))
    return ChangedImages(new.row, new.ids[change < 0].tolist(), new.ids[change > 0].tolist(), labels, (fates[0], fates[1]))


def run_fates(run: SavedRun, row: Row) -> dict[int, Fate]:
    """What became of each image of a model under the threat of a row; none where the run has no attacks, or does not tell."""
    frame = sample_tables(run).get("attack")
    if frame is None or not {"clean_pred", "adv_pred", "broken_by"} <= {*frame.columns}:  # of an early version, or somebody else's
        return {}
    mine = of_checkpoint(frame, row.checkpoint)
    for name, wanted in (("norm", row.norm), ("images", CLEAN)):
        if name in mine.columns and wanted:
            mine = mine[mine[name].isin(["", wanted])]
    sample, clean, attacked = (whole_cells(mine, name) for name in ("sample", "clean_pred", "adv_pred"))
    fates = zip(sample, map(Fate, clean, attacked, map(str, mine["broken_by"])), strict=True)
    return dict(fates)


def row_parts(new: RunImages, changed: ChangedImages, source: PictureSource, classes: Sequence[str], several: bool) -> Iterator[page.Part]:
    """The list of one row, and the pictures of the first that were lost, or else won."""
    title = "as they are" if changed.row.probe == CLEAN else f"after {column_titles([column_of_row(changed.row)])[0]}"
    model = f"{changed.row.checkpoint}: " if several else ""
    yield page.Heading(f"{model}{title}: {len(changed.lost)} lost, {len(changed.won)} won", 3)
    shown = [*changed.lost, *changed.won]
    pictured = [sample for sample in shown if sample in source.pixels][:MOST_PICTURES]
    attacked = attacked_pictures(new.run, changed.row.checkpoint, changed.row.norm, pictured) if changed.row.norm and pictured else {}
    for sample in pictured:
        yield image_picture(changed, sample, source, attacked.get(sample), classes)
    lines = [
        (str(sample), class_text(changed.labels[sample], classes), *(fate_words(changed, place, sample, classes) for place in (0, 1)))
        for sample in shown[:MOST_LISTED]
    ]
    rest = f"; {len(shown) - MOST_LISTED} more are in samples.csv" if len(shown) > MOST_LISTED else ""
    table = page.DataTable(("image", "class", "in BASE", "in NEW"), lines)
    yield page.Folded(f"The list of {min(len(shown), MOST_LISTED)} image{'s' * (len(shown) != 1)}{rest}", [table])


def fate_words(changed: ChangedImages, place: int, sample: int, classes: Sequence[str]) -> str:
    """What became of an image in BASE (0) or NEW (1)."""
    stands = (sample in changed.lost) == (place == 0)
    fate = changed.fates[place].get(sample)
    if stands:
        return "right" if changed.row.probe == CLEAN else "stands"
    if fate is None:
        return "wrong"
    if changed.row.probe == CLEAN or fate.broken_by in ("", CLEAN):
        return f"wrong as it is: taken for {class_text(fate.clean, classes)}"
    return f"falls to {fate.broken_by}: taken for {class_text(fate.attacked, classes)}"


def image_picture(
    changed: ChangedImages, sample: int, source: PictureSource, attacked: NDArray[np.float32] | None, classes: Sequence[str]
) -> page.Picture:  # fmt: skip
    """One image, with what the attacks of NEW made of it beside it where that was saved and changed it."""
    image = source.pixels[sample]
    pair = [image] if attacked is None or attacked.shape != image.shape or np.array_equal(attacked, image) else [image, attacked]
    lost = sample in changed.lost
    fate = fate_words(changed, int(lost), sample, classes)
    words = f"Image {sample}, {class_text(changed.labels[sample], classes)}. {'Lost' if lost else 'Won; in BASE'}: {fate}."
    alt = f"image {sample}" + (", as it is and as it was attacked" if len(pair) > 1 else "")
    dots = max(1, round(page.CSS_DPI * image.shape[1] / max(PICTURE_SIDE, image.shape[1])))
    return page.Picture(side_by_side(pair), alt, words, dots, "small")
