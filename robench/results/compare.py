"""Two finished runs side by side: refused where they are not alike, and compared row by row on the same images."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from robench.core.errors import InputError
from robench.core.files import write_whole
from robench.core.paired import SHARE, TESTS, VERDICT, WORST_CLASS, PairedValues, difference_interval, least_class_mean, p_of_margin
from robench.core.recipes import eps_text
from robench.core.rows import OUTPUTS_METRIC, WORST_NORM, Row
from robench.core.saved_results import manifest_value
from robench.core.statistics import Floats
from robench.results.files import csv_bytes, frame_of_entries
from robench.results.image_identities import ImageIdentity, image_identities, preprocessing_text
from robench.results.image_values import ImageValues, ModelImages, images_digest, model_images
from robench.results.saved_runs import SavedRun, saved_run
from robench.results.seed_means import SeedGroup, SeedLine, groups_of_seeds, paired_groups, seed_lines

NO_IDENTITY = ImageIdentity("", "")
FEWEST_IN_COMMON = 10  # images in common that a comparison needs
NOTED_WORDS = ("seed", "device", "versions.robench", "versions.torch", "versions.pyautoattack")
FLAG_METRIC, CHECK_METRIC = "flag/", "check/"
PIXELS_OF = "pixels of "  # before a corruption, where a manifest says by what the images of a set on the disk are known
RowKey = tuple[str, str, str, float, str]


@dataclass(frozen=True)
class ComparisonLine:
    """One line of compare.csv: one row, on the same n images of both runs.

    Attributes:
        base_run: the folder of BASE.
        base_checkpoint: the model of BASE, as the user named it.
        new_checkpoint: the model of NEW.
        data: the data set.
        split: its split.
        n: number of images that are compared.
        norm: the threat's norm, empty where there is none, "worst" for what stands under all threats.
        eps: the threat's radius, 0 where there is none.
        probe: what was done, as in `Row`.
        setting: its options, key=value.
        metric: what the numbers are, as in `Row`; of a probe the accuracy that it leaves.
        base: the number in BASE: a mean over these images, a fraction for accuracies.
        new: the number in NEW.
        difference: new - base.
        low: lower end of the interval of the difference.
        high: its upper end.
        only_base: number of images whose number is lower in NEW; of verdicts, those that stand in BASE alone.
        only_new: number of images whose number is higher in NEW.
        p: p value of no difference, two-sided.
        test: which test gave it.
    """

    base_run: str
    base_checkpoint: str
    new_checkpoint: str
    data: str
    split: str
    n: int
    norm: str
    eps: float
    probe: str
    setting: str
    metric: str
    base: float
    new: float
    difference: float
    low: float
    high: float
    only_base: int
    only_new: int
    p: float
    test: str


@dataclass(frozen=True, eq=False)
class ComparedRow:
    """A row that both runs have, with the numbers of the images that both have.

    Attributes:
        row: the row of NEW.
        values: the numbers of the images in both runs.
        about: run, checkpoint of BASE and of NEW, data set and split, as `ComparisonLine` has them.
    """

    row: Row
    values: PairedValues
    about: tuple[str, str, str, str, str]

    @property
    def base(self) -> float:
        """The number in BASE."""
        return self.mean(self.values.base)

    @property
    def new(self) -> float:
        """The number in NEW."""
        return self.mean(self.values.new)

    def mean(self, numbers: Floats) -> float:
        """The mean over the images; of the worst class over its own."""
        if self.values.kind == WORST_CLASS:
            return least_class_mean(self.values.labels, numbers)
        return float(numbers.mean()) if len(numbers) else math.nan

    def test_name(self, with_margin: bool) -> str:
        """How the test is called, with a margin or without."""
        if self.values.kind == VERDICT:
            return "Tango" if with_margin else "McNemar"
        return {SHARE: "Tango, clustered by image," if with_margin else "signs,", WORST_CLASS: "all classes,"}.get(
            self.values.kind, "bootstrap"
        )

    def line(self, alpha: float = 0.05) -> ComparisonLine:
        """The line of compare.csv.

        Args:
            alpha: of the interval, in (0, 1).
        """
        row, values, (run, one, other, data, split) = self.row, self.values, self.about
        low, high = difference_interval(values, alpha)
        return ComparisonLine(
            run, one, other, data, split, values.n, row.norm, row.eps, row.probe, row.setting, row.metric, self.base, self.new,
            values.difference, low, high, int((values.new < values.base).sum()),
            int((values.new > values.base).sum()), p_of_margin(values, 0.0), TESTS[values.kind],
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class RunImages:
    """A finished run with what is known of its images.

    Attributes:
        run: the run.
        models: its models.
    """

    run: SavedRun
    models: Sequence[ModelImages]

    @cached_property
    def groups(self) -> list[SeedGroup]:
        """Its models that differ in the seed of their training alone, put together."""
        return groups_of_seeds(self.run.manifest, self.models)

    def where(self, words: str) -> Any:
        """A value of the manifest under dotted keys."""
        return manifest_value(self.run.manifest, words)


@dataclass(frozen=True, eq=False)
class RunPair:
    """Two runs that are compared.

    Attributes:
        base: the earlier run.
        new: the later one.
        models: the models that are compared, on the images that both have seen.
        notes: sentences on what was left out.
        is_one_of_several: whether NEW is compared with other bases too, so that sentences name this one.
    """

    base: RunImages
    new: RunImages
    models: Sequence[tuple[ModelImages, ModelImages]]
    notes: Sequence[str] = ()
    is_one_of_several: bool = False

    @property
    def base_name(self) -> str:
        """The name of BASE's folder."""
        return self.base.run.folder.resolve().name

    @cached_property
    def compared(self) -> list[ComparedRow]:
        """The rows that both runs have, model by model in the order of NEW."""
        return [row for one, another in self.models for row in compared_rows(self, one, another)]

    def seed_lines(self, alpha: float) -> list[SeedLine]:
        """The rows of groups of seeds that both runs have, tested over images and over seeds; none where no side has several seeds.

        Args:
            alpha: of the intervals, in (0, 1).
        """
        seed = self.new.where("seed")
        return [
            line
            for one, another in paired_groups(self.base.groups, self.new.groups)
            for line in seed_lines(one, another, alpha, seed if isinstance(seed, int) else 0)
        ]

    @property
    def new_flags(self) -> list[tuple[str, str]]:
        """The name and the sentence of each flag that NEW raised and BASE did not; the name is empty where only the sentence is known."""
        base, new = (
            {flag_key(row, run): row for row in run.run.rows if row.metric.startswith(FLAG_METRIC)} for run in (self.base, self.new)
        )
        named = [(row.metric.removeprefix(FLAG_METRIC), flag_text(row, self.new)) for key, row in new.items() if key not in base]
        sentences = [flag for flag in self.new.run.flags if flag not in self.base.run.flags]
        return named if len(named) >= len(sentences) else [*named, *(("", one) for one in sentences)]

    @property
    def known_flags(self) -> set[str]:
        """The names of the flags that NEW looked at."""
        starts = (FLAG_METRIC, CHECK_METRIC)
        return {row.metric.partition("/")[2] for row in self.new.run.rows if row.metric.startswith(starts)}


