"""What lies behind a row: a number for each image, read from the per-image tables of a finished run, and held against the row.

Accuracies are means of verdicts (1 where the image stands, else 0), scores of maps means of scores, and what goes over severities,
repeats or corruptions means of shares of each image: so two runs are compared image by image, whatever was measured. Ratios of two
measured means (relative_accuracy) have no such numbers, and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robench.core.cells import cell_number, csv_cells
from robench.core.corruption_names import FAMILIES, FIFTEEN, NINETEEN
from robench.core.errors import InputError
from robench.core.paired import SCORE, SHARE, VERDICT, WORST_CLASS, least_class_mean
from robench.core.perturbation_names import LISTS_OF_TEN
from robench.core.rows import CLEAN, OVERALL_PROBE, OVERALL_SEQUENCES, Row, setting_dict
from robench.core.saved_results import StageResult, load_all_results, manifest_value, text_at
from robench.core.statistics import Floats
from robench.results.saved_runs import SavedRun

TextFrame = pd.DataFrame
IMAGE_TABLES = ("samples", "samples-methods", "samples-probes", "samples-corruptions", "samples-sequences")
TABLE_MARKS = {  # a column that only tables of a kind have
    "broken_by": "attack", "method": "method", "fooled": "probe", "flips": "sequence",
}  # fmt: skip
FRAME_COLUMNS = ("flips", "top5_distance")  # of a table of sequences
CLOSE_MEANS = 1e-6  # how far the mean of the images may lie from the row
CLASS_METRIC, WORST_CLASS_METRIC = "class_accuracy", "worst_class_accuracy"


@dataclass(frozen=True, eq=False)
class ImageValues:
    """The numbers of the images behind one row.

    Attributes:
        row: the row, whose value is their mean (of the worst class: the least mean over the classes).
        kind: "verdict" (each 0 or 1), "share" (each in [0, 1], or a sum of such with fixed weights), "score" (any numbers), or
            "worst class" (verdicts, of which the mean is taken class by class).
        ids: (N,) int64, places of the images in the official split, ascending.
        labels: (N,) int64.
        values: (N,) float64, without nan.
        unit: the largest difference that one image can have between two runs, for shares.
    """

    row: Row
    kind: str
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    values: Floats
    unit: float = 1.0


@dataclass(frozen=True)
class ModelImages:
    """What a run knows of the images of one model.

    Attributes:
        checkpoint: its name in the rows.
        labels: place of an image in the official split -> its label.
        series: the numbers behind the rows, in the order of the rows.
    """

    checkpoint: str
    labels: Mapping[int, int]
    series: tuple[ImageValues, ...]


def model_images(run: SavedRun) -> list[ModelImages]:
    """What a run knows of each image, model by model.

    Args:
        run: a finished run.

    Raises:
        InputError: where a per-image table is missing, cut short or has text where a number belongs, and where tables and rows
            contradict each other.
    """
    tables = sample_tables(run)
    try:
        return [images_of_model(run, name, tables) for name in run.checkpoints]
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"the files in {run.folder} cannot be used: a table of each image lacks the column {error}") from None
    except ValueError as error:
        raise InputError(f"the files in {run.folder} cannot be used: {error}") from None


def sample_tables(run: SavedRun, names: Collection[str] = IMAGE_TABLES) -> dict[str, TextFrame]:
    """The per-image tables of a run by kind: attack, probe, corruption or method.

    Args:
        run: a finished run.
        names: of the files without .csv that are read, where they are there.

    Raises:
        InputError: where one is missing, cut short or has text where a number belongs.
    """
    paths = [run.folder / f"{name}.csv" for name in IMAGE_TABLES if name in names]
    listed = run.manifest.get("files")
    missing = [path for path in paths if isinstance(listed, list) and path.name in listed and not path.exists()]
    if missing:
        raise InputError(f"{missing[0]} is missing, which the manifest lists: copy the whole folder, or measure again")
    frames = [text_frame(path) for path in paths if path.exists()]
    if not frames:
        raise InputError(f"{run.folder} has no samples.csv: without what became of each image nothing can be compared")
    return {table_kind(frame): with_numbers(frame, run.folder) for frame in frames}


def with_numbers(frame: TextFrame, folder: Path) -> TextFrame:
    """A table with numbers in the columns that hold them, for all models at once; InputError where text stands in one."""
    names = [str(name) for name in frame.columns]
    scores = names[names.index("zero_map") + 1 :] if "zero_map" in names else []
    floats = [name for name in names if name in ("clean_pred", "fooled", *FRAME_COLUMNS, *scores) or name.startswith("pred_")]
    try:
        numbers = {name: whole_column(frame, name) for name in ("sample", "label")} | {name: number_column(frame, name) for name in floats}
    except ValueError as error:
        raise InputError(f"the files in {folder} cannot be used: {error}") from None
    return frame.assign(**numbers)


def table_kind(frame: TextFrame) -> str:
    """Which kind of stage a per-image table is of, by its columns."""
    return next((kind for mark, kind in TABLE_MARKS.items() if mark in frame.columns), "corruption")


def text_frame(path: Path) -> TextFrame:
    """A CSV as texts, strictly; InputError where it is cut short or a line has another length than the head."""
    try:
        head, *lines = csv_cells(text_at(path))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not CSV: {error}") from None
    if not lines:
        raise InputError(f"{path} holds nothing but its head")
    if wrong := next((number for number, line in enumerate(lines, 2) if len(line) != len(head)), 0):
        raise InputError(f"{path} has {len(lines[wrong - 2])} cells in line {wrong}, but {len(head)} columns")
    frame = pd.DataFrame(lines, columns=head, dtype=str)
    for name in ("sample", "label"):
        if head.count(name) != 1:
            raise InputError(f"{path} needs one column {name!r}: it was not written by a measuring command of robench")
    if not {*TABLE_MARKS, "probe"} & {*head}:
        raise InputError(f"{path} has none of the columns {', '.join(TABLE_MARKS)} and probe: it was not written by a measuring command")
    return frame


def number_column(frame: TextFrame, name: str) -> Floats:
    """A column as numbers, nan where it is empty; ValueError where text stands in it."""
    if name not in frame.columns:
        raise ValueError(f"a table of each image lacks the column {name!r}")
    cells = frame[name].to_list()
    try:
        if not "".join(set(cells)).isascii() or any("_" in cell for cell in set(cells)):
            raise ValueError
        return np.array([float(cell) if cell else math.nan for cell in cells])
    except ValueError:
        wrong = next(cell for cell in cells if cell and not is_number_text(cell))
        raise ValueError(f"{wrong[:40]!r} stands under {name!r}, where a number belongs") from None


def is_number_text(cell: str) -> bool:
    """Whether a cell can be read as a number."""
    try:
        cell_number(cell)
    except ValueError:
        return False
    return True


def whole_column(frame: TextFrame, name: str) -> NDArray[np.int64]:
    """A column as whole numbers; ValueError where one is none."""
    numbers = number_column(frame, name)
    if not (np.isfinite(numbers).all() and (numbers == np.round(numbers)).all() and (np.abs(numbers) < 2**53).all()):
        raise ValueError(f"under {name!r} stands what is no whole number")
    return numbers.astype(np.int64)


# --- one model


@dataclass(frozen=True, eq=False)
class Known:
    """What the tables tell of one model: columns of numbers over all its images.

    Attributes:
        ids: (N,) ascending.
        labels: (N,).
        clean: (N,) 1 where the model is right on the image as it is; None where the run does not tell.
        standing: (probe, norm, eps, setting) -> (N,) 1 where the image stands.
        cells: (corruption, severity) -> (N,) 1 where it is right.
        probes: (probe, setting) -> (N,) share of the draws in which it stays right.
        scores: (method, images, score) -> (N,) with nan where there is none.
        sequences: (perturbation, difficulty, column) -> (N,) what became of each sequence.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    clean: Floats | None
    standing: Mapping[tuple[str, str, float, str], Floats]
    cells: Mapping[tuple[str, int], Floats]
    probes: Mapping[tuple[str, str], Floats]
    scores: Mapping[tuple[str, str, str], Floats]
    sequences: Mapping[tuple[str, str, str], Floats] = field(default_factory=dict)

    @cached_property
    def means(self) -> dict[str, Floats]:
        """Corruption -> (N,) the mean over its severities."""
        grades: dict[str, list[Floats]] = {}
        for (corruption, _), right in self.cells.items():
            grades.setdefault(corruption, []).append(right)
        return {corruption: np.mean(rights, axis=0) for corruption, rights in grades.items()}


