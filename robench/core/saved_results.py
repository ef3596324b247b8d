"""The verdicts of attacks in a finished results folder, read strictly: rows.csv, samples.csv and manifest.json, which must agree.

The tables are read with the csv module and not with pandas, which would take a probe called "NA" for a missing one, fill up short
lines and turn a column of whole numbers into another kind without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.core.cells import cell_number, cell_whole_number, csv_cells
from robench.core.errors import InputError
from robench.core.files import is_existing_path, json_value
from robench.core.rows import CLEAN, SOURCE_ROLE, WORST_NORM

ROW_COLUMNS = ("checkpoint", "n", "norm", "eps", "probe", "setting", "metric", "value")
SAMPLE_COLUMNS = ("sample", "label", "broken_by")
CellKinds = Mapping[str, Callable[[str], float]]
ROW_NUMBERS: CellKinds = {"n": cell_whole_number, "eps": cell_number, "value": cell_number}
SAMPLE_NUMBERS: CellKinds = {"sample": cell_whole_number, "label": cell_whole_number}
CLOSE = 1e-9  # how far the share of two counts may lie from the number in the table
NEEDED_WORDS = ("data.name", "data.split", "data.n", "data.sha256")


@dataclass(frozen=True)
class StageResult:
    """What stands after a stage of a cascade, or after a suite at a radius.

    Attributes:
        probe: the label of the attack or suite.
        setting: its options as key=value words.
        norm: of the threat.
        eps: its radius in pixel units.
        standing: ids of the images that still stand.
    """

    probe: str
    setting: str
    norm: str
    eps: float
    standing: frozenset[int]


@dataclass(frozen=True)
class ModelResults:
    """What a results folder says of one model.

    Attributes:
        folder: the results folder.
        checkpoint: the model's name in it.
        manifest: the content of manifest.json.
        labels: sample id -> label.
        stages: the stages of the cascade, in order.
    """

    folder: Path
    checkpoint: str
    manifest: Mapping[str, Any]
    labels: Mapping[int, int]
    stages: Sequence[StageResult]


def load_results(folder: Path) -> ModelResults:
    """What lies in a results folder of one model.

    Args:
        folder: the folder of a finished run of `robench eval` or `robench attack`.

    Raises:
        InputError: as in `load_all_results`, and for a folder of several models.
    """
    models = load_all_results(folder)
    if len(models) > 1:
        names = ", ".join(results.checkpoint for results in models)
        raise InputError(f"{folder} holds the results of several models ({names}): name a run of one")
    return models[0]


def load_all_results(folder: Path) -> list[ModelResults]:
    """What lies in a results folder of `robench eval` or `robench attack`, model by model.

    Rows of probes, corruptions and saliency maps are left alone: what is read is what attacks leave of the accuracy.

    Args:
        folder: the folder of a finished run.

    Raises:
        InputError: where a file is missing, cut short or not as it was written, or where the three files contradict each other.
    """
    if not is_existing_path(folder) or not folder.is_dir():
        raise InputError(f"no results folder: {folder}")
    manifest = manifest_at(folder / "manifest.json")
    lines = table_at(folder / "rows.csv", ROW_COLUMNS)
    rows = attack_accuracy_rows(lines)
    refuse_text_cells(folder / "rows.csv", lines, rows, ROW_NUMBERS)
    samples = table_at(folder / "samples.csv", SAMPLE_COLUMNS)
    refuse_text_cells(folder / "samples.csv", samples, samples, SAMPLE_NUMBERS)
    refuse_text_cells(folder / "samples.csv", samples, [line for line in samples if line.get("eps")], {"eps": cell_number})
    names = list(dict.fromkeys(row["checkpoint"] for row in rows)) or [""]
    try:
        return [
            model_results(folder, manifest, name, [row for row in rows if row["checkpoint"] == name],
                       [line for line in samples if line.get("checkpoint", name) == name])
            for name in names
        ]  # fmt: skip
    except ValueError as error:
        raise InputError(f"the files in {folder} cannot be used: {error}") from None


def attack_accuracy_rows(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The accuracies that attacks leave, and the clean ones: none under corruptions, or on images that a stage only gives to others."""
    corruptions = {row["probe"] for row in rows if row["metric"] == "mean_accuracy"}
    return [
        row
        for row in rows
        if row["metric"] == "accuracy"
        and (row["probe"] == CLEAN or (row["norm"] and row["probe"] not in corruptions and SOURCE_ROLE not in row["setting"].split()))
    ]