def flag_key(row: Row, run: RunImages) -> tuple[str, str, str, float, str]:
    """What tells a flag from others: its name, what it was raised at, the threat, and the model where there are several."""
    return row.metric, row.probe, row.norm, row.eps, row.checkpoint if len(run.models) > 1 else ""


def flag_text(row: Row, run: RunImages) -> str:
    """A flag in words."""
    threat = f" at {row.norm} eps {eps_text(row.eps)}" if row.norm else ""
    model = f" of {row.checkpoint}" if len(run.models) > 1 else ""
    return f"{row.metric.removeprefix(FLAG_METRIC)} at {row.probe}{threat}{model}"


def run_images(folder: Path) -> RunImages:
    """The finished run in a folder, with what is known of its images.

    Args:
        folder: a results folder.

    Raises:
        InputError: one sentence, where it cannot be read, or its files contradict each other.
    """
    run = saved_run(folder)
    for words in ("data.name", "data.split", "data.n"):
        if manifest_value(run.manifest, words) is None:
            raise InputError(f"{folder / 'manifest.json'} does not say {words}: it is no manifest of a measuring command")
    if images_digest(run.manifest) is None:
        raise InputError(f"{folder / 'manifest.json'} does not say data.sha256: it is no manifest of a measuring command")
    return RunImages(run, model_images(run))


