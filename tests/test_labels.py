"""Scores and calibration by hand, against scikit-learn and statsmodels, in every order, and by what must hold for any data."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit
from sklearn import metrics as reference
from sklearn.calibration import _sigmoid_calibration

from thyroid_utils.common.errors import DataError
from thyroid_utils.scores.labels import SCORES, Labelled, Weighed, choose_threshold, classification_scores, predictive_values
from thyroid_utils.scores.probabilities import at_bound, aurc, fit_platt, fit_temperature, logit, recalibration, risk_coverage

ONE_CLASS_NAN = {"auc", "pr_auc", "balanced_accuracy", "mcc", *list(SCORES)[-2:]}


def example(images: int = 300, seed: int = 0, digits: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and overconfident probabilities with many ties."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, images)
    return labels, expit(3 * random.normal(size=images) + 3 * labels - 1).round(digits)


def test_six_images_by_hand_and_weighted_images_as_their_copies():
    # At 0.5: called malignant are 0.9 (malignant), 0.8 (benign), 0.6 (malignant): TP 2, FP 1, FN 1, TN 2.
    scores = classification_scores([1, 0, 1, 1, 0, 0], [0.9, 0.8, 0.6, 0.4, 0.2, 0.1])
    for name in ("accuracy", "sensitivity", "specificity", "precision", "f1", "balanced_accuracy"):
        assert scores[name] == pytest.approx(2 / 3), name
    assert scores["mcc"] == pytest.approx((2 * 2 - 1 * 1) / 9)
    # Of nine pairs the 0.8 beats two malignant images.
    assert scores["auc"] == pytest.approx(7 / 9)
    # Recall rises by a third at precision 1, 2/3 and 3/4.
    assert scores["pr_auc"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert scores["brier"] == pytest.approx((0.01 + 0.64 + 0.16 + 0.36 + 0.04 + 0.01) / 6)
    many = Labelled(np.array([True, False, True, False]), np.array([0.9, 0.9, 0.1, 0.1]))
    large = Weighed(many, np.array([[4.0], [1], [1], [4]]) * 100_000).score("mcc")
    assert large == pytest.approx(0.6, abs=1e-12), "of a large table, too"
    scores = classification_scores([1, 0, 1], [0.2, 0.1, 0.3])
    assert np.isnan(scores["precision"]) and scores["mcc"] == 0 == scores["f1"] == scores["sensitivity"]
    # Each column against the images written out and scored by themselves; ties, and columns of one class, included.
    labels, probabilities = example(60)
    weights = np.random.default_rng(1).integers(0, 3, (60, 20))
    weights[labels == 1, 0] = 0
    weighed = Weighed(Labelled(labels == 1, probabilities, 0.4), weights.astype(float))
    found = {name: weighed.score(name) for name in SCORES}
    for column in range(20):
        copies = np.repeat(np.arange(60), weights[:, column])
        expected = classification_scores(labels[copies], probabilities[copies], 0.4)
        assert {name: found[name][column] for name in SCORES} == pytest.approx(expected, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.77])
def test_scores_are_scikit_learns(threshold):
    labels, probabilities = example()
    called = probabilities >= threshold
    alike = ("accuracy", "balanced_accuracy", "precision", "f1")
    expected = {name: getattr(reference, f"{name}_score")(labels, called) for name in alike}
    expected |= {"sensitivity": reference.recall_score(labels, called), "mcc": reference.matthews_corrcoef(labels, called)}
    expected |= {"specificity": reference.recall_score(labels, called, pos_label=0)}
    ranking = {"auc": "roc_auc_score", "pr_auc": "average_precision_score", "brier": "brier_score_loss"}
    expected |= {name: getattr(reference, score)(labels, probabilities) for name, score in ranking.items()}
    scores = classification_scores(labels, probabilities, threshold)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("label", "rate"), [(1, "specificity"), (0, "sensitivity")])
def test_one_class_leaves_what_it_does_not_define_nan(label, rate):
    scores = classification_scores([label] * 4, [0.2, 0.6, 0.7, 0.9])
    assert {name for name, value in scores.items() if np.isnan(value)} == ONE_CLASS_NAN | {rate}
    assert scores["accuracy"] == (0.75 if label else 0.25)


@pytest.mark.parametrize(
    ("labels", "probabilities", "threshold", "message"),
    [
        ([], [], 0.5, "at least one image"),
        ([0, 2], [0.1, 0.2], 0.5, "labels hold 2; expected 0"),
        ([0, pd.NA], [0.1, 0.2], 0.5, "1 of 2 labels are unknown"),
        ([0, 1], [0.1], 0.5, "expected \\(2,\\)"),
        ([0, 1], [[0.1, 0.2]], 0.5, "expected \\(2,\\)"),
        ([0, 1], [-1.2, 3.0], 0.5, "-1.2 to 3; expected \\[0, 1\\], not logits"),
        ([0, 1], [0.1, 0.2], np.array([0.5, np.nan]), "threshold is NaN"),
    ],
)
def test_bad_input_is_named(labels, probabilities, threshold, message):
    with pytest.raises(ValueError, match=message):
        classification_scores(labels, probabilities, threshold)


def test_the_threshold_by_hand_against_all_others_and_at_the_ends():
    # Youden's index is 2/3 both between 0.3 and 0.4 (no malignant missed) and between 0.6 and 0.7 (no benign called): 0.35 and
    # 0.65 are as far from 0.5.
    chosen = choose_threshold([0, 0, 1, 0, 1, 1], [0.1, 0.3, 0.4, 0.6, 0.7, 0.9])
    assert chosen in (pytest.approx(0.35), pytest.approx(0.65))
    labels, probabilities = example(80, seed=3)

    def balanced(threshold):
        return classification_scores(labels, probabilities, threshold)["balanced_accuracy"]

    best = balanced(choose_threshold(labels, probabilities))
    assert best == pytest.approx(max(balanced(cut) for cut in np.linspace(0, 1.01, 203))) and best > balanced(0.99)
    assert choose_threshold([0, 1], [1.0, 0.2]) in (pytest.approx(0.1), pytest.approx(1.0))  # no order worse: all or nothing
    with pytest.raises(DataError, match="all 3 images are malignant; expected both classes"):
        choose_threshold([1, 1, 1], [0.2, 0.3, 0.8])


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((0.9, 0.8, 0.1), (0.09 / 0.27, 0.72 / 0.73)),  # of 1000: 90 found, 180 false alarms, 720 cleared, 10 missed
        ((0.9, 0.8, 1), (1, 0)),
        ((1, 1, 0), (np.nan, 1)),
        ((0, 1, 0.3), (np.nan, 0.7)),
        ((1, 0, 0.3), (0.3, np.nan)),
    ],
)
def test_predictive_values_by_hand_and_nan_where_none_is_called_so(rates, expected):
    assert predictive_values(*rates) == pytest.approx(expected, nan_ok=True)


def test_calibration_is_statsmodels_also_from_afar_and_separated_classes_have_no_slope():
    labels, probabilities = example(digits=6)
    logits = logit(probabilities)
    slope = sm.Logit(labels, sm.add_constant(logits)).fit(disp=0).params[1]
    intercept = sm.GLM(labels, np.ones(len(labels)), sm.families.Binomial(), offset=logits).fit().params[0]
    assert slope < 0.8  # the example is overconfident: the fit has something to find
    scores = classification_scores(labels, probabilities)
    assert scores["calibration_slope"] == pytest.approx(slope, abs=1e-7)
    assert scores["calibration_intercept"] == pytest.approx(intercept, abs=1e-7)
    # Saturated probabilities on the wrong side: plain Newton steps from 0 would run away.
    labels = np.array([1] * 30 + [0] * 30 + [0, 1])
    logits = np.r_[np.full(30, -16.0), np.full(30, -16.1), 16, 15.0]
    slopes, intercepts = recalibration(labels == 1, logits, np.ones((62, 1)))
    assert intercepts[0] == pytest.approx(brentq(lambda a: (labels - expit(a + logits)).sum(), -60, 60), abs=1e-7)
    fit = sm.Logit(labels, sm.add_constant(logits)).fit(disp=0, maxiter=100)
    assert slopes[0] == pytest.approx(fit.params[1], abs=1e-6)
    for probabilities in ([0.1, 0.2, 0.8, 0.9], [0.1, 0.5, 0.5, 0.9], [0.9, 0.8, 0.2, 0.1], [0.5] * 4):
        scores = classification_scores([0, 0, 1, 1], probabilities)
        assert np.isnan(scores["calibration_slope"]), probabilities
        assert np.isfinite(scores["calibration_intercept"])
    assert np.isfinite(classification_scores([0, 1, 0, 1], [0.1, 0.2, 0.8, 0.9])["calibration_slope"])


def test_temperature_minimises_the_log_loss():
    labels, probabilities = example(digits=6)
    best = fit_temperature(labels, logit(probabilities))

    def loss(temperature):
        return reference.log_loss(labels, expit(logit(probabilities) / temperature))

    assert best > 1.2
    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01), loss(1.0))
    assert fit_temperature([0, 0, 1, 1], [-2.0, -1, 1, 2]) == pytest.approx(0.05, rel=1e-4)  # the bounds
    assert fit_temperature([1, 1, 0, 0], [-2.0, -1, 1, 2]) == pytest.approx(20, rel=1e-4)
    found = [fit_temperature([0, 0, 1, 1], logits) for logits in ([-2, -1, 1, 2], [2, 1, -1, -2], [-2, 1, -1, 2])]
    assert [at_bound(temperature) for temperature in found] == [True, True, False]
    slope = sm.Logit(labels, logit(probabilities)).fit(disp=0).params[0]
    assert best == pytest.approx(1 / slope, rel=1e-5), "of a regression without a constant"


def test_platt_is_scikit_learns_and_never_certain_nor_turned_round():
    random = np.random.default_rng(4)
    truth = random.random(4000)
    labels = (random.random(4000) < truth).astype(int)
    shifted = (logit(truth) - 1.5) * 2  # trained as if malignant were rarer, and too sure
    found = fit_platt(labels, shifted)
    assert found.slope == pytest.approx(0.5, abs=0.05) and found.intercept == pytest.approx(1.5, abs=0.15)  # 3 standard errors
    slope, intercept = _sigmoid_calibration(shifted, labels)
    assert (found.slope, found.intercept) == pytest.approx((-slope, -intercept), rel=1e-3)
    after = found(shifted)
    scores, before = (classification_scores(labels, values) for values in (after, expit(shifted)))
    assert before["calibration_slope"] < 0.55 and before["calibration_intercept"] > 1
    # Standard errors of 4,000 images: about 0.04 of both.
    assert scores["calibration_slope"] == pytest.approx(1, abs=0.02) and scores["calibration_intercept"] == pytest.approx(
        0, abs=0.02
    )
    assert after.mean() == pytest.approx(labels.mean(), abs=1e-3)
    apart = fit_platt([0, 0, 1, 1], [-2.0, -1, 1, 2])
    assert apart(np.array([-2.0, 2.0])) == pytest.approx([0.25, 0.75], abs=0.05) and apart.slope > 0
    turned = fit_platt([1, 1, 0, 0, 0], [-2.0, -1, 1, 2, 3])
    assert turned.slope == 0 and turned(np.array([-5.0, 5.0])) == pytest.approx([(2 * 3 / 4 + 3 / 5) / 5] * 2)
    assert fit_platt([0, 1, 1], [1.0, 1.0, 1.0])(1.0) == pytest.approx((1 / 3 + 2 * 3 / 4) / 3)
    alike = fit_platt([0, 1] * 30, [0.1] * 60)  # whose SD is not 0 but for rounding
    assert alike(np.array([0.0999, 0.1, 0.100001])) == pytest.approx([0.5] * 3)


@pytest.mark.parametrize("fit", [fit_temperature, fit_platt])
def test_fits_refuse_one_class_and_what_is_no_logit(fit):
    with pytest.raises(DataError, match=f"{fit.__name__}.* both classes"):
        fit([1, 1], [0.3, 2])
    with pytest.raises(ValueError, match="finite ones of shape"):
        fit([0, 1], [0.3, np.inf])


def test_risk_coverage_by_hand_and_equal_uncertainty_as_the_mean_over_all_orders():
    # by rising uncertainty the errors are 0, 0, 1, 0, 1: risks 0/1, 0/2, 1/3, 1/4, 2/5
    table = risk_coverage([0.9, 0.1, 0.5, 0.2, 0.7], [1, 0, 1, 0, 0])
    assert table["coverage"].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert table["risk"].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
    assert aurc([0.9, 0.1, 0.5, 0.2, 0.7], [1, 0, 1, 0, 0]) == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert aurc([3, 1, 2], [0, 0, 0]) == 0
    known = risk_coverage([0.1, np.nan, 0.3, 0.2], [0, 1, np.nan, 1])
    assert known["risk"].tolist() == [0, 0.5] and known["coverage"].tolist() == [0.5, 1] and np.isnan(aurc([np.nan], [1]))
    errors = np.array([0, 0.2, 1, 0.6])
    orders = [[0, *rest] for rest in permutations([1, 2, 3])]
    expected = np.mean([np.cumsum(errors[order]) / np.arange(1, 5) for order in orders], axis=0)
    np.testing.assert_allclose(risk_coverage([1, 2, 2, 2], errors)["risk"], expected)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=6))
def test_no_order_is_better_than_that_of_the_errors(pairs):
    uncertainty, errors = np.array(pairs).T
    best = min(np.mean(np.cumsum(order) / np.arange(1, len(errors) + 1)) for order in permutations(errors))
    assert aurc(errors, errors) == pytest.approx(best)
    assert aurc(uncertainty, errors) >= best - 1e-12
    assert risk_coverage(uncertainty, errors)["risk"].iloc[-1] == pytest.approx(errors.mean())