def model_results(
    folder: Path, manifest: Mapping[str, Any], name: str, rows: Sequence[Mapping[str, str]], samples: Sequence[Mapping[str, str]]
) -> ModelResults:
    """What a folder tells of one model, cascade by cascade; ValueError where its tables contradict each other."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for line in samples:
        groups.setdefault((line.get("norm", ""), line.get("images", "")), []).append(line)
    labels = {int(sample["sample"]): int(sample["label"]) for sample in samples}
    said = manifest_value(manifest, "data.n")
    counts = {*(len(lines) for lines in groups.values()), len(labels), *(int(row["n"]) for row in rows)}
    if [*counts] != [said]:
        raise ValueError(f"they do not agree how many images there are, {', '.join(sorted({*map(str, counts), str(said)[:40]}))}")
    stages: list[StageResult] = []
    union = frozenset(labels)
    for (norm, images), lines in groups.items():
        broken_by = {int(line["sample"]): (line["broken_by"], line.get("eps", "")) for line in lines}
        cascade_rows = [row for row in rows if is_of_cascade(row, norm, images, [other for _, other in groups])]
        if all(" on " in row["probe"] for row in cascade_rows if row["probe"] != CLEAN):  # begins on changed images
            cascade_rows = [row for row in cascade_rows if row["probe"] != CLEAN] or cascade_rows
        cascade_stages = stages_from_rows(cascade_rows, broken_by)
        union &= cascade_stages[-1].standing if images in ("", CLEAN) else union
        has_clean_stage = any(stage.probe == CLEAN for stage in stages)
        stages += [stage for stage in cascade_stages if stage.probe != CLEAN or not has_clean_stage]
    return ModelResults(
        folder, name, manifest, labels, [*stages, *(worst_stage(row, union, len(labels)) for row in rows if row["norm"] == WORST_NORM)]
    )


def is_of_cascade(row: Mapping[str, str], norm: str, images: str, known: Iterable[str]) -> bool:
    """Whether a row is of the cascade in a norm on some images, "" where a run has one only; the clean accuracy is of all clean ones."""
    if row["norm"] == WORST_NORM or (norm and row["norm"] not in ("", norm)):
        return False
    others = [other for other in known if other not in ("", CLEAN) and row["probe"].endswith(f" on {other}")]
    mine = max(others, key=len, default=CLEAN)  # fog-3 of pgd on fog-3
    return images in ("", mine)


def worst_stage(row: Mapping[str, str], standing: frozenset[int], n: int) -> StageResult:
    """What stands under all threats; ValueError where the row tells another number."""
    if not abs(float(row["value"]) - len(standing) / n) < CLOSE:
        raise ValueError(f"the worst threat leaves {row['value']} in rows.csv, but {len(standing) / n} in samples.csv")
    return StageResult(row["probe"], row["setting"], WORST_NORM, float(row["eps"]), standing)


def stages_from_rows(rows: Sequence[Mapping[str, str]], broken_by: Mapping[int, tuple[str, str]]) -> list[StageResult]:
    """The stages in the order of the rows, which is that in which they ran, radius after radius, and then the suite's verdicts.

    Args:
        rows: the accuracies of rows.csv; of a cascade on changed images without a clean one.
        broken_by: sample id -> what broke the image, "" for a survivor, and the radius at which it did.

    Raises:
        ValueError: where the two tables contradict each other.
    """
    on_changed_images = bool(rows) and all(" on " in row["probe"] for row in rows)
    names = [*([(CLEAN, 0.0)] if on_changed_images else []), *((row["probe"], float(row["eps"])) for row in rows)]
    if not names or names[0][0] != CLEAN or len(set(names)) < len(names):
        raise ValueError("rows.csv must begin with the clean accuracy and name every probe once at a radius")
    places = {sample: breaking_place(*breaker, names) for sample, breaker in broken_by.items()}
    stages = []
    for place, (row, (probe, eps)) in enumerate(zip(rows, names[on_changed_images:], strict=True), int(on_changed_images)):
        past_places = {other for other in range(place + 1) if names[other][1] <= eps}  # a verdict at a radius knows nothing of larger ones
        standing = frozenset(sample for sample, breaker in places.items() if breaker not in past_places)
        standing_share = len(standing) / len(broken_by)
        if not abs(float(row["value"]) - standing_share) < CLOSE:
            raise ValueError(f"{probe} leaves {row['value']} in rows.csv, but {standing_share} in samples.csv")
        stages.append(StageResult(probe, row["setting"], row["norm"], eps, standing))
    return stages


def breaking_place(probe: str, eps: str, names: Sequence[tuple[str, float]]) -> int | None:
    """Where in the cascade the stage lies that broke an image, None for a survivor; without a radius, the probe's only stage."""
    if not probe:
        return None
    at_radius = probe != CLEAN and eps
    matches = [place for place, (name, radius) in enumerate(names) if name == probe and (not at_radius or radius == float(eps))]
    if len(matches) != 1:
        where = f" at eps {eps}" if at_radius else ""
        raise ValueError(f"samples.csv says that {probe!r}{where} broke an image, but rows.csv has no such probe, or several")
    return matches[0]


