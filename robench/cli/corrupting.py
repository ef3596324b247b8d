"""What `robench corrupt` does: find the images, measure or write them, report."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robench.cli.console import Table, complain, interval, message, percent, show, tracker
from robench.cli.drawing import page_parts
from robench.cli.labels import Labels, chance_flags, labels_for, order_of, refuse_other_orders
from robench.cli.measuring import (
    AT_MOST,
    BATCH_SIZE,
    IMAGES,
    alone,
    checkpoints,
    data_of,
    destined,
    device_of,
    images_of,
    loaded,
    missing,
    quickest_size,
    stem,
    tell,
    told_again,
)  # fmt: skip
from robench.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from robench.corrupting import Degradation, Source
    from robench.data import Images
    from robench.data.corrupted import Corrupted
    from robench.data.export import Export
    from robench.degradation import Reference
    from robench.destinations import Place
    from robench.models import Loaded
    from robench.probing import Subject
    from robench.rows import Row


ROBUSTBENCH = 10_000  # images of a severity, whatever the length of the files, in RobustBench's loader of CIFAR-10-C and CIFAR-100-C


@dataclass(frozen=True)
class Wanted:
    """What the user asked for; `chosen` and `graded` say whether corruptions and severities were named."""

    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    chosen: bool
    graded: bool
    source: Path | None
    scale: str
    photos: str
    reference: str | None
    export: Path | None
    seed: int
    batch_size: int | None
    resume: bool
    force: bool
    quiet: bool


def run_corrupt(models: Sequence[str], wanted: Wanted, out: Path | None, *, device: str, threads: int | None, **how: Any) -> None:
    """Measures the models on corrupted images, or writes the images, or both; `how` names the images and how models are loaded."""
    refuse(models, wanted, out)
    alone("accuracy under corruptions")
    on = device_of(device, threads)
    with exclusive(wanted.export):
        measure_or_write(models, wanted, out, on, how)


@contextmanager
def exclusive(folder: Path | None) -> Iterator[None]:
    """The folder of an export for this run alone; InputError where another run writes there."""
    from robench.writing import locked, prepare

    if folder is None:
        yield
        return
    with locked(prepare(folder) / ".lock", folder):
        yield


def measure_or_write(models: Sequence[str], wanted: Wanted, out: Path | None, on: str, how: dict[str, Any]) -> None:
    """What `run_corrupt` does on a device."""
    from robench.corrupting import only_adds

    choice = {key: how.pop(key) for key in (*IMAGES, "data", "classes")}
    images, source, notes = source_of(models, wanted, on, choice)
    target = exported(images, source, wanted)
    if not models:
        if images_missed := missing(source.y, source.classes):
            message(f"Note: {images_missed}", wanted.quiet)
        write_only(source, target, wanted, on)
        return
    shown = source.y if len(source.classes) == len(images.classes) else None  # of a part of a model's classes nothing is missed
    images = replace(images, y=source.y[: len(images)], classes=source.classes)  # as the models count them
    found = loaded(models, images, on, wanted.quiet, split=choice["split"], y=shown, noticed=notes, **how)
    if wanted.reference not in (None, "alexnet"):
        refuse_other_orders(source.classes, [str(wanted.reference)], choice["classes"], "reference")
    reference = reference_of(wanted, images, source, on)
    name, words = found[0].name if len(found) == 1 else f"{len(found)}-models", words_of(found, source, reference, wanted)
    with destined(out, name, "corrupt", words, resume=wanted.resume, force=wanted.force and out is not None, adds=only_adds) as place:
        if place.finished:
            show_again(found, source, wanted, place)
            if target is not None:
                write_only(source, target, wanted, on)
        else:
            begin = time.perf_counter()
            result = measured(found, images, source, wanted, on, place, target, reference)
            if target is not None:
                target.adopt()
            report(found, source, result, wanted, on, place, time.perf_counter() - begin)


def words_of(found: Sequence[Loaded], source: Source, reference: Subject | Reference | None, wanted: Wanted) -> dict[str, Any]:
    """What was asked of a run: all that its numbers depend on."""
    from robench.corrupting import header
    from robench.probing import Subject

    models = [*(subject_of(one, source) for one in found), *([reference] if isinstance(reference, Subject) else [])]
    return {
        "command": "corrupt", **header(models, source), "names": [model.about.checkpoint for model in models], "measured": len(found),
        "reference": wanted.reference or "",
    }  # fmt: skip


def show_again(found: Sequence[Loaded], source: Source, wanted: Wanted, place: Place) -> None:
    """Prints the tables of a finished run."""
    from robench.destinations import manifest_of
    from robench.report import read_rows

    reference = manifest_of(place.folder)["corruptions"]["reference"]
    for table in tables(read_rows(place.folder), title_of(found, source, wanted), reference or {}):
        show(*table)
    told_again(place, [*source.notes, *(sentence for one in found for sentence in (*one.notes, *one.flags))], wanted.quiet)


def title_of(found: Sequence[Loaded], source: Source, wanted: Wanted) -> str:
    """The models, the images and the seed in a title."""
    models = found[0].name if len(found) == 1 else f"{len(found)} models"
    return title_words(f"{models} on {source.name} {source.split}", f"n = {len(source.y)}", source.setting, f"seed {wanted.seed}")


def refuse(models: Sequence[str], wanted: Wanted, out: Path | None) -> None:
    """InputError for options that do not go together."""
    if not models and wanted.export is None:
        raise InputError("name a model to measure, or a folder with --export to write the images into")
    if wanted.export is not None and wanted.source is not None:
        raise InputError("--export writes images that are made here: leave --from out")
    if wanted.export is not None and wanted.graded and len(wanted.severities) < 5:
        raise InputError("--export writes all five severities, as the layout of CIFAR-10-C needs them: leave --severity out")
    if wanted.force and wanted.export is None and out is None:
        raise InputError("--force replaces the run in --out, or the set in --export: name a folder, or leave it out")
    if wanted.source is not None and (wanted.photos or wanted.scale != "auto"):
        raise InputError("--frost-dir and --scale are for images that are made here: leave them out, or leave --from out")
    if not models and (wanted.resume or out is not None or wanted.reference):
        raise InputError("--out, --resume and --reference belong to a measurement: name a model, or leave them out")


def source_of(models: Sequence[str], wanted: Wanted, device: str, choice: dict[str, Any]) -> tuple[Images, Source, list[str]]:
    """The images as they are (of a set alone: mild ones), where the corrupted ones come from, under the models' labels, and notes."""
    from robench.corrupting import made, of_set
    from robench.models import peek
    from robench.models.forgotten import MOST

    data, known, order = choice.pop("data"), [peek(model) for model in models], choice["class_order"]
    data = data if data or wanted.source is not None else data_of(known)
    from_set = wanted.source is not None  # whose classes may be those of a folder, whatever the clean images are
    choice["class_order"] = order_of("folder:" if from_set else str(data), models, known, order, choice["classes"])
    if from_set:
        corrupted, clean, rows = of_folder(wanted, data, choice, order is not None)
        images = clean if clean is not None else corrupted.load(*mildest(corrupted.corruptions, corrupted.severities), rows[:MOST])
        source = of_set(corrupted, rows, clean)
        for note in source.notes:
            message(f"Note: {note}", wanted.quiet)
        labels = labels_for((clean or corrupted).classes, (clean or corrupted).name, models, known, choice["classes"], order)
        return images, relabelled(source, labels), labels.notes
    images = images_of(str(data), seed=wanted.seed, **without(choice, "classes"))
    tell(images, wanted.quiet)
    labels = labels_for(images.classes, images.name, models, known, choice["classes"], order)
    source = made(images, wanted.corruptions, wanted.severities, scale=wanted.scale, photos=wanted.photos, seed=wanted.seed, device=device)
    return images, relabelled(source, labels), labels.notes