def images_of_model(run: SavedRun, name: str, tables: Mapping[str, TextFrame]) -> ModelImages:
    """What a run knows of each image of one model.

    Args:
        run: a finished run.
        name: of the model.
        tables: kind -> its per-image table, as `sample_tables` gives them.
    """
    mine = {kind: of_checkpoint(frame, name) for kind, frame in tables.items()}
    known = known_images(run, name, mine)
    rows = [row for row in run.rows if row.checkpoint == name]
    series = [values for row in [*rows, *probe_accuracy_rows(rows)] if (values := values_behind(row, known, rows)) is not None]
    for values in series:
        refuse_contradiction(values)
    return ModelImages(name, dict(zip(known.ids.tolist(), known.labels.tolist(), strict=True)), tuple(series))


def of_checkpoint(frame: TextFrame, name: str) -> TextFrame:
    """The lines of one model; all of a table of one model, which has no such column.

    Args:
        frame: a per-image table.
        name: of the model.
    """
    return frame[frame["checkpoint"] == name] if "checkpoint" in frame.columns else frame


def known_images(run: SavedRun, name: str, tables: Mapping[str, TextFrame]) -> Known:
    """What the tables tell of one model; ValueError where they contradict each other."""
    samples = pd.concat([frame[["sample", "label"]] for frame in tables.values()]).drop_duplicates()
    ids, labels = samples["sample"].to_numpy(np.int64), samples["label"].to_numpy(np.int64)
    order = np.argsort(ids, kind="stable")
    ids, labels = ids[order], labels[order]
    if (ids[1:] == ids[:-1]).any():
        raise ValueError(f"image {ids[1:][ids[1:] == ids[:-1]][0]} has two labels")
    cleans = [clean for kind, frame in tables.items() if (clean := clean_column(kind, frame, ids)) is not None]
    return Known(
        ids, labels, cleans[0] if cleans else None,
        standing_images(run, name, ids) if "attack" in tables else {},
        right_cells(tables["corruption"], ids) if "corruption" in tables else {},
        probe_shares(tables["probe"], ids) if "probe" in tables else {},
        map_scores(tables["method"], ids) if "method" in tables else {},
        sequence_values(tables["sequence"], ids) if "sequence" in tables else {},
    )  # fmt: skip