def run_pair(base: RunImages, new: RunImages, is_one_of_several: bool = False) -> RunPair:
    """Two runs ready to be compared: one model with one whatever they are called, else those of one name, on images in common.

    Args:
        base: the earlier run.
        new: the later one.
        is_one_of_several: whether NEW is compared with other bases too.

    Raises:
        InputError: where no name is in both, or the runs are not of the same images, attacks, settings and threats.
    """
    for words, what in (("data.name", "data set"), ("data.split", "split")):
        refuse_difference(what, base.where(words), new.where(words))
    pairs = models_of_both(base, new)
    for one, another in pairs:
        refuse_difference(
            "number of outputs among which labels are chosen (--outputs)", outputs_in_rows(base, one), outputs_in_rows(new, another)
        )
    models = [on_common_images(base, new, one, another) for one, another in pairs]
    for one, another in models:
        check_alike(base, new, one, another)
    both = {one.checkpoint for one, _ in models} | {another.checkpoint for _, another in models}
    both |= {model.checkpoint for run in (base, new) for group in run.groups if group.name in both for model in group.models}
    notes = [
        f"{model.checkpoint} is in {where} alone and is left out"
        for where, run in (("BASE", base), ("NEW", new))
        for model in run.models
        if model.checkpoint not in both
    ]
    pair = RunPair(base, new, models, notes, is_one_of_several)
    if not pair.compared:
        raise InputError("BASE and NEW have no row in common: they measure other things, or the same with other settings")
    return replace(pair, notes=[*notes, *difference_notes(pair)])


def outputs_in_rows(run: RunImages, model: ModelImages) -> str:
    """Among how many outputs the labels of a model are chosen: "all", or the number in its row."""
    counts = [row.value for row in run.run.rows if row.metric == OUTPUTS_METRIC and row.checkpoint == model.checkpoint]
    return f"{counts[0]:.0f}" if counts else "all"


def models_of_both(base: RunImages, new: RunImages) -> list[tuple[ModelImages, ModelImages]]:
    """The models that are compared: one with one, else those of one name, else groups of seeds, each as one model."""
    if len(base.models) == len(new.models) == 1:
        return [(base.models[0], new.models[0])]
    by_name = {model.checkpoint: model for model in new.models}
    models = [(model, by_name[model.checkpoint]) for model in base.models if model.checkpoint in by_name]
    if not models and (groups := paired_groups(base.groups, new.groups)):
        return [(one.images(), another.images()) for one, another in groups]
    if not models:
        one, other = (", ".join(model.checkpoint for model in run.models) for run in (base, new))
        raise InputError(
            f"BASE holds {one} and NEW holds {other}: of several models those of one name are compared, and no name is in both"
        )
    return models


def on_common_images(base: RunImages, new: RunImages, one: ModelImages, another: ModelImages) -> tuple[ModelImages, ModelImages]:
    """Two models on the images that both have seen, where a run on the same chosen images stopped early; others as they are.

    Raises:
        InputError: where fewer than FEWEST_IN_COMMON images are in common.
    """
    alike = chosen_count(base) == chosen_count(new) and not images_difference(base, new, one, another)
    early = any(run.where("data.n") != chosen_count(run) for run in (base, new))
    if one.labels.keys() == another.labels.keys() or not (alike and early):
        return one, another
    common = one.labels.keys() & another.labels.keys()
    if len(common) < FEWEST_IN_COMMON:
        raise InputError(
            f"BASE and NEW stopped early and have {len(common)} images in common: {FEWEST_IN_COMMON} are needed, so let them run for longer"
        )
    return images_among(one, common), images_among(another, common)


def images_among(model: ModelImages, common: Collection[int]) -> ModelImages:
    """A model on some of its images."""
    some = np.array(sorted(common))

    def among(values: ImageValues) -> ImageValues:
        mask = np.isin(values.ids, some)
        return replace(values, ids=values.ids[mask], labels=values.labels[mask], values=values.values[mask])

    labels = {sample: label for sample, label in model.labels.items() if sample in common}
    return replace(model, labels=labels, series=tuple(map(among, model.series)))


