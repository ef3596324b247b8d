"""RobustBench's published rows, and a run as such a row: the JSON files of its folder model_info.

The layout is model_info/DATASET/THREAT/MODEL.json with THREAT one of Linf, L2, corruptions, and one flat object a file: link, name (the
paper's title), authors, additional_data, number_forward_passes, dataset, venue, architecture, eps, clean_acc, reported, autoattack_acc or
corruptions_acc, footnote, external, unreliable (github.com/RobustBench/robustbench: README.md, `robustbench/utils.py` with its class
ModelInfo, `model_info/`). Accuracies are percent with two digits, as text; eps is text such as 8/255, a number, or null; the norm stands in
the name of the folder alone. How many images there were is in no file: 10,000 of CIFAR, 5,000 of ImageNet (their paper, 2010.09670, and
`robustbench/data.py`). An attack that is not AutoAttack and found a lower accuracy is `external`.

The files are not trusted: each is read within bounds, and one that cannot be used is named and left out.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.core.files import is_existing_path, json_value
from robench.core.recipes import eps_text, parse_fraction
from robench.core.rows import CLEAN, OVERALL_PROBE, Row, wilson
from robench.core.saved_results import manifest_value
from robench.report.leaderboard import BoardLine, Cell
from robench.report.tables import percent
from robench.results.columns import Column, base_data, column_of_row
from robench.results.saved_runs import SavedRun

ROBUSTBENCH = "RobustBench"
NORM_FOLDERS, CORRUPTIONS_FOLDER = {"linf": "linf", "l2": "l2"}, "corruptions"
PUBLISHED_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
SPLIT = "test"
ZOO_PREFIX = "rb/"  # of the names of RobustBench's models in our rows
MOST_LISTED_SETS = 6  # in a sentence
MOST_BYTES, MOST_FILES, MOST_LETTERS, DEEPEST_FOLDER = 1 << 20, 10_000, 2_000, 3
PAPER_TEXTS = ("link", "name", "authors", "venue", "architecture", "reported", "footnote")  # what a user can tell, as text
PAPER_KEYS = (*PAPER_TEXTS, "additional_data", "number_forward_passes")
THREAT_FOLDERS = {"linf": "Linf", "l2": "L2", CORRUPTIONS_FOLDER: "corruptions"}
N_KEY = "n_examples"  # ours, where a run was of other images than RobustBench's


@dataclass(frozen=True)
class PublishedRows:
    """What a folder of published rows holds.

    Attributes:
        lines: the data set and the line of each model.
        notes: a sentence on each file that was left out.
    """

    lines: tuple[tuple[str, BoardLine], ...]
    notes: tuple[str, ...]


def published_rows(folder: Path) -> PublishedRows:
    """The published models below a folder: model_info itself, or a folder in it.

    Args:
        folder: such as a copy of RobustBench's model_info, or model_info/cifar10/Linf.

    Raises:
        InputError: where there is no such folder, it has no JSON files, too many, or none that can be used.
    """
    if not is_existing_path(folder) or not folder.is_dir():
        raise InputError(f"no folder: {folder}")
    files = list(json_files(folder, DEEPEST_FOLDER))
    if not files:
        raise InputError(f"{folder} holds no JSON file: name RobustBench's folder model_info, or one in it")
    if len(files) > MOST_FILES:
        raise InputError(f"{folder} holds more than {MOST_FILES} JSON files: name a folder of published rows")
    lines: list[tuple[str, BoardLine]] = []
    notes: list[str] = []
    for file in files:
        try:
            lines.append(published_line(file))
        except InputError as error:
            notes.append(str(error))
    if not lines:
        raise InputError(f"no file below {folder} is a published row: {notes[0]}")
    return PublishedRows(tuple(lines), tuple(notes))


def unfitting_notes(runs: Sequence[SavedRun], lines: Sequence[tuple[str, BoardLine]]) -> list[str]:
    """A sentence for each data set of the runs that no published row is of, and which there are.

    Args:
        runs: finished runs.
        lines: the data set and the line of each published model; no sentence where there are none.
    """
    there = dict.fromkeys(data for data, _ in lines)
    missing = [data for data in data_sets(runs) if there and data not in there]
    return [f"No published row is of {data}, the data set of your runs: there are rows of {listed(there)}." for data in missing]


def zoo_notes(runs: Sequence[SavedRun], lines: Sequence[tuple[str, BoardLine]]) -> list[str]:
    """A sentence for each model of RobustBench's zoo (rb/NAME) among the runs that has a published row, with the numbers of both.

    Args:
        runs: finished runs.
        lines: the data set and the line of each published model.
    """
    published = {(data, line.name): line for data, line in lines}
    notes: dict[str, list[str]] = {}
    for run in runs:
        for row in run.rows:
            name = row.checkpoint.removeprefix(ZOO_PREFIX).partition(",")[0]
            line = published.get((base_data(row.data), name)) if row.checkpoint.startswith(ZOO_PREFIX) else None
            cell = line.cells.get(column_of_row(row)) if line else None
            if cell is not None:
                numbers = f"{row.probe} {percent(cell.value)} % there (n = {cell.n}), {percent(row.value)} % here (n = {row.n})"
                notes.setdefault(f"RobustBench publishes {row.checkpoint} as {name}", []).append(numbers)
    return [f"{model}: {'; '.join(dict.fromkeys(numbers))}." for model, numbers in notes.items()]


def place_notes(runs: Sequence[SavedRun]) -> list[str]:
    """A sentence for a data set that RobustBench does not list, whose file has no place there.

    Args:
        runs: finished runs.
    """
    unknown = [data for data in data_sets(runs) if data not in PUBLISHED_IMAGES]
    return [
        f"RobustBench does not list the data set {data}, but {listed(PUBLISHED_IMAGES)}: the file has its layout alone." for data in unknown
    ]


def data_sets(runs: Sequence[SavedRun]) -> list[str]:
    """The data sets of some runs, each once; corrupted images count as those that they show."""
    return list(dict.fromkeys(base_data(run.rows[0].data) for run in runs))


def listed(names: Iterable[str]) -> str:
    """Names in a sentence, those beyond the first few counted."""
    every = list(names)
    return ", ".join(every[:MOST_LISTED_SETS]) + (f" and {len(every) - MOST_LISTED_SETS} more" if len(every) > MOST_LISTED_SETS else "")


def json_files(folder: Path, depth: int) -> Iterator[Path]:
    """The JSON files in a folder and in those below it, in the order of their names; links are not followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from None
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and depth:
            yield from json_files(Path(entry.path), depth - 1)
        elif entry.name.endswith(".json") and entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def published_line(file: Path) -> tuple[str, BoardLine]:
    """The data set and the line of a file.

    Args:
        file: DATASET/THREAT/MODEL.json.

    Raises:
        InputError: one sentence, where it cannot be used.
    """
    content, folder = object_of_file(file), file.resolve().parent
    threat = folder.name.lower()
    if threat not in (*NORM_FOLDERS, CORRUPTIONS_FOLDER):
        raise InputError(f"{file} lies in no folder called Linf, L2 or corruptions: its threat is not known")
    data = data_name(content.get("dataset") or folder.parent.name, file)
    n = image_count(content, data, file)
    cells = {Column(data, SPLIT, CLEAN, "accuracy", "", 0.0, ""): share_cell(content, "clean_acc", n, file)}
    if threat == CORRUPTIONS_FOLDER:
        cells |= {corruption_column(data): share_cell(content, corruption_key(content), n, file)}
    else:
        cells |= {attack_column(data, threat, content, file): share_cell(content, "autoattack_acc", n, file)}
    return data, BoardLine(
        file.stem, "", SPLIT, n, "", None, "", {}, {column: cell for column, cell in cells.items() if cell is not None},
        published=ROBUSTBENCH, remark=remark_of(content, file),
    )  # fmt: skip


