"""Measures a model: clean accuracy, then attacks in a cascade over the samples that still stand.

The generators yield Rows as they are measured and keep what became of every image in one `Outcomes`. Every claim of an
attack is checked here: its point must lie in the threat, and the model, asked again, must give finite logits and another label than y.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from robench.attacks import ATTACKS, reference
from robench.attacks.active import frozen
from robench.draws import Draws
from robench.errors import InputError
from robench.recipes import Recipe, resolve, setting
from robench.rows import Row, Sample, wilson
from robench.suites import recipes
from robench.threat import Threat, per_sample
from robench.types import Found

T = TypeVar("T")
EXAMPLES = 8  # how many adversarial images are kept for the pictures
Attack = Callable[..., Found]


class Track(Protocol):
    """Wraps an iterable of known length to show its progress; the plain `untracked` shows nothing."""

    def __call__(self, things: Iterable[T], what: str, length: int) -> Iterable[T]:
        """The things themselves."""


def untracked(things: Iterable[T], what: str, length: int) -> Iterable[T]:  # noqa: ARG001
    """The things themselves: no progress is shown."""
    return things


@dataclass
class Outcomes:
    """What became of N images, as tensors of length N on the CPU, in the words of rows.Sample; filled in by `clean` and `attacked`."""

    ids: Tensor
    y: Tensor
    clean_pred: Tensor
    clean_margin: Tensor
    adv_pred: Tensor
    adv_margin: Tensor
    distance: Tensor
    step: Tensor
    forwards: Tensor
    backwards: Tensor
    broken_by: list[str]
    classes: int = 0
    examples: list[tuple[int, Tensor]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)

    @property
    def standing(self) -> Tensor:
        """Places of the samples that no probe has broken, (M,) int64."""
        return torch.tensor([place for place, probe in enumerate(self.broken_by) if not probe], dtype=torch.int64)

    def samples(self) -> list[Sample]:
        """The per-sample table."""
        columns: Sequence[list[Any]] = [
            self.ids.tolist(), self.y.tolist(), self.clean_pred.tolist(), self.adv_pred.tolist(), self.broken_by, self.step.tolist(),
            self.clean_margin.tolist(), self.adv_margin.tolist(), self.distance.tolist(), self.forwards.tolist(), self.backwards.tolist(),
        ]  # fmt: skip
        return [Sample(*entry) for entry in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Trial:
    """One evaluation under way: the model, its images, the columns that all its rows share, how it is run, and what is known so far."""

    model: nn.Module
    x: Tensor
    outcomes: Outcomes
    base: Row
    batch_size: int
    device: str
    track: Track

    def pixels(self, places: Tensor) -> Tensor:
        """The images at `places` as float pixels in [0, 1] on the device, (M, C, H, W)."""
        chosen = self.x[places.to(self.x.device)].to(self.device)
        return chosen if chosen.is_floating_point() else chosen.float() / 255


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`: measurements, what became of each image, the flags raised, and some adversarial examples (place, x_adv)."""

    rows: list[Row]
    samples: list[Sample]
    flags: list[str]
    examples: list[tuple[int, Tensor]]

    def accuracy(self, probe: str) -> float:
        """The accuracy after a probe: "clean", the name of an attack, or the name of the suite."""
        return next(row.value for row in self.rows if row.probe == probe and row.metric == "accuracy")


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    suite: str | Sequence[Recipe] = "autoattack",
    norm: str = "linf",
    eps: float = 8 / 255,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    about: Row | None = None,
    track: Track = untracked,
) -> Evaluation:
    """Clean accuracy and the accuracy after every attack of a suite, each on what still stands, with intervals, seconds and passes.

    model  gives logits (B, K) for pixels (B, C, H, W) in [0, 1]; it is put into eval mode and left as it was
    x      (N, C, H, W), uint8 or float in [0, 1];  y (N,) labels;  ids (N,) sample ids for the draws, 0..N-1 if not given
    suite  a name of suites.SUITES, or recipes to run one after the other
    about  the columns of Row that only the caller knows (checkpoint, preset, data, split)
    Raises InputError for images, labels or logits that cannot be evaluated.
    """
    threat = Threat(norm, eps)
    attacks = [(recipe, resolve(recipe, ATTACKS, "attack")) for recipe in (recipes(suite) if isinstance(suite, str) else suite)]
    base = replace(about or blank(), n=len(x), seed=seed, norm=norm, eps=eps)
    outcomes = outcomes_of(x, y, ids)
    trial = Trial(model.to(device), x, outcomes, base, batch_size, device, track)
    with frozen(model):
        rows = list(clean(trial))
        outcomes.flags += limits([recipe for recipe, _ in attacks], outcomes.classes, norm)
        for recipe, attack in attacks:
            rows += attacked(trial, recipe, attack, threat)
    if isinstance(suite, str):
        rows += verdict(suite, rows, base)
        outcomes.flags += square_helps(rows)
    return Evaluation(rows, outcomes.samples(), outcomes.flags, outcomes.examples)