def chosen_count(run: RunImages) -> Any:
    """How many images a run was to see: more than it saw where it stopped early."""
    return next(n for words in ("data.chosen", "words.data.n", "data.n") if (n := run.where(words)) is not None)


def check_alike(base: RunImages, new: RunImages, one: ModelImages, another: ModelImages) -> None:
    """InputError unless both are of the same images, and by the same attacks with the same settings under the same threats.

    What other stages have in one run alone is left out of the comparison: attacks alone build on one another.
    """
    refuse_difference("number of images", len(one.labels), len(another.labels))
    other = sorted(one.labels.keys() ^ another.labels.keys())
    if other:
        raise InputError(f"BASE and NEW cannot be compared: only {'BASE' if other[0] in one.labels else 'NEW'} has image {other[0]}")
    for sample, label in one.labels.items():
        refuse_difference(f"label of image {sample}", label, another.labels[sample])
    if difference := images_difference(base, new, one, another):
        raise InputError(f"BASE and NEW cannot be compared: {difference}")
    sets = [run.where("data") for run in (base, new)]
    for key in (key for key in sets[0] if str(key).startswith(PIXELS_OF) and key in sets[1]):
        refuse_difference(f"digest of the images under {key.removeprefix(PIXELS_OF)}", *(words[key] for words in sets))
    stages, others = attack_accuracies(one), attack_accuracies(another)
    refuse_difference("list of radii", *(", ".join(map(eps_text, attack_radii(rows))) for rows in (stages, others)))
    refuse_difference("list of probes", *(", ".join(row.probe for row in rows) for rows in (stages, others)))
    for row, same in zip(stages, others, strict=True):
        refuse_difference(f"norm of {row.probe}", row.norm, same.norm)
        refuse_difference(f"eps of {row.probe}", row.eps, same.eps)
        refuse_difference(f"setting of {row.probe}", row.setting, same.setting)


def images_difference(base: RunImages, new: RunImages, one: ModelImages, another: ModelImages) -> str:
    """Why the images of two models are not the same, in words; "" where they are, or are the same ones resized and cut otherwise.

    They are where the hash of all of them, or of their files, is the same; else where each has the same file and pixels.
    """
    hashes = [images_digest(run.run.manifest) for run in (base, new)]
    files = [run.where("data.files") for run in (base, new)]
    if hashes[0] == hashes[1] or (files[0] is not None and files[0] == files[1]):
        return ""
    mine, theirs = image_identities(base.run.folder, one.checkpoint), image_identities(new.run.folder, another.checkpoint)
    common = [sample for sample in one.labels if sample in another.labels]
    if not common or any(not each.get(sample, NO_IDENTITY).digest for each in (mine, theirs) for sample in common):
        return f"the SHA-256 of the images is {hashes[0]} in BASE and {hashes[1]} in NEW"
    for sample in common:
        if mine[sample].file and theirs[sample].file and mine[sample].file != theirs[sample].file:
            return f"the file of image {sample} is {mine[sample].file} in BASE and {theirs[sample].file} in NEW"
    other = next((sample for sample in common if mine[sample].digest != theirs[sample].digest), None)
    if other is None or preprocessing_texts(base, new, one, another):
        return ""
    name = f" ({mine[other].file})" if mine[other].file else ""
    return f"the digest of the pixels of image {other}{name} is {mine[other].digest} in BASE and {theirs[other].digest} in NEW"


def preprocessing_texts(base: RunImages, new: RunImages, one: ModelImages, another: ModelImages) -> list[str]:
    """How the images of two models are resized and cut, in words, where it is not done alike; else none."""
    texts = [preprocessing_text(run.run.manifest, model.checkpoint) for run, model in ((base, one), (new, another))]
    return texts if texts[0] != texts[1] else []


def attack_accuracies(model: ModelImages) -> list[Row]:
    """What attacks leave of the accuracy."""
    return [values.row for values in model.series if values.row.metric == "accuracy" and values.row.norm]


def attack_radii(rows: Iterable[Row] | Iterable[ComparisonLine]) -> list[float]:
    """The radii of the attacks, each once, from the smallest.

    Args:
        rows: accuracies of a run, or lines of a comparison.
    """
    return sorted({row.eps for row in rows if row.norm and row.norm != WORST_NORM})


