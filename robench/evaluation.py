"""Measures a model: clean accuracy, then attacks in a cascade over the samples that still stand.

Every stage (an attack at a radius) runs on chunks of the images that stand; the result of a chunk is an entry, added to the
outcomes and to the journal, so that a run can be killed and taken up again, or shared by several processes. Every claim of an
attack is checked here: its point must lie in the threat, and the model, asked again, must give finite logits and another label than y.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from robench import diagnostics
from robench.attacks.kernels import compiled as compiled_kernels
from robench.attacks.losses import margin
from robench.calls import frozen, padded, plain, with_gradients
from robench.claims import refuse_found, same_weights
from robench.data.files import png
from robench.data.images import out_of_range
from robench.destinations import Place, alone_at, alone_in, refuse_beside_results
from robench.draws import Draws
from robench.errors import InputError
from robench.inputs import (
    Array,
    Function,
    PathLike,
    Radius,
    Suite,
    as_device,
    as_images,
    as_labels,
    as_model,
    as_number,
    as_path,
    as_radii,
    as_radius,
    as_seed,
    as_suite,
    as_whole,
    for_model,
)
from robench.journal import Journal, begun
from robench.memory import ending_told
from robench.models.contract import FEW, examined, refuse_absent, refuse_one_output
from robench.models.passes import arithmetic, cheaper
from robench.outcomes import Outcomes, Stage, nothing_known, packed
from robench.plans import changes, header, plan, resolved
from robench.recipes import did_you_mean, eps_text, options_of
from robench.rounding import in_eight_bits, rounded_labels
from robench.rows import WILSON, Check, Interval, Row, Sample
from robench.shards import World, started
from robench.statistics import anytime
from robench.summary import blank, check_rows, noticed, rows_of
from robench.threat import Threat, known_radius, per_sample, refuse_too_large
from robench.types import Found
from robench.writing import allocate, room, write_whole

Told = Callable[[], str | None]
EXAMPLES = 8  # how many adversarial images are kept for the pictures
EXAMINED = 64  # how many images the diagnostics look at


class Track(Protocol):
    """Wraps chunks of images to show how far their work is; the plain `untracked` shows nothing."""

    def __call__(self, chunks: Sequence[Tensor], what: str, told: Told = ...) -> Iterable[Tensor]:
        """The chunks themselves; `told` gives what is to be said at their end, "" where nothing is, None for what is usual."""


def untracked(chunks: Sequence[Tensor], what: str, told: Told = lambda: None) -> Iterable[Tensor]:  # noqa: ARG001
    """The chunks themselves: no progress is shown."""
    return chunks


@dataclass(frozen=True)
class Trial:
    """One evaluation under way.

    exact   the user's model, which has the last word    model  what the attacks are given: that one, or a cheaper stand-in
    x       (N, C, H, W) uint8 or float in [0, 1]        saved  the file of adversarial images, or None
    """

    exact: nn.Module
    model: nn.Module
    x: Tensor
    outcomes: Outcomes
    journal: Journal
    world: World
    seed: int
    batch_size: int
    device: str
    precision: str
    track: Track
    saved: Path | None
    pngs: Path | None

    def pixels(self, places: Tensor) -> Tensor:
        """The images at `places` as float pixels in [0, 1] on the device, (M, C, H, W)."""
        return pixels(self.x, places, self.device)


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    rows      measurements; the checks are among them, as metric flag/NAME where raised and check/NAME where not
    samples   what became of each image             checks  the diagnostics, raised or not
    examples  some adversarial images, as (place among the images, line of samples, x_adv)
    notes     sentences on what was done otherwise than asked, and on how the passes were made cheaper
    """

    rows: list[Row]
    samples: list[Sample]
    checks: list[Check]
    examples: list[tuple[int, Sample, Tensor]]
    notes: list[str]

    @property
    def flags(self) -> list[str]:
        """A sentence for each raised flag."""
        return [f"{check.probe}: {check.sentence}" for check in self.checks if check.raised]

    def accuracy(self, probe: str, eps: float | str | None = None) -> float:
        """The accuracy after a probe: "clean", an attack or the suite; at the smallest radius if eps is not given.

        Raises InputError for a probe or a radius that was not run.
        """
        found = {row.eps: row.value for row in self.rows if row.probe == probe and row.metric == "accuracy"}
        if not found:
            probes = dict.fromkeys(row.probe for row in self.rows if row.metric == "accuracy")
            raise InputError(f"nothing here is called {probe!r}{did_you_mean(probe, probes)}")
        wanted = min(found) if eps is None else min(found, key=lambda known: abs(known - as_radius(eps)))
        if eps is not None and abs(wanted - as_radius(eps)) > 1e-9:
            raise InputError(f"{probe!r} was not run at eps {eps}: choose one of {', '.join(map(eps_text, found))}")
        return found[wanted]


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
) -> Evaluation:
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
    world = started()
    model, suite, device, radii = as_model(model), as_suite(suite), as_device(device), as_radii(known_radius(norm) if eps is None else eps)
    seed, place = as_seed(seed), folder if isinstance(folder, Place) else as_path(folder, "folder")
    folder, save, pngs = place.work if isinstance(place, Place) else place, as_path(save, "save"), as_path(pngs, "pngs")
    batch_size = as_whole(batch_size, "batch_size", 1)
    until = None if until is None else as_number(until, "until")
    x, y, ids = checked(x, y, ids)
    x, plainly = for_model(x, model), said_of(model, folder)
    refuse_until(until, world, save)
    if pngs is not None and x.shape[1] not in (1, 3):
        raise InputError(f"images of {x.shape[1]} channels are no PNG files: leave --save-png out, --save writes numbers")
    threats = [Threat(norm, e) for e in radii]
    refuse_too_large(threats[-1], x.shape[1:])
    about = replace(about or blank(), seed=seed, norm=norm, eps=radii[0])
    refuse_absent(model, "the model")
    refuse_beside_results(save, pngs, place.work if isinstance(place, Place) else None)
    modes = diagnostics.modes_of(model)
    with (
        undisturbed(world, place, save), ending_told(batch_size, partial(begun, folder)), frozen(model, device),
        compiled_kernels(compiled), arithmetic("fp32"),
    ):  # fmt: skip
        seen = examined(model, pixels(x, torch.arange(min(FEW, len(x))), device))
        model, trained = seen.model, diagnostics.train_mode(modes, seen.checks)
        classes = classes_of(model, pixels(x, torch.arange(1), device))
        chosen = resolved(suite, norm, engine, device)
        stages = plan(chosen, threats, classes, engine, precision)
        outcomes = nothing_known(ids, y, stages, classes)
        told = engine == "reference" or until is not None  # the reference's verdicts depend on it, and where a run stops
        batch = batch_size if told else None
        named = [recipe.name for recipe, _ in chosen]
        what = (
            header(
                model, x, y, ids, about, stages, architecture=architecture or {}, attacks=named, until=until, saved=to_be_saved(save, pngs),
                batch_size=batch,
            )
            if folder
            else {}
        )  # fmt: skip
        journal = in_turn(world, folder, what, resume)
        with journal.kept():
            for entry in journal.entries:
                if "stage" in entry:
                    outcomes.add(entry)
            cheap, notes = quicker(model, pixels(x, torch.arange(min(EXAMINED, len(x))), device), precision, engine, prepare)
            saved = opened(save, x, journal, world)
            trial = Trial(model, cheap, x, outcomes, journal, world, seed, batch_size, device, precision, track, saved, pngs)
            checks = [trained, *seen.checks, *(diagnosed(trial, ids) if examine else [])]
            order = torch.arange(len(x)) if until is None else shuffled(len(x), seed)
            interval = in_blocks(trial, order, until) if until is not None else whole(trial, order)
        merge(trial)
        journal.finish()
    checks += noticed(outcomes)
    rows = [*rows_of(outcomes, about, suite if isinstance(suite, str) else "", interval)]
    rows += check_rows(checks, about, rows[0].n)
    samples = outcomes.samples()
    if until is not None:
        notes = [
            *notes,
            f"the intervals speak of the {len(x)} chosen images alone, of which {len(samples)} were seen, not of others like them",
        ]
    return Evaluation(
        rows, samples, checks, examples_of(outcomes, samples), [*plainly, *seen.notes, *changes(chosen, classes, engine), *notes]
    )