def object_of_file(file: Path) -> dict[str, Any]:
    """The object in a JSON file, within bounds; InputError for anything else."""
    try:
        with file.open("rb") as handle:
            text = handle.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise InputError(f"{file} is larger than 1 MiB: it is no published row")
        content = json_value(text)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no JSON object: it is no published row")
    return content


def data_name(said: object, file: Path) -> str:
    """The data set as our rows call it; InputError where it is no short word."""
    if not isinstance(said, str) or not 0 < len(said) <= 60:
        raise InputError(f"{file} names no data set")
    return said.lower()


def image_count(content: Mapping[str, Any], data: str, file: Path) -> int:
    """How many images a row is of: what the file says, else RobustBench's number for the data set."""
    n = content.get(N_KEY, PUBLISHED_IMAGES.get(data))
    if isinstance(n, bool) or not isinstance(n, int) or not 0 < n <= 10**9:
        raise InputError(f"{file} does not say of how many images it is: {data} is none of {', '.join(PUBLISHED_IMAGES)}")
    return n


def share_cell(content: Mapping[str, Any], key: str, n: int, file: Path) -> Cell | None:
    """A percentage of the file as a share with its Wilson interval; None where it is left empty."""
    percentage = content.get(key)
    if percentage is None or percentage == "":
        return None
    share = number_of(percentage, key, file) / 100
    if not 0 <= share <= 1:
        raise InputError(f"{file} says {key} {str(percentage)[:40]}, which is no percentage")
    low, high = wilson(share * n, n)
    return Cell(share, low, high, n, "wilson")