def mildest(corruptions: Sequence[str], severities: Sequence[int]) -> tuple[str, int]:
    """The cell in which a model that is right at all is most likely right: the lowest severity, of brightness where that is there."""
    return min(corruptions, key=lambda name: name != "brightness"), min(severities)


def without(choice: dict[str, Any], key: str) -> dict[str, Any]:
    """The choice of images but for one key."""
    return {name: value for name, value in choice.items() if name != key}


def relabelled(source: Source, labels: Labels) -> Source:
    """The same images under the labels of the models' outputs; a state that was begun with others cannot go on."""
    import torch

    if not labels.moved:
        return replace(source, classes=labels.classes)
    about = {**source.about, "outputs": labels.outputs}
    return replace(source, y=torch.tensor(labels.outputs)[source.y], classes=labels.classes, about=about)


def of_folder(wanted: Wanted, data: str | None, choice: dict[str, Any], asked_order: bool) -> tuple[Corrupted, Images | None, Tensor]:
    """The set in the folder, the same images as they are where the user names them, and the places of the images in the set.

    asked_order  whether the order of the classes is the user's word, which must not be idle
    """
    from robench.data.corrupted import check_order, confirmed, read

    assert wanted.source is not None
    asked = wanted.corruptions if wanted.chosen else None, wanted.severities if wanted.graded else None
    corrupted = read(wanted.source, *asked, choice["data_dir"])
    if of_class_folders(corrupted, wanted.source):
        corrupted = counted(corrupted, choice["class_order"])
    elif asked_order and not (data or "").startswith("folder:"):
        raise InputError(f"{corrupted.name} says by its labels how its classes count: leave --class-order out")
    if not data:
        return corrupted, None, rows_in(corrupted, wanted, choice)
    order = choice["class_order"] if data.startswith("folder:") else None
    clean = images_of(data, seed=wanted.seed, **{**without(choice, "classes"), "class_order": order})
    tell(clean, wanted.quiet)
    rows = check_order(corrupted, clean)
    return confirmed(corrupted, wanted.source, clean, rows), clean, rows


