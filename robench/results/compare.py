"""Two results folders side by side: refused where they are not alike, compared image by image, and judged by gates."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.core.files import write_whole
from robench.core.recipes import ON_SEPARATOR, did_you_mean, eps_text
from robench.core.rows import WORST_NORM
from robench.core.saved_results import ModelResults, StageResult, manifest_value
from robench.core.statistics import least_significant_count, mcnemar, paired_difference
from robench.results.files import frame_of_entries

FEWEST_IN_COMMON = 10  # images in common that a comparison needs
NOTED_WORDS = ("seed", "device", "versions.robench", "versions.torch", "versions.pyautoattack")
GATE = re.compile(r"(?P<probe>.+?)\s*:\s*drop\s*(?:>\s*(?P<number>[0-9]*\.?[0-9]+|[0-9]+/[0-9]+)\s*(?P<percent>%?))?")
BLIND_SHARE = Fraction(1, 100)  # of the images: a gate of any drop that needs more lost ones than this is told to be blind (our choice)


@dataclass(frozen=True)
class ComparisonLine:
    """One line of compare.csv: one probe, on the same n images under both models.

    Attributes:
        base_checkpoint: the model of BASE, as the user named it.
        new_checkpoint: the model of NEW.
        data: the data set.
        split: its split.
        n: number of images that are compared.
        norm: the threat's norm, empty where there is none, "worst" for what stands under all threats.
        eps: the threat's radius, 0 where there is none.
        probe: the recipe, as in `Row`.
        setting: the probe's options, key=value.
        base: accuracy that is left in BASE, a fraction.
        new: accuracy that is left in NEW, a fraction.
        difference: new - base.
        low: lower end of its 95 % interval (Newcombe 1998, method 10).
        high: upper end of its 95 % interval.
        only_base: number of images that stand in BASE alone.
        only_new: number of images that stand in NEW alone.
        p: exact two-sided McNemar p value.
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
    """A probe whose accuracy may drop by `tolerance` at most, at every radius.

    The fraction is kept exact, so that 0.7 % of 1,000 images are 7.
    """

    probe: str
    tolerance: Fraction


def compared_pairs(base: Sequence[ModelResults], new: Sequence[ModelResults]) -> list[tuple[ModelResults, ModelResults]]:
    """The models of two runs that are compared: one with one whatever they are called, else those of one name, on images in common.

    Raises:
        InputError: where no name is in both, or the runs are not of the same images.
    """
    if len(base) == len(new) == 1:
        return [pair_on_common_images(base[0], new[0])]
    by_name = {results.checkpoint: results for results in new}
    pairs = [pair_on_common_images(results, by_name[results.checkpoint]) for results in base if results.checkpoint in by_name]
    if not pairs:
        one, other = (", ".join(results.checkpoint for results in run) for run in (base, new))
        raise InputError(
            f"BASE holds {one} and NEW holds {other}: of several models those of one name are compared, and no name is in both"
        )
    return pairs


def pair_on_common_images(base: ModelResults, new: ModelResults) -> tuple[ModelResults, ModelResults]:
    """Two runs on the same chosen images, one of which stopped early, on those that both have seen; others as they are.

    Raises:
        InputError: where fewer than FEWEST_IN_COMMON images are in common.
    """
    for words, what in (("data.name", "data set"), ("data.split", "split")):
        refuse_difference(what, manifest_value(base.manifest, words), manifest_value(new.manifest, words))
    alike = chosen_count(base) == chosen_count(new) and manifest_value(base.manifest, "data.sha256") == manifest_value(
        new.manifest, "data.sha256"
    )
    early = any(manifest_value(results.manifest, "data.n") != chosen_count(results) for results in (base, new))
    if base.labels.keys() == new.labels.keys() or not (alike and early):
        return base, new
    common = base.labels.keys() & new.labels.keys()
    if len(common) < FEWEST_IN_COMMON:
        raise InputError(
            f"BASE and NEW stopped early and have {len(common)} images in common: {FEWEST_IN_COMMON} are needed, so let them run for longer"
        )
    return results_on(base, common), results_on(new, common)


def results_on(results: ModelResults, common: Collection[int]) -> ModelResults:
    """A run on some of its images."""
    labels = {sample: label for sample, label in results.labels.items() if sample in common}
    stages = [replace(stage, standing=stage.standing & frozenset(common)) for stage in results.stages]
    return replace(results, labels=labels, stages=stages)


def chosen_count(results: ModelResults) -> Any:
    """How many images a run was to see: more than it saw where it stopped early."""
    return next(n for words in ("data.chosen", "words.data.n", "data.n") if (n := manifest_value(results.manifest, words)) is not None)


