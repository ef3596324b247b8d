"""The tables that commands write: Row, one tidy measurement, and what became of one image, Sample under attacks and Tried under probes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

CLEAN = "clean"  # images as they are: their probe, the stage that classifies them, and the kind of images that methods explain
OVERALL_PROBE = "corruptions"  # the probe of what is measured over several corruptions
OVERALL_SEQUENCES = "sequences"  # and over sequences of several perturbations
WORST_NORM = "worst"  # the norm of what stands under all threats, image by image
CLASS_METRICS = ("class_accuracy", "worst_class_accuracy")  # of one class, the word class=LABEL of their setting
OUTPUTS_METRIC = "outputs"  # how many outputs of a model compete, where that is not all of them
SOURCE_ROLE = "role=source"  # a word in the setting of the accuracy on images that a stage only gives to others


@dataclass(frozen=True)
class Row:
    """One measurement; a table of them is in long form, so that every report is a pivot.

    Attributes:
        checkpoint: what was measured, as the user named it.
        preset: the training preset; "" for foreign models.
        data: the images' data set.
        split: its split.
        n: number of images.
        seed: of all draws.
        norm: of the threat; "" where there is none.
        eps: radius of the threat in pixel units; 0 where there is none.
        probe: what was done: "clean", or the label of an attack, probe, corruption, method or suite.
        setting: its options as key=value words.
        metric: what `value` is: accuracy, seconds, forwards, backwards, ...
        value: a fraction (not percent), seconds or a count.
        low: lower end of the 95 % interval, nan where there is none.
        high: its upper end.
        interval: how it was found: "wilson", "bootstrap" (over images), "fisher" (of a rank correlation), or "anytime, of 500 images",
            which speaks of those 500 images alone; "exact, all classes" and "anytime, all classes" hold for the lowest of all classes,
            although it was chosen by looking; "" where there is none.
    """

    checkpoint: str
    preset: str
    data: str
    split: str
    n: int
    seed: int
    norm: str
    eps: float
    probe: str
    setting: str
    metric: str
    value: float
    low: float = math.nan
    high: float = math.nan
    interval: str = ""


def setting_dict(setting: str) -> dict[str, str]:
    """The words of a setting, key=value, as a dict.

    Args:
        setting: as in `Row`.

    Example:
        >>> setting_dict("severity=3 scale=cifar")
        {'severity': '3', 'scale': 'cifar'}
    """
    return {key: value for key, _, value in (word.partition("=") for word in setting.split())}


@dataclass(frozen=True)
class IntervalKind:
    """How the 95 % interval of a share is found.

    Attributes:
        name: the word that the rows carry.
        bounds: bounds(successes, n) -> (low, high).
    """

    name: str
    bounds: Callable[[float, int], tuple[float, float]]

    def row_with(self, row: Row, successes: float, n: int) -> Row:
        """The row with the share as its value, and with its interval.

        Args:
            row: the row to fill in.
            successes: the count, from 0 to n; a mean over several draws need not be whole.
            n: of how many, at least 1.
        """
        low, high = self.bounds(successes, n)
        return replace(row, value=successes / n, low=low, high=high, interval=self.name)


def with_interval(row: Row, value: float, low: float, high: float, name: str) -> Row:
    """The row with a value and its interval.

    Args:
        row: the row to fill in.
        value: the value.
        low: lower end of the interval, nan where there is none.
        high: its upper end.
        name: how the interval was found; it is left out where `low` is nan.
    """
    return replace(row, value=value, low=low, high=high, interval="" if math.isnan(low) else name)


@dataclass(frozen=True)
class Sample:
    """What became of one image.

    Attributes:
        sample: its index in the official split.
        label: its label.
        clean_pred: the label that the model gives it.
        adv_pred: the label at x_adv; clean_pred where the image stands.
        broken_by: "clean", the attack that broke it, or "" for a survivor.
        eps: the radius at which it was broken; nan if it was not, or when clean.
        step: the iteration of that attack, -1 if there is none.
        clean_margin: logit of the label minus the largest other logit.
        adv_margin: the same at x_adv; nan where the image stands.
        distance: norm of x_adv - x; nan where it stands.
        forwards: forward passes spent on it over all attacks.
        backwards: backward passes spent on it over all attacks.
        rounded_pred: the label at x_adv in 8 bits; -1 where it stands or was wrong when clean.
        png: its picture, such as x_adv-12.png; "none" where no grey levels were found that fool within eps; else "".
    """

    sample: int
    label: int
    clean_pred: int
    adv_pred: int
    broken_by: str
    eps: float
    step: int
    clean_margin: float
    adv_margin: float
    distance: float
    forwards: int
    backwards: int
    rounded_pred: int = -1
    png: str = ""


@dataclass(frozen=True)
class ProbeSample:
    """What one level of a probe did to one image; the probe "clean" stands for the image as it is, and has a line for every image.

    Attributes:
        checkpoint: the checkpoint of the level's rows.
        probe: the probe of the level's rows.
        setting: the setting of the level's rows.
        sample: index of the image in the official split.
        label: its label.
        clean_pred: the label that the model gives the clean image.
        fooled: share of the draws in which the model was wrong.
        changed_share: mean share of the image that was to be changed.
    """

    checkpoint: str
    probe: str
    setting: str
    sample: int
    label: int
    clean_pred: int
    fooled: float
    changed_share: float


@dataclass(frozen=True)
class Check:
    """One diagnostic: what was looked at, the evidence, and whether it is a sign that the numbers cannot be trusted as they are.

    Attributes:
        probe: "clean", or the attack it belongs to.
        name: such as randomised or zero_gradient.
        value: the evidence, a number.
        raised: whether the flag is raised.
        sentence: what it means, for people.
    """

    probe: str
    name: str
    value: float
    raised: bool
    sentence: str


def blank_row() -> Row:
    """A Row whose measurement is still to be filled in."""
    return Row("", "", "", "", 0, 0, "", 0.0, "", "", "", math.nan)


def wilson(successes: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval (Wilson 1927) of a proportion.

    Args:
        successes: from 0 to n; may be a mean over several draws on the same n samples, for which the interval is wider than need be.
        n: number of samples; 0 gives (0, 1).
        z: normal quantile, 1.96 for 95 %.

    Returns:
        (low, high), which hold the proportion.

    Example:
        >>> [round(end, 3) for end in wilson(8, 10)]
        [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    p, zz = successes / n, z * z
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n)
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))  # it holds p; rounding must not undo that


WILSON = IntervalKind("wilson", wilson)