def refuse_difference(what: str, base: object, new: object) -> None:
    """InputError where two things differ that must be the same."""
    if base != new:
        raise InputError(f"BASE and NEW cannot be compared: the {what} is {base} in BASE and {new} in NEW")


def difference_notes(pair: RunPair) -> list[str]:
    """What differs between two comparable runs besides the model: seed, device and versions, which may move single verdicts, and rows.

    A flag that only NEW raised matters most where NEW looks better: its attacks may have failed.
    """
    base, new = pair.base, pair.new
    values = ((words, base.where(words), new.where(words)) for words in NOTED_WORDS)
    notes = [f"{words} is {one} in BASE and {another} in NEW" for words, one, another in values if one != another]
    seen, n = [run.where("data.n") for run in (base, new)], len(pair.models[0][0].labels)
    if n < max(seen):
        notes.append(f"BASE saw {seen[0]} and NEW {seen[1]} of the {chosen_count(base)} chosen images: compared are the {n} in common")
    for one, another in pair.models:
        if texts := preprocessing_texts(base, new, one, another):
            how = f"{texts[0]} in BASE, {texts[1]} in NEW"
            names = [image_identities(run.run.folder, model.checkpoint) for run, model in ((base, one), (new, another))]
            by = (
                "id and file name"
                if all(any(image.file for image in each.values()) for each in names)
                else ("id alone, as no file names tell whether they are the same images")
            )
            notes.append(f"images of {another.checkpoint} are resized and cut otherwise: {how}; they are matched by {by}")
    notes += [note for one, another in pair.models[:1] for note in lonely_row_notes(one, another)]
    return notes + [f"flag of NEW that BASE has not: {flag}" for flag in new.run.flags if flag not in base.run.flags]


def lonely_row_notes(one: ModelImages, another: ModelImages) -> Iterator[str]:
    """A sentence for each run that has rows which the other has not."""
    keys = [[row_key(values.row) for values in model.series] for model in (one, another)]
    for where, mine, others in (("BASE", *keys), ("NEW", *keys[::-1])):
        alone = [key for key in mine if key not in {*others}]
        if alone:
            probe, setting, metric, *_ = alone[0]
            first = f"{metric} of {probe}" + (f" with {setting}" if setting else "")
            yield f"{len(alone)} rows of {where} are in {where} alone and are left out, the first one {first}"


def row_key(row: Row) -> RowKey:
    """What a row must share with one of another run to be compared with it; the worst class may be another.

    Args:
        row: the row.
    """
    setting = "" if row.metric == "worst_class_accuracy" else row.setting
    return row.probe, setting, row.metric, row.eps, row.norm


def compared_rows(pair: RunPair, one: ModelImages, another: ModelImages) -> Iterator[ComparedRow]:
    """The rows that two models have in common, in the order of NEW."""
    of_base = {row_key(values.row): values for values in one.series}
    for values in another.series:
        before = of_base.get(row_key(values.row))
        if before is not None:
            data, split = (str(pair.new.where(words)) for words in ("data.name", "data.split"))
            about = str(pair.base.run.folder), one.checkpoint, another.checkpoint, data, split
            paired = paired_values(before, values, pair.new.where("seed"))
            if paired.n:  # a class may have no image among those in common, a score none that both have
                yield ComparedRow(values.row, paired, about)


def paired_values(base: ImageValues, new: ImageValues, seed: Any) -> PairedValues:
    """The numbers of the images that both rows have."""
    both, places, new_places = np.intersect1d(base.ids, new.ids, assume_unique=True, return_indices=True)
    kind = base.kind if base.kind == new.kind else SHARE  # one of several draws, the other all alike by chance
    return PairedValues(
        kind, base.values[places], new.values[new_places], new.labels[new_places], max(base.unit, new.unit),
        seed if isinstance(seed, int) else len(both),
    )  # fmt: skip


def write_comparison(out: Path, lines: Sequence[ComparisonLine]) -> Path:
    """Writes compare.csv into a folder, whole or not at all; returns its path.

    Args:
        out: the folder, which exists.
        lines: the lines of the comparison.
    """
    return write_whole({out / "compare.csv": csv_bytes(frame_of_entries(lines, ComparisonLine))})[0]