def check_alike(base: ModelResults, new: ModelResults) -> None:
    """InputError unless both are measurements of the same images by the same probes with the same settings under the same threat."""
    for words, what in (("data.name", "data set"), ("data.split", "split")):
        refuse_difference(what, manifest_value(base.manifest, words), manifest_value(new.manifest, words))
    refuse_difference("number of images", len(base.labels), len(new.labels))
    other = sorted(base.labels.keys() ^ new.labels.keys())
    if other:
        raise InputError(f"BASE and NEW cannot be compared: only {'BASE' if other[0] in base.labels else 'NEW'} has image {other[0]}")
    for sample, label in base.labels.items():
        refuse_difference(f"label of image {sample}", label, new.labels[sample])
    refuse_difference("SHA-256 of the images", manifest_value(base.manifest, "data.sha256"), manifest_value(new.manifest, "data.sha256"))
    refuse_difference("list of radii", *(", ".join(map(eps_text, attack_radii(results.stages))) for results in (base, new)))
    refuse_difference("list of probes", *(", ".join(stage.probe for stage in results.stages) for results in (base, new)))
    for one, another in zip(base.stages, new.stages, strict=True):
        refuse_difference(f"norm of {one.probe}", one.norm, another.norm)
        refuse_difference(f"eps of {one.probe}", one.eps, another.eps)
        refuse_difference(f"setting of {one.probe}", one.setting, another.setting)


def attack_radii(stages: Iterable[StageResult] | Iterable[ComparisonLine]) -> list[float]:
    """The radii of the attacks, each once, from the smallest.

    Args:
        stages: stages of a results folder, or lines of a comparison.
    """
    return sorted({stage.eps for stage in stages if stage.norm and stage.norm != WORST_NORM})


def refuse_difference(what: str, base: object, new: object) -> None:
    """InputError where two things differ that must be the same."""
    if base != new:
        raise InputError(f"BASE and NEW cannot be compared: the {what} is {base} in BASE and {new} in NEW")


def difference_notes(base: ModelResults, new: ModelResults) -> list[str]:
    """What differs between two comparable runs besides the model: seed, device and versions, which may move single verdicts, and flags.

    A flag that only NEW raised matters most where NEW looks better: its attacks may have failed.
    """
    pairs = ((words, manifest_value(base.manifest, words), manifest_value(new.manifest, words)) for words in NOTED_WORDS)
    notes = [f"{words} is {one} in BASE and {another} in NEW" for words, one, another in pairs if one != another]
    before, after = (manifest_value(results.manifest, "flags") or [] for results in (base, new))
    seen = [manifest_value(results.manifest, "data.n") for results in (base, new)]
    if len(base.labels) < max(seen):
        notes.append(
            f"BASE saw {seen[0]} and NEW {seen[1]} of the {chosen_count(base)} chosen images: compared are the {len(base.labels)} in common"
        )
    return notes + [f"flag of NEW that BASE has not: {flag}" for flag in after if flag not in before]


def compare_results(base: ModelResults, new: ModelResults) -> list[ComparisonLine]:
    """One line a probe and radius, in the order of the cascade, the suite's verdict last; InputError where the two are not alike."""
    check_alike(base, new)
    return [comparison_line(base, new, one, another) for one, another in zip(base.stages, new.stages, strict=True)]


def compare_folders(base: Sequence[ModelResults], new: Sequence[ModelResults]) -> tuple[list[ComparisonLine], list[str]]:
    """The lines of all models of two folders that are compared, model by model, and the notes on them.

    Args:
        base: the models of the one folder.
        new: the models of the other folder.

    Raises:
        InputError: where no model is in both, or where images, probes, settings or threats differ.
    """
    pairs = compared_pairs(base, new)
    notes = [
        f"{results.checkpoint} is in {where} alone and is left out"
        for where, run, other in (("BASE", base, new), ("NEW", new, base))
        if len(base) > 1 or len(new) > 1
        for results in run
        if results.checkpoint not in {another.checkpoint for another in other}
    ]
    lines = [line for one, another in pairs for line in compare_results(one, another)]
    return lines, [*notes, *difference_notes(*pairs[0])]  # what is noted is of the folders, and the same for all models


def comparison_line(base: ModelResults, new: ModelResults, one: StageResult, another: StageResult) -> ComparisonLine:
    """One stage of both runs."""
    n, both = len(base.labels), len(one.standing & another.standing)
    only_base, only_new = len(one.standing) - both, len(another.standing) - both
    difference, low, high = paired_difference(both, only_base, only_new, n - both - only_base - only_new)
    return ComparisonLine(
        base.checkpoint, new.checkpoint, manifest_value(new.manifest, "data.name"), manifest_value(new.manifest, "data.split"), n,
        one.norm, one.eps, one.probe,
        one.setting, len(one.standing) / n, len(another.standing) / n, difference, low, high, only_base, only_new,
        mcnemar(only_base, only_new),
    )  # fmt: skip


