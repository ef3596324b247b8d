"""The one measuring function: any stages, on one or several models, with a state on the disk if wanted; all others call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robench.calls import with_gradients
from robench.data import Images
from robench.degradation import Reference
from robench.destinations import Adds, Place, refuse_beside_results
from robench.errors import InputError
from robench.inputs import (
    Array,
    PathLike,
    Radius,
    Suite,
    as_chosen,
    as_device,
    as_model,
    as_number,
    as_path,
    as_radii,
    as_seed,
    as_whole,
)
from robench.measurement import Measurement, measurement
from robench.plans import Asked, changes, stages_of
from robench.rows import Row, blank
from robench.runs.images import stem
from robench.runs.loop import Taker
from robench.runs.measure import How, execute
from robench.runs.pools import images_of, pool_of_images
from robench.runs.types import Pool, Stage, Subject, Track, untracked
from robench.threat import Threat, known_radius, refuse_too_large


@with_gradients
def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor],
    x: Array,
    y: Array,
    *,
    suite: Suite = "autoattack",
    norm: str = "linf",
    eps: Radius | None = None,
    ids: Array | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    engine: str = "robench",
    precision: str = "fp32",
    compiled: bool = False,
    until: float | None = None,
    folder: PathLike | Place | None = None,
    resume: bool = False,
    save: PathLike | None = None,
    pngs: PathLike | None = None,
    examine: bool = False,
    prepare: bool = False,
    about: Row | None = None,
    architecture: Mapping[str, Any] | None = None,
    track: Track = untracked,
) -> Measurement:
    """Clean accuracy and the accuracy after every attack of a suite, each on what still stands, with intervals, seconds and passes.

    model      gives logits (B, K) for pixels (B, C, H, W) in [0, 1]; it is put into eval mode and left as it was
               (a plain function is taken too, with a note: its mode is the caller's)
    x          (N, C, H, W), uint8 or float in [0, 1];  y (N,) labels;  ids (N,) sample ids for the draws, 0..N-1 if not given;
               tensors or numpy arrays
    suite      a name of suites.SUITES, or recipes: sentences such as "pgd,steps=50"
    eps        a radius, such as 8 / 255 or "8/255", or several: from the smallest on, each on the images that fell at no smaller one;
               8/255 in linf if not given, and in no other norm
    engine     robench, or reference: the AutoAttack components of their authors, through pyautoattack
    precision  fp32, tf32 or bf16 for the attacks' passes; each claim is checked in fp32, so a lower one can miss but not invent
    compiled   the attacks' own arithmetic goes through torch.compile: seconds at the start, quicker afterwards
    until      stop once the half-width of the anytime-valid interval of the last accuracy is that small; images in random order
    folder     keep the state of the run in this folder, which is made if need be and locked meanwhile; with `resume`, go on with the
               state that is there; a Place is a folder that the caller has claimed already (`destinations.claimed`)
    save       write the adversarial images, (N, C, H, W) float32, to this .npy file; the clean image where one stands
    pngs       write each adversarial image that fools in 8 bits, too, to this folder, as x_adv-ID.png: rounded inside the threat, with
               other grey levels beside it where that does not fool; of several radii, inside the one at which the image fell
    examine    run the diagnostics on the first images, before the attacks
    prepare    make the attacks' passes cheaper where that pays: see models.passes
    about      the columns of Row that only the caller knows (checkpoint, preset, data, split)
    architecture  what tells the model apart beside its weights, modules and own code, for the state in `folder`; plain values

    In a torch.distributed process group each process takes its share of the samples, and all return the whole. Inside
    torch.inference_mode() it leaves that mode, in which no attack has a gradient, and comes back to it at the end.
    Raises InputError for images, labels or logits that cannot be evaluated.
    """
    model, chosen, device = as_model(model), as_chosen(suite), as_device(device)
    radii = as_radii(known_radius(norm) if eps is None else eps)
    about = replace(about or blank(), seed=as_seed(seed), norm=norm, eps=radii[0])
    images = images_of(x, y, ids, name=about.data, split=about.split)
    asked = Asked(chosen, [Threat(norm, one) for one in radii])
    how = how_of(
        seed=seed, batch_size=batch_size, device=device, engine=engine, precision=precision, compiled=compiled, until=until,
        folder=folder, resume=resume, examine=examine, prepare=prepare, track=track,
    )  # fmt: skip
    subject = Subject(model, about, architecture=architecture or {})
    return measured([subject], images, asked, how, save=as_path(save, "save"), pngs=as_path(pngs, "pngs"))


def how_of(
    *, seed: int = 0, batch_size: int = 250, device: str = "cpu", until: float | None = None, budget: float | None = None,
    folder: PathLike | Place | None = None, **more: Any,
) -> How:  # fmt: skip
    """How a run is made, from what a caller hands over; InputError for what is none of it."""
    until = None if until is None else as_number(until, "until")
    if until is not None and not 0 < until < 0.5:
        raise InputError(f"the half-width to stop at must lie between 0 and 0.5, not {until:g}")
    place = folder if isinstance(folder, Place) else as_path(folder, "folder")
    return How(
        seed=as_seed(seed), batch_size=as_whole(batch_size, "batch_size", 1), device=as_device(device), until=until, budget=budget,
        folder=place, **more,
    )  # fmt: skip


def measured(
    subjects: Sequence[Subject], images: Images, asked: Asked, how: How, *, save: Path | None = None, pngs: Path | None = None,
    stages: Sequence[Stage] | None = None, words: Mapping[str, Any] | None = None, adds: Adds | None = None, taker: Taker | None = None,
    reference: Subject | Reference | None = None, pool: Pool | None = None,
) -> Measurement:  # fmt: skip
    """The measurement of models by all that is asked for.

    save, pngs  where adversarial images go; several models or threats have their names in theirs
    stages      those of the run where the caller has made them         words, adds, taker  as in `runs.measure.execute`
    pool        the images where they are not those of `images` themselves
    reference   by whose errors under corruptions others are divided: a model that is measured along, or known errors
    """
    for threat in asked.threats:
        refuse_too_large(threat, images.shape)
    refuse_unknown_twins(asked.threats)
    refuse_beside_results(save, pngs, how.folder.work if isinstance(how.folder, Place) else None)
    stages = stages_of(asked, images, how) if stages is None else stages
    attacks = [stage for stage in stages if stage.kind == "attack" and stage.reported]
    if how.until is not None and not attacks:
        raise InputError("--until stops at the interval of an accuracy after attacks, and none is asked for: leave it out")
    if (how.until is not None or how.budget is not None) and save is not None:
        raise InputError("a run that stops early does not see all images: do not save them, or give --n instead")
    if (how.until is not None or how.budget is not None) and taker is not None:
        raise InputError("a run that stops early does not make all images: do not export them, or give --n instead")
    if pngs is not None and images.shape[0] not in (1, 3):
        raise InputError(f"images of {images.shape[0]} channels are no PNG files: leave --save-png out, --save writes numbers")
    every = [*subjects, *([reference] if isinstance(reference, Subject) else [])]
    cascades = list(dict.fromkeys(stage.about["cascade"] for stage in attacks))
    files = {
        (subject.name, cascade): named(subject.name if len(every) > 1 else "", cascade if len(cascades) > 1 else "")
        for subject in every for cascade in cascades
    }  # fmt: skip
    found = execute(
        every, pool or pool_of_images(images), stages, how, images=images.sha256 if how.folder else "", data=images.name,
        save={key: save.with_name(f"{save.stem}{name}{save.suffix}") for key, name in files.items()} if save else {},
        pngs={key: pngs / f"x_adv{name}-" for key, name in files.items()} if pngs else {},
        words={"threats": [[threat.norm, threat.eps] for threat in asked.threats] if attacks else [], "saved": to_be_saved(save, pngs),
               **(words or {})},
        adds=adds, taker=taker,
    )  # fmt: skip
    for case in found.cases:
        told = changes([(stage.about["recipe"], stage.about["attack"]) for stage in attacks], case.classes, how.engine)
        case.notes += [note for note in told if note not in case.notes]
    return measurement(found, asked.verdict(), found.cases[-1] if isinstance(reference, Subject) else reference)


def named(subject: str, cascade: str) -> str:
    """What the name of a file of adversarial images has behind it, for one of several models and cascades."""
    return "".join(f"-{stem(word)}" for word in (subject, cascade) if word)


def refuse_unknown_twins(threats: Sequence[Threat]) -> None:
    """InputError where a threat is given twice, or none is."""
    if not threats:
        raise InputError("no threat is given: name one, such as linf:8/255")
    if len(set(threats)) < len(threats):
        raise InputError("a threat is given twice: give each one once")


def to_be_saved(save: Path | None, pngs: Path | None) -> bool | str:
    """What a run writes of its images, as its state tells it."""
    return save is not None if pngs is None else "x_adv and png" if save else "png"