def of_class_folders(corrupted: Corrupted, folder: Path) -> bool:
    """Whether the classes of a set have the names of class folders: those of a tree, and of our own sets that were made of one."""
    from robench.data.classes import numbered
    from robench.data.corrupted import detect

    text = tuple(sorted(corrupted.classes))
    ours = corrupted.kind == "made" and corrupted.name.startswith("folder:") and corrupted.classes in (text, numbered(text))
    return ours or detect(folder.expanduser()) == "tree"


def counted(corrupted: Corrupted, order: str | None) -> Corrupted:
    """The set with the labels that the order of its class folders gives."""
    import torch

    from robench.data.classes import ordered

    classes = ordered(corrupted.classes, order, corrupted.name)
    y = torch.tensor([classes.index(kind) for kind in corrupted.classes])[corrupted.y]
    return replace(corrupted, y=y, classes=classes)


def rows_in(corrupted: Corrupted, wanted: Wanted, choice: dict[str, Any]) -> Tensor:
    """The places in the set of the images that the user chose, where no clean ones are named."""
    from robench.data import Choice, listed
    from robench.data.corrupted import CIFAR

    idle = [name for name in ("data_dir", "image_size") if choice[name] is not None]
    if corrupted.kind == "released" or corrupted.layout in CIFAR.values():
        idle = [name for name in idle if name != "data_dir"]  # where CIFAR itself lies, by whose labels the set is known
    if idle:
        raise InputError(f"--{idle[0].replace('_', '-')} is for the clean images: name them with --data, or leave it out")
    indices = None if choice["indices"] is None else listed(choice["indices"])
    at_most = AT_MOST if choice["n"] is None and indices is None else None
    return corrupted.rows(Choice(choice["n"] or None, choice["shuffle"], indices, wanted.seed, at_most))


def exported(images: Images, source: Source, wanted: Wanted) -> Export | None:
    """The folder that takes the images, if one is wanted; says who would read a set of this length wrongly."""
    from robench.corruptions.levels import scale_of
    from robench.data.export import export

    if wanted.export is None:
        return None
    if len(images) != ROBUSTBENCH:
        sizes = f"RobustBench reads {ROBUSTBENCH:,} rows a severity, and this set has {len(images):,}"
        message(f"Note: {sizes}: its loader would find images of another severity, or none; --from reads the set as it is", wanted.quiet)
    frost = None if "frost" not in wanted.corruptions else "photos" if wanted.photos else "procedural"
    scale = scale_of(images.x[:1], wanted.scale)
    return export(wanted.export, images, seed=wanted.seed, scale=scale, frost=frost, photos=str(source.about["photos"]), force=wanted.force)