def checked(x: Array, y: Array, ids: Array | None) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and ids as tensors, the last two on the CPU; InputError where they do not go together."""
    x = as_images(x)
    y, ids = as_labels(y, len(x)), torch.arange(len(x)) if ids is None else as_labels(ids, len(x), "ids", "id")
    if x.is_floating_point() and (fault := out_of_range(x)):
        raise InputError(f"pixels must lie in [0, 1], and {fault}")
    return plain(x), plain(y.cpu()), plain(ids.cpu())


def said_of(model: nn.Module, folder: Path | None) -> list[str]:
    """A note on a plain function, whose mode nobody here can set; InputError where a run that can go on would have to know it again."""
    if not isinstance(model, Function):
        return []
    if folder is not None:
        raise InputError(
            "a run that keeps its state in a folder must know its model by its weights: hand over a torch.nn.Module, or no folder"
        )
    return ["the model is a plain function: what it calls runs in the mode that it is in, so put that into eval mode yourself"]


def refuse_until(until: float | None, world: World, save: Path | None) -> None:
    """InputError where a run that stops early cannot be what is asked for."""
    if until is None:
        return
    if not 0 < until < 0.5:
        raise InputError(f"the half-width to stop at must lie between 0 and 0.5, not {until:g}")
    if world.size > 1:
        raise InputError("a run that stops at a half-width draws its images one block after the other: use one process")
    if save is not None:
        raise InputError("a run that stops at a half-width does not see all images: do not save them, or give --n instead")


def pixels(x: Tensor, places: Tensor, device: str) -> Tensor:
    """The images at `places` as float pixels in [0, 1] on the device, (M, C, H, W)."""
    chosen = x[places.to(x.device)].to(device).contiguous()
    return chosen if chosen.is_floating_point() else chosen.float() / 255


def classes_of(model: nn.Module, x: Tensor) -> int:
    """How many classes the model has, from one uncounted pass; InputError where it does not return logits (B, K)."""
    with torch.no_grad():
        logits = padded(model, x)
    if logits.dim() != 2 or len(logits) != len(x):
        raise InputError(f"the model returns {tuple(logits.shape)} for {len(x)} images: expected logits (B, K)")
    return int(logits.shape[1])


@contextmanager
def undisturbed(world: World, folder: Path | Place | None, save: Path | None) -> Iterator[None]:
    """The folder and the file of a run for it alone; the first of several processes holds them, and all end where it is refused."""
    with ExitStack() as stack:
        refusal = None
        if world.rank == 0:
            try:
                stack.enter_context(alone_in(folder))
                stack.enter_context(alone_at(save))
            except InputError as error:
                refusal = error
        if (refusal := world.agree(refusal)) is not None:
            raise refusal
        yield


def in_turn(world: World, folder: Path | None, about: dict[str, Any], resume: bool) -> Journal:
    """The journal of this process; the first process opens its own first, as it may clear away a finished run."""
    journal = Journal(folder, about, resume=resume) if world.rank == 0 else None
    world.agree(0)
    journal = journal or Journal(folder, about, rank=world.rank, resume=True)
    world.agree(0)
    return journal


def opened(save: Path | None, x: Tensor, journal: Journal, world: World) -> Path | None:
    """The file of adversarial images, (N, C, H, W) float32 in .npy format; made anew unless the run goes on. InputError if it is gone."""
    if save is not None and journal.entries and not save.exists():
        raise InputError(f"the run cannot go on: {save} is gone, and with it what was saved; start anew in another folder")
    if save is not None and world.rank == 0 and not journal.entries:
        make_rows(save, tuple(x.shape))
    world.agree(0)
    return save


def to_be_saved(save: Path | None, pngs: Path | None) -> bool | str:
    """What a run writes of its images, as its state tells it."""
    return save is not None if pngs is None else "x_adv and png" if save else "png"


def make_rows(file: Path, shape: tuple[int, ...]) -> None:
    """Makes the file that `write_rows` writes into, (N, C, H, W) float32 in .npy format, all zero; InputError where there is no room."""
    try:
        rows = np.lib.format.open_memmap(file, "w+", np.float32, shape)
        allocate(file, rows.offset + rows.nbytes)
        rows.flush()
    except OSError as error:
        with suppress(OSError):
            file.unlink()
        raise InputError(f"cannot write {file}: {error.strerror or error}; choose another place{room(error)}") from error


def write_rows(file: Path | None, places: Tensor, images: Tensor) -> None:
    """Writes images (M, C, H, W) at their places in the file, through to the disk; the file is mapped no longer than that."""
    if file is not None and len(places):
        rows = np.lib.format.open_memmap(file, "r+")
        rows[places.numpy()] = images.cpu().numpy()
        rows.flush()


def quicker(model: nn.Module, x: Tensor, precision: str, engine: str, prepare: bool) -> tuple[nn.Module, list[str]]:
    """The stand-in that the attacks are given, and notes on it; the reference engine gets the model itself."""
    if engine == "reference":
        if precision != "fp32":
            raise InputError(f"the reference engine runs in fp32: leave --precision {precision} out")
        return model, []
    if precision == "fp32" and not prepare:
        return model, []
    normed = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())  # a rule, not a race: the same bits in every run
    return cheaper(model, x, precision=precision, channels_last=normed if x.device.type == "cpu" else precision != "fp32")


def shuffled(n: int, seed: int) -> Tensor:
    """All n places in random order."""
    return Draws(seed, torch.arange(n), "order").uniform(()).argsort(stable=True)


def whole(trial: Trial, places: Tensor) -> Interval:
    """Runs all stages on this process's share of the places; the interval that belongs to it."""
    run_stages(trial, trial.world.share(places), partial(left_after, trial))
    return WILSON


