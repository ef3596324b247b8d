"""The saliency audit of a model: its maps by every method, the scores of each map, and how they go with what attacks do to the same images.

The audit takes the images in chunks and keeps one number an image and score; the maps themselves are kept for the pictures alone, or
written to a file. Images whose map is zero everywhere have no Gini: they are counted, and left out of the means.
"""

from __future__ import annotations

import inspect
import re
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench.altered import Altered
from robench.attacks.losses import margin
from robench.audits import AUDITS, GROUPS
from robench.audits.geometry import geometry
from robench.audits.inequality import block_of, lorenz, sizes_of
from robench.calls import CUT, are_probabilities, frozen, padded, with_gradients
from robench.claims import CHANGED, is_own, of_copies, on_copies, put_back, weights_of
from robench.draws import Draws
from robench.errors import InputError
from robench.evaluation import Track, check_logits, checked, make_rows, pixels, untracked, write_rows
from robench.explainers import COMPLETE, EXPLAINERS, LAYERED, MASKING, chosen_layer, prepared
from robench.explainers import remarks as masking_remarks
from robench.explainers.hooks import cut
from robench.inputs import as_seed, kind
from robench.memory import ending_told
from robench.models.passes import arithmetic
from robench.recipes import Recipe, lookup, options_of, parse, resolve, setting
from robench.rows import Row
from robench.types import Explain, Explained

CLEAN = "clean"  # the images as they are
REGIONAL = "regional-gini"
JACOBIAN = "jacobian"  # the rows of scores that belong to the model and to no method
TILES = 8  # how many images the gallery shows
REMADE = ("max-sensitivity", "randomisation")  # scores that ask the method for maps again
TRIED = 2  # images on which a model, method and score are tried out before the audit
POINTS = 101  # of a Lorenz curve
Score = Callable[[Explained], Tensor]


@dataclass
class Scored:
    """The scores of one method on one kind of images of one model: the rows of the per-sample table that belong together.

    images   clean, or the name of what changed them            places  (M,) which of the N images these are
    values   score by name, (M,) float64, NaN where undefined    lorenz  (POINTS,) mean Lorenz curve, NaN where there is none
    zero     (M,) bool: the map is zero everywhere               bad     (M,) bool: the map is not finite
    pred     (M,) the labels that the model gives these images   target  (M,) the class explained
    maps     maps (C or 1, H, W) of the images that are shown, by place
    options  each score's own options, key=value words with commas between them
    """

    method: str
    setting: str
    images: str
    places: Tensor
    values: dict[str, Tensor]
    zero: Tensor
    bad: Tensor
    pred: Tensor
    target: Tensor
    lorenz: Tensor
    seconds: float = 0.0
    maps: dict[int, Tensor] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """The audit of one model: its predictions (N,) and margins (N,) on the clean images, and the scores of its maps."""

    about: Row
    ids: Tensor
    y: Tensor
    pred: Tensor
    margin: Tensor
    scored: list[Scored]
    altered: Sequence[Altered]
    shown: list[int]
    notes: list[str]
    flags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """What the steps of an audit share; x (N, C, H, W) uint8 or float, target (N,), logits (N, K) of the images that are explained."""

    model: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor
    masks: Tensor | None
    target: str | int
    channels: str
    seed: int
    batch_size: int
    device: str
    track: Track
    shown: list[int]
    save: Callable[[str], Path | None]


def chosen_methods(methods: Sequence[str], **common: int | str | None) -> list[Recipe]:
    """The recipes of the methods, with the options in `common` where a method has them and the user did not give them there.

    InputError for a method or an option that is unknown, for one asked for twice, and for a common option that no method has.
    """
    recipes = [parse(sentence) for sentence in methods]
    used: set[str] = set()
    found: list[Recipe] = []
    for recipe in recipes:
        known = options_of(resolve(recipe, EXPLAINERS, "method"))
        fitting = {key: value for key, value in common.items() if value is not None and key in known}
        used |= set(fitting)
        found.append(replace(recipe, options=fitting | recipe.options))
        resolve(found[-1], EXPLAINERS, "method")
    idle = [key for key, value in common.items() if value is not None and key not in used]
    if idle:
        raise InputError(f"none of the methods {', '.join(methods)} has a {idle[0]}: leave --{idle[0]} out")
    twice = [recipe.label for recipe in found if sum(other.label == recipe.label for other in found) > 1]
    if twice:
        raise InputError(f"method {twice[0]!r} is asked for twice: rows could not be told apart; run it in a call of its own")
    return found


