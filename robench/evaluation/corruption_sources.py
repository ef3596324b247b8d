"""Accuracy under common corruptions: one or several models on the same corrupted images, made here or read from a released set.

Each corrupted image is made or read once and shown to every model; none is kept. A cell, one corruption at one severity on all images, is
an entry of the journal, so that a run can be taken up again after a kill.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robench.core.corruption_names import EVERY_NAME, ON_DISK, SETS
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.folders import can_go_on_by_budget
from robench.core.recipes import Recipe, did_you_mean, options_of, parse_recipe, resolve, setting_text
from robench.corruptions import CORRUPTIONS
from robench.corruptions import corrupted_images as under
from robench.corruptions.frost import photos_digest
from robench.corruptions.severities import scale_of
from robench.data import Images
from robench.data.class_names import LabelMapping
from robench.data.corrupted_sets import SYNTH
from robench.data.export import Export, StoreImages
from robench.data.released_sets import CorruptedSet
from robench.data.stored_pixels import StoredPixels, readable_rows
from robench.models.identity import file_digest
from robench.runs.costs import RunCosts
from robench.runs.own_functions import is_own, own_corrupted_images
from robench.runs.planned_costs import costs_of_run
from robench.runs.stages.clean import clean_stage
from robench.runs.stages.corruption import cell_stage, recipe_and_severity, refuse_severity
from robench.runs.types import Pixels, Pool, RunOptions, Stage

FOR_ALL = {"scale": "--scale", "photos": "the folder of frost photos with --frost-dir"}
PIXELS = "pixels of "  # before a corruption, the key of the digest of its images
SourceCell = tuple[str, int]


@dataclass(frozen=True, eq=False)
class CorruptionSource:
    """N corrupted images, asked for by corruption, severity and place.

    Attributes:
        name: as the rows spell it: cifar10-c (released), cifar10-c-synth (made here), ...
        split: of the data set.
        y: labels, (N,) int64.
        ids: sample ids, (N,) int64.
        classes: names of the classes, () where they have none.
        cells: each corruption with each of its severities.
        setting: words of every row, such as scale=cifar.
        pixels: pixels(corruption, severity, places (M,)) -> (M, C, H, W), uint8 or float in [0, 1].
        clean: clean(places) -> the clean images; None where they are not known.
        about: plain values that identify these images, for the journal.
        notes: sentences on them, for the reader.
        own: label -> the recipe of a corruption of the user's own.
        images: the clean images as a data set; None where they are not known.
        change: change(corruption, severity, places (M,), x) -> the images x, (M, C, H, W), corrupted; None for a set on the disk.
        skips_damaged: whether images that cannot be read are left out, in place of an error.
        expect: expect(corruption, severity, places) says which images will be asked for; None where none are decoded.
    """

    name: str
    split: str
    y: Tensor
    ids: Tensor
    classes: tuple[str, ...]
    cells: tuple[SourceCell, ...]
    setting: str
    pixels: Callable[[str, int, Tensor], Tensor]
    clean: Callable[[Tensor], Tensor] | None
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    own: Mapping[str, Recipe] = field(default_factory=dict)
    images: Images | None = None
    change: Callable[[str, int, Tensor, Tensor], Tensor] | None = None
    skips_damaged: bool = False
    expect: Callable[[str, int, Tensor], None] | None = None


def corruption_recipes(corruptions: Sequence[str | Recipe], on_disk: bool = False) -> tuple[Recipe, ...]:
    """The corruptions that sentences, and the words fifteen, nineteen and noise, stand for, each once.

    Args:
        corruptions: sentences such as "fog" or "mine.py:rain,severity=2", and recipes.
        on_disk: whether they are read from a set on the disk, which may have corruptions that robench does not make: those of C-bar and
            3DCC, alone or by the names of their sets.

    Raises:
        InputError: for an unknown one, for an option that it does not have, for one asked for with options in two ways, and for one that
            robench does not make where it is not read from a disk.
    """
    by_label: dict[str, Recipe] = {}
    for recipe in (parse_recipe(one) if isinstance(one, str) else one for one in corruptions):
        names = known_corruptions(recipe, on_disk)
        for name in names:
            corruption = replace(recipe, name=name)
            refuse_wrong_corruption(corruption)
            if by_label.setdefault(corruption.label, corruption) != corruption:
                raise InputError(
                    f"{corruption.label} is asked for in two ways: its rows could not be told apart; run one in a call of its own"
                )
    return tuple(by_label.values())


def known_corruptions(recipe: Recipe, on_disk: bool) -> tuple[str, ...]:
    """The corruptions that a recipe names. Raises InputError for an unknown one, and for one that only a set on the disk has."""
    name = recipe.name
    if name in ON_DISK or (name in EVERY_NAME and name not in CORRUPTIONS):
        if not on_disk:
            where = " or ".join(one for one, names in ON_DISK.items() if name in (one, *names))
            raise InputError(f"{name} comes from the files of {where} alone, for robench does not make it: name their folder with --from")
        return ON_DISK.get(name, (name,))
    if name not in SETS and name not in CORRUPTIONS and not is_own(name):
        more = [*ON_DISK, *EVERY_NAME] if on_disk else []
        raise InputError(f"unknown corruption {name!r}{did_you_mean(name, [*SETS, *CORRUPTIONS, *more])}")
    return SETS.get(name, (name,))


def refuse_wrong_corruption(recipe: Recipe) -> None:
    """Raises InputError for a corruption that cannot be made as its recipe says it, or not with the options that a table has for all."""
    plain, severity = recipe_and_severity(recipe)
    if recipe.name in EVERY_NAME and recipe.name not in CORRUPTIONS:
        refuse_severity(recipe, severity)
        if plain.options:
            raise InputError(f"{recipe.name} is read from a disk and has no option {next(iter(plain.options))}: leave it out")
        return
    resolve(plain, CORRUPTIONS, "corruption")
    refuse_severity(recipe, severity)
    idle = [] if is_own(recipe.name) else list(plain.options)
    if idle:
        raise InputError(f"{idle[0]} is the same for all of a table: leave it out, and pass {FOR_ALL[idle[0]]}")


def source_from_images(
    images: Images, corruptions: Sequence[str | Recipe], severities: Sequence[int], *, scale: str, photos: str, seed: int, device: str
) -> CorruptionSource:
    """The images under corruptions made here.

    Args:
        images: the clean images.
        corruptions: sentences and recipes.
        severities: of all whose recipes do not name one, from 1 to 5.
        scale: of the severities: "cifar", "imagenet", or "auto", by the size of the images.
        photos: a folder of frost photos, "" for the procedural texture.
        seed: of the draws.
        device: where they are made.

    Raises:
        InputError: for an unknown corruption, severity or scale, and for a scale or photos that nothing has a use for.
    """
    recipes = {recipe.label: recipe for recipe in corruption_recipes(corruptions)}
    own = {label: recipe for label, recipe in recipes.items() if is_own(label)}
    functions = {label: resolve(recipe_and_severity(recipe)[0], CORRUPTIONS, "corruption") for label, recipe in recipes.items()}
    if scale != "auto" and len(own) == len(recipes):
        raise InputError("--scale is for the corruptions that robench has, and none of those is asked for: leave it out")
    scale = scale_of(torch.empty(1, *images.shape), scale)
    if photos and "frost" not in recipes:
        raise InputError("--frost-dir is for the corruption frost, which is not among those asked for: leave it out")

    def pixels(corruption: str, severity: int, places: Tensor) -> Tensor:
        return change(corruption, severity, places, images.pixels(places))

    def change(corruption: str, severity: int, places: Tensor, x: Tensor) -> Tensor:
        more = {"photos": photos} if "photos" in options_of(functions[corruption]) and photos else {}
        x, ids = (x if x.is_floating_point() else x.float() / 255).to(device), images.ids[places].to(device)
        if corruption in own:
            return own_corrupted_images(functions[corruption], x, severity, Draws(seed, ids, "corrupt"), corruption)
        return under(x, ids, corruption, severity, seed=seed, scale=scale, **more)

    cells = tuple((label, severity) for label, recipe in recipes.items() for severity in recipe_severities(recipe, severities))
    frost = f" frost={'photos' if photos else 'procedural'}" if "frost" in recipes else ""
    about = {"n": len(images), "images": images.identity, "seed": seed, "scale": scale, "photos": photos_digest(photos)}
    about |= {"own": {label: own_corruption_identity(recipe) for label, recipe in own.items()}} if own else {}
    setting = f"scale={scale}{frost}" if len(own) < len(recipes) else ""
    return CorruptionSource(
        images.name + SYNTH, images.split, images.y, images.ids, images.classes, cells, setting, pixels, images.pixels, about, own=own,
        images=images, change=change,
    )  # fmt: skip


def recipe_severities(recipe: Recipe, severities: Sequence[int]) -> list[int]:
    """The severities at which a corruption is asked for: its own, else those of all."""
    return [recipe.options["severity"]] if "severity" in recipe.options else list(severities)


def own_corruption_identity(recipe: Recipe) -> dict[str, Any]:
    """What identifies a corruption of the user's own: its options, and the content of its file."""
    return {"options": dict(recipe_and_severity(recipe)[0].options), "sha256": file_digest(Path(recipe.name.rpartition(":")[0]))}