def in_blocks(trial: Trial, order: Tensor, until: float) -> Interval:
    """Runs all stages on one block of images after the other until the interval of the last accuracy is narrow; that interval."""
    interval, seen = Interval(f"anytime, of {len(order)} images", partial(bounds, population=len(order))), 0
    for block in order.split(trial.batch_size):
        seen += len(block)
        run_stages(trial, block, partial(so_far, trial, interval, order[:seen]))
        # a journal may hold part of a later block: what has not been through all stages says nothing yet
        low, high = interval.of(int((trial.outcomes.broken[order[:seen]] < 0).sum()), seen)
        if (high - low) / 2 <= until:
            break
    return interval


def bounds(successes: float, n: int, population: int) -> tuple[float, float]:
    """The anytime-valid interval of a count."""
    return anytime(int(successes), n, population)


def left_after(trial: Trial, number: int) -> str:
    """What a stage has left, as a sentence; where several processes share the images, of the share of this one."""
    outcomes, stage = trial.outcomes, trial.outcomes.stages[number]
    n, several = int(outcomes.done[0].sum()), len({other.threat.eps for other in outcomes.stages}) > 1
    name = f"{stage.probe} at {eps_text(stage.threat.eps)}" if several and stage.attack is not None else stage.probe
    share = " of this process" if trial.world.size > 1 else ""
    return f"{name}: {outcomes.left(number)} of {n} images{share} stand, {outcomes.tallies[number].seconds:.1f} s"