def without_blocks(size: tuple[int, int]) -> str:
    """Why images of size (H, W) have no regional Gini, as a sentence; "" where they have one."""
    try:
        block_of(*size)
    except InputError as error:
        return f"{REGIONAL} is left out: {error}"
    return ""


def chosen_scores(names: Sequence[str], masks: bool, size: tuple[int, int]) -> tuple[list[Recipe], list[str]]:
    """The recipes of the scores that names of scores and of groups stand for, each once, and notes.

    Of a group, scores that need masks are chosen only where there are some, and the regional Gini only where blocks divide images of
    size (H, W), with a note otherwise.
    InputError for an unknown name, and for a score that was named itself and cannot be had.
    """
    found: dict[str, Recipe] = {}
    note = without_blocks(size) if any(REGIONAL in GROUPS.get(name, ()) for name in names) else ""
    missing = {*(() if masks else GROUPS["masks"]), *((REGIONAL,) if note else ())}
    for name in names:
        if name in GROUPS:
            fitting = [parse(score) for score in GROUPS[name] if score not in missing]
            found |= {score.label: score for score in fitting if score.label not in found}
            continue
        recipe = parse(name)
        if recipe.name not in GROUPS["jacobian"]:
            if ".py:" not in recipe.name:
                lookup(recipe.name, AUDITS | dict.fromkeys(GROUPS), "score")
            resolve(recipe, AUDITS, "score")
        if recipe.name in GROUPS["masks"] and not masks:
            raise InputError(f"score {recipe.name!r} needs the object's mask of each image: of the data here, only shapes has them")
        found[recipe.label] = recipe
    return list(found.values()), [note] if note and REGIONAL not in found else []


@with_gradients
def audit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    methods: Sequence[Recipe],
    scores: Sequence[Recipe],
    target: str | int = "true",
    channels: str = "none",
    ids: Tensor | None = None,
    masks: Tensor | None = None,
    altered: Sequence[Altered] = (),
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    about: Row,
    save: Callable[[str], Path | None] = lambda _: None,
    track: Track = untracked,
) -> Audit:
    """The scores of a model's saliency maps, method by method, on the clean images and on what became of them.

    model      gives logits (B, K) for pixels (B, C, H, W) in [0, 1]; it is left as it was
    target     which logit is explained: true, predicted (on the images that are explained), or the number of a class
    channels   none: every subpixel counts for itself; sum, max or mean: the sizes of a pixel's channels are put together first
    masks      (N, H, W) bool, where the object is
    altered    changed versions of the images: those that have a version are explained as well
    save       the file, (N, C or 1, H, W) float32 in .npy format, that takes a method's maps of the clean images, or None
    Raises InputError for images, labels, logits, methods or targets that do not go together.
    """
    x, y, ids = checked(x, y, ids)
    seed = as_seed(seed)
    about = replace(about, n=len(x), seed=seed, norm="", eps=0.0)
    shown = next((change.places[:TILES].tolist() for change in altered if len(change.places)), list(range(min(TILES, len(x)))))
    with ending_told(batch_size), frozen(model, device), arithmetic("fp32"), warnings.catch_warnings():
        work = Work(model, x, y, ids, masks, target, channels, seed, batch_size, device, track, shown, save)
        logits = logits_of(work, x, torch.arange(len(x)))
        check_logits(logits, y)
        refuse_probabilities(logits)
        warnings.filterwarnings("ignore", message=re.escape(CUT), category=RuntimeWarning)
        is_cut = cut(model, pixels(x, torch.arange(1), device))
        flags, notes = [f"{CLEAN}: {CUT}"] if is_cut else [], list[str]()
        everywhere = torch.arange(len(x))
        scored = on_jacobian(work, scores, logits, everywhere)
        for recipe in methods:
            own = [one.label for one in (recipe, *scores) if is_own(one.label)]
            kept = weights_of(model) if own else []
            found, more = by_method(work, recipe, scores, logits, everywhere, altered)
            flags += [f"{' and '.join(own)}: {CHANGED}"] if put_back(kept) else []
            scored += found
            notes += more
    return Audit(
        about,
        ids,
        y,
        logits.argmax(1),
        -margin(logits, y).double(),
        scored,
        altered,
        shown,
        notes + remarks(scored, reaction(logits, is_cut)),
        flags,
    )


