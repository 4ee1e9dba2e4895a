"""Classification metrics by hand, against scikit-learn and statsmodels, and by what must hold for any data."""

from __future__ import annotations

import hypothesis
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import strategies
from scipy.optimize import brentq
from scipy.special import expit
from sklearn import metrics as reference
from sklearn.calibration import _sigmoid_calibration

from thyroid_utils.common.errors import DataError
from thyroid_utils.scores.labels import (
    SCORES,
    choose_threshold,
    classification_scores,
    confusion_counts,
    pr_curve,
    roc_curve,
    scores_from_counts,
)
from thyroid_utils.scores.probabilities import (
    expected_calibration_error,
    fit_platt,
    fit_temperature,
    logit,
    recalibration,
    reliability_table,
)

ONE_CLASS_NAN = {"auc", "pr_auc", "balanced_accuracy", "mcc", "sensitivity_at_specificity", *list(SCORES)[-2:]}


def example(images: int = 300, seed: int = 0, digits: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and overconfident probabilities with many ties."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, images)
    return labels, expit(3 * random.normal(size=images) + 3 * labels - 1).round(digits)


def test_six_images_by_hand():
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
    # Every probability is alone in its bin of a tenth, so that each is off by its own error.
    assert scores["ece"] == pytest.approx((0.1 + 0.8 + 0.4 + 0.6 + 0.2 + 0.1) / 6)
    # No false positive is allowed at 0.9 with three benign images; one at 0.6.
    assert scores["sensitivity_at_specificity"] == pytest.approx(1 / 3)
    assert classification_scores([1, 0, 1, 1, 0, 0], [0.9, 0.8, 0.6, 0.4, 0.2, 0.1], specificity=0.6)[
        "sensitivity_at_specificity"
    ] == pytest.approx(1)
    assert list(scores) == list(SCORES)


def test_a_probability_at_the_threshold_is_called_malignant():
    assert confusion_counts([1, 0], [0.5, 0.5]) == {
        "true_positives": 1, "false_positives": 1, "false_negatives": 0, "true_negatives": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="threshold is NaN"):
        confusion_counts([1, 0], [0.5, 0.5], np.nan)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.77])
def test_scores_are_scikit_learns(threshold):
    labels, probabilities = example()
    called = probabilities >= threshold
    expected = {
        "auc": reference.roc_auc_score(labels, probabilities),
        "pr_auc": reference.average_precision_score(labels, probabilities),
        "accuracy": reference.accuracy_score(labels, called),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, called),
        "sensitivity": reference.recall_score(labels, called),
        "specificity": reference.recall_score(labels, called, pos_label=0),
        "precision": reference.precision_score(labels, called),
        "f1": reference.f1_score(labels, called),
        "mcc": reference.matthews_corrcoef(labels, called),
        "brier": reference.brier_score_loss(labels, probabilities),
    }
    scores = classification_scores(labels, probabilities, threshold)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_calibration_is_that_of_statsmodels_logistic_regressions():
    labels, probabilities = example(digits=6)
    logits = logit(probabilities)
    slope = sm.Logit(labels, sm.add_constant(logits)).fit(disp=0).params[1]
    intercept = sm.GLM(labels, np.ones(len(labels)), sm.families.Binomial(), offset=logits).fit().params[0]
    assert slope < 0.8  # the example is overconfident: the fit has something to find
    scores = classification_scores(labels, probabilities)
    assert scores["calibration_slope"] == pytest.approx(slope, abs=1e-7)
    assert scores["calibration_intercept"] == pytest.approx(intercept, abs=1e-7)


def test_calibration_of_weighted_images_is_that_of_copies():
    labels, probabilities = example(60, digits=6)
    weights = np.random.default_rng(1).integers(0, 4, (60, 5))
    slopes, intercepts = recalibration(labels, logit(probabilities), weights)
    for column in range(5):
        copies = np.repeat(np.arange(60), weights[:, column])
        alone = recalibration(labels[copies], logit(probabilities[copies]))
        assert (slopes[column], intercepts[column]) == pytest.approx((alone[0][0], alone[1][0]), abs=1e-8)


def test_calibration_converges_from_afar():
    """Saturated probabilities on the wrong side: plain Newton steps from 0 would run away."""
    labels = np.array([1] * 30 + [0] * 30 + [0, 1])
    logits = np.r_[np.full(30, -16.0), np.full(30, -16.1), 16, 15.0]
    slopes, intercepts = recalibration(labels, logits)
    assert intercepts[0] == pytest.approx(brentq(lambda a: (labels - expit(a + logits)).sum(), -60, 60), abs=1e-7)
    fit = sm.Logit(labels, sm.add_constant(logits)).fit(disp=0, maxiter=100)
    assert slopes[0] == pytest.approx(fit.params[1], abs=1e-6)