def spread(ids: NDArray[np.int64], some: NDArray[np.int64], values: Floats, rest: float) -> Floats:
    """Values of some images as a column over all of them, the others with `rest`; ValueError where an image comes twice."""
    if len(np.unique(some)) < len(some):
        raise ValueError("an image comes twice in a table")
    column = np.full(len(ids), rest)
    column[np.searchsorted(ids, some)] = values
    return column


def clean_column(kind: str, frame: TextFrame, ids: NDArray[np.int64]) -> Floats | None:
    """1 where the model is right on the image as it is, from a table of one kind; None where that does not tell."""
    if kind == "corruption":
        clean = frame[frame["probe"] == CLEAN]
        names = [name for name in frame.columns if name.startswith("pred_")]
        lines, preds = clean, clean[names[0]].to_numpy(np.float64) if len(clean) and names else np.array([])
    elif "clean_pred" not in frame.columns:  # of an early version: the cascade tells
        return None
    else:
        lines = frame.drop_duplicates("sample")
        preds = lines["clean_pred"].to_numpy(np.float64)
    if len(preds) != len(ids):
        return None
    return spread(ids, lines["sample"].to_numpy(), (preds == lines["label"].to_numpy()).astype(np.float64), math.nan)


def standing_images(run: SavedRun, name: str, ids: NDArray[np.int64]) -> dict[tuple[str, str, float, str], Floats]:
    """(probe, norm, eps, setting) -> 1 where an image stands after that stage of a cascade."""
    results = next((one for one in load_all_results(run.folder) if one.checkpoint == name), None)
    if results is None:
        return {}

    def column(stage: StageResult) -> Floats:
        return np.isin(ids, np.fromiter(stage.standing, np.int64, len(stage.standing))).astype(np.float64)

    return {(stage.probe, stage.norm, stage.eps, stage.setting): column(stage) for stage in results.stages}