def number_of(value: object, key: str, file: Path) -> float:
    """A finite number that a file gives as text or as a number, a fraction such as 8/255 too."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or len(str(value)) > 40:
            raise ValueError
        number = parse_fraction(value) if isinstance(value, str) else float(value)
        if not math.isfinite(number):
            raise ValueError
    except (ValueError, OverflowError, InputError):
        raise InputError(f"{file} has under {key} what is no number") from None
    return number


def attack_column(data: str, threat: str, content: Mapping[str, Any], file: Path) -> Column:
    """The column of AutoAttack at the radius of a file."""
    eps = number_of(content.get("eps"), "eps", file)
    if not 0 < eps < 1e6:
        raise InputError(f"{file} says eps {eps:g}, which is no radius")
    return Column(data, SPLIT, "autoattack", "accuracy", NORM_FOLDERS[threat], eps, "")


def corruption_column(data: str) -> Column:
    """The column of the accuracy over the fifteen released corruptions."""
    return Column(f"{data}-c", SPLIT, OVERALL_PROBE, "mean_accuracy", "", 0.0, "corruptions=15 cells=75")


def corruption_key(content: Mapping[str, Any]) -> str:
    """Under which key the accuracy over corruptions stands; the 2D ones have a name of their own where there are 3D ones."""
    return "corruptions_acc" if content.get("corruptions_acc") is not None else "corruptions_acc_2d"


def remark_of(content: Mapping[str, Any], file: Path) -> str:
    """What one should know of a published row: the paper, another evaluation that found less, whether it is called unreliable."""
    paper = ", ".join(filter(None, (short_text(content.get(key)) for key in ("name", "venue", "architecture"))))
    external = content.get("external")
    parts = [paper] if paper else []
    parts += [f"another attack leaves {number_of(external, 'external', file):.2f} %"] if external not in (None, "") else []
    parts += ["RobustBench calls the evaluation unreliable"] if content.get("unreliable") is True else []
    parts += ["trained with additional data"] if content.get("additional_data") is True else []
    return "; ".join(parts)


def short_text(value: object) -> str:
    """A text in one line; "" for what is no text or too long to be a title."""
    return " ".join(value.split()) if isinstance(value, str) and len(value) <= MOST_LETTERS else ""


# --- a run as such a file


def paper_facts(texts: list[str]) -> dict[str, Any]:
    """What a user tells of a model's paper, which no run knows.

    Args:
        texts: each KEY=VALUE with a key of PAPER_KEYS.

    Raises:
        InputError: for another key, one that comes twice, and for a value of the wrong kind.

    Example:
        >>> paper_facts(["venue=ICLR 2020", "additional_data=false"])
        {'venue': 'ICLR 2020', 'additional_data': False}
    """
    facts: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in PAPER_KEYS:
            raise InputError(f"--about {text!r} is no fact that RobustBench lists: write KEY=VALUE with one of {', '.join(PAPER_KEYS)}")
        if key in facts:
            raise InputError(f"--about {key} is given twice: leave one out")
        facts[key] = paper_fact(key, value)
    return facts


def paper_fact(key: str, value: str) -> Any:
    """A fact as the kind that its key has."""
    if key == "additional_data":
        if value not in ("true", "false"):
            raise InputError(f"--about additional_data={value!r} must be true or false")
        return value == "true"
    if key == "number_forward_passes":
        if not value.isdecimal() or not 0 < len(value) <= 6 or int(value) == 0:
            raise InputError(f"--about number_forward_passes={value!r} must be a whole number from 1")
        return int(value)
    return value


def robustbench_object(run: SavedRun, facts: Mapping[str, Any], threat: str = "") -> dict[str, Any]:
    """A run as a published row; what neither the run nor the user tells is left empty: "" for texts, null for others.

    Args:
        run: a finished run of one model, with AutoAttack in linf or l2, or of the released corruptions.
        facts: what `paper_facts` gives.
        threat: "Linf", "L2" or "corruptions"; "" takes the only one that the run has.

    Returns:
        Plain JSON values by the keys of RobustBench's files, and n_examples where the images were not as many as RobustBench takes.

    Raises:
        InputError: where the run has no such numbers, or of several threats or models.
    """
    if len(run.checkpoints) > 1:
        raise InputError(
            f"{run.folder} holds {len(run.checkpoints)} models ({', '.join(run.checkpoints)}): a file is of one, name such a run"
        )
    clean = next((row for row in run.rows if row.probe == CLEAN and row.metric == "accuracy" and not row.norm), None)
    if clean is None:
        raise InputError(f"{run.folder} has no clean accuracy, which a row of RobustBench needs")
    robust = robust_row(run, threat)
    data, n = base_data(robust.data), min(clean.n, robust.n)
    key = "autoattack_acc" if robust.norm else "corruptions_acc"
    texts = {name: facts.get(name, "") for name in PAPER_TEXTS}
    return {
        "link": texts["link"], "name": texts["name"], "authors": texts["authors"], "additional_data": facts.get("additional_data"),
        "number_forward_passes": facts.get("number_forward_passes"), "dataset": data, "venue": texts["venue"],
        "architecture": texts["architecture"] or architecture_in_manifest(run), "eps": eps_text(robust.eps) if robust.norm else None,
        "clean_acc": percent(clean.value), "reported": texts["reported"], key: percent(robust.value),
        "footnote": texts["footnote"] or footnote_of(run, clean), **({N_KEY: n} if PUBLISHED_IMAGES.get(data) != n else {}),
    }  # fmt: skip


def robust_row(run: SavedRun, threat: str) -> Row:
    """The robust accuracy of a run under a threat, or the only one that there is."""
    found = {THREAT_FOLDERS[name]: row for row in run.rows if (name := robustbench_threat(row))}
    if any(row.interval.startswith("anytime") for row in found.values()):
        raise InputError(f"{run.folder} stopped before its last image (--until): RobustBench's rows are of all images")
    if threat and threat not in found:
        raise InputError(f"{run.folder} has no number for {threat}: {robustbench_advice(found)}")
    if not found or (len(found) > 1 and not threat):
        raise InputError(f"{run.folder} {robustbench_advice(found)}")
    return found[threat] if threat else next(iter(found.values()))


def robustbench_advice(found: Mapping[str, Row]) -> str:
    """What a run lacks for RobustBench, or of what it has too much."""
    if not found:
        return "needs the suite autoattack in linf or l2, or the fifteen released corruptions at five severities"
    return f"holds numbers for {', '.join(found)}: put the file into a folder of the name of one of them"


def robustbench_threat(row: Row) -> str:
    """Of which threat of RobustBench a row is, "" for none."""
    if row.metric == "accuracy" and row.probe == "autoattack" and row.norm in NORM_FOLDERS:
        return row.norm
    return CORRUPTIONS_FOLDER if column_of_row(row) == corruption_column(base_data(row.data)) else ""


def architecture_in_manifest(run: SavedRun) -> str:
    """What the manifest says of the architecture, "" where it does not."""
    arch = manifest_value(run.manifest, "checkpoint.architecture.arch")
    return arch if isinstance(arch, str) else ""


def footnote_of(run: SavedRun, clean: Row) -> str:
    """With what, and on which images, a run was measured, and the flags that it raised."""
    version = manifest_value(run.manifest, "versions.robench") or "of unknown version"
    return " ".join([f"Measured with robench {version} on {clean.n} images of {clean.data} {clean.split}, seed {clean.seed}.", *run.flags])


def robustbench_text(run: SavedRun, file: Path, facts: Mapping[str, Any]) -> str:
    """The text of the file of a run.

    Args:
        run: a finished run.
        file: where it will lie; the name of its folder says which threat is meant, where it is Linf, L2 or corruptions.
        facts: what `paper_facts` gives.
    """
    threat = next((name for name in THREAT_FOLDERS.values() if name == file.resolve().parent.name), "")
    return json.dumps(robustbench_object(run, facts, threat), indent=2, allow_nan=False) + "\n"
