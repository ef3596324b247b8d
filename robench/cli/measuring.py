"""What the measuring commands have in common: load models and images, measure, write the results, print the table."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from robench.cli.console import complain, message, show_rows, tracker
from robench.cli.labels import labels_for, order_of, refuse_other_orders, surrogates
from robench.errors import InputError
from robench.recipes import Recipe, eps_text

if TYPE_CHECKING:
    from torch import Tensor

    from robench.data import Images
    from robench.destinations import Adds, Place
    from robench.evaluation import Evaluation
    from robench.models import Loaded
    from robench.rows import Row
    from robench.shards import World


BATCH_SIZE = 250
LEAST_THREADS = 64  # that any machine may be asked for
AT_MOST = 500  # images, where the user does not say how many
# options that choose the images
IMAGES = ("data_dir", "download", "split", "image_size", "resize", "layout", "class_order", "n", "shuffle", "indices")


@dataclass(frozen=True)
class Subject:
    """A model with the images it is measured on, and the threats: the user's words, then the checkpoint's, then the defaults.

    The labels of the images are those of the model's outputs, and `classes` says how they were found (see labels.labels_for).
    """

    loaded: Loaded
    images: Images
    norm: str
    radii: tuple[float, ...]
    device: str
    classes: str | None = None


def subject(
    models: Sequence[str],
    norm: str | None,
    radii: tuple[float, ...] | None,
    *,
    data: str | None,
    seed: int,
    device: str,
    threads: int | None,
    quiet: bool,
    **how: Any,
) -> list[Subject]:
    """Loads the images and the models, and settles what the user left open; `how` goes to `images_of` and `loaded`.

    Several models get the same images: the first that names a data set decides where the user did not.
    """
    from robench.models import peek
    from robench.threat import Threat, refuse_too_large

    on = device_of(device, threads)
    known = [peek(model) for model in models]
    threats = [threat_of(meta.get("recipe", {}), norm, radii, Path(model).name) for meta, model in zip(known, models, strict=True)]
    for its_norm, its_radii in threats:
        for eps in its_radii:
            refuse_too_large(Threat(its_norm, eps), None)
    split, order, way, data = how["split"], how["class_order"], how.pop("classes"), data or data_of(known)
    how["class_order"] = order_of(data, models, known, order, way)
    images = images_of(data, seed=seed, **{key: how.pop(key) for key in IMAGES})
    tell(images, quiet)
    for its_norm, its_radii in threats:
        refuse_too_large(Threat(its_norm, max(its_radii)), images.shape)
    labels = labels_for(images.classes, images.name, models, known, way, order)
    how["y"] = images.y if len(labels.classes) == len(images.classes) else None  # of a part of a model's classes nothing is missed
    images = images.relabelled(labels.outputs, labels.classes)
    found = loaded(models, images, on, quiet, split=split, noticed=labels.notes, **how)
    return [Subject(one, images, *threat, on, way) for one, threat in zip(found, threats, strict=True)]


def data_of(known: Sequence[dict[str, Any]]) -> str:
    """The data set that a checkpoint among these was trained on; InputError where none says so."""
    name = next((str(meta["data"]["name"]) for meta in known if meta.get("data", {}).get("name")), None)
    if not name:
        raise InputError("which images? The model does not say what it was trained on: pass --data NAME (see 'robench list data')")
    return name


def images_of(
    name: str, *, data_dir: Path | None, download: bool, split: str, image_size: int | None, n: int | None, shuffle: bool,
    indices: Path | None, seed: int, resize: int | None, layout: str | None, class_order: str | None,
) -> Images:  # fmt: skip
    """The images that the user's options name."""
    from robench.data import load

    return load(
        name, split, data_dir=data_dir, download=download, n=n or None, at_most=AT_MOST if n is None and indices is None else None,
        shuffle=shuffle, indices=indices, seed=seed, image_size=image_size,
        resize=resize, layout=layout, class_order=class_order,
    )  # fmt: skip


def tell(images: Images, quiet: bool) -> None:
    """Says how the images were read, before anything can be refused for that."""
    for note in images.notes:
        message(f"Note: {note}", quiet)