def so_far(trial: Trial, interval: Interval, seen: Tensor, number: int) -> str:
    """What is known once the images at the places `seen` have been through the last stage, as a sentence; "" before."""
    if number < len(trial.outcomes.stages) - 1:
        return ""
    left = int((trial.outcomes.broken[seen] < 0).sum())
    low, high = interval.of(left, len(seen))
    span = f"95 % interval of the {len(trial.outcomes.ids)} chosen images {100 * low:.1f} - {100 * high:.1f}"
    return f"{len(seen)} images seen: {100 * left / len(seen):.2f} % left, {span}"


def run_stages(trial: Trial, places: Tensor, told: Callable[[int], str]) -> None:
    """Runs each stage on those of the places that stand and have not been through it, in full batches; `told` says what became of it."""
    for number, stage in enumerate(trial.outcomes.stages):
        todo = trial.outcomes.todo(number, places)
        chunks = todo.split(trial.batch_size) if len(todo) else ()
        for chunk in trial.track(chunks, stage.probe, partial(told, number)):
            begin = time.perf_counter()
            entry = clean(trial, chunk) if stage.attack is None else attacked(trial, stage, chunk)
            entry |= {"stage": number, "places": chunk.tolist(), "seconds": time.perf_counter() - begin}
            trial.journal.append(entry)
            trial.outcomes.add(entry)