def test_well_calibrated_probabilities_have_slope_one_and_intercept_zero():
    random = np.random.default_rng(0)
    probabilities = expit(2 * random.normal(size=40_000))
    labels = random.random(40_000) < probabilities
    scores = classification_scores(labels, probabilities)
    # Standard errors: about 0.012 of the slope and 0.013 of the intercept.
    assert scores["calibration_slope"] == pytest.approx(1, abs=0.04)
    assert scores["calibration_intercept"] == pytest.approx(0, abs=0.04)
    assert scores["ece"] < 0.01


@pytest.mark.parametrize(("label", "rate"), [(1, "specificity"), (0, "sensitivity")])
def test_one_class_leaves_what_it_does_not_define_nan(label, rate):
    scores = classification_scores([label] * 4, [0.2, 0.6, 0.7, 0.9])
    assert {name for name, value in scores.items() if np.isnan(value)} == ONE_CLASS_NAN | {rate}
    assert scores["accuracy"] == (0.75 if label else 0.25)


def test_calls_all_alike():
    scores = classification_scores([1, 0, 1], [0.2, 0.1, 0.3])
    assert np.isnan(scores["precision"]) and scores["mcc"] == 0 == scores["f1"] == scores["sensitivity"]
    assert np.isnan(classification_scores([0, 0], [0.1, 0.2])["f1"])


def test_separated_classes_have_no_slope_and_touching_ones_neither():
    for probabilities in ([0.1, 0.2, 0.8, 0.9], [0.1, 0.5, 0.5, 0.9], [0.9, 0.8, 0.2, 0.1], [0.5] * 4):
        scores = classification_scores([0, 0, 1, 1], probabilities)
        assert np.isnan(scores["calibration_slope"]), probabilities
        assert np.isfinite(scores["calibration_intercept"])
    assert np.isfinite(classification_scores([0, 1, 0, 1], [0.1, 0.2, 0.8, 0.9])["calibration_slope"])


