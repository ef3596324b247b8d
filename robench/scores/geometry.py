"""What a model's Jacobian says of its margins: row norms, effective margins, linearised distances, alignment of slope and image.

`jacobian_geometry` belongs to the model and to no method of explanation; `alignment` scores the maps of any method. With g_c = d z_c / d
x the rows of the Jacobian, at a point where the network is piecewise linear, (z_y - z_c) / ||g_y - g_c||_2 is the distance to the boundary
between y and c within the linear piece.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robench.core.checks import switch_option, whole_option
from robench.core.errors import InputError
from robench.core.model_calls import autograd_tensor, leaf_gradient, leaf_of, padded_logits, with_gradients
from robench.core.types import ExplainedImages
from robench.scores.facts import HIGHER, NEITHER, ScoreFacts

JACOBIAN_SCORES = {  # what `jacobian_geometry` gives
    "row-norm-true": ScoreFacts("The l2 norm of the gradient of the true logit by the image.", NEITHER, group="jacobian"),
    "row-norm-mean": ScoreFacts(
        "The mean l2 norm of the gradients of the other logits that are looked at by the image.",
        NEITHER,
        group="jacobian",
    ),
    "margin": ScoreFacts(
        "The true logit less the largest other one, in logits, whose scale differs from model to model.",
        NEITHER,
        group="jacobian",
    ),
    "effective-margin": ScoreFacts(
        "The margin divided by the slope of that difference: the l2 distance to the boundary, as if the model were linear.",
        HIGHER,
        group="jacobian",
    ),
    "effective-margin-min": ScoreFacts("The least such distance over the other classes.", HIGHER, group="jacobian"),
    "slope-alignment": ScoreFacts(
        "How long an image is along the slope of its true logit, in the units of its pixels.",
        NEITHER,
        group="jacobian",
    ),
}


@with_gradients
def jacobian_geometry(model: nn.Module, x: Tensor, y: Tensor, *, classes: int = 32, rows: int = 256) -> dict[str, Tensor]:
    """What the slopes of the logits say at images x with labels y: a dict of (B,) float64.

    The model is in eval mode with frozen parameters. Cost: one forward pass and min(classes, K - 1) + 1 backward passes over the images. A
    term common to all logits moves the row norms and the alignments, but no margin. Entries of a gradient that are not finite count as 0.

    Args:
        model: a classifier with logits (B, K), K at least 2.
        x: images (B, C, H, W), float in [0, 1].
        y: labels (B,) int64.
        classes: how many other classes are looked at, at least 1: for each image those of the largest logits. With fewer than all K - 1 the
            mean is of these alone and the least distance may be too large (our choice: the nearest boundary is rarely that of an unlikely
            class).
        rows: images per model call, at least 1; more are split.

    Returns:
        A dict with these keys, each (B,) float64. All are NaN for an image with a logit that is not finite; a quotient is NaN where its
        slope is 0, as where the model gives no gradient.

        * row-norm-true: ||g_y||_2.
        * row-norm-mean: the mean of ||g_c||_2 over the other classes that are looked at.
        * margin: z_y - max_{c != y} z_c; below 0 where the label is wrong.
        * effective-margin: margin / ||g_y - g_c||_2 with the runner-up c (Liu & Chan 2022, 2210.05118; our reading).
        * effective-margin-min: the least (z_y - z_c) / ||g_y - g_c||_2 of the other classes that are looked at: where the label is right,
          the l2 distance to the linearised boundary, the box of pixels aside (Moosavi-Dezfooli et al. 2016, 1511.04599).
        * slope-alignment: |<x, g_y>| / ||g_y||_2 of Etmann et al. 2019 (1905.04172, there for the predicted class), in units of x, which is
          taken as it is, with pixels in [0, 1]; its cosine is the score `alignment` of the map `saliency`.

    Raises:
        InputError: where `classes` or `rows` is no whole number of at least 1, and where the model has one logit.
    """
    whole_option("classes", classes), whole_option("rows", rows)
    parts = [jacobian_scores(model, some, labels, classes) for some, labels in zip(x.split(rows), y.split(rows), strict=True)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def jacobian_scores(model: nn.Module, x: Tensor, y: Tensor, classes: int) -> dict[str, Tensor]:
    """The scores of `jacobian_geometry` for images of one model call."""
    with torch.enable_grad():
        leaf = leaf_of(x)
        logits, y = padded_logits(model, leaf), autograd_tensor(y)
        class_indices = torch.cat((y[:, None], top_other_classes(logits.detach(), y, classes)), 1)
        totals = logits.gather(1, class_indices).sum(0).unbind()
    own = leaf_gradient(totals[0], leaf, again=True)
    lengths, slopes = other_class_norms(own, totals[1:], leaf)
    values = logits.detach().double().gather(1, class_indices)
    gaps = values[:, :1] - values[:, 1:]
    distances = gaps / valid_divisors(slopes)
    scores = {
        "row-norm-true": image_norms(own),
        "row-norm-mean": lengths.mean(1),
        "margin": gaps[:, 0],
        "effective-margin": distances[:, 0],
        "effective-margin-min": row_minima(distances),
        "slope-alignment": inner_products(x, own).abs() / valid_divisors(image_norms(own)),
    }
    sound = logits.isfinite().all(1)
    return {name: score.where(sound, torch.nan) for name, score in scores.items()}


def top_other_classes(logits: Tensor, y: Tensor, classes: int) -> Tensor:
    """The classes other than y, (B, J), those with the largest logits first, at most `classes`; the first is the runner-up."""
    if logits.shape[1] < 2:
        raise InputError("margins need a model of at least 2 classes, and this one has 1 logit")
    rest = logits.scatter(1, y[:, None], -torch.inf)
    return rest.argsort(dim=1, descending=True, stable=True)[:, : min(classes, logits.shape[1] - 1)]


def other_class_norms(own: Tensor, totals: tuple[Tensor, ...], leaf: Tensor) -> tuple[Tensor, Tensor]:
    """||g_c|| and ||g_y - g_c|| of the other classes, (B, J) float64 each, from the sums of their logits: a backward pass a class."""
    lengths, slopes = [], []
    for countdown, total in enumerate(totals, 1 - len(totals)):
        grad = leaf_gradient(total, leaf, again=countdown < 0)
        lengths.append(image_norms(grad))
        slopes.append(image_norms(own - grad))
    return torch.stack(lengths, 1), torch.stack(slopes, 1)


def row_minima(distances: Tensor) -> Tensor:
    """The least of each row (B, J) that is a number, (B,); NaN where none is."""
    valid = ~distances.isnan()
    return distances.where(valid, torch.inf).amin(1).where(valid.any(1), torch.nan)


def image_norms(images: Tensor) -> Tensor:
    """The l2 norm of each image, (B,) float64."""
    return inner_products(images, images).sqrt()


def inner_products(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of each two images, (B,) float64."""
    return (one.flatten(1).double() * other.flatten(1).double()).sum(1)