def right_cells(frame: TextFrame, ids: NDArray[np.int64]) -> dict[tuple[str, int], Floats]:
    """(corruption, severity) -> 1 where a model is right."""
    severities = {int(name[5:]): name for name in frame.columns if name.startswith("pred_") and name[5:].isdecimal()}
    cells: dict[tuple[str, int], Floats] = {}
    for probe, lines in frame.groupby("probe", sort=False):
        some, truth = lines["sample"].to_numpy(), lines["label"].to_numpy()
        for severity, name in severities.items():
            preds = lines[name].to_numpy(np.float64)
            if probe != CLEAN and not np.isnan(preds).any() and len(some) == len(ids):
                cells[str(probe), severity] = spread(ids, some, (preds == truth).astype(np.float64), 0.0)
    return cells


def probe_shares(frame: TextFrame, ids: NDArray[np.int64]) -> dict[tuple[str, str], Floats]:
    """(probe, setting) -> share of the draws in which a model stays right; 0 for images that it gets wrong as they are."""
    shares = {}
    for (probe, setting), lines in frame[frame["probe"] != CLEAN].groupby(["probe", "setting"], sort=False):
        shares[str(probe), str(setting)] = spread(ids, lines["sample"].to_numpy(), 1 - lines["fooled"].to_numpy(np.float64), 0.0)
    return shares


def map_scores(frame: TextFrame, ids: NDArray[np.int64]) -> dict[tuple[str, str, str], Floats]:
    """(method, images, score) -> the scores of the maps, nan where there is none."""
    names = [str(name) for name in frame.columns]
    names = names[names.index("zero_map") + 1 :] if "zero_map" in names else []
    scores = {}
    for (method, images), lines in frame.groupby(["method", "images"], sort=False):
        some = lines["sample"].to_numpy()
        for name in names:
            scores[str(method), str(images), name] = spread(ids, some, lines[name].to_numpy(np.float64), math.nan)
    return scores


def sequence_values(frame: TextFrame, ids: NDArray[np.int64]) -> dict[tuple[str, str, str], Floats]:
    """(perturbation, difficulty, column) -> what became of each sequence; without columns that a model has not."""
    values = {}
    for (probe, difficulty), lines in frame.groupby(["probe", "difficulty"], sort=False):
        for name in FRAME_COLUMNS:
            column = lines[name].to_numpy(np.float64)
            if not np.isnan(column).any() and len(column) == len(ids):
                values[str(probe), str(difficulty), name] = spread(ids, lines["sample"].to_numpy(), column, math.nan)
    return values


# --- from a row to the numbers behind it


def probe_accuracy_rows(rows: Sequence[Row]) -> list[Row]:
    """For each level of a probe the accuracy that it leaves, which rows.csv does not hold: there stands the error among the right ones."""
    return [
        replace(row, metric="accuracy", value=math.nan, low=math.nan, high=math.nan, interval="")
        for row in rows
        if row.metric == "error_rate"
    ]


def values_behind(row: Row, known: Known, rows: Sequence[Row]) -> ImageValues | None:
    """The numbers behind a row; None where the tables do not hold them."""
    if row.metric in (CLASS_METRIC, WORST_CLASS_METRIC):
        return class_values(row, known, rows)
    words = setting_dict(row.setting)
    if row.metric == "accuracy":
        return image_values_of(row, VERDICT, known, accuracy_column(row, words, known))
    if row.metric in SEQUENCE_FORMULAS:
        kind = SHARE if SEQUENCE_FORMULAS[row.metric] == ("flips", "") else SCORE
        return image_values_of(row, kind, known, sequence_column(row, words, known, rows))
    if (scores := known.scores.get((row.probe, words.get("images", ""), row.metric))) is not None:
        return image_values_of(row, SCORE, known, scores)
    found = image_values_of(row, SHARE, known, corruption_shares(row, words, known, rows))
    return found and replace(found, unit=largest_difference(row, words, known, rows))