def test_mcc_of_a_large_table_keeps_its_digits():
    big = scores_from_counts(400_000, 100_000, 100_000, 400_000)
    assert big["mcc"] == pytest.approx(0.6, abs=1e-12)
    many = scores_from_counts(np.array([2, 0]), np.array([1, 0]), np.array([1, 3]), np.array([2, 3]))
    assert many["mcc"] == pytest.approx([1 / 3, 0]) and np.isnan(many["precision"][1])


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([], [], "at least one image"),
        ([0, 2], [0.1, 0.2], "labels hold 2; expected 0"),
        ([0, pd.NA], [0.1, 0.2], "1 of 2 labels are unknown"),
        (pd.Series([0, None], dtype="Int64"), [0.1, 0.2], "1 of 2 labels are unknown"),
        (["benign", "malignant"], [0.1, 0.2], "labels hold 'benign'; expected 0"),
        ([0, 1], [0.1], "expected \\(2,\\)"),
        ([0, 1], [[0.1, 0.2]], "expected \\(2,\\)"),
        ([0, 1], [0.1, np.nan], "1 of 2 probabilities are NaN"),
        ([0, 1], [-1.2, 3.0], "-1.2 to 3; expected \\[0, 1\\], not logits"),
    ],
)
def test_bad_input_is_named(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        classification_scores(labels, probabilities)


def test_labels_of_a_case_table_serve():
    labels = pd.Series([0, 1, 1, 0], dtype="Int64")
    assert classification_scores(labels, pd.Series([0.1, 0.7, 0.4, 0.6]))["accuracy"] == 0.5


def test_curves_are_scikit_learns_and_their_areas_the_scores():
    labels, probabilities = example()
    roc, precision = roc_curve(labels, probabilities), pr_curve(labels, probabilities)
    scores = classification_scores(labels, probabilities)
    assert np.trapezoid(roc["sensitivity"], roc["false_positive_rate"]) == pytest.approx(scores["auc"])
    assert (np.diff(precision["recall"]) * precision["precision"][1:]).sum() == pytest.approx(scores["pr_auc"])
    assert len(roc) == len(np.unique(probabilities)) + 1
    for curve in (roc, precision):
        assert np.isinf(curve["threshold"][0]) and (np.diff(curve["threshold"][1:]) < 0).all()
        row = curve.iloc[len(curve) // 2]
        at = classification_scores(labels, probabilities, row["threshold"])
        found = row.get("sensitivity", row.get("recall")), row.get("false_positive_rate", row.get("precision"))
        assert found == pytest.approx((at["sensitivity"], at["precision"] if curve is precision else 1 - at["specificity"]))
    for curve in (roc_curve, pr_curve):
        with pytest.raises(DataError, match="all 2 images are benign"):
            curve([0, 0], [0.1, 0.2])


def test_thresholds_by_hand():
    labels, probabilities = [0, 0, 1, 0, 1, 1], [0.1, 0.3, 0.4, 0.6, 0.7, 0.9]
    # Youden's index is 2/3 both between 0.3 and 0.4 (no malignant missed) and between 0.6 and 0.7 (no benign called): 0.35 and
    # 0.65 are as far from 0.5.
    assert choose_threshold(labels, probabilities) in (pytest.approx(0.35), pytest.approx(0.65))
    assert choose_threshold(labels, probabilities, "f1") == pytest.approx(0.35)
    assert choose_threshold(labels, probabilities, "sensitivity", 1.0) == pytest.approx(0.35)
    assert choose_threshold(labels, probabilities, "sensitivity", 0.6) == pytest.approx(0.65)
    assert choose_threshold(labels, probabilities, "specificity", 0.6) == pytest.approx(0.35)
    assert choose_threshold(labels, probabilities, "specificity", 1.0) == pytest.approx(0.65)


@pytest.mark.parametrize(("rule", "score"), [("youden", "balanced_accuracy"), ("accuracy",) * 2, ("f1",) * 2, ("mcc",) * 2])
def test_no_other_threshold_is_better_by_the_rule(rule, score):
    labels, probabilities = example(80, seed=3)
    chosen = classification_scores(labels, probabilities, choose_threshold(labels, probabilities, rule))[score]
    others = [classification_scores(labels, probabilities, cut)[score] for cut in np.linspace(0, 1.01, 203)]
    assert chosen == pytest.approx(max(others))
    assert chosen > classification_scores(labels, probabilities, 0.99)[score]


def test_thresholds_at_the_ends():
    # Nothing may be called malignant to keep every benign image, and the highest probability is 1.
    threshold = choose_threshold([0, 1], [1.0, 0.2], "specificity", 1.0)
    assert threshold > 1 and classification_scores([0, 1], [1.0, 0.2], threshold)["specificity"] == 1
    threshold = choose_threshold([0, 1], [0.9, 0.2], "sensitivity", 1.0)
    assert threshold <= 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best",), "rule is 'best'; expected one of youden"),
        (("youden", 0.9), "only sensitivity and specificity take one"),
        (("sensitivity",), "target None"),
        (("specificity", 90), "target is 90; expected a share"),
    ],
)
def test_bad_rules(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_threshold([0, 1], [0.2, 0.8], *arguments)


def test_a_threshold_needs_both_classes():
    with pytest.raises(DataError, match="all 3 images are malignant; expected both classes"):
        choose_threshold([1, 1, 1], [0.2, 0.3, 0.8])


def test_reliability_by_hand():
    table = reliability_table([0, 1, 1, 1], [0.1, 0.3, 0.34, 1.0], bins=10)
    assert table["images"].tolist() == [0, 1, 0, 2, 0, 0, 0, 0, 0, 1]  # an edge belongs to the bin above it, 1 to the last
    assert table.loc[3, ["low", "high", "predicted", "observed"]].tolist() == pytest.approx([0.3, 0.4, 0.32, 1.0])
    assert table.loc[0, ["predicted", "observed"]].isna().all()
    assert expected_calibration_error([0, 1, 1, 1], [0.1, 0.3, 0.34, 1.0]) == pytest.approx((0.1 + 2 * 0.68 + 0) / 4)


def test_reliability_bins_of_equal_count():
    labels, probabilities = example(200, digits=8)
    table = reliability_table(labels, probabilities, 5, equal="count")
    assert table["images"].tolist() == [40] * 5
    tied = reliability_table([0, 1, 0, 1], [0.0, 0.0, 0.0, 0.8], 4, equal="count")
    assert tied["images"].sum() == 4 and (tied["images"] > 0).all()
    with pytest.raises(ValueError, match="equal width or count"):
        reliability_table(labels, probabilities, 5, equal="size")


def test_temperature_is_the_one_that_made_them_too_sure():
    random = np.random.default_rng(0)
    right = 1.5 * random.normal(size=20_000)
    labels = random.random(20_000) < expit(right)
    assert fit_temperature(labels, 2.5 * right) == pytest.approx(2.5, abs=0.1)  # standard error about 0.04
    two = np.column_stack([np.full(20_000, 7.0), 7 + 2.5 * right])
    assert fit_temperature(labels, two) == pytest.approx(fit_temperature(labels, 2.5 * right), rel=1e-6)
    before, after = expit(2.5 * right), expit(2.5 * right / fit_temperature(labels, 2.5 * right))
    assert expected_calibration_error(labels, after) < 0.3 * expected_calibration_error(labels, before)
    assert (np.argsort(before) == np.argsort(after)).all()


def test_temperature_minimises_the_log_loss():
    labels, probabilities = example(digits=6)
    best = fit_temperature(labels, logit(probabilities))

    def loss(temperature):
        return reference.log_loss(labels, expit(logit(probabilities) / temperature))

    assert best > 1.2
    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01), loss(1.0))
    # The same number is the inverse slope of a logistic regression without a constant.
    slope = sm.Logit(labels, logit(probabilities)).fit(disp=0).params[0]
    assert best == pytest.approx(1 / slope, rel=1e-5)