def merge(trial: Trial) -> None:
    """Adds what the other processes found."""
    for rank, added in enumerate(trial.world.gather(trial.journal.added)):
        for entry in added if rank != trial.world.rank else ():
            if "stage" in entry:
                trial.outcomes.add(entry)


def clean(trial: Trial, places: Tensor) -> dict[str, Any]:
    """The entry of the clean pass. InputError where logits are not finite or a label is no class."""
    x, y = trial.pixels(places), trial.outcomes.y[places]
    with torch.no_grad():
        logits = padded(trial.exact, x).cpu()
    check_logits(logits, y)
    write_rows(trial.saved, places, x)
    pred, one = logits.argmax(1), torch.ones_like(y)
    return entry_of(
        pred != y, pred, -margin(logits, y), torch.zeros(len(y)), step=-one, forwards=one, backwards=0 * one, reached=0 * one, nonfinite=0
    )


def check_logits(logits: Tensor, y: Tensor) -> None:
    """InputError where the model cannot be evaluated on clean images: logits that are not finite, labels out of range, one output alone."""
    refuse_one_output(logits)
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the model gives NaN or infinite logits on clean images: it cannot be evaluated")
    wrong = y[(y < 0) | (y >= logits.shape[1])]
    if len(wrong):
        raise InputError(f"label {int(wrong[0])} is out of range: the model has {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}")


def attacked(trial: Trial, stage: Stage, places: Tensor) -> dict[str, Any]:
    """The entry of an attack on images that stand: its points, brought inside the threat, and the true model's word on each."""
    assert stage.attack is not None
    x, y = trial.pixels(places), trial.outcomes.y[places]
    draws = Draws(trial.seed, trial.outcomes.ids[places].to(trial.device), stage.probe)
    with warnings.catch_warnings(record=True) as caught, arithmetic(trial.precision):
        warnings.simplefilter("always", RuntimeWarning)
        with same_weights(stage.probe, trial.exact, trial.model):
            found = stage.attack(trial.model, x.clone(), y.clone().to(trial.device), stage.threat, draws)
    if not isinstance(found, Found):
        raise InputError(f"attack {stage.probe!r} returned {type(found).__name__} and no Found: see docs/adding-an-attack.md")
    refuse_found(found, len(x), stage.probe)
    x_adv, outside = inside(x, found.x_adv.detach().to(x), stage)
    with torch.no_grad():
        logits = padded(trial.exact, x_adv).cpu()
    finite = torch.isfinite(logits).all(1)
    fell = (logits.argmax(1) != y) & finite
    kept = x_adv.cpu()
    rounded, names = eight_bits(trial, stage, x[fell.to(x.device)], x_adv[fell.to(x.device)], places[fell])
    write_rows(trial.saved, places[fell], kept[fell])
    wanted = fell.nonzero().flatten()[: EXAMPLES - len(trial.outcomes.images)] if len(trial.outcomes.images) < EXAMPLES else ()
    return entry_of(
        fell, logits.argmax(1), -margin(logits, y), stage.threat.distance(x, x_adv).cpu(), found.step.cpu(), found.forwards.cpu() + 1,
        found.backwards.cpu(), found.fooled.cpu().long(), int((found.nonfinite.cpu() | ~finite).sum()), outside,
        list(dict.fromkeys(str(warning.message) for warning in caught)), {str(int(places[i])): packed(kept[i]) for i in wanted},
    ) | {"rounded": rounded, "png": names}  # fmt: skip


