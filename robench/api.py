"""The public functions: what the command line can do, from Python. Each returns a Measurement, with tables, pictures and files.

All of them take one model, a mapping of names to models, or a list of `Subject`, and the images as tensors or arrays x (N, C, H, W) with
labels y (N,), as an `Images`, or as a DataLoader of (x, y).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from robench.auditing import beforehand, chosen_methods, chosen_scores
from robench.audits.inequality import gini_of
from robench.calls import with_gradients
from robench.corrupting import Exporting, Source, made, named, only_adds, pool_of_source, released_images, stages_of_source
from robench.data import Images
from robench.data.export import Export
from robench.degradation import Reference, alexnet
from robench.errors import InputError
from robench.evaluation import how_of, measured
from robench.inputs import Array, PathLike, Radius, Suite, as_chosen, as_images, as_model, as_path, as_radii, as_tensor
from robench.plans import Asked, kind_of, nothing, refuse_unknown
from robench.recipes import Recipe, fraction, parse, spelled
from robench.report.result import Result
from robench.results.compare import Compared, Results, blind, failures, load, notes
from robench.results.compare import compare as compared
from robench.results.compare import gates as gates_of
from robench.rows import blank
from robench.runs.pools import images_of
from robench.runs.types import Subject
from robench.suites import expanded
from robench.threat import Threat, known_radius

Models = nn.Module | Subject | Mapping[str, Any] | Sequence[Subject]
Pictures = Array | Images | DataLoader[Any]


@dataclass(frozen=True)
class Comparison:
    """Two runs image by image: a line a probe and radius, a sentence for each gate that failed, and notes."""

    lines: list[Compared]
    failures: list[str]
    notes: list[str]


@with_gradients
def evaluate(
    model: Models, x: Pictures, y: Array | None = None, *, suite: Suite = "autoattack", norm: str = "linf", eps: Radius | None = None,
    threats: Sequence[str | Threat] = (), scores: Sequence[str] = ("gini",), scale: str = "auto", photos: PathLike | None = None,
    save: PathLike | None = None, pngs: PathLike | None = None, words: Mapping[str, Any] | None = None, **how: Any,
) -> Result:  # fmt: skip
    """Everything that a suite names, each attack on the images that still stand, with intervals, seconds and passes."""
    images = as_pool(x, y, how.pop("ids", None))
    chosen = as_chosen(suite)
    asked = Asked(chosen, as_threats(norm, eps, threats), scores=scores_of(scores, images, chosen), scale=scale, photos=str(photos or ""))
    return finished(as_subjects(model, images), images, asked, how, save=as_path(save, "save"), pngs=as_path(pngs, "pngs"), words=words)


def attack(model: Models, x: Pictures, y: Array | None = None, recipe: str | Recipe = "pgd-20", **how: Any) -> Result:
    """One attack on the images that a model gets right; keywords as in `evaluate`."""
    one = parse(recipe) if isinstance(recipe, str) else recipe
    refuse_kind(one, "attack")
    return evaluate(model, x, y, suite=[one], **how)


def probe(
    model: Models, x: Pictures, y: Array | None = None, recipes: Suite = "inductive", **how: Any
) -> Result:  # fmt: skip
    """Error rates under probes, on the images that each model gets right and on those that all do; keywords as in `evaluate`."""
    for _, one in expanded(as_chosen(recipes)):
        refuse_kind(one, "probe")
    return evaluate(model, x, y, suite=recipes, **how)


@with_gradients
def corrupt(
    model: Models, x: Pictures | Source, y: Array | None = None, corruptions: Sequence[str] = ("fifteen",),
    severities: Sequence[int] = (1, 2, 3, 4, 5), *, scale: str = "auto", photos: PathLike | None = None,
    reference: nn.Module | Subject | Reference | str | None = None, target: Export | None = None,
    words: Mapping[str, Any] | None = None, **how: Any,
) -> Result:  # fmt: skip
    """Accuracy under common corruptions, made here or read from a released set, and the means over them."""
    if isinstance(x, Source):
        source, images = x, released_images(x)
    else:
        images = as_pool(x, y, how.pop("ids", None))
        source = made(
            images, named(corruptions), severities, scale=scale, photos=str(photos or ""), seed=how.get("seed", 0),
            device=how.get("device", "cpu"),
        )  # fmt: skip
    asked = Asked([], [Threat("linf", 8 / 255)])
    told = {"source": source.name, "reference": "", **source.about, **(words or {})}
    with nullcontext() if target is None else Exporting(target) as taker:
        return finished(
            as_subjects(model, images), images, asked, how, stages=stages_of_source(source), words=told, adds=only_adds, taker=taker,
            reference=reference_of(reference, images, source), pool=pool_of_source(source),
        )  # fmt: skip


def reference_of(reference: Any, images: Images, source: Source) -> Subject | Reference | None:
    """By whose errors others are divided: a model to be measured along, AlexNet's published errors, or None."""
    if reference is None or isinstance(reference, (Subject, Reference)):
        return reference
    if reference == "alexnet":
        setting = dict(word.partition("=")[::2] for word in source.setting.split())
        return alexnet(len(source.classes), "imagenet" if setting.get("layout") == "imagenet-c" else setting.get("scale", ""))
    return replace(as_subjects({"reference": reference}, images)[0])


