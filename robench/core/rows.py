"""The tables that commands write: Row, one tidy measurement, and what became of one image, Sample under attacks and Tried under probes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

CLEAN = "clean"  # images as they are: their probe, the stage that classifies them, and the kind of images that methods explain
OVERALL_PROBE = "corruptions"  # the probe of what is measured over several corruptions
WORST_NORM = "worst"  # the norm of what stands under all threats, image by image
SOURCE_ROLE = "role=source"  # a word in the setting of the accuracy on images that a stage only gives to others


@dataclass(frozen=True)
class Row:
    """One measurement; a table of them is in long form, so that every report is a pivot.

    checkpoint  what was measured, as the user named it          preset   the training preset, empty for foreign models
    data, split the images' data set and split                   n, seed  how many images; the seed of all draws
    norm, eps   the threat, empty and 0 where there is none      probe    the recipe: clean, fgsm, pgd-20, autoattack, ...
    setting     the probe's options, key=value                   metric   accuracy, seconds, forwards, backwards, ...
    value       a fraction (not percent), seconds or a count     low, high  95 % interval, nan where there is none
    interval    how it was found: wilson, bootstrap (over images), fisher (of a rank correlation), or "anytime, of 500 images", which
                speaks of those 500 images alone; empty where there is none
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


@dataclass(frozen=True)
class IntervalKind:
    """How the 95 % interval of a share is found, and the name that the rows give it."""

    name: str
    bounds: Callable[[float, int], tuple[float, float]]

    def row_with(self, row: Row, successes: float, n: int) -> Row:
        """The row with the share and its interval."""
        low, high = self.bounds(successes, n)
        return replace(row, value=successes / n, low=low, high=high, interval=self.name)


def with_interval(row: Row, value: float, low: float, high: float, name: str) -> Row:
    """The row with a value and its interval; without the name where there is no interval."""
    return replace(row, value=value, low=low, high=high, interval="" if math.isnan(low) else name)


@dataclass(frozen=True)
class Sample:
    """What became of one image.

    sample         its index in the official split               label        its label
    clean_pred     the label the model gives it                  adv_pred     the label at x_adv; clean_pred where it stands
    broken_by      "clean", the attack that broke it, or "" for a survivor
    eps            the radius at which it was broken, nan if it was not, or when clean
    step           the iteration of that attack, -1 if none      clean_margin true logit minus the largest other one
    adv_margin     the same at x_adv, nan where it stands        distance     norm of x_adv - x, nan where it stands
    forwards, backwards   passes spent on it over all attacks
    rounded_pred   the label at x_adv in 8 bits, -1 where it stands or was wrong when clean
    png            its picture, x_adv-12.png, or "none" where no grey levels were found that fool within eps; else ""
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

    checkpoint, probe, setting   the columns of the level's rows       sample, label, clean_pred   as in Sample
    fooled         share of the draws in which the model was wrong     changed_share   share of the image that was to be changed, mean
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

    probe     clean, or the attack it belongs to             name     randomised, zero_gradient, ...
    value     the evidence, a number                         raised   whether the flag is raised
    sentence  what it means, for people
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
    """The Wilson score interval (Wilson 1927) of a proportion; z = 1.96 gives 95 %. n = 0 gives (0, 1).

    Successes may be a mean over several draws on the same n samples; the interval is then wider than need be.
    """
    if n == 0:
        return 0.0, 1.0
    p, zz = successes / n, z * z
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n)
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))  # it holds p; rounding must not undo that


WILSON = IntervalKind("wilson", wilson)
