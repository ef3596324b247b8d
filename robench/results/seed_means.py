"""Models of a run that differ in the seed of their training alone, as one: means over seeds, image by image and seed by seed.

Which models belong together is told by the words of their checkpoints, as the manifest keeps them, and not by their names: the same
recipe, data and numbers of images, and another seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robench.core.paired import SCORE, SHARE, TESTS, WORST_CLASS, PairedValues, difference_interval, p_of_margin
from robench.core.rows import Row
from robench.core.seed_statistics import seed_mean, welch_test
from robench.results.image_values import ImageValues, ModelImages

RowWords = tuple[str, str, str, float, str]
SIBLING_ENDS = (".last", ".best")  # of the weights of another epoch beside a checkpoint
ONE_SEED = "one seed on a side: its spread over seeds is not known, so that seeds cannot be tested"


@dataclass(frozen=True, eq=False)
class SeedGroup:
    """Models that differ in the seed of their training alone.

    Attributes:
        name: what their names have in common, with the number of seeds.
        seeds: of the trainings, ascending.
        models: one a seed, in the same order.
    """

    name: str
    seeds: tuple[int, ...]
    models: tuple[ModelImages, ...]

    def series(self) -> dict[RowWords, list[ImageValues]]:
        """The numbers of the images behind each row that all models have on the same images, one a seed; without the worst class."""
        each = [{row_words(values.row): values for values in model.series} for model in self.models]
        shared = [key for key, first in each[0].items() if first.kind != WORST_CLASS and all(key in one for one in each)]
        found = {key: [one[key] for one in each] for key in shared}
        return {key: some for key, some in found.items() if all(np.array_equal(values.ids, some[0].ids) for values in some)}

    def images(self) -> ModelImages:
        """The group as one model, which has on each image the mean over the seeds; a single model as it is."""
        if len(self.models) == 1:
            return self.models[0]
        series = tuple(mean_series(found, self.name) for found in self.series().values())
        return ModelImages(self.name, self.models[0].labels, series)


@dataclass(frozen=True)
class SeedLine:
    """A row of two groups of seeds, tested over images and over seeds.

    Attributes:
        base_group: the models of BASE, in a name.
        new_group: those of NEW.
        probe: what was done, as in `Row`.
        setting: its options.
        metric: what the numbers are.
        norm: of the threat.
        eps: its radius.
        n: number of images.
        base: the mean over seeds in BASE.
        base_sd: standard deviation over its seeds, nan for one.
        base_seeds: how many seeds.
        new: the mean over seeds in NEW.
        new_sd: standard deviation over its seeds.
        new_seeds: how many seeds.
        difference: new - base.
        low: lower end of the interval of the difference over images.
        high: its upper end.
        p_images: p value of no difference between these networks, over images; of each image the mean over seeds is taken.
        test_images: which test gave it.
        t: Welch's t over the seeds; nan where a side has one seed.
        df: its degrees of freedom.
        p_seeds: its p value: of no difference between trainings with other seeds.
        note: why seeds were not tested; "" where they were.
    """

    base_group: str
    new_group: str
    probe: str
    setting: str
    metric: str
    norm: str
    eps: float
    n: int
    base: float
    base_sd: float
    base_seeds: int
    new: float
    new_sd: float
    new_seeds: int
    difference: float
    low: float
    high: float
    p_images: float
    test_images: str
    t: float
    df: float
    p_seeds: float
    note: str

    @property
    def row(self) -> Row:
        """The row of NEW."""
        return Row(
            self.new_group, "", "", "", self.n, 0, self.norm, self.eps, self.probe, self.setting, self.metric, self.new,
        )  # fmt: skip


def row_words(row: Row) -> RowWords:
    """What tells a row from others of one model."""
    return row.probe, row.setting, row.metric, row.eps, row.norm


def mean_series(found: Sequence[ImageValues], name: str) -> ImageValues:
    """The mean over seeds of each image: a share, or a score."""
    values = np.mean([one.values for one in found], axis=0)
    row = replace(found[0].row, checkpoint=name, value=float(values.mean()), low=math.nan, high=math.nan, interval="")
    kind = SCORE if any(one.kind == SCORE for one in found) else SHARE
    return replace(found[0], row=row, kind=kind, values=values, unit=max(one.unit for one in found))


def groups_of_seeds(manifest: Mapping[str, Any], models: Sequence[ModelImages]) -> list[SeedGroup]:
    """The groups of a run, in the order of its models; a model with no other seed is a group of one.

    Models whose manifest does not say how they were trained are in no group, and so are two of one recipe with the same seed.

    Args:
        manifest: of the run.
        models: of the run.
    """
    trainings = trainings_by_name(manifest)
    by_key: dict[str, list[ModelImages]] = {}
    for model in models:
        if (found := trainings.get(model.checkpoint)) is not None:
            by_key.setdefault(json.dumps([found.get("recipe"), found.get("data")], sort_keys=True, default=str), []).append(model)
    groups = []
    for some in by_key.values():
        seeds = [trainings[model.checkpoint]["seed"] for model in some]
        if len({*seeds}) == len(seeds):
            ordered = sorted(zip(seeds, some, strict=True), key=lambda pair: pair[0])
            name = group_name([model.checkpoint for _, model in ordered])
            groups.append(SeedGroup(name, tuple(seed for seed, _ in ordered), tuple(model for _, model in ordered)))
    return groups


def trainings_by_name(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a manifest says of the training of each model by its name, where it says recipe and seed."""
    said = manifest.get("checkpoint")
    each = [one for one in (said if isinstance(said, list) else [said]) if isinstance(one, Mapping)]
    found = {str(one.get("name")): one.get("training") for one in each}
    return {
        name: words
        for name, words in found.items()
        if isinstance(words, Mapping) and words.get("recipe") and type(words.get("seed")) is int
    }