def blank() -> Row:
    """A Row whose measurement is still to be filled in."""
    return Row("", "", "", "", 0, 0, "", 0.0, "", "", "", float("nan"))


def outcomes_of(x: Tensor, y: Tensor, ids: Tensor | None) -> Outcomes:
    """Outcomes of which nothing is known yet; InputError where images, labels and ids do not go together."""
    if x.dim() != 4 or len(x) == 0 or y.shape != (len(x),):
        raise InputError(f"expected images (N, C, H, W) with one label each and N > 0, got x {tuple(x.shape)} and y {tuple(y.shape)}")
    if x.is_floating_point() and not bool(((x >= 0) & (x <= 1)).all()):
        raise InputError(
            f"pixels must lie in [0, 1]; these lie in [{x.min():.4g}, {x.max():.4g}]: undo the normalisation, it belongs in the model"
        )
    whole, none = torch.full((len(x),), -1), torch.full((len(x),), float("nan"))
    ids = torch.arange(len(x)) if ids is None else ids.cpu()
    zero = torch.zeros_like(whole)
    return Outcomes(
        ids,
        y.cpu(),
        whole.clone(),
        none.clone(),
        whole.clone(),
        none.clone(),
        none.clone(),
        whole.clone(),
        zero,
        zero.clone(),
        [""] * len(x),
    )


def clean(trial: Trial) -> Iterator[Row]:
    """Clean accuracy over all N samples; those the model gets wrong are broken by "clean". InputError where logits are not finite."""
    begin, outcomes, n = time.perf_counter(), trial.outcomes, trial.base.n
    chunks = torch.arange(n).split(trial.batch_size)
    with torch.no_grad():
        for places in trial.track(chunks, "clean", len(chunks)):
            logits, y = trial.model(trial.pixels(places)).cpu(), outcomes.y[places]
            check_logits(logits, y)
            outcomes.clean_pred[places] = outcomes.adv_pred[places] = logits.argmax(1)
            outcomes.clean_margin[places] = margin(logits, y)
    outcomes.broken_by[:] = ["" if right else "clean" for right in (outcomes.clean_pred == outcomes.y).tolist()]
    outcomes.forwards += 1
    outcomes.classes = logits.shape[1]
    outcomes.flags += chance(len(outcomes.standing), n, outcomes.classes)
    unattacked = replace(trial.base, norm="", eps=0.0)
    yield from measured(unattacked, "clean", "", len(outcomes.standing), time.perf_counter() - begin, n, 0)


def check_logits(logits: Tensor, y: Tensor) -> None:
    """InputError where the model cannot be evaluated on clean images: logits of a wrong shape or not finite, labels out of range."""
    if logits.dim() != 2 or len(logits) != len(y):
        raise InputError(f"the model returns {tuple(logits.shape)} for {len(y)} images: expected logits (B, K)")
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the model gives NaN or infinite logits on clean images: it cannot be evaluated")
    wrong = y[(y < 0) | (y >= logits.shape[1])]
    if len(wrong):
        raise InputError(f"label {int(wrong[0])} is out of range: the model has {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}")


def attacked(trial: Trial, recipe: Recipe, attack: Attack, threat: Threat) -> Iterator[Row]:
    """Runs one attack on the samples that stand, in full batches; yields the accuracy that is left, success rate, seconds and passes."""
    begin, outcomes = time.perf_counter(), trial.outcomes
    standing = outcomes.standing
    chunks = standing.split(trial.batch_size) if len(standing) else ()
    before, reached = passes(outcomes), 0
    for places in trial.track(chunks, recipe.label, len(chunks)):
        x, y = trial.pixels(places), outcomes.y[places].to(trial.device)
        draws = Draws(trial.base.seed, outcomes.ids[places].to(trial.device), recipe.label)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            found = attack(trial.model, x, y, threat, draws)
        raise_flags(outcomes, recipe.label, [str(warning.message) for warning in caught])
        x_adv = inside(x, threat, found, recipe.label, outcomes)
        record(trial, places, x, x_adv, found, threat, recipe.label)
        reached += int(found.fooled.sum())
    forwards, backwards = passes(outcomes)
    left, seconds = len(outcomes.standing), time.perf_counter() - begin
    yield from measured(trial.base, recipe.label, setting(attack), left, seconds, forwards - before[0], backwards - before[1])
    if len(standing):
        low, high = wilson(reached, len(standing))
        named = replace(trial.base, probe=recipe.label, setting=setting(attack), n=len(standing))
        yield replace(named, metric="success_rate", value=reached / len(standing), low=low, high=high)


def passes(outcomes: Outcomes) -> tuple[int, int]:
    """Forward and backward passes spent so far, summed over the samples."""
    return int(outcomes.forwards.sum()), int(outcomes.backwards.sum())


def raise_flags(outcomes: Outcomes, name: str, sentences: Iterable[str]) -> None:
    """Adds flags about a probe, each once."""
    new = [f"{name}: {sentence}" for sentence in sentences]
    outcomes.flags += [flag for flag in dict.fromkeys(new) if flag not in outcomes.flags]