def test_platt_agrees_with_scikit_learn_and_mends_a_shifted_prior():
    random = np.random.default_rng(4)
    truth = random.random(4000)
    labels = (random.random(4000) < truth).astype(int)
    shifted = (logit(truth) - 1.5) * 2  # trained as if malignant were rarer, and too sure
    found = fit_platt(labels, shifted)
    assert found.slope == pytest.approx(0.5, abs=0.05) and found.intercept == pytest.approx(1.5, abs=0.15)  # 3 standard errors
    slope, intercept = _sigmoid_calibration(shifted, labels)
    assert (found.slope, found.intercept) == pytest.approx((-slope, -intercept), rel=1e-3)
    after = found(shifted)
    assert expected_calibration_error(labels, after) < 0.03 < expected_calibration_error(labels, expit(shifted))
    assert after.mean() == pytest.approx(labels.mean(), abs=1e-3)
    scaled = expit(shifted / fit_temperature(labels, shifted))
    assert abs(scaled.mean() - labels.mean()) > 0.1, "a temperature cannot"


def test_platt_is_never_certain_nor_turned_round():
    apart = fit_platt([0, 0, 1, 1], [-2.0, -1, 1, 2])
    assert apart(np.array([-2.0, 2.0])) == pytest.approx([0.25, 0.75], abs=0.05) and apart.slope > 0
    turned = fit_platt([1, 1, 0, 0, 0], [-2.0, -1, 1, 2, 3])
    assert turned.slope == 0 and turned(np.array([-5.0, 5.0])) == pytest.approx([(2 * 3 / 4 + 3 / 5) / 5] * 2)
    assert fit_platt([0, 1, 1], [1.0, 1.0, 1.0])(1.0) == pytest.approx((1 / 3 + 2 * 3 / 4) / 3)
    alike = fit_platt([0, 1] * 30, [0.1] * 60)  # whose SD is not 0 but for rounding
    assert alike(np.array([0.0999, 0.1, 0.100001])) == pytest.approx([0.5] * 3)
    with pytest.raises(DataError, match="fit_platt"):
        fit_platt([1, 1], [0.3, 2])
    with pytest.raises(ValueError, match="finite"):
        fit_platt([0, 1], [0.3, np.inf])


def test_temperature_at_its_bounds_and_bad_input():
    assert fit_temperature([0, 0, 1, 1], [-2.0, -1, 1, 2]) == pytest.approx(0.05, rel=1e-4)
    assert fit_temperature([1, 1, 0, 0], [-2.0, -1, 1, 2]) == pytest.approx(20, rel=1e-4)
    with pytest.raises(DataError, match="both classes"):
        fit_temperature([1, 1], [0.3, 2])
    with pytest.raises(ValueError, match="finite: False"):
        fit_temperature([0, 1], [0.3, np.inf])
    with pytest.raises(ValueError, match="shape \\(2, 3\\)"):
        fit_temperature([0, 1], np.zeros((2, 3)))


cases = strategies.lists(strategies.tuples(strategies.integers(0, 1), strategies.integers(0, 8)), min_size=1, max_size=30)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(cases)
def test_scores_of_any_images_stay_in_range_and_swap_with_the_classes(pairs):
    labels, probabilities = np.array(pairs).T[0], np.array(pairs).T[1] / 8
    scores = classification_scores(labels, probabilities, 0.45)
    for name, value in scores.items():
        if name not in ("calibration_slope", "calibration_intercept"):
            assert np.isnan(value) or (-1 if name == "mcc" else 0) - 1e-12 <= value <= 1 + 1e-12, name
    swapped = classification_scores(1 - labels, 1 - probabilities, 0.55)
    pairs = {"auc": "auc", "accuracy": "accuracy", "sensitivity": "specificity", "mcc": "mcc", "brier": "brier",
             "balanced_accuracy": "balanced_accuracy", "calibration_slope": "calibration_slope"}  # fmt: skip
    for name, other in pairs.items():
        assert scores[name] == pytest.approx(swapped[other], rel=1e-6, abs=1e-6, nan_ok=True), name
