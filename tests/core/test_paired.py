"""Paired tests and intervals: closed forms, published numbers, brute force, and how often they err."""

import math

import numpy as np
import pytest

from robench.core.paired import (
    PairedValues,
    detectable_difference,
    difference_interval,
    holm,
    images_needed,
    p_of_margin,
    p_of_signs,
    tango_interval,
    tango_z,
)
from robench.core.statistics import mcnemar


def verdicts(lost, won, n, kind="verdict", labels=None):
    """Two runs of n images, of which so many are lost and won; half of the others stand in both."""
    base, new = np.zeros(n), np.zeros(n)
    base[:lost], new[lost : lost + won] = 1, 1
    rest = np.arange(lost + won, n)[::2]
    base[rest], new[rest] = 1, 1
    return PairedValues(kind, base, new, np.zeros(n, np.int64) if labels is None else labels)


def brute_force_z(lost, won, n, margin):
    """Tango's statistic with the constrained likelihood maximised on a fine grid instead of by its root."""
    d = -margin
    q = np.linspace(max(0.0, -d), (1 - d) / 2, 200_001)  # probability that only NEW holds an image
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(k > 0, k * np.log(p), 0.0) for k, p in ((lost, q + d), (won, q), (n - lost - won, 1 - 2 * q - d))]
    best = q[np.nanargmax(sum(np.nan_to_num(term, nan=-np.inf) for term in terms))]
    return (won - lost - n * margin) / math.sqrt(n * (2 * best + d * (1 - d)))


@pytest.mark.parametrize(
    ("lost", "won", "n", "margin"),
    [(30, 12, 500, -0.01), (30, 12, 500, 0.02), (7, 1, 21, -0.1), (0, 0, 100, -0.03), (5, 0, 40, 0.05), (3, 9, 80, -0.2)],
)
def test_tangos_score_is_that_of_the_constrained_likelihood(lost, won, n, margin):
    assert tango_z(lost, won, n, margin) == pytest.approx(brute_force_z(lost, won, n, margin), abs=1e-4)


def test_the_interval_is_that_of_a_published_example():
    """Airway reactivity of 21 children, Fagerland, Lydersen & Laake 2014 (Statistics in Medicine 33:2850): Tango's interval."""
    assert [round(end, 3) for end in tango_interval(7, 1, 21)] == [-0.517, -0.026]


def test_without_a_change_the_interval_has_a_closed_form():
    z2 = 1.959963984540054**2
    assert tango_interval(0, 0, 300) == pytest.approx((-z2 / (300 + z2), z2 / (300 + z2)), abs=1e-9)


@pytest.mark.parametrize("margin", [-0.08, -0.02, 0.01, 0.05])
def test_a_margin_is_in_the_interval_where_its_p_value_is_above_alpha(margin):
    for kind, values in (
        ("verdict", verdicts(30, 20, 400)),
        ("share", PairedValues("share", np.linspace(0, 1, 60), np.linspace(0.05, 0.9, 60), np.zeros(60, np.int64))),
        ("worst class", verdicts(30, 20, 400, "worst class", np.arange(400) % 4)),
    ):
        low, high = difference_interval(values, 0.05)
        assert (low <= margin <= high) == (p_of_margin(values, margin) > 0.05), kind


def test_the_signs_of_verdicts_are_mcnemars_test():
    for lost, won in ((6, 0), (5, 2), (9, 4), (1, 1), (0, 0)):
        change = np.array([-1.0] * lost + [1.0] * won + [0.0] * 20)
        assert p_of_signs(change) == pytest.approx(mcnemar(lost, won))


def test_many_signs_are_close_to_the_exact_test():
    for lost, won in ((40, 20), (35, 30), (60, 33)):
        assert p_of_signs(np.array([-1.0] * lost + [1.0] * won)) == pytest.approx(mcnemar(lost, won), rel=0.12)


def test_shares_that_are_verdicts_give_the_numbers_of_verdicts():
    plain, shares = verdicts(12, 5, 200), verdicts(12, 5, 200, "share")
    assert difference_interval(shares) == pytest.approx(difference_interval(plain))
    assert p_of_margin(shares, -0.02) == pytest.approx(p_of_margin(plain, -0.02))


def test_severities_of_an_image_are_one_cluster():
    """Five severities that change together are one image, not five."""
    rng = np.random.default_rng(0)
    together = rng.choice([-1.0, 0.0, 1.0], 300, p=[0.06, 0.9, 0.04])
    whole = PairedValues("share", np.zeros(300), together, np.zeros(300, np.int64))
    apart = PairedValues(
        "verdict", *(np.repeat(side, 5) for side in ((together < 0) * 1.0, (together > 0) * 1.0)), np.zeros(1500, np.int64)
    )
    wide, narrow = (np.diff(difference_interval(values))[0] for values in (whole, apart))
    assert wide == pytest.approx(math.sqrt(5) * narrow, rel=0.05)


def test_the_unit_of_a_share_scales_its_interval():
    base, new = np.linspace(0, 1, 50), np.linspace(0.1, 0.95, 50)
    one = PairedValues("share", base, new, np.zeros(50, np.int64))
    thrice = PairedValues("share", 3 * base, 3 * new, np.zeros(50, np.int64), unit=3.0)
    assert difference_interval(thrice) == pytest.approx([3 * end for end in difference_interval(one)])
    assert p_of_margin(thrice, -0.3) == pytest.approx(p_of_margin(one, -0.1))


