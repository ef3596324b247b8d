"""The signs of a training that goes wrong."""

import math
import random

import pytest

from robench.core.recipes import parse_recipe
from robench.training.guards import (
    divergence_alarm,
    has_weak_adversary,
    is_near_best,
    overfitting_alarm,
    robust_overfitting_note,
    unproven_choice_note,
)


def epochs(*robust, fgsm=None, clean=1.0, alarms=()):
    fgsm = fgsm or [value + 0.05 for value in robust]
    return [
        {"epoch": k, "held_out_robust": r, "held_out_fgsm": f, "held_out_attacked_clean": clean, "alarm": "why" * (k in alarms)}
        for k, (r, f) in enumerate(zip(robust, fgsm, strict=True))
    ]


# (clean, FGSM, PGD-10) on held-out images after each epoch: MNIST, preset mnist-small, --guard off, eps .3 unless said otherwise; the
# clean accuracy is that of all 500 held-out images, the others are of the first 200, and the training images the first ones of the file
COLLAPSED = {
    "fgsm-at, 30,000 images": [
        (0.57, 0.38, 0.0), (0.908, 0.57, 0.02), (0.94, 0.735, 0.02), (0.95, 0.835, 0.015), (0.958, 0.755, 0.0), (0.956, 0.845, 0.0),
        (0.96, 0.71, 0.0), (0.96, 0.725, 0.0),
    ],
    "fgsm-rs, 30,000 images": [
        (0.792, 0.495, 0.08), (0.94, 0.905, 0.065), (0.96, 0.94, 0.065), (0.972, 0.95, 0.04), (0.968, 0.97, 0.05), (0.974, 0.965, 0.035),
        (0.974, 0.975, 0.045), (0.972, 0.965, 0.045),
    ],
    "n-fgsm, all images": [
        (0.504, 0.255, 0.005), (0.404, 0.36, 0.0), (0.49, 0.465, 0.0), (0.514, 0.505, 0.005), (0.576, 0.56, 0.0), (0.678, 0.65, 0.0),
    ],
    "arr,steps=1, 20,000 images": [
        (0.866, 0.635, 0.005), (0.906, 0.775, 0.01), (0.918, 0.825, 0.005), (0.93, 0.805, 0.01), (0.93, 0.82, 0.005),
    ],
}  # fmt: skip
HEALTHY = {
    "fgsm-rs, eps .25, rate .004, 8,000 images": [
        (0.112, 0.085, 0.085), (0.702, 0.43, 0.29), (0.93, 0.675, 0.445), (0.962, 0.795, 0.53), (0.964, 0.845, 0.59), (0.972, 0.885, 0.555),
        (0.984, 0.915, 0.485), (0.98, 0.915, 0.5), (0.982, 0.94, 0.455), (0.98, 0.94, 0.51), (0.978, 0.945, 0.465), (0.986, 0.95, 0.455),
        (0.984, 0.955, 0.465), (0.982, 0.955, 0.45), (0.982, 0.95, 0.465), (0.982, 0.95, 0.465),
    ],
    "fgsm-rs, eps .25, rate .004, 8,000 other images": [
        (0.112, 0.11, 0.11), (0.616, 0.355, 0.155), (0.906, 0.66, 0.435), (0.946, 0.825, 0.52), (0.96, 0.87, 0.605), (0.968, 0.895, 0.635),
        (0.964, 0.915, 0.63), (0.978, 0.925, 0.665), (0.98, 0.935, 0.715), (0.978, 0.93, 0.67), (0.98, 0.935, 0.69), (0.984, 0.935, 0.665),
        (0.978, 0.935, 0.72), (0.978, 0.93, 0.7), (0.984, 0.94, 0.71), (0.982, 0.935, 0.715),
    ],
    "arr,steps=3, 20,000 images": [
        (0.836, 0.535, 0.425), (0.866, 0.66, 0.61), (0.894, 0.775, 0.775), (0.904, 0.795, 0.79), (0.904, 0.81, 0.8),
    ],
}  # fmt: skip


def recorded(run):
    return [
        {"epoch": k, "held_out_attacked_clean": clean, "held_out_fgsm": fgsm, "held_out_robust": robust, "alarm": ""}
        for k, (clean, fgsm, robust) in enumerate(run)
    ]


def first_alarm(history):
    """The epoch, from 1, in which the guard speaks; 0 if it never does."""
    return next((n for n in range(1, len(history) + 1) if overfitting_alarm(history[:n])), 0)


@pytest.mark.parametrize("name", COLLAPSED)
def test_runs_that_collapsed_without_ever_having_been_robust_are_told_within_three_epochs(name):
    assert first_alarm(recorded(COLLAPSED[name])) == (3 if name.startswith("n-fgsm") else 2)


@pytest.mark.parametrize("name", HEALTHY)
def test_runs_that_grow_robust_while_fgsm_leads_pgd_are_left_alone(name):
    assert first_alarm(recorded(HEALTHY[name])) == 0


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"loss": 2.0, "ce": 2.0}, ""),
        ({"loss": float("nan"), "ce": 1.0, "sagr": float("inf")}, "loss, sagr became NaN or infinite"),
        ({"loss": 2400.0}, "the loss rose to 2.4e+03 from 2.3 in the first step"),
        ({"loss": 2200.0}, ""),
    ],
)
def test_divergence_is_a_number_that_is_none_or_a_loss_a_thousand_times_the_first(terms, says):
    assert divergence_alarm(terms, 2.3) == says