def loaded(models: Sequence[str], images: Images, device: str, quiet: bool, *, noticed: Sequence[str] = (), **how: Any) -> list[Loaded]:
    """The models, tried out on such images, under names that tell them apart; says what was noticed, before and now.

    `how` goes to models.load, but for y: labels of the images that will be measured, where it shall be said that they miss classes.
    """
    from robench.models import load

    split, y = how.pop("split", images.split), how.pop("y", None)
    found = told_apart(models, [load(model, classes=len(images.classes), shape=images.shape, device=device, **how) for model in models])
    if images.split != split:
        sentence = f"{images.name} has no {split} split: all its images are used, also those a model may have been trained on"
        found = [replace(one, notes=(*one.notes, sentence)) for one in found]
    if y is not None and (sentence := missing(y, images.classes)):
        found = [replace(one, notes=(*one.notes, sentence)) for one in found]
    found = [replace(one, notes=(*one.notes, *noticed, *unnormalised(one, images, device))) for one in found]
    for note in dict.fromkeys(note for one in found for note in one.notes):
        message(f"Note: {note}", quiet)
    found = [replace(one, notes=(*one.notes, *images.notes)) for one in found]  # which `tell` has told
    for flag in dict.fromkeys(flag for one in found for flag in one.flags):
        complain(f"Flag: {flag}")
    return found


def missing(y: Tensor, classes: Sequence[str]) -> str:
    """A sentence where classes have no image among those with labels y; "" where each has one."""
    from robench.data import missed

    held = missed(y, classes)
    those = "the one image holds" if len(y) == 1 else f"the {len(y)} images hold"
    return f"{those} {held}: --n takes more of them, --shuffle any instead of the first" if held else ""


def unnormalised(one: Loaded, images: Images, device: str) -> list[str]:
    """A note where a model that was given without a normalisation is clearly better with a usual one; a checkpoint knows its own."""
    import torch

    from robench.models.forgotten import MOST, forgotten, normalises

    if one.meta or normalises(one.model):
        return []
    few = torch.arange(min(MOST, len(images)))
    try:
        return forgotten(one.model, one.name, images.pixels(few).to(device), images.y[few])
    except (
        MemoryError,
        RuntimeError,
    ):  # a model may refuse other pixels than those in [0, 1]; what else is wrong shows when it is measured
        return []


def threat_of(recipe: dict[str, Any], norm: str | None, radii: tuple[float, ...] | None, model: str) -> tuple[str, tuple[float, ...]]:
    """The norm and the radii: the user's, then those of the checkpoint's training, then linf 8/255.

    InputError for a norm without a radius where the radius that is known belongs to another norm.
    """
    from robench.threat import NORMS

    its_norm, eps = recipe.get("norm", "linf"), recipe.get("eps", 8 / 255)
    chosen = norm or its_norm
    if not radii and chosen in NORMS and chosen != (its_norm if "eps" in recipe else "linf"):
        known = f"{model} was trained with {its_norm} eps {eps_text(eps)}" if "eps" in recipe else f"the default {eps_text(eps)} is of linf"
        raise InputError(f"which radius in {chosen}? {known}, which says nothing about {chosen}: pass --eps")
    return chosen, tuple(sorted(set(radii or (eps,))))


def told_apart(sources: Sequence[str], loaded: Sequence[Loaded]) -> list[Loaded]:
    """The models, under names of their own: where two files have one name, with enough folders to tell them apart. InputError for twins."""
    if len(set(sources)) < len(sources):
        raise InputError("a model is named twice: name each one once")
    names = [one.name for one in loaded]
    for depth in range(2, 64):
        if len(set(names)) == len(names):
            break
        clash = [name for name in names if names.count(name) > 1]
        names = ["/".join(Path(s).parts[-depth:]) if n in clash else n for s, n in zip(sources, names, strict=True)]
    return [replace(one, name=name) for one, name in zip(loaded, names, strict=True)]


def alone(what: str) -> None:
    """InputError where `torchrun` started several processes for something that one process does."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"{what} runs in one process: leave torchrun out")


def single(subjects: Sequence[Subject], what: str) -> Subject:
    """The one model there is; InputError where there are several."""
    if len(subjects) > 1:
        raise InputError(f"{what} takes one model at a time: only probes such as inductive-noise, and 'robench saliency', take several")
    return subjects[0]


def device_of(device: str, threads: int | None) -> str:
    """The device that torch shall use; "auto" takes the first of cuda, mps, cpu. Settles the process: its CPU threads, and its memory."""
    import torch

    from robench.memory import keep_freed_memory

    keep_freed_memory()
    if threads:
        most = max(LEAST_THREADS, 4 * (os.cpu_count() or 1))
        if threads > most:  # torch takes any number, and ends the process where the system has not so many
            raise InputError(f"--threads {threads} is more than is sensible on this machine: at most {most} are taken")
        torch.set_num_threads(threads)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, present in there.items() if present)
        return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device
    kind = device.partition(":")[0]
    if kind not in there:
        raise InputError(f"unknown device {device!r}: choose one of auto, cpu, cuda, mps")
    if not there[kind]:
        raise InputError(f"there is no {kind} device here: leave --device out, or pass --device cpu")
    return device


def stem(name: str) -> str:
    """A name as a part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)