@with_gradients
def saliency(
    model: Models, x: Pictures, y: Array | None = None, methods: Sequence[str | Recipe] = ("saliency",),
    scores: Sequence[str] = ("maps", "masks"), *, target: str | int = "true", channels: str = "none",
    against: Sequence[str | Recipe] = (), joined: Sequence[tuple[str, Results]] = (), inductive: bool = False, norm: str = "linf",
    eps: Radius | None = None, threats: Sequence[str | Threat] = (),
    save: Callable[[str, str], Path | None] | None = None, words: Mapping[str, Any] | None = None,
    tell: Callable[[Sequence[str]], None] = lambda _: None, **how: Any,
) -> Result:  # fmt: skip
    """The scores of saliency maps, on the images as they are and on what attacks, probes and corruptions make of them."""
    images = as_pool(x, y, how.pop("ids", None))
    recipes = chosen_methods_of(methods)
    chosen, notes = chosen_scores(scores, images.masks is not None, images.shape[1:])
    others = [parse(one) if isinstance(one, str) else one for one in against]
    asked = Asked(
        [*recipes, *(["inductive"] if inductive else [])], as_threats(norm, eps, threats), against=others, joined=joined, scores=chosen,
        target=target, channels=channels, save_maps=save or nothing,
    )  # fmt: skip
    told = [*notes, *beforehand(recipes, chosen, images.x)]
    tell(told)
    return finished(as_subjects(model, images), images, asked, how, words=words, told=told)


def chosen_methods_of(methods: Sequence[str | Recipe]) -> list[Recipe]:
    """The recipes of methods, each once."""
    return [replace(one, kind="method") for one in chosen_methods([spelled(one) if isinstance(one, Recipe) else one for one in methods])]


def compare(base: PathLike, new: PathLike, gates: Sequence[str] = (), alpha: float = 0.05) -> Comparison:
    """Two results folders, image by image, and the gates."""
    before, after = load(Path(base)), load(Path(new))
    lines = compared(before, after)
    chosen = gates_of(gates, [line.probe for line in lines])
    return Comparison(lines, failures(chosen, lines, alpha), [*notes(before, after), *blind(chosen, lines[0].n, alpha)])


def gini(maps: Array) -> Tensor:
    """The Gini index of the sizes of each map, (B,) float64: 0 is even, near 1 is one pixel alone; NaN for a map that is 0 everywhere."""
    sizes = as_tensor(maps, "maps")
    if sizes.dim() < 2 or not sizes[0].numel():
        raise InputError(f"maps of shape {tuple(sizes.shape)} are none: hand over (B, ...), one map an image")
    return gini_of(sizes.abs().flatten(1).sort(1).values)