def eight_bits(trial: Trial, stage: Stage, x: Tensor, x_adv: Tensor, places: Tensor) -> tuple[list[int], list[str]]:
    """The labels of fallen images, (M, C, H, W), in 8 bits, and the names of the pictures that were written of them: uncounted passes."""
    y = trial.outcomes.y[places].to(trial.device)
    found = rounded_labels(trial.exact, x, x_adv, y, stage.threat).tolist()
    if trial.pngs is None or not len(places):
        return found, [""] * len(places)
    ids = trial.outcomes.ids[places]
    points, fooled = in_eight_bits(trial.exact, x, x_adv, y, stage.threat, Draws(trial.seed, ids.to(trial.device), "png"))
    names = [f"x_adv-{sample}.png" if fools else "none" for sample, fools in zip(ids.tolist(), fooled.tolist(), strict=True)]
    pictures = {trial.pngs / name: png(point) for name, point in zip(names, points.cpu(), strict=True) if name != "none"}
    if pictures:
        write_whole(pictures)
    return found, names


def inside(x: Tensor, x_adv: Tensor, stage: Stage) -> tuple[Tensor, tuple[int, float, int]]:
    """The points, (B, C, H, W), all moved to the nearest in the threat; how many lay outside, how far, and how many are not finite."""
    if x_adv.shape != x.shape:
        raise InputError(f"attack {stage.probe!r} returned points of shape {tuple(x_adv.shape)} for images of shape {tuple(x.shape)}")
    out = ~stage.threat.contains(x, x_adv)
    if not bool(out.any()):
        return x_adv, (0, 0.0, 0)
    far = stage.threat.distance(x, x_adv)
    bad = ~far.isfinite()
    return torch.where(per_sample(out, x), stage.threat.project(x, x_adv.nan_to_num()), x_adv), (
        int(out.sum()),
        float(torch.where(bad, 0.0, far).max()),
        int(bad.sum()),
    )


def entry_of(
    fell: Tensor,
    pred: Tensor,
    margins: Tensor,
    distance: Tensor,
    step: Tensor,
    forwards: Tensor,
    backwards: Tensor,
    reached: Tensor,
    nonfinite: int,
    outside: tuple[int, float, int] = (0, 0.0, 0),
    sentences: Sequence[str] = (),
    images: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The result of a stage on a chunk as plain JSON: per-sample tensors become lists."""
    return {
        "fell": fell.tolist(), "pred": pred.tolist(), "margin": margins.tolist(), "distance": distance.tolist(), "step": step.tolist(),
        "forwards": forwards.tolist(), "backwards": backwards.tolist(), "reached": reached.tolist(), "nonfinite": nonfinite,
        "outside": list(outside), "warnings": list(sentences), "images": images or {},
    }  # fmt: skip


def diagnosed(trial: Trial, ids: Tensor) -> list[Check]:
    """The diagnostics on the first images, of the first process, from the journal where they are there already."""
    known = [entry["checks"] for entry in trial.journal.entries if "checks" in entry]
    if not known and trial.world.rank == 0:
        places = torch.arange(min(EXAMINED, len(trial.x)))
        stage = trial.outcomes.stages[-1]
        draws = Draws(trial.seed, ids[places].to(trial.device), "diagnostics")
        y = trial.outcomes.y[places].to(trial.device)
        random = any(options_of(stage.attack).get("eot", 1) > 1 for stage in trial.outcomes.stages if stage.attack is not None)
        found = diagnostics.examine(trial.exact, trial.pixels(places), y, stage.threat, draws, randomised_ok=random)
        known = [[[check.probe, check.name, check.value, check.raised, check.sentence] for check in found]]
        trial.journal.append({"checks": known[0]})
    return [Check(*values) for values in trial.world.agree(known)[0]]


def examples_of(outcomes: Outcomes, samples: Sequence[Sample]) -> list[tuple[int, Sample, Tensor]]:
    """The first kept images as (place among the images, line of the per-sample table, x_adv)."""
    line = outcomes.done[0].cumsum(0) - 1
    return [(place, samples[int(line[place])], image) for place, image in sorted(outcomes.images.items())[:EXAMPLES]]