def inside(x: Tensor, threat: Threat, found: Found, name: str, outcomes: Outcomes) -> Tensor:
    """The attack's points, (B, C, H, W), all of them in the threat: one that is not is moved to the nearest point that is, with a flag."""
    x_adv = found.x_adv.detach().to(x)
    if x_adv.shape != x.shape:
        raise InputError(f"attack {name!r} returned points of shape {tuple(x_adv.shape)} for images of shape {tuple(x.shape)}")
    out = ~threat.contains(x, x_adv)
    if not bool(out.any()):
        return x_adv
    raise_flags(
        outcomes, name, [f"points outside the threat (up to {threat.norm} {float(threat.distance(x, x_adv).max()):.6g}), projected back"]
    )
    return torch.where(per_sample(out, x), threat.project(x, x_adv.nan_to_num()), x_adv)


def record(trial: Trial, places: Tensor, x: Tensor, x_adv: Tensor, found: Found, threat: Threat, name: str) -> None:
    """Asks the model again at x_adv and writes what truly fell into the outcomes; keeps the first few fallen images as examples.

    A point counts if its logits are finite and give another label than y; what is not finite raises a flag.
    """
    outcomes, y = trial.outcomes, trial.outcomes.y[places]
    with torch.no_grad():
        logits = trial.model(x_adv).cpu()
    finite = torch.isfinite(logits).all(1)
    if bool((found.nonfinite.cpu() | ~finite).any()):
        raise_flags(outcomes, name, ["met NaN or infinite logits, which never count as adversarial"])
    fallen = (logits.argmax(1) != y) & finite
    fell = places[fallen]
    outcomes.forwards[places] += found.forwards.cpu() + 1
    outcomes.backwards[places] += found.backwards.cpu()
    outcomes.adv_pred[fell] = logits[fallen].argmax(1)
    outcomes.adv_margin[fell] = margin(logits, y)[fallen]
    outcomes.distance[fell] = threat.distance(x, x_adv).float().cpu()[fallen]
    outcomes.step[fell] = found.step.cpu()[fallen]
    for place, image in zip(fell.tolist(), x_adv.cpu()[fallen], strict=True):
        outcomes.broken_by[place] = name
        if len(outcomes.examples) < EXAMPLES:
            outcomes.examples.append((place, image))


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The true logit minus the largest other one, (B,); negative where the label is wrong."""
    others = logits.scatter(1, y[:, None], float("-inf"))
    return (logits.gather(1, y[:, None])[:, 0] - others.amax(1)).float()


def measured(base: Row, probe: str, options: str, standing: int, seconds: float, forwards: int, backwards: int) -> Iterator[Row]:
    """The rows of one probe: accuracy with its Wilson interval, seconds, forward and backward passes summed over the samples."""
    named = replace(base, probe=probe, setting=options)
    low, high = wilson(standing, base.n)
    yield replace(named, metric="accuracy", value=standing / base.n, low=low, high=high)
    for metric, value in (("seconds", seconds), ("forwards", forwards), ("backwards", backwards)):
        yield replace(named, metric=metric, value=float(value))


def verdict(suite: str, rows: Sequence[Row], base: Row) -> Iterator[Row]:
    """The suite's own rows: the accuracy that is left at its end, and the sums of seconds and passes."""
    last = [row for row in rows if row.metric == "accuracy"][-1]
    yield replace(last, probe=suite, setting="", norm=base.norm, eps=base.eps)
    for metric in ("seconds", "forwards", "backwards"):
        yield replace(base, probe=suite, metric=metric, value=sum(row.value for row in rows if row.metric == metric))


def chance(right: int, n: int, classes: int) -> list[str]:
    """A flag where clean accuracy is no better than guessing: its interval reaches below 1.2 / K."""
    if wilson(right, n)[0] > 1.2 / classes or n < 30:
        return []
    return [f"clean: accuracy {right / n:.3f} is near chance (1/{classes}): check the data, the label order and the normalisation"]


def square_helps(rows: Sequence[Row]) -> list[str]:
    """The flag of AutoAttack's own check: the black-box attack breaks over 0.2 points more than the white-box ones before it."""
    left = {row.probe: row.value for row in rows if row.metric == "accuracy"}
    before = [left[name] for name in ("clean", "apgd-ce", "apgd-t", "fab-t") if name in left]
    if "square" not in left or left["square"] >= min(before) - 0.002:
        return []
    return [
        f"square: takes accuracy from {min(before):.4f} to {left['square']:.4f}, more than white-box attacks found: gradients may be masked"
    ]


def limits(chosen: Sequence[Recipe], classes: int, norm: str) -> list[str]:
    """What the reference engine does otherwise for a model of few classes, as flags; empty where nothing is."""
    names = {recipe.name for recipe in chosen}
    return [sentence for sentence in reference.limits(classes, norm) if sentence.replace(":", " ").split()[0] in names]