def largest_difference(row: Row, words: Mapping[str, str], known: Known, rows: Sequence[Row]) -> float:
    """The largest difference that one image can have between two runs: from all right on changed images alone to the opposite."""
    ends = (replace(known, clean=np.array([1.0 - right]), cells=dict.fromkeys(known.cells, np.array([right]))) for right in (0.0, 1.0))
    one, other = (corruption_shares(row, words, end, rows) for end in ends)
    return 1.0 if one is None or other is None else float(np.abs(one - other).max())


def accuracy_column(row: Row, words: Mapping[str, str], known: Known) -> Floats | None:
    """What stands or is right behind an accuracy: as the images are, after a stage of a cascade, a probe, or in a cell of a corruption."""
    if (standing := known.standing.get((row.probe, row.norm, row.eps, row.setting))) is not None:
        return standing
    if row.probe == CLEAN and not row.norm:
        return known.clean
    if words.get("severity", "").isdecimal():
        return known.cells.get((row.probe, int(words["severity"])))
    return known.probes.get((row.probe, row.setting))


def image_values_of(row: Row, kind: str, known: Known, column: Floats | None) -> ImageValues | None:
    """A column as the numbers behind a row, without the images that have none."""
    if column is None:
        return None
    there = ~np.isnan(column)
    values = column[there]
    kind = SHARE if kind == VERDICT and not np.isin(values, (0, 1)).all() else kind  # the mean of several draws
    return ImageValues(row, kind, known.ids[there], known.labels[there], values) if len(values) else None


def class_values(row: Row, known: Known, rows: Sequence[Row]) -> ImageValues | None:
    """The numbers behind the accuracy of one class, or of the worst one: those of the row that it splits."""
    whole = next(
        (
            values
            for other in rows
            if (other.probe, other.norm, other.eps) == (row.probe, row.norm, row.eps)
            and other.metric in ("accuracy", "mean_accuracy")
            and "severity" not in setting_dict(other.setting)
            and (values := values_behind(other, known, rows)) is not None
        ),
        None,
    )
    label = setting_dict(row.setting).get("class", "")
    if whole is None or not label.isdecimal():
        return None
    if row.metric == WORST_CLASS_METRIC:
        return ImageValues(row, WORST_CLASS, whole.ids, whole.labels, whole.values)
    mine = whole.labels == int(label)
    return ImageValues(row, whole.kind, whole.ids[mine], whole.labels[mine], whole.values[mine]) if mine.any() else None


def corruption_shares(row: Row, words: Mapping[str, str], known: Known, rows: Sequence[Row]) -> Floats | None:
    """The share of each image in a number over severities or corruptions; None for what is no mean over images.

    The formulas are those of `results.corruption_errors.degradation_rows`; a reference's errors count as exact.
    """
    if row.probe != OVERALL_PROBE and row.metric not in CORRUPTION_FORMULAS:
        return None
    severity = words.get("severity") if row.metric == "mean_accuracy" and row.probe == OVERALL_PROBE else None
    means = known.means if severity is None else {name: right for (name, at), right in known.cells.items() if str(at) == severity}
    if row.probe == OVERALL_PROBE:
        return overall_column(row.metric, means, known, rows)
    formula = CORRUPTION_FORMULAS.get(row.metric)
    return None if formula is None or row.probe not in means else formula(means[row.probe], known.clean, reference_errors(row.probe, rows))


Formula = Callable[[Floats, Floats | None, tuple[float, float]], Floats | None]
CORRUPTION_FORMULAS: dict[str, Formula] = {
    "mean_accuracy": lambda right, _, __: right,
    "relative_error": lambda right, clean, _: None if clean is None else clean - right,
    "ce": lambda right, _, errors: (1 - right) / errors[0] if errors[0] else None,
    "relative_ce": lambda right, clean, errors: (
        (clean - right) / (errors[0] - errors[1]) if clean is not None and errors[0] != errors[1] else None
    ),
}
OVERALL_METRICS = {
    "mean_accuracy": "mean_accuracy", "mean_corruption_error": "error", "mean_corruption_error_19": "error", "mean_error": "error",
    "relative_error": "relative_error", "mce": "ce", "relative_mce": "relative_ce",
}  # fmt: skip