@contextmanager
def destined(
    out: Path | None, model: str, what: str, words: dict[str, Any], *, resume: bool = False, force: bool = False, adds: Adds | None = None
) -> Iterator[Place]:
    """The place of a run: the user's folder, or a new one, results/<time>-<model>-<what>; see `destinations.claimed`.

    Where a run with a state is interrupted, says how it goes on and ends with exit code 130.
    """
    from robench.destinations import claimed, never, numbered

    for name, given in (("resume", resume), ("force", force)):
        if given and out is None:
            raise InputError(f"which run is --{name} to {'go on with' if name == 'resume' else 'replace'}? Pass its folder with --out")
    folder = out or numbered(Path("results") / f"{time.strftime('%Y%m%d-%H%M%S')}-{stem(model)}-{stem(what)}")
    with claimed(folder, words, resume=resume, force=force, adds=adds or never) as place:
        try:
            yield place
        except KeyboardInterrupt:
            if not place.begun or place.finished:
                raise
            complain(f"Interrupted: go on with the same words and {'--force ' if place.replaces else ''}--resume --out {folder}")
            raise typer.Exit(130) from None


def shared(world: World, stack: ExitStack, claim: Callable[[], AbstractContextManager[Place]]) -> Place:
    """The place that the first process claims, on all processes; where it is refused, the others end without a word."""
    place, refusal = None, None
    if world.rank == 0:
        try:
            place = stack.enter_context(claim())
        except InputError as error:
            refusal = error
    place, refusal = world.agree((place, refusal))
    if place is None:
        raise refusal if refusal and world.rank == 0 else typer.Exit(2)
    return place


def recipe_words(recipe: Recipe) -> dict[str, Any]:
    """What identifies a recipe: its name, weight and options, and the content of the file that it names."""
    from robench.models.identity import digest_of

    name = recipe.name.removeprefix("transfer:")
    digest = digest_of(Path(name.rpartition(":")[0] if ".py:" in name else name))
    return {"name": recipe.name, "weight": recipe.weight, "options": dict(recipe.options), "sha256": digest}


def told_again(place: Place, known: Sequence[str], quiet: bool) -> list[str]:
    """Says the notes and flags of a finished run, but for those that are known, and that nothing was changed; the flags."""
    from robench.destinations import manifest_of

    manifest = manifest_of(place.folder)
    flags = [str(flag) for flag in manifest.get("flags", [])]
    for note in manifest.get("notes", []):
        message(f"Note: {note}", quiet or note in known)
    for flag in flags:
        if flag not in known:  # those were told as the model was loaded
            complain(f"Flag: {flag}")
    names = ", ".join(name for name in manifest["files"] if name != "manifest.json")
    message(f"This run is finished, and nothing was changed: {names} in {place.folder}", quiet)
    return flags


