"""Benign against malignant: scores of a threshold, scores of the ranking, curves, and the choice of the threshold.

An image is called malignant where its probability is at or above the threshold. A score that its data do not define is NaN,
never 0 or 1: an average or a comparison must not mistake "cannot be said" for "bad".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn import metrics as reference

from thyroid_utils.scores.metrics.calibration import expected_calibration_error, logit, recalibration
from thyroid_utils.scores.metrics.inputs import checked, need_both_classes

# Name in code → name in a table. In this order they are reported.
SCORES = {
    "auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "mcc": "MCC",
    "sensitivity_at_specificity": "sensitivity at fixed specificity",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
}
# A rate read off a curve may miss a wanted one by rounding only: 1 - 0.9 is a little below 0.1.
ROUNDING = 1e-9


def classification_scores(
    labels: Sequence[int], probabilities: Sequence[float], threshold: float = 0.5, *, specificity: float = 0.9, bins: int = 10
) -> dict[str, float]:
    """Every score of `SCORES` of one model on one set of images, each image counted once.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,).
        threshold: for accuracy, balanced_accuracy, sensitivity, specificity, precision, f1 and mcc; chosen on validation
            (`choose_threshold`) or 0.5, never on these images.
        specificity: the one at which `sensitivity_at_specificity` is read off the ROC curve of these very images: the highest
            sensitivity of any threshold whose specificity is at least this. It describes the ranking; a threshold for use is
            chosen on validation.
        bins: equal bins for `ece`.

    Returns:
        name → value. pr_auc is the average precision Σ (R_k − R_{k−1})·P_k; brier the mean of (p − y)²; ece, slope and
        intercept as in `thyroid_utils.scores.metrics.calibration`. NaN where undefined:

        - sensitivity without a malignant image, specificity without a benign one, precision where nothing is called malignant,
          f1 where there is no malignant image and none is called so;
        - with one class only: balanced_accuracy, mcc, auc, pr_auc, sensitivity_at_specificity, slope and intercept;
        - slope also where a threshold separates the classes without error: its likelihood has no maximum.

        mcc is 0 where both classes are present and all images are called the same: such calls carry no correlation.

    Raises:
        ValueError: no image, labels other than 0 and 1, probabilities outside [0, 1] or NaN, or lengths that differ.
    """
    truth, values = checked(labels, probabilities, "classification_scores")
    scores = {name: float(value) for name, value in scores_from_counts(**confusion_counts(truth, values, threshold)).items()}
    scores["brier"] = float(np.mean((values - truth) ** 2))
    scores["ece"] = expected_calibration_error(truth, values, bins)
    slope, intercept = recalibration(truth, logit(values))
    scores["calibration_slope"], scores["calibration_intercept"] = float(slope[0]), float(intercept[0])
    if truth.any() and not truth.all():
        scores["auc"] = float(reference.roc_auc_score(truth, values))
        scores["pr_auc"] = float(reference.average_precision_score(truth, values))
        curve = roc_curve(truth, values)
        within = curve["false_positive_rate"] <= 1 - specificity + ROUNDING
        scores["sensitivity_at_specificity"] = float(curve.loc[within, "sensitivity"].max())
    return {name: scores.get(name, float("nan")) for name in SCORES}


def confusion_counts(labels: Sequence[int], probabilities: Sequence[float], threshold: float = 0.5) -> dict[str, int]:
    """true_positives, false_positives, false_negatives and true_negatives; positive is malignant, at or above the threshold."""
    truth, values = checked(labels, probabilities, "confusion_counts")
    if np.isnan(threshold):
        raise ValueError("confusion_counts: threshold is NaN; expected a number, such as choose_threshold gives")
    called = values >= threshold
    return {
        "true_positives": int((truth & called).sum()),
        "false_positives": int((~truth & called).sum()),
        "false_negatives": int((truth & ~called).sum()),
        "true_negatives": int((~truth & ~called).sum()),
    }


def scores_from_counts(
    true_positives: np.ndarray, false_positives: np.ndarray, false_negatives: np.ndarray, true_negatives: np.ndarray
) -> dict[str, np.ndarray]:
    """The scores of a 2×2 table: numbers, or arrays of one shape holding many tables. NaN as in `classification_scores`.

    MCC = (TP·TN − FP·FN) / √((TP+FP)(TP+FN)(TN+FP)(TN+FN)); F1 = 2TP / (2TP+FP+FN);
    balanced accuracy = (sensitivity + specificity) / 2.
    """
    tables = (true_positives, false_positives, false_negatives, true_negatives)
    tp, fp, fn, tn = (np.asarray(count, dtype=float) for count in tables)
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        # The root is taken of each pair: the product of four counts of a large set would lose digits.
        margins = np.sqrt((tp + fp) * (tn + fn)) * np.sqrt((tp + fn) * (tn + fp))
        correlation = np.where((tp + fp == 0) | (tn + fn == 0), 0.0, (tp * tn - fp * fn) / margins)
        return {
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": tp / (tp + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "mcc": np.where((tp + fn == 0) | (tn + fp == 0), np.nan, correlation),
        }


def roc_curve(labels: Sequence[int], probabilities: Sequence[float]) -> pd.DataFrame:
    """The ROC curve, every distinct probability a point, by falling `threshold`: `false_positive_rate`, `sensitivity`.

    The first point, (0, 0), has the threshold inf. Raises DataError with one class only.
    """
    truth, values = checked(labels, probabilities, "roc_curve")
    need_both_classes(truth, "roc_curve")
    false_positive_rate, sensitivity, thresholds = reference.roc_curve(truth, values, drop_intermediate=False)
    return pd.DataFrame({"threshold": thresholds, "false_positive_rate": false_positive_rate, "sensitivity": sensitivity})


def pr_curve(labels: Sequence[int], probabilities: Sequence[float]) -> pd.DataFrame:
    """The precision-recall curve, every distinct probability a point, by falling `threshold`: `recall`, `precision`.

    The first point, recall 0 and precision 1, is a convention with the threshold inf. Between points precision is a step, not a
    line. Raises DataError with one class only.
    """
    truth, values = checked(labels, probabilities, "pr_curve")
    need_both_classes(truth, "pr_curve")
    precision, recall, thresholds = reference.precision_recall_curve(truth, values)
    falling = {"threshold": np.append(thresholds, np.inf)[::-1], "recall": recall[::-1], "precision": precision[::-1]}
    return pd.DataFrame(falling)


def choose_threshold(
    labels: Sequence[int], probabilities: Sequence[float], rule: str = "youden", target: float | None = None
) -> float:
    """The threshold that a rule picks on validation images, to be applied to others unchanged.

    Args:
        labels: 0 benign, 1 malignant, shape (n,).
        probabilities: of malignancy, in [0, 1], shape (n,).
        rule: "youden" (highest sensitivity + specificity − 1), "accuracy", "f1" or "mcc" (highest), "sensitivity" (highest
            specificity among those that reach `target` sensitivity) or "specificity" (the other way round).
        target: wanted rate in [0, 1] for the rules "sensitivity" and "specificity"; no other rule takes one.

    Returns:
        a number halfway between two neighbouring probabilities, so that it does not lean on one image's value; of equally good
        ones that nearest to 0.5. Above the highest probability (nothing malignant) it may exceed 1 by rounding.

    Raises:
        DataError: one class only.
        ValueError: an unknown rule, or a target that is missing, out of range or not wanted.
    """
    truth, values = checked(labels, probabilities, "choose_threshold")
    rules = ("youden", "accuracy", "f1", "mcc", "sensitivity", "specificity")
    if rule not in rules:
        raise ValueError(f"choose_threshold: rule is {rule!r}; expected one of {', '.join(rules)}")
    if (rule in ("sensitivity", "specificity")) != (target is not None):
        raise ValueError(f"choose_threshold: rule {rule!r} with target {target}; only sensitivity and specificity take one")
    if target is not None and not 0 <= target <= 1:
        raise ValueError(f"choose_threshold: target is {target}; expected a share in [0, 1]")
    need_both_classes(truth, "choose_threshold")
    distinct = np.unique(values)
    above = (distinct[-1] + 1) / 2 if distinct[-1] < 1 else np.nextafter(1, 2)
    thresholds = np.concatenate([[distinct[0] / 2], (distinct[1:] + distinct[:-1]) / 2, [above]])
    tp = truth.sum() - np.searchsorted(np.sort(values[truth]), thresholds)
    fp = (~truth).sum() - np.searchsorted(np.sort(values[~truth]), thresholds)
    scores = scores_from_counts(tp, fp, truth.sum() - tp, (~truth).sum() - fp)
    if rule == "youden":
        quality = scores["balanced_accuracy"]
    elif target is None:
        quality = scores[rule]
    else:
        other = "specificity" if rule == "sensitivity" else "sensitivity"
        quality = np.where(scores[rule] >= target - ROUNDING, scores[other], -1.0)
    best = quality >= quality.max() - ROUNDING
    return float(min(thresholds[best], key=lambda threshold: abs(threshold - 0.5)))
