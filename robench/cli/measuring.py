"""What `eval` and `attack` have in common: load the model and the images, measure, write the results, print the table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robench.cli.console import message, show_rows, tracker
from robench.errors import InputError
from robench.recipes import Recipe

if TYPE_CHECKING:
    from robench.data import Images
    from robench.evaluation import Evaluation
    from robench.models import Loaded
    from robench.threat import Threat


@dataclass(frozen=True)
class Subject:
    """A model with the images it is measured on, and the threat: the user's words, then the checkpoint's, then the defaults."""

    loaded: Loaded
    images: Images
    threat: Threat
    device: str


def subject(
    model: str,
    norm: str | None,
    eps: float | None,
    *,
    data: str | None,
    data_dir: Path | None,
    download: bool,
    split: str,
    image_size: int | None,
    n: int | None,
    shuffle: bool,
    indices: Path | None,
    seed: int,
    device: str,
    threads: int | None,
    quiet: bool,
    **how: Any,
) -> Subject:
    """Loads the images and the model, and settles what the user left open; `how` goes to models.load."""
    from robench.data import load as load_images
    from robench.models import load, peek
    from robench.threat import Threat

    on = device_of(device, threads)
    known = peek(model)
    recipe = known.get("recipe", {})
    threat = Threat(norm or recipe.get("norm", "linf"), recipe.get("eps", 8 / 255) if eps is None else eps)
    name = data or known.get("data", {}).get("name")
    if not name:
        raise InputError("which images? The model does not say what it was trained on: pass --data NAME (see 'robench list data')")
    images = load_images(
        name, split, data_dir=data_dir, download=download, n=n or None, at_most=500 if n is None and indices is None else None,
        shuffle=shuffle, indices=indices, seed=seed, image_size=image_size,
    )  # fmt: skip
    loaded = load(model, classes=len(images.classes), shape=images.shape, device=on, **how)
    if images.split != split:
        sentence = f"{images.name} has no {split} split: all its images are used, also those a model may have been trained on"
        loaded = replace(loaded, notes=(*loaded.notes, sentence))
    for note in loaded.notes:
        message(f"Note: {note}", quiet)
    return Subject(loaded, images, threat, on)


def device_of(device: str, threads: int | None) -> str:
    """The device that torch shall use; "auto" takes the first of cuda, mps, cpu. Sets the number of CPU threads."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, present in there.items() if present)
    kind = device.partition(":")[0]
    if kind not in there:
        raise InputError(f"unknown device {device!r}: choose one of auto, cpu, cuda, mps")
    if not there[kind]:
        raise InputError(f"there is no {kind} device here: leave --device out, or pass --device cpu")
    return device


def results_folder(out: Path | None, model: str, what: str) -> Path:
    """The folder for the results, writable: the user's, or results/<time>-<model>-<what>."""
    from robench.writing import prepare

    stem = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in model)
    return prepare(out or Path("results") / f"{time.strftime('%Y%m%d-%H%M%S')}-{stem}-{what}")


def run(what: Subject, suite: str | Sequence[Recipe], title: str, out: Path, seed: int, batch_size: int, quiet: bool) -> Evaluation:
    """Measures, writes tables, manifest and pictures into `out`, prints the table and the flags."""
    from robench.evaluation import evaluate
    from robench.rows import Row

    begin, images = time.perf_counter(), what.images
    about = Row(what.loaded.name, what.loaded.meta.get("preset", ""), images.name, images.split, 0, 0, "", 0.0, "", "", "", 0.0)
    try:
        found = evaluate(
            what.loaded.model, images.x, images.y, suite=suite, norm=what.threat.norm, eps=what.threat.eps, ids=images.ids, seed=seed,
            batch_size=batch_size, device=what.device, about=about, track=tracker(quiet),
        )  # fmt: skip
    except BaseException:
        with suppress(OSError):
            out.rmdir()  # only if it is empty: a run that fails leaves nothing behind
        raise
    flags = [*what.loaded.notes, *found.flags]
    written = report(what, found, flags, title, out, seed, time.perf_counter() - begin)
    show_rows(heading(what, title, seed), found.rows)
    for flag in found.flags:
        message(f"Flag: {flag}", quiet)
    message(f"Written: {', '.join(path.name for path in written)} in {out}", quiet)
    return found


def heading(what: Subject, title: str, seed: int) -> str:
    """The title of the table: model, images, threat, seed."""
    images = f"{what.images.name} {what.images.split}, n = {len(what.images)}"
    return f"{title} of {what.loaded.name} on {images}, {what.threat.norm} eps = {eps_text(what.threat.eps)}, seed {seed}"


def eps_text(eps: float) -> str:
    """A radius as people write it: a multiple of 1/255 as a fraction, other numbers as they are."""
    steps = eps * 255
    return f"{round(steps)}/255" if eps < 0.2 and steps and abs(steps - round(steps)) < 1e-6 else f"{eps:g}"


def report(what: Subject, found: Evaluation, flags: Sequence[str], title: str, out: Path, seed: int, seconds: float) -> list[Path]:
    """Writes everything into `out`; returns the paths."""
    from robench.report import save
    from robench.report.figures import staircase
    from robench.report.manifest import manifest

    images = what.images
    content = manifest(
        what.device, seed, seconds, flags,
        checkpoint={"name": what.loaded.name, "sha256": what.loaded.sha256, "preset": what.loaded.meta.get("preset", "")},
        data={"name": images.name, "split": images.split, "n": len(images), "sha256": images.sha256},
        threat={"norm": what.threat.norm, "eps": what.threat.eps}, engine={"autoattack": "pyautoattack"},
    )  # fmt: skip
    written = save(out, found.rows, found.samples, content)
    written.append(staircase(out / "accuracy.png", found.rows, heading(what, title, seed)))
    return [*written, examples(out / "examples.png", what, found)] if found.examples else written


def examples(path: Path, what: Subject, found: Evaluation) -> Path:
    """The picture of the first adversarial examples."""
    import torch

    from robench.report.figures import gallery

    places = [place for place, _ in found.examples]
    classes, samples = what.images.classes, [found.samples[place] for place in places]
    captions = [(classes[s.label], classes[s.adv_pred]) for s in samples]
    broken = f"{what.threat.norm} eps = {eps_text(what.threat.eps)}, broken by {', '.join(dict.fromkeys(s.broken_by for s in samples))}"
    x, x_adv = what.images.pixels(torch.tensor(places)).cpu(), torch.stack([image for _, image in found.examples])
    return gallery(path, x, x_adv, captions, f"{what.loaded.name}: {broken}")
