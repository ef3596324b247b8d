"""The signs of a training that goes wrong."""

import pytest

from robench.guards import diverged, in_danger, overfitted, robust_overfitting
from robench.recipes import parse


def epochs(*robust, fgsm=None):
    fgsm = fgsm or [value + 0.05 for value in robust]
    return [{"epoch": number, "held_out_robust": r, "held_out_fgsm": f} for number, (r, f) in enumerate(zip(robust, fgsm, strict=True))]


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
    assert diverged(terms, 2.3) == says


def test_the_signature_of_catastrophic_overfitting_is_told():
    """Wong et al. 2020: FGSM accuracy rises to .9 while PGD accuracy falls to almost nothing."""
    assert overfitted(epochs(0.3, 0.4, 0.42)) == ""
    assert "fell from 42.0% to 10.0%" in overfitted(epochs(0.3, 0.42, 0.1))
    assert "90.0% under FGSM and 23.0% under PGD-10" in overfitted(epochs(0.2, 0.3, 0.23, fgsm=[0.25, 0.35, 0.9]))


def test_an_undefended_network_is_no_case_of_it():
    """A healthy one shows FGSM .29 against PGD .03 at 2/255: PGD accuracy was never above 20 %."""
    assert overfitted(epochs(0.01, 0.02, 0.03, fgsm=[0.2, 0.25, 0.29])) == ""
    assert overfitted(epochs(float("nan"), float("nan"))) == ""
    assert overfitted([]) == ""


@pytest.mark.parametrize(
    ("sentences", "danger"),
    [
        (["pgd-at"], False), (["standard"], False), (["pgd-at,steps=2"], True), (["trades,steps=3"], True), (["trades,steps=4"], False),
        (["fgsm-rs"], True), (["n-fgsm"], True), (["free-at"], True), (["standard", "arr=1"], True), (["standard", "arr,steps=two"], False),
        (["standard", "arr,steps=7"], False),
        (["fgsm-at", "gradalign"], True), (["standard", "sagr"], False),
    ],
)  # fmt: skip
def test_only_adversaries_of_one_to_three_steps_are_watched(sentences, danger):
    assert in_danger([parse(sentence) for sentence in sentences]) is danger


def test_robust_overfitting_is_told_where_the_last_epoch_is_over_five_points_below_the_best():
    assert robust_overfitting(epochs(0.2, 0.4, 0.36)) == ""
    assert "was 40.0% in epoch 2 and is 34.0%" in robust_overfitting(epochs(0.2, 0.4, 0.34))
    assert robust_overfitting([]) == ""