def beforehand(methods: Sequence[Recipe], scores: Sequence[Recipe], x: Tensor) -> list[str]:
    """What to know before maps of the images x (N, C, H, W) are made: what the methods that hide blocks cost, and whether they can do."""
    found: list[str] = []
    again = [score.label for score in scores if score.name in REMADE]
    for recipe in methods:
        if recipe.name not in MASKING:
            continue
        notes = masking_remarks(recipe.name, x, options_of(resolve(recipe, EXPLAINERS, "method")))
        if notes and again:
            notes.append(f"{' and '.join(again)} make{'s' if len(again) == 1 else ''} maps anew, which multiplies its passes")
        found += [f"{recipe.label}: {note}" for note in notes]
    return found


def try_out(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    methods: Sequence[Recipe],
    scores: Sequence[Recipe],
    target: str | int = "true",
    channels: str = "none",
    ids: Tensor | None = None,
    masks: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
) -> None:
    """Asks for every map and every score of the first two images; arguments as in `audit`.

    Raises InputError where `audit` would refuse a method, a score, a target or the model's logits, before the other images are computed.
    """
    x, y, ids = checked(x, y, ids)
    few = torch.arange(min(TRIED, len(x)))
    with ending_told(batch_size), frozen(model, device), arithmetic("fp32"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=re.escape(CUT), category=RuntimeWarning)
        work = Work(model, x, y, ids, masks, target, channels, seed, batch_size, device, untracked, [], lambda _: None)
        logits = logits_of(work, x, few)
        check_logits(logits, y)
        refuse_probabilities(logits)
        on_jacobian(work, scores, logits, few)
        for recipe in methods:
            kept = weights_of(model) if any(is_own(one.label) for one in (recipe, *scores)) else []
            by_method(work, recipe, scores, logits, few)
            put_back(kept)  # the audit tells of it


def logits_of(work: Work, x: Tensor, places: Tensor) -> Tensor:
    """The logits (M, K) on the CPU of the images of x at `places`."""
    with torch.no_grad():
        return torch.cat([padded(work.model, pixels(x, part, work.device)).cpu() for part in places.split(work.batch_size)])


def refuse_probabilities(logits: Tensor) -> None:
    """InputError where the outputs are probabilities: their gradients vanish where the model is sure."""
    if bool(are_probabilities(logits).all()):
        raise InputError("the model returns probabilities, whose gradients vanish where it is sure: leave the softmax out of the model")


def targets(target: str | int, y: Tensor, logits: Tensor) -> Tensor:
    """The class explained for each image, (M,); InputError for a word or number that names none."""
    if isinstance(target, int):
        if not 0 <= target < logits.shape[1]:
            raise InputError(f"--target {target} is no class of the model: it has {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}")
        return torch.full_like(y, target)
    return lookup(target, {"true": y, "predicted": logits.argmax(1)}, "target")


def on_jacobian(work: Work, scores: Sequence[Recipe], logits: Tensor, places: Tensor) -> list[Scored]:
    """The scores that belong to the model and to no method, of the images at `places`, (M,), whose logits are (M, K)."""
    wanted = [recipe.name for recipe in scores if recipe.name in GROUPS["jacobian"]]
    if not wanted:
        return []
    begin, parts = time.perf_counter(), []
    chunks = places.split(work.batch_size)
    for some in work.track(chunks, JACOBIAN):
        parts.append(geometry(work.model, pixels(work.x, some, work.device), work.y[some].to(work.device)))
    values = {name: torch.cat([part[name].cpu().double() for part in parts]) for name in wanted}
    none, labels = torch.zeros(len(places), dtype=torch.bool), targets(work.target, work.y[places], logits)
    curve = torch.full((POINTS,), torch.nan, dtype=torch.float64)
    return [Scored(JACOBIAN, "", CLEAN, places, values, none, none, logits.argmax(1), labels, curve, time.perf_counter() - begin)]


