"""Intervals over patients against theory, scipy and images written out; coverage by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.metrics import roc_curve

from thyroid_utils.common.errors import DataError
from thyroid_utils.scores.comparisons import delong_test, mcnemar_test
from thyroid_utils.scores.estimates import (
    Comparison,
    Estimate,
    benefit_curve,
    drawn_patients,
    patient_estimate,
    patient_scores,
    pr_band,
    proportion_interval,
    roc_band,
    told_over_seeds,
)
from thyroid_utils.scores.labels import classification_scores


def test_one_image_a_patient_is_the_ordinary_bootstrap():
    values = np.random.default_rng(0).normal(5, 2, 80)
    ours = patient_estimate(values, range(80), resamples=4000)
    reference = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    assert ours.value == pytest.approx(values.mean())
    told, mean = (patient_estimate(values, range(80), how, resamples=50) for how in (np.mean, None))
    assert (told.low, told.high) == pytest.approx((mean.low, mean.high))
    # Two Monte-Carlo quantiles of 4000 draws differ by about 0.02; the interval itself is 0.9 wide.
    assert (ours.low, ours.high) == pytest.approx(tuple(reference.confidence_interval), abs=0.06)


def test_missing_values_one_patient_and_none():
    assert patient_estimate([1.0, np.nan, 3.0], ["a", "b", "c"]).images == 2
    single = patient_estimate([1.0, 3.0], ["a", "a"])
    assert single.value == 2.0 and np.isnan(single.low) and "no interval" in single.text()
    assert patient_estimate([], []).text() == "no data"
    for patients, message in ((["a"], "patients have shape"), (["a", "b", None], "1 of 3 values have no patient")):
        with pytest.raises(ValueError, match=message):
            patient_estimate([1.0, 2.0, 90.0], patients)


def test_where_all_values_agree_a_share_has_wilsons_interval_and_others_none():
    patients = ["a", "a", "b", "c"]
    for value in (0.5, 1):
        assert patient_estimate([value] * 4, patients).text() == f"{value:.2f} [no interval: all resamples agree]"
    for value in (0, 1):
        share = patient_estimate([value] * 4, patients, share=True)
        assert (share.low, share.high) == proportion_interval(3 * value, 3) and "Wilson" in share.note  # of patients, not images
    assert patient_estimate([1, 0, 1, 1], patients, share=True) == patient_estimate([1, 0, 1, 1], patients)
    assert np.isnan(proportion_interval(0, 0)).all()


def test_estimates_comparisons_and_p_values_are_told():
    assert str(Estimate(0.614, 0.55, 0.662, 9, 4)) == "0.61 [0.55, 0.66]"
    assert str(Comparison(0.6, 0.5, 0.1, 0.02, 0.18, 0.0004, 9, 4)) == "+0.100 [+0.020, +0.180], p < 0.001"
    assert Comparison(0.6, 0.5, 0.1, np.nan, np.nan, np.nan, 9, 1, note="1 patient").text(1) == "+0.1, no p-value: 1 patient"
    assert Comparison(*[np.nan] * 6, 0, 0).text() == "no data"
    assert told_over_seeds([0.9, 0.92, 0.97, np.nan]) == "0.93 ± 0.04 (3 seeds)"
    assert told_over_seeds([0.91]) == "0.91 (1 seed)" and told_over_seeds([]) == "no data"
    assert Comparison(0.5, 0.5, -0.0004, -0.0001, 0.01, 0.5, 9, 4).text(2) == "0.00 [0.00, +0.01], p = 0.5"
    assert Estimate(0.5, np.nan, np.nan, 9, 2).text() == "0.50 [no interval: 2 patients]"


def example(patients: int = 40, each: int = 3, seed: int = 0, digits: int = 2) -> tuple[np.ndarray, ...]:
    """Labels of patients, probabilities of two related models with many ties, and patients of unequal numbers of images."""
    random = np.random.default_rng(seed)
    codes = np.repeat(np.arange(patients), random.integers(1, 2 * each, patients))
    labels = (codes % 5 < 2).astype(int)
    common = random.normal(size=patients)[codes] + random.normal(size=len(codes)) + labels
    first, second = (expit(common + random.normal(size=len(codes))).round(digits) for _ in range(2))
    return labels, first, second, np.array([f"p{code}" for code in codes])


def test_values_are_the_scores_and_the_order_is_kept():
    labels, probabilities, _, patients = example()
    found = patient_scores(labels, probabilities, patients, threshold=0.6, resamples=200)
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(
        classification_scores(labels, probabilities, 0.6), abs=1e-7
    )
    for name, estimate in found.items():
        assert (estimate.images, estimate.patients, estimate.undefined) == (len(labels), 40, 0)
        if name == "ece":  # grows with noise: resamples of a calibrated model never reach its truth
            assert np.isnan(estimate.low) and "no interval" in estimate.text()
        else:
            assert estimate.low < estimate.value < estimate.high and not estimate.note, name


@pytest.fixture(scope="module")
def simulated() -> dict[str, float]:
    """How often what is nominally 95 % holds, in 300 samples of 100 patients with two correlated images each.

    100 patients, 40 of them malignant, because percentile intervals of 60 patients come out at 93.4 to 93.9 %.
    """
    random = np.random.default_rng(7)
    patients = np.repeat(np.arange(100), 2)
    labels = (patients % 5 < 2).astype(int)
    shift, trials = 1.5, 300
    right = stats.norm.cdf(shift / 2 / np.sqrt(2))  # both kinds of image have a spread of √2 about ±shift/2
    truth = {"auc": stats.norm.cdf(shift / 2), "sensitivity": right, "accuracy": right}
    hits = dict.fromkeys([*truth, "difference", "delong", "plain delong", "mcnemar", "paired"], 0)
    for _ in range(trials):
        first, second = (shift * (labels - 0.5) + random.normal(size=100)[patients] + random.normal(size=200) for _ in range(2))
        one, two = expit(first), expit(second)
        found = patient_scores(labels, one, patients, tuple(truth), resamples=1000)
        for name, value in truth.items():
            hits[name] += found[name].low <= value <= found[name].high
        clustered = delong_test(labels, one, two, patients)
        hits["difference"] += clustered.low <= 0 <= clustered.high
        hits["delong"] += clustered.p_value >= 0.05
        hits["plain delong"] += delong_test(labels, one, two).p_value >= 0.05
        hits["mcnemar"] += mcnemar_test((one > 0.5) == labels, (two > 0.5) == labels, patients).p_value >= 0.05
        paired = patient_scores(labels, one, patients, "auc", less=two, resamples=400)["auc"]
        hits["paired"] += paired.low <= 0 <= paired.high
    return {name: count / trials for name, count in hits.items()}


# The standard error of a share of 300 is 1.3 points.
@pytest.mark.parametrize("name", ["auc", "sensitivity", "accuracy", "paired", "difference", "delong"])
def test_intervals_and_tests_hold_as_often_as_they_say(simulated, name):
    assert 0.92 <= simulated[name] <= 0.98
    assert simulated["plain delong"] < 0.91, "leaving patients out would claim too much"
    assert 0.93 <= simulated["mcnemar"] <= 0.99  # exact, and therefore on the safe side


def test_resamples_of_one_class_are_left_out_and_counted():
    labels, probabilities, patients = [0, 0, 0, 0, 1, 1], [0.1, 0.5, 0.2, 0.6, 0.4, 0.9], list("abcdef")
    found = patient_scores(labels, probabilities, patients, ("auc", "accuracy"), resamples=4000)
    expected = (4 / 6) ** 6 + (2 / 6) ** 6
    assert found["auc"].undefined == pytest.approx(expected, abs=0.015)  # two standard errors: 0.009
    assert 0 < found["auc"].low < found["auc"].high <= 1 and found["accuracy"].undefined == 0


def test_the_change_of_a_score_is_drawn_on_the_same_patients():
    labels, first, second, patients = example(150)
    same = patient_scores(labels, first, patients, ("auc", "accuracy"), less=first, resamples=200)
    assert {found.text() for found in same.values()} == {"0.00 [no interval: all resamples agree]"}
    found = patient_scores(labels, first, patients, ("auc", "mcc"), 0.4, less=[second, second], resamples=4000)
    one, two = (classification_scores(labels, model, 0.4) for model in (first, second))
    assert found["mcc"].value == pytest.approx(one["mcc"] - two["mcc"])
    # Pairing is what makes related models comparable: the interval is narrower than that of one model.
    width, alone = found["auc"].high - found["auc"].low, patient_scores(labels, first, patients, "auc")["auc"]
    assert width < 0.8 * (alone.high - alone.low)
    tested = delong_test(labels, first, second, patients)
    assert found["auc"].value == pytest.approx(tested.difference)
    assert (found["auc"].low, found["auc"].high) == pytest.approx((tested.low, tested.high), abs=0.08 * width)


def test_bands_by_hand_and_against_the_curves():
    roc, precision = (band([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.9], list("abcd"), resamples=50) for band in (roc_band, pr_band))
    assert roc["sensitivity"][::25].tolist() == [0.5, 0.5, 1, 1, 1]  # upright steps at 0 and at 1/2, read at their upper ends
    assert precision["precision"][::25].tolist() == pytest.approx([1, 1, 1, 2 / 3, 2 / 3])
    labels, probabilities, _, patients = example()
    roc, precision = roc_band(labels, probabilities, patients), pr_band(labels, probabilities, patients)
    scores = classification_scores(labels, probabilities)
    # A grid of 101 points and trapezoids across upright steps are off by less than half a step of the grid.
    assert np.trapezoid(roc["sensitivity"], roc["false_positive_rate"]) == pytest.approx(scores["auc"], abs=0.006)
    assert precision["precision"].mean() == pytest.approx(scores["pr_auc"], abs=0.01)


def test_a_band_is_the_quantiles_of_resampled_curves():
    labels, probabilities, _, patients = example(20)
    band = roc_band(labels, probabilities, patients, resamples=60)
    codes = pd.factorize(patients)[0]
    (counts,) = drawn_patients(20, 60, len(labels))
    curves = []
    for column in counts.T.astype(int):
        images = np.repeat(np.arange(len(labels)), column[codes])
        if 0 < labels[images].sum() < len(images):
            alarms, hits, _ = roc_curve(labels[images], probabilities[images])
            curves.append(np.interp(band["false_positive_rate"], alarms, hits))
    assert band["low"].tolist() == pytest.approx(np.quantile(curves, 0.025, axis=0))
    assert band["high"].tolist() == pytest.approx(np.quantile(curves, 0.975, axis=0))


def test_bands_over_seeds_of_few_patients_and_of_one_class():
    labels, first, second, patients = example()
    one, two, both, ranked = (
        roc_band(labels, model, patients, resamples=20)["sensitivity"]
        for model in (first, second, [first, second], 5 * first - 3)  # of the last, only the order counts
    )
    assert both.tolist() == pytest.approx(((one + two) / 2).tolist()) and ranked.equals(one)
    rare = pr_band([0, 0, 1], [0.1, 0.6, 0.5], list("abc"), resamples=200)
    assert rare["precision"].tolist() == [0.5] * 101 and rare[["low", "high"]].isna().all(axis=None)
    with pytest.raises(DataError, match="roc_band: all 2 images are benign"):
        roc_band([0, 0], [0.1, 0.6], list("ab"))


def test_net_benefit_of_a_table_made_by_hand():
    """20 images, 8 malignant; at 0.25 the table is TP 6, FP 3: 6/20 − 3/20 · (1/4)/(3/4) = 0.25."""
    labels = [1] * 8 + [0] * 12
    probabilities = [0.9] * 6 + [0.1] * 2 + [0.8] * 3 + [0.05] * 9
    curve = benefit_curve(labels, probabilities, range(20), [0, 0.25, 0.5, 0.85])
    assert curve["net_benefit"].tolist() == pytest.approx([0.4, 6 / 20 - 3 / 20 / 3, 6 / 20 - 3 / 20, 6 / 20])
    assert curve["treat_all"][:3].tolist() == pytest.approx([0.4, 8 / 20 - 12 / 20 / 3, -0.2])  # at 0 all are called


def test_bad_arguments_of_the_score_bootstrap():
    given = {"labels": [0, 1], "probabilities": [0.1, 0.9], "patients": ["a", "b"]}
    for options, message in (
        ({"metrics": ("auc", "dice")}, "no score 'dice'; expected some of auc"),
        ({"threshold": (0.1, 0.2)}, "one for each of 1 seeds"),
    ):
        with pytest.raises(ValueError, match=message):
            patient_scores(**given | options)