def group_name(names: Sequence[str]) -> str:
    """What names have in common, with how many there are; one name as it is."""
    if len(names) == 1:
        return names[0]
    shared = names[0]
    while not all(name.startswith(shared) for name in names):
        shared = shared[:-1]
    shared = shared.rstrip("0123456789").rstrip("-_. ").removesuffix("seed").rstrip("-_. ") or names[0]
    return f"{shared} ({len(names)} training seeds)"


def paired_groups(base: Sequence[SeedGroup], new: Sequence[SeedGroup]) -> list[tuple[SeedGroup, SeedGroup]]:
    """The groups that are compared: one with one whatever they are called, else those of one name; at least one side has several seeds.

    Args:
        base: the groups of BASE.
        new: those of NEW.
    """
    base, new = (without_siblings(groups) for groups in (base, new))
    if len(base) == len(new) == 1:
        pairs = [(base[0], new[0])]
    else:
        of_base = {shared_stem(group): group for group in base}
        pairs = [(of_base[shared_stem(group)], group) for group in new if shared_stem(group) in of_base]
    return [pair for pair in pairs if max(len(group.seeds) for group in pair) > 1]


def without_siblings(groups: Sequence[SeedGroup]) -> Sequence[SeedGroup]:
    """The groups without those of FILE.last.pt or FILE.best.pt, which `FILE-seed*.pt` names too, where others are left."""
    chosen = [group for group in groups if not all(Path(model.checkpoint).stem.endswith(SIBLING_ENDS) for model in group.models)]
    return chosen or groups


def shared_stem(group: SeedGroup) -> str:
    """The name of a group without the number of its seeds."""
    return group.name.partition(" (")[0]


def seed_lines(base: SeedGroup, new: SeedGroup, alpha: float, seed: int) -> Iterator[SeedLine]:
    """Each row that two groups have in common, tested over images and over seeds.

    Over images: of each image the difference of the means over seeds, so that all verdicts of an image are one cluster, with the tests of
    shares and scores of `core.paired`. It speaks of these networks. Over seeds: Welch's t test of the numbers of the networks
    (`core.seed_statistics.welch_test`), on the images that both groups have. It speaks of trainings with other seeds.

    Args:
        base: the group of BASE.
        new: that of NEW.
        alpha: of the interval, in (0, 1).
        seed: of the resamples of scores.
    """
    of_base = base.series()
    for key, found in new.series().items():
        if key in of_base and (line := seed_line(base, new, of_base[key], found, alpha, seed)) is not None:
            yield line


def seed_line(
    base: SeedGroup, new: SeedGroup, before: Sequence[ImageValues], after: Sequence[ImageValues], alpha: float, seed: int
) -> SeedLine | None:
    """One row of two groups; None where they have no image in common."""
    ids, places, new_places = np.intersect1d(before[0].ids, after[0].ids, assume_unique=True, return_indices=True)
    if not len(ids):
        return None
    one, other = np.stack([each.values[places] for each in before]), np.stack([each.values[new_places] for each in after])
    kind = SCORE if SCORE in (before[0].kind, after[0].kind) else SHARE
    unit = max(each.unit for each in (*before, *after))
    images = PairedValues(kind, one.mean(0), other.mean(0), after[0].labels[new_places], unit, seed)
    low, high = difference_interval(images, alpha)
    means, others = seed_mean(one.mean(1)), seed_mean(other.mean(1))
    testable = min(means.count, others.count) > 1
    t, df, p_seeds = welch_test(one.mean(1), other.mean(1)) if testable else (math.nan, math.nan, math.nan)
    row = after[0].row
    return SeedLine(
        base.name, new.name, row.probe, row.setting, row.metric, row.norm, row.eps, len(ids), means.mean, means.sd, means.count,
        others.mean, others.sd, others.count, others.mean - means.mean, low, high, p_of_margin(images, 0.0), TESTS[kind], t, df, p_seeds,
        "" if testable else ONE_SEED,
    )  # fmt: skip