def by_method(
    work: Work, recipe: Recipe, scores: Sequence[Recipe], logits: Tensor, places: Tensor, altered: Sequence[Altered] = ()
) -> tuple[list[Scored], list[str]]:
    """The scores of one method on the clean images at `places` and on every changed version, and notes on what it asked of the model."""
    few = pixels(work.x, torch.arange(min(8, len(work.x))), work.device)
    model, notes = prepared(recipe.name, work.model, few)
    if recipe.name in LAYERED:
        layer, _ = chosen_layer(model, few, recipe.options.get("layer", ""))
        recipe, notes = replace(recipe, options=recipe.options | {"layer": layer}), [*notes, f"the layer is {layer!r}"]
    explain: Explain = resolve(recipe, EXPLAINERS, "method")
    explain = on_copies(explain) if is_own(recipe.name) else explain
    work = replace(work, model=model)
    complete = recipe.name in COMPLETE and options_of(explain).get("baseline") != "uniform"
    scorers = {score.label: scorer(score, explain) for score in scores if applies(score.name, complete)}
    words = f"{setting(explain)} target={work.target} channels={work.channels}".strip()
    run = partial(on_images, work, recipe.label, explain, scorers, words)
    found = [run(CLEAN, work.x, places, logits)]
    for change in altered:
        if change.x is not None and len(change.places):
            found.append(run(change.name, change.x, change.places, logits_of(work, change.x, change.places)))
    return found, [f"{recipe.label}: {note}" for note in notes]


def applies(score: str, complete: bool) -> bool:
    """Whether a score is one of maps, and one that a method can have whose maps add up to the difference to one baseline, or do not."""
    return score not in GROUPS["jacobian"] and (score != "completeness" or complete)


def scorer(recipe: Recipe, explain: Explain) -> Score:
    """The score with its options; completeness gets the method's own baseline where the user gave none."""
    baseline = options_of(explain).get("baseline", inspect.Parameter.empty)
    score = resolve(recipe, AUDITS, "score")
    if recipe.name == "completeness" and "baseline" not in recipe.options and baseline is not inspect.Parameter.empty:
        return partial(score, baseline=baseline)
    return of_copies(score) if is_own(recipe.name) else score


def on_images(
    work: Work, method: str, explain: Explain, scorers: dict[str, Score], words: str, images: str, x: Tensor, places: Tensor, logits: Tensor
) -> Scored:
    """The scores of a method on the images of x at `places`, whose logits are (M, K)."""
    begin, parts = time.perf_counter(), list[tuple[dict[str, Tensor], Tensor, Tensor, Tensor]]()
    none, labels = torch.zeros(0), targets(work.target, work.y[places], logits)
    found = Scored(method, f"{words} images={images}", images, places, {}, none, none, logits.argmax(1), labels, none)
    saved = work.save(method) if images == CLEAN else None
    chunks = torch.arange(len(places)).split(work.batch_size)
    for rows in work.track(chunks, f"{method} {images}"):
        some = explained(work, method, explain, x, places[rows], logits[rows])
        bad = ~some.maps.isfinite().flatten(1).all(1)
        some = some if not bool(bad.any()) else without(some, bad)
        values = {name: values_from(score(some), len(some.x), name) for name, score in scorers.items()}
        parts.append((values, zero_of(some), bad.cpu(), curves(some)))
        found.maps |= {place: some.maps[row].cpu() for row, place in enumerate(places[rows].tolist()) if place in work.shown}
        if saved is not None and len(parts) == 1:
            make_rows(saved, (len(work.x), *some.maps.shape[1:]))
        write_rows(saved, places[rows], some.maps)
    for name in scorers:
        found.values[name] = torch.cat([part[0][name] for part in parts])
    found.options = {name: setting(score).replace(" ", ",") for name, score in scorers.items()}
    found.zero, found.bad = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
    found.zero &= ~found.bad
    found.lorenz = torch.cat([part[3] for part in parts]).nanmean(0)
    found.seconds = time.perf_counter() - begin
    return found


def explained(work: Work, method: str, explain: Explain, x: Tensor, places: Tensor, logits: Tensor) -> Explained:
    """The images of x at `places` with their maps."""
    ids, y = work.ids[places].to(work.device), work.y[places].to(work.device)
    some, draws = pixels(x, places, work.device), Draws(work.seed, ids, method)
    target = targets(work.target, y, logits.to(work.device))
    maps = maps_from(explain(work.model, some, target, draws), some, method)
    masks = None if work.masks is None else work.masks[places].to(work.device)
    sizes = sizes_of(maps, work.channels)
    return Explained(work.model, some, y, target, logits.to(work.device), maps, sizes, explain, draws.child("scores"), masks)


def maps_from(made: object, x: Tensor, method: str) -> Tensor:
    """The maps that a method made of the images x (B, C, H, W); InputError where it made something else."""
    shape = tuple(x.shape)
    if isinstance(made, Tensor) and made.is_floating_point() and tuple(made.shape) in (shape, (shape[0], 1, *shape[2:])):
        return made.detach()
    found = f"a tensor of {kind(made)} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
    raise InputError(f"method {method!r} returned {found}: it must return float maps, of shape {shape} or with one channel")