def test_the_bootstrap_of_normal_differences_is_students_interval():
    change = np.random.default_rng(1).normal(0.02, 0.1, 400)
    values = PairedValues("score", np.zeros(400), change, np.zeros(400, np.int64))
    low, high = difference_interval(values)
    error = change.std(ddof=1) / 20
    assert (low, high) == pytest.approx((change.mean() - 1.966 * error, change.mean() + 1.966 * error), abs=0.15 * error)
    z = (change.mean() - 0.01) / error
    assert p_of_margin(values, 0.01) == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.02)


def test_small_p_values_of_scores_go_on_beyond_the_resamples():
    change = np.random.default_rng(1).normal(0.1, 0.1, 400)
    values = PairedValues("score", np.zeros(400), change, np.zeros(400, np.int64))
    p_values = [p_of_margin(values, margin) for margin in (0.09, 0.08, 0.07, 0.05, 0.0)]
    assert p_values == sorted(p_values, reverse=True)
    assert 0 < p_values[-1] < 1e-30


@pytest.mark.parametrize("kind", ["score", "share", "worst class"])
def test_without_a_difference_a_test_is_wrong_in_no_more_than_alpha(kind):
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(200):
        base = rng.random(120) if kind == "score" else (rng.random(120) < 0.6) * 1.0
        other = rng.random(120) if kind == "score" else (rng.random(120) < 0.6) * 1.0
        swap = rng.random(120) < 0.5
        values = PairedValues(kind, np.where(swap, base, other), np.where(swap, other, base), np.arange(120) % 3, seed=1)
        wrong += p_of_margin(values, 0.0) <= 0.05
    assert wrong <= 19  # binomial(200, 0.05) has 99.6 % below


def test_a_class_that_falls_is_found_and_the_luck_of_the_worst_is_not():
    labels = np.arange(2000) % 4
    base = np.where(np.arange(2000) // 4 % 10 < 6, 1.0, 0.0)  # 60 % in each class
    fallen = np.where((labels == 2) & (np.arange(2000) // 4 % 10 >= 3), 0.0, base)
    values = PairedValues("worst class", base, fallen, labels)
    assert values.difference == pytest.approx(-0.3)
    assert p_of_margin(values, 0.0) < 0.001
    assert difference_interval(values)[1] < 0
    assert p_of_margin(PairedValues("worst class", base, base, labels), 0.0) == 1


def test_the_worst_class_may_be_another_one():
    """A class that was bad becomes good and another as bad as it: the worst accuracy is what it was."""
    labels = np.arange(2000) % 2
    bad, good = (np.arange(2000) // 2 % 10 < 3) * 1.0, (np.arange(2000) // 2 % 10 < 8) * 1.0
    values = PairedValues("worst class", np.where(labels == 0, bad, good), np.where(labels == 1, bad, good), labels)
    assert values.difference == 0
    assert p_of_margin(values, 0.0) == 1


def test_holm_is_bonferroni_for_the_least_and_never_falls():
    p_values = [0.03, 0.001, 0.2, 0.02]
    adjusted = holm(p_values)
    assert adjusted[1] == 0.004
    assert [adjusted[place] for place in np.argsort(p_values)] == sorted(adjusted)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    assert holm([]) == []


def test_so_many_images_as_are_needed_do():
    values = verdicts(20, 14, 400)
    needed = images_needed(values, -0.03, 0.05)
    factor = needed / 400
    low, _ = tango_interval(20 * factor, 14 * factor, needed)
    assert low > -0.03
    assert images_needed(verdicts(8, 0, 400), -0.02, 0.05) is None


def test_of_the_worst_class_so_many_images_as_are_needed_do_and_what_no_copies_tell_has_no_number():
    labels = np.arange(400) % 2
    base = (np.arange(400) // 2 % 10 < 6) * 1.0
    new = np.where((labels == 1) & (np.arange(400) // 2 % 10 == 5), 0.0, base)  # one class from 60 to 50 %
    values = PairedValues("worst class", base, new, labels)
    needed = images_needed(values, -0.02, 0.05)
    copies = math.ceil(needed / 400)
    tiled = PairedValues("worst class", np.tile(base, copies), np.tile(new, copies), np.tile(labels, copies))
    assert p_of_margin(values, -0.02) > 0.05 >= p_of_margin(tiled, -0.02)
    assert images_needed(values, -0.1, 0.05) is None
    assert images_needed(values, -0.0999, 0.05) == math.inf


def test_what_would_have_been_found_is_found_nine_times_in_ten():
    rng, values = np.random.default_rng(3), verdicts(30, 30, 1000)
    drop = detectable_difference(values, 0.05)
    counts = rng.multinomial(1000, [(0.06 + drop) / 2, (0.06 - drop) / 2, 0.94], size=2000)
    assert np.mean([mcnemar(int(b), int(c)) <= 0.05 and b > c for b, c, _ in counts]) == pytest.approx(0.9, abs=0.03)