def run(
    what: Subject, suite: str | Sequence[Recipe], title: str, out: Path | None, *, quiet: bool, strict: bool, save: bool, save_png: bool,
    seed: int, batch_size: int | None, compiled: bool, resume: bool, force: bool, command: str, **how: Any,
) -> None:  # fmt: skip
    """Measures, writes tables, manifest and pictures, prints the table and the flags; exit code 1 for a raised flag if `strict`.

    Where `torchrun` started several processes, each measures its share and the first one reports. `how` goes to `evaluate`.
    """
    from robench.destinations import PICTURES
    from robench.shards import launched

    if not isinstance(suite, str):
        refuse_other_orders(what.images.classes, surrogates(suite), what.classes, "surrogate")
    size = quickest_batch(what) if batch_size == 0 else batch_size or BATCH_SIZE
    words = words_of(what, suite, command, seed=seed, save=save, save_png=save_png, batch_size=size, **how)
    notes = [] if not compiled else compiler_note()
    images = [*(["x_adv.npy"] if save else []), *([PICTURES] if save_png else [])]
    with launched() as world, ExitStack() as stack:
        first = world.rank == 0
        place = shared(world, stack, lambda: destined(out, what.loaded.name, title, words, resume=resume, force=force))
        if place.finished:
            flags = shown_again(what, place, title, seed, quiet) if first else []
        else:
            found, seconds = measured(
                what, suite, place, quiet=quiet or not first, save=place.work / "x_adv.npy" if save else None, seed=seed, batch_size=size,
                compiled=compiled and not notes, pngs=place.work if save_png else None, **how,
            )  # fmt: skip
            flags = found.flags
        if first and not place.finished:
            notes += [note for note in found.notes if note not in what.loaded.notes]
            with place.results(images) as folder:
                written = report(what, found, notes, title, folder, seed, seconds, how)
            there = [Path(name) for name in images if any(place.folder.glob(name))]  # no picture where nothing fell
            show(what, found, notes, title, place.folder, seed, quiet, [*written, *there])
    if first:
        end_if_strict(strict, flags)


def words_of(
    what: Subject, suite: str | Sequence[Recipe], command: str, *, seed: int, save: bool, save_png: bool, batch_size: int,
    engine: str = "robench", precision: str = "fp32", until: float | None = None, examine: bool = False,  # noqa: ARG001 - each command examines or does not
) -> dict[str, Any]:  # fmt: skip
    """What was asked of an evaluation: all that its numbers depend on."""
    return {
        "command": command, **described([what]), "suite": suite if isinstance(suite, str) else [recipe_words(recipe) for recipe in suite],
        "norm": what.norm, "eps": list(what.radii), "seed": seed, "save": save, "engine": engine, "precision": precision, "until": until,
        "batch_size": batch_size if engine == "reference" or until is not None else None, **({"save_png": True} if save_png else {}),
    }  # fmt: skip


def shown_again(what: Subject, place: Place, title: str, seed: int, quiet: bool) -> list[str]:
    """Prints the table of a finished run; the flags."""
    from robench.report import read_rows

    rows = read_rows(place.folder)
    show_rows(heading(what, title, seed, rows[0].n if rows else 0), rows)
    return told_again(place, [*what.loaded.notes, *what.loaded.flags], quiet)


def end_if_strict(strict: bool, flags: Sequence[str]) -> None:
    """Ends with exit code 1 if a flag was raised and `strict` was given."""
    if strict and flags:
        complain(f"Flags were raised and --strict was given: {len(flags)}")
        raise typer.Exit(1)


def compiler_note() -> list[str]:
    """Why the attacks' arithmetic is not compiled, as a note; none where it can be."""
    from robench.attacks.kernels import cannot_compile

    why = cannot_compile()
    return [f"{why}: the attacks run without it"] if why else []


def quickest_batch(what: Subject) -> int:
    """The batch size beyond which this model grows no quicker."""
    return quickest_size(what.loaded, what.images, what.device)


def quickest_size(model: Loaded, images: Images, device: str) -> int:
    """The batch size beyond which a model grows no quicker on such images."""
    import torch

    from robench.models.passes import fitting_batch

    return fitting_batch(model.model, images.pixels(torch.arange(1)).to(device), device, most=len(images))


def about(what: Subject) -> Row:
    """The columns of a Row that a model and its images settle."""
    from robench.rows import Row

    images = what.images
    return Row(what.loaded.name, what.loaded.meta.get("preset", ""), images.name, images.split, 0, 0, "", 0.0, "", "", "", 0.0)


def described(what: Sequence[Subject]) -> dict[str, Any]:
    """What the manifest says of the models and the images: one checkpoint, or a list of them."""
    images = what[0].images
    return {
        "checkpoint": checkpoints([one.loaded for one in what]),
        "data": {"name": images.name, "split": images.split, "n": len(images), "sha256": images.sha256},
    }


def notes_of(what: Sequence[Subject]) -> list[str]:
    """What was noticed as the models were loaded, each sentence once."""
    return list(dict.fromkeys(note for one in what for note in one.loaded.notes))


def flags_of(what: Sequence[Subject]) -> list[str]:
    """What makes the numbers of the models doubtful, as far as it showed when they were loaded, each sentence once."""
    return list(dict.fromkeys(flag for one in what for flag in one.loaded.flags))