def source_from_set(corrupted: CorruptedSet, rows: Tensor, clean: Images | None) -> CorruptionSource:
    """The corrupted images of a set on the disk.

    Args:
        corrupted: the set.
        rows: which of its images, (N,) int64.
        clean: the same images uncorrupted, in the same order; None where they are not known.
    """
    digest = hashlib.sha256()
    for tensor in (corrupted.y[rows], corrupted.ids[rows]):
        digest.update(tensor.contiguous().numpy().tobytes())
    cells = tuple((corruption, severity) for corruption in corrupted.corruptions for severity in corrupted.severities)
    pixels = {f"{PIXELS}{name}": corrupted.digest(name, rows) for name in corrupted.corruptions}
    about = {
        "set": corrupted.name,
        "labels": digest.hexdigest(),
        "made": dict(corrupted.made),
        "clean": clean.identity if clean else "",
        **pixels,
    }
    keys = ("scale", "seed", *(("frost",) if "frost" in corrupted.corruptions else ()))
    words = (
        [f"layout={corrupted.layout}"] if corrupted.layout else [f"{key}={corrupted.made[key]}" for key in keys if key in corrupted.made]
    )
    words += [corrupted.words] if corrupted.words else []
    asked = corrupted.expect
    expect = None if asked is None else lambda corruption, severity, places: asked(corruption, severity, rows[places.cpu()])
    return CorruptionSource(
        corrupted.name, corrupted.split, corrupted.y[rows], corrupted.ids[rows], corrupted.classes, cells, " ".join(words),
        lambda corruption, severity, places: corrupted.load(corruption, severity, rows[places]).x[:],
        None if clean is None else clean.pixels, about, corrupted.notes, images=clean, expect=expect,
    )  # fmt: skip


