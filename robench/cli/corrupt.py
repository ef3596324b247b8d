"""`robench corrupt`: accuracy under common corruptions: finds the images, measures models on them or writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robench.cli import options as o
from robench.cli.calls import repetition_entries
from robench.cli.console import image_progress, print_costs, print_message
from robench.cli.jobs import refuse_several_processes, subjects_text
from robench.cli.loading import (
    BATCH_SIZE,
    DEFAULT_IMAGE_LIMIT,
    LoadedSubject,
    asked_labels,
    checkpoint_words,
    images_by_options,
    images_of_models,
    labelled_models,
    missing_classes_note,
    opened_models,
    print_image_notes,
    refuse_other_orders,
    relabelled_images,
    set_up_device,
    told_models,
    training_data_name,
    ways_of_models,
)
from robench.cli.measure import RunDescription, batch_size_of, measure_and_report
from robench.cli.options import CommonOptions, with_option_groups
from robench.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from robench.core.folders import Destination
    from robench.core.preprocessing import Preprocessing
    from robench.core.recipes import Recipe
    from robench.data import Choice, Images
    from robench.data.export import Export
    from robench.data.released_sets import CorruptedSet
    from robench.evaluation.corruption_sources import CorruptionSource
    from robench.evaluation.sequence_sources import SequenceSource
    from robench.models import LoadedModel
    from robench.report.result import Result
    from robench.runs.types import Subject as Measured

ROBUSTBENCH_ROWS = 10_000  # images of a severity, whatever the length of the files, in RobustBench's loader of CIFAR-10-C and CIFAR-100-C
USELESS_FOR_SEQUENCES = ("data_dir", "image_size", "resize", "interpolation", "workers", "layout", "class_order")


@with_option_groups
def corrupt_command(
    common: CommonOptions,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL...]", help="Checkpoints, weights with --arch, file.py:factory, ...; none to export images alone."),
    ] = None,
    corruption: Annotated[
        list[str] | None,
        typer.Option(
            "--corruption",
            help="NAME[,severity=3], fifteen, nineteen, noise or file.py:function; several by commas or repeated: see 'robench list "
            "corruptions'. With --from also imagenet-c-bar, cifar10-c-bar, imagenet-3dcc and what these hold.",
        ),
    ] = None,
    severity: Annotated[
        o.Severities | None,
        typer.Option(
            "--severity",
            parser=o.parse_severities,
            metavar="S[,S...]",
            help="Severities. Default: all five; of sequences the difficulty, 1.",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="A set on the disk: CIFAR-10-C, ImageNet-C, C-bar, 3DCC; sequences: CIFAR-10-P, ImageNet-P.",
        ),
    ] = None,
    scale: o.Scale = "auto",
    frost_dir: o.FrostDir = None,
    save: Annotated[bool, typer.Option("--save", help="Write the corrupted images to x-NAME-SEVERITY.npy, as floats.")] = False,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="MODEL|alexnet", help="The model by whose errors the others' are divided (mCE)."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Write the images made here into DIR in the layout of CIFAR-10-C.")
    ] = None,
) -> None:
    """Measures accuracy under common corruptions, made here or read from a released set, or label flips along sequences; or only writes
    the images.

    Example: robench corrupt MODEL --corruption nineteen --reference STANDARD.pt
    """
    from robench.core.recipes import parse_recipe, split_recipes
    from robench.data.perturbed_sequences import holds_sequences
    from robench.evaluation.corruption_sources import corruption_recipes

    sentences, moving = split_recipes(corruption or ["fifteen"]), source is not None and holds_sequences(source)
    recipes = tuple(map(parse_recipe, sentences)) if moving else corruption_recipes(sentences, on_disk=source is not None)
    options = CorruptOptions(
        recipes, severity.values if severity else (1, 2, 3, 4, 5), bool(corruption), bool(severity), source, scale, str(frost_dir or ""),
        reference, export, save,
    )  # fmt: skip
    (run_sequences if moving else run_corrupt)(models or [], options, common)


@dataclass(frozen=True)
class CorruptOptions:
    """What the user asked of corruptions.

    Attributes:
        corruptions: the corruptions, each once.
        severities: severities of all whose recipes do not name one, 1 to 5.
        names_corruptions: whether the user named corruptions.
        names_severities: whether the user named severities.
        source: folder of a set on the disk, None for images that are made here.
        scale: severities of "cifar" or "imagenet", or "auto" by the size of the images.
        photos: folder of frost photos, "" for a texture that is drawn here.
        reference: model by whose errors others are divided, "alexnet", or None.
        export: folder into which the images are written, None for none.
        save: whether the corrupted images are written beside the results, as floats.
    """

    corruptions: tuple[Recipe, ...]
    severities: tuple[int, ...]
    names_corruptions: bool
    names_severities: bool
    source: Path | None
    scale: str
    photos: str
    reference: str | None
    export: Path | None
    save: bool = False


def run_corrupt(models: Sequence[str], options: CorruptOptions, common: CommonOptions) -> None:
    """Measures the models on corrupted images, or writes the images, or both.

    Args:
        models: the models, as the command line spells them; none to write the images alone.
        options: what the user asked of corruptions.
        common: options that every measuring command has.
    """
    refuse_corrupt_options(models, options, common)
    if options.export is not None:
        refuse_several_processes("an export of corrupted images")
    on = set_up_device(common.device, common.threads)
    with export_lock(None if common.plan else options.export):
        each, source, notes = images_and_source(models, options, common, on)
        target = partial(export_target, each[0], source, options, common)  # made when --out is this run's
        if models:
            measure_corrupted_images(models, each, source, notes, options, common, on, target)
            return
        if images_missed := missing_classes_note(source.y, source.classes):
            print_message(f"Note: {images_missed}", common.quiet)
        if common.plan:
            print_export_plan(source, common, on)
            return
        write_export(source, target(), common, on)


def print_export_plan(source: CorruptionSource, common: CommonOptions, device: str) -> None:
    """Prints what an export without models will cost."""
    from robench.evaluation.corruption_sources import planned_export

    costs = planned_export(source, batch_size=common.batch_size or BATCH_SIZE, device=device)
    print_costs(costs, f"Plan of an export of {source.name} {source.split}, n = {len(source.y)}", None, common.quiet)


@contextmanager
def export_lock(folder: Path | None) -> Iterator[None]:
    """The folder of an export for this run alone; InputError where another run writes there."""
    from robench.core.files import hold_lock, prepare_folder

    if folder is None:
        yield
        return
    with hold_lock(prepare_folder(folder) / ".lock", folder):
        yield


def measure_corrupted_images(
    models: Sequence[str], each: Sequence[Images], source: CorruptionSource, notes: Sequence[str], options: CorruptOptions,
    common: CommonOptions, on: str, export: Callable[[], Export | None],
) -> None:  # fmt: skip
    """What `run_corrupt` does where there are models."""
    from robench.evaluation import api
    from robench.evaluation.corruption_sources import only_adds, relabelled_source
    from robench.models.output_choice import refuse_others_beside_choice

    asked = asked_labels(common)
    shown = each
    loaded, each, labels = labelled_models(models, shown[: len(models)], asked, notes, on, common, source.y)
    source, images = relabelled_source(source, labels), each[0]
    beside = images if shown[-1] is shown[0] else relabelled_images(shown[-1:], labels)[0]  # the images of a reference
    if options.reference not in (None, "alexnet"):
        refuse_others_beside_choice(loaded, [str(options.reference)], "reference")
        refuse_other_orders(source.classes, [str(options.reference)], asked.way, "reference")
    subjects = [LoadedSubject(one, its, "", (), on, asked.way) for one, its in zip(loaded, each, strict=True)]
    reference = load_reference(options, images, beside, source, common, on)
    results: list[Result] = []

    def measure(place: Destination, quiet: bool) -> Result:
        target = None if common.plan else export()
        results.append(api.corrupt(
            [subject_on_source(one, source, images) for one in subjects], source, reference=reference, target=target, seed=common.seed,
            batch_size=batch_size_of(subjects[0], common), device=on, budget=common.budget, folder=place, resume=place.resume,
            track=image_progress(quiet), save=place.work if options.save else None,
        ))  # fmt: skip
        if target is not None:
            target.replace_earlier_set()
        return results[0]

    words, arrays = corrupt_words(subjects, source, reference, options, common), ["x-*.npy"] * options.save
    entries = {**corrupt_entries(source), **repetition_entries()}
    run = RunDescription("corrupt", corrupt_title(subjects, source, common), words, entries, arrays, only_adds)
    measure_and_report(subjects, run, common, measure)
    if common.plan and options.export is not None:
        print_export_plan(source, common, on)
    elif options.export is not None and not results:
        write_export(source, export(), common, on)


def corrupt_words(
    subjects: Sequence[LoadedSubject], source: CorruptionSource, reference: Any, options: CorruptOptions, common: CommonOptions
) -> dict[str, Any]:
    """What was asked of a run, as plain JSON values: everything that its numbers depend on."""
    beside = [reference] if is_model(reference) else []
    return {
        "command": "corrupt", "checkpoint": checkpoint_words([one.loaded for one in subjects]), "source": source.name, **source.about,
        "cells": [list(cell) for cell in source.cells], "names": [*(one.loaded.name for one in subjects), *(one.name for one in beside)],
        "measured": len(subjects), "reference": options.reference or "",
        "models": [*(one.loaded.sha256 for one in subjects), *(one.sha256 for one in beside)],
        **({"budget": common.budget} if common.budget is not None else {}), **({"save": True} if options.save else {}),
    }  # fmt: skip


def corrupt_title(subjects: Sequence[LoadedSubject], source: CorruptionSource, common: CommonOptions) -> str:
    """The title of tables and pictures; {n} is the number of images."""
    what = f"{subjects_text(subjects)} on {source.name} {source.split}"
    return ", ".join(filter(None, (what, "n = {n}", source.setting, f"seed {common.seed}")))


def corrupt_entries(source: CorruptionSource) -> dict[str, Any]:
    """What the manifest says of the images and of the reference."""
    from robench.results.corruption_errors import manifest_reference

    images = {"images": source.about["labels"]} if "labels" in source.about else {}  # of a set on the disk: its ids and labels
    data = {"name": source.name, "split": source.split, "n": len(source.y), **images, **source.about}
    return {"data": data, "corruptions": lambda result: {"reference": manifest_reference(result.reference, source.clean is not None)}}


def is_model(reference: Any) -> bool:
    """Whether a reference is a model that is measured along."""
    from robench.runs.types import Subject as Measured

    return isinstance(reference, Measured)


def subject_on_source(one: LoadedSubject, source: CorruptionSource, first: Images | None = None) -> Measured:
    """A model under the name of its rows; `first` are the images of the run, where those of the model may differ."""
    subject = one.run_subject(first)
    return replace(subject, about=replace(subject.about, data=source.name, split=source.split))


def load_reference(
    options: CorruptOptions, images: Images, its: Images, source: CorruptionSource, common: CommonOptions, on: str
) -> Any:  # fmt: skip
    """The model by whose errors others are divided, with its own pixels of the images, the published errors of AlexNet, or None."""
    from robench.evaluation.arguments import as_reference as known

    if options.reference in (None, "alexnet"):
        return known(options.reference, images, source)
    one = one_more_model(str(options.reference), its, on, common)
    return subject_on_source(LoadedSubject(one, its, "", (), on), source, images)


def one_more_model(model: str, images: Images, on: str, common: CommonOptions) -> LoadedModel:
    """A model that is measured along, under the labels of the others; the options of loading are those of the others alone."""
    alone = CommonOptions(download=common.download)
    try:
        loaded = opened_models([model], [images], on, alone)
    except InputError as error:
        raise InputError(f"the reference {model}: {str(error).removeprefix(f'{model}: ')}") from error
    return told_models(loaded, [images], [], on, common, None)[0]


def refuse_corrupt_options(models: Sequence[str], options: CorruptOptions, common: CommonOptions) -> None:
    """InputError for options that do not go together."""
    if not models and options.export is None:
        raise InputError("name a model to measure, or a folder with --export to write the images into")
    if options.export is not None and options.source is not None:
        raise InputError("--export writes images that are made here: leave --from out")
    if options.export is not None and options.names_severities and len(options.severities) < 5:
        raise InputError("--export writes all five severities, as the layout of CIFAR-10-C needs them: leave --severity out")
    refuse_unfit_corruptions(options)
    if options.export is not None and common.budget is not None:
        raise InputError("--export writes all images: leave --budget out")
    if common.force and options.export is None and common.out is None:
        raise InputError("--force replaces the run in --out, or the set in --export: name a folder, or leave it out")
    if options.source is not None and (options.photos or options.scale != "auto"):
        raise InputError("--frost-dir and --scale are for images that are made here: leave them out, or leave --from out")
    if not models and (common.resume or common.out is not None or options.reference or options.save):
        raise InputError("--out, --resume, --save and --reference belong to a measurement: name a model, or leave them out")


def refuse_unfit_corruptions(options: CorruptOptions) -> None:
    """InputError for corruptions that an export or a set on the disk cannot have."""
    from robench.runs.own_functions import is_own

    where = "--export" if options.export is not None else "--from" if options.source is not None else ""
    for recipe in options.corruptions if where else ():
        if is_own(recipe.label):
            what = (
                "the layout of CIFAR-10-C, which --export writes, has"
                if where == "--export"
                else "a set on the disk, which --from reads, has"
            )
            raise InputError(f"{what} no {recipe.label}: measure it without {where}")
        if "severity" in recipe.options:
            instead = "it writes all five" if where == "--export" else "name severities with --severity"
            raise InputError(f"{where} does not know the severity of {recipe.label} alone: leave severity= out, {instead}")


def run_sequences(models: Sequence[str], options: CorruptOptions, common: CommonOptions) -> None:
    """Measures the models on the sequences of a folder, such as CIFAR-10-P or ImageNet-P: how often their labels flip.

    Args:
        models: the models, as the command line spells them.
        options: what the user asked of corruptions; severities are difficulties here.
        common: options that every measuring command has.
    """
    from robench.evaluation import api
    from robench.evaluation.corruption_sources import only_adds
    from robench.evaluation.sequence_sources import first_frame_images
    from robench.models.forgotten_normalisation import NORMALISATION_IMAGES

    refuse_corrupt_options(models, options, common)
    refuse_sequence_options(options, common)
    on, source = set_up_device(common.device, common.threads), sequence_source(options, common)
    images = first_frame_images(source, NORMALISATION_IMAGES)
    frames = [images] * len(models)
    loaded = told_models(opened_models(models, frames, on, common), frames, [], on, common, None)
    subjects = [LoadedSubject(one, images, "", (), on) for one in loaded]
    beside = one_more_model(str(options.reference), images, on, common) if options.reference else None
    reference = LoadedSubject(beside, images, "", (), on).run_subject() if beside else None

    def measure(place: Destination, quiet: bool) -> Result:
        return api.corrupt(
            [one.run_subject() for one in subjects], source, reference=reference, seed=common.seed,
            batch_size=common.batch_size or BATCH_SIZE, device=on, budget=common.budget, folder=place, resume=place.resume,
            track=image_progress(quiet),
        )  # fmt: skip

    everyone = [*loaded, *([beside] if beside else [])]
    words = {
        "command": "corrupt", "checkpoint": checkpoint_words(loaded), "source": source.name, **source.about,
        "cells": [list(cell) for cell in source.cells], "names": [one.name for one in everyone], "measured": len(subjects),
        "reference": options.reference or "", "models": [one.sha256 for one in everyone],
        **({"budget": common.budget} if common.budget is not None else {}),
    }  # fmt: skip
    title = ", ".join(filter(None, (f"{subjects_text(subjects)} on {source.name}", "n = {n}", source.setting, f"seed {common.seed}")))
    data = {"name": source.name, "split": source.split, "n": len(source.ids), **source.about}
    entries = {"data": data, "sequences": {"reference": beside.name if beside else ""}, **repetition_entries()}
    measure_and_report(subjects, RunDescription("corrupt", title, words, entries, [], only_adds), common, measure)


def sequence_source(options: CorruptOptions, common: CommonOptions) -> SequenceSource:
    """The chosen sequences of the folder, with its notes told."""
    from robench.data.perturbed_sequences import read_sequence_set
    from robench.evaluation.sequence_sources import source_from_sequences

    assert options.source is not None
    names = [recipe.name for recipe in options.corruptions] if options.names_corruptions else None
    data = read_sequence_set(options.source, names, options.severities if options.names_severities else (1,))
    source = source_from_sequences(data, data.rows(choice_of_rows(common.image_options(), common.seed)))
    source = replace(source, skips_damaged=common.skip_damaged)
    for note in source.notes:
        print_message(f"Note: {note}", common.quiet)
    return source


def refuse_sequence_options(options: CorruptOptions, common: CommonOptions) -> None:
    """InputError for options that have no use where labels along sequences are compared with each other."""
    from robench.evaluation.sequence_sources import NO_PUBLISHED_FLIPS

    recipe = next((one for one in options.corruptions if one.options), None)
    if options.names_corruptions and recipe is not None:
        raise InputError(f"{recipe.name} of a set of sequences has no options: leave them out; --severity takes the difficulty, 1 to 3")
    idle = [
        *(["--save"] if options.save else []), *(["--data"] if common.data else []), *(["--classes"] if common.classes else []),
        *(["--label-map"] if common.label_map else []), *(["--outputs"] if common.outputs else []),
        *(f"--{name.replace('_', '-')}" for name in USELESS_FOR_SEQUENCES if common.image_options()[name] is not None),
        *(["--pixels"] if common.pixels != "auto" else []),
    ]  # fmt: skip
    if options.reference == "alexnet":
        raise InputError(NO_PUBLISHED_FLIPS)
    if idle:
        raise InputError(f"{idle[0]} has no use for sequences, whose frames are compared with each other: leave it out")


def images_and_source(
    models: Sequence[str], options: CorruptOptions, common: CommonOptions, device: str
) -> tuple[list[Images], CorruptionSource, list[str]]:
    """The images of each model, then of the reference, as they are (of a set: mild ones), where corrupted ones come from, and notes."""
    from robench.data.catalogues import readable_images_of
    from robench.data.class_names import class_order_for
    from robench.data.corrupted_sets import mildest_cell
    from robench.evaluation.corruption_sources import source_from_images, source_from_set
    from robench.models import checkpoint_meta
    from robench.models.forgotten_normalisation import NORMALISATION_IMAGES

    choice, data, asked = common.image_options(), common.data, asked_labels(common)
    metas, order = [checkpoint_meta(model) for model in models], asked.order
    data = data if data or options.source is not None else training_data_name(metas)
    from_set = options.source is not None  # whose classes may be those of a folder, whatever the clean images are
    choice["class_order"] = class_order_for("folder:" if from_set else str(data), models, metas, order, asked.way, asked.label_map)
    if from_set:
        how, more = way_of_set(models, options, choice, common)
        corrupted, clean, rows = corrupted_from_folder(options, data, choice, order is not None, common, how)
        images = (
            clean
            if clean is not None
            else corrupted.load(*mildest_cell(corrupted.corruptions, corrupted.severities), rows[:NORMALISATION_IMAGES])
        )
        source = replace(source_from_set(corrupted, rows, clean), skips_damaged=choice["skip_damaged"])
        for note in source.notes:
            print_message(f"Note: {note}", common.quiet)
        return [images] * max(1, len(models) + len(reference_names(options))), source, more
    each, more = images_of_models([*models, *reference_names(options)], str(data), choice, common)
    if options.export is not None:  # which needs all images at all severities
        readable = {id(one): readable_images_of(one) for one in each}
        each = [readable[id(one)] for one in each]
    images = each[0]
    source = source_from_images(
        images, options.corruptions, options.severities, scale=options.scale, photos=options.photos, seed=common.seed, device=device
    )
    return each, source, more


def way_of_set(
    models: Sequence[str], options: CorruptOptions, choice: dict[str, Any], common: CommonOptions
) -> tuple[Preprocessing | None, list[str]]:
    """How images are resized and cut for all models of a call on a set on the disk, and notes; InputError where they differ in it."""
    chosen, notes = ways_of_models([*models, *reference_names(options)], choice, common.download)
    ways = list(dict.fromkeys(how for how in chosen if how is not None))  # who says nothing is shown what the others take
    resizes = bool(common.data) or choice["image_size"] is not None or choice["resize"] is not None  # else images are cut alone
    if len({how if resizes else how.fixed_extent() for how in ways}) > 1:
        told = " and ".join(f"{how.origin} ({how.words()})" for how in ways)
        raise InputError(
            f"a set on the disk is shown to all models with the same pixels, and they take other ones, {told}: measure them apart, or say "
            "with --image-size and --resize how their images shall be"
        )
    return ways[0] if ways else None, notes


def reference_names(options: CorruptOptions) -> list[str]:
    """The model that is measured along as the reference, as the command line spells it; none where there is no such model."""
    return [] if options.reference in (None, "alexnet") else [str(options.reference)]


def corrupted_from_folder(
    options: CorruptOptions, data: str | None, choice: dict[str, Any], asked_order: bool, common: CommonOptions,
    how: Preprocessing | None,
) -> tuple[CorruptedSet, Images | None, Tensor]:  # fmt: skip
    """The set in the folder, the same images as they are where the user names them, and the places of the images in the set.

    Args:
        options: what the user asked of corruptions; its `source` is the folder.
        data: name of the clean images, None where the user names none.
        choice: options that choose images, as `load_images` takes them.
        asked_order: whether the user gave the order of the classes, which must then be of use.
        common: options that every measuring command has.
        how: how images are resized and cut for the models; None where neither they nor the options say it.

    Raises:
        InputError: where an option has no use, and where the set and the clean images do not belong together.
    """
    from robench.data.corrupted_sets import (
        clean_image_rows,
        has_folder_classes,
        pixel_checked_set,
        read_corrupted_set,
        set_of_clean_files,
        with_class_order,
    )

    assert options.source is not None
    names = tuple(recipe.name for recipe in options.corruptions)
    selection = names if options.names_corruptions else None, options.severities if options.names_severities else None
    enlarges = choice["image_size"] is not None or choice["resize"] is not None
    corrupted = read_corrupted_set(options.source, *selection, choice["data_dir"], how, choice["workers"], enlarges)
    if has_folder_classes(corrupted, options.source):
        corrupted = with_class_order(corrupted, choice["class_order"])
    elif asked_order and not (data or "").startswith("folder:"):
        raise InputError(f"{corrupted.name} says by its labels how its classes count: leave --class-order out")
    if not data:
        return corrupted, None, chosen_set_rows(corrupted, choice, common)
    order = choice["class_order"] if data.startswith("folder:") else None
    sizes = {"image_size": None, "resize": None, "interpolation": None, "preprocessing": how}
    clean = images_by_options(data, seed=common.seed, **{**choice, **sizes, "class_order": order})
    print_image_notes(clean, common.quiet)
    told = clean.preprocessing
    if told is not None and told.resize is not None and corrupted.files and not corrupted.words.startswith("resize="):
        cut = f"{corrupted.shape[1]}x{corrupted.shape[2]}"
        views = f"the clean images of {clean.name} are resized and cut ({told.words()}), those of {corrupted.name} only cut to {cut}"
        print_message(f"Note: {views}: the two may show other parts of a scene", common.quiet)
    corrupted = set_of_clean_files(corrupted, clean)
    rows = clean_image_rows(corrupted, clean)
    return pixel_checked_set(corrupted, options.source, clean, rows), clean, rows


def chosen_set_rows(corrupted: CorruptedSet, choice: dict[str, Any], common: CommonOptions) -> Tensor:
    """The places in the set of the images that the user chose, where no clean ones are named."""
    from robench.data.corrupted_sets import CIFAR

    unset = {"pixels": "auto", "skip_damaged": False}
    of_files = () if corrupted.files else ("image_size", "resize", "interpolation", "workers", "skip_damaged")
    idle = [name for name in ("data_dir", "pixels", *of_files) if choice[name] != unset.get(name)]
    if corrupted.kind == "released" or corrupted.layout in CIFAR.values():
        idle = [name for name in idle if name != "data_dir"]  # where CIFAR itself lies, by whose labels the set is known
    if idle:
        raise InputError(f"--{idle[0].replace('_', '-')} is for the clean images: name them with --data, or leave it out")
    return corrupted.rows(choice_of_rows(choice, common.seed))


def choice_of_rows(choice: dict[str, Any], seed: int) -> Choice:
    """Which images of a set on the disk the user chose."""
    from robench.data import Choice, indices_in

    indices = None if choice["indices"] is None else indices_in(choice["indices"])
    at_most = DEFAULT_IMAGE_LIMIT if choice["n"] is None and indices is None else None
    return Choice(choice["n"] or None, choice["shuffle"], indices, seed, at_most)


def export_target(images: Images, source: CorruptionSource, options: CorruptOptions, common: CommonOptions) -> Export | None:
    """The folder that takes the images, if one is wanted; says who would read a set of this length wrongly."""
    import torch

    from robench.corruptions.severities import scale_of
    from robench.data.export import prepare_export

    if options.export is None:
        return None
    if len(images) != ROBUSTBENCH_ROWS:
        sizes = f"RobustBench reads {ROBUSTBENCH_ROWS:,} rows a severity, and this set has {len(images):,}"
        print_message(
            f"Note: {sizes}: its loader would find images of another severity, or none; --from reads the set as it is", common.quiet
        )
    frost = None if all(recipe.name != "frost" for recipe in options.corruptions) else "photos" if options.photos else "procedural"
    scale = scale_of(torch.empty(1, *images.shape), options.scale)
    return prepare_export(
        options.export, images, seed=common.seed, scale=scale, frost=frost, photos=str(source.about["photos"]), force=common.force
    )


def write_export(source: CorruptionSource, target: Export | None, common: CommonOptions, device: str) -> None:
    """Writes the images into the folder; those that are there already are passed over."""
    from robench.evaluation import api

    assert target is not None
    api.corrupt([], source, batch_size=common.batch_size or BATCH_SIZE, device=device, target=target, track=image_progress(common.quiet))
    names = dict.fromkeys(name for name, _ in source.cells)
    folder = target.replace_earlier_set()
    print_message(f"Written: {', '.join(f'{name}.npy' for name in names)}, labels.npy in {folder}", common.quiet)
