"""Two results folders side by side: read strictly, refused where they are not alike, compared image by image, and judged by gates.

The tables are read with the csv module and not with pandas, which would take a probe called "NA" for a missing one, fill up short
lines and turn a column of whole numbers into another kind without a word.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.core.files import write_whole
from robench.core.recipes import ON, did_you_mean, eps_text
from robench.core.rows import SOURCE
from robench.core.statistics import least_significant, mcnemar, paired_difference
from robench.results.files import table

ROWS = ("checkpoint", "n", "norm", "eps", "probe", "setting", "metric", "value")
SAMPLES = ("sample", "label", "broken_by")
CLEAN, WORST = "clean", "worst"  # the accuracy before any attack; the norm of what stands under all threats
CLOSE = 1e-9  # how far the share of two counts may lie from the number in the table
FEWEST = 10  # images in common that a comparison needs
NEEDED = ("data.name", "data.split", "data.n", "data.sha256")
NOTED = ("seed", "device", "versions.robench", "versions.torch", "versions.pyautoattack")
GATE = re.compile(r"(?P<probe>.+?)\s*:\s*drop\s*(?:>\s*(?P<number>[0-9]*\.?[0-9]+|[0-9]+/[0-9]+)\s*(?P<percent>%?))?")
TOLD = Fraction(1, 100)  # of the images: a gate of any drop that needs more lost ones than this is told to be blind (our choice)


@dataclass(frozen=True)
class Stage:
    """A probe with its setting and threat, or a suite's verdict at a radius, and the ids of the images that still stand after it."""

    probe: str
    setting: str
    norm: str
    eps: float
    standing: frozenset[int]


@dataclass(frozen=True)
class Results:
    """One results folder: what was measured, its manifest, the label of every image by its id, the stages of the cascade in order."""

    folder: Path
    checkpoint: str
    manifest: Mapping[str, Any]
    labels: Mapping[int, int]
    stages: Sequence[Stage]


@dataclass(frozen=True)
class Compared:
    """One line of compare.csv: one probe, on the same n images under both models.

    base, new            accuracies that are left, as fractions
    difference           new - base, with its 95 % interval low, high (Newcombe 1998, method 10)
    only_base, only_new  how many images stand in one of the two only
    p                    exact two-sided McNemar p value
    """

    base_checkpoint: str
    new_checkpoint: str
    data: str
    split: str
    n: int
    norm: str
    eps: float
    probe: str
    setting: str
    base: float
    new: float
    difference: float
    low: float
    high: float
    only_base: int
    only_new: int
    p: float


@dataclass(frozen=True)
class Gate:
    """A probe whose accuracy may drop by `allowed` at most, at every radius.

    The fraction is kept exact, so that 0.7 % of 1,000 images are 7.
    """

    probe: str
    allowed: Fraction


def load(folder: Path) -> Results:
    """What lies in a results folder of one model. InputError as in `load_all`, and for a folder of several models."""
    found = load_all(folder)
    if len(found) > 1:
        names = ", ".join(results.checkpoint for results in found)
        raise InputError(f"{folder} holds the results of several models ({names}): name a run of one")
    return found[0]


def load_all(folder: Path) -> list[Results]:
    """What lies in a results folder of `robench eval` or `robench attack`, model by model.

    Rows of probes, corruptions and saliency maps are left alone: what is read is what attacks leave of the accuracy.
    InputError where a file is missing, cut short or not as it was written, or where the three files contradict each other.
    """
    if not folder.is_dir():
        raise InputError(f"no results folder: {folder}")
    manifest = manifest_at(folder / "manifest.json")
    rows = of_attacks(table_at(folder / "rows.csv", ROWS))
    samples = table_at(folder / "samples.csv", SAMPLES)
    names = list(dict.fromkeys(row["checkpoint"] for row in rows)) or [""]
    try:
        return [
            results_of(folder, manifest, name, [row for row in rows if row["checkpoint"] == name],
                       [line for line in samples if line.get("checkpoint", name) == name])
            for name in names
        ]  # fmt: skip
    except ValueError as error:
        raise InputError(f"the files in {folder} cannot be used: {error}") from None