def pool_of_source(source: CorruptionSource) -> Pool:
    """The pool of a source's images."""
    first = source.clean or partial(source.pixels, *source.cells[0])
    shape, skips = tuple(first_image_of(source).shape[1:]), leaves_damaged_out(source)
    return Pool(source.clean, source.y, source.ids, shape, mild=None if source.clean else first, source=source.images, skips_damaged=skips)


def leaves_damaged_out(source: CorruptionSource) -> bool:
    """Whether images of a source that cannot be read are left out, in place of an error."""
    stored = source.images.x if source.images is not None else None
    return source.skips_damaged or (isinstance(stored, StoredPixels) and stored.skips_damaged)


def first_image_of(source: CorruptionSource) -> Tensor:
    """The first image of a source that can be read, (1, C, H, W): the clean one where it is known."""
    first = source.clean or partial(source.pixels, *source.cells[0])
    return readable_rows(first, len(source.y), 1, leaves_damaged_out(source))[1]


def released_images(source: CorruptionSource) -> Images:
    """What a measurement needs to know of the images of a source: labels, ids, classes, and the shape; no pixels but the first."""
    x = first_image_of(source)
    return Images(source.name, source.split, x.expand(len(source.y), *x.shape[1:]), source.y, source.ids, source.classes)


def planned_export(source: CorruptionSource, *, batch_size: int, device: str) -> RunCosts:
    """What it costs to make all images of a source and to write them in 8 bits, without a model.

    Args:
        source: the images.
        batch_size: images at once.
        device: where they are made.
    """
    pool = pool_of_source(source)
    written = len(source.cells) * len(pool) * torch.Size(pool.shape).numel()
    return costs_of_run([], pool, stages_of_source(source), RunOptions(batch_size=batch_size, device=device), exported=written)