def write_only(source: Source, target: Export | None, wanted: Wanted, device: str) -> None:
    """Writes the images into the folder; those that are there already are passed over."""
    from robench.corrupting import degrade

    assert target is not None
    degrade([], source, batch_size=wanted.batch_size or BATCH_SIZE, device=device, target=target, track=tracker(wanted.quiet))
    names = dict.fromkeys(name for name, _ in source.cells)
    folder = target.adopt()
    message(f"Written: {', '.join(f'{name}.npy' for name in names)}, labels.npy in {folder}", wanted.quiet)


def measured(
    found: Sequence[Loaded], images: Images, source: Source, wanted: Wanted, device: str, place: Place, target: Export | None,
    reference: Subject | Reference | None,
) -> Degradation:  # fmt: skip
    """What `degrade` finds on the models."""
    from robench.corrupting import degrade

    size = quickest_size(found[0], images, device) if wanted.batch_size == 0 else wanted.batch_size or BATCH_SIZE
    return degrade(
        [subject_of(one, source) for one in found], source, reference=reference, seed=wanted.seed,
        batch_size=size, device=device, folder=place, resume=place.resume, target=target, track=tracker(wanted.quiet),
    )  # fmt: skip


def subject_of(one: Loaded, source: Source) -> Subject:
    """A model under the name of its rows."""
    from robench.probing import Subject
    from robench.rows import Row

    preset = one.meta.get("preset", "")
    about = Row(one.name, preset, source.name, source.split, len(source.y), 0, "", 0.0, "", "", "", 0.0)
    return Subject(one.model, about, one.sha256, one.architecture)


def reference_of(wanted: Wanted, images: Images, source: Source, device: str) -> Subject | Reference | None:
    """The model by whose errors others are divided, the published errors of AlexNet, or None."""
    from robench.degradation import alexnet

    if wanted.reference is None:
        return None
    if wanted.reference == "alexnet":
        words = dict(word.partition("=")[::2] for word in source.setting.split())
        return alexnet(len(source.classes), "imagenet" if words.get("layout") == "imagenet-c" else words.get("scale", ""))
    return subject_of(loaded([wanted.reference], images, device, wanted.quiet)[0], source)


def report(found: Sequence[Loaded], source: Source, result: Degradation, wanted: Wanted, device: str, place: Place, seconds: float) -> None:
    """Writes tables, pictures, manifest and page, and prints the tables."""
    from robench.degradation import doubtful
    from robench.report import save
    from robench.report.manifest import manifest
    from robench.report.page import page

    name = title_of(found, source, wanted)
    notes = list(dict.fromkeys([*source.notes, *(note for one in found for note in one.notes)]))
    flags = [*dict.fromkeys(flag for one in found for flag in one.flags), *(guesses := chance_flags(result.rows, len(source.classes)))]
    for flag in guesses:
        complain(f"Flag: {flag}")
    if wanted.reference and not any(row.metric == "mce" for row in result.rows):
        notes.append("there is no mCE: it needs all fifteen corruptions at all five severities, of the model and of the reference")
        message(f"Note: {notes[-1]}", wanted.quiet)
    divided = list(dict.fromkeys(row.probe for row in result.rows if row.metric == "relative_ce"))
    if result.reference and (sentence := doubtful(result.reference, divided)):
        notes.append(sentence)
        message(f"Note: {sentence}", wanted.quiet)
    data = {"name": source.name, "split": source.split, "n": len(source.y), **source.about}
    reference = described(result.reference, source.clean is not None) if result.reference else {}
    how = {"reference": reference or ""}
    content = manifest(device, wanted.seed, seconds, flags, checkpoint=checkpoints(found), data=data, corruptions=how, notes=notes)
    shown = tables(result.rows, name, reference)
    with place.results() as folder:
        written = save(folder, result.rows, result.columns, content)
        written += pictures(found, source, result, name, folder)
        severities = sorted({severity for _, severity in source.cells})
        written.append(page(folder / "report.html", name, page_parts(shown, written, notes, severities=severities)))
    for table in shown:
        show(*table)
    message(f"Written: {', '.join(path.name for path in written)} in {place.folder}", wanted.quiet)


def title_words(*words: str) -> str:
    """The words that there are, with commas between them."""
    return ", ".join(filter(None, words))