def valid_divisors(values: Tensor) -> Tensor:
    """The values, NaN where they are not above 0 or not finite: what may be divided by."""
    return values.where((values > 0) & values.isfinite(), torch.nan)


def image_cosines(one: Tensor, other: Tensor) -> Tensor:
    """The cosine of the angle between each two images, (B,) float64; NaN where one is 0 everywhere or not finite somewhere."""
    return (inner_products(one, other) / valid_divisors(image_norms(one)) / valid_divisors(image_norms(other))).clamp(-1, 1)


@ScoreFacts("The cosine of the angle between an image and its signed map, from -1 to 1.", NEITHER, group="maps")
def alignment(explained: ExplainedImages, *, centred: bool = False) -> Tensor:
    """The cosine of the angle between each image and its signed map, (B,) float64 in [-1, 1].

    After the alignment of Etmann et al. 2019 (1905.04172), who take |<x, g>| / ||g|| with the gradient as the map; the sign and the
    division by ||x|| are our choice; `slope-alignment` of `jacobian_geometry` is theirs. A map of one channel is compared with the mean of
    the image over its channels.

    Args:
        explained: maps (B, c, H, W) of images (B, C, H, W).
        centred: whether the mean of each channel is taken off the image first: else an image of pixels in [0, 1] is mostly its own
            brightness, and the score mostly the mean of the map.

    Returns:
        The cosines (B,) float64; NaN for a map or an image that is 0 everywhere or not finite somewhere.
    """
    x = explained.x.double()
    image = x - x.mean((2, 3), keepdim=True) if switch_option("centred", centred) else x
    return image_cosines(image.mean(1, keepdim=True) if explained.maps.shape[1] == 1 else image, explained.maps)
