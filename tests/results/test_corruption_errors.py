"""Accuracy under corruptions: every number against its definition, published values, and intervals that pair the images."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from robench.core.corruption_names import EXTRA, FAMILIES, FIFTEEN, NINETEEN, NOISES, ON_DISK, SEVERITIES
from robench.core.errors import InputError
from robench.core.rows import blank_row, wilson
from robench.core.statistics import bootstrap_interval
from robench.results import corruption_estimates
from robench.results.corruption_errors import ALEXNET, alexnet_reference, degradation_rows, measured_reference, reference_warning

ABOUT = replace(blank_row(), checkpoint="m", data="cifar10-c-synth", seed=7, setting="scale=cifar")
RESNET50 = [80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77]  # CE in percent, in the order of FIFTEEN (1903.12261, table 1)


def right(wrong, n):
    """A column in which the first images are wrong."""
    return np.arange(n) >= wrong


def made(names, n=40, seed=0, severities=SEVERITIES, strength=0.06):
    """A table in which images differ in how much they stand, so that cells are correlated."""
    rng = np.random.default_rng(seed)
    stands = rng.random(n)
    cells = {(c, s): stands + 0.1 * rng.standard_normal(n) > 0.1 + strength * s for c in names for s in severities}
    return stands > 0.1, cells


def found(rows, probe, metric, words=None):
    """The one row with this probe and metric, whose setting has these words."""
    hits = [row for row in rows if (row.probe, row.metric) == (probe, metric) and (words is None or words in row.setting.split())]
    assert len(hits) == 1, hits
    return hits[0]


def test_the_sets_are_those_of_the_benchmark():
    assert len(FIFTEEN) == 15
    assert len(NINETEEN) == 19 == len(set(NINETEEN))
    assert set(EXTRA.values()) == set(FAMILIES)
    assert NOISES == ("gaussian_noise", "shot_noise", "impulse_noise")
    assert tuple(ALEXNET) == FIFTEEN


def test_four_images_two_corruptions_two_severities_by_hand():
    clean = [1, 1, 1, 0]
    cells = {("fog", 1): [1, 1, 0, 0], ("fog", 3): [1, 0, 0, 0], ("snow", 1): [1, 1, 1, 1], ("snow", 3): [0, 0, 0, 0]}
    rows = degradation_rows(ABOUT, clean, cells)
    expected = {
        ("clean", "", "accuracy"): 3 / 4,
        ("snow", "severity=1 scale=cifar", "accuracy"): 1,
        ("snow", "severity=3 scale=cifar", "accuracy"): 0,
        ("snow", "severities=1,3 scale=cifar", "mean_accuracy"): 1 / 2,
        ("snow", "severities=1,3 scale=cifar", "relative_error"): 1 / 4,
        ("snow", "severities=1,3 scale=cifar", "relative_accuracy"): 2 / 3,
        ("fog", "severity=1 scale=cifar", "accuracy"): 1 / 2,
        ("fog", "severity=3 scale=cifar", "accuracy"): 1 / 4,
        ("fog", "severities=1,3 scale=cifar", "mean_accuracy"): 3 / 8,
        ("fog", "severities=1,3 scale=cifar", "relative_error"): 3 / 8,
        ("fog", "severities=1,3 scale=cifar", "relative_accuracy"): 1 / 2,
        ("corruptions", "corruptions=2 cells=4 scale=cifar", "mean_error"): 9 / 16,
        ("corruptions", "corruptions=2 cells=4 scale=cifar", "mean_accuracy"): 7 / 16,
        ("corruptions", "corruptions=2 cells=4 scale=cifar", "relative_error"): 5 / 16,
        ("corruptions", "corruptions=2 cells=4 scale=cifar", "relative_accuracy"): 7 / 12,
        ("corruptions", "severity=1 corruptions=2 scale=cifar", "mean_accuracy"): 3 / 4,
        ("corruptions", "severity=3 corruptions=2 scale=cifar", "mean_accuracy"): 1 / 8,
    }
    assert {(row.probe, row.setting, row.metric): row.value for row in rows} == pytest.approx(expected)
    assert [row.probe for row in rows[:5]] == ["clean", "snow", "snow", "snow", "snow"]  # in the benchmark's order
    assert all((row.n, row.checkpoint, row.data, row.seed) == (4, "m", "cifar10-c-synth", 7) for row in rows)


def test_a_mean_over_corruptions_weighs_them_equally_however_many_severities_were_measured():
    cells = {("fog", s): [0, 0] for s in SEVERITIES} | {("snow", 1): [1, 1]}
    rows = degradation_rows(ABOUT, [1, 1], cells)
    assert found(rows, "corruptions", "mean_error", "cells=6").value == pytest.approx(1 / 2)


def test_all_nineteen_give_both_named_means_and_the_families_of_the_fifteen():
    clean, cells = made(NINETEEN)
    rows = degradation_rows(ABOUT, clean, cells)
    error = {c: np.mean([1 - cells[c, s].mean() for s in SEVERITIES]) for c in NINETEEN}
    fifteen = np.mean([error[c] for c in FIFTEEN])
    assert found(rows, "corruptions", "mean_corruption_error", "cells=75").value == pytest.approx(fifteen)
    assert found(rows, "corruptions", "mean_corruption_error_19", "cells=95").value == pytest.approx(np.mean(list(error.values())))
    assert found(rows, "corruptions", "relative_error").value == pytest.approx(fifteen - (1 - clean.mean()))
    assert found(rows, "corruptions", "relative_accuracy").value == pytest.approx((1 - fifteen) / clean.mean())
    for family, names in FAMILIES.items():
        mean = 1 - np.mean([error[c] for c in names])
        assert found(rows, "corruptions", f"{family}_accuracy", f"corruptions={len(names)}").value == pytest.approx(mean)
    third = np.mean([cells[c, 3].mean() for c in FIFTEEN])
    assert found(rows, "corruptions", "mean_accuracy", "severity=3").value == pytest.approx(third)
    assert not [row for row in rows if row.metric in {"mean_error", "mce", "ce"}]
    assert set(Counter((row.probe, row.setting, row.metric) for row in rows).values()) == {1}


@pytest.mark.parametrize("lost", [("fog", 5), ("saturate", 1)])
def test_a_set_that_misses_one_cell_does_not_give_its_name_to_a_mean(lost):
    clean, cells = made(NINETEEN, n=10)
    del cells[lost]
    metrics = {
        row.metric for row in degradation_rows(ABOUT, clean, cells, measured_reference("r", clean, cells)) if row.probe == "corruptions"
    }
    whole = lost[0] not in FIFTEEN
    assert "mean_corruption_error_19" not in metrics
    assert ("mean_corruption_error" in metrics, "mce" in metrics, "weather_accuracy" in metrics) == (whole, whole, whole)
    assert ("mean_error" in metrics) is not whole
    assert "noise_accuracy" in metrics


def test_the_noises_alone_give_the_noise_accuracy_and_a_partial_mean_of_another_name():
    rows = degradation_rows(ABOUT, *made(NOISES))
    assert found(rows, "corruptions", "noise_accuracy").value == pytest.approx(1 - found(rows, "corruptions", "mean_error").value)
    assert not [row for row in rows if "corruption_error" in row.metric]


def test_a_corruption_of_another_name_stands_last_and_is_not_in_the_mean_of_the_fifteen():
    clean, cells = made(FIFTEEN, n=10)
    rows = degradation_rows(ABOUT, clean, {("my_rain", 1): np.zeros(10), **cells})
    assert found(rows, "my_rain", "mean_accuracy", "severities=1").value == 0
    plain = degradation_rows(ABOUT, clean, cells)
    assert found(rows, "corruptions", "mean_corruption_error").value == found(plain, "corruptions", "mean_corruption_error").value
    assert list(dict.fromkeys(row.probe for row in rows)) == ["clean", *FIFTEEN, "my_rain", "corruptions"]


def test_a_model_divided_by_itself_is_1_with_no_spread_because_images_are_paired():
    clean, cells = made(FIFTEEN, n=200, strength=0.1)
    rows = degradation_rows(ABOUT, clean, cells, measured_reference("itself", clean, cells))
    for metric in ("mce", "relative_mce"):
        row = found(rows, "corruptions", metric, "reference=itself")
        assert (row.value, row.low, row.high) == pytest.approx((1, 1, 1))
    assert found(rows, "fog", "ce").value == pytest.approx(1)


def test_ratios_to_a_reference_by_hand():
    n, clean, base = 200, right(10, 200), right(20, 200)
    wrong = {c: 20 + 2 * k for k, c in enumerate(FIFTEEN)}
    cells = {(c, s): right(wrong[c] + s, n) for c in FIFTEEN for s in SEVERITIES}
    others = {(c, s): right(2 * wrong[c] + 2 * s, n) for c in FIFTEEN for s in SEVERITIES}
    rows = degradation_rows(ABOUT, clean, cells, measured_reference("r", base, others))
    assert found(rows, "snow", "ce").value == pytest.approx(0.5)
    assert found(rows, "corruptions", "mce").value == pytest.approx(0.5)
    relative = {c: (wrong[c] + 3 - 10) / (2 * wrong[c] + 6 - 20) for c in FIFTEEN}
    assert found(rows, "snow", "relative_ce").value == pytest.approx(relative["snow"])
    assert found(rows, "corruptions", "relative_mce").value == pytest.approx(np.mean(list(relative.values())))


def test_the_published_mce_of_resnet50_follows_from_its_published_corruption_errors():
    n = 1000
    errors = dict(zip(FIFTEEN, RESNET50, strict=True))
    cells = {(c, s): right(round(n * errors[c] / 100 * ALEXNET[c]), n) for c in FIFTEEN for s in SEVERITIES}
    rows = degradation_rows(ABOUT, right(239, n), cells, alexnet_reference(1000, "imagenet"))
    assert found(rows, "corruptions", "mce", "reference=alexnet").value == pytest.approx(0.767, abs=0.005)
    assert found(rows, "corruptions", "relative_mce").value == pytest.approx(1.05, abs=0.01)
    assert found(rows, "snow", "ce").value == pytest.approx(0.78, abs=0.001)


def test_a_reference_is_told_with_its_hash_and_its_own_accuracies():
    clean, cells = made(FIFTEEN, n=40)
    base, others = made(FIFTEEN, n=40, seed=1)
    reference = measured_reference("r", base, others, "0123456789abcdef" * 4)
    rows = degradation_rows(ABOUT, clean, cells, reference)
    assert found(rows, "corruptions", "mce", "reference_sha256=0123456789ab").setting.startswith("corruptions=15 cells=75 reference=r ")
    assert found(rows, "clean", "reference_accuracy").value == pytest.approx(base.mean())
    fog = np.mean([others["fog", s] for s in SEVERITIES])
    row = found(rows, "fog", "reference_accuracy", "reference=r")
    assert row.value == pytest.approx(fog)
    assert row.low < row.value < row.high
    assert found(rows, "corruptions", "reference_accuracy").value == pytest.approx(np.mean(list(others.values())))
    exact = degradation_rows(ABOUT, clean, cells, alexnet_reference(1000, "imagenet"))
    row = found(exact, "snow", "reference_accuracy", "reference=alexnet")
    assert row.value == pytest.approx(1 - ALEXNET["snow"])
    assert math.isnan(row.low)


def test_a_relative_error_that_is_divided_by_next_to_nothing_is_told():
    n = 1000
    cells = {("fog", 1): right(101, n), ("snow", 1): right(95, n), ("frost", 1): right(300, n), ("contrast", 1): right(100, n)}
    sentence = reference_warning(measured_reference("r", right(100, n), cells), ["fog", "snow", "frost", "contrast"])
    assert sentence.endswith("in points: fog +0.10, snow -0.50 (no ratio), contrast +0.00 (no ratio)")
    assert "clean ones of r" in sentence
    assert reference_warning(measured_reference("r", right(100, n), cells), ["frost"]) == ""
    faultless = measured_reference("r", right(0, n), {("fog", 1): right(0, n), ("snow", 1): right(300, n)})
    assert reference_warning(faultless, ["fog", "snow"]).endswith(
        "fog +0.00 (no ratio); there is no ce of fog, and no mce: r makes no errors there"
    )


def test_alexnets_errors_are_means_of_those_published_by_severity():
    published = {
        "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
        "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
        "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
        "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    }
    for corruption, errors in published.items():
        assert ALEXNET[corruption] == pytest.approx(np.mean(errors), abs=1e-6)


@pytest.mark.parametrize(("classes", "scale"), [(10, "imagenet"), (1000, "cifar"), (200, "imagenet")])
def test_alexnets_errors_are_refused_away_from_imagenet(classes, scale):
    with pytest.raises(InputError, match="1000 classes"):
        alexnet_reference(classes, scale)


def test_alexnets_errors_serve_no_part_of_the_severities():
    clean, cells = made(FIFTEEN, severities=(1, 2, 3))
    metrics = {row.metric for row in degradation_rows(ABOUT, clean, cells, alexnet_reference(1000, "imagenet"))}
    assert not metrics & {"ce", "relative_ce", "mce", "relative_mce"}


def test_a_reference_measured_at_other_severities_divides_nothing():
    clean, cells = made(("fog", "snow"))
    less = {cell: values for cell, values in cells.items() if cell != ("fog", 2)}
    rows = degradation_rows(ABOUT, clean, cells, measured_reference("r", clean, less))
    assert {row.probe for row in rows if row.metric == "ce"} == {"snow"}


def test_what_cannot_be_divided_is_nan():
    cells = {("fog", 1): [0, 0, 1, 1], ("snow", 1): [0, 0, 1, 1]}
    faultless = measured_reference("r", [0, 1, 1, 1], {("fog", 1): [1, 1, 1, 1], ("snow", 1): [0, 1, 1, 1]})
    rows = degradation_rows(ABOUT, [0, 0, 0, 0], cells, faultless)
    assert math.isnan(found(rows, "fog", "ce").value)
    assert math.isnan(found(rows, "fog", "relative_ce").value)  # the reference gets better
    assert found(rows, "snow", "ce").value == pytest.approx(2)
    assert math.isnan(found(rows, "snow", "ce").low)  # some resamples leave the reference without an error
    assert math.isnan(found(rows, "snow", "relative_ce").value)
    assert math.isnan(found(rows, "snow", "relative_accuracy").value)  # nothing is right without corruption


def test_cells_have_wilson_intervals():
    clean, cells = made(FIFTEEN)
    rows = degradation_rows(ABOUT, clean, cells)
    assert (found(rows, "clean", "accuracy").low, found(rows, "clean", "accuracy").high) == wilson(clean.sum(), 40)
    row = found(rows, "fog", "accuracy", "severity=4")
    assert (row.low, row.high) == wilson(cells["fog", 4].sum(), 40)


def test_every_interval_holds_its_value():
    clean, cells = made(NINETEEN, n=30)
    rows = degradation_rows(ABOUT, clean, cells, measured_reference("r", *made(NINETEEN, n=30, seed=5)))
    known = [row for row in rows if not math.isnan(row.low)]
    assert len(known) > 0.8 * len(rows)
    assert all(row.low <= row.value <= row.high for row in known)
    assert all(row.low < row.high for row in known)


def test_the_interval_of_a_mean_is_the_bootstrap_over_images():
    clean, cells = made(FIFTEEN, n=400)
    rows = degradation_rows(ABOUT, clean, cells)
    images = np.mean([1 - cell for cell in cells.values()], axis=0)
    row = found(rows, "corruptions", "mean_corruption_error")
    assert (row.low, row.high) == pytest.approx(bootstrap_interval(images, seed=1), abs=0.006)
    low, high = wilson(75 * 400 * row.value, 75 * 400)
    assert row.high - row.low > 3 * (high - low)  # cells of one image are not independent
    change = found(rows, "fog", "relative_error")
    assert (change.low, change.high) == pytest.approx(
        bootstrap_interval(np.mean([clean.astype(float) - cells["fog", s] for s in SEVERITIES], axis=0), seed=1), abs=0.006
    )


def test_the_interval_of_a_ratio_covers_it():
    truth, hits = 0.6 / 0.8, 0
    for seed in range(60):
        stands = np.random.default_rng(seed).random(80)
        row = found(degradation_rows(replace(ABOUT, seed=seed), stands < 0.8, {("fog", 1): stands < 0.6}), "fog", "relative_accuracy")
        hits += row.low <= truth <= row.high
    assert hits >= 52


def test_rows_depend_on_the_seed_but_not_on_the_order_of_images_nor_on_chunks(monkeypatch):
    clean, cells = made(FIFTEEN, n=50)
    reference = measured_reference("r", *made(FIFTEEN, n=50, seed=3))
    rows = degradation_rows(ABOUT, clean, cells, reference)
    order = np.random.default_rng(1).permutation(50)
    base, others = made(FIFTEEN, n=50, seed=3)
    turned = measured_reference("r", base[order], {cell: values[order] for cell, values in others.items()})
    again = degradation_rows(ABOUT, clean[order], {cell: values[order] for cell, values in cells.items()}, turned)
    for one, other in zip(rows, again, strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), nan_ok=True, abs=1e-9)
    monkeypatch.setattr(corruption_estimates, "DRAWS_AT_ONCE", 50 * 17)
    chunked = degradation_rows(ABOUT, clean, cells, reference)
    assert found(chunked, "corruptions", "mce").low == pytest.approx(found(rows, "corruptions", "mce").low, abs=1e-9)
    assert (
        found(degradation_rows(replace(ABOUT, seed=8), clean, cells, reference), "corruptions", "mce").low
        != found(rows, "corruptions", "mce").low
    )


def test_where_all_images_agree_a_share_has_wilsons_interval():
    rows = degradation_rows(ABOUT, np.ones(20), {("fog", s): np.ones(20) for s in SEVERITIES})
    row = found(rows, "fog", "mean_accuracy")
    assert (row.value, row.low, row.high) == (1, *wilson(20, 20))


def test_one_image_gives_values_without_bootstraps():
    rows = degradation_rows(ABOUT, [1], {("fog", 1): [1], ("snow", 1): [0]})
    row = found(rows, "corruptions", "relative_error")
    assert row.value == pytest.approx(0.5)
    assert math.isnan(row.low)
    mean = found(rows, "corruptions", "mean_error")
    assert (mean.low, mean.high) == wilson(0.5, 1)


@pytest.mark.parametrize(
    ("clean", "cells", "message"),
    [
        ([1, 0], {}, "at least one image"),
        ([], {("fog", 1): []}, "at least one image"),
        ([1, 0], {("fog", 2): [1]}, "fog at severity 2 has 1 images"),
        ([1, 0], {("fog", 2): [1, 2]}, "right .1. or wrong"),
        ([1, math.nan], {("fog", 2): [1, 0]}, "clean at severity 0"),
    ],
)
def test_tables_that_cannot_be_are_refused(clean, cells, message):
    with pytest.raises(InputError, match=message):
        degradation_rows(ABOUT, clean, cells)


def test_a_reference_on_other_images_is_refused():
    with pytest.raises(InputError, match="measured on 30 images"):
        degradation_rows(ABOUT, *made(FIFTEEN, n=40), measured_reference("r", *made(FIFTEEN, n=30)))


def test_the_bootstrap_of_a_mean_is_corrected_for_skew():
    images = np.ones(60)
    images[:2] = 0  # two images of sixty fall under everything
    row = found(degradation_rows(ABOUT, np.ones(60), {("fog", s): images for s in SEVERITIES}), "corruptions", "relative_error")
    assert (row.low, row.high) == pytest.approx(bootstrap_interval(1 - images, seed=3), abs=0.5 / 60)
    assert row.high > 5.5 / 60  # where the percentile interval ends at 5 of 60


@pytest.mark.parametrize("kept", [0.5, 0.95, 1.0])
def test_where_the_clean_images_are_all_right_relative_and_mean_accuracy_have_one_interval(kept):
    cells = {("fog", s): np.random.default_rng(s).random(20) < kept for s in SEVERITIES}
    rows = degradation_rows(ABOUT, np.ones(20), cells)
    mean, relative, fall = (found(rows, "fog", metric) for metric in ("mean_accuracy", "relative_accuracy", "relative_error"))
    assert (relative.value, relative.low, relative.high) == pytest.approx((mean.value, mean.low, mean.high))
    assert (1 - fall.high, 1 - fall.low) == pytest.approx(
        (mean.low, mean.high), abs=0.01
    )  # quantiles of 2000 resamples from the other side
    assert relative.low < relative.high


def test_the_interval_of_a_ratio_is_scipys_bca():
    rng = np.random.default_rng(3)
    clean, stands = rng.random(40) < 0.9, rng.random((40, 5)).mean(1) < 0.62
    row = found(degradation_rows(ABOUT, clean, {("fog", 1): stands}), "fog", "relative_accuracy")
    theirs = stats.bootstrap(
        (clean.astype(float), stands.astype(float)), lambda a, b, axis: b.mean(axis) / a.mean(axis), paired=True, vectorized=True,
        n_resamples=20_000, method="BCa", rng=1,
    ).confidence_interval  # fmt: skip
    assert (row.low, row.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_a_complete_set_of_c_bar_or_3dcc_has_its_mean_corruption_error_and_a_part_of_it_only_a_mean():
    n, about = 12, replace(ABOUT, data="folder:ImageNet-3DCC")
    for names in ON_DISK.values():
        cells = {(name, severity): (np.arange(n) >= severity).astype(float) for name in names for severity in SEVERITIES}
        rows = {(row.probe, row.metric, row.setting): row for row in degradation_rows(about, np.ones(n), cells)}
        whole = next(row for (probe, metric, _), row in rows.items() if (probe, metric) == ("corruptions", "mean_corruption_error"))
        assert whole.value == pytest.approx(3 / n)
        assert whole.setting.startswith(f"corruptions={len(names)} cells={5 * len(names)}")
        part = degradation_rows(about, np.ones(n), {cell: right for cell, right in cells.items() if cell != (names[0], 5)})
        metrics = {row.metric for row in part if row.probe == "corruptions"}
        assert "mean_error" in metrics
        assert "mean_corruption_error" not in metrics
