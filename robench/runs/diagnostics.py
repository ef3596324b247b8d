"""Diagnostics: signs that a robust accuracy cannot be trusted as it is, as data. Every check returns its evidence, raised or not.

A function that takes numbers or tensors is pure and returns one Check; `model_checks` runs those that need the model. What is looked
for follows AutoAttack's own flags (Croce & Hein 2020, 2003.01690), the advice of Carlini et al. 2019 (1902.06705), the symptoms
of obfuscated gradients of Athalye et al. 2018 (1802.00420) and the indicators of attack failure of Pintor et al. 2021
(2106.09947). A threshold without a source is ours: docs/diagnostics.md has the figures it was set on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robench.attacks import attack_facts
from robench.attacks.active import Search
from robench.attacks.fgsm import fgsm
from robench.attacks.losses import ce, class_logits, dlr, margin
from robench.attacks.noise import noise
from robench.attacks.pgd import pgd, run_pgd
from robench.core.draws import Draws
from robench.core.model_calls import are_probabilities, padded_logits
from robench.core.recipes import eps_text
from robench.core.rows import Check, wilson
from robench.core.threat import Threat
from robench.models.contract import reads_training

MOST_PASSES = (50, 36)  # forward and backward passes of `model_checks` over each image, at the most
PASSES = 5  # over the same images, to see whether the model is randomised
NOISE_TRIES = 5  # of noise per image
PGD_STEPS = 10  # of the PGD that the others are held against


def model_checks(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws, *, randomised_ok: bool = False) -> list[Check]:
    """The checks that need the model: all of them, raised or not.

    The attacks among them try to change the model's own decisions, so that every image counts, also one that is wrong when
    clean. At most 39 forward and 26 backward passes over the images, and 11 and 10 more over those that the attack without
    a bound leaves.

    Args:
        model: in eval mode with frozen parameters.
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        threat: the threat of the run's attacks.
        draws: random numbers of these samples.
        randomised_ok: whether the suite is made for a randomised model, so that its randomness raises no flag.
    """
    with torch.no_grad(), watch_autograd() as calls:
        first = model(x)
    with torch.no_grad():
        noisy = randomised_check(torch.stack([first, *(model(x) for _ in range(PASSES - 1))]), y, randomised_ok)
        mixed = batch_dependent_check(first, logits_in_other_batches(model, x), unsteady=noisy.value)
    attached, own = AttachedModel(model), first.argmax(1)
    checks = [dynamic_check(len(calls)), noisy, mixed, probabilities_check(first)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of gradients that are 0: the checks tell of them
        return checks + gradient_checks(attached, x, own, threat, draws) + attack_checks(attached, x, own, first, threat, draws)


class AttachedModel(nn.Module):
    """The model with an exact 0 added that depends on x: its gradient is 0, and no error, where the model gives none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits, (B, K)."""
        logits: Tensor = self.model(x)
        return logits + 0 * x.flatten(1).sum(1, keepdim=True)


def gradient_checks(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, draws: Draws) -> list[Check]:
    """The checks of input gradients, for images x (B, C, H, W) that the model gives the labels y: 2 forward and 5 backward passes."""
    logits, (no_ce, *clean) = logits_and_zero_gradients(model, x, y, ce, margin, dlr)
    _, start = logits_and_zero_gradients(model, threat.sample(x, draws.child("start")), y, margin, dlr)
    dead = torch.stack([*clean, *start])
    way = "" if bool(dead.any()) else "; use margin or dlr, whose gradients are there"
    return [zero_gradient_check(dead), vanishing_ce_check(no_ce, way), saturated_check(-margin(logits, y), way)]


def attack_checks(model: nn.Module, x: Tensor, y: Tensor, logits: Tensor, threat: Threat, draws: Draws) -> list[Check]:
    """The checks that hold one small attack against another, on images the model labels y: 30 forward, 21 backward passes."""
    search = Search(model, x, y, threat)
    last = run_pgd(search, x, ce, 2.5 * threat.eps / PGD_STEPS, PGD_STEPS)
    before, stood = log_odds_against(logits, y), search.rows[search.standing]
    after = torch.full_like(before, float("inf"))
    if len(stood):
        with torch.no_grad():
            after[stood] = log_odds_against(padded_logits(model, last[search.standing]), y[stood])
    many, single = search.result().fooled, fgsm(model, x, y, threat, draws).fooled
    blind = noise(model, x, y, threat, draws.child("noise"), tries=NOISE_TRIES).fooled
    reach = float(threat.distance(torch.zeros_like(x[:1]), torch.ones_like(x[:1])))
    free = pgd(model, x, y, Threat(threat.norm, reach), draws.child("free"), steps=PGD_STEPS, loss="margin", restarts=2).fooled
    selection = slice(None) if threat.eps else slice(0)
    return [
        noise_beats_gradient_check(blind, many),
        single_step_check(single, many),
        loss_stalls_check(before[selection], after[selection]),
        unbroken_at_eps_1_check(free),
    ]


@contextmanager
def watch_autograd() -> Iterator[list[str]]:
    """The names of the calls of autograd made inside, as they come; the true functions are back at the end, whatever happens.

    The door that every one of torch's own routes goes through is watched, where this torch has it: a model may have taken
    `grad` or `backward` aside when it was imported. Calls from other threads count too; forward-mode derivatives do not.
    """
    doors = ["_engine_run_backward"] if hasattr(torch.autograd, "_engine_run_backward") else ["grad", "backward"]
    true, calls = {name: getattr(torch.autograd, name) for name in doors}, list[str]()

    def counting(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return true[name](*args, **options)

        return call

    try:
        for name in doors:
            setattr(torch.autograd, name, counting(name))
        yield calls
    finally:
        for name, function in true.items():
            setattr(torch.autograd, name, function)


def logits_in_other_batches(model: nn.Module, x: Tensor) -> Tensor:
    """The logits of the first half of x, (2, ceil(B/2), K): once alone in reversed order, once behind the same images inverted."""
    half = x[: (len(x) + 1) // 2]
    alone: Tensor = model(half.flip(0)).flip(0)
    return torch.stack((alone, model(torch.cat((1 - half, half)))[len(half) :]))


def logits_and_zero_gradients(model: nn.Module, x: Tensor, y: Tensor, *losses: Callable[..., Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The logits at x, and for each loss whether its input gradient is exactly 0, (B,) bool each.

    Only where the label is still y: behind the boundary the DLR loss is constant when y comes third. Without a third class
    the margin stands in for DLR, which then is not defined.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits = padded_logits(model, leaf)
        defined_losses = [margin if loss is dlr and logits.shape[1] < 3 else loss for loss in losses]
        grads = [torch.autograd.grad(loss(logits, y).sum(), leaf, retain_graph=True)[0] for loss in defined_losses]
    own = logits.argmax(1) == y
    return logits.detach(), [(grad == 0).flatten(1).all(1) & own for grad in grads]


def unit_logits(logits: Tensor) -> Tensor:
    """Logits (..., K) with rows of unit length, float64."""
    rows = logits.double()
    length: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / (length + 1e-10)


def log_odds_against(logits: Tensor, y: Tensor) -> Tensor:
    """log((1 - p_y) / p_y), (B,) float64: rises with the cross-entropy, and goes on where float32 rounds that to 0."""
    gaps = logits.double() - class_logits(logits, y)[:, None].double()
    return gaps.scatter(1, y[:, None], float("-inf")).logsumexp(1)


def true_share(mask: Tensor) -> float:
    """The share of True; 0 where there is nothing."""
    return float(mask.double().mean()) if len(mask) else 0.0


def check_with_advice(probe: str, name: str, value: float, raised: bool, evidence: str, advice: str) -> Check:
    """The Check whose sentence is the evidence, and the advice with it where the flag is raised."""
    return Check(probe, name, float(value), bool(raised), f"{evidence}: {advice}" if raised else evidence)


def modes_of(model: nn.Module) -> list[bool]:
    """Whether each module that depends on the mode is in training mode. To be asked before the model is frozen.

    A module depends on the mode if its forward reads `training`, as dropout and batch norm do, or cannot be looked into: so a plain
    nn.Sequential around a network in eval mode raises nothing.
    """
    return [module.training for module in model.modules() if reads_training(module)]


def train_mode_check(modes: Sequence[bool], ran: Sequence[Check] = ()) -> Check:
    """The share of mode-dependent modules that came in training mode; raised if any did.

    Args:
        modes: whether each such module was in training mode, from `modes_of`.
        ran: the checks of modes that were made while the model ran. Where one was raised, it was not measured in eval mode.
    """
    evidence = f"{sum(modes)} of {len(modes)} modules that depend on it came in training mode"
    mode_clause = "" if any(check.raised for check in ran) else "measured here in eval mode; "
    advice = f"{mode_clause}call model.eval() where you use it"
    return check_with_advice("clean", "train_mode", sum(modes) / max(len(modes), 1), any(modes), evidence, advice)


def dynamic_check(calls: int) -> Check:
    """How often the model calls autograd in one forward pass; raised if at all (AutoAttack's flag for defences at test time)."""
    advice = "a defence that optimises at test time needs an attack made for it"
    return check_with_advice("clean", "dynamic", calls, calls > 0, f"{calls} calls of autograd in one forward pass", advice)


def randomised_check(passes: Tensor, y: Tensor, randomised_ok: bool = False) -> Check:
    """The largest distance between unit logits of two passes over the same images, passes (P, B, K).

    Raised above 1e-4, or if the number right differs (AutoAttack's rule), unless the suite is made for it.
    """
    rows = unit_logits(passes).transpose(0, 1)
    apart = float(torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").max())
    right = (passes.argmax(2) == y).sum(1)
    raised = (apart > 1e-4 or bool((right != right[0]).any())) and not randomised_ok
    evidence = (
        f"{len(passes)} passes over the same images: {int(right.min())} to {int(right.max())} right, unit logits up to {apart:.2g} apart"
    )
    return check_with_advice("clean", "randomised", apart, raised, evidence, "use attacks that average over draws, such as autoattack-rand")


def batch_dependent_check(alone: Tensor, mixed: Tensor, unsteady: float = 0.0) -> Check:
    """The largest distance between the unit logits of the same images in different batches: alone (B, K), mixed (2, <= B, K).

    Raised above 1e-3 if the model is not merely randomised: at least ten times what two equal passes differ by, `unsteady`.
    """
    apart = float((unit_logits(mixed) - unit_logits(alone[: mixed.shape[1]])).norm(dim=-1).max())
    raised = apart > 1e-3 and apart > 10 * unsteady
    advice = "verdicts depend on the batch; does a normalisation layer use batch statistics?"
    return check_with_advice(
        "clean", "batch_dependent", apart, raised, f"unit logits of an image move by {apart:.2g} with its batch", advice
    )


def probabilities_check(logits: Tensor) -> Check:
    """The share of rows (B, K) that are not negative and sum to 1; raised if all do (AutoAttack's rule)."""
    share = true_share(are_probabilities(logits))
    advice = "gradients of probabilities vanish where the model is sure; give logits"
    return check_with_advice("clean", "probabilities", share, share == 1, f"{share:.1%} of the outputs are probabilities", advice)


def zero_gradient_check(dead: Tensor) -> Check:
    """The share of images (J, B) bool with a gradient of exactly 0 in one of J losses and points; raised if any (after AutoAttack)."""
    share = true_share(dead.any(0))
    evidence = f"{share:.1%} of images have a zero gradient of the margin or DLR loss, clean or at a random start"
    return check_with_advice(
        "clean", "zero_gradient", share, share > 0, evidence, "gradient attacks are blind on these; trust only black-box ones there"
    )


def vanishing_ce_check(dead: Tensor, way: str = "") -> Check:
    """The share of clean images (B,) whose gradient of the cross-entropy is exactly 0; raised above 0.1. `way`: what to use, if known."""
    share = true_share(dead)
    advice = f"attacks that climb it are blind{way}"
    return check_with_advice(
        "clean", "vanishing_ce", share, share > 0.1, f"{share:.1%} of images have a zero gradient of the cross-entropy", advice
    )


def saturated_check(gaps: Tensor, way: str = "") -> Check:
    """The median gap between the two largest logits, gaps (B,); raised above 100, where float32 has no cross-entropy left."""
    median = float(gaps.median()) if len(gaps) else 0.0
    return check_with_advice(
        "clean",
        "saturated",
        median,
        median > 100,
        f"the median logit gap is {median:.3g}",
        f"the cross-entropy is rounded to 0 there{way}",
    )


def noise_beats_gradient_check(blind: Tensor, climbed: Tensor) -> Check:
    """The share that noise of norm eps breaks less the share that PGD does, (B,) bool each (after Carlini et al. 2019, 1902.06705).

    Raised when noise breaks more than 2 images and at least as many as PGD, unless PGD breaks all.
    """
    noise_count, gradient_count = int(blind.sum()), int(climbed.sum())
    raised = noise_count > 2 and noise_count >= gradient_count and gradient_count < len(climbed)
    evidence = f"noise breaks {noise_count} of {len(blind)} images, PGD-{PGD_STEPS} {gradient_count}"
    return check_with_advice(
        "noise",
        "noise_beats_gradient",
        true_share(blind) - true_share(climbed),
        raised,
        evidence,
        "gradients lead nowhere; they may be masked",
    )


def single_step_check(single: Tensor, many: Tensor) -> Check:
    """The share that FGSM breaks and PGD from the same start does not, (B,) bool each; raised when FGSM breaks more images.

    A symptom of obfuscated gradients (Athalye et al. 2018, 1802.00420).
    """
    one, ten = int(single.sum()), int(many.sum())
    evidence = f"FGSM breaks {one} of {len(single)} images, PGD-{PGD_STEPS} {ten}"
    return check_with_advice(
        "fgsm",
        "single_step_beats_multi_step",
        true_share(single & ~many),
        one > ten,
        evidence,
        "the loss surface misleads; gradients may be masked",
    )


def loss_stalls_check(before: Tensor, after: Tensor) -> Check:
    """The share of images whose loss, (B,) each, is no higher after PGD than before it; raised above 0.1 (after 2106.09947)."""
    share = true_share(after <= before)
    evidence = f"PGD-{PGD_STEPS} does not raise the loss of {share:.1%} of images"
    return check_with_advice(
        "pgd-10", "loss_stalls", share, share > 0.1, evidence, "the attack fails to climb; the model need not be robust"
    )


def unbroken_at_eps_1_check(fell: Tensor) -> Check:
    """The share (B,) bool that stands where every image is within reach; raised above 0 (after Athalye et al. 2018, 1802.00420)."""
    share = true_share(~fell)
    advice = "an attack that cannot fail fails; gradients may be masked"
    return check_with_advice(
        "pgd-10", "unbroken_at_eps_1", share, share > 0, f"{share:.1%} of images withstand an attack without a bound", advice
    )


def black_box_check(left: Mapping[str, float]) -> Check:
    """The most that a black-box attack lowers the accuracy below all probes before it.

    Raised above 0.002 (AutoAttack's rule for Square, here also where white-box attacks that run later go lower still).

    Args:
        left: the accuracy after each probe, by its name, in the order in which they ran.
    """
    names = list(left)
    black = [attack_facts(name.partition(",")[0]).black_box for name in names]
    white_ran = [any(name != "clean" and not b for name, b in zip(names[:i], black, strict=False)) for i in range(len(names))]
    drops = {name: min(list(left.values())[:i]) - left[name] for i, name in enumerate(names) if black[i] and white_ran[i]}
    if not drops:
        return check_with_advice("clean", "black_box_beats_white_box", 0.0, False, "no black-box attack ran after a white-box one", "")
    name = max(drops, key=lambda key: drops[key])
    drop = max(drops[name], 0.0)
    evidence = f"{name} takes {100 * drop:.2f} points that the white-box attacks before it left"
    return check_with_advice(name, "black_box_beats_white_box", drop, drop > 0.002 + 1e-9, evidence, "gradients may be masked")


def near_chance_check(right: int, n: int, classes: int) -> Check:
    """Clean accuracy; raised where its 95 % interval reaches down to 1.2 / K, from 30 images on.

    Args:
        right: number of images that are right.
        n: number of images.
        classes: K, number of logits.
    """
    raised = n >= 30 and wilson(right, n)[0] <= 1.2 / classes
    advice = "check the data, the order of the labels and the normalisation"
    share = right / max(n, 1)
    return check_with_advice("clean", "near_chance", share, raised, f"clean accuracy is {share:.1%}, chance is 1/{classes}", advice)


def nonfinite_check(probe: str, count: int) -> Check:
    """How many images met NaN or infinite logits under a probe; raised if any did.

    Args:
        probe: its name.
        count: of such images.
    """
    advice = "such points never count as adversarial, so the accuracy may be overstated"
    return check_with_advice(probe, "nonfinite", count, count > 0, f"{count} images met NaN or infinite logits", advice)


def outside_check(probe: str, count: int, worst: float, bad: int = 0) -> Check:
    """How many points of an attack lay outside the threat; raised if any did.

    Args:
        probe: the name of the attack.
        count: of such points.
        worst: the distance of the farthest.
        bad: how many of them have pixels that are not finite.
    """
    evidence = f"{count} points lay outside the threat" + (f", at up to {worst:.6g}" if count > bad else "")
    evidence += f", {bad} of them with NaN or infinite pixels" if bad else ""
    return check_with_advice(probe, "outside", count, count > 0, evidence, "they were moved inside; the attack does not keep its bound")


def security_curve_check(radii: Sequence[float], accuracies: Sequence[float], norm: str) -> Check:
    """By how much robust accuracy, given by eps, breaks a law of security curves; raised above 0.01.

    It may not rise with eps, and in linf it is 0 from eps = 1 on, where every image is within reach (Carlini et al. 2019, 1902.06705).

    Args:
        radii: eps of each attack, in any order.
        accuracies: robust accuracy at each radius, in [0, 1].
        norm: "linf", "l2" or "l1".
    """
    lowest, worst, where = 1.0, 0.0, 0.0
    for eps, accuracy in sorted(zip(radii, accuracies, strict=True)):
        ceiling = 0.0 if norm == "linf" and eps >= 1 else lowest
        if accuracy - ceiling > worst:
            worst, where = accuracy - ceiling, eps
        lowest = min(lowest, accuracy)
    evidence = (
        f"robust accuracy at eps {eps_text(where)} is {worst:.3g} above what it can be"
        if worst
        else "robust accuracy falls with eps as it must"
    )
    return check_with_advice("clean", "curve", worst, worst > 0.01, evidence, "the attack fails there")