def stages_of_source(source: CorruptionSource) -> list[Stage]:
    """The clean pass, where the clean images are known, then each corruption at each severity."""
    clean = clean_stage() if source.clean is not None else None
    cells = [
        cell_stage(
            f"{name}-{severity}",
            name,
            severity,
            partial(source_pixels, source, name, severity),
            clean=clean,
            words=corruption_row_words(source, name),
            stage_words=own_corruption_settings(source, name),
            expect=None if source.expect is None else partial(source.expect, name, severity),
        )
        for name in dict.fromkeys(name for name, _ in source.cells)
        for other, severity in source.cells
        if other == name
    ]
    return [*([clean] if clean else []), *cells]


def corruption_row_words(source: CorruptionSource, corruption: str) -> dict[str, Any]:
    """What the rows of a corruption of a source need to know."""
    recipe = source.own.get(corruption)
    setting = " ".join(own_corruption_settings(source, corruption)) if recipe else source.setting
    return {"setting": setting, "data": source.name, "split": source.split, **({"recipe": recipe} if recipe else {})}


def own_corruption_settings(source: CorruptionSource, corruption: str) -> list[str]:
    """The options of a corruption of the user's own, as a setting; none for another."""
    recipe = source.own.get(corruption)
    return [setting_text(resolve(recipe_and_severity(recipe)[0], CORRUPTIONS, "corruption"))] if recipe else []


def source_pixels(source: CorruptionSource, corruption: str, severity: int, places: Tensor, before: Pixels) -> Tensor:
    """The images of a source in one cell: what `before` gives, corrupted here, or those of a set on the disk."""
    return (
        source.pixels(corruption, severity, places)
        if source.change is None
        else source.change(corruption, severity, places, before(places))
    )


class ExportTaker(ExitStack):
    """Hands the images of corruptions to an export, file by file; those that are there already are passed over."""

    def __init__(self, target: Export) -> None:
        super().__init__()
        self.target, self.corruption = target, ""
        self.put: StoreImages | None = None

    def wants(self, stage: Stage) -> bool:
        """Whether the images of a stage are still to be written."""
        if stage.kind != "corruption":
            return False
        return stage.about["corruption"] == self.corruption or not self.target.has_corruption(stage.about["corruption"])

    def take(self, stage: Stage, places: Tensor, x: Tensor) -> None:
        """Writes some images."""
        if stage.about["corruption"] != self.corruption:
            self.close()
            self.corruption = stage.about["corruption"]
            self.put = self.enter_context(self.target.array_writer(self.corruption))
        assert self.put is not None
        self.put(stage.about["severity"], places, x)


def only_adds(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a run asks for what another did and for more: corruptions, severities, models, or a reference where there was none.

    Args:
        theirs: the header of the earlier run's state, or its words.
        ours: that of this run.
    """
    each = ("models", "names", "subjects", "architectures", "architecture", "weights", "modules", "code")  # models, then the reference
    entries = ("code of recipes", "own")  # by file, and by label
    grown = (*each, *entries, "cells", "stages", "measured", "reference", "surrogates")
    same = {key: value for key, value in theirs.items() if key not in (*grown, "budget")}
    more = {key for key in {*ours} - {*theirs} if not key.startswith(PIXELS) and key != "own"}
    count = len(theirs.get("models", theirs.get("subjects", ())))
    return (
        not more
        and can_go_on_by_budget(theirs, ours)
        and all(ours.get(key) == value for key, value in same.items())
        and all(ours.get(key, {}).get(name) == value for key in entries for name, value in theirs.get(key, {}).items())
        and all(cell in ours.get(key, []) for key in ("cells", "stages") for cell in theirs.get(key, []))
        and all(ours.get(key, [])[: len(theirs[key])] == theirs[key] for key in each if key in theirs)
        and theirs.get("measured") in (ours.get("measured"), count)  # a reference does not become a model
        and theirs.get("reference", "") in ("", ours.get("reference", ""))
    )


def relabelled_source(source: CorruptionSource, labels: LabelMapping) -> CorruptionSource:
    """The same images under the labels of the models' outputs; a state that was begun with other labels cannot go on.

    Args:
        source: the images under the labels of the data set.
        labels: label of the data set -> output of the models.
    """
    if not labels.changes_labels:
        return replace(source, classes=labels.classes)
    about = {**source.about, "outputs": labels.outputs}
    return replace(source, y=torch.tensor(labels.outputs)[source.y], classes=labels.classes, about=about)