def manifest_at(path: Path) -> dict[str, Any]:
    """The content of a manifest that says which images were used."""
    content = json_at(path)
    missing = [words for words in NEEDED_WORDS if manifest_value(content, words) is None]
    if missing == ["data.sha256"] and manifest_value(content, "corruptions") is not None:
        raise InputError(f"{path} is of a run without attacks: what is compared are the accuracies that attacks leave")
    if missing:
        raise InputError(f"{path} does not say {missing[0]}: it is no manifest of 'robench eval' or 'robench attack'")
    return dict(content)


def manifest_value(manifest: Mapping[str, Any], words: str) -> Any:
    """The value in a manifest under `part.key`, None if there is none.

    Args:
        manifest: the content of manifest.json.
        words: keys joined by dots.

    Example:
        >>> manifest_value({"data": {"n": 100}}, "data.n")
        100
    """
    value: Any = manifest
    for key in words.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def json_at(path: Path) -> Any:
    """What a JSON file holds.

    Args:
        path: the file.

    Raises:
        InputError: where it cannot be read, or is no JSON.
    """
    try:
        return json_value(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None


def refuse_text_cells(path: Path, lines: Sequence[Mapping[str, str]], some: Iterable[Mapping[str, str]], kinds: CellKinds) -> None:
    """Raises InputError with the line where some of a table's lines have text in a column of numbers."""
    for line in some:
        for name, kind in kinds.items():
            try:
                kind(line[name])
            except ValueError as error:
                number = next(place for place, one in enumerate(lines, 2) if one is line)
                raise InputError(f"{path} in line {number} under {name!r}: {error}") from None


def table_at(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The lines of a CSV that has these columns, every cell as it is written; columns of later versions are left alone."""
    text = text_at(path)
    try:
        head, *lines = csv_cells(text)
    except ValueError as error:
        raise InputError(f"{path} is not CSV: {error}") from None
    missing = [name for name in columns if head.count(name) != 1]
    if missing == ["broken_by"] and {"probe", "method"} & {*head}:
        raise InputError(f"{path} is of a run without attacks: what is compared are the accuracies that attacks leave")
    if missing:
        raise InputError(f"{path} needs one column {missing[0]!r}: it was not written by 'robench eval' or 'robench attack'")
    for number, line in enumerate(lines, 2):
        if len(line) != len(head):
            raise InputError(f"{path} has {len(line)} cells in line {number}, but {len(head)} columns")
    if not lines:
        raise InputError(f"{path} holds nothing but its head")
    return [dict(zip(head, line, strict=True)) for line in lines]


def text_at(path: Path) -> str:
    """The text of a file. Raises InputError where it cannot be read, or where its last line has no end, as after a copy that broke off.

    Args:
        path: the file.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"cannot read {path}: it is not text") from None
    if not text.endswith("\n"):
        raise InputError(f"{path} is cut short: its last line has no end")
    return text