def pictures(found: Sequence[Loaded], source: Source, result: Degradation, name: str, folder: Path) -> list[Path]:
    """A heat map a model, curves over severity, and the first image under everything."""
    from robench.degradation import CLEAN
    from robench.report.corruptions import contact_sheet, heat_map, severity_curves

    accuracies = {one.name: result.accuracy(one.name) for one in found}
    clean = {model: cells.pop((CLEAN, 0), float("nan")) for model, cells in accuracies.items()}
    written = [
        heat_map(folder / f"heat-{stem(model)}.png", cells, clean[model], f"{model} on {source.name}, n = {len(source.y)}")
        for model, cells in accuracies.items()
    ]
    if len({severity for _, severity in source.cells}) > 1:
        lines = [(model, cells, clean[model]) for model, cells in accuracies.items()]
        written.append(severity_curves(folder / "severities.png", lines, name))
    sheet = {cell: image for cell, image in result.sheet.items() if cell[0] != CLEAN}
    if (CLEAN, 0) in result.sheet:
        title = title_words(f"image {int(source.ids[0])} of {source.name}", source.setting)
        written.append(contact_sheet(folder / "sheet.png", sheet, result.sheet[CLEAN, 0], title))
    return written


def described(reference: Reference, clean: bool) -> dict[str, Any]:
    """What the manifest says of the reference: who it is, and what it gets right itself."""
    accuracies = {name: 1 - float(errors.mean()) for name, errors in reference.errors.items()}
    at_all = {"clean_accuracy": 1 - float(reference.clean.mean())} if clean else {}
    return {"name": reference.name, "sha256": reference.sha256, **at_all, "accuracy": accuracies}


def tables(rows: Sequence[Row], title: str, reference: Mapping[str, Any]) -> list[Table]:
    """The tables of a run, models side by side: means over corruptions, each corruption's mean accuracy, and the reference's own.

    reference  what the manifest says of it, empty without one
    """
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    first = Table(f"corruptions: {title}", ("metric", *names), [])
    first.lines.extend(lines(rows, names, lambda row: row.probe == "clean" and row.metric == "accuracy", lambda _: "clean accuracy %"))
    first.lines.extend(lines(rows, names, lambda row: row.probe == "corruptions" and "severity=" not in row.setting, metric_of))
    graded = sorted({row.setting.partition("severity=")[2].split()[0] for row in rows if "severity=" in row.setting})
    over = f"severity {graded[0]}" if len(graded) == 1 else f"the severities {', '.join(graded)}"
    second = Table(f"mean accuracy % over {over}", ("corruption", *names), [])
    second.lines.extend(
        lines(rows, names, lambda row: row.probe not in ("clean", "corruptions") and row.metric == "mean_accuracy", lambda row: row.probe)
    )
    return [first, second, *([own(reference)] if reference else [])]


def metric_of(row: Row) -> str:
    """The metric of a row, with the reference by which it is divided."""
    words = dict(word.partition("=")[::2] for word in row.setting.split())
    return f"{row.metric}, by {words['reference']}" if "reference" in words and row.metric != "reference_accuracy" else row.metric


def own(reference: Mapping[str, Any]) -> Table:
    """What the reference gets right itself, and by what relative errors are divided: what each corruption adds to its clean error."""
    digest, clean = reference["sha256"], reference.get("clean_accuracy")
    who = f"reference {reference['name']}" + (f", sha256 {digest[:12]}" if digest else ", published errors")
    table = Table(f"{who}: its own accuracy", ("images", "accuracy %", "errors added, points"), [])
    if clean is not None:
        table.lines.append(("clean", percent(clean), "-"))
    for name, accuracy in reference["accuracy"].items():
        table.lines.append((name, percent(accuracy), "-" if clean is None else f"{100 * (clean - accuracy):+.2f}"))
    return table


def lines(rows: Sequence[Row], names: Sequence[str], wanted: Any, label: Any) -> list[tuple[str, ...]]:
    """One line for each label of the rows that are wanted, with each model's value and interval in percent."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if wanted(row):
            found.setdefault(label(row), {})[row.checkpoint] = row
    return [(name, *(cell(by_name.get(model)) for model in names)) for name, by_name in found.items()]


def cell(row: Row | None) -> str:
    """A share in percent with its interval; a dash where there is none."""
    if row is None or math.isnan(row.value):
        return "-"
    return percent(row.value) if math.isnan(row.low) else f"{percent(row.value)} ({interval(row.low, row.high)})"