def refuse_kind(recipe: Recipe, wanted: str) -> None:
    """InputError where a recipe is of another kind than the function measures."""
    found = kind_of(recipe)
    if found != wanted:
        raise InputError(f"{recipe.label} is no {wanted} but a {found}: robench.evaluate takes recipes of every kind")


def finished(
    subjects: Sequence[Subject], images: Images, asked: Asked, how: dict[str, Any], *, told: Sequence[str] = (), **more: Any
) -> Result:  # fmt: skip
    """The measurement with what its pictures need; `told` are notes that were said before it began."""
    refuse_unknown(asked, how.get("engine", "robench"))
    found = measured(subjects, images, asked, how_of(**how), **more)
    parts = {part.name: getattr(found, part.name) for part in fields(found)}
    return Result(**{**parts, "notes": [*told, *found.notes]}, images=images, told=tuple(told))


def scores_of(names: Sequence[str], images: Images, chosen: Sequence[str | Recipe]) -> list[Recipe]:
    """The scores of the methods among what is asked for; none where there is no method."""
    if not any(kind_of(recipe) == "method" for _, recipe in expanded(chosen)):
        return []
    return chosen_scores(names, images.masks is not None, images.shape[1:])[0]


def as_subjects(model: Models, images: Images) -> list[Subject]:
    """The models under measurement, each with the name, data set and split of its rows; "" is the name of one that came without."""
    if isinstance(model, Mapping):
        found = [Subject(as_model(one), replace(blank(), checkpoint=str(name))) for name, one in model.items()]
    elif isinstance(model, (list, tuple)) and all(isinstance(one, Subject) for one in model):
        found = list(model)
    else:
        found = [model if isinstance(model, Subject) else Subject(as_model(model), blank())]
    return [
        replace(one, about=replace(one.about, data=one.about.data or images.name, split=one.about.split or images.split)) for one in found
    ]


def as_pool(x: Pictures, y: Array | None, ids: Array | None) -> Images:
    """Images with labels, from whatever a caller has. InputError for images without labels."""
    if isinstance(x, (Images, DataLoader)) and (y is not None or ids is not None):
        raise InputError(f"x is {'an Images' if isinstance(x, Images) else 'a DataLoader'}, which has its own labels: leave y and ids out")
    if isinstance(x, Images):
        return x
    if isinstance(x, DataLoader):
        parts = [(as_images(images), labels) for images, labels, *_ in x]
        if not parts:
            raise InputError("the DataLoader gives no batch")
        x, y = torch.cat([images for images, _ in parts]), torch.cat([torch.as_tensor(labels) for _, labels in parts])
    if y is None:
        raise InputError("x comes without labels: hand over y as well, an Images, or a DataLoader of (x, y)")
    return images_of(x, y, ids)


def as_threats(norm: str, eps: Radius | None, threats: Sequence[str | Threat]) -> list[Threat]:
    """The threats of attacks: those that are spelled out (linf:8/255), else a norm with its radii."""
    if not threats:
        return [Threat(norm, one) for one in as_radii(known_radius(norm) if eps is None else eps)]
    if eps is not None or norm != "linf":
        raise InputError("a threat says its norm and radius: leave norm and eps out (--norm, --eps)")
    return [one if isinstance(one, Threat) else threat_of(one) for one in threats]


def threat_of(words: str) -> Threat:
    """The threat that `NORM:EPS` spells, such as linf:8/255; InputError for anything else."""
    norm, colon, eps = words.partition(":")
    try:
        return Threat(norm.strip(), fraction(eps.strip())) if colon else known_threat(words)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read the threat {words!r}: write NORM:EPS, such as linf:8/255 or l2:0.5") from None


def known_threat(words: str) -> Threat:
    """Refuses a threat without its radius."""
    raise InputError(f"cannot read the threat {words!r}: write NORM:EPS, such as linf:8/255 or l2:0.5")