def reference_errors(corruption: str, rows: Sequence[Row]) -> tuple[float, float]:
    """The errors of the reference under a corruption and on the images as they are, from its rows; 0 where there are none."""
    accuracies = {row.probe: row.value for row in rows if row.metric == "reference_accuracy"}
    return 1 - accuracies.get(corruption, 1.0), 1 - accuracies.get(CLEAN, 1.0)


def overall_column(metric: str, means: Mapping[str, Floats], known: Known, rows: Sequence[Row]) -> Floats | None:
    """The share of each image in a number over corruptions: the mean over those that the metric goes over."""
    names = corruptions_of_metric(metric, means)
    if not names:
        return None
    inner = OVERALL_METRICS.get(metric, "mean_accuracy")
    if inner == "error":
        return np.asarray(1 - np.mean([means[name] for name in names], axis=0))
    formula = CORRUPTION_FORMULAS[inner]
    columns = [formula(means[name], known.clean, reference_errors(name, rows)) for name in names]
    return None if any(column is None for column in columns) else np.asarray(np.mean(np.stack([*map(np.asarray, columns)]), axis=0))


def corruptions_of_metric(metric: str, means: Mapping[str, Any]) -> list[str]:
    """The corruptions over which a number goes: a family, the fifteen, the nineteen, or all that were measured; none for other metrics."""
    family = metric.removesuffix("_accuracy")
    if metric.endswith("_accuracy") and family in FAMILIES:
        return [name for name in FAMILIES[family] if name in means]
    if metric not in OVERALL_METRICS:
        return []
    wanted = NINETEEN if metric == "mean_corruption_error_19" else FIFTEEN
    plain = [name for name in means if " on " not in name]
    return [name for name in wanted if name in means] if {*wanted} <= {*means} else plain


SEQUENCE_FORMULAS = {  # metric -> the column that it is a mean of, and the metric of the reference by which that is divided
    "flip_probability": ("flips", ""), "mean_flip_probability": ("flips", ""), "top5_distance": ("top5_distance", ""),
    "mean_top5_distance": ("top5_distance", ""), "flip_rate": ("flips", "reference_flip_probability"),
    "mfr": ("flips", "reference_flip_probability"), "relative_top5_distance": ("top5_distance", "reference_top5_distance"),
    "mt5d": ("top5_distance", "reference_top5_distance"),
}  # fmt: skip


def sequence_column(row: Row, words: Mapping[str, str], known: Known, rows: Sequence[Row]) -> Floats | None:
    """What became of each sequence in a number of one perturbation or over several; the numbers of a reference count as exact."""
    column, divisor = SEQUENCE_FORMULAS[row.metric]
    difficulty = words.get("difficulty", "")
    there = [probe for probe, its, name in known.sequences if its == difficulty and name == column]
    names = [row.probe] if row.probe != OVERALL_SEQUENCES else list(LISTS_OF_TEN.get(words.get("list", ""), there))
    by = {
        one.probe: one.value for one in rows if one.metric == divisor and setting_dict(one.setting).get("difficulty") == difficulty
    }  # fmt: skip
    if not names or any(name not in there or (divisor and not by.get(name)) for name in names):
        return None
    columns = [known.sequences[name, difficulty, column] / (by[name] if divisor else 1.0) for name in names]
    return np.asarray(np.mean(columns, axis=0))


def refuse_contradiction(values: ImageValues) -> None:
    """ValueError where the images do not give the number of the row."""
    row = values.row
    if math.isnan(row.value):
        return
    found = least_class_mean(values.labels, values.values) if values.kind == WORST_CLASS else float(values.values.mean())
    if abs(found - row.value) > CLOSE_MEANS * max(1.0, abs(row.value)):
        raise ValueError(f"{row.probe} has {row.metric} {row.value} in rows.csv, but the images of the tables beside it give {found}")


def images_digest(manifest: Mapping[str, Any]) -> Any:
    """The hash of the images of a run, under whichever key its command writes it; None where there is none.

    Args:
        manifest: the content of manifest.json.
    """
    return next((value for words in ("data.sha256", "data.images") if (value := manifest_value(manifest, words)) is not None), None)
