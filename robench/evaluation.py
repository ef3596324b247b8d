"""Measures a model: clean accuracy, then attacks in a cascade over the samples that still stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robench.calls import with_gradients
from robench.destinations import Place, refuse_beside_results
from robench.errors import InputError
from robench.inputs import (
    Array,
    PathLike,
    Radius,
    Suite,
    as_device,
    as_model,
    as_number,
    as_path,
    as_radii,
    as_seed,
    as_suite,
    as_whole,
)
from robench.measurement import Measurement, measurement
from robench.plans import attack_stages, changes, resolved
from robench.rows import Row, blank
from robench.runs.measure import How, execute
from robench.runs.pools import pool_of
from robench.runs.stages.clean import clean_stage
from robench.runs.types import Subject, Track, untracked
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
    suite      a name of suites.SUITES, or attacks to run one after the other: recipes, or sentences such as "pgd,steps=50"
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
    examine    run the diagnostics on the first images
    prepare    make the attacks' passes cheaper where that pays: see models.passes
    about      the columns of Row that only the caller knows (checkpoint, preset, data, split)
    architecture  what tells the model apart beside its weights, modules and own code, for the state in `folder`; plain values

    In a torch.distributed process group each process takes its share of the samples, and all return the whole. Inside
    torch.inference_mode() it leaves that mode, in which no attack has a gradient, and comes back to it at the end.
    Raises InputError for images, labels or logits that cannot be evaluated.
    """
    model, suite, device, radii = as_model(model), as_suite(suite), as_device(device), as_radii(known_radius(norm) if eps is None else eps)
    seed, place = as_seed(seed), folder if isinstance(folder, Place) else as_path(folder, "folder")
    save, pngs = as_path(save, "save"), as_path(pngs, "pngs")
    until = None if until is None else as_number(until, "until")
    pool = pool_of(x, y, ids)
    refuse_until(until, save)
    if pngs is not None and pool.shape[0] not in (1, 3):
        raise InputError(f"images of {pool.shape[0]} channels are no PNG files: leave --save-png out, --save writes numbers")
    threats = [Threat(norm, e) for e in radii]
    refuse_too_large(threats[-1], pool.shape)
    about = replace(about or blank(), seed=seed, norm=norm, eps=radii[0])
    refuse_beside_results(save, pngs, place.work if isinstance(place, Place) else None)
    chosen, clean = resolved(suite, norm, engine, device), clean_stage()
    how = How(
        seed,
        as_whole(batch_size, "batch_size", 1),
        device,
        engine,
        precision,
        compiled,
        until,
        None,
        place,
        resume,
        examine,
        prepare,
        track,
    )
    subject = Subject(model, about, architecture=architecture or {})
    found = execute(
        [subject], pool, [clean, *attack_stages(chosen, threats, engine, precision, clean=clean)], how, data=about.data,
        save={(subject.name, norm): save} if save else {}, pngs={(subject.name, norm): pngs / "x_adv-"} if pngs else {},
        words={"norm": norm, "saved": to_be_saved(save, pngs)},
    )  # fmt: skip
    case = found.cases[0]
    case.notes += [note for note in changes(chosen, case.classes, engine) if note not in case.notes]
    return measurement(found, suite if isinstance(suite, str) else "")


def refuse_until(until: float | None, save: Path | None) -> None:
    """InputError where a run that stops early cannot be what is asked for."""
    if until is None:
        return
    if not 0 < until < 0.5:
        raise InputError(f"the half-width to stop at must lie between 0 and 0.5, not {until:g}")
    if save is not None:
        raise InputError("a run that stops at a half-width does not see all images: do not save them, or give --n instead")


def to_be_saved(save: Path | None, pngs: Path | None) -> bool | str:
    """What a run writes of its images, as its state tells it."""
    return save is not None if pngs is None else "x_adv and png" if save else "png"