def checkpoints(found: Sequence[Loaded]) -> Any:
    """What the manifest says of one model, or a list of that for several."""
    each = [{"name": o.name, "sha256": o.sha256, "preset": o.meta.get("preset", ""), "architecture": dict(o.architecture)} for o in found]
    return each[0] if len(each) == 1 else each


def subject_words(what: Sequence[Subject]) -> str:
    """The models in a title: the name of one, how many of several."""
    return what[0].loaded.name if len(what) == 1 else f"{len(what)} models"


def image_words(what: Subject) -> str:
    """The images in a title."""
    return f"{what.images.name} {what.images.split}, n = {len(what.images)}"


def measured(what: Subject, suite: str | Sequence[Recipe], place: Place, quiet: bool, **how: Any) -> tuple[Evaluation, float]:
    """What `evaluate` finds, and the seconds it took."""
    from robench.evaluation import evaluate

    begin, images = time.perf_counter(), what.images
    found = evaluate(
        what.loaded.model, images.x, images.y, suite=suite, norm=what.norm, eps=what.radii, ids=images.ids, device=what.device,
        folder=place, resume=place.resume, prepare=True, about=about(what), architecture=what.loaded.architecture,
        track=tracker(quiet), **how,
    )  # fmt: skip
    return found, time.perf_counter() - begin


def show(
    what: Subject, found: Evaluation, notes: Sequence[str], title: str, folder: Path, seed: int, quiet: bool, written: Sequence[Path]
) -> None:
    """Prints the table, the notes and the flags, and says what was written."""
    show_rows(heading(what, title, seed, len(found.samples)), found.rows)
    for note in notes:
        message(f"Note: {note}", quiet)
    for flag in found.flags:
        if flag not in what.loaded.flags:  # those were told as the model was loaded
            complain(f"Flag: {flag}")
    message(f"Written: {', '.join(path.name for path in written)} in {folder}", quiet)


def heading(what: Subject, title: str, seed: int, n: int) -> str:
    """The title of the table: model, images, threat, seed."""
    images = f"{what.images.name} {what.images.split}, n = {n}"
    return f"{title} of {what.loaded.name} on {images}, {what.norm} eps = {radii_text(what)}, seed {seed}"


def radii_text(what: Subject) -> str:
    """The radii as people write them."""
    return ", ".join(map(eps_text, what.radii))


def report(
    what: Subject, found: Evaluation, notes: Sequence[str], title: str, folder: Path, seed: int, seconds: float, how: dict[str, Any]
) -> list[Path]:
    """Writes everything into the folder; returns the paths."""
    from robench.report import save
    from robench.report.figures import curve, staircase
    from robench.report.manifest import manifest

    images, several = what.images, len(what.radii) > 1
    content = manifest(
        what.device, seed, seconds, found.flags,
        checkpoint=checkpoints([what.loaded]),
        data={"name": images.name, "split": images.split, "n": len(found.samples), "sha256": images.sha256},
        threat={"norm": what.norm, "eps": list(what.radii) if several else what.radii[0]},
        how={key: value for key, value in how.items() if key != "examine"}, notes=[*what.loaded.notes, *notes],
    )  # fmt: skip
    written, name = save(folder, found.rows, found.samples, content), heading(what, title, seed, len(found.samples))
    written.append(curve(folder / "curve.png", found.rows, name) if several else staircase(folder / "accuracy.png", found.rows, name))
    return [*written, examples(folder / "examples.png", what, found)] if found.examples else written


def examples(path: Path, what: Subject, found: Evaluation) -> Path:
    """The picture of the first adversarial examples."""
    import torch

    from robench.report.figures import gallery

    places, word = [place for place, _, _ in found.examples], what.images.word
    samples = [sample for _, sample, _ in found.examples]
    captions = [(word(s.label), word(s.adv_pred)) for s in samples]
    broken = f"{what.norm} eps = {radii_text(what)}, broken by {', '.join(dict.fromkeys(s.broken_by for s in samples))}"
    x, x_adv = what.images.pixels(torch.tensor(places)).cpu(), torch.stack([image for _, _, image in found.examples])
    led = any(not s.broken_by.startswith("noise") for s in samples)  # noise looks for no class
    return gallery(path, x, x_adv, captions, f"{what.loaded.name}: {broken}", "adversarial" if led else "changed")