def values_from(made: object, n: int, score: str) -> Tensor:
    """The values that a score gave n images, (n,) float64 on the CPU; InputError where it gave something else."""
    if isinstance(made, Tensor) and tuple(made.shape) == (n,):
        return made.detach().cpu().double()
    found = f"a tensor of shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
    raise InputError(f"score {score!r} returned {found}: it must return a tensor with one number an image, ({n},)")


def without(some: Explained, bad: Tensor) -> Explained:
    """The same with zero maps in place of those that are not finite, so that no score falls over them; they are counted apart."""
    keep = (~bad).view(-1, 1, 1, 1)
    return replace(some, maps=torch.where(keep, some.maps, 0.0), sizes=torch.where(keep, some.sizes, 0.0))


def zero_of(some: Explained) -> Tensor:
    """Which maps are zero everywhere, (B,) bool."""
    return (some.sizes.flatten(1).amax(1) == 0).cpu()


def curves(some: Explained) -> Tensor:
    """The Lorenz curves, (B, POINTS) float64."""
    return lorenz(some.ordered, POINTS).cpu()


def reaction(logits: Tensor, is_cut: bool) -> str:
    """What was seen of a model, for the remark that all its maps are zero: that its graph is cut, or its logits (N, K) on the images."""
    if is_cut:
        return ", as its logits have no gradient"
    if len(logits) < 2:
        return ""
    alike = bool((logits == logits[:1]).all())
    return ", and it gives every image the same logits" if alike else ", although its logits differ from image to image"


def remarks(scored: Iterable[Scored], seen: str) -> list[str]:
    """Sentences on maps that are zero or not finite; `seen` says how the model reacted."""
    found = []
    for some in scored:
        zero, bad, n = int(some.zero.sum()), int(some.bad.sum()), len(some.places)
        where = f"{some.method} on {some.images} images"
        if zero == n > 0:
            found.append(f"{where}: all {n} maps of the model are zero{seen}: there is no Gini to report")
        elif zero:
            found.append(f"{where}: {zero} of {n} maps are zero everywhere; they have no Gini and are left out")
        if bad:
            found.append(f"{where}: {bad} of {n} maps hold NaN or infinite numbers; they are left out")
    return found


def layers_of(audits: Sequence[Audit]) -> dict[str, dict[str, str]]:
    """The layer that each method looked at, by model and method; only those that look at one."""
    found: dict[str, dict[str, str]] = {}
    for audit in audits:
        for some in audit.scored:
            layer = dict(word.partition("=")[::2] for word in some.setting.split()).get("layer")
            if layer:
                found.setdefault(audit.about.checkpoint, {})[some.method] = layer
    return found


def columns(audits: Sequence[Audit]) -> dict[str, list[Any]]:
    """The per-sample table of several audits as columns: a line for each model, method, kind of images and image; "" where undefined."""
    scores = list(dict.fromkeys(name for audit in audits for some in audit.scored for name in some.values))
    changes = list(dict.fromkeys(change.name for audit in audits for change in audit.altered))
    names = ["checkpoint", "method", "images", "sample", "label", "clean_pred", "target", "clean_margin", "zero_map"]
    table: dict[str, list[Any]] = {name: [] for name in [*names, *scores, *(f"fallen_{name}" for name in changes)]}
    for audit in audits:
        for some in audit.scored:
            extend(table, audit, some, scores, changes)
    return table


def extend(table: dict[str, list[Any]], audit: Audit, some: Scored, scores: Sequence[str], changes: Sequence[str]) -> None:
    """Adds the lines of one method on one kind of images to the table."""
    places, n = some.places, len(some.places)
    table["checkpoint"] += [audit.about.checkpoint] * n
    table["method"] += [some.method] * n
    table["images"] += [some.images] * n
    for name, values in (("sample", audit.ids), ("label", audit.y), ("clean_pred", audit.pred), ("clean_margin", audit.margin)):
        table[name] += values[places].tolist()
    table["target"] += some.target.tolist()
    table["zero_map"] += some.zero.long().tolist()
    for name in scores:
        table[name] += some.values[name].tolist() if name in some.values else [None] * n
    fallen = {change.name: change for change in audit.altered}
    for name in changes:
        table[f"fallen_{name}"] += fallen[name].words(places) if name in fallen else [None] * n