def test_the_signature_of_catastrophic_overfitting_is_told():
    """Wong et al. 2020: FGSM accuracy rises to .9 while PGD accuracy falls to almost nothing."""
    assert overfitting_alarm(epochs(0.3, 0.4, 0.42)) == ""
    assert "fell from 42.0% to 10.0%" in overfitting_alarm(epochs(0.3, 0.42, 0.1))
    assert overfitting_alarm(epochs(0.2, 0.3, 0.23, fgsm=[0.25, 0.35, 0.9])) == ""  # one epoch with a gap is none
    told = overfitting_alarm(epochs(0.2, 0.23, 0.22, fgsm=[0.25, 0.9, 0.92]))
    assert told == "held-out accuracy is 92.0% under FGSM and 22.0% under PGD-10, and was 90.0% and 23.0% in the epoch before"


def test_both_sides_of_each_threshold():
    assert overfitting_alarm(epochs(0.19, 0.19, fgsm=[0.61, 0.61]))
    assert not overfitting_alarm(epochs(0.19, 0.19, fgsm=[0.59, 0.59]))  # under 60 % of the clean accuracy, which is 1
    assert overfitting_alarm(epochs(0.16, 0.16, fgsm=[0.5, 0.5], clean=0.8))
    assert not overfitting_alarm(epochs(0.17, 0.17, fgsm=[0.5, 0.5], clean=0.8))  # over a third of FGSM
    assert overfitting_alarm(epochs(0.5, 0.29))
    assert not overfitting_alarm(epochs(0.5, 0.31))
    assert not overfitting_alarm(epochs(0.2, 0.0))  # never above 20 %


def test_an_undefended_network_is_no_case_of_it():
    """A healthy one shows FGSM .29 against PGD .03 at 2/255."""
    assert overfitting_alarm(epochs(0.01, 0.02, 0.03, fgsm=[0.2, 0.25, 0.29], clean=0.9)) == ""
    assert overfitting_alarm(epochs(float("nan"), float("nan"))) == ""
    assert overfitting_alarm(epochs(0.5, float("nan"))) == ""
    assert overfitting_alarm([]) == ""


@pytest.mark.parametrize(
    ("sentences", "danger"),
    [
        (["pgd-at"], False), (["standard"], False), (["pgd-at,steps=2"], True), (["trades,steps=3"], True), (["trades,steps=4"], False),
        (["fgsm-rs"], True), (["n-fgsm"], True), (["free-at"], True), (["standard", "arr=1"], True),
        (["standard", "arr,steps=1"], True), (["standard", "arr,steps=two"], False),
        (["standard", "arr,steps=7"], False),
        (["fgsm-at", "gradalign"], True), (["standard", "sagr"], False),
    ],
)  # fmt: skip
def test_only_adversaries_of_one_to_three_steps_are_watched(sentences, danger):
    assert has_weak_adversary([parse_recipe(sentence) for sentence in sentences]) is danger


def test_robust_overfitting_is_a_fall_of_over_five_points_that_is_no_noise():
    assert robust_overfitting_note(epochs(0.2, 0.4, 0.36), 10_000) == ""
    assert "was 40.0% in epoch 2 and is 34.0% in the last one, on 10000 images" in robust_overfitting_note(epochs(0.2, 0.4, 0.34), 10_000)
    assert robust_overfitting_note(epochs(0.2, 0.4, 0.34), 200) == ""  # 12 of 200 images
    assert robust_overfitting_note(epochs(0.5, 1.0, 0.5), 4) == ""
    assert robust_overfitting_note(epochs(0.2, 0.4, 0.1, alarms=[2]), 10_000) == ""  # the alarm says it
    assert robust_overfitting_note([], 100) == ""


def test_a_best_epoch_that_is_not_surely_above_one_and_a_half_times_chance_chooses_nothing():
    """Of 200 images and 10 classes: 42 held have a lower Wilson bound of .159, 39 of .145; the floor is .15."""
    assert unproven_choice_note(epochs(0.1, 42 / 200, 0.1), 200, 10) == ""
    assert unproven_choice_note(epochs(0.1, 39 / 200, 0.1), 200, 10).startswith(
        "held-out PGD-10 accuracy is 19.5% at best, on 200 images: not surely"
    )
    assert unproven_choice_note(epochs(0.9, 0.1, alarms=[0]), 200, 10)  # an epoch with an alarm does not count
    assert unproven_choice_note(epochs(float("nan")), 0, 10) == ""


def latest_near_best(robust, n):
    """The rule over a whole training: the last epoch within one standard error of the best."""
    best = max(robust)
    floor = best - math.sqrt(best * (1 - best) / n)
    return max(k for k, value in enumerate(robust) if value >= floor)


def test_keeping_one_epoch_after_the_other_finds_what_a_look_at_all_of_them_finds():
    drawn, moved = random.Random(0), 0
    for _ in range(2000):
        n = drawn.choice([4, 50, 200])
        robust = [drawn.randint(0, n) / n for _ in range(drawn.randint(1, 9))]
        if drawn.random() < 0.7:  # close together
            robust = [(n // 2 + drawn.randint(-n // 20, n // 20)) / n for _ in robust]
        history, kept = epochs(*robust), None
        for k, value in enumerate(robust):
            kept = k if is_near_best(value, history[: k + 1], n) else kept
        assert kept == latest_near_best(robust, n)
        moved += kept != max(k for k, value in enumerate(robust) if value == max(robust))
    assert moved > 200  # the standard error mattered