def of_attacks(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The accuracies that attacks leave, and the clean ones: none under corruptions, or on images that a stage only gives to others."""
    corruptions = {row["probe"] for row in rows if row["metric"] == "mean_accuracy"}
    return [
        row
        for row in rows
        if row["metric"] == "accuracy"
        and (row["probe"] == CLEAN or (row["norm"] and row["probe"] not in corruptions and SOURCE not in row["setting"].split()))
    ]


def results_of(
    folder: Path, manifest: Mapping[str, Any], name: str, rows: Sequence[Mapping[str, str]], samples: Sequence[Mapping[str, str]]
) -> Results:
    """What a folder tells of one model, cascade by cascade; ValueError where its tables contradict each other."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for line in samples:
        groups.setdefault((line.get("norm", ""), line.get("images", "")), []).append(line)
    labels = {int(sample["sample"]): int(sample["label"]) for sample in samples}
    counts = {
        *(len(lines) for lines in groups.values()), len(labels), told(manifest, "data.n"), *(int(row["n"]) for row in rows),
    }  # fmt: skip
    if len(counts) > 1:
        raise ValueError(f"they do not agree how many images there are, {', '.join(map(str, sorted(counts, key=str)))}")
    stages: list[Stage] = []
    union = frozenset(labels)
    for (norm, images), lines in groups.items():
        broken = {int(line["sample"]): (line["broken_by"], line.get("eps", "")) for line in lines}
        mine = [row for row in rows if belongs(row, norm, images, [other for _, other in groups])]
        if all(" on " in row["probe"] for row in mine if row["probe"] != CLEAN):  # begins on changed images
            mine = [row for row in mine if row["probe"] != CLEAN] or mine
        found = cascade(mine, broken)
        union &= found[-1].standing if images in ("", CLEAN) else union
        known = any(stage.probe == CLEAN for stage in stages)
        stages += [stage for stage in found if stage.probe != CLEAN or not known]
    return Results(folder, name, manifest, labels, [*stages, *(worst(row, union, len(labels)) for row in rows if row["norm"] == WORST)])


def belongs(row: Mapping[str, str], norm: str, images: str, known: Iterable[str]) -> bool:
    """Whether a row is of the cascade in a norm on some images, "" where a run has one only; the clean accuracy is of all clean ones."""
    if row["norm"] == WORST or (norm and row["norm"] not in ("", norm)):
        return False
    others = [other for other in known if other not in ("", CLEAN) and row["probe"].endswith(f" on {other}")]
    mine = max(others, key=len, default=CLEAN)  # fog-3 of pgd on fog-3
    return images in ("", mine)


def worst(row: Mapping[str, str], standing: frozenset[int], n: int) -> Stage:
    """What stands under all threats; ValueError where the row tells another number."""
    if not abs(float(row["value"]) - len(standing) / n) < CLOSE:
        raise ValueError(f"the worst threat leaves {row['value']} in rows.csv, but {len(standing) / n} in samples.csv")
    return Stage(row["probe"], row["setting"], WORST, float(row["eps"]), standing)


def cascade(rows: Sequence[Mapping[str, str]], broken_by: Mapping[int, tuple[str, str]]) -> list[Stage]:
    """The stages in the order of the rows, which is that in which they ran, radius after radius, and then the suite's verdicts.

    rows       the accuracies of rows.csv; of a cascade on changed images without a clean one
    broken_by  what broke the image with this id, "" for a survivor, and the radius at which it did
    ValueError where the two tables contradict each other.
    """
    changed = bool(rows) and all(" on " in row["probe"] for row in rows)
    names = [*([(CLEAN, 0.0)] if changed else []), *((row["probe"], float(row["eps"])) for row in rows)]
    if not names or names[0][0] != CLEAN or len(set(names)) < len(names):
        raise ValueError("rows.csv must begin with the clean accuracy and name every probe once at a radius")
    places = {sample: place_of(*broken, names) for sample, broken in broken_by.items()}
    stages = []
    for place, (row, (probe, eps)) in enumerate(zip(rows, names[changed:], strict=True), int(changed)):
        gone = {other for other in range(place + 1) if names[other][1] <= eps}  # a verdict at a radius knows nothing of larger ones
        standing = frozenset(sample for sample, broken in places.items() if broken not in gone)
        left = len(standing) / len(broken_by)
        if not abs(float(row["value"]) - left) < CLOSE:
            raise ValueError(f"{probe} leaves {row['value']} in rows.csv, but {left} in samples.csv")
        stages.append(Stage(probe, row["setting"], row["norm"], eps, standing))
    return stages


def place_of(probe: str, eps: str, names: Sequence[tuple[str, float]]) -> int | None:
    """Where in the cascade the stage lies that broke an image, None for a survivor; without a radius, the probe's only stage."""
    if not probe:
        return None
    at_radius = probe != CLEAN and eps
    found = [place for place, (name, radius) in enumerate(names) if name == probe and (not at_radius or radius == float(eps))]
    if len(found) != 1:
        where = f" at eps {eps}" if at_radius else ""
        raise ValueError(f"samples.csv says that {probe!r}{where} broke an image, but rows.csv has no such probe, or several")
    return found[0]


def manifest_at(path: Path) -> dict[str, Any]:
    """The content of a manifest that says which images were used."""
    text = text_at(path)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    missing = [words for words in NEEDED if told(content, words) is None]
    if missing:
        raise InputError(f"{path} does not say {missing[0]}: it is no manifest of 'robench eval' or 'robench attack'")
    return dict(content)


def told(manifest: Mapping[str, Any], words: str) -> Any:
    """What a manifest says under `part.key`, None if it says nothing."""
    value: Any = manifest
    for key in words.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def table_at(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The lines of a CSV that has these columns, every cell as it is written; columns of later versions are left alone."""
    text = text_at(path)
    try:
        head, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    except csv.Error as error:
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
    """The text of a file; InputError where it cannot be read, or where its last line has no end, as after a copy that broke off."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"cannot read {path}: it is not text") from None
    if not text.endswith("\n"):
        raise InputError(f"{path} is cut short: its last line has no end")
    return text


def pairs(base: Sequence[Results], new: Sequence[Results]) -> list[tuple[Results, Results]]:
    """The models of two runs that are compared: one with one whatever they are called, else those of one name, on images in common.

    InputError where no name is in both, or the runs are not of the same images.
    """
    if len(base) == len(new) == 1:
        return [on_common_images(base[0], new[0])]
    named = {results.checkpoint: results for results in new}
    found = [on_common_images(results, named[results.checkpoint]) for results in base if results.checkpoint in named]
    if not found:
        one, other = (", ".join(results.checkpoint for results in run) for run in (base, new))
        raise InputError(
            f"BASE holds {one} and NEW holds {other}: of several models those of one name are compared, and no name is in both"
        )
    return found


def on_common_images(base: Results, new: Results) -> tuple[Results, Results]:
    """Two runs on the same chosen images, one of which stopped early, on those that both have seen; others as they are.

    InputError where fewer than FEWEST are in common.
    """
    for words, what in (("data.name", "data set"), ("data.split", "split")):
        same(what, told(base.manifest, words), told(new.manifest, words))
    alike = chosen(base) == chosen(new) and told(base.manifest, "data.sha256") == told(new.manifest, "data.sha256")
    early = any(told(results.manifest, "data.n") != chosen(results) for results in (base, new))
    if base.labels.keys() == new.labels.keys() or not (alike and early):
        return base, new
    common = base.labels.keys() & new.labels.keys()
    if len(common) < FEWEST:
        raise InputError(
            f"BASE and NEW stopped early and have {len(common)} images in common: {FEWEST} are needed, so let them run for longer"
        )
    return only(base, common), only(new, common)


def only(results: Results, common: Collection[int]) -> Results:
    """A run on some of its images."""
    labels = {sample: label for sample, label in results.labels.items() if sample in common}
    stages = [replace(stage, standing=stage.standing & frozenset(common)) for stage in results.stages]
    return replace(results, labels=labels, stages=stages)


def chosen(results: Results) -> Any:
    """How many images a run was to see: more than it saw where it stopped early."""
    return next(n for words in ("data.chosen", "words.data.n", "data.n") if (n := told(results.manifest, words)) is not None)


def check_alike(base: Results, new: Results) -> None:
    """InputError unless both are measurements of the same images by the same probes with the same settings under the same threat."""
    for words, what in (("data.name", "data set"), ("data.split", "split")):
        same(what, told(base.manifest, words), told(new.manifest, words))
    same("number of images", len(base.labels), len(new.labels))
    other = sorted(base.labels.keys() ^ new.labels.keys())
    if other:
        raise InputError(f"BASE and NEW cannot be compared: only {'BASE' if other[0] in base.labels else 'NEW'} has image {other[0]}")
    for sample, label in base.labels.items():
        same(f"label of image {sample}", label, new.labels[sample])
    same("SHA-256 of the images", told(base.manifest, "data.sha256"), told(new.manifest, "data.sha256"))
    same("list of radii", *(", ".join(map(eps_text, radii(results.stages))) for results in (base, new)))
    same("list of probes", *(", ".join(stage.probe for stage in results.stages) for results in (base, new)))
    for one, another in zip(base.stages, new.stages, strict=True):
        same(f"norm of {one.probe}", one.norm, another.norm)
        same(f"eps of {one.probe}", one.eps, another.eps)
        same(f"setting of {one.probe}", one.setting, another.setting)


def radii(stages: Iterable[Stage] | Iterable[Compared]) -> list[float]:
    """The radii of the attacks, from the smallest."""
    return sorted({stage.eps for stage in stages if stage.norm and stage.norm != WORST})


def same(what: str, base: object, new: object) -> None:
    """InputError where two things differ that must be the same."""
    if base != new:
        raise InputError(f"BASE and NEW cannot be compared: the {what} is {base} in BASE and {new} in NEW")


def notes(base: Results, new: Results) -> list[str]:
    """What differs between two comparable runs besides the model: seed, device and versions, which may move single verdicts, and flags.

    A flag that only NEW raised matters most where NEW looks better: its attacks may have failed.
    """
    pairs = ((words, told(base.manifest, words), told(new.manifest, words)) for words in NOTED)
    changed = [f"{words} is {one} in BASE and {another} in NEW" for words, one, another in pairs if one != another]
    before, after = (told(results.manifest, "flags") or [] for results in (base, new))
    seen = [told(results.manifest, "data.n") for results in (base, new)]
    if len(base.labels) < max(seen):
        changed.append(
            f"BASE saw {seen[0]} and NEW {seen[1]} of the {chosen(base)} chosen images: compared are the {len(base.labels)} in common"
        )
    return changed + [f"flag of NEW that BASE has not: {flag}" for flag in after if flag not in before]


def compare(base: Results, new: Results) -> list[Compared]:
    """One line a probe and radius, in the order of the cascade, the suite's verdict last; InputError where the two are not alike."""
    check_alike(base, new)
    return [line(base, new, one, another) for one, another in zip(base.stages, new.stages, strict=True)]


def compare_all(base: Sequence[Results], new: Sequence[Results]) -> tuple[list[Compared], list[str]]:
    """The lines of all models of two folders that are compared, model by model, and the notes on them."""
    matched = pairs(base, new)
    left = [
        f"{results.checkpoint} is in {where} alone and is left out"
        for where, run, other in (("BASE", base, new), ("NEW", new, base))
        if len(base) > 1 or len(new) > 1
        for results in run
        if results.checkpoint not in {another.checkpoint for another in other}
    ]
    lines = [line for one, another in matched for line in compare(one, another)]
    return lines, [*left, *notes(*matched[0])]  # what is noted is of the folders, and the same for all models


def line(base: Results, new: Results, one: Stage, another: Stage) -> Compared:
    """One stage of both runs."""
    n, both = len(base.labels), len(one.standing & another.standing)
    only_base, only_new = len(one.standing) - both, len(another.standing) - both
    difference, low, high = paired_difference(both, only_base, only_new, n - both - only_base - only_new)
    return Compared(
        base.checkpoint, new.checkpoint, told(new.manifest, "data.name"), told(new.manifest, "data.split"), n, one.norm, one.eps, one.probe,
        one.setting, len(one.standing) / n, len(another.standing) / n, difference, low, high, only_base, only_new,
        mcnemar(only_base, only_new),
    )  # fmt: skip


def gates(sentences: Sequence[str], probes: Sequence[str]) -> list[Gate]:
    """The gates that the sentences spell, each `PROBE:drop`, `PROBE:drop>1%` or `PROBE:drop>0.01`; without any, a drop of the verdict.

    The verdict is the last probe on the images as they are: the suite's, under several threats that of each and of the worst.

    InputError for what cannot be read, for a probe that was not run, and for drops of 100 % or more, which cannot be exceeded.
    """
    verdict = [*(probe for probe in probes[:1]), *(probe for probe in probes if ON not in probe)][-1]
    return [gate(sentence, probes) for sentence in sentences] or [Gate(verdict, Fraction(0))]


def gate(sentence: str, probes: Sequence[str]) -> Gate:
    """The gate that one sentence spells."""
    found = GATE.fullmatch(sentence.strip())
    if found is None:
        raise InputError(f"cannot read the gate {sentence!r}: write PROBE:drop, PROBE:drop>1% or PROBE:drop>0.01")
    if found["probe"] not in probes:
        raise InputError(f"no probe {found['probe']!r} was run{did_you_mean(found['probe'], probes)}")
    try:
        allowed = Fraction(found["number"] or 0) / (100 if found["percent"] else 1)
    except ZeroDivisionError:
        raise InputError(f"the gate {sentence!r} divides by zero") from None
    if allowed >= 1:
        raise InputError(f"the gate {sentence!r} can never fail: no accuracy drops by more than 100 %; one percent is written drop>1%")
    return Gate(found["probe"], allowed)


def failures(wanted: Sequence[Gate], lines: Sequence[Compared], alpha: float) -> list[str]:
    """A sentence with the numbers for each gate that fails, at each radius: the drop is larger than allowed, and p at most alpha."""
    return [failure(gate, line, alpha) for gate in wanted for line in lines if line.probe == gate.probe and fails(gate, line, alpha)]


def fails(gate: Gate, line: Compared, alpha: float) -> bool:
    """Whether a gate fails; what is allowed is at least 0, so an improvement never does."""
    return Fraction(line.only_base - line.only_new, line.n) > gate.allowed and line.p <= alpha


def failure(gate: Gate, line: Compared, alpha: float) -> str:
    """The sentence about a gate that failed."""
    threat = f" at {line.norm} eps {eps_text(line.eps)}" if line.norm else ""
    threat = " under the worst threat" if line.norm == WORST else threat
    fall, low, high = (-100 * value for value in (line.difference, line.high, line.low))
    return (
        f"{line.probe}{threat} fell from {100 * line.base:.2f} to {100 * line.new:.2f} %, by {fall:.2f} points where at most"
        f" {float(100 * gate.allowed):g} may go: of {line.n} images {line.only_base} are lost and {line.only_new} won"
        f" (McNemar p = {line.p:.2g}, alpha {alpha:g}; 95 % interval of the fall {low:.2f} to {high:.2f} points)"
    )


def blind(wanted: Sequence[Gate], n: int, alpha: float) -> list[str]:
    """A sentence for each gate that allows less than n images can show: so few lost ones are never significant.

    Any drop is told where that is more than TOLD of the images; some drop is always too small.
    """
    least = least_significant(alpha)
    told_apart = f"{least} of {n} images ({100 * least / n:.2f} %) are the fewest lost ones that differ from chance at alpha {alpha:g}"
    return [
        f"{gate.probe}: {told_apart}, so the gate passes any smaller drop: evaluate more images"
        for gate in wanted
        if Fraction(least, n) > (gate.allowed + Fraction(1, n) if gate.allowed else TOLD)
    ]


def write(out: Path, lines: Sequence[Compared]) -> Path:
    """Writes compare.csv into `out`, whole or not at all; returns its path."""
    return write_whole({out / "compare.csv": table(lines, Compared).to_csv(index=False).encode()})[0]