def parse_gates(sentences: Sequence[str], probes: Sequence[str]) -> list[Gate]:
    """The gates that the sentences spell; without any, one that forbids any drop of the verdict.

    The verdict is the last probe on the images as they are: the suite's, under several threats that of each and of the worst.

    Args:
        sentences: each `PROBE:drop`, `PROBE:drop>1%` or `PROBE:drop>0.01`.
        probes: the names of the probes that were run, in their order.

    Raises:
        InputError: for what cannot be read, for a probe that was not run, and for drops of 100 % or more, which cannot be exceeded.

    Example:
        >>> parse_gates(["pgd:drop>1%"], ["clean", "pgd"])
        [Gate(probe='pgd', tolerance=Fraction(1, 100))]
    """
    verdict = [*(probe for probe in probes[:1]), *(probe for probe in probes if ON_SEPARATOR not in probe)][-1]
    return [parse_gate(sentence, probes) for sentence in sentences] or [Gate(verdict, Fraction(0))]


def parse_gate(sentence: str, probes: Sequence[str]) -> Gate:
    """The gate that one sentence spells."""
    match = GATE.fullmatch(sentence.strip())
    if match is None:
        raise InputError(f"cannot read the gate {sentence!r}: write PROBE:drop, PROBE:drop>1% or PROBE:drop>0.01")
    if match["probe"] not in probes:
        raise InputError(f"no probe {match['probe']!r} was run{did_you_mean(match['probe'], probes)}")
    try:
        tolerance = Fraction(match["number"] or 0) / (100 if match["percent"] else 1)
    except ZeroDivisionError:
        raise InputError(f"the gate {sentence!r} divides by zero") from None
    if tolerance >= 1:
        raise InputError(f"the gate {sentence!r} can never fail: no accuracy drops by more than 100 %; one percent is written drop>1%")
    return Gate(match["probe"], tolerance)


def gate_failures(gates: Sequence[Gate], lines: Sequence[ComparisonLine], alpha: float) -> list[str]:
    """A sentence with the numbers for each gate that fails, at each radius: the drop is larger than allowed, and p at most alpha.

    Args:
        gates: the gates.
        lines: the lines of the comparison.
        alpha: a drop counts if its McNemar p value is at most this, in (0, 1].
    """
    return [
        failure_sentence(gate, line, alpha)
        for gate in gates
        for line in lines
        if line.probe == gate.probe and gate_fails(gate, line, alpha)
    ]


def gate_fails(gate: Gate, line: ComparisonLine, alpha: float) -> bool:
    """Whether a gate fails; what is allowed is at least 0, so an improvement never does."""
    return Fraction(line.only_base - line.only_new, line.n) > gate.tolerance and line.p <= alpha


def failure_sentence(gate: Gate, line: ComparisonLine, alpha: float) -> str:
    """The sentence about a gate that failed."""
    threat = f" at {line.norm} eps {eps_text(line.eps)}" if line.norm else ""
    threat = " under the worst threat" if line.norm == WORST_NORM else threat
    fall, low, high = (-100 * value for value in (line.difference, line.high, line.low))
    return (
        f"{line.probe}{threat} fell from {100 * line.base:.2f} to {100 * line.new:.2f} %, by {fall:.2f} points where at most"
        f" {float(100 * gate.tolerance):g} may go: of {line.n} images {line.only_base} are lost and {line.only_new} won"
        f" (McNemar p = {line.p:.2g}, alpha {alpha:g}; 95 % interval of the fall {low:.2f} to {high:.2f} points)"
    )


def blind_gate_notes(gates: Sequence[Gate], n: int, alpha: float) -> list[str]:
    """A sentence for each gate that allows less than n images can show: so few lost ones are never significant.

    A gate that allows no drop is named only where that is more than BLIND_SHARE of the images; some drop is always too small.

    Args:
        gates: the gates.
        n: number of images that are compared.
        alpha: the level of significance, in (0, 1].
    """
    least = least_significant_count(alpha)
    told_apart = f"{least} of {n} images ({100 * least / n:.2f} %) are the fewest lost ones that differ from chance at alpha {alpha:g}"
    return [
        f"{gate.probe}: {told_apart}, so the gate passes any smaller drop: evaluate more images"
        for gate in gates
        if Fraction(least, n) > (gate.tolerance + Fraction(1, n) if gate.tolerance else BLIND_SHARE)
    ]


def write_comparison(out: Path, lines: Sequence[ComparisonLine]) -> Path:
    """Writes compare.csv into a folder, whole or not at all; returns its path.

    Args:
        out: the folder, which exists.
        lines: the lines of the comparison.
    """
    return write_whole({out / "compare.csv": frame_of_entries(lines, ComparisonLine).to_csv(index=False).encode()})[0]
