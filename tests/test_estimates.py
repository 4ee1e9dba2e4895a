"""Intervals over patients against theory, scipy and images written out, coverage by simulation; bands of curves."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.metrics import roc_curve

from thyroid_utils.common.errors import DataError
from thyroid_utils.scores.curves import benefit_curve, drawn_patients, pr_band, roc_band
from thyroid_utils.scores.estimates import (
    Comparison,
    Estimate,
    few_told,
    patient_estimate,
    patient_median,
    patient_scores,
    proportion_interval,
    share_interval,
    told_over_seeds,
)
from thyroid_utils.scores.labels import Labelled, Weighed, classification_scores
from thyroid_utils.scores.patients import images_of, jackknife, leave_out, over_patients
from thyroid_utils.scores.recipes import auc_influence, compare_recipes


@pytest.mark.parametrize(("patients", "told"), [(0, "on no sick men."), (1, "on 1 sick man."), (49, "on 49 sick men."), (50, "")])
def test_few_patients_are_told_and_many_are_not(patients, told):
    said = few_told(patients, "sick man", "sick men", score="auc")
    assert told in said and bool(said) == bool(told) and "Dice" not in said
    assert ("Dice" in few_told(patients, "sick man", score="dice")) == bool(told)
    assert "absent from 21 % of samples of that size, and from the interval of the AUC" in few_told(30, "man", score="auc")


def test_one_image_a_patient_is_the_t_interval_and_where_all_agree_wilsons():
    values = np.random.default_rng(0).normal(5, 2, 80)
    ours = patient_estimate(values, range(80))
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(stats.t.interval(0.95, 79, values.mean(), stats.sem(values)))
    random = np.random.default_rng(1)
    labels, scores = np.repeat([0, 1], [12, 30]), random.normal(size=42).round(1)
    images = Labelled(labels.astype(bool), scores)
    value, moves = leave_out(lambda weights: Weighed(images, weights).score("auc"), np.arange(42))
    delong, freedom = over_patients(auc_influence(labels, scores).by_image, labels, np.arange(42))
    variance, same, smaller = jackknife(moves, images_of(np.arange(42), labels))
    assert variance == pytest.approx(delong[0]) and same == pytest.approx(freedom[0]) and 11 < same < 41 and smaller == 12
    assert value == pytest.approx(auc_influence(labels, scores).scores[0])
    patients = ["a", "a", "b", "b", "c", "c"]
    for value in (0.5, 1):
        assert patient_estimate([value] * 6, patients).text() == f"{value:.2f} [no interval: all patients agree]"
    for value in (0, 1):
        share = patient_estimate([value] * 6, patients, share=True)
        assert (share.low, share.high) == proportion_interval(3 * value, 3)  # of patients, not images
    assert proportion_interval(9, 10) == pytest.approx(tuple(stats.binomtest(9, 10).proportion_ci(method="wilson")))
    assert np.isnan(proportion_interval(0, 0)).all()
    # Of three patients with 50, 1 and 1 images hardly more than one tells: 52² / 2502.
    uneven = patient_estimate([1] * 52, ["a"] * 50 + ["b", "c"], share=True)
    assert (uneven.low, uneven.high) == proportion_interval(52**2 / 2502, 52**2 / 2502) and uneven.low < 0.25


def test_estimates_of_means_medians_and_p_values_are_told_also_of_one_patient_and_none():
    assert patient_estimate([1.0, np.nan, 3.0], ["a", "b", "c"]).images == 2
    single = patient_estimate([1.0, 3.0], ["a", "a"])
    assert single.value == 2.0 and np.isnan(single.low) and "no interval" in single.text()
    assert patient_estimate([], []).text() == "no data"
    for patients, message in ((["a"], "patients have shape"), (["a", "b", None], "1 of 3 values have no patient")):
        with pytest.raises(ValueError, match=message):
            patient_estimate([1.0, 2.0, 90.0], patients)
    found = patient_median([1, 2, 3, 5, 6, np.nan], list("abcded"))
    assert (found.value, found.images, found.patients) == (3, 5, 5) and 1 <= found.low < 3 < found.high <= 6
    assert patient_median([2, 2, 2], list("abc")).text() == "2.00 [no interval: all patients agree]"
    assert patient_median([2, 4], ["a", "a"]).text() == "3.00 [no interval: 1 patient]" and patient_median([], []).images == 0
    assert str(Estimate(0.614, 0.55, 0.662, 9, 4)) == "0.61 [0.55, 0.66]"
    assert str(Comparison(0.6, 0.5, 0.1, 0.02, 0.18, 0.0004, 9, 4)) == "+0.100 [+0.020, +0.180], p < 0.001"
    assert Comparison(0.6, 0.5, 0.1, np.nan, np.nan, np.nan, 9, 1, note="1 patient").text(1) == "+0.1, no p-value: 1 patient"
    assert Comparison(*[np.nan] * 6, 0, 0).text() == "no data"
    assert told_over_seeds([0.9, 0.92, 0.97, np.nan]) == "0.93 ± 0.04 (3 seeds)"
    assert told_over_seeds([0.91]) == "0.91 (1 seed)" and told_over_seeds([]) == "no data"
    assert Comparison(0.5, 0.5, -0.0004, -0.0001, 0.01, 0.5, 9, 4).text(2) == "0.00 [0.00, +0.01], p = 0.5"
    assert Estimate(0.5, np.nan, np.nan, 9, 2).text() == "0.50 [no interval: 2 patients]"


def test_few_patients_of_a_class_scores_at_their_limits_and_very_many_patients():
    perfect = patient_scores([0] * 7 + [1] * 40, np.linspace(0.2, 0.9, 47), range(47), ("auc", "mcc", "sensitivity"), 0.3)
    assert (perfect["auc"].low, perfect["auc"].high) == proportion_interval(7, 7), "of the smaller class"
    assert (perfect["sensitivity"].low, perfect["sensitivity"].high) == proportion_interval(40, 40)
    wrong = patient_scores([0] * 7 + [1] * 40, np.linspace(0.9, 0.2, 47), range(47), "auc")["auc"]
    assert (wrong.low, wrong.high) == proportion_interval(0, 7)
    lone = patient_scores([0, 0, 1, 1, 1], [0.1, 0.6, 0.4, 0.8, 0.7], list("aabcd"), ("auc", "accuracy"))
    assert lone["auc"].text() == "0.83 [no interval: 1 patient with benign images]"
    assert lone["accuracy"].low < lone["accuracy"].high
    apart = patient_scores([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], range(4), "calibration_slope")["calibration_slope"]
    assert apart.text() == "undefined", "no slope is the likeliest of classes that one threshold separates"
    # Patients with an image of each class are patients of both.
    both = patient_scores([0, 1] * 9, np.tile([0.2, 0.6, 0.5, 0.4, 0.3, 0.9], 3), np.repeat(range(9), 2), "auc")["auc"]
    assert 0.4 < both.low < both.value == pytest.approx(8 / 9) and both.high < 1
    labels, probabilities, _, patients = example(1500, 1)
    found = patient_scores(labels, probabilities, patients, ("auc", "sensitivity"))
    error = np.sqrt(over_patients(auc_influence(labels, probabilities).by_image, labels, pd.factorize(patients)[0])[0][0])
    # Two standard errors each way, on a scale that hardly bends; 1000 groups leave an error of about 2 % of it.
    assert found["auc"].high - found["auc"].low == pytest.approx(2 * 1.96 * error, rel=0.1) and found["auc"].patients == 1500


def example(patients: int = 40, each: int = 3, seed: int = 0, digits: int = 2) -> tuple[np.ndarray, ...]:
    """Labels of patients, probabilities of two related models with many ties, and patients of unequal numbers of images."""
    random = np.random.default_rng(seed)
    codes = np.repeat(np.arange(patients), random.integers(1, 2 * each, patients))
    labels = (codes % 5 < 2).astype(int)
    common = random.normal(size=patients)[codes] + random.normal(size=len(codes)) + labels
    first, second = (expit(common + random.normal(size=len(codes))).round(digits) for _ in range(2))
    return labels, first, second, np.array([f"p{code}" for code in codes])


def test_values_are_the_scores_and_bad_arguments_are_refused():
    labels, probabilities, _, patients = example()
    found = patient_scores(labels, probabilities, patients, threshold=0.6)
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(
        classification_scores(labels, probabilities, 0.6), abs=1e-7
    )
    for name, estimate in found.items():
        assert (estimate.images, estimate.patients) == (len(labels), 40)
        assert estimate.low < estimate.value < estimate.high and not estimate.note, name
    given = {"labels": [0, 1], "probabilities": [0.1, 0.9], "patients": ["a", "b"]}
    for options, message in (
        ({"metrics": ("auc", "dice")}, "no score 'dice'; expected some of auc"),
        ({"threshold": (0.1, 0.2)}, "one for each of 1 seeds"),
    ):
        with pytest.raises(ValueError, match=message):
            patient_scores(**given | options)


@pytest.fixture(scope="module")
def simulated() -> dict[str, float]:
    """How often what is nominally 95 % holds, in 300 samples of 100 patients with two correlated images each."""
    random = np.random.default_rng(7)
    patients = np.repeat(np.arange(100), 2)
    labels = (patients % 5 < 2).astype(int)
    shift, trials = 1.5, 300
    right = stats.norm.cdf(shift / 2 / np.sqrt(2))  # both kinds of image have a spread of √2 about ±shift/2
    truth = {"auc": stats.norm.cdf(shift / 2), "sensitivity": right, "accuracy": right}
    hits = dict.fromkeys([*truth, "paired"], 0)
    for _ in range(trials):
        first, second = (shift * (labels - 0.5) + random.normal(size=100)[patients] + random.normal(size=200) for _ in range(2))
        one, two = expit(first), expit(second)
        found = patient_scores(labels, one, patients, tuple(truth))
        for name, value in truth.items():
            hits[name] += found[name].low <= value <= found[name].high
        paired = patient_scores(labels, one, patients, "auc", less=two)["auc"]
        hits["paired"] += paired.low <= 0 <= paired.high
    return {name: count / trials for name, count in hits.items()}


# The standard error of a share of 300 is 1.3 points.
@pytest.mark.parametrize("name", ["auc", "sensitivity", "accuracy", "paired"])
def test_intervals_and_tests_hold_as_often_as_they_say(simulated, name):
    assert 0.92 <= simulated[name] <= 0.98


def test_the_change_of_a_score_leaves_out_the_same_patients():
    labels, first, second, patients = example(150)
    same = patient_scores(labels, first, patients, ("auc", "accuracy"), less=first)
    assert {found.text() for found in same.values()} == {"0.00 [no interval: all patients agree]"}
    found = patient_scores(labels, first, patients, ("auc", "mcc"), 0.4, less=[second, second])
    one, two = (classification_scores(labels, model, 0.4) for model in (first, second))
    assert found["mcc"].value == pytest.approx(one["mcc"] - two["mcc"])
    # Pairing is what makes related models comparable: the interval is narrower than that of one model.
    width, alone = found["auc"].high - found["auc"].low, patient_scores(labels, first, patients, "auc")["auc"]
    assert width < 0.8 * (alone.high - alone.low)
    tested = compare_recipes(auc_influence(labels, first), auc_influence(labels, second), patients)
    assert found["auc"].value == pytest.approx(tested.difference)
    assert (found["auc"].low, found["auc"].high) == pytest.approx((tested.fixed_low, tested.fixed_high), abs=0.08 * width)


def test_bands_and_net_benefit_by_hand_over_seeds_and_of_one_class():
    roc, precision = (band([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.9], list("abcd"), resamples=50) for band in (roc_band, pr_band))
    assert roc["sensitivity"][::25].tolist() == [0.5, 0.5, 1, 1, 1]  # upright steps at 0 and at 1/2, read at their upper ends
    assert precision["precision"][::25].tolist() == pytest.approx([1, 1, 1, 2 / 3, 2 / 3])
    labels, probabilities, _, patients = example()
    roc, precision = roc_band(labels, probabilities, patients), pr_band(labels, probabilities, patients)
    scores = classification_scores(labels, probabilities)
    # A grid of 101 points and trapezoids across upright steps are off by less than half a step of the grid.
    assert np.trapezoid(roc["sensitivity"], roc["false_positive_rate"]) == pytest.approx(scores["auc"], abs=0.006)
    assert precision["precision"].mean() == pytest.approx(scores["pr_auc"], abs=0.01)
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
    # 20 images, 8 malignant; at 0.25 the table is TP 6, FP 3: 6/20 − 3/20 · (1/4)/(3/4) = 0.25.
    labels = [1] * 8 + [0] * 12
    probabilities = [0.9] * 6 + [0.1] * 2 + [0.8] * 3 + [0.05] * 9
    curve = benefit_curve(labels, probabilities, range(20), [0, 0.25, 0.5, 0.85])
    assert curve["net_benefit"].tolist() == pytest.approx([0.4, 6 / 20 - 3 / 20 / 3, 6 / 20 - 3 / 20, 6 / 20])
    assert curve["treat_all"][:3].tolist() == pytest.approx([0.4, 8 / 20 - 12 / 20 / 3, -0.2])  # at 0 all are called
    told = benefit_curve(labels, probabilities, range(20), [0.04, 0.07])
    assert np.isnan(curve[["low", "high"]]).all(axis=None) and np.isnan(told["low"][1]), "3 patients are called wrongly, or none"
    assert -1 / 24 < told["low"][0] < 0.4 - 0.6 / 24 < told["high"][0] < 1


def test_a_band_has_the_spread_of_resampled_curves():
    labels, probabilities, _, patients = example(80)
    band = roc_band(labels, probabilities, patients, resamples=60)
    codes = pd.factorize(patients)[0]
    curves = []
    for column in drawn_patients(80, 60).astype(int):
        images = np.repeat(np.arange(len(labels)), column[codes])
        if 0 < labels[images].sum() < len(images):
            alarms, hits, _ = roc_curve(labels[images], probabilities[images])
            curves.append(np.interp(band["false_positive_rate"], alarms, hits))
    images = np.bincount(codes[labels == 1])  # the malignant patients are fewer
    fewest = images.sum() ** 2 / (images**2).sum()
    low, high = share_interval(band["sensitivity"], np.std(curves, axis=0, ddof=1), fewest - 1, fewest, labels.sum())
    assert band["low"].tolist() == pytest.approx(low.tolist()) and band["high"].tolist() == pytest.approx(high.tolist())
